//! `train`, `finetune` and `doctor`: from files to a model, through interruptions, and what is said of bad input.

use std::fmt::Write as _;
use std::process::{Command as Process, Stdio};
use std::time::{Duration, Instant};

use crate::common::{Sandbox, json_lines};

/// Water molecules, bent and stretched, with the energy and forces of springs: (distance − length)² summed over three pairs.
fn molecules(count: usize) -> String {
    let mut text = String::new();
    let mut state = 1u64;
    let mut random = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1u64 << 53) as f64 - 0.5
    };
    for _ in 0..count {
        let ideal = [[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]];
        let positions = ideal.map(|p| p.map(|x: f64| x + 0.15 * random()));
        let (mut energy, mut forces) = (-14.0, [[0.0; 3]; 3]);
        for (i, j, length) in [(0, 1, 0.96), (0, 2, 0.96), (1, 2, 1.52)] {
            let v: [f64; 3] = std::array::from_fn(|k| positions[j][k] - positions[i][k]);
            let r = v.iter().map(|x| x * x).sum::<f64>().sqrt();
            energy += 4.0 * (r - length) * (r - length);
            for k in 0..3 {
                let f = 8.0 * (r - length) * v[k] / r;
                forces[i][k] += f;
                forces[j][k] -= f;
            }
        }
        writeln!(text, "3\nProperties=species:S:1:pos:R:3:forces:R:3 energy={energy:?}").unwrap();
        for (k, symbol) in ["O", "H", "H"].iter().enumerate() {
            let [x, y, z] = positions[k];
            let [a, b, c] = forces[k];
            writeln!(text, "{symbol} {x:?} {y:?} {z:?} {a:?} {b:?} {c:?}").unwrap();
        }
    }
    text
}

const CONFIG: &str = r#"
[data]
train = ["data.xyz"]
valid_fraction = 0.2
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
learning_rate = 0.02
[training]
max_epochs = 6
batch = { frames = 4 }
threads = 2
[output]
directory = "run"
name = "water"
"#;

/// A folder with data and a configuration.
pub(crate) fn prepared() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.file("data.xyz", molecules(30));
    sandbox.file("train.toml", CONFIG);
    sandbox
}

#[test]
fn a_model_comes_out_and_can_be_used() {
    let sandbox = prepared();
    let text = sandbox.stdout(&["train", "train.toml"]);
    assert!(text.contains("run/water.safetensors") && text.contains("run/report.html"), "{text}");
    let info = sandbox.stdout(&["info", "run/water.safetensors"]);
    assert!(info.contains("ScaleShiftMACE") && info.contains("water"), "{info}");
    let lines = json_lines(&std::fs::read_to_string(sandbox.path("run/log.jsonl")).unwrap());
    let of_kind = |kind: &str| lines.iter().filter(|l| l["kind"] == kind).collect::<Vec<_>>();
    let losses: Vec<f64> = of_kind("validation").iter().map(|l| l["loss"].as_f64().unwrap()).collect();
    assert_eq!(losses.len(), 7);
    assert!(losses.last() < losses.first(), "{losses:?}");
    assert_eq!(of_kind("step").len(), 6 * 6);
    // What was written in the report is what `evaluate` finds with the model's file.
    let evaluated = sandbox.stdout(&["evaluate", "-m", "run/water.safetensors", "data.xyz"]);
    assert!(evaluated.contains("forces"), "{evaluated}");
    let report = std::fs::read_to_string(sandbox.path("run/report.html")).unwrap();
    assert!(report.starts_with("<!") && report.contains("water"), "no report");
    // A second run into the same folder would mix the two.
    let again = sandbox.run(&["train", "train.toml"]);
    assert!(again.starts_with("exit code 1") && again.contains("--resume"), "{again}");
}

