//! Axes: from values to places on the page, and where the ticks are.

use super::format::{fixed, number, power_of_ten, scientific};

/// Values further out are not drawn, so that sums and quotients of those that are stay finite.
const EXTREME: f64 = 1e280;

/// From values to coordinates of the drawing.
#[derive(Debug, Clone)]
pub(crate) struct Axis {
    log: bool,
    low: f64,
    high: f64,
    from: f64,
    to: f64,
    /// How many there may be between ticks that are not logarithmic.
    intervals: f64,
    /// Where lines and labels are.
    pub(crate) ticks: Vec<Tick>,
}

/// A mark at an axis.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tick {
    pub(crate) value: f64,
    /// Nothing for a small mark.
    pub(crate) label: String,
}

impl Axis {
    /// An axis from `from` to `to` on the page, over all `values`, that begins and ends at a tick.
    pub(crate) fn new(log: bool, values: impl IntoIterator<Item = f64>, from: f64, to: f64) -> Self {
        let mut axis = Self { intervals: 5.0, ..Self::tight(log, values, from, to) };
        if log {
            axis.low = round_log(axis.low, f64::floor);
            axis.high = round_log(axis.high, f64::ceil);
        } else {
            let step = step(axis.low, axis.high, axis.intervals);
            axis.low = (axis.low / step).floor() * step;
            axis.high = (axis.high / step).ceil() * step;
        }
        axis.ticks = axis.make_ticks();
        axis
    }

    /// An axis that begins and ends at the smallest and largest of `values`.
    pub(crate) fn tight(log: bool, values: impl IntoIterator<Item = f64>, from: f64, to: f64) -> Self {
        let usable = values.into_iter().filter(|v| if log { (EXTREME.recip()..=EXTREME).contains(v) } else { v.abs() <= EXTREME });
        let range = usable.fold(None, |range: Option<(f64, f64)>, v| Some(range.map_or((v, v), |(low, high)| (low.min(v), high.max(v)))));
        let (mut low, mut high) = range.unwrap_or(if log { (0.1, 1.0) } else { (0.0, 1.0) });
        // One value, or values that differ in rounding alone.
        if log && high / low < 1.0 + 1e-9 {
            (low, high) = (low / 2.0, high * 2.0);
        } else if !log && high - low <= (1e-12 * high.abs().max(low.abs())).max(EXTREME.recip()) {
            let margin = if high.abs() < EXTREME.recip() { 1.0 } else { high.abs() * 1e-3 };
            (low, high) = (low - margin, high + margin);
        }
        let mut axis = Self { log, low, high, from, to, intervals: 8.0, ticks: Vec::new() };
        axis.ticks = axis.make_ticks();
        axis
    }

    /// The place of a value.
    pub(crate) fn at(&self, value: f64) -> f64 {
        let share =
            if self.log { (value / self.low).ln() / (self.high / self.low).ln() } else { (value - self.low) / (self.high - self.low) };
        self.from + (self.to - self.from) * share
    }

    /// Whether a value can be drawn.
    pub(crate) fn shows(&self, value: f64) -> bool {
        let slack = if self.log { 1e-9 * value.abs() } else { 1e-9 * (self.high - self.low) };
        value.is_finite() && (!self.log || value > 0.0) && value >= self.low - slack && value <= self.high + slack
    }

    /// Both ends.
    pub(crate) fn range(&self) -> (f64, f64) {
        (self.low, self.high)
    }

    fn make_ticks(&self) -> Vec<Tick> {
        let ticks = if self.log { log_ticks(self.low, self.high) } else { linear_ticks(self.low, self.high, self.intervals) };
        ticks.into_iter().filter(|tick| self.shows(tick.value)).collect()
    }
}

/// The smallest step of 1, 2 or 5 times a power of ten that makes no more than so many intervals.
fn step(low: f64, high: f64, intervals: f64) -> f64 {
    let rough = (high - low) / intervals;
    let power = 10f64.powf(rough.log10().floor());
    let mantissa = rough / power;
    let fits = |nice: &f64| mantissa <= nice * (1.0 + 1e-9);
    power * [1.0, 2.0, 5.0].into_iter().find(fits).unwrap_or(10.0)
}

fn linear_ticks(low: f64, high: f64, intervals: f64) -> Vec<Tick> {
    let step = step(low, high, intervals);
    let first = (low / step - 1e-9).ceil();
    let count = ((high / step + 1e-9).floor() - first).clamp(0.0, 20.0) as usize;
    let largest = low.abs().max(high.abs());
    let label = |value: f64| {
        if value == 0.0 {
            "0".to_owned()
        } else if step < 1e-5 || largest >= 1e7 {
            scientific(value, (largest.log10().floor() - step.log10().floor()).clamp(0.0, 6.0) as usize)
        } else if step >= 1000.0 {
            format!("{}k", fixed(value / 1000.0, 0))
        } else {
            fixed(value, (-step.log10().floor()).max(0.0) as usize)
        }
    };
    (0..=count)
        .map(|i| {
            let value = (first + i as f64) * step;
            Tick { value, label: label(value) }
        })
        .collect()
}

