//! The search itself: atoms are wrapped into the reduced cell and sorted into bins about half a
//! cutoff wide; each atom then looks through the bins its cutoff sphere reaches, image by image.
//!
//! Two decisions keep the result exact. Bins and wrapped coordinates only *propose* pairs, with a
//! radius a little larger than the cutoff; whether a pair is an edge is decided on the vector that
//! is handed out, computed from the positions as given. And the bins an atom looks through are found
//! with the same monotonic function that sorted the atoms, so rounding cannot hide one.

use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

use super::lattice::{Frame, Mat3, Vec3, combine, dot, norm};
use super::{COINCIDENT_DISTANCE, MAX_EDGES, MAX_NEIGHBORS_PER_ATOM, NeighborError, edge_vector};

/// Centres handled by one task. Fixed, so that the result does not depend on the threads.
pub(super) const CHUNK: usize = 128;

/// Radius within which wrapped coordinates propose a pair, over the cutoff.
const PROPOSAL: f64 = 1.001;

/// Largest rounding error of a distance, over the cutoff: half the margin of [`PROPOSAL`].
const LARGEST_ROUNDING: f64 = 0.0005;

/// Largest number of cells along one direction between an atom and the middle of the structure, so
/// that sums of a few shifts stay within an `i32`.
const LARGEST_SHIFT: i64 = 1 << 28;

/// Most bins along one direction.
const MAX_BINS: f64 = (1u64 << 31) as f64;

/// A table of all bins is kept while there are at most this many per atom; beyond, most bins are
/// empty and only the occupied ones are listed.
const BINS_PER_ATOM: u128 = 8;

/// Edges found between two looks at whether all tasks together have found too many.
const COUNT_EVERY: usize = 1 << 20;

/// A neighbour and its shift in one integer that sorts like the pair.
fn pack(neighbor: u32, shift: [i32; 3]) -> u128 {
    // Flipping the sign bit maps i32 to u32 in order.
    shift.iter().fold(u128::from(neighbor), |key, &s| key << 32 | u128::from(s as u32 ^ 1 << 31))
}

/// The inverse of [`pack`].
pub(super) fn unpack(key: u128) -> (u32, [i32; 3]) {
    let word = |position: u32| (key >> (32 * position)) as u32;
    let shift = |position| (word(position) ^ 1 << 31) as i32;
    (word(3), [shift(2), shift(1), shift(0)])
}

/// The edges of [`CHUNK`] consecutive centres.
pub(super) struct ChunkRows {
    /// Packed neighbours and shifts, sorted within each row.
    pub(super) edges: Vec<u128>,
    /// End of each row in `edges`.
    pub(super) ends: Vec<usize>,
}

/// One direction of the grid. Coordinates are fractions of the cell where the direction is
/// periodic (0 to 1), lengths in Å where it is not.
struct Axis {
    periodic: bool,
    bins: u64,
    lowest: f64,
    bins_per_unit: f64,
    /// The proposal radius in units of the coordinate.
    reach: f64,
}

/// Consecutive bins along one axis, seen through one periodic image.
struct Segment {
    image: i32,
    first: u64,
    last: u64,
}

impl Axis {
    /// The bin of a coordinate. Never decreases with `x`; clamps what lies outside.
    fn bin(&self, x: f64) -> u64 {
        (((x - self.lowest) * self.bins_per_unit) as u64).min(self.bins - 1)
    }

    /// The bins, image by image, that may hold atoms within reach of coordinate `x`.
    fn segments(&self, x: f64, segments: &mut Vec<Segment>) {
        segments.clear();
        let (low, high) = (x - self.reach, x + self.reach);
        let (first, last) = if self.periodic { (low.floor() as i32, high.floor() as i32) } else { (0, 0) };
        segments.extend((first..=last).map(|image| Segment {
            image,
            first: self.bin(low - f64::from(image)),
            last: self.bin(high - f64::from(image)),
        }));
    }
}

/// Where the atoms of each bin are in the sorted order.
enum Bins {
    /// `starts[bin]..starts[bin + 1]`, for every bin.
    Table { starts: Vec<u32> },
    /// The same for the occupied bins alone, ascending.
    Occupied { bins: Vec<u128>, starts: Vec<u32> },
}

