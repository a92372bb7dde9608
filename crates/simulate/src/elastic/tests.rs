use tesseral_atoms::units::GPA;

use super::*;
use crate::analytic::{Ending, LennardJones};

/// Between shells of neighbours, which strains of a hundredth do not move across it.
const CUTOFF: f64 = 7.9;

fn argon() -> LennardJones {
    LennardJones::new(0.0104, 3.4, CUTOFF, Ending::ShiftedForce)
}

/// Face-centred cubic, one atom.
fn fcc(a: f64) -> Structure {
    let h = a / 2.0;
    Structure::crystal(Cell::new([[0.0, h, h], [h, 0.0, h], [h, h, 0.0]]), vec![18], vec![[0.1, 0.2, 0.3]])
}

/// Hexagonal close-packed, two atoms.
fn hcp(a: f64, c: f64) -> Structure {
    let cell = Cell::new([[a, 0.0, 0.0], [-a / 2.0, a * 0.75f64.sqrt(), 0.0], [0.0, 0.0, c]]);
    let second = cell.cartesian([1.0 / 3.0, 2.0 / 3.0, 0.5]);
    Structure::crystal(cell, vec![18; 2], vec![[0.0; 3], second])
}

fn settings() -> Settings {
    Settings { amplitudes: vec![5e-4, 1e-3], internal: Some(Internal { tolerance: 1e-9, ..Internal::default() }), symmetry: Some(1e-4) }
}

fn compute(structure: &Structure, settings: &Settings) -> Elasticity {
    elasticity(structure, settings, &mut argon(), &mut Ledger::in_memory(), &mut |_, _| false).unwrap().unwrap()
}

/// Σ over neighbours of one atom of a Bravais lattice: pressure −(1/6V) Σ r u′, and Born's sum C_ijkl = (1/2V) Σ (u″ − u′/r) r_i r_j r_k r_l / r².
fn lattice_sums(a: f64) -> (f64, Voigt6) {
    let lj = argon();
    let volume = a.powi(3) / 4.0;
    let (mut pressure, mut c) = (0.0, [[0.0; 6]; 6]);
    for n in 0..13 * 13 * 13 {
        let m = [n % 13 - 6, n / 13 % 13 - 6, n / 169 - 6];
        if (m[0] + m[1] + m[2]) % 2 != 0 || m == [0; 3] {
            continue;
        }
        let v = m.map(|k| f64::from(k) * a / 2.0);
        let r = v.iter().map(|x| x * x).sum::<f64>().sqrt();
        if r >= CUTOFF {
            continue;
        }
        let slope = lj.pair(r).1;
        let s6 = (3.4 / r).powi(6);
        let curvature = 24.0 * 0.0104 * (26.0 * s6 * s6 - 7.0 * s6) / (r * r);
        pressure -= r * slope / (6.0 * volume);
        for v1 in 0..6 {
            for v2 in 0..6 {
                let ((i, j), (k, l)) = (tensor::VOIGT[v1], tensor::VOIGT[v2]);
                c[v1][v2] += (curvature - slope / r) * v[i] * v[j] * v[k] * v[l] / (2.0 * volume * r * r);
            }
        }
    }
    (pressure, c)
}

/// The lattice constant without pressure, by bisection of the lattice sum.
fn at_rest() -> f64 {
    let (mut low, mut high) = (5.0, 5.6);
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        if lattice_sums(middle).0 > 0.0 { low = middle } else { high = middle }
    }
    low
}

fn largest_difference(a: &Voigt6, b: &Voigt6) -> f64 {
    a.as_flattened().iter().zip(b.as_flattened()).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max)
}

