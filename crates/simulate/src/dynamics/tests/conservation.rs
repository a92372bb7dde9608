//! What the equations of motion keep, and how well.

use std::sync::OnceLock;

use super::super::Velocities;
use super::*;

/// A Lennard-Jones liquid after some equilibration.
fn liquid(ensemble: Ensemble, step: f64) -> (Dynamics, LennardJones) {
    static EQUILIBRATED: OnceLock<Structure> = OnceLock::new();
    let structure = EQUILIBRATED.get_or_init(|| {
        let mut field = lennard_jones();
        let bath = reduced(Ensemble::Langevin { friction: 1.0 / fs(1.0) }, 1.0, 0.004);
        let mut dynamics = Dynamics::new(fcc(2, 0.8), bath, &mut field).unwrap();
        run(&mut dynamics, &mut field, 1000);
        let mut structure = dynamics.state().structure.clone();
        structure.arrays.insert("velocities".into(), tesseral_atoms::Array::vectors(&dynamics.state().velocities));
        structure
    });
    let mut field = lennard_jones();
    let settings = Settings { velocities: Velocities::Given, pressure: Ramp::constant(1.0), ..reduced(ensemble, 1.0, step) };
    (Dynamics::new(structure.clone(), settings, &mut field).unwrap(), field)
}

/// The largest deviation of the conserved energy over a time.
fn wobble(ensemble: Ensemble, step: f64, time: f64) -> f64 {
    let (mut dynamics, mut field) = liquid(ensemble, step);
    let start = dynamics.conserved();
    let mut largest = 0.0f64;
    for _ in 0..(time / step).round() as usize {
        run(&mut dynamics, &mut field, 1);
        largest = largest.max((dynamics.conserved() - start).abs());
    }
    largest
}

/// Errors fall by four where the step is halved.
#[test]
fn order_two_in_the_time_step() {
    for (name, ensemble) in ensembles().into_iter().filter(|(_, e)| !e.is_stochastic()) {
        let (coarse, fine) = (wobble(ensemble, 0.004, 0.4), wobble(ensemble, 0.002, 0.4));
        eprintln!("{name}: {coarse:.3e} eV, halved {fine:.3e} eV, ratio {:.3}", coarse / fine);
        assert!((3.6..4.4).contains(&(coarse / fine)), "{name}: {coarse} and {fine}");
    }
    // So does the error of positions, against a much smaller step.
    let end = |ensemble: Ensemble, step: f64| {
        let (mut dynamics, mut field) = liquid(ensemble, step);
        run(&mut dynamics, &mut field, (0.2 / step).round() as usize);
        dynamics.state().structure.positions.concat()
    };
    for (name, ensemble) in ensembles().into_iter().filter(|(_, e)| !e.is_stochastic()) {
        let exact = end(ensemble, 0.00025);
        let error = |step| end(ensemble, step).iter().zip(&exact).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
        let (coarse, fine) = (error(0.004), error(0.002));
        let ratio = coarse / fine;
        eprintln!("{name}: positions {coarse:.3e} and {fine:.3e} Å, ratio {ratio:.3}");
        assert!((3.7..4.3).contains(&ratio), "{name}: {ratio}");
    }
}

/// Deterministic motion can be run backwards.
#[test]
fn reversible_to_rounding() {
    for (name, ensemble) in ensembles().into_iter().filter(|(_, e)| !e.is_stochastic()) {
        let (mut dynamics, mut field) = liquid(ensemble, 0.004);
        let start = dynamics.state().structure.clone();
        run(&mut dynamics, &mut field, 200);
        let far = (0..start.len()).map(|i| (start.positions[i][0] - dynamics.state().structure.positions[i][0]).abs()).fold(0.0, f64::max);
        assert!(far > 0.1, "{name}: nothing moved");
        dynamics.state.velocities.iter_mut().flatten().for_each(|v| *v = -*v);
        if let Some(chain) = &mut dynamics.chain {
            chain.velocities.iter_mut().for_each(|v| *v = -*v);
        }
        if let Some(extended) = &mut dynamics.extended {
            extended.rate.iter_mut().flatten().for_each(|v| *v = -*v);
            extended.chain.velocities.iter_mut().for_each(|v| *v = -*v);
        }
        run(&mut dynamics, &mut field, 200);
        let back = &dynamics.state().structure;
        let error = (0..start.len())
            .flat_map(|i| (0..3).map(move |k| (i, k)))
            .map(|(i, k)| (start.positions[i][k] - back.positions[i][k]).abs())
            .fold(0.0, f64::max);
        eprintln!("{name}: back within {error:.1e} Å after moving {far:.2} Å");
        assert!(error < 1e-10, "{name}: {error}");
    }
}

/// The energy of constant energy does not creep, and neither do the effective energies of the others.
#[test]
fn no_drift() {
    for (name, ensemble) in ensembles() {
        let (mut dynamics, mut field) = liquid(ensemble, 0.004);
        let (mut energies, mut drift) = (Vec::new(), 0.0);
        let steps = 2000;
        for i in 0..steps {
            run(&mut dynamics, &mut field, 1);
            energies.push(dynamics.conserved());
            // The slope of the straight line through all, times the length of the run.
            drift += (i as f64 - (steps - 1) as f64 / 2.0) * energies[i] * 12.0 / (steps as f64).powi(2);
        }
        let atoms = dynamics.state().structure.len() as f64;
        // Eight Lennard-Jones times: 17 ps of argon.
        eprintln!("{name}: drift {:+.2e} k_B T an atom over 8 τ", drift / atoms);
        assert!(drift.abs() / atoms < 2e-3, "{name}: {}", drift / atoms);
    }
}

