//! Energies against forces and stresses.
//!
//! A frame that is moved a little is another frame. Between two frames a and b of the same atoms
//!
//! E_b − E_a = −½ Σ (F_a·Δx_a + F_b·Δx_b) + ½ (V_a σ_a:ε_a + V_b σ_b:ε_b) + third order,
//!
//! where Δx = Δs·cell is the displacement at fixed cell (s fractional) and ε = cell⁻¹·Δcell the strain, both taken in the frame of each. This is the
//! trapezoidal rule for dE = −F·dx + V σ:dε along a straight way in s and cell. A molecule is rotated onto the other one first, which changes no energy.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use nalgebra::Matrix3;
use tesseral_atoms::Cell;
use tesseral_atoms::neighbors::complete_cell;
use tesseral_atoms::units::{BOHR, GPA, HARTREE, KCAL_PER_MOL, KILOBAR, KJ_PER_MOL};

use super::digest::Digest;
use super::findings::{Finding, Findings, Severity};
use super::numbers::{Proportion, line, median, proportion};
use super::units::{Evidence, Thermal};
use crate::data::{DataError, Frame, FrameSource, Origin};

/// Most frames of one group that are paired with one another.
const MOST_MEMBERS: usize = 1000;
/// Frames that are taken one after another from a larger group: neighbours in a trajectory are near.
const RUN: usize = 25;
/// Most pairs of one group that are computed.
const MOST_PAIRS: usize = 1500;
/// Most groups that are looked at, the largest first.
const MOST_GROUPS: usize = 200;
/// Root mean square displacement of a pair, Å.
const SMALL_DISPLACEMENT: f64 = 0.35;
/// Largest component of the strain of a pair.
const SMALL_STRAIN: f64 = 0.06;
/// Largest strain that counts as none.
const NO_STRAIN: f64 = 1e-6;
/// Fewest pairs that say anything.
const FEWEST_PAIRS: usize = 5;
/// Fits worse than this say nothing.
const FORCE_QUALITY: f64 = 0.6;
const STRESS_QUALITY: f64 = 0.6;
/// Ratios from 1/this to this are 1: a change of units is larger.
const NEARLY_ONE: f64 = 1.45;

/// A pair of frames: what energies say and what forces and stresses say, eV.
#[derive(Debug, Clone)]
pub(super) struct Pair {
    energy: f64,
    forces: f64,
    stress: Option<f64>,
    /// Root mean square displacement at fixed cell, Å.
    displacement: f64,
    strain: f64,
    frames: [usize; 2],
}

/// Compares, and returns samples of solids for the checks of units.
pub(super) fn check(source: &dyn FrameSource, all: &[Digest], train: &[&Digest], findings: &mut Findings) -> Result<Evidence, DataError> {
    let groups = groups(train);
    let mut pairs = Vec::new();
    let mut evidence = Evidence::default();
    for members in &groups {
        let mut frames = Loader { source, loaded: HashMap::new() };
        force_pairs(members, &mut frames, &mut pairs)?;
        strain_pairs(members, &mut frames, &mut pairs)?;
        evidence.solids.extend(solid(members, &mut frames)?);
    }
    let labelled = train.iter().any(|digest| digest.energy.is_some() && digest.forces.is_some());
    if labelled {
        report_forces(&pairs, all, findings);
    }
    if train.iter().any(|digest| digest.stress.is_some()) {
        let agrees = report_stress(&pairs, all, findings);
        report_volume(train, agrees.is_some(), findings);
        evidence.stress_agrees = agrees == Some(true);
    }
    Ok(evidence)
}

