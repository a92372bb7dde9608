//! Every kernel compiles for every GPU: the sources that shipped and published models need, by NVRTC, without a GPU or driver.
//!
//! Ops contribute a module with `sources()`, which is entered below. Without an NVRTC library the test says that it is skipped;
//! `TESSERAL_REQUIRE_NVRTC=1` makes that a failure. `scripts/kernel_report.sh` prints what it finds out.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail loudly, and says what it finds")]

mod convolution;
mod geometry;
mod node;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use tesseral_kernels::{Architecture, DeviceError, Real, Source, nvrtc};

/// Sources of each op.
const OPS: &[fn() -> Vec<Source>] = &[trial::<f32>, trial::<f64>, convolution::sources, geometry::sources, node::sources];

/// Kernels that may spill registers, with the reason.
const MAY_SPILL: &[(&str, &str)] = &[];

const ARCHITECTURES: [Architecture; 2] = [Architecture(8, 0), Architecture(9, 0)];

/// What the device layer is tested with.
fn trial<T: Real>() -> Vec<Source> {
    vec![Source::new::<T>("trial", &["trial_axpy", "trial_sums", "trial_transpose", "trial_positive"], String::new())]
}

#[test]
fn kernels_of_all_models_compile_without_spills() {
    let required = std::env::var_os("TESSERAL_REQUIRE_NVRTC").is_some_and(|value| value == "1");
    match nvrtc::version() {
        Err(DeviceError::NoNvrtc { tried }) if !required => {
            println!("skipped because there is no NVRTC ({tried}); scripts/cuda_toolchain.sh installs it");
            return;
        }
        version => println!("NVRTC {:?}", version.unwrap()),
    }
    let mut sources: Vec<Source> = OPS.iter().flat_map(|sources| sources()).collect();
    // The same shape in several models is compiled once.
    sources.sort_by(|a, b| (a.name, a.real, &a.header).cmp(&(b.name, b.real, &b.header)));
    sources.dedup();
    let jobs: Vec<(&Source, Architecture)> =
        sources.iter().flat_map(|source| ARCHITECTURES.map(|architecture| (source, architecture))).collect();

    let (next, found) = (AtomicUsize::new(0), Mutex::new(vec![Vec::new(); jobs.len()]));
    let problems = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some((i, &(source, architecture))) =
                    Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|i| Some((i, jobs.get(i)?)))
                {
                    match nvrtc::usage(source, architecture) {
                        Ok(usages) => found.lock().unwrap()[i] = usages,
                        Err(error) => problems.lock().unwrap().push(format!("sm_{architecture}, {}: {error}", source.real)),
                    }
                }
            });
        }
    });

    let mut problems = problems.into_inner().unwrap();
    println!("{:28} {:4} {:5} {:>9} {:>7} {:>6} {:>7}", "kernel", "real", "for", "registers", "shared", "stack", "spills");
    for (&(source, architecture), usages) in jobs.iter().zip(found.into_inner().unwrap()) {
        for kernel in &source.kernels {
            let Some(usage) = usages.iter().find(|usage| usage.kernel == *kernel) else {
                problems.push(format!("no report on {kernel} for sm_{architecture}"));
                continue;
            };
            println!(
                "{kernel:28} {:4} sm_{architecture} {:>9} {:>7} {:>6} {:>7}",
                source.real, usage.registers, usage.shared, usage.stack, usage.spills
            );
            if usage.spills > 0 && !MAY_SPILL.iter().any(|(name, _)| name == kernel) {
                problems.push(format!("{kernel} spills {} bytes in {} for sm_{architecture}", usage.spills, source.real));
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}
