//! Space groups: found once, kept by symmetrising what moves atoms and cell.

use moyo::MoyoDataset;
use moyo::base::{Cell as MoyoCell, Lattice};
use nalgebra::{Matrix3, SymmetricEigen, Vector3};
use serde::{Deserialize, Serialize};
use tesseral_atoms::{Cell, Structure};

use super::freedom::{CellFreedom, Coordinates, project};
use crate::error::SimulateError;

/// The space group of a structure, as it acts on its atoms.
///
/// Averages over the group are taken over its translations first and then over one operation for each rotation: in a supercell that is far less than all pairs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Symmetry {
    /// Number in the International Tables.
    pub number: i32,
    /// Hermann–Mauguin symbol, without spaces.
    pub symbol: String,
    translations: Vec<Action>,
    rotations: Vec<Action>,
}

/// One operation: a Cartesian rotation, and the atom that each atom goes to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Action {
    rotation: [[f64; 3]; 3],
    to: Vec<u32>,
}

/// Number and symbol of the space group of a crystal, with positions taken as equal within `tolerance` (Å); `None` where there is none to be found.
pub fn space_group(structure: &Structure, tolerance: f64) -> Option<(i32, String)> {
    if structure.pbc != [true; 3] || structure.is_empty() {
        return None;
    }
    let dataset = dataset(structure, tolerance).ok()?;
    Some((dataset.number, dataset.hm_symbol.replace(' ', "")))
}

fn dataset(structure: &Structure, tolerance: f64) -> Result<MoyoDataset, SimulateError> {
    let failed = |why: String| {
        SimulateError::input(
            format!("no space group is found within {tolerance} Å: {why}"),
            "choose another tolerance, or relax without symmetry",
        )
    };
    let inverse = structure.cell.inverse().ok_or_else(|| failed("the cell is flat".to_owned()))?;
    let fractional = structure
        .positions
        .iter()
        .map(|r| Vector3::from_fn(|k, _| r[0] * inverse[0][k] + r[1] * inverse[1][k] + r[2] * inverse[2][k]))
        .collect();
    let numbers = structure.numbers.iter().map(|&z| i32::from(z)).collect();
    let cell = MoyoCell::new(Lattice::from_basis(structure.cell.vectors), fractional, numbers);
    MoyoDataset::with_default(&cell, tolerance).map_err(|error| failed(error.to_string()))
}

impl Symmetry {
    /// Finds the space group of a crystal within `tolerance` (Å) and makes the structure exactly symmetric: the metric of its cell and its positions become their averages over
    /// the group. The cell is not rotated.
    ///
    /// # Errors
    /// If the structure is not periodic in all directions, or no group is found.
    pub fn impose(structure: &mut Structure, tolerance: f64) -> Result<Self, SimulateError> {
        if structure.pbc != [true; 3] {
            return Err(SimulateError::input(
                "symmetry can be kept only where a structure is periodic in all three directions",
                "relax without symmetry",
            ));
        }
        let dataset = dataset(structure, tolerance)?;
        // Fractional coordinates transform as s' = W s + w, Cartesian columns as R = B W B⁻¹, B the lattice vectors as columns.
        let basis = Matrix3::from_fn(|k, l| structure.cell.vectors[l][k]);
        let metric = basis.transpose() * basis;
        let operations: Vec<(Matrix3<f64>, Vector3<f64>)> =
            dataset.operations.iter().map(|o| (o.rotation.map(f64::from), o.translation)).collect();
        let mean = operations.iter().map(|(w, _)| w.transpose() * metric * w).sum::<Matrix3<f64>>() / operations.len() as f64;
        // The stretch S for which S B has that metric: S² = B⁻ᵀ G B⁻¹.
        let flat = || SimulateError::input("the cell is flat", "give it a volume");
        let inverse = basis.try_inverse().ok_or_else(flat)?;
        let square = inverse.transpose() * mean * inverse;
        let SymmetricEigen { eigenvalues, eigenvectors: q } = SymmetricEigen::new(0.5 * (square + square.transpose()));
        let basis = q * Matrix3::from_diagonal(&eigenvalues.map(f64::sqrt)) * q.transpose() * basis;
        let fractional: Vec<Vector3<f64>> = structure.positions.iter().map(|r| inverse * Vector3::from(*r)).collect();
        let inverse = basis.try_inverse().ok_or_else(flat)?;

        let n = structure.len();
        let mut sums = vec![Vector3::zeros(); n];
        let (mut translations, mut rotations, mut seen) = (Vec::new(), Vec::new(), Vec::<Matrix3<f64>>::new());
        for (w, shift) in &operations {
            let Some((to, moved)) = permutation(structure, &basis, &fractional, w, shift, tolerance) else {
                return Err(SimulateError::input(
                    format!("the space group {} found within {tolerance} Å does not map all atoms onto atoms", dataset.number),
                    "choose a smaller tolerance, or relax without symmetry",
                ));
            };
            for i in 0..n {
                // `moved` is the image of atom i beside atom `to`: where that atom should be.
                sums[to[i] as usize] += moved[i];
            }
            let rotation = basis * w * inverse;
            let action = Action { rotation: [0, 1, 2].map(|k| [0, 1, 2].map(|l| rotation[(k, l)])), to };
            if *w == Matrix3::identity() {
                translations.push(action.clone());
            }
            if !seen.contains(w) {
                seen.push(*w);
                rotations.push(action);
            }
        }
        structure.cell = Cell::new([0, 1, 2].map(|k| [0, 1, 2].map(|l| basis[(l, k)])));
        for (r, sum) in structure.positions.iter_mut().zip(&sums) {
            *r = (basis * (sum / operations.len() as f64)).into();
        }
        Ok(Self { number: dataset.number, symbol: dataset.hm_symbol.replace(' ', ""), translations, rotations })
    }

