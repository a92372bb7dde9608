//! `tesseral elastic`, `eos`, `neb` and `modes` with the built-in model.

use serde_json::Value;

use crate::common::{Sandbox, example, json_lines};

const WATER: &str = "3\n\nO 0 0 0.12\nH 0 0.76 -0.47\nH 0 -0.76 -0.47\n";
/// Ammonia, upright and turned inside out.
const UP: &str = "4\n\nN 0 0 0\nH 0.94 0 0.38\nH -0.47 0.814 0.38\nH -0.47 -0.814 0.38\n";
const DOWN: &str = "4\n\nN 0 0 0\nH 0.94 0 -0.38\nH -0.47 0.814 -0.38\nH -0.47 -0.814 -0.38\n";

fn json(sandbox: &Sandbox, args: &[&str]) -> Value {
    json_lines(&sandbox.stdout(args)).remove(0)
}

#[test]
fn elastic_constants_of_silicon() {
    let sandbox = Sandbox::new();
    let silicon = example("silicon.vasp");
    let result = json(&sandbox, &["elastic", &silicon, "--json", "--dtype", "f64", "-o", "whole"]);
    assert_eq!((result["space_group"].as_i64(), result["crystal_system"].as_str()), (Some(227), Some("cubic")));
    let constant = |name: &str| result["constants_gpa"][name].as_f64().unwrap();
    // Experiment has 166, 64 and 80 GPa; the model is softer.
    assert!(
        (100.0..200.0).contains(&constant("C11")) && (30.0..90.0).contains(&constant("C12")) && (30.0..110.0).contains(&constant("C44")),
        "{result}"
    );
    assert!(result["stable"] == true && (result["stiffness_gpa"][0][0].as_f64().unwrap() - constant("C11")).abs() < 1e-6);
    let clamped = json(&sandbox, &["elastic", &silicon, "--json", "--dtype", "f64", "--clamped"]);
    assert!(clamped["constants_gpa"]["C44"].as_f64().unwrap() > constant("C44") + 1.0, "{clamped}");
    for name in ["elastic.json", "report.html", "structure.extxyz", "evaluations.jsonl"] {
        assert!(sandbox.path("whole").join(name).exists(), "{name}");
    }
    // A run that was killed while it wrote its fourth line: what is missing is computed, to the same bits.
    let text = std::fs::read_to_string(sandbox.path("whole/evaluations.jsonl")).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    std::fs::create_dir(sandbox.path("part")).unwrap();
    std::fs::write(sandbox.path("part/evaluations.jsonl"), format!("{}\n{}", lines[..3].join("\n"), &lines[3][..lines[3].len() / 2]))
        .unwrap();
    let again = json(&sandbox, &["elastic", &silicon, "--json", "--dtype", "f64", "-o", "part", "--resume"]);
    assert_eq!(result, again);
    assert_eq!(text, std::fs::read_to_string(sandbox.path("part/evaluations.jsonl")).unwrap());
    // Another structure's results are not taken for this one's, and a folder is not overwritten.
    let other = sandbox.run(&["elastic", &silicon, "-o", "part", "--resume", "--strains", "0.02"]);
    assert!(other.starts_with("exit code 1") && other.contains("another structure, model or settings"), "{other}");
    assert!(sandbox.run(&["elastic", &silicon, "-o", "part"]).contains("part is not empty"));
    let table = sandbox.stdout(&["elastic", &silicon]);
    assert!(table.contains("Fd-3m") && table.contains("Debye temperature") && table.contains("stable"), "{table}");
}

#[test]
fn an_equation_of_state() {
    let sandbox = Sandbox::new();
    let silicon = example("silicon.vasp");
    let result = json(&sandbox, &["eos", &silicon, "--json", "-o", "eos", "-m", "sevennet-0", "-m", "sevennet-0"]);
    assert_eq!(result["points"].as_array().unwrap().len(), 9);
    for fit in result["fits"].as_array().unwrap() {
        let bulk = fit["bulk_modulus_gpa"].as_f64().unwrap();
        assert!((60.0..120.0).contains(&bulk) && fit["doubts"].as_array().unwrap().is_empty(), "{fit}");
        // Energies and stresses belong together.
        assert!(fit["pressure_rmse_gpa"].as_f64().unwrap() < 0.5, "{fit}");
    }
    // Two of the same model do not disagree.
    assert!(result["points"].as_array().unwrap().iter().all(|p| p["energy_spread"] == 0.0 && p["force_spread"] == 0.0));
    let written: Value = serde_json::from_slice(&std::fs::read(sandbox.path("eos/eos.json")).unwrap()).unwrap();
    assert_eq!(written, result);
    let plan = sandbox.stdout(&["eos", &silicon, "--dry-run", "-o", "not-yet"]);
    assert!(plan.contains("structures") && plan.contains("not-yet/eos.json") && !sandbox.path("not-yet").exists(), "{plan}");
    let beside = sandbox.run(&["eos", &silicon, "--range", "1.1", "1.2"]);
    assert!(beside.contains("outside the volumes computed"), "{beside}");
}

