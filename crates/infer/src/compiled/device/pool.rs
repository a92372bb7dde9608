//! Buffers that a step takes and gives back. Steps take the same ones in the same order, so that after the first nothing is allocated, and a recorded
//! step may keep their addresses.

use tesseral_kernels::{Buffer, Device, DeviceError};
use tesseral_ops::slab::HasSlabs;

/// Buffers by length.
pub(super) struct Pool<T: HasSlabs> {
    device: Device,
    free: Vec<Buffer<T>>,
    bytes: usize,
}

impl<T: HasSlabs> Pool<T> {
    pub(super) fn new(device: &Device) -> Self {
        Self { device: device.clone(), free: Vec::new(), bytes: 0 }
    }

    /// A buffer of `len` numbers, whatever they are.
    pub(super) fn take(&mut self, len: usize) -> Result<Buffer<T>, DeviceError> {
        if let Some(found) = self.free.iter().rposition(|b| b.len() == len) {
            return Ok(self.free.remove(found));
        }
        self.bytes += len * size_of::<T>();
        self.device.zeros(len)
    }

    /// A buffer of zeros.
    pub(super) fn zeros(&mut self, len: usize) -> Result<Buffer<T>, DeviceError> {
        let mut buffer = self.take(len)?;
        buffer.fill_zero()?;
        Ok(buffer)
    }

    pub(super) fn give(&mut self, buffer: Buffer<T>) {
        self.free.push(buffer);
    }

    pub(super) fn give_all(&mut self, buffers: impl IntoIterator<Item = Buffer<T>>) {
        self.free.extend(buffers);
    }

    /// Bytes of all buffers ever taken.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}
