//! Runs of molecular dynamics: what drives [`Dynamics`], writes files, watches, and can go on after any end.
//!
//! # Files of a run
//! `initial.extxyz`, the structure; `restart.json`, the last saved state of all replicas; and for each replica, in the folder itself or in `replica-N`:
//! `trajectory.…`, `thermo.jsonl` (a line of [`Row`] for each logged step), `events.jsonl` (what guards did), and at the end `final.extxyz`, `rdf.csv`, `msd.csv`, `vacf.csv`,
//! `vdos.csv`.
//!
//! # Going on
//! A saved state knows how long each file was. A run that goes on cuts files back to that and repeats what came after, to the bit: the same bytes come out as if nothing had
//! happened. As a force field may remember earlier positions (a neighbour list, and with it an order of summation), it is made anew whenever a state has been saved, in the run
//! that goes through as in the one that goes on. For the same reason nothing is saved between the scheduled steps: a run that is interrupted repeats those after the last.
//!
//! # Steps
//! `steps`, `save_every` and so on count steps of the time step of the settings. Where guards have halved it, two, four, … steps of the integrator make one of those, so that
//! frames and samples stay equally spaced in time.

mod member;
mod report;
mod restart;
mod results;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tesseral_atoms::{Evaluation, ForceError, ForceField, Structure};

use crate::dynamics::{self, Dynamics, Thermo};
use crate::error::SimulateError;
use crate::guards::{Action, Energies, Guards, Kind, Violation, Watch};
use crate::trajectory::Format;
use crate::{analysis, dynamics::State};
use member::{After, Member};
use restart::Restart;
pub use restart::Saved;

/// Name of the file with the structure that a run began with.
pub const INITIAL: &str = "initial.extxyz";
/// Name of the file with the last saved state.
pub const RESTART: &str = "restart.json";
/// Name of the log.
pub const THERMO: &str = "thermo.jsonl";
/// Name of the list of what guards did.
pub const EVENTS: &str = "events.jsonl";
/// Name of the file with the last structure.
pub const FINAL: &str = "final.extxyz";
/// Name of the report.
pub const REPORT: &str = "report.html";

/// The shortest time step is the given one over this; time is counted in it.
const TICKS: u64 = 256;
/// TICKS = 2^MOST_HALVINGS.
const MOST_HALVINGS: u32 = 8;

/// Settings of a run, besides those of its dynamics.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Steps.
    pub steps: u64,
    /// Steps between frames of the trajectory.
    pub save_every: u64,
    /// Steps between lines of the log.
    pub log_every: u64,
    /// Steps between saved states.
    pub restart_every: u64,
    /// Of the trajectory.
    pub format: Format,
    /// What is analysed.
    pub analysis: analysis::Settings,
    /// What is watched.
    pub guards: Guards,
    /// How often a replica may go back to a saved state.
    pub most_rollbacks: u32,
    /// Steps after which a halved time step is doubled again; 0 is never.
    pub calm_steps: u64,
}

impl Settings {
    /// A run of so many steps, with about a thousand frames and lines at most one in ten steps, saved every 100 steps.
    pub fn for_run(steps: u64, guards: Guards) -> Self {
        let every = (steps / 1000).max(10);
        Self {
            steps,
            save_every: every,
            log_every: every,
            restart_every: 100,
            format: Format::ExtendedXyz,
            analysis: analysis::Settings::default(),
            guards,
            most_rollbacks: 5,
            calm_steps: 1000,
        }
    }

    /// What makes no sense.
    ///
    /// # Errors
    /// [`SimulateError::Input`].
    pub fn check(&self) -> Result<(), SimulateError> {
        for (name, every) in [("frames", self.save_every), ("lines of the log", self.log_every), ("saved states", self.restart_every)] {
            if every == 0 {
                return Err(SimulateError::input(
                    format!("0 steps between {name}"),
                    "give at least 1; a number beyond the number of steps writes the first only",
                ));
            }
        }
        let intervals =
            [self.analysis.radial.map(|r| r.every), self.analysis.displacement.map(|w| w.every), self.analysis.velocity.map(|w| w.every)];
        if intervals.contains(&Some(0)) {
            return Err(SimulateError::input("0 steps between samples of an analysis", "give at least 1"));
        }
        Ok(())
    }
}

