//! Against phonopy, against analytic results.

use std::io::Read;
use std::path::{Path, PathBuf};

use tesseral_atoms::{Cell, ForceField, Structure};

use super::*;
use crate::analytic::{EinsteinCrystal, Ending, LennardJones};
use crate::matrix;

fn data(crystal: &str, file: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/phonons").join(crystal).join(format!("{file}.gz"));
    let mut text = String::new();
    flate2::read::GzDecoder::new(std::fs::File::open(&path).unwrap()).read_to_string(&mut text).unwrap();
    text
}

struct Golden {
    crystal: Crystal,
    supercell: Supercell,
    sets: ForceSets,
    reference: serde_json::Value,
}

fn golden(name: &str) -> Golden {
    let input = parse_yaml(&data(name, "phonopy_disp.yaml"), Path::new("phonopy_disp.yaml")).unwrap();
    let reference: serde_json::Value = serde_json::from_str(&data(name, "reference.json")).unwrap();
    let crystal = Crystal::new(&input.unit, 1e-5).unwrap();
    let supercell = Supercell::new(&crystal, input.supercell.unwrap()).unwrap();
    let sets = parse_force_sets(&data(name, "FORCE_SETS"), Path::new("FORCE_SETS")).unwrap();
    Golden { crystal, supercell, sets, reference }
}

const GOLDEN: [&str; 5] = ["NaCl", "MgO", "Al2O3", "TiO2-anatase", "MgB2"];

/// Rows of three numbers of a JSON array.
fn rows(value: &serde_json::Value) -> Vec<[f64; 3]> {
    value.as_array().unwrap().iter().map(|r| [0, 1, 2].map(|k| r[k].as_f64().unwrap())).collect()
}

#[test]
fn frequencies_of_phonopy() {
    for name in GOLDEN {
        let g = golden(name);
        let mut fc = ForceConstants::fit(&g.crystal, &g.supercell, &g.sets.displacements, &g.sets.forces).unwrap();
        let before = fc.drift(&g.crystal, &g.supercell);
        fc.symmetrise(&g.crystal, &g.supercell);
        let after = fc.drift(&g.crystal, &g.supercell);
        assert!(before.sum_rule > 1e-6 && after.sum_rule < 1e-12 && after.permutation < 1e-12, "{name}: {before:?} {after:?}");
        let dynamical = DynamicalMatrix::new(&g.crystal, &g.supercell, &fc);
        let lattice = rows(&g.reference["primitive_cell"]);
        let mut worst = 0.0f64;
        for (q, expected) in rows(&g.reference["qpoints_reduced"]).iter().zip(g.reference["frequencies_THz"].as_array().unwrap()) {
            // Their primitive cell in units of the unit cell's vectors.
            let inverse = matrix::inverse(&g.crystal.unit.cell.vectors);
            let theirs = [0, 1, 2].map(|k| matrix::row_times(lattice[k], &inverse));
            let found = dynamical.frequencies(g.crystal.to_primitive(*q, &theirs)).unwrap();
            for (a, b) in found.iter().zip(expected.as_array().unwrap()) {
                worst = worst.max((a - b.as_f64().unwrap()).abs());
            }
            assert_eq!(found.len(), expected.as_array().unwrap().len());
        }
        println!("{name}: {worst:.1e} THz, drift {before:?}");
        assert!(worst < 1e-5, "{name}: {worst} THz");
    }
}

fn fitted(crystal: &Crystal, supercell: &Supercell, sets: &ForceSets) -> DynamicalMatrix {
    let mut fc = ForceConstants::fit(crystal, supercell, &sets.displacements, &sets.forces).unwrap();
    fc.symmetrise(crystal, supercell);
    DynamicalMatrix::new(crystal, supercell, &fc)
}

/// Force constants of any force field.
fn of_field(crystal: &Crystal, supercell: &Supercell, length: f64, field: &mut dyn ForceField) -> (ForceConstants, ForceSets) {
    let mut calculation = Calculation::new(supercell, displacements(crystal, supercell, length).unwrap());
    assert!(calculation.run(field, &mut |_| true).unwrap());
    let sets = calculation.force_sets().unwrap();
    (ForceConstants::fit(crystal, supercell, &sets.displacements, &sets.forces).unwrap(), sets)
}

