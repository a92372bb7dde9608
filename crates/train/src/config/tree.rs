//! A configuration as it was written: values that know where they stand, and the way from them to types.
//!
//! TOML's own deserialiser knows spans of one text; here values come from a file, a preset and the command line, and a wrong one is
//! named by its full key.

use std::fmt::{self, Display};
use std::ops::Range;
use std::path::Path;

use indexmap::IndexMap;
use serde::de::{self, DeserializeSeed, Expected, IntoDeserializer, Unexpected, Visitor};
use serde::forward_to_deserialize_any;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, Known, Place, Source, nearest};

/// A value and where its key stands.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) value: Value,
    pub(super) place: Place,
}

/// A value of TOML.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Text(String),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    /// Dates and times, which no key takes.
    Date(String),
    List(Vec<Node>),
    Table(IndexMap<String, Node>),
}

impl Node {
    /// Parses a whole text: a table.
    pub(super) fn parse(text: &str, source: &Source) -> Result<Self, ConfigError> {
        let place = |offset: usize| Place { source: source.clone(), line: text[..offset].matches('\n').count() + 1 };
        let table = DeTable::parse(text).map_err(|e| {
            let offset = e.span().map_or(0, |s| s.start.min(text.len()));
            let offset = (0..=offset).rev().find(|&o| text.is_char_boundary(o)).unwrap_or(0);
            let column = text[..offset].rsplit('\n').next().map_or(0, |line| line.chars().count()) + 1;
            ConfigError::Syntax { place: place(offset), column, message: e.message().replace('\n', " ") }
        })?;
        let reader = Reader { place: &place };
        Ok(Self { value: reader.table(String::new(), table.into_inner())?, place: place(0) })
    }

    pub(super) fn table(&self) -> Option<&IndexMap<String, Node>> {
        if let Value::Table(table) = &self.value { Some(table) } else { None }
    }

    pub(super) fn table_mut(&mut self) -> Option<&mut IndexMap<String, Node>> {
        if let Value::Table(table) = &mut self.value { Some(table) } else { None }
    }

    pub(super) fn text(&self) -> Option<&str> {
        if let Value::Text(text) = &self.value { Some(text) } else { None }
    }

    /// What is at the end of a path, or as far along it as there is anything.
    pub(super) fn find<'p>(&self, path: impl IntoIterator<Item = &'p str>) -> &Self {
        let mut node = self;
        for key in path {
            let next = match &node.value {
                Value::Table(table) => table.get(key),
                Value::List(list) => key.parse::<usize>().ok().and_then(|k| list.get(k)),
                _ => None,
            };
            let Some(next) = next else { break };
            node = next;
        }
        node
    }

    /// Puts the keys of another table over those of this one. Where a table of `tagged` (section, key) has another tag, it is replaced as a whole:
    /// its other keys belong to what is no longer wanted.
    pub(super) fn merge(&mut self, over: Self, tagged: &[(&str, &str)]) {
        match (&mut self.value, over.value) {
            (Value::Table(base), Value::Table(over_table)) => {
                for (key, node) in over_table {
                    let tag = tagged.iter().find(|(section, _)| *section == key).map(|(_, tag)| *tag);
                    match base.get_mut(&key) {
                        Some(slot) if !tag.is_some_and(|tag| slot.differs(&node, tag)) => slot.merge(node, &[]),
                        _ => {
                            base.insert(key, node);
                        }
                    }
                }
            }
            (slot, value) => (*slot, self.place) = (value, over.place),
        }
    }

    /// Whether both are tables with another text under `tag`.
    fn differs(&self, other: &Self, tag: &str) -> bool {
        let tag_of = |node: &Self| node.table().and_then(|t| t.get(tag)).and_then(|n| n.text().map(str::to_owned));
        matches!((tag_of(self), tag_of(other)), (Some(a), Some(b)) if a != b)
    }

    /// All values below this one with their paths, tables before what is in them.
    fn visit<'n>(&'n self, path: &mut Vec<String>, f: &mut impl FnMut(&[String], &'n Self)) {
        let children: Vec<(String, &Self)> = match &self.value {
            Value::Table(table) => table.iter().map(|(key, node)| (key.clone(), node)).collect(),
            Value::List(list) => list.iter().enumerate().map(|(k, node)| (k.to_string(), node)).collect(),
            _ => return,
        };
        for (key, node) in children {
            path.push(key);
            f(path, node);
            node.visit(path, f);
            path.pop();
        }
    }

    fn unexpected(&self) -> Unexpected<'_> {
        match &self.value {
            Value::Text(text) | Value::Date(text) => Unexpected::Str(text),
            Value::Integer(value) => Unexpected::Signed(*value),
            Value::Float(value) => Unexpected::Float(*value),
            Value::Boolean(value) => Unexpected::Bool(*value),
            Value::List(_) => Unexpected::Seq,
            Value::Table(_) => Unexpected::Map,
        }
    }

    /// The value as a type.
    pub(super) fn read<'de, T: de::Deserialize<'de>>(&'de self) -> Result<T, ConfigError> {
        T::deserialize(self).map_err(|e| e.locate(self))
    }
}

