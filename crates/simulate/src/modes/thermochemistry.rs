//! Thermodynamics of an ideal gas of rigid rotors and harmonic oscillators (D. A. McQuarrie, Statistical Mechanics, 1976, chapters 5 to 8).

use serde::Serialize;
use tesseral_atoms::units::{ATOMIC_MASS_KG, BOLTZMANN, ELEMENTARY_CHARGE};

use super::{Modes, masses};
use crate::constants::PLANCK;
use crate::error::SimulateError;

/// What the gas is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Gas {
    /// Temperature, K.
    pub temperature: f64,
    /// Pressure, eV/Å³.
    pub pressure: f64,
    /// Rotations that leave the molecule as it is: 1 for HCl, 2 for water, 12 for methane.
    pub symmetry_number: u32,
    /// Spin multiplicity 2 S + 1 of the electrons.
    pub multiplicity: u32,
}

impl Gas {
    /// Whether the numbers make sense.
    ///
    /// # Errors
    /// If one is not positive.
    pub fn check(&self) -> Result<(), SimulateError> {
        let positive = |x: f64| x > 0.0 && x.is_finite();
        if positive(self.temperature) && positive(self.pressure) && self.symmetry_number > 0 && self.multiplicity > 0 {
            return Ok(());
        }
        Err(SimulateError::input(
            "temperature, pressure, symmetry number and multiplicity need to be positive",
            "298.15 K and 1 bar are usual",
        ))
    }
}

/// Thermodynamic functions of a molecule: eV, eV/K.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Thermochemistry {
    /// Zero-point energy.
    pub zero_point: f64,
    /// Internal energy above the minimum of the potential, zero-point energy included.
    pub internal_energy: f64,
    /// Enthalpy above it: internal energy + k_B T.
    pub enthalpy: f64,
    /// Entropy.
    pub entropy: f64,
    /// Heat capacity at constant volume.
    pub heat_capacity: f64,
    /// Gibbs energy above the minimum, enthalpy − T S.
    pub gibbs_energy: f64,
}

/// Thermodynamic functions of a molecule as an ideal gas. Imaginary frequencies are left out.
///
/// # Errors
/// If the structure is periodic, has fixed atoms, or numbers make no sense.
pub fn ideal_gas(modes: &Modes, gas: &Gas) -> Result<Thermochemistry, SimulateError> {
    let structure = &modes.structure;
    let atoms = structure.len();
    let rotations = match (atoms, modes.linear) {
        (1, _) => 0,
        (_, true) => 2,
        _ => 3,
    };
    if structure.is_periodic() || modes.modes.len() != 3 * atoms - 3 - rotations {
        return Err(SimulateError::input("an ideal gas is made of free molecules", "give one that is not periodic, with no atom fixed"));
    }
    let t = gas.temperature;
    gas.check()?;
    let kt = BOLTZMANN * t;
    let mass: f64 = masses(structure)?.iter().sum();
    // 2π m k_B T / h², 1/Å², for a mass in u; with a moment of inertia in u Å², a pure number.
    let wave = std::f64::consts::TAU * ATOMIC_MASS_KG * kt / (PLANCK * PLANCK * ELEMENTARY_CHARGE) * 1e-20;
    let translation = (mass * wave).powf(1.5) * kt / gas.pressure;
    let mut entropy = translation.ln() + 2.5 + f64::from(gas.multiplicity).ln();
    let mut capacity = 1.5;
    let sigma = f64::from(gas.symmetry_number);
    // 8π² I k_B T / h² = 4π · wave · I.
    let rotation = modes.moments.map(|i| 4.0 * std::f64::consts::PI * wave * i);
    match rotations {
        2 => {
            entropy += (rotation[2] / sigma).ln() + 1.0;
            capacity += 1.0;
        }
        3 => {
            entropy += (std::f64::consts::PI.sqrt() * rotation.iter().product::<f64>().sqrt() / sigma).ln() + 1.5;
            capacity += 1.5;
        }
        _ => {}
    }
    let mut energy = capacity * kt;
    for quantum in modes.modes.iter().map(super::Mode::quantum).filter(|q| *q > 0.0) {
        let x = quantum / kt;
        let occupation = 1.0 / x.exp_m1();
        energy += quantum * (0.5 + occupation);
        entropy += x * occupation - (-(-x).exp_m1()).ln();
        // x² eˣ/(eˣ − 1)² = (x/2 / sinh(x/2))².
        capacity += if x < 1000.0 { (0.5 * x / (0.5 * x).sinh()).powi(2) } else { 0.0 };
    }
    let (entropy, enthalpy) = (entropy * BOLTZMANN, energy + kt);
    Ok(Thermochemistry {
        zero_point: modes.zero_point_energy(),
        internal_energy: energy,
        enthalpy,
        entropy,
        heat_capacity: capacity * BOLTZMANN,
        gibbs_energy: enthalpy - t * entropy,
    })
}
