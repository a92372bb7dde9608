//! The two forms of a symmetric basis: the dense tensor of checkpoints, and polynomials in the features.

use crate::irreps::Irrep;

use super::{SymmetricBasisError, checked_components, checked_values};

/// A basis as a dense tensor `[2L + 1][D]…[D][paths]`, row-major, with `nu` input axes.
#[derive(Clone, Debug, PartialEq)]
pub struct DenseBasis {
    pub(super) output_dim: usize,
    pub(super) input_dim: usize,
    pub(super) correlation: usize,
    pub(super) paths: usize,
    pub(super) values: Vec<f64>,
}

impl DenseBasis {
    /// Wraps values, for example those of a checkpoint, `[output_dim][input_dim]^correlation[paths]`
    /// in row-major order. Where a file drops the leading axis of a scalar output, `output_dim` is 1.
    ///
    /// # Errors
    /// [`SymmetricBasisError`] if the sizes are out of bounds or do not match the number of values, or a
    /// value is not finite.
    pub fn new(
        output_dim: usize,
        input_dim: usize,
        correlation: usize,
        paths: usize,
        values: Vec<f64>,
    ) -> Result<Self, SymmetricBasisError> {
        let components = checked_components(input_dim, correlation)?;
        if output_dim == 0 {
            return Err(SymmetricBasisError::Empty);
        }
        // Without paths the number of values says nothing about this one.
        if output_dim > 2 * Irrep::MAX_L + 1 {
            return Err(SymmetricBasisError::TooLarge { input_dim, correlation });
        }
        let expected = components.checked_mul(output_dim).and_then(|size| size.checked_mul(paths));
        if expected != Some(values.len()) {
            return Err(SymmetricBasisError::Length { output_dim, input_dim, correlation, paths, found: values.len() });
        }
        if let Some(index) = values.iter().position(|value| !value.is_finite()) {
            return Err(SymmetricBasisError::NotFinite { index });
        }
        Ok(Self { output_dim, input_dim, correlation, paths, values })
    }

    /// `2L + 1`.
    #[must_use]
    pub fn output_dim(&self) -> usize {
        self.output_dim
    }

    /// Number of feature components `D`.
    #[must_use]
    pub fn input_dim(&self) -> usize {
        self.input_dim
    }

    /// Number of input axes `nu`.
    #[must_use]
    pub fn correlation(&self) -> usize {
        self.correlation
    }

    /// Number of paths.
    #[must_use]
    pub fn paths(&self) -> usize {
        self.paths
    }

    /// The values `[2L + 1][D]^nu[paths]`, row-major.
    #[must_use]
    pub fn values(&self) -> &[f64] {
        &self.values
    }
}

/// A basis as polynomials: `B[m][path] = sum_n coefficient[m][n][path] prod_i A[index[n][i]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Monomials {
    pub(super) output_dim: usize,
    pub(super) input_dim: usize,
    pub(super) correlation: usize,
    pub(super) paths: usize,
    indices: Vec<u32>,
    pub(super) coefficients: Vec<f64>,
}

impl Monomials {
    /// Collects all orderings of the same components into one monomial each, so that both forms have the
    /// same value for every `A`. Monomials whose coefficients are all exactly zero are left out.
    ///
    /// Time is linear in the number of values; memory that of the result and a table of `D^nu` entries.
    #[must_use]
    pub fn from_dense(basis: &DenseBasis) -> Self {
        let table = MonomialTable::new(basis.input_dim, basis.correlation);
        let mut result = table.empty(basis.output_dim, basis.paths);
        if basis.paths > 0 {
            let components = table.ranks.len();
            for (row, values) in basis.values.chunks_exact(basis.paths).enumerate() {
                let rank = table.ranks[row % components] as usize;
                let start = (row / components * table.len() + rank) * basis.paths;
                let target = &mut result.coefficients[start..start + basis.paths];
                for (sum, value) in target.iter_mut().zip(values) {
                    *sum += value;
                }
            }
        }
        result.pruned(0.0)
    }

