//! `tesseral relax` with the built-in model.

use crate::common::{Sandbox, example, json_lines, with_filters};

/// Rock salt and silicon, atoms out of place.
const TWO: &str = "\
2
Lattice=\"0.0 2.82 2.82 2.82 0.0 2.82 2.82 2.82 0.0\" Properties=species:S:1:pos:R:3 name=salt
Na 0.05 0.0 0.0
Cl 2.82 2.75 2.9
2
Lattice=\"0.0 2.8 2.8 2.8 0.0 2.8 2.8 2.8 0.0\" Properties=species:S:1:pos:R:3 name=silicon
Si 0.0 0.1 0.0
Si 1.4 1.35 1.4
";

#[test]
fn a_table_and_frames_in_the_order_of_the_input() {
    let sandbox = Sandbox::new();
    sandbox.file("two.extxyz", TWO);
    with_filters(|| {
        insta::assert_snapshot!(sandbox.run(&["relax", "two.extxyz", "--cell", "full", "--steps", "60", "-o", "out.extxyz", "--report", "r.html"]), @r#"
    exit code 0
    ---- stdout ----
     frame  atoms  steps        start          end    max |F|    max |σ|       ΔV  space group      formula
                              eV/atom      eV/atom       eV/Å        GPa        %
         0      2      3 [number] [number] [number] [number]     2.33  Fm-3m (225)      ClNa
         1      2      5 [number] [number] [number] [number]    -7.15  Fd-3m (227)      Si2
    ---- stderr ----
    "#);
    });
    assert_eq!(sandbox.names(), ["out.extxyz", "r.html", "two.extxyz"]);
    let written = std::fs::read_to_string(sandbox.path("out.extxyz")).unwrap();
    assert!(written.find("name=salt").unwrap() < written.find("name=silicon").unwrap(), "{written}");
    assert_eq!(written.matches("converged=T").count(), 2, "{written}");
    let report = std::fs::read_to_string(sandbox.path("r.html")).unwrap();
    assert!(report.contains("<svg") && report.contains("Largest force") && report.contains("2 converged"));
    // What is written is a minimum: evaluated again, its forces and stress are small.
    let again = json_lines(&sandbox.stdout(&["evaluate", "out.extxyz", "--json"]));
    for line in &again[..2] {
        assert!(line["max_force"].as_f64().unwrap() <= 0.0101, "{line}");
        assert!(line["pressure_gpa"].as_f64().unwrap().abs() <= 0.11, "{line}");
    }
}

#[test]
fn json_has_everything_and_what_is_held_stays() {
    let sandbox = Sandbox::new();
    sandbox.file(
        "two.extxyz",
        TWO.replace("pos:R:3", "pos:R:3:move_mask:L:1")
            .replace("0.0 0.0\nCl", "0.0 0.0 F\nCl")
            .replace("2.9\n", "2.9 T\n")
            .replace("0.1 0.0\n", "0.1 0.0 T\n")
            .replace("1.35 1.4\n", "1.35 1.4 F\n"),
    );
    let lines = json_lines(&sandbox.stdout(&["relax", "two.extxyz", "--json", "--trajectory", "steps", "--method", "fire"]));
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0]["positions"][0], serde_json::json!([0.05, 0.0, 0.0]));
    assert_eq!(lines[1]["positions"][1], serde_json::json!([1.4, 1.35, 1.4]));
    for line in &lines {
        assert_eq!((&line["converged"], &line["end"]), (&true.into(), &"converged".into()));
        assert!(line["energy"].as_f64().unwrap() < line["start_energy"].as_f64().unwrap());
        assert!(line["max_force"].as_f64().unwrap() <= 0.01);
    }
    let steps = std::fs::read_to_string(sandbox.path("steps/000000.extxyz")).unwrap();
    assert_eq!(steps.matches("step=").count() as u64, 1 + lines[0]["steps"].as_u64().unwrap());
    // Released, they move.
    let lines = json_lines(&sandbox.stdout(&["relax", "two.extxyz", "--json", "--free", "--overwrite"]));
    assert_ne!(lines[0]["positions"][0], serde_json::json!([0.05, 0.0, 0.0]));
}

#[test]
fn pressure_and_symmetry() {
    let sandbox = Sandbox::new();
    let volume = |pressure: &str| {
        let lines = json_lines(&sandbox.stdout(&[
            "relax",
            &example("nacl.cif"),
            "--cell",
            "full",
            "--symmetry",
            "--pressure",
            pressure,
            "--json",
            "--overwrite",
            "--max-stress",
            "0.02",
        ]));
        assert_eq!(lines[0]["space_group"], "Fm-3m (225)");
        let stress = lines[0]["stress"][0][0].as_f64().unwrap() * 160.217_663_4;
        assert!((stress + pressure.parse::<f64>().unwrap()).abs() < 0.03, "{stress}");
        lines[0]["volume"].as_f64().unwrap()
    };
    let (free, pressed) = (volume("0"), volume("5"));
    // The bulk modulus of rock salt is about 25 GPa.
    assert!((0.75..0.9).contains(&(pressed / free)), "{free} {pressed}");
}

