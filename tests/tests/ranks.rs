//! A system computed by several ranks is the system computed by one: threads with an exchange between them stand for processes.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail loudly, and says what it finds")]

use tesseral_atoms::{Structure, StructureError};
use tesseral_infer::domain::{ExchangeError, ExchangeRows, NO_SPECIES, NeighborRows};
use tesseral_infer::{
    DeviceChoice, DomainAtoms, DomainCalculator, DomainError, DomainEvaluation, Dtype, Engine, Evaluation, Exchange, InferError, Options,
    Potential, Threads,
};
use tesseral_potentials::Artifact;
use tesseral_potentials::batch::species_of;
use tesseral_testkit::Random;
use tesseral_tests::parts::{Hub, Part, Together, cut, evaluate};
use tesseral_tests::{first_head, golden};

fn built_in() -> Artifact {
    Artifact::from_static(tesseral_models::default_artifact(), "built-in model").unwrap()
}

fn potential(artifact: &Artifact, dtype: Dtype, exact_radial: bool) -> Result<Potential, InferError> {
    let options = Options { dtype, head: first_head(artifact), engine: Engine::Compiled { exact_radial }, ..Options::default() };
    Potential::new(artifact, &options)
}

fn calculators(potential: &Potential, parts: usize, threads: usize) -> Result<Vec<DomainCalculator>, InferError> {
    (0..parts).map(|_| potential.domain(Threads::new(threads)?)).collect()
}

fn alone(potential: &Potential, structure: &Structure) -> Evaluation {
    potential.evaluate(std::slice::from_ref(structure)).remove(0).unwrap()
}

/// The largest deviation: of energies relative to Σ|atomic energies|, of forces, stress and atomic energies to the largest (at least 1; of a stress 1e-3).
fn deviation(got: &Evaluation, want: &Evaluation) -> f64 {
    let scale = want.atomic_energies.iter().map(|e| e.abs()).sum::<f64>().max(1.0);
    let mut worst = (got.energy - want.energy).abs() / scale;
    let mut compare = |got: &[f64], want: &[f64], least: f64| {
        assert_eq!(got.len(), want.len());
        let largest = want.iter().fold(least, |m, x| m.max(x.abs()));
        got.iter().zip(want).for_each(|(a, b)| worst = worst.max(if a.is_nan() { f64::INFINITY } else { (a - b).abs() / largest }));
    };
    compare(got.forces.as_flattened(), want.forces.as_flattened(), 1.0);
    compare(&got.atomic_energies, &want.atomic_energies, 1.0);
    assert_eq!(got.stress.is_some(), want.stress.is_some());
    if let (Some(got), Some(want)) = (got.stress, want.stress) {
        compare(got.as_flattened(), want.as_flattened(), 1e-3);
    }
    worst
}

/// By parts whose ranks are told what ghosts are copies of, or are not told.
fn told(
    potential: &Potential,
    structure: &Structure,
    bricks: [usize; 3],
    skin: f64,
    threads: usize,
    tell: bool,
) -> Result<Together, InferError> {
    let mut parts = cut(structure, bricks, potential.header().cutoff() + skin);
    if tell {
        parts.iter_mut().for_each(Part::tell);
    }
    let species = species_of(structure, potential.header().elements())?;
    evaluate(structure, &species, &parts, &mut calculators(potential, parts.len(), threads)?, true, true)
}

fn together(potential: &Potential, structure: &Structure, bricks: [usize; 3], skin: f64, threads: usize) -> Result<Together, InferError> {
    told(potential, structure, bricks, skin, threads, true)
}

const BRICKS: [[usize; 3]; 4] = [[1, 1, 1], [2, 1, 1], [1, 1, 3], [2, 2, 1]];

/// Rattled rock salt of `8 · repeats³` atoms, sheared if wanted.
fn crystal(repeats: usize, a: f64, elements: [u8; 2], shear: f64) -> Structure {
    let mut random = Random::new(11);
    let mut crystal = tesseral_tests::rock_salt(repeats, a, elements, || random.number());
    let sheared = |v: [f64; 3]| [v[0] + shear * v[1] - 0.5 * shear * v[2], v[1] + shear * v[2], v[2]];
    crystal.cell.vectors = crystal.cell.vectors.map(sheared);
    crystal.positions.iter_mut().for_each(|r| *r = sheared(*r));
    crystal
}

