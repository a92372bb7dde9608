//! The course of a training: steps, validations, checkpoints.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use candle_core::Var;
use serde::{Deserialize, Serialize};
use tesseral_potentials::{Artifact, Model};

use super::checkpoints::RunCheckpoints;
use super::{Ending, Files, Progress};
use crate::average::Average;
use crate::checkpoint::{Best, Checkpoint, CheckpointError, TrainingState};
use crate::config::{LossWeights, OnNan, TrainConfig};
use crate::data::Dataset;
use crate::error::TrainError;
use crate::finetune::ewc::Anchor;
use crate::finetune::lora::LowRank;
use crate::finetune::replay::Mixture;
use crate::loader::{Loaded, Loader, Samples};
use crate::log::{self, LogWriter, Record};
use crate::loss::LossTerms;
use crate::optimizer::{Optimizer, check_finite, clip_factor, global_norm, load_variables, save_variables};
use crate::ranks::Ranks;
use crate::report::{ForgettingRow, Phase};
use crate::schedule::Schedule;
use crate::step::{Batch, shared_gradients};

/// Times that a training goes back to a checkpoint before it gives up.
const ROLLBACKS: u64 = 5;

/// Where a training stands.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Position {
    /// Steps that are done.
    pub(super) step: u64,
    /// Epochs that are done.
    pub(super) epoch: u64,
    /// Frames of this epoch that are done.
    frame: usize,
    /// Sum over the steps of this epoch of loss times frames.
    loss: f64,
    /// Time in this epoch, s.
    seconds: f64,
    /// Time in all, s.
    pub(super) wall_seconds: f64,
    /// Validations since the best one.
    since_best: u64,
    /// The best one.
    pub(super) best: Option<Best>,
    /// Times that it went back because of a number that is none.
    rollbacks: u64,
}

/// A training under way.
pub(super) struct Course {
    /// Those that train together. All of them do the same, with the same numbers; only the first has a log.
    pub(super) ranks: Arc<Ranks>,
    pub(super) config: TrainConfig,
    pub(super) files: Files,
    pub(super) hash: String,
    pub(super) data: Dataset,
    /// New frames to train on, and behind them the old ones.
    pub(super) train: Arc<Samples>,
    /// Which of them an epoch goes through.
    pub(super) mixture: Mixture,
    pub(super) valid: Arc<Samples>,
    pub(super) initial: Artifact,
    pub(super) model: Model,
    /// The weights of the model that change, by their names in it.
    pub(super) weights: BTreeMap<String, Var>,
    /// What the optimiser moves: the same, or low-rank updates of them.
    pub(super) variables: BTreeMap<String, Var>,
    pub(super) low_rank: Option<LowRank>,
    /// What holds the weights where they matter for the old domain.
    pub(super) anchor: Option<Anchor>,
    pub(super) optimizer: Optimizer,
    pub(super) schedule: Schedule,
    pub(super) average: Option<Average>,
    pub(super) checkpoints: RunCheckpoints,
    pub(super) log: Option<LogWriter>,
    pub(super) position: Position,
    /// Frames of the old domain on which forgetting is measured, by name.
    pub(super) old: Vec<(String, Arc<Samples>)>,
    /// Errors before fine-tuning.
    pub(super) before: Vec<ForgettingRow>,
}

impl Course {
    /// Writes a line of the log, if there is one.
    pub(super) fn record(&mut self, record: Record) -> Result<(), TrainError> {
        Ok(self.log.as_mut().map_or(Ok(()), |log| log.write(&record))?)
    }

