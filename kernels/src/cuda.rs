//! GPUs, by NVIDIA's driver.
//!
//! Each device has one stream, on which everything happens; the primary context of the GPU is made current in each thread that calls.

use std::collections::HashMap;
use std::ffi::{CString, c_int, c_uint, c_void};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use cudarc::driver::DriverError;
use cudarc::driver::result;
use cudarc::driver::sys::{self, CUdevice_attribute as Attribute, CUfunction_attribute, CUmemPool_attribute, CUresult};

use crate::backend::{Backend, Function, Program, Replay};
use crate::probe::{self, ProbeError};
use crate::{Architecture, Args, DeviceError, Launch, Memory, Source, cache, nvrtc};

/// The oldest driver: that of CUDA 12, since NVRTC 12 is the oldest compiler.
const OLDEST_DRIVER: (u32, u32) = (12, 0);

type Result<T> = std::result::Result<T, DeviceError>;

pub(crate) fn device(ordinal: usize) -> Result<Arc<dyn Backend>> {
    open(ordinal, None)
}

/// On a stream of the primary context that something else owns.
///
/// # Safety
/// That of `Device::on_stream`.
#[allow(unsafe_code, reason = "a handle")]
pub(crate) unsafe fn on_stream(ordinal: usize, stream: usize) -> Result<Arc<dyn Backend>> {
    open(ordinal, Some(std::ptr::with_exposed_provenance_mut(stream)))
}

fn open(ordinal: usize, stream: Option<sys::CUstream>) -> Result<Arc<dyn Backend>> {
    let devices = probe::devices()?;
    let info = devices.get(ordinal).ok_or(DeviceError::Ordinal { ordinal, count: devices.len() })?;
    let found = driver_version()?;
    if found < OLDEST_DRIVER {
        return Err(DeviceError::OldDriver { found, needed: OLDEST_DRIVER });
    }
    let architecture = Architecture(info.compute_capability.0, info.compute_capability.1);
    if architecture < Architecture::OLDEST {
        return Err(DeviceError::Architecture { found: info.compute_capability, why: "8.0 (Ampere) is the oldest".to_owned() });
    }
    let gpu = Arc::new(Gpu::new(ordinal, info.name.clone(), architecture, stream)?);
    Ok(Arc::new(Cuda { gpu, modules: Mutex::default() }))
}

/// Version of CUDA that the driver supports.
#[allow(unsafe_code, reason = "a query of the driver")]
fn driver_version() -> Result<(u32, u32)> {
    let mut version: c_int = 0;
    // SAFETY: the integer outlives the call.
    check("cuDriverGetVersion", unsafe { sys::cuDriverGetVersion(&raw mut version) }.result())?;
    let version = version.unsigned_abs();
    Ok((version / 1000, version % 1000 / 10))
}

/// What an error of the driver means.
fn check<T>(call: &'static str, result: std::result::Result<T, DriverError>) -> Result<T> {
    use CUresult as E;
    result.map_err(|error| match error.0 {
        E::CUDA_ERROR_NO_DEVICE => ProbeError::NoDevice.into(),
        E::CUDA_ERROR_OUT_OF_MEMORY => DeviceError::Memory { needed: 0, free: result::mem_get_info().map_or(0, |(free, _)| free) },
        // After these every call to this context fails in the same way.
        E::CUDA_ERROR_ILLEGAL_ADDRESS
        | E::CUDA_ERROR_LAUNCH_FAILED
        | E::CUDA_ERROR_LAUNCH_TIMEOUT
        | E::CUDA_ERROR_ASSERT
        | E::CUDA_ERROR_HARDWARE_STACK_ERROR
        | E::CUDA_ERROR_ILLEGAL_INSTRUCTION
        | E::CUDA_ERROR_MISALIGNED_ADDRESS
        | E::CUDA_ERROR_INVALID_ADDRESS_SPACE
        | E::CUDA_ERROR_INVALID_PC
        | E::CUDA_ERROR_ECC_UNCORRECTABLE
        | E::CUDA_ERROR_NVLINK_UNCORRECTABLE
        | E::CUDA_ERROR_CONTEXT_IS_DESTROYED
        | E::CUDA_ERROR_DEINITIALIZED
        | E::CUDA_ERROR_EXTERNAL_DEVICE => DeviceError::Lost { what: describe(error), call },
        E::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH | E::CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE => {
            DeviceError::OldDriver { found: driver_version().unwrap_or_default(), needed: OLDEST_DRIVER }
        }
        _ => DeviceError::Driver { call, reason: describe(error) },
    })
}

