//! Models that are ready to compute: one, or a committee of several.

use std::sync::{Arc, Mutex, MutexGuard};

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use tesseral_atoms::{Evaluation, ForceField, Spread, Structure};
use tesseral_infer::{DeviceChoice, Dtype, Engine, Members, Options, Potential};
use tesseral_potentials::{Architecture, Header};

use crate::errors::Failure;
use crate::process::{PerProcess, Process, detached, locked, number_of_threads, pipelined};
use crate::structures::{Arrays, results};

/// Structures that are evaluated while Python makes as many others ready: so many on the CPU, which takes them one by one,
const CHUNK: usize = 256;
/// so many on a device, which takes them together,
const DEVICE_CHUNK: usize = 4096;
/// or so many atoms.
const CHUNK_ATOMS: usize = 20_000;

/// How far beyond the cutoff neighbours are listed on a device where nothing is said, Å.
const DEVICE_SKIN: f64 = 0.5;

/// All that makes a [`Field`], as Python says it.
#[derive(Clone, FromPyObject, IntoPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct Settings {
    /// Names, paths, or None for the built-in model.
    models: Vec<Option<String>>,
    device: String,
    dtype: String,
    head: Option<String>,
    engine: String,
    exact_radial: bool,
    /// Bytes.
    memory: Option<usize>,
    /// Å
    skin: Option<f64>,
    /// eV/Å
    stop_above: Option<f64>,
    threads: Option<usize>,
    /// Of the weights, if they have to be the ones that were loaded before.
    fingerprints: Option<Vec<String>>,
}

/// What is read of the settings.
#[derive(Clone)]
struct Read {
    options: Options,
    threads: usize,
}

impl Settings {
    fn read(&self) -> Result<Read, Failure> {
        let device: DeviceChoice = self.device.parse()?;
        let dtype = match self.dtype.as_str() {
            "float32" | "f32" => Dtype::F32,
            "float64" | "f64" => Dtype::F64,
            other => return Err(Failure::input(format!("`{other}` is no dtype")).hint("\"float32\" and \"float64\" are")),
        };
        let engine = match self.engine.as_str() {
            "compiled" => Engine::Compiled { exact_radial: self.exact_radial },
            "differentiable" if self.exact_radial => {
                return Err(Failure::input("exact_radial is about the compiled engine: the differentiable one has no tables"));
            }
            "differentiable" => Engine::Differentiable,
            other => return Err(Failure::input(format!("`{other}` is no engine")).hint("\"compiled\" and \"differentiable\" are")),
        };
        if self.models.is_empty() {
            return Err(Failure::input("an empty list of models").hint("None is the built-in model"));
        }
        if let Some(skin) = self.skin.filter(|skin| !(*skin >= 0.0 && skin.is_finite())) {
            return Err(Failure::input(format!("skin={skin}: a length of at least 0 Å is needed")));
        }
        match self.stop_above {
            Some(_) if self.models.len() < 2 => {
                return Err(Failure::input("stop_above is about a committee: one model has nobody to disagree with")
                    .hint("give a list of several models"));
            }
            Some(limit) if !(limit > 0.0 && limit.is_finite()) => {
                return Err(Failure::input(format!("stop_above={limit}: a positive number of eV/Å is needed")));
            }
            _ => {}
        }
        let options = Options { dtype, head: self.head.clone(), engine, memory: self.memory, device };
        Ok(Read { options: options.within_free_memory(), threads: number_of_threads(self.threads)? })
    }
}

/// The models of one process, and the state of the structure whose atoms move.
pub(crate) struct Loaded {
    pub(crate) members: Members,
    pub(crate) fingerprints: Vec<String>,
    read: Read,
    settings: Settings,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    structure: Structure,
    field: Option<Box<dyn ForceField + Send>>,
}

impl Loaded {
    fn new(settings: &Settings) -> Result<Self, Failure> {
        let read = settings.read()?;
        let (mut members, mut fingerprints) = (Vec::new(), Vec::new());
        for (index, model) in settings.models.iter().enumerate() {
            let artifact = tesseral_loader::artifact(model.as_deref())?;
            let fingerprint = tesseral_loader::fingerprint(&artifact)?;
            if let Some(expected) = settings.fingerprints.as_ref().and_then(|all| all.get(index))
                && *expected != fingerprint
            {
                let name = model.as_deref().unwrap_or("built-in");
                return Err(Failure::new(format!("the weights of the model {name} are not those that were pickled"))
                    .hint("the file has changed since, or the name means another model here: make the object anew"));
            }
            // A model may have been renamed: its name is part of results' provenance.
            let key =
                format!("{} {:?}", tesseral_loader::identity([(&*artifact.header().name, &*fingerprint)], &read.options), settings.memory);
            members.push(Process::current().potential(&key, || Ok(Potential::new(&artifact, &read.options)?))?);
            fingerprints.push(fingerprint);
        }
        let members = Members::new(members, settings.stop_above);
        Ok(Self { members, fingerprints, read, settings: settings.clone(), state: Mutex::default() })
    }

