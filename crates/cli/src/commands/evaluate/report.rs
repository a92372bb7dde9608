//! Results as a table and as JSON.

use serde::Serialize;
use tesseral_atoms::units::GPA;
use tesseral_atoms::{Evaluation, Spread};
use tesseral_infer::metrics::{ErrorStatistics, KeysUsed, Metrics};

use super::Frame;
use crate::output::{DIM, HEADING, Output, number};

/// Formulas longer than this are shortened where another column follows.
const FORMULA_WIDTH: usize = 20;

/// What one structure's row says.
#[derive(Debug)]
pub(crate) struct Row<'a> {
    file: &'a str,
    frame: usize,
    formula: String,
    atoms: usize,
    energy: f64,
    energy_per_atom: Option<f64>,
    max_force: Option<f64>,
    pressure: Option<f64>,
    spread: Option<(f64, Option<f64>)>,
    seconds: f64,
}

impl<'a> Row<'a> {
    pub(crate) fn new(frame: &'a Frame, evaluation: &Evaluation, spread: Option<&Spread>, seconds: f64) -> Self {
        let atoms = frame.structure.len();
        let norm = |f: &[f64; 3]| (f[0] * f[0] + f[1] * f[1] + f[2] * f[2]).sqrt();
        // `f64::max` would pass over a NaN.
        let max_force = evaluation.forces.iter().map(norm).reduce(|a, b| if a >= b || a.is_nan() { a } else { b });
        Self {
            file: &frame.file,
            frame: frame.index,
            formula: frame.structure.formula(),
            atoms,
            energy: evaluation.energy,
            energy_per_atom: (atoms > 0).then(|| evaluation.energy / atoms as f64),
            max_force,
            pressure: evaluation.stress.map(|s| -(s[0][0] + s[1][1] + s[2][2]) / 3.0 / GPA),
            spread: spread.map(|s| (s.energy / atoms.max(1) as f64, s.largest_force().map(|(_, force)| force))),
            seconds,
        }
    }

    pub(crate) fn json<'b>(&'b self, evaluation: &'b Evaluation, spread: Option<&'b Spread>, per_atom: bool) -> RowJson<'b> {
        RowJson {
            file: self.file,
            frame: self.frame,
            formula: &self.formula,
            n_atoms: self.atoms,
            energy: self.energy,
            energy_per_atom: self.energy_per_atom,
            max_force: self.max_force,
            pressure_gpa: self.pressure,
            forces: &evaluation.forces,
            stress: evaluation.stress,
            spread: spread.map(|s| SpreadJson {
                energy: s.energy,
                max_force: s.largest_force().map(|(_, force)| force),
                forces: &s.forces,
            }),
            atomic_energies: per_atom.then_some(&evaluation.atomic_energies),
            seconds: self.seconds,
        }
    }
}

/// One structure: eV, eV/Å, eV/Å³.
#[derive(Debug, Serialize)]
pub(crate) struct RowJson<'a> {
    file: &'a str,
    frame: usize,
    formula: &'a str,
    n_atoms: usize,
    energy: f64,
    energy_per_atom: Option<f64>,
    max_force: Option<f64>,
    pressure_gpa: Option<f64>,
    forces: &'a [[f64; 3]],
    stress: Option<[[f64; 3]; 3]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    spread: Option<SpreadJson<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    atomic_energies: Option<&'a Vec<f64>>,
    seconds: f64,
}

/// Standard deviations over the members of a committee: eV, eV/Å.
#[derive(Debug, Serialize)]
struct SpreadJson<'a> {
    energy: f64,
    max_force: Option<f64>,
    forces: &'a [f64],
}

/// A structure that was skipped.
#[derive(Debug, Serialize)]
pub(crate) struct FailureJson<'a> {
    pub(crate) file: &'a str,
    pub(crate) frame: Option<usize>,
    pub(crate) error: String,
}

/// The table, row by row. Columns that vary in width come last.
#[derive(Debug)]
pub(crate) struct Table {
    with_file: bool,
    with_seconds: bool,
    with_spread: bool,
    begun: bool,
}

impl Table {
    pub(crate) fn new(with_file: bool, with_seconds: bool, with_spread: bool) -> Self {
        Self { with_file, with_seconds, with_spread, begun: false }
    }

    pub(crate) fn row(&mut self, row: &Row<'_>, output: &mut Output) {
        if !self.begun {
            self.begun = true;
            self.heading(output);
        }
        let mut line = format!(
            "{:>6} {:>6} {} {} {} {}",
            row.frame,
            row.atoms,
            number(Some(row.energy), 15, 6),
            number(row.energy_per_atom, 12, 6),
            number(row.max_force, 10, 5),
            number(row.pressure, 10, 4),
        );
        if self.with_spread {
            let (energy, force) = row.spread.map_or((None, None), |(energy, force)| (Some(energy), force));
            line += &format!(" {} {}", number(energy, 11, 6), number(force, 10, 5));
        }
        if self.with_seconds {
            line += &format!(" {:>11.6}", row.seconds);
        }
        if self.with_file {
            line += &format!("  {:<FORMULA_WIDTH$}  {}", shortened(&row.formula), row.file);
        } else {
            line += &format!("  {}", row.formula);
        }
        output.line(format_args!("{line}"));
    }

