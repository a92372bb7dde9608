//! What belongs to one process: its threads, and everything that is locked.
//!
//! After `fork` a child has the memory of its parent, but none of its threads but one: a pool of threads computes nothing any more, and a lock that another
//! thread held stays locked for ever. So whatever has threads or locks is kept by process, and made anew where a child first asks for it.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use pyo3::prelude::*;
use rayon::{Scope, ThreadPool};
use tesseral_infer::Potential;

use crate::errors::Failure;
use crate::messages::Messages;

/// How often a long computation asks Python whether somebody pressed Ctrl-C.
const SIGNALS: Duration = Duration::from_millis(50);

/// The stack of a thread that computes, bytes: that of a main thread, which the differentiable engine goes through recursively.
const STACK: usize = 8 << 20;

/// A value for each process that asks for it: a chain from the process that made this through its children to the present one.
pub(crate) struct PerProcess<T> {
    first: OnceLock<Box<Link<T>>>,
}

struct Link<T> {
    process: u32,
    /// Some until it is dropped.
    value: Option<T>,
    next: OnceLock<Box<Link<T>>>,
}

impl<T> Drop for Link<T> {
    fn drop(&mut self) {
        // A child has no business with what its parent opened.
        if self.process != std::process::id() {
            std::mem::forget(self.value.take());
        }
    }
}

impl<T> PerProcess<T> {
    pub(crate) const fn new() -> Self {
        Self { first: OnceLock::new() }
    }

    /// The value of this process; `make` is told whether a parent had one.
    pub(crate) fn get(&self, make: impl FnOnce(bool) -> T) -> &T {
        let process = std::process::id();
        let (mut place, mut forked) = (&self.first, false);
        while let Some(link) = place.get() {
            if link.process == process
                && let Some(value) = &link.value
            {
                return value;
            }
            (place, forked) = (&link.next, true);
        }
        let link = place.get_or_init(|| Box::new(Link { process, value: Some(make(forked)), next: OnceLock::new() }));
        link.value.as_ref().expect("a link has its value until it is dropped")
    }
}

/// Threads, models and messages of a process.
pub(crate) struct Process {
    pools: Mutex<BTreeMap<usize, Arc<ThreadPool>>>,
    potentials: Mutex<Vec<(String, Weak<Potential>)>>,
    pub(crate) messages: Messages,
}

static PROCESS: PerProcess<Process> = PerProcess::new();

/// A lock, whatever happened to a thread that held it.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Process {
    /// The present one.
    pub(crate) fn current() -> &'static Self {
        PROCESS.get(|_| Self { pools: Mutex::default(), potentials: Mutex::default(), messages: Messages::default() })
    }

    /// So many threads. Everybody who asks for the same number gets the same ones, so that calls at the same time share them.
    fn pool(&self, threads: usize) -> Result<Arc<ThreadPool>, Failure> {
        let mut pools = locked(&self.pools);
        if let Some(pool) = pools.get(&threads) {
            return Ok(pool.clone());
        }
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .stack_size(STACK)
            .thread_name(|k| format!("tesseral {k}"))
            .build()
            .map_err(|error| Failure::new(format!("cannot start {threads} threads: {error}")))?;
        Ok(pools.entry(threads).or_insert(Arc::new(pool)).clone())
    }

    /// The potential that `key` names: one that is in use, or a new one.
    pub(crate) fn potential(&self, key: &str, make: impl FnOnce() -> Result<Potential, Failure>) -> Result<Arc<Potential>, Failure> {
        let known = |list: &[(String, Weak<Potential>)]| list.iter().find(|(name, _)| name == key).and_then(|(_, weak)| weak.upgrade());
        if let Some(potential) = known(&locked(&self.potentials)) {
            return Ok(potential);
        }
        // Made without the lock: it takes all threads, and one of them may be asked for another potential meanwhile.
        let made = Arc::new(make()?);
        let mut list = locked(&self.potentials);
        list.retain(|(_, weak)| weak.strong_count() > 0);
        Ok(known(&list).unwrap_or_else(|| {
            list.push((key.to_owned(), Arc::downgrade(&made)));
            made
        }))
    }
}

/// The number of threads that is meant by `threads`: that number, else `TESSERAL_THREADS`, else `RAYON_NUM_THREADS`, else the cores that this process may use
/// (its affinity and, on Linux, the quota of its control group).
pub(crate) fn number_of_threads(threads: Option<usize>) -> Result<usize, Failure> {
    let of = |variable: &str| -> Result<Option<usize>, Failure> {
        let Some(text) = std::env::var_os(variable) else { return Ok(None) };
        match text.to_str().and_then(|text| text.trim().parse().ok()) {
            // Rayon's way of saying "as many as there are cores".
            Some(0) => Ok(None),
            Some(number) => Ok(Some(number)),
            None => Err(Failure::input(format!("{variable} is {}, which is no number of threads", text.display()))),
        }
    };
    if threads == Some(0) {
        return Err(Failure::input("0 threads").hint("give at least 1, or None for as many as there are cores"));
    }
    if let Some(number) = threads {
        return Ok(number);
    }
    Ok(match (of("TESSERAL_THREADS")?, of("RAYON_NUM_THREADS")?) {
        (Some(number), _) | (None, Some(number)) => number,
        (None, None) => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
    })
}

