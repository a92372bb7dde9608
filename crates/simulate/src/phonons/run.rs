//! Forces of displaced supercells, kept in a file so that a killed run computes only the rest.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tesseral_atoms::{ForceField, Structure};

use super::displacements::Displacement;
use super::phonopy::ForceSets;
use super::supercell::Supercell;
use crate::error::SimulateError;
use crate::files::GrowingFile;

/// Structures are evaluated together up to this many atoms.
const ATOMS_TOGETHER: usize = 2000;

/// What is kept of one evaluation: number 0 is the supercell at rest, number k the displacement k − 1.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    number: usize,
    forces: Vec<[f64; 3]>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    spread: Option<f64>,
}

/// What a file of forces is about; one of something else is not gone on with.
#[derive(Serialize)]
struct Heading<'a> {
    forces_of: &'a str,
    cell: [[f64; 3]; 3],
    numbers: &'a [u8],
    positions: &'a [[f64; 3]],
    displacements: Vec<(usize, [f64; 3])>,
}

/// The forces of a supercell at rest and of all its displacements, as far as they have been computed.
#[derive(Debug)]
pub struct Calculation {
    displacements: Vec<Displacement>,
    structure: Structure,
    done: Vec<Option<Record>>,
    file: Option<GrowingFile>,
}

impl Calculation {
    /// A calculation that is kept in memory alone.
    pub fn new(supercell: &Supercell, displacements: Vec<Displacement>) -> Self {
        let done = vec![None; displacements.len() + 1];
        Self { displacements, structure: supercell.structure.clone(), done, file: None }
    }

