//! VASP's POSCAR and CONTCAR, format 4 and 5.
//!
//! Grammar: <https://www.vasp.at/wiki/index.php/POSCAR>. Velocities and whatever else follows the positions are ignored.

use std::io::BufRead;

use super::FrameSource;
use super::error::{Fault, Problem, shortened};
use super::lines::Lines;
use crate::cell::Cell;
use crate::elements;
use crate::info::{Array, Column};
use crate::structure::Structure;

/// Most atoms a file may announce.
const MAX_ATOMS: u64 = 100_000_000;

/// The one frame of a POSCAR.
pub(crate) struct PoscarFrames<R> {
    lines: Lines<R>,
    done: bool,
}

impl<R: BufRead> PoscarFrames<R> {
    pub(crate) fn new(reader: R) -> Self {
        Self { lines: Lines::new(reader), done: false }
    }
}

impl<R: BufRead> FrameSource for PoscarFrames<R> {
    fn next_frame(&mut self) -> Option<Result<Structure, Fault>> {
        if std::mem::replace(&mut self.done, true) {
            return None;
        }
        match self.lines.next() {
            Ok(Some(_)) => self.lines.unread(),
            Ok(None) => return None,
            Err(fault) => return Some(Err(fault.last())),
        }
        Some(parse(&mut self.lines).map_err(Fault::last))
    }
}

fn parse(lines: &mut Lines<impl BufRead>) -> Result<Structure, Fault> {
    let title = lines.expect_text("the title")?;
    let scale = lines.expect_text("the scaling factor")?;
    let scale = Scale::parse(&scale).map_err(|problem| Fault::at(lines.number(), problem))?;
    let mut vectors = [[0.0; 3]; 3];
    for vector in &mut vectors {
        let line = lines.expect_text("a lattice vector")?;
        *vector = three_reals(&line, "lattice vector").map_err(|problem| Fault::at(lines.number(), problem))?;
    }
    let factors = scale.factors(&Cell::new(vectors)).map_err(|problem| Fault::at(lines.number(), problem))?;
    let scaled = |v: [f64; 3]| [0, 1, 2].map(|k| v[k] * factors[k]);
    let cell = Cell::new(vectors.map(scaled));

    let (kinds, counts) = species(lines, &title)?;

    let expected = "Direct or Cartesian";
    let mut mode = lines.expect_text(expected)?;
    let selective = mode.trim_start().starts_with(['s', 'S']);
    if selective {
        mode = lines.expect_text(expected)?;
    }
    let cartesian = match mode.trim_start().chars().next() {
        Some('c' | 'C' | 'k' | 'K') => true,
        // VASP takes every other word for direct coordinates; a number is a forgotten line.
        Some(c) if c.is_alphabetic() => false,
        _ => return Err(Fault::at(lines.number(), Problem::Expected { expected, found: shortened(&mode) })),
    };

    let total: usize = counts.iter().sum();
    let mut structure = Structure { cell, pbc: [true; 3], ..Structure::default() };
    let mut movable = Vec::new();
    for (kind, count) in kinds.into_iter().zip(counts) {
        for _ in 0..count {
            let found = structure.len();
            let line = match lines.next_text()? {
                Some(line) if !line.trim().is_empty() => line,
                _ => return Err(Fault::at(lines.number(), Problem::MissingAtoms { expected: total, found })),
            };
            let fail = |problem| Fault::at(lines.number(), problem);
            let coordinates = three_reals(&line, "position").map_err(fail)?;
            structure.numbers.push(kind);
            structure.positions.push(if cartesian { scaled(coordinates) } else { cell.cartesian(coordinates) });
            if selective {
                movable.extend_from_slice(&flags(&line).map_err(fail)?);
            }
        }
    }
    if selective && let Ok(array) = Array::new(3, Column::Bool(movable)) {
        structure.arrays.insert("selective_dynamics".to_owned(), array);
    }
    Ok(structure)
}

/// The second line of the file.
enum Scale {
    Factors([f64; 3]),
    Volume(f64),
}

