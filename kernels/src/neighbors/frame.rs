//! The cell of a structure and the grid of bins in it.

use super::ListError;

/// Radius within which bins propose a pair, over that of the list.
const PROPOSAL: f64 = 1.001;

/// Largest rounding error of a distance, over the radius of the list: half the margin of [`PROPOSAL`].
const LARGEST_ROUNDING: f64 = 0.0005;

/// Most cells between an atom and the middle of the structure, so that sums of a few shifts fit in 32 bits.
const LARGEST_SHIFT: f64 = (1u32 << 28) as f64;

/// Most images of the cell that are looked through along one direction.
const MOST_IMAGES: f64 = 1000.0;

/// Most pairs that are looked at for one atom, if atoms are spread evenly.
const MOST_PROPOSALS: f64 = (1u32 << 22) as f64;

/// Most bins for one atom; beyond, they are made larger.
const BINS_PER_ATOM: f64 = 8.0;

fn dot(a: &[f64; 3], b: &[f64; 3]) -> f64 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

fn cross(a: &[f64; 3], b: &[f64; 3]) -> [f64; 3] {
    [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
}

fn norm(a: &[f64; 3]) -> f64 {
    dot(a, a).sqrt()
}

/// What of `v` is orthogonal to the given unit vectors, which are so to one another.
fn orthogonal(mut v: [f64; 3], to: &[[f64; 3]]) -> [f64; 3] {
    // Twice, because the first time leaves a rounding error.
    for u in to.iter().chain(to) {
        let along = dot(&v, u);
        v = std::array::from_fn(|x| v[x] - along * u[x]);
    }
    v
}

/// Three independent vectors: the cell's along periodic directions, unit vectors orthogonal to all others along the rest.
pub(super) struct Frame {
    pub(super) rows: [[f64; 3]; 3],
    /// Coordinate d of r is `inverse[d]` · r.
    pub(super) inverse: [[f64; 3]; 3],
    pub(super) pbc: [bool; 3],
}

/// Coordinates of the atoms along the axes of a frame.
pub(super) struct Range {
    pub(super) low: [f64; 3],
    pub(super) high: [f64; 3],
}

/// What the kernels read (`list.cu`), and how many bins there are.
pub(super) struct Grid {
    pub(super) numbers: [f64; 27],
    pub(super) bins: usize,
}

impl Frame {
    pub(super) fn new(cell: &[[f64; 3]; 3], pbc: [bool; 3]) -> Result<Self, ListError> {
        let mut rows = *cell;
        let mut units: Vec<[f64; 3]> = Vec::with_capacity(3);
        for k in (0..3).filter(|&k| pbc[k]) {
            let (length, rest) = (norm(&cell[k]), orthogonal(cell[k], &units));
            let height = norm(&rest);
            // Not for NaN, infinite and zero vectors either.
            if !(height > 1e-10 * length && length < 1e60) {
                return Err(ListError::Unsuited { why: "the cell has no volume" });
            }
            units.push(rest.map(|x| x / height));
        }
        for k in (0..3).filter(|&k| !pbc[k]) {
            let axes = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]].map(|axis| orthogonal(axis, &units));
            let longest = (0..3).fold(0, |best, x| if norm(&axes[x]) > norm(&axes[best]) { x } else { best });
            let length = norm(&axes[longest]);
            rows[k] = axes[longest].map(|x| x / length);
            units.push(rows[k]);
        }
        let [a, b, c] = &rows;
        let volume = dot(a, &cross(b, c));
        let inverse = [cross(b, c), cross(c, a), cross(a, b)].map(|v| v.map(|x| x / volume));
        if !inverse.iter().flatten().all(|x| x.is_finite()) {
            return Err(ListError::Unsuited { why: "the cell has no volume" });
        }
        Ok(Self { rows, inverse, pbc })
    }

    /// The numbers of a grid that only tells coordinates.
    pub(super) fn numbers(&self) -> [f64; 27] {
        let mut numbers = [0.0; 27];
        numbers[..9].copy_from_slice(self.inverse.as_flattened());
        numbers
    }

    /// A grid for `atoms` atoms and a list of radius `reach` (Å).
    pub(super) fn grid(&self, range: &Range, atoms: usize, reach: f64) -> Result<Grid, ListError> {
        let mut numbers = self.numbers();
        let (mut magnitude, mut proposals) = (reach, atoms as f64);
        let mut sizes = [0.0; 3];
        for d in 0..3 {
            let (low, high, length) = (range.low[d], range.high[d], norm(&self.rows[d]));
            let height = 1.0 / norm(&self.inverse[d]);
            let of_axis = PROPOSAL * reach / height;
            let middle = 0.5 * low + 0.5 * high;
            magnitude += length * low.abs().max(high.abs());
            numbers[18 + d] = of_axis;
            if self.pbc[d] {
                let cells = (high - middle).max(middle - low) + 1.0;
                if cells > LARGEST_SHIFT {
                    return Err(ListError::Shift);
                }
                if of_axis > MOST_IMAGES {
                    return Err(ListError::Unsuited { why: "the cell is far too small or skewed for the cutoff" });
                }
                magnitude += length * (2.0 * cells + of_axis + 1.0);
                proposals *= 2.0 * of_axis;
                sizes[d] = height;
                (numbers[9 + d], numbers[24 + d]) = (middle, 1.0);
            } else {
                sizes[d] = high - low;
                proposals *= (2.0 * of_axis / sizes[d]).min(1.0);
                numbers[12 + d] = low;
            }
        }
        let rounding = 64.0 * f64::EPSILON * magnitude;
        if rounding.is_nan() || rounding > LARGEST_ROUNDING * reach {
            return Err(ListError::Unsuited { why: "positions or cell are too large for their digits" });
        }
        if proposals > MOST_PROPOSALS {
            return Err(ListError::Unsuited { why: "there are far too many neighbours" });
        }
        // About one atom in a bin, within limits that keep the number of bins in a sphere sensible.
        let spacing = (sizes[0] * sizes[1] * sizes[2] / atoms.max(1) as f64).cbrt();
        let mut width = spacing.clamp(0.5 * reach, reach);
        let counts = loop {
            let counts = sizes.map(|size| (size / width).floor().max(1.0));
            if counts.iter().product::<f64>() <= BINS_PER_ATOM * (atoms as f64 + 64.0) {
                break counts;
            }
            width *= 1.25;
        };
        for d in 0..3 {
            let length = if self.pbc[d] { 1.0 } else { sizes[d] };
            numbers[15 + d] = if counts[d] > 1.0 { counts[d] / length } else { 0.0 };
            numbers[21 + d] = counts[d];
        }
        let bins = counts.iter().product::<f64>() as usize;
        if bins > u32::MAX as usize / 2 {
            return Err(ListError::Unsuited { why: "there are too many atoms" });
        }
        Ok(Grid { numbers, bins })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_are_not_periodic_are_orthogonal_unit_vectors() {
        let cell = [[3.0, 0.2, -0.7], [-1.1, 4.0, 0.4], [0.3, 0.5, 5.0]];
        for mask in 0..8 {
            let pbc = [mask & 1 != 0, mask & 2 != 0, mask & 4 != 0];
            let frame = Frame::new(&std::array::from_fn(|k| if pbc[k] { cell[k] } else { [0.0; 3] }), pbc).unwrap();
            for k in 0..3 {
                for l in 0..3 {
                    let product = dot(&frame.inverse[k], &frame.rows[l]);
                    assert!((product - f64::from(u8::from(k == l))).abs() < 1e-14);
                }
                if pbc[k] {
                    assert_eq!(frame.rows[k], cell[k]);
                } else {
                    assert!((norm(&frame.rows[k]) - 1.0).abs() < 1e-15);
                    assert!((0..3).filter(|&l| l != k).all(|l| dot(&frame.rows[k], &frame.rows[l]).abs() < 1e-14));
                }
            }
        }
    }

    #[test]
    fn cells_without_volume_are_refused() {
        let flat = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [5.0, 7.0, 9.0]];
        assert!(Frame::new(&flat, [true; 3]).is_err());
        assert!(Frame::new(&flat, [true, true, false]).is_ok());
        assert!(Frame::new(&[[f64::NAN; 3]; 3], [true; 3]).is_err());
        assert!(Frame::new(&[[f64::NAN; 3]; 3], [false; 3]).is_ok());
    }
}
