//! A device on this CPU: the CUDA sources, compiled as C++ behind `emulator/emulator.h`.
//!
//! `TESSERAL_EMULATOR_SANITIZE=1` compiles them with checks of addresses and of undefined behaviour (`scripts/sanitize_kernels.sh`);
//! `TESSERAL_EMULATOR_REVERSE=1` runs blocks, warps and lanes in the opposite order, under which results must be the same bits.

mod compile;

use std::alloc::Layout;
use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_void};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use libloading::Library;

use crate::backend::{Backend, Function, Program, Replay};
use crate::{Architecture, Args, DeviceError, Launch, Memory, Source};

/// Alignment of buffers: that of the largest vector a kernel reads at once, and more.
const ALIGNMENT: usize = 64;

pub(crate) fn device() -> Result<Arc<dyn Backend>, DeviceError> {
    in_order(compile::is_set("TESSERAL_EMULATOR_REVERSE"))
}

/// A device that runs threads forwards or in reverse.
pub(crate) fn in_order(reverse: bool) -> Result<Arc<dyn Backend>, DeviceError> {
    let compiler = compile::Compiler::find()?;
    Ok(Arc::new(Emulated { compiler, reverse, recording: Arc::default() }))
}

/// What is recorded, while something is.
type Recording = Arc<Mutex<Option<Vec<Step>>>>;

struct Emulated {
    compiler: compile::Compiler,
    reverse: bool,
    recording: Recording,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Recorded work.
enum Step {
    Launch { function: Emulation, launch: Launch, args: Args },
    Zero { address: u64, length: usize },
    Copy { to: u64, from: u64, length: usize },
}

impl Step {
    /// # Safety
    /// Addresses and arguments are valid now.
    #[allow(unsafe_code, reason = "does what was recorded")]
    unsafe fn run(&self) -> Result<(), DeviceError> {
        match self {
            // SAFETY: that of this function.
            Step::Launch { function, launch, args } => return unsafe { function.run(launch, args) },
            // SAFETY: that of this function; addresses are of memory of this process.
            &Step::Zero { address, length } => unsafe { std::ptr::write_bytes(address as *mut u8, 0, length) },
            // SAFETY: that of this function; `Backend::copy` asks for ranges that do not overlap.
            &Step::Copy { to, from, length } => unsafe { std::ptr::copy_nonoverlapping(from as *const u8, to as *mut u8, length) },
        }
        Ok(())
    }
}

/// Does a step, or records it.
/// # Safety
/// That of [`Step::run`].
#[allow(unsafe_code, reason = "does what is asked for")]
unsafe fn queue(recording: &Recording, step: Step) -> Result<(), DeviceError> {
    let mut recorded = lock(recording);
    if let Some(steps) = &mut *recorded {
        steps.push(step);
        return Ok(());
    }
    drop(recorded);
    // SAFETY: that of this function.
    unsafe { step.run() }
}

impl Emulated {
    /// What a stream of CUDA does not capture is refused here, too.
    fn not_captured(&self, what: &'static str) -> Result<(), DeviceError> {
        if lock(&self.recording).is_some() { Err(DeviceError::Capture { what }) } else { Ok(()) }
    }
}

fn layout(length: usize) -> Layout {
    Layout::from_size_align(length, ALIGNMENT).expect("lengths of buffers fit")
}

#[allow(unsafe_code, reason = "memory of buffers")]
impl Backend for Emulated {
    fn name(&self) -> &str {
        "emulated"
    }

    fn is_emulated(&self) -> bool {
        true
    }

    fn architecture(&self) -> Architecture {
        Architecture::OLDEST
    }

    fn multiprocessors(&self) -> usize {
        1
    }

    /// That of `sm_80`.
    fn shared_memory(&self) -> usize {
        163 * 1024
    }

    fn memory(&self) -> Result<Memory, DeviceError> {
        // As large as a GPU of today: tests that fill it are for GPUs.
        Ok(Memory { free: 64 << 30, total: 64 << 30 })
    }

    fn allocate(&self, length: usize) -> Result<u64, DeviceError> {
        self.not_captured("an allocation")?;
        // SAFETY: the length is not zero.
        let pointer = unsafe { std::alloc::alloc(layout(length)) };
        if pointer.is_null() { Err(DeviceError::Memory { needed: length, free: 0 }) } else { Ok(pointer as u64) }
    }