struct Reader<'a> {
    place: &'a dyn Fn(usize) -> Place,
}

impl Reader<'_> {
    fn table(&self, path: String, table: DeTable<'_>) -> Result<Value, ConfigError> {
        // The parser sorts keys; people read them in the order in which they stand.
        let mut entries: Vec<(Range<usize>, String, Spanned<DeValue<'_>>)> =
            table.into_iter().map(|(key, value)| (key.span(), key.into_inner().into_owned(), value)).collect();
        entries.sort_by_key(|(span, ..)| span.start);
        let nodes = entries.into_iter().map(|(span, key, value)| {
            let path = joined(&path, &key);
            let place = (self.place)(span.start);
            Ok((key, Node { value: self.value(path, &place, value.into_inner())?, place }))
        });
        nodes.collect::<Result<_, _>>().map(Value::Table)
    }

    fn value(&self, path: String, place: &Place, value: DeValue<'_>) -> Result<Value, ConfigError> {
        let unreadable = |key: String, what: String| ConfigError::Value {
            key,
            place: place.clone(),
            reason: format!("is {what}, which is out of range"),
        };
        Ok(match value {
            DeValue::String(text) => Value::Text(text.into_owned()),
            DeValue::Integer(n) => Value::Integer(i64::from_str_radix(n.as_str(), n.radix()).map_err(|_| unreadable(path, n.to_string()))?),
            DeValue::Float(x) => Value::Float(x.as_str().parse().map_err(|_| unreadable(path, x.to_string()))?),
            DeValue::Boolean(value) => Value::Boolean(value),
            DeValue::Datetime(date) => Value::Date(date.to_string()),
            DeValue::Array(list) => {
                let nodes = list.into_iter().enumerate().map(|(k, item)| {
                    let place = (self.place)(item.span().start);
                    Ok(Node { value: self.value(joined(&path, &k.to_string()), &place, item.into_inner())?, place })
                });
                Value::List(nodes.collect::<Result<_, _>>()?)
            }
            DeValue::Table(table) => self.table(path, table)?,
        })
    }
}

fn joined(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// What a type does not like about the value at a path.
#[derive(Debug)]
pub(super) struct TreeError {
    /// From the inside out.
    path: Vec<String>,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    UnknownKey { key: String, known: &'static [&'static str] },
    Choice { found: String, known: &'static [&'static str] },
    Type { found: String, expected: String },
    Missing { key: &'static str },
    Other(String),
}

impl TreeError {
    fn new(kind: Kind) -> Self {
        Self { path: Vec::new(), kind }
    }

    fn inside(mut self, key: &str) -> Self {
        self.path.push(key.to_owned());
        self
    }

