//! The CUDA half of the host, run by a driver without a GPU (`emulator/fake_driver.cpp`).
//!
//! The loader's path and the variables of the fake driver have to be there before a process opens the driver, so each test starts this
//! program again.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::OnceLock;

use crate::*;

/// A folder with the fake library as `libcuda.so.1` and `libnvrtc.so`.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("emulator");
        let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
        let made = Command::new(compiler)
            .args(["-std=c++17", "-O1", "-Wall", "-shared", "-fPIC", "-fvisibility=hidden"])
            .arg(format!("-DEMULATOR=\"{}\"", sources.join("emulator.h").display()))
            .arg(sources.join("fake_driver.cpp"))
            .arg("-o")
            .arg(folder.path().join("libcuda.so.1"))
            .arg("-ldl")
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        std::os::unix::fs::symlink("libcuda.so.1", folder.path().join("libcuda.so")).unwrap();
        folder
    });
    folder.path()
}

/// This program with these arguments of the test harness, on the fake GPU.
fn again(arguments: &[&str], fake: &str, cache: &Path) -> Output {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(arguments)
        .env("LD_LIBRARY_PATH", folder())
        .env("TESSERAL_NVRTC", folder().join("libcuda.so.1"))
        .env("TESSERAL_CACHE", cache)
        .env("TESSERAL_TEST_DEVICE", "cuda")
        .env("TESSERAL_FAKE", fake)
        .env_remove("CUDA_VISIBLE_DEVICES")
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{fake}: {}\n{}\n{}", output.status, text(&output.stdout), text(&output.stderr));
    output
}

#[test]
fn all_tests_of_devices_pass() {
    let run = |fake, cache: &Path| {
        let output = again(&["tests::", "--skip", "fake_driver", "--skip", "nvrtc", "--skip", "probe"], fake, cache);
        let passed = String::from_utf8_lossy(&output.stdout).lines().filter(|line| line.ends_with("... ok")).count();
        assert!(passed >= 12, "{passed}");
    };
    let cache = tempfile::tempdir().unwrap();
    let names = || -> Vec<String> {
        let entries = fs_err::read_dir(cache.path().join("kernels")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.ends_with(".cubin")).collect()
    };
    run("", cache.path());
    let kept = names();
    assert!(kept.len() >= 2);
    // Damaged code is not loaded, but compiled again.
    for (i, name) in kept.iter().enumerate() {
        let path = cache.path().join("kernels").join(name);
        let mut bytes = fs_err::read(&path).unwrap();
        if i % 2 == 0 {
            bytes[100] ^= 1;
        } else {
            bytes.truncate(1000);
        }
        fs_err::write(&path, bytes).unwrap();
        assert_eq!(cache::read(&cache.path().join("kernels"), name), None);
    }
    run("no_pool", cache.path());
    assert!(kept.iter().all(|name| cache::read(&cache.path().join("kernels"), name).is_some()) && names().len() == kept.len());
    // A cache that cannot be written does not matter.
    run("", &folder().join("libcuda.so.1").join("cache"));
}

/// A failure on request: what [`inside`] has to see.
fn failing(fake: &str) {
    again(&["--exact", "tests::fake_driver::inside", "--ignored"], fake, &folder().join("cache"));
}

#[test]
fn failures_of_the_driver_are_told_apart() {
    for fake in ["no_device", "old_driver", "old_gpu", "launch", "image", "memory=1000000"] {
        failing(fake);
    }
}

#[test]
#[ignore = "started by the tests above"]
fn inside() {
    let fake = std::env::var("TESSERAL_FAKE").unwrap();
    let device = Device::cuda(0);
    match fake.as_str() {
        "no_device" => assert_eq!(device.err(), Some(DeviceError::Probe(probe::ProbeError::NoDevice))),
        "old_driver" => assert_eq!(device.err(), Some(DeviceError::OldDriver { found: (11, 8), needed: (12, 0) })),
        "old_gpu" => assert!(matches!(device.err(), Some(DeviceError::Architecture { found: (7, 5), .. }))),
        "image" => {
            // The compiler is said to be newer than the driver.
            let loaded = device.unwrap().load(&Source::new::<f32>("trial", &["trial_axpy"], String::new()));
            assert_eq!(loaded.err(), Some(DeviceError::OldDriver { found: (13, 0), needed: (13, 255) }));
        }
        "launch" => {
            let device = device.unwrap();
            let kernel = super::trial::<f32>(&device, "trial_axpy");
            let (x, mut y) = (device.zeros::<f32>(3).unwrap(), device.zeros::<f32>(3).unwrap());
            let queued = super::launch(&kernel, Launch::rows(1, 128), Args::new().buffer(&x).buffer_mut(&mut y).value(1f32).value(3u32));
            assert_eq!(queued, Ok(()));
            let lost = |error: Option<DeviceError>| match error {
                Some(error @ DeviceError::Lost { .. }) => {
                    assert!(error.to_string().contains("CUDA_ERROR_LAUNCH_FAILED") && error.hint().is_some());
                }
                other => panic!("{other:?}"),
            };
            lost(device.synchronize().err());
            lost(y.to_vec().err());
            lost(device.zeros::<f32>(1).err());
        }
        _ => {
            let device = device.unwrap();
            let part = device.zeros::<u8>(600_000).unwrap();
            assert_eq!(device.memory().unwrap(), Memory { free: 400_000, total: 1_000_000 });
            assert_eq!(device.zeros::<u8>(400_001).err(), Some(DeviceError::Memory { needed: 400_001, free: 400_000 }));
            drop(part);
            // What was freed is there as soon as it is needed.
            let all = device.zeros::<u8>(1_000_000).unwrap();
            assert_eq!(all.to_vec().unwrap(), vec![0; 1_000_000]);
            assert_eq!(Device::cuda(1).err(), Some(DeviceError::Ordinal { ordinal: 1, count: 1 }));
        }
    }
}
