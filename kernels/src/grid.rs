//! Grids of the kernels on edges and atoms, and checks of lengths.

use crate::{DeviceError, Launch};

/// Threads of a block, in all kernels that are launched here.
const THREADS: usize = 256;

fn grid(blocks: usize) -> Launch {
    // Counts fit in a u32, and there are no more blocks than things that are counted.
    Launch { grid: [blocks as u32, 1, 1], block: [THREADS as u32, 1, 1], shared: 0 }
}

/// One thread each.
pub(crate) fn threads(n: usize) -> Launch {
    grid(n.div_ceil(THREADS))
}

/// One warp each.
pub(crate) fn warps(n: usize) -> Launch {
    grid(n.div_ceil(THREADS / 32))
}

/// One block each.
pub(crate) fn blocks(n: usize) -> Launch {
    grid(n)
}

/// Whether a buffer has room.
pub(crate) fn check_len(what: &'static str, len: usize, needed: usize) -> Result<(), DeviceError> {
    if len < needed { Err(DeviceError::Length { what, needed, len }) } else { Ok(()) }
}
