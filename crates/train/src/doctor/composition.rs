//! Elements.

use std::collections::{BTreeMap, BTreeSet};

use nalgebra::{DMatrix, SymmetricEigen};
use tesseral_atoms::elements;

use super::Subject;
use super::digest::Digest;
use super::findings::{Finding, Findings, Severity, counted};

/// Eigenvalues of the matrix of compositions below this part of the largest are 0: singular values below 10⁻⁵ of it.
const NO_WEIGHT: f64 = 1e-10;
/// Most combinations that a message names.
const MOST_COMBINATIONS: usize = 6;

pub(super) fn check(train: &[Digest], valid: &[Digest], subject: &Subject<'_>, findings: &mut Findings) {
    if let Some(known) = subject.elements {
        unknown(train, valid, known, findings);
    }
    coverage(train, valid, findings);
    single(train, findings);
    rank(train, subject.e0s, findings);
}

fn symbol(number: u8) -> &'static str {
    elements::symbol(number).unwrap_or("?")
}

fn elements_of<'d>(digests: impl IntoIterator<Item = &'d Digest>) -> BTreeSet<u8> {
    digests.into_iter().flat_map(|digest| digest.composition.iter().map(|(number, _)| *number)).collect()
}

fn list(numbers: impl IntoIterator<Item = u8>) -> String {
    numbers.into_iter().map(symbol).collect::<Vec<_>>().join(", ")
}

fn has(digest: &Digest, numbers: &BTreeSet<u8>) -> bool {
    digest.composition.iter().any(|(number, _)| numbers.contains(number))
}

fn unknown(train: &[Digest], valid: &[Digest], known: &[u8], findings: &mut Findings) {
    // Frames and atoms of each.
    let mut missing = BTreeMap::<u8, (usize, usize)>::new();
    for (number, count) in train.iter().chain(valid).flat_map(|digest| &digest.composition).filter(|(number, _)| !known.contains(number)) {
        let (frames, atoms) = missing.entry(*number).or_default();
        *frames += 1;
        *atoms += *count as usize;
    }
    let Some(first) = missing.keys().next() else { return };
    let mut known = known.to_vec();
    known.sort_unstable();
    let each = |(number, (frames, atoms)): (&u8, &(usize, usize))| {
        format!("{} ({}, {})", symbol(*number), counted(*frames, "frame"), counted(*atoms, "atom"))
    };
    let named = missing.iter().map(each).collect::<Vec<_>>().join(", ");
    let message = format!("the model does not know {named}; it knows {}", list(known));
    let hint = if elements_of(train).iter().any(|number| missing.contains_key(number)) {
        format!(
            "remove these frames, take a model that knows the elements, or let this one learn them: finetune.new_elements = \"mean\", \
             or {{ like = {{ {} = \"an element that it knows\" }} }}",
            symbol(*first)
        )
    } else {
        "remove these frames: no frame to train on has these elements, so the model cannot learn them".to_owned()
    };
    let numbers: BTreeSet<u8> = missing.keys().copied().collect();
    let origins = train.iter().chain(valid).filter(|digest| has(digest, &numbers)).map(|digest| &digest.origin);
    findings.push(Finding::new(Severity::Error, "unknown-element", message).hint(hint).frames(origins));
}

/// Elements to validate on that nothing is learnt about.
fn coverage(train: &[Digest], valid: &[Digest], findings: &mut Findings) {
    let known = elements_of(train);
    let missing: BTreeSet<u8> = elements_of(valid).into_iter().filter(|number| !known.contains(number)).collect();
    if !missing.is_empty() {
        let message = format!("validation frames have {}, and no training frame does", list(missing.iter().copied()));
        let origins = valid.iter().filter(|digest| has(digest, &missing)).map(|digest| &digest.origin);
        findings.push(Finding::new(Severity::Warning, "element-coverage", message).frames(origins));
    }
    let mut frames = BTreeMap::<u8, usize>::new();
    for (number, _) in train.iter().flat_map(|digest| &digest.composition) {
        *frames.entry(*number).or_default() += 1;
    }
    let rare: Vec<String> =
        frames.iter().filter(|(_, count)| **count < 3).map(|(number, count)| format!("{} ({count})", symbol(*number))).collect();
    if !rare.is_empty() && train.len() >= 10 {
        let message = format!("elements with fewer than three training frames: {}", rare.join(", "));
        findings.push(Finding::new(Severity::Note, "element-coverage", message));
    }
}

/// Single atoms that no group marks as isolated.
fn single(train: &[Digest], findings: &mut Findings) {
    let origins: Vec<_> =
        train.iter().filter(|digest| digest.atoms == 1 && digest.pbc == [false; 3]).map(|digest| &digest.origin).collect();
    if !origins.is_empty() {
        let message =
            format!("{} of a single atom each, from which nothing can be learnt but its energy", counted(origins.len(), "training frame"));
        let hint = "give them the group (config_type) IsolatedAtom, or the file group = \"IsolatedAtom\": their energies are then the atomic energies";
        findings.push(Finding::new(Severity::Warning, "single-atoms", message).hint(hint).frames(origins));
    }
}

