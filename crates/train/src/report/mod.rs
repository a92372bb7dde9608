//! The report of a run: one HTML file that shows what happened and what came out.
//!
//! The file needs nothing but itself: no network, no scripts, no fonts, and a content security policy that forbids all of them. It follows the light or dark
//! setting of the reader, fits a phone, and prints. [`Report`] is plain data; [`Report::from_log`] makes it from a log, [`Report::write`] writes the page.

mod build;
mod chart;
mod page;

use std::path::Path;

use crate::doctor::Finding;
pub use crate::doctor::Severity;
use serde::{Deserialize, Serialize};

pub use crate::metrics::{Histogram, Parity};

use crate::metrics::SetErrors;

/// Everything that is in a report.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The heading.
    pub title: String,
    /// Who computed it, from what.
    pub provenance: Provenance,
    /// How it ended; empty while it runs.
    pub outcome: String,
    /// Errors by set. The last one is shown at the top.
    pub sets: Vec<SetRow>,
    /// What changed in the course of training.
    pub curves: Vec<Curve>,
    /// Predictions against labels.
    pub parity: Vec<Parity>,
    /// How errors are spread.
    pub histograms: Vec<Histogram>,
    /// Errors by group, by head and by element.
    pub tables: Vec<Table>,
    /// What the data check found.
    pub findings: Vec<FindingRow>,
    /// Errors on old and new domains before, during and after a fine-tuning.
    pub forgetting: Vec<ForgettingRow>,
    /// What happened besides steps and epochs.
    pub events: Vec<EventRow>,
    /// The resolved configuration.
    pub config_toml: String,
}

/// Who computed what, from what and how long. What is unknown is empty or none, and not shown.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Provenance {
    /// Version of the program.
    pub version: String,
    /// Commit it was built from.
    pub commit: String,
    /// The command line.
    pub command: String,
    /// Processor, memory, operating system.
    pub machine: String,
    /// Threads used.
    pub threads: Option<u64>,
    /// When it began, ISO 8601.
    pub started: String,
    /// Wall time of all parts of the run, s.
    pub wall_seconds: Option<f64>,
    /// Seed of all random numbers.
    pub seed: Option<u64>,
    /// Number of trainable parameters.
    pub parameters: Option<u64>,
    /// Type of numbers (`f32`, `f64`).
    pub precision: String,
    /// The architecture, in words.
    pub architecture: String,
    /// What else should be known: name and value. Hashes of data files, for example.
    pub more: Vec<(String, String)>,
}

/// Errors over a set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SetRow {
    /// Name of the set.
    pub set: String,
    /// Its errors.
    pub errors: SetErrors,
}

/// A chart of lines.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    /// What is shown.
    pub title: String,
    /// Name of the horizontal axis.
    pub x: String,
    /// Unit of the vertical axis; empty for numbers without.
    pub unit: String,
    /// Whether the vertical axis is logarithmic. Points that are not positive are left out then.
    pub log: bool,
    /// The lines.
    pub series: Vec<Series>,
}

/// One line of a chart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// Its name.
    pub name: String,
    /// Its points, from left to right.
    pub points: Vec<Point>,
}

/// A point of a line.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Epoch or step.
    pub x: f64,
    /// Value in the unit of the chart.
    #[serde(with = "crate::numbers")]
    pub y: f64,
}

/// A table of numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Table {
    /// What is shown.
    pub title: String,
    /// Name of the first column, which has the names of the rows.
    pub label: String,
    /// The other columns.
    pub columns: Vec<Column>,
    /// The rows.
    pub rows: Vec<Row>,
}

/// A column of a table.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Column {
    /// What it and its neighbours have in common: neighbours of the same group share a heading. May be empty.
    pub group: String,
    /// Its name.
    pub name: String,
    /// Unit of its numbers; empty for numbers without.
    pub unit: String,
    /// Whether numbers have bars beside them.
    pub bars: bool,
}

/// A row of a table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Its name.
    pub label: String,
    /// As many as there are columns.
    pub cells: Vec<Cell>,
}

/// What is in a cell of a table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cell {
    /// Nothing.
    Empty,
    /// A whole number.
    Count(u64),
    /// A number in the unit of its column.
    Number(#[serde(with = "crate::numbers")] f64),
    /// A relative change, as a fraction: 0.5 is half as much again.
    Change(#[serde(with = "crate::numbers")] f64),
    /// Words.
    Text(String),
}

/// Something that the data check found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FindingRow {
    /// How bad it is.
    pub severity: Severity,
    /// What it is.
    pub message: String,
    /// What can be done about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Frames concerned.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub frames: Vec<String>,
}

impl From<&Finding> for FindingRow {
    fn from(finding: &Finding) -> Self {
        let mut frames: Vec<String> = finding.frames.iter().map(ToString::to_string).collect();
        if finding.count > frames.len() && !frames.is_empty() {
            frames.push(format!("{} more", finding.count - frames.len()));
        }
        Self { severity: finding.severity, message: finding.message.clone(), hint: finding.hint.clone(), frames }
    }
}

/// When in a fine-tuning errors were measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// With the checkpoint that it begins with.
    Before,
    /// In its course.
    During,
    /// With what came out.
    After,
}

/// Errors on one domain at one time of a fine-tuning.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ForgettingRow {
    /// The way of fine-tuning (`replay`, `plain`): several can be compared in one report.
    pub run: String,
    /// The domain or set (`old domain`, `new domain`).
    pub set: String,
    /// When.
    pub phase: Phase,
    /// Epochs so far.
    pub epoch: u64,
    /// Updates so far.
    pub step: u64,
    /// Errors.
    pub errors: SetErrors,
}

/// Something that happened in the course of training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventRow {
    /// Updates so far.
    pub step: u64,
    /// Epochs so far.
    pub epoch: u64,
    /// A sentence.
    pub message: String,
}

impl Report {
    /// The page.
    pub fn to_html(&self) -> String {
        page::page(self).into_string()
    }

    /// Writes the page, complete or not at all.
    ///
    /// # Errors
    /// Of the file system, with the path.
    pub fn write(&self, path: impl AsRef<Path>) -> std::io::Result<()> {
        use std::io::Write as _;
        tesseral_atoms::io::write_atomically(path, |writer| writer.write_all(self.to_html().as_bytes()))
    }
}

#[cfg(test)]
mod tests;
