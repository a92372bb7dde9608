//! SevenNet checkpoints, imported and evaluated in f64, against the Python package.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, reason = "tests may panic, and say what they find")]

#[allow(dead_code, unreachable_pub, reason = "shared with the other test files")]
mod common;

use std::path::{Path, PathBuf};

use common::{compare, golden, plain};

fn check(checkpoint: &Path, reference: &Path, modal: Option<&str>, tolerance: f64) {
    let folder = tempfile::tempdir().unwrap();
    let artifact = tesseral_import::import(&plain(checkpoint, folder.path())).unwrap();
    let errors = compare(&artifact, reference, "modal", modal, true);
    println!("{}: {errors:?}", checkpoint.file_name().unwrap().to_string_lossy());
    assert!(errors.energy < tolerance && errors.atomic < 10.0 * tolerance, "{}: {errors:?}", checkpoint.display());
    assert!(errors.forces < 10.0 * tolerance && errors.stress < 10.0 * tolerance, "{}: {errors:?}", checkpoint.display());
}

#[test]
fn tiny_models_of_every_variant() {
    let mut seen = 0;
    let folder = golden().join("sevennet");
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let Some(stem) = name.strip_suffix(".gz").unwrap_or(&name).strip_suffix(".pth") else { continue };
        check(&path, &folder.join(format!("ref_{stem}.extxyz")), None, 1e-9);
        seen += 1;
    }
    assert_eq!(seen, 7, "golden SevenNet models found");
}

/// The unpacked `sevenn` 0.13.0 wheel: `SEVENNET_WHEEL`, or downloaded by pip once for each build folder.
fn wheel() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("SEVENNET_WHEEL") {
        return Some(path.into());
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("sevenn-0.13.0");
    if folder.join("complete").exists() {
        return Some(folder);
    }
    std::fs::create_dir_all(&folder).unwrap();
    let mut pip = std::process::Command::new("python3");
    pip.args([
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--only-binary=:all:",
        "sevenn==0.13.0",
        "--dest",
    ]);
    match pip.arg(&folder).output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            eprintln!("skipped because pip cannot download sevenn==0.13.0: {}", String::from_utf8_lossy(&output.stderr).trim());
            return None;
        }
        Err(e) => {
            eprintln!("skipped because there is no python3 with pip to download sevenn==0.13.0: {e}");
            return None;
        }
    }
    let wheel = std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()).find(|p| p.extension().is_some_and(|e| e == "whl")).unwrap();
    let mut archive = zip::ZipArchive::new(std::fs::File::open(wheel).unwrap()).unwrap();
    for k in 0..archive.len() {
        let mut entry = archive.by_index(k).unwrap();
        let Some(name) = entry.enclosed_name().filter(|n| n.extension().is_some_and(|e| e == "pth")) else { continue };
        let target = folder.join(name);
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::io::copy(&mut entry, &mut std::fs::File::create(target).unwrap()).unwrap();
    }
    std::fs::write(folder.join("complete"), "").unwrap();
    Some(folder)
}

/// Folder and file of the published checkpoints, and their modalities.
const PUBLISHED: [(&str, &str, Option<&str>); 5] = [
    ("SevenNet_0__11Jul2024", "checkpoint_sevennet_0", None),
    ("SevenNet_0__22May2024", "checkpoint_sevennet_0", None),
    ("SevenNet_l3i5", "checkpoint_l3i5", None),
    ("SevenNet_MF_0", "checkpoint_sevennet_mf_0", Some("PBE")),
    ("SevenNet_MF_0", "checkpoint_sevennet_mf_0", Some("R2SCAN")),
];

fn published(wheel: &Path, folder: &str, file: &str) -> PathBuf {
    wheel.join("sevenn/pretrained_potentials").join(folder).join(format!("{file}.pth"))
}

#[test]
fn published_models() {
    let Some(wheel) = wheel() else { return };
    for (folder, file, modal) in PUBLISHED {
        let reference = modal.map_or_else(|| folder.to_owned(), |m| format!("{folder}_{m}"));
        let reference = golden().join(format!("published/ref_{reference}.extxyz"));
        check(&published(&wheel, folder, file), &reference, modal, 1e-12);
    }
}

/// The package's own float32 figures: energies within 2e-6 eV/atom, forces within 2e-5 eV/Å, stresses likewise.
#[test]
fn published_models_in_float32() {
    let (Some(wheel), Some(shared)) = (wheel(), common::shared("SevenNet's float32 figures")) else { return };
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(shared.join("golden/sevennet_float32.json")).unwrap()).unwrap();
    let mut seen = 0;
    for (folder, file, modal) in PUBLISHED {
        let artifact = tesseral_import::import(&published(&wheel, folder, file)).unwrap();
        let model = tesseral_potentials::Model::load(&artifact, candle_core::DType::F64, &candle_core::Device::Cpu).unwrap();
        let prefix = modal.map_or_else(|| format!("{folder}/"), |m| format!("{folder}:{m}/"));
        for (name, frame) in json.as_object().unwrap().iter().filter(|(name, _)| name.starts_with(&prefix)) {
            let vectors = |key: &str| -> Vec<[f64; 3]> { serde_json::from_value(frame[key].clone()).unwrap() };
            let cell: [[f64; 3]; 3] = vectors("cell").try_into().unwrap();
            let numbers = serde_json::from_value(frame["numbers"].clone()).unwrap();
            let structure = tesseral_atoms::Structure::crystal(tesseral_atoms::Cell { vectors: cell }, numbers, vectors("positions"));
            let result = common::evaluate(&model, &structure, modal);
            let energy = (result.energy - frame["energy"].as_f64().unwrap()).abs() / structure.len() as f64;
            assert!(energy < 2e-6, "{name}: {energy:e} eV/atom");
            for (a, b) in result.forces.as_flattened().iter().zip(vectors("forces").as_flattened()) {
                assert!((a - b).abs() < 2e-5, "{name}: force {a} for {b}");
            }
            let (s, voigt) = (result.stress.unwrap(), frame["stress_ase_voigt"].as_array().unwrap());
            for (a, b) in [s[0][0], s[1][1], s[2][2], s[1][2], s[0][2], s[0][1]].iter().zip(voigt) {
                assert!((a - b.as_f64().unwrap()).abs() < 2e-6, "{name}: stress {a} for {b}");
            }
            seen += 1;
        }
    }
    assert_eq!(seen, 15, "structures in the file");
}
