//! Phonons by finite displacements.
//!
//! ```text
//! Structure ─ Crystal (space group, primitive cell) ─ Supercell ─ displacements ─ Calculation (forces, kept in a file) ─ ForceSets
//!      ForceSets ─ ForceConstants::fit, symmetrise ─ DynamicalMatrix ─ frequencies, eigenvectors
//!      Mesh::sample ─ DensityOfStates, thermal;     BandPath::points ─ bands;     all of them together: Phonons
//! ```
//!
//! # Conventions
//! Lattice vectors, and matrices that make supercells and primitive cells, are rows. Wave vectors are fractional coordinates q · a_i in the reciprocal lattice of the
//! primitive cell, without 2π. Frequencies are ordinary ones in THz, imaginary ones negative. Thermal properties are those of one primitive cell.

mod crystal;
mod displacements;
mod dos;
mod dynamical;
mod force_constants;
mod mesh;
mod modes;
mod paths;
mod phonopy;
mod results;
mod run;
mod supercell;
mod thermal;

#[cfg(test)]
mod tests;

pub use crystal::Crystal;
pub use displacements::{Displacement, displacements};
pub use dos::DensityOfStates;
pub use dynamical::{DynamicalMatrix, Modes, thz};
pub use force_constants::{Drift, ForceConstants};
pub use mesh::{Mesh, Sample};
pub use modes::{commensurate, displaced_along};
pub use paths::{BandPath, PathPoint, SpecialPoint};
pub use phonopy::{
    ForceSets, PhonopyInput, force_constants as phonopy_force_constants, force_sets, params, parse_force_sets, parse_yaml, read_force_sets,
    read_yaml,
};
pub use results::{IMAGINARY_BELOW, ImaginaryMode, Phonons, Wishes};
pub use run::Calculation;
pub use supercell::Supercell;
pub use thermal::{CUTOFF, PLANCK_THZ, Thermal, left_out, thermal, zero_point_energy};
