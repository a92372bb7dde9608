//! Writing extended XYZ that ASE reads back, calculator results included.

use std::io::Write;
use std::path::Path;

use serde_json::Value;

use super::comment::{interpret_text, is_tensor_key};
use super::reader::{NUMBERS, POSITIONS, SPECIES, nine_numbers};
use crate::elements;
use crate::info::{Array, Column, InfoValue, Matrix};
use crate::io::error::WriteError;
use crate::io::write_atomically;
use crate::structure::Structure;
use crate::validation::StructureError;

/// Writes one frame of extended XYZ.
///
/// Every real number is written with the fewest digits that read back to the same `f64`. Metadata and arrays keep their
/// names and order, so `energy`, `forces` and `stress` are what ASE takes for calculator results; a `stress` or `virial` of
/// six numbers (Voigt) is written as the nine of the full matrix, which is how ASE writes and reads it.
///
/// # Errors
/// [`WriteError`] if the writer fails, the structure is inconsistent, or a name or text cannot be expressed; in the last two
/// cases nothing has been written.
pub fn write_extxyz(writer: &mut (impl Write + ?Sized), structure: &Structure) -> Result<(), WriteError> {
    check(structure)?;
    let comment = comment_line(structure)?;
    writeln!(writer, "{}\n{comment}", structure.len())?;
    for atom in 0..structure.len() {
        // check() has seen every element.
        write!(writer, "{}", elements::symbol(structure.numbers[atom]).unwrap_or("X"))?;
        for x in structure.positions[atom] {
            write!(writer, " {x:?}")?;
        }
        for array in structure.arrays.values() {
            let row = atom * array.width()..(atom + 1) * array.width();
            match array.values() {
                Column::Bool(v) => v[row].iter().try_for_each(|&x| write!(writer, " {}", logical(x)))?,
                Column::Int(v) => v[row].iter().try_for_each(|x| write!(writer, " {x}"))?,
                Column::Real(v) => v[row].iter().try_for_each(|x| write!(writer, " {x:?}"))?,
                Column::Text(v) => v[row].iter().try_for_each(|x| write!(writer, " {x}"))?,
            }
        }
        writeln!(writer)?;
    }
    Ok(())
}

/// Writes frames to an extended XYZ file, compressed if the name ends in `.gz`; see [`write_extxyz`].
///
/// The file appears under its name only when it is complete.
///
/// # Errors
/// [`WriteError`]; the file that was there before, if any, is then untouched.
pub fn write_extxyz_file<'s>(path: impl AsRef<Path>, frames: impl IntoIterator<Item = &'s Structure>) -> Result<(), WriteError> {
    let path = path.as_ref();
    let compressed = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gz"));
    write_atomically(path, |file| {
        if compressed {
            let mut encoder = flate2::write::GzEncoder::new(file, flate2::Compression::default());
            frames.into_iter().try_for_each(|frame| write_extxyz(&mut encoder, frame))?;
            encoder.finish()?;
            Ok(())
        } else {
            frames.into_iter().try_for_each(|frame| write_extxyz(file, frame))
        }
    })
}

fn unrepresentable(what: impl Into<String>, reason: &'static str) -> WriteError {
    WriteError::Unrepresentable { what: what.into(), reason }
}

fn check(structure: &Structure) -> Result<(), WriteError> {
    let expected = structure.len();
    if structure.positions.len() != expected {
        let found = structure.positions.len();
        return Err(StructureError::CountMismatch { what: "positions".to_owned(), expected, found }.into());
    }
    if let Some(atom) = structure.numbers.iter().position(|&z| z > elements::MAX_ATOMIC_NUMBER) {
        return Err(StructureError::UnknownElement { atom, number: structure.numbers[atom] }.into());
    }
    for (name, array) in &structure.arrays {
        if array.atoms() != expected {
            return Err(StructureError::CountMismatch { what: name.clone(), expected, found: array.atoms() }.into());
        }
        if [SPECIES, POSITIONS, NUMBERS].as_flattened().contains(&name.as_str()) {
            return Err(unrepresentable(format!("the array `{name}`"), "this name is taken by species, positions or numbers"));
        }
        if name.is_empty() || name.contains(|c: char| c == ':' || c.is_whitespace() || c.is_control()) {
            return Err(unrepresentable(format!("the array {name:?}"), "its name is empty, or has white space or a colon"));
        }
        if let Column::Text(texts) = array.values()
            && texts.iter().any(|t| t.is_empty() || t.contains(|c: char| c.is_whitespace() || c.is_control()))
        {
            return Err(unrepresentable(format!("the array `{name}`"), "a text of it is empty or has white space"));
        }
    }
    Ok(())
}

