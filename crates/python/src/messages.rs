//! What the libraries say while they compute, for Python's `logging`.
//!
//! Threads that compute do not call Python: they leave their messages here, and whoever called them takes them to Python.

use std::collections::VecDeque;
use std::fmt::{Debug, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::process::{Process, locked};

/// Messages that nobody has taken are forgotten beyond this number, the oldest first.
const MOST: usize = 1000;

/// Messages that wait for Python.
#[derive(Default)]
pub(crate) struct Messages {
    some: AtomicBool,
    waiting: Mutex<VecDeque<(Level, &'static str, String)>>,
}

impl Messages {
    fn leave(&self, level: Level, target: &'static str, text: String) {
        let mut waiting = locked(&self.waiting);
        if waiting.len() == MOST {
            waiting.pop_front();
        }
        waiting.push_back((level, target, text));
        self.some.store(true, Ordering::Release);
    }

    /// Gives all messages to `logging.getLogger("tesseral…")`. Whatever is wrong with a handler of theirs is nobody's business here.
    ///
    /// # Errors
    /// What is no `Exception`: handlers of signals run while Python logs, and Ctrl-C is for whoever called.
    pub(crate) fn deliver(&self, py: Python<'_>) -> PyResult<()> {
        if !self.some.swap(false, Ordering::Acquire) {
            return Ok(());
        }
        let messages = std::mem::take(&mut *locked(&self.waiting));
        let log = || -> PyResult<()> {
            let logging = py.import("logging")?;
            for (level, target, text) in messages {
                let level = match level {
                    Level::ERROR => 40,
                    Level::WARN => 30,
                    Level::INFO => 20,
                    _ => 10,
                };
                // tesseral_infer::device → tesseral.infer.device
                let name = target.replacen("tesseral_", "tesseral.", 1).replace("::", ".");
                logging.call_method1("getLogger", (name,))?.call_method1("log", (level, "%s", text))?;
            }
            Ok(())
        };
        match log() {
            Err(error) if error.is_instance_of::<PyException>(py) => {
                error.write_unraisable(py, None);
                Ok(())
            }
            logged => logged,
        }
    }
}

/// Listens to the libraries.
struct Listener;

/// Notes and worse of ours, warnings of others; what moyo warns of in its searches is found out otherwise.
fn is_heard(metadata: &Metadata<'_>) -> bool {
    let most = if metadata.target().starts_with("tesseral") {
        Level::INFO
    } else if metadata.target().starts_with("moyo") {
        Level::ERROR
    } else {
        Level::WARN
    };
    metadata.is_event() && *metadata.level() <= most
}

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        is_heard(metadata)
    }

    fn max_level_hint(&self) -> Option<tracing::level_filters::LevelFilter> {
        Some(tracing::level_filters::LevelFilter::INFO)
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        // Spans are not heard; identifiers are not zero.
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        struct Text(String);
        impl Visit for Text {
            fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
                // Writing to a string cannot fail.
                if field.name() == "message" {
                    write!(self.0, "{value:?}").ok();
                } else {
                    write!(self.0, " {field}={value:?}").ok();
                }
            }
        }
        let mut text = Text(String::new());
        event.record(&mut text);
        let metadata = event.metadata();
        Process::current().messages.leave(*metadata.level(), metadata.target(), text.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// Begins to listen, once in a process and its children.
pub(crate) fn listen() {
    // Fails where somebody listens already.
    tracing::subscriber::set_global_default(Listener).ok();
}
