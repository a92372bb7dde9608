//! Charts as inline SVG. Colours and sizes of text come from the style sheet, so that they follow the reader's setting.

use std::fmt::Write as _;

use maud::{Markup, html};

use tesseral_report::format::{count, fixed, number};
use tesseral_report::frame::{COLOURS, caption, swatch};
use tesseral_report::scale::{Axis, with_unit};

use super::{Curve, Histogram, Parity, Point};
use crate::metrics::{Bin, Quantity};

/// Size of charts with lines, in units of the drawing; about pixels on a desktop.
const WIDE: (f64, f64) = (520.0, 300.0);
/// Size of parity plots.
const SQUARE: (f64, f64) = (380.0, 380.0);
/// Size of histograms.
const BARS: (f64, f64) = (380.0, 280.0);
const RIGHT: f64 = 16.0;
const TOP: f64 = 18.0;
const BOTTOM: f64 = 50.0;

/// Lines with more points than this are drawn as means over as many pieces, with the band from the smallest to the largest value of each.
const MOST_POINTS: usize = 400;
/// Points with a tooltip on each line.
const MOST_TOOLTIPS: usize = 120;

/// The chart of lines.
pub(crate) fn lines(curve: &Curve) -> Markup {
    let points = || curve.series.iter().flat_map(|series| &series.points);
    let y = Axis::new(curve.log, points().map(|p| p.y), WIDE.1 - BOTTOM, TOP);
    let x = Axis::tight(false, points().map(|p| p.x), left(&y, ""), WIDE.0 - RIGHT);
    html! {
        figure.chart {
            (caption(&curve.title, &curve.unit))
            @if curve.series.len() > 1 {
                ul.legend {
                    @for (i, series) in curve.series.iter().enumerate() {
                        li { (swatch(i)) (series.name) }
                    }
                }
            }
            svg viewBox=(view_box(WIDE)) role="img" aria-label=(curve.title) {
                (axes(&x, &y, WIDE, &curve.x, ""))
                @for (i, series) in curve.series.iter().enumerate() {
                    (line(&series.points, &x, &y, &format!("s{}", i % COLOURS), |p| {
                        format!("{}: {}\n{} {}", series.name, with_unit(p.y, &curve.unit), curve.x, number_of_step(p.x))
                    }))
                }
            }
        }
    }
}

/// Steps and epochs are whole numbers, mostly.
fn number_of_step(x: f64) -> String {
    if x.fract() == 0.0 && (0.0..1e15).contains(&x) { count(x as u64) } else { fixed(x, 2) }
}

fn line(points: &[Point], x: &Axis, y: &Axis, class: &str, title: impl Fn(&Point) -> String) -> Markup {
    let shown: Vec<Point> = points.iter().copied().filter(|p| x.shows(p.x) && y.shows(p.y)).collect();
    let pieces = shown.chunks(shown.len().div_ceil(MOST_POINTS).max(1));
    let means: Vec<Point> = pieces.clone().map(mean).collect();
    // A point that cannot be drawn breaks the line; where means are drawn it does not matter.
    let gaps = if means.len() == shown.len() { broken(points, x, y) } else { vec![means.clone()] };
    let mut stroke = String::new();
    for part in &gaps {
        for (i, point) in part.iter().enumerate() {
            write!(stroke, "{}{:.1} {:.1}", if i == 0 { 'M' } else { 'L' }, x.at(point.x), y.at(point.y)).ok();
        }
        // A point by itself is seen as a dot.
        if part.len() == 1 {
            stroke += "h0";
        }
    }
    let mut band = String::new();
    if means.len() < shown.len() {
        let edge = |piece: &[Point], pick: fn(f64, f64) -> f64| piece.iter().map(|p| p.y).reduce(pick).unwrap_or(f64::NAN);
        let upper = means.iter().zip(pieces.clone()).map(|(mean, piece)| (mean.x, edge(piece, f64::max)));
        let lower = means.iter().zip(pieces).rev().map(|(mean, piece)| (mean.x, edge(piece, f64::min)));
        for (i, (at, value)) in upper.chain(lower).enumerate() {
            write!(band, "{}{:.1} {:.1}", if i == 0 { 'M' } else { 'L' }, x.at(at), y.at(value)).ok();
        }
        band += "Z";
    }
    html! {
        @if !band.is_empty() { path class={ "band " (class) } d=(band) {} }
        path class={ "line " (class) } d=(stroke) {}
        @for point in means.iter().step_by(means.len().div_ceil(MOST_TOOLTIPS).max(1)) {
            circle class={ "hit " (class) } cx=(coordinate(x.at(point.x))) cy=(coordinate(y.at(point.y))) r="6" { title { (title(point)) } }
        }
    }
}

