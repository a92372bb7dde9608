//! Which CUDA devices this machine has.
//!
//! The driver is opened at run time: the program starts, and says what is missing, on machines that have none.

/// A CUDA device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Its name, as the driver gives it.
    pub name: String,
    /// Compute capability, major and minor.
    pub compute_capability: (u32, u32),
    /// Its memory, bytes.
    pub memory: usize,
}

/// Why there are no devices to list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// The program was built without the feature `cuda`.
    #[error("this program was built without CUDA")]
    NotBuilt,
    /// The driver library cannot be opened.
    #[error("the CUDA driver library ({library}) is not on this machine")]
    NoDriver {
        /// File name of the library.
        library: &'static str,
    },
    /// The driver is there and sees no device.
    #[error("the CUDA driver finds no device")]
    NoDevice,
    /// A call to the driver failed.
    #[error("the CUDA driver failed in {call}: {reason}")]
    Driver {
        /// The function of the driver.
        call: &'static str,
        /// What it says.
        reason: String,
    },
}

impl ProbeError {
    /// What the user can do next.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NotBuilt => "build with `--features cuda`; no CUDA toolkit is needed for that",
            Self::NoDriver { .. } => {
                "install the NVIDIA driver (Debian: `nvidia-driver`, with `libcuda1`; Ubuntu: `nvidia-driver-NNN`, with `libnvidia-compute-NNN`; \
                 Fedora: `xorg-x11-drv-nvidia-cuda`); in a container, the NVIDIA Container Toolkit and `--gpus all`"
            }
            Self::NoDevice => "`nvidia-smi` lists the devices; CUDA_VISIBLE_DEVICES may hide them, and a container needs `--gpus all`",
            Self::Driver { .. } => "`nvidia-smi` tells whether driver and kernel module fit together; after an update, restart the machine",
        }
    }
}

/// The CUDA devices of this machine, in the driver's order; at least one.
///
/// # Errors
/// [`ProbeError`]; its hint says what to install.
#[cfg(not(feature = "cuda"))]
pub fn devices() -> Result<Vec<DeviceInfo>, ProbeError> {
    Err(ProbeError::NotBuilt)
}

/// The CUDA devices of this machine, in the driver's order; at least one.
///
/// # Errors
/// [`ProbeError`]; its hint says what to install.
#[cfg(feature = "cuda")]
pub fn devices() -> Result<Vec<DeviceInfo>, ProbeError> {
    cuda::devices()
}

#[cfg(feature = "cuda")]
mod cuda {
    use cudarc::driver::sys::{CUdevice, CUdevice_attribute, CUresult};
    use cudarc::driver::{DriverError, result};

    use super::{DeviceInfo, ProbeError};

    #[cfg(not(feature = "cuda-linked"))]
    const LIBRARY: &str = if cfg!(windows) { "nvcuda.dll" } else { "libcuda.so.1" };

    fn failed(call: &'static str) -> impl Fn(DriverError) -> ProbeError {
        move |e| match e.0 {
            CUresult::CUDA_ERROR_NO_DEVICE => ProbeError::NoDevice,
            _ => ProbeError::Driver { call, reason: format!("{:?}", e.0) },
        }
    }

    pub(super) fn devices() -> Result<Vec<DeviceInfo>, ProbeError> {
        // Every other function of cudarc panics where the library is missing.
        #[cfg(not(feature = "cuda-linked"))]
        #[allow(unsafe_code, reason = "opening a library")]
        // SAFETY: this opens and closes the driver's library by its name, whose initialisers NVIDIA makes safe to run on any thread.
        if !unsafe { cudarc::driver::sys::is_culib_present() } {
            return Err(ProbeError::NoDriver { library: LIBRARY });
        }
        result::init().map_err(failed("cuInit"))?;
        let count = result::device::get_count().map_err(failed("cuDeviceGetCount"))?;
        if count < 1 {
            return Err(ProbeError::NoDevice);
        }
        (0..count).map(|ordinal| device(result::device::get(ordinal).map_err(failed("cuDeviceGet"))?)).collect()
    }

    fn device(device: CUdevice) -> Result<DeviceInfo, ProbeError> {
        #[allow(unsafe_code, reason = "queries of the driver")]
        let attribute = |which| {
            // SAFETY: `device` came from cuDeviceGet.
            unsafe { result::device::get_attribute(device, which) }.map(i32::unsigned_abs).map_err(failed("cuDeviceGetAttribute"))
        };
        #[allow(unsafe_code, reason = "queries of the driver")]
        // SAFETY: as above.
        let memory = unsafe { result::device::total_mem(device) }.map_err(failed("cuDeviceTotalMem"))?;
        Ok(DeviceInfo {
            name: result::device::get_name(device).map_err(failed("cuDeviceGetName"))?,
            compute_capability: (
                attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
                attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
            ),
            memory,
        })
    }
}

#[cfg(test)]
#[allow(clippy::print_stderr, reason = "a test that skips says so")]
mod tests {
    use super::*;

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn without_the_feature_it_says_so() {
        assert_eq!(devices(), Err(ProbeError::NotBuilt));
        assert!(ProbeError::NotBuilt.hint().contains("--features cuda"));
    }

    #[cfg(feature = "cuda")]
    #[test]
    fn devices_are_listed_or_their_absence_explained() {
        let found = devices();
        // The same answer every time: nothing is left half open.
        assert_eq!(found, devices());
        match found {
            Ok(devices) => {
                assert!(!devices.is_empty());
                for device in devices {
                    assert!(!device.name.is_empty() && device.compute_capability.0 >= 3 && device.memory > 1 << 28, "{device:?}");
                }
            }
            Err(error) => {
                eprintln!("skipped the queries of devices because {error}");
                assert!(matches!(error, ProbeError::NoDriver { .. } | ProbeError::NoDevice | ProbeError::Driver { .. }), "{error:?}");
                assert!(!error.to_string().is_empty() && error.hint().contains("nvidia"));
                // A driver file that is there contradicts "no driver".
                let file = std::path::Path::new("/usr/lib/x86_64-linux-gnu/libcuda.so.1");
                assert!(!(file.exists() && matches!(error, ProbeError::NoDriver { .. })), "{} is there", file.display());
            }
        }
    }
}
