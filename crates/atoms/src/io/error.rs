//! What can go wrong with structure files.

use std::fmt;
use std::io;

use crate::cell::CellError;
use crate::io::Format;

/// A frame or file that cannot be read: where, and what is wrong.
///
/// Displays as `file:line: frame n: problem`; [`ReadError::hint`] gives a next step.
#[derive(Debug)]
pub struct ReadError {
    /// The path or the name given to the stream.
    pub file: String,
    /// 1-based line, where one can be named.
    pub line: Option<u64>,
    /// Index of the unreadable frame, from 0; `None` if the file could not be opened at all.
    pub frame: Option<usize>,
    /// What is wrong.
    pub problem: Box<Problem>,
    /// True if nothing after this place can be read, so no further frame follows.
    pub ended: bool,
}

impl ReadError {
    /// A next step for the person who reads the error.
    pub fn hint(&self) -> Option<&'static str> {
        self.problem.hint()
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if let Some(frame) = self.frame {
            write!(f, ": frame {frame}")?;
        }
        write!(f, ": {}", self.problem)?;
        if self.ended && self.frame.is_some() && !matches!(*self.problem, Problem::Empty) {
            f.write_str("; nothing after this can be read")?;
        }
        Ok(())
    }
}

impl std::error::Error for ReadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &*self.problem {
            Problem::Io(error) => Some(error),
            Problem::Cell(error) => Some(error),
            _ => None,
        }
    }
}

/// What is wrong with a structure file. Columns count words from 1.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// The operating system or the decompressor failed.
    #[error("{0}")]
    Io(io::Error),
    /// Neither name nor content tells the format.
    #[error("the format of this file is not recognised")]
    UnknownFormat,
    /// There is nothing in the file.
    #[error("the file is empty")]
    Empty,
    /// A line beyond the bound on line length.
    #[error("the line is longer than {limit} bytes")]
    LineTooLong {
        /// The bound.
        limit: usize,
    },
    /// The first line of an XYZ frame is not a number.
    #[error("expected the number of atoms, found {found:?}")]
    AtomCount {
        /// The line, shortened.
        found: String,
    },
    /// More atoms than a frame may have.
    #[error("{count} atoms are more than the limit of {limit}")]
    TooManyAtoms {
        /// Atoms announced.
        count: u64,
        /// The bound.
        limit: u64,
    },
    /// The frame ends before all its atoms are there.
    #[error("the frame announces {expected} atoms, but ends after {found}")]
    MissingAtoms {
        /// Atoms announced.
        expected: usize,
        /// Atoms found.
        found: usize,
    },
    /// The file ends where something is still due.
    #[error("the file ends where {expected} should be")]
    UnexpectedEnd {
        /// What should come.
        expected: &'static str,
    },
    /// A quote or bracket is opened and never closed.
    #[error("the {quote} opened at character {character} is never closed")]
    UnterminatedQuote {
        /// The opening character.
        quote: char,
        /// 1-based position in the line.
        character: usize,
    },
    /// A value of the comment line does not mean what its key needs.
    #[error("`{key}` {reason}")]
    HeaderValue {
        /// The key.
        key: String,
        /// What is wrong.
        reason: String,
    },
    /// An atom line has fewer or more columns than announced.
    #[error("expected {expected} columns ({columns}), found {found}")]
    ColumnCount {
        /// Columns announced.
        expected: usize,
        /// The announcement: "species:S:1:pos:R:3".
        columns: String,
        /// Columns found.
        found: usize,
    },
    /// A word that is not a value of its type.
    #[error("column {column} ({name}): {found:?} is not {expected}")]
    BadValue {
        /// 1-based word in the line.
        column: usize,
        /// Name of the quantity.
        name: String,
        /// The word, shortened.
        found: String,
        /// "a real number", ….
        expected: &'static str,
    },
    /// A line that does not follow the grammar of the format.
    #[error("expected {expected}, found {found:?}")]
    Expected {
        /// What should be there.
        expected: &'static str,
        /// What is there, shortened.
        found: String,
    },
    /// Something the file must say and does not.
    #[error("{what} is missing")]
    Missing {
        /// What is missing.
        what: String,
    },
    /// Chemical symbols are missing from a VASP 4 file.
    #[error("the file names no elements for its {types} kinds of atoms (VASP 4 format), and neither does its title")]
    NoSymbols {
        /// Number of kinds.
        types: usize,
    },
    /// The cell cannot be built.
    #[error("{0}")]
    Cell(CellError),
    /// A site that is not fully occupied.
    #[error("site {site} has occupancy {occupancy}: disordered structures cannot be evaluated")]
    PartialOccupancy {
        /// Label of the site.
        site: String,
        /// Its occupancy.
        occupancy: f64,
    },
    /// The symmetry of a crystal cannot be worked out.
    #[error("{reason}")]
    Symmetry {
        /// What is wrong.
        reason: String,
    },
}

