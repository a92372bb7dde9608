//! Radial functions as splines, for training: a network is evaluated at knots, edges interpolate.
//!
//! Quintic B-splines on intervals of equal length h: four times continuously differentiable, and away from kinks the error is of order h⁶. On
//! each interval six splines do not vanish. Coefficients follow from values at knots by a local rule (a quasi-interpolant that reproduces quintics):
//! with central differences δ², c = f − δ²f/4 + 13 δ⁴f/240, the inverse of 1 + δ²/4 + δ⁴/120 up to δ⁶ (the values of the spline at its knots are
//! 1, 26, 66, 26, 1 over 120). Functions with kinks are made of pieces, each continued smoothly beyond its ends.

/// Splines that do not vanish on an interval.
pub const TAPS: usize = 6;

/// Knots that a piece needs beyond each end: two coefficients, and two more for the rule that makes them.
const BEYOND: usize = 4;

/// Weights of the rule for the coefficients: of the knots two before to two behind.
const RULE: [f64; 5] = [13.0 / 240.0, -7.0 / 15.0, 1.825, -7.0 / 15.0, 13.0 / 240.0];

#[derive(Debug, Clone, PartialEq)]
struct Piece {
    start: f64,
    spacing: f64,
    intervals: usize,
    first_row: usize,
    first_knot: usize,
}

impl Piece {
    fn rows(&self) -> usize {
        self.intervals + TAPS - 1
    }

    fn knots(&self) -> usize {
        self.intervals + 1 + 2 * BEYOND
    }
}

/// Where radial functions are evaluated, and which splines make them.
#[derive(Debug, Clone, PartialEq)]
pub struct SplineGrid {
    pieces: Vec<Piece>,
}

/// What a distance sees of the coefficients.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Window {
    /// Its first coefficient.
    pub first: usize,
    /// The splines at this distance.
    pub values: [f64; TAPS],
    /// Their derivatives, 1/Å.
    pub slopes: [f64; TAPS],
}

impl SplineGrid {
    /// Pieces between consecutive `ends` (Å, ascending), with intervals of at most `spacing` (Å). `None` if there is no piece, or if knots would
    /// not be at positive distances.
    pub fn new(ends: &[f64], spacing: f64) -> Option<Self> {
        let mut pieces: Vec<Piece> = Vec::new();
        for pair in ends.windows(2) {
            let (start, length) = (pair[0], pair[1] - pair[0]);
            if !(length > 0.0 && spacing > 0.0 && length / spacing < 1e6) {
                return None;
            }
            let intervals = (length / spacing).ceil() as usize;
            let spacing = length / intervals as f64;
            if start - BEYOND as f64 * spacing <= 0.0 {
                return None;
            }
            let (first_row, first_knot) = pieces.last().map_or((0, 0), |p| (p.first_row + p.rows(), p.first_knot + p.knots()));
            pieces.push(Piece { start, spacing, intervals, first_row, first_knot });
        }
        (!pieces.is_empty()).then_some(Self { pieces })
    }

    /// How many coefficients a function has.
    pub fn rows(&self) -> usize {
        self.pieces.last().map_or(0, |p| p.first_row + p.rows())
    }

