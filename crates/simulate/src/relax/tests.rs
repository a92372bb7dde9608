use tesseral_atoms::units::GPA;
use tesseral_atoms::{Cell, Evaluation, ForceError, ForceField, Structure};
use tesseral_testkit::{Random, slope};

use super::*;
use crate::analytic::{Ending, LennardJones};

fn reduced(cutoff: f64) -> LennardJones {
    LennardJones::new(1.0, 1.0, cutoff, Ending::ShiftedForce)
}

fn argon() -> LennardJones {
    LennardJones::new(0.0104, 3.4, 8.5, Ending::ShiftedForce)
}

/// n₁ × n₂ × n₃ conventional cells of a face-centred cubic crystal.
fn fcc(a: f64, repeats: [usize; 3]) -> Structure {
    let mut positions = Vec::new();
    for i in 0..repeats[0] {
        for j in 0..repeats[1] {
            for k in 0..repeats[2] {
                for s in [[0.0, 0.0, 0.0], [0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]] {
                    positions.push([a * (i as f64 + s[0]), a * (j as f64 + s[1]), a * (k as f64 + s[2])]);
                }
            }
        }
    }
    let [x, y, z] = repeats.map(|n| n as f64 * a);
    Structure::crystal(Cell::orthorhombic(x, y, z), vec![18; positions.len()], positions)
}

fn rattle(structure: &mut Structure, amplitude: f64, seed: u64) {
    let mut random = Random::new(seed);
    structure.positions.iter_mut().flatten().for_each(|x| *x += amplitude * random.number());
}

/// A distorted crystal of eight atoms with nothing symmetric about it.
fn distorted() -> Structure {
    let mut structure = fcc(5.3, [2, 1, 1]);
    structure.cell = Cell::new([[10.7, 0.1, 0.0], [0.0, 5.2, -0.2], [0.05, 0.0, 5.4]]);
    rattle(&mut structure, 0.15, 7);
    structure
}

const MODES: [(CellFreedom, StrainMask); 6] = [
    (CellFreedom::Fixed, [true; 6]),
    (CellFreedom::Full, [true; 6]),
    (CellFreedom::Isotropic, [true; 6]),
    (CellFreedom::FixedVolume, [true; 6]),
    (CellFreedom::Full, [true, true, false, false, false, true]),
    (CellFreedom::FixedVolume, [true, false, true, false, true, false]),
];

#[test]
fn the_gradient_is_the_derivative_of_the_enthalpy() {
    let pressure = 0.7 * GPA;
    for (freedom, mask) in MODES {
        let structure = distorted();
        let mut movable = vec![[true; 3]; 8];
        movable[2] = [false; 3];
        movable[3] = [true, false, true];
        let coordinates = Coordinates::new(&structure, freedom, mask, movable.clone()).unwrap();
        // A step away from the beginning, along what may move.
        let mut random = Random::new(11);
        let mut way: Vec<[f64; 3]> =
            (0..8 + coordinates.cell_rows()).map(|i| [0; 3].map(|_| if i < 8 { 0.1 } else { 0.6 } * random.number())).collect();
        coordinates.confine(&mut way);
        let mut x = coordinates.start(&structure);
        optimiser::add(&mut x, 1.0, &way);
        let enthalpy = |x: &[[f64; 3]]| {
            let mut there = structure.clone();
            coordinates.place(x, &mut there);
            argon().evaluate(&there).unwrap().energy + pressure * there.cell.volume()
        };
        let mut there = structure.clone();
        coordinates.place(&x, &mut there);
        if freedom.moves() {
            assert!(there.cell.vectors.iter().flatten().zip(structure.cell.vectors.iter().flatten()).any(|(a, b)| (a - b).abs() > 0.01));
        }
        let at = argon().evaluate(&there).unwrap();
        let gradient = coordinates.gradient(&x, there.cell.volume(), &at.forces, at.stress, pressure);
        for _ in 0..12 {
            let mut along: Vec<[f64; 3]> = x.iter().map(|_| [0; 3].map(|_| random.number())).collect();
            coordinates.confine(&mut along);
            let expected = slope(1e-4, |h| {
                let mut moved = x.clone();
                optimiser::add(&mut moved, h, &along);
                enthalpy(&moved)
            });
            let found = optimiser::dot(&gradient.rows, &along);
            assert!((found - expected).abs() < 1e-8 * (1.0 + expected.abs()), "{freedom:?} {mask:?}: {found} {expected}");
        }
        // Nothing pulls at what may not move.
        let mut confined = gradient.rows.clone();
        coordinates.confine(&mut confined);
        for (a, b) in confined.iter().flatten().zip(gradient.rows.iter().flatten()) {
            assert!((a - b).abs() < 1e-14);
        }
        assert_eq!(gradient.rows[2], [0.0; 3]);
    }
}

