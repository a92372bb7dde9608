//! From configuration and data to a training that can begin, or go on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Var};
use sha2::{Digest, Sha256};
use tesseral_potentials::batch::species_of;
use tesseral_potentials::model::head_index;
use tesseral_potentials::{Architecture, Artifact, Header, Model, Parameters};

use super::checkpoints::RunCheckpoints;
use super::course::Course;
use super::{Files, Progress, Ready, Request, forgetting};
use crate::architecture::{self, TrainingStatistics, is_constant};
use crate::average::Average;
use crate::checkpoint::{Checkpoint, Found, TrainingState};
use crate::config::{FinetuneMode, Precision, ReplayLabels, TrainConfig};
use crate::data::{Dataset, Frame, FrameSource, Memory, MissingLabels};
use crate::doctor::{self, Subject};
use crate::error::TrainError;
use crate::finetune;
use crate::finetune::ewc::{self, Anchor, ByName};
use crate::finetune::lora::LowRank;
use crate::finetune::replay::{self, Joined, Mixture, UnderHead};
use crate::loader::Samples;
use crate::log::{LogWriter, Record, Resumed, Start};
use crate::optimizer::{Optimizer, matches};
use crate::ranks::Ranks;
use crate::schedule::{Horizon, Schedule};
use crate::statistics::Statistics;

/// What decides whether a run can go on with a configuration: everything but how long it goes, how often it saves, and where to.
fn hash(config: &TrainConfig) -> Result<String, TrainError> {
    let mut config = config.clone();
    config.output = Default::default();
    config.training.checkpoint = Default::default();
    config.training.max_time = None;
    config.training.patience = 0;
    config.training.threads = 1;
    // A longer training is the same training, unless its schedule or second stage is measured by the length.
    let by_length = config.schedule.depends_on_length() || config.loss.stage_two.is_some_and(|s| s.start_epoch.is_none());
    if !by_length {
        config.training.max_epochs = 1;
    }
    let text = config.to_toml()?;
    Ok(Sha256::digest(text.as_bytes()).iter().map(|b| format!("{b:02x}")).collect())
}

/// That all ranks were given the same configuration and find the same frames: each computes a part of every step. Files may lie elsewhere on each.
fn same_on_all_ranks(ranks: &Ranks, config: &TrainConfig, data: &Dataset) -> Result<(), TrainError> {
    if ranks.size() == 1 {
        return Ok(());
    }
    let mut common = TrainConfig { data: Default::default(), output: Default::default(), ..config.clone() };
    common.training.threads = 1;
    ranks.same("the configuration", common.to_toml()?.as_bytes())?;
    for (what, source) in [("train", &data.train), ("validate", &data.valid), ("test", &data.test)] {
        let mut hash = Sha256::new();
        for index in 0..source.len() {
            let frame = source.frame(index)?;
            hash.update((frame.structure.len() as u64).to_le_bytes());
            let numbers = frame.energy.iter().chain(frame.structure.positions.as_flattened());
            numbers.for_each(|x| hash.update(x.to_le_bytes()));
        }
        ranks.same(&format!("the set of frames to {what} on"), hash.finalize().as_slice())?;
    }
    Ok(())
}

/// Elements of all frames, ascending.
fn elements(sources: &[&dyn FrameSource]) -> Result<Vec<u8>, TrainError> {
    let mut present = [false; 256];
    for source in sources {
        for index in 0..source.len() {
            source.frame(index)?.structure.numbers.iter().for_each(|&z| present[usize::from(z)] = true);
        }
    }
    Ok((1..=u8::MAX).filter(|&z| present[usize::from(z)]).collect())
}

/// Names of the heads of all frames, in the order in which they are met; none if no frame names one.
fn heads(source: &dyn FrameSource) -> Result<Vec<String>, TrainError> {
    let mut heads: Vec<String> = Vec::new();
    for index in 0..source.len() {
        if let Some(head) = source.summary(index)?.head
            && !heads.iter().any(|h| **h == *head)
        {
            heads.push(head.to_string());
        }
    }
    Ok(heads)
}

/// That the model knows elements and heads of all frames: found out now rather than when the last of them is evaluated.
fn known_to_all(source: &dyn FrameSource, header: &Header) -> Result<(), TrainError> {
    for index in 0..source.len() {
        known(&*source.frame(index)?, header)?;
    }
    Ok(())
}

/// That the model knows elements and head of a frame.
fn known(frame: &Frame, header: &Header) -> Result<(), TrainError> {
    let of_frame = |source| TrainError::Frame { origin: frame.origin.clone(), source };
    head_index(header, frame.head.as_deref()).map_err(of_frame)?;
    species_of(&frame.structure, header.elements()).map_err(of_frame)?;
    Ok(())
}

