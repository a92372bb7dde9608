// The convolution for training, on a fixed graph: out[i] = Σ over edges of i of (features of the neighbour) × (harmonics) × (radial weights), where the
// radial weights of an edge are its radial features times a matrix, and all derivatives of S = Σ cotangent·out; with ALONG = 1 those of P, the derivative
// of S along a direction of features, harmonics and radial features (see ops::tensor_product::tangent for the formulae).
//
// A warp has one set of edges, those of a centre, those that point to a neighbour or those of a chunk, and 32 channels of one block of the features (an
// "item"); a lane has one channel. Edges pass EDGES at a time through shared memory of the warp's own: sums T = Σ C·Y of harmonics, radial features, and
// radial weights or the derivatives by them, of which a lane touches its own alone. Warps do not wait for each other.
//
// What depends on the paths is generated, see ops::tensor_product::cuda::training: `Block0`, `Block1`, … with functions for one channel and one edge.
// Generated with them: STRIDE between the sums T of two edges, ITEMS, MOST_PATHS, MOST_COMPONENTS and MOST_OUTPUTS of a block of features, and the
// lengths DIM_IN, DIM_EDGE, DIM_OUT and COLUMNS of rows.
#include "tesseral.cuh"
#include "exchange.cuh"

#define THREADS 128
// What there is twice: values, and values along the direction.
#define COPIES (1 + ALONG)
// Numbers of radial weights between two edges, and between two copies.
#define RADIAL_EDGE (MOST_PATHS * WARP)
#define RADIAL_COPY (EDGES * RADIAL_EDGE)
#define SUMS_COPY (EDGES * STRIDE)

// Rows of atoms [features | cotangents | features'], rows of edges [harmonics | radial features | harmonics' | radial features'], as far as
// they are needed, rows of the matrix [COLUMNS], and the first of those of each edge, which is 0 without `first`.
struct Inputs {
    const u32 *first;
    const real *x;
    u32 x_stride;
    const real *q;
    u32 q_stride, hidden;
    const real *w;
};

#define INPUT_PARAMETERS                                                                                                                   \
    const u32 *__restrict__ first, const real *__restrict__ x, u32 x_stride, const real *__restrict__ q, u32 q_stride, u32 hidden,         \
        const real *__restrict__ w
#define INPUTS {first, x, x_stride, q, q_stride, hidden, w}

template <u32 N> static __device__ __forceinline__ void set_zero(real *v) {
#pragma unroll
    for (u32 k = 0; k < N; k++)
        v[k] = real(0);
}

// The channel of a lane, and whether there is one: others go along with the last channel.
template <class Block> static __device__ __forceinline__ u32 channel_of(u32 slab, bool *exists) {
    const u32 channel = slab * WARP + threadIdx.x % WARP;
    *exists = channel < u32(Block::CHANNELS);
    return *exists ? channel : u32(Block::CHANNELS) - 1;
}

// How many paths the block of an item has, the channel of the lane, and whether there is one.
static __device__ __forceinline__ bool paths_of(u32 item, u32 *paths, u32 *channel) {
    bool exists = false;
    *paths = *channel = 0;
#define DO(Block, FIRST, COUNT)                                                                                                            \
    if (item - FIRST < COUNT) {                                                                                                            \
        *paths = Block::PATHS;                                                                                                             \
        *channel = channel_of<Block>(item - FIRST, &exists);                                                                               \
    }
    BLOCKS(DO)
#undef DO
    return exists;
}

// The first column of the matrix of a path of the block of an item.
static __device__ __forceinline__ u32 column_of(u32 item, u32 p) {
    u32 column = 0;
#define DO(Block, FIRST, COUNT)                                                                                                            \
    if (item - FIRST < COUNT)                                                                                                              \
        column = Block::column(p);
    BLOCKS(DO)
#undef DO
    return column;
}

// The EDGES edges that a warp works on.
struct Tile {
    u32 lane;
    real *sums;      // [COPIES][EDGES][STRIDE]
    real *radial;    // [COPIES][EDGES][MOST_PATHS][WARP], from the number of the lane on
    real *features;  // [COPIES][hidden][EDGES]
    real *parts;     // [EDGES][DIM_EDGE + hidden]
    // Of the edge with the number of the lane.
    u32 edge, row, first;
};

