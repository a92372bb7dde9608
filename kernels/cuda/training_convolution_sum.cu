// The last step of the derivative of a convolution by its radial matrix: adds the parts that `training_convolution.cu` makes.
#include "tesseral.cuh"

// dw [rows][columns], overwritten, from parts [chunk][hidden][columns]. The parts of a chunk are those of `hidden` rows from its own first on; chunks are
// sorted by it, and those below chunks_before[r] start before row r. Without chunks_before all `chunks` start at row 0. Blocks of threads: (columns, row).
extern "C" __global__ void __launch_bounds__(128)
    training_matrix_sum(const u32 *__restrict__ chunks_before, const u32 *__restrict__ chunk_first, u32 chunks, u32 hidden, u32 columns,
                        const real *__restrict__ parts, real *__restrict__ dw) {
    const u32 column = blockIdx.x * 128 + threadIdx.x, row = blockIdx.y;
    if (column >= columns)
        return;
    const bool windows = chunks_before != nullptr;
    const u32 lowest = row + 1 > hidden ? row + 1 - hidden : 0;
    const u32 from = windows ? chunks_before[lowest] : 0, to = windows ? chunks_before[row + 1] : chunks;
    real sum = real(0);
    for (u32 chunk = from; chunk < to; chunk++) {
        const u32 k = row - (windows ? chunk_first[chunk] : 0);
        sum += parts[(size_t(chunk) * hidden + k) * columns + column];
    }
    dw[size_t(row) * columns + column] = sum;
}
