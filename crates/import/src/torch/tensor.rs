//! Storages and the strided views of them that PyTorch calls tensors.

use std::fmt;
use std::sync::Arc;

use half::{bf16, f16};

use crate::torch::archive::ByteOrder;

/// Number types of tensors that can be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DType {
    /// IEEE 754 binary64.
    F64,
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// The upper half of a binary32.
    Bf16,
    /// 64-bit signed integer.
    I64,
    /// 32-bit signed integer.
    I32,
    /// 16-bit signed integer.
    I16,
    /// 8-bit signed integer.
    I8,
    /// 8-bit unsigned integer.
    U8,
    /// One byte, zero or not.
    Bool,
}

impl DType {
    /// Bytes per element.
    pub fn size(self) -> u64 {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::Bf16 | Self::I16 => 2,
            Self::I8 | Self::U8 | Self::Bool => 1,
        }
    }

    /// From the name of a type in the module `torch`: `float32`, `long`, ….
    pub fn from_torch_name(name: &str) -> Option<Self> {
        Some(match name {
            "float64" | "double" => Self::F64,
            "float32" | "float" => Self::F32,
            "float16" | "half" => Self::F16,
            "bfloat16" => Self::Bf16,
            "int64" | "long" => Self::I64,
            "int32" | "int" => Self::I32,
            "int16" | "short" => Self::I16,
            "int8" => Self::I8,
            "uint8" => Self::U8,
            "bool" => Self::Bool,
            _ => return None,
        })
    }

    /// From the name of a storage class in the module `torch`: `FloatStorage`, ….
    pub fn from_storage_class(name: &str) -> Option<Self> {
        Some(match name {
            "DoubleStorage" => Self::F64,
            "FloatStorage" => Self::F32,
            "HalfStorage" => Self::F16,
            "BFloat16Storage" => Self::Bf16,
            "LongStorage" => Self::I64,
            "IntStorage" => Self::I32,
            "ShortStorage" => Self::I16,
            "CharStorage" => Self::I8,
            "ByteStorage" => Self::U8,
            "BoolStorage" => Self::Bool,
            _ => return None,
        })
    }
}

impl fmt::Display for DType {
    /// The name that PyTorch gives the type.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F64 => "float64",
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::Bf16 => "bfloat16",
            Self::I64 => "int64",
            Self::I32 => "int32",
            Self::I16 => "int16",
            Self::I8 => "int8",
            Self::U8 => "uint8",
            Self::Bool => "bool",
        })
    }
}

/// A storage: a run of raw numbers in an entry of the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageRef {
    /// Name of the entry, without its folder.
    pub key: String,
    /// Type of its elements; bytes where the storage is untyped.
    pub dtype: DType,
    /// Number of elements.
    pub numel: u64,
}

/// A tensor that has not been read yet: a strided view of a storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorRef {
    /// The storage.
    pub storage: Arc<StorageRef>,
    /// Type of the elements.
    pub dtype: DType,
    /// Index of the first element in the storage.
    pub offset: u64,
    /// Length of each axis.
    pub shape: Vec<u64>,
    /// Distance in the storage between neighbours along each axis, in elements.
    pub stride: Vec<u64>,
}

/// Why a tensor cannot be decoded. Each variant names the tensor.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum TensorError {
    /// The view needs elements beyond the end of its storage.
    #[error("tensor `{tensor}` of shape {shape:?} reaches element {last} of storage `{key}`, which has {numel} elements")]
    OutOfBounds {
        /// Name of the tensor.
        tensor: String,
        /// Its shape.
        shape: Vec<u64>,
        /// Index of its last element.
        last: u64,
        /// Name of the storage.
        key: String,
        /// Elements in the storage.
        numel: u64,
    },
    /// Shape and strides multiply to more than 64 bits.
    #[error("tensor `{tensor}` of shape {shape:?} has more elements than any memory")]
    Overflow {
        /// Name of the tensor.
        tensor: String,
        /// Its shape.
        shape: Vec<u64>,
    },
    /// The tensor repeats the elements of its storage too often.
    #[error("tensor `{tensor}` of shape {shape:?} repeats the {numel} elements of storage `{key}` far too often")]
    Repeated {
        /// Name of the tensor.
        tensor: String,
        /// Its shape.
        shape: Vec<u64>,
        /// Name of the storage.
        key: String,
        /// Elements in the storage.
        numel: u64,
    },
    /// The archive holds another number of bytes than the storage was declared to have.
    #[error("storage `{key}` of tensor `{tensor}` was declared with {declared} bytes; the archive holds {found}")]
    StorageSize {
        /// Name of the tensor.
        tensor: String,
        /// Name of the storage.
        key: String,
        /// Bytes declared.
        declared: u64,
        /// Bytes found.
        found: u64,
    },
    /// The tensors together exceed [`Limits::tensor_bytes`](crate::Limits::tensor_bytes).
    #[error("the tensors up to `{tensor}` take {bytes} bytes, above the limit of {limit}")]
    TooLarge {
        /// The tensor at which the limit was passed.
        tensor: String,
        /// Bytes so far.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// A value of another type was expected.
    #[error("`{tensor}` is {found}; {expected} was expected")]
    Type {
        /// Name of the tensor.
        tensor: String,
        /// What was expected.
        expected: &'static str,
        /// What was found.
        found: String,
    },
}

