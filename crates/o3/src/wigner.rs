//! Wigner 3j tensors of real spherical harmonics, in both sign conventions in use, and rotation matrices.

use std::collections::HashMap;
use std::f64::consts::FRAC_1_SQRT_2;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use crate::irreps::{Irrep, Parity};

/// The largest degree of a 3j tensor: up to here the integer sums behind it are exact in 128 bits.
pub const MAX_L: usize = 20;

/// Magnitudes below this are rounding noise of a coefficient that is zero.
const ZERO: f64 = 1e-14;

/// Which overall sign the 3j tensors carry. Everything else about them is fixed by rotational
/// invariance and unit norm; a checkpoint's weights belong to the convention they were trained with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Convention {
    /// e3nn 0.4.x: every MACE model, SevenNet checkpoints of version 0.10 and older, NequIP 0.6 and
    /// older. The tensor of sorted degrees has a positive centre element (or, where that is zero, a
    /// positive first non-zero one); other orders of the degrees are its transposes, with a factor
    /// `(-1)^(l1+l2+l3)` for odd permutations.
    E3nn04,
    /// e3nn 0.5 and newer: SevenNet from version 0.11, NequIP from 0.7. The Clebsch-Gordan
    /// coefficients of Condon and Shortley for the degrees in the order given, transformed to the
    /// real basis.
    E3nn05,
}

/// One non-zero coefficient of a three-index tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Coefficient {
    /// Component of the first factor, `0..2 l1 + 1`.
    pub i: usize,
    /// Component of the second factor, `0..2 l2 + 1`.
    pub j: usize,
    /// Component of the result, `0..2 l3 + 1`.
    pub k: usize,
    /// The coefficient.
    pub value: f64,
}

/// A dense 3j tensor `[2 l1 + 1][2 l2 + 1][2 l3 + 1]`, row-major, sum of squares one.
#[derive(Clone, Debug, PartialEq)]
pub struct Wigner3j {
    degrees: [usize; 3],
    values: Vec<f64>,
}

impl Wigner3j {
    /// The degrees `[l1, l2, l3]`.
    #[must_use]
    pub fn degrees(&self) -> [usize; 3] {
        self.degrees
    }

    /// The shape `[2 l1 + 1, 2 l2 + 1, 2 l3 + 1]`.
    #[must_use]
    pub fn shape(&self) -> [usize; 3] {
        self.degrees.map(|l| 2 * l + 1)
    }

    /// All values, row-major, length `(2 l1 + 1)(2 l2 + 1)(2 l3 + 1)`.
    #[must_use]
    pub fn values(&self) -> &[f64] {
        &self.values
    }

    /// The element `[i][j][k]`; each index counts components from `m = -l`.
    ///
    /// # Panics
    /// If an index is out of range.
    #[must_use]
    pub fn get(&self, i: usize, j: usize, k: usize) -> f64 {
        let [d1, d2, d3] = self.shape();
        assert!(i < d1 && j < d2 && k < d3, "component out of range");
        self.values[(i * d2 + j) * d3 + k]
    }

    /// The non-zero elements in row-major order.
    #[must_use]
    pub fn sparse(&self) -> Vec<Coefficient> {
        let [_, d2, d3] = self.shape();
        self.values
            .iter()
            .enumerate()
            .filter(|(_, value)| value.abs() >= ZERO)
            .map(|(index, &value)| Coefficient { i: index / (d2 * d3), j: index / d3 % d2, k: index % d3, value })
            .collect()
    }
}

/// What can be wrong with a request for 3j tensors or rotation matrices.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum WignerError {
    /// The degrees cannot couple.
    #[error("no coupling of l = {l1} and l = {l2} to l = {l3}: it needs |l1 - l2| <= l3 <= l1 + l2")]
    Triangle {
        /// Degree of the first factor.
        l1: usize,
        /// Degree of the second factor.
        l2: usize,
        /// Degree of the result.
        l3: usize,
    },
    /// A degree above [`MAX_L`].
    #[error("the degree l = {l} is above {max}, the largest with exact coupling coefficients")]
    DegreeTooLarge {
        /// The degree asked for.
        l: usize,
        /// The largest supported degree.
        max: usize,
    },
    /// A matrix that is not orthogonal.
    #[error("the 3x3 matrix is not orthogonal: R^T R differs from the identity by {deviation:e}")]
    NotOrthogonal {
        /// Largest element of `|R^T R - 1|`; NaN if the matrix holds one.
        deviation: f64,
    },
}

