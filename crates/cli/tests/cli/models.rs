//! `info`, `models`, `import`, and which model `-m` means.

use crate::common::{Sandbox, example, json_lines, with_filters};

const BUILT_IN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/sevennet-0.safetensors");

#[test]
fn the_built_in_model_describes_itself() {
    let sandbox = Sandbox::new();
    let text = sandbox.run(&["info"]);
    with_filters(|| {
        insta::assert_snapshot!(text, @r#"
    exit code 0
    ---- stdout ----
    name            SevenNet-0 (11Jul2024)
    architecture    NequIP/SevenNet
    cutoff          5 Å
    layers          5
    hidden irreps   128x0e+64x1e+32x2e
    edge harmonics  1x0e+1x1e+1x2e
    radial basis    8 bessel
    parameters      842623
    elements        89: H–Bi, Ac–Pu
    licence         MIT
    source          checkpoint_sevennet_0.pth
    sha256          7052cb42b7b3be42b40b97fa0d21077a48c54b5548948fc4dcf346629f813c36
    producer        sevenn [version]
    ---- stderr ----
    "#);
    });
    let info = &json_lines(&sandbox.stdout(&["info", "--json"]))[0];
    assert_eq!(info["elements"].as_array().unwrap().len(), 89);
    assert_eq!(info["licence"], "MIT");
    assert_eq!(info["cutoff"], 5.0);
    // The same by name, by alias and by path.
    for model in ["sevennet-0", "7net-0", "SevenNet-0", BUILT_IN] {
        assert_eq!(&json_lines(&sandbox.stdout(&["info", model, "--json"]))[0], info, "{model}");
    }
}

#[test]
fn the_list_of_models() {
    let sandbox = Sandbox::new();
    let list = sandbox.stdout(&["models"]);
    assert!(list.lines().nth(1).unwrap().starts_with("sevennet-0               built in   MIT"), "{list}");
    let models = json_lines(&sandbox.stdout(&["models", "--json"]));
    assert_eq!(models.len() + 1, list.lines().count());
    let off = models.iter().find(|model| model["name"] == "mace-off23-small").unwrap();
    assert_eq!(off["licence"], "ASL");
    assert!(off["forbids"].as_str().unwrap().contains("academic non-commercial"));
    // What is in the cache is installed.
    std::fs::create_dir_all(sandbox.path("cache/models")).unwrap();
    std::fs::copy(BUILT_IN, sandbox.path("cache/models/mace-mp-0-small.safetensors")).unwrap();
    assert!(sandbox.stdout(&["models"]).contains("mace-mp-0-small          installed"));
    sandbox.stdout(&["evaluate", &example("silicon.vasp"), "-m", "mace-mp-small"]);
}

#[test]
fn models_that_are_not_there() {
    let sandbox = Sandbox::new();
    let silicon = example("silicon.vasp");
    insta::assert_snapshot!(sandbox.run(&["evaluate", &silicon, "-m", "sevennet-l3i5"]), @r#"
    exit code 1
    ---- stdout ----
    ---- stderr ----
    error: model `sevennet-l3i5` is not installed
    hint: `tesseral fetch sevennet-l3i5` downloads, verifies and imports it
    "#);
    insta::assert_snapshot!(sandbox.run(&["evaluate", &silicon, "-m", "mace-of23-small"]), @r#"
    exit code 1
    ---- stdout ----
    ---- stderr ----
    error: no model is called `mace-of23-small`, and there is no such file
    hint: did you mean `mace-off23-small`? `tesseral models` lists all, `tesseral fetch NAME` installs one
    "#);
    insta::assert_snapshot!(sandbox.run(&["evaluate", &silicon, "-m", "something else"]), @r#"
    exit code 1
    ---- stdout ----
    ---- stderr ----
    error: no model is called `something else`, and there is no such file
    hint: `tesseral models` lists the known models; a file is given by its path
    "#);
    insta::assert_snapshot!(sandbox.run(&["info", "./sevennet-0"]), @r#"
    exit code 1
    ---- stdout ----
    ---- stderr ----
    error: there is no model file ./sevennet-0
    hint: a model is given by its path, or by a name that `tesseral models` lists
    "#);
}

#[test]
fn the_model_can_come_from_the_environment() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.tesseral(&["evaluate", &example("silicon.vasp")]);
    command.env("TESSERAL_MODEL", "sevennet-l3i5");
    command.assert().code(1);
}

/// Published checkpoints kept beside the repository; see its CONTRIBUTING.
#[test]
fn importing_a_foreign_checkpoint() {
    let checkpoint = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/reference/checkpoints/MACE_SPICE.model");
    if !std::path::Path::new(checkpoint).exists() {
        eprintln!("skipped because {checkpoint} is not there");
        return;
    }
    let sandbox = Sandbox::new();
    let args = ["import", checkpoint, "-o", "spice.safetensors", "--name", "spice", "--licence", "MIT"];
    assert_eq!(sandbox.stdout(&args), "spice.safetensors\n");
    let info = &json_lines(&sandbox.stdout(&["info", "spice.safetensors", "--json"]))[0];
    assert_eq!((info["name"].as_str(), info["licence"].as_str()), (Some("spice"), Some("MIT")));
    assert_eq!(info["sha256"].as_str().unwrap().len(), 64);
    // Imported beforehand or on the fly: the same numbers.
    let results = ["spice.safetensors", checkpoint]
        .map(|model| sandbox.stdout(&["evaluate", &example("ethanol.extxyz"), "-m", model, "--dtype", "f64", "-o", "-"]));
    assert_eq!(results[0], results[1]);
    let wrong = sandbox.run(&["import", checkpoint, "-o", "spice.model"]);
    assert!(wrong.starts_with("exit code 2") && wrong.contains("hint: write to spice.safetensors"), "{wrong}");
}