impl TensorRef {
    /// Number of elements; `None` where it exceeds 64 bits.
    pub fn numel(&self) -> Option<u64> {
        self.shape.iter().try_fold(1u64, |product, &n| product.checked_mul(n))
    }

    /// Checks that the view lies inside its storage and that decoding it cannot exhaust memory.
    ///
    /// # Errors
    /// [`TensorError`] naming the tensor `name`.
    pub fn check(&self, name: &str) -> Result<(), TensorError> {
        // Expanded (stride-0) views may be larger than their storage, up to this number of elements.
        const EXPANDED: u64 = 1 << 22;

        let overflow = || TensorError::Overflow { tensor: name.into(), shape: self.shape.clone() };
        let numel = self.numel().ok_or_else(overflow)?;
        let bytes = numel.checked_mul(self.dtype.size()).ok_or_else(overflow)?;
        if numel == 0 {
            return Ok(());
        }
        let last = self
            .shape
            .iter()
            .zip(&self.stride)
            .try_fold(self.offset, |last, (&n, &stride)| last.checked_add((n - 1).checked_mul(stride)?))
            .ok_or_else(overflow)?;
        // An untyped storage counts bytes.
        let available = self.storage.numel.saturating_mul(self.storage.dtype.size()) / self.dtype.size();
        if last >= available {
            return Err(TensorError::OutOfBounds {
                tensor: name.into(),
                shape: self.shape.clone(),
                last,
                key: self.storage.key.clone(),
                numel: available,
            });
        }
        if numel > available.max(EXPANDED) || isize::try_from(bytes).is_err() {
            return Err(TensorError::Repeated {
                tensor: name.into(),
                shape: self.shape.clone(),
                key: self.storage.key.clone(),
                numel: available,
            });
        }
        Ok(())
    }

    fn is_contiguous(&self) -> bool {
        let mut expected = 1;
        self.shape.iter().zip(&self.stride).rev().all(|(&n, &stride)| {
            let fits = n == 1 || stride == expected;
            expected *= n;
            fits
        })
    }

    /// Decodes the tensor from the raw bytes of its storage.
    ///
    /// # Errors
    /// [`TensorError`] naming the tensor `name`, as [`Self::check`], and where `storage` has not the declared size.
    pub fn decode(&self, name: &str, storage: &[u8], order: ByteOrder) -> Result<Tensor, TensorError> {
        self.check(name)?;
        let declared = self.storage.numel.saturating_mul(self.storage.dtype.size());
        if storage.len() as u64 != declared {
            return Err(TensorError::StorageSize {
                tensor: name.into(),
                key: self.storage.key.clone(),
                declared,
                found: storage.len() as u64,
            });
        }
        macro_rules! gather {
            ($variant:ident, $type:ty) => {
                TensorData::$variant(match order {
                    ByteOrder::Little => self.gather(storage, <$type>::from_le_bytes),
                    ByteOrder::Big => self.gather(storage, <$type>::from_be_bytes),
                })
            };
        }
        let data = match self.dtype {
            DType::F64 => gather!(F64, f64),
            DType::F32 => gather!(F32, f32),
            DType::F16 => gather!(F16, f16),
            DType::Bf16 => gather!(Bf16, bf16),
            DType::I64 => gather!(I64, i64),
            DType::I32 => gather!(I32, i32),
            DType::I16 => gather!(I16, i16),
            DType::I8 => gather!(I8, i8),
            DType::U8 => gather!(U8, u8),
            DType::Bool => TensorData::Bool(self.gather(storage, |[byte]: [u8; 1]| byte != 0)),
        };
        let shape = self.shape.iter().map(|&n| n as usize).collect();
        Ok(Tensor { shape, data })
    }

