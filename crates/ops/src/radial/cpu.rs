//! The radial functions and their derivatives over slices.

use std::sync::Arc;

use candle_core::WithDType;
use rayon::prelude::*;

use super::MAX_ORDER;
use super::jet::Jet;
use crate::real::Real;

/// Edges in one parallel task.
const BLOCK: usize = 1024;

/// A function of the distance (Å), the same for all edges or with parameters for each of them. Formulas: see the functions of
/// [`crate::radial`] that make them.
#[derive(Debug, Clone, PartialEq)]
pub enum ScalarFunction {
    /// [`polynomial_envelope`](super::polynomial_envelope).
    PolynomialEnvelope {
        /// Exponent.
        p: u32,
        /// Å.
        cutoff: f64,
    },
    /// [`xplor_envelope`](super::xplor_envelope).
    XplorEnvelope {
        /// Where it starts to fall, Å.
        onset: f64,
        /// Where it vanishes, Å.
        cutoff: f64,
    },
    /// [`agnesi_transform`](super::agnesi_transform).
    Agnesi {
        /// Prefactor.
        a: f64,
        /// Exponent.
        q: f64,
        /// Exponent.
        p: f64,
        /// Å, one for each edge.
        r0: Arc<[f64]>,
    },
    /// [`soft_transform`](super::soft_transform).
    Soft {
        /// Steepness.
        alpha: f64,
        /// Å, one for each edge.
        r0: Arc<[f64]>,
    },
    /// [`ZblConstants::pair_energy`](super::ZblConstants::pair_energy), eV.
    Zbl {
        /// ½·k·Z_u·Z_v, eV·Å, one for each edge.
        strength: Arc<[f64]>,
        /// 1/a_uv, 1/Å, one for each edge.
        inverse_length: Arc<[f64]>,
        /// (c_i, b_i).
        screening: [(f64, f64); 4],
        /// Å, one for each edge.
        cutoffs: Arc<[f64]>,
        /// Exponent of the envelope.
        p: u32,
    },
}

/// 1 − x^p·((p+1)(p+2)/2 − x·(p(p+2) − x·p(p+1)/2)), x = d/cutoff.
fn polynomial_envelope<const N: usize>(d: Jet<N>, p: u32, cutoff: f64) -> Jet<N> {
    let x = d * (1.0 / cutoff);
    let q = f64::from(p);
    let tail = x * (x * (-0.5 * q * (q + 1.0)) + q * (q + 2.0)) * -1.0 + 0.5 * (q + 1.0) * (q + 2.0);
    x.powi(p) * tail * -1.0 + 1.0
}

impl ScalarFunction {
    /// How many edges it has parameters for; `None` if it is the same for all.
    pub fn edges(&self) -> Option<usize> {
        match self {
            Self::PolynomialEnvelope { .. } | Self::XplorEnvelope { .. } => None,
            Self::Agnesi { r0, .. } | Self::Soft { r0, .. } => Some(r0.len()),
            Self::Zbl { strength, .. } => Some(strength.len()),
        }
    }

    fn at<const N: usize>(&self, edge: usize, d: f64) -> Jet<N> {
        self.branch(edge, d, d)
    }

