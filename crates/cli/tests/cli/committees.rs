//! Several models at once, in every command that moves atoms.

use serde_json::Value;

use crate::common::{Sandbox, golden, json_lines};

/// Iron and oxygen are among the elements of both models.
const MOLECULE: &str = "2\nProperties=species:S:1:pos:R:3\nFe 0 0 0\nO 0 0.3 1.7\n";
const CRYSTAL: &str =
    "2\nLattice=\"0 2.2 2.2 2.2 0 2.2 2.2 2.2 0\" Properties=species:S:1:pos:R:3 pbc=\"T T T\"\nFe 0 0 0\nO 2.2 2.2 2.2\n";

/// Two models, a molecule, a crystal.
fn prepared() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.file("a.model", golden("residual_lmax3_nu3.model"));
    sandbox.file("b.model", golden("one_layer_nu4.model"));
    sandbox.file("feo.xyz", MOLECULE);
    sandbox.file("rocksalt.xyz", CRYSTAL);
    sandbox
}

const BOTH: [&str; 4] = ["-m", "a.model", "-m", "b.model"];

/// Energy and largest spread of a force, as `evaluate` has them.
fn evaluated(sandbox: &Sandbox, file: &str, more: &[&str]) -> (f64, f64) {
    let line = json_lines(&sandbox.stdout(&[&["evaluate", file, "--json"], more].concat())).remove(0);
    let spread = line["spread"]["forces"].as_array().map_or(0.0, |f| f.iter().filter_map(Value::as_f64).fold(0.0, f64::max));
    (line["energy"].as_f64().unwrap(), spread)
}

#[test]
fn dynamics_follow_the_mean_and_log_the_spread() {
    let sandbox = prepared();
    let run = [&["md", "feo.xyz", "-e", "nve", "-n", "3", "--log-every", "1", "-o", "run", "--json"], &BOTH[..]].concat();
    sandbox.stdout(&run);
    let log = json_lines(&std::fs::read_to_string(sandbox.path("run/thermo.jsonl")).unwrap());
    let (energy, spread) = evaluated(&sandbox, "feo.xyz", &BOTH);
    assert!((log[0]["potential"].as_f64().unwrap() - energy).abs() < 1e-4, "{} {energy}", log[0]);
    assert!(log[0].to_string().contains("spread") && spread > 1e-3, "{}", log[0]);
    let [one, other] = ["a.model", "b.model"].map(|model| evaluated(&sandbox, "feo.xyz", &["-m", model]).0);
    assert!((energy - 0.5 * (one + other)).abs() < 1e-4 && (one - other).abs() > 1e-3, "{one} {other}");
    // They disagree, and a run that must not is ended with the step.
    let refused = sandbox.run(&[&["md", "feo.xyz", "-n", "3", "-o", "no", "--stop-above", "1e-6"], &BOTH[..]].concat());
    assert!(refused.starts_with("exit code 1") && refused.contains("the models disagree by") && refused.contains("hint: "), "{refused}");
    // One of them does not go on with what both began.
    let alone = sandbox.run(&["md", "--resume", "-o", "run", "-n", "6", "-m", "a.model"]);
    assert!(alone.starts_with("exit code 1") && alone.contains("was computed with a [") && alone.contains(" + b ["), "{alone}");
    sandbox.stdout(&[&["md", "--resume", "-o", "run", "-n", "6"], &BOTH[..]].concat());
    // Replicas together.
    let replicas = sandbox.run(&[&["md", "feo.xyz", "-n", "3", "--replicas", "2", "-o", "two"], &BOTH[..]].concat());
    assert!(replicas.starts_with("exit code 0"), "{replicas}");
}

#[test]
fn relaxations_end_where_the_mean_has_no_forces() {
    let sandbox = prepared();
    let relaxed = sandbox.run(&[&["relax", "feo.xyz", "-o", "relaxed.extxyz", "--max-force", "0.02"], &BOTH[..]].concat());
    assert!(relaxed.starts_with("exit code 0"), "{relaxed}");
    let line = json_lines(&sandbox.stdout(&[&["evaluate", "relaxed.extxyz", "--json"], &BOTH[..]].concat())).remove(0);
    let forces: Vec<[f64; 3]> = serde_json::from_value(line["forces"].clone()).unwrap();
    assert!(forces.iter().all(|f| f.iter().map(|x| x * x).sum::<f64>().sqrt() < 0.021), "{forces:?}");
    let refused = sandbox.run(&[&["relax", "feo.xyz", "-o", "no.extxyz", "--stop-above", "1e-6"], &BOTH[..]].concat());
    assert!(refused.starts_with("exit code 1") && refused.contains("disagree by"), "{refused}");
}

#[test]
fn crystals() {
    let sandbox = prepared();
    let with = |args: &[&str]| sandbox.run(&[args, &BOTH[..]].concat());
    let phonons = with(&["phonons", "rocksalt.xyz", "-o", "ph", "--supercell", "1", "1", "1", "--mesh", "1", "1", "1"]);
    assert!(phonons.starts_with("exit code 0"), "{phonons}");
    let forces = json_lines(&std::fs::read_to_string(sandbox.path("ph/forces.jsonl")).unwrap());
    // What the worst of the displacements has, and each for itself.
    assert!(forces[1..].iter().all(|line| line["spread"].as_f64().is_some()), "{forces:?}");
    for (command, more) in [("elastic", &["--strains", "0.01"][..]), ("eos", &["--points", "5"])] {
        let text = with(&[&[command, "rocksalt.xyz", "-o", command], more].concat());
        let ledger = json_lines(&std::fs::read_to_string(sandbox.path(command).join("evaluations.jsonl")).unwrap());
        let spreads: Vec<f64> = ledger[1..].iter().map(|line| line["result"]["spread"][0].as_f64().unwrap()).collect();
        assert!(spreads.len() >= 4 && spreads.iter().all(|s| *s > 0.0), "{text} {ledger:?}");
    }
    let refused = with(&["elastic", "rocksalt.xyz", "-o", "no", "--stop-above", "1e-9"]);
    assert!(refused.starts_with("exit code 1"), "{refused}");
}

#[test]
fn molecules() {
    let sandbox = prepared();
    let modes = sandbox.run(&[&["modes", "feo.xyz", "--relax", "-o", "modes"], &BOTH[..]].concat());
    let ledger = json_lines(&std::fs::read_to_string(sandbox.path("modes/evaluations.jsonl")).unwrap());
    assert!(ledger[1..].iter().all(|line| line["result"]["spread"][1].as_f64().is_some()), "{modes}");
    sandbox.file("turned.xyz", "2\nProperties=species:S:1:pos:R:3\nFe 0 0 0\nO 0.9 0.3 1.5\n");
    let band = sandbox.run(&[&["neb", "feo.xyz", "turned.xyz", "--images", "3", "-o", "band"], &BOTH[..]].concat());
    assert!(band.starts_with("exit code 0") && band.contains("spread"), "{band}");
}
