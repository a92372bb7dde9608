//! Statistics of errors: predictions against references, one number at a time and in constant memory.

/// Mean absolute, root-mean-square and relative errors of a stream of numbers.
///
/// Sums are taken in the order of the calls, so the same calls give the same bits; so do the same calls of [`Self::merge`].
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ErrorStatistics {
    count: u64,
    absolute: f64,
    squared: f64,
    largest: f64,
    /// Mean of the references.
    mean: f64,
    /// Σ (reference − mean)².
    deviations: f64,
}

impl ErrorStatistics {
    /// Adds one prediction and its reference, in the same unit.
    pub fn add(&mut self, predicted: f64, reference: f64) {
        let error = (predicted - reference).abs();
        self.count += 1;
        self.absolute += error;
        self.squared += error * error;
        self.largest = larger(self.largest, error);
        // Welford, Technometrics 4, 419 (1962): total energies have a mean that is far larger than their spread.
        let step = reference - self.mean;
        self.mean += step / self.count as f64;
        self.deviations += step * (reference - self.mean);
    }

    /// Adds what another has seen.
    pub fn merge(&mut self, other: &Self) {
        if other.count == 0 {
            return;
        }
        // Chan, Golub and LeVeque, Am. Stat. 37, 242 (1983), eq. 2.1.
        let (here, there) = (self.count as f64, other.count as f64);
        let step = other.mean - self.mean;
        self.mean += step * (there / (here + there));
        self.deviations += other.deviations + step * step * (here * there / (here + there));
        self.count += other.count;
        self.absolute += other.absolute;
        self.squared += other.squared;
        self.largest = larger(self.largest, other.largest);
    }

    /// Number of values compared.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Mean absolute error; `None` if nothing was compared.
    pub fn mae(&self) -> Option<f64> {
        (self.count > 0).then(|| self.absolute / self.count as f64)
    }

    /// Root-mean-square error; `None` if nothing was compared.
    pub fn rmse(&self) -> Option<f64> {
        (self.count > 0).then(|| (self.squared / self.count as f64).sqrt())
    }

    /// Largest absolute error; `None` if nothing was compared.
    pub fn largest(&self) -> Option<f64> {
        (self.count > 0).then_some(self.largest)
    }

    /// Root-mean-square error over the root mean square of the references; `None` if they are all zero, or none.
    pub fn relative_rmse(&self) -> Option<f64> {
        let size = (self.mean * self.mean + self.deviations / self.count.max(1) as f64).sqrt();
        self.rmse().filter(|_| size != 0.0).map(|rmse| rmse / size)
    }

    /// Coefficient of determination, 1 − Σ error² / Σ (reference − mean)²; `None` if the references are all the same, or none.
    pub fn r_squared(&self) -> Option<f64> {
        (self.count > 0 && self.deviations != 0.0).then(|| 1.0 - self.squared / self.deviations)
    }
}

/// The larger of two; `f64::max` would drop a NaN.
fn larger(a: f64, b: f64) -> f64 {
    if b > a || b.is_nan() { b } else { a }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mean_and_root_mean_square() {
        let mut statistics = ErrorStatistics::default();
        assert_eq!((statistics.mae(), statistics.rmse(), statistics.largest()), (None, None, None));
        assert_eq!((statistics.relative_rmse(), statistics.r_squared()), (None, None));
        for (predicted, reference) in [(1.0, 0.0), (0.0, 3.0), (5.0, 5.0)] {
            statistics.add(predicted, reference);
        }
        assert_eq!(statistics.count(), 3);
        assert_eq!(statistics.mae(), Some(4.0 / 3.0));
        assert_eq!(statistics.rmse(), Some((10.0f64 / 3.0).sqrt()));
        assert_eq!(statistics.largest(), Some(3.0));
        // Σ reference² = 34; mean 8/3, Σ (reference − mean)² = 34 − 64/3.
        assert!((statistics.relative_rmse().unwrap() - (10.0f64 / 34.0).sqrt()).abs() < 1e-15);
        assert!((statistics.r_squared().unwrap() - (1.0 - 10.0 / (34.0 - 64.0 / 3.0))).abs() < 1e-15);
        statistics.add(f64::NAN, 0.0);
        assert!(statistics.mae().unwrap().is_nan() && statistics.largest().unwrap().is_nan());
        statistics.add(1.0, 0.0);
        assert!(statistics.largest().unwrap().is_nan());
    }

    #[test]
    fn parts_make_the_whole() {
        // A large offset: the naive Σx² − n·mean² would have no correct digit left.
        let pairs: Vec<(f64, f64)> = (0..200).map(|i| (-1e9 + (i as f64).sin(), -1e9 + (i as f64 * 1.1).sin())).collect();
        let mut whole = ErrorStatistics::default();
        pairs.iter().for_each(|&(p, r)| whole.add(p, r));
        let mut merged = ErrorStatistics::default();
        for part in pairs.chunks(37) {
            let mut statistics = ErrorStatistics::default();
            part.iter().for_each(|&(p, r)| statistics.add(p, r));
            merged.merge(&statistics);
            merged.merge(&ErrorStatistics::default());
        }
        assert_eq!((merged.count(), merged.largest()), (whole.count(), whole.largest()));
        let close = |a: Option<f64>, b: Option<f64>, tolerance: f64| (a.unwrap() - b.unwrap()).abs() < tolerance * b.unwrap().abs();
        assert!(close(merged.mae(), whole.mae(), 1e-13) && close(merged.rmse(), whole.rmse(), 1e-13));
        let references: Vec<f64> = pairs.iter().map(|p| p.1 + 1e9).collect();
        let mean = references.iter().sum::<f64>() / 200.0;
        let spread: f64 = references.iter().map(|r| (r - mean).powi(2)).sum();
        let errors: f64 = pairs.iter().map(|(p, r)| (p - r).powi(2)).sum();
        assert!(close(merged.r_squared(), Some(1.0 - errors / spread), 1e-6), "{:?} {}", merged.r_squared(), 1.0 - errors / spread);
        assert!(close(merged.relative_rmse(), Some((errors / 200.0).sqrt() / 1e9), 1e-6));
    }

    #[test]
    fn constant_references_have_no_r_squared() {
        let mut statistics = ErrorStatistics::default();
        statistics.add(1.0, 0.0);
        statistics.add(2.0, 0.0);
        assert_eq!((statistics.r_squared(), statistics.relative_rmse()), (None, None));
    }
}
