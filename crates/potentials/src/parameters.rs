//! The tensors of a model while it is built and computed with: plain ones for inference, variables for training.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor, Var};
use tesseral_ops::linear::LinearSpec;

use crate::artifact::Artifact;
use crate::error::{PotentialError, Result};

/// Gives out tensors by name, checked against the shape that the configuration needs.
pub struct Parameters<'a> {
    artifact: &'a Artifact,
    dtype: DType,
    device: Device,
    variables: Option<RefCell<BTreeMap<String, Var>>>,
    is_trained: Option<&'a dyn Fn(&str) -> bool>,
    linear_maps: RefCell<BTreeMap<String, Arc<LinearSpec>>>,
}

impl<'a> Parameters<'a> {
    /// For inference: nothing is tracked.
    pub fn frozen(artifact: &'a Artifact, dtype: DType, device: &Device) -> Self {
        Self { artifact, dtype, device: device.clone(), variables: None, is_trained: None, linear_maps: RefCell::default() }
    }

    /// For training: every floating-point tensor that a model asks for as a parameter becomes a variable.
    pub fn trainable(artifact: &'a Artifact, dtype: DType, device: &Device) -> Self {
        Self { variables: Some(RefCell::default()), ..Self::frozen(artifact, dtype, device) }
    }

    /// For training: as [`Self::trainable`], but only tensors whose name `is_trained` says so; the others are constants that nothing is computed for.
    pub fn trainable_where(artifact: &'a Artifact, dtype: DType, device: &Device, is_trained: &'a dyn Fn(&str) -> bool) -> Self {
        Self { is_trained: Some(is_trained), ..Self::trainable(artifact, dtype, device) }
    }

    /// The variables that were given out, by name.
    pub fn into_variables(self) -> BTreeMap<String, Var> {
        self.variables.map(RefCell::into_inner).unwrap_or_default()
    }

    /// A parameter that holds the weights of a linear map, as [`Self::get`]: rows of `spec.weight_numel` numbers, or the matrix of a single block.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn linear(&self, name: &str, shape: &[usize], spec: &Arc<LinearSpec>) -> Result<Tensor> {
        self.linear_maps.borrow_mut().insert(name.to_owned(), spec.clone());
        self.get(name, shape)
    }

    /// The linear maps whose weights were given out, by the names of these.
    pub fn linear_maps(&self) -> BTreeMap<String, Arc<LinearSpec>> {
        self.linear_maps.borrow().clone()
    }

    /// The type that is computed in.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Where it is computed.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Whether a tensor is there.
    pub fn contains(&self, name: &str) -> bool {
        self.artifact.contains(name)
    }

    fn check(&self, name: &str, shape: &[usize]) -> Result<()> {
        let found = self.artifact.shape(name).ok_or_else(|| PotentialError::MissingTensor { name: name.to_owned() })?;
        if found == shape {
            Ok(())
        } else {
            Err(PotentialError::Shape { name: name.to_owned(), found: found.to_vec(), expected: shape.to_vec() })
        }
    }

    /// A parameter in the type of the computation.
    ///
    /// # Errors
    /// If it is missing, or its shape or type is not what is needed.
    pub fn get(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        self.get_as(name, shape, self.dtype)
    }

    /// A parameter that stays in f64 whatever the computation uses (energies of atoms, scale, shift).
    ///
    /// # Errors
    /// If it is missing, or its shape or type is not what is needed.
    pub fn get_f64(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        self.get_as(name, shape, DType::F64)
    }

    fn get_as(&self, name: &str, shape: &[usize], dtype: DType) -> Result<Tensor> {
        self.check(name, shape)?;
        let tensor = Tensor::from_vec(self.artifact.f64(name)?, shape, &self.device)?.to_dtype(dtype)?;
        match &self.variables {
            None => Ok(tensor),
            Some(_) if self.is_trained.is_some_and(|is_trained| !is_trained(name)) => Ok(tensor),
            Some(variables) => {
                let mut variables = variables.borrow_mut();
                let var = match variables.entry(name.to_owned()) {
                    std::collections::btree_map::Entry::Occupied(e) => e.into_mut(),
                    std::collections::btree_map::Entry::Vacant(e) => e.insert(Var::from_tensor(&tensor)?),
                };
                Ok(var.as_tensor().clone())
            }
        }
    }

    /// Constants (coupling tables, radii) as f64, never trained.
    ///
    /// # Errors
    /// If they are missing, or their shape or type is not what is needed.
    pub fn constants(&self, name: &str, shape: &[usize]) -> Result<Vec<f64>> {
        self.check(name, shape)?;
        self.artifact.f64(name)
    }

    /// A table of indices together with its shape.
    ///
    /// # Errors
    /// If it is missing or of another type.
    pub fn table(&self, name: &str) -> Result<(Vec<i64>, Vec<usize>)> {
        let shape = self.artifact.shape(name).ok_or_else(|| PotentialError::MissingTensor { name: name.to_owned() })?;
        Ok((self.artifact.i64(name)?, shape.to_vec()))
    }

    /// The shape of a tensor in the file.
    ///
    /// # Errors
    /// If it is missing.
    pub fn shape(&self, name: &str) -> Result<Vec<usize>> {
        self.artifact.shape(name).map(<[usize]>::to_vec).ok_or_else(|| PotentialError::MissingTensor { name: name.to_owned() })
    }
}
