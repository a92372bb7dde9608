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

/// The published checkpoints, if the `sevenn` wheel is unpacked where `SEVENNET_WHEEL` says, with references beside it.
#[test]
fn published_models() {
    let Some(wheel) = std::env::var_os("SEVENNET_WHEEL").map(PathBuf::from) else {
        eprintln!("skipped because SEVENNET_WHEEL (an unpacked sevenn 0.13.0 wheel) is not set");
        return;
    };
    let references = PathBuf::from(std::env::var_os("SEVENNET_REFERENCES").expect("SEVENNET_REFERENCES beside SEVENNET_WHEEL"));
    let pretrained = wheel.join("sevenn/pretrained_potentials");
    for (folder, file, modal) in [
        ("SevenNet_0__11Jul2024", "checkpoint_sevennet_0", None),
        ("SevenNet_0__22May2024", "checkpoint_sevennet_0", None),
        ("SevenNet_l3i5", "checkpoint_l3i5", None),
        ("SevenNet_MF_0", "checkpoint_sevennet_mf_0", Some("PBE")),
        ("SevenNet_MF_0", "checkpoint_sevennet_mf_0", Some("R2SCAN")),
    ] {
        let reference = modal.map_or_else(|| folder.to_owned(), |m| format!("{folder}_{m}"));
        check(
            &pretrained.join(folder).join(format!("{file}.pth")),
            &references.join(format!("ref_sevennet_{reference}.extxyz")),
            modal,
            1e-9,
        );
    }
}
