//! What a run is at a step, and what is said of it.

use serde::Serialize;
use tesseral_atoms::units::{ATOMIC_MASS_KG, BOLTZMANN};
use tesseral_atoms::{Evaluation, Structure};

use crate::matrix::{self, Matrix};

/// Atoms in motion.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    /// Steps made.
    pub step: u64,
    /// Time passed, fs.
    pub time: f64,
    /// Positions (never wrapped) and cell. Under a barostat positions follow the strain of the cell, about the origin.
    pub structure: Structure,
    /// Velocities, √(eV/u).
    pub velocities: Vec<[f64; 3]>,
    /// Masses, u.
    pub masses: Vec<f64>,
    /// Energy, forces and stress of the structure.
    pub evaluation: Evaluation,
}

impl State {
    /// ½ Σ m v², eV.
    pub fn kinetic_energy(&self) -> f64 {
        self.velocities.iter().zip(&self.masses).map(|(v, m)| 0.5 * m * (v[0] * v[0] + v[1] * v[1] + v[2] * v[2])).sum()
    }

    /// The temperature of the kinetic energy, 2 K / (N_f k_B), K.
    pub fn temperature(&self, degrees_of_freedom: f64) -> f64 {
        2.0 * self.kinetic_energy() / (degrees_of_freedom * BOLTZMANN)
    }

    /// Σ m v ⊗ v, eV.
    pub fn kinetic_tensor(&self) -> [[f64; 3]; 3] {
        let mut sum = [0.0; 6];
        for (v, m) in self.velocities.iter().zip(&self.masses) {
            let p = v.map(|x| m * x);
            for (s, x) in sum.iter_mut().zip([p[0] * v[0], p[1] * v[1], p[2] * v[2], p[1] * v[2], p[2] * v[0], p[0] * v[1]]) {
                *s += x;
            }
        }
        let [xx, yy, zz, yz, zx, xy] = sum;
        [[xx, xy, zx], [xy, yy, yz], [zx, yz, zz]]
    }

    /// The stress of the forces, symmetrised; `None` if the structure has none.
    pub(super) fn potential_stress(&self) -> Option<Matrix> {
        self.evaluation.stress.map(|stress| matrix::symmetric(&stress))
    }

    /// The stress with the momentum that atoms carry, σ − Σ m v ⊗ v / V, eV/Å³, positive when tensile; `None` if the force field gives none.
    pub fn stress(&self) -> Option<[[f64; 3]; 3]> {
        let volume = self.structure.cell.volume();
        self.potential_stress().map(|stress| matrix::plus(&stress, -1.0 / volume, &self.kinetic_tensor()))
    }

    /// −tr σ / 3 of [`Self::stress`], eV/Å³.
    pub fn pressure(&self) -> Option<f64> {
        self.stress().map(|stress| -matrix::trace(&stress) / 3.0)
    }

    /// g/cm³; `None` without a volume.
    pub fn density(&self) -> Option<f64> {
        // u/Å³ in g/cm³.
        let unit = ATOMIC_MASS_KG * 1e3 / 1e-24;
        (self.structure.pbc == [true; 3]).then(|| self.masses.iter().sum::<f64>() / self.structure.cell.volume() * unit)
    }

    /// Σ |F|², (eV/Å)²: over ∇²U and k_B it is the temperature of the configuration.
    pub fn squared_forces(&self) -> f64 {
        self.evaluation.forces.iter().flatten().map(|f| f * f).sum()
    }
}

/// Thermodynamics of one step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Thermo {
    /// Steps made.
    pub step: u64,
    /// Time passed, fs.
    pub time: f64,
    /// Temperature of the kinetic energy, K.
    pub temperature: f64,
    /// What the thermostat aims at, K; `None` without one.
    pub target_temperature: Option<f64>,
    /// Potential energy, eV.
    pub potential: f64,
    /// Kinetic energy, eV.
    pub kinetic: f64,
    /// Their sum, eV.
    pub total: f64,
    /// What the equations of motion conserve, eV: see [`super::Dynamics::conserved`].
    pub conserved: f64,
    /// Pressure with the part of the momentum, GPa.
    pub pressure: Option<f64>,
    /// What the barostat aims at, GPa; `None` without one.
    pub target_pressure: Option<f64>,
    /// Stress with the part of the momentum, GPa, positive when tensile: xx, yy, zz, yz, zx, xy.
    pub stress: Option<[f64; 6]>,
    /// Volume, Å³, of what is periodic in three directions.
    pub volume: Option<f64>,
    /// Lattice vectors, rows, Å.
    pub cell: [[f64; 3]; 3],
    /// Density, g/cm³.
    pub density: Option<f64>,
}
