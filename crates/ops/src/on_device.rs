//! What ops do where their tensors are on a device.
//!
//! The CUDA half of an op (`candle_cuda.rs`, feature `candle-cuda`) is [`OnDevice::run`] on candle's memory and stream. Tests run the same on the
//! emulated device, so that only the way from candle's storages to buffers is left to be seen on a GPU.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};

use candle_core::{Layout, Result, Shape};
use tesseral_kernels::{Buffer, Device, DeviceError};

use crate::real::Real;

/// An input: its elements and its shape.
pub(crate) struct Operand<T> {
    pub(crate) data: Buffer<T>,
    pub(crate) dims: Vec<usize>,
}

/// An op with kernels.
pub(crate) trait OnDevice {
    /// The shape of the result, if the inputs fit.
    fn shape(&self, inputs: &[&Layout]) -> Result<Shape>;

    /// Writes all of `out`, which has as many elements as the shape says.
    fn run<T: Real>(&self, device: &Device, inputs: &[Operand<T>], out: &mut Buffer<T>) -> std::result::Result<(), DeviceError>;
}

/// The function `cuda_fwd` of an op with one, two or three inputs that is [`OnDevice`].
macro_rules! cuda_fwd {
    ($($x:ident $layout:ident),+) => {
        #[cfg(feature = "candle-cuda")]
        fn cuda_fwd(&self, $($x: &candle_core::CudaStorage, $layout: &Layout),+) -> Result<(candle_core::CudaStorage, Shape)> {
            crate::candle_cuda::run(self, self.name(), &[$(($x, $layout)),+])
        }
    };
}
pub(crate) use cuda_fwd;

/// Consecutive parts of a buffer, some of which may be left out.
///
/// # Panics
/// If they are longer than the buffer.
#[allow(unsafe_code, reason = "addresses")]
pub(crate) fn with_parts<T: Real, const N: usize, R>(
    whole: &mut Buffer<T>,
    lengths: [Option<usize>; N],
    use_parts: impl FnOnce([Option<&mut Buffer<T>>; N]) -> R,
) -> R {
    assert!(lengths.iter().flatten().sum::<usize>() <= whole.len(), "parts of a buffer are not longer than it");
    let mut start = 0;
    let mut parts = lengths.map(|length| {
        length.map(|length| {
            let address = whole.address() + (start * size_of::<T>()) as u64;
            start += length;
            // SAFETY: within `whole`, which is borrowed as long as the parts are there; they do not overlap.
            unsafe { Buffer::borrowed(whole.device(), address, length) }
        })
    });
    use_parts(parts.each_mut().map(Option::as_mut))
}

/// Whose twin, by its address; which one; on which device; of which type.
type Key = (usize, [usize; 2], usize, TypeId);

struct Twin {
    /// While this is there its address belongs to nothing else.
    of: Weak<dyn Any + Send + Sync>,
    twin: Arc<dyn Any + Send + Sync>,
}

static TWINS: LazyLock<Mutex<HashMap<Key, Twin>>> = LazyLock::new(Mutex::default);

/// What twins of nothing in particular belong to: it is there as long as the process.
static EVER: LazyLock<Arc<()>> = LazyLock::new(Arc::default);

fn twins() -> MutexGuard<'static, HashMap<Key, Twin>> {
    TWINS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What `of` is on a device: compiled kernels, uploaded tables. It is made once for each `variant` and type, and kept as long as `of` is there.
pub(crate) fn twin<K: Any + Send + Sync, V: Any + Send + Sync>(
    device: &Device,
    of: &Arc<K>,
    variant: [usize; 2],
    make: impl FnOnce() -> std::result::Result<V, DeviceError>,
) -> std::result::Result<Arc<V>, DeviceError> {
    let key = (Arc::as_ptr(of).addr(), variant, device.id(), TypeId::of::<V>());
    let found = twins().get(&key).map(|twin| twin.twin.clone());
    if let Some(found) = found {
        return Ok(found.downcast().expect("the type is part of the key"));
    }
    let made = Arc::new(make()?);
    let weak: Weak<K> = Arc::downgrade(of);
    let mut twins = twins();
    let gone: Vec<Key> = twins.iter().filter(|(_, twin)| twin.of.strong_count() == 0).map(|(key, _)| *key).collect();
    let dropped: Vec<Option<Twin>> = gone.iter().map(|key| twins.remove(key)).collect();
    twins.insert(key, Twin { of: weak, twin: made.clone() });
    drop(twins);
    // Buffers are freed without the lock.
    drop(dropped);
    Ok(made)
}

