//! What can be wrong with a pickle.

use super::HIGHEST_PROTOCOL;
use crate::torch::policy;

/// Why a pickle was refused, and where.
#[derive(Debug, thiserror::Error)]
#[error("{reason} (at byte {offset})")]
pub struct PickleError {
    /// Position of the opcode, in bytes from the start of the pickle.
    pub offset: usize,
    /// What is wrong.
    pub reason: PickleFault,
}

impl PickleError {
    /// What the user can do next.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match &self.reason {
            PickleFault::ForbiddenGlobal { module, name } => policy::hint(module, name),
            PickleFault::Limit { .. } | PickleFault::NotCallable { .. } => {
                "the file may be made to do harm; get it from its publisher".into()
            }
            PickleFault::Protocol { .. } => "save the model again with a current PyTorch".into(),
            PickleFault::StorageClass { .. } | PickleFault::Unsupported { .. } => {
                "save the model again as an ordinary `torch.save(model)` on the CPU".into()
            }
            _ => "the file is damaged; fetch it again and compare its checksum".into(),
        })
    }
}

/// What can be wrong with a pickle.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum PickleFault {
    /// The pickle ends before the operand does.
    #[error("the pickle ends inside {opcode}, which needs {needed} more bytes of which {left} are left")]
    Truncated {
        /// Name of the opcode.
        opcode: &'static str,
        /// Bytes needed.
        needed: u64,
        /// Bytes left.
        left: u64,
    },
    /// The pickle has no STOP.
    #[error("the pickle ends without STOP")]
    NoStop,
    /// No protocol has this opcode.
    #[error("unknown opcode 0x{0:02x}")]
    UnknownOpcode(u8),
    /// The protocol is newer than all that are known.
    #[error("pickle protocol {found} is newer than {HIGHEST_PROTOCOL}")]
    Protocol {
        /// The protocol asked for.
        found: u8,
    },
    /// The stack holds less than the opcode takes.
    #[error("{opcode} finds nothing on the stack")]
    StackUnderflow {
        /// Name of the opcode.
        opcode: &'static str,
    },
    /// An opcode that takes all down to the mark finds none.
    #[error("{opcode} finds no mark on the stack")]
    NoMark {
        /// Name of the opcode.
        opcode: &'static str,
    },
    /// The memo has no such entry.
    #[error("memo entry {0} is read but was never written")]
    NoMemo(u64),
    /// A name outside the list of [`policy`].
    #[error("the pickle refers to `{module}.{name}`, which no checkpoint needs; it is refused")]
    ForbiddenGlobal {
        /// Module of the name.
        module: String,
        /// The name.
        name: String,
    },
    /// Something is called that is not a class or function name.
    #[error("{opcode} calls {found}, which is not a class")]
    NotCallable {
        /// Name of the opcode.
        opcode: &'static str,
        /// What is called.
        found: String,
    },
    /// An operand on the stack has the wrong type.
    #[error("{opcode} expects {expected} and finds {found}")]
    Type {
        /// Name of the opcode or function.
        opcode: &'static str,
        /// What it needs.
        expected: &'static str,
        /// What is there.
        found: String,
    },
    /// Text that is not what its opcode says.
    #[error("the operand of {opcode} is not {expected}")]
    Malformed {
        /// Name of the opcode.
        opcode: &'static str,
        /// What it should be.
        expected: &'static str,
    },
    /// A persistent id that does not name a storage.
    #[error("the persistent id is {found}; ('storage', class, key, location, size) was expected")]
    PersistentId {
        /// What is there.
        found: String,
    },
    /// A storage of numbers that cannot be read.
    #[error("storages of class `{class}` are not supported")]
    StorageClass {
        /// Name of the class.
        class: String,
    },
    /// A valid feature that no checkpoint uses.
    #[error("{what} are not supported")]
    Unsupported {
        /// The feature.
        what: &'static str,
    },
    /// A limit is exceeded.
    #[error("the pickle needs more than {limit} {what}")]
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
}
