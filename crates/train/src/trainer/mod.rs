//! The training itself: from data and a configuration to a model, in steps that can be interrupted and resumed.
//!
//! A run has a folder:
//!
//! | file | what |
//! |---|---|
//! | `config.toml` | the configuration in full |
//! | `initial.safetensors` | the model that it began with |
//! | `fisher.safetensors` | which weights matter for the old domain ([`crate::finetune::ewc`]), where these are held |
//! | `checkpoints/` | states to resume from ([`crate::checkpoint`]) |
//! | `log.jsonl` | what happened ([`crate::log`]) |
//! | `tensorboard/` | the same for TensorBoard, if it is asked for ([`crate::tensorboard`]) |
//! | `NAME.safetensors` | the model: the averaged weights of the best validation |
//! | `report.html` | the same for people ([`crate::report`]) |
//!
//! A resumed run continues bit for bit where it was: weights, moments, averages, schedule, and the place in the order of frames are in a checkpoint, and the
//! order follows from seed and epoch.
//!
//! Several processes, or ranks, can train one model together ([`train_together`]). Each has all of the model, the optimiser and the data, and goes the same way
//! through it: of the frames of a step each computes a share, and the sums over all ranks are what one process would have computed, but for rounding.
//! The first rank writes all files. At each checkpoint the states of all ranks are compared.

mod checkpoints;
mod course;
mod evaluation;
mod finish;
mod forgetting;
mod objective;
mod setup;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tesseral_potentials::Artifact;

use crate::config::TrainConfig;
use crate::doctor::Findings;
use crate::error::TrainError;
use crate::log::{Epoch, Step, Validation};
use crate::ranks::Ranks;
use crate::report::Provenance;
use crate::stop::Stop;

/// What a training tells while it runs.
#[derive(Debug)]
pub enum Progress<'a> {
    /// What the check of the data found.
    Checked(&'a Findings),
    /// It is about to begin, or to go on.
    Ready(&'a Ready),
    /// A step was made; of so many frames of the epoch so many are done.
    Step(&'a Step, (usize, usize)),
    /// An epoch is over.
    Epoch(&'a Epoch),
    /// The model was validated.
    Validation(&'a Validation),
    /// Something worth a line.
    Event(&'a str),
}

/// What is going to be trained.
#[derive(Debug, Clone, PartialEq)]
pub struct Ready {
    /// Folder of the run.
    pub folder: PathBuf,
    /// Frames to train and to validate on.
    pub frames: (usize, usize),
    /// Frames of the old domain that are trained along in each epoch.
    pub replayed: usize,
    /// Trained numbers, and all.
    pub parameters: (usize, usize),
    /// Epochs in all.
    pub epochs: usize,
    /// Steps and epochs that are done already.
    pub done: (u64, u64),
}

/// How a training ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// All epochs are done.
    Finished,
    /// The validation loss did not get better any more.
    Patience,
    /// Its time is over.
    Time,
    /// Somebody asked it to stop; it can be resumed.
    Interrupted,
    /// Somebody asked it to stop before it began, or went on: nothing was done and nothing saved.
    NotBegun,
}

impl Ending {
    /// The word for it in the log.
    pub fn word(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Patience => "patience",
            Self::Time => "time",
            Self::Interrupted => "interrupted",
            Self::NotBegun => "not begun",
        }
    }
}

/// What a training leaves.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// How it ended.
    pub ending: Ending,
    /// The model, unless it was interrupted.
    pub model: Option<PathBuf>,
    /// The report, if one was asked for.
    pub report: Option<PathBuf>,
    /// Errors on all sets, at the end.
    pub errors: Vec<crate::report::SetRow>,
    /// Errors of a fine-tuning on the old and the new domain, before and after.
    pub forgetting: Vec<crate::report::ForgettingRow>,
}

impl Outcome {
    /// That of a training that leaves no model.
    fn without_model(ending: Ending) -> Self {
        Self { ending, model: None, report: None, errors: Vec::new(), forgetting: Vec::new() }
    }
}

/// What a training is given besides its configuration.
pub struct Request<'a> {
    /// The configuration.
    pub config: &'a TrainConfig,
    /// The model that fine-tuning starts from.
    pub foundation: Option<Artifact>,
    /// Whether a training in the same folder is to go on.
    pub resume: bool,
    /// For the report: program, command, machine. What the training knows itself is filled in.
    pub provenance: Provenance,
}

/// Stack of a thread that trains: differentiation recurses through the graph. Only what is used of it takes memory.
const STACK: usize = 512 << 20;

/// Trains.
///
/// When `stop` becomes true, it ends as soon as its state is one to go on from: before it has begun at once ([`Ending::NotBegun`]), then after the step under
/// way (L-BFGS: before it, as its steps are long), or in the middle of a measurement, which is made anew when it goes on.
///
/// # Errors
/// [`TrainError`]. What was saved before stays.
pub fn train(request: Request<'_>, stop: &AtomicBool, tell: &mut (dyn FnMut(Progress<'_>) + Send)) -> Result<Outcome, TrainError> {
    go(&Arc::new(Ranks::alone()), request, Stop::new(stop), tell)
}

