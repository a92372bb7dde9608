//! Frames of reference calculations: read, weighted, checked, split and kept.
//!
//! [`DataConfig`] says which files and keys; [`Dataset::load`] reads them, into memory or into a [`cache`] on disk, and splits them; whoever
//! needs frames afterwards asks a [`FrameSource`] and does not know where they lie. What was really found in the files is in the [`KeyReport`].

pub mod cache;
mod columns;
mod config;
mod dataset;
mod error;
pub mod frame;
mod keys;
pub mod read;
mod source;
pub mod split;

pub use config::{DataConfig, FileConfig, Fingerprint, KeysConfig, MissingLabels, SplitBy, SplitConfig};
pub use dataset::Dataset;
pub(crate) use error::suggestion;
pub use error::{DataError, FrameFault};
pub use frame::{Frame, Origin, Weights};
pub use keys::{Coverage, FileReport, IsolatedAtom, IsolatedAtoms, KeyReport, LabelName, PartReport};
pub(crate) use source::UntilStopped;
pub use source::{FrameSource, FrameSummary, Memory, Subset, elements_of, files_of};
pub use split::shuffled_order;
