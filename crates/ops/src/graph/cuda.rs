//! Sums and gathers over a graph on a device.

#![allow(unsafe_code, reason = "launches of kernels, whose lengths are checked")]

use tesseral_kernels::{Args, Buffer, Device, DeviceError, Kernel, Launch, Real, Source};

use super::{Graph, Segments};
use crate::rows::{DeviceIndex, DeviceRows, room};

/// Segments of a block of threads, as in `segments.cu`.
const SEGMENTS: usize = 8;

/// [`Segments`] on a device.
pub struct DeviceSegments {
    offsets: Buffer<u32>,
    /// The segment of each row.
    owner: DeviceIndex,
    segments: usize,
}

impl DeviceSegments {
    /// Uploads segments.
    ///
    /// # Errors
    /// If the device fails.
    pub fn new(device: &Device, segments: &Segments) -> Result<Self, DeviceError> {
        let offsets: Vec<u32> = segments.offsets().iter().map(|&o| o as u32).collect();
        let owner: Vec<u32> = (0..segments.len()).flat_map(|s| segments.range(s).map(move |_| s as u32)).collect();
        Ok(Self { offsets: device.upload(&offsets)?, owner: DeviceIndex::new(device, &owner, segments.len())?, segments: segments.len() })
    }

    /// How many segments.
    pub fn len(&self) -> usize {
        self.segments
    }

    /// Whether there is no segment.
    pub fn is_empty(&self) -> bool {
        self.segments == 0
    }

    /// How many rows in all.
    pub fn rows(&self) -> usize {
        self.owner.len()
    }
}

/// The directed edges of a batch on a device, sorted by centre.
pub struct DeviceGraph {
    /// The edges of each centre.
    pub segments: DeviceSegments,
    /// The neighbour of each edge.
    pub neighbors: DeviceIndex,
    /// The reverse of each edge.
    pub reverse: DeviceIndex,
}

impl DeviceGraph {
    /// Uploads a graph.
    ///
    /// # Errors
    /// If the device fails.
    pub fn new(device: &Device, graph: &Graph) -> Result<Self, DeviceError> {
        Ok(Self {
            segments: DeviceSegments::new(device, graph.segments())?,
            neighbors: DeviceIndex::new(device, graph.neighbors(), graph.num_atoms())?,
            reverse: DeviceIndex::new(device, graph.reverse(), graph.num_edges())?,
        })
    }
}

/// The source of the kernel of sums: one for all.
pub fn source<T: Real>() -> Source {
    Source::new::<T>("segments", &["segment_sum"], String::new())
}

/// Sums and gathers over segments and edges.
pub struct DeviceSums<T> {
    sum: Kernel,
    rows: DeviceRows<T>,
}

impl<T: Real> DeviceSums<T> {
    /// Compiles the kernels.
    ///
    /// # Errors
    /// If the device fails.
    pub fn new(device: &Device) -> Result<Self, DeviceError> {
        Ok(Self { sum: device.load(&source::<T>())?.kernel("segment_sum")?, rows: DeviceRows::new(device)? })
    }

    /// Sums the rows of each segment: `rows` `[rows, k]` → `out` `[segments, k]`.
    ///
    /// # Errors
    /// If lengths do not fit, or the device fails; likewise for the others.
    pub fn segment_sum(&self, rows: &Buffer<T>, segments: &DeviceSegments, out: &mut Buffer<T>, k: usize) -> Result<(), DeviceError> {
        room("rows of segments", rows, segments.rows() * k)?;
        room("sums over segments", out, segments.len() * k)?;
        let launch = Launch {
            grid: [segments.len().div_ceil(SEGMENTS) as u32, k.div_ceil(32) as u32, 1],
            block: [32, SEGMENTS as u32, 1],
            shared: 0,
        };
        let mut args = Args::new();
        args.buffer(rows).buffer(&segments.offsets).buffer_mut(out);
        args.value(segments.len() as u32).value(k as u32).value(k.next_power_of_two().min(32) as u32);
        // SAFETY: lengths have just been checked, and offsets ascend up to the number of rows since they are those of `Segments`.
        unsafe { self.sum.launch(&launch, &args) }
    }

    /// Repeats each segment's row for every row in it: `values` `[segments, k]` → `out` `[rows, k]`.
    ///
    /// # Errors
    /// As [`DeviceSums::segment_sum`].
    pub fn segment_broadcast(
        &self,
        values: &Buffer<T>,
        segments: &DeviceSegments,
        out: &mut Buffer<T>,
        k: usize,
    ) -> Result<(), DeviceError> {
        self.rows.take(values, &segments.owner, out, k)
    }

    /// Each edge's row from its reverse edge: `edges` `[E, k]` → `out` `[E, k]`; its own adjoint.
    ///
    /// # Errors
    /// As [`DeviceSums::segment_sum`].
    pub fn reversed(&self, edges: &Buffer<T>, graph: &DeviceGraph, out: &mut Buffer<T>, k: usize) -> Result<(), DeviceError> {
        self.rows.take(edges, &graph.reverse, out, k)
    }

    /// Each edge's row from its neighbour: `nodes` `[N, k]` → `out` `[E, k]`. From its centre: [`DeviceSums::segment_broadcast`].
    ///
    /// # Errors
    /// As [`DeviceSums::segment_sum`].
    pub fn of_neighbors(&self, nodes: &Buffer<T>, graph: &DeviceGraph, out: &mut Buffer<T>, k: usize) -> Result<(), DeviceError> {
        self.rows.take(nodes, &graph.neighbors, out, k)
    }
}
