//! The CUDA sources in this program.

/// Name and text of every file of `cuda/`, sorted by name.
#[must_use]
pub fn files() -> &'static [(&'static str, &'static str)] {
    include!(concat!(env!("OUT_DIR"), "/files.rs"))
}

/// The text of a file of `cuda/`, `tesseral.cuh` for example.
#[must_use]
pub fn file(name: &str) -> Option<&'static str> {
    files().iter().find(|(file, _)| *file == name).map(|&(_, text)| text)
}
