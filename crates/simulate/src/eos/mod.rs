//! Equations of state: energies of a crystal at scaled volumes, and the bulk modulus that they give.
//!
//! The cell is scaled alike in all directions; fractional coordinates stay, or atoms are relaxed, or atoms and the cell's shape at its volume. Crystals whose shape changes under pressure
//! are stiffer where it is kept than they are at constant pressure.

mod forms;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};
use tesseral_atoms::{Cell, ForceField, Structure};

pub use forms::{Form, Parameters};

use crate::error::SimulateError;
use crate::fit;
use crate::settle::{Internal, Job, Ledger, Tick, settle};

/// What is computed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Smallest and largest volume, over that of the structure.
    pub range: [f64; 2],
    /// Number of volumes, evenly spaced.
    pub points: usize,
    /// How atoms (and the shape of the cell) are relaxed; `None` keeps fractional coordinates.
    pub internal: Option<Internal>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { range: [0.92, 1.08], points: 9, internal: None }
    }
}

/// The crystal at one volume.
#[derive(Debug, Clone)]
pub struct Point {
    /// Volume, Å³.
    pub volume: f64,
    /// Energy, eV.
    pub energy: f64,
    /// Pressure −tr σ/3, eV/Å³.
    pub pressure: Option<f64>,
    /// Largest force on an atom, eV/Å.
    pub largest_force: f64,
    /// False if atoms were to be relaxed and are not.
    pub converged: bool,
    /// Disagreement of a committee: energy (eV), force (eV/Å).
    pub spread: Option<[f64; 2]>,
    /// The crystal.
    pub structure: Structure,
}

/// A form of the equation of state fitted to energies.
#[derive(Debug, Clone, Serialize)]
pub struct Fit {
    /// The form.
    pub form: Form,
    /// Its parameters.
    pub parameters: Parameters,
    /// Their standard errors, by the scatter of the energies around the fit; none for four energies.
    pub errors: Option<Parameters>,
    /// Root mean square deviation of the energies, eV.
    pub rmse: f64,
    /// Root mean square difference of pressures, −dE/dV of the fit less −tr σ/3 of the potential, eV/Å³.
    pub pressure_rmse: Option<f64>,
}

impl Fit {
    /// What makes the fit doubtful, in words.
    pub fn doubts(&self, points: &[Point]) -> Vec<String> {
        let volumes = || points.iter().map(|p| p.volume);
        let (smallest, largest) = (volumes().fold(f64::INFINITY, f64::min), volumes().fold(0.0, f64::max));
        let p = &self.parameters;
        let mut doubts = Vec::new();
        if !(smallest..=largest).contains(&p.volume) {
            doubts.push(format!("the minimum, {:.3} Å³, is outside the volumes computed, {smallest:.3} to {largest:.3} Å³", p.volume));
        }
        if p.bulk_modulus <= 0.0 {
            doubts.push("the bulk modulus is not positive".to_owned());
        }
        if !(1.0..=12.0).contains(&p.derivative) {
            doubts.push(format!("the derivative of the bulk modulus, {:.2}, is unusual (2 to 8 is usual)", p.derivative));
        }
        doubts
    }
}

/// Energies and fits.
#[derive(Debug, Clone)]
pub struct EquationOfState {
    /// By volume.
    pub points: Vec<Point>,
    /// Of every form that could be fitted.
    pub fits: Vec<Fit>,
}

/// What can be said against settings and a structure before anything is computed.
///
/// # Errors
/// If the structure is not periodic in three directions, or there are too few volumes.
pub fn check(structure: &Structure, settings: &Settings) -> Result<(), SimulateError> {
    if structure.pbc != [true; 3] {
        return Err(SimulateError::input(
            "an equation of state needs a crystal that is periodic in three directions",
            "give a bulk structure with a cell, pbc=\"T T T\"",
        ));
    }
    structure.validate()?;
    let [low, high] = settings.range;
    if !(low > 0.2 && high < 5.0 && high - low > 1e-4) {
        return Err(SimulateError::input(
            format!("volumes from {low} to {high}: two different factors between 0.2 and 5 are needed"),
            "0.92 to 1.08 is usual",
        ));
    }
    if settings.points < 5 {
        return Err(SimulateError::input(format!("{} volumes for four parameters", settings.points), "give at least 5"));
    }
    if let Some(internal) = settings.internal.filter(|i| !(i.tolerance > 0.0 && i.tolerance.is_finite())) {
        return Err(SimulateError::input(
            format!("a tolerance of {} eV/Å for forces", internal.tolerance),
            "give a positive number, such as 0.001",
        ));
    }
    Ok(())
}

/// A crystal whose volume is `factor` times what it was.
pub fn scaled(structure: &Structure, factor: f64) -> Structure {
    let mut result = structure.clone();
    let s = factor.cbrt();
    result.positions.iter_mut().for_each(|r| *r = r.map(|x| x * s));
    result.cell = Cell::new(structure.cell.vectors.map(|v| v.map(|x| x * s)));
    result
}

