//! Opening a foreign checkpoint and saying what it is.

use std::fmt;
use std::io::{BufReader, Cursor, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::Value as Json;
use sha2::{Digest, Sha256};

use crate::error::Error;
use crate::json::JsonWriter;
use crate::limits::Limits;
use crate::torch::archive::{ArchiveError, ArchiveKind, TorchArchive};
use crate::torch::describe::{self, Detail};
use crate::torch::module::{self, ModuleError, StateDict};
use crate::torch::pickle::{self, Pickle};
use crate::torch::tensor::{Tensor, TensorData, TensorError, TensorRef};
use crate::torch::value::{Value, ValueRef};

/// Which program wrote a checkpoint, and in which form.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CheckpointKind {
    /// `torch.save(model)` of a MACE model: the whole module tree.
    MaceModule {
        /// Dotted class name, such as `mace.modules.models.ScaleShiftMACE`.
        class: String,
    },
    /// A SevenNet checkpoint: a dictionary with `model_state_dict` and `config`.
    SevenNet,
    /// A NequIP package (`.nequip.zip`), version 0.7 or newer: module tree and Python sources.
    NequipPackage {
        /// Name of the pickle that was read, such as `model/eager_model.pkl`.
        pickle: String,
    },
    /// A NequIP model deployed as TorchScript, version 0.6 or older.
    NequipScript {
        /// Dotted class name.
        class: String,
    },
    /// A checkpoint of NequIP training (PyTorch Lightning): a dictionary with `state_dict` and `hyper_parameters`.
    NequipTraining,
    /// The state dict in a training folder of NequIP, version 0.6 or older; `config.yaml` lies beside it.
    NequipState,
}

impl fmt::Display for CheckpointKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MaceModule { class } => write!(f, "MACE model ({class})"),
            Self::SevenNet => write!(f, "SevenNet checkpoint"),
            Self::NequipPackage { pickle } => write!(f, "NequIP package ({pickle})"),
            Self::NequipScript { class } => write!(f, "NequIP model deployed as TorchScript ({class})"),
            Self::NequipTraining => write!(f, "NequIP training checkpoint"),
            Self::NequipState => write!(f, "NequIP state dict"),
        }
    }
}

/// What a checkpoint is read from.
trait Source: Read + Seek + Send {}
impl<T: Read + Seek + Send> Source for T {}

/// An opened checkpoint of another program: its records, and its tensors on request.
pub struct ForeignCheckpoint {
    path: PathBuf,
    kind: CheckpointKind,
    pickle: Pickle,
    archive: Mutex<TorchArchive<Box<dyn Source>>>,
    sha256: String,
    limits: Limits,
}

