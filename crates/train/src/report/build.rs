//! A report from a log, and its parts from figures.

use super::{Cell, Column, Curve, EventRow, ForgettingRow, Phase, Point, Report, Row, Series, SetRow, Table};
use crate::log::{Record, Validation};
use crate::metrics::{ErrorSummary, Named, Quantity, SetErrors, SetSummary};

/// The statistics in tables and curves.
const STATISTICS: [(&str, fn(&ErrorSummary) -> f64); 2] = [("MAE", |e| e.mae), ("RMSE", |e| e.rmse)];

impl Report {
    /// The report of a run from its log, as far as it has come.
    pub fn from_log(records: &[Record]) -> Self {
        let mut report = Self::default();
        let mut last: Vec<&Validation> = Vec::new();
        for record in records {
            match record {
                Record::Start(start) => {
                    report.title.clone_from(&start.name);
                    report.provenance = start.provenance.clone();
                    report.config_toml.clone_from(&start.config);
                }
                Record::Resumed(resumed) => report.events.push(EventRow {
                    step: resumed.step,
                    epoch: resumed.epoch,
                    message: format!("resumed from {}", resumed.checkpoint),
                }),
                Record::Finding(finding) => report.findings.push(finding.clone()),
                Record::Validation(validation) => {
                    let best = last.iter_mut().find(|known| known.set == validation.set);
                    match best {
                        // The weights that are kept are those of the best validation.
                        Some(known) if validation.best || !known.best => *known = validation,
                        Some(_) => {}
                        None => last.push(validation),
                    }
                }
                Record::Forgetting(row) => {
                    // A run that was begun again measures again.
                    let key = |row: &ForgettingRow| (row.run.clone(), row.set.clone(), row.phase, row.step);
                    report.forgetting.retain(|before| key(before) != key(row));
                    report.forgetting.push((**row).clone());
                }
                Record::Evaluation(set) => report.add_set(set),
                Record::Event(event) => {
                    report.events.push(EventRow { step: event.step, epoch: event.epoch, message: event.message.clone() });
                }
                Record::End(end) => {
                    report.outcome = format!("{} after {} epochs, {} steps", end.reason, end.epoch, end.step);
                    report.provenance.wall_seconds = Some(end.wall_seconds);
                }
                Record::Step(_) | Record::Epoch(_) | Record::Unknown => {}
            }
        }
        for validation in last {
            if !report.sets.iter().any(|row| row.set == validation.set) {
                let row = SetRow { set: validation.set.clone(), errors: validation.errors.clone() };
                report.sets.push(row);
            }
        }
        report.curves = curves(records);
        report
    }

    /// Adds the errors over a set, its plots and its tables.
    pub fn add_set(&mut self, summary: &SetSummary) {
        let set = &summary.set;
        self.sets.push(SetRow { set: set.clone(), errors: summary.errors.clone() });
        self.parity.extend(summary.parity.iter().cloned());
        self.histograms.extend(summary.histograms.iter().cloned());
        for (what, label, named) in [("group", "config_type", &summary.groups), ("head", "head", &summary.heads)] {
            if !named.is_empty() {
                let rows: Vec<(&str, &SetErrors)> = named.iter().map(|n| (n.name.as_str(), &n.errors)).collect();
                self.tables.push(errors_table(format!("{set}: errors by {what}"), label, &rows));
            }
        }
        if !summary.elements.is_empty() {
            self.tables.push(elements_table(format!("{set}: force errors by element"), &summary.elements));
        }
    }
}

/// Errors of several sets or groups: number of frames, and MAE and RMSE of every quantity that is labelled somewhere.
pub(crate) fn errors_table(title: String, label: &str, rows: &[(&str, &SetErrors)]) -> Table {
    let mut columns = vec![Column { name: "frames".into(), ..Column::default() }];
    let quantities = [Quantity::Energy, Quantity::EnergyPerAtom, Quantity::Forces, Quantity::Stress];
    let labelled: Vec<Quantity> = quantities.into_iter().filter(|q| rows.iter().any(|(_, errors)| errors.of(*q).is_some())).collect();
    for quantity in &labelled {
        for (statistic, _) in STATISTICS {
            let bars = *quantity == Quantity::Forces && statistic == "RMSE" && rows.len() > 1;
            columns.push(Column { group: quantity.title().into(), name: statistic.into(), unit: quantity.display_unit().0.into(), bars });
        }
        if *quantity == Quantity::Forces {
            columns.push(Column { group: quantity.title().into(), name: "relative".into(), unit: "%".into(), bars: false });
        }
    }
    let row = |(name, errors): &(&str, &SetErrors)| {
        let mut cells = vec![Cell::Count(errors.frames)];
        for quantity in &labelled {
            let factor = quantity.display_unit().1;
            for (_, pick) in STATISTICS {
                cells.push(errors.of(*quantity).map_or(Cell::Empty, |e| Cell::Number(pick(e) * factor)));
            }
            if *quantity == Quantity::Forces {
                cells.push(percent(errors.forces.as_ref().and_then(|e| e.relative_rmse)));
            }
        }
        Row { label: (*name).to_owned(), cells }
    };
    Table { title, label: label.to_owned(), columns, rows: rows.iter().map(row).collect() }
}

