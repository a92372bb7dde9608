//! Checkpoints of a training: everything that is needed to go on as if it had never stopped, in files that are complete or not there.
//!
//! A checkpoint is a safetensors file. Its metadata has one key, `checkpoint`: JSON with `format` ("tesseral-training"), `version`, `state` (the
//! JSON of [`TrainingState`], as text) and `sha256` over the state and, tensor by tensor in the order of their names, name, type, shape and data.
//! Tensors are called by section and name: `param/NAME`, `optimizer/…`, `average/…`.
//!
//! Files are written beside their destination, synced and renamed ([`tesseral_atoms::io::write_atomically`]). In a folder they are called
//! `checkpoint-NUMBER-step-STEP.safetensors`: numbers count the writes, so that the newest is the last one written even if the training went back to
//! an earlier step in between. The best one is written a second time, as `best.safetensors`.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tesseral_atoms::io::write_atomically;
use tesseral_potentials::{NamedTensor, Numbers};

use crate::schedule::ScheduleState;

/// Section of the weights.
pub const PARAMETERS: &str = "param";
/// Section of what the optimiser remembers.
pub const OPTIMIZER: &str = "optimizer";
/// Section of the averaged weights.
pub const AVERAGE: &str = "average";

const FORMAT: &str = "tesseral-training";
const VERSION: u32 = 1;
const KEY: &str = "checkpoint";
const BEST: &str = "best.safetensors";
const LOCK: &str = "lock";

/// Errors of checkpoints.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The file or folder could not be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file or folder could not be written. Checkpoints written before are untouched.
    #[error("{}: {source}", path.display())]
    Write {
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is cut off, changed, or no checkpoint at all.
    #[error("{}: the checkpoint is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// There are checkpoints, and all of them are damaged.
    #[error("{}: none of the {} checkpoints is intact; the newest: {}", folder.display(), damaged.len(), first_reason(damaged))]
    NoneIntact {
        /// The folder.
        folder: PathBuf,
        /// The files, newest first, and what is wrong with each.
        damaged: Vec<(PathBuf, String)>,
        /// Whether the best checkpoint, which is not gone back to by itself, is intact.
        best_is_intact: bool,
    },
    /// Written by a newer version.
    #[error("{}: checkpoint format version {found}, this program reads up to {VERSION}", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Version in the file.
        found: u32,
    },
    /// Intact, but not what this version writes.
    #[error("{}: the checkpoint is intact, but cannot be understood: {reason}", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Written with another configuration.
    #[error("{}: the checkpoint was written with another configuration (hash {found}, now {expected})", path.display())]
    Configuration {
        /// The file.
        path: PathBuf,
        /// Hash in the file.
        found: String,
        /// Hash of the configuration now.
        expected: String,
    },
    /// Another process writes checkpoints there.
    #[error("{}: another training is using this folder", folder.display())]
    InUse {
        /// The folder.
        folder: PathBuf,
    },
    /// Two tensors of one name, a shape that its numbers do not fill, or a state that JSON cannot hold.
    #[error("a checkpoint cannot be made: {0}")]
    Content(String),
}

fn first_reason(damaged: &[(PathBuf, String)]) -> &str {
    damaged.first().map_or("", |(_, reason)| reason)
}

impl CheckpointError {
    /// What to do about it, where there is something.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Write { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    Some("free some space and resume: the checkpoints before this one are intact")
                }
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Some("choose a folder that you may write to"),
                _ => None,
            },
            Self::NoneIntact { best_is_intact: true, .. } => Some("best.safetensors is intact: resume from it by name"),
            Self::NoneIntact { .. } => Some("start the training again"),
            Self::Damaged { .. } => Some("resume from an earlier checkpoint"),
            Self::Version { .. } | Self::Foreign { .. } => Some("resume with the version of the program that wrote it"),
            Self::Configuration { .. } => {
                Some("resume with the configuration that the training was started with, or start another one from its weights")
            }
            Self::InUse { .. } => Some("wait for it to end, or train into another folder"),
            Self::Read { .. } | Self::Content(_) => None,
        }
    }
}

