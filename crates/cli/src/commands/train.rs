//! `tesseral train`, `finetune` and `doctor`: from reference calculations to a potential.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use tesseral_atoms::units::GPA;
use tesseral_models::PRESETS;
use tesseral_potentials::Artifact;
use tesseral_train::TrainError;
use tesseral_train::communicator;
use tesseral_train::config::TrainConfig;
use tesseral_train::data::{DataConfig, Dataset, FileConfig};
use tesseral_train::doctor::{self, Findings, Severity, Subject};
use tesseral_train::finetune::elements::Added;
use tesseral_train::log::Validation;
use tesseral_train::metrics::Quantity;
use tesseral_train::ranks::{Failure, Ranks};
use tesseral_train::report::{ForgettingRow, Phase, Provenance, SetRow};
use tesseral_train::trainer::{self, Ending, Progress, Ready, Request};

use crate::args::{DoctorArgs, FinetuneArgs, TrainArgs};
use crate::commands::{Outcome, running};
use crate::errors::{self, Hinted};
use crate::output::{DIM, HEADING, Output, number};
use crate::progress::{self, Unit};
use crate::settings;

pub(crate) fn run(args: &TrainArgs) -> Result<Outcome> {
    if args.init {
        return init(args);
    }
    let Some(path) = &args.config else {
        let hint = "`tesseral train --init train.toml` writes one to begin with";
        return Err(Hinted::new("train: which configuration?").hint(hint).usage().into());
    };
    together(args.resume, || {
        let config = TrainConfig::read(path, &args.set, PRESETS)?;
        config.require_training(path)?;
        let foundation = config.finetune.foundation.as_deref().map(|name| tesseral_loader::artifact(Some(name))).transpose()?;
        Ok((config, foundation))
    })
}

pub(crate) fn finetune(args: &FinetuneArgs) -> Result<Outcome> {
    together(args.resume, || {
        let mut config = match &args.config {
            Some(path) => TrainConfig::read(path, &args.set, PRESETS)?,
            None => TrainConfig::parse("extends = \"finetune\"\n", Path::new("finetune.toml"), &args.set, PRESETS)?,
        };
        config.finetune.foundation = Some(args.model.clone());
        for file in &args.data {
            config.data.train.push(FileConfig::new(file));
        }
        if let Some(folder) = &args.output {
            config.output.directory.clone_from(folder);
        }
        config.require_training(args.config.as_deref().unwrap_or(Path::new("finetune.toml")))?;
        let foundation = tesseral_loader::artifact(Some(&args.model))?;
        Ok((config, Some(foundation)))
    })
}

/// Trains what `prepare` says, together with other processes where a launcher has started several.
fn together(resume: bool, prepare: impl FnOnce() -> Result<(TrainConfig, Option<Artifact>)>) -> Result<Outcome> {
    let communicator = communicator::world().map_err(TrainError::from)?;
    if communicator.size() > 1 {
        settings::share_cores(&*communicator)?;
    }
    let ranks = Arc::new(Ranks::new(communicator, running::on_signals()?));
    let result = agreed(&ranks, prepare()).and_then(|(config, foundation)| go(&ranks, &config, foundation, resume));
    if ranks.size() == 1 {
        return result;
    }
    let outcome = match result {
        Ok(outcome) => outcome,
        Err(error) if errors::is_closed_output(&error) => Outcome::Success,
        Err(error) => {
            let lost = matches!(error.downcast_ref(), Some(TrainError::Communicator(_)));
            if ranks.is_first() || lost {
                errors::report(&error);
            }
            Outcome::Failure
        }
    };
    // Launchers end all processes as soon as one fails: by then, what there is to say has been said.
    ranks.barrier().ok();
    Ok(outcome)
}

