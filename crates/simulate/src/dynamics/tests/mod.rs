//! Dynamics against what is known of it: analytic distributions, published state points, conservation laws.

mod canonical;
mod conservation;
mod input;
mod isobaric;
mod liquid;
mod restart;

use tesseral_atoms::units::{BOLTZMANN, FEMTOSECOND};
use tesseral_atoms::{Cell, Evaluation, ForceError, ForceField, Structure};

use super::{Dynamics, Ensemble, Ramp, Settings};
use crate::analytic::{EinsteinCrystal, Ending, LennardJones};

/// Settings in reduced units: masses of argon, k_B T, ε and σ are 1 (in u, eV, Å). `step` is the time step in Å√(u/eV).
fn reduced(ensemble: Ensemble, temperature: f64, step: f64) -> Settings {
    Settings {
        ensemble,
        temperature: Ramp::constant(temperature / BOLTZMANN),
        time_step: fs(step),
        masses: [("Ar".to_owned(), 1.0)].into(),
        seed: 1,
        ..Settings::default()
    }
}

/// A reduced time in fs.
fn fs(time: f64) -> f64 {
    time / FEMTOSECOND
}

/// A face-centred cubic crystal of 4 · times³ atoms at a density (1/Å³).
fn fcc(times: usize, density: f64) -> Structure {
    let a = (4.0 / density).cbrt();
    let mut positions = Vec::new();
    for (x, y, z) in (0..times).flat_map(|x| (0..times).flat_map(move |y| (0..times).map(move |z| (x as f64, y as f64, z as f64)))) {
        for (dx, dy, dz) in [(0.0, 0.0, 0.0), (0.0, 0.5, 0.5), (0.5, 0.0, 0.5), (0.5, 0.5, 0.0)] {
            positions.push([x + dx, y + dy, z + dz].map(|s| s * a));
        }
    }
    Structure::crystal(Cell::cubic(times as f64 * a), vec![18; positions.len()], positions)
}

/// Lennard-Jones with ε = σ = 1, ending smoothly at 2.5 σ.
fn lennard_jones() -> LennardJones {
    LennardJones::new(1.0, 1.0, 2.5, Ending::ShiftedForce)
}

/// So many atoms on springs, each at its anchor.
fn einstein(atoms: usize, stiffness: f64) -> (Structure, EinsteinCrystal) {
    let anchors: Vec<[f64; 3]> = (0..atoms).map(|i| [10.0 * i as f64, 1.0, -2.0]).collect();
    (Structure::molecule(vec![18; atoms], anchors.clone()), EinsteinCrystal { stiffness, anchors })
}

/// An ideal gas in a cell whose vectors are springs: U = ½ k Σ |h|², stress k hᵀh / V. Without a spring only the gas is left.
struct SpringCell {
    stiffness: f64,
}

impl ForceField for SpringCell {
    fn evaluate_into(&mut self, structure: &Structure, to: &mut Evaluation) -> Result<(), ForceError> {
        let h = structure.cell.vectors;
        to.forces.clear();
        to.forces.resize(structure.len(), [0.0; 3]);
        to.energy = 0.5 * self.stiffness * h.iter().flatten().map(|x| x * x).sum::<f64>();
        let volume = structure.cell.volume();
        to.stress = Some([0, 1, 2].map(|k| [0, 1, 2].map(|l| self.stiffness / volume * h.iter().map(|v| v[k] * v[l]).sum::<f64>())));
        Ok(())
    }
}

/// Every kind of ensemble, with reduced times.
fn ensembles() -> Vec<(&'static str, Ensemble)> {
    let mut all = vec![
        ("nve", Ensemble::Nve),
        ("langevin", Ensemble::Langevin { friction: 1.0 / fs(2.0) }),
        ("nose-hoover", Ensemble::NoseHoover { time: fs(0.3), chain: 3 }),
        ("bussi", Ensemble::Bussi { time: fs(0.5) }),
    ];
    all.extend(barostats());
    all
}

fn barostats() -> Vec<(&'static str, Ensemble)> {
    let stochastic = |anisotropic| Ensemble::StochasticCell { time: fs(0.5), barostat_time: fs(1.0), compressibility: 0.05, anisotropic };
    let extended = |anisotropic| Ensemble::Mtk { time: fs(0.5), barostat_time: fs(1.0), anisotropic };
    vec![
        ("stochastic cell", stochastic(false)),
        ("stochastic cell, anisotropic", stochastic(true)),
        ("martyna-tobias-klein", extended(false)),
        ("martyna-tobias-klein, anisotropic", extended(true)),
    ]
}

fn run(dynamics: &mut Dynamics, field: &mut dyn ForceField, steps: usize) {
    for _ in 0..steps {
        dynamics.step(field).unwrap();
    }
}

/// Mean of correlated samples and its standard error, from the scatter of 20 blocks.
fn mean(samples: &[f64]) -> (f64, f64) {
    let blocks: Vec<f64> = samples.chunks_exact(samples.len() / 20).map(|block| block.iter().sum::<f64>() / block.len() as f64).collect();
    let n = blocks.len() as f64;
    let mean = blocks.iter().sum::<f64>() / n;
    let variance = blocks.iter().map(|b| (b - mean).powi(2)).sum::<f64>() / (n - 1.0);
    (mean, (variance / n).sqrt())
}

/// Asserts that the mean of samples is what it should be: within five standard errors, which must be below a share of the value for the test to say anything. (Rounding differs
/// between mathematical libraries, and with it the samples of chaotic motion.)
#[track_caller]
fn assert_mean(what: &str, samples: &[f64], expected: f64, largest_error: f64) {
    let (found, error) = mean(samples);
    eprintln!("{what}: {found:.6} ± {error:.6}, expected {expected:.6} ({:+.1} standard errors)", (found - expected) / error);
    assert!(error < largest_error * expected.abs(), "{what}: a standard error of {error} says too little of {expected}");
    assert!((found - expected).abs() < 5.0 * error, "{what}: {found} ± {error}, but {expected} was expected");
}

/// The mean and variance of samples of a gamma distribution of a shape and scale.
#[track_caller]
fn assert_gamma(what: &str, samples: &[f64], shape: f64, scale: f64, largest_error: f64) {
    let centre = shape * scale;
    assert_mean(&format!("{what}, mean"), samples, centre, largest_error);
    let squares: Vec<f64> = samples.iter().map(|x| (x - centre).powi(2)).collect();
    assert_mean(&format!("{what}, variance"), &squares, shape * scale * scale, 6.0 * largest_error);
}