    /// With the key and its place. Types with variants collect their values before they look at them, and so lose how deep they are: then the
    /// value is looked for below.
    fn locate(mut self, root: &Node) -> ConfigError {
        self.path.reverse();
        let here = root.find(self.path.iter().map(String::as_str));
        let mut path = self.path;
        let below = |matches: &dyn Fn(&[String], &Node) -> bool| {
            let mut found: Vec<Vec<String>> = Vec::new();
            here.visit(&mut Vec::new(), &mut |path, node| {
                if matches(path, node) {
                    found.push(path.to_vec());
                }
            });
            found
        };
        let unique = |mut found: Vec<Vec<String>>| if found.len() == 1 { found.pop() } else { None };
        let place = |path: &[String]| root.find(path.iter().map(String::as_str)).place.clone();
        match self.kind {
            Kind::UnknownKey { key, known } => {
                let rest = below(&|path, _| path.last() == Some(&key)).into_iter().min_by_key(Vec::len);
                path.extend(rest.unwrap_or_else(|| vec![key.clone()]));
                let tables = path[..path.len() - 1].join(".");
                let suggestion = nearest(&key, known.iter().copied()).map(|name| joined(&tables, name));
                let names = known.iter().map(|&k| k.to_owned()).collect();
                ConfigError::UnknownKey { key: path.join("."), place: place(&path), known: Box::new(Known { suggestion, names }) }
            }
            Kind::Choice { found, known } => {
                if here.text() != Some(&found) {
                    path.extend(unique(below(&|_, node| node.text() == Some(&found))).unwrap_or_default());
                }
                let suggestion = nearest(&found, known.iter().copied()).map(str::to_owned);
                let names = known.iter().map(|&k| k.to_owned()).collect();
                ConfigError::Choice { key: path.join("."), place: place(&path), found, known: Box::new(Known { suggestion, names }) }
            }
            Kind::Type { found, expected } => {
                if description(&here.unexpected()) != found {
                    path.extend(unique(below(&|_, node| description(&node.unexpected()) == found)).unwrap_or_default());
                }
                ConfigError::Type { key: path.join("."), place: place(&path), expected, found }
            }
            Kind::Missing { key } => {
                let place = place(&path);
                path.push(key.to_owned());
                ConfigError::Missing { key: path.join("."), place }
            }
            Kind::Other(reason) => {
                // What types say of texts quotes them.
                let quoted = |node: &Node| node.text().is_some_and(|text| reason.contains(&format!("`{text}`")));
                if !quoted(here) {
                    path.extend(unique(below(&|_, node| quoted(node))).unwrap_or_default());
                }
                ConfigError::Value { key: path.join("."), place: place(&path), reason: format!("is wrong: {reason}") }
            }
        }
    }
}

/// A value in the words of an error.
fn description(found: &Unexpected<'_>) -> String {
    match found {
        Unexpected::Str(text) => format!("the text \"{text}\""),
        Unexpected::Signed(n) => format!("the number {n}"),
        Unexpected::Unsigned(n) => format!("the number {n}"),
        Unexpected::Float(x) => format!("the number {x:?}"),
        Unexpected::Bool(value) => value.to_string(),
        Unexpected::Seq => "a list".into(),
        Unexpected::Map | Unexpected::StructVariant | Unexpected::Enum => "a table".into(),
        other => other.to_string(),
    }
}

/// What a type expects in the words of an error.
fn expectation(expected: &dyn Expected) -> String {
    let text = expected.to_string();
    match text.as_str() {
        "f64" | "f32" => "a number".into(),
        "usize" | "u64" | "u32" | "u8" => "a whole number that is not negative".into(),
        "i64" | "i32" | "isize" => "a whole number".into(),
        "a boolean" => "true or false".into(),
        "a string" | "path string" | "a character" => "text in quotes".into(),
        "a sequence" => "a list in brackets".into(),
        "a map" => "a table".into(),
        _ if text.starts_with("struct ") || text.starts_with("internally tagged enum") => "a table".into(),
        _ if text.starts_with("enum ") || text == "variant identifier" => "a name in quotes".into(),
        _ => text,
    }
}

impl Display for TreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.kind)
    }
}

impl std::error::Error for TreeError {}

