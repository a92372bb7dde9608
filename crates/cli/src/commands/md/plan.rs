//! `--dry-run`: what a run would take.

use anyhow::Result;
use serde::Serialize;
use tesseral_simulate::trajectory::Format;

use super::input::Input;
use crate::args::MdArgs;
use crate::commands::{Outcome, running};
use crate::output::{DIM, Output};
use crate::settings::Field;

#[derive(Serialize)]
struct PlanJson {
    model: String,
    atoms: usize,
    replicas: usize,
    memory_bytes: Option<usize>,
    steps: u64,
    time_step_fs: f64,
    time_ps: f64,
    seconds_per_step: f64,
    seconds: f64,
    ns_per_day: f64,
    frames: u64,
    trajectory_bytes: u64,
}

pub(super) fn print(args: &MdArgs, input: &Input, field: &Field) -> Result<Outcome> {
    let (atoms, replicas) = (input.structure.len(), args.replicas.get());
    let seconds_per_step = running::seconds_a_step(&mut *field.force_field(args.skin)?, &input.structure)? * replicas as f64;
    let steps = input.settings.steps;
    let frames = (steps / input.settings.save_every + 1) * replicas as u64;
    // Text: ten numbers an atom of 17 digits; NetCDF: nine of four bytes.
    let bytes_an_atom = match input.settings.format {
        Format::ExtendedXyz => 190,
        Format::ExtendedXyzGz => 85,
        Format::NetCdf => 36,
    };
    let time_step = input.dynamics.time_step;
    let plan = PlanJson {
        model: super::description(args, field)?,
        atoms,
        replicas,
        memory_bytes: field.bytes(&input.structure),
        steps,
        time_step_fs: time_step,
        time_ps: steps as f64 * time_step / 1000.0,
        seconds_per_step,
        seconds: seconds_per_step * steps as f64,
        ns_per_day: replicas as f64 * time_step * 1e-6 / seconds_per_step * 86_400.0,
        frames,
        trajectory_bytes: frames * (atoms as u64 * bytes_an_atom + 400),
    };
    let mut output = Output::default();
    if args.json {
        output.json(&plan)?;
    } else {
        let megabytes = |bytes: f64| if bytes < 1e9 { format!("{:.1} MB", bytes / 1e6) } else { format!("{:.2} GB", bytes / 1e9) };
        let mut line = |name: &str, value: String| output.line(format_args!("{DIM}{name:<12}{DIM:#} {value}"));
        line("model", plan.model.clone());
        line(
            "structure",
            format!(
                "{}, {atoms} atoms{}",
                input.structure.formula(),
                if replicas > 1 { format!(", {replicas} replicas") } else { String::new() }
            ),
        );
        line("steps", format!("{steps} of {time_step:.3} fs: {:.3} ps", plan.time_ps));
        line("memory", plan.memory_bytes.map_or("unknown".to_owned(), |bytes| megabytes(bytes as f64)));
        line("a step", format!("{} (measured)", running::duration(seconds_per_step)));
        line("in all", format!("{}, {:.3} ns/day", running::duration(plan.seconds), plan.ns_per_day));
        let folder = args.output.as_deref().map_or("DIR".to_owned(), |folder| folder.display().to_string());
        line(
            "writes",
            format!(
                "{folder}/trajectory.{}: {frames} frames, about {}",
                input.settings.format.extension(),
                megabytes(plan.trajectory_bytes as f64)
            ),
        );
    }
    output.flush()?;
    Ok(Outcome::Success)
}
