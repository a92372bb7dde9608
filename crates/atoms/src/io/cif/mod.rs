//! Crystallographic Information Files: one structure per data block, expanded by its symmetry operations.

mod block;
mod symmetry;

use std::io::BufRead;

use self::block::{Block, Table, Value};
use super::FrameSource;
use super::error::{Fault, Problem, shortened};
use super::lines::Lines;
use crate::cell::Cell;
use crate::elements;
use crate::structure::Structure;

/// Largest data block that is kept in memory.
const MAX_BLOCK: usize = 256 << 20;
/// Most atoms in the expanded cell.
const MAX_ATOMS: u64 = 10_000_000;
/// Images of a site closer than this (Å) are the same atom: it lies on a special position, given to a few digits.
const SAME_SITE: f64 = 0.05;
/// An occupancy this close to 1 is 1.
const FULL_OCCUPANCY: f64 = 1e-3;

/// The data blocks of a CIF that hold a structure.
pub(crate) struct CifFrames<R> {
    lines: Lines<R>,
    found: bool,
}

impl<R: BufRead> CifFrames<R> {
    pub(crate) fn new(reader: R) -> Self {
        Self { lines: Lines::new(reader), found: false }
    }

    /// The text of the next data block and the number of its first line.
    fn block(&mut self) -> Result<Option<(String, u64)>, Fault> {
        let mut text = String::new();
        let mut first = 0;
        let mut in_text_field = false;
        while let Some(line) = self.lines.next()? {
            let starts_block = line.trim_ascii_start().get(..5).is_some_and(|word| word.eq_ignore_ascii_case(b"data_"));
            if starts_block && !in_text_field && first > 0 {
                self.lines.unread();
                break;
            }
            if line.first() == Some(&b';') {
                in_text_field = !in_text_field;
            }
            text.push_str(&String::from_utf8_lossy(line));
            text.push('\n');
            if first == 0 {
                if text.trim_ascii().is_empty() {
                    text.clear();
                    continue;
                }
                first = self.lines.number();
            }
            if text.len() > MAX_BLOCK {
                return Err(Fault::at(first, Problem::LineTooLong { limit: MAX_BLOCK }).last());
            }
        }
        Ok((first > 0).then_some((text, first)))
    }
}

impl<R: BufRead> FrameSource for CifFrames<R> {
    fn next_frame(&mut self) -> Option<Result<Structure, Fault>> {
        let mut last_line = None;
        loop {
            let (text, first) = match self.block() {
                Ok(Some(block)) => block,
                Ok(None) if last_line.is_some() && !self.found => {
                    let what = "a structure (_cell_length_a and _atom_site_fract_x)".to_owned();
                    self.found = true;
                    return Some(Err(Fault { line: last_line, problem: Problem::Missing { what }, ended: true }));
                }
                Ok(None) => return None,
                Err(fault) => return Some(Err(fault)),
            };
            last_line = Some(first);
            match structure(&text, first) {
                // A block about a publication, not a crystal.
                Ok(None) => {}
                Ok(Some(structure)) => {
                    self.found = true;
                    return Some(Ok(structure));
                }
                Err(fault) => {
                    self.found = true;
                    return Some(Err(fault));
                }
            }
        }
    }
}

fn structure(text: &str, first_line: u64) -> Result<Option<Structure>, Fault> {
    let block = Block::parse(text, first_line)?;
    let lengths = ["_cell_length_a", "_cell_length_b", "_cell_length_c"];
    let angles = ["_cell_angle_alpha", "_cell_angle_beta", "_cell_angle_gamma"];
    let single = block.single_row("_atom_site_");
    let sites = ["_atom_site_fract_x", "_atom_site_cartn_x"]
        .iter()
        .find_map(|name| block.table(name).or_else(|| single.column(name).map(|_| &single)));
    if sites.is_none() && block.item(&lengths).is_none() {
        return Ok(None);
    }
    let missing = |what: &str| Fault::at(first_line, Problem::Missing { what: what.to_owned() });
    let mut parameters = [0.0; 6];
    for (parameter, name) in parameters.iter_mut().zip(lengths.into_iter().chain(angles)) {
        *parameter = block.item(&[name]).ok_or_else(|| missing(name))?.number(name)?;
    }
    let [a, b, c, alpha, beta, gamma] = parameters;
    let cell = Cell::from_parameters([a, b, c], [alpha, beta, gamma]).map_err(|error| Fault {
        line: block.item(&lengths).map(|v| v.line),
        problem: Problem::Cell(error),
        ended: false,
    })?;
    let sites = sites.ok_or_else(|| missing("_atom_site_fract_x"))?;
    let operations = symmetry::operations(&block, &cell)?;
    expand(sites, cell, &operations).map(Some)
}

/// The columns of the loop over sites.
struct Columns {
    label: Option<usize>,
    symbol: Option<usize>,
    occupancy: Option<usize>,
    calculated: Option<usize>,
    coordinates: [usize; 3],
    cartesian: bool,
}

