//! FIRE: dynamics that is damped towards the forces and stopped when it runs uphill.

use serde::{Deserialize, Serialize};

use super::{add, dot, longest};

/// Which of the published algorithms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FireVersion {
    /// Bitzek et al., Phys. Rev. Lett. 97, 170201 (2006).
    Bitzek,
    /// With the corrections of Guénolé et al., Comput. Mater. Sci. 175, 109584 (2020): velocities are mixed after they have been accelerated, and an uphill step is undone by half.
    Guenole,
}

/// The fast inertial relaxation engine, for points of mass 1.
///
/// Power P = −g · v. While P > 0, v ← (1 − α) v − α |v| g/|g|, and after `delay` steps the time step grows by 1.1 up to `largest` and α shrinks by 0.99; when P ≤ 0, v ← 0,
/// the time step halves and α is reset. Integrated by semi-implicit Euler steps, v ← v − g dt, x ← x + v dt. Times are in Å/√eV, the time unit of a mass of 1 with lengths in Å
/// and energies in eV.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fire {
    version: FireVersion,
    max_step: f64,
    largest: f64,
    smallest: f64,
    dt: f64,
    alpha: f64,
    downhill: u32,
    steps: u64,
    velocities: Vec<[f64; 3]>,
}

impl Fire {
    /// With the parameters of the papers, a first time step of 0.1, at most ten times that, and no point moved further than `max_step` (Å) at once.
    pub fn new(version: FireVersion, max_step: f64) -> Self {
        let alpha = Self::alpha(version);
        Self { version, max_step, largest: 1.0, smallest: 0.002, dt: 0.1, alpha, downhill: 0, steps: 0, velocities: Vec::new() }
    }

    fn alpha(version: FireVersion) -> f64 {
        match version {
            FireVersion::Bitzek => 0.1,
            FireVersion::Guenole => 0.25,
        }
    }

    /// One step; see [`super::Optimiser::step`].
    pub fn step(&mut self, x: &mut [[f64; 3]], gradient: &[[f64; 3]]) {
        self.velocities.resize(x.len(), [0.0; 3]);
        let delay = match self.version {
            FireVersion::Bitzek => 5,
            FireVersion::Guenole => 20,
        };
        let power = -dot(gradient, &self.velocities);
        let first = self.steps == 0;
        self.steps += 1;
        if power > 0.0 {
            self.downhill += 1;
        } else if !first {
            self.downhill = 0;
            // Guénolé's initial delay: at first the velocities are too young to say anything.
            if self.version == FireVersion::Bitzek || self.steps > delay {
                self.dt = (self.dt * 0.5).max(self.smallest);
            }
            if self.version == FireVersion::Guenole {
                add(x, -0.5 * self.dt, &self.velocities);
            }
            self.alpha = Self::alpha(self.version);
            self.velocities.iter_mut().for_each(|v| *v = [0.0; 3]);
        }
        if self.version == FireVersion::Bitzek && power > 0.0 {
            self.mix(gradient);
        }
        if power > 0.0 && u64::from(self.downhill) > delay {
            self.dt = (self.dt * 1.1).min(self.largest);
            self.alpha *= 0.99;
        }
        add(&mut self.velocities, -self.dt, gradient);
        if self.version == FireVersion::Guenole {
            self.mix(gradient);
        }
        let length = longest(&self.velocities) * self.dt;
        let mut factor = if length > self.max_step { self.max_step / length } else { 1.0 };
        if self.version == FireVersion::Guenole {
            // What may have to be undone is what was done.
            self.velocities.iter_mut().flatten().for_each(|v| *v *= factor);
            factor = 1.0;
        }
        add(x, self.dt * factor, &self.velocities);
    }

    /// Turns velocities towards the forces.
    fn mix(&mut self, gradient: &[[f64; 3]]) {
        let (speed, force) = (dot(&self.velocities, &self.velocities).sqrt(), dot(gradient, gradient).sqrt());
        if force > 0.0 {
            self.velocities.iter_mut().flatten().for_each(|v| *v *= 1.0 - self.alpha);
            add(&mut self.velocities, -self.alpha * speed / force, gradient);
        }
    }
}