#[test]
fn thermal_properties_of_phonopy() {
    for name in GOLDEN {
        let g = golden(name);
        // The mesh is one of phonopy's primitive cell.
        let inverse = matrix::inverse(&g.crystal.unit.cell.vectors);
        let lattice = rows(&g.reference["primitive_cell"]);
        let theirs = [0, 1, 2].map(|k| matrix::row_times(lattice[k], &inverse));
        let crystal = Crystal::with_primitive(&g.crystal.unit, Some(theirs), 1e-5).unwrap();
        let dynamical = fitted(&crystal, &g.supercell, &g.sets);
        // Half a step breaks the symmetry of a hexagonal lattice: then, as in phonopy, less is reduced.
        let mesh = Mesh::monkhorst_pack([20; 3]).unwrap();
        let sample = mesh.sample(&crystal, &dynamical, false).unwrap();
        let at = thermal(&sample, 300.0);
        let expected = |key: &str| g.reference["thermal_300K"][key].as_f64().unwrap();
        let differences = [
            at.free_energy_kj_per_mol() - expected("F_kJ_mol"),
            at.entropy_j_per_k_mol() - expected("S_J_K_mol"),
            at.heat_capacity_j_per_k_mol() - expected("Cv_J_K_mol"),
        ];
        println!("{name}: {differences:?} of {} points", sample.q.len());
        // phonopy's Boltzmann and Avogadro constants are older: 10⁻⁶ of 100 J/(K mol).
        assert!(differences.iter().all(|d| d.abs() < 5e-4), "{name}: {differences:?}");
    }
}

fn fcc(a: f64) -> Structure {
    let h = a / 2.0;
    Structure::crystal(Cell::cubic(a), vec![18; 4], vec![[0.0; 3], [0.0, h, h], [h, 0.0, h], [h, h, 0.0]])
}

#[test]
fn force_constants_of_a_lennard_jones_crystal() {
    let crystal = Crystal::new(&fcc(5.4), 1e-5).unwrap();
    assert_eq!((crystal.len(), crystal.number, crystal.centring), (1, 225, 'F'));
    let supercell = Supercell::new(&crystal, [[3, 0, 0], [0, 3, 0], [0, 0, 3]]).unwrap();
    let mut lj = LennardJones::new(0.0104, 3.4, 7.6, Ending::ShiftedForce);
    let (mut fc, sets) = of_field(&crystal, &supercell, 1e-3, &mut lj);
    assert_eq!(sets.displacements.len(), 1);
    let drift = fc.drift(&crystal, &supercell);
    assert!(drift.sum_rule < 1e-9 && drift.permutation < 1e-9, "{drift:?}");
    fc.symmetrise(&crystal, &supercell);
    let lattice = supercell.structure.cell;
    let inverse = lattice.inverse().unwrap();
    let mut largest = 0.0f64;
    for j in 1..supercell.len() {
        // −Φ(0, j) = u″ r̂ r̂ᵀ + u′/r (1 − r̂ r̂ᵀ) for the nearest image.
        let s = matrix::row_times(supercell.structure.positions[j], &inverse).map(|x| x - x.round());
        let v = lattice.cartesian(s);
        let r = matrix::norm(v);
        let slope = |r: f64| if r < lj.cutoff { lj.pair(r).1 } else { 0.0 };
        let (first, second) = (slope(r), tesseral_testkit::slope(1e-4, |h| slope(r + h)));
        for a in 0..3 {
            for b in 0..3 {
                let along = v[a] * v[b] / (r * r);
                let exact = -(second * along + first / r * (f64::from(u8::from(a == b)) - along));
                assert!((fc.values[0][j][a][b] - exact).abs() < 1e-6, "{j} {a}{b}: {} {exact}", fc.values[0][j][a][b]);
                largest = largest.max(exact.abs());
            }
        }
    }
    assert!(largest > 0.01, "{largest}");
}

