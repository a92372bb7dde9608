//! From what was asked for to what it means: models and threads.

use std::num::NonZeroUsize;
use std::sync::Arc;

use anyhow::{Context, Result};
use tesseral_atoms::{Evaluation, ForceError, ForceField, Spread, Structure};
use tesseral_infer::compiled::MemoryPlan;
use tesseral_infer::{Dtype, Engine, Members, Options, Potential};
use tesseral_loader::{artifact, fingerprint};
use tesseral_potentials::artifact::Artifact;
use tesseral_train::TrainError;
use tesseral_train::communicator::{Communicator, threads_of_rank};

use crate::args::{DtypeArg, EngineArg, EngineArgs, FieldArgs};
use crate::errors::Hinted;

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

/// A potential ready to evaluate.
pub(crate) fn potential(artifact: &Artifact, head: Option<&str>, dtype: DtypeArg, engine: &EngineArgs) -> Result<Potential> {
    Ok(Potential::new(artifact, &options(head, dtype, engine)?)?)
}

fn options(head: Option<&str>, dtype: DtypeArg, engine: &EngineArgs) -> Result<Options> {
    if engine.exact_radial && engine.engine == EngineArg::Differentiable {
        let message = "--exact-radial is about the compiled engine: the differentiable one has no tables";
        return Err(Hinted::new(message).usage().into());
    }
    let options = Options {
        dtype: match dtype {
            DtypeArg::F32 => Dtype::F32,
            DtypeArg::F64 => Dtype::F64,
        },
        head: head.map(str::to_owned),
        engine: match engine.engine {
            EngineArg::Compiled => Engine::Compiled { exact_radial: engine.exact_radial },
            EngineArg::Differentiable => Engine::Differentiable,
        },
        memory: engine.memory,
        device: engine.device.device.clone(),
    };
    Ok(options.within_free_memory())
}

/// One potential, or a committee of several, for commands that move atoms.
pub(crate) struct Field {
    artifacts: Vec<Artifact>,
    members: Members,
    options: Options,
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
        let artifacts = names.into_iter().map(artifact).collect::<Result<Vec<_>, _>>()?;
        let options = options(args.head.as_deref(), args.dtype, &args.engine)?;
        let load = |artifact: &Artifact| Potential::new(artifact, &options).map(Arc::new);
        let members = Members::new(artifacts.iter().map(load).collect::<Result<_, _>>()?, args.stop_above);
        Ok(Self { artifacts, members, options })
    }

    /// What computes, so that a run is gone on with by nothing else.
    pub(crate) fn identity(&self) -> Result<String> {
        let fingerprints = self.artifacts.iter().map(fingerprint).collect::<Result<Vec<_>, _>>()?;
        let names = self.artifacts.iter().map(|artifact| artifact.header().name.as_str());
        Ok(tesseral_loader::identity(names.zip(fingerprints.iter().map(String::as_str)), &self.options))
    }

    /// Names of the models.
    pub(crate) fn name(&self) -> String {
        self.members().iter().map(|m| m.header().name.as_str()).collect::<Vec<_>>().join(" + ")
    }

    /// The potentials of the models.
    pub(crate) fn members(&self) -> &[Arc<Potential>] {
        self.members.potentials()
    }

    /// Something that moves atoms, with neighbours listed `skin` (Å) beyond the cutoff. A committee ends where `--stop-above` says.
    pub(crate) fn force_field(&self, skin: f64) -> Result<Box<dyn ForceField>> {
        Ok(self.members.force_field(skin)?)
    }

    /// Energies, forces and stresses of many structures, with the disagreement of a committee.
    pub(crate) fn evaluate(&self, structures: &[Structure]) -> Vec<Result<(Evaluation, Option<Spread>), ForceError>> {
        self.members.evaluate(structures)
    }

    /// A rough measure of the work for a structure.
    pub(crate) fn cost(&self, structure: &Structure) -> usize {
        self.members().iter().map(|m| m.cost(structure)).sum()
    }

    /// Whether all models know the elements of a structure, and it can be evaluated at all: before anything is written.
    pub(crate) fn check(&self, structure: &Structure) -> Result<()> {
        Ok(self.members.check(structure)?)
    }

    /// What evaluating a structure takes, estimated, of all models together; `None` where that is not known.
    pub(crate) fn memory(&self, structure: &Structure) -> Option<MemoryPlan> {
        let mut plans = self.members().iter().map(|m| m.memory(structure));
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
