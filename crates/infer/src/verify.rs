//! Checks that a potential is what a potential has to be, on real structures: forces and stress are derivatives of the energy,
//! nothing depends on the frame of reference or on the order of the atoms, the interaction ends smoothly at the cutoff, and
//! single precision agrees with double.
//!
//! Structures are displaced at random (always the same way) before they are checked: in a perfect crystal all forces vanish
//! and nothing would be seen.

use tesseral_atoms::{Cell, Structure};
use tesseral_o3::Irrep;
use tesseral_potentials::mace::Interaction;
use tesseral_potentials::{Architecture, Header};

use crate::{Evaluation, InferError, Potential};

/// Random displacement of every coordinate, Å.
pub const DISPLACEMENT: f64 = 0.05;
/// Steps of the central differences in positions (Å), the next one where the last one does not agree.
///
/// Published cutoff functions have jumps in their second derivative (XPLOR at its onset and at the cutoff). A step across one is wrong
/// in proportion to its length however right the forces are; a shorter one rarely hits it, but has fewer digits.
const POSITION_STEPS: [f64; 3] = [1e-3, 1e-4, 1e-5];
/// Steps of the central differences in strain.
const STRAIN_STEPS: [f64; 3] = [5e-4, 5e-5, 5e-6];
/// Atoms whose force components are differentiated one by one; random directions move all atoms at once.
const DIFFERENTIATED_ATOMS: usize = 4;
const RANDOM_DIRECTIONS: usize = 2;
/// Distance from the cutoff at which its two sides are compared, Å.
const CUTOFF_STEP: f64 = 1e-9;

/// Relative tolerance of derivatives against finite differences, in double precision.
pub const DERIVATIVE_TOLERANCE: f64 = 1e-7;
/// Relative tolerance of rotations and reflections. Checkpoints in single precision carry coupling coefficients with its rounding, and
/// double precision cannot bring back what was lost there.
pub const ROTATION_TOLERANCE: f64 = 1e-6;
/// Relative tolerance of permutations and translations, in double precision.
pub const SYMMETRY_TOLERANCE: f64 = 1e-9;
/// Largest jump of energy or force at the cutoff, relative to their range inside it.
pub const SMOOTHNESS_TOLERANCE: f64 = 1e-6;
/// Energies of single against double precision, relative to the sum of |atomic energies|.
pub const SINGLE_ENERGY_TOLERANCE: f64 = 5e-6;
/// Forces of single against double precision, relative to the largest.
pub const SINGLE_FORCES_TOLERANCE: f64 = 2e-4;
/// Stress of single against double precision, relative to the largest component.
pub const SINGLE_STRESS_TOLERANCE: f64 = 1e-3;

/// Below these, differences are compared with the floor itself: there is nothing to be relative to. eV, eV/Å, eV/Å³.
const ENERGY_FLOOR: f64 = 1e-3;
const FORCE_FLOOR: f64 = 1e-2;
const STRESS_FLOOR: f64 = 1e-4;

/// The outcome of one check.
#[derive(Debug, Clone, PartialEq)]
pub struct Check {
    /// What was checked.
    pub name: String,
    /// The worst deviation found, relative.
    pub value: f64,
    /// The largest deviation that is accepted; `None` for a property that the model does not claim to have, where the deviation is
    /// only told.
    pub tolerance: Option<f64>,
}

impl Check {
    fn new(name: impl Into<String>, value: f64, tolerance: f64) -> Self {
        Self { name: name.into(), value, tolerance: Some(tolerance) }
    }

    /// Whether the deviation is within the tolerance; NaN never is. `None` if there is no tolerance to be within.
    pub fn passed(&self) -> Option<bool> {
        Some(self.value <= self.tolerance?)
    }
}

/// Checks a potential on one structure. `double` and `single` are the same model in f64 and f32.
///
/// Checks of forces need at least two atoms, those of the stress a cell that is periodic in three directions; others are left
/// out.
///
/// # Errors
/// [`InferError`] if the structure cannot be evaluated at all.
pub fn verify_structure(double: &Potential, single: &Potential, structure: &Structure) -> Result<Vec<Check>, InferError> {
    let claims_reflections = claims_reflections(double.header());
    check_structure(&|s| double.evaluate(s), &|s| single.evaluate(s), claims_reflections, structure)
}

