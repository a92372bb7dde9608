//! The candle side: six ops, closed under differentiation to second order.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};

use super::{ContractionSpec, cpu};
use crate::autograd::{if_tracked, if_weights_wanted, no_third_derivative};
use crate::linear::Groups;
use crate::real::{Real, dispatch_real, slice};

/// The contraction that an op belongs to.
#[derive(Clone)]
pub(super) struct Contraction {
    pub(super) spec: Arc<ContractionSpec>,
    pub(super) elements: Arc<Groups>,
}

/// (A, c) → P
struct Evaluate(Contraction);
/// (A, c, g) → ∇_A ⟨g, P⟩
struct Adjoint(Contraction);
/// (A, g) → ∂_c ⟨g, P⟩
struct AdjointCoefficients(Contraction);
/// (A, v, c) → (v·∇_A) P
struct Tangent(Contraction);
/// (A|v|g, c) → ∇_A ⟨g, (v·∇_A) P⟩; three tensors joined along their components, since an op takes three at most
struct AdjointTangent(Contraction);
/// (A, v, g) → ∂_c ⟨g, (v·∇_A) P⟩
struct TangentCoefficients(Contraction);

impl Contraction {
    pub(super) fn evaluate(&self, a: &Tensor, c: &Tensor) -> Result<Tensor> {
        a.contiguous()?.apply_op2(&c.contiguous()?, Evaluate(self.clone()))
    }

    fn adjoint(&self, a: &Tensor, c: &Tensor, g: &Tensor) -> Result<Tensor> {
        a.contiguous()?.apply_op3(&c.contiguous()?, &g.contiguous()?, Adjoint(self.clone()))
    }

    fn adjoint_coefficients(&self, a: &Tensor, g: &Tensor) -> Result<Tensor> {
        a.contiguous()?.apply_op2(&g.contiguous()?, AdjointCoefficients(self.clone()))
    }

    fn tangent(&self, a: &Tensor, v: &Tensor, c: &Tensor) -> Result<Tensor> {
        a.contiguous()?.apply_op3(&v.contiguous()?, &c.contiguous()?, Tangent(self.clone()))
    }

    fn adjoint_tangent(&self, a: &Tensor, v: &Tensor, g: &Tensor, c: &Tensor) -> Result<Tensor> {
        Tensor::cat(&[a, v, g], 1)?.apply_op2(&c.contiguous()?, AdjointTangent(self.clone()))
    }

    fn tangent_coefficients(&self, a: &Tensor, v: &Tensor, g: &Tensor) -> Result<Tensor> {
        a.contiguous()?.apply_op3(&v.contiguous()?, &g.contiguous()?, TangentCoefficients(self.clone()))
    }

    /// How many atoms.
    fn atoms(&self) -> usize {
        self.elements.order().len()
    }

    /// How many channels, if a tensor is `[rows, components, K]`.
    fn channels(&self, op: &'static str, what: &str, layout: &Layout, rows: usize, components: usize) -> Result<usize> {
        match layout.dims() {
            &[n, d, k] if n == rows && d == components => Ok(k),
            dims => Err(candle_core::Error::Msg(format!("{op}: expected {what} [{rows}, {components}, K], got {dims:?}")).bt()),
        }
    }

    /// How many channels, if all shapes fit: tensors like the features, like the outputs and like the coefficients.
    fn check(&self, op: &'static str, features: &[&Layout], outputs: &[&Layout], coefficients: &[&Layout]) -> Result<usize> {
        let mut channels = Vec::new();
        for layout in features {
            channels.push(self.channels(op, "features", layout, self.atoms(), self.spec.dim())?);
        }
        for layout in outputs {
            channels.push(self.channels(op, "outputs", layout, self.atoms(), self.spec.outputs())?);
        }
        for layout in coefficients {
            channels.push(self.channels(op, "coefficients", layout, self.elements.len(), self.spec.terms().len())?);
        }
        match channels.windows(2).find(|w| w[0] != w[1]) {
            None => Ok(channels.first().copied().unwrap_or(0)),
            Some(w) => Err(candle_core::Error::Msg(format!("{op}: tensors of {} and {} channels", w[0], w[1])).bt()),
        }
    }

