//! `tesseral eos`: equations of state.

use anyhow::Result;
use serde::Serialize;
use tesseral_atoms::io;
use tesseral_report::format::fixed;
use tesseral_report::{Chart, Look, Page, Series, Table};
use tesseral_simulate::eos::{self, EquationOfState, Fit, Form, Settings};
use tesseral_simulate::settle::Internal;

use super::{Plan, SKIN, STEPS_OF_A_RELAXATION, Watch, fact, gpa, identity, ledger, write_json};
use crate::args::EosArgs;
use crate::commands::Outcome;
use crate::errors::Hinted;
use crate::output::{DIM, HEADING, Output, number};
use crate::settings::Field;

const FILES: [&str; 4] = ["evaluations.jsonl", "eos.json", "structures.extxyz", "report.html"];

pub(crate) fn run(args: &EosArgs) -> Result<Outcome> {
    let relaxes = args.relax || args.relax_shape;
    if !(args.max_stress > 0.0 && args.max_stress.is_finite()) {
        return Err(Hinted::new(format!("--max-stress {}: a positive number of GPa is needed", args.max_stress)).usage().into());
    }
    let shape = args.relax_shape.then_some(args.max_stress * tesseral_atoms::units::GPA);
    let settings = Settings {
        range: [args.range[0], args.range[1]],
        points: args.points.get(),
        internal: relaxes.then_some(Internal { tolerance: args.max_force, shape, ..Internal::default() }),
    };
    let structure = args.structure.read()?;
    eos::check(&structure, &settings)?;
    let field = Field::new(&args.field)?;
    field.check(&structure)?;
    if args.keep.dry_run {
        let each = if relaxes { STEPS_OF_A_RELAXATION } else { 1 };
        return Plan::new(&field, &structure, settings.points, each, &args.keep, &FILES)?.print(args.keep.json);
    }
    let mut ledger = ledger(&args.keep, &identity("eos", &field, &structure, &settings)?)?;
    let mut watch = Watch::new("volumes", settings.points)?;
    let mut force_field = field.force_field(SKIN)?;
    let Some(result) =
        eos::equation_of_state(&structure, &settings, &mut *force_field, &mut ledger, &mut |done, total| watch.tick(done, total))?
    else {
        return Err(watch.interrupted(&args.keep).into());
    };
    drop(watch);
    let unrelaxed = result.points.iter().filter(|p| !p.converged).count();
    if unrelaxed > 0 {
        tracing::warn!("at {unrelaxed} volumes forces are above {} eV/Å after {} steps", args.max_force, Internal::default().steps);
    }
    if !relaxes {
        // Harmless where symmetry keeps atoms in place.
        let force = result.points.iter().map(|p| p.largest_force).fold(0.0, f64::max);
        if force > 0.05 {
            tracing::warn!("forces of up to {force:.3} eV/Å act on the atoms: --relax lets them follow");
        }
    }
    let n = structure.len();
    let json = Json::new(&result, &field.name(), &structure.formula(), n);
    let mut output = Output::default();
    if args.keep.json {
        output.json(&json)?;
    } else {
        print(&result, n, &mut output);
    }
    if let Some(folder) = &args.keep.output {
        write_json(&folder.join("eos.json"), &json)?;
        let structures: Vec<_> = result
            .points
            .iter()
            .map(|p| {
                let mut structure = p.structure.clone();
                structure.set_energy(p.energy);
                structure
            })
            .collect();
        io::write_extxyz_file(folder.join("structures.extxyz"), &structures)?;
        page(&result, &field.name(), &structure.formula(), n).write(folder.join("report.html"))?;
    }
    output.flush()?;
    if let Some(first) = result.fits.first() {
        for doubt in first.doubts(&result.points) {
            tracing::warn!("{doubt}");
        }
    } else {
        return Err(Hinted::new("the energies have no minimum near these volumes: nothing can be fitted")
            .hint("choose another --range, or relax the cell first")
            .into());
    }
    Ok(if unrelaxed == 0 { Outcome::Success } else { Outcome::Failure })
}