fn elements_table(title: String, elements: &[Named<ErrorSummary>]) -> Table {
    let (unit, factor) = Quantity::Forces.display_unit();
    let number = |name: &str, bars: bool| Column { group: String::new(), name: name.into(), unit: unit.into(), bars };
    let columns = vec![
        Column { name: "components".into(), ..Column::default() },
        number("MAE", false),
        number("RMSE", elements.len() > 1),
        number("95 % below", false),
        number("largest", false),
        Column { name: "relative RMSE".into(), unit: "%".into(), ..Column::default() },
    ];
    let row = |element: &Named<ErrorSummary>| {
        let errors = &element.errors;
        let mut cells = vec![Cell::Count(errors.values)];
        cells.extend([errors.mae, errors.rmse, errors.q95, errors.largest].map(|value| Cell::Number(value * factor)));
        cells.push(percent(errors.relative_rmse));
        Row { label: element.name.clone(), cells }
    };
    Table { title, label: "element".into(), columns, rows: elements.iter().map(row).collect() }
}

/// Errors on one domain by time, with changes relative to before.
pub(crate) fn forgetting_table(run: &str, set: &str, rows: &[&ForgettingRow]) -> Table {
    let labelled: Vec<Quantity> = super::chart::SHOWN.into_iter().filter(|q| rows.iter().any(|row| row.errors.of(*q).is_some())).collect();
    let before = rows.iter().find(|row| row.phase == Phase::Before);
    let mut columns = vec![Column { name: "frames".into(), ..Column::default() }];
    for quantity in &labelled {
        let column = |name: &str, unit: &str| Column { group: quantity.title().into(), name: name.into(), unit: unit.into(), bars: false };
        for (statistic, _) in STATISTICS {
            columns.extend([column(statistic, quantity.display_unit().0), column("change", "")]);
        }
    }
    let row = |row: &&ForgettingRow| {
        let mut cells = vec![Cell::Count(row.errors.frames)];
        for quantity in &labelled {
            for (_, pick) in STATISTICS {
                let value = row.errors.of(*quantity).map(pick);
                let reference = before.and_then(|before| before.errors.of(*quantity)).map(pick).filter(|_| row.phase != Phase::Before);
                cells.push(value.map_or(Cell::Empty, |value| Cell::Number(value * quantity.display_unit().1)));
                let change = value.zip(reference).filter(|(_, reference)| *reference > 0.0);
                cells.push(change.map_or(Cell::Empty, |(value, reference)| Cell::Change(value / reference - 1.0)));
            }
        }
        let label = match row.phase {
            Phase::Before => "before".to_owned(),
            Phase::During => format!("epoch {}", row.epoch),
            Phase::After => format!("after epoch {}", row.epoch),
        };
        Row { label, cells }
    };
    Table { title: format!("{run}: errors on {set}"), label: "when".into(), columns, rows: rows.iter().map(row).collect() }
}

fn percent(fraction: Option<f64>) -> Cell {
    fraction.map_or(Cell::Empty, |fraction| Cell::Number(100.0 * fraction))
}

/// Loss, errors, learning rate and gradients in the course of training.
fn curves(records: &[Record]) -> Vec<Curve> {
    let steps = || records.iter().filter_map(|r| if let Record::Step(step) = r { Some(step) } else { None });
    let epochs = || records.iter().filter_map(|r| if let Record::Epoch(epoch) = r { Some(epoch) } else { None });
    let validations = || records.iter().filter_map(|r| if let Record::Validation(validation) = r { Some(&**validation) } else { None });
    let mut sets: Vec<&str> = Vec::new();
    for validation in validations() {
        if !sets.contains(&validation.set.as_str()) {
            sets.push(&validation.set);
        }
    }
    let point = |x: u64, y: f64| Point { x: x as f64, y };
    let curve = |title: &str, x: &str, unit: &str, series: Vec<Series>| Curve {
        title: title.into(),
        x: x.into(),
        unit: unit.into(),
        log: true,
        series,
    };
    let mut curves = Vec::new();

    // A run that has hardly begun has more steps than epochs.
    let by_epoch = epochs().nth(1).is_some();
    let training: Vec<Point> =
        if by_epoch { epochs().map(|e| point(e.epoch, e.loss)).collect() } else { steps().map(|s| point(s.step, s.loss)).collect() };
    let mut series = vec![Series { name: "training".into(), points: training }];
    for set in &sets {
        let of_set = validations().filter(|v| v.set == *set);
        let points = of_set.map(|v| point(if by_epoch { v.epoch } else { v.step }, v.loss)).collect();
        series.push(Series { name: (*set).to_owned(), points });
    }
    curves.push(curve("Loss", if by_epoch { "epoch" } else { "step" }, "", series));

    for quantity in super::chart::SHOWN {
        let (unit, factor) = quantity.display_unit();
        let mut series = Vec::new();
        for set in &sets {
            for (name, pick) in STATISTICS {
                let errors = validations().filter(|v| v.set == *set).filter_map(|v| Some((v.epoch, v.errors.of(quantity)?)));
                let points = errors.map(|(epoch, e)| point(epoch, pick(e) * factor)).collect();
                let name = if sets.len() > 1 { format!("{set}, {name}") } else { name.to_owned() };
                series.push(Series { name, points });
            }
        }
        curves.push(curve(&format!("{} error", quantity.title()), "epoch", unit, series));
    }
    let rates = steps().map(|s| point(s.step, s.learning_rate)).collect();
    curves.push(curve("Learning rate", "step", "", vec![Series { name: "learning rate".into(), points: rates }]));
    let norms = steps().map(|s| point(s.step, s.gradient_norm)).collect();
    curves.push(curve("Norm of the gradient", "step", "", vec![Series { name: "norm of the gradient".into(), points: norms }]));
    for curve in &mut curves {
        curve.series.retain(|series| !series.points.is_empty());
    }
    curves.retain(|curve| !curve.series.is_empty());
    curves
}
