//! Truncated Taylor series: a formula written once gives its value and its derivatives.

use std::ops::{Add, Mul, Sub};

/// The first `N` Taylor coefficients f⁽ᵏ⁾/k! of a function of one variable.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Jet<const N: usize>(pub(super) [f64; N]);

impl<const N: usize> Jet<N> {
    pub(super) fn constant(value: f64) -> Self {
        let mut c = [0.0; N];
        c[0] = value;
        Self(c)
    }

    /// The variable itself, at `value`.
    pub(super) fn variable(value: f64) -> Self {
        let mut jet = Self::constant(value);
        if N > 1 {
            jet.0[1] = 1.0;
        }
        jet
    }

    /// The derivative of order `N − 1`.
    pub(super) fn last_derivative(self) -> f64 {
        self.0[N - 1] * (1..N).map(|k| k as f64).product::<f64>()
    }

    pub(super) fn recip(self) -> Self {
        // r·u = 1
        let mut r = Self::constant(1.0 / self.0[0]);
        for k in 1..N {
            let sum: f64 = (1..=k).map(|i| self.0[i] * r.0[k - i]).sum();
            r.0[k] = -sum * r.0[0];
        }
        r
    }

    pub(super) fn exp(self) -> Self {
        // e' = e·u'
        let mut e = Self::constant(self.0[0].exp());
        for k in 1..N {
            let sum: f64 = (1..=k).map(|i| i as f64 * self.0[i] * e.0[k - i]).sum();
            e.0[k] = sum / k as f64;
        }
        e
    }

    pub(super) fn tanh(self) -> Self {
        // t' = (1 − t²)·u'
        let mut t = Self::constant(self.0[0].tanh());
        let mut slope = Self::constant(1.0 - t.0[0] * t.0[0]);
        for k in 1..N {
            let sum: f64 = (1..=k).map(|i| i as f64 * self.0[i] * slope.0[k - i]).sum();
            t.0[k] = sum / k as f64;
            slope.0[k] = -(0..=k).map(|i| t.0[i] * t.0[k - i]).sum::<f64>();
        }
        t
    }

    /// uᵅ for positive u.
    pub(super) fn powf(self, exponent: f64) -> Self {
        // u·y' = α·y·u'
        let mut y = Self::constant(self.0[0].powf(exponent));
        for k in 1..N {
            let term = |i: usize| (exponent * i as f64 - (k - i) as f64) * self.0[i] * y.0[k - i];
            y.0[k] = (1..=k).map(term).sum::<f64>() / (k as f64 * self.0[0]);
        }
        y
    }

    pub(super) fn powi(self, exponent: u32) -> Self {
        (0..exponent).fold(Self::constant(1.0), |y, _| y * self)
    }
}

impl<const N: usize> Add for Jet<N> {
    type Output = Self;
    fn add(mut self, other: Self) -> Self {
        for k in 0..N {
            self.0[k] += other.0[k];
        }
        self
    }
}

impl<const N: usize> Add<f64> for Jet<N> {
    type Output = Self;
    fn add(mut self, other: f64) -> Self {
        self.0[0] += other;
        self
    }
}

impl<const N: usize> Sub for Jet<N> {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        self + other * -1.0
    }
}

impl<const N: usize> Mul for Jet<N> {
    type Output = Self;
    fn mul(self, other: Self) -> Self {
        let mut product = [0.0; N];
        for (k, p) in product.iter_mut().enumerate() {
            *p = (0..=k).map(|i| self.0[i] * other.0[k - i]).sum();
        }
        Self(product)
    }
}

impl<const N: usize> Mul<f64> for Jet<N> {
    type Output = Self;
    fn mul(mut self, other: f64) -> Self {
        for c in &mut self.0 {
            *c *= other;
        }
        self
    }
}
