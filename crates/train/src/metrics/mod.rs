//! Errors of predictions against labels: of everything, by group, head and element, with samples for plots.
//!
//! [`Metrics`] takes frames one after another; parts that were filled apart are joined with [`Metrics::merge`]. Counts, quantiles,
//! histograms and samples do not depend on how frames were dealt out. Means are sums of floating-point numbers, so parts have to be the same and joined
//! in the same order for the same bits.

mod distribution;
mod sample;
mod summary;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tesseral_atoms::elements::symbol;
use tesseral_atoms::metrics::ErrorStatistics;
use tesseral_atoms::units::GPA;

pub use distribution::{Bin, ErrorDistribution};
pub use sample::{Outlier, ParityPoint, Sample};
pub use summary::{ErrorSummary, Histogram, Named, Parity, SetErrors, SetSummary};

use crate::data::Frame;

/// What is predicted and compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Quantity {
    /// Total energies, one value a frame.
    Energy,
    /// Energies divided by the number of atoms, one value a frame.
    EnergyPerAtom,
    /// Components of forces, three values an atom.
    Forces,
    /// Components of stresses, six values a frame (Voigt).
    Stress,
}

impl Quantity {
    /// The unit of values and errors, here and in logs.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Energy => "eV",
            Self::EnergyPerAtom => "eV/atom",
            Self::Forces => "eV/Å",
            Self::Stress => "eV/Å³",
        }
    }

    /// The unit of errors in tables and plots, and what an error in [`Self::unit`] is multiplied with to be in it.
    pub fn display_unit(self) -> (&'static str, f64) {
        match self {
            Self::Energy => ("meV", 1e3),
            Self::EnergyPerAtom => ("meV/atom", 1e3),
            Self::Forces => ("meV/Å", 1e3),
            Self::Stress => ("GPa", 1.0 / GPA),
        }
    }

    /// The name that people read.
    pub fn title(self) -> &'static str {
        match self {
            Self::Energy => "Energy",
            Self::EnergyPerAtom => "Energy per atom",
            Self::Forces => "Forces",
            Self::Stress => "Stress",
        }
    }
}

/// What a model says about one frame.
#[derive(Debug, Clone, Copy)]
pub struct Prediction<'a> {
    /// Total energy, eV.
    pub energy: f64,
    /// Forces, eV/Å, one for each atom; `None` if they were not computed.
    pub forces: Option<&'a [[f64; 3]]>,
    /// Stress, eV/Å³, Voigt, positive when tensile; `None` if it was not computed.
    pub stress: Option<[f64; 6]>,
}

/// Errors of one quantity: statistics and distribution.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Errors {
    /// Means and the largest.
    pub statistics: ErrorStatistics,
    /// How absolute errors are spread.
    pub distribution: ErrorDistribution,
}

impl Errors {
    /// Adds one prediction and its reference, in the same unit.
    pub fn add(&mut self, predicted: f64, reference: f64) {
        self.statistics.add(predicted, reference);
        self.distribution.add(predicted - reference);
    }

    /// Adds what another has seen.
    pub fn merge(&mut self, other: &Self) {
        self.statistics.merge(&other.statistics);
        self.distribution.merge(&other.distribution);
    }

    /// The figures, in the unit of `quantity`; `None` if nothing was compared.
    pub fn summary(&self, quantity: Quantity) -> Option<ErrorSummary> {
        ErrorSummary::new(self, quantity)
    }
}

/// Errors of all quantities over some frames.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct QuantityErrors {
    /// Number of frames, labelled or not.
    pub frames: u64,
    /// Number of atoms in them.
    pub atoms: u64,
    /// Total energies, eV.
    pub energy: Errors,
    /// Energies per atom, eV/atom.
    pub energy_per_atom: Errors,
    /// Force components, eV/Å.
    pub forces: Errors,
    /// Stress components, eV/Å³.
    pub stress: Errors,
}

impl QuantityErrors {
    /// Adds what another has seen.
    pub fn merge(&mut self, other: &Self) {
        self.frames += other.frames;
        self.atoms += other.atoms;
        self.energy.merge(&other.energy);
        self.energy_per_atom.merge(&other.energy_per_atom);
        self.forces.merge(&other.forces);
        self.stress.merge(&other.stress);
    }

