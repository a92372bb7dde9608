//! Modules, kernels, and how they are called.

use std::fmt;
use std::sync::Arc;

use crate::backend::{Function, Program};
use crate::{Buffer, Device, DeviceError, Element, element};

/// A compiled [`Source`](crate::Source) on a device.
#[derive(Clone)]
pub struct Module {
    pub(crate) device: Device,
    pub(crate) program: Arc<dyn Program>,
}

impl Module {
    /// One of the kernels that the source names.
    ///
    /// # Errors
    /// [`DeviceError::NoKernel`].
    pub fn kernel(&self, name: &'static str) -> Result<Kernel, DeviceError> {
        Ok(Kernel { name, device: self.device.clone(), function: self.program.function(name)? })
    }
}

impl fmt::Debug for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Module").field("device", &self.device).finish_non_exhaustive()
    }
}

/// A kernel that can be launched.
#[derive(Clone)]
pub struct Kernel {
    name: &'static str,
    device: Device,
    function: Arc<dyn Function>,
}

impl Kernel {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The device it runs on.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Queues a launch; a grid of no blocks is none. The emulated device runs it at once.
    ///
    /// # Errors
    /// [`DeviceError::Launch`] for a geometry that the device does not have, [`DeviceError::Lost`] also for what was launched before; on the emulated
    /// device [`DeviceError::Arguments`] and [`DeviceError::Fault`].
    ///
    /// # Safety
    /// The arguments are those of the kernel's parameters, in order. Buffers are of this device, are as long as the kernel assumes, have
    /// the values that it takes for indices, and those that it writes overlap no others it uses.
    #[allow(unsafe_code, reason = "a kernel reads and writes what its arguments say")]
    pub unsafe fn launch(&self, launch: &Launch, args: &Args) -> Result<(), DeviceError> {
        if launch.grid.contains(&0) {
            return Ok(());
        }
        launch.check(self.device.backend().shared_memory()).map_err(|what| DeviceError::Launch { kernel: self.name, what })?;
        // SAFETY: that of this function; the geometry was checked.
        unsafe { self.function.launch(launch, args) }
    }
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kernel({} on {})", self.name, self.device.name())
    }
}

/// The geometry of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Launch {
    /// Blocks, x first.
    pub grid: [u32; 3],
    /// Threads of a block, at most 1024.
    pub block: [u32; 3],
    /// Dynamic shared memory of a block, bytes.
    pub shared: u32,
}

impl Launch {
    /// A row of blocks, each a row of threads, without dynamic shared memory.
    #[must_use]
    pub fn rows(blocks: u32, threads: u32) -> Self {
        Self { grid: [blocks, 1, 1], block: [threads, 1, 1], shared: 0 }
    }

    /// Limits that all supported GPUs share, and that of shared memory.
    fn check(&self, shared: usize) -> Result<(), String> {
        let Self { grid, block, .. } = *self;
        let threads = block.iter().map(|&n| u64::from(n)).product::<u64>();
        if threads == 0 || threads > 1024 || block[2] > 64 {
            return Err(format!("a block of {} × {} × {} threads (at most 1024, and 64 in z)", block[0], block[1], block[2]));
        }
        if grid[0] > i32::MAX.unsigned_abs() || grid[1] > 0xffff || grid[2] > 0xffff {
            return Err(format!("a grid of {} × {} × {} blocks (at most 2147483647 × 65535 × 65535)", grid[0], grid[1], grid[2]));
        }
        if self.shared as usize > shared {
            return Err(format!("{} bytes of shared memory a block, of {shared}", self.shared));
        }
        Ok(())
    }
}

/// Arguments of a launch, in the order of the kernel's parameters.
#[derive(Debug, Clone, Default)]
pub struct Args {
    /// One word for each: an address, or the bytes of a value from its first byte on.
    pub(crate) words: Vec<u64>,
    /// Letters of `emulator/emulator.h` for each: what it is, and of which type.
    pub(crate) kinds: Vec<[u8; 2]>,
}

impl Args {
    /// No arguments yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// `const T *`.
    pub fn buffer<T: Element>(&mut self, buffer: &Buffer<T>) -> &mut Self {
        self.push(buffer.address(), [b'c', T::CODE])
    }

    /// `T *`.
    pub fn buffer_mut<T: Element>(&mut self, buffer: &mut Buffer<T>) -> &mut Self {
        self.push(buffer.address(), [b'm', T::CODE])
    }

    /// `T`.
    pub fn value<T: Element>(&mut self, value: T) -> &mut Self {
        let mut word = [0; 8];
        word[..size_of::<T>()].copy_from_slice(element::bytes(&[value]));
        self.push(u64::from_ne_bytes(word), [b'v', T::CODE])
    }

    /// `nullptr`, for a pointer of any type.
    pub fn null(&mut self) -> &mut Self {
        self.push(0, *b"n?")
    }

    fn push(&mut self, word: u64, kind: [u8; 2]) -> &mut Self {
        self.words.push(word);
        self.kinds.push(kind);
        self
    }
}
