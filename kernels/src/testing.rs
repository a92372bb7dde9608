//! The device of tests, and what happens where there is none.

use crate::Device;

/// The device that tests run on, by `TESSERAL_TEST_DEVICE`: `emulated`, which is the default, `cuda` or `cuda:N`. `None`, with a word on standard error, if
/// there is no C++ compiler for the emulator.
///
/// A test that calls it fails, rather than pass without running, if a device was asked for by name and is not there, if `TESSERAL_REQUIRE_GPU` is set
/// and the device is none, and if `TESSERAL_REQUIRE_EMULATOR` is set and there is no compiler.
///
/// # Panics
/// In these cases.
#[allow(clippy::print_stderr, reason = "a test that skips says so")]
pub fn device() -> Option<Device> {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty() && value != "0");
    match Device::of_tests() {
        Ok(device) => {
            assert!(
                !set("TESSERAL_REQUIRE_GPU") || !device.is_emulated(),
                "TESSERAL_REQUIRE_GPU is set: TESSERAL_TEST_DEVICE=cuda is needed"
            );
            Some(device)
        }
        Err(error) => {
            let required = ["TESSERAL_REQUIRE_GPU", "TESSERAL_REQUIRE_EMULATOR", "TESSERAL_TEST_DEVICE"].into_iter().any(set);
            assert!(!required, "no device for tests: {error}");
            eprintln!("skipped because {error}");
            None
        }
    }
}
