// The density of MACE: a sum over edges of one radial function, and its derivative, for the `centers` centres from `center` on. One warp a centre.
#include "tesseral.cuh"
#include "radial.cuh"

#define BLOCK 128

extern "C" __global__ void __launch_bounds__(BLOCK)
    density_forward(const u32 *__restrict__ begin, const u32 *__restrict__ count, const u32 *__restrict__ pair,
                    const double *__restrict__ distance, const real *__restrict__ table, const u32 *__restrict__ of_pair,
                    const double *__restrict__ inverse_spacing, const u32 *__restrict__ intervals, const u32 *__restrict__ start,
                    u32 center, u32 centers, real *__restrict__ density) {
    const u32 i = blockIdx.x * (BLOCK / WARP) + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    if (i >= centers)
        return;
    const u32 first = begin[center + i], edges = count[center + i];
    real sum = real(0);
    for (u32 k = lane; k < edges; k += WARP) {
        u32 interval;
        real t;
        table_place(of_pair[pair[first + k]], distance[first + k], inverse_spacing, intervals, start, &interval, &t);
        sum += table_value(table + size_t(interval) * 6, 1, t);
    }
    sum = warp_sum(sum);
    if (lane == 0)
        density[i] = sum;
}

// dv[edge] += cotangent[centre] · slope · v/|v|.
extern "C" __global__ void __launch_bounds__(BLOCK)
    density_adjoint(const u32 *__restrict__ begin, const u32 *__restrict__ count, const u32 *__restrict__ pair,
                    const double *__restrict__ distance, const real *__restrict__ vector, const real *__restrict__ table,
                    const u32 *__restrict__ of_pair, const double *__restrict__ inverse_spacing, const u32 *__restrict__ intervals,
                    const u32 *__restrict__ start, const real *__restrict__ cotangent, u32 center, u32 centers, real *__restrict__ dv) {
    const u32 i = blockIdx.x * (BLOCK / WARP) + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    if (i >= centers)
        return;
    const u32 first = begin[center + i], edges = count[center + i];
    const real g = cotangent[i];
    for (u32 k = lane; k < edges; k += WARP) {
        const size_t e = first + k;
        const u32 of = of_pair[pair[e]];
        u32 interval;
        real t, slope;
        table_place(of, distance[e], inverse_spacing, intervals, start, &interval, &t);
        table_jet(table + size_t(interval) * 6, 1, t, &slope);
        const real along = g * slope * real(inverse_spacing[of] / distance[e]);
        for (u32 axis = 0; axis < 3; axis++)
            dv[3 * e + axis] += along * vector[3 * e + axis];
    }
}
