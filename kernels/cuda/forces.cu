// From the derivative of the energy by edge vectors to forces and virials, and sums and minima over atoms. All in double, each number by one
// owner in an order that depends on the structure alone.
#include "tesseral.cuh"

#define INFINITE (1.0 / 0.0)

static __device__ __forceinline__ double over_lanes(double x)
{
    for (u32 mask = 16; mask > 0; mask /= 2) x += __shfl_xor_sync(FULL_MASK, x, mask);
    return x;
}

// One warp an atom: its force [N][3], and its part of the virial [N][9].
extern "C" __global__ void __launch_bounds__(256) forces(
    const u32 *begin, const u32 *count, const u32 *reverse, const real *vector, const real *dv, u32 atoms, double *force, double *virial)
{
    const u32 i = blockIdx.x * 8 + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (i >= atoms) return;
    const u32 first = begin[i], edges = count[i];
    double f[3] = {0.0, 0.0, 0.0}, w[9] = {0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0};
    for (u32 k = lane; k < edges; k += 32) {
        const size_t a = first + k;
        const real *here = dv + 3 * a, *back = dv + 3 * (size_t)reverse[a], *v = vector + 3 * a;
#pragma unroll
        for (u32 x = 0; x < 3; x++) {
            const double d = here[x];
            f[x] += d - (double)back[x];
#pragma unroll
            for (u32 y = 0; y < 3; y++) w[3 * y + x] += (double)v[y] * d;
        }
    }
#pragma unroll
    for (u32 x = 0; x < 3; x++) {
        const double total = over_lanes(f[x]);
        if (lane == 0) force[3 * (size_t)i + x] = total;
    }
#pragma unroll
    for (u32 x = 0; x < 9; x++) {
        const double total = over_lanes(w[x]);
        if (lane == 0) virial[9 * (size_t)i + x] = total;
    }
}

// One block a segment: out[s][c] = sum of values[begin[s]..begin[s+1]][c].
extern "C" __global__ void __launch_bounds__(256) segment_sums(const double *values, const u32 *begin, u32 width, double *out)
{
    __shared__ double part[256];
    const u32 s = blockIdx.x, t = threadIdx.x, first = begin[s], last = begin[s + 1];
    for (u32 c = 0; c < width; c++) {
        double total = 0.0;
        for (size_t i = (size_t)first + t; i < last; i += 256) total += values[i * width + c];
        part[t] = total;
        __syncthreads();
        for (u32 half = 128; half > 0; half /= 2) {
            if (t < half) part[t] += part[t + half];
            __syncthreads();
        }
        if (t == 0) out[(size_t)s * width + c] = part[0];
        __syncthreads();
    }
}

// One block a segment: the least of values[begin[s]..begin[s+1]], infinity for none.
extern "C" __global__ void __launch_bounds__(256) segment_minima(const double *values, const u32 *begin, double *out)
{
    __shared__ double part[256];
    const u32 s = blockIdx.x, t = threadIdx.x, first = begin[s], last = begin[s + 1];
    double least = INFINITE;
    for (size_t i = (size_t)first + t; i < last; i += 256) least = fmin(least, values[i]);
    part[t] = least;
    __syncthreads();
    for (u32 half = 128; half > 0; half /= 2) {
        if (t < half) part[t] = fmin(part[t], part[t + half]);
        __syncthreads();
    }
    if (t == 0) out[s] = part[0];
}