/// An untrained model for the data.
fn untrained(config: &TrainConfig, data: &Dataset) -> Result<Artifact, TrainError> {
    let model =
        config.model.as_ref().ok_or_else(|| TrainError::Unsupported { what: "there is neither a model nor a foundation".into() })?;
    let heads = heads(&*data.train)?;
    let elements = elements(&[&*data.train, &*data.valid])?;
    let of_head = |head: Option<&str>| Statistics::new(&*data.train, &data.isolated, head, model.cutoff(), &config.statistics);
    let all = of_head(None)?;
    let by_head = if heads.is_empty() { vec![all.clone()] } else { heads.iter().map(|h| of_head(Some(h))).collect::<Result<_, _>>()? };
    let statistics = TrainingStatistics {
        e0s: by_head.iter().map(|s| elements.iter().map(|z| s.e0s.get(z).copied().unwrap_or(0.0)).collect()).collect(),
        scale: by_head.iter().map(|s| s.scale).collect(),
        shift: by_head.iter().map(|s| s.mean).collect(),
        avg_num_neighbors: all.avg_num_neighbors,
        elements,
    };
    Ok(architecture::build(model, &statistics, &heads, config.training.seed, &config.output.name)?)
}

/// Names of the fields that a model embeds.
fn fields(config: &TrainConfig, foundation: Option<&Artifact>) -> Vec<String> {
    match foundation.map(|a| &a.header().architecture) {
        Some(Architecture::Mace(c)) => c.fields.iter().map(|f| f.name.clone()).collect(),
        Some(Architecture::Nequip(_)) => Vec::new(),
        None => config.model.as_ref().map(|m| m.fields()).unwrap_or_default(),
    }
}

/// Whether a tensor is trained.
fn is_trained(config: &TrainConfig, name: &str) -> bool {
    let frozen = config.finetune.mode == FinetuneMode::Frozen && config.finetune.freeze.iter().any(|p| matches(p, name));
    let by_model = match &config.model {
        Some(model) if config.finetune.foundation.is_none() => model.is_trained(name),
        _ => !is_constant(name),
    };
    by_model && !frozen
}

/// Frames of the old domain.
#[derive(Default)]
struct OldDomain {
    /// Trained along.
    replay: Memory,
    /// To measure forgetting on, by name.
    forgetting: Vec<(String, Arc<dyn FrameSource>)>,
}

impl OldDomain {
    fn read(config: &TrainConfig, foundation: Option<&Artifact>, initial: &Artifact, fields: &[String]) -> Result<Self, TrainError> {
        let Some(foundation) = foundation else { return Ok(Self::default()) };
        let finetune = &config.finetune;
        let header = initial.header();
        // A head that is the only one needs no name, until another one is added.
        let only = if let [head] = foundation.header().heads() { Some(head.as_str()) } else { None };
        let head = finetune.old_head.as_deref().or(only);
        let read = |files: &[PathBuf], masked: bool| -> Result<Vec<Frame>, TrainError> {
            let frames = replay::read(files, &finetune.keys, head, masked, fields)?;
            frames.iter().try_for_each(|frame| known(frame, header))?;
            Ok(frames)
        };
        let mut old = Self::default();
        if !finetune.replay.files.is_empty() {
            let masked = finetune.replay.labels == ReplayLabels::Foundation || config.data.missing_labels == MissingLabels::Mask;
            let frames = read(&finetune.replay.files, masked)?;
            old.replay = replay::label(frames, finetune.replay.labels, foundation, initial)?.into();
        }
        for path in &finetune.forgetting {
            let mut frames = read(std::slice::from_ref(path), true)?;
            replay::shift_energies(&mut frames, foundation, initial)?;
            let file = path.file_name().map_or_else(|| path.display().to_string(), |n| n.to_string_lossy().into_owned());
            let name = if finetune.forgetting.len() == 1 { "old domain".to_owned() } else { format!("old domain, {file}") };
            old.forgetting.push((name, Arc::new(Memory::from(frames))));
        }
        Ok(old)
    }
}

/// The Fisher information that the run has kept, or what `of_old` finds, which is kept then.
fn kept_fisher(
    path: &Path,
    hash: &str,
    variables: &BTreeMap<String, Var>,
    resume: bool,
    of_old: impl FnOnce() -> Result<ByName, TrainError>,
) -> Result<ByName, TrainError> {
    if resume && path.exists() {
        let kept = Checkpoint::read(path)?;
        kept.expect_config(hash, path)?;
        return Ok(ewc::from_tensors(kept.section(FISHER), variables)?);
    }
    let fisher = of_old()?;
    let mut kept = Checkpoint::new(TrainingState { config_hash: hash.to_owned(), ..TrainingState::default() });
    kept.insert(FISHER, ewc::to_tensors(&fisher, variables))?;
    let bytes = kept.encode()?;
    tesseral_atoms::io::write_atomically(path, |w| std::io::Write::write_all(w, &bytes))
        .map_err(|source| TrainError::Write { path: path.to_owned(), source })?;
    Ok(fisher)
}

