//! The candle side: six ops, closed under differentiation to second order.

use std::sync::{Arc, Mutex};

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};
use tesseral_kernels::{Buffer, Device, DeviceError};

use super::cuda::TrainedContraction;
use super::{ContractionSpec, cpu};
use crate::autograd::{if_tracked, if_weights_wanted, no_third_derivative};
use crate::linear::Groups;
use crate::linear::cuda::DeviceChunks;
use crate::on_device::{OnDevice, Operand, cuda_fwd, lasting, locked, twin};
use crate::real::{Real, dispatch_real, slice};
use crate::rows::{DeviceIndex, DeviceRows};

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

    /// How many channels, if features, directions and cotangents in one tensor fit, and the coefficients.
    fn check_joined(&self, op: &'static str, joined: &Layout, coefficients: &Layout) -> Result<usize> {
        let components = 2 * self.spec.dim() + self.spec.outputs();
        let k = self.channels(op, "features, directions and cotangents", joined, self.atoms(), components)?;
        if self.check(op, &[], &[], &[coefficients])? != k {
            return Err(candle_core::Error::Msg(format!("{op}: coefficients and features differ in channels")).bt());
        }
        Ok(k)
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

    cuda_fwd!(a la, c lc);

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

    cuda_fwd!(a la, c lc, g lg);

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

    cuda_fwd!(a la, g lg);

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

    cuda_fwd!(a la, v lv, c lc);

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
        let k = self.0.check_joined(self.name(), lj, lc)?;
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

    cuda_fwd!(joined lj, c lc);

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

    cuda_fwd!(a la, v lv, g lg);

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

/// Chunks of groups for contractions.
struct Chunks(DeviceChunks);

/// Where the rows of features, directions and cotangents are in a tensor that joins them.
struct Joined([DeviceIndex; 3]);

impl Contraction {
    fn shape_of(&self, components: usize, channels: usize) -> Shape {
        (self.atoms(), components, channels).into()
    }

    fn shape_of_coefficients(&self, channels: usize) -> Shape {
        (self.elements.len(), self.spec.terms().len(), channels).into()
    }

    /// The launcher; its coefficients are those of whoever had it last.
    fn on_device<T: Real>(&self, device: &Device, channels: usize) -> std::result::Result<Arc<Mutex<TrainedContraction<T>>>, DeviceError> {
        let sets = self.elements.len();
        twin(device, &self.spec, [channels, sets], || TrainedContraction::new(device, &self.spec, channels, sets).map(Mutex::new))
    }

    fn run_by_coefficients<T: Real>(
        &self,
        device: &Device,
        (a, v, g): (&Operand<T>, Option<&Operand<T>>, &Operand<T>),
        out: &mut Buffer<T>,
    ) -> std::result::Result<(), DeviceError> {
        let groups = self.elements.on_device(device)?;
        let launcher = self.on_device::<T>(device, a.dims[2])?;
        let launcher = locked(&launcher);
        let chunks = twin(device, &self.elements, [0, 0], || launcher.chunks(device, &groups).map(Chunks))?;
        let mut partial = device.zeros(launcher.partial_len(&chunks.0))?;
        launcher.by_coefficients(&a.data, v.map(|v| &v.data), &g.data, (&groups, &chunks.0), &mut partial, out)
    }
}

impl OnDevice for Evaluate {
    fn shape(&self, inputs: &[&Layout]) -> Result<Shape> {
        let k = self.0.check(self.name(), &[inputs[0]], &[], &[inputs[1]])?;
        Ok(self.0.shape_of(self.0.spec.outputs(), k))
    }

    fn run<T: Real>(&self, device: &Device, inputs: &[Operand<T>], out: &mut Buffer<T>) -> std::result::Result<(), DeviceError> {
        let groups = self.0.elements.on_device(device)?;
        let launcher = self.0.on_device::<T>(device, inputs[0].dims[2])?;
        let mut launcher = locked(&launcher);
        launcher.load(&inputs[1].data)?;
        launcher.map().forward(&inputs[0].data, out, &groups)
    }
}

impl OnDevice for Adjoint {
    fn shape(&self, inputs: &[&Layout]) -> Result<Shape> {
        let k = self.0.check(self.name(), &[inputs[0]], &[inputs[2]], &[inputs[1]])?;
        Ok(self.0.shape_of(self.0.spec.dim(), k))
    }

    fn run<T: Real>(&self, device: &Device, inputs: &[Operand<T>], out: &mut Buffer<T>) -> std::result::Result<(), DeviceError> {
        let groups = self.0.elements.on_device(device)?;
        let launcher = self.0.on_device::<T>(device, inputs[0].dims[2])?;
        let mut launcher = locked(&launcher);
        launcher.load(&inputs[1].data)?;
        launcher.map().adjoint(&inputs[0].data, &inputs[2].data, out, &groups)
    }
}

impl OnDevice for AdjointCoefficients {
    fn shape(&self, inputs: &[&Layout]) -> Result<Shape> {
        Ok(self.0.shape_of_coefficients(self.0.check(self.name(), &[inputs[0]], &[inputs[1]], &[])?))
    }

    fn run<T: Real>(&self, device: &Device, inputs: &[Operand<T>], out: &mut Buffer<T>) -> std::result::Result<(), DeviceError> {
        self.0.run_by_coefficients(device, (&inputs[0], None, &inputs[1]), out)
    }
}

impl OnDevice for Tangent {
    fn shape(&self, inputs: &[&Layout]) -> Result<Shape> {
        let k = self.0.check(self.name(), &inputs[..2], &[], &[inputs[2]])?;
        Ok(self.0.shape_of(self.0.spec.outputs(), k))
    }

    fn run<T: Real>(&self, device: &Device, inputs: &[Operand<T>], out: &mut Buffer<T>) -> std::result::Result<(), DeviceError> {
        let groups = self.0.elements.on_device(device)?;
        let launcher = self.0.on_device::<T>(device, inputs[0].dims[2])?;
        let mut launcher = locked(&launcher);
        launcher.load(&inputs[2].data)?;
        launcher.tangent(&inputs[0].data, &inputs[1].data, out, &groups)
    }
}

impl OnDevice for AdjointTangent {
    fn shape(&self, inputs: &[&Layout]) -> Result<Shape> {
        Ok(self.0.shape_of(self.0.spec.dim(), self.0.check_joined(self.name(), inputs[0], inputs[1])?))
    }

    fn run<T: Real>(&self, device: &Device, inputs: &[Operand<T>], out: &mut Buffer<T>) -> std::result::Result<(), DeviceError> {
        let (n, k) = (self.0.atoms(), inputs[0].dims[2]);
        let groups = self.0.elements.on_device(device)?;
        let (dim, outputs) = (self.0.spec.dim(), self.0.spec.outputs());
        let widths = [dim, dim, outputs];
        let joined = twin(device, &self.0.elements, [dim, outputs], || {
            let mut first = 0;
            let indices = widths.map(|width| {
                let start = first;
                first += width;
                let rows: Vec<u32> =
                    (0..n).flat_map(|i| (start..start + width).map(move |c| (i * (2 * dim + outputs) + c) as u32)).collect();
                DeviceIndex::new(device, &rows, n * (2 * dim + outputs))
            });
            let [a, v, g] = indices;
            Ok(Joined([a?, v?, g?]))
        })?;
        let rows = lasting(device, [0, 0], || DeviceRows::<T>::new(device))?;
        let mut parts = Vec::new();
        for (index, width) in joined.0.iter().zip(widths) {
            let mut part = device.zeros(n * width * k)?;
            rows.take(&inputs[0].data, index, &mut part, k)?;
            parts.push(part);
        }
        let launcher = self.0.on_device::<T>(device, k)?;
        let mut launcher = locked(&launcher);
        launcher.load(&inputs[1].data)?;
        launcher.adjoint_tangent(&parts[0], &parts[1], &parts[2], out, &groups)
    }
}

impl OnDevice for TangentCoefficients {
    fn shape(&self, inputs: &[&Layout]) -> Result<Shape> {
        Ok(self.0.shape_of_coefficients(self.0.check(self.name(), &inputs[..2], &[inputs[2]], &[])?))
    }

    fn run<T: Real>(&self, device: &Device, inputs: &[Operand<T>], out: &mut Buffer<T>) -> std::result::Result<(), DeviceError> {
        self.0.run_by_coefficients(device, (&inputs[0], Some(&inputs[1]), &inputs[2]), out)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::DType;

    use super::*;
    use crate::on_device::tests::check;
    use crate::symmetric_contraction::Term;
    use crate::testing::Random;

    #[test]
    fn kernels_do_what_the_ops_do() {
        let monomials: Vec<Vec<u16>> = vec![vec![0], vec![1, 2], vec![0, 0], vec![0, 1, 3], vec![2, 3, 3]];
        let terms = (0..10).filter(|k| k % 4 != 1).map(|k| Term { output: k % 2, monomial: k / 2 }).collect();
        let spec = Arc::new(ContractionSpec::new(4, 2, monomials, terms).unwrap());
        let mut random = Random::new(6);
        for n in [0, 21] {
            let species: Vec<u32> = (0..n as u32).map(|k| k * 5 % 3).collect();
            let op = Contraction { spec: spec.clone(), elements: Arc::new(Groups::new(&species, 3).unwrap()) };
            let k = 35;
            let [a, v] = [0, 1].map(|_| random.tensor(&[n, spec.dim(), k], DType::F64));
            let g = random.tensor(&[n, spec.outputs(), k], DType::F64);
            let c = random.tensor(&[3, spec.terms().len(), k], DType::F64);
            check(&Evaluate(op.clone()), &[&a, &c], |t| op.evaluate(&t[0], &t[1]));
            check(&Adjoint(op.clone()), &[&a, &c, &g], |t| op.adjoint(&t[0], &t[1], &t[2]));
            check(&AdjointCoefficients(op.clone()), &[&a, &g], |t| op.adjoint_coefficients(&t[0], &t[1]));
            check(&Tangent(op.clone()), &[&a, &v, &c], |t| op.tangent(&t[0], &t[1], &t[2]));
            let joined = Tensor::cat(&[&a, &v, &g], 1).unwrap();
            check(&AdjointTangent(op.clone()), &[&joined, &c], |t| t[0].apply_op2(&t[1], AdjointTangent(op.clone())));
            check(&TangentCoefficients(op.clone()), &[&a, &v, &g], |t| op.tangent_coefficients(&t[0], &t[1], &t[2]));
        }
    }
}
