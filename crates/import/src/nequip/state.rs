//! The tensors of a NequIP model under the names they have inside its energy network.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use tesseral_potentials::{NamedTensor, Numbers};

use super::NequipError;
use crate::source::ForeignCheckpoint;
use crate::torch::tensor::{DType, TensorRef};

/// A tensor of every model, by which the network is found among the others of a file.
pub(super) const ANCHOR: &str = "layer0_convnet.conv.linear_1.weight";

/// Numbers of a tensor, and whether they were stored with less than 64 bits.
#[derive(Debug, Clone)]
pub(super) struct Weights {
    pub(super) shape: Vec<usize>,
    pub(super) values: Vec<f64>,
    pub(super) single: bool,
}

/// The tensors of one network; each is read when it is asked for.
pub(super) struct State<'c> {
    checkpoint: &'c ForeignCheckpoint,
    /// Under their names inside the network, such as `layer0_convnet.conv.linear_1.weight`.
    inner: BTreeMap<String, TensorRef>,
    /// The other tensors of the model, under their whole names.
    outer: BTreeMap<String, TensorRef>,
    used: RefCell<BTreeSet<String>>,
}

impl<'c> State<'c> {
    /// Of all tensors of a model.
    ///
    /// # Errors
    /// If there is no NequIP network among them, or several.
    pub(super) fn new(
        checkpoint: &'c ForeignCheckpoint,
        tensors: impl IntoIterator<Item = (String, TensorRef)>,
    ) -> Result<Self, NequipError> {
        let tensors: BTreeMap<String, TensorRef> = tensors.into_iter().collect();
        let mut prefixes = tensors.keys().filter_map(|name| name.strip_suffix(ANCHOR));
        let prefix = prefixes.next().ok_or_else(|| not_nequip(tensors.keys()))?.to_owned();
        if let Some(second) = prefixes.next() {
            return Err(NequipError::SeveralModels { first: prefix, second: second.to_owned() });
        }
        let (mut inner, mut outer) = (BTreeMap::new(), BTreeMap::new());
        for (name, tensor) in tensors {
            match name.strip_prefix(&prefix) {
                Some(short) => inner.insert(short.to_owned(), tensor),
                None => outer.insert(name, tensor),
            };
        }
        Ok(Self { checkpoint, inner, outer, used: RefCell::default() })
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.inner.contains_key(name)
    }

    fn read(&self, name: &str, tensor: &TensorRef) -> Result<Weights, NequipError> {
        let read = self.checkpoint.tensor(name, tensor)?;
        let values = read.to_f64();
        if let Some(index) = values.iter().position(|v| !v.is_finite()) {
            return Err(NequipError::NotFinite { name: name.to_owned(), index });
        }
        Ok(Weights { shape: read.shape.clone(), single: read.dtype() != DType::F64, values })
    }

    /// The tensor `name`, whatever its shape.
    pub(super) fn get(&self, name: &str) -> Result<Weights, NequipError> {
        let tensor = self.inner.get(name).ok_or_else(|| NequipError::MissingTensor { name: name.to_owned() })?;
        self.used.borrow_mut().insert(name.to_owned());
        self.read(name, tensor)
    }

    /// The tensor `name`, which must have `numel` elements.
    pub(super) fn flat(&self, name: &str, numel: usize) -> Result<Weights, NequipError> {
        let weights = self.get(name)?;
        if weights.values.len() == numel { Ok(weights) } else { Err(wrong_shape(name, &weights, &[numel])) }
    }

    /// The matrix `name`; `rows` is what it is applied to.
    pub(super) fn matrix(&self, name: &str, rows: usize) -> Result<(Weights, usize), NequipError> {
        let weights = self.get(name)?;
        match weights.shape[..] {
            [n, columns] if n == rows && columns > 0 => Ok((weights, columns)),
            _ => Err(wrong_shape(name, &weights, &[rows, 0])),
        }
    }

    /// The product of all numbers outside the network whose names end with `suffix`; empty tensors, the placeholders of what is switched off, count as 1.
    pub(super) fn outer_product(&self, suffix: &str) -> Result<f64, NequipError> {
        let mut product = 1.0;
        for (name, tensor) in self.outer.iter().filter(|(name, _)| name.rsplit('.').next() == Some(suffix)) {
            product *= self.read(name, tensor)?.values.iter().product::<f64>();
        }
        Ok(product)
    }

    /// Whether any tensor outside the network whose name ends with `suffix` holds something other than zero.
    pub(super) fn outer_nonzero(&self, suffix: &str) -> Result<bool, NequipError> {
        for (name, tensor) in self.outer.iter().filter(|(name, _)| name.rsplit('.').next() == Some(suffix)) {
            if self.read(name, tensor)?.values.iter().any(|&v| v != 0.0) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// A 3j tensor that is stored with the convolution of layer `t`.
    pub(super) fn stored_3j(&self, t: usize, [l1, l2, l3]: [usize; 3]) -> Result<Option<Vec<f64>>, NequipError> {
        let (prefix, suffix) = (format!("layer{t}_convnet.conv."), format!("._w3j_{l1}_{l2}_{l3}"));
        let found = self.inner.iter().find(|(name, _)| name.starts_with(&prefix) && name.ends_with(&suffix));
        found.map(|(name, tensor)| Ok(self.read(name, tensor)?.values)).transpose()
    }

    /// Every tensor must have been used, or a module of the model would be left out silently.
    ///
    /// # Errors
    /// [`NequipError::UnknownTensor`] naming one that was not.
    pub(super) fn check_all_used(&self) -> Result<(), NequipError> {
        let used = self.used.borrow();
        let unknown = self.inner.iter().find(|(name, tensor)| {
            let last = name.rsplit('.').next().unwrap_or(name);
            let generated = last == "output_mask" || last.starts_with("_w3j_") || last.starts_with("_tensor_constant");
            !used.contains(*name) && !generated && tensor.numel() != Some(0)
        });
        match unknown {
            None => Ok(()),
            Some((name, _)) => Err(NequipError::UnknownTensor { name: name.clone() }),
        }
    }
}

fn not_nequip<'n>(mut names: impl Iterator<Item = &'n String>) -> NequipError {
    if names.any(|name| name.contains("allegro") || name.contains(".tps.") || name.contains("edge_readout")) {
        NequipError::Allegro
    } else {
        NequipError::MissingTensor { name: ANCHOR.to_owned() }
    }
}

pub(super) fn wrong_shape(name: &str, weights: &Weights, expected: &[usize]) -> NequipError {
    NequipError::Shape { name: name.to_owned(), found: weights.shape.clone(), expected: expected.to_vec() }
}

/// Tensors of the artifact in the making.
#[derive(Default)]
pub(super) struct Output(pub(super) Vec<NamedTensor>);

impl Output {
    /// Writes `values` in the precision they were stored with.
    pub(super) fn push(&mut self, name: impl Into<String>, shape: &[usize], values: Vec<f64>, single: bool) {
        let numbers = if single { Numbers::F32(values.into_iter().map(|v| v as f32).collect()) } else { Numbers::F64(values) };
        self.0.push(NamedTensor { name: name.into(), shape: shape.to_vec(), numbers });
    }
}
