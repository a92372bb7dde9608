//! Files that are exchanged with phonopy (Togo, J. Phys. Soc. Jpn. 92, 012001 (2023)): `FORCE_SETS`, `FORCE_CONSTANTS`, `phonopy_disp.yaml`, `phonopy_params.yaml`.
//!
//! phonopy's matrices of supercells and primitive cells have the new vectors as columns, and its atoms count from 1; here vectors are rows and atoms count from 0.

use std::fmt::Write as _;
use std::path::Path;

use saphyr_parser::{Event, Parser};
use serde_json::{Map, Value};
use tesseral_atoms::{Array, Cell, Structure, elements};

use super::crystal::Crystal;
use super::displacements::Displacement;
use super::force_constants::ForceConstants;
use super::supercell::Supercell;
use crate::error::SimulateError;
use crate::matrix::{self, Matrix};

/// Displacements with the forces on all atoms of the supercell.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ForceSets {
    /// Atoms and where they were moved to.
    pub displacements: Vec<Displacement>,
    /// Forces, eV/Å: one list for each displacement.
    pub forces: Vec<Vec<[f64; 3]>>,
}

/// What a `phonopy_disp.yaml` or `phonopy_params.yaml` says.
#[derive(Debug, Clone)]
pub struct PhonopyInput {
    /// The unit cell, with masses as a column.
    pub unit: Structure,
    /// Supercell vectors as rows, in units of those of the unit cell.
    pub supercell: Option<[[i64; 3]; 3]>,
    /// Primitive vectors as rows, in units of those of the unit cell.
    pub primitive: Option<[[f64; 3]; 3]>,
    /// Displacements, where listed.
    pub displacements: Vec<Displacement>,
    /// Forces, where listed for every displacement.
    pub forces: Option<Vec<Vec<[f64; 3]>>>,
}

fn wrong(file: &Path, line: usize, what: impl std::fmt::Display) -> SimulateError {
    SimulateError::input(
        format!("{}: line {line}: {what}", file.display()),
        "the format is described at phonopy.github.io/phonopy/input-files.html",
    )
}

/// Reads `FORCE_SETS` with one displaced atom in each supercell.
///
/// # Errors
/// If the file cannot be read or is no such file, with the line.
pub fn read_force_sets(path: &Path) -> Result<ForceSets, SimulateError> {
    parse_force_sets(&std::fs::read_to_string(path).map_err(SimulateError::io(path))?, path)
}

/// The same of a text; errors name `path`.
///
/// # Errors
/// As [`read_force_sets`].
pub fn parse_force_sets(text: &str, path: &Path) -> Result<ForceSets, SimulateError> {
    let mut lines = text.lines().enumerate().map(|(k, l)| (k + 1, l.split('#').next().unwrap_or("").trim())).filter(|(_, l)| !l.is_empty());
    let count = |(line, text): (usize, &str), what: &str| -> Result<usize, SimulateError> {
        if text.split_whitespace().count() == 6 {
            return Err(wrong(path, line, "sets with all atoms displaced (\"type 2\") are not understood"));
        }
        text.parse::<usize>()
            .ok()
            .filter(|n| *n > 0)
            .ok_or_else(|| wrong(path, line, format_args!("{what} should be here, not \"{text}\"")))
    };
    let end = text.lines().count();
    let mut next = |what: &str| lines.next().ok_or_else(|| wrong(path, end, format_args!("the file ends where {what} should be")));
    let atoms = count(next("the number of atoms")?, "the number of atoms")?;
    let sets = count(next("the number of displacements")?, "the number of displacements")?;
    let vector = |(line, text): (usize, &str)| -> Result<[f64; 3], SimulateError> {
        let numbers: Vec<f64> = text.split_whitespace().map_while(|w| w.parse().ok()).filter(|x: &f64| x.is_finite()).collect();
        <[f64; 3]>::try_from(numbers).map_err(|_| wrong(path, line, format_args!("three numbers should be here, not \"{text}\"")))
    };
    let mut found = ForceSets::default();
    for _ in 0..sets {
        let (line, text) = next("the displaced atom")?;
        let atom = count((line, text), "the number of an atom")?;
        if atom > atoms {
            return Err(wrong(path, line, format_args!("atom {atom} of {atoms} is displaced")));
        }
        found.displacements.push(Displacement { atom: atom - 1, vector: vector(next("a displacement")?)? });
        // Lines that do not exist are found out one by one: the number of atoms is not to be trusted with memory.
        let mut forces = Vec::new();
        for _ in 0..atoms {
            forces.push(vector(next("a force")?)?);
        }
        found.forces.push(forces);
    }
    Ok(found)
}