/// A line of the log.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// Thermodynamics.
    #[serde(flatten)]
    pub thermo: Thermo,
    /// Largest force, eV/Å.
    pub max_force: f64,
    /// How far the models of a committee disagree about the energy, eV.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub energy_spread: Option<f64>,
    /// And about the force on the atom where they do most, eV/Å.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub force_spread: Option<f64>,
}

/// What guards did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// Something is wrong, and the run goes on.
    Warned {
        /// What.
        violation: Violation,
    },
    /// The run has ended.
    Stopped {
        /// Why.
        violation: Violation,
    },
    /// The run went back to a saved state.
    RolledBack {
        /// Why.
        violation: Violation,
        /// The step that it went back to.
        to_step: u64,
        /// The time step from there on, fs.
        time_step: f64,
    },
    /// After enough good steps the time step is longer again.
    Restored {
        /// When.
        step: u64,
        /// The time step from there on, fs.
        time_step: f64,
    },
}

impl Event {
    /// In words.
    pub fn describe(&self) -> String {
        match self {
            Self::Warned { violation } => violation.to_string(),
            Self::Stopped { violation } => format!("{violation}; the run ends"),
            Self::RolledBack { violation, to_step, time_step } => {
                format!("{violation}; back to step {to_step}, on with {time_step} fs a step")
            }
            Self::Restored { step, time_step } => format!("step {step}: on with {time_step} fs a step"),
        }
    }
}

/// How a replica stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// Steps are left.
    Running,
    /// All steps are done.
    Done,
    /// A guard has ended it.
    Stopped(Violation),
}

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    /// Steps done, of the replica that is furthest behind.
    pub done: f64,
    /// Steps to do.
    pub total: u64,
}

/// Is told of a run while it goes on.
pub trait Observer {
    /// After a step of all replicas. `false` interrupts the run.
    fn step(&mut self, progress: Progress) -> bool {
        let _ = progress;
        true
    }

    /// A line was logged.
    fn row(&mut self, replica: usize, row: &Row) {
        let _ = (replica, row);
    }

    /// A guard acted.
    fn event(&mut self, replica: usize, event: &Event) {
        let _ = (replica, event);
    }
}

/// Nobody listens.
impl Observer for () {}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All replicas have done all steps.
    Done,
    /// The observer interrupted it; it can go on.
    Interrupted {
        /// The step from which it will.
        saved_step: u64,
    },
    /// Guards have ended so many replicas; the others are done.
    Stopped(usize),
}

/// Where the time went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Timing {
    /// Steps of the integrator, all replicas together.
    pub steps: u64,
    /// Seconds in the force field.
    pub forces: f64,
    /// Seconds in all.
    pub total: f64,
}

/// Makes force fields: each call gives one that remembers nothing.
pub type MakeField<'f> = Box<dyn FnMut() -> Result<Box<dyn ForceField>, ForceError> + 'f>;

/// A run of one or more replicas.
pub struct Run<'f> {
    folder: PathBuf,
    /// What computes, in words.
    model: String,
    settings: Settings,
    initial: Structure,
    members: Vec<Member>,
    /// Steps of all replicas together, shortened ones included.
    rounds: u64,
    make_field: MakeField<'f>,
    field: Option<Box<dyn ForceField>>,
    evaluation: Evaluation,
    structures: Vec<Structure>,
    timing: Timing,
    /// Step of the last saved state.
    saved_step: u64,
}

