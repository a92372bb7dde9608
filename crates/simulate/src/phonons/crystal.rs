//! A crystal: its unit cell, its primitive cell, its space group.

use moyo::MoyoDataset;
use moyo::base::{AngleTolerance, Cell as MoyoCell, Lattice};
use moyo::data::{Centering, Setting, hall_symbol_entry};
use nalgebra::{Matrix3, Vector3};
use tesseral_atoms::{Cell, Structure, elements};

use crate::error::SimulateError;
use crate::matrix::{self, Integers, Matrix};

/// An operation of the space group, s′ = R s + t for fractional coordinates of the unit cell as columns.
#[derive(Debug, Clone)]
pub(crate) struct Operation {
    /// R.
    pub(crate) rotation: Integers,
    /// The same in Cartesian coordinates, orthogonal: r′ = C r + ….
    pub(crate) cartesian: Matrix,
    /// Where each atom of the unit cell goes: to the atom κ′ in the cell n.
    pub(crate) images: Vec<(usize, [i64; 3])>,
}

/// A crystal and its symmetry, as far as phonons need them.
#[derive(Debug, Clone)]
pub struct Crystal {
    /// The unit cell as it was given.
    pub unit: Structure,
    /// Masses of its atoms, u.
    pub masses: Vec<f64>,
    /// Primitive lattice vectors as rows, Å.
    pub primitive: Cell,
    /// The same in units of the lattice vectors of the unit cell: row i is the i-th primitive vector.
    pub primitive_in_unit: [[f64; 3]; 3],
    /// For each atom of the primitive cell, the atom of the unit cell that stands for it: the first of those that differ by a lattice translation.
    pub atoms: Vec<usize>,
    /// For each atom of the unit cell, its place among the atoms of the primitive cell.
    pub primitive_of: Vec<usize>,
    /// Number of the space group in the International Tables, 1–230.
    pub number: i32,
    /// Its Hermann–Mauguin symbol, without spaces.
    pub symbol: String,
    /// The conventional cell of the International Tables, as vectors of the unit cell: row i is its i-th vector in units of the lattice vectors of the unit cell.
    pub conventional_in_unit: [[f64; 3]; 3],
    /// Centring of the conventional cell: P, A, C, I, R or F.
    pub centring: char,
    /// How far apart atoms may be that symmetry says coincide, Å.
    pub tolerance: f64,
    pub(crate) operations: Vec<Operation>,
}

impl Crystal {
    /// Finds the space group of a crystal by moyo, and its primitive cell: the unit cell itself if that is primitive, and else the one that Hinuma et al., Comput. Mater.
    /// Sci. 128, 140 (2017), choose for the centring.
    ///
    /// Masses are those of the column `masses` of the structure, where it has one, and else those of the periodic table.
    ///
    /// # Errors
    /// If the structure is not a crystal, or no symmetry is found.
    pub fn new(unit: &Structure, tolerance: f64) -> Result<Self, SimulateError> {
        Self::with_primitive(unit, None, tolerance)
    }

