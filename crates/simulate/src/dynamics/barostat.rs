//! Cells that change.

use serde::{Deserialize, Serialize};
use tesseral_atoms::Cell;

use super::chain::Chain;
use super::random::Random;
use crate::error::SimulateError;
use crate::matrix::{self, Matrix, diagonal, plus, row_times, scaled, trace};

/// The largest strain of a cell in one step: beyond it a barostat is out of control, and the series of matrix functions would lose digits.
const LARGEST_STRAIN: f64 = 0.1;

/// An error where a strain is larger than can be meant.
pub(super) fn check_strain(strain: &Matrix, step: u64) -> Result<(), SimulateError> {
    if matrix::largest(strain) < LARGEST_STRAIN {
        return Ok(());
    }
    Err(SimulateError::input(
        format!("step {step}: the barostat would strain the cell by more than {} % in one step", LARGEST_STRAIN * 100.0),
        "begin from a relaxed cell, take a longer barostat time (for stochastic cell rescaling a smaller compressibility) or a shorter time step",
    ))
}

/// Strains positions and cell by a symmetric matrix e, r ← r · e.
pub(super) fn strain_positions(positions: &mut [[f64; 3]], cell: &mut Cell, by: &Matrix) {
    positions.iter_mut().for_each(|r| *r = row_times(*r, by));
    cell.vectors.iter_mut().for_each(|v| *v = row_times(*v, by));
}

/// The motion of the cell in the extended system of Martyna, Tuckerman, Tobias and Klein (Mol. Phys. 87, 1117 (1996), section 2), in the formulation of Tuckerman, Alejandre,
/// López-Rendón, Jochim and Martyna (J. Phys. A 39, 5629 (2006)).
///
/// The matrix v_g of the rate of strain obeys W dv_g/dt = V (P_int − P) + (2K/N_f) 1, with P_int = Σ m v ⊗ v / V − σ. Stresses are symmetric, and so v_g stays symmetric: the
/// cell strains without turning, its six degrees of freedom are those of the strain. A volume alone has one, v_g = v_ε 1, driven by the mean of the diagonal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Extended {
    /// v_g, 1/(Å√(u/eV)).
    pub(super) rate: Matrix,
    /// W = (N_f + 3) k_B T τ² / 3 with the temperature of the start, eV·(Å√(u/eV))².
    pub(super) mass: f64,
    /// The thermostats of the cell.
    pub(super) chain: Chain,
    anisotropic: bool,
}

impl Extended {
    /// A cell at rest. `kt` in eV, `time` in Å√(u/eV).
    pub(super) fn new(degrees: f64, kt: f64, time: f64, anisotropic: bool) -> Self {
        let own = if anisotropic { 6.0 } else { 1.0 };
        Self { rate: diagonal(0.0), mass: (degrees + 3.0) * kt * time * time / 3.0, chain: Chain::new(3, own, kt, time), anisotropic }
    }

    /// ½ W tr v_g², eV.
    pub(super) fn kinetic_energy(&self) -> f64 {
        0.5 * self.mass * matrix::contraction(&self.rate, &self.rate)
    }

    /// Drives the cell for some time. `kinetic` is Σ m v ⊗ v (eV), `stress` that of the forces, symmetric (eV/Å³).
    pub(super) fn kick(&mut self, kinetic: &Matrix, stress: &Matrix, volume: f64, pressure: f64, degrees: f64, time: f64) {
        let force = plus(&plus(kinetic, -volume, stress), 1.0, &diagonal(trace(kinetic) / degrees - volume * pressure));
        let force = if self.anisotropic { force } else { diagonal(trace(&force) / 3.0) };
        self.rate = plus(&self.rate, time / self.mass, &force);
    }

    /// v_g + tr v_g / N_f, the friction of the atoms.
    pub(super) fn friction(&self, degrees: f64) -> Matrix {
        plus(&self.rate, 1.0, &diagonal(trace(&self.rate) / degrees))
    }
}

/// The settings of stochastic cell rescaling for one step, in internal units.
pub(super) struct Rescaling {
    pub(super) kt: f64,
    pub(super) pressure: f64,
    /// Compressibility over relaxation time, times the time step: 1/(eV/Å³).
    pub(super) rate: f64,
    pub(super) anisotropic: bool,
}

impl Rescaling {
    /// The strain of one step, a symmetric matrix.
    ///
    /// The volume follows Bernetti and Bussi (J. Chem. Phys. 153, 114107 (2020), eq. 8), whose noise is additive in λ = √V:
    /// dλ = −(β λ / 2τ) (P − P_int − k_B T / 2V) dt + √(β k_B T / 2τ) dW.
    /// The shape follows the anisotropic equation of Del Tatto, Raiteri, Bernetti and Bussi (Appl. Sci. 12, 1139 (2022)): with s the deviator of the strain,
    /// ds = (β / 3τ) dev(P_int) dt + √(2 β k_B T / 3 V τ) dev(dW).
    /// Noise and P_int are symmetric, so that the cell is never turned: energies do not depend on its orientation, and the process of lengths and angles is the same. The cell
    /// follows h ← h exp(ε), which makes the noise that of Stratonovich; its stationary density is that of volume and shape at constant pressure, V⁻² exp(−(U + PV)/k_B T) d⁹h.
    ///
    /// `internal` is P_int with the part of the momentum, symmetric, eV/Å³.
    pub(super) fn strain(&self, internal: &Matrix, volume: f64, random: &mut Random) -> Matrix {
        let mean = trace(internal) / 3.0;
        let root = volume.sqrt();
        let drift = -0.5 * self.rate * root * (self.pressure - mean - 0.5 * self.kt / volume);
        let moved = root + drift + (0.5 * self.rate * self.kt).sqrt() * random.normal();
        // A third of the change of ln V; NaN, which is refused later, where no volume is left.
        let isotropic = diagonal(2.0 / 3.0 * (moved / root).ln());
        if !self.anisotropic {
            return isotropic;
        }
        let ([xx, yy, zz], off) = (random.normals(), random.normals());
        let half = std::f64::consts::FRAC_1_SQRT_2;
        let noise = [[xx, half * off[2], half * off[1]], [half * off[2], yy, half * off[0]], [half * off[1], half * off[0], zz]];
        let deviator = |m: &Matrix| plus(m, -trace(m) / 3.0, &diagonal(1.0));
        // The noise of the shape depends on the volume, which it does not change: the volume half way.
        let amplitude = (2.0 * self.rate * self.kt / (3.0 * root * moved)).sqrt();
        plus(&plus(&isotropic, 1.0, &scaled(&deviator(internal), self.rate / 3.0)), amplitude, &deviator(&noise))
    }
}
