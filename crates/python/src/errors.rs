//! From errors of the libraries to Python's exceptions.

use std::error::Error;

use pyo3::prelude::*;
use tesseral_atoms::io::ReadError;
use tesseral_atoms::labels::LabelError;
use tesseral_atoms::{ForceError, StructureError};
use tesseral_import::ImportError;
use tesseral_infer::InferError;
use tesseral_infer::device::DeviceChoiceError;
use tesseral_loader::LoadError;
use tesseral_models::CacheError;
use tesseral_potentials::PotentialError;
use tesseral_simulate::SimulateError;
use tesseral_train::TrainError;
use tesseral_train::config::ConfigError;
use tesseral_train::data::DataError;

/// Which exception it becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// `TesseralError`, a `RuntimeError`.
    Other,
    /// `InputError`, which is a `ValueError` too.
    Input,
    /// `ModelNotFoundError`, which is a `FileNotFoundError` too.
    NotFound,
}

/// What went wrong, before Python hears of it.
#[derive(Debug)]
pub(crate) struct Failure {
    kind: Kind,
    message: String,
    hint: Option<String>,
    /// Of the structure it is about, where there are many.
    index: Option<usize>,
}

impl Failure {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { kind: Kind::Other, message: message.into(), hint: None, index: None }
    }

    /// A wrong argument.
    pub(crate) fn input(message: impl Into<String>) -> Self {
        Self { kind: Kind::Input, ..Self::new(message) }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// About the structure with this index.
    pub(crate) fn of_structure(mut self, index: usize) -> Self {
        self.message = format!("structure {index}: {}", self.message);
        self.index = Some(index);
        self
    }

    /// The exception.
    pub(crate) fn raise(self, py: Python<'_>) -> PyErr {
        match self.instance(py) {
            Ok(exception) => PyErr::from_value(exception),
            Err(error) => error,
        }
    }

    /// The exception as an object that is not raised.
    pub(crate) fn instance(self, py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
        let name = match self.kind {
            Kind::Other => "TesseralError",
            Kind::Input => "InputError",
            Kind::NotFound => "ModelNotFoundError",
        };
        py.import("tesseral._errors")?.getattr(name)?.call1((self.message, self.hint, self.index))
    }
}

impl<E: Error + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        let chain: Vec<&(dyn Error + 'static)> =
            std::iter::successors(Some(&error as &(dyn Error + 'static)), |e: &&(dyn Error + 'static)| (*e).source()).collect();
        let mut message = error.to_string();
        for cause in chain.iter().skip(1).map(ToString::to_string) {
            // Many errors say their cause themselves.
            if !message.contains(&cause) {
                message = format!("{message}: {cause}");
            }
        }
        let mut hints: Vec<String> = Vec::new();
        for hint in chain.iter().filter_map(|cause| hint_of(*cause)).map(|hint| in_python(&hint)) {
            if !hints.contains(&hint) {
                hints.push(hint);
            }
        }
        let kind = chain.iter().map(|cause| kind_of(*cause)).find(|kind| *kind != Kind::Other).unwrap_or(Kind::Other);
        Self { kind, message, hint: (!hints.is_empty()).then(|| hints.join("; ")), index: None }
    }
}

fn kind_of(cause: &(dyn Error + 'static)) -> Kind {
    if let Some(error) = cause.downcast_ref::<ForceError>() {
        return kind_of(error.inner());
    }
    if let Some(InferError::Potential(error)) = cause.downcast_ref::<InferError>() {
        return kind_of(error);
    }
    if let Some(LoadError::Io(error)) = cause.downcast_ref::<LoadError>() {
        return if error.kind() == std::io::ErrorKind::NotFound { Kind::NotFound } else { Kind::Other };
    }
    let is_input = cause.is::<StructureError>()
        || cause.is::<DeviceChoiceError>()
        || cause.is::<ConfigError>()
        || matches!(
            cause.downcast_ref(),
            Some(InferError::Structure(_) | InferError::NoAtoms | InferError::NoCommittee { .. } | InferError::UnknownElement { .. })
        )
        || matches!(cause.downcast_ref(), Some(SimulateError::Input { .. } | SimulateError::Structure(_)))
        || matches!(cause.downcast_ref(), Some(LoadError::Folder { .. }))
        || matches!(
            cause.downcast_ref(),
            Some(PotentialError::UnknownElement { .. } | PotentialError::NoSuchHead { .. } | PotentialError::WhichHead { .. })
        );
    if is_input {
        return Kind::Input;
    }
    match cause.downcast_ref() {
        Some(LoadError::Unknown { .. } | LoadError::NotInstalled { .. } | LoadError::NoFile { .. }) => Kind::NotFound,
        _ => Kind::Other,
    }
}

/// Every error type of the libraries that knows a next step.
fn hint_of(cause: &(dyn Error + 'static)) -> Option<String> {
    if let Some(InferError::Structure(error)) = cause.downcast_ref() {
        return Some(error.hint().to_owned());
    }
    macro_rules! of {
        ($($name:ty),*) => {
            $(if let Some(error) = cause.downcast_ref::<$name>() {
                return error.hint().map(|hint| hint.to_string());
            })*
        };
    }
    of!(ReadError, InferError, PotentialError, ImportError, TrainError, ConfigError, DataError, SimulateError, CacheError, LoadError);
    if let Some(error) = cause.downcast_ref::<StructureError>() {
        Some(error.hint().to_owned())
    } else if let Some(error) = cause.downcast_ref::<LabelError>() {
        Some(error.hint().to_owned())
    } else {
        hint_of(cause.downcast_ref::<ForceError>()?.inner())
    }
}

/// Hints of the libraries name flags of the command line; here they are arguments.
fn in_python(hint: &str) -> String {
    let words = [
        ("`tesseral info MODEL` lists the elements", "`Potential.elements` lists the elements"),
        ("`--engine differentiable`", "`engine=\"differentiable\"`"),
        ("`--device cpu`", "`device=\"cpu\"`"),
        ("--dtype f64", "dtype=\"float64\""),
        ("--dtype f32", "dtype=\"float32\""),
        ("--memory", "memory"),
        ("--stop-above", "stop_above"),
        ("--resume", "resume=True"),
    ];
    words.iter().fold(hint.to_owned(), |text, (flag, argument)| text.replace(flag, argument))
}
