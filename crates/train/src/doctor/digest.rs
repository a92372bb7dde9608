//! What the doctor remembers of a frame: a few hundred bytes, so that data sets larger than memory can be examined.

use std::hash::{DefaultHasher, Hash, Hasher};

use rayon::prelude::*;
use tesseral_atoms::neighbors::neighbor_list;
use tesseral_atoms::{Structure, elements};

use crate::data::{DataError, Frame, FrameSource, Origin};
use crate::statistics::composition;

/// Number of invariants of a structure.
pub(super) const FEATURES: usize = 16;
const RADIAL: usize = FEATURES / 2;
/// Distance between the centres of neighbouring radial functions, Å.
const SPACING: f64 = 0.6;
/// Where the last of them ends, Å.
const CUTOFF: f64 = SPACING * (RADIAL as f64 + 1.5);
/// More neighbours than this are not looked at: lengths are then in a wrong unit.
const MOST_NEIGHBORS: f64 = 2000.0;

/// Forces of a frame in numbers.
#[derive(Debug, Clone)]
pub(super) struct ForceDigest {
    /// Root mean square over atoms of |F|, eV/Å.
    pub(super) rms: f64,
    /// Largest |F|, eV/Å.
    pub(super) largest: f64,
    /// |Σ F| / N, eV/Å.
    pub(super) net: f64,
    /// All components are exactly 0.
    pub(super) zero: bool,
    /// Σ F · (x − centroid), eV; for molecules.
    pub(super) virial: Option<f64>,
}

/// A frame in numbers.
#[derive(Debug, Clone)]
pub(super) struct Digest {
    /// Its index in the source.
    pub(super) index: usize,
    pub(super) origin: Origin,
    pub(super) atoms: usize,
    pub(super) composition: Vec<(u8, u32)>,
    /// Equal for frames with the same elements in the same order and the same periodic directions.
    pub(super) order: u64,
    /// Equal for frames with the same head and the same embedded fields.
    pub(super) kind: u64,
    pub(super) pbc: [bool; 3],
    pub(super) cell: [[f64; 3]; 3],
    /// Å³, for frames that are periodic in all directions.
    pub(super) volume: Option<f64>,
    pub(super) energy: Option<f64>,
    /// `None` also where a mask excludes some.
    pub(super) forces: Option<ForceDigest>,
    /// Voigt, eV/Å³.
    pub(super) stress: Option<[f64; 6]>,
    /// Smallest distance, Å; infinite if there is none within about 5 Å.
    pub(super) nearest: f64,
    /// Median over atoms of the smallest distance to a neighbour over the sum of the two covalent radii.
    pub(super) relative_nearest: Option<f64>,
    /// Sums over pairs of smooth functions of the distance, plain and weighted with √(Z Z′): the same for rotated, shifted and reordered copies.
    pub(super) features: [f64; FEATURES],
    /// Norms of their gradients by all positions, 1/Å.
    pub(super) gradients: [f64; FEATURES],
    /// What in it is not finite.
    pub(super) not_finite: Option<&'static str>,
}

/// Digests of all frames, in order.
pub(super) fn digests(source: &dyn FrameSource) -> Result<Vec<Digest>, DataError> {
    (0..source.len()).into_par_iter().map(|index| Ok(digest(&*source.frame(index)?, index))).collect()
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

pub(super) fn digest(frame: &Frame, index: usize) -> Digest {
    let structure = &frame.structure;
    let fields: Vec<(&str, u64)> = structure.info.iter().map(|(key, x)| (key.as_str(), x.as_f64().unwrap_or(f64::NAN).to_bits())).collect();
    let geometry = Geometry::new(structure);
    Digest {
        index,
        origin: frame.origin.clone(),
        atoms: structure.len(),
        composition: composition(&structure.numbers),
        order: hash(&(&structure.numbers, structure.pbc)),
        kind: hash(&(frame.head.as_deref(), fields)),
        pbc: structure.pbc,
        cell: structure.cell.vectors,
        volume: (structure.pbc == [true; 3]).then(|| structure.cell.volume()),
        energy: frame.energy,
        forces: force_digest(frame),
        stress: frame.stress,
        nearest: geometry.nearest,
        relative_nearest: geometry.relative_nearest,
        features: geometry.features,
        gradients: geometry.gradients,
        not_finite: not_finite(frame),
    }
}

fn not_finite(frame: &Frame) -> Option<&'static str> {
    let bad = |values: &[f64]| values.iter().any(|x| !x.is_finite());
    if bad(frame.structure.positions.as_flattened()) || bad(frame.structure.cell.vectors.as_flattened()) {
        Some("positions or cell")
    } else if frame.energy.is_some_and(|e| !e.is_finite()) {
        Some("energy")
    } else if frame.forces.as_ref().is_some_and(|forces| bad(forces.as_flattened())) {
        Some("forces")
    } else if frame.stress.is_some_and(|stress| bad(&stress)) {
        Some("stress")
    } else {
        None
    }
}

