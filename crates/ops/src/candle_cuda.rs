//! Ops on candle's CUDA backend: the way from its storages and its stream to our buffers and launchers.

#![allow(unsafe_code, reason = "addresses of candle's memory")]

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};

use candle_core::backend::{BackendDevice, BackendStorage};
use candle_core::cuda_backend::cudarc::driver::{DevicePtr, DevicePtrMut, DeviceRepr};
use candle_core::cuda_backend::{CudaDType, DeviceId};
use candle_core::{CudaDevice, CudaStorage, DType, DeviceLocation, Error, Layout, Result, Shape};
use tesseral_kernels::{Buffer, Device};

use crate::on_device::{OnDevice, Operand};
use crate::real::{Real, unsupported};

/// Our device on candle's stream, and candle's, which is kept so that the stream stays.
type Pair = (CudaDevice, Device);

static DEVICES: LazyLock<Mutex<HashMap<DeviceId, Pair>>> = LazyLock::new(Mutex::default);

/// Whether there is a device of that number, with a driver and NVRTC for it; if not, why, and what to do.
///
/// # Errors
/// The message, and a hint if there is one.
pub fn probe(ordinal: usize) -> std::result::Result<(), (String, Option<String>)> {
    Device::cuda(ordinal).map(drop).map_err(|error| (error.to_string(), error.hint().map(Into::into)))
}

/// Our device that works on the stream of candle's.
///
/// # Errors
/// If the device cannot be opened.
pub fn device(candle: &CudaDevice) -> Result<Device> {
    let mut devices = DEVICES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, device)) = devices.get(&candle.id()) {
        return Ok(device.clone());
    }
    let DeviceLocation::Cuda { gpu_id } = candle.location() else {
        return Err(Error::Msg("a CUDA device of candle is none".into()).bt());
    };
    let stream = candle.cuda_stream().cu_stream().expose_provenance();
    // SAFETY: candle works in the primary context; the stream is kept by candle's device, which is kept for the life of the process.
    let device = unsafe { Device::on_stream(gpu_id, stream) }.map_err(Error::wrap)?;
    devices.insert(candle.id(), (candle.clone(), device.clone()));
    Ok(device)
}

/// `cuda_fwd` of an op.
pub(crate) fn run(op: &impl OnDevice, name: &'static str, inputs: &[(&CudaStorage, &Layout)]) -> Result<(CudaStorage, Shape)> {
    match inputs[0].0.dtype() {
        DType::F32 => run_in::<f32>(op, name, inputs),
        DType::F64 => run_in::<f64>(op, name, inputs),
        dtype => Err(unsupported(dtype, name)),
    }
}

fn run_in<T: Real + CudaDType + DeviceRepr>(
    op: &impl OnDevice,
    name: &'static str,
    inputs: &[(&CudaStorage, &Layout)],
) -> Result<(CudaStorage, Shape)> {
    let candle = inputs[0].0.device();
    let device = device(candle)?;
    let layouts: Vec<&Layout> = inputs.iter().map(|input| input.1).collect();
    let shape = op.shape(&layouts)?;
    let operands =
        inputs.iter().map(|&(storage, layout)| operand::<T>(name, candle, &device, storage, layout)).collect::<Result<Vec<_>>>()?;
    let len = shape.elem_count();
    // The driver has no memory of no length.
    // SAFETY: the op writes all of it.
    let mut memory = unsafe { candle.alloc::<T>(len.max(1)) }?;
    {
        let stream = candle.cuda_stream();
        let (address, _writing) = memory.device_ptr_mut(&stream);
        // SAFETY: new memory of at least this length, used by this op alone while the buffer is there; work on it is queued on candle's stream.
        let mut out = unsafe { Buffer::<T>::borrowed(&device, address, len) };
        op.run(&device, &operands, &mut out).map_err(|error| Error::wrap(error).context(name))?;
    }
    Ok((CudaStorage::wrap_cuda_slice(memory, candle.clone()), shape))
}

/// The elements of a contiguous tensor.
fn operand<T: Real + CudaDType>(
    name: &'static str,
    candle: &CudaDevice,
    device: &Device,
    storage: &CudaStorage,
    layout: &Layout,
) -> Result<Operand<T>> {
    if storage.device().id() != candle.id() {
        return Err(Error::Msg(format!("{name}: tensors are on different devices, or streams of one")).bt());
    }
    let slice = storage.as_cuda_slice::<T>()?;
    let (start, end) = layout.contiguous_offsets().ok_or_else(|| Error::RequiresContiguous { op: name }.bt())?;
    let stream = candle.cuda_stream();
    // What the guard does for other streams it may do now: all work on this memory, freeing it included, is queued on this one.
    let (address, _) = slice.device_ptr(&stream);
    // SAFETY: the range is within the storage, which is borrowed as long as the op queues its work; what happens to it later is queued on the same stream.
    let data = unsafe { Buffer::borrowed(device, address + (start * size_of::<T>()) as u64, end - start) };
    Ok(Operand { data, dims: layout.dims().to_vec() })
}
