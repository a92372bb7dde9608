//! `tesseral fetch`: the only command that uses the network.

use std::time::Instant;

use anyhow::{Context, Result};
use tesseral_models::{Cache, DEFAULT_MODEL, Entry, Manifest, Record};

use crate::args::FetchArgs;
use crate::commands::{Outcome, import};
use crate::errors::Hinted;
use crate::output::Output;
use crate::progress::{Progress, Unit};

pub(crate) fn run(args: &FetchArgs) -> Result<Outcome> {
    let manifest = tesseral_loader::manifest()?;
    // All names first: a typing error in the last one should not show after an hour of downloads.
    let mut entries = Vec::new();
    for name in &args.names {
        let entry = manifest.find(name).ok_or_else(|| unknown(&manifest, name))?;
        entries.push(entry);
    }
    let cache = Cache::of_user()?;
    let mut output = Output::default();
    for entry in entries {
        if entry.name == DEFAULT_MODEL {
            tracing::warn!("`{DEFAULT_MODEL}` is built in: there is nothing to fetch");
            continue;
        }
        if cache.contains(&entry.name) && !args.force {
            tracing::info!("`{}` is installed already; --force downloads it again", entry.name);
        } else {
            fetch(entry, &manifest, &cache)?;
        }
        output.line(format_args!("{}", cache.artifact(&entry.name).display()));
        output.flush()?;
    }
    Ok(Outcome::Success)
}

fn unknown(manifest: &Manifest, name: &str) -> Hinted {
    let near = manifest.suggestions(name);
    let hint = match near.as_slice() {
        [] => "`tesseral models` lists the known models".to_owned(),
        near => format!("did you mean `{}`? `tesseral models` lists all", near.join("` or `")),
    };
    Hinted::new(format!("no known model is called `{name}`")).hint(hint)
}

fn fetch(entry: &Entry, manifest: &Manifest, cache: &Cache) -> Result<()> {
    if let Some(licence) = manifest.licence(entry)
        && let Some(forbids) = &licence.forbids
    {
        let (name, url) = (&licence.name, &licence.url);
        tracing::warn!("`{}` comes under the {name} ({url}), which forbids {forbids}", entry.name);
    }
    let folder = cache.make_models_folder()?;
    let target = cache.artifact(&entry.name);
    let pinned = cache.record(&entry.name)?;
    let start = Instant::now();
    let mut bar = Progress::new(entry.name.clone(), Unit::Bytes, entry.bytes);
    let download = tesseral_models::download(entry, &folder, &mut |progress| {
        if let Some(total) = progress.total {
            bar.set_total(total);
        }
        bar.set(progress.done);
    });
    drop(bar);
    let download = download.map_err(|error| {
        let hint = error.hint(entry, &target);
        let hinted = Hinted::new(format!("cannot fetch `{}`", entry.name)).because(error);
        if let Some(hint) = hint { hinted.hint(hint) } else { hinted }
    })?;
    if !download.verified
        && let Some(record) = pinned.as_ref().filter(|record| record.sha256 != download.sha256)
    {
        let message =
            format!("the published file of `{}` has changed: its SHA-256 was {}, now it is {}", entry.name, record.sha256, download.sha256);
        let hint = format!("if that is expected, delete {} and fetch it again", target.with_extension("toml").display());
        return Err(Hinted::new(message).hint(hint).into());
    }
    let imported = tesseral_import::import(download.path()).with_context(|| format!("cannot import `{}`", entry.name))?;
    let mut artifact = import::named(&imported, entry.name.clone(), Some(entry.licence.clone()))?;
    // The source is what was published, not the temporary file it was read from.
    let mut header = artifact.header().clone();
    header.provenance.source = entry.source.describe();
    header.provenance.sha256 = Some(download.sha256.clone());
    artifact = artifact.with_header(header)?;
    artifact.save(&target)?;
    if !download.verified && pinned.is_none() {
        tracing::warn!("the SHA-256 of `{}` is not known beforehand; from now on it has to be {}", entry.name, download.sha256);
    }
    cache.write_record(&Record {
        name: entry.name.clone(),
        source: entry.source.describe(),
        sha256: download.sha256.clone(),
        licence: entry.licence.clone(),
    })?;
    tracing::info!("installed `{}` in {:.1} s", entry.name, start.elapsed().as_secs_f64());
    Ok(())
}
