//! Functions of the interatomic distance: bases, cutoff envelopes, distance transforms, pair repulsion.
//!
//! Model definitions §2.2, §2.3, §3.1 and §4. Distances are in Å, energies in eV. Each formula is written once, as Taylor arithmetic in
//! `f64` whatever the type of the tensors (the envelopes cancel badly in `f32` near the cutoff), and gives its derivatives up to
//! [`MAX_ORDER`]. An op of derivative order k is differentiated by the op of order k+1, so two differentiations always work.

mod autograd;
pub mod cpu;
pub mod cuda;
mod jet;
pub mod reference;
pub mod spline;
pub mod table;

use std::sync::Arc;

use candle_core::{Result, Tensor};

pub use cpu::ScalarFunction;

/// The highest derivative of a radial function that can be computed.
pub const MAX_ORDER: usize = 3;

/// Lengths of `vectors` `[E, 3]`: `[E]`, in their unit. A zero vector has length 0 and zero derivatives.
///
/// # Errors
/// If the shape is not `[E, 3]`.
pub fn distance(vectors: &Tensor) -> Result<Tensor> {
    let (_, 3) = vectors.dims2()? else {
        return Err(candle_core::Error::Msg(format!("distance: expected vectors [edges, 3], got {:?}", vectors.dims())).bt());
    };
    let squared = vectors.sqr()?.sum(1)?;
    // The derivative of a root is not finite at 0: there the root of 1 takes its place, and then nothing.
    let vanishes = squared.detach().eq(0f64)?;
    let root = vanishes.where_cond(&squared.ones_like()?, &squared)?.sqrt()?;
    vanishes.where_cond(&root.zeros_like()?, &root)
}

/// Bessel basis: c·sin(w_n d)/d for `distances` `[E]` (Å) and `frequencies` `[n]` (1/Å, initially nπ/r_c): `[E, n]`.
///
/// The prefactor c is √(2/r_c) in MACE, 2/r_c in SevenNet and NequIP. Differentiable in both tensors; finite at d = 0.
///
/// # Errors
/// If shapes or types do not fit.
pub fn bessel(distances: &Tensor, frequencies: &Tensor, prefactor: f64) -> Result<Tensor> {
    autograd::bessel(distances, frequencies, prefactor)
}

/// Gaussian basis: exp(−(d−μ_n)²/(2σ²)) for `distances` `[E]` and `centers` `[n]`, width σ > 0 in the same unit: `[E, n]`.
///
/// MACE has μ_n from 0 to r_max in equal steps and σ the step.
///
/// # Errors
/// If shapes or types do not fit.
pub fn gaussian(distances: &Tensor, centers: &Tensor, width: f64) -> Result<Tensor> {
    autograd::gaussian(distances, centers, -0.5 / (width * width))
}

/// Chebyshev basis: T_k(t), k = 1..=n, for `t` `[E]`: `[E, n]`.
///
/// # Errors
/// If shapes or types do not fit.
pub fn chebyshev(t: &Tensor, n: usize) -> Result<Tensor> {
    autograd::chebyshev(t, n)
}

/// A [`ScalarFunction`] of each of `distances` `[E]`: `[E]`.
///
/// # Errors
/// If the shape is not `[E]`, or the function has parameters for another number of edges.
pub fn scalar_function(distances: &Tensor, function: &Arc<ScalarFunction>) -> Result<Tensor> {
    autograd::scalar_function(distances, function, 0)
}

/// The polynomial envelope 1 − (p+1)(p+2)/2·xᵖ + p(p+2)·xᵖ⁺¹ − p(p+1)/2·xᵖ⁺², x = d/cutoff, zero from the cutoff (Å) on: `[E]` → `[E]`.
///
/// # Errors
/// If the shape is not `[E]`.
pub fn polynomial_envelope(distances: &Tensor, p: u32, cutoff: f64) -> Result<Tensor> {
    scalar_function(distances, &Arc::new(ScalarFunction::PolynomialEnvelope { p, cutoff }))
}

/// The XPLOR envelope: 1 up to `onset`, (c²−d²)²(c²+2d²−3o²)/(c²−o²)³ up to the cutoff c, then 0 (all Å): `[E]` → `[E]`.
///
/// # Errors
/// If the shape is not `[E]`.
pub fn xplor_envelope(distances: &Tensor, onset: f64, cutoff: f64) -> Result<Tensor> {
    scalar_function(distances, &Arc::new(ScalarFunction::XplorEnvelope { onset, cutoff }))
}

