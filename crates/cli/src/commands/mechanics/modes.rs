//! `tesseral modes`: normal modes of molecules.

use anyhow::Result;
use serde::Serialize;
use tesseral_atoms::io;
use tesseral_atoms::units::{AVOGADRO, BAR, ELEMENTARY_CHARGE};
use tesseral_report::format::fixed;
use tesseral_report::{Chart, Look, Page, Series, Table};
use tesseral_simulate::modes::{self, Modes, Settings, files, thermochemistry};
use tesseral_simulate::settle::Internal;
use thermochemistry::{Gas, Thermochemistry};

use super::{Plan, SKIN, Watch, fact, identity, ledger, spread_line, write_json};
use crate::args::ModesArgs;
use crate::commands::{Outcome, running};
use crate::errors::WARNING;
use crate::output::{DIM, HEADING, Output, number};
use crate::settings::Field;

const FILES: [&str; 5] = ["evaluations.jsonl", "modes.json", "modes.molden", "modes/", "report.html"];
/// Frames of an animation, and how far the atom goes that goes farthest, Å.
const FRAMES: usize = 24;
const AMPLITUDE: f64 = 0.25;
/// A force that a molecule in a minimum does not have, eV/Å.
const LARGE_FORCE: f64 = 0.02;

pub(crate) fn run(args: &ModesArgs) -> Result<Outcome> {
    let structure = args.structure.read()?;
    let settings = Settings {
        displacement: args.displacement,
        internal: args.relax.then_some(Internal { tolerance: args.max_force, ..Internal::default() }),
        fixed: running::fixed_atoms(args.fix.as_deref(), &structure)?,
    };
    modes::check(&structure, &settings)?;
    let field = Field::new(&args.field)?;
    field.check(&structure)?;
    let gas = Gas {
        temperature: args.temperature,
        pressure: args.pressure * BAR,
        symmetry_number: args.symmetry_number,
        multiplicity: args.multiplicity,
    };
    gas.check()?;
    let structures = 6 * (structure.len() - settings.fixed.len()) + 1;
    if args.keep.dry_run {
        return Plan::new(&field, &structure, structures, 1, &args.keep, &FILES)?.print(args.keep.json);
    }
    let mut ledger = ledger(&args.keep, &identity("modes", &field, &structure, &settings)?)?;
    if structure.is_periodic() {
        tracing::warn!(
            "the structure is periodic: modes are those of atoms that move alike in all cells; `tesseral phonons` has the others"
        );
    }
    let mut watch = Watch::new("displacing", structures)?;
    let mut force_field = field.force_field(SKIN)?;
    let Some(result) =
        modes::normal_modes(&structure, &settings, &mut *force_field, &mut ledger, &mut |done, total| watch.tick(done, total))?
    else {
        return Err(watch.interrupted(&args.keep).into());
    };
    drop(watch);
    if !result.relaxed {
        tracing::warn!("forces are still {:.4} eV/Å after {} steps", result.largest_force, Internal::default().steps);
    } else if result.largest_force > LARGE_FORCE.max(args.max_force) {
        tracing::warn!(
            "forces of up to {:.3} eV/Å act on the atoms: modes are those of a minimum only where there are none (--relax)",
            result.largest_force
        );
    }
    let thermo =
        if structure.is_periodic() || !settings.fixed.is_empty() { None } else { Some(thermochemistry::ideal_gas(&result, &gas)?) };
    let json = Json::new(&result, thermo.as_ref(), &gas, &field.name());
    let mut output = Output::default();
    if args.keep.json {
        output.json(&json)?;
    } else {
        print(&result, thermo.as_ref(), args, &mut output);
    }
    if let Some(folder) = &args.keep.output {
        write_json(&folder.join("modes.json"), &json)?;
        let molden = files::molden(&result);
        io::write_atomically::<_, std::io::Error>(folder.join("modes.molden"), |file| std::io::Write::write_all(file, molden.as_bytes()))?;
        let animations = folder.join("modes");
        fs_err::create_dir_all(&animations)?;
        for k in 0..result.modes.len() {
            io::write_extxyz_file(animations.join(format!("mode-{:03}.extxyz", k + 1)), &files::animation(&result, k, AMPLITUDE, FRAMES))?;
        }
        page(&result, thermo.as_ref(), args, &field.name()).write(folder.join("report.html"))?;
    }
    output.flush()?;
    Ok(if result.relaxed { Outcome::Success } else { Outcome::Failure })
}

