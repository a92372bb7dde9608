//! The fused equivariant convolution: gather – radial weights – tensor product – sum over the edges of each centre.
//!
//! With features `x` `[N, dim_in]`, spherical harmonics `Y` `[E, dim_edge]`, radial features `H` `[E, hidden]` and the last matrix of the radial
//! network `W` `[hidden, weight_numel]`:
//!
//! out[i, (path, m3), u] = Σ_{e: centre i} Σ_{m1 m2} C_path[m1, m2, m3] · x[neighbour e, m1, u] · Y[e, m2] · (H W)[e, path, u],
//! C = √(2 l3 + 1) · w3j (model definitions §1.5). Channels are the fastest index of `x` and `out`; paths into the same output irrep lie side by
//! side as channels, in the canonical order (sorted by output irrep, then as generated).
//!
//! The per-edge weights `H W` (paths × channels numbers an edge) exist only for a tile of edges at a time: memory grows with edges ×
//! (dim_edge + hidden) and with atoms × dim_out, never with edges × paths × channels. The form is linear in each of (cotangent, x, Y, H, W);
//! it can be differentiated twice, which a loss on forces needs.

mod autograd;
mod cpu;
pub mod cuda;
mod edges;
mod plan;
pub mod reference;
pub mod slabs;
mod tangent;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use candle_core::{Result, Tensor};
use tesseral_o3::{Convention, Irrep, Irreps, PathOrder, TensorProductPaths, WignerError};

pub use edges::Windows;

use crate::graph::Graph;

/// One coupling of an input block with one degree of the edge into an output block.
#[derive(Debug, Clone, PartialEq)]
pub struct Path {
    /// Irreps of input, edge and output.
    pub irreps: [Irrep; 3],
    /// Where the input block starts in a row of features.
    pub in_offset: usize,
    /// Channels.
    pub mul: usize,
    /// Where the harmonics of the edge irrep start.
    pub edge_offset: usize,
    /// Where the output block starts in a row of outputs.
    pub out_offset: usize,
    /// Channels of the whole output block.
    pub out_channels: usize,
    /// First channel of this path within the output block.
    pub out_channel: usize,
    /// First column of this path in the radial weights.
    pub weight_offset: usize,
    /// Non-zero coupling coefficients √(2 l3+1)·w3j: (m1, m2, m3, value).
    pub coefficients: Vec<(usize, usize, usize, f64)>,
}

/// Which convolution: irreps and paths, no weights.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorProductSpec {
    /// In canonical order.
    pub paths: Vec<Path>,
    /// Length of a row of features.
    pub dim_in: usize,
    /// How many harmonics an edge has.
    pub dim_edge: usize,
    /// Irreps of the output, regrouped.
    pub irreps_out: Irreps,
    /// Length of a row of outputs.
    pub dim_out: usize,
    /// Columns of the radial weights.
    pub weight_numel: usize,
}

/// Sign convention of the couplings in every artifact; importers convert (CONVENTIONS.md).
pub const CONVENTION: Convention = Convention::E3nn05;

/// The highest degree of features and outputs that the kernels hold room for.
pub const MAX_DEGREE: usize = 7;

/// What keeps a path list from becoming a convolution.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// A degree beyond [`MAX_DEGREE`].
    #[error("features and messages of degree {degree} are not supported, only up to {MAX_DEGREE}")]
    Degree {
        /// The degree.
        degree: usize,
    },
    /// A coupling that cannot be computed.
    #[error(transparent)]
    Coupling(#[from] WignerError),
}

impl TensorProductSpec {
    /// The convolution of a path list, in canonical order, couplings in the [`CONVENTION`] of artifacts.
    ///
    /// # Errors
    /// [`SpecError`] if a degree is too high.
    pub fn new(paths: &TensorProductPaths) -> std::result::Result<Self, SpecError> {
        let degrees = paths.paths().iter().flat_map(|p| [p.irrep_in1.l, p.out.l]);
        if let Some(degree) = degrees.max().filter(|&l| l > MAX_DEGREE) {
            return Err(SpecError::Degree { degree });
        }
        let in_offsets: Vec<usize> = paths.irreps_in1().blocks_with_offsets().map(|b| b.offset).collect();
        let edge_offsets: Vec<usize> = paths.irreps_edge().blocks_with_offsets().map(|b| b.offset).collect();
        let irreps_out = paths.mid_irreps().regroup();
        let mut used = vec![0; irreps_out.len()];
        let mut weight_offset = 0;
        let mut list = Vec::new();
        for path in paths.in_order(PathOrder::SortedByOutput) {
            let block = irreps_out.blocks_with_offsets().find(|b| b.irrep == path.out).expect("the output irreps hold every path's");
            let coefficients = path.coupling(CONVENTION)?.iter().map(|c| (c.i, c.j, c.k, c.value)).collect();
            list.push(Path {
                irreps: [path.irrep_in1, path.irrep_in2, path.out],
                in_offset: in_offsets[path.in1],
                mul: path.mul,
                edge_offset: edge_offsets[path.in2],
                out_offset: block.offset,
                out_channels: block.mul,
                out_channel: used[block.index],
                weight_offset,
                coefficients,
            });
            used[block.index] += path.mul;
            weight_offset += path.mul;
        }
        Ok(Self {
            paths: list,
            dim_in: paths.irreps_in1().dim(),
            dim_edge: paths.irreps_edge().dim(),
            dim_out: irreps_out.dim(),
            irreps_out,
            weight_numel: weight_offset,
        })
    }
}

/// The fused convolution: `features` `[N, dim_in]`, `edges` `[E, dim_edge + hidden]` (harmonics, then radial features), `weights`
/// `[hidden, weight_numel]` → `[N, dim_out]`.
///
/// # Errors
/// If shapes or types do not fit.
pub fn convolution(features: &Tensor, edges: &Tensor, weights: &Tensor, spec: &Arc<TensorProductSpec>, graph: &Graph) -> Result<Tensor> {
    autograd::convolution(&autograd::Convolution { spec: spec.clone(), graph: graph.clone(), windows: None }, features, edges, weights)
}

/// The fused convolution with radial weights interpolated in a table: as [`convolution`], but the radial features of an edge, values of the
/// B-splines that do not vanish at its distance, multiply consecutive rows of `table` `[rows, weight_numel]` only.
///
/// # Errors
/// If shapes or types do not fit.
pub fn convolution_of_table(
    features: &Tensor,
    edges: &Tensor,
    table: &Tensor,
    spec: &Arc<TensorProductSpec>,
    graph: &Graph,
    windows: &Arc<Windows>,
) -> Result<Tensor> {
    let conv = autograd::Convolution { spec: spec.clone(), graph: graph.clone(), windows: Some(windows.clone()) };
    autograd::convolution(&conv, features, edges, table)
}
