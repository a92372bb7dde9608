//! What can be wrong with data.

use std::io;
use std::path::PathBuf;

use tesseral_atoms::io::ReadError;
use tesseral_atoms::labels::LabelError;
use tesseral_atoms::{StructureError, elements};

use super::config::SplitBy;
use super::frame::Origin;
use super::keys::LabelName;
use crate::stop::Stopped;

/// Most unusable frames that an error names.
pub(super) const MOST_FAULTS: usize = 10;

/// Why data cannot be used. [`DataError::hint`] gives a next step.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// A setting is out of its range.
    #[error("data.{key} {reason}")]
    Config {
        /// The key, below `data`.
        key: String,
        /// What is wrong.
        reason: String,
    },
    /// A file cannot be opened, is of no known format, or holds nothing.
    #[error(transparent)]
    Read(ReadError),
    /// Frames that cannot be used.
    #[error("{}", describe(faults, *total))]
    Frames {
        /// The first of them, never empty.
        faults: Vec<FrameFault>,
        /// How many there are.
        total: usize,
    },
    /// The user named a key that a file does not have.
    #[error("no frame of {file} has `{key}`, which the configuration names for {label}{}", listed(found))]
    KeyNotFound {
        /// The file.
        file: String,
        /// What should be there.
        label: LabelName,
        /// The key.
        key: String,
        /// Keys that are really there, of frames or of atoms as the label needs.
        found: Vec<String>,
        /// The one among them that was probably meant.
        suggestion: Option<String>,
    },
    /// Some frames have a label, and one does not.
    #[error("{origin} has no {label} under {keys}, which {with} other frames of the same data have ({without} lack it)")]
    MissingLabel {
        /// The first frame without it.
        origin: Origin,
        /// What is missing.
        label: LabelName,
        /// Where it was looked for.
        keys: String,
        /// Frames with it.
        with: usize,
        /// Frames without it.
        without: usize,
        /// How many of these are single atoms without periodic boundaries.
        lone_atoms: usize,
    },
    /// Two energies for one isolated atom.
    #[error("an isolated {} atom has the energy {} eV in {} and {} eV in {}", element(*number), energies[0], origins[0], energies[1], origins[1])]
    IsolatedTwice {
        /// Atomic number.
        number: u8,
        /// The energies, eV.
        energies: [f64; 2],
        /// Where they were read.
        origins: Box<[Origin; 2]>,
    },
    /// There is nothing to train on.
    #[error("there are no frames to train on in {files}: only isolated atoms")]
    NoFrames {
        /// The files.
        files: String,
    },
    /// A weight is given to a group that no frame belongs to.
    #[error("config_type_weights names the group `{group}`, but no frame belongs to it{}", listed(found))]
    UnknownGroup {
        /// The group.
        group: String,
        /// Groups that are really there.
        found: Vec<String>,
        /// The one among them that was probably meant.
        suggestion: Option<String>,
    },
    /// The frames cannot be divided in this way.
    #[error("training and validation frames cannot be told apart by {by}: {reason}")]
    Split {
        /// By what.
        by: SplitBy,
        /// Why not.
        reason: String,
    },
    /// The cache cannot be read or written.
    #[error("the cache {}: {source}", path.display())]
    Cache {
        /// Its folder, or a file in it.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file of the cache is damaged.
    #[error("{} is damaged: {reason}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// It was asked to stop before all was read or looked at.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

impl DataError {
    /// A next step for the person who reads the error.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Config { .. } | Self::Stopped(_) => return None,
            Self::Read(error) => return error.hint().map(str::to_owned),
            Self::Frames { faults, .. } => return faults.first().and_then(FrameFault::hint).map(str::to_owned),
            Self::KeyNotFound { label, key, suggestion: Some(meant), .. } => {
                format!("did you mean `{meant}`? Set keys.{label} = \"{meant}\" instead of \"{key}\"")
            }
            Self::KeyNotFound { label, .. } => format!("set keys.{label} to the key that holds it, or leave it out"),
            Self::MissingLabel { origin, label: LabelName::Forces, without, lone_atoms, .. } if *lone_atoms > 0 => {
                let file = if lone_atoms == without { &*origin.file } else { "…" };
                let marked = format!(
                    "{{ path = \"{file}\", group = \"IsolatedAtom\" }} marks a file of isolated atoms, whose energies are all that is read"
                );
                match without - lone_atoms {
                    0 => marked,
                    others => format!("{lone_atoms} of them are single atoms: {marked}; the other {others}: {}", missing_label()),
                }
            }
            Self::MissingLabel { .. } => missing_label().to_owned(),
            Self::IsolatedTwice { .. } => "keep one of them, or give each its head".to_owned(),
            Self::NoFrames { .. } => "add files with more than isolated atoms".to_owned(),
            Self::UnknownGroup { suggestion: Some(meant), .. } => format!("did you mean `{meant}`?"),
            Self::UnknownGroup { .. } => "the group of a frame is under keys.group, by default `config_type`".to_owned(),
            Self::Split { .. } => "name files under valid, or split by = \"seed\"".to_owned(),
            Self::Cache { source, .. } => match source.kind() {
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                    "choose a folder for `cache` where you may write".to_owned()
                }
                io::ErrorKind::StorageFull => "free space there, or choose another folder for `cache`".to_owned(),
                _ => return None,
            },
            Self::Corrupt { .. } => "run again: it is then made anew from the files".to_owned(),
        })
    }
}

