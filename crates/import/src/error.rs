//! What can go wrong while reading a foreign checkpoint.

use std::path::PathBuf;

use crate::torch::archive::ArchiveError;
use crate::torch::module::ModuleError;
use crate::torch::pickle::PickleError;
use crate::torch::tensor::TensorError;

/// An error of this crate. [`Error::hint`] gives a next step where there is one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file could not be read at all.
    #[error("cannot read {path}", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// Anything below, in the file named.
    #[error("{path}: {error}", path = .path.display())]
    InFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: Box<Error>,
    },
    /// The file is not an archive that can be read.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A pickle is malformed, or asks for something that is refused.
    #[error("pickle `{entry}`: {fault}")]
    Pickle {
        /// The archive entry that holds the pickle.
        entry: String,
        /// What is wrong with it.
        fault: PickleError,
    },
    /// A tensor cannot be decoded.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// The module tree does not have the expected form.
    #[error(transparent)]
    Module(#[from] ModuleError),
    /// The pickle holds an object of a class that is no model known here.
    #[error("the checkpoint holds an object of class `{class}`, which is not a model that can be read")]
    UnknownClass {
        /// Dotted name of the class.
        class: String,
    },
    /// The pickle holds a dictionary or another plain value that is no checkpoint known here.
    #[error("the checkpoint holds {found}, which is not a model that can be read")]
    UnknownContents {
        /// A short description with the first keys.
        found: String,
    },
    /// The file has weights but not the numbers needed to build the model around them.
    #[error("{format} holds weights without the hyperparameters of the model")]
    MissingHyperparameters {
        /// What the file is.
        format: &'static str,
        /// Where the complete model is found.
        hint: &'static str,
    },
    /// A compiled TorchScript program.
    #[error("the file is a TorchScript program of class `{class}`, compiled for deployment")]
    DeployedScript {
        /// Dotted name of the outermost class.
        class: String,
        /// Where the readable form is found.
        hint: &'static str,
    },
}

impl Error {
    /// Names the file in which the error occurred.
    #[must_use]
    pub fn in_file(self, path: impl Into<PathBuf>) -> Self {
        Error::InFile { path: path.into(), error: Box::new(self) }
    }

    /// The error without the name of its file.
    #[must_use]
    pub fn kind(&self) -> &Error {
        match self {
            Error::InFile { error, .. } => error.kind(),
            other => other,
        }
    }

    /// What the user can do next, as one sentence.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::InFile { error, .. } => error.hint(),
            Error::Archive(error) => error.hint(),
            Error::Pickle { fault, .. } => fault.hint(),
            Error::Tensor(_) => Some("the file is damaged; fetch it again and compare its checksum".into()),
            Error::MissingHyperparameters { hint, .. } | Error::DeployedScript { hint, .. } => Some((*hint).into()),
            Error::UnknownClass { .. } | Error::UnknownContents { .. } => {
                Some("MACE models (`torch.save(model)`), SevenNet checkpoints and NequIP packages can be read".into())
            }
            Error::Io { .. } | Error::Module(_) => None,
        }
    }
}