fn force_digest(frame: &Frame) -> Option<ForceDigest> {
    let forces = frame.forces.as_ref().filter(|forces| !forces.is_empty())?;
    if frame.force_mask.as_ref().is_some_and(|mask| mask.contains(&false)) {
        return None;
    }
    let positions = &frame.structure.positions;
    let n = forces.len() as f64;
    let center: [f64; 3] = std::array::from_fn(|k| positions.iter().map(|r| r[k]).sum::<f64>() / n);
    let squares = || forces.iter().map(|f| f.iter().map(|x| x * x).sum::<f64>());
    let net: [f64; 3] = std::array::from_fn(|k| forces.iter().map(|f| f[k]).sum());
    let virial = || forces.iter().zip(positions).map(|(f, r)| (0..3).map(|k| f[k] * (r[k] - center[k])).sum::<f64>()).sum();
    Some(ForceDigest {
        rms: (squares().sum::<f64>() / n).sqrt(),
        largest: squares().fold(0.0, f64::max).sqrt(),
        net: net.iter().map(|x| x * x).sum::<f64>().sqrt() / n,
        zero: forces.iter().flatten().all(|x| *x == 0.0),
        virial: (frame.structure.pbc == [false; 3]).then(virial),
    })
}

/// Where neighbours end, Å: nearer than usual in a crystal that is far too dense.
fn cutoff(structure: &Structure) -> f64 {
    if structure.pbc != [true; 3] {
        return CUTOFF;
    }
    let density = structure.len() as f64 / structure.cell.volume();
    CUTOFF.min((MOST_NEIGHBORS / density * 3.0 / (4.0 * std::f64::consts::PI)).cbrt())
}

struct Geometry {
    nearest: f64,
    relative_nearest: Option<f64>,
    features: [f64; FEATURES],
    gradients: [f64; FEATURES],
}

impl Geometry {
    fn new(structure: &Structure) -> Self {
        let mut geometry = Self { nearest: f64::INFINITY, relative_nearest: None, features: [0.0; FEATURES], gradients: [0.0; FEATURES] };
        let atoms = structure.len();
        let cutoff = cutoff(structure);
        // A frame that was read has been validated; one that was not has its own finding, or none of this.
        let Ok(list) = neighbor_list(&structure.cell.vectors, structure.pbc, &structure.positions, cutoff) else { return geometry };
        let radius = |atom: usize| elements::covalent_radius(structure.numbers[atom]).unwrap_or(1.0);
        let mut ratios = Vec::with_capacity(atoms);
        let mut squares = [0.0; FEATURES];
        for center in 0..atoms {
            let mut ratio = f64::INFINITY;
            let mut gradient = [[0.0; 3]; FEATURES];
            for edge in list.edges_of(center) {
                let (neighbor, v) = (list.neighbors[edge] as usize, list.vectors[edge]);
                let r = v.iter().map(|x| x * x).sum::<f64>().sqrt();
                geometry.nearest = geometry.nearest.min(r);
                ratio = ratio.min(r / (radius(center) + radius(neighbor)));
                let weight = (f64::from(structure.numbers[center]) * f64::from(structure.numbers[neighbor])).sqrt();
                for (k, value, slope) in radial(r) {
                    for (feature, weight) in [(k, 1.0), (k + RADIAL, weight)] {
                        geometry.features[feature] += weight * value;
                        // An atom's own images move with it.
                        if neighbor != center {
                            for x in 0..3 {
                                // Both directions of the pair depend on the centre.
                                gradient[feature][x] -= 2.0 * weight * slope * v[x] / r;
                            }
                        }
                    }
                }
            }
            ratios.push(ratio.min(CUTOFF));
            for (square, gradient) in squares.iter_mut().zip(&gradient) {
                *square += gradient.iter().map(|x| x * x).sum::<f64>();
            }
        }
        geometry.gradients = squares.map(f64::sqrt);
        geometry.relative_nearest = super::numbers::median(ratios);
        geometry
    }
}