#[test]
fn published_minima_of_clusters() {
    // Energies of the Cambridge Cluster Database (Wales and Doye, J. Phys. Chem. A 101, 5111 (1997)).
    let golden = f64::midpoint(1.0, 5f64.sqrt());
    let mut icosahedron = vec![[0.0; 3]];
    for (a, b) in [(1.0, golden), (-1.0, golden), (1.0, -golden), (-1.0, -golden)] {
        icosahedron.extend([[0.0, a, b], [a, b, 0.0], [b, 0.0, a]].map(|v| v.map(|x| 0.6 * x)));
    }
    // The truncated octahedron: the 38 sites of a face-centred lattice nearest to the centre of an octahedral hole.
    let mut sites = Vec::new();
    for i in -4i32..5 {
        for j in -4..5 {
            for k in -4..5 {
                if (i + j + k).rem_euclid(2) == 1 && i * i + j * j + k * k <= 5 {
                    sites.push([i, j, k].map(|x| 0.77 * f64::from(x)));
                }
            }
        }
    }
    for (positions, expected) in [(icosahedron, -44.326801), (sites, -173.928427)] {
        let n = positions.len();
        let mut cluster = Structure::molecule(vec![18; n], positions);
        rattle(&mut cluster, 0.02, 5);
        for method in [Method::Lbfgs, Method::PreconditionedLbfgs, Method::Fire2006, Method::Fire] {
            let settings = Settings { method, max_force: 1e-4, steps: 2000, max_step: 0.1, ..Settings::default() };
            let relaxed = relax(&cluster, &settings, &[], &mut reduced(1000.0)).unwrap();
            assert_eq!(relaxed.ended(), Some(&Ended::Converged), "{n} {method:?}");
            let energy = relaxed.last().unwrap().energy;
            assert!((energy - expected).abs() < 2e-6, "{n} {method:?}: {energy} {expected}");
        }
    }
}

/// Energy and its derivative by the lattice constant, per atom, of an fcc crystal: a plain sum over sites.
fn lattice_sum(field: &LennardJones, a: f64) -> (f64, f64) {
    let reach = (2.0 * field.cutoff / a).ceil() as i32 + 1;
    let (mut energy, mut slope) = (0.0, 0.0);
    for i in -reach..=reach {
        for j in -reach..=reach {
            for k in -reach..=reach {
                let r = 0.5 * a * f64::from(i * i + j * j + k * k).sqrt();
                if (i + j + k) % 2 == 0 && r > 0.0 && r < field.cutoff {
                    let (u, du) = field.pair(r);
                    energy += 0.5 * u;
                    slope += 0.5 * du * r / a;
                }
            }
        }
    }
    (energy, slope)
}

/// Where −dE/dV is a pressure, by bisection.
fn lattice_constant(field: &LennardJones, pressure: f64) -> f64 {
    let (mut low, mut high) = (1.3, 1.7);
    for _ in 0..60 {
        let a = f64::midpoint(low, high);
        // V = a³/4 an atom.
        if -lattice_sum(field, a).1 / (0.75 * a * a) > pressure { low = a } else { high = a }
    }
    low
}