/// Section of the file of the Fisher information.
const FISHER: &str = "fisher";

/// Makes everything ready. Of several ranks the first one writes, and makes what is not certain to be the same bits on other machines; all read the data.
pub(super) fn begin(ranks: &Arc<Ranks>, request: Request<'_>, tell: &mut (dyn FnMut(Progress<'_>) + Send)) -> Result<Course, TrainError> {
    let Request { config, foundation, resume, mut provenance } = request;
    let files = Files::new(config);
    let write = |path: std::path::PathBuf, source| TrainError::Write { path, source };
    if ranks.is_first() {
        begin_folder(&files, resume)?;
    }
    let keep = config.training.checkpoint.keep.try_into().unwrap_or(std::num::NonZeroUsize::MIN);
    let checkpoints = RunCheckpoints::open(ranks, &files.checkpoints(), keep)?;
    ranks.check()?;

    let fields = fields(config, foundation.as_ref());
    let load = || -> Result<_, TrainError> { Ok(Dataset::load(&config.data, &fields)?) };
    // One is enough to fill a cache.
    let mut data = if config.data.cache.is_some() { ranks.first_then_others(load)? } else { load()? };
    same_on_all_ranks(ranks, config, &data)?;
    if foundation.is_some() && config.finetune.mode == FinetuneMode::Multihead {
        let head: Arc<str> = config.finetune.head.as_str().into();
        for source in [&mut data.train, &mut data.valid, &mut data.test] {
            *source = Arc::new(UnderHead { source: source.clone(), head: head.clone() });
        }
    }
    let known = foundation.as_ref().map(|a| a.header().elements().to_vec());
    let mut findings = None;
    let logged_before = resume && std::fs::metadata(files.log()).is_ok_and(|log| log.len() > 0);
    if !resume && ranks.is_first() {
        let mut subject = Subject::new(&*data.train);
        subject.valid = Some(&*data.valid);
        subject.elements = known.as_deref();
        subject.keys = Some(&data.keys);
        let found = doctor::examine(&subject, &config.doctor)?;
        tell(Progress::Checked(&found));
        if found.has_errors() {
            let errors = found.of(doctor::Severity::Error).count();
            return Err(TrainError::Unfit { errors });
        }
        findings = Some(found);
    }

    let found = if resume { checkpoints.latest()? } else { None };
    let make_initial = || -> Result<_, TrainError> {
        if resume {
            return Ok(Artifact::open(&files.initial())?);
        }
        let artifact = match &foundation {
            Some(foundation) => finetune::prepared(foundation, config, &data)?,
            None => untrained(config, &data)?,
        };
        artifact.save(&files.initial())?;
        Ok(artifact)
    };
    let initial = ranks
        .made_by_first(&files.initial(), make_initial, |bytes| Ok(Artifact::from_bytes(bytes, &files.initial().display().to_string())?))?;
    for source in [&data.train, &data.valid, &data.test] {
        known_to_all(&**source, initial.header())?;
    }
    let old = OldDomain::read(config, foundation.as_ref(), &initial, &fields)?;
    let dtype = match config.training.precision {
        Precision::F32 => DType::F32,
        Precision::F64 => DType::F64,
    };
    let device = Device::Cpu;
    let maps = match (&foundation, config.finetune.mode) {
        (Some(_), FinetuneMode::Lora) => {
            let parameters = Parameters::frozen(&initial, dtype, &device);
            Model::build(&initial, &parameters)?;
            Some(parameters.linear_maps())
        }
        _ => None,
    };
    let of_name = |name: &str| is_trained(config, name) && maps.as_ref().is_none_or(|maps| maps.contains_key(name));
    let parameters = Parameters::trainable_where(&initial, dtype, &device, &of_name);
    let model = Model::build(&initial, &parameters)?;
    let weights: BTreeMap<String, Var> = parameters.into_variables();
    let low_rank = maps.map(|maps| LowRank::new(config.finetune.lora, &weights, &maps, config.training.seed)).transpose()?;
    let variables = low_rank.as_ref().map_or_else(|| weights.clone(), LowRank::variables);
    let counts = (variables.values().map(|v| v.elem_count()).sum(), initial.num_parameters());

    let optimizer = Optimizer::new(&config.optimizer, &variables)?;
    if optimizer.needs_function() {
        return Err(TrainError::Unsupported {
            what: "optimizer.kind: `lbfgs` trains whole data sets at once, which is not there so far".into(),
        });
    }
    let horizon = Horizon { steps: None, epochs: Some(config.training.max_epochs as u64) };
    let schedule = Schedule::new(&config.schedule, config.optimizer.learning_rate, horizon)?;
    let average = if config.average.enabled { Some(Average::new(&config.average, &variables)?) } else { None };
    let samples = |source: &Arc<dyn FrameSource>| Arc::new(Samples::new(source.clone(), initial.header().clone()));
    provenance.seed = Some(config.training.seed);
    provenance.parameters = Some(counts.0 as u64);
    provenance.precision = dtype.as_str().to_owned();
    provenance.threads = Some(rayon::current_num_threads() as u64);
    provenance.architecture =
        initial.header().summary().into_iter().map(|(label, value)| format!("{label}: {value}")).collect::<Vec<_>>().join("; ");

    let mixture = Mixture::new(data.train.len(), old.replay.len(), config.finetune.replay.ratio);
    let joined: Arc<dyn FrameSource> = Arc::new(Joined { first: data.train.clone(), second: Arc::new(old.replay) });
    let train = samples(if mixture.old > 0 { &joined } else { &data.train });
    let hash = hash(config)?;
    let anchor = match (&foundation, config.finetune.mode) {
        (Some(_), FinetuneMode::Ewc) => {
            let path = files.fisher();
            let range = mixture.new..train.len();
            let of_old = || ewc::fisher(&model, &variables, &train, range.clone(), &config.loss, config.loss.weights);
            let fisher = ranks.made_by_first(
                &path,
                || kept_fisher(&path, &hash, &variables, resume, of_old),
                |bytes| Ok(ewc::from_tensors(Checkpoint::decode(&bytes, &path)?.section(FISHER), &variables)?),
            )?;
            Some(Anchor::new(config.finetune.ewc_weight, &variables, fisher)?)
        }
        _ => None,
    };
    let log = if !config.output.log || !ranks.is_first() {
        None
    } else if resume {
        Some(LogWriter::append(files.log())?)
    } else {
        Some(LogWriter::create(files.log())?)
    };
    let before = if resume && log.is_some() { forgetting::before(&files.log())? } else { Vec::new() };
    let mut course = Course {
        ranks: ranks.clone(),
        train,
        mixture,
        valid: samples(&data.valid),
        old: old.forgetting.into_iter().map(|(name, frames)| (name, samples(&frames))).collect(),
        before,
        anchor,
        low_rank,
        weights,
        data,
        hash,
        config: config.clone(),
        files,
        initial,
        model,
        variables,
        optimizer,
        schedule,
        average,
        checkpoints,
        log,
        position: Default::default(),
    };
    if !logged_before && ranks.is_first() {
        let toml = config.to_toml()?;
        let path = course.files.config();
        tesseral_atoms::io::write_atomically(&path, |w| std::io::Write::write_all(w, toml.as_bytes())).map_err(|e| write(path, e))?;
        course.record(Record::Start(Box::new(Start { name: config.output.name.clone(), provenance, config: toml })))?;
        for finding in findings.iter().flat_map(|f| &f.findings) {
            course.record(Record::Finding(finding.into()))?;
        }
    }
    if resume {
        course.go_on(found)?;
    }
    let ready = Ready {
        folder: course.files.folder().to_owned(),
        frames: (course.mixture.new, course.valid.len()),
        replayed: course.mixture.replayed,
        parameters: counts,
        epochs: config.training.max_epochs,
        done: (course.position.step, course.position.epoch),
    };
    tell(Progress::Ready(&ready));
    Ok(course)
}

