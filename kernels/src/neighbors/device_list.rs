//! The neighbour list of one large structure, made on the device.

#![allow(unsafe_code, reason = "launches")]

use super::frame::{Frame, Range};
use super::{ListError, MAX_EDGES, NeighborTable};
use crate::forces::Segments;
use crate::grid::{blocks, check_len, threads, warps};
use crate::{Args, Buffer, Device, DeviceError, Kernel, Source};

/// Numbers that a block scans.
const SCAN: usize = 1024;

/// Most blocks that look for the range of the coordinates.
const RANGES: usize = 256;

/// Numbers of a block there.
const RANGE: usize = 7;

/// Makes neighbour lists.
pub struct DeviceList {
    device: Device,
    ranges: Kernel,
    wrap: Kernel,
    scan: Kernel,
    scan_totals: Kernel,
    add_totals: Kernel,
    place: Kernel,
    count: Kernel,
    fill: Kernel,
    sort: Kernel,
    reverse: Kernel,
    moved: Kernel,
}

/// Atoms sorted into bins, and what the search reads.
struct Binned<'a> {
    positions: &'a Buffer<f64>,
    cell: Buffer<f64>,
    grid: Buffer<f64>,
    squared_reach: f64,
    atoms: u32,
    coordinates: Buffer<f64>,
    cells: Buffer<i32>,
    begin: Buffer<u32>,
    slot_atom: Buffer<u32>,
    slot_position: Buffer<f64>,
    slot_cells: Buffer<i32>,
}

impl DeviceList {
    /// What is compiled.
    pub fn source() -> Source {
        let kernels = [
            "coordinate_ranges",
            "wrap_atoms",
            "scan_blocks",
            "scan_totals",
            "add_totals",
            "place_atoms",
            "count_edges",
            "fill_edges",
            "sort_edges",
            "find_reverse",
            "find_moved",
        ];
        Source::new::<f64>("list", &kernels, String::new())
    }

    /// Compiles the kernels.
    ///
    /// # Errors
    /// If that fails.
    pub fn new(device: &Device) -> Result<Self, DeviceError> {
        let module = device.load(&Self::source())?;
        Ok(Self {
            device: device.clone(),
            ranges: module.kernel("coordinate_ranges")?,
            wrap: module.kernel("wrap_atoms")?,
            scan: module.kernel("scan_blocks")?,
            scan_totals: module.kernel("scan_totals")?,
            add_totals: module.kernel("add_totals")?,
            place: module.kernel("place_atoms")?,
            count: module.kernel("count_edges")?,
            fill: module.kernel("fill_edges")?,
            sort: module.kernel("sort_edges")?,
            reverse: module.kernel("find_reverse")?,
            moved: module.kernel("find_moved")?,
        })
    }