    /// The elements in row-major order; the view was checked before.
    fn gather<T, const N: usize>(&self, storage: &[u8], read: impl Fn([u8; N]) -> T) -> Vec<T> {
        let numel = self.numel().unwrap_or(0) as usize;
        if numel == 0 {
            return Vec::new();
        }
        let (elements, _) = storage.as_chunks::<N>();
        let offset = self.offset as usize;
        if self.is_contiguous() {
            return elements[offset..offset + numel].iter().map(|&bytes| read(bytes)).collect();
        }
        let mut out = Vec::with_capacity(numel);
        let mut index = vec![0u64; self.shape.len()];
        let mut at = self.offset;
        loop {
            out.push(read(elements[at as usize]));
            // The next multi-index: the last axis that can advance does, those after it return to zero.
            let Some(axis) = (0..index.len()).rev().find(|&axis| index[axis] + 1 < self.shape[axis]) else {
                return out;
            };
            for later in axis + 1..index.len() {
                at -= index[later] * self.stride[later];
                index[later] = 0;
            }
            index[axis] += 1;
            at += self.stride[axis];
        }
    }
}

/// The elements of a decoded tensor.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each variant is its type")]
pub enum TensorData {
    F64(Vec<f64>),
    F32(Vec<f32>),
    F16(Vec<f16>),
    Bf16(Vec<bf16>),
    I64(Vec<i64>),
    I32(Vec<i32>),
    I16(Vec<i16>),
    I8(Vec<i8>),
    U8(Vec<u8>),
    Bool(Vec<bool>),
}

/// A decoded tensor: elements in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Length of each axis; empty for a scalar.
    pub shape: Vec<usize>,
    /// The elements, as many as the product of `shape`.
    pub data: TensorData,
}

impl Tensor {
    /// Type of the elements.
    pub fn dtype(&self) -> DType {
        match &self.data {
            TensorData::F64(_) => DType::F64,
            TensorData::F32(_) => DType::F32,
            TensorData::F16(_) => DType::F16,
            TensorData::Bf16(_) => DType::Bf16,
            TensorData::I64(_) => DType::I64,
            TensorData::I32(_) => DType::I32,
            TensorData::I16(_) => DType::I16,
            TensorData::I8(_) => DType::I8,
            TensorData::U8(_) => DType::U8,
            TensorData::Bool(_) => DType::Bool,
        }
    }

    /// Number of elements.
    pub fn numel(&self) -> usize {
        self.shape.iter().product()
    }

    /// All elements as f64; integers beyond 2⁵³ are rounded.
    pub fn to_f64(&self) -> Vec<f64> {
        match &self.data {
            TensorData::F64(v) => v.clone(),
            TensorData::F32(v) => v.iter().map(|&x| f64::from(x)).collect(),
            TensorData::F16(v) => v.iter().map(|&x| f64::from(x)).collect(),
            TensorData::Bf16(v) => v.iter().map(|&x| f64::from(x)).collect(),
            TensorData::I64(v) => v.iter().map(|&x| x as f64).collect(),
            TensorData::I32(v) => v.iter().map(|&x| f64::from(x)).collect(),
            TensorData::I16(v) => v.iter().map(|&x| f64::from(x)).collect(),
            TensorData::I8(v) => v.iter().map(|&x| f64::from(x)).collect(),
            TensorData::U8(v) => v.iter().map(|&x| f64::from(x)).collect(),
            TensorData::Bool(v) => v.iter().map(|&x| f64::from(u8::from(x))).collect(),
        }
    }

    /// All elements as i64; `None` for floats.
    pub fn to_i64(&self) -> Option<Vec<i64>> {
        Some(match &self.data {
            TensorData::I64(v) => v.clone(),
            TensorData::I32(v) => v.iter().map(|&x| i64::from(x)).collect(),
            TensorData::I16(v) => v.iter().map(|&x| i64::from(x)).collect(),
            TensorData::I8(v) => v.iter().map(|&x| i64::from(x)).collect(),
            TensorData::U8(v) => v.iter().map(|&x| i64::from(x)).collect(),
            TensorData::Bool(v) => v.iter().map(|&x| i64::from(x)).collect(),
            _ => return None,
        })
    }