fn conforms(name: &str, artifact: &Artifact, frames: &[Structure]) -> bool {
    let potential = match potential(artifact, Dtype::F64, false) {
        Ok(potential) => potential,
        Err(InferError::NotCompiled { .. }) => return false,
        Err(error) => panic!("{name}: {error}"),
    };
    let mut worst = 0.0f64;
    for (k, frame) in frames.iter().enumerate() {
        let want = alone(&potential, frame);
        for (bricks, tell) in BRICKS.into_iter().flat_map(|bricks| [(bricks, true), (bricks, false)]) {
            match told(&potential, frame, bricks, 0.3, 1, tell) {
                Ok(got) => worst = worst.max(deviation(&got.evaluation, &want)),
                Err(InferError::Domain(DomainError::NeedsAll { .. })) => return false,
                Err(error) => panic!("{name}, frame {k}, {bricks:?}: {error}"),
            }
        }
    }
    println!("{name}: {worst:.1e}");
    assert!(worst < 1e-12, "{name}: {worst:e}");
    true
}

#[test]
fn golden_models_of_mace() {
    let models = golden("mace");
    let conform: Vec<_> = models.iter().filter(|g| conforms(&g.name, &g.artifact, &g.frames)).map(|g| g.name.as_str()).collect();
    println!("{} of {}: {conform:?}", conform.len(), models.len());
    assert!(conform.len() + 4 >= models.len() && conform.iter().any(|name| name.contains("zbl") || name.contains("pair")));
}

#[test]
fn golden_models_of_sevennet() {
    let models = golden("sevennet");
    assert!(models.len() > 2);
    for golden in models {
        assert!(conforms(&golden.name, &golden.artifact, &golden.frames), "{}", golden.name);
    }
}

/// Cutoffs that depend on the pair and its order, ZBL, factors that depend on the element.
#[test]
fn golden_models_of_nequip() {
    let folder = tesseral_tests::golden_folder().join("nequip");
    let temporary = tempfile::tempdir().unwrap();
    for file in ["no_parity_edge_cutoffs.nequip.zip", "parity_zbl_per_type.ckpt", "v06_no_parity_zbl.nequip.pth"] {
        let artifact = tesseral_import::import(&tesseral_tests::plain(&folder.join(format!("{file}.gz")), temporary.path())).unwrap();
        let reference = folder.join(format!("ref_{}.extxyz", file.split('.').next().unwrap()));
        let frames: Vec<Structure> = tesseral_atoms::io::read(&reference).unwrap().map(|f| f.unwrap()).collect();
        assert!(conforms(file, &artifact, &frames), "{file}");
    }
}

#[test]
fn published_models_on_many_domains() {
    let mut models = vec![("SevenNet-0".to_owned(), built_in(), crystal(3, 5.64, [11, 17], 0.0))];
    let checkpoints = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/reference/checkpoints");
    for name in ["synth_mp0a_small", "synth_mp0b3_mpa0_medium"] {
        let path = checkpoints.join(format!("{name}.model"));
        if !path.exists() {
            println!("skipped because ../shared is not there: {name}");
            continue;
        }
        let artifact = tesseral_import::import(&path).unwrap();
        let known = artifact.header().elements().to_vec();
        let other = if known.contains(&6) { 6 } else { known[1] };
        models.push((name.to_owned(), artifact, crystal(2, 4.2, [known[0], other], 0.0)));
    }
    for (name, artifact, structure) in models {
        assert!(conforms(&name, &artifact, &[structure]));
    }
}

#[test]
fn skewed_cells_slabs_and_molecules() {
    let skewed = crystal(2, 5.64, [11, 17], 0.4);
    let mut slab = crystal(2, 5.64, [11, 17], 0.1);
    slab.pbc[2] = false;
    let mut cluster = crystal(1, 5.64, [11, 17], 0.0);
    cluster.pbc = [false; 3];
    cluster.cell.vectors = [[0.0; 3]; 3];
    let atom = Structure::molecule(vec![11], vec![[1.0, 2.0, 3.0]]);
    assert!(conforms("SevenNet-0", &built_in(), &[skewed, slab, cluster, atom]));
}

