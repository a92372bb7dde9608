//! What a training leaves: the model, errors on all sets, the report.

use std::ops::Range;
use std::sync::Arc;

use super::course::Course;
use super::{Ending, Outcome, Progress, forgetting};
use crate::data::{FrameSource, Subset, files_of};
use crate::error::TrainError;
use crate::finetune::replay::Mixture;
use crate::loader::Samples;
use crate::log::{self, Record};
use crate::optimizer::save_variables;
use crate::report::{Phase, Report, SetRow};
use crate::stop::Stop;

/// Writes the model of the best validation and the report. If it is asked to stop meanwhile, that is an interruption: the state is saved, and what is missing
/// is made when it goes on.
pub(super) fn finish(
    mut course: Course,
    ending: Ending,
    stop: Stop<'_>,
    tell: &mut (dyn FnMut(Progress<'_>) + Send),
) -> Result<Outcome, TrainError> {
    let mut outcome = Outcome::without_model(ending);
    let (step, epoch, wall_seconds) = (course.position.step, course.position.epoch, course.position.wall_seconds);
    if ending != Ending::Interrupted {
        match results(&mut course, &mut outcome, stop) {
            Err(error) if error.is_stop() => outcome = Outcome::without_model(Ending::Interrupted),
            done => done?,
        }
    }
    course.record(Record::End(log::End { step, epoch, reason: outcome.ending.word().to_owned(), wall_seconds }))?;
    if let Some(log) = &mut course.log {
        log.sync()?;
        if course.config.output.report && outcome.ending != Ending::Interrupted {
            let mut report = Report::from_log(&log::read(course.files.log())?);
            report.forgetting.extend(forgetting::of_others(&course.config.output.compare)?);
            let path = course.files.report();
            report.write(&path).map_err(|source| TrainError::Write { path: path.clone(), source })?;
            outcome.report = Some(path);
        }
    }
    tell(Progress::Event("done"));
    Ok(outcome)
}

/// Writes the model of the best validation, and measures it on all sets.
fn results(course: &mut Course, outcome: &mut Outcome, stop: Stop<'_>) -> Result<(), TrainError> {
    let last = (course.position.step, course.position.epoch, course.position.wall_seconds);
    if let Some(best) = course.checkpoints.best()? {
        course.load(&best)?;
    }
    (course.position.step, course.position.epoch, course.position.wall_seconds) = last;
    let model = course.averaged(|course| course.artifact())?;
    if course.ranks.is_first() {
        model.save(&course.files.model())?;
    }
    outcome.model = Some(course.files.model());
    let seed = course.config.training.seed;
    for (name, samples, range) in sets(course)? {
        let (_, metrics) = course.averaged(|course| course.evaluate(&samples, range, Some(seed), stop))?;
        let summary = metrics.summary(&name);
        outcome.errors.push(SetRow { set: name, errors: metrics.all().summary() });
        course.record(Record::Evaluation(Box::new(summary)))?;
    }
    let of_valid = outcome.errors.iter().find(|row| row.set == "valid").map(|row| row.errors.clone());
    let after = course.forgetting(Phase::After, of_valid, stop)?;
    outcome.forgetting = course.before.iter().cloned().chain(after).collect();
    Ok(())
}

/// The sets that the finished model is measured on: to train, replayed, to validate, and the files to test on.
fn sets(course: &Course) -> Result<Vec<(String, Arc<Samples>, Range<usize>)>, TrainError> {
    let Mixture { new, replayed, .. } = course.mixture;
    let mut sets = vec![("train".to_owned(), course.train.clone(), 0..new)];
    if replayed > 0 {
        sets.push(("replay".to_owned(), course.train.clone(), new..course.train.len()));
    }
    if !course.valid.is_empty() {
        sets.push(("valid".to_owned(), course.valid.clone(), 0..course.valid.len()));
    }
    for (file, indices) in files_of(&*course.data.test)? {
        let range = 0..indices.len();
        let source: Arc<dyn FrameSource> = Arc::new(Subset::new(course.data.test.clone(), indices));
        let name = std::path::Path::new(&*file).file_name().map_or_else(|| file.to_string(), |n| n.to_string_lossy().into_owned());
        sets.push((name, Arc::new(Samples::new(source, course.initial.header().clone())), range));
    }
    Ok(sets)
}

impl Course {
    /// The model with the weights as they are.
    fn artifact(&self) -> Result<tesseral_potentials::Artifact, TrainError> {
        let mut header = self.initial.header().clone();
        header.name.clone_from(&self.config.output.name);
        let (step, epoch) = self.position.best.map_or((self.position.step, self.position.epoch), |best| (best.step, best.epoch));
        header.provenance.producer = format!("tesseral {}", env!("CARGO_PKG_VERSION"));
        header.provenance.notes.push(format!("trained for {epoch} epochs, {step} steps, seed {}", self.config.training.seed));
        Ok(self.initial.with_tensors(header, save_variables(&self.weights)?)?)
    }
}
