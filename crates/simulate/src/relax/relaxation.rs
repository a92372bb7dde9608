//! One structure on its way to a minimum.

use serde::{Deserialize, Serialize};
use tesseral_atoms::{Cell, Evaluation, ForceError, ForceField, Structure};

use super::freedom::{Coordinates, enthalpy};
use super::optimiser::{Exponential, Optimiser, Preconditioner, add};
use super::{Settings, Symmetry};
use crate::error::SimulateError;

/// How a relaxation ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Ended {
    /// Forces and stress are as small as asked for.
    Converged,
    /// It has taken all the steps it may.
    Steps,
    /// The minimiser found no way down.
    Stuck,
    /// The cell has collapsed or burst: its volume over that at the beginning.
    Volume {
        /// Volume over that at the beginning.
        ratio: f64,
    },
    /// An atom left the structure.
    Escaped {
        /// The atom.
        atom: usize,
        /// How far it is from where it began, Å.
        distance: f64,
    },
    /// The energy, a force or the stress is not a number.
    NotFinite {
        /// The atom, if it is about a force.
        atom: Option<usize>,
    },
    /// The force field failed.
    Failed {
        /// What it says.
        why: String,
    },
}

impl Ended {
    /// Whether the minimum was found.
    pub fn is_converged(&self) -> bool {
        *self == Self::Converged
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Converged => f.write_str("converged"),
            Self::Steps => f.write_str("out of steps"),
            Self::Stuck => f.write_str("stuck: the energy does not go down along the forces"),
            Self::Volume { ratio } if *ratio < 1.0 => write!(f, "the cell collapsed to {ratio:.2} of its volume"),
            Self::Volume { ratio } => write!(f, "the cell burst to {ratio:.1} times its volume"),
            Self::Escaped { atom, distance } => write!(f, "atom {atom} escaped: it is {distance:.0} Å from where it began"),
            Self::NotFinite { atom: Some(atom) } => write!(f, "the force on atom {atom} is not a number"),
            Self::NotFinite { atom: None } => f.write_str("the energy or the stress is not a number"),
            Self::Failed { why } => write!(f, "the potential failed: {why}"),
        }
    }
}

/// Where a relaxation stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Energy, eV.
    pub energy: f64,
    /// E + p V, eV.
    pub enthalpy: f64,
    /// The largest force along what may move, eV/Å.
    pub max_force: f64,
    /// The largest component of the stress beyond that of the pressure, along what may change, eV/Å³; `None` where the cell is fixed.
    pub max_stress: Option<f64>,
    /// Volume, Å³; 0 without a cell.
    pub volume: f64,
}

/// A relaxation between two evaluations: everything that the next step depends on.
///
/// [`Self::structure`] is what should be evaluated; [`Self::complete`] takes the result and either ends or moves the structure on.
#[derive(Debug, Clone)]
pub struct Relaxation {
    structure: Structure,
    coordinates: Coordinates,
    saved: Saved,
    /// Springs at `saved.listed_at`.
    springs: Option<Exponential>,
}

/// The state of a [`Relaxation`], without the metadata of its structure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Saved {
    settings: Settings,
    coordinates: Coordinates,
    symmetry: Option<Symmetry>,
    optimiser: Optimiser,
    preconditioned: bool,
    /// Coordinates at which the springs of the preconditioner were chosen.
    listed_at: Vec<[f64; 3]>,
    x: Vec<[f64; 3]>,
    /// Where the last evaluation was.
    evaluated: Vec<[f64; 3]>,
    start: Vec<[f64; 3]>,
    start_volume: f64,
    steps: u64,
    first: Option<Summary>,
    last: Option<Summary>,
    energy: f64,
    forces: Vec<[f64; 3]>,
    stress: Option<[[f64; 3]; 3]>,
    atomic_energies: Vec<f64>,
    trace: Vec<Summary>,
    ended: Option<Ended>,
}

/// Springs are chosen anew when an atom has moved this far, Å.
const STALE: f64 = 0.5;
/// Volumes beyond these multiples of the first are no relaxation any more.
const VOLUMES: (f64, f64) = (0.1, 10.0);
/// Neither are atoms that far from where they began, Å.
const FAR: f64 = 100.0;

