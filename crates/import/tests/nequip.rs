//! NequIP models in all four forms, imported and evaluated in f64, against the Python packages.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests may panic, and say what they skip")]

#[allow(dead_code, unreachable_pub, reason = "shared with the other test files")]
mod common;

use std::path::{Path, PathBuf};

use common::{compare, golden, plain};
use tesseral_import::nequip::{NequipError, convert, convert_folder};
use tesseral_import::{ForeignCheckpoint, ImportError, import};
use tesseral_potentials::{Architecture, Artifact};

const TOLERANCE: f64 = 1e-9;

fn check(artifact: &Artifact, reference: &Path) {
    let errors = compare(artifact, reference, "modal", None, true);
    eprintln!("{}: {errors:?}", reference.display());
    assert!(errors.energy < TOLERANCE && errors.atomic < TOLERANCE, "{}: {errors:?}", reference.display());
    assert!(errors.forces < 10.0 * TOLERANCE && errors.stress < 10.0 * TOLERANCE, "{}: {errors:?}", reference.display());
}

fn file(folder: &Path, name: &str) -> PathBuf {
    let packed = folder.join(format!("{name}.gz"));
    if packed.is_file() { packed } else { folder.join(name) }
}

fn check_file(folder: &Path, name: &str, reference: &str) {
    let scratch = tempfile::tempdir().unwrap();
    let artifact = import(&plain(&file(folder, name), scratch.path())).unwrap();
    check(&artifact, &folder.join(format!("ref_{reference}.extxyz")));
}

/// A training folder with the configuration changed by `edit`.
fn training_folder(folder: &Path, name: &str, edit: impl FnOnce(String) -> String) -> tempfile::TempDir {
    let scratch = tempfile::tempdir().unwrap();
    let weights = plain(&file(folder, &format!("{name}.best_model.pth")), scratch.path());
    std::fs::copy(weights, scratch.path().join("best_model.pth")).unwrap();
    let text = std::fs::read_to_string(folder.join(format!("{name}.config.yaml"))).unwrap();
    std::fs::write(scratch.path().join("config.yaml"), edit(text)).unwrap();
    scratch
}

fn check_folder(folder: &Path, name: &str) {
    let scratch = training_folder(folder, name, |text| text);
    check(&convert_folder(scratch.path(), name).unwrap(), &folder.join(format!("ref_{name}.extxyz")));
}

fn nequip() -> PathBuf {
    golden().join("nequip")
}

#[test]
fn package_with_cutoffs_of_pairs() {
    check_file(&nequip(), "no_parity_edge_cutoffs.nequip.zip", "no_parity_edge_cutoffs");
}

#[test]
fn lightning_checkpoint_with_zbl_and_both_parities() {
    check_file(&nequip(), "parity_zbl_per_type.ckpt", "parity_zbl_per_type");
}

#[test]
fn lightning_checkpoint_of_a_preset_with_a_linear_readout() {
    check_file(&nequip(), "preset_s.ckpt", "preset_s");
}

#[test]
fn deployed_model_of_generation_one() {
    check_file(&nequip(), "v06_no_parity_zbl.nequip.pth", "v06_no_parity_zbl");
}

#[test]
fn training_folders_with_both_signs_of_the_3j_tensors() {
    for name in ["v06_parity", "v06_parity_e3nn05"] {
        check_folder(&nequip(), name);
    }
}

/// Every model in every form, where `NEQUIP_GOLDEN` names the folder that `scripts/golden` fills (or another with files named alike).
#[test]
fn every_form() {
    let Some(folder) = std::env::var_os("NEQUIP_GOLDEN").map(PathBuf::from) else {
        eprintln!("skipped because NEQUIP_GOLDEN (the folder `nequip` that scripts/golden/generate.sh fills) is not set");
        return;
    };
    let mut seen = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let name = entry.unwrap().file_name().to_string_lossy().into_owned();
        if let Some(stem) = [".ckpt", ".nequip.zip", ".nequip.pth"].iter().find_map(|form| name.strip_suffix(form)) {
            check_file(&folder, &name, stem);
        } else if let Some(stem) = name.strip_suffix(".config.yaml") {
            check_folder(&folder, stem);
        } else {
            continue;
        }
        seen += 1;
    }
    assert!(seen > 0, "{} holds no models", folder.display());
}

