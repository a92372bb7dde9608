//! One structure with what a reference calculation says about it.

use std::sync::Arc;

use serde::ser::SerializeStruct;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tesseral_atoms::Structure;

/// Where a frame comes from: what errors and reports name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The file, as the user wrote it.
    pub file: Arc<str>,
    /// Number of the frame in it, from 0.
    pub frame: usize,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "frame {} of {}", self.frame, self.file)
    }
}

/// As a map with `file` and `frame`.
impl Serialize for Origin {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_struct("Origin", 2)?;
        map.serialize_field("file", &*self.file)?;
        map.serialize_field("frame", &self.frame)?;
        map.end()
    }
}

impl<'de> Deserialize<'de> for Origin {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Plain {
            file: String,
            frame: usize,
        }
        let Plain { file, frame } = Plain::deserialize(deserializer)?;
        Ok(Self { file: file.into(), frame })
    }
}

/// What the terms of the loss are multiplied with for one frame. A label that is missing has weight 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Weights {
    /// Of the energy.
    pub energy: f64,
    /// Of the forces.
    pub forces: f64,
    /// Of the stress.
    pub stress: f64,
}

impl Default for Weights {
    fn default() -> Self {
        Self { energy: 1.0, forces: 1.0, stress: 1.0 }
    }
}

/// A structure with its labels.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    /// The atoms; its `info` and `arrays` hold what the model embeds (charge, spin) and nothing of the labels.
    pub structure: Structure,
    /// Total energy, eV.
    pub energy: Option<f64>,
    /// Forces, eV/Å, one for each atom.
    pub forces: Option<Vec<[f64; 3]>>,
    /// Which atoms' forces count; all of them without it.
    pub force_mask: Option<Vec<bool>>,
    /// Stress, eV/Å³, Voigt order xx, yy, zz, yz, zx, xy, positive when tensile.
    pub stress: Option<[f64; 6]>,
    /// Weights in the loss.
    pub weights: Weights,
    /// The kind of configuration (`config_type`), for tables of errors, weights and splits.
    pub group: Option<Arc<str>>,
    /// Name of the head that learns from it, where a model has several.
    pub head: Option<Arc<str>>,
    /// Where it comes from.
    pub origin: Origin,
}

impl Frame {
    /// Whether this is a single atom that sees no other, made to give the energy of an isolated atom.
    pub fn is_isolated_atom(&self) -> bool {
        self.structure.len() == 1 && self.group.as_deref().is_some_and(names_isolated_atoms)
    }
}

/// Whether a group is the one of isolated atoms: `IsolatedAtom` as MACE has it, in any case, with or without separators and plural
/// (`isolated_atom`, `Isolated-Atoms`).
pub fn names_isolated_atoms(group: &str) -> bool {
    let plain: String = group.chars().filter(|c| !matches!(c, '_' | '-' | ' ')).collect::<String>().to_ascii_lowercase();
    matches!(plain.as_str(), "isolatedatom" | "isolatedatoms")
}
