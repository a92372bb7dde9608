//! The checkpoints of a run, which all its ranks share: the first one reads and writes them, the others are told what it has read.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::checkpoint::{Checkpoint, CheckpointError, Checkpoints, Found};
use crate::error::TrainError;
use crate::ranks::Ranks;

#[derive(Debug)]
pub(super) struct RunCheckpoints {
    ranks: Arc<Ranks>,
    /// On the first rank.
    own: Option<Checkpoints>,
}

impl RunCheckpoints {
    /// Takes the folder, see [`Checkpoints::open`].
    pub(super) fn open(ranks: &Arc<Ranks>, folder: &Path, keep: NonZeroUsize) -> Result<Self, TrainError> {
        let own = if ranks.is_first() { Some(Checkpoints::open(folder, keep)?) } else { None };
        Ok(Self { ranks: ranks.clone(), own })
    }

    /// Writes a checkpoint, see [`Checkpoints::save`], after making sure that all ranks have the same.
    pub(super) fn save(&self, checkpoint: &Checkpoint, best: bool) -> Result<(), TrainError> {
        if self.ranks.size() > 1 {
            let what = format!("the state after step {} (weights, moments, averages)", checkpoint.state.step);
            self.ranks.same(&what, checkpoint.tensors_hash().as_bytes())?;
        }
        if let Some(own) = &self.own {
            own.save(checkpoint, best)?;
        }
        Ok(())
    }

    /// The newest intact checkpoint, see [`Checkpoints::latest`].
    pub(super) fn latest(&self) -> Result<Option<Found>, TrainError> {
        let mut damaged = Vec::new();
        let found = match &self.own {
            None => None,
            Some(own) => own.latest()?.map(|found| {
                damaged = found.damaged;
                (found.path, found.checkpoint)
            }),
        };
        Ok(self.tell(found)?.map(|(path, checkpoint)| Found { path, checkpoint, damaged }))
    }

    /// The best checkpoint, if there is one.
    pub(super) fn best(&self) -> Result<Option<Checkpoint>, TrainError> {
        let found = match self.own.as_ref().map(Checkpoints::best_path) {
            Some(path) if path.exists() => {
                let checkpoint = Checkpoint::read(&path)?;
                Some((path, checkpoint))
            }
            _ => None,
        };
        Ok(self.tell(found)?.map(|(_, checkpoint)| checkpoint))
    }

    /// What the first rank has found, on all ranks.
    fn tell(&self, found: Option<(PathBuf, Checkpoint)>) -> Result<Option<(PathBuf, Checkpoint)>, TrainError> {
        if self.ranks.size() == 1 {
            return Ok(found);
        }
        // The path on a line, and the bytes of the file.
        let mut message = Vec::new();
        if let Some((path, checkpoint)) = &found {
            message.extend_from_slice(path.to_string_lossy().replace('\n', " ").as_bytes());
            message.push(b'\n');
            message.extend(checkpoint.encode()?);
        }
        let message = self.ranks.broadcast(message)?;
        if self.own.is_some() || message.is_empty() {
            return Ok(found);
        }
        let end = message.iter().position(|byte| *byte == b'\n');
        let end = end.ok_or_else(|| CheckpointError::Content("rank 0 sent one that is cut off".into()))?;
        let path = PathBuf::from(String::from_utf8_lossy(&message[..end]).into_owned());
        let checkpoint = Checkpoint::decode(&message[end + 1..], &path)?;
        Ok(Some((path, checkpoint)))
    }
}

#[cfg(test)]
mod tests {
    use tesseral_potentials::{NamedTensor, Numbers};

    use super::*;
    use crate::checkpoint::TrainingState;
    use crate::communicator::threads::on_ranks;

    fn checkpoint(step: u64, number: f64) -> Checkpoint {
        let mut checkpoint = Checkpoint::new(TrainingState { step, ..TrainingState::default() });
        let tensor = NamedTensor { name: "w".into(), shape: vec![2], numbers: Numbers::F64(vec![1.0, number]) };
        checkpoint.insert("param", vec![tensor]).unwrap();
        checkpoint
    }

    const TWO: NonZeroUsize = NonZeroUsize::MIN.saturating_add(1);

    #[test]
    fn one_writes_and_all_read() {
        let folder = tempfile::tempdir().unwrap();
        let found = on_ranks(3, |communicator| {
            let ranks = Arc::new(Ranks::new(communicator, Arc::default()));
            let checkpoints = RunCheckpoints::open(&ranks, folder.path(), TWO).unwrap();
            assert!(checkpoints.latest().unwrap().is_none() && checkpoints.best().unwrap().is_none());
            // Where a rank was is its own; what it computed is not.
            let mut mine = checkpoint(4, 0.5);
            mine.state.other = serde_json::json!({ "seconds": ranks.rank() });
            checkpoints.save(&mine, true).unwrap();
            checkpoints.save(&checkpoint(5, 0.25), false).unwrap();
            (checkpoints.latest().unwrap().unwrap(), checkpoints.best().unwrap().unwrap())
        });
        for (latest, best) in &found {
            assert_eq!(latest.checkpoint, checkpoint(5, 0.25));
            assert_eq!(latest.path, found[0].0.path);
            assert_eq!(best.state.other, serde_json::json!({ "seconds": 0 }));
            assert_eq!(best.tensors, checkpoint(4, 0.5).tensors);
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 4, "two checkpoints, the best, the lock");
    }

    #[test]
    fn a_rank_with_other_weights_is_named_and_nothing_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let errors = on_ranks(3, |communicator| {
            let ranks = Arc::new(Ranks::new(communicator, Arc::default()));
            let checkpoints = RunCheckpoints::open(&ranks, folder.path(), TWO).unwrap();
            // One bit of one number.
            let number = if ranks.rank() == 2 { 0.5f64.next_up() } else { 0.5 };
            ranks.settle(checkpoints.save(&checkpoint(7, number), false)).unwrap_err()
        });
        for error in errors {
            assert!(matches!(&error, TrainError::Differ { ranks, .. } if *ranks == [2]), "{error}");
            assert!(error.to_string().contains("step 7") && error.to_string().contains("rank 2"), "{error}");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "the lock");
    }

    #[test]
    fn a_damaged_best_checkpoint_is_an_error_on_all_ranks() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("best.safetensors"), b"nothing").unwrap();
        let errors = on_ranks(2, |communicator| {
            let ranks = Arc::new(Ranks::new(communicator, Arc::default()));
            let checkpoints = RunCheckpoints::open(&ranks, folder.path(), TWO).unwrap();
            ranks.settle(checkpoints.best()).unwrap_err().to_string()
        });
        assert!(errors.iter().all(|error| error.contains("best.safetensors") && error.contains("damaged")), "{errors:?}");
        assert!(errors[1].starts_with("rank 0: "), "{errors:?}");
    }
}
