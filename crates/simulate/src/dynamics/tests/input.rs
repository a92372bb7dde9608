//! Settings and structures that make no sense are found before anything is evaluated.

use super::super::{Velocities, suggested_time_step};
use super::*;
use crate::SimulateError;

/// A force field that must not be asked.
struct Untouched;

impl ForceField for Untouched {
    fn evaluate_into(&mut self, _: &Structure, _: &mut Evaluation) -> Result<(), ForceError> {
        panic!("evaluated");
    }
}

fn refused(structure: Structure, settings: Settings) -> String {
    let error = Dynamics::new(structure, settings, &mut Untouched).unwrap_err();
    assert!(error.hint().is_some(), "{error}");
    assert!(matches!(error, SimulateError::Input { .. } | SimulateError::Structure(_)), "{error}");
    error.to_string()
}

#[test]
fn nonsense_is_refused() {
    let good = reduced(Ensemble::Nve, 1.0, 0.004);
    let argon = || fcc(1, 0.8);
    let bussi = Ensemble::Bussi { time: 100.0 };
    let mtk = Ensemble::Mtk { time: 100.0, barostat_time: 1000.0, anisotropic: false };
    let zero = Ramp::constant(0.0);
    let cases: Vec<(Structure, Settings, &str)> = vec![
        (Structure::default(), good.clone(), "there are no atoms"),
        (argon(), Settings { time_step: 0.0, ..good.clone() }, "the time step is 0"),
        (argon(), Settings { time_step: f64::NAN, ..good.clone() }, "the time step is NaN"),
        (argon(), Settings { temperature: zero, ensemble: bussi, ..good.clone() }, "the temperature is 0"),
        (argon(), Settings { temperature: Ramp::constant(-1.0), ..good.clone() }, "the temperature is -1"),
        (argon(), Settings { ensemble: Ensemble::Langevin { friction: -1.0 }, ..good.clone() }, "the friction is -1"),
        (argon(), Settings { ensemble: Ensemble::NoseHoover { time: 100.0, chain: 0 }, ..good.clone() }, "a chain of no thermostats"),
        (argon(), Settings { ensemble: Ensemble::NoseHoover { time: 0.0, chain: 3 }, ..good.clone() }, "the time of the thermostat is 0"),
        (argon(), Settings { fixed: vec![0, 1, 2, 3], ..good.clone() }, "all atoms are fixed"),
        (argon(), Settings { fixed: vec![7], ..good.clone() }, "atom 7 is to be fixed, but there are 4 atoms"),
        (argon(), Settings { fixed: vec![0], ensemble: mtk, ..good.clone() }, "atoms cannot be fixed while the cell changes"),
        (argon(), Settings { pressure: Ramp::constant(f64::INFINITY), ensemble: mtk, ..good.clone() }, "the pressure is inf"),
        (
            Structure { pbc: [true, true, false], ..argon() },
            Settings { ensemble: mtk, ..good.clone() },
            "constant pressure needs a structure that is periodic",
        ),
        (argon(), Settings { remove_rotation: true, ..good.clone() }, "the structure is periodic and cannot rotate"),
        (Structure { numbers: vec![18, 18, 0, 18], ..argon() }, good.clone(), "atom 2 (X) has no mass"),
        (argon(), Settings { masses: [("Ar".to_owned(), -2.0)].into(), ..good.clone() }, "the mass of Ar is -2"),
        (argon(), Settings { masses: [("Arg".to_owned(), 2.0)].into(), ..good.clone() }, "\"Arg\" is given a mass, but is no element"),
        (argon(), Settings { velocities: Velocities::Given, ..good.clone() }, "the structure has no velocities"),
        (Structure::molecule(vec![18], vec![[0.0; 3]]), good.clone(), "the only atom is held by the centre of mass"),
        (Structure::molecule(vec![18; 2], vec![[0.0; 3]; 2]), good.clone(), "atoms 0 and 1 are on the same spot"),
    ];
    for (structure, settings, expected) in cases {
        let text = refused(structure, settings);
        assert!(text.contains(expected), "{text:?} does not say {expected:?}");
    }
}

#[test]
fn a_barostat_needs_stress_and_sense() {
    let mtk = Ensemble::Mtk { time: 100.0, barostat_time: 1000.0, anisotropic: false };
    let structure = fcc(1, 0.8);
    let mut field = EinsteinCrystal { stiffness: 1.0, anchors: structure.positions.clone() };
    let error = Dynamics::new(structure, reduced(mtk, 1.0, 0.004), &mut field).unwrap_err();
    assert!(error.to_string().contains("gives no stress"), "{error}");
    // A barostat that would blow the cell up in one step says so instead.
    for (name, ensemble) in barostats() {
        let settings = Settings { pressure: Ramp::constant(1e9), ..reduced(ensemble, 1.0, 0.05) };
        let mut dynamics = Dynamics::new(fcc(2, 0.8), settings, &mut SpringCell { stiffness: 0.0 }).unwrap();
        let error = (0..100).find_map(|_| dynamics.step(&mut SpringCell { stiffness: 0.0 }).err()).expect(name);
        assert!(error.to_string().contains("would strain the cell by more than 10 % in one step"), "{error}");
    }
}

#[test]
fn halves_of_steps_alternate() {
    let mut field = lennard_jones();
    let mut dynamics = Dynamics::new(fcc(1, 0.8), reduced(Ensemble::Nve, 1.0, 0.004), &mut field).unwrap();
    let mut evaluation = field.evaluate(&dynamics.state().structure).unwrap();
    assert!(dynamics.complete(&mut evaluation).is_err());
    dynamics.advance().unwrap();
    assert!(dynamics.advance().is_err());
    assert!(dynamics.complete(&mut Evaluation::default()).unwrap_err().to_string().contains("0 forces for 4 atoms"));
    dynamics.complete(&mut evaluation).unwrap();
    assert_eq!(dynamics.state().step, 1);
}

#[test]
fn time_steps_by_mass() {
    assert_eq!(suggested_time_step(&[15.999, 1.008]), Some(0.5));
    assert!((suggested_time_step(&[12.011]).unwrap() - 0.5 * (12.011f64 / 1.008).sqrt()).abs() < 1e-12);
    assert_eq!(suggested_time_step(&[28.085]), Some(2.0));
    assert_eq!(suggested_time_step(&[]), None);
}

#[test]
fn masses_can_be_given() {
    let water = Structure::molecule(vec![8, 1, 1], vec![[0.0; 3], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]]);
    let settings = Settings { masses: [("H".to_owned(), 3.024)].into(), ..Settings::default() };
    assert_eq!(settings.masses_of(&water).unwrap(), vec![15.999, 3.024, 3.024]);
}
