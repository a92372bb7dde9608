use tesseral_atoms::Cell;
use tesseral_testkit::Random;

use super::*;

/// ½ Σ k (x − m)², with k and m by row and component.
fn quadratic(k: &[[f64; 3]], m: &[[f64; 3]], x: &[[f64; 3]]) -> (f64, Vec<[f64; 3]>) {
    let mut energy = 0.0;
    let gradient = (0..x.len())
        .map(|i| {
            [0, 1, 2].map(|c| {
                let d = x[i][c] - m[i][c];
                energy += 0.5 * k[i][c] * d * d;
                k[i][c] * d
            })
        })
        .collect();
    (energy, gradient)
}

/// Steps until the gradient is below a limit.
fn steps(optimiser: &mut Optimiser, x: &mut [[f64; 3]], limit: f64, f: impl Fn(&[[f64; 3]]) -> (f64, Vec<[f64; 3]>)) -> usize {
    for step in 0..2000 {
        let (energy, gradient) = f(x);
        if longest(&gradient) < limit {
            return step;
        }
        optimiser.step(x, Some(energy), &gradient, None).unwrap();
    }
    panic!("does not converge");
}

struct Diagonal(Vec<[f64; 3]>);

impl Preconditioner for Diagonal {
    fn solve(&self, v: &[[f64; 3]]) -> Vec<[f64; 3]> {
        v.iter().zip(&self.0).map(|(v, d)| [0, 1, 2].map(|k| v[k] / d[k])).collect()
    }
}

#[test]
fn lbfgs_needs_two_steps_where_all_curvatures_are_equal() {
    let (m, start) = ([[0.3, -0.2, 0.1], [1.0, 1.1, 0.9]], [[0.0; 3], [1.3, 0.7, 1.0]]);
    for (k, expected) in [(70.0, 1), (10.0, 2), (140.0, 2)] {
        let mut optimiser = Optimiser::Lbfgs(Lbfgs::new(10, 10.0));
        let mut x = start;
        // The first step takes 70 eV/Å² for granted; after it the curvature is known.
        assert_eq!(steps(&mut optimiser, &mut x, 1e-10, |x| quadratic(&[[k; 3]; 2], &m, x)), expected, "{k}");
    }
}

#[test]
fn lbfgs_needs_two_steps_where_the_preconditioner_is_the_hessian() {
    let (k, m) = ([[1.0, 20.0, 300.0], [4.0, 50.0, 6.0]], [[0.3, -0.2, 0.1], [1.0, 1.1, 0.9]]);
    let mut optimiser = Lbfgs::new(10, 10.0);
    let mut x = [[0.0; 3]; 2];
    // In units of another energy.
    let preconditioner = Diagonal(k.map(|row| row.map(|k| k / 40.0)).to_vec());
    for _ in 0..2 {
        let (energy, gradient) = quadratic(&k, &m, &x);
        optimiser.step(&mut x, Some(energy), &gradient, Some(&preconditioner)).unwrap();
    }
    assert!(longest(&quadratic(&k, &m, &x).1) < 1e-10);
}

#[test]
fn lbfgs_finds_the_end_of_the_valley_of_rosenbrock() {
    let f = |x: &[[f64; 3]]| {
        let [a, b, c] = x[0];
        let energy = (1.0 - a).powi(2) + 100.0 * (b - a * a).powi(2) + 0.5 * c * c;
        (energy, vec![[-2.0 * (1.0 - a) - 400.0 * a * (b - a * a), 200.0 * (b - a * a), c]])
    };
    let mut x = [[-1.2, 1.0, 0.5]];
    let count = steps(&mut Optimiser::Lbfgs(Lbfgs::new(20, 0.5)), &mut x, 1e-8, f);
    assert!((x[0][0] - 1.0).abs() < 1e-6 && (x[0][1] - 1.0).abs() < 1e-6 && count < 80, "{count} {x:?}");
}

#[test]
fn lbfgs_takes_steep_steps_back() {
    // A wall that the first guess of the curvature knows nothing of.
    let f = |x: &[[f64; 3]]| {
        let d = x[0][0];
        let wall = (40.0 * (d - 0.2)).exp();
        (-d + wall, vec![[-1.0 + 40.0 * wall, 0.0, 0.0]])
    };
    let expected = 0.2 + (1.0f64 / 40.0).ln() / 40.0;
    let mut x = [[-3.0, 0.0, 0.0]];
    steps(&mut Optimiser::Lbfgs(Lbfgs::new(20, 1.0)), &mut x, 1e-8, f);
    assert!((x[0][0] - expected).abs() < 1e-8, "{x:?}");
}

#[test]
fn forces_of_the_wrong_sign_are_noticed() {
    let mut optimiser = Lbfgs::new(10, 0.2);
    let mut x = [[1.0f64, 0.0, 0.0]];
    let stuck = (0..100).position(|_| {
        let (energy, gradient) = (x[0][0].powi(2), [[-2.0 * x[0][0], 0.0, 0.0]]);
        optimiser.step(&mut x, Some(energy), &gradient, None).is_err()
    });
    assert_eq!(stuck, Some(13));
    assert!((x[0][0] - 1.0).abs() < 0.05, "{x:?}");
}

