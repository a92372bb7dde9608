//! Bad input: a clear error that names the place, a next step, and nothing half-written.

use crate::common::{Sandbox, example};

/// The run fails with exit code 1 and says what is expected of it.
fn refused(sandbox: &Sandbox, args: &[&str], expected: &[&str]) {
    let before = sandbox.names();
    let text = sandbox.run(args);
    assert!(text.starts_with("exit code 1\n"), "{args:?}: {text}");
    assert!(text.contains("---- stderr ----\nerror: "), "{args:?}: {text}");
    for part in expected {
        assert!(text.contains(part), "{args:?} should say {part:?}: {text}");
    }
    assert_eq!(before, sandbox.names(), "{args:?} left something behind");
}

#[test]
fn structures_that_cannot_be_evaluated() {
    let sandbox = Sandbox::new();
    let header = "Properties=species:S:1:pos:R:3";
    let cases: &[(&str, String, &[&str])] = &[
        ("empty.xyz", String::new(), &["empty.xyz", "the file is empty"]),
        ("word.xyz", "many\n\n".into(), &["word.xyz:1", "number of atoms"]),
        ("columns.xyz", format!("1\n{header}\nH 0 0\n"), &["columns.xyz:3: frame 0", "columns", "hint: "]),
        ("count.xyz", format!("3\n{header}\nH 0 0 0\n"), &["count.xyz", "announces 3 atoms"]),
        ("quote.xyz", format!("1\n{header} name=\"open\nH 0 0 0\n"), &["quote.xyz:2: frame 0", "never closed"]),
        ("large.xyz", "10000000\n\nH 0 0 0\n".into(), &["large.xyz"]),
        ("huge.xyz", "99999999999999999999\n\nH 0 0 0\n".into(), &["huge.xyz:1"]),
        ("nan.xyz", format!("1\n{header}\nH nan 0 0\n"), &["nan.xyz", "frame 0", "finite", "hint: "]),
        ("infinite.xyz", format!("1\n{header}\nH 0 -inf 0\n"), &["infinite.xyz", "finite"]),
        ("spot.xyz", format!("2\n{header}\nH 0 0 0\nH 0 0 0\n"), &["spot.xyz: frame 0", "atoms 0 and 1 are on the same spot", "hint: "]),
        ("flat.xyz", format!("1\nLattice=\"3 0 0 0 3 0 3 3 0\" {header} pbc=\"T T T\"\nH 0 0 0\n"), &["flat.xyz", "no volume", "hint: "]),
        ("element.xyz", format!("1\n{header}\nEs 0 0 0\n"), &["element.xyz: frame 0", "Es", "atom 0"]),
        ("none.xyz", format!("0\n{header}\n"), &["none.xyz"]),
        ("binary.bin", "\u{0}\u{1}\u{2}".into(), &["binary.bin", "not recognised", "hint: "]),
        ("odd.cif", "data_x\n_cell_length_a oops\n".into(), &["odd.cif"]),
        ("POSCAR", "title\n1.0\n1 0 0\n".into(), &["POSCAR"]),
    ];
    for (name, content, expected) in cases {
        std::fs::write(sandbox.path(name), content).unwrap();
        refused(&sandbox, &["evaluate", name, "-o", "out.xyz"], expected);
    }
    refused(&sandbox, &["evaluate", "missing.xyz"], &["missing.xyz"]);
    refused(&sandbox, &["evaluate", "."], &["directory"]);
}

#[test]
fn models_that_cannot_be_loaded() {
    let sandbox = Sandbox::new();
    let silicon = example("silicon.vasp");
    let built_in = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/sevennet-0.safetensors");
    let good = std::fs::read(built_in).unwrap();
    sandbox.file("cut.safetensors", &good[..good.len() / 2]);
    sandbox.file("head.safetensors", &good[..100]);
    let mut long = good.clone();
    long.extend_from_slice(b"more than there should be");
    sandbox.file("long.safetensors", &long);
    let mut oversized = u64::MAX.to_le_bytes().to_vec();
    oversized.extend_from_slice(b"{}");
    sandbox.file("oversized.safetensors", &oversized);
    let mut foreign = 2u64.to_le_bytes().to_vec();
    foreign.extend_from_slice(b"{}");
    sandbox.file("foreign.safetensors", &foreign);
    sandbox.file("empty.safetensors", "");
    for name in ["cut", "head", "long", "oversized", "foreign", "empty"] {
        let name = format!("{name}.safetensors");
        refused(&sandbox, &["evaluate", &silicon, "-m", &name], &[&name, "hint: "]);
        refused(&sandbox, &["info", &name], &[&name]);
    }
    // A tensor with as many numbers as before, but in another shape.
    let length = u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
    let mut header: serde_json::Value = serde_json::from_slice(&good[8..8 + length]).unwrap();
    let shape = header["embedding.weight"]["shape"].as_array_mut().unwrap();
    shape.reverse();
    assert_ne!(shape[0], shape[1]);
    let header = header.to_string();
    let mut turned = (header.len() as u64).to_le_bytes().to_vec();
    turned.extend_from_slice(header.as_bytes());
    turned.extend_from_slice(&good[8 + length..]);
    sandbox.file("turned.safetensors", &turned);
    refused(&sandbox, &["evaluate", &silicon, "-m", "turned.safetensors"], &["`embedding.weight`", "shape", "hint: "]);
    for name in ["zip.model", "pickle.pth", "text.model", "folder.model"] {
        match name {
            "zip.model" => drop(sandbox.file("zip.model", b"PK\x03\x04 and then nothing")),
            "pickle.pth" => drop(sandbox.file("pickle.pth", b"\x80\x02cposix\nsystem\nX\x04\x00\x00\x00true\x85R.")),
            "text.model" => drop(sandbox.file("text.model", "not a model\n")),
            _ => std::fs::create_dir(sandbox.path(name)).unwrap(),
        }
        refused(&sandbox, &["evaluate", &silicon, "-m", name], &[name]);
        refused(&sandbox, &["import", name, "-o", "out.safetensors"], &[name]);
    }
    refused(&sandbox, &["evaluate", &silicon, "-m", "missing.model"], &["missing.model", "hint: "]);
    refused(&sandbox, &["evaluate", &silicon, "--head", "PBE"], &["no head `PBE`", "hint: "]);
    refused(&sandbox, &["import", "missing.pth", "-o", "out.safetensors"], &["missing.pth"]);
}