/// Frames of the same atoms in the same order, the largest groups first; of large ones some runs of consecutive frames.
fn groups<'d>(train: &[&'d Digest]) -> Vec<Vec<&'d Digest>> {
    let mut groups = BTreeMap::<(u64, u64), Vec<&Digest>>::new();
    for digest in train.iter().copied().filter(|digest| digest.energy.is_some() && (digest.atoms > 1 || digest.is_bulk())) {
        groups.entry((digest.order, digest.kind)).or_default().push(digest);
    }
    let mut groups: Vec<Vec<&Digest>> = groups.into_values().filter(|members| members.len() > 1).collect();
    groups.sort_by_key(|members| (std::cmp::Reverse(members.len()), members[0].index));
    groups.truncate(MOST_GROUPS);
    for members in &mut groups {
        if members.len() > MOST_MEMBERS {
            let runs = MOST_MEMBERS / RUN;
            let starts = (0..runs).map(|run| run * (members.len() - RUN) / (runs - 1).max(1));
            *members = starts.flat_map(|start| members[start..start + RUN].to_vec()).collect();
            members.sort_by_key(|digest| digest.index);
            members.dedup_by_key(|digest| digest.index);
        }
    }
    groups
}

/// Frames that have been asked for once.
struct Loader<'s> {
    source: &'s dyn FrameSource,
    loaded: HashMap<usize, Arc<Frame>>,
}

impl Loader<'_> {
    fn frame(&mut self, digest: &Digest) -> Result<Arc<Frame>, DataError> {
        if let Some(frame) = self.loaded.get(&digest.index) {
            return Ok(frame.clone());
        }
        let frame = self.source.frame(digest.index)?;
        self.loaded.insert(digest.index, frame.clone());
        Ok(frame)
    }
}

/// The strain from one cell to another, cell⁻¹·Δcell; `None` without a volume.
fn strain(from: &[[f64; 3]; 3], to: &[[f64; 3]; 3]) -> Option<[[f64; 3]; 3]> {
    let inverse = Cell::new(*from).inverse()?;
    Some(std::array::from_fn(|i| std::array::from_fn(|j| (0..3).map(|k| inverse[i][k] * (to[k][j] - from[k][j])).sum())))
}

fn largest(matrix: &[[f64; 3]; 3]) -> f64 {
    matrix.iter().flatten().fold(0.0, |largest, x| largest.max(x.abs()))
}

/// Pairs that are near and have the same cell.
fn force_pairs(members: &[&Digest], frames: &mut Loader<'_>, pairs: &mut Vec<Pair>) -> Result<(), DataError> {
    let with_forces: Vec<&Digest> = members.iter().copied().filter(|digest| digest.forces.is_some()).collect();
    let mut candidates = Vec::new();
    for (i, a) in with_forces.iter().enumerate() {
        for b in &with_forces[i + 1..] {
            let same_cell = a.pbc == [false; 3] || strain(&a.cell, &b.cell).map_or(a.cell == b.cell, |strain| largest(&strain) < NO_STRAIN);
            if let Some(distance) = a.distance(b).filter(|_| same_cell) {
                candidates.push((distance, *a, *b));
            }
        }
    }
    nearest_first(&mut candidates);
    for (_, a, b) in candidates {
        if let Some(pair) = pair(&*frames.frame(a)?, &*frames.frame(b)?, [a.index, b.index], true) {
            pairs.push(pair);
        }
    }
    Ok(())
}

/// Pairs of differing cells, those with small forces first.
fn strain_pairs(members: &[&Digest], frames: &mut Loader<'_>, pairs: &mut Vec<Pair>) -> Result<(), DataError> {
    let with_stress: Vec<&Digest> = members.iter().copied().filter(|digest| digest.stress.is_some()).collect();
    let mut candidates = Vec::new();
    for (i, a) in with_stress.iter().enumerate() {
        for b in &with_stress[i + 1..] {
            if strain(&a.cell, &b.cell).is_some_and(|strain| (10.0 * NO_STRAIN..SMALL_STRAIN).contains(&largest(&strain))) {
                let size = |digest: &Digest| digest.forces.as_ref().map_or(0.0, |forces| forces.rms);
                candidates.push((size(a) + size(b), *a, *b));
            }
        }
    }
    nearest_first(&mut candidates);
    for (_, a, b) in candidates {
        if let Some(pair) = pair(&*frames.frame(a)?, &*frames.frame(b)?, [a.index, b.index], false) {
            pairs.push(pair);
        }
    }
    Ok(())
}

