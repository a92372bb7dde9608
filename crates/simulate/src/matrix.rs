//! Small matrices: 3 × 3, of numbers and of integers.

/// A 3 × 3 matrix; vectors of a lattice are its rows.
pub(crate) type Matrix = [[f64; 3]; 3];
/// The same of integers.
pub(crate) type Integers = [[i64; 3]; 3];

pub(crate) const IDENTITY: Matrix = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];

pub(crate) fn dot(a: [f64; 3], b: [f64; 3]) -> f64 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

pub(crate) fn norm(a: [f64; 3]) -> f64 {
    dot(a, a).sqrt()
}

pub(crate) fn add(a: [f64; 3], b: [f64; 3]) -> [f64; 3] {
    [a[0] + b[0], a[1] + b[1], a[2] + b[2]]
}

pub(crate) fn subtract(a: [f64; 3], b: [f64; 3]) -> [f64; 3] {
    [a[0] - b[0], a[1] - b[1], a[2] - b[2]]
}

/// Matrix × column.
pub(crate) fn apply(m: &Matrix, v: [f64; 3]) -> [f64; 3] {
    m.map(|row| dot(row, v))
}

/// Row × matrix.
#[inline]
pub(crate) fn row_times(v: [f64; 3], m: &Matrix) -> [f64; 3] {
    [0, 1, 2].map(|k| v[0] * m[0][k] + v[1] * m[1][k] + v[2] * m[2][k])
}

pub(crate) fn product(a: &Matrix, b: &Matrix) -> Matrix {
    a.map(|row| row_times(row, b))
}

pub(crate) fn transpose(m: &Matrix) -> Matrix {
    [0, 1, 2].map(|k| [m[0][k], m[1][k], m[2][k]])
}

pub(crate) fn determinant(m: &Matrix) -> f64 {
    m[0][0] * (m[1][1] * m[2][2] - m[1][2] * m[2][1]) - m[0][1] * (m[1][0] * m[2][2] - m[1][2] * m[2][0])
        + m[0][2] * (m[1][0] * m[2][1] - m[1][1] * m[2][0])
}

/// The inverse; not finite where there is none.
pub(crate) fn inverse(m: &Matrix) -> Matrix {
    let d = determinant(m);
    cofactors(m, |a, b, c, e| a * e - b * c).map(|row| row.map(|x| x / d))
}

pub(crate) fn determinant_of_integers(m: &Integers) -> i64 {
    m[0][0] * (m[1][1] * m[2][2] - m[1][2] * m[2][1]) - m[0][1] * (m[1][0] * m[2][2] - m[1][2] * m[2][0])
        + m[0][2] * (m[1][0] * m[2][1] - m[1][1] * m[2][0])
}

/// The adjugate: inverse × determinant.
pub(crate) fn adjugate(m: &Integers) -> Integers {
    cofactors(m, |a, b, c, d| a * d - b * c)
}

/// Transposed cofactors, by the determinant of ((a, b), (c, d)).
fn cofactors<T: Copy>(m: &[[T; 3]; 3], minor: impl Fn(T, T, T, T) -> T) -> [[T; 3]; 3] {
    [0, 1, 2].map(|i| {
        [0, 1, 2].map(|j| {
            // Cyclic indices carry the sign.
            let (r, s) = ((j + 1) % 3, (j + 2) % 3);
            let (p, q) = ((i + 1) % 3, (i + 2) % 3);
            minor(m[r][p], m[r][q], m[s][p], m[s][q])
        })
    })
}

pub(crate) fn to_floats(m: &Integers) -> Matrix {
    m.map(|row| row.map(|x| x as f64))
}

/// The nearest integers, if all are within `tolerance`.
pub(crate) fn to_integers(m: &Matrix, tolerance: f64) -> Option<Integers> {
    m.iter().flatten().all(|x| (x - x.round()).abs() < tolerance).then(|| m.map(|row| row.map(|x| x.round() as i64)))
}

/// The orthogonal matrix nearest to one that is almost orthogonal: by averaging with the inverse transpose (Higham, SIAM J. Sci. Stat. Comput. 7, 1160 (1986)).
pub(crate) fn nearest_rotation(m: &Matrix) -> Matrix {
    let mut r = *m;
    for _ in 0..8 {
        let other = transpose(&inverse(&r));
        r = [0, 1, 2].map(|i| [0, 1, 2].map(|j| 0.5 * (r[i][j] + other[i][j])));
    }
    r
}

