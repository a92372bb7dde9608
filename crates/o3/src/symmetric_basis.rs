//! Bases of the equivariant maps from symmetric powers of node features, which MACE contracts with.
//!
//! A basis of correlation `nu` holds, for every path, a tensor `U[m][a_1]…[a_nu]` over `D` feature
//! components, such that `B[m] = sum_a U[m][a_1 … a_nu] A[a_1] … A[a_nu]` transforms as the output irrep when `A`
//! transforms as the input irreps. Since all factors are the same `A`, only the part of `U` that
//! is symmetric in its input axes matters: [`Monomials`] holds just that.
//!
//! Bases in checkpoints are read, never regenerated: their weights belong to the stored tensors.

mod monomials;

use std::collections::BTreeMap;

pub use self::monomials::{DenseBasis, Monomials};
use self::monomials::{MonomialTable, flatten, orderings};
use crate::irreps::{Block, Irrep, Irreps};
use crate::wigner::{Convention, WignerError, wigner_3j};

/// The largest correlation order.
pub const MAX_CORRELATION: usize = 4;

/// The largest `D^nu` that is looked at, and with it the size of the tables built on the way.
pub const MAX_COMPONENTS: usize = 1 << 24;

/// The largest number of values that is generated here: 2 GiB of `f64`.
pub const MAX_VALUES: usize = 1 << 28;

/// Intermediates of correlation 4 are restricted to natural parity below this degree, as in mace-torch.
const MAX_L_CORRELATION_4: usize = 12;

/// A column whose part independent of the earlier ones is below this fraction of its norm is dependent.
const DEPENDENT: f64 = 1e-8;

/// What can be wrong with a symmetric basis.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SymmetricBasisError {
    /// A correlation outside `1..=MAX_CORRELATION`.
    #[error("correlation {correlation} is not supported: it must be between 1 and {max}")]
    Correlation {
        /// The correlation asked for.
        correlation: usize,
        /// The largest supported one.
        max: usize,
    },
    /// An input block with more or fewer than one channel.
    #[error("block {index} of the input irreps is `{block}`; a symmetric basis has one channel of each irrep")]
    InputMultiplicity {
        /// Position of the block.
        index: usize,
        /// The block as text.
        block: String,
    },
    /// An input without components, or an output without components.
    #[error("a symmetric basis needs at least one input and one output component")]
    Empty,
    /// A basis above the limits of this module.
    #[error(
        "a symmetric basis over {input_dim} components with correlation {correlation} is too large; lower l_max, the output degree or the correlation"
    )]
    TooLarge {
        /// Number of feature components `D`.
        input_dim: usize,
        /// Correlation `nu`.
        correlation: usize,
    },
    /// Values that do not fill the tensor.
    #[error("the basis tensor [{output_dim}] x [{input_dim}]^{correlation} x [{paths}] cannot hold {found} values")]
    Length {
        /// `2L + 1`.
        output_dim: usize,
        /// Number of feature components `D`.
        input_dim: usize,
        /// Correlation `nu`.
        correlation: usize,
        /// Number of paths.
        paths: usize,
        /// Number of values given.
        found: usize,
    },
    /// Stored monomials whose coefficients do not match them in number.
    #[error("{monomials} stored monomials cannot have {values} coefficients")]
    StoredSize {
        /// How many monomials.
        monomials: usize,
        /// How many coefficients.
        values: usize,
    },
    /// A stored monomial with unsorted or unknown components.
    #[error("stored monomial {monomial} has components that are out of order or out of range")]
    StoredMonomial {
        /// Which one.
        monomial: usize,
    },
    /// A value that is NaN or infinite.
    #[error("value {index} of the basis tensor is not finite")]
    NotFinite {
        /// Position in the flat tensor.
        index: usize,
    },
    /// A degree too large to couple.
    #[error(transparent)]
    Wigner(#[from] WignerError),
}

