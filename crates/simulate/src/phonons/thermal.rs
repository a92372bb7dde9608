//! Thermal properties of harmonic crystals.

use tesseral_atoms::units::{AVOGADRO, BOLTZMANN, ELEMENTARY_CHARGE, KJ_PER_MOL};

use super::mesh::Sample;
use crate::constants::PLANCK;

/// Planck's constant times 1 THz, eV.
pub const PLANCK_THZ: f64 = PLANCK * 1e12;

/// Helmholtz free energy, entropy and heat capacity of one primitive cell at a temperature.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Thermal {
    /// K.
    pub temperature: f64,
    /// Free energy of the vibrations, zero-point energy included, eV.
    pub free_energy: f64,
    /// Entropy, eV/K.
    pub entropy: f64,
    /// Heat capacity at constant volume, eV/K.
    pub heat_capacity: f64,
}

impl Thermal {
    /// Free energy in kJ per mole of primitive cells.
    pub fn free_energy_kj_per_mol(&self) -> f64 {
        self.free_energy / KJ_PER_MOL
    }

    /// Entropy in J/(K mol), of primitive cells.
    pub fn entropy_j_per_k_mol(&self) -> f64 {
        self.entropy * ELEMENTARY_CHARGE * AVOGADRO
    }

    /// Heat capacity in J/(K mol), of primitive cells.
    pub fn heat_capacity_j_per_k_mol(&self) -> f64 {
        self.heat_capacity * ELEMENTARY_CHARGE * AVOGADRO
    }
}

/// Frequencies below this are no vibrations, THz: imaginary ones, and the acoustic modes at Γ.
pub const CUTOFF: f64 = 1e-4;

/// Thermal properties of independent oscillators (Born & Huang, Dynamical Theory of Crystal Lattices, §16): with x = hν/k_B T, F = Σ ½hν + k_B T ln(1 − e^−x), S = k_B Σ
/// x/(eˣ − 1) − ln(1 − e^−x), C_V = k_B Σ x² eˣ/(eˣ − 1)². Sums run over the modes of the sample above [`CUTOFF`] with the weights of their points.
pub fn thermal(sample: &Sample, temperature: f64) -> Thermal {
    let (mut free_energy, mut entropy, mut heat_capacity) = (0.0, 0.0, 0.0);
    for (weight, frequencies) in sample.weights.iter().zip(&sample.frequencies) {
        let (mut f, mut s, mut c) = (0.0, 0.0, 0.0);
        for &frequency in frequencies.iter().filter(|f| **f > CUTOFF) {
            let energy = PLANCK_THZ * frequency;
            f += energy / 2.0;
            if temperature > 0.0 {
                let x = energy / (BOLTZMANN * temperature);
                // e^−x, and 1 − e^−x with all its digits where x is small.
                let (decay, rest) = ((-x).exp(), -(-x).exp_m1());
                f += BOLTZMANN * temperature * rest.ln();
                s += x * decay / rest - rest.ln();
                c += x * x * decay / (rest * rest);
            }
        }
        free_energy += weight * f;
        entropy += weight * BOLTZMANN * s;
        heat_capacity += weight * BOLTZMANN * c;
    }
    Thermal { temperature, free_energy, entropy, heat_capacity }
}

/// Zero-point energy of one primitive cell, eV: Σ ½hν.
pub fn zero_point_energy(sample: &Sample) -> f64 {
    thermal(sample, 0.0).free_energy
}

/// The part of all modes of the sample that have no frequency above [`CUTOFF`] and so do not count in thermal properties.
pub fn left_out(sample: &Sample) -> f64 {
    let all = sample.frequencies.first().map_or(1, Vec::len) as f64;
    sample.weights.iter().zip(&sample.frequencies).map(|(w, f)| w * f.iter().filter(|f| **f <= CUTOFF).count() as f64 / all).sum()
}
