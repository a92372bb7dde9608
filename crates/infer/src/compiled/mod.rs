//! Compiled potentials: a checkpoint lowered once to explicit forward and adjoint passes.
//!
//! The [differentiable model](tesseral_potentials::Model) keeps what every operation needs for its derivative. Here nothing per edge is kept: radial
//! functions are read from tables of piecewise quintics, messages are summed in registers by the kernels of
//! [`tesseral_ops::tensor_product::slabs`], and the adjoint pass goes over the edges again. Atoms are cut into domains of neighbours; the last layer runs
//! forward and backward domain by domain. Results do not depend on the number of threads.

mod convolution;
mod engine;
mod geometry;
mod linear;
mod mace;
mod nequip;
mod node;
mod passes;
mod plan;
mod radial;
mod rows;
mod stages;
mod topology;

use std::sync::{Arc, Mutex};

use tesseral_atoms::Structure;
use tesseral_ops::slab::HasSlabs;
use tesseral_potentials::{Artifact, Evaluation};

pub use convolution::{TableError, TableTolerance};
use engine::Session;
pub use plan::MemoryPlan;
use plan::Plan;
pub use stages::Stage;

use crate::InferError;

/// A lowered model for one precision and head, and sessions to be used again.
pub struct Compiled<T: HasSlabs> {
    plan: Arc<Plan<T>>,
    elements: Vec<u8>,
    exact: bool,
    limit: Option<usize>,
    sessions: Mutex<Vec<Session<T>>>,
}

impl<T: HasSlabs> Compiled<T> {
    /// Lowers a model. With `exact`, radial functions are evaluated by their networks for every edge instead of read from tables. A `limit` in
    /// bytes on what grows with a structure makes layers compute again what they would save, and refuses structures that do not fit even so.
    ///
    /// # Errors
    /// [`InferError::NotCompiled`] for the few blocks that cannot be lowered; anything that is wrong with the artifact.
    pub fn new(artifact: &Artifact, head: u32, exact: bool, limit: Option<usize>) -> Result<Self, InferError> {
        Ok(Self {
            plan: Arc::new(Plan::new(artifact, head)?),
            elements: artifact.header().elements().to_vec(),
            exact,
            limit,
            sessions: Mutex::new(Vec::new()),
        })
    }

    /// Energy, forces and stress of one structure. With `parallel`, all threads share its domains.
    ///
    /// # Errors
    /// If the structure cannot be evaluated.
    pub fn evaluate(&self, structure: &Structure, parallel: bool) -> Result<Evaluation, InferError> {
        let lock = || self.sessions.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut session = lock().pop().unwrap_or_else(|| self.session());
        session.parallel = parallel;
        session.forget();
        let mut evaluation = Evaluation::default();
        let result = session.evaluate(structure, &self.elements, 0.0, &mut evaluation);
        lock().push(session);
        result.map(|()| evaluation)
    }

    fn session(&self) -> Session<T> {
        let mut session = Session::new(self.plan.clone(), self.exact);
        session.limit = self.limit;
        session
    }

    /// What a structure takes, estimated, with neighbours listed `skin` (Å) beyond the cutoff.
    pub fn memory(&self, structure: &Structure, skin: f64) -> MemoryPlan {
        self.plan.memory(structure, self.plan.cutoff + skin)
    }

    /// A calculator that keeps its neighbour list between steps.
    pub fn stepper(&self) -> Stepper<T> {
        Stepper { session: self.session(), elements: self.elements.clone() }
    }
}

/// Evaluates one structure again and again as its atoms move.
pub struct Stepper<T: 'static> {
    session: Session<T>,
    elements: Vec<u8>,
}

impl<T: HasSlabs> Stepper<T> {
    /// Energy, forces and stress; neighbours are listed again when an atom has moved half the `skin` (Å).
    ///
    /// # Errors
    /// If the structure cannot be evaluated.
    pub fn evaluate(&mut self, structure: &Structure, skin: f64) -> Result<Evaluation, InferError> {
        let mut evaluation = Evaluation::default();
        self.evaluate_into(structure, skin, &mut evaluation)?;
        Ok(evaluation)
    }

    /// As [`Self::evaluate`], in the memory of an earlier result.
    ///
    /// # Errors
    /// If the structure cannot be evaluated; `to` then holds nothing of use.
    pub fn evaluate_into(&mut self, structure: &Structure, skin: f64, to: &mut Evaluation) -> Result<(), InferError> {
        self.session.evaluate(structure, &self.elements, skin, to)
    }

    /// Seconds spent in each stage since the last call, added up over threads.
    pub fn take_stages(&mut self) -> Vec<(Stage, f64)> {
        self.session.take_stages()
    }

    /// Bytes of everything that grows with the structure.
    pub fn bytes(&self) -> usize {
        self.session.bytes()
    }

    /// Edges within the cutoff at the last positions.
    pub fn num_edges(&self) -> usize {
        self.session.num_edges()
    }

    /// Floating-point operations that a step needs at least: radial tables, products and sums of the edges, linear maps and polynomials of the atoms.
    pub fn flops(&self) -> f64 {
        self.session.flops()
    }
}