#[test]
fn a_rank_without_atoms_and_one_without_edges() {
    let potential = potential(&built_in(), Dtype::F64, false).unwrap();
    // Everything in one half of the cell but one atom, which sees nobody.
    let mut structure = crystal(1, 5.64, [11, 17], 0.0);
    structure.cell.vectors[0][0] = 60.0;
    structure.positions.push([35.0, 1.0, 1.0]);
    structure.numbers.push(11);
    structure.pbc = [true, false, false];
    let parts = cut(&structure, [6, 1, 1], potential.header().cutoff());
    assert!(parts.iter().filter(|p| p.owned == 0).count() >= 3);
    assert!(parts.iter().any(|p| p.owned == 1 && p.neighbors.is_empty()));
    let got = together(&potential, &structure, [6, 1, 1], 0.0, 1).unwrap();
    assert!(deviation(&got.evaluation, &alone(&potential, &structure)) < 1e-12);
    // Nobody at all, without a ghost.
    let mut calculator = potential.domain(Threads::new(1).unwrap()).unwrap();
    let list = NeighborRows { offsets: &[0], neighbors: &[] };
    let nobody = DomainAtoms { owned: 0, positions: &[], species: &[], tags: None, images: None, neighbors: Some(&list) };
    let mut to = DomainEvaluation::default();
    calculator.evaluate_into(&nobody, None, &mut to).unwrap();
    assert_eq!(to, DomainEvaluation::default());
}

#[test]
fn atoms_of_other_potentials_are_not_there() {
    let potential = potential(&built_in(), Dtype::F64, false).unwrap();
    let mut structure = crystal(2, 5.64, [11, 17], 0.1);
    let mut species = species_of(&structure, potential.header().elements()).unwrap();
    let parts = cut(&structure, [2, 1, 1], potential.header().cutoff());
    let others = [0, 5, 17, 40, 63];
    others.iter().for_each(|&i| species[i] = NO_SPECIES);
    let mut calculators = calculators(&potential, 2, 1).unwrap();
    let got = evaluate(&structure, &species, &parts, &mut calculators, true, true).unwrap();
    for &i in others.iter().rev() {
        structure.positions.remove(i);
        structure.numbers.remove(i);
    }
    let want = alone(&potential, &structure);
    let kept = |values: &mut dyn FnMut(usize)| (0..64).filter(|i| !others.contains(i)).for_each(values);
    let mut left = Evaluation { energy: got.evaluation.energy, stress: got.evaluation.stress, ..Evaluation::default() };
    kept(&mut |i| left.forces.push(got.evaluation.forces[i]));
    kept(&mut |i| left.atomic_energies.push(got.evaluation.atomic_energies[i]));
    assert!(deviation(&left, &want) < 1e-12);
    assert!(others.iter().all(|&i| got.evaluation.forces[i] == [0.0; 3] && got.evaluation.atomic_energies[i] == 0.0));
}

