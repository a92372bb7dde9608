//! Artifacts from strangers: cut off, damaged, or edited to ask for the absurd. Each is refused with an error that names what is wrong, or works;
//! none may panic, and none may make the program take memory that its bytes do not back.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use candle_core::{DType, Device};
use serde_json::{Value, json};
use tesseral_atoms::Structure;
use tesseral_potentials::artifact::{NamedTensor, Numbers};
use tesseral_potentials::{Artifact, Model, PotentialError};
use tesseral_tests::{golden_folder, plain};

/// The bytes of a golden model, imported.
fn artifact(file: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let imported = tesseral_import::import(&plain(&golden_folder().join(file), folder.path())).unwrap();
    let path = folder.path().join("model.safetensors");
    imported.save(&path).unwrap();
    std::fs::read(&path).unwrap()
}

/// Models that between them use most of what a configuration can ask for.
fn models() -> Vec<(&'static str, Vec<u8>)> {
    [
        "mace/nonlinear_charge_spin.model.gz",
        "mace/plain_class_two_heads_zbl.model.gz",
        "mace/attention_residual.model.gz",
        "sevennet/three_modals_everywhere.pth",
        "nequip/parity_zbl_per_type.ckpt.gz",
    ]
    .map(|file| (file, artifact(file)))
    .to_vec()
}

/// Directory of tensors (JSON) and their data.
fn split(bytes: &[u8]) -> (Value, &[u8]) {
    let n = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    (serde_json::from_slice(&bytes[8..8 + n]).unwrap(), &bytes[8 + n..])
}

fn join(directory: &Value, data: &[u8]) -> Vec<u8> {
    let text = directory.to_string();
    [&(text.len() as u64).to_le_bytes(), text.as_bytes(), data].concat()
}

/// The artifact with an edited header (name, architecture, hyperparameters).
fn with_header(bytes: &[u8], edit: impl FnOnce(&mut Value)) -> Vec<u8> {
    let (mut directory, data) = split(bytes);
    let slot = directory.pointer_mut("/__metadata__/header").unwrap();
    let mut header: Value = serde_json::from_str(slot.as_str().unwrap()).unwrap();
    edit(&mut header);
    *slot = header.to_string().into();
    join(&directory, data)
}

fn header(bytes: &[u8]) -> Value {
    serde_json::from_str(split(bytes).0.pointer("/__metadata__/header").unwrap().as_str().unwrap()).unwrap()
}

/// The artifact with some tensors replaced or left out (`None`).
fn with_tensors(bytes: &[u8], edit: impl Fn(&str, &[usize], Vec<f64>) -> Option<NamedTensor>) -> Artifact {
    let original = Artifact::from_bytes(bytes.to_vec(), "golden").unwrap();
    let tensors = original
        .names()
        .filter_map(|name| {
            let shape = original.shape(name).unwrap().to_vec();
            match original.f64(name) {
                Ok(values) => edit(name, &shape, values),
                Err(_) => Some(NamedTensor { name: name.to_owned(), shape, numbers: Numbers::I64(original.i64(name).unwrap()) }),
            }
        })
        .collect();
    Artifact::new(original.header().clone(), tensors).unwrap()
}

fn f64s(name: &str, shape: &[usize], values: Vec<f64>) -> Option<NamedTensor> {
    Some(NamedTensor { name: name.to_owned(), shape: shape.to_vec(), numbers: Numbers::F64(values) })
}

fn load(bytes: Vec<u8>) -> Result<Model, PotentialError> {
    Model::load(&Artifact::from_bytes(bytes, "model.safetensors")?, DType::F32, &Device::Cpu)
}

/// Whether the error is one about the file, as opposed to one from the depths.
fn is_about_the_file(error: &PotentialError) -> bool {
    use PotentialError as E;
    matches!(
        error,
        E::NotSafetensors { .. }
            | E::NotAnArtifact { .. }
            | E::Version { .. }
            | E::Header { .. }
            | E::MissingTensor { .. }
            | E::Shape { .. }
            | E::Dtype { .. }
            | E::NotFinite { .. }
            | E::Config { .. }
    )
}

