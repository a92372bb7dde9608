//! The client: from message to message, and from server to server.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use serde::Serialize;
use tesseral_atoms::{ForceError, ForceField, Structure};

use super::address::{Link, Stream};
use super::answer::{Answer, Extras};
use super::wire::{HEADER, Interrupted, Wire, forces_ready, header, place};
use super::{Address, IpiError};

/// Attempts to connect follow one another after this long.
const RETRY: Duration = Duration::from_millis(100);
/// A server may come up a little after its client, which is not worth a word.
const SILENCE: Duration = Duration::from_secs(2);
/// The longest text of an INIT message that is believed, bytes.
const LONGEST_INIT: i32 = 1 << 20;
/// The largest batch that is believed.
const LARGEST_BATCH: usize = 1 << 16;

/// What computes for a client.
pub trait Serve {
    /// Evaluates the structures of one message, one or several; one result for each.
    fn evaluate(&mut self, structures: &[Structure]) -> Vec<Result<Answer, ForceError>>;
}

/// A force field alone: one structure by itself, so that it keeps its list of neighbours; of several, the spread of a committee is not known.
impl<F: ForceField> Serve for F {
    fn evaluate(&mut self, structures: &[Structure]) -> Vec<Result<Answer, ForceError>> {
        if let [only] = structures {
            let evaluated = ForceField::evaluate(self, only);
            return vec![evaluated.map(|evaluation| Answer { evaluation, spread: self.spread().cloned() })];
        }
        let evaluated = self.evaluate_many(structures).into_iter();
        evaluated.map(|result| result.map(|evaluation| Answer { evaluation, spread: None })).collect()
    }
}

/// How a client behaves.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Where the server listens.
    pub address: Address,
    /// How long to go on trying where there is no server, at first or after the connection was lost. Zero: one attempt, and the end when the server hangs up.
    pub reconnect: Duration,
    /// The number of structures that the server has to send at a time; `None`: as it says.
    pub batch: Option<usize>,
    /// What is sent beside energies, forces and virials.
    pub extras: Extras,
}

/// What a client has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Counts {
    /// Connections made.
    pub connections: u64,
    /// `STATUS` messages, each of which was answered: a round trip.
    pub statuses: u64,
    /// `INIT` messages.
    pub inits: u64,
    /// `POSDATA` messages.
    pub positions: u64,
    /// `GETFORCE` messages, each of which was answered: a round trip.
    pub forces: u64,
    /// Structures evaluated.
    pub structures: u64,
    /// Structures in batches that were those before them again, as i-PI fills up a batch, and were not evaluated.
    pub repeated: u64,
    /// Seconds spent in the force field.
    pub seconds: f64,
    /// The last energy, eV; of the last structure of a batch.
    pub last_energy: Option<f64>,
}

/// What happens to a client, for whoever watches.
#[derive(Debug)]
pub enum Event<'e> {
    /// There is no server (yet); it will be tried for this long.
    Waiting(&'e Address, Duration, &'e io::Error),
    /// There is a connection.
    Connected(&'e Address),
    /// The server has said which replica it speaks of, and how many structures it will send at a time.
    Initialised {
        /// The replica, from 0 in i-PI, which says it to a new client only.
        replica: i32,
        /// Structures at a time.
        batch: usize,
    },
    /// Forces were sent.
    Sent(&'e Counts),
    /// The server changes the cell of a structure that has no stress: at constant pressure, the virial (zero) would be wrong. It is said once.
    CellOfNonPeriodic,
    /// The connection is gone.
    Lost(&'e Address, &'e io::Error),
}

/// How it came to an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The server said so.
    Exit,
    /// The server hung up between two messages, as ASE does when it has had enough, and [`Settings::reconnect`] is zero.
    HungUp,
    /// It was asked to stop.
    Stopped,
}

/// A client of i-PI.
pub struct Client<'c> {
    settings: Settings,
    structure: Structure,
    force_field: &'c mut dyn Serve,
    counts: Counts,
    /// What a message is about, in the memory of those before.
    structures: Vec<Structure>,
    answers: Vec<Answer>,
    message: Vec<u8>,
    /// The cells of the first structures of the last two messages, as they were sent.
    cells: [Option<[[f64; 3]; 3]>; 2],
    warned: bool,
}

/// What a server was told when it asked for the status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    NeedInit,
    Ready,
    HaveData,
}

/// Why a conversation ended.
enum End {
    Exit,
    Stopped,
    HungUp,
    Lost(io::Error),
    Failed(IpiError),
}

impl From<Interrupted> for End {
    fn from(interrupted: Interrupted) -> Self {
        match interrupted {
            Interrupted::Lost(error) => Self::Lost(error),
            Interrupted::HungUp => Self::HungUp,
            Interrupted::Stopped => Self::Stopped,
        }
    }
}

impl From<IpiError> for End {
    fn from(error: IpiError) -> Self {
        Self::Failed(error)
    }
}

