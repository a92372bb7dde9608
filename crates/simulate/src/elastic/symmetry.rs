//! The point group of a crystal, and what it does to elastic constants.

use moyo::MoyoDataset;
use moyo::base::{Cell, Lattice};
use nalgebra::{Matrix3, Matrix6, Vector3, Vector6};
use serde::Serialize;
use tesseral_atoms::Structure;

use super::tensor::{kelvin, kelvin_rotation, strain_matrix};
use crate::error::SimulateError;

/// Crystal systems, by space group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CrystalSystem {
    /// 1 and 2.
    Triclinic,
    /// 3 to 15.
    Monoclinic,
    /// 16 to 74.
    Orthorhombic,
    /// 75 to 142.
    Tetragonal,
    /// 143 to 167.
    Trigonal,
    /// 168 to 194.
    Hexagonal,
    /// 195 to 230.
    Cubic,
}

impl CrystalSystem {
    fn of(space_group: i32) -> Self {
        match space_group {
            ..=2 => Self::Triclinic,
            3..=15 => Self::Monoclinic,
            16..=74 => Self::Orthorhombic,
            75..=142 => Self::Tetragonal,
            143..=167 => Self::Trigonal,
            168..=194 => Self::Hexagonal,
            195.. => Self::Cubic,
        }
    }

    /// The name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Triclinic => "triclinic",
            Self::Monoclinic => "monoclinic",
            Self::Orthorhombic => "orthorhombic",
            Self::Tetragonal => "tetragonal",
            Self::Trigonal => "trigonal",
            Self::Hexagonal => "hexagonal",
            Self::Cubic => "cubic",
        }
    }

    /// Indices (from 1) of the independent constants in standard axes, `count` of them (J. F. Nye, Physical Properties of Crystals, table 9): tetragonal and trigonal classes of low
    /// symmetry have one more.
    pub(super) fn constants(self, count: usize) -> Vec<(usize, usize)> {
        match (self, count) {
            (Self::Cubic, _) => vec![(1, 1), (1, 2), (4, 4)],
            (Self::Hexagonal, _) => vec![(1, 1), (3, 3), (4, 4), (1, 2), (1, 3)],
            (Self::Trigonal, 7) => vec![(1, 1), (3, 3), (4, 4), (1, 2), (1, 3), (1, 4), (1, 5)],
            (Self::Trigonal, _) => vec![(1, 1), (3, 3), (4, 4), (1, 2), (1, 3), (1, 4)],
            (Self::Tetragonal, 7) => vec![(1, 1), (3, 3), (4, 4), (6, 6), (1, 2), (1, 3), (1, 6)],
            (Self::Tetragonal, _) => vec![(1, 1), (3, 3), (4, 4), (6, 6), (1, 2), (1, 3)],
            (Self::Orthorhombic, _) => (1..=6).map(|v| (v, v)).chain([(1, 2), (1, 3), (2, 3)]).collect(),
            (Self::Monoclinic, _) => (1..=6).map(|v| (v, v)).chain([(1, 2), (1, 3), (2, 3), (1, 5), (2, 5), (3, 5), (4, 6)]).collect(),
            (Self::Triclinic, _) => (1..=6).flat_map(|v| (v..=6).map(move |w| (v, w))).collect(),
        }
    }
}

/// The symmetry of a crystal, as far as elastic constants know of it.
#[derive(Debug, Clone)]
pub struct PointGroup {
    /// Number of the space group, 1 to 230.
    pub number: i32,
    /// Its short symbol.
    pub symbol: String,
    /// Crystal system.
    pub system: CrystalSystem,
    /// From the axes of the structure to standard ones: a turn, as rows.
    pub to_standard: [[f64; 3]; 3],
    /// Rotations and improper rotations, Cartesian.
    rotations: Vec<Matrix3<f64>>,
}