/// What all ranks have prepared; what went wrong on one of them goes wrong on all.
fn agreed<T>(ranks: &Ranks, prepared: Result<T>) -> Result<T> {
    let failure = |error: &anyhow::Error| {
        let hints = errors::hints(error);
        Failure { message: errors::one_line(error), hint: if hints.is_empty() { None } else { Some(hints.join("; ")) } }
    };
    let others = ranks.exchange(prepared.as_ref().err().map(failure).as_ref());
    let prepared = prepared?;
    others?;
    Ok(prepared)
}

fn init(args: &TrainArgs) -> Result<Outcome> {
    let text = tesseral_train::config::template();
    let Some(path) = &args.config else {
        let mut output = Output::default();
        output.line(format_args!("{}", text.trim_end()));
        output.flush()?;
        return Ok(Outcome::Success);
    };
    if path.exists() {
        let hint = "give another name, or remove it first";
        return Err(Hinted::new(format!("{} exists already", path.display())).hint(hint).into());
    }
    tesseral_atoms::io::write_atomically(path, |w| std::io::Write::write_all(w, text.as_bytes()))
        .with_context(|| format!("cannot write {}", path.display()))?;
    tracing::info!("written: {}", path.display());
    Ok(Outcome::Success)
}

pub(crate) fn doctor(args: &DoctorArgs) -> Result<Outcome> {
    let config = match &args.config {
        Some(path) => TrainConfig::read(path, &args.set, PRESETS)?,
        None => TrainConfig::parse("", Path::new("doctor.toml"), &args.set, PRESETS)?,
    };
    let mut data = DataConfig { train: config.data.train.clone(), ..config.data.clone() };
    data.train.extend(args.files.iter().map(FileConfig::new));
    if data.train.is_empty() {
        return Err(Hinted::new("doctor: which files?").hint("name files of reference calculations, or a configuration").usage().into());
    }
    if args.config.is_none() {
        data.valid_fraction = 0.0;
    }
    let model = args.model.as_deref().map(|model| tesseral_loader::artifact(Some(model))).transpose()?;
    let dataset = Dataset::load(&data, &[])?;
    let known = match &model {
        Some(model) => {
            let header = model.header();
            Some(Added::new(header, &config.finetune, &*dataset.train)?.joined(header.elements()))
        }
        None => None,
    };
    let mut subject = Subject::new(&*dataset.train);
    let isolated = dataset.isolated.energies(None);
    subject.e0s = (!isolated.is_empty()).then_some(&isolated);
    subject.valid = Some(&*dataset.valid);
    subject.elements = known.as_deref();
    subject.keys = Some(&dataset.keys);
    let findings = doctor::examine(&subject, &config.doctor)?;
    let mut output = Output::default();
    if args.json {
        output.json(&findings)?;
    } else {
        output.line(format_args!("{}", findings.to_string().trim_end()));
    }
    output.flush()?;
    Ok(if findings.has_errors() { Outcome::Failure } else { Outcome::Success })
}

/// Processor, cores and system.
fn machine() -> String {
    let info = fs_err::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|l| l.strip_prefix("model name")?.split_once(':').map(|(_, name)| name.trim().to_owned()));
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    format!("{}, {cores} cores, {}", name.unwrap_or_else(|| std::env::consts::ARCH.to_owned()), std::env::consts::OS)
}

