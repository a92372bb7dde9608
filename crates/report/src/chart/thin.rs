//! Which points of a series are drawn: no more than can be told apart, and what lies outside of the axes is cut off at them.
//!
//! All of this is in the unit square: both axes from 0 to 1.

use crate::scale::Axis;

type Point = (f64, f64);

/// How far beyond the axes a place may be for rounding.
const SLACK: f64 = 1e-9;
/// Columns of the drawing within which a line is thinned: about a pixel each.
const COLUMNS: f64 = 480.0;
/// Pieces that a line with a band is made of.
const PIECES: f64 = 160.0;
/// Values per piece from which means are drawn: of fewer, no mean says much.
const VALUES: usize = 8;
/// Points from which those that cover one another are left out.
const MANY_DOTS: usize = 2000;

/// What is drawn of a line.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Stroke {
    /// Stretches of the line.
    pub(super) lines: Vec<Vec<Point>>,
    /// Outlines of bands from the smallest to the largest value, if the line is one through means.
    pub(super) bands: Vec<Vec<Point>>,
    /// Whether it goes up and down so often that a fine pen is called for.
    pub(super) fine: bool,
}

/// From values to the unit square; points that have no place are `None`.
fn placed<'a>(points: &'a [Point], x: &'a Axis, y: &'a Axis) -> impl Iterator<Item = Option<Point>> + 'a {
    let share = |axis: &Axis, value: f64| {
        let (low, high) = axis.range();
        (axis.at(value) - axis.at(low)) / (axis.at(high) - axis.at(low))
    };
    points.iter().map(move |p| (x.has_place(p.0) && y.has_place(p.1)).then(|| (share(x, p.0), share(y, p.1))))
}

/// Stretches of points that have a place.
fn stretches(points: &[Point], x: &Axis, y: &Axis) -> Vec<Vec<Point>> {
    let placed: Vec<Option<Point>> = placed(points, x, y).collect();
    placed.split(Option::is_none).filter(|part| !part.is_empty()).map(|part| part.iter().flatten().copied().collect()).collect()
}

/// The line through points.
pub(super) fn line(points: &[Point], x: &Axis, y: &Axis) -> Stroke {
    let mut stroke = Stroke::default();
    for part in stretches(points, x, y) {
        if is_noise(&part) {
            let (means, band) = means(&part);
            stroke.lines.extend(clipped(&means));
            stroke.bands.push(band);
        } else {
            let thinned = thinned(&part);
            stroke.fine |= turns(&thinned) as f64 > PIECES;
            stroke.lines.extend(clipped(&thinned).iter().map(|part| straightened(part)));
        }
    }
    stroke
}

/// Dots that are within the axes; of many that cover one another, the first.
pub(super) fn dots(points: &[Point], x: &Axis, y: &Axis) -> Vec<Point> {
    let inside = |p: &Point| [p.0, p.1].into_iter().all(|v| (-SLACK..=1.0 + SLACK).contains(&v));
    let mut dots: Vec<Point> = placed(points, x, y).flatten().filter(inside).collect();
    if dots.len() > MANY_DOTS {
        let mut seen = std::collections::HashSet::new();
        dots.retain(|p| seen.insert(((p.0 * COLUMNS / 2.0).round() as i32, (p.1 * COLUMNS / 4.0).round() as i32)));
    }
    dots
}

/// How often a line changes between up and down.
fn turns(points: &[Point]) -> usize {
    let mut direction = 0.0;
    let mut turns = 0;
    for pair in points.windows(2) {
        let step = pair[1].1 - pair[0].1;
        if step * direction < 0.0 {
            turns += 1;
        }
        if step != 0.0 {
            direction = step;
        }
    }
    turns
}

/// Whether a line from left to right has more points than pieces can show one by one, and turns so often that they matter only together.
fn is_noise(points: &[Point]) -> bool {
    let width = points.last().map_or(0.0, |p| p.0) - points.first().map_or(0.0, |p| p.0);
    let pieces = (PIECES * width.clamp(0.0, 1.0)).max(1.0);
    points.len() as f64 >= VALUES as f64 * pieces
        && points.len() > 10 * VALUES
        && turns(points) as f64 >= 2.0 * pieces
        && points.windows(2).all(|pair| pair[0].0 <= pair[1].0)
}

