//! One step: the loss of some frames and its gradient by every weight.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor, Var};
use tesseral_ops::autograd::{self, Leaves};
use tesseral_potentials::batch::PreparedStructure;
use tesseral_potentials::model::head_index;
use tesseral_potentials::{Differentiable, Header, Model, Radial};

use crate::config::{LossConfig, LossWeights};
use crate::data::{Frame, Origin};
use crate::error::TrainError;
use crate::loss::{LabelCounts, Labels, LossTerms, Predictions, loss};
use crate::optimizer::named_gradients;
use crate::ranks::Ranks;

/// A frame with its neighbours listed.
#[derive(Debug, Clone)]
pub struct Sample {
    /// The frame.
    pub frame: Arc<Frame>,
    /// Its graph.
    pub prepared: Arc<PreparedStructure>,
    /// Index of its head.
    pub head: u32,
}

impl Sample {
    /// Lists the neighbours of a frame for a model.
    ///
    /// # Errors
    /// [`TrainError::Frame`] if the model does not know an element or has no such head, or the structure cannot be evaluated.
    pub fn new(header: &Header, frame: Arc<Frame>) -> Result<Self, TrainError> {
        let of_frame = |source| TrainError::Frame { origin: frame.origin.clone(), source };
        let head = head_index(header, frame.head.as_deref()).map_err(of_frame)?;
        let prepared = PreparedStructure::new(&frame.structure, header.elements(), header.cutoff()).map_err(of_frame)?;
        Ok(Self { prepared: Arc::new(prepared), head, frame })
    }
}

/// Samples that are computed together.
pub type Batch = Vec<Sample>;

/// Predictions for a batch, differentiable by the weights.
///
/// Those who train in single precision get radial functions from splines, whose error is below the rounding; in double precision they are exact.
fn predict(model: &Model, batch: &[Sample]) -> Result<(Predictions, Leaves), TrainError> {
    let parts: Vec<&PreparedStructure> = batch.iter().map(|s| &*s.prepared).collect();
    let structures: Vec<_> = batch.iter().map(|s| &s.frame.structure).collect();
    let graph = model.batch_of_heads(&parts, &structures, batch.iter().map(|s| s.head).collect())?;
    let radial = if model.dtype() == DType::F32 { Radial::Splines } else { Radial::Exact };
    let Differentiable { energies, forces, stresses, leaves } = model.differentiable(&graph, radial)?;
    Ok((Predictions { energies, forces, stresses }, leaves))
}

/// What a step found.
#[derive(Debug)]
pub struct Gradients {
    /// The terms of the loss.
    pub terms: LossTerms,
    /// By name of the weight; weights that nothing depends on have none.
    pub by_name: BTreeMap<String, Tensor>,
}

/// The loss of batches that make one step together, and its gradients: batches are computed one after another, so that memory is that of the largest.
///
/// # Errors
/// [`TrainError::NotFinite`], naming the frame, if the loss of a batch is not a number.
pub fn gradients(
    model: &Model,
    variables: &BTreeMap<String, Var>,
    batches: &[Batch],
    config: &LossConfig,
    weights: LossWeights,
) -> Result<Gradients, TrainError> {
    partial_gradients(model, variables, batches, counts_of(batches), config, weights)
}

fn counts_of(batches: &[Batch]) -> LabelCounts {
    batches.iter().flatten().map(|s| LabelCounts::of(&s.frame)).sum()
}

/// What `batches` add to the loss and the gradients of a step with `counts` labels.
fn partial_gradients(
    model: &Model,
    variables: &BTreeMap<String, Var>,
    batches: &[Batch],
    counts: LabelCounts,
    config: &LossConfig,
    weights: LossWeights,
) -> Result<Gradients, TrainError> {
    let mut found = Gradients { terms: LossTerms::default(), by_name: BTreeMap::new() };
    for batch in batches {
        let frames: Vec<&Frame> = batch.iter().map(|s| &*s.frame).collect();
        let labels = Labels::new(&frames, model.device())?;
        let (predictions, leaves) = predict(model, batch)?;
        let (total, terms) = loss(config, weights, &predictions, &labels, counts)?;
        if !terms.total().is_finite() {
            return Err(TrainError::NotFinite { what: "the loss", origin: culprit(&predictions, batch)? });
        }
        found.terms += terms;
        if !total.track_op() {
            continue;
        }
        let store = autograd::weight_gradients(&total, &leaves)?;
        for (name, gradient) in named_gradients(&store, variables) {
            // A gradient that is kept would keep its graph.
            let gradient = gradient.detach();
            let sum = match found.by_name.remove(&name) {
                Some(before) => before.add(&gradient)?,
                None => gradient,
            };
            found.by_name.insert(name, sum);
        }
    }
    Ok(found)
}

