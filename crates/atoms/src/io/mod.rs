//! Reading structures from files and writing them.
//!
//! ```
//! use tesseral_atoms::io::{self, Format};
//!
//! let water = b"3\nProperties=species:S:1:pos:R:3 energy=-14.2\nO 0 0 0\nH 0.76 0.59 0\nH -0.76 0.59 0\n";
//! let frames: Vec<_> = io::read_from(&water[..], Format::ExtendedXyz).collect::<Result<_, _>>()?;
//! assert_eq!(frames[0].formula(), "H2O");
//!
//! let mut written = Vec::new();
//! io::write_extxyz(&mut written, &frames[0])?;
//! assert_eq!(io::read_from(&written[..], Format::ExtendedXyz).next().unwrap()?, frames[0]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod atomic;
mod cif;
mod error;
mod extxyz;
mod lines;
mod poscar;

use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;

pub use atomic::write_atomically;
pub(crate) use error::Fault;
pub use error::{Problem, ReadError, WriteError};
pub use extxyz::{write_extxyz, write_extxyz_file};

use crate::structure::Structure;

/// A file format of structures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Extended XYZ, and plain XYZ as its simplest case.
    ExtendedXyz,
    /// VASP's POSCAR and CONTCAR.
    Poscar,
    /// Crystallographic Information File.
    Cif,
}

impl Format {
    /// The format that a file name stands for, compressed (`.gz`) or not: `*.extxyz`, `*.xyz`, `*.vasp`, `*.poscar`,
    /// `*.contcar`, `*.cif`, and names that begin with POSCAR or CONTCAR. `None` for any other name.
    pub fn from_name(path: impl AsRef<Path>) -> Option<Self> {
        let name = path.as_ref().file_name()?.to_string_lossy().to_ascii_lowercase();
        let name = name.strip_suffix(".gz").unwrap_or(&name);
        let ends = |extensions: &[&str]| extensions.iter().any(|extension| name.ends_with(extension));
        if ends(&[".extxyz", ".xyz"]) {
            Some(Self::ExtendedXyz)
        } else if ends(&[".cif"]) {
            Some(Self::Cif)
        } else if ends(&[".vasp", ".poscar", ".contcar"]) || name.starts_with("poscar") || name.starts_with("contcar") {
            Some(Self::Poscar)
        } else {
            None
        }
    }

    /// The format that the beginning of a text looks like.
    fn from_content(beginning: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(beginning);
        let text = text.trim_start_matches('\u{feff}');
        let numbers = |line: &str| line.split_ascii_whitespace().take_while(|word| word.parse::<f64>().is_ok()).count();
        let mut lines = text.lines();
        if text.lines().find(|line| !line.trim().is_empty()).is_some_and(|line| line.trim().parse::<u64>().is_ok()) {
            return Some(Self::ExtendedXyz);
        }
        let cif = |line: &str| {
            let line = line.trim_start().to_ascii_lowercase();
            line.starts_with("#\\#cif") || line.starts_with("data_") || line.starts_with("_cell")
        };
        if text.lines().any(cif) {
            return Some(Self::Cif);
        }
        lines.next()?;
        let scale = numbers(lines.next()?);
        let cell = lines.by_ref().take(3).filter(|line| numbers(line) >= 3).count();
        (matches!(scale, 1 | 3) && cell == 3).then_some(Self::Poscar)
    }
}

/// Where frames come from, one at a time. After an error it goes on with the next frame, unless the fault says otherwise.
pub(crate) trait FrameSource {
    fn next_frame(&mut self) -> Option<Result<Structure, Fault>>;
}

/// The frames of a file, read one by one.
///
/// A frame that cannot be read is an `Err`; the frames after it still come, unless [`ReadError::ended`] says that none can.
/// Only one frame is held in memory.
pub struct Frames<'r> {
    source: Box<dyn FrameSource + Send + 'r>,
    file: String,
    index: usize,
    ended: bool,
}

impl std::fmt::Debug for Frames<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Frames").field("file", &self.file).field("index", &self.index).finish_non_exhaustive()
    }
}

impl Frames<'_> {
    /// The path, or the name given to the stream.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Index of the frame that [`Iterator::next`] returns next, unreadable frames counted.
    pub fn index(&self) -> usize {
        self.index
    }

    fn error(&self, fault: Fault) -> ReadError {
        let Fault { line, problem, ended } = fault;
        ReadError { file: self.file.clone(), line, frame: Some(self.index), problem: Box::new(problem), ended }
    }
}

