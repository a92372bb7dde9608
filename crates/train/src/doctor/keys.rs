//! Which keys were read.

use super::findings::{Finding, Findings, Severity, counted};
use crate::data::{KeyReport, LabelName, PartReport};

pub(super) fn check(report: &KeyReport, findings: &mut Findings) {
    for (part, name) in [(&report.train, "training"), (&report.valid, "validation"), (&report.test, "test")] {
        if part.files.is_empty() {
            continue;
        }
        read(part, name, findings);
        mixed(part, name, findings);
        unread(part, name, findings);
    }
}

/// "`energy` in 500 frames".
fn frames(keys: impl IntoIterator<Item = (impl AsRef<str>, usize)>) -> String {
    keys.into_iter().map(|(key, count)| format!("`{}` in {count}", key.as_ref())).collect::<Vec<_>>().join(", ")
}

fn read(part: &PartReport, name: &str, findings: &mut Findings) {
    let mut message = format!("{} from {}", counted(part.frames(), &format!("{name} frame")), counted(part.files.len(), "file"));
    for label in [
        LabelName::Energy,
        LabelName::Forces,
        LabelName::Stress,
        LabelName::ForceMask,
        LabelName::Group,
        LabelName::Head,
        LabelName::Weight,
        LabelName::EnergyWeight,
        LabelName::ForcesWeight,
        LabelName::StressWeight,
    ] {
        let keys = part.keys_of(label);
        if !keys.is_empty() {
            message.push_str(&format!("\n{label}: {}", frames(keys)));
        } else if matches!(label, LabelName::Energy | LabelName::Forces | LabelName::Stress) {
            message.push_str(&format!("\n{label}: none"));
        }
    }
    if !part.isolated.is_empty() {
        message.push_str(&format!("\n{}", counted(part.isolated.len(), "isolated atom")));
    }
    let without: usize = part.files.iter().map(|file| file.stress_without_volume).sum();
    if without > 0 {
        message.push_str(&format!("\nthe stress of {} is left out: not periodic in all three directions", counted(without, "frame")));
    }
    findings.push(Finding::new(Severity::Note, "keys-read", message));
    for (label, coverage) in &part.coverage {
        if coverage.with > 0 && coverage.without > 0 {
            let message = format!(
                "{} without {label}, and {} with it: it is left out of the loss there",
                counted(coverage.without, &format!("{name} frame")),
                coverage.with
            );
            let mut finding = Finding::new(Severity::Warning, "unlabelled", message).frames(&coverage.first_without);
            finding.count = coverage.without;
            findings.push(finding);
        }
    }
}

fn mixed(part: &PartReport, name: &str, findings: &mut Findings) {
    for label in [LabelName::Energy, LabelName::Forces, LabelName::Stress] {
        let keys = part.keys_of(label);
        if keys.len() > 1 {
            let message = format!("{name} frames have their {label} under different keys: {}", frames(keys));
            let hint = format!("make sure that these are of one kind, or name one: keys.{label}");
            findings.push(Finding::new(Severity::Warning, "keys-mixed", message).hint(hint));
        }
    }
}

/// Keys that look like labels and were not read.
fn unread(part: &PartReport, name: &str, findings: &mut Findings) {
    const WORDS: [&str; 5] = ["energy", "force", "stress", "virial", "mask"];
    let mut keys = std::collections::BTreeMap::<&str, usize>::new();
    for (key, count) in part.files.iter().flat_map(|file| file.unread.iter().flatten()) {
        let lower = key.to_ascii_lowercase();
        // Units that are written into the frame are no labels.
        if WORDS.iter().any(|word| lower.contains(word)) && !lower.contains("unit") {
            *keys.entry(key).or_default() += count;
        }
    }
    if !keys.is_empty() {
        let message = format!("{name} frames have what may be labels and was not read: {}", frames(keys));
        findings.push(Finding::new(Severity::Note, "keys-unread", message).hint("name the keys that are meant under data.keys"));
    }
}
