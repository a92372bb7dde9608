//! What this machine can do: the rates that benchmarks are compared with, measured, and its free memory.

use std::time::Instant;

use rayon::prelude::*;
use tesseral_kernels::{Device, peak};
use tesseral_ops::slab::{HasSlabs, InstructionSet, Slab, SlabKernel, dispatch, width};

use crate::InferError;

/// Multiply-adds of one measurement and thread, in slabs.
const ROUNDS: usize = 2_000_000;
/// Measurements, of which the best counts.
const REPEATS: usize = 5;
/// Numbers copied by each thread: far more than caches hold.
const COPIED: usize = 8 << 20;

/// `N` independent chains of multiply-adds: enough to hide their latency, few enough for the registers.
struct Chains<const N: usize, T> {
    rounds: usize,
    factor: T,
}

impl<const N: usize, T: HasSlabs> SlabKernel<T> for Chains<N, T> {
    type Output = T;

    #[inline(always)]
    fn run<V: Slab<Scalar = T>>(self) -> T {
        let (factor, small) = (V::splat(self.factor), V::splat(T::of(1e-9)));
        let mut sum = [V::zero(); N];
        for _ in 0..self.rounds / N {
            for s in &mut sum {
                *s = s.fma(factor, small);
            }
        }
        let mut total = V::zero();
        for s in sum {
            total = total.add(s);
        }
        V::sums2([total, total])[0]
    }
}

/// Fused multiply-adds per second on slabs of `T` by all threads together, times 2: flop/s.
pub fn peak_flops<T: HasSlabs>() -> f64 {
    let threads = rayon::current_num_threads();
    let one = || {
        let factor = std::hint::black_box(T::of(0.5));
        let sum = match InstructionSet::active() {
            InstructionSet::Avx512 => dispatch(Chains::<12, T> { rounds: ROUNDS, factor }),
            _ => dispatch(Chains::<6, T> { rounds: ROUNDS, factor }),
        };
        std::hint::black_box(sum);
    };
    (0..REPEATS)
        .map(|_| {
            let start = Instant::now();
            rayon::broadcast(|_| one());
            (threads * ROUNDS * width::<T>() * 2) as f64 / start.elapsed().as_secs_f64()
        })
        .fold(0.0, f64::max)
}

/// Bytes per second, read and written, of all threads copying memory at the same time.
pub fn copy_bandwidth() -> f64 {
    let threads = rayon::current_num_threads();
    let from = vec![1u64; threads * COPIED];
    let mut to = vec![0u64; threads * COPIED];
    (0..REPEATS)
        .map(|_| {
            let start = Instant::now();
            to.par_chunks_mut(COPIED).zip(from.par_chunks(COPIED)).for_each(|(to, from)| to.copy_from_slice(from));
            std::hint::black_box(&mut to);
            (2 * 8 * threads * COPIED) as f64 / start.elapsed().as_secs_f64()
        })
        .fold(0.0, f64::max)
}

/// As [`peak_flops`], of a device.
///
/// # Errors
/// If it fails.
pub fn device_peak_flops<T: HasSlabs>(device: &Device) -> Result<f64, InferError> {
    Ok(peak::flops::<T>(device)?)
}

/// As [`copy_bandwidth`], of a device.
///
/// # Errors
/// If it fails.
pub fn device_copy_bandwidth(device: &Device) -> Result<f64, InferError> {
    Ok(peak::copy_bandwidth(device)?)
}

/// The instruction set that kernels run with.
pub fn instruction_set() -> &'static str {
    InstructionSet::active().name()
}

/// Bytes that programs can still get, where the system tells.
pub fn available_memory() -> Option<usize> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find(|l| l.starts_with("MemAvailable:"))?;
    line.split_whitespace().nth(1)?.parse::<usize>().ok().map(|kib| kib * 1024)
}
