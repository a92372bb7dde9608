//! `tesseral phonons`.

use std::io::Read;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::common::{Sandbox, example, json_lines, transcript};

/// Unpacks forces of phonopy's examples.
fn forces_of(crystal: &str, sandbox: &Sandbox) {
    for file in ["FORCE_SETS", "phonopy_disp.yaml"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../simulate/tests/phonons").join(crystal).join(format!("{file}.gz"));
        let mut text = String::new();
        flate2::read::GzDecoder::new(std::fs::File::open(path).unwrap()).read_to_string(&mut text).unwrap();
        std::fs::write(sandbox.path(file), text).unwrap();
    }
}

fn summary(sandbox: &Sandbox, folder: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(sandbox.path(folder).join("phonons.json")).unwrap()).unwrap()
}

const SILICON: [&str; 12] = ["--supercell", "1", "1", "1", "--dtype", "f64", "--mesh", "4", "4", "4", "--dos-bins", "50"];

#[test]
fn forces_of_another_program() {
    let sandbox = Sandbox::new();
    forces_of("MgO", &sandbox);
    let args = ["phonons", "phonopy_disp.yaml", "--forces", "FORCE_SETS", "-o", "out", "--mesh", "8", "8", "8", "--force-constants"];
    let transcript = sandbox.run(&args);
    for line in [
        "exit code 0",
        "crystal        MgO, Fm-3m (225), 2 atoms in the primitive cell",
        "supercell      2 × 2 × 2, 64 atoms",
        "Γ       0.0000  0.0000  0.0000    0.000   0.000   0.000  11.198  11.198  11.198",
        "No imaginary modes",
    ] {
        assert!(transcript.contains(line), "{line}\n{transcript}");
    }
    let mut names: Vec<_> =
        std::fs::read_dir(sandbox.path("out")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(
        names,
        ["FORCE_CONSTANTS", "FORCE_SETS", "bands.json", "dos.csv", "phonons.json", "phonopy_params.yaml", "report.html", "thermal.csv"]
    );
    let result = summary(&sandbox, "out");
    // The middle of the zone's hexagonal face, from the reference.
    let at = |label: &str| result["points"].as_array().unwrap().iter().find(|p| p["label"] == label).unwrap()["frequencies"].clone();
    assert!((at("L")[0].as_f64().unwrap() - 7.928_732).abs() < 1e-4, "{}", at("L"));
    assert!((at("X")[0].as_f64().unwrap() - 8.454_639).abs() < 1e-4, "{}", at("X"));
    let html = std::fs::read_to_string(sandbox.path("out/report.html")).unwrap();
    assert!(html.contains("Phonons of MgO") && html.contains("<svg") && html.contains("cF2"));
    // The folder belongs to this run now.
    let again = sandbox.run(&args);
    assert!(again.starts_with("exit code 1") && again.contains("out is not empty") && again.contains("--overwrite"), "{again}");
    // What was written is what was read: without FORCE_SETS, by another path, the same frequencies; as JSON.
    let text = sandbox.stdout(&[
        "phonons",
        "out/phonopy_params.yaml",
        "--forces",
        "out/phonopy_params.yaml",
        "-o",
        "again",
        "--mesh",
        "8",
        "8",
        "8",
        "--json",
        "--temperatures",
        "300",
    ]);
    let lines = json_lines(&text);
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[1]["thermal"]["temperature"], 300.0);
    for (a, b) in result["points"].as_array().unwrap().iter().zip(lines[0]["phonons"]["points"].as_array().unwrap()) {
        for (x, y) in a["frequencies"].as_array().unwrap().iter().zip(b["frequencies"].as_array().unwrap()) {
            assert!((x.as_f64().unwrap() - y.as_f64().unwrap()).abs() < 1e-6, "{a} {b}");
        }
    }
}

#[test]
fn a_model_and_a_killed_run() {
    let sandbox = Sandbox::new();
    let silicon = example("silicon.vasp");
    let run = |more: &[&str]| {
        let mut args = vec!["phonons", &silicon];
        args.extend(SILICON);
        args.extend(more);
        sandbox.tesseral(&args)
    };
    let first = transcript(run(&["-o", "whole"]));
    assert!(first.starts_with("exit code 0") && first.contains("Fd-3m (227)"), "{first}");
    let forces = std::fs::read(sandbox.path("whole/forces.jsonl")).unwrap();
    let plan = transcript(run(&["--dry-run"]));
    assert!(plan.contains("displacements  1 of 0.01 Å") && plan.contains("Nothing was written."), "{plan}");
    // A run that was killed in the middle of a line.
    std::fs::create_dir(sandbox.path("part")).unwrap();
    std::fs::write(sandbox.path("part/forces.jsonl"), &forces[..forces.len() - 200]).unwrap();
    let resumed = transcript(run(&["-o", "part", "--resume", "--threads", "1"]));
    assert!(resumed.starts_with("exit code 0"), "{resumed}");
    for file in ["forces.jsonl", "phonons.json", "bands.json", "dos.csv", "thermal.csv", "FORCE_SETS", "phonopy_params.yaml", "report.html"]
    {
        assert_eq!(
            std::fs::read(sandbox.path("whole").join(file)).unwrap(),
            std::fs::read(sandbox.path("part").join(file)).unwrap(),
            "{file}"
        );
    }
    // Not with other settings.
    let other = transcript(run(&["-o", "part", "--resume", "--displacement", "0.02"]));
    assert!(other.starts_with("exit code 1") && other.contains("another structure, supercell, displacement or model"), "{other}");
    let nothing = transcript(run(&["-o", "none", "--resume"]));
    assert!(nothing.contains("there is nothing to go on with"), "{nothing}");
    assert!(!sandbox.path("none").exists());
}