/// The quadratic B-splines that do not vanish at r (Å): number, value, derivative (1/Å). They are centred at 0.6, 1.2, … Å and 1.8 Å wide.
fn radial(r: f64) -> impl Iterator<Item = (usize, f64, f64)> {
    let first = (r / SPACING - 2.5).ceil().max(0.0) as usize;
    (first..RADIAL.min(first + 4)).filter_map(move |k| {
        let u = r / SPACING - (k + 1) as f64;
        let (value, slope) = match u.abs() {
            a if a < 0.5 => (0.75 - u * u, -2.0 * u),
            a if a < 1.5 => (0.5 * (1.5 - a).powi(2), -u.signum() * (1.5 - a)),
            _ => return None,
        };
        Some((k, value, slope / SPACING))
    })
}

/// What an atom sees: its part of the invariants, and the norms of their gradients by all positions.
#[derive(Debug, Clone)]
pub(super) struct Environment {
    number: u8,
    values: [f32; FEATURES],
    gradients: [f32; FEATURES],
}

/// What each atom of a structure sees.
pub(super) fn environments(structure: &Structure) -> Vec<Environment> {
    let Ok(list) = neighbor_list(&structure.cell.vectors, structure.pbc, &structure.positions, cutoff(structure)) else {
        return Vec::new();
    };
    let atom = |center: usize| {
        let number = structure.numbers[center];
        let mut values = [0.0; FEATURES];
        let mut own = [[0.0; 3]; FEATURES];
        let mut squares = [0.0; FEATURES];
        for edge in list.edges_of(center) {
            let (neighbor, v) = (list.neighbors[edge] as usize, list.vectors[edge]);
            let r = v.iter().map(|x| x * x).sum::<f64>().sqrt();
            let weight = (f64::from(number) * f64::from(structure.numbers[neighbor])).sqrt();
            for (k, value, slope) in radial(r) {
                for (feature, weight) in [(k, 1.0), (k + RADIAL, weight)] {
                    values[feature] += weight * value;
                    if neighbor != center {
                        squares[feature] += (weight * slope).powi(2);
                        (0..3).for_each(|x| own[feature][x] -= weight * slope * v[x] / r);
                    }
                }
            }
        }
        let gradients = std::array::from_fn(|k| (squares[k] + own[k].iter().map(|x| x * x).sum::<f64>()).sqrt() as f32);
        Environment { number, values: values.map(|x: f64| x as f32), gradients }
    };
    (0..structure.len()).map(atom).collect()
}

/// Whether every atom of one structure sees what some atom of the other one sees, as if none had moved by more than about `distance` (Å).
///
/// This tells rattled crystals apart, of which symmetry makes all sums over atoms nearly equal.
pub(super) fn same_environments(a: &[Environment], b: &[Environment], distance: f64) -> bool {
    let distance = distance as f32;
    let same = |x: &Environment, y: &Environment| {
        x.number == y.number
            && x.values
                .iter()
                .zip(&y.values)
                .zip(x.gradients.iter().zip(&y.gradients))
                .all(|((a, b), (ga, gb))| (a - b).abs() <= distance * ga.max(*gb) + 2e-6 * a.abs().max(b.abs()) + 1e-6)
    };
    // The partner is usually the atom of the same number.
    a.len() == b.len() && a.iter().enumerate().all(|(i, x)| same(x, &b[i]) || b.iter().any(|y| same(x, y)))
}

impl Digest {
    /// Whether two structures agree in every invariant as if no atom had moved by more than about `distance` (Å).
    pub(super) fn looks_like(&self, other: &Self, distance: f64) -> bool {
        self.composition == other.composition
            && self
                .features
                .iter()
                .zip(&other.features)
                .zip(self.gradients.iter().zip(&other.gradients))
                .all(|((a, b), (ga, gb))| (a - b).abs() <= distance * ga.max(*gb) + 1e-9 * a.abs().max(b.abs()) + 1e-12)
    }

