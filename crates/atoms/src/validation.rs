//! What a structure must satisfy before anything can be computed from it.

use crate::elements::MAX_ATOMIC_NUMBER;
use crate::neighbors::{NeighborError, neighbor_list};
use crate::structure::Structure;

/// Two atoms closer than this (Å) are on the same spot.
pub const SAME_SPOT: f64 = 1e-3;

/// Coordinates and lattice vectors beyond this (Å; one metre) are refused: their differences would have no digits left.
pub const LARGEST_COORDINATE: f64 = 1e10;

/// Why a structure cannot be evaluated. Atoms are counted from 0.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum StructureError {
    /// `numbers`, `positions` and the arrays do not have the same number of atoms.
    #[error("{what} has {found} rows for {expected} atoms")]
    CountMismatch {
        /// "positions" or the name of an array.
        what: String,
        /// Number of atoms.
        expected: usize,
        /// Rows found.
        found: usize,
    },
    /// An atomic number above 118.
    #[error("atom {atom} has the atomic number {number}, which is no element")]
    UnknownElement {
        /// The atom.
        atom: usize,
        /// Its number.
        number: u8,
    },
    /// A NaN or infinite coordinate.
    #[error("atom {atom} has the position {position:?} Å, which is not finite")]
    NotFinitePosition {
        /// The atom.
        atom: usize,
        /// Its position, Å.
        position: [f64; 3],
    },
    /// A NaN or infinite lattice vector.
    #[error("lattice vector {vector} is {value:?} Å, which is not finite")]
    NotFiniteCell {
        /// 0, 1 or 2.
        vector: usize,
        /// The vector, Å.
        value: [f64; 3],
    },
    /// A coordinate of more than [`LARGEST_COORDINATE`].
    #[error("{what} is {value:?} Å, too far out for positions to have any precision")]
    TooLarge {
        /// The atom or the lattice vector.
        what: String,
        /// The vector, Å.
        value: [f64; 3],
    },
    /// The vectors along the periodic directions span no volume (or area, or length).
    #[error("the structure is periodic along {directions}, but those lattice vectors span no {span}")]
    NoVolume {
        /// "a", "a and b", ….
        directions: String,
        /// "length", "area" or "volume".
        span: &'static str,
    },
    /// Two atoms on the same spot, perhaps through a periodic image.
    #[error("atoms {first} and {second} are on the same spot ({distance:.1e} Å apart{})", if *periodic { " through a periodic image" } else { "" })]
    SameSpot {
        /// The lower index.
        first: usize,
        /// The higher index, or the same one if an atom meets its own image.
        second: usize,
        /// Their distance, Å.
        distance: f64,
        /// True if they meet through a lattice translation.
        periodic: bool,
    },
    /// Distances cannot be computed: too many atoms, or positions too far apart for the precision of a number.
    #[error("distances between the atoms cannot be computed: {cause}")]
    Unresolvable {
        /// What the neighbour search says.
        #[source]
        cause: NeighborError,
    },
}

impl StructureError {
    /// A next step for the person who reads the error.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::CountMismatch { .. } => "give every array one row per atom",
            Self::UnknownElement { .. } => "atomic numbers run from 1 to 118",
            Self::NotFinitePosition { .. } | Self::NotFiniteCell { .. } => {
                "the calculation that wrote this frame probably diverged; remove the frame"
            }
            Self::TooLarge { .. } => "coordinates are in Å: check the units, or remove atoms that flew away",
            Self::NoVolume { .. } => "give a lattice vector for every periodic direction, or set pbc to F where there is none",
            Self::Unresolvable { .. } => "check the units of the cell and the positions: both are in Å",
            Self::SameSpot { .. } => "remove the duplicate atom (often a periodic copy written twice)",
        }
    }
}