impl Relaxation {
    /// A relaxation that has evaluated nothing yet. `movable` says for each atom which Cartesian coordinates may move (where the cell moves: those in the undeformed cell); empty, all may.
    ///
    /// Where symmetry is kept, the structure becomes exactly symmetric here.
    ///
    /// # Errors
    /// Settings that make no sense, or with which the structure cannot be relaxed.
    pub fn new(mut structure: Structure, settings: Settings, movable: Vec<[bool; 3]>) -> Result<Self, SimulateError> {
        settings.check()?;
        if structure.is_empty() {
            return Err(SimulateError::input("there are no atoms", "give a structure with atoms"));
        }
        structure.validate()?;
        let symmetry = settings.symmetry.map(|tolerance| Symmetry::impose(&mut structure, tolerance)).transpose()?;
        let coordinates = Coordinates::new(&structure, settings.cell, settings.strain_mask, movable)?;
        if let Some(symmetry) = &symmetry {
            symmetry.check(&coordinates)?;
        }
        let (optimiser, preconditioned) = settings.optimiser(&structure);
        let x = coordinates.start(&structure);
        let saved = Saved {
            settings,
            coordinates: coordinates.clone(),
            symmetry,
            optimiser,
            preconditioned,
            listed_at: Vec::new(),
            start: x.clone(),
            start_volume: volume(&structure),
            x,
            evaluated: Vec::new(),
            steps: 0,
            first: None,
            last: None,
            energy: 0.0,
            forces: Vec::new(),
            stress: None,
            atomic_energies: Vec::new(),
            trace: Vec::new(),
            ended: None,
        };
        Ok(Self { structure, coordinates, saved, springs: None })
    }

    /// What is to be evaluated next; once ended, what was evaluated last.
    pub fn structure(&self) -> &Structure {
        &self.structure
    }

    /// The same without metadata.
    pub(super) fn bare(&self) -> Structure {
        let Structure { cell, pbc, numbers, positions, .. } = &self.structure;
        Structure { cell: *cell, pbc: *pbc, numbers: numbers.clone(), positions: positions.clone(), ..Structure::default() }
    }

