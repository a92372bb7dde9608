use tesseral_atoms::{Cell, ForceError};

use super::*;
use crate::analytic::{Ending, LennardJones};
use path::{Oddity, bend, check_ends, continuous, linear, shortest};

/// K. Müller and L. D. Brown, Theor. Chim. Acta 53, 75 (1979), for one atom in the plane, lengths and energies scaled so that both are like those of atoms; a spring holds it there.
struct MuellerBrown;

/// Å and eV for one of theirs.
const LENGTH: f64 = 2.0;
const ENERGY: f64 = 0.02;

impl ForceField for MuellerBrown {
    fn evaluate_into(&mut self, structure: &Structure, to: &mut Evaluation) -> Result<(), ForceError> {
        let [x, y, z] = structure.positions[0].map(|r| r / LENGTH);
        let (mut e, mut gx, mut gy) = (0.0, 0.0, 0.0);
        for (big, a, b, c, x0, y0) in [
            (-200.0, -1.0, 0.0, -10.0, 1.0, 0.0),
            (-100.0, -1.0, 0.0, -10.0, 0.0, 0.5),
            (-170.0, -6.5, 11.0, -6.5, -0.5, 1.5),
            (15.0, 0.7, 0.6, 0.7, -1.0, 1.0),
        ] {
            let (dx, dy) = (x - x0, y - y0);
            let term = big * f64::exp(a * dx * dx + b * dx * dy + c * dy * dy);
            e += term;
            gx += term * (2.0 * a * dx + b * dy);
            gy += term * (b * dx + 2.0 * c * dy);
        }
        let factor = -ENERGY / LENGTH;
        *to = Evaluation {
            energy: ENERGY * (e + 50.0 * z * z),
            forces: vec![[gx * factor, gy * factor, 100.0 * z * factor]],
            stress: None,
            atomic_energies: vec![],
        };
        to.atomic_energies.push(to.energy);
        Ok(())
    }
}

fn at(x: f64, y: f64) -> Structure {
    Structure::molecule(vec![1], vec![[x * LENGTH, y * LENGTH, 0.0]])
}

fn run(band: &mut Band, field: &mut dyn ForceField) {
    while !band.finished() {
        band.step(field).unwrap();
    }
}

/// The published minima (−0.558, 1.442), (0.623, 0.028), (−0.050, 0.467) and saddles (−0.822, 0.624), (0.212, 0.293).
#[test]
fn published_saddle_points_are_found() {
    for method in [Method::Lbfgs, Method::Fire] {
        let settings = Settings { tolerance: 1e-4, steps: 3000, method, spring: 2.0, ..Settings::default() };
        for (from, to, saddle, energy) in [
            ((0.623_499_4, 0.028_037_8), (-0.050_010_8, 0.466_694_1), [0.212_486_6, 0.292_988_3], -72.248_9),
            ((-0.558_223_6, 1.441_725_8), (-0.050_010_8, 0.466_694_1), [-0.822_001_6, 0.624_312_8], -40.664_8),
        ] {
            let mut band = Band::new(linear(&at(from.0, from.1), &at(to.0, to.1), 9), settings.clone(), &mut MuellerBrown).unwrap();
            run(&mut band, &mut MuellerBrown);
            let path = band.path();
            assert!(path.converged && path.climbed, "{method:?} {} {}", band.steps(), band.largest_force());
            let top = path.saddle.unwrap();
            let r = band.structures()[top].positions[0].map(|x| x / LENGTH);
            assert!((r[0] - saddle[0]).abs() < 1e-3 && (r[1] - saddle[1]).abs() < 1e-3, "{r:?}");
            assert!((path.images[top].energy / ENERGY - energy).abs() < 1e-3, "{}", path.images[top].energy / ENERGY);
            assert!(path.images[top].largest_force < 1e-4 && path.images[top].slope.abs() < 1e-4);
            assert!((path.barrier() - path.barrier_back() - path.reaction_energy()).abs() < 1e-12);
            // The profile passes through the images, and its top is the saddle.
            assert!((path.interpolated_barrier() - path.barrier()).abs() < 1e-3 * path.barrier());
            // Images elsewhere are evenly spaced on either side of it.
            let steps: Vec<f64> = path.images.windows(2).map(|p| p[1].distance - p[0].distance).collect();
            for side in [&steps[..top], &steps[top..]] {
                assert!(side.iter().all(|s| (s - side[0]).abs() < 0.1 * side[0]), "{steps:?} {top}");
            }
        }
    }
}

