//! Arrays as long as a parameter, in its type and where it lives: what optimisers and averages keep.

use std::cell::RefCell;
use std::collections::BTreeMap;

use candle_core::{CpuStorage, DType, Device, InplaceOp2, Layout, Storage, Tensor, Var};
use tesseral_potentials::{NamedTensor, Numbers};

use super::error::StateError;

/// The elements of a parameter, to be changed, and of a tensor of the same length and type.
pub(crate) enum Pair<'a> {
    F32(&'a mut [f32], &'a [f32]),
    F64(&'a mut [f64], &'a [f64]),
}

/// The elements of a tensor.
pub(crate) enum Slice<'a> {
    F32(&'a [f32]),
    F64(&'a [f64]),
}

struct InPlace<F>(RefCell<F>);

impl<F: FnMut(Pair<'_>) -> candle_core::Result<()>> InplaceOp2 for InPlace<F> {
    fn name(&self) -> &'static str {
        "update of a parameter"
    }

    fn cpu_fwd(&self, s1: &mut CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> candle_core::Result<()> {
        let contiguous = |l: &Layout| l.contiguous_offsets().ok_or_else(|| candle_core::Error::RequiresContiguous { op: self.name() }.bt());
        let ((a, b), (c, d)) = (contiguous(l1)?, contiguous(l2)?);
        let body = &mut *self.0.borrow_mut();
        match (s1, s2) {
            (CpuStorage::F32(x), CpuStorage::F32(y)) => body(Pair::F32(&mut x[a..b], &y[c..d])),
            (CpuStorage::F64(x), CpuStorage::F64(y)) => body(Pair::F64(&mut x[a..b], &y[c..d])),
            (x, _) => Err(unsupported(candle_core::backend::BackendStorage::dtype(x))),
        }
    }
}

fn unsupported(dtype: DType) -> candle_core::Error {
    candle_core::Error::UnsupportedDTypeForOp(dtype, "training").bt()
}

/// Calls `body` with the elements of a variable in CPU memory and those of another tensor. The variable is changed where it lies.
pub(crate) fn with_pair(var: &Var, other: &Tensor, body: impl FnMut(Pair<'_>) -> candle_core::Result<()>) -> candle_core::Result<()> {
    let address = |t: &Tensor| std::ptr::from_ref::<Storage>(&t.storage_and_layout().0).addr();
    // A gradient can be the parameter itself, or another one: that of ½ w² is w.
    let other = if address(var) == address(other) { other.copy()?.contiguous()? } else { other.contiguous()? };
    var.inplace_op2(&other, &InPlace(RefCell::new(body)))
}

/// Calls `body` with the elements of a tensor; they are copied only if they lie on another device or with strides.
pub(crate) fn with_slice<R>(tensor: &Tensor, body: impl FnOnce(Slice<'_>) -> R) -> candle_core::Result<R> {
    let tensor = tensor.to_device(&Device::Cpu)?.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    let range = layout.start_offset()..layout.start_offset() + layout.shape().elem_count();
    match &*storage {
        Storage::Cpu(CpuStorage::F32(x)) => Ok(body(Slice::F32(&x[range]))),
        Storage::Cpu(CpuStorage::F64(x)) => Ok(body(Slice::F64(&x[range]))),
        _ => Err(unsupported(tensor.dtype())),
    }
}

/// The elements of a tensor, row-major.
pub(crate) fn numbers(tensor: &Tensor) -> candle_core::Result<Numbers> {
    with_slice(tensor, |slice| match slice {
        Slice::F32(x) => Numbers::F32(x.to_vec()),
        Slice::F64(x) => Numbers::F64(x.to_vec()),
    })
}

/// A tensor of the shape, type and device of `like`.
pub(crate) fn tensor_like(name: &str, saved: &NamedTensor, like: &Tensor) -> Result<Tensor, StateError> {
    check(name, saved, like)?;
    Ok(match &saved.numbers {
        Numbers::F32(x) => Tensor::from_slice(x, like.shape(), like.device())?,
        Numbers::F64(x) => Tensor::from_slice(x, like.shape(), like.device())?,
        Numbers::I64(x) => Tensor::from_slice(x, like.shape(), like.device())?,
    })
}

fn type_name(numbers: &Numbers) -> &'static str {
    match numbers {
        Numbers::F32(_) => DType::F32.as_str(),
        Numbers::F64(_) => DType::F64.as_str(),
        Numbers::I64(_) => DType::I64.as_str(),
    }
}

fn check(name: &str, saved: &NamedTensor, like: &Tensor) -> Result<(), StateError> {
    if saved.shape != like.dims() || saved.numbers.len() != like.elem_count() {
        return Err(StateError::Shape { name: name.to_owned(), found: saved.shape.clone(), expected: like.dims().to_vec() });
    }
    let (found, expected) = (type_name(&saved.numbers), like.dtype().as_str());
    if found != expected {
        return Err(StateError::Type { name: name.to_owned(), found, expected });
    }
    Ok(())
}

/// Saved arrays by name; each is taken once, and what is left over at the end is an error.
pub(crate) struct Saved<'a>(BTreeMap<&'a str, &'a NamedTensor>);

impl<'a> Saved<'a> {
    pub(crate) fn new(state: &'a [NamedTensor]) -> Result<Self, StateError> {
        let mut map = BTreeMap::new();
        for array in state {
            if map.insert(array.name.as_str(), array).is_some() {
                return Err(StateError::Unexpected { name: array.name.clone() });
            }
        }
        Ok(Self(map))
    }

    pub(crate) fn take(&mut self, name: &str) -> Result<&'a NamedTensor, StateError> {
        self.0.remove(name).ok_or_else(|| StateError::Missing { name: name.to_owned() })
    }

    /// A count that was saved with [`count`].
    pub(crate) fn take_count(&mut self, name: &str) -> Result<u64, StateError> {
        let saved = self.take(name)?;
        match &saved.numbers {
            Numbers::I64(x) if saved.shape.is_empty() && x.len() == 1 => {
                u64::try_from(x[0]).map_err(|_| StateError::Value { name: name.to_owned(), value: x[0] })
            }
            Numbers::I64(_) => Err(StateError::Shape { name: name.to_owned(), found: saved.shape.clone(), expected: Vec::new() }),
            other => Err(StateError::Type { name: name.to_owned(), found: type_name(other), expected: DType::I64.as_str() }),
        }
    }

    pub(crate) fn finish(self) -> Result<(), StateError> {
        match self.0.into_keys().next() {
            None => Ok(()),
            Some(name) => Err(StateError::Unexpected { name: name.to_owned() }),
        }
    }
}

/// A count as an array.
pub(crate) fn count(name: String, value: u64) -> NamedTensor {
    // Counts of steps stay far below 2⁶³.
    NamedTensor { name, shape: Vec::new(), numbers: Numbers::I64(vec![i64::try_from(value).unwrap_or(i64::MAX)]) }
}

/// Several arrays of one parameter.
#[derive(Debug, Clone)]
pub(crate) enum Slots {
    /// In CPU memory, for the fused updates.
    F32(Vec<Vec<f32>>),
    /// Likewise.
    F64(Vec<Vec<f64>>),
    /// On another device, updated by candle's ops.
    Device(Vec<Tensor>),
}

impl Slots {
    /// Zeros for the parameter called `name`.
    pub(crate) fn zeros(name: &str, var: &Tensor, slots: usize) -> Result<Self, StateError> {
        let n = var.elem_count();
        match (var.device(), var.dtype()) {
            (Device::Cpu, DType::F32) => Ok(Self::F32(vec![vec![0.0; n]; slots])),
            (Device::Cpu, DType::F64) => Ok(Self::F64(vec![vec![0.0; n]; slots])),
            (_, DType::F32 | DType::F64) => Self::on_device(var, slots),
            (_, dtype) => Err(StateError::Unsupported { name: name.to_owned(), dtype: dtype.as_str() }),
        }
    }

    /// Zeros as candle tensors.
    pub(crate) fn on_device(var: &Tensor, slots: usize) -> Result<Self, StateError> {
        let zeros = (0..slots).map(|_| var.zeros_like().map(|t| t.detach())).collect::<candle_core::Result<_>>()?;
        Ok(Self::Device(zeros))
    }

    /// One of them, to be saved.
    pub(crate) fn saved(&self, k: usize, name: String, var: &Tensor) -> Result<NamedTensor, StateError> {
        let numbers = match self {
            Self::F32(slots) => Numbers::F32(slots[k].clone()),
            Self::F64(slots) => Numbers::F64(slots[k].clone()),
            Self::Device(slots) => numbers(&slots[k])?,
        };
        Ok(NamedTensor { name, shape: var.dims().to_vec(), numbers })
    }

    /// Takes one of them from what was saved.
    pub(crate) fn load(&mut self, k: usize, name: &str, saved: &NamedTensor, var: &Tensor) -> Result<(), StateError> {
        check(name, saved, var)?;
        match (self, &saved.numbers) {
            (Self::F32(slots), Numbers::F32(x)) => slots[k].clone_from(x),
            (Self::F64(slots), Numbers::F64(x)) => slots[k].clone_from(x),
            (Self::Device(slots), _) => slots[k] = tensor_like(name, saved, var)?,
            // The type is that of the parameter, and so is that of the slots.
            (_, other) => return Err(StateError::Type { name: name.to_owned(), found: type_name(other), expected: var.dtype().as_str() }),
        }
        Ok(())
    }
}

/// The values of variables, by their names.
///
/// # Errors
/// If a variable is neither f32 nor f64, or candle fails.
pub fn save_variables(variables: &BTreeMap<String, Var>) -> Result<Vec<NamedTensor>, StateError> {
    variables
        .iter()
        .map(|(name, var)| match var.dtype() {
            DType::F32 | DType::F64 => Ok(NamedTensor { name: name.clone(), shape: var.dims().to_vec(), numbers: numbers(var)? }),
            dtype => Err(StateError::Unsupported { name: name.clone(), dtype: dtype.as_str() }),
        })
        .collect()
}

/// Sets variables to what [`save_variables`] gave. Nothing is set if anything is missing, left over, or does not fit.
///
/// # Errors
/// [`StateError`] with the name of the first array that is wrong.
pub fn load_variables(variables: &BTreeMap<String, Var>, saved: &[NamedTensor]) -> Result<(), StateError> {
    let mut saved = Saved::new(saved)?;
    let tensors = variables.iter().map(|(name, var)| tensor_like(name, saved.take(name)?, var)).collect::<Result<Vec<_>, _>>()?;
    saved.finish()?;
    for (var, tensor) in variables.values().zip(&tensors) {
        var.set(tensor)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_come_back_to_the_bit() {
        let odd = [1.0f64, -0.0, f64::MIN_POSITIVE / 4.0, 0.1 + 0.2, f64::MAX, 1e-300];
        let variables = BTreeMap::from([
            ("a".to_owned(), Var::from_slice(&odd, (2, 3), &Device::Cpu).unwrap()),
            ("b".to_owned(), Var::from_slice(&[0.1f32, -0.0, f32::MIN_POSITIVE / 2.0], 3, &Device::Cpu).unwrap()),
        ]);
        let saved = save_variables(&variables).unwrap();
        for var in variables.values() {
            var.set(&var.zeros_like().unwrap()).unwrap();
        }
        load_variables(&variables, &saved).unwrap();
        let again = save_variables(&variables).unwrap();
        let bits = |t: &NamedTensor| match &t.numbers {
            Numbers::F32(x) => x.iter().map(|x| u64::from(x.to_bits())).collect::<Vec<_>>(),
            Numbers::F64(x) => x.iter().map(|x| x.to_bits()).collect(),
            Numbers::I64(_) => unreachable!(),
        };
        assert_eq!(again.iter().map(bits).collect::<Vec<_>>(), saved.iter().map(bits).collect::<Vec<_>>());
        assert_eq!(again[0].shape, [2, 3]);
    }

    #[test]
    fn what_does_not_fit_changes_nothing() {
        let variables = BTreeMap::from([
            ("a".to_owned(), Var::from_slice(&[1.0f64, 2.0], 2, &Device::Cpu).unwrap()),
            ("b".to_owned(), Var::from_slice(&[3.0f32], 1, &Device::Cpu).unwrap()),
        ]);
        let good = save_variables(&variables).unwrap();
        let refused = |change: &dyn Fn(&mut Vec<NamedTensor>)| {
            let mut saved = good.clone();
            saved[0].numbers = Numbers::F64(vec![7.0, 8.0]);
            change(&mut saved);
            let error = load_variables(&variables, &saved).unwrap_err();
            assert_eq!(save_variables(&variables).unwrap(), good);
            error
        };
        assert!(matches!(refused(&|s| drop(s.remove(1))), StateError::Missing { name } if name == "b"));
        assert!(matches!(refused(&|s| s[1].shape = vec![1, 1]), StateError::Shape { name, found, .. } if name == "b" && found == [1, 1]));
        let wrong_type = refused(&|s| s[1].numbers = Numbers::F64(vec![0.0]));
        assert!(matches!(wrong_type, StateError::Type { found: "f64", expected: "f32", .. }));
        let extra = NamedTensor { name: "c".into(), shape: vec![], numbers: Numbers::F64(vec![0.0]) };
        assert!(matches!(refused(&|s| s.push(extra.clone())), StateError::Unexpected { name } if name == "c"));
        assert!(matches!(refused(&|s| s.push(s[0].clone())), StateError::Unexpected { name } if name == "a"));
    }

    #[test]
    fn a_parameter_may_be_its_own_gradient() {
        let var = Var::from_slice(&[1.0f64, -2.0], 2, &Device::Cpu).unwrap();
        with_pair(&var, &var.as_tensor().clone(), |pair| {
            if let Pair::F64(w, g) = pair {
                w.iter_mut().zip(g).for_each(|(w, g)| *w -= 0.5 * g);
            }
            Ok(())
        })
        .unwrap();
        assert_eq!(var.to_vec1::<f64>().unwrap(), [0.5, -1.0]);
    }
}
