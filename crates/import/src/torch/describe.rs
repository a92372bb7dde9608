//! A short account of what a checkpoint holds, for people.

use std::fmt::Write as _;

use crate::torch::module::{irreps, irreps_text};
use crate::torch::value::{Value, ValueRef};

/// How much to show.
#[derive(Clone, Copy, Debug)]
pub struct Detail {
    /// Levels of nesting.
    pub depth: usize,
    /// Lines in all.
    pub lines: usize,
    /// Elements of a list, tuple or set on one line.
    pub elements: usize,
}

impl Default for Detail {
    fn default() -> Self {
        Self { depth: 8, lines: 2000, elements: 8 }
    }
}

/// An indented tree of a record and what it refers to. Cyclic records end at [`Detail::depth`].
pub fn describe(root: ValueRef<'_>, detail: Detail) -> String {
    let mut out = String::new();
    let mut lines = 0;
    let mut stack = vec![(String::new(), root, 0)];
    while let Some((name, value, depth)) = stack.pop() {
        if lines >= detail.lines {
            out.push_str("…\n");
            return out;
        }
        lines += 1;
        let separator = if name.is_empty() { "" } else { ": " };
        let _ = writeln!(out, "{:width$}{name}{separator}{}", "", one_line(value, detail), width = 2 * depth);
        if depth >= detail.depth {
            continue;
        }
        let mut below: Vec<(String, ValueRef<'_>)> = Vec::new();
        // More than the lines left would never be shown.
        let room = detail.lines - lines;
        if let Some(attributes) = value.attributes() {
            for (name, value) in attributes.as_dict().into_iter().flatten().take(room) {
                let Some(name) = name.as_str() else { continue };
                match name {
                    "_parameters" | "_buffers" | "_modules" => {
                        for (name, value) in value.as_dict().into_iter().flatten().take(room) {
                            below.push((short(name), value));
                        }
                    }
                    // Hooks and bookkeeping of torch, e3nn and torch.fx.
                    _ if name.starts_with('_') => {}
                    _ => below.push((short_text(name), value)),
                }
            }
        } else if let Some(entries) = value.as_dict() {
            below.extend(entries.take(room).map(|(name, value)| (short(name), value)));
        }
        stack.extend(below.into_iter().rev().map(|(name, value)| (name, value, depth + 1)));
    }
    out
}

fn short_text(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(80).collect()
}

fn short(value: ValueRef<'_>) -> String {
    value.as_str().map_or_else(|| one_line(value, Detail::default()), short_text)
}

/// A record on one line, without what it refers to except for the elements of short lists.
fn one_line(value: ValueRef<'_>, detail: Detail) -> String {
    if let Some(irreps) = irreps(value) {
        return short_text(&irreps_text(&irreps));
    }
    match value.value() {
        Value::None => "None".into(),
        Value::Bool(flag) => if *flag { "True" } else { "False" }.into(),
        Value::Int(number) => number.to_string(),
        Value::Float(number) => format!("{number:?}"),
        Value::Str(text) => format!("{:?}", short_text(text)),
        Value::DType(dtype) => dtype.to_string(),
        Value::Global(global) => global.to_string(),
        Value::Tensor(tensor) => format!("{} {:?}", tensor.dtype, tensor.shape),
        Value::Array(array) => format!("array {}{} {:?}", array.dtype.kind, array.dtype.size, array.shape),
        Value::Object(object) => object.class.to_string(),
        Value::Dict(entries) => format!("{{{}}}", entries.len()),
        Value::List(_) | Value::Tuple(_) | Value::Set(_) => {
            let items = value.as_sequence().into_iter().flatten();
            let count = items.clone().count();
            let shown: Vec<String> = items
                .take(detail.elements)
                .map(|item| match item.value() {
                    // One level only: lists may contain themselves.
                    Value::List(_) | Value::Tuple(_) | Value::Set(_) => item.kind(),
                    _ => one_line(item, detail),
                })
                .collect();
            let more = if count > shown.len() { ", …" } else { "" };
            format!("[{}{more}] ({count})", shown.join(", "))
        }
        _ => value.kind(),
    }
}
