//! What can go wrong between a client and its server.

use std::io;
use std::time::Duration;

use tesseral_atoms::{ForceError, StructureError};

use super::Address;

/// Errors of a client of i-PI.
#[derive(Debug, thiserror::Error)]
pub enum IpiError {
    /// Nobody listens.
    #[error("no server at {address}{}", tried(*waited))]
    NoServer {
        /// Where.
        address: Address,
        /// How long it was tried.
        waited: Duration,
        /// The last failure.
        #[source]
        source: io::Error,
    },
    /// The server's structure is another one.
    #[error("the server sends {sent} atoms, the structure has {expected}")]
    Atoms {
        /// Atoms in the message.
        sent: i64,
        /// Atoms of the structure that the client was given.
        expected: usize,
    },
    /// A header that the protocol does not have.
    #[error("the server sends the message `{header}`, which is none of the protocol of i-PI")]
    Header {
        /// Its 12 bytes, escaped where they are no text.
        header: String,
    },
    /// A message that makes no sense.
    #[error("a message of the server makes no sense: {what}")]
    Message {
        /// What is wrong with it.
        what: String,
    },
    /// The number of structures at a time is not the one that was insisted on.
    #[error("the server sends {announced} structures at a time, not {expected}")]
    Batch {
        /// What the server says.
        announced: usize,
        /// What was asked for.
        expected: usize,
    },
    /// The structure that the client was given has no atoms, or is no structure.
    #[error(transparent)]
    Structure(#[from] StructureError),
    /// The force field failed.
    #[error("evaluation {evaluation} of this client{} failed", place(*index, *of))]
    Evaluation {
        /// Which one, from 1.
        evaluation: u64,
        /// Which structure of the batch, from 0.
        index: usize,
        /// Structures in the batch.
        of: usize,
        /// Why.
        #[source]
        source: ForceError,
    },
    /// The force field panicked: a bug in it.
    #[error("evaluation {evaluation} of this client failed by a panic: {message}")]
    Panic {
        /// Which one, from 1.
        evaluation: u64,
        /// What it said.
        message: String,
    },
}

fn tried(waited: Duration) -> String {
    if waited.is_zero() { String::new() } else { format!(" for {:.0} s", waited.as_secs_f64()) }
}

fn place(index: usize, of: usize) -> String {
    if of > 1 { format!(" (structure {index} of a batch of {of})") } else { String::new() }
}

impl IpiError {
    /// What the user can do about it, if anything can be said. (The hint of a force field's own error is found in its source.)
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoServer { address: Address::Unix(path), source, .. } if source.kind() == io::ErrorKind::ConnectionRefused => Some(format!(
                "the file of the socket was left behind by a server that is gone: remove {} and start i-PI again",
                path.display()
            )),
            Self::NoServer { address: Address::Unix(path), .. } => {
                let name = path.to_string_lossy();
                let name = name.strip_prefix(super::DEFAULT_PREFIX).unwrap_or("NAME");
                Some(format!(
                    "start the server (`i-pi input.xml`), with <ffsocket mode='unix'> and <address>{name}</address>; --reconnect says how long to wait for it"
                ))
            }
            Self::NoServer { address: Address::Tcp { port, .. }, .. } => Some(format!(
                "start the server (`i-pi input.xml`), with <ffsocket mode='inet'> and <port>{port}</port>; its <address> has to be one that this machine reaches, and \
                 --reconnect says how long to wait for it"
            )),
            Self::Atoms { sent, .. } if !(0..=100_000_000).contains(sent) => {
                Some("mode='shm' of <ffsocket> is not spoken here: use mode='unix'".to_owned())
            }
            Self::Atoms { .. } => Some(
                "give the structure that i-PI begins with, its atoms in the same order; with an <activelist> in <ffsocket>, these atoms alone".to_owned(),
            ),
            Self::Header { .. } | Self::Message { .. } => {
                Some("is it i-PI (3.3 is what this client was written for) or ASE's SocketIOCalculator that listens there?".to_owned())
            }
            Self::Batch { expected, .. } => Some(format!("set <batch_size>{expected}</batch_size> in <ffsocket>, or leave out --batch")),
            Self::Structure(error) => Some(error.hint().to_owned()),
            Self::Evaluation { .. } => {
                Some("i-PI has lost nothing: it waits for another client, and `touch EXIT` in its folder ends it with a RESTART file".to_owned())
            }
            Self::Panic { .. } => Some("this is a bug of Tesseral: please report it, with the structure".to_owned()),
        }
    }
}
