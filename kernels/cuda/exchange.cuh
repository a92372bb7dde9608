// Sums over the lanes of a warp of several values a lane.
#pragma once

// Sums over the lanes of a warp of N values a lane, by exchanging halves: a lane ends with the sums of `left` of them, those from `first` on of
// which `size` exist.
template <u32 N, u32 MASK> struct Exchange {
    static const u32 HALF = (N + 1) / 2;
    static const u32 LEFT = N == 1 ? 1 : Exchange<HALF, MASK / 2>::LEFT;

    static __device__ __forceinline__ void sum(real *v, bool upper) {
#pragma unroll
        for (u32 k = 0; k < HALF; k++) {
            const real low = v[k], high = k + HALF < N ? v[k + HALF] : real(0);
            v[k] = (upper ? high : low) + __shfl_xor_sync(FULL_MASK, upper ? low : high, MASK);
        }
    }
    static __device__ __forceinline__ void run(real *v, u32 lane) {
        if (N == 1)
            v[0] += __shfl_xor_sync(FULL_MASK, v[0], MASK);
        else
            sum(v, (lane & MASK) != 0);
        Exchange<HALF, MASK / 2>::run(v, lane);
    }
    static __device__ __forceinline__ void place(u32 lane, u32 *first, u32 *size) {
        const bool upper = (lane & MASK) != 0;
        if (N == 1) {
            *size = upper ? 0 : *size;
        } else if (upper) {
            *first += HALF;
            *size = *size > HALF ? *size - HALF : 0;
        } else {
            *size = min(*size, HALF);
        }
        Exchange<HALF, MASK / 2>::place(lane, first, size);
    }
};
template <u32 N> struct Exchange<N, 0> {
    static const u32 LEFT = N;
    static __device__ __forceinline__ void run(real *, u32) {}
    static __device__ __forceinline__ void place(u32, u32 *, u32 *) {}
};
