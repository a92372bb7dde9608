//! How failures are told: `error:`, the chain of causes, `hint:` lines, and the exit code.

use std::fmt;
use std::io::Write;
use std::process::ExitCode;

use anstyle::{AnsiColor, Style};
use tesseral_atoms::io::ReadError;
use tesseral_atoms::labels::LabelError;
use tesseral_atoms::{ForceError, StructureError};
use tesseral_infer::InferError;
use tesseral_loader::LoadError;
use tesseral_models::CacheError;
use tesseral_potentials::error::PotentialError;
use tesseral_simulate::SimulateError;
use tesseral_simulate::ipi::IpiError;
use tesseral_train::TrainError;
use tesseral_train::config::ConfigError;
use tesseral_train::data::DataError;

use crate::progress;

/// Red and bold: what went wrong.
pub(crate) const ERROR: Style = AnsiColor::Red.on_default().bold();
/// Yellow and bold: what may be wrong.
pub(crate) const WARNING: Style = AnsiColor::Yellow.on_default().bold();
/// Cyan and bold: what to do.
pub(crate) const HINT: Style = AnsiColor::Cyan.on_default().bold();

/// Exit code of a failure.
const FAILURE: u8 = 1;
/// Exit code of a wrong use of the command line.
const USAGE: u8 = 2;
/// Exit code of what was told to end: what shells give programs that SIGINT ends, so that scripts stop as they would for those.
pub(crate) const INTERRUPTED: u8 = 130;

/// A failure with a next step.
#[derive(Debug)]
pub(crate) struct Hinted {
    message: String,
    hint: Option<String>,
    code: u8,
    source: Option<anyhow::Error>,
}

impl Hinted {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, code: FAILURE, source: None }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Marks a wrong use of the command line: exit code 2.
    pub(crate) fn usage(mut self) -> Self {
        self.code = USAGE;
        self
    }

    /// Marks what was told to end and saved what it had.
    pub(crate) fn interrupted(mut self) -> Self {
        self.code = INTERRUPTED;
        self
    }

    pub(crate) fn because(mut self, source: impl Into<anyhow::Error>) -> Self {
        self.source = Some(source.into());
        self
    }
}

impl fmt::Display for Hinted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Hinted {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| -> &(dyn std::error::Error + 'static) { source.as_ref() })
    }
}

/// Standard output was closed by the program that read it: `tesseral … | head`. That is success.
#[derive(Debug, thiserror::Error)]
#[error("standard output was closed")]
pub(crate) struct OutputClosed;

pub(crate) fn is_closed_output(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.is::<OutputClosed>())
}

/// The exit code that the error or one of its causes asks for.
pub(crate) fn exit_code(error: &anyhow::Error) -> ExitCode {
    let code = |cause: &(dyn std::error::Error + 'static)| cause.downcast_ref::<Hinted>().map(|hinted| hinted.code);
    ExitCode::from(error.chain().filter_map(code).find(|&code| code != FAILURE).unwrap_or(FAILURE))
}

/// Prints an error, its causes and its hints to standard error.
pub(crate) fn report(error: &anyhow::Error) {
    progress::suspend(|| {
        let mut stderr = anstream::stderr().lock();
        // Nobody is left to be told if standard error is closed.
        print(&mut stderr, error).ok();
    });
}

fn print(w: &mut impl Write, error: &anyhow::Error) -> std::io::Result<()> {
    let mut previous = error.to_string();
    writeln!(w, "{ERROR}error{ERROR:#}: {previous}")?;
    for cause in error.chain().skip(1) {
        let text = cause.to_string();
        // Many errors say their cause themselves.
        if !previous.contains(&text) {
            writeln!(w, "  {ERROR}caused by{ERROR:#}: {text}")?;
            previous = text;
        }
    }
    for hint in hints(error) {
        writeln!(w, "{HINT}hint{HINT:#}: {hint}")?;
    }
    Ok(())
}

/// One line for an error and its causes, for JSON.
pub(crate) fn one_line(error: &anyhow::Error) -> String {
    let mut line = error.to_string();
    for cause in error.chain().skip(1) {
        let text = cause.to_string();
        if !line.contains(&text) {
            line = format!("{line}: {text}");
        }
    }
    line
}

/// The next steps that the error and its causes know, without repetition.
pub(crate) fn hints(error: &anyhow::Error) -> Vec<String> {
    let mut hints: Vec<String> = Vec::new();
    for hint in error.chain().filter_map(hint_of) {
        if !hints.contains(&hint) {
            hints.push(hint);
        }
    }
    hints
}

/// Every error type of the libraries that knows a next step.
fn hint_of(cause: &(dyn std::error::Error + 'static)) -> Option<String> {
    if let Some(error) = cause.downcast_ref::<Hinted>() {
        error.hint.clone()
    } else if let Some(error) = cause.downcast_ref::<ReadError>() {
        error.hint().map(str::to_owned)
    } else if let Some(InferError::Structure(error)) = cause.downcast_ref::<InferError>() {
        Some(error.hint().to_owned())
    } else if let Some(error) = cause.downcast_ref::<InferError>() {
        error.hint()
    } else if let Some(error) = cause.downcast_ref::<PotentialError>() {
        error.hint()
    } else if let Some(error) = cause.downcast_ref::<tesseral_import::ImportError>() {
        error.hint()
    } else if let Some(error) = cause.downcast_ref::<StructureError>() {
        Some(error.hint().to_owned())
    } else if let Some(error) = cause.downcast_ref::<LabelError>() {
        Some(error.hint().to_owned())
    } else if let Some(error) = cause.downcast_ref::<TrainError>() {
        error.hint()
    } else if let Some(error) = cause.downcast_ref::<ConfigError>() {
        error.hint()
    } else if let Some(error) = cause.downcast_ref::<DataError>() {
        error.hint()
    } else if let Some(error) = cause.downcast_ref::<SimulateError>() {
        error.hint()
    } else if let Some(error) = cause.downcast_ref::<IpiError>() {
        error.hint()
    } else if let Some(error) = cause.downcast_ref::<ForceError>() {
        hint_of(error.inner())
    } else if let Some(error) = cause.downcast_ref::<CacheError>() {
        error.hint()
    } else if let Some(error) = cause.downcast_ref::<LoadError>() {
        error.hint()
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_printed_once_and_hints_after_them() {
        let inner = std::io::Error::other("disk full");
        let error = anyhow::Error::new(Hinted::new("cannot write x").hint("make room").because(inner)).context("cannot write x");
        let mut text = anstream::StripStream::new(Vec::new());
        print(&mut text, &error).unwrap();
        let text = String::from_utf8(text.into_inner()).unwrap();
        assert_eq!(text, "error: cannot write x\n  caused by: disk full\nhint: make room\n");
        assert_eq!(one_line(&error), "cannot write x: disk full");
        assert!(!is_closed_output(&error));
        assert!(is_closed_output(&anyhow::Error::new(OutputClosed).context("printing")));
    }
}
