//! Constant temperature: distributions that are known exactly.

use super::*;
use crate::dynamics::chain::Chain;
use crate::dynamics::random::Random;

/// Potential and kinetic energies of oscillators over a run, every few steps after a beginning.
fn energies(ensemble: Ensemble, atoms: usize, step: f64, steps: usize) -> (Vec<f64>, Vec<f64>) {
    let (structure, mut field) = einstein(atoms, 1.0);
    let settings = Settings { fix_centre_of_mass: false, ..reduced(ensemble, 1.0, step) };
    let mut dynamics = Dynamics::new(structure, settings, &mut field).unwrap();
    assert_eq!(dynamics.degrees_of_freedom(), 3.0 * atoms as f64);
    run(&mut dynamics, &mut field, 2000);
    let mut samples = (Vec::new(), Vec::new());
    for _ in 0..steps / 5 {
        run(&mut dynamics, &mut field, 5);
        samples.0.push(dynamics.state().evaluation.energy);
        samples.1.push(dynamics.state().kinetic_energy());
    }
    samples
}

/// Energies of 3N oscillators of frequency 1 are gamma distributed: shape 3N/2, scale k_B T.
#[test]
fn einstein_crystal_in_every_bath() {
    for (name, ensemble) in ensembles().into_iter().filter(|(_, e)| e.has_thermostat() && !e.has_barostat()) {
        // Oscillators of one frequency and a thermostat on all of them leave phases as they are: two atoms are enough for all that can be said.
        let (potential, kinetic) = energies(ensemble, 2, 0.05, 400_000);
        assert_gamma(&format!("{name}, potential energy"), &potential, 3.0, 1.0, 0.02);
        assert_gamma(&format!("{name}, kinetic energy"), &kinetic, 3.0, 1.0, 0.02);
        // The configurational temperature, Σ F² / (k_B ∇²U), is the potential energy over 3N/2 here.
    }
}

/// BAOAB samples positions of oscillators exactly at any stable step, and underestimates kinetic energies by 1 − (ω dt)²/4 (Leimkuhler and Matthews 2013).
#[test]
fn baoab_has_no_error_in_positions_of_oscillators() {
    let (potential, kinetic) = energies(Ensemble::Langevin { friction: 1.0 / fs(1.0) }, 4, 1.0, 200_000);
    assert_gamma("potential energy at ω dt = 1", &potential, 6.0, 1.0, 0.01);
    assert_gamma("kinetic energy at ω dt = 1", &kinetic, 6.0, 0.75, 0.01);
}

/// The kinetic energy under stochastic velocity rescaling is gamma distributed whatever the number of degrees of freedom, and relaxes with the time that was asked for.
#[test]
fn bussi_rescaling() {
    for atoms in [1, 7] {
        let (structure, mut field) = einstein(atoms, 0.0);
        let settings = Settings { fix_centre_of_mass: false, ..reduced(Ensemble::Bussi { time: fs(0.1) }, 1.0, 0.05) };
        let mut dynamics = Dynamics::new(structure, settings, &mut field).unwrap();
        let mut kinetic = Vec::new();
        for _ in 0..100_000 {
            run(&mut dynamics, &mut field, 1);
            kinetic.push(dynamics.state().kinetic_energy());
        }
        let shape = 1.5 * atoms as f64;
        assert_gamma(&format!("{atoms} free atoms"), &kinetic, shape, 1.0, 0.01);
        let third: Vec<f64> = kinetic.iter().map(|x| (x - shape).powi(3)).collect();
        assert_mean("third moment", &third, 2.0 * shape, 0.2);
        // The autocorrelation of K falls as exp(−t/τ): the square of what velocities would do with 2τ.
        let products: Vec<f64> = kinetic.windows(3).map(|w| (w[0] - shape) * (w[2] - shape)).collect();
        assert_mean("autocorrelation after τ", &products, shape * (-1.0f64).exp(), 0.1);
    }
}

