//! Equivariant linear maps: irrep-wise, optionally with weights of their own for each chemical element.
//!
//! On features `x` `[N, dim_in]` (blocks of irreps; inside a block `[component][channel]`, channels fastest):
//! y[n, out block, m, w] = Σ over instructions into the block, scale · Σ_u W[group(n)][u, w] · x[n, in block, m, u].
//!
//! The form is trilinear in (cotangent, features, weights), so {forward, adjoint by features, adjoint by weights} are closed under
//! differentiation. Flat weights are in e3nn's order: instructions one after another, each `[mul_in, mul_out]` row-major
//! (model definitions §1.4); element-dependent maps have one such row for each element (§1.6).

mod autograd;
mod cpu;
pub mod cuda;
pub mod reference;

use std::sync::Arc;

use candle_core::{Result, Tensor};
use tesseral_o3::{Irrep, Irreps};

pub(crate) use cpu::{adjoint_features, adjoint_weights, forward};

/// One block of weights: which part of the input it maps to which part of the output.
#[derive(Debug, Clone, PartialEq)]
pub struct Instruction {
    /// Where the input block starts in a row of features.
    pub in_offset: usize,
    /// Where the output block starts in a row of outputs.
    pub out_offset: usize,
    /// Components of the irrep, 2l+1.
    pub components: usize,
    /// Input channels.
    pub mul_in: usize,
    /// Output channels.
    pub mul_out: usize,
    /// Where the block's weights start.
    pub weight_offset: usize,
    /// What the product is multiplied with.
    pub scale: f64,
}

/// Which linear map: shapes and normalisation, no weights.
#[derive(Debug, Clone, PartialEq)]
pub struct LinearSpec {
    /// The blocks.
    pub instructions: Vec<Instruction>,
    /// Length of a row of features.
    pub dim_in: usize,
    /// Length of a row of outputs.
    pub dim_out: usize,
    /// Weights of one group.
    pub weight_numel: usize,
}

impl LinearSpec {
    /// All pairs of blocks with equal irreps, in e3nn's order, each scaled by 1/√F, F = `fan_in_factor` · (input channels into the output block)
    /// + `extra_fan_in` where the output is scalar (inputs that live elsewhere, such as a one-hot modality).
    ///
    /// `fan_in_factor` is 1 for a plain linear map, the number of elements for an element-dependent one.
    pub fn new(irreps_in: &Irreps, irreps_out: &Irreps, fan_in_factor: usize, extra_fan_in: usize) -> Self {
        let blocks = |irreps: &Irreps| irreps.blocks_with_offsets().map(|b| (b.offset, b.mul, b.irrep)).collect::<Vec<_>>();
        let (inputs, outputs) = (blocks(irreps_in), blocks(irreps_out));
        let mut instructions = Vec::new();
        let mut weight_offset = 0;
        for &(in_offset, mul_in, irrep) in &inputs {
            for &(out_offset, mul_out, _) in outputs.iter().filter(|o| o.2 == irrep) {
                let fan_in: usize = inputs.iter().filter(|i| i.2 == irrep).map(|i| i.1).sum();
                let extra = if irrep == Irrep::even(0) { extra_fan_in } else { 0 };
                let scale = 1.0 / ((fan_in_factor * fan_in + extra) as f64).sqrt();
                instructions.push(Instruction { in_offset, out_offset, components: irrep.dim(), mul_in, mul_out, weight_offset, scale });
                weight_offset += mul_in * mul_out;
            }
        }
        Self { instructions, dim_in: irreps_in.dim(), dim_out: irreps_out.dim(), weight_numel: weight_offset }
    }

    /// A dense matrix `[n_in, n_out]` with a scale, for layers on plain scalars.
    pub fn dense(n_in: usize, n_out: usize, scale: f64) -> Self {
        let instruction = Instruction { in_offset: 0, out_offset: 0, components: 1, mul_in: n_in, mul_out: n_out, weight_offset: 0, scale };
        Self { instructions: vec![instruction], dim_in: n_in, dim_out: n_out, weight_numel: n_in * n_out }
    }
}

/// Rows grouped by the weights they use (atoms by chemical element).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Groups {
    order: Vec<u32>,
    offsets: Vec<usize>,
}

impl Groups {
    /// Groups `group_of.len()` rows into `groups` groups; `None` if an index is out of range.
    pub fn new(group_of: &[u32], groups: usize) -> Option<Self> {
        let mut offsets = vec![0usize; groups + 1];
        for &g in group_of {
            *offsets.get_mut(g as usize + 1)? += 1;
        }
        for g in 0..groups {
            offsets[g + 1] += offsets[g];
        }
        let mut next = offsets.clone();
        let mut order = vec![0u32; group_of.len()];
        for (row, &g) in group_of.iter().enumerate() {
            order[next[g as usize]] = row as u32;
            next[g as usize] += 1;
        }
        Some(Self { order, offsets })
    }

    /// How many groups.
    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Whether there is no group.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The rows, those of group 0 first.
    pub fn order(&self) -> &[u32] {
        &self.order
    }

    /// Which part of [`Groups::order`] belongs to a group.
    pub fn range(&self, group: usize) -> std::ops::Range<usize> {
        self.offsets[group]..self.offsets[group + 1]
    }
}

/// `[N, dim_in]` features and `[groups, weight_numel]` weights (one group without `groups`) → `[N, dim_out]`.
///
/// # Errors
/// If shapes or types do not fit.
pub fn linear(features: &Tensor, weights: &Tensor, spec: &Arc<LinearSpec>, groups: Option<&Arc<Groups>>) -> Result<Tensor> {
    autograd::linear(features, weights, spec, groups.cloned())
}

#[cfg(test)]
mod tests;
