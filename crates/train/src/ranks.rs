//! What the ranks of a training do together, so that all of them go on, or all of them end.
//!
//! Before each operation the ranks tell one another whether they are well. A rank that fails does so wherever it is: it goes to [`Ranks::settle`], which is such
//! an exchange too, and the others learn of it in the operation that they come to next. So no rank waits for one that is gone, and each ends with an error: its
//! own, or [`TrainError::Rank`]. All that is needed for this is that ranks which are well do the same operations in the same order.
//!
//! What they decide has to be the same, too. The time is that of the first rank, and a wish to stop is everybody's as soon as one has it; both are taken over
//! in the same exchange, so that they change on all ranks between the same two steps.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use crate::communicator::{Communicator, CommunicatorError, SingleProcess};
use crate::error::TrainError;

/// What a rank ends with, for the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What went wrong.
    pub message: String,
    /// What can be done about it.
    pub hint: Option<String>,
}

impl From<&TrainError> for Failure {
    fn from(error: &TrainError) -> Self {
        Self { message: error.to_string(), hint: error.hint() }
    }
}

/// This rank among all ranks of a training. With a single one, nothing is exchanged.
pub struct Ranks {
    communicator: Arc<dyn Communicator>,
    /// Whether this rank was asked to stop.
    asked: Arc<AtomicBool>,
    /// Whether any rank was, as of the last exchange.
    agreed: AtomicBool,
    begun: Instant,
    /// Bits of the seconds of the first rank, as of the last exchange.
    seconds: AtomicU64,
    /// Whether some rank has failed: there is nothing to exchange any more.
    over: AtomicBool,
}

impl std::fmt::Debug for Ranks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ranks").field("rank", &self.rank()).field("size", &self.size()).finish_non_exhaustive()
    }
}

impl Ranks {
    /// Of those that `communicator` connects. When `asked` becomes true on one of them, all stop.
    pub fn new(communicator: Arc<dyn Communicator>, asked: Arc<AtomicBool>) -> Self {
        Self {
            communicator,
            asked,
            agreed: AtomicBool::new(false),
            begun: Instant::now(),
            seconds: AtomicU64::new(0),
            over: AtomicBool::new(false),
        }
    }

    /// A single one, which nobody asks to stop this way.
    pub fn alone() -> Self {
        Self::new(Arc::new(SingleProcess), Arc::default())
    }

    /// Number of this rank, from 0.
    pub fn rank(&self) -> usize {
        self.communicator.rank()
    }

    /// How many there are.
    pub fn size(&self) -> usize {
        self.communicator.size()
    }

    /// Whether this is the rank that reads states, writes everything and speaks for all.
    pub fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// Whether to stop, the same on all ranks.
    pub fn stop(&self) -> &AtomicBool {
        if self.size() == 1 { &self.asked } else { &self.agreed }
    }

    /// Time since this was made, s, the same on all ranks: that of the first one, as of the last exchange.
    pub fn seconds(&self) -> f64 {
        if self.size() == 1 { self.begun.elapsed().as_secs_f64() } else { f64::from_bits(self.seconds.load(Ordering::Relaxed)) }
    }

    /// Tells the others whether this rank fails, and learns it from them.
    ///
    /// # Errors
    /// [`TrainError::Rank`] with the first rank that fails, if one does.
    pub fn exchange(&self, failure: Option<&Failure>) -> Result<(), TrainError> {
        if self.size() == 1 || self.over.load(Ordering::Relaxed) {
            return Ok(());
        }
        let number = |yes: bool| f64::from(u8::from(yes));
        let seconds = if self.is_first() { self.begun.elapsed().as_secs_f64() } else { 0.0 };
        let mut sums = [number(failure.is_some()), number(self.asked.load(Ordering::Relaxed)), seconds];
        self.connected(self.communicator.sum(&mut sums))?;
        let [failures, asked, seconds] = sums;
        if asked > 0.0 {
            self.agreed.store(true, Ordering::Relaxed);
        }
        self.seconds.store(seconds.to_bits(), Ordering::Relaxed);
        if failures == 0.0 {
            return Ok(());
        }
        self.over.store(true, Ordering::Relaxed);
        // The last thing that is said.
        let said = failure
            .map_or_else(Vec::new, |Failure { message, hint }| serde_json::to_vec(&(message, hint)).expect("texts can be written as JSON"));
        let all = self.communicator.gather(&said)?;
        let of_rank = |(rank, bytes): (usize, &Vec<u8>)| {
            let (message, hint) = serde_json::from_slice(bytes).ok()?;
            Some(TrainError::Rank { rank, message, hint })
        };
        let first = all.iter().enumerate().find_map(of_rank);
        Err(first.unwrap_or_else(|| CommunicatorError::Lost("a rank failed and did not say why".into()).into()))
    }

