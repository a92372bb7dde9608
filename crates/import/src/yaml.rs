//! Just enough YAML for the configurations that training programs leave beside their weights.
//!
//! Scalars are resolved as PyYAML does (version 1.1: `no` is false), tags of Python objects are ignored, and aliases are expanded within a
//! budget, so that a small file cannot become a large value.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle};
use serde_json::{Map, Value as Json};

/// Scalars, lists and maps that one document may hold, aliases expanded.
const MAX_NODES: usize = 1 << 16;
/// Deepest nesting.
const MAX_DEPTH: usize = 64;

/// Why a text is not the YAML that is understood.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum YamlError {
    /// It is not YAML.
    #[error("line {line}: {reason}")]
    Syntax {
        /// The line, from 1 on.
        line: usize,
        /// What the parser says.
        reason: String,
    },
    /// It is larger or deeper than any configuration.
    #[error("line {line}: more than {limit} {what}")]
    TooLarge {
        /// The line, from 1 on.
        line: usize,
        /// What there is too much of.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// Something that has no place in a configuration.
    #[error("line {line}: {reason}")]
    Unexpected {
        /// The line, from 1 on.
        line: usize,
        /// What it is.
        reason: &'static str,
    },
}

/// A list or map that is not closed yet, with its anchor.
enum Open {
    List(Vec<Json>, usize),
    Map(Map<String, Json>, Option<String>, usize),
}

struct Builder {
    open: Vec<Open>,
    anchors: HashMap<usize, Json>,
    nodes: usize,
    line: usize,
    result: Option<Json>,
}

/// The first document of `text`; keys that are no text are written as text.
///
/// # Errors
/// [`YamlError`] with the line.
pub(crate) fn parse(text: &str) -> Result<Json, YamlError> {
    let mut builder = Builder { open: Vec::new(), anchors: HashMap::new(), nodes: 0, line: 0, result: None };
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|e| YamlError::Syntax { line: e.marker().line(), reason: e.info().to_owned() })?;
        builder.line = span.start.line();
        builder.event(event)?;
        if builder.result.is_some() {
            break;
        }
    }
    Ok(builder.result.unwrap_or(Json::Null))
}

impl Builder {
    fn unexpected(&self, reason: &'static str) -> YamlError {
        YamlError::Unexpected { line: self.line, reason }
    }

    fn spend(&mut self, nodes: usize) -> Result<(), YamlError> {
        self.nodes += nodes;
        if self.nodes > MAX_NODES {
            return Err(YamlError::TooLarge { line: self.line, what: "values", limit: MAX_NODES });
        }
        Ok(())
    }

    fn event(&mut self, event: Event<'_>) -> Result<(), YamlError> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain && tag.is_none();
                let value = if plain { resolve(&text) } else { Json::String(text.into_owned()) };
                self.add(value, anchor)
            }
            Event::SequenceStart(anchor, _) => self.begin(Open::List(Vec::new(), anchor)),
            Event::MappingStart(anchor, _) => self.begin(Open::Map(Map::new(), None, anchor)),
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(Open::List(items, anchor)) => self.add(Json::Array(items), anchor),
                Some(Open::Map(entries, None, anchor)) => self.add(Json::Object(entries), anchor),
                _ => Err(self.unexpected("a list or map ends that did not begin")),
            },
            Event::Alias(anchor) => {
                let value =
                    self.anchors.get(&anchor).cloned().ok_or_else(|| self.unexpected("an alias of something that is not complete"))?;
                self.spend(count(&value))?;
                self.add(value, 0)
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentStart(_) | Event::DocumentEnd => Ok(()),
        }
    }

    fn begin(&mut self, open: Open) -> Result<(), YamlError> {
        if self.open.len() >= MAX_DEPTH {
            return Err(YamlError::TooLarge { line: self.line, what: "levels of nesting", limit: MAX_DEPTH });
        }
        self.open.push(open);
        Ok(())
    }

    fn add(&mut self, value: Json, anchor: usize) -> Result<(), YamlError> {
        self.spend(1)?;
        if anchor > 0 {
            self.spend(count(&value))?;
            self.anchors.insert(anchor, value.clone());
        }
        match self.open.last_mut() {
            None => self.result = Some(value),
            Some(Open::List(items, _)) => items.push(value),
            Some(Open::Map(entries, key, _)) => match key.take() {
                Some(key) => {
                    entries.insert(key, value);
                }
                None => {
                    *key = Some(match value {
                        Json::String(text) => text,
                        Json::Array(_) | Json::Object(_) => return Err(self.unexpected("a key that is a list or map")),
                        other => other.to_string(),
                    });
                }
            },
        }
        Ok(())
    }
}

fn count(value: &Json) -> usize {
    1 + match value {
        Json::Array(items) => items.iter().map(count).sum(),
        Json::Object(entries) => entries.values().map(count).sum(),
        _ => 0,
    }
}

/// The value of a plain scalar.
fn resolve(text: &str) -> Json {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Json::Null,
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => return Json::Bool(true),
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => return Json::Bool(false),
        _ => {}
    }
    // `inf` and `nan` are numbers to Rust, but words in YAML.
    if text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.')) && !text.ends_with(char::is_alphabetic) {
        if let Ok(number) = text.parse::<i64>() {
            return Json::from(number);
        }
        if let Ok(number) = text.parse::<f64>()
            && let Some(number) = serde_json::Number::from_f64(number)
        {
            return Json::Number(number);
        }
    }
    Json::String(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_configuration_as_pyyaml_writes_it() {
        let text = "a: 1\nb: -2.5e-3\nc: [H, 'No', Y, no]\nd:\n- !!python/tuple\n  - DYNAMIC\n  - 3\ne: &x {0: O, f: null}\ng: *x\nh: .inf\ni: 5x0e\n";
        let expected = json!({
            "a": 1, "b": -2.5e-3, "c": ["H", "No", "Y", false], "d": [["DYNAMIC", 3]], "e": {"0": "O", "f": null}, "g": {"0": "O", "f": null},
            "h": ".inf", "i": "5x0e",
        });
        assert_eq!(parse(text).unwrap(), expected);
        assert_eq!(parse("").unwrap(), Json::Null);
    }

    #[test]
    fn aliases_cannot_multiply() {
        let mut text = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1]\n".to_owned();
        for k in 1..12 {
            text += &format!("a{k}: &a{k} [{}]\n", vec![format!("*a{}", k - 1); 8].join(", "));
        }
        assert!(matches!(parse(&text), Err(YamlError::TooLarge { what: "values", .. })));
    }

    #[test]
    fn what_is_not_a_configuration() {
        assert!(matches!(parse(&"[".repeat(200)), Err(YamlError::TooLarge { what: "levels of nesting", .. })));
        assert!(matches!(parse("a: [1, 2"), Err(YamlError::Syntax { .. })));
        assert!(matches!(parse("? [a, b]\n: 1\n"), Err(YamlError::Unexpected { .. })));
        assert!(matches!(parse("a: &x [*x]\n"), Err(YamlError::Unexpected { .. })));
    }
}