static __device__ __forceinline__ Tile tile_of_warp(real *shared, u32 hidden) {
    const u32 warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    real *sums = shared + warp * (COPIES * EDGES * (STRIDE + MOST_PATHS * WARP + hidden) + EDGES * (DIM_EDGE + hidden));
    real *radial = sums + COPIES * SUMS_COPY, *features = radial + COPIES * RADIAL_COPY;
    return {lane, sums, radial + lane, features, features + COPIES * EDGES * hidden, 0, 0, 0};
}

// Takes up `n` edges: a lane below `n` has its `edge` and a `row` of atoms that belongs to it. Features of edges that are not there are zero.
static __device__ __forceinline__ void stage(const Inputs &in, Tile &tile, u32 n, u32 edge, u32 row) {
    tile.edge = edge;
    tile.row = row;
    tile.first = 0;
    __syncwarp();
    if (tile.lane < n) {
        if (in.first != nullptr)
            tile.first = in.first[edge];
#pragma unroll 1
        for (u32 copy = 0; copy < COPIES; copy++) {
            const real *from = in.q + size_t(edge) * in.q_stride + copy * (DIM_EDGE + in.hidden);
            real y[DIM_EDGE];
#pragma unroll
            for (u32 m = 0; m < DIM_EDGE; m++)
                y[m] = __ldg(from + m);
            combine(0, y, tile.sums + copy * SUMS_COPY + tile.lane * STRIDE);
        }
    }
#pragma unroll 1
    for (u32 s = 0; s < EDGES; s++) {
        const real *from = in.q + size_t(__shfl_sync(FULL_MASK, edge, s)) * in.q_stride + DIM_EDGE;
#pragma unroll
        for (u32 copy = 0; copy < COPIES; copy++) {
#pragma unroll 1
            for (u32 k = tile.lane; k < in.hidden; k += WARP)
                tile.features[(copy * in.hidden + k) * EDGES + s] = s < n ? __ldg(from + copy * (DIM_EDGE + in.hidden) + k) : real(0);
        }
    }
    __syncwarp();
}

// The radial weights of a channel in one column of the matrix, for all edges of the tile.
static __device__ __forceinline__ void make_radial(const Inputs &in, const Tile &tile, const real *column, const real *h, real *radial) {
    real sum[EDGES];
    set_zero<EDGES>(sum);
    if (in.first == nullptr) {
#pragma unroll 4
        for (u32 k = 0; k < in.hidden; k++) {
            const real weight = __ldg(column + size_t(k) * COLUMNS);
#pragma unroll
            for (u32 s = 0; s < EDGES; s++)
                sum[s] += h[k * EDGES + s] * weight;
        }
    } else {
#pragma unroll
        for (u32 s = 0; s < EDGES; s++) {
            const real *from = column + size_t(__shfl_sync(FULL_MASK, tile.first, s)) * COLUMNS;
#pragma unroll 1
            for (u32 k = 0; k < in.hidden; k++)
                sum[s] += h[k * EDGES + s] * __ldg(from + size_t(k) * COLUMNS);
        }
    }
#pragma unroll
    for (u32 s = 0; s < EDGES; s++)
        radial[s * RADIAL_EDGE] = sum[s];
}

// The radial weights of a lane for all paths of the block that the item belongs to.
static __device__ __forceinline__ void make_radial(const Inputs &in, const Tile &tile, u32 item) {
    u32 paths, channel;
    paths_of(item, &paths, &channel);
#pragma unroll 1
    for (u32 k = 0; k < COPIES * paths; k++) {
        const u32 copy = k < paths ? 0 : 1, p = k - copy * paths;
        make_radial(in, tile, in.w + column_of(item, p) + channel, tile.features + copy * in.hidden * EDGES,
                    tile.radial + copy * RADIAL_COPY + p * WARP);
    }
}

