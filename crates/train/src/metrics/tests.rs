use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha12Rng;
use tesseral_atoms::{Cell, Structure};

use super::*;
use crate::data::{Origin, Weights};

/// Frames with labels and predictions that are off by some noise.
fn frames(n: usize) -> Vec<(Frame, f64, Vec<[f64; 3]>, [f64; 6])> {
    let mut rng = ChaCha12Rng::seed_from_u64(7);
    let file: Arc<str> = "train.xyz".into();
    (0..n)
        .map(|i| {
            let numbers: Vec<u8> = (0..3 + i % 4).map(|_| [1, 6, 8][rng.random_range(0..3)]).collect();
            let atoms = numbers.len();
            let mut number = || rng.random_range(-1.0..1.0f64);
            let forces: Vec<[f64; 3]> = (0..atoms).map(|_| [number(), number(), number()]).collect();
            let predicted = forces.iter().map(|f| f.map(|x| x + 0.05 * number())).collect();
            let energy = -100.0 * atoms as f64 + number();
            let stress = [number(), number(), number(), number(), number(), number()];
            let frame = Frame {
                structure: Structure::crystal(Cell::cubic(10.0), numbers, vec![[0.0; 3]; atoms]),
                energy: Some(energy),
                forces: Some(forces),
                force_mask: None,
                stress: Some(stress),
                weights: Weights::default(),
                group: Some(["bulk", "surface"][i % 2].into()),
                head: (i % 3 == 0).then(|| "pbe".into()),
                origin: Origin { file: file.clone(), frame: i },
            };
            (frame, energy + 0.01 * number(), predicted, stress.map(|s| s + 0.001 * number()))
        })
        .collect()
}

fn measured<'a>(metrics: Metrics, frames: impl IntoIterator<Item = &'a (Frame, f64, Vec<[f64; 3]>, [f64; 6])>) -> Metrics {
    let mut metrics = metrics;
    for (frame, energy, forces, stress) in frames {
        metrics.add(frame, &Prediction { energy: *energy, forces: Some(forces), stress: Some(*stress) });
    }
    metrics
}

fn close(found: f64, expected: f64) {
    assert!((found - expected).abs() <= 1e-12 * expected.abs(), "{found} {expected}");
}

/// MAE, RMSE and R² by their definitions.
fn definitions(pairs: &[(f64, f64)]) -> (f64, f64, f64) {
    let n = pairs.len() as f64;
    let mean = pairs.iter().map(|p| p.1).sum::<f64>() / n;
    let squared: f64 = pairs.iter().map(|(p, r)| (p - r).powi(2)).sum();
    let mae = pairs.iter().map(|(p, r)| (p - r).abs()).sum::<f64>() / n;
    (mae, (squared / n).sqrt(), 1.0 - squared / pairs.iter().map(|p| (p.1 - mean).powi(2)).sum::<f64>())
}

