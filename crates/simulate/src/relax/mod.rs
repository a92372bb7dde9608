//! Relaxation: structures on their way to a minimum of the energy, or of the enthalpy where the cell moves too.
//!
//! [`relax`] takes one structure there. [`Relaxation`] is the same in steps, for many structures that are evaluated together ([`advance`]) and for runs that can be saved between
//! any two evaluations; [`run`] is such a run, with its files; [`optimiser`] holds the minimisers alone, for anything else with rows of coordinates.
//!
//! ```
//! use tesseral_atoms::{Cell, Structure};
//! use tesseral_simulate::analytic::{Ending, LennardJones};
//! use tesseral_simulate::relax::{CellFreedom, Settings, relax};
//!
//! // Face-centred cubic argon, one atom, 5 % too wide. Without a cutoff, a = 1.5417 σ.
//! let a = 5.5;
//! let h = a / 2.0;
//! let argon = Structure::crystal(Cell::new([[0.0, h, h], [h, 0.0, h], [h, h, 0.0]]), vec![18], vec![[0.0; 3]]);
//! let mut field = LennardJones::new(0.0104, 3.4, 17.0, Ending::ShiftedForce);
//! let settings = Settings { cell: CellFreedom::Full, max_stress: 1e-8, ..Settings::default() };
//! let relaxed = relax(&argon, &settings, &[], &mut field)?;
//! assert!(relaxed.ended().unwrap().is_converged());
//! assert!((relaxed.structure().cell.volume() - (1.5417 * 3.4f64).powi(3) / 4.0).abs() < 0.2);
//! # Ok::<(), tesseral_simulate::SimulateError>(())
//! ```

mod freedom;
pub mod optimiser;
mod relaxation;
pub mod run;
mod symmetry;

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};
use tesseral_atoms::{ForceField, Structure};

pub use freedom::{CellFreedom, Coordinates, Gradient, StrainMask, project, strain_component};
pub use relaxation::{Ended, Relaxation, Saved, Summary};
pub use symmetry::{Symmetry, space_group};

use crate::error::SimulateError;
use optimiser::{Fire, FireVersion, Lbfgs, Optimiser};

/// A minimiser.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Method {
    /// L-BFGS; of periodic structures, preconditioned where the cell is fixed or there are more atoms than [`PRECONDITIONED_FROM`]. (Measured: in small cells that move,
    /// springs between atoms know too little of strains to save steps. A molecule that is free to turn would be turned far by noise of its forces, which no spring resists.)
    #[default]
    Auto,
    /// L-BFGS.
    Lbfgs,
    /// L-BFGS with the preconditioner [`optimiser::Exponential`].
    PreconditionedLbfgs,
    /// FIRE with the corrections of 2020 (FIRE 2.0), which save about a third of the steps.
    Fire,
    /// FIRE as it was published in 2006.
    Fire2006,
}

/// More atoms than this, and [`Method::Auto`] is preconditioned though the cell moves.
pub const PRECONDITIONED_FROM: usize = 100;

/// How to relax.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// The minimiser.
    pub method: Method,
    /// Converged when no force along what may move is larger, eV/Å.
    pub max_force: f64,
    /// Where the cell moves: converged when no component of the stress beyond that of the pressure is larger, eV/Å³.
    pub max_stress: f64,
    /// Steps before it ends unconverged. One more evaluation than that.
    pub steps: u64,
    /// How far an atom may move in one step, Å.
    pub max_step: f64,
    /// How the cell may change.
    pub cell: CellFreedom,
    /// Components of the logarithmic strain that may change.
    pub strain_mask: StrainMask,
    /// Pressure on the cell, eV/Å³.
    pub pressure: f64,
    /// Keep the space group that is found within this tolerance, Å.
    pub symmetry: Option<f64>,
}