/// `CUDA_ERROR_…: what the driver says`.
fn describe(error: DriverError) -> String {
    let words = error.error_string().map(|words| words.to_string_lossy().into_owned());
    words.map_or_else(|_| format!("{:?}", error.0), |words| format!("{:?}: {words}", error.0))
}

/// The context and the stream of a device.
struct Gpu {
    name: String,
    architecture: Architecture,
    multiprocessors: usize,
    shared_memory: usize,
    device: sys::CUdevice,
    context: sys::CUcontext,
    stream: sys::CUstream,
    /// Whether the stream is ours to destroy.
    owns_stream: bool,
    /// The pool of memory that is allocated and freed in the order of the stream, where the device has one.
    pool: Option<sys::CUmemoryPool>,
    /// While a graph is captured: what is to be freed afterwards.
    capturing: Mutex<Option<Vec<u64>>>,
}

#[allow(unsafe_code, reason = "handles of the driver, which may be used by any thread")]
// SAFETY: contexts, streams and pools of the driver may be used by all threads; `bind` makes the context current.
unsafe impl Send for Gpu {}
#[allow(unsafe_code, reason = "handles of the driver, which may be used by any thread")]
// SAFETY: as above; functions of the driver are thread-safe.
unsafe impl Sync for Gpu {}

