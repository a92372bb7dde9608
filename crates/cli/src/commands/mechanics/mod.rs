//! What `elastic`, `eos`, `neb` and `modes` have in common: results that are kept, plans, numbers for people.

pub(crate) mod elastic;
pub(crate) mod eos;
pub(crate) mod modes;
pub(crate) mod neb;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::{Value, json};
use tesseral_atoms::units::GPA;
use tesseral_atoms::{Structure, io};
use tesseral_simulate::files;
use tesseral_simulate::settle::Ledger;

use crate::args::KeepArgs;
use crate::commands::{Outcome, running};
use crate::errors::Hinted;
use crate::output::{DIM, HEADING, Output};
use crate::progress::{Progress, Unit};
use crate::settings::Field;

/// How far beyond the cutoff neighbours are listed, Å: atoms move little.
const SKIN: f64 = 0.5;

/// What is finished of a run.
const EVALUATIONS: &str = "evaluations.jsonl";

/// Says what a run computes, so that what another one left behind is not taken for it.
fn identity(command: &str, field: &Field, structure: &Structure, settings: &impl Serialize) -> Result<Value> {
    Ok(json!({
        "command": command,
        "model": field.identity()?,
        "settings": serde_json::to_value(settings)?,
        "numbers": structure.numbers,
        "positions": structure.positions,
        "cell": structure.cell.vectors,
        "pbc": structure.pbc,
    }))
}

/// Opens what an earlier run finished, or makes the folder; nothing is kept without one.
fn ledger(keep: &KeepArgs, run: &Value) -> Result<Ledger> {
    let Some(folder) = &keep.output else { return Ok(Ledger::in_memory()) };
    running::on_signals()?;
    if keep.resume {
        let path = folder.join(EVALUATIONS);
        if !path.exists() {
            return Err(nothing_to_resume(folder).into());
        }
        let ledger = Ledger::resume(&path, run)?;
        files::sweep(folder);
        tracing::info!("{} structures are finished already", ledger.len());
        return Ok(ledger);
    }
    running::new_folder(folder, keep.overwrite)?;
    Ok(Ledger::create(&folder.join(EVALUATIONS), run)?)
}

fn nothing_to_resume(folder: &Path) -> Hinted {
    Hinted::new(format!("there is no run in {} to go on with", folder.display())).hint("begin it without --resume")
}

/// A bar, and the wish to stop.
struct Watch {
    progress: Progress,
    stop: Arc<AtomicBool>,
    done: usize,
    total: usize,
}

impl Watch {
    fn new(label: &str, total: usize) -> Result<Self> {
        Ok(Self { progress: Progress::new(label, Unit::Checks, Some(total as u64)), stop: running::on_signals()?, done: 0, total })
    }

    /// For the library: how much is finished; true if it should end.
    fn tick(&mut self, done: usize, total: usize) -> bool {
        (self.done, self.total) = (done, total);
        self.progress.set_total(total as u64);
        self.progress.set(done as u64);
        self.stop.load(Ordering::Relaxed)
    }

    /// The error of a run that was told to end.
    fn interrupted(&self, keep: &KeepArgs) -> Hinted {
        let error = Hinted::new(format!("interrupted: {} of {} structures are finished", self.done, self.total)).interrupted();
        if keep.output.is_some() {
            error.hint("go on with --resume")
        } else {
            error.hint("with -o FOLDER, an interrupted run can be gone on with")
        }
    }
}

/// What a run would do.
#[derive(Debug, Serialize)]
struct Plan {
    model: String,
    formula: String,
    atoms: usize,
    /// Structures to be evaluated or relaxed.
    structures: usize,
    /// Evaluations of each, if relaxed: a guess.
    evaluations_each: usize,
    bytes: Option<usize>,
    seconds_per_evaluation: f64,
    seconds: f64,
    writes: Vec<PathBuf>,
}

/// Steps of a relaxation, for plans: what small cells take.
const STEPS_OF_A_RELAXATION: usize = 10;

impl Plan {
    fn new(
        field: &Field,
        structure: &Structure,
        structures: usize,
        evaluations_each: usize,
        keep: &KeepArgs,
        files: &[&str],
    ) -> Result<Self> {
        let seconds_per_evaluation = running::seconds_a_step(&mut *field.force_field(SKIN)?, structure)?;
        Ok(Self {
            model: field.name(),
            formula: structure.formula(),
            atoms: structure.len(),
            structures,
            evaluations_each,
            bytes: field.bytes(structure),
            seconds_per_evaluation,
            seconds: seconds_per_evaluation * (structures * evaluations_each) as f64,
            writes: keep.output.iter().flat_map(|folder| files.iter().map(|f| folder.join(f))).collect(),
        })
    }

    fn print(&self, json: bool) -> Result<Outcome> {
        let mut output = Output::default();
        if json {
            output.json(self)?;
        } else {
            output.line(format_args!("{HEADING}{}{HEADING:#} with {}, {} atoms", self.formula, self.model, self.atoms));
            let each =
                if self.evaluations_each > 1 { format!(", about {} evaluations each", self.evaluations_each) } else { String::new() };
            fact(&mut output, "structures", &format!("{}{each}", self.structures));
            fact(
                &mut output,
                "memory",
                &self.bytes.map_or_else(|| "not known".to_owned(), |b| format!("{:.1} MB a structure", b as f64 / 1e6)),
            );
            fact(&mut output, "an evaluation", &running::duration(self.seconds_per_evaluation));
            fact(&mut output, "all", &format!("about {}", running::duration(self.seconds)));
            for path in &self.writes {
                fact(&mut output, "would write", &path.display().to_string());
            }
        }
        output.flush()?;
        Ok(Outcome::Success)
    }
}

/// A name and a value in a line.
fn fact(output: &mut Output, name: &str, value: &str) {
    output.line(format_args!("{DIM}{name:<22}{DIM:#} {value}"));
}

/// eV/Å³ in GPa.
fn gpa(x: f64) -> f64 {
    x / GPA
}

/// Writes JSON for programs, whole or not at all.
fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    io::write_atomically(path, |file| -> Result<()> {
        serde_json::to_writer_pretty(&mut *file, value)?;
        Ok(())
    })
    .with_context(|| format!("cannot write {}", path.display()))
}

/// Says how far a committee disagreed.
fn spread_line(output: &mut Output, spread: Option<[f64; 2]>) {
    if let Some([energy, force]) = spread {
        fact(output, "committee disagrees", &format!("{energy:.4} eV about the energy, at most {force:.4} eV/Å about a force"));
    }
}
