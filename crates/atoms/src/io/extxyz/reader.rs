//! Reading extended XYZ, frame by frame.

use std::io::BufRead;

use indexmap::IndexMap;

use super::comment::{RawValue, interpret, parse_bool, split_pairs, words};
use crate::cell::Cell;
use crate::elements;
use crate::info::{Array, Column, InfoValue};
use crate::io::FrameSource;
use crate::io::error::{Fault, Problem, shortened};
use crate::io::lines::Lines;
use crate::structure::Structure;

/// Most atoms a frame may announce.
const MAX_ATOMS: u64 = 100_000_000;
/// Most columns an atom line may announce.
const MAX_COLUMNS: usize = 10_000;

/// The frames of an extended or plain XYZ file.
pub(crate) struct ExtxyzFrames<R> {
    lines: Lines<R>,
    /// A fault met while looking past the end of a good frame.
    deferred: Option<Fault>,
}

impl<R: BufRead> ExtxyzFrames<R> {
    pub(crate) fn new(reader: R) -> Self {
        Self { lines: Lines::new(reader), deferred: None }
    }

    /// The number of atoms on the next line that is not blank; `None` at the end of the file.
    fn atom_count(&mut self) -> Result<Option<usize>, Fault> {
        loop {
            let Some(line) = self.lines.next()? else { return Ok(None) };
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let text = String::from_utf8_lossy(line);
            let count = text.trim().parse::<u64>();
            let problem = match count {
                Ok(count) if count <= MAX_ATOMS => return Ok(Some(count as usize)),
                Ok(count) => Problem::TooManyAtoms { count, limit: MAX_ATOMS },
                Err(_) => Problem::AtomCount { found: shortened(&text) },
            };
            let mut fault = Fault::at(self.lines.number(), problem);
            // Go on at the next line that can begin a frame.
            if !self.skip_to_count(u64::MAX) {
                fault.ended = true;
            }
            return Err(fault);
        }
    }

    /// Skips at most `limit` lines, and stops before one that holds a single whole number: no atom line does, so it begins
    /// the next frame. False if there was none.
    fn skip_to_count(&mut self, limit: u64) -> bool {
        for _ in 0..limit {
            match self.lines.next() {
                Ok(Some(line)) => {
                    if is_count(line) {
                        self.lines.unread();
                        return true;
                    }
                }
                Ok(None) => return false,
                Err(fault) if fault.ended => return false,
                Err(_) => {}
            }
        }
        false
    }

    fn frame(&mut self, atoms: usize) -> Result<Structure, Fault> {
        let line = match self.lines.next_text() {
            Ok(Some(line)) => line,
            Ok(None) => {
                return Err(Fault::at(self.lines.number(), Problem::UnexpectedEnd { expected: "the comment line" }).last());
            }
            Err(fault) => {
                self.skip_to_count(atoms as u64);
                return Err(fault);
            }
        };
        let header = match Header::parse(&line) {
            Ok(header) => header,
            Err(problem) => {
                let fault = Fault::at(self.lines.number(), problem);
                self.skip_to_count(atoms as u64);
                return Err(fault);
            }
        };
        let mut columns = header.columns;
        for row in 0..atoms {
            let problem = match self.lines.next() {
                Ok(Some(line)) => match columns.push(line) {
                    Ok(()) => continue,
                    Err(_) if is_count(line) => {
                        self.lines.unread();
                        let problem = Problem::MissingAtoms { expected: atoms, found: row };
                        return Err(Fault::at(self.lines.number(), problem));
                    }
                    Err(problem) => problem,
                },
                Ok(None) => Problem::MissingAtoms { expected: atoms, found: row },
                Err(fault) if fault.ended => return Err(fault),
                Err(fault) => fault.problem,
            };
            let fault = Fault::at(self.lines.number(), problem);
            self.skip_to_count((atoms - row - 1) as u64);
            return Err(fault);
        }
        let mut structure = Structure { cell: header.cell, pbc: header.pbc, info: header.info, ..Structure::default() };
        columns.finish(&mut structure);
        self.pseudo_atoms(&mut structure)?;
        Ok(structure)
    }

