//! The few calls of a pickle that spell plain data, carried out on records.

use std::sync::Arc;

use crate::torch::archive::ByteOrder;
use crate::torch::numpy::{ArrayRef, NumpyDType};
use crate::torch::pickle::{Machine, PickleFault};
use crate::torch::policy;
use crate::torch::tensor::{DType, StorageRef, TensorRef};
use crate::torch::value::{Global, Value, ValueId};

type Step<T = ()> = Result<T, PickleFault>;

/// Largest number of axes of a tensor or array.
const MAX_RANK: usize = 64;

/// Which data a call spells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    Tensor,
    TensorWithDType,
    /// The first argument, which must be a tensor.
    Parameter,
    TensorSubclass,
    Size,
    Device,
    Layout,
    Dict,
    DefaultDict,
    Set,
    List,
    Tuple,
    Bytes,
    LatinBytes,
    NumpyDType,
    NumpyArray,
    NumpyFromBuffer,
    NumpyScalar,
    /// The first argument as it is.
    Same,
    OldStyleObject,
    /// An activation of torch that is written in C++.
    Activation,
}

fn meaning(global: &Global) -> Option<Meaning> {
    Some(match (&*global.module, &*global.name) {
        ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Meaning::Tensor,
        ("torch._utils", "_rebuild_tensor_v3") => Meaning::TensorWithDType,
        ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => Meaning::Parameter,
        ("torch._tensor", "_rebuild_from_type_v2") => Meaning::TensorSubclass,
        ("torch", "Size") => Meaning::Size,
        ("torch", "device") => Meaning::Device,
        ("torch.serialization", "_get_layout") => Meaning::Layout,
        ("collections", "OrderedDict" | "Counter") | ("builtins" | "__builtin__", "dict") => Meaning::Dict,
        ("collections", "defaultdict") => Meaning::DefaultDict,
        ("builtins" | "__builtin__", "set" | "frozenset") => Meaning::Set,
        ("builtins" | "__builtin__", "list") => Meaning::List,
        ("builtins" | "__builtin__", "tuple") => Meaning::Tuple,
        ("builtins" | "__builtin__", "bytes" | "bytearray") => Meaning::Bytes,
        ("_codecs", "encode") => Meaning::LatinBytes,
        ("numpy", "dtype") => Meaning::NumpyDType,
        ("numpy.core.multiarray" | "numpy._core.multiarray", "_reconstruct") => Meaning::NumpyArray,
        ("numpy.core.multiarray" | "numpy._core.multiarray", "scalar") => Meaning::NumpyScalar,
        ("numpy.core.numeric" | "numpy._core.numeric", "_frombuffer") => Meaning::NumpyFromBuffer,
        ("torch.jit._pickle", _) => Meaning::Same,
        ("copyreg" | "copy_reg", "_reconstructor") => Meaning::OldStyleObject,
        ("builtins" | "__builtin__", "getattr") => Meaning::Activation,
        _ => return None,
    })
}

/// Whether calls of this name become plain data rather than an object.
pub(super) fn is_interpreted(global: &Global) -> bool {
    meaning(global).is_some()
}