    /// Notes that the connection is lost, if it is.
    fn connected(&self, result: Result<(), CommunicatorError>) -> Result<(), TrainError> {
        if result.is_err() {
            self.over.store(true, Ordering::Relaxed);
        }
        Ok(result?)
    }

    /// That all ranks are well.
    ///
    /// # Errors
    /// [`TrainError::Rank`].
    pub fn check(&self) -> Result<(), TrainError> {
        self.exchange(None)
    }

    /// What came out, once all ranks have come to this point: an error on one of them is one on all. An error of this rank stays what it is.
    ///
    /// # Errors
    /// That of `result`, or else [`TrainError::Rank`].
    pub fn settle<R>(&self, result: Result<R, TrainError>) -> Result<R, TrainError> {
        match result {
            Ok(done) => self.check().map(|()| done),
            Err(error) => {
                // What comes of this is known here: the error.
                self.exchange(Some(&Failure::from(&error))).ok();
                Err(error)
            }
        }
    }

    /// Sums numbers over the ranks, in place; the same bits on all of them. As many on each.
    ///
    /// # Errors
    /// [`TrainError::Rank`] if a rank fails; [`TrainError::Communicator`].
    pub fn sum(&self, numbers: &mut [f64]) -> Result<(), TrainError> {
        if self.size() == 1 {
            return Ok(());
        }
        self.check()?;
        self.connected(self.communicator.sum(numbers))
    }

    /// What each rank says, on all of them.
    ///
    /// # Errors
    /// As [`Self::sum`].
    pub fn gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, TrainError> {
        if self.size() == 1 {
            return Ok(vec![bytes.to_vec()]);
        }
        self.check()?;
        let all = self.communicator.gather(bytes);
        if all.is_err() {
            self.over.store(true, Ordering::Relaxed);
        }
        Ok(all?)
    }

    /// What the first rank says; what the others give does not matter.
    ///
    /// # Errors
    /// As [`Self::sum`].
    pub fn broadcast(&self, mut bytes: Vec<u8>) -> Result<Vec<u8>, TrainError> {
        if self.size() > 1 {
            self.check()?;
            self.connected(self.communicator.broadcast(&mut bytes, 0))?;
        }
        Ok(bytes)
    }

    /// Waits for all ranks, whether they are well or not.
    ///
    /// # Errors
    /// [`TrainError::Communicator`].
    pub fn barrier(&self) -> Result<(), TrainError> {
        self.connected(self.communicator.barrier())
    }

    /// That all ranks have the same of something.
    ///
    /// # Errors
    /// [`TrainError::Differ`] on all ranks, naming those that have something else than the first.
    pub fn same(&self, what: &str, value: &[u8]) -> Result<(), TrainError> {
        let all = self.gather(value)?;
        let ranks: Vec<usize> = (1..all.len()).filter(|&rank| all[rank] != all[0]).collect();
        if ranks.is_empty() { Ok(()) } else { Err(TrainError::Differ { what: what.to_owned(), ranks }) }
    }

    /// Does something on the first rank, and on the others afterwards: they find what it has made.
    ///
    /// # Errors
    /// Those of `work`; [`TrainError::Rank`] on the others if it fails on the first.
    pub fn first_then_others<R>(&self, work: impl FnOnce() -> Result<R, TrainError>) -> Result<R, TrainError> {
        if self.is_first() {
            let made = work()?;
            self.check()?;
            return Ok(made);
        }
        self.check()?;
        work()
    }

