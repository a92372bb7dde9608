//! Symmetry operations of a CIF: listed, or those of its space group.

use moyo::data::{HallSymbolEntry, Setting, hall_symbol_entry, operations_from_number};

use super::block::Block;
use crate::cell::Cell;
use crate::io::error::{Fault, Problem, shortened};

/// Most operations a file may list: the largest space groups have 192, twice that in a doubled cell.
const MAX_OPERATIONS: usize = 384;

/// `s → rotation · s + translation` for fractional coordinates as columns.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Operation {
    rotation: [[f64; 3]; 3],
    translation: [f64; 3],
}

impl Operation {
    pub(super) const IDENTITY: Self = Self { rotation: [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], translation: [0.0; 3] };

    /// The image of a point.
    pub(super) fn apply(&self, s: [f64; 3]) -> [f64; 3] {
        [0, 1, 2].map(|i| {
            let row = self.rotation[i];
            row[0] * s[0] + row[1] * s[1] + row[2] * s[2] + self.translation[i]
        })
    }

    /// Parses "x,y,z", "-x+1/2, y, 0.25-z", "1/3+x-y,2*x,z".
    fn parse(text: &str) -> Option<Self> {
        let mut operation = Self { rotation: [[0.0; 3]; 3], translation: [0.0; 3] };
        let mut expressions = text.split(',');
        for i in 0..3 {
            let compact: String = expressions.next()?.chars().filter(|c| !c.is_whitespace()).collect();
            let mut rest = compact.as_str();
            if rest.is_empty() {
                return None;
            }
            while !rest.is_empty() {
                let sign = match rest.as_bytes()[0] {
                    b'+' => 1.0,
                    b'-' => -1.0,
                    // Only the first term may go without a sign.
                    _ if rest.len() == compact.len() => 1.0,
                    _ => return None,
                };
                rest = rest.strip_prefix(['+', '-']).unwrap_or(rest);
                let end = rest.find(['+', '-']).unwrap_or(rest.len());
                let term = &rest[..end];
                rest = &rest[end..];
                match term.chars().last()?.to_ascii_lowercase() {
                    axis @ 'x'..='z' => {
                        let coefficient = term[..term.len() - 1].trim_end_matches('*');
                        let value = if coefficient.is_empty() { 1.0 } else { fraction(coefficient)? };
                        operation.rotation[i][axis as usize - 'x' as usize] += sign * value;
                    }
                    _ => operation.translation[i] += sign * fraction(term)?,
                }
            }
        }
        (expressions.next().is_none() && (determinant(&operation.rotation).abs() - 1.0).abs() < 1e-6).then_some(operation)
    }

    /// Whether the rotation keeps the lengths and angles of a cell.
    fn preserves(&self, cell: &Cell) -> bool {
        // Images of the lattice vectors: a'_j = Σ_i rotation[i][j] a_i.
        let image = [0, 1, 2].map(|j| cell.cartesian([0, 1, 2].map(|i| self.rotation[i][j])));
        let dot = |a: [f64; 3], b: [f64; 3]| a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
        let lengths = cell.lengths();
        (0..3).all(|i| {
            (i..3).all(|j| {
                let change = dot(image[i], image[j]) - dot(cell.vectors[i], cell.vectors[j]);
                change.abs() < 0.01 * lengths[i] * lengths[j]
            })
        })
    }
}

fn determinant(m: &[[f64; 3]; 3]) -> f64 {
    Cell::new(*m).signed_volume()
}

/// "1/2", "0.25", "3".
fn fraction(text: &str) -> Option<f64> {
    let digits = |part: &str| part.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    let value = match text.split_once('/') {
        Some((over, under)) if digits(over) && digits(under) => over.parse::<f64>().ok()? / under.parse::<f64>().ok()?,
        None if digits(text) => text.parse().ok()?,
        _ => return None,
    };
    value.is_finite().then_some(value)
}

/// The operations of a block: those it lists, else those of the space group it names, else (nothing said) the identity.
pub(super) fn operations(block: &Block, cell: &Cell) -> Result<Vec<Operation>, Fault> {
    let listed = [
        "_space_group_symop_operation_xyz",
        "_symmetry_equiv_pos_as_xyz",
        "_symmetry_equiv_as_xyz",
        "_space_group_symop_ssg_operation_algebraic",
    ];
    for name in listed {
        let values = block.all(name);
        if values.iter().all(|value| value.known().is_none()) {
            continue;
        }
        if values.len() > MAX_OPERATIONS {
            let reason = format!("{} symmetry operations are more than any space group has", values.len());
            return Err(Fault::at(values[0].line, Problem::Symmetry { reason }));
        }
        let mut operations = Vec::with_capacity(values.len() + 1);
        for value in values {
            let operation = Operation::parse(&value.text).ok_or_else(|| {
                let reason = format!("{:?} is not a symmetry operation", shortened(&value.text));
                Fault::at(value.line, Problem::Symmetry { reason })
            })?;
            operations.push(operation);
        }
        if !operations.contains(&Operation::IDENTITY) {
            operations.insert(0, Operation::IDENTITY);
        }
        return Ok(operations);
    }
    match named_group(block, cell)? {
        Some(hall_number) => group_operations(hall_number),
        None => Ok(vec![Operation::IDENTITY]),
    }
}

