//! Many relaxations, a window of them at a time, that can be killed at any moment and resumed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tesseral_atoms::io::{self, write_atomically, write_extxyz, write_extxyz_file};
use tesseral_atoms::labels::voigt;
use tesseral_atoms::{ForceField, Spread, Structure};

use super::{Relaxation, Saved, Settings, Summary, advance};
use crate::error::SimulateError;
use crate::files::GrowingFile;

/// A structure to relax.
#[derive(Debug, Clone)]
pub struct Job {
    /// The structure, with its metadata.
    pub structure: Structure,
    /// Which Cartesian coordinates of each atom may move; empty, all may.
    pub movable: Vec<[bool; 3]>,
}

/// Where a run writes.
#[derive(Debug, Clone)]
pub struct Files {
    /// The relaxed structures, written at the end, in the order of the input. While the run goes on, `OUTPUT.partial` holds those that are done and `OUTPUT.state` the rest.
    pub output: PathBuf,
    /// Every step: a file if it has the name of one (a single structure), or a folder with a file for each structure.
    pub trajectory: Option<PathBuf>,
}

impl Files {
    /// The state of a run that is not finished.
    pub fn state(&self) -> PathBuf {
        with_suffix(&self.output, ".state")
    }

    /// Structures that are done.
    fn partial(&self) -> PathBuf {
        with_suffix(&self.output, ".partial")
    }

    /// The trajectory of a structure.
    fn trajectory(&self, index: usize) -> Option<PathBuf> {
        let path = self.trajectory.as_ref()?;
        Some(if is_file_name(path) { path.clone() } else { path.join(format!("{index:06}.extxyz")) })
    }
}

/// Whether a trajectory of this name is one file.
pub fn is_file_name(path: &Path) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case("extxyz") || e.eq_ignore_ascii_case("xyz"))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// A relaxation that has ended: the frame that is written, its energies and forces included.
#[derive(Debug, Clone, PartialEq)]
pub struct Done {
    /// The frame, labelled by [`Run`]'s caller.
    pub frame: Structure,
    /// Every evaluation of the first structures of a run, for charts; of others empty.
    pub trace: Vec<Summary>,
}

/// At most so many structures are under way at once…
const STRUCTURES: usize = 256;
/// …with at most so many atoms, but at least one.
const ATOMS: usize = 50_000;
/// So many structures leave their trace.
const TRACED: usize = 12;
/// Of the file of the state.
const VERSION: u32 = 1;

#[derive(Debug)]
struct Active {
    index: usize,
    trajectory: Option<GrowingFile>,
}

/// What is on disk between two rounds.
#[derive(Serialize, Deserialize)]
struct State {
    version: u32,
    /// What the run is about: another one does not go on from here.
    identity: String,
    next: usize,
    rounds: u64,
    finished: Vec<usize>,
    traces: BTreeMap<usize, Vec<Summary>>,
    partial: u64,
    active: Vec<(usize, Option<u64>, Saved)>,
}

/// Relaxes many structures. Those under way are evaluated together; as some end, others take their place. What is computed does not depend on when a run was interrupted.
pub struct Run<'a> {
    jobs: &'a [Job],
    settings: Settings,
    files: Option<Files>,
    identity: String,
    next: usize,
    rounds: u64,
    relaxations: Vec<Relaxation>,
    active: Vec<Active>,
    partial: Option<GrowingFile>,
    finished: Vec<usize>,
    done: Vec<Option<Done>>,
    traces: BTreeMap<usize, Vec<Summary>>,
}

/// Makes the frame that is written of a relaxation that has ended; of a committee, with its disagreement there.
pub type Label<'l> = dyn FnMut(usize, &Relaxation, Option<&Spread>) -> Structure + 'l;

impl<'a> Run<'a> {
    /// A new run. `model` names what computes, so that a run is not resumed with something else.
    ///
    /// Nothing is written until every structure has been found fit: see [`Self::check`].
    ///
    /// # Errors
    /// If a file cannot be created.
    pub fn new(jobs: &'a [Job], settings: &Settings, model: &str, files: Option<Files>) -> Result<Self, SimulateError> {
        Self::check(jobs, settings)?;
        let partial = match &files {
            Some(files) => {
                if let Some(path) = &files.trajectory
                    && !is_file_name(path)
                {
                    std::fs::create_dir_all(path).map_err(SimulateError::io(path))?;
                }
                Some(GrowingFile::create(files.partial())?)
            }
            None => None,
        };
        Ok(Self {
            jobs,
            settings: settings.clone(),
            files,
            identity: identity(jobs, settings, model),
            next: 0,
            rounds: 0,
            relaxations: Vec::new(),
            active: Vec::new(),
            partial,
            finished: Vec::new(),
            done: vec![None; jobs.len()],
            traces: BTreeMap::new(),
        })
    }

