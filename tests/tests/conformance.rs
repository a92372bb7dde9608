//! What every architecture must satisfy, on every golden model: derivatives against finite differences, symmetries, smoothness, precision,
//! independence of batches and threads, and the derivative of a force loss by the weights.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};
use tesseral_atoms::Structure;
use tesseral_infer::verify::{verify_cutoff, verify_structure};
use tesseral_infer::{Dtype, Engine, InferError, Options, Potential};
use tesseral_ops::autograd::{self, Leaves};
use tesseral_potentials::{Artifact, Differentiable, Evaluation, Model, Parameters, Radial};
use tesseral_tests::{Golden, first_head, golden};

fn potential(artifact: &Artifact, dtype: Dtype) -> Potential {
    let head = first_head(artifact);
    let options = Options { dtype, head, ..Options::default() };
    match Potential::new(artifact, &options) {
        // The one block without a compiled form.
        Err(InferError::NotCompiled { what }) if what.contains("attention") => {
            Potential::new(artifact, &Options { engine: Engine::Differentiable, ..options }).unwrap()
        }
        potential => potential.unwrap(),
    }
}

fn one(potential: &Potential, structure: &Structure) -> Evaluation {
    potential.evaluate(std::slice::from_ref(structure)).remove(0).unwrap()
}

/// A small periodic structure and a molecule, as far as the reference has them.
fn examples(golden: &Golden) -> Vec<&Structure> {
    let small = |s: &&Structure| (2..=12).contains(&s.len());
    let periodic = golden.frames.iter().filter(small).find(|s| s.pbc == [true; 3]);
    let molecule = golden.frames.iter().filter(small).find(|s| s.pbc == [false; 3]);
    let found: Vec<&Structure> = periodic.into_iter().chain(molecule).collect();
    assert!(!found.is_empty(), "{} has no small structure", golden.name);
    found
}

fn conforms(family: &str, at_least: usize) {
    let models = golden(family);
    assert!(models.len() >= at_least, "{} golden models of {family}", models.len());
    for golden in &models {
        let (double, single) = (potential(&golden.artifact, Dtype::F64), potential(&golden.artifact, Dtype::F32));
        for structure in examples(golden) {
            for check in verify_structure(&double, &single, structure).unwrap() {
                assert_ne!(check.passed(), Some(false), "{}, {}: {check:?}", golden.name, structure.formula());
            }
        }
        let elements = golden.artifact.header().elements();
        for check in verify_cutoff(&double, [elements[0], elements[elements.len() - 1]]).unwrap() {
            assert_ne!(check.passed(), Some(false), "{}: {check:?}", golden.name);
        }
    }
}

#[test]
fn mace_models_conform() {
    conforms("mace", 15);
}

#[test]
fn sevennet_models_conform() {
    conforms("sevennet", 7);
}

#[test]
fn batching_changes_nothing() {
    for golden in golden("mace").iter().chain(&golden("sevennet")) {
        let potential = potential(&golden.artifact, Dtype::F64);
        let structures: Vec<Structure> = examples(golden).into_iter().cloned().collect();
        let together = potential.evaluate(&structures);
        for (structure, batched) in structures.iter().zip(together) {
            let (alone, batched) = (one(&potential, structure), batched.unwrap());
            assert!((alone.energy - batched.energy).abs() < 1e-11 * alone.energy.abs().max(1.0), "{}", golden.name);
            for (a, b) in alone.forces.as_flattened().iter().zip(batched.forces.as_flattened()) {
                assert!((a - b).abs() < 1e-10, "{}: {a} {b}", golden.name);
            }
        }
    }
}

#[test]
fn far_apart_molecules_add() {
    for golden in &golden("mace")[..3] {
        let potential = potential(&golden.artifact, Dtype::F64);
        let Some(a) = golden.frames.iter().find(|s| s.pbc == [false; 3] && s.len() > 1) else { continue };
        let mut both = a.clone();
        both.arrays.clear();
        both.numbers.extend_from_slice(&a.numbers);
        both.positions.extend(a.positions.iter().map(|p| [p[0] + 1000.0, p[1], p[2]]));
        let (single, double) = (one(&potential, a).energy, one(&potential, &both).energy);
        assert!((double - 2.0 * single).abs() < 1e-9 * single.abs().max(1.0), "{}: {double} {single}", golden.name);
    }
}

