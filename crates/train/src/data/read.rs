//! From files to frames.

use std::collections::BTreeMap;
use std::sync::Arc;

use indexmap::IndexMap;
use tesseral_atoms::info::Column;
use tesseral_atoms::io;
use tesseral_atoms::labels::LabelError;
use tesseral_atoms::{Array, InfoValue, LabelKeys, Structure};

use super::config::{DataConfig, FileConfig, MissingLabels};
use super::error::{DataError, FrameFault, MOST_FAULTS, suggestion};
use super::frame::{Frame, Origin, Weights, names_isolated_atoms};
use super::keys::{Coverage, FileReport, IsolatedAtom, LabelName, PartReport};
use crate::stop::Stop;

/// Fields that stay with a structure whether a model asks for them or not.
const ALWAYS_KEPT: [&str; 4] = ["total_charge", "charge", "total_spin", "spin"];

/// Keys of frames that stay with the structure: those of the fields that the model embeds, also without `total_`, and charge and spin.
pub(super) fn kept_keys(fields: &[String]) -> Vec<String> {
    let mut keys: Vec<String> = ALWAYS_KEPT.map(str::to_owned).into();
    for field in fields {
        let short = field.strip_prefix("total_").unwrap_or(field);
        for key in [field.as_str(), short] {
            if !keys.iter().any(|known| known == key) {
                keys.push(key.to_owned());
            }
        }
    }
    keys
}

/// Reads all frames of `files` in order and gives each to `sink`; isolated atoms go into the report instead. `fields` names what the model
/// embeds (charge, spin, …): these values stay in `info` and `arrays` of the structures, as real numbers, and nothing else does. `stop` is asked for
/// before each frame.
///
/// A label that is missing has weight 0 in its frame.
///
/// # Errors
/// [`DataError`]: files that cannot be read, all frames that cannot be used (after the last file, with the first ten of them named), keys that the
/// configuration names and a file does not have, labels missing in some frames unless they may be masked, a request to stop, and what `sink` returns.
pub fn read_files(
    files: &[FileConfig],
    config: &DataConfig,
    fields: &[String],
    stop: Stop<'_>,
    sink: &mut dyn FnMut(Frame) -> Result<(), DataError>,
) -> Result<PartReport, DataError> {
    let reader = Reader { config, labels: config.keys.label_keys(), kept: kept_keys(fields), fields };
    let mut part = PartReport::default();
    let mut faults = Vec::new();
    let mut total = 0;
    for label in [LabelName::Energy, LabelName::Forces, LabelName::Stress] {
        part.coverage.insert(label, Coverage::default());
    }
    for file in files {
        let name: Arc<str> = file.path.display().to_string().into();
        let mut report = FileReport { file: name.to_string(), ..FileReport::default() };
        let mut readable = true;
        for (index, structure) in io::read(&file.path).map_err(DataError::Read)?.enumerate() {
            stop.check()?;
            let origin = Origin { file: name.clone(), frame: index };
            let frame = structure
                .map_err(|error| match *error.problem {
                    io::Problem::Empty => Err(DataError::Read(error)),
                    _ => Ok(FrameFault::Read(error)),
                })
                .and_then(|structure| reader.frame(structure, file, origin, &mut report, &mut part).map_err(Ok));
            match frame {
                Ok(Some(frame)) => {
                    reader.cover(&frame, &mut part);
                    report.frames += 1;
                    report.atoms += frame.structure.len();
                    sink(frame)?;
                }
                Ok(None) => report.isolated += 1,
                Err(Ok(fault)) => {
                    total += 1;
                    readable &= matches!(fault, FrameFault::IsolatedWithoutEnergy { .. });
                    if faults.len() < MOST_FAULTS {
                        faults.push(fault);
                    }
                }
                Err(Err(error)) => return Err(error),
            }
        }
        // A file whose frames cannot be used says little about its keys.
        if readable {
            reader.check_named(&report)?;
        }
        part.files.push(report);
    }
    if total > 0 {
        return Err(DataError::Frames { faults, total });
    }
    reader.check_missing(&part)?;
    Ok(part)
}