    fn output<T: Real>(&self, components: usize, channels: usize, fill: impl FnOnce(&mut [T])) -> Result<(CpuStorage, Shape)> {
        new_storage((self.atoms(), components, channels), fill)
    }

    fn coefficients<T: Real>(&self, channels: usize, fill: impl FnOnce(&mut [T])) -> Result<(CpuStorage, Shape)> {
        new_storage((self.elements.len(), self.spec.terms().len(), channels), fill)
    }
}

fn new_storage<T: Real>(shape: (usize, usize, usize), fill: impl FnOnce(&mut [T])) -> Result<(CpuStorage, Shape)> {
    let mut out = vec![T::zero(); shape.0 * shape.1 * shape.2];
    fill(&mut out);
    Ok((T::to_cpu_storage_owned(out), shape.into()))
}

type Two = (Option<Tensor>, Option<Tensor>);
type Three = (Option<Tensor>, Option<Tensor>, Option<Tensor>);

impl CustomOp2 for Evaluate {
    fn name(&self) -> &'static str {
        "symmetric-contraction"
    }

    fn cpu_fwd(&self, a: &CpuStorage, la: &Layout, c: &CpuStorage, lc: &Layout) -> Result<(CpuStorage, Shape)> {
        let Contraction { spec, elements } = &self.0;
        let k = self.0.check(self.name(), &[la], &[], &[lc])?;
        dispatch_real!(a, self.name(), |T| {
            let (a, c) = (slice::<T>(a, la)?, slice::<T>(c, lc)?);
            self.0.output(spec.outputs(), k, |out| cpu::evaluate(spec, k, a, c, elements, out))
        })
    }

    fn bwd(&self, a: &Tensor, c: &Tensor, _: &Tensor, g: &Tensor) -> Result<Two> {
        let op = &self.0;
        Ok((if_tracked(a, || op.adjoint(a, c, g))?, if_weights_wanted(c, || op.adjoint_coefficients(a, g))?))
    }
}

impl CustomOp3 for Adjoint {
    fn name(&self) -> &'static str {
        "symmetric-contraction-adjoint"
    }

    fn cpu_fwd(
        &self,
        a: &CpuStorage,
        la: &Layout,
        c: &CpuStorage,
        lc: &Layout,
        g: &CpuStorage,
        lg: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let Contraction { spec, elements } = &self.0;
        let k = self.0.check(self.name(), &[la], &[lg], &[lc])?;
        dispatch_real!(a, self.name(), |T| {
            let (a, c, g) = (slice::<T>(a, la)?, slice::<T>(c, lc)?, slice::<T>(g, lg)?);
            self.0.output(spec.dim(), k, |out| cpu::adjoint(spec, k, a, c, g, elements, out))
        })
    }

    fn bwd(&self, a: &Tensor, c: &Tensor, g: &Tensor, _: &Tensor, v: &Tensor) -> Result<Three> {
        let op = &self.0;
        Ok((
            if_tracked(a, || op.adjoint_tangent(a, v, g, c))?,
            if_weights_wanted(c, || op.tangent_coefficients(a, v, g))?,
            if_tracked(g, || op.tangent(a, v, c))?,
        ))
    }
}

impl CustomOp2 for AdjointCoefficients {
    fn name(&self) -> &'static str {
        "symmetric-contraction-adjoint-coefficients"
    }

    fn cpu_fwd(&self, a: &CpuStorage, la: &Layout, g: &CpuStorage, lg: &Layout) -> Result<(CpuStorage, Shape)> {
        let Contraction { spec, elements } = &self.0;
        let k = self.0.check(self.name(), &[la], &[lg], &[])?;
        dispatch_real!(a, self.name(), |T| {
            let (a, g) = (slice::<T>(a, la)?, slice::<T>(g, lg)?);
            self.0.coefficients(k, |out| cpu::adjoint_coefficients(spec, k, a, g, elements, out))
        })
    }

    /// The value is linear in the coefficients: ⟨d, ∂_c ⟨g, P⟩⟩ = ⟨g, P with coefficients d⟩.
    fn bwd(&self, a: &Tensor, g: &Tensor, _: &Tensor, d: &Tensor) -> Result<Two> {
        let op = &self.0;
        Ok((if_tracked(a, || op.adjoint(a, d, g))?, if_tracked(g, || op.evaluate(a, d))?))
    }
}

