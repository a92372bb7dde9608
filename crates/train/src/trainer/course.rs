//! The course of a training: steps, validations, checkpoints.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use candle_core::Var;
use serde::{Deserialize, Serialize};
use tesseral_potentials::{Artifact, Model};

use super::checkpoints::RunCheckpoints;
use super::objective::Objective;
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
use crate::log::{self, LogError, LogWriter, Record};
use crate::loss::LossTerms;
use crate::optimizer::{LbfgsEnd, Optimizer, load_variables, save_variables};
use crate::ranks::Ranks;
use crate::report::{ForgettingRow, Phase};
use crate::schedule::Schedule;
use crate::step::Batch;
use crate::stop::Stop;
use crate::tensorboard::TensorBoard;

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
    /// Whether the errors that are due after the last epoch, or before the first one, have been measured.
    measured: bool,
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
    pub(super) tensorboard: Option<TensorBoard>,
    pub(super) position: Position,
    /// Frames of the old domain on which forgetting is measured, by name.
    pub(super) old: Vec<(String, Arc<Samples>)>,
    /// Errors before fine-tuning.
    pub(super) before: Vec<ForgettingRow>,
    /// Whether it was said that L-BFGS gets no further.
    pub(super) said_stalled: bool,
    /// What parts of this training took that ended before this process began, s.
    pub(super) earlier_seconds: f64,
}

impl Course {
    /// Writes a record wherever records go: into the log, and for TensorBoard.
    pub(super) fn record(&mut self, record: Record) -> Result<(), TrainError> {
        if let Some(log) = &mut self.log {
            log.write(&record)?;
        }
        if let Some(tensorboard) = &mut self.tensorboard {
            tensorboard.record(&record).map_err(LogError::from)?;
        }
        Ok(())
    }

