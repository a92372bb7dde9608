//! What was really found in the files.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::error::DataError;
use super::frame::Origin;

/// Something that a frame may carry under a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LabelName {
    /// Total energy.
    Energy,
    /// Forces.
    Forces,
    /// Stress, from a virial or not.
    Stress,
    /// Virial, as the name of a key; what is read from it counts as [`LabelName::Stress`].
    Virial,
    /// Which atoms' forces count.
    ForceMask,
    /// Kind of configuration.
    Group,
    /// Head.
    Head,
    /// Factor of all weights.
    Weight,
    /// Weight of the energy.
    EnergyWeight,
    /// Weight of the forces.
    ForcesWeight,
    /// Weight of the stress.
    StressWeight,
}

impl LabelName {
    /// Whether it is a column of atoms and not a value of the frame.
    pub fn is_per_atom(self) -> bool {
        matches!(self, Self::Forces | Self::ForceMask)
    }
}

impl fmt::Display for LabelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Energy => "energy",
            Self::Forces => "forces",
            Self::Stress => "stress",
            Self::Virial => "virial",
            Self::ForceMask => "force_mask",
            Self::Group => "group",
            Self::Head => "head",
            Self::Weight => "weight",
            Self::EnergyWeight => "energy_weight",
            Self::ForcesWeight => "forces_weight",
            Self::StressWeight => "stress_weight",
        })
    }
}

/// What one file held.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct FileReport {
    /// The file, as the user wrote it.
    pub file: String,
    /// Frames, isolated atoms not counted.
    pub frames: usize,
    /// Atoms in them.
    pub atoms: usize,
    /// Isolated atoms.
    pub isolated: usize,
    /// Under which keys each thing was read, and in how many frames.
    pub read: BTreeMap<LabelName, BTreeMap<String, usize>>,
    /// Keys that were there and not read, and in how many frames: of frames first, then of atoms.
    pub unread: [BTreeMap<String, usize>; 2],
    /// Frames whose stress was left out because they are not periodic in all three directions.
    pub stress_without_volume: usize,
}

/// How many frames of a list have a label.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Coverage {
    /// Frames with it.
    pub with: usize,
    /// Frames that could have it and do not.
    pub without: usize,
    /// The first of these.
    pub first_without: Option<Origin>,
    /// How many of these are single atoms without periodic boundaries: perhaps isolated atoms that nothing marks as such.
    #[serde(default)]
    pub lone_atoms: usize,
}

/// The energy of an isolated atom as a file gave it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IsolatedAtom {
    /// Atomic number.
    pub number: u8,
    /// Its energy, eV.
    pub energy: f64,
    /// The head whose level of theory this is; all of them without it.
    pub head: Option<String>,
    /// Where it was read.
    pub origin: Origin,
}

/// What a list of files held: of `train`, `valid` or `test`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct PartReport {
    /// One entry a file.
    pub files: Vec<FileReport>,
    /// For energy, forces and stress: how many frames have them. Stress can be had only by structures periodic in all three directions.
    pub coverage: BTreeMap<LabelName, Coverage>,
    /// Frames of each group; those without one are not counted.
    pub groups: BTreeMap<String, usize>,
    /// Isolated atoms.
    pub isolated: Vec<IsolatedAtom>,
}

impl PartReport {
    /// Frames, isolated atoms not counted.
    pub fn frames(&self) -> usize {
        self.files.iter().map(|file| file.frames).sum()
    }

    /// Under which keys something was read, and in how many frames of all files.
    pub fn keys_of(&self, label: LabelName) -> BTreeMap<&str, usize> {
        let mut keys = BTreeMap::new();
        for (key, count) in self.files.iter().filter_map(|file| file.read.get(&label)).flatten() {
            *keys.entry(key.as_str()).or_default() += count;
        }
        keys
    }
}

