//! The candle side: four ops, each the derivative of another.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};

use super::{GateSpec, cpu};
use crate::autograd::{if_tracked, no_third_derivative};
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

    fn bwd(&self, _: &Tensor, _: &Tensor, _: &Tensor, _: &Tensor, _: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        Err(no_third_derivative(self.name()))
    }
}