    /// Whether all structures can be relaxed with these settings.
    ///
    /// # Errors
    /// The first that cannot, by its index.
    pub fn check(jobs: &[Job], settings: &Settings) -> Result<(), SimulateError> {
        for (index, job) in jobs.iter().enumerate() {
            Relaxation::new(bare(&job.structure), settings.clone(), job.movable.clone()).map_err(|error| match error {
                SimulateError::Input { what, hint } if jobs.len() > 1 => {
                    SimulateError::Input { what: format!("structure {index}: {what}"), hint }
                }
                other => other,
            })?;
        }
        Ok(())
    }

    /// Goes on from what is on disk.
    ///
    /// # Errors
    /// [`SimulateError::Resume`] if that belongs to another run or is damaged.
    pub fn resume(jobs: &'a [Job], settings: &Settings, model: &str, files: Files) -> Result<Self, SimulateError> {
        let path = files.state();
        let damaged = |what: String| SimulateError::Resume { path: path.clone(), what };
        let text = std::fs::read(&path).map_err(SimulateError::io(&path))?;
        let state: State = serde_json::from_slice(&text).map_err(|error| damaged(format!("is no state of a relaxation: {error}")))?;
        let identity = identity(jobs, settings, model);
        if state.version != VERSION {
            return Err(damaged(format!("has version {}, not {VERSION}", state.version)));
        }
        if state.identity != identity {
            return Err(damaged("was begun with other structures, settings or models".to_owned()));
        }
        let fits = |index: usize| index < jobs.len();
        if !state.finished.iter().chain(state.active.iter().map(|(index, ..)| index)).all(|&i| fits(i)) {
            return Err(damaged("names structures that there are not".to_owned()));
        }
        let partial = GrowingFile::cut_back(files.partial(), state.partial)?;
        let mut run = Self {
            jobs,
            settings: settings.clone(),
            identity,
            next: state.next,
            rounds: state.rounds,
            relaxations: Vec::new(),
            active: Vec::new(),
            partial: Some(partial),
            finished: state.finished,
            done: vec![None; jobs.len()],
            traces: state.traces,
            files: Some(files),
        };
        let files = run.files.clone();
        for (index, len, saved) in state.active {
            let trajectory = match (files.as_ref().and_then(|f| f.trajectory(index)), len) {
                (Some(path), Some(len)) => Some(GrowingFile::cut_back(path, len)?),
                (None, None) => None,
                _ => return Err(damaged("was begun with another --trajectory".to_owned())),
            };
            run.relaxations.push(Relaxation::restore(bare(&jobs[index].structure), saved)?);
            run.active.push(Active { index, trajectory });
        }
        if let Some(files) = files.filter(|_| !run.finished.is_empty()) {
            let mut frames = io::read(files.partial())?;
            for &index in &run.finished {
                let frame = frames.next().ok_or_else(|| damaged("misses structures that were done".to_owned()))??;
                run.done[index] = Some(Done { frame, trace: run.traces.get(&index).cloned().unwrap_or_default() });
            }
        }
        Ok(run)
    }

    /// How many structures have ended.
    pub fn finished(&self) -> usize {
        self.finished.len()
    }

    /// Rounds of evaluations so far.
    pub fn rounds(&self) -> u64 {
        self.rounds
    }

    /// Whether all have ended.
    pub fn is_finished(&self) -> bool {
        self.finished.len() == self.jobs.len()
    }

    /// The structure under way that is farthest from its minimum, by its largest force.
    pub fn farthest(&self) -> Option<(&Relaxation, Summary)> {
        let each = self.relaxations.iter().filter_map(|r| Some((r, *r.last()?)));
        each.max_by(|a, b| a.1.max_force.total_cmp(&b.1.max_force))
    }

    /// What has ended; `None` for what has not.
    pub fn done(&self) -> &[Option<Done>] {
        &self.done
    }

    /// One evaluation and one step of each structure under way. Returns the indices of those that have ended.
    ///
    /// # Errors
    /// If a file cannot be written. What a force field finds wrong with a structure ends that structure alone.
    pub fn round(&mut self, field: &mut dyn ForceField, label: &mut Label<'_>) -> Result<Vec<usize>, SimulateError> {
        self.admit()?;
        // The structures as they are evaluated: afterwards they have moved on.
        let recorded = self.active.iter().any(|a| a.trajectory.is_some());
        let before: Vec<Structure> = if recorded { self.relaxations.iter().map(|r| r.bare()).collect() } else { Vec::new() };
        let counts: Vec<usize> = self.relaxations.iter().map(|r| r.trace().len()).collect();
        advance(&mut self.relaxations, field);
        self.rounds += 1;
        for (k, mut structure) in before.into_iter().enumerate() {
            let relaxation = &self.relaxations[k];
            if let (Some(file), Some(evaluation), true) =
                (&mut self.active[k].trajectory, relaxation.evaluation(), relaxation.trace().len() > counts[k])
            {
                structure.info.insert("step".to_owned(), (counts[k] as i64).into());
                structure.set_energy(evaluation.energy);
                structure.set_forces(&evaluation.forces);
                if let Some(stress) = evaluation.stress {
                    structure.set_stress(voigt(stress));
                }
                let mut text = Vec::new();
                write_extxyz(&mut text, &structure)?;
                file.append(&text)?;
            }
        }
        let mut ended = Vec::new();
        let mut k = 0;
        while k < self.relaxations.len() {
            if self.relaxations[k].ended().is_none() {
                k += 1;
                continue;
            }
            let (relaxation, active) = (self.relaxations.remove(k), self.active.remove(k));
            if let Some(mut file) = active.trajectory {
                file.sync()?;
            }
            ended.push(active.index);
            self.end(active.index, &relaxation, field, label)?;
        }
        Ok(ended)
    }