/// The best validation so far.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Best {
    /// The validation loss.
    pub loss: f64,
    /// Steps that were done.
    pub step: u64,
    /// Epochs that were done.
    pub epoch: u64,
}

/// Where the training is: everything but the tensors. JSON keeps finite numbers exactly; NaN and infinity it does not keep.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingState {
    /// Steps of the optimiser that were done.
    pub step: u64,
    /// Whole epochs that were done.
    pub epoch: u64,
    /// Hash of the configuration.
    pub config_hash: String,
    /// State of the random number generator.
    pub rng: serde_json::Value,
    /// State of the data loader.
    pub loader: serde_json::Value,
    /// State of the schedule.
    pub schedule: ScheduleState,
    /// Whatever else is counted: validations without improvement, roll-backs, frames seen.
    pub counters: BTreeMap<String, u64>,
    /// Whatever else the training remembers.
    pub other: serde_json::Value,
    /// The best validation so far.
    pub best: Option<Best>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Metadata {
    format: String,
    version: u32,
    sha256: String,
    state: String,
}

/// The part of the metadata that says whether the rest can be understood.
#[derive(Deserialize)]
struct Identity {
    format: String,
    version: u32,
}

/// Where a training is, with its tensors.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Checkpoint {
    /// Everything but the tensors.
    pub state: TrainingState,
    /// Tensors by section and name.
    pub tensors: BTreeMap<String, NamedTensor>,
}

impl Checkpoint {
    /// A checkpoint without tensors.
    pub fn new(state: TrainingState) -> Self {
        Self { state, tensors: BTreeMap::new() }
    }

    /// Adds a section.
    ///
    /// # Errors
    /// If two of its tensors have one name, or the section is there already.
    pub fn insert(&mut self, section: &str, tensors: Vec<NamedTensor>) -> Result<(), CheckpointError> {
        for mut tensor in tensors {
            tensor.name = format!("{section}/{}", tensor.name);
            if let Some(tensor) = self.tensors.insert(tensor.name.clone(), tensor) {
                return Err(CheckpointError::Content(format!("two tensors are called `{}`", tensor.name)));
            }
        }
        Ok(())
    }

    /// The tensors of a section, by the names they were inserted with.
    pub fn section(&self, section: &str) -> Vec<NamedTensor> {
        let named = |(name, t): (&String, &NamedTensor)| {
            let name = name.strip_prefix(section)?.strip_prefix('/')?;
            Some(NamedTensor { name: name.to_owned(), shape: t.shape.clone(), numbers: t.numbers.clone() })
        };
        self.tensors.iter().filter_map(named).collect()
    }

    /// SHA-256, in hexadecimal, over the names, types, shapes and numbers of all tensors.
    pub fn tensors_hash(&self) -> String {
        let mut hash = Hash::new("");
        for (name, tensor) in &self.tensors {
            hash.tensor(name, dtype(&tensor.numbers), &tensor.shape, &bytes(&tensor.numbers));
        }
        hash.finish()
    }

    /// That it was written with this configuration.
    ///
    /// # Errors
    /// [`CheckpointError::Configuration`] if not; `path` is where it came from.
    pub fn expect_config(&self, hash: &str, path: &Path) -> Result<(), CheckpointError> {
        if self.state.config_hash == hash {
            return Ok(());
        }
        let (found, expected) = (self.state.config_hash.clone(), hash.to_owned());
        Err(CheckpointError::Configuration { path: path.to_owned(), found, expected })
    }