#[allow(unsafe_code, reason = "calls of the driver")]
impl Gpu {
    fn new(ordinal: usize, name: String, architecture: Architecture, stream: Option<sys::CUstream>) -> Result<Self> {
        let ordinal = c_int::try_from(ordinal).expect("counted by the driver");
        let device = check("cuDeviceGet", result::device::get(ordinal))?;
        let attribute = |which| {
            // SAFETY: `device` came from cuDeviceGet.
            check("cuDeviceGetAttribute", unsafe { result::device::get_attribute(device, which) }).map(i32::unsigned_abs)
        };
        let multiprocessors = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as usize;
        let shared_memory = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)? as usize;
        let has_pool = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED)? != 0;
        // SAFETY: as above; released in `drop`.
        let context = check("cuDevicePrimaryCtxRetain", unsafe { result::primary_ctx::retain(device) })?;
        let capturing = Mutex::default();
        // From here on `drop` releases what there is.
        let mut gpu = Self {
            name,
            architecture,
            multiprocessors,
            shared_memory,
            device,
            context,
            stream: stream.unwrap_or(std::ptr::null_mut()),
            owns_stream: false,
            pool: None,
            capturing,
        };
        gpu.bind()?;
        if stream.is_none() {
            gpu.stream = check("cuStreamCreate", result::stream::create(result::stream::StreamKind::NonBlocking))?;
            gpu.owns_stream = true;
        }
        if has_pool {
            // SAFETY: as above.
            let pool = check("cuDeviceGetDefaultMemPool", unsafe { result::device::get_default_mem_pool(device) })?;
            // Memory that is freed stays in the pool, ready for the next structure.
            let mut threshold = u64::MAX;
            let attribute = CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
            // SAFETY: the pool is the device's; this attribute is a 64-bit integer.
            let set = unsafe { sys::cuMemPoolSetAttribute(pool, attribute, (&raw mut threshold).cast()) };
            check("cuMemPoolSetAttribute", set.result())?;
            gpu.pool = Some(pool);
        }
        Ok(gpu)
    }

    /// Makes the context that of the calling thread.
    fn bind(&self) -> Result<()> {
        // SAFETY: the context is retained.
        check("cuCtxSetCurrent", unsafe { result::ctx::set_current(self.context) })
    }

    fn capturing(&self) -> MutexGuard<'_, Option<Vec<u64>>> {
        self.capturing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn not_captured(&self, what: &'static str) -> Result<()> {
        if self.capturing().is_some() { Err(DeviceError::Capture { what }) } else { Ok(()) }
    }

    fn synchronize(&self) -> Result<()> {
        // SAFETY: the stream is this device's, and its context current.
        check("cuStreamSynchronize", unsafe { result::stream::synchronize(self.stream) })
    }

    fn memory(&self) -> Result<Memory> {
        let (free, total) = check("cuMemGetInfo", result::mem_get_info())?;
        let pooled = |attribute| {
            let mut bytes = 0u64;
            if let Some(pool) = self.pool {
                // SAFETY: the pool is this device's; both attributes below are 64-bit integers.
                let got = unsafe { sys::cuMemPoolGetAttribute(pool, attribute, (&raw mut bytes).cast()) };
                check("cuMemPoolGetAttribute", got.result())?;
            }
            Ok::<_, DeviceError>(bytes as usize)
        };
        let reserved = pooled(CUmemPool_attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT)?;
        let used = pooled(CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT)?;
        Ok(Memory { free: free + reserved.saturating_sub(used), total })
    }

    fn try_allocate(&self, length: usize) -> std::result::Result<u64, DriverError> {
        match self.pool {
            // SAFETY: the stream is this device's, and its context current. All uses are on this stream.
            Some(_) => unsafe { result::malloc_async(self.stream, length) },
            // SAFETY: the context is current.
            None => unsafe { result::malloc_sync(length) },
        }
    }

    fn allocate(&self, length: usize) -> Result<u64> {
        let again = |error: DriverError| {
            if error.0 != CUresult::CUDA_ERROR_OUT_OF_MEMORY {
                return Err(error);
            }
            // What was freed may still be in use by the stream, or in pieces.
            // SAFETY: handles of this device, whose context is current.
            unsafe {
                result::stream::synchronize(self.stream)?;
                self.pool.map_or(Ok(()), |pool| result::mem_pool::trim_to(pool, 0))?;
            }
            self.try_allocate(length)
        };
        match self.try_allocate(length).or_else(again) {
            Err(error) if error.0 == CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                Err(DeviceError::Memory { needed: length, free: self.memory().map_or(0, |memory| memory.free) })
            }
            other => check("cuMemAllocAsync", other),
        }
    }

    /// # Safety
    /// That of `Backend::free`.
    unsafe fn free(&self, address: u64) {
        // A failure is that of the device, which the next call reports.
        // SAFETY: the caller's; work on the stream that uses the memory comes before.
        let _ = unsafe {
            match self.pool {
                Some(_) => result::free_async(address, self.stream),
                None => result::stream::synchronize(self.stream).and_then(|()| result::free_sync(address)),
            }
        };
    }
}

#[allow(unsafe_code, reason = "calls of the driver")]
impl Drop for Gpu {
    fn drop(&mut self) {
        if self.owns_stream && self.bind().is_ok() {
            // SAFETY: buffers, modules and graphs keep the device, so that none is left; the stream is destroyed once.
            let _ = unsafe { result::stream::synchronize(self.stream).and_then(|()| result::stream::destroy(self.stream)) };
        }
        // SAFETY: retained in `new`, released once.
        let _ = unsafe { result::primary_ctx::release(self.device) };
    }
}

struct Cuda {
    gpu: Arc<Gpu>,
    /// Modules in use, by a hash of their sources: many maps of a model share one.
    modules: Mutex<HashMap<String, Weak<Owned>>>,
}

#[allow(unsafe_code, reason = "calls of the driver; addresses are checked by the callers")]
impl Backend for Cuda {
    fn name(&self) -> &str {
        &self.gpu.name
    }

    fn is_emulated(&self) -> bool {
        false
    }