    /// The one element of a tensor with one element, as f64.
    pub fn item(&self) -> Option<f64> {
        (self.numel() == 1).then(|| self.to_f64()[0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(numel: u64, dtype: DType, offset: u64, shape: &[u64], stride: &[u64]) -> TensorRef {
        TensorRef {
            storage: Arc::new(StorageRef { key: "0".into(), dtype, numel }),
            dtype,
            offset,
            shape: shape.to_vec(),
            stride: stride.to_vec(),
        }
    }

    #[test]
    fn strided_views_in_both_byte_orders() {
        let numbers: Vec<i32> = (0..12).map(|i| i * 1000 - 3).collect();
        let little: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
        let big: Vec<u8> = numbers.iter().flat_map(|x| x.to_be_bytes()).collect();
        // A transposed 3×2 view starting at element 1, a contiguous one, a broadcast, a scalar, an empty one.
        let cases: [(u64, &[u64], &[u64], Vec<usize>); 5] = [
            (1, &[3, 2], &[1, 4], vec![1, 5, 2, 6, 3, 7]),
            (2, &[2, 3], &[3, 1], vec![2, 3, 4, 5, 6, 7]),
            (5, &[3, 1], &[0, 7], vec![5, 5, 5]),
            (11, &[], &[], vec![11]),
            (999, &[0, 4], &[4, 1], vec![]),
        ];
        for (offset, shape, stride, expected) in cases {
            let tensor = view(12, DType::I32, offset, shape, stride);
            let expected: Vec<i32> = expected.into_iter().map(|i| numbers[i]).collect();
            for (bytes, order) in [(&little, ByteOrder::Little), (&big, ByteOrder::Big)] {
                let decoded = tensor.decode("t", bytes, order).unwrap();
                assert_eq!(decoded.data, TensorData::I32(expected.clone()));
                assert_eq!(decoded.numel(), expected.len());
            }
        }
    }

    #[test]
    fn every_type_is_decoded_to_its_values() {
        let check = |dtype, bytes: &[u8], expected: &[f64]| {
            let tensor = view(expected.len() as u64, dtype, 0, &[expected.len() as u64], &[1]);
            let decoded = tensor.decode("t", bytes, ByteOrder::Little).unwrap();
            assert_eq!((decoded.dtype(), decoded.to_f64()), (dtype, expected.to_vec()));
        };
        check(DType::F64, &1.5f64.to_le_bytes(), &[1.5]);
        check(DType::F32, &(-0.1f32).to_le_bytes(), &[f64::from(-0.1f32)]);
        check(DType::F16, &[0x00, 0x3c, 0x00, 0xc0], &[1.0, -2.0]);
        check(DType::Bf16, &[0x80, 0x3f], &[1.0]);
        check(DType::I64, &(-7i64).to_le_bytes(), &[-7.0]);
        check(DType::I16, &(-300i16).to_le_bytes(), &[-300.0]);
        check(DType::I8, &[0xff], &[-1.0]);
        check(DType::U8, &[0xff], &[255.0]);
        check(DType::Bool, &[0, 1, 2], &[0.0, 1.0, 1.0]);
    }

    #[test]
    fn views_beyond_their_storage_are_named() {
        let out = |offset, shape: &[u64], stride: &[u64]| {
            view(6, DType::F32, offset, shape, stride).decode("layer.weight", &[0; 24], ByteOrder::Little).unwrap_err()
        };
        let message = out(1, &[2, 3], &[3, 1]).to_string();
        assert_eq!(message, "tensor `layer.weight` of shape [2, 3] reaches element 6 of storage `0`, which has 6 elements");
        assert!(matches!(out(0, &[u64::MAX, 3], &[3, 1]), TensorError::Overflow { .. }));
        assert!(matches!(out(0, &[2], &[u64::MAX]), TensorError::OutOfBounds { .. }));
        assert!(matches!(out(0, &[3], &[u64::MAX]), TensorError::Overflow { .. }));
        assert!(matches!(out(u64::MAX, &[2], &[1]), TensorError::Overflow { .. }));
        assert!(matches!(out(0, &[1 << 40], &[0]), TensorError::Repeated { .. }));
        assert!(matches!(out(0, &[1 << 62, 1 << 62], &[0, 0]), TensorError::Overflow { .. }));
        let short = view(6, DType::F32, 0, &[6], &[1]).decode("w", &[0; 20], ByteOrder::Little);
        assert!(matches!(short, Err(TensorError::StorageSize { declared: 24, found: 20, .. })));
    }
}