#[derive(Serialize)]
struct ModeJson<'a> {
    wavenumber: f64,
    frequency_thz: f64,
    energy_mev: f64,
    reduced_mass: f64,
    imaginary: bool,
    displacements: &'a [[f64; 3]],
}

#[derive(Serialize)]
struct ThermoJson<'a> {
    #[serde(flatten)]
    gas: &'a Gas,
    #[serde(flatten)]
    functions: &'a Thermochemistry,
}

#[derive(Serialize)]
struct Json<'a> {
    model: String,
    formula: String,
    n_atoms: usize,
    energy: f64,
    max_force: f64,
    linear: bool,
    moments_of_inertia: [f64; 3],
    zero_point_energy: f64,
    imaginary: usize,
    modes: Vec<ModeJson<'a>>,
    projected_wavenumbers: Vec<f64>,
    hessian_asymmetry: f64,
    thermochemistry: Option<ThermoJson<'a>>,
    energy_spread: Option<f64>,
    force_spread: Option<f64>,
}

impl<'a> Json<'a> {
    fn new(r: &'a Modes, thermo: Option<&'a Thermochemistry>, gas: &'a Gas, model: &str) -> Self {
        let mode = |m: &'a modes::Mode| ModeJson {
            wavenumber: m.wavenumber(),
            frequency_thz: m.frequency,
            energy_mev: 1e3 * m.quantum(),
            reduced_mass: m.reduced_mass,
            imaginary: m.frequency < 0.0,
            displacements: &m.displacements,
        };
        Self {
            model: model.to_owned(),
            formula: r.structure.formula(),
            n_atoms: r.structure.len(),
            energy: r.energy,
            max_force: r.largest_force,
            linear: r.linear,
            moments_of_inertia: r.moments,
            zero_point_energy: r.zero_point_energy(),
            imaginary: r.imaginary(),
            modes: r.modes.iter().map(mode).collect(),
            projected_wavenumbers: r.projected.iter().map(|&f| modes::wavenumber(f)).collect(),
            hessian_asymmetry: r.asymmetry,
            thermochemistry: thermo.map(|functions| ThermoJson { gas, functions }),
            energy_spread: r.spread.map(|s| s[0]),
            force_spread: r.spread.map(|s| s[1]),
        }
    }
}

/// A wavenumber as chemists write it: "512.3i" for an imaginary one.
fn imaginary(value: f64, decimals: usize) -> String {
    if value < 0.0 { format!("{:.decimals$}i", -value) } else { format!("{value:.decimals$} ") }
}

