//! `tesseral verify`.

use crate::common::{Sandbox, example, json_lines};

#[test]
fn the_built_in_model_is_a_potential() {
    let sandbox = Sandbox::new();
    let text = sandbox.stdout(&["verify", "--json", &example("nacl.cif"), &example("ethanol.extxyz")]);
    let checks = json_lines(&text);
    let names: Vec<&str> = checks.iter().map(|check| check["check"].as_str().unwrap()).collect();
    assert_eq!(
        names[..9],
        [
            "forces = −dE/dx",
            "stress = dE/dε / V",
            "rotation",
            "reflection",
            "permutation",
            "translation, unwrapping",
            "f32 energy",
            "f32 forces",
            "f32 stress"
        ]
    );
    assert!(names.contains(&"energy at the cutoff") && names.contains(&"force at the cutoff"));
    for check in &checks {
        if check["check"] == "reflection" {
            // SevenNet-0 has features without parity: it tells mirror images apart, and does not claim otherwise.
            assert!(check["passed"].is_null() && check["value"].as_f64().unwrap() > 1e-6, "{check}");
            continue;
        }
        assert_eq!(check["passed"], true, "{check}");
        assert!(check["value"].as_f64().unwrap() <= check["tolerance"].as_f64().unwrap());
    }
    let table = sandbox.stdout(&["verify", &example("ethanol.extxyz")]);
    let verdict = |name: &str| table.lines().find(|line| line.starts_with(name)).and_then(|line| line.split_whitespace().rev().nth(1));
    assert_eq!((verdict("rotation"), verdict("reflection")), (Some("ok"), Some("n/a")), "{table}");
    assert!(!table.contains("FAIL"), "{table}");
}

#[test]
fn what_cannot_be_evaluated_cannot_be_verified() {
    let sandbox = Sandbox::new();
    sandbox.file("es.xyz", "1\n\nEs 0 0 0\n");
    let text = sandbox.run(&["verify", "es.xyz"]);
    assert!(text.starts_with("exit code 1") && text.contains("cannot check es.xyz#0") && text.contains("Es"), "{text}");
    assert!(sandbox.run(&["verify", "none.xyz"]).starts_with("exit code 1"));
}
