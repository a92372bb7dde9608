//! The candle side: three ops that are each other's derivatives.

use std::sync::{Arc, Mutex};

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, WithDType};

use tesseral_kernels::{Buffer, Device, DeviceError};

use super::cuda::{DeviceChunks, DeviceGroups, TrainedLinear};
use super::{Groups, LinearSpec};
use crate::autograd::{if_tracked, if_weights_wanted};
use crate::on_device::{OnDevice, Operand, cuda_fwd, lasting, locked, twin};
use crate::real::{Real, dispatch_real, slice};

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

    /// The shape of a derivative by weights, if features and cotangents fit.
    fn shape_of_weights(&self, op: &'static str, x: &Layout, g: &Layout) -> Result<Shape> {
        let n = self.rows(op, x, self.spec.dim_in)?;
        if self.rows(op, g, self.spec.dim_out)? != n {
            return Err(candle_core::Error::Msg(format!("{op}: features and cotangents differ in rows")).bt());
        }
        Ok((self.groups_len(), self.spec.weight_numel).into())
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

    cuda_fwd!(x lx, w lw);

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

    cuda_fwd!(g lg, w lw);

    fn bwd(&self, g: &Tensor, w: &Tensor, _: &Tensor, v: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((if_tracked(g, || forward(&self.0, v, w))?, if_weights_wanted(w, || adjoint_weights(&self.0, v, g))?))
    }
}

impl CustomOp2 for AdjointWeights {
    fn name(&self) -> &'static str {
        "linear-adjoint-weights"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, g: &CpuStorage, lg: &Layout) -> Result<(CpuStorage, Shape)> {
        let shape = self.0.shape_of_weights(self.name(), lx, lg)?;
        let n = lx.dims()[0];
        dispatch_real!(x, self.name(), |T| {
            let w = super::adjoint_weights::<T>(&self.0.spec, slice(x, lx)?, slice(g, lg)?, n, self.0.groups.as_deref());
            Ok((T::to_cpu_storage_owned(w), shape))
        })
    }

    cuda_fwd!(x lx, g lg);

    fn bwd(&self, x: &Tensor, g: &Tensor, _: &Tensor, v: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((if_tracked(x, || adjoint_features(&self.0, g, v))?, if_tracked(g, || forward(&self.0, x, v))?))
    }
}

/// Chunks of groups for one map.
struct Chunks(DeviceChunks);

impl Map {
    /// The launcher; its weights are those of whoever had it last.
    fn on_device<T: Real>(&self, device: &Device) -> std::result::Result<Arc<Mutex<TrainedLinear<T>>>, DeviceError> {
        let sets = self.groups_len();
        twin(device, &self.spec, [sets, 0], || TrainedLinear::new(device, &self.spec, sets).map(Mutex::new))
    }

    fn groups_on(&self, device: &Device, rows: usize) -> std::result::Result<Arc<DeviceGroups>, DeviceError> {
        match &self.groups {
            Some(groups) => groups.on_device(device),
            None => lasting(device, [rows, 0], || DeviceGroups::of_all(device, rows)),
        }
    }
}

impl OnDevice for Forward {
    fn shape(&self, inputs: &[&Layout]) -> Result<Shape> {
        self.0.check_weights(self.name(), inputs[1])?;
        Ok((self.0.rows(self.name(), inputs[0], self.0.spec.dim_in)?, self.0.spec.dim_out).into())
    }

    fn run<T: Real>(&self, device: &Device, inputs: &[Operand<T>], out: &mut Buffer<T>) -> std::result::Result<(), DeviceError> {
        let groups = self.0.groups_on(device, inputs[0].dims[0])?;
        let launcher = self.0.on_device::<T>(device)?;
        let mut launcher = locked(&launcher);
        launcher.load(&inputs[1].data)?;
        launcher.map().forward(&inputs[0].data, out, &groups, false)
    }
}

impl OnDevice for AdjointFeatures {
    fn shape(&self, inputs: &[&Layout]) -> Result<Shape> {
        self.0.check_weights(self.name(), inputs[1])?;
        Ok((self.0.rows(self.name(), inputs[0], self.0.spec.dim_out)?, self.0.spec.dim_in).into())
    }

    fn run<T: Real>(&self, device: &Device, inputs: &[Operand<T>], out: &mut Buffer<T>) -> std::result::Result<(), DeviceError> {
        let groups = self.0.groups_on(device, inputs[0].dims[0])?;
        let launcher = self.0.on_device::<T>(device)?;
        let mut launcher = locked(&launcher);
        launcher.load(&inputs[1].data)?;
        launcher.map().adjoint(&inputs[0].data, out, &groups, false)
    }
}

impl OnDevice for AdjointWeights {
    fn shape(&self, inputs: &[&Layout]) -> Result<Shape> {
        self.0.shape_of_weights(self.name(), inputs[0], inputs[1])
    }

    fn run<T: Real>(&self, device: &Device, inputs: &[Operand<T>], out: &mut Buffer<T>) -> std::result::Result<(), DeviceError> {
        let rows = inputs[0].dims[0];
        let groups = self.0.groups_on(device, rows)?;
        let launcher = self.0.on_device::<T>(device)?;
        let launcher = locked(&launcher);
        // Any chunks of these groups would do: those of a map whose address is used again are as right.
        let make = || launcher.chunks(device, &groups).map(Chunks);
        let map = Arc::as_ptr(&self.0.spec).addr();
        let chunks = match &self.0.groups {
            Some(groups) => twin(device, groups, [map, 0], make)?,
            None => lasting(device, [rows, map], make)?,
        };
        let mut partial = device.zeros(launcher.partial_len(&chunks.0))?;
        launcher.adjoint_weights(&inputs[0].data, &inputs[1].data, (&groups, &chunks.0), &mut partial, out)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::DType;
    use tesseral_o3::Irreps;

    use super::*;
    use crate::on_device::tests::check;
    use crate::testing::Random;

    #[test]
    fn kernels_do_what_the_ops_do() {
        let (a, b): (Irreps, Irreps) = ("5x0e+3x1o+2x0e".parse().unwrap(), "4x0e+1x0o+7x1o".parse().unwrap());
        let spec = Arc::new(LinearSpec::new(&a, &b, 3, 2));
        let mut random = Random::new(4);
        for n in [0, 70] {
            let species: Vec<u32> = (0..n as u32).map(|k| k * 7 % 3).collect();
            for groups in [None, Some(Arc::new(Groups::new(&species, 3).unwrap()))] {
                let map = Map { spec: spec.clone(), groups };
                let x = random.tensor(&[n, spec.dim_in], DType::F64);
                let g = random.tensor(&[n, spec.dim_out], DType::F64);
                let w = random.tensor(&[map.groups_len(), spec.weight_numel], DType::F64);
                check(&Forward(map.clone()), &[&x, &w], |t| forward(&map, &t[0], &t[1]));
                check(&AdjointFeatures(map.clone()), &[&g, &w], |t| adjoint_features(&map, &t[0], &t[1]));
                check(&AdjointWeights(map.clone()), &[&x, &g], |t| adjoint_weights(&map, &t[0], &t[1]));
            }
        }
    }
}