    fn architecture(&self) -> Architecture {
        self.gpu.architecture
    }

    fn multiprocessors(&self) -> usize {
        self.gpu.multiprocessors
    }

    fn shared_memory(&self) -> usize {
        self.gpu.shared_memory
    }

    fn memory(&self) -> Result<Memory> {
        self.gpu.bind()?;
        self.gpu.memory()
    }

    fn allocate(&self, length: usize) -> Result<u64> {
        self.gpu.not_captured("an allocation")?;
        self.gpu.bind()?;
        self.gpu.allocate(length)
    }

    unsafe fn free(&self, address: u64, _: usize) {
        if let Some(later) = &mut *self.gpu.capturing() {
            later.push(address);
        } else if self.gpu.bind().is_ok() {
            // SAFETY: that of this function.
            unsafe { self.gpu.free(address) };
        }
    }

    unsafe fn fill_zero(&self, address: u64, length: usize) -> Result<()> {
        self.gpu.bind()?;
        // SAFETY: that of this function.
        check("cuMemsetD8Async", unsafe { result::memset_d8_async(address, 0, length, self.gpu.stream) })
    }

    unsafe fn copy(&self, to: u64, from: u64, length: usize) -> Result<()> {
        self.gpu.bind()?;
        // SAFETY: that of this function.
        check("cuMemcpyDtoDAsync", unsafe { result::memcpy_dtod_async(to, from, length, self.gpu.stream) })
    }

    unsafe fn upload(&self, to: u64, from: &[u8]) -> Result<()> {
        self.gpu.not_captured("writing a buffer")?;
        self.gpu.bind()?;
        // SAFETY: that of this function; `from` is borrowed until the stream has read it.
        check("cuMemcpyHtoDAsync", unsafe { result::memcpy_htod_async(to, from, self.gpu.stream) })?;
        self.gpu.synchronize()
    }

    unsafe fn download(&self, to: &mut [u8], from: u64) -> Result<()> {
        self.gpu.not_captured("reading a buffer")?;
        self.gpu.bind()?;
        // SAFETY: that of this function; `to` is borrowed until the stream has written it.
        check("cuMemcpyDtoHAsync", unsafe { result::memcpy_dtoh_async(to, from, self.gpu.stream) })?;
        self.gpu.synchronize()
    }

    fn synchronize(&self) -> Result<()> {
        self.gpu.not_captured("waiting")?;
        self.gpu.bind()?;
        self.gpu.synchronize()
    }

    fn load(&self, source: &Source) -> Result<Arc<dyn Program>> {
        let key = crate::cache::key(&[&[source.name, source.real, &source.header], source.kernels.as_slice()].concat());
        let modules = || self.modules.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(owned) = modules().get(&key).and_then(Weak::upgrade) {
            return Ok(Arc::new(Loaded(owned)));
        }
        let image = compiled(source, self.gpu.architecture)?;
        self.gpu.bind()?;
        // SAFETY: a whole CUBIN, or PTX that ends with a zero.
        let module = unsafe { result::module::load_data(image.as_ptr().cast()) }.map_err(|error| cannot_load(source.name, error))?;
        let owned = Arc::new(Owned { file: source.name, kernels: source.kernels.clone(), module, gpu: Arc::clone(&self.gpu) });
        modules().insert(key, Arc::downgrade(&owned));
        Ok(Arc::new(Loaded(owned)))
    }

    fn begin_capture(&self) -> Result<()> {
        self.gpu.bind()?;
        let mut capturing = self.gpu.capturing();
        if capturing.is_some() {
            return Err(DeviceError::Capture { what: "a capture" });
        }
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream is this device's.
        check("cuStreamBeginCapture", unsafe { result::stream::begin_capture(self.gpu.stream, mode) })?;
        *capturing = Some(Vec::new());
        Ok(())
    }

