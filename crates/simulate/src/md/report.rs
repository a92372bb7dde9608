//! The report of a run.

use serde_json::Value;
use tesseral_report::{Chart, Look, Page, Series, Table};

use super::{Run, Status, THERMO, folder_of};
use crate::analysis::{Analysis, diffusion};
use crate::dynamics::Ensemble;
use crate::error::SimulateError;

/// Points of a line, about: more than pixels nobody sees.
const POINTS: usize = 1500;

/// The logged numbers of one replica.
struct Log {
    name: String,
    rows: Vec<Value>,
}

impl Log {
    fn points(&self, key: &str, shift: f64) -> Vec<(f64, f64)> {
        let every = self.rows.len().div_ceil(POINTS).max(1);
        self.rows.iter().step_by(every).filter_map(|row| Some((row["time"].as_f64()? / 1000.0, row[key].as_f64()? - shift))).collect()
    }

    /// Mean and standard deviation over the second half.
    fn mean(&self, key: &str) -> Option<(f64, f64)> {
        let values: Vec<f64> = self.rows[self.rows.len() / 2..].iter().filter_map(|row| row[key].as_f64()).collect();
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
        (!values.is_empty()).then_some((mean, variance.sqrt()))
    }

    fn has(&self, key: &str) -> bool {
        self.rows.first().is_some_and(|row| row[key].is_number())
    }
}

/// The ensemble in words.
pub(super) fn ensemble(ensemble: &Ensemble) -> String {
    match ensemble {
        Ensemble::Nve => "NVE".to_owned(),
        Ensemble::Langevin { friction } => format!("NVT, Langevin, friction {friction}/fs"),
        Ensemble::NoseHoover { time, chain } => format!("NVT, Nosé–Hoover chain of {chain}, {time} fs"),
        Ensemble::Bussi { time } => format!("NVT, stochastic velocity rescaling, {time} fs"),
        Ensemble::StochasticCell { time, barostat_time, anisotropic, .. } => {
            format!("NPT, stochastic cell rescaling{}, {time} and {barostat_time} fs", if *anisotropic { " (all of the cell)" } else { "" })
        }
        Ensemble::Mtk { time, barostat_time, anisotropic } => {
            format!("NPT, Martyna–Tobias–Klein{}, {time} and {barostat_time} fs", if *anisotropic { " (all of the cell)" } else { "" })
        }
    }
}

pub(super) fn page(run: &Run<'_>) -> Result<Page, SimulateError> {
    let replicas = run.members.len();
    let logs: Vec<Log> = run
        .members
        .iter()
        .enumerate()
        .map(|(k, _)| {
            let path = folder_of(&run.folder, k, replicas).join(THERMO);
            let text = std::fs::read_to_string(&path).map_err(SimulateError::io(&path))?;
            let rows = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
            Ok(Log { name: if replicas == 1 { String::new() } else { format!("replica {k}") }, rows })
        })
        .collect::<Result<_, SimulateError>>()?;
    let dynamics = run.dynamics();
    let mut page = Page::new(format!("{} · {}", run.initial.formula(), ensemble(&dynamics.ensemble)));
    page.kicker("Molecular dynamics");
    let progress = run.progress();
    let mut facts = vec![
        ("Model", run.model.clone()),
        ("Atoms", run.initial.len().to_string()),
        ("Time step", format!("{} fs", run.members[0].time_step())),
        ("Steps", format!("{} of {}", progress.done, progress.total)),
        ("Seed", dynamics.seed.to_string()),
    ];
    if replicas > 1 {
        facts.push(("Replicas", replicas.to_string()));
    }
    let timing = run.timing();
    if timing.steps > 0 && timing.total > 0.0 {
        facts.push(("Speed", format!("{:.3} ns/day", timing.steps as f64 * dynamics.time_step * 1e-6 / timing.total * 86_400.0)));
    }
    if let Some(drift) = run.members[0].drift() {
        facts.push(("Drift of the conserved energy", format!("{drift:.2e} eV/atom/ps")));
    }
    page.facts(&facts);
    events(&mut page, run);
    means(&mut page, &logs);
    thermodynamics(&mut page, &logs);
    for (k, member) in run.members.iter().enumerate() {
        structure_and_motion(&mut page, &logs[k].name, &member.analysis, member.time_step(), member.dynamics.degrees_of_freedom());
    }
    Ok(page)
}

fn events(page: &mut Page, run: &Run<'_>) {
    let mut rows = Vec::new();
    for (k, member) in run.members.iter().enumerate() {
        let text = std::fs::read_to_string(member.folder().join(super::EVENTS)).unwrap_or_default();
        for event in text.lines().filter_map(|line| serde_json::from_str::<super::Event>(line).ok()) {
            rows.push(vec![k.to_string(), event.describe()]);
        }
        if let Status::Stopped(violation) = &member.status
            && rows.is_empty()
        {
            rows.push(vec![k.to_string(), violation.to_string()]);
        }
    }
    if !rows.is_empty() {
        page.section("Guards");
        page.table(&Table { caption: String::new(), columns: vec!["replica".into(), "what happened".into()], rows });
    }
}

fn means(page: &mut Page, logs: &[Log]) {
    let mut rows = Vec::new();
    for log in logs {
        for (key, name, unit) in [
            ("temperature", "temperature", "K"),
            ("potential", "potential energy", "eV"),
            ("total", "total energy", "eV"),
            ("pressure", "pressure", "GPa"),
            ("volume", "volume", "Å³"),
            ("density", "density", "g/cm³"),
            ("force_spread", "largest disagreement about a force", "eV/Å"),
        ] {
            if let Some((mean, deviation)) = log.mean(key) {
                rows.push(vec![log.name.clone(), name.to_owned(), unit.to_owned(), format!("{mean:.4}"), format!("{deviation:.4}")]);
            }
        }
    }
    page.section("Averages");
    let columns = ["replica", "quantity", "unit", "mean", "standard deviation"].map(str::to_owned).to_vec();
    let single = logs.len() == 1;
    let (columns, rows) =
        if single { (columns[1..].to_vec(), rows.into_iter().map(|r| r[1..].to_vec()).collect()) } else { (columns, rows) };
    page.table(&Table { caption: "Over the second half of the log.".into(), columns, rows });
}

