//! One replica: its dynamics, its files, its guards.

use std::path::{Path, PathBuf};

use tesseral_atoms::{Evaluation, ForceError, Spread, Structure};

use super::{EVENTS, Event, FINAL, Observer, Row, Saved, Settings, Status, THERMO, TICKS, failure, results};
use crate::analysis::Analysis;
use crate::dynamics::Dynamics;
use crate::error::SimulateError;
use crate::files::GrowingFile;
use crate::guards::{Action, Energies, Guards, Memory, Violation, Watch};
use crate::trajectory::{Snapshot, Writer, annotated};

pub(super) struct Member {
    folder: PathBuf,
    index: usize,
    pub(super) dynamics: Dynamics,
    /// Of the settings, fs.
    time_step: f64,
    /// Time in parts of the time step.
    pub(super) ticks: u64,
    pub(super) halvings: u32,
    pub(super) rollbacks: u32,
    /// Steps since the time step changed.
    calm: u64,
    pub(super) analysis: Analysis,
    watch: Watch,
    trajectory: Writer,
    thermo: GrowingFile,
    events: GrowingFile,
    /// Of the last evaluation, where a committee computes.
    pub(super) spread: Option<Spread>,
    pub(super) status: Status,
    /// The state that a guard may go back to.
    pub(super) saved: Option<Saved>,
}

/// What becomes of a replica after a step.
pub(super) enum After {
    On,
    Stop(Violation),
    Rollback(Violation),
}

/// The present moment.
pub(super) fn snapshot(dynamics: &Dynamics) -> Snapshot<'_> {
    let state = dynamics.state();
    Snapshot {
        step: state.step,
        time: state.time,
        structure: &state.structure,
        velocities: &state.velocities,
        masses: &state.masses,
        evaluation: &state.evaluation,
        temperature: state.temperature(dynamics.degrees_of_freedom()),
    }
}

fn highest_target(dynamics: &Dynamics) -> f64 {
    let ramp = dynamics.settings().temperature;
    ramp.from.max(ramp.to)
}

fn trajectory_path(folder: &Path, settings: &Settings) -> PathBuf {
    folder.join(format!("trajectory.{}", settings.format.extension()))
}

impl Member {
    pub(super) fn create(
        folder: PathBuf,
        index: usize,
        dynamics: Dynamics,
        settings: &Settings,
        spread: Option<Spread>,
    ) -> Result<Self, SimulateError> {
        std::fs::create_dir_all(&folder).map_err(SimulateError::io(&folder))?;
        for name in [FINAL].into_iter().chain(results::FILES) {
            std::fs::remove_file(folder.join(name)).ok();
        }
        let structure = &dynamics.state().structure;
        Ok(Self {
            trajectory: Writer::create(trajectory_path(&folder, settings), settings.format, structure)?,
            thermo: GrowingFile::create(folder.join(THERMO))?,
            events: GrowingFile::create(folder.join(EVENTS))?,
            analysis: Analysis::new(settings.analysis.clone(), structure),
            watch: Watch::new(settings.guards.clone(), Memory::default(), highest_target(&dynamics)),
            time_step: dynamics.settings().time_step,
            folder,
            index,
            dynamics,
            ticks: 0,
            halvings: 0,
            rollbacks: 0,
            calm: 0,
            spread,
            status: if settings.steps == 0 { Status::Done } else { Status::Running },
            saved: None,
        })
    }

    pub(super) fn restore(
        folder: PathBuf,
        index: usize,
        saved: Saved,
        initial: &Structure,
        settings: &Settings,
    ) -> Result<Self, SimulateError> {
        crate::files::sweep(&folder);
        let dynamics = restored(&saved, initial)?;
        let structure = &dynamics.state().structure;
        Ok(Self {
            trajectory: Writer::cut_back(trajectory_path(&folder, settings), settings.format, structure, saved.trajectory)?,
            thermo: GrowingFile::cut_back(folder.join(THERMO), saved.thermo)?,
            events: GrowingFile::cut_back(folder.join(EVENTS), saved.events)?,
            analysis: saved.analysis.clone(),
            watch: Watch::new(settings.guards.clone(), saved.guards.clone(), highest_target(&dynamics)),
            time_step: saved.time_step,
            folder,
            index,
            dynamics,
            ticks: saved.ticks,
            halvings: saved.halvings,
            rollbacks: saved.rollbacks,
            calm: saved.calm,
            spread: saved.committee.then(Spread::default),
            status: saved.status.clone(),
            saved: Some(saved),
        })
    }

