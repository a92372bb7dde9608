//! The candle side: four ops, each the derivative of another.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};

use tesseral_kernels::{Buffer, Device, DeviceError};

use super::cuda::DeviceGate;
use super::{GateSpec, cpu};
use crate::autograd::{if_tracked, no_third_derivative};
use crate::on_device::{OnDevice, Operand, cuda_fwd, twin};
use crate::real::{Real, dispatch_real, slice};

/// x → y
struct Evaluate(Arc<GateSpec>);
/// (x, g) → ∇⟨g, y⟩
struct Adjoint(Arc<GateSpec>);
/// (x, u) → (u·∇)y
struct Tangent(Arc<GateSpec>);
/// (x, g, u) → ∇⟨g, (u·∇)y⟩
struct AdjointTangent(Arc<GateSpec>);

pub(super) fn evaluate(x: &Tensor, spec: &Arc<GateSpec>) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Evaluate(spec.clone()))
}

fn adjoint(x: &Tensor, g: &Tensor, spec: &Arc<GateSpec>) -> Result<Tensor> {
    x.contiguous()?.apply_op2(&g.contiguous()?, Adjoint(spec.clone()))
}

fn tangent(x: &Tensor, u: &Tensor, spec: &Arc<GateSpec>) -> Result<Tensor> {
    x.contiguous()?.apply_op2(&u.contiguous()?, Tangent(spec.clone()))
}

fn adjoint_tangent(x: &Tensor, g: &Tensor, u: &Tensor, spec: &Arc<GateSpec>) -> Result<Tensor> {
    x.contiguous()?.apply_op3(&g.contiguous()?, &u.contiguous()?, AdjointTangent(spec.clone()))
}

/// How many rows, if all shapes fit.
fn rows(op: &'static str, spec: &GateSpec, x: &Layout, g: Option<&Layout>, u: Option<&Layout>) -> Result<usize> {
    let n = x.dims().first().copied().unwrap_or(0);
    let expected = [(Some(x), spec.dim_in()), (g, spec.dim_out()), (u, spec.dim_in())];
    for (layout, dim) in expected {
        if let Some(layout) = layout.filter(|l| l.dims() != [n, dim]) {
            return Err(candle_core::Error::Msg(format!("{op}: expected [rows, {dim}], got {:?}", layout.dims())).bt());
        }
    }
    Ok(n)
}

/// A new storage `[rows, width]` that `fill` writes.
fn output<T: Real>(rows: usize, width: usize, fill: impl FnOnce(&mut [T])) -> Result<(CpuStorage, Shape)> {
    let mut out = vec![T::zero(); rows * width];
    fill(&mut out);
    Ok((T::to_cpu_storage_owned(out), (rows, width).into()))
}

impl CustomOp1 for Evaluate {
    fn name(&self) -> &'static str {
        "gate"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout) -> Result<(CpuStorage, Shape)> {
        let n = rows(self.name(), &self.0, lx, None, None)?;
        dispatch_real!(x, self.name(), |T| {
            let x = slice::<T>(x, lx)?;
            output(n, self.0.dim_out(), |out| cpu::evaluate(&self.0, x, out))
        })
    }

    cuda_fwd!(x lx);

    fn bwd(&self, x: &Tensor, _: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        if_tracked(x, || adjoint(x, g, &self.0))
    }
}

impl CustomOp2 for Adjoint {
    fn name(&self) -> &'static str {
        "gate-adjoint"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, g: &CpuStorage, lg: &Layout) -> Result<(CpuStorage, Shape)> {
        let n = rows(self.name(), &self.0, lx, Some(lg), None)?;
        dispatch_real!(x, self.name(), |T| {
            let (x, g) = (slice::<T>(x, lx)?, slice::<T>(g, lg)?);
            output(n, self.0.dim_in(), |out| cpu::adjoint(&self.0, x, g, out))
        })
    }

    cuda_fwd!(x lx, g lg);

    fn bwd(&self, x: &Tensor, g: &Tensor, _: &Tensor, u: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((if_tracked(x, || adjoint_tangent(x, g, u, &self.0))?, if_tracked(g, || tangent(x, u, &self.0))?))
    }
}

impl CustomOp2 for Tangent {
    fn name(&self) -> &'static str {
        "gate-tangent"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, u: &CpuStorage, lu: &Layout) -> Result<(CpuStorage, Shape)> {
        let n = rows(self.name(), &self.0, lx, None, Some(lu))?;
        dispatch_real!(x, self.name(), |T| {
            let (x, u) = (slice::<T>(x, lx)?, slice::<T>(u, lu)?);
            output(n, self.0.dim_out(), |out| cpu::tangent(&self.0, x, u, out))
        })
    }

    cuda_fwd!(x lx, u lu);

    fn bwd(&self, x: &Tensor, u: &Tensor, _: &Tensor, g: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((if_tracked(x, || adjoint_tangent(x, g, u, &self.0))?, if_tracked(u, || adjoint(x, g, &self.0))?))
    }
}

