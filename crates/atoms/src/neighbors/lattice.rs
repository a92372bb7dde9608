//! Lattice geometry behind the neighbour search: completing and reducing cells.

use super::NeighborError;

pub(super) type Vec3 = [f64; 3];
pub(super) type Mat3 = [[f64; 3]; 3];

/// Components beyond this (Å) make products of three cell vectors overflow.
const LONGEST_COMPONENT: f64 = 1e60;

/// Volume over the product of the lengths below which vectors count as linearly dependent.
const SMALLEST_RELATIVE_VOLUME: f64 = 1e-13;

/// Largest coefficient of a reduced vector: shifts along it must fit in an `i32`.
const LARGEST_COEFFICIENT: i64 = 1 << 31;

/// Passes of the reduction. Each shortens a vector, and a pass costs a step of Euclid's algorithm:
/// a valid cell needs a few dozen at most.
const MAX_PASSES: usize = 1000;

pub(super) fn dot(a: &Vec3, b: &Vec3) -> f64 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

pub(super) fn cross(a: &Vec3, b: &Vec3) -> Vec3 {
    [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
}

pub(super) fn norm(a: &Vec3) -> f64 {
    dot(a, a).sqrt()
}

fn scaled(a: &Vec3, factor: f64) -> Vec3 {
    a.map(|x| x * factor)
}

/// `coefficients · rows`.
pub(super) fn combine(coefficients: &Vec3, rows: &Mat3) -> Vec3 {
    std::array::from_fn(|x| coefficients[0] * rows[0][x] + coefficients[1] * rows[1][x] + coefficients[2] * rows[2][x])
}

/// Fills in the cell vectors that a structure does not need to have.
///
/// Cell vectors are rows, Å. Rows along periodic directions are kept, and so is every other row that
/// is independent of those kept before it. The rest, zero vectors above all, become unit vectors
/// orthogonal to all kept ones. If any row is replaced the result is right-handed; without any
/// cell vector it is the identity.
///
/// # Errors
/// [`NeighborError::InvalidCellVector`] if a component is NaN or infinite, and
/// [`NeighborError::NoVolume`] if the periodic vectors are zero or linearly dependent.
///
/// ```
/// use tesseral_atoms::neighbors::complete_cell;
///
/// let slab = [[0.0, 2.5, 0.0], [0.0, 0.0, 4.0], [0.0, 0.0, 0.0]];
/// let cell = complete_cell(&slab, [true, true, false])?;
/// assert_eq!(cell, [[0.0, 2.5, 0.0], [0.0, 0.0, 4.0], [1.0, 0.0, 0.0]]);
/// # Ok::<(), tesseral_atoms::neighbors::NeighborError>(())
/// ```
pub fn complete_cell(cell: &[[f64; 3]; 3], pbc: [bool; 3]) -> Result<[[f64; 3]; 3], NeighborError> {
    if let Some(row) = cell.iter().position(|v| !v.iter().all(|x| x.abs() <= LONGEST_COMPONENT)) {
        return Err(NeighborError::InvalidCellVector { row, vector: cell[row] });
    }
    let mut kept: Vec<usize> = (0..3).filter(|&k| pbc[k]).collect();
    if relative_volume(cell, &kept) < SMALLEST_RELATIVE_VOLUME {
        return Err(NeighborError::NoVolume { cell: *cell, pbc });
    }
    for k in (0..3).filter(|&k| !pbc[k]) {
        kept.push(k);
        if relative_volume(cell, &kept) < SMALLEST_RELATIVE_VOLUME {
            kept.pop();
        }
    }

    let mut complete = *cell;
    for k in (0..3).filter(|k| !kept.contains(k)).collect::<Vec<_>>() {
        let vector = match kept.len() {
            2 => cross(&complete[(k + 1) % 3], &complete[(k + 2) % 3]),
            1 => orthogonal_to(&complete[kept[0]], k),
            _ => unit(k),
        };
        complete[k] = scaled(&vector, 1.0 / norm(&vector));
        kept.push(k);
    }
    Ok(complete)
}

/// The volume spanned by the given rows over the product of their lengths: 1 if orthogonal, 0 if
/// dependent or if one is zero. 1 without rows.
fn relative_volume(cell: &Mat3, rows: &[usize]) -> f64 {
    let units: Vec<Vec3> = rows
        .iter()
        .map(|&k| {
            let length = norm(&cell[k]);
            if length > 0.0 { scaled(&cell[k], 1.0 / length) } else { [0.0; 3] }
        })
        .collect();
    content(&units)
}

/// Length, area or volume spanned by one, two or three vectors; 1 for none.
fn content(vectors: &[Vec3]) -> f64 {
    match vectors {
        [] => 1.0,
        [a] => norm(a),
        [a, b] => norm(&cross(a, b)),
        [a, b, c, ..] => dot(a, &cross(b, c)).abs(),
    }
}

fn unit(axis: usize) -> Vec3 {
    std::array::from_fn(|x| if x == axis { 1.0 } else { 0.0 })
}

/// A vector orthogonal to `a`: Cartesian axis `preferred` with its part along `a` removed, or,
/// where that is too short to be accurate, the axis that `a` points along least.
fn orthogonal_to(a: &Vec3, preferred: usize) -> Vec3 {
    let direction = scaled(a, 1.0 / norm(a));
    let axis = if direction[preferred].abs() < 0.7 {
        preferred
    } else {
        (0..3).fold(0, |least, x| if direction[x].abs() < direction[least].abs() { x } else { least })
    };
    let mut vector = unit(axis);
    for x in 0..3 {
        vector[x] -= direction[axis] * direction[x];
    }
    vector
}

/// A lattice in the frame the search works in.
pub(super) struct Frame {
    /// Rows: shortest vectors that generate the periodic lattice; unit vectors orthogonal to them
    /// and to each other along the directions that are not periodic.
    pub(super) cell: Mat3,
    /// Rows of the inverse transpose: coordinate `d` of `r` is `inverse[d]·r`.
    pub(super) inverse: Mat3,
    /// `cell[d] = Σ_k transform[d][k] · given_cell[k]` for periodic `d`; zero for the others.
    pub(super) transform: [[i64; 3]; 3],
    /// Length, area or volume of the periodic cell, Å to the power of the periodic directions.
    pub(super) content: f64,
}

impl Frame {
    /// Reduces the periodic vectors of `cell` and completes them.
    ///
    /// In a reduced cell the distance between lattice planes is comparable with the length of the
    /// vectors, so the number of images within a cutoff does not depend on how skewed the cell was.
    pub(super) fn new(cell: &Mat3, pbc: [bool; 3]) -> Result<Self, NeighborError> {
        let mut periodic_cell = complete_cell(cell, pbc)?;
        for k in 0..3 {
            if !pbc[k] {
                periodic_cell[k] = [0.0; 3];
            }
        }
        let (reduced, transform) = reduce(&periodic_cell, pbc).ok_or(NeighborError::TooSkewed { cell: *cell })?;
        let frame = complete_cell(&reduced, pbc)?;
        let [a, b, c] = &frame;
        let volume = dot(a, &cross(b, c));
        let inverse = [cross(b, c), cross(c, a), cross(a, b)].map(|v| scaled(&v, 1.0 / volume));
        if !inverse.iter().flatten().all(|x| x.is_finite()) {
            return Err(NeighborError::NoVolume { cell: *cell, pbc });
        }
        let periodic: Vec<Vec3> = (0..3).filter(|&k| pbc[k]).map(|k| frame[k]).collect();
        Ok(Self { cell: frame, inverse, transform, content: content(&periodic) })
    }

    /// The distance between neighbouring lattice planes along direction `d`, Å.
    pub(super) fn height(&self, d: usize) -> f64 {
        1.0 / norm(&self.inverse[d])
    }
}

/// Minkowski reduction in up to three dimensions: shortens each vector by multiples of another, or
/// by a sum of the two others, until nothing gets shorter (Semaev, CaLC 2001, LNCS 2146, 181).
/// Returns `None` if a coefficient grows beyond [`LARGEST_COEFFICIENT`].
fn reduce(cell: &Mat3, pbc: [bool; 3]) -> Option<(Mat3, [[i64; 3]; 3])> {
    let periodic: Vec<usize> = (0..3).filter(|&k| pbc[k]).collect();
    let mut transform = [[0; 3]; 3];
    for &k in &periodic {
        transform[k][k] = 1;
    }
    let mut reduced = *cell;

    // Replaces vector k by a combination if that is shorter beyond rounding.
    let shorten = |k: usize, row: [i64; 3], transform: &mut [[i64; 3]; 3], reduced: &mut Mat3| {
        let candidate = combine(&row.map(|x| x as f64), cell);
        let shorter = dot(&candidate, &candidate) < dot(&reduced[k], &reduced[k]) * (1.0 - 1e-12);
        if shorter {
            transform[k] = row;
            reduced[k] = candidate;
        }
        shorter
    };

    for _ in 0..MAX_PASSES {
        let mut changed = false;
        for &k in &periodic {
            for &l in periodic.iter().filter(|&&l| l != k) {
                let quotient = (dot(&reduced[k], &reduced[l]) / dot(&reduced[l], &reduced[l])).round();
                if quotient == 0.0 {
                    continue;
                }
                // NaN comes from a vector that has shrunk to nothing.
                if quotient.is_nan() || quotient.abs() > LARGEST_COEFFICIENT as f64 {
                    return None;
                }
                let row = std::array::from_fn(|x| transform[k][x] - quotient as i64 * transform[l][x]);
                changed |= shorten(k, row, &mut transform, &mut reduced);
            }
        }
        if periodic.len() == 3 {
            for k in 0..3 {
                let (l, m) = ((k + 1) % 3, (k + 2) % 3);
                for (p, q) in [(1, 1), (1, -1), (-1, 1), (-1, -1)] {
                    let row = std::array::from_fn(|x| transform[k][x] + p * transform[l][x] + q * transform[m][x]);
                    changed |= shorten(k, row, &mut transform, &mut reduced);
                }
            }
        }
        if transform.iter().flatten().any(|x| x.abs() > LARGEST_COEFFICIENT) {
            return None;
        }
        if !changed {
            return Some((reduced, transform));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completion_is_orthogonal_and_right_handed() {
        let vectors = [[3.0, 0.2, -0.7], [-1.1, 4.0, 0.4], [0.3, 0.5, 5.0]];
        for mask in 0..8 {
            let pbc = [mask & 1 != 0, mask & 2 != 0, mask & 4 != 0];
            let mut cell = [[0.0; 3]; 3];
            for k in 0..3 {
                if pbc[k] {
                    cell[k] = vectors[k];
                }
            }
            let complete = complete_cell(&cell, pbc).unwrap();
            assert!(dot(&complete[0], &cross(&complete[1], &complete[2])) > 0.0);
            for k in 0..3 {
                if pbc[k] {
                    assert_eq!(complete[k], cell[k]);
                } else {
                    assert!((norm(&complete[k]) - 1.0).abs() < 1e-15);
                    for l in (0..3).filter(|&l| l != k) {
                        assert!(dot(&complete[k], &complete[l]).abs() < 1e-14);
                    }
                }
            }
        }
        assert_eq!(complete_cell(&[[0.0; 3]; 3], [false; 3]).unwrap(), [unit(0), unit(1), unit(2)]);
    }

    #[test]
    fn completion_keeps_independent_vectors_and_replaces_dependent_ones() {
        let cell = [[2.0, 0.0, 0.0], [1.0, 3.0, 0.0], [3.0, 3.0, 0.0]];
        let complete = complete_cell(&cell, [true, false, false]).unwrap();
        assert_eq!(complete, [cell[0], cell[1], [0.0, 0.0, 1.0]]);
        assert!(matches!(complete_cell(&cell, [true; 3]), Err(NeighborError::NoVolume { .. })));
        let nan = [[2.0, 0.0, 0.0], [0.0, f64::NAN, 0.0], [0.0, 0.0, 1.0]];
        assert!(matches!(complete_cell(&nan, [false; 3]), Err(NeighborError::InvalidCellVector { row: 1, .. })));
    }

    #[test]
    fn reduction_undoes_shear() {
        // A cubic lattice seen through shears of determinant one.
        let cell = [[4.0, 0.0, 0.0], [4000.0, 4.0, 0.0], [-80_000.0, 1200.0, 4.0]];
        let frame = Frame::new(&cell, [true; 3]).unwrap();
        assert!((frame.content - 64.0).abs() < 1e-9);
        for d in 0..3 {
            assert!((norm(&frame.cell[d]) - 4.0).abs() < 1e-10);
            assert!((frame.height(d) - 4.0).abs() < 1e-10);
            let rebuilt = combine(&frame.transform[d].map(|x| x as f64), &cell);
            assert_eq!(rebuilt, frame.cell[d]);
        }
        let t = frame.transform.map(|row| row.map(|x| x as f64));
        assert_eq!(dot(&t[0], &cross(&t[1], &t[2])).abs(), 1.0);
    }

    #[test]
    fn reduction_handles_combinations_of_three() {
        // Pairwise reduced, yet a + b + c is shorter than each of them.
        let cell = [[3.0, -1.4, -1.4], [-1.4, 3.0, -1.4], [-1.4, -1.4, 3.0]];
        let frame = Frame::new(&cell, [true; 3]).unwrap();
        let shortest = frame.cell.iter().map(norm).fold(f64::INFINITY, f64::min);
        assert!((shortest - 0.2 * 3f64.sqrt()).abs() < 1e-12);
    }
}
