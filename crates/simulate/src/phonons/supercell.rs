//! Supercells: their atoms, and where operations of the space group take them.

use std::collections::HashMap;

use tesseral_atoms::{Cell, Structure};

use super::crystal::{Crystal, Operation};
use crate::error::SimulateError;
use crate::matrix::{self, Integers};

/// Most atoms that a supercell may have: force constants of more take too much memory to be meant.
const MOST_ATOMS: usize = 100_000;

/// A supercell of a crystal.
#[derive(Debug, Clone)]
pub struct Supercell {
    /// Its lattice vectors as rows, in units of those of the unit cell. (phonopy's matrix is the transpose.)
    pub matrix: [[i64; 3]; 3],
    /// The structure at rest. Atoms are in phonopy's order: all images of the first atom of the unit cell, then of the second, …; the first lattice vector runs fastest.
    pub structure: Structure,
    /// For each atom, which of the unit cell it is an image of.
    pub unit_atom: Vec<usize>,
    /// The cell that the image is in, in units of the lattice vectors of the unit cell.
    pub shift: Vec<[i64; 3]>,
    adjugate: Integers,
    determinant: i64,
    index: HashMap<(usize, [i64; 3]), usize>,
}

impl Supercell {
    /// The supercell whose vectors are the rows of a matrix, in units of the lattice vectors of the unit cell.
    ///
    /// # Errors
    /// If the matrix has no positive determinant, or there would be too many atoms.
    pub fn new(crystal: &Crystal, rows: [[i64; 3]; 3]) -> Result<Self, SimulateError> {
        let bounded = rows.iter().flatten().all(|x| x.abs() <= 1000);
        let determinant = if bounded { matrix::determinant_of_integers(&rows) } else { i64::MAX };
        if determinant < 1 {
            return Err(SimulateError::input(
                format!("the supercell {rows:?} has the determinant {determinant}"),
                "three linearly independent vectors that form a right-handed system are needed, such as 3 3 3",
            ));
        }
        let atoms = usize::try_from(determinant).unwrap_or(usize::MAX).saturating_mul(crystal.unit.len());
        if atoms > MOST_ATOMS {
            return Err(SimulateError::input(format!("the supercell would have {atoms} atoms"), format!("at most {MOST_ATOMS} are taken")));
        }
        let adjugate = matrix::adjugate(&rows);
        // Cells in a box around the supercell, the first of those that coincide.
        let mut corners = vec![[0i64; 3]];
        for v in rows {
            let more: Vec<[i64; 3]> = corners.iter().map(|c| [c[0] + v[0], c[1] + v[1], c[2] + v[2]]).collect();
            corners.extend(more);
        }
        let extent = [0, 1, 2].map(|k| {
            let along = corners.iter().map(|c| c[k]);
            along.clone().max().unwrap_or(0) - along.min().unwrap_or(0)
        });
        let mut seen = HashMap::new();
        let mut cells = Vec::new();
        for c in 0..extent[2] {
            for b in 0..extent[1] {
                for a in 0..extent[0] {
                    let key = residue([a, b, c], &adjugate, determinant);
                    seen.entry(key).or_insert_with(|| cells.push([a, b, c]));
                }
            }
        }
        debug_assert_eq!(cells.len() as i64, determinant);
        let unit = &crystal.unit;
        let mut supercell = Self {
            matrix: rows,
            structure: Structure::crystal(
                Cell::new(matrix::product(&matrix::to_floats(&rows), &unit.cell.vectors)),
                Vec::with_capacity(atoms),
                Vec::with_capacity(atoms),
            ),
            unit_atom: Vec::with_capacity(atoms),
            shift: Vec::with_capacity(atoms),
            adjugate,
            determinant,
            index: HashMap::with_capacity(atoms),
        };
        for atom in 0..unit.len() {
            for cell in &cells {
                let place = supercell.unit_atom.len();
                supercell.index.insert((atom, residue(*cell, &adjugate, determinant)), place);
                supercell.unit_atom.push(atom);
                supercell.shift.push(*cell);
                supercell.structure.numbers.push(unit.numbers[atom]);
                let offset = unit.cell.cartesian(cell.map(|x| x as f64));
                supercell.structure.positions.push(matrix::add(unit.positions[atom], offset));
            }
        }
        Ok(supercell)
    }