    /// Monomials as they are stored: `indices` `[monomials][nu]`, each monomial's components in non-decreasing order, and `coefficients`
    /// `[output_dim][monomials][paths]`, row-major.
    ///
    /// # Errors
    /// [`SymmetricBasisError`] if the sizes do not match, a component is out of range or out of order, or a value is not finite.
    pub fn from_parts(
        output_dim: usize,
        input_dim: usize,
        correlation: usize,
        paths: usize,
        indices: Vec<u32>,
        coefficients: Vec<f64>,
    ) -> Result<Self, SymmetricBasisError> {
        checked_components(input_dim, correlation)?;
        let count = indices.len() / correlation;
        let expected = output_dim.checked_mul(count).and_then(|n| n.checked_mul(paths));
        if !indices.len().is_multiple_of(correlation) || expected != Some(coefficients.len()) {
            return Err(SymmetricBasisError::StoredSize { monomials: count, values: coefficients.len() });
        }
        let valid = |m: &[u32]| m.is_sorted() && m.last().is_some_and(|&a| (a as usize) < input_dim);
        if let Some(monomial) = indices.chunks_exact(correlation).position(|m| !valid(m)) {
            return Err(SymmetricBasisError::StoredMonomial { monomial });
        }
        if let Some(index) = coefficients.iter().position(|value| !value.is_finite()) {
            return Err(SymmetricBasisError::NotFinite { index });
        }
        Ok(Self { output_dim, input_dim, correlation, paths, indices, coefficients })
    }

    /// Without the monomials whose coefficients are all at most `tolerance` in magnitude: with a
    /// tolerance above zero, without those that are rounding noise.
    #[must_use]
    pub fn pruned(&self, tolerance: f64) -> Self {
        let kept: Vec<usize> =
            (0..self.len()).filter(|&n| (0..self.output_dim).any(|m| self.row(m, n).iter().any(|value| value.abs() > tolerance))).collect();
        Self {
            indices: kept.iter().flat_map(|&n| self.monomial(n)).copied().collect(),
            coefficients: (0..self.output_dim).flat_map(|m| kept.iter().flat_map(move |&n| self.row(m, n))).copied().collect(),
            ..*self
        }
    }

    /// `2L + 1`.
    #[must_use]
    pub fn output_dim(&self) -> usize {
        self.output_dim
    }

    /// Number of feature components `D`.
    #[must_use]
    pub fn input_dim(&self) -> usize {
        self.input_dim
    }

    /// Number of factors in each monomial, `nu`.
    #[must_use]
    pub fn correlation(&self) -> usize {
        self.correlation
    }

    /// Number of paths.
    #[must_use]
    pub fn paths(&self) -> usize {
        self.paths
    }

    /// Number of monomials.
    #[must_use]
    pub fn len(&self) -> usize {
        self.indices.len() / self.correlation
    }