impl Scale {
    fn parse(line: &str) -> Result<Self, Problem> {
        let numbers: Vec<f64> = line.split_ascii_whitespace().map_while(real).take(3).collect();
        match numbers[..] {
            [factor] if factor > 0.0 && factor.is_finite() => Ok(Self::Factors([factor; 3])),
            [volume] if volume < 0.0 && volume.is_finite() => Ok(Self::Volume(-volume)),
            [x, y, z] if [x, y, z].iter().all(|f| *f > 0.0 && f.is_finite()) => Ok(Self::Factors([x, y, z])),
            _ => Err(Problem::Expected {
                expected: "a scaling factor (one number, negative for a volume, or three positive ones)",
                found: shortened(line),
            }),
        }
    }

    /// Factors for the Cartesian components.
    fn factors(&self, cell: &Cell) -> Result<[f64; 3], Problem> {
        match *self {
            Self::Factors(factors) => Ok(factors),
            Self::Volume(volume) => {
                let factor = (volume / cell.volume()).cbrt();
                if factor.is_finite() && factor > 0.0 {
                    Ok([factor; 3])
                } else {
                    let found = format!("{} Å³", cell.volume());
                    Err(Problem::Expected { expected: "lattice vectors with a volume to scale", found })
                }
            }
        }
    }
}

/// Atomic number and count of each kind of atom.
fn species(lines: &mut Lines<impl BufRead>, title: &str) -> Result<(Vec<u8>, Vec<usize>), Fault> {
    let mut line = lines.expect_text("the element symbols or the numbers of atoms")?;
    let has_symbols = line.split_ascii_whitespace().next().is_some_and(|word| word.parse::<u64>().is_err());
    let mut kinds = Vec::new();
    if has_symbols {
        for (index, word) in uncommented(&line).split_ascii_whitespace().enumerate() {
            let number = potential_element(word).ok_or_else(|| {
                let problem = Problem::BadValue {
                    column: index + 1,
                    name: "species".to_owned(),
                    found: shortened(word),
                    expected: "a chemical element",
                };
                Fault::at(lines.number(), problem)
            })?;
            kinds.push(number);
        }
        line = lines.expect_text("the numbers of atoms")?;
    }
    let mut counts: Vec<usize> = Vec::new();
    let mut total = 0u64;
    for (index, word) in uncommented(&line).split_ascii_whitespace().enumerate() {
        let Ok(count) = word.parse::<u64>() else {
            let problem = Problem::BadValue {
                column: index + 1,
                name: "number of atoms".to_owned(),
                found: shortened(word),
                expected: "a whole number",
            };
            return Err(Fault::at(lines.number(), problem));
        };
        total = total.saturating_add(count);
        if total > MAX_ATOMS {
            return Err(Fault::at(lines.number(), Problem::TooManyAtoms { count: total, limit: MAX_ATOMS }));
        }
        counts.push(count as usize);
    }
    if counts.is_empty() {
        return Err(Fault::at(lines.number(), Problem::Expected { expected: "the numbers of atoms", found: shortened(&line) }));
    }
    if !has_symbols {
        kinds = title_elements(title);
        if kinds.len() != counts.len() {
            return Err(Fault::at(lines.number(), Problem::NoSymbols { types: counts.len() }));
        }
    }
    if kinds.len() != counts.len() {
        let found = format!("{} for {} elements", counts.len(), kinds.len());
        return Err(Fault::at(lines.number(), Problem::Expected { expected: "one number of atoms per element", found }));
    }
    Ok((kinds, counts))
}

/// What stands before a comment.
fn uncommented(line: &str) -> &str {
    line.split(['!', '#']).next().unwrap_or_default()
}

/// The element of a POTCAR label: "Fe", "Fe_pv", "Si/1a2b3c", "H1.25".
fn potential_element(label: &str) -> Option<u8> {
    let end = label.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(label.len());
    let rest = &label[end..];
    if !rest.is_empty() && !rest.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '_' | '/' | '.' | ':')) {
        return None;
    }
    elements::atomic_number(&label[..end])
}