    /// All ordered pairs of atoms closer than `reach` (Å), periodic images included: what `tesseral_atoms::neighbors::neighbor_list` gives, in the
    /// same order. `positions` `[N, 3]` (Å) may lie anywhere, rows of `cell` (Å) along directions that are not periodic are ignored. Pairs on the
    /// same spot are edges like others.
    ///
    /// # Errors
    /// [`ListError::Unsuited`] for what only the host can do, or say what is wrong with; and if edges or shifts do not fit, or the device fails.
    pub fn build(&self, positions: &Buffer<f64>, cell: &[[f64; 3]; 3], pbc: [bool; 3], reach: f64) -> Result<NeighborTable, ListError> {
        let n = positions.len() / 3;
        if !(reach > 0.0 && reach.is_finite()) {
            return Err(ListError::Unsuited { why: "the cutoff is not a length" });
        }
        if n > u32::MAX as usize / 64 {
            return Err(ListError::Unsuited { why: "there are too many atoms" });
        }
        if !cell.as_flattened().iter().all(|x| x.is_finite()) {
            return Err(ListError::Unsuited { why: "the cell is not finite" });
        }
        let frame = Frame::new(cell, pbc)?;
        let device = &self.device;
        let binned = self.bin(positions, cell, &frame, reach)?;

        let mut begin = device.zeros::<u32>(n + 1)?;
        let mut count = device.zeros::<u32>(n + 1)?;
        let mut args = binned.args();
        args.buffer_mut(&mut count);
        // SAFETY: bins end with the atoms, whose slots hold each of them once; `count` has a number of each atom.
        unsafe { self.count.launch(&warps(n), &args)? };
        let edges = self.scan(&count, &mut begin)?;
        if edges > MAX_EDGES as f64 {
            return Err(ListError::TooManyEdges { edges });
        }
        let edges = edges as usize;

        let (mut unsorted, mut unsorted_shift) = (device.zeros::<u32>(edges)?, device.zeros::<i16>(3 * edges)?);
        let mut problem = device.zeros::<u32>(1)?;
        let mut args = binned.args();
        args.buffer(&begin).buffer_mut(&mut unsorted).buffer_mut(&mut unsorted_shift).buffer_mut(&mut problem);
        // SAFETY: the same search finds the same edges again, for which `begin` leaves room.
        unsafe { self.fill.launch(&warps(n), &args)? };
        drop(binned);
        let (mut neighbor, mut shift) = (device.zeros::<u32>(edges)?, device.zeros::<i16>(3 * edges)?);
        let mut args = Args::new();
        args.buffer(&begin).value(n as u32).buffer(&unsorted).buffer(&unsorted_shift).buffer_mut(&mut neighbor).buffer_mut(&mut shift);
        // SAFETY: an edge's place is between the first of its centre and the last; shifts that were cut to 16 bits may share one, and leave another as
        // it is, zero.
        unsafe { self.sort.launch(&warps(n), &args)? };
        drop((unsorted, unsorted_shift, count));
        let mut reverse = device.zeros::<u32>(edges)?;
        let mut args = Args::new();
        args.buffer(&begin).value(n as u32).buffer(&neighbor).buffer(&shift).buffer_mut(&mut reverse).buffer_mut(&mut problem);
        // SAFETY: neighbours are atoms, whose edges lie between their offsets.
        unsafe { self.reverse.launch(&warps(n), &args)? };
        match problem.to_vec()?.first() {
            Some(0) => {}
            Some(1) => return Err(ListError::Shift),
            _ => return Err(ListError::Unsuited { why: "an edge has no reverse" }),
        }
        Ok(NeighborTable {
            edges,
            begin,
            neighbor,
            shift,
            reverse,
            structure: device.zeros(n)?,
            slots: device.zeros(edges)?,
            segments: Segments::new(device, [n])?,
        })
    }

    /// Whether an atom has moved by half the skin (Å) since `reference`; both `[N, 3]`, Å. Waits for the device.
    ///
    /// # Errors
    /// If lengths differ, or the device fails.
    pub fn moved(&self, positions: &Buffer<f64>, reference: &Buffer<f64>, skin: f64) -> Result<bool, DeviceError> {
        check_len("earlier positions", reference.len(), positions.len())?;
        let mut flag = self.device.zeros::<u32>(1)?;
        let n = positions.len() / 3;
        let mut args = Args::new();
        args.buffer(positions).buffer(reference).value(n as u32).value(0.25 * skin * skin).buffer_mut(&mut flag);
        // SAFETY: both have a row for each atom.
        unsafe { self.moved.launch(&threads(n), &args)? };
        Ok(flag.to_vec()? != [0])
    }

