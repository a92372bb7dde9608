//! Labels that are no numbers, zeros or far from all others.

use std::collections::BTreeMap;

use super::DoctorConfig;
use super::digest::{Digest, ForceDigest};
use super::findings::{Finding, Findings, Severity, counted};
use super::numbers::{median, median_and_spread};
use crate::statistics::{interaction_energy, least_squares_e0s};

/// Frames below this are too few to speak of outliers.
const FEW: usize = 20;

pub(super) fn check(train: &[Digest], valid: &[Digest], e0s: Option<&BTreeMap<u8, f64>>, config: &DoctorConfig, findings: &mut Findings) {
    not_finite(train, valid, findings);
    close_atoms(train, valid, config, findings);
    let sound: Vec<&Digest> = train.iter().filter(|digest| digest.not_finite.is_none()).collect();
    zeros(&sound, findings);
    force_sum(&sound, findings);
    force_outliers(&sound, config, findings);
    energy_outliers(&sound, e0s, config, findings);
}

fn not_finite(train: &[Digest], valid: &[Digest], findings: &mut Findings) {
    let mut by_what = BTreeMap::<&str, Vec<&Digest>>::new();
    for digest in train.iter().chain(valid) {
        if let Some(what) = digest.not_finite {
            by_what.entry(what).or_default().push(digest);
        }
    }
    for (what, digests) in by_what {
        let message = format!("{} with {what} that are not finite numbers", counted(digests.len(), "frame"));
        let hint = "these calculations have probably failed: remove the frames";
        findings.push(Finding::new(Severity::Error, "not-finite", message).hint(hint).frames(digests.iter().map(|digest| &digest.origin)));
    }
}

fn close_atoms(train: &[Digest], valid: &[Digest], config: &DoctorConfig, findings: &mut Findings) {
    let close: Vec<&Digest> = train.iter().chain(valid).filter(|digest| digest.nearest < config.closest).collect();
    if !close.is_empty() {
        let nearest = close.iter().fold(f64::INFINITY, |nearest, digest| nearest.min(digest.nearest));
        let message =
            format!("{} with atoms closer than {} Å; the closest are {nearest:.3} Å apart", counted(close.len(), "frame"), config.closest);
        let hint = "calculations of such frames seldom converge to something meaningful; check the units of positions as well";
        findings.push(Finding::new(Severity::Warning, "close-atoms", message).hint(hint).frames(close.iter().map(|digest| &digest.origin)));
    }
}

fn zeros(train: &[&Digest], findings: &mut Findings) {
    let forces: Vec<(&Digest, &ForceDigest)> =
        train.iter().filter(|digest| digest.atoms > 1).filter_map(|digest| Some((*digest, digest.forces.as_ref()?))).collect();
    let zero: Vec<&Digest> = forces.iter().filter(|(_, forces)| forces.zero).map(|(digest, _)| *digest).collect();
    report_zeros(&zero, forces.len(), "zero-forces", "forces", Severity::Note, findings);
    let stresses: Vec<(&Digest, [f64; 6])> = train.iter().filter_map(|digest| Some((*digest, digest.stress?))).collect();
    let zero: Vec<&Digest> = stresses.iter().filter(|(_, stress)| *stress == [0.0; 6]).map(|(digest, _)| *digest).collect();
    report_zeros(&zero, stresses.len(), "zero-stress", "stresses", Severity::Warning, findings);
    let energies: Vec<(&Digest, f64)> = train.iter().filter_map(|digest| Some((*digest, digest.energy?))).collect();
    let zero: Vec<&Digest> = energies.iter().filter(|(_, energy)| *energy == 0.0).map(|(digest, _)| *digest).collect();
    report_zeros(&zero, energies.len(), "zero-energies", "energies", Severity::Warning, findings);
}

/// Zeros everywhere are no labels. Zeros in some frames can be: forces in a perfect crystal are.
fn report_zeros(zero: &[&Digest], all: usize, code: &'static str, what: &str, some: Severity, findings: &mut Findings) {
    if zero.is_empty() {
        return;
    }
    let hint = "a label that was not computed must be left out, not written as 0";
    let finding = if zero.len() == all {
        Finding::new(Severity::Error, code, format!("{what} are exactly 0 in all training frames that have them ({all})")).hint(hint)
    } else {
        let hint = if some == Severity::Note {
            "right in perfect crystals; elsewhere a label that was not computed must be left out"
        } else {
            hint
        };
        Finding::new(some, code, format!("{what} are exactly 0 in {} of {}", zero.len(), counted(all, "training frame"))).hint(hint)
    };
    findings.push(finding.frames(zero.iter().map(|digest| &digest.origin)));
}