#[test]
fn figures_are_those_of_the_definitions() {
    let frames = frames(40);
    let metrics = measured(Metrics::new(), &frames);
    let summary = metrics.summary("valid");
    let forces_of = |keep: &dyn Fn(&Frame, usize) -> bool| -> Vec<(f64, f64)> {
        let mut pairs = Vec::new();
        for (frame, _, predicted, _) in &frames {
            for (atom, (p, r)) in predicted.iter().zip(frame.forces.as_ref().unwrap()).enumerate() {
                if keep(frame, atom) {
                    pairs.extend(p.iter().copied().zip(r.iter().copied()));
                }
            }
        }
        pairs
    };
    let check = |found: &ErrorSummary, pairs: &[(f64, f64)], unit: &str| {
        let (mae, rmse, r_squared) = definitions(pairs);
        close(found.mae, mae);
        close(found.rmse, rmse);
        close(found.r_squared.unwrap(), r_squared);
        let size = (pairs.iter().map(|p| p.1 * p.1).sum::<f64>() / pairs.len() as f64).sqrt();
        close(found.relative_rmse.unwrap(), rmse / size);
        let mut errors: Vec<f64> = pairs.iter().map(|(p, r)| (p - r).abs()).collect();
        errors.sort_by(f64::total_cmp);
        assert_eq!(found.largest, *errors.last().unwrap());
        let rank = 0.95 * (errors.len() - 1) as f64;
        let (below, above) = (errors[rank.floor() as usize], errors[rank.ceil() as usize]);
        assert!(found.q95 > below * (1.0 - 1.0 / 64.0) && found.q95 < above * (1.0 + 1.0 / 64.0), "{below} {} {above}", found.q95);
        assert_eq!((found.values, found.unit.as_str()), (pairs.len() as u64, unit));
    };
    let errors = &summary.errors;
    assert_eq!(errors.frames, 40);
    assert_eq!(errors.atoms, frames.iter().map(|f| f.0.structure.len() as u64).sum::<u64>());
    let energies: Vec<(f64, f64)> = frames.iter().map(|(frame, e, ..)| (*e, frame.energy.unwrap())).collect();
    let (mae, rmse, _) = definitions(&energies);
    close(errors.energy.as_ref().unwrap().mae, mae);
    close(errors.energy.as_ref().unwrap().rmse, rmse);
    let per_atom: Vec<(f64, f64)> =
        frames.iter().map(|(f, e, ..)| (e / f.structure.len() as f64, f.energy.unwrap() / f.structure.len() as f64)).collect();
    let (mae, rmse, _) = definitions(&per_atom);
    close(errors.energy_per_atom.as_ref().unwrap().mae, mae);
    close(errors.energy_per_atom.as_ref().unwrap().rmse, rmse);
    check(errors.forces.as_ref().unwrap(), &forces_of(&|_, _| true), "eV/Å");
    let stresses: Vec<(f64, f64)> = frames.iter().flat_map(|(f, _, _, s)| s.iter().copied().zip(f.stress.unwrap())).collect();
    check(errors.stress.as_ref().unwrap(), &stresses, "eV/Å³");
    assert_eq!(summary.groups.iter().map(|g| g.name.as_str()).collect::<Vec<_>>(), ["bulk", "surface"]);
    check(summary.groups[1].errors.forces.as_ref().unwrap(), &forces_of(&|f, _| f.group.as_deref() == Some("surface")), "eV/Å");
    assert_eq!((summary.heads.len(), summary.heads[0].errors.frames), (1, 14));
    check(summary.heads[0].errors.forces.as_ref().unwrap(), &forces_of(&|f, _| f.head.is_some()), "eV/Å");
    assert_eq!(summary.elements.iter().map(|e| e.name.as_str()).collect::<Vec<_>>(), ["H", "C", "O"]);
    check(&summary.elements[2].errors, &forces_of(&|f, atom| f.structure.numbers[atom] == 8), "eV/Å");
    // Without samples there is nothing to plot.
    assert!(summary.parity.is_empty() && summary.histograms.is_empty());
}

#[test]
fn what_is_missing_masked_or_weightless_does_not_count() {
    let mut all = frames(4);
    all[0].0.energy = None;
    all[1].0.weights.energy = 0.0;
    all[1].0.weights.stress = 0.0;
    all[2].0.forces = None;
    all[3].0.force_mask = Some((0..all[3].0.structure.len()).map(|atom| atom == 1).collect());
    let mut metrics = measured(Metrics::with_samples(1000, 0), &all[..3]);
    let (frame, energy, forces, _) = &all[3];
    metrics.add(frame, &Prediction { energy: *energy, forces: Some(forces), stress: None });
    let summary = metrics.summary("valid");
    let atoms = |i: usize| all[i].0.structure.len() as u64;
    let values = |errors: &Option<ErrorSummary>| errors.as_ref().unwrap().values;
    assert_eq!((values(&summary.errors.energy), values(&summary.errors.energy_per_atom)), (2, 2));
    assert_eq!(values(&summary.errors.forces), 3 * (atoms(0) + atoms(1) + 1));
    assert_eq!(values(&summary.errors.stress), 12);
    assert_eq!(summary.elements.iter().map(|e| e.errors.values).sum::<u64>(), values(&summary.errors.forces));
    assert_eq!(summary.parity[1].points.len() as u64, values(&summary.errors.forces));
    assert!(
        summary.parity[1].outliers.iter().any(|o| o.place.starts_with("frame 3 of train.xyz, atom 1 (")),
        "{:?}",
        summary.parity[1].outliers
    );
    // Without any label there are no figures, and no zeros.
    let mut frame = all[0].0.clone();
    (frame.forces, frame.stress) = (None, None);
    let mut metrics = Metrics::with_samples(10, 0);
    metrics.add(&frame, &Prediction { energy: 0.0, forces: None, stress: None });
    let summary = metrics.summary("valid");
    assert_eq!(summary.errors, SetErrors { frames: 1, atoms: atoms(0), ..SetErrors::default() });
    assert!(summary.parity.is_empty() && summary.histograms.is_empty());
}

