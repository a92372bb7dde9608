// Between parameters as they are trained, [set][parameter][width], and the entries that kernels read, [set][entry][width]. An entry is a factor times
// the sum of some parameters, and no parameter is in two.
#include "tesseral.cuh"

#define THREADS 256
#define NONE 0xffffffffu

#define FOR_ROW(rows) \
    const size_t index = (size_t)blockIdx.x * THREADS + threadIdx.x; \
    const u32 row = (u32)(index / width), k = (u32)(index - (size_t)row * width), set = blockIdx.y; \
    if (row >= rows) return;

// Entry e is factors[e] times the sum of parameters terms[begin[e] .. begin[e + 1]].
extern "C" __global__ void __launch_bounds__(THREADS) combine_parameters(
    const real *__restrict__ from, const u32 *__restrict__ begin, const u32 *__restrict__ terms, const real *__restrict__ factors,
    real *__restrict__ to, u32 parameters, u32 entries, u32 width) {
    FOR_ROW(entries)
    real sum = 0;
    for (u32 j = begin[row]; j < begin[row + 1]; j++) sum += from[((size_t)set * parameters + terms[j]) * width + k];
    to[((size_t)set * entries + row) * width + k] = sum * factors[row];
}

// The cotangents of parameters from those of entries, [chunk][entry][width], summed over the chunks of a set in their order; parameters that are in no
// entry have none.
extern "C" __global__ void __launch_bounds__(THREADS) collect_parameters(
    const real *__restrict__ partial, const u32 *__restrict__ chunks_of_set, const u32 *__restrict__ entry_of, const real *__restrict__ factors,
    real *__restrict__ to, u32 parameters, u32 entries, u32 width) {
    FOR_ROW(parameters)
    const u32 entry = entry_of[row];
    real sum = 0;
    if (entry != NONE) {
        for (u32 chunk = chunks_of_set[set]; chunk < chunks_of_set[set + 1]; chunk++)
            sum += partial[((size_t)chunk * entries + entry) * width + k];
        sum *= factors[entry];
    }
    to[((size_t)set * parameters + row) * width + k] = sum;
}
