use tesseral_atoms::{Cell, Evaluation};
use tesseral_testkit::Random;

use super::*;

fn snapshot<'a>(structure: &'a Structure, velocities: &'a [[f64; 3]], masses: &'a [f64], evaluation: &'a Evaluation) -> Snapshot<'a> {
    Snapshot { step: 0, time: 0.0, structure, velocities, masses, evaluation, temperature: 0.0 }
}

/// The integral of a spectrum by the trapezoidal rule.
fn integral(spectrum: &Spectrum) -> f64 {
    let width = spectrum.frequency[1];
    let n = spectrum.density.len();
    width * (spectrum.density.iter().sum::<f64>() - 0.5 * (spectrum.density[0] + spectrum.density[n - 1]))
}

/// Atoms anywhere: g is 1, less the atom itself.
#[test]
fn ideal_gas() {
    let mut random = Random::new(3);
    let (n, a) = (300, 20.0);
    let numbers: Vec<u8> = (0..n).map(|i| if i < 100 { 1 } else { 8 }).collect();
    let mut structure = Structure::crystal(Cell::new([[a, 0.0, 0.0], [4.0, a, 0.0], [0.0, -3.0, a]]), numbers, vec![[0.0; 3]; n]);
    let settings = RadialSettings { bins: 8, ..RadialSettings::for_structure(&structure, 100.0).unwrap() };
    let half = structure.cell.heights().into_iter().fold(f64::INFINITY, f64::min) / 2.0;
    assert_eq!(settings.r_max, half);
    let mut analysis = Analysis::new(Settings { radial: Some(settings), ..Settings::default() }, &structure);
    let evaluation = Evaluation::default();
    for _ in 0..40 {
        for r in &mut structure.positions {
            *r = structure.cell.cartesian([0; 3].map(|_: i32| 0.5 + 0.5 * random.number()));
        }
        analysis.sample(0, &snapshot(&structure, &[], &[], &evaluation)).unwrap();
    }
    let pairs = analysis.radial().unwrap();
    assert_eq!(pairs.iter().map(|p| p.name.as_str()).collect::<Vec<_>>(), ["H–H", "H–O", "O–O"]);
    for (pair, expected) in pairs.iter().zip([0.99, 1.0, 0.995]) {
        // The first bins hold few pairs.
        for bin in 2..8 {
            assert!((pair.g[bin] - expected).abs() < 0.04, "{} {bin}: {}", pair.name, pair.g[bin]);
        }
    }
}

/// In face-centred cubic crystals 12 neighbours are at a/√2, 6 at a, 24 at a √(3/2), 12 at a √2; in rock salt the other kind has 6, then 8.
#[test]
fn shells_of_crystals() {
    let evaluation = Evaluation::default();
    let fcc = [[0.0, 0.0, 0.0], [0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]];
    let mut positions = Vec::new();
    let mut numbers = Vec::new();
    for (x, y, z) in (0..27).map(|i| (i % 3, i / 3 % 3, i / 9)) {
        for s in fcc {
            positions.push([x as f64 + s[0], y as f64 + s[1], z as f64 + s[2]].map(|x| 4.0 * x));
            numbers.push(11);
            positions.push([x as f64 + s[0] + 0.5, y as f64 + s[1], z as f64 + s[2]].map(|x| 4.0 * x));
            numbers.push(17);
        }
    }
    let structure = Structure::crystal(Cell::cubic(12.0), numbers, positions);
    let settings = RadialSettings::for_structure(&structure, 10.0).unwrap();
    assert_eq!(settings.r_max, 6.0);
    let mut analysis = Analysis::new(Settings { radial: Some(settings), ..Settings::default() }, &structure);
    analysis.sample(0, &snapshot(&structure, &[], &[], &evaluation)).unwrap();
    let pairs = analysis.radial().unwrap();
    let within = |pair: &Pair, r: f64| pair.coordination[(r / 0.05).round() as usize - 1];
    for same in [&pairs[0], &pairs[2]] {
        assert_eq!([2.8, 2.9, 4.1, 4.95, 5.75].map(|r| within(same, r)), [0.0, 12.0, 18.0, 42.0, 54.0]);
    }
    assert_eq!([1.9, 2.1, 3.5, 4.6].map(|r| within(&pairs[1], r)), [0.0, 6.0, 14.0, 38.0]);
    // ∫ ρ g 4πr² dr is the same number.
    let (pair, density) = (&pairs[0], 108.0 / 1728.0);
    let shells =
        pair.r.iter().zip(&pair.g).map(|(r, g)| density * g * 4.0 * std::f64::consts::PI * (r * r + 0.05f64.powi(2) / 12.0) * 0.05);
    assert!((shells.sum::<f64>() - pair.coordination.last().unwrap()).abs() < 1e-9);
}

