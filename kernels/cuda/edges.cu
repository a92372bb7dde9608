// The edges of a step: those of the neighbour list that lie within the cutoff of their pair of species, packed to the front of the segment of
// their centre in the order of the list.
#include "tesseral.cuh"
#include "exact.cuh"

#define NONE 0xffffffffu
#define INFINITE (1.0 / 0.0)

// One warp a centre. `slots` [listed]: where each listed edge went, or NONE.
extern "C" __global__ void __launch_bounds__(256) find_edges(
    const u32 *list_begin, const u32 *list_neighbor, const short *list_shift, const u32 *structure, const double *positions,
    const double *cells, const u32 *species, const double *squared_cutoffs, u32 num_species, u32 atoms, u32 *slots, u32 *begin, u32 *count,
    u32 *neighbor, u32 *pair, double *distance, real *vector, double *closest)
{
    const u32 i = blockIdx.x * 8 + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (i >= atoms) return;
    const u32 first = list_begin[i], last = list_begin[i + 1];
    const double *cell = cells + 9 * (size_t)structure[i];
    const double *center = positions + 3 * (size_t)i;
    const double x = center[0], y = center[1], z = center[2];
    const u32 of_center = species[i] * num_species;
    double nearest = INFINITE;
    u32 found = 0;
    for (u32 start = first; start < last; start += 32) {
        const u32 e = start + lane;
        bool active = false;
        u32 j = 0, of_pair = 0;
        double vx = 0.0, vy = 0.0, vz = 0.0, squared = 0.0;
        if (e < last) {
            j = list_neighbor[e];
            const short *shift = list_shift + 3 * (size_t)e;
            const double s0 = shift[0], s1 = shift[1], s2 = shift[2];
            const double *other = positions + 3 * (size_t)j;
            vx = edge_component(x, other[0], cell, 0, s0, s1, s2);
            vy = edge_component(y, other[1], cell, 1, s0, s1, s2);
            vz = edge_component(z, other[2], cell, 2, s0, s1, s2);
            squared = squared_length(vx, vy, vz);
            of_pair = of_center + species[j];
            nearest = fmin(nearest, squared);
            active = squared < squared_cutoffs[of_pair];
        }
        const u32 ballot = __ballot_sync(FULL_MASK, active);
        const u32 a = first + found + __popc(ballot & ((1u << lane) - 1));
        if (e < last) slots[e] = active ? a : NONE;
        if (active) {
            neighbor[a] = j;
            pair[a] = of_pair;
            distance[a] = sqrt(squared);
            real *v = vector + 3 * (size_t)a;
            v[0] = (real)vx;
            v[1] = (real)vy;
            v[2] = (real)vz;
        }
        found += __popc(ballot);
    }
    for (u32 mask = 16; mask > 0; mask /= 2) nearest = fmin(nearest, __shfl_xor_sync(FULL_MASK, nearest, mask));
    if (lane == 0) {
        begin[i] = first;
        if (i + 1 == atoms) begin[atoms] = last;
        count[i] = found;
        closest[i] = nearest;
    }
}

// One thread a listed edge; the list may be shorter than the launch.
extern "C" __global__ void __launch_bounds__(256)
reverse_edges(const u32 *list_begin, u32 atoms, const u32 *slots, const u32 *list_reverse, u32 *reverse)
{
    const size_t e = (size_t)blockIdx.x * 256 + threadIdx.x;
    if (e >= list_begin[atoms]) return;
    const u32 a = slots[e];
    if (a != NONE) reverse[a] = slots[list_reverse[e]];
}