#[derive(Serialize)]
struct PointJson {
    volume: f64,
    energy: f64,
    pressure_gpa: Option<f64>,
    max_force: f64,
    converged: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    energy_spread: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    force_spread: Option<f64>,
}

#[derive(Serialize)]
struct FitJson {
    form: Form,
    volume: f64,
    energy: f64,
    bulk_modulus_gpa: f64,
    bulk_modulus_derivative: f64,
    volume_error: Option<f64>,
    energy_error: Option<f64>,
    bulk_modulus_error_gpa: Option<f64>,
    bulk_modulus_derivative_error: Option<f64>,
    rmse: f64,
    pressure_rmse_gpa: Option<f64>,
    doubts: Vec<String>,
}

#[derive(Serialize)]
struct Json {
    model: String,
    formula: String,
    n_atoms: usize,
    points: Vec<PointJson>,
    fits: Vec<FitJson>,
}

impl Json {
    fn new(r: &EquationOfState, model: &str, formula: &str, n_atoms: usize) -> Self {
        let points = r.points.iter().map(|p| PointJson {
            volume: p.volume,
            energy: p.energy,
            pressure_gpa: p.pressure.map(gpa),
            max_force: p.largest_force,
            converged: p.converged,
            energy_spread: p.spread.map(|s| s[0]),
            force_spread: p.spread.map(|s| s[1]),
        });
        let fits = r.fits.iter().map(|f| FitJson {
            form: f.form,
            volume: f.parameters.volume,
            energy: f.parameters.energy,
            bulk_modulus_gpa: gpa(f.parameters.bulk_modulus),
            bulk_modulus_derivative: f.parameters.derivative,
            volume_error: f.errors.map(|e| e.volume),
            energy_error: f.errors.map(|e| e.energy),
            bulk_modulus_error_gpa: f.errors.map(|e| gpa(e.bulk_modulus)),
            bulk_modulus_derivative_error: f.errors.map(|e| e.derivative),
            rmse: f.rmse,
            pressure_rmse_gpa: f.pressure_rmse.map(gpa),
            doubts: f.doubts(&r.points),
        });
        Self { model: model.to_owned(), formula: formula.to_owned(), n_atoms, points: points.collect(), fits: fits.collect() }
    }
}

fn print(r: &EquationOfState, atoms: usize, output: &mut Output) {
    let n = atoms as f64;
    let spread = r.points.iter().any(|p| p.spread.is_some());
    output.line(format_args!(
        "{HEADING}{:>12} {:>14} {:>10} {:>10}{}{HEADING:#}",
        "volume",
        "energy",
        "pressure",
        "max |F|",
        if spread { "     spread" } else { "" }
    ));
    output.line(format_args!(
        "{DIM}{:>12} {:>14} {:>10} {:>10}{}{DIM:#}",
        "Å³/atom",
        "eV/atom",
        "GPa",
        "eV/Å",
        if spread { "    eV/atom" } else { "" }
    ));
    for p in &r.points {
        let last = p.spread.map_or_else(String::new, |s| format!(" {}", number(Some(s[0] / n), 10, 5)));
        output.line(format_args!(
            "{} {} {} {}{last}",
            number(Some(p.volume / n), 12, 4),
            number(Some(p.energy / n), 14, 6),
            number(p.pressure.map(gpa), 10, 3),
            number(Some(p.largest_force), 10, 4)
        ));
    }
    if r.fits.is_empty() {
        return;
    }
    output.line(format_args!(""));
    output.line(format_args!(
        "{HEADING}{:<16} {:>20} {:>14} {:>18} {:>14} {:>10} {:>10}{HEADING:#}",
        "fit", "V0", "E0", "B0", "B0'", "rms E", "rms P"
    ));
    output.line(format_args!(
        "{DIM}{:<16} {:>20} {:>14} {:>18} {:>14} {:>10} {:>10}{DIM:#}",
        "", "Å³/atom", "eV/atom", "GPa", "", "meV/atom", "GPa"
    ));
    for fit in &r.fits {
        output.line(format_args!("{}", fit_line(fit, n)));
    }
    fact(output, "rms P", "pressures of the fit against those of the potential");
}