/// As [`gradients`], by all ranks together. Each has all the batches, computes its share of their frames, and gets the sums over all ranks: taken in f64 and in
/// the order of ranks, so that they are the same bits everywhere.
///
/// # Errors
/// [`TrainError::NotFinite`], on all ranks alike; [`TrainError::Rank`] if another one fails otherwise.
pub fn shared_gradients(
    ranks: &Ranks,
    model: &Model,
    variables: &BTreeMap<String, Var>,
    batches: &[Batch],
    config: &LossConfig,
    weights: LossWeights,
) -> Result<Gradients, TrainError> {
    if ranks.size() == 1 {
        return gradients(model, variables, batches, config, weights);
    }
    let mine = share(batches, ranks.rank(), ranks.size());
    let found = match partial_gradients(model, variables, &mine, counts_of(batches), config, weights) {
        // That is no end of this rank alone: a training may go on from it, and then all of them do.
        Err(TrainError::NotFinite { origin, .. }) => Err(origin),
        other => Ok(other?),
    };
    let terms = found.as_ref().map_or_else(|_| LossTerms::default(), |found| found.terms);
    let gradient = |name: &str| found.as_ref().ok().and_then(|found| found.by_name.get(name));
    let flag = |yes: bool| f64::from(u8::from(yes));
    // All gradients one after another, which of them there are, and what else is summed.
    let numbers: usize = variables.values().map(|var| var.elem_count()).sum();
    let mut sums = Vec::with_capacity(numbers + variables.len() + 5);
    for (name, var) in variables {
        match gradient(name) {
            Some(gradient) => sums.extend(gradient.flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>()?),
            None => sums.resize(sums.len() + var.elem_count(), 0.0),
        }
    }
    sums.extend(variables.keys().map(|name| flag(gradient(name).is_some())));
    sums.extend([terms.energy, terms.forces, terms.stress, frames_of(&mine) as f64, flag(found.is_err())]);
    ranks.sum(&mut sums)?;
    let [energy, forces, stress, frames, failures] = *sums.last_chunk().expect("five numbers were put there");
    if failures > 0.0 {
        let said = found.as_ref().err().map_or_else(Vec::new, |origin| serde_json::to_vec(origin).expect("places can be written as JSON"));
        let all = ranks.gather(&said)?;
        let origin = all.iter().find_map(|bytes| serde_json::from_slice::<Option<Origin>>(bytes).ok()).flatten();
        return Err(TrainError::NotFinite { what: "the loss", origin });
    }
    if frames != frames_of(batches) as f64 {
        let what = format!("{frames} frames of {} were computed: how a step is divided", frames_of(batches));
        return Err(TrainError::Differ { what, ranks: (1..ranks.size()).collect() });
    }
    let mut found = Gradients { terms: LossTerms { energy, forces, stress }, by_name: BTreeMap::new() };
    let mut offset = 0;
    for ((name, var), present) in variables.iter().zip(&sums[numbers..]) {
        let end = offset + var.elem_count();
        if *present > 0.0 {
            let sum = Tensor::from_slice(&sums[offset..end], var.shape(), &Device::Cpu)?.to_dtype(var.dtype())?.to_device(var.device())?;
            found.by_name.insert(name.clone(), sum);
        }
        offset = end;
    }
    Ok(found)
}

fn frames_of(batches: &[Batch]) -> usize {
    batches.iter().map(Vec::len).sum()
}

