//! NVIDIA's compiler library, opened at run time. It needs neither a GPU nor a driver.
//!
//! It is looked for at `TESSERAL_NVRTC` (the file); in `lib64`, `lib` and `bin` of `CUDA_HOME` and `CUDA_PATH`, of which the latter may be the folder
//! `nvidia/cu13` or `nvidia/cuda_nvrtc` of a Python environment; where the loader looks; and in `/usr/local/cuda*`.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use libloading::Library;

use crate::{Architecture, DeviceError, Source};

/// File names, the newest first.
const NAMES: &[&str] =
    if cfg!(windows) { &["nvrtc64_130_0.dll", "nvrtc64_120_0.dll"] } else { &["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"] };

/// Compiles a source to a CUBIN of an architecture, or, where this NVRTC does not know the architecture yet, to PTX of the newest that it
/// knows, which the driver translates. Takes a second or so for each module; may be called by several threads.
///
/// # Errors
/// [`DeviceError::NoNvrtc`], [`DeviceError::OldNvrtc`], [`DeviceError::Architecture`], [`DeviceError::Compile`].
pub fn compile(source: &Source, architecture: Architecture) -> Result<Vec<u8>, DeviceError> {
    Ok(nvrtc()?.compile(source.name, &source.unit(), architecture, &[])?.0)
}

/// What a kernel needs of a GPU, as the compiler reports it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Usage {
    /// The kernel.
    pub kernel: String,
    /// 32-bit registers a thread, at most 255.
    pub registers: u32,
    /// Static shared memory of a block, bytes.
    pub shared: u32,
    /// Local memory of a thread, bytes: arrays with indices that are not constants, and what is spilled.
    pub stack: u32,
    /// Bytes of spilled registers, stored and loaded, counted in the code and not in its execution.
    pub spills: u32,
}

/// Compiles a source for an architecture, and reports on each kernel of the file.
///
/// # Errors
/// As [`compile`].
pub fn usage(source: &Source, architecture: Architecture) -> Result<Vec<Usage>, DeviceError> {
    let (_, log) = nvrtc()?.compile(source.name, &source.unit(), architecture, &["--ptxas-options=-v"])?;
    Ok(usages(&log))
}

/// Reads what `ptxas -v` prints.
fn usages(log: &str) -> Vec<Usage> {
    let mut usages: Vec<Usage> = Vec::new();
    for line in log.lines() {
        // `Compiling entry function 'NAME' for 'sm_80'`
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            let kernel = rest.split('\'').next().unwrap_or_default().to_owned();
            usages.push(Usage { kernel, ..Usage::default() });
        }
        let Some(usage) = usages.last_mut() else { continue };
        // `16 bytes stack frame, 8 bytes spill stores, 8 bytes spill loads`, `Used 28 registers, used 1 barriers, 8448 bytes smem`
        for part in line.split([',', ':']) {
            let words: Vec<&str> = part.split_whitespace().filter(|&word| word != "." && word != "ptxas").collect();
            match words[..] {
                ["Used", n, "registers"] => usage.registers = n.parse().unwrap_or(u32::MAX),
                [n, "bytes", "smem"] => usage.shared = n.parse().unwrap_or(u32::MAX),
                [n, "bytes", "stack", "frame"] => usage.stack = n.parse().unwrap_or(u32::MAX),
                [n, "bytes", "spill", _] => usage.spills = usage.spills.saturating_add(n.parse().unwrap_or(u32::MAX)),
                _ => {}
            }
        }
    }
    usages
}

/// Version of the library that [`compile`] uses, major and minor.
///
/// # Errors
/// [`DeviceError::NoNvrtc`], [`DeviceError::OldNvrtc`].
pub fn version() -> Result<(u32, u32), DeviceError> {
    Ok(nvrtc()?.version)
}

/// The library, opened once.
pub(crate) fn nvrtc() -> Result<&'static Nvrtc, DeviceError> {
    static OPENED: OnceLock<Result<Nvrtc, DeviceError>> = OnceLock::new();
    OPENED.get_or_init(|| Nvrtc::open(&candidates(|name| std::env::var_os(name).map(PathBuf::from)))).as_ref().map_err(Clone::clone)
}