/// Takes the folder of a run.
fn begin_folder(files: &Files, resume: bool) -> Result<(), TrainError> {
    // What a run leaves that never began (a folder, the model it would have begun with) is none.
    let is_checkpoint =
        |entry: std::io::Result<std::fs::DirEntry>| entry.is_ok_and(|e| e.file_name().to_string_lossy().starts_with("checkpoint-"));
    let exists = files.log().exists() || std::fs::read_dir(files.checkpoints()).is_ok_and(|mut entries| entries.any(is_checkpoint));
    let path = || files.folder().to_owned();
    match (resume, exists) {
        (true, false) => return Err(TrainError::NothingToResume { path: path() }),
        (false, true) => return Err(TrainError::Exists { path: path() }),
        _ => {}
    }
    // Whether results can be written is found out before hours are spent on them.
    fs_err::create_dir_all(files.folder()).map_err(|source| TrainError::Write { path: path(), source })
}

impl Course {
    /// Takes up the newest checkpoint; without one the run is at its beginning.
    fn go_on(&mut self, found: Option<Found>) -> Result<(), TrainError> {
        let name = match found {
            Some(found) => {
                found.checkpoint.expect_config(&self.hash, &found.path)?;
                self.load(&found.checkpoint)?;
                found.path.display().to_string()
            }
            None => "the beginning".to_owned(),
        };
        let (step, epoch) = (self.position.step, self.position.epoch);
        self.record(Record::Resumed(Resumed { step, epoch, checkpoint: name }))
    }
}