impl<'c> Client<'c> {
    /// A client that has not connected yet. The structure says the elements, their order, and which directions are periodic.
    ///
    /// # Errors
    /// If the structure cannot be evaluated by anything.
    pub fn new(settings: Settings, structure: Structure, force_field: &'c mut dyn Serve) -> Result<Self, IpiError> {
        structure.validate()?;
        Ok(Self {
            settings,
            structure,
            force_field,
            counts: Counts::default(),
            structures: Vec::new(),
            answers: Vec::new(),
            message: Vec::new(),
            cells: [None; 2],
            warned: false,
        })
    }

    /// What was done until now.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Serves until the server says EXIT or `stop` says true, which is asked several times a second and after each answer.
    ///
    /// # Errors
    /// If there is no server, it sends what makes no sense or does not fit the structure, or the force field fails.
    pub fn run(&mut self, stop: &dyn Fn() -> bool, watch: &mut dyn FnMut(Event<'_>)) -> Result<Ending, IpiError> {
        let mut since = Instant::now();
        let mut lost: Option<io::Error> = None;
        loop {
            let heard = self.counts.statuses + self.counts.positions;
            let Some(stream) = self.connect(since, lost.take(), stop, watch)? else { return Ok(Ending::Stopped) };
            let mut wire = Wire::new(stream, stop);
            let end = self.converse(&mut wire, stop, watch);
            if matches!(end, End::Stopped | End::Failed(_)) {
                wire.close();
            }
            let error = match end {
                End::Exit => return Ok(Ending::Exit),
                End::Stopped => return Ok(Ending::Stopped),
                End::HungUp if self.settings.reconnect.is_zero() => return Ok(Ending::HungUp),
                End::Failed(error) => return Err(error),
                End::HungUp => io::Error::new(io::ErrorKind::UnexpectedEof, "it has hung up"),
                End::Lost(error) => error,
            };
            // A server that hangs up at once is no server.
            if self.counts.statuses + self.counts.positions > heard {
                since = Instant::now();
                watch(Event::Lost(&self.settings.address, &error));
            }
            lost = Some(error);
        }
    }

    /// A connection, as soon as there is one; `None` if asked to stop.
    fn connect(
        &mut self,
        since: Instant,
        lost: Option<io::Error>,
        stop: &dyn Fn() -> bool,
        watch: &mut dyn FnMut(Event<'_>),
    ) -> Result<Option<Stream>, IpiError> {
        let Settings { address, reconnect, .. } = &self.settings;
        let mut failure = lost;
        let mut said = failure.is_some();
        // Not more than one attempt each so often, also where a server hangs up at once.
        let mut pause = failure.is_some();
        loop {
            if stop() {
                return Ok(None);
            }
            if let Some(source) = failure.take_if(|_| since.elapsed() >= *reconnect) {
                return Err(IpiError::NoServer { address: address.clone(), waited: *reconnect, source });
            }
            if std::mem::replace(&mut pause, true) {
                std::thread::sleep(RETRY.min(*reconnect));
            }
            match address.connect() {
                Ok(stream) => {
                    self.counts.connections += 1;
                    watch(Event::Connected(address));
                    return Ok(Some(stream));
                }
                Err(error) => {
                    if !said && since.elapsed() >= SILENCE.min(*reconnect / 2) {
                        said = true;
                        watch(Event::Waiting(address, *reconnect, &error));
                    }
                    failure = Some(error);
                }
            }
        }
    }

    /// Answers one server until something ends it.
    fn converse<S: Link>(&mut self, wire: &mut Wire<'_, S>, stop: &dyn Fn() -> bool, watch: &mut dyn FnMut(Event<'_>)) -> End {
        let (mut state, mut batch) = (State::NeedInit, 1);
        loop {
            // What was begun is finished: i-PI gets its forces.
            if state != State::HaveData && stop() {
                return End::Stopped;
            }
            if let Err(end) = self.answer(wire, &mut state, &mut batch, watch) {
                return end;
            }
        }
    }

    fn answer<S: Link>(
        &mut self,
        wire: &mut Wire<'_, S>,
        state: &mut State,
        batch: &mut usize,
        watch: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), End> {
        let bytes = wire.header().map_err(|interrupted| match interrupted {
            // It was owed forces: something has happened to it.
            Interrupted::HungUp if *state == State::HaveData => End::Lost(io::ErrorKind::UnexpectedEof.into()),
            other => other.into(),
        })?;
        match bytes.trim_ascii_end() {
            b"STATUS" => {
                wire.write(&header(match state {
                    State::NeedInit => "NEEDINIT",
                    State::Ready => "READY",
                    State::HaveData => "HAVEDATA",
                }))?;
                self.counts.statuses += 1;
            }
            b"INIT" => {
                let replica = wire.integer()?;
                *batch = initialised(wire)?;
                self.counts.inits += 1;
                if let Some(expected) = self.settings.batch.filter(|expected| expected != batch) {
                    return Err(IpiError::Batch { announced: *batch, expected }.into());
                }
                *state = State::Ready;
                watch(Event::Initialised { replica, batch: *batch });
            }
            b"POSDATA" => {
                self.positions(wire, *batch)?;
                self.counts.positions += 1;
                wire.look_ahead();
                self.evaluate()?;
                *state = State::HaveData;
                if self.cell_should_matter() {
                    watch(Event::CellOfNonPeriodic);
                }
            }
            b"GETFORCE" => {
                if *state != State::HaveData {
                    return Err(IpiError::Message { what: "it asks for forces before it has sent positions".to_owned() }.into());
                }
                forces_ready(&self.structures, &self.answers, self.settings.extras, &mut self.message);
                wire.write(&self.message)?;
                self.counts.forces += 1;
                *state = State::Ready;
                watch(Event::Sent(&self.counts));
            }
            b"EXIT" => return Err(End::Exit),
            _ => return Err(IpiError::Header { header: readable(&bytes) }.into()),
        }
        Ok(())
    }

    /// Reads the positions of one structure, or of a batch, into `structures`.
    fn positions<S: Link>(&mut self, wire: &mut Wire<'_, S>, batch: usize) -> Result<(), End> {
        let expected = self.structure.len();
        let counted = |sent: i32| {
            if usize::try_from(sent) == Ok(expected) { Ok(()) } else { Err(IpiError::Atoms { sent: sent.into(), expected }) }
        };
        self.structures.resize_with(batch, || self.structure.clone());
        let mut cells = Vec::with_capacity(batch);
        if batch > 1 {
            counted(wire.integer()?)?;
        }
        for _ in 0..batch {
            cells.push(wire.matrix()?);
            // The inverse is of no use.
            wire.matrix()?;
        }
        if batch == 1 {
            counted(wire.integer()?)?;
        }
        self.cells = [self.cells[1], cells.first().copied()];
        let mut positions = vec![[0.0; 3]; expected];
        for (structure, cell) in self.structures.iter_mut().zip(&cells) {
            wire.triples(&mut positions)?;
            place(structure, cell, &positions);
        }
        Ok(())
    }

    /// Evaluates `structures` into `answers`.
    fn evaluate(&mut self) -> Result<(), IpiError> {
        let evaluation = self.counts.positions;
        // i-PI fills up a batch with its last structure.
        let of = self.structures.len();
        let same = |a: &Structure, b: &Structure| a.positions == b.positions && a.cell == b.cell;
        let distinct = (1..of).rev().find(|&i| !same(&self.structures[i], &self.structures[i - 1])).map_or(1, |last| last + 1);
        let start = Instant::now();
        let structures = &self.structures[..distinct];
        let force_field = &mut *self.force_field;
        // What may be left half done in the force field is not used again: the client ends.
        let results = catch_unwind(AssertUnwindSafe(|| force_field.evaluate(structures)))
            .map_err(|panic| IpiError::Panic { evaluation, message: said(&*panic) })?;
        self.counts.seconds += start.elapsed().as_secs_f64();
        self.answers.clear();
        let failed = |index: usize, source: ForceError| IpiError::Evaluation { evaluation, index, of, source };
        for (index, result) in results.into_iter().enumerate() {
            let answer = result.map_err(|source| failed(index, source))?;
            if answer.evaluation.forces.len() != self.structure.len() || !answer.is_finite() {
                return Err(failed(index, ForceError::new("an energy, force or stress is not finite")));
            }
            self.answers.push(answer);
        }
        if self.answers.len() != distinct {
            return Err(failed(self.answers.len(), ForceError::new("the force field gave no answer")));
        }
        self.counts.structures += distinct as u64;
        self.counts.repeated += (of - distinct) as u64;
        self.counts.last_energy = self.answers.last().map(|answer| answer.evaluation.energy);
        if let Some(last) = self.answers.last().cloned() {
            self.answers.resize(of, last);
        }
        Ok(())
    }

    /// Whether the server changes the cell though there is no stress; true once.
    fn cell_should_matter(&mut self) -> bool {
        let changed = matches!(self.cells, [Some(before), Some(now)] if before != now);
        let silent = self.answers.iter().any(|answer| answer.evaluation.stress.is_none());
        let matters = changed && silent && !self.warned;
        self.warned |= matters;
        matters
    }
}

/// The rest of an INIT message: the size of batches.
fn initialised<S: Link>(wire: &mut Wire<'_, S>) -> Result<usize, End> {
    let length = wire.integer()?;
    if !(0..=LONGEST_INIT).contains(&length) {
        return Err(IpiError::Message { what: format!("an INIT text of {length} bytes") }.into());
    }
    let mut text = vec![0; length as usize];
    wire.read(&mut text)?;
    let text = String::from_utf8_lossy(&text);
    let mut batch = 1;
    for (key, value) in text.split(',').filter_map(|part| part.split_once(':')) {
        if key.trim() == "batch_size" {
            batch = value
                .trim()
                .parse()
                .ok()
                .filter(|batch| (1..=LARGEST_BATCH).contains(batch))
                .ok_or_else(|| IpiError::Message { what: format!("`{}` as a batch_size", value.trim().escape_debug()) })?;
        }
    }
    Ok(batch)
}

/// Twelve bytes for people.
fn readable(bytes: &[u8; HEADER]) -> String {
    bytes.trim_ascii_end().escape_ascii().to_string()
}

/// What a panic said.
fn said(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "it said nothing".to_owned())
}
