// Functions of the distance, their derivatives, and bases of them, for training: those of ops::radial. Computed in double whatever `real` is.
//
// Derivatives come from truncated Taylor series, as on the CPU: a formula is written once. `order` is that of the derivative, 0 to 3.
#include "tesseral.cuh"

#define THREADS 128

// The first N Taylor coefficients of a function of one variable.
template <u32 N> struct Jet {
    double c[N];

    __device__ static Jet constant(double value) {
        Jet jet;
        for (u32 k = 0; k < N; k++) jet.c[k] = 0;
        jet.c[0] = value;
        return jet;
    }
    __device__ static Jet variable(double value) {
        Jet jet = constant(value);
        if constexpr (N > 1) jet.c[1] = 1;
        return jet;
    }
    __device__ double last_derivative() const {
        double value = c[N - 1];
        for (u32 k = 2; k < N; k++) value *= k;
        return value;
    }
    __device__ Jet operator+(const Jet &other) const {
        Jet sum = *this;
        for (u32 k = 0; k < N; k++) sum.c[k] += other.c[k];
        return sum;
    }
    __device__ Jet operator+(double other) const {
        Jet sum = *this;
        sum.c[0] += other;
        return sum;
    }
    __device__ Jet operator*(const Jet &other) const {
        Jet product;
        for (u32 k = 0; k < N; k++) {
            product.c[k] = 0;
            for (u32 i = 0; i <= k; i++) product.c[k] += c[i] * other.c[k - i];
        }
        return product;
    }
    __device__ Jet operator*(double other) const {
        Jet product = *this;
        for (u32 k = 0; k < N; k++) product.c[k] *= other;
        return product;
    }
    // r u = 1
    __device__ Jet recip() const {
        Jet r = constant(1 / c[0]);
        for (u32 k = 1; k < N; k++) {
            double sum = 0;
            for (u32 i = 1; i <= k; i++) sum += c[i] * r.c[k - i];
            r.c[k] = -sum * r.c[0];
        }
        return r;
    }
    // e' = e u'
    __device__ Jet exponential() const {
        Jet e = constant(exp(c[0]));
        for (u32 k = 1; k < N; k++) {
            double sum = 0;
            for (u32 i = 1; i <= k; i++) sum += i * c[i] * e.c[k - i];
            e.c[k] = sum / k;
        }
        return e;
    }
    // t' = (1 - t^2) u'
    __device__ Jet tangent() const {
        Jet t = constant(tanh(c[0]));
        Jet slope = constant(1 - t.c[0] * t.c[0]);
        for (u32 k = 1; k < N; k++) {
            double sum = 0, square = 0;
            for (u32 i = 1; i <= k; i++) sum += i * c[i] * slope.c[k - i];
            t.c[k] = sum / k;
            for (u32 i = 0; i <= k; i++) square += t.c[i] * t.c[k - i];
            slope.c[k] = -square;
        }
        return t;
    }
    // u^a for positive u: u y' = a y u'
    __device__ Jet power(double exponent) const {
        Jet y = constant(pow(c[0], exponent));
        for (u32 k = 1; k < N; k++) {
            double sum = 0;
            for (u32 i = 1; i <= k; i++) sum += (exponent * i - (k - i)) * c[i] * y.c[k - i];
            y.c[k] = sum / (k * c[0]);
        }
        return y;
    }
    __device__ Jet power(u32 exponent) const {
        Jet y = constant(1);
        for (u32 k = 0; k < exponent; k++) y = y * *this;
        return y;
    }
};

// 1 - x^p ((p+1)(p+2)/2 - x (p(p+2) - x p(p+1)/2)), x = d/cutoff
template <u32 N> __device__ Jet<N> envelope(const Jet<N> &d, u32 p, double cutoff) {
    const Jet<N> x = d * (1 / cutoff);
    const double q = p;
    const Jet<N> tail = x * (x * (-0.5 * q * (q + 1)) + q * (q + 2)) * -1.0 + 0.5 * (q + 1) * (q + 2);
    return x.power(p) * tail * -1.0 + 1.0;
}

// `constants` of the whole function, and up to three numbers of each edge.
struct Polynomial {
    template <u32 N> static __device__ Jet<N> at(double d, const double *constants, double, double, double) {
        return d >= constants[1] ? Jet<N>::constant(0) : envelope(Jet<N>::variable(d), (u32)constants[0], constants[1]);
    }
};

struct Xplor {
    template <u32 N> static __device__ Jet<N> at(double value, const double *constants, double, double, double) {
        const double onset = constants[0], cutoff = constants[1];
        if (value < onset) return Jet<N>::constant(1);
        if (value >= cutoff) return Jet<N>::constant(0);
        const Jet<N> d = Jet<N>::variable(value), d2 = d * d;
        const double c2 = cutoff * cutoff, o2 = onset * onset, width = c2 - o2;
        const Jet<N> gap = d2 * -1.0 + c2;
        return gap * gap * (d2 * 2.0 + (c2 - 3 * o2)) * (1 / (width * width * width));
    }
};

