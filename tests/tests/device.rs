//! The compiled engine with the CUDA kernels, on whatever device the tests are given (the emulator, unless TESSERAL_TEST_DEVICE says otherwise), against
//! the compiled engine on the CPU: built-in model, every golden MACE, SevenNet and NequIP model, batches, steps of one structure.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, reason = "a test may fail loudly, and says what it finds")]

use tesseral_atoms::Structure;
use tesseral_infer::InferError;
use tesseral_infer::compiled::Compiled;
use tesseral_kernels::{Device, testing};
use tesseral_ops::slab::HasSlabs;
use tesseral_potentials::{Artifact, Evaluation};
use tesseral_tests::golden;

/// The largest deviation: energies relative to Σ|atomic energies| (at least 1 eV), forces to the largest (at least 1 eV/Å), stresses to the largest (at
/// least 1e-3 eV/Å³).
fn deviation(got: &Evaluation, want: &Evaluation) -> f64 {
    let scale = want.atomic_energies.iter().map(|e| e.abs()).sum::<f64>().max(1.0);
    let mut worst = (got.energy - want.energy).abs() / scale;
    let mut compare = |got: &[f64], want: &[f64], least: f64| {
        let largest = want.iter().fold(least, |m, f| m.max(f.abs()));
        worst = got.iter().zip(want).fold(worst, |w, (a, b)| w.max((a - b).abs() / largest));
    };
    compare(got.forces.as_flattened(), want.forces.as_flattened(), 1.0);
    assert_eq!(got.stress.is_some(), want.stress.is_some());
    if let (Some(got), Some(want)) = (&got.stress, &want.stress) {
        compare(got.as_flattened(), want.as_flattened(), 1e-3);
    }
    worst
}

/// Evaluates all frames in one batch on the device and one by one on the CPU.
fn equals<T: HasSlabs>(name: &str, device: &Device, artifact: &Artifact, frames: &[Structure], tolerance: f64) {
    let here = match Compiled::<T>::new(artifact, 0, false, None, &[]) {
        Err(InferError::NotCompiled { what }) => {
            assert!(name.contains("attention"), "{name}: {what}");
            return;
        }
        other => other.unwrap_or_else(|e| panic!("{name}: {e}")),
    };
    let there = Compiled::<T>::new(artifact, 0, false, None, std::slice::from_ref(device)).unwrap_or_else(|e| panic!("{name}: {e}"));
    let mut worst = 0.0f64;
    for (got, want) in there.evaluate(frames).into_iter().zip(here.evaluate(frames)) {
        worst = worst.max(deviation(&got.unwrap_or_else(|e| panic!("{name}: {e}")), &want.unwrap()));
    }
    println!("{name} {}: {worst:.1e}", std::any::type_name::<T>());
    assert!(worst < tolerance, "{name} {}: {worst:e}", std::any::type_name::<T>());
}

fn both(name: &str, device: &Device, artifact: &Artifact, frames: &[Structure]) {
    equals::<f64>(name, device, artifact, frames, 1e-11);
    equals::<f32>(name, device, artifact, frames, 1e-5);
}

/// The two smallest frames: an emulated device takes its time.
fn small(frames: &[Structure]) -> Vec<Structure> {
    let mut frames = frames.to_vec();
    frames.sort_by_key(Structure::len);
    frames.truncate(2);
    frames
}

#[test]
fn golden_mace_models() {
    let Some(device) = testing::device() else { return };
    for golden in golden("mace") {
        both(&golden.name, &device, &golden.artifact, &small(&golden.frames));
    }
}

#[test]
fn golden_sevennet_models() {
    let Some(device) = testing::device() else { return };
    for golden in golden("sevennet") {
        both(&golden.name, &device, &golden.artifact, &small(&golden.frames));
    }
}

#[test]
fn golden_nequip_models() {
    let Some(device) = testing::device() else { return };
    let folder = tesseral_tests::golden_folder().join("nequip");
    let temporary = tempfile::tempdir().unwrap();
    for file in ["no_parity_edge_cutoffs.nequip.zip", "parity_zbl_per_type.ckpt", "preset_s.ckpt", "v06_no_parity_zbl.nequip.pth"] {
        let artifact = tesseral_import::import(&tesseral_tests::plain(&folder.join(format!("{file}.gz")), temporary.path())).unwrap();
        let reference = folder.join(format!("ref_{}.extxyz", file.split('.').next().unwrap()));
        let frames: Vec<Structure> = tesseral_atoms::io::read(&reference).unwrap().map(|f| f.unwrap()).collect();
        both(file, &device, &artifact, &small(&frames));
    }
}

fn built_in() -> Artifact {
    Artifact::from_static(tesseral_models::default_artifact(), "the built-in model").unwrap()
}

/// Rock salt, eight atoms, moved about.
fn rock_salt(seed: u64) -> Structure {
    let mut random = tesseral_testkit::Random::new(seed);
    let mut crystal = Structure { pbc: [true; 3], ..Structure::default() };
    for k in 0..3 {
        crystal.cell.vectors[k][k] = 5.64;
    }
    for n in 0..8usize {
        let place = [n & 1, n >> 1 & 1, n >> 2];
        crystal.numbers.push(if place.iter().sum::<usize>() % 2 == 0 { 11 } else { 17 });
        crystal.positions.push(place.map(|p| 2.82 * p as f64 + 0.1 * random.number()));
    }
    crystal
}

