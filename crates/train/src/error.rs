//! What can go wrong in a training.

use std::path::PathBuf;

use tesseral_ops::autograd::AutogradError;
use tesseral_potentials::PotentialError;

use crate::architecture::ArchitectureError;
use crate::average::AverageError;
use crate::checkpoint::CheckpointError;
use crate::communicator::CommunicatorError;
use crate::config::ConfigError;
use crate::data::{DataError, Origin};
use crate::log::LogError;
use crate::optimizer::{OptimizerError, StateError};
use crate::schedule::ScheduleError;
use crate::statistics::StatisticsError;
use crate::stop::Stopped;

/// Why a training did not begin, or ended early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// Of the configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Of the data.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The check of the data found errors.
    #[error("the data cannot be trained on: {errors} error{}", if *errors == 1 { "" } else { "s" })]
    Unfit {
        /// How many.
        errors: usize,
    },
    /// A frame that the model cannot evaluate.
    #[error("{origin}: {source}")]
    Frame {
        /// The frame.
        origin: Origin,
        /// Why not.
        source: PotentialError,
    },
    /// Of statistics.
    #[error(transparent)]
    Statistics(#[from] StatisticsError),
    /// Of hyperparameters.
    #[error(transparent)]
    Architecture(#[from] ArchitectureError),
    /// Of a model.
    #[error(transparent)]
    Potential(#[from] PotentialError),
    /// Of an optimiser.
    #[error(transparent)]
    Optimizer(#[from] OptimizerError),
    /// Of the learning rate.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    /// Of the average of the weights.
    #[error(transparent)]
    Average(#[from] AverageError),
    /// Of a saved state.
    #[error(transparent)]
    State(#[from] StateError),
    /// Of a checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Of the log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// Of differentiation.
    #[error(transparent)]
    Autograd(#[from] AutogradError),
    /// Of the tensor library.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
    /// A number that is none.
    #[error("{what} is not a finite number{}", origin.as_ref().map_or(String::new(), |o| format!(" at {o}")))]
    NotFinite {
        /// Of what.
        what: &'static str,
        /// The frame, where it is known.
        origin: Option<Origin>,
    },
    /// Going back to the last checkpoint did not help.
    #[error(
        "{what} was not a finite number for the {times}th time, each time after going back to the last checkpoint with a lower learning rate"
    )]
    RolledBack {
        /// Of what.
        what: &'static str,
        /// How often.
        times: u64,
    },
    /// A thread that cannot be started.
    #[error("the thread `{name}` cannot be started: {source}")]
    Thread {
        /// Its name.
        name: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// A file that cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A file of a run that cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A folder that holds a run already.
    #[error("{} holds a training already", path.display())]
    Exists {
        /// The folder.
        path: PathBuf,
    },
    /// A folder without a run to resume.
    #[error("{} holds no training to resume", path.display())]
    NothingToResume {
        /// The folder.
        path: PathBuf,
    },
    /// Of the connection between ranks.
    #[error(transparent)]
    Communicator(#[from] CommunicatorError),
    /// Another rank has failed.
    #[error("rank {rank}: {message}")]
    Rank {
        /// Which one.
        rank: usize,
        /// What it says.
        message: String,
        /// What can be done about it.
        hint: Option<String>,
    },
    /// Ranks have something else than the first one.
    #[error("{what} should be the same on all ranks, but {} not what rank 0 has", those_of(ranks))]
    Differ {
        /// Something.
        what: String,
        /// Ranks that differ.
        ranks: Vec<usize>,
    },
    /// A way of fine-tuning that the model or the data do not allow.
    #[error("{what}")]
    Finetune {
        /// A sentence.
        what: String,
        /// What can be done about it.
        hint: &'static str,
    },
    /// It was asked to stop. [`crate::trainer::train`] makes an [`crate::trainer::Ending`] of it.
    #[error(transparent)]
    Stopped(#[from] Stopped),
    /// Training on a GPU with a program that was not built for it.
    #[error("this program was built without training on CUDA devices (training.device)")]
    NoCuda,
    /// The GPU of `training.device` cannot be had.
    #[error("{what}")]
    Device {
        /// Why not.
        what: String,
        /// What to do.
        hint: Option<String>,
    },
    /// An option that is not there yet for what was asked.
    #[error("{what}")]
    Unsupported {
        /// A sentence.
        what: String,
    },
}

/// `that of rank 1 is`, `those of ranks 1, 2 are`.
fn those_of(ranks: &[usize]) -> String {
    if let [rank] = ranks {
        return format!("that of rank {rank} is");
    }
    format!("those of ranks {} are", ranks.iter().map(usize::to_string).collect::<Vec<_>>().join(", "))
}

impl TrainError {
    /// Whether nothing is wrong but that it was asked to stop.
    pub fn is_stop(&self) -> bool {
        matches!(
            self,
            Self::Stopped(_) | Self::Data(DataError::Stopped(_)) | Self::Statistics(StatisticsError::Data(DataError::Stopped(_)))
        )
    }

    /// A next step for the person who reads the error.
    pub fn hint(&self) -> Option<String> {
        let own = |text: &str| Some(text.to_owned());
        match self {
            Self::Config(e) => e.hint(),
            Self::Data(e) => e.hint(),
            Self::Unfit { .. } => own("the findings above say what to do about each"),
            Self::Statistics(e) => e.hint(),
            Self::Architecture(e) => e.hint(),
            Self::Frame { source, .. } | Self::Potential(source) => source.hint().map(|h| h.to_string()),
            Self::Optimizer(e) => e.hint().map(str::to_owned),
            Self::Schedule(e) => e.hint().map(str::to_owned),
            Self::Average(e) => e.hint().map(str::to_owned),
            Self::State(e) => e.hint().map(str::to_owned),
            Self::Checkpoint(e) => e.hint().map(str::to_owned),
            Self::Log(e) => e.hint().map(str::to_owned),
            Self::NotFinite { .. } => {
                own("look at the frame; lower the learning rate; set optimizer.clip_norm; or set training.nan = \"rollback\"")
            }
            Self::RolledBack { .. } => own("lower the learning rate, and look at the frames of the log's last steps"),
            Self::Write { .. } => own("check that the folder exists, that you may write there, and that the disk is not full"),
            Self::Exists { .. } => own("resume it with --resume, or give another output.directory"),
            Self::NothingToResume { .. } => own("leave out --resume to begin"),
            Self::Communicator(e) => e.hint().map(str::to_owned),
            Self::Rank { hint, .. } | Self::Device { hint, .. } => hint.clone(),
            Self::Differ { .. } => own(
                "start the same program with the same arguments and files on all ranks; if it is the weights, on processors of one kind",
            ),
            Self::Finetune { hint, .. } => own(hint),
            Self::NoCuda => own(
                "set training.device = \"cpu\", or build it with the CUDA toolkit and `--features candle-cuda` (scripts/build_candle_cuda.sh does \
                 without the toolkit)",
            ),
            _ => None,
        }
    }
}
