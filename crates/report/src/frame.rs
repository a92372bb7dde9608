//! What all pages have in common: the document around them, its style sheet, and parts that look alike everywhere.

use maud::{DOCTYPE, Markup, PreEscaped, html};

/// The style sheet of all pages. Classes `s0` to `s5` are the colours of series.
pub const STYLE: &str = include_str!("style.css");

/// Rows above which a table scrolls in itself.
pub const LONG_TABLE: usize = 14;

/// A document.
#[derive(Debug)]
pub struct Document<'a> {
    /// The heading.
    pub title: &'a str,
    /// What kind of page it is: a line above the heading, and part of the title of the window. May be empty.
    pub kicker: &'a str,
    /// What is below the heading, before the links.
    pub header: Markup,
    /// What is before the first section.
    pub intro: Markup,
    /// The sections.
    pub sections: Vec<Section>,
    /// The last line; may be empty.
    pub footer: &'a str,
}

/// A part of a document, with a heading.
#[derive(Debug)]
pub struct Section {
    /// Where links lead: letters, digits and hyphens, different for each section.
    pub id: String,
    /// The heading.
    pub title: String,
    /// What is below it.
    pub body: Markup,
}

/// The whole page. `maud` escapes everything that is put into it; nothing is marked as escaped already but the style sheet.
pub fn document(document: &Document) -> Markup {
    let Document { title, kicker, header, intro, sections, footer } = document;
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) @if !kicker.is_empty() { " – " (kicker.to_lowercase()) } }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    @if !kicker.is_empty() { p.kicker { (kicker) } }
                    h1 { (title) }
                    (header)
                    // A link to the only section helps nobody.
                    @if sections.len() > 1 { nav { @for section in sections { a href={ "#" (section.id) } { (section.title) } } } }
                }
                main {
                    (intro)
                    @for section in sections {
                        section id=(section.id) { h2 { (section.title) } (section.body) }
                    }
                }
                @if !footer.is_empty() { footer { (footer) } }
            }
        }
    }
}

/// Names and values, one below the other.
pub fn facts<N: AsRef<str>, V: AsRef<str>>(rows: &[(N, V)]) -> Markup {
    html! { dl { @for (name, value) in rows { div { dt { (name.as_ref()) } dd { (value.as_ref()) } } } } }
}

/// The line above a chart: what it shows, and what more there is to say.
pub fn caption(title: &str, detail: &str) -> Markup {
    html! { figcaption { (title) @if !detail.is_empty() { " " span.detail { (detail) } } } }
}

/// A piece of a line in the colour of a series, for legends.
pub fn swatch(colour: usize) -> Markup {
    html! {
        svg.swatch viewBox="0 0 22 10" aria-hidden="true" { path class={ "line s" (colour % COLOURS) } d="M1 5H21" {} }
    }
}

/// Colours of series there are.
pub const COLOURS: usize = 6;

/// The frame of a table, which scrolls if it does not fit.
pub fn scrolling(name: &str, rows: usize, table: &Markup) -> Markup {
    html! { div.scroll.long[rows > LONG_TABLE] tabindex="0" role="region" aria-label=(name) { (table) } }
}
