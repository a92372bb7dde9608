//! Training by several ranks, here threads, is training by one.

use std::path::PathBuf;
use std::sync::Arc;

use super::*;
use crate::communicator::threads::on_ranks;
use crate::config::TrainConfig;
use crate::optimizer::save_variables;
use crate::ranks::Ranks;

/// Twelve frames to train on, five a step: the last step of an epoch has two.
const SCRATCH: &str = r#"
[data]
train = ["new.xyz"]
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
[optimizer]
learning_rate = 0.01
[training]
max_epochs = 3
batch = { frames = 5 }
valid_batch = { frames = 1 }
threads = 2
precision = "f64"
checkpoint = { epochs = 1, time = 0 }
"#;

/// A folder with data and what is trained in it.
struct Run {
    folder: tempfile::TempDir,
    text: &'static str,
    foundation: Option<Artifact>,
    overrides: Vec<String>,
}

impl Run {
    fn new(text: &'static str, foundation: Option<&Artifact>, overrides: &[&str]) -> Self {
        crate::enable().unwrap();
        let folder = tempfile::tempdir().unwrap();
        fs_err::write(folder.path().join("new.xyz"), molecules(16, 1, -20.0)).unwrap();
        fs_err::write(folder.path().join("old.xyz"), molecules(9, 2, -10.0)).unwrap();
        let mut overrides: Vec<String> = overrides.iter().map(|&o| o.to_owned()).collect();
        overrides.push(format!("output.directory={:?}", folder.path().join("run").display().to_string()));
        Self { folder, text, foundation: foundation.cloned(), overrides }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn config(&self, more: &[String]) -> TrainConfig {
        TrainConfig::parse(self.text, &self.path("train.toml"), &[&self.overrides[..], more].concat(), PRESETS).unwrap()
    }

    /// Trains by so many ranks. The one that `stop` names is asked to stop in a step; `more` are settings of each rank.
    fn go(
        &self,
        size: usize,
        resume: bool,
        stop: Option<(usize, u64)>,
        more: &(dyn Fn(usize) -> Vec<String> + Sync),
    ) -> Vec<Result<Outcome, TrainError>> {
        on_ranks(size, |communicator| {
            let asked = Arc::new(AtomicBool::new(false));
            let ranks = Arc::new(Ranks::new(communicator, asked.clone()));
            let config = self.config(&more(ranks.rank()));
            let request = Request { config: &config, foundation: self.foundation.clone(), resume, provenance: Provenance::default() };
            train_together(&ranks, request, &mut |progress| {
                if let Progress::Step(step, _) = progress
                    && stop == Some((ranks.rank(), step.step))
                {
                    asked.store(true, Ordering::Relaxed);
                }
            })
        })
    }

    /// Trains to its end, or until all ranks were stopped.
    fn train(&self, size: usize, resume: bool, stop: Option<(usize, u64)>) -> Ending {
        let outcomes = self.go(size, resume, stop, &|_| Vec::new());
        let endings: Vec<Ending> = outcomes.into_iter().map(|o| o.unwrap_or_else(|e| panic!("{e} {:?}", e.hint())).ending).collect();
        assert!(endings.iter().all(|ending| *ending == endings[0]), "{endings:?}");
        endings[0]
    }

    /// Losses and norms of all steps, losses and errors of all validations.
    fn curve(&self) -> Vec<(String, f64)> {
        let mut curve = Vec::new();
        for record in log::read(self.path("run/log.jsonl")).unwrap() {
            match record {
                Record::Step(s) => {
                    curve.push((format!("loss of step {}", s.step), s.loss));
                    curve.push((format!("gradient of step {}", s.step), s.gradient_norm));
                    curve.push((format!("frames of step {}", s.step), s.frames as f64));
                }
                Record::Epoch(e) => curve.push((format!("loss of epoch {}", e.epoch), e.loss)),
                Record::Validation(v) => {
                    curve.push((format!("validation of epoch {}", v.epoch), v.loss));
                    curve.push((format!("forces of epoch {}", v.epoch), v.errors.forces.unwrap().rmse));
                }
                Record::Evaluation(set) => curve.push((format!("forces of {}", set.set), set.errors.forces.unwrap().rmse)),
                _ => {}
            }
        }
        curve
    }

    fn model(&self) -> Vec<u8> {
        fs_err::read(self.path("run/model.safetensors")).unwrap()
    }
}

fn assert_close(found: &[(String, f64)], expected: &[(String, f64)], tolerance: f64, what: &str) {
    let names = |curve: &[(String, f64)]| curve.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(found), names(expected), "{what}");
    for ((name, a), (_, b)) in found.iter().zip(expected) {
        assert!((a - b).abs() <= tolerance * b.abs(), "{what}, {name}: {a} and {b}");
    }
}

