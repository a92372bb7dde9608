//! The tensors of a model of mace-torch, and what their shapes say.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use tesseral_potentials::Numbers;
use tesseral_potentials::blocks::MlpConfig;

use super::MaceError;
use crate::torch::tensor::{Tensor, TensorData};

/// The tensors, and which of them have been used.
pub(super) struct Tensors<'a> {
    all: &'a BTreeMap<String, Tensor>,
    used: RefCell<BTreeSet<&'a str>>,
}

impl<'a> Tensors<'a> {
    pub(super) fn new(all: &'a BTreeMap<String, Tensor>) -> Self {
        Self { all, used: RefCell::default() }
    }

    pub(super) fn find(&self, name: &str) -> Option<&'a Tensor> {
        let (name, tensor) = self.all.get_key_value(name)?;
        self.used.borrow_mut().insert(name);
        Some(tensor)
    }

    pub(super) fn get(&self, name: &str) -> Result<&'a Tensor, MaceError> {
        self.find(name).ok_or_else(|| MaceError::MissingTensor { name: name.to_owned() })
    }

    /// The one tensor whose name begins and ends so.
    pub(super) fn find_by_ends(&self, begin: &str, end: &str) -> Option<(&'a str, &'a Tensor)> {
        let (name, tensor) =
            self.all.range(begin.to_owned()..).take_while(|(n, _)| n.starts_with(begin)).find(|(n, _)| n.ends_with(end))?;
        self.used.borrow_mut().insert(name);
        Some((name, tensor))
    }

    /// Floating-point numbers of a tensor with the elements of `shape`, whatever axes of length one it has; half precision becomes single.
    pub(super) fn numbers(&self, name: &str, shape: &[usize]) -> Result<Numbers, MaceError> {
        let tensor = self.get(name)?;
        let squeezed = |s: &[usize]| s.iter().copied().filter(|&n| n != 1).collect::<Vec<_>>();
        if squeezed(&tensor.shape) != squeezed(shape) {
            return Err(MaceError::Shape { name: name.to_owned(), found: tensor.shape.clone(), expected: format!("{shape:?}") });
        }
        float(name, tensor)
    }

    /// Floating-point numbers of a flat tensor.
    pub(super) fn flat(&self, name: &str, count: usize) -> Result<Numbers, MaceError> {
        self.numbers(name, &[count])
    }

    /// The one element of a tensor, also of an integer one.
    pub(super) fn scalar(&self, name: &str) -> Result<f64, MaceError> {
        let tensor = self.get(name)?;
        tensor.item().ok_or_else(|| MaceError::Shape { name: name.to_owned(), found: tensor.shape.clone(), expected: "one element".into() })
    }

    /// Whether a tensor is of double precision.
    pub(super) fn is_double(&self, name: &str) -> bool {
        self.all.get(name).is_some_and(|t| matches!(t.data, TensorData::F64(_)))
    }

    /// That no weight was overlooked.
    pub(super) fn check_all_used(&self) -> Result<(), MaceError> {
        /// Whether a tensor says nothing that the hyperparameters do not.
        fn redundant(name: &str) -> bool {
            let last = name.rsplit('.').next().unwrap_or(name);
            last == "output_mask"
                || last.contains("_w3j_")
                || (last.starts_with("weights_") && last.ends_with("_zeroed"))
                || matches!(name, "atomic_numbers" | "r_max" | "num_interactions")
                || matches!(
                    name.strip_prefix("radial_embedding."),
                    Some("cutoff_fn.p" | "cutoff_fn.r_max" | "bessel_fn.r_max" | "bessel_fn.n")
                )
        }
        let used = self.used.borrow();
        let mut names: Vec<String> =
            self.all.iter().filter(|(n, t)| t.numel() > 0 && !used.contains(n.as_str()) && !redundant(n)).map(|(n, _)| n.clone()).collect();
        names.truncate(8);
        if names.is_empty() { Ok(()) } else { Err(MaceError::UnreadTensors { names }) }
    }
}