impl Bins {
    /// The sorted atoms in bins `first..=last`.
    fn slots(&self, first: u128, last: u128) -> std::ops::Range<usize> {
        let (starts, begin, end) = match self {
            Self::Table { starts } => (starts, first as usize, last as usize + 1),
            Self::Occupied { bins, starts } => {
                let begin = bins.partition_point(|&bin| bin < first);
                let count = bins[begin..].iter().take_while(|&&bin| bin <= last).count();
                (starts, begin, begin + count)
            }
        };
        starts[begin] as usize..starts[end] as usize
    }
}

/// An atom wrapped into the reduced cell.
struct Wrapped {
    /// Coordinates along the axes of the grid.
    coordinates: Vec3,
    /// Cartesian position relative to the middle of the structure, Å.
    position: Vec3,
    /// `n`, in the given cell: wrapped = given − n·cell.
    cells: [i32; 3],
}

/// What a proposed pair needs to know about the neighbour, in sorted order.
struct Slot {
    position: Vec3,
    cells: [i32; 3],
    atom: u32,
}

/// Buffers of one task.
#[derive(Default)]
struct Scratch {
    segments: [Vec<Segment>; 3],
    proposals: Vec<u32>,
}

/// Atoms sorted into bins.
pub(super) struct CellList<'a> {
    cell: &'a Mat3,
    positions: &'a [Vec3],
    cutoff: f64,
    frame: Frame,
    axes: [Axis; 3],
    bins: Bins,
    wrapped: Vec<Wrapped>,
    slots: Vec<Slot>,
    /// Wrapped x, y and z in sorted order, Å.
    sorted: [Vec<f64>; 3],
}

impl<'a> CellList<'a> {
    /// Sorts the atoms into bins. Positions and cutoff are finite, the cutoff positive.
    pub(super) fn new(cell: &'a Mat3, pbc: [bool; 3], positions: &'a [Vec3], cutoff: f64) -> Result<Self, NeighborError> {
        let frame = Frame::new(cell, pbc)?;
        let reach: Vec3 = std::array::from_fn(|d| PROPOSAL * cutoff / frame.height(d));
        let wrapped = wrap(&frame, pbc, positions)?;

        let mut lowest = [f64::INFINITY; 3];
        let mut highest = [f64::NEG_INFINITY; 3];
        for atom in &wrapped {
            for d in 0..3 {
                lowest[d] = lowest[d].min(atom.coordinates[d]);
                highest[d] = highest[d].max(atom.coordinates[d]);
            }
        }
        let extent: Vec3 = std::array::from_fn(|d| (highest[d] - lowest[d]).max(0.0));
        check_estimate(&frame, &extent, pbc, cutoff, positions.len())?;
        check_rounding(cell, &frame, pbc, &wrapped, reach, cutoff)?;

        // About one atom per bin is the best compromise between empty bins and useless proposals,
        // within limits that keep the number of bins per sphere sensible in clustered structures.
        let size = |d: usize| if pbc[d] { frame.height(d) } else { extent[d] };
        let spacing = (size(0) * size(1) * size(2) / positions.len().max(1) as f64).cbrt();
        let width = spacing.clamp(0.5 * cutoff, cutoff);
        let axes = std::array::from_fn(|d| {
            let bins = (size(d) / width).floor().clamp(1.0, MAX_BINS);
            let length = if pbc[d] { 1.0 } else { extent[d] };
            Axis {
                periodic: pbc[d],
                bins: bins as u64,
                lowest: if pbc[d] { 0.0 } else { lowest[d] },
                bins_per_unit: if bins > 1.0 { bins / length } else { 0.0 },
                reach: reach[d],
            }
        });
        let (bins, order) = sort_into_bins(&axes, &wrapped);
        let slots =
            order.iter().map(|&atom| Slot { position: positions[atom as usize], cells: wrapped[atom as usize].cells, atom }).collect();
        let sorted = std::array::from_fn(|x| order.iter().map(|&atom| wrapped[atom as usize].position[x]).collect());
        Ok(Self { cell, positions, cutoff, frame, axes, bins, wrapped, slots, sorted })
    }

