//! Kernels on atoms against the reference implementations, on the device of tests: the emulated one, unless `TESSERAL_TEST_DEVICE` names another.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test may fail loudly, and says what it finds")]

mod contraction;
mod gate;
mod graph;
mod linear;
mod network;
mod radial;
mod rows;

use tesseral_kernels::{Buffer, Device};
use tesseral_ops::real::Real;
use tesseral_testkit::Random;

/// A precision, and what sums of some hundred terms may be off by.
trait Precision: Real + tesseral_kernels::Real {
    const TOLERANCE: f64;
}

impl Precision for f64 {
    const TOLERANCE: f64 = 1e-13;
}

impl Precision for f32 {
    const TOLERANCE: f64 = 2e-6;
}

/// Random numbers of type `T`, and the same in f64.
fn random<T: Precision>(random: &mut Random, n: usize) -> (Vec<T>, Vec<f64>) {
    let narrow: Vec<T> = random.numbers(n).into_iter().map(T::of).collect();
    let wide = widen(&narrow);
    (narrow, wide)
}

fn widen<T: Precision>(x: &[T]) -> Vec<f64> {
    x.iter().map(|&v| candle_core::WithDType::to_f64(v)).collect()
}

/// A buffer full of what no kernel may leave behind.
fn garbage<T: Precision>(device: &Device, n: usize) -> Buffer<T> {
    device.upload(&vec![T::of(1e30); n]).unwrap()
}

/// The largest difference over the largest magnitude.
fn error<T: Precision>(found: &Buffer<T>, expected: &[f64]) -> f64 {
    tesseral_testkit::relative_error(&widen(&found.to_vec().unwrap()), expected)
}

/// Species with empty groups: of five, numbers 1 and 4 do not occur.
fn species(n: usize, sets: usize) -> Vec<u32> {
    (0..n).map(|i| if sets == 1 { 0 } else { [3, 0, 2, 0][i * 7 % 4] }).collect()
}