#[test]
fn lattice_constants_and_pressure() {
    // Without a cutoff: nearest neighbours at (2 A₁₂ / A₆)^(1/6) σ, A₁₂ = 12.13188, A₆ = 14.45392 (Kittel, Introduction to Solid State Physics, chapter 3).
    let ideal = 2f64.sqrt() * (2.0f64 * 12.13188 / 14.45392).powf(1.0 / 6.0);
    let field = reduced(6.0);
    assert!((lattice_constant(&reduced(8.0), 0.0) / ideal - 1.0).abs() < 1e-3);
    for pressure in [0.0, 5.0, -1.0] {
        let expected = lattice_constant(&field, pressure);
        let h = 0.8;
        // A strained primitive cell.
        let cell = Cell::new([[0.02, h, h], [h, 0.0, h + 0.03], [h, h - 0.01, 0.01]]);
        let start = Structure::crystal(cell, vec![18], vec![[0.1, 0.2, 0.3]]);
        for method in [Method::Lbfgs, Method::Fire2006, Method::Fire] {
            let settings = Settings { method, cell: CellFreedom::Full, max_stress: 1e-7, pressure, ..Settings::default() };
            let relaxed = relax(&start, &settings, &[], &mut reduced(6.0)).unwrap();
            assert_eq!(relaxed.ended(), Some(&Ended::Converged), "{method:?}");
            let found = (4.0 * relaxed.structure().cell.volume()).cbrt();
            assert!((found - expected).abs() < 1e-6, "{method:?} {pressure}: {found} {expected}");
            assert!(relaxed.structure().cell.angles().iter().all(|a| (a - 60.0).abs() < 1e-4), "{:?}", relaxed.structure().cell);
            let stress = relaxed.evaluation().unwrap().stress.unwrap();
            assert!((stress[0][0] + pressure).abs() < 1e-6 && stress[0][1].abs() < 1e-6);
        }
    }
}

#[test]
fn what_is_held_is_kept() {
    let start = distorted();
    let mut movable = vec![[true; 3]; 8];
    movable[1] = [false; 3];
    movable[6] = [false, true, false];
    for (freedom, mask) in MODES {
        for method in [Method::Lbfgs, Method::PreconditionedLbfgs, Method::Fire2006] {
            let settings = Settings { method, cell: freedom, strain_mask: mask, steps: 25, max_force: 1e-6, ..Settings::default() };
            let relaxed = relax(&start, &settings, &movable, &mut argon()).unwrap();
            let end = relaxed.structure();
            let (cell, before) = (end.cell, start.cell);
            match freedom {
                CellFreedom::Fixed => {
                    assert_eq!(cell, before);
                    assert_eq!(end.positions[1], start.positions[1]);
                    assert_eq!((end.positions[6][0], end.positions[6][2]), (start.positions[6][0], start.positions[6][2]));
                    assert_ne!(end.positions[6][1], start.positions[6][1]);
                }
                CellFreedom::FixedVolume => assert!((cell.volume() / before.volume() - 1.0).abs() < 1e-13),
                CellFreedom::Isotropic => {
                    let ratio = cell.vectors[0][0] / before.vectors[0][0];
                    assert!((ratio - 1.0).abs() > 1e-4);
                    for (a, b) in cell.vectors.iter().flatten().zip(before.vectors.iter().flatten()) {
                        assert!((a - ratio * b).abs() < 1e-12);
                    }
                }
                CellFreedom::Full => assert!((cell.volume() / before.volume() - 1.0).abs() > 1e-4),
            }
            // Fractional coordinates are what is held where the cell moves.
            for (a, b) in cell.fractional(end.positions[1]).unwrap().iter().zip(before.fractional(start.positions[1]).unwrap()) {
                assert!((a - b).abs() < 1e-13);
            }
            if mask[2..5] == [false; 3] {
                for (a, b) in cell.vectors.iter().zip(&before.vectors) {
                    assert!((a[2] - b[2]).abs() < 1e-14);
                }
            }
        }
    }
}