    unsafe fn free(&self, address: u64, length: usize) {
        // SAFETY: it came from `allocate` with this length, says the caller.
        unsafe { std::alloc::dealloc(address as *mut u8, layout(length)) };
    }

    unsafe fn fill_zero(&self, address: u64, length: usize) -> Result<(), DeviceError> {
        // SAFETY: the caller's, for now; `Graph::launch` asks for the same later.
        unsafe { queue(&self.recording, Step::Zero { address, length }) }
    }

    unsafe fn copy(&self, to: u64, from: u64, length: usize) -> Result<(), DeviceError> {
        // SAFETY: as above.
        unsafe { queue(&self.recording, Step::Copy { to, from, length }) }
    }

    unsafe fn upload(&self, to: u64, from: &[u8]) -> Result<(), DeviceError> {
        self.not_captured("writing a buffer")?;
        // SAFETY: the range is of an allocation, which memory of the host does not overlap.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to as *mut u8, from.len()) };
        Ok(())
    }

    unsafe fn download(&self, to: &mut [u8], from: u64) -> Result<(), DeviceError> {
        self.not_captured("reading a buffer")?;
        // SAFETY: as above.
        unsafe { std::ptr::copy_nonoverlapping(from as *const u8, to.as_mut_ptr(), to.len()) };
        Ok(())
    }

    fn synchronize(&self) -> Result<(), DeviceError> {
        self.not_captured("waiting")
    }

    fn load(&self, source: &Source) -> Result<Arc<dyn Program>, DeviceError> {
        /// Libraries by their keys. They stay open: each is opened once, because its state belongs to who holds its lock.
        static OPEN: Mutex<Option<HashMap<String, Arc<Mutex<Option<Arc<Opened>>>>>>> = Mutex::new(None);
        let unit = compile::unit(source);
        let key = self.compiler.key(&unit);
        let slot = Arc::clone(lock(&OPEN).get_or_insert_default().entry(key.clone()).or_default());
        let mut slot = lock(&slot);
        if slot.is_none() {
            let library = self.compiler.open(source.name, &unit, &key)?;
            *slot = Some(Arc::new(Opened { library, running: Mutex::new(()) }));
        }
        let opened = Arc::clone(slot.as_ref().expect("set above"));
        Ok(Arc::new(Loaded { file: source.name, opened, reverse: self.reverse, recording: Arc::clone(&self.recording) }))
    }

    fn begin_capture(&self) -> Result<(), DeviceError> {
        self.not_captured("a capture")?;
        *lock(&self.recording) = Some(Vec::new());
        Ok(())
    }

