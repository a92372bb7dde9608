//! From configuration and data to a training that can begin, or go on.

use std::collections::{BTreeMap, BTreeSet};
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
use crate::checkpoint::{self, Checkpoint, Found, TrainingState};
use crate::config::{FinetuneMode, Precision, ReplayLabels, TrainConfig, TrainingDevice};
use crate::data::{Dataset, Frame, FrameSource, Memory, MissingLabels, UntilStopped, elements_of};
use crate::doctor::{self, Subject};
use crate::error::TrainError;
use crate::finetune;
use crate::finetune::elements::{Added, rows_of_new};
use crate::finetune::ewc::{self, Anchor, ByName};
use crate::finetune::lora::LowRank;
use crate::finetune::replay::{self, Joined, Mixture, UnderHead};
use crate::loader::Samples;
use crate::log::{self, LogWriter, Record, Resumed, Start};
use crate::optimizer::{Optimizer, matches};
use crate::ranks::Ranks;
use crate::schedule::{Horizon, Schedule};
use crate::statistics::Statistics;
use crate::stop::Stop;
use crate::tensorboard::TensorBoard;

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
fn same_on_all_ranks(ranks: &Ranks, config: &TrainConfig, data: &Dataset, stop: Stop<'_>) -> Result<(), TrainError> {
    if ranks.size() == 1 {
        return Ok(());
    }
    let mut common = TrainConfig { data: Default::default(), output: Default::default(), ..config.clone() };
    common.training.threads = 1;
    ranks.same("the configuration", common.to_toml()?.as_bytes())?;
    stop.check()?;
    for (what, source) in [("train", &data.train), ("validate", &data.valid), ("test", &data.test)] {
        let mut hash = Sha256::new();
        for index in 0..source.len() {
            let frame = source.frame(index)?;
            hash.update((frame.structure.len() as u64).to_le_bytes());
            let numbers = frame.energy.iter().chain(frame.structure.positions.as_flattened());
            numbers.for_each(|x| hash.update(x.to_le_bytes()));
        }
        ranks.same(&format!("the set of frames to {what} on"), hash.finalize().as_slice())?;
        stop.check()?;
    }
    Ok(())
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
        known(&*source.frame(index)?, header, header.elements())?;
    }
    Ok(())
}

/// That a frame has a head of the model and no elements but these.
fn known(frame: &Frame, header: &Header, elements: &[u8]) -> Result<(), TrainError> {
    let of_frame = |source| TrainError::Frame { origin: frame.origin.clone(), source };
    head_index(header, frame.head.as_deref()).map_err(of_frame)?;
    species_of(&frame.structure, elements).map_err(of_frame)?;
    Ok(())
}

