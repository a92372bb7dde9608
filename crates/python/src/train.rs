//! Training and fine-tuning.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use pyo3::prelude::*;
use pyo3::types::PyDict;
use serde_json::Value;
use tesseral_models::PRESETS;
use tesseral_train::communicator::SingleProcess;
use tesseral_train::config::TrainConfig;
use tesseral_train::data::FileConfig;
use tesseral_train::doctor::{Findings, Severity};
use tesseral_train::log::Validation;
use tesseral_train::ranks::Ranks;
use tesseral_train::report::Provenance;
use tesseral_train::trainer::{self, Ending, Outcome, Progress, Request};

use crate::errors::Failure;
use crate::process::{interruptible, number_of_threads};

/// The process in which the first training was.
static TRAINED: OnceLock<u32> = OnceLock::new();

/// What to train.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct Arguments {
    /// A file, …
    path: Option<PathBuf>,
    /// … or the configuration itself, as JSON.
    json: Option<String>,
    /// `section.key=value`, over those.
    set: Vec<String>,
    /// The model to start from.
    foundation: Option<String>,
    /// More files of reference calculations.
    data: Vec<PathBuf>,
    /// The folder, if not that of the configuration.
    output: Option<PathBuf>,
    resume: bool,
    threads: Option<usize>,
    /// For the report.
    command: String,
    machine: String,
    started: String,
}

impl Arguments {
    fn config(&self) -> Result<TrainConfig, Failure> {
        let place = self.path.as_deref().unwrap_or(Path::new("configuration"));
        let mut config = match (&self.path, &self.json) {
            (Some(path), _) => TrainConfig::read(path, &self.set, PRESETS)?,
            (None, Some(json)) => TrainConfig::parse(&toml_of(json)?, place, &self.set, PRESETS)?,
            // That of the command `finetune` without a configuration.
            (None, None) => TrainConfig::parse("extends = \"finetune\"\n", place, &self.set, PRESETS)?,
        };
        if let Some(foundation) = &self.foundation {
            config.finetune.foundation = Some(foundation.clone());
        }
        config.data.train.extend(self.data.iter().map(FileConfig::new));
        if let Some(folder) = &self.output {
            config.output.directory.clone_from(folder);
        }
        config.require_training(place)?;
        Ok(config)
    }
}

/// A configuration as TOML.
fn toml_of(json: &str) -> Result<String, Failure> {
    let value: Value = serde_json::from_str(json)?;
    let value = toml_value(&value, "")?;
    Ok(toml::to_string(&value)?)
}

fn toml_value(value: &Value, key: &str) -> Result<toml::Value, Failure> {
    let inner = |name: &str| if key.is_empty() { name.to_owned() } else { format!("{key}.{name}") };
    Ok(match value {
        Value::Null => return Err(Failure::input(format!("`{key}` is None, which TOML does not have")).hint("leave the key out")),
        Value::Bool(value) => toml::Value::Boolean(*value),
        Value::Number(number) => match number.as_i64() {
            Some(number) => toml::Value::Integer(number),
            None => toml::Value::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => toml::Value::String(text.clone()),
        Value::Array(values) => toml::Value::Array(values.iter().map(|value| toml_value(value, key)).collect::<Result<_, _>>()?),
        Value::Object(map) => {
            let entry = |(name, value): (&String, &Value)| Ok((name.clone(), toml_value(value, &inner(name))?));
            toml::Value::Table(map.iter().map(entry).collect::<Result<_, Failure>>()?)
        }
    })
}

/// Trains as a configuration says.
#[pyfunction]
pub(crate) fn train<'py>(py: Python<'py>, arguments: Arguments) -> PyResult<Bound<'py, PyDict>> {
    let threads = number_of_threads(arguments.threads).map_err(|failure| failure.raise(py))?;
    let outcome = interruptible(py, threads, |stop| {
        // Threads of a training that are not its own (rayon's) are started once, and are none in a child.
        if *TRAINED.get_or_init(std::process::id) != std::process::id() {
            return Err(Failure::new("this process was forked from one that has trained, and cannot train itself")
                .hint("start processes by multiprocessing.get_context(\"spawn\"), or train in children only"));
        }
        // Threads of its own differentiate: they are started after this.
        tesseral_train::enable()?;
        let config = arguments.config()?;
        let foundation = config.finetune.foundation.as_deref().map(|name| tesseral_loader::artifact(Some(name))).transpose()?;
        let provenance = Provenance {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: "unknown".to_owned(),
            command: arguments.command.clone(),
            machine: arguments.machine.clone(),
            started: arguments.started.clone(),
            ..Provenance::default()
        };
        let request = Request { config: &config, foundation, resume: arguments.resume, provenance };
        let ranks = Arc::new(Ranks::new(Arc::new(SingleProcess), stop.clone()));
        Ok(trainer::train_together(&ranks, request, &mut tell)?)
    })?;
    result(py, &outcome)
}

/// What is said on the way.
fn tell(progress: Progress<'_>) {
    match progress {
        Progress::Checked(findings) => checked(findings),
        Progress::Ready(ready) => tracing::info!(
            target: "tesseral::train",
            "{} frames to train on, {} to validate on; {} of {} numbers are trained; {} epochs",
            ready.frames.0 + ready.replayed,
            ready.frames.1,
            ready.parameters.0,
            ready.parameters.1,
            ready.epochs
        ),
        Progress::Step(..) | Progress::Epoch(_) => {}
        Progress::Validation(validation) => validated(validation),
        Progress::Event(message) => tracing::info!(target: "tesseral::train", "{message}"),
    }
}

fn checked(findings: &Findings) {
    for finding in &findings.findings {
        match finding.severity {
            Severity::Error | Severity::Warning => tracing::warn!(target: "tesseral::train", "{finding}"),
            Severity::Note => tracing::info!(target: "tesseral::train", "{finding}"),
        }
    }
}

fn validated(validation: &Validation) {
    let rmse = |errors: Option<f64>| errors.map_or("–".to_owned(), |rmse| format!("{:.2}", 1e3 * rmse));
    let errors = &validation.errors;
    tracing::info!(
        target: "tesseral::train",
        "epoch {}, step {}: loss {:.4e}; rmse of energies {} meV/atom, of forces {} meV/Å{}",
        validation.epoch,
        validation.step,
        validation.loss,
        rmse(errors.energy_per_atom.as_ref().map(|e| e.rmse)),
        rmse(errors.forces.as_ref().map(|e| e.rmse)),
        if validation.best { ", the best so far" } else { "" }
    );
}

fn result<'py>(py: Python<'py>, outcome: &Outcome) -> PyResult<Bound<'py, PyDict>> {
    let result = PyDict::new(py);
    result.set_item(
        "ending",
        match outcome.ending {
            Ending::Finished => "finished",
            Ending::Patience => "patience",
            Ending::Time => "time",
            Ending::Interrupted => "interrupted",
            Ending::NotBegun => "not begun",
        },
    )?;
    result.set_item("model", outcome.model.as_ref())?;
    result.set_item("report", outcome.report.as_ref())?;
    let errors = serde_json::to_string(&outcome.errors).map_err(|error| Failure::from(error).raise(py))?;
    result.set_item("errors", errors)?;
    Ok(result)
}

/// A configuration with every key, its default and unit.
#[pyfunction]
pub(crate) fn template() -> String {
    tesseral_train::config::template()
}
