use super::*;
use crate::testing::{Random, check_derivatives, relative_error, to_vec, with_threads};
use candle_core::{DType, Device};

fn tensor(x: &[f64]) -> Tensor {
    Tensor::new(x, &Device::Cpu).unwrap()
}

/// Distances in (0.3, 5.3) Å.
fn distances(n: usize) -> Vec<f64> {
    Random::new(n as u64 + 1).vec(n).into_iter().map(|x| 2.8 + 2.5 * x).collect()
}

const R0: [f64; 6] = [1.1, 1.4, 2.0, 2.3, 1.7, 0.9];
const Z: [u32; 6] = [1, 6, 8, 14, 29, 79];

/// Every scalar function with what the definitions say about an edge.
fn scalar_functions() -> Vec<(&'static str, ScalarFunction, Box<dyn Fn(usize, f64) -> f64>)> {
    let cutoffs: Vec<f64> = R0.iter().map(|r| 2.0 * r).collect();
    let mut reversed = Z;
    reversed.reverse();
    let zbl = |constants: ZblConstants| {
        let cutoffs = cutoffs.clone();
        let function = constants.pair_energy(&Z, &reversed, &cutoffs, 6).unwrap();
        let reference = move |e: usize, d: f64| reference::zbl(d, &constants, Z[e], reversed[e], cutoffs[e], 6);
        (function, Box::new(reference) as Box<dyn Fn(usize, f64) -> f64>)
    };
    let (mace, mace_reference) = zbl(ZblConstants::MACE);
    let (lammps, lammps_reference) = zbl(ZblConstants::LAMMPS);
    vec![
        (
            "polynomial p=5",
            ScalarFunction::PolynomialEnvelope { p: 5, cutoff: 4.5 },
            Box::new(|_, d| reference::polynomial_envelope(d, 5, 4.5)),
        ),
        (
            "polynomial p=6",
            ScalarFunction::PolynomialEnvelope { p: 6, cutoff: 5.0 },
            Box::new(|_, d| reference::polynomial_envelope(d, 6, 5.0)),
        ),
        ("xplor", ScalarFunction::XplorEnvelope { onset: 3.5, cutoff: 5.0 }, Box::new(|_, d| reference::xplor_envelope(d, 3.5, 5.0))),
        (
            "agnesi",
            ScalarFunction::Agnesi { a: 1.0805, q: 0.9183, p: 4.5791, r0: R0.into() },
            Box::new(|e, d| reference::agnesi_transform(d, R0[e], 1.0805, 0.9183, 4.5791)),
        ),
        ("soft", ScalarFunction::Soft { alpha: 4.0, r0: R0.into() }, Box::new(|e, d| reference::soft_transform(d, R0[e], 4.0))),
        ("zbl mace", mace, mace_reference),
        ("zbl lammps", lammps, lammps_reference),
    ]
}

#[test]
fn scalar_functions_equal_the_definitions() {
    for (name, function, reference) in scalar_functions() {
        for d in [0.2, 0.7, 1.0, 1.9, 2.6, 3.4, 3.6, 4.4, 4.5, 4.9, 5.0, 5.5] {
            for e in 0..R0.len() {
                let (got, want) = (function.derivative(e, d, 0), reference(e, d));
                assert!((got - want).abs() < 1e-13 * want.abs().max(1.0), "{name} of edge {e} at {d}: {got} instead of {want}");
                assert_eq!(function.value_and_derivative(e, d), (got, function.derivative(e, d, 1)), "{name}");
            }
        }
    }
}

#[test]
fn scalar_functions_are_differentiable_three_times() {
    for (name, function, _) in scalar_functions() {
        let d = tensor(&[0.8, 1.3, 2.1, 3.9, 3.3, 1.6]);
        let function = Arc::new(function);
        check_derivatives(std::slice::from_ref(&d), |t| scalar_function(&t[0], &function)?.sqr(), true);
        let h = 1e-3;
        for e in 0..6 {
            let d = to_vec(&d)[e];
            let f = |k: f64| function.derivative(e, d + k * h, 2);
            let want = (8.0 * (f(1.0) - f(-1.0)) - (f(2.0) - f(-2.0))) / (12.0 * h);
            let got = function.derivative(e, d, 3);
            assert!((got - want).abs() < 1e-6 * want.abs().max(1.0), "{name}, third derivative of edge {e}: {got} instead of {want}");
        }
    }
}

#[test]
fn envelopes_end_smoothly() {
    for p in [2, 5, 6, 8] {
        let f = ScalarFunction::PolynomialEnvelope { p, cutoff: 5.0 };
        assert_eq!((f.derivative(0, 0.0, 0), f.derivative(0, 5.0, 0), f.derivative(0, 6.0, 1)), (1.0, 0.0, 0.0));
        for order in 0..3 {
            assert!(f.derivative(0, 5.0 - 1e-9, order).abs() < 1e-6, "p = {p}, order {order}");
        }
    }
    let f = ScalarFunction::XplorEnvelope { onset: 4.5, cutoff: 5.0 };
    for order in 0..2 {
        assert!(f.derivative(0, 5.0 - 1e-9, order).abs() < 1e-6);
        assert!((f.derivative(0, 4.5, order) - f.derivative(0, 4.4, order)).abs() < 1e-12);
    }
}