/// The operations of a Hall number (1 to 530), those that centring adds included.
fn group_operations(hall_number: i32) -> Result<Vec<Operation>, Fault> {
    let operations = operations_from_number(0, Setting::HallNumber(hall_number), false).map_err(|error| {
        let problem = Problem::Symmetry { reason: format!("space group with Hall number {hall_number}: {error}") };
        Fault { line: None, problem, ended: false }
    })?;
    let converted = operations.iter().map(|operation| Operation {
        rotation: operation.rotation_as_array().map(|row| row.map(f64::from)),
        translation: operation.translation.into(),
    });
    Ok(converted.collect())
}

fn entries() -> impl Iterator<Item = HallSymbolEntry> {
    (1..=530).filter_map(hall_symbol_entry)
}

/// Symbols compare without spaces, underscores and case.
fn normalised(symbol: &str) -> String {
    symbol.chars().filter(|c| !c.is_whitespace() && *c != '_').map(|c| c.to_ascii_lowercase()).collect()
}

/// Today's symbol for one that International Tables have changed: the double glide planes e (1992), and the cubic groups
/// once written without a bar.
fn current_symbol(old: &str) -> String {
    match old {
        "abm2" => "aem2".to_owned(),
        "aba2" => "aea2".to_owned(),
        "cmca" => "cmce".to_owned(),
        "cmma" => "cmme".to_owned(),
        "ccca" => "ccce".to_owned(),
        _ => old.replacen('3', "-3", 1),
    }
}

/// "P 2_1/n" for "P 1 2_1/n 1". The table has the short symbol of the standard setting alone.
fn monoclinic_short(full: &str) -> String {
    full.split_whitespace().filter(|&part| part != "1").collect()
}

/// The Hall number of the group that a block names, `None` if it names none.
fn named_group(block: &Block, cell: &Cell) -> Result<Option<i32>, Fault> {
    let hall = block.item(&["_space_group_name_hall", "_symmetry_space_group_name_hall"]);
    if let Some(value) = hall {
        // The rotation marks ' and " are written ^ and = in the table.
        let wanted = normalised(&value.text.replace('\'', "^").replace('"', "="));
        if let Some(entry) = entries().find(|entry| normalised(entry.hall_symbol) == wanted) {
            return Ok(Some(entry.hall_number));
        }
    }
    let symbol = block.item(&[
        "_space_group_name_h-m_alt",
        "_symmetry_space_group_name_h-m",
        "_space_group_name_h-m_full",
        "_space_group_name_h-m_ref",
        "_symmetry_space_group_name_h-m_full",
    ]);
    let number = block.item(&["_space_group_it_number", "_symmetry_int_tables_number"]);
    let Some(said) = symbol.or(number).or(hall) else { return Ok(None) };
    let fail = |reason: String| Fault::at(said.line, Problem::Symmetry { reason });

    let (candidates, choice): (Vec<HallSymbolEntry>, Option<String>) = if let Some(value) = symbol {
        let (name, choice) = split_choice(&value.text);
        let wanted = normalised(&name);
        let matches = |entry: &HallSymbolEntry, wanted: &String| {
            let short = if (3..=15).contains(&entry.number) { monoclinic_short(entry.hm_full) } else { entry.hm_short.to_owned() };
            [&short, entry.hm_full].map(normalised).contains(wanted)
        };
        let known = [wanted.clone(), current_symbol(&wanted)]
            .iter()
            .map(|name| entries().filter(|entry| matches(entry, name)).collect::<Vec<_>>())
            .find(|found| !found.is_empty());
        (known.unwrap_or_default(), choice)
    } else if let Some(value) = number {
        let wanted = value.number("_space_group_IT_number")?;
        (entries().filter(|entry| f64::from(entry.number) == wanted).collect(), None)
    } else {
        (Vec::new(), None)
    };
    if candidates.is_empty() {
        return Err(fail(format!("no space group is known as {:?}", shortened(&said.text))));
    }
    choose(candidates, choice.as_deref(), cell)
        .map(Some)
        .map_err(|reason| fail(format!("the space group {:?} {reason}, and the file lists no operations", shortened(&said.text))))
}

