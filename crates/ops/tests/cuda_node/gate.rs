use tesseral_kernels::testing;
use tesseral_ops::gate::cuda::DeviceGate;
use tesseral_ops::gate::{Activation, GateSpec, GatedBlock, cpu, reference};
use tesseral_testkit::Random;

use super::{Precision, error, garbage, random, widen};

pub(super) const ACTIVATIONS: [Activation; 9] = [
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

/// Odd and even scalars, gates of two kinds that do not end with the blocks, gated vectors and rank-2 tensors.
fn spec(k: usize) -> GateSpec {
    let scalars = vec![(k, Activation::Tanh.e3nn()), (2 * k, Activation::Silu.e3nn())];
    let gates = vec![(k, Activation::Sigmoid.e3nn()), (k + 1, Activation::Silu.plain())];
    let gated = vec![GatedBlock { mul: k + 1, components: 3 }, GatedBlock { mul: k, components: 5 }];
    GateSpec::new(scalars, gates, gated).unwrap()
}

fn table<T: Precision>() {
    let Some(device) = testing::device() else { return };
    let mut worst: f64 = 0.0;
    for k in [1, 3, 64] {
        let spec = spec(k);
        let gate = DeviceGate::<T>::new(&device, &spec).unwrap();
        for n in [0, 1, 37, 130] {
            let mut numbers = Random::new((n + k) as u64);
            let (x, wide_x) = random::<T>(&mut numbers, n * spec.dim_in());
            let (g, wide_g) = random::<T>(&mut numbers, n * spec.dim_out());
            let (u, wide_u) = random::<T>(&mut numbers, n * spec.dim_in());
            let wanted = |len: usize, map: &dyn Fn(&mut [f64])| {
                let mut want = vec![0.0; n * len];
                map(&mut want);
                want
            };
            let want_back = wanted(spec.dim_in(), &|out| cpu::adjoint(&spec, &wide_x, &wide_g, out));
            let want_along = wanted(spec.dim_out(), &|out| cpu::tangent(&spec, &wide_x, &wide_u, out));
            let want_second = wanted(spec.dim_in(), &|out| cpu::adjoint_tangent(&spec, &wide_x, &wide_g, &wide_u, out));
            let (x, g, u) = (device.upload(&x).unwrap(), device.upload(&g).unwrap(), device.upload(&u).unwrap());
            let mut y = garbage::<T>(&device, n * spec.dim_out());
            gate.forward(&x, &mut y, n).unwrap();
            let mut dx = garbage::<T>(&device, n * spec.dim_in());
            gate.adjoint(&x, &g, &mut dx, n).unwrap();
            let first = error(&y, &reference::evaluate(&spec, &wide_x)).max(error(&dx, &want_back));
            gate.tangent(&x, &u, &mut y, n).unwrap();
            gate.adjoint_tangent(&x, &g, &u, &mut dx, n).unwrap();
            let second = error(&y, &want_along).max(error(&dx, &want_second));
            assert!(first.max(second) < T::TOLERANCE, "{n} atoms, {k} channels, {}: {first:e} {second:e}", T::NAME);
            worst = worst.max(first).max(second);
        }
    }
    eprintln!("largest error {worst:.1e}");
}

#[test]
fn gates_in_f64() {
    table::<f64>();
}

#[test]
fn gates_in_f32() {
    table::<f32>();
}

/// Values, slopes and curvatures of every activation, and that nothing overflows.
fn activations<T: Precision>(tolerance: f64) {
    let Some(device) = testing::device() else { return };
    let x: Vec<T> =
        (-400..400).map(|k| T::of(f64::from(k) * 0.05 + 0.01)).chain([0.0, -1e4, -750.0, -95.0, 95.0, 750.0, 1e4].map(T::of)).collect();
    let n = x.len();
    let blocks = ACTIVATIONS.map(|a| (n, a.e3nn()));
    let spec = GateSpec::new(blocks.to_vec(), Vec::new(), Vec::new()).unwrap();
    let row = vec![x.clone(); ACTIVATIONS.len()].concat();
    let gate = DeviceGate::<T>::new(&device, &spec).unwrap();
    let x_on_device = device.upload(&row).unwrap();
    let g = device.upload(&vec![T::of(1.0); row.len()]).unwrap();
    let (mut y, mut dx) = (garbage::<T>(&device, row.len()), garbage::<T>(&device, row.len()));
    gate.forward(&x_on_device, &mut y, 1).unwrap();
    gate.adjoint(&x_on_device, &g, &mut dx, 1).unwrap();
    let (values, slopes) = (widen(&y.to_vec().unwrap()), widen(&dx.to_vec().unwrap()));
    let mut second = garbage::<T>(&device, row.len());
    gate.adjoint_tangent(&x_on_device, &g, &g, &mut second, 1).unwrap();
    let curvatures = widen(&second.to_vec().unwrap());
    let wide = widen(&x);
    for (a, activation) in ACTIVATIONS.iter().enumerate() {
        for (order, found) in [&values, &slopes, &curvatures].into_iter().enumerate() {
            let mut want = vec![0.0; n];
            activation.e3nn().apply(order, &wide, &mut want);
            for ((&x, &found), want) in wide.iter().zip(&found[a * n..]).zip(want) {
                let close = (found - want).abs() <= tolerance * want.abs().max(1.0);
                assert!(close, "{activation:?}({x}), derivative {order}: {found} instead of {want}");
            }
        }
    }
}

#[test]
fn activations_in_f64() {
    // The slopes of the CPU cancel a little.
    activations::<f64>(1e-14);
}

#[test]
fn activations_in_f32() {
    activations::<f32>(6e-7);
}
