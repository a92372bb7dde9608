//! Neighbour lists: which atoms lie within a cutoff of which, periodic images included.
//!
//! [`neighbor_list`] returns every ordered pair of atoms closer than the cutoff as one edge from a
//! centre to a neighbour, grouped by centre. Cost and memory are linear in the number of atoms at
//! fixed density, whatever the shape of the cell, and the result is the same bit for bit for any
//! number of threads.
//!
//! ```
//! use tesseral_atoms::neighbors::neighbor_list;
//!
//! // Simple cubic polonium: one atom, six neighbours, all of them its own images.
//! let a = 3.35;
//! let cell = [[a, 0.0, 0.0], [0.0, a, 0.0], [0.0, 0.0, a]];
//! let list = neighbor_list(&cell, [true; 3], &[[0.0; 3]], 4.0)?;
//! assert_eq!(list.len(), 6);
//! assert_eq!(list.shifts[0], [-1, 0, 0]);
//! assert_eq!(list.vectors[0], [-a, 0.0, 0.0]);
//! # Ok::<(), tesseral_atoms::neighbors::NeighborError>(())
//! ```

mod cell_list;
mod lattice;

#[cfg(test)]
mod brute_force;
#[cfg(test)]
mod tests;

use std::ops::Range;

use rayon::prelude::*;

use self::cell_list::{CHUNK, CellList, ChunkRows, unpack};
pub use self::lattice::complete_cell;

/// Two atoms nearer than this (Å) count as sitting on the same spot.
///
/// The direction of such an edge is rounding noise, and every potential built on it is undefined.
pub const COINCIDENT_DISTANCE: f64 = 1e-6;

/// Largest mean number of neighbours per atom that is attempted. At the densities of condensed
/// matter it is reached only beyond a cutoff of 100 Å; a cell in the wrong unit reaches it at once.
pub const MAX_NEIGHBORS_PER_ATOM: usize = 1 << 20;

/// Largest number of edges of one list, so that an edge index always fits in a `u32`.
pub const MAX_EDGES: usize = u32::MAX as usize;

/// Why a neighbour list could not be built.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum NeighborError {
    /// The cutoff is zero, negative, infinite or NaN.
    #[error("the cutoff must be a positive, finite length in Å, not {cutoff}")]
    InvalidCutoff {
        /// The cutoff given, Å.
        cutoff: f64,
    },
    /// A coordinate is NaN or infinite.
    #[error("atom {atom} has a coordinate that is not finite: {position:?}")]
    NonFinitePosition {
        /// Index of the first such atom, from 0.
        atom: usize,
        /// Its position, Å.
        position: [f64; 3],
    },
    /// A component of a cell vector is NaN, infinite, or beyond any physical length.
    #[error("cell vector {row} is not finite or far too long: {vector:?}")]
    InvalidCellVector {
        /// Row of the cell, from 0.
        row: usize,
        /// The vector, Å.
        vector: [f64; 3],
    },
    /// The cell vectors along the periodic directions are zero or linearly dependent.
    #[error(
        "the cell has no volume: its vectors along the periodic directions (pbc {pbc:?}) are zero or linearly \
         dependent: {cell:?}"
    )]
    NoVolume {
        /// The cell, rows are vectors, Å.
        cell: [[f64; 3]; 3],
        /// Which directions are periodic.
        pbc: [bool; 3],
    },
    /// The cell is so skewed that the shifts to the nearest images do not fit in an `i32`.
    #[error("the cell is far too skewed; replace it by a reduced cell of the same lattice: {cell:?}")]
    TooSkewed {
        /// The cell, rows are vectors, Å.
        cell: [[f64; 3]; 3],
    },
    /// Two atoms, or an atom and a periodic image, are closer than [`COINCIDENT_DISTANCE`].
    #[error("atoms {i} and {j} (lattice shift {shift:?}) sit on the same spot, {distance:e} Å apart")]
    CoincidentAtoms {
        /// Index of the first atom, from 0.
        i: usize,
        /// Index of the second atom, from 0.
        j: usize,
        /// Lattice shift applied to the second atom.
        shift: [i32; 3],
        /// Their distance, Å.
        distance: f64,
    },
    /// An atom is so many cells away that the lattice shift of its edges does not fit in an `i32`.
    #[error("atom {atom} is too many cells away from the others; wrap the positions into the cell first")]
    ShiftOverflow {
        /// Index of the atom, from 0.
        atom: usize,
    },
    /// Coordinates or cell are so large that distances of the order of the cutoff are rounding noise.
    #[error(
        "positions or cell are too large: distances are uncertain by {rounding:e} Å, which is not small against the \
         cutoff of {cutoff} Å"
    )]
    Unresolvable {
        /// Bound on the rounding error of a distance, Å.
        rounding: f64,
        /// The cutoff, Å.
        cutoff: f64,
    },
    /// The number of edges is beyond [`MAX_EDGES`], or beyond [`MAX_NEIGHBORS_PER_ATOM`] on average.
    #[error(
        "about {edges:e} edges between {atoms} atoms are too many; check the units of the cell and the cutoff of \
         {cutoff} Å"
    )]
    TooManyEdges {
        /// Number of edges: an estimate, or the count at which the search gave up.
        edges: f64,
        /// Number of atoms.
        atoms: usize,
        /// The cutoff, Å.
        cutoff: f64,
    },
    /// Atom indices do not fit in a `u32`.
    #[error("{atoms} atoms are more than a 32-bit index can count")]
    TooManyAtoms {
        /// Number of atoms.
        atoms: usize,
    },
}

