//! What is said of a relaxed structure: as a row, as JSON, in a report. All of it is in the frame that is written, so that a run that was resumed says the same.

use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};
use tesseral_atoms::units::GPA;
use tesseral_atoms::{Spread, Structure};
use tesseral_report::{Chart, Look, Page, Series, Table};
use tesseral_simulate::relax::run::Done;
use tesseral_simulate::relax::{Relaxation, space_group};

use crate::commands::evaluate::with_results;
use crate::output::{DIM, HEADING, Output, number};

/// The frame of a relaxation that has ended.
pub(super) fn frame(structure: &Structure, relaxation: &Relaxation, spread: Option<&Spread>, tolerance: f64) -> Structure {
    let mut input = structure.clone();
    input.cell = relaxation.structure().cell;
    input.positions.clone_from(&relaxation.structure().positions);
    let mut frame = match relaxation.evaluation() {
        Some(evaluation) => with_results(&input, &evaluation, spread, false),
        None => input,
    };
    let mut put = |key: &str, value: tesseral_atoms::InfoValue| {
        frame.info.insert(key.to_owned(), value);
    };
    put("converged", relaxation.ended().is_some_and(|e| e.is_converged()).into());
    put("relax_steps", (relaxation.steps() as i64).into());
    if let Some(ended) = relaxation.ended() {
        put("relax_end", ended.to_string().as_str().into());
    }
    if let (Some(first), Some(last)) = (relaxation.first(), relaxation.last()) {
        put("relax_start_energy", first.energy.into());
        put("relax_start_max_force", first.max_force.into());
        put("relax_start_volume", first.volume.into());
        put("relax_max_force", last.max_force.into());
        if let Some(stress) = last.max_stress {
            put("relax_max_stress", stress.into());
        }
    }
    if let Some((number, symbol)) = space_group(relaxation.structure(), tolerance) {
        put("space_group", format!("{symbol} ({number})").as_str().into());
    }
    frame
}

fn real(frame: &Structure, key: &str) -> Option<f64> {
    frame.info.get(key)?.as_f64()
}

fn text<'a>(frame: &'a Structure, key: &str) -> Option<&'a str> {
    frame.info.get(key)?.as_str()
}

/// Whether a frame is a minimum.
pub(super) fn converged(frame: &Structure) -> bool {
    frame.info.get("converged").and_then(tesseral_atoms::InfoValue::as_bool).unwrap_or(false)
}

/// Change of the volume in per cent.
fn dilation(frame: &Structure) -> Option<f64> {
    let before = real(frame, "relax_start_volume")?;
    (frame.pbc == [true; 3] && before > 0.0).then(|| 100.0 * (frame.cell.volume() / before - 1.0))
}

/// The heading of the table.
pub(super) fn heading(committee: bool, output: &mut Output) {
    let spread = |text: &str| if committee { format!(" {text:>10}") } else { String::new() };
    let line = |c: [&str; 10], spread: String| {
        let [a, b, d, e, f, g, h, i, j, k] = c;
        format!("{a:>6} {b:>6} {d:>6} {e:>12} {f:>12} {g:>10} {h:>10} {i:>8}{spread}  {j:<16} {k}")
    };
    let names = line(["frame", "atoms", "steps", "start", "end", "max |F|", "max |σ|", "ΔV", "space group", "formula"], spread("spread F"));
    let units = line(["", "", "", "eV/atom", "eV/atom", "eV/Å", "GPa", "%", "", ""], spread("eV/Å"));
    output.line(format_args!("{HEADING}{names}{HEADING:#}"));
    output.line(format_args!("{DIM}{}{DIM:#}", units.trim_end()));
}

/// A row of the table.
pub(super) fn row(index: usize, frame: &Structure, committee: bool, output: &mut Output) {
    let atoms = frame.len() as f64;
    let largest_spread = || frame.arrays.get("forces_spread")?.as_reals().map(|s| s.iter().copied().fold(0.0, f64::max));
    let spread = if committee { format!(" {}", number(largest_spread(), 10, 5)) } else { String::new() };
    let mut line = format!(
        "{index:>6} {:>6} {:>6} {} {} {} {} {}{spread}  {:<16} {}",
        frame.len(),
        frame.info.get("relax_steps").and_then(tesseral_atoms::InfoValue::as_i64).unwrap_or(0),
        number(real(frame, "relax_start_energy").map(|e| e / atoms), 12, 6),
        number(real(frame, "energy").map(|e| e / atoms), 12, 6),
        number(real(frame, "relax_max_force"), 10, 5),
        number(real(frame, "relax_max_stress").map(|s| s / GPA), 10, 4),
        number(dilation(frame), 8, 2),
        text(frame, "space_group").unwrap_or("–"),
        frame.formula(),
    );
    if !converged(frame) {
        line += &format!("  {}", text(frame, "relax_end").unwrap_or_default());
    }
    output.line(format_args!("{line}"));
}