/// What one of so many ranks computes of the batches of a step: of each batch in turn, the frames with most edges first, each by the rank that has least to do
/// so far. So every frame has one rank, whichever of them works this out.
fn share(batches: &[Batch], rank: usize, ranks: usize) -> Vec<Batch> {
    let mut work = vec![0; ranks];
    let mut mine = Vec::new();
    for batch in batches {
        let cost = |k: usize| batch[k].prepared.num_edges() + batch[k].frame.structure.len();
        let mut order: Vec<usize> = (0..batch.len()).collect();
        // Stable: of frames that cost the same, the first comes first.
        order.sort_by_key(|&k| Reverse(cost(k)));
        let mut taken = Vec::new();
        for k in order {
            let owner = (0..ranks).min_by_key(|&rank| work[rank]).unwrap_or(0);
            work[owner] += cost(k);
            if owner == rank {
                taken.push(k);
            }
        }
        taken.sort_unstable();
        if !taken.is_empty() {
            mine.push(taken.into_iter().map(|k| batch[k].clone()).collect());
        }
    }
    mine
}

/// The first frame whose prediction is not a number, or the only one there is.
fn culprit(predictions: &Predictions, batch: &[Sample]) -> Result<Option<Origin>, TrainError> {
    let energies: Vec<f64> = predictions.energies.detach().to_vec1()?;
    let forces: Vec<Vec<f64>> = predictions.forces.detach().to_vec2()?;
    let stresses: Vec<f64> = predictions.stresses.detach().flatten_all()?.to_vec1()?;
    let mut first = 0;
    for (s, sample) in batch.iter().enumerate() {
        let n = sample.frame.structure.len();
        let finite = energies[s].is_finite()
            && forces[first..first + n].iter().flatten().all(|x| x.is_finite())
            && stresses[9 * s..9 * s + 9].iter().all(|x| x.is_finite());
        if !finite {
            return Ok(Some(sample.frame.origin.clone()));
        }
        first += n;
    }
    Ok(if let [one] = batch { Some(one.frame.origin.clone()) } else { None })
}

#[cfg(test)]
mod tests {
    use tesseral_atoms::{Cell, Structure};
    use tesseral_potentials::{Artifact, Parameters};
    use tesseral_testkit::{Random, slope};

    use super::*;
    use crate::communicator::threads::on_ranks;
    use crate::config::LossKind;
    use crate::data::Weights;
    use crate::testing::{tiny_artifact, tiny_sevennet, unlabelled};

    /// A crystal and a molecule with labels that are far from anything a model says; one force is masked, one frame has no stress.
    fn samples(artifact: &Artifact) -> Vec<Sample> {
        let mut random = Random::new(11);
        let crystal = Structure::crystal(
            Cell { vectors: [[3.1, 0.1, 0.0], [0.0, 2.9, 0.2], [0.3, 0.0, 3.3]] },
            vec![8, 1, 1],
            vec![[0.1, 0.0, 0.2], [1.2, 1.1, 0.9], [2.1, 0.4, 2.2]],
        );
        let molecule = Structure::molecule(vec![8, 1, 1], vec![[0.0, 0.0, 0.1], [0.9, 0.1, 0.0], [-0.3, 0.9, 0.2]]);
        let mut vectors = |n: usize| (0..n).map(|_| [random.number(), random.number(), random.number()]).collect::<Vec<_>>();
        let frames = [
            Frame {
                energy: Some(-7.0),
                forces: Some(vectors(3)),
                force_mask: Some(vec![true, false, true]),
                stress: Some([0.1, -0.2, 0.3, 0.05, -0.02, 0.07]),
                weights: Weights { energy: 1.5, forces: 0.7, stress: 2.0 },
                ..unlabelled(crystal, 0)
            },
            Frame { energy: Some(-11.0), forces: Some(vectors(3)), ..unlabelled(molecule, 1) },
        ];
        frames.into_iter().map(|f| Sample::new(artifact.header(), Arc::new(f)).unwrap()).collect()
    }

    struct Setting {
        model: Model,
        variables: BTreeMap<String, Var>,
        samples: Vec<Sample>,
    }