fn float(name: &str, tensor: &Tensor) -> Result<Numbers, MaceError> {
    Ok(match &tensor.data {
        TensorData::F64(v) => Numbers::F64(v.clone()),
        TensorData::F32(v) => Numbers::F32(v.clone()),
        TensorData::F16(v) => Numbers::F32(v.iter().map(|x| x.to_f32()).collect()),
        TensorData::Bf16(v) => Numbers::F32(v.iter().map(|x| x.to_f32()).collect()),
        _ => return Err(MaceError::Dtype { name: name.to_owned(), dtype: tensor.dtype().to_string() }),
    })
}

/// The elements at `source`, one after another.
pub(super) fn gather(numbers: &Numbers, source: impl Iterator<Item = usize>) -> Numbers {
    match numbers {
        Numbers::F32(v) => Numbers::F32(source.map(|k| v[k]).collect()),
        Numbers::F64(v) => Numbers::F64(source.map(|k| v[k]).collect()),
        Numbers::I64(v) => Numbers::I64(source.map(|k| v[k]).collect()),
    }
}

/// `[rows, columns]` → `[columns, rows]`.
pub(super) fn transpose(numbers: &Numbers, rows: usize, columns: usize) -> Numbers {
    gather(numbers, (0..columns).flat_map(|c| (0..rows).map(move |r| r * columns + c)))
}

/// Multiplies the columns of `[rows, signs.len()]` with signs.
pub(super) fn flip_columns(numbers: &mut Numbers, signs: &[f64]) {
    match numbers {
        Numbers::F32(v) => v.chunks_mut(signs.len()).for_each(|row| row.iter_mut().zip(signs).for_each(|(x, s)| *x *= *s as f32)),
        Numbers::F64(v) => v.chunks_mut(signs.len()).for_each(|row| row.iter_mut().zip(signs).for_each(|(x, s)| *x *= s)),
        Numbers::I64(_) => {}
    }
}

/// The network on edge features whose tensors begin with `prefix`: an e3nn `FullyConnectedNet` (`layer0.weight`, …) or a `RadialMLP`
/// (`net.0.weight`, …, with biases and layer norms), with sizes from the shapes of its weights.
///
/// # Errors
/// [`MaceError::MissingTensor`] if there is neither, [`MaceError::Shape`] if a weight is no matrix.
pub fn radial_network(tensors: &BTreeMap<String, Tensor>, prefix: &str) -> Result<MlpConfig, MaceError> {
    let e3nn = |k: usize| format!("{prefix}.layer{k}.weight");
    let normed = |k: usize| format!("{prefix}.net.{}.weight", 3 * k);
    let is_e3nn = tensors.contains_key(&e3nn(0));
    let mut sizes = Vec::new();
    loop {
        let k = sizes.len().saturating_sub(1);
        let name = if is_e3nn { e3nn(k) } else { normed(k) };
        let Some(weight) = tensors.get(&name) else {
            if sizes.is_empty() {
                return Err(MaceError::MissingTensor { name });
            }
            break;
        };
        let &[a, b] = weight.shape.as_slice() else {
            return Err(MaceError::Shape { name, found: weight.shape.clone(), expected: "a matrix".into() });
        };
        let (inputs, outputs) = if is_e3nn { (a, b) } else { (b, a) };
        match sizes.last() {
            None => sizes.push(inputs),
            Some(&size) if size != inputs => {
                return Err(MaceError::Shape { name, found: weight.shape.clone(), expected: format!("{size} inputs") });
            }
            Some(_) => {}
        }
        sizes.push(outputs);
    }
    Ok(if is_e3nn { MlpConfig::e3nn(sizes) } else { MlpConfig::layer_norm(sizes) })
}

/// The correlation order of layer `t`: how many bases each output of its product has.
///
/// # Errors
/// [`MaceError::MissingTensor`] if there is none.
pub fn correlation(tensors: &BTreeMap<String, Tensor>, t: usize) -> Result<usize, MaceError> {
    let name = |nu: usize| format!("products.{t}.symmetric_contractions.contractions.0.U_matrix_{nu}");
    match (1..).take_while(|&nu| tensors.contains_key(&name(nu))).last() {
        Some(nu) => Ok(nu),
        None => Err(MaceError::MissingTensor { name: name(1) }),
    }
}
