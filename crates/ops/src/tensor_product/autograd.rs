//! The candle side.
//!
//! Everything is a derivative of one number, S(g, x, Y, H, W) = Σ g · convolution(x, Y, H, W), linear in each of its five arguments: the
//! convolution is its derivative by g, [`Adjoint`] are those by the others, and [`AdjointTangent`] are all derivatives of an adjoint that a
//! force loss needs, in one pass over the edges.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp3, Error, Layout, Result, Shape, Tensor, WithDType};

use tesseral_kernels::{Buffer, Device, DeviceError};

use super::TensorProductSpec;
use super::cpu::{Needs, adjoint, forward};
use super::cuda::training::{DeviceDerivatives, DeviceGraph, DeviceInputs, MAX_HIDDEN, TrainingConvolution};
use super::edges::{Inputs, Windows};
use super::plan::Plan;
use super::tangent::adjoint_tangent;
use crate::autograd::{no_third_derivative, wants_positions, wants_weights};
use crate::graph::Graph;
use crate::on_device::{OnDevice, Operand, cuda_fwd, twin, with_parts};
use crate::real::{Real, dispatch_real, slice};
use crate::rows::size;

/// Which convolution on which graph.
#[derive(Clone)]
pub(super) struct Convolution {
    pub(super) spec: Arc<TensorProductSpec>,
    pub(super) graph: Graph,
    pub(super) windows: Option<Arc<Windows>>,
}

/// (x, q, W) → out
struct Forward(Convolution);
/// ([x | g], q, W) → [dx | dq | dW], flat, the parts that are asked for
struct Adjoint {
    conv: Convolution,
    needs: Needs,
}
/// ([x | g | x'], [q | q'], W) → [d[x | g] | dq | dW], flat, the parts that are asked for, of the adjoint along (x', q')
struct AdjointTangent {
    conv: Convolution,
    needs: Needs,
}

/// Parts of a flat result.
type Parts = (Option<Tensor>, Option<Tensor>, Option<Tensor>);

pub(super) fn convolution(conv: &Convolution, x: &Tensor, q: &Tensor, w: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op3(&q.contiguous()?, &w.contiguous()?, Forward(conv.clone()))
}

/// Parts of a flat tensor by the shapes of those that are there.
fn split(flat: &Tensor, needs: Needs, shapes: [&[usize]; 3]) -> Result<Parts> {
    let mut at = 0;
    let mut part = |needed: bool, shape: &[usize]| -> Result<Option<Tensor>> {
        if !needed {
            return Ok(None);
        }
        let len = shape.iter().product();
        let part = flat.narrow(0, at, len)?.reshape(shape)?;
        at += len;
        Ok(Some(part))
    };
    Ok((part(needs.x, shapes[0])?, part(needs.q, shapes[1])?, part(needs.w, shapes[2])?))
}

/// The derivatives of Σ g·convolution(x, q, W) by x, q and W.
fn adjoints(conv: &Convolution, xg: &Tensor, q: &Tensor, w: &Tensor, needs: Needs) -> Result<Parts> {
    if needs == Needs::default() {
        return Ok((None, None, None));
    }
    let flat = xg.contiguous()?.apply_op3(&q.contiguous()?, &w.contiguous()?, Adjoint { conv: conv.clone(), needs })?;
    split(&flat, needs, [&[conv.graph.num_atoms(), conv.spec.dim_in], q.dims(), w.dims()])
}

