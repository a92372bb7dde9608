//! CUDA kernels, their launchers and their proofs.
