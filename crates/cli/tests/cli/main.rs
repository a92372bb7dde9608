//! The binary from outside: what it prints, what it writes, how it ends.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should fail")]

mod committees;
mod common;
mod device;
mod evaluate;
mod fetch;
mod hostile;
mod interruption;
#[cfg(unix)]
mod ipi;
mod md;
mod mechanics;
mod models;
#[cfg(feature = "mpi")]
mod mpi;
mod phonons;
mod relax;
mod train;
mod usage;
mod verify;
