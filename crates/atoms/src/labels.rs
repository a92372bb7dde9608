//! Reference labels (energy, forces, stress, charge, spin) in the metadata of a structure.

use crate::info::InfoValue;
use crate::structure::Structure;

/// The keys under which reference labels are looked for, best first.
///
/// The defaults put explicit reference keys (`REF_energy`, `dft_energy`) before the plain ones: a file that has both was
/// usually written by a calculator, whose `energy` is a prediction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelKeys {
    /// Total energy, eV (frame metadata).
    pub energy: Vec<String>,
    /// Forces, eV/Å (per-atom array of width 3).
    pub forces: Vec<String>,
    /// Stress, eV/Å³, positive when tensile (frame metadata, 6 or 9 numbers).
    pub stress: Vec<String>,
    /// Virial, eV: stress = −virial / volume (frame metadata, 6 or 9 numbers). Looked for when no stress is found.
    pub virial: Vec<String>,
}

impl Default for LabelKeys {
    fn default() -> Self {
        let own = |keys: &[&str]| keys.iter().map(|&k| k.to_owned()).collect();
        Self {
            energy: own(&["REF_energy", "ref_energy", "dft_energy", "DFT_energy", "energy", "Energy", "free_energy"]),
            forces: own(&["REF_forces", "ref_forces", "dft_forces", "DFT_forces", "forces", "force", "Forces"]),
            stress: own(&["REF_stress", "ref_stress", "dft_stress", "DFT_stress", "stress", "Stress"]),
            virial: own(&["REF_virials", "REF_virial", "ref_virial", "dft_virial", "DFT_virial", "virials", "virial", "Virial"]),
        }
    }
}

/// A reference label and the key it was really found under.
#[derive(Debug, Clone, PartialEq)]
pub struct Label<'k, T> {
    /// The key in `info` or `arrays`.
    pub key: &'k str,
    /// The value, in our units.
    pub value: T,
}

/// A key is there, but what it holds is not the label.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum LabelError {
    /// The value has the wrong type or number of components.
    #[error("`{key}` should be {expected}, but it is {found}")]
    WrongShape {
        /// Where it was found.
        key: String,
        /// What the label needs.
        expected: &'static str,
        /// What is there.
        found: String,
    },
    /// A number is NaN or infinite.
    #[error("`{key}` holds a number that is not finite")]
    NotFinite {
        /// Where it was found.
        key: String,
    },
    /// A virial needs a volume to become a stress.
    #[error("`{key}` is a virial, but the structure has no volume to turn it into a stress")]
    NoVolume {
        /// Where it was found.
        key: String,
    },
}

impl LabelError {
    /// A next step for the person who reads the error.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::WrongShape { .. } => "fix the value, or name the key that holds the label",
            Self::NotFinite { .. } => "remove the key from frames that have no such label",
            Self::NoVolume { .. } => "give the frame a Lattice, or remove the virial",
        }
    }
}

impl Structure {
    /// The reference total energy in eV, `None` if no key of `keys.energy` is there.
    ///
    /// # Errors
    /// [`LabelError`] if the first key that is there does not hold one finite number.
    pub fn reference_energy<'k>(&self, keys: &'k LabelKeys) -> Result<Option<Label<'k, f64>>, LabelError> {
        let Some((key, value)) = first(&keys.energy, |key| self.info.get(key)) else {
            return Ok(None);
        };
        let energy = value.as_f64().ok_or_else(|| wrong_shape(key, "one number", value.describe()))?;
        finite(key, &[energy])?;
        Ok(Some(Label { key, value: energy }))
    }

    /// The reference forces in eV/Å, one vector per atom, `None` if no key of `keys.forces` is there.
    ///
    /// # Errors
    /// [`LabelError`] if the first key that is there does not hold three finite numbers per atom.
    pub fn reference_forces<'k>(&self, keys: &'k LabelKeys) -> Result<Option<Label<'k, Vec<[f64; 3]>>>, LabelError> {
        let Some((key, array)) = first(&keys.forces, |key| self.arrays.get(key)) else {
            return Ok(None);
        };
        let forces = array.to_vectors().filter(|forces| forces.len() == self.len()).ok_or_else(|| {
            let found = format!("{} rows of {} values", array.atoms(), array.width());
            wrong_shape(key, "three numbers per atom", found)
        })?;
        finite(key, forces.as_flattened())?;
        Ok(Some(Label { key, value: forces }))
    }

    /// The reference stress in eV/Å³, Voigt order xx, yy, zz, yz, zx, xy, positive when tensile; from a virial where there
    /// is no stress. `None` if no key of `keys.stress` and `keys.virial` is there.
    ///
    /// Nine numbers are a 3 × 3 matrix, of which the symmetric part is taken (so their order does not matter); six are
    /// already Voigt.
    ///
    /// # Errors
    /// [`LabelError`] if the first key that is there does not hold 6 or 9 finite numbers, or is a virial without a volume.
    pub fn reference_stress<'k>(&self, keys: &'k LabelKeys) -> Result<Option<Label<'k, [f64; 6]>>, LabelError> {
        if let Some((key, value)) = first(&keys.stress, |key| self.info.get(key)) {
            return Ok(Some(Label { key, value: read_voigt(key, value)? }));
        }
        let Some((key, value)) = first(&keys.virial, |key| self.info.get(key)) else {
            return Ok(None);
        };
        let virial = read_voigt(key, value)?;
        let volume = self.cell.volume();
        if volume == 0.0 || !volume.is_finite() {
            return Err(LabelError::NoVolume { key: key.to_owned() });
        }
        Ok(Some(Label { key, value: virial.map(|x| -x / volume) }))
    }

    /// Stores a total energy in eV under ASE's key `energy`.
    pub fn set_energy(&mut self, energy: f64) {
        self.info.insert("energy".to_owned(), InfoValue::Real(energy));
    }

    /// Stores forces in eV/Å, one vector per atom, under ASE's key `forces`.
    pub fn set_forces(&mut self, forces: &[[f64; 3]]) {
        self.arrays.insert("forces".to_owned(), crate::info::Array::vectors(forces));
    }

    /// Stores a stress in eV/Å³ (Voigt order xx, yy, zz, yz, zx, xy; positive when tensile) under ASE's key `stress`, as the
    /// full 3 × 3 matrix that ASE writes to files.
    pub fn set_stress(&mut self, stress: [f64; 6]) {
        let [xx, yy, zz, yz, zx, xy] = stress;
        self.info.insert("stress".to_owned(), [[xx, xy, zx], [xy, yy, yz], [zx, yz, zz]].into());
    }
}