/// Rutile: P4₂/mnm, number 136, one free coordinate.
fn rutile(u: f64) -> Structure {
    let cell = Cell::orthorhombic(4.6, 4.6, 2.95);
    let fractional = [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5], [u, u, 0.0], [-u, -u, 0.0], [0.5 + u, 0.5 - u, 0.5], [0.5 - u, 0.5 + u, 0.5]];
    Structure::crystal(cell, vec![22, 22, 8, 8, 8, 8], fractional.iter().map(|s| cell.cartesian(*s)).collect())
}

#[test]
fn averages_over_the_group() {
    let mut structure = rutile(0.29);
    let symmetry = Symmetry::impose(&mut structure, 1e-3).unwrap();
    assert_eq!((symmetry.number, symmetry.symbol.as_str(), symmetry.order()), (136, "P4_2/mnm", 16));
    for (a, b) in structure.positions.iter().flatten().zip(rutile(0.29).positions.iter().flatten()) {
        assert!((a - b).abs() < 1e-12);
    }
    // Forces and stress of a symmetric structure are symmetric already.
    let mut field = LennardJones::new(0.1, 2.0, 6.0, Ending::ShiftedForce);
    let at = field.evaluate(&structure).unwrap();
    let (mut forces, mut stress) = (at.forces.clone(), at.stress.unwrap());
    assert!(forces.iter().flatten().any(|f| f.abs() > 0.1));
    symmetry.average_vectors(&mut forces);
    symmetry.average_tensor(&mut stress);
    for (a, b) in forces.iter().flatten().zip(at.forces.iter().flatten()) {
        assert!((a - b).abs() < 1e-12, "{a} {b}");
    }
    for (a, b) in stress.iter().flatten().zip(at.stress.unwrap().iter().flatten()) {
        assert!((a - b).abs() < 1e-12);
    }
    // Of anything, averages are along the one free coordinate; averaging again changes nothing.
    let mut random = Random::new(2);
    let mut any: Vec<[f64; 3]> = (0..6).map(|_| [random.number(), random.number(), random.number()]).collect();
    symmetry.average_vectors(&mut any);
    assert!(any[0].iter().chain(&any[1]).all(|x| x.abs() < 1e-14));
    assert!((any[2][0] - any[2][1]).abs() < 1e-14 && any[2][2].abs() < 1e-14 && (any[2][0] + any[3][0]).abs() < 1e-14);
    let mut again = any.clone();
    symmetry.average_vectors(&mut again);
    assert!(any.iter().flatten().zip(again.iter().flatten()).all(|(a, b)| (a - b).abs() < 1e-14));
    let mut tensor = [[1.0, 0.5, 0.2], [0.1, 3.0, 0.7], [0.4, 0.3, 5.0]];
    symmetry.average_tensor(&mut tensor);
    for (k, row) in tensor.iter().enumerate() {
        for (l, x) in row.iter().enumerate() {
            let expected = if k != l { 0.0 } else { [2.0, 2.0, 5.0][k] };
            assert!((x - expected).abs() < 1e-14);
        }
    }
}

#[test]
fn supercells_have_translations() {
    let mut structure = fcc(5.3, [2, 2, 1]);
    rattle(&mut structure, 1e-4, 3);
    let symmetry = Symmetry::impose(&mut structure, 1e-2).unwrap();
    // The cell is tetragonal: 16 of the 48 rotations, 16 translations.
    assert_eq!((symmetry.number, symmetry.order()), (225, 16 * 16));
    for (a, b) in structure.positions.iter().zip(&fcc(5.3, [2, 2, 1]).positions) {
        assert!((0..3).all(|k| (a[k] - b[k]).abs() < 2e-4));
    }
    let mut any = vec![[1.0, -2.0, 0.5]; 16];
    any[3] = [0.0; 3];
    symmetry.average_vectors(&mut any);
    assert!(any.iter().flatten().all(|x| x.abs() < 1e-14), "{any:?}");
}

