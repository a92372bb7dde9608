//! The model that ships with the program against references of the Python package.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test may fail loudly, and says what it skips")]

use std::path::{Path, PathBuf};

use tesseral_atoms::Structure;
use tesseral_infer::{Dtype, Engine, Options, Potential};
use tesseral_potentials::{Artifact, Evaluation};
use tesseral_tests::golden_folder;

fn potential(dtype: Dtype, engine: Engine) -> Potential {
    let artifact = Artifact::from_static(tesseral_models::default_artifact(), "built-in model").unwrap();
    Potential::new(&artifact, &Options { dtype, engine, ..Options::default() }).unwrap()
}

fn shared(path: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/reference").join(path);
    if !path.exists() {
        eprintln!("skipped because {} is not there", path.display());
        return None;
    }
    Some(path)
}

/// Largest deviations: energy per atom (eV), force component (eV/Å), stress component (eV/Å³).
fn deviations(result: &Evaluation, structure: &Structure) -> [f64; 3] {
    let energy = structure.info["energy"].as_f64().unwrap();
    let forces = structure.arrays["forces"].to_vectors().unwrap();
    let largest = |a: &[f64], b: &[f64]| a.iter().zip(b).fold(0.0f64, |m, (x, y)| m.max((x - y).abs()));
    let stress = match (result.stress, structure.info.get("stress")) {
        (Some(s), Some(reference)) => largest(s.as_flattened(), &reference.to_reals().unwrap()),
        _ => 0.0,
    };
    [(result.energy - energy).abs() / structure.len() as f64, largest(result.forces.as_flattened(), forces.as_flattened()), stress]
}

fn check(reference: &Path, dtype: Dtype, engine: Engine, tolerances: [f64; 3]) {
    let structures: Vec<Structure> = tesseral_atoms::io::read(reference).unwrap().map(|f| f.unwrap()).collect();
    assert!(structures.len() > 20);
    let mut worst = [0.0f64; 3];
    for (structure, result) in structures.iter().zip(potential(dtype, engine).evaluate(&structures)) {
        let name = structure.info.get("name").and_then(|v| v.as_str()).unwrap_or("?");
        let found = deviations(&result.unwrap_or_else(|e| panic!("{name}: {e}")), structure);
        for k in 0..3 {
            assert!(found[k] < tolerances[k], "{name}: {found:?} exceeds {tolerances:?}");
            worst[k] = worst[k].max(found[k]);
        }
    }
    eprintln!("{dtype:?}, {engine:?}: largest deviations per atom, of forces, of stresses {worst:?}");
}

/// Crystals, surfaces, molecules, dimers, isolated atoms, tiny, skewed and left-handed cells, unwrapped atoms, evaluated by sevenn in f64.
#[test]
fn f64_to_the_last_digit() {
    for engine in [Engine::Differentiable, Engine::Compiled { exact_radial: true }] {
        check(&golden_folder().join("published/ref_SevenNet_0__11Jul2024.extxyz"), Dtype::F64, engine, [1e-12, 1e-11, 1e-12]);
    }
}

#[test]
fn f64_within_the_error_of_tables() {
    check(&golden_folder().join("published/ref_SevenNet_0__11Jul2024.extxyz"), Dtype::F64, Engine::default(), [1e-11, 1e-9, 1e-10]);
}

#[test]
fn f32_within_its_rounding() {
    check(&golden_folder().join("published/ref_SevenNet_0__11Jul2024.extxyz"), Dtype::F32, Engine::default(), [5e-6, 5e-5, 5e-6]);
}

/// The same structures where edge vectors were rounded to f32 before the package evaluated them.
#[test]
fn reference_with_rounded_edges() {
    if let Some(path) = shared("expected/ref_sevennet_SevenNet_0__11Jul2024.extxyz") {
        check(&path, Dtype::F64, Engine::default(), [1e-6, 1e-5, 1e-6]);
    }
}