fn side_by_side(parts: &[&Tensor]) -> Result<Tensor> {
    Tensor::cat(parts, 1)
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

    /// How many radial features the edge rows hold; `copies` rows lie side by side.
    fn hidden(&self, op: &'static str, q: &Layout, copies: usize) -> Result<usize> {
        self.check(op, "edges", q, &[Some(self.graph.num_edges()), None])?;
        let width = q.dims()[1] / copies;
        width
            .checked_sub(self.spec.dim_edge)
            .ok_or_else(|| Error::Msg(format!("{op}: an edge has {width} numbers, fewer than its {} harmonics", self.spec.dim_edge)).bt())
    }

    /// Checks all shapes: `atoms` numbers in a row of atoms. Windows must lie inside the matrix.
    fn check_all(
        &self,
        op: &'static str,
        (what, x, atoms): (&str, &Layout, usize),
        (q, copies): (&Layout, usize),
        w: &Layout,
    ) -> Result<usize> {
        let hidden = self.hidden(op, q, copies)?;
        self.check(op, what, x, &[Some(self.graph.num_atoms()), Some(atoms)])?;
        let rows = self.windows.as_ref().map_or(hidden, |w| w.rows);
        self.check(op, "weights", w, &[Some(rows), Some(self.spec.weight_numel)])?;
        if let Some(windows) = &self.windows {
            let inside = windows.first.iter().all(|&f| f as usize + hidden <= rows);
            if windows.first.len() != self.graph.num_edges() || !inside {
                return Err(
                    Error::Msg(format!("{op}: windows of {hidden} rows do not fit a matrix of {rows}, or are not one an edge")).bt()
                );
            }
        }
        Ok(hidden)
    }

    fn inputs<'a, T: Real>(
        &'a self,
        plan: &'a Plan<T>,
        x: (&'a CpuStorage, &Layout),
        q: (&'a CpuStorage, &Layout),
        hidden: usize,
    ) -> Result<Inputs<'a, T>> {
        Ok(Inputs {
            plan,
            graph: &self.graph,
            x: slice(x.0, x.1)?,
            x_stride: x.1.dims()[1],
            q: slice(q.0, q.1)?,
            q_stride: q.1.dims()[1],
            hidden,
            windows: self.windows.as_deref(),
        })
    }
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
        let hidden = conv.check_all(name, ("features", lx, conv.spec.dim_in), (lq, 1), lw)?;
        dispatch_real!(x, name, |T| {
            let plan = Plan::<T>::new(&conv.spec);
            let out = forward(&conv.inputs(&plan, (x, lx), (q, lq), hidden)?, slice(w, lw)?);
            Ok((T::to_cpu_storage_owned(out), (conv.graph.num_atoms(), conv.spec.dim_out).into()))
        })
    }

    cuda_fwd!(x lx, q lq, w lw);

    fn bwd(&self, x: &Tensor, q: &Tensor, w: &Tensor, _: &Tensor, g: &Tensor) -> Result<Parts> {
        let needs = Needs { x: x.track_op(), q: wants_positions(q), w: wants_weights(w) };
        adjoints(&self.0, &side_by_side(&[x, g])?, q, w, needs)
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
        let stride = conv.spec.dim_in + conv.spec.dim_out;
        let hidden = conv.check_all(name, ("features and cotangents", lx, stride), (lq, 1), lw)?;
        dispatch_real!(xg, name, |T| {
            let plan = Plan::<T>::new(&conv.spec);
            let inputs = conv.inputs(&plan, (xg, lx), (q, lq), hidden)?;
            let g = inputs.x.get(conv.spec.dim_in..).unwrap_or_default();
            let out = adjoint(&inputs, g, stride, slice(w, lw)?, self.needs);
            let len = out.len();
            Ok((T::to_cpu_storage_owned(out), len.into()))
        })
    }

    cuda_fwd!(xg lx, q lq, w lw);

    fn bwd(&self, xg: &Tensor, q: &Tensor, w: &Tensor, _: &Tensor, v: &Tensor) -> Result<Parts> {
        let conv = &self.conv;
        let (n, dim_in, dim_out) = (conv.graph.num_atoms(), conv.spec.dim_in, conv.spec.dim_out);
        let needs = Needs { x: xg.track_op(), q: wants_positions(q), w: wants_weights(w) };
        let (along_x, along_q, along_w) = split(v, self.needs, [&[n, dim_in], q.dims(), w.dims()])?;
        let (mut d_xg, mut d_q, mut d_w) = (None, None, None);
        if needs != Needs::default() && (along_x.is_some() || along_q.is_some()) {
            let along_x = along_x.map_or_else(|| Tensor::zeros((n, dim_in), xg.dtype(), xg.device()), Ok)?;
            let along_q = along_q.map_or_else(|| q.zeros_like(), Ok)?;
            let (xs, qs) = (side_by_side(&[xg, &along_x])?, side_by_side(&[q, &along_q])?);
            let flat = xs.apply_op3(&qs, &w.contiguous()?, AdjointTangent { conv: conv.clone(), needs })?;
            (d_xg, d_q, d_w) = split(&flat, needs, [&[n, dim_in + dim_out], q.dims(), w.dims()])?;
        }
        if let Some(along_w) = along_w {
            // Linear in W: S with W replaced.
            let (dx, dq, _) = adjoints(conv, xg, q, &along_w, Needs { w: false, ..needs })?;
            if let Some(dx) = dx {
                let x = xg.narrow(1, 0, dim_in)?;
                d_xg = add(d_xg, Some(side_by_side(&[&dx, &convolution(conv, &x, q, &along_w)?])?))?;
            }
            d_q = add(d_q, dq)?;
        }
        Ok((d_xg, d_q, d_w))
    }
}

