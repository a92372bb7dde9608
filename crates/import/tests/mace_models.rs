//! MACE models pickled by mace-torch, imported and evaluated in f64, against mace-torch itself.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, reason = "tests may panic, and say what they find")]

#[allow(dead_code, unreachable_pub, reason = "shared with the other test files")]
mod common;

use std::io::{Cursor, Read, Write};
use std::path::{Path, PathBuf};

use common::{Errors, compare, golden, plain, shared};
use tesseral_import::mace::{MaceError, MaceSource};
use tesseral_import::torch::tensor::{Tensor, TensorData};
use tesseral_import::{ForeignCheckpoint, ImportError, Limits, import};
use tesseral_potentials::{Artifact, Provenance};

/// Two f64 programs that sum in different orders; relative to what [`Errors`] says.
const ROUNDING: f64 = 1e-11;

fn artifact(checkpoint: &Path) -> Artifact {
    let folder = tempfile::tempdir().unwrap();
    import(&plain(checkpoint, folder.path())).unwrap_or_else(|e| panic!("{}: {e}", checkpoint.display()))
}

fn check(checkpoint: &Path, reference: &Path, atomic_energies: bool, tolerance: f64) {
    let errors = compare(&artifact(checkpoint), reference, "head", None, atomic_energies);
    let Errors { energy, forces, atomic, stress, .. } = errors;
    println!("{}: {errors:?}", checkpoint.file_name().unwrap().to_string_lossy());
    let worst = [energy, forces, atomic, stress].into_iter().fold(0.0, f64::max);
    assert!(worst < tolerance, "{}: {errors:?}", checkpoint.display());
}

fn tiny(name: &str) -> PathBuf {
    golden().join("mace").join(format!("{name}.model.gz"))
}

fn source(name: &str) -> MaceSource {
    let folder = tempfile::tempdir().unwrap();
    MaceSource::read(&ForeignCheckpoint::open(plain(&tiny(name), folder.path())).unwrap()).unwrap()
}

#[test]
fn tiny_models_of_every_variant() {
    let mut seen = 0;
    for entry in std::fs::read_dir(golden().join("mace")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let Some(stem) = name.strip_suffix(".model.gz") else { continue };
        if stem == "cueq_layout" {
            continue;
        }
        // The reference multiplies with 3j symbols rounded to single precision, as the file has them.
        let tolerance = if stem == "residual_float32" { 3e-8 } else { ROUNDING };
        // mace-torch leaves the energy of embedded charge and spin out of the atomic energies.
        check(&path, &path.with_file_name(format!("ref_{stem}.extxyz")), stem != "nonlinear_charge_spin", tolerance);
        seen += 1;
    }
    assert_eq!(seen, 19, "golden MACE models found");
}

#[test]
fn trained_models_in_old_pickles_and_models_of_published_shape() {
    let Some(folder) = shared("MACE checkpoints") else { return };
    for name in ["MACE_SPICE", "mace_swa", "synth_mp0a_small", "synth_off23_small", "synth_mp0a_medium", "synth_mp0b3_mpa0_medium"] {
        let (checkpoint, reference) = (format!("checkpoints/{name}.model"), format!("expected/ref_{name}.extxyz"));
        check(&folder.join(checkpoint), &folder.join(reference), true, ROUNDING);
    }
}

#[test]
fn weights_keep_their_precision_and_the_artifact_its_origin() {
    let single = artifact(&tiny("residual_float32"));
    let bytes = |a: &Artifact, name: &str| a.f64(name).unwrap().iter().all(|&x| f64::from(x as f32) == x);
    let names: Vec<&str> = single.names().filter(|n| !n.contains(".basis.") && !n.contains(".monomials.")).collect();
    assert!(names.len() > 30 && names.iter().all(|name| bytes(&single, name)));
    // A file of f64 weights that are not on the grid of the tiny models is not rounded.
    let Some(folder) = shared("MACE checkpoints") else { return };
    let double = artifact(&folder.join("checkpoints/mace_swa.model"));
    assert!(!bytes(&double, "layers.0.up.weight"));
    let provenance = &double.header().provenance;
    assert_eq!(provenance.source, "mace_swa.model");
    assert_eq!(provenance.sha256.as_deref(), Some("3f1251c8655192faf9d28f2f857533f66507bb7abee3f1781c6a71336f26da3f"));
    assert_eq!(double.header().heads(), ["Default"]);
    assert_eq!(double.header().elements(), [32, 51, 52]);
}

#[test]
fn models_converted_for_cuequivariance_are_refused_with_a_way_back() {
    let folder = tempfile::tempdir().unwrap();
    let error = import(&plain(&tiny("cueq_layout"), folder.path())).unwrap_err();
    assert!(matches!(error, ImportError::Mace(MaceError::CuEquivariance { .. })), "{error}");
    assert!(error.to_string().contains("`node_embedding.linear` is of class `cuequivariance_torch"), "{error}");
    assert!(error.hint().unwrap().contains("mace_cueq_to_e3nn"));
}

