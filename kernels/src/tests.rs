//! What devices do, on the device of tests.

use crate::*;

#[cfg(all(feature = "cuda", target_os = "linux"))]
mod fake_driver;

const TRIALS: &[&str] =
    &["trial_axpy", "trial_sums", "trial_transpose", "trial_positive", "trial_divergent", "trial_race", "trial_overrun"];

fn trial<T: Real>(device: &Device, kernel: &'static str) -> Kernel {
    device.load(&Source::new::<T>("trial", TRIALS, String::new())).unwrap().kernel(kernel).unwrap()
}

#[allow(unsafe_code, reason = "kernels of trial.cu with arguments that fit")]
fn launch(kernel: &Kernel, launch: Launch, args: &Args) -> Result<(), DeviceError> {
    // SAFETY: each test below gives buffers as long as the kernel says.
    unsafe { kernel.launch(&launch, args) }
}

#[allow(unsafe_code, reason = "graphs of kernels of trial.cu")]
fn replay(graph: &Graph) {
    // SAFETY: the tests below keep the buffers.
    unsafe { graph.launch() }.unwrap();
}

fn axpy<T: Real>(device: &Device, values: fn(u32) -> T) {
    let kernel = trial::<T>(device, "trial_axpy");
    let n = 1000;
    let (x, mut y) = (device.upload(&(0..n).map(values).collect::<Vec<_>>()).unwrap(), device.zeros::<T>(n as usize).unwrap());
    for _ in 0..2 {
        launch(&kernel, Launch::rows(n.div_ceil(128), 128), Args::new().buffer(&x).buffer_mut(&mut y).value(values(3)).value(n)).unwrap();
    }
    assert_eq!(y.to_vec().unwrap(), (0..n).map(|i| values(6 * i)).collect::<Vec<_>>());
    launch(&kernel, Launch::rows(0, 128), &Args::new()).unwrap();
}

#[test]
fn arrays_are_added_in_both_precisions() {
    let Some(device) = testing::device() else { return };
    axpy::<f32>(&device, |i| i as f32);
    axpy::<f64>(&device, f64::from);
}

#[test]
fn sums_of_blocks_use_shuffles_barriers_and_shared_memory() {
    let Some(device) = testing::device() else { return };
    let kernel = trial::<f64>(&device, "trial_sums");
    let x: Vec<f64> = (0..300).map(|i| f64::from(i * i)).collect();
    let (input, mut sums) = (device.upload(&x).unwrap(), device.zeros::<f64>(3).unwrap());
    let geometry = Launch { shared: 4 * 8, ..Launch::rows(3, 128) };
    launch(&kernel, geometry, Args::new().buffer(&input).buffer_mut(&mut sums).value(300u32)).unwrap();
    assert_eq!(sums.to_vec().unwrap(), x.chunks(128).map(|block| block.iter().sum()).collect::<Vec<f64>>());
}

#[test]
fn matrices_are_transposed_by_way_of_static_shared_memory() {
    let Some(device) = testing::device() else { return };
    let kernel = trial::<f32>(&device, "trial_transpose");
    let (rows, columns) = (70u32, 45u32);
    let x: Vec<f32> = (0..rows * columns).map(|i| i as f32).collect();
    let (input, mut output) = (device.upload(&x).unwrap(), device.zeros::<f32>(x.len()).unwrap());
    let geometry = Launch { grid: [columns.div_ceil(32), rows.div_ceil(32), 1], block: [32, 8, 1], shared: 0 };
    launch(&kernel, geometry, Args::new().buffer(&input).buffer_mut(&mut output).value(rows).value(columns)).unwrap();
    let output = output.to_vec().unwrap();
    for (row, column) in (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column))) {
        assert_eq!(output[(column * rows + row) as usize], x[(row * columns + column) as usize]);
    }
}

#[test]
fn votes_are_counted_by_several_threads_at_once() {
    let Some(device) = testing::device() else { return };
    std::thread::scope(|scope| {
        for n in [1u32, 31, 500, 1001] {
            let device = &device;
            scope.spawn(move || {
                let kernel = trial::<f32>(device, "trial_positive");
                let x: Vec<f32> = (0..n).map(|i| if i % 3 == 0 { 1.0 } else { -1.0 }).collect();
                let (input, mut count) = (device.upload(&x).unwrap(), device.zeros::<u32>(1).unwrap());
                for _ in 0..20 {
                    launch(&kernel, Launch::rows(n.div_ceil(128), 128), Args::new().buffer(&input).buffer_mut(&mut count).value(n))
                        .unwrap();
                }
                assert_eq!(count.to_vec().unwrap(), [20 * n.div_ceil(3)]);
            });
        }
    });
}

