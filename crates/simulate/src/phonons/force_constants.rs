//! Force constants from the forces of displaced supercells.

use super::crystal::{Crystal, Operation};
use super::displacements::Displacement;
use super::supercell::Supercell;
use crate::error::SimulateError;
use crate::matrix::{self, Matrix};

/// Second derivatives of the energy by the positions of atoms of a supercell, Φ_αβ(i, j) = ∂²E/∂r_iα ∂r_jβ, eV/Å².
///
/// They are kept for one atom i of each translation class, as many as the primitive cell has; those of the others follow by translation.
#[derive(Debug, Clone, PartialEq)]
pub struct ForceConstants {
    /// The atoms i: one of the supercell for each atom of the primitive cell.
    pub atoms: Vec<usize>,
    /// `values[p][j][α][β]` = `Φ_αβ(atoms[p], j)`.
    pub values: Vec<Vec<Matrix>>,
}

/// How well force constants keep the rules that they have to keep, before anything is mended.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Drift {
    /// Largest |Σ_j Φ_αβ(i, j)|, eV/Å²: zero where moving all atoms together changes no force.
    pub sum_rule: f64,
    /// Largest |Φ_αβ(i, j) − Φ_βα(j, i)|, eV/Å².
    pub permutation: f64,
}

impl ForceConstants {
    /// Fits force constants to forces on all atoms of the supercell (eV/Å), one set for each displacement, which may be any that determine them together with symmetry.
    ///
    /// For an atom i displaced by u the forces are F_j = −uᵀ Φ(i, j). An operation {R|t} that takes i to the atom a gives another such equation, −(R u)ᵀ Φ(a, R j) = R F_j.
    /// All equations of one orbit are solved for Φ(a, ·) by least squares, with the same 3 × 3 normal matrix for every j; Φ(b, R j) = R Φ(a, j) Rᵀ gives those of the other
    /// atoms (Parlinski, Li & Kawazoe, Phys. Rev. Lett. 78, 4063 (1997); Togo, Chaput, Tadano & Tanaka, J. Phys. Condens. Matter 35, 353001 (2023)).
    ///
    /// # Errors
    /// If sets of forces are missing or have the wrong number of atoms, or the displacements do not determine everything.
    pub fn fit(
        crystal: &Crystal,
        supercell: &Supercell,
        displacements: &[Displacement],
        forces: &[Vec<[f64; 3]>],
    ) -> Result<Self, SimulateError> {
        check(supercell, displacements, forces)?;
        let operations: Vec<&Operation> = crystal.operations.iter().filter(|o| supercell.admits(o)).collect();
        let atoms: Vec<usize> = crystal.atoms.iter().map(|&a| supercell.find(a, [0; 3])).collect();
        let mut values: Vec<Option<Vec<Matrix>>> = vec![None; atoms.len()];
        for p in 0..atoms.len() {
            if values[p].is_some() {
                continue;
            }
            // p is the first of its orbit.
            let centre = atoms[p];
            let found = solve(supercell, &operations, centre, displacements, forces)?;
            for q in p..atoms.len() {
                let to = crystal.atoms[q];
                let Some(o) = operations.iter().find(|o| o.images[supercell.unit_atom[centre]].0 == to) else { continue };
                if values[q].is_some() {
                    continue;
                }
                let permutation = supercell.permutation(o, centre, atoms[q]);
                let mut rotated = vec![[[0.0; 3]; 3]; supercell.len()];
                for (j, &k) in permutation.iter().enumerate() {
                    rotated[k] = matrix::product(&matrix::product(&o.cartesian, &found[j]), &matrix::transpose(&o.cartesian));
                }
                values[q] = Some(rotated);
            }
        }
        let values = values.into_iter().map(|v| v.unwrap_or_default()).collect();
        Ok(Self { atoms, values })
    }