    /// The bytes of the file; the same for the same checkpoint.
    ///
    /// # Errors
    /// [`CheckpointError::Content`] if a shape is not filled by its numbers, or JSON cannot hold the state.
    pub fn encode(&self) -> Result<Vec<u8>, CheckpointError> {
        let content = |e: &dyn std::fmt::Display| CheckpointError::Content(e.to_string());
        let state = serde_json::to_string(&self.state).map_err(|e| content(&e))?;
        if serde_json::from_str::<TrainingState>(&state).ok().as_ref() != Some(&self.state) {
            return Err(content(&"its state holds a number that is not finite"));
        }
        let mut views = Vec::with_capacity(self.tensors.len());
        let mut hash = Hash::new(&state);
        for (name, tensor) in &self.tensors {
            let view = Bytes { dtype: dtype(&tensor.numbers), shape: &tensor.shape, data: bytes(&tensor.numbers) };
            if tensor.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)) != Some(tensor.numbers.len()) {
                return Err(content(&format!("{} numbers of `{name}` are not of shape {:?}", tensor.numbers.len(), tensor.shape)));
            }
            hash.tensor(name, view.dtype, view.shape, &view.data);
            views.push((name, view));
        }
        let metadata = Metadata { format: FORMAT.to_owned(), version: VERSION, sha256: hash.finish(), state };
        let metadata = serde_json::to_string(&metadata).map_err(|e| content(&e))?;
        // One key: several would be written in an order that changes from run to run.
        safetensors::serialize(views, Some(HashMap::from([(KEY.to_owned(), metadata)]))).map_err(|e| content(&e))
    }

    /// A checkpoint from the bytes of a file.
    ///
    /// # Errors
    /// [`CheckpointError::Damaged`] if anything differs from what was written; [`CheckpointError::Version`] and [`CheckpointError::Foreign`] for
    /// what another version wrote. All of them name `path`.
    pub fn decode(bytes: &[u8], path: &Path) -> Result<Self, CheckpointError> {
        let damaged = |reason: String| CheckpointError::Damaged { path: path.to_owned(), reason };
        let foreign = |reason: String| CheckpointError::Foreign { path: path.to_owned(), reason };
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(|e| damaged(e.to_string()))?;
        let file = SafeTensors::deserialize(bytes).map_err(|e| damaged(e.to_string()))?;
        let metadata = header.metadata().as_ref().and_then(|m| m.get(KEY)).ok_or_else(|| damaged("it is no checkpoint".into()))?;
        let identity: Identity = serde_json::from_str(metadata).map_err(|e| damaged(e.to_string()))?;
        if identity.format != FORMAT {
            return Err(damaged(format!("its format is `{}`", identity.format)));
        }
        if identity.version != VERSION {
            return Err(CheckpointError::Version { path: path.to_owned(), found: identity.version });
        }
        let Metadata { sha256, state, .. } = serde_json::from_str(metadata).map_err(|e| damaged(e.to_string()))?;
        let views: BTreeMap<String, _> = file.tensors().into_iter().collect();
        let mut hash = Hash::new(&state);
        for (name, view) in &views {
            hash.tensor(name, view.dtype(), view.shape(), view.data());
        }
        if hash.finish() != sha256 {
            return Err(damaged("its checksum is wrong".into()));
        }
        let tensors = views
            .into_iter()
            .map(|(name, view)| {
                let numbers = numbers(view.dtype(), view.data()).ok_or_else(|| foreign(format!("`{name}` holds {:?}", view.dtype())))?;
                Ok((name.clone(), NamedTensor { name, shape: view.shape().to_vec(), numbers }))
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { state: serde_json::from_str(&state).map_err(|e| foreign(e.to_string()))?, tensors })
    }

    /// Reads a file.
    ///
    /// # Errors
    /// If it cannot be read, and those of [`Self::decode`].
    pub fn read(path: &Path) -> Result<Self, CheckpointError> {
        let bytes = fs::read(path).map_err(|source| CheckpointError::Read { path: path.to_owned(), source })?;
        Self::decode(&bytes, path)
    }
}

/// The checksum of a checkpoint.
struct Hash(Sha256);

impl Hash {
    fn new(state: &str) -> Self {
        let mut hash = Self(Sha256::new());
        hash.counted(state.as_bytes());
        hash
    }

    /// Every part goes in behind its length, so that nothing can move from one part to the next.
    fn counted(&mut self, part: &[u8]) {
        self.0.update((part.len() as u64).to_le_bytes());
        self.0.update(part);
    }

    fn tensor(&mut self, name: &str, dtype: Dtype, shape: &[usize], data: &[u8]) {
        self.counted(name.as_bytes());
        self.counted(format!("{dtype:?} {shape:?}").as_bytes());
        self.counted(data);
    }

