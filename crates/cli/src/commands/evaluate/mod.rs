//! `tesseral evaluate`: structures in, energies, forces and stresses out.

mod input;
mod labelled;
mod plan;
mod report;
mod scan;

use std::io::{ErrorKind, Write};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use flate2::Compression;
use flate2::write::GzEncoder;
use tesseral_atoms::io::{self, Format, WriteError};
use tesseral_atoms::{Evaluation, ForceError, LabelKeys, Spread, Structure};
use tesseral_infer::metrics::Metrics;

use crate::args::EvaluateArgs;
use crate::commands::Outcome;
use crate::errors::{self, Hinted};
use crate::output::Output;
use crate::progress::{self, Progress, Unit};
use crate::settings::Field;

pub(crate) use input::{Frame, InputError, frames_of};
pub(crate) use labelled::with_results;

/// Structures are evaluated together up to this many atoms and edges. Fixed, so that neither the machine nor the number of
/// threads decides what is computed together; small enough that rows come as they are computed and memory stays bounded.
const BATCH_COST: usize = 100_000;

pub(crate) fn run(args: &EvaluateArgs) -> Result<Outcome> {
    check(args)?;
    let field = Field::new(&args.field)?;
    for member in field.members() {
        let header = member.header();
        tracing::info!("{}: {}, cutoff {} Å", header.name, header.architecture_name(), header.cutoff());
    }
    if args.plan {
        return plan::run(args, &field);
    }
    match args.output.as_deref() {
        None => Run::new(args, &field, None).all(),
        Some(path) if path == Path::new("-") => {
            let mut stdout = std::io::BufWriter::new(StandardOutput);
            let outcome = Run::new(args, &field, Some(&mut stdout)).all()?;
            stdout.flush().map_err(crate::output::write_error)?;
            Ok(outcome)
        }
        Some(path) => io::write_atomically(path, |file| -> Result<Outcome> {
            if path.extension().is_some_and(|extension| extension == "gz") {
                let mut encoder = GzEncoder::new(file, Compression::default());
                let outcome = Run::new(args, &field, Some(&mut encoder)).all()?;
                encoder.finish()?;
                Ok(outcome)
            } else {
                Run::new(args, &field, Some(file)).all()
            }
        }),
    }
}

/// What clap cannot check.
fn check(args: &EvaluateArgs) -> Result<()> {
    let Some(output) = &args.output else {
        if args.per_atom && !args.json {
            return Err(Hinted::new("--per-atom needs --json or -o: the table has no room for atoms").usage().into());
        }
        return Ok(());
    };
    if output == Path::new("-") {
        if args.json {
            return Err(Hinted::new("--json and -o - both want standard output").hint("write one of them to a file").usage().into());
        }
        return Ok(());
    }
    match Format::from_name(output) {
        Some(Format::ExtendedXyz) | None => {}
        Some(other) => {
            let message = format!("{} is named like a {other} file, but results are written as extended XYZ", output.display());
            let hint = format!("write to {}", output.with_extension("extxyz").display());
            return Err(Hinted::new(message).hint(hint).usage().into());
        }
    }
    // Better now than after an hour.
    let folder = output.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !folder.is_dir() {
        return Err(Hinted::new(format!("cannot write {}: there is no folder {}", output.display(), folder.display())).into());
    }
    Ok(())
}

/// Standard output for structures, whatever the state of its lock.
struct StandardOutput;

impl Write for StandardOutput {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        progress::suspend(|| std::io::stdout().lock().write_all(bytes))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stdout().lock().flush()
    }
}

/// One run over all files.
struct Run<'a> {
    args: &'a EvaluateArgs,
    field: &'a Field,
    structures: Option<&'a mut dyn Write>,
    output: Output,
    table: report::Table,
    keys: LabelKeys,
    metrics: Metrics,
    batch: Vec<Frame>,
    batch_cost: usize,
    progress: Progress,
    done: u64,
    failed: u64,
    unusable_labels: u64,
}

impl<'a> Run<'a> {
    fn new(args: &'a EvaluateArgs, field: &'a Field, structures: Option<&'a mut dyn Write>) -> Self {
        let mut keys = LabelKeys::default();
        for (asked, known) in
            [(&args.energy_key, &mut keys.energy), (&args.forces_key, &mut keys.forces), (&args.stress_key, &mut keys.stress)]
        {
            if let Some(asked) = asked {
                *known = vec![asked.clone()];
            }
        }
        if args.stress_key.is_some() {
            keys.virial.clear();
        }
        let mut output = Output::default();
        if args.output.as_deref() == Some(Path::new("-")) {
            output.mute();
        }
        let total = if progress::is_visible() { scan::count_atoms(&args.files) } else { None };
        Self {
            args,
            field,
            structures,
            output,
            table: report::Table::new(args.files.len() > 1, args.repeat.is_some(), field.members().len() > 1),
            keys,
            metrics: Metrics::default(),
            batch: Vec::new(),
            batch_cost: 0,
            progress: Progress::new("evaluating", Unit::Atoms, total),
            done: 0,
            failed: 0,
            unusable_labels: 0,
        }
    }

    fn all(mut self) -> Result<Outcome> {
        for path in &self.args.files {
            match frames_of(path) {
                Ok(frames) => self.file(frames)?,
                Err(error) => self.unreadable(error)?,
            }
        }
        self.flush()?;
        self.finish()
    }

