//! What can go wrong with a device.

use crate::probe::ProbeError;

/// Why a device, a buffer, a kernel or a launch is not to be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// There is no CUDA device.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// There are fewer devices.
    #[error("there is no CUDA device {ordinal}: this machine has {count}, counted from 0")]
    Ordinal {
        /// What was asked for.
        ordinal: usize,
        /// How many there are.
        count: usize,
    },
    /// The driver is older than what this program calls.
    #[error("the CUDA driver is too old: it supports CUDA {}.{}, and {}.{} is needed", .found.0, .found.1, .needed.0, .needed.1)]
    OldDriver {
        /// Major and minor version of CUDA that it supports.
        found: (u32, u32),
        /// The oldest that will do.
        needed: (u32, u32),
    },
    /// The GPU is older than the kernels allow, or than the compiler knows.
    #[error("GPUs of compute capability {}.{} are not supported: {why}", .found.0, .found.1)]
    Architecture {
        /// Compute capability.
        found: (u32, u32),
        /// What is missing.
        why: String,
    },
    /// NVIDIA's compiler library cannot be opened.
    #[error("NVRTC, the library that compiles CUDA kernels, is not on this machine (tried {tried})")]
    NoNvrtc {
        /// Where it was looked for.
        tried: String,
    },
    /// NVRTC is older than 12.
    #[error("NVRTC {}.{} at {path} is too old: 12.0 is needed", .found.0, .found.1)]
    OldNvrtc {
        /// Its version.
        found: (u32, u32),
        /// Its file.
        path: String,
    },
    /// The emulated device needs a C++ compiler.
    #[error("the emulated device needs a C++ compiler, and none of {tried} runs")]
    NoCompiler {
        /// Commands that were tried.
        tried: String,
    },
    /// A kernel does not compile: a fault of this program, or of an installation.
    #[error("{file}.cu does not compile with {compiler}:\n{log}")]
    Compile {
        /// File of the kernels.
        file: &'static str,
        /// The compiler.
        compiler: String,
        /// What it said.
        log: String,
    },
    /// A compiled module cannot be opened.
    #[error("the compiled {file}.cu cannot be loaded: {reason}")]
    Load {
        /// File of the kernels.
        file: &'static str,
        /// Why.
        reason: String,
    },
    /// A module has no kernel of a name.
    #[error("{file}.cu has no kernel {kernel}")]
    NoKernel {
        /// File of the kernels.
        file: &'static str,
        /// What was asked for.
        kernel: &'static str,
    },
    /// A launch that no device can make.
    #[error("{kernel} cannot be launched: {what}")]
    Launch {
        /// The kernel.
        kernel: &'static str,
        /// What is wrong.
        what: String,
    },
    /// Arguments do not fit a kernel (seen on the emulated device only).
    #[error("arguments of {kernel}: it takes {expected}, and is given {given}")]
    Arguments {
        /// The kernel.
        kernel: &'static str,
        /// Its parameters.
        expected: String,
        /// The arguments.
        given: String,
    },
    /// A kernel did what it must not (seen on the emulated device only).
    #[error("fault in {kernel}: {what}")]
    Fault {
        /// The kernel.
        kernel: &'static str,
        /// What happened, and in which line and thread.
        what: String,
    },
    /// A buffer is shorter than what is to be copied.
    #[error("{what}: {needed} elements of a buffer of {len}")]
    Length {
        /// The operation.
        what: &'static str,
        /// Elements that it touches, from the first.
        needed: usize,
        /// Elements that are there.
        len: usize,
    },
    /// The device has not enough memory.
    #[error("out of memory on the device: {} are needed, {free} bytes are free", if *.needed == 0 { "more".to_owned() } else { format!("{} bytes", .needed) })]
    Memory {
        /// Bytes that were asked for; 0 where the driver needs them for something of its own.
        needed: usize,
        /// Bytes that are free.
        free: usize,
    },
    /// The device cannot be used any more in this process.
    #[error("the GPU was lost: {call} says {what}")]
    Lost {
        /// What the driver says.
        what: String,
        /// The function that said so; the fault may be in what was launched before.
        call: &'static str,
    },
    /// An operation that cannot be part of a graph.
    #[error("{what} cannot be captured in a graph")]
    Capture {
        /// The operation.
        what: &'static str,
    },
    /// Another call to driver or compiler failed.
    #[error("{call} failed: {reason}")]
    Driver {
        /// The function.
        call: &'static str,
        /// What it says.
        reason: String,
    },
    /// `TESSERAL_TEST_DEVICE` is neither `emulated` nor `cuda` nor `cuda:N`.
    #[error("TESSERAL_TEST_DEVICE={value}: no such device")]
    TestDevice {
        /// What it is.
        value: String,
    },
}

impl DeviceError {
    /// What the user can do next, where there is something.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Probe(error) => error.hint(),
            Self::Ordinal { .. } => "`nvidia-smi` lists the devices; CUDA_VISIBLE_DEVICES chooses and renumbers them",
            Self::OldDriver { .. } => "install a newer NVIDIA driver, 525 or later; in a container, that of the host counts",
            Self::Architecture { .. } => "use another GPU, an NVRTC that knows this one (TESSERAL_NVRTC), or the CPU",
            Self::NoNvrtc { .. } | Self::OldNvrtc { .. } => {
                "install NVRTC 12 or later (Debian and Ubuntu: `libnvrtc12` or `nvidia-cuda-toolkit`; Fedora, with NVIDIA's repository: \
                 `cuda-nvrtc-12-9`; anywhere: `pip install nvidia-cuda-nvrtc`); CUDA_HOME names a folder of CUDA, TESSERAL_NVRTC the library itself"
            }
            Self::NoCompiler { .. } => "install a C++ compiler (Debian: `g++`), or set CXX",
            Self::Memory { .. } => {
                "evaluate fewer or smaller structures at a time, compute in f32, or end other programs on this GPU (`nvidia-smi`)"
            }
            Self::Lost { .. } => {
                "`dmesg | grep -i xid` tells whether the hardware or the driver failed; run again with CUDA_LAUNCH_BLOCKING=1 to see which call it \
                 was, and report it if it happens again"
            }
            Self::Driver { .. } => "`nvidia-smi` tells whether driver and kernel module fit together; after an update, restart the machine",
            Self::TestDevice { .. } => "use `emulated`, `cuda` or `cuda:N`",
            _ => return None,
        })
    }
}