    impl Setting {
        fn new(artifact: &Artifact) -> Self {
            autograd::enable_second_derivatives().unwrap();
            let parameters = Parameters::trainable(artifact, DType::F64, &Device::Cpu);
            let model = Model::build(artifact, &parameters).unwrap();
            Self { model, variables: parameters.into_variables(), samples: samples(artifact) }
        }

        fn gradients(&self, kind: LossKind, batches: &[Batch]) -> Gradients {
            // A delta that some deviations are below and some above.
            let config = LossConfig { kind, huber_delta: 0.4, ..LossConfig::default() };
            let weights = LossWeights { energy: 1.0, forces: 10.0, stress: 3.0 };
            gradients(&self.model, &self.variables, batches, &config, weights).unwrap()
        }
    }

    /// Every kind of parameter, for every loss: along random directions of each tensor.
    fn agrees_with_finite_differences(artifact: &Artifact) {
        let setting = Setting::new(artifact);
        let mut random = Random::new(5);
        for kind in [LossKind::Mse, LossKind::Huber, LossKind::Universal, LossKind::L1L2] {
            let found = setting.gradients(kind, std::slice::from_ref(&setting.samples));
            for (name, var) in &setting.variables {
                // The exponents and lengths that are trained nowhere.
                let Some(gradient) = found.by_name.get(name) else { panic!("{name} has no gradient") };
                let direction = random.numbers(var.elem_count());
                let before: Vec<f64> = var.flatten_all().unwrap().to_vec1().unwrap();
                let expected: f64 =
                    gradient.flatten_all().unwrap().to_vec1::<f64>().unwrap().iter().zip(&direction).map(|(g, d)| g * d).sum();
                let scale = before.iter().fold(1e-2f64, |m, x| m.max(x.abs()));
                let numeric = slope(1e-4 * scale, |h| {
                    let moved: Vec<f64> = before.iter().zip(&direction).map(|(x, d)| x + h * d).collect();
                    var.set(&Tensor::from_vec(moved, var.shape(), &Device::Cpu).unwrap()).unwrap();
                    setting.gradients(kind, std::slice::from_ref(&setting.samples)).terms.total()
                });
                var.set(&Tensor::from_vec(before, var.shape(), &Device::Cpu).unwrap()).unwrap();
                let size = expected.abs().max(numeric.abs());
                assert!((expected - numeric).abs() <= 1e-6 * size.max(1e-3), "{kind:?} {name}: {expected} and {numeric}");
            }
        }
    }

    #[test]
    fn weight_gradients_of_mace_agree_with_finite_differences() {
        agrees_with_finite_differences(&tiny_artifact(&[1, 8]));
    }

    #[test]
    fn weight_gradients_of_sevennet_agree_with_finite_differences() {
        agrees_with_finite_differences(&tiny_sevennet(&[1, 8]));
    }

    #[test]
    fn batches_of_a_step_add_up() {
        let setting = Setting::new(&tiny_artifact(&[1, 8]));
        let together = setting.gradients(LossKind::Huber, std::slice::from_ref(&setting.samples));
        let apart = setting.gradients(LossKind::Huber, &[vec![setting.samples[0].clone()], vec![setting.samples[1].clone()]]);
        assert!((together.terms.total() - apart.terms.total()).abs() < 1e-12 * together.terms.total().abs());
        for (name, gradient) in &together.by_name {
            let difference = (gradient - &apart.by_name[name]).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f64>().unwrap();
            let size = gradient.abs().unwrap().max_all().unwrap().to_scalar::<f64>().unwrap();
            assert!(difference <= 1e-11 * size.max(1e-6), "{name}: {difference} of {size}");
        }
    }