/// Refused with an error about the file, or evaluates a pair of atoms without an internal error. What it was refused for.
fn survives(bytes: Vec<u8>, what: &str) -> Option<PotentialError> {
    let model = match load(bytes) {
        Ok(model) => model,
        Err(error) => {
            assert!(is_about_the_file(&error), "{what}: {error}");
            let _ = error.hint();
            return Some(error);
        }
    };
    let elements = model.header().elements();
    let pair = Structure::molecule(vec![elements[0], elements[elements.len() - 1]], vec![[0.0; 3], [0.7, 0.6, 0.5]]);
    let evaluated = model.prepare(&pair).and_then(|prepared| model.evaluate(&model.batch(&[&prepared], &[&pair], 0)?));
    match evaluated {
        Ok(evaluations) => assert_eq!(evaluations[0].forces.len(), 2),
        // Values of a field (charge, spin) may be out of the range of a smaller table.
        Err(error) => assert!(is_about_the_file(&error), "{what}: loads, and then {error}"),
    }
    None
}

fn refused(bytes: Vec<u8>, what: &str, names: &str) {
    let error = survives(bytes, what).unwrap_or_else(|| panic!("{what}: accepted"));
    assert!(error.to_string().contains(names), "{what}: `{error}` does not say `{names}`");
}

#[test]
fn files_cut_off_anywhere_are_refused() {
    for (name, bytes) in models() {
        let header = bytes.len() - split(&bytes).1.len();
        let lengths = (0..64).chain((64..header).step_by(97)).chain((header..bytes.len()).step_by(4999)).chain([bytes.len() - 1]);
        for length in lengths {
            refused(bytes[..length].to_vec(), &format!("{name}, {length} bytes"), "model.safetensors");
        }
        refused([&bytes[..], &[0]].concat(), "one byte more", "model.safetensors");
    }
}

#[test]
fn mapped_files_cut_off_are_refused() {
    let (folder, bytes) = (tempfile::tempdir().unwrap(), artifact("sevennet/lmax3_edge_node.pth"));
    for length in [0, 7, 8, 100, bytes.len() / 2] {
        let path = folder.path().join("cut.safetensors");
        std::fs::write(&path, &bytes[..length]).unwrap();
        let error = Artifact::open(&path).unwrap_err();
        assert!(matches!(error, PotentialError::NotSafetensors { .. }), "{error}");
        assert!(error.to_string().contains("cut.safetensors") && error.hint().is_some(), "{error}");
    }
    assert!(matches!(Artifact::open(&folder.path().join("absent")), Err(PotentialError::Io { .. })));
    assert!(matches!(Artifact::open(folder.path()), Err(PotentialError::Io { .. })));
}

#[test]
fn flipped_bits_never_panic() {
    let bytes = artifact("sevennet/three_modals_everywhere.pth");
    let header = bytes.len() - split(&bytes).1.len();
    for position in (0..header).step_by(11) {
        let mut damaged = bytes.clone();
        damaged[position] ^= 1 << (position % 8);
        survives(damaged, &format!("bit flipped at {position}"));
    }
}

