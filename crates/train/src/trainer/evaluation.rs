//! Errors of a model on a set of frames.

use std::ops::Range;
use std::sync::Arc;

use candle_core::Tensor;
use tesseral_atoms::labels::voigt;
use tesseral_potentials::Evaluation;
use tesseral_potentials::batch::PreparedStructure;

use super::course::Course;
use crate::data::Frame;
use crate::error::TrainError;
use crate::finetune::lora::LowRank;
use crate::loader::{Loader, Samples};
use crate::loss::{LabelCounts, Labels, LossTerms, Predictions, loss};
use crate::metrics::{Metrics, Prediction};
use crate::step::Sample;
use crate::stop::Stop;

/// Points of each parity plot.
const POINTS: usize = 3000;

impl Course {
    /// Runs `f` with the averaged weights in place, where there are any.
    pub(super) fn averaged<R>(&mut self, f: impl FnOnce(&Self) -> Result<R, TrainError>) -> Result<R, TrainError> {
        let average = self.average.take();
        let result = (|| {
            let _in_place = average.as_ref().map(crate::average::Average::swap_in).transpose()?;
            self.merge()?;
            f(self)
        })();
        self.average = average;
        self.merge()?;
        result
    }

    /// Writes low-rank updates into the weights of the model, where that is what is trained.
    pub(super) fn merge(&self) -> Result<(), TrainError> {
        self.low_rank.as_ref().map_or(Ok(()), LowRank::merge)
    }

    /// The loss on some samples, and their errors; with points for plots if there is a seed for their choice. `stop` is asked for before each batch.
    pub(super) fn evaluate(
        &self,
        samples: &Arc<Samples>,
        range: Range<usize>,
        points: Option<u64>,
        stop: Stop<'_>,
    ) -> Result<(f64, Metrics), TrainError> {
        let mut metrics = points.map_or_else(Metrics::new, |seed| Metrics::with_samples(POINTS, seed));
        let order = range.collect();
        let training = &self.config.training;
        let mut counts = LabelCounts::default();
        let mut parts: Vec<(LossTerms, LabelCounts)> = Vec::new();
        for loaded in Loader::new(samples.clone(), order, 0, training.valid_batch, training.threads)? {
            stop.check()?;
            let batch = loaded?.batch;
            let evaluations = self.evaluate_batch(&batch)?;
            for (sample, evaluation) in batch.iter().zip(&evaluations) {
                metrics.add(
                    &sample.frame,
                    &Prediction { energy: evaluation.energy, forces: Some(&evaluation.forces), stress: evaluation.stress.map(voigt) },
                );
            }
            let frames: Vec<&Frame> = batch.iter().map(|s| &*s.frame).collect();
            let labels = Labels::new(&frames, self.model.device())?;
            // Averages of the batch; they are joined to averages of all frames when their numbers are known.
            let here = labels.counts();
            let (_, terms) = loss(&self.config.loss, self.loss_weights(), &self.predictions(&evaluations)?, &labels, here)?;
            counts += here;
            parts.push((terms, here));
        }
        let share = |here: usize, all: usize| if all == 0 { 0.0 } else { here as f64 / all as f64 };
        let total = parts
            .iter()
            .map(|(terms, here)| {
                terms.energy * share(here.energies, counts.energies)
                    + terms.forces * share(here.atoms, counts.atoms)
                    + terms.stress * share(here.stresses, counts.stresses)
            })
            .sum();
        Ok((total, metrics))
    }

    fn evaluate_batch(&self, batch: &[Sample]) -> Result<Vec<Evaluation>, TrainError> {
        let parts: Vec<&PreparedStructure> = batch.iter().map(|s| &*s.prepared).collect();
        let structures: Vec<_> = batch.iter().map(|s| &s.frame.structure).collect();
        let graph = self.model.batch_of_heads(&parts, &structures, batch.iter().map(|s| s.head).collect())?;
        Ok(self.model.evaluate(&graph)?)
    }

    fn predictions(&self, evaluations: &[Evaluation]) -> Result<Predictions, TrainError> {
        let device = self.model.device();
        let s = evaluations.len();
        let energies: Vec<f64> = evaluations.iter().map(|e| e.energy).collect();
        let forces: Vec<f64> = evaluations.iter().flat_map(|e| e.forces.as_flattened()).copied().collect();
        let stresses: Vec<f64> = evaluations.iter().flat_map(|e| e.stress.unwrap_or_default()).flatten().collect();
        let n = forces.len() / 3;
        Ok(Predictions {
            energies: Tensor::from_vec(energies, s, device)?,
            forces: Tensor::from_vec(forces, (n, 3), device)?,
            stresses: Tensor::from_vec(stresses, (s, 3, 3), device)?,
        })
    }
}
