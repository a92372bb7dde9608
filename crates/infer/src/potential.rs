//! A potential that is ready to be evaluated.

use std::fmt;

use candle_core::{DType, Device};
use rayon::prelude::*;
use tesseral_atoms::Structure;
use tesseral_potentials::batch::PreparedStructure;
use tesseral_potentials::{Artifact, Evaluation, Header, Model};

use crate::calculator::{AnyStepper, Calculator};
use crate::compiled::{Compiled, MemoryPlan};
use crate::device::DeviceChoice;
use crate::domain::{AnyRank, DomainCalculator, Threads};
use crate::error::InferError;

/// Precision of the computation. Geometry, energy sums and forces of atoms are in f64 always.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dtype {
    /// Single precision: forces good to about 1e-5 of the largest.
    #[default]
    F32,
    /// Double precision.
    F64,
}

/// What computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// Explicit passes lowered from the checkpoint ([`crate::compiled`]).
    Compiled {
        /// Whether radial functions are evaluated by their networks for every edge, rather than read from tables.
        exact_radial: bool,
    },
    /// The network as candle modules: slower, and what everything else is checked against.
    Differentiable,
}

impl Default for Engine {
    fn default() -> Self {
        Self::Compiled { exact_radial: false }
    }
}

/// How a potential is to be evaluated.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// Precision.
    pub dtype: Dtype,
    /// A MACE head or SevenNet modality by name; may be left out where there is one, or one called "default".
    pub head: Option<String>,
    /// What computes.
    pub engine: Engine,
    /// Bytes that the compiled engine may use for what grows with a structure; without, as many as it takes.
    pub memory: Option<usize>,
    /// Where the compiled engine computes.
    pub device: DeviceChoice,
}

impl Options {
    /// With what the machine has free as the limit of memory, unless there is one, or a GPU computes, of which that says nothing.
    #[must_use]
    pub fn within_free_memory(mut self) -> Self {
        if self.memory.is_none() && matches!(self.device, DeviceChoice::Cpu | DeviceChoice::Auto) {
            self.memory = crate::machine::available_memory();
        }
        self
    }
}

/// What results depend on, in words: runs remember it, so that they are gone on with by nothing else.
impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}", if self.dtype == Dtype::F32 { "f32" } else { "f64" }, self.device)?;
        if let Some(head) = &self.head {
            write!(f, ", head {head}")?;
        }
        match self.engine {
            Engine::Differentiable => f.write_str(", differentiable"),
            Engine::Compiled { exact_radial: true } => f.write_str(", exact radial functions"),
            Engine::Compiled { exact_radial: false } => Ok(()),
        }
    }
}

/// Edges that the differentiable engine evaluates together: enough to keep all threads busy, little enough that memory stays small.
const BATCH_EDGES: usize = 40_000;

enum Network {
    Differentiable(Box<Model>),
    Single(Compiled<f32>),
    Double(Compiled<f64>),
}

/// A model for one precision and head.
pub struct Potential {
    header: Header,
    network: Network,
    head: u32,
    devices: Vec<tesseral_kernels::Device>,
}

impl Potential {
    /// Builds the network.
    ///
    /// # Errors
    /// If the artifact is damaged, there is no such head, or the architecture has no compiled form ([`InferError::NotCompiled`]).
    pub fn new(artifact: &Artifact, options: &Options) -> Result<Self, InferError> {
        let head = tesseral_potentials::model::head_index(artifact.header(), options.head.as_deref())?;
        if options.engine == Engine::Differentiable && options.device != DeviceChoice::Cpu {
            return Err(InferError::NotOnDevice { what: "the differentiable engine" });
        }
        let devices = options.device.open()?;
        let network = match (options.engine, options.dtype) {
            (Engine::Differentiable, dtype) => {
                let dtype = if dtype == Dtype::F32 { DType::F32 } else { DType::F64 };
                Network::Differentiable(Box::new(Model::load(artifact, dtype, &Device::Cpu)?))
            }
            (Engine::Compiled { exact_radial }, Dtype::F32) => {
                Network::Single(Compiled::new(artifact, head, exact_radial, options.memory, &devices)?)
            }
            (Engine::Compiled { exact_radial }, Dtype::F64) => {
                Network::Double(Compiled::new(artifact, head, exact_radial, options.memory, &devices)?)
            }
        };
        Ok(Self { header: artifact.header().clone(), network, head, devices })
    }

    /// What the artifact says about itself.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The devices that compute, none for the CPU; calculators use the first.
    pub fn devices(&self) -> &[tesseral_kernels::Device] {
        &self.devices
    }

    /// A rough measure of the work for a structure: atoms and edges, from its density, without listing neighbours.
    pub fn cost(&self, structure: &Structure) -> usize {
        let n = structure.len();
        let cutoff = self.header().cutoff();
        let sphere = 4.0 / 3.0 * std::f64::consts::PI * cutoff.powi(3);
        let volume = structure.cell.volume();
        let neighbors = if structure.is_periodic() && volume > 0.0 { n as f64 / volume * sphere } else { (n as f64).min(60.0) };
        n + (n as f64 * neighbors.min(1e6)) as usize
    }

    /// Energies, forces and stresses; one result for each structure. The order of results is that of the structures, and one that
    /// cannot be evaluated does not disturb the others.
    pub fn evaluate(&self, structures: &[Structure]) -> Vec<Result<Evaluation, InferError>> {
        match &self.network {
            Network::Differentiable(model) => self.evaluate_batched(model, structures),
            Network::Single(compiled) => compiled.evaluate(structures),
            Network::Double(compiled) => compiled.evaluate(structures),
        }
    }

