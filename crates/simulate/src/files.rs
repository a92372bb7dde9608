//! Files that grow during a run and can be cut back to where a saved state was.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::error::SimulateError;

/// Removes what a killed process left half written among the files of a run: `folder` belongs to that run alone.
pub fn sweep(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| name.starts_with(".tesseral-") && name.ends_with(".tmp")) {
            std::fs::remove_file(entry.path()).ok();
        }
    }
}

/// A file that is appended to. A run that goes on from a saved state cuts it back to the length it had then, so that what a killed run wrote afterwards, perhaps in part, is
/// written again rather than twice.
#[derive(Debug)]
pub struct GrowingFile {
    path: PathBuf,
    file: File,
    pending: Vec<u8>,
    len: u64,
    /// After an error nothing more is written: the file ends where it was whole.
    failed: bool,
}

/// Bytes that are kept in memory before they are handed to the system.
const PENDING: usize = 1 << 16;

impl GrowingFile {
    /// A new file; what was there is lost.
    ///
    /// # Errors
    /// If it cannot be created.
    pub fn create(path: impl Into<PathBuf>) -> Result<Self, SimulateError> {
        let path = path.into();
        let file = OpenOptions::new().create(true).write(true).truncate(true).open(&path).map_err(SimulateError::io(&path))?;
        Ok(Self { path, file, pending: Vec::new(), len: 0, failed: false })
    }

    /// The file as it was when it had `len` bytes.
    ///
    /// # Errors
    /// If it cannot be opened or is shorter than that.
    pub fn cut_back(path: impl Into<PathBuf>, len: u64) -> Result<Self, SimulateError> {
        let path = path.into();
        let mut file = OpenOptions::new().read(true).write(true).open(&path).map_err(SimulateError::io(&path))?;
        let found = file.metadata().map_err(SimulateError::io(&path))?.len();
        if found < len {
            return Err(SimulateError::Resume { path, what: format!("has {found} bytes, but had {len} when the state was saved") });
        }
        file.set_len(len).and_then(|()| file.seek(SeekFrom::End(0)).map(drop)).map_err(SimulateError::io(&path))?;
        Ok(Self { path, file, pending: Vec::new(), len, failed: false })
    }

    /// The path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes appended so far, those that are not on disk yet included.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// True if nothing has been appended.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends.
    ///
    /// # Errors
    /// If the disk is full, or another error of writing.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), SimulateError> {
        self.pending.extend_from_slice(bytes);
        self.len += bytes.len() as u64;
        if self.pending.len() >= PENDING { self.flush() } else { Ok(()) }
    }

    /// Hands everything to the system. Where that fails, the file is cut back to what was whole, and nothing is written to it any more.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub fn flush(&mut self) -> Result<(), SimulateError> {
        if self.failed || self.pending.is_empty() {
            return Ok(());
        }
        if let Err(error) = self.file.write_all(&self.pending) {
            // Half of what was to be written is of no use to anybody.
            self.failed = true;
            self.file.set_len(self.len - self.pending.len() as u64).ok();
            return Err(SimulateError::io(&self.path)(error));
        }
        self.pending.clear();
        Ok(())
    }

    /// Replaces bytes that are in the file already, such as a count in its header. What was appended before reaches the system before.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub fn overwrite(&mut self, offset: u64, bytes: &[u8]) -> Result<(), SimulateError> {
        self.flush()?;
        if self.failed {
            return Ok(());
        }
        let mut write = || {
            self.file.seek(SeekFrom::Start(offset))?;
            self.file.write_all(bytes)?;
            self.file.seek(SeekFrom::End(0)).map(drop)
        };
        write().map_err(SimulateError::io(&self.path))
    }

    /// Returns when everything is on disk: to be called before a state that remembers the length is saved.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub fn sync(&mut self) -> Result<u64, SimulateError> {
        self.flush()?;
        if self.failed {
            return Err(SimulateError::io(&self.path)(std::io::Error::other("it could not be written before")));
        }
        self.file.sync_data().map_err(SimulateError::io(&self.path))?;
        Ok(self.len)
    }
}

impl Drop for GrowingFile {
    /// What is still in memory goes out; errors of that are found by [`GrowingFile::flush`].
    fn drop(&mut self) {
        self.flush().ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cut_back_to_a_saved_length() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut file = GrowingFile::create(&path).unwrap();
        file.append(b"one\n").unwrap();
        let saved = file.sync().unwrap();
        file.append(b"tw").unwrap();
        drop(file);
        assert_eq!(std::fs::read(&path).unwrap(), b"one\ntw");
        let mut file = GrowingFile::cut_back(&path, saved).unwrap();
        file.append(b"two\n").unwrap();
        drop(file);
        assert_eq!(std::fs::read(&path).unwrap(), b"one\ntwo\n");
        let error = GrowingFile::cut_back(&path, 100).unwrap_err();
        assert!(error.to_string().contains("has 8 bytes, but had 100"), "{error}");
    }
}