impl fmt::Debug for ForeignCheckpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ForeignCheckpoint").field("path", &self.path).field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl ForeignCheckpoint {
    /// Opens a file, reads its pickle and classifies it. Tensors are read when they are asked for.
    ///
    /// # Errors
    /// [`Error`], always with the name of the file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::open_with(path, Limits::default())
    }

    /// As [`Self::open`], with other limits.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_with(path: impl AsRef<Path>, limits: Limits) -> Result<Self, Error> {
        let path = path.as_ref();
        let file = std::fs::File::open(path).and_then(|file| {
            if file.metadata()?.is_dir() {
                return Err(std::io::ErrorKind::IsADirectory.into());
            }
            Ok(file)
        });
        let file = file.map_err(|source| Error::Io { path: path.into(), source })?;
        Self::read(path.into(), Box::new(BufReader::new(file)), limits).map_err(|error| error.in_file(path))
    }

    /// Opens a checkpoint held in memory; `name` stands for its path in errors.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn from_bytes(name: impl Into<PathBuf>, bytes: Vec<u8>, limits: Limits) -> Result<Self, Error> {
        let name = name.into();
        Self::read(name.clone(), Box::new(Cursor::new(bytes)), limits).map_err(|error| error.in_file(name))
    }

    fn read(path: PathBuf, mut source: Box<dyn Source>, limits: Limits) -> Result<Self, Error> {
        let sha256 = sha256(&mut source).map_err(ArchiveError::from)?;
        let mut archive = TorchArchive::open(source, &limits)?;
        let entry = pickle_entry(&archive)?;
        let pickle = read_pickle(&mut archive, &entry, &limits)?;
        let kind = classify(&archive, &entry, pickle.root())?;
        tracing::debug!(path = %path.display(), %kind, records = pickle.heap().len(), "checkpoint opened");
        Ok(Self { path, kind, pickle, archive: Mutex::new(archive), sha256, limits })
    }

    /// The file it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it is.
    pub fn kind(&self) -> &CheckpointKind {
        &self.kind
    }

    /// SHA-256 of the file, in lower-case hexadecimal.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// The outermost record: the module, or the dictionary.
    pub fn root(&self) -> ValueRef<'_> {
        self.pickle.root()
    }

    /// The record that holds the weights: the module, or the dictionary of tensors.
    ///
    /// # Errors
    /// [`ModuleError::Missing`] where a training checkpoint has none.
    pub fn model(&self) -> Result<ValueRef<'_>, ModuleError> {
        match self.kind {
            CheckpointKind::SevenNet => self.root().require("model_state_dict"),
            CheckpointKind::NequipTraining => self.root().require("state_dict"),
            _ => Ok(self.root()),
        }
    }

    /// All tensors of the model under the names that torch gives them.
    ///
    /// # Errors
    /// [`Error::Module`] for malformed trees, [`Error::Tensor`] naming a tensor that lies outside its storage.
    pub fn state_dict(&self) -> Result<StateDict, Error> {
        module::state_dict(self.model()?, &self.limits)
    }

    /// Reads one tensor; `name` is for error messages.
    ///
    /// # Errors
    /// [`Error::Tensor`] or [`Error::Archive`], naming the tensor or the entry.
    pub fn tensor(&self, name: &str, tensor: &TensorRef) -> Result<Tensor, Error> {
        read_tensor(&mut self.archive(), name, tensor)
    }

    /// The numbers in a record: a number, a tensor, a numpy array, or a list of numbers. `name` is for messages.
    ///
    /// # Errors
    /// [`TensorError::Type`] for anything else; otherwise as [`Self::tensor`].
    pub fn numbers(&self, name: &str, value: ValueRef<'_>) -> Result<Tensor, Error> {
        let wrong = |found: ValueRef<'_>| TensorError::Type {
            tensor: name.into(),
            expected: "a number, a tensor or a list of numbers",
            found: found.kind(),
        };
        if let Some(tensor) = value.as_tensor() {
            return self.tensor(name, tensor);
        }
        if let Some(array) = value.as_array() {
            return Ok(array.to_tensor(value.heap(), name)?);
        }
        if let Some(number) = value.as_f64() {
            return Ok(Tensor { shape: Vec::new(), data: TensorData::F64(vec![number]) });
        }
        let numbers = value
            .as_sequence()
            .ok_or_else(|| wrong(value))?
            .map(|item| item.as_f64().ok_or_else(|| wrong(item)))
            .collect::<Result<Vec<f64>, _>>()?;
        Ok(Tensor { shape: vec![numbers.len()], data: TensorData::F64(numbers) })
    }

    /// The tensors inside the code that e3nn generated and keeps as nested archives: 3j symbols under names such as
    /// `interactions.1.conv_tp._compiled_main_left_right._w3j_1_1_2`.
    ///
    /// # Errors
    /// [`Error`] where a nested archive is malformed.
    pub fn generated_tensors(&self) -> Result<Vec<(String, Tensor)>, Error> {
        let mut found = Vec::new();
        for (prefix, bytes) in module::generated_code(self.model()?)? {
            let mut archive = TorchArchive::open(Cursor::new(bytes), &self.limits)?;
            let pickle = read_pickle(&mut archive, "data.pkl", &self.limits)?;
            for entry in module::state_dict(pickle.root(), &self.limits)?.iter() {
                let name = format!("{prefix}.{}", entry.name);
                let tensor = read_tensor(&mut archive, &name, &entry.tensor)?;
                found.push((name, tensor));
            }
        }
        Ok(found)
    }

    /// A text entry of the archive, such as `model/package_metadata.txt` of a NequIP package or `extra/r_max` of a
    /// deployed TorchScript model, where it exists.
    ///
    /// # Errors
    /// [`Error::Archive`] where the entry is damaged or longer than 1 MiB.
    pub fn text_entry(&self, name: &str) -> Result<Option<String>, Error> {
        let mut archive = self.archive();
        if !archive.contains(name) {
            return Ok(None);
        }
        let bytes = archive.read(name, 1 << 20)?;
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// A record as JSON, with tensors and arrays as nested lists, objects as their class names, and numbers that are
    /// not finite as text.
    ///
    /// # Errors
    /// [`ModuleError::TooLarge`] for records that contain themselves; otherwise as [`Self::tensor`].
    pub fn to_json(&self, value: ValueRef<'_>) -> Result<Json, Error> {
        JsonWriter::new(self).write("", value)
    }

    /// An account of what the file holds, for people: a header and an indented tree.
    pub fn describe(&self, detail: Detail) -> String {
        format!("{}\n{}\nsha256 {}\n\n{}", self.path.display(), self.kind, self.sha256, describe::describe(self.root(), detail))
    }

    fn archive(&self) -> MutexGuard<'_, TorchArchive<Box<dyn Source>>> {
        // The archive keeps no state between reads that a panic could leave half-done.
        self.archive.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn sha256(source: &mut dyn Source) -> std::io::Result<String> {
    source.seek(SeekFrom::Start(0))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match source.read(&mut buffer)? {
            0 => break,
            count => hasher.update(&buffer[..count]),
        }
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The entry whose pickle holds the model.
fn pickle_entry<R: Read + Seek>(archive: &TorchArchive<R>) -> Result<String, Error> {
    if archive.kind() != ArchiveKind::Package {
        return Ok("data.pkl".into());
    }
    let eager = "model/eager_model.pkl";
    let pickle = if archive.contains(eager) { Some(eager) } else { archive.names().find(|name| name.ends_with("model.pkl")) };
    pickle.map(str::to_owned).ok_or_else(|| Error::UnknownContents { found: "a `torch.package` without a model".into() })
}

fn read_pickle<R: Read + Seek>(archive: &mut TorchArchive<R>, entry: &str, limits: &Limits) -> Result<Pickle, Error> {
    let bytes = archive.read(entry, limits.pickle_bytes)?;
    pickle::load(&bytes, limits).map_err(|fault| Error::Pickle { entry: format!("{}/{entry}", archive.root()), fault })
}

fn read_tensor<R: Read + Seek>(archive: &mut TorchArchive<R>, name: &str, tensor: &TensorRef) -> Result<Tensor, Error> {
    tensor.check(name)?;
    let storage = &tensor.storage;
    let declared = storage.numel.saturating_mul(storage.dtype.size());
    if let Some(found) = archive.storage_bytes(&storage.key)
        && found != declared
    {
        return Err(Error::Tensor(TensorError::StorageSize { tensor: name.into(), key: storage.key.clone(), declared, found }));
    }
    let bytes = archive.read_storage(&storage.key)?;
    Ok(tensor.decode(name, &bytes, archive.byte_order())?)
}

fn classify<R: Read + Seek>(archive: &TorchArchive<R>, entry: &str, root: ValueRef<'_>) -> Result<CheckpointKind, Error> {
    if let Some(class) = root.class() {
        let class = class.to_string();
        return match archive.kind() {
            ArchiveKind::Script if class.contains("nequip") => Ok(CheckpointKind::NequipScript { class }),
            ArchiveKind::Script => {
                let hint = if class.contains("mace") {
                    "import the `.model` file it was compiled from"
                } else {
                    "import the checkpoint (`.pth`) it was deployed from"
                };
                Err(Error::DeployedScript { class, hint })
            }
            ArchiveKind::Package if class.starts_with("nequip.") || class.starts_with("torch.nn.modules.") => {
                Ok(CheckpointKind::NequipPackage { pickle: entry.into() })
            }
            ArchiveKind::Saved if class.starts_with("mace.modules.") => Ok(CheckpointKind::MaceModule { class }),
            _ => Err(Error::UnknownClass { class }),
        };
    }
    let Value::Dict(_) = root.value() else {
        return Err(Error::UnknownContents { found: root.kind() });
    };
    let has = |key: &str| root.get(key).is_some();
    if has("model_state_dict") && has("config") {
        Ok(CheckpointKind::SevenNet)
    } else if has("state_dict") && has("hyper_parameters") {
        Ok(CheckpointKind::NequipTraining)
    } else if has("model") && has("optimizer") {
        Err(Error::MissingHyperparameters {
            format: "the file is a training checkpoint of MACE, which",
            hint: "import the `.model` file that `mace_run_train` writes beside the checkpoints",
        })
    } else if root.as_dict().into_iter().flatten().all(|(_, value)| value.as_tensor().is_some()) && !is_empty(root) {
        let mut names = root.as_dict().into_iter().flatten().filter_map(|(name, _)| name.as_str());
        if names.any(|name| name.ends_with("layer0_convnet.conv.linear_1.weight")) {
            return Ok(CheckpointKind::NequipState);
        }
        Err(Error::MissingHyperparameters {
            format: "the file is a bare state dict, which",
            hint: "save the whole model: `torch.save(model, path)` for MACE, the training checkpoint for SevenNet",
        })
    } else {
        let keys: Vec<String> = root.as_dict().into_iter().flatten().take(6).map(|(key, _)| key.kind()).collect();
        Err(Error::UnknownContents { found: format!("{} with the keys {}", root.kind(), keys.join(", ")) })
    }
}

fn is_empty(dict: ValueRef<'_>) -> bool {
    dict.as_dict().is_none_or(|mut entries| entries.next().is_none())
}