#[test]
fn what_is_interrupted_goes_on_to_the_bit() {
    use std::time::{Duration, Instant};
    let sandbox = Sandbox::new();
    // Rattled crystals of 64 atoms: long enough to be killed on the way.
    let mut text = String::new();
    let mut seed = 1u64;
    for _ in 0..2 {
        text += "64\nLattice=\"10.9 0.0 0.0 0.0 10.9 0.0 0.0 0.0 10.9\" Properties=species:S:1:pos:R:3\n";
        for cell in 0..8 {
            for s in [[0.0, 0.0, 0.0], [0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]] {
                for shift in [0.0, 0.25] {
                    let r = [0, 1, 2].map(|k| {
                        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                        let noise = (seed >> 33) as f64 / f64::from(u32::MAX >> 1) - 0.5;
                        5.45 * (f64::from(cell >> k & 1) + s[k] + shift) + 0.4 * noise
                    });
                    text += &format!("Si {:.6} {:.6} {:.6}\n", r[0], r[1], r[2]);
                }
            }
        }
    }
    sandbox.file("si.extxyz", text);
    let common = ["relax", "si.extxyz", "--cell", "full", "--steps", "40", "--max-force", "1e-4", "--trajectory"];
    let run = |output: &str, more: &[&str]| sandbox.tesseral(&[&common[..], &[&format!("{output}.steps"), "-o", output], more].concat());
    run("straight.extxyz", &[]).output().unwrap();
    let mut binary = std::process::Command::new(env!("CARGO_BIN_EXE_tesseral"));
    binary.current_dir(sandbox.path("")).args([&common[..], &["broken.extxyz.steps", "-o", "broken.extxyz"]].concat());
    let mut child = binary.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(60) && !sandbox.path("broken.extxyz.state").exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(300));
    child.kill().ok();
    child.wait().unwrap();
    if sandbox.path("broken.extxyz.state").exists() {
        let refused = run("broken.extxyz", &[]).output().unwrap();
        assert!(String::from_utf8_lossy(&refused.stderr).contains("was begun by a run that was interrupted"));
        run("broken.extxyz", &["--resume"]).output().unwrap();
    }
    for (a, b) in [("straight.extxyz", "broken.extxyz"), ("straight.extxyz.steps/000001.extxyz", "broken.extxyz.steps/000001.extxyz")] {
        assert_eq!(std::fs::read(sandbox.path(a)).unwrap(), std::fs::read(sandbox.path(b)).unwrap());
    }
    assert!(!sandbox.path("broken.extxyz.state").exists() && !sandbox.path("broken.extxyz.partial").exists());
}

#[test]
fn a_plan_writes_nothing() {
    let sandbox = Sandbox::new();
    sandbox.file("two.extxyz", TWO);
    let text = sandbox.stdout(&["relax", "two.extxyz", "--dry-run", "--fix", "0"]);
    for part in ["2, the largest of 2 atoms", "4, of which 2 are held", "one step of all", "(500 steps)", "relaxed.extxyz"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!sandbox.path("relaxed.extxyz").exists() && !sandbox.path("relaxed.extxyz.partial").exists());
}

#[test]
fn bad_input_is_refused_before_anything_is_written() {
    let sandbox = Sandbox::new();
    sandbox.file("two.extxyz", TWO);
    sandbox.file("none.extxyz", "0\n\n");
    sandbox.file("same.extxyz", "2\n\nH 0 0 0\nH 0 0 0\n");
    sandbox.file("unknown.extxyz", "1\n\nOg 0 0 0\n");
    let before = sandbox.names();
    let ethanol = example("ethanol.extxyz");
    for (arguments, code, expected) in [
        (vec!["none.extxyz"], 1, "no atoms"),
        (vec!["same.extxyz"], 1, "same spot"),
        (vec!["unknown.extxyz"], 1, "does not know Og (atom 0)"),
        (vec![&ethanol, "--cell", "full"], 1, "not periodic in all three directions"),
        (vec!["two.extxyz", "--pressure", "1"], 1, "pressure means nothing where the cell is fixed"),
        (vec!["two.extxyz", "--strain", "xx"], 2, "--strain means nothing"),
        (vec!["two.extxyz", "--cell", "full", "--strain", "ab"], 2, "`ab` is no component"),
        (vec!["two.extxyz", "--fix", "0-2"], 2, "has 2 atoms"),
        (vec!["two.extxyz", "--fix", "x"], 2, "is no atom, range or element"),
        (vec!["two.extxyz", "--max-force", "0"], 1, "has to be positive"),
        (vec!["two.extxyz", "--resume"], 1, "nothing to resume"),
        (vec!["two.extxyz", "-o", "no/such/out.extxyz"], 1, "there is no folder no/such"),
        (vec!["two.extxyz", "-o", "out.cif"], 2, "named like a CIF file"),
        (vec!["two.extxyz", "-o", "two.extxyz"], 1, "is there already"),
        (vec!["two.extxyz", "--trajectory", "all.extxyz"], 2, "is the name of a file"),
    ] {
        let output = sandbox.tesseral(&[&["relax"], &arguments[..]].concat()).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(stderr.contains(expected), "{arguments:?}: {stderr}");
        assert!(stderr.contains("error:") && !stderr.contains("panicked"), "{stderr}");
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
        assert_eq!(sandbox.names(), before, "{arguments:?}");
    }
}

#[test]
fn what_does_not_converge_is_said() {
    let sandbox = Sandbox::new();
    sandbox.file("two.extxyz", TWO);
    let output = sandbox.tesseral(&["relax", "two.extxyz", "--steps", "1"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains("out of steps"));
    assert!(String::from_utf8_lossy(&output.stderr).contains("of 2 structures did not converge"));
    assert!(std::fs::read_to_string(sandbox.path("relaxed.extxyz")).unwrap().contains("converged=F"));
}
