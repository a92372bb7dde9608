//! Forces, virials, energies of structures and the closest distance: sums over edges and atoms, in f64 and in an order that depends on the
//! structure alone.

#![allow(unsafe_code, reason = "launches")]

use std::marker::PhantomData;

use crate::edges::Edges;
use crate::grid::{blocks, check_len, warps};
use crate::neighbors::NeighborTable;
use crate::{Args, Buffer, Device, DeviceError, Kernel, Real, Source};

/// Atoms that one block of threads sums.
const CHUNK: usize = 1024;

/// How the atoms of a batch, structure by structure, are cut into chunks for sums in two steps.
pub struct Segments {
    /// First atom of each chunk, and the end of the last: `[chunks + 1]`.
    chunks: Buffer<u32>,
    /// First chunk of each structure, and the end of the last: `[structures + 1]`.
    structures: Buffer<u32>,
    /// All chunks: `[2]`.
    all: Buffer<u32>,
    atoms: usize,
}

impl Segments {
    /// Of structures with these numbers of atoms.
    ///
    /// # Errors
    /// If memory is short.
    pub fn new(device: &Device, atoms: impl IntoIterator<Item = usize>) -> Result<Self, DeviceError> {
        let (mut chunks, mut structures, mut total) = (vec![0], vec![0], 0);
        for n in atoms {
            let ends = (CHUNK..n).step_by(CHUNK).chain((n > 0).then_some(n));
            chunks.extend(ends.map(|end| (total + end) as u32));
            total += n;
            structures.push(chunks.len() as u32 - 1);
        }
        let all = [0, chunks.len() as u32 - 1];
        Ok(Self { chunks: device.upload(&chunks)?, structures: device.upload(&structures)?, all: device.upload(&all)?, atoms: total })
    }

    fn num_chunks(&self) -> usize {
        self.chunks.len() - 1
    }

    /// How many structures.
    pub fn structures(&self) -> usize {
        self.structures.len() - 1
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> usize {
        self.chunks.bytes() + self.structures.bytes() + self.all.bytes()
    }
}

/// Buffers between the steps of a sum.
pub struct ForceWork {
    /// `[N, 9]`
    virials: Buffer<f64>,
    /// `[chunks, 9]`
    chunks: Buffer<f64>,
}

impl ForceWork {
    /// For the atoms of a list.
    ///
    /// # Errors
    /// If memory is short.
    pub fn new(device: &Device, list: &NeighborTable) -> Result<Self, DeviceError> {
        Ok(Self { virials: device.zeros(9 * list.atoms())?, chunks: device.zeros(9 * list.segments.num_chunks())? })
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> usize {
        self.virials.bytes() + self.chunks.bytes()
    }
}

/// Sums over edges and atoms.
pub struct ForceKernels<T> {
    forces: Kernel,
    sums: Kernel,
    minima: Kernel,
    real: PhantomData<T>,
}

impl<T: Real> ForceKernels<T> {
    /// What is compiled.
    pub fn source() -> Source {
        Source::new::<T>("forces", &["forces", "segment_sums", "segment_minima"], String::new())
    }

    /// Compiles the kernels.
    ///
    /// # Errors
    /// If that fails.
    pub fn new(device: &Device) -> Result<Self, DeviceError> {
        let module = device.load(&Self::source())?;
        Ok(Self {
            forces: module.kernel("forces")?,
            sums: module.kernel("segment_sums")?,
            minima: module.kernel("segment_minima")?,
            real: PhantomData,
        })
    }