// Features of an atom, and along the direction.
template <class Block> static __device__ __forceinline__ void load_features(const Inputs &in, u32 row, u32 channel, real *x, real *x_along) {
    const size_t at = size_t(row) * in.x_stride + channel;
    Block::features(in.x, at, x);
    if (ALONG)
        Block::features(in.x, at + DIM_IN + DIM_OUT, x_along);
}

// The first, or the second.
template <u32 N> static __device__ __forceinline__ void select(bool second, const real *a, const real *b, real *v) {
#pragma unroll
    for (u32 k = 0; k < N; k++)
        v[k] = second ? b[k] : a[k];
}

template <class Block>
static __device__ __forceinline__ void forward(const Inputs &in, const Tile &tile, u32 n, u32 slab, real *out) {
    bool exists;
    const u32 channel = channel_of<Block>(slab, &exists);
#pragma unroll 1
    for (u32 s = 0; s < n; s++) {
        real x[Block::COMPONENTS], x_along[Block::COMPONENTS];
        load_features<Block>(in, __shfl_sync(FULL_MASK, tile.row, s), channel, x, x_along);
        const real *sums = tile.sums + s * STRIDE, *radial = tile.radial + s * RADIAL_EDGE;
        if (!ALONG) {
            Block::forward(x, sums, radial, out);
        } else {
            // R'·T·x + R·T·x' + R·T'·x.
#pragma unroll 1
            for (u32 term = 0; term < 3; term++) {
                real v[Block::COMPONENTS];
                select<Block::COMPONENTS>(term == 1, x, x_along, v);
                Block::forward(v, term == 2 ? sums + SUMS_COPY : sums, term == 0 ? radial + RADIAL_COPY : radial, out);
            }
        }
    }
}

template <class Block> static __device__ __forceinline__ void store(u32 slab, const real *out, real *__restrict__ row) {
    bool exists;
    const u32 channel = channel_of<Block>(slab, &exists);
    if (exists)
        Block::store(out, row + channel);
}

// Of S by cotangents, that is the convolution: out [N][DIM_OUT]; of P: the second part of rows [features | cotangents]. Blocks of threads: (centre, items).
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    training_forward(const u32 *__restrict__ begin, const u32 *__restrict__ neighbor, INPUT_PARAMETERS, real *__restrict__ out) {
    TESSERAL_SHARED(real, shared);
    const Inputs in = INPUTS;
    Tile tile = tile_of_warp(shared, hidden);
    const u32 i = blockIdx.x, item = (blockIdx.y * blockDim.x + threadIdx.x) / WARP, first_edge = begin[i], edges = begin[i + 1] - first_edge;
    real *row = ALONG ? out + size_t(i) * (DIM_IN + DIM_OUT) + DIM_IN : out + size_t(i) * DIM_OUT;
    if (item >= ITEMS)
        return;
    real sums[MOST_OUTPUTS];
    set_zero<MOST_OUTPUTS>(sums);
    for (u32 done = 0; done < edges; done += EDGES) {
        const u32 n = min(edges - done, u32(EDGES)), edge = first_edge + done + (tile.lane < n ? tile.lane : 0);
        stage(in, tile, n, edge, neighbor[edge]);
        make_radial(in, tile, item);
#define DO(Block, FIRST, COUNT)                                                                                                            \
        if (item - FIRST < COUNT)                                                                                                          \
            forward<Block>(in, tile, n, item - FIRST, sums);
        BLOCKS(DO)
#undef DO
    }
#define DO(Block, FIRST, COUNT)                                                                                                            \
    if (item - FIRST < COUNT)                                                                                                              \
        store<Block>(item - FIRST, sums, row);
    BLOCKS(DO)
#undef DO
}

template <class Block>
static __device__ __forceinline__ void by_features(const Inputs &in, const Tile &tile, u32 n, u32 slab, real *dx) {
    bool exists;
    const u32 channel = channel_of<Block>(slab, &exists);
#pragma unroll 1
    for (u32 s = 0; s < n; s++) {
        real g[Block::OUTPUTS];
        Block::load(in.x + size_t(__shfl_sync(FULL_MASK, tile.row, s)) * in.x_stride + DIM_IN + channel, g);
        const real *sums = tile.sums + s * STRIDE, *radial = tile.radial + s * RADIAL_EDGE;
        // With ALONG R'·T·g + R·T'·g.
#pragma unroll 1
        for (u32 term = 0; term < COPIES; term++)
            Block::pull(g, sums + term * SUMS_COPY, radial + (COPIES - 1 - term) * RADIAL_COPY, dx);
    }
}