/// Trains together with other ranks, all of which have to call this with the same configuration; nobody but the first needs the folder of the run.
///
/// What comes out is the same on all ranks, but for what only the first one reads and writes. When one of them is asked to stop, as [`Ranks::new`] says, all do
/// at the same place.
///
/// # Errors
/// [`TrainError`]: [`TrainError::Rank`] if it is one of another rank.
pub fn train_together(
    ranks: &Arc<Ranks>,
    request: Request<'_>,
    tell: &mut (dyn FnMut(Progress<'_>) + Send),
) -> Result<Outcome, TrainError> {
    ranks.settle(go(ranks, request, Stop::new(ranks.stop()), tell))
}

fn go(
    ranks: &Arc<Ranks>,
    request: Request<'_>,
    stop: Stop<'_>,
    tell: &mut (dyn FnMut(Progress<'_>) + Send),
) -> Result<Outcome, TrainError> {
    // The thread that trains is one of those that compute: asking other threads would cost two changes of thread for every operation.
    pool()?.install(move || {
        let mut course = match setup::begin(ranks, request, stop, tell) {
            Err(error) if error.is_stop() => return Ok(Outcome::without_model(Ending::NotBegun)),
            course => course?,
        };
        let ending = course.run(stop, tell)?;
        finish::finish(course, ending, stop, tell)
    })
}

/// Threads that train.
fn pool() -> Result<rayon::ThreadPool, TrainError> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(rayon::current_num_threads())
        .stack_size(STACK)
        .thread_name(|k| format!("training {k}"))
        .build()
        .map_err(|e| TrainError::Thread { name: "training", source: std::io::Error::other(e) })
}

/// The files of a run.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    folder: PathBuf,
    name: String,
}

impl Files {
    /// Name of the log.
    pub(crate) const LOG: &str = "log.jsonl";

    pub(crate) fn new(config: &TrainConfig) -> Self {
        Self { folder: config.output.directory.clone(), name: config.output.name.clone() }
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.folder.join("config.toml")
    }

    pub(crate) fn initial(&self) -> PathBuf {
        self.folder.join("initial.safetensors")
    }

    pub(crate) fn fisher(&self) -> PathBuf {
        self.folder.join("fisher.safetensors")
    }

    pub(crate) fn checkpoints(&self) -> PathBuf {
        self.folder.join("checkpoints")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.folder.join(Self::LOG)
    }

    pub(crate) fn tensorboard(&self) -> PathBuf {
        self.folder.join("tensorboard")
    }

    pub(crate) fn model(&self) -> PathBuf {
        self.folder.join(format!("{}.safetensors", self.name))
    }

    pub(crate) fn report(&self) -> PathBuf {
        self.folder.join("report.html")
    }
}
