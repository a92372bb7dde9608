//! Paths of least energy between two structures: the nudged elastic band.
//!
//! Images along a path are held apart by springs and driven down by the part of their forces across it (H. Jónsson, G. Mills and K. W. Jacobsen, in Classical and Quantum Dynamics in Condensed
//! Phase Simulations, 1998), with tangents towards the neighbour of higher energy (G. Henkelman and H. Jónsson, J. Chem. Phys. 113, 9978 (2000)). The highest image climbs to the saddle
//! point: no springs act on it, and its force along the path is turned round (G. Henkelman, B. P. Uberuaga and H. Jónsson, J. Chem. Phys. 113, 9901 (2000)).

pub mod path;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};
use tesseral_atoms::{Evaluation, ForceField, Structure};

use crate::error::SimulateError;
use crate::relax::optimiser::{self, Fire, FireVersion, Lbfgs, difference, dot, longest};

/// What moves the band.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// Steered dynamics: robust.
    Fire,
    /// L-BFGS of the whole band, without a line search (D. Sheppard, R. Terrell and G. Henkelman, J. Chem. Phys. 128, 134106 (2008)): fewer steps.
    #[default]
    Lbfgs,
}

impl Method {
    /// Knowing nothing yet.
    fn begin(self) -> optimiser::Optimiser {
        match self {
            Self::Fire => optimiser::Optimiser::Fire(Fire::new(FireVersion::Bitzek, MAX_STEP)),
            Self::Lbfgs => optimiser::Optimiser::Lbfgs(Lbfgs::new(MEMORY, MAX_STEP)),
        }
    }
}

/// Farthest that an atom of an image moves in a step, Å.
const MAX_STEP: f64 = 0.2;
/// Steps that L-BFGS remembers.
const MEMORY: usize = 30;

/// How a path is sought.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Spring constant, eV/Å².
    pub spring: f64,
    /// Largest force on an atom, of those that act on the band, at which it has converged, eV/Å.
    pub tolerance: f64,
    /// Steps at most.
    pub steps: u64,
    /// Whether the highest image climbs.
    pub climb: bool,
    /// It does once forces are below this, eV/Å.
    pub climb_below: f64,
    /// What moves the band.
    pub method: Method,
    /// Atoms that do not move.
    pub fixed: Vec<usize>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { spring: 1.0, tolerance: 0.05, steps: 500, climb: true, climb_below: 0.5, method: Method::default(), fixed: Vec::new() }
    }
}

/// One image of a band.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Image {
    positions: Vec<[f64; 3]>,
    energy: f64,
    forces: Vec<[f64; 3]>,
}

/// All that a band needs to go on: numbers as they are, to the bit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Saved {
    images: Vec<Image>,
    optimiser: optimiser::Optimiser,
    climbing: Option<usize>,
    step: u64,
}

/// A band of images.
#[derive(Debug, Clone)]
pub struct Band {
    settings: Settings,
    structures: Vec<Structure>,
    saved: Saved,
    forces: Vec<Vec<[f64; 3]>>,
    tangents: Vec<Vec<[f64; 3]>>,
}

fn normalised(mut v: Vec<[f64; 3]>) -> Vec<[f64; 3]> {
    let norm = dot(&v, &v).sqrt();
    if norm > 0.0 {
        v.as_flattened_mut().iter_mut().for_each(|x| *x /= norm);
    }
    v
}

fn combined(a: f64, u: &[[f64; 3]], b: f64, v: &[[f64; 3]]) -> Vec<[f64; 3]> {
    u.iter().zip(v).map(|(x, y)| [0, 1, 2].map(|k| a * x[k] + b * y[k])).collect()
}

/// Tangents half-way between the directions to both neighbours; at the ends, to the only one.
fn bisecting_tangents(positions: &[Vec<[f64; 3]>]) -> Vec<Vec<[f64; 3]>> {
    let steps: Vec<_> = positions.windows(2).map(|p| normalised(difference(&p[1], &p[0]))).collect();
    (0..positions.len())
        .map(|k| match (k.checked_sub(1).map(|b| &steps[b]), steps.get(k)) {
            (Some(back), Some(forward)) => normalised(combined(1.0, back, 1.0, forward)),
            (Some(only), None) | (None, Some(only)) => only.clone(),
            (None, None) => Vec::new(),
        })
        .collect()
}