template <class Block> static __device__ __forceinline__ void store_features(u32 slab, const real *dx, real *__restrict__ row) {
    bool exists;
    const u32 channel = channel_of<Block>(slab, &exists);
    if (exists)
        Block::store_features(dx, row + channel);
}

// By features: dx [N][DIM_IN], of P the first part of rows [features | cotangents]; columns of blocks without paths are left. Blocks of threads:
// (neighbour, items). The edges that point to an atom are the reverses of its own, from whose neighbours they come.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    training_features(const u32 *__restrict__ begin, const u32 *__restrict__ neighbor, const u32 *__restrict__ reverse, INPUT_PARAMETERS,
                      real *__restrict__ dx) {
    TESSERAL_SHARED(real, shared);
    const Inputs in = INPUTS;
    Tile tile = tile_of_warp(shared, hidden);
    const u32 j = blockIdx.x, item = (blockIdx.y * blockDim.x + threadIdx.x) / WARP, first_edge = begin[j], edges = begin[j + 1] - first_edge;
    real *row = dx + size_t(j) * (ALONG ? DIM_IN + DIM_OUT : DIM_IN);
    if (item >= ITEMS)
        return;
    real sums[MOST_COMPONENTS];
    set_zero<MOST_COMPONENTS>(sums);
    for (u32 done = 0; done < edges; done += EDGES) {
        const u32 n = min(edges - done, u32(EDGES)), place = first_edge + done + (tile.lane < n ? tile.lane : 0);
        stage(in, tile, n, reverse[place], neighbor[place]);
        make_radial(in, tile, item);
#define DO(Block, FIRST, COUNT)                                                                                                            \
        if (item - FIRST < COUNT)                                                                                                          \
            by_features<Block>(in, tile, n, item - FIRST, sums);
        BLOCKS(DO)
#undef DO
    }
#define DO(Block, FIRST, COUNT)                                                                                                            \
    if (item - FIRST < COUNT)                                                                                                              \
        store_features<Block>(item - FIRST, sums, row);
    BLOCKS(DO)
#undef DO
}

// The derivatives by the radial weights of a channel, added: by R, and of P by R'.
template <class Block>
static __device__ __forceinline__ void by_radial(const Tile &tile, u32 s, const real *x, const real *x_along, const real *g, real *dr) {
    const real *sums = tile.sums + s * STRIDE;
    if (!ALONG) {
        Block::by_radial(x, g, sums, dr);
    } else {
        // x'·T·g + x·T'·g.
#pragma unroll 1
        for (u32 term = 0; term < 2; term++) {
            real v[Block::COMPONENTS];
            select<Block::COMPONENTS>(term == 0, x, x_along, v);
            Block::by_radial(v, g, sums + term * SUMS_COPY, dr);
        }
    }
}

