//! The pickle machine, protocols 0 to 5, which executes nothing.
//!
//! A pickle is a program for a stack machine whose opcodes push constants, build containers, look up Python names
//! and call them. Here looking up a name gives an inert [`Value::Global`], and a call gives an inert
//! [`Value::Object`] with its arguments. Interpreted are only the calls that spell plain data: tensors, arrays,
//! dictionaries, sets and bytes. Names outside [`policy`] are an error, also where they are never called.
//!
//! The machine does not recurse, checks every length against the bytes that are left before it allocates, and
//! counts what it creates against [`Limits`].

mod error;
mod text;

use std::collections::HashMap;
use std::sync::Arc;

use crate::limits::Limits;
use crate::torch::opcodes::{self as op, name as opcode_name};
use crate::torch::policy;
use crate::torch::tensor::DType;
use crate::torch::value::{Global, Heap, Object, Value, ValueId, ValueRef};

pub use error::{PickleError, PickleFault};
use text::{raw_unicode_escape, unquote};

/// Highest protocol that is understood.
pub const HIGHEST_PROTOCOL: u8 = 5;

/// What a pickle holds.
#[derive(Clone, Debug)]
pub struct Pickle {
    heap: Heap,
    root: ValueId,
}

impl Pickle {
    /// The outermost record.
    pub fn root(&self) -> ValueRef<'_> {
        self.heap.get(self.root)
    }

    /// All records.
    pub fn heap(&self) -> &Heap {
        &self.heap
    }
}

/// Reads one pickle from the start of `bytes`; what follows its STOP is ignored.
///
/// # Errors
/// [`PickleError`] with the position of the opcode at fault.
pub fn load(bytes: &[u8], limits: &Limits) -> Result<Pickle, PickleError> {
    let mut machine = Machine::new(bytes, limits);
    match machine.run() {
        Ok(root) => Ok(Pickle { heap: machine.heap, root }),
        Err(reason) => Err(PickleError { offset: machine.opcode_at, reason }),
    }
}

type Step<T = ()> = Result<T, PickleFault>;

/// The state of the machine.
pub(super) struct Machine<'a> {
    input: &'a [u8],
    at: usize,
    /// Position and name of the opcode being carried out.
    opcode_at: usize,
    pub(super) opcode: &'static str,
    stack: Vec<ValueId>,
    /// Heights of the stack at each MARK.
    marks: Vec<usize>,
    memo: HashMap<u64, ValueId>,
    pub(super) heap: Heap,
    none: Option<ValueId>,
    booleans: [Option<ValueId>; 2],
    empty_tuple: Option<ValueId>,
    limits: &'a Limits,
    references: usize,
    text_bytes: u64,
}

impl<'a> Machine<'a> {
    fn new(input: &'a [u8], limits: &'a Limits) -> Self {
        Self {
            input,
            at: 0,
            opcode_at: 0,
            opcode: "PROTO",
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
            heap: Heap::default(),
            none: None,
            booleans: [None; 2],
            empty_tuple: None,
            limits,
            references: 0,
            text_bytes: 0,
        }
    }

    fn run(&mut self) -> Step<ValueId> {
        if self.input.len() as u64 > self.limits.pickle_bytes {
            return Err(self.limit("bytes", self.limits.pickle_bytes));
        }
        loop {
            self.opcode_at = self.at;
            let Some(&byte) = self.input.get(self.at) else {
                return Err(PickleFault::NoStop);
            };
            self.at += 1;
            self.opcode = opcode_name(byte);
            if byte == op::STOP {
                return self.pop();
            }
            self.step(byte)?;
            if self.stack.len() + self.marks.len() > self.limits.stack {
                return Err(self.limit("places on the stack", self.limits.stack as u64));
            }
        }
    }

