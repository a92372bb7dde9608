//! One potential, or several that are asked together.

use std::sync::Arc;

use tesseral_atoms::{ForceError, ForceField, Spread, Structure};

use crate::{Committee, Evaluation, InferError, Potential, PotentialField};

/// What a user computes with: one potential, or a committee of several, whose means count and whose disagreement is told.
#[derive(Clone)]
pub struct Members {
    potentials: Vec<Arc<Potential>>,
    /// eV/Å
    stop_above: Option<f64>,
}

impl Members {
    /// These potentials. Several may not disagree about a force by more than `stop_above`, eV/Å.
    pub fn new(potentials: Vec<Arc<Potential>>, stop_above: Option<f64>) -> Self {
        Self { potentials, stop_above }
    }

    /// The potentials.
    pub fn potentials(&self) -> &[Arc<Potential>] {
        &self.potentials
    }

    /// Something that moves atoms, with neighbours listed `skin` (Å) beyond the cutoff.
    ///
    /// # Errors
    /// [`InferError::NoCommittee`] of no potential.
    pub fn force_field(&self, skin: f64) -> Result<Box<dyn ForceField + Send>, InferError> {
        Ok(match self.potentials.as_slice() {
            [only] => Box::new(PotentialField::new(only.clone(), skin)),
            _ => Box::new(self.committee(skin)?),
        })
    }

    /// Energies, forces and stresses of many structures, with the disagreement of a committee; one result for each.
    pub fn evaluate(&self, structures: &[Structure]) -> Vec<Result<(Evaluation, Option<Spread>), ForceError>> {
        if let [only] = self.potentials.as_slice() {
            return only.evaluate(structures).into_iter().map(|result| result.map(|e| (e, None)).map_err(ForceError::new)).collect();
        }
        // Lists of neighbours are not kept: the skin is for nothing.
        match self.committee(0.0) {
            Ok(mut committee) => {
                committee.evaluate_with_spread(structures).into_iter().map(|result| result.map(|(e, spread)| (e, Some(spread)))).collect()
            }
            Err(_) => structures.iter().map(|_| Err(ForceError::new(InferError::NoCommittee { members: 0 }))).collect(),
        }
    }

    fn committee(&self, skin: f64) -> Result<Committee<PotentialField>, InferError> {
        let committee = Committee::new(self.potentials.iter().map(|m| PotentialField::new(m.clone(), skin)).collect())?;
        Ok(match self.stop_above {
            None => committee,
            Some(limit) => committee.stop_above(limit),
        })
    }

    /// Whether a structure can be evaluated at all: before anything is written.
    ///
    /// # Errors
    /// [`InferError::NoAtoms`], [`InferError::Structure`], or [`InferError::UnknownElement`] with the potential that does not know one.
    pub fn check(&self, structure: &Structure) -> Result<(), InferError> {
        if structure.is_empty() {
            return Err(InferError::NoAtoms);
        }
        structure.validate()?;
        for potential in &self.potentials {
            let known = potential.header().elements();
            if let Some(atom) = structure.numbers.iter().position(|z| !known.contains(z)) {
                let symbol = tesseral_atoms::elements::symbol(structure.numbers[atom]).unwrap_or("X").to_owned();
                return Err(InferError::UnknownElement { model: potential.header().name.clone(), symbol, atom });
            }
        }
        Ok(())
    }
}
