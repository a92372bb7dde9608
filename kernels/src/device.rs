//! Devices and graphs.

use std::fmt;
use std::sync::Arc;

use crate::backend::{Backend, Replay};
use crate::{Buffer, DeviceError, Element, Module, Source, emulator};

/// Compute capability of a GPU, major and minor: (9, 0) is `sm_90`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Architecture(pub u32, pub u32);

impl Architecture {
    /// The oldest that kernels are written for: Ampere.
    pub const OLDEST: Self = Self(8, 0);
}

/// `80` of `sm_80`.
impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.0, self.1)
    }
}

/// Memory of a device, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// What nobody uses.
    pub free: usize,
    /// All of it.
    pub total: usize,
}

/// A GPU, or its stand-in on this CPU, with one queue of work. Clones are the same device.
#[derive(Clone)]
pub struct Device(Arc<dyn Backend>);

impl Device {
    /// A GPU, counted from 0 as in `nvidia-smi` (and by CUDA_VISIBLE_DEVICES).
    ///
    /// # Errors
    /// [`DeviceError::Probe`], without the feature `cuda` in any case; [`DeviceError::Ordinal`], [`DeviceError::OldDriver`],
    /// [`DeviceError::Architecture`], and failures of the driver.
    pub fn cuda(ordinal: usize) -> Result<Self, DeviceError> {
        #[cfg(feature = "cuda")]
        return Ok(Self(crate::cuda::device(ordinal)?));
        #[cfg(not(feature = "cuda"))]
        {
            let _ = ordinal;
            Err(crate::probe::ProbeError::NotBuilt.into())
        }
    }

    /// A GPU, with the work queued on a stream of its primary context that something else owns, in order with what is queued there otherwise.
    ///
    /// # Errors
    /// As [`cuda`](Self::cuda).
    ///
    /// # Safety
    /// `stream` is a `CUstream` of the primary context of that GPU, null for its default stream, as an address. It is there as long as the device, its
    /// buffers and kernels.
    #[allow(unsafe_code, reason = "a handle")]
    pub unsafe fn on_stream(ordinal: usize, stream: usize) -> Result<Self, DeviceError> {
        #[cfg(feature = "cuda")]
        // SAFETY: that of this function.
        return Ok(Self(unsafe { crate::cuda::on_stream(ordinal, stream) }?));
        #[cfg(not(feature = "cuda"))]
        {
            let _ = (ordinal, stream);
            Err(crate::probe::ProbeError::NotBuilt.into())
        }
    }

    /// This CPU, running the same kernels, slowly and one block after another. It is there for tests.
    ///
    /// # Errors
    /// [`DeviceError::NoCompiler`].
    pub fn emulated() -> Result<Self, DeviceError> {
        Ok(Self(emulator::device()?))
    }

    /// The device of tests: `TESSERAL_TEST_DEVICE` is `emulated` (which it also is if not set), `cuda` or `cuda:N`.
    ///
    /// # Errors
    /// [`DeviceError::TestDevice`], and those of the device.
    pub fn of_tests() -> Result<Self, DeviceError> {
        let value = std::env::var("TESSERAL_TEST_DEVICE").unwrap_or_default();
        match value.as_str() {
            "" | "emulated" => Self::emulated(),
            "cuda" => Self::cuda(0),
            other => match other.strip_prefix("cuda:").and_then(|n| n.parse().ok()) {
                Some(ordinal) => Self::cuda(ordinal),
                None => Err(DeviceError::TestDevice { value }),
            },
        }
    }

    #[cfg(test)]
    pub(crate) fn emulated_in_order(reverse: bool) -> Result<Self, DeviceError> {
        Ok(Self(emulator::in_order(reverse)?))
    }

    pub(crate) fn backend(&self) -> &dyn Backend {
        &*self.0
    }

    /// Whether both are clones of one device.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// A number that no other device has as long as this one is there.
    #[must_use]
    pub fn id(&self) -> usize {
        Arc::as_ptr(&self.0).addr()
    }

