//! Kernels before they are compiled.

use std::fmt::Write;

use crate::{Real, sources};

/// A file of `cuda/` with what it is to be compiled for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The file, without `.cu`.
    pub name: &'static str,
    /// Its `extern "C"` kernels that are to be had from the module.
    pub kernels: Vec<&'static str>,
    /// Generated lines between `tesseral.cuh` and the file: `#define`s, constants, inline functions.
    pub header: String,
    /// `f32` or `f64`: what `real` is.
    pub real: &'static str,
    /// Text of the file.
    pub text: &'static str,
}

impl Source {
    /// The file `FILE.cu`, computing in `T`.
    ///
    /// # Panics
    /// If there is no such file: names are written by programmers.
    #[must_use]
    pub fn new<T: Real>(file: &'static str, kernels: &[&'static str], header: String) -> Self {
        let text = sources::files().iter().find(|(name, _)| name.strip_suffix(".cu") == Some(file));
        let (_, text) = text.unwrap_or_else(|| panic!("there is no {file}.cu in kernels/cuda"));
        Self { name: file, kernels: kernels.to_vec(), header, real: T::NAME, text }
    }

    /// One text for a compiler that finds no other file: what `real` is, `tesseral.cuh`, the header, the file. Other files of `cuda/` are put
    /// where they are first included.
    #[must_use]
    pub fn unit(&self) -> String {
        let real = if self.real == "f64" { "double" } else { "float" };
        let mut unit = format!("#define TESSERAL_REAL {real}\n");
        let mut included = Vec::new();
        include("tesseral.cuh", &mut included, &mut unit);
        write!(unit, "#line 1 \"{}.header\"\n{}\n", self.name, self.header).expect("strings can be written");
        place(&format!("{}.cu", self.name), self.text, &mut included, &mut unit);
        unit
    }
}

fn include(name: &'static str, included: &mut Vec<&'static str>, unit: &mut String) {
    if let Some(text) = sources::file(name)
        && !included.contains(&name)
    {
        included.push(name);
        place(name, text, included, unit);
    }
}

/// Appends a file; `#include "…"` of a file of `cuda/` becomes that file, once, and `#pragma once` is left out.
fn place(name: &str, text: &'static str, included: &mut Vec<&'static str>, unit: &mut String) {
    writeln!(unit, "#line 1 \"{name}\"").expect("strings can be written");
    for (i, line) in text.lines().enumerate() {
        let other = line.strip_prefix("#include \"").and_then(|rest| rest.strip_suffix('"'));
        match other.filter(|name| sources::file(name).is_some()) {
            Some(other) => {
                include(other, included, unit);
                writeln!(unit, "#line {} \"{name}\"", i + 2).expect("strings can be written");
            }
            None if line.trim() == "#pragma once" => unit.push('\n'),
            None => {
                unit.push_str(line);
                unit.push('\n');
            }
        }
    }
}