/// MACE's full basis: every way of coupling the factors one after the other, in MACE's order and with the
/// signs of [`Convention::E3nn04`]. Redundant for `nu > 1`: its symmetric parts are linearly dependent.
///
/// Level 1 has one entry per input irrep. Level `n` couples every entry of level `n - 1` with every input irrep to
/// every irrep in the product, `C = sqrt(2 l + 1) w3j(l, l', l_in)` contracted over `l'`, and is then sorted stably by
/// irrep. For `nu = 4` the results from level 2 on are restricted to natural parity.
///
/// `irreps` must have one channel per block.
///
/// # Errors
/// [`SymmetricBasisError`] if the input is not of that form or the basis too large.
pub fn full_basis(irreps: &Irreps, output: Irrep, correlation: usize) -> Result<DenseBasis, SymmetricBasisError> {
    let published = |irrep: Irrep| correlation < 4 || (irrep.l < MAX_L_CORRELATION_4 && irrep == Irrep::natural(irrep.l));
    let couplings = recursive_couplings(irreps, output, correlation, published)?;
    let (input_dim, paths) = (irreps.dim(), couplings.len());
    let size = checked_values(input_dim, correlation, output.dim(), paths)?;
    let components = checked_components(input_dim, correlation)?;
    let mut values = vec![0.0; size];
    for (path, coupling) in couplings.iter().enumerate() {
        coupling.for_each(|m, index, value| {
            values[(m * components + flatten(index, input_dim)) * paths + path] = value;
        });
    }
    Ok(DenseBasis { output_dim: output.dim(), input_dim, correlation, paths, values })
}

/// A basis without redundancy, for new models: the symmetric parts of [`full_basis`], made orthogonal in order by
/// modified Gram-Schmidt, dependent ones left out, each scaled so that the squared norm of its
/// (symmetric, dense) tensor is `2L + 1`. Complete for every `nu`: the restriction of [`full_basis`] at
/// `nu = 4` does not apply.
///
/// # Errors
/// As [`full_basis`].
pub fn symmetrised_basis(irreps: &Irreps, output: Irrep, correlation: usize) -> Result<Monomials, SymmetricBasisError> {
    let couplings = recursive_couplings(irreps, output, correlation, |_| true)?;
    let input_dim = irreps.dim();
    checked_components(input_dim, correlation)?;
    let table = MonomialTable::new(input_dim, correlation);
    let output_dim = output.dim();
    // Scalar product of two symmetric tensors in terms of their monomials: a monomial with k orderings stands
    // for k equal elements, each 1/k of its coefficient. Scaling by 1/sqrt(k) makes it Euclidean.
    let scales: Vec<f64> = table.indices.chunks_exact(correlation).map(|monomial| 1.0 / orderings(monomial).sqrt()).collect();
    let mut columns: Vec<Vec<f64>> = Vec::new();
    for coupling in &couplings {
        let mut column = vec![0.0; output_dim * table.len()];
        let mut norm = 0.0;
        coupling.for_each(|m, index, value| {
            let rank = table.ranks[flatten(index, input_dim)] as usize;
            column[m * table.len() + rank] += value * scales[rank];
            norm += value * value;
        });
        // A second sweep removes what rounding left of the first.
        for _ in 0..2 {
            for earlier in &columns {
                let overlap = dot(earlier, &column);
                for (value, unit) in column.iter_mut().zip(earlier) {
                    *value -= overlap * unit;
                }
            }
        }
        let remaining = dot(&column, &column).sqrt();
        if remaining > DEPENDENT * norm.sqrt() {
            column.iter_mut().for_each(|value| *value /= remaining);
            columns.push(column);
        }
    }
    let paths = columns.len();
    let size = checked_values(table.len(), 1, output_dim, paths)?;
    let mut result = table.empty(output_dim, paths);
    debug_assert_eq!(result.coefficients.len(), size);
    let norm = (output_dim as f64).sqrt();
    for (path, column) in columns.iter().enumerate() {
        for (row, value) in column.iter().enumerate() {
            let coefficient = value * norm / scales[row % table.len()];
            // What Gram-Schmidt leaves where all columns are zero.
            if coefficient.abs() > 1e-13 {
                result.coefficients[row * paths + path] = coefficient;
            }
        }
    }
    Ok(result.pruned(0.0))
}