    /// The same models for another structure.
    fn copied(&self) -> Self {
        Self {
            members: self.members.clone(),
            fingerprints: self.fingerprints.clone(),
            read: self.read.clone(),
            settings: self.settings.clone(),
            state: Mutex::default(),
        }
    }

    /// How far beyond the cutoff neighbours are listed for a structure whose atoms move, Å.
    fn skin(&self) -> f64 {
        self.settings.skin.unwrap_or(if self.on_device() { DEVICE_SKIN } else { 0.0 })
    }

    fn on_device(&self) -> bool {
        self.members.potentials().iter().any(|member| !member.devices().is_empty())
    }

    /// What computes, in the words of the command line, so that a run is gone on with by nothing else.
    pub(crate) fn identity(&self) -> String {
        let names = self.members.potentials().iter().map(|member| member.header().name.as_str());
        tesseral_loader::identity(names.zip(self.fingerprints.iter().map(String::as_str)), &self.read.options)
    }

    /// Results of structures; what is not one keeps its error.
    fn evaluate(&self, many: Vec<Result<Structure, Failure>>) -> Vec<Result<(Evaluation, Option<Spread>), Failure>> {
        let mut structures = Vec::with_capacity(many.len());
        let many: Vec<Result<(), Failure>> = many.into_iter().map(|structure| structure.map(|s| structures.push(s))).collect();
        let mut evaluated = self.members.evaluate(&structures).into_iter();
        let mut next = || evaluated.next().map_or_else(|| Err(Failure::new("internal error: a result is missing")), |result| Ok(result?));
        many.into_iter().map(|one| one.and_then(|()| next())).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        if self.state.is_poisoned() {
            // What a panic has left behind is not gone on with.
            *locked(&self.state) = State::default();
            self.state.clear_poison();
        }
        locked(&self.state)
    }
}

/// One or several models for one precision, device and head.
#[pyclass(module = "tesseral._core", frozen)]
pub(crate) struct Field {
    settings: Settings,
    threads: usize,
    loaded: PerProcess<Mutex<Option<Arc<Loaded>>>>,
}

impl Field {
    fn made(settings: Settings, loaded: Loaded) -> Self {
        let threads = loaded.read.threads;
        let settings = Settings { fingerprints: Some(loaded.fingerprints.clone()), ..settings };
        let field = Self { settings, threads, loaded: PerProcess::new() };
        field.loaded.get(|_| Mutex::new(Some(Arc::new(loaded))));
        field
    }

    pub(crate) fn threads(&self) -> usize {
        self.threads
    }

    /// The models in this process: a child loads them anew.
    pub(crate) fn loaded(&self) -> Result<Arc<Loaded>, Failure> {
        let mut forked = false;
        let slot = self.loaded.get(|has_parent| {
            forked = has_parent;
            Mutex::new(None)
        });
        let mut loaded = locked(slot);
        if let Some(loaded) = &*loaded {
            return Ok(loaded.clone());
        }
        if forked && !matches!(self.settings.device.as_str(), "cpu" | "emulated") {
            return Err(Failure::new(format!(
                "`{}` cannot be used in a process that was forked from one that uses it",
                self.settings.device
            ))
            .hint("start processes by multiprocessing.get_context(\"spawn\"), or make the potential in the child only"));
        }
        Ok(loaded.insert(Arc::new(Loaded::new(&self.settings)?)).clone())
    }

    fn header<R>(&self, py: Python<'_>, read: impl FnOnce(&[&Header]) -> R + Send) -> PyResult<R>
    where
        R: Send,
    {
        detached(py, self.threads, |_| {
            let loaded = self.loaded()?;
            let headers: Vec<&Header> = loaded.members.potentials().iter().map(|m| m.header()).collect();
            Ok(read(&headers))
        })
    }
}

#[pymethods]
impl Field {
    #[new]
    fn new(py: Python<'_>, settings: Settings) -> PyResult<Self> {
        let threads = number_of_threads(settings.threads).map_err(|failure| failure.raise(py))?;
        // Loading differentiates nothing, but networks of radial functions are evaluated by all threads.
        detached(py, threads, |pool| {
            let loaded = pool.install(|| Loaded::new(&settings))?;
            Ok(Self::made(settings, loaded))
        })
    }

    /// The settings, with fingerprints of the weights.
    #[getter]
    fn settings(&self) -> Settings {
        self.settings.clone()
    }

    fn __getnewargs__(&self) -> (Settings,) {
        (self.settings.clone(),)
    }

    /// The same models for another structure: nothing is loaded again.
    fn copy(&self, py: Python<'_>) -> PyResult<Self> {
        detached(py, self.threads, |_| Ok(Self::made(self.settings.clone(), self.loaded()?.copied())))
    }

    fn __copy__(&self, py: Python<'_>) -> PyResult<Self> {
        self.copy(py)
    }

    fn __deepcopy__(&self, py: Python<'_>, _memo: &Bound<'_, PyAny>) -> PyResult<Self> {
        self.copy(py)
    }

