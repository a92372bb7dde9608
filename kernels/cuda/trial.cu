// Small kernels that show a device works; see src/tests.rs.
#include "tesseral.cuh"

#define BLOCK 128

// y[i] += a x[i].
extern "C" __global__ void __launch_bounds__(BLOCK) trial_axpy(const real *__restrict__ x, real *__restrict__ y, real a, u32 n) {
    const u32 i = blockIdx.x * BLOCK + threadIdx.x;
    if (i < n)
        y[i] += a * x[i];
}

// sums[block] = Σ of the 128 elements of a block: over lanes by shuffles, over warps by way of shared memory, of one `real` a warp.
extern "C" __global__ void __launch_bounds__(BLOCK) trial_sums(const real *__restrict__ x, real *__restrict__ sums, u32 n) {
    TESSERAL_SHARED(real, parts);
    const u32 i = blockIdx.x * BLOCK + threadIdx.x, warp = threadIdx.x / WARP;
    const real sum = warp_sum(i < n ? x[i] : real(0));
    if (threadIdx.x % WARP == 0)
        parts[warp] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
        real total = real(0);
        for (u32 w = 0; w < BLOCK / WARP; w++)
            total += parts[w];
        sums[blockIdx.x] = total;
    }
}

// Transposes x [rows][columns] to y [columns][rows] by tiles of 32 × 32 in static shared memory; 32 × 8 threads a block.
extern "C" __global__ void __launch_bounds__(256) trial_transpose(const real *__restrict__ x, real *__restrict__ y, u32 rows, u32 columns) {
    __shared__ real tile[32][33];
    for (u32 k = threadIdx.y; k < 32; k += 8) {
        const u32 row = blockIdx.y * 32 + k, column = blockIdx.x * 32 + threadIdx.x;
        if (row < rows && column < columns)
            tile[k][threadIdx.x] = x[size_t(row) * columns + column];
    }
    __syncthreads();
    for (u32 k = threadIdx.y; k < 32; k += 8) {
        const u32 row = blockIdx.x * 32 + k, column = blockIdx.y * 32 + threadIdx.x;
        if (row < columns && column < rows)
            y[size_t(row) * rows + column] = tile[threadIdx.x][k];
    }
}

// Counts the positive elements: a ballot for each warp, an atomic sum of whole numbers over warps.
extern "C" __global__ void __launch_bounds__(BLOCK) trial_positive(const real *__restrict__ x, u32 *__restrict__ count, u32 n) {
    const u32 i = blockIdx.x * BLOCK + threadIdx.x;
    const u32 votes = __ballot_sync(FULL_MASK, i < n && x[i] > real(0));
    if (threadIdx.x % WARP == 0)
        atomicAdd(count, u32(__popc(votes)));
}

// Wrong on purpose, to test what the emulator says: the threads of a warp part at a barrier of the block.
extern "C" __global__ void __launch_bounds__(BLOCK) trial_divergent(u32 *__restrict__ y) {
    if (threadIdx.x % 2 == 0)
        __syncthreads();
    else
        __syncwarp();
    y[threadIdx.x] = 1;
}

// Wrong on purpose: reads what another thread writes, without a barrier between.
extern "C" __global__ void __launch_bounds__(BLOCK) trial_race(u32 *__restrict__ y) {
    TESSERAL_SHARED(u32, written);
    written[threadIdx.x] = threadIdx.x;
    y[threadIdx.x] = written[BLOCK - 1 - threadIdx.x];
}

// Wrong on purpose: writes behind the end of y, of n elements.
extern "C" __global__ void __launch_bounds__(BLOCK) trial_overrun(u32 *__restrict__ y, u32 n) {
    y[n + threadIdx.x] = 1;
}