impl CustomOp3 for AdjointTangent {
    fn name(&self) -> &'static str {
        "convolution-adjoint-tangent"
    }

    fn cpu_fwd(
        &self,
        xs: &CpuStorage,
        lx: &Layout,
        qs: &CpuStorage,
        lq: &Layout,
        w: &CpuStorage,
        lw: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (conv, name) = (&self.conv, self.name());
        let stride = 2 * conv.spec.dim_in + conv.spec.dim_out;
        let hidden = conv.check_all(name, ("features, cotangents and directions", lx, stride), (lq, 2), lw)?;
        dispatch_real!(xs, name, |T| {
            let plan = Plan::<T>::new(&conv.spec);
            let out = adjoint_tangent(&conv.inputs(&plan, (xs, lx), (qs, lq), hidden)?, slice(w, lw)?, self.needs);
            let len = out.len();
            Ok((T::to_cpu_storage_owned(out), len.into()))
        })
    }

    cuda_fwd!(xs lx, qs lq, w lw);

    fn bwd(&self, _: &Tensor, _: &Tensor, _: &Tensor, _: &Tensor, _: &Tensor) -> Result<Parts> {
        Err(no_third_derivative(self.name()))
    }
}

/// Edges on a device.
struct Edges {
    on_device: DeviceGraph,
    /// Where they belong to windows: the graph whose address is part of their key.
    _graph: Option<Graph>,
}

impl Convolution {
    fn kernels<T: Real>(&self, device: &Device) -> std::result::Result<Arc<TrainingConvolution<T>>, DeviceError> {
        twin(device, &self.spec, [0, 0], || TrainingConvolution::new(device, &self.spec))
    }

    fn edges(&self, device: &Device) -> std::result::Result<Arc<Edges>, DeviceError> {
        let identity = self.graph.identity();
        let edges = |windows, _graph| Ok(Edges { on_device: DeviceGraph::new(device, &self.graph, windows)?, _graph });
        match &self.windows {
            Some(windows) => twin(device, windows, [Arc::as_ptr(identity).addr(), 0], || edges(Some(windows), Some(self.graph.clone()))),
            None => twin(device, identity, [0, 0], || edges(None, None)),
        }
    }

    /// The inputs of kernels, of edges with `copies` rows side by side.
    fn operands<'a, T: Real>(&self, inputs: &'a [Operand<T>], copies: usize) -> std::result::Result<DeviceInputs<'a, T>, DeviceError> {
        let [x, q, w] = [&inputs[0], &inputs[1], &inputs[2]];
        let hidden = q.dims[1] / copies - self.spec.dim_edge;
        size("training_convolution", "radial features, more than the kernels hold", hidden, hidden.min(MAX_HIDDEN))?;
        Ok(DeviceInputs { x: &x.data, x_stride: x.dims[1], q: &q.data, q_stride: q.dims[1], hidden, w: &w.data })
    }

    /// Lengths of the derivatives by features of `width` numbers an atom, by edges and by the matrix.
    fn lengths(&self, needs: Needs, width: usize, hidden: usize) -> [Option<usize>; 3] {
        let rows = self.windows.as_ref().map_or(hidden, |w| w.rows);
        [
            needs.x.then_some(self.graph.num_atoms() * width),
            needs.q.then_some(self.graph.num_edges() * (self.spec.dim_edge + hidden)),
            needs.w.then_some(rows * self.spec.weight_numel),
        ]
    }

    fn run_derivatives<T: Real>(
        &self,
        device: &Device,
        inputs: &[Operand<T>],
        out: &mut Buffer<T>,
        needs: Needs,
        along: bool,
    ) -> std::result::Result<(), DeviceError> {
        let (kernels, edges) = (self.kernels::<T>(device)?, self.edges(device)?);
        let inputs = self.operands(inputs, if along { 2 } else { 1 })?;
        let width = self.spec.dim_in + if along { self.spec.dim_out } else { 0 };
        let mut scratch = device.zeros(if needs.w { kernels.scratch_len(&edges.on_device, inputs.hidden) } else { 0 })?;
        with_parts(out, self.lengths(needs, width, inputs.hidden), |[dx, dq, dw]| {
            let to = DeviceDerivatives { dx, dq, dw: dw.map(|dw| (dw, &mut scratch)) };
            if along { kernels.adjoint_tangent(&edges.on_device, inputs, to) } else { kernels.adjoint(&edges.on_device, inputs, to) }
        })
    }
}