#[test]
fn a_strained_crystal_is_not_relaxed() {
    let sandbox = Sandbox::new();
    sandbox.file(
        "si.xyz",
        "2\nLattice=\"0 2.7 2.7 2.7 0 2.7 2.7 2.7 0\" Properties=species:S:1:pos:R:3 pbc=\"T T T\"\nSi 0 0 0\nSi 1.45 1.35 1.35\n",
    );
    let text = sandbox.run(&["phonons", "si.xyz", "-o", "out", "--supercell", "1", "1", "1", "--mesh", "2", "2", "2", "--dos-bins", "20"]);
    assert!(text.starts_with("exit code 0") && text.contains("the crystal is not relaxed: a force of"), "{text}");
}

#[test]
fn wrong_input_writes_nothing() {
    let sandbox = Sandbox::new();
    forces_of("MgO", &sandbox);
    let before = sandbox.names();
    let (ethanol, slab, silicon) = (example("ethanol.extxyz"), example("copper-slab.extxyz"), example("silicon.vasp"));
    for (args, code, what) in [
        (vec![ethanol.as_str(), "-o", "out"], 1, "periodic in all three directions"),
        (vec![slab.as_str(), "-o", "out"], 1, "periodic in all three directions"),
        (vec![silicon.as_str()], 2, "--output"),
        (vec![silicon.as_str(), "-o", "out", "--supercell", "0", "1", "1"], 1, "determinant 0"),
        (vec![silicon.as_str(), "-o", "out", "--supercell", "1", "1", "1", "1"], 2, "--supercell has 4 numbers"),
        (vec![silicon.as_str(), "-o", "out", "--path", "G Q"], 1, "the path has no point \"Q\""),
        (vec![silicon.as_str(), "-o", "out", "--temperatures", "9:1:1"], 2, "--temperatures 9:1:1"),
        (vec![silicon.as_str(), "-o", "out", "--mesh", "0", "1", "1"], 1, "a mesh of"),
        (vec![silicon.as_str(), "-o", "out", "--displacement", "-1"], 2, ""),
        (vec![silicon.as_str(), "-o", "out", "--forces", "FORCE_SETS", "--supercell", "2", "2", "1"], 1, "the supercell has 32"),
        (vec![silicon.as_str(), "-o", "out", "--forces", "phonopy_disp.yaml"], 1, "has no forces"),
        (vec!["missing.cif", "-o", "out"], 1, "missing.cif"),
    ] {
        let mut all = vec!["phonons"];
        all.extend(&args);
        let text = sandbox.run(&all);
        assert!(text.starts_with(&format!("exit code {code}")) && text.contains(what), "{args:?}\n{text}");
        assert_eq!(sandbox.names(), before, "{args:?}");
    }
}

/// phonopy itself reads the files: where there is a Python with it, named by `PHONOPY_PYTHON`.
#[test]
fn phonopy_reads_the_files() {
    let python = std::env::var("PHONOPY_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let there = Command::new(&python).args(["-c", "import phonopy"]).output().is_ok_and(|o| o.status.success());
    if !there {
        eprintln!("skipped because {python} has no phonopy: set PHONOPY_PYTHON to a Python that has it (pip install phonopy)");
        return;
    }
    let script = "\
import json, sys, warnings
import phonopy
warnings.simplefilter('ignore')
folder = sys.argv[1]
result = json.load(open(folder + '/phonons.json'))
worst = 0.0
for files in ({}, {'force_sets_filename': folder + '/FORCE_SETS'}, {'force_constants_filename': folder + '/FORCE_CONSTANTS'}):
    phonons = phonopy.load(folder + '/phonopy_params.yaml', log_level=0, **files)
    for point in result['points']:
        phonons.run_qpoints([point['q']])
        worst = max(worst, abs(phonons.qpoints.frequencies[0] - point['frequencies']).max())
print(worst)
";
    let sandbox = Sandbox::new();
    sandbox.file("check.py", script);
    forces_of("Al2O3", &sandbox);
    let silicon = example("silicon.vasp");
    let mut model = vec!["phonons", &silicon, "-o", "si", "--force-constants"];
    model.extend(SILICON);
    // A supercell that is no multiple of the cell.
    let skewed = [
        "phonons",
        &silicon,
        "-o",
        "skewed",
        "--force-constants",
        "--supercell",
        "1",
        "1",
        "0",
        "-1",
        "1",
        "0",
        "0",
        "0",
        "1",
        "--mesh",
        "4",
        "4",
        "4",
    ];
    for args in [
        &["phonons", "phonopy_disp.yaml", "--forces", "FORCE_SETS", "-o", "corundum", "--force-constants", "--mesh", "4", "4", "4"][..],
        &model[..],
        &skewed[..],
    ] {
        sandbox.stdout(args);
        let folder = args[args.iter().position(|a| *a == "-o").unwrap() + 1];
        let output = Command::new(&python).arg(sandbox.path("check.py")).arg(sandbox.path(folder)).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let worst: f64 = text.trim().parse().unwrap_or_else(|_| panic!("{folder}: {text}{}", String::from_utf8_lossy(&output.stderr)));
        // Constants of another year, and digits in files.
        assert!(worst < 2e-5, "{folder}: {worst} THz");
    }
}
