//! The formulas of the model definitions as they stand there, values only.

use super::ZblConstants;

/// §2.2, also SevenNet's `poly_cut`.
pub fn polynomial_envelope(d: f64, p: u32, cutoff: f64) -> f64 {
    if d >= cutoff {
        return 0.0;
    }
    let (x, q, n) = (d / cutoff, f64::from(p), p as i32);
    1.0 - (q + 1.0) * (q + 2.0) / 2.0 * x.powi(n) + q * (q + 2.0) * x.powi(n + 1) - q * (q + 1.0) / 2.0 * x.powi(n + 2)
}

/// §3.1.
pub fn xplor_envelope(d: f64, onset: f64, cutoff: f64) -> f64 {
    if d < onset {
        return 1.0;
    }
    if d >= cutoff {
        return 0.0;
    }
    let (c2, o2, d2) = (cutoff * cutoff, onset * onset, d * d);
    (c2 - d2).powi(2) * (c2 + 2.0 * d2 - 3.0 * o2) / (c2 - o2).powi(3)
}

/// §2.2.
pub fn agnesi_transform(d: f64, r0: f64, a: f64, q: f64, p: f64) -> f64 {
    let y = d / r0;
    1.0 / (1.0 + a * y.powf(q) / (1.0 + y.powf(q - p)))
}

/// §2.2.
pub fn soft_transform(d: f64, r0: f64, alpha: f64) -> f64 {
    let (p0, p1) = (3.0 / 4.0 * r0, 4.0 / 3.0 * r0);
    p0 + (d - p0) * (1.0 + (alpha / (p1 - p0) * (d - (p0 + p1) / 2.0)).tanh()) / 2.0
}

/// §2.3 and §4.
pub fn zbl(d: f64, constants: &ZblConstants, z_u: u32, z_v: u32, cutoff: f64, p: u32) -> f64 {
    let (u, v) = (f64::from(z_u), f64::from(z_v));
    let s = d / (constants.length / (u.powf(constants.exponent) + v.powf(constants.exponent)));
    let phi: f64 = constants.screening.iter().map(|&(c, b)| c * (-b * s).exp()).sum();
    0.5 * constants.coulomb * u * v / d * phi * polynomial_envelope(d, p, cutoff)
}

/// c·sin(w d)/d.
pub fn bessel(d: f64, w: f64, prefactor: f64) -> f64 {
    if d == 0.0 { prefactor * w } else { prefactor * (w * d).sin() / d }
}

/// exp(−(d−μ)²/(2σ²)).
pub fn gaussian(d: f64, center: f64, width: f64) -> f64 {
    (-0.5 * ((d - center) / width).powi(2)).exp()
}

/// T_n(t) for |t| ≤ 1.
pub fn chebyshev(t: f64, n: usize) -> f64 {
    (n as f64 * t.acos()).cos()
}
