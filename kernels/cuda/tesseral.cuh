// What every kernel starts from. Compiled by NVRTC without the standard library, and as C++17 by the emulator.
//
// `TESSERAL_REAL` is float or double. Kernels are `extern "C" __global__ void __launch_bounds__(N) name(...)`, counts are `u32`, offsets into
// large arrays `size_t`. Every output has one owner, and sums have a fixed order, so that a launch gives the same bits every time.
#pragma once

typedef TESSERAL_REAL real;
typedef unsigned char u8;
typedef short i16;
typedef int i32;
typedef unsigned u32;

#define FULL_MASK 0xffffffffu
// Threads of a warp.
#define WARP 32u

#ifndef __TESSERAL_EMULATED__
// `TESSERAL_SHARED(type, name)` declares a pointer to the dynamic shared memory of the block, whose size is that of the launch.
extern __shared__ __align__(16) unsigned char tesseral_shared_memory[];
#define TESSERAL_SHARED(type, name) type *name = reinterpret_cast<type *>(tesseral_shared_memory)
#endif

// Sum over the lanes of a warp, all of which take part; every lane gets the same bits.
template <class T> __device__ __forceinline__ T warp_sum(T value) {
    for (int distance = 16; distance > 0; distance /= 2)
        value += __shfl_xor_sync(FULL_MASK, value, distance);
    return value;
}
