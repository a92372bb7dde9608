//! All data of a training.

use std::sync::Arc;

use super::cache;
use super::config::{DataConfig, FileConfig};
use super::error::{DataError, suggestion};
use super::keys::{IsolatedAtoms, KeyReport, PartReport};
use super::read::read_files;
use super::source::{FrameSource, Memory, Subset};
use super::split::split;
use crate::stop::Stop;

/// Frames to train, validate and test on, with what was found in their files.
pub struct Dataset {
    /// To train on; never empty.
    pub train: Arc<dyn FrameSource>,
    /// To validate on; may be empty.
    pub valid: Arc<dyn FrameSource>,
    /// To test the finished model on; may be empty. [`super::files_of`] divides it by file.
    pub test: Arc<dyn FrameSource>,
    /// Energies of isolated atoms, from all files to train on.
    pub isolated: IsolatedAtoms,
    /// Which keys were really read, and how many frames carry each.
    pub keys: KeyReport,
}

impl Dataset {
    /// Reads the files of `config`, into memory or through its cache, and holds back frames for validation where it names no files for that.
    /// `fields` names what the model embeds (charge, spin, …), see [`read_files`].
    ///
    /// # Errors
    /// [`DataError`].
    pub fn load(config: &DataConfig, fields: &[String]) -> Result<Self, DataError> {
        Self::load_unless(config, fields, Stop::never())
    }

    /// As [`Self::load`], unless it is asked to stop.
    ///
    /// # Errors
    /// [`DataError`]; [`DataError::Stopped`] if it was asked to.
    pub fn load_unless(config: &DataConfig, fields: &[String], stop: Stop<'_>) -> Result<Self, DataError> {
        config.validate()?;
        let (train, train_report) = part(&config.train, config, fields, stop)?;
        let (valid, valid_report) = part(&config.valid, config, fields, stop)?;
        let (test, test_report) = part(&config.test, config, fields, stop)?;
        if train.is_empty() {
            let files = config.train.iter().map(|file| file.path.display().to_string()).collect::<Vec<_>>().join(", ");
            return Err(DataError::NoFrames { files });
        }
        check_groups(config, [&train_report, &valid_report])?;
        let isolated = IsolatedAtoms::new(&train_report.isolated)?;
        let (train, valid) = if config.valid.is_empty() {
            let split = split(&*train, &config.split, config.valid_fraction)?;
            let part = |indices| -> Arc<dyn FrameSource> { Arc::new(Subset::new(train.clone(), indices)) };
            (part(split.train), part(split.valid))
        } else {
            (train, valid)
        };
        let keys = KeyReport { train: train_report, valid: valid_report, test: test_report };
        Ok(Self { train, valid, test, isolated, keys })
    }
}

fn part(
    files: &[FileConfig],
    config: &DataConfig,
    fields: &[String],
    stop: Stop<'_>,
) -> Result<(Arc<dyn FrameSource>, PartReport), DataError> {
    if let Some(folder) = config.cache.as_deref().filter(|_| !files.is_empty()) {
        let (frames, report) = cache::open_or_build(folder, files, config, fields, stop)?;
        return Ok((Arc::new(frames), report));
    }
    let mut frames = Vec::new();
    let report = read_files(files, config, fields, stop, &mut |frame| {
        frames.push(Arc::new(frame));
        Ok(())
    })?;
    Ok((Arc::new(Memory(frames)), report))
}