#[test]
fn two_and_three_ranks_train_as_one_process() {
    // Batches that are larger than the ranks are many, that leave ranks without a frame, and that are as large as their edges allow.
    let settings: [&[&str]; 3] =
        [&[], &["training.accumulate=2", "training.batch={ frames = 1 }"], &["training.batch={ edges = 20 }", "average.decay=0.5"]];
    for overrides in settings {
        let one = Run::new(SCRATCH, None, overrides);
        assert_eq!(one.train(1, false, None), Ending::Finished);
        for size in [2, 3] {
            let many = Run::new(SCRATCH, None, overrides);
            assert_eq!(many.train(size, false, None), Ending::Finished);
            let what = format!("{overrides:?}, {size} ranks");
            assert_close(&many.curve(), &one.curve(), 1e-10, &what);
            assert!(many.path("run/report.html").exists() && many.path("run/config.toml").exists(), "{what}");
            let open = |run: &Run| Artifact::open(&run.path("run/model.safetensors")).unwrap();
            let (a, b) = (open(&many), open(&one));
            for name in b.names().filter(|name| name.ends_with("weight")) {
                let close = a.f64(name).unwrap().iter().zip(b.f64(name).unwrap()).all(|(a, b)| (a - b).abs() <= 1e-8);
                assert!(close, "{what}: {name}");
            }
        }
    }
}

/// As one process too, in every way of fine-tuning.
#[test]
fn ranks_fine_tune_as_one_process() {
    let foundation = tiny_artifact(&[1, 8]);
    let settings: [&[&str]; 4] = [
        &["training.max_epochs=2"],
        &["training.max_epochs=2", "finetune.replay.labels=foundation", "finetune.mode=multihead"],
        &["training.max_epochs=2", "finetune.mode=ewc", "finetune.replay.ratio=0", "finetune.ewc_weight=1e2"],
        &["training.max_epochs=2", "finetune.mode=lora", "optimizer.learning_rate=0.003"],
    ];
    for overrides in settings {
        let [one, two] = [1, 2].map(|size| {
            let run = Run::new(CONFIG, Some(&foundation), overrides);
            assert_eq!(run.train(size, false, None), Ending::Finished);
            run.curve()
        });
        assert_close(&two, &one, 1e-9, &format!("{overrides:?}"));
    }
}

/// Weights, moments and averages are the same bits on all ranks, in single precision too.
#[test]
fn ranks_have_the_same_state() {
    for precision in ["f32", "f64"] {
        let precision = format!("training.precision={precision}");
        let run = Run::new(SCRATCH, None, &[&precision, "training.max_epochs=2"]);
        let config = run.config(&[]);
        let states = on_ranks(3, |communicator| {
            let ranks = Arc::new(Ranks::new(communicator, Arc::default()));
            let request = Request { config: &config, foundation: None, resume: false, provenance: Provenance::default() };
            let result = pool().unwrap().install(|| -> Result<_, TrainError> {
                let stop = Stop::new(ranks.stop());
                let mut course = setup::begin(&ranks, request, stop, &mut |_| {})?;
                course.run(stop, &mut |_| {})?;
                let average = course.average.as_ref().map(|average| average.state()).transpose()?;
                Ok((save_variables(&course.variables)?, course.optimizer.state()?, average))
            });
            ranks.settle(result).unwrap()
        });
        assert!(states[0].2.is_some());
        assert!(states.iter().all(|state| *state == states[0]), "{precision}");
    }
}

#[test]
fn asked_to_stop_on_any_rank_all_stop_and_go_on_to_the_same_bits() {
    let whole = Run::new(SCRATCH, None, &[]);
    whole.train(2, false, None);
    let parts = Run::new(SCRATCH, None, &[]);
    let steps = |run: &Run| run.curve().iter().filter(|(name, _)| name.starts_with("loss of step")).count();
    // It is known to all in the step after that.
    assert_eq!(parts.train(2, false, Some((1, 1))), Ending::Interrupted);
    assert_eq!(steps(&parts), 2);
    // This step ends an epoch: the validation after it is left, and made when it goes on.
    assert_eq!(parts.train(2, true, Some((0, 6))), Ending::Interrupted);
    assert_eq!(steps(&parts), 6);
    assert!(!parts.path("run/model.safetensors").exists());
    assert_eq!(parts.train(2, true, None), Ending::Finished);
    assert_eq!(whole.curve(), parts.curve());
    assert!(whole.model() == parts.model(), "the weights differ");
    // Others may go on with it.
    let others = Run::new(SCRATCH, None, &[]);
    assert_eq!(others.train(3, false, Some((2, 3))), Ending::Interrupted);
    assert_eq!(others.train(1, true, None), Ending::Finished);
    assert_close(&others.curve(), &whole.curve(), 1e-10, "by three, then by one");
}