#[test]
fn a_path_and_its_barrier() {
    let sandbox = Sandbox::new();
    sandbox.file("up.xyz", UP);
    sandbox.file("down.xyz", DOWN);
    let neb = |folder: &str, more: &[&str]| {
        let mut args = vec!["neb", "up.xyz", "down.xyz", "--images", "3", "--relax-ends", "--fmax", "0.01", "--linear", "-o", folder];
        args.extend(more);
        sandbox.run(&args)
    };
    let whole = neb("whole", &[]);
    assert!(whole.starts_with("exit code 0") && whole.contains("barrier back"), "{whole}");
    let result: Value = serde_json::from_slice(&std::fs::read(sandbox.path("whole/neb.json")).unwrap()).unwrap();
    // The same molecule at both ends, the planar one between.
    assert!(result["saddle"] == 2 && result["climbed"] == true && result["reaction_energy"].as_f64().unwrap().abs() < 0.02, "{result}");
    assert!(result["barrier"].as_f64().unwrap() > 0.02);
    // Two steps, and the rest in another run: the same bits.
    let part = neb("part", &["--steps", "2"]);
    assert!(part.starts_with("exit code 1") && part.contains("not converged after 2 steps"), "{part}");
    assert!(neb("part", &["--resume"]).starts_with("exit code 0"));
    for name in ["path.extxyz", "band.json"] {
        let of = |folder: &str| std::fs::read(sandbox.path(folder).join(name)).unwrap();
        assert!(of("whole") == of("part"), "{name}");
    }
    // A finished path is one to begin with.
    let again = json(&sandbox, &["neb", "whole/path.extxyz", "--json", "--fmax", "0.1"]);
    assert!((again["barrier"].as_f64().unwrap() - result["barrier"].as_f64().unwrap()).abs() < 5e-3, "{again}");
    assert!(sandbox.stdout(&["neb", "up.xyz", "down.xyz", "--dry-run"]).contains("7 images between the ends"));
    let water = sandbox.file("water.xyz", WATER);
    let wrong = sandbox.run(&["neb", "up.xyz", water, "-o", "no"]);
    assert!(wrong.contains("the ends have 4 and 3 atoms") && !sandbox.path("no").exists(), "{wrong}");
}

#[test]
fn modes_of_water() {
    let sandbox = Sandbox::new();
    let water = sandbox.file("water.xyz", WATER);
    let result = json(&sandbox, &["modes", water, "--relax", "--dtype", "f64", "--symmetry-number", "2", "--json", "-o", "modes"]);
    let wavenumbers: Vec<f64> = result["modes"].as_array().unwrap().iter().map(|m| m["wavenumber"].as_f64().unwrap()).collect();
    // Experiment has 1595, 3657 and 3756; the bend and two stretches, whatever this model makes of them.
    assert!(wavenumbers.len() == 3 && wavenumbers[0] < 2500.0 && wavenumbers[1] > 2500.0, "{wavenumbers:?}");
    assert!(result["projected_wavenumbers"].as_array().unwrap().iter().all(|w| w.as_f64().unwrap().abs() < 60.0), "{result}");
    assert!(result["thermochemistry"]["entropy"].as_f64().unwrap() > 1e-3);
    let molden = std::fs::read_to_string(sandbox.path("modes/modes.molden")).unwrap();
    assert!(molden.starts_with("[Molden Format]\n[FREQ]\n"));
    assert!(sandbox.path("modes/modes/mode-003.extxyz").exists() && sandbox.path("modes/report.html").exists());
    let table = sandbox.run(&["modes", water]);
    assert!(table.contains("zero-point energy") && table.contains("ideal gas") && table.contains("exit code 0"), "{table}");
}

#[test]
fn bad_input_writes_nothing() {
    let sandbox = Sandbox::new();
    let water = sandbox.file("water.xyz", WATER);
    let empty = sandbox.file("empty.xyz", "0\n\n");
    let silicon = example("silicon.vasp");
    let cases: [(&[&str], &str); 8] = [
        (&["elastic", water], "periodic in three directions"),
        (&["eos", water], "periodic in three directions"),
        (&["elastic", &silicon, "--strains", "0.9"], "between 0.00001 and 0.2"),
        (&["eos", &silicon, "--points", "3"], "3 volumes for four parameters"),
        (&["modes", water, "--displacement", "3"], "displacement of 3 Å"),
        (&["modes", water, "--fix", "7"], "--fix 7: the structure has 3 atoms"),
        (&["modes", empty], "no atoms"),
        (&["modes", water, "--temperature", "0"], "need to be positive"),
    ];
    for (args, message) in cases {
        let mut args = args.to_vec();
        args.extend(["-o", "results"]);
        let text = sandbox.run(&args);
        assert!(!text.starts_with("exit code 0") && text.contains(message) && text.contains("hint:"), "{args:?}: {text}");
        assert!(!sandbox.path("results").exists(), "{args:?}");
    }
    assert!(sandbox.run(&["modes", water, "--fix", "x"]).starts_with("exit code 2"));
    assert!(sandbox.run(&["neb", water]).contains("a path needs two ends"));
    assert!(sandbox.run(&["elastic", &silicon, "--resume"]).starts_with("exit code 2"));
    let nothing = sandbox.run(&["elastic", &silicon, "--resume", "-o", "nowhere"]);
    assert!(nothing.contains("there is no run in nowhere"), "{nothing}");
}