#[test]
fn bases_equal_the_definitions() {
    for n in [0, 1, 7, 3000] {
        let d = distances(n);
        for (dtype, tolerance) in [(DType::F64, 1e-13), (DType::F32, 2e-6)] {
            let t = tensor(&d).to_dtype(dtype).unwrap();
            let d = to_vec(&t);
            let parameters = tensor(&[0.6, 1.2, 1.8, 2.4]).to_dtype(dtype).unwrap();
            let w = to_vec(&parameters);
            let grid = |f: &dyn Fn(f64, f64) -> f64| d.iter().flat_map(|&d| w.iter().map(move |&w| f(d, w))).collect::<Vec<f64>>();
            let close = |got: Tensor, want: Vec<f64>| {
                assert_eq!(got.dims(), [n, 4]);
                assert!(relative_error(&to_vec(&got), &want) < tolerance);
            };
            close(bessel(&t, &parameters, 0.7).unwrap(), grid(&|d, w| reference::bessel(d, w, 0.7)));
            close(gaussian(&t, &parameters, 0.8).unwrap(), grid(&|d, w| reference::gaussian(d, w, 0.8)));
            let x = (t / 6.0).unwrap();
            let want = to_vec(&x).iter().flat_map(|&x| (1..5).map(move |n| reference::chebyshev(x, n))).collect();
            close(chebyshev(&x, 4).unwrap(), want);
        }
    }
}

#[test]
fn bases_are_differentiable_twice() {
    let d = tensor(&[1e-9, 0.3, 0.9, 1.7, 2.5, 4.4]);
    let w = tensor(&[0.6, 1.3, 2.5]);
    check_derivatives(&[d.clone(), w.clone()], |t| bessel(&t[0], &t[1], 0.7)?.sqr(), true);
    check_derivatives(&[d.clone(), w], |t| gaussian(&t[0], &t[1], 0.8)?.sqr(), true);
    check_derivatives(&[(d / 5.0).unwrap()], |t| chebyshev(&t[0], 5)?.sqr(), true);
}

/// The series takes over below w·d = 1 without a step.
#[test]
fn bessel_is_smooth_at_short_distances() {
    for order in 0..=MAX_ORDER {
        for (a, b) in [(1.0 - 1e-12, 1.0 + 1e-12), (0.0, 1e-9)] {
            let (a, b) = (cpu::bessel_derivative(2.0, a / 2.0, order, 0), cpu::bessel_derivative(2.0, b / 2.0, order, 0));
            assert!((a - b).abs() < 1e-8, "order {order}: {a} and {b}");
        }
    }
    assert_eq!(cpu::bessel_derivative(2.5, 0.0, 0, 0), 2.5);
}

#[test]
fn trainable_agnesi_is_the_agnesi_transform() {
    let d = tensor(&[0.8, 1.3, 2.1, 3.9, 3.3, 1.6]);
    let (a, q, p) = (tensor(&[1.0805]), tensor(&[0.9183]), tensor(&[4.5791]));
    let fixed = agnesi_transform(&d, &R0, 1.0805, 0.9183, 4.5791).unwrap();
    let trainable = trainable_agnesi_transform(&d, &tensor(&R0), &a, &q, &p).unwrap();
    assert!(relative_error(&to_vec(&trainable), &to_vec(&fixed)) < 1e-14);
    check_derivatives(&[d, a, q, p], |t| trainable_agnesi_transform(&t[0], &tensor(&R0), &t[1], &t[2], &t[3])?.sqr(), true);
}

#[test]
fn distance_is_twice_differentiable_and_safe_at_zero() {
    let v = Random::new(9).tensor(&[6, 3], DType::F64);
    check_derivatives(std::slice::from_ref(&v), |t| distance(&t[0])?.powf(3.0), true);
    let v = candle_core::Var::from_tensor(&tensor(&[0.0; 3]).reshape((1, 3)).unwrap()).unwrap();
    let d = distance(&v).unwrap();
    assert_eq!(to_vec(&d), [0.0]);
    let first = d.backward().unwrap().remove(&v).unwrap();
    assert_eq!(to_vec(&first), [0.0; 3]);
    assert_eq!(to_vec(first.sum_all().unwrap().backward().unwrap().get(&v).unwrap()), [0.0; 3]);
    let none = Tensor::zeros((0, 3), DType::F64, &Device::Cpu).unwrap();
    assert_eq!(distance(&none).unwrap().dims(), [0]);
}

#[test]
fn the_same_bits_for_any_number_of_threads() {
    let d = tensor(&distances(5000)).to_dtype(DType::F32).unwrap();
    let w = tensor(&[0.6, 1.3, 2.5]).to_dtype(DType::F32).unwrap();
    let run = || (to_vec(&bessel(&d, &w, 0.7).unwrap()), to_vec(&polynomial_envelope(&d, 6, 5.0).unwrap()));
    assert_eq!(with_threads(1, run), with_threads(3, run));
}

#[test]
fn wrong_shapes_are_errors() {
    let message = |r: Result<Tensor>| r.unwrap_err().to_string();
    assert!(message(agnesi_transform(&tensor(&[1.0]), &R0, 1.0, 1.0, 4.0)).contains("1 distances, but parameters of 6 edges"));
    let square = Tensor::zeros((2, 2), DType::F64, &Device::Cpu).unwrap();
    assert!(message(polynomial_envelope(&square, 5, 5.0)).contains("expected one row of distances"));
    assert!(message(distance(&square)).contains("expected vectors [edges, 3]"));
    assert!(ZblConstants::MACE.pair_energy(&Z, &Z[1..], &R0, 6).is_none());
}
