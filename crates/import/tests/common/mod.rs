//! Comparison of imported models with references computed by the Python packages in f64.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test may fail loudly, and says what it skips")]

use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use tesseral_atoms::Structure;
use tesseral_potentials::{Artifact, Evaluation, Model};

/// The repository's golden folder.
pub fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden")
}

/// The folder shared beside the repository, or `None` with a word about what is skipped.
pub fn shared(what: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/reference");
    if path.is_dir() {
        return Some(path);
    }
    eprintln!("skipped because ../shared is not there: {what}");
    None
}

/// A gzipped file written out for a reader that wants a path; others as they are.
pub fn plain(path: &Path, folder: &Path) -> PathBuf {
    if path.extension().is_none_or(|e| e != "gz") {
        return path.to_owned();
    }
    let target = folder.join(path.file_stem().unwrap());
    let mut reader = flate2::read::GzDecoder::new(std::fs::File::open(path).unwrap());
    std::io::copy(&mut reader, &mut std::fs::File::create(&target).unwrap()).unwrap();
    target
}

/// All frames of a reference file.
pub fn frames(path: &Path) -> Vec<Structure> {
    tesseral_atoms::io::read(path).unwrap().map(|f| f.unwrap()).collect()
}

/// One structure through a model.
pub fn evaluate(model: &Model, structure: &Structure, head: Option<&str>) -> Evaluation {
    let prepared = model.prepare(structure).unwrap();
    let batch = model.batch(&[&prepared], &[structure], model.head(head).unwrap()).unwrap();
    model.evaluate(&batch).unwrap().remove(0)
}

fn number(structure: &Structure, key: &str) -> f64 {
    structure.info.get(key).and_then(|v| v.as_f64()).unwrap_or_else(|| panic!("no {key} in the reference"))
}

/// The largest errors over all frames: energy relative to the sum of its terms' magnitudes, forces relative to the largest force (at least 1 eV/Å),
/// atomic energies, stress relative to its largest element (at least 1e-3 eV/Å³).
#[derive(Debug, Default)]
pub struct Errors {
    pub energy: f64,
    pub forces: f64,
    pub atomic: f64,
    pub stress: f64,
    pub frames: usize,
}

/// Compares every frame of `reference`, for the head that the frame names under `head_key`, else for `head`.
pub fn compare(artifact: &Artifact, reference: &Path, head_key: &str, head: Option<&str>, atomic_energies_sum: bool) -> Errors {
    let model = Model::load(artifact, DType::F64, &Device::Cpu).unwrap();
    let mut errors = Errors::default();
    for structure in frames(reference) {
        let head = structure.info.get(head_key).and_then(|v| v.as_str()).or(head);
        let result = evaluate(&model, &structure, head);
        let atomic = structure.arrays["node_energy"].as_reals().unwrap();
        let scale = atomic.iter().map(|e| e.abs()).sum::<f64>().max(1.0);
        errors.energy = errors.energy.max((result.energy - number(&structure, "energy")).abs() / scale);
        if atomic_energies_sum {
            for (a, b) in result.atomic_energies.iter().zip(atomic) {
                errors.atomic = errors.atomic.max((a - b).abs() / b.abs().max(1.0));
            }
        }
        let forces = structure.arrays["forces"].to_vectors().unwrap();
        let largest = forces.as_flattened().iter().fold(1.0f64, |m, f| m.max(f.abs()));
        for (a, b) in result.forces.as_flattened().iter().zip(forces.as_flattened()) {
            errors.forces = errors.forces.max((a - b).abs() / largest);
        }
        if let (Some(stress), Some(reference)) = (result.stress, structure.info.get("stress").and_then(|v| v.to_reals())) {
            let largest = reference.iter().fold(1e-3f64, |m, s| m.max(s.abs()));
            for (a, b) in stress.as_flattened().iter().zip(&reference) {
                errors.stress = errors.stress.max((a - b).abs() / largest);
            }
        }
        errors.frames += 1;
    }
    assert!(errors.frames > 0, "{} has no frames", reference.display());
    errors
}
