//! `tesseral phonons`: bands, densities of states, thermal properties.

mod files;
mod page;
mod table;

use std::path::Path;
use std::sync::atomic::Ordering;

use anyhow::{Context, Result};
use tesseral_atoms::Structure;
use tesseral_infer::error::bytes;
use tesseral_simulate::phonons::{
    BandPath, Calculation, Crystal, Displacement, ForceSets, Mesh, Phonons, PhonopyInput, Supercell, Wishes, displacements,
    read_force_sets, read_yaml,
};

use crate::args::PhononsArgs;
use crate::commands::{Outcome, running};
use crate::errors::{self, Hinted};
use crate::output::{DIM, HEADING, Output};
use crate::progress::{Progress, Unit};
use crate::settings::Field;

/// Forces at rest above this, eV/Å, mean that the crystal is not relaxed.
const RELAXED: f64 = 0.01;

/// What was asked for, before anything is computed.
struct Plan {
    crystal: Crystal,
    supercell: Supercell,
    wishes: Wishes,
}

/// Where forces came from.
struct Source {
    name: String,
    at_rest: Option<(usize, f64)>,
    spread: Option<f64>,
}

pub(crate) fn run(args: &PhononsArgs) -> Result<Outcome> {
    let input = input(args)?;
    let given = args.forces.as_deref().map(|path| given_forces(path, input.as_ref().ok())).transpose()?;
    let plan = plan(args, input)?;
    let (sets, source) = match given {
        Some(sets) => {
            if args.dry_run {
                return Err(Hinted::new("--dry-run is about computing forces; with --forces there are none to compute").usage().into());
            }
            // What is wrong with them is found before anything is written.
            let phonons = Phonons::new(&plan.crystal, &plan.supercell, &sets, &plan.wishes)?;
            let folder = folder(args)?;
            running::new_folder(folder, args.overwrite || args.resume)?;
            let name = args.forces.as_ref().map(|f| f.display().to_string()).unwrap_or_default();
            return finish(args, &plan, &sets, &phonons, &Source { name, at_rest: None, spread: None });
        }
        None => match computed(args, &plan)? {
            Some(computed) => computed,
            None => return Ok(if args.dry_run { Outcome::Success } else { Outcome::Interrupted }),
        },
    };
    let phonons = Phonons::new(&plan.crystal, &plan.supercell, &sets, &plan.wishes)?;
    finish(args, &plan, &sets, &phonons, &source)
}

/// A structure, or a file of phonopy's.
fn input(args: &PhononsArgs) -> Result<std::result::Result<PhonopyInput, Structure>> {
    if is_yaml(&args.structure) {
        return Ok(Ok(read_yaml(&args.structure)?));
    }
    Ok(Err(running::structure_of(&args.structure, args.index)?))
}

fn is_yaml(path: &Path) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case("yaml") || e.eq_ignore_ascii_case("yml"))
}

fn given_forces(path: &Path, input: Option<&PhonopyInput>) -> Result<ForceSets> {
    if !is_yaml(path) {
        let sets = read_force_sets(path)?;
        if let Some(listed) = input.map(|i| &i.displacements).filter(|d| !d.is_empty()) {
            let same = |a: &Displacement, b: &Displacement| a.atom == b.atom && (0..3).all(|k| (a.vector[k] - b.vector[k]).abs() < 1e-6);
            if listed.len() != sets.displacements.len() || !listed.iter().zip(&sets.displacements).all(|(a, b)| same(a, b)) {
                tracing::warn!("the displacements of {} are not those that the structure's file lists; the former count", path.display());
            }
        }
        return Ok(sets);
    }
    let found = read_yaml(path)?;
    let forces = found.forces.ok_or_else(|| {
        Hinted::new(format!("{} has no forces", path.display())).hint("phonopy_disp.yaml has none; FORCE_SETS and phonopy_params.yaml do")
    })?;
    Ok(ForceSets { displacements: found.displacements, forces })
}