#[test]
fn the_space_group_is_kept() {
    let mut start = rutile(0.28);
    rattle(&mut start, 2e-3, 9);
    let field = || LennardJones::new(0.1, 2.0, 6.0, Ending::ShiftedForce);
    for method in [Method::Lbfgs, Method::Fire, Method::PreconditionedLbfgs] {
        let settings = Settings {
            method,
            cell: CellFreedom::Full,
            symmetry: Some(0.02),
            max_force: 1e-4,
            max_stress: 1e-6,
            steps: 60,
            ..Settings::default()
        };
        let relaxed = relax(&start, &settings, &[], &mut field()).unwrap();
        assert!(relaxed.steps() > 5);
        assert_eq!(space_group(relaxed.structure(), 1e-7).unwrap().0, 136, "{method:?}: {:?}", relaxed.ended());
        // Which is not so without.
        let relaxed = relax(&start, &Settings { symmetry: None, ..settings }, &[], &mut field()).unwrap();
        assert_ne!(space_group(relaxed.structure(), 1e-7).unwrap().0, 136);
    }
}

#[test]
fn symmetry_and_constraints_must_agree() {
    let settings = Settings { symmetry: Some(1e-3), cell: CellFreedom::Full, ..Settings::default() };
    let mut movable = vec![[true; 3]; 6];
    movable[2] = [false; 3];
    let error = Relaxation::new(rutile(0.3), settings.clone(), movable.clone()).unwrap_err();
    assert!(error.to_string().contains("does not keep what is held of atom"), "{error}");
    movable[2..].fill([false; 3]);
    Relaxation::new(rutile(0.3), settings.clone(), movable).unwrap();
    let masked = Settings { strain_mask: [true, false, true, true, true, true], ..settings.clone() };
    let error = Relaxation::new(rutile(0.3), masked, Vec::new()).unwrap_err();
    assert!(error.to_string().contains("does not keep the mask"), "{error}");
    Relaxation::new(rutile(0.3), Settings { strain_mask: [true, true, false, false, false, false], ..settings }, Vec::new()).unwrap();
}

#[test]
fn springs_save_evaluations_in_long_crystals() {
    // A long crystal, bent along its length: what is slow without a preconditioner.
    let mut long = fcc(5.3, [1, 1, 40]);
    let length = long.cell.vectors[2][2];
    for r in &mut long.positions {
        let phase = 2.0 * std::f64::consts::PI * r[2] / length;
        r[0] += 0.5 * phase.sin();
        r[2] += 0.8 * phase.cos();
    }
    rattle(&mut long, 0.05, 1);
    let count = |method| {
        let settings = Settings { method, max_force: 1e-4, steps: 2000, ..Settings::default() };
        let relaxed = relax(&long, &settings, &[], &mut argon()).unwrap();
        assert_eq!(relaxed.ended(), Some(&Ended::Converged));
        relaxed.steps()
    };
    let (plain, preconditioned, fire) = (count(Method::Lbfgs), count(Method::PreconditionedLbfgs), count(Method::Fire));
    println!("steps: L-BFGS {plain}, preconditioned {preconditioned}, FIRE {fire}");
    assert!(2 * preconditioned < plain && plain < fire, "{preconditioned} {plain} {fire}");
    assert_eq!(count(Method::Auto), preconditioned);
}

