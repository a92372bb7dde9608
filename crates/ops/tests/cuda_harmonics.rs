//! Generated code against the reference, on the device of tests.
#![allow(clippy::unwrap_used, reason = "tests may panic")]
#![allow(unsafe_code, reason = "a kernel is launched")]

use tesseral_kernels::{Args, Device, Launch, Real, Source, testing};

use tesseral_ops::spherical_harmonics::cuda::DeviceHarmonics;
use tesseral_ops::spherical_harmonics::{count, cpu, cuda, reference};
use tesseral_testkit::{Random, relative_error};

const TEXT: &str = r#"
#include "tesseral.cuh"
extern "C" __global__ void __launch_bounds__(32) trial(const real *vectors, const real *g, real *values, real *dv, u32 n) {
    const u32 e = blockIdx.x * 32 + threadIdx.x;
    if (e >= n)
        return;
    const real x = vectors[3 * e], y = vectors[3 * e + 1], z = vectors[3 * e + 2];
    harmonics(x, y, z, values + e * HARMONICS);
    harmonics_adjoint(x, y, z, g + e * HARMONICS + 1, dv + 3 * e);
}
"#;

fn parity<T: Real + tesseral_ops::real::Real>(device: &Device, lmax: usize, normalize: bool, tolerance: f64) {
    let mut random = Random::new(5);
    let (edges, n) = (50, count(lmax));
    let rounded = |v: Vec<f64>| v.into_iter().map(|x| f64::from(x as f32)).collect::<Vec<f64>>();
    let mut vectors = rounded(random.numbers(3 * edges));
    vectors[..3].fill(0.0);
    // Along an axis, where recursions of other normalisations divide by zero.
    vectors[3..6].copy_from_slice(&[0.0, 2.0, 0.0]);
    let g = rounded(random.numbers(n * edges));
    let source = Source { name: "trial", kernels: vec!["trial"], header: cuda::source(lmax, normalize), real: T::NAME, text: TEXT };
    let kernel = device.load(&source).unwrap().kernel("trial").unwrap();
    let upload = |v: &[f64]| device.upload(&v.iter().map(|&x| T::of(x)).collect::<Vec<T>>()).unwrap();
    let (mut y, mut dv) = (device.zeros::<T>(n * edges).unwrap(), device.zeros::<T>(3 * edges).unwrap());
    let (on_device, g_on_device) = (upload(&vectors), upload(&g));
    let mut args = Args::new();
    args.buffer(&on_device).buffer(&g_on_device).buffer_mut(&mut y).buffer_mut(&mut dv).value(edges as u32);
    let launch = Launch { grid: [edges.div_ceil(32) as u32, 1, 1], block: [32, 1, 1], shared: 0 };
    // SAFETY: all buffers have rows for `edges` edges.
    unsafe { kernel.launch(&launch, &args).unwrap() };
    let to_f64 = |v: Vec<T>| v.into_iter().map(candle_core::WithDType::to_f64).collect::<Vec<f64>>();
    let value_error = relative_error(&to_f64(y.to_vec().unwrap()), &reference::evaluate(&vectors, lmax, normalize).unwrap());
    let want = reference::adjoint(&vectors, &g, lmax, normalize).unwrap();
    let adjoint_error = relative_error(&to_f64(dv.to_vec().unwrap()), &want);
    assert!(value_error < tolerance && adjoint_error < tolerance, "lmax {lmax}, {}: {value_error:e} {adjoint_error:e}", T::NAME);
}

#[test]
fn device_code_equals_reference() {
    let Some(device) = testing::device() else { return };
    for lmax in 0..=4 {
        for normalize in [true, false] {
            parity::<f64>(&device, lmax, normalize, 1e-13);
            parity::<f32>(&device, lmax, normalize, 2e-6);
        }
    }
}

fn maps<T: Real + tesseral_ops::real::Real>(device: &Device, lmax: usize, normalize: bool, edges: usize, tolerance: f64) {
    let mut random = Random::new(7 + edges as u64);
    let n = count(lmax);
    let rounded = |v: Vec<f64>| v.into_iter().map(|x| f64::from(x as f32)).collect::<Vec<f64>>();
    let (mut v, u, g) = (rounded(random.numbers(3 * edges)), rounded(random.numbers(3 * edges)), rounded(random.numbers(n * edges)));
    // No direction, and one along an axis.
    if edges > 2 {
        v[..6].copy_from_slice(&[0.0, 0.0, 0.0, 0.0, 2.0, 0.0]);
    }
    let mut want = [vec![0.0; n * edges], vec![0.0; 3 * edges], vec![0.0; n * edges], vec![0.0; 3 * edges]];
    cpu::evaluate(&v, lmax, normalize, &mut want[0]);
    cpu::adjoint(&v, &g, lmax, normalize, &mut want[1]);
    cpu::tangent(&v, &u, lmax, normalize, &mut want[2]);
    cpu::adjoint_tangent(&v, &g, &u, lmax, normalize, &mut want[3]);
    let harmonics = DeviceHarmonics::<T>::new(device, lmax, normalize).unwrap();
    let upload = |v: &[f64]| device.upload(&v.iter().map(|&x| T::of(x)).collect::<Vec<T>>()).unwrap();
    let (v, u, g) = (upload(&v), upload(&u), upload(&g));
    let mut found = [n, 3, n, 3].map(|width| upload(&vec![1e30; width * edges]));
    harmonics.evaluate(&v, &mut found[0], edges).unwrap();
    harmonics.adjoint(&v, &g, &mut found[1], edges).unwrap();
    harmonics.tangent(&v, &u, &mut found[2], edges).unwrap();
    harmonics.adjoint_tangent(&v, &g, &u, &mut found[3], edges).unwrap();
    for (map, (found, want)) in found.iter().zip(&want).enumerate() {
        let found: Vec<f64> = found.to_vec().unwrap().into_iter().map(candle_core::WithDType::to_f64).collect();
        let error = relative_error(&found, want);
        assert!(error < tolerance, "map {map}, lmax {lmax}, {edges} edges, {}: {error:e}", T::NAME);
    }
}

#[test]
fn maps_on_arrays_equal_those_of_the_cpu() {
    let Some(device) = testing::device() else { return };
    for (lmax, normalize) in [(0, true), (1, true), (3, true), (4, false)] {
        for edges in [0, 1, 200] {
            maps::<f64>(&device, lmax, normalize, edges, 1e-12);
            maps::<f32>(&device, lmax, normalize, edges, 1e-5);
        }
    }
    let harmonics = DeviceHarmonics::<f32>::new(&device, 1, true).unwrap();
    let (v, mut out) = (device.zeros(6).unwrap(), device.zeros(7).unwrap());
    assert!(harmonics.evaluate(&v, &mut out, 2).is_err());
}
