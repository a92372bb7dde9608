// Symmetric contraction: polynomials in the components of an atom's features, one thread a channel, one species an atom.
//
// The header gives CONTRACTION_CHANNELS, CONTRACTION_DIM, CONTRACTION_OUTPUTS, CONTRACTION_ENTRIES (coefficients of a channel) and two bodies of
// straight-line code, written in X(a) (component a), C(e) (coefficient e), P(m, value) (output m is value), and for the adjoint
// CONTRACTION_LOAD_G, G(m) (cotangent of output m) and D(a, value) (cotangent of component a).
//
// blockIdx.x: atoms, in an order that puts those of a species side by side, so that a block finds its coefficients in the cache;
// blockIdx.y: 32 channels; blockIdx.z: part of the outputs.
#include "tesseral.cuh"

#define ATOMS 4

#define CONTRACTION_START \
    const u32 k = blockIdx.x * ATOMS + threadIdx.y; \
    const u32 channel = blockIdx.y * 32 + threadIdx.x; \
    if (k >= n || channel >= CONTRACTION_CHANNELS) return; \
    const u32 atom = order[k]; \
    const real *__restrict__ c = coefficients + (size_t)(species ? species[atom] : 0) * (CONTRACTION_ENTRIES * CONTRACTION_CHANNELS) + channel; \
    const real *__restrict__ in = x + (size_t)atom * (CONTRACTION_DIM * CONTRACTION_CHANNELS) + channel;

#define C(e) __ldg(c + (e) * CONTRACTION_CHANNELS)

extern "C" __global__ void __launch_bounds__(32 * ATOMS) contraction(
    const real *__restrict__ x, const real *__restrict__ coefficients, const u32 *__restrict__ order, const u32 *__restrict__ species,
    real *__restrict__ y, u32 n) {
    CONTRACTION_START
    real *__restrict__ out = y + (size_t)atom * (CONTRACTION_OUTPUTS * CONTRACTION_CHANNELS) + channel;
#define LOAD_X(a) const real x##a = in[(a) * CONTRACTION_CHANNELS];
#define P(m, value) out[(m) * CONTRACTION_CHANNELS] = value;
    CONTRACTION_COMPONENTS(LOAD_X)
    CONTRACTION_FORWARD
}

extern "C" __global__ void __launch_bounds__(32 * ATOMS) contraction_adjoint(
    const real *__restrict__ x, const real *__restrict__ coefficients, const u32 *__restrict__ order, const u32 *__restrict__ species,
    const real *__restrict__ g, real *__restrict__ dx, u32 n) {
    CONTRACTION_START
    const real *__restrict__ cotangent = g + (size_t)atom * (CONTRACTION_OUTPUTS * CONTRACTION_CHANNELS) + channel;
    real *__restrict__ out = dx + (size_t)atom * (CONTRACTION_DIM * CONTRACTION_CHANNELS) + channel;
#define LOAD_G(m) const real g##m = cotangent[(m) * CONTRACTION_CHANNELS];
#define ZERO_D(a) real d##a = 0;
#define STORE_D(a) out[(a) * CONTRACTION_CHANNELS] = d##a;
    CONTRACTION_COMPONENTS(LOAD_X)
    CONTRACTION_RESULTS(LOAD_G)
    CONTRACTION_COMPONENTS(ZERO_D)
    CONTRACTION_ADJOINT
    CONTRACTION_COMPONENTS(STORE_D)
}
