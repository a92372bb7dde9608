//! Molecular dynamics, relaxation, phonons and mechanics, with any force field; and the same force field for i-PI, which moves atoms itself.
//!
//! Nothing here knows what a potential is made of: energies, forces and stresses come from a [`tesseral_atoms::ForceField`], which `tesseral_infer` implements for
//! neural potentials and [`analytic`] for textbook ones.
//!
//! # Units
//! Å, eV, eV/Å, eV/Å³, u; stress positive when tensile. Times are in fs. Velocities are in √(eV/u), ASE's unit: ½ m v² is in eV.

pub mod analysis;
pub mod analytic;
pub mod constants;
pub mod dynamics;
pub mod elastic;
pub mod eos;
pub mod error;
pub mod files;
mod fit;
pub mod guards;
pub mod ipi;
mod matrix;
pub mod md;
pub mod modes;
pub mod neb;
pub mod phonons;
pub mod relax;
pub mod settle;
pub mod trajectory;

pub use dynamics::Dynamics;
pub use error::SimulateError;