    fn end_capture(&self) -> Result<Box<dyn Replay>> {
        let freed = self.gpu.capturing().take().unwrap_or_default();
        self.gpu.bind()?;
        // SAFETY: the stream is this device's.
        let graph = check("cuStreamEndCapture", unsafe { result::stream::end_capture(self.gpu.stream) });
        for address in freed {
            // SAFETY: the callers of `free` gave them up.
            unsafe { self.gpu.free(address) };
        }
        let graph = graph?;
        // SAFETY: the graph was made just now.
        let made = unsafe { result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0)) };
        // SAFETY: as above; what was instantiated does not need it.
        let _ = unsafe { result::graph::destroy(graph) };
        Ok(Box::new(Executable { graph: check("cuGraphInstantiate", made)?, gpu: Arc::clone(&self.gpu) }))
    }
}

/// The CUBIN (or PTX) of a source, from the cache or new.
fn compiled(source: &Source, architecture: Architecture) -> Result<Vec<u8>> {
    let (major, minor) = nvrtc::version()?;
    let unit = source.unit();
    let name =
        format!("{}-sm{architecture}-{}.cubin", source.name, cache::key(&[&unit, &architecture.to_string(), &format!("{major}.{minor}")]));
    let folder = cache::folder();
    if let Some(image) = folder.as_ref().and_then(|folder| cache::read(folder, &name)) {
        return Ok(image);
    }
    tracing::debug!("compiling {}.cu", source.name);
    let image = nvrtc::compile(source, architecture)?;
    if let Some(Err(error)) = folder.map(|folder| cache::write(&folder, &name, &image)) {
        tracing::warn!("compiled kernels cannot be kept: {error}");
    }
    Ok(image)
}

/// Code of a compiler that is newer than the driver does not load.
fn cannot_load(file: &'static str, error: DriverError) -> DeviceError {
    use CUresult as E;
    let newer = matches!(
        error.0,
        E::CUDA_ERROR_INVALID_IMAGE | E::CUDA_ERROR_NO_BINARY_FOR_GPU | E::CUDA_ERROR_UNSUPPORTED_PTX_VERSION | E::CUDA_ERROR_INVALID_PTX
    );
    match (driver_version(), nvrtc::version()) {
        (Ok(found), Ok(needed)) if newer && found < needed => DeviceError::OldDriver { found, needed },
        _ if newer => DeviceError::Load { file, reason: describe(error) },
        _ => check::<()>("cuModuleLoadData", Err(error)).expect_err("an error was given"),
    }
}

/// A module of the driver.
struct Owned {
    file: &'static str,
    kernels: Vec<&'static str>,
    module: sys::CUmodule,
    gpu: Arc<Gpu>,
}

#[allow(unsafe_code, reason = "handles of the driver, which may be used by any thread")]
// SAFETY: as for `Gpu`.
unsafe impl Send for Owned {}
#[allow(unsafe_code, reason = "handles of the driver, which may be used by any thread")]
// SAFETY: as for `Gpu`.
unsafe impl Sync for Owned {}

#[allow(unsafe_code, reason = "calls of the driver")]
impl Drop for Owned {
    fn drop(&mut self) {
        if self.gpu.bind().is_ok() {
            // What is queued may be of this module.
            let _ = self.gpu.synchronize();
            // SAFETY: kernels keep the module, so that none is left.
            let _ = unsafe { result::module::unload(self.module) };
        }
    }
}

struct Loaded(Arc<Owned>);

#[allow(unsafe_code, reason = "calls of the driver")]
impl Program for Loaded {
    fn function(&self, name: &'static str) -> Result<Arc<dyn Function>> {
        let missing = DeviceError::NoKernel { file: self.0.file, kernel: name };
        if !self.0.kernels.contains(&name) {
            return Err(missing);
        }
        self.0.gpu.bind()?;
        let symbol = CString::new(name).map_err(|_| missing.clone())?;
        // SAFETY: the module is loaded.
        let function = unsafe { result::module::get_function(self.0.module, symbol) }.map_err(|error| match error.0 {
            CUresult::CUDA_ERROR_NOT_FOUND => missing,
            _ => check::<()>("cuModuleGetFunction", Err(error)).expect_err("an error was given"),
        })?;
        let attribute = |which: CUfunction_attribute| {
            // SAFETY: the function is of this module.
            check("cuFuncGetAttribute", unsafe { result::function::get_function_attribute(function, which) })
        };
        let fixed = attribute(CUfunction_attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES)?.unsigned_abs() as usize;
        let threads = attribute(CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK)?.unsigned_abs();
        let shared = self.0.gpu.shared_memory.saturating_sub(fixed);
        // More than 48 KiB have to be asked for.
        let which = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: as above.
        check("cuFuncSetAttribute", unsafe { result::function::set_function_attribute(function, which, shared as c_int) })?;
        Ok(Arc::new(Launchable { name, function, shared, threads, module: Arc::clone(&self.0) }))
    }
}

