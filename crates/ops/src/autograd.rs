//! The one place that differentiates.
//!
//! candle detaches the gradients it computes unless `CANDLE_GRAD_DO_NOT_DETACH` is in the environment before a thread differentiates for
//! the first time; a force loss then gets no or wrong weight gradients and no error. So nothing outside this module calls `backward`, and
//! a derivative that is to be differentiated again is refused where it would be wrong.

use std::cell::{Cell, RefCell};

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, DType, Device, Layout, Shape, Tensor, Var, backprop::GradStore};

/// What went wrong while differentiating.
#[derive(Debug, thiserror::Error)]
pub enum AutogradError {
    /// Gradients of gradients were asked for in a process that detaches them.
    #[error(
        "gradients are detached in this process, so a gradient cannot be differentiated again; call tesseral_ops::autograd::enable_second_derivatives() before any thread differentiates, or set CANDLE_GRAD_DO_NOT_DETACH=1"
    )]
    Detached,
    /// The result does not depend on the variable.
    #[error("no gradient: the {0} does not depend on the variable")]
    Independent(&'static str),
    /// candle failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// Lets gradients be differentiated again (training on forces) in this process.
///
/// Call it first thing in `main`, before threads start: candle reads the mode once per thread.
///
/// # Errors
/// [`AutogradError::Detached`] if this thread has differentiated in the other mode already.
#[allow(unsafe_code, reason = "std::env::set_var is unsafe in edition 2024")]
pub fn enable_second_derivatives() -> Result<(), AutogradError> {
    if std::env::var_os("CANDLE_GRAD_DO_NOT_DETACH").is_none() {
        // SAFETY: documented to be called before threads start, so nobody reads the environment at the same time.
        unsafe { std::env::set_var("CANDLE_GRAD_DO_NOT_DETACH", "1") };
    }
    if second_derivatives_enabled()? { Ok(()) } else { Err(AutogradError::Detached) }
}

/// Whether gradients computed on this thread can be differentiated again: found out by doing it, since candle's mode is private to it.
///
/// # Errors
/// Only if candle itself fails.
pub fn second_derivatives_enabled() -> Result<bool, AutogradError> {
    thread_local! {
        static ENABLED: std::cell::OnceCell<bool> = const { std::cell::OnceCell::new() };
    }
    if let Some(known) = ENABLED.with(|cell| cell.get().copied()) {
        return Ok(known);
    }
    // x² → 2x → 2
    let x = Var::new(3f64, &Device::Cpu)?;
    let first = x.as_tensor().sqr()?.backward()?;
    let enabled = first.get(&x).is_some_and(Tensor::track_op);
    ENABLED.with(|cell| cell.set(enabled).ok());
    Ok(enabled)
}

/// Which arguments of this crate's ops get a cotangent. Each op knows which of its arguments are weights, and which are made of positions alone
/// (distances, harmonics): what a pass has no use for is not computed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Everything,
    /// Forces: weights are constants.
    ByPositions,
    /// A loss: positions are constants.
    ByWeights,
}

thread_local! {
    static WANTED: Cell<Wanted> = const { Cell::new(Wanted::Everything) };
}

fn backward(y: &Tensor, wanted: Wanted) -> candle_core::Result<GradStore> {
    let before = WANTED.replace(wanted);
    let store = y.backward();
    WANTED.set(before);
    store
}

/// The gradient of a scalar (or of the sum of `y`) with respect to a variable that stands for positions, detached: for forces at inference.
///
/// # Errors
/// [`AutogradError::Independent`] if `y` does not depend on `x`.
pub fn gradient(y: &Tensor, x: &Var, name: &'static str) -> Result<Tensor, AutogradError> {
    let mut gradients = backward(y, Wanted::ByPositions)?;
    gradients.remove(x).map(|g| g.detach()).ok_or(AutogradError::Independent(name))
}

/// The gradient of a scalar with respect to a variable that stands for positions, as a tensor that can be differentiated again: for a loss on forces.
///
/// # Errors
/// [`AutogradError::Detached`] if the mode is off on this thread; [`AutogradError::Independent`] if `y` does not depend on `x`.
pub fn differentiable_gradient(y: &Tensor, x: &Var, name: &'static str) -> Result<Tensor, AutogradError> {
    if !second_derivatives_enabled()? {
        return Err(AutogradError::Detached);
    }
    let mut gradients = backward(y, Wanted::ByPositions)?;
    gradients.remove(x).ok_or(AutogradError::Independent(name))
}

/// The gradients of a loss with respect to the weights it depends on, through `leaves` too. Those by positions are left out or incomplete.
///
/// # Errors
/// Only if candle itself fails.
pub fn weight_gradients(loss: &Tensor, leaves: &Leaves) -> Result<GradStore, AutogradError> {
    let mut store = backward(loss, Wanted::ByWeights)?;
    let mut seeds: Option<Tensor> = None;
    for (var, computed) in leaves.0.borrow().iter() {
        let Some(gradient) = store.remove(var) else { continue };
        let seed = computed.apply_op1(Seed(gradient.detach()))?;
        seeds = Some(match seeds {
            Some(sum) => (sum + seed)?,
            None => seed,
        });
    }
    if let Some(seeds) = seeds {
        store.extend(backward(&seeds, Wanted::ByWeights)?)?;
    }
    Ok(store)
}

/// A tensor of zeros that no gradient flows into, of the shape and type of `like`.
///
/// # Errors
/// Only if candle itself fails.
pub fn zeros_like(like: &Tensor) -> candle_core::Result<Tensor> {
    debug_assert!(matches!(like.dtype(), DType::F32 | DType::F64));
    Tensor::zeros(like.shape(), like.dtype(), like.device())
}

