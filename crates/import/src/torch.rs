//! Files written by PyTorch: archives, pickles, tensors and pickled modules.

pub mod archive;
pub mod describe;
pub mod module;
mod numpy;
mod opcodes;
pub mod pickle;
pub mod policy;
mod rebuild;
pub mod tensor;
pub mod value;
