//! What networks see of the edges, and the convolution with it.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use tesseral_ops::autograd::Leaves;
use tesseral_ops::graph::Graph;
use tesseral_ops::radial::ScalarFunction;
use tesseral_ops::radial::spline::{SplineGrid, TAPS};
use tesseral_ops::spherical_harmonics::{spherical_harmonics, spherical_harmonics_adjoint};
use tesseral_ops::tensor_product::{TensorProductSpec, Windows, convolution, convolution_of_table};

use super::RadialNetwork;
use crate::batch::Batch;
use crate::error::Result;

/// Where a network takes its edges from.
#[derive(Clone, Copy)]
pub(crate) enum Geometry<'a> {
    /// Edge vectors `[E, 3]`, Å: radial functions are evaluated on every edge.
    Vectors(&'a Tensor),
    /// Rows `[E, harmonics + splines]`: radial functions are evaluated at knots.
    Splines(&'a SplineEdges, &'a Tensor),
}

/// Harmonics and splines of the edges of a batch: what is left of its positions when radial functions are interpolated.
pub(crate) struct SplineEdges {
    rows: Tensor,
    windows: Arc<Windows>,
    /// `[rows, knots]`
    rule: Tensor,
    /// Å, `[knots]`
    pub(crate) knots: Tensor,
    /// `[knots, 1]`
    pub(crate) envelope: Tensor,
    slopes: Tensor,
    /// Unit vectors, times how fast the argument of the radial functions grows with the distance.
    directions: Tensor,
    vectors: Tensor,
    lmax: usize,
    normalize: bool,
}

/// Radial functions of one variable: what a model must say about itself to be interpolated.
pub(crate) struct RadialDomain {
    /// Multiplies radial functions or their basis.
    pub(crate) envelope: ScalarFunction,
    /// Å
    pub(crate) cutoff: f64,
    /// What the distance of each edge is multiplied with, if the model stretches it.
    pub(crate) stretch: Option<Vec<f64>>,
    pub(crate) lmax: usize,
    /// Whether harmonics are those of unit vectors.
    pub(crate) normalize: bool,
}

/// Intervals between 0 and the cutoff. Errors of radial functions are then a few 1e-8 of their values, below the rounding of single precision.
const INTERVALS: f64 = 320.0;

impl SplineEdges {
    /// `None` if the batch has too few edges for knots to pay, or if two atoms are so close that no knots fit below.
    pub(crate) fn new(batch: &Batch, domain: &RadialDomain, dtype: DType, device: &Device) -> Result<Option<Self>> {
        let edges = batch.vectors.len();
        let length = |v: &[f64; 3]| v.iter().map(|x| x * x).sum::<f64>().sqrt();
        let lengths: Vec<f64> = batch.vectors.iter().map(length).collect();
        let stretch = |e: usize| domain.stretch.as_ref().map_or(1.0, |s| s[e]);
        let nearest = lengths.iter().enumerate().map(|(e, d)| d * stretch(e)).fold(f64::INFINITY, f64::min);
        let start = nearest.min(0.9 * domain.cutoff);
        let mut ends = vec![start];
        ends.extend(domain.envelope.kink().filter(|&k| k > start * 1.01 && k < domain.cutoff));
        ends.push(domain.cutoff);
        let Some(grid) = SplineGrid::new(&ends, domain.cutoff / INTERVALS) else { return Ok(None) };
        let knots = grid.knots();
        if edges < 2 * knots.len() {
            return Ok(None);
        }
        let (mut first, mut values, mut slopes) =
            (Vec::with_capacity(edges), Vec::with_capacity(edges * TAPS), Vec::with_capacity(edges * TAPS));
        let mut directions = Vec::with_capacity(edges * 3);
        for (e, (v, &d)) in batch.vectors.iter().zip(&lengths).enumerate() {
            let window = grid.window(d * stretch(e));
            first.push(window.first as u32);
            // Stretched, a distance may lie beyond the cutoff, where splines go on.
            let inside = if d * stretch(e) < domain.cutoff { 1.0 } else { 0.0 };
            values.extend(window.values.map(|x| inside * x));
            slopes.extend(window.slopes.map(|x| inside * x));
            directions.extend(v.map(|x| x / d * stretch(e)));
        }
        let tensor = |data: Vec<f64>, shape: &[usize]| Tensor::from_vec(data, shape, device)?.to_dtype(dtype);
        let envelope = knots.iter().map(|&(r, inside)| domain.envelope.continued(inside, r)).collect();
        let vectors = batch.vectors_tensor(dtype, device)?;
        let harmonics = spherical_harmonics(&vectors, domain.lmax, domain.normalize)?;
        Ok(Some(Self {
            rows: Tensor::cat(&[&harmonics, &tensor(values, &[edges, TAPS])?], 1)?,
            windows: Arc::new(Windows { first, rows: grid.rows() }),
            rule: tensor(grid.rule(), &[grid.rows(), knots.len()])?,
            envelope: tensor(envelope, &[knots.len(), 1])?,
            knots: tensor(knots.iter().map(|k| k.0).collect(), &[knots.len()])?,
            slopes: tensor(slopes, &[edges, TAPS])?,
            directions: tensor(directions, &[edges, 3])?,
            vectors,
            lmax: domain.lmax,
            normalize: domain.normalize,
        }))
    }