#[test]
fn dispersion_of_an_fcc_crystal_with_springs_between_neighbours() {
    // Only nearest neighbours, at the minimum of the pair energy: springs of stiffness k = u″.
    let r = 3.4 * 2f64.powf(1.0 / 6.0);
    let a = r * 2f64.sqrt();
    let crystal = Crystal::new(&fcc(a), 1e-5).unwrap();
    let supercell = Supercell::new(&crystal, [[2, 0, 0], [0, 2, 0], [0, 0, 2]]).unwrap();
    let mut lj = LennardJones::new(0.0104, 3.4, 1.2 * r, Ending::Shifted);
    let k = 57.146_437_842_164_2 * 0.0104 / 3.4f64.powi(2);
    let (mut fc, _) = of_field(&crystal, &supercell, 1e-3, &mut lj);
    fc.symmetrise(&crystal, &supercell);
    let dynamical = DynamicalMatrix::new(&crystal, &supercell, &fc);
    let unit = matrix::IDENTITY;
    for zeta in [0.1, 0.37, 0.5, 1.0] {
        // Along [100]: D_xx = 8 k/m sin²(πζ/2), D_yy = D_zz = 4 k/m sin²(πζ/2).
        let found = dynamical.frequencies(crystal.to_primitive([zeta, 0.0, 0.0], &unit)).unwrap();
        let sine = (std::f64::consts::FRAC_PI_2 * zeta).sin();
        let (t, l) = ((4.0 * k / crystal.masses[0]).sqrt() * sine * thz(), (8.0 * k / crystal.masses[0]).sqrt() * sine * thz());
        for (x, y) in found.iter().zip([t, t, l]) {
            assert!((x - y).abs() < 1e-4 * y, "{zeta}: {found:?} {t} {l}");
        }
    }
    // Γ: three zeros.
    assert!(dynamical.frequencies([0.0; 3]).unwrap().iter().all(|f| f.abs() < 1e-5));
}

#[test]
fn frequencies_do_not_depend_on_the_choice_of_the_cell() {
    let conventional = fcc(5.4);
    let h = 2.7;
    // A primitive cell, turned left-handed and skewed, whose multiples make the same supercell.
    let skewed = Structure::crystal(Cell::new([[0.0, h, h], [h, h, 2.0 * h], [h, h, 0.0]]), vec![18], vec![[0.3, 0.1, -0.2]]);
    let mut lj = LennardJones::new(0.0104, 3.4, 5.3, Ending::ShiftedForce);
    let mut frequencies = Vec::new();
    for (unit, cartesian) in [(&conventional, None), (&skewed, Some([[10.8, 0.0, 0.0], [0.0, 10.8, 0.0], [0.0, 0.0, 10.8]]))] {
        let crystal = Crystal::new(unit, 1e-5).unwrap();
        let rows = match cartesian {
            None => [[2, 0, 0], [0, 2, 0], [0, 0, 2]],
            Some(c) => {
                let m = matrix::to_integers(&matrix::product(&c, &matrix::inverse(&unit.cell.vectors)), 1e-6).unwrap();
                if matrix::determinant_of_integers(&m) < 0 { [m[1], m[0], m[2]] } else { m }
            }
        };
        let supercell = Supercell::new(&crystal, rows).unwrap();
        assert_eq!(supercell.len(), 32);
        let (mut fc, _) = of_field(&crystal, &supercell, 1e-3, &mut lj);
        fc.symmetrise(&crystal, &supercell);
        let dynamical = DynamicalMatrix::new(&crystal, &supercell, &fc);
        let found: Vec<f64> = [[0.03, 0.01, -0.02], [0.1, 0.0, 0.0], [0.05, 0.05, 0.05]]
            .iter()
            .flat_map(|q| {
                // q · a for a Cartesian q without 2π.
                let q = matrix::apply(&crystal.primitive.vectors, *q);
                dynamical.frequencies(q).unwrap()
            })
            .collect();
        frequencies.push(found);
    }
    for (a, b) in frequencies[0].iter().zip(&frequencies[1]) {
        assert!((a - b).abs() < 1e-6, "{frequencies:?}");
    }
    assert!(frequencies[0][8] > 0.5);
}

