//! What is wrong with data, before anything is trained on them.
//!
//! [`examine`] looks at every frame once and at some pairs of frames, and returns [`Findings`]: errors, which should stop a training, warnings,
//! which should be read, and notes. Nothing is changed.
//!
//! # What is looked at
//! * `keys`: which keys were really read, and how many frames carry each label.
//! * `labels`: numbers that are not finite, zeros in place of labels, outliers, forces that do not cancel.
//! * `composition`: elements that the model does not know, atomic energies that least squares cannot tell apart.
//! * `units`: distances, energies, forces and stresses that cannot be in Å and eV, each by itself.
//! * `consistency`: energies, forces and stresses against each other. Between two frames that differ by small displacements Δx and a small
//!   strain ε, ΔE = −F̄·Δx + V σ̄:ε up to third order; a constant factor or a sign between the two sides is a wrong unit or a wrong sign.
//! * `duplicates`: frames that are there twice, or in training and validation.

mod composition;
mod consistency;
mod digest;
mod duplicates;
mod findings;
mod keys;
mod labels;
mod numbers;
mod units;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use findings::{CODES, Finding, Findings, Severity};

use crate::data::{DataError, FrameSource, KeyReport};
use digest::{Digest, digests};

/// Limits of the examination.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DoctorConfig {
    /// Codes of errors that are known to be no errors: they are listed as warnings.
    pub allow: Vec<String>,
    /// Two frames whose atoms differ by less than about this, Å, are near-duplicates. Default 0.01.
    pub near_duplicate: f64,
    /// Atoms closer than this, Å, are too close. Default 0.5.
    pub closest: f64,
    /// A force or an energy that is further from the median than this many robust standard deviations is an outlier. Default 12.
    pub outlier: f64,
    /// Most frames that a finding names. Default 5.
    pub examples: usize,
}

impl Default for DoctorConfig {
    fn default() -> Self {
        Self { allow: Vec::new(), near_duplicate: 0.01, closest: 0.5, outlier: 12.0, examples: 5 }
    }
}

impl DoctorConfig {
    /// Checks that `allow` names codes that there are, and that numbers are positive.
    ///
    /// # Errors
    /// [`DataError::Config`].
    pub fn validate(&self) -> Result<(), DataError> {
        let wrong = |key: &str, reason: String| Err(DataError::Config { key: format!("doctor.{key}"), reason });
        for code in &self.allow {
            if !CODES.contains(&code.as_str()) {
                let meant =
                    crate::data::suggestion(code, CODES.iter().copied()).map_or(String::new(), |code| format!("; did you mean `{code}`?"));
                return wrong("allow", format!("names `{code}`, which is no code of a finding{meant}"));
            }
        }
        for (key, value) in [("near_duplicate", self.near_duplicate), ("closest", self.closest), ("outlier", self.outlier)] {
            if !(value.is_finite() && value >= 0.0) {
                return wrong(key, format!("is {value}, but should be a number from 0 up"));
            }
        }
        Ok(())
    }
}

/// What is examined.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    /// Frames to train on.
    pub train: &'a dyn FrameSource,
    /// Frames to validate on.
    pub valid: Option<&'a dyn FrameSource>,
    /// Atomic energies that will be used, eV by atomic number; `None` where least squares will find them.
    pub e0s: Option<&'a BTreeMap<u8, f64>>,
    /// Elements of the model, if there is one already.
    pub elements: Option<&'a [u8]>,
    /// What was read from the files.
    pub keys: Option<&'a KeyReport>,
}

impl<'a> Subject<'a> {
    /// Frames about which nothing else is known.
    pub fn new(train: &'a dyn FrameSource) -> Self {
        Self { train, valid: None, e0s: None, elements: None, keys: None }
    }
}

/// Examines data. The result is the same for any number of threads.
///
/// # Errors
/// [`DataError`] if frames cannot be had; what is wrong with them is no error here but a finding.
pub fn examine(subject: &Subject<'_>, config: &DoctorConfig) -> Result<Findings, DataError> {
    let train = digests(subject.train)?;
    let valid = subject.valid.map_or_else(|| Ok(Vec::new()), digests)?;
    let mut findings = Findings::new(config, train.len(), valid.len());
    if let Some(report) = subject.keys {
        keys::check(report, &mut findings);
    }
    composition::check(&train, &valid, subject, &mut findings);
    labels::check(&train, &valid, subject.e0s, config, &mut findings);
    // Units are judged by numbers that are numbers.
    let sound = |digest: &&Digest| digest.not_finite.is_none();
    let usable: Vec<&Digest> = train.iter().filter(sound).collect();
    let evidence = consistency::check(subject.train, &train, &usable, &mut findings)?;
    units::check(&usable, subject.e0s, evidence, &mut findings);
    duplicates::check(&train, &valid, subject, config, &mut findings)?;
    Ok(findings.finished())
}