impl Structure {
    /// Checks that the structure can be evaluated: consistent counts, elements up to 118, finite numbers, a volume along
    /// the periodic directions, no two atoms on the same spot (periodic images included).
    ///
    /// Zero vectors along non-periodic directions, left-handed and skewed cells and atoms outside the cell are fine. The
    /// placeholder element 0 passes: whether a potential knows an element is the potential's to say. Linear in the atoms.
    ///
    /// # Errors
    /// [`StructureError`]: the first thing found wrong.
    pub fn validate(&self) -> Result<(), StructureError> {
        self.validate_numbers()?;
        self.check_distances()
    }

    /// [`Self::validate`] without the distances, for those who list neighbours anyway and call it where two are within [`SAME_SPOT`].
    ///
    /// # Errors
    /// [`StructureError`]: the first thing found wrong.
    pub fn validate_numbers(&self) -> Result<(), StructureError> {
        self.check_counts()?;
        self.check_finite()
    }

    fn check_counts(&self) -> Result<(), StructureError> {
        let expected = self.numbers.len();
        let arrays = self.arrays.iter().map(|(name, array)| (name.as_str(), array.atoms()));
        for (what, found) in std::iter::once(("positions", self.positions.len())).chain(arrays) {
            if found != expected {
                return Err(StructureError::CountMismatch { what: what.to_owned(), expected, found });
            }
        }
        match self.numbers.iter().position(|&z| z > MAX_ATOMIC_NUMBER) {
            Some(atom) => Err(StructureError::UnknownElement { atom, number: self.numbers[atom] }),
            None => Ok(()),
        }
    }

    fn check_finite(&self) -> Result<(), StructureError> {
        let too_large = |v: &[f64; 3]| v.iter().any(|x| x.abs() > LARGEST_COORDINATE);
        for (vector, &value) in self.cell.vectors.iter().enumerate() {
            if !value.iter().all(|x| x.is_finite()) {
                return Err(StructureError::NotFiniteCell { vector, value });
            }
            if too_large(&value) {
                return Err(StructureError::TooLarge { what: format!("lattice vector {vector}"), value });
            }
        }
        for (atom, &position) in self.positions.iter().enumerate() {
            if !position.iter().all(|x| x.is_finite()) {
                return Err(StructureError::NotFinitePosition { atom, position });
            }
            if too_large(&position) {
                return Err(StructureError::TooLarge { what: format!("the position of atom {atom}"), value: position });
            }
        }
        Ok(())
    }

    /// A neighbour list with the tiny cutoff [`SAME_SPOT`] must have no edge.
    fn check_distances(&self) -> Result<(), StructureError> {
        match neighbor_list(&self.cell.vectors, self.pbc, &self.positions, SAME_SPOT) {
            Ok(list) if list.is_empty() => Ok(()),
            Ok(list) => {
                let distance = list.vectors[0].iter().map(|x| x * x).sum::<f64>().sqrt();
                Err(same_spot(list.centers[0] as usize, list.neighbors[0] as usize, list.shifts[0], distance))
            }
            Err(NeighborError::CoincidentAtoms { i, j, shift, distance }) => Err(same_spot(i, j, shift, distance)),
            Err(NeighborError::NoVolume { .. }) => {
                let periodic: Vec<&str> = (0..3).filter(|&i| self.pbc[i]).map(|i| ["a", "b", "c"][i]).collect();
                let span = ["length", "length", "area", "volume"][periodic.len()];
                Err(StructureError::NoVolume { directions: periodic.join(" and "), span })
            }
            Err(cause) => Err(StructureError::Unresolvable { cause }),
        }
    }
}