/// SevenNet-0 as it is shipped: a crystal, a molecule and a single atom in one batch.
#[test]
fn the_built_in_model() {
    let Some(device) = testing::device() else { return };
    let water = Structure {
        numbers: vec![8, 1, 1],
        positions: vec![[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]],
        ..Structure::default()
    };
    let atom = Structure { numbers: vec![26], positions: vec![[0.5, 0.5, 0.5]], ..Structure::default() };
    both("SevenNet-0", &device, &built_in(), &[rock_salt(1), water, atom]);
}

/// A structure in a batch gets the bits that it gets alone, and an error finds its structure.
#[test]
fn batches_do_not_matter() {
    let Some(device) = testing::device() else { return };
    let golden = golden("mace").into_iter().find(|g| g.name.contains("residual_lmax3_nu3")).unwrap();
    let compiled = Compiled::<f32>::new(&golden.artifact, 0, false, None, &[device.clone(), device]).unwrap();
    let frames = small(&golden.frames);
    let mut spoilt = frames[0].clone();
    spoilt.positions[0][1] = f64::NAN;
    let together = compiled.evaluate(&[frames[0].clone(), spoilt, Structure::default(), frames[1].clone()]);
    assert!(matches!(together[1], Err(InferError::Structure(_))), "{:?}", together[1]);
    assert!(matches!(together[2], Err(InferError::NoAtoms)), "{:?}", together[2]);
    assert!(matches!(compiled.evaluate(&[Structure::default()])[..], [Err(InferError::NoAtoms)]));
    for (k, frame) in [(0, &frames[0]), (3, &frames[1])] {
        assert_eq!(together[k].as_ref().unwrap(), compiled.evaluate(std::slice::from_ref(frame))[0].as_ref().unwrap());
    }
}

/// A structure twice, side by side, and slightly different.
fn doubled(structure: &Structure) -> Structure {
    let mut random = tesseral_testkit::Random::new(3);
    // Without labels, which would be those of half of it.
    let mut doubled = Structure { pbc: structure.pbc, ..Structure::default() };
    (doubled.cell, doubled.numbers, doubled.positions) = (structure.cell, structure.numbers.clone(), structure.positions.clone());
    let beside = if structure.pbc[0] { structure.cell.vectors[0] } else { [3.0 * structure.len() as f64, 0.3, 0.1] };
    doubled.cell.vectors[0].iter_mut().for_each(|x| *x *= 2.0);
    doubled.numbers.extend_from_slice(&structure.numbers);
    doubled.positions.extend(structure.positions.iter().map(|r| std::array::from_fn(|x| r[x] + beside[x] + 0.05 * random.number())));
    doubled
}

/// Where memory is short, layers are computed part by part, with the same bits.
#[test]
fn parts_do_not_matter() {
    let Some(device) = testing::device() else { return };
    let devices = std::slice::from_ref(&device);
    let wanted =
        ["mace/density_two_heads_agnesi_zbl", "mace/nonlinear_three_heads_agnostic", "mace/keep_last_layer", "sevennet/parity_readout_fcn"];
    let mut found = 0;
    for golden in golden("mace").into_iter().chain(golden("sevennet")).filter(|g| wanted.contains(&g.name.as_str())) {
        found += 1;
        // More than one part.
        let mut structure = small(&golden.frames).remove(1);
        while structure.len() <= 12 {
            structure = doubled(&structure);
        }
        let of = |limit| Compiled::<f32>::new(&golden.artifact, 0, false, limit, devices).unwrap();
        let (ample, short) = (of(None), of(Some(1)));
        let one = |compiled: &Compiled<f32>| compiled.evaluate(std::slice::from_ref(&structure)).remove(0).unwrap();
        assert_eq!(one(&ample), one(&short), "{}", golden.name);
        // Steps, with lists that are replaced.
        let (mut ample, mut short) = (ample.stepper(), short.stepper());
        for _ in 0..3 {
            structure.positions[0][0] += 0.2;
            assert_eq!(ample.evaluate(&structure, 0.3).unwrap(), short.evaluate(&structure, 0.3).unwrap(), "{}", golden.name);
        }
    }
    assert_eq!(found, wanted.len());
}

/// Steps with a list that is kept, the second of them recorded as a graph and later ones replayed, give the bits of a first step.
#[test]
fn steps_repeat() {
    let Some(device) = testing::device() else { return };
    let golden = golden("mace").into_iter().find(|g| g.name.contains("density_two_heads_agnesi_zbl")).unwrap();
    let compiled = Compiled::<f64>::new(&golden.artifact, 0, false, None, &[device]).unwrap();
    let mut structure = small(&golden.frames).remove(0);
    let mut random = tesseral_testkit::Random::new(5);
    let mut stepper = compiled.stepper();
    for step in 0..8 {
        if step > 0 {
            structure.positions.as_flattened_mut().iter_mut().for_each(|x| *x += 0.01 * random.number());
        }
        let (got, want) =
            (stepper.evaluate(&structure, 0.6).unwrap(), compiled.evaluate(std::slice::from_ref(&structure)).remove(0).unwrap());
        assert!(deviation(&got, &want) < 1e-12, "step {step}");
    }
    assert!(stepper.bytes() > 0 && stepper.num_edges() > 0 && stepper.flops() > 0.0);
}