/// The text of `FORCE_SETS`.
pub fn force_sets(sets: &ForceSets) -> String {
    let atoms = sets.forces.first().map_or(0, Vec::len);
    let mut text = format!("{atoms}\n{}\n", sets.displacements.len());
    for (d, forces) in sets.displacements.iter().zip(&sets.forces) {
        let [x, y, z] = d.vector;
        // Writing to a string cannot fail.
        writeln!(text, "\n{}\n  {x:.16}   {y:.16}   {z:.16}", d.atom + 1).ok();
        for [x, y, z] in forces {
            writeln!(text, "  {x:17.12}  {y:17.12}  {z:17.12}").ok();
        }
    }
    text
}

/// The text of `FORCE_CONSTANTS` in phonopy's compact form: rows for the atoms of the primitive cell.
pub fn force_constants(force_constants: &ForceConstants) -> String {
    let atoms = force_constants.values.first().map_or(0, Vec::len);
    let mut text = format!("{:4} {:4}\n", force_constants.atoms.len(), atoms);
    for (i, row) in force_constants.atoms.iter().zip(&force_constants.values) {
        for (j, phi) in row.iter().enumerate() {
            writeln!(text, "{} {}", i + 1, j + 1).ok();
            for [x, y, z] in phi {
                writeln!(text, "  {x:21.15}  {y:21.15}  {z:21.15}").ok();
            }
        }
    }
    text
}

/// The text of `phonopy_params.yaml`: everything with which `phonopy.load` comes to the same force constants.
pub fn params(crystal: &Crystal, supercell: &Supercell, sets: &ForceSets) -> String {
    let mut y = String::new();
    writeln!(y, "phonopy:\n  version: \"2.43.0\"\n  calculator: vasp\n  frequency_unit_conversion_factor: {:.6}", super::thz()).ok();
    writeln!(y, "  symmetry_tolerance: {:.5e}\n  generator: \"tesseral {}\"\n", crystal.tolerance, env!("CARGO_PKG_VERSION")).ok();
    writeln!(
        y,
        "physical_unit:\n  atomic_mass: \"AMU\"\n  length: \"angstrom\"\n  force: \"eV/angstrom\"\n  force_constants: \"eV/angstrom^2\"\n"
    )
    .ok();
    writeln!(y, "space_group:\n  type: \"{}\"\n  number: {}\n", crystal.symbol, crystal.number).ok();
    writeln!(y, "primitive_matrix:").ok();
    for [a, b, c] in matrix::transpose(&crystal.primitive_in_unit) {
        writeln!(y, "- [ {a:18.15}, {b:18.15}, {c:18.15} ]").ok();
    }
    writeln!(y, "\nsupercell_matrix:").ok();
    for k in 0..3 {
        let [a, b, c] = supercell.matrix.map(|row| row[k]);
        writeln!(y, "- [ {a:3}, {b:3}, {c:3} ]").ok();
    }
    let unit_masses = |atoms: &[usize]| atoms.iter().map(|&a| crystal.masses[a]).collect::<Vec<_>>();
    let all: Vec<usize> = (0..crystal.unit.len()).collect();
    cell(&mut y, "primitive_cell", &crystal.primitive_structure(), &crystal.primitive_masses());
    cell(&mut y, "unit_cell", &crystal.unit, &unit_masses(&all));
    cell(&mut y, "supercell", &supercell.structure, &unit_masses(&supercell.unit_atom));
    writeln!(y, "\ndisplacements:").ok();
    for (k, d) in sets.displacements.iter().enumerate() {
        let [a, b, c] = d.vector;
        writeln!(y, "- atom: {}\n  displacement:\n    [ {a:20.16}, {b:20.16}, {c:20.16} ]", d.atom + 1).ok();
        if let Some(forces) = sets.forces.get(k) {
            writeln!(y, "  forces:").ok();
            for [x, y_, z] in forces {
                writeln!(y, "  - [ {x:19.14}, {y_:19.14}, {z:19.14} ]").ok();
            }
        }
    }
    y
}