template <class Block>
static __device__ __forceinline__ void by_edges(const Inputs &in, const Tile &tile, u32 n, u32 slab, const real *__restrict__ cotangent) {
    typedef Exchange<DIM_EDGE, 16> OverHarmonics;
    bool exists;
    const u32 channel = channel_of<Block>(slab, &exists), width = DIM_EDGE + in.hidden;
    real g[Block::OUTPUTS];
    Block::load(cotangent + channel, g);
#pragma unroll
    for (u32 k = 0; k < Block::OUTPUTS; k++)
        g[k] = exists ? g[k] : real(0);
    u32 place = 0, size = DIM_EDGE;
    OverHarmonics::place(tile.lane, &place, &size);
#pragma unroll 1
    for (u32 s = 0; s < n; s++) {
        real x[Block::COMPONENTS], x_along[Block::COMPONENTS], dy[DIM_EDGE], dr[Block::PATHS];
        load_features<Block>(in, __shfl_sync(FULL_MASK, tile.row, s), channel, x, x_along);
        real *radial = tile.radial + s * RADIAL_EDGE;
        set_zero<DIM_EDGE>(dy);
        // With ALONG (R'·x + R·x')·g.
#pragma unroll 1
        for (u32 term = 0; term < COPIES; term++) {
            real v[Block::COMPONENTS];
            select<Block::COMPONENTS>(ALONG && term == 0, x, x_along, v);
            Block::by_harmonics(v, g, radial + term * RADIAL_COPY, dy);
        }
        OverHarmonics::run(dy, tile.lane);
#pragma unroll
        for (u32 k = 0; k < OverHarmonics::LEFT; k++) {
            if (k < size)
                tile.parts[s * width + place + k] += dy[k];
        }
        set_zero<Block::PATHS>(dr);
        by_radial<Block>(tile, s, x, x_along, g, dr);
#pragma unroll
        for (u32 p = 0; p < Block::PATHS; p++)
            radial[p * WARP] = dr[p];
    }
}

// The matrix takes derivatives by radial weights to those by radial features, which are added.
static __device__ __forceinline__ void by_radial_features(const Inputs &in, const Tile &tile, u32 item) {
    typedef Exchange<EDGES, 16> OverEdges;
    u32 place = 0, size = EDGES, paths, channel;
    const u32 width = DIM_EDGE + in.hidden;
    OverEdges::place(tile.lane, &place, &size);
    paths_of(item, &paths, &channel);
#pragma unroll 1
    for (u32 k = 0; k < in.hidden; k++) {
        real sum[EDGES];
        set_zero<EDGES>(sum);
#pragma unroll 1
        for (u32 p = 0; p < paths; p++) {
            const real *from = in.w + size_t(k) * COLUMNS + column_of(item, p) + channel, *dr = tile.radial + p * WARP;
            if (in.first == nullptr) {
                const real weight = __ldg(from);
#pragma unroll
                for (u32 s = 0; s < EDGES; s++)
                    sum[s] += dr[s * RADIAL_EDGE] * weight;
            } else {
#pragma unroll
                for (u32 s = 0; s < EDGES; s++)
                    sum[s] += dr[s * RADIAL_EDGE] * __ldg(from + size_t(__shfl_sync(FULL_MASK, tile.first, s)) * COLUMNS);
            }
        }
        OverEdges::run(sum, tile.lane);
#pragma unroll
        for (u32 l = 0; l < OverEdges::LEFT; l++) {
            if (l < size)
                tile.parts[(place + l) * width + DIM_EDGE + k] += sum[l];
        }
    }
}

// By harmonics and radial features: dq [E][DIM_EDGE + hidden]. A block of threads has a centre, and a warp some of its edges with all items.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    training_edges(const u32 *__restrict__ begin, const u32 *__restrict__ neighbor, INPUT_PARAMETERS, real *__restrict__ dq) {
    TESSERAL_SHARED(real, shared);
    const Inputs in = INPUTS;
    Tile tile = tile_of_warp(shared, hidden);
    const u32 i = blockIdx.x, first_edge = begin[i], edges = begin[i + 1] - first_edge, width = DIM_EDGE + hidden;
    const real *cotangent = x + size_t(i) * x_stride + DIM_IN;
    for (u32 done = threadIdx.x / WARP * EDGES; done < edges; done += blockDim.x / WARP * EDGES) {
        const u32 n = min(edges - done, u32(EDGES)), edge = first_edge + done + (tile.lane < n ? tile.lane : 0);
        stage(in, tile, n, edge, neighbor[edge]);
        for (u32 k = tile.lane; k < EDGES * width; k += WARP)
            tile.parts[k] = real(0);
        __syncwarp();
#pragma unroll 1
        for (u32 item = 0; item < ITEMS; item++) {
            make_radial(in, tile, item);
#define DO(Block, FIRST, COUNT)                                                                                                            \
            if (item - FIRST < COUNT)                                                                                                      \
                by_edges<Block>(in, tile, n, item - FIRST, cotangent);
            BLOCKS(DO)
#undef DO
            by_radial_features(in, tile, item);
        }
        __syncwarp();
        real *to = dq + (first_edge + done) * size_t(width);
        for (u32 k = tile.lane; k < n * width; k += WARP)
            to[k] = tile.parts[k];
    }
}

