//! Trainings from nothing: for TensorBoard, with L-BFGS, and asked to stop at any moment.

#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tesseral_models::PRESETS;
use tesseral_potentials::Artifact;

use crate::config::TrainConfig;
use crate::log::{self, Record};
use crate::report::{Phase, Provenance};
use crate::tensorboard::tests::read;
use crate::testing::tiny_artifact;
use crate::trainer::tests::molecules;
use crate::trainer::{Ending, Outcome, Progress, Request, train};

const CONFIG: &str = r#"
[data]
train = ["data.xyz"]
valid_fraction = 0.25
[model]
family = "mace"
r_max = 3.0
num_channels = 4
max_L = 1
max_ell = 2
correlation = 2
radial_MLP = [8]
[loss.weights]
energy = 1.0
forces = 10.0
[training]
max_epochs = 3
batch = { frames = 3 }
precision = "f64"
checkpoint = { epochs = 0, time = 0 }
"#;

/// A training in a folder of its own: 12 frames to train on, 4 to validate on.
struct Run {
    folder: tempfile::TempDir,
    overrides: Vec<String>,
    foundation: Option<Artifact>,
}

impl Run {
    fn new(overrides: &[&str]) -> Self {
        crate::enable().unwrap();
        let folder = tempfile::tempdir().unwrap();
        fs_err::write(folder.path().join("data.xyz"), molecules(16, 1, -20.0)).unwrap();
        let mut overrides: Vec<String> = overrides.iter().map(|&o| o.to_owned()).collect();
        overrides.push(format!("output.directory={:?}", folder.path().join("run").display().to_string()));
        Self { folder, overrides, foundation: None }
    }

    /// A fine-tuning, whose old domain is measured.
    fn of_foundation(overrides: &[&str]) -> Self {
        let mut run = Self::new(overrides);
        let old = run.folder.path().join("old.xyz");
        fs_err::write(&old, molecules(9, 2, -10.0)).unwrap();
        run.overrides.push("finetune.foundation=\"tiny\"".to_owned());
        run.overrides.push(format!("finetune.forgetting=[{:?}]", old.display().to_string()));
        run.foundation = Some(tiny_artifact(&[1, 8]));
        run
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("run").join(name)
    }

