//! Radial distribution functions.

use serde::{Deserialize, Serialize};
use tesseral_atoms::Structure;
use tesseral_atoms::neighbors::neighbor_list;

use super::Species;
use crate::error::SimulateError;

/// How distances are counted.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RadialSettings {
    /// Å
    pub r_max: f64,
    /// Bins up to that distance.
    pub bins: usize,
    /// Steps between samples.
    pub every: u64,
}

impl RadialSettings {
    /// Bins of 0.05 Å up to `r_max` or half the smallest height of the cell, beyond which an atom is counted with its own images; every step. `None` for what is not periodic in
    /// three directions: it has no density.
    pub fn for_structure(structure: &Structure, r_max: f64) -> Option<Self> {
        let half = structure.cell.heights().into_iter().fold(f64::INFINITY, f64::min) / 2.0;
        let r_max = r_max.min(half);
        (structure.pbc == [true; 3] && r_max > 0.0).then(|| Self { r_max, bins: ((r_max / 0.05).round() as usize).max(1), every: 1 })
    }
}

/// Histograms of distances, of each pair of elements.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Radial {
    settings: RadialSettings,
    /// Species of each atom.
    species: Vec<u32>,
    samples: u64,
    /// Ordered pairs [centre's species ≤ neighbour's][bin], of all samples.
    counts: Vec<u64>,
    /// The same times the volume of their sample, Å³.
    weighted: Vec<f64>,
}

/// The distribution of one pair of elements.
#[derive(Debug, Clone, PartialEq)]
pub struct Pair {
    /// "Si–O".
    pub name: String,
    /// Middles of the bins, Å.
    pub r: Vec<f64>,
    /// g(r) = ⟨V n_ab(r)⟩ / (N_a N_b v(r)) with n_ab the ordered pairs in a shell of volume v (Allen and Tildesley, Computer Simulation of Liquids, 2nd ed., 2.94): for an
    /// ideal gas 1, less 1/N_a where a = b.
    pub g: Vec<f64>,
    /// Neighbours of the second element around an atom of the first up to the end of each bin.
    pub coordination: Vec<f64>,
}

/// Index of a pair a ≤ b of `kinds` species.
fn pair_index(a: usize, b: usize, kinds: usize) -> usize {
    a * kinds - a * (a + 1) / 2 + b
}

impl Radial {
    pub(super) fn new(settings: RadialSettings, species: &[Species]) -> Self {
        let mut of_atom = vec![0; species.iter().map(|s| s.atoms.len()).sum()];
        for (s, kind) in species.iter().enumerate() {
            kind.atoms.iter().for_each(|&i| of_atom[i] = s as u32);
        }
        let pairs = species.len() * (species.len() + 1) / 2;
        Self { settings, species: of_atom, samples: 0, counts: vec![0; pairs * settings.bins], weighted: vec![0.0; pairs * settings.bins] }
    }

    pub(super) fn settings(&self) -> &RadialSettings {
        &self.settings
    }

    fn kinds(&self) -> usize {
        self.species.iter().max().map_or(0, |&s| s as usize + 1)
    }

    pub(super) fn sample(&mut self, structure: &Structure) -> Result<(), SimulateError> {
        let RadialSettings { r_max, bins, .. } = self.settings;
        let list = neighbor_list(&structure.cell.vectors, structure.pbc, &structure.positions, r_max)
            .map_err(|e| SimulateError::input(format!("distances cannot be counted: {e}"), "run without radial distribution functions"))?;
        let kinds = self.kinds();
        let mut now = vec![0u64; self.counts.len()];
        for e in 0..list.len() {
            let (a, b) = (self.species[list.centers[e] as usize] as usize, self.species[list.neighbors[e] as usize] as usize);
            if a <= b {
                let r = list.vectors[e].iter().map(|x| x * x).sum::<f64>().sqrt();
                let bin = ((r / r_max * bins as f64) as usize).min(bins - 1);
                now[pair_index(a, b, kinds) * bins + bin] += 1;
            }
        }
        let volume = structure.cell.volume();
        for ((sum, weighted), n) in self.counts.iter_mut().zip(&mut self.weighted).zip(now) {
            *sum += n;
            *weighted += n as f64 * volume;
        }
        self.samples += 1;
        Ok(())
    }

    pub(super) fn pairs(&self, species: &[Species]) -> Option<Vec<Pair>> {
        if self.samples == 0 {
            return None;
        }
        let RadialSettings { r_max, bins, .. } = self.settings;
        let width = r_max / bins as f64;
        let mut pairs = Vec::new();
        for a in 0..species.len() {
            for b in a..species.len() {
                let first = pair_index(a, b, species.len()) * bins;
                let (n_a, n_b, samples) = (species[a].atoms.len() as f64, species[b].atoms.len() as f64, self.samples as f64);
                let shell =
                    |bin: usize| 4.0 / 3.0 * std::f64::consts::PI * (((bin + 1) as f64 * width).powi(3) - (bin as f64 * width).powi(3));
                let mut sum = 0;
                pairs.push(Pair {
                    name: format!("{}–{}", species[a].symbol, species[b].symbol),
                    r: (0..bins).map(|bin| (bin as f64 + 0.5) * width).collect(),
                    g: (0..bins).map(|bin| self.weighted[first + bin] / (samples * n_a * n_b * shell(bin))).collect(),
                    coordination: (0..bins)
                        .map(|bin| {
                            sum += self.counts[first + bin];
                            sum as f64 / (samples * n_a)
                        })
                        .collect(),
                });
            }
        }
        Some(pairs)
    }
}
