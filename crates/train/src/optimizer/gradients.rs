//! Gradients by the names of their parameters: their norm, and whether they are numbers at all.

use std::collections::BTreeMap;

use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var, WithDType};
use rayon::prelude::*;
use tesseral_ops::real::Real;

use super::error::OptimizerError;
use super::state::{Slice, with_slice};

/// Elements that are summed by one thread; the sums are then added in order, so that the result does not depend on the number of threads.
const CHUNK: usize = 1 << 14;
/// Partial sums side by side, so that the loop vectorises.
const LANES: usize = 8;

/// The gradients of variables out of what candle's differentiation gives, detached. A parameter that the loss does not depend on has none.
pub fn named_gradients(store: &GradStore, variables: &BTreeMap<String, Var>) -> BTreeMap<String, Tensor> {
    variables.iter().filter_map(|(name, var)| Some((name.clone(), store.get(var)?.detach()))).collect()
}

/// √Σ g² over all elements of all tensors, in f64 and in the order of the names.
///
/// # Errors
/// [`OptimizerError::NotFinite`] with the first tensor by name that holds NaN or infinity, or whose squares overflow.
pub fn global_norm(gradients: &BTreeMap<String, Tensor>) -> Result<f64, OptimizerError> {
    let mut total = 0.0;
    for (name, gradient) in gradients {
        total += with_slice(gradient, |slice| match slice {
            Slice::F32(x) => sum_of_squares(x),
            Slice::F64(x) => sum_of_squares(x),
        })?;
        if !f64::is_finite(total) {
            return Err(not_finite("gradient", name, gradient)?);
        }
    }
    Ok(total.sqrt())
}

/// That no variable holds NaN or infinity.
///
/// # Errors
/// [`OptimizerError::NotFinite`] with the first one by name that does.
pub fn check_finite(variables: &BTreeMap<String, Var>) -> Result<(), OptimizerError> {
    for (name, var) in variables {
        let finite = with_slice(var, |slice| match slice {
            Slice::F32(x) => x.iter().all(|x| x.is_finite()),
            Slice::F64(x) => x.iter().all(|x| x.is_finite()),
        })?;
        if !finite {
            return Err(not_finite("value", name, var)?);
        }
    }
    Ok(())
}

/// What gradients of norm `norm` are multiplied with so that it is at most `limit`: min(1, limit / (norm + 10⁻⁶)) as
/// `torch.nn.utils.clip_grad_norm_` does it. A limit of 0 clips nothing.
pub fn clip_factor(norm: f64, limit: f64) -> f64 {
    if limit > 0.0 { (limit / (norm + 1e-6)).min(1.0) } else { 1.0 }
}

fn sum_of_squares<T: Real>(x: &[T]) -> f64 {
    let chunk = |x: &[T]| {
        let mut lanes = [0.0f64; LANES];
        let (blocks, rest) = x.as_chunks::<LANES>();
        for block in blocks {
            for (sum, x) in lanes.iter_mut().zip(block) {
                let x = WithDType::to_f64(*x);
                *sum += x * x;
            }
        }
        for (sum, x) in lanes.iter_mut().zip(rest) {
            let x = WithDType::to_f64(*x);
            *sum += x * x;
        }
        lanes.iter().sum::<f64>()
    };
    if x.len() <= CHUNK {
        return chunk(x);
    }
    x.par_chunks(CHUNK).map(chunk).collect::<Vec<_>>().iter().sum()
}

/// Names the first element that is not a number, or else the largest.
fn not_finite(what: &'static str, name: &str, tensor: &Tensor) -> Result<OptimizerError, OptimizerError> {
    fn worst<T: Real>(x: &[T]) -> (usize, f64) {
        let mut largest = (0, 0.0f64);
        for (index, x) in x.iter().enumerate() {
            let x = WithDType::to_f64(*x);
            if !x.is_finite() {
                return (index, x);
            }
            if x.abs() > largest.1.abs() {
                largest = (index, x);
            }
        }
        largest
    }
    let (index, value) = with_slice(tensor, |slice| match slice {
        Slice::F32(x) => worst(x),
        Slice::F64(x) => worst(x),
    })?;
    Ok(OptimizerError::NotFinite { what, name: name.to_owned(), index, value })
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};
    use tesseral_testkit::Random;

    use super::*;

    fn tensor(x: &[f64]) -> Tensor {
        Tensor::from_slice(x, x.len(), &Device::Cpu).unwrap()
    }

    #[test]
    fn norm_over_all_tensors_whatever_the_threads() {
        let numbers = Random::new(3).numbers(3 * CHUNK + 5);
        let gradients =
            BTreeMap::from([("a".to_owned(), tensor(&numbers)), ("b".to_owned(), tensor(&[3.0, 4.0]).to_dtype(DType::F32).unwrap())]);
        let expected = (numbers.iter().map(|x| x * x).sum::<f64>() + 25.0).sqrt();
        let norms = [1, 2, 5].map(|threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| global_norm(&gradients)).unwrap()
        });
        assert!((norms[0] - expected).abs() < 1e-12 * expected);
        assert!(norms.iter().all(|n| n.to_bits() == norms[0].to_bits()));
    }

    #[test]
    fn the_first_bad_tensor_is_named() {
        let mut gradients = BTreeMap::from([("a".to_owned(), tensor(&[1.0, 2.0]))]);
        gradients.insert("b".into(), tensor(&[0.0, f64::INFINITY, f64::NAN]));
        gradients.insert("c".into(), tensor(&[f64::NAN]));
        let error = global_norm(&gradients).unwrap_err();
        assert!(matches!(&error, OptimizerError::NotFinite { name, index: 1, value, .. } if name == "b" && value.is_infinite()), "{error}");
        gradients.insert("b".into(), tensor(&[0.0, 1e200, -2e200]));
        let error = global_norm(&gradients).unwrap_err();
        assert!(matches!(&error, OptimizerError::NotFinite { name, index: 2, .. } if name == "b"), "{error}");
        let variables = BTreeMap::from([("w".to_owned(), Var::from_slice(&[0.0f32, f32::NAN], 2, &Device::Cpu).unwrap())]);
        let error = check_finite(&variables).unwrap_err();
        assert!(error.to_string().starts_with("the value of `w` is NaN at element 1"), "{error}");
    }

    #[test]
    fn clipping_leaves_small_gradients_alone() {
        assert_eq!(clip_factor(5.0, 10.0), 1.0);
        assert_eq!(clip_factor(20.0, 0.0), 1.0);
        assert!((clip_factor(20.0, 10.0) - 10.0 / 20.000_001).abs() < 1e-16);
    }

    #[test]
    fn only_what_the_loss_depends_on_has_a_gradient() {
        let variables = BTreeMap::from([
            ("used".to_owned(), Var::from_slice(&[1.0f64, 2.0], 2, &Device::Cpu).unwrap()),
            ("unused".to_owned(), Var::from_slice(&[1.0f64], 1, &Device::Cpu).unwrap()),
        ]);
        let loss = variables["used"].sqr().unwrap().sum_all().unwrap();
        let gradients = named_gradients(
            &tesseral_ops::autograd::weight_gradients(&loss, &tesseral_ops::autograd::Leaves::default()).unwrap(),
            &variables,
        );
        assert_eq!(gradients.len(), 1);
        assert_eq!(gradients["used"].to_vec1::<f64>().unwrap(), [2.0, 4.0]);
    }
}