#[test]
fn graphs_repeat_launches_copies_and_fills() {
    let Some(device) = testing::device() else { return };
    let kernel = trial::<f32>(&device, "trial_axpy");
    let x = device.upload(&[1f32, 2.0, 3.0]).unwrap();
    let (mut y, mut total) = (device.zeros::<f32>(3).unwrap(), device.zeros::<f32>(3).unwrap());
    let graph = device
        .capture(|| {
            y.copy_from(&x, 2)?;
            launch(&kernel, Launch::rows(1, 128), Args::new().buffer(&y).buffer_mut(&mut total).value(2f32).value(3u32))?;
            y.fill_zero()
        })
        .unwrap();
    assert_eq!(total.to_vec().unwrap(), [0.0; 3]);
    replay(&graph);
    replay(&graph);
    assert_eq!(total.to_vec().unwrap(), [4.0, 8.0, 0.0]);
    y.write(&[1.0; 3]).unwrap();
    replay(&graph);
    assert_eq!((total.to_vec().unwrap(), y.to_vec().unwrap()), (vec![6.0, 12.0, 2.0], vec![0.0; 3]));
}

#[test]
fn what_cannot_be_captured_is_refused_and_the_device_goes_on() {
    let Some(device) = testing::device() else { return };
    let mut y = device.upload(&[1f32]).unwrap();
    let capture = |what| Some(DeviceError::Capture { what });
    assert_eq!(device.capture(|| device.synchronize()).err(), capture("waiting"));
    assert_eq!(device.capture(|| y.read(&mut [0.0])).err(), capture("reading a buffer"));
    assert_eq!(device.capture(|| y.write(&[0.0])).err(), capture("writing a buffer"));
    assert_eq!(device.capture(|| device.zeros::<f32>(1).map(drop)).err(), capture("an allocation"));
    assert_eq!(device.capture(|| device.capture(|| Ok::<(), DeviceError>(())).map(drop)).err(), capture("a capture"));
    assert_eq!(y.to_vec().unwrap(), [1.0]);
    // A buffer may be dropped meanwhile.
    let other = device.zeros::<f32>(5).unwrap();
    device
        .capture(|| {
            drop(other);
            Ok::<(), DeviceError>(())
        })
        .unwrap();
    assert_eq!(y.to_vec().unwrap(), [1.0]);
}

#[test]
fn lengths_are_checked() {
    let Some(device) = testing::device() else { return };
    let mut y = device.upload(&[1u32, 2, 3]).unwrap();
    let length = |what, needed| Err(DeviceError::Length { what, needed, len: 3 });
    assert_eq!(y.read(&mut [0; 4]), length("reading", 4));
    assert_eq!(y.write(&[0; 4]), length("writing", 4));
    assert_eq!(y.write_at(2, &[0; 2]), length("writing", 4));
    assert_eq!(y.write_at(usize::MAX, &[0; 2]), length("writing", usize::MAX));
    let x = device.zeros::<u32>(4).unwrap();
    assert_eq!(y.copy_from(&x, 4), length("copying to", 4));
    y.write_at(1, &[7, 8]).unwrap();
    y.copy_from(&x, 1).unwrap();
    assert_eq!(y.to_vec().unwrap(), [0, 7, 8]);
    assert!(matches!(device.zeros::<f64>(usize::MAX / 4), Err(DeviceError::Memory { .. })));
    let mut none = device.zeros::<f64>(0).unwrap();
    none.fill_zero().unwrap();
    none.write(&[]).unwrap();
    assert!(none.is_empty() && none.to_vec().unwrap().is_empty());
}

#[test]
fn launches_that_no_device_makes_are_refused() {
    let Some(device) = testing::device() else { return };
    let kernel = trial::<f32>(&device, "trial_positive");
    for geometry in [
        Launch::rows(1, 1025),
        Launch::rows(1, 0),
        Launch::rows(u32::MAX, 128),
        Launch { grid: [1, 1, 65536], ..Launch::rows(1, 128) },
        Launch { shared: 1 << 20, ..Launch::rows(1, 128) },
    ] {
        assert!(
            matches!(launch(&kernel, geometry, &Args::new()), Err(DeviceError::Launch { kernel: "trial_positive", .. })),
            "{geometry:?}"
        );
    }
}