    fn event(&mut self, message: String, tell: &mut (dyn FnMut(Progress<'_>) + Send)) -> Result<(), TrainError> {
        tell(Progress::Event(&message));
        self.note(message)
    }

    /// Warns of something.
    fn warn(&mut self, message: String) -> Result<(), TrainError> {
        tracing::warn!("{message}");
        self.note(message)
    }

    fn note(&mut self, message: String) -> Result<(), TrainError> {
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
            // L-BFGS has none: this is the factor of the length that its line searches try first.
            _ if self.optimizer.needs_function() => 1.0,
            Some(stage) => stage.learning_rate,
            None => self.config.optimizer.learning_rate * self.schedule.factor(self.position.step, self.position.epoch),
        };
        scheduled * self.config.training.rollback_factor.powi(i32::try_from(self.position.rollbacks).unwrap_or(i32::MAX))
    }

    /// Trains until something ends it.
    pub(super) fn run(&mut self, stop: Stop<'_>, tell: &mut (dyn FnMut(Progress<'_>) + Send)) -> Result<Ending, TrainError> {
        self.earlier_seconds = self.position.wall_seconds;
        let every = self.config.training.checkpoint.epochs as u64;
        let mut saved = self.ranks.seconds();
        let mut is_saved = true;
        loop {
            if !self.position.measured {
                let best = match self.measure(stop, tell) {
                    // Saved as it was before, so that it is measured when it goes on.
                    Err(error) if error.is_stop() => {
                        self.position.wall_seconds = self.wall_seconds();
                        self.save(false)?;
                        return Ok(Ending::Interrupted);
                    }
                    measured => measured?,
                };
                self.position.wall_seconds = self.wall_seconds();
                let epoch = self.position.epoch;
                // What it began with is the best there is until something is better, and what a roll-back goes to.
                if best || epoch == 0 || (every > 0 && epoch.is_multiple_of(every)) {
                    self.save(best)?;
                    saved = self.ranks.seconds();
                    is_saved = true;
                }
            }
            if let Some(ending) = self.ending(stop) {
                if !is_saved {
                    self.save(false)?;
                }
                return Ok(ending);
            }
            is_saved = false;
            match self.epoch(stop, tell, &mut saved) {
                Ok(None) => self.end_epoch(tell)?,
                Ok(Some(ending)) => {
                    self.save(false)?;
                    return Ok(ending);
                }
                Err(error @ TrainError::NotFinite { .. }) if self.config.training.nan == OnNan::Rollback => self.roll_back(error, tell)?,
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether and how it ends between two epochs.
    fn ending(&self, stop: Stop<'_>) -> Option<Ending> {
        let training = &self.config.training;
        let patience = (training.patience as u64).div_ceil(training.validate_every as u64);
        if patience > 0 && self.position.since_best >= patience {
            Some(Ending::Patience)
        } else if self.position.epoch >= training.max_epochs as u64 {
            Some(Ending::Finished)
        } else {
            self.cut_short(stop)
        }
    }

    /// Time that training takes, all its parts, s.
    fn wall_seconds(&self) -> f64 {
        self.earlier_seconds + self.ranks.seconds()
    }

    /// Whether it ends before it is done.
    fn cut_short(&self, stop: Stop<'_>) -> Option<Ending> {
        if stop.is_asked() {
            return Some(Ending::Interrupted);
        }
        let limit = self.config.training.max_time?;
        (self.ranks.seconds() >= limit.seconds()).then_some(Ending::Time)
    }

    fn save(&mut self, best: bool) -> Result<(), TrainError> {
        self.checkpoints.save(&self.state()?, best)?;
        Ok(())
    }

    /// The rest of an epoch, or as much as there is time for.
    fn epoch(
        &mut self,
        stop: Stop<'_>,
        tell: &mut (dyn FnMut(Progress<'_>) + Send),
        saved: &mut f64,
    ) -> Result<Option<Ending>, TrainError> {
        let training = self.config.training.clone();
        let order = self.mixture.order(training.seed, self.position.epoch);
        let count = order.len();
        let loader = Loader::new(self.train.clone(), order, self.position.frame, training.batch, training.threads)?;
        let mut batches: Vec<Batch> = Vec::new();
        for loaded in loader {
            // Frames that wait for their step are read again.
            if stop.is_asked() {
                return Ok(Some(Ending::Interrupted));
            }
            let Loaded { batch, position } = loaded?;
            batches.push(batch);
            if batches.len() < training.accumulate && position < count {
                continue;
            }
            if self.optimizer.needs_function() && self.position.step == 0 && position < count {
                self.warn(format!(
                    "optimizer.kind: L-BFGS compares the losses of different frames, because a step sees {position} of {count}; make training.batch, or \
                     training.accumulate, large enough for all"
                ))?;
            }
            let step = match self.step(&batches, stop) {
                // A line search was left; the weights are as before.
                Err(error) if error.is_stop() => return Ok(Some(Ending::Interrupted)),
                step => step?,
            };
            batches.clear();
            self.position.frame = position;
            self.position.wall_seconds = self.wall_seconds();
            tell(Progress::Step(&step, (position, count)));
            self.record(Record::Step(step))?;
            if let Some(ending) = self.cut_short(stop) {
                return Ok(Some(ending));
            }
            let every = training.checkpoint.time.seconds();
            if every > 0.0 && self.ranks.seconds() - *saved >= every && position < count {
                self.save(false)?;
                *saved = self.ranks.seconds();
            }
        }
        Ok(None)
    }

    /// One update of the weights.
    fn step(&mut self, batches: &[Batch], stop: Stop<'_>) -> Result<log::Step, TrainError> {
        let start = Instant::now();
        let learning_rate = self.learning_rate();
        self.optimizer.set_learning_rate(learning_rate);
        let objective = Objective {
            ranks: &self.ranks,
            factors: self.loss_weights(),
            model: &self.model,
            weights: &self.weights,
            variables: &self.variables,
            low_rank: self.low_rank.as_ref(),
            anchor: self.anchor.as_ref(),
            loss: &self.config.loss,
            batches,
        };
        let mut stalled = None;
        let found = if self.optimizer.needs_function() {
            let (found, report) = objective.minimize(&mut self.optimizer, stop)?;
            stalled = (report.iterations == 0).then_some(report.end);
            found
        } else {
            objective.descend(&mut self.optimizer, self.config.optimizer.largest_norm())?
        };
        self.merge()?;
        if let Some(average) = &mut self.average {
            average.update()?;
        }
        let samples = || batches.iter().flatten();
        let frames = samples().count();
        let seconds = start.elapsed().as_secs_f64();
        self.position.step += 1;
        let loss = found.loss();
        self.position.loss += loss * frames as f64;
        self.position.seconds += seconds;
        if let Some(end) = stalled
            && !self.said_stalled
        {
            self.said_stalled = true;
            let why = if end == LbfgsEnd::Converged { "the gradient is as small as was asked for" } else { "no lower loss was found" };
            self.warn(format!("L-BFGS: {why}; the weights stay as they are for this step"))?;
        }
        let LossTerms { energy, forces, stress } = found.terms;
        let terms = [("energy", energy), ("forces", forces), ("stress", stress), ("ewc", found.penalty)];
        Ok(log::Step {
            step: self.position.step,
            epoch: self.position.epoch + 1,
            loss,
            terms: terms.into_iter().filter(|(_, x)| *x != 0.0).map(|(name, x)| (name.to_owned(), x)).collect(),
            learning_rate,
            gradient_norm: found.norm,
            frames: frames as u64,
            atoms: samples().map(|s| s.frame.structure.len() as u64).sum(),
            edges: samples().map(|s| s.prepared.num_edges() as u64).sum(),
            seconds,
        })
    }

    /// Ends an epoch: its line of the log.
    fn end_epoch(&mut self, tell: &mut (dyn FnMut(Progress<'_>) + Send)) -> Result<(), TrainError> {
        let epoch = log::Epoch {
            epoch: self.position.epoch + 1,
            step: self.position.step,
            loss: self.position.loss / self.mixture.len() as f64,
            learning_rate: self.learning_rate(),
            seconds: self.position.seconds,
        };
        self.position.epoch += 1;
        self.position.measured = false;
        (self.position.frame, self.position.loss, self.position.seconds) = (0, 0.0, 0.0);
        tell(Progress::Epoch(&epoch));
        self.record(Record::Epoch(epoch))
    }

    /// What is due after an epoch, or before the first one: errors, and what follows from them. Returns whether they are the best so far.
    ///
    /// # Errors
    /// [`TrainError::Stopped`] if it is asked to stop: the position is as before then, and all of it is still due.
    fn measure(&mut self, stop: Stop<'_>, tell: &mut (dyn FnMut(Progress<'_>) + Send)) -> Result<bool, TrainError> {
        let training = &self.config.training;
        let epoch = self.position.epoch;
        let due = epoch == training.max_epochs as u64 || epoch.is_multiple_of(training.validate_every as u64);
        let before = (self.position.best, self.position.since_best);
        let errors = if due { self.errors(stop, tell) } else { Ok(None) };
        let validation = match errors {
            Ok(validation) => validation,
            Err(error) => {
                (self.position.best, self.position.since_best) = before;
                return Err(error);
            }
        };
        self.position.measured = true;
        if epoch == 0 {
            return Ok(validation.is_some_and(|v| v.best));
        }
        if let Some(validation) = &validation
            && self.schedule.observe(validation.loss)
            && !self.optimizer.needs_function()
        {
            let message = format!("the learning rate is {:.3e} from here on", self.learning_rate());
            self.event(message, tell)?;
        }
        if self.config.loss.stage_two.is_some_and(|stage| stage.first_epoch(self.config.training.max_epochs) as u64 == epoch) {
            // What was best for other weights is not comparable.
            self.position.best = None;
            self.position.since_best = 0;
            self.optimizer.forget_curvature();
            let message = format!("second stage: other weights in the loss, learning rate {:.3e}", self.learning_rate());
            self.event(message, tell)?;
        }
        Ok(validation.is_some_and(|v| v.best))
    }

    /// Errors on the frames to validate on and, of a fine-tuning, on the old domain.
    fn errors(&mut self, stop: Stop<'_>, tell: &mut (dyn FnMut(Progress<'_>) + Send)) -> Result<Option<log::Validation>, TrainError> {
        let phase = if self.position.epoch == 0 { Phase::Before } else { Phase::During };
        let validation = if self.valid.is_empty() { None } else { Some(self.validate(stop, tell)?) };
        let rows = self.forgetting(phase, validation.as_ref().map(|v| v.errors.clone()), stop)?;
        if phase == Phase::Before {
            self.before = rows;
        }
        Ok(validation)
    }

    /// Measures the errors on the frames to validate on, with averaged weights where there are any.
    fn validate(&mut self, stop: Stop<'_>, tell: &mut (dyn FnMut(Progress<'_>) + Send)) -> Result<log::Validation, TrainError> {
        let start = Instant::now();
        let (loss, metrics) = self.averaged(|course| course.evaluate(&course.valid, 0..course.valid.len(), None, stop))?;
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

#[cfg(test)]
mod tests;
