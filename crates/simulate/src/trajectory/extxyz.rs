//! Frames as extended XYZ.

use std::io::Write as _;
use std::path::PathBuf;

use flate2::Compression;
use flate2::write::GzEncoder;
use tesseral_atoms::io::write_extxyz;
use tesseral_atoms::{Array, InfoValue, Structure};

use super::{Position, Snapshot};
use crate::error::SimulateError;
use crate::files::GrowingFile;

/// Names of what a frame carries; the same of the structure that the run began with do not hold any more.
const RESULTS: [&str; 12] =
    ["energy", "free_energy", "forces", "stress", "virial", "momenta", "velocities", "step", "time", "temperature", "energies", "magmoms"];

pub(super) struct TextWriter {
    pub(super) file: GrowingFile,
    frames: u64,
    compressed: bool,
    /// The structure with its results, in the memory of the last frame.
    scratch: Structure,
    text: Vec<u8>,
}

impl TextWriter {
    pub(super) fn create(path: PathBuf, compressed: bool) -> Result<Self, SimulateError> {
        Ok(Self::new(GrowingFile::create(path)?, 0, compressed))
    }

    pub(super) fn cut_back(path: PathBuf, compressed: bool, to: Position) -> Result<Self, SimulateError> {
        Ok(Self::new(GrowingFile::cut_back(path, to.len)?, to.frames, compressed))
    }

    fn new(file: GrowingFile, frames: u64, compressed: bool) -> Self {
        Self { file, frames, compressed, scratch: Structure::default(), text: Vec::new() }
    }

    pub(super) fn write(&mut self, snapshot: &Snapshot<'_>) -> Result<(), SimulateError> {
        fill(&mut self.scratch, snapshot);
        self.text.clear();
        write_extxyz(&mut self.text, &self.scratch)?;
        if self.compressed {
            let mut encoder = GzEncoder::new(Vec::with_capacity(self.text.len() / 2), Compression::default());
            let member = encoder.write_all(&self.text).and_then(|()| encoder.finish()).map_err(SimulateError::io(self.file.path()))?;
            self.file.append(&member)?;
        } else {
            self.file.append(&self.text)?;
        }
        self.frames += 1;
        Ok(())
    }

    pub(super) fn sync(&mut self) -> Result<Position, SimulateError> {
        Ok(Position { len: self.file.sync()?, frames: self.frames })
    }
}

/// The structure of a snapshot, with its results under ASE's names.
pub(super) fn fill(to: &mut Structure, snapshot: &Snapshot<'_>) {
    let (from, at) = (snapshot.structure, snapshot.evaluation);
    to.cell = from.cell;
    to.pbc = from.pbc;
    to.numbers.clone_from(&from.numbers);
    to.positions.clone_from(&from.positions);
    to.info.clear();
    to.info.insert("step".into(), InfoValue::Int(i64::try_from(snapshot.step).unwrap_or(i64::MAX)));
    to.info.insert("time".into(), InfoValue::Real(snapshot.time));
    to.info.insert("temperature".into(), InfoValue::Real(snapshot.temperature));
    to.info.insert("energy".into(), InfoValue::Real(at.energy));
    if let Some(stress) = at.stress {
        to.info.insert("stress".into(), InfoValue::RealVector(stress.as_flattened().to_vec()));
    }
    let kept = |name: &String| !RESULTS.contains(&name.as_str());
    to.info.extend(from.info.iter().filter(|(name, _)| kept(name)).map(|(name, value)| (name.clone(), value.clone())));
    to.arrays.clear();
    to.arrays.extend(from.arrays.iter().filter(|(name, _)| kept(name)).map(|(name, array)| (name.clone(), array.clone())));
    let momenta: Vec<[f64; 3]> = snapshot.velocities.iter().zip(snapshot.masses).map(|(v, m)| v.map(|x| x * m)).collect();
    to.arrays.insert("momenta".into(), Array::vectors(&momenta));
    to.arrays.insert("forces".into(), Array::vectors(&at.forces));
}

/// A structure with its results, for a file of its own.
pub(crate) fn annotated(snapshot: &Snapshot<'_>) -> Structure {
    let mut structure = Structure::default();
    fill(&mut structure, snapshot);
    structure
}
