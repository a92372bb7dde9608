//! Three by three matrices, as few operations as dynamics needs.

pub(super) type Matrix = [[f64; 3]; 3];

/// `scale · 1`.
pub(super) fn diagonal(scale: f64) -> Matrix {
    let mut m = [[0.0; 3]; 3];
    for k in 0..3 {
        m[k][k] = scale;
    }
    m
}

pub(super) fn trace(m: &Matrix) -> f64 {
    m[0][0] + m[1][1] + m[2][2]
}

pub(super) fn scaled(m: &Matrix, scale: f64) -> Matrix {
    m.map(|row| row.map(|x| x * scale))
}

/// Entry by entry, `a + scale · b`.
pub(super) fn plus(a: &Matrix, scale: f64, b: &Matrix) -> Matrix {
    let mut sum = *a;
    for k in 0..3 {
        for l in 0..3 {
            sum[k][l] += scale * b[k][l];
        }
    }
    sum
}

/// Σ a_kl b_kl.
pub(super) fn contraction(a: &Matrix, b: &Matrix) -> f64 {
    (0..3).map(|k| (0..3).map(|l| a[k][l] * b[k][l]).sum::<f64>()).sum()
}

/// ½ (m + mᵀ).
pub(super) fn symmetric(m: &Matrix) -> Matrix {
    let mut half = *m;
    for k in 0..3 {
        for l in 0..3 {
            half[k][l] = 0.5 * (m[k][l] + m[l][k]);
        }
    }
    half
}

pub(super) fn product(a: &Matrix, b: &Matrix) -> Matrix {
    a.map(|row| row_times(row, b))
}

/// `row · m`.
#[inline]
pub(super) fn row_times(row: [f64; 3], m: &Matrix) -> [f64; 3] {
    [0, 1, 2].map(|k| row[0] * m[0][k] + row[1] * m[1][k] + row[2] * m[2][k])
}

/// φ₁(m) = (eᵐ − 1)/m = Σ mᵏ/(k+1)!, and eᵐ = 1 + m φ₁(m), for matrices with entries well below 1.
pub(super) fn exponential(m: &Matrix) -> (Matrix, Matrix) {
    // Horner's scheme; the terms that are left out are below 1e-17 for entries up to 0.3.
    let mut phi = diagonal(1.0);
    for k in (2..=18).rev() {
        phi = plus(&diagonal(1.0), 1.0 / f64::from(k), &product(m, &phi));
    }
    (plus(&diagonal(1.0), 1.0, &product(m, &phi)), phi)
}

/// The largest magnitude of an entry; NaN where there is one.
pub(super) fn largest(m: &Matrix) -> f64 {
    m.iter().flatten().fold(0.0, |max: f64, x| if x.is_nan() || max.is_nan() { f64::NAN } else { max.max(x.abs()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponential_of_commuting_parts() {
        // A symmetric matrix: exp(m) exp(m) = exp(2m), and tr m = ln det exp(m).
        let m = [[0.1, -0.05, 0.02], [-0.05, -0.07, 0.03], [0.02, 0.03, 0.04]];
        let (e, phi) = exponential(&m);
        let (e2, _) = exponential(&scaled(&m, 2.0));
        let ee = product(&e, &e);
        let defined = plus(&product(&m, &phi), 1.0, &diagonal(1.0));
        for k in 0..3 {
            for l in 0..3 {
                assert!((ee[k][l] - e2[k][l]).abs() < 1e-15);
                assert!((e[k][l] - defined[k][l]).abs() < 1e-15);
            }
        }
        let det = tesseral_atoms::Cell::new(e).signed_volume();
        assert!((det.ln() - trace(&m)).abs() < 1e-15);
        // One number: (e^x − 1)/x.
        let (e, phi) = exponential(&diagonal(-0.3));
        assert!((e[0][0] - (-0.3f64).exp()).abs() < 1e-16 && (phi[1][1] - (-0.3f64).exp_m1() / -0.3).abs() < 1e-15);
    }
}
