//! Values of the command line, and configurations that build on others.

use std::path::Path;
use std::sync::Arc;

use super::error::{ConfigError, Known, Source, nearest};
use super::tree::Node;

/// Files and presets that are followed from one to the next.
const DEPTH: usize = 8;
/// The key that names what a configuration builds on.
pub(super) const EXTENDS: &str = "extends";
/// Tables whose other keys belong to what this key names.
const TAGGED: [(&str, &str); 1] = [("model", "family")];

/// Presets by name.
pub type Presets<'a> = &'a [(&'a str, &'a str)];

/// `section.key=value` as a table: the value in TOML, or else a text without quotes.
pub(super) fn parse_override(text: &str) -> Result<Node, ConfigError> {
    let wrong = |reason: &str| ConfigError::Override { text: text.to_owned(), reason: reason.to_owned() };
    let (key, value) = text.split_once('=').ok_or_else(|| wrong("there is no `=` in it"))?;
    let (key, value) = (key.trim(), value.trim());
    let part = |p: &str| !p.is_empty() && p.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c));
    if !key.split('.').all(|p| part(p.trim())) {
        return Err(wrong("what stands before the `=` is not the name of a key"));
    }
    let source = Source::Override(Arc::from(text));
    // One line is one value: what follows a line break would be another key.
    if !value.contains('\n')
        && let Ok(node) = Node::parse(&format!("{key} = {value}"), &source)
    {
        return Ok(node);
    }
    Node::parse(&format!("{key} = {}", toml::Value::String(value.to_owned())), &source).map_err(|e| wrong(&e.to_string()))
}

/// The text with what it extends below it.
pub(super) fn with_base(text: &str, source: &Source, presets: Presets<'_>, depth: usize) -> Result<Node, ConfigError> {
    let mut node = Node::parse(text, source)?;
    let Some(extends) = node.table_mut().and_then(|t| t.shift_remove(EXTENDS)) else { return Ok(node) };
    let place = extends.place.clone();
    let name = extends.text().ok_or_else(|| ConfigError::Type {
        key: EXTENDS.into(),
        place: place.clone(),
        expected: "the name of a preset or a file in quotes".into(),
        found: "something else".into(),
    })?;
    if depth == DEPTH {
        return Err(ConfigError::EndlessExtends { place, depth });
    }
    let mut base = if Path::new(name).extension().is_some_and(|e| e == "toml") {
        let folder = if let Source::File(file) = source { file.parent() } else { None };
        let path = folder.unwrap_or(Path::new("")).join(name);
        with_base(&read_text(&path)?, &Source::File(Arc::from(path)), presets, depth + 1)?
    } else {
        let Some((name, text)) = presets.iter().find(|(preset, _)| *preset == name) else {
            let known = presets.iter().map(|(preset, _)| *preset);
            let suggestion = nearest(name, known.clone()).map(str::to_owned);
            let known = Box::new(Known { suggestion, names: known.map(str::to_owned).collect() });
            return Err(ConfigError::UnknownPreset { name: name.to_owned(), place, known });
        };
        with_base(text, &Source::Preset(Arc::from(*name)), presets, depth + 1)?
    };
    merge(&mut base, node);
    Ok(base)
}

/// Puts one configuration over another.
pub(super) fn merge(base: &mut Node, over: Node) {
    base.merge(over, &TAGGED);
}

pub(super) fn read_text(path: &Path) -> Result<String, ConfigError> {
    fs_err::read_to_string(path).map_err(|source| ConfigError::Io { path: path.to_owned(), source })
}