    /// The function at `d`, continued from the interval between kinks in which `inside` lies.
    fn branch<const N: usize>(&self, edge: usize, inside: f64, d: f64) -> Jet<N> {
        let d = Jet::<N>::variable(d);
        match self {
            &Self::PolynomialEnvelope { p, cutoff } => {
                if inside >= cutoff {
                    return Jet::constant(0.0);
                }
                polynomial_envelope(d, p, cutoff)
            }
            &Self::XplorEnvelope { onset, cutoff } => {
                if inside < onset {
                    return Jet::constant(1.0);
                }
                if inside >= cutoff {
                    return Jet::constant(0.0);
                }
                let (c2, o2, d2) = (cutoff * cutoff, onset * onset, d * d);
                let gap = d2 * -1.0 + c2;
                gap * gap * (d2 * 2.0 + (c2 - 3.0 * o2)) * (c2 - o2).powi(-3)
            }
            Self::Agnesi { a, q, p, r0 } => {
                let mut y = d * (1.0 / r0[edge]);
                // Powers are taken through logarithms; both vanish long before this bound.
                y.0[0] = y.0[0].max(1e-30);
                // y^q/(1 + y^(q−p)), written so that nothing overflows at short distances.
                let ratio = y.powf(*p) * (y.powf(p - q) + 1.0).recip();
                (ratio * *a + 1.0).recip()
            }
            Self::Soft { alpha, r0 } => {
                let (p0, p1) = (0.75 * r0[edge], 4.0 / 3.0 * r0[edge]);
                let switch = ((d + -0.5 * (p0 + p1)) * (alpha / (p1 - p0))).tanh();
                (d + -p0) * (switch * 0.5 + 0.5) + p0
            }
            Self::Zbl { strength, inverse_length, screening, cutoffs, p } => {
                if inside >= cutoffs[edge] {
                    return Jet::constant(0.0);
                }
                let phi = screening
                    .iter()
                    .map(|&(c, b)| (d * (-b * inverse_length[edge])).exp() * c)
                    .fold(Jet::constant(0.0), |sum, term| sum + term);
                d.recip() * phi * polynomial_envelope(d, *p, cutoffs[edge]) * strength[edge]
            }
        }
    }

    /// The distance (Å) short of its end at which the second derivative jumps, if there is one, of functions that are the same for all edges.
    pub fn kink(&self) -> Option<f64> {
        match self {
            &Self::XplorEnvelope { onset, .. } => Some(onset),
            _ => None,
        }
    }

    /// The value at distance `d` (Å) of the branch that holds at `inside`, for functions that are the same for all edges.
    pub fn continued(&self, inside: f64, d: f64) -> f64 {
        self.branch::<1>(0, inside, d).last_derivative()
    }

    /// The value at distance `d` (Å) for one edge, and the first derivative.
    pub fn value_and_derivative(&self, edge: usize, d: f64) -> (f64, f64) {
        let Jet([value, derivative]) = self.at::<2>(edge, d);
        (value, derivative)
    }

    /// The derivative of order `order` ≤ [`MAX_ORDER`] at distance `d` (Å) for one edge.
    pub fn derivative(&self, edge: usize, d: f64, order: usize) -> f64 {
        match order {
            0 => self.at::<1>(edge, d).last_derivative(),
            1 => self.at::<2>(edge, d).last_derivative(),
            2 => self.at::<3>(edge, d).last_derivative(),
            _ => self.at::<4>(edge, d).last_derivative(),
        }
    }
}

/// sin(x)/x and its derivatives up to [`MAX_ORDER`].
fn sinc(x: f64) -> [f64; MAX_ORDER + 1] {
    let mut s = [0.0; MAX_ORDER + 1];
    if x.abs() < 1.0 {
        // Σ_m (−1)^m x^(2m−k) / ((2m+1)·(2m−k)!)
        for (k, s) in s.iter_mut().enumerate() {
            let first = k.div_ceil(2);
            // x^(2m−k)/(2m−k)!, from the first m with 2m ≥ k.
            let mut power = if k % 2 == 0 { 1.0 } else { x };
            for m in first..first + 10 {
                let sign = if m % 2 == 0 { 1.0 } else { -1.0 };
                *s += sign * power / (2 * m + 1) as f64;
                let n = (2 * m - k) as f64;
                power *= x * x / ((n + 1.0) * (n + 2.0));
            }
        }
    } else {
        // Derivatives of x·s = sin x: x·s⁽ᵏ⁾ + k·s⁽ᵏ⁻¹⁾ = sin⁽ᵏ⁾ x.
        let (sin, cos) = x.sin_cos();
        s[0] = sin / x;
        for (k, trigonometric) in [(1, cos), (2, -sin), (3, -cos)] {
            s[k] = (trigonometric - k as f64 * s[k - 1]) / x;
        }
    }
    s
}

