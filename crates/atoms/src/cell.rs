//! The unit cell: three lattice vectors, stored as rows.

use std::fmt;

/// Three lattice vectors in Å. Row `i` is the `i`-th vector: `vectors[i] = [x, y, z]`.
///
/// Fractional coordinates `s` and Cartesian coordinates `r` are row vectors, so `r = s · vectors`.
/// Left-handed cells are allowed; a vector may be zero (a molecule, a slab without a third vector).
#[derive(Clone, Copy, PartialEq)]
pub struct Cell {
    /// The lattice vectors as rows, Å.
    pub vectors: [[f64; 3]; 3],
}

/// Why a cell cannot be built.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum CellError {
    /// Lengths or angles that no three vectors can have.
    #[error("no cell has the lengths {lengths:?} Å and the angles {angles:?}°: {reason}")]
    ImpossibleParameters {
        /// `|a|, |b|, |c|` in Å.
        lengths: [f64; 3],
        /// `α, β, γ` in degrees.
        angles: [f64; 3],
        /// What is wrong with them.
        reason: &'static str,
    },
}

/// Below this ratio of a volume (or area) to the product of the lengths that span it, vectors count as linearly dependent.
const DEPENDENT: f64 = 1e-10;

impl Cell {
    /// The cell of a molecule: no lattice vectors at all.
    pub const ZERO: Self = Self { vectors: [[0.0; 3]; 3] };

    /// A cell from its lattice vectors as rows, Å.
    pub const fn new(vectors: [[f64; 3]; 3]) -> Self {
        Self { vectors }
    }

    /// An orthorhombic cell with edges `a`, `b`, `c` in Å along x, y, z.
    pub const fn orthorhombic(a: f64, b: f64, c: f64) -> Self {
        Self { vectors: [[a, 0.0, 0.0], [0.0, b, 0.0], [0.0, 0.0, c]] }
    }

    /// A cubic cell with edge `a` in Å.
    pub const fn cubic(a: f64) -> Self {
        Self::orthorhombic(a, a, a)
    }

    /// A cell from lengths `|a|, |b|, |c|` (Å) and angles `α = ∠(b, c)`, `β = ∠(a, c)`, `γ = ∠(a, b)` (degrees).
    ///
    /// Standard setting: `a` along x, `b` in the xy plane with positive y, `c` with positive z.
    /// Angles of 90° give exact zeros.
    ///
    /// # Errors
    /// [`CellError::ImpossibleParameters`] if a value is not finite, a length is not positive, an angle is outside
    /// (0°, 180°), or the three angles do not close.
    pub fn from_parameters(lengths: [f64; 3], angles: [f64; 3]) -> Result<Self, CellError> {
        let impossible = |reason| CellError::ImpossibleParameters { lengths, angles, reason };
        if !lengths.iter().all(|l| l.is_finite() && *l > 0.0) {
            return Err(impossible("every length must be a positive number"));
        }
        if !angles.iter().all(|a| *a > 0.0 && *a < 180.0) {
            return Err(impossible("every angle must lie between 0° and 180°"));
        }
        let cosine = |degrees: f64| if degrees == 90.0 { 0.0 } else { degrees.to_radians().cos() };
        let sine = |degrees: f64| if degrees == 90.0 { 1.0 } else { degrees.to_radians().sin() };
        let [cos_alpha, cos_beta, cos_gamma] = angles.map(cosine);
        let sin_gamma = sine(angles[2]);
        let c_y = (cos_alpha - cos_beta * cos_gamma) / sin_gamma;
        let c_z_squared = 1.0 - cos_beta * cos_beta - c_y * c_y;
        if c_z_squared.is_nan() || c_z_squared <= DEPENDENT {
            return Err(impossible("three angles must add up to less than 360° and each must be less than the other two together"));
        }
        let [a, b, c] = lengths;
        Ok(Self::new([[a, 0.0, 0.0], [b * cos_gamma, b * sin_gamma, 0.0], [c * cos_beta, c * c_y, c * c_z_squared.sqrt()]]))
    }

    /// True if all nine numbers are zero: there is no cell.
    pub fn is_zero(&self) -> bool {
        self.vectors.iter().flatten().all(|&x| x == 0.0)
    }

