//! The zip archives of `torch.save`, `torch.jit.save` and `torch.package`.
//!
//! All three have one top folder `<root>/`:
//!
//! | kind | pickles | storages | other |
//! |---|---|---|---|
//! | [`ArchiveKind::Saved`] | `data.pkl` | `data/<key>` | `byteorder`, `version` |
//! | [`ArchiveKind::Script`] | `data.pkl`, `constants.pkl` | `data/<key>` | `code/**`, `extra/*` |
//! | [`ArchiveKind::Package`] | `<package>/<resource>.pkl` | `.data/<key>.storage` | `.data/extern_modules`, sources |
//!
//! Entries are normally stored; deflated ones are accepted within [`Limits::compression_ratio`]. Nothing is ever
//! extracted to disk, yet names that would escape a folder, or occur twice, are refused: a reader that saw another
//! entry than this one would load other weights.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};

use zip::read::{ArchiveOffset, Config};
use zip::{CompressionMethod, ZipArchive, result::ZipError};

use crate::limits::Limits;

/// What kind of archive PyTorch wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArchiveKind {
    /// `torch.save`: one pickle and its storages.
    Saved,
    /// `torch.jit.save`: a compiled TorchScript program.
    Script,
    /// `torch.package`: pickles bundled with Python sources.
    Package,
}

/// Order of the bytes of a number in the storages of an archive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ByteOrder {
    /// Least significant byte first; what archives without a `byteorder` entry have.
    #[default]
    Little,
    /// Most significant byte first.
    Big,
}

/// What a file that is not a zip archive seems to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoundFormat {
    /// Nothing at all.
    Empty,
    /// `torch.save` before PyTorch 1.6: concatenated pickles and raw storages.
    LegacyTorch,
    /// `torch.save` before PyTorch 0.1.10: a tar archive.
    LegacyTorchTar,
    /// A pickle on its own.
    BarePickle,
    /// A safetensors file.
    Safetensors,
    /// gzip-compressed data.
    Gzip,
    /// HDF5 data.
    Hdf5,
    /// The text that Git LFS keeps in place of a large file.
    GitLfsPointer,
    /// A web page.
    WebPage,
    /// The first bytes of a zip archive without its directory.
    TruncatedZip,
    /// None of these.
    Unknown,
}

impl FoundFormat {
    fn of(head: &[u8]) -> Self {
        // `torch.save` of old wrote the pickled integer 0x1950a86a20f9469cfc6c first.
        const LEGACY_MAGIC: &[u8] = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
        let text = head.trim_ascii_start();
        if head.is_empty() {
            Self::Empty
        } else if head.starts_with(b"PK\x03\x04") || head.starts_with(b"PK\x05\x06") {
            Self::TruncatedZip
        } else if head.get(2..).is_some_and(|rest| rest.starts_with(LEGACY_MAGIC)) {
            Self::LegacyTorch
        } else if head.get(257..262) == Some(b"ustar") {
            Self::LegacyTorchTar
        } else if head.get(8..10) == Some(b"{\"") {
            Self::Safetensors
        } else if head[0] == 0x80 && head.get(1).is_some_and(|&protocol| protocol <= 5) {
            Self::BarePickle
        } else if head.starts_with(b"\x1f\x8b") {
            Self::Gzip
        } else if head.starts_with(b"\x89HDF\r\n") {
            Self::Hdf5
        } else if head.starts_with(b"version https://git-lfs") {
            Self::GitLfsPointer
        } else if text.len() >= 5 && (text[..5].eq_ignore_ascii_case(b"<html") || text[..5].eq_ignore_ascii_case(b"<!doc")) {
            Self::WebPage
        } else {
            Self::Unknown
        }
    }

    fn describe(self) -> &'static str {
        match self {
            Self::Empty => "an empty file",
            Self::LegacyTorch => "a file written by `torch.save` before PyTorch 1.6",
            Self::LegacyTorchTar => "a tar archive, perhaps written by `torch.save` before PyTorch 0.1.10",
            Self::BarePickle => "a bare pickle without an archive around it",
            Self::Safetensors => "a safetensors file",
            Self::Gzip => "gzip-compressed data",
            Self::Hdf5 => "an HDF5 file",
            Self::GitLfsPointer => "a Git LFS pointer, which only names the file that holds the weights",
            Self::WebPage => "a web page",
            Self::TruncatedZip => "the beginning of a zip archive without its directory (truncated)",
            Self::Unknown => "not a zip archive",
        }
    }
}