/// The Agnesi transform 1/(1 + a·y^q/(1 + y^(q−p))), y = d/r0, dimensionless, for `distances` `[E]` and r0 (Å) of each edge: `[E]`.
///
/// # Errors
/// If shapes do not fit.
pub fn agnesi_transform(distances: &Tensor, r0: &[f64], a: f64, q: f64, p: f64) -> Result<Tensor> {
    scalar_function(distances, &Arc::new(ScalarFunction::Agnesi { a, q, p, r0: r0.into() }))
}

/// [`agnesi_transform`] with `a`, `q`, `p` as tensors of one element, for training them; distances must be positive.
///
/// # Errors
/// If shapes or types do not fit.
pub fn trainable_agnesi_transform(distances: &Tensor, r0: &Tensor, a: &Tensor, q: &Tensor, p: &Tensor) -> Result<Tensor> {
    let one = |t: &Tensor| t.reshape(1);
    let (a, q, p) = (one(a)?, one(q)?, one(p)?);
    let log_y = (distances / r0)?.log()?;
    let power = |exponent: &Tensor| log_y.broadcast_mul(exponent)?.exp();
    (power(&q)?.broadcast_mul(&a)? / (power(&(&q - &p)?)? + 1.0)?)?.affine(1.0, 1.0)?.recip()
}

/// The soft transform p0 + (d−p0)(1 + tanh(α'(d−m)))/2 with p0 = 3/4·r0, p1 = 4/3·r0, m = (p0+p1)/2, α' = α/(p1−p0), for `distances`
/// `[E]` (Å) and r0 (Å) of each edge: `[E]`, Å.
///
/// # Errors
/// If shapes do not fit.
pub fn soft_transform(distances: &Tensor, r0: &[f64], alpha: f64) -> Result<Tensor> {
    scalar_function(distances, &Arc::new(ScalarFunction::Soft { alpha, r0: r0.into() }))
}

/// Constants of the Ziegler–Biersack–Littmark repulsion
/// V = ½·k·Z_u·Z_v/d·Σ_i c_i·exp(−b_i·d/a_uv), a_uv = `length`/(Z_u^`exponent` + Z_v^`exponent`); ½ because both directions of an edge count.
#[derive(Debug, Clone, PartialEq)]
pub struct ZblConstants {
    /// k, the Coulomb constant, eV·Å.
    pub coulomb: f64,
    /// Screening length, Å.
    pub length: f64,
    /// Exponent of the atomic numbers.
    pub exponent: f64,
    /// (c_i, b_i), dimensionless.
    pub screening: [(f64, f64); 4],
}

impl ZblConstants {
    /// Those of MACE (§2.3). A checkpoint stores its own, possibly rounded: use these.
    pub const MACE: Self = Self {
        coulomb: 14.3996,
        length: 0.4543 * 0.529,
        exponent: 0.300,
        screening: [(0.1818, 3.2), (0.5099, 0.9423), (0.2802, 0.4028), (0.02817, 0.2016)],
    };
    /// Those of LAMMPS and NequIP (§4).
    pub const LAMMPS: Self = Self {
        coulomb: 14.399645,
        length: 0.46850,
        exponent: 0.23,
        screening: [(0.18175, 3.19980), (0.50986, 0.94229), (0.28022, 0.40290), (0.02817, 0.20162)],
    };

    /// The repulsion of one half of each edge with a polynomial envelope: `z_u`, `z_v` are the atomic numbers of its atoms, `cutoffs` (Å)
    /// where it ends (MACE: the sum of the covalent radii; NequIP: the cutoff of the model). `None` if the lengths differ.
    pub fn pair_energy(&self, z_u: &[u32], z_v: &[u32], cutoffs: &[f64], p: u32) -> Option<ScalarFunction> {
        if z_u.len() != z_v.len() || z_u.len() != cutoffs.len() {
            return None;
        }
        let pairs = || z_u.iter().zip(z_v).map(|(&u, &v)| (f64::from(u), f64::from(v)));
        Some(ScalarFunction::Zbl {
            strength: pairs().map(|(u, v)| 0.5 * self.coulomb * u * v).collect(),
            inverse_length: pairs().map(|(u, v)| (u.powf(self.exponent) + v.powf(self.exponent)) / self.length).collect(),
            screening: self.screening,
            cutoffs: cutoffs.into(),
            p,
        })
    }
}

#[cfg(test)]
mod tests;
