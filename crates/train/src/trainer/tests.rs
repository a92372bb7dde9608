//! Fine-tuning in every mode: interrupted and resumed, the same bits come out.

#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod ranks;

use std::fmt::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use tesseral_models::PRESETS;
use tesseral_potentials::{Model, Parameters};
use tesseral_testkit::Random;

use super::*;
use crate::log::{self, Record};
use crate::report::Phase;
use crate::testing::{tiny_artifact, tiny_sevennet};

/// Water, bent and stretched, with springs between its atoms, around an energy.
fn molecules(count: usize, seed: u64, energy: f64) -> String {
    let mut random = Random::new(seed);
    let mut text = String::new();
    for _ in 0..count {
        let positions = [[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]].map(|p| p.map(|x: f64| x + 0.1 * random.number()));
        let (mut energy, mut forces) = (energy, [[0.0; 3]; 3]);
        for (i, j, length) in [(0, 1, 0.96), (0, 2, 0.96), (1, 2, 1.52)] {
            let v: [f64; 3] = std::array::from_fn(|k| positions[j][k] - positions[i][k]);
            let r = v.iter().map(|x| x * x).sum::<f64>().sqrt();
            energy += 8.0 * (r - length).powi(2);
            for k in 0..3 {
                let f = 16.0 * (r - length) * v[k] / r;
                forces[i][k] += f;
                forces[j][k] -= f;
            }
        }
        writeln!(text, "3\nProperties=species:S:1:pos:R:3:forces:R:3 energy={energy:?}").unwrap();
        for ((symbol, p), f) in ["O", "H", "H"].iter().zip(positions).zip(forces) {
            writeln!(text, "{symbol} {:?} {:?} {:?} {:?} {:?} {:?}", p[0], p[1], p[2], f[0], f[1], f[2]).unwrap();
        }
    }
    text
}

const CONFIG: &str = r#"
[data]
train = ["new.xyz"]
valid_fraction = 0.25
[doctor]
[finetune]
foundation = "tiny"
forgetting = ["old.xyz"]
replay = { files = ["old.xyz"], ratio = 0.7 }
[optimizer]
learning_rate = 0.01
[training]
max_epochs = 3
batch = { frames = 3 }
threads = 2
precision = "f64"
checkpoint = { epochs = 0, time = 0 }
"#;

/// Trains in a folder; interrupted after each of these steps, and resumed.
fn run(folder: &Path, foundation: &Artifact, overrides: &[&str], interruptions: &[u64]) -> Outcome {
    crate::enable().unwrap();
    fs_err::write(folder.join("new.xyz"), molecules(16, 1, -20.0)).unwrap();
    fs_err::write(folder.join("old.xyz"), molecules(9, 2, -10.0)).unwrap();
    let mut overrides: Vec<String> = overrides.iter().map(|&o| o.to_owned()).collect();
    overrides.push(format!("output.directory={:?}", folder.join("run").display().to_string()));
    let config = TrainConfig::parse(CONFIG, &folder.join("train.toml"), &overrides, PRESETS).unwrap();
    let mut interruptions = interruptions.iter();
    let mut resume = false;
    loop {
        let until = interruptions.next();
        let stop = AtomicBool::new(false);
        let request = Request { config: &config, foundation: Some(foundation.clone()), resume, provenance: Provenance::default() };
        let outcome = train(request, &stop, &mut |progress| {
            if let Progress::Step(step, _) = progress
                && Some(&step.step) == until
            {
                stop.store(true, Ordering::Relaxed);
            }
        });
        let outcome = outcome.unwrap_or_else(|e| panic!("{overrides:?}: {e} {:?}", e.hint()));
        if outcome.ending != Ending::Interrupted {
            return outcome;
        }
        assert!(until.is_some());
        resume = true;
    }
}