/// Files to try, in order; names without a folder are left to the loader.
fn candidates(variable: impl Fn(&str) -> Option<PathBuf>) -> Vec<PathBuf> {
    let variable = |name| variable(name).filter(|path| !path.as_os_str().is_empty());
    if let Some(file) = variable("TESSERAL_NVRTC") {
        return vec![file];
    }
    let within = |root: &Path| {
        let parts = ["lib64", "lib", "bin"].map(|part| root.join(part));
        let files = parts.into_iter().flat_map(|folder| NAMES.iter().map(move |name| folder.join(name)));
        files.filter(|file| file.exists()).collect::<Vec<_>>()
    };
    let mut usual: Vec<PathBuf> = std::fs::read_dir("/usr/local")
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("cuda")))
        .collect();
    usual.sort_by(|a, b| b.cmp(a));
    let given = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(variable).flat_map(|root| within(&root));
    given.chain(NAMES.iter().map(PathBuf::from)).chain(usual.iter().flat_map(|root| within(root))).collect()
}

type Program = *mut c_void;

/// The functions of the library; each returns 0 or a code of `get_error_string`.
pub(crate) struct Nvrtc {
    pub(crate) version: (u32, u32),
    get_error_string: unsafe extern "C" fn(c_int) -> *const c_char,
    /// Compute capabilities, 10 × major + minor, ascending.
    known: Vec<u32>,
    create: unsafe extern "C" fn(*mut Program, *const c_char, *const c_char, c_int, *const *const c_char, *const *const c_char) -> c_int,
    destroy: unsafe extern "C" fn(*mut Program) -> c_int,
    compile: unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int,
    log: Output,
    cubin: Output,
    ptx: Output,
    /// Keeps the functions valid.
    _library: Library,
    /// What the library opens by its name alone, and finds opened.
    _builtins: Option<Library>,
}

/// A pair of functions that give the length of an output, and the output.
struct Output {
    name: &'static str,
    size: unsafe extern "C" fn(Program, *mut usize) -> c_int,
    get: unsafe extern "C" fn(Program, *mut c_char) -> c_int,
}

