//! Evaluation of potentials: energies, forces and stresses of structures.
//!
//! [`Potential`] is the handle: an artifact made ready for one precision and head. It batches structures, checks them, and gives one result
//! for each.
//!
//! # Memory
//!
//! Kernels read rows of features 64 bytes at a time. glibc's allocator begins large blocks 16 bytes after a page, so that each read meets two lines of the cache,
//! and it gives their pages back whenever they are freed. Programs should have an allocator that does neither, as all of Tesseral's have; how much it is worth
//! is in `benches/results/2026-11-30-xeon-2-cores`.
//!
//! ```ignore
//! #[global_allocator]
//! static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
//! ```

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
