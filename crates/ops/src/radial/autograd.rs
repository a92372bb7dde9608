//! The candle side: an op of one derivative order is differentiated by the op of the next.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor, WithDType};
use tesseral_kernels::{Buffer, Device, DeviceError};

use super::cpu::{self, Basis};
use super::cuda::{DeviceBases, DeviceScalarFunction};
use super::{MAX_ORDER, ScalarFunction};
use crate::autograd::{if_tracked, if_weights_wanted, no_third_derivative};
use crate::on_device::{OnDevice, Operand, cuda_fwd, lasting, twin};
use crate::real::{Real, dispatch_real, slice};

fn edges(op: &'static str, what: &str, layout: &Layout) -> Result<usize> {
    match layout.dims() {
        &[n] => Ok(n),
        dims => Err(candle_core::Error::Msg(format!("{op}: expected one row of {what}, got {dims:?}")).bt()),
    }
}

fn check_order(op: &'static str, order: usize) -> Result<()> {
    if order > MAX_ORDER { Err(no_third_derivative(op)) } else { Ok(()) }
}

/// d → f⁽ᵏ⁾(d)
struct Scalar {
    function: Arc<ScalarFunction>,
    order: usize,
}

pub(super) fn scalar_function(d: &Tensor, function: &Arc<ScalarFunction>, order: usize) -> Result<Tensor> {
    check_order("radial-function", order)?;
    d.contiguous()?.apply_op1(Scalar { function: function.clone(), order })
}

impl Scalar {
    /// How many distances, if the function is for as many.
    fn edges(&self, layout: &Layout) -> Result<usize> {
        let n = edges(self.name(), "distances", layout)?;
        match self.function.edges().filter(|&want| want != n) {
            None => Ok(n),
            Some(want) => Err(candle_core::Error::Msg(format!("{}: {n} distances, but parameters of {want} edges", self.name())).bt()),
        }
    }
}

impl CustomOp1 for Scalar {
    fn name(&self) -> &'static str {
        "radial-function"
    }

    fn cpu_fwd(&self, d: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let n = self.edges(layout)?;
        dispatch_real!(d, self.name(), |T| {
            let out = cpu::scalar_function::<T>(&self.function, self.order, slice(d, layout)?);
            Ok((T::to_cpu_storage_owned(out), n.into()))
        })
    }

    cuda_fwd!(d ld);

    fn bwd(&self, d: &Tensor, _: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        if_tracked(d, || g * scalar_function(d, &self.function, self.order + 1)?)
    }
}

/// (d, frequencies or centres) → basis
struct TwoSided(Basis);
/// d → basis without parameters
struct OneSided {
    basis: Basis,
    n: usize,
}

impl Basis {
    /// The same functions, differentiated once more by the distance.
    fn derivative(self) -> Self {
        match self {
            Self::Bessel { prefactor, order, frequency_order } => Self::Bessel { prefactor, order: order + 1, frequency_order },
            Self::Gaussian { factor, order } => Self::Gaussian { factor, order: order + 1 },
            Self::Chebyshev { order } => Self::Chebyshev { order: order + 1 },
        }
    }

    /// Likewise by the parameters, with the sign that goes with it.
    fn parameter_derivative(self) -> (Self, f64) {
        match self {
            Self::Bessel { prefactor, order, frequency_order } => {
                (Self::Bessel { prefactor, order, frequency_order: frequency_order + 1 }, 1.0)
            }
            // A function of d − μ.
            Self::Gaussian { .. } | Self::Chebyshev { .. } => (self.derivative(), -1.0),
        }
    }

    fn total_order(self) -> usize {
        match self {
            Self::Bessel { order, frequency_order, .. } => order + frequency_order,
            Self::Gaussian { order, .. } | Self::Chebyshev { order } => order,
        }
    }
}

pub(super) fn bessel(d: &Tensor, frequencies: &Tensor, prefactor: f64) -> Result<Tensor> {
    two_sided(d, frequencies, Basis::Bessel { prefactor, order: 0, frequency_order: 0 })
}

pub(super) fn gaussian(d: &Tensor, centers: &Tensor, factor: f64) -> Result<Tensor> {
    two_sided(d, centers, Basis::Gaussian { factor, order: 0 })
}

pub(super) fn chebyshev(t: &Tensor, n: usize) -> Result<Tensor> {
    one_sided(t, n, Basis::Chebyshev { order: 0 })
}

fn two_sided(d: &Tensor, parameters: &Tensor, basis: Basis) -> Result<Tensor> {
    check_order("radial-basis", basis.total_order())?;
    d.contiguous()?.apply_op2(&parameters.contiguous()?, TwoSided(basis))
}

fn one_sided(d: &Tensor, n: usize, basis: Basis) -> Result<Tensor> {
    check_order("radial-basis", basis.total_order())?;
    d.contiguous()?.apply_op1(OneSided { basis, n })
}

