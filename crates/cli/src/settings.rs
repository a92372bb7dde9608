//! From what was asked for to what it means: models and threads.

use std::num::NonZeroUsize;
use std::sync::Arc;

use anyhow::{Context, Result};
use tesseral_atoms::{Evaluation, ForceError, ForceField, Spread, Structure};
use tesseral_infer::compiled::MemoryPlan;
use tesseral_infer::{Committee, DeviceChoice, Dtype, Engine, InferError, Options, Potential, PotentialField, machine};
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
    let memory = engine.memory.or_else(|| machine::available_memory().filter(|_| here));
    let kind = match engine.engine {
        EngineArg::Compiled => Engine::Compiled { exact_radial: engine.exact_radial },
        EngineArg::Differentiable => Engine::Differentiable,
    };
    Ok(Potential::new(
        artifact,
        &Options { dtype, head: head.map(str::to_owned), engine: kind, memory, device: engine.device.device.clone() },
    )?)
}

/// One potential, or a committee of several, for commands that move atoms.
pub(crate) struct Field {
    artifacts: Vec<Artifact>,
    members: Vec<Arc<Potential>>,
    computed: String,
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
        let artifacts = names.into_iter().map(artifact).collect::<Result<Vec<_>, _>>()?;
        let load =
            |artifact: &Artifact| -> Result<_> { Ok(Arc::new(potential(artifact, args.head.as_deref(), args.dtype, &args.engine)?)) };
        let members = artifacts.iter().map(load).collect::<Result<_>>()?;
        Ok(Self { artifacts, members, computed: computed(args), stop_above: args.stop_above })
    }

    /// What computes, so that a run is gone on with by nothing else: names and weights of the models, head, precision, engine, device.
    pub(crate) fn identity(&self) -> Result<String> {
        let models = self.artifacts.iter().map(|artifact| Ok(format!("{} [{}]", artifact.header().name, fingerprint(artifact)?)));
        Ok(format!("{} ({})", models.collect::<Result<Vec<_>>>()?.join(" + "), self.computed))
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
            [only] => Box::new(PotentialField::new(only.clone(), skin)),
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
        let committee = Committee::new(self.members.iter().map(|m| PotentialField::new(m.clone(), skin)).collect())?;
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

/// How it is computed: precision, device, and what is not the default.
fn computed(args: &FieldArgs) -> String {
    let dtype = match args.dtype {
        DtypeArg::F32 => "f32",
        DtypeArg::F64 => "f64",
    };
    let mut text = format!("{dtype} on {}", args.engine.device.device);
    if let Some(head) = &args.head {
        text += &format!(", head {head}");
    }
    if args.engine.engine == EngineArg::Differentiable {
        text += ", differentiable";
    }
    if args.engine.exact_radial {
        text += ", exact radial functions";
    }
    text
}
