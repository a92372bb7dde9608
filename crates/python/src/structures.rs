//! Structures and results between Python and the libraries.

use std::collections::HashMap;

use numpy::{PyArray1, PyArrayMethods, PyReadonlyArray1, PyReadonlyArray2};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use tesseral_atoms::{Array, Cell, Evaluation, InfoValue, Spread, Structure};

use crate::errors::Failure;

/// A structure as `tesseral._structures.arrays` makes it of `ase.Atoms` or a dictionary. The arrays are read where they are.
#[derive(FromPyObject)]
pub(crate) struct Arrays<'py>(
    /// Atomic numbers `[N]`.
    PyReadonlyArray1<'py, i64>,
    /// Positions `[N, 3]`, Å.
    PyReadonlyArray2<'py, f64>,
    /// Lattice vectors as rows, Å.
    [[f64; 3]; 3],
    /// Whether the structure repeats along each of them.
    [bool; 3],
    /// Numbers of the structure that a model may ask for, such as `total_charge`.
    HashMap<String, f64>,
    /// Rows of atoms, `[N]` or `[N, 3]`.
    HashMap<String, Rows<'py>>,
);

#[derive(FromPyObject)]
enum Rows<'py> {
    Scalars(PyReadonlyArray1<'py, f64>),
    Vectors(PyReadonlyArray2<'py, f64>),
}

impl Arrays<'_> {
    /// Copies it into a structure, in the memory that it has.
    pub(crate) fn fill(&self, structure: &mut Structure) -> Result<(), Failure> {
        let Self(numbers, positions, cell, pbc, info, arrays) = self;
        structure.cell = Cell::new(*cell);
        structure.pbc = *pbc;
        structure.numbers.clear();
        for (atom, &number) in numbers.as_slice()?.iter().enumerate() {
            let number = u8::try_from(number).map_err(|_| {
                Failure::input(format!("atom {atom} has the atomic number {number}, which is no element"))
                    .hint("atomic numbers run from 1 to 118")
            })?;
            structure.numbers.push(number);
        }
        structure.positions.clear();
        structure.positions.extend_from_slice(vectors(positions)?);
        structure.info.clear();
        structure.info.extend(info.iter().map(|(key, value)| (key.clone(), InfoValue::Real(*value))));
        structure.arrays.clear();
        for (key, rows) in arrays {
            let array = match rows {
                Rows::Scalars(values) => Array::scalars(values.as_slice()?.to_vec()),
                Rows::Vectors(values) => Array::vectors(vectors(values)?),
            };
            structure.arrays.insert(key.clone(), array);
        }
        Ok(())
    }

    pub(crate) fn to_structure(&self) -> Result<Structure, Failure> {
        let mut structure = Structure::default();
        self.fill(&mut structure)?;
        Ok(structure)
    }
}

/// Rows of three numbers, without a copy.
fn vectors<'a>(array: &'a PyReadonlyArray2<'_, f64>) -> Result<&'a [[f64; 3]], Failure> {
    match array.as_slice()?.as_chunks::<3>() {
        (rows, []) => Ok(rows),
        _ => Err(Failure::input("rows of three numbers are needed")),
    }
}

/// Rows of three numbers as an array `[N, 3]` in the memory that they have.
pub(crate) fn rows<'py>(py: Python<'py>, vectors: Vec<[f64; 3]>) -> PyResult<Bound<'py, PyAny>> {
    let count = vectors.len();
    Ok(PyArray1::from_vec(py, vectors.into_flattened()).reshape([count, 3])?.into_any())
}

/// A symmetric matrix in the order of ASE: xx, yy, zz, yz, xz, xy.
fn voigt(stress: &[[f64; 3]; 3]) -> Vec<f64> {
    vec![stress[0][0], stress[1][1], stress[2][2], stress[1][2], stress[0][2], stress[0][1]]
}

/// Results under ASE's names; numbers of atoms in the memory that they have.
pub(crate) fn results<'py>(py: Python<'py>, evaluation: Evaluation, spread: Option<Spread>) -> PyResult<Bound<'py, PyDict>> {
    let results = PyDict::new(py);
    results.set_item("energy", evaluation.energy)?;
    results.set_item("free_energy", evaluation.energy)?;
    results.set_item("forces", rows(py, evaluation.forces)?)?;
    if let Some(stress) = &evaluation.stress {
        results.set_item("stress", PyArray1::from_vec(py, voigt(stress)))?;
    }
    results.set_item("energies", PyArray1::from_vec(py, evaluation.atomic_energies))?;
    if let Some(spread) = spread {
        results.set_item("energy_spread", spread.energy)?;
        results.set_item("forces_spread", PyArray1::from_vec(py, spread.forces))?;
    }
    Ok(results)
}
