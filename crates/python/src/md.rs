//! Molecular dynamics.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use numpy::PyArray1;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use tesseral_atoms::info::Column;
use tesseral_atoms::{ForceError, InfoValue, Structure, io, units};
use tesseral_simulate::SimulateError;
use tesseral_simulate::analysis::{self, RadialSettings};
use tesseral_simulate::dynamics::{self, Ensemble, Ramp, Velocities, suggested_time_step};
use tesseral_simulate::guards::{Guards, Wish};
use tesseral_simulate::md::{self as run, Event, MakeField, Observer, Outcome, Progress, Run, Status, Timing};
use tesseral_simulate::trajectory::Format;

use crate::errors::Failure;
use crate::field::{Field, Loaded};
use crate::process::{detached, interruptible};
use crate::structures::{Arrays, rows};

/// What to run, in the words and units of the command line.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct Arguments {
    folder: PathBuf,
    ensemble: String,
    temperature: (f64, f64),
    pressure: Option<(f64, f64)>,
    anisotropic: bool,
    steps: Option<u64>,
    time: Option<f64>,
    time_step: Option<f64>,
    seed: u64,
    replicas: usize,
    keep_velocities: bool,
    fixed: Vec<usize>,
    fix_centre_of_mass: bool,
    remove_rotation: bool,
    masses: BTreeMap<String, f64>,
    friction: f64,
    thermostat_time: f64,
    chain: usize,
    barostat_time: f64,
    compressibility: f64,
    save_every: Option<u64>,
    log_every: Option<u64>,
    restart_every: u64,
    format: String,
    rdf_max: f64,
    analysis: bool,
    guards: Vec<String>,
    rollbacks: u32,
    calm_steps: u64,
    skin: f64,
    report: bool,
    resume: bool,
    overwrite: bool,
}

impl Arguments {
    fn steps(&self, time_step: f64) -> Result<Option<u64>, Failure> {
        match (self.steps, self.time) {
            (Some(_), Some(_)) => Err(Failure::input("both steps and time are given").hint("one follows from the other")),
            (Some(steps), None) => Ok(Some(steps)),
            (None, Some(time)) if time.is_finite() && time > 0.0 => Ok(Some((time * 1000.0 / time_step).round() as u64)),
            (None, Some(time)) => Err(Failure::input(format!("time={time}: a positive number of ps is needed"))),
            (None, None) => Ok(None),
        }
    }

    fn ensemble(&self) -> Result<Ensemble, Failure> {
        let (time, barostat_time, anisotropic) = (self.thermostat_time, self.barostat_time, self.anisotropic);
        let ensemble = match self.ensemble.as_str() {
            "nve" => Ensemble::Nve,
            "langevin" => Ensemble::Langevin { friction: self.friction / 1000.0 },
            "nose-hoover" => Ensemble::NoseHoover { time, chain: self.chain },
            "bussi" | "nvt" => Ensemble::Bussi { time },
            "npt-scr" | "npt" => {
                Ensemble::StochasticCell { time, barostat_time, compressibility: self.compressibility / units::GPA, anisotropic }
            }
            "npt-mtk" => Ensemble::Mtk { time, barostat_time, anisotropic },
            other => {
                return Err(Failure::input(format!("`{other}` is no ensemble"))
                    .hint("nve, langevin, nose-hoover, bussi (nvt), npt-scr (npt) and npt-mtk are"));
            }
        };
        if !ensemble.has_barostat() && (self.pressure.is_some() || self.anisotropic) {
            let what = if self.anisotropic { "anisotropic" } else { "pressure" };
            return Err(Failure::input(format!("{what} is about constant pressure")).hint("choose ensemble=\"npt-scr\" or \"npt-mtk\""));
        }
        Ok(ensemble)
    }

    fn dynamics(&self, structure: &Structure) -> Result<dynamics::Settings, Failure> {
        let ramp = |(from, to): (f64, f64), unit: f64| Ramp { from: from * unit, to: to * unit };
        let mut dynamics = dynamics::Settings {
            ensemble: self.ensemble()?,
            temperature: ramp(self.temperature, 1.0),
            pressure: self.pressure.map_or(Ramp::constant(0.0), |pressure| ramp(pressure, units::GPA)),
            seed: self.seed,
            fixed: self.fixed.clone(),
            fix_centre_of_mass: self.fix_centre_of_mass,
            remove_rotation: self.remove_rotation,
            masses: self.masses.clone(),
            velocities: if self.keep_velocities { Velocities::Given } else { Velocities::Drawn },
            ..dynamics::Settings::default()
        };
        dynamics.time_step = match self.time_step {
            Some(time_step) if time_step.is_finite() && time_step > 0.0 => time_step,
            Some(time_step) => return Err(Failure::input(format!("time_step={time_step}: a positive number of fs is needed"))),
            None => suggested_time_step(&dynamics.masses_of(structure)?).unwrap_or(1.0),
        };
        dynamics.steps = self.steps(dynamics.time_step)?.ok_or_else(|| Failure::input("how long?").hint("give steps, or time in ps"))?;
        Ok(dynamics)
    }

