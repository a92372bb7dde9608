// The convolution for inference: out[i] = Σ over edges of i of (features of the neighbour) × (harmonics) × (radial functions).
//
// A block of threads has one centre, a warp 32 channels of one block of the features (an "item"), a lane one channel. Edges pass in tiles: for
// each edge of a tile the block puts the sums of harmonics that couple features to outputs into shared memory, T = Σ C·Y, and where the
// distance lies in the tables; then every warp goes over the tile with its sums in registers. What depends on the paths is generated, see
// ops::tensor_product::cuda: `Block0`, `Block1`, … with `forward`, `adjoint` and `pull` for one channel and one edge.
//
// Generated with them: HARMONICS of an edge, STRIDE between the sums T of two edges, made in CHUNKS parts, TILE edges, WARPS a block of threads,
// at least RESIDENT of those on a multiprocessor, ITEMS, MOST_COMPONENTS and MOST_OUTPUTS of a block of features, and VALUES, the number of
// derivatives by harmonics of degree 1 and up and by the place in the interval.
#include "tesseral.cuh"
#include "exchange.cuh"
#include "radial.cuh"

#define THREADS (WARPS * WARP)

// One edge of the tile for every lane.
struct Tile {
    real *sums;     // [TILE][STRIDE]
    real *t;        // [TILE]
    u32 *interval;  // [TILE]
    u32 *row;       // [TILE] of the features, or of cotangents
};

#define TILE_IN_SHARED_MEMORY(tile)                                                                                                        \
    alignas(16) __shared__ real shared_sums[TILE * STRIDE];                                                                                \
    __shared__ real shared_t[TILE];                                                                                                        \
    __shared__ u32 shared_interval[TILE], shared_row[TILE];                                                                                \
    const Tile tile = {shared_sums, shared_t, shared_interval, shared_row}

#define EDGE_PARAMETERS                                                                                                                    \
    const u32 *__restrict__ begin, const u32 *__restrict__ count, const u32 *__restrict__ neighbor, const u32 *__restrict__ pair,          \
        const double *__restrict__ distance, const real *__restrict__ vector
#define TABLE_PARAMETERS                                                                                                                   \
    const real *__restrict__ table, const u32 *__restrict__ of_pair, const double *__restrict__ inverse_spacing,                           \
        const u32 *__restrict__ intervals, const u32 *__restrict__ start

// Fills the tile from edges first..first+n. REVERSED: as the edges the other way round see them, among `species` species.
template <bool REVERSED>
static __device__ __forceinline__ void stage(const Tile &tile, u32 first, u32 n, u32 species, const u32 *__restrict__ index,
                                             const u32 *__restrict__ neighbor, const u32 *__restrict__ pair,
                                             const double *__restrict__ distance, const real *__restrict__ vector,
                                             const u32 *__restrict__ of_pair, const double *__restrict__ inverse_spacing,
                                             const u32 *__restrict__ intervals, const u32 *__restrict__ start) {
    const u32 warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    if (lane < n) {
        const u32 e = first + lane;
        if (warp < CHUNKS) {
            const real *v = vector + size_t(e) * 3;
            const real sign = REVERSED ? real(-1) : real(1);
            real y[HARMONICS];
            harmonics(sign * v[0], sign * v[1], sign * v[2], y);
            for (u32 chunk = warp; chunk < CHUNKS; chunk += WARPS)
                combine(chunk, y, tile.sums + lane * STRIDE);
        }
        if (warp == WARPS - 1) {
            u32 p = pair[e];
            if (REVERSED)
                p = p % species * species + p / species;
            table_place(of_pair[p], distance[e], inverse_spacing, intervals, start, tile.interval + lane, tile.t + lane);
            const u32 j = neighbor[e];
            tile.row[lane] = index != nullptr ? index[j] : j;
        }
    }
}