impl<'f> Run<'f> {
    /// A new run in a folder that exists; files of an earlier run there are lost. The seed of replica k is that of `dynamics` and k more. The structure is evaluated, and all
    /// else that can be wrong is found, before anything is written.
    ///
    /// # Errors
    /// Settings that make no sense, a structure that cannot be evaluated or that a guard ends at once, files that cannot be written.
    pub fn create(
        folder: impl Into<PathBuf>,
        model: &str,
        structure: Structure,
        dynamics: &dynamics::Settings,
        replicas: usize,
        settings: Settings,
        mut make_field: MakeField<'f>,
    ) -> Result<Self, SimulateError> {
        let folder = folder.into();
        settings.check()?;
        if replicas == 0 {
            return Err(SimulateError::input("0 replicas", "give at least 1"));
        }
        dynamics.check(&structure)?;
        if structure.cell.is_left_handed() && settings.format == Format::NetCdf {
            return Err(SimulateError::input(
                "the cell is left-handed, which AMBER NetCDF (lengths and angles) cannot say",
                "swap two lattice vectors, or write extended XYZ",
            ));
        }
        let mut field = make_field().map_err(SimulateError::force("the model"))?;
        let mut evaluation = Evaluation::default();
        field.evaluate_into(&structure, &mut evaluation).map_err(SimulateError::force("step 0"))?;
        let spread = field.spread().cloned();
        let each: Vec<Dynamics> = (0..replicas as u64)
            .map(|k| {
                let own = dynamics::Settings { seed: dynamics.seed.wrapping_add(k), ..dynamics.clone() };
                Dynamics::with_evaluation(structure.clone(), own, evaluation.clone())
            })
            .collect::<Result<_, _>>()?;
        // What no run should begin with.
        let highest = dynamics.temperature.from.max(dynamics.temperature.to);
        for dynamics in &each {
            let mut watch = Watch::new(settings.guards.clone(), Default::default(), highest);
            let energies =
                Energies { conserved: dynamics.conserved(), kinetic: dynamics.state().kinetic_energy(), spread: spread.as_ref() };
            if let Some(violation) = watch.check(&member::snapshot(dynamics), &energies)
                && violation.action != Action::Warn
            {
                return Err(SimulateError::input(
                    format!("the structure cannot begin a run: {}", violation.message),
                    format!("relax it first, or set another limit for the guard `{}`", violation.kind.name()),
                ));
            }
        }
        let mut text = Vec::new();
        tesseral_atoms::io::write_extxyz(&mut text, &structure)?;
        // From here on files are written.
        crate::files::sweep(&folder);
        // The saved state of another run goes first: it must never be taken for one of this.
        for name in [RESTART, REPORT] {
            match std::fs::remove_file(folder.join(name)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(SimulateError::io(folder.join(name))(error)),
                _ => {}
            }
        }
        let initial_path = folder.join(INITIAL);
        tesseral_atoms::io::write_atomically::<_, std::io::Error>(&initial_path, |w| std::io::Write::write_all(w, &text))
            .map_err(SimulateError::io(&initial_path))?;
        let members = each
            .into_iter()
            .enumerate()
            .map(|(index, dynamics)| Member::create(folder_of(&folder, index, replicas), index, dynamics, &settings, spread.clone()))
            .collect::<Result<Vec<_>, _>>()?;
        let mut run = Self {
            folder,
            model: model.to_owned(),
            settings,
            initial: structure,
            members,
            rounds: 0,
            make_field,
            field: None,
            evaluation,
            structures: Vec::new(),
            timing: Timing::default(),
            saved_step: 0,
        };
        for member in &mut run.members {
            member.record_start()?;
        }
        run.save()?;
        Ok(run)
    }

