//! Chains of Nosé–Hoover thermostats.

use serde::{Deserialize, Serialize};

/// A chain of thermostats on some degrees of freedom (Martyna, Klein and Tuckerman, J. Chem. Phys. 97, 2635 (1992)): the first has the mass Q₁ = N k_B T τ², the others
/// k_B T τ², with the temperature of the start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Chain {
    /// Degrees of freedom that it acts on, N.
    degrees: f64,
    /// Into how many parts a time is divided before the splitting.
    parts: u32,
    /// Masses Q, eV·(Å√(u/eV))².
    masses: Vec<f64>,
    /// Velocities of the thermostats, 1/(Å√(u/eV)).
    pub(super) velocities: Vec<f64>,
    /// ∫ k_B T (N dξ₁ + dξ₂ + …), eV: what went into the bath.
    absorbed: f64,
}

/// Weights of Suzuki's fourth-order splitting (Phys. Lett. A 146, 319 (1990)): p, p, 1 − 4p, p, p with p = 1/(4 − ∛4).
const P: f64 = 0.414_490_771_794_375_74;
const WEIGHTS: [f64; 5] = [P, P, 1.0 - 4.0 * P, P, P];

impl Chain {
    /// A chain at rest. `kt` in eV, `time` in Å√(u/eV).
    pub(super) fn new(length: usize, degrees: f64, kt: f64, time: f64) -> Self {
        let masses = (0..length).map(|k| if k == 0 { degrees } else { 1.0 } * kt * time * time).collect();
        // Where many atoms begin far from equilibrium (a perfect crystal loses half its kinetic energy at once), the first thermostat drives the second hard. Of 200 oscillators that
        // begin in phase the conserved energy loses 30 k_B T an atom with one part, 0.005 k_B T with eight, which cost microseconds a step.
        let parts = (degrees / 16.0).ceil().clamp(1.0, 8.0) as u32;
        Self { degrees, parts, masses, velocities: vec![0.0; length], absorbed: 0.0 }
    }

    /// Lets the chain act for some time on degrees of freedom with a kinetic energy (eV); the factor of their velocities. The splitting is that of Martyna, Tuckerman, Tobias
    /// and Klein (Mol. Phys. 87, 1117 (1996), eqs. 29 and 30).
    pub(super) fn propagate(&mut self, kinetic: f64, kt: f64, time: f64) -> f64 {
        let last = self.masses.len() - 1;
        let (mut scale, mut twice) = (1.0, 2.0 * kinetic);
        for weight in (0..self.parts).flat_map(|_| WEIGHTS) {
            let dt = weight * time / f64::from(self.parts);
            let pull = |chain: &Self, k: usize, twice: f64| match k {
                0 => (twice - chain.degrees * kt) / chain.masses[0],
                _ => (chain.masses[k - 1] * chain.velocities[k - 1].powi(2) - kt) / chain.masses[k],
            };
            self.velocities[last] += 0.5 * dt * pull(self, last, twice);
            for k in (0..last).rev() {
                let friction = (-0.25 * dt * self.velocities[k + 1]).exp();
                self.velocities[k] = (self.velocities[k] * friction + 0.5 * dt * pull(self, k, twice)) * friction;
            }
            let factor = (-dt * self.velocities[0]).exp();
            scale *= factor;
            twice *= factor * factor;
            self.absorbed += dt * kt * (self.degrees * self.velocities[0] + self.velocities[1..].iter().sum::<f64>());
            for k in 0..last {
                let friction = (-0.25 * dt * self.velocities[k + 1]).exp();
                self.velocities[k] = (self.velocities[k] * friction + 0.5 * dt * pull(self, k, twice)) * friction;
            }
            self.velocities[last] += 0.5 * dt * pull(self, last, twice);
        }
        scale
    }

    /// What the chain adds to the conserved energy, eV.
    pub(super) fn energy(&self) -> f64 {
        self.absorbed + self.masses.iter().zip(&self.velocities).map(|(q, v)| 0.5 * q * v * v).sum::<f64>()
    }
}