    pub(super) fn step(&self) -> u64 {
        self.dynamics.state().step
    }

    /// The step of the last saved state.
    pub(super) fn saved_step(&self) -> Option<u64> {
        self.saved.as_ref().map(|saved| saved.dynamics.step)
    }

    pub(super) fn set_guards(&mut self, guards: Guards) {
        self.watch = Watch::new(guards, self.watch.memory().clone(), highest_target(&self.dynamics));
        if matches!(self.status, Status::Stopped(_)) {
            self.status = Status::Running;
        }
    }

    /// The first frame, the first line, the first samples.
    pub(super) fn record_start(&mut self) -> Result<(), SimulateError> {
        let row = self.row();
        self.log(&row)?;
        let at = snapshot(&self.dynamics);
        self.trajectory.write(&at)?;
        self.analysis.sample(0, &at)?;
        Ok(())
    }

    /// The first half of a step.
    pub(super) fn advance(&mut self, settings: &Settings) -> Result<(), Violation> {
        self.dynamics.advance().map_err(|error| self.broken(settings, &error))
    }

    /// The second half.
    pub(super) fn complete(&mut self, settings: &Settings, evaluation: &mut Evaluation) -> Result<(), Violation> {
        self.dynamics.complete(evaluation).map_err(|error| self.broken(settings, &error))
    }

    /// A failure of the force field during the next step.
    pub(super) fn failed(&self, settings: &Settings, error: &ForceError) -> Violation {
        self.broken(settings, error)
    }

