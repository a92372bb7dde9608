//! Random numbers whose state can be saved.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{ChiSquared, Distribution, StandardNormal};
use serde::{Deserialize, Serialize};

/// A stream of normal variates (the ziggurat of `rand_distr`, which keeps nothing between two numbers).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Random(ChaCha8Rng);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    /// A number of the standard normal distribution.
    pub(super) fn normal(&mut self) -> f64 {
        StandardNormal.sample(&mut self.0)
    }

    /// Three of them.
    pub(super) fn normals(&mut self) -> [f64; 3] {
        [self.normal(), self.normal(), self.normal()]
    }

    /// The sum of the squares of so many normal variates, drawn at once (a chi-squared variate; 0 for none).
    pub(super) fn sum_of_squares(&mut self, count: f64) -> f64 {
        // An error would mean a count that is not positive.
        if count < 0.5 { 0.0 } else { ChiSquared::new(count).map_or(0.0, |distribution| distribution.sample(&mut self.0)) }
    }
}
