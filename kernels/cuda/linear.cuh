// What products of matrices through shared memory have in common.
#pragma once
#include "tesseral.cuh"

#define TILE 64
#define COLUMNS 64
#define DEPTH 16
#define THREADS 128
// What a thread keeps of the tile.
#define MINE_ROWS 8
#define MINE_COLUMNS 4
// Padding keeps rows aligned for vector loads and spreads stores over the banks.
#define PITCH (TILE + 4)

// Adds to a thread's part of the tile the products of DEPTH lines of both matrices.
__device__ __forceinline__ void multiply(real (*inputs)[PITCH], real (*matrix)[PITCH], u32 row, u32 column, real (*sums)[MINE_COLUMNS]) {
#pragma unroll
    for (u32 k = 0; k < DEPTH; k++) {
        real a[MINE_ROWS], b[MINE_COLUMNS];
        for (u32 r = 0; r < MINE_ROWS; r++) a[r] = inputs[k][row + r];
        for (u32 c = 0; c < MINE_COLUMNS; c++) b[c] = matrix[k][column + c];
        for (u32 r = 0; r < MINE_ROWS; r++)
            for (u32 c = 0; c < MINE_COLUMNS; c++) sums[r][c] += a[r] * b[c];
    }
}
