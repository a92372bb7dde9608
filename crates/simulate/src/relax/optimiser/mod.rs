//! Minimisers of a function of many points: positions of atoms, strains of a cell, images of a path.
//!
//! A minimiser is asked for one step at a time, so that whoever drives it evaluates the function as suits it (many structures in one batch, for example). Its state is plain
//! data: a run that goes on from a saved state goes on to the bit. Sums run in a fixed order on one thread.

mod exponential;
mod fire;
mod lbfgs;

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use exponential::Exponential;
pub use fire::{Fire, FireVersion};
pub use lbfgs::Lbfgs;

/// Why a minimiser gives up.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("the energy does not go down along the forces, however short the step: near this point they are noise, or not its derivative")]
pub struct Stuck;

/// A metric in which a minimiser works instead of the Euclidean one: a symmetric positive definite matrix P that resembles the Hessian.
pub trait Preconditioner {
    /// P⁻¹ v, as many rows as `v`.
    fn solve(&self, v: &[[f64; 3]]) -> Vec<[f64; 3]>;
}

/// A minimiser and its state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Optimiser {
    /// Damped dynamics.
    Fire(Fire),
    /// Quasi-Newton.
    Lbfgs(Lbfgs),
}

impl Optimiser {
    /// Moves `x` to where the function should be evaluated next.
    ///
    /// `gradient` (eV/Å) is that at `x` (Å), row by row; rows that must not move have a zero gradient. `energy` (eV) is the value at `x` where there is one: without it
    /// (forces on the images of a path, for example) L-BFGS judges its steps by the gradient alone. FIRE uses neither `energy` nor `preconditioner`.
    ///
    /// # Errors
    /// [`Stuck`], with `x` as it was.
    pub fn step(
        &mut self,
        x: &mut [[f64; 3]],
        energy: Option<f64>,
        gradient: &[[f64; 3]],
        preconditioner: Option<&dyn Preconditioner>,
    ) -> Result<(), Stuck> {
        match self {
            Self::Fire(fire) => {
                fire.step(x, gradient);
                Ok(())
            }
            Self::Lbfgs(lbfgs) => lbfgs.step(x, energy, gradient, preconditioner),
        }
    }
}

/// Σ a · b over all rows, in order.
pub(crate) fn dot(a: &[[f64; 3]], b: &[[f64; 3]]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a[0] * b[0] + a[1] * b[1] + a[2] * b[2]).sum()
}

/// The length of the longest row.
pub(crate) fn longest(rows: &[[f64; 3]]) -> f64 {
    rows.iter().map(|r| (r[0] * r[0] + r[1] * r[1] + r[2] * r[2]).sqrt()).fold(0.0, f64::max)
}

/// a + factor · b, into a.
pub(crate) fn add(a: &mut [[f64; 3]], factor: f64, b: &[[f64; 3]]) {
    for (a, b) in a.iter_mut().zip(b) {
        for k in 0..3 {
            a[k] += factor * b[k];
        }
    }
}

/// a − b.
pub(crate) fn difference(a: &[[f64; 3]], b: &[[f64; 3]]) -> Vec<[f64; 3]> {
    a.iter().zip(b).map(|(a, b)| [a[0] - b[0], a[1] - b[1], a[2] - b[2]]).collect()
}

/// Shortens a step, all rows by one factor, so that no row is longer than `limit`.
fn shorten(step: &mut [[f64; 3]], limit: f64) {
    let length = longest(step);
    if length > limit {
        let factor = limit / length;
        step.iter_mut().flatten().for_each(|x| *x *= factor);
    }
}