#[test]
fn sources_that_do_not_compile_give_the_log() {
    let Some(device) = testing::device() else { return };
    let broken = Source::new::<f32>("trial", &["trial_axpy"], "\nnonsense".to_owned());
    match device.load(&broken) {
        Err(DeviceError::Compile { file: "trial", log, .. }) => assert!(log.contains("trial.header") && log.contains("nonsense"), "{log}"),
        other => panic!("{other:?}"),
    }
    let fine = device.load(&Source::new::<f32>("trial", &["trial_axpy"], String::new())).unwrap();
    assert_eq!(fine.kernel("trial_other").err(), Some(DeviceError::NoKernel { file: "trial", kernel: "trial_other" }));
}

#[test]
fn the_emulated_device_sees_wrong_arguments() {
    let Ok(device) = Device::emulated() else { return };
    let kernel = trial::<f32>(&device, "trial_axpy");
    let (x, mut y) = (device.zeros::<f32>(3).unwrap(), device.zeros::<f32>(3).unwrap());
    let doubles = device.zeros::<f64>(3).unwrap();
    let refused = |args: &Args| match launch(&kernel, Launch::rows(1, 128), args) {
        Err(DeviceError::Arguments { expected, .. }) => assert_eq!(expected, "(const float *, float *, float, unsigned)"),
        other => panic!("{other:?}"),
    };
    refused(Args::new().buffer(&x).buffer_mut(&mut y).value(1f32));
    refused(Args::new().buffer(&x).buffer(&x).value(1f32).value(3u32));
    refused(Args::new().buffer(&doubles).buffer_mut(&mut y).value(1f32).value(3u32));
    refused(Args::new().buffer(&x).buffer_mut(&mut y).value(1f64).value(3u32));
    refused(Args::new().buffer(&x).buffer_mut(&mut y).value(1f32).null());
    launch(&kernel, Launch::rows(1, 128), Args::new().null().null().value(1f32).value(0u32)).unwrap();
}

#[test]
fn the_emulated_device_sees_threads_that_never_meet() {
    let Ok(device) = Device::emulated() else { return };
    let kernel = trial::<f32>(&device, "trial_divergent");
    let mut y = device.zeros::<u32>(128).unwrap();
    for _ in 0..2 {
        match launch(&kernel, Launch::rows(1, 128), Args::new().buffer_mut(&mut y)) {
            Err(DeviceError::Fault { kernel: "trial_divergent", what }) => {
                assert!(what.contains("never meet") && what.contains("block 0,0,0"), "{what}");
            }
            other => panic!("{other:?}"),
        }
    }
    // The next launch of the library is not affected.
    axpy::<f32>(&device, |i| i as f32);
}

#[test]
fn the_opposite_order_brings_races_to_light() {
    let [forwards, backwards] = [false, true].map(|reverse| {
        let device = Device::emulated_in_order(reverse).unwrap();
        let kernel = trial::<f32>(&device, "trial_race");
        let mut y = device.zeros::<u32>(128).unwrap();
        launch(&kernel, Launch { shared: 4 * 128, ..Launch::rows(1, 128) }, Args::new().buffer_mut(&mut y)).unwrap();
        y.to_vec().unwrap()
    });
    assert_ne!(forwards, backwards);
    // What nobody has written yet is seen as such.
    assert_eq!((forwards[0], forwards[127], backwards[0]), (u32::MAX, 0, 127));
}

#[test]
#[ignore = "ends the process where scripts/sanitize_kernels.sh runs it, and writes where it must not elsewhere"]
fn an_overrun() {
    assert!(std::env::var("TESSERAL_EMULATOR_SANITIZE").is_ok_and(|value| value == "1"));
    let Ok(device) = Device::emulated() else { return };
    let kernel = trial::<f32>(&device, "trial_overrun");
    let mut y = device.zeros::<u32>(100).unwrap();
    launch(&kernel, Launch::rows(1, 1), Args::new().buffer_mut(&mut y).value(100u32)).unwrap();
}

#[test]
fn units_are_one_text() {
    let unit = Source::new::<f64>("trial", &[], "#define SOMETHING 3".to_owned()).unit();
    assert!(unit.starts_with("#define TESSERAL_REAL double\n#line 1 \"tesseral.cuh\""));
    assert!(!unit.contains("#include") && unit.matches("T warp_sum(T value)").count() == 1);
    let position = |what: &str| unit.find(what).unwrap();
    assert!(position("FULL_MASK") < position("SOMETHING") && position("SOMETHING") < position("trial_axpy"));
}

#[test]
fn rates_are_measured() {
    let Some(device) = testing::device() else { return };
    for rate in [peak::flops::<f32>(&device), peak::flops::<f64>(&device), peak::copy_bandwidth(&device)] {
        let rate = rate.unwrap();
        assert!(rate > 0.0 && rate.is_finite(), "{rate}");
    }
}
