use super::*;
use crate::testing::{Random, check_derivatives, relative_error, to_vec, with_threads};
use candle_core::{DType, Device};

fn spec() -> Arc<LinearSpec> {
    let (a, b): (Irreps, Irreps) = ("5x0e+3x1o+2x0e".parse().unwrap(), "4x0e+1x0o+7x1o".parse().unwrap());
    Arc::new(LinearSpec::new(&a, &b, 3, 2))
}

#[test]
fn normalisation_counts_all_inputs_of_an_irrep() {
    let spec = spec();
    assert_eq!(spec.instructions.len(), 3);
    assert!((spec.instructions[0].scale - 1.0 / 23f64.sqrt()).abs() < 1e-15);
    assert!((spec.instructions[1].scale - 1.0 / 9f64.sqrt()).abs() < 1e-15);
    assert_eq!((spec.dim_in, spec.dim_out, spec.weight_numel), (16, 26, 5 * 4 + 3 * 7 + 2 * 4));
}

#[test]
fn fast_kernel_equals_reference() {
    let spec = spec();
    let mut random = Random::new(1);
    for n in [0, 1, 63, 200] {
        let group_of: Vec<u32> = (0..n).map(|k| (k * 7 % 3) as u32).collect();
        let groups = Arc::new(Groups::new(&group_of, 3).unwrap());
        for (dtype, tolerance) in [(DType::F64, 1e-14), (DType::F32, 1e-6)] {
            let (x, w) = (random.tensor(&[n, 16], dtype), random.tensor(&[3, spec.weight_numel], dtype));
            let y = to_vec(&linear(&x, &w, &spec, Some(&groups)).unwrap());
            assert!(relative_error(&y, &reference::forward(&spec, &to_vec(&x), &to_vec(&w), &group_of)) < tolerance);
            let w0 = w.narrow(0, 0, 1).unwrap();
            let y = to_vec(&linear(&x, &w0, &spec, None).unwrap());
            assert!(relative_error(&y, &reference::forward(&spec, &to_vec(&x), &to_vec(&w0), &vec![0; n])) < tolerance);
        }
    }
}

#[test]
fn twice_differentiable() {
    let spec = spec();
    let mut random = Random::new(2);
    let groups = Arc::new(Groups::new(&[2, 0, 0, 2], 3).unwrap());
    let inputs = [random.tensor(&[4, 16], DType::F64), random.tensor(&[3, spec.weight_numel], DType::F64)];
    check_derivatives(&inputs, |t| linear(&t[0], &t[1], &spec, Some(&groups))?.sqr(), true);
}

#[test]
fn the_same_bits_for_any_number_of_threads() {
    let spec = spec();
    let mut random = Random::new(4);
    let (x, g) = (random.tensor(&[3000, 16], DType::F32), random.tensor(&[3000, 26], DType::F32));
    let (x, g) = (x.flatten_all().unwrap().to_vec1::<f32>().unwrap(), g.flatten_all().unwrap().to_vec1::<f32>().unwrap());
    let run = || adjoint_weights(&spec, &x, &g, 3000, None);
    assert_eq!(with_threads(1, run), with_threads(5, run));
}

#[test]
fn wrong_shapes_are_errors() {
    let spec = spec();
    let x = Tensor::zeros((4, 15), DType::F32, &Device::Cpu).unwrap();
    let w = Tensor::zeros((1, spec.weight_numel), DType::F32, &Device::Cpu).unwrap();
    assert!(linear(&x, &w, &spec, None).unwrap_err().to_string().contains("expected [atoms, 16]"));
    assert!(Groups::new(&[0, 3], 3).is_none());
}
