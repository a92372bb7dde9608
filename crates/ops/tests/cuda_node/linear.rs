use tesseral_kernels::{Device, testing};
use tesseral_o3::Irreps;
use tesseral_ops::linear::cuda::{DeviceGroups, DeviceLinear, TrainedLinear};
use tesseral_ops::linear::{LinearSpec, reference};
use tesseral_testkit::Random;

use super::{Precision, error, garbage, random, species};

fn spec(from: &str, to: &str) -> LinearSpec {
    let irreps = |text: &str| text.parse::<Irreps>().unwrap();
    LinearSpec::new(&irreps(from), &irreps(to), 1, 0)
}

/// The map from outputs to inputs, as a map of its own, with its weights.
fn transposed(spec: &LinearSpec, flat: &[f64]) -> (LinearSpec, Vec<f64>) {
    let mut weights = flat.to_vec();
    let mut back = spec.clone();
    (back.dim_in, back.dim_out) = (spec.dim_out, spec.dim_in);
    for i in &mut back.instructions {
        (i.in_offset, i.out_offset, i.mul_in, i.mul_out) = (i.out_offset, i.in_offset, i.mul_out, i.mul_in);
        for (to, from) in weights.chunks_exact_mut(spec.weight_numel).zip(flat.chunks_exact(spec.weight_numel)) {
            for u in 0..i.mul_in {
                for v in 0..i.mul_out {
                    to[i.weight_offset + u * i.mul_out + v] = from[i.weight_offset + v * i.mul_in + u];
                }
            }
        }
    }
    (back, weights)
}

fn compare<T: Precision>(device: &Device, spec: &LinearSpec, n: usize, sets: usize, worst: &mut f64) {
    let mut numbers = Random::new((n * 131 + sets) as u64);
    let factor = 0.7;
    let flat = numbers.numbers(sets * spec.weight_numel);
    let scaled: Vec<f64> = flat.iter().map(|w| w * factor).collect();
    let bias = numbers.numbers(spec.dim_out);
    let species = species(n, sets);
    let groups = if sets == 1 { DeviceGroups::of_all(device, n) } else { DeviceGroups::by_species(device, &species, sets) }.unwrap();
    let (x, wide_x) = random::<T>(&mut numbers, n * spec.dim_in);
    let (g, wide_g) = random::<T>(&mut numbers, n * spec.dim_out);
    let want = reference::forward(spec, &wide_x, &scaled, &species);
    let (back, back_weights) = transposed(spec, &scaled);
    let want_back = reference::forward(&back, &wide_g, &back_weights, &species);
    let (x, g) = (device.upload(&x).unwrap(), device.upload(&g).unwrap());
    let plus = |a: &[f64], b: &[f64]| a.iter().zip(b.iter().cycle()).map(|(a, b)| a + b).collect::<Vec<f64>>();
    let mut check = |what: &str, error: f64| {
        assert!(error < T::TOLERANCE, "{what}: {n} atoms, {sets} sets, {} → {}, {}: {error:e}", spec.dim_in, spec.dim_out, T::NAME);
        *worst = worst.max(error);
    };
    for bias in [None, Some(bias.as_slice())] {
        let map = DeviceLinear::<T>::new(device, spec, &flat, factor, bias).unwrap();
        let want = bias.map_or(want.clone(), |b| plus(&want, b));
        let mut y = garbage::<T>(device, n * spec.dim_out);
        map.forward(&x, &mut y, &groups, false).unwrap();
        check("forward", error(&y, &want));
        let once = y.to_vec().unwrap();
        y.copy_from(&g, n * spec.dim_out).unwrap();
        map.forward(&x, &mut y, &groups, true).unwrap();
        check("accumulated", error(&y, &plus(&want, &wide_g)));
        map.forward(&x, &mut y, &groups, false).unwrap();
        assert!(y.to_vec().unwrap() == once, "not the same bits");
        let mut dx = garbage::<T>(device, n * spec.dim_in);
        map.adjoint(&g, &mut dx, &groups, false).unwrap();
        check("adjoint", error(&dx, &want_back));
        dx.copy_from(&x, n * spec.dim_in).unwrap();
        map.adjoint(&g, &mut dx, &groups, true).unwrap();
        check("adjoint, accumulated", error(&dx, &plus(&want_back, &wide_x)));
    }
}

fn table<T: Precision>() -> f64 {
    let Some(device) = testing::device() else { return 0.0 };
    let mut worst = 0.0;
    let specs = [
        spec("1x0e", "1x0e"),
        spec("3x0e+3x1o", "3x0e+3x1o"),
        // Several blocks into one, sizes that fill no tile, blocks without a partner on both sides.
        spec("2x0o+5x0e+67x0e+17x1o+2x2e", "70x0e+3x3o+9x1o+4x0e"),
        LinearSpec::dense(37, 1, 0.3),
    ];
    for spec in &specs {
        for (n, sets) in [(0, 1), (1, 5), (37, 1), (130, 5)] {
            compare::<T>(&device, spec, n, sets, &mut worst);
        }
    }
    compare::<T>(&device, &spec("64x0e+64x1o", "64x0e+64x1o"), 37, 1, &mut worst);
    compare::<T>(&device, &spec("128x0e+128x1o", "128x0e+128x1o"), 3, 5, &mut worst);
    worst
}

