//! Files that appear complete or not at all.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// Writes a file through a temporary one in the same folder, which takes its place only when `write` has succeeded and
/// the data are on disk. Otherwise nothing is left behind, and a file that was there before stays as it was.
///
/// A file that is replaced keeps its permissions, a new one gets those of any new file, and a symbolic link is followed.
/// What is not a regular file (a pipe, `/dev/stdout`) is written directly.
///
/// # Errors
/// The error of `write`, or an I/O error that names the path.
pub fn write_atomically<T, E>(path: impl AsRef<Path>, write: impl FnOnce(&mut BufWriter<&mut File>) -> Result<T, E>) -> Result<T, E>
where
    E: From<io::Error>,
{
    let path = path.as_ref();
    let named = |error: io::Error| io::Error::new(error.kind(), format!("cannot write {}: {error}", path.display()));
    let existing = fs::metadata(path).ok();
    if let Some(metadata) = &existing
        && !metadata.is_file()
    {
        if metadata.is_dir() {
            let error = io::Error::new(io::ErrorKind::IsADirectory, "it is a directory");
            return Err(named(error).into());
        }
        let mut file = File::options().write(true).open(path).map_err(named)?;
        return buffered(&mut file, write);
    }
    let target = if existing.is_some() { fs::canonicalize(path).map_err(named)? } else { path.to_owned() };
    let folder = match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let mut builder = tempfile::Builder::new();
    builder.prefix(".tesseral-").suffix(".tmp");
    #[cfg(unix)]
    {
        // The mode of any new file: the process's umask still applies.
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    let mut temporary = builder.tempfile_in(&folder).map_err(named)?;
    let value = buffered(temporary.as_file_mut(), write)?;
    if let Some(metadata) = existing {
        temporary.as_file().set_permissions(metadata.permissions()).map_err(named)?;
    }
    temporary.as_file().sync_all().map_err(named)?;
    temporary.persist(&target).map_err(|error| named(error.error))?;
    // The new name is durable once the folder is; not every file system lets a folder be opened for that.
    #[cfg(unix)]
    if let Ok(folder) = File::open(&folder) {
        folder.sync_all().ok();
    }
    Ok(value)
}

fn buffered<T, E: From<io::Error>>(file: &mut File, write: impl FnOnce(&mut BufWriter<&mut File>) -> Result<T, E>) -> Result<T, E> {
    let mut writer = BufWriter::with_capacity(1 << 16, file);
    let value = write(&mut writer)?;
    writer.flush()?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn success_replaces_and_failure_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.txt");
        write_atomically::<_, io::Error>(&path, |w| w.write_all(b"first")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"first");
        let error = write_atomically(&path, |w| {
            w.write_all(b"second")?;
            Err::<(), _>(io::Error::other("interrupted"))
        });
        assert_eq!(error.unwrap_err().to_string(), "interrupted");
        assert_eq!(fs::read(&path).unwrap(), b"first");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        let missing = folder.path().join("no/such/folder.txt");
        let error = write_atomically::<_, io::Error>(&missing, |w| w.write_all(b"x")).unwrap_err();
        assert!(error.to_string().contains("folder.txt"), "{error}");
        assert!(write_atomically::<_, io::Error>(folder.path(), |w| w.write_all(b"x")).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn permissions_and_links_are_kept() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.txt");
        write_atomically::<_, io::Error>(&path, |w| w.write_all(b"first")).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        // Whatever the umask of this process is, a plain new file has the same mode.
        let plain = folder.path().join("plain.txt");
        fs::write(&plain, b"").unwrap();
        assert_eq!(mode(&path), mode(&plain));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let link = folder.path().join("link.txt");
        symlink(&path, &link).unwrap();
        write_atomically::<_, io::Error>(&link, |w| w.write_all(b"second")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert_eq!(mode(&path), 0o640);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    }
}
