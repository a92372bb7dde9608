//! Pickled `torch.nn.Module` trees: children, state dicts, attributes, irreps.
//!
//! A module is an object whose state is a dictionary with `_parameters`, `_buffers` and `_modules` beside the
//! ordinary attributes. Modules made by `torch.fx` carry that dictionary as an argument instead, and those of
//! TorchScript hold tensors and children as plain attributes; the functions here treat all three alike.

use std::collections::HashMap;

use crate::limits::Limits;
use crate::torch::tensor::{TensorError, TensorRef};
use crate::torch::value::{Value, ValueRef};

/// Deepest nesting of modules, and of other records where they are walked.
pub(crate) const MAX_DEPTH: usize = 64;
/// Largest number of modules of one tree; shared modules count as often as they occur.
const MAX_MODULES: usize = 100_000;
/// Largest number of tensors of one state dict.
const MAX_TENSORS: usize = 200_000;
/// Longest dotted name.
const MAX_NAME: usize = 1024;

/// Why a module tree cannot be walked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModuleError {
    /// The tree is deeper or wider than any model, perhaps because it contains itself.
    #[error("the {what} at `{path}…` exceed {limit}; does a module contain itself?")]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// Where it was noticed (the beginning of the dotted name).
        path: String,
        /// The limit.
        limit: usize,
    },
    /// An attribute is missing.
    #[error("`{path}` is missing in the object of class `{class}`")]
    Missing {
        /// Dotted name.
        path: String,
        /// Class of the object that should have it.
        class: String,
    },
    /// An attribute is of the wrong type.
    #[error("`{path}` is {found}; {expected} was expected")]
    Type {
        /// Dotted name.
        path: String,
        /// What was expected.
        expected: &'static str,
        /// What was found.
        found: String,
    },
    /// Two tensors of one name.
    #[error("the state dict holds two tensors of the name `{name}`")]
    DuplicateTensor {
        /// The name.
        name: String,
    },
}

/// Whether a tensor is trained or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// From `_parameters`.
    Parameter,
    /// From `_buffers`.
    Buffer,
    /// The file does not tell.
    Unknown,
}

/// One tensor of a state dict.
#[derive(Clone, Debug)]
pub struct StateEntry {
    /// The dotted name that torch gives it.
    pub name: String,
    /// Where its numbers are.
    pub tensor: TensorRef,
    /// Whether it is trained.
    pub role: Role,
}

/// The tensors of a model under the names, and in the order, of `module.state_dict()` in Python.
#[derive(Clone, Debug, Default)]
pub struct StateDict {
    entries: Vec<StateEntry>,
    index: HashMap<String, usize>,
    bytes: u64,
}

impl StateDict {
    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no tensor.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Sum of the sizes of all tensors, in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// All tensors in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &StateEntry> {
        self.entries.iter()
    }

    /// The tensor of this name.
    pub fn get(&self, name: &str) -> Option<&TensorRef> {
        self.index.get(name).map(|&place| &self.entries[place].tensor)
    }

    fn push(&mut self, name: String, tensor: &TensorRef, role: Role, limits: &Limits) -> Result<(), crate::Error> {
        tensor.check(&name)?;
        if self.entries.len() >= MAX_TENSORS {
            return Err(too_large("tensors of the state dict", &name, MAX_TENSORS).into());
        }
        let size = tensor.numel().unwrap_or(0).saturating_mul(tensor.dtype.size());
        self.bytes = self.bytes.saturating_add(size);
        if self.bytes > limits.tensor_bytes {
            return Err(TensorError::TooLarge { tensor: name, bytes: self.bytes, limit: limits.tensor_bytes }.into());
        }
        if self.index.insert(name.clone(), self.entries.len()).is_some() {
            return Err(ModuleError::DuplicateTensor { name }.into());
        }
        self.entries.push(StateEntry { name, tensor: tensor.clone(), role });
        Ok(())
    }
}

fn too_large(what: &'static str, path: &str, limit: usize) -> ModuleError {
    ModuleError::TooLarge { what, path: path.chars().take(80).collect(), limit }
}

/// `prefix.name`, or an error where it gets longer than any name of a model.
fn join(prefix: &str, name: &str) -> Result<String, ModuleError> {
    if prefix.len() + name.len() >= MAX_NAME {
        return Err(too_large("characters of the name", prefix, MAX_NAME));
    }
    Ok(if prefix.is_empty() { name.into() } else { format!("{prefix}.{name}") })
}