#[test]
fn an_einstein_crystal() {
    let crystal = Crystal::new(&fcc(5.4), 1e-5).unwrap();
    let supercell = Supercell::new(&crystal, [[2, 0, 0], [0, 2, 0], [0, 0, 2]]).unwrap();
    let mut springs = EinsteinCrystal { stiffness: 2.0, anchors: supercell.structure.positions.clone() };
    let (fc, _) = of_field(&crystal, &supercell, 0.01, &mut springs);
    assert!((fc.drift(&crystal, &supercell).sum_rule - 2.0).abs() < 1e-9);
    let dynamical = DynamicalMatrix::new(&crystal, &supercell, &fc);
    let sample = Mesh::centred([4, 4, 4]).unwrap().sample(&crystal, &dynamical, true).unwrap();
    let frequency = (2.0 / crystal.masses[0]).sqrt() * thz();
    assert!(sample.frequencies.iter().flatten().all(|f| (f - frequency).abs() < 1e-9));
    // E = 3 hν (½ + 1/(eˣ − 1)), F = E − T S; C_V → 3 k_B.
    let kb = tesseral_atoms::units::BOLTZMANN;
    for t in [20.0, 300.0] {
        let at = thermal(&sample, t);
        let x = PLANCK_THZ * frequency / (kb * t);
        let energy = 3.0 * kb * t * x * (0.5 + 1.0 / x.exp_m1());
        assert!((at.free_energy + t * at.entropy - energy).abs() < 1e-12);
        let heat = 3.0 * kb * x * x * x.exp() / x.exp_m1().powi(2);
        assert!((at.heat_capacity - heat).abs() < 1e-15);
    }
    assert!((thermal(&sample, 1e5).heat_capacity / (3.0 * kb) - 1.0).abs() < 1e-5);
    assert!((zero_point_energy(&sample) - 1.5 * PLANCK_THZ * frequency).abs() < 1e-12);
    assert_eq!(thermal(&sample, 0.0).entropy, 0.0);
    // All states of a flat band are in one bin.
    let dos = DensityOfStates::new(&crystal, &sample, 101);
    assert!((dos.total.iter().sum::<f64>() * dos.width - 3.0).abs() < 1e-9);
}

#[test]
fn densities_of_states_and_of_the_low_temperature_limit() {
    let g = golden("MgO");
    let dynamical = fitted(&g.crystal, &g.supercell, &g.sets);
    let sample = Mesh::centred([16; 3]).unwrap().sample(&g.crystal, &dynamical, true).unwrap();
    let full = 16 * 16 * 16;
    assert!(sample.q.len() < full / 20, "{}", sample.q.len());
    assert!((sample.weights.iter().sum::<f64>() - 1.0).abs() < 1e-12);
    let dos = DensityOfStates::new(&g.crystal, &sample, 300);
    assert!((dos.total.iter().sum::<f64>() * dos.width - 6.0).abs() < 1e-9);
    for b in 0..300 {
        let atoms: f64 = dos.atoms.iter().map(|a| a[b]).sum();
        assert!((atoms - dos.total[b]).abs() < 1e-9);
    }
    // Each atom has three modes of its own.
    for atom in &dos.atoms {
        assert!((atom.iter().sum::<f64>() * dos.width - 3.0).abs() < 0.02);
    }
    // Debye: g(ν) ∝ ν² at low frequencies.
    let fine = Mesh::centred([40; 3]).unwrap().sample(&g.crystal, &dynamical, false).unwrap();
    let fine = DensityOfStates::new(&g.crystal, &fine, 400);
    let states =
        |below: f64| fine.frequencies.iter().zip(&fine.total).filter(|(f, _)| **f < below).map(|(_, d)| d * fine.width).sum::<f64>();
    let ratio = states(3.0) / states(1.5);
    assert!((7.5..9.8).contains(&ratio), "{ratio}");
    // Without symmetry the same.
    for (index, q) in [(37, sample.mesh.q(37)), (2000, sample.mesh.q(2000))] {
        let direct = dynamical.frequencies(q).unwrap();
        let mapped = &sample.frequencies[sample.map[index]];
        assert!(direct.iter().zip(mapped).all(|(a, b)| (a - b).abs() < 1e-6), "{direct:?} {mapped:?}");
    }
}

