//! What callers are told when something is wrong.

use std::cell::RefCell;
use std::error::Error;
use std::ffi::{CStr, CString, c_char, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};

use tesseral_infer::device::DeviceChoiceError;
use tesseral_infer::{DomainError, InferError};
use tesseral_loader::LoadError;

/// `TESSERAL_OK` of the header.
pub const OK: c_int = 0;
/// `TESSERAL_ERROR` of the header.
pub const ERROR: c_int = 1;
/// `TESSERAL_DEFECT` of the header.
pub const DEFECT: c_int = 2;

/// Errors of calls through the C interface.
#[derive(Debug, thiserror::Error)]
pub enum AbiError {
    /// The model cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// It cannot be evaluated.
    #[error(transparent)]
    Infer(#[from] InferError),
    /// A device that does not exist.
    #[error(transparent)]
    Device(#[from] DeviceChoiceError),
    /// A pointer that must not be NULL.
    #[error("{what} is NULL")]
    Null {
        /// What it should point to.
        what: &'static str,
    },
    /// A struct of another size than this library's.
    #[error("{what} has a size of {given}, this library's has {expected}")]
    Size {
        /// Name of the struct.
        what: &'static str,
        /// What the caller says.
        given: u32,
        /// What is expected.
        expected: usize,
    },
    /// A text that is not UTF-8.
    #[error("{what} is not UTF-8: {text:?}")]
    Text {
        /// Which.
        what: &'static str,
        /// With replacement characters.
        text: String,
    },
    /// A number that means nothing.
    #[error("{what} is {given}: {expected}")]
    Number {
        /// Which.
        what: &'static str,
        /// The number.
        given: i64,
        /// What it may be.
        expected: &'static str,
    },
    /// No element has this symbol.
    #[error("`{symbol}` is no element")]
    NoElement {
        /// The symbol.
        symbol: String,
    },
    /// An element that the model does not know.
    #[error("{model} does not know {symbol}; it knows {known}")]
    UnknownElement {
        /// The element's symbol.
        symbol: String,
        /// Name of the model.
        model: String,
        /// What it knows.
        known: String,
    },
}

impl From<DomainError> for AbiError {
    fn from(error: DomainError) -> Self {
        Self::Infer(error.into())
    }
}

impl AbiError {
    /// What can be done about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Load(error) => error.hint(),
            Self::Infer(InferError::Structure(error)) => Some(error.hint().to_owned()),
            Self::Infer(InferError::NotOnDevice { .. }) => Some("compute it on the device cpu".to_owned()),
            Self::Infer(InferError::NotCompiled { .. }) => Some("`tesseral evaluate --engine differentiable` can evaluate it".to_owned()),
            Self::Infer(error) => error.hint(),
            Self::Size { .. } => Some(format!(
                "program and library belong to different versions of tesseral.h: compile the program with that of Tesseral {} (TESSERAL_ABI {}), and \
                 set `size` to the size of the struct",
                env!("CARGO_PKG_VERSION"),
                crate::ABI
            )),
            Self::NoElement { .. } => Some("elements are given by their symbols: Na, Cl".to_owned()),
            Self::UnknownElement { .. } => Some("`tesseral models` lists models; `tesseral info MODEL` their elements".to_owned()),
            Self::Device(_) | Self::Null { .. } | Self::Text { .. } | Self::Number { .. } => None,
        }
    }

    /// The error with its causes in one line, then its hint.
    fn text(&self) -> String {
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            let more = error.to_string();
            // Many errors say their cause themselves.
            if !text.contains(&more) {
                text = format!("{text}: {more}");
            }
            cause = error.source();
        }
        if let Some(hint) = self.hint() {
            text = format!("{text}\nhint: {hint}");
        }
        text
    }
}

thread_local! {
    static LAST: RefCell<CString> = RefCell::default();
}

fn remember(text: String) {
    // A zero would end the text early.
    let text = CString::new(text.replace('\0', "\u{fffd}")).unwrap_or_default();
    LAST.with(|last| *last.borrow_mut() = text);
}

/// The last error of this thread.
pub(crate) fn last() -> *const c_char {
    LAST.with(|last| last.borrow().as_ptr())
}

/// Runs the body of a call: whatever goes wrong becomes a code, and a message of this thread.
pub(crate) fn guarded(body: impl FnOnce() -> Result<(), AbiError>) -> c_int {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => OK,
        Ok(Err(error)) => {
            remember(error.text());
            ERROR
        }
        Err(panic) => {
            let what = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
            let what = what.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "an unknown cause".to_owned());
            remember(format!(
                "a defect in Tesseral {}: {what}\nhint: please report it, with the model and the input; what was in work is not to be used any more",
                env!("CARGO_PKG_VERSION")
            ));
            DEFECT
        }
    }
}

/// Runs a body that cannot say that it failed; then `otherwise`.
pub(crate) fn guarded_or<R>(otherwise: R, body: impl FnOnce() -> R) -> R {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or(otherwise)
}

/// A text of the caller's as Rust has it.
pub(crate) fn utf8<'a>(text: &'a CStr, what: &'static str) -> Result<&'a str, AbiError> {
    text.to_str().map_err(|_| AbiError::Text { what, text: text.to_string_lossy().into_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[allow(unsafe_code, reason = "a C string is read")]
    fn message() -> String {
        // SAFETY: it is a C string until the next call on this thread.
        unsafe { CStr::from_ptr(last()) }.to_string_lossy().into_owned()
    }

    #[test]
    fn errors_and_panics_are_messages() {
        assert_eq!(message(), "");
        assert_eq!(guarded(|| Ok(())), OK);
        assert_eq!(guarded(|| Err(AbiError::NoElement { symbol: "Q\0q".into() })), ERROR);
        assert_eq!(message(), "`Q\u{fffd}q` is no element\nhint: elements are given by their symbols: Na, Cl");
        assert_eq!(guarded(|| panic!("at number {}", 7)), DEFECT);
        let text = message();
        assert!(text.contains("a defect in Tesseral") && text.contains("at number 7\nhint: "), "{text}");
        assert_eq!(guarded(|| std::panic::panic_any(3)), DEFECT);
        assert_eq!(guarded_or(1, || panic!("nobody hears of it")), 1);
        // Other threads have errors of their own.
        assert_eq!(std::thread::spawn(message).join().unwrap_or_default(), "");
    }
}
