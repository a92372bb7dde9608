//! What the doctor says.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::DoctorConfig;
use crate::data::{DataError, Origin};

/// Codes of all findings.
pub const CODES: &[&str] = &[
    "close-atoms",
    "distance-unit",
    "duplicates",
    "duplicates-across-splits",
    "duplicates-disagree",
    "element-coverage",
    "element-rank",
    "energy-fluctuation",
    "energy-force",
    "energy-magnitude",
    "energy-outliers",
    "energy-spread",
    "force-magnitude",
    "force-outliers",
    "force-sum",
    "keys-mixed",
    "keys-read",
    "keys-unread",
    "not-finite",
    "single-atoms",
    "stress-energy",
    "stress-magnitude",
    "stress-volume",
    "temperature",
    "unknown-element",
    "unlabelled",
    "unreadable",
    "zero-energies",
    "zero-forces",
    "zero-stress",
];

/// "1 training frame", "2 training frames".
pub(super) fn counted(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

/// How serious a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// No training should start.
    Error,
    /// Somebody should look at it.
    Warning,
    /// Good to know.
    Note,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        })
    }
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    /// How serious it is.
    pub severity: Severity,
    /// What kind of finding it is, one of [`CODES`].
    pub code: &'static str,
    /// What was found, with numbers.
    pub message: String,
    /// A next step.
    pub hint: Option<String>,
    /// The first frames concerned.
    pub frames: Vec<Origin>,
    /// How many frames are concerned; 0 where it is about all of them together.
    pub count: usize,
}

impl Finding {
    /// A finding about no frame in particular.
    pub(super) fn new(severity: Severity, code: &'static str, message: impl Into<String>) -> Self {
        debug_assert!(CODES.contains(&code), "{code} is missing in CODES");
        Self { severity, code, message: message.into(), hint: None, frames: Vec::new(), count: 0 }
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The frames concerned.
    pub(super) fn frames<'o>(mut self, origins: impl IntoIterator<Item = &'o Origin>) -> Self {
        self.frames = origins.into_iter().cloned().collect();
        self.count = self.frames.len();
        self
    }
}

impl From<&DataError> for Finding {
    /// Data that cannot even be read, as a finding for the report.
    fn from(error: &DataError) -> Self {
        let finding = Self::new(Severity::Error, "unreadable", error.to_string());
        Self { hint: error.hint(), ..finding }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]: {}", self.severity, self.code, self.message.replace('\n', "\n  "))?;
        for (k, run) in self.frames.chunk_by(|a, b| a.file == b.file).enumerate() {
            f.write_str(if k == 0 { "\n  in " } else { ", " })?;
            let numbers: Vec<String> = run.iter().map(|origin| origin.frame.to_string()).collect();
            write!(f, "{} {} of {}", if run.len() == 1 { "frame" } else { "frames" }, numbers.join(", "), run[0].file)?;
        }
        if !self.frames.is_empty() && self.count > self.frames.len() {
            write!(f, " and {} more", self.count - self.frames.len())?;
        }
        match &self.hint {
            Some(hint) => write!(f, "\n  hint: {hint}"),
            None => Ok(()),
        }
    }
}

/// All that was found: errors first, then warnings, then notes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Findings {
    /// The findings.
    pub findings: Vec<Finding>,
    /// Frames to train on that were examined.
    pub train_frames: usize,
    /// Frames to validate on that were examined.
    pub valid_frames: usize,
    #[serde(skip)]
    examples: usize,
    #[serde(skip)]
    allow: Vec<String>,
}

impl Findings {
    pub(super) fn new(config: &DoctorConfig, train_frames: usize, valid_frames: usize) -> Self {
        Self { findings: Vec::new(), train_frames, valid_frames, examples: config.examples, allow: config.allow.clone() }
    }

    pub(super) fn push(&mut self, mut finding: Finding) {
        finding.frames.truncate(self.examples);
        if finding.severity == Severity::Error && self.allow.iter().any(|code| code == finding.code) {
            finding.severity = Severity::Warning;
            finding.hint = Some("allowed by doctor.allow".to_owned());
        }
        self.findings.push(finding);
    }

    pub(super) fn finished(mut self) -> Self {
        // Stable: within a severity the order of the checks.
        self.findings.sort_by_key(|finding| finding.severity);
        self
    }

    /// Those of one severity.
    pub fn of(&self, severity: Severity) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(move |finding| finding.severity == severity)
    }

    /// Those of one code.
    pub fn with_code<'f>(&'f self, code: &'f str) -> impl Iterator<Item = &'f Finding> {
        self.findings.iter().filter(move |finding| finding.code == code)
    }

    /// Whether a training should not start.
    pub fn has_errors(&self) -> bool {
        self.of(Severity::Error).next().is_some()
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            writeln!(f, "{finding}")?;
        }
        let count = |severity, word: &str| counted(self.of(severity).count(), word);
        let (errors, warnings) = (count(Severity::Error, "error"), count(Severity::Warning, "warning"));
        write!(f, "{} training and {} validation frames: {errors}, {warnings}", self.train_frames, self.valid_frames)
    }
}