/// ∂_d^`order` ∂_w^`frequency_order` of sin(w·d)/d, for orders that add up to at most [`MAX_ORDER`].
pub fn bessel_derivative(w: f64, d: f64, order: usize, frequency_order: usize) -> f64 {
    if frequency_order == 0 {
        return w.powi(order as i32 + 1) * sinc(w * d)[order];
    }
    // ∂_w^j sin(wd)/d = d^(j−1)·sin⁽ʲ⁾(wd), differentiated by the product rule.
    let (sin, cos) = (w * d).sin_cos();
    let wave = |k: usize| match k % 4 {
        0 => sin,
        1 => cos,
        2 => -sin,
        _ => -cos,
    };
    let power = frequency_order - 1;
    let (mut sum, mut binomial, mut falling) = (0.0, 1.0, 1.0);
    for i in 0..=order.min(power) {
        sum += binomial * falling * d.powi((power - i) as i32) * w.powi((order - i) as i32) * wave(frequency_order + order - i);
        binomial *= (order - i) as f64 / (i + 1) as f64;
        falling *= (power - i) as f64;
    }
    sum
}

/// The derivative of order `order` ≤ [`MAX_ORDER`] of exp(factor·x²).
pub fn gaussian_derivative(factor: f64, x: f64, order: usize) -> f64 {
    let (s, value) = (2.0 * factor * x, (factor * x * x).exp());
    value
        * match order {
            0 => 1.0,
            1 => s,
            2 => s * s + 2.0 * factor,
            _ => s * (s * s + 6.0 * factor),
        }
}

/// The derivatives of order `order` ≤ [`MAX_ORDER`] of the Chebyshev polynomials T_1, T_2, … at `t`, as many as `out` holds.
pub fn chebyshev_derivatives(t: f64, order: usize, out: &mut [f64]) {
    // T⁽ᵏ⁾ of n+1 from the two before, for all orders at once: differentiate T_{n+1} = 2t·T_n − T_{n−1}.
    let mut previous = [1.0, 0.0, 0.0, 0.0];
    let mut current = [t, 1.0, 0.0, 0.0];
    for value in out {
        *value = current[order];
        let mut next = [0.0; MAX_ORDER + 1];
        for k in 0..=MAX_ORDER {
            let lower = if k > 0 { k as f64 * current[k - 1] } else { 0.0 };
            next[k] = 2.0 * (t * current[k] + lower) - previous[k];
        }
        previous = current;
        current = next;
    }
}

/// `out[e]` = derivative of order `order` of the function at `distances[e]`.
pub(super) fn scalar_function<T: Real>(function: &ScalarFunction, order: usize, distances: &[T]) -> Vec<T> {
    let mut out = vec![T::zero(); distances.len()];
    out.par_chunks_mut(BLOCK).zip(distances.par_chunks(BLOCK)).enumerate().for_each(|(block, (out, distances))| {
        for (k, (y, d)) in out.iter_mut().zip(distances).enumerate() {
            *y = T::of(function.derivative(block * BLOCK + k, WithDType::to_f64(*d), order));
        }
    });
    out
}

/// A set of functions of the distance.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Basis {
    Bessel { prefactor: f64, order: usize, frequency_order: usize },
    Gaussian { factor: f64, order: usize },
    Chebyshev { order: usize },
}

/// `distances` `[E]`, `parameters` `[n]` → `[E, n]`; Chebyshev polynomials read only how many parameters there are.
pub(super) fn basis<T: Real>(basis: Basis, distances: &[T], parameters: &[f64]) -> Vec<T> {
    let n = parameters.len();
    let mut out = vec![T::zero(); distances.len() * n];
    if n == 0 {
        return out;
    }
    out.par_chunks_mut(BLOCK * n).zip(distances.par_chunks(BLOCK)).for_each(|(out, distances)| {
        let mut row = vec![0.0; n];
        for (out, d) in out.chunks_exact_mut(n).zip(distances) {
            let d = WithDType::to_f64(*d);
            match basis {
                Basis::Bessel { prefactor, order, frequency_order } => {
                    for (y, &w) in row.iter_mut().zip(parameters) {
                        *y = prefactor * bessel_derivative(w, d, order, frequency_order);
                    }
                }
                Basis::Gaussian { factor, order } => {
                    for (y, &center) in row.iter_mut().zip(parameters) {
                        *y = gaussian_derivative(factor, d - center, order);
                    }
                }
                Basis::Chebyshev { order } => chebyshev_derivatives(d, order, &mut row),
            }
            for (y, &value) in out.iter_mut().zip(&row) {
                *y = T::of(value);
            }
        }
    });
    out
}
