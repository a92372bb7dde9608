//! A client of i-PI: gives energies, forces and virials to a server that moves the atoms.
//!
//! i-PI (V. Kapil et al., Comput. Phys. Commun. 236, 214 (2019); Y. Litman et al., J. Chem. Phys. 161, 062504 (2024)) runs path integrals, replica exchange and much
//! else, and asks "drivers" for forces over a socket. ASE's `SocketIOCalculator` speaks the same protocol.
//!
//! # Protocol
//! As in i-PI 3.3 (`ipi/interfaces/sockets.py`, and the driver `i-pi-driver-py`): numbers in the byte order of the machine, `i32` and `f64`; headers of 12 ASCII bytes, upper
//! case, padded with spaces. Lengths in bohr, energies in hartree.
//!
//! | from the server | answer |
//! |---|---|
//! | `STATUS` | `NEEDINIT`, `READY` or `HAVEDATA` |
//! | `INIT`, replica, length, text | none; `batch_size:N` among the parts of the text between commas means that N structures are sent at a time |
//! | `POSDATA`, cell \[9\], its inverse \[9\], number of atoms, positions \[3 n\] | none; they are evaluated |
//! | `GETFORCE` | `FORCEREADY`, energy, number of atoms, forces \[3 n\], virial \[9\], length, extras (JSON) |
//! | `EXIT` | none; the client ends |
//!
//! With a batch of N, `POSDATA` is followed by the number of atoms, N × (cell, inverse) and N × positions; `FORCEREADY` by N energies, the number of atoms, N × forces, N × virials
//! and N × (length, extras). The cell has lattice vectors as columns and is sent row by row. The virial is −dE/dε = −V σ, symmetric.
//!
//! # What the server does not send
//! Elements, their order, and which directions are periodic: these are of the structure that the client is given. Lattice vectors along periodic directions are the server's,
//! others are the structure's own: i-PI has a cell always, also for a molecule, which is then evaluated as a molecule. (Drivers of i-PI that use ASE, and ASE's `SocketClient`,
//! keep the periodicity of their template as well.) What is not periodic in all three directions has no stress, and its virial is zero.
//!
//! # When something fails
//! The protocol has no message for a failure. A client that cannot evaluate a structure closes the connection and ends with an error; i-PI then puts the request back and
//! waits for another client, so that nothing is lost. (i-PI 3.3.1 does not survive a connection that is *reset* while it waits for forces, as the system does where a process ends
//! with something unread: the client reads what comes before it computes, and hangs up in order. What is left is a client that is killed in the instant before it reads.)
//! Numbers that are not finite are never sent. Where the connection is lost, the client connects again
//! ([`Settings::reconnect`]); a server that was restarted sends the positions again.

mod address;
mod answer;
mod client;
mod error;
mod wire;

#[cfg(test)]
mod tests;

pub use address::{Address, DEFAULT_PREFIX};
pub use answer::{Answer, Extras};
pub use client::{Client, Counts, Ending, Event, Serve, Settings};
pub use error::IpiError;
pub use wire::{ENERGY, FORCE, LENGTH};