/// A value and its error, "92.13 ± 0.04".
fn with_error(value: f64, error: Option<f64>, decimals: usize) -> String {
    error.map_or_else(|| format!("{value:.decimals$}"), |error| format!("{value:.decimals$} ± {error:.decimals$}"))
}

fn fit_line(fit: &Fit, n: f64) -> String {
    let (p, e) = (&fit.parameters, &fit.errors);
    format!(
        "{:<16} {:>20} {:>14.6} {:>18} {:>14} {:>10.4} {}",
        fit.form.name(),
        with_error(p.volume / n, e.map(|e| e.volume / n), 4),
        p.energy / n,
        with_error(gpa(p.bulk_modulus), e.map(|e| gpa(e.bulk_modulus)), 2),
        with_error(p.derivative, e.map(|e| e.derivative), 2),
        1e3 * fit.rmse / n,
        number(fit.pressure_rmse.map(gpa), 10, 4)
    )
}

fn page(r: &EquationOfState, model: &str, formula: &str, atoms: usize) -> Page {
    let n = atoms as f64;
    let mut page = Page::new(format!("Equation of state of {formula}"));
    let mut facts = vec![("Model", model.to_owned()), ("Atoms", atoms.to_string())];
    if let Some(fit) = r.fits.first() {
        facts.push(("Volume", format!("{:.4} Å³/atom", fit.parameters.volume / n)));
        facts.push(("Bulk modulus", format!("{:.2} GPa ({})", gpa(fit.parameters.bulk_modulus), fit.form.name())));
        facts.push(("Its derivative by pressure", format!("{:.2}", fit.parameters.derivative)));
    }
    page.facts(&facts);
    let volumes = || r.points.iter().map(|p| p.volume);
    let (low, high) = (volumes().fold(f64::INFINITY, f64::min), volumes().fold(0.0, f64::max));
    let grid =
        |of: &dyn Fn(f64) -> f64| (0..=200).map(|k| low + (high - low) * f64::from(k) / 200.0).map(|v| (v / n, of(v))).collect::<Vec<_>>();
    page.section("Energy and pressure");
    let mut energy = Chart::new("Energy", "volume, Å³/atom", "eV/atom").series(Series::new(
        "computed",
        Look::Points,
        r.points.iter().map(|p| (p.volume / n, p.energy / n)).collect(),
    ));
    let pressures = r.points.iter().filter_map(|p| Some((p.volume / n, gpa(p.pressure?))));
    let mut pressure =
        Chart::new("Pressure", "volume, Å³/atom", "GPa").series(Series::new("of the potential", Look::Points, pressures.collect()));
    for fit in r.fits.iter().take(2) {
        energy = energy.series(Series::new(fit.form.name(), Look::Line, grid(&|v| fit.form.energy(v, &fit.parameters) / n)));
        pressure = pressure.series(Series::new(fit.form.name(), Look::Line, grid(&|v| gpa(fit.form.pressure(v, &fit.parameters)))));
    }
    page.chart(&energy);
    page.chart(&pressure);
    page.table(&Table {
        caption: "Fits, with standard errors".to_owned(),
        columns: ["", "V₀, Å³/atom", "E₀, eV/atom", "B₀, GPa", "B₀′", "rms, meV/atom"].map(str::to_owned).to_vec(),
        rows: r
            .fits
            .iter()
            .map(|f| {
                let (p, e) = (&f.parameters, &f.errors);
                vec![
                    f.form.name().to_owned(),
                    with_error(p.volume / n, e.map(|e| e.volume / n), 4),
                    fixed(p.energy / n, 6),
                    with_error(gpa(p.bulk_modulus), e.map(|e| gpa(e.bulk_modulus)), 2),
                    with_error(p.derivative, e.map(|e| e.derivative), 2),
                    format!("{:.4}", 1e3 * f.rmse / n),
                ]
            })
            .collect(),
    });
    for doubt in r.fits.first().map(|f| f.doubts(&r.points)).unwrap_or_default() {
        page.text(&format!("Doubtful: {doubt}."));
    }
    page
}