fn nearest_first(candidates: &mut Vec<(f64, &Digest, &Digest)>) {
    candidates.sort_by(|x, y| x.0.total_cmp(&y.0).then((x.1.index, x.2.index).cmp(&(y.1.index, y.2.index))));
    candidates.truncate(MOST_PAIRS);
}

/// What energies, forces and stresses say of a pair; `None` if it is no small change, or tells nothing.
fn pair(a: &Frame, b: &Frame, frames: [usize; 2], needs_forces: bool) -> Option<Pair> {
    let energy = b.energy? - a.energy?;
    // Files often have seven digits of the energy.
    if energy.abs() < 5e-7 * a.energy?.abs().max(b.energy?.abs()) + 1e-6 {
        return None;
    }
    let n = a.structure.len();
    let work = |forces: &Option<Vec<[f64; 3]>>, moved: &[[f64; 3]]| {
        forces.as_ref().map(|forces| forces.iter().flatten().zip(moved.iter().flatten()).map(|(f, x)| f * x).sum::<f64>())
    };
    let rms = |moved: &[[f64; 3]]| (moved.iter().flatten().map(|x| x * x).sum::<f64>() / n as f64).sqrt();
    if a.structure.pbc == [false; 3] {
        let (moved, rotation) = superpose(&a.structure.positions, &b.structure.positions)?;
        let turned = b.forces.as_ref().map(|forces| forces.iter().map(|f| rotate(&rotation, f)).collect::<Vec<_>>());
        let forces = -0.5 * (work(&a.forces, &moved)? + work(&turned, &moved)?);
        let displacement = rms(&moved);
        return (displacement < SMALL_DISPLACEMENT).then_some(Pair { energy, forces, stress: None, displacement, strain: 0.0, frames });
    }
    let change = fractional_change(a, b)?;
    let cartesian = |cell: &[[f64; 3]; 3]| change.iter().map(|s| Cell::new(*cell).cartesian(*s)).collect::<Vec<_>>();
    let (cell_a, cell_b) =
        (complete_cell(&a.structure.cell.vectors, a.structure.pbc).ok()?, complete_cell(&b.structure.cell.vectors, b.structure.pbc).ok()?);
    let (moved_a, moved_b) = (cartesian(&cell_a), cartesian(&cell_b));
    let displacement = rms(&moved_a).max(rms(&moved_b));
    if displacement >= SMALL_DISPLACEMENT {
        return None;
    }
    let forces = match (work(&a.forces, &moved_a), work(&b.forces, &moved_b)) {
        (Some(wa), Some(wb)) => -0.5 * (wa + wb),
        // Atoms that hardly move against the cell do no work.
        _ if !needs_forces && displacement < 1e-3 => 0.0,
        _ => return None,
    };
    let (strain_a, strain_b) = (strain(&cell_a, &cell_b)?, strain(&cell_b, &cell_a)?);
    let stress_work = |frame: &Frame, strain: &[[f64; 3]; 3]| {
        let [xx, yy, zz, yz, zx, xy] = frame.stress?;
        let stress = [[xx, xy, zx], [xy, yy, yz], [zx, yz, zz]];
        let product: f64 = stress.iter().flatten().zip(strain.iter().flatten()).map(|(s, e)| s * e).sum();
        Some(frame.structure.cell.volume() * product)
    };
    // The strain of b is taken from b to a, hence the minus.
    let stress = stress_work(a, &strain_a).zip(stress_work(b, &strain_b)).map(|(wa, wb)| 0.5 * (wa - wb));
    Some(Pair { energy, forces, stress, displacement, strain: largest(&strain_a), frames })
}