/// Features that are exchanged through the host: an emulated device, unless there is another.
#[test]
fn parts_on_devices() {
    let Some(device) = tesseral_kernels::testing::device() else { return };
    let device = if device.is_emulated() { DeviceChoice::Emulated } else { DeviceChoice::Cuda(vec![0]) };
    let mut models = golden("mace");
    models.retain(|g| g.name.contains("density_two_heads_agnesi_zbl") || g.name.contains("three_layers_odd"));
    models.extend(golden("sevennet").into_iter().filter(|g| g.name.contains("parity_nequip_connection")));
    assert_eq!(models.len(), 3);
    for golden in models {
        let here = potential(&golden.artifact, Dtype::F64, false).unwrap();
        let options = Options { dtype: Dtype::F64, head: first_head(&golden.artifact), device: device.clone(), ..Options::default() };
        let there = Potential::new(&golden.artifact, &options).unwrap();
        // Passes in parts of a few atoms.
        let short = Potential::new(&golden.artifact, &Options { memory: Some(16), ..options }).unwrap();
        // Eight atoms in a skewed cell, and a slab of six.
        let slab = golden.frames.iter().find(|frame| frame.pbc == [true, true, false]).unwrap();
        for frame in [&golden.frames[0], slab] {
            assert!(frame.len() >= 6);
            let species = species_of(frame, here.header().elements()).unwrap();
            for (bricks, tell) in [([1, 1, 1], true), ([3, 1, 1], true), ([3, 1, 1], false)] {
                let mut parts = cut(frame, bricks, here.header().cutoff() + 0.2);
                if tell {
                    parts.iter_mut().for_each(Part::tell);
                }
                let mut on_device = calculators(&there, parts.len(), 1).unwrap();
                let got = evaluate(frame, &species, &parts, &mut on_device, true, false).unwrap();
                let worst = deviation(&got.evaluation, &alone(&here, frame));
                println!("{} {bricks:?}: {worst:.1e}", golden.name);
                assert!(worst < 1e-11, "{} {bricks:?}: {worst:e}", golden.name);
                let in_parts = evaluate(frame, &species, &parts, &mut calculators(&short, parts.len(), 1).unwrap(), true, false).unwrap();
                assert_eq!(in_parts, got);
                // Moved, with the list that is held.
                let mut moved = frame.clone();
                let mut random = Random::new(9);
                moved.positions.iter_mut().flatten().for_each(|x| *x += 0.04 * random.number());
                let got = evaluate(&moved, &species, &parts, &mut on_device, false, false).unwrap();
                assert!(deviation(&got.evaluation, &alone(&here, &moved)) < 1e-11);
                // Without one of the atoms.
                let mut without = species.clone();
                without[0] = NO_SPECIES;
                let got = evaluate(frame, &without, &parts, &mut on_device, true, false).unwrap();
                let want = evaluate(frame, &without, &parts, &mut calculators(&here, parts.len(), 1).unwrap(), true, false).unwrap();
                assert!(deviation(&got.evaluation, &want.evaluation) < 1e-11);
                let error = evaluate(frame, &species, &parts, &mut on_device, true, true).unwrap_err();
                assert!(matches!(error, InferError::NotOnDevice { what: "virials of atoms" }), "{error}");
            }
        }
    }
}

#[test]
fn bits_do_not_depend_on_threads() {
    let structure = crystal(3, 5.64, [11, 17], 0.1);
    for dtype in [Dtype::F32, Dtype::F64] {
        let potential = potential(&built_in(), dtype, false).unwrap();
        let one = together(&potential, &structure, [2, 1, 1], 0.2, 1).unwrap();
        let three = together(&potential, &structure, [2, 1, 1], 0.2, 3).unwrap();
        assert_eq!(one, three);
        let deviation = deviation(&one.evaluation, &alone(&potential, &structure));
        assert!(deviation < if dtype == Dtype::F32 { 2e-5 } else { 1e-12 }, "{dtype:?}: {deviation:e}");
    }
}

/// Farther than the skin of what the engine keeps of a list, and not farther than the list's own; the cell changes, too.
#[test]
fn lists_are_held_while_atoms_move() {
    const SKIN: f64 = 1.6;
    let potential = potential(&built_in(), Dtype::F64, false).unwrap();
    for (bricks, tell) in [([1, 1, 1], true), ([2, 1, 1], true), ([2, 1, 1], false)] {
        let mut structure = crystal(2, 5.64, [11, 17], 0.1);
        let species = species_of(&structure, potential.header().elements()).unwrap();
        let mut parts = cut(&structure, bricks, potential.header().cutoff() + SKIN);
        if tell {
            parts.iter_mut().for_each(Part::tell);
        }
        let mut calculators = calculators(&potential, parts.len(), 1).unwrap();
        let listed = structure.positions.clone();
        let mut random = Random::new(3);
        for step in 0..9 {
            structure.positions.iter_mut().flatten().for_each(|x| *x += 0.08 * random.number());
            structure.cell.vectors[0][0] += 0.005;
            let got = evaluate(&structure, &species, &parts, &mut calculators, step == 0, true).unwrap();
            assert!(deviation(&got.evaluation, &alone(&potential, &structure)) < 1e-12, "step {step}");
        }
        let moved = |(a, b): (&[f64; 3], &[f64; 3])| (0..3).map(|x| (a[x] - b[x]).powi(2)).sum::<f64>().sqrt();
        let farthest = listed.iter().zip(&structure.positions).map(moved).fold(0.0, f64::max);
        assert!((0.35..0.5 * SKIN - 0.1).contains(&farthest), "{farthest}");
    }
}

