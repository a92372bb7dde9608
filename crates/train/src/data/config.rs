//! Which files are read, under which keys, and how they are divided.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tesseral_atoms::LabelKeys;

use super::error::DataError;
use super::keys::LabelName;

/// The data of a training.
///
/// Files are in Å, eV, eV/Å and eV/Å³. A path is taken relative to the current folder; `.gz` is understood.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataConfig {
    /// Files to train on.
    pub train: Vec<FileConfig>,
    /// Files to validate on. Without them a part of the training frames is held back, see `valid_fraction`.
    pub valid: Vec<FileConfig>,
    /// Files to measure the finished model on.
    pub test: Vec<FileConfig>,
    /// Under which keys labels and weights are looked for.
    pub keys: KeysConfig,
    /// Factors of all weights of a group (`config_type`); 1 for groups that are not named.
    pub config_type_weights: BTreeMap<String, f64>,
    /// Part of the training frames that is held back for validation where no `valid` files are given; from 0 to below 1. Default 0.05.
    pub valid_fraction: f64,
    /// How that part is chosen.
    pub split: SplitConfig,
    /// What happens to a frame without a label that other frames of the same list have. Default `error`.
    pub missing_labels: MissingLabels,
    /// Folder for frames of data sets larger than memory. Without it frames are kept in memory.
    pub cache: Option<PathBuf>,
    /// How the cache recognises that a file has changed. Default `contents`.
    pub cache_fingerprint: Fingerprint,
}

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            train: Vec::new(),
            valid: Vec::new(),
            test: Vec::new(),
            keys: KeysConfig::default(),
            config_type_weights: BTreeMap::new(),
            valid_fraction: 0.05,
            split: SplitConfig::default(),
            missing_labels: MissingLabels::default(),
            cache: None,
            cache_fingerprint: Fingerprint::default(),
        }
    }
}

impl DataConfig {
    /// Checks what the types do not: that there is something to train on, and that numbers are in their ranges.
    ///
    /// # Errors
    /// [`DataError::Config`] with the key and what is wrong with it.
    pub fn validate(&self) -> Result<(), DataError> {
        let wrong = |key: String, reason: String| Err(DataError::Config { key, reason });
        if self.train.is_empty() {
            return wrong("train".into(), "names no file".into());
        }
        if !(0.0..1.0).contains(&self.valid_fraction) {
            return wrong("valid_fraction".into(), format!("is {}, but should be from 0 to below 1", self.valid_fraction));
        }
        for (group, weight) in &self.config_type_weights {
            if !(weight.is_finite() && *weight >= 0.0) {
                return wrong(format!("config_type_weights.{group}"), format!("is {weight}, but a weight is a number from 0 up"));
            }
        }
        for file in self.train.iter().chain(&self.valid).chain(&self.test) {
            if !(file.weight.is_finite() && file.weight >= 0.0) {
                let reason = format!("of {} is {}, but a weight is a number from 0 up", file.path.display(), file.weight);
                return wrong("weight".into(), reason);
            }
        }
        for (label, key) in self.keys.named() {
            if key.is_empty() {
                return wrong(format!("keys.{label}"), "is empty; leave it out to look under the usual names".into());
            }
        }
        Ok(())
    }
}

/// A file of frames: a path, or a table with a path and what holds for all frames in it.
#[derive(Debug, Clone, PartialEq)]
pub struct FileConfig {
    /// The file.
    pub path: PathBuf,
    /// Head that learns from frames that name none themselves.
    pub head: Option<String>,
    /// Group of frames that name none themselves; `IsolatedAtom` for a file of isolated atoms.
    pub group: Option<String>,
    /// Factor of the weights of its frames. Default 1.
    pub weight: f64,
}

impl FileConfig {
    /// A file of which nothing more is said.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), head: None, group: None, weight: 1.0 }
    }
}

/// The table form.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileTable {
    path: PathBuf,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    head: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    group: Option<String>,
    #[serde(default = "one")]
    weight: f64,
}

fn one() -> f64 {
    1.0
}

