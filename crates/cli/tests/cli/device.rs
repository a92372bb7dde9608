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

/// The kernels in the emulator give the energies of the CPU, for every example.
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
}
