//! 3j tensors and symmetric bases against those stored in models of mace-torch 0.3.16 (e3nn 0.4.4).

use std::path::Path;

use safetensors::{Dtype, SafeTensors};
use tesseral_o3::{Convention, HarmonicParity, Irrep, Irreps, full_basis, wigner_3j};

const TOLERANCE: f64 = 1e-13;

fn largest_difference(found: &[f64], expected: &[f64], name: &str) -> f64 {
    assert_eq!(found.len(), expected.len(), "{name}: number of values");
    let pairs = found.iter().zip(expected);
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

#[test]
fn stored_slices() {
    let text = include_str!("golden/mace_torch.txt");
    let mut tensors: Vec<(Vec<&str>, Vec<f64>)> = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let [index, value] = words[..] {
            let (_, values) = tensors.last_mut().unwrap();
            values[index.parse::<usize>().unwrap()] = value.parse().unwrap();
        } else {
            let size = words[words.len() - 1].parse().unwrap();
            tensors.push((words, vec![0.0; size]));
        }
    }
    assert_eq!(tensors.len(), 7);
    for (words, expected) in tensors {
        let name = words.join(" ");
        let found = match words[0] {
            "w3j" => {
                let l: Vec<usize> = words[1..4].iter().map(|l| l.parse().unwrap()).collect();
                let tensor = wigner_3j(l[0], l[1], l[2], Convention::E3nn04).unwrap();
                tensor.values().to_vec()
            }
            "basis" => {
                let irreps: Irreps = words[1].parse().unwrap();
                let output: Irrep = words[2].parse().unwrap();
                let basis = full_basis(&irreps, output, words[3].parse().unwrap()).unwrap();
                basis.values().to_vec()
            }
            other => panic!("unknown kind {other}"),
        };
        let error = largest_difference(&found, &expected, &name);
        assert!(error < TOLERANCE, "{name}: {error:e}");
    }
}

/// All tensors of all golden models, where the reference data lies beside the repository.
#[test]
fn reference_models() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/reference/golden");
    if !folder.is_dir() {
        eprintln!("SKIPPED reference_models: skipped because {} is absent", folder.display());
        return;
    }
    let (mut bases, mut couplings) = (0, 0);
    for index in 0..6 {
        let bytes = std::fs::read(folder.join(format!("mace_{index}.safetensors"))).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        for (name, view) in file.iter() {
            let degrees = name.split_once("._w3j_").map(|(_, degrees)| degrees);
            let correlation = name.split_once(".U_matrix_").map(|(_, digits)| digits);
            if degrees.is_none() && correlation.is_none() {
                continue;
            }
            assert_eq!(view.dtype(), Dtype::F64, "{name}");
            let values: Vec<f64> = view.data().chunks_exact(8).map(|bytes| f64::from_le_bytes(bytes.try_into().unwrap())).collect();
            let found = if let Some(degrees) = degrees {
                couplings += 1;
                let l: Vec<usize> = degrees.split('_').map(|l| l.parse().unwrap()).collect();
                let tensor = wigner_3j(l[0], l[1], l[2], Convention::E3nn04).unwrap();
                assert_eq!(view.shape(), tensor.shape(), "{name}");
                tensor.values().to_vec()
            } else {
                bases += 1;
                // [2L + 1, D, …, D, paths], the leading axis absent for L = 0.
                let nu: usize = correlation.unwrap().parse().unwrap();
                let shape = view.shape();
                let output_dim = if shape.len() == nu + 2 { shape[0] } else { 1 };
                let input_dim = shape[shape.len() - 2];
                let l_max = input_dim.isqrt() - 1;
                let irreps = Irreps::spherical_harmonics(l_max, HarmonicParity::Natural).unwrap();
                let output = Irrep::natural((output_dim - 1) / 2);
                let basis = full_basis(&irreps, output, nu).unwrap();
                assert_eq!(shape[shape.len() - 1], basis.paths(), "{name}: number of paths");
                basis.values().to_vec()
            };
            let error = largest_difference(&found, &values, name);
            assert!(error < TOLERANCE, "mace_{index} {name}: {error:e}");
        }
    }
    assert!(bases > 30 && couplings > 20, "{bases} bases, {couplings} couplings");
}