#[test]
fn directories_that_lie_are_refused() {
    let bytes = artifact("sevennet/three_modals_everywhere.pth");
    for length in [u64::MAX, u64::MAX - 7, 1 << 62, 1 << 40, 200_000_000, bytes.len() as u64, bytes.len() as u64 - 7] {
        let mut damaged = bytes.clone();
        damaged[..8].copy_from_slice(&length.to_le_bytes());
        refused(damaged, &format!("a header of {length} bytes"), "not a readable safetensors file");
    }
    for text in ["", "{", "[]", "null", "{\"a\":1}", "\u{0}\u{0}\u{0}", "{\"__metadata__\":{\"format\":1}}", &"[".repeat(100_000)] {
        let damaged = [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
        refused(damaged, text.get(..20).unwrap_or(text), "not a readable safetensors file");
    }
    // Sizes that no file holds, sizes whose product overflows, and ranges that overlap.
    for shape in [json!([usize::MAX]), json!([1u64 << 33, 1u64 << 33]), json!([1u64 << 62, 4, 4]), json!([0, u64::MAX]), json!([-1])] {
        let (mut directory, data) = split(&bytes);
        directory["embedding.weight"]["shape"] = shape.clone();
        refused(join(&directory, data), &format!("shape {shape}"), "not a readable safetensors file");
    }
    for range in [json!([0, usize::MAX]), json!([usize::MAX, 0]), json!([8, 4]), json!([0, 4])] {
        let (mut directory, data) = split(&bytes);
        directory["embedding.weight"]["data_offsets"] = range.clone();
        refused(join(&directory, data), &format!("range {range}"), "not a readable safetensors file");
    }
    let (mut directory, data) = split(&bytes);
    directory["embedding.weight"]["dtype"] = "F13".into();
    refused(join(&directory, data), "an unknown type", "not a readable safetensors file");
}

#[test]
fn metadata_of_others_and_of_the_future_is_refused() {
    let bytes = artifact("sevennet/three_modals_everywhere.pth");
    let edited = |edit: &dyn Fn(&mut Value)| {
        let (mut directory, data) = split(&bytes);
        edit(&mut directory);
        join(&directory, data)
    };
    let remove = |key: &'static str| edited(&move |d: &mut Value| drop(d["__metadata__"].as_object_mut().unwrap().remove(key)));
    let set = |key: &'static str, value: &'static str| edited(&move |d: &mut Value| d["__metadata__"][key] = value.into());
    refused(edited(&|d| drop(d.as_object_mut().unwrap().remove("__metadata__"))), "no metadata", "`format` is missing");
    refused(remove("format"), "no format", "`format`");
    refused(set("format", "pt"), "format of PyTorch", "`format`");
    refused(remove("format_version"), "no version", "`format_version`");
    refused(set("format_version", "one"), "version in words", "`format_version`");
    refused(set("format_version", "-1"), "negative version", "`format_version`");
    for version in ["0", "2", "4294967295"] {
        let error = survives(set("format_version", version), version).unwrap();
        assert!(matches!(error, PotentialError::Version { supported: 1, .. }), "{error}");
        assert!(error.to_string().contains(version) && error.hint().is_some());
    }
    refused(remove("header"), "no header", "`header`");
    for text in ["", "{", "null", "[]", "{}", "1", "{\"name\":\"a\"}"] {
        refused(set("header", text), text, "metadata `header` is not valid");
    }
    refused(with_header(&bytes, |h| h["format_version"] = json!(2)), "two versions", "format_version");
    refused(with_header(&bytes, |h| h["architecture"]["family"] = "gpt".into()), "another family", "gpt");
    refused(with_header(&bytes, |h| h["name"] = "\u{1b}[2Jmodel".into()), "a name that clears the screen", "name");
    // Text that is not ours to judge stays.
    assert!(survives(with_header(&bytes, |h| h["licence"] = "Ω – MIT".into()), "licence").is_none());
}

#[test]
fn tensors_that_do_not_fit_are_named() {
    // Present in these models, but models without them exist.
    let optional = ["embedding.bias", "embedding.modal", "radial.prefactor", "pair_cutoffs"];
    for (model, bytes) in models() {
        let names: Vec<String> = Artifact::from_bytes(bytes.clone(), "golden").unwrap().names().map(str::to_owned).collect();
        for wanted in &names {
            let load = |artifact: &Artifact| match Model::load(artifact, DType::F32, &Device::Cpu) {
                Ok(_) => panic!("{model}: {wanted} is wrong, and the model loads"),
                Err(error) => {
                    assert!(error.to_string().contains(wanted.as_str()), "{wanted}: {error}");
                    error
                }
            };
            let change = |edit: &dyn Fn(&[usize], Vec<f64>) -> Option<NamedTensor>| {
                with_tensors(&bytes, |name, shape, values| if name == wanted { edit(shape, values) } else { f64s(name, shape, values) })
            };
            if wanted.contains(".monomials.") {
                continue;
            }
            if !optional.contains(&wanted.as_str()) {
                assert!(matches!(load(&change(&|_, _| None)), PotentialError::MissingTensor { .. }));
            }
            let longer = |shape: &[usize], mut values: Vec<f64>| {
                let row = values.len() / shape[0].max(1);
                values.extend(vec![0.5; row]);
                f64s(wanted, &[&[shape[0] + 1], &shape[1..]].concat(), values)
            };
            let error = load(&change(&longer));
            assert!(matches!(error, PotentialError::Shape { .. } | PotentialError::Config { .. }), "{error}");
            let flat = |shape: &[usize], values: Vec<f64>| f64s(wanted, &[shape, &[1]].concat(), values);
            load(&change(&flat));
            let empty = |shape: &[usize], _| f64s(wanted, &vec![0; shape.len()], Vec::new());
            load(&change(&empty));
            for bad in [f64::NAN, f64::INFINITY] {
                let damaged = |shape: &[usize], mut values: Vec<f64>| {
                    *values.last_mut().unwrap() = bad;
                    f64s(wanted, shape, values)
                };
                assert!(matches!(load(&change(&damaged)), PotentialError::NotFinite { .. }));
            }
            let integers = |shape: &[usize], values: Vec<f64>| {
                Some(NamedTensor { name: wanted.clone(), shape: shape.to_vec(), numbers: Numbers::I64(vec![1; values.len()]) })
            };
            assert!(matches!(load(&change(&integers)), PotentialError::Dtype { .. }));
        }
    }
}

#[test]
fn monomials_out_of_range_are_refused() {
    let bytes = artifact("mace/attention_residual.model.gz");
    let original = Artifact::from_bytes(bytes.clone(), "golden").unwrap();
    let table = "layers.0.product.0.monomials.2";
    for bad in [-1, 1000, i64::MAX, i64::MIN, 1 << 32] {
        let tensors = original
            .names()
            .map(|name| {
                let shape = original.shape(name).unwrap().to_vec();
                let numbers = match original.i64(name) {
                    Ok(mut indices) => {
                        if name == table {
                            *indices.last_mut().unwrap() = bad;
                        }
                        Numbers::I64(indices)
                    }
                    Err(_) => Numbers::F64(original.f64(name).unwrap()),
                };
                NamedTensor { name: name.to_owned(), shape, numbers }
            })
            .collect();
        let artifact = Artifact::new(original.header().clone(), tensors).unwrap();
        let error = Model::load(&artifact, DType::F32, &Device::Cpu).err().unwrap();
        assert!(matches!(error, PotentialError::Config { .. }) && error.to_string().contains("layers.0.product.0"), "{bad}: {error}");
    }
}

#[test]
fn absurd_hyperparameters_are_named() {
    let mace = artifact("mace/nonlinear_charge_spin.model.gz");
    let nequip = artifact("sevennet/xplor_bias_mixed_connections.pth.gz");
    let both = [&mace, &nequip];
    let set = |bytes: &[u8], pointer: &str, value: Value| {
        with_header(bytes, |h| *h["architecture"].pointer_mut(pointer).unwrap_or_else(|| panic!("no {pointer}")) = value)
    };
    for bytes in both {
        for value in [json!(0), json!(-1.0), json!(1e300), json!(null), json!(101.0), json!("6")] {
            let what = format!("cutoff {value}");
            let error = survives(set(bytes, "/cutoff", value), &what).expect(&what);
            assert!(matches!(error, PotentialError::Config { .. } | PotentialError::Header { .. }), "{error}");
        }
        refused(set(bytes, "/cutoff", json!(-1.0)), "negative cutoff", "cutoff");
        refused(set(bytes, "/layers", json!([])), "no layers", "layers");
        refused(set(bytes, "/elements", json!([])), "no elements", "elements");
        refused(set(bytes, "/elements", json!([0])), "element 0", "elements");
        refused(set(bytes, "/elements", json!([119])), "element 119", "elements");
        refused(set(bytes, "/elements", json!([1, 8, 1])), "hydrogen twice", "atomic number 1 occurs twice");
        refused(set(bytes, "/elements", json!([300])), "element 300", "header");
        refused(set(bytes, "/edge_irreps", "1x0e+1x1o+1x60e".into()), "a gap in the edge harmonics", "edge harmonics");
        let to_60: Vec<String> = (0..=60).map(|l| format!("1x{l}e")).collect();
        refused(set(bytes, "/edge_irreps", to_60.join("+").into()), "edge harmonics up to 60", "edge harmonics");
        refused(set(bytes, "/edge_irreps", "".into()), "no edge harmonics", "edge harmonics");
        for irreps in ["0x0e", "1x60e", "1x8e", "2000000000x0e", "1000000x0e+1000000x1e", ""] {
            refused(set(bytes, "/layers/0/irreps_out", irreps.into()), irreps, "layers.0.irreps_out");
        }
        refused(set(bytes, "/layers/0/irreps_out", "3000000000x0e".into()), "beyond all dimensions", "header");
        refused(set(bytes, "/layers/0/irreps_out", vec!["1x0e"; 65].join("+").into()), "65 blocks", "layers.0.irreps_out");
        refused(set(bytes, "/layers/0/radial/sizes", json!([])), "no sizes", "layers.0.radial");
        refused(set(bytes, "/layers/0/radial/activation", "cos".into()), "unknown activation", "cos");
    }
    for correlation in [0u64, 5, 100, 1 << 40] {
        refused(set(&mace, "/layers/0/correlation", json!(correlation)), "correlation", "layers.0.correlation");
    }
    refused(set(&mace, "/heads", json!([])), "no heads", "heads");
    refused(set(&mace, "/heads", json!([""])), "an empty name", "heads");
    refused(set(&mace, "/heads", json!(["a", "a"])), "two heads of one name", "`a` occurs twice");
    refused(set(&mace, "/heads", json!(["\u{7}"])), "a head that rings", "heads");
    refused(with_header(&mace, |h| drop(h["architecture"].as_object_mut().unwrap().remove("heads"))), "heads missing", "heads");
    refused(set(&mace, "/layers/0/avg_num_neighbors", json!(0.0)), "no neighbours", "layers.0.avg_num_neighbors");
    refused(set(&mace, "/radial/size", json!(0)), "no radial functions", "radial.size");
    refused(set(&mace, "/radial/size", json!(1u64 << 60)), "radial functions", "radial.size");
    refused(set(&mace, "/radial/envelope_p", json!(0)), "envelope exponent", "radial.envelope_p");
    refused(set(&mace, "/radial/envelope_p", json!(u32::MAX)), "envelope exponent", "radial.envelope_p");
    refused(set(&mace, "/readouts", json!([])), "no readouts", "readouts");
    refused(set(&mace, "/readouts/0/layer", json!(1u64 << 60)), "a readout of no layer", "readouts.0");
    refused(set(&mace, "/fields/0/width", json!(u64::MAX)), "width of a field", "field");
    refused(set(&nequip, "/basis_size", json!(u64::MAX)), "radial functions", "basis_size");
    refused(set(&nequip, "/envelope/onset", json!(-1.0)), "envelope", "envelope");
    refused(set(&nequip, "/envelope/onset", json!(1e9)), "envelope", "envelope");
    refused(set(&nequip, "/readout", json!([])), "no readout", "readout");
    refused(set(&nequip, "/readout/0/size_in", json!(3)), "another readout", "readout.0");
}

/// JSON pointers to every value inside `value`.
fn pointers(value: &Value, here: &str, found: &mut Vec<String>) {
    found.push(here.to_owned());
    match value {
        Value::Object(map) => map.iter().for_each(|(key, inner)| pointers(inner, &format!("{here}/{key}"), found)),
        Value::Array(list) => list.iter().enumerate().for_each(|(k, inner)| pointers(inner, &format!("{here}/{k}"), found)),
        _ => {}
    }
}

/// Most virtual memory that this process has had, in bytes, where the system says so.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmPeak:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

#[test]
fn every_value_of_the_header_may_be_anything() {
    let hostile = [
        json!(null),
        json!(true),
        json!(false),
        json!(0),
        json!(1),
        json!(2),
        json!(-1),
        json!(100),
        json!(1u64 << 32),
        json!(u64::MAX),
        json!(1e300),
        json!(1e-300),
        json!(-0.5),
        json!(""),
        json!("tanh"),
        json!("linear"),
        json!("1x0e"),
        json!("4x0o+4x0e+4x1o"),
        json!("4x1o"),
        json!("2000000000x0e"),
        json!([]),
        json!({}),
    ];
    let (mut accepted, mut refused) = (0, 0);
    for (model, bytes) in models() {
        assert!(survives(bytes.clone(), model).is_none(), "{model} itself");
        let original = header(&bytes);
        let mut all = Vec::new();
        pointers(&original["architecture"], "", &mut all);
        let mut attempt = |edited: Value, what: String| {
            let error = survives(with_header(&bytes, |h| h["architecture"] = edited), &what);
            accepted += usize::from(error.is_none());
            refused += usize::from(error.is_some());
        };
        for pointer in &all {
            for value in &hostile {
                let mut edited = original["architecture"].clone();
                *edited.pointer_mut(pointer).unwrap() = value.clone();
                attempt(edited, format!("{model}: {pointer} = {value}"));
            }
            let mut edited = original["architecture"].clone();
            match edited.pointer_mut(pointer).unwrap() {
                Value::Array(list) if !list.is_empty() => {
                    list.push(list[0].clone());
                    attempt(edited.clone(), format!("{model}: {pointer} with one more"));
                    let Some(Value::Array(list)) = edited.pointer_mut(pointer) else { unreachable!() };
                    list.pop();
                    list.reverse();
                    attempt(edited.clone(), format!("{model}: {pointer} reversed"));
                    let Some(Value::Array(list)) = edited.pointer_mut(pointer) else { unreachable!() };
                    list.remove(0);
                    attempt(edited, format!("{model}: {pointer} without the last"));
                }
                Value::Number(number) => {
                    for factor in [0.5, 2.0] {
                        let changed = number.as_f64().unwrap() * factor;
                        let changed = if number.is_f64() { json!(changed) } else { json!(changed as i64) };
                        let mut edited = original["architecture"].clone();
                        *edited.pointer_mut(pointer).unwrap() = changed.clone();
                        attempt(edited, format!("{model}: {pointer} = {changed}"));
                    }
                }
                _ => {}
            }
        }
    }
    // Neither all nor none, or nothing is tested.
    assert!(accepted > 50 && refused > 1000, "{accepted} accepted, {refused} refused");
    match peak_memory() {
        Some(bytes) => assert!(bytes < 6 << 30, "{bytes} bytes of address space were asked for"),
        None => eprintln!("memory not checked because /proc/self/status is not there"),
    }
}
