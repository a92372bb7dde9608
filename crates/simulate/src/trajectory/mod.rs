//! Trajectories: files of frames that grow during a run.
//!
//! Both formats can be cut back to where a saved state was ([`Writer::cut_back`]), and a run that is killed at any moment leaves a file that can be read up to its last
//! whole frame.

mod extxyz;
mod netcdf;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tesseral_atoms::{Evaluation, Structure};

use crate::error::SimulateError;
pub(crate) use extxyz::annotated;

/// What is known of a moving structure at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Snapshot<'a> {
    /// Steps done.
    pub step: u64,
    /// fs
    pub time: f64,
    /// Positions (Å, never wrapped) and cell.
    pub structure: &'a Structure,
    /// √(eV/u), one for each atom.
    pub velocities: &'a [[f64; 3]],
    /// u
    pub masses: &'a [f64],
    /// Energy, forces and stress.
    pub evaluation: &'a Evaluation,
    /// K
    pub temperature: f64,
}

/// How frames are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// Extended XYZ, as ASE and OVITO read it: positions, momenta (u·√(eV/u)), forces (eV/Å), energy (eV), stress (eV/Å³), step, time (fs), temperature (K). Numbers are exact.
    ExtendedXyz,
    /// The same, compressed: each frame is a member of its own, as `gzip` allows.
    ExtendedXyzGz,
    /// AMBER's NetCDF convention 1.0 in the classic format with 64-bit offsets (CDF-2): single precision, fixed length of a frame.
    NetCdf,
}

impl Format {
    /// The format that a file name stands for: `.extxyz`, `.xyz`, each perhaps with `.gz`, and `.nc`.
    pub fn from_name(path: impl AsRef<Path>) -> Option<Self> {
        let name = path.as_ref().file_name()?.to_str()?.to_ascii_lowercase();
        if name.ends_with(".nc") || name.ends_with(".ncdf") {
            Some(Self::NetCdf)
        } else if name.ends_with(".xyz.gz") || name.ends_with(".extxyz.gz") {
            Some(Self::ExtendedXyzGz)
        } else if name.ends_with(".xyz") || name.ends_with(".extxyz") {
            Some(Self::ExtendedXyz)
        } else {
            None
        }
    }

    /// The usual end of a file's name, without a dot.
    pub fn extension(self) -> &'static str {
        match self {
            Self::ExtendedXyz => "extxyz",
            Self::ExtendedXyzGz => "extxyz.gz",
            Self::NetCdf => "nc",
        }
    }
}

/// Where a trajectory ended when a state was saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Bytes.
    pub len: u64,
    /// Frames.
    pub frames: u64,
}

enum Inner {
    Text(Box<extxyz::TextWriter>),
    NetCdf(netcdf::NetCdfWriter),
}

/// Appends frames to a file.
pub struct Writer {
    inner: Inner,
}

impl Writer {
    /// A new file; what was there is lost. `first` gives the atoms, and whether there is a cell.
    ///
    /// # Errors
    /// If the file cannot be created, or the format cannot hold the structure.
    pub fn create(path: impl Into<PathBuf>, format: Format, first: &Structure) -> Result<Self, SimulateError> {
        let path = path.into();
        let inner = match format {
            Format::NetCdf => Inner::NetCdf(netcdf::NetCdfWriter::create(path, first)?),
            Format::ExtendedXyz => Inner::Text(Box::new(extxyz::TextWriter::create(path, false)?)),
            Format::ExtendedXyzGz => Inner::Text(Box::new(extxyz::TextWriter::create(path, true)?)),
        };
        Ok(Self { inner })
    }

    /// The file as it was when a state was saved.
    ///
    /// # Errors
    /// If it cannot be opened, is shorter than that, or is not the trajectory of this structure.
    pub fn cut_back(path: impl Into<PathBuf>, format: Format, first: &Structure, to: Position) -> Result<Self, SimulateError> {
        let path = path.into();
        let inner = match format {
            Format::NetCdf => Inner::NetCdf(netcdf::NetCdfWriter::cut_back(path, first, to)?),
            Format::ExtendedXyz => Inner::Text(Box::new(extxyz::TextWriter::cut_back(path, false, to)?)),
            Format::ExtendedXyzGz => Inner::Text(Box::new(extxyz::TextWriter::cut_back(path, true, to)?)),
        };
        Ok(Self { inner })
    }

    /// Appends a frame.
    ///
    /// # Errors
    /// If the disk is full, or another error of writing.
    pub fn write(&mut self, snapshot: &Snapshot<'_>) -> Result<(), SimulateError> {
        match &mut self.inner {
            Inner::Text(writer) => writer.write(snapshot),
            Inner::NetCdf(writer) => writer.write(snapshot),
        }
    }

    /// Hands everything to the system, so that others can read it.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn flush(&mut self) -> Result<(), SimulateError> {
        match &mut self.inner {
            Inner::Text(writer) => writer.file.flush(),
            Inner::NetCdf(writer) => writer.flush(),
        }
    }

    /// Returns when everything is on disk, with the position to save.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn sync(&mut self) -> Result<Position, SimulateError> {
        match &mut self.inner {
            Inner::Text(writer) => writer.sync(),
            Inner::NetCdf(writer) => writer.sync(),
        }
    }
}

#[cfg(test)]
mod tests;