    /// Sorts the atoms into bins.
    fn bin<'a>(&self, positions: &'a Buffer<f64>, cell: &[[f64; 3]; 3], frame: &Frame, reach: f64) -> Result<Binned<'a>, ListError> {
        let device = &self.device;
        let n = positions.len() / 3;
        let grid = frame.grid(&self.range(positions, frame)?, n, reach)?;
        let numbers = device.upload(&grid.numbers)?;
        let mut coordinates = device.zeros::<f64>(3 * n)?;
        let mut cells = device.zeros::<i32>(3 * n)?;
        let (mut bin, mut in_bin) = (device.zeros::<u32>(n)?, device.zeros::<u32>(grid.bins + 1)?);
        let mut args = Args::new();
        args.buffer(positions)
            .buffer(&numbers)
            .value(n as u32)
            .buffer_mut(&mut coordinates)
            .buffer_mut(&mut cells)
            .buffer_mut(&mut bin)
            .buffer_mut(&mut in_bin);
        // SAFETY: all have a row for each atom; bins are clamped to those of the grid.
        unsafe { self.wrap.launch(&threads(n), &args)? };
        let mut begin = device.zeros::<u32>(grid.bins + 1)?;
        self.scan(&in_bin, &mut begin)?;
        in_bin.fill_zero()?;
        let mut slot_atom = device.zeros::<u32>(n)?;
        let mut slot_position = device.zeros::<f64>(3 * n)?;
        let mut slot_cells = device.zeros::<i32>(3 * n)?;
        let mut args = Args::new();
        args.buffer(positions)
            .buffer(&cells)
            .buffer(&bin)
            .buffer(&begin)
            .value(n as u32)
            .buffer_mut(&mut in_bin)
            .buffer_mut(&mut slot_atom)
            .buffer_mut(&mut slot_position)
            .buffer_mut(&mut slot_cells);
        // SAFETY: a bin has as many slots as atoms were counted in it.
        unsafe { self.place.launch(&threads(n), &args)? };
        Ok(Binned {
            positions,
            cell: device.upload(cell.as_flattened())?,
            grid: numbers,
            squared_reach: reach * reach,
            atoms: n as u32,
            coordinates,
            cells,
            begin,
            slot_atom,
            slot_position,
            slot_cells,
        })
    }

    /// The least and greatest coordinates along the axes of the frame.
    fn range(&self, positions: &Buffer<f64>, frame: &Frame) -> Result<Range, ListError> {
        let n = positions.len() / 3;
        let count = n.div_ceil(256).min(RANGES);
        let grid = self.device.upload(&frame.numbers())?;
        let mut ranges = self.device.zeros::<f64>(RANGE * count)?;
        let mut args = Args::new();
        args.buffer(positions).buffer(&grid).value(n as u32).buffer_mut(&mut ranges);
        // SAFETY: `positions` has a row for each atom, `ranges` for each block.
        unsafe { self.ranges.launch(&blocks(count), &args)? };
        let mut range = Range { low: [f64::INFINITY; 3], high: [f64::NEG_INFINITY; 3] };
        for block in ranges.to_vec()?.chunks_exact(RANGE) {
            if block[6] != 0.0 {
                return Err(ListError::Unsuited { why: "a coordinate is not finite" });
            }
            for d in 0..3 {
                range.low[d] = range.low[d].min(block[d]);
                range.high[d] = range.high[d].max(block[3 + d]);
            }
        }
        Ok(if n == 0 { Range { low: [0.0; 3], high: [0.0; 3] } } else { range })
    }

    /// Exclusive sums of `x`, and the sum of all, which is beyond 32 bits if the others are. Waits for the device.
    fn scan(&self, x: &Buffer<u32>, sums: &mut Buffer<u32>) -> Result<f64, DeviceError> {
        let n = x.len();
        let count = n.div_ceil(SCAN);
        let (mut totals, mut total) = (self.device.zeros::<u32>(count)?, self.device.zeros::<f64>(1)?);
        check_len("sums", sums.len(), n)?;
        let mut args = Args::new();
        args.buffer(x).value(n as u32).buffer_mut(sums).buffer_mut(&mut totals);
        // SAFETY: blocks stop at the end of `x`, and have one total each.
        unsafe { self.scan.launch(&blocks(count), &args)? };
        let mut args = Args::new();
        args.buffer_mut(&mut totals).value(count as u32).buffer_mut(&mut total);
        // SAFETY: one block, which stops at the end of `totals`.
        unsafe { self.scan_totals.launch(&blocks(1), &args)? };
        let mut args = Args::new();
        args.buffer_mut(sums).value(n as u32).buffer(&totals);
        // SAFETY: as for the first.
        unsafe { self.add_totals.launch(&threads(n), &args)? };
        Ok(total.to_vec()?.first().copied().unwrap_or(0.0))
    }
}

impl Binned<'_> {
    /// What the search reads.
    fn args(&self) -> Args {
        let mut args = Args::new();
        args.buffer(self.positions)
            .buffer(&self.cell)
            .buffer(&self.grid)
            .value(self.squared_reach)
            .value(self.atoms)
            .buffer(&self.coordinates)
            .buffer(&self.cells)
            .buffer(&self.begin)
            .buffer(&self.slot_atom)
            .buffer(&self.slot_position)
            .buffer(&self.slot_cells);
        args
    }
}
