//! Activation functions of one number, with derivatives.

use candle_core::WithDType;

use crate::real::Real;
use crate::simd::{Fma, Kernel, dispatch};

/// An activation function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Activation {
    /// x.
    Identity,
    /// x/(1 + e⁻ˣ).
    Silu,
    /// tanh x.
    Tanh,
    /// 1/(1 + e⁻ˣ).
    Sigmoid,
    /// |x|.
    Abs,
    /// max(x, 0).
    Relu,
    /// ln(1 + eˣ) − ln 2.
    ShiftedSoftplus,
    /// x·(1 + erf(x/√2))/2.
    Gelu,
    /// x for positive x, eˣ − 1 otherwise.
    Elu,
}

impl Activation {
    /// The factor that e3nn's `normalize2mom` multiplies with, so that the second moment over a normal distribution is 1.
    ///
    /// e3nn estimates it from a million samples with a fixed seed; these are its numbers, not the exact integrals (model definitions §1.7).
    pub fn e3nn_constant(self) -> f64 {
        match self {
            // Exactly 1, and e3nn leaves constants within 1e-4 of 1 away.
            Self::Identity => 1.0,
            Self::Silu => 1.679_176_792_398_941_8,
            Self::Tanh => 1.593_733_447_259_269_5,
            Self::Sigmoid => 1.846_705_534_215_476_3,
            Self::Abs => 1.001_110_600_838_467,
            Self::Relu => 1.416_339_344_633_136_5,
            Self::ShiftedSoftplus => 1.878_204_668_541_552,
            Self::Gelu => 1.536_064_285_077_057_8,
            Self::Elu => 1.246_786_388_557_051_2,
        }
    }

    /// Without a factor.
    pub fn plain(self) -> ScaledActivation {
        ScaledActivation { activation: self, scale: 1.0 }
    }

    /// With e3nn's factor.
    pub fn e3nn(self) -> ScaledActivation {
        ScaledActivation { activation: self, scale: self.e3nn_constant() }
    }
}

/// An activation times a factor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScaledActivation {
    /// The function.
    pub activation: Activation,
    /// The factor.
    pub scale: f64,
}

/// eˣ to about one unit in the last place, without branches, so that loops over it vectorise; clamped where it would leave the normal numbers.
#[inline(always)]
fn exp<T: Real, F: Fma>(x: T) -> T {
    let single = size_of::<T>() == 4;
    let limit = T::of(if single { 87.0 } else { 708.0 });
    // ln 2 in two parts, the first with few enough digits that its product with n is exact.
    let (high, low) =
        if single { (0.693_359_375, -2.121_944_400_546_905_8e-4) } else { (6.931_471_803_691_238e-1, 1.908_214_929_270_587_7e-10) };
    let x = if x > limit { limit } else { x };
    let x = if x < -limit { -limit } else { x };
    let rounded = F::fma(x, T::of(std::f64::consts::LOG2_E), T::ROUNDER);
    let n = rounded - T::ROUNDER;
    let r = F::fma(n, T::of(-low), F::fma(n, T::of(-high), x));
    // Taylor series on |r| ≤ ln 2 / 2.
    const INVERSE_FACTORIALS: [f64; 14] = [
        1.0,
        1.0,
        1.0 / 2.0,
        1.0 / 6.0,
        1.0 / 24.0,
        1.0 / 120.0,
        1.0 / 720.0,
        1.0 / 5_040.0,
        1.0 / 40_320.0,
        1.0 / 362_880.0,
        1.0 / 3_628_800.0,
        1.0 / 39_916_800.0,
        1.0 / 479_001_600.0,
        1.0 / 6_227_020_800.0,
    ];
    let degree = if single { 7 } else { 13 };
    let mut sum = T::of(INVERSE_FACTORIALS[degree]);
    for k in (0..degree).rev() {
        sum = F::fma(sum, r, T::of(INVERSE_FACTORIALS[k]));
    }
    sum * T::power_of_two(rounded)
}

#[inline(always)]
fn sigmoid<T: Real, F: Fma>(x: T) -> T {
    T::one() / (T::one() + exp::<T, F>(-x))
}

#[inline(always)]
fn each<T: Real>(x: &[T], out: &mut [T], scale: T, f: impl Fn(T) -> T) {
    for (y, &x) in out.iter_mut().zip(x) {
        *y = scale * f(x);
    }
}

/// max(x, 0), NaN for NaN.
#[inline(always)]
fn positive<T: Real>(x: T) -> T {
    if x < T::zero() { T::zero() } else { x }
}

/// Φ(x), the normal distribution function, and its density.
fn normal<T: Real>(x: T) -> (T, T) {
    let x = WithDType::to_f64(x);
    let density = (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
    (T::of(0.5 * (1.0 + candle_core::cpu::erf::erf_f64(x * std::f64::consts::FRAC_1_SQRT_2))), T::of(density))
}

struct Derivative<'a, T> {
    activation: ScaledActivation,
    order: usize,
    x: &'a [T],
    out: &'a mut [T],
}