/// Forces of a closed system cancel.
fn force_sum(train: &[&Digest], findings: &mut Findings) {
    let forces: Vec<(&Digest, &ForceDigest)> = train.iter().filter_map(|digest| Some((*digest, digest.forces.as_ref()?))).collect();
    let Some(rms) = median(forces.iter().map(|(_, forces)| forces.rms)) else { return };
    // A single atom has no other to cancel its force.
    let limit = (0.1 * rms).max(0.01);
    let drifting: Vec<&Digest> =
        forces.iter().filter(|(digest, forces)| digest.atoms > 1 && forces.net > limit).map(|(digest, _)| *digest).collect();
    if !drifting.is_empty() {
        let message =
            format!("{} whose forces do not add up to 0: |Σ F| / N is above {limit:.3} eV/Å", counted(drifting.len(), "training frame"));
        let hint = "forces may be missing for some atoms, in another order than the atoms, or not converged";
        findings
            .push(Finding::new(Severity::Warning, "force-sum", message).hint(hint).frames(drifting.iter().map(|digest| &digest.origin)));
    }
}

fn force_outliers(train: &[&Digest], config: &DoctorConfig, findings: &mut Findings) {
    let forces: Vec<(&Digest, f64)> =
        train.iter().filter_map(|digest| Some((*digest, digest.forces.as_ref()?.largest))).filter(|(_, largest)| *largest > 0.0).collect();
    if forces.len() < FEW {
        return;
    }
    // Largest forces spread over orders of magnitude: their logarithms are compared.
    let logarithms: Vec<f64> = forces.iter().map(|(_, largest)| largest.ln()).collect();
    let Some((center, spread)) = median_and_spread(&logarithms) else { return };
    let limit = (center + (config.outlier / 2.0 * spread).clamp(5f64.ln(), 50f64.ln())).exp();
    let mut outliers: Vec<(&Digest, f64)> = forces.into_iter().filter(|(_, largest)| *largest > limit).collect();
    if outliers.is_empty() {
        return;
    }
    outliers.sort_by(|a, b| b.1.total_cmp(&a.1));
    let message = format!(
        "{} with forces above {limit:.1} eV/Å, the largest {:.1} eV/Å; the median of the largest force of a frame is {:.2} eV/Å",
        counted(outliers.len(), "training frame"),
        outliers[0].1,
        center.exp()
    );
    let hint = "a few such frames can dominate a squared loss: remove them, or use a Huber loss";
    findings.push(
        Finding::new(Severity::Warning, "force-outliers", message).hint(hint).frames(outliers.iter().map(|(digest, _)| &digest.origin)),
    );
}

fn energy_outliers(train: &[&Digest], e0s: Option<&BTreeMap<u8, f64>>, config: &DoctorConfig, findings: &mut Findings) {
    let energies = interaction_energies(train, e0s);
    if energies.len() < FEW {
        return;
    }
    let values: Vec<f64> = energies.iter().map(|(_, energy)| *energy).collect();
    let Some((center, spread)) = median_and_spread(&values) else { return };
    let limit = (config.outlier * spread).max(0.05);
    let mut outliers: Vec<(&Digest, f64)> =
        energies.into_iter().map(|(digest, energy)| (digest, energy - center)).filter(|(_, distance)| distance.abs() > limit).collect();
    if outliers.is_empty() {
        return;
    }
    outliers.sort_by(|a, b| b.1.abs().total_cmp(&a.1.abs()));
    let message = format!(
        "{} whose energy per atom is further than {limit:.2} eV from the median after atomic energies are taken off; the furthest by {:+.2} eV",
        counted(outliers.len(), "training frame"),
        outliers[0].1
    );
    let hint = "check that these calculations converged and are of the same level of theory as the others";
    findings.push(
        Finding::new(Severity::Warning, "energy-outliers", message).hint(hint).frames(outliers.iter().map(|(digest, _)| &digest.origin)),
    );
}

/// Energies per atom (eV) after atomic energies, given or by least squares, are taken off.
pub(super) fn interaction_energies<'d>(train: &[&'d Digest], e0s: Option<&BTreeMap<u8, f64>>) -> Vec<(&'d Digest, f64)> {
    let labelled = || train.iter().filter_map(|digest| Some((*digest, digest.energy?)));
    let fitted;
    let e0s = match e0s {
        Some(e0s) if labelled().all(|(digest, _)| digest.composition.iter().all(|(number, _)| e0s.contains_key(number))) => e0s,
        _ => {
            fitted = least_squares_e0s(labelled().map(|(digest, energy)| (digest.composition.as_slice(), energy)));
            &fitted
        }
    };
    labelled().map(|(digest, energy)| (digest, interaction_energy(&digest.composition, energy, e0s))).collect()
}