/// Computes a cotangent only if its argument is part of a graph that is differentiated.
///
/// # Errors
/// Those of `cotangent`.
pub(crate) fn if_tracked(
    argument: &Tensor,
    cotangent: impl FnOnce() -> candle_core::Result<Tensor>,
) -> candle_core::Result<Option<Tensor>> {
    if argument.track_op() { cotangent().map(Some) } else { Ok(None) }
}

/// Whether an argument of weights gets a cotangent in this pass. Only variables can be left out: candle wants a gradient for everything that
/// was computed.
pub(crate) fn wants_weights(argument: &Tensor) -> bool {
    argument.track_op() && !(argument.is_variable() && WANTED.get() == Wanted::ByPositions)
}

/// Likewise for an argument that is made of positions alone.
pub(crate) fn wants_positions(argument: &Tensor) -> bool {
    argument.track_op() && !(argument.is_variable() && WANTED.get() == Wanted::ByWeights)
}

/// Computes a cotangent of weights only if it is wanted.
///
/// # Errors
/// Those of `cotangent`.
pub(crate) fn if_weights_wanted(
    argument: &Tensor,
    cotangent: impl FnOnce() -> candle_core::Result<Tensor>,
) -> candle_core::Result<Option<Tensor>> {
    if wants_weights(argument) { cotangent().map(Some) } else { Ok(None) }
}

/// Weights that are computed from variables (tables, contracted coefficients), as variables of their own: a pass for forces then leaves them out, and
/// the gradients of what they are made of are computed once, at the end.
#[derive(Debug, Default)]
pub struct Leaves(RefCell<Vec<(Var, Tensor)>>);

impl Leaves {
    /// A variable with the value of `computed`; itself, if it depends on no variable or is one.
    ///
    /// # Errors
    /// Only if candle fails.
    pub fn leaf(&self, computed: Tensor) -> candle_core::Result<Tensor> {
        if !computed.track_op() || computed.is_variable() {
            return Ok(computed);
        }
        let var = Var::from_tensor(&computed.detach())?;
        let leaf = var.as_tensor().clone();
        self.0.borrow_mut().push((var, computed));
        Ok(leaf)
    }
}

/// A zero whose gradient is given.
struct Seed(Tensor);

impl CustomOp1 for Seed {
    fn name(&self) -> &'static str {
        "seed"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, _: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let zero = match storage.dtype() {
            DType::F64 => CpuStorage::F64(vec![0.0]),
            _ => CpuStorage::F32(vec![0.0]),
        };
        Ok((zero, Shape::from(())))
    }

    #[cfg(feature = "candle-cuda")]
    fn cuda_fwd(&self, storage: &candle_core::CudaStorage, _: &Layout) -> candle_core::Result<(candle_core::CudaStorage, Shape)> {
        let shape = Shape::from(());
        let zero = candle_core::backend::BackendDevice::zeros_impl(storage.device(), &shape, storage.dtype())?;
        Ok((zero, shape))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, _: &Tensor) -> candle_core::Result<Option<Tensor>> {
        Ok(Some(self.0.clone()))
    }
}

/// The answer of an op that closes a family: what it is the second derivative of cannot be differentiated a third time.
pub(crate) fn no_third_derivative(op: &'static str) -> candle_core::Error {
    candle_core::Error::Msg(format!("{op} is a second derivative already: third derivatives are not available")).bt()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::linear::{LinearSpec, linear};
    use crate::testing::{Random, relative_error, to_vec};

    /// A loss on values and on derivatives by positions of features times computed weights.
    #[test]
    fn gradients_through_leaves_are_those_without() {
        assert!(second_derivatives_enabled().unwrap(), "tests run with second derivatives on");
        let mut random = Random::new(4);
        let w = Var::from_tensor(&random.tensor(&[1, 6], DType::F64)).unwrap();
        let x = Var::from_tensor(&random.tensor(&[5, 3], DType::F64)).unwrap();
        let spec = Arc::new(LinearSpec::dense(3, 2, 0.7));
        let gradient = |split: bool| {
            let leaves = Leaves::default();
            let computed = w.sqr().unwrap();
            let weights = if split { leaves.leaf(computed).unwrap() } else { computed };
            assert_eq!(weights.is_variable(), split);
            let y = linear(&x, &weights, &spec, None).unwrap().sqr().unwrap();
            let forces = differentiable_gradient(&y.sum_all().unwrap(), &x, "value").unwrap();
            let loss = (y.sum_all().unwrap() + forces.sqr().unwrap().sum_all().unwrap()).unwrap();
            let store = weight_gradients(&loss, &leaves).unwrap();
            to_vec(store.get(&w).unwrap())
        };
        let (with, without) = (gradient(true), gradient(false));
        assert!(relative_error(&with, &without) < 1e-14 && without.iter().any(|g| g.abs() > 0.1), "{with:?} {without:?}");
    }

    #[test]
    fn a_variable_is_its_own_leaf() {
        let w = Var::new(2f64, &Device::Cpu).unwrap();
        let leaves = Leaves::default();
        assert_eq!(leaves.leaf(w.as_tensor().clone()).unwrap().id(), w.id());
        let constant = Tensor::new(1f64, &Device::Cpu).unwrap();
        assert_eq!(leaves.leaf(constant.clone()).unwrap().id(), constant.id());
        assert!(leaves.0.borrow().is_empty());
    }
}