    fn heading(&self, output: &mut Output) {
        let columns = |c: [&str; 9]| {
            let mut line = format!("{:>6} {:>6} {:>15} {:>12} {:>10} {:>10}", c[0], c[1], c[2], c[3], c[4], c[5]);
            if self.with_spread {
                line += &format!(" {:>11} {:>10}", c[6], c[7]);
            }
            if self.with_seconds {
                line += &format!(" {:>11}", c[8]);
            }
            line
        };
        let names = columns(["frame", "atoms", "energy", "energy/atom", "max |F|", "pressure", "± energy", "max ± F", "time"]);
        let units = columns(["", "", "eV", "eV/atom", "eV/Å", "GPa", "eV/atom", "eV/Å", "s"]);
        let last = if self.with_file { format!("{:<FORMULA_WIDTH$}  file", "formula") } else { "formula".to_owned() };
        output.line(format_args!("{HEADING}{names}  {last}{HEADING:#}"));
        output.line(format_args!("{DIM}{units}{DIM:#}"));
    }
}

fn shortened(formula: &str) -> String {
    if formula.chars().count() <= FORMULA_WIDTH {
        return formula.to_owned();
    }
    formula.chars().take(FORMULA_WIDTH - 1).chain(['…']).collect()
}

/// Prints the errors against the labels of the input.
pub(crate) fn summary(metrics: &Metrics, output: &mut Output) {
    output.line(format_args!(""));
    output.line(format_args!(
        "{HEADING}{:<12} {:>12} {:>12} {:>12} {:>10}  {:<8} {}{HEADING:#}",
        "errors", "MAE", "RMSE", "largest", "values", "unit", "label"
    ));
    for (name, unit, statistics, keys) in parts(metrics) {
        let (Some(mae), Some(rmse), Some(largest)) = (statistics.mae(), statistics.rmse(), statistics.largest()) else {
            continue;
        };
        let (mae, rmse, largest) = (digits(mae), digits(rmse), digits(largest));
        let (count, keys) = (statistics.count(), keys.as_slice().join(", "));
        output.line(format_args!("{name:<12} {mae:>12} {rmse:>12} {largest:>12} {count:>10}  {unit:<8} {keys}"));
    }
}

type Part<'a> = (&'static str, &'static str, &'a ErrorStatistics, &'a KeysUsed);

fn parts(metrics: &Metrics) -> [Part<'_>; 3] {
    [
        ("energy/atom", "eV/atom", &metrics.energy_per_atom, &metrics.energy_keys),
        ("forces", "eV/Å", &metrics.forces, &metrics.forces_keys),
        ("stress", "eV/Å³", &metrics.stress, &metrics.stress_keys),
    ]
}

/// Six decimals, or three digits and an exponent for what would be lost in them.
fn digits(value: f64) -> String {
    if value == 0.0 || (1e-3..1e5).contains(&value) { format!("{value:.6}") } else { format!("{value:.3e}") }
}

/// The last line of --json when the input carries labels.
#[derive(Debug, Serialize)]
pub(crate) struct SummaryJson {
    summary: SummaryBody,
}

#[derive(Debug, Serialize)]
struct SummaryBody {
    frames: u64,
    failed: u64,
    energy_per_atom: Option<StatisticsJson>,
    forces: Option<StatisticsJson>,
    stress: Option<StatisticsJson>,
}

#[derive(Debug, Serialize)]
struct StatisticsJson {
    mae: f64,
    rmse: f64,
    largest: f64,
    values: u64,
    unit: &'static str,
    labels: Vec<String>,
}

impl SummaryJson {
    pub(crate) fn new(metrics: &Metrics, frames: u64, failed: u64) -> Self {
        let [energy_per_atom, forces, stress] = parts(metrics).map(|(_, unit, statistics, keys)| {
            Some(StatisticsJson {
                mae: statistics.mae()?,
                rmse: statistics.rmse()?,
                largest: statistics.largest()?,
                values: statistics.count(),
                unit,
                labels: keys.as_slice().to_vec(),
            })
        });
        Self { summary: SummaryBody { frames, failed, energy_per_atom, forces, stress } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tesseral_atoms::{Cell, Structure};

    #[test]
    fn pressure_is_positive_under_compression_and_nan_is_seen() {
        let structure = Structure::crystal(Cell::cubic(3.0), vec![14, 14], vec![[0.0; 3], [1.5; 3]]);
        let frame = Frame { file: "a".into(), index: 0, structure };
        let mut evaluation = Evaluation {
            energy: -10.0,
            forces: vec![[3.0, 4.0, 0.0], [0.0; 3]],
            stress: Some([[-GPA, 0.0, 0.0], [0.0, -2.0 * GPA, 0.0], [0.0, 0.0, -3.0 * GPA]]),
            atomic_energies: vec![-5.0; 2],
        };
        let row = Row::new(&frame, &evaluation, None, 0.0);
        assert!((row.pressure.unwrap() - 2.0).abs() < 1e-12);
        assert_eq!((row.max_force, row.energy_per_atom), (Some(5.0), Some(-5.0)));
        evaluation.forces[1][0] = f64::NAN;
        assert!(Row::new(&frame, &evaluation, None, 0.0).max_force.unwrap().is_nan());
        evaluation.forces.swap(0, 1);
        assert!(Row::new(&frame, &evaluation, None, 0.0).max_force.unwrap().is_nan());
    }

    #[test]
    fn long_formulas_do_not_move_the_next_column() {
        assert_eq!(shortened("C2H6O"), "C2H6O");
        assert_eq!(shortened("Ag12Al14As13Au15B16Ba17").chars().count(), FORMULA_WIDTH);
    }
}