// The derivatives by radial weights of an item, zero for edges that are not there; lanes have an atom `i` that is the centre of their edge.
template <class Block>
static __device__ __forceinline__ void by_weights(const Inputs &in, const Tile &tile, u32 n, u32 slab, u32 i) {
    bool exists;
    const u32 channel = channel_of<Block>(slab, &exists);
#pragma unroll 1
    for (u32 s = 0; s < EDGES; s++) {
        real dr[COPIES * Block::PATHS];
        set_zero<COPIES * Block::PATHS>(dr);
        if (s < n) {
            real x[Block::COMPONENTS], x_along[Block::COMPONENTS], g[Block::OUTPUTS];
            load_features<Block>(in, __shfl_sync(FULL_MASK, tile.row, s), channel, x, x_along);
            Block::load(in.x + size_t(__shfl_sync(FULL_MASK, i, s)) * in.x_stride + DIM_IN + channel, g);
            by_radial<Block>(tile, s, x, x_along, g, dr);
            if (ALONG)
                Block::by_radial(x, g, tile.sums + s * STRIDE, dr + (COPIES - 1) * Block::PATHS);
        }
#pragma unroll
        for (u32 k = 0; k < COPIES * Block::PATHS; k++)
            tile.radial[k / Block::PATHS * RADIAL_COPY + s * RADIAL_EDGE + k % Block::PATHS * WARP] = dr[k];
    }
}

// By the matrix, in parts: [chunk][hidden][COLUMNS], sums over the edges of a chunk, which start at the same row: edges chunk_begin[chunk] to
// chunk_begin[chunk + 1] of `order`, or of all without it. Blocks of threads: (chunk, items).
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    training_matrix(const u32 *__restrict__ chunk_begin, const u32 *__restrict__ order, const u32 *__restrict__ center,
                    const u32 *__restrict__ neighbor, INPUT_PARAMETERS, real *__restrict__ parts) {
    TESSERAL_SHARED(real, shared);
    const Inputs in = INPUTS;
    Tile tile = tile_of_warp(shared, hidden);
    const u32 chunk = blockIdx.x, item = (blockIdx.y * blockDim.x + threadIdx.x) / WARP;
    const u32 first_edge = chunk_begin[chunk], edges = chunk_begin[chunk + 1] - first_edge;
    real *part = parts + size_t(chunk) * hidden * COLUMNS;
    if (item >= ITEMS)
        return;
    u32 paths, channel;
    const bool exists = paths_of(item, &paths, &channel);
    for (u32 done = 0; done < edges; done += EDGES) {
        const u32 n = min(edges - done, u32(EDGES)), place = first_edge + done + (tile.lane < n ? tile.lane : 0);
        const u32 edge = order != nullptr ? order[place] : place, i = center[edge];
        stage(in, tile, n, edge, neighbor[edge]);
#define DO(Block, FIRST, COUNT)                                                                                                            \
        if (item - FIRST < COUNT)                                                                                                          \
            by_weights<Block>(in, tile, n, item - FIRST, i);
        BLOCKS(DO)
#undef DO
#pragma unroll 1
        for (u32 p = 0; p < paths; p++) {
            real *to = part + column_of(item, p) + channel;
#pragma unroll 2
            for (u32 k = 0; k < hidden; k++) {
                real sum = done > 0 && exists ? to[size_t(k) * COLUMNS] : real(0);
#pragma unroll
                for (u32 copy = 0; copy < COPIES; copy++) {
                    const real *h = tile.features + (copy * hidden + k) * EDGES;
#pragma unroll
                    for (u32 s = 0; s < EDGES; s++)
                        sum += h[s] * tile.radial[copy * RADIAL_COPY + s * RADIAL_EDGE + p * WARP];
                }
                if (exists)
                    to[size_t(k) * COLUMNS] = sum;
            }
        }
    }
}