fn log_ticks(low: f64, high: f64) -> Vec<Tick> {
    let (first, last) = ((low.log10() + 1e-9).floor() as i32, (high.log10() - 1e-9).ceil() as i32);
    let decades = (high / low).log10();
    // With few decades, ticks between them have labels as well; with many, only some decades have.
    let labelled: &[u32] = if decades < 1.2 {
        &[1, 2, 3, 5, 7]
    } else if decades < 2.2 {
        &[1, 2, 5]
    } else {
        &[1]
    };
    let every = ((decades / 7.0).ceil() as i32).max(1);
    let mut ticks = Vec::new();
    for exponent in first..=last {
        for mantissa in 1..10 {
            if mantissa > 1 && every > 1 {
                continue;
            }
            let value = f64::from(mantissa) * 10f64.powi(exponent);
            let is_labelled = labelled.contains(&mantissa) && exponent.rem_euclid(every) == 0;
            let label = if is_labelled { log_label(value, mantissa, exponent) } else { String::new() };
            ticks.push(Tick { value, label });
        }
    }
    ticks
}

fn log_label(value: f64, mantissa: u32, exponent: i32) -> String {
    match exponent {
        -3..0 => fixed(value, -exponent as usize),
        0..4 => fixed(value, 0),
        _ if mantissa == 1 => power_of_ten(exponent),
        _ => format!("{mantissa}·{}", power_of_ten(exponent)),
    }
}

/// The next 1, 2 or 5 times a power of ten below or above.
fn round_log(value: f64, round: impl Fn(f64) -> f64) -> f64 {
    let candidates =
        (-1..=1).flat_map(|shift| [1.0, 2.0, 5.0].map(|mantissa| mantissa * 10f64.powf(value.log10().floor() + f64::from(shift))));
    let up = round(0.5) > 0.0;
    // A value that is a tick but for rounding is one.
    let fits = |candidate: &f64| if up { *candidate >= value * (1.0 - 1e-9) } else { *candidate <= value * (1.0 + 1e-9) };
    let found = candidates.filter(fits).reduce(if up { f64::min } else { f64::max });
    found.filter(|v| v.is_finite() && *v > 0.0).unwrap_or(value)
}

/// A value and its unit.
pub(crate) fn with_unit(value: f64, unit: &str) -> String {
    if unit.is_empty() { number(value) } else { format!("{} {unit}", number(value)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis) -> Vec<&str> {
        axis.ticks.iter().map(|tick| tick.label.as_str()).filter(|label| !label.is_empty()).collect()
    }

    #[test]
    fn linear_axes() {
        let axis = Axis::new(false, [0.3, 9.7], 0.0, 100.0);
        assert_eq!(labels(&axis), ["0", "2", "4", "6", "8", "10"]);
        assert_eq!((axis.at(0.0), axis.at(5.0), axis.at(10.0)), (0.0, 50.0, 100.0));
        let axis = Axis::new(false, [-654.05, -653.91], 0.0, 100.0);
        assert_eq!(labels(&axis), ["−654.05", "−654.00", "−653.95", "−653.90"]);
        let axis = Axis::tight(false, [0.0, 12_000.0], 0.0, 1.0);
        assert_eq!(labels(&axis), ["0", "2k", "4k", "6k", "8k", "10k", "12k"]);
    }

    #[test]
    fn logarithmic_axes() {
        let axis = Axis::new(true, [0.013, 7.0], 100.0, 0.0);
        assert_eq!(axis.range(), (0.01, 10.0));
        assert_eq!(labels(&axis), ["0.01", "0.1", "1", "10"]);
        assert!((axis.at(0.1) - 200.0 / 3.0).abs() < 1e-12);
        let axis = Axis::new(true, [3.1, 4.4], 0.0, 1.0);
        assert_eq!((axis.range(), labels(&axis)), ((2.0, 5.0), vec!["2", "3", "5"]));
        let axis = Axis::new(true, [1e-9, 1e8], 0.0, 1.0);
        assert!(labels(&axis).len() <= 9 && labels(&axis).contains(&"10⁻⁶"), "{:?}", labels(&axis));
        assert!(!axis.shows(0.0) && !axis.shows(-1.0) && !axis.shows(f64::NAN));
    }

    /// No division by zero, no endless list, whatever the values are.
    #[test]
    fn strange_values() {
        let cases: [&[f64]; 9] = [
            &[],
            &[0.0],
            &[5.0],
            &[f64::NAN, f64::INFINITY],
            &[-17659.0, -17659.0 + 1e-12],
            &[1e-308, 1e308],
            &[f64::MIN_POSITIVE / 4.0],
            &[f64::MAX],
            &[-1e-320, 1e-320],
        ];
        for values in cases {
            for log in [false, true] {
                let axis = Axis::new(log, values.iter().copied(), 10.0, 90.0);
                let (low, high) = axis.range();
                assert!(low < high && low.is_finite(), "{values:?} {log}: {low} {high}");
                assert!(axis.ticks.len() < 1000);
                for value in values.iter().copied().filter(|v| axis.shows(*v)) {
                    assert!((9.9..90.1).contains(&axis.at(value)), "{values:?} {log}: {}", axis.at(value));
                }
            }
        }
    }
}
