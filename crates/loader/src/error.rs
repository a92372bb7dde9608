//! Why a model cannot be loaded.

use std::path::PathBuf;

use tesseral_import::ImportError;
use tesseral_models::{CacheError, ManifestError};
use tesseral_potentials::error::PotentialError;

/// A model that cannot be loaded. [`LoadError::hint`] gives a next step where there is one.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A known model that is not in the cache.
    #[error("model `{name}` is not installed")]
    NotInstalled {
        /// Its canonical name.
        name: String,
    },
    /// Neither a known name nor a file.
    #[error("no model is called `{name}`, and there is no such file")]
    Unknown {
        /// What was asked for.
        name: String,
        /// Known names that are spelled alike.
        near: Vec<String>,
    },
    /// A path that leads nowhere.
    #[error("there is no model file {path}", path = .path.display())]
    NoFile {
        /// The path.
        path: PathBuf,
    },
    /// A path to a folder.
    #[error("{path} is a folder, not a model", path = .path.display())]
    Folder {
        /// The path.
        path: PathBuf,
    },
    /// The file cannot be read; the operating system's message names it.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The list of known models cannot be used.
    #[error(transparent)]
    Manifest(Box<ManifestError>),
    /// The folder of installed models cannot be used.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The artifact cannot be used.
    #[error(transparent)]
    Potential(Box<PotentialError>),
    /// The checkpoint cannot be imported.
    #[error(transparent)]
    Import(Box<ImportError>),
}

impl LoadError {
    /// A next step for the person who reads the error.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotInstalled { name } => Some(format!("`tesseral fetch {name}` downloads, verifies and imports it")),
            Self::Unknown { near, .. } if near.is_empty() => {
                Some("`tesseral models` lists the known models; a file is given by its path".to_owned())
            }
            Self::Unknown { near, .. } => {
                let near = near.join("` or `");
                Some(format!("did you mean `{near}`? `tesseral models` lists all, `tesseral fetch NAME` installs one"))
            }
            Self::NoFile { .. } => Some("a model is given by its path, or by a name that `tesseral models` lists".to_owned()),
            Self::Folder { .. } | Self::Io(_) | Self::Manifest(_) => None,
            Self::Cache(error) => error.hint(),
            Self::Potential(error) => error.hint(),
            Self::Import(error) => error.hint(),
        }
    }
}

impl From<ManifestError> for LoadError {
    fn from(error: ManifestError) -> Self {
        Self::Manifest(Box::new(error))
    }
}

impl From<PotentialError> for LoadError {
    fn from(error: PotentialError) -> Self {
        Self::Potential(Box::new(error))
    }
}

impl From<ImportError> for LoadError {
    fn from(error: ImportError) -> Self {
        Self::Import(Box::new(error))
    }
}