/// Why an archive was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// The file is not a zip archive.
    #[error("this is {}, not an archive of PyTorch", .found.describe())]
    NotAnArchive {
        /// What it seems to be.
        found: FoundFormat,
    },
    /// The zip archive has no place for the records of PyTorch.
    #[error("the zip archive holds no `<name>/data.pkl`, so `torch.save` did not write it")]
    NoPickle,
    /// Two folders hold a pickle.
    #[error("the zip archive holds several pickles, `{first}` and `{second}`; which one is meant is not clear")]
    SeveralPickles {
        /// One of them.
        first: String,
        /// Another.
        second: String,
    },
    /// The zip structure is broken.
    #[error("the zip archive is damaged: {reason}")]
    Damaged {
        /// What the zip reader found.
        reason: String,
    },
    /// One entry cannot be read.
    #[error("entry `{entry}` of the zip archive is damaged: {reason}")]
    DamagedEntry {
        /// Name of the entry.
        entry: String,
        /// What the zip reader found.
        reason: String,
    },
    /// An entry is encrypted, a link, or packed in a way PyTorch does not use.
    #[error("entry `{entry}` of the zip archive is {what}, which PyTorch does not write")]
    UnsupportedEntry {
        /// Name of the entry.
        entry: String,
        /// What is unusual about it.
        what: &'static str,
    },
    /// An entry name that leaves its folder or cannot be a name.
    #[error("the zip archive holds an entry with the unsafe name {entry:?}")]
    UnsafeName {
        /// The name.
        entry: String,
    },
    /// One name occurs twice, or two entries share bytes.
    #[error("the zip archive holds {what}, as no honest archive does")]
    Ambiguous {
        /// What is wrong.
        what: &'static str,
    },
    /// An entry that the pickle or a caller refers to does not exist.
    #[error("the zip archive holds no entry `{entry}`; the archive is incomplete")]
    MissingEntry {
        /// Name of the entry.
        entry: String,
    },
    /// A limit is exceeded.
    #[error("{what} is {found}, above the limit of {limit}")]
    TooLarge {
        /// What is too large, with its unit.
        what: String,
        /// Its size.
        found: u64,
        /// The limit.
        limit: u64,
    },
    /// The `byteorder` entry is neither `little` nor `big`.
    #[error("the archive gives its byte order as {found:?}; `little` or `big` was expected")]
    ByteOrder {
        /// What it says.
        found: String,
    },
    /// Reading failed.
    #[error("reading failed")]
    Io(#[from] std::io::Error),
}

impl ArchiveError {
    /// What the user can do next.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::NotAnArchive { found } => match found {
                FoundFormat::Empty | FoundFormat::TruncatedZip | FoundFormat::WebPage => {
                    "fetch the file again and compare its size and checksum with the publisher's"
                }
                FoundFormat::LegacyTorch | FoundFormat::LegacyTorchTar => {
                    "where you trust the file, load it in Python and save it again: \
                     `torch.save(torch.load(path, map_location='cpu'), new_path)`"
                }
                FoundFormat::GitLfsPointer => "run `git lfs pull` in the repository it came from",
                FoundFormat::Gzip => "decompress it first: `gunzip FILE`",
                FoundFormat::Safetensors => "a safetensors artifact is opened directly, not imported",
                FoundFormat::BarePickle | FoundFormat::Hdf5 | FoundFormat::Unknown => {
                    "MACE models (`torch.save(model)`), SevenNet checkpoints and NequIP packages can be read"
                }
            },
            Self::NoPickle => "MACE models (`torch.save(model)`), SevenNet checkpoints and NequIP packages can be read",
            Self::Damaged { .. } | Self::DamagedEntry { .. } | Self::MissingEntry { .. } => {
                "fetch the file again and compare its size and checksum with the publisher's"
            }
            Self::UnsafeName { .. } | Self::Ambiguous { .. } | Self::TooLarge { .. } => {
                "the file may be made to do harm; get it from its publisher"
            }
            _ => return None,
        };
        Some(hint.into())
    }
}

/// One entry of the archive.
#[derive(Clone, Copy, Debug)]
struct Entry {
    index: usize,
    size: u64,
}

/// An opened archive. Entries are named relative to the top folder.
#[derive(Debug)]
pub struct TorchArchive<R> {
    zip: ZipArchive<R>,
    root: String,
    kind: ArchiveKind,
    byte_order: ByteOrder,
    entries: BTreeMap<String, Entry>,
}

