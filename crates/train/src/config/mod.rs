//! The configuration of a training: one TOML file, over a preset, under the command line.
//!
//! ```toml
//! extends = "mace-small"
//! [data]
//! train = ["train.xyz"]
//! [training]
//! max_epochs = 100
//! ```
//!
//! [`TrainConfig::read`] reads it. A key that does not exist is an error that says what may have been meant; a value of a wrong type one that says what
//! was expected; both name key, file and line. [`template`] is a file with every key, and [`TrainConfig::to_toml`] writes what was finally used.

mod error;
mod loss;
mod overrides;
mod template;
mod training;
mod tree;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use error::{ConfigError, Known, Place, Source};
pub use loss::{LossConfig, LossKind, LossWeights, StageTwoConfig, StageTwoWeights};
pub use overrides::Presets;
pub use template::template;
pub use training::{
    BatchConfig, CheckpointConfig, FinetuneConfig, FinetuneMode, LoraConfig, NewElements, OnNan, OutputConfig, Precision, ReplayConfig,
    ReplayLabels, Time, TrainingConfig, TrainingDevice,
};

use crate::architecture::ModelConfig;
use crate::average::AverageConfig;
use crate::data::DataConfig;
use crate::doctor::DoctorConfig;
use crate::optimizer::{OptimizerConfig, OptimizerError};
use crate::schedule::ScheduleConfig;
use crate::statistics::StatisticsConfig;

/// Everything that a training is told.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainConfig {
    /// Files and what to read from them.
    pub data: DataConfig,
    /// How the data are checked before anything is trained.
    pub doctor: DoctorConfig,
    /// The model, where it is trained from scratch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelConfig>,
    /// Energies of atoms, scales and the average number of neighbours.
    pub statistics: StatisticsConfig,
    /// What is minimised.
    pub loss: LossConfig,
    /// How it is minimised.
    pub optimizer: OptimizerConfig,
    /// The learning rate over time.
    pub schedule: ScheduleConfig,
    /// The moving average of the weights.
    pub average: AverageConfig,
    /// The course of the training.
    pub training: TrainingConfig,
    /// What is fine-tuned, and how.
    pub finetune: FinetuneConfig,
    /// Where results go.
    pub output: OutputConfig,
}

/// Keys whose values are paths of files (lists of paths, or of tables with a `path`) or folders.
const PATHS: [&[&str]; 7] = [
    &["data", "train"],
    &["data", "valid"],
    &["data", "test"],
    &["data", "cache"],
    &["finetune", "replay", "files"],
    &["finetune", "forgetting"],
    &["output", "directory"],
];
/// The key of the model to start from: a path if there is such a file, else a name.
const FOUNDATION: &[&str] = &["finetune", "foundation"];

/// What a value does not fulfil, before its place is known.
#[derive(Debug)]
pub(crate) struct Invalid {
    key: String,
    reason: String,
}

impl Invalid {
    pub(crate) fn new(key: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { key: key.into(), reason: reason.into() }
    }
}

impl TrainConfig {
    /// Reads a configuration, over what it extends, under `overrides` (`section.key=value`, the last one wins).
    ///
    /// Paths in a file are relative to its folder, those of overrides to the current one. `extends` names one of `presets` or, ending in `.toml`,
    /// a file.
    ///
    /// # Errors
    /// [`ConfigError`] with key, file and line.
    pub fn read(path: &Path, overrides: &[String], presets: Presets<'_>) -> Result<Self, ConfigError> {
        Self::parse(&overrides::read_text(path)?, path, overrides, presets)
    }