    fn step(&mut self, byte: u8) -> Step {
        match byte {
            op::PROTO => {
                let [found] = self.take()?;
                if found > HIGHEST_PROTOCOL {
                    return Err(PickleFault::Protocol { found });
                }
            }
            // A hint to readers that buffer; the length is checked, and otherwise not needed.
            op::FRAME => {
                let length = u64::from_le_bytes(self.take()?);
                self.check_left(length)?;
            }

            op::MARK => self.marks.push(self.stack.len()),
            op::POP => {
                if self.marks.last() == Some(&self.stack.len()) {
                    self.marks.pop();
                } else {
                    self.pop()?;
                }
            }
            op::POP_MARK => {
                self.pop_mark()?;
            }
            op::DUP => {
                let top = self.top()?;
                self.stack.push(top);
            }

            op::NONE => {
                let id = self.none()?;
                self.stack.push(id);
            }
            op::NEWTRUE => self.push_bool(true)?,
            op::NEWFALSE => self.push_bool(false)?,
            op::BININT => {
                let value = i32::from_le_bytes(self.take()?);
                self.push(Value::Int(value.into()))?;
            }
            op::BININT1 => {
                let [value] = self.take()?;
                self.push(Value::Int(value.into()))?;
            }
            op::BININT2 => {
                let value = u16::from_le_bytes(self.take()?);
                self.push(Value::Int(value.into()))?;
            }
            op::LONG1 => {
                let [length] = self.take()?;
                self.long(length.into())?;
            }
            op::LONG4 => {
                let length = i32::from_le_bytes(self.take()?);
                let length = u64::try_from(length).map_err(|_| self.malformed("a length"))?;
                self.long(length)?;
            }
            op::INT => match self.line()? {
                b"00" => self.push_bool(false)?,
                b"01" => self.push_bool(true)?,
                digits => self.decimal(digits)?,
            },
            op::LONG => {
                let digits = self.line()?;
                self.decimal(digits.strip_suffix(b"L").unwrap_or(digits))?;
            }
            op::FLOAT => {
                let value = std::str::from_utf8(self.line()?).ok().and_then(|text| text.trim().parse().ok());
                let value = value.ok_or_else(|| self.malformed("a float"))?;
                self.push(Value::Float(value))?;
            }
            op::BINFLOAT => {
                let value = f64::from_be_bytes(self.take()?);
                self.push(Value::Float(value))?;
            }

            op::STRING => {
                let line = self.line()?;
                let bytes = unquote(line).ok_or_else(|| self.malformed("a quoted string"))?;
                self.push_python2_string(&bytes)?;
            }
            op::BINSTRING => {
                let length = i32::from_le_bytes(self.take()?);
                let length = u64::try_from(length).map_err(|_| self.malformed("a length"))?;
                let bytes = self.take_slice(length)?;
                self.push_python2_string(bytes)?;
            }
            op::SHORT_BINSTRING => {
                let [length] = self.take()?;
                let bytes = self.take_slice(length.into())?;
                self.push_python2_string(bytes)?;
            }
            op::UNICODE => {
                let line = self.line()?;
                let text = raw_unicode_escape(line).ok_or_else(|| self.malformed("escaped text"))?;
                self.push_str(&text)?;
            }
            op::SHORT_BINUNICODE => {
                let [length] = self.take()?;
                self.unicode(length.into())?;
            }
            op::BINUNICODE => {
                let length = u32::from_le_bytes(self.take()?);
                self.unicode(length.into())?;
            }
            op::BINUNICODE8 => {
                let length = u64::from_le_bytes(self.take()?);
                self.unicode(length)?;
            }
            op::SHORT_BINBYTES => {
                let [length] = self.take()?;
                self.bytes(length.into())?;
            }
            op::BINBYTES => {
                let length = u32::from_le_bytes(self.take()?);
                self.bytes(length.into())?;
            }
            op::BINBYTES8 | op::BYTEARRAY8 => {
                let length = u64::from_le_bytes(self.take()?);
                self.bytes(length)?;
            }
            op::NEXT_BUFFER | op::READONLY_BUFFER => {
                return Err(PickleFault::Unsupported { what: "buffers outside the pickle" });
            }

            op::EMPTY_LIST => self.push(Value::List(Vec::new()))?,
            op::EMPTY_DICT => self.push(Value::Dict(Vec::new()))?,
            op::EMPTY_SET => self.push(Value::Set(Vec::new()))?,
            op::EMPTY_TUPLE => {
                let id = self.empty_tuple()?;
                self.stack.push(id);
            }
            op::TUPLE1 => self.tuple_of(1)?,
            op::TUPLE2 => self.tuple_of(2)?,
            op::TUPLE3 => self.tuple_of(3)?,
            op::TUPLE => {
                let items = self.pop_mark()?;
                self.push_tuple(items)?;
            }
            op::LIST => {
                let items = self.pop_mark()?;
                self.count_references(items.len())?;
                self.push(Value::List(items))?;
            }
            op::FROZENSET => {
                let items = self.pop_mark()?;
                self.count_references(items.len())?;
                self.push(Value::Set(items))?;
            }
            op::DICT => {
                let items = self.pop_mark()?;
                let entries = self.pairs(&items)?;
                self.push(Value::Dict(entries))?;
            }
            op::APPEND => {
                let item = self.pop()?;
                self.extend(&[item])?;
            }
            op::APPENDS => {
                let items = self.pop_mark()?;
                self.extend(&items)?;
            }
            op::ADDITEMS => {
                let items = self.pop_mark()?;
                self.count_references(items.len())?;
                let set = self.top()?;
                match self.heap.value_mut(set) {
                    Value::Set(set) => set.extend(items),
                    _ => return Err(self.type_error("a set", set)),
                }
            }
            op::SETITEM => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set_items(&[key, value])?;
            }
            op::SETITEMS => {
                let items = self.pop_mark()?;
                self.set_items(&items)?;
            }

            op::PUT => {
                let index = self.index()?;
                self.memoize(index)?;
            }
            op::BINPUT => {
                let [index] = self.take()?;
                self.memoize(index.into())?;
            }
            op::LONG_BINPUT => {
                let index = u32::from_le_bytes(self.take()?);
                self.memoize(index.into())?;
            }
            op::MEMOIZE => self.memoize(self.memo.len() as u64)?,
            op::GET => {
                let index = self.index()?;
                self.recall(index)?;
            }
            op::BINGET => {
                let [index] = self.take()?;
                self.recall(index.into())?;
            }
            op::LONG_BINGET => {
                let index = u32::from_le_bytes(self.take()?);
                self.recall(index.into())?;
            }

            op::GLOBAL => {
                let module = self.name_line()?;
                let name = self.name_line()?;
                self.push_global(module, name)?;
            }
            op::STACK_GLOBAL => {
                let name = self.pop_str()?;
                let module = self.pop_str()?;
                self.push_global(module, name)?;
            }
            op::EXT1 | op::EXT2 | op::EXT4 => {
                return Err(PickleFault::Unsupported { what: "names from the extension registry" });
            }
            op::REDUCE => {
                let args = self.pop()?;
                let callable = self.pop()?;
                let result = self.call(callable, args)?;
                self.stack.push(result);
            }
            op::NEWOBJ => {
                let args = self.pop()?;
                let class = self.pop()?;
                let result = self.new_object(class, args, None)?;
                self.stack.push(result);
            }
            op::NEWOBJ_EX => {
                let kwargs = self.pop()?;
                let args = self.pop()?;
                let class = self.pop()?;
                let result = self.new_object(class, args, Some(kwargs))?;
                self.stack.push(result);
            }
            op::INST => {
                let module = self.name_line()?;
                let name = self.name_line()?;
                let items = self.pop_mark()?;
                self.push_global(module, name)?;
                let class = self.pop()?;
                let args = self.alloc_tuple(items)?;
                let result = self.new_object(class, args, None)?;
                self.stack.push(result);
            }
            op::OBJ => {
                let mut items = self.pop_mark()?.into_iter();
                let class = items.next().ok_or(PickleFault::StackUnderflow { opcode: self.opcode })?;
                let args = self.alloc_tuple(items.collect())?;
                let result = self.new_object(class, args, None)?;
                self.stack.push(result);
            }
            op::BUILD => {
                let state = self.pop()?;
                let target = self.top()?;
                self.build(target, state)?;
            }
            op::BINPERSID => {
                let id = self.pop()?;
                let result = self.persistent(id)?;
                self.stack.push(result);
            }
            op::PERSID => {
                let found = format!("the text {:?}", String::from_utf8_lossy(self.line()?));
                return Err(PickleFault::PersistentId { found });
            }
            unknown => return Err(PickleFault::UnknownOpcode(unknown)),
        }
        Ok(())
    }

    // ---- input ----

    fn check_left(&self, needed: u64) -> Step {
        let left = (self.input.len() - self.at) as u64;
        if needed > left {
            return Err(PickleFault::Truncated { opcode: self.opcode, needed, left });
        }
        Ok(())
    }

    fn take_slice(&mut self, length: u64) -> Step<&'a [u8]> {
        self.check_left(length)?;
        let start = self.at;
        self.at += length as usize;
        Ok(&self.input[start..self.at])
    }

    fn take<const N: usize>(&mut self) -> Step<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.take_slice(N as u64)?);
        Ok(out)
    }

    /// The bytes up to the next line feed, which is consumed but not returned.
    fn line(&mut self) -> Step<&'a [u8]> {
        let rest = &self.input[self.at..];
        let Some(length) = rest.iter().position(|&byte| byte == b'\n') else {
            return Err(PickleFault::Truncated { opcode: self.opcode, needed: rest.len() as u64 + 1, left: rest.len() as u64 });
        };
        self.at += length + 1;
        Ok(&rest[..length])
    }

    fn name_line(&mut self) -> Step<String> {
        let line = self.line()?;
        // Names longer than this are refused by the policy in any case.
        if line.len() > 2048 {
            return Err(self.malformed("a name"));
        }
        String::from_utf8(line.to_vec()).map_err(|_| self.malformed("a name"))
    }

    fn index(&mut self) -> Step<u64> {
        let line = self.line()?;
        std::str::from_utf8(line).ok().and_then(|text| text.parse().ok()).ok_or_else(|| self.malformed("a memo index"))
    }

    fn decimal(&mut self, digits: &[u8]) -> Step {
        let value = std::str::from_utf8(digits).ok().and_then(|text| text.trim().parse().ok());
        let value = value.ok_or_else(|| self.malformed("an integer of 64 bits"))?;
        self.push(Value::Int(value))
    }

    /// A little-endian two's-complement integer of any length.
    fn long(&mut self, length: u64) -> Step {
        // Seeds and states of random generators have up to 20000 bits; nothing in a potential is longer.
        const LONGEST: u64 = 4096;
        self.check_left(length)?;
        if length > LONGEST {
            return Err(self.limit("bytes in one integer", LONGEST));
        }
        let bytes = self.take_slice(length)?;
        if bytes.len() <= 8 {
            let fill = if bytes.last().is_some_and(|byte| byte & 0x80 != 0) { 0xff } else { 0 };
            let mut wide = [fill; 8];
            wide[..bytes.len()].copy_from_slice(bytes);
            return self.push(Value::Int(i64::from_le_bytes(wide)));
        }
        let text: String = bytes.iter().rev().map(|byte| format!("{byte:02x}")).collect();
        self.count_text(text.len())?;
        self.push(Value::BigInt(text.into()))
    }

    fn unicode(&mut self, length: u64) -> Step {
        let bytes = self.take_slice(length)?;
        let text = std::str::from_utf8(bytes).map_err(|_| self.malformed("UTF-8 text"))?;
        self.push_str(text)
    }

    fn bytes(&mut self, length: u64) -> Step {
        let bytes = self.take_slice(length)?;
        self.count_text(bytes.len())?;
        self.push(Value::Bytes(bytes.into()))
    }

    /// Python 2 did not tell text from bytes: what is ASCII counts as text.
    fn push_python2_string(&mut self, bytes: &[u8]) -> Step {
        match std::str::from_utf8(bytes) {
            Ok(text) if text.is_ascii() => self.push_str(text),
            _ => {
                self.count_text(bytes.len())?;
                self.push(Value::Bytes(bytes.into()))
            }
        }
    }

    // ---- stack and memo ----

    fn pop(&mut self) -> Step<ValueId> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err(PickleFault::StackUnderflow { opcode: self.opcode });
        }
        self.stack.pop().ok_or(PickleFault::StackUnderflow { opcode: self.opcode })
    }

    fn top(&mut self) -> Step<ValueId> {
        let id = self.pop()?;
        self.stack.push(id);
        Ok(id)
    }

    /// Everything above the last mark, which is removed.
    fn pop_mark(&mut self) -> Step<Vec<ValueId>> {
        let Some(floor) = self.marks.pop() else {
            return Err(PickleFault::NoMark { opcode: self.opcode });
        };
        Ok(self.stack.split_off(floor))
    }

    fn pop_str(&mut self) -> Step<String> {
        let id = self.pop()?;
        match self.heap.value(id) {
            Value::Str(text) => Ok(text.to_string()),
            _ => Err(self.type_error("a name", id)),
        }
    }

    fn push(&mut self, value: Value) -> Step {
        let id = self.alloc(value)?;
        self.stack.push(id);
        Ok(())
    }

    fn push_bool(&mut self, value: bool) -> Step {
        let id = match self.booleans[usize::from(value)] {
            Some(id) => id,
            None => self.alloc(Value::Bool(value))?,
        };
        self.booleans[usize::from(value)] = Some(id);
        self.stack.push(id);
        Ok(())
    }

    fn push_str(&mut self, text: &str) -> Step {
        self.count_text(text.len())?;
        self.push(Value::Str(text.into()))
    }

    fn push_tuple(&mut self, items: Vec<ValueId>) -> Step {
        let id = self.alloc_tuple(items)?;
        self.stack.push(id);
        Ok(())
    }

    fn tuple_of(&mut self, count: usize) -> Step {
        let mut items = vec![self.pop()?; count];
        for place in (0..count - 1).rev() {
            items[place] = self.pop()?;
        }
        self.push_tuple(items)
    }

    fn memoize(&mut self, index: u64) -> Step {
        let top = self.top()?;
        self.memo.insert(index, top);
        if self.memo.len() > self.limits.objects {
            return Err(self.limit("memo entries", self.limits.objects as u64));
        }
        Ok(())
    }

    fn recall(&mut self, index: u64) -> Step {
        let id = *self.memo.get(&index).ok_or(PickleFault::NoMemo(index))?;
        self.stack.push(id);
        Ok(())
    }

    // ---- records ----

    pub(super) fn alloc(&mut self, value: Value) -> Step<ValueId> {
        let limit = self.limit("records", self.limits.objects as u64);
        if self.heap.len() >= self.limits.objects {
            return Err(limit);
        }
        self.heap.push(value).ok_or(limit)
    }

    pub(super) fn alloc_tuple(&mut self, items: Vec<ValueId>) -> Step<ValueId> {
        if items.is_empty() {
            return self.empty_tuple();
        }
        self.count_references(items.len())?;
        self.alloc(Value::Tuple(items.into()))
    }

    pub(super) fn empty_tuple(&mut self) -> Step<ValueId> {
        let id = match self.empty_tuple {
            Some(id) => id,
            None => self.alloc(Value::Tuple([].into()))?,
        };
        self.empty_tuple = Some(id);
        Ok(id)
    }

    pub(super) fn none(&mut self) -> Step<ValueId> {
        let id = match self.none {
            Some(id) => id,
            None => self.alloc(Value::None)?,
        };
        self.none = Some(id);
        Ok(id)
    }

    fn push_global(&mut self, module: String, name: String) -> Step {
        if !policy::is_allowed(&module, &name) {
            return Err(PickleFault::ForbiddenGlobal { module, name });
        }
        let value = match (module.as_str(), DType::from_torch_name(&name)) {
            ("torch", Some(dtype)) => Value::DType(dtype),
            _ => {
                self.count_text(module.len() + name.len())?;
                Value::Global(Arc::new(Global { module, name }))
            }
        };
        self.push(value)
    }

    /// An inert instance.
    fn new_object(&mut self, class: ValueId, args: ValueId, kwargs: Option<ValueId>) -> Step<ValueId> {
        let Value::Global(global) = self.heap.value(class) else {
            return Err(PickleFault::NotCallable { opcode: self.opcode, found: self.heap.get(class).kind() });
        };
        let global = Arc::clone(global);
        if !matches!(self.heap.value(args), Value::Tuple(_)) {
            return Err(self.type_error("a tuple of arguments", args));
        }
        // Instances of plain containers, as subclasses of `OrderedDict` and protocol 2 make them.
        if kwargs.is_none() && super::rebuild::is_interpreted(&global) {
            return self.call(class, args);
        }
        self.alloc_object(global, args, kwargs)
    }

    pub(super) fn alloc_object(&mut self, class: Arc<Global>, args: ValueId, kwargs: Option<ValueId>) -> Step<ValueId> {
        self.alloc(Value::Object(Box::new(Object { class, args, kwargs, state: None, list_items: Vec::new(), dict_items: Vec::new() })))
    }

    fn extend(&mut self, items: &[ValueId]) -> Step {
        self.count_references(items.len())?;
        let target = self.top()?;
        match self.heap.value_mut(target) {
            Value::List(list) => list.extend_from_slice(items),
            Value::Object(object) => object.list_items.extend_from_slice(items),
            _ => return Err(self.type_error("a list", target)),
        }
        Ok(())
    }

    fn set_items(&mut self, items: &[ValueId]) -> Step {
        let entries = self.pairs(items)?;
        let target = self.top()?;
        match self.heap.value_mut(target) {
            Value::Dict(dict) => dict.extend(entries),
            Value::Object(object) => object.dict_items.extend(entries),
            _ => return Err(self.type_error("a dictionary", target)),
        }
        Ok(())
    }

    fn pairs(&mut self, items: &[ValueId]) -> Step<Vec<(ValueId, ValueId)>> {
        self.count_references(items.len())?;
        let (pairs, rest) = items.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(PickleFault::StackUnderflow { opcode: self.opcode });
        }
        Ok(pairs.iter().map(|&[key, value]| (key, value)).collect())
    }

    // ---- counters and errors ----

    pub(super) fn count_references(&mut self, count: usize) -> Step {
        self.references = self.references.saturating_add(count);
        if self.references > self.limits.references {
            return Err(self.limit("elements in its containers", self.limits.references as u64));
        }
        Ok(())
    }

    pub(super) fn count_text(&mut self, bytes: usize) -> Step {
        self.text_bytes = self.text_bytes.saturating_add(bytes as u64);
        if self.text_bytes > self.limits.text_bytes {
            return Err(self.limit("bytes of text", self.limits.text_bytes));
        }
        Ok(())
    }

    fn limit(&self, what: &'static str, limit: u64) -> PickleFault {
        PickleFault::Limit { what, limit }
    }

    fn malformed(&self, expected: &'static str) -> PickleFault {
        PickleFault::Malformed { opcode: self.opcode, expected }
    }

    pub(super) fn type_error(&self, expected: &'static str, found: ValueId) -> PickleFault {
        PickleFault::Type { opcode: self.opcode, expected, found: self.heap.get(found).kind() }
    }
}