fn go(ranks: &Arc<Ranks>, config: &TrainConfig, foundation: Option<Artifact>, resume: bool) -> Result<Outcome> {
    let mut machine = machine();
    if ranks.size() > 1 {
        machine = format!("{machine}; {} processes", ranks.size());
        line(format_args!("{} processes train together; threads of this one: {}", ranks.size(), rayon::current_num_threads()));
    }
    let provenance = Provenance {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        commit: env!("TESSERAL_COMMIT").to_owned(),
        command: std::env::args().collect::<Vec<_>>().join(" "),
        machine,
        started: crate::clock::now(),
        ..Provenance::default()
    };
    let mut screen = Screen::default();
    let request = Request { config, foundation, resume, provenance };
    let result = trainer::train_together(ranks, request, &mut |progress| screen.show(progress));
    screen.bar = None;
    let outcome = result?;
    if !ranks.is_first() {
        let is_done = !matches!(outcome.ending, Ending::Interrupted | Ending::NotBegun);
        return Ok(if is_done { Outcome::Success } else { Outcome::Interrupted });
    }
    let mut output = Output::default();
    let interrupted = match outcome.ending {
        Ending::Interrupted => Some("interrupted; the state is saved, and --resume goes on from it"),
        Ending::NotBegun if resume => Some("interrupted before it went on; the state is as it was, and --resume goes on from it"),
        Ending::NotBegun => Some("interrupted before it began; nothing was saved, and it can be started again"),
        Ending::Finished | Ending::Patience | Ending::Time => None,
    };
    if let Some(text) = interrupted {
        output.line(format_args!("{text}"));
        output.flush()?;
        return Ok(Outcome::Interrupted);
    }
    errors(&mut output, &outcome.errors);
    if outcome.forgetting.iter().any(|row| row.phase == Phase::Before) {
        forgetting(&mut output, &outcome.forgetting);
    }
    let wide = |label: &str| format!("{DIM}{label:<8}{DIM:#}");
    if let Some(model) = &outcome.model {
        output.line(format_args!("{}{}", wide("model"), model.display()));
    }
    if let Some(report) = &outcome.report {
        output.line(format_args!("{}{}", wide("report"), report.display()));
    }
    output.flush()?;
    Ok(Outcome::Success)
}

/// A table of root mean square (and mean absolute) errors.
fn errors(output: &mut Output, sets: &[SetRow]) {
    let width = sets.iter().map(|s| s.set.chars().count()).max().unwrap_or(0).max(5);
    output.line(format_args!(
        "{HEADING}{:<width$}  {:>8}  {:>18}  {:>18}  {:>18}{HEADING:#}",
        "set", "frames", "energy, meV/atom", "forces, meV/Å", "stress, MPa"
    ));
    output.line(format_args!("{DIM}{:<width$}  {:>8}  {:>18}  {:>18}  {:>18}{DIM:#}", "", "", "rmse (mae)", "rmse (mae)", "rmse (mae)"));
    for SetRow { set, errors } in sets {
        let column = |of: Option<(f64, f64)>, factor: f64| match of {
            Some((rmse, mae)) => format!("{:.2} ({:.2})", rmse * factor, mae * factor),
            None => "–".to_owned(),
        };
        output.line(format_args!(
            "{set:<width$}  {:>8}  {:>18}  {:>18}  {:>18}",
            errors.frames,
            column(errors.energy_per_atom.as_ref().map(|e| (e.rmse, e.mae)), 1e3),
            column(errors.forces.as_ref().map(|e| (e.rmse, e.mae)), 1e3),
            column(errors.stress.as_ref().map(|e| (e.rmse, e.mae)), 1e3 / GPA),
        ));
    }
}

/// A table of root mean square errors on the old and the new domain, before and after.
fn forgetting(output: &mut Output, rows: &[ForgettingRow]) {
    let width = rows.iter().map(|r| r.set.chars().count()).max().unwrap_or(0).max(6);
    output.line(format_args!(
        "{HEADING}{:<width$}  {:>20}  {:>24}  {:>24}{HEADING:#}",
        "domain", "energy, meV/atom", "forces, meV/Å", "stress, MPa"
    ));
    let before_and_after = "before → after";
    output.line(format_args!("{DIM}{:<width$}  {before_and_after:>20}  {before_and_after:>24}  {before_and_after:>24}{DIM:#}", ""));
    for before in rows.iter().filter(|row| row.phase == Phase::Before) {
        let Some(after) = rows.iter().find(|row| row.phase == Phase::After && row.set == before.set) else { continue };
        let column = |quantity: Quantity, factor: f64| match (before.errors.of(quantity), after.errors.of(quantity)) {
            (Some(before), Some(after)) => {
                let change = if before.rmse > 0.0 { format!(" {:+.0} %", 100.0 * (after.rmse / before.rmse - 1.0)) } else { String::new() };
                format!("{:.2} → {:.2}{change}", before.rmse * factor, after.rmse * factor)
            }
            _ => "–".to_owned(),
        };
        output.line(format_args!(
            "{:<width$}  {:>20}  {:>24}  {:>24}",
            before.set,
            column(Quantity::EnergyPerAtom, 1e3),
            column(Quantity::Forces, 1e3),
            column(Quantity::Stress, 1e3 / GPA),
        ));
    }
}