    /// Lattice vectors written as lines `VEC1 x y z` after the atoms, which ASE's `vec_cell` and ADF use.
    fn pseudo_atoms(&mut self, structure: &mut Structure) -> Result<(), Fault> {
        for index in 0.. {
            let number = self.lines.number() + 1;
            let line = match self.lines.next() {
                Ok(Some(line)) => line,
                Ok(None) => return Ok(()),
                Err(fault) => {
                    self.deferred = Some(fault);
                    return Ok(());
                }
            };
            let text = String::from_utf8_lossy(line);
            let mut fields = text.split_ascii_whitespace();
            let Some(name) = fields.next().filter(|word| word.starts_with("VEC")) else {
                self.lines.unread();
                return Ok(());
            };
            let expected = ["VEC1", "VEC2", "VEC3"];
            let vector: Option<Vec<f64>> = fields.map(parse_real).collect();
            match vector.as_deref() {
                Some(&[x, y, z]) if index < 3 && name == expected[index] => {
                    structure.cell.vectors[index] = [x, y, z];
                    structure.pbc[index] = true;
                }
                _ => {
                    let found = shortened(&text);
                    self.skip_to_count(3);
                    let expected = "at most three lines VEC1, VEC2, VEC3, each with three numbers";
                    return Err(Fault::at(number, Problem::Expected { expected, found }));
                }
            }
        }
        Ok(())
    }
}

impl<R: BufRead> FrameSource for ExtxyzFrames<R> {
    fn next_frame(&mut self) -> Option<Result<Structure, Fault>> {
        if let Some(fault) = self.deferred.take() {
            return Some(Err(fault));
        }
        match self.atom_count() {
            Ok(Some(atoms)) => Some(self.frame(atoms)),
            Ok(None) => None,
            Err(fault) => Some(Err(fault)),
        }
    }
}

/// True for a line that is one whole number.
fn is_count(line: &[u8]) -> bool {
    let word = line.trim_ascii();
    !word.is_empty() && word.len() < 20 && word.iter().all(u8::is_ascii_digit)
}

fn parse_real(word: &str) -> Option<f64> {
    // Fortran writes double precision exponents with a D.
    word.parse().ok().or_else(|| word.replace(['d', 'D'], "e").parse().ok())
}

/// What the comment line says.
struct Header {
    cell: Cell,
    pbc: [bool; 3],
    info: IndexMap<String, InfoValue>,
    columns: Columns,
}

impl Header {
    fn parse(line: &str) -> Result<Self, Problem> {
        let plain = || {
            let mut info = IndexMap::new();
            if !line.trim().is_empty() {
                info.insert("comment".to_owned(), InfoValue::Text(line.trim().to_owned()));
            }
            Self { cell: Cell::ZERO, pbc: [false; 3], info, columns: Columns::plain() }
        };
        if !line.contains('=') {
            return Ok(plain());
        }
        let pairs = match split_pairs(line) {
            Ok(pairs) => pairs,
            Err(problem) if says_extended(line) => return Err(problem),
            // Free text may hold an apostrophe.
            Err(_) => return Ok(plain()),
        };
        let mut pairs: IndexMap<String, RawValue> = pairs.into_iter().collect();
        let mut cell = Cell::ZERO;
        let mut pbc = [false; 3];
        if let Some(raw) = take(&mut pairs, "Lattice", |raw| nine_numbers(&raw.text).is_some()) {
            let numbers = nine_numbers(&raw.text).ok_or_else(|| Problem::HeaderValue {
                key: "Lattice".to_owned(),
                reason: format!("should be nine numbers, but is {:?}", shortened(&raw.text)),
            })?;
            for (k, x) in numbers.into_iter().enumerate() {
                cell.vectors[k / 3][k % 3] = x;
            }
            pbc = [true; 3];
        }
        if let Some(raw) = take(&mut pairs, "pbc", |raw| periodicity(&raw.text).is_some()) {
            pbc = periodicity(&raw.text).ok_or_else(|| Problem::HeaderValue {
                key: "pbc".to_owned(),
                reason: format!("should be three of T and F, but is {:?}", shortened(&raw.text)),
            })?;
        }
        let columns = match take(&mut pairs, "Properties", |raw| Columns::parse(&raw.text).is_ok()) {
            Some(raw) => Columns::parse(&raw.text)?,
            None => Columns::plain(),
        };
        let mut info = IndexMap::with_capacity(pairs.len());
        for (key, raw) in pairs {
            let value = interpret(&key, &raw)?;
            info.insert(key, value);
        }
        Ok(Self { cell, pbc, info, columns })
    }
}

/// Takes the value of a key; if it is not there, of the same key in other case, provided that its value makes sense.
fn take(pairs: &mut IndexMap<String, RawValue>, key: &str, sensible: impl Fn(&RawValue) -> bool) -> Option<RawValue> {
    if let Some(raw) = pairs.shift_remove(key) {
        return Some(raw);
    }
    let similar = pairs.iter().find(|(k, raw)| k.eq_ignore_ascii_case(key) && sensible(raw))?.0.clone();
    pairs.shift_remove(&similar)
}

/// Whether a line that cannot be split into keys and values was meant to be.
fn says_extended(line: &str) -> bool {
    let lower = line.to_ascii_lowercase();
    ["lattice", "properties", "pbc"]
        .iter()
        .any(|key| lower.match_indices(key).any(|(at, _)| lower[at + key.len()..].trim_start().starts_with('=')))
}

