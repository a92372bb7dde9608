// Symmetric contraction: the maps that training needs beside the polynomials and their gradients.
//
// Beside what `contraction.cu` takes, the header gives straight-line code in x, u (a direction), g (a cotangent) and d, C(e) and P(m, value):
// CONTRACTION_TANGENT, CONTRACTION_ADJOINT_TANGENT; and for each part of the coefficients a loop FOR_ATOMS { ATOM ... } or { ATOM_WITH_DIRECTION ... }, after
// which SUM(e, s) (the sum of coefficient e is s): CONTRACTION_COEFFICIENTS and CONTRACTION_TANGENT_COEFFICIENTS.
#include "contraction.cuh"

#define LOAD_U(a) const real u##a = along[(a) * CONTRACTION_CHANNELS];

// (u . grad) P
extern "C" __global__ void __launch_bounds__(32 * ATOMS) contraction_tangent(
    const real *__restrict__ x, const real *__restrict__ u, const real *__restrict__ coefficients, const u32 *__restrict__ order,
    const u32 *__restrict__ species, real *__restrict__ dy, u32 n) {
    CONTRACTION_START
    const real *__restrict__ along = u + (size_t)atom * (CONTRACTION_DIM * CONTRACTION_CHANNELS) + channel;
    real *__restrict__ out = dy + (size_t)atom * (CONTRACTION_OUTPUTS * CONTRACTION_CHANNELS) + channel;
    CONTRACTION_COMPONENTS(LOAD_X)
    CONTRACTION_COMPONENTS(LOAD_U)
    CONTRACTION_TANGENT
}

// grad <g, (u . grad) P>
extern "C" __global__ void __launch_bounds__(32 * ATOMS) contraction_adjoint_tangent(
    const real *__restrict__ x, const real *__restrict__ u, const real *__restrict__ coefficients, const u32 *__restrict__ order,
    const u32 *__restrict__ species, const real *__restrict__ g, real *__restrict__ dx, u32 n) {
    CONTRACTION_START
    const real *__restrict__ along = u + (size_t)atom * (CONTRACTION_DIM * CONTRACTION_CHANNELS) + channel;
    const real *__restrict__ cotangent = g + (size_t)atom * (CONTRACTION_OUTPUTS * CONTRACTION_CHANNELS) + channel;
    real *__restrict__ out = dx + (size_t)atom * (CONTRACTION_DIM * CONTRACTION_CHANNELS) + channel;
    CONTRACTION_COMPONENTS(LOAD_X)
    CONTRACTION_COMPONENTS(LOAD_U)
    CONTRACTION_RESULTS(LOAD_G)
    CONTRACTION_COMPONENTS(ZERO_D)
    CONTRACTION_ADJOINT_TANGENT
    CONTRACTION_COMPONENTS(STORE_D)
}

// Chunks of a block of threads: one warp each, for 32 channels and one part of the coefficients (blockIdx.y and z).
#define CHUNKS 4

// Atoms of one species: order[first .. first + count].
struct Chunk {
    u32 species, first, count, unused;
};

#define COEFFICIENTS_START \
    const u32 index = blockIdx.x * CHUNKS + threadIdx.y; \
    const u32 channel = blockIdx.y * 32 + threadIdx.x; \
    if (index >= n || channel >= CONTRACTION_CHANNELS) return; \
    const Chunk chunk = reinterpret_cast<const Chunk *>(chunks)[index]; \
    real *__restrict__ out = partial + (size_t)index * (CONTRACTION_ENTRIES * CONTRACTION_CHANNELS) + channel;

#define FOR_ATOMS for (u32 k = chunk.first; k < chunk.first + chunk.count; k++)
#define ATOM \
    const u32 atom = order[k]; \
    const real *__restrict__ in = x + (size_t)atom * (CONTRACTION_DIM * CONTRACTION_CHANNELS) + channel; \
    const real *__restrict__ cotangent = g + (size_t)atom * (CONTRACTION_OUTPUTS * CONTRACTION_CHANNELS) + channel; \
    CONTRACTION_COMPONENTS(LOAD_X) \
    CONTRACTION_RESULTS(LOAD_G)
#define ATOM_WITH_DIRECTION \
    ATOM \
    const real *__restrict__ along = u + (size_t)atom * (CONTRACTION_DIM * CONTRACTION_CHANNELS) + channel; \
    CONTRACTION_COMPONENTS(LOAD_U)

#define SUM(e, s) out[(e) * CONTRACTION_CHANNELS] = s;

// The derivative of <g, P> by the coefficients, of each chunk.
extern "C" __global__ void __launch_bounds__(32 * CHUNKS) contraction_coefficients(
    const real *__restrict__ x, const real *__restrict__ g, const u32 *__restrict__ order, const u32 *__restrict__ chunks,
    real *__restrict__ partial, u32 n) {
    COEFFICIENTS_START
    CONTRACTION_COEFFICIENTS
}

// The derivative of <g, (u . grad) P> by the coefficients, of each chunk.
extern "C" __global__ void __launch_bounds__(32 * CHUNKS) contraction_tangent_coefficients(
    const real *__restrict__ x, const real *__restrict__ u, const real *__restrict__ g, const u32 *__restrict__ order,
    const u32 *__restrict__ chunks, real *__restrict__ partial, u32 n) {
    COEFFICIENTS_START
    CONTRACTION_TANGENT_COEFFICIENTS
}