impl<R: Read + Seek> TorchArchive<R> {
    /// Opens an archive and checks its directory.
    ///
    /// # Errors
    /// [`ArchiveError`] where the bytes are no zip archive, the archive was not written by PyTorch, a name or size
    /// is not what an honest archive has, or a limit is exceeded.
    pub fn open(mut reader: R, limits: &Limits) -> Result<Self, ArchiveError> {
        let file_bytes = reader.seek(SeekFrom::End(0))?;
        check_limit("the size of the file in bytes", file_bytes, limits.archive_bytes)?;
        reader.seek(SeekFrom::Start(0))?;
        let mut head = Vec::with_capacity(512);
        reader.by_ref().take(512).read_to_end(&mut head)?;

        // PyTorch writes archives from the first byte on. Guessing where one begins would find those nested in stored entries.
        let start = Config { archive_offset: ArchiveOffset::Known(0) };
        let mut zip = ZipArchive::with_config(start, reader).map_err(|error| match error {
            ZipError::Io(error) if error.kind() != std::io::ErrorKind::UnexpectedEof => ArchiveError::Io(error),
            _ if FoundFormat::of(&head) != FoundFormat::Unknown => ArchiveError::NotAnArchive { found: FoundFormat::of(&head) },
            ZipError::InvalidArchive(reason) if head.starts_with(b"PK") => ArchiveError::Damaged { reason: reason.into_owned() },
            _ => ArchiveError::NotAnArchive { found: FoundFormat::Unknown },
        })?;
        check_limit("the number of zip entries", zip.len() as u64, limits.archive_entries as u64)?;
        if zip.has_duplicate_names() {
            return Err(ArchiveError::Ambiguous { what: "two entries of one name" });
        }

        let mut all = BTreeMap::new();
        let mut total: u64 = 0;
        for index in 0..zip.len() {
            let (name, entry) = checked_entry(&mut zip, index, file_bytes, limits)?;
            total = total.saturating_add(entry.size);
            check_limit("the sum of all entries in bytes", total, limits.archive_bytes)?;
            if !name.ends_with('/') {
                all.insert(name, entry);
            }
        }
        if zip.has_overlapping_entries().map_err(damaged)? {
            return Err(ArchiveError::Ambiguous { what: "entries that share bytes" });
        }

        let (root, kind) = find_root(&all)?;
        let prefix = format!("{root}/");
        let entries = all.into_iter().filter_map(|(name, entry)| name.strip_prefix(&prefix).map(|name| (name.to_owned(), entry))).collect();
        let mut archive = Self { zip, root, kind, byte_order: ByteOrder::Little, entries };
        if archive.contains("byteorder") {
            let order = archive.read("byteorder", 64)?;
            archive.byte_order = match order.trim_ascii() {
                b"little" => ByteOrder::Little,
                b"big" => ByteOrder::Big,
                other => {
                    return Err(ArchiveError::ByteOrder { found: String::from_utf8_lossy(other).into_owned() });
                }
            };
        }
        Ok(archive)
    }

    /// Name of the top folder.
    pub fn root(&self) -> &str {
        &self.root
    }

    /// Which writer the archive came from.
    pub fn kind(&self) -> ArchiveKind {
        self.kind
    }

    /// Byte order of the storages.
    pub fn byte_order(&self) -> ByteOrder {
        self.byte_order
    }

    /// Names of all entries below the top folder, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Whether an entry of this name (relative to the top folder) exists.
    pub fn contains(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// Reads the entry of this name (relative to the top folder) and verifies its CRC-32.
    ///
    /// # Errors
    /// [`ArchiveError::MissingEntry`], [`ArchiveError::TooLarge`] above `max_bytes`,
    /// [`ArchiveError::DamagedEntry`] where size or checksum are not as declared.
    pub fn read(&mut self, name: &str, max_bytes: u64) -> Result<Vec<u8>, ArchiveError> {
        let full_name = format!("{}/{name}", self.root);
        let Some(&Entry { index, size }) = self.entries.get(name) else {
            return Err(ArchiveError::MissingEntry { entry: full_name });
        };
        if size > max_bytes {
            return Err(ArchiveError::TooLarge {
                what: format!("the size of zip entry `{full_name}` in bytes"),
                found: size,
                limit: max_bytes,
            });
        }
        let damaged_entry = |reason: String| ArchiveError::DamagedEntry { entry: full_name.clone(), reason };
        let mut file = self.zip.by_index(index).map_err(|error| damaged_entry(error.to_string()))?;
        let mut bytes = Vec::new();
        // The size was bounded by the length of the file when the archive was opened; a deflated entry grows as
        // it is unpacked.
        if file.compression() == CompressionMethod::Stored {
            let capacity = usize::try_from(size).map_err(|error| damaged_entry(error.to_string()))?;
            bytes.try_reserve_exact(capacity.saturating_add(1)).map_err(|error| damaged_entry(error.to_string()))?;
        }
        file.by_ref().take(size.saturating_add(1)).read_to_end(&mut bytes).map_err(|error| damaged_entry(error.to_string()))?;
        if bytes.len() as u64 != size {
            return Err(damaged_entry(format!("{size} bytes were declared, {} or more are there", bytes.len())));
        }
        Ok(bytes)
    }

    /// Name of the entry that holds the storage `key`, relative to the top folder.
    pub fn storage_entry(&self, key: &str) -> String {
        match self.kind {
            ArchiveKind::Package => format!(".data/{key}.storage"),
            ArchiveKind::Saved | ArchiveKind::Script => format!("data/{key}"),
        }
    }

    /// Size in bytes of the storage `key`, where it exists.
    pub fn storage_bytes(&self, key: &str) -> Option<u64> {
        self.entries.get(&self.storage_entry(key)).map(|entry| entry.size)
    }

    /// Reads the raw bytes of the storage `key`.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_storage(&mut self, key: &str) -> Result<Vec<u8>, ArchiveError> {
        self.read(&self.storage_entry(key), u64::MAX)
    }
}

