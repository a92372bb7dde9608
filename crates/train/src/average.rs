//! Exponential moving average of the weights: what validation measures and export writes.
//!
//! After each step s ← s − (1 − d)(s − w), with d = min(decay, (1 + n)/(10 + n)) in the n-th update, so that the average leaves its starting
//! point quickly (`torch_ema`, as in `mace_run_train`).

use std::collections::BTreeMap;

use candle_core::{Tensor, Var};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use tesseral_ops::real::Real;
use tesseral_potentials::NamedTensor;

use crate::optimizer::StateError;
use crate::optimizer::state::{Saved, Slice, Slots, count, tensor_like, with_slice};

/// Elements that one thread updates at a time.
const CHUNK: usize = 1 << 14;

/// Settings of the average.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AverageConfig {
    /// Whether weights are averaged. Default: true.
    pub enabled: bool,
    /// How much of the average stays in one step, from 0 to below 1. Default: 0.99.
    pub decay: f64,
    /// Whether the decay begins at 2/11 and rises to its value. Default: true.
    pub warm_up: bool,
}

impl Default for AverageConfig {
    fn default() -> Self {
        Self { enabled: true, decay: 0.99, warm_up: true }
    }
}

/// Errors of averages.
#[derive(Debug, thiserror::Error)]
pub enum AverageError {
    /// A decay that is none.
    #[error("average.decay: {0} is not between 0 and 1 (1 excluded)")]
    Decay(f64),
    /// A saved state that does not fit, or weights that cannot be averaged.
    #[error(transparent)]
    State(#[from] StateError),
}

impl AverageError {
    /// What to do about it, where there is something.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Decay(_) => Some("0.99 is usual; set average.enabled = false to train without"),
            Self::State(e) => e.hint(),
        }
    }
}

#[derive(Debug, Clone)]
struct Shadow {
    name: String,
    var: Var,
    /// One slot: the average.
    average: Slots,
}

/// The average of all weights, in their types.
#[derive(Debug, Clone)]
pub struct Average {
    decay: f64,
    warm_up: bool,
    updates: u64,
    shadows: Vec<Shadow>,
}

impl Average {
    /// Begins at the weights as they are.
    ///
    /// # Errors
    /// If the decay makes no sense or a weight is neither f32 nor f64.
    pub fn new(config: &AverageConfig, variables: &BTreeMap<String, Var>) -> Result<Self, AverageError> {
        if !(0.0..1.0).contains(&config.decay) {
            return Err(AverageError::Decay(config.decay));
        }
        let shadows = variables
            .iter()
            .map(|(name, var)| {
                let mut average = Slots::zeros(name, var, 1)?;
                set(&mut average, var)?;
                Ok(Shadow { name: name.clone(), var: var.clone(), average })
            })
            .collect::<Result<_, StateError>>()?;
        Ok(Self { decay: config.decay, warm_up: config.warm_up, updates: 0, shadows })
    }

    /// Takes in the weights after a step.
    ///
    /// # Errors
    /// Only if candle fails.
    pub fn update(&mut self) -> Result<(), StateError> {
        self.updates += 1;
        let n = self.updates as f64;
        let decay = if self.warm_up { self.decay.min((1.0 + n) / (10.0 + n)) } else { self.decay };
        let rest = 1.0 - decay;
        for shadow in &mut self.shadows {
            match &mut shadow.average {
                Slots::Device(slots) => {
                    slots[0] = (&slots[0] - ((&slots[0] - shadow.var.as_detached_tensor())? * rest)?)?.detach();
                }
                host => with_slice(&shadow.var, |slice| match (host, slice) {
                    (Slots::F32(s), Slice::F32(w)) => approach(&mut s[0], w, rest),
                    (Slots::F64(s), Slice::F64(w)) => approach(&mut s[0], w, rest),
                    _ => unreachable!("averages have the type of their weight"),
                })?,
            }
        }
        Ok(())
    }

    /// Updates so far.
    pub fn updates(&self) -> u64 {
        self.updates
    }

    /// The averaged weights by the names of the variables, for export.
    ///
    /// # Errors
    /// Only if candle fails.
    pub fn weights(&self) -> Result<Vec<NamedTensor>, StateError> {
        self.shadows.iter().map(|s| s.average.saved(0, s.name.clone(), &s.var)).collect()
    }

