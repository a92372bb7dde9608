//! `tesseral relax`: structures in, minima out.

mod held;
mod row;

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tesseral_atoms::io::Format;
use tesseral_atoms::units::GPA;
use tesseral_simulate::relax::run::{Files, Job, Run, is_file_name};
use tesseral_simulate::relax::{CellFreedom, Method, Settings, strain_component};

use crate::args::{CellArg, MethodArg, RelaxArgs};
use crate::commands::evaluate::frames_of;
use crate::commands::{Outcome, running};
use crate::errors::{self, Hinted};
use crate::output::Output;
use crate::progress::{Progress, Unit};
use crate::settings::Field;

/// How often the state is written to disk.
const SAVE_EVERY: Duration = Duration::from_secs(10);

/// Space groups are named within this tolerance where none is asked for, Å.
const NAMED_WITHIN: f64 = 0.01;

pub(crate) fn run(args: &RelaxArgs) -> Result<Outcome> {
    let settings = settings(args)?;
    settings.check()?;
    check_names(args)?;
    let field = Field::new(&args.field)?;
    let (jobs, sources) = jobs(args, &field)?;
    Run::check(&jobs, &settings)?;
    let files = Files { output: args.output.clone(), trajectory: args.trajectory.clone() };
    if jobs.len() > 1
        && let Some(path) = args.trajectory.as_deref().filter(|path| is_file_name(path))
    {
        let message = format!("--trajectory {} is the name of a file, but there are {} structures", path.display(), jobs.len());
        return Err(Hinted::new(message).hint("name a folder").usage().into());
    }
    if args.dry_run {
        return plan(args, &field, &jobs);
    }
    check_places(args, &files)?;
    let model = field.identity()?;
    running::on_signals()?;
    let mut run =
        if args.resume { Run::resume(&jobs, &settings, &model, files)? } else { Run::new(&jobs, &settings, &model, Some(files))? };
    go(args, &settings, &field, &jobs, &sources, &mut run)
}

fn settings(args: &RelaxArgs) -> Result<Settings> {
    let mut strain_mask = [args.strain.is_empty(); 6];
    for name in &args.strain {
        let wrong = || Hinted::new(format!("--strain: `{name}` is no component")).hint("they are xx, yy, zz, yz, zx and xy").usage();
        let component = strain_component(name.trim()).ok_or_else(wrong)?;
        strain_mask[component] = true;
    }
    let cell = match args.cell {
        CellArg::Fixed => CellFreedom::Fixed,
        CellArg::Full => CellFreedom::Full,
        CellArg::Isotropic => CellFreedom::Isotropic,
        CellArg::FixedVolume => CellFreedom::FixedVolume,
    };
    if !cell.moves() && !args.strain.is_empty() {
        return Err(Hinted::new("--strain means nothing where the cell is fixed").hint("add --cell full").usage().into());
    }
    let method = match args.method {
        MethodArg::Auto => Method::Auto,
        MethodArg::Lbfgs => Method::Lbfgs,
        MethodArg::PreconLbfgs => Method::PreconditionedLbfgs,
        MethodArg::Fire => Method::Fire,
        MethodArg::Fire2006 => Method::Fire2006,
    };
    Ok(Settings {
        method,
        max_force: args.max_force,
        max_stress: args.max_stress * GPA,
        steps: args.steps,
        max_step: args.max_step,
        cell,
        strain_mask,
        pressure: args.pressure * GPA,
        symmetry: args.symmetry,
    })
}

/// Names of files that are something else.
fn check_names(args: &RelaxArgs) -> Result<()> {
    match Format::from_name(&args.output) {
        Some(Format::ExtendedXyz) | None => Ok(()),
        Some(other) => {
            let message = format!("{} is named like a {other} file, but structures are written as extended XYZ", args.output.display());
            Err(Hinted::new(message).hint(format!("write to {}", args.output.with_extension("extxyz").display())).usage().into())
        }
    }
}

/// All structures, and the file of each.
fn jobs(args: &RelaxArgs, field: &Field) -> Result<(Vec<Job>, Vec<(String, usize)>)> {
    let (mut jobs, mut sources) = (Vec::new(), Vec::new());
    for path in &args.files {
        for frame in frames_of(path).map_err(|e| e.error)? {
            let frame = frame.map_err(|e| e.error)?;
            let place = || format!("{}: frame {}", frame.file, frame.index);
            field.check(&frame.structure).with_context(place)?;
            let fixed = running::fixed_atoms(args.fix.as_deref(), &frame.structure).with_context(place)?;
            let movable = held::movable(&frame.structure, &fixed, args.free).with_context(place)?;
            sources.push((frame.file.clone(), frame.index));
            jobs.push(Job { structure: frame.structure, movable });
        }
    }
    Ok((jobs, sources))
}

