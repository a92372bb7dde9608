//! What is computed for one structure, and what of it goes into the extras.

use serde::Serialize;
use tesseral_atoms::{Evaluation, Spread};

use super::wire::{ENERGY, FORCE};

/// What was computed for one structure.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Answer {
    /// Energy, forces, stress.
    pub evaluation: Evaluation,
    /// How far a committee disagrees.
    pub spread: Option<Spread>,
}

impl Answer {
    /// Whether all numbers that would be sent are finite.
    pub(super) fn is_finite(&self) -> bool {
        let Evaluation { energy, forces, stress, .. } = &self.evaluation;
        energy.is_finite()
            && forces.as_flattened().iter().all(|x| x.is_finite())
            && stress.as_ref().is_none_or(|stress| stress.as_flattened().iter().all(|x| x.is_finite()))
    }
}

/// What is sent beside energies, forces and virials: one JSON object for each structure, which i-PI writes to files with `<trajectory> extras </trajectory>`.
///
/// Numbers are in hartree and hartree/bohr as all others of the protocol.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Extras {
    /// `energies`: the energy of each atom.
    pub atomic_energies: bool,
    /// `energy_spread`, `force_spread` (one number an atom): standard deviations over the members of a committee.
    pub spread: bool,
}

#[derive(Serialize)]
struct Json {
    #[serde(skip_serializing_if = "Option::is_none")]
    energies: Option<Vec<f64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    energy_spread: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    force_spread: Option<Vec<f64>>,
}

impl Extras {
    /// The text for one structure; empty if there is nothing to say.
    pub(super) fn text(self, answer: &Answer) -> String {
        let spread = answer.spread.as_ref().filter(|_| self.spread);
        let json = Json {
            energies: self.atomic_energies.then(|| answer.evaluation.atomic_energies.iter().map(|e| e * ENERGY).collect()),
            energy_spread: spread.map(|spread| spread.energy * ENERGY),
            force_spread: spread.map(|spread| spread.forces.iter().map(|f| f * FORCE).collect()),
        };
        if json.energies.is_none() && spread.is_none() {
            return String::new();
        }
        serde_json::to_string(&json).unwrap_or_default()
    }
}
