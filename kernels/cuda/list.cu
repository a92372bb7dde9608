// The neighbour list of one structure. Atoms are wrapped into the cell and sorted into bins; each centre looks through the bins that its sphere
// reaches, image by image. Bins only propose: whether a pair is an edge is decided on the vector that is computed from the positions as given.
#include "tesseral.cuh"
#include "exact.cuh"

// What the host says about the grid: for each axis a row of the inverse cell, then numbers of the three axes. The coordinate of r along axis d is
// inverse[d] . r - middle[d], a fraction of the cell where the axis is periodic.
#define INVERSE 0
#define MIDDLE 9
#define LOWEST 12
#define BINS_PER_UNIT 15
#define REACH 18
#define BINS 21
#define PERIODIC 24

#define BEYOND_SHORT 1u
#define NO_REVERSE 2u

static __device__ __forceinline__ double coordinate(const double *grid, u32 d, const double *r)
{
    return grid[INVERSE + 3 * d] * r[0] + grid[INVERSE + 3 * d + 1] * r[1] + grid[INVERSE + 3 * d + 2] * r[2];
}

// Never decreases with x; clamps what lies outside.
static __device__ __forceinline__ u32 bin_of(const double *grid, u32 d, double x)
{
    const double bin = (x - grid[LOWEST + d]) * grid[BINS_PER_UNIT + d], last = grid[BINS + d] - 1.0;
    return bin < 0.0 ? 0 : (u32)(bin < last ? bin : last);
}

// For each block the least and greatest coordinates along the axes, and how many atoms are not at a finite place: [blocks][7].
extern "C" __global__ void __launch_bounds__(256) coordinate_ranges(const double *positions, const double *grid, u32 atoms, double *ranges)
{
    __shared__ double part[7][256];
    const u32 t = threadIdx.x;
    double low[3] = {1e300, 1e300, 1e300}, high[3] = {-1e300, -1e300, -1e300}, strange = 0.0;
    for (size_t i = (size_t)blockIdx.x * 256 + t; i < atoms; i += (size_t)gridDim.x * 256) {
        const double *r = positions + 3 * i;
        bool finite = true;
#pragma unroll
        for (u32 d = 0; d < 3; d++) {
            const double x = coordinate(grid, d, r);
            low[d] = fmin(low[d], x);
            high[d] = fmax(high[d], x);
            finite = finite && r[d] - r[d] == 0.0 && x - x == 0.0;
        }
        if (!finite) strange += 1.0;
    }
#pragma unroll
    for (u32 d = 0; d < 3; d++) {
        part[d][t] = low[d];
        part[3 + d][t] = high[d];
    }
    part[6][t] = strange;
    __syncthreads();
    for (u32 half = 128; half > 0; half /= 2) {
        if (t < half) {
            for (u32 d = 0; d < 3; d++) {
                part[d][t] = fmin(part[d][t], part[d][t + half]);
                part[3 + d][t] = fmax(part[3 + d][t], part[3 + d][t + half]);
            }
            part[6][t] += part[6][t + half];
        }
        __syncthreads();
    }
    if (t < 7) ranges[7 * blockIdx.x + t] = part[t][0];
}

// Wraps each atom: `coordinates` [N][3]; `cells` [N][3], how many cells it was moved down; `bin` [N]; and counts the atoms of each bin.
extern "C" __global__ void __launch_bounds__(256) wrap_atoms(
    const double *positions, const double *grid, u32 atoms, double *coordinates, int *cells, u32 *bin, u32 *in_bin)
{
    const size_t i = (size_t)blockIdx.x * 256 + threadIdx.x;
    if (i >= atoms) return;
    u32 place[3];
#pragma unroll
    for (u32 d = 0; d < 3; d++) {
        double x = coordinate(grid, d, positions + 3 * i) - grid[MIDDLE + d];
        int n = 0;
        if (grid[PERIODIC + d] != 0.0) {
            const double below = floor(x + 0.5);
            x = x + 0.5 - below;
            n = (int)below;
        }
        coordinates[3 * i + d] = x;
        cells[3 * i + d] = n;
        place[d] = bin_of(grid, d, x);
    }
    const u32 b = (place[2] * (u32)grid[BINS + 1] + place[1]) * (u32)grid[BINS] + place[0];
    bin[i] = b;
    atomicAdd(&in_bin[b], 1u);
}

