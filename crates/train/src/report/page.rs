//! What is on the page. `maud` escapes everything that is put into it.

use maud::{Markup, html};
use tesseral_report::format::{change, count, decimals, duration, fixed, number, scientific};
use tesseral_report::frame::{self, Document, Section, scrolling};

use super::build::{errors_table, forgetting_table};
use super::{Cell, Column, FindingRow, ForgettingRow, Report, SetRow, Severity, Table, chart};
use crate::metrics::{Quantity, SetErrors};

/// Frames of a finding that are shown at once; the others are behind a click.
const FEW_FRAMES: usize = 3;

pub(crate) fn page(report: &Report) -> Markup {
    let title = if report.title.is_empty() { "Training" } else { &report.title };
    frame::document(&Document {
        title,
        kicker: "Training report",
        header: facts(report),
        intro: headline(report),
        sections: sections(report),
        footer: "Energies in eV, forces in eV/Å, stresses in eV/Å³, positive when tensile; errors in the units given.",
    })
}

fn sections(report: &Report) -> Vec<Section> {
    let mut sections = Vec::new();
    let mut add = |id: &str, title: &str, there: bool, body: Markup| {
        if there {
            sections.push(Section { id: id.into(), title: title.into(), body });
        }
    };
    add("training", "Training", !report.curves.is_empty(), html! { div.grid { @for curve in &report.curves { (chart::lines(curve)) } } });
    add("errors", "Errors", !report.sets.is_empty(), errors(report));
    add("parity", "Predictions against references", !report.parity.is_empty(), by_set(&report.parity, |p| &p.set, chart::parity));
    let histograms = by_set(&report.histograms, |h| &h.set, chart::histogram);
    add("histograms", "Distribution of absolute errors", !report.histograms.is_empty(), histograms);
    add("fine-tuning", "Before and after fine-tuning", !report.forgetting.is_empty(), forgetting(&report.forgetting));
    add("data", "Data check", true, findings(&report.findings));
    add("events", "Events", !report.events.is_empty(), events(report));
    add("configuration", "Configuration", !report.config_toml.is_empty(), configuration(&report.config_toml));
    add("provenance", "Provenance", true, provenance(report));
    sections
}

/// One line of what matters most.
fn facts(report: &Report) -> Markup {
    let provenance = &report.provenance;
    let mut facts = Vec::new();
    facts.extend((!provenance.architecture.is_empty()).then(|| provenance.architecture.clone()));
    facts.extend(provenance.parameters.map(|n| format!("{} parameters", count(n))));
    facts.extend(provenance.wall_seconds.map(duration));
    facts.extend((!report.outcome.is_empty()).then(|| report.outcome.clone()));
    html! { @if !facts.is_empty() { p.facts { @for fact in &facts { span { (fact) } } } } }
}

/// The errors of the last set, large.
fn headline(report: &Report) -> Markup {
    let Some(SetRow { set, errors }) = report.sets.last() else { return html! {} };
    let cards = [Quantity::EnergyPerAtom, Quantity::Forces, Quantity::Stress].map(|quantity| (quantity, errors.of(quantity)));
    html! {
        div.cards {
            @for (quantity, figures) in cards {
                @if let Some(figures) = figures {
                    @let (unit, factor) = quantity.display_unit();
                    div.card {
                        p.what { (quantity.title()) " RMSE" }
                        p.value { (number(figures.rmse * factor)) " " span.unit { (unit) } }
                        p.detail {
                            "MAE " (number(figures.mae * factor))
                            @if let Some(relative) = figures.relative_rmse { @if quantity == Quantity::Forces { ", relative " (fixed(100.0 * relative, 1)) " %" } }
                        }
                    }
                }
            }
            div.card {
                p.what { "Measured on" }
                p.value.words { (set) }
                p.detail { (count(errors.frames)) " frames, " (count(errors.atoms)) " atoms" }
            }
        }
    }
}

fn errors(report: &Report) -> Markup {
    let rows: Vec<(&str, &SetErrors)> = report.sets.iter().map(|row| (row.set.as_str(), &row.errors)).collect();
    let table = errors_table("By set".into(), "set", &rows);
    html! {
        (self::table(&table))
        @for table in &report.tables { (self::table(table)) }
    }
}

/// Charts in rows of three, one row for each set.
fn by_set<T>(charts: &[T], set_of: impl Fn(&T) -> &str, draw: impl Fn(&T) -> Markup) -> Markup {
    let mut sets: Vec<&str> = Vec::new();
    for chart in charts {
        if !sets.contains(&set_of(chart)) {
            sets.push(set_of(chart));
        }
    }
    html! {
        @for set in sets {
            div.grid.three { @for chart in charts.iter().filter(|chart| set_of(chart) == set) { (draw(chart)) } }
        }
    }
}

/// The style in which all numbers of a column are written.
fn column_format(table: &Table, place: usize) -> impl Fn(f64) -> String {
    let numbers = table.rows.iter().filter_map(move |row| match row.cells.get(place) {
        Some(Cell::Number(value)) => Some(*value),
        _ => None,
    });
    let decimals = decimals(numbers);
    move |value| match decimals {
        _ if value == 0.0 => "0".to_owned(),
        Some(decimals) => fixed(value, decimals),
        None => scientific(value, 2),
    }
}

