//! What may move: atoms that are held, shapes that a cell may take, and the coordinates that a minimiser sees.

use nalgebra::{Matrix3, SymmetricEigen};
use serde::{Deserialize, Serialize};
use tesseral_atoms::{Cell, Evaluation, Structure};

use crate::error::SimulateError;

/// How the cell may change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum CellFreedom {
    /// Not at all.
    #[default]
    Fixed,
    /// Freely.
    Full,
    /// Its volume alone: the shape is kept.
    Isotropic,
    /// Its shape alone: the volume is kept.
    FixedVolume,
}

impl CellFreedom {
    /// Whether the cell moves at all.
    pub fn moves(self) -> bool {
        self != Self::Fixed
    }
}

/// Components of the strain, in Voigt order xx, yy, zz, yz, zx, xy, that may change.
pub type StrainMask = [bool; 6];

/// The component that is called so: xx, yy, zz, yz, zx, xy, or the two letters the other way round.
pub fn strain_component(name: &str) -> Option<usize> {
    Some(match name {
        "xx" => 0,
        "yy" => 1,
        "zz" => 2,
        "yz" | "zy" => 3,
        "zx" | "xz" => 4,
        "xy" | "yx" => 5,
        _ => return None,
    })
}

/// Voigt index of a component.
const VOIGT: [[usize; 3]; 3] = [[0, 5, 4], [5, 1, 3], [4, 3, 2]];

/// The part of a symmetric matrix (a strain, a stress) that the cell is free to follow: the orthogonal projection.
///
/// Components that the mask leaves out are zero; of the diagonal ones that are left, [`CellFreedom::Isotropic`] keeps the mean and [`CellFreedom::FixedVolume`] takes it away.
pub fn project(freedom: CellFreedom, mask: StrainMask, matrix: &mut [[f64; 3]; 3]) {
    for k in 0..3 {
        for l in 0..3 {
            if !mask[VOIGT[k][l]] || (freedom == CellFreedom::Isotropic && k != l) || freedom == CellFreedom::Fixed {
                matrix[k][l] = 0.0;
            }
        }
    }
    let diagonal: Vec<usize> = (0..3).filter(|&k| mask[k]).collect();
    if diagonal.is_empty() || !matches!(freedom, CellFreedom::Isotropic | CellFreedom::FixedVolume) {
        return;
    }
    let mean = diagonal.iter().map(|&k| matrix[k][k]).sum::<f64>() / diagonal.len() as f64;
    for &k in &diagonal {
        match freedom {
            CellFreedom::Isotropic => matrix[k][k] = mean,
            _ => matrix[k][k] -= mean,
        }
    }
    if freedom == CellFreedom::FixedVolume && diagonal.len() == 1 {
        matrix[diagonal[0]][diagonal[0]] = 0.0;
    }
}

/// The coordinates of a relaxation: one row for each atom, and three for the cell where it moves.
///
/// The cell is deformed by a symmetric stretch F = exp(U) of the one at the beginning: lattice vectors h = F h₀, atoms r = F x, with U symmetric, so that no rotation is among the
/// unknowns and det F = exp(tr U) is kept exactly where tr U is. Rows of atoms are x (Å), those of the cell are U times J = N^(1/2) (V₀/N)^(1/3) (Å), the Jacobian of Sheppard et al.,
/// J. Chem. Phys. 136, 074103 (2012), which gives strains the curvature of displacements. (The exponential is that of ASE's `FrechetCellFilter`.)
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Coordinates {
    reference: [[f64; 3]; 3],
    scale: f64,
    atoms: usize,
    freedom: CellFreedom,
    mask: StrainMask,
    /// Coordinates of an atom that may move; empty where all may.
    movable: Vec<[bool; 3]>,
}

