//! The one place that differentiates.
//!
//! candle detaches the gradients it computes unless `CANDLE_GRAD_DO_NOT_DETACH` is in the environment before a thread differentiates for
//! the first time; a force loss then gets no or wrong weight gradients and no error. So nothing outside this module calls `backward`, and
//! a derivative that is to be differentiated again is refused where it would be wrong.

use candle_core::{DType, Device, Tensor, Var, backprop::GradStore};

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

/// The gradient of a scalar (or of the sum of `y`) with respect to one variable, detached: for forces at inference.
///
/// # Errors
/// [`AutogradError::Independent`] if `y` does not depend on `x`.
pub fn gradient(y: &Tensor, x: &Var, name: &'static str) -> Result<Tensor, AutogradError> {
    let mut gradients = y.backward()?;
    gradients.remove(x).map(|g| g.detach()).ok_or(AutogradError::Independent(name))
}

/// The gradient of a scalar with respect to one variable, as a tensor that can be differentiated again: for a loss on forces.
///
/// # Errors
/// [`AutogradError::Detached`] if the mode is off on this thread; [`AutogradError::Independent`] if `y` does not depend on `x`.
pub fn differentiable_gradient(y: &Tensor, x: &Var, name: &'static str) -> Result<Tensor, AutogradError> {
    if !second_derivatives_enabled()? {
        return Err(AutogradError::Detached);
    }
    let mut gradients = y.backward()?;
    gradients.remove(x).ok_or(AutogradError::Independent(name))
}

/// The gradients of a loss with respect to every variable it depends on.
///
/// # Errors
/// Only if candle itself fails.
pub fn gradients(loss: &Tensor) -> Result<GradStore, AutogradError> {
    Ok(loss.backward()?)
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

/// The answer of an op that closes a family: what it is the second derivative of cannot be differentiated a third time.
pub(crate) fn no_third_derivative(op: &'static str) -> candle_core::Error {
    candle_core::Error::Msg(format!("{op} is a second derivative already: third derivatives are not available")).bt()
}