/// Splits "F d -3 m :2" and the old "F d -3 m S" (origin 1) and "F d -3 m Z" (origin 2).
fn split_choice(symbol: &str) -> (String, Option<String>) {
    if let Some((name, choice)) = symbol.split_once(':') {
        return (name.to_owned(), Some(choice.trim().to_ascii_uppercase()));
    }
    let trimmed = symbol.trim_end();
    for (suffix, choice) in [(" S", "1"), (" Z", "2"), (" H", "H"), (" R", "R")] {
        if let Some(name) = trimmed.strip_suffix(suffix) {
            return (name.to_owned(), Some(choice.to_owned()));
        }
    }
    (symbol.to_owned(), None)
}

/// Picks one setting of a group: the one asked for, or the only one that fits the cell, or the standard axes. Two origins fit
/// equally well, so between them nothing is guessed.
fn choose(candidates: Vec<HallSymbolEntry>, choice: Option<&str>, cell: &Cell) -> Result<i32, &'static str> {
    let fits = |entry: &HallSymbolEntry| {
        let operations = group_operations(entry.hall_number).unwrap_or_default();
        !operations.is_empty() && operations.iter().all(|operation| operation.preserves(cell))
    };
    let mut fitting: Vec<HallSymbolEntry> = candidates.into_iter().filter(fits).collect();
    // Two names of the same operations are no choice.
    fitting.dedup_by_key(|entry| entry.hall_symbol);
    if fitting.is_empty() {
        return Err("does not fit the lengths and angles of the cell");
    }
    if let Some(choice) = choice {
        fitting.retain(|entry| entry.setting.to_ascii_uppercase().starts_with(choice));
        if fitting.is_empty() {
            return Err("has no such setting that fits the cell");
        }
    }
    if let [entry] = &fitting[..] {
        return Ok(entry.hall_number);
    }
    // Settings "1" and "2", also within "1cab" and "2cab", are choices of the origin.
    let origin = |entry: &HallSymbolEntry| entry.setting.chars().next().filter(char::is_ascii_digit);
    let first = origin(&fitting[0]);
    if fitting.iter().any(|entry| origin(entry) != first) {
        return Err("has two choices of the origin");
    }
    let standard = |entry: &&HallSymbolEntry| Setting::Standard.hall_number(entry.number) == Some(entry.hall_number);
    fitting.iter().find(standard).map(|entry| entry.hall_number).ok_or("has several settings that fit the cell")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_parse() {
        let operation = Operation::parse(" -x+1/2, 0.25+Y ,  -z + 3/4").unwrap();
        assert_eq!(operation.apply([0.1, 0.2, 0.3]), [0.4, 0.45, 0.45]);
        let hexagonal = Operation::parse("x-y,x,z+1/3").unwrap();
        assert_eq!(hexagonal.apply([0.5, 0.25, 0.0]), [0.25, 0.5, 1.0 / 3.0]);
        assert_eq!(Operation::parse("x,y,z"), Some(Operation::IDENTITY));
        assert_eq!(Operation::parse("1*x,1y,+z"), Some(Operation::IDENTITY));
        for wrong in [
            "",
            "x,y",
            "x,y,z,z",
            "x,y,0",
            "x,x,z",
            "x,y,w",
            "x,y,zz",
            "x,y,2z",
            "x,y,z+1/0",
            "x,y,1/2z1",
            "x,,z",
            "x y,y,z",
            "x,y,--z",
            "x,y,é",
        ] {
            assert_eq!(Operation::parse(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn every_space_group_closes() {
        // The product of two operations is an operation up to a lattice translation, and the order is that of the table.
        for hall_number in [1, 2, 81, 227, 435, 436, 488, 517, 525, 526, 530] {
            let operations = group_operations(hall_number).unwrap();
            let point = [0.1234, 0.3457, 0.5791];
            let images: Vec<[f64; 3]> = operations.iter().map(|o| o.apply(point)).collect();
            let same = |a: [f64; 3], b: [f64; 3]| (0..3).all(|k| ((a[k] - b[k]) - (a[k] - b[k]).round()).abs() < 1e-9);
            for (n, &image) in images.iter().enumerate() {
                assert!(images[..n].iter().all(|&other| !same(image, other)), "{hall_number}");
                let again = operations[n % operations.len()].apply(images[(7 * n + 3) % images.len()]);
                assert!(images.iter().any(|&other| same(again, other)), "{hall_number}");
            }
        }
        assert_eq!(group_operations(526).unwrap().len(), 192);
    }
}
