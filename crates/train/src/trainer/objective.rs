//! What a step makes smaller: the loss of its frames, with the penalty of elastic weight consolidation.

use std::collections::BTreeMap;

use candle_core::{Tensor, Var};
use tesseral_potentials::Model;

use crate::config::{LossConfig, LossWeights};
use crate::data::Origin;
use crate::error::TrainError;
use crate::finetune::ewc::Anchor;
use crate::finetune::lora::LowRank;
use crate::loss::LossTerms;
use crate::optimizer::{LbfgsReport, Optimizer, OptimizerError, check_finite, clip_factor, global_norm};
use crate::ranks::Ranks;
use crate::step::{Batch, shared_gradients};
use crate::stop::Stop;

/// The loss of some batches as a function of what the optimiser moves.
#[derive(Clone, Copy)]
pub(super) struct Objective<'a> {
    /// Those that divide the batches among them.
    pub(super) ranks: &'a Ranks,
    pub(super) model: &'a Model,
    /// The weights of the model, and what the optimiser moves: the same, or low-rank updates of them.
    pub(super) weights: &'a BTreeMap<String, Var>,
    pub(super) variables: &'a BTreeMap<String, Var>,
    pub(super) low_rank: Option<&'a LowRank>,
    pub(super) anchor: Option<&'a Anchor>,
    pub(super) loss: &'a LossConfig,
    pub(super) factors: LossWeights,
    pub(super) batches: &'a [Batch],
}

/// The loss at one place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    pub(super) terms: LossTerms,
    /// Of elastic weight consolidation.
    pub(super) penalty: f64,
    /// Norm of the gradient.
    pub(super) norm: f64,
}

impl Found {
    pub(super) fn loss(&self) -> f64 {
        self.terms.total() + self.penalty
    }
}