#[test]
fn a_cubic_crystal_has_the_constants_of_the_lattice_sums() {
    let a = at_rest();
    let found = compute(&fcc(a), &settings());
    let (pressure, exact) = lattice_sums(a);
    assert!(pressure.abs() < 1e-12 && found.initial_stress.as_flattened().iter().all(|s| s.abs() < 1e-10));
    let scale = exact[0][0];
    assert!(largest_difference(&found.stiffness, &exact) < 1e-7 * scale, "{:?} {exact:?}", found.stiffness);
    assert!(largest_difference(&found.response, &exact) < 1e-7 * scale);
    // Cauchy's relation of central forces without stress, and numbers of the right size: argon has about 4.2, 2.4 and 2.2 GPa at 0 K.
    assert!((exact[0][1] - exact[3][3]).abs() < 1e-9 * scale && (2.0..6.0).contains(&(scale / GPA)));
    assert_eq!((found.group.number, found.group.order(), found.group.independent_constants(), found.strained), (225, 48, 3, 8));
    let names: Vec<&str> = found.constants.iter().map(|c| c.0.as_str()).collect();
    assert_eq!(names, ["C11", "C12", "C44"]);
    assert!(found.is_stable() && found.unrelaxed.is_empty());
    // Bulk modulus of a cubic crystal: all averages agree.
    let bulk = (exact[0][0] + 2.0 * exact[0][1]) / 3.0;
    let moduli = found.moduli.unwrap();
    assert!([moduli.voigt.bulk, moduli.reuss.bulk, moduli.hill.bulk].iter().all(|k| (k - bulk).abs() < 1e-7 * scale));
    // Debye temperature of Lennard-Jones argon: about 90 K (experiment 92).
    let sound = found.sound.unwrap();
    assert!((80.0..100.0).contains(&sound.debye_temperature), "{sound:?}");
}

#[test]
fn pressure_is_told_apart_from_stiffness() {
    for a in [5.1, 5.3] {
        let found = compute(&fcc(a), &settings());
        let (pressure, exact) = lattice_sums(a);
        assert!((found.initial_stress[0][0] + pressure).abs() < 1e-10);
        assert!(largest_difference(&found.stiffness, &exact) < 1e-6 * exact[0][0], "{a}");
        // B11 = C11 − p, B12 = C12 + p, B44 = C44 − p (Barron and Klein).
        let expected = [exact[0][0] - pressure, exact[0][1] + pressure, exact[3][3] - pressure];
        for (b, e) in [found.response[0][0], found.response[0][1], found.response[3][3]].iter().zip(expected) {
            assert!((b - e).abs() < 1e-6 * exact[0][0]);
        }
        // And B11 is what the Cauchy stress does: −V dp/dV is its bulk modulus.
        let slope = tesseral_testkit::slope(1e-3, |h| lattice_sums(a * (1.0 + h)).0) / 3.0;
        let bulk = (found.response[0][0] + 2.0 * found.response[0][1]) / 3.0;
        assert!((bulk + slope).abs() < 1e-6 * bulk, "{bulk} {slope}");
    }
}

#[test]
fn a_turned_crystal_has_the_turned_tensor() {
    // A turn about a skew axis.
    let (s, c) = 0.7f64.sin_cos();
    let x = Matrix3::new(1.0, 0.0, 0.0, 0.0, c, -s, 0.0, s, c);
    let (s, c) = 1.1f64.sin_cos();
    let turn = Matrix3::new(c, -s, 0.0, s, c, 0.0, 0.0, 0.0, 1.0) * x;
    let rows: [[f64; 3]; 3] = std::array::from_fn(|i| std::array::from_fn(|j| turn[(i, j)]));
    let apply = |v: [f64; 3]| std::array::from_fn(|i| (0..3).map(|j| rows[i][j] * v[j]).sum());
    let upright = hcp(3.74, 6.0);
    let mut turned = upright.clone();
    turned.positions = turned.positions.into_iter().map(apply).collect();
    turned.cell = Cell::new(turned.cell.vectors.map(apply));
    let (one, two) = (compute(&upright, &settings()), compute(&turned, &settings()));
    assert!(largest_difference(&rotated(&one.stiffness, &rows), &two.stiffness) < 1e-6 * one.stiffness[0][0]);
    assert!(one.constants.iter().zip(&two.constants).all(|(a, b)| a.0 == b.0 && (a.1 - b.1).abs() < 1e-6 * one.stiffness[0][0]));
    assert_eq!((one.group.number, one.group.independent_constants()), (194, 5));
    let (a, b) = (one.sound.unwrap().debye_temperature, two.sound.unwrap().debye_temperature);
    assert!((a - b).abs() < 1e-4);
}