    /// The smallest multiples of the unit cell's vectors that make all heights at least `length` (Å), but with fewer cells where there would be more than `most_atoms`: then
    /// the longest directions are given up first.
    ///
    /// # Errors
    /// As [`Supercell::new`].
    pub fn of_length(crystal: &Crystal, length: f64, most_atoms: Option<usize>) -> Result<Self, SimulateError> {
        if !(length > 0.0 && length.is_finite()) {
            return Err(SimulateError::input(format!("a supercell of {length} Å"), "a positive length is needed, such as 12"));
        }
        let heights = crystal.unit.cell.heights();
        // A hair less counts as enough.
        let mut n = heights.map(|h| ((length / h - 1e-6).ceil() as i64).clamp(1, 1000));
        let fits = |n: &[i64; 3]| most_atoms.is_none_or(|most| n.iter().product::<i64>() as usize * crystal.unit.len() <= most);
        while !fits(&n) && n != [1; 3] {
            let longest = (0..3).filter(|&k| n[k] > 1).max_by(|&a, &b| (n[a] as f64 * heights[a]).total_cmp(&(n[b] as f64 * heights[b])));
            match longest {
                Some(k) => n[k] -= 1,
                None => break,
            }
        }
        Self::new(crystal, [[n[0], 0, 0], [0, n[1], 0], [0, 0, n[2]]])
    }

    /// Number of atoms.
    pub fn len(&self) -> usize {
        self.unit_atom.len()
    }

    /// Never.
    pub fn is_empty(&self) -> bool {
        self.unit_atom.is_empty()
    }

    /// The image of an atom of the unit cell in some cell.
    pub(crate) fn find(&self, unit_atom: usize, cell: [i64; 3]) -> usize {
        self.index[&(unit_atom, residue(cell, &self.adjugate, self.determinant))]
    }

    /// True if an operation takes the lattice of the supercell to itself.
    pub(crate) fn admits(&self, operation: &Operation) -> bool {
        self.matrix.iter().all(|v| {
            let image = operation.rotation.map(|row| row[0] * v[0] + row[1] * v[1] + row[2] * v[2]);
            residue(image, &self.adjugate, self.determinant) == [0; 3]
        })
    }

    /// Where an operation takes all atoms, if it is followed by the lattice translation that takes the atom `from` to `to` (which has to be an image of where it goes).
    pub(crate) fn permutation(&self, operation: &Operation, from: usize, to: usize) -> Vec<usize> {
        let image = |atom: usize| {
            let (other, w) = operation.images[self.unit_atom[atom]];
            let (n, r) = (self.shift[atom], operation.rotation);
            (other, [0, 1, 2].map(|k| r[k][0] * n[0] + r[k][1] * n[1] + r[k][2] * n[2] + w[k]))
        };
        let (_, arrived) = image(from);
        let by = [0, 1, 2].map(|k| self.shift[to][k] - arrived[k]);
        (0..self.len())
            .map(|atom| {
                let (other, cell) = image(atom);
                self.find(other, [0, 1, 2].map(|k| cell[k] + by[k]))
            })
            .collect()
    }
}

/// What is left of a cell when whole supercells are taken off.
fn residue(cell: [i64; 3], adjugate: &Integers, determinant: i64) -> [i64; 3] {
    [0, 1, 2].map(|k| (cell[0] * adjugate[0][k] + cell[1] * adjugate[1][k] + cell[2] * adjugate[2][k]).rem_euclid(determinant))
}