fn same_spot(i: usize, j: usize, shift: [i32; 3], distance: f64) -> StructureError {
    let periodic = shift != [0; 3];
    StructureError::SameSpot { first: i.min(j), second: i.max(j), distance, periodic }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Array, Cell};

    fn pair(cell: Cell, pbc: [bool; 3], second: [f64; 3]) -> Result<(), StructureError> {
        let mut structure = Structure::crystal(cell, vec![1, 1], vec![[0.0; 3], second]);
        structure.pbc = pbc;
        structure.validate()
    }

    #[test]
    fn unusual_but_valid() {
        let lone = |cell, pbc| Structure { pbc, ..Structure::crystal(cell, vec![1], vec![[0.0; 3]]) }.validate();
        assert_eq!(lone(Cell::cubic(2.0), [true; 3]), Ok(()));
        assert_eq!(lone(Cell::ZERO, [false; 3]), Ok(()));
        assert_eq!(lone(Cell::new([[2.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0; 3]]), [true, true, false]), Ok(()));
        assert_eq!(lone(Cell::new([[0.0; 3], [0.0; 3], [0.0, 0.0, 2.0]]), [false, false, true]), Ok(()));
        // Left-handed; very skewed.
        assert_eq!(lone(Cell::new([[0.0, 2.0, 0.0], [2.0, 0.0, 0.0], [0.0, 0.0, 2.0]]), [true; 3]), Ok(()));
        assert_eq!(lone(Cell::new([[2.0, 0.0, 0.0], [200.0, 2.0, 0.0], [0.0, 300.0, 2.0]]), [true; 3]), Ok(()));
        assert_eq!(Structure::default().validate(), Ok(()));
        // Far outside the cell.
        assert_eq!(pair(Cell::cubic(2.0), [true; 3], [1e6 + 1.0, 0.0, 0.0]), Ok(()));
    }

    #[test]
    fn numbers_that_are_not_finite() {
        let mut structure = Structure::molecule(vec![1, 8], vec![[0.0; 3], [0.0, f64::NAN, 1.0]]);
        let error = structure.validate().unwrap_err();
        assert!(matches!(error, StructureError::NotFinitePosition { atom: 1, .. }), "{error}");
        structure.positions[1] = [f64::NEG_INFINITY, 0.0, 0.0];
        assert!(matches!(structure.validate(), Err(StructureError::NotFinitePosition { atom: 1, .. })));
        structure.positions[1] = [1e11, 0.0, 0.0];
        assert!(matches!(structure.validate(), Err(StructureError::TooLarge { .. })));
        structure.positions[1] = [1.0, 0.0, 0.0];
        structure.cell.vectors[2][1] = f64::NAN;
        assert!(matches!(structure.validate(), Err(StructureError::NotFiniteCell { vector: 2, .. })));
    }

    #[test]
    fn periodic_without_volume() {
        let far = [0.5, 0.5, 0.5];
        let error = pair(Cell::ZERO, [true; 3], far).unwrap_err();
        let text = "the structure is periodic along a and b and c, but those lattice vectors span no volume";
        assert_eq!(error.to_string(), text);
        let flat = Cell::new([[3.0, 0.0, 0.0], [0.0, 3.0, 0.0], [3.0, 3.0, 0.0]]);
        assert!(matches!(pair(flat, [true; 3], far), Err(StructureError::NoVolume { span: "volume", .. })));
        assert_eq!(pair(flat, [true, true, false], far), Ok(()));
        assert!(matches!(pair(Cell::ZERO, [false, true, false], far), Err(StructureError::NoVolume { span: "length", .. })));
        let parallel = Cell::new([[3.0, 0.0, 0.0], [0.0; 3], [6.0, 0.0, 0.0]]);
        assert!(matches!(pair(parallel, [true, false, true], far), Err(StructureError::NoVolume { span: "area", .. })));
        // The atom meets its own image.
        assert!(matches!(pair(Cell::cubic(8e-4), [true; 3], far), Err(StructureError::SameSpot { .. })));
    }

    #[test]
    fn same_spot() {
        let cube = Cell::cubic(4.0);
        let same = |pbc, second| matches!(pair(cube, pbc, second), Err(StructureError::SameSpot { first: 0, second: 1, .. }));
        assert!(same([false; 3], [0.0, 1e-4, 0.0]));
        assert!(!same([false; 3], [4.0, 0.0, 0.0]));
        assert!(same([true; 3], [4.0, 8.0, -4.0]));
        assert!(same([true; 3], [3.9999, 0.0, 0.0]));
        assert!(same([true; 3], [-1e-4, 4.0001, 0.0]));
        assert!(same([true, false, false], [4.0, 0.0, 0.0]));
        assert!(!same([true, false, false], [0.0, 4.0, 0.0]));
        assert!(!same([true; 3], [3.9, 0.0, 0.0]));
        let error = pair(cube, [true; 3], [4.0, 0.0, 0.0]).unwrap_err();
        assert_eq!(error.to_string(), "atoms 0 and 1 are on the same spot (0.0e0 Å apart through a periodic image)");
    }

    #[test]
    fn same_spot_agrees_with_brute_force() {
        // A deterministic scatter of pairs, half of them moved onto an image of the first atom with a small error.
        let mut state = 1u64;
        let mut random = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 11) as f64 / (1u64 << 53) as f64
        };
        let cell = Cell::new([[3.0, 0.2, 0.0], [2.5, 2.0, 0.1], [-1.0, 0.3, 1.5]]);
        let mut coincident = 0;
        for trial in 0..400 {
            let first = [random() * 9.0 - 4.5, random() * 9.0 - 4.5, random() * 9.0 - 4.5];
            let shift = cell.cartesian([random(), random(), random()].map(|x| (x * 7.0 - 3.5).round()));
            let error = if trial % 2 == 0 { 0.6 * SAME_SPOT } else { 1.6 * SAME_SPOT };
            let second = [0, 1, 2].map(|k| first[k] + shift[k] + error * (2.0 * random() - 1.0));
            let mut nearest = f64::INFINITY;
            for n in 0..9 * 9 * 9 {
                let image = cell.cartesian([n % 9 - 4, n / 9 % 9 - 4, n / 81 - 4].map(f64::from));
                let d = [0, 1, 2].map(|k| second[k] - first[k] - image[k]);
                nearest = nearest.min(d.iter().map(|x| x * x).sum::<f64>().sqrt());
            }
            let expected = nearest < SAME_SPOT;
            coincident += usize::from(expected);
            let found = Structure::crystal(cell, vec![1, 1], vec![first, second]).validate();
            assert_eq!(found.is_err(), expected, "{first:?} {second:?} {nearest}");
        }
        assert!((150..390).contains(&coincident), "{coincident}");
    }

    #[test]
    fn counts_and_elements() {
        let mut structure = Structure::molecule(vec![1, 8], vec![[0.0; 3]]);
        let error = structure.validate().unwrap_err();
        assert_eq!(error.to_string(), "positions has 1 rows for 2 atoms");
        structure.positions.push([1.0, 0.0, 0.0]);
        structure.arrays.insert("forces".into(), Array::vectors(&[[0.0; 3]]));
        assert_eq!(structure.validate().unwrap_err().to_string(), "forces has 1 rows for 2 atoms");
        structure.arrays.clear();
        structure.numbers = vec![0, 119];
        assert!(matches!(structure.validate(), Err(StructureError::UnknownElement { atom: 1, number: 119 })));
        structure.numbers[1] = 118;
        assert_eq!(structure.validate(), Ok(()));
    }

    #[test]
    fn a_hundred_thousand_atoms_are_quick() {
        let side = 47;
        let positions: Vec<[f64; 3]> =
            (0..side * side * side).map(|n| [n % side, n / side % side, n / side / side].map(|k| 1.5 * f64::from(k))).collect();
        let cell = Cell::cubic(1.5 * f64::from(side));
        let start = std::time::Instant::now();
        let mut structure = Structure::crystal(cell, vec![14; positions.len()], positions);
        assert_eq!(structure.validate(), Ok(()));
        // Quadratic cost would take minutes.
        assert!(start.elapsed().as_secs() < 20);
        let last = structure.len() - 1;
        structure.positions[last] = structure.positions[0];
        assert!(matches!(structure.validate(), Err(StructureError::SameSpot { first: 0, .. })));
    }
}