    /// What computes, in words.
    #[getter]
    fn identity(&self, py: Python<'_>) -> PyResult<String> {
        detached(py, self.threads, |_| Ok(self.loaded()?.identity()))
    }

    /// Names of the models.
    #[getter]
    fn names(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        self.header(py, |headers| headers.iter().map(|h| h.name.clone()).collect())
    }

    /// Licences of the models, where they say.
    #[getter]
    fn licences(&self, py: Python<'_>) -> PyResult<Vec<Option<String>>> {
        self.header(py, |headers| headers.iter().map(|h| h.licence.clone()).collect())
    }

    /// Atomic numbers that all models know, in ascending order.
    #[getter]
    fn numbers(&self, py: Python<'_>) -> PyResult<Vec<u32>> {
        self.header(py, |headers| {
            let known = |z: &u8| headers.iter().all(|h| h.elements().contains(z));
            (1..=118u8).filter(|z| known(z)).map(u32::from).collect()
        })
    }

    /// Their symbols.
    #[getter]
    fn elements(&self, py: Python<'_>) -> PyResult<Vec<&'static str>> {
        let numbers = self.numbers(py)?;
        Ok(numbers.into_iter().filter_map(|z| tesseral_atoms::elements::symbol(u8::try_from(z).ok()?)).collect())
    }

    /// The largest cutoff, Å.
    #[getter]
    fn cutoff(&self, py: Python<'_>) -> PyResult<f64> {
        self.header(py, |headers| headers.iter().map(|h| h.cutoff()).fold(0.0, f64::max))
    }

    /// Heads (MACE) or modalities (SevenNet) of the first model.
    #[getter]
    fn heads(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        self.header(py, |headers| headers.first().map_or_else(Vec::new, |h| h.heads().to_vec()))
    }

    /// What the models ask for besides atoms and cell: names, and whether they belong to atoms.
    #[getter]
    fn inputs(&self, py: Python<'_>) -> PyResult<Vec<(String, bool)>> {
        self.header(py, |headers| {
            let mut inputs: Vec<(String, bool)> = Vec::new();
            for header in headers {
                if let Architecture::Mace(config) = &header.architecture {
                    inputs.extend(config.fields.iter().map(|field| (field.name.clone(), field.per_atom)));
                }
            }
            inputs.sort();
            inputs.dedup();
            inputs
        })
    }

    /// Threads that compute.
    #[getter]
    fn num_threads(&self) -> usize {
        self.threads
    }

    /// Energy, forces and stress of a structure whose atoms move from call to call.
    fn calculate<'py>(&self, py: Python<'py>, arrays: Arrays<'py>) -> PyResult<Bound<'py, PyDict>> {
        let structure = arrays.to_structure().map_err(|failure| failure.raise(py))?;
        drop(arrays);
        let (evaluation, spread) = detached(py, self.threads, |pool| {
            let loaded = self.loaded()?;
            let mut guard = loaded.state();
            let State { structure: place, field } = &mut *guard;
            *place = structure;
            let field = match field {
                Some(field) => field,
                None => field.insert(loaded.members.force_field(loaded.skin())?),
            };
            let mut evaluation = Evaluation::default();
            pool.install(|| field.evaluate_into(place, &mut evaluation))?;
            Ok((evaluation, field.spread().cloned()))
        })?;
        results(py, evaluation, spread)
    }

    /// Results of many structures, as `made` makes them of dictionaries. One that cannot be evaluated has an exception in its place, or, with `strict`, raises it.
    fn evaluate<'py>(
        &self,
        py: Python<'py>,
        many: &Bound<'py, PyAny>,
        strict: bool,
        made: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyList>> {
        let loaded = detached(py, self.threads, |_| self.loaded())?;
        let list = PyList::empty(py);
        let mut rest = many.try_iter()?;
        let most = if loaded.on_device() { DEVICE_CHUNK } else { CHUNK };
        let chunk = || {
            let (mut chunk, mut atoms) = (Vec::new(), 0);
            while chunk.len() < most && atoms < CHUNK_ATOMS {
                let Some(arrays) = rest.next() else { break };
                let structure = arrays?.extract::<Arrays<'_>>()?.to_structure();
                atoms += structure.as_ref().map_or(0, Structure::len);
                chunk.push(structure);
            }
            Ok(Some(chunk).filter(|chunk| !chunk.is_empty()))
        };
        let take = |evaluated: Vec<Result<_, Failure>>| {
            for result in evaluated {
                match result {
                    Ok((evaluation, spread)) => list.append(made.call1((results(py, evaluation, spread)?,))?)?,
                    Err(failure) => {
                        let failure = failure.of_structure(list.len());
                        if strict {
                            return Err(failure.raise(py));
                        }
                        list.append(failure.instance(py)?)?;
                    }
                }
            }
            Ok(())
        };
        pipelined(py, self.threads, chunk, |chunk| Ok(loaded.evaluate(chunk)), take)?;
        Ok(list)
    }
}