#[test]
fn exact_radial_functions() {
    let golden = golden("mace").into_iter().find(|g| g.name.contains("density")).unwrap();
    let potential = potential(&golden.artifact, Dtype::F64, true).unwrap();
    for frame in &golden.frames {
        let got = together(&potential, frame, [2, 1, 1], 0.3, 1).unwrap();
        assert!(deviation(&got.evaluation, &alone(&potential, frame)) < 1e-12);
    }
}

#[test]
fn short_memory_changes_no_bit() {
    let structure = crystal(3, 5.64, [11, 17], 0.0);
    let artifact = built_in();
    let of = |memory| Potential::new(&artifact, &Options { memory, ..Options::default() }).unwrap();
    let ample = of(None);
    let want = together(&ample, &structure, [2, 1, 1], 0.0, 1).unwrap();
    // Of half the atoms, and their ghosts: somewhere between what is needed least and what is taken.
    let refused = |limit: usize| match together(&of(Some(limit)), &structure, [2, 1, 1], 0.0, 1) {
        Err(InferError::Memory { needed, .. }) => Some(needed),
        other => {
            assert_eq!(other.unwrap(), want, "{limit}");
            None
        }
    };
    // The parts need differently much. With what the one that needs most needs least, both compute again what they would save.
    let mut limit = refused(1000).unwrap();
    while let Some(needed) = refused(limit) {
        assert!(needed > limit);
        limit = needed;
    }
}

#[test]
fn forces_are_derivatives_of_the_summed_energies() {
    let potential = potential(&built_in(), Dtype::F64, false).unwrap();
    let structure = crystal(1, 5.64, [11, 17], 0.2);
    let species = species_of(&structure, potential.header().elements()).unwrap();
    let parts = cut(&structure, [2, 1, 1], potential.header().cutoff() + 0.1);
    let mut calculators = calculators(&potential, 2, 1).unwrap();
    let forces = evaluate(&structure, &species, &parts, &mut calculators, true, true).unwrap().evaluation.forces;
    for atom in 0..structure.len() {
        for axis in 0..3 {
            let slope = tesseral_testkit::slope(1e-3, |delta| {
                let mut moved = structure.clone();
                moved.positions[atom][axis] += delta;
                evaluate(&moved, &species, &parts, &mut calculators, false, true).unwrap().evaluation.energy
            });
            assert!((slope + forces[atom][axis]).abs() < 1e-7, "atom {atom}, axis {axis}: {slope} and {}", forces[atom][axis]);
        }
    }
}

#[test]
fn atomic_virials_are_halves_of_their_edges() {
    let potential = potential(&built_in(), Dtype::F64, false).unwrap();
    let pair = Structure::molecule(vec![11, 17], vec![[0.0; 3], [0.3, 0.4, 2.4]]);
    let got = together(&potential, &pair, [1, 1, 2], 0.0, 1).unwrap();
    // One bond, whose force is along it: v · f, one half for each atom.
    let v = [0.3, 0.4, 2.4];
    let f = got.evaluation.forces[1];
    assert!(f.iter().any(|x| x.abs() > 0.1));
    for (k, (a, b)) in [(0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)].into_iter().enumerate() {
        assert!((got.virial[a][b] - v[a] * f[b]).abs() < 1e-10, "{a}{b}");
        for atom in 0..2 {
            assert!((got.atomic_virials[atom][k] - 0.5 * v[a] * f[b]).abs() < 1e-10, "{a}{b} of {atom}");
        }
    }
    let crystal = crystal(2, 5.64, [11, 17], 0.2);
    let got = together(&potential, &crystal, [2, 2, 1], 0.2, 2).unwrap();
    for (k, (a, b)) in [(0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)].into_iter().enumerate() {
        let sum: f64 = got.atomic_virials.iter().map(|v| v[k]).sum();
        assert!((sum - got.virial[a][b]).abs() < 1e-9, "{a}{b}: {sum} and {}", got.virial[a][b]);
    }
}

