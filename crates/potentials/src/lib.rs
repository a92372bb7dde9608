//! Potentials as candle modules, and the artifact they are stored in.
//!
//! [`Artifact`] is the file; [`Model`] the network built from it, differentiable with respect to edge vectors and, for training, weights.
//! The architectures are [`mace`] and [`nequip`] (SevenNet belongs to the latter); what they share is in [`blocks`].

pub mod artifact;
pub mod batch;
pub mod blocks;
pub mod error;
pub mod header;
mod irreps_serde;
pub mod mace;
pub mod model;
pub mod nequip;
pub mod parameters;
mod validation;

pub use artifact::{Artifact, NamedTensor, Numbers};
pub use batch::Batch;
pub use error::{PotentialError, Result};
pub use header::{Architecture, Header, Provenance};
pub use model::{Differentiable, Model, Radial};
pub use parameters::Parameters;
pub use tesseral_atoms::Evaluation;