fn mean(piece: &[Point]) -> Point {
    let n = piece.len() as f64;
    Point { x: piece.iter().map(|p| p.x).sum::<f64>() / n, y: piece.iter().map(|p| p.y).sum::<f64>() / n }
}

/// Stretches of points that can be drawn.
fn broken(points: &[Point], x: &Axis, y: &Axis) -> Vec<Vec<Point>> {
    let parts = points.split(|p| !(x.shows(p.x) && y.shows(p.y)));
    parts.filter(|part| !part.is_empty()).map(<[Point]>::to_vec).collect()
}

/// The parity plot: labels to the right, predictions upwards, in the unit of the quantity.
pub(crate) fn parity(parity: &Parity) -> Markup {
    let outliers = || parity.outliers.iter().map(|outlier| outlier.point);
    let values = || parity.points.iter().copied().chain(outliers()).flat_map(|p| [p.reference, p.predicted]);
    let unit = parity.quantity.unit();
    let (x_name, y_name) = (format!("reference, {unit}"), format!("predicted, {unit}"));
    let y = Axis::new(false, values(), SQUARE.1 - BOTTOM, TOP);
    let x = Axis::new(false, values(), left(&y, &y_name), SQUARE.0 - RIGHT);
    let mut dots = String::new();
    for point in parity.points.iter().filter(|p| x.shows(p.reference) && y.shows(p.predicted)) {
        write!(dots, "M{:.1} {:.1}h0", x.at(point.reference), y.at(point.predicted)).ok();
    }
    let (low, high) = x.range();
    let title = parity.quantity.title();
    let errors = &parity.errors;
    let (display_unit, factor) = parity.quantity.display_unit();
    html! {
        figure.chart {
            (caption(title, &parity.set))
            svg viewBox=(view_box(SQUARE)) role="img" aria-label={ (title) ", predictions against references" } {
                (axes(&x, &y, SQUARE, &x_name, &y_name))
                line.diagonal x1=(coordinate(x.at(low))) y1=(coordinate(y.at(low))) x2=(coordinate(x.at(high))) y2=(coordinate(y.at(high))) {}
                path class="dots s0" d=(dots) {}
                @for outlier in parity.outliers.iter().filter(|o| x.shows(o.point.reference) && y.shows(o.point.predicted)) {
                    @let point = outlier.point;
                    circle class="outlier s1" cx=(coordinate(x.at(point.reference))) cy=(coordinate(y.at(point.predicted))) r="3.6" {
                        title {
                            (outlier.place) "\nreference " (with_unit(point.reference, unit)) "\npredicted " (with_unit(point.predicted, unit))
                            "\nerror " (with_unit((point.predicted - point.reference).abs() * factor, display_unit))
                        }
                    }
                }
            }
            p.figures {
                span { "MAE " b { (number(errors.mae * factor)) } } ", " span { "RMSE " b { (number(errors.rmse * factor)) } " " (display_unit) }
                @if let Some(r_squared) = errors.r_squared { ", " span { "R² " b { (r_squared_text(r_squared)) } } }
                ". " span { (count(parity.points.len() as u64)) " of " (count(errors.values)) " points" }
                @if !parity.outliers.is_empty() { "; " span { (swatch_ring()) " largest errors" } }
                "."
            }
        }
    }
}

/// As many nines as there are, and two digits more.
pub(crate) fn r_squared_text(r_squared: f64) -> String {
    let nines = (-(1.0 - r_squared).abs().log10()).floor().clamp(0.0, 7.0) as usize;
    fixed(r_squared, nines + 2)
}