// The channel of a lane, and whether there is one: others go along with the last channel.
template <class Block> static __device__ __forceinline__ u32 channel_of(u32 slab, bool *exists) {
    const u32 channel = slab * WARP + threadIdx.x % WARP;
    *exists = channel < u32(Block::CHANNELS);
    return *exists ? channel : u32(Block::CHANNELS) - 1;
}

// Where the coefficients of the first column of a channel are.
static __device__ __forceinline__ const real *coefficients(const real *__restrict__ table, u32 interval, u32 channel) {
    return table + size_t(interval) * (6 * COLUMNS) + channel;
}

#ifdef PART_FORWARD

template <class Block>
static __device__ __forceinline__ void forward_tile(const Tile &tile, u32 n, u32 slab, const real *__restrict__ table,
                                                    const real *__restrict__ features, real *out) {
    bool exists;
    const u32 channel = channel_of<Block>(slab, &exists);
    for (u32 e = 0; e < n; e++) {
        real x[Block::COMPONENTS];
        Block::features(features, size_t(tile.row[e]) * DIM_IN + channel, x);
        Block::forward(x, tile.sums + e * STRIDE, coefficients(table, tile.interval[e], channel), tile.t[e], out);
    }
}

// out [centres][DIM_OUT], overwritten, of the centres from `center` on. Blocks of threads: (centre, WARPS items).
extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT)
    convolution_forward(EDGE_PARAMETERS, TABLE_PARAMETERS, const real *__restrict__ features, const u32 *__restrict__ index,
                        u32 center, real *__restrict__ out) {
    TILE_IN_SHARED_MEMORY(tile);
    const u32 i = blockIdx.x, item = blockIdx.y * WARPS + threadIdx.x / WARP;
    const u32 first = begin[center + i], edges = count[center + i];
    real sums[MOST_OUTPUTS];
#pragma unroll
    for (u32 k = 0; k < MOST_OUTPUTS; k++)
        sums[k] = real(0);
    for (u32 done = 0; done < edges; done += TILE) {
        const u32 n = min(edges - done, u32(TILE));
        if (done > 0)
            __syncthreads();
        stage<false>(tile, first + done, n, 0, index, neighbor, pair, distance, vector, of_pair, inverse_spacing, intervals, start);
        __syncthreads();
#define DO(Block, FIRST, COUNT)                                                                                                            \
    if (item - FIRST < COUNT)                                                                                                              \
        forward_tile<Block>(tile, n, item - FIRST, table, features, sums);
        BLOCKS(DO)
#undef DO
    }
#define DO(Block, FIRST, COUNT)                                                                                                            \
    if (item - FIRST < COUNT) {                                                                                                            \
        bool exists;                                                                                                                       \
        const u32 channel = channel_of<Block>(item - FIRST, &exists);                                                                      \
        if (exists)                                                                                                                        \
            Block::store(sums, out + size_t(i) * DIM_OUT + channel);                                                                       \
    }
    BLOCKS(DO)
#undef DO
}

#endif
#if defined(PART_ADJOINT) || defined(PART_FEATURES)

typedef Exchange<VALUES, 16> Butterfly;

template <class Block, bool FEATURES>
static __device__ __forceinline__ void adjoint_tile(const Tile &tile, u32 first, u32 n, u32 slab, const real *__restrict__ table,
                                                    const real *__restrict__ features, const real *__restrict__ cotangent, u32 room,
                                                    real *__restrict__ per_edge, real *parts, bool add) {
    bool exists;
    const u32 channel = channel_of<Block>(slab, &exists), lane = threadIdx.x % WARP;
    real g[Block::OUTPUTS];
    Block::load(cotangent + channel, g);
#pragma unroll
    for (u32 k = 0; k < Block::OUTPUTS; k++)
        g[k] = exists ? g[k] : real(0);
    u32 place = 0, size = VALUES;
    Butterfly::place(lane, &place, &size);
    for (u32 e = 0; e < n; e++) {
        real x[Block::COMPONENTS], dx[Block::COMPONENTS], values[VALUES];
        Block::features(features, size_t(tile.row[e]) * DIM_IN + channel, x);
        Block::adjoint(x, g, tile.sums + e * STRIDE, coefficients(table, tile.interval[e], channel), tile.t[e], dx, values);
        if (FEATURES && exists && first + e < room)
            Block::store_features(dx, per_edge + size_t(first + e) * DIM_IN + channel);
        Butterfly::run(values, lane);
#pragma unroll
        for (u32 k = 0; k < Butterfly::LEFT; k++) {
            if (k < size) {
                real *to = parts + e * VALUES + place + k;
                *to = add ? *to + values[k] : values[k];
            }
        }
    }
}

