//! Where the compiled engine computes: this CPU, CUDA devices, or the emulator of CUDA kernels.

use std::fmt;
use std::str::FromStr;

use tesseral_kernels::Device;

use crate::InferError;

/// What computes the compiled engine's passes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// This CPU.
    #[default]
    Cpu,
    /// CUDA devices by number, at least one. Many structures are shared among all of them; one structure is computed on the first.
    Cuda(Vec<usize>),
    /// The first CUDA device if there is one that works, else the CPU.
    Auto,
    /// The CUDA kernels, run thread by thread on this CPU: to check them without a GPU. Needs a C++ compiler, and patience.
    Emulated,
}

/// A device that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no device: cpu, cuda, cuda:0, cuda:0,1 and auto are")]
pub struct DeviceChoiceError(String);

impl FromStr for DeviceChoice {
    type Err = DeviceChoiceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || DeviceChoiceError(text.to_owned());
        match text.trim().to_ascii_lowercase().as_str() {
            "cpu" => Ok(Self::Cpu),
            "auto" => Ok(Self::Auto),
            "emulated" => Ok(Self::Emulated),
            "cuda" => Ok(Self::Cuda(vec![0])),
            other => {
                let numbers = other.strip_prefix("cuda:").ok_or_else(error)?;
                // Both cuda:0,1 and cuda:0,cuda:1.
                let number = |n: &str| n.trim().trim_start_matches("cuda:").parse::<usize>().map_err(|_| error());
                let mut devices = Vec::new();
                for device in numbers.split(',').map(number) {
                    let device = device?;
                    if !devices.contains(&device) {
                        devices.push(device);
                    }
                }
                Ok(Self::Cuda(devices))
            }
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Auto => f.write_str("auto"),
            Self::Emulated => f.write_str("emulated"),
            Self::Cuda(devices) => {
                let devices: Vec<String> = devices.iter().map(usize::to_string).collect();
                write!(f, "cuda:{}", devices.join(","))
            }
        }
    }
}

impl DeviceChoice {
    /// Opens the devices; none means the CPU. `auto` logs what it chose, and why.
    ///
    /// # Errors
    /// [`InferError::Device`] if a device that was asked for is not there.
    pub(crate) fn open(&self) -> Result<Vec<Device>, InferError> {
        Ok(match self {
            Self::Cpu => Vec::new(),
            Self::Emulated => vec![Device::emulated()?],
            Self::Cuda(devices) => devices.iter().map(|&n| Device::cuda(n)).collect::<Result<_, _>>()?,
            Self::Auto => match Device::cuda(0) {
                Ok(device) => {
                    tracing::info!("--device auto: {}", device.name());
                    vec![device]
                }
                Err(reason) => {
                    tracing::info!("--device auto: the CPU, since {reason}");
                    Vec::new()
                }
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read_and_written() {
        for (text, expected) in [
            ("cpu", DeviceChoice::Cpu),
            ("auto", DeviceChoice::Auto),
            ("CUDA", DeviceChoice::Cuda(vec![0])),
            ("cuda:3", DeviceChoice::Cuda(vec![3])),
            ("cuda:0,1,0", DeviceChoice::Cuda(vec![0, 1])),
            ("cuda:1,cuda:0", DeviceChoice::Cuda(vec![1, 0])),
            ("emulated", DeviceChoice::Emulated),
        ] {
            let device: DeviceChoice = text.parse().unwrap();
            assert_eq!(device, expected, "{text}");
            assert_eq!(device.to_string().parse(), Ok(expected));
        }
        for text in ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "cuda0", "cuda:0;1"] {
            assert!(text.parse::<DeviceChoice>().unwrap_err().to_string().contains("cuda:0"), "{text}");
        }
    }
}
