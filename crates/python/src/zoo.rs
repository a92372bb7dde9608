//! The known pretrained models.

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use tesseral_models::{Cache, DEFAULT_MODEL};

use crate::errors::Failure;

/// The known models as dictionaries.
#[pyfunction]
pub(crate) fn models(py: Python<'_>) -> PyResult<Bound<'_, PyList>> {
    let manifest = tesseral_loader::manifest().map_err(|error| Failure::from(error).raise(py))?;
    // Without a home folder nothing is installed, and the list is worth having all the same.
    let cache = Cache::of_user().ok();
    let list = PyList::empty(py);
    for entry in manifest.models() {
        let status = if entry.name == DEFAULT_MODEL {
            "built in"
        } else if cache.as_ref().is_some_and(|cache| cache.contains(&entry.name)) {
            "installed"
        } else {
            "-"
        };
        let model = PyDict::new(py);
        model.set_item("name", &entry.name)?;
        model.set_item("aliases", &entry.aliases)?;
        model.set_item("family", &entry.family)?;
        model.set_item("summary", &entry.summary)?;
        model.set_item("training", &entry.training)?;
        model.set_item("licence", &entry.licence)?;
        model.set_item("forbids", manifest.licence(entry).and_then(|licence| licence.forbids.as_deref()))?;
        model.set_item("reference", &entry.reference)?;
        model.set_item("source", entry.source.describe())?;
        model.set_item("sha256", entry.sha256.as_deref())?;
        model.set_item("status", status)?;
        list.append(model)?;
    }
    Ok(list)
}

/// Whether a model is called by its path, whether or not there is such a file.
#[pyfunction]
pub(crate) fn looks_like_path(model: &str) -> bool {
    tesseral_loader::looks_like_path(model)
}