impl OnDevice for Forward {
    fn shape(&self, inputs: &[&Layout]) -> Result<Shape> {
        let conv = &self.0;
        conv.check_all(self.name(), ("features", inputs[0], conv.spec.dim_in), (inputs[1], 1), inputs[2])?;
        Ok((conv.graph.num_atoms(), conv.spec.dim_out).into())
    }

    fn run<T: Real>(&self, device: &Device, inputs: &[Operand<T>], out: &mut Buffer<T>) -> std::result::Result<(), DeviceError> {
        self.0.kernels::<T>(device)?.forward(&self.0.edges(device)?.on_device, self.0.operands(inputs, 1)?, out)
    }
}

impl OnDevice for Adjoint {
    fn shape(&self, inputs: &[&Layout]) -> Result<Shape> {
        let (spec, needs) = (&self.conv.spec, self.needs);
        let width = spec.dim_in + spec.dim_out;
        let hidden = self.conv.check_all(self.name(), ("features and cotangents", inputs[0], width), (inputs[1], 1), inputs[2])?;
        Ok(self.conv.lengths(needs, spec.dim_in, hidden).iter().flatten().sum::<usize>().into())
    }

    fn run<T: Real>(&self, device: &Device, inputs: &[Operand<T>], out: &mut Buffer<T>) -> std::result::Result<(), DeviceError> {
        self.conv.run_derivatives(device, inputs, out, self.needs, false)
    }
}

impl OnDevice for AdjointTangent {
    fn shape(&self, inputs: &[&Layout]) -> Result<Shape> {
        let (spec, needs) = (&self.conv.spec, self.needs);
        let width = 2 * spec.dim_in + spec.dim_out;
        let what = "features, cotangents and directions";
        let hidden = self.conv.check_all(self.name(), (what, inputs[0], width), (inputs[1], 2), inputs[2])?;
        Ok(self.conv.lengths(needs, spec.dim_in + spec.dim_out, hidden).iter().flatten().sum::<usize>().into())
    }

    fn run<T: Real>(&self, device: &Device, inputs: &[Operand<T>], out: &mut Buffer<T>) -> std::result::Result<(), DeviceError> {
        self.conv.run_derivatives(device, inputs, out, self.needs, true)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::DType;
    use tesseral_o3::TensorProductPaths;

    use super::*;
    use crate::graph::tests::random_graph;
    use crate::on_device::tests::check;
    use crate::testing::Random;

    #[test]
    fn kernels_do_what_the_ops_do() {
        let paths = TensorProductPaths::new(&"33x0e+5x1o".parse().unwrap(), &"0e+1o+2e".parse().unwrap(), |out| out.l <= 1).unwrap();
        let spec = Arc::new(TensorProductSpec::new(&paths).unwrap());
        let mut random = Random::new(8);
        for (atoms, windows) in [(1, false), (7, false), (7, true)] {
            let graph = random_graph(atoms, &mut random);
            let (edges, hidden) = (graph.num_edges(), 3);
            let rows = if windows { 11 } else { hidden };
            let first = (0..edges as u32).map(|e| (5 * e + e * e) % 9).collect();
            let windows = windows.then(|| Arc::new(Windows { first, rows }));
            let conv = Convolution { spec: spec.clone(), graph, windows };
            let [x, g, along_x] = [spec.dim_in, spec.dim_out, spec.dim_in].map(|width| random.tensor(&[atoms, width], DType::F64));
            let [q, along_q] = [0, 1].map(|_| random.tensor(&[edges, spec.dim_edge + hidden], DType::F64));
            let w = random.tensor(&[rows, spec.weight_numel], DType::F64);
            check(&Forward(conv.clone()), &[&x, &q, &w], |t| convolution(&conv, &t[0], &t[1], &t[2]));
            let (xg, xs) = (side_by_side(&[&x, &g]).unwrap(), side_by_side(&[&x, &g, &along_x]).unwrap());
            let qs = side_by_side(&[&q, &along_q]).unwrap();
            for needs in [Needs { x: true, q: true, w: true }, Needs { x: false, q: true, w: false }, Needs { x: true, q: false, w: true }]
            {
                let op = || Adjoint { conv: conv.clone(), needs };
                check(&op(), &[&xg, &q, &w], |t| t[0].apply_op3(&t[1], &t[2], op()));
                let op = || AdjointTangent { conv: conv.clone(), needs };
                check(&op(), &[&xs, &qs, &w], |t| t[0].apply_op3(&t[1], &t[2], op()));
            }
        }
    }
}
