//! Differentiable equivariant primitives.
//!
//! One folder an operation, the same files in each: `mod.rs` (the mathematics, shapes, public functions), `reference.rs` (plain `f64` loops:
//! the truth that the fast kernels are tested against), `cpu.rs` (the fast kernel, candle-free, over slices) and `autograd.rs` (the candle
//! custom ops, differentiable twice). Channels are the fastest index everywhere.

pub mod autograd;
#[cfg(feature = "candle-cuda")]
pub mod candle_cuda;
pub mod gate;
pub mod graph;
pub mod linear;
#[cfg_attr(not(any(test, feature = "candle-cuda")), allow(dead_code, reason = "only the CUDA halves and tests call it"))]
mod on_device;
pub mod parameters;
pub mod radial;
pub mod real;
pub mod rows;
pub mod runtime;
pub mod simd;
pub mod slab;
pub mod spherical_harmonics;
pub mod symmetric_contraction;
pub mod tensor_product;
#[cfg(test)]
mod testing;