/// What all files held.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct KeyReport {
    /// Of the files to train on.
    pub train: PartReport,
    /// Of the files to validate on.
    pub valid: PartReport,
    /// Of the files to test on.
    pub test: PartReport,
}

/// Energies of isolated atoms, for each head.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct IsolatedAtoms(BTreeMap<(Option<Arc<str>>, u8), (f64, Origin)>);

/// Two energies of the same atom may differ by this much, eV.
const SAME_ENERGY: f64 = 1e-6;

impl IsolatedAtoms {
    /// Collects them.
    ///
    /// # Errors
    /// [`DataError::IsolatedTwice`] if one element has two energies in one head.
    pub fn new<'a>(atoms: impl IntoIterator<Item = &'a IsolatedAtom>) -> Result<Self, DataError> {
        let mut found = BTreeMap::new();
        for atom in atoms {
            let key = (atom.head.as_deref().map(Arc::from), atom.number);
            let (energy, origin) = found.entry(key).or_insert_with(|| (atom.energy, atom.origin.clone()));
            if (*energy - atom.energy).abs() > SAME_ENERGY {
                return Err(DataError::IsolatedTwice {
                    number: atom.number,
                    energies: [*energy, atom.energy],
                    origins: Box::new([origin.clone(), atom.origin.clone()]),
                });
            }
        }
        Ok(Self(found))
    }

    /// Energies (eV) by atomic number for a head: those that name it, and those that name no head for the other elements.
    pub fn energies(&self, head: Option<&str>) -> BTreeMap<u8, f64> {
        let mut energies: BTreeMap<u8, f64> = self.of(None).collect();
        if head.is_some() {
            energies.extend(self.of(head));
        }
        energies
    }

    fn of<'a>(&'a self, wanted: Option<&'a str>) -> impl Iterator<Item = (u8, f64)> + 'a {
        self.0.iter().filter(move |((head, _), _)| head.as_deref() == wanted).map(|((_, number), (energy, _))| (*number, *energy))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn atom(number: u8, energy: f64, head: Option<&str>, frame: usize) -> IsolatedAtom {
        IsolatedAtom { number, energy, head: head.map(str::to_owned), origin: Origin { file: "iso.xyz".into(), frame } }
    }

    #[test]
    fn heads_have_isolated_atoms_of_their_own() {
        let atoms = [atom(1, -13.6, None, 0), atom(8, -2040.0, None, 1), atom(1, -12.5, Some("pbe"), 2), atom(1, -13.6, None, 3)];
        let atoms = IsolatedAtoms::new(&atoms).unwrap();
        assert_eq!(atoms.energies(None), [(1, -13.6), (8, -2040.0)].into());
        assert_eq!(atoms.energies(Some("pbe")), [(1, -12.5), (8, -2040.0)].into());
        assert_eq!(atoms.energies(Some("other")), atoms.energies(None));
        let error = IsolatedAtoms::new(&[atom(1, -13.6, None, 0), atom(1, -13.5, None, 4)]).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("H") && text.contains("-13.6") && text.contains("frame 4 of iso.xyz"), "{text}");
    }

    #[test]
    fn reports_survive_json() {
        let mut report = KeyReport::default();
        report.train.files.push(FileReport {
            file: "a".into(),
            read: [(LabelName::Energy, [("E".to_owned(), 3)].into())].into(),
            ..FileReport::default()
        });
        report.train.isolated.push(atom(1, -13.6, None, 0));
        let coverage = Coverage { with: 3, without: 1, first_without: Some(Origin { file: "a".into(), frame: 2 }), lone_atoms: 1 };
        report.train.coverage.insert(LabelName::Stress, coverage);
        let text = serde_json::to_string(&report).unwrap();
        assert!(text.contains(r#""read":{"energy":{"E":3}}"#), "{text}");
        assert_eq!(serde_json::from_str::<KeyReport>(&text).unwrap(), report);
        assert_eq!(report.train.keys_of(LabelName::Energy), [("E", 3)].into());
    }
}