/// In the hexagonal close-packed crystal atoms move where it is sheared in the plane: constants against second derivatives of relaxed energies.
#[test]
fn relaxed_ions_agree_with_energies() {
    let crystal = hcp(3.75, 6.05);
    let found = compute(&crystal, &settings());
    let clamped = compute(&crystal, &Settings { internal: None, ..settings() });
    // E(F) with FᵀF = 1 + 2 η.
    let energy = |eta: [f64; 6]| {
        let metric = Matrix3::identity() + 2.0 * Matrix3::from_fn(|i, j| strain_matrix(eta)[i][j]);
        let eigen = metric.symmetric_eigen();
        let root = eigen.eigenvectors * Matrix3::from_diagonal(&eigen.eigenvalues.map(f64::sqrt)) * eigen.eigenvectors.transpose()
            - Matrix3::identity();
        let structure = strained(&crystal, std::array::from_fn(|i| std::array::from_fn(|j| root[(i, j)])));
        let mut ledger = Ledger::in_memory();
        let job = [Job { index: 0, name: String::new(), structure }];
        assert!(settle(&job, settings().internal.as_ref(), &[], &mut argon(), &mut ledger, &mut |_, _| false).unwrap());
        ledger.get(0).unwrap().energy / crystal.cell.volume()
    };
    let h = 2e-3;
    let along = |v: usize, w: usize| {
        // (d/dv)(d/dw) by a five-point stencil along the diagonal directions.
        let line = |a: f64, b: f64| {
            let at = |t: f64| {
                let mut eta = [0.0; 6];
                eta[v] += a * t;
                eta[w] += b * t;
                energy(eta)
            };
            (-at(2.0 * h) + 16.0 * at(h) - 30.0 * at(0.0) + 16.0 * at(-h) - at(-2.0 * h)) / (12.0 * h * h)
        };
        if v == w { line(1.0, 0.0) } else { (line(1.0, 1.0) - line(1.0, -1.0)) / 4.0 }
    };
    let scale = found.stiffness[0][0];
    for (v, w) in [(0, 0), (0, 1), (0, 2), (2, 2), (3, 3), (5, 5)] {
        let (exact, c) = (along(v, w), found.stiffness[v][w]);
        assert!((exact - c).abs() < 2e-6 * scale, "{v}{w}: {exact} {c}");
    }
    assert!((found.stiffness[5][5] - (found.stiffness[0][0] - found.stiffness[0][1]) / 2.0).abs() < 1e-8 * scale);
    // Relaxation softens the shear in the plane, and does nothing along c.
    assert!(found.stiffness[5][5] < 0.95 * clamped.stiffness[5][5], "{} {}", found.stiffness[5][5], clamped.stiffness[5][5]);
    assert!((found.stiffness[2][2] - clamped.stiffness[2][2]).abs() < 1e-6 * scale);
}

#[test]
fn fewer_strains_give_the_same_tensor() {
    let crystal = hcp(3.75, 6.05);
    let with = compute(&crystal, &settings());
    let without = compute(&crystal, &Settings { symmetry: None, ..settings() });
    assert!(with.strained < without.strained && without.strained == 24);
    assert!(largest_difference(&with.stiffness, &without.stiffness) < 1e-6 * with.stiffness[0][0]);
    assert!(without.asymmetry < 1e-6 * with.stiffness[0][0] && with.symmetry_residual < 1e-6 * with.stiffness[0][0]);
    assert_eq!((without.group.independent_constants(), without.constants.len()), (21, 21));
}

/// The numbers of independent constants of Nye's table, on crystals of every system.
#[test]
fn independent_constants_of_crystal_systems() {
    let cases: [([f64; 3], [f64; 3], Vec<[f64; 3]>, CrystalSystem, usize); 7] = [
        ([4.0, 4.3, 4.9], [80.0, 95.0, 105.0], vec![], CrystalSystem::Triclinic, 21),
        ([4.0, 4.3, 4.9], [90.0, 105.0, 90.0], vec![], CrystalSystem::Monoclinic, 13),
        ([4.0, 4.3, 4.9], [90.0; 3], vec![], CrystalSystem::Orthorhombic, 9),
        ([4.0, 4.0, 4.9], [90.0; 3], vec![], CrystalSystem::Tetragonal, 6),
        // C4 about c: four atoms in a pinwheel at two heights.
        (
            [4.0, 4.0, 4.9],
            [90.0; 3],
            vec![[0.1, 0.3, 0.2], [-0.3, 0.1, 0.2], [-0.1, -0.3, 0.2], [0.3, -0.1, 0.2]],
            CrystalSystem::Tetragonal,
            7,
        ),
        ([4.0, 4.0, 4.0], [75.0; 3], vec![], CrystalSystem::Trigonal, 6),
        ([4.0, 4.0, 4.9], [90.0, 90.0, 120.0], vec![], CrystalSystem::Hexagonal, 5),
    ];
    for (lengths, angles, more, system, count) in cases {
        let cell = Cell::from_parameters(lengths, angles).unwrap();
        let mut positions = vec![[0.0; 3]];
        positions.extend(more.into_iter().map(|s| cell.cartesian(s)));
        let numbers = (0..positions.len()).map(|i| if i == 0 { 18 } else { 10 }).collect();
        let group = PointGroup::of(&Structure::crystal(cell, numbers, positions), 1e-4).unwrap();
        assert_eq!((group.system, group.independent_constants()), (system, count));
        assert_eq!(system.constants(count).len(), count);
    }
}