struct Agnesi {
    template <u32 N> static __device__ Jet<N> at(double d, const double *constants, double r0, double, double) {
        const double a = constants[0], q = constants[1], p = constants[2];
        Jet<N> y = Jet<N>::variable(d) * (1 / r0);
        // Powers are taken through logarithms; both vanish long before this bound.
        y.c[0] = fmax(y.c[0], 1e-30);
        const Jet<N> ratio = y.power(p) * (y.power(p - q) + 1.0).recip();
        return (ratio * a + 1.0).recip();
    }
};

struct Soft {
    template <u32 N> static __device__ Jet<N> at(double value, const double *constants, double r0, double, double) {
        const Jet<N> d = Jet<N>::variable(value);
        const double p0 = 0.75 * r0, p1 = 4.0 / 3.0 * r0;
        const Jet<N> toggle = ((d + -0.5 * (p0 + p1)) * (constants[0] / (p1 - p0))).tangent();
        return (d + -p0) * (toggle * 0.5 + 0.5) + p0;
    }
};

struct Zbl {
    template <u32 N> static __device__ Jet<N> at(double value, const double *constants, double strength, double inverse_length, double cutoff) {
        if (value >= cutoff) return Jet<N>::constant(0);
        const Jet<N> d = Jet<N>::variable(value);
        Jet<N> phi = Jet<N>::constant(0);
#pragma unroll 1
        for (u32 i = 0; i < 4; i++) phi = phi + (d * (-constants[2 + 2 * i] * inverse_length)).exponential() * constants[1 + 2 * i];
        return d.recip() * phi * envelope(d, (u32)constants[0], cutoff) * strength;
    }
};

// out[e] = derivative of F at distances[e]; arrays that a function does not have are null.
template <class F>
__device__ void scalar(const real *distances, real *out, u32 order, const double *constants, const double *first, const double *second,
                       const double *third, u32 n) {
    const u32 e = blockIdx.x * THREADS + threadIdx.x;
    if (e >= n) return;
    const double d = distances[e], a = first ? first[e] : 0, b = second ? second[e] : 0, c = third ? third[e] : 0;
    double value;
    switch (order) {
    case 0: value = F::template at<1>(d, constants, a, b, c).last_derivative(); break;
    case 1: value = F::template at<2>(d, constants, a, b, c).last_derivative(); break;
    case 2: value = F::template at<3>(d, constants, a, b, c).last_derivative(); break;
    default: value = F::template at<4>(d, constants, a, b, c).last_derivative();
    }
    out[e] = (real)value;
}

// p, cutoff
extern "C" __global__ void __launch_bounds__(THREADS) polynomial_envelope(
    const real *distances, real *out, u32 order, const double *constants, const double *first, const double *second, const double *third, u32 n) {
    scalar<Polynomial>(distances, out, order, constants, first, second, third, n);
}

// onset, cutoff
extern "C" __global__ void __launch_bounds__(THREADS) xplor_envelope(
    const real *distances, real *out, u32 order, const double *constants, const double *first, const double *second, const double *third, u32 n) {
    scalar<Xplor>(distances, out, order, constants, first, second, third, n);
}

// a, q, p; r0 of an edge
extern "C" __global__ void __launch_bounds__(THREADS) agnesi_transform(
    const real *distances, real *out, u32 order, const double *constants, const double *first, const double *second, const double *third, u32 n) {
    scalar<Agnesi>(distances, out, order, constants, first, second, third, n);
}

// alpha; r0 of an edge
extern "C" __global__ void __launch_bounds__(THREADS) soft_transform(
    const real *distances, real *out, u32 order, const double *constants, const double *first, const double *second, const double *third, u32 n) {
    scalar<Soft>(distances, out, order, constants, first, second, third, n);
}

// p, four times (c, b); strength, inverse length and cutoff of an edge
extern "C" __global__ void __launch_bounds__(THREADS) zbl_repulsion(
    const real *distances, real *out, u32 order, const double *constants, const double *first, const double *second, const double *third, u32 n) {
    scalar<Zbl>(distances, out, order, constants, first, second, third, n);
}

__device__ inline double integer_power(double x, u32 n) {
    double y = 1;
    for (u32 k = 0; k < n; k++) y *= x;
    return y;
}

// The derivative of order `order` of sin(x)/x.
__device__ inline double sinc(double x, u32 order) {
    if (fabs(x) < 1) {
        // sum over m of (-1)^m x^(2m-k) / ((2m+1) (2m-k)!)
        const u32 first = (order + 1) / 2;
        double power = order % 2 ? x : 1.0, value = 0;
        for (u32 m = first; m < first + 10; m++) {
            value += (m % 2 ? -power : power) / (2 * m + 1);
            const double n = 2 * m - order;
            power *= x * x / ((n + 1) * (n + 2));
        }
        return value;
    }
    // Derivatives of x s = sin x: x s(k) + k s(k-1) = sin(k) x.
    const double s = sin(x), c = cos(x);
    double value = s / x;
    for (u32 k = 1; k <= order; k++) value = ((k == 1 ? c : k == 2 ? -s : -c) - k * value) / x;
    return value;
}