struct Launchable {
    name: &'static str,
    function: sys::CUfunction,
    /// Dynamic shared memory that it may have, bytes.
    shared: usize,
    /// Threads that a block of it may have.
    threads: u32,
    module: Arc<Owned>,
}

#[allow(unsafe_code, reason = "handles of the driver, which may be used by any thread")]
// SAFETY: as for `Gpu`.
unsafe impl Send for Launchable {}
#[allow(unsafe_code, reason = "handles of the driver, which may be used by any thread")]
// SAFETY: as for `Gpu`.
unsafe impl Sync for Launchable {}

#[allow(unsafe_code, reason = "launches a kernel")]
impl Function for Launchable {
    unsafe fn launch(&self, launch: &Launch, args: &Args) -> Result<()> {
        let threads = launch.block.iter().product::<u32>();
        if threads > self.threads || launch.shared as usize > self.shared {
            let what = format!(
                "{threads} threads and {} bytes of shared memory a block, of {} and {} that it may have",
                launch.shared, self.threads, self.shared
            );
            return Err(DeviceError::Launch { kernel: self.name, what });
        }
        let gpu = &self.module.gpu;
        gpu.bind()?;
        // The driver reads as many bytes of each word as the parameter has.
        let mut words = args.words.clone();
        let mut pointers: Vec<*mut c_void> = words.iter_mut().map(|word| std::ptr::from_mut(word).cast()).collect();
        let sizes = |[x, y, z]: [c_uint; 3]| (x, y, z);
        // SAFETY: that of `Kernel::launch`: the arguments are those of the parameters. The driver copies them during the call.
        let launched = unsafe {
            result::launch_kernel(self.function, sizes(launch.grid), sizes(launch.block), launch.shared, gpu.stream, &mut pointers)
        };
        check("cuLaunchKernel", launched)
    }
}

/// An instantiated graph.
struct Executable {
    graph: sys::CUgraphExec,
    gpu: Arc<Gpu>,
}

#[allow(unsafe_code, reason = "handles of the driver, which may be used by any thread")]
// SAFETY: as for `Gpu`; launches of one graph by several threads are ordered by the stream.
unsafe impl Send for Executable {}
#[allow(unsafe_code, reason = "handles of the driver, which may be used by any thread")]
// SAFETY: as above. The driver does not allow two threads to launch the same graph at the same time; see `launch`.
unsafe impl Sync for Executable {}

#[allow(unsafe_code, reason = "launches a graph")]
impl Replay for Executable {
    unsafe fn launch(&self) -> Result<()> {
        self.gpu.bind()?;
        // Held during the call: graphs are not thread-safe.
        let capturing = self.gpu.capturing();
        if capturing.is_some() {
            return Err(DeviceError::Capture { what: "a graph" });
        }
        // SAFETY: that of `Graph::launch`.
        check("cuGraphLaunch", unsafe { result::graph::launch(self.graph, self.gpu.stream) })
    }
}

#[allow(unsafe_code, reason = "calls of the driver")]
impl Drop for Executable {
    fn drop(&mut self) {
        if self.gpu.bind().is_ok() {
            // SAFETY: it is destroyed once; the driver waits for a launch that is under way.
            let _ = unsafe { result::graph::exec_destroy(self.graph) };
        }
    }
}
