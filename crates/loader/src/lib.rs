//! What a user calls a model, found and opened: nothing (the built-in one), a known name, an artifact, or a foreign checkpoint.
//!
//! Everything that people load models with comes through [`artifact`], so that a name means the same everywhere.

mod error;

use std::fmt;
use std::io::Read;
use std::path::Path;

use sha2::{Digest, Sha256};
use tesseral_models::{Cache, Manifest, default_manifest};
use tesseral_potentials::artifact::{Artifact, Numbers};

pub use error::LoadError;

/// Environment variable that names the file of another manifest, for tests and for mirrors.
pub const MANIFEST_VARIABLE: &str = "TESSERAL_MANIFEST";

/// Extensions that make an argument a path even if there is no such file.
const MODEL_EXTENSIONS: [&str; 8] = ["safetensors", "model", "pth", "pt", "ckpt", "zip", "nequip", "pt2"];

/// The manifest of known models: that of [`MANIFEST_VARIABLE`], else the built-in one.
///
/// # Errors
/// [`LoadError::Manifest`] if it cannot be read.
pub fn manifest() -> Result<Manifest, LoadError> {
    Ok(match std::env::var_os(MANIFEST_VARIABLE) {
        Some(path) => Manifest::read(Path::new(&path))?,
        None => default_manifest()?,
    })
}

/// The artifact that a user means by `model`: without one the built-in model, else a known name, an artifact, or a foreign checkpoint, which is
/// imported in memory. Nothing is downloaded.
///
/// A name wins over a file of the same name; `./NAME` is the file.
///
/// # Errors
/// [`LoadError::Unknown`], [`LoadError::NotInstalled`], [`LoadError::NoFile`], and whatever is wrong with the file.
pub fn artifact(model: Option<&str>) -> Result<Artifact, LoadError> {
    let Some(model) = model else { return built_in() };
    if looks_like_path(model) {
        return open(Path::new(model));
    }
    let manifest = manifest()?;
    if let Some(entry) = manifest.find(model) {
        if entry.name == tesseral_models::DEFAULT_MODEL {
            return built_in();
        }
        let cache = Cache::of_user()?;
        if !cache.contains(&entry.name) {
            return Err(LoadError::NotInstalled { name: entry.name.clone() });
        }
        return Ok(Artifact::open(&cache.artifact(&entry.name))?);
    }
    // What `tesseral import -o` has put into the cache by hand.
    if let Ok(cache) = Cache::of_user()
        && cache.contains(model)
    {
        return Ok(Artifact::open(&cache.artifact(model))?);
    }
    if Path::new(model).exists() {
        return open(Path::new(model));
    }
    let near = manifest.suggestions(model).into_iter().map(str::to_owned).collect();
    Err(LoadError::Unknown { name: model.to_owned(), near })
}

/// The beginning of the SHA-256 of a model's tensors, twelve hexadecimal digits: two trainings of one name are told apart.
///
/// # Errors
/// [`LoadError::Potential`] if a tensor cannot be read.
pub fn fingerprint(artifact: &Artifact) -> Result<String, LoadError> {
    let mut hash = Sha256::new();
    for name in artifact.names() {
        hash.update(name.as_bytes());
        match artifact.tensor(name)?.numbers {
            Numbers::F32(numbers) => numbers.iter().for_each(|x| hash.update(x.to_le_bytes())),
            Numbers::F64(numbers) => numbers.iter().for_each(|x| hash.update(x.to_le_bytes())),
            Numbers::I64(numbers) => numbers.iter().for_each(|x| hash.update(x.to_le_bytes())),
        }
    }
    Ok(hash.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect())
}

/// What a run was computed with, in words: the names and [fingerprints](fingerprint) of its models, and how they compute. What it was begun with it is gone on with.
pub fn identity<'a>(models: impl IntoIterator<Item = (&'a str, &'a str)>, computed: &impl fmt::Display) -> String {
    let models: Vec<String> = models.into_iter().map(|(name, fingerprint)| format!("{name} [{fingerprint}]")).collect();
    format!("{} ({computed})", models.join(" + "))
}

fn built_in() -> Result<Artifact, LoadError> {
    Ok(Artifact::from_static(tesseral_models::default_artifact(), "the built-in model")?)
}

/// Whether an argument is the path of a model whether or not there is such a file; other names may be known models.
pub fn looks_like_path(model: &str) -> bool {
    let extension = Path::new(model).extension().and_then(|extension| extension.to_str());
    model.contains(['/', '\\']) || extension.is_some_and(|extension| MODEL_EXTENSIONS.contains(&extension))
}

/// Opens an artifact, or imports anything else in memory.
fn open(path: &Path) -> Result<Artifact, LoadError> {
    if is_safetensors(path)? {
        return Ok(Artifact::open(path)?);
    }
    tracing::info!("importing {}", path.display());
    Ok(tesseral_import::import(path)?)
}

/// Safetensors files have the length of their header in eight bytes, then `{`. What is cut off within that is left to the
/// reader that its name stands for.
fn is_safetensors(path: &Path) -> Result<bool, LoadError> {
    let named = path.extension().is_some_and(|extension| extension == "safetensors");
    if !path.exists() {
        return Err(LoadError::NoFile { path: path.to_owned() });
    }
    if path.is_dir() {
        return Err(LoadError::Folder { path: path.to_owned() });
    }
    let mut beginning = Vec::with_capacity(9);
    fs_err::File::open(path)?.take(9).read_to_end(&mut beginning)?;
    Ok(named || (beginning.len() == 9 && beginning[8] == b'{' && !beginning.starts_with(b"PK")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_paths() {
        for path in ["a.safetensors", "./sevennet-0", "dir/x", "x.model", "x.pth"] {
            assert!(looks_like_path(path), "{path}");
        }
        for name in ["sevennet-0", "mace-mp-0b3-medium", "7net-0_22May2024"] {
            assert!(!looks_like_path(name), "{name}");
        }
    }
}