/// Runs `work` and makes an error of a panic.
fn caught<R>(work: impl FnOnce() -> Result<R, Failure>) -> Result<R, Failure> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(panicked(&*panic)))
}

fn panicked(panic: &(dyn Any + Send)) -> Failure {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    Failure::new(format!("internal error: {}", text.unwrap_or("a panic without a message")))
        .hint("this is a bug of tesseral: please report it, with what was computed")
}

/// Runs `work` without holding Python's lock. `work` gets the threads; what it locks it should lock before it asks them to compute.
pub(crate) fn detached<R: Send>(
    py: Python<'_>,
    threads: usize,
    work: impl FnOnce(&ThreadPool) -> Result<R, Failure> + Send,
) -> PyResult<R> {
    let process = Process::current();
    let result = py.detach(|| caught(|| work(&*process.pool(threads)?)));
    process.messages.deliver(py)?;
    result.map_err(|failure| failure.raise(py))
}

/// Runs `work` on one of the threads, without holding Python's lock, while this one waits and looks for signals. When Python has an exception ready (Ctrl-C), `stop`
/// becomes true; it is raised when `work` has returned.
pub(crate) fn interruptible<R: Send>(
    py: Python<'_>,
    threads: usize,
    work: impl FnOnce(&Arc<AtomicBool>) -> Result<R, Failure> + Send,
) -> PyResult<R> {
    let process = Process::current();
    let pool = process.pool(threads).map_err(|failure| failure.raise(py))?;
    let stop = Arc::new(AtomicBool::new(false));
    let asked = &stop;
    let result = pool.in_place_scope(|scope| {
        let receiver = begun(scope, move || work(asked));
        waited(py, receiver, || asked.store(true, Ordering::Relaxed))
    });
    process.messages.deliver(py)?;
    result
}

/// Has one piece of work after another computed by the threads. While they have one, this thread, which holds Python's lock, makes the next and takes what came of the one
/// before. Looks for signals as [`interruptible`] does: what was begun is finished, and its results are dropped.
pub(crate) fn pipelined<Piece: Send, Done: Send>(
    py: Python<'_>,
    threads: usize,
    mut make: impl FnMut() -> PyResult<Option<Piece>>,
    work: impl Fn(Piece) -> Result<Done, Failure> + Sync,
    mut take: impl FnMut(Done) -> PyResult<()>,
) -> PyResult<()> {
    let process = Process::current();
    let pool = process.pool(threads).map_err(|failure| failure.raise(py))?;
    let work = &work;
    let result = pool.in_place_scope(|scope| {
        let (mut next, mut done) = (make()?, None);
        while let Some(piece) = next {
            let receiver = begun(scope, move || work(piece));
            let here = done.take().map_or(Ok(()), &mut take).and_then(|()| make());
            // Even if something is wrong here: others may have Python's lock while this thread waits for the end.
            let there = waited(py, receiver, || ());
            (next, done) = (here?, Some(there?));
        }
        done.map_or(Ok(()), take)
    });
    process.messages.deliver(py)?;
    result
}

/// Has a thread compute; what comes of it can be received.
fn begun<'scope, R: Send + 'scope>(
    scope: &Scope<'scope>,
    work: impl FnOnce() -> Result<R, Failure> + Send + 'scope,
) -> Receiver<Result<R, Failure>> {
    let (sender, receiver) = channel();
    scope.spawn(move |_| {
        sender.send(caught(work)).ok();
    });
    receiver
}

/// Waits for what a thread computes. When Python has an exception ready, `stop` is called; it is raised in the end.
fn waited<R: Send>(py: Python<'_>, mut receiver: Receiver<Result<R, Failure>>, stop: impl Fn()) -> PyResult<R> {
    let mut interrupt = None;
    let result = loop {
        let received;
        (received, receiver) = py.detach(move || (receiver.recv_timeout(SIGNALS), receiver));
        match received {
            Ok(result) => break result,
            Err(RecvTimeoutError::Disconnected) => break Err(Failure::new("internal error: a computation ended without a result")),
            Err(RecvTimeoutError::Timeout) => {
                if let Err(error) = Process::current().messages.deliver(py).and_then(|()| py.check_signals()) {
                    stop();
                    interrupt.get_or_insert(error);
                }
            }
        }
    };
    match interrupt {
        Some(error) => Err(error),
        None => result.map_err(|failure| failure.raise(py)),
    }
}