fn plan(args: &PhononsArgs, input: std::result::Result<PhonopyInput, Structure>) -> Result<Plan> {
    let (unit, matrix, primitive) = match input {
        Ok(input) => (input.unit, input.supercell, input.primitive),
        Err(structure) => (structure, None, None),
    };
    let crystal = Crystal::with_primitive(&unit, primitive, args.symmetry_tolerance)?;
    let supercell = match (&args.supercell, args.min_length, matrix) {
        (Some(numbers), ..) => Supercell::new(&crystal, rows(numbers)?)?,
        (None, None, Some(matrix)) => Supercell::new(&crystal, matrix)?,
        (None, length, _) => Supercell::of_length(&crystal, length.unwrap_or(12.0), args.max_atoms)?,
    };
    let path = match &args.path {
        Some(text) => BandPath::parse(&crystal, text)?,
        None => BandPath::standard(&crystal),
    };
    let size = [args.mesh[0], args.mesh[1], args.mesh[2]];
    let mesh = if args.gamma_centred { Mesh::centred(size)? } else { Mesh::monkhorst_pack(size)? };
    for (what, n, most) in [("--path-points", args.path_points, 10_000), ("--dos-bins", args.dos_bins, 1_000_000)] {
        if !(2..=most).contains(&n) {
            return Err(Hinted::new(format!("{what} {n}: between 2 and {most} are possible")).usage().into());
        }
    }
    let wishes =
        Wishes { path, points_per_line: args.path_points, mesh, bins: args.dos_bins, temperatures: temperatures(&args.temperatures)? };
    Ok(Plan { crystal, supercell, wishes })
}

fn rows(numbers: &[i64]) -> Result<[[i64; 3]; 3]> {
    match *numbers {
        [a, b, c] => Ok([[a, 0, 0], [0, b, 0], [0, 0, c]]),
        [a, b, c, d, e, f, g, h, i] => Ok([[a, b, c], [d, e, f], [g, h, i]]),
        _ => Err(Hinted::new(format!("--supercell has {} numbers", numbers.len()))
            .hint("three (3 3 3) or nine, one vector after another")
            .usage()
            .into()),
    }
}

/// "0:1000:10" or "300".
fn temperatures(text: &str) -> Result<Vec<f64>> {
    let wrong =
        || Hinted::new(format!("--temperatures {text}: FIRST:LAST:STEP or one temperature is needed, in K, such as 0:1000:10")).usage();
    let numbers: Vec<f64> = text
        .split(':')
        .map(|t| t.trim().parse::<f64>().ok().filter(|t| *t >= 0.0 && t.is_finite()))
        .collect::<Option<_>>()
        .ok_or_else(wrong)?;
    match numbers[..] {
        [one] => Ok(vec![one]),
        [first, last] | [first, last, _] => {
            let step = numbers.get(2).copied().unwrap_or(10.0);
            let steps = (last - first) / step;
            if !(step > 0.0 && (0.0..1e6).contains(&steps)) {
                return Err(wrong().into());
            }
            Ok((0..=(steps + 1e-9) as usize).map(|k| first + k as f64 * step).collect())
        }
        _ => Err(wrong().into()),
    }
}

fn folder(args: &PhononsArgs) -> Result<&Path> {
    // clap demands it but for --dry-run.
    args.output.as_deref().ok_or_else(|| Hinted::new("a folder for the results is needed: -o DIR").usage().into())
}