impl Iterator for Frames<'_> {
    type Item = Result<Structure, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let item = match self.source.next_frame() {
            Some(Ok(structure)) => Ok(structure),
            Some(Err(fault)) => {
                self.ended = fault.ended;
                Err(self.error(fault))
            }
            None if self.index == 0 => {
                self.ended = true;
                Err(self.error(Fault { line: None, problem: Problem::Empty, ended: true }))
            }
            None => {
                self.ended = true;
                return None;
            }
        };
        self.index += 1;
        Some(item)
    }
}

/// Opens a structure file, compressed with gzip or not. The format comes from the name, or from the content if the name
/// does not say.
///
/// # Errors
/// [`ReadError`] if the file cannot be opened or its format is not recognised. Whatever else is wrong comes from the
/// iterator, an empty file included.
pub fn read(path: impl AsRef<Path>) -> Result<Frames<'static>, ReadError> {
    let path = path.as_ref();
    let name = path.display().to_string();
    match std::fs::metadata(path).and_then(|metadata| {
        if metadata.is_dir() {
            return Err(std::io::Error::new(std::io::ErrorKind::IsADirectory, "is a directory, not a file"));
        }
        std::fs::File::open(path)
    }) {
        Ok(file) => read_stream(file, &name),
        Err(error) => Err(ReadError { file: name, line: None, frame: None, problem: Box::new(Problem::Io(error)), ended: true }),
    }
}

/// Reads structures from a stream in a known format, compressed with gzip or not. Errors name it "input".
pub fn read_from<'r>(reader: impl Read + Send + 'r, format: Format) -> Frames<'r> {
    frames(BufReader::new(reader), "input", |_| Some(format)).unwrap_or_else(failed)
}

/// Reads structures from a stream with a name: a path or something like "stdin". The format comes from the name if it says,
/// and from the content otherwise.
///
/// # Errors
/// [`ReadError`] if the stream cannot be read or its format is not recognised.
pub fn read_stream<'r>(reader: impl Read + Send + 'r, name: &str) -> Result<Frames<'r>, ReadError> {
    let from_name = Format::from_name(name);
    frames(BufReader::with_capacity(1 << 18, reader), name, |beginning| from_name.or_else(|| Format::from_content(beginning)))
}

/// Frames of a source that failed before its first frame.
fn failed<'r>(error: ReadError) -> Frames<'r> {
    struct Failed(Option<Fault>);
    impl FrameSource for Failed {
        fn next_frame(&mut self) -> Option<Result<Structure, Fault>> {
            self.0.take().map(Err)
        }
    }
    let fault = Fault { line: error.line, problem: *error.problem, ended: true };
    Frames { source: Box::new(Failed(Some(fault))), file: error.file, index: 0, ended: false }
}

fn frames<'r>(
    mut reader: impl BufRead + Send + 'r,
    name: &str,
    format: impl FnOnce(&[u8]) -> Option<Format>,
) -> Result<Frames<'r>, ReadError> {
    let file = name.to_owned();
    let fail = |problem| ReadError { file: file.clone(), line: None, frame: None, problem: Box::new(problem), ended: true };
    let compressed = reader.fill_buf().map_err(|error| fail(Problem::Io(error)))?.starts_with(&[0x1f, 0x8b]);
    if compressed {
        return sources(BufReader::with_capacity(1 << 18, MultiGzDecoder::new(reader)), file, format);
    }
    sources(reader, file, format)
}

fn sources<'r>(
    mut reader: impl BufRead + Send + 'r,
    file: String,
    format: impl FnOnce(&[u8]) -> Option<Format>,
) -> Result<Frames<'r>, ReadError> {
    let fail = |problem| ReadError { file: file.clone(), line: None, frame: None, problem: Box::new(problem), ended: true };
    let beginning = reader.fill_buf().map_err(|error| fail(Problem::Io(error)))?;
    let format = match format(beginning) {
        Some(format) => format,
        None if beginning.iter().all(u8::is_ascii_whitespace) => return Err(fail(Problem::Empty)),
        None => return Err(fail(Problem::UnknownFormat)),
    };
    let source: Box<dyn FrameSource + Send + 'r> = match format {
        Format::ExtendedXyz => Box::new(extxyz::ExtxyzFrames::new(reader)),
        Format::Poscar => Box::new(poscar::PoscarFrames::new(reader)),
        Format::Cif => Box::new(cif::CifFrames::new(reader)),
    };
    Ok(Frames { source, file, index: 0, ended: false })
}
