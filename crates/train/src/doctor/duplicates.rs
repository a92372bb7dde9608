//! Frames that are there more than once.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::digest::{Digest, Environment, FEATURES, environments, same_environments};
use super::findings::{Finding, Findings, Severity, counted};
use super::{DoctorConfig, Subject};
use crate::data::{DataError, Origin};

/// Atoms of exact copies may differ by this much, Å: what rounding in files does.
const EXACT: f64 = 1e-5;
/// Most pairs that are compared.
const MOST_PAIRS: usize = 1 << 28;
/// Most atoms whose environments are kept: 256 MiB.
const MOST_ATOMS: usize = 1 << 21;

/// A frame and an earlier one that it looks like.
struct Likeness<'d> {
    first: &'d Digest,
    second: &'d Digest,
    exact: bool,
}

pub(super) fn check(
    train: &[Digest],
    valid: &[Digest],
    subject: &Subject<'_>,
    config: &DoctorConfig,
    findings: &mut Findings,
) -> Result<(), DataError> {
    let (within, across, complete) = search(train, valid, subject, config)?;
    let disagree: Vec<&Likeness<'_>> = within.iter().chain(&across).filter(|copy| copy.exact && disagree(copy)).collect();
    if !disagree.is_empty() {
        let largest = disagree.iter().filter_map(|copy| energy_difference(copy)).fold(0.0, f64::max);
        let message = format!(
            "{} of the same structure as another one but with another energy, by up to {largest:.3} eV: {}",
            counted(disagree.len(), "frame"),
            examples(&disagree, config)
        );
        let hint = "keep one of each, or give them heads if they are of different levels of theory";
        findings.push(
            Finding::new(Severity::Warning, "duplicates-disagree", message)
                .hint(hint)
                .frames(disagree.iter().map(|copy| &copy.second.origin)),
        );
    }
    for (copies, code, side, hint) in [
        (&within, "duplicates", "training", "copies weigh more in the loss than others: remove them if that is not meant"),
        (&across, "duplicates-across-splits", "validation", "errors of such frames say nothing about new ones: divide by group or file"),
    ] {
        for exact in [true, false] {
            let copies: Vec<&Likeness<'_>> = copies.iter().filter(|copy| copy.exact == exact).collect();
            if copies.is_empty() {
                continue;
            }
            let kind = match (exact, copies.len()) {
                (true, 1) => "exact copy".to_owned(),
                (true, _) => "exact copies".to_owned(),
                (false, 1) => format!("near-copy (atoms within about {} Å)", config.near_duplicate),
                (false, _) => format!("near-copies (atoms within about {} Å)", config.near_duplicate),
            };
            let message = format!(
                "{} {kind} of training frames among the {side} frames, up to rotation and order of atoms: {}",
                copies.len(),
                examples(&copies, config)
            );
            findings.push(Finding::new(Severity::Warning, code, message).hint(hint).frames(copies.iter().map(|copy| &copy.second.origin)));
        }
    }
    if !complete {
        let message = "not all pairs of frames were compared: there are too many of the same composition";
        findings.push(Finding::new(Severity::Note, "duplicates", message));
    }
    Ok(())
}