impl CustomOp2 for TwoSided {
    fn name(&self) -> &'static str {
        "radial-basis"
    }

    fn cpu_fwd(&self, d: &CpuStorage, ld: &Layout, w: &CpuStorage, lw: &Layout) -> Result<(CpuStorage, Shape)> {
        let shape = (edges(self.name(), "distances", ld)?, edges(self.name(), "parameters", lw)?);
        dispatch_real!(d, self.name(), |T| {
            let parameters: Vec<f64> = slice::<T>(w, lw)?.iter().map(|w| WithDType::to_f64(*w)).collect();
            let out = cpu::basis::<T>(self.0, slice(d, ld)?, &parameters);
            Ok((T::to_cpu_storage_owned(out), shape.into()))
        })
    }

    cuda_fwd!(d ld, w lw);

    fn bwd(&self, d: &Tensor, w: &Tensor, _: &Tensor, g: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let by_distance = if_tracked(d, || (g * two_sided(d, w, self.0.derivative())?)?.sum(1))?;
        let by_parameter = if_weights_wanted(w, || {
            let (basis, sign) = self.0.parameter_derivative();
            (g * two_sided(d, w, basis)?)?.sum(0)? * sign
        })?;
        Ok((by_distance, by_parameter))
    }
}

impl CustomOp1 for OneSided {
    fn name(&self) -> &'static str {
        "radial-basis"
    }

    fn cpu_fwd(&self, d: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let n = edges(self.name(), "distances", layout)?;
        dispatch_real!(d, self.name(), |T| {
            let out = cpu::basis::<T>(self.basis, slice(d, layout)?, &vec![0.0; self.n]);
            Ok((T::to_cpu_storage_owned(out), (n, self.n).into()))
        })
    }

    cuda_fwd!(d ld);

    fn bwd(&self, d: &Tensor, _: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        if_tracked(d, || (g * one_sided(d, self.n, self.basis.derivative())?)?.sum(1))
    }
}

impl OnDevice for Scalar {
    fn shape(&self, inputs: &[&Layout]) -> Result<Shape> {
        Ok(self.edges(inputs[0])?.into())
    }

    fn run<T: Real>(&self, device: &Device, inputs: &[Operand<T>], out: &mut Buffer<T>) -> std::result::Result<(), DeviceError> {
        let function = twin(device, &self.function, [0, 0], || DeviceScalarFunction::new(device, &self.function))?;
        function.derivative(self.order, &inputs[0].data, out, inputs[0].dims[0])
    }
}

fn bases<T: Real>(device: &Device) -> std::result::Result<Arc<DeviceBases<T>>, DeviceError> {
    lasting(device, [0, 0], || DeviceBases::new(device))
}

impl OnDevice for TwoSided {
    fn shape(&self, inputs: &[&Layout]) -> Result<Shape> {
        Ok((edges(self.name(), "distances", inputs[0])?, edges(self.name(), "parameters", inputs[1])?).into())
    }

    fn run<T: Real>(&self, device: &Device, inputs: &[Operand<T>], out: &mut Buffer<T>) -> std::result::Result<(), DeviceError> {
        let (d, parameters) = (&inputs[0], &inputs[1]);
        bases(device)?.basis(self.0, &d.data, Some(&parameters.data), out, (d.dims[0], parameters.dims[0]))
    }
}

impl OnDevice for OneSided {
    fn shape(&self, inputs: &[&Layout]) -> Result<Shape> {
        Ok((edges(self.name(), "distances", inputs[0])?, self.n).into())
    }

    fn run<T: Real>(&self, device: &Device, inputs: &[Operand<T>], out: &mut Buffer<T>) -> std::result::Result<(), DeviceError> {
        bases(device)?.basis(self.basis, &inputs[0].data, None, out, (inputs[0].dims[0], self.n))
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
        let mut random = Random::new(7);
        for n in [0, 33] {
            let d = random.tensor(&[n], DType::F64).affine(2.0, 2.5).unwrap();
            let w = random.tensor(&[5], DType::F64).affine(1.0, 2.0).unwrap();
            for order in 0..=2 {
                let soft = ScalarFunction::Soft { alpha: 4.0, r0: vec![1.5; n].into() };
                for function in [ScalarFunction::PolynomialEnvelope { p: 5, cutoff: 6.0 }, soft] {
                    let function = Arc::new(function);
                    check(&Scalar { function: function.clone(), order }, &[&d], |t| scalar_function(&t[0], &function, order));
                }
                let bessel = Basis::Bessel { prefactor: 0.6, order, frequency_order: 1 };
                check(&TwoSided(bessel), &[&d, &w], |t| two_sided(&t[0], &t[1], bessel));
                let chebyshev = Basis::Chebyshev { order };
                let t = d.affine(0.4, -1.0).unwrap();
                check(&OneSided { basis: chebyshev, n: 6 }, &[&t], |t| one_sided(&t[0], 6, chebyshev));
            }
        }
    }
}
