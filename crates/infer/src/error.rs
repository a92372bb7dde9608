//! What can go wrong when a structure is evaluated.

use tesseral_atoms::StructureError;
use tesseral_potentials::PotentialError;

use crate::domain::DomainError;

/// Errors of loading a potential for inference and of evaluating a structure with it.
#[derive(Debug, thiserror::Error)]
pub enum InferError {
    /// The structure cannot be evaluated by any potential.
    #[error(transparent)]
    Structure(#[from] StructureError),
    /// There are no atoms.
    #[error("the structure has no atoms")]
    NoAtoms,
    /// The model cannot be built, or not evaluate this structure.
    #[error(transparent)]
    Potential(#[from] PotentialError),
    /// The architecture has no compiled form.
    #[error("{what} cannot be compiled")]
    NotCompiled {
        /// Which part.
        what: String,
    },
    /// Radial functions that tables do not reproduce well enough.
    #[error(
        "the radial functions cannot be tabulated: with {intervals} intervals their values are off by {value:.1e} and their slopes by \
         {slope:.1e} of the largest"
    )]
    Table {
        /// Error of the values, relative to the largest.
        value: f64,
        /// Error of the slopes, relative to the largest.
        slope: f64,
        /// Intervals of the finest table tried.
        intervals: usize,
    },
    /// Too little memory.
    #[error("{atoms} atoms need about {} of memory, {} may be used", bytes(*needed), bytes(*limit))]
    Memory {
        /// Atoms.
        atoms: usize,
        /// Bytes at least.
        needed: usize,
        /// Bytes that may be used.
        limit: usize,
    },
    /// A device cannot be had, or failed.
    #[error(transparent)]
    Device(#[from] tesseral_kernels::DeviceError),
    /// What was asked for has no form on devices.
    #[error("{what} cannot be computed on a device")]
    NotOnDevice {
        /// Which part.
        what: &'static str,
    },
    /// A device cannot hold a neighbour list.
    #[error(transparent)]
    DeviceList(#[from] tesseral_kernels::neighbors::ListError),
    /// A calculator was asked of the differentiable engine.
    #[error("the differentiable engine keeps nothing between steps")]
    NotStepped,
    /// A rank's atoms, or the exchange between ranks.
    #[error(transparent)]
    Domain(#[from] DomainError),
    /// The members of a committee disagree more than they may.
    #[error("the models disagree by {spread:.3} eV/Å about the force on atom {atom}, more than the {limit} that are allowed")]
    Disagreement {
        /// The atom.
        atom: usize,
        /// Standard deviation of its force, eV/Å.
        spread: f64,
        /// The largest allowed, eV/Å.
        limit: f64,
    },
    /// An element that a model does not know.
    #[error("{model} does not know {symbol} (atom {atom})")]
    UnknownElement {
        /// Name of the model.
        model: String,
        /// Symbol of the element.
        symbol: String,
        /// Index of the atom, from 0.
        atom: usize,
    },
    /// A committee of fewer than two.
    #[error("a committee needs two models at least, not {members}")]
    NoCommittee {
        /// How many there were.
        members: usize,
    },
    /// The model gives numbers that are none.
    #[error("the model's energy for this structure is {energy}, {what}")]
    NotFinite {
        /// The energy, eV.
        energy: f64,
        /// What is not finite.
        what: &'static str,
    },
}

impl InferError {
    /// What the user can do about it, if anything can be said.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Potential(e) => e.hint(),
            Self::NotFinite { .. } => Some(
                "the structure is far from anything the model was trained on (atoms much too close?); with f32, try --dtype f64".into(),
            ),
            Self::NotCompiled { .. } => Some("evaluate it with `--engine differentiable`".into()),
            Self::Memory { .. } => Some("raise --memory, use --dtype f32, or cut the structure into parts".into()),
            Self::Device(e) => e.hint().map(Into::into),
            Self::NotOnDevice { .. } => Some("compute it with `--device cpu`".into()),
            Self::DeviceList(tesseral_kernels::neighbors::ListError::Device(e)) => e.hint().map(Into::into),
            Self::DeviceList(_) => Some("cut the structure into parts, or compute it with `--device cpu`".into()),
            Self::Table { .. } => Some("compute it with `--device cpu`, where they are then evaluated exactly".into()),
            Self::Disagreement { .. } => {
                Some("the structure is unlike what they were trained on: train on structures like it, or raise --stop-above".into())
            }
            Self::Domain(e) => e.hint().map(Into::into),
            Self::UnknownElement { .. } => Some("`tesseral info MODEL` lists the elements of a model".into()),
            Self::Structure(_) | Self::NoAtoms | Self::NotStepped | Self::NoCommittee { .. } => None,
        }
    }
}

/// A number of bytes for people.
pub fn bytes(n: usize) -> String {
    let n = n as f64;
    let (unit, name) = [(1e9, "GB"), (1e6, "MB"), (1e3, "kB")].into_iter().find(|(unit, _)| n >= *unit).unwrap_or((1.0, "bytes"));
    format!("{:.*} {name}", usize::from(unit > 1.0), n / unit)
}