/// A weight for a group that does not exist is a slip of the pen.
fn check_groups(config: &DataConfig, parts: [&PartReport; 2]) -> Result<(), DataError> {
    for group in config.config_type_weights.keys() {
        if parts.iter().all(|part| !part.groups.contains_key(group)) {
            let mut found: Vec<String> = parts.iter().flat_map(|part| part.groups.keys().cloned()).collect();
            found.sort();
            found.dedup();
            let suggestion = suggestion(group, found.iter().map(String::as_str)).map(str::to_owned);
            return Err(DataError::UnknownGroup { group: group.clone(), found, suggestion });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::config::{KeysConfig, MissingLabels, SplitBy, SplitConfig};
    use super::super::keys::LabelName;
    use super::*;

    /// Two periodic frames, a molecule and two isolated atoms.
    const MIXED: &str = concat!(
        "2\nLattice=\"4 0 0 0 4 0 0 0 4\" Properties=species:S:1:pos:R:3:REF_forces:R:3:forces_mask:L:1 REF_energy=-3.5 energy=7 ",
        "REF_stress=\"1 2 3 4 5 6\" config_type=bulk config_weight=2 config_energy_weight=3 total_charge=1 nonsense=5\n",
        "Cu 0 0 0 0.1 0 0 T\nCu 2 2 2 -0.1 0 0 F\n",
        "1\nLattice=\"2 0 0 0 2 0 0 0 2\" Properties=species:S:1:pos:R:3:REF_forces:R:3 REF_energy=-1.5 virial=\"8 0 0 0 8 0 0 0 8\" config_type=bulk\n",
        "Cu 0 0 0 0 0 0\n",
        "2\nProperties=species:S:1:pos:R:3:REF_forces:R:3 REF_energy=-4 stress=\"0 0 0 0 0 0\" config_type=2 config_forces_weight=0.5\n",
        "H 0 0 0 0 0 1\nH 0 0 0.8 0 0 -1\n",
        "1\nProperties=species:S:1:pos:R:3 REF_energy=-0.25 config_type=IsolatedAtom\nCu 0 0 0\n",
        "1\nProperties=species:S:1:pos:R:3 energy=-13.6 config_type=isolated_atom head=pbe\nH 0 0 0\n",
    );

    fn write(folder: &Path, name: &str, text: &str) -> FileConfig {
        let path = folder.join(name);
        fs_err::write(&path, text).unwrap();
        FileConfig::new(path)
    }

    fn load(config: &DataConfig) -> Result<Dataset, DataError> {
        Dataset::load(config, &[])
    }

    fn message(config: &DataConfig) -> String {
        let error = load(config).err().expect("it should fail");
        format!("{error} | {}", error.hint().unwrap_or_default())
    }

    #[test]
    fn labels_weights_and_isolated_atoms() {
        let folder = tempfile::tempdir().unwrap();
        let file = FileConfig { weight: 10.0, head: Some("main".into()), ..write(folder.path(), "a.xyz", MIXED) };
        let weights = [("bulk".to_owned(), 0.5)].into();
        let config = DataConfig { train: vec![file], valid_fraction: 0.0, config_type_weights: weights, ..DataConfig::default() };
        let data = load(&config).unwrap();
        assert_eq!((data.train.len(), data.valid.len(), data.test.len()), (3, 0, 0));
        let frame = data.train.frame(0).unwrap();
        assert_eq!(frame.energy, Some(-3.5));
        assert_eq!(frame.forces, Some(vec![[0.1, 0.0, 0.0], [-0.1, 0.0, 0.0]]));
        assert_eq!(frame.force_mask, Some(vec![true, false]));
        assert_eq!(frame.stress, Some([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]));
        assert_eq!(frame.weights, Weights { energy: 30.0, forces: 10.0, stress: 10.0 });
        assert_eq!((frame.group.as_deref(), frame.head.as_deref()), (Some("bulk"), Some("main")));
        assert_eq!(frame.structure.info.keys().collect::<Vec<_>>(), ["total_charge"]);
        assert_eq!(frame.structure.info["total_charge"], InfoValue::Real(1.0));
        assert!(frame.structure.arrays.is_empty());
        // A virial of 8 eV in 8 Å³ is a stress of −1 eV/Å³.
        assert_eq!(data.train.frame(1).unwrap().stress, Some([-1.0, -1.0, -1.0, 0.0, 0.0, 0.0]));
        let molecule = data.train.frame(2).unwrap();
        assert_eq!(molecule.stress, None);
        assert_eq!(molecule.group.as_deref(), Some("2"));
        assert_eq!(molecule.weights, Weights { energy: 10.0, forces: 5.0, stress: 0.0 });
        assert_eq!(data.isolated.energies(Some("pbe")), [(1, -13.6)].into());
        assert_eq!(data.isolated.energies(Some("main")), [(29, -0.25)].into());
        let report = &data.keys.train;
        assert_eq!((report.files[0].frames, report.files[0].atoms, report.files[0].isolated), (3, 5, 2));
        assert_eq!(report.keys_of(LabelName::Energy), [("REF_energy", 4), ("energy", 1)].into());
        assert_eq!(report.keys_of(LabelName::Stress), [("REF_stress", 1), ("virial", 1)].into());
        assert_eq!(report.files[0].stress_without_volume, 1);
        assert_eq!(report.files[0].unread[0].get("energy"), Some(&1));
        assert_eq!(report.files[0].unread[0].get("nonsense"), Some(&1));
        assert_eq!(report.groups, [("2".to_owned(), 1), ("bulk".to_owned(), 2)].into());
        assert_eq!((report.coverage[&LabelName::Stress].with, report.coverage[&LabelName::Stress].without), (2, 0));
    }

    use super::super::frame::Weights;
    use tesseral_atoms::InfoValue;

    #[test]
    fn named_keys_must_be_there() {
        let folder = tempfile::tempdir().unwrap();
        let file = write(folder.path(), "a.xyz", MIXED);
        let config = |keys| DataConfig { train: vec![file.clone()], keys, ..DataConfig::default() };
        let text = message(&config(KeysConfig { energy: Some("REF_enrgy".into()), ..KeysConfig::default() }));
        assert!(text.contains("no frame of") && text.contains("a.xyz has `REF_enrgy`, which the configuration names for energy"), "{text}");
        assert!(text.contains("nonsense") && text.contains("did you mean `REF_energy`?"), "{text}");
        let text = message(&config(KeysConfig { forces: Some("forces".into()), ..KeysConfig::default() }));
        assert!(text.contains("did you mean `REF_forces`?") && !text.contains("nonsense"), "{text}");
        let text = message(&config(KeysConfig { group: Some("kind".into()), ..KeysConfig::default() }));
        assert!(text.contains("names for group"), "{text}");
        // Only energies are asked of a file of isolated atoms, and here they have none.
        let isolated = FileConfig { group: Some("IsolatedAtom".into()), ..write(folder.path(), "iso.xyz", "1\nenergy=-1\nHe 0 0 0\n") };
        let keys = KeysConfig { forces: Some("REF_forces".into()), stress: Some("REF_stress".into()), ..KeysConfig::default() };
        let mut config = DataConfig { train: vec![file.clone(), isolated], keys, ..DataConfig::default() };
        config.missing_labels = MissingLabels::Mask;
        assert_eq!(load(&config).unwrap().isolated.energies(None), [(2, -1.0), (29, -0.25)].into());
    }

    #[test]
    fn missing_labels_are_errors_or_masked() {
        let folder = tempfile::tempdir().unwrap();
        let labelled = "1\nProperties=species:S:1:pos:R:3:forces:R:3 energy=1\nH 0 0 0 0 0 0\n";
        let files = vec![
            write(folder.path(), "a.xyz", &labelled.repeat(3)),
            write(folder.path(), "b.xyz", &format!("{labelled}1\nProperties=species:S:1:pos:R:3:forces:R:3\nH 0 0 0 0 0 0\n")),
        ];
        let mut config = DataConfig { train: files, valid_fraction: 0.0, ..DataConfig::default() };
        let text = message(&config);
        assert!(text.contains("frame 1 of") && text.contains("b.xyz has no energy") && text.contains("which 4 other frames"), "{text}");
        config.missing_labels = MissingLabels::Mask;
        let frame = load(&config).unwrap().train.frame(4).unwrap();
        assert_eq!((frame.energy, frame.weights.energy, frame.weights.forces), (None, 0.0, 1.0));
        // A label that no frame has is not missed.
        let file = write(folder.path(), "c.xyz", "1\nenergy=1\nH 0 0 0\n");
        let config = DataConfig { train: vec![file], ..DataConfig::default() };
        assert_eq!(load(&config).unwrap().train.frame(0).unwrap().forces, None);
    }

    #[test]
    fn isolated_atoms_that_nothing_marks_are_guessed() {
        let folder = tempfile::tempdir().unwrap();
        let molecule = "2\nProperties=species:S:1:pos:R:3:forces:R:3 energy=-30\nH 0 0 0 0 0 1\nH 0 0 0.8 0 0 -1\n";
        let lone = "1\nProperties=species:S:1:pos:R:3 energy=-13.5 pbc=\"F F F\"\nH 0 0 0\n";
        let hint = |files: &[FileConfig]| {
            let config = DataConfig { train: files.to_vec(), valid_fraction: 0.0, ..DataConfig::default() };
            let error = load(&config).err().expect("it should fail");
            assert!(matches!(error, DataError::MissingLabel { label: LabelName::Forces, .. }), "{error}");
            error.hint().unwrap()
        };
        let molecules = write(folder.path(), "mol.xyz", &molecule.repeat(3));
        let isolated = write(folder.path(), "iso_atoms.xyz", lone);
        let text = hint(&[molecules.clone(), isolated.clone()]);
        let path = isolated.path.display();
        assert!(text.starts_with(&format!("{{ path = \"{path}\", group = \"IsolatedAtom\" }} marks a file of isolated atoms")), "{text}");
        assert!(!text.contains("mask"), "{text}");
        // What the hint says helps.
        let marked = FileConfig { group: Some("IsolatedAtom".into()), ..isolated.clone() };
        let config = DataConfig { train: vec![molecules.clone(), marked], valid_fraction: 0.0, ..DataConfig::default() };
        assert_eq!(load(&config).unwrap().isolated.energies(None), [(1, -13.5)].into());
        // Other frames without forces, and single atoms in a cell, are what they are.
        let unlabelled = "2\nProperties=species:S:1:pos:R:3 energy=-30\nH 0 0 0\nH 0 0 0.8\n";
        let text = hint(&[molecules.clone(), isolated, write(folder.path(), "b.xyz", unlabelled)]);
        assert!(text.starts_with("1 of them are single atoms") && text.contains("the other 1: add the label"), "{text}");
        let crystal = "1\nLattice=\"3 0 0 0 3 0 0 0 3\" Properties=species:S:1:pos:R:3 energy=-3\nH 0 0 0\n";
        let text = hint(&[molecules, write(folder.path(), "c.xyz", crystal)]);
        assert!(text.contains("mask") && !text.contains("IsolatedAtom"), "{text}");
    }

    #[test]
    fn reading_ends_when_it_is_asked_to() {
        let folder = tempfile::tempdir().unwrap();
        let file = write(folder.path(), "a.xyz", MIXED);
        let cache = folder.path().join("cache");
        for cached in [None, Some(cache.clone())] {
            let config = DataConfig { train: vec![file.clone()], cache: cached, ..DataConfig::default() };
            let flag = std::sync::atomic::AtomicBool::new(true);
            let error = Dataset::load_unless(&config, &[], Stop::new(&flag)).err().expect("it should stop");
            assert!(matches!(error, DataError::Stopped(_)) && error.hint().is_none(), "{error}");
            flag.store(false, std::sync::atomic::Ordering::Relaxed);
            let data = Dataset::load_unless(&config, &[], Stop::new(&flag)).unwrap();
            assert_eq!(data.train.len() + data.valid.len(), 3);
            // Frames that were read before are not to be had any more.
            flag.store(true, std::sync::atomic::Ordering::Relaxed);
            let source = super::super::source::UntilStopped { source: &*data.train, stop: Stop::new(&flag) };
            assert!(matches!(source.frame(0), Err(DataError::Stopped(_))) && matches!(source.summary(0), Err(DataError::Stopped(_))));
        }
        // Nothing half-written is left of the first attempt.
        let left = fs_err::read_dir(&cache).unwrap().filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().ends_with(".tmp"));
        assert_eq!(left.count(), 0);
    }

    #[test]
    fn unusable_frames_are_named_together() {
        let folder = tempfile::tempdir().unwrap();
        let good = "2\nProperties=species:S:1:pos:R:3:forces:R:3 energy=1\nH 0 0 0 0 0 0\nH 0 0 1 0 0 0\n";
        let text = [
            good,
            "2\nProperties=species:S:1:pos:R:3:forces:R:3 energy=1\nH 0 0 0 0 0 0\nH 0 0 1 0 nan 0\n",
            "2\nProperties=species:S:1:pos:R:3:forces:R:3 energy=nan\nH 0 0 0 0 0 0\nH 0 0 1 0 0 0\n",
            "2\nProperties=species:S:1:pos:R:3:forces:R:3 energy=1\nH 0 0 0 0 0 0\nH 0 0 oops 0 0 0\n",
            "2\nProperties=species:S:1:pos:R:3:forces:R:3 energy=1\nH 0 0 0 0 0 0\nH 0 0 0 0 0 0\n",
            "2\nProperties=species:S:1:pos:R:3:forces:R:3 energy=1 config_weight=-1\nH 0 0 0 0 0 0\nH 0 0 1 0 0 0\n",
            "0\nenergy=1\n",
            good,
        ]
        .concat();
        let config = DataConfig { train: vec![write(folder.path(), "a.xyz", &text)], ..DataConfig::default() };
        let error = load(&config).err().expect("it should fail");
        let DataError::Frames { faults, total } = &error else { panic!("{error}") };
        assert_eq!((*total, faults.len()), (6, 6));
        let text = error.to_string();
        for says in [
            "frame 1 of",
            "`forces` holds a number that is not finite (atom 1)",
            "`energy` holds a number that is not finite",
            "a.xyz:16: frame 3",
            "on the same spot",
            "the weight `config_weight` is -1",
            "frame 6 of",
            "has no atoms",
        ] {
            assert!(text.contains(says), "{says}: {text}");
        }
    }

    #[test]
    fn empty_and_absent_files() {
        let folder = tempfile::tempdir().unwrap();
        let config = |file: FileConfig| DataConfig { train: vec![file], ..DataConfig::default() };
        let text = message(&config(write(folder.path(), "empty.xyz", "")));
        assert!(text.contains("empty.xyz") && text.contains("empty"), "{text}");
        let text = message(&config(write(folder.path(), "blank.xyz", "\n\n")));
        assert!(text.contains("blank.xyz") && text.contains("empty"), "{text}");
        let text = message(&config(FileConfig::new(folder.path().join("no.xyz"))));
        assert!(text.contains("no.xyz") && text.contains("check the path"), "{text}");
        let isolated = FileConfig { group: Some("IsolatedAtom".into()), ..write(folder.path(), "iso.xyz", "1\nenergy=-1\nHe 0 0 0\n") };
        assert!(message(&config(isolated)).contains("only isolated atoms"));
        let silent = FileConfig { group: Some("IsolatedAtom".into()), ..write(folder.path(), "iso2.xyz", "1\n\nHe 0 0 0\n") };
        assert!(message(&config(silent)).contains("is an isolated atom without an energy"));
    }

    #[test]
    fn weights_of_groups_that_do_not_exist_and_splits() {
        let folder = tempfile::tempdir().unwrap();
        let file = write(folder.path(), "a.xyz", MIXED);
        let config =
            DataConfig { train: vec![file.clone()], config_type_weights: [("Bluk".to_owned(), 2.0)].into(), ..DataConfig::default() };
        let text = message(&config);
        assert!(text.contains("`Bluk`") && text.contains("did you mean `bulk`?"), "{text}");
        let split = SplitConfig { by: SplitBy::Group, seed: 0 };
        let data = load(&DataConfig { train: vec![file.clone()], split, valid_fraction: 0.4, ..DataConfig::default() }).unwrap();
        assert_eq!((data.train.len(), data.valid.len()), (2, 1));
        let explicit =
            load(&DataConfig { train: vec![file.clone()], valid: vec![file.clone()], test: vec![file], ..DataConfig::default() }).unwrap();
        assert_eq!((explicit.train.len(), explicit.valid.len(), explicit.test.len()), (3, 3, 3));
    }

    #[test]
    fn embedded_fields_stay() {
        let folder = tempfile::tempdir().unwrap();
        let text = "2\nProperties=species:S:1:pos:R:3:label:I:1:other:R:1 energy=1 temperature=300 spin=2\nH 0 0 0 1 0\nH 0 0 1 2 0\n";
        let config = DataConfig { train: vec![write(folder.path(), "a.xyz", text)], ..DataConfig::default() };
        let fields = ["temperature".to_owned(), "label".to_owned()];
        let frame = Dataset::load(&config, &fields).unwrap().train.frame(0).unwrap();
        assert_eq!(frame.structure.info.keys().collect::<Vec<_>>(), ["spin", "temperature"]);
        assert_eq!(frame.structure.arrays.keys().collect::<Vec<_>>(), ["label"]);
        assert_eq!(frame.structure.arrays["label"].as_reals(), Some(&[1.0, 2.0][..]));
        let text = text.replace("spin=2", "spin=high");
        let config = DataConfig { train: vec![write(folder.path(), "b.xyz", &text)], ..DataConfig::default() };
        let error = load(&config).err().expect("it should fail").to_string();
        assert!(error.contains("`spin` should be one number, but it is text"), "{error}");
    }
}