    /// Finds the rows of all centres, in order, [`CHUNK`] at a time.
    pub(super) fn search(&self) -> Result<Vec<ChunkRows>, NeighborError> {
        let total = AtomicUsize::new(0);
        let chunks: Vec<Result<ChunkRows, NeighborError>> =
            (0..self.positions.len().div_ceil(CHUNK)).into_par_iter().map(|chunk| self.search_chunk(chunk, &total)).collect();
        // Reached for any schedule of the threads or for none; hence looked at before other errors.
        let edges = total.into_inner();
        if edges > MAX_EDGES {
            return Err(self.too_many_edges(edges));
        }
        chunks.into_iter().collect()
    }

    fn too_many_edges(&self, edges: usize) -> NeighborError {
        NeighborError::TooManyEdges { edges: edges as f64, atoms: self.positions.len(), cutoff: self.cutoff }
    }

    fn search_chunk(&self, chunk: usize, total: &AtomicUsize) -> Result<ChunkRows, NeighborError> {
        let centers = chunk * CHUNK..((chunk + 1) * CHUNK).min(self.positions.len());
        let mut scratch = Scratch::default();
        let mut rows = ChunkRows { edges: Vec::new(), ends: Vec::with_capacity(centers.len()) };
        let mut counted = 0;
        for center in centers {
            let start = rows.edges.len();
            self.search_row(center, &mut scratch, &mut rows.edges)?;
            rows.edges[start..].sort_unstable();
            rows.ends.push(rows.edges.len());
            if rows.edges.len() - counted > COUNT_EVERY {
                let edges = total.fetch_add(rows.edges.len() - counted, Ordering::Relaxed);
                counted = rows.edges.len();
                if edges > MAX_EDGES {
                    return Err(self.too_many_edges(edges));
                }
            }
        }
        total.fetch_add(rows.edges.len() - counted, Ordering::Relaxed);
        Ok(rows)
    }

    /// Appends the edges of one centre, in no particular order.
    fn search_row(&self, center: usize, scratch: &mut Scratch, edges: &mut Vec<u128>) -> Result<(), NeighborError> {
        let atom = &self.wrapped[center];
        let Scratch { segments, proposals } = scratch;
        for d in 0..3 {
            self.axes[d].segments(atom.coordinates[d], &mut segments[d]);
        }
        let [along_x, along_y, along_z] = &*segments;
        let mut coincident: Option<u128> = None;
        for z in along_z {
            for y in along_y {
                for x in along_x {
                    let images = [x.image, y.image, z.image];
                    let translation = combine(&images.map(f64::from), &self.frame.cell);
                    let origin = std::array::from_fn(|k| atom.position[k] - translation[k]);
                    let cells: [i32; 3] = std::array::from_fn(|k| {
                        let shift: i64 = (0..3).map(|d| i64::from(images[d]) * self.frame.transform[d][k]).sum();
                        shift as i32 + atom.cells[k]
                    });
                    for bin_z in z.first..=z.last {
                        for bin_y in y.first..=y.last {
                            let row = row_of_bins(&self.axes, bin_y, bin_z);
                            let run = self.bins.slots(row + u128::from(x.first), row + u128::from(x.last));
                            self.propose(&origin, run, proposals);
                            for &slot in &*proposals {
                                self.decide(center, cells, slot, edges, &mut coincident);
                            }
                        }
                    }
                }
            }
        }
        match coincident {
            None => Ok(()),
            Some(key) => {
                let (neighbor, shift) = unpack(key);
                let (i, j) = (center, neighbor as usize);
                let vector = edge_vector(self.cell, &self.positions[i], &self.positions[j], shift);
                Err(NeighborError::CoincidentAtoms { i, j, shift, distance: norm(&vector) })
            }
        }
    }

    /// Collects the sorted atoms of `run` within the proposal radius of `origin`.
    fn propose(&self, origin: &Vec3, run: std::ops::Range<usize>, proposals: &mut Vec<u32>) {
        let radius = PROPOSAL * self.cutoff;
        let limit = radius * radius;
        let [x, y, z] = [0, 1, 2].map(|k| &self.sorted[k][run.clone()]);
        proposals.clear();
        proposals.resize(run.len(), 0);
        // Written without a branch: about every third test succeeds, which no predictor learns.
        let mut count = 0;
        for (k, ((x, y), z)) in x.iter().zip(y).zip(z).enumerate() {
            let offset = [x - origin[0], y - origin[1], z - origin[2]];
            proposals[count] = (run.start + k) as u32;
            count += usize::from(dot(&offset, &offset) <= limit);
        }
        proposals.truncate(count);
    }

