//! What can go wrong in a simulation.

use std::path::PathBuf;

use tesseral_atoms::io::{ReadError, WriteError};
use tesseral_atoms::{ForceError, StructureError};

/// Errors of simulations.
#[derive(Debug, thiserror::Error)]
pub enum SimulateError {
    /// The force field failed.
    #[error("{during}")]
    Force {
        /// When: "step 12", "displacement 3 of 10".
        during: String,
        /// Why.
        #[source]
        source: ForceError,
    },
    /// Settings, or a structure, that make no sense together.
    #[error("{what}")]
    Input {
        /// What is wrong.
        what: String,
        /// What to do.
        hint: Option<String>,
    },
    /// The structure cannot be simulated by anything.
    #[error(transparent)]
    Structure(#[from] StructureError),
    /// A file cannot be read or written.
    #[error("{}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file of an earlier run that does not fit this one, or is damaged.
    #[error("{}: {what}", path.display())]
    Resume {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A structure file cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A structure cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl SimulateError {
    /// Wrong input, with what to do about it.
    pub fn input(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Input { what: what.into(), hint: Some(hint.into()) }
    }

    /// Names the moment at which a force field failed.
    pub fn force(during: impl Into<String>) -> impl FnOnce(ForceError) -> Self {
        let during = during.into();
        move |source| Self::Force { during, source }
    }

    /// Names the file that could not be read or written.
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }

    /// What the user can do about it, if anything can be said. (The hint of a force field's own error is found in its source.)
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Input { hint, .. } => hint.clone(),
            Self::Structure(error) => Some(error.hint().to_owned()),
            Self::Read(error) => error.hint().map(str::to_owned),
            Self::Resume { .. } => Some("start the run anew in another folder".to_owned()),
            Self::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
                Some("make room and go on with --resume: what was written until then is whole".to_owned())
            }
            Self::Force { .. } | Self::Io { .. } | Self::Write(_) => None,
        }
    }
}