impl Serialize for FileConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { path, head, group, weight } = self.clone();
        if head.is_none() && group.is_none() && weight == 1.0 {
            return path.serialize(serializer);
        }
        FileTable { path, head, group, weight }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for FileConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PathOrTable;
        impl<'de> Visitor<'de> for PathOrTable {
            type Value = FileConfig;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a path, or a table with `path` and any of `head`, `group`, `weight`")
            }
            fn visit_str<E: serde::de::Error>(self, path: &str) -> Result<FileConfig, E> {
                if path.is_empty() {
                    return Err(E::custom("a path is empty"));
                }
                Ok(FileConfig::new(path))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<FileConfig, A::Error> {
                let FileTable { path, head, group, weight } = FileTable::deserialize(MapAccessDeserializer::new(map))?;
                if path.as_os_str().is_empty() {
                    return Err(A::Error::custom("a path is empty"));
                }
                Ok(FileConfig { path, head, group, weight })
            }
        }
        deserializer.deserialize_any(PathOrTable)
    }
}

/// Keys of labels and weights in the files. A label whose key is left out is looked for under the usual names ([`LabelKeys`]); one whose
/// key is given is read under that key alone, and it is an error if a file has no frame with it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KeysConfig {
    /// Total energy, eV (frame).
    pub energy: Option<String>,
    /// Forces, eV/Å (three numbers per atom).
    pub forces: Option<String>,
    /// Stress, eV/Å³, positive when tensile (frame, 6 or 9 numbers).
    pub stress: Option<String>,
    /// Virial, eV: stress = −virial / volume (frame, 6 or 9 numbers).
    pub virial: Option<String>,
    /// Which atoms' forces count: true or not 0 (one value per atom). Default `forces_mask`.
    pub force_mask: Option<String>,
    /// Kind of configuration (frame). Default `config_type`.
    pub group: Option<String>,
    /// Head that learns from the frame. Default `head`.
    pub head: Option<String>,
    /// Factor of all weights (frame). Default `config_weight`.
    pub weight: Option<String>,
    /// Weight of the energy (frame). Default `config_energy_weight`.
    pub energy_weight: Option<String>,
    /// Weight of the forces (frame). Default `config_forces_weight`.
    pub forces_weight: Option<String>,
    /// Weight of the stress (frame). Default `config_stress_weight`.
    pub stress_weight: Option<String>,
}

impl KeysConfig {
    /// The keys that were given, with what they stand for.
    pub fn named(&self) -> Vec<(LabelName, &str)> {
        let all = [
            (LabelName::Energy, &self.energy),
            (LabelName::Forces, &self.forces),
            (LabelName::Stress, &self.stress),
            (LabelName::Virial, &self.virial),
            (LabelName::ForceMask, &self.force_mask),
            (LabelName::Group, &self.group),
            (LabelName::Head, &self.head),
            (LabelName::Weight, &self.weight),
            (LabelName::EnergyWeight, &self.energy_weight),
            (LabelName::ForcesWeight, &self.forces_weight),
            (LabelName::StressWeight, &self.stress_weight),
        ];
        all.into_iter().filter_map(|(label, key)| Some((label, key.as_deref()?))).collect()
    }

    /// Where energies, forces and stresses are looked for. Who names one of stress and virial does not want the other.
    pub fn label_keys(&self) -> LabelKeys {
        let usual = LabelKeys::default();
        let pick = |key: &Option<String>, usual: Vec<String>| key.clone().map_or(usual, |key| vec![key]);
        let (stress, virial) = match (&self.stress, &self.virial) {
            (None, None) => (usual.stress, usual.virial),
            (stress, virial) => (stress.iter().cloned().collect(), virial.iter().cloned().collect()),
        };
        LabelKeys { energy: pick(&self.energy, usual.energy), forces: pick(&self.forces, usual.forces), stress, virial }
    }

    /// The key of anything but energy, forces, stress and virial.
    pub(super) fn other(&self, label: LabelName) -> &str {
        let (key, usual) = match label {
            LabelName::ForceMask => (&self.force_mask, "forces_mask"),
            LabelName::Group => (&self.group, "config_type"),
            LabelName::Head => (&self.head, "head"),
            LabelName::Weight => (&self.weight, "config_weight"),
            LabelName::EnergyWeight => (&self.energy_weight, "config_energy_weight"),
            LabelName::ForcesWeight => (&self.forces_weight, "config_forces_weight"),
            LabelName::StressWeight => (&self.stress_weight, "config_stress_weight"),
            LabelName::Energy => (&self.energy, "energy"),
            LabelName::Forces => (&self.forces, "forces"),
            LabelName::Stress => (&self.stress, "stress"),
            LabelName::Virial => (&self.virial, "virial"),
        };
        key.as_deref().unwrap_or(usual)
    }
}

