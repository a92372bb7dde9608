//! Real spherical harmonics of edge vectors, with first and second derivatives.
//!
//! Component normalisation, Σ_m Y_lm² = 2l+1 on the unit sphere; e3nn's order (l ascending, m = -l..l, polar axis y, so that l = 1 is
//! √3·(x, y, z)); model definitions §1.2. Y_l is a homogeneous polynomial of degree l in the vector. With `normalize` the vector is divided
//! by max(|v|, 1e-12 Å) first, so a zero vector gives Y_00 = 1 and zeros; below that length derivatives are zero.
//!
//! Four maps are closed under differentiation (to second order), with g `[E, n]`, u `[E, 3]` and n = (lmax+1)²:
//!
//! | map | value |
//! |---|---|
//! | evaluate(v) | Y(v) |
//! | adjoint(v, g) | ∇_v ⟨g, Y(v)⟩ |
//! | tangent(v, u) | (u·∇) Y(v) |
//! | adjoint_tangent(v, g, u) | ∇_v ⟨g, (u·∇) Y(v)⟩, the Hessian of ⟨g, Y⟩ applied to u |

mod autograd;
pub mod cpu;
pub mod cuda;
pub mod reference;

use candle_core::{Result, Tensor};

/// Below this length (Å) a normalised vector is v/1e-12 rather than v/|v|, as in torch's `normalize`.
pub const MIN_LENGTH: f64 = 1e-12;

/// How many harmonics there are up to and including degree `lmax`.
pub const fn count(lmax: usize) -> usize {
    (lmax + 1) * (lmax + 1)
}

/// Harmonics up to degree `lmax` of `vectors` `[E, 3]` (Å): `[E, (lmax+1)²]`, dimensionless if `normalize`, else degree l in Å.
///
/// Differentiable twice with respect to `vectors`; `f32` or `f64`.
///
/// # Errors
/// If the shape is not `[E, 3]` or the type is not a floating-point type of the kernels.
pub fn spherical_harmonics(vectors: &Tensor, lmax: usize, normalize: bool) -> Result<Tensor> {
    autograd::evaluate(vectors, autograd::Parameters { lmax, normalize })
}

/// The derivative of Σ `cotangents`·[`spherical_harmonics`] by the vectors, `[E, 3]`: differentiable in both arguments.
///
/// # Errors
/// As [`spherical_harmonics`].
pub fn spherical_harmonics_adjoint(vectors: &Tensor, cotangents: &Tensor, lmax: usize, normalize: bool) -> Result<Tensor> {
    autograd::adjoint(vectors, cotangents, autograd::Parameters { lmax, normalize })
}

#[cfg(test)]
mod tests;