fn thermodynamics(page: &mut Page, logs: &[Log]) {
    page.section("Thermodynamics");
    let line =
        |log: &Log, name: String, key: &str, shift: f64, colour| Series { name, points: log.points(key, shift), look: Look::Line, colour };
    let titled = |log: &Log, name: &str| if log.name.is_empty() { name.to_owned() } else { log.name.clone() };
    let simple = |page: &mut Page, key: &str, title: &str, y: &str, target: Option<&str>| {
        if !logs.iter().any(|log| log.has(key)) {
            return;
        }
        let mut chart = Chart::new(title, "time (ps)", y);
        for log in logs {
            chart = chart.series(line(log, titled(log, title), key, 0.0, None));
        }
        if let Some(target) = target.filter(|target| logs[0].has(target)) {
            chart = chart.series(Series { look: Look::Dashed, ..line(&logs[0], "target".into(), target, 0.0, None) });
        }
        page.chart(&chart);
    };
    simple(page, "temperature", "Temperature", "K", Some("target_temperature"));
    let Some(first) = logs.first() else { return };
    if logs.len() == 1 {
        let shift = |key: &str| first.rows.first().and_then(|row| row[key].as_f64()).unwrap_or(0.0);
        let mut chart = Chart::new("Energies, less those at the start", "time (ps)", "eV");
        for (name, key) in [("potential", "potential"), ("total", "total"), ("conserved", "conserved")] {
            chart = chart.series(line(first, name.to_owned(), key, shift(key), None));
        }
        page.chart(&chart);
    } else {
        simple(page, "potential", "Potential energy", "eV", None);
    }
    let mut chart = Chart::new("Conserved quantity, less that at the start", "time (ps)", "eV");
    for log in logs {
        let shift = log.rows.first().and_then(|row| row["conserved"].as_f64()).unwrap_or(0.0);
        chart = chart.series(line(log, titled(log, "conserved"), "conserved", shift, None));
    }
    page.chart(&chart);
    simple(page, "pressure", "Pressure", "GPa", Some("target_pressure"));
    let changes = first.rows.iter().any(|row| row["volume"] != first.rows[0]["volume"]);
    if changes {
        simple(page, "volume", "Volume", "Å³", None);
        simple(page, "density", "Density", "g/cm³", None);
    }
    simple(page, "force_spread", "Largest disagreement about a force", "eV/Å", None);
}

fn structure_and_motion(page: &mut Page, replica: &str, analysis: &Analysis, time_step: f64, degrees_of_freedom: f64) {
    let radial = analysis.radial();
    let displacement = analysis.mean_square_displacement(time_step);
    let states = analysis.density_of_states(time_step, degrees_of_freedom);
    if radial.is_none() && displacement.is_none() && states.is_none() {
        return;
    }
    page.section(&if replica.is_empty() { "Structure and motion".to_owned() } else { format!("Structure and motion: {replica}") });
    let line = |name: &str, x: &[f64], y: &[f64]| Series {
        name: name.to_owned(),
        points: x.iter().copied().zip(y.iter().copied()).collect(),
        look: Look::Line,
        colour: None,
    };
    if let Some(pairs) = radial {
        let mut chart = Chart::new("Radial distribution", "r (Å)", "g(r)");
        for pair in &pairs {
            chart = chart.series(line(&pair.name, &pair.r, &pair.g));
        }
        chart.y_lines = vec![1.0];
        page.chart(&chart);
    }
    let species = analysis.species();
    if let Some(curves) = &displacement {
        let picoseconds: Vec<f64> = curves.time.iter().map(|t| t / 1000.0).collect();
        let mut chart = Chart::new("Mean square displacement", "time (ps)", "Å²");
        for (kind, each) in species.iter().zip(&curves.each) {
            chart = chart.series(line(&kind.symbol, &picoseconds, each));
        }
        page.chart(&chart);
    }
    if let Some((all, each)) = &states {
        let most = all.density.iter().copied().fold(0.0, f64::max);
        let end =
            all.density.iter().rposition(|d| *d > 1e-3 * most).map_or(all.frequency.len(), |i| (i + i / 10 + 2).min(all.frequency.len()));
        let mut chart = Chart::new("Vibrational density of states", "frequency (THz)", "1/THz");
        chart = chart.series(line("all", &all.frequency[..end], &all.density[..end]));
        if each.len() > 1 {
            for (kind, each) in species.iter().zip(each) {
                chart = chart.series(line(&kind.symbol, &each.frequency[..end], &each.density[..end]));
            }
        }
        page.chart(&chart);
    }
    if let Some(curves) = &displacement {
        let each = species.iter().zip(&curves.each);
        let rows = each.filter_map(|(kind, d)| {
            diffusion(&curves.time, d)
                .map(|d| vec![kind.symbol.clone(), format!("{:.2e}", d.coefficient), format!("{:.0e}", d.uncertainty)])
        });
        let rows: Vec<_> = rows.collect();
        if !rows.is_empty() {
            page.table(&Table {
                caption: "Diffusion coefficients by Einstein's relation: they mean something only where the displacement grows as a straight line.".into(),
                columns: vec!["element".into(), "D\ncm²/s".into(), "halves differ by\ncm²/s".into()],
                rows,
            });
        }
    }
}