impl PointGroup {
    /// The group of a crystal whose atoms are within `tolerance` (Å) of their places.
    ///
    /// # Errors
    /// If no symmetry can be found at this tolerance.
    pub fn of(structure: &Structure, tolerance: f64) -> Result<Self, SimulateError> {
        let inverse =
            structure.cell.inverse().ok_or_else(|| SimulateError::input("the cell has no volume", "give three lattice vectors"))?;
        let positions = structure.positions.iter().map(|r| Vector3::from_fn(|k, _| (0..3).map(|j| r[j] * inverse[j][k]).sum()));
        let lattice = Lattice::from_basis(structure.cell.vectors);
        let numbers = structure.numbers.iter().map(|&z| i32::from(z)).collect();
        let cell = Cell::new(lattice, positions.collect(), numbers);
        let data = MoyoDataset::with_default(&cell, tolerance).map_err(|error| {
            let what = format!("no space group is found within {tolerance} Å: {error}");
            SimulateError::input(what, "try another tolerance, or do without symmetry")
        })?;
        let mut rotations: Vec<Matrix3<f64>> = Vec::new();
        let mut seen: Vec<Matrix3<i32>> = Vec::new();
        for operation in &data.operations {
            // Cells that are not primitive have each rotation with several translations.
            if !seen.contains(&operation.rotation) {
                seen.push(operation.rotation);
                rotations.push(orthogonal(operation.cartesian_rotation(&cell.lattice)));
            }
        }
        let turn = data.std_rotation_matrix;
        Ok(Self {
            number: data.number,
            symbol: data.hm_symbol.replace(' ', ""),
            system: CrystalSystem::of(data.number),
            to_standard: std::array::from_fn(|i| std::array::from_fn(|j| turn[(i, j)])),
            rotations,
        })
    }

    /// The identity alone.
    pub fn trivial() -> Self {
        let to_standard = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];
        Self { number: 1, symbol: "P1".to_owned(), system: CrystalSystem::Triclinic, to_standard, rotations: vec![Matrix3::identity()] }
    }

    /// Number of operations.
    pub fn order(&self) -> usize {
        self.rotations.len()
    }

    /// The operations for symmetric matrices in Kelvin's notation.
    pub(super) fn kelvin(&self) -> Vec<Matrix6<f64>> {
        self.rotations.iter().map(kelvin_rotation).collect()
    }

    /// How many elastic constants are independent: the dimension of what the group leaves as it is, (1/g) Σ ½ ((tr Q)² + tr Q²).
    pub fn independent_constants(&self) -> usize {
        let sum: f64 = self.kelvin().iter().map(|q| 0.5 * (q.trace().powi(2) + (q * q).trace())).sum();
        (sum / self.order() as f64).round() as usize
    }

    /// The fewest of the six strains along Voigt axes whose images under the group span all strains.
    pub fn strains(&self) -> Vec<usize> {
        let group = self.kelvin();
        let mut basis: Vec<Vector6<f64>> = Vec::new();
        let mut chosen = Vec::new();
        for v in 0..6 {
            let mut unit = [0.0; 6];
            unit[v] = 1.0;
            let strain = strain_matrix(unit);
            let strain = kelvin(&Matrix3::from_fn(|i, j| strain[i][j])).normalize();
            let mut new = false;
            for q in &group {
                let mut image = q * strain;
                // Twice, against rounding.
                for _ in 0..2 {
                    basis.iter().for_each(|b| image -= b * b.dot(&image));
                }
                // Well away from what is there already: images that nearly depend on one another determine nothing.
                if image.norm() > 0.1 {
                    basis.push(image.normalize());
                    new = true;
                }
            }
            if new {
                chosen.push(v);
            }
        }
        chosen
    }
}

/// The nearest orthogonal matrix (polar decomposition by Newton's iteration, N. J. Higham, SIAM J. Sci. Stat. Comput. 7, 1160 (1986)): operations that hold within a tolerance are not
/// quite rotations.
fn orthogonal(mut r: Matrix3<f64>) -> Matrix3<f64> {
    for _ in 0..20 {
        let Some(inverse) = r.try_inverse() else { return r };
        r = 0.5 * (r + inverse.transpose());
    }
    r
}
