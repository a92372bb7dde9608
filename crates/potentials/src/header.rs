//! What an artifact says about itself.

use serde::{Deserialize, Serialize};

use crate::error::{PotentialError, Result};
use crate::mace::MaceConfig;
use crate::nequip::NequipConfig;

/// Newest version of the format, the one that is written.
pub const FORMAT_VERSION: u32 = 1;

/// The header of an artifact, kept in the safetensors metadata.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// Version of the format.
    pub format_version: u32,
    /// What people call the model.
    pub name: String,
    /// Architecture and hyperparameters.
    pub architecture: Architecture,
    /// Where the weights come from.
    pub provenance: Provenance,
    /// Licence of the weights (SPDX identifier or name), if known.
    pub licence: Option<String>,
}

/// The family and its hyperparameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "family", rename_all = "kebab-case")]
pub enum Architecture {
    /// MACE and ScaleShiftMACE.
    Mace(MaceConfig),
    /// SevenNet and NequIP.
    Nequip(NequipConfig),
}

/// Where the weights come from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// File name (not path) or model name of the source.
    pub source: String,
    /// SHA-256 of the source file, hexadecimal.
    pub sha256: Option<String>,
    /// What wrote the source and what wrote this artifact.
    pub producer: String,
    /// Anything worth knowing: conversions made, warnings given.
    #[serde(default)]
    pub notes: Vec<String>,
}

impl Header {
    /// What is checked of every header that is read: one version, and a name that can be printed.
    pub(crate) fn validate(&self, origin: &str, version: u32) -> Result<()> {
        let invalid = |reason| Err(PotentialError::Header { origin: origin.to_owned(), key: "header", reason });
        if self.format_version != version {
            return invalid(format!("format_version {} in a file of version {version}", self.format_version));
        }
        if self.name.is_empty() || self.name.chars().any(char::is_control) {
            return invalid(format!("{:?} is not a name", self.name));
        }
        Ok(())
    }

    /// Atomic numbers of the elements, in the order of the model's species index.
    pub fn elements(&self) -> &[u8] {
        match &self.architecture {
            Architecture::Mace(c) => &c.elements,
            Architecture::Nequip(c) => &c.elements,
        }
    }

    /// Cutoff radius in Å.
    pub fn cutoff(&self) -> f64 {
        match &self.architecture {
            Architecture::Mace(c) => c.cutoff,
            Architecture::Nequip(c) => c.cutoff,
        }
    }

    /// Heads (MACE) or modalities (SevenNet); empty if the model has a single unnamed one.
    pub fn heads(&self) -> &[String] {
        match &self.architecture {
            Architecture::Mace(c) => &c.heads,
            Architecture::Nequip(c) => &c.modalities,
        }
    }

    /// Message-passing layers.
    pub fn num_layers(&self) -> usize {
        match &self.architecture {
            Architecture::Mace(c) => c.layers.len(),
            Architecture::Nequip(c) => c.layers.len(),
        }
    }

    /// The architecture's usual name.
    pub fn architecture_name(&self) -> &'static str {
        match &self.architecture {
            Architecture::Mace(c) => c.class_name(),
            Architecture::Nequip(_) => "NequIP/SevenNet",
        }
    }

    /// Hyperparameters as label and value, for people.
    pub fn summary(&self) -> Vec<(String, String)> {
        let mut rows = vec![
            ("architecture".to_owned(), self.architecture_name().to_owned()),
            ("cutoff".to_owned(), format!("{} Å", self.cutoff())),
            ("layers".to_owned(), self.num_layers().to_string()),
        ];
        rows.extend(match &self.architecture {
            Architecture::Mace(c) => c.summary(),
            Architecture::Nequip(c) => c.summary(),
        });
        rows
    }
}
