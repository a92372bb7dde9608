//! One structure whose atoms move: dynamics, relaxation, benchmarks.

use tesseral_atoms::Structure;

use crate::compiled::{Stage, Stepper};
use crate::{Evaluation, InferError};

/// Evaluates a structure step by step. The neighbour list reaches a skin beyond the cutoff and is made anew only when an atom has moved half of it;
/// buffers are kept.
pub struct Calculator {
    stepper: AnyStepper,
    /// Å
    skin: f64,
}

pub(crate) enum AnyStepper {
    Single(Box<Stepper<f32>>),
    Double(Box<Stepper<f64>>),
}

macro_rules! forward {
    ($self:expr, $stepper:ident => $call:expr) => {
        match $self {
            AnyStepper::Single($stepper) => $call,
            AnyStepper::Double($stepper) => $call,
        }
    };
}

impl Calculator {
    pub(crate) fn new(stepper: AnyStepper, skin: f64) -> Self {
        Self { stepper, skin }
    }

    /// Energy, forces and stress at the structure's current positions, cell and elements.
    ///
    /// # Errors
    /// If the structure cannot be evaluated.
    pub fn evaluate(&mut self, structure: &Structure) -> Result<Evaluation, InferError> {
        let mut evaluation = Evaluation::default();
        self.evaluate_into(structure, &mut evaluation)?;
        Ok(evaluation)
    }

    /// As [`Self::evaluate`], in the memory of an earlier result: steps that keep their neighbour list then allocate nothing.
    ///
    /// # Errors
    /// If the structure cannot be evaluated; `to` then holds nothing of use.
    pub fn evaluate_into(&mut self, structure: &Structure, to: &mut Evaluation) -> Result<(), InferError> {
        crate::potential::check(structure)?;
        let skin = self.skin;
        forward!(&mut self.stepper, s => s.evaluate_into(structure, skin, to))?;
        crate::potential::finite(to)
    }

    /// Bytes of everything that grows with the structure.
    pub fn bytes(&self) -> usize {
        forward!(&self.stepper, s => s.bytes())
    }

    /// Edges within the cutoff at the last positions.
    pub fn num_edges(&self) -> usize {
        forward!(&self.stepper, s => s.num_edges())
    }

    /// Floating-point operations that a step needs at least.
    pub fn flops(&self) -> f64 {
        forward!(&self.stepper, s => s.flops())
    }

    /// Seconds spent in each stage since the last call, added up over threads.
    pub fn take_stages(&mut self) -> Vec<(Stage, f64)> {
        forward!(&mut self.stepper, s => s.take_stages())
    }
}