/// How training and validation frames are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SplitConfig {
    /// What is drawn. Default `seed`.
    pub by: SplitBy,
    /// Seed of the draw. Default 0.
    pub seed: u64,
}

/// What goes to one side of the split as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SplitBy {
    /// Every frame by itself.
    #[default]
    Seed,
    /// All frames of a group (`config_type`). Frames without one are a group of their own.
    Group,
    /// All frames of a file.
    File,
}

impl fmt::Display for SplitBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Seed => "seed",
            Self::Group => "group",
            Self::File => "file",
        })
    }
}

/// What happens to a frame without a label that other frames have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MissingLabels {
    /// It is an error.
    #[default]
    Error,
    /// The label has weight 0 in that frame.
    Mask,
}

/// How a cached file is recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fingerprint {
    /// By the SHA-256 of its contents.
    #[default]
    Contents,
    /// By its path, size and time of modification: for files that take long to read.
    Metadata,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_paths_or_tables() {
        let config: DataConfig = toml::from_str(
            r#"
            train = ["a.xyz", { path = "b.extxyz.gz", head = "pbe", weight = 2.0 }, { path = "iso.xyz", group = "IsolatedAtom" }]
            missing_labels = "mask"
            split = { by = "group", seed = 7 }
            [keys]
            energy = "E"
            [config_type_weights]
            Surface = 0.5
            "#,
        )
        .unwrap();
        assert_eq!(config.train[0], FileConfig::new("a.xyz"));
        assert_eq!(config.train[1], FileConfig { head: Some("pbe".into()), weight: 2.0, ..FileConfig::new("b.extxyz.gz") });
        assert_eq!(config.train[2].group.as_deref(), Some("IsolatedAtom"));
        assert_eq!(config.split, SplitConfig { by: SplitBy::Group, seed: 7 });
        assert_eq!(config.keys.named(), [(LabelName::Energy, "E")]);
        assert_eq!(config.valid_fraction, 0.05);
        config.validate().unwrap();
        let back: DataConfig = toml::from_str(&toml::to_string(&config).unwrap()).unwrap();
        assert_eq!(back, config);
    }

    #[test]
    fn unknown_keys_and_wrong_values_are_errors() {
        for (text, says) in [
            ("train = [{ path = \"a\", wieght = 2.0 }]", "wieght"),
            ("train = [{ weight = 2.0 }]", "path"),
            ("train = [3]", "a path, or a table"),
            ("train = [\"\"]", "empty"),
            ("trian = []", "trian"),
            ("split = { by = \"frame\" }", "frame"),
        ] {
            let error = toml::from_str::<DataConfig>(text).unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
        let valid = DataConfig { train: vec![FileConfig::new("a")], ..DataConfig::default() };
        valid.validate().unwrap();
        let says = |config: DataConfig| config.validate().unwrap_err().to_string();
        assert!(says(DataConfig::default()).contains("train"));
        assert!(says(DataConfig { valid_fraction: 1.0, ..valid.clone() }).contains("valid_fraction"));
        assert!(
            says(DataConfig { config_type_weights: [("a".to_owned(), -1.0)].into(), ..valid.clone() }).contains("config_type_weights.a")
        );
        let heavy = FileConfig { weight: f64::NAN, ..FileConfig::new("b") };
        assert!(says(DataConfig { test: vec![heavy], ..valid.clone() }).contains("weight of b"));
        let keys = KeysConfig { forces: Some(String::new()), ..KeysConfig::default() };
        assert!(says(DataConfig { keys, ..valid }).contains("keys.forces"));
    }

    #[test]
    fn naming_stress_or_virial_excludes_the_other() {
        let usual = LabelKeys::default();
        assert_eq!(KeysConfig::default().label_keys(), usual);
        let virial = KeysConfig { virial: Some("W".into()), ..KeysConfig::default() }.label_keys();
        assert_eq!(virial, LabelKeys { stress: vec![], virial: vec!["W".into()], ..usual.clone() });
        let stress = KeysConfig { stress: Some("S".into()), energy: Some("E".into()), ..KeysConfig::default() }.label_keys();
        assert_eq!(stress, LabelKeys { energy: vec!["E".into()], stress: vec!["S".into()], virial: vec![], ..usual });
    }
}
