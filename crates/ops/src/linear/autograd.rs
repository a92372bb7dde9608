//! The candle side: three ops that are each other's derivatives.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, WithDType};

use super::{Groups, LinearSpec};
use crate::autograd::{if_tracked, if_weights_wanted};
use crate::real::{dispatch_real, slice};

#[derive(Clone)]
struct Map {
    spec: Arc<LinearSpec>,
    groups: Option<Arc<Groups>>,
}

/// (features, weights) → outputs
struct Forward(Map);
/// (cotangent of the outputs, weights) → cotangent of the features
struct AdjointFeatures(Map);
/// (features, cotangent of the outputs) → cotangent of the weights
struct AdjointWeights(Map);

pub(super) fn linear(x: &Tensor, w: &Tensor, spec: &Arc<LinearSpec>, groups: Option<Arc<Groups>>) -> Result<Tensor> {
    let map = Map { spec: spec.clone(), groups };
    let shape = [map.groups_len(), spec.weight_numel];
    // A reshaped variable is no variable any more.
    if w.dims() == shape { forward(&map, x, w) } else { forward(&map, x, &w.reshape(&shape)?) }
}

fn forward(map: &Map, x: &Tensor, w: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op2(&w.contiguous()?, Forward(map.clone()))
}

fn adjoint_features(map: &Map, g: &Tensor, w: &Tensor) -> Result<Tensor> {
    g.contiguous()?.apply_op2(&w.contiguous()?, AdjointFeatures(map.clone()))
}

fn adjoint_weights(map: &Map, x: &Tensor, g: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op2(&g.contiguous()?, AdjointWeights(map.clone()))
}

impl Map {
    fn groups_len(&self) -> usize {
        self.groups.as_ref().map_or(1, |g| g.len())
    }

    /// How many rows, if both shapes fit.
    fn rows(&self, op: &'static str, layout: &Layout, dim: usize) -> Result<usize> {
        match layout.dims() {
            &[n, d] if d == dim && self.groups.as_ref().is_none_or(|g| g.order().len() == n) => Ok(n),
            dims => Err(candle_core::Error::Msg(format!("{op}: expected [atoms, {dim}], got {dims:?}")).bt()),
        }
    }

    fn check_weights(&self, op: &'static str, layout: &Layout) -> Result<()> {
        let want = [self.groups_len(), self.spec.weight_numel];
        if layout.dims() == want {
            Ok(())
        } else {
            Err(candle_core::Error::Msg(format!("{op}: expected weights {want:?}, got {:?}", layout.dims())).bt())
        }
    }
}

impl CustomOp2 for Forward {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, w: &CpuStorage, lw: &Layout) -> Result<(CpuStorage, Shape)> {
        let n = self.0.rows(self.name(), lx, self.0.spec.dim_in)?;
        self.0.check_weights(self.name(), lw)?;
        dispatch_real!(x, self.name(), |T| {
            let y = super::forward::<T>(&self.0.spec, slice(x, lx)?, slice(w, lw)?, n, self.0.groups.as_deref());
            Ok((T::to_cpu_storage_owned(y), (n, self.0.spec.dim_out).into()))
        })
    }

    fn bwd(&self, x: &Tensor, w: &Tensor, _: &Tensor, g: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((if_tracked(x, || adjoint_features(&self.0, g, w))?, if_weights_wanted(w, || adjoint_weights(&self.0, x, g))?))
    }
}

impl CustomOp2 for AdjointFeatures {
    fn name(&self) -> &'static str {
        "linear-adjoint-features"
    }

    fn cpu_fwd(&self, g: &CpuStorage, lg: &Layout, w: &CpuStorage, lw: &Layout) -> Result<(CpuStorage, Shape)> {
        let n = self.0.rows(self.name(), lg, self.0.spec.dim_out)?;
        self.0.check_weights(self.name(), lw)?;
        dispatch_real!(g, self.name(), |T| {
            let x = super::adjoint_features::<T>(&self.0.spec, slice(g, lg)?, slice(w, lw)?, n, self.0.groups.as_deref());
            Ok((T::to_cpu_storage_owned(x), (n, self.0.spec.dim_in).into()))
        })
    }

    fn bwd(&self, g: &Tensor, w: &Tensor, _: &Tensor, v: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((if_tracked(g, || forward(&self.0, v, w))?, if_weights_wanted(w, || adjoint_weights(&self.0, v, g))?))
    }
}

impl CustomOp2 for AdjointWeights {
    fn name(&self) -> &'static str {
        "linear-adjoint-weights"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, g: &CpuStorage, lg: &Layout) -> Result<(CpuStorage, Shape)> {
        let n = self.0.rows(self.name(), lx, self.0.spec.dim_in)?;
        if self.0.rows(self.name(), lg, self.0.spec.dim_out)? != n {
            return Err(candle_core::Error::Msg(format!("{}: features and cotangents differ in rows", self.name())).bt());
        }
        dispatch_real!(x, self.name(), |T| {
            let w = super::adjoint_weights::<T>(&self.0.spec, slice(x, lx)?, slice(g, lg)?, n, self.0.groups.as_deref());
            Ok((T::to_cpu_storage_owned(w), (self.0.groups_len(), self.0.spec.weight_numel).into()))
        })
    }

    fn bwd(&self, x: &Tensor, g: &Tensor, _: &Tensor, v: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((if_tracked(x, || adjoint_features(&self.0, g, v))?, if_tracked(g, || forward(&self.0, x, v))?))
    }
}
