// Steps on rows of features [row][dim]: one warp a row, so that every number has one owner and every sum one order.
#include "tesseral.cuh"

// Rows of a block of threads; threadIdx.x is the lane.
#define ROWS 8
#define ROW (blockIdx.x * ROWS + threadIdx.y)
#define FOR_COLUMNS(c) for (u32 c = threadIdx.x; c < dim; c += 32)

// y[i] = table[index[i]]
extern "C" __global__ void __launch_bounds__(32 * ROWS) take_rows(const real *table, const u32 *index, real *y, u32 n, u32 dim) {
    const u32 i = ROW;
    if (i >= n) return;
    const real *from = table + (size_t)index[i] * dim;
    real *to = y + (size_t)i * dim;
    FOR_COLUMNS(c) to[c] = from[c];
}

// y[i] += table[index[i]]
extern "C" __global__ void __launch_bounds__(32 * ROWS) add_rows(const real *table, const u32 *index, real *y, u32 n, u32 dim) {
    const u32 i = ROW;
    if (i >= n) return;
    const real *from = table + (size_t)index[i] * dim;
    real *to = y + (size_t)i * dim;
    FOR_COLUMNS(c) to[c] += from[c];
}

// y[i] += x[i]
extern "C" __global__ void __launch_bounds__(32 * ROWS) add(const real *x, real *y, u32 n, u32 dim) {
    const u32 i = ROW;
    if (i >= n) return;
    const real *from = x + (size_t)i * dim;
    real *to = y + (size_t)i * dim;
    FOR_COLUMNS(c) to[c] += from[c];
}

// y[i] *= factors[index[i]]
extern "C" __global__ void __launch_bounds__(32 * ROWS) scale_rows(const real *factors, const u32 *index, real *y, u32 n, u32 dim) {
    const u32 i = ROW;
    if (i >= n) return;
    const real factor = factors[index[i]];
    real *to = y + (size_t)i * dim;
    FOR_COLUMNS(c) to[c] *= factor;
}

// y[i] /= alpha + beta rho[i]
extern "C" __global__ void __launch_bounds__(32 * ROWS) divide_rows(const real *rho, real alpha, real beta, real *y, u32 n, u32 dim) {
    const u32 i = ROW;
    if (i >= n) return;
    const real factor = (real)1 / (rho[i] * beta + alpha);
    real *to = y + (size_t)i * dim;
    FOR_COLUMNS(c) to[c] *= factor;
}

// The adjoint of divide_rows at its result y: d_rho[i] = -beta / (alpha + beta rho[i]) sum g y, then g[i] /= alpha + beta rho[i].
extern "C" __global__ void __launch_bounds__(32 * ROWS) divide_rows_adjoint(
    const real *rho, real alpha, real beta, const real *y, real *g, real *d_rho, u32 n, u32 dim) {
    const u32 i = ROW;
    if (i >= n) return;
    const real factor = (real)1 / (rho[i] * beta + alpha);
    const real *value = y + (size_t)i * dim;
    real *to = g + (size_t)i * dim;
    real sum = 0;
    FOR_COLUMNS(c) {
        const real cotangent = to[c];
        sum += cotangent * value[c];
        to[c] = cotangent * factor;
    }
    sum = warp_sum(sum);
    if (threadIdx.x == 0) d_rho[i] = -beta * factor * sum;
}

// d[i] = sum a b
extern "C" __global__ void __launch_bounds__(32 * ROWS) dot_rows(const real *a, const real *b, real *d, u32 n, u32 dim) {
    const u32 i = ROW;
    if (i >= n) return;
    const real *left = a + (size_t)i * dim;
    const real *right = b + (size_t)i * dim;
    real sum = 0;
    FOR_COLUMNS(c) sum += left[c] * right[c];
    sum = warp_sum(sum);
    if (threadIdx.x == 0) d[i] = sum;
}

// seeds[i] = scale[species[i]]
extern "C" __global__ void __launch_bounds__(256) seeds(const double *scale, const u32 *species, real *to, u32 n) {
    const u32 i = blockIdx.x * 256 + threadIdx.x;
    if (i < n) to[i] = (real)scale[species[i]];
}

// energies[i] += scale[species[i]] read[i] + shift[species[i]]; without `shift`, nothing is shifted.
extern "C" __global__ void __launch_bounds__(256) add_energies(
    const double *read, const double *scale, const double *shift, const u32 *species, double *energies, u32 n) {
    const u32 i = blockIdx.x * 256 + threadIdx.x;
    if (i >= n) return;
    const u32 s = species[i];
    energies[i] += scale[s] * read[i] + (shift ? shift[s] : 0.0);
}
