//! `tesseral neb`: paths and barriers.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tesseral_atoms::{ForceField, Structure, io};
use tesseral_report::format::fixed as decimals;
use tesseral_report::{Chart, Look, Page, Series, Table};
use tesseral_simulate::files;
use tesseral_simulate::neb::{self, Band, Method, Saved, Settings, path};
use tesseral_simulate::settle::{Internal, Job, Ledger, settle};

use super::{SKIN, fact, identity, nothing_to_resume, write_json};
use crate::args::{BandMethod, NebArgs};
use crate::commands::evaluate::frames_of;
use crate::commands::{Outcome, running};
use crate::errors::Hinted;
use crate::output::{DIM, HEADING, Output, number};
use crate::progress::{Progress, Unit};
use crate::settings::Field;

/// Images between two ends, without a wish.
const IMAGES: usize = 7;
/// The state of a run.
const STATE: &str = "band.json";
const FILES: [&str; 4] = [STATE, "path.extxyz", "neb.json", "report.html"];
/// The state is saved no more often than this: where a step is quick, saving would take longer.
const SAVE_AFTER: Duration = Duration::from_secs(10);
/// Forces on ends that are not relaxed, eV/Å.
const LARGE_FORCE: f64 = 0.1;

/// What a run needs to go on.
#[derive(Serialize, Deserialize)]
struct State {
    run: Value,
    band: Saved,
}

pub(crate) fn run(args: &NebArgs) -> Result<Outcome> {
    let (images, given) = images(args)?;
    let settings = Settings {
        spring: args.spring,
        tolerance: args.max_force,
        steps: args.steps,
        climb: !args.no_climb,
        climb_below: args.climb_below,
        method: match args.method {
            BandMethod::Lbfgs => Method::Lbfgs,
            BandMethod::Fire => Method::Fire,
        },
        fixed: fixed(args, &images[0])?,
    };
    let (first, last) = (&images[0], &images[images.len() - 1]);
    neb::check(&images, &settings)?;
    let field = Field::new(&args.field)?;
    for image in &images {
        field.check(image)?;
    }
    for odd in path::check_ends(first, last, &settings.fixed)? {
        tracing::warn!("{odd}");
    }
    let folder = args.keep.output.as_deref();
    if args.keep.dry_run {
        return plan(args, &field, first, images.len() - 2);
    }
    // Settings that say when to end may change.
    let asked = Settings { steps: 0, tolerance: 0.0, ..settings.clone() };
    let mut run = identity("neb", &field, first, &asked)?;
    if let Value::Object(run) = &mut run {
        run.insert("images".to_owned(), serde_json::to_value(images.iter().map(|i| &i.positions).collect::<Vec<_>>())?);
        run.insert("begin".to_owned(), serde_json::json!([args.relax_ends, args.linear, given]));
    }
    let stop = running::on_signals()?;
    let mut force_field = field.force_field(SKIN)?;
    let mut band = match folder {
        Some(folder) if args.keep.resume => resumed(folder, &run, images, settings)?,
        _ => {
            if let Some(folder) = folder {
                running::new_folder(folder, args.keep.overwrite)?;
            }
            let images = begin(args, images, given, &settings.fixed, &mut *force_field)?;
            Band::new(images, settings, &mut *force_field)?
        }
    };
    let save = |band: &Band| -> Result<()> {
        let Some(folder) = folder else { return Ok(()) };
        let state = State { run: run.clone(), band: band.save().clone() };
        io::write_atomically(folder.join(STATE), |file| -> Result<()> { Ok(serde_json::to_writer(file, &state)?) })
            .context("the band cannot be saved")?;
        Ok(io::write_extxyz_file(folder.join("path.extxyz"), &band.labelled())?)
    };
    save(&band)?;
    let mut progress = Progress::new("band", Unit::Checks, Some(args.steps));
    progress.set(band.steps());
    let mut saved = Instant::now();
    while !band.finished() {
        band.step(&mut *force_field)?;
        progress.set(band.steps());
        tracing::debug!(
            "step {}: largest force {:.4} eV/Å, barrier {:.4} eV, climbing {:?}",
            band.steps(),
            band.largest_force(),
            band.height(),
            band.climbing()
        );
        let stopping = stop.load(Ordering::Relaxed);
        if stopping || saved.elapsed() > SAVE_AFTER {
            save(&band)?;
            saved = Instant::now();
        }
        if stopping && !band.finished() {
            let message = format!("interrupted after step {}: the largest force is {:.3} eV/Å", band.steps(), band.largest_force());
            let error = Hinted::new(message).interrupted();
            return Err(if folder.is_some() {
                error.hint("go on with --resume")
            } else {
                error.hint("with -o FOLDER, an interrupted run can be gone on with")
            }
            .into());
        }
    }
    drop(progress);
    save(&band)?;
    finish(args, &field, &band, &mut *force_field)
}

