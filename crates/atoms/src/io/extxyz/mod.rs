//! Extended XYZ and plain XYZ.
//!
//! A frame is a line with the number of atoms, a comment line, and one line per atom. In extended XYZ the comment holds
//! `Lattice` (three row vectors), `pbc`, `Properties` (name, type and width of every column) and any other metadata; in
//! plain XYZ it is free text, and the columns are symbol, x, y, z and whatever else.

mod comment;
mod reader;
mod writer;

pub(crate) use reader::ExtxyzFrames;
pub use writer::{write_extxyz, write_extxyz_file};

#[cfg(test)]
mod tests;