    fn broken(&self, settings: &Settings, error: &dyn std::error::Error) -> Violation {
        let mut what = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            let text = error.to_string();
            if !what.contains(&text) {
                what = format!("{what}: {text}");
            }
            cause = error.source();
        }
        let state = self.dynamics.state();
        let time = state.time + self.dynamics.settings().time_step;
        failure(state.step + 1, time, settings.guards.on_failure(), &what)
    }

    pub(super) fn act(&self, violation: Violation) -> After {
        match violation.action {
            Action::Rollback => After::Rollback(violation),
            Action::Stop | Action::Warn => After::Stop(violation),
        }
    }

    /// Guards, files and analysis, after a step.
    pub(super) fn after_step(&mut self, settings: &Settings, observer: &mut dyn Observer) -> Result<After, SimulateError> {
        self.ticks += TICKS >> self.halvings;
        let at = snapshot(&self.dynamics);
        let energies = Energies {
            conserved: self.dynamics.conserved(),
            kinetic: self.dynamics.state().kinetic_energy(),
            spread: self.spread.as_ref(),
        };
        if let Some(violation) = self.watch.check(&at, &energies) {
            if violation.action != Action::Warn {
                return Ok(self.act(violation));
            }
            self.tell(&Event::Warned { violation }, observer)?;
        }
        if self.ticks.is_multiple_of(TICKS) {
            let step = self.ticks / TICKS;
            if step.is_multiple_of(settings.log_every) {
                let row = self.row();
                self.log(&row)?;
                observer.row(self.index, &row);
            }
            let at = snapshot(&self.dynamics);
            if step.is_multiple_of(settings.save_every) {
                self.trajectory.write(&at)?;
            }
            self.analysis.sample(step, &at)?;
            if self.halvings > 0 {
                self.calm += 1;
                if settings.calm_steps > 0 && self.calm >= settings.calm_steps {
                    self.set_halvings(self.halvings - 1)?;
                    let (step, time_step) = (self.step(), self.dynamics.settings().time_step);
                    self.tell(&Event::Restored { step, time_step }, observer)?;
                }
            }
            if step >= settings.steps {
                self.status = Status::Done;
            }
        }
        Ok(After::On)
    }

    fn set_halvings(&mut self, halvings: u32) -> Result<(), SimulateError> {
        self.halvings = halvings;
        self.calm = 0;
        self.dynamics.set_time_step(self.time_step / f64::from(1u32 << halvings))
    }

    /// Ends this replica. The last line and frame show what was wrong.
    pub(super) fn stop(&mut self, violation: Violation, observer: &mut dyn Observer) -> Result<(), SimulateError> {
        if self.step() == violation.step {
            let row = self.row();
            self.log(&row)?;
            observer.row(self.index, &row);
            self.trajectory.write(&snapshot(&self.dynamics))?;
        }
        self.tell(&Event::Stopped { violation: violation.clone() }, observer)?;
        self.flush()?;
        self.status = Status::Stopped(violation);
        Ok(())
    }

    /// Goes back to the last saved state and on with half the time step.
    pub(super) fn roll_back(
        &mut self,
        violation: Violation,
        initial: &Structure,
        settings: &Settings,
        observer: &mut dyn Observer,
    ) -> Result<(), SimulateError> {
        let Some(saved) = self.saved.clone() else { return self.stop(violation, observer) };
        // Nothing may be left that the old writers would write into files that have been cut back.
        self.flush()?;
        // What guards did so far is not forgotten.
        let saved = Saved { events: self.events.len(), ..saved };
        let (halvings, rollbacks, spread) = (self.halvings + 1, self.rollbacks + 1, self.spread.take());
        *self = Self::restore(self.folder.clone(), self.index, saved, initial, settings)?;
        self.rollbacks = rollbacks;
        self.spread = spread;
        self.set_halvings(halvings)?;
        let time_step = self.dynamics.settings().time_step;
        let event = Event::RolledBack { violation, to_step: self.step(), time_step };
        self.tell(&event, observer)
    }

    fn row(&self) -> Row {
        let square = |f: &[f64; 3]| f.iter().map(|x| x * x).sum::<f64>();
        Row {
            thermo: self.dynamics.thermo(),
            max_force: self.dynamics.state().evaluation.forces.iter().map(square).fold(0.0, f64::max).sqrt(),
            energy_spread: self.spread.as_ref().map(|s| s.energy),
            force_spread: self.spread.as_ref().and_then(Spread::largest_force).map(|(_, f)| f),
        }
    }

    fn log(&mut self, row: &Row) -> Result<(), SimulateError> {
        append_json(&mut self.thermo, row)
    }

    fn tell(&mut self, event: &Event, observer: &mut dyn Observer) -> Result<(), SimulateError> {
        append_json(&mut self.events, event)?;
        observer.event(self.index, event);
        Ok(())
    }

    pub(super) fn flush(&mut self) -> Result<(), SimulateError> {
        self.trajectory.flush()?;
        self.thermo.flush()?;
        self.events.flush()
    }

    /// Puts the files on disk and says what has to be remembered.
    pub(super) fn save(&mut self) -> Result<Saved, SimulateError> {
        if let (Status::Stopped(_), Some(saved)) = (&self.status, &self.saved) {
            // What went wrong after it is repeated, should the run go on with other guards.
            return Ok(saved.clone());
        }
        Ok(Saved {
            trajectory: self.trajectory.sync()?,
            thermo: self.thermo.sync()?,
            events: self.events.sync()?,
            dynamics: self.dynamics.save(),
            time_step: self.time_step,
            ticks: self.ticks,
            halvings: self.halvings,
            rollbacks: self.rollbacks,
            calm: self.calm,
            analysis: self.analysis.clone(),
            guards: self.watch.memory().clone(),
            committee: self.spread.is_some(),
            status: self.status.clone(),
        })
    }

    /// What is written when there is nothing more to do.
    pub(super) fn finish(&mut self) -> Result<(), SimulateError> {
        self.flush()?;
        results::write(&self.folder, &self.analysis, self.time_step, self.dynamics.degrees_of_freedom())?;
        if self.status == Status::Done {
            let last = annotated(&snapshot(&self.dynamics));
            tesseral_atoms::io::write_extxyz_file(self.folder.join(FINAL), [&last])?;
        }
        Ok(())
    }

    /// From now on there is no room for the log.
    #[cfg(all(test, target_os = "linux"))]
    pub(super) fn thermo_is_full(&mut self) {
        self.thermo = GrowingFile::create("/dev/full").expect("Linux has it");
    }

    pub(super) fn time_step(&self) -> f64 {
        self.time_step
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn drift(&self) -> Option<f64> {
        self.watch.drift(self.dynamics.state().structure.len())
    }
}

fn append_json(file: &mut GrowingFile, value: &impl serde::Serialize) -> Result<(), SimulateError> {
    let mut line = serde_json::to_vec(value).map_err(|e| SimulateError::io(file.path())(e.into()))?;
    line.push(b'\n');
    file.append(&line)?;
    file.flush()
}

fn restored(saved: &Saved, initial: &Structure) -> Result<Dynamics, SimulateError> {
    Dynamics::restore(saved.dynamics.clone(), initial.clone())
}
