//! The model zoo: the embedded default, the manifest of known pretrained models, the cache they are kept in, and presets of trainings.
//!
//! Only [`mod@download`] ever touches the network, and nothing calls it behind the user's back.

pub mod cache;
pub mod download;
pub mod manifest;
pub mod presets;

pub use cache::{Cache, CacheError, Record};
pub use download::{Download, FetchError, Progress, download};
pub use manifest::{Entry, Licence, Manifest, ManifestError, Source, default_manifest};
pub use presets::{PRESETS, preset};

/// Name in the manifest of the model that is part of the binary.
pub const DEFAULT_MODEL: &str = "sevennet-0";

/// The artifact of [`DEFAULT_MODEL`]: SevenNet-0 (11Jul2024), see `cards/sevennet-0.md`.
pub fn default_artifact() -> &'static [u8] {
    include_bytes!("../sevennet-0.safetensors")
}