fn cell(y: &mut String, name: &str, structure: &Structure, masses: &[f64]) {
    writeln!(y, "\n{name}:\n  lattice:").ok();
    for [a, b, c] in structure.cell.vectors {
        writeln!(y, "  - [ {a:21.15}, {b:21.15}, {c:21.15} ]").ok();
    }
    writeln!(y, "  points:").ok();
    let inverse = matrix::inverse(&structure.cell.vectors);
    for (atom, r) in structure.positions.iter().enumerate() {
        // Not wrapped: images of an atom are counted from where it is, here and in phonopy.
        let [a, b, c] = matrix::row_times(*r, &inverse);
        let symbol = elements::symbol(structure.numbers[atom]).unwrap_or("X");
        writeln!(y, "  - symbol: {symbol} # {}\n    coordinates: [ {a:18.15}, {b:18.15}, {c:18.15} ]", atom + 1).ok();
        writeln!(y, "    mass: {:.6}", masses[atom]).ok();
    }
}

/// Reads `phonopy_disp.yaml`, `phonopy_params.yaml` or `phonopy.yaml`.
///
/// # Errors
/// If the file cannot be read or lacks the unit cell.
pub fn read_yaml(path: &Path) -> Result<PhonopyInput, SimulateError> {
    parse_yaml(&std::fs::read_to_string(path).map_err(SimulateError::io(path))?, path)
}

/// The same of a text; errors name `path`.
///
/// # Errors
/// As [`read_yaml`].
pub fn parse_yaml(text: &str, path: &Path) -> Result<PhonopyInput, SimulateError> {
    let document = document(text, path)?;
    let lacking = |what: &str| {
        SimulateError::input(format!("{}: {what}", path.display()), "`phonopy -d` writes phonopy_disp.yaml, which has everything")
    };
    let unit = document.get("unit_cell").ok_or_else(|| lacking("there is no unit_cell"))?;
    let lattice = rows(unit.get("lattice")).ok_or_else(|| lacking("unit_cell has no lattice of three vectors"))?;
    let lattice = matrix3(&lattice).ok_or_else(|| lacking("unit_cell has no lattice of three vectors"))?;
    let cell = Cell::new(lattice);
    let points = unit.get("points").and_then(Value::as_array).ok_or_else(|| lacking("unit_cell has no points"))?;
    let (mut numbers, mut positions, mut masses) = (Vec::new(), Vec::new(), Vec::new());
    for (k, point) in points.iter().enumerate() {
        let bad = || lacking(&format!("point {} of the unit cell has no symbol and coordinates", k + 1));
        let number = point.get("symbol").and_then(Value::as_str).and_then(elements::atomic_number).ok_or_else(bad)?;
        let place = point.get("coordinates").and_then(numbers3).ok_or_else(bad)?;
        numbers.push(number);
        positions.push(cell.cartesian(place));
        masses.extend(point.get("mass").and_then(Value::as_f64));
    }
    let mut structure = Structure::crystal(cell, numbers, positions);
    if masses.len() == structure.len() {
        structure.arrays.insert("masses".to_owned(), Array::scalars(masses));
    }
    let transposed = |name: &str| rows(document.get(name)).and_then(|r| matrix3(&r)).map(|m| matrix::transpose(&m));
    let supercell = match transposed("supercell_matrix") {
        Some(m) => Some(matrix::to_integers(&m, 1e-6).ok_or_else(|| lacking("supercell_matrix is not of integers"))?),
        None => None,
    };
    let mut displacements = Vec::new();
    let mut forces = Vec::new();
    for (k, entry) in document.get("displacements").and_then(Value::as_array).into_iter().flatten().enumerate() {
        let bad = || lacking(&format!("displacement {} has no atom and displacement", k + 1));
        let atom = entry.get("atom").and_then(Value::as_f64).filter(|a| *a >= 1.0 && a.fract() == 0.0).ok_or_else(bad)?;
        let vector = entry.get("displacement").and_then(numbers3).ok_or_else(bad)?;
        displacements.push(Displacement { atom: atom as usize - 1, vector });
        forces.extend(rows(entry.get("forces")));
    }
    let complete = !displacements.is_empty() && forces.len() == displacements.len();
    Ok(PhonopyInput {
        unit: structure,
        supercell,
        primitive: transposed("primitive_matrix"),
        displacements,
        forces: complete.then_some(forces),
    })
}