    /// Puts the averages in the place of the weights until the guard is dropped.
    ///
    /// # Errors
    /// Only if candle fails; the weights are as before then.
    pub fn swap_in(&self) -> Result<Swapped<'_>, StateError> {
        let mut guard = Swapped { kept: Vec::with_capacity(self.shadows.len()), average: std::marker::PhantomData };
        for shadow in &self.shadows {
            let average = shadow.average.saved(0, shadow.name.clone(), &shadow.var)?;
            let average = tensor_like(&shadow.name, &average, &shadow.var)?;
            guard.kept.push((shadow.var.clone(), shadow.var.copy()?.detach()));
            shadow.var.set(&average)?;
        }
        Ok(guard)
    }

    /// All that it remembers, exactly: `average/NAME` in the shape and type of each weight, and `updates`.
    ///
    /// # Errors
    /// Only if candle fails.
    pub fn state(&self) -> Result<Vec<NamedTensor>, StateError> {
        let averages = self.shadows.iter().map(|s| s.average.saved(0, format!("average/{}", s.name), &s.var));
        averages.chain([Ok(count("updates".into(), self.updates))]).collect()
    }

    /// Goes on from a saved state. Nothing is changed if it does not fit.
    ///
    /// # Errors
    /// [`StateError`] with the name of the first array that is missing, left over or not what it should be.
    pub fn load_state(&mut self, state: &[NamedTensor]) -> Result<(), StateError> {
        let mut saved = Saved::new(state)?;
        let mut shadows = self.shadows.clone();
        for shadow in &mut shadows {
            let name = format!("average/{}", shadow.name);
            shadow.average.load(0, &name, saved.take(&name)?, &shadow.var)?;
        }
        let updates = saved.take_count("updates")?;
        saved.finish()?;
        (self.shadows, self.updates) = (shadows, updates);
        Ok(())
    }
}

fn set(average: &mut Slots, var: &Var) -> Result<(), StateError> {
    if let Slots::Device(slots) = average {
        slots[0] = var.copy()?.detach();
        return Ok(());
    }
    with_slice(var, |slice| match (average, slice) {
        (Slots::F32(s), Slice::F32(w)) => s[0].copy_from_slice(w),
        (Slots::F64(s), Slice::F64(w)) => s[0].copy_from_slice(w),
        _ => unreachable!("averages have the type of their weight"),
    })?;
    Ok(())
}

/// s ← s − rest · (s − w)
fn approach<T: Real>(s: &mut [T], w: &[T], rest: f64) {
    let rest = T::of(rest);
    s.par_chunks_mut(CHUNK).zip(w.par_chunks(CHUNK)).for_each(|(s, w)| {
        for (s, &w) in s.iter_mut().zip(w) {
            *s -= (*s - w) * rest;
        }
    });
}

/// Averages in the place of the weights. When this is dropped, the weights come back.
#[derive(Debug)]
#[must_use = "the weights come back as soon as this is dropped"]
pub struct Swapped<'a> {
    kept: Vec<(Var, Tensor)>,
    /// No update while the averages are in place.
    average: std::marker::PhantomData<&'a Average>,
}

