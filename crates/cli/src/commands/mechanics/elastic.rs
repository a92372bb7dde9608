//! `tesseral elastic`: elastic constants.

use anyhow::Result;
use serde::Serialize;
use serde_json::Value;
use tesseral_atoms::units::GPA;
use tesseral_atoms::{Structure, io};
use tesseral_report::format::fixed;
use tesseral_report::{Chart, Look, Page, Series, Table};
use tesseral_simulate::elastic::{self, Average, Elasticity, Settings, tensor};
use tesseral_simulate::relax::{self, CellFreedom};
use tesseral_simulate::settle::Internal;

use super::{Plan, SKIN, STEPS_OF_A_RELAXATION, Watch, fact, gpa, identity, ledger, spread_line, write_json};
use crate::args::ElasticArgs;
use crate::commands::{Outcome, running};
use crate::errors::Hinted;
use crate::output::{DIM, GOOD, HEADING, Output, number};
use crate::settings::Field;

/// A stress at the start that is no longer small, GPa.
const SMALL_STRESS: f64 = 0.5;
const VOIGT: [&str; 6] = ["xx", "yy", "zz", "yz", "zx", "xy"];
const FILES: [&str; 4] = ["evaluations.jsonl", "elastic.json", "structure.extxyz", "report.html"];
/// Cell and atoms after --relax, for --resume.
const RELAXED: &str = "relaxed.extxyz";

pub(crate) fn run(args: &ElasticArgs) -> Result<Outcome> {
    let settings = Settings {
        amplitudes: args.strains.clone(),
        internal: (!args.clamped).then_some(Internal { tolerance: args.max_force, ..Internal::default() }),
        symmetry: (!args.no_symmetry).then_some(args.symmetry_tolerance),
    };
    let given = args.structure.read()?;
    elastic::check(&given, &settings)?;
    let field = Field::new(&args.field)?;
    field.check(&given)?;
    let (group, strained) = elastic::plan(&given, &settings)?;
    tracing::info!("space group {} ({}), {} independent constants", group.symbol, group.number, group.independent_constants());
    if args.keep.dry_run {
        let each = if args.clamped { 1 } else { STEPS_OF_A_RELAXATION };
        return Plan::new(&field, &given, strained + 1, each, &args.keep, &FILES)?.print(args.keep.json);
    }
    let mut run = identity("elastic", &field, &given, &settings)?;
    if let Value::Object(run) = &mut run {
        run.insert("relax".to_owned(), args.relax.into());
    }
    let mut ledger = ledger(&args.keep, &run)?;
    if let Some(folder) = args.keep.output.as_ref().filter(|_| !args.keep.resume) {
        // That of a run which is replaced is not this one's.
        std::fs::remove_file(folder.join(RELAXED)).ok();
    }
    let mut force_field = field.force_field(SKIN)?;
    let structure = if args.relax { relaxed(args, &given, &mut *force_field)? } else { given };
    let mut watch = Watch::new("straining", strained + 1)?;
    let Some(result) =
        elastic::elasticity(&structure, &settings, &mut *force_field, &mut ledger, &mut |done, total| watch.tick(done, total))?
    else {
        return Err(watch.interrupted(&args.keep).into());
    };
    drop(watch);
    for name in &result.unrelaxed {
        tracing::warn!("{name}: forces are above {} eV/Å after {} steps", args.max_force, Internal::default().steps);
    }
    let stress = largest_stress(&result);
    if stress > SMALL_STRESS {
        tracing::warn!(
            "the crystal is under stress at the start, up to {stress:.2} GPa: constants are those of the stressed crystal; --relax takes it to none"
        );
    }
    let json = Json::new(&result, &field.name());
    let mut output = Output::default();
    if args.keep.json {
        output.json(&json)?;
    } else {
        print(&result, &mut output);
    }
    if let Some(folder) = &args.keep.output {
        write_json(&folder.join("elastic.json"), &json)?;
        io::write_extxyz_file(folder.join("structure.extxyz"), [&result.structure])?;
        page(&result, &field.name()).write(folder.join("report.html"))?;
    }
    output.flush()?;
    Ok(if result.unrelaxed.is_empty() { Outcome::Success } else { Outcome::Failure })
}