/// What evaluates structures: one result for each.
type Energies<'a> = &'a dyn Fn(&[Structure]) -> Vec<Result<Evaluation, InferError>>;

fn check_structure(
    double: Energies<'_>,
    single: Energies<'_>,
    claims_reflections: bool,
    structure: &Structure,
) -> Result<Vec<Check>, InferError> {
    let mut random = Random::new();
    let base = displaced(structure, &mut random);
    let reference = evaluate_one(double, &base)?;
    let scale = Scale::of(&reference);
    let mut checks = Vec::new();
    if base.len() > 1 {
        let accepted = 0.1 * DERIVATIVE_TOLERANCE * scale.force;
        let value = force_deviation(double, &base, &reference, accepted, &mut random)? / scale.force;
        checks.push(Check::new("forces = −dE/dx", value, DERIVATIVE_TOLERANCE));
    }
    if let Some(stress) = reference.stress {
        let accepted = 0.1 * DERIVATIVE_TOLERANCE * scale.stress;
        let value = stress_deviation(double, &base, stress, accepted)? / scale.stress;
        checks.push(Check::new("stress = dE/dε / V", value, DERIVATIVE_TOLERANCE));
    }
    let rotation = random.rotation();
    let reflection = rotation.map(|row| row.map(|x| -x));
    for (name, matrix, claimed) in [("rotation", rotation, true), ("reflection", reflection, claims_reflections)] {
        let turned = evaluate_one(double, &transformed(&base, matrix))?;
        let value = scale.deviation(&turned, &rotated_evaluation(&reference, matrix));
        checks.push(Check { name: name.to_owned(), value, tolerance: claimed.then_some(ROTATION_TOLERANCE) });
    }
    if base.len() > 1 {
        let mut order = random.permutation(base.len());
        if order.is_sorted() {
            // The identity would show nothing.
            order.rotate_left(1);
        }
        let permuted = evaluate_one(double, &permuted(&base, &order))?;
        let value = scale.deviation(&permuted, &permuted_evaluation(&reference, &order));
        checks.push(Check::new("permutation", value, SYMMETRY_TOLERANCE));
    }
    let moved = evaluate_one(double, &translated(&base, &mut random))?;
    let name = if base.is_periodic() { "translation, unwrapping" } else { "translation" };
    checks.push(Check::new(name, scale.deviation(&moved, &reference), SYMMETRY_TOLERANCE));
    let low = evaluate_one(single, &base)?;
    let energy = (low.energy - reference.energy).abs() / scale.energy;
    checks.push(Check::new("f32 energy", energy, SINGLE_ENERGY_TOLERANCE));
    if base.len() > 1 {
        checks.push(Check::new("f32 forces", largest_difference(&low.forces, &reference.forces) / scale.force, SINGLE_FORCES_TOLERANCE));
    }
    if let (Some(a), Some(b)) = (low.stress, reference.stress) {
        checks.push(Check::new("f32 stress", largest_difference(&a, &b) / scale.stress, SINGLE_STRESS_TOLERANCE));
    }
    Ok(checks)
}

/// Checks that the energy and the force of a pair of atoms are continuous where they leave each other's sight.
///
/// # Errors
/// [`InferError`] if the pair cannot be evaluated, for example for an element that the model does not know.
pub fn verify_cutoff(double: &Potential, pair: [u8; 2]) -> Result<Vec<Check>, InferError> {
    let mut checks = check_cutoff(&|s| double.evaluate(s), double.header().cutoff(), pair)?;
    if !claims_smoothness(double.header()) {
        for check in &mut checks {
            check.tolerance = None;
        }
    }
    Ok(checks)
}