/// Whether least squares can tell atomic energies apart.
fn rank(train: &[Digest], e0s: Option<&BTreeMap<u8, f64>>, findings: &mut Findings) {
    let present: Vec<u8> = elements_of(train).into_iter().collect();
    let rows: BTreeSet<&[(u8, u32)]> = train.iter().map(|digest| digest.composition.as_slice()).collect();
    let combinations = undetermined(&present, rows);
    if combinations.is_empty() || e0s.is_some_and(|e0s| present.iter().all(|number| e0s.contains_key(number))) {
        return;
    }
    let (rank, n) = (present.len() - combinations.len(), present.len());
    let mut named: Vec<String> = combinations.iter().take(MOST_COMBINATIONS).map(|c| formula(&present, c)).collect();
    if combinations.len() > MOST_COMBINATIONS {
        named.push(format!("and {} more", combinations.len() - MOST_COMBINATIONS));
    }
    let message = format!(
        "compositions tell only {rank} of {n} atomic energies apart: changing them along {} changes no energy of these frames",
        named.join("; ")
    );
    let hint = "give atomic energies (e0s) or isolated atoms if the model is to be used for other compositions";
    findings.push(Finding::new(Severity::Warning, "element-rank", message).hint(hint));
}

/// A basis of the combinations of atomic energies that no composition can see, reduced so that each begins with an element of its own.
fn undetermined<'r>(present: &[u8], compositions: impl IntoIterator<Item = &'r [(u8, u32)]>) -> Vec<Vec<f64>> {
    let n = present.len();
    if n == 0 {
        return Vec::new();
    }
    let mut normal = DMatrix::<f64>::zeros(n, n);
    for row in compositions {
        let atoms: u32 = row.iter().map(|(_, count)| count).sum();
        let position = |number: &u8| present.binary_search(number).expect("it was collected from these rows");
        let fraction = |count: &u32| f64::from(*count) / f64::from(atoms);
        for (a, ca) in row {
            for (b, cb) in row {
                normal[(position(a), position(b))] += fraction(ca) * fraction(cb);
            }
        }
    }
    let SymmetricEigen { eigenvectors, eigenvalues } = SymmetricEigen::new(normal);
    let largest = eigenvalues.iter().fold(0.0f64, |largest, x| largest.max(*x));
    let null = (0..n).filter(|&k| eigenvalues[k] <= NO_WEIGHT * largest);
    let mut basis: Vec<Vec<f64>> = null.map(|k| eigenvectors.column(k).iter().copied().collect()).collect();
    reduce(&mut basis);
    basis
}

/// Gauss–Jordan elimination with pivoting by rows.
fn reduce(rows: &mut [Vec<f64>]) {
    let columns = rows.first().map_or(0, Vec::len);
    let mut done = 0;
    for column in 0..columns {
        let Some(pivot) = (done..rows.len()).max_by(|a, b| rows[*a][column].abs().total_cmp(&rows[*b][column].abs())) else { break };
        if rows[pivot][column].abs() < 1e-6 {
            continue;
        }
        rows.swap(done, pivot);
        let scale = rows[done][column];
        rows[done].iter_mut().for_each(|x| *x /= scale);
        let pivot = rows[done].clone();
        for (k, row) in rows.iter_mut().enumerate() {
            if k != done {
                let factor = row[column];
                row.iter_mut().zip(&pivot).for_each(|(x, p)| *x -= factor * p);
            }
        }
        done += 1;
    }
    rows.iter_mut().flatten().filter(|x| x.abs() < 1e-7).for_each(|x| *x = 0.0);
}

/// "H − 2 O", with whole numbers where small ones do.
fn formula(present: &[u8], combination: &[f64]) -> String {
    let scale =
        (1..=60).map(f64::from).find(|scale| combination.iter().all(|x| (x * scale - (x * scale).round()).abs() < 1e-4)).unwrap_or(1.0);
    let mut text = String::new();
    for (number, x) in present.iter().zip(combination).filter(|(_, x)| **x != 0.0) {
        let x = x * scale;
        let sign = match (text.is_empty(), x < 0.0) {
            (true, false) => "",
            (true, true) => "−",
            (false, false) => " + ",
            (false, true) => " − ",
        };
        let size = x.abs();
        let size = match () {
            () if (size - 1.0).abs() < 1e-3 => String::new(),
            () if (size - size.round()).abs() < 1e-3 => format!("{size:.0} "),
            () => format!("{size:.3} "),
        };
        text.push_str(&format!("{sign}{size}{}", symbol(*number)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(rows: &[&[(u8, u32)]]) -> Vec<String> {
        let present: Vec<u8> = rows.iter().flat_map(|row| row.iter().map(|(z, _)| *z)).collect::<BTreeSet<u8>>().into_iter().collect();
        undetermined(&present, rows.iter().copied()).iter().map(|c| formula(&present, c)).collect()
    }

    #[test]
    fn combinations_that_compositions_cannot_see() {
        // Water alone, however much of it.
        assert_eq!(named(&[&[(1, 2), (8, 1)], &[(1, 128), (8, 64)]]), ["H − 2 O"]);
        // Water and hydrogen tell them apart.
        assert!(named(&[&[(1, 2), (8, 1)], &[(1, 2)]]).is_empty());
        // NaCl and KCl: raising Na and K and lowering Cl.
        assert_eq!(named(&[&[(11, 1), (17, 1)], &[(17, 4), (19, 4)]]), ["Na − Cl + K"]);
        // One composition of three elements leaves two combinations; 3 a + 2 b + c = 0 for C3 H2 O.
        assert_eq!(named(&[&[(1, 2), (6, 3), (8, 1)]]), ["H − 2 O", "C − 3 O"]);
        assert_eq!(named(&[&[(8, 3), (13, 2)]]), ["2 O − 3 Al"]);
        assert!(named(&[&[(29, 108)]]).is_empty());
        assert!(named(&[]).is_empty());
    }

    #[test]
    fn formulas() {
        assert_eq!(formula(&[8, 13], &[1.0, -1.5]), "2 O − 3 Al");
        assert_eq!(formula(&[1, 6], &[-1.0, 0.123_456]), "−H + 0.123 C");
    }
}
