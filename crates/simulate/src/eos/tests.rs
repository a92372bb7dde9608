use tesseral_atoms::units::GPA;

use super::*;
use crate::analytic::{Ending, LennardJones};

#[test]
fn exact_data_give_their_parameters_back() {
    for form in Form::ALL {
        for exact in [
            Parameters { energy: -10.84, volume: 160.2, bulk_modulus: 88.0 * GPA, derivative: 4.3 },
            Parameters { energy: 1234.5, volume: 37.7, bulk_modulus: 2.9 * GPA, derivative: 7.1 },
            Parameters { energy: -3.0e5, volume: 900.0, bulk_modulus: 440.0 * GPA, derivative: 3.6 },
        ] {
            // The minimum is not in the middle.
            let energies: Vec<(f64, f64)> =
                (0..9).map(|i| exact.volume * (0.9 + 0.03 * f64::from(i))).map(|v| (v, form.energy(v, &exact))).collect();
            let found = fit(form, &energies).unwrap();
            // Energies of 3e5 eV have 11 digits after rounding to eV: those set what can be had.
            let rounding = if exact.energy.abs() > 1e5 { 1e-5 } else { 1e-8 };
            for (a, b) in found.parameters.array().iter().zip(exact.array()) {
                assert!((a - b).abs() < rounding * b.abs(), "{form:?}: {:?} {exact:?}", found.parameters);
            }
            assert!(found.doubts(&[]).len() <= 1);
        }
    }
}

#[test]
fn pressures_are_derivatives_of_energies() {
    let p = Parameters { energy: -10.84, volume: 160.2, bulk_modulus: 88.0 * GPA, derivative: 4.3 };
    for form in Form::ALL {
        for v in [140.0, 160.2, 171.0] {
            let slope = tesseral_testkit::slope(0.05, |h| form.energy(v + h, &p));
            assert!((form.pressure(v, &p) + slope).abs() < 1e-9, "{form:?} {v}");
        }
        // Bulk modulus and its derivative by pressure at the minimum.
        let bulk = |v: f64| -v * tesseral_testkit::slope(0.05, |h| form.pressure(v + h, &p));
        assert!((bulk(p.volume) / p.bulk_modulus - 1.0).abs() < 1e-9);
        let derivative =
            tesseral_testkit::slope(0.5, |h| bulk(p.volume + h)) / tesseral_testkit::slope(0.5, |h| form.pressure(p.volume + h, &p));
        assert!((derivative - p.derivative).abs() < 1e-6, "{form:?} {derivative}");
    }
}

/// Errors of parameters have the size of their scatter under noise.
#[test]
fn errors_of_parameters_are_their_scatter() {
    let exact = Parameters { energy: -10.84, volume: 160.2, bulk_modulus: 88.0 * GPA, derivative: 4.3 };
    let mut random = tesseral_testkit::Random::new(3);
    let (mut squares, mut stated) = ([0.0; 4], [0.0; 4]);
    for _ in 0..200 {
        let energies: Vec<(f64, f64)> = (0..11)
            .map(|i| exact.volume * (0.92 + 0.016 * f64::from(i)))
            .map(|v| (v, Form::Vinet.energy(v, &exact) + 1e-4 * 3f64.sqrt() * random.number()))
            .collect();
        let found = fit(Form::Vinet, &energies).unwrap();
        for k in 0..4 {
            squares[k] += (found.parameters.array()[k] - exact.array()[k]).powi(2) / 200.0;
            stated[k] += found.errors.unwrap().array()[k].powi(2) / 200.0;
        }
    }
    for k in 0..4 {
        assert!((0.7..1.4).contains(&(squares[k] / stated[k]).sqrt()), "{k}: {squares:?} {stated:?}");
    }
}

const CUTOFF: f64 = 7.9;

