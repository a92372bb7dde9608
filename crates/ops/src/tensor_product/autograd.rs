//! The candle side.
//!
//! Everything is a derivative of one number, S(g, x, Y, H, W) = Σ g · convolution(x, Y, H, W), linear in each of its five arguments. The
//! derivative of an adjoint is therefore a sum of convolutions and adjoints with one argument replaced by the incoming cotangent, and each
//! of those is again one of these ops: any order of differentiation works.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp2, CustomOp3, D, Error, Layout, Result, Shape, Tensor, WithDType};

use super::TensorProductSpec;
use super::cpu::{Inputs, Plan, adjoint, adjoint_weights, forward};
use crate::graph::Graph;
use crate::real::{Real, dispatch_real, slice};

/// Which convolution on which graph.
#[derive(Clone)]
pub(super) struct Convolution {
    pub(super) spec: Arc<TensorProductSpec>,
    pub(super) graph: Graph,
}

/// (x, q, W) → out
struct Forward(Convolution);
/// ([x | g], q, W) → [dx | dq], flat, the parts that are asked for
struct Adjoint {
    conv: Convolution,
    need_x: bool,
    need_q: bool,
}
/// ([x | g], q) → dW
struct AdjointWeights(Convolution);

pub(super) fn convolution(conv: &Convolution, x: &Tensor, q: &Tensor, w: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op3(&q.contiguous()?, &w.contiguous()?, Forward(conv.clone()))
}

/// The derivatives of Σ g·convolution(x, q, W) by x and q.
fn adjoints(
    conv: &Convolution,
    xg: &Tensor,
    q: &Tensor,
    w: &Tensor,
    need_x: bool,
    need_q: bool,
) -> Result<(Option<Tensor>, Option<Tensor>)> {
    if !need_x && !need_q {
        return Ok((None, None));
    }
    let (rows, columns) = q.dims2()?;
    let (n, dim_in) = (conv.graph.num_atoms(), conv.spec.dim_in);
    let packed = xg.contiguous()?.apply_op3(&q.contiguous()?, &w.contiguous()?, Adjoint { conv: conv.clone(), need_x, need_q })?;
    let split = if need_x { n * dim_in } else { 0 };
    let dx = if need_x { Some(packed.narrow(0, 0, split)?.reshape((n, dim_in))?) } else { None };
    let dq = if need_q { Some(packed.narrow(0, split, rows * columns)?.reshape((rows, columns))?) } else { None };
    Ok((dx, dq))
}

fn weights_adjoint(conv: &Convolution, xg: &Tensor, q: &Tensor) -> Result<Tensor> {
    xg.contiguous()?.apply_op2(&q.contiguous()?, AdjointWeights(conv.clone()))
}

fn side_by_side(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    Tensor::cat(&[a, b], 1)
}

fn add(a: Option<Tensor>, b: Option<Tensor>) -> Result<Option<Tensor>> {
    Ok(match (a, b) {
        (Some(a), Some(b)) => Some((a + b)?),
        (a, b) => a.or(b),
    })
}

impl Convolution {
    fn check(&self, op: &'static str, what: &str, layout: &Layout, want: &[Option<usize>]) -> Result<()> {
        let dims = layout.dims();
        if dims.len() == want.len() && dims.iter().zip(want).all(|(d, w)| w.is_none_or(|w| w == *d)) {
            return Ok(());
        }
        let shape: Vec<String> = want.iter().map(|w| w.map_or("_".into(), |w| w.to_string())).collect();
        Err(Error::Msg(format!("{op}: expected {what} of shape [{}], got {dims:?}", shape.join(", "))).bt())
    }

    /// How many radial features the edge rows hold.
    fn hidden(&self, op: &'static str, q: &Layout) -> Result<usize> {
        self.check(op, "edges", q, &[Some(self.graph.num_edges()), None])?;
        let width = q.dims()[1];
        width
            .checked_sub(self.spec.dim_edge)
            .ok_or_else(|| Error::Msg(format!("{op}: an edge has {width} numbers, fewer than its {} harmonics", self.spec.dim_edge)).bt())
    }
}

