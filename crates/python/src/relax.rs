//! Relaxations.

use std::sync::atomic::Ordering;

use numpy::PyReadonlyArray2;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use tesseral_atoms::units::GPA;
use tesseral_atoms::{Evaluation, Spread, Structure};
use tesseral_simulate::relax::run::{Job, Run};
use tesseral_simulate::relax::{CellFreedom, Method, Relaxation, Settings, strain_component};

use crate::errors::Failure;
use crate::field::Field;
use crate::process::interruptible;
use crate::structures::{Arrays, results, rows};

/// How to relax, in the words and units of the command line.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct Arguments {
    max_force: f64,
    max_stress: f64,
    steps: u64,
    method: String,
    max_step: f64,
    cell: String,
    strain: Option<Vec<String>>,
    pressure: f64,
    symmetry: Option<f64>,
}

impl Arguments {
    fn settings(&self) -> Result<Settings, Failure> {
        let method = match self.method.as_str() {
            "auto" => Method::Auto,
            "lbfgs" => Method::Lbfgs,
            "precon-lbfgs" => Method::PreconditionedLbfgs,
            "fire" => Method::Fire,
            "fire-2006" => Method::Fire2006,
            other => {
                return Err(Failure::input(format!("`{other}` is no method")).hint("auto, lbfgs, precon-lbfgs, fire and fire-2006 are"));
            }
        };
        let cell = match self.cell.as_str() {
            "fixed" => CellFreedom::Fixed,
            "full" => CellFreedom::Full,
            "isotropic" => CellFreedom::Isotropic,
            "fixed-volume" => CellFreedom::FixedVolume,
            other => {
                return Err(Failure::input(format!("cell=\"{other}\" is not known")).hint("fixed, full, isotropic and fixed-volume are"));
            }
        };
        let mut strain_mask = [self.strain.is_none(); 6];
        for name in self.strain.iter().flatten() {
            let wrong = || Failure::input(format!("strain: `{name}` is no component")).hint("they are xx, yy, zz, yz, zx and xy");
            let component = strain_component(name).ok_or_else(wrong)?;
            strain_mask[component] = true;
        }
        if !cell.moves() && self.strain.is_some() {
            return Err(Failure::input("strain means nothing where the cell is fixed").hint("add cell=\"full\""));
        }
        Ok(Settings {
            method,
            max_force: self.max_force,
            max_stress: self.max_stress * GPA,
            steps: self.steps,
            max_step: self.max_step,
            cell,
            strain_mask,
            pressure: self.pressure * GPA,
            symmetry: self.symmetry,
        })
    }
}

/// A structure at the end of its relaxation.
struct Relaxed {
    structure: Structure,
    evaluation: Option<Evaluation>,
    spread: Option<Spread>,
    steps: u64,
    converged: bool,
    end: String,
}

impl Relaxed {
    fn new(relaxation: &Relaxation, spread: Option<&Spread>) -> Self {
        Self {
            structure: relaxation.structure().clone(),
            evaluation: relaxation.evaluation(),
            spread: spread.cloned(),
            steps: relaxation.steps(),
            converged: relaxation.ended().is_some_and(|ended| ended.is_converged()),
            end: relaxation.ended().map(ToString::to_string).unwrap_or_default(),
        }
    }

    fn into_python(self, py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
        let relaxed = PyDict::new(py);
        relaxed.set_item("positions", rows(py, self.structure.positions)?)?;
        relaxed.set_item("cell", rows(py, self.structure.cell.vectors.to_vec())?)?;
        let evaluated = self.evaluation.map(|evaluation| results(py, evaluation, self.spread)).transpose()?;
        relaxed.set_item("results", evaluated)?;
        relaxed.set_item("steps", self.steps)?;
        relaxed.set_item("converged", self.converged)?;
        relaxed.set_item("end", self.end)?;
        Ok(relaxed)
    }
}

/// Relaxes many structures; of each, which coordinates may move, or None where all may.
#[pyfunction]
pub(crate) fn relax<'py>(
    py: Python<'py>,
    field: &Field,
    many: Vec<(Arrays<'py>, Option<PyReadonlyArray2<'py, bool>>)>,
    arguments: Arguments,
) -> PyResult<Bound<'py, PyList>> {
    let jobs = jobs(&many).map_err(|failure| failure.raise(py))?;
    drop(many);
    let relaxed = interruptible(py, field.threads(), |stop| {
        let settings = arguments.settings()?;
        settings.check()?;
        let loaded = field.loaded()?;
        for (index, job) in jobs.iter().enumerate() {
            loaded.members.check(&job.structure).map_err(|error| Failure::from(error).of_structure(index))?;
        }
        // Structures in batches: lists of neighbours are not kept, the skin is for nothing.
        let mut forces = loaded.members.force_field(0.0)?;
        let mut relaxed: Vec<Option<Relaxed>> = jobs.iter().map(|_| None).collect();
        let mut run = Run::new(&jobs, &settings, &loaded.identity(), None)?;
        let mut label = |index: usize, relaxation: &Relaxation, spread: Option<&Spread>| {
            relaxed[index] = Some(Relaxed::new(relaxation, spread));
            Structure::default()
        };
        while !run.is_finished() && !stop.load(Ordering::Relaxed) {
            run.round(&mut *forces, &mut label)?;
        }
        Ok(relaxed)
    })?;
    let list = PyList::empty(py);
    for relaxed in relaxed.into_iter().flatten() {
        list.append(relaxed.into_python(py)?)?;
    }
    Ok(list)
}

fn jobs(many: &[(Arrays<'_>, Option<PyReadonlyArray2<'_, bool>>)]) -> Result<Vec<Job>, Failure> {
    let job = |(index, (arrays, movable)): (usize, &(Arrays<'_>, Option<PyReadonlyArray2<'_, bool>>))| {
        let structure = arrays.to_structure().map_err(|failure| failure.of_structure(index))?;
        let movable = match movable {
            None => Vec::new(),
            Some(flags) => flags.as_slice()?.as_chunks::<3>().0.to_vec(),
        };
        Ok(Job { structure, movable })
    };
    many.iter().enumerate().map(job).collect()
}
