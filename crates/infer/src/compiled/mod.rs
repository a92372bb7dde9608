//! Compiled potentials: a checkpoint lowered once to explicit forward and adjoint passes.
//!
//! The [differentiable model](tesseral_potentials::Model) keeps what every operation needs for its derivative. Here nothing per edge is kept: radial
//! functions are read from tables of piecewise quintics, messages are summed in registers by the kernels of
//! [`tesseral_ops::tensor_product::slabs`], and the adjoint pass goes over the edges again. Atoms are cut into domains of neighbours; the last layer runs
//! forward and backward domain by domain. Results do not depend on the number of threads.

mod convolution;
mod device;
mod engine;
mod geometry;
mod linear;
mod listed;
mod mace;
mod nequip;
mod node;
mod passes;
mod plan;
mod radial;
mod ranks;
mod rows;
mod shortlist;
mod stages;
mod topology;

use std::sync::{Arc, Mutex};

use rayon::prelude::*;
use tesseral_atoms::Structure;
use tesseral_kernels::Device;
use tesseral_ops::slab::HasSlabs;
use tesseral_potentials::{Artifact, Evaluation};

pub use convolution::{TableError, TableTolerance};
use device::OnDevices;
use engine::Session;
pub use plan::MemoryPlan;
use plan::Plan;
pub use ranks::Exchanged;
pub(crate) use ranks::Rank;
pub use stages::Stage;

use crate::InferError;
use crate::domain::DomainError;
use crate::potential::{check, finite};

/// Structures with fewer atoms than this are one thread's work each, if there are many.
const SMALL: usize = 4096;

/// A lowered model for one precision and head, and sessions to be used again.
pub struct Compiled<T: HasSlabs> {
    plan: Arc<Plan<T>>,
    elements: Vec<u8>,
    exact: bool,
    limit: Option<usize>,
    sessions: Mutex<Vec<Session<T>>>,
    /// Where it is computed, if not on this CPU.
    devices: Option<OnDevices<T>>,
}

impl<T: HasSlabs> Compiled<T> {
    /// Lowers a model. With `exact`, radial functions are evaluated by their networks for every edge instead of read from tables. A `limit` in
    /// bytes on what grows with a structure makes layers compute again what they would save, and refuses structures that do not fit even so.
    /// Without `devices`, this CPU computes.
    ///
    /// # Errors
    /// [`InferError::NotCompiled`] for the few blocks that cannot be lowered, [`InferError::NotOnDevice`] for exact radial functions on a device; anything
    /// that is wrong with the artifact or the device.
    pub fn new(artifact: &Artifact, head: u32, exact: bool, limit: Option<usize>, devices: &[Device]) -> Result<Self, InferError> {
        let plan = Arc::new(Plan::new(artifact, head)?);
        let elements = artifact.header().elements().to_vec();
        let devices = match devices {
            [] => None,
            _ if exact => return Err(InferError::NotOnDevice { what: "exact radial functions" }),
            devices => Some(OnDevices::new(devices, &plan, &elements, limit)?),
        };
        Ok(Self { plan, elements, exact, limit, sessions: Mutex::new(Vec::new()), devices })
    }

    /// Energies, forces and stresses, one result for each structure.
    pub fn evaluate(&self, structures: &[Structure]) -> Vec<Result<Evaluation, InferError>> {
        if let Some(devices) = &self.devices {
            return devices.evaluate(structures);
        }
        let one = |s: &Structure, parallel| check(s).and_then(|()| self.evaluate_here(s, parallel)).and_then(|e| finite(&e).map(|()| e));
        // Many small structures get a thread each; large ones all threads, one after another. The results are the same either way. The first goes ahead, so
        // that what others need too, tables of the same species, is made by all threads and once.
        match structures {
            [first, rest @ ..] if rest.len() >= 2 * rayon::current_num_threads() && structures.iter().all(|s| s.len() < SMALL) => {
                let mut results = vec![one(first, true)];
                results.par_extend(rest.par_iter().with_max_len(1).map(|s| one(s, false)));
                results
            }
            _ => structures.iter().map(|s| one(s, true)).collect(),
        }
    }

    /// Energy, forces and stress of one structure on this CPU. With `parallel`, all threads share its domains.
    fn evaluate_here(&self, structure: &Structure, parallel: bool) -> Result<Evaluation, InferError> {
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
        let reach = self.plan.cutoff + skin;
        self.devices.as_ref().map_or_else(|| self.plan.memory(structure, reach), |devices| devices.memory(structure, reach))
    }

    /// A calculator that keeps its neighbour list between steps.
    pub fn stepper(&self) -> Stepper<T> {
        let place = match &self.devices {
            None => Place::Here(Box::new(self.session())),
            Some(devices) => Place::Device(Box::new(devices.session())),
        };
        Stepper { plan: self.plan.clone(), place, elements: self.elements.clone() }
    }
}

impl<T: Exchanged> Compiled<T> {
    /// What evaluates the atoms of one rank of several.
    ///
    /// # Errors
    /// [`DomainError::NeedsAll`] for models with embedded fields.
    pub(crate) fn rank(&self) -> Result<Rank<T>, InferError> {
        if self.plan.initial.fields.is_some() {
            return Err(DomainError::NeedsAll { what: "embedded charges and spins" }.into());
        }
        Ok(match &self.devices {
            None => Rank::here(self.session()),
            Some(devices) => Rank::on_device(self.plan.clone(), devices.rank()),
        })
    }

    /// Bytes of an atom's row in each exchange of ranks, forward.
    pub(crate) fn row_bytes(&self) -> Vec<usize> {
        self.plan.layers[1..].iter().map(|layer| ranks::width::<T>(&layer.sent) * size_of::<T>()).collect()
    }
}

/// Evaluates one structure again and again as its atoms move.
pub struct Stepper<T: HasSlabs> {
    plan: Arc<Plan<T>>,
    place: Place<T>,
    elements: Vec<u8>,
}

/// Where a structure is computed.
enum Place<T: HasSlabs> {
    Here(Box<Session<T>>),
    Device(Box<device::Session<T>>),
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
        match &mut self.place {
            Place::Here(session) => session.evaluate(structure, &self.elements, skin, to),
            Place::Device(session) => session.evaluate(&[structure], &self.elements, skin, std::slice::from_mut(to)),
        }
    }

    /// Seconds spent in each stage since the last call, added up over threads; a device tells none.
    pub fn take_stages(&mut self) -> Vec<(Stage, f64)> {
        match &mut self.place {
            Place::Here(session) => session.take_stages(),
            Place::Device(_) => Vec::new(),
        }
    }

    /// Bytes of everything that grows with the structure.
    pub fn bytes(&self) -> usize {
        match &self.place {
            Place::Here(session) => session.bytes(),
            Place::Device(session) => session.bytes(),
        }
    }

    /// Edges within the cutoff at the last positions.
    pub fn num_edges(&self) -> usize {
        self.size().1
    }

    /// Floating-point operations that a step needs at least: radial tables, products and sums of the edges, linear maps and polynomials of the atoms.
    pub fn flops(&self) -> f64 {
        let (atoms, edges) = self.size();
        self.plan.flops(atoms, edges)
    }

    fn size(&self) -> (usize, usize) {
        match &self.place {
            Place::Here(session) => session.size(),
            Place::Device(session) => session.size(),
        }
    }
}