/// Energies at scaled volumes and what is fitted to them; `None` if `tick` has ended the computation.
///
/// # Errors
/// As [`check`], or if a structure cannot be evaluated or the ledger not be written.
pub fn equation_of_state(
    structure: &Structure,
    settings: &Settings,
    field: &mut dyn ForceField,
    ledger: &mut Ledger,
    tick: Tick<'_>,
) -> Result<Option<EquationOfState>, SimulateError> {
    check(structure, settings)?;
    let [low, high] = settings.range;
    let jobs: Vec<Job> = (0..settings.points)
        .map(|index| {
            let factor = low + (high - low) * index as f64 / (settings.points - 1) as f64;
            Job { index, name: format!("volume {} of {}", index + 1, settings.points), structure: scaled(structure, factor) }
        })
        .collect();
    if !settle(&jobs, settings.internal.as_ref(), &[], field, ledger, tick)? {
        return Ok(None);
    }
    let points: Vec<Point> = jobs
        .into_iter()
        .filter_map(|job| {
            let settled = ledger.get(job.index)?.clone();
            let mut structure = job.structure;
            structure.positions = settled.positions;
            structure.cell = Cell::new(settled.cell);
            Some(Point {
                volume: structure.cell.volume(),
                energy: settled.energy,
                pressure: settled.stress.map(|s| -(s[0][0] + s[1][1] + s[2][2]) / 3.0),
                largest_force: settled.largest_force,
                converged: settled.converged,
                spread: settled.spread,
                structure,
            })
        })
        .collect();
    let energies: Vec<(f64, f64)> = points.iter().map(|p| (p.volume, p.energy)).collect();
    let fits = Form::ALL.into_iter().filter_map(|form| {
        let mut fit = fit(form, &energies)?;
        let pressures: Option<Vec<f64>> = points.iter().map(|p| Some(p.pressure? - form.pressure(p.volume, &fit.parameters))).collect();
        fit.pressure_rmse = pressures.map(|d| (d.iter().map(|x| x * x).sum::<f64>() / d.len() as f64).sqrt());
        Some(fit)
    });
    let fits = fits.collect();
    Ok(Some(EquationOfState { points, fits }))
}

/// Fits a form to energies (eV) at volumes (Å³), by least squares. `None` if they have no minimum near the volumes.
pub fn fit(form: Form, energies: &[(f64, f64)]) -> Option<Fit> {
    let start = birch_murnaghan(energies)?.array();
    // Energies are measured from their minimum, so that their large constant part costs no digits.
    let least = energies.iter().map(|p| p.1).fold(f64::INFINITY, f64::min);
    let shifted: Vec<(f64, f64)> = energies.iter().map(|&(v, e)| (v, e - least)).collect();
    let width = energies.iter().map(|p| p.1).fold(f64::NEG_INFINITY, f64::max) - least;
    let mut start = start;
    start[0] -= least;
    if start[0].abs() < 1e-3 * width {
        // The scale of steps of this parameter.
        start[0] = 1e-3 * width;
    }
    let fitted = fit::nonlinear(&shifted, start, |v, p| form.energy(v, &Parameters::from_array(*p)))?;
    let mut parameters = Parameters::from_array(fitted.parameters);
    parameters.energy += least;
    (parameters.volume > 0.0).then_some(Fit {
        form,
        parameters,
        errors: fitted.errors.map(Parameters::from_array),
        rmse: fitted.rmse,
        pressure_rmse: None,
    })
}

/// The Birch–Murnaghan equation by linear least squares: in y = V^(−⅔) the energy is a polynomial of third degree. Its minimum gives V₀, its second and third derivatives B₀ and B₀′.
fn birch_murnaghan(energies: &[(f64, f64)]) -> Option<Parameters> {
    let middle = energies.iter().map(|p| p.0).sum::<f64>() / energies.len() as f64;
    let least = energies.iter().map(|p| p.1).fold(f64::INFINITY, f64::min);
    // Around the middle, so that powers do not cancel.
    let points: Vec<(f64, f64)> = energies.iter().map(|&(v, e)| ((v / middle).powf(-2.0 / 3.0) - 1.0, e - least)).collect();
    let c = fit::polynomial(&points, 3)?;
    // dE/dy = c1 + 2 c2 y + 3 c3 y² = 0, the root where E curves up.
    let discriminant = 4.0 * c[2].powi(2) - 12.0 * c[3] * c[1];
    if discriminant.is_nan() || discriminant < 0.0 {
        return None;
    }
    let y = -2.0 * c[1] / (2.0 * c[2] + discriminant.sqrt());
    let x = 1.0 + y;
    if !(x > 0.0 && x.is_finite()) {
        return None;
    }
    let volume = middle * x.powf(-1.5);
    // With z = y + 1 = (V/middle)^(−⅔): dz/dV = −(2/3) z/V; at the minimum E″ = (4/9) z² E_zz / V², and so on.
    let (second, third) = (2.0 * c[2] + 6.0 * c[3] * y, 6.0 * c[3]);
    let curvature = 4.0 / 9.0 * x * x * second / volume.powi(2);
    // d³E/dV³ = E_zzz z′³ + 3 E_zz z′ z″ with z″ = (10/9) z/V².
    let cubic = -8.0 / 27.0 * x.powi(3) * third / volume.powi(3) - 3.0 * second * (2.0 / 3.0) * (10.0 / 9.0) * x * x / volume.powi(3);
    (curvature > 0.0).then_some(Parameters {
        energy: least + fit::value(&c, y),
        volume,
        bulk_modulus: volume * curvature,
        derivative: -1.0 - volume * cubic / curvature,
    })
}