#[allow(unsafe_code, reason = "functions of a C library, as documented in NVIDIA's nvrtc.h")]
impl Nvrtc {
    fn open(files: &[PathBuf]) -> Result<Self, DeviceError> {
        let mut old = None;
        for file in files {
            // SAFETY: this runs the initialisers of a library of that name, which NVIDIA's does not misuse.
            let Ok(library) = (unsafe { Library::new(file) }) else { continue };
            match Self::from(library, file) {
                Ok(nvrtc) => return Ok(nvrtc),
                Err(error @ DeviceError::OldNvrtc { .. }) => old = Some(error),
                Err(error) => tracing::warn!("{}: {error}", file.display()),
            }
        }
        let tried = || files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", ");
        Err(old.unwrap_or_else(|| DeviceError::NoNvrtc { tried: tried() }))
    }

    fn from(library: Library, file: &Path) -> Result<Self, DeviceError> {
        /// # Safety
        /// `F` is the type of the function.
        unsafe fn function<F: Copy>(library: &Library, name: &'static str) -> Result<F, DeviceError> {
            // SAFETY: that of this function.
            let symbol = unsafe { library.get::<F>(name) };
            symbol.map(|symbol| *symbol).map_err(|error| DeviceError::Driver { call: name, reason: error.to_string() })
        }
        let output = |size, get| -> Result<Output, DeviceError> {
            // SAFETY: the three pairs of such functions have these types.
            Ok(Output { name: get, size: unsafe { function(&library, size) }?, get: unsafe { function(&library, get) }? })
        };
        let (mut major, mut minor) = (0, 0);
        // SAFETY: the types of nvrtc.h, for this and all that follow; the integers outlive the calls.
        unsafe {
            function::<unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int>(&library, "nvrtcVersion")?(&raw mut major, &raw mut minor);
        }
        let version = (major.unsigned_abs(), minor.unsigned_abs());
        if version < (12, 0) {
            return Err(DeviceError::OldNvrtc { found: version, path: file.display().to_string() });
        }
        let builtins = file.parent().filter(|folder| !folder.as_os_str().is_empty()).and_then(|folder| {
            let name = if cfg!(windows) {
                format!("nvrtc-builtins64_{major}{minor}.dll")
            } else {
                format!("libnvrtc-builtins.so.{major}.{minor}")
            };
            // SAFETY: as for the library itself, which opens it otherwise.
            unsafe { Library::new(folder.join(name)) }.ok()
        });
        let mut count = 0;
        // SAFETY: as above.
        unsafe { function::<unsafe extern "C" fn(*mut c_int) -> c_int>(&library, "nvrtcGetNumSupportedArchs")?(&raw mut count) };
        let mut known = vec![0; usize::try_from(count).unwrap_or(0)];
        // SAFETY: as above; it fills as many as the last call said.
        unsafe { function::<unsafe extern "C" fn(*mut c_int) -> c_int>(&library, "nvrtcGetSupportedArchs")?(known.as_mut_ptr()) };
        let mut known: Vec<u32> = known.into_iter().map(c_int::unsigned_abs).collect();
        known.sort_unstable();
        Ok(Self {
            version,
            known,
            // SAFETY: as above.
            get_error_string: unsafe { function(&library, "nvrtcGetErrorString") }?,
            // SAFETY: as above.
            create: unsafe { function(&library, "nvrtcCreateProgram") }?,
            // SAFETY: as above.
            destroy: unsafe { function(&library, "nvrtcDestroyProgram") }?,
            // SAFETY: as above.
            compile: unsafe { function(&library, "nvrtcCompileProgram") }?,
            log: output("nvrtcGetProgramLogSize", "nvrtcGetProgramLog")?,
            cubin: output("nvrtcGetCUBINSize", "nvrtcGetCUBIN")?,
            ptx: output("nvrtcGetPTXSize", "nvrtcGetPTX")?,
            _library: library,
            _builtins: builtins,
        })
    }

    /// What `--gpu-architecture` is for a GPU, and whether the output is a CUBIN.
    fn target(&self, architecture: Architecture) -> Result<(String, bool), DeviceError> {
        let wanted = 10 * architecture.0 + architecture.1;
        match self.known.iter().rev().find(|&&known| known <= wanted) {
            Some(&known) if known == wanted => Ok((format!("sm_{known}"), true)),
            Some(&known) if architecture >= Architecture::OLDEST => Ok((format!("compute_{known}"), false)),
            _ => Err(DeviceError::Architecture {
                found: (architecture.0, architecture.1),
                why: format!("NVRTC {}.{} does not compile for it", self.version.0, self.version.1),
            }),
        }
    }

    /// The CUBIN, or the PTX with its final zero; and the log.
    fn compile(&self, file: &'static str, unit: &str, architecture: Architecture, more: &[&str]) -> Result<(Vec<u8>, String), DeviceError> {
        /// Destroys a program.
        struct Owned<'a>(&'a Nvrtc, Program);
        impl Drop for Owned<'_> {
            fn drop(&mut self) {
                // SAFETY: made by `create`, destroyed once.
                unsafe { (self.0.destroy)(&raw mut self.1) };
            }
        }
        let (target, cubin) = self.target(architecture)?;
        let compiler = format!("NVRTC {}.{} for {target}", self.version.0, self.version.1);
        let failed = |log: String| DeviceError::Compile { file, compiler: compiler.clone(), log };
        let text = CString::new(unit).map_err(|_| failed("a zero byte in the source".to_owned()))?;
        let name = CString::new(format!("{file}.cu")).map_err(|_| failed("a zero byte in the name".to_owned()))?;
        let target = format!("--gpu-architecture={target}");
        let options = [&target, "--std=c++17", "-default-device"].into_iter().chain(more.iter().copied());
        let options: Vec<CString> = options.map(|option| CString::new(option).expect("no zero bytes")).collect();
        let options: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();

        let mut program = std::ptr::null_mut();
        // SAFETY: strings end with zeros and outlive the call, which copies them; there are no headers.
        let code = unsafe { (self.create)(&raw mut program, text.as_ptr(), name.as_ptr(), 0, std::ptr::null(), std::ptr::null()) };
        self.check("nvrtcCreateProgram", code)?;
        let program = Owned(self, program);
        // SAFETY: the program was created, and options are as many strings.
        let code = unsafe { (self.compile)(program.1, options.len() as c_int, options.as_ptr()) };
        let log = self.output(&self.log, program.1).unwrap_or_default();
        let log = String::from_utf8_lossy(&log).trim_end_matches('\0').to_owned();
        if code != 0 {
            return Err(failed(if log.trim().is_empty() { self.error(code) } else { log }));
        }
        Ok((self.output(if cubin { &self.cubin } else { &self.ptx }, program.1)?, log))
    }

    fn output(&self, output: &Output, program: Program) -> Result<Vec<u8>, DeviceError> {
        let mut size = 0;
        // SAFETY: the program was created.
        self.check(output.name, unsafe { (output.size)(program, &raw mut size) })?;
        let mut bytes = vec![0u8; size];
        // SAFETY: it writes as many bytes as it said.
        self.check(output.name, unsafe { (output.get)(program, bytes.as_mut_ptr().cast()) })?;
        Ok(bytes)
    }

    fn error(&self, code: c_int) -> String {
        // SAFETY: it returns a constant string for any code.
        unsafe { CStr::from_ptr((self.get_error_string)(code)) }.to_string_lossy().into_owned()
    }

    fn check(&self, call: &'static str, code: c_int) -> Result<(), DeviceError> {
        if code == 0 { Ok(()) } else { Err(DeviceError::Driver { call, reason: self.error(code) }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_is_looked_for_where_variables_say() {
        let folder = tempfile::tempdir().unwrap();
        fs_err::create_dir(folder.path().join("lib")).unwrap();
        let file = folder.path().join("lib").join(NAMES[1]);
        fs_err::write(&file, "").unwrap();
        let given = |variable: &'static str, value: &Path| {
            let value = value.to_owned();
            candidates(move |name| (name == variable).then(|| value.clone()))
        };
        assert_eq!(given("TESSERAL_NVRTC", Path::new("/some/file")), [PathBuf::from("/some/file")]);
        assert_eq!(given("CUDA_HOME", folder.path())[..2], [file.clone(), PathBuf::from(NAMES[0])]);
        assert_eq!(given("CUDA_PATH", folder.path())[0], file);
        // An empty file is no library.
        match Nvrtc::open(std::slice::from_ref(&file)).err() {
            Some(error @ DeviceError::NoNvrtc { .. }) => {
                assert!(error.to_string().contains(file.to_str().unwrap()));
                assert!(error.hint().is_some_and(|hint| hint.contains("libnvrtc12") && hint.contains("nvidia-cuda-nvrtc")));
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    #[allow(clippy::print_stderr, reason = "a test that skips says so")]
    fn kernels_compile_without_a_driver() {
        let source = |real: &str, header: &str| Source { real: if real == "f64" { "f64" } else { "f32" }, ..trial(header) };
        let required = std::env::var_os("TESSERAL_REQUIRE_NVRTC").is_some_and(|value| value == "1");
        match version() {
            Err(DeviceError::NoNvrtc { tried }) if !required => return eprintln!("skipped because there is no NVRTC ({tried})"),
            version => assert!(version.unwrap() >= (12, 0)),
        }
        for real in ["f32", "f64"] {
            for architecture in [Architecture(8, 0), Architecture(9, 0)] {
                let cubin = compile(&source(real, ""), architecture).unwrap();
                assert!(cubin.starts_with(b"\x7fELF") && cubin.windows(10).any(|part| part == b"trial_sums"));
            }
        }
        let usages = usage(&source("f64", ""), Architecture(8, 0)).unwrap();
        let transpose = usages.iter().find(|usage| usage.kernel == "trial_transpose").unwrap();
        assert!(transpose.shared == 32 * 33 * 8 && (8..64).contains(&transpose.registers) && transpose.spills == 0, "{transpose:?}");
        // A GPU of the future gets PTX, which ends with a zero; one of the past nothing.
        let ptx = compile(&source("f32", ""), Architecture(99, 0)).unwrap();
        assert!(ptx.ends_with(b"\0") && String::from_utf8_lossy(&ptx).contains(".entry trial_axpy"));
        assert!(matches!(compile(&source("f32", ""), Architecture(3, 0)), Err(DeviceError::Architecture { found: (3, 0), .. })));
        match compile(&source("f32", "\nnonsense"), Architecture(8, 0)) {
            Err(DeviceError::Compile { file: "trial", compiler, log }) => {
                assert!(compiler.contains("sm_80") && log.contains("trial.header(2)"), "{log}");
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn reports_of_the_assembler_are_read() {
        let log = "ptxas info    : 0 bytes gmem\n\
                   ptxas info    : Compiling entry function 'one' for 'sm_80'\n\
                   ptxas info    : Function properties for one\n\
                   ptxas         .     48 bytes stack frame, 16 bytes spill stores, 24 bytes spill loads\n\
                   ptxas info    : Used 255 registers, used 1 barriers, 48 bytes cumulative stack size, 8448 bytes smem, 376 bytes cmem[0]\n\
                   ptxas info    : Compiling entry function 'two' for 'sm_80'\n\
                   ptxas info    : Used 10 registers, used 0 barriers, 380 bytes cmem[0]\n";
        let one = Usage { kernel: "one".to_owned(), registers: 255, shared: 8448, stack: 48, spills: 40 };
        assert_eq!(usages(log), [one, Usage { kernel: "two".to_owned(), registers: 10, ..Usage::default() }]);
    }

    fn trial(header: &str) -> Source {
        Source::new::<f32>("trial", &["trial_axpy"], header.to_owned())
    }
}