    fn wishes(&self) -> Result<Vec<Wish>, Failure> {
        let read = |text: &String| text.parse().map_err(|what| Failure::input(format!("guard \"{text}\": {what}")));
        self.guards.iter().map(read).collect()
    }

    fn settings(&self, structure: &Structure, dynamics: &dynamics::Settings) -> Result<run::Settings, Failure> {
        let mut guards = Guards::usual(dynamics.ensemble == Ensemble::Nve);
        self.wishes()?.into_iter().for_each(|wish| guards.set(wish));
        let usual = run::Settings::for_run(dynamics.steps, guards);
        let analysis = if self.analysis { self.analysis(structure, dynamics)? } else { analysis::Settings::default() };
        Ok(run::Settings {
            save_every: self.save_every.unwrap_or(usual.save_every),
            log_every: self.log_every.unwrap_or(usual.log_every),
            restart_every: self.restart_every,
            format: match self.format.as_str() {
                "extxyz" => Format::ExtendedXyz,
                "extxyz-gz" => Format::ExtendedXyzGz,
                "netcdf" => Format::NetCdf,
                other => return Err(Failure::input(format!("`{other}` is no format")).hint("extxyz, extxyz-gz and netcdf are")),
            },
            analysis,
            most_rollbacks: self.rollbacks,
            calm_steps: self.calm_steps,
            ..usual
        })
    }

    fn analysis(&self, structure: &Structure, dynamics: &dynamics::Settings) -> Result<analysis::Settings, Failure> {
        if !(self.rdf_max.is_finite() && self.rdf_max > 0.0) {
            return Err(Failure::input(format!("rdf_max={}: a positive length in Å is needed", self.rdf_max)));
        }
        let usual = analysis::Settings::for_run(structure, dynamics.steps, dynamics.time_step);
        let every = usual.radial.map(|radial| radial.every);
        let radial =
            RadialSettings::for_structure(structure, self.rdf_max).zip(every).map(|(radial, every)| RadialSettings { every, ..radial });
        Ok(analysis::Settings { radial, ..usual })
    }

    /// Makes the folder of a new run.
    fn make_folder(&self) -> Result<(), Failure> {
        let folder = &self.folder;
        if folder.read_dir().is_ok_and(|mut entries| entries.next().is_some()) && !self.overwrite {
            return Err(Failure::input(format!("{} is not empty", folder.display()))
                .hint("go on with what was begun there (resume=True), replace it (overwrite=True), or name another folder"));
        }
        std::fs::create_dir_all(folder).map_err(SimulateError::io(folder))?;
        Ok(())
    }

    /// A new run, or the one in the folder.
    fn run<'l>(&self, loaded: &'l Loaded, structure: Option<Structure>) -> Result<Run<'l>, Failure> {
        let skin = self.skin;
        if !(skin >= 0.0 && skin.is_finite()) {
            return Err(Failure::input(format!("skin={skin}: a length of at least 0 Å is needed")));
        }
        let model = format!("{}, skin {skin} Å", loaded.identity());
        let make_field: MakeField<'l> = Box::new(move || Ok(loaded.members.force_field(skin).map_err(ForceError::new)?));
        let Some(structure) = structure.filter(|_| !self.resume) else {
            return self.resumed(loaded, &model, make_field);
        };
        loaded.members.check(&structure)?;
        let dynamics = self.dynamics(&structure)?;
        let settings = self.settings(&structure, &dynamics)?;
        dynamics.check(&structure)?;
        settings.check()?;
        // The folder is made last: a structure that cannot be evaluated leaves nothing behind.
        let existed = self.folder.exists();
        self.make_folder()?;
        let made = Run::create(&self.folder, &model, structure, &dynamics, self.replicas, settings, make_field);
        Ok(made.inspect_err(|_| {
            if !existed {
                // Only if nothing is in it.
                std::fs::remove_dir(&self.folder).ok();
            }
        })?)
    }

    fn resumed<'l>(&self, loaded: &Loaded, model: &str, make_field: MakeField<'l>) -> Result<Run<'l>, Failure> {
        let mut run = Run::resume(&self.folder, make_field)?;
        if model != run.model() {
            let message = format!("the run in {} was computed with {}, not with {model}", self.folder.display(), run.model());
            return Err(Failure::input(message).hint("give the same model, precision, device and skin, or begin another run"));
        }
        loaded.members.check(run.initial())?;
        if let Some(steps) = self.steps(run.time_step())? {
            if (steps as f64) < run.progress().done {
                let message = format!("the run has done {} steps already, {steps} are asked for", run.progress().done);
                return Err(Failure::input(message));
            }
            run.set_steps(steps);
        }
        if !self.guards.is_empty() {
            let mut guards = run.settings().guards.clone();
            self.wishes()?.into_iter().for_each(|wish| guards.set(wish));
            run.set_guards(&guards);
        }
        Ok(run)
    }
}

