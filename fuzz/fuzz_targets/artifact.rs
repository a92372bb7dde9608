//! Artifacts from arbitrary bytes: directory, header, configuration, tensors; what loads is evaluated once.
//!
//! Beside libFuzzer's own mutations, values of the header JSON are replaced, so that edits get past the directory and into the architectures.
//! Seeds are small artifacts: `tesseral import tests/golden/mace/residual_float32.model … -o fuzz/corpus/artifact/NAME.safetensors`.
#![no_main]

use candle_core::{DType, Device};
use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use serde_json::{Value, json};
use tesseral_atoms::Structure;
use tesseral_potentials::{Artifact, Model, PotentialError};

fuzz_target!(|data: &[u8]| {
    let loaded = Artifact::from_bytes(data.to_vec(), "fuzz").and_then(|artifact| Model::load(&artifact, DType::F32, &Device::Cpu));
    let model = match loaded {
        Ok(model) => model,
        Err(error) => return report(&error),
    };
    let _ = model.header().summary();
    let elements = model.header().elements();
    let pair = Structure::molecule(vec![elements[0], elements[elements.len() - 1]], vec![[0.0; 3], [0.7, 0.6, 0.5]]);
    if let Err(error) = model.prepare(&pair).and_then(|prepared| model.evaluate(&model.batch(&[&prepared], &[&pair], 0)?)) {
        report(&error);
    }
});

/// An error must be one about the file, not one from the depths.
fn report(error: &PotentialError) {
    assert!(!error.to_string().is_empty());
    let _ = error.hint();
    if let PotentialError::Candle(_) | PotentialError::Graph(_) | PotentialError::Autograd(_) = error {
        panic!("{error}");
    }
}

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    if seed % 4 != 0 {
        if let Some(edited) = edit_header(&data[..size], u64::from(seed)).filter(|edited| edited.len() <= max_size) {
            data[..edited.len()].copy_from_slice(&edited);
            return edited.len();
        }
    }
    fuzzer_mutate(data, size, max_size)
});

/// The artifact with one value of its header replaced, copied from elsewhere, repeated or removed.
fn edit_header(bytes: &[u8], seed: u64) -> Option<Vec<u8>> {
    let mut state = seed | 1;
    let mut random = |n: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % n.max(1)
    };
    let length = usize::try_from(u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?)).ok()?;
    let mut directory: Value = serde_json::from_slice(bytes.get(8..length.checked_add(8)?)?).ok()?;
    let mut header: Value = serde_json::from_str(directory.pointer("/__metadata__/header")?.as_str()?).ok()?;
    // Mostly the hyperparameters, sometimes the tensors' types, shapes and ranges.
    let root = if random(8) == 0 { &mut directory } else { &mut header };
    let mut pointers = Vec::new();
    list_pointers(root, String::new(), &mut pointers);
    let pointer = pointers[random(pointers.len())].clone();
    let other = root.pointer(&pointers[random(pointers.len())])?.clone();
    let target = root.pointer_mut(&pointer)?;
    match (random(5), &mut *target) {
        (0, target) => *target = other,
        (1, Value::Array(list)) if !list.is_empty() => list.push(list[random(list.len())].clone()),
        (2, Value::Array(list)) if !list.is_empty() => drop(list.remove(random(list.len()))),
        (3, Value::Number(n)) => {
            let factor = [0.0, 0.5, 2.0, -1.0, 1e6, 1e-6, 1e300][random(7)];
            let changed = n.as_f64()? * factor;
            *target = if n.is_f64() { json!(changed) } else { json!(changed as i64) };
        }
        (_, Value::String(text)) => {
            let irreps = ["0e", "0o", "1o", "1e", "2e", "3o", "7o", "8e"];
            let mut parts: Vec<&str> = text.split('+').collect();
            let new = format!("{}x{}", [1, 2, 4, 64][random(4)], irreps[random(8)]);
            match random(3) {
                0 => parts.push(&new),
                1 => drop(parts.remove(random(parts.len()))),
                _ => {
                    let at = random(parts.len());
                    parts[at] = &new;
                }
            }
            *text = parts.join("+");
        }
        (_, target) => {
            *target =
                [json!(null), json!(true), json!(0), json!(1), json!(-1), json!(3), json!(u64::MAX), json!(""), json!([]), json!(0.5)]
                    [random(10)]
                .clone();
        }
    }
    *directory.pointer_mut("/__metadata__/header")? = header.to_string().into();
    let text = directory.to_string();
    Some([&(text.len() as u64).to_le_bytes(), text.as_bytes(), &bytes[8 + length..]].concat())
}

fn list_pointers(value: &Value, here: String, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(key, inner)| list_pointers(inner, format!("{here}/{key}"), found)),
        Value::Array(list) => list.iter().enumerate().for_each(|(k, inner)| list_pointers(inner, format!("{here}/{k}"), found)),
        _ => {}
    }
    found.push(here);
}
