//! The inert records that a pickle becomes.
//!
//! Records live in an arena, the [`Heap`], and refer to each other by [`ValueId`]: a pickle may share records and
//! build cycles, and dropping an arena never recurses. [`ValueRef`] is a record seen together with its heap.

use std::fmt;
use std::sync::Arc;

use crate::torch::numpy::{ArrayRef, NumpyDType};
use crate::torch::tensor::{DType, StorageRef, TensorRef};

/// Place of a record in its [`Heap`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(u32);

/// The name of a Python class or function. Never resolved, never called.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Global {
    /// Dotted module path, such as `mace.modules.blocks`.
    pub module: String,
    /// Name inside the module, such as `LinearReadoutBlock`.
    pub name: String,
}

impl fmt::Display for Global {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.module, self.name)
    }
}

/// An instance of a class, or the result of a call, as the pickle spells it out.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// The class, or the function that would have been called.
    pub class: Arc<Global>,
    /// The positional arguments: a tuple.
    pub args: ValueId,
    /// The keyword arguments: a dictionary, where there are any.
    pub kwargs: Option<ValueId>,
    /// What `__setstate__` would have received.
    pub state: Option<ValueId>,
    /// Elements appended, for subclasses of `list`.
    pub list_items: Vec<ValueId>,
    /// Entries set, for subclasses of `dict`.
    pub dict_items: Vec<(ValueId, ValueId)>,
}

/// One record.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Value {
    /// `None`.
    None,
    /// `True` or `False`.
    Bool(bool),
    /// An integer of at most 64 bits.
    Int(i64),
    /// A longer integer, as its two's-complement bytes in hexadecimal, most significant first.
    BigInt(Box<str>),
    /// A float.
    Float(f64),
    /// Text.
    Str(Box<str>),
    /// Bytes or a byte array.
    Bytes(Box<[u8]>),
    /// A list.
    List(Vec<ValueId>),
    /// A tuple, also a `torch.Size`.
    Tuple(Box<[ValueId]>),
    /// A dictionary in insertion order, also an `OrderedDict` or a `defaultdict`.
    Dict(Vec<(ValueId, ValueId)>),
    /// A set or a frozen set.
    Set(Vec<ValueId>),
    /// A class or function.
    Global(Arc<Global>),
    /// A tensor storage, named by a persistent id.
    Storage(Arc<StorageRef>),
    /// A tensor: a strided view of a storage.
    Tensor(Box<TensorRef>),
    /// A `torch.dtype`.
    DType(DType),
    /// A `numpy.ndarray`.
    Array(Box<ArrayRef>),
    /// A `numpy.dtype`.
    NumpyDType(NumpyDType),
    /// Anything else.
    Object(Box<Object>),
}

/// An arena of records.
#[derive(Clone, Debug, Default)]
pub struct Heap {
    values: Vec<Value>,
}

impl Heap {
    /// Number of records.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Adds a record. `None` where ids are exhausted (2³² records).
    pub(crate) fn push(&mut self, value: Value) -> Option<ValueId> {
        let id = u32::try_from(self.values.len()).ok()?;
        self.values.push(value);
        Some(ValueId(id))
    }

    /// The record at `id`, which must be of this heap.
    pub(crate) fn value(&self, id: ValueId) -> &Value {
        &self.values[id.0 as usize]
    }

    /// The record at `id`, to be changed in place.
    pub(crate) fn value_mut(&mut self, id: ValueId) -> &mut Value {
        &mut self.values[id.0 as usize]
    }

    /// The record at `id` seen together with this heap.
    ///
    /// # Panics
    /// Where `id` is of another, larger heap.
    pub fn get(&self, id: ValueId) -> ValueRef<'_> {
        ValueRef { heap: self, id }
    }
}

/// A record together with the heap that holds what it refers to.
#[derive(Clone, Copy)]
pub struct ValueRef<'h> {
    heap: &'h Heap,
    id: ValueId,
}

impl fmt::Debug for ValueRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Records may be cyclic, so only this one is shown.
        write!(f, "{:?} {:?}", self.id, self.value())
    }
}

impl<'h> ValueRef<'h> {
    /// Place in the heap.
    pub fn id(self) -> ValueId {
        self.id
    }