impl Machine<'_> {
    /// What calling `callable` with the tuple `args` stands for.
    pub(super) fn call(&mut self, callable: ValueId, args: ValueId) -> Step<ValueId> {
        let Value::Global(global) = self.heap.value(callable) else {
            return Err(PickleFault::NotCallable { opcode: self.opcode, found: self.heap.get(callable).kind() });
        };
        let global = Arc::clone(global);
        let Value::Tuple(list) = self.heap.value(args) else {
            return Err(self.type_error("a tuple of arguments", args));
        };
        let Some(meaning) = meaning(&global) else {
            return self.alloc_object(global, args, None);
        };
        // None of the interpreted calls takes more.
        let list: Vec<ValueId> = list.iter().copied().take(16).collect();
        let list = list.as_slice();
        match meaning {
            Meaning::Tensor => self.tensor(list, None),
            Meaning::TensorWithDType => {
                let dtype = self.argument(list, 6)?;
                let Value::DType(dtype) = *self.heap.value(dtype) else {
                    return Err(self.wrong("a torch type", dtype));
                };
                self.tensor(list, Some(dtype))
            }
            Meaning::Parameter => {
                let tensor = self.argument(list, 0)?;
                match self.heap.value(tensor) {
                    Value::Tensor(_) => Ok(tensor),
                    _ => Err(self.wrong("a tensor", tensor)),
                }
            }
            Meaning::TensorSubclass => {
                let (function, inner) = (self.argument(list, 0)?, self.argument(list, 2)?);
                match self.heap.value(function) {
                    // Not itself again, so that nothing recurses.
                    Value::Global(global)
                        if matches!(self::meaning(global), Some(Meaning::Tensor | Meaning::TensorWithDType | Meaning::Parameter)) =>
                    {
                        self.call(function, inner)
                    }
                    _ => Err(self.wrong("a function that makes a tensor", function)),
                }
            }
            Meaning::Size | Meaning::Tuple => match list.first() {
                None => self.empty_tuple(),
                Some(&items) => {
                    let items = self.sequence(items)?;
                    self.alloc_tuple(items)
                }
            },
            Meaning::Device => {
                let kind = self.argument(list, 0)?;
                let Some(mut name) = self.heap.get(kind).as_str().map(str::to_owned) else {
                    return Err(self.wrong("the name of a device", kind));
                };
                if let Some(index) = list.get(1).and_then(|&index| self.heap.get(index).as_i64()) {
                    name = format!("{name}:{index}");
                }
                self.count_text(name.len())?;
                self.alloc(Value::Str(name.into()))
            }
            Meaning::Layout | Meaning::Same => self.argument(list, 0),
            Meaning::Dict => match list.first() {
                None => self.alloc(Value::Dict(Vec::new())),
                Some(&items) => self.dict_from(items),
            },
            Meaning::DefaultDict => match list.get(1) {
                None => self.alloc(Value::Dict(Vec::new())),
                Some(&items) => self.dict_from(items),
            },
            Meaning::Set | Meaning::List => {
                let items = match list.first() {
                    None => Vec::new(),
                    Some(&items) => self.sequence(items)?,
                };
                self.count_references(items.len())?;
                self.alloc(if meaning == Meaning::Set { Value::Set(items) } else { Value::List(items) })
            }
            Meaning::Bytes => match *list {
                [] => self.alloc(Value::Bytes([].into())),
                [bytes] if matches!(self.heap.value(bytes), Value::Bytes(_)) => Ok(bytes),
                [text, _] => self.latin_bytes(text, list[1]),
                [other, ..] => Err(self.wrong("bytes", other)),
            },
            Meaning::LatinBytes => {
                let (text, encoding) = (self.argument(list, 0)?, self.argument(list, 1)?);
                self.latin_bytes(text, encoding)
            }
            Meaning::NumpyDType => {
                let text = self.argument(list, 0)?;
                match self.heap.get(text).as_str().and_then(NumpyDType::parse) {
                    Some(dtype) => self.alloc(Value::NumpyDType(dtype)),
                    None => Err(self.wrong("a numpy type string", text)),
                }
            }
            Meaning::NumpyArray => self.alloc(Value::Array(Box::new(ArrayRef {
                shape: vec![0],
                dtype: NumpyDType { kind: 'b', size: 1, order: ByteOrder::Little },
                fortran_order: false,
                data: None,
            }))),
            Meaning::NumpyFromBuffer => {
                let data = self.argument(list, 0)?;
                let dtype = self.numpy_dtype(self.argument(list, 1)?)?;
                let shape = self.extents(self.argument(list, 2)?)?;
                let order = self.argument(list, 3)?;
                if !matches!(self.heap.value(data), Value::Bytes(_)) {
                    return Err(self.wrong("bytes", data));
                }
                let fortran_order = self.heap.get(order).as_str() == Some("F");
                self.alloc(Value::Array(Box::new(ArrayRef { shape, dtype, fortran_order, data: Some(data) })))
            }
            Meaning::NumpyScalar => self.numpy_scalar(list),
            Meaning::Activation => {
                let owner = list.first().and_then(|&owner| self.heap.get(owner).as_global());
                let name = list.get(1).and_then(|&name| self.heap.get(name).as_str());
                match (owner, name) {
                    (Some(owner), Some(name))
                        if owner.module == "torch._C" && owner.name == "_VariableFunctionsClass" && policy::is_activation(name) =>
                    {
                        let (module, name) = ("torch".to_owned(), name.to_owned());
                        self.count_text(module.len() + name.len())?;
                        self.alloc(Value::Global(Arc::new(Global { module, name })))
                    }
                    _ => Err(PickleFault::ForbiddenGlobal { module: global.module.clone(), name: global.name.clone() }),
                }
            }
            Meaning::OldStyleObject => {
                let (class, state) = (self.argument(list, 0)?, self.argument(list, 2)?);
                let Value::Global(class) = self.heap.value(class) else {
                    return Err(self.wrong("a class", class));
                };
                let class = Arc::clone(class);
                let args = if self.heap.get(state).is_none() { self.empty_tuple()? } else { self.alloc_tuple(vec![state])? };
                self.alloc_object(class, args, None)
            }
        }
    }

    /// A persistent id: the storage of a tensor, or an object of `torch.package`.
    pub(super) fn persistent(&mut self, id: ValueId) -> Step<ValueId> {
        let parts: Vec<ValueId> = match self.heap.value(id) {
            Value::Tuple(parts) if (4..=6).contains(&parts.len()) => parts.to_vec(),
            _ => {
                return Err(PickleFault::PersistentId { found: self.heap.get(id).kind() });
            }
        };
        let part = |place: usize| self.heap.get(parts[place]);
        let wrong = |found: String| PickleFault::PersistentId { found };
        match part(0).as_str() {
            Some("storage") if parts.len() >= 5 => {
                let class = part(1).value();
                let dtype = match class {
                    Value::Global(global) if matches!(&*global.module, "torch" | "torch.storage") => {
                        if matches!(&*global.name, "UntypedStorage") {
                            DType::U8
                        } else {
                            DType::from_storage_class(&global.name)
                                .ok_or_else(|| PickleFault::StorageClass { class: global.to_string() })?
                        }
                    }
                    _ => return Err(wrong(format!("a storage of {}", part(1).kind()))),
                };
                let key = match part(2).value() {
                    Value::Str(text) => text.to_string(),
                    Value::Int(number) => number.to_string(),
                    _ => return Err(wrong(format!("a storage with key {}", part(2).kind()))),
                };
                let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
                if key.is_empty() || key.len() > 64 || !key.chars().all(is_plain) {
                    return Err(wrong(format!("a storage with key {:?}", key.chars().take(64).collect::<String>())));
                }
                if part(3).as_str().is_none() {
                    return Err(wrong(format!("a storage with location {}", part(3).kind())));
                }
                let Some(numel) = part(4).as_i64().and_then(|n| u64::try_from(n).ok()) else {
                    return Err(wrong(format!("a storage with size {}", part(4).kind())));
                };
                if parts.len() == 6 && !part(5).is_none() {
                    return Err(PickleFault::Unsupported { what: "storages that are views of other storages" });
                }
                self.count_text(key.len())?;
                self.alloc(Value::Storage(Arc::new(StorageRef { key, dtype, numel })))
            }
            Some("reduce_package" | "reduce_deploy") if parts.len() == 4 => {
                let Value::Global(class) = part(2).value() else {
                    return Err(wrong(format!("a packaged call of {}", part(2).kind())));
                };
                let class = Arc::clone(class);
                if !matches!(part(3).value(), Value::Tuple(_)) {
                    return Err(wrong(format!("a packaged call with {}", part(3).kind())));
                }
                self.alloc_object(class, parts[3], None)
            }
            _ => Err(wrong(format!("a tuple that starts with {}", part(0).kind()))),
        }
    }

    /// What `__setstate__` of `target` with `state` stands for.
    pub(super) fn build(&mut self, target: ValueId, state: ValueId) -> Step {
        match self.heap.value_mut(target) {
            Value::Object(object) if object.state.is_none() => {
                object.state = Some(state);
                Ok(())
            }
            // The attributes of a dictionary, such as `_metadata` of a state dict, carry nothing that is used.
            Value::Dict(_) | Value::List(_) | Value::Set(_) => Ok(()),
            Value::NumpyDType(_) => {
                // (version, byte order, subarray, names, fields, size, alignment, flags)
                let parts = self.sequence(state)?;
                let order = match parts.get(1).and_then(|&order| self.heap.get(order).as_str()) {
                    Some(">") => ByteOrder::Big,
                    Some("<" | "|" | "=") => ByteOrder::Little,
                    _ => return Err(self.wrong("the state of a numpy type", state)),
                };
                if parts.iter().skip(2).take(3).any(|&part| !self.heap.get(part).is_none()) {
                    return Err(PickleFault::Unsupported { what: "numpy types with fields" });
                }
                if let Value::NumpyDType(dtype) = self.heap.value_mut(target) {
                    dtype.order = order;
                }
                Ok(())
            }
            Value::Array(_) => {
                // (version, shape, type, is Fortran order, data)
                let parts = self.sequence(state)?;
                let &[_, shape, dtype, fortran, data] = parts.as_slice() else {
                    return Err(self.wrong("the state of a numpy array", state));
                };
                let array = ArrayRef {
                    shape: self.extents(shape)?,
                    dtype: self.numpy_dtype(dtype)?,
                    fortran_order: self.heap.get(fortran).as_bool() == Some(true),
                    data: Some(data),
                };
                if let Value::Array(target) = self.heap.value_mut(target) {
                    **target = array;
                }
                Ok(())
            }
            _ => Err(self.type_error("an object without state", target)),
        }
    }

    fn tensor(&mut self, list: &[ValueId], dtype: Option<DType>) -> Step<ValueId> {
        let storage = self.argument(list, 0)?;
        let Value::Storage(reference) = self.heap.value(storage) else {
            return Err(self.wrong("a storage", storage));
        };
        let reference = Arc::clone(reference);
        let offset = self.argument(list, 1)?;
        let Some(offset) = self.heap.get(offset).as_i64().and_then(|n| u64::try_from(n).ok()) else {
            return Err(self.wrong("an offset of zero or more", offset));
        };
        let shape_at = self.argument(list, 2)?;
        let shape = self.extents(shape_at)?;
        let stride = self.extents(self.argument(list, 3)?)?;
        if shape.len() != stride.len() {
            return Err(self.wrong("as many strides as axes", shape_at));
        }
        self.alloc(Value::Tensor(Box::new(TensorRef {
            dtype: dtype.unwrap_or(reference.dtype),
            storage: reference,
            offset,
            shape,
            stride,
        })))
    }

    fn numpy_scalar(&mut self, list: &[ValueId]) -> Step<ValueId> {
        let dtype = self.numpy_dtype(self.argument(list, 0)?)?;
        let data = self.argument(list, 1)?;
        let Value::Bytes(bytes) = self.heap.value(data) else {
            return Err(self.wrong("the bytes of a number", data));
        };
        if dtype.kind == 'S' {
            return Ok(data);
        }
        let mut little = bytes.to_vec();
        if dtype.order == ByteOrder::Big {
            little.reverse();
        }
        let is_number = matches!((dtype.kind, dtype.size), ('f', 2 | 4 | 8) | ('i' | 'u', 1 | 2 | 4 | 8) | ('b', 1));
        if !is_number || little.len() != dtype.size as usize {
            return Err(self.wrong("the bytes of a number", data));
        }
        let mut wide = [0u8; 8];
        if dtype.kind == 'i' && little.last().is_some_and(|byte| byte & 0x80 != 0) {
            wide = [0xff; 8];
        }
        wide[..little.len()].copy_from_slice(&little);
        let value = match (dtype.kind, little.as_slice()) {
            ('f', &[a, b]) => Value::Float(half::f16::from_le_bytes([a, b]).into()),
            ('f', &[a, b, c, d]) => Value::Float(f32::from_le_bytes([a, b, c, d]).into()),
            ('f', _) => Value::Float(f64::from_le_bytes(wide)),
            ('b', _) => Value::Bool(wide[0] != 0),
            ('u', _) if wide[7] & 0x80 != 0 => return Err(self.wrong("an integer of 63 bits", data)),
            _ => Value::Int(i64::from_le_bytes(wide)),
        };
        self.alloc(value)
    }

    fn latin_bytes(&mut self, text: ValueId, encoding: ValueId) -> Step<ValueId> {
        if !matches!(self.heap.get(encoding).as_str(), Some("latin1" | "latin-1" | "latin_1" | "iso-8859-1")) {
            return Err(self.wrong("the encoding latin1", encoding));
        }
        let Some(text_value) = self.heap.get(text).as_str() else {
            return Err(self.wrong("text", text));
        };
        let bytes: Option<Vec<u8>> = text_value.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect();
        let Some(bytes) = bytes else {
            return Err(self.wrong("text of Latin-1 characters", text));
        };
        self.count_text(bytes.len())?;
        self.alloc(Value::Bytes(bytes.into()))
    }

    fn dict_from(&mut self, items: ValueId) -> Step<ValueId> {
        if let Value::Dict(entries) = self.heap.value(items) {
            let (entries, count) = (entries.clone(), entries.len());
            self.count_references(2 * count)?;
            return self.alloc(Value::Dict(entries));
        }
        let mut entries = Vec::new();
        for pair in self.sequence(items)? {
            match *self.sequence(pair)?.as_slice() {
                [key, value] => entries.push((key, value)),
                _ => return Err(self.wrong("a pair of key and value", pair)),
            }
            self.count_references(2)?;
        }
        self.alloc(Value::Dict(entries))
    }

    /// A copy of the elements of a list, tuple or set.
    fn sequence(&mut self, id: ValueId) -> Step<Vec<ValueId>> {
        let items: &[ValueId] = match self.heap.value(id) {
            Value::List(items) | Value::Set(items) => items,
            Value::Tuple(items) => items,
            _ => return Err(self.wrong("a list or tuple", id)),
        };
        let items = items.to_vec();
        // Copies are counted: a short program could otherwise copy one long list over and over.
        self.count_references(items.len())?;
        Ok(items)
    }

    /// Lengths or strides: integers of zero or more.
    fn extents(&mut self, id: ValueId) -> Step<Vec<u64>> {
        let items = self.sequence(id)?;
        if items.len() > MAX_RANK {
            return Err(self.wrong("at most 64 axes", id));
        }
        items
            .into_iter()
            .map(|item| {
                let number = self.heap.get(item).as_i64().and_then(|n| u64::try_from(n).ok());
                number.ok_or_else(|| self.wrong("lengths and strides of zero or more", item))
            })
            .collect()
    }

    fn numpy_dtype(&self, id: ValueId) -> Step<NumpyDType> {
        match self.heap.value(id) {
            Value::NumpyDType(dtype) => Ok(*dtype),
            _ => Err(self.wrong("a numpy type", id)),
        }
    }

    fn argument(&self, list: &[ValueId], place: usize) -> Step<ValueId> {
        list.get(place).copied().ok_or(PickleFault::Malformed { opcode: self.opcode, expected: "a call with all its arguments" })
    }

    fn wrong(&self, expected: &'static str, found: ValueId) -> PickleFault {
        self.type_error(expected, found)
    }
}