    /// About how far atoms have moved between two structures, Å: the largest difference of an invariant over the norm of its gradient.
    /// `None` where symmetry lets no invariant depend on positions.
    pub(super) fn distance(&self, other: &Self) -> Option<f64> {
        let mut largest = None;
        for k in 0..FEATURES {
            let gradient = self.gradients[k].max(other.gradients[k]);
            if gradient > 1e-6 * (1.0 + self.features[k]) {
                let distance = (self.features[k] - other.features[k]).abs() / gradient;
                largest = Some(largest.map_or(distance, |l: f64| l.max(distance)));
            }
        }
        largest
    }

    /// Whether it is periodic in all directions.
    pub(super) fn is_bulk(&self) -> bool {
        self.pbc == [true; 3]
    }
}

#[cfg(test)]
mod tests {
    use tesseral_atoms::Cell;
    use tesseral_testkit::{Random, derivative, relative_error};

    use super::*;
    use crate::testing::unlabelled;

    fn frame(structure: Structure) -> Frame {
        unlabelled(structure, 0)
    }

    #[test]
    fn gradients_of_invariants_are_their_derivatives() {
        let mut random = Random::new(3);
        let cell = Cell::new([[4.0, 0.3, 0.0], [0.1, 4.5, 0.2], [0.0, 0.4, 5.0]]);
        let positions: Vec<f64> =
            [0.3, 0.2, 0.1, 1.9, 2.2, 0.4, 2.3, 0.5, 2.8, 0.2, 2.4, 2.9].iter().map(|x| x + 0.1 * random.number()).collect();
        let features = |x: &[f64]| {
            let positions = x.chunks_exact(3).map(|c| [c[0], c[1], c[2]]).collect();
            digest(&frame(Structure::crystal(cell, vec![29, 8, 29, 8], positions)), 0)
        };
        let found = features(&positions);
        for k in 0..FEATURES {
            let numeric = derivative(&positions, 1e-4, |x| features(x).features[k]);
            let norm = numeric.iter().map(|x| x * x).sum::<f64>().sqrt();
            assert!(relative_error(&[found.gradients[k]], &[norm]) < 1e-5, "{k}: {} {norm}", found.gradients[k]);
        }
        // The splines add up to 1 between the centres of the second and the last but one.
        assert!((radial(2.0).map(|(_, value, _)| value).sum::<f64>() - 1.0).abs() < 1e-15);
        assert!(radial(2.0).map(|(_, _, slope)| slope).sum::<f64>().abs() < 1e-15);
    }

    #[test]
    fn copies_look_alike_and_others_do_not() {
        let positions = vec![[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0], [2.9, 0.1, 0.2]];
        let water = digest(&frame(Structure::molecule(vec![8, 1, 1, 10], positions.clone())), 0);
        // Rotated by 90° about z, shifted, two atoms exchanged.
        let turned = |r: &[f64; 3]| [5.0 - r[1], r[0] - 3.0, r[2] + 1.0];
        let mut moved: Vec<[f64; 3]> = positions.iter().map(turned).collect();
        moved.swap(1, 2);
        let copy = digest(&frame(Structure::molecule(vec![8, 1, 1, 10], moved.clone())), 1);
        assert!(water.looks_like(&copy, 1e-9) && water.distance(&copy).unwrap() < 1e-12);
        moved[1][0] += 0.004;
        let near = digest(&frame(Structure::molecule(vec![8, 1, 1, 10], moved.clone())), 2);
        assert!(!water.looks_like(&near, 1e-5) && water.looks_like(&near, 0.03));
        moved[1][0] += 0.2;
        let far = digest(&frame(Structure::molecule(vec![8, 1, 1, 10], moved)), 3);
        assert!(!water.looks_like(&far, 0.03));
    }

    #[test]
    fn distances_in_wrong_units_are_quick_and_seen() {
        let a = 3.61;
        let copper = |scale: f64| {
            let sites = [[0.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.5, 0.0, 0.5], [0.0, 0.5, 0.5]].map(|s| s.map(|x| x * a * scale));
            digest(&frame(Structure::crystal(Cell::cubic(a * scale), vec![29; 4], sites.into())), 0)
        };
        let ratio = a / 2f64.sqrt() / (2.0 * 1.32);
        for (scale, expected) in [(1.0, ratio), (0.1, 0.1 * ratio), (1.0 / 0.529177, ratio / 0.529177)] {
            assert!((copper(scale).relative_nearest.unwrap() - expected).abs() < 1e-6, "{scale}");
        }
    }
}
