//! A configuration of atoms and everything that came with it.

use indexmap::IndexMap;

use crate::cell::Cell;
use crate::elements;
use crate::info::{Array, InfoValue};

/// Atoms in a cell, with the metadata of the frame they came from.
///
/// Positions are Cartesian, in Å, and may lie anywhere: they are never wrapped into the cell. `info` and `arrays` keep the
/// order in which they were read or inserted.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Structure {
    /// Lattice vectors as rows, Å; all zero for a molecule.
    pub cell: Cell,
    /// Whether the structure repeats along each lattice vector.
    pub pbc: [bool; 3],
    /// Atomic numbers; 0 is the placeholder "X" that no potential knows.
    pub numbers: Vec<u8>,
    /// Cartesian positions, Å; as many as `numbers`.
    pub positions: Vec<[f64; 3]>,
    /// Metadata of the frame: labels, names, settings.
    pub info: IndexMap<String, InfoValue>,
    /// Per-atom columns besides species and positions; each has as many rows as there are atoms.
    pub arrays: IndexMap<String, Array>,
}

impl Structure {
    /// A molecule: no cell, no periodic direction. Positions in Å.
    pub fn molecule(numbers: Vec<u8>, positions: Vec<[f64; 3]>) -> Self {
        Self { numbers, positions, ..Self::default() }
    }

    /// A crystal, periodic along all three vectors of `cell`. Cartesian positions in Å.
    pub fn crystal(cell: Cell, numbers: Vec<u8>, positions: Vec<[f64; 3]>) -> Self {
        Self { cell, pbc: [true; 3], numbers, positions, ..Self::default() }
    }

    /// Number of atoms.
    pub fn len(&self) -> usize {
        self.numbers.len()
    }

    /// True if there are no atoms.
    pub fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    /// True if the structure repeats in at least one direction.
    pub fn is_periodic(&self) -> bool {
        self.pbc.contains(&true)
    }

    /// Chemical formula in Hill order (C, H, then alphabetical; alphabetical without C): "C2H6O", "Al2O3".
    pub fn formula(&self) -> String {
        let mut counts = [0usize; 256];
        for &z in &self.numbers {
            counts[usize::from(z)] += 1;
        }
        let mut present: Vec<(&str, usize)> = (0..=u8::MAX)
            .filter(|&z| counts[usize::from(z)] > 0)
            .map(|z| (elements::symbol(z).unwrap_or("?"), counts[usize::from(z)]))
            .collect();
        let has_carbon = counts[6] > 0;
        present.sort_by_key(|&(symbol, _)| {
            let rank = match symbol {
                "C" if has_carbon => 0,
                "H" if has_carbon => 1,
                _ => 2,
            };
            (rank, symbol)
        });
        present.iter().map(|&(s, n)| if n == 1 { s.to_owned() } else { format!("{s}{n}") }).collect()
    }

    /// The total charge in units of |e| and the key it was found under (`total_charge`, then `charge`).
    pub fn total_charge(&self) -> Option<(&'static str, f64)> {
        self.first_number(&["total_charge", "charge"])
    }

    /// The total spin and the key it was found under (`total_spin`, then `spin`), in the convention of the file.
    pub fn total_spin(&self) -> Option<(&'static str, f64)> {
        self.first_number(&["total_spin", "spin"])
    }

    fn first_number(&self, keys: &[&'static str]) -> Option<(&'static str, f64)> {
        keys.iter().find_map(|&key| Some((key, self.info.get(key)?.as_f64()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formulas_follow_hill() {
        let formula = |numbers: &[u8]| Structure::molecule(numbers.to_vec(), vec![[0.0; 3]; numbers.len()]).formula();
        assert_eq!(formula(&[8, 1, 1, 6, 1, 1, 6, 1, 1]), "C2H6O");
        assert_eq!(formula(&[8, 1, 1]), "H2O");
        assert_eq!(formula(&[8, 13, 8, 13, 8]), "Al2O3");
        assert_eq!(formula(&[]), "");
    }

    #[test]
    fn charge_and_spin_say_their_key() {
        let mut structure = Structure::molecule(vec![1], vec![[0.0; 3]]);
        assert_eq!(structure.total_charge(), None);
        structure.info.insert("charge".into(), 1i64.into());
        assert_eq!(structure.total_charge(), Some(("charge", 1.0)));
        structure.info.insert("total_charge".into(), InfoValue::Real(-2.0));
        assert_eq!(structure.total_charge(), Some(("total_charge", -2.0)));
        structure.info.insert("spin".into(), "high".into());
        assert_eq!(structure.total_spin(), None);
    }
}
