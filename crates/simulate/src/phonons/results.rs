//! Everything that follows from force constants, in one go.

use rayon::prelude::*;

use super::crystal::Crystal;
use super::dos::DensityOfStates;
use super::dynamical::{DynamicalMatrix, Modes};
use super::force_constants::{Drift, ForceConstants};
use super::mesh::{Mesh, Sample};
use super::modes::commensurate;
use super::paths::{BandPath, PathPoint, SpecialPoint};
use super::phonopy::ForceSets;
use super::supercell::Supercell;
use super::thermal::{Thermal, thermal};
use crate::error::SimulateError;

/// Frequencies above minus this, THz, count as zero rather than as imaginary: acoustic modes near Γ come out a little off.
pub const IMAGINARY_BELOW: f64 = 0.05;

/// What is to be computed.
#[derive(Debug, Clone, PartialEq)]
pub struct Wishes {
    /// The path of the bands.
    pub path: BandPath,
    /// Points on a line of average length.
    pub points_per_line: usize,
    /// The mesh of densities of states and thermal properties.
    pub mesh: Mesh,
    /// Bins of the density of states.
    pub bins: usize,
    /// Temperatures, K.
    pub temperatures: Vec<f64>,
}

/// A mode with an imaginary frequency: the energy falls along it.
#[derive(Debug, Clone, PartialEq)]
pub struct ImaginaryMode {
    /// The wave vector, with the name of the point if it has one.
    pub point: SpecialPoint,
    /// Number of the mode at this wave vector, from 0.
    pub mode: usize,
    /// The frequency, THz, negative.
    pub frequency: f64,
    /// The eigenvector as in [`Modes`].
    pub eigenvector: Vec<[f64; 2]>,
    /// Whether the wave vector fits into the supercell, so that the frequency is not interpolated.
    pub fits: bool,
}

/// Phonons of a crystal.
#[derive(Debug, Clone)]
pub struct Phonons {
    /// The force constants, symmetrised.
    pub force_constants: ForceConstants,
    /// How well they kept their rules before.
    pub drift: Drift,
    /// What gives frequencies at any wave vector.
    pub dynamical: DynamicalMatrix,
    /// Points along the path.
    pub path: Vec<PathPoint>,
    /// Frequencies at each of them, THz.
    pub bands: Vec<Vec<f64>>,
    /// The named points of the path with their modes, Γ first.
    pub special: Vec<(SpecialPoint, Modes)>,
    /// Frequencies on the mesh.
    pub sample: Sample,
    /// The density of states, total and of each atom of the primitive cell.
    pub dos: DensityOfStates,
    /// Thermal properties at the temperatures asked for.
    pub thermal: Vec<Thermal>,
    /// Imaginary modes at named points and at those that fit into the supercell, lowest first.
    pub imaginary: Vec<ImaginaryMode>,
}

impl Phonons {
    /// From the forces of displaced supercells.
    ///
    /// # Errors
    /// As [`ForceConstants::fit`].
    pub fn new(crystal: &Crystal, supercell: &Supercell, sets: &ForceSets, wishes: &Wishes) -> Result<Self, SimulateError> {
        let mut force_constants = ForceConstants::fit(crystal, supercell, &sets.displacements, &sets.forces)?;
        let drift = force_constants.drift(crystal, supercell);
        force_constants.symmetrise(crystal, supercell);
        let dynamical = DynamicalMatrix::new(crystal, supercell, &force_constants);
        let path = wishes.path.points(crystal, wishes.points_per_line);
        let bands = path.par_iter().map(|p| dynamical.frequencies(p.q)).collect::<Result<Vec<_>, _>>()?;
        let mut named = wishes.path.special_points();
        // Γ comes first, whether the path visits it or not.
        let gamma = named.iter().position(|p| p.q == [0.0; 3]);
        let gamma = gamma.map_or_else(|| SpecialPoint { label: "Γ".to_owned(), q: [0.0; 3] }, |k| named.remove(k));
        named.insert(0, gamma);
        let special: Vec<(SpecialPoint, Modes)> =
            named.into_par_iter().map(|p| Ok((p.clone(), dynamical.modes(p.q)?))).collect::<Result<_, SimulateError>>()?;
        let sample = wishes.mesh.sample(crystal, &dynamical, true)?;
        let dos = DensityOfStates::new(crystal, &sample, wishes.bins);
        let thermal = wishes.temperatures.iter().map(|t| thermal(&sample, *t)).collect();
        let imaginary = imaginary(crystal, supercell, &dynamical, &special)?;
        Ok(Self { force_constants, drift, dynamical, path, bands, special, sample, dos, thermal, imaginary })
    }
}

fn imaginary(
    crystal: &Crystal,
    supercell: &Supercell,
    dynamical: &DynamicalMatrix,
    special: &[(SpecialPoint, Modes)],
) -> Result<Vec<ImaginaryMode>, SimulateError> {
    let near = |a: [f64; 3], b: [f64; 3], sign: f64| {
        (0..3).all(|k| {
            let d = a[k] - sign * b[k];
            (d - d.round()).abs() < 1e-6
        })
    };
    let fitting = commensurate(crystal, supercell);
    let fits = |q: [f64; 3]| fitting.iter().any(|f| near(q, *f, 1.0) || near(q, *f, -1.0));
    let mut all: Vec<(SpecialPoint, Modes, bool)> = special.iter().map(|(p, m)| (p.clone(), m.clone(), fits(p.q))).collect();
    let others: Vec<[f64; 3]> =
        fitting.iter().copied().filter(|f| !special.iter().any(|(p, _)| near(p.q, *f, 1.0) || near(p.q, *f, -1.0))).collect();
    let modes = others.par_iter().map(|q| dynamical.modes(*q)).collect::<Result<Vec<_>, _>>()?;
    all.extend(others.into_iter().zip(modes).map(|(q, m)| (SpecialPoint { label: String::new(), q }, m, true)));
    let mut found: Vec<ImaginaryMode> = Vec::new();
    for (point, modes, fits) in all {
        for (mode, (frequency, eigenvector)) in modes.frequencies.iter().zip(&modes.eigenvectors).enumerate() {
            if *frequency < -IMAGINARY_BELOW {
                found.push(ImaginaryMode { point: point.clone(), mode, frequency: *frequency, eigenvector: eigenvector.clone(), fits });
            }
        }
    }
    found.sort_by(|a, b| a.frequency.total_cmp(&b.frequency));
    Ok(found)
}
