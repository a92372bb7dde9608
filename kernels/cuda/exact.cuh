// Arithmetic in double, rounded after each operation: no fused multiply-add, so that swapping an edge's ends negates its vector exactly, and so
// that every machine finds the same edges. The emulator is compiled without contraction.
#ifdef __TESSERAL_EMULATED__
static __device__ __forceinline__ double product(double a, double b) { return a * b; }
static __device__ __forceinline__ double sum(double a, double b) { return a + b; }
#else
static __device__ __forceinline__ double product(double a, double b) { return __dmul_rn(a, b); }
static __device__ __forceinline__ double sum(double a, double b) { return __dadd_rn(a, b); }
#endif

// Component x of r_neighbour - r_centre + shift . cell, in the unit of the positions.
static __device__ __forceinline__ double edge_component(double center, double neighbor, const double *cell, unsigned x, double s0, double s1,
                                                        double s2)
{
    const double translation = sum(sum(product(s0, cell[x]), product(s1, cell[3 + x])), product(s2, cell[6 + x]));
    return sum(sum(neighbor, -center), translation);
}

static __device__ __forceinline__ double squared_length(double x, double y, double z)
{
    return sum(sum(product(x, x), product(y, y)), product(z, z));
}