/// The atoms of `--fix`.
fn fixed(args: &NebArgs, structure: &Structure) -> Result<Vec<usize>> {
    running::fixed_atoms(args.fix.as_deref(), structure)
}

/// The images of the files: two ends and straight lines between them, or all of one file. The flag says which.
fn images(args: &NebArgs) -> Result<(Vec<Structure>, bool)> {
    let count = args.images.map(std::num::NonZeroUsize::get);
    match args.files.as_slice() {
        [start, end] => {
            let (start, end) = (running::structure_of(start, -1)?, running::structure_of(end, -1)?);
            path::check_ends(&start, &end, &fixed(args, &start)?)?;
            Ok((path::linear(&start, &end, count.unwrap_or(IMAGES)), false))
        }
        files => {
            let file = &files[0];
            let frames = frames_of(file).map_err(|e| e.error)?;
            let images: Vec<Structure> = frames.map(|f| f.map(|f| f.structure)).collect::<Result<_, _>>().map_err(|e| e.error)?;
            match (images.as_slice(), count) {
                ([start, end], count) => {
                    path::check_ends(start, end, &fixed(args, start)?)?;
                    Ok((path::linear(start, end, count.unwrap_or(IMAGES)), false))
                }
                (many, None) if many.len() > 2 => {
                    if let Some(k) = many.iter().position(|s| s.numbers != many[0].numbers || s.cell != many[0].cell) {
                        return Err(
                            Hinted::new(format!("{}: image {k} has other atoms, or another cell, than the first", file.display())).into()
                        );
                    }
                    Ok((path::continuous(images), true))
                }
                (many, Some(count)) if many.len() > 2 => {
                    Err(Hinted::new(format!("{} has {} images, but --images {count} asks for others", file.display(), many.len()))
                        .hint("leave --images out, or give the two ends alone")
                        .usage()
                        .into())
                }
                _ => Err(Hinted::new(format!("{} has one structure: a path needs two ends", file.display()))
                    .hint("give two files, or one with both ends")
                    .usage()
                    .into()),
            }
        }
    }
}

/// The images to begin with: ends relaxed if asked for, and bent so that atoms stay apart unless they were given.
fn begin(args: &NebArgs, images: Vec<Structure>, given: bool, fixed: &[usize], field: &mut dyn ForceField) -> Result<Vec<Structure>> {
    let mut images = images;
    if args.relax_ends {
        let last = images.len() - 1;
        let jobs =
            [(0, "the start"), (last, "the end")].map(|(k, name)| Job { index: k, name: name.to_owned(), structure: images[k].clone() });
        let internal = Internal { tolerance: args.max_force.min(0.02), ..Internal::default() };
        let mut ledger = Ledger::in_memory();
        settle(&jobs, Some(&internal), fixed, field, &mut ledger, &mut |_, _| false)?;
        for k in [0, last] {
            if let Some(settled) = ledger.get(k) {
                if !settled.converged {
                    let end = if k == 0 { "start" } else { "end" };
                    tracing::warn!("the {end} is not relaxed after {} steps: {:.3} eV/Å are left", settled.steps, settled.largest_force);
                }
                images[k].positions.clone_from(&settled.positions);
            }
        }
        if !given {
            images = path::linear(&images[0], &images[last], last - 1);
        }
    }
    if !given && !args.linear {
        let left = path::bend(&mut images, fixed)?;
        tracing::debug!("the pair potential has forces of {left:.4} left");
    }
    Ok(images)
}

