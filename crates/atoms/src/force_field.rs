//! What gives energies, forces and stresses, for whatever moves atoms.
//!
//! Dynamics, relaxation and phonons need nothing of a potential but this. `tesseral_infer` implements it for neural potentials, tests for
//! analytic ones.

use crate::structure::Structure;

/// Energy, forces and stress of one structure.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Evaluation {
    /// Energy, eV.
    pub energy: f64,
    /// Forces, eV/Å.
    pub forces: Vec<[f64; 3]>,
    /// Stress, eV/Å³, positive = tensile; only for structures that are periodic in all three directions.
    pub stress: Option<[[f64; 3]; 3]>,
    /// Energy of each atom, eV; they sum to the energy.
    pub atomic_energies: Vec<f64>,
}

/// How far the members of a committee of potentials disagree about one structure: standard deviations over the members (of a sample: divided by their number less one).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Spread {
    /// Of the energy, eV.
    pub energy: f64,
    /// Of the force on each atom, eV/Å: the root of the summed variances of its three components.
    pub forces: Vec<f64>,
}

impl Spread {
    /// The largest spread of a force, eV/Å, and the atom; `None` without atoms.
    pub fn largest_force(&self) -> Option<(usize, f64)> {
        self.forces.iter().copied().enumerate().max_by(|a, b| a.1.total_cmp(&b.1))
    }
}

/// Why a structure could not be evaluated: an error of whatever implements [`ForceField`], with its causes.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct ForceError(Box<dyn std::error::Error + Send + Sync>);

impl ForceError {
    /// Wraps an error.
    pub fn new(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self(error.into())
    }

    /// The error itself.
    pub fn inner(&self) -> &(dyn std::error::Error + Send + Sync + 'static) {
        &*self.0
    }
}

/// Gives energies, forces and stresses of structures.
pub trait ForceField {
    /// Evaluates a structure, in the memory of an earlier result. Implementations keep what they know of a structure from one call to the next: calls for one structure
    /// whose atoms move should go to one force field.
    ///
    /// # Errors
    /// If the structure cannot be evaluated; `to` then holds nothing of use.
    fn evaluate_into(&mut self, structure: &Structure, to: &mut Evaluation) -> Result<(), ForceError>;

    /// Evaluates many structures, together where that is faster; one result for each.
    fn evaluate_many(&mut self, structures: &[Structure]) -> Vec<Result<Evaluation, ForceError>> {
        structures.iter().map(|s| self.evaluate(s)).collect()
    }

    /// Evaluates a structure.
    ///
    /// # Errors
    /// If the structure cannot be evaluated.
    fn evaluate(&mut self, structure: &Structure) -> Result<Evaluation, ForceError> {
        let mut evaluation = Evaluation::default();
        self.evaluate_into(structure, &mut evaluation)?;
        Ok(evaluation)
    }

    /// How far the members of a committee disagreed in the last call; of many structures, about the one where they disagreed most about a force. `None` for a single
    /// potential.
    fn spread(&self) -> Option<&Spread> {
        None
    }
}

impl<F: ForceField + ?Sized> ForceField for &mut F {
    fn evaluate_into(&mut self, structure: &Structure, to: &mut Evaluation) -> Result<(), ForceError> {
        (**self).evaluate_into(structure, to)
    }

    fn evaluate_many(&mut self, structures: &[Structure]) -> Vec<Result<Evaluation, ForceError>> {
        (**self).evaluate_many(structures)
    }

    fn spread(&self) -> Option<&Spread> {
        (**self).spread()
    }
}