    /// The figures.
    pub fn summary(&self) -> SetErrors {
        SetErrors {
            frames: self.frames,
            atoms: self.atoms,
            energy: self.energy.summary(Quantity::Energy),
            energy_per_atom: self.energy_per_atom.summary(Quantity::EnergyPerAtom),
            forces: self.forces.summary(Quantity::Forces),
            stress: self.stress.summary(Quantity::Stress),
        }
    }

    fn add(&mut self, compared: &Compared<'_>) {
        self.frames += 1;
        self.atoms += compared.frame.structure.len() as u64;
        if let Some((predicted, reference)) = compared.energy {
            let atoms = compared.frame.structure.len() as f64;
            self.energy.add(predicted, reference);
            self.energy_per_atom.add(predicted / atoms, reference / atoms);
        }
        for (_, predicted, reference) in compared.forces() {
            for (p, r) in predicted.iter().zip(reference) {
                self.forces.add(*p, *r);
            }
        }
        for (p, r) in compared.stress.iter().flat_map(|(p, r)| p.iter().zip(r)) {
            self.stress.add(*p, *r);
        }
    }
}

/// Pairs of predictions and labels of one frame: those that are there and that count.
struct Compared<'a> {
    frame: &'a Frame,
    energy: Option<(f64, f64)>,
    forces: Option<(&'a [[f64; 3]], &'a [[f64; 3]])>,
    stress: Option<([f64; 6], [f64; 6])>,
}

impl<'a> Compared<'a> {
    fn new(frame: &'a Frame, prediction: &Prediction<'a>) -> Self {
        let weights = &frame.weights;
        let energy = frame.energy.filter(|_| weights.energy != 0.0 && !frame.structure.is_empty()).map(|e| (prediction.energy, e));
        let forces = prediction.forces.zip(frame.forces.as_deref()).filter(|_| weights.forces != 0.0);
        if let Some((predicted, reference)) = forces {
            assert_eq!(predicted.len(), reference.len(), "one predicted force for each atom of {}", frame.origin);
        }
        let stress = prediction.stress.zip(frame.stress).filter(|_| weights.stress != 0.0);
        Self { frame, energy, forces, stress }
    }

    /// Atoms whose forces count: index, prediction, reference.
    fn forces(&self) -> impl Iterator<Item = (usize, &'a [f64; 3], &'a [f64; 3])> {
        let mask = self.frame.force_mask.as_deref();
        let (predicted, reference) = self.forces.unwrap_or_default();
        let counts = move |atom: usize| mask.is_none_or(|mask| mask[atom]);
        predicted.iter().zip(reference).enumerate().filter(move |(atom, _)| counts(*atom)).map(|(atom, (p, r))| (atom, p, r))
    }
}

/// Errors over a set of frames, in all the ways in which they are shown.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    all: QuantityErrors,
    groups: BTreeMap<Arc<str>, QuantityErrors>,
    heads: BTreeMap<Arc<str>, QuantityErrors>,
    elements: BTreeMap<u8, Errors>,
    samples: Option<Samples>,
}

/// Points for parity plots.
#[derive(Debug, Clone)]
struct Samples {
    seed: u64,
    energy_per_atom: Sample,
    forces: Sample,
    stress: Sample,
}

impl Metrics {
    /// Errors only, nothing kept for plots.
    pub fn new() -> Self {
        Self::default()
    }

    /// Keeps up to `points` pairs of each quantity for plots. Which ones is decided by `seed` and by where frames come from, and by nothing else.
    pub fn with_samples(points: usize, seed: u64) -> Self {
        let sample = || Sample::new(points);
        Self { samples: Some(Samples { seed, energy_per_atom: sample(), forces: sample(), stress: sample() }), ..Self::default() }
    }

    /// Compares a prediction with the labels of its frame. Labels that are missing, have weight 0 or are masked do not count.
    ///
    /// # Panics
    /// If the prediction has another number of forces than the frame.
    pub fn add(&mut self, frame: &Frame, prediction: &Prediction<'_>) {
        let compared = Compared::new(frame, prediction);
        self.all.add(&compared);
        if let Some(group) = &frame.group {
            self.groups.entry(group.clone()).or_default().add(&compared);
        }
        if let Some(head) = &frame.head {
            self.heads.entry(head.clone()).or_default().add(&compared);
        }
        for (atom, predicted, reference) in compared.forces() {
            let errors = self.elements.entry(frame.structure.numbers[atom]).or_default();
            for (p, r) in predicted.iter().zip(reference) {
                errors.add(*p, *r);
            }
        }
        if let Some(samples) = &mut self.samples {
            samples.add(&compared);
        }
    }

