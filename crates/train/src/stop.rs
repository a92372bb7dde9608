//! Requests to stop.

use std::sync::atomic::{AtomicBool, Ordering};

/// A request to stop, which may come at any moment (Ctrl-C, SIGTERM). What takes long asks for it between its parts.
#[derive(Debug, Clone, Copy)]
pub struct Stop<'a>(Option<&'a AtomicBool>);

/// Something was left because of a request to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it was asked to stop")]
pub struct Stopped;

impl<'a> Stop<'a> {
    /// The request is made when `flag` becomes true.
    pub fn new(flag: &'a AtomicBool) -> Self {
        Self(Some(flag))
    }

    /// No request will ever be made.
    pub fn never() -> Self {
        Self(None)
    }

    /// Whether the request was made.
    pub fn is_asked(self) -> bool {
        self.0.is_some_and(|flag| flag.load(Ordering::Relaxed))
    }

    /// Goes on only if the request was not made.
    ///
    /// # Errors
    /// [`Stopped`] if it was.
    pub fn check(self) -> Result<(), Stopped> {
        if self.is_asked() { Err(Stopped) } else { Ok(()) }
    }
}