fn inputs<'a, T: Real>(
    conv: &'a Convolution,
    plan: &'a Plan<T>,
    x: (&'a CpuStorage, &Layout),
    q: (&'a CpuStorage, &Layout),
    hidden: usize,
) -> Result<Inputs<'a, T>> {
    let x_stride = x.1.dims()[1];
    Ok(Inputs { plan, graph: &conv.graph, x: slice(x.0, x.1)?, x_stride, q: slice(q.0, q.1)?, hidden })
}

impl CustomOp3 for Forward {
    fn name(&self) -> &'static str {
        "convolution"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        q: &CpuStorage,
        lq: &Layout,
        w: &CpuStorage,
        lw: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (conv, name) = (&self.0, self.name());
        let hidden = conv.hidden(name, lq)?;
        conv.check(name, "features", lx, &[Some(conv.graph.num_atoms()), Some(conv.spec.dim_in)])?;
        conv.check(name, "weights", lw, &[Some(hidden), Some(conv.spec.weight_numel)])?;
        dispatch_real!(x, name, |T| {
            let plan = Plan::<T>::new(&conv.spec);
            let out = forward(&inputs(conv, &plan, (x, lx), (q, lq), hidden)?, slice(w, lw)?);
            Ok((T::to_cpu_storage_owned(out), (conv.graph.num_atoms(), conv.spec.dim_out).into()))
        })
    }

    fn bwd(&self, x: &Tensor, q: &Tensor, w: &Tensor, _: &Tensor, g: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let xg = side_by_side(x, g)?;
        let (dx, dq) = adjoints(&self.0, &xg, q, w, x.track_op(), q.track_op())?;
        let dw = if w.track_op() { Some(weights_adjoint(&self.0, &xg, q)?) } else { None };
        Ok((dx, dq, dw))
    }
}