/// What a training shows on standard error while it runs.
#[derive(Default)]
struct Screen {
    bar: Option<progress::Progress>,
    epochs: usize,
    frames: usize,
    headed: bool,
}

impl Screen {
    fn show(&mut self, progress: Progress<'_>) {
        match progress {
            Progress::Checked(findings) => checked(findings),
            Progress::Ready(ready) => self.ready(ready),
            Progress::Step(step, (done, _)) => {
                if let Some(bar) = &mut self.bar {
                    bar.set(((step.epoch - 1) * self.frames as u64) + done as u64);
                    bar.say(format!("epoch {}/{}, loss {:.3e}", step.epoch, self.epochs, step.loss));
                }
            }
            Progress::Epoch(_) => {}
            Progress::Validation(validation) => self.validation(validation),
            Progress::Event(message) => tracing::info!("{message}"),
        }
    }

    fn ready(&mut self, ready: &Ready) {
        self.frames = ready.frames.0 + ready.replayed;
        self.epochs = ready.epochs;
        line(format_args!(
            "{} frames to train on{}, {} to validate on; {} of {} numbers are trained; {} epochs{}",
            ready.frames.0,
            if ready.replayed > 0 { format!(" and {} old ones in each epoch", ready.replayed) } else { String::new() },
            ready.frames.1,
            ready.parameters.0,
            ready.parameters.1,
            ready.epochs,
            if ready.done.0 > 0 { format!("; {} steps are done", ready.done.0) } else { String::new() }
        ));
        self.bar = Some(progress::Progress::new("training", Unit::Frames, Some((self.frames * self.epochs) as u64)));
    }

    fn validation(&mut self, validation: &Validation) {
        if !self.headed {
            self.headed = true;
            line(format_args!(
                "{HEADING}{:>6} {:>8} {:>11} {:>16} {:>14} {:>12}{HEADING:#}",
                "epoch", "step", "valid loss", "energy meV/atom", "forces meV/Å", "stress MPa"
            ));
        }
        let of = |e: Option<f64>, width, factor: f64| number(e.map(|e| e * factor), width, 2);
        let errors = &validation.errors;
        line(format_args!(
            "{:>6} {:>8} {:>11.4e} {} {} {}{}",
            validation.epoch,
            validation.step,
            validation.loss,
            of(errors.energy_per_atom.as_ref().map(|e| e.rmse), 16, 1e3),
            of(errors.forces.as_ref().map(|e| e.rmse), 14, 1e3),
            of(errors.stress.as_ref().map(|e| e.rmse), 12, 1e3 / GPA),
            if validation.best { "  *" } else { "" }
        ));
    }
}

/// Says what the check of the data found: errors and warnings always, notes when asked for more.
fn checked(findings: &Findings) {
    for finding in &findings.findings {
        match finding.severity {
            Severity::Error | Severity::Warning => line(format_args!("{finding}")),
            Severity::Note => tracing::info!("{finding}"),
        }
    }
}

/// A line on standard error, unless it is to be quiet.
fn line(text: std::fmt::Arguments<'_>) {
    if tracing::enabled!(tracing::Level::WARN) {
        progress::suspend(|| {
            use std::io::Write;
            writeln!(anstream::stderr(), "{text}").ok();
        });
    }
}
