//! The mathematics of rotations that equivariant potentials are built from, in plain `f64`.
//!
//! How the unit vector of a bond, described by harmonics up to `l = 2`, couples to features that carry
//! scalars and vectors, and what the coupling coefficients are:
//!
//! ```
//! use tesseral_o3::{Convention, Irreps, PathOrder, SphericalHarmonics, TensorProductPaths};
//!
//! // An O-H bond of 0.96 Å along x: component-normalised harmonics, y the polar axis.
//! let harmonics = SphericalHarmonics::new(2)?;
//! let mut y = vec![0.0; harmonics.len()];
//! harmonics.evaluate([0.96, 0.0, 0.0], true, &mut y);
//! assert!((y[1] - 3f64.sqrt()).abs() < 1e-14); // l = 1 is (x, y, z), times sqrt(2l + 1)
//!
//! // 128 scalar and 64 vector channels convolved with those harmonics, results kept up to l = 1.
//! let features: Irreps = "128x0e + 64x1o".parse()?;
//! let edge: Irreps = "0e + 1o + 2e".parse()?;
//! let paths = TensorProductPaths::new(&features, &edge, |irrep| irrep.l <= 1)?;
//! let names: Vec<String> = paths
//!     .in_order(PathOrder::SortedByOutput)
//!     .map(|path| format!("{} x {} -> {}", path.irrep_in1, path.irrep_in2, path.out))
//!     .collect();
//! assert_eq!(
//!     names,
//!     [
//!         "0e x 0e -> 0e",
//!         "1o x 1o -> 0e",
//!         "0e x 1o -> 1o",
//!         "1o x 0e -> 1o",
//!         "1o x 2e -> 1o",
//!         "1o x 1o -> 1e",
//!     ]
//! );
//! // 1o x 1o -> 0e is the dot product divided by sqrt(3).
//! let dot = paths.paths()[3].coupling(Convention::E3nn05)?;
//! assert!(dot.iter().all(|c| c.i == c.j && (c.value - 1.0 / 3f64.sqrt()).abs() < 1e-14));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Conventions, the same everywhere in the workspace: real spherical harmonics with components
//! `m = -l..=l`, `y` as the polar axis and no Condon-Shortley phase, so that `l = 1` is `(x, y, z)`;
//! irreps ordered `0o < 0e < 1o < 1e < …`; rotations act on column vectors, `v' = R v`.
//! This crate depends on no tensor library: it is the reference that faster code is held against.

#![forbid(unsafe_code)]

pub mod coupling;
pub mod irreps;
pub mod spherical_harmonics;
pub mod symmetric_basis;
pub mod wigner;

pub use coupling::{CouplingError, Path, PathOrder, TensorProductPaths};
pub use irreps::{Block, HarmonicParity, Irrep, IrrepProduct, Irreps, IrrepsError, MulIrrep, Parity, SortedIrreps};
pub use spherical_harmonics::{Monomial, Normalization, Polynomial, SphericalHarmonics, SphericalHarmonicsError};
pub use symmetric_basis::{DenseBasis, Monomials, SymmetricBasisError, full_basis, symmetrised_basis};
pub use wigner::{Coefficient, Convention, Wigner3j, WignerError, convention_sign, wigner_3j, wigner_d, wigner_d_irrep};
