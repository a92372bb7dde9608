//! The binary from outside: what it prints, what it writes, how it ends.

mod common;
mod evaluate;
mod fetch;
mod hostile;
mod models;
mod usage;
mod verify;
