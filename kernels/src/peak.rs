//! What a device can do, measured: the rates that benchmarks are compared with.

#![allow(unsafe_code, reason = "launches")]

use std::time::Instant;

use crate::{Args, Device, DeviceError, Launch, Real, Source};

/// As in `peak.cu`.
const THREADS: u32 = 256;
const CHAINS: u32 = 8;
const UNROLLED: u32 = 16;
/// Blocks that a multiprocessor has to choose from.
const BLOCKS: u32 = 32;
/// Measurements of copies, of which the best counts.
const REPEATS: usize = 5;
/// Measurements of arithmetic, longer and longer until they take at least this many seconds; one that takes so long that it must be an emulator ends it.
const ATTEMPTS: usize = 12;
const SHORT: f64 = 5e-3;
const LONG: f64 = 0.05;

/// What is compiled.
pub fn source<T: Real>() -> Source {
    Source::new::<T>("peak", &["peak_multiply_adds"], String::new())
}

/// Fused multiply-adds per second, times 2: flop/s.
///
/// # Errors
/// If the device fails.
pub fn flops<T: Real>(device: &Device) -> Result<f64, DeviceError> {
    let kernel = device.load(&source::<T>())?.kernel("peak_multiply_adds")?;
    let blocks = BLOCKS * device.multiprocessors() as u32;
    let mut out = device.zeros::<T>((blocks * THREADS) as usize)?;
    let (mut rounds, mut best) = (1u32, 0.0f64);
    for _ in 0..ATTEMPTS {
        let mut args = Args::new();
        args.value(rounds).buffer_mut(&mut out);
        device.synchronize()?;
        let start = Instant::now();
        // SAFETY: `out` has a number for each thread.
        unsafe { kernel.launch(&Launch::rows(blocks, THREADS), &args)? };
        device.synchronize()?;
        let seconds = start.elapsed().as_secs_f64();
        best = best.max(2.0 * f64::from(blocks * THREADS) * f64::from(rounds) * f64::from(CHAINS * UNROLLED) / seconds);
        if seconds > LONG {
            break;
        }
        if seconds < SHORT {
            rounds = rounds.saturating_mul(8);
        }
    }
    Ok(best)
}

/// Bytes per second, read and written, of a copy within the device's memory.
///
/// # Errors
/// If the device fails, or has no room for a GiB.
pub fn copy_bandwidth(device: &Device) -> Result<f64, DeviceError> {
    let count = if device.is_emulated() { 1 << 10 } else { 1 << 26 };
    let (from, mut to) = (device.zeros::<f64>(count)?, device.zeros::<f64>(count)?);
    let mut best = 0.0f64;
    for _ in 0..=REPEATS {
        device.synchronize()?;
        let start = Instant::now();
        to.copy_from(&from, count)?;
        device.synchronize()?;
        best = best.max(2.0 * from.bytes() as f64 / start.elapsed().as_secs_f64());
    }
    Ok(best)
}
