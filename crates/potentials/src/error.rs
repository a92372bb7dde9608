//! What can go wrong with an artifact or a model built from it.

use std::path::PathBuf;

/// Errors of reading, writing and building potentials.
#[derive(Debug, thiserror::Error)]
pub enum PotentialError {
    /// The file could not be read or written.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The bytes are not a safetensors file.
    #[error("{origin}: not a readable safetensors file: {reason}")]
    NotSafetensors {
        /// File or description of the bytes.
        origin: String,
        /// What is wrong.
        reason: String,
    },
    /// A safetensors file, but not one of ours.
    #[error("{origin}: a safetensors file without a Tesseral header (metadata key `{key}` is missing)")]
    NotAnArtifact {
        /// File or description of the bytes.
        origin: String,
        /// The missing metadata key.
        key: &'static str,
    },
    /// Written by a newer version.
    #[error("{origin}: artifact format version {found}, this program reads up to {supported}")]
    Version {
        /// File or description of the bytes.
        origin: String,
        /// Version in the file.
        found: u32,
        /// Newest version that can be read.
        supported: u32,
    },
    /// The header is there but makes no sense.
    #[error("{origin}: metadata `{key}` is not valid: {reason}")]
    Header {
        /// File or description of the bytes.
        origin: String,
        /// The metadata key.
        key: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// A tensor that the architecture needs is not there.
    #[error("tensor `{name}` is missing")]
    MissingTensor {
        /// Its name.
        name: String,
    },
    /// A tensor has another shape than the configuration says.
    #[error("tensor `{name}` has shape {found:?}, the configuration needs {expected:?}")]
    Shape {
        /// Its name.
        name: String,
        /// Shape in the file.
        found: Vec<usize>,
        /// Shape that is needed.
        expected: Vec<usize>,
    },
    /// A tensor has a type that is not computed with.
    #[error("tensor `{name}` is of type {dtype}; only floating-point weights and integer tables are read")]
    Dtype {
        /// Its name.
        name: String,
        /// Type in the file.
        dtype: String,
    },
    /// A tensor holds NaN or infinity.
    #[error("tensor `{name}` holds {value} at element {index}")]
    NotFinite {
        /// Its name.
        name: String,
        /// Where.
        index: usize,
        /// What.
        value: f64,
    },
    /// The configuration contradicts itself or is beyond what is implemented.
    #[error("configuration of {what}: {reason}")]
    Config {
        /// Which part.
        what: String,
        /// What is wrong.
        reason: String,
    },
    /// An atom of an element that the model was not trained on.
    #[error("the model does not know element {symbol} (atom {atom}); it knows {known}")]
    UnknownElement {
        /// Symbol of the element.
        symbol: String,
        /// Index of the atom, from 0.
        atom: usize,
        /// The elements it knows.
        known: String,
    },
    /// A head (MACE) or modality (SevenNet) that does not exist.
    #[error("no head `{asked}`; this model has {available}")]
    NoSuchHead {
        /// What was asked for.
        asked: String,
        /// What there is.
        available: String,
    },
    /// Several heads and none was asked for.
    #[error("this model has several heads and none is the default: {available}")]
    WhichHead {
        /// What there is.
        available: String,
    },
    /// Neighbours could not be listed.
    #[error(transparent)]
    Neighbors(#[from] tesseral_atoms::neighbors::NeighborError),
    /// The graph is inconsistent: our fault.
    #[error("internal error, please report: {0}")]
    Graph(#[from] tesseral_ops::graph::GraphError),
    /// Differentiation failed.
    #[error(transparent)]
    Autograd(#[from] tesseral_ops::autograd::AutogradError),
    /// candle failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

impl PotentialError {
    /// What the user can do about it, if anything can be said.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NotSafetensors { .. } => "a MACE `.model`, SevenNet `.pth` or NequIP package is converted with `tesseral import FILE -o NAME.safetensors`; a truncated download must be fetched again".into(),
            Self::NotAnArtifact { .. } => "only files written by `tesseral import` (or `fetch`, `train`) carry the architecture and hyperparameters".into(),
            Self::Version { .. } => "update tesseral".into(),
            Self::MissingTensor { .. } | Self::Shape { .. } | Self::Header { .. } => "the file is damaged or was edited; import the original checkpoint again".into(),
            Self::UnknownElement { .. } => "choose a model that covers this element (`tesseral models` lists them) or remove the atom".into(),
            Self::WhichHead { .. } => "choose one with `--head NAME`; heads are levels of theory or data sets, their energies differ".into(),
            Self::NoSuchHead { .. } => "`tesseral info MODEL` lists the heads".into(),
            _ => return None,
        })
    }
}

/// Shorthand for results of this crate.
pub type Result<T> = std::result::Result<T, PotentialError>;

pub(crate) fn config_error(what: impl Into<String>, reason: impl Into<String>) -> PotentialError {
    PotentialError::Config { what: what.into(), reason: reason.into() }
}