    /// Goes on with the run in a folder.
    ///
    /// # Errors
    /// If there is none, or its files are damaged.
    pub fn resume(folder: impl Into<PathBuf>, make_field: MakeField<'f>) -> Result<Self, SimulateError> {
        let folder = folder.into();
        let restart = Restart::read(&folder)?;
        let initial = restart::initial_structure(&folder)?;
        let replicas = restart.members.len();
        crate::files::sweep(&folder);
        let members = restart
            .members
            .into_iter()
            .enumerate()
            .map(|(index, saved)| Member::restore(folder_of(&folder, index, replicas), index, saved, &initial, &restart.settings))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            folder,
            model: restart.model,
            settings: restart.settings,
            initial,
            saved_step: members.iter().map(Member::step).min().unwrap_or(0),
            members,
            rounds: restart.rounds,
            make_field,
            field: None,
            evaluation: Evaluation::default(),
            structures: Vec::new(),
            timing: Timing::default(),
        })
    }

    /// What computes, as the run was told when it was begun.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Settings of the dynamics of the first replica.
    pub fn dynamics(&self) -> &dynamics::Settings {
        self.members[0].dynamics.settings()
    }

    /// The time step of the settings, fs: that of `dynamics` where guards have not halved it.
    pub fn time_step(&self) -> f64 {
        self.members[0].time_step()
    }

    /// True if several models compute.
    pub fn is_committee(&self) -> bool {
        self.members.iter().any(|member| member.spread.is_some())
    }

    /// The step of the integrator at which the last state was saved, of the replica that is furthest behind.
    pub fn saved_step(&self) -> u64 {
        self.saved_step
    }

    /// The structure that the run began with.
    pub fn initial(&self) -> &Structure {
        &self.initial
    }

    /// States of all replicas.
    pub fn states(&self) -> impl Iterator<Item = &State> {
        self.members.iter().map(|member| member.dynamics.state())
    }

    /// How each replica stands.
    pub fn statuses(&self) -> impl Iterator<Item = &Status> {
        self.members.iter().map(|member| &member.status)
    }

    /// What each replica is analysed for.
    pub fn analyses(&self) -> impl Iterator<Item = &analysis::Analysis> {
        self.members.iter().map(|member| &member.analysis)
    }

    /// Where the time went, of what was done by this process.
    pub fn timing(&self) -> Timing {
        self.timing
    }

    /// How far the run is.
    pub fn progress(&self) -> Progress {
        let behind = self.members.iter().filter(|m| !matches!(m.status, Status::Stopped(_))).map(|m| m.ticks).min();
        let done = behind.unwrap_or_else(|| self.members.iter().map(|m| m.ticks).min().unwrap_or(0));
        Progress { done: done as f64 / TICKS as f64, total: self.settings.steps }
    }

    /// Another number of steps in all. Ramps end where they would have.
    pub fn set_steps(&mut self, steps: u64) {
        self.settings.steps = steps;
        for member in &mut self.members {
            if !matches!(member.status, Status::Stopped(_)) {
                member.status = if member.ticks >= steps.saturating_mul(TICKS) { Status::Done } else { Status::Running };
            }
        }
    }

    /// Other guards. Replicas that were ended go on.
    pub fn set_guards(&mut self, guards: &Guards) {
        self.settings.guards = guards.clone();
        for member in &mut self.members {
            member.set_guards(guards.clone());
        }
    }

    /// Runs to the end, or until the observer or guards end it.
    ///
    /// # Errors
    /// If a file cannot be written (those that are there stay whole, up to what was saved), or no force field can be made.
    pub fn run(&mut self, observer: &mut dyn Observer) -> Result<Outcome, SimulateError> {
        let begin = Instant::now();
        let outcome = self.steps(observer);
        self.timing.total += begin.elapsed().as_secs_f64();
        outcome
    }

    fn steps(&mut self, observer: &mut dyn Observer) -> Result<Outcome, SimulateError> {
        loop {
            let active: Vec<usize> = (0..self.members.len()).filter(|&k| self.members[k].status == Status::Running).collect();
            if active.is_empty() {
                break;
            }
            let mut saves = self.round(&active, observer)?;
            self.rounds += 1;
            saves |= self.rounds.is_multiple_of(self.settings.restart_every);
            saves |= self.members.iter().all(|m| m.status != Status::Running);
            if saves {
                self.save()?;
            }
            if !observer.step(self.progress()) && self.members.iter().any(|m| m.status == Status::Running) {
                for member in &mut self.members {
                    member.flush()?;
                }
                return Ok(Outcome::Interrupted { saved_step: self.saved_step });
            }
        }
        for member in &mut self.members {
            member.finish()?;
        }
        Ok(match self.members.iter().filter(|m| matches!(m.status, Status::Stopped(_))).count() {
            0 => Outcome::Done,
            stopped => Outcome::Stopped(stopped),
        })
    }

    /// One step of each of some replicas; whether one has gone back to a saved state.
    fn round(&mut self, active: &[usize], observer: &mut dyn Observer) -> Result<bool, SimulateError> {
        if self.field.is_none() {
            self.field = Some((self.make_field)().map_err(SimulateError::force("the model"))?);
        }
        let Some(field) = self.field.as_mut() else { return Ok(false) };
        let mut results: Vec<Result<(), Violation>> = Vec::with_capacity(active.len());
        let mut spent = Duration::ZERO;
        // A committee says how far it disagrees about the last structure alone.
        let together = active.len() > 1 && self.members.iter().all(|m| m.spread.is_none());
        if together {
            let advanced: Vec<_> = active.iter().map(|&k| self.members[k].advance(&self.settings)).collect();
            self.structures.resize_with(active.len(), Structure::default);
            for (to, &k) in self.structures.iter_mut().zip(active) {
                let from = &self.members[k].dynamics.state().structure;
                (to.cell, to.pbc) = (from.cell, from.pbc);
                to.numbers.clone_from(&from.numbers);
                to.positions.clone_from(&from.positions);
            }
            let begin = Instant::now();
            let evaluated = field.evaluate_many(&self.structures);
            spent += begin.elapsed();
            for ((&k, advanced), evaluated) in active.iter().zip(advanced).zip(evaluated) {
                let member = &mut self.members[k];
                results.push(advanced.and_then(|()| {
                    let mut evaluation = evaluated.map_err(|error| member.failed(&self.settings, &error))?;
                    member.complete(&self.settings, &mut evaluation)
                }));
            }
        } else {
            for &k in active {
                let member = &mut self.members[k];
                let mut one = || {
                    member.advance(&self.settings)?;
                    let begin = Instant::now();
                    let evaluated = field.evaluate_into(&member.dynamics.state().structure, &mut self.evaluation);
                    spent += begin.elapsed();
                    evaluated.map_err(|error| member.failed(&self.settings, &error))?;
                    if let (Some(to), Some(from)) = (member.spread.as_mut(), field.spread()) {
                        to.clone_from(from);
                    }
                    member.complete(&self.settings, &mut self.evaluation)
                };
                results.push(one());
            }
        }
        self.timing.forces += spent.as_secs_f64();
        self.timing.steps += active.len() as u64;
        let mut rolled_back = false;
        for (&k, result) in active.iter().zip(results) {
            let member = &mut self.members[k];
            let after = match result {
                Ok(()) => member.after_step(&self.settings, observer)?,
                Err(violation) => member.act(violation),
            };
            match after {
                After::On => {}
                After::Stop(violation) => member.stop(violation, observer)?,
                After::Rollback(violation) => {
                    if member.rollbacks < self.settings.most_rollbacks && member.halvings < MOST_HALVINGS {
                        member.roll_back(violation, &self.initial, &self.settings, observer)?;
                        rolled_back = true;
                    } else {
                        let times = member.rollbacks;
                        let message = format!("{}; gone back {times} times already", violation.message);
                        member.stop(Violation { message, action: Action::Stop, ..violation }, observer)?;
                    }
                }
            }
        }
        Ok(rolled_back)
    }

    /// Saves the state of all replicas, after everything that it refers to is on disk.
    fn save(&mut self) -> Result<(), SimulateError> {
        let mut members = Vec::with_capacity(self.members.len());
        for member in &mut self.members {
            members.push(member.save()?);
        }
        let restart =
            Restart { version: restart::VERSION, model: self.model.clone(), settings: self.settings.clone(), rounds: self.rounds, members };
        restart.write(&self.folder)?;
        for (member, saved) in self.members.iter_mut().zip(restart.members) {
            member.saved = Some(saved);
        }
        self.saved_step = self.members.iter().filter_map(Member::saved_step).min().unwrap_or(0);
        self.field = None;
        Ok(())
    }

    /// Writes the report.
    ///
    /// # Errors
    /// If it cannot be written, or the log not be read.
    pub fn write_report(&self) -> Result<PathBuf, SimulateError> {
        let path = self.folder.join(REPORT);
        report::page(self)?.write(&path).map_err(SimulateError::io(&path))?;
        Ok(path)
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

/// The folder of a replica.
pub fn folder_of(folder: &Path, replica: usize, replicas: usize) -> PathBuf {
    if replicas == 1 { folder.to_owned() } else { folder.join(format!("replica-{replica}")) }
}

/// The failure of a force field, as what a guard says.
fn failure(step: u64, time: f64, action: Action, what: &str) -> Violation {
    Violation {
        kind: Kind::Failure,
        action,
        step,
        time,
        atoms: Vec::new(),
        value: None,
        limit: None,
        message: format!("step {step} ({time:.1} fs): {what}"),
    }
}