/// The real 3j tensor of degrees `l1, l2, l3` with the signs of `convention`. Computed once per
/// process, shared afterwards.
///
/// The coefficients come from exact integer sums; errors are those of a few `f64` roundings.
///
/// # Errors
/// [`WignerError::Triangle`] and [`WignerError::DegreeTooLarge`].
pub fn wigner_3j(l1: usize, l2: usize, l3: usize, convention: Convention) -> Result<Arc<Wigner3j>, WignerError> {
    type Cache = RwLock<HashMap<([usize; 3], Convention), Arc<Wigner3j>>>;
    static CACHE: OnceLock<Cache> = OnceLock::new();

    for l in [l1, l2, l3] {
        if l > MAX_L {
            return Err(WignerError::DegreeTooLarge { l, max: MAX_L });
        }
    }
    if l3 < l1.abs_diff(l2) || l3 > l1 + l2 {
        return Err(WignerError::Triangle { l1, l2, l3 });
    }
    let degrees = [l1, l2, l3];
    let cache = CACHE.get_or_init(Cache::default);
    // A poisoned lock is harmless here: entries are inserted whole.
    if let Some(tensor) = cache.read().unwrap_or_else(PoisonError::into_inner).get(&(degrees, convention)) {
        return Ok(Arc::clone(tensor));
    }
    let values = match convention {
        Convention::E3nn05 => real_clebsch_gordan(degrees),
        Convention::E3nn04 => permuted_canonical(degrees),
    };
    let tensor = Arc::new(Wigner3j { degrees, values });
    let mut entries = cache.write().unwrap_or_else(PoisonError::into_inner);
    // Another thread may have been first; all callers then share its tensor.
    Ok(Arc::clone(entries.entry((degrees, convention)).or_insert(tensor)))
}

/// `+1.0` where both sign conventions agree for these degrees, `-1.0` where
/// [`Convention::E3nn04`] is the negative of [`Convention::E3nn05`].
///
/// # Errors
/// As [`wigner_3j`].
pub fn convention_sign(l1: usize, l2: usize, l3: usize) -> Result<f64, WignerError> {
    let old = wigner_3j(l1, l2, l3, Convention::E3nn04)?;
    let new = wigner_3j(l1, l2, l3, Convention::E3nn05)?;
    let overlap: f64 = old.values.iter().zip(&new.values).map(|(a, b)| a * b).sum();
    Ok(overlap.signum())
}

/// The matrix `D`, row-major `[2l + 1][2l + 1]`, with `Y_l(R v) = D Y_l(v)` for the real spherical
/// harmonics of degree `l` and any orthogonal `R` (rows of the 3x3 matrix acting on column vectors).
///
/// For an `R` with reflection this is the irrep of natural parity `(-1)^l`; see [`wigner_d_irrep`].
///
/// # Errors
/// [`WignerError::DegreeTooLarge`], and [`WignerError::NotOrthogonal`] if `R^T R` is further than
/// `1e-8` from the identity.
pub fn wigner_d(l: usize, rotation: &[[f64; 3]; 3]) -> Result<Vec<f64>, WignerError> {
    if l > MAX_L {
        return Err(WignerError::DegreeTooLarge { l, max: MAX_L });
    }
    check_orthogonal(rotation)?;
    // D_n is the part of D_(n-1) x R of degree n, since the rows of the 3j tensor, times
    // sqrt(2n + 1), are an orthonormal basis of that part.
    let mut matrix = vec![1.0];
    for n in 1..=l {
        let coupling = wigner_3j(n - 1, 1, n, Convention::E3nn05)?.sparse();
        let (inner, dim) = (2 * n - 1, 2 * n + 1);
        let mut next = vec![0.0; dim * dim];
        for row in &coupling {
            for column in &coupling {
                next[row.k * dim + column.k] +=
                    dim as f64 * row.value * column.value * matrix[row.i * inner + column.i] * rotation[row.j][column.j];
            }
        }
        matrix = next;
    }
    Ok(matrix)
}

/// As [`wigner_d`], for an irrep of either parity: an irrep of unnatural parity changes sign under
/// an `R` with reflection relative to the spherical harmonics of its degree.
///
/// # Errors
/// As [`wigner_d`].
pub fn wigner_d_irrep(irrep: Irrep, rotation: &[[f64; 3]; 3]) -> Result<Vec<f64>, WignerError> {
    let mut matrix = wigner_d(irrep.l, rotation)?;
    if irrep.parity != Parity::natural(irrep.l) && determinant(rotation) < 0.0 {
        matrix.iter_mut().for_each(|value| *value = -*value);
    }
    Ok(matrix)
}

