// Spherical harmonics of edges as arrays, for training: one thread an edge.
//
// The header gives HARMONICS (how many there are), NORMALIZE, LEAST_LENGTH (of a vector with a direction), LOWER (how many there are of degrees below the last), `harmonics` and
// `harmonics_adjoint`, and for solid harmonics, cotangents g starting with degree 1:
//     lower_harmonics(x, y, z, h)      values below the last degree
//     solid_gradient(h, g, q)          q = grad <g, Y>
//     lower_gradient(h, g, q)          the same without the last degree
//     solid_tangent(h, u, t)           t = (u . grad) Y, from degree 0 on
//     lowered_cotangents(u, g, to)     to, from degree 0 on, such that <to, Y> = <g, (u . grad) Y>
#include "tesseral.cuh"

#define THREADS 128

// The point at which polynomials are evaluated: v, or its direction, with 1/|v|, or 0 where there is no direction.
struct Frame {
    real point[3], scale;

    __device__ Frame(const real *v) {
#if NORMALIZE
        const real length = sqrt(v[0] * v[0] + v[1] * v[1] + v[2] * v[2]), least = LEAST_LENGTH;
        const real inverse = real(1) / (length > least ? length : least);
        scale = length > least ? inverse : real(0);
        for (u32 axis = 0; axis < 3; axis++) point[axis] = v[axis] * inverse;
#else
        scale = real(1);
        for (u32 axis = 0; axis < 3; axis++) point[axis] = v[axis];
#endif
    }

    __device__ real along(const real *q) const { return point[0] * q[0] + point[1] * q[1] + point[2] * q[2]; }

    // The symmetric Jacobian of the direction times q: (q - p (p.q)) / |v|.
    __device__ void jacobian(const real *q, real *to) const {
        const real pq = along(q);
        for (u32 axis = 0; axis < 3; axis++) to[axis] = (q[axis] - point[axis] * pq) * scale;
    }
};

extern "C" __global__ void __launch_bounds__(THREADS) harmonics_values(const real *__restrict__ vectors, real *__restrict__ out, u32 n) {
    const u32 e = blockIdx.x * THREADS + threadIdx.x;
    if (e >= n) return;
    const real *v = vectors + size_t(3) * e;
    real h[HARMONICS];
    harmonics(v[0], v[1], v[2], h);
    real *to = out + size_t(HARMONICS) * e;
    for (u32 i = 0; i < HARMONICS; i++) to[i] = h[i];
}

// out = grad <g, Y>
extern "C" __global__ void __launch_bounds__(THREADS) harmonics_gradient(
    const real *__restrict__ vectors, const real *__restrict__ g, real *__restrict__ out, u32 n) {
    const u32 e = blockIdx.x * THREADS + threadIdx.x;
    if (e >= n) return;
    const real *v = vectors + size_t(3) * e;
    real dv[3];
    harmonics_adjoint(v[0], v[1], v[2], g + size_t(HARMONICS) * e + 1, dv);
    for (u32 axis = 0; axis < 3; axis++) out[size_t(3) * e + axis] = dv[axis];
}

// out = (u . grad) Y
extern "C" __global__ void __launch_bounds__(THREADS) harmonics_tangent(
    const real *__restrict__ vectors, const real *__restrict__ u, real *__restrict__ out, u32 n) {
    const u32 e = blockIdx.x * THREADS + threadIdx.x;
    if (e >= n) return;
    const Frame frame(vectors + size_t(3) * e);
    real direction[3], h[LOWER], t[HARMONICS];
    for (u32 axis = 0; axis < 3; axis++) direction[axis] = u[size_t(3) * e + axis];
#if NORMALIZE
    frame.jacobian(direction, direction);
#endif
    lower_harmonics(frame.point[0], frame.point[1], frame.point[2], h);
    solid_tangent(h, direction, t);
    real *to = out + size_t(HARMONICS) * e;
    for (u32 i = 0; i < HARMONICS; i++) to[i] = t[i];
}

// out = grad <g, (u . grad) Y>
extern "C" __global__ void __launch_bounds__(THREADS) harmonics_adjoint_tangent(
    const real *__restrict__ vectors, const real *__restrict__ g, const real *__restrict__ u, real *__restrict__ out, u32 n) {
    const u32 e = blockIdx.x * THREADS + threadIdx.x;
    if (e >= n) return;
    const Frame frame(vectors + size_t(3) * e);
    const real *cotangent = g + size_t(HARMONICS) * e + 1;
    real direction[3], projected[3], h[LOWER], lowered[LOWER], result[3];
    for (u32 axis = 0; axis < 3; axis++) projected[axis] = direction[axis] = u[size_t(3) * e + axis];
#if NORMALIZE
    frame.jacobian(direction, projected);
#endif
    lower_harmonics(frame.point[0], frame.point[1], frame.point[2], h);
    lowered_cotangents(projected, cotangent, lowered);
    lower_gradient(h, lowered + 1, result);
#if NORMALIZE
    // grad <u, J q> = -(p <u, Jq> + (p.q) Ju + (p.u) Jq) / |v| with the gradient q by the direction; Ju is `projected`.
    real q[3], jq[3];
    frame.jacobian(result, result);
    solid_gradient(h, cotangent, q);
    frame.jacobian(q, jq);
    const real pq = frame.along(q), pu = frame.along(direction);
    const real ujq = direction[0] * jq[0] + direction[1] * jq[1] + direction[2] * jq[2];
    for (u32 axis = 0; axis < 3; axis++)
        result[axis] -= (frame.point[axis] * ujq + pq * projected[axis] + pu * jq[axis]) * frame.scale;
#endif
    for (u32 axis = 0; axis < 3; axis++) out[size_t(3) * e + axis] = result[axis];
}
