// Activation functions of one number, with first and second derivatives; the numbers are those of `Activation` in Rust.
#pragma once

#define IDENTITY 0
#define SILU 1
#define TANH 2
#define SIGMOID 3
#define ABS 4
#define RELU 5
#define SHIFTED_SOFTPLUS 6
#define GELU 7
#define ELU 8

// p = 1 / (1 + exp(-x)), and 1 - p without cancellation.
__device__ inline real sigmoid(real x, real &rest) {
    const real e = exp(-fabs(x));
    const real large = (real)1 / ((real)1 + e), small = e * large;
    rest = x < 0 ? large : small;
    return x < 0 ? small : large;
}
__device__ inline real sigmoid(real x) {
    real rest;
    return sigmoid(x, rest);
}

// The normal distribution function and its density.
__device__ inline real normal(real x) { return (real)0.5 * erfc(x * (real)-0.70710678118654752440); }
__device__ inline real normal_density(real x) { return exp((real)-0.5 * x * x) * (real)0.39894228040143267794; }

__device__ inline real activation_value(u32 kind, real x) {
    switch (kind) {
    case SILU: return x * sigmoid(x);
    case TANH: return tanh(x);
    case SIGMOID: return sigmoid(x);
    case ABS: return fabs(x);
    // NaN for NaN.
    case RELU: return x < 0 ? (real)0 : x;
    case SHIFTED_SOFTPLUS: return (x < 0 ? (real)0 : x) + log1p(exp(-fabs(x))) - (real)0.69314718055994530942;
    case GELU: return x * normal(x);
    case ELU: return x > 0 ? x : expm1(x);
    default: return x;
    }
}

__device__ inline real activation_slope(u32 kind, real x) {
    switch (kind) {
    case SILU: {
        real rest;
        const real p = sigmoid(x, rest);
        return p * ((real)1 + x * rest);
    }
    case TANH: {
        const real value = tanh(x);
        return (real)1 - value * value;
    }
    case SIGMOID: {
        real rest;
        const real p = sigmoid(x, rest);
        return p * rest;
    }
    case ABS: return x > 0 ? (real)1 : x < 0 ? (real)-1 : x;
    case RELU: return x > 0 ? (real)1 : (real)0;
    case SHIFTED_SOFTPLUS: return sigmoid(x);
    case GELU: return normal(x) + x * normal_density(x);
    case ELU: return x > 0 ? (real)1 : exp(x);
    default: return 1;
    }
}

__device__ inline real activation_curvature(u32 kind, real x) {
    switch (kind) {
    case SILU: {
        real rest;
        const real p = sigmoid(x, rest);
        return p * rest * ((real)2 + x * (rest - p));
    }
    case TANH: {
        const real value = tanh(x);
        return (real)-2 * value * ((real)1 - value * value);
    }
    case SIGMOID: {
        real rest;
        const real p = sigmoid(x, rest);
        return p * rest * (rest - p);
    }
    case SHIFTED_SOFTPLUS: {
        real rest;
        const real p = sigmoid(x, rest);
        return p * rest;
    }
    case GELU: return normal_density(x) * ((real)2 - x * x);
    case ELU: return x > 0 ? (real)0 : exp(x);
    default: return 0;
    }
}
