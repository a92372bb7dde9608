//! Runs that are killed, interrupted, or run out of disk: nothing is corrupt, and what goes on gives the same bits.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command as Process, Stdio};
use std::time::{Duration, Instant};

use crate::common::{Sandbox, example, json_lines};

/// Two silicon atoms in the primitive cell, one a little off its place.
const SILICON: &str = "2
Lattice=\"0.0 2.73 2.73 2.73 0.0 2.73 2.73 2.73 0.0\" Properties=species:S:1:pos:R:3
Si 0.0 0.0 0.0
Si 1.4 1.365 1.365
";
/// Ammonia, upright and turned inside out.
const UP: &str = "4\n\nN 0 0 0\nH 0.94 0 0.38\nH -0.47 0.814 0.38\nH -0.47 -0.814 0.38\n";
const DOWN: &str = "4\n\nN 0 0 0\nH 0.94 0 -0.38\nH -0.47 0.814 -0.38\nH -0.47 -0.814 -0.38\n";

/// All files below a folder but reports, whose speeds differ.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            all.extend(files(&path).into_iter().map(|(inner, bytes)| (format!("{name}/{inner}"), bytes)));
        } else if name != "report.html" {
            all.insert(name, std::fs::read(&path).unwrap());
        }
    }
    all
}

/// A run that can be gone on with.
struct Run<'a> {
    /// Command and input.
    what: Vec<&'a str>,
    settings: Vec<&'a str>,
    /// What is left out when it goes on.
    only_at_first: bool,
    /// The file from which it goes on, in its folder.
    marker: &'a str,
    kills: u32,
}

