//! The C++ compiler of the emulated device.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use fs_err as fs;
use libloading::Library;

use crate::{DeviceError, Source, cache};

const EMULATOR: &str = include_str!("../../emulator/emulator.h");
const FLAGS: &[&str] =
    &["-x", "c++", "-std=c++17", "-O2", "-ffp-contract=off", "-fPIC", "-shared", "-fvisibility=hidden", "-fno-exceptions", "-Wall"];
const CHECKS: &[&str] = &["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g"];

/// Whether a variable is there, and neither empty nor `0`.
pub(super) fn is_set(variable: &str) -> bool {
    std::env::var_os(variable).is_some_and(|value| !value.is_empty() && value != "0")
}

/// The C++ that is compiled for a source.
pub(super) fn unit(source: &Source) -> String {
    let mut unit = format!("#line 1 \"emulator.h\"\n{EMULATOR}{}", source.unit());
    for kernel in &source.kernels {
        unit += &format!("TESSERAL_EMULATED({kernel})\n");
    }
    unit
}

/// A compiler with its flags.
#[derive(Debug, Clone)]
pub(super) struct Compiler {
    command: String,
    /// What it says of itself.
    version: String,
    sanitize: bool,
}

impl Compiler {
    /// `$CXX`, or the first of the usual names that runs.
    pub(super) fn find() -> Result<Self, DeviceError> {
        static FOUND: OnceLock<Option<(String, String)>> = OnceLock::new();
        let set = std::env::var("CXX").ok().filter(|command| !command.trim().is_empty());
        let candidates = set.map_or_else(|| ["c++", "g++", "clang++"].map(str::to_owned).to_vec(), |command| vec![command]);
        let found = FOUND.get_or_init(|| {
            candidates.iter().find_map(|command| {
                let output = shell(command).arg("--version").output().ok().filter(|output| output.status.success())?;
                Some((command.clone(), String::from_utf8_lossy(&output.stdout).into_owned()))
            })
        });
        match found {
            Some((command, version)) => {
                Ok(Self { command: command.clone(), version: version.clone(), sanitize: is_set("TESSERAL_EMULATOR_SANITIZE") })
            }
            None => Err(DeviceError::NoCompiler { tried: candidates.join(", ") }),
        }
    }

    fn flags(&self) -> Vec<&'static str> {
        let mut flags = FLAGS.to_vec();
        if self.sanitize {
            flags.extend(CHECKS);
        }
        flags
    }

    /// The name of what it makes of a unit.
    pub(super) fn key(&self, unit: &str) -> String {
        cache::key(&[unit, &self.command, &self.version, &self.flags().join(" ")])
    }

    /// Opens the library of a unit, compiling it unless the cache has it.
    pub(super) fn open(&self, file: &'static str, unit: &str, key: &str) -> Result<Library, DeviceError> {
        let name = format!("{file}-{key}{}", std::env::consts::DLL_SUFFIX);
        if let Some(folder) = cache::folder() {
            if cache::read(&folder, &name).is_some() {
                return load(file, &folder.join(&name));
            }
            let made = self.compile(file, unit)?;
            match cache::write(&folder, &name, &made) {
                Ok(path) => return load(file, &path),
                Err(error) => tracing::warn!("compiled kernels cannot be kept: {error}"),
            }
            return load_from_temporary(file, &made);
        }
        load_from_temporary(file, &self.compile(file, unit)?)
    }

    /// The bytes of the library.
    fn compile(&self, file: &'static str, unit: &str) -> Result<Vec<u8>, DeviceError> {
        let failed = |log: String| DeviceError::Compile { file, compiler: self.command.clone(), log };
        let folder = tempfile::tempdir().map_err(|error| failed(error.to_string()))?;
        let (input, output) = (folder.path().join(format!("{file}.cpp")), folder.path().join("out"));
        fs::write(&input, unit).map_err(|error| failed(error.to_string()))?;
        let run = shell(&self.command).args(self.flags()).arg(&input).arg("-o").arg(&output).output();
        let run = run.map_err(|error| failed(error.to_string()))?;
        if !run.status.success() {
            return Err(failed(String::from_utf8_lossy(&run.stderr).into_owned()));
        }
        fs::read(&output).map_err(|error| failed(error.to_string()))
    }
}

/// `CXX` may hold arguments too, as in `ccache g++`.
fn shell(command: &str) -> Command {
    let mut words = command.split_whitespace();
    let mut shell = Command::new(words.next().unwrap_or(command));
    // A sanitizer that tests run with is not for the compiler.
    shell.args(words).env_remove("LD_PRELOAD");
    shell
}

fn load_from_temporary(file: &'static str, library: &[u8]) -> Result<Library, DeviceError> {
    let failed = |error: std::io::Error| DeviceError::Load { file, reason: error.to_string() };
    let folder = tempfile::tempdir().map_err(failed)?;
    let path: PathBuf = folder.path().join("library");
    fs::write(&path, library).map_err(failed)?;
    // An open library does not need its file any more.
    load(file, &path)
}

#[allow(unsafe_code, reason = "opening a library")]
fn load(file: &'static str, path: &Path) -> Result<Library, DeviceError> {
    // SAFETY: it was compiled from sources of this program, which have no initialisers, and is whole.
    unsafe { Library::new(path) }.map_err(|error| DeviceError::Load { file, reason: error.to_string() })
}