    /// The same with a primitive cell of one's own: row i is its i-th vector in units of the lattice vectors of the unit cell.
    ///
    /// # Errors
    /// As [`Crystal::new`], or if that is no primitive cell.
    pub fn with_primitive(unit: &Structure, primitive_in_unit: Option<[[f64; 3]; 3]>, tolerance: f64) -> Result<Self, SimulateError> {
        if unit.is_empty() {
            return Err(SimulateError::input("the structure has no atoms", "phonons are about crystals"));
        }
        unit.validate()?;
        if unit.pbc != [true; 3] {
            return Err(SimulateError::input(
                "phonons need a crystal that is periodic in all three directions",
                "`tesseral modes` is about molecules; give a slab a cell with vacuum and pbc=\"T T T\"",
            ));
        }
        if !(tolerance > 0.0 && tolerance.is_finite()) {
            return Err(SimulateError::input(format!("a tolerance of {tolerance} Å finds no symmetry"), "something like 0.001 Å"));
        }
        let masses = masses(unit)?;
        let inverse = unit.cell.inverse().ok_or_else(|| SimulateError::input("the cell has no volume", "check the lattice vectors"))?;
        let fractional: Vec<[f64; 3]> = unit.positions.iter().map(|r| matrix::row_times(*r, &inverse)).collect();
        let cell = MoyoCell::new(
            Lattice::from_basis(unit.cell.vectors),
            fractional.iter().map(|s| Vector3::new(s[0], s[1], s[2])).collect(),
            unit.numbers.iter().map(|z| i32::from(*z)).collect(),
        );
        let found = MoyoDataset::new(&cell, tolerance, AngleTolerance::default(), Setting::Spglib, false).map_err(|e| {
            SimulateError::input(format!("no symmetry is found: {e}"), "atoms may overlap; or try another --symmetry-tolerance")
        })?;
        let operations = operations(unit, &masses, &fractional, &found, tolerance);
        let translations = operations.iter().filter(|o| o.rotation == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]).count().max(1);
        // moyo has basis vectors as columns: its matrices are ours transposed.
        let rows = |m: &Matrix3<f64>| [0, 1, 2].map(|i| [0, 1, 2].map(|j| m[(j, i)]));
        let conventional_in_unit = rows(&found.std_linear);
        let centring = hall_symbol_entry(found.hall_number).map_or('P', |e| letter(e.centering));
        let exact = |m: &Matrix| m.map(|row| row.map(|x| (x * translations as f64).round() / translations as f64));
        let primitive_in_unit = match primitive_in_unit {
            Some(given) => given,
            None if translations == 1 => matrix::IDENTITY,
            None => exact(&matrix::product(&centred(found.number, centring), &conventional_in_unit)),
        };
        let volume = matrix::determinant(&primitive_in_unit).abs();
        let wrong = |what: &str| SimulateError::input(format!("the primitive cell {what}"), "leave it out to have it found");
        if (volume * translations as f64 - 1.0).abs() > 1e-6 {
            return Err(wrong(&format!("has {volume:.6} times the volume of the unit cell, which holds {translations} of them")));
        }
        if matrix::to_integers(&matrix::inverse(&primitive_in_unit), 1e-5).is_none() {
            return Err(wrong("has vectors that do not make up those of the unit cell"));
        }
        let (atoms, primitive_of) = classes(&operations, unit.len());
        if atoms.len() * translations != unit.len() {
            return Err(SimulateError::input(
                format!("{} atoms cannot be {translations} primitive cells", unit.len()),
                "try another --symmetry-tolerance",
            ));
        }
        Ok(Self {
            primitive: Cell::new(matrix::product(&primitive_in_unit, &unit.cell.vectors)),
            unit: unit.clone(),
            masses,
            primitive_in_unit,
            atoms,
            primitive_of,
            number: found.number,
            symbol: found.hm_symbol.replace(' ', ""),
            conventional_in_unit,
            centring,
            tolerance,
            operations,
        })
    }

    /// Number of atoms of the primitive cell.
    pub fn len(&self) -> usize {
        self.atoms.len()
    }

    /// Never: there is no crystal without atoms.
    pub fn is_empty(&self) -> bool {
        self.atoms.is_empty()
    }

    /// Atomic numbers of the primitive cell.
    pub fn numbers(&self) -> Vec<u8> {
        self.atoms.iter().map(|&a| self.unit.numbers[a]).collect()
    }

    /// Masses of the atoms of the primitive cell, u.
    pub fn primitive_masses(&self) -> Vec<f64> {
        self.atoms.iter().map(|&a| self.masses[a]).collect()
    }

    /// The primitive cell as a structure.
    pub fn primitive_structure(&self) -> Structure {
        Structure::crystal(self.primitive, self.numbers(), self.atoms.iter().map(|&a| self.unit.positions[a]).collect())
    }

    /// Fractional coordinates of a reciprocal vector with respect to the primitive cell, of those with respect to another one: `cell_in_unit` as
    /// [`Crystal::primitive_in_unit`]. For q · a = κ it is κ that transforms like the vectors themselves.
    pub fn to_primitive(&self, q: [f64; 3], cell_in_unit: &[[f64; 3]; 3]) -> [f64; 3] {
        let in_unit = matrix::apply(&matrix::inverse(cell_in_unit), q);
        matrix::apply(&self.primitive_in_unit, in_unit)
    }

    /// Rotations of the point group in fractional coordinates of the primitive cell (columns), each once.
    pub(crate) fn point_group(&self) -> Vec<Integers> {
        // s_unit = Pᵀ s_primitive for columns, with P the rows of the primitive cell.
        let p = matrix::transpose(&self.primitive_in_unit);
        let back = matrix::inverse(&p);
        let mut found: Vec<Integers> = Vec::new();
        for operation in &self.operations {
            let r = matrix::product(&matrix::product(&back, &matrix::to_floats(&operation.rotation)), &p);
            if let Some(r) = matrix::to_integers(&r, 1e-4)
                && !found.contains(&r)
            {
                found.push(r);
            }
        }
        found
    }
}

