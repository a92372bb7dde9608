//! Axes: from values to places on the page, and where the ticks are.

use crate::format::{fixed, number, power_of_ten, scientific};

/// Width of a digit in the largest size of text that the style sheet has, in units of a drawing.
pub const DIGIT: f64 = 8.4;

/// Values further out are not drawn, so that sums and quotients of those that are stay finite.
const EXTREME: f64 = 1e280;

/// From values to coordinates of the drawing.
#[derive(Debug, Clone)]
pub struct Axis {
    log: bool,
    low: f64,
    high: f64,
    from: f64,
    to: f64,
    /// How many there may be between ticks that are not logarithmic.
    intervals: f64,
    /// Where lines and labels are.
    pub ticks: Vec<Tick>,
}

/// A mark at an axis.
#[derive(Debug, Clone, PartialEq)]
pub struct Tick {
    /// Where it is.
    pub value: f64,
    /// Nothing for a small mark.
    pub label: String,
}

impl Axis {
    /// An axis from `from` to `to` on the page, over all `values`, that begins and ends at a tick.
    pub fn new(log: bool, values: impl IntoIterator<Item = f64>, from: f64, to: f64) -> Self {
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
    pub fn tight(log: bool, values: impl IntoIterator<Item = f64>, from: f64, to: f64) -> Self {
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

    /// An axis from `low` to `high`, whatever is drawn. `None` if they are no range: not finite, in the wrong order, or not positive on a logarithmic axis.
    pub fn within(log: bool, (low, high): (f64, f64), from: f64, to: f64) -> Option<Self> {
        let usable = low < high && low.abs().max(high.abs()) <= EXTREME && (!log || low >= EXTREME.recip());
        // A range that is nothing but rounding has no ticks.
        let resolved = if log { high / low > 1.0 + 1e-9 } else { high - low > 1e-12 * high.abs().max(low.abs()) };
        if !usable || !resolved || (!log && high - low < EXTREME.recip()) {
            return None;
        }
        let mut axis = Self { log, low, high, from, to, intervals: 6.0, ticks: Vec::new() };
        axis.ticks = axis.make_ticks();
        Some(axis)
    }

    /// Whether a value has a place at all, if not on what is shown: finite, not extreme, and positive on a logarithmic axis.
    pub fn has_place(&self, value: f64) -> bool {
        value.abs() <= EXTREME && (!self.log || value >= EXTREME.recip())
    }

    /// Places and labels of ticks, for a horizontal axis: labels that would overlap their neighbour to the left are empty. `stretch` is what one unit of
    /// [`Axis::at`] is in the drawing.
    pub fn with_room(&self, stretch: f64) -> Vec<(f64, &str)> {
        let mut end = f64::NEG_INFINITY;
        let mut labels = Vec::new();
        for tick in &self.ticks {
            let (at, half) = (stretch * self.at(tick.value), text_width(&tick.label) / 2.0);
            let fits = !tick.label.is_empty() && at - half >= end + DIGIT / 2.0;
            if fits {
                end = at + half;
            }
            labels.push((self.at(tick.value), if fits { tick.label.as_str() } else { "" }));
        }
        labels
    }

    /// Room for the labels of a vertical axis.
    pub fn widest_label(&self) -> f64 {
        self.ticks.iter().map(|tick| text_width(&tick.label)).fold(DIGIT, f64::max)
    }

    /// The place of a value.
    pub fn at(&self, value: f64) -> f64 {
        let share = if self.log {
            (value.ln() - self.low.ln()) / (self.high.ln() - self.low.ln())
        } else {
            (value - self.low) / (self.high - self.low)
        };
        self.from + (self.to - self.from) * share
    }

    /// Whether a value can be drawn.
    pub fn shows(&self, value: f64) -> bool {
        let slack = if self.log { 1e-9 * value.abs() } else { 1e-9 * (self.high - self.low) };
        value.is_finite() && (!self.log || value > 0.0) && value >= self.low - slack && value <= self.high + slack
    }

    /// Both ends.
    pub fn range(&self) -> (f64, f64) {
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
    let decades = high.log10() - low.log10();
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

/// Width of a text at the largest size, in units of a drawing. Rather too much than too little: the font is the reader's.
pub fn text_width(text: &str) -> f64 {
    DIGIT * text.chars().count() as f64
}

/// A value and its unit.
pub fn with_unit(value: f64, unit: &str) -> String {
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
        let axis = Axis::new(true, [1e-200, 1e200], 0.0, 1.0);
        assert!((axis.at(1.0) - 0.5).abs() < 1e-12 && (5..=8).contains(&labels(&axis).len()), "{:?}", labels(&axis));
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