#[test]
fn the_same_bits_for_any_number_of_threads() {
    let artifact = Artifact::from_static(tesseral_models::default_artifact(), "built-in model").unwrap();
    let mut crystal = Structure::default();
    // A rattled 5x5x5 block of rock salt: several tasks for every kernel.
    let mut state = 1u64;
    let mut rattle = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as f64 / (1u64 << 31) as f64 * 0.1
    };
    for n in 0..125 {
        let cell = [n / 25, n / 5 % 5, n % 5].map(|k| k as f64 * 2.82);
        crystal.positions.push(cell.map(|x| x + rattle()));
        crystal.numbers.push(if (n / 25 + n / 5 % 5 + n % 5) % 2 == 0 { 11 } else { 17 });
    }
    crystal.cell.vectors = [[14.1, 0.0, 0.0], [0.0, 14.1, 0.0], [0.0, 0.0, 14.1]];
    crystal.pbc = [true; 3];
    let golden = golden("mace");
    let mace = golden.iter().find(|g| g.name.contains("residual")).unwrap();
    let mut of_mace = crystal.clone();
    let elements = mace.artifact.header().elements().to_vec();
    for z in &mut of_mace.numbers {
        *z = elements[usize::from(*z == 17)];
    }
    for (artifact, structure) in [(&artifact, &crystal), (&mace.artifact, &of_mace)] {
        for dtype in [Dtype::F32, Dtype::F64] {
            let potential = potential(artifact, dtype);
            let run =
                |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| one(&potential, structure));
            let (a, b) = (run(1), run(5));
            assert_eq!(a.energy.to_bits(), b.energy.to_bits());
            assert_eq!(a, b);
        }
    }
}

/// A loss on energy, forces and stress with fixed random targets: what training differentiates.
fn loss(model: &Model, structure: &Structure, head: Option<&str>, radial: Radial) -> (Tensor, Leaves) {
    let prepared = model.prepare(structure).unwrap();
    let batch = model.batch(&[&prepared], &[structure], model.head(head).unwrap()).unwrap();
    let Differentiable { energies, forces, stresses, leaves } = model.differentiable(&batch, radial).unwrap();
    let wave = |t: &Tensor, phase: f64| {
        let n = t.elem_count();
        Tensor::from_vec((0..n).map(|k| (k as f64 * 1.7 + phase).sin()).collect::<Vec<f64>>(), t.dims(), &Device::Cpu).unwrap()
    };
    let square = |t: &Tensor, phase| (t - wave(t, phase)).unwrap().sqr().unwrap().sum_all().unwrap();
    let per_atom = (energies * (1.0 / structure.len() as f64)).unwrap();
    let total = (square(&per_atom, 0.3) * 0.1).unwrap();
    (((total + square(&forces, 0.7)).unwrap() + (square(&stresses, 1.1) * 10.0).unwrap()).unwrap(), leaves)
}

/// The loss and its gradient by each variable.
fn gradients(model: &Model, structure: &Structure, head: Option<&str>, radial: Radial) -> (f64, GradStore) {
    let (loss, leaves) = loss(model, structure, head, radial);
    (loss.to_scalar::<f64>().unwrap(), autograd::weight_gradients(&loss, &leaves).unwrap())
}

fn force_loss_by_weights(golden: &Golden) {
    check_weight_gradients(&golden.name, &golden.artifact, examples(golden)[0], Radial::Exact);
}

fn check_weight_gradients(what: &str, artifact: &Artifact, structure: &Structure, radial: Radial) {
    let parameters = Parameters::trainable(artifact, DType::F64, &Device::Cpu);
    let model = Model::build(artifact, &parameters).unwrap();
    let variables = parameters.into_variables();
    let head = first_head(artifact);
    let value = || loss(&model, structure, head.as_deref(), radial).0.to_scalar::<f64>().unwrap();
    let (_, gradients) = gradients(&model, structure, head.as_deref(), radial);
    let mut checked = 0;
    for (name, variable) in &variables {
        let Some(gradient) = gradients.get(variable) else { continue };
        let gradient: Vec<f64> = gradient.flatten_all().unwrap().to_vec1().unwrap();
        // The element with the largest derivative of each tensor.
        let (k, g) = gradient.iter().copied().enumerate().max_by(|a, b| a.1.abs().total_cmp(&b.1.abs())).unwrap();
        let original: Vec<f64> = variable.flatten_all().unwrap().to_vec1().unwrap();
        let shape = variable.dims().to_vec();
        let set = |var: &Var, delta: f64| {
            let mut moved = original.clone();
            moved[k] += delta;
            var.set(&Tensor::from_vec(moved, shape.as_slice(), &Device::Cpu).unwrap()).unwrap();
        };
        let h = 1e-4 * original[k].abs().max(0.1);
        let numeric = tesseral_testkit::slope(h, |delta| {
            set(variable, delta);
            value()
        });
        set(variable, 0.0);
        let scale = g.abs().max(1e-3 * value().abs());
        assert!((numeric - g).abs() < 1e-6 * scale, "{what}: d loss/d {name}[{k}] is {g}, by differences {numeric}");
        checked += usize::from(g != 0.0);
    }
    assert!(checked * 2 > variables.len(), "{what}: only {checked} of {} tensors have a gradient", variables.len());
}

