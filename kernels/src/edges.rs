//! The edges of a step: those of a neighbour list with its skin that lie within the cutoff at the current positions.

#![allow(unsafe_code, reason = "launches")]

use std::marker::PhantomData;

use crate::grid::{check_len, threads, warps};
use crate::neighbors::NeighborTable;
use crate::{Args, Buffer, Device, DeviceError, Kernel, Real, Source};

/// Edges within the cutoff, grouped by centre, in the order of the list they come from.
///
/// The edges of centre i are `begin[i] .. begin[i] + count[i]`; what is left up to `begin[i + 1]` is not used. All arrays of edges have room
/// for `capacity`.
pub struct Edges<T> {
    /// `[N + 1]`
    pub begin: Buffer<u32>,
    /// `[N]`
    pub count: Buffer<u32>,
    /// `[capacity]`
    pub neighbor: Buffer<u32>,
    /// `[capacity]`: which edge is the reverse, from the neighbour to the centre.
    pub reverse: Buffer<u32>,
    /// `[capacity]`: species of the centre · S + species of the neighbour, for S species present.
    pub pair: Buffer<u32>,
    /// `[capacity]`, Å
    pub distance: Buffer<f64>,
    /// `[capacity, 3]`, from the centre to the neighbour, Å; rounded once from f64.
    pub vector: Buffer<T>,
    /// N
    pub atoms: usize,
    /// How many edges there is room for.
    pub capacity: usize,
}

impl<T: Real> Edges<T> {
    /// Room for all edges that a list has room for; none of them is active yet.
    ///
    /// # Errors
    /// If memory is short.
    pub fn new(device: &Device, list: &NeighborTable) -> Result<Self, DeviceError> {
        let (atoms, capacity) = (list.atoms(), list.room());
        Ok(Self {
            begin: device.zeros(atoms + 1)?,
            count: device.zeros(atoms)?,
            neighbor: device.zeros(capacity)?,
            reverse: device.zeros(capacity)?,
            pair: device.zeros(capacity)?,
            distance: device.zeros(capacity)?,
            vector: device.zeros(3 * capacity)?,
            atoms,
            capacity,
        })
    }

    /// All centres.
    pub fn all(&self) -> std::ops::Range<usize> {
        0..self.atoms
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> usize {
        let words = [&self.begin, &self.count, &self.neighbor, &self.reverse, &self.pair];
        words.iter().map(|x| x.bytes()).sum::<usize>() + self.distance.bytes() + self.vector.bytes()
    }
}

/// Squared cutoffs of the pairs of species.
pub struct Cutoffs {
    squared: Buffer<f64>,
    species: usize,
}

impl Cutoffs {
    /// From the square of the cutoff of each pair of `species` species, `[S, S]`, Å².
    ///
    /// # Errors
    /// If the number of pairs is wrong, or if the two orders of a pair end at different distances: every edge must have its reverse.
    pub fn new(device: &Device, species: usize, squared: &[f64]) -> Result<Self, DeviceError> {
        check_len("squared cutoffs", squared.len(), species * species)?;
        for i in 0..species {
            for j in 0..i {
                if squared[i * species + j] != squared[j * species + i] {
                    let what =
                        format!("the cutoff of species {i} and {j} depends on their order, so that an edge may be without its reverse");
                    return Err(DeviceError::Launch { kernel: "find_edges", what });
                }
            }
        }
        Ok(Self { squared: device.upload(squared)?, species })
    }
}

/// The structures of a batch as the kernels read them.
#[derive(Clone, Copy)]
pub struct Positions<'a> {
    /// `[N, 3]`, Å
    pub positions: &'a Buffer<f64>,
    /// `[structures, 3, 3]`, rows are vectors, Å.
    pub cells: &'a Buffer<f64>,
    /// `[N]`, species of each atom, counted among those that [`Cutoffs`] has.
    pub species: &'a Buffer<u32>,
}

/// Finds edges.
pub struct EdgeKernels<T> {
    find: Kernel,
    reverse: Kernel,
    real: PhantomData<T>,
}

impl<T: Real> EdgeKernels<T> {
    /// What is compiled.
    pub fn source() -> Source {
        Source::new::<T>("edges", &["find_edges", "reverse_edges"], String::new())
    }

    /// Compiles the kernels.
    ///
    /// # Errors
    /// If that fails.
    pub fn new(device: &Device) -> Result<Self, DeviceError> {
        let module = device.load(&Self::source())?;
        Ok(Self { find: module.kernel("find_edges")?, reverse: module.kernel("reverse_edges")?, real: PhantomData })
    }

    /// Finds the edges at the current positions, and for each centre the smallest squared distance of its listed edges (Å², infinity for none).
    ///
    /// Vectors are r_neighbour − r_centre + shift · cell, in f64 to the bit those of the neighbour list on the host; an edge is active if the
    /// square of its length is below that of the cutoff. Species must be below the number that `cutoffs` has.
    ///
    /// # Errors
    /// If lengths do not fit, or the device fails.
    pub fn update(
        &self,
        list: &mut NeighborTable,
        at: Positions<'_>,
        cutoffs: &Cutoffs,
        edges: &mut Edges<T>,
        closest: &mut Buffer<f64>,
    ) -> Result<(), DeviceError> {
        let (n, listed) = (list.atoms(), list.room());
        check_len("positions", at.positions.len(), 3 * n)?;
        check_len("cells", at.cells.len(), 9 * list.structures())?;
        check_len("species", at.species.len(), n)?;
        check_len("closest distances", closest.len(), n)?;
        check_len("atoms with edges", edges.count.len(), n)?;
        check_len("atoms with edges", edges.begin.len(), n + 1)?;
        let room = [edges.neighbor.len(), edges.reverse.len(), edges.pair.len(), edges.distance.len(), edges.vector.len() / 3];
        if let Some(&len) = room.iter().find(|&&len| len < listed) {
            return check_len("edges", len, listed);
        }
        let mut args = Args::new();
        args.buffer(&list.begin)
            .buffer(&list.neighbor)
            .buffer(&list.shift)
            .buffer(&list.structure)
            .buffer(at.positions)
            .buffer(at.cells)
            .buffer(at.species)
            .buffer(&cutoffs.squared)
            .value(cutoffs.species as u32)
            .value(n as u32)
            .buffer_mut(&mut list.slots)
            .buffer_mut(&mut edges.begin)
            .buffer_mut(&mut edges.count)
            .buffer_mut(&mut edges.neighbor)
            .buffer_mut(&mut edges.pair)
            .buffer_mut(&mut edges.distance)
            .buffer_mut(&mut edges.vector)
            .buffer_mut(closest);
        // SAFETY: a list holds offsets that ascend to its length, neighbours and structures that exist; the lengths of all else are checked above.
        unsafe { self.find.launch(&warps(n), &args)? };
        let mut args = Args::new();
        args.buffer(&list.begin).value(n as u32).buffer(&list.slots).buffer(&list.reverse).buffer_mut(&mut edges.reverse);
        // SAFETY: the kernel goes to the end of the list, for which there is room; slots are NONE or below that; reverse edges of a list exist, and have been found along
        // with it, because the vector is the negative of its own to the bit and both orders of a pair have one cutoff.
        unsafe { self.reverse.launch(&threads(listed), &args) }
    }
}