impl<'h> ValueRef<'h> {
    /// The dictionary of attributes of an object (`__dict__`), where it has one.
    pub fn attributes(self) -> Option<ValueRef<'h>> {
        let object = self.as_object()?;
        // `torch.fx` modules are calls of a function with the dictionary as first argument.
        if object.class.module == "torch.fx.graph_module" && object.state.is_none() {
            let body = self.at(object.args).as_sequence()?.next()?;
            return matches!(body.value(), Value::Dict(_)).then_some(body);
        }
        let state = self.at(object.state?);
        match state.value() {
            Value::Dict(_) => Some(state),
            // (`__dict__`, `__slots__`)
            Value::Tuple(parts) => parts.iter().map(|&part| self.at(part)).find(|part| matches!(part.value(), Value::Dict(_))),
            _ => None,
        }
    }

    /// The attribute `name` of an object, as `getattr` would find it on a module: also among its parameters,
    /// buffers and children. On a dictionary, the value of the text key `name`.
    pub fn attr(self, name: &str) -> Option<ValueRef<'h>> {
        if let Value::Dict(_) = self.value() {
            return self.get(name);
        }
        let attributes = self.attributes()?;
        attributes.get(name).or_else(|| ["_parameters", "_buffers", "_modules"].iter().find_map(|group| attributes.get(group)?.get(name)))
    }

    /// The attribute at the end of a dotted path: `interactions.0.avg_num_neighbors`. Numbers also index lists.
    pub fn path(self, dotted: &str) -> Option<ValueRef<'h>> {
        dotted.split('.').try_fold(self, |value, name| {
            value.attr(name).or_else(|| {
                let place: usize = name.parse().ok()?;
                value.as_sequence()?.nth(place)
            })
        })
    }

    /// As [`Self::path`].
    ///
    /// # Errors
    /// [`ModuleError::Missing`] naming the path and the class of this object.
    pub fn require(self, dotted: &str) -> Result<ValueRef<'h>, ModuleError> {
        self.path(dotted).ok_or_else(|| ModuleError::Missing {
            path: dotted.into(),
            class: self.class().map_or_else(|| self.kind(), ToString::to_string),
        })
    }

    /// The float or integer at a dotted path.
    ///
    /// # Errors
    /// [`ModuleError`] naming the path, where it is missing or something else.
    pub fn require_f64(self, dotted: &str) -> Result<f64, ModuleError> {
        let value = self.require(dotted)?;
        value.as_f64().ok_or_else(|| value.type_error(dotted, "a number"))
    }

    /// The integer of zero or more at a dotted path.
    ///
    /// # Errors
    /// [`ModuleError`] naming the path, where it is missing or something else.
    pub fn require_usize(self, dotted: &str) -> Result<usize, ModuleError> {
        let value = self.require(dotted)?;
        value.as_usize().ok_or_else(|| value.type_error(dotted, "an integer of zero or more"))
    }

    /// The irreps at a dotted path.
    ///
    /// # Errors
    /// [`ModuleError`] naming the path, where it is missing or something else.
    pub fn require_irreps(self, dotted: &str) -> Result<Vec<MulIrrep>, ModuleError> {
        let value = self.require(dotted)?;
        irreps(value).ok_or_else(|| value.type_error(dotted, "irreps"))
    }

    /// An error saying that this record, found at `path`, is not what was expected.
    pub fn type_error(self, path: &str, expected: &'static str) -> ModuleError {
        ModuleError::Type { path: path.into(), expected, found: self.kind() }
    }

    /// Whether this object is a module of TorchScript.
    fn is_script_module(self) -> bool {
        self.class().is_some_and(|class| class.module == "__torch__" || class.module.starts_with("__torch__."))
    }

    /// The children of a module with their names, in order; none for anything else.
    pub fn children(self) -> Vec<(&'h str, ValueRef<'h>)> {
        let Some(attributes) = self.attributes() else {
            return Vec::new();
        };
        let entries = if self.is_script_module() { attributes.as_dict() } else { attributes.get("_modules").and_then(ValueRef::as_dict) };
        entries
            .into_iter()
            .flatten()
            .filter_map(|(name, child)| Some((name.as_str()?, child)))
            .filter(|(_, child)| child.as_object().is_some() && (!self.is_script_module() || child.is_script_module()))
            .collect()
    }

    /// The tensors that belong to this module itself, with their names and roles, in the order of torch.
    fn own_tensors(self) -> Vec<(&'h str, &'h TensorRef, Role)> {
        let Some(attributes) = self.attributes() else {
            return Vec::new();
        };
        let tensors = |group: ValueRef<'h>, role: Role| {
            group.as_dict().into_iter().flatten().filter_map(move |(name, value)| Some((name.as_str()?, value.as_tensor()?, role)))
        };
        if self.is_script_module() {
            return tensors(attributes, Role::Unknown).collect();
        }
        let hidden: Vec<&str> = attributes
            .get("_non_persistent_buffers_set")
            .and_then(ValueRef::as_sequence)
            .into_iter()
            .flatten()
            .filter_map(ValueRef::as_str)
            .collect();
        let group = |name, role| attributes.get(name).into_iter().flat_map(move |group| tensors(group, role));
        group("_parameters", Role::Parameter).chain(group("_buffers", Role::Buffer).filter(|(name, ..)| !hidden.contains(name))).collect()
    }
}

