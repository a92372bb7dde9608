//! MACE models → artifacts (model definitions §2).
//!
//! | step | where |
//! |---|---|
//! | a pickled module → [`MaceSource`]: hyperparameters, and tensors under the names of mace-torch | [`MaceSource::read`] |
//! | [`MaceSource`] → artifact: names, layouts and signs of ours | [`MaceSource::into_artifact`] |
//!
//! What changes on the way: edges of MACE point from the neighbour to the centre, ours from the centre to the neighbour, so harmonics of odd
//! degree change sign; and MACE couples with the 3j symbols of e3nn 0.4, artifacts with those of later versions. Both are absorbed into the last
//! matrix of each radial network. Everything else is renamed, reshaped or permuted, in the precision of the checkpoint.

mod artifact;
mod module;
mod tensors;

use std::collections::BTreeMap;

use tesseral_o3::{CouplingError, SymmetricBasisError, WignerError};
use tesseral_potentials::mace::MaceConfig;
use tesseral_potentials::{Artifact, PotentialError, Provenance};

use crate::source::ForeignCheckpoint;
use crate::torch::module::ModuleError;
use crate::torch::tensor::Tensor;

pub use tensors::{correlation, radial_network};

/// A MACE model as mace-torch has it: hyperparameters, and tensors in its own names, layouts and signs.
#[derive(Debug, Clone)]
pub struct MaceSource {
    /// The hyperparameters.
    pub config: MaceConfig,
    /// The tensors under the names of the state dict of mace-torch, the 3j symbols in generated code
    /// (`interactions.1.conv_tp._compiled_main_left_right._w3j_1_1_2`) among them where the file has them.
    pub tensors: BTreeMap<String, Tensor>,
}

/// What keeps a MACE model from being converted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MaceError {
    /// A part of the model is of a class that is not understood.
    #[error("`{path}` is of class `{class}`, which is not understood; {known}")]
    UnknownClass {
        /// Dotted name of the part; empty for the model itself.
        path: String,
        /// Its class.
        class: String,
        /// The classes that are.
        known: &'static str,
    },
    /// The model was converted for cuEquivariance.
    #[error(
        "the model was converted for cuEquivariance (`{path}` is of class `{class}`), whose product basis is not in the file as tensors"
    )]
    CuEquivariance {
        /// Dotted name of the first such part.
        path: String,
        /// Its class.
        class: String,
    },
    /// A hyperparameter has a value that is not understood.
    #[error("`{path}` {reason}")]
    Value {
        /// Dotted name.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// A tensor is missing.
    #[error("the model has no tensor `{name}`")]
    MissingTensor {
        /// Its name.
        name: String,
    },
    /// A tensor does not have the size that the hyperparameters imply.
    #[error("tensor `{name}` has shape {found:?}, the hyperparameters imply {expected}")]
    Shape {
        /// Its name.
        name: String,
        /// Shape in the checkpoint.
        found: Vec<usize>,
        /// What is needed.
        expected: String,
    },
    /// A tensor of a type that weights do not have.
    #[error("tensor `{name}` is of type {dtype}; weights are floating-point numbers")]
    Dtype {
        /// Its name.
        name: String,
        /// Its type.
        dtype: String,
    },
    /// A 3j symbol in the file is none.
    #[error("tensor `{name}` differs by {deviation:.1e} from the Wigner 3j symbol of its degrees and from the negative of it")]
    Wigner3j {
        /// Its name.
        name: String,
        /// Largest deviation of an element.
        deviation: f64,
    },
    /// A product basis cannot be read.
    #[error("`{name}`: {source}")]
    Basis {
        /// Name of the tensor.
        name: String,
        /// What is wrong.
        source: SymmetricBasisError,
    },
    /// Tensors that would be lost.
    #[error("the model has tensors that are not understood: {}", names.join(", "))]
    UnreadTensors {
        /// Their names, the first few.
        names: Vec<String>,
    },
    /// Irreps that do not couple.
    #[error(transparent)]
    Coupling(#[from] CouplingError),
    /// Degrees beyond what 3j symbols are computed for.
    #[error(transparent)]
    Wigner(#[from] WignerError),
    /// Reading failed.
    #[error(transparent)]
    Read(#[from] crate::Error),
    /// The artifact could not be made.
    #[error(transparent)]
    Artifact(#[from] PotentialError),
}

impl From<ModuleError> for MaceError {
    fn from(error: ModuleError) -> Self {
        Self::Read(error.into())
    }
}

impl MaceError {
    /// What the user can do next, if anything can be said.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::UnknownClass { .. } | Self::Value { .. } | Self::UnreadTensors { .. } => {
                "MACE and ScaleShiftMACE as mace-torch up to 0.3.16 saves them are understood; please report others".into()
            }
            Self::CuEquivariance { .. } => {
                "convert it back in the Python environment it comes from: `mace_cueq_to_e3nn MODEL --return_model` writes MODEL.e3nn_model.pt beside it (in spite of the name of the flag)".into()
            }
            Self::MissingTensor { .. } | Self::Shape { .. } | Self::Dtype { .. } | Self::Wigner3j { .. } | Self::Basis { .. } => {
                "the file is damaged or was edited; fetch it again and compare its checksum".into()
            }
            Self::Read(error) => return error.hint(),
            Self::Artifact(error) => return error.hint(),
            Self::Coupling(_) | Self::Wigner(_) => return None,
        })
    }

    fn value(path: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Value { path: path.into(), reason: reason.into() }
    }
}

/// Converts a pickled MACE model. Nothing in the file is executed.
///
/// # Errors
/// [`MaceError`]; its hint says what can be done.
pub fn convert(checkpoint: &ForeignCheckpoint, name: &str) -> Result<Artifact, MaceError> {
    let provenance = Provenance {
        source: checkpoint.path().file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default(),
        sha256: Some(checkpoint.sha256().to_owned()),
        producer: "mace-torch".to_owned(),
        notes: Vec::new(),
    };
    MaceSource::read(checkpoint)?.into_artifact(name, provenance)
}