    /// Adds what another has seen. For the same bits, join the same parts in the same order.
    pub fn merge(&mut self, other: Self) {
        self.all.merge(&other.all);
        for (group, errors) in &other.groups {
            self.groups.entry(group.clone()).or_default().merge(errors);
        }
        for (head, errors) in &other.heads {
            self.heads.entry(head.clone()).or_default().merge(errors);
        }
        for (element, errors) in &other.elements {
            self.elements.entry(*element).or_default().merge(errors);
        }
        match (&mut self.samples, other.samples) {
            (Some(samples), Some(more)) => {
                samples.energy_per_atom.merge(more.energy_per_atom);
                samples.forces.merge(more.forces);
                samples.stress.merge(more.stress);
            }
            (samples @ None, more) => *samples = more,
            (Some(_), None) => {}
        }
    }

    /// Errors over all frames.
    pub fn all(&self) -> &QuantityErrors {
        &self.all
    }

    /// Errors by group (`config_type`), in the order of their names. Frames without a group are in none.
    pub fn groups(&self) -> &BTreeMap<Arc<str>, QuantityErrors> {
        &self.groups
    }

    /// Errors by head, in the order of their names. Frames without a head are in none.
    pub fn heads(&self) -> &BTreeMap<Arc<str>, QuantityErrors> {
        &self.heads
    }

    /// Errors of force components by the atomic number of the atom they act on.
    pub fn elements(&self) -> &BTreeMap<u8, Errors> {
        &self.elements
    }

    /// All figures, points and histograms, under the name of the set (`valid`, `test`).
    pub fn summary(&self, set: &str) -> SetSummary {
        let named = |map: &BTreeMap<Arc<str>, QuantityErrors>| {
            map.iter().map(|(name, errors)| Named { name: name.to_string(), errors: errors.summary() }).collect()
        };
        let elements = self.elements.iter().filter_map(|(&number, errors)| {
            Some(Named { name: symbol(number).unwrap_or("?").to_owned(), errors: errors.summary(Quantity::Forces)? })
        });
        let mut parity = Vec::new();
        let mut histograms = Vec::new();
        let shown = [
            (Quantity::EnergyPerAtom, &self.all.energy_per_atom, self.samples.as_ref().map(|s| &s.energy_per_atom)),
            (Quantity::Forces, &self.all.forces, self.samples.as_ref().map(|s| &s.forces)),
            (Quantity::Stress, &self.all.stress, self.samples.as_ref().map(|s| &s.stress)),
        ];
        for (quantity, errors, sample) in shown {
            let (Some(summary), Some(sample)) = (errors.summary(quantity), sample) else { continue };
            parity.push(sample.parity(set, quantity, summary.clone()));
            histograms.push(errors.distribution.histogram(set, quantity, &summary));
        }
        SetSummary {
            set: set.to_owned(),
            errors: self.all.summary(),
            groups: named(&self.groups),
            heads: named(&self.heads),
            elements: elements.collect(),
            parity,
            histograms,
        }
    }
}

impl Samples {
    fn add(&mut self, compared: &Compared<'_>) {
        let frame = compared.frame;
        let key = sample::frame_key(self.seed, &frame.origin);
        if let Some((predicted, reference)) = compared.energy {
            let atoms = frame.structure.len() as f64;
            self.energy_per_atom.add(key, [(predicted / atoms, reference / atoms)], |_| frame.origin.to_string());
        }
        let components = compared.forces().flat_map(|(_, p, r)| (0..3).map(|i| (p[i], r[i])));
        self.forces.add(key, components, |place| {
            let atom = compared.forces().nth(place / 3).map_or(0, |(atom, ..)| atom);
            let element = symbol(frame.structure.numbers[atom]).unwrap_or("?");
            format!("{}, atom {atom} ({element}), {}", frame.origin, ["x", "y", "z"][place % 3])
        });
        let components = compared.stress.iter().flat_map(|(p, r)| p.iter().copied().zip(r.iter().copied()));
        self.stress.add(key, components, |place| format!("{}, {}", frame.origin, ["xx", "yy", "zz", "yz", "zx", "xy"][place % 6]));
    }
}

#[cfg(test)]
mod tests;