    /// How it ended, if it has.
    pub fn ended(&self) -> Option<&Ended> {
        self.saved.ended.as_ref()
    }

    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.saved.steps
    }

    /// The space group that is kept.
    pub fn symmetry(&self) -> Option<&Symmetry> {
        self.saved.symmetry.as_ref()
    }

    /// At the first evaluation.
    pub fn first(&self) -> Option<&Summary> {
        self.saved.first.as_ref()
    }

    /// At the last evaluation.
    pub fn last(&self) -> Option<&Summary> {
        self.saved.last.as_ref()
    }

    /// At every evaluation.
    pub fn trace(&self) -> &[Summary] {
        &self.saved.trace
    }

    /// The result of the last evaluation, as the force field gave it; `None` before the first.
    pub fn evaluation(&self) -> Option<Evaluation> {
        let Saved { energy, forces, stress, atomic_energies, last, .. } = &self.saved;
        last.map(|_| Evaluation { energy: *energy, forces: forces.clone(), stress: *stress, atomic_energies: atomic_energies.clone() })
    }

    /// Evaluates and takes one step.
    pub fn step(&mut self, field: &mut dyn ForceField) {
        if self.ended().is_some() {
            return;
        }
        match field.evaluate(&self.structure) {
            Ok(evaluation) => self.complete(evaluation),
            Err(error) => self.fail(&error),
        }
    }

    /// The structure could not be evaluated.
    pub fn fail(&mut self, error: &ForceError) {
        let mut why = error.to_string();
        let mut cause = std::error::Error::source(error);
        while let Some(error) = cause {
            let text = error.to_string();
            if !why.contains(&text) {
                why = format!("{why}: {text}");
            }
            cause = error.source();
        }
        self.give_up(Ended::Failed { why });
    }

    /// Ends where the last evaluation was: the structure that is to be evaluated next is no good.
    fn give_up(&mut self, ended: Ended) {
        self.saved.ended = Some(ended);
        if !self.saved.evaluated.is_empty() {
            self.saved.x.clone_from(&self.saved.evaluated);
            self.coordinates.place(&self.saved.x, &mut self.structure);
        }
    }

    /// Takes the result for [`Self::structure`], ends if that is a minimum, and moves the structure on if it is not.
    pub fn complete(&mut self, evaluation: Evaluation) {
        if self.saved.ended.is_some() {
            return;
        }
        if let Some(ended) = not_finite(&evaluation) {
            self.give_up(ended);
            return;
        }
        let (settings, volume) = (&self.saved.settings, volume(&self.structure));
        let mut forces = evaluation.forces.clone();
        let mut stress = evaluation.stress;
        if let Some(symmetry) = &self.saved.symmetry {
            symmetry.average_vectors(&mut forces);
            if let Some(stress) = &mut stress {
                symmetry.average_tensor(stress);
            }
        }
        if settings.cell.moves() && stress.is_none() {
            self.saved.ended = Some(Ended::Failed { why: "it gives no stress".to_owned() });
            return;
        }
        let gradient = self.coordinates.gradient(&self.saved.x, volume, &forces, stress, settings.pressure);
        let summary = Summary {
            energy: evaluation.energy,
            enthalpy: enthalpy(&evaluation, settings.pressure, volume),
            max_force: gradient.largest_force().1,
            max_stress: gradient.largest_stress(),
            volume,
        };
        let converged = summary.max_force <= settings.max_force && summary.max_stress.is_none_or(|s| s <= settings.max_stress);
        let out_of_steps = self.saved.steps >= settings.steps;
        self.saved.first.get_or_insert(summary);
        self.saved.last = Some(summary);
        self.saved.trace.push(summary);
        self.saved.evaluated.clone_from(&self.saved.x);
        self.saved.energy = evaluation.energy;
        self.saved.forces = evaluation.forces;
        self.saved.stress = evaluation.stress;
        self.saved.atomic_energies = evaluation.atomic_energies;
        self.saved.ended = if converged {
            Some(Ended::Converged)
        } else if out_of_steps {
            Some(Ended::Steps)
        } else {
            self.move_on(summary.enthalpy, &gradient.rows)
        };
    }

    /// Moves the structure, unless there is nowhere to go.
    fn move_on(&mut self, enthalpy: f64, gradient: &[[f64; 3]]) -> Option<Ended> {
        self.refresh_springs();
        let saved = &mut self.saved;
        let mut x = saved.x.clone();
        let springs = self.springs.as_ref().map(|s| s as &dyn Preconditioner);
        if saved.optimiser.step(&mut x, Some(enthalpy), gradient, springs).is_err() {
            return Some(Ended::Stuck);
        }
        // The whole way from the beginning, so that rounding does not add up.
        let mut way = x;
        add(&mut way, -1.0, &saved.start);
        let atoms = self.structure.len();
        if let Some(symmetry) = &saved.symmetry {
            symmetry.average_vectors(&mut way[..atoms]);
            if let [a, b, c] = way[atoms..] {
                let mut strain = [a, b, c];
                symmetry.average_tensor(&mut strain);
                way[atoms..].copy_from_slice(&strain);
            }
        }
        self.coordinates.confine(&mut way);
        let far = way[..atoms].iter().map(|d| (d[0] * d[0] + d[1] * d[1] + d[2] * d[2]).sqrt()).enumerate();
        if let Some((atom, distance)) = far.into_iter().find(|(_, d)| *d > FAR || d.is_nan()) {
            return Some(Ended::Escaped { atom, distance });
        }
        // Where nothing moves, x stays as it is to the bit.
        for (way, start) in way.iter_mut().zip(&saved.start) {
            for k in 0..3 {
                way[k] += start[k];
            }
        }
        let mut next = self.structure.clone();
        self.coordinates.place(&way, &mut next);
        if saved.start_volume > 0.0 {
            let ratio = next.cell.volume() / saved.start_volume;
            if !(VOLUMES.0..VOLUMES.1).contains(&ratio) {
                return Some(Ended::Volume { ratio });
            }
        }
        saved.x = way;
        saved.steps += 1;
        self.structure = next;
        None
    }

    /// Chooses the springs of the preconditioner anew where atoms have moved far.
    fn refresh_springs(&mut self) {
        if !self.saved.preconditioned {
            return;
        }
        let stale = self.saved.listed_at.len() != self.saved.x.len()
            || self
                .saved
                .x
                .iter()
                .zip(&self.saved.listed_at)
                .any(|(a, b)| (0..3).map(|k| (a[k] - b[k]).powi(2)).sum::<f64>() > STALE * STALE);
        if stale {
            self.saved.listed_at.clone_from(&self.saved.x);
        }
        if stale || self.springs.is_none() {
            // Atoms on one spot, where neighbours cannot be listed, are the force field's to complain of.
            self.springs = self.springs_at(&self.saved.listed_at);
        }
    }

    fn springs_at(&self, x: &[[f64; 3]]) -> Option<Exponential> {
        let mut there = self.bare();
        self.coordinates.place(x, &mut there);
        Exponential::new(&there.cell, there.pbc, &there.positions, &self.coordinates.held(), self.coordinates.cell_rows()).ok()
    }

    /// Everything that the next step depends on.
    pub fn save(&self) -> &Saved {
        &self.saved
    }

    /// Goes on from a saved state. `structure` is the one it was begun with, for its species and metadata.
    ///
    /// # Errors
    /// If it has another number of atoms.
    pub fn restore(structure: Structure, saved: Saved) -> Result<Self, SimulateError> {
        let coordinates = saved.coordinates.clone();
        if structure.len() + coordinates.cell_rows() != saved.x.len() {
            return Err(SimulateError::input("the saved state belongs to a structure with another number of atoms", "start anew"));
        }
        let mut relaxation = Self { structure, coordinates, saved, springs: None };
        relaxation.structure.cell = relaxation.coordinates.reference_cell();
        relaxation.coordinates.place(&relaxation.saved.x, &mut relaxation.structure);
        Ok(relaxation)
    }
}

fn not_finite(evaluation: &Evaluation) -> Option<Ended> {
    let finite = |v: &[f64; 3]| v.iter().all(|x| x.is_finite());
    if let Some(atom) = evaluation.forces.iter().position(|f| !finite(f)) {
        return Some(Ended::NotFinite { atom: Some(atom) });
    }
    let stress = evaluation.stress.is_none_or(|s| s.iter().all(finite));
    (!evaluation.energy.is_finite() || !stress).then_some(Ended::NotFinite { atom: None })
}

fn volume(structure: &Structure) -> f64 {
    if structure.cell == Cell::ZERO { 0.0 } else { structure.cell.volume() }
}