/// Cell and atoms relaxed, the symmetry kept.
fn relaxed(args: &ElasticArgs, given: &Structure, field: &mut dyn tesseral_atoms::ForceField) -> Result<Structure> {
    let path = args.keep.output.as_ref().map(|folder| folder.join(RELAXED));
    if let Some(path) = path.as_ref().filter(|path| args.keep.resume && path.exists()) {
        return running::structure_of(path, 0);
    }
    let settings = relax::Settings {
        max_force: args.max_force,
        max_stress: 0.01 * GPA,
        cell: CellFreedom::Full,
        symmetry: (!args.no_symmetry).then_some(args.symmetry_tolerance),
        ..relax::Settings::default()
    };
    let result = relax::relax(given, &settings, &[], field)?;
    if let Some(ended) = result.ended().filter(|ended| !ended.is_converged()) {
        return Err(Hinted::new(format!("the crystal could not be relaxed in {} steps: {ended}", result.steps()))
            .hint("look at it with `tesseral relax`, or leave --relax out")
            .into());
    }
    if let Some(path) = path {
        io::write_extxyz_file(path, [result.structure()])?;
    }
    Ok(result.structure().clone())
}

fn largest_stress(result: &Elasticity) -> f64 {
    result.initial_stress.as_flattened().iter().fold(0.0f64, |m, s| m.max(s.abs())) / GPA
}

#[derive(Serialize)]
struct AverageJson {
    bulk_gpa: f64,
    shear_gpa: f64,
    young_gpa: f64,
    poisson: f64,
}

impl AverageJson {
    fn new(a: &Average) -> Self {
        Self { bulk_gpa: gpa(a.bulk), shear_gpa: gpa(a.shear), young_gpa: gpa(a.young()), poisson: a.poisson() }
    }
}

#[derive(Serialize)]
struct ModeJson {
    stiffness_gpa: f64,
    strain: [f64; 6],
    name: String,
}

#[derive(Serialize)]
struct Json {
    model: String,
    formula: String,
    n_atoms: usize,
    volume: f64,
    space_group: i32,
    space_group_symbol: String,
    crystal_system: elastic::CrystalSystem,
    constants_gpa: serde_json::Map<String, Value>,
    stiffness_gpa: [[f64; 6]; 6],
    stress_strain_gpa: [[f64; 6]; 6],
    initial_stress_gpa: [[f64; 3]; 3],
    voigt: Option<AverageJson>,
    reuss: Option<AverageJson>,
    hill: Option<AverageJson>,
    universal_anisotropy: Option<f64>,
    sound: Option<elastic::Sound>,
    stable: bool,
    modes: Vec<ModeJson>,
    strained_structures: usize,
    unrelaxed: Vec<String>,
    line_residual_gpa: f64,
    fit_residual_gpa: f64,
    asymmetry_gpa: f64,
    symmetry_residual_gpa: f64,
    energy_spread: Option<f64>,
    force_spread: Option<f64>,
}

impl Json {
    fn new(r: &Elasticity, model: &str) -> Self {
        let matrix = |c: &tensor::Voigt6| c.map(|row| row.map(gpa));
        let average = |of: fn(&elastic::Moduli) -> &Average| r.moduli.as_ref().map(|m| AverageJson::new(of(m)));
        Self {
            model: model.to_owned(),
            formula: r.structure.formula(),
            n_atoms: r.structure.len(),
            volume: r.structure.cell.volume(),
            space_group: r.group.number,
            space_group_symbol: r.group.symbol.clone(),
            crystal_system: r.group.system,
            constants_gpa: r.constants.iter().map(|(name, c)| (name.clone(), gpa(*c).into())).collect(),
            stiffness_gpa: matrix(&r.stiffness),
            stress_strain_gpa: matrix(&r.response),
            initial_stress_gpa: r.initial_stress.map(|row| row.map(gpa)),
            voigt: average(|m| &m.voigt),
            reuss: average(|m| &m.reuss),
            hill: average(|m| &m.hill),
            universal_anisotropy: r.moduli.map(|m| m.anisotropy),
            sound: r.sound,
            stable: r.is_stable(),
            modes: r.modes.iter().map(|m| ModeJson { stiffness_gpa: gpa(m.stiffness), strain: m.strain, name: m.name() }).collect(),
            strained_structures: r.strained,
            unrelaxed: r.unrelaxed.clone(),
            line_residual_gpa: gpa(r.line_residual),
            fit_residual_gpa: gpa(r.fit_residual),
            asymmetry_gpa: gpa(r.asymmetry),
            symmetry_residual_gpa: gpa(r.symmetry_residual),
            energy_spread: r.spread.map(|s| s[0]),
            force_spread: r.spread.map(|s| s[1]),
        }
    }
}