/// The directed edges of a structure, compressed by centre (CSR).
///
/// Edges are sorted by centre; those of one centre by neighbour, then by shift (lexicographically).
/// The list is therefore unique: it depends on nothing but the structure and the cutoff.
#[derive(Debug, Clone, PartialEq)]
pub struct NeighborList {
    /// The edges of centre `i` are `offsets[i]..offsets[i + 1]`. Length: atoms + 1.
    pub offsets: Vec<usize>,
    /// Centre of each edge: the row of the CSR matrix, ascending.
    pub centers: Vec<u32>,
    /// Neighbour of each edge.
    pub neighbors: Vec<u32>,
    /// Integer lattice shift `S` of the neighbour of each edge, relative to the positions as given
    /// (not wrapped). Zero along directions that are not periodic.
    pub shifts: Vec<[i32; 3]>,
    /// `r_neighbor − r_center + S·cell` of each edge, Å.
    pub vectors: Vec<[f64; 3]>,
    /// Index of the reverse edge, from the neighbour to the centre with shift `−S`. Its vector is
    /// exactly the negative: no rounding separates them.
    pub reverse: Vec<u32>,
}

impl NeighborList {
    /// Number of directed edges.
    pub fn len(&self) -> usize {
        self.neighbors.len()
    }

    /// Whether no atom has a neighbour.
    pub fn is_empty(&self) -> bool {
        self.neighbors.is_empty()
    }

    /// Number of atoms, with or without neighbours.
    pub fn num_atoms(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    /// The indices of the edges whose centre is `atom`.
    ///
    /// # Panics
    /// If `atom` is not smaller than [`num_atoms`](Self::num_atoms).
    pub fn edges_of(&self, atom: usize) -> Range<usize> {
        self.offsets[atom]..self.offsets[atom + 1]
    }
}

/// Finds all ordered pairs of atoms with distance `d < cutoff`.
///
/// Periodic images are neighbours like any other atom, the images of the centre itself included;
/// only an atom with itself at zero shift is left out. A pair at exactly the cutoff is not an edge:
/// every cutoff function vanishes there.
///
/// * `cell`: cell vectors as rows, Å. Rows along directions that are not periodic are ignored and
///   may be zero. Left-handed, skewed and very small cells are all right: as many images are
///   searched as the cutoff needs.
/// * `pbc`: which directions are periodic.
/// * `positions`: Cartesian, Å; they may lie anywhere, inside the cell or not.
/// * `cutoff`: Å.
///
/// The work is shared among the threads of the current rayon pool.
///
/// # Errors
/// See [`NeighborError`]; in particular NaN or infinite input, a periodic cell without volume, and
/// two atoms on the same spot. If several pairs of atoms coincide, the first in the order of the
/// list is named.
pub fn neighbor_list(cell: &[[f64; 3]; 3], pbc: [bool; 3], positions: &[[f64; 3]], cutoff: f64) -> Result<NeighborList, NeighborError> {
    if !(cutoff.is_finite() && cutoff > 0.0) {
        return Err(NeighborError::InvalidCutoff { cutoff });
    }
    if let Some(atom) = positions.iter().position(|r| !r.iter().all(|x| x.is_finite())) {
        return Err(NeighborError::NonFinitePosition { atom, position: positions[atom] });
    }
    if positions.len() > u32::MAX as usize {
        return Err(NeighborError::TooManyAtoms { atoms: positions.len() });
    }
    let grid = CellList::new(cell, pbc, positions, cutoff)?;
    let chunks = grid.search()?;
    Ok(assemble(cell, positions, chunks))
}

/// The vector of one edge, Å.
///
/// Written so that swapping the atoms and negating the shift negates the result exactly.
fn edge_vector(cell: &[[f64; 3]; 3], center: &[f64; 3], neighbor: &[f64; 3], shift: [i32; 3]) -> [f64; 3] {
    let [a, b, c] = shift.map(f64::from);
    std::array::from_fn(|x| (neighbor[x] - center[x]) + (a * cell[0][x] + b * cell[1][x] + c * cell[2][x]))
}

/// The slices of the final arrays that one chunk of centres fills.
struct ChunkSlices<'a> {
    first_atom: usize,
    rows: ChunkRows,
    centers: &'a mut [u32],
    neighbors: &'a mut [u32],
    shifts: &'a mut [[i32; 3]],
    vectors: &'a mut [[f64; 3]],
}

