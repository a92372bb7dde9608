//! `tesseral models`: the known pretrained models.

use anyhow::Result;
use serde::Serialize;
use tesseral_models::{Cache, DEFAULT_MODEL};

use crate::args::ModelsArgs;
use crate::commands::Outcome;
use crate::output::{DIM, GOOD, HEADING, Output};

#[derive(Serialize)]
struct ModelJson<'a> {
    name: &'a str,
    aliases: &'a [String],
    family: &'a str,
    summary: &'a str,
    training: &'a str,
    licence: &'a str,
    forbids: Option<&'a str>,
    reference: &'a str,
    source: String,
    sha256: Option<&'a str>,
    status: &'a str,
}

pub(crate) fn run(args: &ModelsArgs) -> Result<Outcome> {
    let manifest = tesseral_loader::manifest()?;
    // Without a home folder nothing is installed, and the list is worth printing all the same.
    let cache = Cache::of_user().ok();
    let status = |name: &str| {
        if name == DEFAULT_MODEL {
            "built in"
        } else if cache.as_ref().is_some_and(|cache| cache.contains(name)) {
            "installed"
        } else {
            "-"
        }
    };
    let mut output = Output::default();
    if args.json {
        for entry in manifest.models() {
            output.json(&ModelJson {
                name: &entry.name,
                aliases: &entry.aliases,
                family: &entry.family,
                summary: &entry.summary,
                training: &entry.training,
                licence: &entry.licence,
                forbids: manifest.licence(entry).and_then(|licence| licence.forbids.as_deref()),
                reference: &entry.reference,
                source: entry.source.describe(),
                sha256: entry.sha256.as_deref(),
                status: status(&entry.name),
            })?;
        }
        output.flush()?;
        return Ok(Outcome::Success);
    }
    let width = manifest.models().iter().map(|entry| entry.name.len()).max().unwrap_or(0);
    output.line(format_args!("{HEADING}{:<width$}  {:<9}  {:<7}  {}{HEADING:#}", "name", "status", "licence", "what it is"));
    for entry in manifest.models() {
        let status = status(&entry.name);
        let style = if status == "-" { DIM } else { GOOD };
        let (name, licence, summary) = (&entry.name, &entry.licence, &entry.summary);
        output.line(format_args!("{name:<width$}  {style}{status:<9}{style:#}  {licence:<7}  {summary}"));
    }
    output.flush()?;
    for entry in manifest.models() {
        if let Some(licence) = manifest.licence(entry)
            && let Some(forbids) = &licence.forbids
        {
            tracing::info!("{} ({}) forbids {forbids}", entry.licence, licence.url);
            break;
        }
    }
    Ok(Outcome::Success)
}