fn comment_line(structure: &Structure) -> Result<String, WriteError> {
    let mut line = String::new();
    if !structure.cell.is_zero() {
        line.push_str(&format!("Lattice=\"{}\" ", joined(structure.cell.vectors.as_flattened(), real)));
    }
    let mut properties = "species:S:1:pos:R:3".to_owned();
    for (name, array) in &structure.arrays {
        properties.push_str(&format!(":{name}:{}:{}", type_letter(array), array.width()));
    }
    line.push_str(&format!("Properties={}", quoted(&properties)));
    for (key, value) in &structure.info {
        let text = info_text(key, value)?;
        let reserved = ["Lattice", "Properties", "pbc"].contains(&key.as_str());
        // Without a Lattice, the same key in other case is read as one.
        let mistakable = structure.cell.is_zero() && key.eq_ignore_ascii_case("lattice") && nine_numbers(&text).is_some();
        if reserved || mistakable {
            return Err(unrepresentable(format!("the key `{key}`"), "this name is taken by the cell or the columns"));
        }
        if key.is_empty() || key.contains(|c: char| c.is_control()) {
            return Err(unrepresentable(format!("the key {key:?}"), "it is empty or has a control character"));
        }
        line.push_str(&format!(" {}={}", quoted(key), quoted(&text)));
    }
    line.push_str(&format!(" pbc=\"{}\"", joined(&structure.pbc, |&b| logical(b).to_string())));
    Ok(line)
}

fn type_letter(array: &Array) -> char {
    match array.values() {
        Column::Bool(_) => 'L',
        Column::Int(_) => 'I',
        Column::Real(_) => 'R',
        Column::Text(_) => 'S',
    }
}

fn logical(value: bool) -> char {
    if value { 'T' } else { 'F' }
}

fn real(value: &f64) -> String {
    format!("{value:?}")
}

fn joined<T>(values: &[T], text: impl Fn(&T) -> String) -> String {
    values.iter().map(text).collect::<Vec<_>>().join(" ")
}

/// The text after the equals sign, before quoting.
fn info_text(key: &str, value: &InfoValue) -> Result<String, WriteError> {
    if is_tensor_key(key) {
        let columns_first = match value.to_reals().as_deref() {
            Some(&[xx, yy, zz, yz, zx, xy]) => [xx, xy, zx, xy, yy, yz, zx, yz, zz],
            Some(&[xx, xy, xz, yx, yy, yz, zx, zy, zz]) => [xx, yx, zx, xy, yy, zy, xz, yz, zz],
            _ => return Err(unrepresentable(format!("the key `{key}`"), "a stress or virial must be 6 or 9 numbers")),
        };
        return Ok(joined(&columns_first, real));
    }
    // A list with a single element or none would be read as something else.
    Ok(match value {
        InfoValue::Bool(b) => logical(*b).to_string(),
        InfoValue::Int(i) => i.to_string(),
        InfoValue::Real(x) => real(x),
        InfoValue::Text(text) => {
            // A text is written as it is where it will be read as it is.
            let plain =
                !text.is_empty() && !text.contains(|c: char| c.is_control()) && matches!(interpret_text(text), Some(InfoValue::Text(_)));
            if plain || key.eq_ignore_ascii_case("uid") && !text.contains(|c: char| c.is_control()) {
                text.clone()
            } else {
                json(text.as_str())
            }
        }
        InfoValue::BoolVector(v) if v.len() > 1 => joined(v, |&b| logical(b).to_string()),
        InfoValue::IntVector(v) if v.len() > 1 => joined(v, i64::to_string),
        InfoValue::RealVector(v) if v.len() > 1 => joined(v, real),
        InfoValue::BoolVector(v) => json(v.as_slice()),
        InfoValue::IntVector(v) => json(v.as_slice()),
        InfoValue::RealVector(v) => format!("_JSON {}", python_list(v)),
        InfoValue::BoolMatrix(m) => json_rows(m),
        InfoValue::IntMatrix(m) => json_rows(m),
        InfoValue::RealMatrix(m) => format!("_JSON {}", real_rows(m)),
        InfoValue::Json(value) => json(value.clone()),
    })
}

fn json(value: impl Into<Value>) -> String {
    format!("_JSON {}", value.into())
}

fn json_rows<T: Clone + Into<Value>>(matrix: &Matrix<T>) -> String {
    json(matrix.iter_rows().map(Value::from).collect::<Vec<_>>())
}

fn real_rows(matrix: &Matrix<f64>) -> String {
    let rows: Vec<String> = matrix.iter_rows().map(python_list).collect();
    format!("[{}]", rows.join(", "))
}

/// A list of numbers in Python's JSON, which knows NaN and Infinity.
fn python_list(values: &[f64]) -> String {
    let word = |x: &f64| match *x {
        x if x.is_nan() => "NaN".to_owned(),
        f64::INFINITY => "Infinity".to_owned(),
        f64::NEG_INFINITY => "-Infinity".to_owned(),
        x => format!("{x:?}"),
    };
    format!("[{}]", values.iter().map(word).collect::<Vec<_>>().join(", "))
}

/// Encloses a key or value in double quotes if it needs them.
fn quoted(text: &str) -> String {
    let special = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '{' | '}' | '[' | ']' | '=' | ',' | '\\');
    if text.contains(special) { format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")) } else { text.to_owned() }
}