/// The column of a place. Its right end belongs to the last one.
fn column(x: f64, columns: f64) -> i64 {
    let x = if (1.0..=1.0 + SLACK).contains(&x) { 1.0 - SLACK } else { x };
    (x * columns).floor().clamp(-1e9, 1e9) as i64
}

/// Means of the pieces of a line, and the outline of the band around it. On a logarithmic axis the means are geometric.
fn means(points: &[Point]) -> (Vec<Point>, Vec<Point>) {
    let (mut means, mut upper, mut lower) = (Vec::new(), Vec::new(), Vec::new());
    for piece in points.chunk_by(|a, b| column(a.0, PIECES) == column(b.0, PIECES)) {
        let n = piece.len() as f64;
        let x = piece.iter().map(|p| p.0).sum::<f64>() / n;
        if !(-SLACK..=1.0 + SLACK).contains(&x) {
            continue;
        }
        means.push((x, piece.iter().map(|p| p.1).sum::<f64>() / n));
        upper.push((x, piece.iter().map(|p| p.1).fold(f64::NEG_INFINITY, f64::max).clamp(0.0, 1.0)));
        lower.push((x, piece.iter().map(|p| p.1).fold(f64::INFINITY, f64::min).clamp(0.0, 1.0)));
    }
    upper.extend(lower.into_iter().rev());
    (means, upper)
}

/// Of each run of points in one column the first, the smallest, the largest and the last: the same picture, whatever the number of points (Jugel, Jerzak,
/// Hackenbroich and Markl, Proc. VLDB Endow. 7, 797 (2014), "M4").
fn thinned(points: &[Point]) -> Vec<Point> {
    if points.len() as f64 <= COLUMNS {
        return points.to_vec();
    }
    let mut kept = Vec::new();
    for run in points.chunk_by(|a, b| column(a.0, COLUMNS) == column(b.0, COLUMNS)) {
        let extreme = |sign: f64| (0..run.len()).max_by(|a, b| (sign * run[*a].1).total_cmp(&(sign * run[*b].1))).unwrap_or(0);
        let mut places = [0, extreme(-1.0), extreme(1.0), run.len() - 1];
        places.sort_unstable();
        for (i, place) in places.iter().enumerate() {
            if i == 0 || places[i - 1] != *place {
                kept.push(run[*place]);
            }
        }
    }
    kept
}

/// A line without the points that are a tenth of a pixel or less from it: the fewer, the straighter it is. Ends stay, and so does all that sticks out (Douglas
/// and Peucker, Cartographica 10, 112 (1973)).
fn straightened(points: &[Point]) -> Vec<Point> {
    let distance = |p: Point, a: Point, b: Point| {
        let [p, a, b] = [p, a, b].map(|(x, y)| (x * COLUMNS, y * COLUMNS / 2.0));
        let (dx, dy) = (b.0 - a.0, b.1 - a.1);
        let length = dx * dx + dy * dy;
        // The nearest place of the segment: a line may come back on itself.
        let t = if length > 0.0 { (((p.0 - a.0) * dx + (p.1 - a.1) * dy) / length).clamp(0.0, 1.0) } else { 0.0 };
        (p.0 - a.0 - t * dx).hypot(p.1 - a.1 - t * dy)
    };
    let mut keep = vec![false; points.len()];
    for end in [0, points.len().saturating_sub(1)] {
        keep[end] = true;
    }
    let mut parts = vec![(0, points.len() - 1)];
    while let Some((from, to)) = parts.pop() {
        let farthest = (from + 1..to).map(|i| (i, distance(points[i], points[from], points[to]))).max_by(|a, b| a.1.total_cmp(&b.1));
        if let Some((place, _)) = farthest.filter(|farthest| farthest.1 > 0.1) {
            keep[place] = true;
            parts.extend([(from, place), (place, to)]);
        }
    }
    points.iter().zip(keep).filter(|(_, keep)| *keep).map(|(point, _)| *point).collect()
}