#[test]
fn going_on_from_a_saved_state_is_the_same_to_the_bit() {
    let mut titania = rutile(0.28);
    rattle(&mut titania, 2e-3, 9);
    let oxide = || LennardJones::new(0.1, 2.0, 6.0, Ending::ShiftedForce);
    for (method, freedom, symmetry) in [
        (Method::Lbfgs, CellFreedom::Full, None),
        (Method::PreconditionedLbfgs, CellFreedom::FixedVolume, None),
        (Method::Fire2006, CellFreedom::Isotropic, None),
        (Method::Fire, CellFreedom::Fixed, None),
        (Method::Lbfgs, CellFreedom::Full, Some(0.02)),
    ] {
        let (start, field) = if symmetry.is_some() { (titania.clone(), oxide()) } else { (distorted(), argon()) };
        let settings = Settings { method, cell: freedom, symmetry, steps: 30, max_force: 1e-6, max_stress: 1e-8, ..Settings::default() };
        let mut straight = Relaxation::new(start.clone(), settings.clone(), Vec::new()).unwrap();
        let mut broken = straight.clone();
        while straight.ended().is_none() {
            straight.step(&mut field.clone());
            broken.step(&mut field.clone());
            let text = serde_json::to_string(broken.save()).unwrap();
            broken = Relaxation::restore(start.clone(), serde_json::from_str(&text).unwrap()).unwrap();
            assert_eq!(straight.structure(), broken.structure(), "{method:?}");
            assert_eq!(straight.save(), broken.save());
        }
        assert!(straight.steps() > 10, "{method:?} {}", straight.steps());
    }
}

#[test]
fn many_at_once_are_as_each_alone() {
    let starts: Vec<Structure> = (0..5)
        .map(|seed| {
            let mut structure = fcc(5.2 + 0.1 * seed as f64, [1, 1, 1 + seed % 2]);
            rattle(&mut structure, 0.2, seed as u64);
            structure
        })
        .collect();
    let settings = Settings { cell: CellFreedom::Full, ..Settings::default() };
    let mut together: Vec<Relaxation> = starts.iter().map(|s| Relaxation::new(s.clone(), settings.clone(), Vec::new()).unwrap()).collect();
    while advance(&mut together, &mut argon()) > 0 {}
    assert_eq!(advance(&mut together, &mut argon()), 0);
    for (start, relaxed) in starts.iter().zip(&together) {
        let alone = relax(start, &settings, &[], &mut argon()).unwrap();
        assert_eq!(alone.structure().positions, relaxed.structure().positions);
        assert!(alone.ended().unwrap().is_converged());
    }
}

/// A field that goes wrong.
struct Broken(f64);

impl ForceField for Broken {
    fn evaluate_into(&mut self, structure: &Structure, to: &mut Evaluation) -> Result<(), ForceError> {
        if self.0 == 0.0 {
            return Err(ForceError::new(std::io::Error::other("no more")));
        }
        let mut forces = vec![[1.0; 3]; structure.len()];
        forces[3][1] = self.0;
        *to = Evaluation { energy: -1.0, forces, stress: None, atomic_energies: vec![0.0; structure.len()] };
        Ok(())
    }
}

#[test]
fn what_goes_wrong_is_said() {
    // Tension beyond what the crystal bears.
    let settings = Settings { cell: CellFreedom::Full, pressure: -2.0 * GPA, ..Settings::default() };
    let relaxed = relax(&distorted(), &settings, &[], &mut argon()).unwrap();
    let text = relaxed.ended().unwrap().to_string();
    assert!(text.contains("burst to 1") && text.contains("times its volume"), "{text}");
    let relaxed = relax(&fcc(5.3, [1, 1, 1]), &Settings::default(), &[], &mut Broken(f64::NAN)).unwrap();
    assert_eq!(relaxed.ended().unwrap().to_string(), "the force on atom 3 is not a number");
    let relaxed = relax(&fcc(5.3, [1, 1, 1]), &Settings::default(), &[], &mut Broken(0.0)).unwrap();
    assert_eq!(relaxed.ended().unwrap().to_string(), "the potential failed: no more");
    // Energies that do not follow the forces.
    let relaxed = relax(&fcc(5.3, [1, 1, 1]), &Settings::default(), &[], &mut Broken(1.0)).unwrap();
    assert!(matches!(relaxed.ended(), Some(Ended::Escaped { .. } | Ended::Stuck | Ended::Steps)));
    let relaxed = relax(&distorted(), &Settings { steps: 2, ..Settings::default() }, &[], &mut argon()).unwrap();
    assert_eq!((relaxed.ended(), relaxed.steps(), relaxed.trace().len()), (Some(&Ended::Steps), 2, 3));
}