impl CustomOp3 for Tangent {
    fn name(&self) -> &'static str {
        "symmetric-contraction-tangent"
    }

    fn cpu_fwd(
        &self,
        a: &CpuStorage,
        la: &Layout,
        v: &CpuStorage,
        lv: &Layout,
        c: &CpuStorage,
        lc: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let Contraction { spec, elements } = &self.0;
        let k = self.0.check(self.name(), &[la, lv], &[], &[lc])?;
        dispatch_real!(a, self.name(), |T| {
            let (a, v, c) = (slice::<T>(a, la)?, slice::<T>(v, lv)?, slice::<T>(c, lc)?);
            self.0.output(spec.outputs(), k, |out| cpu::tangent(spec, k, a, v, c, elements, out))
        })
    }

    fn bwd(&self, a: &Tensor, v: &Tensor, c: &Tensor, _: &Tensor, g: &Tensor) -> Result<Three> {
        let op = &self.0;
        Ok((
            if_tracked(a, || op.adjoint_tangent(a, v, g, c))?,
            if_tracked(v, || op.adjoint(a, c, g))?,
            if_weights_wanted(c, || op.tangent_coefficients(a, v, g))?,
        ))
    }
}

impl CustomOp2 for AdjointTangent {
    fn name(&self) -> &'static str {
        "symmetric-contraction-adjoint-tangent"
    }

    fn cpu_fwd(&self, joined: &CpuStorage, lj: &Layout, c: &CpuStorage, lc: &Layout) -> Result<(CpuStorage, Shape)> {
        let Contraction { spec, elements } = &self.0;
        let (n, dim) = (self.0.atoms(), spec.dim());
        let k = self.0.channels(self.name(), "features, directions and cotangents", lj, n, 2 * dim + spec.outputs())?;
        self.0.channels(self.name(), "coefficients", lc, elements.len(), spec.terms().len())?;
        dispatch_real!(joined, self.name(), |T| {
            let (joined, c) = (slice::<T>(joined, lj)?, slice::<T>(c, lc)?);
            let (mut a, mut v, mut g) = (Vec::new(), Vec::new(), Vec::new());
            for i in 0..n {
                let row = &joined[i * (2 * dim + spec.outputs()) * k..][..(2 * dim + spec.outputs()) * k];
                a.extend_from_slice(&row[..dim * k]);
                v.extend_from_slice(&row[dim * k..2 * dim * k]);
                g.extend_from_slice(&row[2 * dim * k..]);
            }
            self.0.output(dim, k, |out| cpu::adjoint_tangent(spec, k, &a, &v, &g, c, elements, out))
        })
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, _: &Tensor, _: &Tensor) -> Result<Two> {
        Err(no_third_derivative(self.name()))
    }
}

impl CustomOp3 for TangentCoefficients {
    fn name(&self) -> &'static str {
        "symmetric-contraction-tangent-coefficients"
    }

    fn cpu_fwd(
        &self,
        a: &CpuStorage,
        la: &Layout,
        v: &CpuStorage,
        lv: &Layout,
        g: &CpuStorage,
        lg: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let Contraction { spec, elements } = &self.0;
        let k = self.0.check(self.name(), &[la, lv], &[lg], &[])?;
        dispatch_real!(a, self.name(), |T| {
            let (a, v, g) = (slice::<T>(a, la)?, slice::<T>(v, lv)?, slice::<T>(g, lg)?);
            self.0.coefficients(k, |out| cpu::tangent_coefficients(spec, k, a, v, g, elements, out))
        })
    }

    /// Linear in the coefficients too: ⟨d, ∂_c ⟨g, (v·∇)P⟩⟩ = ⟨g, (v·∇)P with coefficients d⟩.
    fn bwd(&self, a: &Tensor, v: &Tensor, g: &Tensor, _: &Tensor, d: &Tensor) -> Result<Three> {
        let op = &self.0;
        Ok((
            if_tracked(a, || op.adjoint_tangent(a, v, g, d))?,
            if_tracked(v, || op.adjoint(a, d, g))?,
            if_tracked(g, || op.tangent(a, v, d))?,
        ))
    }
}
