use std::sync::Arc;

use candle_core::Tensor;
use tesseral_kernels::{Buffer, Device, testing};
use tesseral_ops::radial::cpu::{bessel_derivative, chebyshev_derivatives, gaussian_derivative};
use tesseral_ops::radial::cuda::{DeviceBases, DeviceScalarFunction, DeviceSplines};
use tesseral_ops::radial::spline::SplineGrid;
use tesseral_ops::radial::{MAX_ORDER, ScalarFunction, ZblConstants};
use tesseral_testkit::Random;

use super::{Precision, error, garbage, widen};

/// Distances up to 5 Å and a little beyond; none; in type `T` and the same in f64.
fn distances<T: Precision>(edges: usize) -> (Vec<T>, Vec<f64>) {
    let mut numbers = Random::new(edges as u64);
    let narrow: Vec<T> = numbers.numbers(edges).into_iter().map(|x| T::of(2.7 + 2.6 * x)).collect();
    let wide = widen(&narrow);
    (narrow, wide)
}

fn functions(edges: usize) -> Vec<ScalarFunction> {
    let r0: Arc<[f64]> = (0..edges).map(|e| 1.2 + 0.01 * (e % 60) as f64).collect();
    let z: Vec<u32> = (0..edges).map(|e| 1 + (e % 30) as u32).collect();
    let cutoffs: Vec<f64> = (0..edges).map(|e| 1.5 + 0.1 * (e % 30) as f64).collect();
    vec![
        ScalarFunction::PolynomialEnvelope { p: 5, cutoff: 5.0 },
        ScalarFunction::XplorEnvelope { onset: 4.0, cutoff: 5.0 },
        ScalarFunction::Agnesi { a: 1.1, q: 0.9183, p: 4.5791, r0: r0.clone() },
        ScalarFunction::Soft { alpha: 4.0, r0 },
        ZblConstants::MACE.pair_energy(&z, &z, &cutoffs, 6).unwrap(),
    ]
}

fn compare<T: Precision>(device: &Device, edges: usize) {
    let (d, wide) = distances::<T>(edges);
    let d = device.upload(&d).unwrap();
    let check = |what: &str, order: usize, found: &Buffer<T>, want: &[f64]| {
        let error = error(found, want);
        assert!(error < T::TOLERANCE, "{what}, order {order}, {edges} edges, {}: {error:e}", T::NAME);
    };
    for function in functions(edges) {
        let on_device = DeviceScalarFunction::<T>::new(device, &function).unwrap();
        for order in 0..=MAX_ORDER {
            let mut out = garbage::<T>(device, edges);
            on_device.derivative(order, &d, &mut out, edges).unwrap();
            let want: Vec<f64> = wide.iter().enumerate().map(|(e, &d)| function.derivative(e, d, order)).collect();
            check(&format!("{function:?}"), order, &out, &want);
        }
        assert!(on_device.derivative(MAX_ORDER + 1, &d, &mut garbage(device, edges), edges).is_err());
    }
    let bases = DeviceBases::<T>::new(device).unwrap();
    for n in [1, 8] {
        let parameters: Vec<T> = (1..=n).map(|k| T::of(k as f64 * 0.63)).collect();
        let wide_parameters = widen(&parameters);
        let parameters = device.upload(&parameters).unwrap();
        let mut out = garbage::<T>(device, edges * n);
        let of = |f: &dyn Fn(f64, f64) -> f64| wide.iter().flat_map(|&d| wide_parameters.iter().map(move |&w| f(w, d))).collect::<Vec<_>>();
        for order in 0..=MAX_ORDER {
            for by_frequency in 0..=MAX_ORDER - order {
                bases.bessel((0.6, order, by_frequency), &d, &parameters, &mut out, (edges, n)).unwrap();
                check("bessel", 10 * by_frequency + order, &out, &of(&|w, d| 0.6 * bessel_derivative(w, d, order, by_frequency)));
            }
            bases.gaussian((-0.9, order), &d, &parameters, &mut out, (edges, n)).unwrap();
            check("gaussian", order, &out, &of(&|c, d| gaussian_derivative(-0.9, d - c, order)));
            bases.chebyshev(order, &d, &mut out, (edges, n)).unwrap();
            let mut want = vec![0.0; edges * n];
            want.chunks_exact_mut(n).zip(&wide).for_each(|(row, &d)| chebyshev_derivatives(d, order, row));
            check("chebyshev", order, &out, &want);
        }
    }
    let grid = SplineGrid::new(&[0.6, 4.0, 5.0], 0.1).unwrap();
    let of_grid = device.upload(&wide).unwrap();
    let mut first = device.upload(&vec![u32::MAX; edges]).unwrap();
    let (mut values, mut slopes) = (garbage::<T>(device, 6 * edges), garbage::<T>(device, 6 * edges));
    DeviceSplines::new(device, &grid).unwrap().windows(&of_grid, 5.1, &mut first, (&mut values, &mut slopes), edges).unwrap();
    let windows: Vec<_> = wide.iter().map(|&d| (grid.window(d), if d < 5.1 { 1.0 } else { 0.0 })).collect();
    assert_eq!(first.to_vec().unwrap(), windows.iter().map(|w| w.0.first as u32).collect::<Vec<_>>());
    check("splines", 0, &values, &windows.iter().flat_map(|(w, inside)| w.values.map(|x| inside * x)).collect::<Vec<_>>());
    check("splines", 1, &slopes, &windows.iter().flat_map(|(w, inside)| w.slopes.map(|x| inside * x)).collect::<Vec<_>>());
}

#[test]
fn functions_and_bases_in_f64() {
    let Some(device) = testing::device() else { return };
    [0, 1, 300].into_iter().for_each(|edges| compare::<f64>(&device, edges));
}

#[test]
fn functions_and_bases_in_f32() {
    let Some(device) = testing::device() else { return };
    [0, 1, 300].into_iter().for_each(|edges| compare::<f32>(&device, edges));
}

#[test]
fn the_op_of_candle_is_the_same() {
    let Some(device) = testing::device() else { return };
    let d = Tensor::new(&[0.0, 0.3, 1.7, 5.2], &candle_core::Device::Cpu).unwrap();
    let w = Tensor::new(&[0.63, 1.26], &candle_core::Device::Cpu).unwrap();
    let want: Vec<f64> = tesseral_ops::radial::bessel(&d, &w, 0.5).unwrap().flatten_all().unwrap().to_vec1().unwrap();
    let upload = |t: &Tensor| device.upload(&t.to_vec1::<f64>().unwrap()).unwrap();
    let mut out = garbage::<f64>(&device, 8);
    DeviceBases::new(&device).unwrap().bessel((0.5, 0, 0), &upload(&d), &upload(&w), &mut out, (4, 2)).unwrap();
    assert!(error(&out, &want) < 1e-14);
}