    fn finish(self) -> String {
        self.0.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

struct Bytes<'a> {
    dtype: Dtype,
    shape: &'a [usize],
    data: Vec<u8>,
}

impl safetensors::View for Bytes<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }
    fn shape(&self) -> &[usize] {
        self.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.data)
    }
    fn data_len(&self) -> usize {
        self.data.len()
    }
}

fn dtype(numbers: &Numbers) -> Dtype {
    match numbers {
        Numbers::F32(_) => Dtype::F32,
        Numbers::F64(_) => Dtype::F64,
        Numbers::I64(_) => Dtype::I64,
    }
}

fn bytes(numbers: &Numbers) -> Vec<u8> {
    match numbers {
        Numbers::F32(x) => x.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Numbers::F64(x) => x.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Numbers::I64(x) => x.iter().flat_map(|x| x.to_le_bytes()).collect(),
    }
}

fn numbers(dtype: Dtype, data: &[u8]) -> Option<Numbers> {
    let four = || data.as_chunks::<4>().0.iter();
    let eight = || data.as_chunks::<8>().0.iter();
    match dtype {
        Dtype::F32 => Some(Numbers::F32(four().map(|b| f32::from_le_bytes(*b)).collect())),
        Dtype::F64 => Some(Numbers::F64(eight().map(|b| f64::from_le_bytes(*b)).collect())),
        Dtype::I64 => Some(Numbers::I64(eight().map(|b| i64::from_le_bytes(*b)).collect())),
        _ => None,
    }
}

/// A checkpoint file in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    number: u64,
    step: u64,
    path: PathBuf,
}

/// Whether a folder holds checkpoints, as far as it can be read.
pub(crate) fn any_in(folder: &Path) -> bool {
    entries(folder).is_ok_and(|entries| !entries.is_empty())
}

/// The checkpoints of a folder, newest first. A folder that is not there has none.
fn entries(folder: &Path) -> Result<Vec<Entry>, CheckpointError> {
    let read = |source| CheckpointError::Read { path: folder.to_owned(), source };
    let listing = match fs::read_dir(folder) {
        Ok(listing) => listing,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(read(error)),
    };
    let mut entries = Vec::new();
    for file in listing {
        let path = file.map_err(read)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let parts = name.strip_prefix("checkpoint-").and_then(|n| n.strip_suffix(".safetensors")).and_then(|n| n.split_once("-step-"));
        if let Some((number, step)) = parts
            && let (Ok(number), Ok(step)) = (number.parse(), step.parse())
        {
            entries.push(Entry { number, step, path });
        }
    }
    entries.sort_by(|a, b| b.number.cmp(&a.number).then_with(|| a.path.cmp(&b.path)));
    Ok(entries)
}

/// A checkpoint that was found, and what had to be passed over to find it.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// The file.
    pub path: PathBuf,
    /// What is in it.
    pub checkpoint: Checkpoint,
    /// Newer files that are damaged, newest first, and what is wrong with each.
    pub damaged: Vec<(PathBuf, String)>,
}