// Exclusive sums within blocks of 1024, and the total of each block; one that is beyond 32 bits becomes the largest number there is.
extern "C" __global__ void __launch_bounds__(256) scan_blocks(const u32 *x, u32 n, u32 *sums, u32 *totals)
{
    __shared__ unsigned long long part[256];
    const u32 t = threadIdx.x;
    const size_t first = (size_t)blockIdx.x * 1024 + 4 * t;
    unsigned long long own[4], total = 0;
#pragma unroll
    for (u32 k = 0; k < 4; k++) {
        own[k] = total;
        total += first + k < n ? x[first + k] : 0;
    }
    part[t] = total;
    __syncthreads();
    for (u32 step = 1; step < 256; step *= 2) {
        const unsigned long long before = t >= step ? part[t - step] : 0;
        __syncthreads();
        part[t] += before;
        __syncthreads();
    }
    const unsigned long long before = t > 0 ? part[t - 1] : 0;
#pragma unroll
    for (u32 k = 0; k < 4; k++)
        if (first + k < n) sums[first + k] = (u32)(before + own[k]);
    if (t == 255) totals[blockIdx.x] = part[255] < 0xffffffffu ? (u32)part[255] : 0xffffffffu;
}

// One block: exclusive sums of the totals in place, and the sum of all, which may be beyond 32 bits.
extern "C" __global__ void __launch_bounds__(256) scan_totals(u32 *totals, u32 n, double *total)
{
    __shared__ unsigned long long part[256];
    const u32 t = threadIdx.x;
    unsigned long long carry = 0;
    for (u32 start = 0; start < n; start += 256) {
        const u32 mine = start + t < n ? totals[start + t] : 0;
        part[t] = mine;
        __syncthreads();
        for (u32 step = 1; step < 256; step *= 2) {
            const unsigned long long before = t >= step ? part[t - step] : 0;
            __syncthreads();
            part[t] += before;
            __syncthreads();
        }
        if (start + t < n) totals[start + t] = (u32)(carry + part[t] - mine);
        carry += part[255];
        __syncthreads();
    }
    if (t == 0) total[0] = (double)carry;
}

extern "C" __global__ void __launch_bounds__(256) add_totals(u32 *sums, u32 n, const u32 *totals)
{
    const size_t i = (size_t)blockIdx.x * 256 + threadIdx.x;
    if (i < n) sums[i] += totals[i / 1024];
}

// Atoms in the order of their bins. Which order they have within one does not matter: edges are sorted in the end.
extern "C" __global__ void __launch_bounds__(256) place_atoms(
    const double *positions, const int *cells, const u32 *bin, const u32 *bin_begin, u32 atoms, u32 *used, u32 *slot_atom,
    double *slot_position, int *slot_cells)
{
    const size_t i = (size_t)blockIdx.x * 256 + threadIdx.x;
    if (i >= atoms) return;
    const size_t slot = bin_begin[bin[i]] + atomicAdd(&used[bin[i]], 1u);
    slot_atom[slot] = (u32)i;
#pragma unroll
    for (u32 x = 0; x < 3; x++) {
        slot_position[3 * slot + x] = positions[3 * i + x];
        slot_cells[3 * slot + x] = cells[3 * i + x];
    }
}