/// A vacancy of the Lennard-Jones crystal goes to the neighbouring site: by symmetry both barriers are the same, and the middle image is the saddle.
#[test]
fn a_vacancy_migrates_over_a_saddle_point() {
    let (a, n) = (5.27, 2);
    let mut sites = Vec::new();
    for cell in 0..n * n * n {
        let corner = [cell % n, cell / n % n, cell / n / n].map(|k| f64::from(k as u32));
        for basis in [[0.0, 0.0, 0.0], [0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]] {
            sites.push([0, 1, 2].map(|k| a * (corner[k] + basis[k])));
        }
    }
    let cell = Cell::cubic(a * f64::from(n as u32));
    // Site 0 is empty, the atom of site 1 goes there; it is written with its image on the far side, so that only the shortest way leads there.
    let mut start = Structure::crystal(cell, vec![18; sites.len() - 1], sites[1..].to_vec());
    let mut end = start.clone();
    end.positions[0] = [cell.vectors[0][0], 0.0, 0.0];
    let mut lj = LennardJones::new(0.0104, 3.4, 5.2, Ending::ShiftedForce);
    for structure in [&mut start, &mut end] {
        let mut ledger = crate::settle::Ledger::in_memory();
        let job = [crate::settle::Job { index: 0, name: String::new(), structure: structure.clone() }];
        let internal = crate::settle::Internal { tolerance: 1e-6, ..Default::default() };
        crate::settle::settle(&job, Some(&internal), &[], &mut lj, &mut ledger, &mut |_, _| false).unwrap();
        assert!(ledger.get(0).unwrap().converged);
        structure.positions.clone_from(&ledger.get(0).unwrap().positions);
    }
    let settings = Settings { tolerance: 1e-5, climb_below: 0.01, spring: 0.1, ..Settings::default() };
    let mut images = linear(&start, &end, 5);
    bend(&mut images, &[]).unwrap();
    let mut band = Band::new(images, settings.clone(), &mut lj).unwrap();
    run(&mut band, &mut lj);
    let path = band.path();
    assert!(path.converged && path.saddle == Some(3), "{path:?}");
    assert!(path.reaction_energy().abs() < 1e-8 && (path.barrier() - path.barrier_back()).abs() < 1e-8, "{path:?}");
    // About one sublimation energy's eighth for argon: 0.05 to 0.15 eV with this short cutoff and rigid cell.
    assert!((0.02..0.2).contains(&path.barrier()), "{}", path.barrier());
    // At the saddle forces vanish and exactly one direction curves down.
    let saddle = &band.structures()[3];
    assert!(path.images[3].largest_force < 1e-5);
    let size = 3 * saddle.len();
    let mut hessian = nalgebra::DMatrix::zeros(size, size);
    for k in 0..size {
        let forces = [1e-4, -1e-4].map(|h| {
            let mut moved = saddle.clone();
            moved.positions[k / 3][k % 3] += h;
            lj.evaluate(&moved).unwrap().forces
        });
        for l in 0..size {
            hessian[(k, l)] = -(forces[0][l / 3][l % 3] - forces[1][l / 3][l % 3]) / 2e-4;
        }
    }
    let eigenvalues = (&hessian + hessian.transpose()).scale(0.5).symmetric_eigenvalues();
    assert_eq!(eigenvalues.iter().filter(|&&x| x < -1e-4).count(), 1, "{eigenvalues}");
    assert_eq!(eigenvalues.iter().filter(|&&x| x.abs() < 1e-4).count(), 3);
    // Saved half-way and restored: the same bits.
    let mut images = linear(&start, &end, 5);
    bend(&mut images, &[]).unwrap();
    let mut again = Band::new(images.clone(), settings.clone(), &mut lj).unwrap();
    for _ in 0..band.steps() / 2 {
        again.step(&mut lj).unwrap();
    }
    let text = serde_json::to_string(again.save()).unwrap();
    let mut fresh = LennardJones::new(0.0104, 3.4, 5.2, Ending::ShiftedForce);
    let mut restored = Band::restore(images, settings, serde_json::from_str(&text).unwrap()).unwrap();
    assert_eq!(restored.save(), again.save());
    run(&mut restored, &mut fresh);
    assert_eq!(restored.steps(), band.steps());
    assert!((restored.path().barrier() - path.barrier()).abs() < 1e-9);
    assert_eq!(restored.labelled().len(), 7);
}

fn closest(images: &[Structure]) -> f64 {
    let mut closest = f64::INFINITY;
    for image in images {
        for i in 0..image.len() {
            for j in 0..i {
                let d = [0, 1, 2].map(|k| image.positions[i][k] - image.positions[j][k]);
                closest = d.iter().map(|x| x * x).sum::<f64>().sqrt().min(closest);
            }
        }
    }
    closest
}