fn numbers3(value: &Value) -> Option<[f64; 3]> {
    let numbers: Vec<f64> = value.as_array()?.iter().map(Value::as_f64).collect::<Option<_>>()?;
    numbers.try_into().ok()
}

fn rows(value: Option<&Value>) -> Option<Vec<[f64; 3]>> {
    value?.as_array()?.iter().map(numbers3).collect()
}

fn matrix3(rows: &[[f64; 3]]) -> Option<Matrix> {
    rows.try_into().ok()
}

/// A list or map of a YAML document that is not closed yet.
enum Open {
    List(Vec<Value>),
    Map(Map<String, Value>, Option<String>),
}

/// YAML as phonopy writes it: lists, maps, numbers and text. Aliases are not followed.
fn document(text: &str, path: &Path) -> Result<Value, SimulateError> {
    const MOST_VALUES: usize = 50_000_000;
    const DEEPEST: usize = 32;
    let mut open: Vec<Open> = Vec::new();
    let mut result = None;
    let mut values = 0;
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|e| wrong(path, e.marker().line(), e.info()))?;
        let line = span.start.line();
        let closed = match event {
            Event::SequenceStart(..) => {
                open.push(Open::List(Vec::new()));
                None
            }
            Event::MappingStart(..) => {
                open.push(Open::Map(Map::new(), None));
                None
            }
            Event::SequenceEnd | Event::MappingEnd => match open.pop() {
                Some(Open::List(items)) => Some(Value::Array(items)),
                Some(Open::Map(entries, _)) => Some(Value::Object(entries)),
                None => return Err(wrong(path, line, "something ends that has not begun")),
            },
            Event::Scalar(text, ..) => {
                let number = text.parse::<f64>().ok().and_then(serde_json::Number::from_f64);
                Some(number.map_or_else(|| Value::String(text.to_string()), Value::Number))
            }
            Event::Alias(_) => return Err(wrong(path, line, "aliases are not understood")),
            _ => None,
        };
        values += 1;
        if open.len() > DEEPEST || values > MOST_VALUES {
            return Err(wrong(path, line, "there is more here than phonopy would write"));
        }
        let Some(value) = closed else { continue };
        match open.last_mut() {
            None => {
                result = Some(value);
                break;
            }
            Some(Open::List(items)) => items.push(value),
            Some(Open::Map(entries, key)) => match key.take() {
                Some(key) => {
                    entries.insert(key, value);
                }
                None => match value {
                    Value::String(text) => *key = Some(text),
                    Value::Number(number) => *key = Some(number.to_string()),
                    _ => return Err(wrong(path, line, "a key is a list or a map")),
                },
            },
        }
    }
    result.ok_or_else(|| wrong(path, 1, "the file is empty"))
}
