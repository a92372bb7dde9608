//! L-BFGS with a limited step.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::{Preconditioner, Stuck, add, difference, dot, longest, shorten};

/// A step and the change of the gradient along it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Pair {
    s: Vec<[f64; 3]>,
    y: Vec<[f64; 3]>,
    /// 1 / (s · y).
    rho: f64,
}

/// The point that the last step started from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Base {
    x: Vec<[f64; 3]>,
    gradient: Vec<[f64; 3]>,
    energy: Option<f64>,
}

/// Limited-memory BFGS: the two-loop recursion of Nocedal, Math. Comput. 35, 773 (1980), Nocedal and Wright, Numerical Optimization (2006), algorithm 7.4.
///
/// The inverse Hessian begins with γ P⁻¹, where P is the preconditioner, or 1, and γ = s·y / (y·P⁻¹y) of the last step (their eq. 7.20); before there is one, 1/70 Å²/eV. The
/// whole quasi-Newton step is tried, shortened so that no point moves further than `max_step`. It is accepted if the energy goes down (Armijo), or, where the change is within
/// the noise of the energy, if the slope along the step says so (the approximate Wolfe condition of Hager and Zhang, SIAM J. Optim. 16, 170 (2005)). A step that is not is
/// taken back, and the next one from the same point is at most half as long; what was learnt of the curvature is kept if the step was not far too long.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lbfgs {
    max_step: f64,
    memory: usize,
    /// How far a point may move in the next step, Å.
    reach: f64,
    refused: u32,
    pairs: VecDeque<Pair>,
    base: Option<Base>,
}

/// Å²/eV: a first guess of the inverse curvature. ASE's.
const SOFTNESS: f64 = 1.0 / 70.0;
/// Steps that are refused from one point before what is known of the curvature is forgotten, and as many again before it is the end.
const PATIENCE: u32 = 6;

impl Lbfgs {
    /// Remembers the last `memory` steps; no point moves further than `max_step` (Å) at once.
    pub fn new(memory: usize, max_step: f64) -> Self {
        Self { max_step, memory, reach: max_step, refused: 0, pairs: VecDeque::new(), base: None }
    }

    /// One step; see [`super::Optimiser::step`].
    ///
    /// # Errors
    /// [`Stuck`].
    pub fn step(
        &mut self,
        x: &mut [[f64; 3]],
        energy: Option<f64>,
        gradient: &[[f64; 3]],
        preconditioner: Option<&dyn Preconditioner>,
    ) -> Result<(), Stuck> {
        let accepted = match self.base.take() {
            None => None,
            Some(base) => {
                let s = difference(x, &base.x);
                let (before, after) = (dot(&base.gradient, &s), dot(gradient, &s));
                if acceptable(base.energy.zip(energy), before, after) {
                    self.remember(s, difference(gradient, &base.gradient));
                    None
                } else {
                    // The minimum along the step if the slope changes linearly. If it is far nearer than the step is long, the step ran into a wall, whose curvature says
                    // nothing of what is before it.
                    let minimum = if after > before { before / (before - after) } else { 0.5 };
                    self.reach = minimum.clamp(0.1, 0.5) * longest(&s);
                    if minimum >= 0.1 {
                        self.remember(s, difference(gradient, &base.gradient));
                    }
                    Some(base)
                }
            }
        };
        let base = match accepted {
            None => {
                self.reach = if self.refused == 0 { self.max_step } else { (2.0 * self.reach).min(self.max_step) };
                self.refused = 0;
                Base { x: x.to_vec(), gradient: gradient.to_vec(), energy }
            }
            Some(base) => {
                self.refused += 1;
                if self.refused == PATIENCE {
                    self.pairs.clear();
                } else if self.refused > 2 * PATIENCE {
                    return Err(Stuck);
                }
                base
            }
        };
        let mut direction = self.direction(&base.gradient, preconditioner);
        if dot(&direction, &base.gradient) >= 0.0 {
            // Only rounding, or a preconditioner that is none, can make it point uphill.
            self.pairs.clear();
            direction = self.direction(&base.gradient, None);
        }
        shorten(&mut direction, self.reach);
        x.copy_from_slice(&base.x);
        add(x, 1.0, &direction);
        self.base = Some(base);
        Ok(())
    }

    /// Keeps a step if the function is convex along it: the inverse Hessian stays positive definite.
    fn remember(&mut self, s: Vec<[f64; 3]>, y: Vec<[f64; 3]>) {
        let curvature = dot(&s, &y);
        if curvature > 1e-8 * dot(&s, &s) {
            if self.pairs.len() == self.memory {
                self.pairs.pop_front();
            }
            self.pairs.push_back(Pair { s, y, rho: 1.0 / curvature });
        }
    }

    /// −H g.
    fn direction(&self, gradient: &[[f64; 3]], preconditioner: Option<&dyn Preconditioner>) -> Vec<[f64; 3]> {
        let invert = |v: &[[f64; 3]]| preconditioner.map_or_else(|| v.to_vec(), |p| p.solve(v));
        let mut q: Vec<[f64; 3]> = gradient.iter().map(|g| g.map(|x| -x)).collect();
        let mut along = Vec::with_capacity(self.pairs.len());
        for pair in self.pairs.iter().rev() {
            let a = pair.rho * dot(&pair.s, &q);
            add(&mut q, -a, &pair.y);
            along.push(a);
        }
        let mut r = invert(&q);
        let gamma = match self.pairs.back() {
            Some(pair) => 1.0 / (pair.rho * dot(&pair.y, &invert(&pair.y))),
            None => SOFTNESS,
        };
        r.iter_mut().flatten().for_each(|x| *x *= gamma);
        for (pair, a) in self.pairs.iter().zip(along.into_iter().rev()) {
            let b = pair.rho * dot(&pair.y, &r);
            add(&mut r, a - b, &pair.s);
        }
        r
    }
}

/// Whether a step may stay: energies before and after, slopes along it (gradient · step) before and after.
fn acceptable(energies: Option<(f64, f64)>, before: f64, after: f64) -> bool {
    // The slope at the end is at most what it is where a parabola is as high as at its beginning.
    let by_slope = after <= -0.9998 * before;
    match energies {
        None => by_slope,
        Some((from, to)) => {
            // Single precision carries some seven digits.
            let noise = 1e-7 * from.abs() + 1e-6;
            to - from <= 1e-4 * before || (to - from <= noise && by_slope)
        }
    }
}
