//! Compiled against differentiable: every golden model, every kind of boundary, both precisions, tables and exact radial functions.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, reason = "a test may fail loudly, and says what it finds")]

use candle_core::{DType, Device};
use tesseral_atoms::Structure;
use tesseral_infer::InferError;
use tesseral_infer::compiled::Compiled;
use tesseral_ops::slab::HasSlabs;
use tesseral_potentials::{Artifact, Evaluation, Model};
use tesseral_tests::golden;

/// Largest deviations: energy relative to Σ|atomic energies| (at least 1 eV), forces to the largest (at least 1 eV/Å), stress to the largest
/// (at least 1e-3 eV/Å³).
#[derive(Debug, Default, Clone, Copy)]
struct Deviation {
    energy: f64,
    forces: f64,
    stress: f64,
    squares: f64,
    components: usize,
}

impl Deviation {
    fn add(&mut self, got: &Evaluation, want: &Evaluation) {
        let scale = want.atomic_energies.iter().map(|e| e.abs()).sum::<f64>().max(1.0);
        self.energy = self.energy.max((got.energy - want.energy).abs() / scale);
        let largest = want.forces.as_flattened().iter().fold(1.0f64, |m, f| m.max(f.abs()));
        for (a, b) in got.forces.as_flattened().iter().zip(want.forces.as_flattened()) {
            self.forces = self.forces.max((a - b).abs() / largest);
            self.squares += (a - b) * (a - b) / (largest * largest);
            self.components += 1;
        }
        assert_eq!(got.stress.is_some(), want.stress.is_some());
        if let (Some(got), Some(want)) = (got.stress, want.stress) {
            let largest = want.as_flattened().iter().fold(1e-3f64, |m, s| m.max(s.abs()));
            for (a, b) in got.as_flattened().iter().zip(want.as_flattened()) {
                self.stress = self.stress.max((a - b).abs() / largest);
            }
        }
    }

    fn worst(&self) -> f64 {
        self.energy.max(self.forces).max(self.stress)
    }
}

fn differentiable(model: &Model, structure: &Structure, head: u32) -> Evaluation {
    let prepared = model.prepare(structure).unwrap();
    let batch = model.batch(&[&prepared], &[structure], head).unwrap();
    model.evaluate(&batch).unwrap().remove(0)
}

fn deviation<T: HasSlabs>(
    artifact: &Artifact,
    model: &Model,
    frames: &[Structure],
    heads: u32,
    exact: bool,
) -> Result<Deviation, InferError> {
    let mut worst = Deviation::default();
    for head in 0..heads {
        let compiled = Compiled::<T>::new(artifact, head, exact)?;
        for frame in frames {
            worst.add(&compiled.evaluate(frame, true)?, &differentiable(model, frame, head));
        }
    }
    Ok(worst)
}

fn conforms(name: &str, artifact: &Artifact, frames: &[Structure]) {
    let model = Model::load(artifact, DType::F64, &Device::Cpu).unwrap();
    let heads = artifact.header().heads().len().max(1) as u32;
    let exact = match deviation::<f64>(artifact, &model, frames, heads, true) {
        Err(InferError::NotCompiled { what }) => {
            assert!(name.contains("attention"), "{name}: {what} is not compiled");
            return;
        }
        other => other.unwrap_or_else(|e| panic!("{name}: {e}")),
    };
    println!("{name}: exact f64 {exact:?}");
    let rounding = if name.contains("nonlinear") { 1e-11 } else { 1e-12 };
    assert!(exact.worst() < rounding, "{name}: exact radial functions in f64: {exact:?}");
    let double = deviation::<f64>(artifact, &model, frames, heads, false).unwrap_or_else(|e| panic!("{name}: {e}"));
    println!("{name}: tables f64 {double:?}");
    assert!(double.worst() < 1e-9, "{name}: tables in f64: {double:?}");
    let single = deviation::<f32>(artifact, &model, frames, heads, false).unwrap_or_else(|e| panic!("{name}: {e}"));
    println!("{name}: tables f32 {single:?}");
    let rms = (single.squares / single.components as f64).sqrt();
    assert!(rms < 1e-5 && single.energy < 2e-6 && single.worst() < 2e-4, "{name}: tables in f32: {single:?}");
}

#[test]
fn mace_models() {
    for golden in golden("mace") {
        conforms(&golden.name, &golden.artifact, &golden.frames);
    }
}

#[test]
fn sevennet_models() {
    for golden in golden("sevennet") {
        conforms(&golden.name, &golden.artifact, &golden.frames);
    }
}
