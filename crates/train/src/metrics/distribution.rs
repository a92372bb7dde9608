//! How absolute errors are spread: quantiles and histograms from integer counts.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{ErrorSummary, Histogram, Quantity};

/// Bits of the mantissa that tell one bin from the next: 64 bins an octave, each 1/64 to 1/128 wide relative to its values.
const MANTISSA_BITS: u32 = 6;
const SHIFT: u32 = f64::MANTISSA_DIGITS - 1 - MANTISSA_BITS;

/// Bars a decade in a histogram for people.
const BARS_PER_DECADE: i32 = 8;

/// Absolute errors counted in bins of constant relative width. Counts are whole numbers, so the order of additions does not matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ErrorDistribution {
    /// By the upper bits of the absolute error: positive floating-point numbers sort like their bits, NaN after infinity.
    counts: BTreeMap<u32, u64>,
    total: u64,
}

/// One bar of a histogram: how many values are in `from <= value < to`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Bin {
    /// Lower edge; 0 where everything smaller is counted in.
    pub from: f64,
    /// Upper edge.
    pub to: f64,
    /// Number of values.
    pub count: u64,
}

fn bin_of(error: f64) -> u32 {
    (error.abs().to_bits() >> SHIFT) as u32
}

fn lower_edge(bin: u32) -> f64 {
    f64::from_bits(u64::from(bin) << SHIFT)
}

impl ErrorDistribution {
    /// Adds one error; its sign does not matter.
    pub fn add(&mut self, error: f64) {
        *self.counts.entry(bin_of(error)).or_default() += 1;
        self.total += 1;
    }

    /// Adds what another has seen.
    pub fn merge(&mut self, other: &Self) {
        for (&bin, &count) in &other.counts {
            *self.counts.entry(bin).or_default() += count;
        }
        self.total += other.total;
    }

    /// The `q`-quantile of absolute errors, 0 ≤ q ≤ 1, to within 1/64 of its value; NaN if an error was NaN, `None` if there was none.
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let last = *self.counts.last_key_value()?.0;
        if last > bin_of(f64::INFINITY) {
            return Some(f64::NAN);
        }
        // The order statistic at q (n − 1), as NumPy's default has it, interpolated linearly over its bin.
        let position = q.clamp(0.0, 1.0) * (self.total - 1) as f64;
        let mut before = 0;
        for (&bin, &count) in &self.counts {
            if position < (before + count) as f64 || bin == last {
                let (from, to) = (lower_edge(bin), lower_edge(bin + 1));
                if !to.is_finite() || bin == 0 {
                    return Some(from);
                }
                return Some(from + (to - from) * ((position - before as f64 + 0.5) / count as f64).min(1.0));
            }
            before += count;
        }
        None
    }

    /// Bars of equal width on a logarithmic axis, without gaps. The smallest 0.5 % are in the first one; errors that are not finite are in none.
    pub fn bins(&self) -> Vec<Bin> {
        let finite = || self.counts.range(..bin_of(f64::INFINITY));
        let total: u64 = finite().map(|(_, count)| count).sum();
        let mut before = 0;
        let mut lowest = None;
        for (&bin, &count) in finite() {
            before += count;
            if bin > 0 && before as f64 > 0.005 * total as f64 {
                lowest = Some(lower_edge(bin));
                break;
            }
        }
        let (Some(lowest), Some((&highest, _))) = (lowest, finite().next_back()) else {
            // All of them are zero, or there is none.
            return (total > 0).then_some(Bin { from: 0.0, to: f64::MIN_POSITIVE, count: total }).into_iter().collect();
        };
        // Edges are edges of our bins, so that the counts of the bars are exact.
        let edge = |k: i32| bin_of(10f64.powf(f64::from(k) / f64::from(BARS_PER_DECADE)));
        let mut k = (lowest.log10() * f64::from(BARS_PER_DECADE)).floor() as i32 - 1;
        while edge(k + 1) <= bin_of(lowest) {
            k += 1;
        }
        let mut bars = Vec::new();
        let mut from = 0;
        while from <= highest {
            let to = edge(k + 1);
            let count = self.counts.range(from..to).map(|(_, count)| count).sum();
            bars.push(Bin { from: lower_edge(from), to: lower_edge(to), count });
            from = to;
            k += 1;
        }
        bars
    }

    /// The histogram of a quantity, in its unit.
    pub fn histogram(&self, set: &str, quantity: Quantity, summary: &ErrorSummary) -> Histogram {
        Histogram { set: set.to_owned(), quantity, bins: self.bins(), mae: summary.mae, q95: summary.q95 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 0.001 … 1, three decades evenly.
    fn spread() -> (ErrorDistribution, Vec<f64>) {
        let errors: Vec<f64> = (0..3000).map(|i| 10f64.powf(-3.0 + 3.0 * (f64::from(i) + 0.5) / 3000.0)).collect();
        let mut distribution = ErrorDistribution::default();
        errors.iter().enumerate().for_each(|(i, e)| distribution.add(if i % 2 == 0 { *e } else { -e }));
        (distribution, errors)
    }

    #[test]
    fn quantiles_are_those_of_the_sorted_errors() {
        let (distribution, errors) = spread();
        for q in [0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0] {
            let exact = errors[(q * 2999.0) as usize];
            let found = distribution.quantile(q).unwrap();
            assert!((found / exact - 1.0).abs() < 1.0 / 64.0, "{q}: {found} {exact}");
        }
        assert_eq!(ErrorDistribution::default().quantile(0.5), None);
        let mut zeros = ErrorDistribution::default();
        zeros.add(0.0);
        assert_eq!(zeros.quantile(0.95), Some(0.0));
        zeros.add(f64::NAN);
        assert!(zeros.quantile(0.0).unwrap().is_nan());
    }

    #[test]
    fn bars_hold_every_value_once() {
        let (mut distribution, errors) = spread();
        distribution.add(0.0);
        let bars = distribution.bins();
        assert_eq!(bars[0].from, 0.0);
        assert_eq!(bars.iter().map(|bar| bar.count).sum::<u64>(), 3001);
        assert!(bars.windows(2).all(|pair| pair[0].to == pair[1].from));
        for bar in &bars[1..] {
            let exact = errors.iter().filter(|e| (bar.from..bar.to).contains(*e)).count();
            assert_eq!(bar.count, exact as u64);
            // A decade is 8 bars.
            assert!(((bar.to / bar.from).log10() * 8.0 - 1.0).abs() < 0.1, "{bar:?}");
        }
        assert!((20..=25).contains(&bars.len()), "{}", bars.len());
    }

    #[test]
    fn the_order_of_additions_does_not_matter() {
        let (whole, errors) = spread();
        let mut merged = ErrorDistribution::default();
        for part in errors.rchunks(701) {
            let mut distribution = ErrorDistribution::default();
            part.iter().for_each(|e| distribution.add(*e));
            merged.merge(&distribution);
        }
        assert_eq!(merged, whole);
    }

    #[test]
    fn nothing_zeros_and_infinities() {
        let mut distribution = ErrorDistribution::default();
        assert!(distribution.bins().is_empty());
        distribution.add(f64::INFINITY);
        assert!(distribution.bins().is_empty());
        distribution.add(0.0);
        assert_eq!(distribution.bins().iter().map(|bar| bar.count).sum::<u64>(), 1);
        distribution.add(0.25);
        assert_eq!(distribution.bins().iter().map(|bar| bar.count).sum::<u64>(), 2);
        assert_eq!(distribution.quantile(1.0), Some(f64::INFINITY));
    }
}
