//! Frames on disk, for data sets larger than memory.
//!
//! A cached list of files is a folder with `index.json` and shards `00000.safetensors`, `00001.safetensors`, … of about 64 MiB, whose columns are
//! described in `columns.rs`. The folder's name is the SHA-256 of everything its contents depend on: the files (by contents, or by size and
//! time of modification), the settings that change what is read from them, and the version of this format. So it is never out of date; another
//! name means another cache. Folders that are no longer needed may be deleted at any time.
//!
//! Shards are memory-mapped: a frame is read when it is asked for, and nothing else is. A folder is written under a temporary name, synced and
//! renamed, and whoever writes it holds a lock on a file beside it, so that a second process waits and then finds it there. A folder that
//! turns out to be damaged is made anew.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fs_err as fs;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tesseral_atoms::io::{Problem, ReadError};

use super::columns::{ShardBuilder, ShardLayout, Tables, Words};
use super::config::{DataConfig, FileConfig, Fingerprint, KeysConfig, MissingLabels};
use super::error::DataError;
use super::frame::Frame;
use super::keys::PartReport;
use super::read::{kept_keys, read_files};
use super::source::{FrameSource, FrameSummary};
use crate::stop::Stop;

const FORMAT: &str = "tesseral-frames";
/// Changed whenever the columns, or what is read into them, change.
const VERSION: u32 = 1;
const INDEX: &str = "index.json";
/// A file that marks a folder in which a damaged frame was found.
const DAMAGED: &str = "damaged";
/// Bytes after which a shard is closed.
const SHARD_BYTES: usize = 64 << 20;

/// `index.json`.
#[derive(Debug, Serialize, Deserialize)]
struct Index {
    format: String,
    version: u32,
    frames: usize,
    shards: Vec<ShardEntry>,
    groups: Vec<String>,
    heads: Vec<String>,
    files: Vec<String>,
    info: Vec<String>,
    arrays: Vec<String>,
    report: PartReport,
}

#[derive(Debug, Serialize, Deserialize)]
struct ShardEntry {
    file: String,
    frames: usize,
    atoms: usize,
    bytes: u64,
}

/// A mapped shard.
struct Shard {
    path: PathBuf,
    map: memmap2::Mmap,
    layout: ShardLayout,
}

/// Frames that lie on disk.
pub struct CachedFrames {
    folder: PathBuf,
    /// Number of the first frame of each shard, and the number of all frames.
    starts: Vec<usize>,
    shards: Vec<Shard>,
    tables: Tables,
}

impl std::fmt::Debug for CachedFrames {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CachedFrames").field("folder", &self.folder).field("frames", &self.len()).finish_non_exhaustive()
    }
}

impl CachedFrames {
    /// The folder in which they lie.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Opens a folder.
    fn open(folder: &Path) -> Result<(Self, PartReport), DataError> {
        let path = folder.join(INDEX);
        let corrupt = |path: &Path, reason: String| DataError::Corrupt { path: path.to_owned(), reason };
        let unreadable = |path: &Path, error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => corrupt(path, "it is missing".to_owned()),
            _ => DataError::Cache { path: path.to_owned(), source: error },
        };
        if folder.join(DAMAGED).exists() {
            return Err(corrupt(folder, "a frame in it was found damaged".to_owned()));
        }
        let text = fs::read(&path).map_err(|e| unreadable(&path, e))?;
        let index: Index = serde_json::from_slice(&text).map_err(|e| corrupt(&path, e.to_string()))?;
        if index.format != FORMAT || index.version != VERSION {
            return Err(corrupt(&path, format!("it is {} {}, not {FORMAT} {VERSION}", index.format, index.version)));
        }
        let tables = Tables {
            groups: Words::new(index.groups),
            heads: Words::new(index.heads),
            files: Words::new(index.files),
            info: index.info,
            arrays: index.arrays,
        };
        let mut starts = vec![0];
        let mut shards = Vec::with_capacity(index.shards.len());
        for entry in &index.shards {
            let path = folder.join(&entry.file);
            let len = fs::metadata(&path).map_err(|e| unreadable(&path, e))?.len();
            if len != entry.bytes {
                return Err(corrupt(&path, format!("it has {len} bytes instead of {}", entry.bytes)));
            }
            let map = map(&path).map_err(|e| unreadable(&path, e))?;
            let layout = ShardLayout::new(&map, entry.frames, entry.atoms, &tables).map_err(|reason| corrupt(&path, reason))?;
            starts.push(starts[starts.len() - 1] + layout.frames());
            shards.push(Shard { path, map, layout });
        }
        if starts.last() != Some(&index.frames) || index.report.frames() != index.frames {
            return Err(corrupt(&path, "its numbers of frames do not agree".to_owned()));
        }
        Ok((Self { folder: folder.to_owned(), starts, shards, tables }, index.report))
    }

    fn place(&self, index: usize) -> (&Shard, usize) {
        assert!(index < self.len(), "frame {index} is beyond the {} of the cache", self.len());
        let shard = self.starts.partition_point(|&start| start <= index) - 1;
        (&self.shards[shard], index - self.starts[shard])
    }

    /// Leaves a mark, so that the folder is made anew when it is opened the next time.
    fn mark_damaged(&self) {
        fs::write(self.folder.join(DAMAGED), b"").ok();
    }
}

