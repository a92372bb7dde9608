//! What can be wrong with a configuration, and where.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Which text a value was read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A file.
    File(Arc<Path>),
    /// A preset of this name.
    Preset(Arc<str>),
    /// An override of the command line, as it was written.
    Override(Arc<str>),
}

/// Where a key stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// In which text.
    pub source: Source,
    /// Line, from 1.
    pub line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Source::File(path) => write!(f, "{}, line {}", path.display(), self.line),
            Source::Preset(name) => write!(f, "preset `{name}`, line {}", self.line),
            Source::Override(text) => write!(f, "override `{text}`"),
        }
    }
}

/// What could have been written, and which of it may have been meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// What may have been meant; a key with its tables.
    pub suggestion: Option<String>,
    /// Everything that there is.
    pub names: Vec<String>,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// It is not TOML.
    #[error("{place}, column {column}: {message}")]
    Syntax {
        /// Where.
        place: Place,
        /// Column, from 1.
        column: usize,
        /// What the parser said.
        message: String,
    },
    /// A key that does not exist.
    #[error("{place}: there is no key `{key}`")]
    UnknownKey {
        /// The key with the tables it is in: `training.max_epoch`.
        key: String,
        /// Where.
        place: Place,
        /// The keys that exist there.
        known: Box<Known>,
    },
    /// A value of another type.
    #[error("{place}: `{key}` is {found}, expected {expected}")]
    Type {
        /// The key.
        key: String,
        /// Where.
        place: Place,
        /// What would do.
        expected: String,
        /// What it is.
        found: String,
    },
    /// A name that is not among those that exist.
    #[error("{place}: `{key}` is `{found}`; it can be {}", known.names.join(", "))]
    Choice {
        /// The key.
        key: String,
        /// Where.
        place: Place,
        /// What it is.
        found: String,
        /// What it can be.
        known: Box<Known>,
    },
    /// A value that makes no sense.
    #[error("{place}: `{key}` {reason}")]
    Value {
        /// The key.
        key: String,
        /// Where.
        place: Place,
        /// What is wrong.
        reason: String,
    },
    /// A key that has no default.
    #[error("{place}: `{key}` is missing")]
    Missing {
        /// The key.
        key: String,
        /// Where the table it belongs to is.
        place: Place,
    },
    /// A preset that does not exist.
    #[error("{place}: there is no preset `{name}`")]
    UnknownPreset {
        /// Its name.
        name: String,
        /// Where it is asked for.
        place: Place,
        /// Those that exist.
        known: Box<Known>,
    },
    /// Configurations that extend one another without end.
    #[error("{place}: `extends` leads back to itself, or through more than {depth} files")]
    EndlessExtends {
        /// Where it was given up.
        place: Place,
        /// How many are followed.
        depth: usize,
    },
    /// An override that is not `key=value`.
    #[error("override `{text}`: {reason}")]
    Override {
        /// The override.
        text: String,
        /// What is wrong.
        reason: String,
    },
    /// The configuration cannot be written as TOML.
    #[error("the configuration cannot be written: {0}")]
    Write(String),
}

impl ConfigError {
    /// What can be done about it.
    pub fn hint(&self) -> Option<String> {
        let listed = |known: &Known, what: &str| match (&known.suggestion, known.names.as_slice()) {
            (Some(name), _) => Some(format!("did you mean `{name}`?")),
            (None, []) => None,
            (None, names) => Some(format!("{what} are {}", names.join(", "))),
        };
        match self {
            Self::UnknownKey { known, .. } => listed(known, "the keys there"),
            Self::UnknownPreset { known, .. } => listed(known, "the presets"),
            // The error itself lists them.
            Self::Choice { known, .. } => known.suggestion.as_ref().and(listed(known, "")),
            Self::Override { .. } => Some("overrides are written section.key=value, such as training.max_epochs=50".into()),
            Self::Missing { .. } | Self::Io { .. } => Some("`tesseral train --init` writes a configuration with every key".into()),
            _ => None,
        }
    }
}

/// The one of `known` that `typed` may have been meant to be: by edit distance, letters of either case and `-` for `_`.
pub(super) fn nearest<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |s: &str| s.to_lowercase().replace('-', "_");
    let typed = plain(typed);
    let distance = |name: &str| strsim::damerau_levenshtein(&typed, &plain(name));
    let allowed = (typed.chars().count() / 3).max(1);
    known.into_iter().map(|name| (distance(name), name)).filter(|&(d, _)| d <= allowed).min_by_key(|&(d, _)| d).map(|(_, name)| name)
}
