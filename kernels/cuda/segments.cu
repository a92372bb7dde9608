// Sums of rows over consecutive segments: one warp for a segment and up to 32 columns.
#include "tesseral.cuh"

// Segments of a block; threadIdx.x is the lane.
#define SEGMENTS 8

// to[s][c] = sum of x[i][c] over the rows i from offsets[s] to offsets[s + 1]. `width` is a power of two, and the columns that a warp takes side by
// side; where they are fewer than lanes, rows are summed in 32 / width parts, and those in a fixed order.
extern "C" __global__ void __launch_bounds__(32 * SEGMENTS) segment_sum(
    const real *__restrict__ x, const u32 *__restrict__ offsets, real *__restrict__ to, u32 n, u32 dim, u32 width) {
    const u32 s = blockIdx.x * SEGMENTS + threadIdx.y;
    if (s >= n) return;
    const u32 column = blockIdx.y * 32 + threadIdx.x % width;
    real sum = 0;
    if (column < dim) {
        const u32 end = offsets[s + 1];
        for (u32 i = offsets[s] + threadIdx.x / width; i < end; i += 32 / width) sum += x[(size_t)i * dim + column];
    }
    for (u32 distance = 16; distance >= width; distance /= 2) sum += __shfl_xor_sync(FULL_MASK, sum, distance);
    if (threadIdx.x < width && column < dim) to[(size_t)s * dim + column] = sum;
}