/// Vectors of a lattice made short: each is taken less multiples of the others, and the third less sums of the first two, until nothing gets shorter (Semaev, Lect. Notes
/// Comput. Sci. 2146, 181 (2001)).
pub(crate) fn reduced(lattice: &Matrix) -> Matrix {
    let mut b = *lattice;
    for _ in 0..1000 {
        b.sort_by(|x, y| dot(*x, *x).total_cmp(&dot(*y, *y)));
        let before = b;
        let take = |v: [f64; 3], u: [f64; 3]| {
            let n = (dot(v, u) / dot(u, u)).round();
            let shorter = [0, 1, 2].map(|k| v[k] - n * u[k]);
            if dot(shorter, shorter) < dot(v, v) * (1.0 - 1e-12) { shorter } else { v }
        };
        b[1] = take(b[1], b[0]);
        let mut best = take(take(b[2], b[1]), b[0]);
        for i in -1..=1 {
            for j in -1..=1 {
                let other = [0, 1, 2].map(|k| b[2][k] + f64::from(i) * b[0][k] + f64::from(j) * b[1][k]);
                if dot(other, other) < dot(best, best) * (1.0 - 1e-12) {
                    best = other;
                }
            }
        }
        b[2] = best;
        if b == before {
            break;
        }
    }
    b
}

/// `scale · 1`.
pub(crate) fn diagonal(scale: f64) -> Matrix {
    let mut m = [[0.0; 3]; 3];
    for k in 0..3 {
        m[k][k] = scale;
    }
    m
}

pub(crate) fn trace(m: &Matrix) -> f64 {
    m[0][0] + m[1][1] + m[2][2]
}

pub(crate) fn scaled(m: &Matrix, scale: f64) -> Matrix {
    m.map(|row| row.map(|x| x * scale))
}

/// Entry by entry, `a + scale · b`.
pub(crate) fn plus(a: &Matrix, scale: f64, b: &Matrix) -> Matrix {
    let mut sum = *a;
    for k in 0..3 {
        for l in 0..3 {
            sum[k][l] += scale * b[k][l];
        }
    }
    sum
}

/// Σ a_kl b_kl.
pub(crate) fn contraction(a: &Matrix, b: &Matrix) -> f64 {
    (0..3).map(|k| (0..3).map(|l| a[k][l] * b[k][l]).sum::<f64>()).sum()
}

/// ½ (m + mᵀ).
pub(crate) fn symmetric(m: &Matrix) -> Matrix {
    let mut half = *m;
    for k in 0..3 {
        for l in 0..3 {
            half[k][l] = 0.5 * (m[k][l] + m[l][k]);
        }
    }
    half
}

/// φ₁(m) = (eᵐ − 1)/m = Σ mᵏ/(k+1)!, and eᵐ = 1 + m φ₁(m), for matrices with entries well below 1.
pub(crate) fn exponential(m: &Matrix) -> (Matrix, Matrix) {
    // Horner's scheme; the terms that are left out are below 1e-17 for entries up to 0.3.
    let mut phi = diagonal(1.0);
    for k in (2..=18).rev() {
        phi = plus(&diagonal(1.0), 1.0 / f64::from(k), &product(m, &phi));
    }
    (plus(&diagonal(1.0), 1.0, &product(m, &phi)), phi)
}

/// The largest magnitude of an entry; NaN where there is one.
pub(crate) fn largest(m: &Matrix) -> f64 {
    m.iter().flatten().fold(0.0, |max: f64, x| if x.is_nan() || max.is_nan() { f64::NAN } else { max.max(x.abs()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inverses_and_reduction() {
        let m = [[1.0, 2.0, 0.5], [0.0, -1.0, 3.0], [2.0, 0.3, 1.0]];
        let one = product(&m, &inverse(&m));
        assert!(one.iter().flatten().zip(IDENTITY.iter().flatten()).all(|(a, b)| (a - b).abs() < 1e-14));
        let n = [[2, 1, 0], [0, 1, -1], [3, 0, 1]];
        let (a, d) = (adjugate(&n), determinant_of_integers(&n));
        let p = product(&to_floats(&n), &to_floats(&a));
        assert!((0..3).all(|i| (0..3).all(|j| p[i][j] == if i == j { d as f64 } else { 0.0 })));
        // A skewed cubic lattice becomes cubic again.
        let r = reduced(&[[1.0, 0.0, 0.0], [7.0, 1.0, 0.0], [-4.0, 9.0, 1.0]]);
        assert!(r.iter().all(|v| (norm(*v) - 1.0).abs() < 1e-12), "{r:?}");
    }

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