    fn end_capture(&self) -> Result<Box<dyn Replay>, DeviceError> {
        let steps = lock(&self.recording).take().unwrap_or_default();
        Ok(Box::new(Recorded { steps, recording: Arc::clone(&self.recording) }))
    }
}

struct Recorded {
    steps: Vec<Step>,
    recording: Recording,
}

#[allow(unsafe_code, reason = "does what was recorded")]
impl Replay for Recorded {
    unsafe fn launch(&self) -> Result<(), DeviceError> {
        if lock(&self.recording).is_some() {
            return Err(DeviceError::Capture { what: "a graph" });
        }
        // SAFETY: that of `Graph::launch`.
        self.steps.iter().try_for_each(|step| unsafe { step.run() })
    }
}

/// A library, which runs one launch at a time.
struct Opened {
    library: Library,
    running: Mutex<()>,
}

struct Loaded {
    file: &'static str,
    opened: Arc<Opened>,
    reverse: bool,
    recording: Recording,
}

/// `tesseral_emulated_NAME` of `TESSERAL_EMULATED`.
type Entry = unsafe extern "C" fn(*const u32, *const u32, u32, u32, *mut *mut c_void) -> *const c_char;
/// `tesseral_signature_NAME`.
type Signature = unsafe extern "C" fn() -> *const c_char;

impl Program for Loaded {
    #[allow(unsafe_code, reason = "symbols of a library")]
    fn function(&self, name: &'static str) -> Result<Arc<dyn Function>, DeviceError> {
        let missing = |_| DeviceError::NoKernel { file: self.file, kernel: name };
        // SAFETY: the library was made here, and these symbols have these types.
        let entry = *unsafe { self.opened.library.get::<Entry>(format!("tesseral_emulated_{name}")) }.map_err(missing)?;
        // SAFETY: as above.
        let signature = unsafe { self.opened.library.get::<Signature>(format!("tesseral_signature_{name}")) }.map_err(missing)?;
        // SAFETY: it takes nothing and returns a constant string.
        let signature = unsafe { CStr::from_ptr(signature()) };
        let function = Emulation {
            name,
            entry,
            parameters: parameters(signature.to_bytes()),
            opened: Arc::clone(&self.opened),
            reverse: self.reverse,
        };
        Ok(Arc::new(Launchable { function, recording: Arc::clone(&self.recording) }))
    }
}

/// `(cmv)ffu` → `cf mf vu`.
fn parameters(signature: &[u8]) -> Vec<[u8; 2]> {
    let count = (signature.len().saturating_sub(2)) / 2;
    (0..count).map(|i| [signature[1 + i], signature[2 + count + i]]).collect()
}

struct Launchable {
    function: Emulation,
    recording: Recording,
}

#[allow(unsafe_code, reason = "runs a kernel")]
impl Function for Launchable {
    unsafe fn launch(&self, launch: &Launch, args: &Args) -> Result<(), DeviceError> {
        self.function.check(args)?;
        let step = Step::Launch { function: self.function.clone(), launch: *launch, args: args.clone() };
        // SAFETY: that of `Kernel::launch`.
        unsafe { queue(&self.recording, step) }
    }
}

/// A kernel of a library.
#[derive(Clone)]
struct Emulation {
    name: &'static str,
    entry: Entry,
    parameters: Vec<[u8; 2]>,
    opened: Arc<Opened>,
    reverse: bool,
}

impl Emulation {
    fn check(&self, args: &Args) -> Result<(), DeviceError> {
        let fits = |parameter: &[u8; 2], arg: &[u8; 2]| {
            let [kind, of] = *parameter;
            let pointer = kind != b'v';
            // A buffer that may be written may be read; types that Rust does not know cannot be compared.
            let same_kind = arg[0] == kind || (kind == b'c' && arg[0] == b'm') || (pointer && arg[0] == b'n');
            same_kind && (arg[1] == of || (pointer && (of == b'?' || arg[0] == b'n')))
        };
        if self.parameters.len() == args.kinds.len() && self.parameters.iter().zip(&args.kinds).all(|(p, a)| fits(p, a)) {
            return Ok(());
        }
        Err(DeviceError::Arguments { kernel: self.name, expected: describe(&self.parameters), given: describe(&args.kinds) })
    }

    /// # Safety
    /// That of `Kernel::launch`; the arguments were checked.
    #[allow(unsafe_code, reason = "runs a kernel")]
    unsafe fn run(&self, launch: &Launch, args: &Args) -> Result<(), DeviceError> {
        let mut words = args.words.clone();
        let mut pointers: Vec<*mut c_void> = words.iter_mut().map(|word| std::ptr::from_mut(word).cast()).collect();
        let running = lock(&self.opened.running);
        // SAFETY: the entry reads three numbers at `grid` and `block` and one argument behind each pointer, of the types that were checked. One thread
        // runs it at a time. What the kernel itself does is the caller's duty.
        let error = unsafe {
            (self.entry)(launch.grid.as_ptr(), launch.block.as_ptr(), launch.shared, u32::from(self.reverse), pointers.as_mut_ptr())
        };
        if error.is_null() {
            return Ok(());
        }
        // SAFETY: a string that is valid until the next launch, which waits for the lock.
        let what = unsafe { CStr::from_ptr(error) }.to_string_lossy().into_owned();
        drop(running);
        Err(DeviceError::Fault { kernel: self.name, what })
    }
}

fn describe(kinds: &[[u8; 2]]) -> String {
    let one = |&[kind, of]: &[u8; 2]| {
        let of = match of {
            b'f' => "float",
            b'd' => "double",
            b'u' => "unsigned",
            b'i' => "int",
            b's' => "short",
            b'b' => "unsigned char",
            _ => "(another type)",
        };
        match kind {
            b'c' => format!("const {of} *"),
            b'm' => format!("{of} *"),
            b'n' => "nullptr".to_owned(),
            _ => of.to_owned(),
        }
    };
    format!("({})", kinds.iter().map(one).collect::<Vec<_>>().join(", "))
}