impl FrameSource for CachedFrames {
    fn len(&self) -> usize {
        self.starts.last().copied().unwrap_or(0)
    }

    fn frame(&self, index: usize) -> Result<Arc<Frame>, DataError> {
        let (shard, local) = self.place(index);
        shard.layout.frame(&shard.map, local, &self.tables, &shard.path).map(Arc::new).inspect_err(|_| self.mark_damaged())
    }

    fn summary(&self, index: usize) -> Result<FrameSummary, DataError> {
        let (shard, local) = self.place(index);
        shard.layout.summary(&shard.map, local, &self.tables).ok_or_else(|| {
            self.mark_damaged();
            DataError::Corrupt { path: shard.path.clone(), reason: format!("its frame {local} names a word that is not in the index") }
        })
    }
}

#[allow(unsafe_code, reason = "memory mapping")]
fn map(path: &Path) -> io::Result<memmap2::Mmap> {
    let file = fs::File::open(path)?;
    // SAFETY: the map is read-only and private. Shards are written under another name before they are opened, and never changed in place
    // afterwards: a damaged folder is moved away and deleted as a whole, which leaves maps of its files as they are.
    unsafe { memmap2::Mmap::map(file.file()) }
}

/// Opens the cache of a list of files below `folder`, or reads the files into a new one.
///
/// # Errors
/// What [`read_files`] returns, also because it is asked to stop; [`DataError::Cache`] if the folder cannot be read or written.
pub fn open_or_build(
    folder: &Path,
    files: &[FileConfig],
    config: &DataConfig,
    fields: &[String],
    stop: Stop<'_>,
) -> Result<(CachedFrames, PartReport), DataError> {
    open_or_build_shards(folder, files, config, fields, SHARD_BYTES, stop)
}

