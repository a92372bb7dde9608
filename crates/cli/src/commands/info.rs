//! `tesseral info`: what a model says about itself.

use anyhow::Result;
use serde::Serialize;
use tesseral_atoms::elements;
use tesseral_potentials::header::Header;

use crate::args::InfoArgs;
use crate::commands::Outcome;
use crate::output::{DIM, HEADING, Output};

#[derive(Serialize)]
struct InfoJson<'a> {
    name: &'a str,
    architecture: &'a str,
    cutoff: f64,
    layers: usize,
    parameters: usize,
    elements: Vec<&'static str>,
    heads: &'a [String],
    licence: Option<&'a str>,
    source: &'a str,
    sha256: Option<&'a str>,
    producer: &'a str,
    header: &'a Header,
}

pub(crate) fn run(args: &InfoArgs) -> Result<Outcome> {
    let artifact = tesseral_loader::artifact(args.model.as_deref())?;
    let header = artifact.header();
    let mut output = Output::default();
    if args.json {
        output.json(&InfoJson {
            name: &header.name,
            architecture: header.architecture_name(),
            cutoff: header.cutoff(),
            layers: header.num_layers(),
            parameters: artifact.num_parameters(),
            elements: header.elements().iter().filter_map(|&z| elements::symbol(z)).collect(),
            heads: header.heads(),
            licence: header.licence.as_deref(),
            source: &header.provenance.source,
            sha256: header.provenance.sha256.as_deref(),
            producer: &header.provenance.producer,
            header,
        })?;
        output.flush()?;
        return Ok(Outcome::Success);
    }
    let mut rows = vec![("name".to_owned(), header.name.clone())];
    rows.extend(header.summary());
    rows.push(("parameters".to_owned(), artifact.num_parameters().to_string()));
    rows.push(("elements".to_owned(), element_ranges(header.elements())));
    if !header.heads().is_empty() {
        rows.push(("heads".to_owned(), header.heads().join(", ")));
    }
    rows.push(("licence".to_owned(), header.licence.clone().unwrap_or_else(|| "not stated".to_owned())));
    rows.push(("source".to_owned(), header.provenance.source.clone()));
    if let Some(sha256) = &header.provenance.sha256 {
        rows.push(("sha256".to_owned(), sha256.clone()));
    }
    rows.push(("producer".to_owned(), header.provenance.producer.clone()));
    rows.extend(header.provenance.notes.iter().map(|note| ("note".to_owned(), note.clone())));
    let width = rows.iter().map(|(label, _)| label.chars().count()).max().unwrap_or(0);
    for (i, (label, value)) in rows.iter().enumerate() {
        let style = if i == 0 { HEADING } else { anstyle::Style::new() };
        output.line(format_args!("{DIM}{label:<width$}{DIM:#}  {style}{value}{style:#}"));
    }
    output.flush()?;
    Ok(Outcome::Success)
}

/// "89: H–Ra, Ac, Th": how many elements, and which, neighbours in the periodic table drawn together.
fn element_ranges(numbers: &[u8]) -> String {
    let mut sorted = numbers.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    let symbol = |z: u8| elements::symbol(z).unwrap_or("?");
    let runs: Vec<String> = sorted
        .chunk_by(|a, b| a + 1 == *b)
        .flat_map(|run| match run {
            [first, _, .., last] => vec![format!("{}–{}", symbol(*first), symbol(*last))],
            few => few.iter().map(|&z| symbol(z).to_owned()).collect(),
        })
        .collect();
    format!("{}: {}", sorted.len(), runs.join(", "))
}

#[cfg(test)]
mod tests {
    use super::element_ranges;

    #[test]
    fn runs_of_elements() {
        assert_eq!(element_ranges(&[8, 1, 6, 7]), "4: H, C–O");
        assert_eq!(element_ranges(&[1]), "1: H");
        assert_eq!(element_ranges(&[14, 13]), "2: Al, Si");
        assert_eq!(element_ranges(&[]), "0: ");
    }
}