    /// As [`Self::read`], of a text as if it stood in the file `path`.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn parse(text: &str, path: &Path, overrides: &[String], presets: Presets<'_>) -> Result<Self, ConfigError> {
        let source = Source::File(Arc::from(path));
        let mut root = overrides::with_base(text, &source, presets, 0)?;
        for text in overrides {
            overrides::merge(&mut root, overrides::parse_override(text)?);
        }
        let mut keys = PATHS.to_vec();
        let foundation = root.find(FOUNDATION.iter().copied());
        let folder = if let Source::File(file) = &foundation.place.source { file.parent() } else { None };
        if folder.zip(foundation.text()).is_some_and(|(folder, file)| folder.join(file).exists()) {
            keys.push(FOUNDATION);
        }
        tree::resolve_paths(&mut root, &keys);
        let config: Self = root.read().map_err(elsewhere)?;
        config.check().map_err(|Invalid { key, reason }| ConfigError::Value {
            place: root.find(key.split('.')).place.clone(),
            key,
            reason,
        })?;
        Ok(config)
    }

    /// What types alone do not say, of the sections that belong here.
    fn check(&self) -> Result<(), Invalid> {
        self.training.check()?;
        self.loss.check(self.training.max_epochs)?;
        self.optimizer.validate().map_err(|error| match error {
            OptimizerError::Config { key, reason } => Invalid::new(format!("optimizer.{key}"), format!("cannot be used: {reason}")),
            other => Invalid::new("optimizer", format!("cannot be used: {other}")),
        })?;
        self.finetune.check()?;
        self.output.check()
    }

    /// That there is something to train on, and something to train.
    ///
    /// # Errors
    /// [`ConfigError::Missing`] or [`ConfigError::Value`] naming the key.
    pub fn require_training(&self, path: &Path) -> Result<(), ConfigError> {
        let place = Place { source: Source::File(Arc::from(path)), line: 1 };
        if self.data.train.is_empty() {
            return Err(ConfigError::Missing { key: "data.train".into(), place });
        }
        match (&self.model, &self.finetune.foundation) {
            (None, None) => Err(ConfigError::Missing { key: "model.family".into(), place }),
            (Some(_), Some(_)) => Err(ConfigError::Value {
                key: "model".into(),
                place,
                reason: "describes a new model, but `finetune.foundation` names one to start from: keep one of the two".into(),
            }),
            (_, None) if self.finetune.mode != FinetuneMode::Plain => Err(ConfigError::Value {
                key: "finetune.mode".into(),
                place,
                reason: "is for a model to start from, but there is no `finetune.foundation`".into(),
            }),
            _ => Ok(()),
        }
    }

    /// The configuration in full, as TOML, with absolute paths: kept beside the run, it says what was done and can be read again.
    ///
    /// # Errors
    /// [`ConfigError::Write`] if a number is too large for TOML.
    pub fn to_toml(&self) -> Result<String, ConfigError> {
        let mut value = toml::Value::try_from(self).map_err(|e| ConfigError::Write(e.to_string()))?;
        let is_file = self.finetune.foundation.as_ref().is_some_and(|f| Path::new(f).exists());
        for key in PATHS.iter().chain(is_file.then_some(&FOUNDATION)) {
            let mut node = Some(&mut value);
            for part in *key {
                node = node.and_then(|n| n.get_mut(*part));
            }
            node.into_iter().try_for_each(absolute)?;
        }
        toml::to_string_pretty(&value).map_err(|e| ConfigError::Write(e.to_string()))
    }
}

/// Makes the paths in a value absolute.
fn absolute(value: &mut toml::Value) -> Result<(), ConfigError> {
    match value {
        toml::Value::String(text) if !text.is_empty() => {
            let path: PathBuf = std::path::absolute(&*text).map_err(|source| ConfigError::Io { path: (&*text).into(), source })?;
            *text = path.to_string_lossy().into_owned();
            Ok(())
        }
        toml::Value::Array(list) => list.iter_mut().try_for_each(absolute),
        toml::Value::Table(table) => table.get_mut("path").map_or(Ok(()), absolute),
        _ => Ok(()),
    }
}

/// Where a key that does not exist exists in another table, that is what was meant.
fn elsewhere(mut error: ConfigError) -> ConfigError {
    let ConfigError::UnknownKey { key, known, .. } = &mut error else { return error };
    if known.suggestion.is_none() {
        let name = key.rsplit('.').next().unwrap_or(key);
        let full = TrainConfig { model: Some(ModelConfig::default()), ..TrainConfig::default() };
        let mut found = Vec::new();
        if let Ok(value) = toml::Value::try_from(&full) {
            collect(&value, &mut Vec::new(), name, &mut found);
        }
        known.suggestion = if found.len() == 1 { found.pop() } else { None };
    }
    error
}

fn collect(value: &toml::Value, path: &mut Vec<String>, name: &str, found: &mut Vec<String>) {
    for (key, value) in value.as_table().into_iter().flatten() {
        path.push(key.clone());
        if key == name {
            found.push(path.join("."));
        }
        collect(value, path, name, found);
        path.pop();
    }
}