impl Drop for Swapped<'_> {
    fn drop(&mut self) {
        for (var, weights) in &self.kept {
            if let Err(error) = var.set(weights) {
                tracing::error!("weights could not be put back after validation: {error}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};
    use tesseral_potentials::Numbers;

    use super::*;
    use crate::optimizer::tests::golden;

    fn variables() -> BTreeMap<String, Var> {
        BTreeMap::from([
            ("a".to_owned(), Var::from_slice(&[1.0f64, -2.0], (1, 2), &Device::Cpu).unwrap()),
            ("b".to_owned(), Var::from_slice(&[0.5f32], 1, &Device::Cpu).unwrap()),
        ])
    }

    fn values(variables: &BTreeMap<String, Var>) -> Vec<f64> {
        let flat = |v: &Var| v.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1::<f64>().unwrap();
        variables.values().flat_map(flat).collect()
    }

    fn shift(variables: &BTreeMap<String, Var>, by: f64) {
        variables.values().for_each(|v| v.set(&(v.as_tensor() + by).unwrap()).unwrap());
    }

    #[test]
    fn averages_of_torch_ema() {
        for case in golden()["ema"].as_array().unwrap() {
            let numbers = |x: &serde_json::Value| x.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect::<Vec<f64>>();
            let dtype = if case["dtype"] == "float32" { DType::F32 } else { DType::F64 };
            let tensor = |x: &[f64]| Tensor::from_slice(x, x.len(), &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
            let weights: Vec<Vec<f64>> = case["weights"].as_array().unwrap().iter().map(numbers).collect();
            let var = Var::from_tensor(&tensor(&weights[0])).unwrap();
            let variables = BTreeMap::from([("w".to_owned(), var.clone())]);
            let decay = case["decay"].as_f64().unwrap();
            let config = AverageConfig { decay, warm_up: case["warm_up"].as_bool().unwrap(), ..AverageConfig::default() };
            let mut averages = [Average::new(&config, &variables).unwrap(), Average::new(&config, &variables).unwrap()];
            // The path of other devices, on the CPU.
            averages[1].shadows[0].average = Slots::on_device(&var, 1).unwrap();
            set(&mut averages[1].shadows[0].average, &var).unwrap();
            for (w, expected) in weights[1..].iter().zip(case["averages"].as_array().unwrap()) {
                var.set(&tensor(w)).unwrap();
                for average in &mut averages {
                    average.update().unwrap();
                    let found = match &average.weights().unwrap()[0].numbers {
                        Numbers::F32(x) => x.iter().map(|&x| f64::from(x)).collect(),
                        Numbers::F64(x) => x.clone(),
                        Numbers::I64(_) => unreachable!(),
                    };
                    let tolerance = if dtype == DType::F32 { 2e-7 } else { 1e-15 };
                    assert!(tesseral_testkit::relative_error(&found, &numbers(expected)) < tolerance, "{found:?} {expected}");
                }
            }
        }
    }

    #[test]
    fn weights_come_back_when_the_guard_goes() {
        let variables = variables();
        let mut average = Average::new(&AverageConfig::default(), &variables).unwrap();
        let start = values(&variables);
        shift(&variables, 3.0);
        let trained = values(&variables);
        {
            let _guard = average.swap_in().unwrap();
            assert_eq!(values(&variables), start);
        }
        assert_eq!(values(&variables), trained);
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _guard = average.swap_in().unwrap();
            panic!("validation failed");
        }));
        assert!(panicked.is_err());
        assert_eq!(values(&variables), trained);
        average.update().unwrap();
        assert_eq!(average.updates(), 1);
        let _guard = average.swap_in().unwrap();
        assert!(values(&variables).iter().zip(&start).all(|(s, w)| (s - w - 3.0 * 9.0 / 11.0).abs() < 1e-6));
    }

    #[test]
    fn saved_to_the_bit() {
        let variables = variables();
        let mut average = Average::new(&AverageConfig::default(), &variables).unwrap();
        for _ in 0..3 {
            shift(&variables, 0.1);
            average.update().unwrap();
        }
        let state = average.state().unwrap();
        let mut other = Average::new(&AverageConfig::default(), &variables).unwrap();
        other.load_state(&state).unwrap();
        for average in [&mut average, &mut other] {
            average.update().unwrap();
        }
        assert_eq!(average.state().unwrap(), other.state().unwrap());
        let before = other.state().unwrap();
        let error = other.load_state(&state[1..]).unwrap_err();
        assert!(matches!(&error, StateError::Missing { name } if name == "average/a"), "{error}");
        let mut wrong = state.clone();
        wrong[1].shape = vec![1, 1];
        assert!(matches!(other.load_state(&wrong), Err(StateError::Shape { name, .. }) if name == "average/b"));
        wrong[1] = count("updates".into(), 1);
        assert!(other.load_state(&wrong).is_err());
        assert_eq!(other.state().unwrap(), before);
        assert!(matches!(Average::new(&AverageConfig { decay: 1.0, ..AverageConfig::default() }, &variables), Err(AverageError::Decay(_))));
    }
}