    /// How far the acoustic sum rule and the symmetry of second derivatives are broken.
    pub fn drift(&self, crystal: &Crystal, supercell: &Supercell) -> Drift {
        let mut drift = Drift::default();
        let partners = Partners::new(crystal, supercell, &self.atoms);
        for (p, row) in self.values.iter().enumerate() {
            let sum = total(row.iter());
            drift.sum_rule = sum.iter().flatten().fold(drift.sum_rule, |m, x| m.max(x.abs()));
            for j in 0..supercell.len() {
                let (q, k) = partners.of[p][j];
                let other = matrix::transpose(&self.values[q][k]);
                for a in 0..3 {
                    for b in 0..3 {
                        drift.permutation = drift.permutation.max((row[j][a][b] - other[a][b]).abs());
                    }
                }
            }
        }
        drift
    }

    /// Makes force constants obey the acoustic sum rule in both indices and the symmetry of second derivatives, Φ(i, j) = Φ(j, i)ᵀ, changing them as little as possible.
    ///
    /// With T = 1 − (1/N) Σ over all pairs of atoms, T Φ T obeys the sum rules, its symmetric part is symmetric and still obeys them, and both steps are orthogonal
    /// projections that commute: nothing is to be iterated. (It is the fixed point of the averaging in phonopy's `perm_trans_symmetrize_fc`.)
    pub fn symmetrise(&mut self, crystal: &Crystal, supercell: &Supercell) {
        let n = supercell.len() as f64;
        let classes = self.atoms.len();
        let class_of: Vec<usize> = supercell.unit_atom.iter().map(|&a| crystal.primitive_of[a]).collect();
        let rows: Vec<Matrix> = self.values.iter().map(|row| total(row.iter())).collect();
        let mut columns = vec![[[0.0; 3]; 3]; classes];
        for row in &self.values {
            for (j, phi) in row.iter().enumerate() {
                accumulate(&mut columns[class_of[j]], phi, 1.0);
            }
        }
        let mut mean = [[0.0; 3]; 3];
        rows.iter().for_each(|r| accumulate(&mut mean, r, 1.0 / (classes as f64 * n)));
        for p in 0..classes {
            for j in 0..class_of.len() {
                accumulate(&mut self.values[p][j], &rows[p], -1.0 / n);
                accumulate(&mut self.values[p][j], &columns[class_of[j]], -1.0 / n);
                accumulate(&mut self.values[p][j], &mean, 1.0);
            }
        }
        let partners = Partners::new(crystal, supercell, &self.atoms);
        let before = self.values.clone();
        for p in 0..classes {
            for j in 0..class_of.len() {
                let (q, k) = partners.of[p][j];
                let other = matrix::transpose(&before[q][k]);
                self.values[p][j] = [0, 1, 2].map(|a| [0, 1, 2].map(|b| 0.5 * (before[p][j][a][b] + other[a][b])));
            }
        }
        // What rounding has left goes into the atom's own term.
        for p in 0..classes {
            let rest = total(self.values[p].iter());
            let own = &mut self.values[p][self.atoms[p]];
            let symmetric = [0, 1, 2].map(|a| [0, 1, 2].map(|b| 0.5 * (rest[a][b] + rest[b][a])));
            accumulate(own, &symmetric, -1.0);
        }
    }
}

/// For each pair (p, j) the pair that is its transpose: (j, p) translated so that j is one of the atoms of the table.
struct Partners {
    of: Vec<Vec<(usize, usize)>>,
}

impl Partners {
    fn new(crystal: &Crystal, supercell: &Supercell, atoms: &[usize]) -> Self {
        // A translation that takes each atom of the unit cell to the one of its class.
        let translations: Vec<&Operation> = (0..crystal.unit.len())
            .map(|a| {
                let identity = |o: &&Operation| o.rotation == [[1, 0, 0], [0, 1, 0], [0, 0, 1]];
                crystal
                    .operations
                    .iter()
                    .filter(identity)
                    .find(|o| o.images[a].0 == crystal.atoms[crystal.primitive_of[a]])
                    .unwrap_or(&crystal.operations[0])
            })
            .collect();
        let of = atoms
            .iter()
            .map(|&centre| {
                (0..supercell.len())
                    .map(|j| {
                        let unit_atom = supercell.unit_atom[j];
                        let (q, t) = (crystal.primitive_of[unit_atom], translations[unit_atom]);
                        // Where the centre goes when j goes to atoms[q].
                        let (_, wj) = t.images[unit_atom];
                        let (other, wc) = t.images[supercell.unit_atom[centre]];
                        let (nj, nc, to) = (supercell.shift[j], supercell.shift[centre], supercell.shift[atoms[q]]);
                        let cell = [0, 1, 2].map(|k| nc[k] + wc[k] - (nj[k] + wj[k]) + to[k]);
                        (q, supercell.find(other, cell))
                    })
                    .collect()
            })
            .collect();
        Self { of }
    }
}