/// A module and all below it with their dotted names, parents first, in the order of `named_modules()`. The name
/// of `root` itself is empty; shared modules occur under each of their names.
///
/// # Errors
/// [`ModuleError::TooLarge`] for trees that contain themselves.
pub fn named_modules(root: ValueRef<'_>) -> Result<Vec<(String, ValueRef<'_>)>, ModuleError> {
    let mut found = Vec::new();
    let mut stack = vec![(String::new(), root, 0)];
    while let Some((name, module, depth)) = stack.pop() {
        if depth > MAX_DEPTH {
            return Err(too_large("levels of modules", &name, MAX_DEPTH));
        }
        let children = module.children();
        if found.len() + stack.len() + children.len() > MAX_MODULES {
            return Err(too_large("modules", &name, MAX_MODULES));
        }
        for (child_name, child) in children.into_iter().rev() {
            stack.push((join(&name, child_name)?, child, depth + 1));
        }
        found.push((name, module));
    }
    Ok(found)
}

/// The state dict of a pickled module, or of a dictionary of tensors.
///
/// # Errors
/// [`crate::Error::Module`] for trees that contain themselves, [`crate::Error::Tensor`] naming a tensor that lies
/// outside its storage or exceeds the limits.
pub fn state_dict(root: ValueRef<'_>, limits: &Limits) -> Result<StateDict, crate::Error> {
    let mut dict = StateDict::default();
    if matches!(root.value(), Value::Dict(_)) {
        for (name, value) in root.as_dict().into_iter().flatten() {
            let (Some(name), Some(tensor)) = (name.as_str(), value.as_tensor()) else {
                let name = name.as_str().map_or_else(|| name.kind(), str::to_owned);
                return Err(value.type_error(&name, "a tensor").into());
            };
            dict.push(join("", name)?, tensor, Role::Unknown, limits)?;
        }
        return Ok(dict);
    }
    for (prefix, module) in named_modules(root)? {
        for (name, tensor, role) in module.own_tensors() {
            dict.push(join(&prefix, name)?, tensor, role, limits)?;
        }
    }
    Ok(dict)
}

/// The TorchScript archives that e3nn keeps inside modules with generated code (`__codegen__`), with the dotted
/// names they have as submodules. They hold programs, which are never run, and coupling tensors.
///
/// # Errors
/// As [`named_modules`].
pub fn generated_code(root: ValueRef<'_>) -> Result<Vec<(String, &[u8])>, ModuleError> {
    let mut found = Vec::new();
    for (prefix, module) in named_modules(root)? {
        let code = module.attributes().and_then(|attributes| attributes.get("__codegen__"));
        for (name, archive) in code.and_then(ValueRef::as_dict).into_iter().flatten() {
            if let (Some(name), Some(bytes)) = (name.as_str(), archive.as_bytes()) {
                found.push((join(&prefix, name)?, bytes));
            }
        }
    }
    Ok(found)
}

/// Some copies of one irreducible representation of O(3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MulIrrep {
    /// Number of copies.
    pub mul: usize,
    /// Degree.
    pub l: usize,
    /// Whether the parity is odd.
    pub odd: bool,
}

impl std::fmt::Display for MulIrrep {
    /// In the notation of e3nn: `128x1o`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}x{}{}", self.mul, self.l, if self.odd { 'o' } else { 'e' })
    }
}

/// Irreps in the notation of e3nn: `128x0e+128x1o`.
pub fn irreps_text(irreps: &[MulIrrep]) -> String {
    irreps.iter().map(ToString::to_string).collect::<Vec<_>>().join("+")
}

/// Decodes an e3nn `Irreps` object: a tuple of `_MulIr(mul, Irrep(l, p))`.
pub fn irreps(value: ValueRef<'_>) -> Option<Vec<MulIrrep>> {
    // More blocks than any model has.
    const MAX_BLOCKS: usize = 4096;
    let blocks = arguments_of(value, "Irreps")?.next()?.as_sequence()?;
    if blocks.len() > MAX_BLOCKS {
        return None;
    }
    blocks
        .map(|block| {
            let mut parts = tuple_arguments(block, "_MulIr")?;
            let mul = parts.next()?.as_usize()?;
            let mut parts = tuple_arguments(parts.next()?, "Irrep")?;
            let l = parts.next()?.as_usize()?;
            let odd = match parts.next()?.as_i64()? {
                1 => false,
                -1 => true,
                _ => return None,
            };
            Some(MulIrrep { mul, l, odd })
        })
        .collect()
}

/// The arguments of an object of an e3nn class.
fn arguments_of<'h>(value: ValueRef<'h>, class: &str) -> Option<impl ExactSizeIterator<Item = ValueRef<'h>> + Clone + use<'h>> {
    let object = value.as_object()?;
    if !object.class.module.starts_with("e3nn.") || object.class.name != class {
        return None;
    }
    value.at(object.args).as_sequence()
}

/// The elements of an object of an e3nn class derived from `tuple`: given one by one, or as one tuple.
fn tuple_arguments<'h>(value: ValueRef<'h>, class: &str) -> Option<impl ExactSizeIterator<Item = ValueRef<'h>> + Clone + use<'h>> {
    let arguments = arguments_of(value, class)?;
    if arguments.len() == 1 {
        return arguments.clone().next()?.as_sequence();
    }
    value.at(value.as_object()?.args).as_sequence()
}
