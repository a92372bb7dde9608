//! Many structures that are evaluated, or relaxed at a fixed cell or volume, each for itself. What is finished is kept in a file, so that a run that was killed computes only the rest.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tesseral_atoms::{Evaluation, ForceField, Structure};

use crate::error::SimulateError;
use crate::files::GrowingFile;
use crate::relax::optimiser::longest;
use crate::relax::{self, CellFreedom, Ended, Relaxation};

/// Structures with more atoms than this are evaluated one after another, so that the force field keeps what it knows of them.
const LARGE: usize = 200;
/// Small structures are evaluated together up to this many atoms, so that what is finished is soon on disk.
const TOGETHER: usize = 2000;

/// How atoms are relaxed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Internal {
    /// Largest force on an atom that counts as none, eV/Å.
    pub tolerance: f64,
    /// Steps after which a structure that is not relaxed is left as it is.
    pub steps: u64,
    /// Where the cell changes its shape too, at its volume: largest component of the stress, less its trace, that counts as none, eV/Å³.
    pub shape: Option<f64>,
}

impl Default for Internal {
    fn default() -> Self {
        Self { tolerance: 1e-3, steps: 500, shape: None }
    }
}

/// One finished structure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settled {
    /// Where its atoms are, Å.
    pub positions: Vec<[f64; 3]>,
    /// Rows are lattice vectors, Å.
    pub cell: [[f64; 3]; 3],
    /// Energy, eV.
    pub energy: f64,
    /// Forces, eV/Å.
    pub forces: Vec<[f64; 3]>,
    /// Stress, eV/Å³, positive when tensile.
    pub stress: Option<[[f64; 3]; 3]>,
    /// Steps of the relaxation.
    pub steps: u64,
    /// Largest force on an atom, eV/Å.
    pub largest_force: f64,
    /// False if the forces are still larger than was asked for.
    pub converged: bool,
    /// How far a committee disagreed: standard deviation of the energy, eV, and the largest of a force, eV/Å.
    pub spread: Option<[f64; 2]>,
}

/// What is finished of a run, on disk too if it is to be resumed.
#[derive(Debug, Default)]
pub struct Ledger {
    file: Option<GrowingFile>,
    done: BTreeMap<usize, Settled>,
}

#[derive(Serialize, Deserialize)]
struct Heading {
    run: Value,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    index: usize,
    result: Settled,
}

impl Ledger {
    /// Nothing is kept.
    pub fn in_memory() -> Self {
        Self::default()
    }

    /// A new file, with one line of JSON for `run`, which says what is computed, and one for every structure that is finished.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn create(path: &Path, run: &Value) -> Result<Self, SimulateError> {
        let mut file = GrowingFile::create(path)?;
        append(&mut file, &Heading { run: run.clone() })?;
        Ok(Self { file: Some(file), done: BTreeMap::new() })
    }

    /// What a run left behind that computed the same; what it wrote in part is cut off.
    ///
    /// # Errors
    /// If the file cannot be read, is damaged, or belongs to another run.
    pub fn resume(path: &Path, run: &Value) -> Result<Self, SimulateError> {
        let text = std::fs::read(path).map_err(SimulateError::io(path))?;
        let wrong = |what: &str| SimulateError::Resume { path: path.to_owned(), what: what.to_owned() };
        let whole = text.iter().rposition(|&b| b == b'\n').map_or(0, |last| last + 1);
        if whole == 0 {
            // Killed before its first line was out: nothing is lost.
            return Self::create(path, run);
        }
        let mut lines = text[..whole].split_inclusive(|&b| b == b'\n');
        let heading: Heading =
            lines.next().and_then(|line| serde_json::from_slice(line).ok()).ok_or_else(|| wrong("its first line is damaged"))?;
        if heading.run != *run {
            return Err(wrong("belongs to a run with another structure, model or settings"));
        }
        let mut done = BTreeMap::new();
        for (number, line) in lines.enumerate() {
            let entry: Entry = serde_json::from_slice(line).map_err(|_| wrong(&format!("line {} is damaged", number + 2)))?;
            done.insert(entry.index, entry.result);
        }
        Ok(Self { file: Some(GrowingFile::cut_back(path, whole as u64)?), done })
    }

    /// The result at an index, if it is finished.
    pub fn get(&self, index: usize) -> Option<&Settled> {
        self.done.get(&index)
    }

    /// How many are finished.
    pub fn len(&self) -> usize {
        self.done.len()
    }

    /// True if nothing is finished.
    pub fn is_empty(&self) -> bool {
        self.done.is_empty()
    }

    fn record(&mut self, index: usize, result: Settled) -> Result<(), SimulateError> {
        let entry = Entry { index, result };
        if let Some(file) = &mut self.file {
            append(file, &entry)?;
        }
        self.done.insert(index, entry.result);
        Ok(())
    }
}

fn append(file: &mut GrowingFile, line: &impl Serialize) -> Result<(), SimulateError> {
    let mut text = serde_json::to_vec(line).map_err(|e| SimulateError::io(file.path())(e.into()))?;
    text.push(b'\n');
    file.append(&text)?;
    file.sync().map(drop)
}

/// A structure to be finished, and where its result belongs in the [`Ledger`].
#[derive(Debug, Clone)]
pub struct Job {
    /// Index in the ledger.
    pub index: usize,
    /// For messages: "strain 3 of 12".
    pub name: String,
    /// The structure.
    pub structure: Structure,
}

/// What a run says after every round: how many structures are finished, of the jobs at hand. The answer is true if the run should end.
pub type Tick<'a> = &'a mut dyn FnMut(usize, usize) -> bool;

