//! The log as a table for people.

use tesseral_simulate::md::{Row, Run};

use crate::output::{DIM, HEADING, Output, number};

/// Rows at most, about: the log has all of them.
const ROWS: u64 = 100;

/// Lines of the log, one in several where there are many.
pub(super) struct Table {
    replicas: bool,
    with_pressure: bool,
    with_volume: bool,
    with_spread: bool,
    /// Lines of each replica so far.
    seen: Vec<u64>,
    /// One line in so many is shown.
    stride: u64,
    begun: bool,
}

impl Table {
    pub(super) fn new(run: &Run<'_>, replicas: usize) -> Self {
        let state = run.states().next();
        let lines = run.settings().steps / run.settings().log_every;
        Self {
            replicas: replicas > 1,
            with_pressure: state.is_some_and(|s| s.evaluation.stress.is_some()),
            with_volume: run.dynamics().ensemble.has_barostat(),
            with_spread: run.is_committee(),
            seen: vec![0; replicas],
            stride: lines.div_ceil(ROWS).max(1),
            begun: false,
        }
    }

    pub(super) fn row(&mut self, replica: usize, row: &Row, output: &mut Output) {
        self.seen[replica] += 1;
        if !self.seen[replica].is_multiple_of(self.stride) {
            return;
        }
        if !self.begun {
            self.begun = true;
            let names = self.line(
                ["replica", "step", "time", "temperature", "potential", "total", "conserved", "max |F|", "pressure", "volume", "spread"]
                    .map(str::to_owned),
            );
            let units = self.line(["", "", "ps", "K", "eV", "eV", "eV", "eV/Å", "GPa", "Å³", "eV/Å"].map(str::to_owned));
            output.line(format_args!("{HEADING}{names}{HEADING:#}"));
            output.line(format_args!("{DIM}{units}{DIM:#}"));
        }
        let thermo = &row.thermo;
        let cells = [
            replica.to_string(),
            thermo.step.to_string(),
            number(Some(thermo.time / 1000.0), 10, 4),
            number(Some(thermo.temperature), 11, 2),
            number(Some(thermo.potential), 14, 5),
            number(Some(thermo.total), 14, 5),
            number(Some(thermo.conserved), 14, 5),
            number(Some(row.max_force), 9, 4),
            number(thermo.pressure, 10, 4),
            number(thermo.volume, 12, 3),
            number(row.force_spread, 9, 4),
        ];
        let line = self.line(cells);
        output.line(format_args!("{line}"));
    }

    fn line(&self, cells: [String; 11]) -> String {
        let widths = [7, 9, 10, 11, 14, 14, 14, 9, 10, 12, 9];
        let shown = [self.replicas, true, true, true, true, true, true, true, self.with_pressure, self.with_volume, self.with_spread];
        let columns = cells.iter().zip(widths).zip(shown).filter(|(_, shown)| *shown).map(|((cell, width), _)| format!("{cell:>width$}"));
        columns.collect::<Vec<_>>().join(" ")
    }
}