    /// From `dv` `[capacity, 3]` = dE/dv of all active edges (eV/Å) to forces `[N, 3]`, F = Σ (dv of the edge − dv of its reverse) over the edges of
    /// a centre (eV/Å), and to Σ v ⊗ dv over the edges of each structure, `[structures, 3, 3]`, row by the component of v (eV).
    ///
    /// # Errors
    /// If lengths do not fit, or the device fails.
    pub fn assemble(
        &self,
        list: &NeighborTable,
        edges: &Edges<T>,
        dv: &Buffer<T>,
        work: &mut ForceWork,
        forces: &mut Buffer<f64>,
        virials: &mut Buffer<f64>,
    ) -> Result<(), DeviceError> {
        let n = list.atoms();
        check_len("atoms with edges", edges.atoms, n)?;
        check_len("derivatives by edge vectors", dv.len(), edges.vector.len())?;
        check_len("forces", forces.len(), 3 * n)?;
        check_len("virials of atoms", work.virials.len(), 9 * n)?;
        let mut args = Args::new();
        args.buffer(&edges.begin)
            .buffer(&edges.count)
            .buffer(&edges.reverse)
            .buffer(&edges.vector)
            .buffer(dv)
            .value(n as u32)
            .buffer_mut(forces)
            .buffer_mut(&mut work.virials);
        // SAFETY: edges and their reverses lie within the capacity, to which `dv` is as long as the vectors; forces and virials have N rows.
        unsafe { self.forces.launch(&warps(n), &args)? };
        let ForceWork { virials: of_atoms, chunks } = work;
        self.sum(&list.segments, of_atoms, 9, chunks, virials)
    }

    /// Energies of atoms `[N]`, summed to those of structures `[structures]`.
    ///
    /// # Errors
    /// If lengths do not fit, or the device fails.
    pub fn energies(
        &self,
        list: &NeighborTable,
        energies: &Buffer<f64>,
        work: &mut ForceWork,
        out: &mut Buffer<f64>,
    ) -> Result<(), DeviceError> {
        self.sum(&list.segments, energies, 1, &mut work.chunks, out)
    }

    /// The smallest of `closest` `[N]`, to `out` `[1]`; infinity for no atoms.
    ///
    /// # Errors
    /// If lengths do not fit, or the device fails.
    pub fn closest(
        &self,
        list: &NeighborTable,
        closest: &Buffer<f64>,
        work: &mut ForceWork,
        out: &mut Buffer<f64>,
    ) -> Result<(), DeviceError> {
        let segments = &list.segments;
        check_len("closest distances", closest.len(), segments.atoms)?;
        check_len("smallest distance", out.len(), 1)?;
        check_len("sums of chunks", work.chunks.len(), segments.num_chunks())?;
        let mut args = Args::new();
        args.buffer(closest).buffer(&segments.chunks).buffer_mut(&mut work.chunks);
        // SAFETY: chunks end with the atoms, of which `closest` has a number each; there is room for one of each chunk.
        unsafe { self.minima.launch(&blocks(segments.num_chunks()), &args)? };
        let mut args = Args::new();
        args.buffer(&work.chunks).buffer(&segments.all).buffer_mut(out);
        // SAFETY: one segment, of all chunks.
        unsafe { self.minima.launch(&blocks(1), &args) }
    }

    /// Sums of rows of `width` numbers of the atoms, over each structure.
    fn sum(
        &self,
        segments: &Segments,
        values: &Buffer<f64>,
        width: usize,
        of_chunks: &mut Buffer<f64>,
        out: &mut Buffer<f64>,
    ) -> Result<(), DeviceError> {
        check_len("numbers of atoms", values.len(), width * segments.atoms)?;
        check_len("sums of structures", out.len(), width * segments.structures())?;
        check_len("sums of chunks", of_chunks.len(), width * segments.num_chunks())?;
        let mut args = Args::new();
        args.buffer(values).buffer(&segments.chunks).value(width as u32).buffer_mut(of_chunks);
        // SAFETY: chunks end with the atoms, of which there are that many rows; there is room for a row of each chunk.
        unsafe { self.sums.launch(&blocks(segments.num_chunks()), &args)? };
        let mut args = Args::new();
        args.buffer(of_chunks).buffer(&segments.structures).value(width as u32).buffer_mut(out);
        // SAFETY: structures end with the chunks; `out` has a row of each.
        unsafe { self.sums.launch(&blocks(segments.structures()), &args) }
    }
}