fn matrix(output: &mut Output, title: &str, c: &tensor::Voigt6) {
    output.line(format_args!(""));
    output.line(format_args!("{HEADING}{title:<22}{}{HEADING:#}", VOIGT.map(|v| format!(" {v:>9}")).concat()));
    output.line(format_args!("{DIM}{:<22}{}{DIM:#}", "", [" GPa"; 6].map(|v| format!("{v:>10}")).concat()));
    for (name, row) in VOIGT.iter().zip(c) {
        output.line(format_args!("{name:>22}{}", row.map(|x| format!(" {}", number(Some(gpa(x)), 9, 2))).concat()));
    }
}

fn print(r: &Elasticity, output: &mut Output) {
    output.line(format_args!(
        "{HEADING}{}{HEADING:#}, {} ({}), {}: {} independent constants from {} strained structures",
        r.structure.formula(),
        r.group.symbol,
        r.group.number,
        r.group.system.name(),
        r.constants.len(),
        r.strained
    ));
    matrix(output, "stiffness", &r.stiffness);
    if largest_stress(r) > SMALL_STRESS {
        matrix(output, "stress by strain", &r.response);
    }
    output.line(format_args!(""));
    let constants: Vec<String> = r.constants.iter().map(|(name, c)| format!("{name} {:.2}", gpa(*c))).collect();
    for (k, line) in constants.chunks(6).enumerate() {
        fact(output, if k == 0 { "constants, GPa" } else { "" }, &line.join("  "));
    }
    fact(output, "stress at the start", &format!("{:.3} GPa at most", largest_stress(r)));
    fact(
        output,
        "deviations",
        &format!(
            "{:.3} GPa from the fits, {:.3} GPa from straight lines, {:.3} GPa from the symmetry",
            gpa(r.fit_residual),
            gpa(r.line_residual),
            gpa(r.symmetry_residual)
        ),
    );
    spread_line(output, r.spread);
    if let Some(m) = &r.moduli {
        output.line(format_args!(""));
        output.line(format_args!("{HEADING}{:<22} {:>9} {:>9} {:>9} {:>9}{HEADING:#}", "polycrystal", "bulk", "shear", "Young", "Poisson"));
        output.line(format_args!("{DIM}{:<22} {:>9} {:>9} {:>9} {:>9}{DIM:#}", "", "GPa", "GPa", "GPa", ""));
        for (name, a) in [("Voigt", &m.voigt), ("Reuss", &m.reuss), ("Hill", &m.hill)] {
            let [bulk, shear, young] = [a.bulk, a.shear, a.young()].map(|x| number(Some(gpa(x)), 9, 2));
            output.line(format_args!("{name:>22} {bulk} {shear} {young} {}", number(Some(a.poisson()), 9, 3)));
        }
        output.line(format_args!(""));
        fact(output, "universal anisotropy", &format!("{:.3}", m.anisotropy));
    }
    if let Some(s) = &r.sound {
        fact(
            output,
            "sound",
            &format!("{:.0} m/s longitudinal, {:.0} m/s transverse, {:.0} m/s mean", s.longitudinal, s.transverse, s.mean),
        );
        fact(output, "Debye temperature", &format!("{:.1} K", s.debye_temperature));
    }
    match r.modes.first() {
        Some(soft) if soft.stiffness > 0.0 => {
            fact(
                output,
                "stability",
                &format!("{GOOD}stable{GOOD:#}: the softest strain, {}, has {:.2} GPa", soft.name(), gpa(soft.stiffness)),
            );
        }
        _ => {
            for mode in r.modes.iter().filter(|m| m.stiffness <= 0.0) {
                let line = format!(
                    "{}unstable{:#}: {:.2} GPa for the strain {}",
                    crate::errors::WARNING,
                    crate::errors::WARNING,
                    gpa(mode.stiffness),
                    mode.name()
                );
                fact(output, "stability", &line);
            }
        }
    }
}

