//! Frames from files and from standard input.

use std::path::Path;

use tesseral_atoms::Structure;
use tesseral_atoms::io::{self, Frames};

/// A structure and where it came from.
#[derive(Debug)]
pub(crate) struct Frame {
    /// The path as it was given, or "stdin".
    pub(crate) file: String,
    /// Index in the file, from 0.
    pub(crate) index: usize,
    /// The structure.
    pub(crate) structure: Structure,
}

/// A file or frame that cannot be read.
#[derive(Debug)]
pub(crate) struct InputError {
    pub(crate) file: String,
    /// `None` if the file cannot be read at all.
    pub(crate) frame: Option<usize>,
    pub(crate) error: anyhow::Error,
}

/// The frames of a file, or of standard input for `-`.
pub(crate) fn frames_of(path: &Path) -> Result<impl Iterator<Item = Result<Frame, InputError>>, InputError> {
    let opened = if path == Path::new("-") { io::read_stream(std::io::stdin(), "stdin") } else { io::read(path) };
    let frames = opened.map_err(|error| InputError { file: error.file.clone(), frame: None, error: error.into() })?;
    Ok(Numbered(frames))
}

struct Numbered(Frames<'static>);

impl Iterator for Numbered {
    type Item = Result<Frame, InputError>;

    fn next(&mut self) -> Option<Self::Item> {
        let index = self.0.index();
        let item = self.0.next()?;
        let file = self.0.file().to_owned();
        Some(match item {
            Ok(structure) => Ok(Frame { file, index, structure }),
            Err(error) => Err(InputError { file, frame: error.frame, error: error.into() }),
        })
    }
}