/// Free flight: v² t² for each element; no diffusion law, but the slope of a line where there is one.
#[test]
fn displacement_of_free_flight_and_of_a_walk() {
    let velocities = [[0.01, 0.0, 0.02], [0.0, -0.03, 0.0], [0.01, 0.01, 0.01]];
    let mut structure = Structure::molecule(vec![1, 6, 1], vec![[0.0; 3]; 3]);
    let window = Window { every: 2, lags: 20, spacing: 3 };
    let mut analysis = Analysis::new(Settings { displacement: Some(window), ..Settings::default() }, &structure);
    let evaluation = Evaluation::default();
    for step in 0..200 {
        for (r, v) in structure.positions.iter_mut().zip(&velocities) {
            *r = v.map(|v| v * 0.5 * step as f64);
        }
        analysis.sample(step, &snapshot(&structure, &velocities, &[1.0; 3], &evaluation)).unwrap();
    }
    let curves = analysis.mean_square_displacement(0.5).unwrap();
    assert_eq!(curves.time.len(), 20);
    let speed = velocities.map(|v| v.iter().map(|x| x * x).sum::<f64>());
    for (lag, t) in curves.time.iter().enumerate() {
        assert_eq!(*t, lag as f64);
        assert!((curves.each[0][lag] - (speed[0] + speed[2]) / 2.0 * t * t).abs() < 1e-12);
        assert!((curves.each[1][lag] - speed[1] * t * t).abs() < 1e-12);
        assert!((curves.all[lag] - speed.iter().sum::<f64>() / 3.0 * t * t).abs() < 1e-12);
    }
    // A random walk of steps of variance s² in each direction every fs has D = s²/2.
    let mut random = Random::new(11);
    let n = 400;
    let mut walk = Structure::molecule(vec![18; n], vec![[0.0; 3]; n]);
    let window = Window { every: 1, lags: 100, spacing: 10 };
    let mut analysis = Analysis::new(Settings { displacement: Some(window), ..Settings::default() }, &walk);
    for step in 0..1000 {
        for x in walk.positions.iter_mut().flatten() {
            // Uniform in ±0.1: variance 0.2²/12.
            *x += 0.2 * ((0.5 + 0.5 * random.number()) - 0.5);
        }
        analysis.sample(step, &snapshot(&walk, &[], &[], &evaluation)).unwrap();
    }
    let curves = analysis.mean_square_displacement(1.0).unwrap();
    let found = diffusion(&curves.time, &curves.all).unwrap();
    let expected = 0.1 * 0.04 / 12.0 / 2.0;
    assert!((found.coefficient / expected - 1.0).abs() < 0.05, "{found:?} {expected}");
    assert!(found.uncertainty < 0.1 * expected);
}

/// Harmonic oscillators of two frequencies: each element's spectrum peaks at its own, and integrals are numbers of modes.
#[test]
fn spectrum_of_oscillators() {
    let evaluation = Evaluation::default();
    let structure = Structure::molecule(vec![1, 6], vec![[0.0; 3]; 2]);
    // THz; equal energies.
    let (frequencies, masses) = ([30.0, 12.0], [1.0, 4.0]);
    let window = Window { every: 2, lags: 1000, spacing: 10 };
    let mut analysis = Analysis::new(Settings { velocity: Some(window), ..Settings::default() }, &structure);
    for step in 0..8000u64 {
        let t = step as f64 / 1000.0;
        let v = |i: usize| (2.0 * std::f64::consts::PI * frequencies[i] * t).cos() / f64::sqrt(masses[i]);
        analysis.sample(step, &snapshot(&structure, &[[v(0), 0.0, 0.0], [0.0, v(1), 0.0]], &masses, &evaluation)).unwrap();
    }
    let (all, each) = analysis.density_of_states(1.0, 6.0).unwrap();
    assert!((integral(&all) - 6.0).abs() < 1e-9, "{}", integral(&all));
    for (spectrum, frequency) in each.iter().zip(frequencies) {
        assert!((integral(spectrum) - 3.0).abs() < 0.02, "{}", integral(spectrum));
        let peak = (0..spectrum.density.len()).max_by(|&i, &j| spectrum.density[i].total_cmp(&spectrum.density[j])).unwrap();
        assert!((spectrum.frequency[peak] - frequency).abs() < 0.1, "{} {frequency}", spectrum.frequency[peak]);
    }
    let correlation = analysis.velocity_autocorrelation(1.0).unwrap();
    assert!((correlation.each[0][10] / correlation.each[0][0] - (2.0 * std::f64::consts::PI * 30.0 * 0.02).cos()).abs() < 0.01);
}

/// Saved in the middle and read back, the rest gives the same bits.
#[test]
fn goes_on_after_a_save() {
    let mut random = Random::new(5);
    let cell = Cell::cubic(9.0);
    let mut structure = Structure::crystal(cell, vec![1, 1, 8, 8, 8], vec![[0.0; 3]; 5]);
    let settings = Settings {
        radial: RadialSettings::for_structure(&structure, 10.0),
        displacement: Some(Window { every: 3, lags: 7, spacing: 2 }),
        velocity: Some(Window { every: 2, lags: 9, spacing: 4 }),
    };
    let evaluation = Evaluation::default();
    let mut alone = Analysis::new(settings, &structure);
    let mut resumed = alone.clone();
    for step in 0..100 {
        structure.positions.iter_mut().for_each(|r| *r = [0; 3].map(|_: i32| 9.0 * (0.5 + 0.5 * random.number())));
        let velocities: Vec<[f64; 3]> = (0..5).map(|_| [0; 3].map(|_: i32| 0.5 + 0.5 * random.number() - 0.5)).collect();
        let at = snapshot(&structure, &velocities, &[1.0, 1.0, 16.0, 16.0, 16.0], &evaluation);
        alone.sample(step, &at).unwrap();
        resumed.sample(step, &at).unwrap();
        if step % 13 == 0 {
            resumed = serde_json::from_str(&serde_json::to_string(&resumed).unwrap()).unwrap();
        }
    }
    assert_eq!(alone, resumed);
    assert_eq!(serde_json::to_string(&alone).unwrap(), serde_json::to_string(&resumed).unwrap());
}