fn resumed(folder: &Path, run: &Value, images: Vec<Structure>, settings: Settings) -> Result<Band> {
    let path = folder.join(STATE);
    let text = match std::fs::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(nothing_to_resume(folder).into()),
        text => text.with_context(|| format!("cannot read {}", path.display()))?,
    };
    let state: State =
        serde_json::from_slice(&text).map_err(|error| Hinted::new(format!("{} is damaged", path.display())).because(error))?;
    if state.run != *run {
        return Err(Hinted::new(format!("{} belongs to a run with other structures, models or settings", path.display()))
            .hint("name another folder (-o), or replace it (--overwrite)")
            .into());
    }
    files::sweep(folder);
    Ok(Band::restore(images, settings, state.band)?)
}

fn plan(args: &NebArgs, field: &Field, structure: &Structure, images: usize) -> Result<Outcome> {
    let seconds = running::seconds_a_step(&mut *field.force_field(SKIN)?, structure)?;
    let (step, all) = (seconds * images as f64, seconds * images as f64 * args.steps as f64);
    let bytes = field.bytes(structure).map(|b| b * images);
    let writes: Vec<_> = args.keep.output.iter().flat_map(|folder| FILES.map(|f| folder.join(f))).collect();
    let mut output = Output::default();
    if args.keep.json {
        output.json(&serde_json::json!({
            "model": field.name(), "formula": structure.formula(), "atoms": structure.len(), "images": images, "bytes": bytes,
            "seconds_per_step": step, "steps_at_most": args.steps, "seconds_at_most": all, "writes": writes,
        }))?;
    } else {
        output.line(format_args!(
            "{HEADING}{}{HEADING:#} with {}, {} atoms, {images} images between the ends",
            structure.formula(),
            field.name(),
            structure.len()
        ));
        fact(&mut output, "memory", &bytes.map_or_else(|| "not known".to_owned(), |b| format!("{:.1} MB", b as f64 / 1e6)));
        fact(&mut output, "a step", &format!("about {}", running::duration(step)));
        fact(&mut output, "all", &format!("{} for {} steps, at most", running::duration(all), args.steps));
        for path in writes {
            fact(&mut output, "would write", &path.display().to_string());
        }
    }
    output.flush()?;
    Ok(Outcome::Success)
}

#[derive(Serialize)]
struct Json<'a> {
    model: String,
    formula: String,
    n_atoms: usize,
    barrier: f64,
    barrier_back: f64,
    reaction_energy: f64,
    interpolated_barrier: f64,
    max_force: f64,
    #[serde(flatten)]
    path: &'a neb::Path,
    energy_spread: Option<Vec<f64>>,
    force_spread: Option<Vec<f64>>,
}

fn finish(args: &NebArgs, field: &Field, band: &Band, force_field: &mut dyn ForceField) -> Result<Outcome> {
    let path = band.path();
    let (first, last) = (&path.images[0], &path.images[path.images.len() - 1]);
    for (name, point) in [("start", first), ("end", last)] {
        if point.largest_force > LARGE_FORCE.max(args.max_force) {
            tracing::warn!("the {name} is not relaxed: forces of up to {:.3} eV/Å (--relax-ends)", point.largest_force);
        }
    }
    if path.saddle.is_none() {
        tracing::warn!("no image is higher than the ends: there is no barrier between them, or images are too few to see it");
    }
    // A committee tells how far it disagrees about each image.
    let mut spreads = None;
    if force_field.spread().is_some() {
        let mut of_images = (Vec::new(), Vec::new());
        for structure in band.structures() {
            force_field.evaluate(structure)?;
            if let Some(spread) = force_field.spread() {
                of_images.0.push(spread.energy);
                of_images.1.push(spread.largest_force().map_or(0.0, |(_, f)| f));
            }
        }
        spreads = Some(of_images);
    }
    let structure = &band.structures()[0];
    let (energy_spread, force_spread) = spreads.unzip();
    let json = Json {
        model: field.name(),
        formula: structure.formula(),
        n_atoms: structure.len(),
        barrier: path.barrier(),
        barrier_back: path.barrier_back(),
        reaction_energy: path.reaction_energy(),
        interpolated_barrier: path.interpolated_barrier(),
        max_force: band.largest_force(),
        path: &path,
        energy_spread,
        force_spread,
    };
    let mut output = Output::default();
    if args.keep.json {
        output.json(&json)?;
    } else {
        print(&path, band, json.energy_spread.as_deref(), &mut output);
    }
    if let Some(folder) = &args.keep.output {
        write_json(&folder.join("neb.json"), &json)?;
        page(&path, &json).write(folder.join("report.html"))?;
    }
    output.flush()?;
    if !path.converged {
        tracing::warn!(
            "not converged after {} steps: the largest force is {:.3} eV/Å, above {} eV/Å",
            path.steps,
            band.largest_force(),
            args.max_force
        );
        return Ok(Outcome::Failure);
    }
    Ok(Outcome::Success)
}