/// E, dE/dV, d²E/dV², d³E/dV³ of one atom of the face-centred cubic Lennard-Jones crystal, by lattice sums of u, u′, u″, u‴.
fn lattice_sums(volume: f64) -> [f64; 4] {
    let lj = LennardJones::new(0.0104, 3.4, CUTOFF, Ending::ShiftedForce);
    let a = (4.0 * volume).cbrt();
    let mut sums = [0.0; 4];
    for n in 0..13 * 13 * 13 {
        let m = [n % 13 - 6, n / 13 % 13 - 6, n / 169 - 6];
        let r = m.iter().map(|&k| (f64::from(k) * a / 2.0).powi(2)).sum::<f64>().sqrt();
        if (m[0] + m[1] + m[2]) % 2 != 0 || r == 0.0 || r >= CUTOFF {
            continue;
        }
        let (u, slope) = lj.pair(r);
        let s6 = (3.4 / r).powi(6);
        let second = 24.0 * 0.0104 * (26.0 * s6 * s6 - 7.0 * s6) / (r * r);
        let third = -24.0 * 0.0104 * (364.0 * s6 * s6 - 56.0 * s6) / r.powi(3);
        // dr/dV = r/(3V), d²r/dV² = −2r/(9V²), d³r/dV³ = 10 r/(27 V³).
        let (r1, r2, r3) = (r / (3.0 * volume), -2.0 * r / (9.0 * volume.powi(2)), 10.0 * r / (27.0 * volume.powi(3)));
        sums[0] += u / 2.0;
        sums[1] += slope * r1 / 2.0;
        sums[2] += (second * r1 * r1 + slope * r2) / 2.0;
        sums[3] += (third * r1.powi(3) + 3.0 * second * r1 * r2 + slope * r3) / 2.0;
    }
    sums
}

#[test]
fn a_crystal_has_the_values_of_the_lattice_sums() {
    let (mut low, mut high) = (33.0, 42.0);
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        if lattice_sums(middle)[1] < 0.0 { low = middle } else { high = middle }
    }
    let [energy, _, second, third] = lattice_sums(low);
    let exact = Parameters { energy, volume: low, bulk_modulus: low * second, derivative: -1.0 - low * third / second };
    let h = (4.0 * low).cbrt() / 2.0;
    let crystal = Structure::crystal(Cell::new([[0.0, h, h], [h, 0.0, h], [h, h, 0.0]]), vec![18], vec![[0.1, 0.2, 0.3]]);
    // Little strain, so that all forms are the same function.
    let settings = Settings { range: [0.994, 1.006], points: 9, internal: None };
    let mut lj = LennardJones::new(0.0104, 3.4, CUTOFF, Ending::ShiftedForce);
    let found = equation_of_state(&crystal, &settings, &mut lj, &mut Ledger::in_memory(), &mut |_, _| false).unwrap().unwrap();
    assert_eq!(found.fits.len(), 3);
    for fit in &found.fits {
        let p = fit.parameters;
        assert!((p.energy - energy).abs() < 1e-9 && (p.volume / low - 1.0).abs() < 1e-6, "{p:?} {exact:?}");
        assert!(
            (p.bulk_modulus / exact.bulk_modulus - 1.0).abs() < 1e-4 && (p.derivative / exact.derivative - 1.0).abs() < 5e-3,
            "{p:?} {exact:?}"
        );
        assert!(fit.pressure_rmse.unwrap() < 1e-5 * exact.bulk_modulus && fit.doubts(&found.points).is_empty(), "{fit:?}");
    }
    // A crystal that is drawn out of its shape finds it again at every volume, and has the same equation of state.
    let mut drawn = crystal.clone();
    for row in drawn.cell.vectors.iter_mut().chain(&mut drawn.positions) {
        *row = [row[0] * 1.01 + 0.004 * row[1], row[1] * 1.02, row[2] / (1.01 * 1.02)];
    }
    let shape = Settings { internal: Some(Internal { tolerance: 1e-7, shape: Some(1e-8), ..Internal::default() }), ..settings.clone() };
    let found = equation_of_state(&drawn, &shape, &mut lj, &mut Ledger::in_memory(), &mut |_, _| false).unwrap().unwrap();
    for point in &found.points {
        assert!(point.converged && (point.energy - lattice_sums(point.volume)[0]).abs() < 1e-7, "{point:?}");
    }
    assert!((found.fits[0].parameters.volume / low - 1.0).abs() < 1e-3, "{:?}", found.fits[0]);
    // A range beside the minimum: the fit is there, with a doubt.
    let beside = Settings { range: [1.02, 1.08], ..settings.clone() };
    let found = equation_of_state(&crystal, &beside, &mut lj, &mut Ledger::in_memory(), &mut |_, _| false).unwrap().unwrap();
    assert!(found.fits[0].doubts(&found.points)[0].contains("outside the volumes"), "{:?}", found.fits);
    // All the same energies: nothing to fit.
    assert!(fit(Form::Vinet, &(0..7).map(|i| (10.0 + f64::from(i), 1.0)).collect::<Vec<_>>()).is_none());
    assert!(check(&crystal, &Settings { points: 4, ..settings.clone() }).is_err());
    assert!(check(&crystal, &Settings { range: [1.0, 1.0], ..settings }).is_err());
}