#[test]
fn mace_force_loss_by_weights() {
    for golden in &golden("mace") {
        force_loss_by_weights(golden);
    }
}

#[test]
fn sevennet_force_loss_by_weights() {
    for golden in &golden("sevennet") {
        force_loss_by_weights(golden);
    }
}

/// 27 atoms near a cubic lattice, elements of the model in turn: enough edges for splines.
fn rattled_crystal(elements: &[u8]) -> Structure {
    let mut random = tesseral_testkit::Random::new(31);
    let mut place = |k: usize| 2.0 * k as f64 + 0.2 * random.number();
    let mut crystal = Structure { pbc: [true; 3], ..Structure::default() };
    for n in 0..27 {
        crystal.positions.push([place(n / 9), place(n / 3 % 3), place(n % 3)]);
        crystal.numbers.push(elements[n % elements.len()]);
    }
    crystal.cell.vectors = [[6.0, 0.0, 0.0], [0.3, 6.0, 0.0], [0.0, 0.2, 6.0]];
    crystal
}

fn flat(t: &Tensor) -> Vec<f64> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

/// The largest value, and the largest difference.
fn compare(exact: &[f64], splines: &[f64]) -> (f64, f64) {
    let largest = |x: &mut dyn Iterator<Item = f64>| x.fold(0.0f64, |m, x| m.max(x.abs()));
    (largest(&mut exact.iter().copied()), largest(&mut exact.iter().zip(splines).map(|(a, b)| a - b)))
}

/// What is computed on splines is close to the exact model. False if the model's radial functions are of more than the distance.
fn splines_are_close(name: &str, artifact: &Artifact) -> bool {
    let structure = rattled_crystal(artifact.header().elements());
    let parameters = Parameters::trainable(artifact, DType::F64, &Device::Cpu);
    let model = Model::build(artifact, &parameters).unwrap();
    let head = first_head(artifact);
    let forces = |radial| {
        let prepared = model.prepare(&structure).unwrap();
        let batch = model.batch(&[&prepared], &[&structure], model.head(head.as_deref()).unwrap()).unwrap();
        flat(&model.differentiable(&batch, radial).unwrap().forces)
    };
    let (exact, splines) = (forces(Radial::Exact), forces(Radial::Splines));
    if exact == splines {
        return false;
    }
    let (size, difference) = compare(&exact, &splines);
    assert!(difference < 1e-7 * size, "{name}: forces differ by {difference:e} of {size:e}");
    let by_weights = |radial| gradients(&model, &structure, head.as_deref(), radial);
    let (exact, splines) = (by_weights(Radial::Exact), by_weights(Radial::Splines));
    assert!((exact.0 - splines.0).abs() < 1e-7 * exact.0);
    for (tensor, variable) in &parameters.into_variables() {
        match (exact.1.get(variable), splines.1.get(variable)) {
            (Some(of_exact), Some(of_splines)) => {
                let (size, difference) = compare(&flat(of_exact), &flat(of_splines));
                assert!(difference < 1e-6 * size.max(1e-4 * exact.0), "{name} {tensor}: {difference:e} of {size:e}");
            }
            (of_exact, of_splines) => assert_eq!(of_exact.is_some(), of_splines.is_some(), "{name} {tensor}"),
        }
    }
    true
}

/// Training on splines: close to the exact model, and its derivatives are its own.
#[test]
fn splines_in_training() {
    let of_own = |name: &str, artifact: &Artifact| {
        check_weight_gradients(name, artifact, &rattled_crystal(artifact.header().elements()), Radial::Splines);
    };
    for family in ["mace", "sevennet"] {
        let models = golden(family);
        let close: Vec<&Golden> = models.iter().filter(|g| splines_are_close(&g.name, &g.artifact)).collect();
        assert!(close.len() >= 7, "only {} models of {family} use splines", close.len());
        of_own(&close[0].name, &close[0].artifact);
    }
    // Cutoffs of pairs stretch the distances.
    let temporary = tempfile::tempdir().unwrap();
    let packed = tesseral_tests::golden_folder().join("nequip/no_parity_edge_cutoffs.nequip.zip.gz");
    let artifact = tesseral_import::import(&tesseral_tests::plain(&packed, temporary.path())).unwrap();
    assert!(splines_are_close("nequip", &artifact));
    of_own("nequip", &artifact);
}