// One warp a centre: counts its edges, or writes them from `begin[i]` on.
template <bool fill>
static __device__ __forceinline__ u32 search(u32 i, const double *positions, const double *cell, const double *grid, double squared_reach,
                                             const double *coordinates, const int *cells, const u32 *bin_begin, const u32 *slot_atom,
                                             const double *slot_position, const int *slot_cells, u32 first, u32 *neighbor, short *shift,
                                             u32 *problem)
{
    const u32 lane = threadIdx.x % 32;
    const double *r = positions + 3 * (size_t)i;
    const double x = r[0], y = r[1], z = r[2];
    double low[3], high[3];
    int from[3], to[3], own[3];
#pragma unroll
    for (u32 d = 0; d < 3; d++) {
        const double at = coordinates[3 * (size_t)i + d];
        low[d] = at - grid[REACH + d];
        high[d] = at + grid[REACH + d];
        own[d] = cells[3 * (size_t)i + d];
        from[d] = grid[PERIODIC + d] != 0.0 ? (int)floor(low[d]) : 0;
        to[d] = grid[PERIODIC + d] != 0.0 ? (int)floor(high[d]) : 0;
    }
    const u32 bins_x = (u32)grid[BINS], bins_y = (u32)grid[BINS + 1];
    u32 found = 0;
    for (int c = from[2]; c <= to[2]; c++) {
        const u32 first_z = bin_of(grid, 2, low[2] - c), last_z = bin_of(grid, 2, high[2] - c);
        for (int b = from[1]; b <= to[1]; b++) {
            const u32 first_y = bin_of(grid, 1, low[1] - b), last_y = bin_of(grid, 1, high[1] - b);
            for (int a = from[0]; a <= to[0]; a++) {
                const u32 first_x = bin_of(grid, 0, low[0] - a), last_x = bin_of(grid, 0, high[0] - a);
                for (u32 bin_z = first_z; bin_z <= last_z; bin_z++) {
                    for (u32 bin_y = first_y; bin_y <= last_y; bin_y++) {
                        const u32 row = (bin_z * bins_y + bin_y) * bins_x;
                        const u32 end = bin_begin[row + last_x + 1];
                        for (u32 start = bin_begin[row + first_x]; start < end; start += 32) {
                            const size_t slot = start + lane;
                            bool edge = false;
                            u32 j = 0;
                            int s0 = 0, s1 = 0, s2 = 0;
                            if (slot < end) {
                                j = slot_atom[slot];
                                s0 = a + own[0] - slot_cells[3 * slot];
                                s1 = b + own[1] - slot_cells[3 * slot + 1];
                                s2 = c + own[2] - slot_cells[3 * slot + 2];
                                const double *other = slot_position + 3 * slot;
                                const double vx = edge_component(x, other[0], cell, 0, s0, s1, s2);
                                const double vy = edge_component(y, other[1], cell, 1, s0, s1, s2);
                                const double vz = edge_component(z, other[2], cell, 2, s0, s1, s2);
                                edge = squared_length(vx, vy, vz) < squared_reach && !(j == i && s0 == 0 && s1 == 0 && s2 == 0);
                            }
                            const u32 ballot = __ballot_sync(FULL_MASK, edge);
                            if (fill && edge) {
                                const size_t e = (size_t)first + found + __popc(ballot & ((1u << lane) - 1));
                                neighbor[e] = j;
                                shift[3 * e] = (short)s0;
                                shift[3 * e + 1] = (short)s1;
                                shift[3 * e + 2] = (short)s2;
                                const int most = max(max(abs(s0), abs(s1)), abs(s2));
                                // Whoever writes writes the same.
                                if (most > 32767) *problem = BEYOND_SHORT;
                            }
                            found += __popc(ballot);
                        }
                    }
                }
            }
        }
    }
    return found;
}

extern "C" __global__ void __launch_bounds__(256, 2) count_edges(
    const double *positions, const double *cell, const double *grid, double squared_reach, u32 atoms, const double *coordinates,
    const int *cells, const u32 *bin_begin, const u32 *slot_atom, const double *slot_position, const int *slot_cells, u32 *count)
{
    const u32 i = blockIdx.x * 8 + threadIdx.x / 32;
    if (i >= atoms) return;
    const u32 found = search<false>(i, positions, cell, grid, squared_reach, coordinates, cells, bin_begin, slot_atom, slot_position, slot_cells,
                                    0, nullptr, nullptr, nullptr);
    if (threadIdx.x % 32 == 0) count[i] = found;
}