fn print(r: &Modes, thermo: Option<&Thermochemistry>, args: &ModesArgs, output: &mut Output) {
    output.line(format_args!(
        "{HEADING}{:>5} {:>12} {:>11} {:>11} {:>13}{HEADING:#}",
        "mode", "wavenumber ", "frequency ", "energy ", "reduced mass"
    ));
    output.line(format_args!("{DIM}{:>5} {:>12} {:>11} {:>11} {:>13}{DIM:#}", "", "1/cm ", "THz ", "meV ", "u"));
    for (k, m) in r.modes.iter().enumerate() {
        let line = format!(
            "{:>5} {:>12} {:>11} {:>11} {}",
            k + 1,
            imaginary(m.wavenumber(), 2),
            imaginary(m.frequency, 4),
            imaginary(1e3 * m.quantum(), 3),
            number(Some(m.reduced_mass), 13, 4)
        );
        if m.frequency < 0.0 {
            output.line(format_args!("{WARNING}{line}{WARNING:#}"));
        } else {
            output.line(format_args!("{line}"));
        }
    }
    output.line(format_args!(""));
    let shape = if r.linear { ", linear" } else { "" };
    fact(output, "molecule", &format!("{}{shape}, {:.6} eV, largest force {:.4} eV/Å", r.structure.formula(), r.energy, r.largest_force));
    if !r.projected.is_empty() {
        let left: Vec<String> = r.projected.iter().map(|&f| imaginary(modes::wavenumber(f), 1).trim().to_owned()).collect();
        fact(output, "projected out", &format!("{} 1/cm", left.join(", ")));
    }
    fact(output, "imaginary modes", &r.imaginary().to_string());
    fact(output, "zero-point energy", &format!("{:.5} eV", r.zero_point_energy()));
    spread_line(output, r.spread);
    if let Some(t) = thermo {
        output.line(format_args!(""));
        output.line(format_args!(
            "{HEADING}ideal gas{HEADING:#} at {} K and {} bar, symmetry number {}, multiplicity {}; energies from the minimum of the potential",
            args.temperature, args.pressure, args.symmetry_number, args.multiplicity
        ));
        for (name, value, unit) in functions(t) {
            fact(output, name, &format!("{value} {unit}"));
        }
    }
}

fn functions(t: &Thermochemistry) -> [(&'static str, String, &'static str); 5] {
    let molar = AVOGADRO * ELEMENTARY_CHARGE;
    [
        ("internal energy", format!("{:.5}", t.internal_energy), "eV"),
        ("enthalpy", format!("{:.5}", t.enthalpy), "eV"),
        ("Gibbs energy", format!("{:.5}", t.gibbs_energy), "eV"),
        ("entropy", format!("{:.3}", t.entropy * molar), "J/(mol K)"),
        ("heat capacity Cv", format!("{:.3}", t.heat_capacity * molar), "J/(mol K)"),
    ]
}

fn page(r: &Modes, thermo: Option<&Thermochemistry>, args: &ModesArgs, model: &str) -> Page {
    let mut page = Page::new(format!("Normal modes of {}", r.structure.formula()));
    page.facts(&[
        ("Model", model.to_owned()),
        ("Energy", format!("{} eV", fixed(r.energy, 6))),
        ("Largest force", format!("{:.4} eV/Å", r.largest_force)),
        ("Zero-point energy", format!("{:.5} eV", r.zero_point_energy())),
        ("Imaginary modes", r.imaginary().to_string()),
    ]);
    page.section("Modes");
    let mut sticks = Chart::new("Wavenumbers", "1/cm", "reduced mass, u");
    for m in &r.modes {
        sticks = sticks.series(Series::new("", Look::Line, vec![(m.wavenumber(), 0.0), (m.wavenumber(), m.reduced_mass)]).colour(0));
    }
    page.chart(&sticks);
    page.table(&Table {
        caption: "Normal modes; imaginary ones carry an i".to_owned(),
        columns: ["mode", "1/cm", "THz", "meV", "reduced mass, u"].map(str::to_owned).to_vec(),
        rows: r
            .modes
            .iter()
            .enumerate()
            .map(|(k, m)| {
                let numbers = [imaginary(m.wavenumber(), 2), imaginary(m.frequency, 4), imaginary(1e3 * m.quantum(), 3)];
                let mut row = vec![(k + 1).to_string()];
                row.extend(numbers.map(|t| t.trim().to_owned()));
                row.push(format!("{:.4}", m.reduced_mass));
                row
            })
            .collect(),
    });
    if let Some(t) = thermo {
        page.section("Ideal gas");
        page.text(&format!(
            "At {} K and {} bar, symmetry number {}, multiplicity {}. Energies are measured from the minimum of the potential.",
            args.temperature, args.pressure, args.symmetry_number, args.multiplicity
        ));
        page.table(&Table {
            caption: "Rigid rotor and harmonic oscillators".to_owned(),
            columns: vec![String::new(), "value".to_owned(), "unit".to_owned()],
            rows: functions(t).into_iter().map(|(name, value, unit)| vec![name.to_owned(), value, unit.to_owned()]).collect(),
        });
    }
    page
}