#[test]
fn wrong_input_is_an_error_before_anything_is_evaluated() {
    let settings = Settings { cell: CellFreedom::Full, ..Settings::default() };
    let refused = |structure: Structure, settings: Settings, movable: Vec<[bool; 3]>| {
        let error = Relaxation::new(structure, settings, movable).unwrap_err();
        assert!(error.hint().is_some(), "{error}");
        error.to_string()
    };
    let molecule = Structure::molecule(vec![1, 1], vec![[0.0; 3], [0.0, 0.0, 0.74]]);
    assert!(refused(molecule.clone(), settings.clone(), Vec::new()).contains("not periodic in all three directions"));
    assert!(refused(molecule.clone(), Settings { symmetry: Some(0.1), ..Settings::default() }, Vec::new()).contains("symmetry"));
    assert!(refused(molecule.clone(), Settings::default(), vec![[true; 3]]).contains("1 rows"));
    assert!(refused(molecule.clone(), Settings { pressure: 1.0, ..Settings::default() }, Vec::new()).contains("pressure"));
    assert!(refused(molecule, Settings { max_force: 0.0, ..Settings::default() }, Vec::new()).contains("force to converge to is 0"));
    assert!(refused(Structure::default(), Settings::default(), Vec::new()).contains("no atoms"));
    let masked = Settings { strain_mask: [false, false, true, false, false, false], cell: CellFreedom::FixedVolume, ..settings };
    assert!(refused(fcc(5.0, [1, 1, 1]), masked, Vec::new()).contains("leaves nothing"));
    let mut same = fcc(5.0, [1, 1, 1]);
    same.positions[1] = same.positions[0];
    assert!(refused(same, Settings::default(), Vec::new()).contains("same spot"));
}

mod runs {
    use super::*;
    use crate::relax::run::{Files, Job, Run};
    use std::path::Path;
    use tesseral_atoms::io;

    fn jobs() -> Vec<Job> {
        (0..7)
            .map(|seed| {
                let mut structure = fcc(5.1 + 0.1 * seed as f64, [1, 1, 1 + seed % 2]);
                rattle(&mut structure, 0.2, seed as u64);
                structure.info.insert("name".into(), format!("number {seed}").as_str().into());
                Job { structure, movable: Vec::new() }
            })
            .collect()
    }

    fn label(jobs: &[Job]) -> impl FnMut(usize, &Relaxation, Option<&tesseral_atoms::Spread>) -> Structure {
        let jobs = jobs.to_vec();
        move |index, relaxation, _| {
            let mut frame = jobs[index].structure.clone();
            frame.positions.clone_from(&relaxation.structure().positions);
            frame.cell = relaxation.structure().cell;
            frame.set_energy(relaxation.last().unwrap().energy);
            frame.info.insert("steps".into(), (relaxation.steps() as i64).into());
            frame
        }
    }

    fn files(folder: &Path) -> Files {
        Files { output: folder.join("out.extxyz"), trajectory: Some(folder.join("steps")) }
    }

