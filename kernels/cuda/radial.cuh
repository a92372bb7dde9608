// Radial functions as piecewise quintics: `data [interval of any table][coefficient 0..6][column]`, see ops::radial::cuda.
#pragma once
#include "tesseral.cuh"

// Where a distance (Å) lies: the interval, counted over all tables, and the place in it, 0 to 1.
static __device__ __forceinline__ void table_place(u32 table, double distance, const double *__restrict__ inverse_spacing,
                                                   const u32 *__restrict__ intervals, const u32 *__restrict__ start, u32 *interval, real *t) {
    const u32 last = intervals[table] - 1;
    // Where the cutoff of a pair depends on its order, the longer one decides which edges there are: beyond its end a table stays what it is there, zero.
    const double x = fmin(distance * inverse_spacing[table], double(last + 1));
    const u32 k = x < double(last) ? u32(x) : last;
    *interval = start[table] + k;
    *t = real(x - double(k));
}

// The value at t of the column whose first coefficient `c` points to.
static __device__ __forceinline__ real table_value(const real *__restrict__ c, u32 columns, real t) {
    real value = __ldg(c + 5 * columns);
    value = value * t + __ldg(c + 4 * columns);
    value = value * t + __ldg(c + 3 * columns);
    value = value * t + __ldg(c + 2 * columns);
    value = value * t + __ldg(c + columns);
    return value * t + __ldg(c);
}

// The value, and the derivative by t.
static __device__ __forceinline__ real table_jet(const real *__restrict__ c, u32 columns, real t, real *slope) {
    real value = __ldg(c + 5 * columns), d = value;
    value = value * t + __ldg(c + 4 * columns);
    d = d * t + value;
    value = value * t + __ldg(c + 3 * columns);
    d = d * t + value;
    value = value * t + __ldg(c + 2 * columns);
    d = d * t + value;
    value = value * t + __ldg(c + columns);
    *slope = d * t + value;
    return value * t + __ldg(c);
}
