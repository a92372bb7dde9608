//! From what was asked for to what it means: models and threads.

use std::io::Read;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use tesseral_atoms::{Evaluation, ForceError, ForceField, Spread, Structure};
use tesseral_infer::compiled::MemoryPlan;
use tesseral_infer::{Committee, DeviceChoice, Dtype, Engine, InferError, Options, Potential, PotentialField};
use tesseral_models::{Cache, Manifest, default_manifest};
use tesseral_potentials::artifact::Artifact;
use tesseral_train::TrainError;
use tesseral_train::communicator::{Communicator, threads_of_rank};

use crate::args::{DtypeArg, EngineArg, EngineArgs, FieldArgs, ModelArgs};
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

/// One potential, or a committee of several, for commands that move atoms.
pub(crate) struct Field {
    members: Vec<Arc<Potential>>,
    stop_above: Option<f64>,
}

impl Field {
    /// Loads all models.
    pub(crate) fn new(args: &FieldArgs) -> Result<Self> {
        if args.stop_above.is_some() && args.models.len() < 2 {
            return Err(Hinted::new("--stop-above is about a committee: one model has nobody to disagree with")
                .hint("give several: -m A -m B")
                .usage()
                .into());
        }
        if let Some(limit) = args.stop_above.filter(|limit| !(*limit > 0.0 && limit.is_finite())) {
            return Err(Hinted::new(format!("--stop-above {limit}: a positive number of eV/Å is needed")).usage().into());
        }
        let names: Vec<Option<&str>> =
            if args.models.is_empty() { vec![None] } else { args.models.iter().map(|m| Some(m.as_str())).collect() };
        let load = |name: Option<&str>| -> Result<_> {
            let model = ModelArgs { model: name.map(str::to_owned), head: args.head.clone() };
            Ok(Arc::new(potential(&artifact(name)?, &model, args.dtype, &args.engine)?))
        };
        Ok(Self { members: names.into_iter().map(load).collect::<Result<_>>()?, stop_above: args.stop_above })
    }

    /// Names of the models.
    pub(crate) fn name(&self) -> String {
        self.members.iter().map(|m| m.header().name.as_str()).collect::<Vec<_>>().join(" + ")
    }

    /// How many models there are.
    pub(crate) fn members(&self) -> &[Arc<Potential>] {
        &self.members
    }

    /// Something that moves atoms, with neighbours listed `skin` (Å) beyond the cutoff. A committee ends where `--stop-above` says.
    pub(crate) fn force_field(&self, skin: f64) -> Result<Box<dyn ForceField>> {
        Ok(match self.members.as_slice() {
            [only] => Box::new(PotentialField::new(only.clone(), skin)?),
            _ => Box::new(self.committee(skin)?),
        })
    }

    /// Energies, forces and stresses of many structures, with the disagreement of a committee.
    pub(crate) fn evaluate(&self, structures: &[Structure]) -> Vec<Result<(Evaluation, Option<Spread>), ForceError>> {
        if let [only] = self.members.as_slice() {
            return only.evaluate(structures).into_iter().map(|result| result.map(|e| (e, None)).map_err(ForceError::new)).collect();
        }
        // Lists of neighbours are not kept: the skin is for nothing.
        match self.committee(0.0) {
            Ok(mut committee) => {
                committee.evaluate_with_spread(structures).into_iter().map(|result| result.map(|(e, spread)| (e, Some(spread)))).collect()
            }
            Err(error) => vec![Err(ForceError::new(error))],
        }
    }

    fn committee(&self, skin: f64) -> Result<Committee<PotentialField>, InferError> {
        let fields = self.members.iter().map(|m| PotentialField::new(m.clone(), skin)).collect::<Result<_, _>>()?;
        let committee = Committee::new(fields)?;
        Ok(match self.stop_above {
            None => committee,
            Some(limit) => committee.stop_above(limit),
        })
    }

    /// A rough measure of the work for a structure.
    pub(crate) fn cost(&self, structure: &Structure) -> usize {
        self.members.iter().map(|m| m.cost(structure)).sum()
    }

    /// Whether all models know the elements of a structure, and it can be evaluated at all: before anything is written.
    pub(crate) fn check(&self, structure: &Structure) -> Result<()> {
        if structure.is_empty() {
            return Err(InferError::NoAtoms.into());
        }
        structure.validate()?;
        for member in &self.members {
            let known = member.header().elements();
            if let Some(atom) = structure.numbers.iter().position(|z| !known.contains(z)) {
                let symbol = tesseral_atoms::elements::symbol(structure.numbers[atom]).unwrap_or("X");
                return Err(Hinted::new(format!("{} does not know {symbol} (atom {atom})", member.header().name))
                    .hint("`tesseral info MODEL` lists the elements of a model")
                    .into());
            }
        }
        Ok(())
    }

    /// What evaluating a structure takes, estimated, of all models together; `None` where that is not known.
    pub(crate) fn memory(&self, structure: &Structure) -> Option<MemoryPlan> {
        let mut plans = self.members.iter().map(|m| m.memory(structure));
        let first = plans.next()??;
        plans.try_fold(first, |sum, plan| {
            let plan = plan?;
            Some(MemoryPlan { edges: sum.edges.max(plan.edges), bytes: sum.bytes + plan.bytes, least: sum.least + plan.least, ..sum })
        })
    }

    /// Bytes that a structure takes.
    pub(crate) fn bytes(&self, structure: &Structure) -> Option<usize> {
        self.memory(structure).map(|plan| plan.bytes)
    }
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