#[test]
fn an_unstable_crystal_goes_down_along_its_imaginary_mode() {
    // Lennard-Jones atoms do not stay in a simple cubic lattice.
    let unit = Structure::crystal(Cell::cubic(3.6), vec![18], vec![[0.0; 3]]);
    let crystal = Crystal::new(&unit, 1e-5).unwrap();
    let supercell = Supercell::new(&crystal, [[4, 0, 0], [0, 4, 0], [0, 0, 4]]).unwrap();
    let mut lj = LennardJones::new(0.0104, 3.4, 7.0, Ending::ShiftedForce);
    let (mut fc, _) = of_field(&crystal, &supercell, 1e-3, &mut lj);
    fc.symmetrise(&crystal, &supercell);
    let dynamical = DynamicalMatrix::new(&crystal, &supercell, &fc);
    let fitting = commensurate(&crystal, &supercell);
    // 64 wave vectors: 8 are their own opposites, the others come in pairs.
    assert_eq!((fitting.len(), fitting[0]), (36, [0.0; 3]));
    let (q, modes) = fitting
        .iter()
        .map(|q| (*q, dynamical.modes(*q).unwrap()))
        .min_by(|a, b| a.1.frequencies[0].total_cmp(&b.1.frequencies[0]))
        .unwrap();
    assert!(modes.frequencies[0] < -0.1, "{:?}", modes.frequencies);
    let energy = |amplitude: f64| {
        let structure = displaced_along(&crystal, q, &modes.eigenvectors[0], amplitude, 4).unwrap();
        LennardJones::new(0.0104, 3.4, 7.0, Ending::ShiftedForce).evaluate(&structure).unwrap().energy / structure.len() as f64
    };
    assert!(energy(0.2) < energy(1e-9) - 1e-6, "{} {}", energy(0.2), energy(1e-9));
    // Along the highest mode it goes up.
    let up = displaced_along(&crystal, q, &modes.eigenvectors[2], 0.2, 4).unwrap();
    assert!(lj.evaluate(&up).unwrap().energy / up.len() as f64 > energy(1e-9));
}

#[test]
fn standard_paths() {
    for (name, kind, point, cartesian) in [
        ("NaCl", "cF2", "X", [1.0, 0.0, 0.0]),
        ("MgO", "cF2", "L", [0.5, 0.5, 0.5]),
        ("TiO2-anatase", "tI2", "X", [0.5, 0.5, 0.0]),
        ("MgB2", "hP2", "A", [0.0, 0.0, 0.5]),
        ("Al2O3", "hR1", "T", [0.0, 0.0, 1.5]),
    ] {
        let g = golden(name);
        let path = BandPath::standard(&g.crystal);
        assert_eq!(path.kind, kind, "{name}");
        // In coordinates of the conventional reciprocal lattice, the unit cell's, up to symmetry.
        let found = path.special_points().into_iter().find(|p| p.label == point).unwrap();
        let inverse = matrix::inverse(&g.crystal.primitive_in_unit);
        let mut q = matrix::apply(&inverse, found.q).map(f64::abs);
        q[..2].sort_by(|a, b| b.total_cmp(a));
        if name == "NaCl" || name == "MgO" {
            q.sort_by(|a, b| b.total_cmp(a));
        }
        assert!((0..3).all(|k| (q[k] - cartesian[k]).abs() < 1e-9), "{name} {point}: {q:?}");
        let points = path.points(&g.crystal, 30);
        assert!(points.iter().all(|p| p.q.iter().all(|x| x.is_finite())));
        assert!(points.windows(2).all(|w| w[1].distance >= w[0].distance));
    }
    let crystal = golden("MgO").crystal;
    let typed = BandPath::parse(&crystal, "G X U|K Γ 0 0 0 1/2 0 0").unwrap();
    assert_eq!(typed.pieces.len(), 2);
    assert_eq!(typed.pieces[1].len(), 3);
    assert_eq!(typed.pieces[1][2].q, [0.5, 0.0, 0.0]);
    let error = BandPath::parse(&crystal, "G Q").unwrap_err();
    assert!(error.to_string().contains("\"Q\"") && error.hint().unwrap().contains("K L U W X Γ"), "{error} {:?}", error.hint());
}