fn page(r: &Elasticity, model: &str) -> Page {
    let mut page = Page::new(format!("Elastic constants of {}", r.structure.formula()));
    let mut facts = vec![
        ("Model", model.to_owned()),
        ("Space group", format!("{} ({}), {}", r.group.symbol, r.group.number, r.group.system.name())),
        ("Atoms", r.structure.len().to_string()),
        ("Stress at the start", format!("{:.3} GPa at most", largest_stress(r))),
        (
            "Stability",
            r.modes.first().map_or_else(String::new, |m| {
                format!("{}: softest strain {}, {:.2} GPa", if r.is_stable() { "stable" } else { "unstable" }, m.name(), gpa(m.stiffness))
            }),
        ),
    ];
    if let Some(m) = &r.moduli {
        facts.push(("Bulk modulus", format!("{:.2} GPa (Hill)", gpa(m.hill.bulk))));
        facts.push(("Shear modulus", format!("{:.2} GPa (Hill)", gpa(m.hill.shear))));
        facts.push(("Universal anisotropy", format!("{:.3}", m.anisotropy)));
    }
    if let Some(s) = &r.sound {
        facts.push(("Debye temperature", format!("{:.1} K", s.debye_temperature)));
    }
    page.facts(&facts);
    page.section("Stiffness");
    let table = |caption: &str, c: &tensor::Voigt6| Table {
        caption: caption.to_owned(),
        columns: std::iter::once(String::new()).chain(VOIGT.iter().map(|v| (*v).to_owned())).collect(),
        rows: VOIGT
            .iter()
            .zip(c)
            .map(|(v, row)| std::iter::once((*v).to_owned()).chain(row.iter().map(|x| fixed(gpa(*x), 2))).collect())
            .collect(),
    };
    page.table(&table("Second derivatives of the energy by strain, GPa, in the axes of the structure", &r.stiffness));
    if largest_stress(r) > SMALL_STRESS {
        page.table(&table("Derivatives of the stress by strain, GPa", &r.response));
    }
    page.table(&Table {
        caption: "Independent constants in standard axes, GPa".to_owned(),
        columns: r.constants.iter().map(|c| c.0.clone()).collect(),
        rows: vec![r.constants.iter().map(|c| fixed(gpa(c.1), 2)).collect()],
    });
    if let Some(m) = &r.moduli {
        page.section("Moduli");
        let row = |name: &str, a: &Average| {
            vec![
                name.to_owned(),
                format!("{:.2}", gpa(a.bulk)),
                format!("{:.2}", gpa(a.shear)),
                format!("{:.2}", gpa(a.young())),
                format!("{:.3}", a.poisson()),
            ]
        };
        page.table(&Table {
            caption: "Of a polycrystal without texture".to_owned(),
            columns: ["", "bulk, GPa", "shear, GPa", "Young, GPa", "Poisson"].map(str::to_owned).to_vec(),
            rows: vec![row("Voigt", &m.voigt), row("Reuss", &m.reuss), row("Hill", &m.hill)],
        });
        let mut chart = Chart::new("Young’s modulus by direction", "angle in the plane, °", "GPa");
        for (name, a, b) in [("x to y", 0, 1), ("y to z", 1, 2), ("z to x", 2, 0)] {
            let points = (0..=180).filter_map(|degrees| {
                let (sin, cos) = f64::from(degrees).to_radians().sin_cos();
                let mut direction = [0.0; 3];
                (direction[a], direction[b]) = (cos, sin);
                Some((f64::from(degrees), gpa(tensor::young_modulus(&r.response, direction)?)))
            });
            chart = chart.series(Series::new(name, Look::Line, points.collect()));
        }
        page.chart(&chart);
    }
    page
}
