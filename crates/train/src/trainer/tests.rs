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
pub(super) fn molecules(count: usize, seed: u64, energy: f64) -> String {
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
    // Where oxygen is new, the old domain has nitrogen in its place.
    let old = molecules(9, 2, -10.0);
    let knows_oxygen = foundation.header().elements().contains(&8);
    fs_err::write(folder.join("old.xyz"), if knows_oxygen { old } else { old.replace("O ", "N ") }).unwrap();
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

/// The error of a model in the energy per atom of the old frames.
fn error_on_old(folder: &Path, artifact: &Artifact) -> f64 {
    let model = Model::load(artifact, candle_core::DType::F64, &candle_core::Device::Cpu).unwrap();
    let keys = crate::data::KeysConfig::default();
    let frames = crate::finetune::replay::read(&[folder.join("old.xyz")], &keys, None, false, &[], Stop::never()).unwrap();
    let mut sum = 0.0;
    for frame in &frames {
        let sample = crate::step::Sample::new(artifact.header(), std::sync::Arc::new(frame.clone())).unwrap();
        let batch = model.batch(&[&sample.prepared], &[&sample.frame.structure], sample.head).unwrap();
        sum += ((model.evaluate(&batch).unwrap()[0].energy - frame.energy.unwrap()) / 3.0).powi(2);
    }
    (sum / frames.len() as f64).sqrt()
}

/// The row of an outcome.
fn row<'a>(outcome: &'a Outcome, phase: Phase, set: &str) -> &'a crate::report::ForgettingRow {
    outcome.forgetting.iter().find(|r| r.phase == phase && r.set == set).unwrap()
}

/// The zeros of energy of the old domain move with those of the model, so that nothing is forgotten by the shift alone.
#[test]
fn before_is_before_the_shift_of_energies() {
    let folder = tempfile::tempdir().unwrap();
    let foundation = tiny_artifact(&[1, 8]);
    let outcome = run(folder.path(), &foundation, &["training.max_epochs=1"], &[]);
    let expected = error_on_old(folder.path(), &foundation);
    let found = row(&outcome, Phase::Before, "old domain").errors.energy_per_atom.as_ref().unwrap().rmse;
    assert!((found - expected).abs() < 1e-9 * expected, "{found} and {expected}");
}

/// Oxygen is new to these models. They begin with their errors on the old domain, with energies near those of the data, and learn.
#[test]
fn new_elements_are_learnt_in_every_way_and_resumed_to_the_bit() {
    let (mace, sevennet) = (tiny_artifact(&[1, 7]), tiny_sevennet(&[1, 7]));
    let (mean, like) = ("finetune.new_elements=mean", "finetune.new_elements={ like = { O = \"N\" } }");
    let slow = "optimizer.learning_rate=0.003";
    let ways: [(&Artifact, &[&str]); 8] = [
        (&mace, &[mean]),
        (&sevennet, &[like, "finetune.reestimate_e0s=false"]),
        (&sevennet, &[mean, "finetune.replay.labels=foundation"]),
        (&mace, &[mean, "finetune.mode=multihead"]),
        (&mace, &[like, "finetune.mode=ewc", slow]),
        (&mace, &[like, "finetune.mode=lora", slow]),
        (&sevennet, &[mean, "finetune.mode=lora", slow]),
        (&mace, &[mean, "finetune.mode=frozen", "finetune.freeze=[\"layers.*.radial\"]"]),
    ];
    for (foundation, settings) in ways {
        let (folder, outcome) = the_same_when_resumed(foundation, settings);
        let open = |name: &str| Artifact::open(&folder.path().join("run").join(name)).unwrap();
        let (initial, tuned) = (open("initial.safetensors"), open("model.safetensors"));
        assert_eq!(tuned.header().elements(), [1, 7, 8], "{settings:?}");
        let energy = |phase, set| row(&outcome, phase, set).errors.energy_per_atom.as_ref().unwrap().rmse;
        let expected = error_on_old(folder.path(), foundation);
        let found = energy(Phase::Before, "old domain");
        assert!((found - expected).abs() < 1e-9 * expected, "{settings:?}: {found} and {expected}");
        assert!(energy(Phase::Before, "new domain") < 1.0, "{settings:?}: {}", energy(Phase::Before, "new domain"));
        let forces = |phase| row(&outcome, phase, "new domain").errors.forces.as_ref().unwrap().rmse;
        assert!(forces(Phase::After) < forces(Phase::Before), "{settings:?}");
        // What the new element begins with is moved; `lora` leaves the embeddings of old ones alone.
        let name = "embedding.weight";
        let (before, after) = (initial.f64(name).unwrap(), tuned.f64(name).unwrap());
        let changed = |k: usize| {
            let width = before.len() / 3;
            before[k * width..(k + 1) * width] != after[k * width..(k + 1) * width]
        };
        let lora = settings.contains(&"finetune.mode=lora");
        assert_eq!([changed(0), changed(1), changed(2)], [!lora, !lora, true], "{settings:?}");
        let records = log::read(folder.path().join("run/log.jsonl")).unwrap();
        let added = |r: &Record| matches!(r, Record::Event(event) if event.message.starts_with("elements added: O ("));
        assert_eq!(records.iter().filter(|r| added(r)).count(), 1);
    }
}