struct Reader<'c> {
    config: &'c DataConfig,
    labels: LabelKeys,
    /// Keys of frames that stay in `info`.
    kept: Vec<String>,
    /// Names of columns of atoms that stay in `arrays`.
    fields: &'c [String],
}

impl Reader<'_> {
    /// A frame with its labels; `None` for an isolated atom, which goes into `part`.
    fn frame(
        &self,
        mut structure: Structure,
        file: &FileConfig,
        origin: Origin,
        report: &mut FileReport,
        part: &mut PartReport,
    ) -> Result<Option<Frame>, FrameFault> {
        if structure.is_empty() {
            return Err(FrameFault::Empty { origin });
        }
        let mut read = Vec::new();
        let group = self.word(&structure, LabelName::Group, &origin, &mut read)?.or_else(|| file.group.clone());
        let head = self.word(&structure, LabelName::Head, &origin, &mut read)?.or_else(|| file.head.clone());
        let label = |cause| FrameFault::Label { origin: origin.clone(), cause, atom: None };
        let energy = structure.reference_energy(&self.labels).map_err(label)?.map(|energy| {
            read.push((LabelName::Energy, energy.key.to_owned()));
            energy.value
        });
        if structure.len() == 1 && group.as_deref().is_some_and(names_isolated_atoms) {
            count(report, read, &structure);
            let Some(energy) = energy else { return Err(FrameFault::IsolatedWithoutEnergy { origin }) };
            let number = structure.numbers[0];
            part.isolated.push(IsolatedAtom { number, energy, head, origin });
            return Ok(None);
        }
        let forces = self.forces(&structure, &origin, &mut read)?;
        let periodic = structure.pbc == [true; 3];
        let has_stress = self.labels.stress.iter().chain(&self.labels.virial).any(|key| structure.info.contains_key(key));
        let stress = match periodic {
            true => structure.reference_stress(&self.labels).map_err(label)?,
            false => None,
        };
        report.stress_without_volume += usize::from(!periodic && has_stress);
        let stress = stress.map(|stress| {
            read.push((LabelName::Stress, stress.key.to_owned()));
            stress.value
        });
        let force_mask = self.mask(&structure, &origin, &mut read)?;
        let group_weight = group.as_ref().and_then(|group| self.config.config_type_weights.get(group)).copied().unwrap_or(1.0);
        let all = file.weight * group_weight * self.weight(&structure, LabelName::Weight, &origin, &mut read)?;
        let mut weight = |label, there: bool| {
            let weight = self.weight(&structure, label, &origin, &mut read)?;
            Ok::<f64, FrameFault>(if there { all * weight } else { 0.0 })
        };
        let weights = Weights {
            energy: weight(LabelName::EnergyWeight, energy.is_some())?,
            forces: weight(LabelName::ForcesWeight, forces.is_some())?,
            stress: weight(LabelName::StressWeight, stress.is_some())?,
        };
        count(report, read, &structure);
        if let Some(group) = &group {
            *part.groups.entry(group.clone()).or_default() += 1;
        }
        self.strip(&mut structure, &origin)?;
        structure.validate().map_err(|cause| FrameFault::Structure { origin: origin.clone(), cause })?;
        let (group, head) = (group.map(Arc::from), head.map(Arc::from));
        Ok(Some(Frame { structure, energy, forces, force_mask, stress, weights, group, head, origin }))
    }

    fn forces(
        &self,
        structure: &Structure,
        origin: &Origin,
        read: &mut Vec<(LabelName, String)>,
    ) -> Result<Option<Vec<[f64; 3]>>, FrameFault> {
        match structure.reference_forces(&self.labels) {
            Ok(Some(forces)) => {
                read.push((LabelName::Forces, forces.key.to_owned()));
                Ok(Some(forces.value))
            }
            Ok(None) => Ok(None),
            Err(cause) => {
                let not_finite = |forces: Vec<[f64; 3]>| forces.iter().position(|force| !force.iter().all(|x| x.is_finite()));
                let atom = match &cause {
                    LabelError::NotFinite { key } => structure.arrays.get(key).and_then(Array::to_vectors).and_then(not_finite),
                    _ => None,
                };
                Err(FrameFault::Label { origin: origin.clone(), cause, atom })
            }
        }
    }

    /// A group or head: text, or a number or logical value as it is written.
    fn word(
        &self,
        structure: &Structure,
        label: LabelName,
        origin: &Origin,
        read: &mut Vec<(LabelName, String)>,
    ) -> Result<Option<String>, FrameFault> {
        let key = self.config.keys.other(label);
        let Some(value) = structure.info.get(key) else { return Ok(None) };
        let word = match value {
            InfoValue::Text(text) => text.clone(),
            InfoValue::Int(int) => int.to_string(),
            InfoValue::Real(real) => real.to_string(),
            InfoValue::Bool(bool) => bool.to_string(),
            other => {
                let cause = LabelError::WrongShape { key: key.to_owned(), expected: "one word", found: other.describe() };
                return Err(FrameFault::Label { origin: origin.clone(), cause, atom: None });
            }
        };
        read.push((label, key.to_owned()));
        Ok(Some(word))
    }

    /// A weight, 1 if it is not there.
    fn weight(
        &self,
        structure: &Structure,
        label: LabelName,
        origin: &Origin,
        read: &mut Vec<(LabelName, String)>,
    ) -> Result<f64, FrameFault> {
        let key = self.config.keys.other(label);
        let Some(value) = structure.info.get(key) else { return Ok(1.0) };
        match value.as_f64() {
            Some(weight) if weight.is_finite() && weight >= 0.0 => {
                read.push((label, key.to_owned()));
                Ok(weight)
            }
            number => {
                let value = number.map_or_else(|| value.describe(), |number| number.to_string());
                Err(FrameFault::Weight { origin: origin.clone(), key: key.to_owned(), value })
            }
        }
    }

    /// Which atoms' forces count.
    fn mask(&self, structure: &Structure, origin: &Origin, read: &mut Vec<(LabelName, String)>) -> Result<Option<Vec<bool>>, FrameFault> {
        let key = self.config.keys.other(LabelName::ForceMask);
        let Some(array) = structure.arrays.get(key) else { return Ok(None) };
        let mask: Option<Vec<bool>> = match array.values() {
            _ if array.width() != 1 => None,
            Column::Bool(values) => Some(values.clone()),
            Column::Int(values) => Some(values.iter().map(|&x| x != 0).collect()),
            Column::Real(values) => values.iter().all(|x| x.is_finite()).then(|| values.iter().map(|&x| x != 0.0).collect()),
            Column::Text(_) => None,
        };
        let Some(mask) = mask else {
            let found = format!("{} values per atom, or no numbers", array.width());
            let cause = LabelError::WrongShape { key: key.to_owned(), expected: "one logical value per atom", found };
            return Err(FrameFault::Label { origin: origin.clone(), cause, atom: None });
        };
        read.push((LabelName::ForceMask, key.to_owned()));
        Ok(Some(mask))
    }

    /// Leaves in `info` and `arrays` what the model embeds, as real numbers.
    fn strip(&self, structure: &mut Structure, origin: &Origin) -> Result<(), FrameFault> {
        let wrong = |key: &str, expected, found| {
            let cause = LabelError::WrongShape { key: key.to_owned(), expected, found };
            FrameFault::Label { origin: origin.clone(), cause, atom: None }
        };
        let mut info = IndexMap::new();
        for key in &self.kept {
            let Some(value) = structure.info.get(key) else { continue };
            match value.as_f64().filter(|x| x.is_finite()) {
                Some(number) => info.insert(key.clone(), InfoValue::Real(number)),
                None => return Err(wrong(key, "one number", value.as_f64().map_or_else(|| value.describe(), |x| x.to_string()))),
            };
        }
        let mut arrays = IndexMap::new();
        for key in self.fields {
            let Some(array) = structure.arrays.get(key) else { continue };
            let values = match array.values() {
                Column::Real(values) => Some(values.clone()),
                Column::Int(values) => Some(values.iter().map(|&x| x as f64).collect()),
                _ => None,
            };
            match values.filter(|values: &Vec<f64>| array.width() == 1 && values.iter().all(|x| x.is_finite())) {
                Some(values) => arrays.insert(key.clone(), Array::scalars(values)),
                None => return Err(wrong(key, "one number per atom", format!("{} values per atom, or not all numbers", array.width()))),
            };
        }
        structure.info = info;
        structure.arrays = arrays;
        Ok(())
    }

    /// Counts the labels of a frame.
    fn cover(&self, frame: &Frame, part: &mut PartReport) {
        let labels = [
            (LabelName::Energy, Some(frame.energy.is_some())),
            (LabelName::Forces, Some(frame.forces.is_some())),
            (LabelName::Stress, (frame.structure.pbc == [true; 3]).then_some(frame.stress.is_some())),
        ];
        for (label, there) in labels {
            let coverage = part.coverage.entry(label).or_default();
            match there {
                Some(true) => coverage.with += 1,
                Some(false) => {
                    coverage.without += 1;
                    coverage.lone_atoms += usize::from(frame.structure.len() == 1 && frame.structure.pbc == [false; 3]);
                    coverage.first_without.get_or_insert_with(|| frame.origin.clone());
                }
                None => {}
            }
        }
    }

    /// Keys that the configuration names must be in every file. A file of isolated atoms needs energies only.
    fn check_named(&self, report: &FileReport) -> Result<(), DataError> {
        let keys = &self.config.keys;
        let both = keys.stress.is_some() && keys.virial.is_some();
        for (label, key) in keys.named() {
            if report.frames == 0 && label != LabelName::Energy {
                continue;
            }
            let stored = if label == LabelName::Virial { LabelName::Stress } else { label };
            let there = |key: &str| report.read.get(&stored).is_some_and(|keys| keys.contains_key(key));
            // One of stress and virial is enough. A stress that was read for no frame may have been left out for want of a volume.
            let other = both && stored == LabelName::Stress && [&keys.stress, &keys.virial].into_iter().flatten().any(|key| there(key));
            if there(key) || other || stored == LabelName::Stress && report.stress_without_volume > 0 {
                continue;
            }
            let found = present(report, label.is_per_atom());
            let suggestion = suggestion(key, found.iter().map(String::as_str)).map(str::to_owned);
            return Err(DataError::KeyNotFound { file: report.file.clone(), label, key: key.to_owned(), found, suggestion });
        }
        Ok(())
    }

    fn check_missing(&self, part: &PartReport) -> Result<(), DataError> {
        if self.config.missing_labels == MissingLabels::Mask {
            return Ok(());
        }
        for (&label, coverage) in &part.coverage {
            if let Some(origin) = coverage.first_without.clone().filter(|_| coverage.with > 0) {
                let keys = match label {
                    LabelName::Energy => self.labels.energy.clone(),
                    LabelName::Forces => self.labels.forces.clone(),
                    _ => self.labels.stress.iter().chain(&self.labels.virial).cloned().collect(),
                };
                let keys = keys.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ");
                let Coverage { with, without, lone_atoms, .. } = *coverage;
                return Err(DataError::MissingLabel { origin, label, keys, with, without, lone_atoms });
            }
        }
        Ok(())
    }
}