#[test]
fn what_the_header_says() {
    let scratch = tempfile::tempdir().unwrap();
    let open = |name: &str| ForeignCheckpoint::open(plain(&file(&nequip(), name), scratch.path())).unwrap();
    let artifact = convert(&open("parity_zbl_per_type.ckpt"), "tiny").unwrap();
    let header = artifact.header();
    assert_eq!((header.name.as_str(), header.elements(), header.cutoff()), ("tiny", &[1u8, 6, 8][..], 4.0));
    assert_eq!(header.provenance.producer, "nequip 0.19.1");
    let Architecture::Nequip(config) = &header.architecture else { panic!("not NequIP") };
    let zbl = config.zbl.unwrap();
    assert!((zbl.coulomb - 14.399645).abs() < 1e-9 && zbl.envelope_p == 6, "{zbl:?}");
    assert!(!artifact.contains("pair_cutoffs"));
    // One denominator for each element, and nothing but scalars out of the last layer.
    assert_eq!(artifact.f64("layers.1.denominator").unwrap(), [2.0, 3.0, 6f64.sqrt()]);
    assert_eq!(config.layers.last().unwrap().irreps_out.to_string(), "3x0e");

    let package = convert(&open("no_parity_edge_cutoffs.nequip.zip"), "tiny").unwrap();
    assert_eq!(package.header().provenance.producer, "nequip 0.19.1");
    let cutoffs = package.f64("pair_cutoffs").unwrap();
    for (found, expected) in cutoffs.iter().zip([3.5, 3.5, 3.5, 3.0, 2.75, 3.75, 4.0, 4.0, 4.0]) {
        assert!((found - expected).abs() < 1e-12, "{cutoffs:?}");
    }

    let deployed = convert(&open("v06_no_parity_zbl.nequip.pth"), "tiny").unwrap();
    // Ascending in Z although the configuration has O, Si, Fe in another order than its symbols.
    assert_eq!(deployed.header().elements(), [8, 14, 26]);
    assert_eq!(deployed.header().provenance.producer, "nequip 0.6.2");
    let Architecture::Nequip(config) = &deployed.header().architecture else { panic!("not NequIP") };
    assert!((config.zbl.unwrap().coulomb - 14.399645).abs() < 1e-9);
}

#[test]
fn changed_configurations_are_refused_by_name() {
    let error = |from: &str, to: &str| {
        let scratch = training_folder(&nequip(), "v06_parity", |text| {
            assert!(text.contains(from), "{from}");
            text.replace(from, to)
        });
        convert_folder(scratch.path(), "changed").unwrap_err()
    };
    assert!(matches!(error("- EnergyModel", "- allegro.model.Allegro"), NequipError::Allegro));
    let named = |error: NequipError, expected: &str| match error {
        NequipError::Option { key, .. } => assert_eq!(key, expected),
        other => panic!("{other}"),
    };
    named(error("- EnergyModel", "- my.Model"), "model_builders");
    named(error("nonlinearity_type: gate", "nonlinearity_type: norm"), "nonlinearity_type");
    named(error("- C\n", "- Xx\n"), "chemical_symbols");
    named(error("r_max: 4.0", "r_max: -1"), "r_max");
    assert!(matches!(error("3x2e", "4x2e"), NequipError::Shape { .. }));
    assert!(matches!(error("r_max: 4.0", "r_max: [4.0"), NequipError::Yaml(_)));
}

#[test]
fn weights_without_a_configuration_are_refused() {
    let scratch = training_folder(&nequip(), "v06_parity", |text| text);
    std::fs::remove_file(scratch.path().join("config.yaml")).unwrap();
    let error = convert_folder(scratch.path(), "lost").unwrap_err();
    assert!(matches!(&error, NequipError::Io { path, .. } if path.ends_with("config.yaml")), "{error}");
    assert!(error.hint().is_some());
    assert!(matches!(import(&scratch.path().join("best_model.pth")), Err(ImportError::Nequip(_))));
}
