// The derivative of linear maps by their weights: products of matrices over atoms, through shared memory.
//
// A block of threads makes TILE input channels x COLUMNS output channels of one instruction from one chunk of atoms of a species, summed over atoms
// and components in order. What chunks give is summed by `collect_parameters`.
#include "linear.cuh"

// Input channels from `in_offset` of the first component on, output channels from `out_offset` on; `inputs` and `outputs` of them. A component has
// `in_pitch` and `out_pitch` channels. The weights start at `weight_offset` in a set, with rows of `out_pitch`.
struct Job {
    u32 in_offset, out_offset, inputs, outputs, in_pitch, out_pitch, components, weight_offset;
};

// Atoms of one species: order[first .. first + count].
struct Chunk {
    u32 species, first, count, unused;
};

extern "C" __global__ void __launch_bounds__(THREADS, 3) linear_weights(
    const real *__restrict__ x, const real *__restrict__ g, real *__restrict__ partial, const u32 *__restrict__ order,
    const u32 *__restrict__ chunks, const u32 *__restrict__ jobs, u32 dim_in, u32 dim_out, u32 numel) {
    alignas(16) __shared__ real inputs[DEPTH][PITCH];
    alignas(16) __shared__ real matrix[DEPTH][PITCH];
    const Chunk chunk = reinterpret_cast<const Chunk *>(chunks)[blockIdx.x];
    const Job job = reinterpret_cast<const Job *>(jobs)[blockIdx.y];
    const u32 t = threadIdx.x, depth = chunk.count * job.components;
    const u32 column = t % 16 * MINE_COLUMNS, row = t / 16 * MINE_ROWS;
    const u32 fetch_c = t % TILE, fetch_k = t / TILE;

    real sums[MINE_ROWS][MINE_COLUMNS];
    for (u32 r = 0; r < MINE_ROWS; r++)
        for (u32 c = 0; c < MINE_COLUMNS; c++) sums[r][c] = 0;

    for (u32 k0 = 0; k0 < depth; k0 += DEPTH) {
        real next_inputs[DEPTH / 2], next_matrix[DEPTH / 2];
        for (u32 r = 0; r < DEPTH / 2; r++) {
            const u32 k = k0 + fetch_k + 2 * r;
            next_inputs[r] = next_matrix[r] = 0;
            if (k >= depth) continue;
            const u32 m = k % job.components;
            const size_t atom = order[chunk.first + k / job.components];
            if (fetch_c < job.inputs) next_inputs[r] = x[atom * dim_in + job.in_offset + m * job.in_pitch + fetch_c];
            if (fetch_c < job.outputs) next_matrix[r] = g[atom * dim_out + job.out_offset + m * job.out_pitch + fetch_c];
        }
        __syncthreads();
        for (u32 r = 0; r < DEPTH / 2; r++) {
            inputs[fetch_k + 2 * r][fetch_c] = next_inputs[r];
            matrix[fetch_k + 2 * r][fetch_c] = next_matrix[r];
        }
        __syncthreads();
        multiply(inputs, matrix, row, column, sums);
    }

    for (u32 r = 0; r < MINE_ROWS; r++)
        for (u32 c = 0; c < MINE_COLUMNS; c++)
            if (row + r < job.inputs && column + c < job.outputs)
                partial[(size_t)blockIdx.x * numel + job.weight_offset + (row + r) * job.out_pitch + column + c] = sums[r][c];
}