/// The elements a title consists of, in order: "Al O", "Al2 O3", "Al2O3". Words that are no formula are passed over.
fn title_elements(title: &str) -> Vec<u8> {
    let mut found = Vec::new();
    for word in title.split_ascii_whitespace() {
        let letters: Vec<u8> =
            word.bytes().filter(|b| !b.is_ascii_digit() && !matches!(b, b'-' | b'_' | b',' | b'.' | b'=' | b'^')).collect();
        let mut elements_here = Vec::new();
        let mut rest = &letters[..];
        while let Some((&first, after)) = rest.split_first() {
            let second = after.first().filter(|b| b.is_ascii_lowercase());
            let length = 1 + usize::from(second.is_some());
            let symbol = std::str::from_utf8(&rest[..length]).ok().filter(|_| first.is_ascii_uppercase());
            let Some(number) = symbol.and_then(elements::atomic_number) else {
                elements_here.clear();
                break;
            };
            elements_here.push(number);
            rest = &rest[length..];
        }
        found.append(&mut elements_here);
    }
    found
}

fn real(word: &str) -> Option<f64> {
    word.parse().ok().or_else(|| word.replace(['d', 'D'], "e").parse().ok())
}

fn three_reals(line: &str, name: &str) -> Result<[f64; 3], Problem> {
    let mut values = [0.0; 3];
    let mut words = line.split_ascii_whitespace();
    for (index, value) in values.iter_mut().enumerate() {
        let word = words.next().unwrap_or_default();
        *value = real(word).ok_or_else(|| Problem::BadValue {
            column: index + 1,
            name: name.to_owned(),
            found: shortened(word),
            expected: "a real number",
        })?;
    }
    Ok(values)
}

/// The three flags of selective dynamics after a position: true where the atom may move along that lattice vector.
fn flags(line: &str) -> Result<[bool; 3], Problem> {
    let mut flags = [false; 3];
    let mut words = line.split_ascii_whitespace().skip(3);
    for (index, flag) in flags.iter_mut().enumerate() {
        let word = words.next().unwrap_or_default();
        // Fortran reads .TRUE., T, true and so on by the first letter after the dot.
        *flag = match word.trim_start_matches('.').chars().next() {
            Some('t' | 'T') => true,
            Some('f' | 'F') => false,
            _ => {
                return Err(Problem::BadValue {
                    column: index + 4,
                    name: "selective dynamics".to_owned(),
                    found: shortened(word),
                    expected: "T or F",
                });
            }
        };
    }
    Ok(flags)
}

#[cfg(test)]
mod tests {
    use crate::Structure;
    use crate::io::{Format, ReadError, read_from};

    fn parse(text: &str) -> Result<Structure, ReadError> {
        let mut frames = read_from(text.as_bytes(), Format::Poscar);
        let structure = frames.next().unwrap();
        assert!(frames.next().is_none());
        structure
    }

    const SLAB: &str = "Al2 O3\n2.0\n1 0 0\n0 2 0\n0 0 3\nAl_pv O/3f2a\n1 2\nSelective dynamics\nDirect\n\
        0.5 0.5 0.5 T F T\n0 0 0 .TRUE. .FALSE. F remark\n0.25 -0.5 1.5 t t f\n\n0.1 0.1 0.1\n";

    #[test]
    fn direct_coordinates_and_selective_dynamics() {
        let structure = parse(SLAB).unwrap();
        assert_eq!(structure.cell.vectors, [[2.0, 0.0, 0.0], [0.0, 4.0, 0.0], [0.0, 0.0, 6.0]]);
        assert_eq!(structure.numbers, [13, 8, 8]);
        assert_eq!(structure.positions, [[1.0, 2.0, 3.0], [0.0; 3], [0.5, -2.0, 9.0]]);
        assert_eq!(structure.pbc, [true; 3]);
        let crate::info::Column::Bool(flags) = structure.arrays["selective_dynamics"].values() else { panic!() };
        assert_eq!(flags[..], [true, false, true, true, false, false, true, true, false]);
    }

