// The Ziegler-Biersack-Littmark repulsion with a polynomial envelope, exactly, in double.
#include "tesseral.cuh"

// One warp a centre. `constants`: (c, b) of four screening terms, then (strength, inverse length, cutoff, factor) of each pair of species.
extern "C" __global__ void __launch_bounds__(256) pairs(
    const u32 *begin, const u32 *count, const u32 *pair, const double *distance, const real *vector, const double *constants, u32 p,
    u32 atoms, double *energies, real *dv)
{
    const u32 i = blockIdx.x * 8 + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (i >= atoms) return;
    const u32 first = begin[i], edges = count[i];
    const double q = p, c0 = 0.5 * (q + 1.0) * (q + 2.0), c1 = q * (q + 2.0), c2 = 0.5 * q * (q + 1.0);
    double energy = 0.0;
    for (u32 k = lane; k < edges; k += 32) {
        const size_t a = first + k;
        const double *of_pair = constants + 8 + 4 * (size_t)pair[a];
        const double r = distance[a], inverse_length = of_pair[1], cutoff = of_pair[2], factor = of_pair[3];
        if (!(r < cutoff)) continue;
        double phi = 0.0, phi_slope = 0.0;
        for (u32 s = 0; s < 4; s++) {
            const double decay = -constants[2 * s + 1] * inverse_length, term = constants[2 * s] * exp(r * decay);
            phi += term;
            phi_slope += decay * term;
        }
        // 1 - x^p (c0 - x (c1 - x c2)) and its derivative, which is -c0 p x^(p-1) (1 - x)^2 / cutoff.
        const double x = r * (1.0 / cutoff);
        double power = 1.0;
        for (u32 k = 1; k < p; k++) power *= x;
        const double envelope = 1.0 - power * x * (c0 - x * (c1 - x * c2));
        const double envelope_slope = -q * c0 * power * (1.0 - x) * (1.0 - x) / cutoff;
        const double strength = of_pair[0] * factor / r;
        energy += strength * phi * envelope;
        const double slope = strength * (phi_slope * envelope + phi * envelope_slope - phi * envelope / r);
        const real *v = vector + 3 * a;
        real *d = dv + 3 * a;
#pragma unroll
        for (u32 x = 0; x < 3; x++) d[x] += (real)(slope / r * (double)v[x]);
    }
    for (u32 mask = 16; mask > 0; mask /= 2) energy += __shfl_xor_sync(FULL_MASK, energy, mask);
    if (lane == 0) energies[i] += energy;
}