fn determinant(m: &[[f64; 3]; 3]) -> f64 {
    m[0][0] * (m[1][1] * m[2][2] - m[1][2] * m[2][1]) - m[0][1] * (m[1][0] * m[2][2] - m[1][2] * m[2][0])
        + m[0][2] * (m[1][0] * m[2][1] - m[1][1] * m[2][0])
}

fn check_orthogonal(rotation: &[[f64; 3]; 3]) -> Result<(), WignerError> {
    let mut deviation = 0.0f64;
    for a in 0..3 {
        for b in 0..3 {
            let dot: f64 = (0..3).map(|c| rotation[c][a] * rotation[c][b]).sum();
            let error = (dot - f64::from(u8::from(a == b))).abs();
            // `f64::max` would drop a NaN.
            deviation = if error > deviation || error.is_nan() { error } else { deviation };
        }
    }
    if deviation <= 1e-8 { Ok(()) } else { Err(WignerError::NotOrthogonal { deviation }) }
}

/// Rows 0..=2 MAX_L of Pascal's triangle, exact.
fn binomials() -> &'static [Vec<i128>] {
    static TABLE: OnceLock<Vec<Vec<i128>>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let mut rows: Vec<Vec<i128>> = vec![vec![1]];
        for n in 1..=2 * MAX_L {
            let above = &rows[n - 1];
            let row = (0..=n)
                .map(|k| {
                    let left = if k > 0 { above[k - 1] } else { 0 };
                    left + above.get(k).copied().unwrap_or(0)
                })
                .collect();
            rows.push(row);
        }
        rows
    })
}

/// The binomial coefficient, zero for `k` outside `0..=n`.
fn binomial(n: usize, k: i64) -> i128 {
    usize::try_from(k).ok().and_then(|k| binomials()[n].get(k).copied()).unwrap_or(0)
}

/// The Clebsch-Gordan coefficient `<l1 m1 l2 m2 | l3 m1+m2>` up to a positive factor that depends
/// on the degrees alone. Van der Waerden's sum written with binomials, so that it is exact.
fn clebsch_gordan_unscaled([l1, l2, l3]: [usize; 3], m1: i64, m2: i64) -> f64 {
    let (a, b, c) = (l1 + l2 - l3, l1 + l3 - l2, l2 + l3 - l1);
    let (s1, s2, s3) = (l1 as i64, l2 as i64, l3 as i64);
    let sum: i128 = (0..=a as i64)
        .map(|k| {
            let term = binomial(a, k) * binomial(b, s1 - m1 - k) * binomial(c, s2 + m2 - k);
            if k % 2 == 0 { term } else { -term }
        })
        .sum();
    let weight = binomial(2 * l1, s1 - m1) as f64 * binomial(2 * l2, s2 - m2) as f64 * binomial(2 * l3, s3 - m1 - m2) as f64;
    sum as f64 / weight.sqrt()
}

/// The non-zero entries `(real component, real part, imaginary part)` in the row of the
/// complex component `m` of the unitary matrix from real to complex harmonics, including the phase
/// `(-i)^l` that makes all 3j tensors real.
fn real_to_complex(l: usize, m: i64) -> Vec<(usize, f64, f64)> {
    let centre = l as i64;
    let column = |m: i64| (centre + m) as usize;
    let sign = if m % 2 == 0 { 1.0 } else { -1.0 };
    let row = match m {
        0 => vec![(column(0), 1.0, 0.0)],
        m if m < 0 => vec![(column(-m), FRAC_1_SQRT_2, 0.0), (column(m), 0.0, -FRAC_1_SQRT_2)],
        m => vec![(column(m), sign * FRAC_1_SQRT_2, 0.0), (column(-m), 0.0, sign * FRAC_1_SQRT_2)],
    };
    row.into_iter()
        .map(|(column, re, im)| match l % 4 {
            0 => (column, re, im),
            1 => (column, im, -re),
            2 => (column, -re, -im),
            _ => (column, -im, re),
        })
        .collect()
}