#[test]
fn no_step_is_longer_than_allowed_and_held_rows_stay() {
    let (k, m) = ([[30.0; 3], [30.0; 3], [1.0; 3]], [[5.0, 0.0, 0.0], [0.0; 3], [0.0, 3.0, 0.0]]);
    for mut optimiser in [
        Optimiser::Lbfgs(Lbfgs::new(10, 0.1)),
        Optimiser::Fire(Fire::new(FireVersion::Bitzek, 0.1)),
        Optimiser::Fire(Fire::new(FireVersion::Guenole, 0.1)),
    ] {
        let mut x = [[0.0; 3], [0.25, 0.5, 0.125], [0.0; 3]];
        for _ in 0..40 {
            let (energy, mut gradient) = quadratic(&k, &m, &x);
            gradient[1] = [0.0; 3];
            let before = x;
            optimiser.step(&mut x, Some(energy), &gradient, None).unwrap();
            assert!(longest(&difference(&x, &before)) < 0.1 + 1e-12);
        }
        assert_eq!(x[1], [0.25, 0.5, 0.125]);
        assert!(x[0][0] > 1.0);
    }
}

#[test]
fn first_steps_of_fire_by_hand() {
    let gradient = [[-2.0, 0.0, 0.0], [0.0, 1.0, 0.0]];
    // From rest, v = −g dt, and mixing changes nothing: v is along the force already. x = v dt.
    for version in [FireVersion::Bitzek, FireVersion::Guenole] {
        let mut x = [[0.0; 3]; 2];
        let mut fire = Fire::new(version, 1.0);
        fire.step(&mut x, &gradient);
        assert!((x[0][0] - 0.02).abs() < 1e-15 && (x[1][1] + 0.01).abs() < 1e-15, "{x:?}");
        fire.step(&mut x, &gradient);
        // v = −2 g dt.
        assert!((x[0][0] - 0.06).abs() < 1e-15, "{x:?}");
        // Uphill: v = 0, dt = 0.05 with the algorithm of 2006; half a step back with dt = 0.1, still in the initial delay, with that of 2020.
        let uphill = [[2.0, 0.0, 0.0], [0.0, -1.0, 0.0]];
        fire.step(&mut x, &uphill);
        let expected = match version {
            FireVersion::Bitzek => 0.06 - 2.0 * 0.05 * 0.05,
            FireVersion::Guenole => 0.06 - 0.5 * 0.04 - 2.0 * 0.1 * 0.1,
        };
        assert!((x[0][0] - expected).abs() < 1e-15, "{x:?} {expected}");
    }
}

#[test]
fn fire_converges() {
    let (k, m) = ([[1.0, 20.0, 5.0], [4.0, 10.0, 6.0]], [[0.3, -0.2, 0.1], [1.0, 1.1, 0.9]]);
    for version in [FireVersion::Bitzek, FireVersion::Guenole] {
        let mut x = [[0.0; 3]; 2];
        let count = steps(&mut Optimiser::Fire(Fire::new(version, 0.2)), &mut x, 1e-6, |x| quadratic(&k, &m, x));
        assert!(count < 300, "{version:?} {count}");
    }
}

#[test]
fn springs_are_symmetric_positive_and_solved() {
    let mut random = Random::new(3);
    let (cell, n) = (Cell::new([[9.0, 0.0, 0.0], [1.0, 8.0, 0.0], [0.0, 0.5, 10.0]]), 30);
    let vectors =
        |random: &mut Random, n: usize| -> Vec<[f64; 3]> { (0..n).map(|_| [random.number(), random.number(), random.number()]).collect() };
    let positions: Vec<[f64; 3]> = vectors(&mut random, n).iter().map(|v| v.map(|x| 4.0 * x)).collect();
    let mut held = vec![false; n];
    held[4] = true;
    let springs = Exponential::new(&cell, [true; 3], &positions, &held, 3).unwrap();
    let (a, b) = (vectors(&mut random, n + 3), vectors(&mut random, n + 3));
    let (pa, pb) = (springs.apply(&a), springs.apply(&b));
    assert!((dot(&a, &pb) - dot(&b, &pa)).abs() < 1e-10);
    assert!(dot(&a, &pa) > 0.0);
    assert!(longest(&difference(&springs.solve(&pa), &a)) < 1e-7);
    // What is held does not move whatever pulls at the others.
    let mut pull = b;
    pull[4] = [0.0; 3];
    assert_eq!(springs.solve(&pull)[4], [0.0; 3]);
    // A rigid translation costs the stabiliser alone (no atom held).
    let springs = Exponential::new(&cell, [true; 3], &positions, &vec![false; n], 0).unwrap();
    let moved = springs.apply(&vec![[1.0, 0.0, 0.0]; n]);
    assert!(moved.iter().all(|r| (r[0] - 0.1).abs() < 1e-12), "{moved:?}");
}
