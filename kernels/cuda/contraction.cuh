// What kernels of the symmetric contraction share: atoms, channels, and what generated code is written in.
#pragma once
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

#define LOAD_X(a) const real x##a = in[(a) * CONTRACTION_CHANNELS];
#define LOAD_G(m) const real g##m = cotangent[(m) * CONTRACTION_CHANNELS];
#define P(m, value) out[(m) * CONTRACTION_CHANNELS] = value;
#define ZERO_D(a) real d##a = 0;
#define STORE_D(a) out[(a) * CONTRACTION_CHANNELS] = d##a;