impl Default for Settings {
    /// Atoms alone, to 0.01 eV/Å.
    fn default() -> Self {
        Self {
            method: Method::Auto,
            max_force: 0.01,
            max_stress: 0.1 * tesseral_atoms::units::GPA,
            steps: 500,
            max_step: 0.2,
            cell: CellFreedom::Fixed,
            strain_mask: [true; 6],
            pressure: 0.0,
            symmetry: None,
        }
    }
}

impl Settings {
    /// Whether the settings make sense.
    ///
    /// # Errors
    /// [`SimulateError::Input`].
    pub fn check(&self) -> Result<(), SimulateError> {
        let positive = |name: &str, value: f64| {
            if value > 0.0 && value.is_finite() {
                Ok(())
            } else {
                Err(SimulateError::input(format!("{name} is {value}"), "it has to be positive"))
            }
        };
        positive("the force to converge to", self.max_force)?;
        positive("the stress to converge to", self.max_stress)?;
        positive("the largest step", self.max_step)?;
        if let Some(tolerance) = self.symmetry {
            positive("the tolerance of symmetry", tolerance)?;
        }
        if !self.pressure.is_finite() {
            return Err(SimulateError::input(format!("the pressure is {}", self.pressure), "give a number"));
        }
        if self.pressure != 0.0 && !self.cell.moves() {
            return Err(SimulateError::input(
                "a pressure means nothing where the cell is fixed",
                "let the cell move, or leave the pressure out",
            ));
        }
        if self.pressure != 0.0 && self.cell == CellFreedom::FixedVolume {
            return Err(SimulateError::input(
                "a pressure means nothing at a fixed volume",
                "let the volume change, or leave the pressure out",
            ));
        }
        Ok(())
    }

    /// The minimiser for a structure, and whether it is preconditioned.
    fn optimiser(&self, structure: &Structure) -> (Optimiser, bool) {
        match self.method {
            Method::Fire2006 => (Optimiser::Fire(Fire::new(FireVersion::Bitzek, self.max_step)), false),
            Method::Fire => (Optimiser::Fire(Fire::new(FireVersion::Guenole, self.max_step)), false),
            Method::Lbfgs => (Optimiser::Lbfgs(Lbfgs::new(MEMORY, self.max_step)), false),
            Method::PreconditionedLbfgs => (Optimiser::Lbfgs(Lbfgs::new(MEMORY, self.max_step)), true),
            Method::Auto => {
                let preconditioned = structure.is_periodic() && (!self.cell.moves() || structure.len() > PRECONDITIONED_FROM);
                (Optimiser::Lbfgs(Lbfgs::new(MEMORY, self.max_step)), preconditioned)
            }
        }
    }
}

/// Steps that L-BFGS remembers.
const MEMORY: usize = 50;

/// Relaxes a structure. `movable` says for each atom which Cartesian coordinates may move; empty, all may.
///
/// That it did not converge is no error: [`Relaxation::ended`] says how it ended.
///
/// # Errors
/// Settings that make no sense, or with which the structure cannot be relaxed.
pub fn relax(
    structure: &Structure,
    settings: &Settings,
    movable: &[[bool; 3]],
    field: &mut dyn ForceField,
) -> Result<Relaxation, SimulateError> {
    let mut relaxation = Relaxation::new(structure.clone(), settings.clone(), movable.to_vec())?;
    while relaxation.ended().is_none() {
        relaxation.step(field);
    }
    Ok(relaxation)
}

/// Evaluates, together, all relaxations that have not ended, and takes one step of each. Returns how many have not ended then.
pub fn advance(relaxations: &mut [Relaxation], field: &mut dyn ForceField) -> usize {
    let structures: Vec<Structure> = relaxations.iter().filter(|r| r.ended().is_none()).map(|r| r.bare()).collect();
    if structures.is_empty() {
        return 0;
    }
    let results = field.evaluate_many(&structures);
    for (relaxation, result) in relaxations.iter_mut().filter(|r| r.ended().is_none()).zip(results) {
        match result {
            Ok(evaluation) => relaxation.complete(evaluation),
            Err(error) => relaxation.fail(&error),
        }
    }
    relaxations.iter().filter(|r| r.ended().is_none()).count()
}