/// The parts of a line that are within the unit square (Liang and Barsky, ACM Trans. Graph. 3, 1 (1984)).
fn clipped(points: &[Point]) -> Vec<Vec<Point>> {
    let mut parts: Vec<Vec<Point>> = Vec::new();
    if let [point] = points {
        let inside = [point.0, point.1].into_iter().all(|v| (-SLACK..=1.0 + SLACK).contains(&v));
        return if inside { vec![vec![*point]] } else { Vec::new() };
    }
    let mut current: Vec<Point> = Vec::new();
    for pair in points.windows(2) {
        let (a, b) = (pair[0], pair[1]);
        let (dx, dy) = (b.0 - a.0, b.1 - a.1);
        // Rounding must not cut off what lies on an axis.
        let (low, high) = (-SLACK, 1.0 + SLACK);
        let (mut from, mut to) = (0.0f64, 1.0f64);
        for (start, change) in [(a.0, dx), (a.1, dy)] {
            if change == 0.0 {
                if !(low..=high).contains(&start) {
                    to = -1.0;
                }
            } else {
                let (enter, leave) = ((low - start) / change, (high - start) / change);
                from = from.max(enter.min(leave));
                to = to.min(enter.max(leave));
            }
        }
        if from > to {
            parts.extend((!current.is_empty()).then(|| std::mem::take(&mut current)));
            continue;
        }
        if current.is_empty() {
            current.push(if from > 0.0 { (a.0 + from * dx, a.1 + from * dy) } else { a });
        }
        if to < 1.0 {
            current.push((a.0 + to * dx, a.1 + to * dy));
            parts.push(std::mem::take(&mut current));
        } else {
            current.push(b);
        }
    }
    parts.extend((!current.is_empty()).then_some(current));
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit() -> Axis {
        Axis::within(false, (0.0, 1.0), 0.0, 1.0).unwrap()
    }

    #[test]
    fn a_line_is_cut_where_it_leaves() {
        // Up through the top at x = 0.25, back through it at x = 0.75.
        let parts = clipped(&[(0.0, 0.0), (0.5, 2.0), (1.0, 0.0)]);
        assert_eq!(parts.len(), 2);
        let close = |a: Point, b: Point| assert!((a.0 - b.0).abs() < 1e-8 && (a.1 - b.1).abs() < 1e-8, "{a:?} {b:?}");
        close(parts[0][0], (0.0, 0.0));
        close(parts[0][1], (0.25, 1.0));
        close(parts[1][0], (0.75, 1.0));
        close(parts[1][1], (1.0, 0.0));
        // A segment across a corner, and one that misses the square.
        let parts = clipped(&[(-0.5, 0.5), (0.5, 1.5)]);
        assert!(parts.iter().all(|part| part.windows(2).all(|w| (w[0].0 - w[1].0).abs() < 1e-8)), "{parts:?}");
        assert!(clipped(&[(-0.6, 0.5), (0.5, 1.6)]).is_empty());
        let through = clipped(&[(-1.0, 0.5), (2.0, 0.5)]);
        close(through[0][0], (0.0, 0.5));
        close(through[0][1], (1.0, 0.5));
    }

    #[test]
    fn thinning_keeps_every_extreme() {
        // A slow wave with three spikes of one point each.
        let mut points: Vec<Point> = (0..100_000).map(|i| f64::from(i) / 100_000.0).map(|x| (x, 0.5 + 0.1 * (7.0 * x).sin())).collect();
        for (place, value) in [(12_345, 0.97), (54_321, 0.03), (99_998, 0.9)] {
            points[place].1 = value;
        }
        let stroke = line(&points, &unit(), &unit());
        assert!(stroke.bands.is_empty() && !stroke.fine);
        let drawn = &stroke.lines[0];
        assert!(drawn.len() < 200, "{}", drawn.len());
        for value in [0.97, 0.03, 0.9] {
            assert!(drawn.iter().any(|p| p.1 == value), "{value}");
        }
        assert_eq!((drawn[0], *drawn.last().unwrap()), (points[0], *points.last().unwrap()));
        assert!(drawn.windows(2).all(|pair| pair[0].0 <= pair[1].0));
    }

    #[test]
    fn what_is_straight_has_few_points_and_what_is_not_stays_where_it_was() {
        let straight: Vec<Point> = (0..300).map(|i| (f64::from(i) / 299.0, f64::from(i) / 598.0)).collect();
        assert_eq!(straightened(&straight), [straight[0], straight[299]]);
        let curve: Vec<Point> = (0..300).map(|i| f64::from(i) / 299.0).map(|x| (x, 0.5 + 0.4 * (9.0 * x).sin())).collect();
        let drawn = straightened(&curve);
        assert!(drawn.len() < 100, "{}", drawn.len());
        for point in curve {
            let after = drawn.iter().position(|p| p.0 >= point.0).unwrap();
            let (a, b) = (drawn[after.max(1) - 1], drawn[after.max(1)]);
            let there = a.1 + (b.1 - a.1) * (point.0 - a.0) / (b.0 - a.0);
            // A tenth of a pixel across the line is more along the ordinate where it is steep.
            assert!((there - point.1).abs() < 0.1 / 240.0 * (1.0 + 3.6 / 2.0), "{point:?} {there}");
        }
        // There and back again.
        let back = [(0.0, 0.5), (1.0, 0.5), (0.2, 0.5)];
        assert_eq!(straightened(&back), back);
    }

    #[test]
    fn noise_is_a_line_through_means_in_a_band() {
        let value = |i: u32| f64::from(i.wrapping_mul(2_654_435_761) >> 16) / 65_536.0;
        let points: Vec<Point> = (0..10_000).map(|i| (f64::from(i) / 1e4, 0.2 + 0.6 * value(i))).collect();
        let stroke = line(&points, &unit(), &unit());
        assert_eq!((stroke.lines.len(), stroke.bands.len()), (1, 1));
        assert_eq!((stroke.lines[0].len(), stroke.bands[0].len()), (160, 320));
        let overall = |pick: fn(f64, f64) -> f64, points: &[Point]| points.iter().map(|p| p.1).reduce(pick).unwrap();
        assert_eq!(overall(f64::max, &points), overall(f64::max, &stroke.bands[0]));
        assert_eq!(overall(f64::min, &points), overall(f64::min, &stroke.bands[0]));
        let mean = |points: &[Point]| points.iter().map(|p| p.1).sum::<f64>() / points.len() as f64;
        assert!((mean(&points) - mean(&stroke.lines[0])).abs() < 1e-3);
        // The same points in another order are not a course of anything.
        let mut mixed = points;
        mixed.swap(10, 9000);
        assert!(line(&mixed, &unit(), &unit()).bands.is_empty());
    }

    #[test]
    fn what_has_no_place_breaks_the_line() {
        let nan = f64::NAN;
        let points = [(0.0, 0.1), (0.1, 0.2), (0.2, nan), (0.3, 0.3), (0.4, f64::INFINITY), (nan, 0.3), (0.5, 0.5), (0.6, 0.6), (0.7, 0.5)];
        let lengths: Vec<usize> = line(&points, &unit(), &unit()).lines.iter().map(Vec::len).collect();
        assert_eq!(lengths, [2, 1, 3]);
        assert_eq!(dots(&points, &unit(), &unit()).len(), 6);
        let log = Axis::within(true, (1e-3, 1.0), 0.0, 1.0).unwrap();
        let points = [(0.0, 0.1), (0.1, 0.0), (0.2, 0.1), (0.3, -1.0)];
        let lengths: Vec<usize> = line(&points, &unit(), &log).lines.iter().map(Vec::len).collect();
        assert_eq!(lengths, [1, 1]);
    }

    #[test]
    fn dots_that_cover_one_another_are_drawn_once() {
        let points: Vec<Point> = (0..50_000).map(|i| (f64::from(i % 100) / 100.0, f64::from(i % 7) / 7.0)).collect();
        assert_eq!(dots(&points, &unit(), &unit()).len(), 700);
    }
}
