//! Errors of predictions against reference labels, accumulated one structure at a time.

use tesseral_atoms::Structure;
use tesseral_atoms::labels::{LabelError, LabelKeys};

use crate::Evaluation;

/// Mean absolute and root-mean-square error of a stream of numbers, in constant memory.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ErrorStatistics {
    count: u64,
    absolute: f64,
    squared: f64,
    largest: f64,
}

impl ErrorStatistics {
    /// Adds one prediction and its reference, in the same unit.
    pub fn add(&mut self, predicted: f64, reference: f64) {
        let error = (predicted - reference).abs();
        self.count += 1;
        self.absolute += error;
        self.squared += error * error;
        // `max` would drop a NaN.
        if error > self.largest || error.is_nan() {
            self.largest = error;
        }
    }

    /// Number of values compared.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Mean absolute error; `None` if nothing was compared.
    pub fn mae(&self) -> Option<f64> {
        (self.count > 0).then(|| self.absolute / self.count as f64)
    }

    /// Root-mean-square error; `None` if nothing was compared.
    pub fn rmse(&self) -> Option<f64> {
        (self.count > 0).then(|| (self.squared / self.count as f64).sqrt())
    }

    /// Largest absolute error; `None` if nothing was compared.
    pub fn largest(&self) -> Option<f64> {
        (self.count > 0).then_some(self.largest)
    }
}

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

/// A symmetric matrix in Voigt order xx, yy, zz, yz, zx, xy.
pub fn voigt(matrix: [[f64; 3]; 3]) -> [f64; 6] {
    [matrix[0][0], matrix[1][1], matrix[2][2], matrix[1][2], matrix[2][0], matrix[0][1]]
}

#[cfg(test)]
mod tests {
    use super::*;
    use tesseral_atoms::Cell;

    #[test]
    fn mean_and_root_mean_square() {
        let mut statistics = ErrorStatistics::default();
        assert_eq!((statistics.mae(), statistics.rmse(), statistics.largest()), (None, None, None));
        for (predicted, reference) in [(1.0, 0.0), (0.0, 3.0), (5.0, 5.0)] {
            statistics.add(predicted, reference);
        }
        assert_eq!(statistics.count(), 3);
        assert_eq!(statistics.mae(), Some(4.0 / 3.0));
        assert_eq!(statistics.rmse(), Some((10.0f64 / 3.0).sqrt()));
        assert_eq!(statistics.largest(), Some(3.0));
        statistics.add(f64::NAN, 0.0);
        assert!(statistics.mae().unwrap().is_nan() && statistics.largest().unwrap().is_nan());
    }

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
