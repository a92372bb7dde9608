//! What is learnt from a trajectory while it runs: distribution functions, diffusion, spectra.
//!
//! All of it is sums over samples, so that it can be saved and go on: a run that was interrupted has the same results as one that was not. Samples are equally spaced in
//! time.

mod correlation;
mod radial;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use tesseral_atoms::{Structure, elements};

use crate::error::SimulateError;
use crate::trajectory::Snapshot;
use correlation::Correlation;
pub use correlation::{Curves, Diffusion, Spectrum, diffusion, spectrum};
pub use radial::{Pair, Radial, RadialSettings};

/// How often something is sampled, and over which times it is correlated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Steps between samples.
    pub every: u64,
    /// Lags: 0, 1, … this less one, in samples.
    pub lags: usize,
    /// Samples between time origins.
    pub spacing: usize,
}

/// What is analysed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct Settings {
    /// Radial distribution functions.
    pub radial: Option<RadialSettings>,
    /// Mean square displacement.
    pub displacement: Option<Window>,
    /// Velocity autocorrelation, and vibrational density of states.
    pub velocity: Option<Window>,
}

impl Settings {
    /// What suits a run of so many steps of so many fs: distributions up to 10 Å or half the smallest height of the cell, of 500 samples; displacements up to half the run;
    /// velocities every 2 fs up to 2 ps (a resolution of about 0.5 THz) or half the run.
    pub fn for_run(structure: &Structure, steps: u64, time_step: f64) -> Self {
        let radial = RadialSettings::for_structure(structure, 10.0).map(|radial| RadialSettings { every: (steps / 500).max(10), ..radial });
        let window = |every: u64, most: u64, origins: usize| {
            let lags = (steps / every / 2).min(most) as usize + 1;
            (lags > 2).then_some(Window { every, lags, spacing: (lags / origins).max(1) })
        };
        let fine = ((2.0 / time_step).floor() as u64).max(1);
        let picoseconds = (2000.0 / (fine as f64 * time_step)).round() as u64;
        Self { radial, displacement: window((steps / 400).max(1), 200, 10), velocity: window(fine, picoseconds, 8) }
    }
}

/// Atoms of one element.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Species {
    /// Chemical symbol.
    pub symbol: String,
    /// Indices.
    pub atoms: Vec<usize>,
}

/// The elements of a structure by atomic number, with their atoms.
pub(crate) fn species_of(structure: &Structure) -> Vec<Species> {
    let mut present: Vec<u8> = structure.numbers.clone();
    present.sort_unstable();
    present.dedup();
    let of = |z: u8| Species {
        symbol: elements::symbol(z).unwrap_or("X").to_owned(),
        atoms: (0..structure.len()).filter(|&i| structure.numbers[i] == z).collect(),
    };
    present.into_iter().map(of).collect()
}

/// Everything that is analysed of one trajectory. It can be saved at any time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Analysis {
    settings: Settings,
    species: Vec<Species>,
    radial: Option<Radial>,
    displacement: Option<Correlation>,
    velocity: Option<Correlation>,
}

impl Analysis {
    /// Nothing sampled yet.
    pub fn new(settings: Settings, structure: &Structure) -> Self {
        let species = species_of(structure);
        Self {
            radial: settings.radial.map(|radial| Radial::new(radial, &species)),
            displacement: settings.displacement.map(|window| Correlation::new(window, species.len())),
            velocity: settings.velocity.map(|window| Correlation::new(window, species.len())),
            species,
            settings,
        }
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The elements.
    pub fn species(&self) -> &[Species] {
        &self.species
    }

    /// Takes what is due of the moment after `steps` steps of equal length.
    ///
    /// # Errors
    /// If distances cannot be computed.
    pub fn sample(&mut self, steps: u64, at: &Snapshot<'_>) -> Result<(), SimulateError> {
        if let Some(radial) = self.radial.as_mut().filter(|radial| steps.is_multiple_of(radial.settings().every)) {
            radial.sample(at.structure)?;
        }
        let species = &self.species;
        if let Some(displacement) = self.displacement.as_mut().filter(|c| steps.is_multiple_of(c.window().every)) {
            let square = |now: &[f64; 3], then: &[f64; 3]| (0..3).map(|k| (now[k] - then[k]).powi(2)).sum::<f64>();
            displacement.sample(&at.structure.positions, |s, origin| {
                species[s].atoms.iter().map(|&i| square(&at.structure.positions[i], &origin[i])).sum()
            });
        }
        if let Some(velocity) = self.velocity.as_mut().filter(|c| steps.is_multiple_of(c.window().every)) {
            velocity.sample(at.velocities, |s, origin| {
                species[s].atoms.iter().map(|&i| at.masses[i] * (0..3).map(|k| at.velocities[i][k] * origin[i][k]).sum::<f64>()).sum()
            });
        }
        Ok(())
    }

    /// Radial distribution functions; `None` where they are not asked for or nothing was sampled.
    pub fn radial(&self) -> Option<Vec<Pair>> {
        self.radial.as_ref().and_then(|radial| radial.pairs(&self.species))
    }

    /// Mean square displacements, Å², over time, fs (`time_step`: of a step, fs): of all atoms, then of each element.
    pub fn mean_square_displacement(&self, time_step: f64) -> Option<Curves> {
        let counts: Vec<f64> = self.species.iter().map(|s| s.atoms.len() as f64).collect();
        let sums = self.displacement.as_ref()?.means(time_step)?;
        let total = counts.iter().sum::<f64>();
        let all = (0..sums.time.len()).map(|lag| sums.each.iter().map(|of| of[lag]).sum::<f64>() / total).collect();
        let each = sums.each.iter().zip(&counts).map(|(of, n)| of.iter().map(|x| x / n).collect()).collect();
        Some(Curves { time: sums.time, all, each })
    }

    /// Velocity autocorrelation Σ m ⟨v(0)·v(t)⟩, eV, over time, fs: of all atoms, then of each element. At t = 0 it is twice the kinetic energy.
    pub fn velocity_autocorrelation(&self, time_step: f64) -> Option<Curves> {
        let sums = self.velocity.as_ref()?.means(time_step)?;
        let all = (0..sums.time.len()).map(|lag| sums.each.iter().map(|of| of[lag]).sum::<f64>()).collect();
        Some(Curves { time: sums.time, all, each: sums.each })
    }

    /// The vibrational density of states, of integral `degrees_of_freedom`: of all atoms, then of each element.
    pub fn density_of_states(&self, time_step: f64, degrees_of_freedom: f64) -> Option<(Spectrum, Vec<Spectrum>)> {
        let correlation = self.velocity_autocorrelation(time_step)?;
        let interval = correlation.time.get(1)? - correlation.time[0];
        let at_zero = correlation.all[0];
        if at_zero <= 0.0 {
            return None;
        }
        let of = |values: &[f64]| spectrum(values, interval, degrees_of_freedom / at_zero);
        let each = correlation.each.par_iter().map(|values| of(values)).collect();
        Some((of(&correlation.all), each))
    }
}

#[cfg(test)]
mod tests;