/// Runs the same with and without interruptions, and returns one of the two.
fn the_same_when_resumed(foundation: &Artifact, overrides: &[&str]) -> (tempfile::TempDir, Outcome) {
    let (whole, parts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let expected = run(whole.path(), foundation, overrides, &[]);
    let resumed = run(parts.path(), foundation, overrides, &[2, 7, 8]);
    let bytes = |outcome: &Outcome| fs_err::read(outcome.model.as_ref().unwrap()).unwrap();
    assert!(bytes(&expected) == bytes(&resumed), "{overrides:?}: the weights differ");
    let rows = |outcome: &Outcome| {
        let row = |r: &crate::report::ForgettingRow| (r.set.clone(), r.phase, r.step, r.errors.forces.as_ref().unwrap().rmse);
        outcome.forgetting.iter().map(row).collect::<Vec<_>>()
    };
    let (expected_rows, resumed_rows) = (rows(&expected), rows(&resumed));
    assert_eq!(expected_rows.len(), 4, "{expected_rows:?}");
    for (a, b) in expected_rows.iter().zip(&resumed_rows) {
        assert_eq!((&a.0, a.1, a.2), (&b.0, b.1, b.2));
        assert!((a.3 - b.3).abs() <= 1e-14 * a.3.abs(), "{a:?} {b:?}");
    }
    // Every line of the two logs that counts.
    let losses = |folder: &Path| {
        let records = log::read(folder.join("run/log.jsonl")).unwrap();
        let of_step = |r: Record| if let Record::Step(s) = r { Some((s.step, s.loss, s.terms)) } else { None };
        records.into_iter().filter_map(of_step).collect::<Vec<_>>()
    };
    assert_eq!(losses(whole.path()), losses(parts.path()));
    (whole, expected)
}

#[test]
fn replay_is_resumed_to_the_bit_and_forgetting_is_written_down() {
    let foundation = tiny_artifact(&[1, 8]);
    let (folder, outcome) = the_same_when_resumed(&foundation, &[]);
    let records = log::read(folder.path().join("run/log.jsonl")).unwrap();
    let steps = records.iter().filter(|r| matches!(r, Record::Step(_))).count();
    // 12 new frames and 0.7 times as many old ones, three at a time, three times over.
    assert_eq!(steps, 3 * 20usize.div_ceil(3));
    let rows: Vec<_> = records.iter().filter_map(|r| if let Record::Forgetting(row) = r { Some(&**row) } else { None }).collect();
    let of_phase = |phase: Phase| rows.iter().filter(|r| r.phase == phase && r.set == "old domain").count();
    assert_eq!((of_phase(Phase::Before), of_phase(Phase::During), of_phase(Phase::After)), (1, 3, 1));
    assert!(rows.iter().all(|row| row.run == "replay"));
    assert!(rows.iter().filter(|r| r.set == "new domain").count() == 5);
    assert!(outcome.errors.iter().any(|row| row.set == "replay" && row.errors.frames == 9));
    assert!(fs_err::read_to_string(folder.path().join("run/report.html")).unwrap().contains("old domain"));
    the_same_when_resumed(&tiny_sevennet(&[1, 8]), &["finetune.replay.labels=foundation", "training.accumulate=2"]);
}

/// The zeros of energy of the old domain move with those of the model, so that nothing is forgotten by the shift alone.
#[test]
fn before_is_before_the_shift_of_energies() {
    let folder = tempfile::tempdir().unwrap();
    let foundation = tiny_artifact(&[1, 8]);
    let outcome = run(folder.path(), &foundation, &["training.max_epochs=1"], &[]);
    let before = outcome.forgetting.iter().find(|r| r.phase == Phase::Before && r.set == "old domain").unwrap();
    let model = Model::load(&foundation, candle_core::DType::F64, &candle_core::Device::Cpu).unwrap();
    let keys = crate::data::KeysConfig::default();
    let frames = crate::finetune::replay::read(&[folder.path().join("old.xyz")], &keys, None, false, &[]).unwrap();
    let mut sum = 0.0;
    for frame in &frames {
        let sample = crate::step::Sample::new(foundation.header(), std::sync::Arc::new(frame.clone())).unwrap();
        let batch = model.batch(&[&sample.prepared], &[&sample.frame.structure], sample.head).unwrap();
        sum += ((model.evaluate(&batch).unwrap()[0].energy - frame.energy.unwrap()) / 3.0).powi(2);
    }
    let expected = (sum / frames.len() as f64).sqrt();
    let found = before.errors.energy_per_atom.as_ref().unwrap().rmse;
    assert!((found - expected).abs() < 1e-9 * expected, "{found} and {expected}");
}

#[test]
fn consolidation_holds_the_weights_and_is_resumed_to_the_bit() {
    let foundation = tiny_artifact(&[1, 8]);
    let moved = |overrides: &[&str]| {
        let (folder, _) = the_same_when_resumed(&foundation, overrides);
        let open = |name: &str| Artifact::open(&folder.path().join("run").join(name)).unwrap();
        let (initial, tuned) = (open("initial.safetensors"), open("model.safetensors"));
        let names: Vec<String> = initial.names().filter(|n| n.starts_with("layers") && n.ends_with("weight")).map(str::to_owned).collect();
        let squares = |name: &String| {
            let (a, b) = (initial.f64(name).unwrap(), tuned.f64(name).unwrap());
            a.iter().zip(&b).map(|(a, b)| (a - b).powi(2)).sum::<f64>()
        };
        (folder, names.iter().map(squares).sum::<f64>().sqrt())
    };
    let mode = ["finetune.mode=ewc", "finetune.replay.ratio=0", "optimizer.learning_rate=0.002"];
    let with = |weight: &'static str| moved(&[&mode[..], &[weight]].concat());
    let (_, free) = with("finetune.ewc_weight=1e-12");
    let (folder, held) = with("finetune.ewc_weight=1e6");
    assert!(held < 0.7 * free, "{held} and {free}");
    assert!(folder.path().join("run/fisher.safetensors").exists());
    let records = log::read(folder.path().join("run/log.jsonl")).unwrap();
    assert!(records.iter().any(|r| matches!(r, Record::Step(s) if s.terms.iter().any(|(name, x)| name == "ewc" && *x > 0.0))));
}

#[test]
fn low_rank_updates_are_merged_and_resumed_to_the_bit() {
    let settings = ["finetune.mode=lora", "finetune.lora={ rank = 2, alpha = 2.0 }", "optimizer.learning_rate=0.003"];
    for foundation in [tiny_artifact(&[1, 8]), tiny_sevennet(&[1, 8])] {
        let (folder, outcome) = the_same_when_resumed(&foundation, &settings);
        let open = |name: &str| Artifact::open(&folder.path().join("run").join(name)).unwrap();
        let (initial, tuned) = (open("initial.safetensors"), open("model.safetensors"));
        let parameters = Parameters::frozen(&initial, candle_core::DType::F64, &candle_core::Device::Cpu);
        Model::build(&initial, &parameters).unwrap();
        let maps = parameters.linear_maps();
        let mut changed = 0;
        for name in initial.names() {
            let Ok(before) = initial.f64(name) else { continue };
            let same = before == tuned.f64(name).unwrap();
            assert!(same || maps.contains_key(name), "{name} changed");
            changed += usize::from(!same);
        }
        assert!(changed > 3, "{changed}");
        assert_eq!(outcome.forgetting[0].run, "lora, replay");
    }
}

#[test]
fn a_new_head_leaves_the_old_one_its_energies() {
    let foundation = tiny_artifact(&[1, 8]);
    let old = foundation.header().heads()[0].clone();
    let (folder, _) = the_same_when_resumed(&foundation, &["finetune.mode=multihead"]);
    let initial = Artifact::open(&folder.path().join("run/initial.safetensors")).unwrap();
    assert_eq!(initial.header().heads(), [old, "finetuned".to_owned()]);
    let energies = initial.f64("atomic_energies").unwrap();
    let before = foundation.f64("atomic_energies").unwrap();
    assert_eq!(energies[..2], before);
    // The new data are some 10 eV lower.
    assert!((energies[2] * 2.0 + energies[3]) < (before[0] * 2.0 + before[1]) - 3.0, "{energies:?}");
}

#[test]
fn old_frames_that_cannot_be_used_are_named_before_the_first_step() {
    let folder = tempfile::tempdir().unwrap();
    crate::enable().unwrap();
    fs_err::write(folder.path().join("new.xyz"), molecules(8, 1, -20.0)).unwrap();
    fs_err::write(folder.path().join("old.xyz"), molecules(2, 1, -20.0).replace("O ", "Au ")).unwrap();
    let output = format!("output.directory={:?}", folder.path().join("run").display().to_string());
    let config = TrainConfig::parse(CONFIG, &folder.path().join("train.toml"), &[output], PRESETS).unwrap();
    let request = Request { config: &config, foundation: Some(tiny_artifact(&[1, 8])), resume: false, provenance: Provenance::default() };
    let error = train(request, &AtomicBool::new(false), &mut |progress| assert!(!matches!(progress, Progress::Step(..)))).unwrap_err();
    assert!(error.to_string().contains("old.xyz") && error.to_string().contains("Au"), "{error}");
}
