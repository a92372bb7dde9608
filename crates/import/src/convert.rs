//! From a foreign checkpoint, whatever it is, to an artifact.

use std::path::Path;

use tesseral_potentials::Artifact;

use crate::mace::MaceError;
use crate::nequip::NequipError;
use crate::sevennet::SevenNetError;
use crate::source::{CheckpointKind, ForeignCheckpoint};

/// What keeps a checkpoint from being converted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// The file cannot be read, or is no checkpoint known here.
    #[error(transparent)]
    Read(#[from] crate::Error),
    /// A MACE model that is not understood.
    #[error(transparent)]
    Mace(#[from] MaceError),
    /// A NequIP model that is not understood.
    #[error(transparent)]
    Nequip(#[from] NequipError),
    /// A SevenNet checkpoint that is not understood.
    #[error(transparent)]
    SevenNet(#[from] SevenNetError),
}

impl ImportError {
    /// What the user can do next, if anything can be said.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Read(e) => e.hint(),
            Self::Mace(e) => e.hint(),
            Self::Nequip(e) => e.hint(),
            Self::SevenNet(_) => Some("checkpoints written by sevenn up to 0.13 are known; please report newer ones".into()),
        }
    }
}

/// Reads a MACE `.model`, a SevenNet `.pth`, a NequIP package, checkpoint or training folder and converts it. Nothing in the file is executed.
///
/// The artifact is named after the file.
///
/// # Errors
/// [`ImportError`]; its hint says what can be done.
pub fn import(path: &Path) -> Result<Artifact, ImportError> {
    let name = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_else(|| "imported".to_owned());
    if path.is_dir() {
        return Ok(crate::nequip::convert_folder(path, &name)?);
    }
    convert(&ForeignCheckpoint::open(path)?, &name)
}

/// Converts a checkpoint that is open already.
///
/// # Errors
/// As [`import`].
pub fn convert(checkpoint: &ForeignCheckpoint, name: &str) -> Result<Artifact, ImportError> {
    match checkpoint.kind() {
        CheckpointKind::MaceModule { .. } => Ok(crate::mace::convert(checkpoint, name)?),
        CheckpointKind::SevenNet => Ok(crate::sevennet::convert(checkpoint, name)?),
        CheckpointKind::NequipPackage { .. }
        | CheckpointKind::NequipTraining
        | CheckpointKind::NequipScript { .. }
        | CheckpointKind::NequipState => Ok(crate::nequip::convert(checkpoint, name)?),
    }
}
