//! Structures, cells, elements, files and neighbour lists.
//!
//! ```
//! use tesseral_atoms::{Cell, Structure, io, neighbors::neighbor_list};
//!
//! // Body-centred cubic iron: eight neighbours at a√3/2, and six at a.
//! let a = 2.87;
//! let iron = Structure::crystal(Cell::cubic(a), vec![26, 26], vec![[0.0; 3], [a / 2.0; 3]]);
//! iron.validate()?;
//! let list = neighbor_list(&iron.cell.vectors, iron.pbc, &iron.positions, 3.0)?;
//! assert_eq!(list.edges_of(0).len(), 14);
//!
//! let mut text = Vec::new();
//! io::write_extxyz(&mut text, &iron)?;
//! assert!(text.starts_with(b"2\nLattice=\"2.87 0.0 0.0 0.0 2.87 0.0 0.0 0.0 2.87\" Properties=species:S:1:pos:R:3"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Conventions
//! Lengths in Å, energies in eV, stress in eV/Å³ and positive when tensile. Lattice vectors are rows; an edge points from its
//! centre to its neighbour. Voigt order is xx, yy, zz, yz, zx, xy. Atoms and frames are counted from 0, lines and columns of
//! files from 1.
//!
//! # Map
//! [`structure`] holds a configuration, [`cell`] its lattice, [`info`] what travels with it, [`labels`] finds reference
//! energies, forces and stresses there, [`metrics`] sums up errors against them, [`validation`] says whether anything can be computed from it, [`neighbors`] finds the
//! pairs within a cutoff, [`force_field`] is what gives energies and forces, [`io`] reads and writes files; [`elements`] and [`units`] are tables.

pub mod cell;
pub mod elements;
pub mod force_field;
pub mod info;
pub mod io;
pub mod labels;
pub mod metrics;
pub mod neighbors;
pub mod structure;
pub mod units;
pub mod validation;

pub use cell::Cell;
pub use force_field::{Evaluation, ForceError, ForceField, Spread};
pub use info::{Array, InfoValue};
pub use labels::{Label, LabelError, LabelKeys};
pub use structure::Structure;
pub use validation::StructureError;
