//! CUDA kernels, and the devices that run them.
//!
//! A [`Device`] is a GPU ([`Device::cuda`], with the feature `cuda`) or a stand-in on this CPU that runs the same sources
//! ([`Device::emulated`]). It holds [`Buffer`]s and compiles a [`Source`], a file of `cuda/` with constants for one shape of a model, to a
//! [`Module`] of [`Kernel`]s. What a kernel reads and writes is known to its launcher, beside the op it belongs to (`tesseral_ops::*::cuda`).
//!
//! Nothing of CUDA is needed to build, and driver and compiler (NVRTC) are opened at run time. Launches, copies between buffers and fills are
//! asynchronous, in the order of the calls; reading waits for them.

mod backend;
mod buffer;
mod cache;
#[cfg(feature = "cuda")]
mod cuda;
mod device;
pub mod edges;
mod element;
mod emulator;
mod error;
pub mod forces;
mod grid;
mod launch;
pub mod neighbors;
pub mod nvrtc;
pub mod pairs;
pub mod peak;
pub mod probe;
mod source;
pub mod sources;
pub mod testing;

pub use buffer::Buffer;
pub use device::{Architecture, Device, Graph, Memory};
pub use element::{Element, Real};
pub use error::DeviceError;
pub use launch::{Args, Kernel, Launch, Module};
pub use source::Source;

#[cfg(test)]
mod tests;