    /// True if all nine numbers are finite.
    pub fn is_finite(&self) -> bool {
        self.vectors.iter().flatten().all(|x| x.is_finite())
    }

    /// `a · (b × c)` in Å³: negative for a left-handed cell.
    pub fn signed_volume(&self) -> f64 {
        let [a, b, c] = self.vectors;
        dot(a, cross(b, c))
    }

    /// The volume in Å³, never negative.
    pub fn volume(&self) -> f64 {
        self.signed_volume().abs()
    }

    /// True if `a, b, c` form a left-handed system.
    pub fn is_left_handed(&self) -> bool {
        self.signed_volume() < 0.0
    }

    /// The inverse matrix (1/Å), so that `s = r · inverse`; `None` if the vectors are linearly dependent.
    pub fn inverse(&self) -> Option<[[f64; 3]; 3]> {
        let [a, b, c] = self.vectors;
        let volume = self.signed_volume();
        let scale = self.lengths().iter().product::<f64>();
        if !volume.is_finite() || volume == 0.0 || volume.abs() <= DEPENDENT * scale {
            return None;
        }
        // Columns of the inverse are the reciprocal vectors b×c/V, c×a/V, a×b/V.
        let reciprocal = [cross(b, c), cross(c, a), cross(a, b)];
        let mut inverse = [[0.0; 3]; 3];
        for i in 0..3 {
            for k in 0..3 {
                inverse[k][i] = reciprocal[i][k] / volume;
            }
        }
        Some(inverse)
    }

    /// Cartesian coordinates (Å) of fractional ones: `r = s · vectors`.
    pub fn cartesian(&self, fractional: [f64; 3]) -> [f64; 3] {
        multiply(fractional, &self.vectors)
    }

    /// Fractional coordinates of Cartesian ones (Å); `None` if the vectors are linearly dependent.
    ///
    /// For many points take [`Cell::inverse`] once.
    pub fn fractional(&self, cartesian: [f64; 3]) -> Option<[f64; 3]> {
        self.inverse().map(|inverse| multiply(cartesian, &inverse))
    }

    /// `|a|, |b|, |c|` in Å.
    pub fn lengths(&self) -> [f64; 3] {
        self.vectors.map(norm)
    }

    /// `α = ∠(b, c)`, `β = ∠(a, c)`, `γ = ∠(a, b)` in degrees; 90° where a vector is zero.
    pub fn angles(&self) -> [f64; 3] {
        let [a, b, c] = self.vectors;
        [(b, c), (a, c), (a, b)].map(|(u, v)| {
            let product = norm(u) * norm(v);
            if product == 0.0 {
                return 90.0;
            }
            // atan2 of |u×v| and u·v keeps its digits where acos loses them.
            norm(cross(u, v)).atan2(dot(u, v)).to_degrees()
        })
    }

    /// Perpendicular heights in Å: the distance between the two faces spanned by the other two vectors, `V / |v_j × v_k|`.
    ///
    /// Zero where that face has no area.
    pub fn heights(&self) -> [f64; 3] {
        let [a, b, c] = self.vectors;
        let volume = self.volume();
        [cross(b, c), cross(c, a), cross(a, b)].map(|face| {
            let area = norm(face);
            if area == 0.0 { 0.0 } else { volume / area }
        })
    }
}

impl Default for Cell {
    fn default() -> Self {
        Self::ZERO
    }
}

impl fmt::Debug for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c] = self.vectors;
        write!(f, "Cell[{a:?}, {b:?}, {c:?}]")
    }
}

impl From<[[f64; 3]; 3]> for Cell {
    fn from(vectors: [[f64; 3]; 3]) -> Self {
        Self::new(vectors)
    }
}

/// `row · matrix`.
pub(crate) fn multiply(row: [f64; 3], matrix: &[[f64; 3]; 3]) -> [f64; 3] {
    [0, 1, 2].map(|k| row[0] * matrix[0][k] + row[1] * matrix[1][k] + row[2] * matrix[2][k])
}

fn dot(a: [f64; 3], b: [f64; 3]) -> f64 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

