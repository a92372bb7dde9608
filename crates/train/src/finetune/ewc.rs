//! Elastic weight consolidation (Kirkpatrick et al., PNAS 114, 3521 (2017), eq. 3): weights are held where they matter for the old domain.
//!
//! To the loss comes λ/2 Σ F (w − w₀)², with w₀ the weights at the beginning and F the diagonal of the empirical Fisher information, the mean over frames of
//! the old domain of the squared gradient of the loss of that frame. Weights that the old domain does not depend on, such as those of elements that it does
//! not have, are free.

use std::collections::BTreeMap;

use candle_core::{Tensor, Var};
use tesseral_potentials::{Model, NamedTensor, Numbers};

use super::values;
use crate::checkpoint::CheckpointError;
use crate::config::{LossConfig, LossWeights};
use crate::error::TrainError;
use crate::loader::Samples;
use crate::step::gradients;
use crate::stop::Stop;

/// Frames that the information is taken from, at most.
const MOST_FRAMES: usize = 256;

/// Numbers by the names of weights.
pub type ByName = BTreeMap<String, Vec<f64>>;

/// The diagonal of the empirical Fisher information: the mean over frames of the squared gradient of the loss. At most 256 frames are taken, evenly spread
/// over `range` of the samples.
///
/// # Errors
/// [`TrainError::NotFinite`] with the frame, and what the loss says; [`TrainError::Stopped`] if it is asked to stop.
pub fn fisher(
    model: &Model,
    variables: &BTreeMap<String, Var>,
    samples: &Samples,
    range: std::ops::Range<usize>,
    config: &LossConfig,
    weights: LossWeights,
    stop: Stop<'_>,
) -> Result<ByName, TrainError> {
    let count = range.len().min(MOST_FRAMES);
    let mut sums: ByName = variables.iter().map(|(name, var)| (name.clone(), vec![0.0; var.elem_count()])).collect();
    for k in 0..count {
        stop.check()?;
        let sample = samples.sample(range.start + k * range.len() / count)?;
        let origin = sample.frame.origin.clone();
        let found = gradients(model, variables, &[vec![sample]], config, weights)?;
        for (name, gradient) in &found.by_name {
            let Some(sum) = sums.get_mut(name) else { continue };
            for (sum, g) in sum.iter_mut().zip(values(gradient)?) {
                if !g.is_finite() {
                    return Err(TrainError::NotFinite { what: "the gradient", origin: Some(origin) });
                }
                *sum += g * g / count as f64;
            }
        }
    }
    Ok(sums)
}

/// Named numbers as tensors of the shapes of variables, to be saved.
pub fn to_tensors(fisher: &ByName, variables: &BTreeMap<String, Var>) -> Vec<NamedTensor> {
    let shape = |name: &str, n: usize| variables.get(name).map_or(vec![n], |var| var.dims().to_vec());
    let tensor =
        |(name, x): (&String, &Vec<f64>)| NamedTensor { name: name.clone(), shape: shape(name, x.len()), numbers: Numbers::F64(x.clone()) };
    fisher.iter().map(tensor).collect()
}

/// What [`to_tensors`] made.
///
/// # Errors
/// [`CheckpointError::Content`] if it does not fit the variables.
pub fn from_tensors(tensors: Vec<NamedTensor>, variables: &BTreeMap<String, Var>) -> Result<ByName, CheckpointError> {
    let mut by_name = ByName::new();
    for NamedTensor { name, numbers, .. } in tensors {
        if let Numbers::F64(numbers) = numbers {
            by_name.insert(name, numbers);
        }
    }
    let fits = variables.len() == by_name.len()
        && variables.iter().all(|(name, var)| by_name.get(name).is_some_and(|x| x.len() == var.elem_count()));
    if fits { Ok(by_name) } else { Err(CheckpointError::Content("the Fisher information is not that of this model".into())) }
}

/// The penalty.
#[derive(Debug)]
pub struct Anchor {
    weight: f64,
    /// Information and the weights at the beginning, by name.
    by_name: BTreeMap<String, (Vec<f64>, Vec<f64>)>,
}

impl Anchor {
    /// Around the weights as they are, with λ = `weight`.
    ///
    /// # Errors
    /// Only if candle fails.
    pub fn new(weight: f64, variables: &BTreeMap<String, Var>, mut fisher: ByName) -> Result<Self, TrainError> {
        let mut by_name = BTreeMap::new();
        for (name, var) in variables {
            if let Some(fisher) = fisher.remove(name) {
                by_name.insert(name.clone(), (fisher, values(var)?));
            }
        }
        Ok(Self { weight, by_name })
    }