    fn read_all(folder: &Path) -> Vec<(String, Vec<u8>)> {
        let mut all = Vec::new();
        for entry in std::fs::read_dir(folder).unwrap().chain(std::fs::read_dir(folder.join("steps")).unwrap()) {
            let path = entry.unwrap().path();
            if path.is_file() {
                all.push((path.strip_prefix(folder).unwrap().to_string_lossy().into_owned(), std::fs::read(&path).unwrap()));
            }
        }
        all.sort();
        all
    }

    #[test]
    fn a_run_that_is_killed_again_and_again_ends_as_one_that_is_not() {
        let jobs = jobs();
        let settings = Settings { cell: CellFreedom::Full, max_force: 1e-4, max_stress: 1e-6, ..Settings::default() };
        let (straight, broken) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut run = Run::new(&jobs, &settings, "lj", Some(files(straight.path()))).unwrap();
        while !run.is_finished() {
            run.round(&mut argon(), &mut label(&jobs)).unwrap();
        }
        run.finish().unwrap();
        let rounds = run.rounds();
        assert!(rounds > 8);

        let mut run = Run::new(&jobs, &settings, "lj", Some(files(broken.path()))).unwrap();
        run.save().unwrap();
        let mut lives = 0;
        loop {
            // Saved after two rounds, killed in the third, when its files have been written in part.
            for round in 0..3 {
                if !run.is_finished() {
                    run.round(&mut argon(), &mut label(&jobs)).unwrap();
                }
                if round == 1 {
                    run.save().unwrap();
                }
            }
            if run.is_finished() {
                break;
            }
            drop(run);
            lives += 1;
            run = Run::resume(&jobs, &settings, "lj", files(broken.path())).unwrap();
        }
        run.finish().unwrap();
        assert!(lives > 3, "{lives}");
        assert_eq!(run.rounds(), rounds);
        assert_eq!(read_all(straight.path()), read_all(broken.path()));
        // In the order of the input, with its metadata; nothing else is left.
        let frames: Vec<Structure> = io::read(broken.path().join("out.extxyz")).unwrap().collect::<Result<_, _>>().unwrap();
        for (index, (frame, job)) in frames.iter().zip(&jobs).enumerate() {
            assert_eq!(frame.info["name"], job.structure.info["name"]);
            let trajectory = io::read(broken.path().join(format!("steps/{index:06}.extxyz"))).unwrap();
            let last = trajectory.last().unwrap().unwrap();
            assert_eq!((last.positions, &last.info["energy"]), (frame.positions.clone(), &frame.info["energy"]));
        }
        assert_eq!(read_all(broken.path()).len(), 8);
    }

    #[test]
    fn what_does_not_fit_is_not_resumed() {
        let jobs = jobs();
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings::default();
        let files = files(folder.path());
        let mut run = Run::new(&jobs, &settings, "lj", Some(files.clone())).unwrap();
        run.round(&mut argon(), &mut label(&jobs)).unwrap();
        run.save().unwrap();
        drop(run);
        let refused = |jobs: &[Job], settings: &Settings, model: &str, files: &Files| {
            let error = Run::resume(jobs, settings, model, files.clone()).err().unwrap();
            assert!(error.hint().is_some());
            error.to_string()
        };
        assert!(refused(&jobs, &settings, "other", &files).contains("other structures, settings or models"));
        assert!(refused(&jobs[1..], &settings, "lj", &files).contains("other structures"));
        let other = Files { trajectory: None, ..files.clone() };
        assert!(refused(&jobs, &settings, "lj", &other).contains("--trajectory"));
        Run::resume(&jobs, &settings, "lj", files.clone()).unwrap();
        std::fs::write(files.state(), b"{").unwrap();
        assert!(refused(&jobs, &settings, "lj", &files).contains("no state of a relaxation"));
        let error = Run::check(&[jobs[0].clone(), Job { structure: Structure::default(), movable: Vec::new() }], &settings).unwrap_err();
        assert!(error.to_string().contains("structure 1: there are no atoms"), "{error}");
    }
}
