//! `tesseral md`: molecular dynamics.

mod input;
mod plan;
mod table;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use serde::Serialize;
use tesseral_atoms::ForceError;
use tesseral_simulate::guards::Guards;
use tesseral_simulate::md::{self, Event, MakeField, Observer, Outcome as Ending, Progress as Done, Row, Run, Status, Timing};

use crate::args::MdArgs;
use crate::commands::{Outcome, running};
use crate::errors::Hinted;
use crate::output::Output;
use crate::progress::{Progress, Unit};
use crate::settings::Field;

/// What is printed at the end with --json.
#[derive(Serialize)]
struct SummaryJson<'a> {
    outcome: &'static str,
    folder: &'a Path,
    done_steps: f64,
    of_steps: u64,
    /// Seconds and steps of this process.
    #[serde(flatten)]
    timing: Timing,
    ns_per_day: f64,
    /// Part of the time that is not spent in the force field.
    overhead: f64,
}

pub(crate) fn run(args: &MdArgs) -> Result<Outcome> {
    if !(args.skin >= 0.0 && args.skin.is_finite()) {
        return Err(Hinted::new(format!("--skin {}: a length of at least 0 Å is needed", args.skin)).usage().into());
    }
    if args.resume { resumed(args) } else { begun(args) }
}

/// What computes, in words: a run goes on with the same.
fn description(args: &MdArgs, field: &Field) -> Result<String> {
    Ok(format!("{}, skin {} Å", field.identity()?, args.skin))
}

fn make_field(field: &Field, skin: f64) -> MakeField<'_> {
    Box::new(move || field.force_field(skin).map_err(ForceError::new))
}

fn begun(args: &MdArgs) -> Result<Outcome> {
    let input = input::read(args)?;
    let field = Field::new(&args.field)?;
    field.check(&input.structure)?;
    input.dynamics.check(&input.structure)?;
    input.settings.check()?;
    let Some(folder) = args.output.as_deref().filter(|_| !args.dry_run) else {
        return plan::print(args, &input, &field);
    };
    // The folder is made last: a structure that cannot be evaluated leaves nothing behind.
    let existed = folder.exists();
    running::on_signals()?;
    running::new_folder(folder, args.overwrite)?;
    let model = description(args, &field)?;
    let made =
        Run::create(folder, &model, input.structure, &input.dynamics, args.replicas.get(), input.settings, make_field(&field, args.skin));
    let run = made.inspect_err(|_| {
        if !existed {
            // Only if nothing is in it.
            std::fs::remove_dir(folder).ok();
        }
    })?;
    drive(args, run)
}

fn resumed(args: &MdArgs) -> Result<Outcome> {
    let Some(folder) = args.output.as_deref() else {
        return Err(Hinted::new("--resume needs the folder of the run (-o)").usage().into());
    };
    let field = Field::new(&args.field)?;
    let mut run = Run::resume(folder, make_field(&field, args.skin))?;
    let model = description(args, &field)?;
    if model != run.model() {
        let message = format!("the run in {} was computed with {}, not with {model}", folder.display(), run.model());
        return Err(Hinted::new(message).hint("give the same model, precision, device and skin, or begin another run").into());
    }
    field.check(run.initial())?;
    let base = run.time_step();
    let longer = input::steps(args.steps, args.time, base)?;
    if let Some(steps) = longer {
        if (steps as f64) < run.progress().done {
            return Err(Hinted::new(format!("the run has done {} steps already, {steps} are asked for", run.progress().done))
                .usage()
                .into());
        }
        run.set_steps(steps);
    }
    if !args.guard.is_empty() {
        let mut guards: Guards = run.settings().guards.clone();
        args.guard.iter().for_each(|wish| guards.set(*wish));
        run.set_guards(&guards);
    }
    tracing::info!("going on from step {}", run.progress().done);
    drive(args, run)
}

/// Shows a run while it goes on.
struct Screen {
    output: Output,
    table: Option<table::Table>,
    bar: Progress,
    stop: Arc<AtomicBool>,
    failed: Option<anyhow::Error>,
    replicas: usize,
}

impl Screen {
    fn flush(&mut self) {
        if self.failed.is_none() {
            self.failed = self.output.flush().err();
        }
    }
}