    #[test]
    fn scaling_factors() {
        let with = |scale: &str| parse(&format!("Si\n{scale}\n1 0 0\n0 2 0\n0 0 4\nSi\n1\nCartesian\n1 1 1\n"));
        let volume = with("-64").unwrap();
        assert!((volume.cell.volume() - 64.0).abs() < 1e-12);
        assert_eq!(volume.positions[0], [2.0; 3]);
        let three = with("2 3 4").unwrap();
        assert_eq!(three.cell.vectors, [[2.0, 0.0, 0.0], [0.0, 6.0, 0.0], [0.0, 0.0, 16.0]]);
        assert_eq!(three.positions[0], [2.0, 3.0, 4.0]);
        for wrong in ["0", "a", "1 2", "1 -2 3", "", "nan", "inf"] {
            let error = with(wrong).unwrap_err();
            assert_eq!(error.line, Some(2), "{wrong}");
            assert!(error.to_string().starts_with("input:2: frame 0: expected a scaling factor"), "{error}");
        }
        assert_eq!(with("1.0 ! Å").unwrap().cell.volume(), 8.0);
        // Left-handed cells scale to a volume too, and keep their hand.
        let left = parse("Si\n-8\n0 1 0\n1 0 0\n0 0 1\nSi\n1\nDirect\n0 0 0\n").unwrap();
        assert!((left.cell.signed_volume() + 8.0).abs() < 1e-12);
        assert!(parse("Si\n-8\n0 0 0\n1 0 0\n0 0 1\nSi\n1\nDirect\n0 0 0\n").is_err());
    }

    #[test]
    fn version_4_takes_symbols_from_the_title() {
        let with = |title: &str| parse(&format!("{title}\n1\n1 0 0\n0 1 0\n0 0 1\n1 1\nDirect\n0 0 0\n.5 .5 .5\n"));
        assert_eq!(with("Cs Cl").unwrap().numbers, [55, 17]);
        assert_eq!(with("CsCl relaxed").unwrap().numbers, [55, 17]);
        assert_eq!(with("Mg1 O1").unwrap().numbers, [12, 8]);
        for title in ["", "a crystal", "Si", "Cs Cl O"] {
            let error = with(title).unwrap_err();
            assert!(error.to_string().contains("names no elements for its 2 kinds"), "{error}");
            assert!(error.hint().unwrap().contains("VASP 5"));
        }
    }

    #[test]
    fn damage_is_named() {
        let lines: Vec<&str> = SLAB.lines().collect();
        // Cut at every line; the last line, the blank one and the velocities do not matter.
        for cut in 1..12 {
            let error = parse(&(lines[..cut].join("\n") + "\n")).unwrap_err();
            assert_eq!(error.line, Some(cut as u64), "{error}");
        }
        for (from, to, line, message) in [
            ("0 2 0", "0 x 0", 4, "column 2 (lattice vector): \"x\" is not a real number"),
            ("0 2 0", "0 2", 4, "column 3 (lattice vector): \"\" is not a real number"),
            ("Al_pv O/3f2a", "Al_pv Oq", 6, "column 2 (species): \"Oq\" is not a chemical element"),
            ("\n1 2\n", "\n1 -2\n", 7, "column 2 (number of atoms): \"-2\" is not a whole number"),
            ("\n1 2\n", "\n1 2 3\n", 7, "expected one number of atoms per element, found \"3 for 2 elements\""),
            ("\n1 2\n", "\n1 99999999999\n", 7, "100000000000 atoms are more than the limit"),
            ("Direct\n", "", 9, "expected Direct or Cartesian, found \"0.5 0.5 0.5 T F T\""),
            ("T F T", "T F", 10, "column 6 (selective dynamics): \"\" is not T or F"),
            ("0.25 -0.5", "0.25 1-0.5", 12, "column 2 (position): \"1-0.5\" is not a real number"),
        ] {
            let error = parse(&SLAB.replacen(from, to, 1)).unwrap_err();
            assert_eq!(error.line, Some(line), "{error}");
            assert!(error.to_string().contains(message), "{error}");
        }
    }
}