    /// Decides whether a proposed pair is an edge.
    fn decide(&self, center: usize, cells: [i32; 3], slot: u32, edges: &mut Vec<u128>, coincident: &mut Option<u128>) {
        let neighbor = &self.slots[slot as usize];
        let shift = std::array::from_fn(|k| cells[k] - neighbor.cells[k]);
        let vector = edge_vector(self.cell, &self.positions[center], &neighbor.position, shift);
        let squared = dot(&vector, &vector);
        if squared >= self.cutoff * self.cutoff || (neighbor.atom as usize == center && shift == [0; 3]) {
            return;
        }
        let key = pack(neighbor.atom, shift);
        if squared < COINCIDENT_DISTANCE * COINCIDENT_DISTANCE {
            *coincident = Some(coincident.map_or(key, |other| other.min(key)));
        }
        edges.push(key);
    }
}

/// Index of the first bin of a row along the first axis.
fn row_of_bins(axes: &[Axis; 3], bin_y: u64, bin_z: u64) -> u128 {
    (u128::from(bin_z) * u128::from(axes[1].bins) + u128::from(bin_y)) * u128::from(axes[0].bins)
}

/// Sorts the atoms by bin, those of one bin by index. Returns the order with the index of bins.
fn sort_into_bins(axes: &[Axis; 3], wrapped: &[Wrapped]) -> (Bins, Vec<u32>) {
    let bin_of = |atom: &Wrapped| {
        let [x, y, z] = std::array::from_fn(|d| axes[d].bin(atom.coordinates[d]));
        row_of_bins(axes, y, z) + u128::from(x)
    };
    let total = axes.iter().map(|axis| u128::from(axis.bins)).product::<u128>();
    if total <= BINS_PER_ATOM * (wrapped.len() as u128 + 64) {
        let bins: Vec<usize> = wrapped.iter().map(|atom| bin_of(atom) as usize).collect();
        let mut starts = vec![0u32; total as usize + 1];
        for &bin in &bins {
            starts[bin + 1] += 1;
        }
        for bin in 0..total as usize {
            starts[bin + 1] += starts[bin];
        }
        let mut next = starts.clone();
        let mut order = vec![0; wrapped.len()];
        for (atom, &bin) in bins.iter().enumerate() {
            order[next[bin] as usize] = atom as u32;
            next[bin] += 1;
        }
        return (Bins::Table { starts }, order);
    }
    let mut keyed: Vec<(u128, u32)> = wrapped.iter().map(bin_of).zip(0..).collect();
    keyed.par_sort_unstable();
    let (mut bins, mut starts) = (Vec::new(), Vec::new());
    for (slot, &(bin, _)) in keyed.iter().enumerate() {
        if bins.last() != Some(&bin) {
            bins.push(bin);
            starts.push(slot as u32);
        }
    }
    starts.push(keyed.len() as u32);
    let order = keyed.into_iter().map(|(_, atom)| atom).collect();
    (Bins::Occupied { bins, starts }, order)
}