/// Killed at fifty moments, a training ends with the very bits of one that was left alone.
#[test]
fn killed_and_resumed_the_weights_are_the_same_to_the_bit() {
    let alone = prepared();
    let checkpoints = ["training.max_epochs=30", "training.checkpoint.time=0.001"];
    let begin = Instant::now();
    alone.stdout(&[&["train", "train.toml"], &checkpoints[..]].concat());
    let whole = begin.elapsed();
    let killed = prepared();
    let model = |sandbox: &Sandbox| std::fs::read(sandbox.path("run/water.safetensors")).unwrap();
    let last_step = |sandbox: &Sandbox| {
        let lines = json_lines(&std::fs::read_to_string(sandbox.path("run/log.jsonl")).unwrap());
        let last = lines.iter().rev().find(|l| l["kind"] == "step").unwrap().clone();
        (last["step"].clone(), last["loss"].clone())
    };
    let (mut kills, mut state) = (0, 7u64);
    loop {
        let resume = killed.path("run/log.jsonl").exists();
        let mut arguments = [&["train", "train.toml"], &checkpoints[..]].concat();
        if resume {
            arguments.push("--resume");
        }
        let mut process = Process::new(env!("CARGO_BIN_EXE_tesseral"))
            .current_dir(killed.path(""))
            .args(&arguments)
            .env("TESSERAL_CACHE", killed.path("cache"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // From the start of the program to well into the training.
        let moment = whole.mul_f64(0.15 * (state >> 40) as f64 / (1u64 << 24) as f64) + Duration::from_millis(2);
        if kills < 50 {
            std::thread::sleep(moment);
            // It may have ended by itself; SIGKILL leaves no time for anything.
            process.kill().ok();
        }
        let output = process.wait_with_output().unwrap();
        if output.status.success() {
            assert!(model(&alone) == model(&killed), "the weights differ after {kills} kills");
            // The log reads as if nothing had happened.
            assert_eq!(last_step(&alone), last_step(&killed));
            if kills >= 50 {
                break;
            }
            // It was over before all kills were made: the next ones are for another.
            std::fs::remove_dir_all(killed.path("run")).unwrap();
            continue;
        }
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(kills < 50, "it should have run to its end: {error}");
        assert!(!error.lines().any(|line| line.starts_with("error")), "{error}");
        kills += 1;
    }
}

#[test]
fn interrupted_it_saves_its_state() {
    let sandbox = prepared();
    let mut process = Process::new(env!("CARGO_BIN_EXE_tesseral"))
        .current_dir(sandbox.path(""))
        .args(["train", "train.toml", "training.max_epochs=100000"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let begin = Instant::now();
    while !std::fs::read_to_string(sandbox.path("run/log.jsonl")).is_ok_and(|log| log.contains("\"kind\":\"step\"")) {
        assert!(begin.elapsed() < Duration::from_secs(60) && process.try_wait().unwrap().is_none(), "no step");
        std::thread::sleep(Duration::from_millis(20));
    }
    Process::new("kill").args(["-INT", &process.id().to_string()]).status().unwrap();
    let output = process.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(130), "{text}");
    assert!(text.contains("--resume"), "{text}");
    let resumed = sandbox.run(&["train", "train.toml", "--resume", "training.max_epochs=100000", "training.max_time=0.2"]);
    assert!(resumed.starts_with("exit code 0") && resumed.contains("steps are done"), "{resumed}");
}

#[test]
fn interrupted_before_it_began_it_can_be_started_again() {
    let sandbox = prepared();
    sandbox.file("large.xyz", molecules(20_000));
    let mut process = Process::new(env!("CARGO_BIN_EXE_tesseral"))
        .current_dir(sandbox.path(""))
        .args(["train", "train.toml", "data.train=[\"large.xyz\"]"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The folder is made right before the data are read.
    let begin = Instant::now();
    while !sandbox.path("run/checkpoints/lock").exists() {
        assert!(begin.elapsed() < Duration::from_secs(60) && process.try_wait().unwrap().is_none(), "no folder");
        std::thread::sleep(Duration::from_millis(2));
    }
    Process::new("kill").args(["-TERM", &process.id().to_string()]).status().unwrap();
    let output = process.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(130), "{text}");
    assert!(text.contains("nothing was saved") && !sandbox.path("run/log.jsonl").exists(), "{text}");
    let again = sandbox.run(&["train", "train.toml", "training.max_epochs=1"]);
    assert!(again.starts_with("exit code 0"), "{again}");
}

/// Each of several processes would train the same, into the same folder.
#[cfg(not(feature = "mpi"))]
#[test]
fn without_mpi_several_processes_are_refused() {
    let sandbox = prepared();
    for (rank, size) in [("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"), ("PMI_RANK", "PMI_SIZE")] {
        for command in [&["train", "train.toml"][..], &["finetune", "sevennet-0", "data.xyz", "-o", "run"]] {
            let mut process = sandbox.tesseral(command);
            process.env(rank, "1").env(size, "4");
            let text = crate::common::transcript(process);
            assert!(text.starts_with("exit code 1") && text.contains("4 processes") && text.contains("--features mpi"), "{text}");
            assert!(!sandbox.path("run").exists(), "{text}");
        }
    }
    // A single one is as good as none.
    let mut process = sandbox.tesseral(&["train", "train.toml", "training.max_epochs=1"]);
    process.env("OMPI_COMM_WORLD_RANK", "0").env("OMPI_COMM_WORLD_SIZE", "1");
    let text = crate::common::transcript(process);
    assert!(text.starts_with("exit code 0"), "{text}");
}

/// What is wrong is said before the first step, with what to do about it.
#[test]
fn bad_input_is_said_before_the_first_step() {
    let sandbox = prepared();
    let fails = |arguments: &[&str], says: &[&str]| {
        let text = sandbox.run(arguments);
        assert!(text.starts_with("exit code 1") || text.starts_with("exit code 2"), "{text}");
        for part in says {
            assert!(text.contains(part), "`{part}` is not in {text}");
        }
        assert!(!sandbox.path("run/log.jsonl").exists(), "a training began: {text}");
        std::fs::remove_dir_all(sandbox.path("run")).ok();
    };
    fails(&["train", "train.toml", "data.keys.energy=enregy"], &["enregy", "did you mean `energy`"]);
    fails(&["train", "train.toml", "training.max_epoch=3"], &["max_epoch", "max_epochs"]);
    fails(&["train", "train.toml", "training.max_epochs=\"three\""], &["max_epochs", "three"]);
    fails(&["train", "nothing.toml"], &["nothing.toml"]);
    fails(&["train"], &["--init"]);
    sandbox.file("empty.xyz", "");
    fails(&["train", "train.toml", "data.train=[\"empty.xyz\"]"], &["empty.xyz", "empty"]);
    sandbox.file("nan.xyz", molecules(10).replacen("forces:R:3 energy=", "forces:R:3 energy=nan old=", 1));
    fails(&["train", "train.toml", "data.train=[\"nan.xyz\"]"], &["frame 0", "not finite"]);
    let kcal: String = molecules(30)
        .lines()
        .map(|line| match line.split_once("energy=") {
            Some((before, energy)) => format!("{before}energy={:?}\n", energy.parse::<f64>().unwrap() * 23.060_548),
            None => format!("{line}\n"),
        })
        .collect();
    sandbox.file("kcal.xyz", kcal);
    let text = sandbox.run(&["doctor", "kcal.xyz"]);
    assert!(text.contains("kcal"), "{text}");
    sandbox.file("gold.xyz", molecules(10).replace("O ", "Au "));
    fails(&["train", "train.toml", "data.test=[\"gold.xyz\"]"], &["frame 0 of gold.xyz", "Au"]);
    fails(&["finetune", "-o", "run", "no-such-model", "data.xyz"], &["no-such-model"]);
    let text = sandbox.run(&["doctor", "data.xyz"]);
    assert!(text.starts_with("exit code 0"), "{text}");
}

#[test]
fn the_template_is_a_configuration() {
    let sandbox = prepared();
    sandbox.stdout(&["train", "--init", "all.toml"]);
    let text = std::fs::read_to_string(sandbox.path("all.toml")).unwrap();
    assert_eq!(sandbox.stdout(&["train", "--init"]), text);
    let again = sandbox.run(&["train", "--init", "all.toml"]);
    assert!(again.starts_with("exit code 1") && again.contains("exists already"), "{again}");
}

#[test]
fn the_built_in_model_is_fine_tuned() {
    let sandbox = prepared();
    let settings = ["training.max_epochs=2", "training.batch={ frames = 8 }", "data.valid_fraction=0.2"];
    let mut arguments = vec!["finetune", "sevennet-0", "data.xyz", "-o", "tuned"];
    for setting in &settings {
        arguments.extend(["-s", setting]);
    }
    sandbox.stdout(&arguments);
    let lines = json_lines(&std::fs::read_to_string(sandbox.path("tuned/log.jsonl")).unwrap());
    let losses: Vec<f64> = lines.iter().filter(|l| l["kind"] == "validation").map(|l| l["loss"].as_f64().unwrap()).collect();
    assert!(losses.last() < losses.first(), "{losses:?}");
}

/// An element that the built-in model does not know is refused, unless it may be added; what comes out evaluates it as any other.
#[test]
fn the_built_in_model_learns_an_element() {
    let sandbox = prepared();
    sandbox.file("polonium.xyz", molecules(20).replace("O ", "Po "));
    let mut arguments = vec!["finetune", "sevennet-0", "polonium.xyz", "-o", "tuned"];
    for setting in ["training.max_epochs=2", "training.batch={ frames = 8 }", "data.valid_fraction=0.2"] {
        arguments.extend(["-s", setting]);
    }
    let refused = sandbox.run(&arguments);
    assert!(refused.starts_with("exit code 1"), "{refused}");
    assert!(refused.contains("Po (20 frames, 20 atoms)") && refused.contains("finetune.new_elements = \"mean\""), "{refused}");
    assert!(!sandbox.path("tuned/log.jsonl").exists());
    let like = "finetune.new_elements={ like = { Po = \"O\" } }";
    let doctor = ["doctor", "polonium.xyz", "-m", "sevennet-0"];
    assert!(sandbox.run(&doctor).starts_with("exit code 1"));
    let allowed = sandbox.run(&[&doctor[..], &["-s", like]].concat());
    assert!(!allowed.contains("unknown-element"), "{allowed}");
    arguments.extend(["-s", like]);
    sandbox.stdout(&arguments);
    let info = sandbox.stdout(&["info", "tuned/model.safetensors"]);
    assert!(info.contains("elements added: Po (as O)"), "{info}");
    let forces = |arguments: &[&str]| {
        let text = sandbox.stdout(&[&["evaluate", "-m", "tuned/model.safetensors", "-o", "-"][..], arguments].concat());
        let numbers = text.split_whitespace().filter_map(|word| word.parse::<f64>().ok()).collect::<Vec<f64>>();
        assert!(numbers.len() > 20 * 3 * 6, "{text}");
        numbers
    };
    // Both engines know it, in molecules with and without what the model knew before.
    let without_labels = |line: &str| match line.split_whitespace().collect::<Vec<_>>()[..] {
        [symbol, x, y, z, ..] => format!("{symbol} {x} {y} {z}\n"),
        [count] => format!("{count}\n"),
        _ => "Properties=species:S:1:pos:R:3\n".to_owned(),
    };
    let both = [molecules(20).replace("O ", "Po "), molecules(20)].concat();
    sandbox.file("mixed.xyz", both.lines().map(without_labels).collect::<String>());
    let (compiled, oracle) = (forces(&["mixed.xyz"]), forces(&["mixed.xyz", "--engine", "differentiable"]));
    assert_eq!(compiled.len(), oracle.len());
    assert!(compiled.iter().zip(&oracle).all(|(a, b)| (a - b).abs() < 1e-3 * b.abs().max(1.0)), "the engines differ");
}

/// Rock salt, stretched and shaken, without labels.
fn salts(count: usize, mut state: u64) -> String {
    let mut random = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1u64 << 53) as f64 - 0.5
    };
    let mut text = String::new();
    for _ in 0..count {
        let h = 2.8 * (1.0 + 0.1 * random());
        writeln!(text, "2\nLattice=\"0 {h} {h} {h} 0 {h} {h} {h} 0\" Properties=species:S:1:pos:R:3 pbc=\"T T T\"").unwrap();
        let mut near = |x: f64| x + 0.2 * random();
        writeln!(text, "Na {} {} {}", near(0.0), near(0.0), near(0.0)).unwrap();
        writeln!(text, "Cl {} {} {}", near(h), near(h), near(h)).unwrap();
    }
    text
}

/// Water of springs is nothing like what the built-in model knows: it forgets rock salt, and less so if it sees some along the way.
#[test]
fn replay_keeps_what_plain_fine_tuning_forgets() {
    let sandbox = prepared();
    sandbox.file("salt.xyz", salts(12, 1));
    sandbox.file("unlabelled.xyz", salts(6, 2));
    let labelled = sandbox.stdout(&["evaluate", "-m", "sevennet-0", "unlabelled.xyz", "-o", "-"]);
    sandbox.file("old.xyz", labelled);
    let config = r#"
[data]
train = ["data.xyz"]
valid_fraction = 0.2
[finetune]
foundation = "sevennet-0"
forgetting = ["old.xyz"]
[loss.weights]
energy = 1.0
forces = 10.0
stress = 1.0
[optimizer]
learning_rate = 0.01
[average]
decay = 0.5
[training]
max_epochs = 6
batch = { frames = 4 }
"#;
    sandbox.file("plain.toml", format!("{config}[output]\ndirectory = \"plain\"\n"));
    let replay =
        "[finetune.replay]\nfiles = [\"salt.xyz\"]\nlabels = \"foundation\"\n[output]\ndirectory = \"replay\"\ncompare = [\"plain\"]\n";
    sandbox.file("replay.toml", format!("{config}{replay}"));
    let after = |name: &str| {
        let text = sandbox.stdout(&["train", &format!("{name}.toml")]);
        assert!(text.contains("before → after") && text.contains("old domain") && text.contains("new domain"), "{text}");
        let lines = json_lines(&std::fs::read_to_string(sandbox.path(&format!("{name}/log.jsonl"))).unwrap());
        let of = |phase: &str| {
            let row = lines.iter().find(|l| l["kind"] == "forgetting" && l["set"] == "old domain" && l["phase"] == phase).unwrap();
            row["errors"]["forces"]["rmse"].as_f64().unwrap()
        };
        assert_eq!(lines.iter().find(|l| l["kind"] == "forgetting").unwrap()["run"], name);
        (of("before"), of("after"))
    };
    let early = sandbox.run(&["train", "replay.toml"]);
    assert!(
        early.starts_with("exit code 1") && early.contains("output.compare: plain/log.jsonl has no errors") && early.contains("hint:"),
        "{early}"
    );
    let (plain, replay) = (after("plain"), after("replay"));
    let report = std::fs::read_to_string(sandbox.path("replay/report.html")).unwrap();
    assert!(report.contains("plain (plain): errors on old domain") && report.contains("replay: errors on old domain"));
    assert!(!std::fs::read_to_string(sandbox.path("plain/report.html")).unwrap().contains("(plain)"));
    assert!(plain.0 < 1e-4 && (plain.0 - replay.0).abs() < 1e-12, "{plain:?} {replay:?}");
    assert!(replay.1 < 0.7 * plain.1, "{plain:?} {replay:?}");
}