/// Lays the rows found chunk by chunk out as one list.
fn assemble(cell: &[[f64; 3]; 3], positions: &[[f64; 3]], chunks: Vec<ChunkRows>) -> NeighborList {
    let mut offsets = Vec::with_capacity(positions.len() + 1);
    offsets.push(0);
    let mut edges = 0;
    for chunk in &chunks {
        offsets.extend(chunk.ends.iter().map(|end| edges + end));
        edges += chunk.edges.len();
    }

    let mut centers = vec![0; edges];
    let mut neighbors = vec![0; edges];
    let mut shifts = vec![[0; 3]; edges];
    let mut vectors = vec![[0.0; 3]; edges];

    let mut work = Vec::with_capacity(chunks.len());
    let mut rest = (&mut centers[..], &mut neighbors[..], &mut shifts[..], &mut vectors[..]);
    for (index, rows) in chunks.into_iter().enumerate() {
        let count = rows.edges.len();
        let (centers, centers_rest) = rest.0.split_at_mut(count);
        let (neighbors, neighbors_rest) = rest.1.split_at_mut(count);
        let (shifts, shifts_rest) = rest.2.split_at_mut(count);
        let (vectors, vectors_rest) = rest.3.split_at_mut(count);
        rest = (centers_rest, neighbors_rest, shifts_rest, vectors_rest);
        work.push(ChunkSlices { first_atom: index * CHUNK, rows, centers, neighbors, shifts, vectors });
    }
    work.into_par_iter().for_each(|chunk| {
        let mut start = 0;
        for (local, &end) in chunk.rows.ends.iter().enumerate() {
            let center = chunk.first_atom + local;
            for edge in start..end {
                let (neighbor, shift) = unpack(chunk.rows.edges[edge]);
                chunk.centers[edge] = center as u32;
                chunk.neighbors[edge] = neighbor;
                chunk.shifts[edge] = shift;
                chunk.vectors[edge] = edge_vector(cell, &positions[center], &positions[neighbor as usize], shift);
            }
            start = end;
        }
    });

    let reverse = reverse_edges(&offsets, &neighbors);
    NeighborList { offsets, centers, neighbors, shifts, vectors, reverse }
}

/// Finds the reverse of every edge by transposing the list.
///
/// The edges from `i` to `j` are consecutive and ordered by shift. Those from `j` to `i` carry the
/// negated shifts, so they are the same number of edges in the opposite order; and as `i` ascends,
/// such groups use up the row of `j` from its beginning. One pass in order is therefore enough, and
/// it touches so little memory that sharing it among threads would not pay.
fn reverse_edges(offsets: &[usize], neighbors: &[u32]) -> Vec<u32> {
    let mut next: Vec<u32> = offsets.iter().map(|&offset| offset as u32).collect();
    let mut reverse = Vec::with_capacity(neighbors.len());
    for row in offsets.windows(2) {
        for group in neighbors[row[0]..row[1]].chunk_by(|j, k| j == k) {
            let first = &mut next[group[0] as usize];
            let end = *first + group.len() as u32;
            reverse.extend((*first..end).rev());
            *first = end;
        }
    }
    reverse
}
