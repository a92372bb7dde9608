//! `md`: what it writes, how it goes on after any end, what it says of bad input.

use std::path::Path;

use crate::common::{Sandbox, example, golden, json_lines};

/// Two silicon atoms in the primitive cell, one a little off its place.
const SILICON: &str = "2
Lattice=\"0.0 2.73 2.73 2.73 0.0 2.73 2.73 2.73 0.0\" Properties=species:S:1:pos:R:3
Si 0.0 0.0 0.0
Si 1.4 1.365 1.365
";

fn prepared() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.file("si.xyz", SILICON);
    sandbox
}

const RUN: [&str; 14] =
    ["--ensemble", "npt-scr", "-T", "300:500", "-P", "1", "-n", "60", "--save-every", "4", "--log-every", "3", "--restart-every", "8"];

#[test]
fn a_run_and_its_files() {
    let sandbox = prepared();
    let text = sandbox.stdout(&[&["md", "si.xyz", "-o", "run"][..], &RUN, &["--seed", "7"]].concat());
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].contains("step") && lines[0].contains("temperature") && lines[1].contains("GPa"), "{text}");
    // 20 rows, a blank line, speed, report.
    assert_eq!(lines.len(), 2 + 20 + 3, "{text}");
    assert!(text.contains("ns/day") && text.contains("run/report.html"), "{text}");
    let log = json_lines(&std::fs::read_to_string(sandbox.path("run/thermo.jsonl")).unwrap());
    assert_eq!(log.len(), 21);
    assert_eq!(log[0]["target_temperature"], 300.0);
    assert_eq!(log[20]["target_temperature"], 500.0);
    assert_eq!((&log[20]["step"], &log[20]["target_pressure"]), (&60.into(), &log[0]["target_pressure"]));
    assert!(log[20]["volume"] != log[0]["volume"]);
    // What is in the files is what `evaluate` finds there.
    let evaluated = json_lines(&sandbox.stdout(&["evaluate", "--json", "run/final.extxyz"]));
    let last = log[20]["potential"].as_f64().unwrap();
    assert!((evaluated[0]["energy"].as_f64().unwrap() - last).abs() < 1e-4, "{last} {evaluated:?}");
    let frames = json_lines(&sandbox.stdout(&["evaluate", "--json", "run/trajectory.extxyz"]));
    assert_eq!(frames.len(), 16 + usize::from(frames.len() == 17));
    let report = std::fs::read_to_string(sandbox.path("run/report.html")).unwrap();
    for part in ["Temperature", "Pressure", "Volume", "Conserved quantity", "Vibrational density of states", "stochastic cell rescaling"] {
        assert!(report.contains(part), "no {part}");
    }
    // A second run into the same folder would mix the two.
    let again = sandbox.run(&[&["md", "si.xyz", "-o", "run"][..], &RUN].concat());
    assert!(again.starts_with("exit code 1") && again.contains("--resume"), "{again}");
    // A run that is done has nothing to go on with; a longer one has.
    sandbox.stdout(&["md", "--resume", "-o", "run"]);
    let longer = json_lines(&sandbox.stdout(&["md", "--resume", "-o", "run", "-n", "66", "--json"]));
    assert_eq!((&longer[0]["step"], &longer.last().unwrap()["outcome"]), (&63.into(), &"done".into()));
}

#[test]
fn replicas_and_fixed_atoms() {
    let sandbox = prepared();
    let lines = json_lines(&sandbox.stdout(&[
        "md",
        "si.xyz",
        "-o",
        "run",
        "-e",
        "langevin",
        "-n",
        "20",
        "--replicas",
        "2",
        "--fix",
        "0",
        "--save-every",
        "20",
        "--log-every",
        "10",
        "--json",
    ]));
    assert_eq!(lines.iter().filter(|l| l["replica"] == 1).count(), 2);
    let read = |k: usize| std::fs::read_to_string(sandbox.path(&format!("run/replica-{k}/final.extxyz"))).unwrap();
    for k in [0, 1] {
        assert!(read(k).contains("\nSi 0.0 0.0 0.0 0.0 0.0 0.0 "), "{}", read(k));
    }
    assert!(read(0) != read(1));
}

#[test]
fn guards_end_a_run_and_say_where() {
    let sandbox = prepared();
    let text = sandbox.run(&["md", "si.xyz", "-o", "run", "-e", "nve", "-n", "50", "--guard", "force=stop:0.05", "--log-every", "1"]);
    // At rest the first step is already beyond it.
    assert!(text.contains("exit code 1") && text.contains("the force on atom") && text.contains("guard `force`"), "{text}");
    assert!(!sandbox.path("run").exists());
    let text = sandbox.run(&[
        "md",
        "si.xyz",
        "-o",
        "run",
        "-e",
        "nve",
        "-T",
        "4000",
        "-n",
        "200",
        "--guard",
        "contact=stop:2.25A",
        "--guard",
        "force=off",
    ]);
    assert!(text.contains("exit code 1") && text.contains(" Å apart (less than 2.250 Å)") && text.contains("hint: "), "{text}");
    assert!(std::fs::read_to_string(sandbox.path("run/events.jsonl")).unwrap().contains("\"event\":\"stopped\""));
}