impl<T: Real> Kernel for Derivative<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<F: Fma>(self) {
        self.activation.derivative::<T, F>(self.order, self.x, self.out);
    }
}

impl ScaledActivation {
    /// `out` = derivative of order `order` ≤ 2 at each of `x`, on this thread.
    ///
    /// # Panics
    /// If the slices differ in length.
    pub fn apply<T: Real>(self, order: usize, x: &[T], out: &mut [T]) {
        assert!(x.len() == out.len() && order <= 2, "an activation is applied to as many numbers as it gives, up to the second derivative");
        dispatch(Derivative { activation: self, order, x, out });
    }

    /// `out` = derivative of order `order` ≤ 2 at each of `x`.
    #[inline(always)]
    pub(super) fn derivative<T: Real, F: Fma>(self, order: usize, x: &[T], out: &mut [T]) {
        let s = T::of(self.scale);
        let (zero, one, two) = (T::zero(), T::one(), T::of(2.0));
        match (self.activation, order) {
            (Activation::Identity, 0) => each(x, out, s, |x| x),
            (Activation::Identity, 1) => each(x, out, s, |_| one),
            (Activation::Silu, 0) => each(x, out, s, |x| x * sigmoid::<T, F>(x)),
            (Activation::Silu, 1) => each(x, out, s, |x| {
                let p = sigmoid::<T, F>(x);
                p * (one + x * (one - p))
            }),
            (Activation::Silu, _) => each(x, out, s, |x| {
                let p = sigmoid::<T, F>(x);
                p * (one - p) * (two + x * (one - two * p))
            }),
            (Activation::Tanh, 0) => each(x, out, s, |x| x.tanh()),
            (Activation::Tanh, 1) => each(x, out, s, |x| one - x.tanh() * x.tanh()),
            (Activation::Tanh, _) => each(x, out, s, |x| -two * x.tanh() * (one - x.tanh() * x.tanh())),
            (Activation::Sigmoid, 0) | (Activation::ShiftedSoftplus, 1) => each(x, out, s, sigmoid::<T, F>),
            (Activation::Sigmoid, 1) | (Activation::ShiftedSoftplus, 2) => each(x, out, s, |x| {
                let p = sigmoid::<T, F>(x);
                p * (one - p)
            }),
            (Activation::Sigmoid, _) => each(x, out, s, |x| {
                let p = sigmoid::<T, F>(x);
                p * (one - p) * (one - two * p)
            }),
            (Activation::ShiftedSoftplus, _) => {
                let ln2 = T::of(std::f64::consts::LN_2);
                each(x, out, s, |x| positive(x) + (-x.abs()).exp().ln_1p() - ln2);
            }
            (Activation::Abs, 0) => each(x, out, s, |x| x.abs()),
            (Activation::Abs, 1) => each(x, out, s, |x| if x == zero { zero } else { x.signum() }),
            (Activation::Relu, 0) => each(x, out, s, positive),
            (Activation::Relu, 1) => each(x, out, s, |x| if x > zero { one } else { zero }),
            (Activation::Identity | Activation::Abs | Activation::Relu, _) => each(x, out, s, |_| zero),
            (Activation::Gelu, 0) => each(x, out, s, |x| x * normal(x).0),
            (Activation::Gelu, 1) => each(x, out, s, |x| {
                let (distribution, density) = normal(x);
                distribution + x * density
            }),
            (Activation::Gelu, _) => each(x, out, s, |x| normal(x).1 * (two - x * x)),
            (Activation::Elu, 0) => each(x, out, s, |x| if x > zero { x } else { x.exp_m1() }),
            (Activation::Elu, 1) => each(x, out, s, |x| if x > zero { one } else { x.exp() }),
            (Activation::Elu, _) => each(x, out, s, |x| if x > zero { zero } else { x.exp() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{Fused, Unfused};

    #[test]
    fn exponential_equals_the_library() {
        for k in -7000..=7000 {
            let x = f64::from(k) * 0.1;
            for got in [exp::<f64, Fused>(x), exp::<f64, Unfused>(x)] {
                assert!((got / x.exp() - 1.0).abs() < 8e-16, "exp({x}) = {got}");
            }
            let x = (f64::from(k) * 0.012) as f32;
            for got in [exp::<f32, Fused>(x), exp::<f32, Unfused>(x)] {
                assert!((f64::from(got) / f64::from(x).exp() - 1.0).abs() < 2.5e-7, "exp({x}) = {got}");
            }
        }
        assert!(exp::<f32, Fused>(f32::NAN).is_nan());
        assert!(exp::<f32, Fused>(-1e30) < 1e-37 && exp::<f32, Fused>(1e30) > 1e37);
    }
}
