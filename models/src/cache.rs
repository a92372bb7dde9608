//! The folder in which fetched models are kept.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Environment variable that names the cache folder.
pub const CACHE_VARIABLE: &str = "TESSERAL_CACHE";

/// The folder in which fetched models are kept: `models/NAME.safetensors` with a `models/NAME.toml` that says where it
/// came from.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

/// Where an installed model came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Canonical name of the model.
    pub name: String,
    /// Where the checkpoint was published.
    pub source: String,
    /// SHA-256 of the checkpoint, lower-case hexadecimal.
    pub sha256: String,
    /// Short name of the licence.
    pub licence: String,
}

/// The cache cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// Neither the environment nor the home folder says where the cache is.
    #[error("no folder to keep models in: the home folder is not known")]
    NoFolder,
    /// The operating system's message names the file.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// A record that is not the TOML that was written.
    #[error("{path} is damaged", path = .path.display())]
    Damaged {
        /// The record.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<toml::de::Error>,
    },
}

impl CacheError {
    /// A next step for the person who reads the error.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoFolder => Some(format!("set {CACHE_VARIABLE} to a folder that can be written to")),
            Self::Io(_) => Some(format!("set {CACHE_VARIABLE} to another folder if this one cannot be written to")),
            Self::Damaged { path, .. } => Some(format!("delete {} and fetch the model again", path.display())),
        }
    }
}

impl Cache {
    /// A cache in the given folder, which need not exist yet.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The cache of this user: `$TESSERAL_CACHE`, else `tesseral` in `$XDG_CACHE_HOME`, `%LOCALAPPDATA%` or `~/.cache`.
    ///
    /// # Errors
    /// [`CacheError::NoFolder`] if none of them is set.
    pub fn of_user() -> Result<Self, CacheError> {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        if let Some(root) = variable(CACHE_VARIABLE) {
            return Ok(Self::new(root));
        }
        // The XDG specification says that relative paths are to be ignored.
        let base = variable("XDG_CACHE_HOME")
            .filter(|path| path.is_absolute())
            .or_else(|| variable("LOCALAPPDATA"))
            .or_else(|| std::env::home_dir().filter(|home| !home.as_os_str().is_empty()).map(|home| home.join(".cache")))
            .ok_or(CacheError::NoFolder)?;
        Ok(Self::new(base.join("tesseral")))
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the artifact of a model is, or would be. The name must be a canonical one.
    pub fn artifact(&self, name: &str) -> PathBuf {
        self.models().join(format!("{name}.safetensors"))
    }

    /// True if the model has been fetched.
    pub fn contains(&self, name: &str) -> bool {
        self.artifact(name).is_file()
    }

    /// The folder of the artifacts, made if it is not there.
    ///
    /// # Errors
    /// [`CacheError::Io`] if it cannot be made.
    pub fn make_models_folder(&self) -> Result<PathBuf, CacheError> {
        let folder = self.models();
        fs_err::create_dir_all(&folder)?;
        Ok(folder)
    }

    /// Where an installed model came from; `None` if there is no record.
    ///
    /// # Errors
    /// [`CacheError`] if there is a record that cannot be read.
    pub fn record(&self, name: &str) -> Result<Option<Record>, CacheError> {
        let path = self.record_path(name);
        let text = match fs_err::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let record = toml::from_str(&text).map_err(|source| CacheError::Damaged { path, source: Box::new(source) })?;
        Ok(Some(record))
    }

    /// Writes down where a model came from, in one step.
    ///
    /// # Errors
    /// [`CacheError::Io`] if it cannot be written.
    pub fn write_record(&self, record: &Record) -> Result<(), CacheError> {
        let text = toml::to_string(record).map_err(std::io::Error::other)?;
        let mut file = tempfile::NamedTempFile::new_in(self.make_models_folder()?)?;
        file.write_all(text.as_bytes())?;
        file.persist(self.record_path(&record.name)).map_err(|error| error.error)?;
        Ok(())
    }

    fn models(&self) -> PathBuf {
        self.root.join("models")
    }

    fn record_path(&self, name: &str) -> PathBuf {
        self.models().join(format!("{name}.toml"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_round_trip_and_damage_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path());
        assert_eq!(cache.record("a").unwrap(), None);
        let record = Record { name: "a".into(), source: "here".into(), sha256: "00".repeat(32), licence: "MIT".into() };
        cache.write_record(&record).unwrap();
        assert_eq!(cache.record("a").unwrap(), Some(record));
        assert!(!cache.contains("a"));
        fs_err::write(cache.artifact("a"), b"").unwrap();
        assert!(cache.contains("a"));
        fs_err::write(folder.path().join("models/a.toml"), "name = 3").unwrap();
        let error = cache.record("a").unwrap_err();
        assert!(matches!(error, CacheError::Damaged { .. }));
        assert!(error.hint().unwrap().contains("a.toml"));
    }
}