impl Columns {
    fn of(table: &Table, line: u64) -> Result<Self, Fault> {
        let three = |prefix: &str| -> Option<[usize; 3]> {
            let column = |axis: &str| table.column(&format!("{prefix}{axis}"));
            Some([column("x")?, column("y")?, column("z")?])
        };
        let fractional = three("_atom_site_fract_");
        let missing = || Fault::at(line, Problem::Missing { what: "_atom_site_fract_x, _y or _z".to_owned() });
        Ok(Self {
            label: table.column("_atom_site_label"),
            symbol: table.column("_atom_site_type_symbol"),
            occupancy: table.column("_atom_site_occupancy"),
            calculated: table.column("_atom_site_calc_flag"),
            coordinates: fractional.or_else(|| three("_atom_site_cartn_")).ok_or_else(missing)?,
            cartesian: fractional.is_none(),
        })
    }

    fn element(&self, row: &[Value], line: u64) -> Result<u8, Fault> {
        let symbol = self.symbol.and_then(|column| row[column].known());
        let label = self.label.and_then(|column| row[column].known());
        let Some(found) = symbol.or(label) else {
            let what = "_atom_site_type_symbol and _atom_site_label".to_owned();
            return Err(Fault::at(line, Problem::Missing { what }));
        };
        let element = if symbol.is_some() { type_element(found) } else { label_element(found) };
        element.ok_or_else(|| {
            let problem = Problem::BadValue {
                column: self.symbol.or(self.label).unwrap_or(0) + 1,
                name: "_atom_site".to_owned(),
                found: shortened(found),
                expected: "a chemical element",
            };
            Fault::at(line, problem)
        })
    }
}

fn expand(table: &Table, cell: Cell, operations: &[symmetry::Operation]) -> Result<Structure, Fault> {
    let mut structure = Structure { cell, pbc: [true; 3], ..Structure::default() };
    let first_line = |row: &[Value]| row.first().map_or(0, |value| value.line);
    let columns = Columns::of(table, table.rows().next().map_or(0, first_line))?;
    for row in table.rows() {
        let line = first_line(row);
        // Dummy atoms mark centroids and the like.
        if columns.calculated.is_some_and(|column| row[column].text.eq_ignore_ascii_case("dum")) {
            continue;
        }
        let site = columns.label.or(columns.symbol).map_or("?", |column| &row[column].text);
        if let Some(value) = columns.occupancy.map(|column| &row[column]).filter(|value| value.known().is_some()) {
            let occupancy = value.number("_atom_site_occupancy")?;
            if (occupancy - 1.0).abs() > FULL_OCCUPANCY {
                return Err(Fault::at(value.line, Problem::PartialOccupancy { site: shortened(site), occupancy }));
            }
        }
        let element = columns.element(row, line)?;
        let mut coordinates = [0.0; 3];
        for (x, &column) in coordinates.iter_mut().zip(&columns.coordinates) {
            *x = row[column].number(&format!("coordinate of site {}", shortened(site)))?;
        }
        if columns.cartesian {
            let outside = || Fault::at(line, Problem::Missing { what: "a cell with a volume".to_owned() });
            coordinates = cell.fractional(coordinates).ok_or_else(outside)?;
        }
        let first = structure.len();
        let mut images: Vec<[f64; 3]> = Vec::new();
        for operation in operations {
            let image = operation.apply(coordinates).map(wrapped);
            if images.iter().all(|&other| distance(&cell, image, other) > SAME_SITE) {
                images.push(image);
                structure.positions.push(cell.cartesian(image));
            }
        }
        structure.numbers.resize(first + images.len(), element);
        if structure.len() as u64 > MAX_ATOMS {
            let count = structure.len() as u64;
            return Err(Fault::at(line, Problem::TooManyAtoms { count, limit: MAX_ATOMS }));
        }
    }
    Ok(structure)
}

/// A fractional coordinate in [0, 1).
fn wrapped(s: f64) -> f64 {
    let s = s.rem_euclid(1.0);
    // A tiny negative number rounds up to 1.
    if s < 1.0 { s } else { 0.0 }
}

/// Distance in Å between two points given in fractional coordinates, the nearest images along each lattice vector taken:
/// exact for the short distances it is compared with.
fn distance(cell: &Cell, a: [f64; 3], b: [f64; 3]) -> f64 {
    let difference = cell.cartesian([0, 1, 2].map(|k| (a[k] - b[k]) - (a[k] - b[k]).round()));
    difference.iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// The element of a type symbol: "Fe", "Fe3+", "O2-", "FE", "D".
fn type_element(symbol: &str) -> Option<u8> {
    let end = symbol.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(symbol.len());
    match &symbol[..end] {
        "D" | "d" => Some(1),
        letters => elements::atomic_number(letters).filter(|&z| z > 0),
    }
}

/// The element of a site label: "Fe1", "O2A", "OW1". The second letter counts only in lower case: "CA1" is an alpha carbon.
fn label_element(label: &str) -> Option<u8> {
    let bytes = label.as_bytes();
    let first = bytes.first().filter(|b| b.is_ascii_alphabetic())?;
    let length = if first.is_ascii_lowercase() {
        // All lower case: two letters if that is an element, else one.
        let two = label.get(..2).filter(|two| elements::atomic_number(two).is_some());
        two.map_or(1, str::len)
    } else {
        1 + usize::from(bytes.get(1).is_some_and(u8::is_ascii_lowercase))
    };
    type_element(&label[..length])
}

#[cfg(test)]
mod tests;