/// An isotropic medium: every average is the same, and Anderson's formula by hand. Aluminium-like numbers.
#[test]
fn averages_of_an_isotropic_medium() {
    let (lambda, mu) = (60.0 * GPA, 26.0 * GPA);
    let mut c = [[0.0; 6]; 6];
    for v in 0..3 {
        for w in 0..3 {
            c[v][w] = lambda;
        }
        c[v][v] += 2.0 * mu;
        c[v + 3][v + 3] = mu;
    }
    let moduli = Moduli::of(&c).unwrap();
    for average in [moduli.voigt, moduli.reuss, moduli.hill] {
        assert!((average.bulk - lambda - 2.0 / 3.0 * mu).abs() < 1e-12 && (average.shear - mu).abs() < 1e-12);
    }
    assert!(moduli.anisotropy.abs() < 1e-12);
    assert!((moduli.hill.poisson() - lambda / (2.0 * (lambda + mu))).abs() < 1e-12);
    assert!((moduli.hill.young() - mu * (3.0 * lambda + 2.0 * mu) / (lambda + mu)).abs() < 1e-12);
    // ρ = 2700 kg/m³: v_l = √(112e9/2700), v_t = √(26e9/2700); n = 6.02e28/m³.
    let (volume, mass) = (4.0 / 0.0602, 2700.0 * 4.0 / 0.0602 * 1e-30 / 1.660_539_066_60e-27);
    let sound = Sound::of(&moduli.hill, volume, 4, mass).unwrap();
    assert!((sound.longitudinal - (112e9f64 / 2700.0).sqrt()).abs() < 0.01 && (sound.transverse - (26e9f64 / 2700.0).sqrt()).abs() < 0.01);
    let by_hand = 6.626_070_15e-34 / 1.380_649e-23 * (3.0 * 6.02e28 / (4.0 * std::f64::consts::PI)).cbrt() * sound.mean;
    assert!((sound.debye_temperature - by_hand).abs() < 1e-6 * by_hand && (390.0..430.0).contains(&by_hand), "{by_hand}");
    let mut unstable = c;
    unstable[3][3] = -1.0;
    assert_eq!(modes(&unstable)[0].name(), "0.71 yz");
    assert_eq!(modes(&c)[5].name(), "volume");
    assert!(Sound::of(&Average { bulk: 1.0, shear: -1.0 }, 1.0, 1, 1.0).is_none());
}

#[test]
fn what_makes_no_sense_is_said() {
    let mut molecule = fcc(5.3);
    molecule.pbc = [false; 3];
    assert!(check(&molecule, &settings()).unwrap_err().to_string().contains("periodic in three directions"));
    for amplitudes in [vec![], vec![0.0], vec![0.5], vec![f64::NAN], vec![0.01, 0.01]] {
        assert!(check(&fcc(5.3), &Settings { amplitudes, ..settings() }).is_err());
    }
}

/// A run that is stopped after every structure and goes on gives the same bits.
#[test]
fn interrupted_and_resumed_to_the_bit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("evaluations.jsonl");
    let crystal = hcp(3.75, 6.05);
    let whole = compute(&crystal, &settings());
    let run = serde_json::json!({"structure": "hcp"});
    let mut ledger = Ledger::create(&path, &run).unwrap();
    let mut times = 0;
    let resumed = loop {
        // As soon as something new is finished.
        let before = ledger.len();
        let mut tick = |done: usize, total: usize| done > before && done < total;
        if let Some(result) = elasticity(&crystal, &settings(), &mut argon(), &mut ledger, &mut tick).unwrap() {
            break result;
        }
        times += 1;
        drop(ledger);
        // As a kill in the middle of a line leaves it.
        let mut text = std::fs::read(&path).unwrap();
        text.extend_from_slice(b"{\"index\":3,\"resu");
        std::fs::write(&path, text).unwrap();
        ledger = Ledger::resume(&path, &run).unwrap();
        assert!(times < 100);
    };
    assert!(times > 0);
    assert_eq!(whole.stiffness, resumed.stiffness);
    let error = Ledger::resume(&path, &serde_json::json!({"structure": "fcc"})).unwrap_err();
    assert!(error.to_string().contains("another structure"), "{error}");
}
