//! `tesseral evaluate` with the built-in model.

use std::io::Write;

use serde_json::Value;

use crate::common::{Sandbox, example, golden, json_lines, transcript, with_filters};

#[test]
fn a_crystal_in_a_table() {
    let sandbox = Sandbox::new();
    with_filters(|| {
        insta::assert_snapshot!(sandbox.run(&["evaluate", &example("nacl.cif")]), @r#"
    exit code 0
    ---- stdout ----
     frame  atoms          energy  energy/atom    max |F|   pressure  formula
                               eV      eV/atom       eV/Å        GPa
         0      8 [number] [number] [number] [number]  Cl4Na4
    ---- stderr ----
    "#);
    });
}

#[test]
fn all_formats_and_boundary_conditions_in_one_run() {
    let sandbox = Sandbox::new();
    for (source, name) in
        [("silicon.vasp", "POSCAR"), ("nacl.cif", "nacl.cif"), ("ethanol.extxyz", "ethanol.xyz"), ("copper-slab.extxyz", "slab")]
    {
        std::fs::copy(example(source), sandbox.path(name)).unwrap();
    }
    with_filters(|| {
        insta::assert_snapshot!(sandbox.run(&["evaluate", "POSCAR", "nacl.cif", "ethanol.xyz", "slab"]), @r#"
    exit code 0
    ---- stdout ----
     frame  atoms          energy  energy/atom    max |F|   pressure  formula               file
                               eV      eV/atom       eV/Å        GPa
         0      8 [number] [number] [number] [number]  Si8                   POSCAR
         0      8 [number] [number] [number] [number]  Cl4Na4                nacl.cif
         0      9 [number] [number] [number]          –  C2H6O                 ethanol.xyz
         0     16 [number] [number] [number]          –  Cu16                  slab
    ---- stderr ----
    "#);
    });
}

#[test]
fn single_and_double_precision_agree() {
    let sandbox = Sandbox::new();
    let energy = |dtype: &str| {
        let lines = json_lines(&sandbox.stdout(&["evaluate", &example("quartz.cif"), "--json", "--dtype", dtype]));
        lines[0]["energy"].as_f64().unwrap()
    };
    let (single, double) = (energy("f32"), energy("f64"));
    assert!((single - double).abs() < 1e-4, "{single} {double}");
    assert_ne!(single, double);
    // MPtrj has α-quartz at about −7.9 eV/atom.
    assert!((double / 9.0 + 7.9).abs() < 0.3, "{double}");
}

#[test]
fn json_is_complete_and_its_numbers_round_trip() {
    let sandbox = Sandbox::new();
    let text = sandbox.stdout(&["evaluate", &example("silicon.vasp"), &example("ethanol.extxyz"), "--json", "--per-atom"]);
    let lines = json_lines(&text);
    assert_eq!(lines.len(), 2);
    let keys: Vec<&str> = lines[0].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(
        keys,
        [
            "file",
            "frame",
            "formula",
            "n_atoms",
            "energy",
            "energy_per_atom",
            "max_force",
            "pressure_gpa",
            "forces",
            "stress",
            "atomic_energies",
            "seconds"
        ]
    );
    let (silicon, ethanol) = (&lines[0], &lines[1]);
    assert_eq!(silicon["n_atoms"], 8);
    assert_eq!(silicon["stress"].as_array().unwrap().len(), 3);
    assert_eq!(ethanol["stress"], Value::Null);
    assert_eq!(ethanol["formula"], "C2H6O");
    assert_eq!(ethanol["forces"].as_array().unwrap().len(), 9);
    let sum: f64 = ethanol["atomic_energies"].as_array().unwrap().iter().map(|e| e.as_f64().unwrap()).sum();
    assert!((sum - ethanol["energy"].as_f64().unwrap()).abs() < 1e-5);
    // The same numbers in extended XYZ, digit for digit.
    let text = sandbox.stdout(&["evaluate", &example("ethanol.extxyz"), "-o", "out.xyz", "--json"]);
    let ethanol = &json_lines(&text)[0];
    let written = std::fs::read_to_string(sandbox.path("out.xyz")).unwrap();
    assert!(written.contains(&format!("energy={:?} ", ethanol["energy"].as_f64().unwrap())), "{written}");
    let third = ethanol["forces"][2].as_array().unwrap().iter().map(|f| format!("{:?}", f.as_f64().unwrap()));
    assert!(written.contains(&third.collect::<Vec<_>>().join(" ")), "{written}");
}

#[test]
fn written_results_are_labels_of_the_next_run() {
    let sandbox = Sandbox::new();
    let nacl = example("nacl.cif");
    std::fs::copy(example("ethanol.extxyz"), sandbox.path("a.xyz")).unwrap();
    assert!(sandbox.stdout(&["evaluate", &nacl, "a.xyz", "-o", "out.extxyz", "--dtype", "f64"]).contains("C2H6O"));
    let text = sandbox.stdout(&["evaluate", "out.extxyz", "--json", "--dtype", "f64"]);
    let summary = json_lines(&text).pop().unwrap();
    let summary = &summary["summary"];
    assert_eq!(summary["frames"], 2);
    assert_eq!(summary["energy_per_atom"]["values"], 2);
    assert_eq!(summary["forces"]["values"], 3 * 17);
    assert_eq!(summary["stress"]["values"], 6);
    for part in ["energy_per_atom", "forces", "stress"] {
        // What is written reads back to the same number, so only the order of sums in another batch is left.
        assert!(summary[part]["largest"].as_f64().unwrap() < 1e-12, "{summary}");
    }
    assert_eq!(summary["forces"]["labels"], serde_json::json!(["forces"]));
    // A second pass keeps the first one's results under other names, and compares with those.
    sandbox.stdout(&["evaluate", "out.extxyz", "-o", "again.extxyz.gz", "--dtype", "f32", "--per-atom"]);
    let mut again = String::new();
    let file = std::fs::File::open(sandbox.path("again.extxyz.gz")).unwrap();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(file), &mut again).unwrap();
    for key in ["REF_energy=", " energy=", "REF_forces:R:3", ":forces:R:3", "energies:R:1", "REF_stress="] {
        assert!(again.contains(key), "{key}: {again}");
    }
    let third = sandbox.run(&["evaluate", "again.extxyz.gz"]);
    with_filters(|| {
        insta::assert_snapshot!(third, @r#"
    exit code 0
    ---- stdout ----
     frame  atoms          energy  energy/atom    max |F|   pressure  formula
                               eV      eV/atom       eV/Å        GPa
         0      8 [number] [number] [number] [number]  Cl4Na4
         1      9 [number] [number] [number]          –  C2H6O

    errors                MAE         RMSE      largest     values  unit     label
    energy/atom [small] [small] [small]          2  eV/atom  REF_energy
    forces [small] [small] [small]         51  eV/Å     REF_forces
    stress [small] [small] [small]          6  eV/Å³    REF_stress
    ---- stderr ----
    "#);
    });
}

#[test]
fn labels_under_names_of_ones_own() {
    let sandbox = Sandbox::new();
    sandbox.file("h.xyz", "2\nProperties=species:S:1:pos:R:3:f:R:3 e=-6.0\nH 0 0 0 0 0 1\nH 0 0 0.8 0 0 -1\n");
    let text = sandbox.stdout(&["evaluate", "h.xyz", "--json", "--energy-key", "e", "--forces-key", "f"]);
    let summary = json_lines(&text).pop().unwrap();
    assert_eq!(summary["summary"]["energy_per_atom"]["labels"], serde_json::json!(["e"]));
    assert_eq!(summary["summary"]["forces"]["values"], 6);
    let missing = sandbox.run(&["evaluate", "h.xyz", "--energy-key", "typo"]);
    assert!(missing.contains("warning: no frame has a usable label `typo`"), "{missing}");
    sandbox.file("text.xyz", "1\nProperties=species:S:1:pos:R:3 energy=low\nH 0 0 0\n");
    let text = sandbox.run(&["evaluate", "text.xyz"]);
    assert!(text.starts_with("exit code 0") && text.contains("a label is not compared: `energy` should be one number"), "{text}");
}

#[test]
fn standard_input() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.tesseral(&["evaluate", "-"]);
    command.write_stdin(std::fs::read(example("silicon.vasp")).unwrap());
    with_filters(|| {
        insta::assert_snapshot!(transcript(command), @r#"
    exit code 0
    ---- stdout ----
     frame  atoms          energy  energy/atom    max |F|   pressure  formula
                               eV      eV/atom       eV/Å        GPa
         0      8 [number] [number] [number] [number]  Si8
    ---- stderr ----
    "#);
    });
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(&std::fs::read(example("ethanol.extxyz")).unwrap()).unwrap();
    let mut command = sandbox.tesseral(&["evaluate", "-", "--json"]);
    command.write_stdin(packed.finish().unwrap());
    assert!(transcript(command).contains("\"file\":\"stdin\""));
}

#[test]
fn one_and_many_threads_give_the_same_bits() {
    let sandbox = Sandbox::new();
    let frames = std::fs::read_to_string(example("ethanol.extxyz")).unwrap().repeat(20);
    sandbox.file("many.xyz", frames);
    let result = |threads: &str| {
        let args = ["evaluate", "many.xyz", &example("copper-slab.extxyz"), &example("quartz.cif"), "-o", "-", "--threads", threads];
        sandbox.stdout(&args)
    };
    assert_eq!(result("1"), result("3"));
}

#[test]
fn timing() {
    let sandbox = Sandbox::new();
    let text = sandbox.stdout(&["evaluate", &example("silicon.vasp"), "--repeat", "2", "--json"]);
    let seconds = json_lines(&text)[0]["seconds"].as_f64().unwrap();
    assert!(seconds > 0.0 && seconds < 10.0, "{seconds}");
    assert!(sandbox.stdout(&["evaluate", &example("silicon.vasp"), "--repeat", "1"]).contains("time"));
}

#[test]
fn one_bad_frame_among_many() {
    let sandbox = Sandbox::new();
    let bad = "1\n\nH 0 0 0\n2\n\nH 0 0 0\nH 0 0 x\n2\n\nH 0 0 0\nH 0 0 0\n1\n\nH 0 0 0\n";
    sandbox.file("bad.xyz", bad);
    with_filters(|| {
        insta::assert_snapshot!(sandbox.run(&["evaluate", "bad.xyz", "-o", "out.xyz"]), @r#"
    exit code 1
    ---- stdout ----
     frame  atoms          energy  energy/atom    max |F|   pressure  formula
                               eV      eV/atom       eV/Å        GPa
         0      1 [number] [number] [number]          –  H
    ---- stderr ----
    error: bad.xyz:7: frame 1: column 4 (pos): "x" is not a real number
    hint: correct the word, or the Properties that describe its column
    "#);
    });
    assert_eq!(sandbox.names(), ["bad.xyz"]);
    with_filters(|| {
        insta::assert_snapshot!(sandbox.run(&["evaluate", "bad.xyz", "-o", "out.xyz", "--keep-going"]), @r#"
    exit code 1
    ---- stdout ----
     frame  atoms          energy  energy/atom    max |F|   pressure  formula
                               eV      eV/atom       eV/Å        GPa
         0      1 [number] [number] [number]          –  H
         3      1 [number] [number] [number]          –  H
    ---- stderr ----
    error: bad.xyz:7: frame 1: column 4 (pos): "x" is not a real number
    hint: correct the word, or the Properties that describe its column
    error: bad.xyz: frame 2: atoms 0 and 1 are on the same spot ([small] Å apart)
    hint: remove the duplicate atom (often a periodic copy written twice)
    error: 2 of 4 frames could not be evaluated
    "#);
    });
    let written = std::fs::read_to_string(sandbox.path("out.xyz")).unwrap();
    assert_eq!(written.matches("energy=").count(), 2);
    let text = sandbox.tesseral(&["evaluate", "bad.xyz", "none.xyz", "--keep-going", "--json"]).output().unwrap();
    assert_eq!(text.status.code(), Some(1));
    let lines = json_lines(&String::from_utf8(text.stdout).unwrap());
    let frames: Vec<(bool, Option<u64>)> = lines.iter().map(|line| (line.get("error").is_some(), line["frame"].as_u64())).collect();
    assert_eq!(frames, [(false, Some(0)), (true, Some(1)), (true, Some(2)), (false, Some(3)), (true, None)]);
}

#[test]
fn a_file_that_was_there_survives_a_failure() {
    let sandbox = Sandbox::new();
    sandbox.file("bad.xyz", "1\n\nH 0 0 0\n1\n\nH 0 0\n");
    sandbox.file("out.xyz", "precious");
    assert!(sandbox.run(&["evaluate", "bad.xyz", "-o", "out.xyz"]).starts_with("exit code 1"));
    assert_eq!(std::fs::read_to_string(sandbox.path("out.xyz")).unwrap(), "precious");
    assert_eq!(sandbox.names(), ["bad.xyz", "out.xyz"]);
    let missing = sandbox.run(&["evaluate", &example("nacl.cif"), "-o", "no/such/out.xyz"]);
    assert!(missing.starts_with("exit code 1") && missing.contains("there is no folder no/such"), "{missing}");
}

/// Small systems, strange cells: everything that is physically possible gets a number.
#[test]
fn unusual_structures_work() {
    let sandbox = Sandbox::new();
    let frame = |cell: &str, pbc: &str, atoms: &str| {
        let n = atoms.lines().count();
        let lattice = if cell.is_empty() { String::new() } else { format!("Lattice=\"{cell}\" ") };
        format!("{n}\n{lattice}Properties=species:S:1:pos:R:3 pbc=\"{pbc}\"\n{atoms}\n")
    };
    let frames = [
        frame("", "F F F", "H 0 0 0"),
        frame("", "F F F", "H 0 0 0\nH 0 0 100"),
        frame("2 0 0 0 2 0 0 0 2", "T T T", "Cu 0 0 0"),
        // The same crystal left-handed, skewed, and with its atom far outside.
        frame("0 2 0 2 0 0 0 0 2", "T T T", "Cu 0 0 0"),
        frame("2 0 0 20 2 0 -30 40 2", "T T T", "Cu 0 0 0"),
        frame("2 0 0 0 2 0 0 0 2", "T T T", "Cu 2000 -3000 1.0"),
        frame("2.5 0 0 0 2.5 0 0 0 0", "T T F", "Cu 0 0 0"),
        frame("2.5 0 0 0 0 0 0 0 0", "T F F", "Cu 0 0 0"),
    ];
    sandbox.file("all.xyz", frames.concat());
    let lines = json_lines(&sandbox.stdout(&["evaluate", "all.xyz", "--json", "--dtype", "f64"]));
    assert_eq!(lines.len(), frames.len());
    let energy = |k: usize| lines[k]["energy"].as_f64().unwrap();
    assert_eq!(lines[0]["max_force"], 0.0);
    assert!((energy(1) - 2.0 * energy(0)).abs() < 1e-10);
    for same in 3..6 {
        assert!((energy(same) - energy(2)).abs() < 1e-9 * energy(2).abs(), "{same}: {} {}", energy(same), energy(2));
    }
    assert!(energy(6) < energy(7));
}

/// Energy and forces of the first structure of `--json`.
fn numbers(command: &mut assert_cmd::Command) -> Vec<f64> {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let line = &crate::common::json_lines(&String::from_utf8(output.stdout).unwrap())[0];
    let forces = line["forces"].as_array().unwrap().iter().flat_map(|f| f.as_array().unwrap());
    std::iter::once(&line["energy"]).chain(forces).map(|v| v.as_f64().unwrap()).collect()
}

#[test]
fn engines_and_instruction_sets_agree() {
    let sandbox = Sandbox::new();
    let quartz = example("quartz.cif");
    let of = |options: &[&str], set: &str| {
        let mut arguments = vec!["evaluate", quartz.as_str(), "--json"];
        arguments.extend(options);
        numbers(sandbox.tesseral(&arguments).env("TESSERAL_SIMD", set))
    };
    let exact = of(&["--engine", "differentiable", "--dtype", "f64"], "");
    let close = |got: &[f64], tolerance: f64| got.iter().zip(&exact).all(|(a, b)| (a - b).abs() < tolerance * (1.0 + b.abs()));
    for set in ["", "avx2", "portable"] {
        assert!(close(&of(&["--dtype", "f64"], set), 1e-9), "f64 {set}");
        assert!(close(&of(&["--dtype", "f64", "--exact-radial"], set), 1e-11), "f64, exact {set}");
        assert!(close(&of(&[], set), 1e-4), "f32 {set}");
    }
}

#[test]
fn plans_and_limits_of_memory() {
    let sandbox = Sandbox::new();
    let plan = sandbox.stdout(&["evaluate", &example("nacl.cif"), "--plan", "--json"]);
    let plan = &crate::common::json_lines(&plan)[0];
    assert!(plan["n_atoms"] == 8 && plan["edges"].as_u64() > Some(100) && plan["least_bytes"].as_u64() < plan["bytes"].as_u64(), "{plan}");
    let refused = sandbox.run(&["evaluate", &example("nacl.cif"), "--memory", "10kB"]);
    assert!(
        refused.contains("exit code 1") && refused.contains("of memory, 10.0 kB may be used") && refused.contains("hint: raise --memory"),
        "{refused}"
    );
    let wrong = sandbox.run(&["evaluate", &example("nacl.cif"), "--memory", "8 parsecs"]);
    assert!(wrong.contains("exit code 2") && wrong.contains("is no unit"), "{wrong}");
}

#[test]
fn bench_reports_times_beside_the_peak() {
    let sandbox = Sandbox::new();
    let text = sandbox.stdout(&["bench", "--structure", &example("nacl.cif"), "--atoms", "60", "--steps", "2", "--json"]);
    let result = &crate::common::json_lines(&text)[0];
    assert_eq!(result["atoms"], 64);
    for key in ["us_per_atom", "peak_gflops", "share_of_peak", "copy_gb_per_s", "gflop_per_step", "bytes_per_atom", "neighbors_per_atom"] {
        assert!(result[key].as_f64() > Some(0.0), "{key}: {result}");
    }
    assert_eq!(result["stages"].as_array().unwrap().len(), 8);
    let wrong = sandbox.run(&["bench", "--structure", &example("ethanol.extxyz"), "--atoms", "100"]);
    assert!(wrong.contains("exit code 2") && wrong.contains("is not periodic"), "{wrong}");
}

#[test]
fn committees_say_how_far_they_disagree() {
    let sandbox = Sandbox::new();
    let (a, b) = ("residual_lmax3_nu3.model", "one_layer_nu4.model");
    for name in [a, b] {
        sandbox.file(name, golden(name));
    }
    // Iron and oxygen are among the elements of both.
    let file = sandbox.file("feo.extxyz", "2\nProperties=species:S:1:pos:R:3\nFe 0 0 0\nO 0 0.3 1.7\n");
    let of = |models: &[&str]| {
        let mut arguments = vec!["evaluate", file, "--json", "--dtype", "f64"];
        arguments.extend(models.iter().flat_map(|m| ["-m", m]));
        crate::common::json_lines(&sandbox.stdout(&arguments)).remove(0)
    };
    let ([one, other], both) = ([of(&[a]), of(&[b])], of(&[a, b]));
    let energies = [&one, &other].map(|line| line["energy"].as_f64().unwrap());
    let force = |line: &serde_json::Value, k: usize| line["forces"][1][k].as_f64().unwrap();
    let close = |value: &serde_json::Value, expected: f64| (value.as_f64().unwrap() - expected).abs() < 1e-10 * (1.0 + expected.abs());
    assert!(one["spread"].is_null());
    assert!(close(&both["energy"], (energies[0] + energies[1]) / 2.0), "{both}");
    // Of two, the standard deviation of a sample is the difference over √2.
    assert!(close(&both["spread"]["energy"], (energies[0] - energies[1]).abs() / 2f64.sqrt()), "{both}");
    let squares: f64 = (0..3).map(|k| (force(&one, k) - force(&other, k)).powi(2) / 2.0).sum();
    assert!(squares > 1e-6 && close(&both["spread"]["forces"][1], squares.sqrt()), "{both}");
    let table = sandbox.stdout(&["evaluate", file, "-m", a, "-m", b]);
    let heading = table.lines().next().unwrap();
    assert!(heading.contains(" ± energy ") && heading.contains(" max ± F "), "{table}");
    let written = sandbox.stdout(&["evaluate", file, "-m", a, "-m", b, "-o", "-"]);
    assert!(written.contains("forces_spread:R:1") && written.contains("energy_spread="), "{written}");
    let refused = sandbox.run(&["evaluate", file, "-m", a, "-m", b, "--stop-above", "1e-6"]);
    assert!(refused.contains("exit code 1") && refused.contains("the models disagree by") && refused.contains("hint: "), "{refused}");
    let alone = sandbox.run(&["evaluate", file, "-m", a, "--stop-above", "0.1"]);
    assert!(alone.contains("exit code 2") && alone.contains("one model has nobody to disagree with"), "{alone}");
}