/// s_b − s_a, through the nearest images along periodic directions, without its mean.
fn fractional_change(a: &Frame, b: &Frame) -> Option<Vec<[f64; 3]>> {
    let pbc = a.structure.pbc;
    let inverse = |frame: &Frame| Cell::new(complete_cell(&frame.structure.cell.vectors, pbc).ok()?).inverse();
    let (ia, ib) = (Cell::new(inverse(a)?), Cell::new(inverse(b)?));
    let mut change: Vec<[f64; 3]> = a
        .structure
        .positions
        .iter()
        .zip(&b.structure.positions)
        .map(|(ra, rb)| {
            let (sa, sb) = (ia.cartesian(*ra), ib.cartesian(*rb));
            std::array::from_fn(|k| {
                let change = sb[k] - sa[k];
                if pbc[k] { change - change.round() } else { change }
            })
        })
        .collect();
    for k in 0..3 {
        let mean = change.iter().map(|s| s[k]).sum::<f64>() / change.len() as f64;
        change.iter_mut().for_each(|s| s[k] -= mean);
    }
    Some(change)
}

fn rotate(rotation: &Matrix3<f64>, v: &[f64; 3]) -> [f64; 3] {
    (rotation * nalgebra::Vector3::from(*v)).into()
}

/// Displacements from a to b after b is moved and rotated onto a with the least sum of squares (W. Kabsch, Acta Cryst. A 32, 922 (1976)), and that rotation.
fn superpose(a: &[[f64; 3]], b: &[[f64; 3]]) -> Option<(Vec<[f64; 3]>, Matrix3<f64>)> {
    let centered = |points: &[[f64; 3]]| -> Vec<[f64; 3]> {
        let center: [f64; 3] = std::array::from_fn(|k| points.iter().map(|r| r[k]).sum::<f64>() / points.len() as f64);
        points.iter().map(|r| [r[0] - center[0], r[1] - center[1], r[2] - center[2]]).collect()
    };
    let (a, b) = (centered(a), centered(b));
    // Σ a bᵀ = U S Vᵀ; the rotation is U diag(1, 1, ±1) Vᵀ.
    let covariance = Matrix3::from_fn(|i, j| a.iter().zip(&b).map(|(a, b)| a[i] * b[j]).sum::<f64>());
    let svd = covariance.svd(true, true);
    let (u, v) = (svd.u?, svd.v_t?);
    let mut sign = Matrix3::identity();
    if (u * v).determinant() < 0.0 {
        let smallest = svd.singular_values.imin();
        sign[(smallest, smallest)] = -1.0;
    }
    let rotation = u * sign * v;
    let moved = a.iter().zip(&b).map(|(a, b)| {
        let b = rotate(&rotation, b);
        [b[0] - a[0], b[1] - a[1], b[2] - a[2]]
    });
    Some((moved.collect(), rotation))
}

/// Samples of a solid: frames of one cell, whose atoms stay near their mean positions. ⟨−F·u⟩ = 3 (N − 1) kT, u from the mean positions.
fn solid(members: &[&Digest], frames: &mut Loader<'_>) -> Result<Option<Thermal>, DataError> {
    const MOST: usize = 200;
    let bulk: Vec<&Digest> = members.iter().copied().filter(|digest| digest.is_bulk() && digest.forces.is_some()).collect();
    let Some(first) = bulk.first() else { return Ok(None) };
    let same: Vec<&Digest> = bulk
        .iter()
        .copied()
        .filter(|digest| strain(&first.cell, &digest.cell).is_some_and(|s| largest(&s) < NO_STRAIN))
        .take(MOST)
        .collect();
    if same.len() < 20 {
        return Ok(None);
    }
    let reference = frames.frame(first)?;
    let n = same.len() as f64;
    let mut moved = Vec::with_capacity(same.len());
    for digest in &same {
        let frame = frames.frame(digest)?;
        let Some(change) = fractional_change(&reference, &frame) else { return Ok(None) };
        let cartesian: Vec<[f64; 3]> = change.iter().map(|s| reference.structure.cell.cartesian(*s)).collect();
        moved.push((frame, cartesian));
    }
    let atoms = first.atoms;
    let mean: Vec<[f64; 3]> = (0..atoms).map(|i| std::array::from_fn(|k| moved.iter().map(|(_, u)| u[i][k]).sum::<f64>() / n)).collect();
    let deviation = |u: &[[f64; 3]]| u.iter().zip(&mean).map(|(u, m)| [u[0] - m[0], u[1] - m[1], u[2] - m[2]]).collect::<Vec<_>>();
    let mut square = 0.0;
    let mut virials = Vec::with_capacity(same.len());
    for (frame, u) in &moved {
        let u = deviation(u);
        square += u.iter().flatten().map(|x| x * x).sum::<f64>() / atoms as f64;
        let Some(forces) = &frame.forces else { return Ok(None) };
        // The mean of the sample follows each of its members a little.
        virials.push(-forces.iter().flatten().zip(u.iter().flatten()).map(|(f, x)| f * x).sum::<f64>() * n / (n - 1.0));
    }
    if (square / n).sqrt() > 0.6 {
        return Ok(None);
    }
    let energies: Vec<f64> = same.iter().filter_map(|digest| digest.energy).collect();
    Ok(Thermal::new(first, &virials, &energies))
}