/// The newest intact checkpoint of a folder; `None` if there is none at all. Damaged files are passed over with a warning that says what is lost.
///
/// # Errors
/// [`CheckpointError::NoneIntact`] if there are checkpoints but all are damaged; if the folder or a file cannot be read, or was written by a
/// newer version.
pub fn latest(folder: &Path) -> Result<Option<Found>, CheckpointError> {
    let entries = entries(folder)?;
    let mut damaged = Vec::new();
    for entry in &entries {
        match Checkpoint::read(&entry.path) {
            Ok(checkpoint) => {
                if let Some(newest) = entries.first().filter(|newest| newest.number != entry.number) {
                    let (from, to) = (checkpoint.state.step, newest.step);
                    let lost = if to > from { format!("steps {} to {to} are lost", from + 1) } else { "nothing older is lost".to_owned() };
                    tracing::warn!("going back to {}, step {from}: {lost}", entry.path.display());
                }
                return Ok(Some(Found { path: entry.path.clone(), checkpoint, damaged }));
            }
            Err(CheckpointError::Damaged { path, reason }) => {
                tracing::warn!("{}: the checkpoint of step {} is damaged: {reason}", path.display(), entry.step);
                damaged.push((path, reason));
            }
            // Removed by the training that writes there since the folder was listed.
            Err(CheckpointError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    if damaged.is_empty() {
        return Ok(None);
    }
    let best_is_intact = Checkpoint::read(&folder.join(BEST)).is_ok();
    Err(CheckpointError::NoneIntact { folder: folder.to_owned(), damaged, best_is_intact })
}

/// A folder that one training writes its checkpoints to.
#[derive(Debug)]
pub struct Checkpoints {
    folder: PathBuf,
    keep: NonZeroUsize,
    /// Held as long as this lives; the system lets go of it when the process ends, however it ends.
    _lock: File,
}

impl Checkpoints {
    /// Takes a folder for writing, and makes it if need be. What a process that was killed left half-written is removed.
    ///
    /// # Errors
    /// [`CheckpointError::InUse`] if another training has it, [`CheckpointError::Write`] if it cannot be made or written to.
    pub fn open(folder: &Path, keep: NonZeroUsize) -> Result<Self, CheckpointError> {
        let write = |path: &Path| {
            let path = path.to_owned();
            move |source| CheckpointError::Write { path, source }
        };
        fs::create_dir_all(folder).map_err(write(folder))?;
        let path = folder.join(LOCK);
        let lock = File::options().create(true).truncate(false).write(true).open(&path).map_err(write(&path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(CheckpointError::InUse { folder: folder.to_owned() }),
            // Some network file systems have no locks.
            Err(TryLockError::Error(error)) => tracing::warn!("{}: cannot be locked against other trainings: {error}", folder.display()),
        }
        let listing = fs::read_dir(folder).map_err(|source| CheckpointError::Read { path: folder.to_owned(), source })?;
        for file in listing.flatten() {
            // Names that `write_atomically` gives; nobody else writes here while the lock is held.
            let name = file.file_name();
            let name = name.to_string_lossy();
            if name.starts_with(".tesseral-") && name.ends_with(".tmp") {
                fs::remove_file(file.path()).map_err(write(&file.path()))?;
            }
        }
        Ok(Self { folder: folder.to_owned(), keep, _lock: lock })
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The file of the best checkpoint, whether it is there or not.
    pub fn best_path(&self) -> PathBuf {
        self.folder.join(BEST)
    }

    /// The newest intact checkpoint, see [`latest`]. `.damaged` is added to the names of damaged ones that are newer, so that they do not count among
    /// those that are kept.
    ///
    /// # Errors
    /// Those of [`latest`].
    pub fn latest(&self) -> Result<Option<Found>, CheckpointError> {
        let found = latest(&self.folder)?;
        for (path, _) in found.iter().flat_map(|f| &f.damaged) {
            let mut aside = path.clone().into_os_string();
            aside.push(".damaged");
            fs::rename(path, &aside).map_err(|source| CheckpointError::Write { path: path.clone(), source })?;
        }
        Ok(found)
    }

    /// Writes a checkpoint, a second time if it is the best, and then removes the oldest ones beyond those that are kept. Returns its path.
    ///
    /// # Errors
    /// [`CheckpointError::Write`] if that fails (a full disk); the checkpoints before it are untouched.
    pub fn save(&self, checkpoint: &Checkpoint, best: bool) -> Result<PathBuf, CheckpointError> {
        let bytes = checkpoint.encode()?;
        let number = entries(&self.folder)?.first().map_or(0, |newest| newest.number + 1);
        let path = self.folder.join(format!("checkpoint-{number:08}-step-{}.safetensors", checkpoint.state.step));
        let write = |path: &Path| {
            let write = |file: &mut io::BufWriter<&mut File>| file.write_all(&bytes);
            write_atomically::<_, io::Error>(path, write).map_err(|source| CheckpointError::Write { path: path.to_owned(), source })
        };
        // The best first: killed between the two, a training goes on from an earlier checkpoint and writes both again.
        if best {
            write(&self.best_path())?;
        }
        write(&path)?;
        for old in entries(&self.folder)?.iter().skip(self.keep.get()) {
            remove(&old.path);
        }
        Ok(path)
    }
}

/// A file that cannot be removed takes space and does no other harm.
fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        tracing::warn!("{}: cannot be removed: {error}", path.display());
    }
}

#[cfg(test)]
mod tests;