/// The centre of mass stays where it is, even in an outer field; without a hold it does not.
#[test]
fn centre_of_mass() {
    let centre = |d: &Dynamics| [0, 1, 2].map(|k| d.state().structure.positions.iter().map(|r| r[k]).sum::<f64>());
    for (name, ensemble) in ensembles().into_iter().filter(|(_, e)| !e.has_barostat()) {
        let (structure, mut field) = einstein(5, 3.0);
        let mut dynamics = Dynamics::new(structure, reduced(ensemble, 1.0, 0.02), &mut field).unwrap();
        assert_eq!(dynamics.degrees_of_freedom(), 12.0);
        let start = centre(&dynamics);
        run(&mut dynamics, &mut field, 500);
        let moved = (0..3).map(|k| (centre(&dynamics)[k] - start[k]).abs()).fold(0.0, f64::max);
        assert!(moved < 1e-11, "{name}: {moved}");
    }
    for (name, ensemble) in barostats() {
        let (mut dynamics, mut field) = liquid(ensemble, 0.004);
        run(&mut dynamics, &mut field, 200);
        let momentum = [0, 1, 2].map(|k| dynamics.state().velocities.iter().map(|v| v[k]).sum::<f64>());
        assert!(momentum.iter().all(|p| p.abs() < 1e-11), "{name}: {momentum:?}");
    }
}

/// Fixed atoms do not move by a bit, and count.
#[test]
fn fixed_atoms() {
    for (name, ensemble) in ensembles().into_iter().filter(|(_, e)| !e.has_barostat()) {
        let (structure, mut field) = einstein(5, 3.0);
        let mut moved = structure.clone();
        moved.positions[3] = [28.7, 1.3, -2.1];
        let settings = Settings { fixed: vec![1, 3], ..reduced(ensemble, 1.0, 0.02) };
        let mut dynamics = Dynamics::new(moved.clone(), settings, &mut field).unwrap();
        assert_eq!(dynamics.degrees_of_freedom(), 9.0);
        assert!((dynamics.thermo().temperature * BOLTZMANN - 1.0).abs() < 1e-13);
        run(&mut dynamics, &mut field, 300);
        for atom in [1, 3] {
            assert_eq!(dynamics.state().structure.positions[atom], moved.positions[atom], "{name}");
            assert_eq!(dynamics.state().velocities[atom], [0.0; 3], "{name}");
        }
        assert_ne!(dynamics.state().structure.positions[2], moved.positions[2], "{name}");
    }
}

/// Temperature follows its ramp, and what a bath conserves is conserved on the way.
#[test]
fn temperature_ramps() {
    for (name, ensemble) in ensembles().into_iter().filter(|(_, e)| e.has_thermostat() && !e.has_barostat()) {
        let (structure, mut field) = einstein(200, 1.0);
        let steps = 4000;
        let ramp = Ramp { from: 1.0 / BOLTZMANN, to: 3.0 / BOLTZMANN };
        let settings = Settings { temperature: ramp, steps: steps as u64, ..reduced(ensemble, 1.0, 0.05) };
        let mut dynamics = Dynamics::new(structure, settings, &mut field).unwrap();
        let start = dynamics.conserved();
        run(&mut dynamics, &mut field, steps / 2);
        assert_eq!(dynamics.target_temperature() * BOLTZMANN, 2.0);
        run(&mut dynamics, &mut field, steps / 2);
        assert_eq!(dynamics.thermo().target_temperature, Some(ramp.to));
        let drift = (dynamics.conserved() - start).abs() / 200.0;
        run(&mut dynamics, &mut field, 200);
        assert_eq!(dynamics.target_temperature(), ramp.to);
        let samples: Vec<f64> = (0..2000)
            .map(|_| {
                run(&mut dynamics, &mut field, 1);
                dynamics.thermo().temperature * BOLTZMANN
            })
            .collect();
        let (found, _) = mean(&samples);
        eprintln!("{name}: {found:.3} at the end, drift {drift:.1e} k_B T an atom");
        assert!((found - 3.0).abs() < 0.15, "{name}: {found}");
        assert!(drift < 5e-3, "{name}: {drift}");
    }
}

/// Nothing is allocated once a run is under way: buffers are swapped.
#[test]
fn buffers_are_swapped() {
    let (mut dynamics, mut field) = liquid(Ensemble::Nve, 0.004);
    run(&mut dynamics, &mut field, 2);
    let buffers = |d: &Dynamics| {
        let mut forces = [d.state.evaluation.forces.as_ptr(), d.scratch.forces.as_ptr()];
        forces.sort();
        (forces, d.state.structure.positions.as_ptr(), d.state.velocities.as_ptr())
    };
    let before = buffers(&dynamics);
    run(&mut dynamics, &mut field, 5);
    assert_eq!(buffers(&dynamics), before);
}