/// The best of fits to the nearest pairs: few near ones, or many that are less near.
fn best(pairs: &[&Pair], sides: impl Fn(&Pair) -> (f64, f64)) -> Option<(Proportion, usize)> {
    let mut best: Option<(Proportion, usize)> = None;
    for n in [10, 30, 100, 300, 1000] {
        let n = n.min(pairs.len());
        let sides: Vec<(f64, f64)> = pairs[..n].iter().map(|pair| sides(pair)).collect();
        // One frame with a wrong energy spoils many pairs.
        let usual = |values: Vec<f64>| 30.0 * median(values).unwrap_or_default();
        let limits = (usual(sides.iter().map(|(x, _)| x.abs()).collect()), usual(sides.iter().map(|(_, y)| y.abs()).collect()));
        let sides: Vec<(f64, f64)> = sides.into_iter().filter(|(x, y)| x.abs() <= limits.0 && y.abs() <= limits.1).collect();
        if sides.len() < FEWEST_PAIRS {
            continue;
        }
        if let Some(fit) = proportion(&sides)
            // More pairs are worth a little quality.
            && best.is_none_or(|(known, _)| fit.quality > known.quality - 0.1)
        {
            best = Some((fit, n));
        }
    }
    best
}

fn is_one(ratio: f64) -> bool {
    (1.0 / NEARLY_ONE..NEARLY_ONE).contains(&ratio)
}

/// Frames of the first pairs.
fn origins<'d>(pairs: &[&Pair], all: &'d [Digest]) -> Vec<&'d Origin> {
    let mut indices: Vec<usize> = pairs.iter().take(5).flat_map(|pair| pair.frames).collect();
    let mut seen = std::collections::HashSet::new();
    indices.retain(|index| seen.insert(*index));
    indices.into_iter().map(|index| &all[index].origin).collect()
}

/// A contradiction between a few frames may be the fault of one of them.
fn severity(pairs: &[&Pair]) -> Severity {
    let frames: std::collections::BTreeSet<usize> = pairs.iter().flat_map(|pair| pair.frames).collect();
    if frames.len() < 5 { Severity::Warning } else { Severity::Error }
}

/// The explanations of a ratio, by name: the nearest, and those that are nearly as near.
fn explanations<'n>(ratio: f64, known: &[(f64, &'n str)]) -> Vec<&'n str> {
    let distance = |factor: f64| (ratio / factor).ln().abs();
    let nearest = known.iter().map(|(factor, _)| distance(*factor)).fold(0.3, f64::min);
    known.iter().filter(|(factor, _)| distance(*factor) < (nearest + 0.08).min(0.3)).map(|(_, name)| *name).collect()
}