#[test]
fn linear_maps_in_f64() {
    eprintln!("largest error {:.1e}", table::<f64>());
}

#[test]
fn linear_maps_in_f32() {
    eprintln!("largest error {:.1e}", table::<f32>());
}

/// The sum over atoms of cotangent times features, as it stands in the definition.
fn by_weights(spec: &LinearSpec, x: &[f64], g: &[f64], species: &[u32], sets: usize) -> Vec<f64> {
    let mut weights = vec![0.0; sets * spec.weight_numel];
    for (n, &set) in species.iter().enumerate() {
        let (x, g) = (&x[n * spec.dim_in..], &g[n * spec.dim_out..]);
        for i in &spec.instructions {
            let to = &mut weights[set as usize * spec.weight_numel + i.weight_offset..];
            for m in 0..i.components {
                for u in 0..i.mul_in {
                    for v in 0..i.mul_out {
                        to[u * i.mul_out + v] += i.scale * x[i.in_offset + m * i.mul_in + u] * g[i.out_offset + m * i.mul_out + v];
                    }
                }
            }
        }
    }
    weights
}

fn trained<T: Precision>(device: &Device, spec: &LinearSpec, n: usize, sets: usize) {
    let mut numbers = Random::new((n * 31 + sets) as u64);
    let species = species(n, sets);
    let groups = DeviceGroups::by_species(device, &species, sets).unwrap();
    let (weights, wide_weights) = random::<T>(&mut numbers, sets * spec.weight_numel);
    let (x, wide_x) = random::<T>(&mut numbers, n * spec.dim_in);
    let (g, wide_g) = random::<T>(&mut numbers, n * spec.dim_out);
    let (x, g) = (device.upload(&x).unwrap(), device.upload(&g).unwrap());
    let mut linear = TrainedLinear::<T>::new(device, spec, sets).unwrap();
    linear.load(&device.upload(&weights).unwrap()).unwrap();
    let mut y = garbage::<T>(device, n * spec.dim_out);
    linear.map().forward(&x, &mut y, &groups, false).unwrap();
    let forward = error(&y, &reference::forward(spec, &wide_x, &wide_weights, &species));
    let chunks = linear.chunks(device, &groups).unwrap();
    let mut partial = garbage::<T>(device, linear.partial_len(&chunks));
    let mut dw = garbage::<T>(device, sets * spec.weight_numel);
    linear.adjoint_weights(&x, &g, (&groups, &chunks), &mut partial, &mut dw).unwrap();
    let back = error(&dw, &by_weights(spec, &wide_x, &wide_g, &species, sets));
    assert!(forward.max(back) < T::TOLERANCE, "{n} atoms, {sets} sets, {}: {forward:e} {back:e}", T::NAME);
    let once = dw.to_vec().unwrap();
    linear.adjoint_weights(&x, &g, (&groups, &chunks), &mut partial, &mut dw).unwrap();
    assert!(dw.to_vec().unwrap() == once, "not the same bits");
    assert!(linear.adjoint_weights(&x, &g, (&groups, &chunks), &mut partial, &mut garbage(device, 0)).is_err());
}

#[test]
fn weights_are_loaded_and_differentiated() {
    let Some(device) = testing::device() else { return };
    let mut gap = spec("3x0e+2x1o", "2x0e+2x1o");
    // Weights that nothing uses have no cotangent.
    gap.weight_numel += 3;
    for spec in [spec("1x0e", "1x0e"), spec("2x0o+5x0e+67x0e+17x1o+2x2e", "70x0e+3x3o+9x1o+4x0e"), gap] {
        for (n, sets) in [(0, 1), (1, 5), (37, 1), (300, 5)] {
            trained::<f64>(&device, &spec, n, sets);
            trained::<f32>(&device, &spec, n, sets);
        }
    }
}

#[test]
fn what_does_not_fit_is_an_error() {
    let Some(device) = testing::device() else { return };
    let spec = spec("3x0e", "3x0e");
    assert!(DeviceLinear::<f32>::new(&device, &spec, &[1.0; 10], 1.0, None).is_err());
    assert!(DeviceLinear::<f32>::new(&device, &spec, &[1.0; 9], 1.0, Some(&[1.0])).is_err());
    assert!(DeviceGroups::by_species(&device, &[0, 2], 2).is_err());
    let map = DeviceLinear::<f32>::new(&device, &spec, &[1.0; 18], 1.0, None).unwrap();
    let groups = DeviceGroups::of_all(&device, 2).unwrap();
    let (x, mut y) = (device.zeros::<f32>(6).unwrap(), device.zeros::<f32>(6).unwrap());
    assert!(map.forward(&x, &mut y, &groups, false).is_err(), "two sets of weights, and groups of one");
    let groups = DeviceGroups::by_species(&device, &[1, 0], 2).unwrap();
    map.forward(&x, &mut y, &groups, false).unwrap();
    assert!(map.forward(&device.zeros(5).unwrap(), &mut y, &groups, false).is_err());
    assert!(map.adjoint(&x, &mut device.zeros(5).unwrap(), &groups, false).is_err());
}
