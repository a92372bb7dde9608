//! From what was asked for to what it means: models and threads.

use std::io::Read;
use std::num::NonZeroUsize;
use std::path::Path;

use anyhow::{Context, Result};
use tesseral_infer::{DeviceChoice, Dtype, Engine, Options, Potential};
use tesseral_models::{Cache, Manifest, default_manifest};
use tesseral_potentials::artifact::Artifact;
use tesseral_train::TrainError;
use tesseral_train::communicator::{Communicator, threads_of_rank};

use crate::args::{DtypeArg, EngineArg, EngineArgs, ModelArgs};
use crate::errors::Hinted;

/// File of another manifest, for tests and for mirrors.
const MANIFEST_VARIABLE: &str = "TESSERAL_MANIFEST";

/// Extensions that make an argument a path even if there is no such file.
const MODEL_EXTENSIONS: [&str; 8] = ["safetensors", "model", "pth", "pt", "ckpt", "zip", "nequip", "pt2"];

/// Starts as many threads as asked for; without a wish, one per core when they are first needed.
pub(crate) fn set_threads(threads: Option<NonZeroUsize>) -> Result<()> {
    let Some(threads) = threads else { return Ok(()) };
    rayon::ThreadPoolBuilder::new().num_threads(threads.get()).build_global().with_context(|| format!("cannot start {threads} threads"))
}

/// Gives each of several processes that train on one machine its share of the cores. All of them have to call it together.
pub(crate) fn share_cores(communicator: &dyn Communicator) -> Result<()> {
    let threads = threads_of_rank(communicator).map_err(TrainError::from)?;
    // Where a number of threads was asked for there are that many already.
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().ok();
    Ok(())
}

/// The manifest of known models.
pub(crate) fn manifest() -> Result<Manifest> {
    Ok(match std::env::var_os(MANIFEST_VARIABLE) {
        Some(path) => Manifest::read(Path::new(&path))?,
        None => default_manifest()?,
    })
}

/// A potential ready to evaluate.
pub(crate) fn potential(artifact: &Artifact, model: &ModelArgs, dtype: DtypeArg, engine: &EngineArgs) -> Result<Potential> {
    let dtype = match dtype {
        DtypeArg::F32 => Dtype::F32,
        DtypeArg::F64 => Dtype::F64,
    };
    if engine.exact_radial && engine.engine == EngineArg::Differentiable {
        let message = "--exact-radial is about the compiled engine: the differentiable one has no tables";
        return Err(Hinted::new(message).usage().into());
    }
    // What the machine has free says nothing of the memory of a GPU.
    let here = matches!(engine.device.device, DeviceChoice::Cpu | DeviceChoice::Auto);
    let memory = engine.memory.or_else(|| available_memory().filter(|_| here));
    let kind = match engine.engine {
        EngineArg::Compiled => Engine::Compiled { exact_radial: engine.exact_radial },
        EngineArg::Differentiable => Engine::Differentiable,
    };
    Ok(Potential::new(artifact, &Options { dtype, head: model.head.clone(), engine: kind, memory, device: engine.device.device.clone() })?)
}

/// Bytes that programs can still get, where the system tells.
fn available_memory() -> Option<usize> {
    let info = fs_err::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find(|l| l.starts_with("MemAvailable:"))?;
    line.split_whitespace().nth(1)?.parse::<usize>().ok().map(|kib| kib * 1024)
}

/// The artifact that a user means: nothing (the built-in one), a known name, an artifact, or a foreign checkpoint.
///
/// A name wins over a file of the same name; `./NAME` is the file.
pub(crate) fn artifact(model: Option<&str>) -> Result<Artifact> {
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
            let message = format!("model `{}` is not installed", entry.name);
            let hint = format!("`tesseral fetch {}` downloads, verifies and imports it", entry.name);
            return Err(Hinted::new(message).hint(hint).into());
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
    Err(unknown_model(&manifest, model).into())
}

/// The error for a name that is in no list.
pub(crate) fn unknown_model(manifest: &Manifest, name: &str) -> Hinted {
    let near = manifest.suggestions(name);
    let hint = if near.is_empty() {
        "`tesseral models` lists the known models; a file is given by its path".to_owned()
    } else {
        let near: Vec<String> = near.iter().map(|name| format!("`{name}`")).collect();
        format!("did you mean {}? `tesseral models` lists all, `tesseral fetch NAME` installs one", near.join(" or "))
    };
    Hinted::new(format!("no model is called `{name}`, and there is no such file")).hint(hint)
}

fn built_in() -> Result<Artifact> {
    Ok(Artifact::from_static(tesseral_models::default_artifact(), "the built-in model")?)
}

fn looks_like_path(model: &str) -> bool {
    let extension = Path::new(model).extension().and_then(|extension| extension.to_str());
    model.contains(['/', '\\']) || extension.is_some_and(|extension| MODEL_EXTENSIONS.contains(&extension))
}

/// Opens an artifact, or imports anything else in memory.
fn open(path: &Path) -> Result<Artifact> {
    if is_safetensors(path)? {
        return Ok(Artifact::open(path)?);
    }
    tracing::info!("importing {}", path.display());
    Ok(tesseral_import::import(path)?)
}

/// Safetensors files have the length of their header in eight bytes, then `{`. What is cut off within that is left to the
/// reader that its name stands for.
fn is_safetensors(path: &Path) -> Result<bool> {
    let named = path.extension().is_some_and(|extension| extension == "safetensors");
    if !path.exists() {
        return Err(Hinted::new(format!("there is no model file {}", path.display()))
            .hint("a model is given by its path, or by a name that `tesseral models` lists")
            .into());
    }
    if path.is_dir() {
        return Err(Hinted::new(format!("{} is a folder, not a model", path.display())).into());
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