    fn end(
        &mut self,
        index: usize,
        relaxation: &Relaxation,
        field: &mut dyn ForceField,
        label: &mut Label<'_>,
    ) -> Result<(), SimulateError> {
        // The spread of the last batch is that of its most disputed structure: ask again about this one.
        let spread = if field.spread().is_some() && relaxation.last().is_some() && field.evaluate(relaxation.structure()).is_ok() {
            field.spread().cloned()
        } else {
            None
        };
        let frame = label(index, relaxation, spread.as_ref());
        if let Some(partial) = &mut self.partial {
            let mut text = Vec::new();
            write_extxyz(&mut text, &frame)?;
            partial.append(&text)?;
        }
        let mut trace = Vec::new();
        if self.traces.len() < TRACED {
            trace = relaxation.trace().to_vec();
            self.traces.insert(index, trace.clone());
        }
        self.finished.push(index);
        self.done[index] = Some(Done { frame, trace });
        Ok(())
    }

    /// Fills the window.
    fn admit(&mut self) -> Result<(), SimulateError> {
        let mut atoms: usize = self.active.iter().map(|a| self.jobs[a.index].structure.len()).sum();
        while let Some(job) = self.jobs.get(self.next) {
            atoms += job.structure.len();
            if !self.active.is_empty() && (self.active.len() >= STRUCTURES || atoms > ATOMS) {
                break;
            }
            let index = self.next;
            self.next += 1;
            let trajectory = self.files.as_ref().and_then(|f| f.trajectory(index)).map(GrowingFile::create).transpose()?;
            self.relaxations.push(Relaxation::new(bare(&job.structure), self.settings.clone(), job.movable.clone())?);
            self.active.push(Active { index, trajectory });
        }
        Ok(())
    }

    /// Writes the state to disk, from which [`Self::resume`] goes on.
    ///
    /// # Errors
    /// Of the file system. What was saved before stays good.
    pub fn save(&mut self) -> Result<(), SimulateError> {
        let (Some(files), Some(partial)) = (&self.files, &mut self.partial) else { return Ok(()) };
        let partial = partial.sync()?;
        let mut active = Vec::new();
        for (a, relaxation) in self.active.iter_mut().zip(&self.relaxations) {
            let len = a.trajectory.as_mut().map(GrowingFile::sync).transpose()?;
            active.push((a.index, len, relaxation.save().clone()));
        }
        let state = State {
            version: VERSION,
            identity: self.identity.clone(),
            next: self.next,
            rounds: self.rounds,
            finished: self.finished.clone(),
            traces: self.traces.clone(),
            partial,
            active,
        };
        let path = files.state();
        write_atomically(&path, |w| serde_json::to_writer(w, &state).map_err(std::io::Error::from)).map_err(SimulateError::io(&path))
    }

    /// Writes the relaxed structures in the order of the input, and removes what was needed to resume.
    ///
    /// # Errors
    /// Of the file system; the run can then still be resumed.
    pub fn finish(&mut self) -> Result<(), SimulateError> {
        self.save()?;
        let Some(files) = self.files.clone() else { return Ok(()) };
        write_extxyz_file(&files.output, self.done.iter().flatten().map(|d| &d.frame))?;
        self.partial = None;
        for path in [files.state(), files.partial()] {
            std::fs::remove_file(&path).map_err(SimulateError::io(&path))?;
        }
        Ok(())
    }
}

/// A structure without its metadata.
fn bare(structure: &Structure) -> Structure {
    let Structure { cell, pbc, numbers, positions, .. } = structure;
    Structure { cell: *cell, pbc: *pbc, numbers: numbers.clone(), positions: positions.clone(), ..Structure::default() }
}

/// What a run is about, in a few words: settings and models as they are, structures by a hash (FNV-1a) of all their bits.
fn identity(jobs: &[Job], settings: &Settings, model: &str) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    let mut add = |bytes: &[u8]| {
        for &byte in bytes {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    };
    for job in jobs {
        let s = &job.structure;
        add(&(s.len() as u64).to_le_bytes());
        add(&s.numbers);
        s.cell.vectors.iter().chain(&s.positions).flatten().for_each(|x| add(&x.to_bits().to_le_bytes()));
        s.pbc.iter().chain(job.movable.iter().flatten()).for_each(|&b| add(&[u8::from(b)]));
    }
    format!("{} structures {hash:016x}, {settings:?}, {model}", jobs.len())
}