/// A [`twin`] of nothing in particular.
pub(crate) fn lasting<V: Any + Send + Sync>(
    device: &Device,
    variant: [usize; 2],
    make: impl FnOnce() -> std::result::Result<V, DeviceError>,
) -> std::result::Result<Arc<V>, DeviceError> {
    twin(device, &EVER, variant, make)
}

/// A launcher whose weights are loaded before each use.
pub(crate) fn locked<L>(launcher: &Mutex<L>) -> MutexGuard<'_, L> {
    launcher.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
pub(crate) mod tests {
    use candle_core::{DType, Tensor};
    use tesseral_kernels::testing;

    use super::*;
    use crate::testing::{relative_error, to_vec};

    /// Runs an op's kernels on the device of tests, and compares with its CPU half, in both precisions.
    #[track_caller]
    pub(crate) fn check(op: &impl OnDevice, inputs: &[&Tensor], on_cpu: impl Fn(&[Tensor]) -> Result<Tensor>) {
        let Some(device) = testing::device() else { return };
        for (dtype, tolerance) in [(DType::F64, 1e-12), (DType::F32, 2e-5)] {
            let inputs: Vec<Tensor> = inputs.iter().map(|t| t.to_dtype(dtype).unwrap().contiguous().unwrap()).collect();
            let want = on_cpu(&inputs).unwrap();
            let layouts: Vec<Layout> = inputs.iter().map(|t| t.layout().clone()).collect();
            let shape = op.shape(&layouts.iter().collect::<Vec<_>>()).unwrap();
            assert_eq!(shape.dims(), want.dims());
            let got = match dtype {
                DType::F64 => run::<f64>(op, &device, &inputs, shape.elem_count()),
                _ => run::<f32>(op, &device, &inputs, shape.elem_count()),
            };
            let error = relative_error(&got, &to_vec(&want));
            assert!(error < tolerance, "{dtype:?}: relative error {error:e}");
        }
    }

    fn run<T: Real>(op: &impl OnDevice, device: &Device, inputs: &[Tensor], len: usize) -> Vec<f64> {
        let operand = |t: &Tensor| {
            let data: Vec<T> = to_vec(t).into_iter().map(T::of).collect();
            Operand { data: device.upload(&data).unwrap(), dims: t.dims().to_vec() }
        };
        let operands: Vec<Operand<T>> = inputs.iter().map(operand).collect();
        // What is not written shows.
        let mut out = device.upload(&vec![T::nan(); len]).unwrap();
        op.run(device, &operands, &mut out).unwrap();
        out.to_vec().unwrap().into_iter().map(|x| num_traits::ToPrimitive::to_f64(&x).unwrap()).collect()
    }

    #[test]
    fn twins_are_made_once_and_go_with_what_they_belong_to() {
        let Some(device) = testing::device() else { return };
        let key = Arc::new(7u8);
        let first = twin(&device, &key, [0, 0], || Ok(1u32)).unwrap();
        let again = twin(&device, &key, [0, 0], || Ok(2u32)).unwrap();
        let other = twin(&device, &key, [0, 1], || Ok(3u32)).unwrap();
        assert_eq!((*first, *again, *other), (1, 1, 3));
        let watch = Arc::downgrade(&first);
        drop((key, first, again));
        assert!(watch.upgrade().is_some());
        twin(&device, &Arc::new(8u8), [0, 0], || Ok(4u32)).unwrap();
        assert!(watch.upgrade().is_none());
    }
}
