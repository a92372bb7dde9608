//! Memory of a device.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;

use crate::{Device, DeviceError, Element, element};

/// An array on a device, freed when dropped unless [`borrowed`](Buffer::borrowed). An array without elements has no memory.
pub struct Buffer<T> {
    device: Device,
    address: u64,
    len: usize,
    /// Whether the memory is ours to free.
    owned: bool,
    element: PhantomData<T>,
}

impl<T: Element> Buffer<T> {
    pub(crate) fn new(device: &Device, len: usize) -> Result<Self, DeviceError> {
        let length = len.checked_mul(size_of::<T>()).filter(|&n| isize::try_from(n).is_ok());
        let length = length.ok_or(DeviceError::Memory { needed: usize::MAX, free: 0 })?;
        let address = if length == 0 { 0 } else { device.backend().allocate(length)? };
        Ok(Self { device: device.clone(), address, len, owned: true, element: PhantomData })
    }

    /// Memory that something else owns, and frees.
    ///
    /// # Safety
    /// `address` is that of `len` elements in memory of this device, which is there until all work that was queued with this buffer is done. What else
    /// uses it is queued on the stream of this device, and while the buffer lives nothing else writes, nor reads what is written through it.
    #[allow(unsafe_code, reason = "an address")]
    #[must_use]
    pub unsafe fn borrowed(device: &Device, address: u64, len: usize) -> Self {
        Self { device: device.clone(), address: if len == 0 { 0 } else { address }, len, owned: false, element: PhantomData }
    }

    /// Where it is in memory of the device; 0 without elements.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no elements.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where it is.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.len * size_of::<T>()
    }

    fn check(&self, what: &'static str, needed: Option<usize>) -> Result<(), DeviceError> {
        match needed {
            Some(needed) if needed <= self.len => Ok(()),
            _ => Err(DeviceError::Length { what, needed: needed.unwrap_or(usize::MAX), len: self.len }),
        }
    }

    /// Waits for all work of the device, and reads the first elements, as many as `to` has.
    ///
    /// # Errors
    /// [`DeviceError::Length`], [`DeviceError::Capture`], and failures of the work that was waited for.
    #[allow(unsafe_code, reason = "addresses")]
    pub fn read(&self, to: &mut [T]) -> Result<(), DeviceError> {
        self.check("reading", Some(to.len()))?;
        if to.is_empty() {
            return Ok(());
        }
        // SAFETY: the range is within this allocation.
        unsafe { self.device.backend().download(element::bytes_mut(to), self.address) }
    }

    /// Waits for all work of the device, and reads everything.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn to_vec(&self) -> Result<Vec<T>, DeviceError> {
        let mut all = vec![T::default(); self.len];
        self.read(&mut all)?;
        Ok(all)
    }

    /// Writes the first elements, as many as `from` has.
    ///
    /// # Errors
    /// [`DeviceError::Length`], [`DeviceError::Capture`], and failures of the device.
    pub fn write(&mut self, from: &[T]) -> Result<(), DeviceError> {
        self.write_at(0, from)
    }

    /// Writes elements from `start` on.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    #[allow(unsafe_code, reason = "addresses")]
    pub fn write_at(&mut self, start: usize, from: &[T]) -> Result<(), DeviceError> {
        self.check("writing", start.checked_add(from.len()))?;
        if from.is_empty() {
            return Ok(());
        }
        // SAFETY: the range is within this allocation.
        unsafe { self.device.backend().upload(self.address + (start * size_of::<T>()) as u64, element::bytes(from)) }
    }

    /// Sets everything to zero, after the work that is queued.
    ///
    /// # Errors
    /// Failures of the device.
    #[allow(unsafe_code, reason = "addresses")]
    pub fn fill_zero(&mut self) -> Result<(), DeviceError> {
        if self.is_empty() {
            return Ok(());
        }
        // SAFETY: the range is this allocation.
        unsafe { self.device.backend().fill_zero(self.address, self.bytes()) }
    }

    /// Copies the first `count` elements of another buffer of the same device to the first of this one, after the work that is queued.
    ///
    /// # Errors
    /// [`DeviceError::Length`], and failures of the device.
    ///
    /// # Panics
    /// If the buffers are on different devices.
    pub fn copy_from(&mut self, other: &Self, count: usize) -> Result<(), DeviceError> {
        self.copy_range(0, other, 0..count)
    }

    /// Copies a range of another buffer of the same device to the elements from `at` on, after the work that is queued.
    ///
    /// # Errors
    /// As [`copy_from`](Self::copy_from).
    ///
    /// # Panics
    /// As [`copy_from`](Self::copy_from).
    #[allow(unsafe_code, reason = "addresses")]
    pub fn copy_range(&mut self, at: usize, other: &Self, range: Range<usize>) -> Result<(), DeviceError> {
        assert!(self.device.is_same(&other.device), "buffers of one device");
        other.check("copying from", Some(range.end))?;
        self.check("copying to", at.checked_add(range.len()))?;
        if range.is_empty() {
            return Ok(());
        }
        let place = |address: u64, element: usize| address + (element * size_of::<T>()) as u64;
        // SAFETY: both ranges are within their allocations, which are different ones because `self` is borrowed mutably.
        unsafe { self.device.backend().copy(place(self.address, at), place(other.address, range.start), range.len() * size_of::<T>()) }
    }
}

impl<T> Drop for Buffer<T> {
    #[allow(unsafe_code, reason = "addresses")]
    fn drop(&mut self) {
        if self.owned && self.address != 0 {
            // SAFETY: the allocation was made in `new` with this length, and nobody else frees it. Launches that use it are queued before, which is
            // enough; that of a graph is the duty of who launches it.
            unsafe { self.device.backend().free(self.address, self.len * size_of::<T>()) };
        }
    }
}

impl<T: Element> fmt::Debug for Buffer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer([{}; {}] on {})", T::C_NAME, self.len, self.device.name())
    }
}
