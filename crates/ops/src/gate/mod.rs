//! Activations, and the gate that makes them equivariant.
//!
//! A gate acts on features `[N, dim_in]` laid out `[scalars | gates | gated]`: blocks of scalars, each with an activation; one scalar gate
//! for each gated channel; blocks of irreps stored `[component][channel]`, channels fastest. Scalars come out activated, and every component
//! of a gated channel is multiplied with the activated gate of that channel (e3nn's `Gate`, model definitions §1.9); gates do not come out.
//!
//! Four maps are closed under differentiation (to second order): evaluate(x), adjoint(x, g) = ∇⟨g, y⟩, tangent(x, u) = (u·∇)y and
//! adjoint_tangent(x, g, u) = ∇⟨g, (u·∇)y⟩.

mod activation;
mod autograd;
pub mod cpu;
pub mod cuda;
pub mod reference;

use std::sync::Arc;

use candle_core::{Result, Tensor};

pub use activation::{Activation, ScaledActivation};

/// What is wrong with the blocks of a gate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GateError {
    /// Every gated channel needs one gate.
    #[error("a gate needs one gate for each gated channel: {gates} gates for {channels} channels")]
    Gates {
        /// How many gates there are.
        gates: usize,
        /// How many gated channels.
        channels: usize,
    },
}

/// A block of gated irreps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GatedBlock {
    /// Channels.
    pub mul: usize,
    /// Components of the irrep, 2l+1.
    pub components: usize,
}

/// The blocks of a gate.
#[derive(Debug, Clone, PartialEq)]
pub struct GateSpec {
    scalars: Vec<(usize, ScaledActivation)>,
    gates: Vec<(usize, ScaledActivation)>,
    gated: Vec<GatedBlock>,
}

impl GateSpec {
    /// `scalars` and `gates` are blocks of channels with the activation of each; the gates belong to the channels of `gated` in order.
    ///
    /// # Errors
    /// If there is not one gate for each gated channel.
    pub fn new(
        scalars: Vec<(usize, ScaledActivation)>,
        gates: Vec<(usize, ScaledActivation)>,
        gated: Vec<GatedBlock>,
    ) -> std::result::Result<Self, GateError> {
        let spec = Self { scalars, gates, gated };
        let channels = spec.gated.iter().map(|b| b.mul).sum();
        if spec.num_gates() == channels { Ok(spec) } else { Err(GateError::Gates { gates: spec.num_gates(), channels }) }
    }

    /// One activation for `n` scalars, no gates.
    pub fn scalars_only(n: usize, activation: ScaledActivation) -> Self {
        Self { scalars: vec![(n, activation)], gates: Vec::new(), gated: Vec::new() }
    }

    /// Channels of all scalar blocks.
    pub fn num_scalars(&self) -> usize {
        self.scalars.iter().map(|s| s.0).sum()
    }

    /// How many gates.
    pub fn num_gates(&self) -> usize {
        self.gates.iter().map(|g| g.0).sum()
    }

    /// Length of a row of the input: scalars, gates, gated.
    pub fn dim_in(&self) -> usize {
        self.dim_out() + self.num_gates()
    }

    /// Length of a row of the output: scalars, gated.
    pub fn dim_out(&self) -> usize {
        self.num_scalars() + self.gated.iter().map(|b| b.mul * b.components).sum::<usize>()
    }
}

/// The gate on `x` `[N, dim_in]`: `[N, dim_out]`. Differentiable twice; `f32` or `f64`.
///
/// # Errors
/// If the shape or type does not fit.
pub fn gate(x: &Tensor, spec: &Arc<GateSpec>) -> Result<Tensor> {
    autograd::evaluate(x, spec)
}

/// An activation of every element of `x`, of any shape. Differentiable twice; `f32` or `f64`.
///
/// # Errors
/// If the type does not fit.
pub fn activate(x: &Tensor, activation: ScaledActivation) -> Result<Tensor> {
    let n = x.dims().last().copied().unwrap_or(1);
    let rows = x.dims().iter().rev().skip(1).product::<usize>();
    gate(&x.reshape((rows, n))?, &Arc::new(GateSpec::scalars_only(n, activation)))?.reshape(x.shape())
}

#[cfg(test)]
mod tests;