/// One oscillator and one Nosé–Hoover thermostat are not ergodic (Martyna, Klein and Tuckerman 1992); a chain is.
#[test]
fn chains_make_an_oscillator_ergodic() {
    let cold = |length: usize| -> Vec<f64> {
        let mut chain = Chain::new(length, 1.0, 1.0, 1.0);
        let (mut x, mut v, dt) = (1.0f64, 1.0f64, 0.05);
        let mut samples = Vec::new();
        for _ in 0..400_000 {
            v *= chain.propagate(0.5 * v * v, 1.0, 0.5 * dt);
            v -= 0.5 * dt * x;
            x += dt * v;
            v -= 0.5 * dt * x;
            v *= chain.propagate(0.5 * v * v, 1.0, 0.5 * dt);
            samples.push(if 0.5 * (x * x + v * v) < 0.1 { 1.0 } else { 0.0 });
        }
        samples
    };
    // An energy of two squares is exponentially distributed.
    let expected = 1.0 - (-0.1f64).exp();
    assert_mean("share of energies below 0.1 k_B T", &cold(4), expected, 0.1);
    let (found, _) = mean(&cold(1));
    assert!(found < 0.02 * expected, "one thermostat reaches energies below 0.1 k_B T: {found}");
}

/// Variates are what they are called.
#[test]
fn variates() {
    let mut random = Random::new(5);
    let normals: Vec<f64> = (0..100_000).map(|_| random.normal()).collect();
    assert!(mean(&normals).0.abs() < 4.0 * mean(&normals).1);
    for count in [1.0, 2.0, 17.0] {
        let sums: Vec<f64> = (0..50_000).map(|_| random.sum_of_squares(count)).collect();
        assert_gamma("sum of squares", &sums, count / 2.0, 2.0, 0.02);
    }
    assert_eq!(random.sum_of_squares(0.0), 0.0);
}

/// Velocities drawn have the exact temperature, no momentum, and no rotation where that is taken away.
#[test]
fn first_velocities() {
    let structure = fcc(2, 0.8);
    let settings = reduced(Ensemble::Nve, 1.3, 0.001);
    let dynamics = Dynamics::new(structure.clone(), settings.clone(), &mut lennard_jones()).unwrap();
    assert_eq!(dynamics.degrees_of_freedom(), 93.0);
    assert!((dynamics.thermo().temperature * BOLTZMANN / 1.3 - 1.0).abs() < 1e-14);
    let momentum = |d: &Dynamics| [0, 1, 2].map(|k| d.state().velocities.iter().zip(&d.state().masses).map(|(v, m)| m * v[k]).sum::<f64>());
    assert!(momentum(&dynamics).iter().all(|p| p.abs() < 1e-13));
    // Another seed is another start, the same one the same.
    let again = |seed| Dynamics::new(structure.clone(), Settings { seed, ..settings.clone() }, &mut lennard_jones()).unwrap();
    assert_eq!(again(1).state(), dynamics.state());
    assert_ne!(again(2).state().velocities, dynamics.state().velocities);
    // A bent molecule loses six degrees of freedom, one on a line five.
    for (positions, degrees) in
        [(vec![[0.0; 3], [1.1, 0.3, 0.1], [-0.2, 1.4, 0.5]], 3.0), (vec![[0.0; 3], [1.1, 0.3, 0.1], [-2.2, -0.6, -0.2]], 4.0)]
    {
        let molecule = Structure::molecule(vec![18; 3], positions);
        let settings = Settings { remove_rotation: true, ..reduced(Ensemble::Nve, 1.0, 0.001) };
        let dynamics = Dynamics::new(molecule, settings, &mut lennard_jones()).unwrap();
        assert_eq!(dynamics.degrees_of_freedom(), degrees);
        assert!((dynamics.thermo().temperature * BOLTZMANN - 1.0).abs() < 1e-13);
        let state = dynamics.state();
        let mut angular = [0.0; 3];
        for (r, v) in state.structure.positions.iter().zip(&state.velocities) {
            for k in 0..3 {
                let (a, b) = ((k + 1) % 3, (k + 2) % 3);
                angular[k] += r[a] * v[b] - r[b] * v[a];
            }
        }
        assert!(angular.iter().all(|l| l.abs() < 1e-13), "{angular:?}");
        assert!(momentum(&dynamics).iter().all(|p| p.abs() < 1e-13));
    }
}
