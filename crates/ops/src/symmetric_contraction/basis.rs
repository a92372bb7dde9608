//! From the symmetric bases of a model and its weights to polynomial coefficients.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use candle_core::{Result, Tensor};
use tesseral_o3::Monomials;

use super::{ContractionError, ContractionSpec, Term};

/// The terms that one basis contributes, and their values `[terms, paths]`.
#[derive(Debug, Clone)]
struct PathBlock {
    terms: Range<usize>,
    paths: usize,
    values: Vec<f64>,
}

/// The symmetric bases of all output blocks and degrees of one contraction.
///
/// coefficients\[z, t, k\] = Σ_path basis\[t, path\] · W\[z, path, k\]
#[derive(Debug, Clone)]
pub struct SymmetricBasis {
    spec: Arc<ContractionSpec>,
    blocks: Vec<PathBlock>,
}

impl SymmetricBasis {
    /// `blocks[b]` are the bases (one for each degree, in any order) of output block `b`; the blocks' components follow one another in the
    /// output. Terms whose coefficients are all at most `tolerance` in magnitude are left out: 0 keeps everything but exact zeros, 1e-12
    /// drops what symmetrising a tensor of rounded numbers leaves.
    ///
    /// # Errors
    /// [`ContractionError::Basis`] if the bases are not for the same features, or those of one block not for the same output.
    pub fn new(blocks: &[Vec<Monomials>], tolerance: f64) -> std::result::Result<Self, ContractionError> {
        let dim = blocks.iter().flatten().next().map_or(0, Monomials::input_dim);
        let mut index: BTreeMap<Vec<u16>, usize> = BTreeMap::new();
        let (mut monomials, mut terms, mut path_blocks) = (Vec::new(), Vec::new(), Vec::new());
        let mut outputs = 0;
        for (block, bases) in blocks.iter().enumerate() {
            let output_dim = bases.first().map_or(0, Monomials::output_dim);
            for (number, basis) in bases.iter().enumerate() {
                for (found, expected) in [(basis.input_dim(), dim), (basis.output_dim(), output_dim)] {
                    if found != expected {
                        return Err(ContractionError::Basis { block, basis: number, found, expected });
                    }
                }
                let start = terms.len();
                let mut values = Vec::new();
                for m in 0..output_dim {
                    for n in (0..basis.len()).filter(|&n| basis.row(m, n).iter().any(|c| c.abs() > tolerance)) {
                        let components: Vec<u16> = basis.monomial(n).iter().map(|&a| a as u16).collect();
                        let monomial = *index.entry(components.clone()).or_insert_with(|| {
                            monomials.push(components);
                            monomials.len() - 1
                        });
                        terms.push(Term { output: outputs + m, monomial });
                        values.extend_from_slice(basis.row(m, n));
                    }
                }
                path_blocks.push(PathBlock { terms: start..terms.len(), paths: basis.paths(), values });
            }
            outputs += output_dim;
        }
        Ok(Self { spec: Arc::new(ContractionSpec::new(dim, outputs, monomials, terms)?), blocks: path_blocks })
    }

    /// The polynomials.
    pub fn spec(&self) -> &Arc<ContractionSpec> {
        &self.spec
    }

    /// How many paths each basis has, in the order of the weights.
    pub fn paths(&self) -> impl Iterator<Item = usize> + '_ {
        self.blocks.iter().map(|b| b.paths)
    }

    /// The coefficients `[Z', T, K]` of the elements `present` (rows of the weights, in the order of the groups of atoms), from one weight
    /// tensor `[Z, paths, K]` for each basis, in the order of [`SymmetricBasis::new`]. Differentiable in the weights.
    ///
    /// # Errors
    /// If a shape does not fit or there is not one weight tensor for each basis.
    pub fn coefficients(&self, weights: &[Tensor], present: &[u32]) -> Result<Tensor> {
        let Some(first) = weights.first().filter(|_| weights.len() == self.blocks.len()) else {
            let message = format!("symmetric basis: {} weight tensors for {} bases", weights.len(), self.blocks.len());
            return Err(candle_core::Error::Msg(message).bt());
        };
        let rows = Tensor::new(present, first.device())?;
        let mut parts = Vec::new();
        for (number, (block, weights)) in self.blocks.iter().zip(weights).enumerate() {
            let (_, paths, _) = weights.dims3()?;
            if paths != block.paths {
                let message =
                    format!("symmetric basis {number}: expected weights [elements, {}, K], got {:?}", block.paths, weights.dims());
                return Err(candle_core::Error::Msg(message).bt());
            }
            if !block.terms.is_empty() {
                let basis = Tensor::from_slice(&block.values, (block.terms.len(), paths), weights.device())?.to_dtype(weights.dtype())?;
                let present_weights = weights.index_select(&rows, 0)?;
                parts.push(basis.broadcast_left(present.len())?.contiguous()?.matmul(&present_weights)?);
            }
        }
        if parts.is_empty() {
            return Tensor::zeros((present.len(), 0, first.dims3()?.2), first.dtype(), first.device());
        }
        Tensor::cat(&parts, 1)
    }

    /// The same in plain numbers: `weights[b]` is `[Z, paths, K]` with `channels` = K; `[Z, T, K]` for all Z elements.
    pub fn plain_coefficients(&self, weights: &[Vec<f64>], elements: usize, channels: usize) -> Vec<f64> {
        let count = self.spec.terms().len();
        let mut out = vec![0.0; elements * count * channels];
        for (block, weights) in self.blocks.iter().zip(weights) {
            for z in 0..elements {
                for (row, t) in block.terms.clone().enumerate() {
                    let target = &mut out[(z * count + t) * channels..][..channels];
                    for path in 0..block.paths {
                        let factor = block.values[row * block.paths + path];
                        let w = &weights[(z * block.paths + path) * channels..][..channels];
                        for (y, &w) in target.iter_mut().zip(w) {
                            *y += factor * w;
                        }
                    }
                }
            }
        }
        out
    }
}
