//! The syntax of CIF 1.1: a data block as single items and loops.
//!
//! Grammar: S. R. Hall & B. McMahon (eds.), International Tables for Crystallography G (2005), ch. 2.2;
//! <https://www.iucr.org/resources/cif/spec/version1.1/cifsyntax>. Names are not case-sensitive; the dots of mmCIF names are
//! read as underscores, so both dictionaries share their names.

use std::collections::HashMap;

use crate::io::error::{Fault, Problem, shortened};

/// A value and its place.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Value {
    pub(super) text: String,
    /// In quotes or a text field: then `?` and `.` are themselves.
    quoted: bool,
    pub(super) line: u64,
}

impl Value {
    /// The text, unless it is `?` (unknown) or `.` (does not apply).
    pub(super) fn known(&self) -> Option<&str> {
        (self.quoted || !matches!(self.text.as_str(), "?" | ".")).then_some(self.text.as_str())
    }

    /// The number without its standard uncertainty: "5.43(1)" is 5.43.
    pub(super) fn number(&self, name: &str) -> Result<f64, Fault> {
        let text = self.text.split('(').next().unwrap_or_default();
        text.trim().parse().ok().filter(|x: &f64| x.is_finite()).ok_or_else(|| {
            let problem = Problem::BadValue { column: 1, name: name.to_owned(), found: shortened(&self.text), expected: "a number" };
            Fault::at(self.line, problem)
        })
    }
}

/// A table: names, and values row by row.
#[derive(Debug, Default)]
pub(super) struct Table {
    names: Vec<String>,
    values: Vec<Value>,
}

impl Table {
    /// Index of a column.
    pub(super) fn column(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|n| n == name)
    }

    /// The rows, one slice each.
    pub(super) fn rows(&self) -> impl Iterator<Item = &[Value]> {
        self.values.chunks_exact(self.names.len().max(1))
    }
}

/// One data block.
#[derive(Debug, Default)]
pub(super) struct Block {
    items: HashMap<String, Value>,
    tables: Vec<Table>,
}

impl Block {
    /// Parses the text of one block, `data_` line included, whose first line has the given number.
    pub(super) fn parse(text: &str, first_line: u64) -> Result<Self, Fault> {
        let mut block = Self::default();
        let mut tokens = Tokens { rest: text, line: first_line, line_start: true };
        let mut pending = tokens.next()?;
        while let Some((token, line)) = pending.take() {
            match token {
                Token::Name(name) => match tokens.next()? {
                    Some((Token::Value(text, quoted), line)) => {
                        block.items.entry(name).or_insert(Value { text, quoted, line });
                        pending = tokens.next()?;
                    }
                    other => {
                        let found = other.map_or_else(|| "the end of the block".to_owned(), |(token, _)| token.describe());
                        let problem = Problem::HeaderValue { key: name, reason: format!("has no value: {found} follows") };
                        return Err(Fault::at(line, problem));
                    }
                },
                Token::Loop => {
                    let mut table = Table::default();
                    pending = tokens.next()?;
                    while let Some((Token::Name(name), _)) = pending {
                        table.names.push(name);
                        pending = tokens.next()?;
                    }
                    while let Some((Token::Value(text, quoted), line)) = pending {
                        table.values.push(Value { text, quoted, line });
                        pending = tokens.next()?;
                    }
                    let (names, values) = (table.names.len(), table.values.len());
                    if names == 0 || values % names != 0 {
                        let first = table.names.first().map_or("", String::as_str);
                        let reason = format!("begins a loop of {names} names and {values} values, which do not divide");
                        let problem = Problem::HeaderValue { key: first.to_owned(), reason };
                        return Err(Fault::at(line, problem));
                    }
                    block.tables.push(table);
                }
                Token::Value(text, _) => {
                    let problem = Problem::Expected { expected: "a data name or loop_", found: shortened(&text) };
                    return Err(Fault::at(line, problem));
                }
                // Save frames belong to dictionaries; their delimiters and data_ hold nothing.
                Token::Delimiter => pending = tokens.next()?,
            }
        }
        Ok(block)
    }

    /// The first known value among names: of a single item, or of a loop with one row.
    pub(super) fn item(&self, names: &[&str]) -> Option<&Value> {
        names.iter().find_map(|&name| {
            let looped = || {
                let table = self.table(name).filter(|table| table.values.len() == table.names.len())?;
                table.values.get(table.column(name)?)
            };
            self.items.get(name).or_else(looped).filter(|value| value.known().is_some())
        })
    }

    /// The loop that has a column of this name.
    pub(super) fn table(&self, name: &str) -> Option<&Table> {
        self.tables.iter().find(|table| table.column(name).is_some())
    }

    /// All values of a name, looped or single.
    pub(super) fn all(&self, name: &str) -> Vec<&Value> {
        match self.table(name).and_then(|table| Some((table, table.column(name)?))) {
            Some((table, column)) => table.rows().map(|row| &row[column]).collect(),
            None => self.items.get(name).into_iter().collect(),
        }
    }

    /// Sites that are not in a loop, as a table of one row.
    pub(super) fn single_row(&self, prefix: &str) -> Table {
        let mut table = Table::default();
        for (name, value) in self.items.iter().filter(|(name, _)| name.starts_with(prefix)) {
            table.names.push(name.clone());
            table.values.push(value.clone());
        }
        table
    }
}