    /// Its name, as the driver gives it.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.name()
    }

    /// Whether it is a stand-in.
    #[must_use]
    pub fn is_emulated(&self) -> bool {
        self.0.is_emulated()
    }

    /// Its compute capability.
    #[must_use]
    pub fn architecture(&self) -> Architecture {
        self.0.architecture()
    }

    /// How many blocks run at the same time, or a small part of them.
    #[must_use]
    pub fn multiprocessors(&self) -> usize {
        self.0.multiprocessors()
    }

    /// Dynamic shared memory that a block may have, bytes.
    #[must_use]
    pub fn shared_memory(&self) -> usize {
        self.0.shared_memory()
    }

    /// Its memory.
    ///
    /// # Errors
    /// Failures of the driver.
    pub fn memory(&self) -> Result<Memory, DeviceError> {
        self.0.memory()
    }

    /// A new array of zeros.
    ///
    /// # Errors
    /// [`DeviceError::Memory`], [`DeviceError::Capture`], and failures of the driver.
    pub fn zeros<T: Element>(&self, len: usize) -> Result<Buffer<T>, DeviceError> {
        let mut buffer = Buffer::new(self, len)?;
        buffer.fill_zero()?;
        Ok(buffer)
    }

    /// A new array with these elements.
    ///
    /// # Errors
    /// As [`zeros`](Self::zeros).
    pub fn upload<T: Element>(&self, data: &[T]) -> Result<Buffer<T>, DeviceError> {
        let mut buffer = Buffer::new(self, data.len())?;
        buffer.write(data)?;
        Ok(buffer)
    }

    /// Compiles a source for this device, or finds it among those compiled before. May be called by several threads.
    ///
    /// # Errors
    /// [`DeviceError::NoNvrtc`], [`DeviceError::NoCompiler`], [`DeviceError::Compile`], [`DeviceError::Load`].
    pub fn load(&self, source: &Source) -> Result<Module, DeviceError> {
        Ok(Module { device: self.clone(), program: self.0.load(source)? })
    }

    /// Waits for all work that is queued.
    ///
    /// # Errors
    /// Failures of that work: [`DeviceError::Lost`].
    pub fn synchronize(&self) -> Result<(), DeviceError> {
        self.0.synchronize()
    }

    /// Records the launches, fills and copies between buffers that `work` queues, without doing them. `work` must not allocate, read, write or
    /// wait ([`DeviceError::Capture`]), and no other thread may use the device meanwhile.
    ///
    /// # Errors
    /// Those of `work`, after which the device is as before, and failures of the driver.
    pub fn capture<E: From<DeviceError>>(&self, work: impl FnOnce() -> Result<(), E>) -> Result<Graph, E> {
        /// Ends the capture when `work` panics, too.
        struct Capturing<'a>(Option<&'a dyn Backend>);
        impl Drop for Capturing<'_> {
            fn drop(&mut self) {
                if let Some(backend) = self.0 {
                    drop(backend.end_capture());
                }
            }
        }
        self.0.begin_capture()?;
        let mut capturing = Capturing(Some(&*self.0));
        work()?;
        capturing.0 = None;
        Ok(Graph { replay: self.0.end_capture()?, device: self.clone() })
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device({})", self.name())
    }
}

/// Work that was recorded by [`Device::capture`], to be done as a whole, many times.
pub struct Graph {
    replay: Box<dyn Replay>,
    device: Device,
}

impl Graph {
    /// Queues all of it.
    ///
    /// # Errors
    /// Those of the launches in it.
    ///
    /// # Safety
    /// Every buffer that was used in the recording is still there, and still has what the launches in it assume.
    #[allow(unsafe_code, reason = "a graph uses buffers that it does not own")]
    pub unsafe fn launch(&self) -> Result<(), DeviceError> {
        // SAFETY: that of this function.
        unsafe { self.replay.launch() }
    }

    /// The device it runs on.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.device
    }
}

impl fmt::Debug for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Graph(on {})", self.device.name())
    }
}