    /// Whether the basis is identically zero.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.indices.is_empty()
    }

    /// The components of monomial `n` in non-decreasing order, length `nu`.
    ///
    /// # Panics
    /// If there are not that many monomials.
    #[must_use]
    pub fn monomial(&self, n: usize) -> &[u32] {
        &self.indices[n * self.correlation..(n + 1) * self.correlation]
    }

    /// The components of all monomials, `[monomials][nu]`; the monomials are in lexicographic order.
    #[must_use]
    pub fn indices(&self) -> &[u32] {
        &self.indices
    }

    /// The coefficients `[2L + 1][monomials][paths]`, row-major.
    #[must_use]
    pub fn coefficients(&self) -> &[f64] {
        &self.coefficients
    }

    /// The coefficients of monomial `n` in output component `m`, one per path.
    ///
    /// # Panics
    /// If `m` or `n` is out of range.
    #[must_use]
    pub fn row(&self, m: usize, n: usize) -> &[f64] {
        let start = (m * self.len() + n) * self.paths;
        &self.coefficients[start..start + self.paths]
    }

    /// The values `B[m][path]`, row-major, for one channel of features `a` (length `D`). A reference, not
    /// fast.
    ///
    /// # Panics
    /// If `a` has another length.
    #[must_use]
    pub fn evaluate(&self, a: &[f64]) -> Vec<f64> {
        assert_eq!(a.len(), self.input_dim, "number of feature components");
        let mut result = vec![0.0; self.output_dim * self.paths];
        for n in 0..self.len() {
            let product: f64 = self.monomial(n).iter().map(|&i| a[i as usize]).product();
            for m in 0..self.output_dim {
                let target = &mut result[m * self.paths..(m + 1) * self.paths];
                for (sum, value) in target.iter_mut().zip(self.row(m, n)) {
                    *sum += value * product;
                }
            }
        }
        result
    }

    /// The dense tensor that is symmetric in its input axes and has the same values.
    ///
    /// # Errors
    /// [`SymmetricBasisError::TooLarge`] above [`MAX_VALUES`](super::MAX_VALUES).
    pub fn to_dense(&self) -> Result<DenseBasis, SymmetricBasisError> {
        let components = checked_components(self.input_dim, self.correlation)?;
        let size = checked_values(self.input_dim, self.correlation, self.output_dim, self.paths)?;
        let table = MonomialTable::new(self.input_dim, self.correlation);
        let mut position = vec![usize::MAX; table.len()];
        for n in 0..self.len() {
            let flat = flatten(self.monomial(n), self.input_dim);
            position[table.ranks[flat] as usize] = n;
        }
        let mut values = Vec::with_capacity(size);
        for m in 0..self.output_dim {
            for &rank in &table.ranks[..components] {
                match position[rank as usize] {
                    usize::MAX => values.extend(std::iter::repeat_n(0.0, self.paths)),
                    n => {
                        let share = 1.0 / orderings(self.monomial(n));
                        values.extend(self.row(m, n).iter().map(|value| value * share));
                    }
                }
            }
        }
        Ok(DenseBasis { output_dim: self.output_dim, input_dim: self.input_dim, correlation: self.correlation, paths: self.paths, values })
    }
}

/// All sorted tuples of `nu` components, and for every tuple in any order which sorted one it is.
pub(super) struct MonomialTable {
    input_dim: usize,
    correlation: usize,
    /// `[monomials][nu]`, lexicographic.
    pub(super) indices: Vec<u32>,
    /// `[D^nu]`.
    pub(super) ranks: Vec<u32>,
}

impl MonomialTable {
    /// The sizes must have passed [`checked_components`].
    pub(super) fn new(input_dim: usize, correlation: usize) -> Self {
        let components = input_dim.pow(correlation as u32);
        let mut indices = Vec::new();
        let mut ranks = vec![0u32; components];
        let mut tuple = vec![0u32; correlation];
        let mut sorted = tuple.clone();
        let mut count = 0;
        // In increasing order the sorted arrangement of a tuple comes before all its others.
        for flat in 0..components {
            if tuple.is_sorted() {
                indices.extend_from_slice(&tuple);
                ranks[flat] = count;
                count += 1;
            } else {
                sorted.copy_from_slice(&tuple);
                sorted.sort_unstable();
                ranks[flat] = ranks[flatten(&sorted, input_dim)];
            }
            for digit in tuple.iter_mut().rev() {
                *digit += 1;
                if (*digit as usize) < input_dim {
                    break;
                }
                *digit = 0;
            }
        }
        Self { input_dim, correlation, indices, ranks }
    }

    pub(super) fn len(&self) -> usize {
        self.indices.len() / self.correlation
    }

    pub(super) fn empty(&self, output_dim: usize, paths: usize) -> Monomials {
        Monomials {
            output_dim,
            input_dim: self.input_dim,
            correlation: self.correlation,
            paths,
            indices: self.indices.clone(),
            coefficients: vec![0.0; output_dim * self.len() * paths],
        }
    }
}

/// Row-major position of a tuple of components.
pub(super) fn flatten(index: &[u32], input_dim: usize) -> usize {
    index.iter().fold(0, |flat, &component| flat * input_dim + component as usize)
}

/// Number of different orderings of a sorted tuple.
pub(super) fn orderings(monomial: &[u32]) -> f64 {
    let (mut count, mut run) = (1.0, 0.0);
    for (n, component) in monomial.iter().enumerate() {
        run = if n > 0 && monomial[n - 1] == *component { run + 1.0 } else { 1.0 };
        count *= (n + 1) as f64 / run;
    }
    count
}