/// Nine numbers of a lattice.
pub(super) fn nine_numbers(text: &str) -> Option<[f64; 9]> {
    // Also as a nested list.
    let flat = text.replace(['[', ']'], " ");
    words(&flat).map(parse_real).collect::<Option<Vec<f64>>>()?.try_into().ok()
}

/// Three logical values, or one for all directions; 0 and 1 count as such.
fn periodicity(text: &str) -> Option<[bool; 3]> {
    let flag = |word: &str| match word {
        "0" => Some(false),
        "1" => Some(true),
        _ => parse_bool(word),
    };
    let flags: Vec<bool> = words(text).map(flag).collect::<Option<_>>()?;
    match flags[..] {
        [all] => Some([all; 3]),
        [a, b, c] => Some([a, b, c]),
        _ => None,
    }
}

/// Names under which ASE and others write species, positions and atomic numbers.
pub(super) const SPECIES: [&str; 2] = ["species", "symbols"];
pub(super) const POSITIONS: [&str; 2] = ["pos", "positions"];
pub(super) const NUMBERS: [&str; 2] = ["Z", "numbers"];

enum Values {
    Species(Vec<u8>),
    Numbers(Vec<u8>),
    Positions(Vec<[f64; 3]>),
    Bool(Vec<bool>),
    Int(Vec<i64>),
    Real(Vec<f64>),
    Text(Vec<String>),
}

struct Property {
    name: String,
    width: usize,
    values: Values,
}

/// The columns of the atom lines and what has been read of them.
struct Columns {
    properties: Vec<Property>,
    /// Width of all together.
    total: usize,
    /// Without Properties, words beyond the last column are ignored.
    open: bool,
}

impl Columns {
    /// `species:S:1:pos:R:3`, the columns of plain XYZ.
    fn plain() -> Self {
        let species = Property { name: "species".to_owned(), width: 1, values: Values::Species(Vec::new()) };
        let positions = Property { name: "pos".to_owned(), width: 3, values: Values::Positions(Vec::new()) };
        Self { properties: vec![species, positions], total: 4, open: true }
    }

    fn parse(text: &str) -> Result<Self, Problem> {
        let wrong = |reason: String| Problem::HeaderValue { key: "Properties".to_owned(), reason };
        let fields: Vec<&str> = text.trim().split(':').collect();
        if !fields.len().is_multiple_of(3) {
            return Err(wrong(format!("should be name:type:columns again and again, but is {:?}", shortened(text))));
        }
        let mut properties: Vec<Property> = Vec::with_capacity(fields.len() / 3);
        let mut names = std::collections::HashSet::with_capacity(fields.len() / 3);
        let mut total = 0usize;
        for field in fields.chunks_exact(3) {
            let [name, kind, width] = [field[0], field[1], field[2]];
            let width: usize = match width.trim().parse() {
                Ok(width) if width > 0 && width <= MAX_COLUMNS => width,
                _ => return Err(wrong(format!("gives `{}` {:?} columns", shortened(name), shortened(width)))),
            };
            total += width;
            if total > MAX_COLUMNS {
                return Err(wrong(format!("has more than {MAX_COLUMNS} columns")));
            }
            if name.is_empty() || !names.insert(name) {
                return Err(wrong(format!("names `{}` twice, or not at all", shortened(name))));
            }
            let is = |names: [&str; 2]| names.contains(&name);
            let values = match (kind, width) {
                ("S", 1) if is(SPECIES) => Values::Species(Vec::new()),
                ("I", 1) if is(SPECIES) || is(NUMBERS) => Values::Numbers(Vec::new()),
                ("R" | "I", 3) if is(POSITIONS) => Values::Positions(Vec::new()),
                _ if is(SPECIES) || is(POSITIONS) || is(NUMBERS) => {
                    let reason = "should have species:S:1, pos:R:3 and, if at all, Z:I:1";
                    return Err(wrong(format!("{reason}, but has {name}:{}:{width}", shortened(kind))));
                }
                ("S", _) => Values::Text(Vec::new()),
                ("I", _) => Values::Int(Vec::new()),
                ("R", _) => Values::Real(Vec::new()),
                ("L", _) => Values::Bool(Vec::new()),
                _ => {
                    return Err(wrong(format!("gives `{}` the type {:?}, which is not R, I, S or L", shortened(name), shortened(kind))));
                }
            };
            properties.push(Property { name: name.to_owned(), width, values });
        }
        let count = |wanted: fn(&Values) -> bool| properties.iter().filter(|p| wanted(&p.values)).count();
        if count(|v| matches!(v, Values::Positions(_))) != 1 {
            return Err(wrong("should have positions once (pos:R:3)".to_owned()));
        }
        let species = count(|v| matches!(v, Values::Species(_)));
        let numbers = count(|v| matches!(v, Values::Numbers(_)));
        if species > 1 || numbers > 1 || species + numbers == 0 {
            return Err(wrong("should have species:S:1 or Z:I:1, each at most once".to_owned()));
        }
        Ok(Self { properties, total, open: false })
    }

