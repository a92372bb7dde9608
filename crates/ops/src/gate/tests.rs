use super::*;
use crate::testing::{Random, check_derivatives, relative_error, to_vec, with_threads};
use candle_core::{DType, Device};

const ACTIVATIONS: [Activation; 9] = [
    Activation::Identity,
    Activation::Silu,
    Activation::Tanh,
    Activation::Sigmoid,
    Activation::Abs,
    Activation::Relu,
    Activation::ShiftedSoftplus,
    Activation::Gelu,
    Activation::Elu,
];

/// Odd and even scalars, gates of two kinds, gated vectors and rank-2 tensors, with `k` channels.
fn spec(k: usize) -> Arc<GateSpec> {
    let scalars = vec![(k, Activation::Tanh.e3nn()), (2 * k, Activation::Silu.e3nn())];
    let gates = vec![(k, Activation::Sigmoid.e3nn()), (k + 1, Activation::Silu.plain())];
    let gated = vec![GatedBlock { mul: k + 1, components: 3 }, GatedBlock { mul: k, components: 5 }];
    Arc::new(GateSpec::new(scalars, gates, gated).unwrap())
}

#[test]
fn fast_kernel_equals_reference() {
    for k in [1, 3, 5, 17, 128] {
        let spec = spec(k);
        assert_eq!(spec.dim_in(), 3 * k + 2 * k + 1 + 3 * (k + 1) + 5 * k);
        for n in [0, 1, 37] {
            for (dtype, tolerance) in [(DType::F64, 1e-15), (DType::F32, 1e-6)] {
                let x = (Random::new(k as u64).tensor(&[n, spec.dim_in()], dtype) * 4.0).unwrap();
                let y = gate(&x, &spec).unwrap();
                assert_eq!(y.dims(), [n, spec.dim_out()]);
                assert!(relative_error(&to_vec(&y), &reference::evaluate(&spec, &to_vec(&x))) < tolerance);
            }
        }
    }
}

#[test]
fn activations_equal_the_reference() {
    let x: Vec<f64> = (-400..400).map(|k| f64::from(k) * 0.05 + 0.01).collect();
    for activation in ACTIVATIONS {
        for (dtype, tolerance) in [(DType::F64, 2e-15), (DType::F32, 3e-7)] {
            let t = Tensor::new(x.as_slice(), &Device::Cpu).unwrap().reshape((4, 10, 20)).unwrap().to_dtype(dtype).unwrap();
            let y = activate(&t, activation.e3nn()).unwrap();
            assert_eq!(y.dims(), t.dims());
            let want: Vec<f64> = to_vec(&t).iter().map(|&x| reference::activate(activation.e3nn(), x)).collect();
            for (a, b) in to_vec(&y).iter().zip(&want) {
                assert!((a - b).abs() < tolerance * b.abs().max(1.0), "{activation:?}: {a} instead of {b}");
            }
        }
    }
}

/// The published constants are Monte-Carlo estimates of the exact integral: within a few of their standard deviations.
#[test]
fn e3nn_constants_normalise_the_second_moment() {
    for activation in ACTIVATIONS {
        let h = 1e-3;
        let density = |z: f64| (-0.5 * z * z).exp() / (2.0 * std::f64::consts::PI).sqrt();
        let f = |z: f64| reference::activate(activation.e3nn(), z).powi(2) * density(z) * h;
        let moment: f64 = (-12_000..12_000).map(|k| f((f64::from(k) + 0.5) * h)).sum();
        assert!((moment - 1.0).abs() < 5e-3, "{activation:?}: {moment}");
    }
}

#[test]
fn twice_differentiable() {
    let x = (Random::new(3).tensor(&[3, spec(2).dim_in()], DType::F64) * 2.0).unwrap();
    check_derivatives(&[x], |t| gate(&t[0], &spec(2))?.sqr(), true);
    // Away from the kinks at zero.
    let x = Tensor::new(&[-2.3f64, -1.1, -0.4, 0.2, 0.9, 3.1], &Device::Cpu).unwrap();
    for activation in ACTIVATIONS {
        check_derivatives(std::slice::from_ref(&x), |t| activate(&t[0], activation.e3nn())?.sqr(), true);
    }
}

#[test]
fn the_same_bits_for_any_number_of_threads() {
    let spec = spec(32);
    let x = Random::new(4).tensor(&[700, spec.dim_in()], DType::F32);
    let run = || to_vec(&gate(&x, &spec).unwrap());
    assert_eq!(with_threads(1, run), with_threads(3, run));
}

#[test]
fn extremes_stay_finite() {
    for dtype in [DType::F32, DType::F64] {
        let x = Tensor::new(&[-1e4f64, -120.0, 120.0, 1e4], &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
        let y = to_vec(&activate(&x, Activation::Silu.plain()).unwrap());
        assert!(y[0].abs() < 1e-30 && y[1].abs() < 1e-30 && (y[2] - 120.0).abs() < 1e-4 && y[3] == 1e4, "{y:?}");
    }
}

#[test]
fn wrong_blocks_and_shapes_are_errors() {
    let gated = vec![GatedBlock { mul: 4, components: 3 }];
    let error = GateSpec::new(vec![], vec![(3, Activation::Silu.e3nn())], gated).unwrap_err();
    assert_eq!(error, GateError::Gates { gates: 3, channels: 4 });
    let x = Tensor::zeros((2, 5), DType::F32, &Device::Cpu).unwrap();
    assert!(gate(&x, &spec(1)).unwrap_err().to_string().contains("expected [rows, "));
    assert!(activate(&x.to_dtype(DType::U32).unwrap(), Activation::Silu.plain()).is_err());
}