impl CustomOp3 for AdjointTangent {
    fn name(&self) -> &'static str {
        "gate-adjoint-tangent"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        g: &CpuStorage,
        lg: &Layout,
        u: &CpuStorage,
        lu: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let n = rows(self.name(), &self.0, lx, Some(lg), Some(lu))?;
        dispatch_real!(x, self.name(), |T| {
            let (x, g, u) = (slice::<T>(x, lx)?, slice::<T>(g, lg)?, slice::<T>(u, lu)?);
            output(n, self.0.dim_in(), |out| cpu::adjoint_tangent(&self.0, x, g, u, out))
        })
    }

    cuda_fwd!(x lx, g lg, u lu);

    fn bwd(&self, _: &Tensor, _: &Tensor, _: &Tensor, _: &Tensor, _: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        Err(no_third_derivative(self.name()))
    }
}

/// The launcher of a gate.
fn on_device<T: Real>(device: &Device, spec: &Arc<GateSpec>) -> std::result::Result<Arc<DeviceGate<T>>, DeviceError> {
    twin(device, spec, [0, 0], || DeviceGate::new(device, spec))
}

impl OnDevice for Evaluate {
    fn shape(&self, inputs: &[&Layout]) -> Result<Shape> {
        Ok((rows(self.name(), &self.0, inputs[0], None, None)?, self.0.dim_out()).into())
    }

    fn run<T: Real>(&self, device: &Device, inputs: &[Operand<T>], out: &mut Buffer<T>) -> std::result::Result<(), DeviceError> {
        on_device(device, &self.0)?.forward(&inputs[0].data, out, inputs[0].dims[0])
    }
}

impl OnDevice for Adjoint {
    fn shape(&self, inputs: &[&Layout]) -> Result<Shape> {
        Ok((rows(self.name(), &self.0, inputs[0], Some(inputs[1]), None)?, self.0.dim_in()).into())
    }

    fn run<T: Real>(&self, device: &Device, inputs: &[Operand<T>], out: &mut Buffer<T>) -> std::result::Result<(), DeviceError> {
        on_device(device, &self.0)?.adjoint(&inputs[0].data, &inputs[1].data, out, inputs[0].dims[0])
    }
}

impl OnDevice for Tangent {
    fn shape(&self, inputs: &[&Layout]) -> Result<Shape> {
        Ok((rows(self.name(), &self.0, inputs[0], None, Some(inputs[1]))?, self.0.dim_out()).into())
    }

    fn run<T: Real>(&self, device: &Device, inputs: &[Operand<T>], out: &mut Buffer<T>) -> std::result::Result<(), DeviceError> {
        on_device(device, &self.0)?.tangent(&inputs[0].data, &inputs[1].data, out, inputs[0].dims[0])
    }
}

impl OnDevice for AdjointTangent {
    fn shape(&self, inputs: &[&Layout]) -> Result<Shape> {
        Ok((rows(self.name(), &self.0, inputs[0], Some(inputs[1]), Some(inputs[2]))?, self.0.dim_in()).into())
    }

    fn run<T: Real>(&self, device: &Device, inputs: &[Operand<T>], out: &mut Buffer<T>) -> std::result::Result<(), DeviceError> {
        let [x, g, u] = [0, 1, 2].map(|k| &inputs[k].data);
        on_device(device, &self.0)?.adjoint_tangent(x, g, u, out, inputs[0].dims[0])
    }
}

#[cfg(test)]
mod tests {
    use candle_core::DType;

    use super::*;
    use crate::gate::{Activation, GatedBlock};
    use crate::on_device::tests::check;
    use crate::testing::Random;

    #[test]
    fn kernels_do_what_the_ops_do() {
        let gates = vec![(5, Activation::Sigmoid.e3nn()), (2, Activation::Silu.plain())];
        let gated = vec![GatedBlock { mul: 4, components: 3 }, GatedBlock { mul: 3, components: 5 }];
        let spec = Arc::new(GateSpec::new(vec![(6, Activation::Silu.e3nn())], gates, gated).unwrap());
        let mut random = Random::new(3);
        for n in [0, 37] {
            let [x, u] = [0, 1].map(|_| random.tensor(&[n, spec.dim_in()], DType::F64));
            let g = random.tensor(&[n, spec.dim_out()], DType::F64);
            check(&Evaluate(spec.clone()), &[&x], |t| evaluate(&t[0], &spec));
            check(&Adjoint(spec.clone()), &[&x, &g], |t| adjoint(&t[0], &t[1], &spec));
            check(&Tangent(spec.clone()), &[&x, &u], |t| tangent(&t[0], &t[1], &spec));
            check(&AdjointTangent(spec.clone()), &[&x, &g, &u], |t| adjoint_tangent(&t[0], &t[1], &t[2], &spec));
        }
    }
}