#[test]
fn rows_are_what_the_documentation_says() {
    let of = |artifact: &Artifact, dtype| potential(artifact, dtype, false).unwrap().row_bytes();
    assert_eq!(of(&built_in(), Dtype::F32), [1920; 4]);
    assert_eq!(of(&built_in(), Dtype::F64), [3840; 4]);
    let checkpoints = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/reference/checkpoints");
    for (name, rows) in [("synth_mp0b3_mpa0_medium", vec![2048]), ("synth_mp0a_small", vec![512])] {
        let path = checkpoints.join(format!("{name}.model"));
        if path.exists() {
            assert_eq!(of(&tesseral_import::import(&path).unwrap(), Dtype::F32), rows, "{name}");
        } else {
            println!("skipped because ../shared is not there: {name}");
        }
    }
    for golden in golden("mace") {
        let Ok(potential) = potential(&golden.artifact, Dtype::F32, false) else { continue };
        assert!(potential.row_bytes().iter().all(|bytes| bytes % 8 == 0), "{}: {:?}", golden.name, potential.row_bytes());
    }
}

/// Three atoms in a row, of which two see one another.
struct Three {
    positions: Vec<[f64; 3]>,
    species: Vec<u32>,
    offsets: Vec<usize>,
    neighbors: Vec<u32>,
}

impl Three {
    fn new(potential: &Potential) -> Self {
        let structure = Structure::molecule(vec![11, 17, 11], vec![[0.0; 3], [2.5, 0.0, 0.0], [9.0, 0.0, 0.0]]);
        Self {
            species: species_of(&structure, potential.header().elements()).unwrap(),
            positions: structure.positions,
            offsets: vec![0, 1, 2, 2],
            neighbors: vec![1, 0],
        }
    }

    fn evaluate(&self, calculator: &mut DomainCalculator, listed: bool) -> Result<DomainEvaluation, InferError> {
        let list = NeighborRows { offsets: &self.offsets, neighbors: &self.neighbors };
        let atoms = DomainAtoms {
            owned: self.offsets.len() - 1,
            positions: &self.positions,
            species: &self.species,
            tags: Some(&[101, 102, 103]),
            images: None,
            neighbors: listed.then_some(&list),
        };
        let mut to = DomainEvaluation::default();
        calculator.evaluate_into(&atoms, None, &mut to).map(|()| to)
    }
}

#[test]
fn what_is_wrong_is_said() {
    let potential = potential(&built_in(), Dtype::F32, false).unwrap();
    let mut calculator = potential.domain(Threads::new(1).unwrap()).unwrap();
    let good = || Three::new(&potential);
    let message = |three: Three, calculator: &mut DomainCalculator| three.evaluate(calculator, true).unwrap_err();

    let error = good().evaluate(&mut calculator, false).unwrap_err();
    assert!(matches!(error, InferError::Domain(DomainError::NoList { listed: None, owned: 3, ghosts: 0 })), "{error}");
    good().evaluate(&mut calculator, true).unwrap();
    good().evaluate(&mut calculator, false).unwrap();

    let error = message(Three { neighbors: vec![1, 3], ..good() }, &mut calculator);
    assert!(error.to_string().contains("the list of neighbours of atom 102 names 3"), "{error}");
    let error = message(Three { neighbors: vec![0, 0], ..good() }, &mut calculator);
    assert!(matches!(error, InferError::Domain(DomainError::Neighbor { atom: 101, neighbor: 0, .. })), "{error}");
    let error = message(Three { offsets: vec![0, 1, 1, 1], ..good() }, &mut calculator);
    assert!(matches!(error, InferError::Domain(DomainError::HalfList)) && error.hint().unwrap().contains("REQ_FULL"), "{error}");
    let error = message(Three { species: vec![0, 1000, 0], ..good() }, &mut calculator);
    assert!(error.to_string().starts_with("atom 102 is of species 1000, but the model has 89"), "{error}");
    let error = message(Three { species: vec![0], ..good() }, &mut calculator);
    assert!(matches!(error, InferError::Domain(DomainError::Count { what: "species", found: 1, atoms: 3 })), "{error}");
    let mut three = good();
    three.positions[2][1] = f64::NAN;
    let error = message(three, &mut calculator);
    assert!(matches!(error, InferError::Structure(StructureError::NotFinitePosition { atom: 103, .. })), "{error}");
    let mut three = good();
    three.positions[1] = [1e-5, 0.0, 0.0];
    let error = message(three, &mut calculator);
    assert!(matches!(error, InferError::Structure(StructureError::SameSpot { first: 101, second: 102, .. })), "{error}");
    // After an error the list has to come again.
    let error = good().evaluate(&mut calculator, false).unwrap_err();
    assert!(matches!(error, InferError::Domain(DomainError::NoList { .. })), "{error}");
    good().evaluate(&mut calculator, true).unwrap();
    let differentiable = Options { engine: Engine::Differentiable, ..Options::default() };
    let error = Potential::new(&built_in(), &differentiable).unwrap().domain(Threads::new(1).unwrap()).err().unwrap();
    assert!(matches!(error, InferError::NotStepped), "{error}");
}