fn check_cutoff(double: Energies<'_>, cutoff: f64, pair: [u8; 2]) -> Result<Vec<Check>, InferError> {
    let mut distances = vec![cutoff - CUTOFF_STEP, cutoff + CUTOFF_STEP];
    // Where the pair interacts: what a jump is compared with.
    distances.extend((8..20).map(|k| cutoff * f64::from(k) / 20.0));
    let dimers: Vec<Structure> = distances.iter().map(|&r| Structure::molecule(pair.to_vec(), vec![[0.0; 3], [r, 0.0, 0.0]])).collect();
    let results = evaluate_all(double, &dimers)?;
    let (inside, outside) = (&results[0], &results[1]);
    let range = |quantity: &dyn Fn(&Evaluation) -> f64, floor: f64| {
        results[2..].iter().map(|e| (quantity(e) - quantity(outside)).abs()).fold(floor, f64::max)
    };
    let energy = |e: &Evaluation| e.energy;
    let force = |e: &Evaluation| e.forces[1][0];
    let energy_jump = (inside.energy - outside.energy).abs() / range(&energy, ENERGY_FLOOR);
    let force_jump = largest_difference(&inside.forces, &outside.forces) / range(&force, FORCE_FLOOR);
    Ok(vec![
        Check::new("energy at the cutoff", energy_jump, SMOOTHNESS_TOLERANCE),
        Check::new("force at the cutoff", force_jump, SMOOTHNESS_TOLERANCE),
    ])
}

/// Whether mirror images must have the same energy. Models whose harmonics all count as even ("parity off", SevenNet-0 among them) are
/// equivariant under rotations alone: their products of features mix true vectors with axial ones.
fn claims_reflections(header: &Header) -> bool {
    let edge_irreps = match &header.architecture {
        Architecture::Mace(config) => &config.edge_irreps,
        // An even function of odd scalars gives up the symmetry as well.
        Architecture::Nequip(config) if config.activations.scalars_odd != "tanh" => return false,
        Architecture::Nequip(config) => &config.edge_irreps,
    };
    edge_irreps.iter().all(|block| block.irrep == Irrep::natural(block.irrep.l))
}

/// Whether messages vanish at the cutoff. Radial networks that also see the two atoms do not, unless the envelope multiplies their outputs:
/// MACE's attention block, and its non-linear block with the envelope on the basis.
fn claims_smoothness(header: &Header) -> bool {
    let Architecture::Mace(config) = &header.architecture else { return true };
    let sees_atoms = |i| matches!(i, Interaction::AttentionResidual | Interaction::ResidualNonLinear);
    !config.radial.envelope_on_basis || !config.layers.iter().any(|layer| sees_atoms(layer.interaction))
}

/// What deviations are relative to.
struct Scale {
    energy: f64,
    force: f64,
    stress: f64,
}

impl Scale {
    fn of(evaluation: &Evaluation) -> Self {
        let largest = |values: &[f64], floor: f64| values.iter().map(|x| x.abs()).fold(floor, f64::max);
        Self {
            energy: evaluation.atomic_energies.iter().map(|e| e.abs()).sum::<f64>().max(ENERGY_FLOOR),
            force: largest(evaluation.forces.as_flattened(), FORCE_FLOOR),
            stress: evaluation.stress.map_or(STRESS_FLOOR, |stress| largest(stress.as_flattened(), STRESS_FLOOR)),
        }
    }

    /// The largest relative deviation of energy, forces and stress.
    fn deviation(&self, found: &Evaluation, expected: &Evaluation) -> f64 {
        let energy = (found.energy - expected.energy).abs() / self.energy;
        let forces = largest_difference(&found.forces, &expected.forces) / self.force;
        let stress = match (found.stress, expected.stress) {
            (Some(a), Some(b)) => largest_difference(&a, &b) / self.stress,
            (None, None) => 0.0,
            _ => f64::NAN,
        };
        [energy, forces, stress].into_iter().fold(0.0, largest_or_nan)
    }
}

/// Largest component of the difference; NaN if there is one.
fn largest_difference(a: &[[f64; 3]], b: &[[f64; 3]]) -> f64 {
    if a.len() != b.len() {
        return f64::NAN;
    }
    a.as_flattened().iter().zip(b.as_flattened()).map(|(x, y)| (x - y).abs()).fold(0.0, largest_or_nan)
}

fn largest_or_nan(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) }
}