/// One way of coupling input irreps to an output irrep: dense over the components of the input blocks it involves.
struct Coupling {
    irrep: Irrep,
    /// The input block of every factor.
    factors: Vec<Block>,
    /// `[2l + 1][dim of factor 1]…[dim of factor n]`.
    tensor: Vec<f64>,
}

impl Coupling {
    /// Calls `visit(m, component of every factor, value)` for each non-zero element.
    fn for_each(&self, mut visit: impl FnMut(usize, &[u32], f64)) {
        let inner = self.tensor.len() / self.irrep.dim();
        let mut index = vec![0u32; self.factors.len()];
        for (position, &value) in self.tensor.iter().enumerate() {
            if value == 0.0 {
                continue;
            }
            let mut rest = position % inner;
            for (component, block) in index.iter_mut().zip(&self.factors).rev() {
                *component = (block.offset + rest % block.dim()) as u32;
                rest /= block.dim();
            }
            visit(position / inner, &index, value);
        }
    }

    /// Couples one more factor.
    fn extended(&self, block: Block, irrep: Irrep) -> Result<Self, WignerError> {
        let w = wigner_3j(irrep.l, self.irrep.l, block.irrep.l, Convention::E3nn04)?;
        let (inner, last) = (self.tensor.len() / self.irrep.dim(), block.dim());
        let scale = (irrep.dim() as f64).sqrt();
        let mut tensor = vec![0.0; irrep.dim() * inner * last];
        for entry in w.sparse() {
            let source = &self.tensor[entry.j * inner..(entry.j + 1) * inner];
            for (n, value) in source.iter().enumerate() {
                tensor[(entry.i * inner + n) * last + entry.k] += scale * entry.value * value;
            }
        }
        // Sums that cancel up to rounding.
        for value in &mut tensor {
            if value.abs() < 1e-14 {
                *value = 0.0;
            }
        }
        let mut factors = self.factors.clone();
        factors.push(block);
        Ok(Self { irrep, factors, tensor })
    }
}

/// The entries of level `correlation` with the irrep `output`, in order; results from level 2 on only where
/// `allowed`.
fn recursive_couplings(
    irreps: &Irreps,
    output: Irrep,
    correlation: usize,
    allowed: impl Fn(Irrep) -> bool,
) -> Result<Vec<Coupling>, SymmetricBasisError> {
    if let Some((index, block)) = irreps.iter().enumerate().find(|(_, b)| b.mul != 1) {
        return Err(SymmetricBasisError::InputMultiplicity { index, block: block.to_string() });
    }
    checked_components(irreps.dim(), correlation)?;
    let blocks: Vec<Block> = irreps.blocks_with_offsets().collect();
    check_work(&blocks, output, correlation, irreps.dim())?;
    let mut level: Vec<Coupling> = blocks
        .iter()
        .map(|&block| {
            let dim = block.dim();
            let identity = (0..dim * dim).map(|n| f64::from(u8::from(n / dim == n % dim)));
            Coupling { irrep: block.irrep, factors: vec![block], tensor: identity.collect() }
        })
        .collect();
    for n in 2..=correlation {
        let mut next = Vec::new();
        for entry in &level {
            for &block in &blocks {
                for irrep in entry.irrep * block.irrep {
                    if allowed(irrep) && (n < correlation || irrep == output) {
                        next.push(entry.extended(block, irrep)?);
                    }
                }
            }
        }
        next.sort_by_key(|entry| entry.irrep);
        level = next;
    }
    level.retain(|entry| entry.irrep == output);
    Ok(level)
}