impl CustomOp3 for Adjoint {
    fn name(&self) -> &'static str {
        "convolution-adjoint"
    }

    fn cpu_fwd(
        &self,
        xg: &CpuStorage,
        lx: &Layout,
        q: &CpuStorage,
        lq: &Layout,
        w: &CpuStorage,
        lw: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (conv, name) = (&self.conv, self.name());
        let hidden = conv.hidden(name, lq)?;
        let stride = conv.spec.dim_in + conv.spec.dim_out;
        conv.check(name, "features and cotangents", lx, &[Some(conv.graph.num_atoms()), Some(stride)])?;
        conv.check(name, "weights", lw, &[Some(hidden), Some(conv.spec.weight_numel)])?;
        dispatch_real!(xg, name, |T| {
            let plan = Plan::<T>::new(&conv.spec);
            let inputs = inputs(conv, &plan, (xg, lx), (q, lq), hidden)?;
            let g = inputs.x.get(conv.spec.dim_in..).unwrap_or_default();
            let (dx, dq) = adjoint(&inputs, g, stride, slice(w, lw)?, self.need_x, self.need_q);
            let out = match (dx, dq) {
                (Some(mut dx), Some(dq)) => {
                    dx.extend_from_slice(&dq);
                    dx
                }
                (dx, dq) => dx.or(dq).unwrap_or_default(),
            };
            let len = out.len();
            Ok((T::to_cpu_storage_owned(out), len.into()))
        })
    }

    fn bwd(&self, xg: &Tensor, q: &Tensor, w: &Tensor, _: &Tensor, v: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let conv = &self.conv;
        let (dim_in, dim_out, dim_edge) = (conv.spec.dim_in, conv.spec.dim_out, conv.spec.dim_edge);
        let (n, (edges, width)) = (conv.graph.num_atoms(), q.dims2()?);
        let (x, g) = (xg.narrow(1, 0, dim_in)?, xg.narrow(1, dim_in, dim_out)?);
        let split = if self.need_x { n * dim_in } else { 0 };
        let (mut d_x, mut d_g, mut d_y, mut d_h, mut d_w) = (None, None, None, None, None);
        let q_tracked = q.track_op();
        let harmonics = |t: &Tensor| t.narrow(D::Minus1, 0, dim_edge);
        let radial = |t: &Tensor| t.narrow(D::Minus1, dim_edge, width - dim_edge);
        // S with one argument replaced by the cotangent of its adjoint; which of the others then get a derivative.
        let mut replaced = |x: &Tensor, q: &Tensor, by_x: bool, by_y: bool, by_h: bool| -> Result<()> {
            let xg_new = side_by_side(x, &g)?;
            if xg.track_op() {
                d_g = add(d_g.take(), Some(convolution(conv, x, q, w)?))?;
            }
            let (dx, dq) = adjoints(conv, &xg_new, q, w, by_x && xg.track_op(), (by_y || by_h) && q_tracked)?;
            d_x = add(d_x.take(), dx)?;
            if let Some(dq) = dq {
                if by_y {
                    d_y = add(d_y.take(), Some(harmonics(&dq)?))?;
                }
                if by_h {
                    d_h = add(d_h.take(), Some(radial(&dq)?))?;
                }
            }
            if w.track_op() {
                d_w = add(d_w.take(), Some(weights_adjoint(conv, &xg_new, q)?))?;
            }
            Ok(())
        };
        if self.need_x {
            let vx = v.narrow(0, 0, split)?.reshape((n, dim_in))?;
            replaced(&vx, q, false, true, true)?;
        }
        if self.need_q {
            let vq = v.narrow(0, split, edges * width)?.reshape((edges, width))?;
            replaced(&x, &side_by_side(&harmonics(&vq)?, &radial(q)?)?, true, false, true)?;
            replaced(&x, &side_by_side(&harmonics(q)?, &radial(&vq)?)?, true, true, false)?;
        }
        let d_xg = match d_g {
            None => None,
            Some(d_g) => {
                let d_x = d_x.map_or_else(|| x.zeros_like(), Ok)?;
                Some(side_by_side(&d_x, &d_g)?)
            }
        };
        let d_q = match (d_y, d_h) {
            (None, None) => None,
            (y, h) => {
                let y = y.map_or_else(|| harmonics(q)?.zeros_like(), Ok)?;
                let h = h.map_or_else(|| radial(q)?.zeros_like(), Ok)?;
                Some(side_by_side(&y, &h)?)
            }
        };
        Ok((d_xg, d_q, d_w))
    }
}

impl CustomOp2 for AdjointWeights {
    fn name(&self) -> &'static str {
        "convolution-adjoint-weights"
    }

    fn cpu_fwd(&self, xg: &CpuStorage, lx: &Layout, q: &CpuStorage, lq: &Layout) -> Result<(CpuStorage, Shape)> {
        let (conv, name) = (&self.0, self.name());
        let hidden = conv.hidden(name, lq)?;
        let stride = conv.spec.dim_in + conv.spec.dim_out;
        conv.check(name, "features and cotangents", lx, &[Some(conv.graph.num_atoms()), Some(stride)])?;
        dispatch_real!(xg, name, |T| {
            let plan = Plan::<T>::new(&conv.spec);
            let inputs = inputs(conv, &plan, (xg, lx), (q, lq), hidden)?;
            let g = inputs.x.get(conv.spec.dim_in..).unwrap_or_default();
            let out = adjoint_weights(&inputs, g, stride);
            Ok((T::to_cpu_storage_owned(out), (hidden, conv.spec.weight_numel).into()))
        })
    }

    fn bwd(&self, xg: &Tensor, q: &Tensor, _: &Tensor, v: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let conv = &self.0;
        let d_xg_tracked = xg.track_op();
        let (dx, dq) = adjoints(conv, xg, q, v, d_xg_tracked, q.track_op())?;
        let d_xg = match dx {
            None => None,
            Some(dx) => {
                let x = xg.narrow(1, 0, conv.spec.dim_in)?;
                Some(side_by_side(&dx, &convolution(conv, &x, q, v)?)?)
            }
        };
        Ok((d_xg, dq))
    }
}