/// Tangents towards the neighbour of higher energy; a mixture of both at extrema (Henkelman and Jónsson 2000, equations 8 to 11).
fn improved_tangents(positions: &[Vec<[f64; 3]>], energies: &[f64]) -> Vec<Vec<[f64; 3]>> {
    let mut tangents = bisecting_tangents(positions);
    for k in 1..positions.len().saturating_sub(1) {
        let (back, forward) = (difference(&positions[k], &positions[k - 1]), difference(&positions[k + 1], &positions[k]));
        let (before, here, after) = (energies[k - 1], energies[k], energies[k + 1]);
        let tangent = if after > here && here > before {
            forward
        } else if after < here && here < before {
            back
        } else {
            let (a, b) = ((after - here).abs(), (before - here).abs());
            let (most, least) = (a.max(b), a.min(b));
            if after > before { combined(most, &forward, least, &back) } else { combined(least, &forward, most, &back) }
        };
        if dot(&tangent, &tangent) > 0.0 {
            tangents[k] = normalised(tangent);
        }
    }
    tangents
}

/// The forces that act on a band: across the path those of the potential, along it springs; on the climbing image the force with its part along the path turned round.
fn project(
    positions: &[Vec<[f64; 3]>],
    forces: &[Vec<[f64; 3]>],
    tangents: &[Vec<[f64; 3]>],
    spring: f64,
    climbing: Option<usize>,
) -> Vec<Vec<[f64; 3]>> {
    let mut projected: Vec<Vec<[f64; 3]>> = forces.iter().map(|f| vec![[0.0; 3]; f.len()]).collect();
    for k in 1..positions.len().saturating_sub(1) {
        let along = dot(&forces[k], &tangents[k]);
        let pull = if climbing == Some(k) {
            -2.0 * along
        } else {
            let distance = |a: usize, b: usize| {
                let d = difference(&positions[a], &positions[b]);
                dot(&d, &d).sqrt()
            };
            spring * (distance(k + 1, k) - distance(k, k - 1)) - along
        };
        projected[k] = combined(1.0, &forces[k], pull, &tangents[k]);
    }
    projected
}

impl Band {
    /// A band of images, the ends first and last, all evaluated. Positions are continuous along it, as [`path::linear`] and [`path::continuous`] make them.
    ///
    /// # Errors
    /// If there are no images between the ends, settings make no sense, or an image cannot be evaluated.
    pub fn new(structures: Vec<Structure>, settings: Settings, field: &mut dyn ForceField) -> Result<Self, SimulateError> {
        check(&structures, &settings)?;
        let evaluations = evaluate(&structures, 0, field)?;
        let image = |(structure, evaluation): (&Structure, Evaluation)| Image {
            positions: structure.positions.clone(),
            energy: evaluation.energy,
            forces: without(evaluation.forces, &settings.fixed),
        };
        let images = structures.iter().zip(evaluations).map(image).collect();
        let optimiser = settings.method.begin();
        Self::restore(structures, settings, Saved { images, optimiser, climbing: None, step: 0 })
    }

    /// The band that was saved; of `structures` all counts but positions.
    ///
    /// # Errors
    /// If they do not belong together.
    pub fn restore(mut structures: Vec<Structure>, settings: Settings, saved: Saved) -> Result<Self, SimulateError> {
        check(&structures, &settings)?;
        let fits = saved.images.len() == structures.len()
            && saved.images.iter().zip(&structures).all(|(i, s)| i.positions.len() == s.len() && i.forces.len() == s.len());
        if !fits {
            return Err(SimulateError::input("the saved band has other images or atoms", "start anew, without --resume"));
        }
        for (structure, image) in structures.iter_mut().zip(&saved.images) {
            structure.positions.clone_from(&image.positions);
        }
        let mut band = Self { settings, structures, saved, forces: Vec::new(), tangents: Vec::new() };
        band.act();
        Ok(band)
    }