/// What to do about a label that some frames lack.
fn missing_label() -> &'static str {
    "add the label or remove the frames; missing_labels = \"mask\" leaves it out of the loss"
}

/// A frame that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameFault {
    /// It cannot be read; names file, line and frame.
    #[error(transparent)]
    Read(ReadError),
    /// It has no atoms.
    #[error("{origin} has no atoms")]
    Empty {
        /// The frame.
        origin: Origin,
    },
    /// A value is there, but it is not what its key stands for.
    #[error("{origin}: {cause}{}", atom.map_or(String::new(), |atom| format!(" (atom {atom})")))]
    Label {
        /// The frame.
        origin: Origin,
        /// What is wrong.
        #[source]
        cause: LabelError,
        /// The first atom concerned, from 0, where it is one.
        atom: Option<usize>,
    },
    /// A weight is negative or no number.
    #[error("{origin}: the weight `{key}` is {value}, but should be a number from 0 up")]
    Weight {
        /// The frame.
        origin: Origin,
        /// The key.
        key: String,
        /// What it holds.
        value: String,
    },
    /// The structure cannot be evaluated.
    #[error("{origin}: {cause}")]
    Structure {
        /// The frame.
        origin: Origin,
        /// Why not.
        #[source]
        cause: StructureError,
    },
    /// An isolated atom without an energy says nothing.
    #[error("{origin} is an isolated atom without an energy")]
    IsolatedWithoutEnergy {
        /// The frame.
        origin: Origin,
    },
}

impl FrameFault {
    /// A next step for the person who reads the error.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Read(error) => return error.hint(),
            Self::Empty { .. } => "remove the frame",
            Self::Label { cause: LabelError::NotFinite { .. }, .. } => {
                "the calculation has probably failed: remove the frame, or the label from the frame"
            }
            Self::Label { cause, .. } => cause.hint(),
            Self::Weight { .. } => "correct the weight; 0 leaves the label out",
            Self::Structure { cause, .. } => cause.hint(),
            Self::IsolatedWithoutEnergy { .. } => "give it an energy, or remove it and name the atomic energies (e0s)",
        })
    }
}

fn describe(faults: &[FrameFault], total: usize) -> String {
    match faults {
        [only] if total == 1 => only.to_string(),
        _ => {
            let mut text = format!("{total} frames cannot be used:");
            for fault in faults {
                text.push_str(&format!("\n  {fault}"));
            }
            if total > faults.len() {
                text.push_str(&format!("\n  and {} more", total - faults.len()));
            }
            text
        }
    }
}

/// "; there are a, b, c".
fn listed(found: &[String]) -> String {
    const MOST: usize = 20;
    match found {
        [] => "; there are none".to_owned(),
        _ if found.len() > MOST => format!("; there are {} and {} more", found[..MOST].join(", "), found.len() - MOST),
        _ => format!("; there are {}", found.join(", ")),
    }
}

fn element(number: u8) -> &'static str {
    elements::symbol(number).unwrap_or("?")
}

/// The candidate that was probably meant: the nearest by edit distance, or one that holds the name (`REF_energy` for `energy`).
pub(crate) fn suggestion<'c>(name: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let wanted = name.to_ascii_lowercase();
    candidates
        .into_iter()
        .filter(|candidate| *candidate != name)
        .map(|candidate| {
            let lower = candidate.to_ascii_lowercase();
            let mut similarity = strsim::normalized_damerau_levenshtein(&wanted, &lower);
            if wanted.len().min(lower.len()) >= 3 && (lower.contains(&wanted) || wanted.contains(&lower)) {
                let (short, long) = (wanted.len().min(lower.len()), wanted.len().max(lower.len()));
                similarity = similarity.max(0.5 + 0.5 * short as f64 / long as f64);
            }
            (similarity, candidate)
        })
        .filter(|(similarity, _)| *similarity >= 0.5)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggestions_are_near_or_contained() {
        let keys = ["REF_energy", "config_type", "dipole"];
        assert_eq!(suggestion("energy", keys), Some("REF_energy"));
        assert_eq!(suggestion("ref_energy", keys), Some("REF_energy"));
        assert_eq!(suggestion("conifg_type", keys), Some("config_type"));
        assert_eq!(suggestion("stress", keys), None);
        assert_eq!(suggestion("dipole", ["dipole"]), None);
    }

    #[test]
    fn many_faults_are_counted() {
        let fault = |frame| FrameFault::Empty { origin: Origin { file: "a.xyz".into(), frame } };
        let error = DataError::Frames { faults: vec![fault(1)], total: 1 };
        assert_eq!(error.to_string(), "frame 1 of a.xyz has no atoms");
        let error = DataError::Frames { faults: vec![fault(1), fault(2)], total: 5 };
        assert_eq!(
            error.to_string(),
            "5 frames cannot be used:\n  frame 1 of a.xyz has no atoms\n  frame 2 of a.xyz has no atoms\n  and 3 more"
        );
        assert_eq!(error.hint().as_deref(), Some("remove the frame"));
    }
}