enum Token {
    Name(String),
    Value(String, bool),
    Loop,
    Delimiter,
}

impl Token {
    fn describe(self) -> String {
        match self {
            Self::Name(name) => name,
            Self::Value(text, _) => shortened(&text),
            Self::Loop => "loop_".to_owned(),
            Self::Delimiter => "a new block".to_owned(),
        }
    }
}

struct Tokens<'t> {
    rest: &'t str,
    line: u64,
    /// The rest begins at the start of a line.
    line_start: bool,
}

impl<'t> Tokens<'t> {
    fn advance(&mut self, bytes: usize) -> &'t str {
        let (taken, rest) = self.rest.split_at(bytes);
        self.line += taken.bytes().filter(|&b| b == b'\n').count() as u64;
        self.line_start = if taken.is_empty() { self.line_start } else { taken.ends_with('\n') };
        self.rest = rest;
        taken
    }

    fn next(&mut self) -> Result<Option<(Token, u64)>, Fault> {
        loop {
            let blank = self.rest.find(|c: char| !c.is_ascii_whitespace()).unwrap_or(self.rest.len());
            self.advance(blank);
            if !self.rest.starts_with('#') {
                break;
            }
            let end = self.rest.find('\n').unwrap_or(self.rest.len());
            self.advance(end);
        }
        let line = self.line;
        let Some(first) = self.rest.chars().next() else { return Ok(None) };
        let token = match first {
            ';' if self.line_start => {
                let Some(end) = self.rest.find("\n;") else {
                    return Err(Fault::at(line, Problem::UnterminatedQuote { quote: ';', character: 1 }));
                };
                let text = self.advance(end + 2);
                let text = text[1..end].strip_suffix('\r').unwrap_or(&text[1..end]);
                Token::Value(text.to_owned(), true)
            }
            '\'' | '"' => {
                let text = self.quoted(first)?;
                Token::Value(text.to_owned(), true)
            }
            _ => {
                let end = self.rest.find(|c: char| c.is_ascii_whitespace()).unwrap_or(self.rest.len());
                let word = self.advance(end);
                let lower = word.to_ascii_lowercase();
                if lower.starts_with('_') {
                    Token::Name(lower.replace('.', "_"))
                } else if lower == "loop_" {
                    Token::Loop
                } else if ["data_", "save_", "global_", "stop_"].iter().any(|keyword| lower.starts_with(keyword)) {
                    Token::Delimiter
                } else {
                    Token::Value(word.to_owned(), false)
                }
            }
        };
        Ok(Some((token, line)))
    }

    /// A quoted string: it ends at a quote before white space, on the same line.
    fn quoted(&mut self, quote: char) -> Result<&'t str, Fault> {
        let line_end = self.rest.find('\n').unwrap_or(self.rest.len());
        let content = &self.rest[1..line_end];
        let close = content
            .match_indices(quote)
            .map(|(at, _)| at)
            .find(|&at| content[at + 1..].chars().next().is_none_or(|c| c.is_ascii_whitespace()));
        match close {
            Some(at) => Ok(&self.advance(at + 2)[1..=at]),
            None => Err(Fault::at(self.line, Problem::UnterminatedQuote { quote, character: 1 })),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "data_Test # comment\n_A.b 'it's quoted' _c \"two # words\"\n_d\n;line one\n; not yet\n  two\n;\n\
        loop_ _x _y 1 '?' # two\n? 4(2)\n;\ntext\n;\n.\n_last ?\n";

    #[test]
    fn values_in_all_their_clothes() {
        // In the text field, the line "; not yet" ends it: what follows on that line are values again.
        let text = TEXT.replace("; not yet\n", " ; not yet\n");
        let block = Block::parse(&text, 10).unwrap();
        assert_eq!(block.items["_a_b"].text, "it's quoted");
        assert_eq!(block.items["_c"].text, "two # words");
        assert_eq!(block.items["_d"].text, "line one\n ; not yet\n  two");
        assert_eq!(block.items["_d"].line, 13);
        assert!(block.item(&["_last"]).is_none());
        let table = block.table("_y").unwrap();
        let rows: Vec<_> = table.rows().collect();
        assert_eq!(rows.len(), 3);
        assert_eq!(rows[0][1].known(), Some("?"));
        assert_eq!(rows[1][0].known(), None);
        assert_eq!(rows[1][1].number("_y").unwrap(), 4.0);
        assert_eq!(rows[2][0].text, "\ntext");
        assert_eq!(rows[1][1].line, 18);
        assert!(rows[2][0].number("_x").is_err());
    }

    #[test]
    fn syntax_errors_name_their_line() {
        for (text, line) in [
            ("data_\n_a\n_b 1", 2),
            ("data_\n_a", 2),
            ("data_\n\n_a 'open\n", 3),
            ("data_\n_a\n;open\nmore", 3),
            ("data_\nloop_\n_a\n_b\n1 2 3\n", 2),
            ("data_\nloop_\n1 2 3\n", 2),
            ("data_\nstray\n", 2),
        ] {
            let fault = Block::parse(text, 1).unwrap_err();
            assert_eq!(fault.line, Some(line), "{text:?}: {}", fault.problem);
        }
    }
}