    fn event(&mut self, message: String, tell: &mut (dyn FnMut(Progress<'_>) + Send)) -> Result<(), TrainError> {
        tell(Progress::Event(&message));
        let (step, epoch) = (self.position.step, self.position.epoch);
        self.record(Record::Event(log::Event { step, epoch, message }))
    }

    /// Everything that the steps to come depend on.
    fn state(&self) -> Result<Checkpoint, TrainError> {
        let Position { step, epoch, best, .. } = self.position;
        let content = |e: serde_json::Error| CheckpointError::Content(format!("its position: {e}"));
        let mut checkpoint = Checkpoint::new(TrainingState {
            step,
            epoch,
            config_hash: self.hash.clone(),
            schedule: self.schedule.state().clone(),
            other: serde_json::to_value(&self.position).map_err(content)?,
            best,
            ..TrainingState::default()
        });
        checkpoint.insert("param", save_variables(&self.variables)?)?;
        checkpoint.insert("optimizer", self.optimizer.state()?)?;
        if let Some(average) = &self.average {
            checkpoint.insert("average", average.state()?)?;
        }
        Ok(checkpoint)
    }

    /// Takes up a state.
    pub(super) fn load(&mut self, checkpoint: &Checkpoint) -> Result<(), TrainError> {
        let position =
            Position::deserialize(&checkpoint.state.other).map_err(|e| CheckpointError::Content(format!("its position: {e}")))?;
        load_variables(&self.variables, &checkpoint.section("param"))?;
        self.optimizer.load_state(&checkpoint.section("optimizer"))?;
        if let Some(average) = &mut self.average {
            average.load_state(&checkpoint.section("average"))?;
        }
        self.schedule.load_state(checkpoint.state.schedule.clone())?;
        self.position = position;
        self.merge()
    }

    /// Whether the second stage has begun.
    fn in_stage_two(&self) -> bool {
        let first = self.config.loss.stage_two.map(|stage| stage.first_epoch(self.config.training.max_epochs) as u64);
        first.is_some_and(|first| self.position.epoch >= first)
    }

    /// Factors of the terms of the loss.
    pub(super) fn loss_weights(&self) -> LossWeights {
        match self.config.loss.stage_two.filter(|_| self.in_stage_two()) {
            Some(stage) => stage.weights.into(),
            None => self.config.loss.weights,
        }
    }

    fn learning_rate(&self) -> f64 {
        let scheduled = match self.config.loss.stage_two.filter(|_| self.in_stage_two()) {
            Some(stage) => stage.learning_rate,
            None => self.config.optimizer.learning_rate * self.schedule.factor(self.position.step, self.position.epoch),
        };
        scheduled * self.config.training.rollback_factor.powi(i32::try_from(self.position.rollbacks).unwrap_or(i32::MAX))
    }

    /// Trains until something ends it.
    pub(super) fn run(&mut self, stop: &AtomicBool, tell: &mut (dyn FnMut(Progress<'_>) + Send)) -> Result<Ending, TrainError> {
        let start = self.ranks.seconds();
        let before = self.position.wall_seconds;
        let mut saved = start;
        if self.position.step == 0 && self.position.epoch == 0 {
            let validation = if self.valid.is_empty() { None } else { Some(self.validate(tell)?) };
            let best = validation.as_ref().is_some_and(|v| v.best);
            self.before = self.forgetting(Phase::Before, validation.map(|v| v.errors))?;
            // What it began with is the best there is until something is better, and what a roll-back goes to.
            self.save(best)?;
        }
        while self.position.epoch < self.config.training.max_epochs as u64 {
            match self.epoch(stop, tell, (start, before), &mut saved) {
                Ok(None) => {}
                Ok(Some(ending)) => {
                    self.save(false)?;
                    return Ok(ending);
                }
                Err(error @ TrainError::NotFinite { .. }) if self.config.training.nan == OnNan::Rollback => {
                    self.roll_back(error, tell)?;
                    continue;
                }
                Err(error) => return Err(error),
            }
            let best = self.end_epoch(tell)?;
            let every = self.config.training.checkpoint.epochs as u64;
            if best || (every > 0 && self.position.epoch.is_multiple_of(every)) {
                self.save(best)?;
                saved = self.ranks.seconds();
            }
            let patience = self.config.training.patience as u64;
            if patience > 0 && self.position.since_best >= patience.div_ceil(self.config.training.validate_every as u64) {
                return Ok(Ending::Patience);
            }
        }
        Ok(Ending::Finished)
    }

    fn save(&mut self, best: bool) -> Result<(), TrainError> {
        self.checkpoints.save(&self.state()?, best)?;
        Ok(())
    }

    /// The rest of an epoch, or as much as there is time for.
    fn epoch(
        &mut self,
        stop: &AtomicBool,
        tell: &mut (dyn FnMut(Progress<'_>) + Send),
        (start, before): (f64, f64),
        saved: &mut f64,
    ) -> Result<Option<Ending>, TrainError> {
        let training = self.config.training.clone();
        let order = self.mixture.order(training.seed, self.position.epoch);
        let count = order.len();
        let loader = Loader::new(self.train.clone(), order, self.position.frame, training.batch, training.threads)?;
        let mut batches: Vec<Batch> = Vec::new();
        for loaded in loader {
            let Loaded { batch, position } = loaded?;
            batches.push(batch);
            if batches.len() < training.accumulate && position < count {
                continue;
            }
            let step = self.step(&batches)?;
            batches.clear();
            self.position.frame = position;
            let now = self.ranks.seconds();
            self.position.wall_seconds = before + now - start;
            tell(Progress::Step(&step, (position, count)));
            self.record(Record::Step(step))?;
            if stop.load(Ordering::Relaxed) {
                return Ok(Some(Ending::Interrupted));
            }
            if training.max_time.is_some_and(|limit| self.position.wall_seconds >= limit.seconds()) {
                return Ok(Some(Ending::Time));
            }
            let every = training.checkpoint.time.seconds();
            if every > 0.0 && now - *saved >= every && position < count {
                self.save(false)?;
                *saved = self.ranks.seconds();
            }
        }
        Ok(None)
    }

    /// One update of the weights.
    fn step(&mut self, batches: &[Batch]) -> Result<log::Step, TrainError> {
        let start = Instant::now();
        let learning_rate = self.learning_rate();
        let mut found = shared_gradients(&self.ranks, &self.model, &self.weights, batches, &self.config.loss, self.loss_weights())?;
        if let Some(low_rank) = &self.low_rank {
            found.by_name = low_rank.project(&found.by_name)?;
        }
        let penalty = match &self.anchor {
            Some(anchor) => anchor.add(&self.variables, &mut found.by_name)?,
            None => 0.0,
        };
        let norm = global_norm(&found.by_name)?;
        if !norm.is_finite() {
            let one = if let [batch] = batches
                && let [sample] = &batch[..]
            {
                Some(sample.frame.origin.clone())
            } else {
                None
            };
            return Err(TrainError::NotFinite { what: "the gradient", origin: one });
        }
        self.optimizer.set_learning_rate(learning_rate);
        self.optimizer.step(&found.by_name, clip_factor(norm, self.config.optimizer.clip_norm))?;
        check_finite(&self.variables)?;
        self.merge()?;
        if let Some(average) = &mut self.average {
            average.update()?;
        }
        let samples = || batches.iter().flatten();
        let frames = samples().count();
        let seconds = start.elapsed().as_secs_f64();
        self.position.step += 1;
        let loss = found.terms.total() + penalty;
        self.position.loss += loss * frames as f64;
        self.position.seconds += seconds;
        let LossTerms { energy, forces, stress } = found.terms;
        let terms = [("energy", energy), ("forces", forces), ("stress", stress), ("ewc", penalty)];
        Ok(log::Step {
            step: self.position.step,
            epoch: self.position.epoch + 1,
            loss,
            terms: terms.into_iter().filter(|(_, x)| *x != 0.0).map(|(name, x)| (name.to_owned(), x)).collect(),
            learning_rate,
            gradient_norm: norm,
            frames: frames as u64,
            atoms: samples().map(|s| s.frame.structure.len() as u64).sum(),
            edges: samples().map(|s| s.prepared.num_edges() as u64).sum(),
            seconds,
        })
    }

    /// Ends an epoch: its line of the log, and, when it is time, a validation. Returns whether that was the best so far.
    fn end_epoch(&mut self, tell: &mut (dyn FnMut(Progress<'_>) + Send)) -> Result<bool, TrainError> {
        let epoch = log::Epoch {
            epoch: self.position.epoch + 1,
            step: self.position.step,
            loss: self.position.loss / self.mixture.len() as f64,
            learning_rate: self.learning_rate(),
            seconds: self.position.seconds,
        };
        let was_in_stage_two = self.in_stage_two();
        self.position.epoch += 1;
        (self.position.frame, self.position.loss, self.position.seconds) = (0, 0.0, 0.0);
        tell(Progress::Epoch(&epoch));
        self.record(Record::Epoch(epoch))?;
        let training = &self.config.training;
        let last = self.position.epoch == training.max_epochs as u64;
        let mut best = false;
        let due = last || self.position.epoch.is_multiple_of(training.validate_every as u64);
        if due && self.valid.is_empty() {
            self.forgetting(Phase::During, None)?;
        } else if due {
            let validation = self.validate(tell)?;
            self.forgetting(Phase::During, Some(validation.errors))?;
            best = validation.best;
            if self.schedule.observe(validation.loss) {
                let message = format!("the learning rate is {:.3e} from here on", self.learning_rate());
                self.event(message, tell)?;
            }
        }
        if self.in_stage_two() && !was_in_stage_two {
            // What was best for other weights is not comparable.
            self.position.best = None;
            self.position.since_best = 0;
            let message = format!("second stage: other weights in the loss, learning rate {:.3e}", self.learning_rate());
            self.event(message, tell)?;
        }
        Ok(best)
    }

    /// Measures the errors on the frames to validate on, with averaged weights where there are any.
    fn validate(&mut self, tell: &mut (dyn FnMut(Progress<'_>) + Send)) -> Result<log::Validation, TrainError> {
        let start = Instant::now();
        let (loss, metrics) = self.averaged(|course| course.evaluate(&course.valid, 0..course.valid.len(), None))?;
        let best = loss.is_finite() && self.position.best.is_none_or(|best| loss < best.loss);
        self.position.since_best += 1;
        if best {
            self.position.since_best = 0;
            self.position.best = Some(Best { loss, step: self.position.step, epoch: self.position.epoch });
        }
        let validation = log::Validation {
            epoch: self.position.epoch,
            step: self.position.step,
            set: "valid".into(),
            loss,
            best,
            averaged: self.average.is_some(),
            errors: metrics.all().summary(),
            seconds: start.elapsed().as_secs_f64(),
        };
        tell(Progress::Validation(&validation));
        self.record(Record::Validation(Box::new(validation.clone())))?;
        Ok(validation)
    }

    /// Goes back to the last checkpoint with a lower learning rate.
    fn roll_back(&mut self, error: TrainError, tell: &mut (dyn FnMut(Progress<'_>) + Send)) -> Result<(), TrainError> {
        let TrainError::NotFinite { what, .. } = error else { return Err(error) };
        let Some(found) = self.checkpoints.latest()? else { return Err(error) };
        let (rollbacks, wall_seconds) = (self.position.rollbacks + 1, self.position.wall_seconds);
        if rollbacks > ROLLBACKS {
            return Err(TrainError::RolledBack { what, times: rollbacks });
        }
        self.load(&found.checkpoint)?;
        self.position.rollbacks = rollbacks;
        self.position.wall_seconds = wall_seconds;
        let (step, epoch) = (self.position.step, self.position.epoch);
        self.record(Record::Resumed(log::Resumed { step, epoch, checkpoint: found.path.display().to_string() }))?;
        let message = format!("{error}: back to step {step}, learning rate {:.3e}", self.learning_rate());
        self.event(message, tell)
    }
}