#[test]
fn unknown_elements_are_refused_with_what_to_do() {
    crate::enable().unwrap();
    let folder = tempfile::tempdir().unwrap();
    fs_err::write(folder.path().join("new.xyz"), molecules(16, 1, -20.0)).unwrap();
    fs_err::write(folder.path().join("old.xyz"), molecules(3, 2, -20.0)).unwrap();
    let output = format!("output.directory={:?}", folder.path().join("run").display().to_string());
    let attempt = |setting: &str| {
        let overrides = [output.clone(), setting.to_owned()];
        let config = TrainConfig::parse(CONFIG, &folder.path().join("train.toml"), &overrides, PRESETS).unwrap();
        let foundation = Some(tiny_artifact(&[1, 7]));
        let request = Request { config: &config, foundation, resume: false, provenance: Provenance::default() };
        let mut said = String::new();
        let error = train(request, &AtomicBool::new(false), &mut |progress| {
            if let Progress::Checked(findings) = progress {
                said = findings.to_string();
            }
        });
        assert!(!folder.path().join("run/log.jsonl").exists());
        let error = error.unwrap_err();
        format!("{said} | {error} | {}", error.hint().unwrap_or_default())
    };
    for (setting, says) in [
        ("finetune.new_elements=refuse", &["does not know O (16 frames, 16 atoms); it knows H, N", "finetune.new_elements = \"mean\""][..]),
        ("finetune.new_elements={ like = { H = \"N\" } }", &["finetune.new_elements.like.H: the model knows H already"]),
        ("finetune.new_elements={ like = { O = \"S\" } }", &["finetune.new_elements.like.O: the model does not know S", "it knows H, N"]),
        ("finetune.new_elements={ like = { C = \"N\" } }", &["finetune.new_elements.like.C: no training frame has C"]),
        // The old domain is what the model knew before.
        ("finetune.new_elements=mean", &["old.xyz", "does not know element O"]),
    ] {
        let text = attempt(setting);
        assert!(says.iter().all(|part| text.contains(part)), "{setting}: {text}");
    }
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

/// Steps of different frames, so that there is something to remember that does not fit.
#[test]
fn lbfgs_is_resumed_to_the_bit() {
    let foundation = tiny_artifact(&[1, 8]);
    the_same_when_resumed(&foundation, &["optimizer.kind=lbfgs"]);
    the_same_when_resumed(&foundation, &["optimizer.kind=lbfgs", "optimizer.lbfgs={ iterations = 2, history = 3 }", "finetune.mode=lora"]);
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

/// Old frames are checked as new ones are, and what would silently do nothing is an error.
#[test]
fn what_would_go_wrong_in_silence_is_said() {
    crate::enable().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: String| fs_err::write(folder.path().join(name), text).unwrap();
    write("new.xyz", molecules(16, 1, -20.0));
    write("old.xyz", molecules(9, 2, -10.0));
    let atom = "1\nProperties=species:S:1:pos:R:3 energy=-13.6 config_type=IsolatedAtom\nH 0 0 0\n";
    write("atom.xyz", atom.to_owned());
    // Energies in kcal/mol, forces in eV/Å.
    let kcal = |line: &str| match line.split_once("energy=") {
        Some((before, energy)) => format!("{before}energy={:?}\n", 23.060_548 * energy.parse::<f64>().unwrap()),
        None => format!("{line}\n"),
    };
    write("units.xyz", molecules(60, 2, -10.0).lines().map(kcal).collect());
    let output = format!("output.directory={:?}", folder.path().join("run").display().to_string());
    for (settings, says) in [
        (&["finetune.replay.files=[\"units.xyz\"]"][..], "kcal/mol"),
        (&["finetune.replay.files=[\"atom.xyz\"]"], "no frame of the old domain"),
        (&["finetune.forgetting=[\"atom.xyz\"]"], "no frame of the old domain"),
        (&["finetune.mode=frozen", "finetune.freeze=[\"layer.0\"]"], "no parameter matches `layer.0`"),
        (&["finetune.mode=frozen", "finetune.freeze=[\"*\"]"], "nothing to train"),
    ] {
        // Paths of overrides start where the program runs.
        let absolute = |setting: &&str| setting.replace("[\"", &format!("[\"{}/", folder.path().display()));
        let path = |setting: &&str| if setting.contains(".xyz") { absolute(setting) } else { (*setting).to_owned() };
        let overrides: Vec<String> = settings.iter().map(path).chain([output.clone()]).collect();
        let config = TrainConfig::parse(CONFIG, &folder.path().join("train.toml"), &overrides, PRESETS).unwrap();
        let foundation = Some(tiny_artifact(&[1, 8]));
        let request = Request { config: &config, foundation, resume: false, provenance: Provenance::default() };
        let mut said = String::new();
        let error = train(request, &AtomicBool::new(false), &mut |progress| {
            if let Progress::Checked(findings) = progress {
                said = findings.to_string();
            }
        });
        let error = error.unwrap_err();
        assert!(said.contains(says) || error.to_string().contains(says), "{settings:?}: {said} {error}");
        assert!(!folder.path().join("run/log.jsonl").exists());
    }
}