fn table(table: &Table) -> Markup {
    let formats: Vec<_> = (0..table.columns.len()).map(|place| column_format(table, place)).collect();
    let largest = |place: usize| {
        let numbers =
            table.rows.iter().filter_map(|row| if let Some(Cell::Number(value)) = row.cells.get(place) { Some(*value) } else { None });
        numbers.filter(|v| v.is_finite()).fold(0.0, f64::max)
    };
    let body = html! {
        table {
            thead {
                @if table.columns.iter().any(|column| !column.group.is_empty()) {
                    tr.groups {
                        td {}
                        @for columns in table.columns.chunk_by(|a, b| a.group == b.group) {
                            @let group = &columns[0].group;
                            @if group.is_empty() { td colspan=(columns.len()) {} } @else { th scope="colgroup" colspan=(columns.len()) { (group) } }
                        }
                    }
                }
                tr {
                    th scope="col" { (table.label) }
                    @for column in &table.columns { th.number scope="col" { (column.name) (unit(column)) } }
                }
            }
            tbody {
                @for row in &table.rows {
                    tr {
                        th scope="row" { (row.label) }
                        @for (place, (cell, column)) in row.cells.iter().zip(&table.columns).enumerate() {
                            (self::cell(cell, column, &formats[place], || largest(place)))
                        }
                    }
                }
            }
        }
    };
    html! { h3 { (table.title) } (scrolling(&table.title, table.rows.len(), &body)) }
}

fn unit(column: &Column) -> Markup {
    html! { @if !column.unit.is_empty() { " " span.unit { (column.unit) } } }
}

fn cell(cell: &Cell, column: &Column, format: impl Fn(f64) -> String, largest: impl Fn() -> f64) -> Markup {
    match cell {
        Cell::Empty => html! { td.number.empty { "–" } },
        Cell::Count(value) => html! { td.number { (count(*value)) } },
        Cell::Change(fraction) => html! { td.number.better[*fraction < 0.0].worse[*fraction > 0.0] { (change(*fraction)) } },
        Cell::Text(text) => html! { td { (text) } },
        Cell::Number(value) if column.bars => {
            let share = (value / largest()).clamp(0.0, 1.0);
            let share = if share.is_finite() { share } else { 0.0 };
            html! { td.number.bars style={ "--share:" (format!("{share:.3}")) } { span { (format(*value)) } } }
        }
        Cell::Number(value) => html! { td.number { (format(*value)) } },
    }
}

fn findings(findings: &[FindingRow]) -> Markup {
    let mut sorted: Vec<&FindingRow> = findings.iter().collect();
    sorted.sort_by_key(|finding| finding.severity);
    html! {
        @if sorted.is_empty() {
            p { "Nothing was found that somebody should look at." }
        } @else {
            ul.findings { @for finding in sorted { (self::finding(finding)) } }
        }
    }
}

fn finding(finding: &FindingRow) -> Markup {
    let (class, sign, name) = match finding.severity {
        Severity::Error => ("error", "✕", "Error"),
        Severity::Warning => ("warning", "!", "Warning"),
        Severity::Note => ("note", "i", "Note"),
    };
    let list = |frames: &[String]| html! { ul.frames { @for frame in frames { li { (frame) } } } };
    html! {
        li class=(class) {
            span.sign aria-hidden="true" { (sign) }
            div {
                p { strong { (name) ". " } (finding.message) }
                @if let Some(hint) = &finding.hint { p.hint { (hint) } }
                @if finding.frames.len() > FEW_FRAMES {
                    details { summary { (count(finding.frames.len() as u64)) " frames" } (list(&finding.frames)) }
                } @else if !finding.frames.is_empty() {
                    (list(&finding.frames))
                }
            }
        }
    }
}

/// Errors on each domain by time, one table for each way of fine-tuning and domain, with changes since before.
fn forgetting(rows: &[ForgettingRow]) -> Markup {
    let mut parts: Vec<(&str, &str)> = Vec::new();
    for row in rows {
        if !parts.contains(&(row.run.as_str(), row.set.as_str())) {
            parts.push((&row.run, &row.set));
        }
    }
    html! {
        p { "The same frames before, during and after. A change is relative to the errors of the checkpoint that the fine-tuning began with." }
        @for (run, set) in parts {
            @let rows: Vec<&ForgettingRow> = rows.iter().filter(|row| row.run == run && row.set == set).collect();
            (table(&forgetting_table(run, set, &rows)))
        }
    }
}

fn events(report: &Report) -> Markup {
    let table = html! {
        table {
            thead { tr { th.number scope="col" { "step" } th.number scope="col" { "epoch" } th scope="col" { "what" } } }
            tbody {
                @for event in &report.events {
                    tr { td.number { (count(event.step)) } td.number { (count(event.epoch)) } td { (event.message) } }
                }
            }
        }
    };
    scrolling("Events", report.events.len(), &table)
}

fn configuration(toml: &str) -> Markup {
    html! {
        details { summary { "Every setting of this run, as TOML" } pre tabindex="0" { code { (toml) } } }
    }
}

fn provenance(report: &Report) -> Markup {
    let provenance = &report.provenance;
    let text = |value: &str| Some(value.to_owned()).filter(|value| !value.is_empty());
    let mut rows: Vec<(&str, Option<String>)> = vec![
        ("Outcome", text(&report.outcome)),
        ("Architecture", text(&provenance.architecture)),
        ("Parameters", provenance.parameters.map(count)),
        ("Precision", text(&provenance.precision)),
        ("Seed", provenance.seed.map(|seed| seed.to_string())),
        ("Wall time", provenance.wall_seconds.map(duration)),
        ("Started", text(&provenance.started)),
        ("Machine", text(&provenance.machine)),
        ("Threads", provenance.threads.map(count)),
        ("Version", text(&provenance.version)),
        ("Commit", text(&provenance.commit)),
        ("Command", text(&provenance.command)),
    ];
    rows.extend(provenance.more.iter().map(|(name, value)| (name.as_str(), text(value))));
    let known: Vec<(&str, String)> = rows.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    frame::facts(&known)
}