/// Some at a time, so that a large structure is not held in memory many times over with all its neighbours.
fn evaluate_all(potential: Energies<'_>, structures: &[Structure]) -> Result<Vec<Evaluation>, InferError> {
    structures.chunks(8).flat_map(potential).collect()
}

fn evaluate_one(potential: Energies<'_>, structure: &Structure) -> Result<Evaluation, InferError> {
    potential(std::slice::from_ref(structure)).pop().expect("one result per structure")
}

/// Largest absolute deviation of given slopes of the energy from finite differences along families of structures: `at(k, s)` is the
/// k-th family at parameter s, `expected[k]` times `factor` its slope. Where the first of `steps` does not agree to `accepted`, the
/// others are tried.
fn slope_deviation(
    potential: Energies<'_>,
    expected: &[f64],
    factor: f64,
    steps: [f64; 3],
    accepted: f64,
    at: impl Fn(usize, f64) -> Structure,
) -> Result<f64, InferError> {
    let mut deviations = vec![f64::INFINITY; expected.len()];
    for step in steps {
        let open: Vec<usize> = (0..expected.len()).filter(|&k| deviations[k].is_nan() || deviations[k] > accepted).collect();
        let slopes = derivatives(potential, open.len(), step, |k, s| at(open[k], s))?;
        for (&k, slope) in open.iter().zip(slopes) {
            let deviation = (slope * factor - expected[k]).abs();
            deviations[k] = if deviation.is_nan() { deviation } else { deviations[k].min(deviation) };
        }
    }
    Ok(deviations.into_iter().fold(0.0, largest_or_nan))
}

/// Fourth-order central differences of the energy along families of structures.
fn derivatives(potential: Energies<'_>, count: usize, step: f64, at: impl Fn(usize, f64) -> Structure) -> Result<Vec<f64>, InferError> {
    let steps = [-2.0, -1.0, 1.0, 2.0];
    let structures: Vec<Structure> = (0..count).flat_map(|k| steps.map(|s| at(k, s * step))).collect();
    let energies: Vec<f64> = evaluate_all(potential, &structures)?.iter().map(|e| e.energy).collect();
    Ok(energies.chunks_exact(4).map(|e| (e[0] - e[3] + 8.0 * (e[2] - e[1])) / (12.0 * step)).collect())
}

/// Largest absolute deviation of the forces from finite differences: components of some atoms, and all atoms at once along
/// random directions.
fn force_deviation(
    potential: Energies<'_>,
    base: &Structure,
    reference: &Evaluation,
    accepted: f64,
    random: &mut Random,
) -> Result<f64, InferError> {
    let atoms = base.len();
    let chosen = random.permutation(atoms);
    let mut directions: Vec<Vec<[f64; 3]>> = Vec::new();
    for &atom in chosen.iter().take(DIFFERENTIATED_ATOMS) {
        for axis in 0..3 {
            let mut direction = vec![[0.0; 3]; atoms];
            direction[atom][axis] = 1.0;
            directions.push(direction);
        }
    }
    for _ in 0..RANDOM_DIRECTIONS {
        let mut direction: Vec<[f64; 3]> = (0..atoms).map(|_| [0; 3].map(|_| random.symmetric())).collect();
        let length = direction.as_flattened().iter().map(|x| x * x).sum::<f64>().sqrt();
        direction.as_flattened_mut().iter_mut().for_each(|x| *x /= length);
        directions.push(direction);
    }
    let project =
        |direction: &Vec<[f64; 3]>| reference.forces.as_flattened().iter().zip(direction.as_flattened()).map(|(f, d)| f * d).sum::<f64>();
    let expected: Vec<f64> = directions.iter().map(project).collect();
    slope_deviation(potential, &expected, -1.0, POSITION_STEPS, accepted, |k, s| {
        let mut structure = base.clone();
        for (x, d) in structure.positions.as_flattened_mut().iter_mut().zip(directions[k].as_flattened()) {
            *x += s * d;
        }
        structure
    })
}