/// A water molecule that turns half a circle about its axis: on straight lines both hydrogens go through one spot.
#[test]
fn bent_paths_keep_atoms_apart() {
    let water = |s: f64| Structure::molecule(vec![8, 1, 1], vec![[0.0; 3], [0.76 * s, 0.59, 0.02], [-0.76 * s, 0.59, -0.02]]);
    let (start, end) = (water(1.0), water(-1.0));
    let mut images = linear(&start, &end, 7);
    let before = closest(&images);
    let left = bend(&mut images, &[]).unwrap();
    let after = closest(&images);
    assert!(before < 0.2 && after > 0.8, "{before} {after} {left}");
    assert!(images[0] == start && images[8].positions == end.positions);
    // Fixed atoms stay where they are, to the bit.
    let mut images = linear(&start, &end, 7);
    bend(&mut images, &[0]).unwrap();
    assert!(images.iter().all(|s| s.positions[0] == [0.0; 3]));
    let odd = check_ends(&start, &end, &[]).unwrap();
    assert_eq!(odd[0], Oddity::Exchanged { atom: 1, place_of: 2 });
}

#[test]
fn shortest_vectors_agree_with_brute_force() {
    let mut random = tesseral_testkit::Random::new(5);
    for _ in 0..200 {
        let cell = Cell::new(std::array::from_fn(|i| std::array::from_fn(|k| if i == k { 4.0 } else { 0.0 } + 1.5 * random.number())));
        let v: [f64; 3] = std::array::from_fn(|_| 15.0 * random.number());
        let mut best = f64::INFINITY;
        for n in 0..21 * 21 * 21 {
            let image = cell.cartesian([n % 21 - 10, n / 21 % 21 - 10, n / 441 - 10].map(f64::from));
            best = best.min((0..3).map(|k| (v[k] + image[k]).powi(2)).sum::<f64>().sqrt());
        }
        let found = shortest(&cell, [true; 3], v).iter().map(|x| x * x).sum::<f64>().sqrt();
        assert!((found - best).abs() < 1e-9, "{found} {best}");
    }
    assert_eq!(shortest(&Cell::cubic(4.0), [true, false, false], [3.0, 3.0, 3.0]), [-1.0, 3.0, 3.0]);
    assert_eq!(shortest(&Cell::ZERO, [false; 3], [3.0, 3.0, 3.0]), [3.0; 3]);
}

#[test]
fn ends_that_do_not_fit_are_refused() {
    let (start, mut end) = (at(0.0, 0.0), at(1.0, 0.0));
    let error = |start: &Structure, end: &Structure, fixed: &[usize]| check_ends(start, end, fixed).unwrap_err();
    assert!(error(&start, &end, &[0]).to_string().contains("atom 0 is to be fixed, but the ends have it 2.000 Å apart"));
    assert!(error(&start, &end, &[7]).to_string().contains("no atom 7"));
    end.numbers[0] = 2;
    assert!(error(&start, &end, &[]).to_string().contains("atom 0 is H at the start and He at the end"));
    let two = Structure::molecule(vec![1, 8], vec![[0.0; 3], [2.0, 0.0, 0.0]]);
    let mut swapped = two.clone();
    swapped.numbers.swap(0, 1);
    assert!(error(&two, &swapped, &[]).hint().unwrap().contains("into the order of the other"));
    assert!(error(&two, &start, &[]).to_string().contains("2 and 1 atoms"));
    let mut boxed = start.clone();
    boxed.cell = Cell::cubic(9.0);
    assert!(error(&start, &boxed, &[]).to_string().contains("different cells"));
    assert!(Band::new(vec![at(0.0, 0.0), at(1.0, 0.0)], Settings::default(), &mut MuellerBrown).is_err());
    assert_eq!(check_ends(&start, &start, &[]).unwrap(), [Oddity::SameEnds]);
    // Images that were wrapped into the cell are one path.
    let crystal = |x: f64| Structure::crystal(Cell::cubic(4.0), vec![1], vec![[x, 0.0, 0.0]]);
    let images = continuous(vec![crystal(3.0), crystal(3.8), crystal(0.6)]);
    assert!((images[2].positions[0][0] - 4.6).abs() < 1e-12);
}

#[test]
fn a_path_downhill_has_no_barrier() {
    struct Slope;
    impl ForceField for Slope {
        fn evaluate_into(&mut self, structure: &Structure, to: &mut Evaluation) -> Result<(), ForceError> {
            let [x, y, z] = structure.positions[0];
            *to = Evaluation {
                energy: -x + y * y + z * z,
                forces: vec![[1.0, -2.0 * y, -2.0 * z]],
                stress: None,
                atomic_energies: vec![0.0],
            };
            Ok(())
        }
    }
    let mut band = Band::new(linear(&at(0.0, 0.3), &at(1.0, 0.3), 3), Settings::default(), &mut Slope).unwrap();
    run(&mut band, &mut Slope);
    let path = band.path();
    assert!(path.converged && path.saddle.is_none() && !path.climbed && path.barrier() == 0.0 && path.reaction_energy() < -1.0, "{path:?}");
}
