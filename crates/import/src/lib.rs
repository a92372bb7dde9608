//! Safe readers of foreign checkpoints.
//!
//! Published interatomic potentials are files written by `torch.save`: a zip archive holding a *pickle*, which is a
//! program for a small stack machine that may call any Python function, and raw tensor storages. This crate reads
//! such files in Rust **without executing anything**: [`torch::pickle`] runs the stack machine, but builds inert
//! records (class name, arguments, state) instead of calling, and refuses every name outside a fixed list.
//!
//! | module | what |
//! |---|---|
//! | [`source`] | [`ForeignCheckpoint`]: opens a file, says what it is, hands out its records and tensors |
//! | [`torch::archive`] | the zip archive: entries, storages, byte order, hostile archives refused |
//! | [`torch::pickle`] | the pickle machine, protocols 0 to 5 |
//! | [`torch::value`] | the records it builds, in an arena that may hold shared and cyclic references |
//! | [`torch::tensor`] | storages and strided views decoded to typed vectors |
//! | [`torch::module`] | pickled `torch.nn.Module` trees: state dicts, attributes, irreps |
//!
//! Every size found in a file is compared with the bytes that are really there, and with [`Limits`], before memory
//! is allocated for it.

pub mod convert;
pub mod error;
mod json;
pub mod limits;
pub mod mace;
pub mod nequip;
pub mod sevennet;
pub mod source;
pub mod torch;
mod yaml;

pub use convert::{ImportError, import};
pub use error::Error;
pub use limits::Limits;
pub use source::{CheckpointKind, ForeignCheckpoint};