fn open_or_build_shards(
    folder: &Path,
    files: &[FileConfig],
    config: &DataConfig,
    fields: &[String],
    shard_bytes: usize,
    stop: Stop<'_>,
) -> Result<(CachedFrames, PartReport), DataError> {
    let failed = |source| DataError::Cache { path: folder.to_owned(), source };
    let key = key(files, config, fields)?;
    let target = folder.join(&key);
    fs::create_dir_all(folder).map_err(failed)?;
    let existing = |target: &Path| match target.exists().then(|| CachedFrames::open(target)) {
        None => Ok(None),
        Some(Ok(opened)) => Ok(Some(opened)),
        Some(Err(DataError::Corrupt { path, reason })) => {
            tracing::warn!("{} is damaged ({reason}); it is made anew", path.display());
            Ok(None)
        }
        Some(Err(error)) => Err(error),
    };
    // The usual case needs no right to write.
    if let Some(opened) = existing(&target)? {
        return Ok(opened);
    }
    let lock = Lock::take(&folder.join(format!(".{key}.lock"))).map_err(failed)?;
    if let Some(opened) = existing(&target)? {
        return Ok(opened);
    }
    if lock.is_held() {
        remove_leftovers(folder, &key);
    }
    tracing::info!("reading {} into {}", list(files), target.display());
    let temporary = tempfile::Builder::new().prefix(&format!(".{key}-")).suffix(".tmp").tempdir_in(folder).map_err(failed)?;
    build(temporary.path(), files, config, fields, shard_bytes, stop)?;
    if target.exists() {
        // A damaged one: out of the way first, because a folder can only be renamed onto nothing.
        let aside = tempfile::Builder::new().prefix(&format!(".{key}-")).suffix(".old").tempdir_in(folder).map_err(failed)?;
        fs::rename(&target, aside.path().join("damaged")).map_err(failed)?;
    }
    match fs::rename(temporary.path(), &target) {
        Ok(()) => drop(temporary.keep()),
        // Where locks do nothing, another process may have been quicker: its folder is as good.
        Err(_) if target.exists() => {}
        Err(error) => return Err(failed(error)),
    }
    sync_folder(folder);
    CachedFrames::open(&target)
}

/// Deletes what a process that was killed has left. Nobody else writes under these names while the lock is held.
fn remove_leftovers(folder: &Path, key: &str) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(&format!(".{key}-")) && (name.ends_with(".tmp") || name.ends_with(".old")) {
            fs::remove_dir_all(entry.path()).ok();
        }
    }
}

fn build(
    folder: &Path,
    files: &[FileConfig],
    config: &DataConfig,
    fields: &[String],
    shard_bytes: usize,
    stop: Stop<'_>,
) -> Result<(), DataError> {
    let mut tables = Tables { info: kept_keys(fields), arrays: fields.to_vec(), ..Tables::default() };
    let mut shards = Vec::new();
    let mut builder = ShardBuilder::default();
    let mut close = |builder: &mut ShardBuilder, tables: &Tables| {
        let file = format!("{:05}.safetensors", shards.len());
        let path = folder.join(&file);
        let failed = |source| DataError::Cache { path: path.clone(), source };
        let builder = std::mem::take(builder);
        let bytes = builder.encode(tables).map_err(|e| failed(io::Error::other(e)))?;
        write_synced(&path, &bytes).map_err(failed)?;
        shards.push(ShardEntry { file, frames: builder.len(), atoms: builder.atoms(), bytes: bytes.len() as u64 });
        Ok::<(), DataError>(())
    };
    let report = read_files(files, config, fields, stop, &mut |frame| {
        builder.push(&frame, &mut tables);
        if builder.bytes() >= shard_bytes { close(&mut builder, &tables) } else { Ok(()) }
    })?;
    if builder.len() > 0 {
        close(&mut builder, &tables)?;
    }
    let index = Index {
        format: FORMAT.to_owned(),
        version: VERSION,
        frames: report.frames(),
        shards,
        groups: tables.groups.to_strings(),
        heads: tables.heads.to_strings(),
        files: tables.files.to_strings(),
        info: tables.info,
        arrays: tables.arrays,
        report,
    };
    let path = folder.join(INDEX);
    let failed = |source| DataError::Cache { path: path.clone(), source };
    let text = serde_json::to_vec(&index).map_err(|e| failed(e.into()))?;
    write_synced(&path, &text).map_err(failed)?;
    sync_folder(folder);
    Ok(())
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = fs::File::create(path)?;
    io::Write::write_all(&mut file, bytes)?;
    file.sync_all()
}

/// Makes new names durable; not every file system lets a folder be opened for that.
fn sync_folder(folder: &Path) {
    #[cfg(unix)]
    if let Ok(folder) = std::fs::File::open(folder) {
        folder.sync_all().ok();
    }
    #[cfg(not(unix))]
    let _ = folder;
}