fn cross(a: [f64; 3], b: [f64; 3]) -> [f64; 3] {
    [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
}

fn norm(a: [f64; 3]) -> f64 {
    dot(a, a).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn close(a: f64, b: f64, tolerance: f64) -> bool {
        (a - b).abs() <= tolerance * (1.0 + a.abs().max(b.abs()))
    }

    #[test]
    fn silicon_primitive_cell() {
        // Diamond, a = 5.43 Å: volume a³/4, all angles 60°, heights a/√3.
        let h = 5.43 / 2.0;
        let cell = Cell::new([[0.0, h, h], [h, 0.0, h], [h, h, 0.0]]);
        assert!(close(cell.volume(), 5.43f64.powi(3) / 4.0, 1e-14));
        assert!(!cell.is_left_handed());
        assert!(cell.angles().iter().all(|&angle| close(angle, 60.0, 1e-13)));
        assert!(cell.heights().iter().all(|&height| close(height, 5.43 / 3f64.sqrt(), 1e-14)));
        let swapped = Cell::new([[h, 0.0, h], [0.0, h, h], [h, h, 0.0]]);
        assert!(swapped.is_left_handed());
        assert!(close(swapped.volume(), cell.volume(), 1e-15));
    }

    #[test]
    fn right_angles_are_exact() {
        let cell = Cell::from_parameters([3.0, 4.0, 5.0], [90.0; 3]).unwrap();
        assert_eq!(cell, Cell::orthorhombic(3.0, 4.0, 5.0));
        assert_eq!(cell.angles(), [90.0; 3]);
    }

    #[test]
    fn impossible_parameters_are_refused() {
        for (lengths, angles) in [
            ([1.0, 1.0, 1.0], [30.0, 30.0, 90.0]),
            ([1.0, 1.0, 1.0], [120.0, 120.0, 120.0]),
            ([0.0, 1.0, 1.0], [90.0; 3]),
            ([f64::NAN, 1.0, 1.0], [90.0; 3]),
            ([1.0, 1.0, 1.0], [90.0, 90.0, 180.0]),
            ([1.0, 1.0, 1.0], [90.0, f64::NAN, 90.0]),
        ] {
            let error = Cell::from_parameters(lengths, angles).unwrap_err();
            assert!(error.to_string().contains("no cell has the lengths"), "{error}");
        }
    }

    #[test]
    fn flat_and_empty_cells_have_no_inverse() {
        assert!(Cell::ZERO.inverse().is_none());
        assert!(Cell::ZERO.is_zero());
        assert!(Cell::new([[1.0, 0.0, 0.0], [2.0, 0.0, 0.0], [0.0, 0.0, 1.0]]).inverse().is_none());
        assert!(Cell::new([[f64::NAN, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]).inverse().is_none());
        // A small cell is not a flat one.
        assert!(Cell::cubic(1e-4).inverse().is_some());
    }

    proptest! {
        #[test]
        fn parameters_round_trip(
            lengths in prop::array::uniform3(0.5f64..50.0),
            // Any three of these close: 60 + 60 > 115 and 3 · 115 < 360.
            angles in prop::array::uniform3(60.0f64..115.0),
        ) {
            let cell = Cell::from_parameters(lengths, angles).unwrap();
            prop_assert!(!cell.is_left_handed());
            for i in 0..3 {
                prop_assert!(close(cell.lengths()[i], lengths[i], 1e-12));
                prop_assert!(close(cell.angles()[i], angles[i], 1e-9));
            }
        }

        #[test]
        fn fractional_is_the_inverse_of_cartesian(
            rows in prop::array::uniform3(prop::array::uniform3(-9.0f64..9.0)),
            point in prop::array::uniform3(-40.0f64..40.0),
        ) {
            let cell = Cell::new(rows);
            prop_assume!(cell.volume() > 1.0);
            let back = cell.cartesian(cell.fractional(point).unwrap());
            for k in 0..3 {
                prop_assert!((back[k] - point[k]).abs() < 1e-9);
            }
            // A height is the reciprocal length of the matching column of the inverse.
            let inverse = cell.inverse().unwrap();
            for i in 0..3 {
                let column = norm([inverse[0][i], inverse[1][i], inverse[2][i]]);
                prop_assert!(close(cell.heights()[i], 1.0 / column, 1e-9));
            }
        }
    }
}