/// One structure for programs: eV, eV/Å, eV/Å³, Å.
pub(super) fn to_json(index: usize, file: &str, frame: &Structure) -> Value {
    let vectors = |name: &str| frame.arrays.get(name).and_then(tesseral_atoms::Array::to_vectors);
    let stress = frame.info.get("stress").and_then(tesseral_atoms::InfoValue::to_reals);
    json!({
        "file": file,
        "frame": index,
        "formula": frame.formula(),
        "n_atoms": frame.len(),
        "converged": converged(frame),
        "end": text(frame, "relax_end"),
        "steps": frame.info.get("relax_steps").and_then(tesseral_atoms::InfoValue::as_i64),
        "start_energy": real(frame, "relax_start_energy"),
        "energy": real(frame, "energy"),
        "start_max_force": real(frame, "relax_start_max_force"),
        "max_force": real(frame, "relax_max_force"),
        "max_stress": real(frame, "relax_max_stress"),
        "start_volume": real(frame, "relax_start_volume").filter(|_| frame.pbc == [true; 3]),
        "volume": (frame.pbc == [true; 3]).then(|| frame.cell.volume()),
        "space_group": text(frame, "space_group"),
        "energy_spread": real(frame, "energy_spread"),
        "cell": frame.cell.vectors,
        "positions": frame.positions,
        "forces": vectors("forces"),
        "stress": stress.map(|s| s.chunks(3).map(<[f64]>::to_vec).collect::<Vec<_>>()),
    })
}

/// Charts and a table of all structures.
pub(super) fn report(path: &Path, facts: &[(&str, String)], done: &[Option<Done>]) -> Result<()> {
    let mut page = Page::new("Relaxation");
    page.facts(facts);
    page.section("On the way");
    let traced = || done.iter().enumerate().filter_map(|(i, d)| Some((i, d.as_ref()?))).filter(|(_, d)| d.trace.len() > 1);
    let series = |value: &dyn Fn(&Done, usize) -> Option<f64>| -> Vec<Series> {
        traced()
            .map(|(index, d)| {
                let points = (0..d.trace.len()).map(|k| (k as f64, value(d, k).unwrap_or(f64::NAN))).collect();
                Series { name: format!("{index} {}", d.frame.formula()), points, look: Look::Line, colour: None }
            })
            .collect()
    };
    let mut forces = Chart::new("Largest force", "step", "eV/Å");
    forces.log_y = true;
    forces.series = series(&|d, k| Some(d.trace[k].max_force));
    let mut energies = Chart::new("Energy above the last", "step", "meV/atom");
    energies.series = series(&|d, k| Some(1e3 * (d.trace[k].enthalpy - d.trace.last()?.enthalpy) / d.frame.len() as f64));
    let mut stresses = Chart::new("Largest stress beyond that of the pressure", "step", "GPa");
    stresses.log_y = true;
    stresses.series = series(&|d, k| d.trace[k].max_stress.map(|s| s / GPA));
    for chart in [forces, energies, stresses] {
        if chart.series.iter().any(|s| s.points.iter().any(|p| p.1.is_finite())) {
            page.chart(&chart);
        }
    }
    page.section("Structures");
    let columns = [
        "frame",
        "formula",
        "atoms",
        "steps",
        "start\neV/atom",
        "end\neV/atom",
        "max |F|\neV/Å",
        "max |σ|\nGPa",
        "ΔV\n%",
        "space group",
        "ended",
    ];
    let cell = |value: Option<f64>, decimals: usize| value.map_or_else(String::new, |v| tesseral_report::format::fixed(v, decimals));
    let rows = done.iter().enumerate().filter_map(|(index, d)| Some((index, &d.as_ref()?.frame)));
    let rows = rows.map(|(index, f)| {
        let atoms = f.len() as f64;
        vec![
            index.to_string(),
            f.formula(),
            f.len().to_string(),
            f.info.get("relax_steps").and_then(tesseral_atoms::InfoValue::as_i64).unwrap_or(0).to_string(),
            cell(real(f, "relax_start_energy").map(|e| e / atoms), 6),
            cell(real(f, "energy").map(|e| e / atoms), 6),
            cell(real(f, "relax_max_force"), 5),
            cell(real(f, "relax_max_stress").map(|s| s / GPA), 4),
            cell(dilation(f), 2),
            text(f, "space_group").unwrap_or_default().to_owned(),
            text(f, "relax_end").unwrap_or_default().to_owned(),
        ]
    });
    page.table(&Table { caption: String::new(), columns: columns.map(str::to_owned).to_vec(), rows: rows.collect() });
    Ok(page.write(path)?)
}
