//! How the processes of a training speak to one another.
//!
//! Several processes, called ranks and counted from 0, can train one model together: they divide the frames of each step among themselves.
//! [`Communicator`] is all that they need of MPI, or of anything else that connects processes or devices: [`SingleProcess`] is always there, `Mpi` with
//! the feature `mpi`. [`world`] gives the one that the process was started with. What a training does with it is in [`crate::ranks`].

mod cores;
mod launch;
#[cfg(feature = "mpi")]
mod mpi;
#[cfg(test)]
pub(crate) mod threads;

use std::sync::Arc;

pub use cores::threads_of_rank;
pub use launch::{Launch, launch};

#[cfg(feature = "mpi")]
pub use self::mpi::Mpi;

/// What connects the ranks of a training. Every operation has to be called by all ranks, in the same order, with arguments of the same length where nothing
/// else is said; it returns when its result is there. Operations are called by one thread at a time.
///
/// # Errors
/// [`CommunicatorError`], if the connection is lost. It cannot be used any more then.
pub trait Communicator: Send + Sync {
    /// Number of this rank.
    fn rank(&self) -> usize;

    /// How many ranks there are.
    fn size(&self) -> usize;

    /// Name of the machine: ranks with the same one share its cores.
    fn node(&self) -> String;

    /// Sums over the ranks, number by number and in place. All ranks get the same bits, and always the same ones for the same numbers: the ranks are added in
    /// their order.
    fn sum(&self, numbers: &mut [f64]) -> Result<(), CommunicatorError>;

    /// What each rank says, in the order of ranks, on all of them. Lengths may differ.
    fn gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, CommunicatorError>;

    /// Replaces `bytes` by those of the rank `root`, whatever their length.
    fn broadcast(&self, bytes: &mut Vec<u8>, root: usize) -> Result<(), CommunicatorError>;

    /// Waits until all ranks are here.
    fn barrier(&self) -> Result<(), CommunicatorError>;
}

/// Why ranks cannot speak to one another.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommunicatorError {
    /// Several processes, and nothing to connect them.
    #[error("{processes} processes were started to train together, but this program was built without MPI")]
    NotBuilt {
        /// How many.
        processes: usize,
    },
    /// Those who started the processes and those who connect them do not know one another.
    #[error("{launched} processes were started together, but the MPI library of this program finds {found}")]
    Mismatch {
        /// Processes that were started.
        launched: usize,
        /// Processes that are connected.
        found: usize,
    },
    /// MPI that is there for the thread that started it only.
    #[error("the MPI library cannot be called by the thread that trains")]
    Threading,
    /// MPI can be started once.
    #[error("MPI was started before")]
    Started,
    /// More than one message can hold.
    #[error("{bytes} bytes are too many to be gathered")]
    TooLarge {
        /// How many.
        bytes: u64,
    },
    /// Anything else.
    #[error("the ranks lost one another: {0}")]
    Lost(String),
}

impl CommunicatorError {
    /// What to do about it, where there is something.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NotBuilt { .. } => Some("build it with `--features mpi`, or start one process, without mpirun"),
            Self::Mismatch { .. } => Some("start it with the mpirun of the MPI library that it was built with"),
            Self::Threading => Some("use an MPI library with support for threads (MPI_THREAD_SERIALIZED)"),
            Self::Started | Self::TooLarge { .. } | Self::Lost(_) => None,
        }
    }
}

/// One process, which has nobody to speak to.
#[derive(Debug, Clone, Copy, Default)]
pub struct SingleProcess;

impl Communicator for SingleProcess {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn node(&self) -> String {
        String::new()
    }

    fn sum(&self, _: &mut [f64]) -> Result<(), CommunicatorError> {
        Ok(())
    }

    fn gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, CommunicatorError> {
        Ok(vec![bytes.to_vec()])
    }

    fn broadcast(&self, _: &mut Vec<u8>, _: usize) -> Result<(), CommunicatorError> {
        Ok(())
    }

    fn barrier(&self) -> Result<(), CommunicatorError> {
        Ok(())
    }
}

/// What connects this process with those that were started together with it: nothing where it is alone, else MPI. To be called once, by the main thread, which
/// also has to be the one that lets go of it last.
///
/// # Errors
/// [`CommunicatorError::NotBuilt`] if there are others and this program has no MPI: each of them would train the same on its own, into the same folder.
pub fn world() -> Result<Arc<dyn Communicator>, CommunicatorError> {
    match launch() {
        Some(launch) if launch.size > 1 => together(launch),
        _ => Ok(Arc::new(SingleProcess)),
    }
}

#[cfg(feature = "mpi")]
fn together(launch: Launch) -> Result<Arc<dyn Communicator>, CommunicatorError> {
    Ok(Arc::new(Mpi::start(launch)?))
}

#[cfg(not(feature = "mpi"))]
fn together(launch: Launch) -> Result<Arc<dyn Communicator>, CommunicatorError> {
    Err(CommunicatorError::NotBuilt { processes: launch.size })
}
