//! Evaluation of potentials: energies, forces and stresses of structures.
//!
//! [`Potential`] is the handle: an artifact made ready for one precision and head. It batches structures, checks them, and gives one result
//! for each.

mod calculator;
pub mod compiled;
pub mod device;
pub mod domain;
pub mod error;
mod field;
pub mod machine;
mod members;
pub mod metrics;
pub mod potential;
pub mod verify;

pub use calculator::Calculator;
pub use device::DeviceChoice;
pub use domain::{DomainAtoms, DomainCalculator, DomainError, DomainEvaluation, Exchange, Threads};
pub use error::InferError;
pub use field::{Committee, PotentialField};
pub use members::Members;
pub use potential::{Dtype, Engine, Options, Potential};
pub use tesseral_ops::runtime::prepare_evaluation;
pub use tesseral_potentials::Evaluation;