impl Run<'_> {
    fn start(&self, sandbox: &Sandbox, folder: &str) -> std::process::Child {
        let resume = sandbox.path(folder).join(self.marker).exists();
        let mut all = if resume && self.only_at_first { vec![self.what[0]] } else { [&self.what[..], &self.settings].concat() };
        all.extend(["-o", folder, if resume { "--resume" } else { "--overwrite" }]);
        Process::new(env!("CARGO_BIN_EXE_tesseral"))
            .current_dir(sandbox.path(""))
            .args(&all)
            .env_remove("TESSERAL_MODEL")
            .env_remove("TESSERAL_DEVICE")
            .env("TESSERAL_CACHE", sandbox.path("cache"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Kills it again and again: all files are those of a run that was left alone.
    fn is_the_same_however_often_it_is_killed(&self, sandbox: &Sandbox) {
        let begun = Instant::now();
        let alone = self.start(sandbox, "alone").wait_with_output().unwrap();
        assert!(alone.status.success(), "{:?}: {}", self.what, String::from_utf8_lossy(&alone.stderr));
        // Kills are spread over the run, sooner where it was over before the first.
        let (mut longest, mut kills, mut state) = (begun.elapsed().as_secs_f64(), 0, 5u64);
        loop {
            let mut process = self.start(sandbox, "killed");
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            if kills < self.kills {
                std::thread::sleep(Duration::from_secs_f64(longest * (0.1 + 0.6 * (state >> 32) as f64 / 2f64.powi(32))));
                process.kill().ok();
            }
            let output = process.wait_with_output().unwrap();
            if output.status.success() && kills > 0 {
                break;
            } else if output.status.success() {
                std::fs::remove_dir_all(sandbox.path("killed")).unwrap();
                longest *= 0.7;
                continue;
            }
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!error.lines().any(|line| line.starts_with("error")), "{:?}: {error}", self.what);
            kills += 1;
            assert!(kills <= self.kills, "it should have run to its end: {error}");
        }
        let (alone, killed) = (files(&sandbox.path("alone")), files(&sandbox.path("killed")));
        assert_eq!(alone.keys().collect::<Vec<_>>(), killed.keys().collect::<Vec<_>>(), "{:?}", self.what);
        for (name, bytes) in alone {
            let (expected, found) = (String::from_utf8_lossy(&bytes), String::from_utf8_lossy(&killed[&name]));
            let first = expected.lines().zip(found.lines()).position(|(a, b)| a != b);
            let lines = first.and_then(|line| Some((expected.lines().nth(line)?, found.lines().nth(line)?)));
            assert!(bytes == killed[&name], "{:?}: {name} differs after {kills} kills, first in line {first:?}: {lines:?}", self.what);
        }
    }
}

#[test]
fn dynamics() {
    for (kind, format) in [("bussi", "netcdf"), ("npt-mtk", "extxyz-gz")] {
        let sandbox = Sandbox::new();
        sandbox.file("si.xyz", SILICON);
        let settings =
            vec!["--ensemble", kind, "-n", "400", "--save-every", "2", "--log-every", "2", "--restart-every", "10", "--trajectory", format];
        let run = Run { what: vec!["md", "si.xyz"], settings, only_at_first: true, marker: "restart.json", kills: 12 };
        run.is_the_same_however_often_it_is_killed(&sandbox);
    }
}

#[test]
fn displacements_strains_and_volumes() {
    let (silicon, quartz) = (example("silicon.vasp"), example("quartz.cif"));
    let sandbox = || {
        let sandbox = Sandbox::new();
        sandbox.file("si.xyz", SILICON);
        sandbox
    };
    // Networks evaluated for every edge leave time to be killed in.
    let slow = ["--exact-radial", "--threads", "1"];
    let with = |settings: &[&'static str]| [&slow[..], settings].concat();
    let run = |what, settings, marker| Run { what, settings, only_at_first: false, marker, kills: 4 };
    let strained = with(&["--supercell", "1", "1", "1", "--mesh", "2", "2", "2", "--dos-bins", "20"]);
    run(vec!["phonons", &quartz], strained, "forces.jsonl").is_the_same_however_often_it_is_killed(&sandbox());
    run(vec!["elastic", &silicon], with(&[]), "evaluations.jsonl").is_the_same_however_often_it_is_killed(&sandbox());
    run(vec!["eos", "si.xyz"], with(&["--relax"]), "evaluations.jsonl").is_the_same_however_often_it_is_killed(&sandbox());
    let ethanol = example("ethanol.extxyz");
    run(vec!["modes", &ethanol], with(&[]), "evaluations.jsonl").is_the_same_however_often_it_is_killed(&sandbox());
}

#[test]
fn bands() {
    let sandbox = Sandbox::new();
    sandbox.file("up.xyz", UP);
    sandbox.file("down.xyz", DOWN);
    let settings = vec!["--engine", "differentiable", "--images", "3", "--fmax", "0.03"];
    let run = Run { what: vec!["neb", "up.xyz", "down.xyz"], settings, only_at_first: false, marker: "band.json", kills: 5 };
    run.is_the_same_however_often_it_is_killed(&sandbox);
}

/// On a disk of its own that is too small, a run ends with an error that names the step; with room again it goes on as if nothing had been.
#[test]
fn a_full_disk() {
    let sandbox = Sandbox::new();
    sandbox.file("si.xyz", SILICON);
    let script = r#"
        mount -t tmpfs -o size=80k none disk || exit 77
        "$@" -o disk/run
        echo "ended with $?"
        cp -r disk/run full
        mount -o remount,size=10m disk || exit 77
        "$1" md -o disk/run --resume > rest || exit 3
        cp -r disk/run whole
    "#;
    std::fs::create_dir(sandbox.path("disk")).unwrap();
    let settings =
        ["md", "si.xyz", "--ensemble", "langevin", "-n", "400", "--save-every", "1", "--log-every", "1", "--restart-every", "20"];
    let output = Process::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", env!("CARGO_BIN_EXE_tesseral")])
        .args(settings)
        .current_dir(sandbox.path(""))
        .env("TESSERAL_CACHE", sandbox.path("cache"))
        .output();
    let output = match output {
        Ok(output) if output.status.code() != Some(77) && !String::from_utf8_lossy(&output.stderr).starts_with("unshare:") => output,
        other => {
            println!("skipped because no disk of its own can be made here (unshare, mount): {other:?}");
            return;
        }
    };
    let (text, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("ended with 1") && output.status.success(), "{text}\n{error}");
    assert!(error.contains("No space left on device") && error.contains("hint: "), "{error}");
    // What is there is whole up to the last saved state.
    let saved = serde_json::from_slice::<serde_json::Value>(&std::fs::read(sandbox.path("full/restart.json")).unwrap()).unwrap();
    assert!(saved.is_object());
    assert!(!std::fs::read_dir(sandbox.path("full")).unwrap().any(|f| f.unwrap().file_name().to_string_lossy().contains("tmp")));
    sandbox.stdout(&[&settings[..], &["-o", "alone"]].concat());
    let (alone, whole) = (files(&sandbox.path("alone")), files(&sandbox.path("whole")));
    assert_eq!(alone.keys().collect::<Vec<_>>(), whole.keys().collect::<Vec<_>>());
    assert!(alone.iter().all(|(name, bytes)| *bytes == whole[name]));
    assert_eq!(json_lines(&String::from_utf8_lossy(&whole["thermo.jsonl"])).len(), 401);
}

/// Told to end (SIGINT), commands save what they have, say how to go on, and end with 130.
#[test]
fn told_to_end() {
    let (sandbox, quartz) = (Sandbox::new(), example("quartz.cif"));
    sandbox.file("si.xyz", SILICON);
    for (what, marker) in [
        (vec!["md", "si.xyz", "-n", "1000000", "--restart-every", "5"], "run/restart.json"),
        (vec!["elastic", &quartz, "--exact-radial"], "run/evaluations.jsonl"),
        (vec!["phonons", &quartz, "--exact-radial", "--supercell", "4", "4", "3"], "run/forces.jsonl"),
        (
            vec!["relax", "si.xyz", "--engine", "differentiable", "--max-force", "1e-9", "--steps", "100000", "--method", "fire"],
            "run.partial",
        ),
    ] {
        let mut process = Process::new(env!("CARGO_BIN_EXE_tesseral"))
            .current_dir(sandbox.path(""))
            .args(&what)
            .args(["-o", "run"])
            .env_remove("TESSERAL_MODEL")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let begun = Instant::now();
        while !sandbox.path(marker).exists() {
            assert!(begun.elapsed() < Duration::from_secs(60) && process.try_wait().unwrap().is_none(), "{what:?}: no {marker}");
            std::thread::sleep(Duration::from_millis(2));
        }
        Process::new("kill").args(["-INT", &process.id().to_string()]).status().unwrap();
        let output = process.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.code() == Some(130) && text.contains("interrupted") && text.contains("--resume"),
            "{what:?}: {} {text}",
            output.status
        );
        std::fs::remove_dir_all(sandbox.path("run")).ok();
    }
}