    /// Begins, or goes on; it is asked to stop by `stop`, or when `when` says so.
    fn go(&self, resume: bool, stop: bool, when: &mut (dyn FnMut(&Progress<'_>) -> bool + Send)) -> Outcome {
        let config = TrainConfig::parse(CONFIG, &self.folder.path().join("train.toml"), &self.overrides, PRESETS).unwrap();
        let stop = AtomicBool::new(stop);
        let request = Request { config: &config, foundation: self.foundation.clone(), resume, provenance: Provenance::default() };
        let outcome = train(request, &stop, &mut |progress| {
            if when(&progress) {
                stop.store(true, Ordering::Relaxed);
            }
        });
        outcome.unwrap_or_else(|e| panic!("{:?}: {e} {:?}", self.overrides, e.hint()))
    }

    fn begin(&self) -> Outcome {
        self.go(false, false, &mut |_| false)
    }

    fn resume(&self) -> Outcome {
        self.go(true, false, &mut |_| false)
    }

    fn interrupted_after(&self, step: u64) {
        let outcome = self.go(false, false, &mut |progress| matches!(progress, Progress::Step(s, _) if s.step == step));
        assert_eq!(outcome.ending, Ending::Interrupted);
    }

    fn records(&self) -> Vec<Record> {
        log::read(self.path("log.jsonl")).unwrap()
    }

    /// Losses of steps, before each.
    fn losses(&self) -> Vec<f64> {
        self.records().iter().filter_map(|r| if let Record::Step(s) = r { Some(s.loss) } else { None }).collect()
    }

    /// What came out, to the bit: the model and all that was measured on the way.
    fn bits(&self) -> (Vec<u8>, Vec<String>) {
        let measured = self.records().into_iter().filter_map(|record| match record {
            Record::Step(s) => Some(format!("{} {} {:?}", s.step, s.epoch, s.loss)),
            Record::Epoch(e) => Some(format!("{} {} {:?}", e.step, e.epoch, e.loss)),
            Record::Validation(v) => Some(format!("{} {} {:?} {}", v.step, v.epoch, v.loss, v.best)),
            Record::Forgetting(f) => Some(format!("{} {:?} {} {:?}", f.step, f.phase, f.set, f.errors.forces.as_ref().unwrap().rmse)),
            _ => None,
        });
        (fs_err::read(self.path("model.safetensors")).unwrap(), measured.collect())
    }

    fn checkpoints(&self) -> BTreeSet<PathBuf> {
        fs_err::read_dir(self.path("checkpoints")).unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    /// Event files in the order of their names.
    fn event_files(&self) -> Vec<PathBuf> {
        let folder = fs_err::read_dir(self.path("tensorboard")).unwrap();
        folder.map(|entry| entry.unwrap().path()).collect::<BTreeSet<_>>().into_iter().collect()
    }

    fn says(&self, words: &str) -> bool {
        self.records().iter().any(|r| matches!(r, Record::Event(e) if e.message.contains(words)))
    }
}

#[test]
fn scalars_for_tensorboard_are_those_of_the_log() {
    let run = Run::new(&["output.tensorboard=true"]);
    run.interrupted_after(5);
    let (starts, mut scalars) = read(&run.event_files()[0]);
    assert_eq!(starts, [0]);
    let steps = |scalars: &[(u64, String, f32)]| scalars.iter().filter(|(_, tag, _)| tag == "step/loss").map(|s| s.0).collect::<Vec<_>>();
    assert_eq!(steps(&scalars), [1, 2, 3, 4, 5]);
    assert_eq!(run.resume().ending, Ending::Finished);
    let files = run.event_files();
    assert_eq!(files.len(), 2);
    let (starts, later) = read(&files[1]);
    assert!(starts.iter().all(|&start| start == 6) && !starts.is_empty(), "{starts:?}");
    assert_eq!(steps(&later), [6, 7, 8, 9, 10, 11, 12]);
    scalars.extend(later);
    let mut expected = Vec::new();
    for record in run.records() {
        let mut add = |step: u64, tag: &str, value: f64| expected.push((step, tag.to_owned(), value as f32));
        match record {
            Record::Step(s) => {
                add(s.step, "step/loss", s.loss);
                s.terms.iter().for_each(|(term, value)| add(s.step, &format!("step/loss_{term}"), *value));
                add(s.step, "step/learning_rate", s.learning_rate);
                add(s.step, "step/gradient_norm", s.gradient_norm);
                add(s.step, "step/seconds", s.seconds);
            }
            Record::Epoch(e) => {
                add(e.step, "epoch/loss", e.loss);
                add(e.step, "epoch/learning_rate", e.learning_rate);
                add(e.step, "epoch/seconds", e.seconds);
            }
            Record::Validation(v) => {
                add(v.step, "valid/loss", v.loss);
                let (energy, per_atom, forces) = (v.errors.energy.unwrap(), v.errors.energy_per_atom.unwrap(), v.errors.forces.unwrap());
                for (name, errors) in [("energy", energy), ("energy_per_atom", per_atom), ("forces", forces)] {
                    add(v.step, &format!("valid/{name}_rmse"), errors.rmse);
                    add(v.step, &format!("valid/{name}_mae"), errors.mae);
                }
                add(v.step, "valid/seconds", v.seconds);
            }
            _ => {}
        }
    }
    assert_eq!(scalars, expected);
    let tags: BTreeSet<&str> = scalars.iter().map(|(_, tag, _)| tag.as_str()).collect();
    assert!(tags.contains("step/loss_energy") && tags.contains("step/loss_forces") && tags.len() == 17, "{tags:?}");

    let without_log = Run::new(&["output.tensorboard=true", "output.log=false", "training.max_epochs=1"]);
    without_log.begin();
    assert_eq!(steps(&read(&without_log.event_files()[0]).1), [1, 2, 3, 4]);
    assert!(!without_log.path("log.jsonl").exists());
    let neither = Run::new(&["training.max_epochs=1"]);
    neither.begin();
    assert!(!neither.path("tensorboard").exists());
}

/// With L-BFGS on all frames at once.
const FULL_BATCH: [&str; 3] = ["optimizer.kind=lbfgs", "training.batch={ frames = 100 }", "training.max_epochs=11"];

#[test]
fn lbfgs_goes_down_in_every_step() {
    let lbfgs = Run::new(&FULL_BATCH);
    assert_eq!(lbfgs.begin().ending, Ending::Finished);
    let losses = lbfgs.losses();
    assert_eq!(losses.len(), 11);
    assert!(losses.windows(2).all(|pair| pair[1] < pair[0]), "{losses:?}");
    assert!(!lbfgs.says("L-BFGS"));
    // The same frames in three batches.
    let accumulated = Run::new(&[&FULL_BATCH[..], &["training.batch={ frames = 5 }", "training.accumulate=3"]].concat());
    accumulated.begin();
    let close = |(a, b): (&f64, &f64)| (a - b).abs() < 1e-6 * a;
    assert!(losses[..5].iter().zip(&accumulated.losses()[..5]).all(close), "{losses:?} and {:?}", accumulated.losses());
    // The averaged weights of each step were validated, and the best of them are the model.
    let validations: Vec<f64> =
        lbfgs.records().iter().filter_map(|r| if let Record::Validation(v) = r { Some(v.loss) } else { None }).collect();
    assert!(validations.len() == 12 && validations[11] < 0.5 * validations[0], "{validations:?}");
}

#[test]
fn lbfgs_resumed_after_half_of_its_steps_gives_the_same_bits() {
    let whole = Run::new(&[&FULL_BATCH[..], &["training.max_epochs=6"]].concat());
    whole.begin();
    let parts = Run::new(&[&FULL_BATCH[..], &["training.max_epochs=6"]].concat());
    parts.interrupted_after(3);
    assert_eq!(parts.resume().ending, Ending::Finished);
    assert!(whole.bits() == parts.bits());
}

#[test]
fn lbfgs_on_parts_of_the_data_is_warned_of() {
    let run = Run::new(&["optimizer.kind=lbfgs", "training.max_epochs=1"]);
    run.begin();
    assert!(run.says("a step sees 3 of 12"));
    let rates: BTreeSet<String> =
        run.records().iter().filter_map(|r| if let Record::Step(s) = r { Some(s.learning_rate.to_string()) } else { None }).collect();
    assert_eq!(rates, ["1".to_owned()].into());
}

/// At a minimum there is nothing to do, which is said once.
#[test]
fn lbfgs_says_when_it_gets_no_further() {
    let settings = ["optimizer.lbfgs.gradient_tolerance=1e9", "training.max_epochs=3"];
    let run = Run::new(&[&FULL_BATCH[..], &settings].concat());
    run.begin();
    let said = run.records().iter().filter(|r| matches!(r, Record::Event(e) if e.message.contains("as small as was asked for"))).count();
    assert_eq!(said, 1);
    let losses = run.losses();
    assert!(losses.len() == 3 && losses.iter().all(|loss| (loss - losses[0]).abs() < 1e-12 * losses[0]), "{losses:?}");
}

type When = fn(&Progress<'_>) -> bool;

#[test]
fn asked_to_stop_at_any_moment_it_goes_on_to_the_same_bits() {
    let never: When = |_| false;
    let begun = Ending::Interrupted;
    let moments: [(&str, bool, When, Ending); 7] = [
        ("before it is started", true, never, Ending::NotBegun),
        ("when the data are checked", false, |p| matches!(p, Progress::Checked(_)), Ending::NotBegun),
        ("before the first validation", false, |p| matches!(p, Progress::Ready(_)), begun),
        ("after the first validation", false, |p| matches!(p, Progress::Validation(v) if v.epoch == 0), begun),
        ("in a step", false, |p| matches!(p, Progress::Step(s, _) if s.step == 8), begun),
        ("before a validation", false, |p| matches!(p, Progress::Epoch(e) if e.epoch == 2), begun),
        ("while the end is measured", false, |p| matches!(p, Progress::Validation(v) if v.epoch == 3), begun),
    ];
    for run in [Run::new, Run::of_foundation] {
        let whole = run(&[]);
        assert_eq!(whole.begin().ending, Ending::Finished);
        for (name, stop, mut when, ending) in moments {
            let parts = run(&[]);
            let outcome = parts.go(false, stop, &mut when);
            assert_eq!((outcome.ending, outcome.model), (ending, None), "{name}");
            if ending == Ending::NotBegun {
                // Nothing that would be taken for a run.
                assert!(!parts.path("log.jsonl").exists() && !parts.path("config.toml").exists(), "{name}");
                assert_eq!(parts.begin().ending, Ending::Finished, "{name}");
            } else {
                let before = parts.checkpoints();
                // It is asked to stop again, before it goes on: nothing changes.
                assert_eq!(parts.go(true, true, &mut |_| false).ending, Ending::NotBegun, "{name}");
                assert_eq!(parts.checkpoints(), before, "{name}");
                assert_eq!(parts.resume().ending, Ending::Finished, "{name}");
                assert!(parts.path("report.html").exists(), "{name}");
            }
            let (found, expected) = (parts.bits(), whole.bits());
            assert_eq!(found.1, expected.1, "{name}");
            assert!(found.0 == expected.0, "{name}: the weights differ");
        }
    }
}

/// Errors on the old domain are missing when it is asked to stop right after a validation: that is as if there had been none.
#[test]
fn a_validation_without_its_other_half_is_repeated() {
    let run = Run::of_foundation(&["training.patience=1"]);
    let outcome = run.go(false, false, &mut |p| matches!(p, Progress::Validation(v) if v.epoch == 1));
    assert_eq!(outcome.ending, Ending::Interrupted);
    let steps = |run: &Run| run.losses().len();
    assert_eq!(steps(&run), 4);
    run.resume();
    let rows = |phase: Phase| run.records().iter().filter(|r| matches!(r, Record::Forgetting(row) if row.phase == phase)).count();
    assert_eq!((rows(Phase::Before), rows(Phase::After)), (2, 2));
    let best: Vec<bool> = run.records().iter().filter_map(|r| if let Record::Validation(v) = r { Some(v.best) } else { None }).collect();
    let whole = Run::of_foundation(&["training.patience=1"]);
    whole.begin();
    let expected: Vec<bool> =
        whole.records().iter().filter_map(|r| if let Record::Validation(v) = r { Some(v.best) } else { None }).collect();
    assert_eq!(best, expected);
    assert!(run.bits() == whole.bits());
}

#[test]
fn a_longer_training_goes_on_from_the_end_of_a_shorter_one() {
    // Neither schedule nor second stage depends on the length, and the only checkpoint is that of the end.
    let mut parts = Run::new(&["training.max_epochs=2"]);
    parts.begin();
    parts.overrides.push("training.max_epochs=3".to_owned());
    assert_eq!(parts.go(true, false, &mut |p| matches!(p, Progress::Ready(r) if r.done != (8, 2))).ending, Ending::Finished);
    let whole = Run::new(&[]);
    whole.begin();
    assert_eq!(whole.losses(), parts.losses());
    assert!(whole.bits().0 == parts.bits().0);
}

#[test]
fn time_counts_from_the_start_of_the_program() {
    let run = Run::new(&["training.max_time=2"]);
    let outcome = run.go(false, false, &mut |progress| {
        if matches!(progress, Progress::Checked(_)) {
            std::thread::sleep(Duration::from_millis(2100));
        }
        false
    });
    assert_eq!(outcome.ending, Ending::Time);
    assert!(outcome.model.is_some_and(|model| model.exists()) && run.losses().is_empty());
    let wall = run.records().iter().find_map(|r| if let Record::End(end) = r { Some(end.wall_seconds) } else { None });
    assert!(wall.unwrap() > 2.1, "{wall:?}");
    // When it is resumed, its time begins anew.
    run.resume();
    assert!(!run.losses().is_empty());
}