/// The same parts in the same order give the same bits; other parts the same counts, quantiles and samples.
#[test]
fn merging() {
    let frames = frames(60);
    let in_parts = |size: usize| {
        let parts = frames.chunks(size).map(|part| measured(Metrics::with_samples(50, 3), part));
        parts
            .reduce(|mut all, part| {
                all.merge(part);
                all
            })
            .unwrap()
            .summary("valid")
    };
    let bits = |summary: &SetSummary| serde_json::to_string(summary).unwrap();
    assert_eq!(bits(&in_parts(7)), bits(&in_parts(7)));
    let (whole, parts) = (in_parts(60), in_parts(7));
    assert_eq!(whole.histograms.iter().map(|h| &h.bins).collect::<Vec<_>>(), parts.histograms.iter().map(|h| &h.bins).collect::<Vec<_>>());
    for (a, b) in whole.parity.iter().zip(&parts.parity) {
        assert_eq!((&a.points, &a.outliers), (&b.points, &b.outliers));
        assert_eq!((a.errors.values, a.errors.q95, a.errors.largest), (b.errors.values, b.errors.q95, b.errors.largest));
        close(a.errors.rmse, b.errors.rmse);
    }
    for (a, b) in whole.groups.iter().zip(&parts.groups) {
        assert_eq!((&a.name, a.errors.frames, a.errors.atoms), (&b.name, b.errors.frames, b.errors.atoms));
        close(a.errors.forces.as_ref().unwrap().mae, b.errors.forces.as_ref().unwrap().mae);
    }
    // Frames in another order: the same sample.
    let backwards = measured(Metrics::with_samples(50, 3), frames.iter().rev()).summary("valid");
    assert_eq!(backwards.parity[1].points, whole.parity[1].points);
    assert_eq!(backwards.parity[1].outliers, whole.parity[1].outliers);
    // Another seed: another one.
    let other = measured(Metrics::with_samples(50, 4), &frames).summary("valid");
    assert_ne!(other.parity[1].points, whole.parity[1].points);
}

#[test]
fn samples_are_uniform_and_keep_the_largest_errors() {
    let mut frames = frames(2000);
    frames[1234].2[2][1] += 5.0;
    let summary = measured(Metrics::with_samples(3000, 0), &frames).summary("valid");
    let forces = &summary.parity[1];
    assert_eq!(forces.points.len(), 3000);
    let element = symbol(frames[1234].0.structure.numbers[2]).unwrap();
    assert_eq!(forces.outliers[0].place, format!("frame 1234 of train.xyz, atom 2 ({element}), y"));
    let errors: Vec<f64> = forces.outliers.iter().map(|o| (o.point.predicted - o.point.reference).abs()).collect();
    assert!(errors.is_sorted_by(|a, b| a >= b) && errors.len() == 12, "{errors:?}");
    assert!((errors[0] - 5.0).abs() < 0.06);
    // Labels are uniform in −1 … 1, so each tenth has about 300 of 3000 points, give or take 16 (one standard deviation).
    let mut tenths = [0; 10];
    for point in &forces.points {
        tenths[((point.reference + 1.0) * 5.0) as usize] += 1;
    }
    assert!(tenths.iter().all(|n| (220..380).contains(n)), "{tenths:?}");
    // The figures are of all points, not of the sample.
    assert_eq!(forces.errors.values, summary.errors.forces.as_ref().unwrap().values);
    assert_eq!(summary.histograms[1].bins.iter().map(|bin| bin.count).sum::<u64>(), forces.errors.values);
}

#[test]
fn a_bad_prediction_is_seen_in_every_figure() {
    let mut frames = frames(5);
    frames[3].2[0][0] = f64::NAN;
    let summary = measured(Metrics::with_samples(100, 0), &frames).summary("valid");
    let forces = summary.errors.forces.clone().unwrap();
    assert!(forces.mae.is_nan() && forces.rmse.is_nan() && forces.largest.is_nan() && forces.q95.is_nan());
    assert!(summary.parity[1].outliers[0].place.starts_with("frame 3 of"));
    // It survives the log.
    let text = serde_json::to_string(&summary).unwrap();
    let back: SetSummary = serde_json::from_str(&text).unwrap();
    assert!(back.errors.forces.unwrap().rmse.is_nan());
    assert_eq!(back.errors.energy, summary.errors.energy);
}
