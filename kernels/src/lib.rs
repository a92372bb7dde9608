//! CUDA kernels, their launchers and their proofs.

pub mod probe;