    /// What evaluating a structure takes, estimated; `None` for the differentiable engine.
    pub fn memory(&self, structure: &Structure) -> Option<MemoryPlan> {
        match &self.network {
            Network::Differentiable(_) => None,
            Network::Single(compiled) => Some(compiled.memory(structure, 0.0)),
            Network::Double(compiled) => Some(compiled.memory(structure, 0.0)),
        }
    }

    /// A calculator for a structure whose atoms move, with a neighbour list that reaches `skin` (Å) beyond the cutoff.
    ///
    /// # Errors
    /// [`InferError::NotStepped`] for the differentiable engine, which keeps nothing between steps.
    pub fn calculator(&self, skin: f64) -> Result<Calculator, InferError> {
        let stepper = match &self.network {
            Network::Differentiable(_) => return Err(InferError::NotStepped),
            Network::Single(compiled) => AnyStepper::Single(Box::new(compiled.stepper())),
            Network::Double(compiled) => AnyStepper::Double(Box::new(compiled.stepper())),
        };
        Ok(Calculator::new(stepper, skin))
    }

    /// A calculator for the atoms of one rank of several, which exchanges with the others what atoms send between layers.
    ///
    /// # Errors
    /// [`InferError::NotStepped`] for the differentiable engine,
    /// [`DomainError::NeedsAll`](crate::DomainError::NeedsAll) for models with embedded charges or spins.
    pub fn domain(&self, threads: Threads) -> Result<DomainCalculator, InferError> {
        let rank = match &self.network {
            Network::Differentiable(_) => return Err(InferError::NotStepped),
            Network::Single(compiled) => AnyRank::Single(Box::new(compiled.rank()?)),
            Network::Double(compiled) => AnyRank::Double(Box::new(compiled.rank()?)),
        };
        Ok(DomainCalculator::new(rank, threads))
    }

    /// Bytes of an atom's row in each exchange of [`Self::domain`]: forward in this order, then the same in reverse. None for the differentiable engine.
    pub fn row_bytes(&self) -> Vec<usize> {
        match &self.network {
            Network::Differentiable(_) => Vec::new(),
            Network::Single(compiled) => compiled.row_bytes(),
            Network::Double(compiled) => compiled.row_bytes(),
        }
    }

    fn evaluate_batched(&self, model: &Model, structures: &[Structure]) -> Vec<Result<Evaluation, InferError>> {
        let prepared: Vec<Result<PreparedStructure, InferError>> =
            structures.par_iter().map(|s| check(s).and_then(|()| Ok(s.validate()?)).and_then(|()| Ok(model.prepare(s)?))).collect();
        let mut results: Vec<Option<Result<Evaluation, InferError>>> = (0..structures.len()).map(|_| None).collect();
        let mut batch: Vec<usize> = Vec::new();
        let mut edges = 0;
        let good = prepared.iter().enumerate().filter_map(|(k, p)| p.as_ref().ok().map(|p| (k, p.num_edges() + p.num_atoms())));
        for (k, cost) in good {
            if !batch.is_empty() && edges + cost > BATCH_EDGES {
                self.evaluate_batch(model, &batch, &prepared, structures, &mut results);
                batch.clear();
                edges = 0;
            }
            batch.push(k);
            edges += cost;
        }
        if !batch.is_empty() {
            self.evaluate_batch(model, &batch, &prepared, structures, &mut results);
        }
        prepared
            .into_iter()
            .zip(results)
            .map(|(prepared, result)| match (prepared, result) {
                (Err(e), _) => Err(e),
                (Ok(_), Some(result)) => result,
                (Ok(_), None) => Err(InferError::NoAtoms),
            })
            .collect()
    }

    /// Evaluates the structures of one batch; if it fails as a whole, one by one, so that the error finds its structure.
    fn evaluate_batch(
        &self,
        model: &Model,
        batch: &[usize],
        prepared: &[Result<PreparedStructure, InferError>],
        structures: &[Structure],
        results: &mut [Option<Result<Evaluation, InferError>>],
    ) {
        let parts: Vec<&PreparedStructure> = batch.iter().filter_map(|&k| prepared[k].as_ref().ok()).collect();
        let of: Vec<&Structure> = batch.iter().map(|&k| &structures[k]).collect();
        match model.batch(&parts, &of, self.head).and_then(|b| model.evaluate(&b)) {
            Ok(evaluations) => {
                for (&k, evaluation) in batch.iter().zip(evaluations) {
                    results[k] = Some(finite(&evaluation).map(|()| evaluation));
                }
            }
            Err(e) if batch.len() == 1 => results[batch[0]] = Some(Err(e.into())),
            Err(_) => {
                for &k in batch {
                    self.evaluate_batch(model, &[k], prepared, structures, results);
                }
            }
        }
    }
}

/// Whether a structure can be evaluated, but for its distances, which the compiled engine sees to.
pub(crate) fn check(structure: &Structure) -> Result<(), InferError> {
    if structure.is_empty() {
        return Err(InferError::NoAtoms);
    }
    Ok(structure.validate_numbers()?)
}

pub(crate) fn finite(evaluation: &Evaluation) -> Result<(), InferError> {
    finite_numbers(evaluation.energy, &evaluation.forces)
}

pub(crate) fn finite_numbers(energy: f64, forces: &[[f64; 3]]) -> Result<(), InferError> {
    if !energy.is_finite() {
        return Err(InferError::NotFinite { energy, what: "not a number that can be used" });
    }
    if !forces.as_flattened().iter().all(|f| f.is_finite()) {
        return Err(InferError::NotFinite { energy, what: "but a force is not finite" });
    }
    Ok(())
}
