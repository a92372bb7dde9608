//! `tesseral verify`: is the potential what a potential has to be?

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use serde::Serialize;
use tesseral_atoms::{Structure, elements, io};
use tesseral_infer::verify::{Check, verify_cutoff, verify_structure};

use crate::args::{DtypeArg, VerifyArgs};
use crate::commands::Outcome;
use crate::commands::evaluate::frames_of;
use crate::errors::{ERROR, Hinted};
use crate::output::{DIM, GOOD, HEADING, Output};
use crate::progress::{Progress, Unit};
use crate::settings;

/// Structures that are checked when none are given: a covalent and an ionic crystal, and a molecule.
const EXAMPLES: [(&str, &str); 3] = [
    ("silicon.vasp", include_str!("../../../../examples/silicon.vasp")),
    ("nacl.cif", include_str!("../../../../examples/nacl.cif")),
    ("ethanol.extxyz", include_str!("../../../../examples/ethanol.extxyz")),
];

/// Pairs of elements that are drawn apart through the cutoff.
const MOST_PAIRS: usize = 6;

#[derive(Serialize)]
struct CheckJson<'a> {
    structure: &'a str,
    check: &'a str,
    value: f64,
    tolerance: Option<f64>,
    passed: Option<bool>,
}

pub(crate) fn run(args: &VerifyArgs) -> Result<Outcome> {
    let artifact = tesseral_loader::artifact(args.model.model.as_deref())?;
    let double = settings::potential(&artifact, args.model.head.as_deref(), DtypeArg::F64, &args.engine)?;
    let single = settings::potential(&artifact, args.model.head.as_deref(), DtypeArg::F32, &args.engine)?;
    let structures = if args.files.is_empty() { built_in(double.header().elements())? } else { given(args)? };
    let pairs = pairs_of(&structures);
    let mut progress = Progress::new("verifying", Unit::Checks, Some((structures.len() + pairs.len()) as u64));
    let mut report = Report { args, output: Output::default(), failed: 0, total: 0, unclaimed: false };
    report.heading();
    for (name, structure) in &structures {
        let checks = verify_structure(&double, &single, structure).with_context(|| format!("cannot check {name}"))?;
        report.checks(name, &checks)?;
        progress.advance(1);
    }
    for pair in pairs {
        let symbol = |z| elements::symbol(z).unwrap_or("?");
        let name = format!("{}–{} dimer", symbol(pair[0]), symbol(pair[1]));
        let checks = verify_cutoff(&double, pair).with_context(|| format!("cannot check the {name}"))?;
        report.checks(&name, &checks)?;
        progress.advance(1);
    }
    drop(progress);
    report.footnote()?;
    if report.failed == 0 {
        tracing::info!("all {} checks passed", report.total);
        return Ok(Outcome::Success);
    }
    let message = format!("{} of {} checks failed", report.failed, report.total);
    crate::errors::report(&Hinted::new(message).into());
    Ok(Outcome::Failure)
}

struct Report<'a> {
    args: &'a VerifyArgs,
    output: Output,
    failed: usize,
    total: usize,
    unclaimed: bool,
}

impl Report<'_> {
    fn heading(&mut self) {
        if !self.args.json {
            self.output.line(format_args!(
                "{HEADING}{:<24} {:>10} {:>10}  {:<4}  {}{HEADING:#}",
                "check", "deviation", "tolerance", "", "structure"
            ));
        }
    }

    fn footnote(&mut self) -> Result<()> {
        if self.unclaimed && !self.args.json {
            self.output.line(format_args!(
                "{DIM}n/a: the model's features carry no parity, so it does not promise the same energy for mirror images{DIM:#}"
            ));
        }
        self.output.flush()
    }

    fn checks(&mut self, structure: &str, checks: &[Check]) -> Result<()> {
        for check in checks {
            self.total += 1;
            let passed = check.passed();
            self.failed += usize::from(passed == Some(false));
            self.unclaimed |= passed.is_none();
            let Check { name, value, tolerance } = check;
            if self.args.json {
                self.output.json(&CheckJson { structure, check: name, value: *value, tolerance: *tolerance, passed })?;
                continue;
            }
            let (style, verdict) = match passed {
                Some(true) => (GOOD, "ok"),
                Some(false) => (ERROR, "FAIL"),
                None => (DIM, "n/a"),
            };
            let tolerance = tolerance.map_or_else(|| "–".to_owned(), |tolerance| format!("{tolerance:.1e}"));
            self.output.line(format_args!("{name:<24} {value:>10.1e} {tolerance:>10}  {style}{verdict:<4}{style:#}  {structure}"));
        }
        self.output.flush()
    }
}

/// The built-in structures whose elements the model knows; a dimer of its first element if it knows none of them.
fn built_in(known: &[u8]) -> Result<Vec<(String, Structure)>> {
    let mut structures = Vec::new();
    for (name, text) in EXAMPLES {
        let frames = io::read_stream(text.as_bytes(), name)?;
        for structure in frames {
            let structure = structure?;
            if structure.numbers.iter().all(|z| known.contains(z)) {
                structures.push((name.to_owned(), structure));
            }
        }
    }
    if structures.is_empty()
        && let Some(&z) = known.first()
    {
        let distance = elements::covalent_radius(z).unwrap_or(1.0) * 2.2;
        let structure = Structure::molecule(vec![z; 2], vec![[0.0; 3], [distance, 0.0, 0.0]]);
        structures.push((structure.formula(), structure));
    }
    Ok(structures)
}

fn given(args: &VerifyArgs) -> Result<Vec<(String, Structure)>> {
    let mut structures = Vec::new();
    for path in &args.files {
        for frame in frames_of(path).map_err(|error| error.error)? {
            let frame = frame.map_err(|error| error.error)?;
            structures.push((format!("{}#{}", frame.file, frame.index), frame.structure));
        }
    }
    Ok(structures)
}

/// Pairs of elements of the structures, at most [`MOST_PAIRS`].
fn pairs_of(structures: &[(String, Structure)]) -> Vec<[u8; 2]> {
    let mut pairs = Vec::new();
    for (_, structure) in structures {
        let own: BTreeSet<u8> = structure.numbers.iter().copied().collect();
        for &a in &own {
            for &b in own.range(a..) {
                if !pairs.contains(&[a, b]) {
                    pairs.push([a, b]);
                }
            }
        }
    }
    pairs.truncate(MOST_PAIRS);
    pairs
}