/// Largest absolute deviation of the stress from the finite difference of the energy per volume in symmetric strain.
fn stress_deviation(potential: Energies<'_>, base: &Structure, stress: [[f64; 3]; 3], accepted: f64) -> Result<f64, InferError> {
    const COMPONENTS: [(usize, usize); 6] = [(0, 0), (1, 1), (2, 2), (1, 2), (2, 0), (0, 1)];
    let expected = COMPONENTS.map(|(i, j)| stress[i][j]);
    let deviation = slope_deviation(potential, &expected, 1.0 / base.cell.volume(), STRAIN_STEPS, accepted, |k, s| {
        let (i, j) = COMPONENTS[k];
        let mut deformation = IDENTITY;
        deformation[i][j] += s / 2.0;
        deformation[j][i] += s / 2.0;
        transformed(base, deformation)
    })?;
    let asymmetry = COMPONENTS.map(|(i, j)| (stress[i][j] - stress[j][i]).abs());
    Ok(asymmetry.into_iter().fold(deviation, largest_or_nan))
}

type Matrix = [[f64; 3]; 3];
const IDENTITY: Matrix = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];

fn apply(matrix: Matrix, v: [f64; 3]) -> [f64; 3] {
    matrix.map(|row| row[0] * v[0] + row[1] * v[1] + row[2] * v[2])
}

/// A structure with the same atoms, cell and frame metadata (charge, spin), but without per-atom columns.
fn bare(structure: &Structure) -> Structure {
    Structure { arrays: Default::default(), ..structure.clone() }
}

fn displaced(structure: &Structure, random: &mut Random) -> Structure {
    let mut displaced = bare(structure);
    for x in displaced.positions.as_flattened_mut() {
        *x += DISPLACEMENT * random.symmetric();
    }
    displaced
}

/// Positions and lattice vectors under a linear map: a rotation, a reflection or a strain.
fn transformed(structure: &Structure, matrix: Matrix) -> Structure {
    let mut transformed = structure.clone();
    transformed.positions.iter_mut().for_each(|x| *x = apply(matrix, *x));
    transformed.cell = Cell::new(structure.cell.vectors.map(|a| apply(matrix, a)));
    transformed
}

/// What the evaluation of the rotated structure has to be: F' = Q F, σ' = Q σ Qᵀ.
fn rotated_evaluation(evaluation: &Evaluation, matrix: Matrix) -> Evaluation {
    let mut rotated = evaluation.clone();
    rotated.forces.iter_mut().for_each(|f| *f = apply(matrix, *f));
    rotated.stress = evaluation.stress.map(|stress| {
        let mut product = [[0.0; 3]; 3];
        for i in 0..3 {
            for j in 0..3 {
                for a in 0..3 {
                    for b in 0..3 {
                        product[i][j] += matrix[i][a] * stress[a][b] * matrix[j][b];
                    }
                }
            }
        }
        product
    });
    rotated
}

fn permuted(structure: &Structure, order: &[usize]) -> Structure {
    let mut permuted = structure.clone();
    permuted.numbers = order.iter().map(|&i| structure.numbers[i]).collect();
    permuted.positions = order.iter().map(|&i| structure.positions[i]).collect();
    permuted
}

fn permuted_evaluation(evaluation: &Evaluation, order: &[usize]) -> Evaluation {
    let mut permuted = evaluation.clone();
    permuted.forces = order.iter().map(|&i| evaluation.forces[i]).collect();
    permuted.atomic_energies = order.iter().map(|&i| evaluation.atomic_energies[i]).collect();
    permuted
}

/// All atoms moved by the same vector, and each by whole lattice vectors along the periodic directions.
fn translated(structure: &Structure, random: &mut Random) -> Structure {
    let mut translated = structure.clone();
    let shift = [0; 3].map(|_| 3.0 * random.symmetric());
    for x in &mut translated.positions {
        let images = structure.pbc.map(|periodic| if periodic { (2.4 * random.symmetric()).round() } else { 0.0 });
        let lattice = structure.cell.cartesian(images);
        for k in 0..3 {
            x[k] += shift[k] + lattice[k];
        }
    }
    translated
}

/// SplitMix64: the same numbers on every machine, so that a check that fails can be repeated.
struct Random(u64);

impl Random {
    fn new() -> Self {
        Self(0x7e55_e7a1)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in −1 … 1.
    fn symmetric(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }

    fn permutation(&mut self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            order.swap(i, (self.next() % (i as u64 + 1)) as usize);
        }
        order
    }