#[test]
fn nobody_waits_for_a_rank_that_fails() {
    let potential = potential(&built_in(), Dtype::F32, false).unwrap();
    let structure = crystal(2, 5.64, [11, 17], 0.0);
    let species = species_of(&structure, potential.header().elements()).unwrap();
    let parts = cut(&structure, [2, 1, 1], potential.header().cutoff());
    let hub = Hub::new(&parts);
    let run = |k: usize| {
        let part: &Part = &parts[k];
        let mut positions = part.positions(&structure);
        if k == 1 {
            positions[0][0] = f64::INFINITY;
        }
        let list = NeighborRows { offsets: &part.offsets, neighbors: &part.neighbors };
        let of_part: Vec<u32> = part.atoms.iter().map(|&i| species[i]).collect();
        let atoms =
            DomainAtoms { owned: part.owned, positions: &positions, species: &of_part, tags: None, images: None, neighbors: Some(&list) };
        let mut calculator = potential.domain(Threads::new(1).unwrap()).unwrap();
        let mut link = hub.link(k);
        let result = calculator.evaluate_into(&atoms, Some(&mut link), &mut DomainEvaluation::default());
        (result, link.exchanges)
    };
    let [(good, first), (bad, second)] = std::thread::scope(|scope| [0, 1].map(|k| scope.spawn(move || run(k))).map(|t| t.join().unwrap()));
    assert!(good.is_ok());
    assert!(matches!(bad, Err(InferError::Structure(StructureError::NotFinitePosition { .. }))));
    assert_eq!(first, [480, 480, 480, 480, -480, -480, -480, -480]);
    assert_eq!(first, second);
}

/// Gives up, or panics, in one of its exchanges.
struct Failing {
    exchanges: usize,
    at: usize,
    panics: bool,
}

impl Failing {
    fn next(&mut self) -> Result<(), ExchangeError> {
        self.exchanges += 1;
        if self.exchanges < self.at {
            return Ok(());
        }
        assert!(!self.panics, "a panic of the caller's");
        Err("the line is dead".into())
    }
}

impl Exchange for Failing {
    fn forward(&mut self, _: ExchangeRows<'_>) -> Result<(), ExchangeError> {
        self.next()
    }

    fn reverse(&mut self, _: ExchangeRows<'_>) -> Result<(), ExchangeError> {
        self.next()
    }
}

#[test]
fn there_is_no_exchange_after_one_that_fails() {
    let potential = potential(&built_in(), Dtype::F32, false).unwrap();
    let mut calculator = potential.domain(Threads::new(2).unwrap()).unwrap();
    let three = Three::new(&potential);
    let list = NeighborRows { offsets: &three.offsets, neighbors: &three.neighbors };
    let atoms =
        DomainAtoms { owned: 3, positions: &three.positions, species: &three.species, tags: None, images: None, neighbors: Some(&list) };
    for (at, direction) in [(1, "forward"), (4, "forward"), (5, "reverse"), (8, "reverse")] {
        let mut exchange = Failing { exchanges: 0, at, panics: false };
        let error = calculator.evaluate_into(&atoms, Some(&mut exchange), &mut DomainEvaluation::default()).unwrap_err();
        assert_eq!(error.to_string(), format!("the {direction} exchange between ranks failed: the line is dead"));
        assert_eq!(exchange.exchanges, at);
        let mut exchange = Failing { exchanges: 0, at, panics: true };
        let mut to = DomainEvaluation::default();
        let call = std::panic::AssertUnwindSafe(|| calculator.evaluate_into(&atoms, Some(&mut exchange), &mut to));
        assert!(std::panic::catch_unwind(call).is_err());
        assert_eq!(exchange.exchanges, at);
    }
    // And all is well afterwards.
    three.evaluate(&mut calculator, true).unwrap();
}
