//! Pages of reports.

use std::borrow::Cow;
use std::path::Path;

use maud::{Markup, html};

use crate::Chart;
use crate::frame::{self, Document, Section};

/// A report: one HTML file that needs nothing but itself.
///
/// It is filled from top to bottom. What is added before the first section stands below the heading. Charts that follow one another share a row where the
/// window is wide enough.
#[derive(Debug, Clone, Default)]
pub struct Page {
    title: String,
    kicker: String,
    footer: String,
    intro: Vec<Block>,
    sections: Vec<(String, Vec<Block>)>,
}

#[derive(Debug, Clone)]
enum Block {
    Markup(Markup),
    Chart(Markup),
}

/// A table. A column whose cells are all numbers (or empty) is aligned to the right.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// What is shown. May be empty.
    pub caption: String,
    /// Names of columns. A second line is the unit: `energy\neV`.
    pub columns: Vec<String>,
    /// Cells by row; a short row ends in empty cells.
    pub rows: Vec<Vec<String>>,
}

impl Page {
    /// An empty page with a heading.
    pub fn new(title: impl Into<String>) -> Self {
        Self { title: title.into(), footer: format!("Tesseral {}", env!("CARGO_PKG_VERSION")), ..Self::default() }
    }

    /// A line above the heading that says what kind of report it is ("Phonons").
    pub fn kicker(&mut self, kind: &str) {
        kind.clone_into(&mut self.kicker);
    }

    /// The last line, instead of program and version.
    pub fn footer(&mut self, line: &str) {
        line.clone_into(&mut self.footer);
    }

    /// Names and values.
    pub fn facts(&mut self, rows: &[(&str, String)]) {
        let rows: Vec<(Cow<str>, Cow<str>)> = rows.iter().map(|(name, value)| (clean(name), clean(value))).collect();
        self.add(Block::Markup(frame::facts(&rows)));
    }

    /// Begins a section.
    pub fn section(&mut self, title: &str) {
        self.sections.push((title.to_owned(), Vec::new()));
    }

    /// A paragraph.
    pub fn text(&mut self, paragraph: &str) {
        self.add(Block::Markup(html! { p.prose { (clean(paragraph)) } }));
    }

    /// A table.
    pub fn table(&mut self, table: &Table) {
        self.add(Block::Markup(table.markup()));
    }

    /// A chart.
    pub fn chart(&mut self, chart: &Chart) {
        self.add(Block::Chart(chart.figure()));
    }

    fn add(&mut self, block: Block) {
        self.sections.last_mut().map_or(&mut self.intro, |(_, blocks)| blocks).push(block);
    }

    /// The page as text.
    pub fn html(&self) -> String {
        let sections = self.sections.iter().enumerate().map(|(i, (title, blocks))| Section {
            id: identifier(i, title),
            title: clean(title).into_owned(),
            body: body(blocks),
        });
        let document = Document {
            title: &clean(&self.title),
            kicker: &clean(&self.kicker),
            header: html! {},
            intro: html! { @if !self.intro.is_empty() { div.intro { (body(&self.intro)) } } },
            sections: sections.collect(),
            footer: &clean(&self.footer),
        };
        frame::document(&document).into_string()
    }

    /// Writes the page, complete or not at all.
    ///
    /// # Errors
    /// Of the file system, with the path.
    pub fn write(&self, path: impl AsRef<Path>) -> std::io::Result<()> {
        use std::io::Write as _;
        tesseral_atoms::io::write_atomically(path, |writer| writer.write_all(self.html().as_bytes()))
    }
}

/// Blocks one below the other, charts in rows.
fn body(blocks: &[Block]) -> Markup {
    let is_chart = |block: &Block| matches!(block, Block::Chart(_));
    html! {
        @for group in blocks.chunk_by(|a, b| is_chart(a) && is_chart(b)) {
            @match group {
                [Block::Markup(markup)] => (markup),
                charts => div.grid.level { @for chart in charts { @match chart { Block::Chart(markup) | Block::Markup(markup) => (markup) } } },
            }
        }
    }
}

/// A name for links: what of the title can be in one, and a number, because two sections may have the same title.
fn identifier(i: usize, title: &str) -> String {
    let words: Vec<&str> = title.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).take(4).collect();
    let words = words.join("-").to_ascii_lowercase();
    if words.is_empty() { format!("section-{}", i + 1) } else { format!("{words}-{}", i + 1) }
}

impl Table {
    fn markup(&self) -> Markup {
        let cell = |row: usize, column: usize| self.rows[row].get(column).map_or("", |cell| cell.trim());
        let numeric: Vec<bool> = (0..self.columns.len()).map(|j| (0..self.rows.len()).all(|i| is_number(cell(i, j)))).collect();
        let table = html! {
            table {
                thead {
                    tr {
                        @for (name, numeric) in self.columns.iter().zip(&numeric) {
                            @let (name, unit) = name.split_once('\n').unwrap_or((name, ""));
                            th.number[*numeric] scope="col" { (clean(name)) @if !unit.is_empty() { " " span.unit { (clean(unit)) } } }
                        }
                    }
                }
                tbody {
                    @for i in 0..self.rows.len() {
                        tr {
                            @for (j, numeric) in numeric.iter().enumerate() {
                                @if j == 0 && !numeric {
                                    th scope="row" { (clean(cell(i, j))) }
                                } @else {
                                    td.number[*numeric] { (clean(cell(i, j))) }
                                }
                            }
                        }
                    }
                }
            }
        };
        html! {
            @if !self.caption.is_empty() { h3 { (clean(&self.caption)) } }
            (frame::scrolling(&clean(&self.caption), self.rows.len(), &table))
        }
    }
}

/// Whether a cell looks like a number, or says that there is none.
fn is_number(cell: &str) -> bool {
    let digits = cell.trim_start_matches(['+', '-', '−', '±', '~', '<', '>', ' ']);
    let imaginary = digits.strip_suffix('i').unwrap_or(digits);
    digits.is_empty()
        || ["–", "—", "∞", "NaN", "nan", "not a number"].contains(&digits)
        || (imaginary.starts_with(|c: char| c.is_ascii_digit() || c == '.')
            && imaginary.chars().all(|c| !c.is_alphabetic() || matches!(c, 'e' | 'E')))
}

/// Text without characters that XML forbids: control characters and noncharacters.
pub(crate) fn clean(text: &str) -> Cow<'_, str> {
    let allowed = |c: char| !matches!(c, '\0'..='\u{8}' | '\u{b}' | '\u{c}' | '\u{e}'..='\u{1f}' | '\u{7f}' | '\u{fffe}' | '\u{ffff}');
    if text.chars().all(allowed) { Cow::Borrowed(text) } else { Cow::Owned(text.chars().filter(|c| allowed(*c)).collect()) }
}
