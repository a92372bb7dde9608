//! The candle side: four ops, each the derivative of another.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};
use tesseral_kernels::{Buffer, Device, DeviceError};

use super::cuda::DeviceHarmonics;
use super::{count, cpu};
use crate::autograd::{if_tracked, no_third_derivative};
use crate::on_device::{OnDevice, Operand, cuda_fwd, lasting};
use crate::real::{Real, dispatch_real, slice};

#[derive(Clone, Copy)]
pub(super) struct Parameters {
    pub(super) lmax: usize,
    pub(super) normalize: bool,
}

/// v → Y
struct Evaluate(Parameters);
/// (v, g) → ∇⟨g, Y⟩
struct Adjoint(Parameters);
/// (v, u) → (u·∇)Y
struct Tangent(Parameters);
/// (v, g, u) → ∇⟨g, (u·∇)Y⟩
struct AdjointTangent(Parameters);

pub(super) fn evaluate(v: &Tensor, p: Parameters) -> Result<Tensor> {
    v.contiguous()?.apply_op1(Evaluate(p))
}

pub(super) fn adjoint(v: &Tensor, g: &Tensor, p: Parameters) -> Result<Tensor> {
    v.contiguous()?.apply_op2(&g.contiguous()?, Adjoint(p))
}

fn tangent(v: &Tensor, u: &Tensor, p: Parameters) -> Result<Tensor> {
    v.contiguous()?.apply_op2(&u.contiguous()?, Tangent(p))
}

fn adjoint_tangent(v: &Tensor, g: &Tensor, u: &Tensor, p: Parameters) -> Result<Tensor> {
    v.contiguous()?.apply_op3(&g.contiguous()?, &u.contiguous()?, AdjointTangent(p))
}

impl Parameters {
    fn harmonics(self) -> usize {
        count(self.lmax)
    }

    /// How many edges, if the shape is `[E, 3]`.
    fn edges(self, op: &'static str, layout: &Layout) -> Result<usize> {
        match layout.dims() {
            &[edges, 3] => Ok(edges),
            dims => Err(candle_core::Error::Msg(format!("{op}: expected vectors [edges, 3], got {dims:?}")).bt()),
        }
    }

    fn expect(self, op: &'static str, what: &str, layout: &Layout, want: [usize; 2]) -> Result<()> {
        if layout.dims() == want {
            Ok(())
        } else {
            Err(candle_core::Error::Msg(format!("{op}: expected {what} {want:?}, got {:?}", layout.dims())).bt())
        }
    }
}

/// A new storage `[rows, width]` that `fill` writes.
fn output<T: Real>(rows: usize, width: usize, fill: impl FnOnce(&mut [T])) -> Result<(CpuStorage, Shape)> {
    let mut out = vec![T::zero(); rows * width];
    fill(&mut out);
    Ok((T::to_cpu_storage_owned(out), (rows, width).into()))
}

impl CustomOp1 for Evaluate {
    fn name(&self) -> &'static str {
        "spherical-harmonics"
    }

    fn cpu_fwd(&self, v: &CpuStorage, lv: &Layout) -> Result<(CpuStorage, Shape)> {
        let p = self.0;
        let edges = p.edges(self.name(), lv)?;
        dispatch_real!(v, self.name(), |T| {
            let v = slice::<T>(v, lv)?;
            output(edges, p.harmonics(), |out| cpu::evaluate(v, p.lmax, p.normalize, out))
        })
    }

    cuda_fwd!(v lv);

    fn bwd(&self, v: &Tensor, _: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        if_tracked(v, || adjoint(v, g, self.0))
    }
}

impl CustomOp2 for Adjoint {
    fn name(&self) -> &'static str {
        "spherical-harmonics-adjoint"
    }

    fn cpu_fwd(&self, v: &CpuStorage, lv: &Layout, g: &CpuStorage, lg: &Layout) -> Result<(CpuStorage, Shape)> {
        let p = self.0;
        let edges = p.edges(self.name(), lv)?;
        p.expect(self.name(), "cotangents", lg, [edges, p.harmonics()])?;
        dispatch_real!(v, self.name(), |T| {
            let (v, g) = (slice::<T>(v, lv)?, slice::<T>(g, lg)?);
            output(edges, 3, |out| cpu::adjoint(v, g, p.lmax, p.normalize, out))
        })
    }

    cuda_fwd!(v lv, g lg);

    fn bwd(&self, v: &Tensor, g: &Tensor, _: &Tensor, u: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((if_tracked(v, || adjoint_tangent(v, g, u, self.0))?, if_tracked(g, || tangent(v, u, self.0))?))
    }
}

impl CustomOp2 for Tangent {
    fn name(&self) -> &'static str {
        "spherical-harmonics-tangent"
    }

    fn cpu_fwd(&self, v: &CpuStorage, lv: &Layout, u: &CpuStorage, lu: &Layout) -> Result<(CpuStorage, Shape)> {
        let p = self.0;
        let edges = p.edges(self.name(), lv)?;
        p.expect(self.name(), "directions", lu, [edges, 3])?;
        dispatch_real!(v, self.name(), |T| {
            let (v, u) = (slice::<T>(v, lv)?, slice::<T>(u, lu)?);
            output(edges, p.harmonics(), |out| cpu::tangent(v, u, p.lmax, p.normalize, out))
        })
    }

    cuda_fwd!(v lv, u lu);

    fn bwd(&self, v: &Tensor, u: &Tensor, _: &Tensor, g: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((if_tracked(v, || adjoint_tangent(v, g, u, self.0))?, if_tracked(u, || adjoint(v, g, self.0))?))
    }
}

