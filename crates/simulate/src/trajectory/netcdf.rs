//! Frames as AMBER NetCDF.
//!
//! The AMBER convention 1.0 (<https://ambermd.org/netcdf/nctraj.xhtml>) in the classic format with 64-bit offsets: a header, then one record of fixed length a frame. Units
//! are the convention's: ps, Å, Å/ps, kcal/mol/Å. A cell is its lengths and angles, so that frames are turned: **a** along x, **b** in the xy plane. Beyond the
//! convention there are `step` and `potential_energy` (eV) of each frame and the atomic numbers, which readers that do not know them pass over.

use std::path::PathBuf;

use netcdf_writer::{DimensionId, NcAttrValue, NcFileBuilder, NcWriteFormat, NcWriteOptions, NcWriteType};
use tesseral_atoms::units::{FEMTOSECOND, KCAL_PER_MOL};
use tesseral_atoms::{Cell, Structure};

use super::{Position, Snapshot};
use crate::error::SimulateError;
use crate::files::GrowingFile;

/// Where the header says how many records there are: four bytes, after the magic number.
const RECORDS: u64 = 4;

pub(super) struct NetCdfWriter {
    file: GrowingFile,
    numbers: Vec<u8>,
    with_cell: bool,
    header: u64,
    frames: u64,
    /// Frames that the header on disk knows.
    counted: u64,
}

/// What goes into the records of a file.
struct Frame {
    time: f32,
    step: f64,
    energy: f64,
    lengths: [f64; 3],
    angles: [f64; 3],
    coordinates: Vec<f32>,
    velocities: Vec<f32>,
    forces: Vec<f32>,
}

impl NetCdfWriter {
    pub(super) fn create(path: PathBuf, first: &Structure) -> Result<Self, SimulateError> {
        let with_cell = !first.cell.is_zero();
        if with_cell {
            orientation(&first.cell)?;
        }
        let header = encode(&first.numbers, with_cell, None)?;
        let mut file = GrowingFile::create(path)?;
        file.append(&header)?;
        file.flush()?;
        Ok(Self { file, numbers: first.numbers.clone(), with_cell, header: header.len() as u64, frames: 0, counted: 0 })
    }

    pub(super) fn cut_back(path: PathBuf, first: &Structure, to: Position) -> Result<Self, SimulateError> {
        let with_cell = !first.cell.is_zero();
        let header = encode(&first.numbers, with_cell, None)?.len() as u64;
        let mut writer = Self {
            file: GrowingFile::cut_back(path, to.len)?,
            numbers: first.numbers.clone(),
            with_cell,
            header,
            frames: to.frames,
            // Whatever a killed run has left there.
            counted: u64::MAX,
        };
        writer.count()?;
        Ok(writer)
    }

    pub(super) fn write(&mut self, snapshot: &Snapshot<'_>) -> Result<(), SimulateError> {
        let cell = snapshot.structure.cell;
        let turn = if self.with_cell { orientation(&cell)? } else { None };
        let floats = |vectors: &[[f64; 3]], factor: f64| -> Vec<f32> {
            vectors
                .iter()
                .flat_map(|v| {
                    let v = turn.as_ref().map_or(*v, |t| turned(v, t));
                    v.map(|x| (x * factor) as f32)
                })
                .collect()
        };
        let frame = Frame {
            time: (snapshot.time / 1000.0) as f32,
            step: snapshot.step as f64,
            energy: snapshot.evaluation.energy,
            lengths: cell.lengths(),
            angles: cell.angles(),
            coordinates: floats(&snapshot.structure.positions, 1.0),
            velocities: floats(snapshot.velocities, 1000.0 * FEMTOSECOND),
            forces: floats(&snapshot.evaluation.forces, 1.0 / KCAL_PER_MOL),
        };
        let bytes = encode(&self.numbers, self.with_cell, Some(&frame))?;
        self.file.append(&bytes[self.header as usize..])?;
        self.frames += 1;
        Ok(())
    }

    /// Tells the header how many records there are. Records are written before they are counted: a killed run leaves some that nobody sees, never a count of what is not
    /// there.
    fn count(&mut self) -> Result<(), SimulateError> {
        if self.counted != self.frames {
            let frames = u32::try_from(self.frames).map_err(|_| {
                SimulateError::input("a NetCDF trajectory holds 4,294,967,295 frames at most", "write fewer frames (--save-every)")
            })?;
            self.file.overwrite(RECORDS, &frames.to_be_bytes())?;
            self.counted = self.frames;
        }
        Ok(())
    }

    pub(super) fn flush(&mut self) -> Result<(), SimulateError> {
        self.file.flush()?;
        self.count()
    }

    pub(super) fn sync(&mut self) -> Result<Position, SimulateError> {
        self.file.sync()?;
        self.count()?;
        Ok(Position { len: self.file.sync()?, frames: self.frames })
    }
}

impl Drop for NetCdfWriter {
    /// As that of a growing file: whole as far as that is possible.
    fn drop(&mut self) {
        self.flush().ok();
    }
}

/// A file with one frame or none.
fn encode(numbers: &[u8], with_cell: bool, frame: Option<&Frame>) -> Result<Vec<u8>, SimulateError> {
    build(numbers, with_cell, frame)
        .map_err(|error| SimulateError::input(format!("these atoms cannot be written as NetCDF: {error}"), "write extended XYZ instead"))
}

