//! `--device`.

use crate::common::{Sandbox, example, json_lines};

#[test]
fn a_device_that_is_none_says_what_there_is() {
    let sandbox = Sandbox::new();
    let text = sandbox.run(&["evaluate", &example("nacl.cif"), "--device", "gpu"]);
    assert!(text.starts_with("exit code 2") && text.contains("`gpu` is no device: cpu, cuda, cuda:0, cuda:0,1 and auto are"), "{text}");
}

/// Built without CUDA, or on a machine without a GPU, a CUDA device is an error with a next step, and `auto` is the CPU and says why.
#[test]
fn without_a_gpu() {
    let sandbox = Sandbox::new();
    let text = sandbox.run(&["evaluate", &example("nacl.cif"), "--device", "cuda"]);
    if text.starts_with("exit code 0") {
        return; // There is one.
    }
    assert!(text.starts_with("exit code 1") && text.contains("CUDA") && text.contains("hint: "), "{text}");
    let auto = sandbox.run(&["evaluate", &example("nacl.cif"), "--device", "auto"]);
    assert!(auto.starts_with("exit code 0") && auto.contains("--device auto: the CPU, since "), "{auto}");
    let mut by_variable = sandbox.tesseral(&["evaluate", &example("nacl.cif")]);
    by_variable.env("TESSERAL_DEVICE", "cuda:7").assert().failure();
}

#[test]
fn what_has_no_form_on_a_device_is_refused() {
    let sandbox = Sandbox::new();
    for (arguments, what) in [
        (["--engine", "differentiable"].as_slice(), "the differentiable engine"),
        (["--exact-radial"].as_slice(), "exact radial functions"),
    ] {
        let structure = example("nacl.cif");
        let text = sandbox.run(&[&["evaluate", &structure, "--device", "emulated"], arguments].concat());
        if !text.contains("C++ compiler") {
            assert!(text.starts_with("exit code 1") && text.contains(what) && text.contains("--device cpu"), "{text}");
        }
    }
}

/// The kernels in the emulator give the energies of the CPU, for every example and every command that moves atoms.
#[test]
fn emulated_kernels_agree_with_the_cpu() {
    let Some(_) = tesseral_kernels::testing::device() else { return };
    let sandbox = Sandbox::new();
    let files = [example("nacl.cif"), example("ethanol.extxyz")];
    let of = |device: &str| json_lines(&sandbox.stdout(&["evaluate", &files[0], &files[1], "--json", "--device", device]));
    for (here, there) in of("cpu").iter().zip(of("emulated")) {
        let energies = [here, &there].map(|line| line["energy"].as_f64().unwrap());
        assert!((energies[0] - energies[1]).abs() < 1e-4, "{energies:?}");
    }
    let number = |line: &serde_json::Value, name: &str| line[name].as_f64().unwrap();
    let moved = |device: &str| {
        let on = |args: &[&str]| json_lines(&sandbox.stdout(&[args, &["--json", "--device", device]].concat()));
        let run = format!("md-{device}");
        let dynamics = on(&["md", &files[1], "-e", "nve", "-n", "4", "--log-every", "1", "-o", &run]);
        let relaxed = on(&["relax", &files[1], "--max-force", "0.1", "-o", &format!("{device}.extxyz")]);
        let elastic = on(&["elastic", &files[0], "--clamped", "--strains", "0.01"]);
        let eos = on(&["eos", &files[0], "--points", "5"]);
        on(&["md", &files[1], "-e", "nve", "-n", "2", "--log-every", "1", "--replicas", "2", "-o", &format!("{run}-2")]);
        let replicas = json_lines(&std::fs::read_to_string(sandbox.path(&format!("{run}-2/replica-1/thermo.jsonl"))).unwrap());
        let last = |lines: &[serde_json::Value]| lines.iter().rev().find_map(|line| line["potential"].as_f64()).unwrap();
        let bulk = number(&eos[0]["fits"][0], "bulk_modulus_gpa");
        [last(&dynamics), number(&relaxed[0], "energy"), number(&elastic[0]["constants_gpa"], "C11"), bulk, last(&replicas)]
    };
    for (here, there) in moved("cpu").into_iter().zip(moved("emulated")) {
        assert!((here - there).abs() < 1e-4 * here.abs(), "{here} {there}");
    }
    let phonons = |device: &str| {
        sandbox.stdout(&["phonons", &files[0], "--supercell", "1", "1", "1", "--mesh", "1", "1", "1", "-o", device, "--device", device]);
        json_lines(&std::fs::read_to_string(sandbox.path(device).join("forces.jsonl")).unwrap())
    };
    for (here, there) in phonons("cpu").iter().zip(phonons("emulated")).skip(1) {
        let forces = |line: &serde_json::Value| -> Vec<[f64; 3]> { serde_json::from_value(line["forces"].clone()).unwrap() };
        assert!(forces(here).as_flattened().iter().zip(forces(&there).as_flattened()).all(|(a, b)| (a - b).abs() < 1e-4), "{here} {there}");
    }
}
