//! Compiled kernels on disk: `kernels` in `TESSERAL_CACHE`, or in `tesseral` in `XDG_CACHE_HOME` or `~/.cache`, beside models.
//!
//! An entry is named by a hash of all that it depends on, and ends with a checksum of itself. It is written under another name and renamed, so
//! that several processes may share the folder. What is damaged is made anew; a folder that cannot be written is a warning.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use fs_err as fs;
use sha2::{Digest, Sha256};

/// Starts the last bytes of an entry; the checksum follows.
const MARK: &[u8; 16] = b"tesseral kernel1";
const TAIL: usize = MARK.len() + 32;

/// The name of an entry: a hash of strings, each of which counts with its length.
pub(crate) fn key(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The folder of the cache, which need not be there yet; `None` if nothing says where it could be.
pub(crate) fn folder() -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let root = variable("TESSERAL_CACHE").or_else(|| {
        let base = variable("XDG_CACHE_HOME").filter(|path| path.is_absolute()).or_else(|| Some(variable("HOME")?.join(".cache")))?;
        Some(base.join("tesseral"))
    });
    Some(root?.join("kernels"))
}

/// The content of an entry without its tail, if it is there and whole.
pub(crate) fn read(folder: &Path, name: &str) -> Option<Vec<u8>> {
    let path = folder.join(name);
    let mut bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!("compiled kernels cannot be read from the cache: {error}");
            }
            return None;
        }
    };
    let content = bytes.len().checked_sub(TAIL);
    match content {
        Some(content) if bytes[content..] == tail(&bytes[..content]) => {
            bytes.truncate(content);
            Some(bytes)
        }
        _ => {
            tracing::warn!("{} is damaged; it is compiled again", path.display());
            None
        }
    }
}

/// Adds an entry, and says where it is.
pub(crate) fn write(folder: &Path, name: &str, content: &[u8]) -> io::Result<PathBuf> {
    fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::with_prefix_in(".new-", folder)?;
    file.write_all(content)?;
    file.write_all(&tail(content))?;
    let path = folder.join(name);
    file.persist(&path).map_err(|error| error.error)?;
    Ok(path)
}

fn tail(content: &[u8]) -> [u8; TAIL] {
    let mut tail = [0; TAIL];
    tail[..MARK.len()].copy_from_slice(MARK);
    tail[MARK.len()..].copy_from_slice(&Sha256::digest(content));
    tail
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_found_again_unless_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let (name, content) = (key(&["a", "bc"]), b"content".as_slice());
        assert_ne!(name, key(&["ab", "c"]));
        assert_eq!(read(folder.path(), &name), None);
        let path = write(folder.path(), &name, content).unwrap();
        assert_eq!(read(folder.path(), &name).as_deref(), Some(content));
        let whole = fs::read(&path).unwrap();
        for damaged in [&whole[..whole.len() - 1], &whole[1..], &[], content] {
            fs::write(&path, damaged).unwrap();
            assert_eq!(read(folder.path(), &name), None);
        }
        write(folder.path(), &name, content).unwrap();
        assert_eq!(read(folder.path(), &name).as_deref(), Some(content));
        // Nothing but the entry is left.
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
