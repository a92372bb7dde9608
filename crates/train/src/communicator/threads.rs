//! Ranks that are threads of one process, for tests.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Communicator, CommunicatorError};

/// After this time a rank that does not come is lost: what would be a deadlock is an error.
const PATIENCE: Duration = Duration::from_secs(100);

#[derive(Default)]
struct State {
    posted: Vec<Option<Vec<u8>>>,
    /// Exchanges that are complete.
    round: u64,
    last: Arc<Vec<Vec<u8>>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// One of the ranks.
pub(crate) struct ThreadRank {
    rank: usize,
    size: usize,
    shared: Arc<Shared>,
}

impl ThreadRank {
    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What all ranks post for the same operation.
    fn exchange(&self, operation: u8, bytes: &[u8]) -> Result<Arc<Vec<Vec<u8>>>, CommunicatorError> {
        let mut state = self.state();
        let round = state.round;
        state.posted[self.rank] = Some([&[operation], bytes].concat());
        if state.posted.iter().all(Option::is_some) {
            let all = state.posted.iter_mut().map(|posted| posted.take().unwrap_or_default()).collect();
            state.last = Arc::new(all);
            state.round += 1;
            self.shared.changed.notify_all();
        } else {
            let (after, timeout) = self
                .shared
                .changed
                .wait_timeout_while(state, PATIENCE, |state| state.round == round)
                .unwrap_or_else(PoisonError::into_inner);
            if timeout.timed_out() {
                return Err(CommunicatorError::Lost(format!("rank {} waits for the others", self.rank)));
            }
            state = after;
        }
        let all = state.last.clone();
        if all.iter().any(|posted| posted[0] != operation) {
            let operations: Vec<char> = all.iter().map(|posted| char::from(posted[0])).collect();
            return Err(CommunicatorError::Lost(format!("different operations: {operations:?}")));
        }
        Ok(all)
    }
}

impl Communicator for ThreadRank {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn node(&self) -> String {
        "here".to_owned()
    }

    fn sum(&self, numbers: &mut [f64]) -> Result<(), CommunicatorError> {
        let bytes: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
        let all = self.exchange(b's', &bytes)?;
        numbers.fill(0.0);
        for (rank, posted) in all.iter().enumerate() {
            let (theirs, rest) = posted[1..].as_chunks::<8>();
            if theirs.len() != numbers.len() || !rest.is_empty() {
                return Err(CommunicatorError::Lost(format!("sums of {} and {} numbers", numbers.len(), theirs.len())));
            }
            for (x, bytes) in numbers.iter_mut().zip(theirs) {
                // The first one as it is: 0 + −0 is 0.
                let theirs = f64::from_le_bytes(*bytes);
                *x = if rank == 0 { theirs } else { *x + theirs };
            }
        }
        Ok(())
    }

    fn gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, CommunicatorError> {
        Ok(self.exchange(b'g', bytes)?.iter().map(|posted| posted[1..].to_vec()).collect())
    }

    fn broadcast(&self, bytes: &mut Vec<u8>, root: usize) -> Result<(), CommunicatorError> {
        let own: &[u8] = if self.rank == root { bytes } else { &[] };
        let all = self.exchange(b'b', own)?;
        *bytes = all[root][1..].to_vec();
        Ok(())
    }

    fn barrier(&self) -> Result<(), CommunicatorError> {
        self.exchange(b'w', &[]).map(|_| ())
    }
}

/// Does something on so many ranks at once, and returns what came out in the order of ranks.
pub(crate) fn on_ranks<R: Send>(size: usize, work: impl Fn(Arc<dyn Communicator>) -> R + Sync) -> Vec<R> {
    let shared = Arc::new(Shared { state: Mutex::new(State { posted: vec![None; size], ..State::default() }), ..Shared::default() });
    let work = &work;
    std::thread::scope(|scope| {
        let ranks: Vec<_> = (0..size)
            .map(|rank| {
                let shared = shared.clone();
                scope.spawn(move || work(Arc::new(ThreadRank { rank, size, shared })))
            })
            .collect();
        ranks.into_iter().map(|rank| rank.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_gathers_and_broadcasts() {
        let found = on_ranks(3, |ranks| {
            let rank = ranks.rank();
            let mut numbers = [1.0 + rank as f64, 0.1, [1e16, 1.0, -1e16][rank]];
            ranks.sum(&mut numbers).unwrap();
            let all = ranks.gather(&vec![rank as u8; rank]).unwrap();
            let mut bytes = vec![7, rank as u8];
            ranks.broadcast(&mut bytes, 1).unwrap();
            ranks.barrier().unwrap();
            (numbers.map(f64::to_bits), all, bytes)
        });
        assert!(found.iter().all(|f| *f == found[0]));
        // In the order of ranks: 1e16 + 1 is 1e16.
        assert_eq!(found[0].0.map(f64::from_bits), [6.0, 0.1 + 0.1 + 0.1, 0.0]);
        assert_eq!(found[0].1, [vec![], vec![1], vec![2, 2]]);
        assert_eq!(found[0].2, [7, 1]);
    }
}