    /// Harmonics and splines, `[E, harmonics + splines]`.
    pub(crate) fn rows(&self) -> &Tensor {
        &self.rows
    }

    /// The derivative by edge vectors, `[E, 3]`, from that by rows; differentiable in the latter.
    pub(crate) fn by_vectors(&self, by_rows: &Tensor) -> Result<Tensor> {
        let harmonics = by_rows.dim(1)? - TAPS;
        let angular = spherical_harmonics_adjoint(&self.vectors, &by_rows.narrow(1, 0, harmonics)?, self.lmax, self.normalize)?;
        let radial = (by_rows.narrow(1, harmonics, TAPS)? * &self.slopes)?.sum_keepdim(1)?;
        Ok((angular + self.directions.broadcast_mul(&radial)?)?)
    }
}

/// The edges as layers see them.
pub(crate) struct EdgeFeatures<'a> {
    /// `[edges or knots, basis]`, the envelope included if it belongs there.
    pub(crate) basis: Tensor,
    /// `[edges or knots, 1]`, if it multiplies the outputs of networks instead.
    pub(crate) envelope: Option<Tensor>,
    pub(crate) rows: EdgeRows<'a>,
}

/// What convolutions take, beside radial features.
pub(crate) enum EdgeRows<'a> {
    /// Spherical harmonics.
    Harmonics(Tensor),
    /// Harmonics and splines.
    Splines(&'a SplineEdges, &'a Tensor),
}

impl EdgeFeatures<'_> {
    /// The convolution of `features` with radial weights from `inputs` (the basis, or what a block makes of it).
    pub(crate) fn convolution(
        &self,
        features: &Tensor,
        (radial, inputs): (&RadialNetwork, &Tensor),
        spec: &Arc<TensorProductSpec>,
        graph: &Graph,
        leaves: &Leaves,
    ) -> Result<Tensor> {
        let values = radial.features(inputs, self.envelope.as_ref())?;
        Ok(match &self.rows {
            EdgeRows::Harmonics(harmonics) => {
                let q = Tensor::cat(&[harmonics, &values], 1)?;
                convolution(features, &q, &leaves.leaf(radial.matrix()?)?, spec, graph)?
            }
            EdgeRows::Splines(edges, rows) => {
                let table = edges.rule.matmul(&values)?.matmul(&radial.matrix()?)?;
                convolution_of_table(features, rows, &leaves.leaf(table)?, spec, graph, &edges.windows)?
            }
        })
    }
}