impl CustomOp3 for AdjointTangent {
    fn name(&self) -> &'static str {
        "spherical-harmonics-adjoint-tangent"
    }

    fn cpu_fwd(
        &self,
        v: &CpuStorage,
        lv: &Layout,
        g: &CpuStorage,
        lg: &Layout,
        u: &CpuStorage,
        lu: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let p = self.0;
        let edges = p.edges(self.name(), lv)?;
        p.expect(self.name(), "cotangents", lg, [edges, p.harmonics()])?;
        p.expect(self.name(), "directions", lu, [edges, 3])?;
        dispatch_real!(v, self.name(), |T| {
            let (v, g, u) = (slice::<T>(v, lv)?, slice::<T>(g, lg)?, slice::<T>(u, lu)?);
            output(edges, 3, |out| cpu::adjoint_tangent(v, g, u, p.lmax, p.normalize, out))
        })
    }

    cuda_fwd!(v lv, g lg, u lu);

    fn bwd(&self, _: &Tensor, _: &Tensor, _: &Tensor, _: &Tensor, _: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        Err(no_third_derivative(self.name()))
    }
}

impl Parameters {
    fn on_device<T: Real>(self, device: &Device) -> std::result::Result<Arc<DeviceHarmonics<T>>, DeviceError> {
        lasting(device, [self.lmax, usize::from(self.normalize)], || DeviceHarmonics::new(device, self.lmax, self.normalize))
    }
}

impl OnDevice for Evaluate {
    fn shape(&self, inputs: &[&Layout]) -> Result<Shape> {
        let edges = self.0.edges(self.name(), inputs[0])?;
        Ok((edges, self.0.harmonics()).into())
    }

    fn run<T: Real>(&self, device: &Device, inputs: &[Operand<T>], out: &mut Buffer<T>) -> std::result::Result<(), DeviceError> {
        self.0.on_device(device)?.evaluate(&inputs[0].data, out, inputs[0].dims[0])
    }
}

impl OnDevice for Adjoint {
    fn shape(&self, inputs: &[&Layout]) -> Result<Shape> {
        let edges = self.0.edges(self.name(), inputs[0])?;
        self.0.expect(self.name(), "cotangents", inputs[1], [edges, self.0.harmonics()])?;
        Ok((edges, 3).into())
    }

    fn run<T: Real>(&self, device: &Device, inputs: &[Operand<T>], out: &mut Buffer<T>) -> std::result::Result<(), DeviceError> {
        self.0.on_device(device)?.adjoint(&inputs[0].data, &inputs[1].data, out, inputs[0].dims[0])
    }
}

impl OnDevice for Tangent {
    fn shape(&self, inputs: &[&Layout]) -> Result<Shape> {
        let edges = self.0.edges(self.name(), inputs[0])?;
        self.0.expect(self.name(), "directions", inputs[1], [edges, 3])?;
        Ok((edges, self.0.harmonics()).into())
    }

    fn run<T: Real>(&self, device: &Device, inputs: &[Operand<T>], out: &mut Buffer<T>) -> std::result::Result<(), DeviceError> {
        self.0.on_device(device)?.tangent(&inputs[0].data, &inputs[1].data, out, inputs[0].dims[0])
    }
}

impl OnDevice for AdjointTangent {
    fn shape(&self, inputs: &[&Layout]) -> Result<Shape> {
        let edges = self.0.edges(self.name(), inputs[0])?;
        self.0.expect(self.name(), "cotangents", inputs[1], [edges, self.0.harmonics()])?;
        self.0.expect(self.name(), "directions", inputs[2], [edges, 3])?;
        Ok((edges, 3).into())
    }

    fn run<T: Real>(&self, device: &Device, inputs: &[Operand<T>], out: &mut Buffer<T>) -> std::result::Result<(), DeviceError> {
        let [v, g, u] = [0, 1, 2].map(|k| &inputs[k].data);
        self.0.on_device(device)?.adjoint_tangent(v, g, u, out, inputs[0].dims[0])
    }
}

#[cfg(test)]
mod tests {
    use candle_core::DType;

    use super::*;
    use crate::on_device::tests::check;
    use crate::testing::Random;

    #[test]
    fn kernels_do_what_the_ops_do() {
        let mut random = Random::new(5);
        for (n, lmax, normalize) in [(0, 2, true), (130, 3, true), (9, 2, false)] {
            let p = Parameters { lmax, normalize };
            let [v, u] = [0, 1].map(|_| random.tensor(&[n, 3], DType::F64));
            let g = random.tensor(&[n, count(lmax)], DType::F64);
            check(&Evaluate(p), &[&v], |t| evaluate(&t[0], p));
            check(&Adjoint(p), &[&v, &g], |t| adjoint(&t[0], &t[1], p));
            check(&Tangent(p), &[&v, &u], |t| tangent(&t[0], &t[1], p));
            check(&AdjointTangent(p), &[&v, &g, &u], |t| adjoint_tangent(&t[0], &t[1], &t[2], p));
        }
    }
}
