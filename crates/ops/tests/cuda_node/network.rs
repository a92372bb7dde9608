use tesseral_kernels::{Device, testing};
use tesseral_ops::gate::cuda::{DeviceNetwork, NetworkLayer};
use tesseral_ops::gate::{Activation, ScaledActivation, reference};
use tesseral_testkit::{Random, derivative, relative_error};

use super::{Precision, error, random};

fn layers(sizes: &[usize], activation: Activation, biased: bool, numbers: &mut Random) -> Vec<NetworkLayer> {
    let last = sizes.len() - 2;
    let layer = |(k, pair): (usize, &[usize])| {
        let scale = 1.0 / (pair[0] as f64).sqrt();
        NetworkLayer {
            n_in: pair[0],
            n_out: pair[1],
            weights: numbers.numbers(pair[0] * pair[1]).into_iter().map(|w| w * scale).collect(),
            bias: biased.then(|| numbers.numbers(pair[1])),
            activation: (k < last).then(|| activation.e3nn()),
        }
    };
    sizes.windows(2).enumerate().map(layer).collect()
}

/// Plain loops.
fn value(layers: &[NetworkLayer], x: &[f64]) -> f64 {
    let mut x = x.to_vec();
    for layer in layers {
        let of = |c: usize| {
            let sum: f64 = (0..layer.n_in).map(|u| x[u] * layer.weights[u * layer.n_out + c]).sum();
            let identity = ScaledActivation { activation: Activation::Identity, scale: 1.0 };
            reference::activate(layer.activation.unwrap_or(identity), sum + layer.bias.as_ref().map_or(0.0, |b| b[c]))
        };
        x = (0..layer.n_out).map(of).collect();
    }
    x[0]
}

fn compare<T: Precision>(device: &Device, layers: &[NetworkLayer], n: usize) -> f64 {
    let mut numbers = Random::new(n as u64 + 1);
    let (n_in, offset) = (layers[0].n_in, 3);
    let stride = offset + n_in + 2;
    let (x, wide_x) = random::<T>(&mut numbers, n * stride);
    let (seeds, wide_seeds) = random::<T>(&mut numbers, n);
    let (start, wide_start) = random::<T>(&mut numbers, n * stride);
    let network = DeviceNetwork::<T>::new(device, layers).unwrap();
    let mut energies = device.upload(&vec![0.25; n]).unwrap();
    let mut dx = device.upload(&start).unwrap();
    network.evaluate(&device.upload(&x).unwrap(), (stride, offset), &device.upload(&seeds).unwrap(), &mut energies, &mut dx, n).unwrap();
    let (mut want, mut want_dx) = (Vec::new(), wide_start);
    for i in 0..n {
        let scalars = &wide_x[i * stride + offset..][..n_in];
        want.push(0.25 + value(layers, scalars));
        for (u, d) in derivative(scalars, 1e-3, |x| value(layers, x)).into_iter().enumerate() {
            want_dx[i * stride + offset + u] += wide_seeds[i] * d;
        }
    }
    let of_energies = relative_error(&energies.to_vec().unwrap(), &want);
    // Finite differences are good to some 1e-12.
    let of_dx = error(&dx, &want_dx);
    assert!(of_energies < T::TOLERANCE && of_dx < T::TOLERANCE.max(2e-11), "{n} atoms, {}: {of_energies:e}, {of_dx:e}", T::NAME);
    of_energies.max(of_dx)
}

fn table<T: Precision>() {
    let Some(device) = testing::device() else { return };
    let mut numbers = Random::new(3);
    let mut worst: f64 = 0.0;
    for (sizes, activation, biased) in [
        (&[1, 1][..], Activation::Silu, false),
        (&[128, 1], Activation::Silu, true),
        (&[128, 16, 1], Activation::Silu, false),
        (&[30, 17, 33, 1], Activation::Tanh, true),
        (&[5, 128, 128, 3, 1], Activation::ShiftedSoftplus, true),
    ] {
        let layers = layers(sizes, activation, biased, &mut numbers);
        for n in [0, 1, 19] {
            worst = worst.max(compare::<T>(&device, &layers, n));
        }
    }
    eprintln!("largest error {worst:.1e}");
}

#[test]
fn networks_in_f64() {
    table::<f64>();
}

#[test]
fn networks_in_f32() {
    table::<f32>();
}

#[test]
fn layers_that_do_not_fit_are_an_error() {
    let Some(device) = testing::device() else { return };
    let mut numbers = Random::new(4);
    assert!(DeviceNetwork::<f32>::new(&device, &[]).is_err());
    assert!(DeviceNetwork::<f32>::new(&device, &layers(&[4, 3], Activation::Silu, false, &mut numbers)).is_err());
    let mut bad = layers(&[4, 3, 1], Activation::Silu, true, &mut numbers);
    let network = DeviceNetwork::<f32>::new(&device, &bad).unwrap();
    bad[0].n_in = 5;
    assert!(DeviceNetwork::<f32>::new(&device, &bad).is_err());
    let (x, seeds) = (device.zeros(10).unwrap(), device.zeros(2).unwrap());
    let evaluate = |stride, offset, atoms| {
        let (mut energies, mut dx) = (device.zeros(2).unwrap(), device.zeros(10).unwrap());
        network.evaluate(&x, (stride, offset), &seeds, &mut energies, &mut dx, atoms)
    };
    assert!(evaluate(5, 1, 2).is_ok());
    assert!(evaluate(5, 2, 2).is_err(), "beyond the row");
    assert!(evaluate(5, 1, 3).is_err(), "more atoms than rows");
}
