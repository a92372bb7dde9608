//! The saved state of a run.

use std::path::Path;

use serde::{Deserialize, Serialize};
use tesseral_atoms::Structure;

use super::{INITIAL, RESTART, Settings, Status};
use crate::analysis::Analysis;
use crate::error::SimulateError;
use crate::guards::Memory;
use crate::{dynamics, trajectory};

/// Of the format below.
pub(super) const VERSION: u32 = 1;

/// One replica as it was saved, with the lengths of its files.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Saved {
    pub(super) dynamics: dynamics::Saved,
    pub(super) time_step: f64,
    pub(super) ticks: u64,
    pub(super) halvings: u32,
    pub(super) rollbacks: u32,
    pub(super) calm: u64,
    pub(super) analysis: Analysis,
    pub(super) guards: Memory,
    pub(super) trajectory: trajectory::Position,
    pub(super) thermo: u64,
    pub(super) events: u64,
    pub(super) committee: bool,
    pub(super) status: Status,
}

/// What `restart.json` holds. Numbers are written with the digits that give the same bits back.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Restart {
    pub(super) version: u32,
    pub(super) model: String,
    pub(super) settings: Settings,
    pub(super) rounds: u64,
    pub(super) members: Vec<Saved>,
}

impl Restart {
    pub(super) fn write(&self, folder: &Path) -> Result<(), SimulateError> {
        let path = folder.join(RESTART);
        tesseral_atoms::io::write_atomically::<_, std::io::Error>(&path, |w| Ok(serde_json::to_writer(w, self)?))
            .map_err(SimulateError::io(&path))
    }

    pub(super) fn read(folder: &Path) -> Result<Self, SimulateError> {
        let path = folder.join(RESTART);
        let damaged = |what: String| SimulateError::Resume { path: path.clone(), what };
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let what = format!("no state of a run has been saved in {}", folder.display());
                return Err(SimulateError::input(what, "begin the run without --resume (with --overwrite if the folder is not empty)"));
            }
            Err(error) => return Err(SimulateError::io(&path)(error)),
        };
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let version = serde_json::from_slice::<Version>(&bytes).map_err(|e| damaged(format!("is no saved state: {e}")))?.version;
        if version != VERSION {
            return Err(damaged(format!("has version {version} of saved states, this program knows {VERSION}")));
        }
        let restart: Self = serde_json::from_slice(&bytes).map_err(|e| damaged(format!("is damaged: {e}")))?;
        if restart.members.is_empty() {
            return Err(damaged("is damaged: it has no replica".to_owned()));
        }
        Ok(restart)
    }
}

/// The structure that a run began with.
pub(super) fn initial_structure(folder: &Path) -> Result<Structure, SimulateError> {
    let path = folder.join(INITIAL);
    let first = tesseral_atoms::io::read(&path)?.next().transpose()?;
    first.ok_or_else(|| SimulateError::Resume { path, what: "is empty".to_owned() })
}