/// Ends a run when it is asked to, and says what guards do.
struct Watcher {
    stop: Arc<AtomicBool>,
    replicas: usize,
}

impl Observer for Watcher {
    fn step(&mut self, _: Progress) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn event(&mut self, replica: usize, event: &Event) {
        if self.replicas > 1 {
            tracing::warn!("replica {replica}: {}", event.describe());
        } else {
            tracing::warn!("{}", event.describe());
        }
    }
}

/// How a run has ended.
struct Ended {
    outcome: &'static str,
    /// What guards say of the replicas that they ended.
    violations: Vec<(usize, String)>,
    replicas: usize,
    done: Progress,
    timing: Timing,
    trajectory: String,
}

/// Runs molecular dynamics in a folder.
#[pyfunction]
pub(crate) fn md<'py>(py: Python<'py>, field: &Field, arrays: Option<Arrays<'py>>, arguments: Arguments) -> PyResult<Bound<'py, PyDict>> {
    let structure = arrays.map(|arrays| arrays.to_structure()).transpose().map_err(|failure| failure.raise(py))?;
    let ended = interruptible(py, field.threads(), |stop| {
        let loaded = field.loaded()?;
        let mut run = arguments.run(&loaded, structure)?;
        let replicas = run.states().count();
        let ending = run.run(&mut Watcher { stop: stop.clone(), replicas })?;
        if arguments.report && !matches!(ending, Outcome::Interrupted { .. }) {
            run.write_report()?;
        }
        let violations = run.statuses().enumerate().filter_map(|(replica, status)| match status {
            Status::Stopped(violation) => Some((replica, violation.message.clone())),
            Status::Running | Status::Done => None,
        });
        Ok(Ended {
            outcome: match ending {
                Outcome::Done => "done",
                Outcome::Interrupted { .. } => "interrupted",
                Outcome::Stopped(_) => "stopped",
            },
            violations: violations.collect(),
            replicas,
            done: run.progress(),
            timing: run.timing(),
            trajectory: format!("trajectory.{}", run.settings().format.extension()),
        })
    })?;
    let result = PyDict::new(py);
    result.set_item("outcome", ended.outcome)?;
    result.set_item("violations", ended.violations)?;
    result.set_item("replicas", ended.replicas)?;
    result.set_item("steps", ended.done.done)?;
    result.set_item("of_steps", ended.done.total)?;
    result.set_item("seconds", ended.timing.total)?;
    result.set_item("seconds_in_forces", ended.timing.forces)?;
    result.set_item("trajectory", ended.trajectory)?;
    Ok(result)
}

/// The frames of a file that [`md`] wrote.
#[pyfunction]
pub(crate) fn read_frames<'py>(py: Python<'py>, path: PathBuf) -> PyResult<Bound<'py, PyList>> {
    let frames = detached(py, 1, |_| read(&path))?;
    let list = PyList::empty(py);
    for structure in frames {
        list.append(frame(py, structure)?)?;
    }
    Ok(list)
}

fn read(path: &Path) -> Result<Vec<Structure>, Failure> {
    let mut structures = Vec::new();
    for frame in io::read(path)? {
        structures.push(frame?);
    }
    Ok(structures)
}

fn frame(py: Python<'_>, structure: Structure) -> PyResult<Bound<'_, PyDict>> {
    let frame = PyDict::new(py);
    frame.set_item("numbers", PyArray1::from_iter(py, structure.numbers.iter().map(|&z| i64::from(z))))?;
    frame.set_item("positions", rows(py, structure.positions)?)?;
    frame.set_item("cell", rows(py, structure.cell.vectors.to_vec())?)?;
    frame.set_item("pbc", structure.pbc)?;
    let info = PyDict::new(py);
    for (key, value) in structure.info {
        match value {
            InfoValue::Bool(value) => info.set_item(key, value)?,
            InfoValue::Int(value) => info.set_item(key, value)?,
            InfoValue::Real(value) => info.set_item(key, value)?,
            InfoValue::Text(value) => info.set_item(key, value)?,
            // The stress, as nine numbers in rows.
            InfoValue::RealMatrix(matrix) => info.set_item(key, PyArray1::from_slice(py, matrix.data()))?,
            InfoValue::RealVector(values) => info.set_item(key, PyArray1::from_vec(py, values))?,
            _ => {}
        }
    }
    frame.set_item("info", info)?;
    let arrays = PyDict::new(py);
    for (key, array) in structure.arrays {
        match (array.width(), array.values()) {
            (1, Column::Real(values)) => arrays.set_item(key, PyArray1::from_slice(py, values))?,
            (3, Column::Real(values)) => arrays.set_item(key, rows(py, values.as_chunks::<3>().0.to_vec())?)?,
            _ => {}
        }
    }
    frame.set_item("arrays", arrays)?;
    Ok(frame)
}