    /// On two ranks and on more than there are frames; of one batch, and of one a frame.
    #[test]
    fn ranks_share_a_step() {
        for artifact in [tiny_artifact(&[1, 8]), tiny_sevennet(&[1, 8])] {
            let setting = Setting::new(&artifact);
            let apart: Vec<Batch> = setting.samples.iter().map(|s| vec![s.clone()]).collect();
            let config = LossConfig { kind: LossKind::Huber, huber_delta: 0.4, ..LossConfig::default() };
            let weights = LossWeights { energy: 1.0, forces: 10.0, stress: 3.0 };
            let alone = gradients(&setting.model, &setting.variables, std::slice::from_ref(&setting.samples), &config, weights).unwrap();
            for (size, batches) in [(2, vec![setting.samples.clone()]), (2, apart.clone()), (3, apart)] {
                let found = on_ranks(size, |communicator| {
                    // Every rank has a model of its own.
                    let Setting { model, variables, .. } = Setting::new(&artifact);
                    let ranks = Ranks::new(communicator, Arc::default());
                    let found = shared_gradients(&ranks, &model, &variables, &batches, &config, weights).unwrap();
                    let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f64>().unwrap();
                    (found.terms, found.by_name.iter().map(|(name, t)| (name.clone(), values(t))).collect::<BTreeMap<_, _>>())
                });
                assert!(found.iter().all(|f| *f == found[0]), "ranks differ");
                let (terms, by_name) = &found[0];
                assert!((terms.total() - alone.terms.total()).abs() < 1e-12 * alone.terms.total().abs());
                assert_eq!(by_name.keys().collect::<Vec<_>>(), alone.by_name.keys().collect::<Vec<_>>());
                for (name, expected) in &alone.by_name {
                    let expected = expected.flatten_all().unwrap().to_vec1::<f64>().unwrap();
                    let size = expected.iter().fold(1e-6f64, |m, x| m.max(x.abs()));
                    let close = by_name[name].iter().zip(&expected).all(|(a, b)| (a - b).abs() <= 1e-11 * size);
                    assert!(close, "{name}");
                }
            }
        }
    }

    #[test]
    fn every_frame_has_one_rank_and_work_is_even() {
        let artifact = tiny_artifact(&[1]);
        let chain = |n: usize| {
            let frame = unlabelled(Structure::molecule(vec![1; n], (0..n).map(|i| [i as f64, 0.0, 0.0]).collect()), n);
            Sample::new(artifact.header(), Arc::new(frame)).unwrap()
        };
        let sizes = |batches: Vec<Batch>| batches.iter().map(|b| b.iter().map(|s| s.frame.origin.frame).collect()).collect::<Vec<Vec<_>>>();
        let batches = [vec![chain(2), chain(9), chain(3)], vec![chain(8)], vec![chain(1)]];
        let shares = |ranks: usize| (0..ranks).map(|rank| sizes(share(&batches, rank, ranks))).collect::<Vec<_>>();
        assert_eq!(shares(1), [vec![vec![2, 9, 3], vec![8], vec![1]]]);
        // 9 is more than 3 and 2 together, so 8 goes where these are; then 1 to the 9.
        assert_eq!(shares(2), [vec![vec![9], vec![1]], vec![vec![2, 3], vec![8]]]);
        assert_eq!(shares(7).iter().flatten().flatten().count(), 5);
    }

    #[test]
    fn a_number_that_is_none_is_one_on_all_ranks() {
        let artifact = tiny_artifact(&[1, 8]);
        let mut setting = Setting::new(&artifact);
        let mut frame = (*setting.samples[1].frame).clone();
        frame.energy = Some(f64::NAN);
        setting.samples[1].frame = Arc::new(frame);
        let errors = on_ranks(2, |communicator| {
            let Setting { model, variables, .. } = Setting::new(&artifact);
            let ranks = Ranks::new(communicator, Arc::default());
            let batches = [setting.samples.clone()];
            shared_gradients(&ranks, &model, &variables, &batches, &LossConfig::default(), LossWeights::default()).unwrap_err()
        });
        for error in errors {
            assert!(matches!(&error, TrainError::NotFinite { origin: Some(o), .. } if o.frame == 1), "{error}");
        }
    }

    #[test]
    fn a_frame_without_a_number_is_named() {
        let mut setting = Setting::new(&tiny_artifact(&[1, 8]));
        let mut frame = (*setting.samples[1].frame).clone();
        frame.energy = Some(f64::NAN);
        setting.samples[1].frame = Arc::new(frame);
        let error = gradients(
            &setting.model,
            &setting.variables,
            &[vec![setting.samples[1].clone()]],
            &LossConfig::default(),
            LossWeights::default(),
        );
        assert!(error.unwrap_err().to_string().contains("frame 1 of test"));
    }
}