fn report_forces(pairs: &[Pair], all: &[Digest], findings: &mut Findings) {
    let mut near: Vec<&Pair> = pairs.iter().filter(|pair| pair.strain < NO_STRAIN).collect();
    near.sort_by(|a, b| a.displacement.total_cmp(&b.displacement).then(a.frames.cmp(&b.frames)));
    let fit = best(&near, |pair| (pair.energy, pair.forces)).filter(|(fit, _)| fit.quality > FORCE_QUALITY);
    let Some((fit, n)) = fit else {
        let message = "no frames are near enough to one another to compare energies with forces";
        findings.push(Finding::new(Severity::Note, "energy-force", message));
        return;
    };
    let scatter = 100.0 * (1.0 - fit.quality);
    if is_one(fit.ratio) {
        let message =
            format!("energies and forces agree: over {n} pairs of frames ΔE is {:.2} times −F·Δx, within {scatter:.0} %", fit.ratio);
        findings.push(Finding::new(Severity::Note, "energy-force", message));
        return;
    }
    let size = fit.ratio.abs();
    let (kcal, kj, hartree) = (KCAL_PER_MOL, KJ_PER_MOL, HARTREE);
    let mut known = vec![
        (1.0 / kcal, "energies are in kcal/mol and forces in eV/Å"),
        (kcal, "forces are in kcal/mol/Å and energies in eV"),
        (1.0 / kj, "energies are in kJ/mol and forces in eV/Å"),
        (kj, "forces are in kJ/mol/Å and energies in eV"),
        (hartree, "forces are in hartree/Å and energies in eV"),
        (1.0 / hartree, "energies are in hartree and forces in eV/Å"),
        (hartree / BOHR, "forces are in hartree/bohr and energies in eV"),
        (2.0 / hartree, "energies are in rydberg and forces in eV/Å"),
        (0.5 * hartree / BOHR, "forces are in rydberg/bohr and energies in eV"),
        (1.0 / BOHR, "forces are per bohr and not per Å"),
        (BOHR, "positions are in bohr and not in Å"),
        (1000.0, "energies are in meV and forces in eV/Å, or positions in nm"),
        (0.001, "forces are in meV/Å and energies in eV"),
    ];
    let atoms = all[near[0].frames[0]].atoms;
    if near[..n].iter().all(|pair| all[pair.frames[0]].atoms == atoms) {
        known.push((1.0 / atoms as f64, "energies are per atom and not of all atoms"));
    }
    let mut reasons: Vec<&str> = Vec::new();
    if fit.ratio < 0.0 {
        reasons.push("forces have the wrong sign (gradients instead of forces)");
    }
    let units = explanations(size, &known);
    let units = units.join(", or ");
    if !units.is_empty() && !is_one(size) {
        reasons.push(&units);
    }
    let guess = if reasons.is_empty() {
        "energies and forces are not of the same unit, level of theory or frame".to_owned()
    } else {
        reasons.join("; ")
    };
    let message = format!(
        "energies and forces contradict each other: over {n} pairs of frames ΔE is {:.4} times −F·Δx, within {scatter:.0} %: {guess}",
        fit.ratio
    );
    let hint = "energies in eV, forces F = −dE/dx in eV/Å and positions in Å are expected: convert the data, or name the keys that belong together";
    findings.push(Finding::new(severity(&near[..n]), "energy-force", message).hint(hint).frames(origins(&near, all)));
}