/// Ends as errors of all ranks; returns their messages.
fn fails(run: &Run, resume: bool, more: &(dyn Fn(usize) -> Vec<String> + Sync)) -> Vec<String> {
    run.go(3, resume, None, more).into_iter().map(|outcome| outcome.unwrap_err().to_string()).collect()
}

#[test]
fn what_is_wrong_on_one_rank_ends_all() {
    let run = Run::new(SCRATCH, None, &[]);
    let on = |failing: usize, setting: &'static str| move |rank: usize| if rank == failing { vec![setting.to_owned()] } else { Vec::new() };

    let errors = fails(&run, false, &on(1, "data.train=[\"missing.xyz\"]"));
    assert!(errors[1].contains("missing.xyz") && !errors[1].contains("rank"), "{errors:?}");
    assert!(errors[0].starts_with("rank 1: ") && errors[0].contains("missing.xyz") && errors[0] == errors[2], "{errors:?}");

    let errors = fails(&run, false, &on(2, "training.seed=7"));
    assert!(errors.iter().all(|e| e.contains("the configuration") && e.contains("rank 2")), "{errors:?}");

    let old = format!("data.train=[{:?}]", run.path("old.xyz").display().to_string());
    let errors = fails(&run, false, &|rank| if rank == 1 { vec![old.clone()] } else { Vec::new() });
    assert!(errors.iter().all(|e| e.contains("frames to train on") && e.contains("rank 1")), "{errors:?}");

    let below_a_file = format!("output.directory={:?}", run.path("new.xyz/run").display().to_string());
    let errors = fails(&run, false, &|_| vec![below_a_file.clone()]);
    assert!(errors[0].contains("cannot write") && errors[1] == format!("rank 0: {}", errors[0]) && errors[1] == errors[2], "{errors:?}");

    let errors = fails(&run, true, &|_| Vec::new());
    assert!(errors[0].contains("no training to resume") && errors[2].starts_with("rank 0: "), "{errors:?}");

    // None of this has begun a run.
    assert_eq!(run.train(2, false, None), Ending::Finished);
}

/// A force whose square is no number any more, met by one rank.
#[test]
fn a_number_that_is_none_ends_all_or_sends_all_back() {
    let foundation = tiny_artifact(&[1, 8]);
    let settings = [
        "loss.kind=mse",
        "finetune.replay.files=[]",
        "finetune.forgetting=[]",
        "doctor.allow=[\"energy-force\"]",
        "training.batch={ frames = 2 }",
    ];
    let run = Run::new(CONFIG, Some(&foundation), &settings);
    let text = molecules(8, 3, -20.0);
    let (before, last) = text.trim_end().rsplit_once(' ').unwrap();
    fs_err::write(run.path("bad.xyz"), format!("{before} 1e160\n")).unwrap();
    assert!(last.parse::<f64>().is_ok());
    let path = |name: &str| run.path(name).display().to_string();
    let data = [format!("data.train=[{:?}]", path("bad.xyz")), format!("data.valid=[{:?}]", path("old.xyz"))];
    let stop = |_: usize| data.to_vec();
    let errors: Vec<TrainError> = run.go(2, false, None, &stop).into_iter().map(|outcome| outcome.unwrap_err()).collect();
    for error in &errors {
        assert!(matches!(error, TrainError::NotFinite { origin: Some(origin), .. } if origin.frame == 7), "{error}");
    }
    fs_err::remove_dir_all(run.path("run")).unwrap();
    let back = |_: usize| [&data[..], &["training.nan=rollback".to_owned(), "training.checkpoint.epochs=1".to_owned()]].concat();
    let errors: Vec<TrainError> = run.go(2, false, None, &back).into_iter().map(|outcome| outcome.unwrap_err()).collect();
    assert!(errors.iter().all(|error| matches!(error, TrainError::RolledBack { times: 6, .. })), "{errors:?}");
}