impl Coordinates {
    /// The coordinates of a structure whose cell is the reference. `movable` has a row for each atom, or none where all may move.
    ///
    /// # Errors
    /// If the cell should move but the structure is not periodic in all directions, or the mask leaves nothing free.
    pub fn new(structure: &Structure, freedom: CellFreedom, mask: StrainMask, movable: Vec<[bool; 3]>) -> Result<Self, SimulateError> {
        let atoms = structure.len();
        if !movable.is_empty() && movable.len() != atoms {
            return Err(SimulateError::input(
                format!("{} rows say which of {atoms} atoms may move", movable.len()),
                "give one for each atom",
            ));
        }
        if freedom.moves() {
            if structure.pbc != [true; 3] {
                return Err(SimulateError::input(
                    "the cell of a structure that is not periodic in all three directions cannot be relaxed: it has no stress",
                    "relax the atoms alone, or make the structure periodic (a slab with vacuum around it, and a mask of strains)",
                ));
            }
            let mut any = [[1.0; 3], [1.0, 2.0, 1.0], [1.0, 1.0, 3.0]];
            project(freedom, mask, &mut any);
            if any.iter().flatten().all(|&x| x == 0.0) {
                return Err(SimulateError::input(
                    "the mask of strains leaves nothing of the cell that may change",
                    "leave more of xx yy zz yz zx xy free",
                ));
            }
        }
        let per_atom = structure.cell.volume() / atoms.max(1) as f64;
        let scale = (atoms as f64).sqrt() * per_atom.cbrt();
        Ok(Self { reference: structure.cell.vectors, scale, atoms, freedom, mask, movable })
    }

    /// Rows of the cell: 0 or 3.
    pub fn cell_rows(&self) -> usize {
        if self.freedom.moves() { 3 } else { 0 }
    }

    /// Atoms of which no coordinate may move.
    pub fn held(&self) -> Vec<bool> {
        (0..self.atoms).map(|i| self.movable.get(i).is_some_and(|m| *m == [false; 3])).collect()
    }

    /// The coordinates of the structure at the beginning.
    pub fn start(&self, structure: &Structure) -> Vec<[f64; 3]> {
        let mut x = structure.positions.clone();
        x.resize(self.atoms + self.cell_rows(), [0.0; 3]);
        x
    }

    /// U, from the rows of the cell.
    fn logarithm(&self, x: &[[f64; 3]]) -> Matrix3<f64> {
        Matrix3::from_fn(|k, l| 0.5 * (x[self.atoms + k][l] + x[self.atoms + l][k]) / self.scale)
    }

    /// Writes positions and cell of `structure`.
    pub fn place(&self, x: &[[f64; 3]], structure: &mut Structure) {
        if !self.freedom.moves() {
            structure.positions.copy_from_slice(x);
            return;
        }
        let stretch = exponential(&self.logarithm(x));
        structure.cell = Cell::new(self.reference.map(|v| product(&stretch, v)));
        for (r, x) in structure.positions.iter_mut().zip(x) {
            *r = product(&stretch, *x);
        }
    }

    /// The gradient of the enthalpy H = E + p V by the coordinates, row by row, and what is left of forces (eV/Å) and stress (eV/Å³): their components along what may move, the
    /// stress beyond that of the pressure.
    ///
    /// With σ the stress, dH = V (σ + p) : dF F⁻¹ − Σ f · F dx. The derivative of the exponential is that of Daleckii and Krein: with U = Q diag(λ) Qᵀ,
    /// dF = Q [G ∘ (Qᵀ dU Q)] Qᵀ, G_kl = (e^λk − e^λl)/(λk − λl) (Higham, Functions of Matrices (2008), theorem 3.11).
    pub fn gradient(&self, x: &[[f64; 3]], volume: f64, forces: &[[f64; 3]], stress: Option<[[f64; 3]; 3]>, pressure: f64) -> Gradient {
        let free = |i: usize| self.movable.get(i).copied().unwrap_or([true; 3]);
        let masked = |i: usize, v: [f64; 3]| {
            let free = free(i);
            [0, 1, 2].map(|k| if free[k] { v[k] } else { 0.0 })
        };
        if !self.freedom.moves() {
            let forces: Vec<[f64; 3]> = forces.iter().enumerate().map(|(i, f)| masked(i, *f)).collect();
            let rows = forces.iter().map(|f| f.map(|x| -x)).collect();
            return Gradient { rows, forces, stress: None };
        }
        let logarithm = self.logarithm(x);
        let stretch = exponential(&logarithm);
        let inverse = exponential(&-logarithm);
        let mut rows: Vec<[f64; 3]> = forces.iter().enumerate().map(|(i, f)| masked(i, product(&stretch, f.map(|x| -x)))).collect();
        let forces = rows.iter().map(|g| product(&inverse, g.map(|x| -x))).collect();
        let stress = stress.unwrap_or_default();
        let mut excess = [0, 1, 2].map(|k| [0, 1, 2].map(|l| 0.5 * (stress[k][l] + stress[l][k]) + if k == l { pressure } else { 0.0 }));
        let by_stretch = Matrix3::from_fn(|k, l| volume * excess[k][l]) * inverse;
        let SymmetricEigen { eigenvalues, eigenvectors: q } = SymmetricEigen::new(logarithm);
        let mut by_logarithm = q.transpose() * (0.5 * (by_stretch + by_stretch.transpose())) * q;
        for k in 0..3 {
            for l in 0..3 {
                by_logarithm[(k, l)] *= divided(eigenvalues[k], eigenvalues[l]);
            }
        }
        by_logarithm = q * by_logarithm * q.transpose();
        let mut cell = [0, 1, 2].map(|k| [0, 1, 2].map(|l| 0.5 * (by_logarithm[(k, l)] + by_logarithm[(l, k)]) / self.scale));
        project(self.freedom, self.mask, &mut cell);
        rows.extend(cell);
        project(self.freedom, self.mask, &mut excess);
        Gradient { rows, forces, stress: Some(excess) }
    }