/// The 3j tensor for the degrees in the order given, signs of [`Convention::E3nn05`].
fn real_clebsch_gordan(degrees: [usize; 3]) -> Vec<f64> {
    let [l1, l2, l3] = degrees;
    let [_, d2, d3] = degrees.map(|l| 2 * l + 1);
    let rows = degrees.map(|l| (-(l as i64)..=l as i64).map(|m| real_to_complex(l, m)).collect::<Vec<_>>());
    let mut values = vec![0.0; (2 * l1 + 1) * d2 * d3];
    let mut norm = 0.0;
    for m1 in -(l1 as i64)..=l1 as i64 {
        for m2 in -(l2 as i64)..=l2 as i64 {
            let m3 = m1 + m2;
            if m3.unsigned_abs() as usize > l3 {
                continue;
            }
            let coefficient = clebsch_gordan_unscaled(degrees, m1, m2);
            norm += coefficient * coefficient;
            for &(i, re1, im1) in &rows[0][(m1 + l1 as i64) as usize] {
                for &(j, re2, im2) in &rows[1][(m2 + l2 as i64) as usize] {
                    let (re, im) = (re1 * re2 - im1 * im2, re1 * im2 + im1 * re2);
                    for &(k, re3, im3) in &rows[2][(m3 + l3 as i64) as usize] {
                        // Real part of the product with the conjugate; the imaginary parts cancel.
                        values[(i * d2 + j) * d3 + k] += coefficient * (re * re3 + im * im3);
                    }
                }
            }
        }
    }
    // The change of basis is unitary, so the norm of the complex tensor is that of the real one.
    let scale = 1.0 / norm.sqrt();
    for value in &mut values {
        *value *= scale;
        if value.abs() < ZERO {
            *value = 0.0;
        }
    }
    values
}