/// Forces by a model; `None` if that ended before all were there.
fn computed(args: &PhononsArgs, plan: &Plan) -> Result<Option<(ForceSets, Source)>> {
    let all = displacements(&plan.crystal, &plan.supercell, args.displacement)?;
    let field = Field::new(&args.field)?;
    field.check(&plan.supercell.structure)?;
    let mut force_field = field.force_field(0.5)?;
    if args.dry_run {
        let seconds = running::seconds_a_step(&mut *force_field, &plan.supercell.structure)?;
        dry_run(args, plan, &field, all.len(), seconds)?;
        return Ok(None);
    }
    let folder = folder(args)?;
    let path = folder.join("forces.jsonl");
    let what = field.identity()?;
    let stop = running::on_signals()?;
    let mut calculation = if args.resume {
        if !path.exists() {
            return Err(Hinted::new(format!("there is nothing to go on with: {} does not exist", path.display()))
                .hint("begin without --resume")
                .into());
        }
        let calculation = Calculation::resume(&plan.supercell, all, &path, &what)?;
        tesseral_simulate::files::sweep(folder);
        calculation
    } else {
        running::new_folder(folder, args.overwrite)?;
        Calculation::create(&plan.supercell, all, &path, &what)?
    };
    let total = calculation.total();
    if args.resume {
        tracing::info!("{} of {total} evaluations are done already", calculation.completed());
    }
    let mut progress = Progress::new("phonons", Unit::Displacements, Some(total as u64));
    let complete = calculation.run(&mut *force_field, &mut |done| {
        progress.set(done as u64);
        !stop.load(Ordering::Relaxed)
    })?;
    drop(progress);
    let Some(sets) = calculation.force_sets().filter(|_| complete) else {
        let message = format!("interrupted after {} of {total} evaluations", calculation.completed());
        errors::report(&Hinted::new(message).hint("--resume computes the rest").into());
        return Ok(None);
    };
    let at_rest = calculation.largest_force_at_rest();
    if let Some((atom, force)) = at_rest.filter(|f| f.1 > RELAXED) {
        tracing::warn!(
            "the crystal is not relaxed: a force of {force:.3} eV/Å is left on atom {atom} of the supercell; relax it first, with this model (`tesseral relax`)"
        );
    }
    let spread = calculation.largest_spread();
    Ok(Some((sets, Source { name: field.name(), at_rest, spread })))
}

fn dry_run(args: &PhononsArgs, plan: &Plan, field: &Field, displaced: usize, seconds: f64) -> Result<()> {
    let mut output = Output::default();
    let structure = &plan.supercell.structure;
    let memory = field.bytes(structure);
    let time = seconds * (displaced + 1) as f64;
    if args.json {
        output.json(&serde_json::json!({
            "plan": {
                "model": field.name(), "space_group": plan.crystal.number, "primitive_atoms": plan.crystal.len(), "supercell": plan.supercell.matrix,
                "atoms": structure.len(), "displacements": displaced, "bytes": memory, "seconds": time,
                "path": plan.wishes.path.kind, "mesh": plan.wishes.mesh.size,
            }
        }))?;
        return output.flush();
    }
    for (name, value) in [
        ("model", field.name()),
        ("crystal", table::crystal(&plan.crystal)),
        ("supercell", table::supercell(&plan.supercell)),
        ("displacements", format!("{displaced} of {} Å", args.displacement)),
        ("memory", memory.map_or_else(|| "not known".to_owned(), |b| format!("about {}", bytes(b)))),
        ("time", format!("about {}: {} evaluations of {}", running::duration(time), displaced + 1, running::duration(seconds))),
        ("path", format!("{}: {}", plan.wishes.path.kind, table::path(&plan.wishes.path))),
        ("files", format!("{}, {}", files::NAMES.join(", "), "imaginary_modes.extxyz where there are any")),
    ] {
        output.line(format_args!("{HEADING}{name:<14}{HEADING:#} {value}"));
    }
    output.line(format_args!("{DIM}Nothing was written.{DIM:#}"));
    output.flush()
}

fn finish(args: &PhononsArgs, plan: &Plan, sets: &ForceSets, phonons: &Phonons, source: &Source) -> Result<Outcome> {
    let folder = folder(args)?;
    files::write(folder, args, plan, sets, phonons, source).with_context(|| format!("cannot write results to {}", folder.display()))?;
    page::write(&folder.join("report.html"), plan, phonons, source)?;
    let mut output = Output::default();
    if args.json {
        table::json(&mut output, plan, phonons, source)?;
    } else {
        table::print(&mut output, plan, phonons, source);
    }
    output.flush()?;
    warnings(phonons);
    Ok(Outcome::Success)
}

fn warnings(phonons: &Phonons) {
    let left_out = tesseral_simulate::phonons::left_out(&phonons.sample);
    let (lowest, q) = phonons.sample.lowest();
    if lowest < -tesseral_simulate::phonons::IMAGINARY_BELOW {
        tracing::warn!(
            "the crystal is not stable where frequencies are imaginary: down to {lowest:.2} THz on the mesh, at q = {:.3} {:.3} {:.3}; thermal properties leave out {:.1} % of all modes",
            q[0],
            q[1],
            q[2],
            100.0 * left_out
        );
    }
}
