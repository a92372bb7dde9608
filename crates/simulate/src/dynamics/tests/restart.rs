//! Runs that are saved go on to the bit.

use super::super::{Saved, State, Velocities};
use super::*;

#[test]
fn every_ensemble_goes_on_to_the_bit() {
    for (name, ensemble) in ensembles() {
        let mut structure = fcc(2, 0.8);
        structure.info.insert("name".into(), "argon".into());
        let ramp = Ramp { from: 1.0 / BOLTZMANN, to: 1.5 / BOLTZMANN };
        let settings = Settings { temperature: ramp, pressure: Ramp { from: 1.0, to: 2.0 }, steps: 80, ..reduced(ensemble, 1.0, 0.004) };
        let mut field = lennard_jones();
        let mut through = Dynamics::new(structure.clone(), settings, &mut field).unwrap();
        run(&mut through, &mut field, 40);
        through.set_time_step(fs(0.002)).unwrap();
        run(&mut through, &mut field, 3);
        let text = serde_json::to_string(&through.save()).unwrap();
        let saved: Saved = serde_json::from_str(&text).unwrap();
        assert_eq!(saved, through.save(), "{name}");
        let mut restored = Dynamics::restore(saved, structure).unwrap();
        assert_eq!(restored.thermo(), through.thermo(), "{name}");
        // Both with a new list of neighbours: another order of summation would be another rounding of forces, of which dynamics knows nothing.
        run(&mut through, &mut lennard_jones(), 50);
        run(&mut restored, &mut lennard_jones(), 50);
        assert_eq!(restored.state().step, 93);
        let bits = |d: &Dynamics| -> Vec<u64> {
            let State { structure, velocities, evaluation, .. } = d.state();
            let numbers = structure.positions.iter().chain(velocities).chain(&evaluation.forces).chain(&structure.cell.vectors).flatten();
            numbers.chain(&[d.state().time, d.conserved()]).map(|x| x.to_bits()).collect()
        };
        assert_eq!(bits(&restored), bits(&through), "{name}");
        assert_eq!(restored.state().structure.info["name"].as_str(), Some("argon"));
        assert!((restored.state().time - fs(0.16 + 0.106)).abs() < 1e-9);
    }
}

#[test]
fn velocities_that_were_given_are_not_asked_for_again() {
    let mut field = lennard_jones();
    let mut structure = fcc(1, 0.8);
    let given: Vec<[f64; 3]> = (0..4).map(|i| [0.1 * i as f64, 0.2, -0.3]).collect();
    structure.arrays.insert("momenta".into(), tesseral_atoms::Array::vectors(&given));
    let settings = Settings { velocities: Velocities::Given, fix_centre_of_mass: false, ..reduced(Ensemble::Nve, 1.0, 0.004) };
    let settings = Settings { masses: [("Ar".to_owned(), 2.0)].into(), ..settings };
    let dynamics = Dynamics::new(structure.clone(), settings, &mut field).unwrap();
    assert_eq!(dynamics.state().velocities[3], [0.1 * 3.0 / 2.0, 0.1, -0.15]);
    assert!(!dynamics.state().structure.arrays.contains_key("momenta"), "momenta of the start are not those of later steps");
    let restored = Dynamics::restore(dynamics.save(), structure).unwrap();
    assert_eq!(restored.state(), dynamics.state());
}

#[test]
fn other_structures_are_refused() {
    let mut field = lennard_jones();
    let dynamics = Dynamics::new(fcc(2, 0.8), reduced(Ensemble::Nve, 1.0, 0.004), &mut field).unwrap();
    let error = Dynamics::restore(dynamics.save(), fcc(1, 0.8)).unwrap_err();
    assert!(error.to_string().contains("32 atoms that are not those of the structure (Ar4)"), "{error}");
}

/// With half the time step a ramp takes the same time, and twice the steps.
#[test]
fn ramps_go_by_time() {
    let settings = Settings { temperature: Ramp { from: 100.0, to: 200.0 }, steps: 10, time_step: 2.0, ..Settings::default() };
    let structure = Structure::molecule(vec![18, 18], vec![[0.0; 3], [4.0, 0.0, 0.0]]);
    let mut field = LennardJones::new(0.01, 3.4, 8.5, Ending::ShiftedForce);
    let mut dynamics = Dynamics::new(structure, Settings { ensemble: Ensemble::Bussi { time: 100.0 }, ..settings }, &mut field).unwrap();
    for _ in 0..4 {
        dynamics.step(&mut field).unwrap();
    }
    assert_eq!(dynamics.target_temperature(), 140.0);
    dynamics.set_time_step(1.0).unwrap();
    for _ in 0..6 {
        dynamics.step(&mut field).unwrap();
    }
    assert!((dynamics.target_temperature() - 170.0).abs() < 1e-9, "{}", dynamics.target_temperature());
    for _ in 0..6 {
        dynamics.step(&mut field).unwrap();
    }
    assert_eq!((dynamics.state().time, dynamics.target_temperature()), (20.0, 200.0));
}