/// The histogram of absolute errors.
pub(crate) fn histogram(histogram: &Histogram) -> Markup {
    let (unit, factor) = histogram.quantity.display_unit();
    let total: u64 = histogram.bins.iter().map(|bin| bin.count).sum();
    let share = |count: u64| 100.0 * count as f64 / total.max(1) as f64;
    // The first bar holds all smaller errors too: it is drawn as wide as the others.
    let ratio = histogram.bins.get(1).map_or(1.3, |bin| bin.to / bin.from);
    let from = |bin: &Bin| factor * if bin.from > 0.0 { bin.from } else { bin.to / ratio };
    let edges = histogram.bins.iter().flat_map(|bin| [from(bin), factor * bin.to]);
    let shares = histogram.bins.iter().map(|bin| share(bin.count));
    let y_name = "% of values";
    let y = Axis::new(false, shares.chain([0.0]), BARS.1 - BOTTOM, TOP);
    let x = Axis::tight(true, edges, left(&y, y_name), BARS.0 - RIGHT);
    let title = histogram.quantity.title();
    let width = |bin: &Bin| (x.at(factor * bin.to) - x.at(from(bin)) - 1.0).max(0.5);
    let name = |bin: &Bin| {
        let to = number(factor * bin.to);
        if bin.from > 0.0 { format!("{} to {to} {unit}", number(factor * bin.from)) } else { format!("below {to} {unit}") }
    };
    html! {
        figure.chart {
            (caption(title, &histogram.set))
            svg viewBox=(view_box(BARS)) role="img" aria-label={ (title) ", histogram of absolute errors" } {
                (axes(&x, &y, BARS, &format!("absolute error, {unit}"), y_name))
                @for bin in histogram.bins.iter().filter(|bin| bin.count > 0 && x.shows(factor * bin.to)) {
                    @let top = y.at(share(bin.count));
                    rect.bar.s0 x=(coordinate(x.at(from(bin)) + 0.5)) y=(coordinate(top)) width=(coordinate(width(bin))) height=(coordinate(y.at(0.0) - top)) {
                        title { (name(bin)) "\n" (count(bin.count)) " values, " (fixed(share(bin.count), 1)) " %" }
                    }
                }
                (mark(&x, histogram.mae * factor, "MAE", true))
                (mark(&x, histogram.q95 * factor, "95 %", false))
            }
            p.figures {
                span { "MAE " b { (number(histogram.mae * factor)) } } ", " span { "95 % below " b { (number(histogram.q95 * factor)) } " " (unit) } ", "
                span { (count(total)) " values." }
            }
        }
    }
}

/// A vertical line with its name.
fn mark(x: &Axis, value: f64, name: &str, left: bool) -> Markup {
    let at = x.at(value);
    html! {
        @if x.shows(value) {
            line.mark x1=(coordinate(at)) x2=(coordinate(at)) y1=(coordinate(TOP)) y2=(coordinate(BARS.1 - BOTTOM)) {}
            text.mark x=(coordinate(if left { at + 3.0 } else { at - 3.0 })) y=(coordinate(TOP - 4.0)) text-anchor=(if left { "end" } else { "start" }) { (name) }
        }
    }
}

/// Where the drawing begins: right of the labels of the vertical axis, and of its name, if it has one.
fn left(y: &Axis, y_name: &str) -> f64 {
    y.widest_label() + if y_name.is_empty() { 12.0 } else { 34.0 }
}

fn axes(x: &Axis, y: &Axis, size: (f64, f64), x_name: &str, y_name: &str) -> Markup {
    let (left, right, top, bottom) = (left(y, y_name), size.0 - RIGHT, TOP, size.1 - BOTTOM);
    html! {
        @for tick in y.ticks.iter().filter(|tick| !tick.label.is_empty()) {
            @let at = y.at(tick.value);
            line.grid x1=(coordinate(left)) x2=(coordinate(right)) y1=(coordinate(at)) y2=(coordinate(at)) {}
            text.tick x=(coordinate(left - 8.0)) y=(coordinate(at)) dy="0.34em" text-anchor="end" { (tick.label) }
        }
        @for (at, label) in x.with_room(1.0) {
            line.axis x1=(coordinate(at)) x2=(coordinate(at)) y1=(coordinate(bottom)) y2=(coordinate(bottom + if label.is_empty() { 3.0 } else { 5.0 })) {}
            @if !label.is_empty() {
                text.tick x=(coordinate(at)) y=(coordinate(bottom + 8.0)) dy="0.8em" text-anchor="middle" { (label) }
            }
        }
        path.axis d={ "M" (coordinate(left)) " " (coordinate(top)) "V" (coordinate(bottom)) "H" (coordinate(right)) } {}
        text.name x=(coordinate((left + right) / 2.0)) y=(coordinate(size.1 - 7.0)) text-anchor="middle" { (x_name) }
        @if !y_name.is_empty() {
            @let middle = coordinate((top + bottom) / 2.0);
            text.name x="13" y=(middle) text-anchor="middle" transform={ "rotate(-90 13 " (middle) ")" } { (y_name) }
        }
    }
}

fn swatch_ring() -> Markup {
    html! {
        svg.ring viewBox="0 0 10 10" aria-hidden="true" { circle class="outlier s1" cx="5" cy="5" r="3.6" {} }
    }
}

fn view_box(size: (f64, f64)) -> String {
    format!("0 0 {} {}", size.0, size.1)
}

fn coordinate(value: f64) -> String {
    format!("{value:.1}")
}

/// The quantities of parity plots and histograms, in the order in which they are shown.
pub(crate) const SHOWN: [Quantity; 3] = [Quantity::EnergyPerAtom, Quantity::Forces, Quantity::Stress];
