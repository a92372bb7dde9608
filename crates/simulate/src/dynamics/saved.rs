//! A run as it is written to a restart file.

use serde::{Deserialize, Serialize};
use tesseral_atoms::{Cell, Evaluation, Structure};

use super::barostat::Extended;
use super::chain::Chain;
use super::random::Random;
use super::velocities::Freedom;
use super::{Dynamics, Settings, State};
use crate::error::SimulateError;

/// Everything that a run needs to go on to the bit. Numbers survive JSON exactly: the workspace's `serde_json` reads back the bits it wrote.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Saved {
    /// The settings of the run; the time step is the one that was in force.
    pub settings: Settings,
    /// Steps made.
    pub step: u64,
    /// Time passed, fs.
    pub time: f64,
    /// The step, and the time at it in fs, at which the present time step came into force.
    since: (u64, f64),
    first_time_step: f64,
    numbers: Vec<u8>,
    positions: Vec<[f64; 3]>,
    cell: [[f64; 3]; 3],
    velocities: Vec<[f64; 3]>,
    energy: f64,
    forces: Vec<[f64; 3]>,
    stress: Option<[[f64; 3]; 3]>,
    atomic_energies: Vec<f64>,
    degrees_of_freedom: f64,
    random: Random,
    chain: Option<Chain>,
    extended: Option<Extended>,
    work: f64,
}

impl Dynamics {
    /// The run as it is now; to be called between steps.
    pub fn save(&self) -> Saved {
        let State { step, time, structure, velocities, evaluation, .. } = &self.state;
        Saved {
            settings: self.settings.clone(),
            step: *step,
            time: *time,
            since: self.since,
            first_time_step: self.first_time_step,
            numbers: structure.numbers.clone(),
            positions: structure.positions.clone(),
            cell: structure.cell.vectors,
            velocities: velocities.clone(),
            energy: evaluation.energy,
            forces: evaluation.forces.clone(),
            stress: evaluation.stress,
            atomic_energies: evaluation.atomic_energies.clone(),
            degrees_of_freedom: self.freedom.degrees,
            random: self.random.clone(),
            chain: self.chain.clone(),
            extended: self.extended.clone(),
            work: self.work,
        }
    }

    /// The run as it was; nothing is evaluated. `structure` is the one that the run started from: elements, periodicity and metadata come from it, positions and cell from
    /// what was saved.
    ///
    /// # Errors
    /// If the structure has other atoms, or what was saved contradicts itself.
    pub fn restore(saved: Saved, mut structure: Structure) -> Result<Self, SimulateError> {
        let hint = "go on with the structure that the run was started from, or start it anew";
        if structure.numbers != saved.numbers {
            let what =
                format!("the saved run is of {} atoms that are not those of the structure ({})", saved.numbers.len(), structure.formula());
            return Err(SimulateError::input(what, hint));
        }
        let atoms = structure.len();
        if [saved.positions.len(), saved.velocities.len(), saved.forces.len()] != [atoms; 3] {
            return Err(SimulateError::input("the saved run is damaged: not every atom has a position, a velocity and a force", hint));
        }
        super::remove_motion(&mut structure);
        structure.positions = saved.positions;
        structure.cell = Cell::new(saved.cell);
        Settings { velocities: super::Velocities::Drawn, ..saved.settings.clone() }.check(&structure)?;
        let masses = saved.settings.masses_of(&structure)?;
        let mut freedom = Freedom::new(&saved.settings, &structure, &masses)?;
        freedom.degrees = saved.degrees_of_freedom;
        let evaluation =
            Evaluation { energy: saved.energy, forces: saved.forces, stress: saved.stress, atomic_energies: saved.atomic_energies };
        Ok(Self {
            settings: saved.settings,
            state: State { step: saved.step, time: saved.time, structure, velocities: saved.velocities, masses, evaluation },
            freedom,
            random: saved.random,
            chain: saved.chain,
            extended: saved.extended,
            work: saved.work,
            since: saved.since,
            first_time_step: saved.first_time_step,
            pending: None,
            halfway: false,
            scratch: Evaluation::default(),
        })
    }
}