#[test]
fn plans() {
    let sandbox = prepared();
    let text = sandbox.stdout(&["md", "si.xyz", "--time", "10", "--dry-run", "-o", "run"]);
    for part in ["Si2, 2 atoms", "5000 of 2.000 fs: 10.000 ps", "ns/day", "run/trajectory.extxyz"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!sandbox.path("run").exists());
}

/// One clear error, before anything is written.
#[test]
fn bad_input() {
    let sandbox = prepared();
    sandbox.file("empty.xyz", "0\n\n");
    sandbox.file("close.xyz", "2\nProperties=species:S:1:pos:R:3\nSi 0 0 0\nSi 0 0 0.3\n");
    sandbox.file("same.xyz", "2\nProperties=species:S:1:pos:R:3\nSi 0 0 0\nSi 0 0 0\n");
    sandbox.file("alien.xyz", "2\nProperties=species:S:1:pos:R:3\nSi 0 0 0\nOg 0 0 3\n");
    let ethanol = example("ethanol.extxyz");
    let cases: [(&[&str], &str, &str); 14] = [
        (&["empty.xyz", "-n", "5"], "exit code 1", "atoms"),
        (&["close.xyz", "-n", "5"], "exit code 1", "atom 0 (Si) and atom 1 (Si) are 0.300 Å apart"),
        (&["same.xyz", "-n", "5"], "exit code 1", "same spot"),
        (&["alien.xyz", "-n", "5"], "exit code 1", "does not know Og (atom 1)"),
        (&[&ethanol, "-n", "5", "-e", "npt-mtk"], "exit code 1", "periodic in all three directions"),
        (&["si.xyz", "-n", "5", "-e", "andersen"], "exit code 2", "possible values: nve, langevin"),
        (&["si.xyz", "-n", "5", "-P", "1"], "exit code 2", "--ensemble npt-scr"),
        (&["si.xyz"], "exit code 2", "--steps"),
        (&["si.xyz", "-n", "5", "--time-step", "0"], "exit code 2", "--time-step 0: a positive number"),
        (&["si.xyz", "-n", "5", "--guard", "charge=stop"], "exit code 2", "`charge` is no guard"),
        (&["si.xyz", "-n", "5", "--fix", "Ge"], "exit code 2", "none of it"),
        (&["si.xyz", "-n", "5", "--save-every", "0"], "exit code 1", "0 steps between frames"),
        (&["si.xyz", "-n", "5", "-e", "langevin", "--friction", "0"], "exit code 1", "friction"),
        (&["missing.xyz", "-n", "5"], "exit code 1", "missing.xyz"),
    ];
    for (arguments, code, says) in cases {
        let text = sandbox.run(&[&["md", "-o", "run"], arguments].concat());
        assert!(text.starts_with(code) && text.contains(says), "{arguments:?}: {text}");
        assert!(!sandbox.path("run").exists(), "{arguments:?}");
    }
    let text = sandbox.run(&["md", "--resume", "-o", "run"]);
    assert!(text.contains("no state of a run has been saved in run"), "{text}");
    // Nobody may write there, not even root.
    if Path::new("/proc/self").exists() {
        let text = sandbox.run(&["md", "si.xyz", "-n", "5", "-o", "/proc/tesseral"]);
        assert!(text.starts_with("exit code 1") && text.contains("/proc/tesseral"), "{text}");
    }
}

#[test]
fn another_model_of_the_same_name_does_not_go_on() {
    let sandbox = Sandbox::new();
    let start = sandbox.file("feo.extxyz", "2\nProperties=species:S:1:pos:R:3\nFe 0 0 0\nO 0 0.3 1.7\n");
    sandbox.file("m.model", golden("residual_lmax3_nu3.model"));
    sandbox.stdout(&["md", start, "-m", "m.model", "-o", "run", "-e", "nve", "-n", "4"]);
    let longer = ["md", "--resume", "-m", "m.model", "-o", "run", "-n", "8"];
    sandbox.stdout(&longer);
    sandbox.file("m.model", golden("one_layer_nu4.model"));
    let other = sandbox.run(&["md", "--resume", "-m", "m.model", "-o", "run", "-n", "12"]);
    assert!(other.contains("exit code 1") && other.contains("was computed with m [") && other.contains("hint: "), "{other}");
}
