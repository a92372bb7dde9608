//! Ranks that are processes of MPI.

use std::sync::{Mutex, MutexGuard, PoisonError};

use ::mpi::datatype::PartitionMut;
use ::mpi::environment::{Universe, processor_name};
use ::mpi::traits::{Communicator as _, CommunicatorCollectives as _, Root as _};
use ::mpi::{Count, Rank, Threading};

use super::{Communicator, CommunicatorError, Launch};

/// Numbers that are summed at once: what is needed beside them in memory.
const NUMBERS_AT_ONCE: usize = 1 << 22;
/// Bytes that are sent at once: MPI counts them with 32 bits.
const BYTES_AT_ONCE: usize = 1 << 28;

/// The processes that mpirun has started.
///
/// An error of MPI itself ends all of them with a message of the MPI library.
pub struct Mpi {
    /// Calls of MPI have to come one at a time, whatever thread they come from.
    universe: Mutex<Universe>,
    rank: usize,
    size: usize,
    node: String,
}

impl std::fmt::Debug for Mpi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mpi").field("rank", &self.rank).field("size", &self.size).field("node", &self.node).finish_non_exhaustive()
    }
}

impl Mpi {
    /// Starts MPI. It ends when this is dropped, by the same thread.
    ///
    /// # Errors
    /// If it was started before, may not be called by another thread than this one, or does not find the processes of `launch`.
    pub fn start(launch: Launch) -> Result<Self, CommunicatorError> {
        let (universe, threading) = ::mpi::initialize_with_threading(Threading::Serialized).ok_or(CommunicatorError::Started)?;
        if threading < Threading::Serialized {
            return Err(CommunicatorError::Threading);
        }
        let world = universe.world();
        // Both are C's `int`, and not negative.
        let (rank, size) = (world.rank() as usize, world.size() as usize);
        if size != launch.size {
            return Err(CommunicatorError::Mismatch { launched: launch.size, found: size });
        }
        let node = processor_name().unwrap_or_default();
        Ok(Self { universe: Mutex::new(universe), rank, size, node })
    }

    fn lock(&self) -> MutexGuard<'_, Universe> {
        // There is nothing in it that a panic could have left half-done.
        self.universe.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Mpi {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Ending MPI waits for the others, and they wait for this one.
            self.lock().world().abort(101);
        }
    }
}

impl Communicator for Mpi {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn node(&self) -> String {
        self.node.clone()
    }

    fn sum(&self, numbers: &mut [f64]) -> Result<(), CommunicatorError> {
        let universe = self.lock();
        let world = universe.world();
        // MPI's own reductions may add in any order, and need not give all ranks the same bits. Here each rank sums a piece, in the order of ranks, and all get it.
        for part in numbers.chunks_mut(NUMBERS_AT_ONCE) {
            let piece = part.len().div_ceil(self.size);
            let mut all = vec![0.0; piece * self.size];
            all[..part.len()].copy_from_slice(part);
            let mut mine = vec![0.0; piece * self.size];
            world.all_to_all_into(&all[..], &mut mine[..]);
            let (sum, others) = mine.split_at_mut(piece);
            for other in others.chunks_exact(piece) {
                sum.iter_mut().zip(other).for_each(|(sum, x)| *sum += x);
            }
            world.all_gather_into(&sum[..], &mut all[..]);
            part.copy_from_slice(&all[..part.len()]);
        }
        Ok(())
    }

    fn gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, CommunicatorError> {
        let universe = self.lock();
        let world = universe.world();
        let mut lengths = vec![0u64; self.size];
        world.all_gather_into(&(bytes.len() as u64), &mut lengths[..]);
        let total: u64 = lengths.iter().sum();
        if total > i32::MAX as u64 {
            return Err(CommunicatorError::TooLarge { bytes: total });
        }
        let mut all = vec![0u8; total as usize];
        if total > 0 {
            let counts: Vec<Count> = lengths.iter().map(|&n| n as Count).collect();
            let starts: Vec<Count> = counts.iter().scan(0, |end, n| Some(std::mem::replace(end, *end + n))).collect();
            let mut places = PartitionMut::new(&mut all[..], counts, &starts[..]);
            world.all_gather_varcount_into(bytes, &mut places);
        }
        let mut rest = &all[..];
        Ok(lengths
            .iter()
            .map(|&n| {
                let (said, after) = rest.split_at(n as usize);
                rest = after;
                said.to_vec()
            })
            .collect())
    }

    fn broadcast(&self, bytes: &mut Vec<u8>, root: usize) -> Result<(), CommunicatorError> {
        let universe = self.lock();
        let world = universe.world();
        let root = world.process_at_rank(root as Rank);
        let mut length = bytes.len() as u64;
        root.broadcast_into(&mut length);
        bytes.resize(length as usize, 0);
        for part in bytes.chunks_mut(BYTES_AT_ONCE) {
            root.broadcast_into(part);
        }
        Ok(())
    }

    fn barrier(&self) -> Result<(), CommunicatorError> {
        self.lock().world().barrier();
        Ok(())
    }
}