impl Objective<'_> {
    /// The loss and its gradients where the variables are; the weights of the model have to be there too.
    ///
    /// # Errors
    /// [`TrainError::NotFinite`], with the frame where that is known, if a number is none.
    fn gradients(&self) -> Result<(Found, BTreeMap<String, Tensor>), TrainError> {
        let mut found = shared_gradients(self.ranks, self.model, self.weights, self.batches, self.loss, self.factors)?;
        if let Some(low_rank) = self.low_rank {
            found.by_name = low_rank.project(&found.by_name)?;
        }
        let penalty = match self.anchor {
            Some(anchor) => anchor.add(self.variables, &mut found.by_name)?,
            None => 0.0,
        };
        let norm = global_norm(&found.by_name).map_err(|error| self.not_finite("the gradient", error))?;
        Ok((Found { terms: found.terms, penalty, norm }, found.by_name))
    }

    /// A step along the gradient, shortened to `largest_norm`. Returns what it began with.
    ///
    /// # Errors
    /// As [`Self::gradients`].
    pub(super) fn descend(&self, optimizer: &mut Optimizer, largest_norm: f64) -> Result<Found, TrainError> {
        let (found, gradients) = self.gradients()?;
        optimizer.step(&gradients, clip_factor(found.norm, largest_norm))?;
        check_finite(self.variables).map_err(|error| self.not_finite("a weight", error))?;
        Ok(found)
    }

    /// A step of L-BFGS. Returns what it began with, and how it went.
    ///
    /// # Errors
    /// As [`Self::gradients`], of where it begins: from trials that go too far it comes back. [`TrainError::Stopped`] if it is asked to stop. Variables and
    /// optimiser are as before then.
    pub(super) fn minimize(&self, optimizer: &mut Optimizer, stop: Stop<'_>) -> Result<(Found, LbfgsReport), TrainError> {
        let mut first = None;
        let report = optimizer.minimize(|| {
            stop.check()?;
            if let Some(low_rank) = self.low_rank {
                low_rank.merge()?;
            }
            match self.gradients() {
                Ok((found, gradients)) => {
                    first.get_or_insert(found);
                    Ok::<_, TrainError>((found.loss(), gradients))
                }
                Err(TrainError::NotFinite { .. }) if first.is_some() => Ok((f64::NAN, BTreeMap::new())),
                Err(error) => Err(error),
            }
        })?;
        let found = first.expect("it evaluates where it begins");
        Ok((found, report))
    }

    fn not_finite(&self, what: &'static str, error: OptimizerError) -> TrainError {
        let OptimizerError::NotFinite { .. } = error else { return error.into() };
        tracing::warn!("{error}");
        TrainError::NotFinite { what, origin: self.only_frame() }
    }

    /// The frame, where there is just one.
    fn only_frame(&self) -> Option<Origin> {
        match self.batches {
            [batch] => match &batch[..] {
                [sample] => Some(sample.frame.origin.clone()),
                _ => None,
            },
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use candle_core::{DType, Device};
    use tesseral_atoms::Structure;
    use tesseral_potentials::{Artifact, Parameters};

    use super::*;
    use crate::config::LoraConfig;
    use crate::data::{DataConfig, Dataset, FileConfig, Frame};
    use crate::optimizer::{LbfgsConfig, LbfgsEnd, OptimizerConfig, OptimizerKind, save_variables};
    use crate::step::Sample;
    use crate::testing::tiny_artifact;
    use crate::testing::unlabelled;

    struct Setting {
        ranks: Ranks,
        artifact: Artifact,
        model: Model,
        weights: BTreeMap<String, Var>,
        loss: LossConfig,
    }

    impl Setting {
        fn new() -> Self {
            tesseral_ops::autograd::enable_second_derivatives().unwrap();
            let artifact = tiny_artifact(&[1, 8]);
            let parameters = Parameters::trainable(&artifact, DType::F64, &Device::Cpu);
            let model = Model::build(&artifact, &parameters).unwrap();
            let weights = parameters.into_variables();
            Self { ranks: Ranks::alone(), artifact, model, weights, loss: LossConfig::default() }
        }

        fn batch(&self, energy: f64) -> Batch {
            let frame = Frame {
                energy: Some(energy),
                forces: Some(vec![[0.3, 0.0, -0.2], [-0.3, 0.1, 0.1], [0.0, -0.1, 0.1]]),
                ..unlabelled(Structure::molecule(vec![8, 1, 1], vec![[0.0, 0.0, 0.1], [0.9, 0.1, 0.0], [-0.3, 0.9, 0.2]]), 7)
            };
            vec![Sample::new(self.artifact.header(), Arc::new(frame)).unwrap()]
        }

        fn objective<'a>(&'a self, batches: &'a [Batch]) -> Objective<'a> {
            Objective {
                ranks: &self.ranks,
                model: &self.model,
                weights: &self.weights,
                variables: &self.weights,
                low_rank: None,
                anchor: None,
                loss: &self.loss,
                factors: LossWeights::default(),
                batches,
            }
        }
    }

    fn lbfgs(lbfgs: LbfgsConfig) -> OptimizerConfig {
        OptimizerConfig { kind: OptimizerKind::Lbfgs, weight_decay: 0.0, lbfgs, ..OptimizerConfig::default() }
    }

    #[test]
    fn lbfgs_comes_further_than_adam_with_as_many_gradients() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("data.xyz");
        fs_err::write(&file, crate::trainer::tests::molecules(6, 1, -10.0)).unwrap();
        let config = DataConfig { train: vec![FileConfig::new(file)], valid_fraction: 0.0, ..DataConfig::default() };
        let data = Dataset::load(&config, &[]).unwrap();
        let lowest = |lbfgs: bool, evaluations: &mut usize| {
            let setting = Setting::new();
            let sample = |k| Sample::new(setting.artifact.header(), data.train.frame(k).unwrap()).unwrap();
            let batches = [(0..6).map(sample).collect()];
            let objective = setting.objective(&batches);
            let first = objective.gradients().unwrap().0.loss();
            if lbfgs {
                let config = self::lbfgs(LbfgsConfig { iterations: 5, ..LbfgsConfig::default() });
                let mut optimizer = Optimizer::new(&config, &setting.weights).unwrap();
                for _ in 0..10 {
                    let (found, report) = objective.minimize(&mut optimizer, Stop::never()).unwrap();
                    assert!(report.loss < found.loss());
                    *evaluations += report.evaluations;
                }
                return (first, objective.gradients().unwrap().0.loss());
            }
            // The lowest loss on its way, of several learning rates.
            let mut lowest = f64::INFINITY;
            let start = save_variables(&setting.weights).unwrap();
            for learning_rate in [0.003, 0.01, 0.03] {
                crate::optimizer::load_variables(&setting.weights, &start).unwrap();
                let config = OptimizerConfig { learning_rate, ..OptimizerConfig::default() };
                let mut optimizer = Optimizer::new(&config, &setting.weights).unwrap();
                for _ in 0..*evaluations {
                    lowest = lowest.min(objective.descend(&mut optimizer, config.largest_norm()).unwrap().loss());
                }
            }
            (first, lowest)
        };
        let mut evaluations = 0;
        let (start, lbfgs) = lowest(true, &mut evaluations);
        let (same_start, adam) = lowest(false, &mut evaluations);
        assert_eq!(start, same_start);
        assert!(lbfgs < 0.3 * adam, "{evaluations} gradients: from {start} to {lbfgs} and {adam}");
    }

    #[test]
    fn trials_that_go_too_far_come_back() {
        let setting = Setting::new();
        let batches = [setting.batch(-10.0)];
        let objective = setting.objective(&batches);
        let mut optimizer = Optimizer::new(&lbfgs(LbfgsConfig { evaluations: 400, ..LbfgsConfig::default() }), &setting.weights).unwrap();
        // Where the first trial goes there are no numbers.
        optimizer.set_learning_rate(1e120);
        let (found, report) = objective.minimize(&mut optimizer, Stop::never()).unwrap();
        assert_eq!((report.end, report.iterations), (LbfgsEnd::Iterations, 1));
        assert!(report.evaluations > 20 && report.loss < found.loss(), "{report:?} {found:?}");
        assert_eq!(objective.gradients().unwrap().0.loss(), report.loss);
    }

    #[test]
    fn a_start_without_a_number_names_the_frame_and_changes_nothing() {
        let setting = Setting::new();
        let before = save_variables(&setting.weights).unwrap();
        for kind in [OptimizerKind::Lbfgs, OptimizerKind::Adam] {
            let mut optimizer = Optimizer::new(&OptimizerConfig { kind, ..OptimizerConfig::default() }, &setting.weights).unwrap();
            // A loss that is infinite, and a gradient whose norm is.
            for (energy, weight) in [(1e200, 1.0), (1e100, 1e100)] {
                let batches = [setting.batch(energy)];
                let factors = LossWeights { energy: weight, ..LossWeights::default() };
                let objective = Objective { factors, ..setting.objective(&batches) };
                let result = match kind {
                    OptimizerKind::Lbfgs => objective.minimize(&mut optimizer, Stop::never()).map(|_| ()),
                    _ => objective.descend(&mut optimizer, 10.0).map(|_| ()),
                };
                let error = result.unwrap_err();
                assert!(matches!(error, TrainError::NotFinite { .. }) && error.to_string().contains("frame 7 of test"), "{error}");
                assert_eq!(save_variables(&setting.weights).unwrap(), before);
            }
        }
    }

    #[test]
    fn a_line_search_is_left_when_it_is_asked_to_stop() {
        let setting = Setting::new();
        let batches = [setting.batch(-10.0)];
        let objective = setting.objective(&batches);
        let before = save_variables(&setting.weights).unwrap();
        let mut optimizer = Optimizer::new(&lbfgs(LbfgsConfig::default()), &setting.weights).unwrap();
        let flag = AtomicBool::new(true);
        assert!(objective.minimize(&mut optimizer, Stop::new(&flag)).unwrap_err().is_stop());
        assert_eq!(save_variables(&setting.weights).unwrap(), before);
        flag.store(false, Ordering::Relaxed);
        objective.minimize(&mut optimizer, Stop::new(&flag)).unwrap();
        assert_ne!(save_variables(&setting.weights).unwrap(), before);
    }

    #[test]
    fn low_rank_updates_are_merged_for_every_trial() {
        let setting = Setting::new();
        let maps = {
            let parameters = Parameters::frozen(&setting.artifact, DType::F64, &Device::Cpu);
            Model::build(&setting.artifact, &parameters).unwrap();
            parameters.linear_maps()
        };
        let low_rank = LowRank::new(LoraConfig { rank: 2, alpha: 2.0 }, &setting.weights, &maps, &BTreeMap::new(), 3).unwrap();
        let variables = low_rank.variables();
        let batches = [setting.batch(-10.0)];
        let objective = Objective { variables: &variables, low_rank: Some(&low_rank), ..setting.objective(&batches) };
        let mut optimizer = Optimizer::new(&lbfgs(LbfgsConfig { iterations: 3, ..LbfgsConfig::default() }), &variables).unwrap();
        let (found, report) = objective.minimize(&mut optimizer, Stop::never()).unwrap();
        assert!(report.loss < found.loss());
        low_rank.merge().unwrap();
        assert_eq!(objective.gradients().unwrap().0.loss(), report.loss);
    }
}