fn examples(copies: &[&Likeness<'_>], config: &DoctorConfig) -> String {
    let place = |origin: &Origin| origin.to_string();
    let shown = copies
        .iter()
        .take(config.examples.clamp(1, 2))
        .map(|copy| format!("{} is like {}", place(&copy.second.origin), place(&copy.first.origin)));
    shown.collect::<Vec<_>>().join("; ")
}

fn energy_difference(copy: &Likeness<'_>) -> Option<f64> {
    Some((copy.first.energy? - copy.second.energy?).abs())
}

fn disagree(copy: &Likeness<'_>) -> bool {
    energy_difference(copy).is_some_and(|difference| difference > (1e-4 * copy.first.atoms as f64).max(1e-3))
}

/// For each frame the first earlier one that it looks like: within training, and of validation in training. False if the search was cut short.
fn search<'d>(
    train: &'d [Digest],
    valid: &'d [Digest],
    subject: &Subject<'_>,
    config: &DoctorConfig,
) -> Result<(Vec<Likeness<'d>>, Vec<Likeness<'d>>, bool), DataError> {
    let mut groups = BTreeMap::<(&[(u8, u32)], u64), Vec<(&Digest, bool)>>::new();
    for (digests, held_back) in [(train, false), (valid, true)] {
        for digest in digests.iter().filter(|digest| digest.not_finite.is_none() && digest.atoms > 1) {
            groups.entry((&digest.composition, digest.kind)).or_default().push((digest, held_back));
        }
    }
    let tolerance = 2.0 * config.near_duplicate;
    let (mut within, mut across) = (BTreeMap::new(), BTreeMap::new());
    let mut compared = 0;
    let mut complete = true;
    for mut members in groups.into_values() {
        // Sorted by the invariant that separates best, only neighbours within its tolerance need to be compared.
        let separation = |k: usize| {
            let values = members.iter().map(|(digest, _)| digest.features[k]);
            let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), x| (low.min(x), high.max(x)));
            let gradient = members.iter().map(|(digest, _)| digest.gradients[k]).fold(0.0, f64::max);
            (high - low) / (gradient + 1e-9 * high.abs() + 1e-12)
        };
        let key = (0..FEATURES).max_by(|a, b| separation(*a).total_cmp(&separation(*b))).unwrap_or(0);
        let reach =
            members.iter().map(|(digest, _)| tolerance * digest.gradients[key] + 1e-8 * digest.features[key].abs()).fold(1e-9, f64::max);
        let mut seen = Seen { subject, atoms: 0, environments: HashMap::new() };
        members.sort_by(|a, b| a.0.features[key].total_cmp(&b.0.features[key]));
        for (i, (a, a_held)) in members.iter().enumerate() {
            for (b, b_held) in &members[i + 1..] {
                if b.features[key] - a.features[key] > reach {
                    break;
                }
                compared += 1;
                if compared > MOST_PAIRS {
                    return Ok((within.into_values().collect(), across.into_values().collect(), false));
                }
                if *a_held && *b_held || !alike(a, b, tolerance) {
                    continue;
                }
                let (Some(ea), Some(eb)) = (seen.by(a, *a_held)?, seen.by(b, *b_held)?) else {
                    complete = false;
                    continue;
                };
                if !same_environments(&ea, &eb, tolerance) {
                    continue;
                }
                let exact = a.looks_like(b, EXACT) && same_environments(&ea, &eb, EXACT);
                // Of two training frames the later one is the copy; of a mixed pair the validation frame.
                let (first, second) = if *a_held || !*b_held && b.index < a.index { (*b, *a) } else { (*a, *b) };
                let found = if a_held == b_held { &mut within } else { &mut across };
                let copy = Likeness { first, second, exact };
                // Exact copies are worth more than near ones, and early ones more than late ones.
                let rank = |copy: &Likeness<'_>| (!copy.exact, copy.first.index);
                if found.get(&second.index).is_none_or(|known| rank(&copy) < rank(known)) {
                    found.insert(second.index, copy);
                }
            }
        }
    }
    Ok((within.into_values().collect(), across.into_values().collect(), complete))
}

/// Environments of frames that have been asked for.
struct Seen<'s> {
    subject: &'s Subject<'s>,
    atoms: usize,
    environments: HashMap<(bool, usize), Arc<Vec<Environment>>>,
}

impl Seen<'_> {
    /// What the atoms of a frame see; `None` if too many are kept already.
    fn by(&mut self, digest: &Digest, held_back: bool) -> Result<Option<Arc<Vec<Environment>>>, DataError> {
        if let Some(known) = self.environments.get(&(held_back, digest.index)) {
            return Ok(Some(known.clone()));
        }
        let source = if held_back { self.subject.valid } else { Some(self.subject.train) };
        let Some(source) = source.filter(|_| self.atoms + digest.atoms <= MOST_ATOMS) else { return Ok(None) };
        let found = Arc::new(environments(&source.frame(digest.index)?.structure));
        self.atoms += digest.atoms;
        self.environments.insert((held_back, digest.index), found.clone());
        Ok(Some(found))
    }
}

/// Alike in structure, and in energy as far as such small displacements allow; for exact copies the energy does not matter.
fn alike(a: &Digest, b: &Digest, tolerance: f64) -> bool {
    if !a.looks_like(b, tolerance) {
        return false;
    }
    let (Some(ea), Some(eb), Some(fa), Some(fb)) = (a.energy, b.energy, &a.forces, &b.forces) else { return true };
    let norm = fa.rms.max(fb.rms) * (a.atoms as f64).sqrt();
    (ea - eb).abs() <= tolerance * norm + 1e-4 * a.atoms as f64 || a.looks_like(b, EXACT)
}
