//! Which atoms to displace, and where.

use tesseral_atoms::Structure;

use super::crystal::Crystal;
use super::supercell::Supercell;
use crate::error::SimulateError;
use crate::matrix;

/// One atom of a supercell, displaced.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Displacement {
    /// The atom of the supercell.
    pub atom: usize,
    /// Where to, Å, Cartesian.
    pub vector: [f64; 3],
}

impl Displacement {
    /// The supercell with the atom displaced.
    pub fn structure(&self, supercell: &Supercell) -> Structure {
        let mut structure = supercell.structure.clone();
        structure.positions[self.atom] = matrix::add(structure.positions[self.atom], self.vector);
        structure
    }
}

/// Directions that are tried, in units of the lattice vectors of the supercell: edges, diagonals of faces, diagonals of the cell.
const DIRECTIONS: [[f64; 3]; 13] = [
    [1.0, 0.0, 0.0],
    [0.0, 1.0, 0.0],
    [0.0, 0.0, 1.0],
    [1.0, 1.0, 0.0],
    [1.0, 0.0, 1.0],
    [0.0, 1.0, 1.0],
    [1.0, -1.0, 0.0],
    [1.0, 0.0, -1.0],
    [0.0, 1.0, -1.0],
    [1.0, 1.0, 1.0],
    [1.0, 1.0, -1.0],
    [1.0, -1.0, 1.0],
    [-1.0, 1.0, 1.0],
];

/// As few displacements of a length (Å) as determine all force constants together with the symmetry of the supercell (Parlinski, Li & Kawazoe, Phys. Rev. Lett. 78, 4063
/// (1997); Togo & Tanaka, Scr. Mater. 108, 1 (2015)).
///
/// One atom of each orbit is displaced along as few directions as span space together with their images under the atom's site symmetry, and against each of them unless an
/// operation of the site takes it there: the difference has no third-order term.
///
/// # Errors
/// If the length is no positive number.
pub fn displacements(crystal: &Crystal, supercell: &Supercell, length: f64) -> Result<Vec<Displacement>, SimulateError> {
    if !(length > 0.0 && length < 1.0) {
        return Err(SimulateError::input(format!("a displacement of {length} Å"), "0.01 Å is usual; it has to be small and positive"));
    }
    let directions = DIRECTIONS.map(|d| {
        let v = supercell.structure.cell.cartesian(d);
        let n = matrix::norm(v);
        v.map(|x| x / n)
    });
    let mut all = Vec::new();
    for unit_atom in representatives(crystal, supercell) {
        let site: Vec<_> =
            crystal.operations.iter().filter(|o| o.images[unit_atom].0 == unit_atom && supercell.admits(o)).map(|o| o.cartesian).collect();
        let atom = supercell.find(unit_atom, [0; 3]);
        for d in fewest(&directions, &site) {
            let back = site.iter().any(|r| matrix::norm(matrix::add(matrix::apply(r, d), d)) < 1e-4);
            for sign in if back { &[1.0][..] } else { &[1.0, -1.0][..] } {
                all.push(Displacement { atom, vector: d.map(|x| sign * x * length) });
            }
        }
    }
    Ok(all)
}

/// Atoms of the unit cell, one for each orbit under the operations that the supercell admits.
pub(crate) fn representatives(crystal: &Crystal, supercell: &Supercell) -> Vec<usize> {
    let mut first: Vec<usize> = (0..crystal.unit.len()).collect();
    for o in crystal.operations.iter().filter(|o| supercell.admits(o)) {
        for (from, (to, _)) in o.images.iter().enumerate() {
            first[*to] = first[*to].min(from);
        }
    }
    (0..first.len()).filter(|&a| first[a] == a).collect()
}

/// The first single direction, pair or triple that spans space with its images; the volume they span has to be a fair one, so that nothing is determined badly.
fn fewest(directions: &[[f64; 3]], site: &[matrix::Matrix]) -> Vec<[f64; 3]> {
    const FAIR: f64 = 0.05;
    let determines = |chosen: &[[f64; 3]]| {
        // det Σ v vᵀ / |images|, at most 1/27.
        let mut sum = [[0.0; 3]; 3];
        for d in chosen {
            for r in site {
                let v = matrix::apply(r, *d);
                for i in 0..3 {
                    for j in 0..3 {
                        sum[i][j] += v[i] * v[j] / (chosen.len() * site.len()) as f64;
                    }
                }
            }
        }
        27.0 * matrix::determinant(&sum) > FAIR * FAIR
    };
    for a in directions {
        if determines(&[*a]) {
            return vec![*a];
        }
    }
    for (i, a) in directions.iter().enumerate() {
        for b in &directions[i + 1..] {
            if determines(&[*a, *b]) {
                return vec![*a, *b];
            }
        }
    }
    // The edges of the supercell always span it.
    directions[..3].to_vec()
}
