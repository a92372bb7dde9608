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

fn one<T: HasSlabs>(compiled: &Compiled<T>, structure: &Structure) -> Result<Evaluation, InferError> {
    compiled.evaluate(std::slice::from_ref(structure)).remove(0)
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
        let compiled = Compiled::<T>::new(artifact, head, exact, None, &[])?;
        for frame in frames {
            worst.add(&one(&compiled, frame)?, &differentiable(model, frame, head));
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

/// Packages, checkpoints in one file and training folders: cutoffs that depend on the pair and its order, ZBL, factors that depend on the element, both
/// sign conventions of e3nn.
#[test]
fn nequip_models() {
    let folder = tesseral_tests::golden_folder().join("nequip");
    let temporary = tempfile::tempdir().unwrap();
    for file in ["no_parity_edge_cutoffs.nequip.zip", "parity_zbl_per_type.ckpt", "preset_s.ckpt", "v06_no_parity_zbl.nequip.pth"] {
        let artifact = tesseral_import::import(&tesseral_tests::plain(&folder.join(format!("{file}.gz")), temporary.path())).unwrap();
        let reference = folder.join(format!("ref_{}.extxyz", file.split('.').next().unwrap()));
        let frames: Vec<Structure> = tesseral_atoms::io::read(&reference).unwrap().map(|f| f.unwrap()).collect();
        conforms(file, &artifact, &frames);
    }
    for name in ["v06_parity", "v06_parity_e3nn05"] {
        let training = temporary.path().join(name);
        std::fs::create_dir(&training).unwrap();
        std::fs::copy(folder.join(format!("{name}.config.yaml")), training.join("config.yaml")).unwrap();
        let weights = tesseral_tests::plain(&folder.join(format!("{name}.best_model.pth.gz")), temporary.path());
        std::fs::rename(weights, training.join("best_model.pth")).unwrap();
        let artifact = tesseral_import::import(&training).unwrap();
        let reference = folder.join(format!("ref_{name}.extxyz"));
        let frames: Vec<Structure> = tesseral_atoms::io::read(&reference).unwrap().map(|f| f.unwrap()).collect();
        conforms(name, &artifact, &frames);
    }
}

/// Rattled rock salt of `2 · repeats³ · 4` atoms of two elements: several domains for every pass.
fn crystal(repeats: usize, a: f64, elements: [u8; 2]) -> Structure {
    let mut random = tesseral_testkit::Random::new(11);
    tesseral_tests::rock_salt(repeats, a, elements, || random.number())
}

fn built_in() -> Artifact {
    Artifact::from_static(tesseral_models::default_artifact(), "built-in model").unwrap()
}

#[test]
fn published_models_on_many_domains() {
    let mut models = vec![("SevenNet-0".to_owned(), built_in(), crystal(3, 5.64, [11, 17]))];
    let checkpoints = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/reference/checkpoints");
    for name in ["MACE_SPICE", "synth_mp0a_small", "synth_mp0b3_mpa0_medium", "synth_off23_small"] {
        let path = checkpoints.join(format!("{name}.model"));
        if !path.exists() {
            eprintln!("skipped because ../shared is not there: {name}");
            continue;
        }
        let artifact = tesseral_import::import(&path).unwrap();
        let known = artifact.header().elements().to_vec();
        let other = if known.contains(&6) { 6 } else { known[1] };
        models.push((name.to_owned(), artifact, crystal(2, 4.2, [known[0], other])));
    }
    for (name, artifact, structure) in models {
        conforms(&name, &artifact, &[structure]);
    }
}

#[test]
fn short_memory_changes_no_bit() {
    let mace = golden("mace").into_iter().find(|g| g.name.ends_with("density_residual_both_edge_irreps")).unwrap();
    let of_mace = [mace.artifact.header().elements()[0], *mace.artifact.header().elements().last().unwrap()];
    for (artifact, structure) in [(built_in(), crystal(2, 5.64, [11, 17])), (mace.artifact, crystal(2, 5.0, of_mace))] {
        let ample = Compiled::<f32>::new(&artifact, 0, false, None, &[]).unwrap();
        let plan = ample.memory(&structure, 0.0);
        assert!(plan.least < plan.bytes, "{plan:?}");
        let short = Compiled::<f32>::new(&artifact, 0, false, Some((plan.least + plan.bytes) / 2), &[]).unwrap();
        assert_eq!(one(&ample, &structure).unwrap(), one(&short, &structure).unwrap());
        let too_short = Compiled::<f32>::new(&artifact, 0, false, Some(plan.least / 2), &[]).unwrap();
        match one(&too_short, &structure) {
            Err(InferError::Memory { needed, limit, .. }) => assert!(needed == plan.least && limit == plan.least / 2),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn steps_with_a_skin_are_what_single_evaluations_are() {
    let (artifact, start) = (built_in(), crystal(2, 5.64, [11, 17]));
    let compiled = Compiled::<f64>::new(&artifact, 0, false, None, &[]).unwrap();
    let mut stepper = compiled.stepper();
    let mut random = tesseral_testkit::Random::new(3);
    let mut structure = start.clone();
    for step in 0..8 {
        // Small moves, then one beyond the skin, a changed cell, and other elements.
        let size = if step == 4 { 0.5 } else { 0.02 };
        structure.positions.iter_mut().flatten().for_each(|x| *x += size * random.number());
        if step == 5 {
            structure.cell.vectors[0][0] *= 1.01;
        }
        if step == 6 {
            structure.numbers[0] = 19;
        }
        let (got, want) = (stepper.evaluate(&structure, 0.4).unwrap(), one(&compiled, &structure).unwrap());
        let mut deviation = Deviation::default();
        deviation.add(&got, &want);
        assert!(deviation.worst() < 1e-12, "step {step}: {deviation:?}");
    }
}

#[test]
fn forces_from_tables_are_derivatives() {
    let structure = crystal(1, 5.64, [11, 17]);
    let compiled = Compiled::<f64>::new(&built_in(), 0, false, None, &[]).unwrap();
    let forces = one(&compiled, &structure).unwrap().forces;
    for atom in 0..structure.len() {
        for axis in 0..3 {
            let slope = tesseral_testkit::slope(1e-3, |delta| {
                let mut moved = structure.clone();
                moved.positions[atom][axis] += delta;
                one(&compiled, &moved).unwrap().energy
            });
            assert!((slope + forces[atom][axis]).abs() < 1e-7, "atom {atom}, axis {axis}: {slope} and {}", forces[atom][axis]);
        }
    }
}

/// Drift of the total energy in eV/atom/ps, and its largest excursion in eV/atom, over `steps` of 1 fs (velocity Verlet) of rock salt that starts
/// at about `kelvin`.
fn drift<T: HasSlabs>(structure: &Structure, kelvin: f64, steps: usize) -> (f64, f64) {
    /// Acceleration in Å/fs² of 1 eV/Å on 1 u.
    const ACCELERATION: f64 = 9.648_533_212e-3;
    const BOLTZMANN: f64 = 8.617_333_262e-5;
    // On a device, if one is named.
    let device = std::env::var_os("TESSERAL_TEST_DEVICE").and_then(|_| tesseral_kernels::testing::device());
    let compiled = Compiled::<T>::new(&built_in(), 0, false, None, device.as_slice()).unwrap();
    let mut stepper = compiled.stepper();
    let mut structure = structure.clone();
    let n = structure.len();
    let masses: Vec<f64> = structure.numbers.iter().map(|z| if *z == 11 { 22.99 } else { 35.45 }).collect();
    let mut random = tesseral_testkit::Random::new(23);
    let mut velocities: Vec<[f64; 3]> = masses
        .iter()
        .map(|m| std::array::from_fn(|_| (3.0 * BOLTZMANN * 2.0 * kelvin * ACCELERATION / m).sqrt() * random.number()))
        .collect();
    let momentum: [f64; 3] =
        std::array::from_fn(|x| velocities.iter().zip(&masses).map(|(v, m)| v[x] * m).sum::<f64>() / masses.iter().sum::<f64>());
    velocities.iter_mut().for_each(|v| (0..3).for_each(|x| v[x] -= momentum[x]));
    let mut last = stepper.evaluate(&structure, 0.6).unwrap();
    let mut totals = Vec::with_capacity(steps);
    for _ in 0..steps {
        for i in 0..n {
            for x in 0..3 {
                velocities[i][x] += 0.5 * last.forces[i][x] / masses[i] * ACCELERATION;
                structure.positions[i][x] += velocities[i][x];
            }
        }
        last = stepper.evaluate(&structure, 0.6).unwrap();
        let mut kinetic = 0.0;
        for i in 0..n {
            for x in 0..3 {
                velocities[i][x] += 0.5 * last.forces[i][x] / masses[i] * ACCELERATION;
                kinetic += 0.5 * masses[i] * velocities[i][x] * velocities[i][x] / ACCELERATION;
            }
        }
        totals.push((last.energy + kinetic) / n as f64);
    }
    // A straight line through the totals of the second half, when the thermal motion has set in.
    let half = &totals[steps / 2..];
    let (count, mean) = (half.len() as f64, half.iter().sum::<f64>() / half.len() as f64);
    let middle = (count - 1.0) / 2.0;
    let slope = half.iter().enumerate().map(|(k, e)| (k as f64 - middle) * (e - mean)).sum::<f64>()
        / (0..half.len()).map(|k| (k as f64 - middle).powi(2)).sum::<f64>();
    let excursion = totals.iter().map(|e| (e - totals[0]).abs()).fold(0.0, f64::max);
    (slope * 1000.0, excursion)
}

#[test]
fn energy_is_conserved() {
    // The long runs are `energy_is_conserved_over_20_000_steps_in_f64` and `_in_f32`.
    let structure = crystal(1, 5.64, [11, 17]);
    let (slope, excursion) = drift::<f64>(&structure, 300.0, 1500);
    println!("f64: {slope:.1e} eV/atom/ps, excursion {excursion:.1e} eV/atom");
    assert!(slope.abs() < 2e-5 && excursion < 1e-3, "{slope} {excursion}");
}

#[test]
#[ignore = "minutes long: 20,000 steps of 216 atoms; cargo test --release -p tesseral-tests --test compiled -- --ignored --nocapture"]
fn energy_is_conserved_over_20_000_steps_in_f64() {
    let (slope, excursion) = drift::<f64>(&crystal(3, 5.64, [11, 17]), 600.0, 20_000);
    println!("f64: {slope:.2e} eV/atom/ps, excursion {excursion:.1e} eV/atom");
    assert!(slope.abs() < 1e-6, "{slope}");
}

#[test]
#[ignore = "minutes long, as the one in f64"]
fn energy_is_conserved_over_20_000_steps_in_f32() {
    let (slope, excursion) = drift::<f32>(&crystal(3, 5.64, [11, 17]), 600.0, 20_000);
    println!("f32: {slope:.2e} eV/atom/ps, excursion {excursion:.1e} eV/atom");
    assert!(slope.abs() < 1e-5, "{slope}");
}
