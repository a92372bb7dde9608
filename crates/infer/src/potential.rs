//! A potential that is ready to be evaluated.

use candle_core::{DType, Device};
use rayon::prelude::*;
use tesseral_atoms::Structure;
use tesseral_potentials::batch::PreparedStructure;
use tesseral_potentials::{Artifact, Evaluation, Header, Model};

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

/// How a potential is to be evaluated.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// Precision.
    pub dtype: Dtype,
    /// A MACE head or SevenNet modality by name; may be left out where there is one, or one called "default".
    pub head: Option<String>,
}

/// Edges that are evaluated together: enough to keep all threads busy, little enough that memory stays small.
const BATCH_EDGES: usize = 40_000;

/// A model for one precision and head.
pub struct Potential {
    model: Model,
    head: u32,
}

impl Potential {
    /// Builds the network.
    ///
    /// # Errors
    /// If the artifact is damaged or there is no such head.
    pub fn new(artifact: &Artifact, options: &Options) -> Result<Self, InferError> {
        let head = tesseral_potentials::model::head_index(artifact.header(), options.head.as_deref())?;
        let dtype = match options.dtype {
            Dtype::F32 => DType::F32,
            Dtype::F64 => DType::F64,
        };
        Ok(Self { model: Model::load(artifact, dtype, &Device::Cpu)?, head })
    }

    /// What the artifact says about itself.
    pub fn header(&self) -> &Header {
        self.model.header()
    }

    /// The differentiable model underneath.
    pub fn model(&self) -> &Model {
        &self.model
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
        let prepared: Vec<Result<PreparedStructure, InferError>> = structures.par_iter().map(|s| self.prepare(s)).collect();
        let mut results: Vec<Option<Result<Evaluation, InferError>>> = (0..structures.len()).map(|_| None).collect();
        let mut batch: Vec<usize> = Vec::new();
        let mut edges = 0;
        let good = prepared.iter().enumerate().filter_map(|(k, p)| p.as_ref().ok().map(|p| (k, p.num_edges() + p.num_atoms())));
        for (k, cost) in good {
            if !batch.is_empty() && edges + cost > BATCH_EDGES {
                self.evaluate_batch(&batch, &prepared, structures, &mut results);
                batch.clear();
                edges = 0;
            }
            batch.push(k);
            edges += cost;
        }
        if !batch.is_empty() {
            self.evaluate_batch(&batch, &prepared, structures, &mut results);
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

    fn prepare(&self, structure: &Structure) -> Result<PreparedStructure, InferError> {
        if structure.is_empty() {
            return Err(InferError::NoAtoms);
        }
        structure.validate()?;
        Ok(self.model.prepare(structure)?)
    }

    /// Evaluates the structures of one batch; if it fails as a whole, one by one, so that the error finds its structure.
    fn evaluate_batch(
        &self,
        batch: &[usize],
        prepared: &[Result<PreparedStructure, InferError>],
        structures: &[Structure],
        results: &mut [Option<Result<Evaluation, InferError>>],
    ) {
        let parts: Vec<&PreparedStructure> = batch.iter().filter_map(|&k| prepared[k].as_ref().ok()).collect();
        let of: Vec<&Structure> = batch.iter().map(|&k| &structures[k]).collect();
        match self.model.batch(&parts, &of, self.head).and_then(|b| self.model.evaluate(&b)) {
            Ok(evaluations) => {
                for (&k, evaluation) in batch.iter().zip(evaluations) {
                    results[k] = Some(finite(evaluation));
                }
            }
            Err(e) if batch.len() == 1 => results[batch[0]] = Some(Err(e.into())),
            Err(_) => {
                for &k in batch {
                    self.evaluate_batch(&[k], prepared, structures, results);
                }
            }
        }
    }
}

fn finite(evaluation: Evaluation) -> Result<Evaluation, InferError> {
    let energy = evaluation.energy;
    if !energy.is_finite() {
        return Err(InferError::NotFinite { energy, what: "not a number that can be used" });
    }
    if !evaluation.forces.as_flattened().iter().all(|f| f.is_finite()) {
        return Err(InferError::NotFinite { energy, what: "but a force is not finite" });
    }
    Ok(evaluation)
}
