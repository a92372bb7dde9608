// Gates: a thread makes one activated scalar, or all components of one gated channel.
//
// The header lists blocks of channels: GATE_SCALARS of (first item, end, activation, factor), GATE_GATED of (first item, end, activation,
// factor, where the first gated channel starts in a row of the input, in a row of the output, channels from one component to the next,
// components). Items count scalars, then gates, as they lie in a row of the input, and blocks are in that order too; there are GATE_ITEMS, and rows
// of GATE_IN and GATE_OUT.
#include "tesseral.cuh"
#include "activation.cuh"

// y[n][GATE_OUT] from x[n][GATE_IN]
extern "C" __global__ void __launch_bounds__(256) gate(const real *x, real *y, u32 n) {
    const size_t index = (size_t)blockIdx.x * 256 + threadIdx.x;
    const size_t row = index / GATE_ITEMS;
    if (row >= n) return;
    const u32 item = (u32)(index - row * GATE_ITEMS);
    const real *in = x + row * GATE_IN;
    real *out = y + row * GATE_OUT;
    const real argument = in[item];
#define SCALAR(first, end, kind, factor) \
    if (item < end) out[item] = (real)(factor) * activation_value(kind, argument); \
    else
#define GATED(first, end, kind, factor, from, to, pitch, components) \
    if (item < end) { \
        const real a = (real)(factor) * activation_value(kind, argument); \
        for (u32 m = 0; m < components; m++) out[to + (item - first) + m * pitch] = in[from + (item - first) + m * pitch] * a; \
    } else
    GATE_SCALARS(SCALAR)
    GATE_GATED(GATED) {}
#undef SCALAR
#undef GATED
}

// dx[n][GATE_IN] from x and the cotangent g[n][GATE_OUT]
extern "C" __global__ void __launch_bounds__(256) gate_adjoint(const real *x, const real *g, real *dx, u32 n) {
    const size_t index = (size_t)blockIdx.x * 256 + threadIdx.x;
    const size_t row = index / GATE_ITEMS;
    if (row >= n) return;
    const u32 item = (u32)(index - row * GATE_ITEMS);
    const real *in = x + row * GATE_IN;
    const real *cotangent = g + row * GATE_OUT;
    real *out = dx + row * GATE_IN;
    const real argument = in[item];
#define SCALAR(first, end, kind, factor) \
    if (item < end) out[item] = (real)(factor) * activation_slope(kind, argument) * cotangent[item]; \
    else
#define GATED(first, end, kind, factor, from, to, pitch, components) \
    if (item < end) { \
        const real a = (real)(factor) * activation_value(kind, argument); \
        real sum = 0; \
        for (u32 m = 0; m < components; m++) { \
            const real of_output = cotangent[to + (item - first) + m * pitch]; \
            sum += of_output * in[from + (item - first) + m * pitch]; \
            out[from + (item - first) + m * pitch] = of_output * a; \
        } \
        out[item] = (real)(factor) * activation_slope(kind, argument) * sum; \
    } else
    GATE_SCALARS(SCALAR)
    GATE_GATED(GATED) {}
#undef SCALAR
#undef GATED
}

// (u . grad) y[n][GATE_OUT] from x and the direction u[n][GATE_IN]
extern "C" __global__ void __launch_bounds__(256) gate_tangent(const real *x, const real *u, real *dy, u32 n) {
    const size_t index = (size_t)blockIdx.x * 256 + threadIdx.x;
    const size_t row = index / GATE_ITEMS;
    if (row >= n) return;
    const u32 item = (u32)(index - row * GATE_ITEMS);
    const real *in = x + row * GATE_IN;
    const real *along = u + row * GATE_IN;
    real *out = dy + row * GATE_OUT;
    const real argument = in[item];
#define SCALAR(first, end, kind, factor) \
    if (item < end) out[item] = (real)(factor) * activation_slope(kind, argument) * along[item]; \
    else
#define GATED(first, end, kind, factor, from, to, pitch, components) \
    if (item < end) { \
        const real a = (real)(factor) * activation_value(kind, argument); \
        const real da = (real)(factor) * activation_slope(kind, argument) * along[item]; \
        for (u32 m = 0; m < components; m++) { \
            const u32 k = from + (item - first) + m * pitch; \
            out[to + (item - first) + m * pitch] = along[k] * a + in[k] * da; \
        } \
    } else
    GATE_SCALARS(SCALAR)
    GATE_GATED(GATED) {}
#undef SCALAR
#undef GATED
}

// The tangent along u[n][GATE_IN] of gate_adjoint, dx[n][GATE_IN], from x and the cotangent g[n][GATE_OUT]
extern "C" __global__ void __launch_bounds__(256) gate_adjoint_tangent(const real *x, const real *g, const real *u, real *dx, u32 n) {
    const size_t index = (size_t)blockIdx.x * 256 + threadIdx.x;
    const size_t row = index / GATE_ITEMS;
    if (row >= n) return;
    const u32 item = (u32)(index - row * GATE_ITEMS);
    const real *in = x + row * GATE_IN;
    const real *cotangent = g + row * GATE_OUT;
    const real *along = u + row * GATE_IN;
    real *out = dx + row * GATE_IN;
    const real argument = in[item];
#define SCALAR(first, end, kind, factor) \
    if (item < end) out[item] = (real)(factor) * activation_curvature(kind, argument) * cotangent[item] * along[item]; \
    else
#define GATED(first, end, kind, factor, from, to, pitch, components) \
    if (item < end) { \
        const real a1 = (real)(factor) * activation_slope(kind, argument); \
        const real da = a1 * along[item], da1 = (real)(factor) * activation_curvature(kind, argument) * along[item]; \
        real sum = 0; \
        for (u32 m = 0; m < components; m++) { \
            const u32 k = from + (item - first) + m * pitch; \
            const real of_output = cotangent[to + (item - first) + m * pitch]; \
            sum += of_output * (along[k] * a1 + in[k] * da1); \
            out[k] = of_output * da; \
        } \
        out[item] = sum; \
    } else
    GATE_SCALARS(SCALAR)
    GATE_GATED(GATED) {}
#undef SCALAR
#undef GATED
}