#[test]
fn an_interrupted_calculation_goes_on_to_the_same_bits() {
    let g = golden("MgB2");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("forces.jsonl");
    let mut lj = LennardJones::new(0.02, 2.0, 6.0, Ending::ShiftedForce);
    let all = displacements(&g.crystal, &g.supercell, 0.01).unwrap();
    assert_eq!(all.len(), 2, "as phonopy");
    let mut whole = Calculation::create(&g.supercell, all.clone(), &path, "LJ").unwrap();
    whole.run(&mut lj, &mut |_| true).unwrap();
    let expected = whole.force_sets().unwrap();
    drop(whole);
    let bytes = std::fs::read(&path).unwrap();
    // Cut off anywhere.
    for keep in [0, 10, bytes.len() / 3, bytes.len() / 2, bytes.len() - 1, bytes.len()] {
        std::fs::write(&path, &bytes[..keep]).unwrap();
        let mut again = Calculation::resume(&g.supercell, all.clone(), &path, "LJ").unwrap();
        let mut evaluations = 0;
        let before = again.completed();
        again
            .run(&mut lj, &mut |done| {
                evaluations = done;
                true
            })
            .unwrap();
        assert_eq!(evaluations, 3);
        assert!(before < 3 || keep == bytes.len());
        assert_eq!(again.force_sets().unwrap(), expected);
        drop(again);
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
    }
    let other = Calculation::resume(&g.supercell, all.clone(), &path, "another").unwrap_err();
    assert!(other.to_string().contains("another structure"), "{other}");
    let mut interrupted = Calculation::create(&g.supercell, all, &path, "LJ").unwrap();
    assert!(!interrupted.run(&mut lj, &mut |_| false).unwrap());
    assert!(interrupted.force_sets().is_none());
}

#[test]
fn files_of_phonopy_round_trip() {
    let g = golden("Al2O3");
    let text = force_sets(&g.sets);
    let again = parse_force_sets(&text, Path::new("x")).unwrap();
    assert_eq!(again.displacements.len(), 5);
    for (a, b) in again.forces.iter().flatten().zip(g.sets.forces.iter().flatten()) {
        assert!((0..3).all(|k| (a[k] - b[k]).abs() < 1e-11));
    }
    let yaml = parse_yaml(&params(&g.crystal, &g.supercell, &g.sets), Path::new("x")).unwrap();
    assert_eq!(yaml.supercell, Some([[2, 0, 0], [0, 2, 0], [0, 0, 1]]));
    assert_eq!(yaml.displacements.len(), 5);
    assert_eq!(yaml.forces.as_ref().map(Vec::len), Some(5));
    let crystal = Crystal::with_primitive(&yaml.unit, yaml.primitive, 1e-5).unwrap();
    assert_eq!((crystal.number, crystal.len()), (167, 10));
    // Broken files are errors with a line.
    for (text, what) in [
        ("", "line 0"),
        ("2\n1\n\n3\n0 0 0.1\n0 0 0\n0 0 0\n", "line 4: atom 3 of 2"),
        ("2\n1\n\n1\n0 0 x\n", "line 5: three numbers"),
        ("2\n1\n\n1\n0 0 0.01\n0 0 0\n", "the file ends where a force"),
        ("0 0 0 1 1 1\n", "type 2"),
    ] {
        let error = parse_force_sets(text, Path::new("F")).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }
    assert!(parse_yaml("unit_cell:\n  lattice: [1, 2\n", Path::new("F")).is_err());
    assert!(parse_yaml("a: 1\n", Path::new("F")).unwrap_err().to_string().contains("no unit_cell"));
}