fn build(numbers: &[u8], with_cell: bool, frame: Option<&Frame>) -> netcdf_writer::Result<Vec<u8>> {
    let text = |text: &str| NcAttrValue::Chars(text.to_owned());
    let mut file = NcFileBuilder::new();
    for (name, value) in [
        ("title", "molecular dynamics"),
        ("application", "Tesseral"),
        ("program", "tesseral"),
        ("programVersion", env!("CARGO_PKG_VERSION")),
        ("Conventions", "AMBER"),
        ("ConventionVersion", "1.0"),
    ] {
        file.add_attribute(name, text(value))?;
    }
    let frames = file.add_unlimited_dimension("frame")?;
    let spatial = file.add_dimension("spatial", 3)?;
    let atom = file.add_dimension("atom", numbers.len() as u64)?;
    // Of fixed length: names of axes, elements.
    let axes = file.add_char_variable("spatial", &[spatial])?;
    file.write_char_variable(axes, b"xyz")?;
    let elements = file.add_variable::<i32>("atomic_number", &[atom])?;
    file.write_variable(elements, &numbers.iter().map(|&z| i32::from(z)).collect::<Vec<_>>())?;
    // One record a frame.
    record::<f32>(&mut file, "time", "picosecond", &[frames], frame.map(|f| std::slice::from_ref(&f.time)))?;
    record::<f64>(&mut file, "step", "1", &[frames], frame.map(|f| std::slice::from_ref(&f.step)))?;
    record::<f64>(&mut file, "potential_energy", "electronvolt", &[frames], frame.map(|f| std::slice::from_ref(&f.energy)))?;
    let shape = [frames, atom, spatial];
    record::<f32>(&mut file, "coordinates", "angstrom", &shape, frame.map(|f| &f.coordinates[..]))?;
    record::<f32>(&mut file, "velocities", "angstrom/picosecond", &shape, frame.map(|f| &f.velocities[..]))?;
    record::<f32>(&mut file, "forces", "kilocalorie/mole/angstrom", &shape, frame.map(|f| &f.forces[..]))?;
    if with_cell {
        let cell_spatial = file.add_dimension("cell_spatial", 3)?;
        let label = file.add_dimension("label", 5)?;
        let cell_angular = file.add_dimension("cell_angular", 3)?;
        let names = file.add_char_variable("cell_spatial", &[cell_spatial])?;
        file.write_char_variable(names, b"abc")?;
        let names = file.add_char_variable("cell_angular", &[cell_angular, label])?;
        file.write_char_variable(names, b"alphabeta gamma")?;
        record::<f64>(&mut file, "cell_lengths", "angstrom", &[frames, cell_spatial], frame.map(|f| &f.lengths[..]))?;
        record::<f64>(&mut file, "cell_angles", "degree", &[frames, cell_angular], frame.map(|f| &f.angles[..]))?;
    }
    Ok(file.to_vec(NcWriteOptions { format: NcWriteFormat::Offset64 })?.1)
}

fn record<T: NcWriteType>(
    file: &mut NcFileBuilder,
    name: &str,
    unit: &str,
    shape: &[DimensionId],
    values: Option<&[T]>,
) -> netcdf_writer::Result<()> {
    let variable = file.add_variable::<T>(name, shape)?;
    file.add_variable_attribute(variable, "units", NcAttrValue::Chars(unit.to_owned()))?;
    file.write_variable(variable, values.unwrap_or_default())
}

/// The rotation (columns are the new axes) to **a** along x and **b** in the xy plane; `None` where the cell lies so already.
fn orientation(cell: &Cell) -> Result<Option<[[f64; 3]; 3]>, SimulateError> {
    if cell.is_left_handed() {
        return Err(SimulateError::input(
            "the cell is left-handed, which AMBER NetCDF (lengths and angles) cannot say",
            "swap two lattice vectors, or write extended XYZ",
        ));
    }
    let [a, b, _] = cell.vectors;
    if a[1] == 0.0 && a[2] == 0.0 && b[2] == 0.0 && a[0] >= 0.0 && b[1] >= 0.0 {
        return Ok(None);
    }
    let Ok(full) = tesseral_atoms::neighbors::complete_cell(&cell.vectors, [true; 3]).or_else(|_| {
        let there = cell.lengths().map(|l| l > 0.0);
        tesseral_atoms::neighbors::complete_cell(&cell.vectors, there)
    }) else {
        return Ok(None);
    };
    let unit = |v: [f64; 3]| {
        let n = v.iter().map(|x| x * x).sum::<f64>().sqrt();
        v.map(|x| x / n)
    };
    let cross = |a: [f64; 3], b: [f64; 3]| [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
    let x = unit(full[0]);
    let z = unit(cross(full[0], full[1]));
    Ok(Some([x, cross(z, x), z]))
}

/// Components along the new axes.
fn turned(v: &[f64; 3], axes: &[[f64; 3]; 3]) -> [f64; 3] {
    axes.map(|axis| axis[0] * v[0] + axis[1] * v[1] + axis[2] * v[2])
}