impl Observer for Screen {
    fn step(&mut self, done: Done) -> bool {
        self.bar.set(done.done as u64);
        // A reader of standard output that is gone wants no more steps.
        self.failed.is_none() && !self.stop.load(Ordering::Relaxed)
    }

    fn row(&mut self, replica: usize, row: &Row) {
        #[derive(Serialize)]
        struct Line<'r> {
            #[serde(skip_serializing_if = "Option::is_none")]
            replica: Option<usize>,
            #[serde(flatten)]
            row: &'r Row,
        }
        match &mut self.table {
            Some(table) => table.row(replica, row, &mut self.output),
            None => {
                let replica = (self.replicas > 1).then_some(replica);
                if let Err(error) = self.output.json(&Line { replica, row }) {
                    self.failed.get_or_insert(error);
                }
            }
        }
        self.flush();
    }

    fn event(&mut self, replica: usize, event: &Event) {
        let who = if self.replicas > 1 { format!("replica {replica}: ") } else { String::new() };
        match event {
            // It is said at the end.
            Event::Stopped { .. } if self.replicas == 1 => {}
            _ => tracing::warn!("{who}{}", event.describe()),
        }
    }
}

fn drive(args: &MdArgs, mut run: Run<'_>) -> Result<Outcome> {
    let replicas = run.states().count();
    let stop = running::on_signals()?;
    let begin = run.progress();
    let mut bar = Progress::new("simulating", Unit::Steps, Some(begin.total));
    bar.begin_at(begin.done as u64);
    let table = (!args.json).then(|| table::Table::new(&run, replicas));
    let mut screen = Screen { output: Output::default(), table, bar, stop, failed: None, replicas };
    let ending = run.run(&mut screen)?;
    let Screen { mut output, bar, failed, .. } = screen;
    drop(bar);
    if let Some(error) = failed {
        return Err(error);
    }
    let report = if matches!(ending, Ending::Interrupted { .. }) { None } else { Some(run.write_report()?) };
    let (timing, done) = (run.timing(), run.progress());
    let simulated = (done.done - begin.done).max(0.0) * run.time_step() * 1e-6 * replicas as f64;
    let ns_per_day = if timing.total > 0.0 { simulated / timing.total * 86_400.0 } else { 0.0 };
    let overhead = if timing.total > 0.0 { 1.0 - timing.forces / timing.total } else { 0.0 };
    let outcome = match ending {
        Ending::Done => "done",
        Ending::Interrupted { .. } => "interrupted",
        Ending::Stopped(_) => "stopped",
    };
    if args.json {
        output.json(&SummaryJson {
            outcome,
            folder: run.folder(),
            done_steps: done.done,
            of_steps: done.total,
            timing,
            ns_per_day,
            overhead,
        })?;
    } else {
        if timing.steps > 0 {
            output.line(format_args!(""));
            output.line(format_args!(
                "{} steps in {}: {ns_per_day:.3} ns/day{}, {:.1} % of the time in the force field",
                timing.steps,
                running::duration(timing.total),
                if replicas > 1 { " of all replicas" } else { "" },
                100.0 * (1.0 - overhead),
            ));
        }
        if let Some(report) = report {
            output.line(format_args!("{}", report.display()));
        }
    }
    output.flush()?;
    match ending {
        Ending::Done => Ok(Outcome::Success),
        Ending::Interrupted { saved_step } => {
            tracing::warn!("interrupted; --resume goes on from step {saved_step}, the last that was saved");
            Ok(Outcome::Interrupted)
        }
        Ending::Stopped(_) if replicas > 1 => Ok(Outcome::Failure),
        Ending::Stopped(_) => {
            let why = run.statuses().find_map(|status| match status {
                Status::Stopped(violation) => Some((violation.message.clone(), violation.kind.name())),
                Status::Running | Status::Done => None,
            });
            let (message, guard) = why.unwrap_or_default();
            let hint = format!(
                "{} shows the last steps; --resume --guard {guard}=rollback goes on from step {} with half the time step",
                run.folder().join(md::THERMO).display(),
                run.saved_step()
            );
            Err(Hinted::new(message).hint(hint).into())
        }
    }
}