    /// All that is needed to go on.
    pub fn save(&self) -> &Saved {
        &self.saved
    }

    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.saved.step
    }

    /// The images, ends included.
    pub fn structures(&self) -> &[Structure] {
        &self.structures
    }

    /// Largest force on an atom of those that act on the band, eV/Å.
    pub fn largest_force(&self) -> f64 {
        self.forces.iter().map(|f| longest(f)).fold(0.0, f64::max)
    }

    /// The climbing image, if one does.
    pub fn climbing(&self) -> Option<usize> {
        self.saved.climbing
    }

    /// Highest energy along the band less that of its start, eV.
    pub fn height(&self) -> f64 {
        self.energies().into_iter().fold(f64::NEG_INFINITY, f64::max) - self.saved.images[0].energy
    }

    /// True if forces are small enough, and the highest image has climbed if it is to.
    pub fn converged(&self) -> bool {
        let climbs = !self.settings.climb || self.saved.climbing.is_some() || self.highest().is_none();
        climbs && self.largest_force() < self.settings.tolerance
    }

    /// True if there is nothing left to do: converged, or out of steps.
    pub fn finished(&self) -> bool {
        self.converged() || self.saved.step >= self.settings.steps
    }

    fn energies(&self) -> Vec<f64> {
        self.saved.images.iter().map(|i| i.energy).collect()
    }

    /// The image of highest energy, if it is none of the ends.
    fn highest(&self) -> Option<usize> {
        let energies = self.energies();
        let highest = (0..energies.len()).max_by(|&a, &b| energies[a].total_cmp(&energies[b]))?;
        (highest > 0 && highest + 1 < energies.len()).then_some(highest)
    }

    /// Forces on the band as it is.
    fn act(&mut self) {
        let positions: Vec<Vec<[f64; 3]>> = self.structures.iter().map(|s| s.positions.clone()).collect();
        let forces: Vec<Vec<[f64; 3]>> = self.saved.images.iter().map(|i| i.forces.clone()).collect();
        self.tangents = improved_tangents(&positions, &self.energies());
        self.forces = project(&positions, &forces, &self.tangents, self.settings.spring, self.saved.climbing);
    }

    /// One step: the band moves, and all images between the ends are evaluated together.
    ///
    /// # Errors
    /// If an image cannot be evaluated.
    pub fn step(&mut self, field: &mut dyn ForceField) -> Result<(), SimulateError> {
        let climbing = match self.saved.climbing {
            None if self.settings.climb && self.largest_force() < self.settings.climb_below.max(self.settings.tolerance) => self.highest(),
            None => None,
            Some(_) => self.highest(),
        };
        if climbing != self.saved.climbing {
            self.saved.climbing = climbing;
            self.act();
            // What was learnt belongs to other forces.
            self.saved.optimiser = self.settings.method.begin();
        }
        let last = self.structures.len() - 1;
        let atoms = self.structures[0].len();
        let mut x: Vec<[f64; 3]> = self.structures[1..last].iter().flat_map(|s| s.positions.iter()).copied().collect();
        let gradient = gradient(&self.forces[1..last]);
        if self.saved.optimiser.step(&mut x, None, &gradient, None).is_err() {
            // Forces on a band are no derivatives of anything, so that quasi-Newton steps may find no way: dynamics does.
            self.saved.optimiser = Method::Fire.begin();
            self.saved.optimiser.step(&mut x, None, &gradient, None).ok();
        }
        for (structure, x) in self.structures[1..last].iter_mut().zip(x.chunks(atoms)) {
            structure.positions.copy_from_slice(x);
        }
        self.saved.step += 1;
        let evaluations = evaluate(&self.structures[1..last], self.saved.step, field)?;
        for ((image, structure), evaluation) in self.saved.images[1..last].iter_mut().zip(&self.structures[1..last]).zip(evaluations) {
            image.positions.clone_from(&structure.positions);
            image.energy = evaluation.energy;
            image.forces = without(evaluation.forces, &self.settings.fixed);
        }
        self.act();
        Ok(())
    }

    /// The path as it is.
    pub fn path(&self) -> Path {
        let mut distance = 0.0;
        let images: Vec<Point> = (0..self.structures.len())
            .map(|k| {
                if k > 0 {
                    let step = difference(&self.structures[k].positions, &self.structures[k - 1].positions);
                    distance += dot(&step, &step).sqrt();
                }
                let image = &self.saved.images[k];
                Point {
                    distance,
                    energy: image.energy,
                    slope: -dot(&image.forces, &self.tangents[k]),
                    largest_force: longest(&image.forces),
                    band_force: longest(&self.forces[k]),
                }
            })
            .collect();
        Path { saddle: self.highest(), climbed: self.saved.climbing.is_some(), converged: self.converged(), steps: self.saved.step, images }
    }

    /// The images with their energies and forces, under ASE's names, and their distance along the path.
    pub fn labelled(&self) -> Vec<Structure> {
        let path = self.path();
        let label = |((structure, image), point): ((&Structure, &Image), &Point)| {
            let mut structure = structure.clone();
            structure.info.clear();
            structure.set_energy(image.energy);
            structure.set_forces(&image.forces);
            structure.info.insert("path_distance".to_owned(), point.distance.into());
            structure
        };
        self.structures.iter().zip(&self.saved.images).zip(&path.images).map(label).collect()
    }
}

/// Forces of images, one after another, as a gradient.
fn gradient(forces: &[Vec<[f64; 3]>]) -> Vec<[f64; 3]> {
    forces.iter().flatten().map(|f| f.map(|x| -x)).collect()
}

fn without(mut forces: Vec<[f64; 3]>, fixed: &[usize]) -> Vec<[f64; 3]> {
    for &atom in fixed {
        forces[atom] = [0.0; 3];
    }
    forces
}