// dv [cap][3] += the derivative of Σ cotangent·out by the vectors, cotangent [centres][DIM_OUT] of the centres from `center` on. FEATURES: per_edge
// [room][DIM_IN] = the derivatives by the features that their edges read. One block of threads a centre.
template <bool FEATURES>
static __device__ __forceinline__ void adjoint(EDGE_PARAMETERS, TABLE_PARAMETERS, const real *__restrict__ features,
                                               const u32 *__restrict__ index, const real *__restrict__ cotangent, u32 center,
                                               real *__restrict__ dv, u32 room, real *__restrict__ per_edge) {
    TILE_IN_SHARED_MEMORY(tile);
    __shared__ real parts[WARPS * TILE * VALUES];
    const u32 i = blockIdx.x, warp = threadIdx.x / WARP;
    const u32 first = begin[center + i], edges = count[center + i], first_of_all = begin[center];
    for (u32 done = 0; done < edges; done += TILE) {
        const u32 n = min(edges - done, u32(TILE));
        stage<false>(tile, first + done, n, 0, index, neighbor, pair, distance, vector, of_pair, inverse_spacing, intervals, start);
        __syncthreads();
        for (u32 item = warp; item < ITEMS; item += WARPS) {
#define DO(Block, FIRST, COUNT)                                                                                                            \
    if (item - FIRST < COUNT)                                                                                                              \
        adjoint_tile<Block, FEATURES>(tile, first + done - first_of_all, n, item - FIRST, table, features, cotangent + size_t(i) * DIM_OUT, room,         \
                                      per_edge, parts + warp * (TILE * VALUES), item != warp);
            BLOCKS(DO)
#undef DO
        }
        __syncthreads();
        // Over warps, in their order; then one thread an edge goes from harmonics and distance to the vector.
        for (u32 k = threadIdx.x; k < n * VALUES; k += THREADS) {
            real sum = parts[k];
            for (u32 w = 1; w < WARPS; w++)
                sum += parts[w * (TILE * VALUES) + k];
            parts[k] = sum;
        }
        __syncthreads();
        if (threadIdx.x < n) {
            const size_t e = first + done + threadIdx.x;
            const real x = vector[3 * e], y = vector[3 * e + 1], z = vector[3 * e + 2];
            real g[VALUES], d[3];
#pragma unroll
            for (u32 k = 0; k < VALUES; k++)
                g[k] = parts[threadIdx.x * VALUES + k];
            harmonics_adjoint(x, y, z, g, d);
            const real along = g[VALUES - 1] * real(inverse_spacing[of_pair[pair[e]]] / distance[e]);
            dv[3 * e] += d[0] + along * x;
            dv[3 * e + 1] += d[1] + along * y;
            dv[3 * e + 2] += d[2] + along * z;
        }
    }
}

#endif
#ifdef PART_ADJOINT

extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT)
    convolution_adjoint(EDGE_PARAMETERS, TABLE_PARAMETERS, const real *__restrict__ features, const u32 *__restrict__ index,
                        const real *__restrict__ cotangent, u32 center, real *__restrict__ dv) {
    adjoint<false>(begin, count, neighbor, pair, distance, vector, table, of_pair, inverse_spacing, intervals, start, features, index,
                   cotangent, center, dv, 0, nullptr);
}

#endif
#ifdef PART_FEATURES

extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT)
    convolution_adjoint_features(EDGE_PARAMETERS, TABLE_PARAMETERS, const real *__restrict__ features, const u32 *__restrict__ index,
                                 const real *__restrict__ cotangent, u32 center, real *__restrict__ dv, u32 room,
                                 real *__restrict__ per_edge) {
    adjoint<true>(begin, count, neighbor, pair, distance, vector, table, of_pair, inverse_spacing, intervals, start, features, index,
                  cotangent, center, dv, room, per_edge);
}

// dx [N][DIM_IN] (+)= the sum of per_edge over those edges of the `centers` centres from `center` on that read the features of an atom: the reverses of
// its own. A thread has one column.
extern "C" __global__ void __launch_bounds__(256)
    convolution_gather(const u32 *__restrict__ begin, const u32 *__restrict__ count, const u32 *__restrict__ reverse,
                       const real *__restrict__ per_edge, u32 room, u32 center, u32 centers, u32 accumulate, real *__restrict__ dx) {
    const u32 j = blockIdx.x, column = blockIdx.y * 256 + threadIdx.x;
    if (column >= DIM_IN)
        return;
    real *to = dx + size_t(j) * DIM_IN + column;
    real sum = accumulate ? *to : real(0);
    if (USED(column)) {
        const u32 first = begin[j], edges = count[j], lower = begin[center], written = min(begin[center + centers] - lower, room);
#pragma unroll 4
        for (u32 k = 0; k < edges; k++) {
            const u32 e = reverse[first + k] - lower;
            if (e < written)
                sum += per_edge[size_t(e) * DIM_IN + column];
        }
    }
    *to = sum;
}

template <class Block>
static __device__ __forceinline__ void pull_tile(const Tile &tile, u32 n, u32 slab, const real *__restrict__ table,
                                                 const real *__restrict__ cotangent, real *dx) {
    bool exists;
    const u32 channel = channel_of<Block>(slab, &exists);
    for (u32 e = 0; e < n; e++) {
        real g[Block::OUTPUTS];
        Block::load(cotangent + size_t(tile.row[e]) * DIM_OUT + channel, g);
        Block::pull(g, tile.sums + e * STRIDE, coefficients(table, tile.interval[e], channel), tile.t[e], dx);
    }
}

// dx [N][DIM_IN], columns of blocks with paths overwritten: what the reverses of an atom's edges ask of its features, computed from cotangents.
extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT)
    convolution_pull(EDGE_PARAMETERS, TABLE_PARAMETERS, u32 species, const real *__restrict__ cotangent, real *__restrict__ dx) {
    TILE_IN_SHARED_MEMORY(tile);
    const u32 j = blockIdx.x, item = blockIdx.y * WARPS + threadIdx.x / WARP;
    const u32 first = begin[j], edges = count[j];
    real sums[MOST_COMPONENTS];
#pragma unroll
    for (u32 k = 0; k < MOST_COMPONENTS; k++)
        sums[k] = real(0);
    for (u32 done = 0; done < edges; done += TILE) {
        const u32 n = min(edges - done, u32(TILE));
        if (done > 0)
            __syncthreads();
        stage<true>(tile, first + done, n, species, nullptr, neighbor, pair, distance, vector, of_pair, inverse_spacing, intervals, start);
        __syncthreads();
#define DO(Block, FIRST, COUNT)                                                                                                            \
    if (item - FIRST < COUNT)                                                                                                              \
        pull_tile<Block>(tile, n, item - FIRST, table, cotangent, sums);
        BLOCKS(DO)
#undef DO
    }
#define DO(Block, FIRST, COUNT)                                                                                                            \
    if (item - FIRST < COUNT) {                                                                                                            \
        bool exists;                                                                                                                       \
        const u32 channel = channel_of<Block>(item - FIRST, &exists);                                                                      \
        if (exists)                                                                                                                        \
            Block::store_features(sums, dx + size_t(j) * DIM_IN + channel);                                                                \
    }
    BLOCKS(DO)
#undef DO
}

#endif
