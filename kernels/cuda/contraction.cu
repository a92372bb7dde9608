// Symmetric contraction: polynomials in the components of an atom's features, one thread a channel, one species an atom.
//
// The header gives CONTRACTION_CHANNELS, CONTRACTION_DIM, CONTRACTION_OUTPUTS, CONTRACTION_ENTRIES (coefficients of a channel) and two bodies of
// straight-line code, written in x{a} (component a), C(e) (coefficient e), P(m, value) (output m is value), and for the adjoint g{m} (cotangent of
// output m) and d{a} (cotangent of component a).
//
// blockIdx.x: atoms, in an order that puts those of a species side by side, so that a block finds its coefficients in the cache;
// blockIdx.y: 32 channels; blockIdx.z: part of the outputs.
#include "contraction.cuh"

extern "C" __global__ void __launch_bounds__(32 * ATOMS) contraction(
    const real *__restrict__ x, const real *__restrict__ coefficients, const u32 *__restrict__ order, const u32 *__restrict__ species,
    real *__restrict__ y, u32 n) {
    CONTRACTION_START
    real *__restrict__ out = y + (size_t)atom * (CONTRACTION_OUTPUTS * CONTRACTION_CHANNELS) + channel;
    CONTRACTION_COMPONENTS(LOAD_X)
    CONTRACTION_FORWARD
}

extern "C" __global__ void __launch_bounds__(32 * ATOMS) contraction_adjoint(
    const real *__restrict__ x, const real *__restrict__ coefficients, const u32 *__restrict__ order, const u32 *__restrict__ species,
    const real *__restrict__ g, real *__restrict__ dx, u32 n) {
    CONTRACTION_START
    const real *__restrict__ cotangent = g + (size_t)atom * (CONTRACTION_OUTPUTS * CONTRACTION_CHANNELS) + channel;
    real *__restrict__ out = dx + (size_t)atom * (CONTRACTION_DIM * CONTRACTION_CHANNELS) + channel;
    CONTRACTION_COMPONENTS(LOAD_X)
    CONTRACTION_RESULTS(LOAD_G)
    CONTRACTION_COMPONENTS(ZERO_D)
    CONTRACTION_ADJOINT
    CONTRACTION_COMPONENTS(STORE_D)
}
