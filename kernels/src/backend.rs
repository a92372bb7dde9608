//! What a GPU and its stand-in both do. Addresses are those of the device; lengths are bytes.

use std::sync::Arc;

use crate::{Architecture, Args, DeviceError, Launch, Memory, Source};

/// A device with one queue of work.
#[allow(unsafe_code, reason = "addresses")]
pub(crate) trait Backend: Send + Sync {
    fn name(&self) -> &str;
    fn is_emulated(&self) -> bool;
    fn architecture(&self) -> Architecture;
    fn multiprocessors(&self) -> usize;
    /// Bytes of dynamic shared memory that a block may have.
    fn shared_memory(&self) -> usize;
    fn memory(&self) -> Result<Memory, DeviceError>;
    /// New memory, not set; `length` is not zero.
    fn allocate(&self, length: usize) -> Result<u64, DeviceError>;
    /// # Safety
    /// `address` and `length` are those of an allocation, which nothing uses afterwards but work that was queued before.
    unsafe fn free(&self, address: u64, length: usize);
    /// Queued.
    /// # Safety
    /// The range is within an allocation.
    unsafe fn fill_zero(&self, address: u64, length: usize) -> Result<(), DeviceError>;
    /// Queued.
    /// # Safety
    /// Both ranges are within allocations, and do not overlap.
    unsafe fn copy(&self, to: u64, from: u64, length: usize) -> Result<(), DeviceError>;
    /// Returns when `from` is no longer needed.
    /// # Safety
    /// The range is within an allocation.
    unsafe fn upload(&self, to: u64, from: &[u8]) -> Result<(), DeviceError>;
    /// Waits for what is queued, and reads.
    /// # Safety
    /// The range is within an allocation.
    unsafe fn download(&self, to: &mut [u8], from: u64) -> Result<(), DeviceError>;
    fn synchronize(&self) -> Result<(), DeviceError>;
    fn load(&self, source: &Source) -> Result<Arc<dyn Program>, DeviceError>;
    /// From now on queued work is recorded instead of done.
    fn begin_capture(&self) -> Result<(), DeviceError>;
    fn end_capture(&self) -> Result<Box<dyn Replay>, DeviceError>;
}

/// A compiled source.
pub(crate) trait Program: Send + Sync {
    fn function(&self, name: &'static str) -> Result<Arc<dyn Function>, DeviceError>;
}

/// A kernel of it.
#[allow(unsafe_code, reason = "a kernel reads and writes what its arguments say")]
pub(crate) trait Function: Send + Sync {
    /// Queues it. The geometry is checked.
    /// # Safety
    /// That of `Kernel::launch`.
    unsafe fn launch(&self, launch: &Launch, args: &Args) -> Result<(), DeviceError>;
}

/// Recorded work.
#[allow(unsafe_code, reason = "as for a launch")]
pub(crate) trait Replay: Send + Sync {
    /// Queues it.
    /// # Safety
    /// That of `Graph::launch`.
    unsafe fn launch(&self) -> Result<(), DeviceError>;
}