    /// What `make` makes on the first rank, which writes it to a file by that; on the others, what `read` makes of the bytes of that file.
    ///
    /// # Errors
    /// Those of `make` and `read`; [`TrainError::Read`] if the file cannot be read; as [`Self::sum`].
    pub fn made_by_first<R>(
        &self,
        path: &Path,
        make: impl FnOnce() -> Result<R, TrainError>,
        read: impl FnOnce(Vec<u8>) -> Result<R, TrainError>,
    ) -> Result<R, TrainError> {
        if !self.is_first() {
            return read(self.broadcast(Vec::new())?);
        }
        let made = make()?;
        if self.size() > 1 {
            let bytes = std::fs::read(path).map_err(|source| TrainError::Read { path: path.to_owned(), source })?;
            self.broadcast(bytes)?;
        }
        Ok(made)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::communicator::threads::on_ranks;

    fn ranks(communicator: Arc<dyn Communicator>) -> Ranks {
        Ranks::new(communicator, Arc::default())
    }

    fn failure() -> TrainError {
        TrainError::Exists { path: "run".into() }
    }

    /// Wherever one fails, all end, with its message.
    #[test]
    fn an_error_of_one_is_one_of_all() {
        type Work = fn(&Ranks) -> Result<(), TrainError>;
        let works: [Work; 6] = [
            |r| r.sum(&mut [1.0; 5]),
            |r| r.gather(&[1, 2]).map(|_| ()),
            |r| r.broadcast(vec![1]).map(|_| ()),
            |r| r.same("something", b"x"),
            |r| r.check(),
            |_| Ok(()),
        ];
        for work in works {
            for failing in 0..3 {
                let errors = on_ranks(3, |communicator| {
                    let ranks = ranks(communicator);
                    ranks.sum(&mut [1.0]).unwrap();
                    let result = if ranks.rank() == failing { Err(failure()) } else { work(&ranks) };
                    ranks.settle(result).unwrap_err()
                });
                for (rank, error) in errors.iter().enumerate() {
                    assert_eq!(error.hint(), failure().hint());
                    if rank == failing {
                        assert!(matches!(error, TrainError::Exists { .. }), "{error}");
                    } else {
                        assert!(matches!(error, TrainError::Rank { rank, .. } if *rank == failing), "{error}");
                        assert_eq!(error.to_string(), format!("rank {failing}: run holds a training already"));
                    }
                }
            }
        }
        // All at once.
        let errors = on_ranks(2, |communicator| ranks(communicator).settle::<()>(Err(failure())).unwrap_err());
        assert!(errors.iter().all(|error| matches!(error, TrainError::Exists { .. })), "{errors:?}");
    }

    #[test]
    fn one_wish_to_stop_is_everybodys_after_the_next_exchange() {
        on_ranks(2, |communicator| {
            let asked = Arc::new(AtomicBool::new(false));
            let ranks = Ranks::new(communicator, asked.clone());
            ranks.check().unwrap();
            assert!(!ranks.stop().load(Ordering::Relaxed));
            asked.store(ranks.rank() == 1, Ordering::Relaxed);
            assert!(!ranks.stop().load(Ordering::Relaxed));
            ranks.sum(&mut [0.0]).unwrap();
            assert!(ranks.stop().load(Ordering::Relaxed));
        });
    }

    #[test]
    fn the_time_is_that_of_the_first() {
        let seconds = on_ranks(2, |communicator| {
            let ranks = ranks(communicator);
            std::thread::sleep(std::time::Duration::from_millis(10));
            ranks.check().unwrap();
            ranks.seconds()
        });
        assert!(seconds[0] == seconds[1] && seconds[0] >= 0.01, "{seconds:?}");
        assert!(Ranks::alone().seconds() < 1.0);
    }

    #[test]
    fn the_first_makes_and_the_others_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("made");
        let found = on_ranks(3, |communicator| {
            let ranks = ranks(communicator);
            let make = || {
                std::fs::write(&path, b"made").unwrap();
                Ok("first".to_owned())
            };
            let made = ranks.made_by_first(&path, make, |bytes| Ok(String::from_utf8(bytes).unwrap())).unwrap();
            let there = ranks.first_then_others(|| Ok(path.with_extension(if ranks.is_first() { "x" } else { "y" }))).unwrap();
            let said = ranks.broadcast(vec![ranks.rank() as u8; 2]).unwrap();
            let differ = ranks.same("the number", &[u8::from(ranks.rank() == 2)]).unwrap_err().to_string();
            (made, there, said, differ)
        });
        assert_eq!(found.iter().map(|f| f.0.as_str()).collect::<Vec<_>>(), ["first", "made", "made"]);
        assert!(found.iter().all(|f| f.2 == [0, 0]));
        assert!(found.iter().all(|f| f.3.contains("the number") && f.3.contains("rank 2")), "{}", found[0].3);
    }

    #[test]
    fn alone_nothing_is_asked_of_anybody() {
        let ranks = Ranks::alone();
        let mut numbers = [1.0, 2.0];
        ranks.sum(&mut numbers).unwrap();
        assert_eq!(numbers, [1.0, 2.0]);
        assert_eq!(ranks.gather(b"x").unwrap(), [b"x"]);
        assert_eq!(ranks.broadcast(vec![3]).unwrap(), [3]);
        ranks.same("x", b"y").unwrap();
        assert!(ranks.settle::<()>(Err(failure())).is_err());
        assert_eq!(ranks.settle(Ok(4)).unwrap(), 4);
    }
}