/// The 3j tensor with the signs of [`Convention::E3nn04`].
fn permuted_canonical(degrees: [usize; 3]) -> Vec<f64> {
    let mut order = [0, 1, 2];
    order.sort_by_key(|&axis| degrees[axis]);
    let sorted = order.map(|axis| degrees[axis]);
    let canonical = real_clebsch_gordan(sorted);
    let [_, s2, s3] = sorted.map(|l| 2 * l + 1);

    let centre = canonical[(sorted[0] * s2 + sorted[1]) * s3 + sorted[2]];
    let leading = if centre == 0.0 { canonical.iter().copied().find(|&value| value != 0.0) } else { Some(centre) };
    let mut sign = leading.map_or(1.0, f64::signum);
    let even = matches!(order, [0, 1, 2] | [1, 2, 0] | [2, 0, 1]);
    if !even && degrees.iter().sum::<usize>() % 2 == 1 {
        sign = -sign;
    }

    let [d1, d2, d3] = degrees.map(|l| 2 * l + 1);
    let mut values = Vec::with_capacity(d1 * d2 * d3);
    for i in 0..d1 {
        for j in 0..d2 {
            for k in 0..d3 {
                let component = [i, j, k];
                let [a, b, c] = order.map(|axis| component[axis]);
                values.push(sign * canonical[(a * s2 + b) * s3 + c]);
            }
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spherical_harmonics::SphericalHarmonics;

    const BOTH: [Convention; 2] = [Convention::E3nn04, Convention::E3nn05];

    /// A proper rotation without symmetry, from a unit quaternion.
    fn rotation() -> [[f64; 3]; 3] {
        let q = [0.3, -0.7, 0.45, 0.2f64];
        let norm = q.iter().map(|c| c * c).sum::<f64>().sqrt();
        let [w, x, y, z] = q.map(|c| c / norm);
        [
            [1.0 - 2.0 * (y * y + z * z), 2.0 * (x * y - w * z), 2.0 * (x * z + w * y)],
            [2.0 * (x * y + w * z), 1.0 - 2.0 * (x * x + z * z), 2.0 * (y * z - w * x)],
            [2.0 * (x * z - w * y), 2.0 * (y * z + w * x), 1.0 - 2.0 * (x * x + y * y)],
        ]
    }

    fn triples(l_max: usize) -> impl Iterator<Item = [usize; 3]> {
        (0..=l_max).flat_map(move |l1| (0..=l_max).flat_map(move |l2| (l1.abs_diff(l2)..=(l1 + l2).min(l_max)).map(move |l3| [l1, l2, l3])))
    }

    #[test]
    fn tabulated_values() {
        for convention in BOTH {
            let scalar = 1.0 / 3f64.sqrt();
            for (degrees, expected) in [
                ([0, 1, 1], vec![([0, 0, 0], scalar), ([0, 1, 1], scalar), ([0, 2, 2], scalar)]),
                ([1, 1, 0], vec![([0, 0, 0], scalar), ([1, 1, 0], scalar), ([2, 2, 0], scalar)]),
                (
                    [1, 1, 2],
                    vec![
                        ([0, 0, 2], -0.1825741858),
                        ([0, 0, 4], -0.3162277660),
                        ([0, 1, 1], 0.3162277660),
                        ([0, 2, 0], 0.3162277660),
                        ([1, 0, 1], 0.3162277660),
                        ([1, 1, 2], 0.3651483717),
                        ([1, 2, 3], 0.3162277660),
                        ([2, 0, 0], 0.3162277660),
                        ([2, 1, 3], 0.3162277660),
                        ([2, 2, 2], -0.1825741858),
                        ([2, 2, 4], 0.3162277660),
                    ],
                ),
            ] {
                let [l1, l2, l3] = degrees;
                let found = wigner_3j(l1, l2, l3, convention).unwrap().sparse();
                assert_eq!(found.len(), expected.len(), "{degrees:?}");
                for (entry, (component, value)) in found.iter().zip(expected) {
                    assert_eq!([entry.i, entry.j, entry.k], component);
                    assert!((entry.value - value).abs() < 1e-10, "{degrees:?} {entry:?}");
                }
            }
            // Levi-Civita divided by sqrt(6).
            let cross = wigner_3j(1, 1, 1, convention).unwrap();
            assert_eq!(cross.sparse().len(), 6);
            assert!((cross.get(0, 1, 2) - 1.0 / 6f64.sqrt()).abs() < 1e-15);
            assert!((cross.get(1, 0, 2) + 1.0 / 6f64.sqrt()).abs() < 1e-15);
        }
    }

    #[test]
    fn scalars_couple_by_the_identity() {
        for l in 0..=12 {
            for convention in BOTH {
                for degrees in [[0, l, l], [l, 0, l], [l, l, 0]] {
                    let [l1, l2, l3] = degrees;
                    let found = wigner_3j(l1, l2, l3, convention).unwrap().sparse();
                    assert_eq!(found.len(), 2 * l + 1);
                    for entry in found {
                        let value = 1.0 / ((2 * l + 1) as f64).sqrt();
                        assert!((entry.value - value).abs() < 1e-14);
                    }
                }
            }
        }
    }

    /// Orthogonality over any pair of indices, which also says that the sum of squares is one and
    /// that no imaginary part was lost in going to the real basis.
    #[test]
    fn rows_are_orthonormal() {
        let high = [[8, 8, 8], [8, 7, 3], [5, 8, 8], [12, 12, 12], [20, 20, 20], [3, 20, 19]];
        for degrees in triples(6).chain(high) {
            for convention in BOTH {
                let [l1, l2, l3] = degrees;
                let tensor = wigner_3j(l1, l2, l3, convention).unwrap();
                let d3 = 2 * l3 + 1;
                let mut gram = vec![0.0; d3 * d3];
                for row in tensor.values().chunks_exact(d3) {
                    for (k, a) in row.iter().enumerate().filter(|(_, a)| **a != 0.0) {
                        for (n, b) in row.iter().enumerate() {
                            gram[k * d3 + n] += a * b * d3 as f64;
                        }
                    }
                }
                for (index, value) in gram.iter().enumerate() {
                    let expected = f64::from(u8::from(index / d3 == index % d3));
                    assert!((value - expected).abs() < 1e-13, "{degrees:?} {value}");
                }
            }
        }
    }

    #[test]
    fn conventions_differ_exactly_where_published() {
        let mut different: Vec<[usize; 3]> = triples(4).filter(|&[l1, l2, l3]| convention_sign(l1, l2, l3).unwrap() < 0.0).collect();
        let mut expected = Vec::new();
        for l in 2..=4 {
            expected.extend([[1, l, l], [l, 1, l], [l, l, 1]]);
        }
        different.sort_unstable();
        expected.sort_unstable();
        assert_eq!(different, expected);
        for degrees in [[3, 4, 6], [4, 4, 5], [5, 5, 5]] {
            let [l1, l2, l3] = degrees;
            assert_eq!(convention_sign(l1, l2, l3), Ok(-1.0), "{degrees:?}");
        }
        // Apart from the sign they are the same tensor.
        for [l1, l2, l3] in triples(6) {
            let old = wigner_3j(l1, l2, l3, Convention::E3nn04).unwrap();
            let new = wigner_3j(l1, l2, l3, Convention::E3nn05).unwrap();
            let sign = convention_sign(l1, l2, l3).unwrap();
            for (a, b) in old.values().iter().zip(new.values()) {
                assert!((a - sign * b).abs() < 1e-14);
            }
        }
    }

    #[test]
    fn old_convention_permutes_cyclically_without_sign() {
        for [l1, l2, l3] in triples(5) {
            let tensor = wigner_3j(l1, l2, l3, Convention::E3nn04).unwrap();
            let cyclic = wigner_3j(l2, l3, l1, Convention::E3nn04).unwrap();
            let swapped = wigner_3j(l2, l1, l3, Convention::E3nn04).unwrap();
            let sign = if (l1 + l2 + l3) % 2 == 0 { 1.0 } else { -1.0 };
            for entry in tensor.sparse() {
                let Coefficient { i, j, k, value } = entry;
                assert!((cyclic.get(j, k, i) - value).abs() < 1e-14);
                assert!((swapped.get(j, i, k) - sign * value).abs() < 1e-14);
            }
        }
    }

    #[test]
    fn rotates_spherical_harmonics() {
        let harmonics = SphericalHarmonics::new(12).unwrap();
        let mut mirrored = rotation();
        mirrored[1] = mirrored[1].map(|value| -value);
        for matrix in [rotation(), mirrored] {
            let v = [0.4, -1.1, 0.7];
            let rotated = matrix.map(|row| (0..3).map(|b| row[b] * v[b]).sum::<f64>());
            let mut before = vec![0.0; harmonics.len()];
            let mut after = vec![0.0; harmonics.len()];
            harmonics.evaluate(v, true, &mut before);
            harmonics.evaluate(rotated, true, &mut after);
            for l in 0..=12 {
                let d = wigner_d(l, &matrix).unwrap();
                let dim = 2 * l + 1;
                for a in 0..dim {
                    let value: f64 = (0..dim).map(|b| d[a * dim + b] * before[l * l + b]).sum();
                    assert!((value - after[l * l + a]).abs() < 1e-12, "l {l}");
                }
            }
            let odd = wigner_d_irrep(Irrep::odd(0), &matrix).unwrap();
            assert_eq!(odd, [determinant(&matrix).signum()]);
        }
    }

    #[test]
    fn invariant_under_rotation() {
        let matrix = rotation();
        for degrees in triples(4).chain([[5, 6, 7], [8, 8, 8], [6, 3, 8]]) {
            let [l1, l2, l3] = degrees;
            let matrices = degrees.map(|l| wigner_d(l, &matrix).unwrap());
            let tensor = wigner_3j(l1, l2, l3, Convention::E3nn05).unwrap();
            let [d1, d2, d3] = tensor.shape();
            // One axis after the other: the last axis is rotated and moved to the front.
            let mut values = tensor.values().to_vec();
            for (d, dim) in [(&matrices[2], d3), (&matrices[1], d2), (&matrices[0], d1)] {
                let rows = values.len() / dim;
                let mut next = vec![0.0; values.len()];
                for row in 0..rows {
                    for a in 0..dim {
                        next[a * rows + row] = (0..dim).map(|b| d[a * dim + b] * values[row * dim + b]).sum();
                    }
                }
                values = next;
            }
            for (a, b) in values.iter().zip(tensor.values()) {
                assert!((a - b).abs() < 1e-12, "{degrees:?}");
            }
        }
    }

    #[test]
    fn refuses_what_cannot_couple() {
        assert_eq!(wigner_3j(1, 1, 3, Convention::E3nn04), Err(WignerError::Triangle { l1: 1, l2: 1, l3: 3 }));
        assert!(matches!(wigner_3j(usize::MAX, 1, 3, Convention::E3nn05), Err(WignerError::DegreeTooLarge { .. })));
        let stretched = [[1.1, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];
        assert!(matches!(wigner_d(1, &stretched), Err(WignerError::NotOrthogonal { .. })));
        assert!(wigner_d(1, &[[f64::NAN; 3]; 3]).is_err());
    }

    #[test]
    fn shares_one_tensor() {
        let first = wigner_3j(2, 3, 4, Convention::E3nn04).unwrap();
        let second = wigner_3j(2, 3, 4, Convention::E3nn04).unwrap();
        assert!(Arc::ptr_eq(&first, &second));
    }
}