/// What can be said against images and settings before anything is computed.
///
/// # Errors
/// If there are no images between the ends, they do not belong together, or settings make no sense.
pub fn check(structures: &[Structure], settings: &Settings) -> Result<(), SimulateError> {
    if structures.len() < 3 {
        return Err(SimulateError::input("there is no image between the ends", "ask for at least one"));
    }
    path::check_ends(&structures[0], &structures[structures.len() - 1], &settings.fixed)?;
    if let Some(k) = structures.iter().position(|s| s.numbers != structures[0].numbers) {
        return Err(SimulateError::input(
            format!("image {k} has other atoms than the first"),
            "all images need the same atoms in the same order",
        ));
    }
    for (name, value) in [
        ("the spring constant", settings.spring),
        ("the tolerance of forces", settings.tolerance),
        ("the force below which to climb", settings.climb_below),
    ] {
        if !(value > 0.0 && value.is_finite()) {
            return Err(SimulateError::input(format!("{name} is {value}"), "give a positive number"));
        }
    }
    Ok(())
}

fn evaluate(structures: &[Structure], step: u64, field: &mut dyn ForceField) -> Result<Vec<Evaluation>, SimulateError> {
    let results = field.evaluate_many(structures);
    let mut evaluations = Vec::with_capacity(structures.len());
    for (k, result) in results.into_iter().enumerate() {
        // In a step the first image is not among them.
        let name = format!("step {step}, image {}", if step > 0 { k + 1 } else { k });
        let evaluation = result.map_err(SimulateError::force(&name))?;
        if !evaluation.energy.is_finite() || evaluation.forces.as_flattened().iter().any(|x| !x.is_finite()) {
            return Err(SimulateError::input(
                format!("{name}: energy or forces are not finite"),
                "look at this image: atoms may be too close",
            ));
        }
        evaluations.push(evaluation);
    }
    Ok(evaluations)
}

/// One image of a path.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Point {
    /// Length of the path up to here, in the space of all atoms, Å.
    pub distance: f64,
    /// Energy, eV.
    pub energy: f64,
    /// dE/ds along the path, eV/Å.
    pub slope: f64,
    /// Largest force of the potential on an atom, eV/Å.
    pub largest_force: f64,
    /// Largest force on an atom that acts on the band, eV/Å: zero at convergence.
    pub band_force: f64,
}

/// A path and its barrier.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Path {
    /// The images, ends included.
    pub images: Vec<Point>,
    /// The highest image; `None` if that is an end, and there is no barrier.
    pub saddle: Option<usize>,
    /// True if it has climbed: it is then the saddle point, not one image near it.
    pub climbed: bool,
    /// True if forces are as small as was asked for.
    pub converged: bool,
    /// Steps taken.
    pub steps: u64,
}

impl Path {
    fn ends(&self) -> (f64, f64) {
        let energy = |p: Option<&Point>| p.map_or(f64::NAN, |p| p.energy);
        (energy(self.images.first()), energy(self.images.last()))
    }

    fn top(&self) -> f64 {
        self.images.iter().map(|p| p.energy).fold(f64::NEG_INFINITY, f64::max)
    }

    /// Energy of the highest image less that of the start, eV.
    pub fn barrier(&self) -> f64 {
        self.top() - self.ends().0
    }

    /// Energy of the highest image less that of the end, eV.
    pub fn barrier_back(&self) -> f64 {
        self.top() - self.ends().1
    }

    /// Energy of the end less that of the start, eV.
    pub fn reaction_energy(&self) -> f64 {
        self.ends().1 - self.ends().0
    }

    /// The profile between images: cubic through energies and slopes, `points` values of (distance, energy) between two images.
    pub fn profile(&self, points: usize) -> Vec<(f64, f64)> {
        let mut profile = Vec::new();
        for pair in self.images.windows(2) {
            let (a, b) = (&pair[0], &pair[1]);
            let width = b.distance - a.distance;
            for n in 0..points {
                let t = n as f64 / points as f64;
                profile.push((a.distance + t * width, hermite(t, a.energy, b.energy, a.slope * width, b.slope * width)));
            }
        }
        profile.extend(self.images.last().map(|p| (p.distance, p.energy)));
        profile
    }

    /// The top of that profile less the energy of the start, eV: what an image that has not climbed says of the barrier.
    pub fn interpolated_barrier(&self) -> f64 {
        self.profile(200).into_iter().map(|p| p.1).fold(f64::NEG_INFINITY, f64::max) - self.ends().0
    }
}

/// The cubic with values `a`, `b` and slopes `da`, `db` at 0 and 1.
fn hermite(t: f64, a: f64, b: f64, da: f64, db: f64) -> f64 {
    let (t2, t3) = (t * t, t * t * t);
    (2.0 * t3 - 3.0 * t2 + 1.0) * a + (t3 - 2.0 * t2 + t) * da + (3.0 * t2 - 2.0 * t3) * b + (t3 - t2) * db
}