impl de::Error for TreeError {
    fn custom<T: Display>(message: T) -> Self {
        Self::new(Kind::Other(message.to_string()))
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(Kind::Type { found: description(&found), expected: expectation(expected) })
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(found, expected)
    }

    fn unknown_field(key: &str, known: &'static [&'static str]) -> Self {
        Self::new(Kind::UnknownKey { key: key.to_owned(), known })
    }

    fn unknown_variant(found: &str, known: &'static [&'static str]) -> Self {
        Self::new(Kind::Choice { found: found.to_owned(), known })
    }

    fn missing_field(key: &'static str) -> Self {
        Self::new(Kind::Missing { key })
    }
}

impl<'de> de::Deserializer<'de> for &'de Node {
    type Error = TreeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TreeError> {
        match &self.value {
            Value::Text(text) | Value::Date(text) => visitor.visit_borrowed_str(text),
            Value::Integer(n) => visitor.visit_i64(*n),
            Value::Float(x) => visitor.visit_f64(*x),
            Value::Boolean(value) => visitor.visit_bool(*value),
            Value::List(list) => visitor.visit_seq(Items { items: list.iter().enumerate() }),
            Value::Table(table) => visitor.visit_map(Entries { entries: table.iter(), value: None }),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TreeError> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, TreeError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(self, _: &'static str, _: &'static [&'static str], visitor: V) -> Result<V::Value, TreeError> {
        match &self.value {
            Value::Text(text) => visitor.visit_enum(text.as_str().into_deserializer()),
            Value::Table(table) if table.len() == 1 => {
                visitor.visit_enum(de::value::MapAccessDeserializer::new(Entries { entries: table.iter(), value: None }))
            }
            _ => Err(de::Error::invalid_type(self.unexpected(), &"a name in quotes")),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple tuple_struct map struct
        identifier ignored_any
    }
}

impl<'de> IntoDeserializer<'de, TreeError> for &'de Node {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

struct Items<'de> {
    items: std::iter::Enumerate<std::slice::Iter<'de, Node>>,
}

impl<'de> de::SeqAccess<'de> for Items<'de> {
    type Error = TreeError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, TreeError> {
        self.items.next().map(|(k, node)| seed.deserialize(node).map_err(|e| e.inside(&k.to_string()))).transpose()
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len())
    }
}

struct Entries<'de> {
    entries: indexmap::map::Iter<'de, String, Node>,
    value: Option<(&'de str, &'de Node)>,
}

impl<'de> de::MapAccess<'de> for Entries<'de> {
    type Error = TreeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, TreeError> {
        let Some((key, node)) = self.entries.next() else { return Ok(None) };
        self.value = Some((key, node));
        seed.deserialize(de::value::BorrowedStrDeserializer::new(key)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, TreeError> {
        let Some((key, node)) = self.value.take() else { return Err(de::Error::custom("a value without a key")) };
        seed.deserialize(node).map_err(|e| e.inside(key))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.entries.len())
    }
}

/// Makes every relative path under these keys start where the text it stands in does: in the folder of the file, or, for overrides and presets, where
/// the program runs. `*` stands for every element of a list; a list that is a single path or a table with a `path` counts too.
pub(super) fn resolve_paths(root: &mut Node, keys: &[&[&str]]) {
    fn join(node: &mut Node) {
        let base = match &node.place.source {
            Source::File(file) => file.parent().map(Path::to_owned),
            Source::Preset(_) | Source::Override(_) => None,
        };
        match &mut node.value {
            Value::Text(text) if !text.is_empty() => {
                if let Some(base) = base {
                    *text = base.join(&*text).to_string_lossy().into_owned();
                }
            }
            Value::List(list) => list.iter_mut().for_each(join),
            Value::Table(table) => {
                if let Some(path) = table.get_mut("path") {
                    join(path);
                }
            }
            _ => {}
        }
    }
    for key in keys {
        let mut node = Some(&mut *root);
        for part in *key {
            node = node.and_then(|n| n.table_mut()?.get_mut(*part));
        }
        node.into_iter().for_each(join);
    }
}