/// An untrained model for the data.
fn untrained(config: &TrainConfig, data: &Dataset, stop: Stop<'_>) -> Result<Artifact, TrainError> {
    let model =
        config.model.as_ref().ok_or_else(|| TrainError::Unsupported { what: "there is neither a model nor a foundation".into() })?;
    let (train, valid) = (UntilStopped { source: &*data.train, stop }, UntilStopped { source: &*data.valid, stop });
    let heads = heads(&train)?;
    let elements = elements_of(&[&train, &valid])?;
    let of_head = |head: Option<&str>| Statistics::new(&train, &data.isolated, head, model.cutoff(), &config.statistics);
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

/// That every pattern of parameters to freeze names some: a slip of the pen would freeze nothing.
fn check_frozen(config: &TrainConfig, artifact: &Artifact) -> Result<(), TrainError> {
    let finetune = &config.finetune;
    let idle = |pattern: &&String| !artifact.names().any(|name| matches(pattern, name));
    match finetune.freeze.iter().find(idle).filter(|_| finetune.mode == FinetuneMode::Frozen) {
        Some(pattern) => Err(TrainError::Finetune {
            what: format!("finetune.freeze: no parameter matches `{pattern}`"),
            hint: "parameters have names such as embedding.weight and layers.0.radial.1.weight; layers.*.radial freezes all radial networks",
        }),
        None => Ok(()),
    }
}

/// Names of files of the old domain in logs and tables.
fn names_of_old(files: &[PathBuf]) -> Vec<String> {
    let short = |path: &PathBuf| path.file_name().map_or_else(|| path.display().to_string(), |n| n.to_string_lossy().into_owned());
    let distinct = files.iter().map(short).collect::<BTreeSet<String>>().len() == files.len();
    let name = |path: &PathBuf| if distinct { short(path) } else { path.display().to_string() };
    match files {
        [_] => vec!["old domain".to_owned()],
        _ => files.iter().map(|path| format!("old domain, {}", name(path))).collect(),
    }
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
    fn read(
        config: &TrainConfig,
        foundation: Option<&Artifact>,
        initial: &Artifact,
        fields: &[String],
        stop: Stop<'_>,
    ) -> Result<Self, TrainError> {
        let Some(foundation) = foundation else { return Ok(Self::default()) };
        let finetune = &config.finetune;
        let header = initial.header();
        // A head that is the only one needs no name, until another one is added.
        let only = if let [head] = foundation.header().heads() { Some(head.as_str()) } else { None };
        let head = finetune.old_head.as_deref().or(only);
        let read = |files: &[PathBuf], masked: bool| -> Result<Vec<Frame>, TrainError> {
            let frames = replay::read(files, &finetune.keys, head, masked, fields, stop)?;
            if frames.is_empty() {
                let files = files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", ");
                return Err(TrainError::Finetune {
                    what: format!("there is no frame of the old domain in {files}"),
                    hint: "isolated atoms do not count; check finetune.replay.files and finetune.forgetting",
                });
            }
            // The old domain is what the foundation knows: it has nothing to say about elements that were added.
            frames.iter().try_for_each(|frame| known(frame, header, foundation.header().elements()))?;
            Ok(frames)
        };
        let mut old = Self::default();
        if !finetune.replay.files.is_empty() {
            let masked = finetune.replay.labels == ReplayLabels::Foundation || config.data.missing_labels == MissingLabels::Mask;
            let frames = read(&finetune.replay.files, masked)?;
            old.replay = replay::label(frames, finetune.replay.labels, foundation, initial, stop)?.into();
        }
        for (path, name) in finetune.forgetting.iter().zip(names_of_old(&finetune.forgetting)) {
            let mut frames = read(std::slice::from_ref(path), true)?;
            replay::shift_energies(&mut frames, foundation, initial)?;
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

/// The device of tensors.
fn open(device: TrainingDevice) -> Result<Device, TrainError> {
    match device {
        TrainingDevice::Cpu => Ok(Device::Cpu),
        #[cfg(feature = "candle-cuda")]
        TrainingDevice::Cuda(ordinal) => {
            use candle_core::backend::BackendDevice as _;
            // What is missing, candle says in numbers.
            tesseral_ops::candle_cuda::probe(ordinal).map_err(|(what, hint)| TrainError::Device { what, hint })?;
            let device = candle_core::CudaDevice::new(ordinal)?;
            // What our kernels need is found missing now rather than in the first step.
            tesseral_ops::candle_cuda::device(&device)?;
            Ok(Device::Cuda(device))
        }
        #[cfg(not(feature = "candle-cuda"))]
        TrainingDevice::Cuda(_) => Err(TrainError::NoCuda),
    }
}

/// Makes everything ready. If it is asked to stop before that, it leaves nothing that would count as a run, and of a run that was to go on nothing is changed.
///
/// Of several ranks the first one writes, and makes what is not certain to be the same bits on other machines; all read the data. Each exchange between them
/// is followed by the question whether to stop, so that all answer it at the same place.
pub(super) fn begin(
    ranks: &Arc<Ranks>,
    request: Request<'_>,
    stop: Stop<'_>,
    tell: &mut (dyn FnMut(Progress<'_>) + Send),
) -> Result<Course, TrainError> {
    let Request { config, foundation, resume, mut provenance } = request;
    let device = open(config.training.device)?;
    let files = Files::new(config);
    let write = |path: std::path::PathBuf, source| TrainError::Write { path, source };
    if ranks.is_first() {
        // Found out now rather than when the report is written.
        forgetting::of_others(&config.output.compare)?;
        begin_folder(&files, resume)?;
    }
    let keep = config.training.checkpoint.keep.try_into().unwrap_or(std::num::NonZeroUsize::MIN);
    let checkpoints = RunCheckpoints::open(ranks, &files.checkpoints(), keep)?;
    ranks.check()?;

    let fields = fields(config, foundation.as_ref());
    stop.check()?;
    let load = || -> Result<_, TrainError> { Ok(Dataset::load_unless(&config.data, &fields, stop)?) };
    // One is enough to fill a cache.
    let mut data = if config.data.cache.is_some() { ranks.first_then_others(load)? } else { load()? };
    stop.check()?;
    same_on_all_ranks(ranks, config, &data, stop)?;
    if foundation.is_some() && config.finetune.mode == FinetuneMode::Multihead {
        let head: Arc<str> = config.finetune.head.as_str().into();
        for source in [&mut data.train, &mut data.valid, &mut data.test] {
            *source = Arc::new(UnderHead { source: source.clone(), head: head.clone() });
        }
    }
    // A training that goes on has them in its model already.
    let added = match &foundation {
        Some(foundation) if !resume => Added::new(foundation.header(), &config.finetune, &UntilStopped { source: &*data.train, stop })?,
        _ => Added::default(),
    };
    let known = foundation.as_ref().map(|a| added.joined(a.header().elements()));
    let mut findings = None;
    let logged_before = resume && std::fs::metadata(files.log()).is_ok_and(|log| log.len() > 0);
    if !resume && ranks.is_first() {
        let (train, valid) = (UntilStopped { source: &*data.train, stop }, UntilStopped { source: &*data.valid, stop });
        let mut subject = Subject::new(&train);
        let isolated = data.isolated.energies(None);
        subject.e0s = (!isolated.is_empty()).then_some(&isolated);
        subject.valid = Some(&valid);
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
    stop.check()?;
    let make_initial = || -> Result<_, TrainError> {
        if resume {
            return Ok(Artifact::open(&files.initial())?);
        }
        let artifact = match &foundation {
            Some(foundation) => finetune::prepared(foundation, &added, config, &data, stop)?,
            None => untrained(config, &data, stop)?,
        };
        artifact.save(&files.initial())?;
        Ok(artifact)
    };
    let initial = ranks
        .made_by_first(&files.initial(), make_initial, |bytes| Ok(Artifact::from_bytes(bytes, &files.initial().display().to_string())?))?;
    stop.check()?;
    for source in [&data.train, &data.valid, &data.test] {
        known_to_all(&UntilStopped { source: &**source, stop }, initial.header())?;
    }
    let old = OldDomain::read(config, foundation.as_ref(), &initial, &fields, stop)?;
    // What is trained along with its own labels is checked as what is trained; labels of the foundation agree with one another.
    if !resume && ranks.is_first() && config.finetune.replay.labels == ReplayLabels::Data && !old.replay.is_empty() {
        let found = doctor::examine(&Subject::new(&UntilStopped { source: &old.replay, stop }), &config.doctor)?;
        if found.has_errors() {
            tell(Progress::Checked(&found));
            return Err(TrainError::Unfit { errors: found.of(doctor::Severity::Error).count() });
        }
    }
    check_frozen(config, &initial)?;
    let dtype = match config.training.precision {
        Precision::F32 => DType::F32,
        Precision::F64 => DType::F64,
    };
    let maps = match (&foundation, config.finetune.mode) {
        (Some(_), FinetuneMode::Lora) => {
            let parameters = Parameters::frozen(&initial, dtype, &device);
            Model::build(&initial, &parameters)?;
            Some(parameters.linear_maps())
        }
        _ => None,
    };
    // What low-rank updates cannot give: weights of elements that the foundation does not have.
    let new_rows = match (&foundation, &maps) {
        (Some(foundation), Some(_)) => rows_of_new(&initial, foundation.header().elements()),
        _ => BTreeMap::new(),
    };
    let by_mode = |name: &str| maps.as_ref().is_none_or(|maps| maps.contains_key(name) || new_rows.contains_key(name));
    let of_name = |name: &str| is_trained(config, name) && by_mode(name);
    let parameters = Parameters::trainable_where(&initial, dtype, &device, &of_name);
    let model = Model::build(&initial, &parameters)?;
    let weights: BTreeMap<String, Var> = parameters.into_variables();
    let lora = config.finetune.lora;
    let low_rank = maps.as_ref().map(|maps| LowRank::new(lora, &weights, maps, &new_rows, config.training.seed)).transpose()?;
    let variables = low_rank.as_ref().map_or_else(|| weights.clone(), LowRank::variables);
    if variables.is_empty() {
        return Err(TrainError::Finetune {
            what: "there is nothing to train: finetune.freeze names every parameter".into(),
            hint: "freeze a part of the model, such as layers.*.radial",
        });
    }
    let counts = (variables.values().map(|v| v.elem_count()).sum(), initial.num_parameters());

    let optimizer = Optimizer::new(&config.optimizer, &variables)?;
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
            let of_old = || ewc::fisher(&model, &variables, &train, range.clone(), &config.loss, config.loss.weights, stop);
            let fisher = ranks.made_by_first(
                &path,
                || kept_fisher(&path, &hash, &variables, resume, of_old),
                |bytes| Ok(ewc::from_tensors(Checkpoint::decode(&bytes, &path)?.section(FISHER), &variables)?),
            )?;
            Some(Anchor::new(config.finetune.ewc_weight, &variables, fisher)?)
        }
        _ => None,
    };
    // What follows is the beginning of the run.
    stop.check()?;
    let log = if !config.output.log || !ranks.is_first() {
        None
    } else if resume {
        Some(LogWriter::append(files.log())?)
    } else {
        Some(LogWriter::create(files.log())?)
    };
    let tensorboard = if config.output.tensorboard && ranks.is_first() {
        let after = if resume { Some(found.as_ref().map_or(0, |found| found.checkpoint.state.step)) } else { None };
        Some(TensorBoard::create(files.tensorboard(), after).map_err(|source| write(files.tensorboard(), source))?)
    } else {
        None
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
        tensorboard,
        said_stalled: false,
        earlier_seconds: 0.0,
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
        if !added.is_empty() {
            let message = added.note();
            tell(Progress::Event(&message));
            course.record(Record::Event(log::Event { step: 0, epoch: 0, message }))?;
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
    let exists = files.log().exists() || checkpoint::any_in(&files.checkpoints());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_old_domain_have_names_of_their_own() {
        let names = |files: &[&str]| names_of_old(&files.iter().map(PathBuf::from).collect::<Vec<_>>());
        assert_eq!(names(&["a/test.xyz"]), ["old domain"]);
        assert_eq!(names(&["a/b.xyz", "a/c.xyz"]), ["old domain, b.xyz", "old domain, c.xyz"]);
        assert_eq!(names(&["a/test.xyz", "b/test.xyz"]), ["old domain, a/test.xyz", "old domain, b/test.xyz"]);
        assert!(names(&[]).is_empty());
    }
}
