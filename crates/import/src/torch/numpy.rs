//! Arrays and types of numpy, as pickles spell them.

use crate::torch::archive::ByteOrder;
use crate::torch::tensor::{DType, StorageRef, Tensor, TensorError, TensorRef};
use crate::torch::value::{Heap, Value, ValueId};

/// A `numpy.dtype` without fields: one letter for the kind, and the size of an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NumpyDType {
    /// `f` float, `i` and `u` integers, `b` boolean, `U` text, `S` bytes, `O` objects.
    pub kind: char,
    /// Bytes per element (characters for `U`).
    pub size: u32,
    /// Byte order of an element.
    pub order: ByteOrder,
}

impl NumpyDType {
    /// From a type string such as `f8` or `<i4`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (order, text) = match text.as_bytes().first()? {
            b'>' => (ByteOrder::Big, &text[1..]),
            b'<' | b'|' | b'=' => (ByteOrder::Little, &text[1..]),
            _ => (ByteOrder::Little, text),
        };
        let kind = text.chars().next()?;
        if !matches!(kind, 'f' | 'i' | 'u' | 'b' | 'U' | 'S' | 'O') {
            return None;
        }
        let digits = &text[1..];
        let size = if digits.is_empty() { 0 } else { digits.parse().ok()? };
        Some(Self { kind, size, order })
    }

    /// The tensor type with the same bits.
    pub fn tensor_dtype(self) -> Option<DType> {
        Some(match (self.kind, self.size) {
            ('f', 8) => DType::F64,
            ('f', 4) => DType::F32,
            ('f', 2) => DType::F16,
            ('i', 8) => DType::I64,
            ('i', 4) => DType::I32,
            ('i', 2) => DType::I16,
            ('i', 1) => DType::I8,
            ('u', 1) => DType::U8,
            ('b', 1) => DType::Bool,
            _ => return None,
        })
    }
}

/// A `numpy.ndarray`: its bytes are another record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArrayRef {
    /// Length of each axis.
    pub shape: Vec<u64>,
    /// Type of the elements.
    pub dtype: NumpyDType,
    /// Whether the first axis is the fast one.
    pub fortran_order: bool,
    /// The raw elements: bytes, or a list where the elements are objects; `None` before the state was set.
    pub data: Option<ValueId>,
}

impl ArrayRef {
    /// Decodes the array; `heap` is the one it lives in, `name` is for error messages.
    ///
    /// # Errors
    /// [`TensorError`] for arrays of text or objects, and where the bytes do not match shape and type.
    pub fn to_tensor(&self, heap: &Heap, name: &str) -> Result<Tensor, TensorError> {
        let Some(dtype) = self.dtype.tensor_dtype() else {
            return Err(TensorError::Type {
                tensor: name.into(),
                expected: "an array of numbers",
                found: format!("an array of numpy type `{}{}`", self.dtype.kind, self.dtype.size),
            });
        };
        let bytes = match self.data.map(|id| heap.value(id)) {
            Some(Value::Bytes(bytes)) => &**bytes,
            _ => {
                return Err(TensorError::Type {
                    tensor: name.into(),
                    expected: "an array with its bytes",
                    found: "an array without data".into(),
                });
            }
        };
        let overflow = || TensorError::Overflow { tensor: name.into(), shape: self.shape.clone() };
        let mut stride = vec![1u64; self.shape.len()];
        let mut numel = 1u64;
        let axes: Vec<usize> = if self.fortran_order { (0..self.shape.len()).collect() } else { (0..self.shape.len()).rev().collect() };
        for axis in axes {
            stride[axis] = numel;
            numel = numel.checked_mul(self.shape[axis]).ok_or_else(overflow)?;
        }
        let view = TensorRef {
            storage: std::sync::Arc::new(StorageRef { key: name.into(), dtype, numel }),
            dtype,
            offset: 0,
            shape: self.shape.clone(),
            stride,
        };
        view.decode(name, bytes, self.dtype.order)
    }
}