extern "C" __global__ void __launch_bounds__(256, 2) fill_edges(
    const double *positions, const double *cell, const double *grid, double squared_reach, u32 atoms, const double *coordinates,
    const int *cells, const u32 *bin_begin, const u32 *slot_atom, const double *slot_position, const int *slot_cells, const u32 *begin,
    u32 *neighbor, short *shift, u32 *problem)
{
    const u32 i = blockIdx.x * 8 + threadIdx.x / 32;
    if (i >= atoms) return;
    search<true>(i, positions, cell, grid, squared_reach, coordinates, cells, bin_begin, slot_atom, slot_position, slot_cells, begin[i], neighbor,
                 shift, problem);
}

// Whether the edge to j with one shift comes before that to k with another.
static __device__ __forceinline__ bool before(u32 j, const short *s, u32 k, int t0, int t1, int t2)
{
    if (j != k) return j < k;
    if (s[0] != t0) return s[0] < t0;
    if (s[1] != t1) return s[1] < t1;
    return s[2] < t2;
}

// One warp a centre: its edges by neighbour, then by shift. The place of each is the number of those before it.
extern "C" __global__ void __launch_bounds__(256) sort_edges(
    const u32 *begin, u32 atoms, const u32 *neighbor, const short *shift, u32 *sorted_neighbor, short *sorted_shift)
{
    const u32 i = blockIdx.x * 8 + threadIdx.x / 32;
    if (i >= atoms) return;
    const size_t first = begin[i], last = begin[i + 1];
    for (size_t e = first + threadIdx.x % 32; e < last; e += 32) {
        const u32 j = neighbor[e];
        const short s0 = shift[3 * e], s1 = shift[3 * e + 1], s2 = shift[3 * e + 2];
        size_t place = first;
        for (size_t f = first; f < last; f++) place += before(neighbor[f], shift + 3 * f, j, s0, s1, s2);
        sorted_neighbor[place] = j;
        sorted_shift[3 * place] = s0;
        sorted_shift[3 * place + 1] = s1;
        sorted_shift[3 * place + 2] = s2;
    }
}

// One warp a centre: finds the reverse of each of its edges in the row of the neighbour.
extern "C" __global__ void __launch_bounds__(256) find_reverse(
    const u32 *begin, u32 atoms, const u32 *neighbor, const short *shift, u32 *reverse, u32 *problem)
{
    const u32 i = blockIdx.x * 8 + threadIdx.x / 32;
    if (i >= atoms) return;
    for (size_t e = (size_t)begin[i] + threadIdx.x % 32; e < begin[i + 1]; e += 32) {
        const u32 j = neighbor[e];
        const int s0 = -shift[3 * e], s1 = -shift[3 * e + 1], s2 = -shift[3 * e + 2];
        size_t low = begin[j], high = begin[j + 1];
        while (low < high) {
            const size_t middle = low + (high - low) / 2;
            if (before(neighbor[middle], shift + 3 * middle, i, s0, s1, s2))
                low = middle + 1;
            else
                high = middle;
        }
        const bool same = low < begin[j + 1] && neighbor[low] == i && shift[3 * low] == s0 && shift[3 * low + 1] == s1 && shift[3 * low + 2] == s2;
        if (!same) *problem = NO_REVERSE;
        reverse[e] = same ? (u32)low : 0;
    }
}

// Whether an atom is as far as `limit` (squared) from where it was. One that has not moved is within any limit, NaN within none.
extern "C" __global__ void __launch_bounds__(256) find_moved(
    const double *positions, const double *reference, u32 atoms, double limit, u32 *moved)
{
    const size_t i = (size_t)blockIdx.x * 256 + threadIdx.x;
    if (i >= atoms) return;
    const double *r = positions + 3 * i, *s = reference + 3 * i;
    const double squared = squared_length(sum(s[0], -r[0]), sum(s[1], -r[1]), sum(s[2], -r[2]));
    if (!(squared < limit || squared == 0.0)) *moved = 1;
}
