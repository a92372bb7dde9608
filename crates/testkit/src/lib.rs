//! What tests of several crates share, without a tensor library: random numbers, finite differences, comparisons.
//!
//! It takes closures and slices only, so that any crate may use it in its tests (a dev-dependency, never more).
//!
//! ```
//! use tesseral_testkit::{derivative, relative_error};
//! let numeric = derivative(&[2.0, 3.0], 1e-4, |x| x[0] * x[1] * x[1]);
//! assert!(relative_error(&numeric, &[9.0, 12.0]) < 1e-11);
//! ```

/// A deterministic stream of numbers in (-1, 1).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The stream of a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number (xorshift).
    pub fn number(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }

    /// The next `n` numbers.
    pub fn numbers(&mut self, n: usize) -> Vec<f64> {
        (0..n).map(|_| self.number()).collect()
    }
}

/// The derivative of `f` along one direction at 0, by fourth-order central differences: error about h⁴ f⁗ + ε/h.
pub fn slope(h: f64, mut f: impl FnMut(f64) -> f64) -> f64 {
    (8.0 * (f(h) - f(-h)) - (f(2.0 * h) - f(-2.0 * h))) / (12.0 * h)
}

/// The gradient of `f` at `x`, component by component as [`slope`].
pub fn derivative(x: &[f64], h: f64, mut f: impl FnMut(&[f64]) -> f64) -> Vec<f64> {
    (0..x.len())
        .map(|k| {
            slope(h, |delta| {
                let mut moved = x.to_vec();
                moved[k] += delta;
                f(&moved)
            })
        })
        .collect()
}

/// The largest absolute difference over the largest magnitude of `expected` (at least 1).
///
/// # Panics
/// If the lengths differ.
pub fn relative_error(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len(), "lengths differ");
    let scale = expected.iter().fold(1.0f64, |m, x| m.max(x.abs()));
    found.iter().zip(expected).fold(0.0f64, |m, (x, y)| m.max((x - y).abs())) / scale
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_numbers_fill_their_interval() {
        let numbers = Random::new(7).numbers(10_000);
        let mean = numbers.iter().sum::<f64>() / 1e4;
        assert!(numbers.iter().all(|x| x.abs() < 1.0) && mean.abs() < 0.02);
        assert!(numbers.iter().any(|x| *x > 0.99) && numbers.iter().any(|x| *x < -0.99));
        assert_ne!(numbers[..4], Random::new(8).numbers(4)[..]);
    }

    #[test]
    fn differences_are_of_fourth_order() {
        let error = |h| (slope(h, |x: f64| (1.0 + x).exp()) - 1f64.exp()).abs();
        assert!(error(1e-3) < 1e-11 && error(0.2) / error(0.1) > 15.0);
    }

    #[test]
    fn errors_are_relative_to_the_largest_number() {
        assert_eq!(relative_error(&[1.0, 201.0], &[0.0, 200.0]), 1.0 / 200.0);
        assert_eq!(relative_error(&[0.5], &[0.25]), 0.25);
    }
}