fn damaged(error: ZipError) -> ArchiveError {
    match error {
        ZipError::Io(error) if error.kind() != std::io::ErrorKind::UnexpectedEof => ArchiveError::Io(error),
        other => ArchiveError::Damaged { reason: other.to_string() },
    }
}

fn check_limit(what: &str, found: u64, limit: u64) -> Result<(), ArchiveError> {
    if found > limit {
        return Err(ArchiveError::TooLarge { what: what.into(), found, limit });
    }
    Ok(())
}

/// Name and size of one directory entry, or why it is refused.
fn checked_entry<R: Read + Seek>(
    zip: &mut ZipArchive<R>,
    index: usize,
    file_bytes: u64,
    limits: &Limits,
) -> Result<(String, Entry), ArchiveError> {
    // Below this size no ratio does harm.
    const ALWAYS_ALLOWED: u64 = 1 << 20;

    let file = zip.by_index_data(index).map_err(damaged)?;
    let raw = file.name_raw();
    let entry = String::from_utf8_lossy(raw).into_owned();
    if std::str::from_utf8(raw).is_err() || !is_safe_name(&entry) {
        return Err(ArchiveError::UnsafeName { entry });
    }
    let unsupported = |what| ArchiveError::UnsupportedEntry { entry: entry.clone(), what };
    if file.encrypted() {
        return Err(unsupported("encrypted"));
    }
    if file.is_symlink() {
        return Err(unsupported("a symbolic link"));
    }
    let (size, packed) = (file.size(), file.compressed_size());
    if packed > file_bytes {
        return Err(ArchiveError::DamagedEntry { entry, reason: format!("{packed} bytes were declared, the whole file has {file_bytes}") });
    }
    match file.compression() {
        CompressionMethod::Stored if size == packed => {}
        CompressionMethod::Stored => {
            return Err(ArchiveError::DamagedEntry {
                entry,
                reason: format!("it is stored unpacked, yet {packed} bytes are declared to hold {size}"),
            });
        }
        CompressionMethod::Deflated => {
            if size > ALWAYS_ALLOWED && size / limits.compression_ratio.max(1) > packed {
                return Err(ArchiveError::TooLarge {
                    what: format!("the compression ratio of zip entry `{entry}`"),
                    found: size / packed.max(1),
                    limit: limits.compression_ratio,
                });
            }
        }
        _ => return Err(unsupported("packed by a method other than deflate")),
    }
    Ok((entry, Entry { index, size }))
}

/// Whether a name is relative and stays below its folder on every operating system.
fn is_safe_name(name: &str) -> bool {
    let path = name.strip_suffix('/').unwrap_or(name);
    !path.is_empty()
        && !name.chars().any(|c| c.is_control() || matches!(c, '\\' | ':'))
        && path.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

/// The top folder and what wrote the archive.
fn find_root(all: &BTreeMap<String, Entry>) -> Result<(String, ArchiveKind), ArchiveError> {
    let top = |suffix: &str| {
        let mut roots = all.keys().filter_map(|name| name.strip_suffix(suffix)?.strip_suffix('/')).filter(|root| !root.contains('/'));
        (roots.next().map(str::to_owned), roots.next().map(str::to_owned))
    };
    match top("data.pkl") {
        (Some(first), Some(second)) => Err(ArchiveError::SeveralPickles { first, second }),
        (Some(root), None) => {
            let is_script = all.contains_key(&format!("{root}/constants.pkl"))
                || all.keys().any(|name| name.strip_prefix(&root).is_some_and(|rest| rest.starts_with("/code/")));
            let kind = if is_script { ArchiveKind::Script } else { ArchiveKind::Saved };
            Ok((root, kind))
        }
        (None, _) => match top(".data/extern_modules") {
            (Some(root), None) => Ok((root, ArchiveKind::Package)),
            _ => Err(ArchiveError::NoPickle),
        },
    }
}