    /// How many operations the group has in this cell.
    pub fn order(&self) -> usize {
        self.translations.len() * self.rotations.len()
    }

    /// Replaces vectors on atoms by their average over the group.
    pub fn average_vectors(&self, vectors: &mut [[f64; 3]]) {
        for actions in [&self.translations, &self.rotations] {
            if actions.len() == 1 {
                continue;
            }
            let mut sums = vec![[0.0; 3]; vectors.len()];
            for action in actions {
                let r = &action.rotation;
                for (v, &to) in vectors.iter().zip(&action.to) {
                    let sum = &mut sums[to as usize];
                    for k in 0..3 {
                        sum[k] += r[k][0] * v[0] + r[k][1] * v[1] + r[k][2] * v[2];
                    }
                }
            }
            for (v, sum) in vectors.iter_mut().zip(&sums) {
                *v = sum.map(|x| x / actions.len() as f64);
            }
        }
    }

    /// Replaces a tensor (a stress, a strain) by its average over the group.
    pub fn average_tensor(&self, tensor: &mut [[f64; 3]; 3]) {
        let t = Matrix3::from_fn(|k, l| tensor[k][l]);
        let sum: Matrix3<f64> = self
            .rotations
            .iter()
            .map(|action| {
                let r = Matrix3::from_fn(|k, l| action.rotation[k][l]);
                r * t * r.transpose()
            })
            .sum();
        *tensor = [0, 1, 2].map(|k| [0, 1, 2].map(|l| sum[(k, l)] / self.rotations.len() as f64));
    }

    /// Whether what may move is itself symmetric.
    pub(crate) fn check(&self, coordinates: &Coordinates) -> Result<(), SimulateError> {
        let movable = coordinates.movable();
        if !movable.is_empty() {
            for (atom, free) in movable.iter().enumerate() {
                let partly = *free != [true; 3] && *free != [false; 3];
                if partly || self.translations.iter().chain(&self.rotations).any(|a| movable[a.to[atom] as usize] != *free) {
                    return Err(SimulateError::input(
                        format!("the space group {} ({}) does not keep what is held of atom {atom}", self.symbol, self.number),
                        "hold all atoms that are equivalent to it as a whole, or relax without symmetry",
                    ));
                }
            }
        }
        let (freedom, mask) = coordinates.cell();
        if freedom != CellFreedom::Fixed {
            for component in 0..6 {
                let (k, l) = [(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)][component];
                let mut strain = [[0.0; 3]; 3];
                strain[k][l] = 1.0;
                strain[l][k] = 1.0;
                project(freedom, mask, &mut strain);
                self.average_tensor(&mut strain);
                let mut again = strain;
                project(freedom, mask, &mut again);
                if (0..3).any(|k| (0..3).any(|l| (strain[k][l] - again[k][l]).abs() > 1e-6)) {
                    return Err(SimulateError::input(
                        format!("the space group {} ({}) does not keep the mask of strains", self.symbol, self.number),
                        "choose a mask that is symmetric, or relax without symmetry",
                    ));
                }
            }
        }
        Ok(())
    }
}

/// For each atom the atom it is mapped to, and its image (fractional) in the cell of that atom.
fn permutation(
    structure: &Structure,
    basis: &Matrix3<f64>,
    fractional: &[Vector3<f64>],
    w: &Matrix3<f64>,
    shift: &Vector3<f64>,
    tolerance: f64,
) -> Option<(Vec<u32>, Vec<Vector3<f64>>)> {
    let n = structure.len();
    let mut taken = vec![false; n];
    let (mut to, mut moved) = (Vec::with_capacity(n), Vec::with_capacity(n));
    for i in 0..n {
        let image = w * fractional[i] + shift;
        let mut best: Option<(f64, usize, Vector3<f64>)> = None;
        for j in 0..n {
            if taken[j] || structure.numbers[j] != structure.numbers[i] {
                continue;
            }
            let apart = image - fractional[j];
            let apart = apart - apart.map(f64::round);
            let distance = (basis * apart).norm();
            if best.as_ref().is_none_or(|b| distance < b.0) {
                best = Some((distance, j, fractional[j] + apart));
            }
            if distance < 1e-3 * tolerance {
                break;
            }
        }
        // The search has its own measure of distance; an atom much further off is another one.
        let (distance, j, image) = best?;
        if distance > 4.0 * tolerance {
            return None;
        }
        taken[j] = true;
        to.push(j as u32);
        moved.push(image);
    }
    Some((to, moved))
}
