// Equivariant linear maps: products of matrices through shared memory, one for each component of an irrep.
//
// A block of threads makes TILE rows (atoms of one species) x COLUMNS channels of one component of one output block, and sums over all
// instructions into it, in order: every output has one owner. Sizes are arguments, so that all maps of a precision share one module.
#include "linear.cuh"

// Columns of an output block, of one component.
struct Job {
    u32 out_offset, width, first_part, parts;
};

// One instruction into a job: rows of `depth` channels from `in_offset`; the weights from `weight_offset` on, `pitch` from one row of the
// stored matrix to the next.
struct Part {
    u32 in_offset, depth, weight_offset, pitch;
};

// Atoms of one species: order[first .. first + count].
struct Tile {
    u32 species, first, count, unused;
};

// The weight of input channel k and output channel c is w[k pitch + c], or w[c pitch + k] of the TRANSPOSED map.
template <bool TRANSPOSED>
__device__ inline void apply(const real *x, real *y, const real *weights, const real *bias, const u32 *order, const u32 *tiles, const u32 *jobs,
                             const u32 *parts, u32 dim_in, u32 dim_out, u32 set_stride, u32 accumulate, real (*inputs)[PITCH],
                             real (*matrix)[PITCH]) {
    const Tile tile = reinterpret_cast<const Tile *>(tiles)[blockIdx.x];
    const Job job = reinterpret_cast<const Job *>(jobs)[blockIdx.y];
    const u32 t = threadIdx.x;
    const real *set = weights + (size_t)tile.species * set_stride;
    const u32 column = t % 16 * MINE_COLUMNS, row = t / 16 * MINE_ROWS;

    // Each thread fetches one channel of every eighth row, and of the matrix a part of a line as it lies in memory.
    const u32 fetch_k = t % DEPTH, fetch_row = t / DEPTH;
    size_t starts[TILE / 8];
    for (u32 r = 0; r < TILE / 8; r++) {
        const u32 k = fetch_row + 8 * r;
        // Rows beyond the last repeat it and are not stored.
        starts[r] = (size_t)order[tile.first + (k < tile.count ? k : tile.count - 1)] * dim_in;
    }

    real sums[MINE_ROWS][MINE_COLUMNS];
    for (u32 r = 0; r < MINE_ROWS; r++)
        for (u32 c = 0; c < MINE_COLUMNS; c++) sums[r][c] = 0;

    for (u32 p = 0; p < job.parts; p++) {
        const Part part = reinterpret_cast<const Part *>(parts)[job.first_part + p];
        const real *from = x + part.in_offset;
        const real *w = set + part.weight_offset;
        for (u32 k0 = 0; k0 < part.depth; k0 += DEPTH) {
            real next_inputs[TILE / 8], next_matrix[TILE / 8];
            for (u32 r = 0; r < TILE / 8; r++) next_inputs[r] = k0 + fetch_k < part.depth ? from[starts[r] + k0 + fetch_k] : (real)0;
            for (u32 r = 0; r < COLUMNS / 8; r++) {
                const u32 k = TRANSPOSED ? fetch_k : t / COLUMNS + 2 * r;
                const u32 c = TRANSPOSED ? fetch_row + 8 * r : t % COLUMNS;
                const size_t at = TRANSPOSED ? (size_t)c * part.pitch + k0 + k : (size_t)(k0 + k) * part.pitch + c;
                next_matrix[r] = k0 + k < part.depth && c < job.width ? w[at] : (real)0;
            }
            __syncthreads();
            for (u32 r = 0; r < TILE / 8; r++) inputs[fetch_k][fetch_row + 8 * r] = next_inputs[r];
            for (u32 r = 0; r < COLUMNS / 8; r++) {
                const u32 k = TRANSPOSED ? fetch_k : t / COLUMNS + 2 * r;
                const u32 c = TRANSPOSED ? fetch_row + 8 * r : t % COLUMNS;
                matrix[k][c] = next_matrix[r];
            }
            __syncthreads();
            multiply(inputs, matrix, row, column, sums);
        }
    }

    for (u32 r = 0; r < MINE_ROWS; r++) {
        if (row + r >= tile.count) continue;
        real *to = y + (size_t)order[tile.first + row + r] * dim_out + job.out_offset;
        for (u32 c = 0; c < MINE_COLUMNS; c++) {
            if (column + c >= job.width) continue;
            real value = sums[r][c];
            if (bias) value += bias[job.out_offset + column + c];
            to[column + c] = accumulate ? to[column + c] + value : value;
        }
    }
}

// Three blocks a multiprocessor: left to itself, the compiler spills for more of them.
// y (+)= L x + bias
extern "C" __global__ void __launch_bounds__(THREADS, 3) linear(
    const real *x, real *y, const real *weights, const real *bias, const u32 *order, const u32 *tiles, const u32 *jobs, const u32 *parts,
    u32 dim_in, u32 dim_out, u32 set_stride, u32 accumulate) {
    alignas(16) __shared__ real inputs[DEPTH][PITCH];
    alignas(16) __shared__ real matrix[DEPTH][PITCH];
    apply<false>(x, y, weights, bias, order, tiles, jobs, parts, dim_in, dim_out, set_stride, accumulate, inputs, matrix);
}

// y (+)= transposed L x
extern "C" __global__ void __launch_bounds__(THREADS, 3) linear_adjoint(
    const real *x, real *y, const real *weights, const real *bias, const u32 *order, const u32 *tiles, const u32 *jobs, const u32 *parts,
    u32 dim_in, u32 dim_out, u32 set_stride, u32 accumulate) {
    alignas(16) __shared__ real inputs[DEPTH][PITCH];
    alignas(16) __shared__ real matrix[DEPTH][PITCH];
    apply<true>(x, y, weights, bias, order, tiles, jobs, parts, dim_in, dim_out, set_stride, accumulate, inputs, matrix);
}