    /// A rotation, from a random unit quaternion.
    fn rotation(&mut self) -> Matrix {
        let (q, length) = loop {
            let q = [0; 4].map(|_| self.symmetric());
            let length = q.iter().map(|x| x * x).sum::<f64>().sqrt();
            if (0.1..=1.0).contains(&length) {
                break (q, length);
            }
        };
        let [w, x, y, z] = q.map(|c| c / length);
        [
            [1.0 - 2.0 * (y * y + z * z), 2.0 * (x * y - w * z), 2.0 * (x * z + w * y)],
            [2.0 * (x * y + w * z), 1.0 - 2.0 * (x * x + z * z), 2.0 * (y * z - w * x)],
            [2.0 * (x * z - w * y), 2.0 * (y * z + w * x), 1.0 - 2.0 * (x * x + y * y)],
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotations_are_orthogonal_and_permutations_complete() {
        let mut random = Random::new();
        let rotation = random.rotation();
        for i in 0..3 {
            for j in 0..3 {
                let product: f64 = (0..3).map(|k| rotation[i][k] * rotation[j][k]).sum();
                assert!((product - IDENTITY[i][j]).abs() < 1e-15);
            }
        }
        let mut order = random.permutation(20);
        assert_ne!(order, (0..20).collect::<Vec<_>>());
        order.sort_unstable();
        assert_eq!(order, (0..20).collect::<Vec<_>>());
        let mean = (0..4000).map(|_| random.symmetric()).sum::<f64>() / 4000.0;
        assert!(mean.abs() < 0.03);
    }

    /// A Morse pair potential that ends smoothly at 4 Å, with something wrong with it.
    #[derive(Clone, Copy, PartialEq)]
    enum Flaw {
        None,
        Forces,
        Stress,
        Direction,
        Origin,
        Order,
        Cutoff,
        Rounding,
    }

    const CUTOFF: f64 = 4.0;

    fn morse(structure: &Structure, flaw: Flaw) -> Evaluation {
        let n = structure.len();
        let mut atomic_energies = vec![-1.0; n];
        let mut forces = vec![[0.0; 3]; n];
        let mut virial = [[0.0; 3]; 3];
        let images = structure.pbc.map(|periodic| if periodic { -4..=4 } else { 0..=0 });
        for i in 0..n {
            for j in 0..n {
                for (a, b, c) in images[0].clone().flat_map(|a| images[1].clone().flat_map(move |b| (-4..=4).map(move |c| (a, b, c)))) {
                    if !images[2].contains(&c) {
                        continue;
                    }
                    let shift = structure.cell.cartesian([a, b, c].map(f64::from));
                    let d = [0, 1, 2].map(|k| structure.positions[j][k] - structure.positions[i][k] + shift[k]);
                    let r = d.iter().map(|x| x * x).sum::<f64>().sqrt();
                    if !(1e-9..CUTOFF).contains(&r) {
                        continue;
                    }
                    let x = (r / CUTOFF).powi(2);
                    let (end, end_slope) = match flaw {
                        Flaw::Cutoff => (1.0 - x, -2.0 * r / CUTOFF.powi(2)),
                        _ => ((1.0 - x).powi(3), -6.0 * (1.0 - x).powi(2) * r / CUTOFF.powi(2)),
                    };
                    let well = (-1.5 * (r - 2.0)).exp();
                    let (pair, pair_slope) = (well * well - 2.0 * well, 3.0 * (well - well * well));
                    atomic_energies[i] += 0.5 * pair * end;
                    let slope = pair * end_slope + pair_slope * end;
                    for k in 0..3 {
                        forces[i][k] += slope * d[k] / r;
                        for l in 0..3 {
                            virial[k][l] += 0.5 * slope * d[k] * d[l] / r;
                        }
                    }
                }
            }
        }
        match flaw {
            Flaw::Forces => forces[0][1] *= 1.0 + 1e-4,
            Flaw::Stress => virial[2][2] *= 1.0 + 1e-4,
            // A field: its energy depends on where the atoms are, an elastic one on where they point to.
            Flaw::Origin => atomic_energies[0] += 1e-3 * structure.positions[0][0],
            Flaw::Direction => atomic_energies[0] += 1e-3 * (structure.positions[0][0] - structure.positions[1][0]).sin(),
            Flaw::Order => atomic_energies[0] *= 1.0 + 1e-6,
            _ => {}
        }
        let energy = atomic_energies.iter().sum::<f64>() * if flaw == Flaw::Rounding { 1.0 + 1e-4 } else { 1.0 };
        let stress = structure.pbc.iter().all(|&p| p).then(|| virial.map(|row| row.map(|x| x / structure.cell.volume())));
        Evaluation { energy, forces, stress, atomic_energies }
    }

    fn failures(flaw: Flaw, structure: &Structure) -> Vec<String> {
        let with = |flaw| move |structures: &[Structure]| structures.iter().map(|s| Ok(morse(s, flaw))).collect::<Vec<_>>();
        let double = with(if flaw == Flaw::Rounding { Flaw::None } else { flaw });
        let mut checks = check_structure(&double, &with(flaw), true, structure).unwrap();
        checks.extend(check_cutoff(&double, CUTOFF, [14, 14]).unwrap());
        checks.into_iter().filter(|check| check.passed() == Some(false)).map(|check| check.name).collect()
    }

    #[test]
    fn each_flaw_is_found_and_nothing_else() {
        let crystal = Structure::crystal(
            Cell::new([[3.1, 0.0, 0.0], [0.4, 3.0, 0.0], [0.0, -0.3, 3.3]]),
            vec![14; 2],
            vec![[0.0; 3], [1.6, 1.4, 1.7]],
        );
        assert_eq!(failures(Flaw::None, &crystal), [""; 0]);
        assert_eq!(failures(Flaw::Forces, &crystal), ["forces = −dE/dx", "rotation", "reflection", "permutation"]);
        assert_eq!(failures(Flaw::Stress, &crystal), ["stress = dE/dε / V", "rotation", "reflection"]);
        assert_eq!(failures(Flaw::Cutoff, &crystal), ["force at the cutoff"]);
        assert_eq!(failures(Flaw::Rounding, &crystal), ["f32 energy"]);
        let molecule = Structure::molecule(vec![14; 3], vec![[0.0; 3], [2.0, 0.3, 0.0], [0.5, 1.9, 0.2]]);
        assert_eq!(failures(Flaw::None, &molecule), [""; 0]);
        assert_eq!(failures(Flaw::Order, &molecule), ["forces = −dE/dx", "permutation"]);
        assert_eq!(failures(Flaw::Origin, &molecule), ["forces = −dE/dx", "rotation", "reflection", "permutation", "translation"]);
        assert_eq!(failures(Flaw::Direction, &molecule), ["forces = −dE/dx", "rotation", "reflection", "permutation"]);
        let atom = Structure::molecule(vec![14], vec![[1.0; 3]]);
        assert_eq!(failures(Flaw::None, &atom), [""; 0]);
    }

    #[test]
    fn nan_fails_a_check() {
        assert_eq!(Check::new("x", f64::NAN, 1.0).passed(), Some(false));
        assert_eq!(Check { name: "x".into(), value: 1.0, tolerance: None }.passed(), None);
        assert!(largest_or_nan(largest_or_nan(1.0, f64::NAN), 2.0).is_nan());
        assert!(largest_difference(&[[1.0; 3]], &[]).is_nan());
    }

    #[test]
    fn rotated_stress() {
        // A quarter turn about z exchanges xx and yy.
        let quarter = [[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]];
        let evaluation = Evaluation {
            energy: 0.0,
            forces: vec![[1.0, 0.0, 0.0]],
            stress: Some([[1.0, 0.5, 0.0], [0.5, 2.0, 0.0], [0.0, 0.0, 3.0]]),
            atomic_energies: vec![0.0],
        };
        let rotated = rotated_evaluation(&evaluation, quarter);
        assert_eq!(rotated.forces, [[0.0, 1.0, 0.0]]);
        assert_eq!(rotated.stress, Some([[2.0, -0.5, 0.0], [-0.5, 1.0, 0.0], [0.0, 0.0, 3.0]]));
    }
}