    fn push(&mut self, line: &[u8]) -> Result<(), Problem> {
        let Ok(text) = std::str::from_utf8(line) else {
            return Err(Problem::Expected { expected: "an atom line", found: shortened(&String::from_utf8_lossy(line)) });
        };
        let mut fields = text.split_ascii_whitespace();
        let mut column = 0;
        for property in &mut self.properties {
            let name = &property.name;
            let mut missing = false;
            let mut next = || {
                column += 1;
                let word = fields.next();
                missing |= word.is_none();
                word
            };
            let bad = match &mut property.values {
                Values::Species(v) => {
                    next().and_then(|word| species(word).map(|z| v.push(z)).is_none().then_some((word, "a chemical element")))
                }
                Values::Numbers(v) => {
                    let number = |word: &str| word.parse().ok().filter(|&z| z <= elements::MAX_ATOMIC_NUMBER);
                    next().and_then(|word| number(word).map(|z| v.push(z)).is_none().then_some((word, "an atomic number")))
                }
                Values::Positions(v) => {
                    let mut position = [0.0; 3];
                    let mut bad = None;
                    for x in &mut position {
                        let Some(word) = next() else { break };
                        match parse_real(word) {
                            Some(real) => *x = real,
                            None => {
                                bad = Some((word, "a real number"));
                                break;
                            }
                        }
                    }
                    v.push(position);
                    bad
                }
                Values::Bool(v) => fill(v, property.width, &mut next, parse_bool, "T or F"),
                Values::Int(v) => fill(v, property.width, &mut next, |word| word.parse().ok(), "an integer"),
                Values::Real(v) => fill(v, property.width, &mut next, parse_real, "a real number"),
                Values::Text(v) => fill(v, property.width, &mut next, |word| Some(word.to_owned()), "a word"),
            };
            if let Some((word, expected)) = bad {
                return Err(Problem::BadValue { column, name: name.clone(), found: shortened(word), expected });
            }
            if missing {
                return Err(self.wrong_count(text));
            }
        }
        if !self.open && fields.next().is_some() {
            return Err(self.wrong_count(text));
        }
        Ok(())
    }

    fn wrong_count(&self, text: &str) -> Problem {
        let kind = |property: &Property| match property.values {
            Values::Species(_) | Values::Text(_) => "S",
            Values::Numbers(_) | Values::Int(_) => "I",
            Values::Positions(_) | Values::Real(_) => "R",
            Values::Bool(_) => "L",
        };
        let described: Vec<String> = self.properties.iter().map(|p| format!("{}:{}:{}", p.name, kind(p), p.width)).collect();
        let found = text.split_ascii_whitespace().count();
        Problem::ColumnCount { expected: self.total, columns: shortened(&described.join(":")), found }
    }

    fn finish(self, structure: &mut Structure) {
        let mut numbers = None;
        for Property { name, width, values } in self.properties {
            let column = match values {
                Values::Species(v) => {
                    numbers = numbers.or(Some(v));
                    continue;
                }
                Values::Numbers(v) => {
                    numbers = Some(v);
                    continue;
                }
                Values::Positions(v) => {
                    structure.positions = v;
                    continue;
                }
                Values::Bool(v) => Column::Bool(v),
                Values::Int(v) => Column::Int(v),
                Values::Real(v) => Column::Real(v),
                Values::Text(v) => Column::Text(v),
            };
            if let Ok(array) = Array::new(width, column) {
                structure.arrays.insert(name, array);
            }
        }
        structure.numbers = numbers.unwrap_or_default();
    }
}

/// Takes `width` words; returns the first that does not parse and what was expected.
fn fill<'t, T>(
    values: &mut Vec<T>,
    width: usize,
    next: &mut impl FnMut() -> Option<&'t str>,
    parse: impl Fn(&str) -> Option<T>,
    expected: &'static str,
) -> Option<(&'t str, &'static str)> {
    for _ in 0..width {
        let word = next()?;
        match parse(word) {
            Some(value) => values.push(value),
            None => return Some((word, expected)),
        }
    }
    None
}

/// A symbol in any case, or an atomic number.
fn species(word: &str) -> Option<u8> {
    elements::atomic_number(word).or_else(|| word.parse().ok().filter(|&z| z <= elements::MAX_ATOMIC_NUMBER))
}