    /// Start and spacing (Å), first coefficient and number of intervals of each piece.
    pub(super) fn pieces(&self) -> impl Iterator<Item = (f64, f64, usize, usize)> + '_ {
        self.pieces.iter().map(|p| (p.start, p.spacing, p.first_row, p.intervals))
    }

    /// The distances (Å) at which functions are evaluated, each with one inside its piece: a function must be continued from there.
    pub fn knots(&self) -> Vec<(f64, f64)> {
        let of_piece = |p: &Piece| {
            let (start, spacing, middle) = (p.start, p.spacing, p.start + 0.5 * p.intervals as f64 * p.spacing);
            (0..p.knots()).map(move |k| (start + (k as f64 - BEYOND as f64) * spacing, middle))
        };
        self.pieces.iter().flat_map(of_piece).collect()
    }

    /// The matrix `[rows, knots]` (row-major) that makes coefficients from values.
    pub fn rule(&self) -> Vec<f64> {
        let (rows, knots) = (self.rows(), self.knots().len());
        let mut matrix = vec![0.0; rows * knots];
        for p in &self.pieces {
            for row in 0..p.rows() {
                let at = (p.first_row + row) * knots + p.first_knot + row;
                matrix[at..at + RULE.len()].copy_from_slice(&RULE);
            }
        }
        matrix
    }

    /// The splines at a distance (Å); outside the grid those of the nearest interval, continued.
    pub fn window(&self, d: f64) -> Window {
        let next = self.pieces.partition_point(|p| p.start <= d);
        let p = &self.pieces[next.saturating_sub(1)];
        let x = (d - p.start) / p.spacing;
        let interval = (x.max(0.0) as usize).min(p.intervals - 1);
        let t = x - interval as f64;
        let mut values = [0.0; TAPS];
        values[0] = 1.0;
        let mut slopes = [0.0; TAPS];
        // Cox and de Boor's recursion on integer knots, in place from the last to the first.
        for degree in 1..TAPS {
            if degree == TAPS - 1 {
                for j in 0..TAPS {
                    let before = if j > 0 { values[j - 1] } else { 0.0 };
                    slopes[j] = (before - values[j]) / p.spacing;
                }
            }
            for j in (0..=degree).rev() {
                let before = if j > 0 { values[j - 1] } else { 0.0 };
                values[j] = ((t + (degree - j) as f64) * before + ((1 + j) as f64 - t) * values[j]) / degree as f64;
            }
        }
        Window { first: p.first_row + interval, values, slopes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interpolated(grid: &SplineGrid, f: impl Fn(f64, f64) -> f64, d: f64) -> (f64, f64) {
        let values: Vec<f64> = grid.knots().into_iter().map(|(r, inside)| f(r, inside)).collect();
        let coefficients: Vec<f64> =
            grid.rule().chunks(values.len()).map(|row| row.iter().zip(&values).map(|(a, b)| a * b).sum()).collect();
        let window = grid.window(d);
        let of = |splines: [f64; TAPS]| splines.iter().zip(&coefficients[window.first..]).map(|(s, c)| s * c).sum::<f64>();
        (of(window.values), of(window.slopes))
    }

    #[test]
    fn quintics_are_reproduced() {
        let grid = SplineGrid::new(&[0.6, 5.0], 0.1).unwrap();
        let f = |r: f64| 1.0 + r * (0.5 + r * (-0.3 + r * (0.2 + r * (-0.05 + r * 0.004))));
        let slope = |r: f64| 0.5 + r * (-0.6 + r * (0.6 + r * (-0.2 + r * 0.02)));
        for d in [0.6, 0.61, 1.0, 2.345, 3.6, 4.9999, 5.0] {
            let (value, derivative) = interpolated(&grid, |r, _| f(r), d);
            assert!((value - f(d)).abs() < 1e-12 && (derivative - slope(d)).abs() < 1e-11, "{d}: {value} {derivative}");
        }
    }

    #[test]
    fn the_error_falls_with_the_sixth_power() {
        let error = |spacing: f64| {
            let grid = SplineGrid::new(&[0.6, 5.0], spacing).unwrap();
            let at = |k: usize| 0.6 + 4.4 * k as f64 / 1001.0;
            let of = |d: f64| (interpolated(&grid, |r, _| (5.0 * r).sin(), d).0 - (5.0 * d).sin()).abs();
            (0..1001).step_by(7).map(|k| of(at(k))).fold(0.0, f64::max)
        };
        let (coarse, fine) = (error(0.1), error(0.05));
        assert!(coarse / fine > 50.0 && fine < 3e-6, "{coarse:e} {fine:e}");
    }

    #[test]
    fn kinks_lie_between_pieces() {
        let grid = SplineGrid::new(&[0.6, 4.0, 5.0], 0.1).unwrap();
        let f = |r: f64, inside: f64| if inside < 4.0 { 1.0 } else { 1.0 + (r - 4.0).powi(2) };
        for d in [0.7, 3.95, 3.999_999, 4.0, 4.01, 4.7, 5.0] {
            let (value, slope) = interpolated(&grid, f, d);
            assert!((value - f(d, d)).abs() < 1e-12 && (slope - if d < 4.0 { 0.0 } else { 2.0 * (d - 4.0) }).abs() < 1e-11);
        }
    }

    #[test]
    fn grids_that_make_no_sense_are_none() {
        assert_eq!(SplineGrid::new(&[5.0], 0.1), None);
        assert_eq!(SplineGrid::new(&[0.3, 5.0], 0.1), None);
        assert_eq!(SplineGrid::new(&[5.0, 5.0], 0.1), None);
        assert_eq!(SplineGrid::new(&[1.0, f64::NAN], 0.1), None);
    }
}