/// An exclusive lock on a file, given back when it goes out of scope or the process ends, however it ends.
struct Lock(Option<std::fs::File>);

impl Lock {
    fn is_held(&self) -> bool {
        self.0.is_some()
    }

    /// Waits until nobody else holds it. Where the file system knows no locks there is none; the renaming of folders is safe without.
    fn take(path: &Path) -> io::Result<Self> {
        let file = std::fs::File::options().create(true).truncate(false).write(true).open(path)?;
        match file.lock() {
            Ok(()) => Ok(Self(Some(file))),
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(Self(None)),
            Err(error) => Err(error),
        }
    }
}

/// The name of the folder: SHA-256 of what its contents depend on, in hexadecimal.
fn key(files: &[FileConfig], config: &DataConfig, fields: &[String]) -> Result<String, DataError> {
    #[derive(Serialize)]
    struct Material<'a> {
        format: (&'static str, u32),
        files: Vec<(&'a FileConfig, String)>,
        keys: &'a KeysConfig,
        group_weights: &'a std::collections::BTreeMap<String, f64>,
        missing_labels: MissingLabels,
        fields: &'a [String],
    }
    let files =
        files.iter().map(|file| Ok((file, fingerprint(&file.path, config.cache_fingerprint)?))).collect::<Result<_, DataError>>()?;
    let material = Material {
        format: (FORMAT, VERSION),
        files,
        keys: &config.keys,
        group_weights: &config.config_type_weights,
        missing_labels: config.missing_labels,
        fields,
    };
    let text = serde_json::to_vec(&material).map_err(|e| DataError::Cache { path: PathBuf::from(INDEX), source: e.into() })?;
    Ok(hex(&Sha256::digest(text)))
}

fn fingerprint(path: &Path, by: Fingerprint) -> Result<String, DataError> {
    // As `atoms::io` would say it.
    let failed = |source: io::Error| {
        let problem = Box::new(Problem::Io(source));
        DataError::Read(ReadError { file: path.display().to_string(), line: None, frame: None, problem, ended: true })
    };
    match by {
        Fingerprint::Contents => {
            let mut file = fs::File::open(path).map_err(failed)?;
            let mut hasher = Sha256::new();
            let mut buffer = vec![0; 1 << 20];
            loop {
                match io::Read::read(&mut file, &mut buffer).map_err(failed)? {
                    0 => return Ok(hex(&hasher.finalize())),
                    n => hasher.update(&buffer[..n]),
                }
            }
        }
        Fingerprint::Metadata => {
            let path = fs::canonicalize(path).map_err(failed)?;
            let metadata = fs::metadata(&path).map_err(failed)?;
            let modified = metadata.modified().map_err(failed)?;
            let since = modified.duration_since(std::time::UNIX_EPOCH).map_or(0, |time| time.as_nanos());
            Ok(format!("{} {} {since}", path.display(), metadata.len()))
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn list(files: &[FileConfig]) -> String {
    files.iter().map(|file| file.path.display().to_string()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::dataset::Dataset;
    use super::super::split::shuffled_order;
    use super::*;

    /// `n` frames of differing sizes with differing labels.
    fn text(n: usize) -> String {
        let mut text = String::new();
        for i in 0..n {
            let atoms = 1 + i % 4;
            let stress = if i % 2 == 0 { format!("stress=\"{i} 1 2 3 4 5\"") } else { String::new() };
            let group = if i % 3 == 0 { String::new() } else { format!("config_type=g{}", i % 3) };
            let charge = if i % 5 == 0 { format!("charge={}", i as f64 / 8.0) } else { String::new() };
            text.push_str(&format!(
                "{atoms}\nLattice=\"9 0 0 0 9 0.125 0 0 9\" pbc=\"T T T\" Properties=species:S:1:pos:R:3:forces:R:3:forces_mask:L:1:q:R:1 energy=-{i}.5 {stress} {group} {charge}\n"
            ));
            for a in 0..atoms {
                text.push_str(&format!(
                    "{} {} 0 {}.25 {} -0.5 0.1 {} {}\n",
                    ["H", "Cu"][a % 2],
                    a,
                    i % 9,
                    i,
                    ["T", "F"][a % 2],
                    a as f64 / 3.0
                ));
            }
        }
        text
    }

    fn config(folder: &Path, n: usize) -> DataConfig {
        let path = folder.join("data.xyz");
        fs::write(&path, text(n)).unwrap();
        let head = Some("main".to_owned());
        DataConfig {
            train: vec![FileConfig { head, ..FileConfig::new(path) }],
            missing_labels: MissingLabels::Mask,
            valid_fraction: 0.2,
            ..DataConfig::default()
        }
    }

    fn open(folder: &Path, config: &DataConfig) -> (CachedFrames, PartReport) {
        open_or_build_shards(&folder.join("cache"), &config.train, config, &["q".to_owned()], 2000, Stop::never()).unwrap()
    }

    fn shards(folder: &Path) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.retain(|file| file.extension().is_some_and(|e| e == "safetensors"));
        files.sort();
        files
    }

    #[test]
    fn the_cache_gives_back_the_same_frames() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = config(folder.path(), 50);
        let memory = Dataset::load(&config, &["q".to_owned()]).unwrap();
        config.cache = Some(folder.path().join("cache"));
        let cached = Dataset::load(&config, &["q".to_owned()]).unwrap();
        assert_eq!(cached.keys, memory.keys);
        assert_eq!((cached.train.len(), cached.valid.len()), (40, 10));
        for (a, b) in [(&cached.train, &memory.train), (&cached.valid, &memory.valid)] {
            for index in shuffled_order(a.len(), 1, 0) {
                let (a, b) = (a.frame(index).unwrap(), b.frame(index).unwrap());
                assert_eq!(a, b);
            }
            assert!((0..a.len()).all(|i| a.summary(i).unwrap() == b.summary(i).unwrap()));
        }
        // Many small shards.
        let (frames, report) = open(folder.path(), &DataConfig { keys: KeysConfig::default(), ..config.clone() });
        assert_eq!(frames.len(), 50);
        assert_eq!(report, memory.keys.train);
    }

    #[test]
    fn shards_are_reused_until_something_changes() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path(), 60);
        let (frames, _) = open(folder.path(), &config);
        let place = frames.folder().to_owned();
        assert!(frames.shards.len() > 5, "{}", frames.shards.len());
        let modified = |path: &Path| fs::metadata(path.join(INDEX)).unwrap().modified().unwrap();
        let before = modified(&place);
        assert_eq!(open(folder.path(), &config).0.folder(), place);
        assert_eq!(modified(&place), before);
        let other = DataConfig { config_type_weights: [("g1".to_owned(), 3.0)].into(), ..config.clone() };
        let (weighted, _) = open(folder.path(), &other);
        assert_ne!(weighted.folder(), place);
        assert_eq!(weighted.frame(1).unwrap().weights.energy, 3.0);
        fs::write(&config.train[0].path, text(61)).unwrap();
        assert_eq!(open(folder.path(), &config).0.len(), 61);
        let by_time = DataConfig { cache_fingerprint: Fingerprint::Metadata, ..config };
        assert_eq!(open(folder.path(), &by_time).0.len(), 61);
        // What is left over is nothing but caches and locks.
        for entry in fs::read_dir(folder.path().join("cache")).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(name.len() == 64 || name.ends_with(".lock"), "{name}");
        }
    }

    #[test]
    fn damaged_shards_are_found_and_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path(), 60);
        let place = open(folder.path(), &config).0.folder().to_owned();
        let whole = fs::read(&shards(&place)[1]).unwrap();
        let damage = |bytes: &[u8]| fs::write(&shards(&place)[1], bytes).unwrap();
        let kinds: [&dyn Fn(); 4] =
            [&|| damage(&whole[..whole.len() - 1]), &|| damage(b""), &|| fs::remove_file(&shards(&place)[1]).unwrap(), &|| {
                fs::write(place.join(INDEX), b"{\"format\":\"tesser").unwrap();
            }];
        for kind in kinds {
            kind();
            let error = CachedFrames::open(&place).unwrap_err();
            assert!(matches!(error, DataError::Corrupt { .. }), "{error}");
            let (frames, _) = open(folder.path(), &config);
            assert_eq!(frames.folder(), place);
            assert!((0..60).all(|i| frames.frame(i).is_ok()));
            assert_eq!(fs::read(&shards(&place)[1]).unwrap(), whole);
        }
        // A flipped bit among the positions is seen when the frame is read, and mended the next time.
        let mut flipped = whole.clone();
        let layout =
            ShardLayout::new(&whole, open(folder.path(), &config).0.shards[1].layout.frames(), atoms(&place), &tables(&place)).unwrap();
        let at = positions(&layout).start + 20;
        flipped[at] ^= 1;
        damage(&flipped);
        let (frames, _) = CachedFrames::open(&place).unwrap();
        let bad: Vec<usize> = (0..60).filter(|&i| matches!(frames.frame(i), Err(DataError::Corrupt { .. }))).collect();
        assert_eq!(bad.len(), 1);
        let (frames, _) = open(folder.path(), &config);
        assert!((0..60).all(|i| frames.frame(i).is_ok()));
    }

    fn index(place: &Path) -> Index {
        serde_json::from_slice(&fs::read(place.join(INDEX)).unwrap()).unwrap()
    }

    fn atoms(place: &Path) -> usize {
        index(place).shards[1].atoms
    }

    fn tables(place: &Path) -> Tables {
        let Index { info, arrays, .. } = index(place);
        Tables { info, arrays, ..Tables::default() }
    }

    fn positions(layout: &ShardLayout) -> std::ops::Range<usize> {
        layout.column("positions").expect("it is there")
    }

    #[test]
    fn many_at_once_make_one_cache() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path(), 60);
        let places: Vec<PathBuf> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| open(folder.path(), &config).0.folder().to_owned())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(places.iter().all(|place| *place == places[0]));
        assert_eq!(open(folder.path(), &config).0.len(), 60);
    }

    #[test]
    fn data_that_cannot_be_used_leave_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = config(folder.path(), 9);
        config.missing_labels = MissingLabels::Error;
        let error = open_or_build(&folder.path().join("cache"), &config.train, &config, &[], Stop::never()).unwrap_err();
        assert!(matches!(error, DataError::MissingLabel { .. }), "{error}");
        let left: Vec<_> = fs::read_dir(folder.path().join("cache")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(left.iter().all(|name| name.to_string_lossy().ends_with(".lock")), "{left:?}");
    }

    #[test]
    fn what_a_killed_process_left_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path(), 9);
        let cache = folder.path().join("cache");
        let key = key(&config.train, &config, &["q".to_owned()]).unwrap();
        let (mine, other) = (cache.join(format!(".{key}-abc.tmp")), cache.join(".other-abc.tmp"));
        fs::create_dir_all(&mine).unwrap();
        fs::create_dir_all(&other).unwrap();
        fs::write(mine.join("00000.safetensors"), b"half").unwrap();
        assert_eq!(open(folder.path(), &config).0.len(), 9);
        assert!(!mine.exists() && other.exists());
    }

    #[test]
    fn a_cache_that_is_no_folder() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path(), 3);
        let error = open_or_build(&config.train[0].path, &config.train, &config, &[], Stop::never()).unwrap_err();
        assert!(matches!(error, DataError::Cache { .. }) && error.to_string().contains("data.xyz"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn a_folder_where_nobody_may_write() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path(), 3);
        let closed = folder.path().join("closed");
        fs::create_dir(&closed).unwrap();
        fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o555)).unwrap();
        if fs::write(closed.join("probe"), b"").is_ok() {
            eprintln!("skipped because this user may write everywhere");
            return;
        }
        let error = open_or_build(&closed, &config.train, &config, &[], Stop::never()).unwrap_err();
        assert!(matches!(error, DataError::Cache { .. }) && error.hint().is_some(), "{error}");
    }
}