    /// The heap.
    pub fn heap(self) -> &'h Heap {
        self.heap
    }

    /// The record itself.
    pub fn value(self) -> &'h Value {
        self.heap.value(self.id)
    }

    /// Another record of the same heap.
    pub(crate) fn at(self, id: ValueId) -> Self {
        Self { heap: self.heap, id }
    }

    /// What the record is, for error messages: `a list of 3`, `a tensor`, `an object of class …`.
    pub fn kind(self) -> String {
        match self.value() {
            Value::None => "None".into(),
            Value::Bool(value) => if *value { "True" } else { "False" }.into(),
            Value::Int(value) => format!("the integer {value}"),
            Value::BigInt(_) => "a long integer".into(),
            Value::Float(value) => format!("the float {value}"),
            Value::Str(text) => {
                let short: String = text.chars().take(40).collect();
                format!("the text {short:?}")
            }
            Value::Bytes(bytes) => format!("{} bytes", bytes.len()),
            Value::List(items) => format!("a list of {}", items.len()),
            Value::Tuple(items) => format!("a tuple of {}", items.len()),
            Value::Dict(entries) => format!("a dictionary of {}", entries.len()),
            Value::Set(items) => format!("a set of {}", items.len()),
            Value::Global(global) => format!("the name `{global}`"),
            Value::Storage(_) => "a storage".into(),
            Value::Tensor(tensor) => format!("a tensor of shape {:?}", tensor.shape),
            Value::DType(dtype) => format!("the type {dtype}"),
            Value::Array(array) => format!("an array of shape {:?}", array.shape),
            Value::NumpyDType(_) => "a numpy type".into(),
            Value::Object(object) => format!("an object of class `{}`", object.class),
        }
    }

    /// Whether this is `None`.
    pub fn is_none(self) -> bool {
        matches!(self.value(), Value::None)
    }

    /// A boolean.
    pub fn as_bool(self) -> Option<bool> {
        match self.value() {
            Value::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// An integer; a boolean is none.
    pub fn as_i64(self) -> Option<i64> {
        match self.value() {
            Value::Int(value) => Some(*value),
            _ => None,
        }
    }

    /// A non-negative integer.
    pub fn as_usize(self) -> Option<usize> {
        self.as_i64().and_then(|value| usize::try_from(value).ok())
    }

    /// A float or an integer.
    pub fn as_f64(self) -> Option<f64> {
        match self.value() {
            Value::Float(value) => Some(*value),
            Value::Int(value) => Some(*value as f64),
            _ => None,
        }
    }

    /// Text.
    pub fn as_str(self) -> Option<&'h str> {
        match self.value() {
            Value::Str(text) => Some(text),
            _ => None,
        }
    }

    /// Bytes.
    pub fn as_bytes(self) -> Option<&'h [u8]> {
        match self.value() {
            Value::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// A tensor.
    pub fn as_tensor(self) -> Option<&'h TensorRef> {
        match self.value() {
            Value::Tensor(tensor) => Some(tensor),
            _ => None,
        }
    }

    /// A numpy array.
    pub fn as_array(self) -> Option<&'h ArrayRef> {
        match self.value() {
            Value::Array(array) => Some(array),
            _ => None,
        }
    }

    /// A class or function name.
    pub fn as_global(self) -> Option<&'h Global> {
        match self.value() {
            Value::Global(global) => Some(global),
            _ => None,
        }
    }

    /// An object.
    pub fn as_object(self) -> Option<&'h Object> {
        match self.value() {
            Value::Object(object) => Some(object),
            _ => None,
        }
    }

    /// The class of an object.
    pub fn class(self) -> Option<&'h Global> {
        self.as_object().map(|object| &*object.class)
    }

    /// Elements of a list, a tuple, a set, or of an object derived from `list`.
    pub fn as_sequence(self) -> Option<impl ExactSizeIterator<Item = ValueRef<'h>> + Clone> {
        let items: &'h [ValueId] = match self.value() {
            Value::List(items) | Value::Set(items) => items,
            Value::Tuple(items) => items,
            Value::Object(object) if !object.list_items.is_empty() => &object.list_items,
            _ => return None,
        };
        Some(items.iter().map(move |&id| self.at(id)))
    }

    /// Entries of a dictionary, or of an object derived from `dict`, in insertion order.
    pub fn as_dict(self) -> Option<impl ExactSizeIterator<Item = (ValueRef<'h>, ValueRef<'h>)> + Clone> {
        let entries = match self.value() {
            Value::Dict(entries) => entries,
            Value::Object(object) if !object.dict_items.is_empty() => &object.dict_items,
            _ => return None,
        };
        Some(entries.iter().map(move |&(key, value)| (self.at(key), self.at(value))))
    }

    /// The value of a text key of a dictionary; the last one where a key was set twice.
    pub fn get(self, key: &str) -> Option<ValueRef<'h>> {
        let entries = match self.value() {
            Value::Dict(entries) => entries,
            Value::Object(object) => &object.dict_items,
            _ => return None,
        };
        entries
            .iter()
            .rev()
            .find(|(name, _)| matches!(self.heap.value(*name), Value::Str(text) if **text == *key))
            .map(|&(_, value)| self.at(value))
    }
}
