//! `tesseral evaluate --plan`: what structures would take.

use anyhow::Result;
use serde::Serialize;
use tesseral_infer::error::bytes;

use super::frames_of;
use crate::args::EvaluateArgs;
use crate::commands::Outcome;
use crate::errors::Hinted;
use crate::output::{DIM, HEADING, Output};
use crate::settings::Field;

#[derive(Serialize)]
struct PlanJson<'a> {
    file: &'a str,
    frame: usize,
    n_atoms: usize,
    edges: u64,
    bytes: usize,
    least_bytes: usize,
}

pub(super) fn run(args: &EvaluateArgs, field: &Field) -> Result<Outcome> {
    let mut output = Output::default();
    if !args.json {
        output.line(format_args!(
            "{HEADING}{:>6} {:>10} {:>13} {:>10} {:>10}  file{HEADING:#}",
            "frame", "atoms", "edges", "memory", "least"
        ));
        output.line(format_args!("{DIM}{:>6} {:>10} {:>13} {:>10} {:>10}{DIM:#}", "", "", "about", "about", "slower"));
    }
    for path in &args.files {
        for frame in frames_of(path).map_err(|e| e.error)? {
            let frame = frame.map_err(|e| e.error)?;
            let Some(plan) = field.memory(&frame.structure) else {
                return Err(Hinted::new("--plan is about the compiled engine").usage().into());
            };
            if args.json {
                let (n_atoms, edges, least_bytes) = (plan.atoms, plan.edges, plan.least);
                output.json(&PlanJson { file: &frame.file, frame: frame.index, n_atoms, edges, bytes: plan.bytes, least_bytes })?;
            } else {
                output.line(format_args!(
                    "{:>6} {:>10} {:>13} {:>10} {:>10}  {}",
                    frame.index,
                    plan.atoms,
                    plan.edges,
                    bytes(plan.bytes),
                    bytes(plan.least),
                    frame.file
                ));
            }
            output.flush()?;
        }
    }
    Ok(Outcome::Success)
}