    fn file(&mut self, frames: impl Iterator<Item = Result<Frame, InputError>>) -> Result<()> {
        for frame in frames {
            match frame {
                Ok(frame) => {
                    self.batch_cost = self.batch_cost.saturating_add(self.field.cost(&frame.structure));
                    self.batch.push(frame);
                    if self.batch_cost >= BATCH_COST || self.args.repeat.is_some() {
                        self.flush()?;
                    }
                }
                Err(error) => self.unreadable(error)?,
            }
        }
        Ok(())
    }

    /// Evaluates what is waiting, prints and writes it.
    fn flush(&mut self) -> Result<()> {
        let batch = std::mem::take(&mut self.batch);
        self.batch_cost = 0;
        let (files, structures): (Vec<(String, usize)>, Vec<Structure>) =
            batch.into_iter().map(|frame| ((frame.file, frame.index), frame.structure)).unzip();
        let (results, seconds) = self.evaluate(&structures);
        for ((((file, index), structure), result), seconds) in files.into_iter().zip(structures).zip(results).zip(seconds) {
            self.progress.advance(structure.len() as u64);
            match result {
                Ok((evaluation, spread)) => self.one(&Frame { file, index, structure }, &evaluation, spread.as_ref(), seconds)?,
                Err(error) => {
                    let place = format!("{file}: frame {index}: {error}");
                    self.failure(&file, Some(index), anyhow::Error::new(error).context(place))?;
                }
            }
        }
        self.print()
    }

    /// Results and the seconds each took. Structures of one batch share its time in proportion to their cost.
    fn evaluate(&self, structures: &[Structure]) -> (Vec<Result<(Evaluation, Option<Spread>), ForceError>>, Vec<f64>) {
        let timed = || {
            let start = Instant::now();
            let results = self.field.evaluate(structures);
            (results, start.elapsed().as_secs_f64())
        };
        let (results, mut total) = timed();
        if let Some(repeat) = self.args.repeat {
            // The first was to warm up.
            total = (0..repeat.get()).map(|_| timed().1).fold(f64::INFINITY, f64::min);
        }
        let costs: Vec<f64> = structures.iter().map(|structure| self.field.cost(structure).max(1) as f64).collect();
        let sum: f64 = costs.iter().sum();
        (results, costs.iter().map(|cost| total * cost / sum).collect())
    }

    fn one(&mut self, frame: &Frame, evaluation: &Evaluation, spread: Option<&Spread>, seconds: f64) -> Result<()> {
        let row = report::Row::new(frame, evaluation, spread, seconds);
        if self.args.json {
            self.output.json(&row.json(evaluation, spread, self.args.per_atom))?;
        } else {
            self.table.row(&row, &mut self.output);
        }
        if let Err(error) = self.metrics.add(&frame.structure, evaluation, &self.keys) {
            if self.unusable_labels == 0 {
                tracing::warn!("{}: frame {}: a label is not compared: {error}; {}", frame.file, frame.index, error.hint());
            }
            self.unusable_labels += 1;
        }
        if let Some(structures) = &mut self.structures {
            let labelled = labelled::with_results(&frame.structure, evaluation, spread, self.args.per_atom);
            let written = io::write_extxyz(*structures, &labelled);
            if self.args.output.as_deref() == Some(Path::new("-"))
                && let Err(WriteError::Io(error)) = &written
                && error.kind() == ErrorKind::BrokenPipe
            {
                return Err(errors::OutputClosed.into());
            }
            written.with_context(|| format!("cannot write the results of {}: frame {}", frame.file, frame.index))?;
        }
        self.done += 1;
        Ok(())
    }

    fn unreadable(&mut self, error: InputError) -> Result<()> {
        // What was read before comes first.
        self.flush()?;
        let InputError { file, frame, error } = error;
        self.failure(&file, frame, error)
    }

    /// A frame that is lost: the end, or with --keep-going a message.
    fn failure(&mut self, file: &str, frame: Option<usize>, error: anyhow::Error) -> Result<()> {
        self.failed += 1;
        if !self.args.keep_going {
            self.print()?;
            return Err(error);
        }
        if self.args.json {
            self.output.json(&report::FailureJson { file, frame, error: errors::one_line(&error) })?;
        }
        self.print()?;
        errors::report(&error);
        Ok(())
    }

    /// Prints what has been computed. A reader that has gone away does not keep the file of -o from being written.
    fn print(&mut self) -> Result<()> {
        match self.output.flush() {
            Err(error) if errors::is_closed_output(&error) && self.structures.is_some() => {
                self.output.mute();
                Ok(())
            }
            result => result,
        }
    }

    fn finish(mut self) -> Result<Outcome> {
        if self.unusable_labels > 1 {
            tracing::warn!("labels of {} frames are not compared", self.unusable_labels);
        }
        for (asked, found) in [
            (&self.args.energy_key, &self.metrics.energy_keys),
            (&self.args.forces_key, &self.metrics.forces_keys),
            (&self.args.stress_key, &self.metrics.stress_keys),
        ] {
            if let Some(key) = asked.as_ref().filter(|_| found.as_slice().is_empty() && self.done > 0) {
                tracing::warn!("no frame has a usable label `{key}`");
            }
        }
        if !self.metrics.is_empty() {
            if self.args.json {
                self.output.json(&report::SummaryJson::new(&self.metrics, self.done, self.failed))?;
            } else {
                report::summary(&self.metrics, &mut self.output);
            }
        }
        self.print()?;
        drop(self.progress);
        if self.failed > 0 {
            let all = self.done + self.failed;
            let message = format!("{} of {all} frames could not be evaluated", self.failed);
            errors::report(&Hinted::new(message).into());
            return Ok(Outcome::Failure);
        }
        Ok(Outcome::Success)
    }
}
