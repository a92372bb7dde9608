//! `tesseral._core`: what the Python package `tesseral` is made of.
//!
//! The package itself, in `python/tesseral`, is what people use: it knows `ase.Atoms`, arguments and their defaults, and the classes that results come in. This module
//! takes arrays and plain values, computes without Python's lock, and gives arrays back.
//!
//! - `process`: threads by process, errors instead of panics, signals;
//! - `errors`, `messages`: exceptions and `logging`;
//! - `structures`: arrays in and out;
//! - `field`: models and their evaluation; `relax`, `md`, `train`: what moves atoms and trains.

mod errors;
mod field;
mod md;
mod messages;
mod process;
mod relax;
mod structures;
mod train;
mod zoo;

use pyo3::prelude::*;

/// Of this module alone, not of Python; see "Memory" of `tesseral_infer`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Panics, for a test of what becomes of it.
#[pyfunction]
fn _panic(py: Python<'_>, message: &str) -> PyResult<()> {
    process::detached(py, 1, |pool| pool.install(|| panic!("{message}")))
}

/// The module.
#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    tesseral_infer::prepare_evaluation();
    messages::listen();
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<field::Field>()?;
    module.add_function(wrap_pyfunction!(zoo::models, module)?)?;
    module.add_function(wrap_pyfunction!(zoo::looks_like_path, module)?)?;
    module.add_function(wrap_pyfunction!(relax::relax, module)?)?;
    module.add_function(wrap_pyfunction!(md::md, module)?)?;
    module.add_function(wrap_pyfunction!(md::read_frames, module)?)?;
    module.add_function(wrap_pyfunction!(train::train, module)?)?;
    module.add_function(wrap_pyfunction!(train::template, module)?)?;
    module.add_function(wrap_pyfunction!(_panic, module)?)
}