// The derivative of sin(wd)/d by d, `order` times, and by w, `frequency_order` times; at most 3 together.
__device__ inline double bessel_derivative(double w, double d, u32 order, u32 frequency_order) {
    if (frequency_order == 0) return integer_power(w, order + 1) * sinc(w * d, order);
    const double s = sin(w * d), c = cos(w * d);
    const u32 power = frequency_order - 1;
    double sum = 0, binomial = 1, falling = 1;
    for (u32 i = 0; i <= (order < power ? order : power); i++) {
        const u32 k = (frequency_order + order - i) % 4;
        const double wave = k == 0 ? s : k == 1 ? c : k == 2 ? -s : -c;
        sum += binomial * falling * integer_power(d, power - i) * integer_power(w, order - i) * wave;
        binomial *= double(order - i) / (i + 1);
        falling *= double(power - i);
    }
    return sum;
}

// out[e][k] from distances[e] and parameters[k], one thread each.
#define FOR_BASIS \
    const size_t index = (size_t)blockIdx.x * THREADS + threadIdx.x; \
    const size_t e = index / columns; \
    if (e >= n) return; \
    const double d = distances[e], parameter = parameters[index - e * columns];

extern "C" __global__ void __launch_bounds__(THREADS) bessel_basis(
    const real *distances, const real *parameters, real *out, double prefactor, u32 order, u32 frequency_order, u32 n, u32 columns) {
    FOR_BASIS
    out[index] = (real)(prefactor * bessel_derivative(parameter, d, order, frequency_order));
}

// exp(factor (d - parameter)^2)
extern "C" __global__ void __launch_bounds__(THREADS) gaussian_basis(
    const real *distances, const real *parameters, real *out, double factor, u32 order, u32 n, u32 columns) {
    FOR_BASIS
    const double x = d - parameter, s = 2 * factor * x, value = exp(factor * x * x);
    const double derivative = order == 0 ? 1.0 : order == 1 ? s : order == 2 ? s * s + 2 * factor : s * (s * s + 6 * factor);
    out[index] = (real)(value * derivative);
}

// Chebyshev polynomials 1, 2, ... of t[e], one thread an edge.
extern "C" __global__ void __launch_bounds__(THREADS) chebyshev_basis(const real *t, real *out, u32 order, u32 n, u32 columns) {
    const u32 e = blockIdx.x * THREADS + threadIdx.x;
    if (e >= n) return;
    const double x = t[e];
    double previous[4] = {1, 0, 0, 0}, current[4] = {x, 1, 0, 0};
    for (u32 column = 0; column < columns; column++) {
        const double value = order == 0 ? current[0] : order == 1 ? current[1] : order == 2 ? current[2] : current[3];
        out[(size_t)e * columns + column] = (real)value;
        // Differentiate T(n+1) = 2 t T(n) - T(n-1).
        double next[4];
        for (u32 k = 0; k < 4; k++) next[k] = 2 * (x * current[k] + (k > 0 ? k * current[k - 1] : 0.0)) - previous[k];
        for (u32 k = 0; k < 4; k++) {
            previous[k] = current[k];
            current[k] = next[k];
        }
    }
}

// The six quintic B-splines that do not vanish at distances[e], and their slopes; both zero from `limit` on. Pieces have a start and a spacing in
// `places`, a first coefficient and a number of intervals in `sizes`.
extern "C" __global__ void __launch_bounds__(THREADS) spline_windows(
    const double *distances, const double *places, const u32 *sizes, u32 pieces, double limit, u32 *first, real *values, real *slopes, u32 n) {
    const u32 e = blockIdx.x * THREADS + threadIdx.x;
    if (e >= n) return;
    const double d = distances[e];
    u32 piece = 0;
    while (piece + 1 < pieces && places[2 * (piece + 1)] <= d) piece++;
    const double spacing = places[2 * piece + 1], x = (d - places[2 * piece]) / spacing;
    const u32 last = sizes[2 * piece + 1] - 1;
    const u32 interval = x < double(last) ? u32(fmax(x, 0.0)) : last;
    const double t = x - interval;
    double value[6] = {1, 0, 0, 0, 0, 0}, slope[6];
    // Cox and de Boor's recursion on integer knots, in place from the last to the first.
#pragma unroll
    for (i32 degree = 1; degree < 6; degree++) {
        if (degree == 5)
            for (i32 j = 0; j < 6; j++) slope[j] = ((j > 0 ? value[j - 1] : 0.0) - value[j]) / spacing;
#pragma unroll
        for (i32 j = degree; j >= 0; j--)
            value[j] = ((t + (degree - j)) * (j > 0 ? value[j - 1] : 0.0) + ((1 + j) - t) * value[j]) / degree;
    }
    const bool inside = d < limit;
    first[e] = sizes[2 * piece] + interval;
    for (u32 j = 0; j < 6; j++) {
        values[(size_t)6 * e + j] = inside ? (real)value[j] : (real)0;
        slopes[(size_t)6 * e + j] = inside ? (real)slope[j] : (real)0;
    }
}