/// Whether stresses agree with energies; `None` if they cannot be compared.
fn report_stress(pairs: &[Pair], all: &[Digest], findings: &mut Findings) -> Option<bool> {
    let strained = |pair: &&Pair| pair.stress.is_some() && pair.strain >= 10.0 * NO_STRAIN;
    // Where forces do most of the work nothing is learnt about stresses.
    let mut near: Vec<&Pair> = pairs.iter().filter(strained).filter(|pair| pair.forces.abs() < 0.5 * pair.energy.abs()).collect();
    near.sort_by(|a, b| (a.displacement + a.strain).total_cmp(&(b.displacement + b.strain)).then(a.frames.cmp(&b.frames)));
    let fit =
        best(&near, |pair| (pair.energy - pair.forces, pair.stress.unwrap_or_default())).filter(|(fit, _)| fit.quality > STRESS_QUALITY);
    let (fit, n) = fit?;
    let scatter = 100.0 * (1.0 - fit.quality);
    if is_one(fit.ratio) {
        let message = format!(
            "energies and stresses agree: over {n} pairs of strained frames ΔE is {:.2} times V σ:ε, within {scatter:.0} %",
            fit.ratio
        );
        findings.push(Finding::new(Severity::Note, "stress-energy", message));
        return Some(true);
    }
    let size = fit.ratio.abs();
    let known = [
        (GPA, "stresses are in GPa"),
        (KILOBAR, "stresses are in kbar"),
        (HARTREE / BOHR.powi(3), "stresses are in hartree/bohr³"),
        (0.5 * HARTREE / BOHR.powi(3), "stresses are in rydberg/bohr³"),
        (1.0 / KCAL_PER_MOL, "energies are in kcal/mol and stresses in eV/Å³"),
        (KCAL_PER_MOL, "stresses are in kcal/mol/Å³ and energies in eV"),
        (HARTREE, "stresses are in hartree/Å³ and energies in eV"),
        (1.0 / HARTREE, "energies are in hartree and stresses in eV/Å³"),
    ];
    let mut reasons: Vec<String> = Vec::new();
    if fit.ratio < 0.0 {
        reasons.push("stresses have the wrong sign (they must be positive when tensile, as in ASE; VASP prints the opposite)".to_owned());
    }
    if !is_one(size) {
        let units = explanations(size, &known);
        if !units.is_empty() {
            reasons.push(units.join(", or "));
        }
    }
    if reasons.is_empty() {
        reasons.push("stresses are in another unit, or are virials (eV)".to_owned());
    }
    let message = format!(
        "energies and stresses contradict each other: over {n} pairs of strained frames ΔE is {:.4} times V σ:ε, within {scatter:.0} %: {}",
        fit.ratio,
        reasons.join("; ")
    );
    let hint = "stresses σ = (1/V) dE/dε in eV/Å³ are expected: convert the data, or name keys.virial if they are virials (−V σ, eV)";
    findings.push(Finding::new(severity(&near[..n]), "stress-energy", message).hint(hint).frames(origins(&near, all)));
    Some(false)
}

