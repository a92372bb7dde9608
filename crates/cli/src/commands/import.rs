//! `tesseral import`: a foreign checkpoint becomes an artifact.

use anyhow::Result;
use tesseral_potentials::artifact::Artifact;

use crate::args::ImportArgs;
use crate::commands::Outcome;
use crate::errors::Hinted;
use crate::output::Output;

pub(crate) fn run(args: &ImportArgs) -> Result<Outcome> {
    if args.output.extension().is_none_or(|extension| extension != "safetensors") {
        let hint = format!("write to {}", args.output.with_extension("safetensors").display());
        return Err(Hinted::new(format!("{} does not end in .safetensors", args.output.display())).hint(hint).usage().into());
    }
    let stem = args.output.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let name = args.name.clone().or(stem).unwrap_or_default();
    let imported = tesseral_import::import(&args.file)?;
    let artifact = named(&imported, name, args.licence.clone())?;
    artifact.save(&args.output)?;
    let header = artifact.header();
    tracing::info!("{}: {} with {} parameters", header.name, header.architecture_name(), artifact.num_parameters());
    let mut output = Output::default();
    output.line(format_args!("{}", args.output.display()));
    output.flush()?;
    Ok(Outcome::Success)
}

/// The same artifact under a name and a licence. Without a licence, the one in the checkpoint stays.
pub(crate) fn named(artifact: &Artifact, name: String, licence: Option<String>) -> Result<Artifact> {
    let mut header = artifact.header().clone();
    header.name = name;
    header.licence = licence.or(header.licence);
    Ok(artifact.with_header(header)?)
}