/// Bounds all couplings before any is made, by counting the entries of every level per degree. Parities are
/// not looked at, so the bound is generous where both occur.
fn check_work(blocks: &[Block], output: Irrep, correlation: usize, input_dim: usize) -> Result<(), SymmetricBasisError> {
    let widest = blocks.iter().map(|block| block.dim()).max().unwrap_or(1);
    let mut counts = BTreeMap::<usize, usize>::new();
    for block in blocks {
        *counts.entry(block.irrep.l).or_default() += 1;
    }
    let mut inner = widest;
    for n in 2..=correlation {
        inner = inner.saturating_mul(widest);
        let mut next = BTreeMap::<usize, usize>::new();
        for (&l, &count) in &counts {
            for block in blocks {
                for out in l.abs_diff(block.irrep.l)..=l + block.irrep.l {
                    if n < correlation || out == output.l {
                        let entry = next.entry(out).or_default();
                        *entry = entry.saturating_add(count);
                    }
                }
            }
        }
        counts = next;
        let size =
            counts.iter().fold(0usize, |sum, (&l, &count)| sum.saturating_add(count.saturating_mul((2 * l + 1).saturating_mul(inner))));
        if size > MAX_VALUES {
            return Err(SymmetricBasisError::TooLarge { input_dim, correlation });
        }
    }
    Ok(())
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

/// `D^nu`, within bounds.
fn checked_components(input_dim: usize, correlation: usize) -> Result<usize, SymmetricBasisError> {
    if correlation == 0 || correlation > MAX_CORRELATION {
        return Err(SymmetricBasisError::Correlation { correlation, max: MAX_CORRELATION });
    }
    if input_dim == 0 {
        return Err(SymmetricBasisError::Empty);
    }
    input_dim
        .checked_pow(correlation as u32)
        .filter(|&components| components <= MAX_COMPONENTS)
        .ok_or(SymmetricBasisError::TooLarge { input_dim, correlation })
}

/// The number of values in `[output_dim][input_dim]^correlation[paths]`, within bounds.
fn checked_values(input_dim: usize, correlation: usize, output_dim: usize, paths: usize) -> Result<usize, SymmetricBasisError> {
    checked_components(input_dim, correlation)?
        .checked_mul(output_dim)
        .and_then(|size| size.checked_mul(paths))
        .filter(|&size| size <= MAX_VALUES)
        .ok_or(SymmetricBasisError::TooLarge { input_dim, correlation })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wigner::wigner_d_irrep;
    use proptest::prelude::*;

    fn mace() -> Irreps {
        "0e+1o+2e+3o".parse().unwrap()
    }

    fn squared_norm(basis: &DenseBasis, path: usize) -> f64 {
        let column = basis.values().iter().skip(path).step_by(basis.paths());
        column.map(|value| value * value).sum()
    }

    /// `sum_a U[m][a…][path] A[a]…` straight from the definition.
    fn contract(basis: &DenseBasis, a: &[f64]) -> Vec<f64> {
        let components = basis.input_dim().pow(basis.correlation() as u32);
        let mut result = vec![0.0; basis.output_dim() * basis.paths()];
        for (row, values) in basis.values().chunks_exact(basis.paths()).enumerate() {
            let (m, mut flat) = (row / components, row % components);
            let mut product = 1.0;
            for _ in 0..basis.correlation() {
                product *= a[flat % basis.input_dim()];
                flat /= basis.input_dim();
            }
            for (path, value) in values.iter().enumerate() {
                result[m * basis.paths() + path] += value * product;
            }
        }
        result
    }

    fn features(dim: usize) -> Vec<f64> {
        (0..dim).map(|n| (1.7 * n as f64 + 0.3).sin()).collect()
    }

    #[test]
    fn published_path_counts() {
        for (l, full, symmetric) in [(0, [1, 4, 23], [1, 4, 8]), (1, [1, 6, 51], [1, 3, 12]), (2, [1, 7, 65], [1, 5, 14])] {
            for nu in 1..=3 {
                let basis = full_basis(&mace(), Irrep::natural(l), nu).unwrap();
                assert_eq!(basis.paths(), full[nu - 1], "full L={l} nu={nu}");
                let basis = symmetrised_basis(&mace(), Irrep::natural(l), nu).unwrap();
                assert_eq!(basis.paths(), symmetric[nu - 1], "symmetric L={l} nu={nu}");
            }
        }
    }

    /// How often `output` occurs in the symmetric power `nu` of `irreps`, from characters of O(3) alone.
    fn multiplicity(irreps: &Irreps, output: Irrep, nu: usize) -> f64 {
        let character = |irrep: Irrep, angle: f64, inverted: bool| {
            let rotation = 1.0 + 2.0 * (1..=irrep.l).map(|m| (m as f64 * angle).cos()).sum::<f64>();
            rotation * if inverted { irrep.parity.sign() } else { 1.0 }
        };
        let steps = 64;
        let mut total = 0.0;
        for (step, inverted) in (0..steps).flat_map(|step| [(step, false), (step, true)]) {
            let angle = 2.0 * std::f64::consts::PI * f64::from(step) / f64::from(steps);
            // Newton: the symmetric power's character from those of the powers of the group element.
            let power_sum = |k: usize| -> f64 {
                let inverted = inverted && k % 2 == 1;
                irreps.iter().map(|b| character(b.irrep, k as f64 * angle, inverted)).sum()
            };
            let mut symmetric = vec![1.0];
            for n in 1..=nu {
                let sum: f64 = (1..=n).map(|k| power_sum(k) * symmetric[n - k]).sum();
                symmetric.push(sum / n as f64);
            }
            let measure = (1.0 - angle.cos()) / f64::from(2 * steps);
            total += measure * symmetric[nu] * character(output, angle, inverted);
        }
        total
    }

    /// Nothing is missing: as many independent contractions as group theory says there are.
    #[test]
    fn symmetrised_basis_is_complete() {
        for (irreps, nu_max) in [("0e+1o+2e+3o", 3), ("0e+1o+2e", 4), ("0e+1o+1e+2e", 3), ("0e+0o+1o+2o", 3)] {
            let irreps: Irreps = irreps.parse().unwrap();
            for (nu, l) in (1..=nu_max).flat_map(|nu| [(nu, 0), (nu, 1), (nu, 2)]) {
                for output in [Irrep::even(l), Irrep::odd(l)] {
                    let expected = multiplicity(&irreps, output, nu);
                    assert!((expected - expected.round()).abs() < 1e-9);
                    let found = symmetrised_basis(&irreps, output, nu).unwrap().paths();
                    assert_eq!(found as f64, expected.round(), "{irreps} -> {output}, nu = {nu}");
                }
            }
        }
    }

    #[test]
    fn symmetrised_columns_are_orthogonal() {
        for (l, nu) in [(0, 3), (1, 3), (2, 2), (1, 1)] {
            let monomials = symmetrised_basis(&mace(), Irrep::natural(l), nu).unwrap();
            let basis = monomials.to_dense().unwrap();
            for path in 0..basis.paths() {
                let norm = squared_norm(&basis, path);
                assert!((norm - (2 * l + 1) as f64).abs() < 1e-11, "{norm}");
                for other in 0..path {
                    let rows = basis.values().chunks_exact(basis.paths());
                    let overlap: f64 = rows.map(|row| row[path] * row[other]).sum();
                    assert!(overlap.abs() < 1e-11);
                }
            }
            assert_eq!(Monomials::from_dense(&basis).indices(), monomials.indices());
        }
    }

    /// Every polynomial of the full basis is a combination of those of the symmetrised one.
    #[test]
    fn symmetrised_spans_the_full_basis() {
        let full = full_basis(&mace(), Irrep::odd(1), 3).unwrap();
        let full = Monomials::from_dense(&full).to_dense().unwrap();
        let basis = symmetrised_basis(&mace(), Irrep::odd(1), 3).unwrap().to_dense().unwrap();
        let rows = || full.values().chunks_exact(full.paths()).zip(basis.values().chunks_exact(basis.paths()));
        for path in 0..full.paths() {
            let projected: f64 = (0..basis.paths()).map(|column| rows().map(|(f, b)| f[path] * b[column]).sum::<f64>().powi(2) / 3.0).sum();
            assert!((projected - squared_norm(&full, path)).abs() < 1e-11);
        }
    }

    #[test]
    fn equivariant_under_rotation_and_reflection() {
        // A rotation by 1.1 about (1, 2, 2)/3, times an inversion.
        let (axis, angle) = ([1.0 / 3.0, 2.0 / 3.0, 2.0 / 3.0f64], 1.1f64);
        let (c, s) = (angle.cos(), angle.sin());
        let [x, y, z] = axis;
        let cross = [[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]];
        let mut matrix = [[0.0; 3]; 3];
        for a in 0..3 {
            for b in 0..3 {
                let identity = if a == b { c } else { 0.0 };
                matrix[a][b] = -(identity + s * cross[a][b] + (1.0 - c) * axis[a] * axis[b]);
            }
        }
        for (irreps, output, nu) in [
            ("0e+1o+2e+3o", Irrep::even(0), 3),
            ("0e+1o+2e+3o", Irrep::even(2), 3),
            ("0e+1o+2e", Irrep::even(1), 3),
            ("0e+1o+1e", Irrep::odd(0), 3),
            ("0e+1o", Irrep::odd(1), 4),
        ] {
            let irreps: Irreps = irreps.parse().unwrap();
            let a = features(irreps.dim());
            let mut rotated = vec![0.0; a.len()];
            for block in irreps.blocks_with_offsets() {
                let d = wigner_d_irrep(block.irrep, &matrix).unwrap();
                for i in 0..block.dim() {
                    for j in 0..block.dim() {
                        rotated[block.offset + i] += d[i * block.dim() + j] * a[block.offset + j];
                    }
                }
            }
            let d = wigner_d_irrep(output, &matrix).unwrap();
            let dim = output.dim();
            let full = Monomials::from_dense(&full_basis(&irreps, output, nu).unwrap());
            let symmetric = symmetrised_basis(&irreps, output, nu).unwrap();
            for basis in [full, symmetric] {
                assert!(basis.paths() > 0, "{irreps} {output}");
                let (before, after) = (basis.evaluate(&a), basis.evaluate(&rotated));
                assert!(before.iter().any(|value| value.abs() > 0.1));
                for path in 0..basis.paths() {
                    for m in 0..dim {
                        let expected: f64 = (0..dim).map(|n| d[m * dim + n] * before[n * basis.paths() + path]).sum();
                        let found = after[m * basis.paths() + path];
                        assert!((found - expected).abs() < 1e-11, "{irreps} {output} {nu}");
                    }
                }
            }
        }
    }

    /// With scalars and vectors alone the contractions are known: powers of s and of v.v.
    #[test]
    fn scalars_and_vectors_by_hand() {
        let irreps: Irreps = "0e+1o".parse().unwrap();
        let a = [0.7, 0.2, -0.5, 1.1];
        let v2: f64 = a[1..].iter().map(|x| x * x).sum();
        let basis = symmetrised_basis(&irreps, Irrep::even(0), 2).unwrap();
        let values = basis.evaluate(&a);
        assert!((values[0] - 0.49).abs() < 1e-14);
        assert!((values[1] - v2 / 3f64.sqrt()).abs() < 1e-14);
        // nu = 4: s^4, s^2 v.v, (v.v)^2, the last two with the norms 1/sqrt(2) and 1/sqrt(5).
        let values = symmetrised_basis(&irreps, Irrep::even(0), 4).unwrap().evaluate(&a);
        assert_eq!(values.len(), 3);
        assert!((values[0] - 0.49 * 0.49).abs() < 1e-14);
        assert!((values[1].abs() - 2f64.sqrt() * 0.49 * v2).abs() < 1e-13);
        assert!((values[2].abs() - v2 * v2 / 5f64.sqrt()).abs() < 1e-13);
    }

    #[test]
    fn monomials_of_the_largest_published_basis() {
        let full = full_basis(&mace(), Irrep::odd(1), 3).unwrap();
        assert_eq!(full.values().len(), 3 * 16 * 16 * 16 * 51);
        let monomials = Monomials::from_dense(&full);
        assert!(monomials.len() < 816, "{} of 816", monomials.len());
        for n in 0..monomials.len() {
            assert!(monomials.monomial(n).is_sorted());
        }
        assert!((1..monomials.len()).all(|n| monomials.monomial(n - 1) < monomials.monomial(n)));
        let a = features(16);
        for (x, y) in monomials.evaluate(&a).iter().zip(contract(&full, &a)) {
            assert!((x - y).abs() < 1e-12);
        }
    }

    #[test]
    fn refuses_bad_sizes() {
        use SymmetricBasisError as E;
        assert!(matches!(full_basis(&mace(), Irrep::even(0), 0), Err(E::Correlation { .. })));
        assert!(matches!(symmetrised_basis(&mace(), Irrep::even(0), 5), Err(E::Correlation { .. })));
        assert!(matches!(full_basis(&Irreps::default(), Irrep::even(0), 2), Err(E::Empty)));
        let channels = "0e+2x1o".parse().unwrap();
        assert!(matches!(full_basis(&channels, Irrep::even(0), 2), Err(E::InputMultiplicity { index: 1, .. })));
        let wide = Irreps::spherical_harmonics(20, crate::HarmonicParity::Natural).unwrap();
        assert!(matches!(full_basis(&wide, Irrep::even(0), 3), Err(E::TooLarge { .. })));
        assert!(matches!(DenseBasis::new(1, 3, 2, 1, vec![0.0; 8]), Err(E::Length { found: 8, .. })));
        assert!(matches!(DenseBasis::new(usize::MAX, 9, 2, 0, vec![]), Err(E::TooLarge { .. })));
        assert!(matches!(DenseBasis::new(1, usize::MAX, 2, 1, vec![]), Err(E::TooLarge { .. })));
        assert!(matches!(DenseBasis::new(0, 2, 2, 1, vec![]), Err(E::Empty)));
        assert!(matches!(DenseBasis::new(1, 2, 1, 1, vec![0.0, f64::NAN]), Err(E::NotFinite { index: 1 })));
        // No path couples to a pseudoscalar: an empty basis, not an error.
        let none = full_basis(&"0e".parse().unwrap(), Irrep::odd(0), 2).unwrap();
        assert!(Monomials::from_dense(&none).is_empty());
        assert_eq!(Monomials::from_dense(&none).evaluate(&[1.0]), []);
    }

    #[test]
    fn prunes_noise_only_when_asked() {
        let dense = DenseBasis::new(1, 2, 2, 1, vec![1.0, 0.25, -0.25, 1e-15]).unwrap();
        let monomials = Monomials::from_dense(&dense);
        assert_eq!(monomials.indices(), [0, 0, 1, 1]);
        assert_eq!(monomials.pruned(1e-12).indices(), [0, 0]);
        assert_eq!(monomials.pruned(1e-12).coefficients(), [1.0]);
    }

    proptest! {
        /// For any tensor, symmetric or not, the monomial form has the same values, and so has its dense form.
        #[test]
        fn monomials_keep_values(
            (input_dim, nu, output_dim, paths) in (1usize..5, 1usize..5, 1usize..4, 1usize..4),
            seed in any::<u32>(),
        ) {
            let size = output_dim * input_dim.pow(nu as u32) * paths;
            let values = (0..size).map(|n| (f64::from(seed) + 2.3 * n as f64).sin()).collect();
            let dense = DenseBasis::new(output_dim, input_dim, nu, paths, values).unwrap();
            let monomials = Monomials::from_dense(&dense);
            let symmetric = monomials.to_dense().unwrap();
            let a = features(input_dim);
            let expected = contract(&dense, &a);
            for found in [monomials.evaluate(&a), contract(&symmetric, &a)] {
                for (x, y) in found.iter().zip(&expected) {
                    prop_assert!((x - y).abs() < 1e-11);
                }
            }
        }
    }
}
