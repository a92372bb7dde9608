// The rates of a device that benchmarks are compared with: fused multiply-adds in registers, and copying.
#include "tesseral.cuh"

#define CHAINS 8
#define UNROLLED 16

// Each thread makes `rounds` · UNROLLED steps of CHAINS independent chains of multiply-adds.
extern "C" __global__ void __launch_bounds__(256) peak_multiply_adds(u32 rounds, real *out)
{
    // Not known to the compiler.
    const real factor = real(rounds) * real(1e-6);
    real sum[CHAINS];
#pragma unroll
    for (u32 k = 0; k < CHAINS; k++) sum[k] = real(threadIdx.x + k);
    for (u32 round = 0; round < rounds; round++) {
#pragma unroll
        for (u32 step = 0; step < UNROLLED; step++) {
#pragma unroll
            for (u32 k = 0; k < CHAINS; k++) sum[k] = sum[k] * factor + factor;
        }
    }
    real total = real(0);
#pragma unroll
    for (u32 k = 0; k < CHAINS; k++) total += sum[k];
    out[(size_t)blockIdx.x * 256 + threadIdx.x] = total;
}