/// Whether everything can be written, and nothing is lost by it: better now than after an hour.
fn check_places(args: &RelaxArgs, files: &Files) -> Result<()> {
    let begun = files.state().exists();
    let output = args.output.display();
    if args.resume && !begun {
        return Err(Hinted::new(format!("there is nothing to resume: no {}", files.state().display()))
            .hint("it is beside the output (-o) of the run that was interrupted; a run that ended has none")
            .into());
    }
    if !args.resume && !args.overwrite {
        if begun {
            return Err(Hinted::new(format!("{output} was begun by a run that was interrupted"))
                .hint("go on with it (--resume), replace it (--overwrite), or name another file (-o)")
                .into());
        }
        if args.output.exists() {
            return Err(Hinted::new(format!("{output} is there already"))
                .hint("replace it (--overwrite), or name another file (-o)")
                .into());
        }
    }
    for path in std::iter::once(&args.output).chain(&args.report).chain(args.trajectory.as_ref().filter(|path| is_file_name(path))) {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if !folder.is_dir() {
            return Err(Hinted::new(format!("cannot write {}: there is no folder {}", path.display(), folder.display())).into());
        }
        if path.is_dir() {
            return Err(Hinted::new(format!("cannot write {}: it is a folder", path.display())).into());
        }
        tempfile::tempfile_in(folder).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// What it would take.
fn plan(args: &RelaxArgs, field: &Field, jobs: &[Job]) -> Result<Outcome> {
    let mut output = Output::default();
    let atoms: usize = jobs.iter().map(|j| j.structure.len()).sum();
    let Some(largest) = jobs.iter().max_by_key(|j| j.structure.len()) else { return Ok(Outcome::Success) };
    let seconds = running::seconds_a_step(&mut *field.force_field(0.0)?, &largest.structure)?;
    let held: usize = jobs.iter().flat_map(|j| &j.movable).filter(|m| **m == [false; 3]).count();
    let step = seconds * atoms as f64 / largest.structure.len() as f64;
    let memory =
        field.bytes(&largest.structure).map_or_else(|| "unknown".to_owned(), |b| format!("{:.1} MB for the largest", b as f64 / 1e6));
    let trajectory = args.trajectory.as_ref().map_or_else(String::new, |p| format!(", every step to {}", p.display()));
    for (name, value) in [
        ("model", field.name()),
        ("structures", format!("{}, the largest of {} atoms", jobs.len(), largest.structure.len())),
        ("atoms", format!("{atoms}, of which {held} are held")),
        ("memory", memory),
        ("one step of all", running::duration(step)),
        ("50 steps of all", running::duration(50.0 * step)),
        ("at most", format!("{} ({} steps)", running::duration((args.steps + 1) as f64 * step), args.steps)),
        ("writes", format!("{}{trajectory}", args.output.display())),
    ] {
        output.line(format_args!("{name:<16} {value}"));
    }
    output.flush()?;
    Ok(Outcome::Success)
}

/// The run itself.
fn go(
    args: &RelaxArgs,
    settings: &Settings,
    field: &Field,
    jobs: &[Job],
    sources: &[(String, usize)],
    run: &mut Run<'_>,
) -> Result<Outcome> {
    let start = Instant::now();
    let stop = running::on_signals()?;
    let mut forces = field.force_field(0.0)?;
    let committee = field.members().len() > 1;
    let mut output = Output::default();
    if !args.json {
        row::heading(committee, &mut output);
    }
    let tolerance = args.symmetry.unwrap_or(NAMED_WITHIN);
    let mut label = |index: usize, relaxation: &_, spread: Option<&_>| row::frame(&jobs[index].structure, relaxation, spread, tolerance);
    let mut progress = Progress::new("relaxing", Unit::Frames, Some(jobs.len() as u64));
    let mut printed = 0;
    let mut saved = Instant::now();
    // From now on there is something to go on from.
    run.save()?;
    loop {
        while let Some(Some(done)) = run.done().get(printed) {
            let (file, frame) = &sources[printed];
            if args.json {
                output.json(&row::to_json(*frame, file, &done.frame))?;
            } else {
                row::row(printed, &done.frame, committee, &mut output);
            }
            printed += 1;
        }
        print(&mut output)?;
        if run.is_finished() {
            break;
        }
        if stop.load(Ordering::Relaxed) {
            run.save()?;
            drop(progress);
            let text = format!(
                "interrupted after {} of {} structures; the state is saved, and --resume goes on from it",
                run.finished(),
                jobs.len()
            );
            errors::report(&Hinted::new(text).into());
            return Ok(Outcome::Interrupted);
        }
        run.round(&mut *forces, &mut label)?;
        progress.set(run.finished() as u64);
        if let Some((relaxation, at)) = run.farthest() {
            progress.say(format!("step {}, max |F| {:.3} eV/Å", relaxation.steps(), at.max_force));
        }
        if saved.elapsed() > SAVE_EVERY {
            run.save()?;
            saved = Instant::now();
        }
    }
    run.finish()?;
    drop(progress);
    let failed = run.done().iter().flatten().filter(|d| !row::converged(&d.frame)).count();
    if let Some(path) = &args.report {
        let steps: i64 = run.done().iter().flatten().filter_map(|d| d.frame.info.get("relax_steps")?.as_i64()).sum();
        let facts = [
            ("Model", field.name()),
            ("Structures", format!("{}, {} converged", jobs.len(), jobs.len() - failed)),
            ("Steps", steps.to_string()),
            ("Cell", format!("{:?}", settings.cell)),
            ("Pressure", format!("{} GPa", args.pressure)),
            ("Converged at", format!("{} eV/Å, {} GPa", args.max_force, args.max_stress)),
            ("Time", running::duration(start.elapsed().as_secs_f64())),
        ];
        row::report(path, &facts, run.done())?;
    }
    if failed > 0 {
        let hint = "the reason is in the table and, as relax_end, in the output; more --steps may help those that ran out of them";
        errors::report(&Hinted::new(format!("{failed} of {} structures did not converge", jobs.len())).hint(hint).into());
        return Ok(Outcome::Failure);
    }
    Ok(Outcome::Success)
}

/// Prints. A reader that has gone away does not keep the file from being written.
fn print(output: &mut Output) -> Result<()> {
    match output.flush() {
        Err(error) if errors::is_closed_output(&error) => {
            output.mute();
            Ok(())
        }
        result => result,
    }
}
