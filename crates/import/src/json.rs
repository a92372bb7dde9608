//! Records as JSON.

use serde_json::{Map, Number, Value as Json};

use crate::error::Error;
use crate::source::ForeignCheckpoint;
use crate::torch::module::{MAX_DEPTH, ModuleError};
use crate::torch::tensor::Tensor;
use crate::torch::value::{Value, ValueRef};

/// Numbers and words that one JSON value may hold.
const MAX_LEAVES: usize = 1 << 20;

/// Turns records into JSON, counting what it writes: records may contain themselves.
pub(crate) struct JsonWriter<'c> {
    checkpoint: &'c ForeignCheckpoint,
    left: usize,
    depth: usize,
}

impl<'c> JsonWriter<'c> {
    pub(crate) fn new(checkpoint: &'c ForeignCheckpoint) -> Self {
        Self { checkpoint, left: MAX_LEAVES, depth: 0 }
    }

    /// The record as JSON; `name` is for error messages.
    pub(crate) fn write(&mut self, name: &str, value: ValueRef<'_>) -> Result<Json, Error> {
        self.spend(name, 1)?;
        if self.depth > MAX_DEPTH {
            return Err(too_large("levels of nesting", name, MAX_DEPTH));
        }
        self.depth += 1;
        let json = self.write_kind(name, value)?;
        self.depth -= 1;
        Ok(json)
    }

    fn write_kind(&mut self, name: &str, value: ValueRef<'_>) -> Result<Json, Error> {
        Ok(match value.value() {
            Value::None => Json::Null,
            Value::Bool(flag) => Json::Bool(*flag),
            Value::Int(number) => Json::from(*number),
            Value::Float(number) => float(*number),
            Value::Str(text) => {
                self.spend(name, text.len() / 8)?;
                Json::String(text.to_string())
            }
            Value::DType(dtype) => Json::String(dtype.to_string()),
            Value::Global(global) => Json::String(global.to_string()),
            Value::Tensor(tensor) => {
                tensor.check(name)?;
                self.spend_elements(name, &tensor.shape)?;
                nested(&self.checkpoint.tensor(name, tensor)?)
            }
            Value::Array(array) if array.dtype.tensor_dtype().is_some() => {
                self.spend_elements(name, &array.shape)?;
                nested(&array.to_tensor(value.heap(), name)?)
            }
            _ => {
                if let Some(entries) = value.as_dict() {
                    let mut map = Map::new();
                    for (key, value) in entries {
                        let key = match key.value() {
                            Value::Str(text) => text.to_string(),
                            Value::Int(number) => number.to_string(),
                            _ => key.kind(),
                        };
                        self.spend(name, 1 + key.len() / 8)?;
                        let value = self.write(&key, value)?;
                        map.insert(key, value);
                    }
                    Json::Object(map)
                } else if let Some(items) = value.as_sequence() {
                    Json::Array(items.map(|item| self.write(name, item)).collect::<Result<_, _>>()?)
                } else {
                    Json::String(value.class().map_or_else(|| value.kind(), ToString::to_string))
                }
            }
        })
    }

    fn spend(&mut self, name: &str, count: usize) -> Result<(), Error> {
        self.left = self.left.checked_sub(count).ok_or_else(|| too_large("numbers and words", name, MAX_LEAVES))?;
        Ok(())
    }

    fn spend_elements(&mut self, name: &str, shape: &[u64]) -> Result<(), Error> {
        let count = shape.iter().fold(1u64, |product, &n| product.saturating_mul(n));
        self.spend(name, usize::try_from(count).unwrap_or(usize::MAX))
    }
}

fn too_large(what: &'static str, name: &str, limit: usize) -> Error {
    ModuleError::TooLarge { what, path: name.chars().take(80).collect(), limit }.into()
}

fn float(number: f64) -> Json {
    Number::from_f64(number).map_or_else(|| Json::String(number.to_string()), Json::Number)
}

/// A tensor as nested lists.
fn nested(tensor: &Tensor) -> Json {
    let mut items: Vec<Json> = match tensor.to_i64() {
        Some(integers) => integers.into_iter().map(Json::from).collect(),
        None => tensor.to_f64().into_iter().map(float).collect(),
    };
    for &length in tensor.shape.iter().rev() {
        if length == 0 {
            return Json::Array(Vec::new());
        }
        items = items.chunks(length).map(|row| Json::Array(row.to_vec())).collect();
    }
    items.pop().unwrap_or(Json::Null)
}
