//! Errors of a model on a set of frames.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use candle_core::Tensor;
use tesseral_atoms::labels::voigt;
use tesseral_potentials::Evaluation;
use tesseral_potentials::batch::PreparedStructure;

use super::course::Course;
use crate::communicator::CommunicatorError;
use crate::data::Frame;
use crate::error::TrainError;
use crate::finetune::lora::LowRank;
use crate::loader::{Loader, Samples};
use crate::loss::{LabelCounts, Labels, LossTerms, Predictions, loss};
use crate::metrics::{Metrics, Prediction};
use crate::step::{Batch, Sample};
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

    /// The loss on some samples, and their errors; with points for plots if there is a seed for their choice. Ranks compute a batch each at a time and tell
    /// one another, so that all have the same results, those of a single one. `stop` is asked for before each round of batches.
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
        let mut loader = Loader::new(samples.clone(), order, 0, training.valid_batch, training.threads)?;
        let mut round: VecDeque<(Batch, Vec<Evaluation>)> = VecDeque::new();
        loop {
            if round.is_empty() {
                stop.check()?;
                round = self.evaluate_round(&mut loader)?;
            }
            let Some((batch, evaluations)) = round.pop_front() else { break };
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

    /// The next batches, one for each rank, and what the model says about them. None when there are no more.
    fn evaluate_round(&self, loader: &mut Loader) -> Result<VecDeque<(Batch, Vec<Evaluation>)>, TrainError> {
        let batches: Vec<Batch> =
            loader.take(self.ranks.size()).map(|loaded| loaded.map(|loaded| loaded.batch)).collect::<Result<_, _>>()?;
        let evaluate = |batch: Batch| -> Result<_, TrainError> {
            let evaluations = self.evaluate_batch(&batch)?;
            Ok((batch, evaluations))
        };
        if self.ranks.size() == 1 || batches.is_empty() {
            return batches.into_iter().map(evaluate).collect();
        }
        let mine = batches.get(self.ranks.rank()).map_or(Ok(Vec::new()), |batch| self.evaluate_batch(batch))?;
        let said = self.ranks.gather(&to_bytes(&mine))?;
        let of_rank = |(batch, bytes): (Batch, &Vec<u8>)| -> Result<_, TrainError> {
            let evaluations = from_bytes(bytes, &batch);
            let evaluations = evaluations.ok_or_else(|| CommunicatorError::Lost("a rank has other frames to evaluate".into()))?;
            Ok((batch, evaluations))
        };
        batches.into_iter().zip(&said).map(of_rank).collect()
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

/// Energies, forces and stresses for other ranks.
fn to_bytes(evaluations: &[Evaluation]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut add = |numbers: &[f64]| bytes.extend(numbers.iter().flat_map(|x| x.to_le_bytes()));
    for evaluation in evaluations {
        add(&[evaluation.energy, if evaluation.stress.is_some() { 1.0 } else { 0.0 }]);
        add(evaluation.forces.as_flattened());
        evaluation.stress.iter().for_each(|stress| add(stress.as_flattened()));
    }
    bytes
}

/// What [`to_bytes`] made of the evaluations of a batch; `None` if it was another batch.
fn from_bytes(bytes: &[u8], batch: &[Sample]) -> Option<Vec<Evaluation>> {
    let (chunks, []) = bytes.as_chunks::<8>() else { return None };
    let mut numbers = chunks.iter().map(|chunk| f64::from_le_bytes(*chunk));
    let mut evaluations = Vec::with_capacity(batch.len());
    for sample in batch {
        let (energy, has_stress) = (numbers.next()?, numbers.next()? != 0.0);
        let mut vector = || Some([numbers.next()?, numbers.next()?, numbers.next()?]);
        let forces = (0..sample.frame.structure.len()).map(|_| vector()).collect::<Option<_>>()?;
        let stress = if has_stress { Some([vector()?, vector()?, vector()?]) } else { None };
        evaluations.push(Evaluation { energy, forces, stress, atomic_energies: Vec::new() });
    }
    numbers.next().is_none().then_some(evaluations)
}

#[cfg(test)]
mod tests {
    use tesseral_atoms::{Cell, Structure};

    use super::*;
    use crate::testing::tiny_artifact;
    use crate::testing::unlabelled;

    #[test]
    fn evaluations_come_back_to_the_bit() {
        let artifact = tiny_artifact(&[1]);
        let sample = |structure: Structure| {
            let frame = unlabelled(structure, 0);
            Sample::new(artifact.header(), Arc::new(frame)).unwrap()
        };
        let atoms = vec![[0.0; 3], [0.0, 0.0, 1.0]];
        let batch = [sample(Structure::molecule(vec![1; 2], atoms)), sample(Structure::crystal(Cell::cubic(4.0), vec![1], vec![[0.0; 3]]))];
        let molecule = Evaluation { energy: -0.1, forces: vec![[0.1 + 0.2, -0.0, 1e-300], [f64::MAX, 3.0, -1.0]], ..Evaluation::default() };
        let stress = Some([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]]);
        let crystal = Evaluation { energy: 1.0 / 3.0, forces: vec![[0.5; 3]], stress, ..Evaluation::default() };
        let bytes = to_bytes(&[molecule.clone(), crystal.clone()]);
        assert_eq!(from_bytes(&bytes, &batch), Some(vec![molecule, crystal]));
        assert_eq!(from_bytes(&bytes[8..], &batch), None);
        assert_eq!(from_bytes(&bytes[1..], &batch), None);
        assert_eq!(from_bytes(&bytes, &batch[..1]), None);
        assert_eq!(from_bytes(&[], &[]), Some(Vec::new()));
    }
}