/// Evaluates structures, or with `internal` relaxes their atoms, `fixed` atoms excepted. Results go to the ledger; those that are there already are not
/// computed again. False if `tick` has ended it.
///
/// Every structure is treated for itself, so that a result does not depend on what else is computed.
///
/// # Errors
/// If a structure cannot be evaluated, or the ledger cannot be written.
pub fn settle(
    jobs: &[Job],
    internal: Option<&Internal>,
    fixed: &[usize],
    field: &mut dyn ForceField,
    ledger: &mut Ledger,
    tick: Tick<'_>,
) -> Result<bool, SimulateError> {
    let mut open: Vec<&Job> = jobs.iter().filter(|job| ledger.get(job.index).is_none()).collect();
    let mut finished = jobs.len() - open.len();
    if tick(finished, jobs.len()) {
        return Ok(open.is_empty());
    }
    while !open.is_empty() {
        let mut atoms = 0;
        let count = open.iter().take_while(|job| {
            atoms += job.structure.len();
            atoms <= TOGETHER
        });
        let count = if open[0].structure.len() > LARGE { 1 } else { count.count().max(1) };
        let group: Vec<&Job> = open.drain(..count).collect();
        let mut active = group.into_iter().map(|job| Active::new(job, internal, fixed)).collect::<Result<Vec<_>, _>>()?;
        let mut evaluation = Evaluation::default();
        while !active.is_empty() {
            // What a force field keeps of a structure changes last digits, so that nothing is kept from one to the next.
            let results: Vec<Result<Evaluation, _>> = if let [one @ Active { way: Way::Relaxes(_), .. }] = active.as_slice() {
                vec![field.evaluate_into(one.structure(), &mut evaluation).map(|()| std::mem::take(&mut evaluation))]
            } else {
                let structures: Vec<Structure> = active.iter().map(|a| a.structure().clone()).collect();
                field.evaluate_many(&structures)
            };
            let mut going = Vec::new();
            for (mut one, result) in active.into_iter().zip(results) {
                let result = result.map_err(SimulateError::force(&one.job.name))?;
                match one.advance(result, fixed)? {
                    None => going.push(one),
                    Some(mut settled) => {
                        if field.spread().is_some() {
                            // Of many structures a committee tells the worst alone.
                            let again = field.evaluate(one.structure()).map_err(SimulateError::force(&one.job.name))?;
                            settled.energy = again.energy;
                            settled.forces = again.forces;
                            settled.stress = again.stress;
                            settled.spread = field.spread().map(|s| [s.energy, s.largest_force().map_or(0.0, |(_, f)| f)]);
                        }
                        ledger.record(one.job.index, settled)?;
                        finished += 1;
                    }
                }
            }
            active = going;
            if tick(finished, jobs.len()) {
                return Ok(finished == jobs.len());
            }
        }
    }
    Ok(true)
}

/// A structure on its way.
struct Active<'a> {
    job: &'a Job,
    way: Way,
}

/// Where it goes.
enum Way {
    /// Nowhere: it is evaluated as it is.
    Stays,
    /// Its atoms are relaxed.
    Relaxes(Box<Relaxation>),
}

impl<'a> Active<'a> {
    fn new(job: &'a Job, internal: Option<&Internal>, fixed: &[usize]) -> Result<Self, SimulateError> {
        let Some(internal) = internal else { return Ok(Self { job, way: Way::Stays }) };
        let mut settings = relax::Settings { max_force: internal.tolerance, steps: internal.steps, ..relax::Settings::default() };
        if let Some(max_stress) = internal.shape {
            (settings.cell, settings.max_stress) = (CellFreedom::FixedVolume, max_stress);
        }
        let mut movable = Vec::new();
        if !fixed.is_empty() {
            movable.resize(job.structure.len(), [true; 3]);
            for &atom in fixed {
                movable[atom] = [false; 3];
            }
        }
        Ok(Self { job, way: Way::Relaxes(Box::new(Relaxation::new(job.structure.clone(), settings, movable)?)) })
    }

    /// What is to be evaluated.
    fn structure(&self) -> &Structure {
        match &self.way {
            Way::Stays => &self.job.structure,
            Way::Relaxes(relaxation) => relaxation.structure(),
        }
    }

    /// Takes an evaluation: the result if it is the last one, otherwise atoms have moved.
    fn advance(&mut self, evaluation: Evaluation, fixed: &[usize]) -> Result<Option<Settled>, SimulateError> {
        let name = &self.job.name;
        if !evaluation.energy.is_finite() || evaluation.forces.as_flattened().iter().any(|x| !x.is_finite()) {
            let what = format!("{name}: energy or forces are not finite");
            return Err(SimulateError::input(what, "check the structure, and the model on it with `tesseral evaluate`"));
        }
        let (steps, converged, evaluation) = match &mut self.way {
            Way::Stays => (0, true, evaluation),
            Way::Relaxes(relaxation) => {
                relaxation.complete(evaluation);
                let converged = match relaxation.ended() {
                    None => return Ok(None),
                    Some(Ended::Converged) => true,
                    Some(Ended::Steps | Ended::Stuck) => false,
                    Some(other) => {
                        return Err(SimulateError::input(format!("{name}: {other}"), "relax the structure first, with `tesseral relax`"));
                    }
                };
                (relaxation.steps(), converged, relaxation.evaluation().unwrap_or_default())
            }
        };
        let mut free = evaluation.forces.clone();
        for &atom in fixed {
            free[atom] = [0.0; 3];
        }
        Ok(Some(Settled {
            positions: self.structure().positions.clone(),
            cell: self.structure().cell.vectors,
            energy: evaluation.energy,
            forces: evaluation.forces,
            stress: evaluation.stress,
            steps,
            largest_force: longest(&free),
            converged,
            spread: None,
        }))
    }
}