/// Wraps the atoms into the reduced cell, relative to the middle of the structure.
fn wrap(frame: &Frame, pbc: [bool; 3], positions: &[Vec3]) -> Result<Vec<Wrapped>, NeighborError> {
    // Taking the middle out costs no digits where it matters: a difference of nearby numbers is
    // exact, so a structure far from the origin is as good as one around it.
    let middle: Vec3 = std::array::from_fn(|x| {
        let low = positions.iter().map(|r| r[x]).fold(f64::INFINITY, f64::min);
        let high = positions.iter().map(|r| r[x]).fold(f64::NEG_INFINITY, f64::max);
        0.5 * low + 0.5 * high
    });
    positions
        .par_iter()
        .enumerate()
        .map(|(atom, r)| {
            let relative: Vec3 = std::array::from_fn(|x| r[x] - middle[x]);
            let mut coordinates: Vec3 = std::array::from_fn(|d| dot(&frame.inverse[d], &relative));
            let mut cells = [0.0; 3];
            for d in (0..3).filter(|&d| pbc[d]) {
                // The middle of the structure is the middle of the cell.
                let fraction = coordinates[d] + 0.5;
                cells[d] = fraction.floor();
                coordinates[d] = fraction - cells[d];
                if cells[d].is_nan() || cells[d].abs() > LARGEST_SHIFT as f64 {
                    return Err(NeighborError::ShiftOverflow { atom });
                }
            }
            let translation = combine(&cells, &frame.cell);
            let mut given = [0; 3];
            for k in 0..3 {
                // Below 2^28 · 2^31 each: no overflow.
                let shift: i64 = (0..3).map(|d| cells[d] as i64 * frame.transform[d][k]).sum();
                if shift.abs() > LARGEST_SHIFT {
                    return Err(NeighborError::ShiftOverflow { atom });
                }
                given[k] = shift as i32;
            }
            Ok(Wrapped { coordinates, position: std::array::from_fn(|x| relative[x] - translation[x]), cells: given })
        })
        // Collected before looking at errors, so that the first atom is named whatever the threads do.
        .collect::<Vec<_>>()
        .into_iter()
        .collect()
}

/// Refuses a search that would find an absurd number of neighbours, before it starts.
///
/// `extent` is that of the atoms, in Å along directions that are not periodic.
fn check_estimate(frame: &Frame, extent: &Vec3, pbc: [bool; 3], cutoff: f64, atoms: usize) -> Result<(), NeighborError> {
    if pbc == [false; 3] {
        return Ok(());
    }
    let sphere = 4.0 / 3.0 * std::f64::consts::PI;
    // Atoms spread evenly over the cell, and over their extent or what the sphere covers of it.
    // In lengths of the cutoff throughout.
    let periodic = pbc.iter().filter(|&&p| p).count() as i32;
    let mut even = sphere * atoms as f64 * cutoff.powi(periodic) / frame.content;
    // The images of the centre itself, for a cell small in some directions and large in others.
    let mut images = 1.0;
    for d in 0..3 {
        if pbc[d] {
            images *= (sphere.cbrt() * cutoff / frame.height(d)).max(1.0);
        } else {
            even /= (extent[d] / cutoff).max(4.0 / 3.0);
        }
    }
    let neighbors = images.max(even);
    let edges = neighbors * atoms as f64;
    // Twice the limit on edges, which are counted exactly later on: this is only an estimate.
    if neighbors > MAX_NEIGHBORS_PER_ATOM as f64 || edges > 2.0 * MAX_EDGES as f64 {
        return Err(NeighborError::TooManyEdges { edges, atoms, cutoff });
    }
    Ok(())
}

/// Makes sure that rounding stays within the margin between the cutoff and the proposal radius, and
/// that every shift fits.
fn check_rounding(cell: &Mat3, frame: &Frame, pbc: [bool; 3], wrapped: &[Wrapped], reach: Vec3, cutoff: f64) -> Result<(), NeighborError> {
    // Everything that is added up on the way to a distance, by magnitude.
    let mut magnitude = wrapped.iter().map(|atom| norm(&atom.position)).fold(cutoff, f64::max);
    let mut cells = [0i64; 3];
    for atom in wrapped {
        for k in 0..3 {
            cells[k] = cells[k].max(i64::from(atom.cells[k]).abs());
        }
    }
    let images: Vec3 = std::array::from_fn(|d| if pbc[d] { reach[d].floor() + 1.0 } else { 0.0 });
    for k in 0..3 {
        let shift: f64 = (0..3).map(|d| images[d] * frame.transform[d][k].abs() as f64).sum();
        if shift > LARGEST_SHIFT as f64 {
            return Err(NeighborError::TooSkewed { cell: *cell });
        }
        magnitude += images[k] * norm(&frame.cell[k]);
        if pbc[k] {
            magnitude += (2.0 * cells[k] as f64 + shift) * norm(&cell[k]);
        }
    }
    let rounding = 64.0 * f64::EPSILON * magnitude;
    if rounding.is_nan() || rounding > LARGEST_ROUNDING * cutoff {
        return Err(NeighborError::Unresolvable { rounding, cutoff });
    }
    Ok(())
}