impl Problem {
    /// A next step for the person who reads the error.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Io(error) => match error.kind() {
                io::ErrorKind::NotFound => "check the path; relative paths start in the current folder",
                io::ErrorKind::PermissionDenied => "check who may read the file",
                io::ErrorKind::IsADirectory => "name the files in it: FOLDER/*",
                _ => return None,
            },
            Self::UnknownFormat => {
                "name it *.extxyz, *.xyz, *.vasp, POSCAR or *.cif; other formats convert with `ase convert IN out.extxyz`"
            }
            Self::Empty => "was the program that writes it interrupted?",
            Self::LineTooLong { .. } => "is this a text file?",
            Self::AtomCount { .. } => {
                "an XYZ frame begins with its number of atoms; the frame before may have more atoms than it announces"
            }
            Self::TooManyAtoms { .. } => "check the number at the start of the frame",
            Self::MissingAtoms { .. } | Self::UnexpectedEnd { .. } => "the file was cut short, or the announced number of atoms is wrong",
            Self::UnterminatedQuote { .. } => "close it, or escape it with a backslash if it is part of the text",
            Self::HeaderValue { .. } => "see the extended XYZ specification: https://github.com/libAtoms/extxyz",
            Self::ColumnCount { .. } => "make the columns agree with Properties",
            Self::BadValue { .. } => "correct the word, or the Properties that describe its column",
            Self::Expected { .. } | Self::Missing { .. } => "the file may be damaged, or of another format than its name says",
            Self::NoSymbols { .. } => "write the element symbols on a line before the counts, as VASP 5 does",
            Self::Cell(_) => "check the cell lengths (Å) and angles (degrees)",
            Self::PartialOccupancy { .. } => "build an ordered structure first, for example with pymatgen or supercell",
            Self::Symmetry { .. } => "list the operations in _space_group_symop_operation_xyz, or expand the structure to P 1",
        })
    }
}

/// A structure that cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The operating system failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Extended XYZ has no way to say this.
    #[error("{what} cannot be written to extended XYZ: {reason}")]
    Unrepresentable {
        /// The key, array or atom.
        what: String,
        /// Why not.
        reason: &'static str,
    },
    /// The structure does not hold together.
    #[error(transparent)]
    Structure(#[from] crate::validation::StructureError),
}

/// A problem and its line, before file and frame are known.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) line: Option<u64>,
    pub(crate) problem: Problem,
    pub(crate) ended: bool,
}

impl Fault {
    pub(crate) fn at(line: u64, problem: Problem) -> Self {
        Self { line: Some(line), problem, ended: false }
    }

    /// A fault after which the source gives nothing more.
    pub(crate) fn last(mut self) -> Self {
        self.ended = true;
        self
    }
}

/// A word or line for a message: at most 40 characters.
pub(crate) fn shortened(text: &str) -> String {
    let text = text.trim();
    if text.chars().nth(40).is_none() {
        return text.to_owned();
    }
    text.chars().take(39).chain(['…']).collect()
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ExtendedXyz => "extended XYZ",
            Self::Poscar => "POSCAR",
            Self::Cif => "CIF",
        })
    }
}
