//! Errors of predictions against reference labels, accumulated one structure at a time.

use tesseral_atoms::Structure;
use tesseral_atoms::labels::{LabelError, LabelKeys};

pub use tesseral_atoms::labels::voigt;
pub use tesseral_atoms::metrics::ErrorStatistics;

use crate::Evaluation;

/// Which labels were compared, under the keys they were found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeysUsed(Vec<String>);

impl KeysUsed {
    fn insert(&mut self, key: &str) {
        if !self.0.iter().any(|known| known == key) {
            self.0.push(key.to_owned());
        }
    }

    /// The keys, in the order in which they were met.
    pub fn as_slice(&self) -> &[String] {
        &self.0
    }
}

/// Errors of energies per atom, force components and stress components against the labels of the input.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metrics {
    /// Energy per atom, eV/atom; one value per structure.
    pub energy_per_atom: ErrorStatistics,
    /// Force components, eV/Å; three values per atom.
    pub forces: ErrorStatistics,
    /// Stress components, eV/Å³; six values per structure (Voigt).
    pub stress: ErrorStatistics,
    /// Where energies were found.
    pub energy_keys: KeysUsed,
    /// Where forces were found.
    pub forces_keys: KeysUsed,
    /// Where stresses or virials were found.
    pub stress_keys: KeysUsed,
}

impl Metrics {
    /// Compares one evaluation with the labels that its structure carries. What is not labelled is not counted; a stress
    /// label counts where a stress was computed.
    ///
    /// # Errors
    /// [`LabelError`] for labels that are there but are not what they should be; nothing is counted then.
    pub fn add(&mut self, structure: &Structure, evaluation: &Evaluation, keys: &LabelKeys) -> Result<(), LabelError> {
        let energy = structure.reference_energy(keys)?;
        let forces = structure.reference_forces(keys)?;
        let stress = match evaluation.stress {
            Some(computed) => structure.reference_stress(keys)?.map(|label| (computed, label)),
            None => None,
        };
        if let Some(label) = energy.filter(|_| !structure.is_empty()) {
            let atoms = structure.len() as f64;
            self.energy_per_atom.add(evaluation.energy / atoms, label.value / atoms);
            self.energy_keys.insert(label.key);
        }
        if let Some(label) = forces {
            for (predicted, reference) in evaluation.forces.as_flattened().iter().zip(label.value.as_flattened()) {
                self.forces.add(*predicted, *reference);
            }
            self.forces_keys.insert(label.key);
        }
        if let Some((computed, label)) = stress {
            for (predicted, reference) in voigt(computed).into_iter().zip(label.value) {
                self.stress.add(predicted, reference);
            }
            self.stress_keys.insert(label.key);
        }
        Ok(())
    }

    /// True if no label has been compared.
    pub fn is_empty(&self) -> bool {
        self.energy_per_atom.count() + self.forces.count() + self.stress.count() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tesseral_atoms::Cell;

    #[test]
    fn labels_of_a_structure() {
        let mut structure = Structure::crystal(Cell::cubic(2.0), vec![1, 1], vec![[0.0; 3], [1.0; 3]]);
        let evaluation = Evaluation {
            energy: -4.0,
            forces: vec![[0.5, 0.0, 0.0], [-0.5, 0.0, 0.0]],
            stress: Some([[0.1, 0.0, 0.0], [0.0, 0.2, 0.0], [0.0, 0.0, 0.3]]),
            atomic_energies: vec![-2.0; 2],
        };
        let keys = LabelKeys::default();
        let mut metrics = Metrics::default();
        metrics.add(&structure, &evaluation, &keys).unwrap();
        assert!(metrics.is_empty());
        structure.set_energy(-5.0);
        structure.set_forces(&[[0.5, 0.0, 0.3], [-0.5, 0.0, 0.0]]);
        // −virial / volume is the diagonal above, off by 0.06 in xx.
        structure.info.insert("virial".into(), vec![-1.28, -1.6, -2.4, 0.0, 0.0, 0.0].into());
        metrics.add(&structure, &evaluation, &keys).unwrap();
        assert!((metrics.energy_per_atom.mae().unwrap() - 0.5).abs() < 1e-15);
        assert_eq!(metrics.forces.count(), 6);
        assert!((metrics.forces.mae().unwrap() - 0.05).abs() < 1e-15);
        assert!((metrics.stress.mae().unwrap() - 0.01).abs() < 1e-15);
        assert_eq!(metrics.stress_keys.as_slice(), ["virial"]);
        structure.info.insert("energy".into(), "?".into());
        assert!(metrics.add(&structure, &evaluation, &keys).is_err());
        assert_eq!(metrics.energy_per_atom.count(), 1);
    }
}