/// Matter resists: the mean stress grows with the volume, by the bulk modulus K = dσ/d ln V, which is 0.01 to 3 eV/Å³ (1 to 500 GPa).
fn report_volume(train: &[&Digest], tested: bool, findings: &mut Findings) {
    let mut groups = BTreeMap::<Vec<(u8, u32)>, Vec<(f64, f64)>>::new();
    for digest in train {
        let (Some(volume), Some([xx, yy, zz, ..])) = (digest.volume, digest.stress) else { continue };
        let divisor = digest.composition.iter().fold(0, |divisor, (_, count)| gcd(divisor, *count));
        let formula = digest.composition.iter().map(|(number, count)| (*number, count / divisor)).collect();
        groups.entry(formula).or_default().push(((volume / digest.atoms as f64).ln(), (xx + yy + zz) / 3.0));
    }
    let mut points = Vec::new();
    for group in groups.into_values() {
        let Some(center) = median(group.iter().map(|p| p.0)) else { continue };
        // Surfaces and other phases have volumes of their own.
        let near: Vec<(f64, f64)> = group.into_iter().filter(|p| (p.0 - center).abs() < 0.15).collect();
        if near.len() < 3 {
            continue;
        }
        let n = near.len() as f64;
        let (mx, my) = (near.iter().map(|p| p.0).sum::<f64>() / n, near.iter().map(|p| p.1).sum::<f64>() / n);
        points.extend(near.into_iter().map(|(x, y)| (x - mx, y - my)));
    }
    let spread = (points.iter().map(|p| p.0 * p.0).sum::<f64>() / points.len().max(1) as f64).sqrt();
    let fit = line(&points).filter(|(_, correlation)| points.len() >= 10 && spread > 0.005 && correlation.abs() > 0.6);
    let Some((modulus, correlation)) = fit else {
        if !tested {
            let message =
                "the sign and the unit of stresses could not be tested: there are no frames of the same atoms in slightly different cells";
            findings.push(Finding::new(Severity::Note, "stress-volume", message));
        }
        return;
    };
    let gpa = modulus / GPA;
    let (n, hint) = (points.len(), "stresses in eV/Å³, positive when tensile, are expected");
    if modulus < 0.0 {
        // Where energies have said that the sign is right, volumes are no better witness.
        let severity = if tested { Severity::Warning } else { Severity::Error };
        let message = format!(
            "over {n} frames stresses become more compressive as the volume grows (dσ/d ln V is {gpa:.1} GPa, correlation {correlation:.2}): their sign is probably wrong"
        );
        findings.push(Finding::new(severity, "stress-volume", message).hint(hint));
    } else if modulus > 6.0 {
        let (as_gpa, as_kbar) = (modulus, 0.1 * modulus);
        let message = format!(
            "over {n} frames stresses grow with the volume by a bulk modulus of {gpa:.0} GPa, stiffer than diamond; it would be {as_gpa:.0} GPa if they are in GPa, {as_kbar:.0} GPa if in kbar"
        );
        findings.push(Finding::new(if tested { Severity::Warning } else { Severity::Error }, "stress-volume", message).hint(hint));
    } else {
        let message = format!("stresses have the right sign: over {n} frames they grow with the volume by a bulk modulus of {gpa:.1} GPa");
        findings.push(Finding::new(Severity::Note, "stress-volume", message));
    }
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn superposition_undoes_a_rotation() {
        let a: Vec<[f64; 3]> = vec![[0.0, 0.0, 0.0], [1.0, 0.1, 0.0], [0.2, 1.5, 0.3], [-0.4, 0.6, 1.1]];
        let (s, c) = 0.7f64.sin_cos();
        let turned: Vec<[f64; 3]> = a.iter().map(|r| [c * r[0] - s * r[1] + 5.0, s * r[0] + c * r[1] - 2.0, r[2] + 0.5]).collect();
        let (moved, rotation) = superpose(&a, &turned).unwrap();
        assert!(moved.iter().flatten().all(|x| x.abs() < 1e-13));
        assert!((rotation.determinant() - 1.0).abs() < 1e-13);
        // A mirror image stays one.
        let mirrored: Vec<[f64; 3]> = a.iter().map(|r| [-r[0], r[1], r[2]]).collect();
        let (moved, rotation) = superpose(&a, &mirrored).unwrap();
        assert!(moved.iter().flatten().any(|x| x.abs() > 0.05) && (rotation.determinant() - 1.0).abs() < 1e-13);
        // Two atoms leave an axis undetermined.
        assert!(superpose(&a[..2], &turned[..2]).unwrap().0.iter().flatten().all(|x| x.abs() < 1e-13));
    }

    #[test]
    fn strains_are_of_row_vectors() {
        let from = [[2.0, 0.0, 0.0], [0.3, 3.0, 0.0], [0.0, 0.1, 4.0]];
        let strain_in = [[0.01, 0.002, 0.0], [0.0, -0.02, 0.003], [0.004, 0.0, 0.03]];
        // cell' = cell (1 + ε)
        let to = std::array::from_fn(|i| std::array::from_fn(|j| from[i][j] + (0..3).map(|k| from[i][k] * strain_in[k][j]).sum::<f64>()));
        let found = strain(&from, &to).unwrap();
        assert!(found.iter().flatten().zip(strain_in.iter().flatten()).all(|(a, b)| (a - b).abs() < 1e-15));
        assert_eq!(strain(&[[0.0; 3]; 3], &to), None);
    }

    #[test]
    fn greatest_divisors() {
        assert_eq!([6, 9, 12].into_iter().fold(0, gcd), 3);
    }
}