/// Masses: the column of the structure, or those of the elements.
fn masses(unit: &Structure) -> Result<Vec<f64>, SimulateError> {
    if let Some(values) = unit.arrays.get("masses").filter(|a| a.width() == 1).and_then(|a| a.as_reals()) {
        if let Some(atom) = values.iter().position(|m| !(*m > 0.0 && m.is_finite())) {
            return Err(SimulateError::input(format!("atom {atom} has the mass {} u", values[atom]), "masses are positive, in u"));
        }
        return Ok(values.to_vec());
    }
    let mass = |(atom, z): (usize, &u8)| {
        elements::mass(*z)
            .filter(|m| *m > 0.0 && *z > 0)
            .ok_or_else(|| SimulateError::input(format!("atom {atom} is of no element"), "give a column `masses`"))
    };
    unit.numbers.iter().enumerate().map(mass).collect()
}

fn letter(centring: Centering) -> char {
    match centring {
        Centering::P => 'P',
        Centering::A => 'A',
        Centering::B => 'B',
        Centering::C => 'C',
        Centering::I => 'I',
        Centering::R => 'R',
        Centering::F => 'F',
    }
}

/// Primitive vectors as rows in units of those of the conventional cell: Table 3 of Hinuma et al., Comput. Mater. Sci. 128, 140 (2017).
pub(crate) fn centred(number: i32, centring: char) -> Matrix {
    let half = 0.5;
    let (one, two) = (1.0 / 3.0, 2.0 / 3.0);
    match centring {
        'F' => [[0.0, half, half], [half, 0.0, half], [half, half, 0.0]],
        'I' => [[-half, half, half], [half, -half, half], [half, half, -half]],
        'C' if number < 16 => [[half, half, 0.0], [-half, half, 0.0], [0.0, 0.0, 1.0]],
        'C' => [[half, -half, 0.0], [half, half, 0.0], [0.0, 0.0, 1.0]],
        'A' => [[0.0, half, -half], [0.0, half, half], [1.0, 0.0, 0.0]],
        'R' => [[two, one, one], [-one, one, one], [-one, -two, one]],
        _ => matrix::IDENTITY,
    }
}

/// The operations that moyo found, with where they take each atom. One that takes an atom nowhere, which would be beyond the tolerance, is left out.
fn operations(unit: &Structure, masses: &[f64], fractional: &[[f64; 3]], found: &MoyoDataset, tolerance: f64) -> Vec<Operation> {
    let columns = matrix::transpose(&unit.cell.vectors);
    let back = matrix::inverse(&columns);
    let n = unit.len();
    let limit = (10.0 * tolerance).max(1e-6);
    let mut all = Vec::new();
    'operations: for o in &found.operations {
        let rotation = o.rotation_as_array().map(|row| row.map(i64::from));
        let r = matrix::to_floats(&rotation);
        let t = o.translation_as_array();
        let mut images = Vec::with_capacity(n);
        for atom in 0..n {
            let s = matrix::add(matrix::apply(&r, fractional[atom]), t);
            let candidate = |other: usize| {
                let d = matrix::subtract(s, fractional[other]);
                let cell = d.map(f64::round);
                (matrix::norm(unit.cell.cartesian(matrix::subtract(d, cell))), other, cell.map(|x| x as i64))
            };
            let nearest = (0..n)
                .filter(|&other| unit.numbers[other] == unit.numbers[atom] && (masses[other] - masses[atom]).abs() < 1e-9)
                .map(candidate)
                .min_by(|a, b| a.0.total_cmp(&b.0));
            match nearest {
                Some((distance, other, cell)) if distance < limit => images.push((other, cell)),
                _ => continue 'operations,
            }
        }
        let cartesian = matrix::nearest_rotation(&matrix::product(&matrix::product(&columns, &r), &back));
        all.push(Operation { rotation, cartesian, images });
    }
    all
}

/// Atoms that differ by translations alone.
fn classes(operations: &[Operation], n: usize) -> (Vec<usize>, Vec<usize>) {
    let mut first: Vec<usize> = (0..n).collect();
    for o in operations.iter().filter(|o| o.rotation == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]) {
        for atom in 0..n {
            first[atom] = first[atom].min(o.images[atom].0);
        }
    }
    let atoms: Vec<usize> = (0..n).filter(|&a| first[a] == a).collect();
    let of = first.iter().map(|f| atoms.iter().position(|a| a == f).unwrap_or(0)).collect();
    (atoms, of)
}