    /// The penalty, λ/2 Σ F (w − w₀)²; its gradient, λ F (w − w₀), is added to `gradients`.
    ///
    /// # Errors
    /// Only if candle fails.
    pub fn add(&self, variables: &BTreeMap<String, Var>, gradients: &mut BTreeMap<String, Tensor>) -> Result<f64, TrainError> {
        let mut penalty = 0.0;
        for (name, (fisher, start)) in &self.by_name {
            let Some(var) = variables.get(name) else { continue };
            let now = values(var)?;
            let mut gradient = Vec::with_capacity(now.len());
            for ((f, w0), w) in fisher.iter().zip(start).zip(&now) {
                let moved = w - w0;
                penalty += 0.5 * self.weight * f * moved * moved;
                gradient.push(self.weight * f * moved);
            }
            let gradient = Tensor::from_vec(gradient, var.shape(), var.device())?.to_dtype(var.dtype())?;
            let sum = match gradients.remove(name) {
                Some(before) => before.add(&gradient)?,
                None => gradient,
            };
            gradients.insert(name.clone(), sum);
        }
        Ok(penalty)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use candle_core::{DType, Device};
    use tesseral_atoms::Structure;
    use tesseral_potentials::Parameters;
    use tesseral_testkit::{Random, slope};

    use super::*;
    use crate::data::{Frame, Memory};
    use crate::testing::tiny_artifact;
    use crate::testing::unlabelled;

    #[test]
    fn the_gradient_of_the_penalty_agrees_with_finite_differences() {
        let mut random = Random::new(3);
        let tensor = |x: Vec<f64>| Tensor::from_vec(x, (2, 3), &Device::Cpu).unwrap();
        let mut variables = BTreeMap::new();
        for name in ["a", "b"] {
            variables.insert(name.to_owned(), Var::from_tensor(&tensor(random.numbers(6))).unwrap());
        }
        let fisher: ByName = variables.keys().map(|name| (name.clone(), random.numbers(6).iter().map(|x| x * x).collect())).collect();
        let anchor = Anchor::new(2.5, &variables, fisher).unwrap();
        let mut gradients = BTreeMap::new();
        assert_eq!(anchor.add(&variables, &mut gradients).unwrap(), 0.0);
        for var in variables.values() {
            var.set(&tensor(random.numbers(6))).unwrap();
        }
        // What was there is added to.
        let before = tensor(random.numbers(6));
        let mut gradients = BTreeMap::from([("a".to_owned(), before.clone())]);
        assert!(anchor.add(&variables, &mut gradients).unwrap() > 0.0);
        for (name, var) in &variables {
            let place: Vec<f64> = values(var).unwrap();
            let mut gradient = gradients[name].clone();
            if name == "a" {
                gradient = (gradient - &before).unwrap();
            }
            let direction = random.numbers(6);
            let expected: f64 = values(&gradient).unwrap().iter().zip(&direction).map(|(g, d)| g * d).sum();
            let numeric = slope(1e-3, |h| {
                var.set(&tensor(place.iter().zip(&direction).map(|(x, d)| x + h * d).collect())).unwrap();
                anchor.add(&variables, &mut BTreeMap::new()).unwrap()
            });
            var.set(&tensor(place)).unwrap();
            assert!((expected - numeric).abs() < 1e-8 * expected.abs().max(1.0), "{name}: {expected} and {numeric}");
        }
    }

    #[test]
    fn information_is_the_mean_of_squared_gradients() {
        tesseral_ops::autograd::enable_second_derivatives().unwrap();
        let artifact = tiny_artifact(&[1, 8]);
        let parameters = Parameters::trainable(&artifact, DType::F64, &Device::Cpu);
        let model = Model::build(&artifact, &parameters).unwrap();
        let variables = parameters.into_variables();
        let frame = |k: usize| Frame {
            energy: Some(-7.0 - k as f64),
            forces: Some(vec![[0.3, 0.0, 0.0], [-0.3, 0.1, 0.0]]),
            ..unlabelled(Structure::molecule(vec![8, 1], vec![[0.0, 0.0, 0.0], [0.9 + 0.1 * k as f64, 0.1, 0.0]]), k)
        };
        let source: Memory = vec![frame(0), frame(1), frame(2)].into();
        let samples = Samples::new(Arc::new(source), artifact.header().clone());
        let (config, weights) = (LossConfig::default(), LossWeights::default());
        let found = fisher(&model, &variables, &samples, 1..3, &config, weights, Stop::never()).unwrap();
        let asked = std::sync::atomic::AtomicBool::new(true);
        let stopped = fisher(&model, &variables, &samples, 1..3, &config, weights, Stop::new(&asked));
        assert!(stopped.unwrap_err().is_stop());
        let of = |k| gradients(&model, &variables, &[vec![samples.sample(k).unwrap()]], &config, weights).unwrap().by_name;
        let (one, two) = (of(1), of(2));
        let mut largest = 0f64;
        for (name, information) in &found {
            let square = |g: &BTreeMap<String, Tensor>, k: usize| g.get(name).map_or(0.0, |g| values(g).unwrap()[k].powi(2));
            for (k, f) in information.iter().enumerate() {
                let expected = 0.5 * (square(&one, k) + square(&two, k));
                assert!((f - expected).abs() <= 1e-12 * expected.max(1e-12), "{name}");
                largest = largest.max(*f);
            }
        }
        assert!(largest > 0.0);
        let again = from_tensors(to_tensors(&found, &variables), &variables).unwrap();
        assert_eq!(again, found);
        assert!(from_tensors(Vec::new(), &variables).is_err());
    }
}