/// A tiny model whose pickle says `to` where it said `from`, which is as long.
fn edited(name: &str, from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let folder = tempfile::tempdir().unwrap();
    let mut reader = zip::ZipArchive::new(std::fs::File::open(plain(&tiny(name), folder.path())).unwrap()).unwrap();
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    let mut found = false;
    for k in 0..reader.len() {
        let mut entry = reader.by_index(k).unwrap();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        let file = entry.name().unwrap().into_owned();
        if file.ends_with("data.pkl") {
            while let Some(start) = bytes.windows(from.len()).position(|w| w == from.as_bytes()) {
                bytes[start..start + from.len()].copy_from_slice(to.as_bytes());
                found = true;
            }
        }
        writer.start_file(file, stored).unwrap();
        writer.write_all(&bytes).unwrap();
    }
    assert!(found, "{from} does not occur in {name}");
    writer.finish().unwrap().into_inner()
}

#[test]
fn parts_of_unknown_classes_are_named() {
    for (from, to, message) in [
        ("ScaleShiftMACE", "UpsideDownMACE", "`model` is of class `UpsideDownMACE`, which is not understood; MACE and ScaleShiftMACE are"),
        ("RealAgnosticResidualInteractionBlock", "UnrealGnosticResidualInteractionBlck", "`interactions.0` is of class `Unreal"),
        ("NonLinearReadoutBlock", "NonLinearReadoutBlink", "`readouts.1` is of class `NonLinearReadoutBlink`"),
        ("BesselBasis", "CesselBasis", "`radial_embedding.bessel_fn` is of class `CesselBasis`"),
        ("component", "integrals", "`spherical_harmonics.normalization` is"),
    ] {
        let checkpoint = ForeignCheckpoint::from_bytes("edited.model", edited("residual_lmax3_nu3", from, to), Limits::default()).unwrap();
        let error = tesseral_import::mace::convert(&checkpoint, "edited").unwrap_err();
        assert!(error.to_string().contains(message), "{error}");
        assert!(error.hint().unwrap().contains("mace-torch"), "{error}");
    }
}

#[test]
fn tensors_without_a_place_are_an_error() {
    let mut source = source("one_layer_gaussian");
    let lora = Tensor { shape: vec![2], data: TensorData::F64(vec![1.0, 2.0]) };
    source.tensors.insert("interactions.0.linear_up.lora_A".into(), lora);
    let error = source.into_artifact("m", Provenance::default()).unwrap_err();
    assert_eq!(error.to_string(), "the model has tensors that are not understood: interactions.0.linear_up.lora_A");
}

#[test]
fn missing_and_misshapen_tensors_are_named() {
    let name = "interactions.1.skip_tp.weight";
    let mut without = source("residual_lmax3_nu3");
    without.tensors.remove(name);
    let error = without.into_artifact("m", Provenance::default()).unwrap_err();
    assert_eq!(error.to_string(), format!("the model has no tensor `{name}`"));
    let mut short = source("residual_lmax3_nu3");
    short.tensors.insert(name.into(), Tensor { shape: vec![3], data: TensorData::F64(vec![0.0; 3]) });
    let error = short.into_artifact("m", Provenance::default()).unwrap_err();
    assert!(matches!(error, MaceError::Shape { .. }) && error.to_string().contains(name), "{error}");
}

/// A 3j symbol of the opposite sign in the file means opposite weights; something else is no 3j symbol.
#[test]
fn stored_3j_symbols_decide_the_signs() {
    let name = "interactions.1.conv_tp._compiled_main_left_right._w3j_1_1_2";
    let radial = |source: MaceSource| source.into_artifact("m", Provenance::default()).map(|a| a.f64("layers.1.radial.2.weight").unwrap());
    let with = |values: Vec<f64>| {
        let mut source = source("density_residual_both_edge_irreps");
        source.tensors.insert(name.into(), Tensor { shape: vec![3, 3, 5], data: TensorData::F64(values) });
        radial(source)
    };
    let exact = tesseral_o3::wigner_3j(1, 1, 2, tesseral_o3::Convention::E3nn04).unwrap();
    let plain = radial(source("density_residual_both_edge_irreps")).unwrap();
    assert_eq!(with(exact.values().to_vec()).unwrap(), plain);
    let negative = with(exact.values().iter().map(|x| -x).collect()).unwrap();
    let changed = plain.iter().zip(&negative).filter(|(a, b)| a != b).count();
    assert!(changed > 0 && changed < plain.len() && plain.iter().zip(&negative).all(|(a, b)| a.abs() == b.abs()));
    let error = with(vec![1.0; 45]).unwrap_err();
    assert!(matches!(error, MaceError::Wigner3j { .. }) && error.to_string().contains(name), "{error}");
}