fn total<'a>(matrices: impl Iterator<Item = &'a Matrix>) -> Matrix {
    let mut sum = [[0.0; 3]; 3];
    matrices.for_each(|m| accumulate(&mut sum, m, 1.0));
    sum
}

fn accumulate(to: &mut Matrix, m: &Matrix, factor: f64) {
    for a in 0..3 {
        for b in 0..3 {
            to[a][b] += factor * m[a][b];
        }
    }
}

fn check(supercell: &Supercell, displacements: &[Displacement], forces: &[Vec<[f64; 3]>]) -> Result<(), SimulateError> {
    if displacements.len() != forces.len() || displacements.is_empty() {
        return Err(SimulateError::input(
            format!("{} displacements, but forces of {}", displacements.len(), forces.len()),
            "one set of forces belongs to each displacement",
        ));
    }
    for (k, (d, f)) in displacements.iter().zip(forces).enumerate() {
        if f.len() != supercell.len() || d.atom >= supercell.len() {
            return Err(SimulateError::input(
                format!(
                    "displacement {k} is of atom {} and has forces on {} atoms, but the supercell has {}",
                    d.atom,
                    f.len(),
                    supercell.len()
                ),
                "check --supercell: atoms have to be in phonopy's order",
            ));
        }
        if let Some(atom) = f.iter().position(|f| f.iter().any(|x| !x.is_finite())) {
            return Err(SimulateError::input(
                format!("the force on atom {atom} at displacement {k} is {:?}", f[atom]),
                "evaluate it again",
            ));
        }
        if !d.vector.iter().all(|x| x.is_finite()) || matrix::norm(d.vector) < 1e-8 {
            return Err(SimulateError::input(format!("displacement {k} is {:?} Å", d.vector), "0.01 Å is usual"));
        }
    }
    Ok(())
}

/// Force constants of one atom, by least squares over all images of the displacements of its orbit.
fn solve(
    supercell: &Supercell,
    operations: &[&Operation],
    centre: usize,
    displacements: &[Displacement],
    forces: &[Vec<[f64; 3]>],
) -> Result<Vec<Matrix>, SimulateError> {
    let mut normal = [[0.0; 3]; 3];
    let mut right = vec![[[0.0; 3]; 3]; supercell.len()];
    for (d, f) in displacements.iter().zip(forces) {
        let onto = supercell.unit_atom[centre];
        for o in operations.iter().filter(|o| o.images[supercell.unit_atom[d.atom]].0 == onto) {
            let u = matrix::apply(&o.cartesian, d.vector);
            for a in 0..3 {
                for b in 0..3 {
                    normal[a][b] += u[a] * u[b];
                }
            }
            for (j, k) in supercell.permutation(o, d.atom, centre).into_iter().enumerate() {
                let force = matrix::apply(&o.cartesian, f[j]);
                for a in 0..3 {
                    for b in 0..3 {
                        right[k][a][b] -= u[a] * force[b];
                    }
                }
            }
        }
    }
    let size = (normal[0][0] + normal[1][1] + normal[2][2]) / 3.0;
    if size == 0.0 || matrix::determinant(&normal) < 1e-6 * size.powi(3) {
        return Err(SimulateError::input(
            format!("the displacements do not determine the force constants of atom {centre} of the supercell"),
            "displace one atom of every orbit along as many directions as its site symmetry leaves independent",
        ));
    }
    let inverse = matrix::inverse(&normal);
    Ok(right.iter().map(|r| matrix::product(&inverse, r)).collect())
}