/// Enters what a frame had into the report of its file.
fn count(report: &mut FileReport, read: Vec<(LabelName, String)>, structure: &Structure) {
    let mut seen: Vec<&str> = read.iter().map(|(_, key)| key.as_str()).collect();
    seen.sort_unstable();
    let unread = |key: &&String| seen.binary_search(&key.as_str()).is_err();
    let [info, arrays] = &mut report.unread;
    for (map, keys) in
        [(info, structure.info.keys().filter(unread).collect::<Vec<_>>()), (arrays, structure.arrays.keys().filter(unread).collect())]
    {
        for key in keys {
            if let Some(count) = map.get_mut(key) {
                *count += 1;
            } else {
                map.insert(key.clone(), 1);
            }
        }
    }
    for (label, key) in read {
        *report.read.entry(label).or_default().entry(key).or_default() += 1;
    }
}

/// All keys of frames or of atoms that a file has, read or not.
fn present(report: &FileReport, per_atom: bool) -> Vec<String> {
    let read = report.read.iter().filter(|(label, _)| label.is_per_atom() == per_atom).flat_map(|(_, keys)| keys.keys());
    let all: BTreeMap<&String, ()> = read.chain(report.unread[usize::from(per_atom)].keys()).map(|key| (key, ())).collect();
    all.into_keys().cloned().collect()
}