    /// Begins a file of forces; what was there is lost. `what` says what computes them: the model and its settings.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn create(supercell: &Supercell, displacements: Vec<Displacement>, path: &Path, what: &str) -> Result<Self, SimulateError> {
        let mut this = Self::new(supercell, displacements);
        let mut file = GrowingFile::create(path)?;
        file.append(this.heading(path, what)?.as_bytes())?;
        file.sync()?;
        this.file = Some(file);
        Ok(this)
    }

    /// Goes on with a file of forces: evaluations that are complete are taken from it.
    ///
    /// # Errors
    /// If the file cannot be read, or is about something else.
    pub fn resume(supercell: &Supercell, displacements: Vec<Displacement>, path: &Path, what: &str) -> Result<Self, SimulateError> {
        let text = std::fs::read(path).map_err(SimulateError::io(path))?;
        let whole = text.iter().rposition(|b| *b == b'\n').map_or(0, |end| end + 1);
        if whole == 0 {
            // Killed before anything was in it.
            return Self::create(supercell, displacements, path, what);
        }
        let damaged = |what: String| SimulateError::Resume { path: PathBuf::from(path), what };
        let mut this = Self::new(supercell, displacements);
        let text = std::str::from_utf8(&text[..whole]).map_err(|_| damaged("is not text".to_owned()))?;
        let heading = this.heading(path, what)?;
        let Some(records) = text.strip_prefix(heading.as_str()) else {
            return Err(damaged("holds forces of another structure, supercell, displacement or model".to_owned()));
        };
        for (line, record) in records.lines().enumerate() {
            let record: Record = serde_json::from_str(record).map_err(|e| damaged(format!("line {}: {e}", line + 2)))?;
            if record.number >= this.done.len() || record.forces.len() != this.structure.len() {
                return Err(damaged(format!("line {} does not belong here", line + 2)));
            }
            let number = record.number;
            this.done[number] = Some(record);
        }
        this.file = Some(GrowingFile::cut_back(path, whole as u64)?);
        Ok(this)
    }

    fn heading(&self, path: &Path, what: &str) -> Result<String, SimulateError> {
        let heading = Heading {
            forces_of: what,
            cell: self.structure.cell.vectors,
            numbers: &self.structure.numbers,
            positions: &self.structure.positions,
            displacements: self.displacements.iter().map(|d| (d.atom, d.vector)).collect(),
        };
        let mut text = serde_json::to_string(&heading).map_err(|e| SimulateError::io(path)(e.into()))?;
        text.push('\n');
        Ok(text)
    }

    /// Number of evaluations there are to do, the one at rest included.
    pub fn total(&self) -> usize {
        self.done.len()
    }

    /// Number of evaluations that are done.
    pub fn completed(&self) -> usize {
        self.done.iter().flatten().count()
    }

    /// True if everything is done.
    pub fn is_complete(&self) -> bool {
        self.completed() == self.total()
    }

    /// Evaluates what is missing, several structures at once where they are small. After each batch its forces are on disk, and `go_on` is asked with the number of evaluations
    /// done; where it says no, the rest is left for later. Returns whether all is done.
    ///
    /// # Errors
    /// If an evaluation fails, or the file cannot be written.
    pub fn run(&mut self, field: &mut dyn ForceField, go_on: &mut dyn FnMut(usize) -> bool) -> Result<bool, SimulateError> {
        let missing: Vec<usize> = (0..self.done.len()).filter(|&k| self.done[k].is_none()).collect();
        let together = (ATOMS_TOGETHER / self.structure.len().max(1)).max(1);
        for numbers in missing.chunks(together) {
            if !go_on(self.completed()) {
                return Ok(false);
            }
            let structures: Vec<Structure> = numbers.iter().map(|&k| self.displaced(k)).collect();
            let results = field.evaluate_many(&structures);
            let spread = field.spread().and_then(|s| s.largest_force()).map(|s| s.1);
            for (&number, result) in numbers.iter().zip(results) {
                let during = || match number {
                    0 => "the supercell at rest".to_owned(),
                    k => format!("displacement {k} of {}, of atom {}", self.displacements.len(), self.displacements[k - 1].atom),
                };
                let evaluation = result.map_err(|e| SimulateError::force(during())(e))?;
                if let Some(atom) = evaluation.forces.iter().position(|f| f.iter().any(|x| !x.is_finite())) {
                    return Err(SimulateError::input(
                        format!("{}: the force on atom {atom} is {:?}", during(), evaluation.forces[atom]),
                        "is the structure one that the model can describe?",
                    ));
                }
                let record = Record { number, forces: evaluation.forces, spread };
                if let Some(file) = &mut self.file {
                    let mut line = serde_json::to_string(&record).map_err(|e| SimulateError::io(file.path())(e.into()))?;
                    line.push('\n');
                    file.append(line.as_bytes())?;
                }
                self.done[number] = Some(record);
            }
            if let Some(file) = &mut self.file {
                file.sync()?;
            }
        }
        go_on(self.completed());
        Ok(true)
    }

    fn displaced(&self, number: usize) -> Structure {
        let mut structure = self.structure.clone();
        if let Some(d) = number.checked_sub(1).map(|k| self.displacements[k]) {
            for k in 0..3 {
                structure.positions[d.atom][k] += d.vector[k];
            }
        }
        structure
    }

    /// The largest force at rest, eV/Å, and its atom: what is left of it means that the crystal is not relaxed.
    pub fn largest_force_at_rest(&self) -> Option<(usize, f64)> {
        let forces = &self.done.first()?.as_ref()?.forces;
        forces.iter().map(|f| crate::matrix::norm(*f)).enumerate().max_by(|a, b| a.1.total_cmp(&b.1))
    }

    /// The largest disagreement of a committee about a force, eV/Å.
    pub fn largest_spread(&self) -> Option<f64> {
        self.done.iter().flatten().filter_map(|r| r.spread).max_by(f64::total_cmp)
    }

    /// Displacements with the forces that they cause: those at rest taken off, which leaves less of the error of one-sided differences. `None` while some are missing.
    pub fn force_sets(&self) -> Option<ForceSets> {
        let rest = &self.done.first()?.as_ref()?.forces;
        let caused = |r: &Option<Record>| -> Option<Vec<[f64; 3]>> {
            Some(r.as_ref()?.forces.iter().zip(rest).map(|(f, r)| crate::matrix::subtract(*f, *r)).collect())
        };
        let forces = self.done[1..].iter().map(caused).collect::<Option<Vec<_>>>()?;
        Some(ForceSets { displacements: self.displacements.clone(), forces })
    }
}