fn print(path: &neb::Path, band: &Band, spread: Option<&[f64]>, output: &mut Output) {
    let last = if spread.is_some() { "     spread" } else { "" };
    output.line(format_args!(
        "{HEADING}{:>6} {:>10} {:>14} {:>10} {:>10} {:>10}{last}{HEADING:#}",
        "image", "path", "energy", "dE/ds", "max |F|", "band |F|"
    ));
    let last = if spread.is_some() { "         eV" } else { "" };
    output.line(format_args!("{DIM}{:>6} {:>10} {:>14} {:>10} {:>10} {:>10}{last}{DIM:#}", "", "Å", "eV", "eV/Å", "eV/Å", "eV/Å"));
    for (k, p) in path.images.iter().enumerate() {
        let spread = spread.and_then(|s| s.get(k)).map_or_else(String::new, |s| format!(" {}", number(Some(*s), 10, 5)));
        let mark = if path.saddle == Some(k) { if path.climbed { "  saddle" } else { "  highest" } } else { "" };
        output.line(format_args!(
            "{k:>6} {} {} {} {} {}{spread}{mark}",
            number(Some(p.distance), 10, 4),
            number(Some(p.energy - path.images[0].energy), 14, 5),
            number(Some(p.slope), 10, 4),
            number(Some(p.largest_force), 10, 4),
            number(Some(p.band_force), 10, 4)
        ));
    }
    output.line(format_args!(""));
    let of = if path.climbed { "of the climbing image" } else { "of the highest image" };
    fact(output, "barrier", &format!("{:.4} eV {of}, {:.4} eV interpolated", path.barrier(), path.interpolated_barrier()));
    fact(output, "barrier back", &format!("{:.4} eV", path.barrier_back()));
    fact(output, "reaction energy", &format!("{:.4} eV", path.reaction_energy()));
    fact(output, "steps", &format!("{}, largest force on the band {:.4} eV/Å", path.steps, band.largest_force()));
}

fn page(path: &neb::Path, json: &Json<'_>) -> Page {
    let mut page = Page::new(format!("Path of {}", json.formula));
    page.facts(&[
        ("Model", json.model.clone()),
        ("Atoms", json.n_atoms.to_string()),
        ("Barrier", format!("{} eV", decimals(json.barrier, 4))),
        ("Barrier back", format!("{} eV", decimals(json.barrier_back, 4))),
        ("Reaction energy", format!("{} eV", decimals(json.reaction_energy, 4))),
        ("Steps", format!("{}{}", path.steps, if path.converged { "" } else { ", not converged" })),
        ("Largest force on the band", format!("{:.4} eV/Å", json.max_force)),
    ]);
    let zero = path.images[0].energy;
    page.section("Energy along the path");
    page.chart(
        &Chart::new("Energy", "path, Å", "eV")
            .series(Series::new("images", Look::Points, path.images.iter().map(|p| (p.distance, p.energy - zero)).collect()))
            .series(Series::new("by energies and slopes", Look::Line, path.profile(30).into_iter().map(|(s, e)| (s, e - zero)).collect())),
    );
    page.table(&Table {
        caption: "Images, energies from that of the start".to_owned(),
        columns: ["image", "path, Å", "energy, eV", "dE/ds, eV/Å", "max |F|, eV/Å", "band |F|, eV/Å"].map(str::to_owned).to_vec(),
        rows: path
            .images
            .iter()
            .enumerate()
            .map(|(k, p)| {
                let numbers = [p.distance, p.energy - zero, p.slope, p.largest_force, p.band_force].map(|x| decimals(x, 4));
                std::iter::once(k.to_string()).chain(numbers).collect()
            })
            .collect(),
    });
    page
}