#[test]
fn wrong_input_is_refused() {
    let mut slab = fcc(5.4);
    slab.pbc = [true, true, false];
    assert!(Crystal::new(&slab, 1e-3).unwrap_err().to_string().contains("periodic in all three"));
    assert!(Crystal::new(&Structure::default(), 1e-3).unwrap_err().to_string().contains("no atoms"));
    let crystal = Crystal::new(&fcc(5.4), 1e-3).unwrap();
    for rows in [
        [[0; 3]; 3],
        [[-1, 0, 0], [0, 1, 0], [0, 0, 1]],
        [[1000, 0, 0], [0, 1000, 0], [0, 0, 1000]],
        [[i64::MAX, 0, 0], [0, 1, 0], [0, 0, 1]],
    ] {
        assert!(Supercell::new(&crystal, rows).is_err());
    }
    let supercell = Supercell::of_length(&crystal, 10.0, None).unwrap();
    assert_eq!(supercell.matrix, [[2, 0, 0], [0, 2, 0], [0, 0, 2]]);
    assert_eq!(Supercell::of_length(&crystal, 12.0, Some(40)).unwrap().len(), 32);
    assert!(displacements(&crystal, &supercell, -0.01).is_err());
    // One direction of an atom without symmetry determines nothing.
    let d = Displacement { atom: 0, vector: [0.01, 0.0, 0.0] };
    let low =
        Structure::crystal(Cell::new([[4.0, 0.0, 0.0], [0.3, 5.0, 0.0], [0.2, 0.5, 6.0]]), vec![1, 8], vec![[0.0; 3], [1.0, 1.3, 1.7]]);
    let triclinic = Crystal::new(&low, 1e-3).unwrap();
    let one = Supercell::new(&triclinic, matrix::to_integers(&matrix::IDENTITY, 0.1).unwrap()).unwrap();
    let error = ForceConstants::fit(&triclinic, &one, &[d], &[vec![[0.0; 3]; 2]]).unwrap_err();
    assert!(error.to_string().contains("do not determine"), "{error}");
    assert!(displacements(&triclinic, &one, 0.01).unwrap().len() == 12);
}

/// Names and lengths of all lines for crystals of every Bravais lattice, in two choices of cell and orientation: `tests/phonons/make_paths.py` asks seekpath.
#[test]
fn standard_paths_of_all_lattices() {
    let entries: serde_json::Value = serde_json::from_str(&data(".", "paths.json")).unwrap();
    let mut wrong = Vec::new();
    for (k, entry) in entries.as_array().unwrap().iter().enumerate() {
        let cell = rows(&entry["cell"]);
        let numbers = entry["numbers"].as_array().unwrap().iter().map(|z| u8::try_from(z.as_u64().unwrap()).unwrap()).collect();
        let unit = Structure::crystal(Cell::new([cell[0], cell[1], cell[2]]), numbers, rows(&entry["positions"]));
        let crystal = Crystal::new(&unit, 1e-4).unwrap();
        let path = BandPath::standard(&crystal);
        let place = format!("{k}: {} {}", entry["space_group"], entry["kind"]);
        if path.kind != entry["kind"].as_str().unwrap() {
            wrong.push(format!("{place} is {}", path.kind));
            continue;
        }
        let reciprocal = matrix::transpose(&matrix::inverse(&crystal.primitive.vectors));
        let length = |q: [f64; 3]| matrix::norm(matrix::row_times(q, &reciprocal));
        let found: Vec<_> = path.pieces.iter().flat_map(|p| p.windows(2)).collect();
        let lines = entry["lines"].as_array().unwrap();
        assert_eq!(found.len(), lines.len(), "{place}");
        for ((ends, line), lengths) in found.iter().zip(lines).zip(entry["lengths"].as_array().unwrap()) {
            let names = (ends[0].label.as_str(), ends[1].label.as_str());
            assert_eq!(names, (line[0].as_str().unwrap(), line[1].as_str().unwrap()), "{place}");
            let differences = [
                length(ends[0].q) - lengths[0].as_f64().unwrap(),
                length(matrix::subtract(ends[1].q, ends[0].q)) - lengths[1].as_f64().unwrap(),
            ];
            if differences.iter().any(|d| d.abs() > 1e-6) {
                wrong.push(format!("{place} {names:?}: {differences:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