/// A symmetric matrix in Voigt order xx, yy, zz, yz, zx, xy.
pub fn voigt(matrix: [[f64; 3]; 3]) -> [f64; 6] {
    [matrix[0][0], matrix[1][1], matrix[2][2], matrix[1][2], matrix[2][0], matrix[0][1]]
}

fn first<V>(keys: &[String], get: impl Fn(&str) -> Option<V>) -> Option<(&str, V)> {
    keys.iter().find_map(|key| Some((key.as_str(), get(key)?)))
}

fn wrong_shape(key: &str, expected: &'static str, found: String) -> LabelError {
    LabelError::WrongShape { key: key.to_owned(), expected, found }
}

fn finite(key: &str, values: &[f64]) -> Result<(), LabelError> {
    if values.iter().all(|x| x.is_finite()) { Ok(()) } else { Err(LabelError::NotFinite { key: key.to_owned() }) }
}

/// Six numbers as they are, nine as the symmetric part of a 3 × 3 matrix.
fn read_voigt(key: &str, value: &InfoValue) -> Result<[f64; 6], LabelError> {
    let wrong = || wrong_shape(key, "6 or 9 numbers", value.describe());
    let numbers = value.to_reals().ok_or_else(wrong)?;
    let voigt = match numbers[..] {
        [xx, yy, zz, yz, zx, xy] => [xx, yy, zz, yz, zx, xy],
        [xx, xy, xz, yx, yy, yz, zx, zy, zz] => [xx, yy, zz, (yz + zy) / 2.0, (zx + xz) / 2.0, (xy + yx) / 2.0],
        _ => return Err(wrong()),
    };
    finite(key, &voigt)?;
    Ok(voigt)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Array, Cell};

    fn atom() -> Structure {
        Structure::crystal(Cell::cubic(2.0), vec![14], vec![[0.0; 3]])
    }

    #[test]
    fn reference_keys_win_over_calculator_keys() {
        let mut structure = atom();
        let keys = LabelKeys::default();
        assert_eq!(structure.reference_energy(&keys), Ok(None));
        structure.info.insert("energy".into(), (-1i64).into());
        assert_eq!(structure.reference_energy(&keys).unwrap().unwrap(), Label { key: "energy", value: -1.0 });
        structure.info.insert("REF_energy".into(), (-1.5).into());
        assert_eq!(structure.reference_energy(&keys).unwrap().unwrap(), Label { key: "REF_energy", value: -1.5 });
        let custom = LabelKeys { energy: vec!["mine".into()], ..keys };
        assert_eq!(structure.reference_energy(&custom), Ok(None));
    }

    #[test]
    fn virials_become_stresses_with_the_opposite_sign() {
        let mut structure = atom();
        let keys = LabelKeys::default();
        structure.info.insert("virial".into(), vec![8.0, 16.0, 24.0, 0.8, 0.16, 4.0].into());
        let label = structure.reference_stress(&keys).unwrap().unwrap();
        assert_eq!(label, Label { key: "virial", value: [-1.0, -2.0, -3.0, -0.1, -0.02, -0.5] });
        // A stress beside it wins.
        structure.set_stress([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let label = structure.reference_stress(&keys).unwrap().unwrap();
        assert_eq!(label, Label { key: "stress", value: [1.0, 2.0, 3.0, 4.0, 5.0, 6.0] });
        structure.info.clear();
        structure.cell = Cell::ZERO;
        structure.info.insert("virials".into(), vec![0.0; 9].into());
        let error = structure.reference_stress(&keys).unwrap_err();
        assert_eq!(error, LabelError::NoVolume { key: "virials".into() });
    }

    #[test]
    fn unusable_labels_are_errors() {
        let mut structure = atom();
        let keys = LabelKeys::default();
        structure.info.insert("energy".into(), "-1.0 eV".into());
        let error = structure.reference_energy(&keys).unwrap_err();
        assert_eq!(error.to_string(), "`energy` should be one number, but it is text");
        structure.info.insert("energy".into(), f64::NAN.into());
        assert_eq!(structure.reference_energy(&keys), Err(LabelError::NotFinite { key: "energy".into() }));
        structure.info.insert("stress".into(), vec![0.0; 3].into());
        assert!(structure.reference_stress(&keys).is_err());
        structure.arrays.insert("forces".into(), Array::scalars(vec![1.0]));
        let error = structure.reference_forces(&keys).unwrap_err();
        assert_eq!(error.to_string(), "`forces` should be three numbers per atom, but it is 1 rows of 1 values");
        structure.set_forces(&[[1.0, 2.0, 3.0]]);
        assert_eq!(structure.reference_forces(&keys).unwrap().unwrap().value, vec![[1.0, 2.0, 3.0]]);
    }
}