    /// Keeps a step within what may move, against rounding.
    pub fn confine(&self, step: &mut [[f64; 3]]) {
        for (i, free) in self.movable.iter().enumerate() {
            for k in 0..3 {
                if !free[k] {
                    step[i][k] = 0.0;
                }
            }
        }
        if self.freedom.moves() {
            let n = self.atoms;
            let mut strain = [0, 1, 2].map(|k| [0, 1, 2].map(|l| 0.5 * (step[n + k][l] + step[n + l][k])));
            project(self.freedom, self.mask, &mut strain);
            step[n..].copy_from_slice(&strain);
        }
    }

    /// The cell at the beginning: symmetrised, perhaps.
    pub(crate) fn reference_cell(&self) -> Cell {
        Cell::new(self.reference)
    }

    /// Which coordinates of an atom may move.
    pub(crate) fn movable(&self) -> &[[bool; 3]] {
        &self.movable
    }

    /// Freedom and mask of the cell.
    pub(crate) fn cell(&self) -> (CellFreedom, StrainMask) {
        (self.freedom, self.mask)
    }
}

/// A gradient and what people judge it by.
#[derive(Debug, Clone, PartialEq)]
pub struct Gradient {
    /// By the coordinates, eV/Å.
    pub rows: Vec<[f64; 3]>,
    /// Forces along what may move, eV/Å.
    pub forces: Vec<[f64; 3]>,
    /// Stress beyond that of the pressure, along what may change, eV/Å³; `None` where the cell is fixed.
    pub stress: Option<[[f64; 3]; 3]>,
}

impl Gradient {
    /// The largest force (eV/Å), and the atom.
    pub fn largest_force(&self) -> (usize, f64) {
        let norms = self.forces.iter().map(|f| (f[0] * f[0] + f[1] * f[1] + f[2] * f[2]).sqrt()).enumerate();
        norms.fold((0, 0.0), |a, b| if b.1 > a.1 { b } else { a })
    }

    /// The largest component of the stress, eV/Å³.
    pub fn largest_stress(&self) -> Option<f64> {
        self.stress.map(|s| s.iter().flatten().fold(0.0, |m: f64, x| m.max(x.abs())))
    }
}

/// (e^a − e^b)/(a − b).
fn divided(a: f64, b: f64) -> f64 {
    let half = 0.5 * (a - b);
    let ratio = if half.abs() < 1e-4 { 1.0 + half * half / 6.0 } else { half.sinh() / half };
    (0.5 * (a + b)).exp() * ratio
}

/// The exponential of a symmetric matrix; of zero, exactly 1.
fn exponential(matrix: &Matrix3<f64>) -> Matrix3<f64> {
    if matrix.iter().all(|&x| x == 0.0) {
        return Matrix3::identity();
    }
    let SymmetricEigen { eigenvalues, eigenvectors: q } = SymmetricEigen::new(*matrix);
    q * Matrix3::from_diagonal(&eigenvalues.map(f64::exp)) * q.transpose()
}

fn product(matrix: &Matrix3<f64>, v: [f64; 3]) -> [f64; 3] {
    [0, 1, 2].map(|k| matrix[(k, 0)] * v[0] + matrix[(k, 1)] * v[1] + matrix[(k, 2)] * v[2])
}

/// The enthalpy E + p V of an evaluation, eV.
pub(crate) fn enthalpy(evaluation: &Evaluation, pressure: f64, volume: f64) -> f64 {
    if pressure == 0.0 { evaluation.energy } else { evaluation.energy + pressure * volume }
}
