//! Training by two processes under mpirun, where there is one: `scripts/test_mpi.sh`.

use std::path::PathBuf;
use std::process::{Command as Process, Output, Stdio};
use std::time::{Duration, Instant};

use crate::common::{Sandbox, json_lines};
use crate::train::prepared;

/// What would be a deadlock ends after this time.
const PATIENCE: Duration = Duration::from_secs(120);

/// The arguments of mpirun for any machine, by any user; `None`, and a word about it, if there is none.
#[allow(clippy::print_stderr, reason = "a test that skips says so")]
fn mpirun() -> Option<Process> {
    let Ok(version) = Process::new("mpirun").arg("--version").output() else {
        eprintln!("skipped because there is no mpirun");
        return None;
    };
    let mut process = Process::new("mpirun");
    if String::from_utf8_lossy(&version.stdout).contains("Open MPI") {
        process.args(["--allow-run-as-root", "--oversubscribe", "--bind-to", "none"]);
        // Containers forbid one process to read the memory of another.
        process.env("OMPI_MCA_btl_vader_single_copy_mechanism", "none");
    }
    Some(process)
}

/// Two processes with these arguments, or one of each of two lists.
fn start(sandbox: &Sandbox, mut mpirun: Process, first: &[&str], second: Option<&[&str]>) -> std::process::Child {
    let tesseral = env!("CARGO_BIN_EXE_tesseral");
    mpirun.args(["-n", if second.is_some() { "1" } else { "2" }, tesseral]).args(first);
    if let Some(second) = second {
        mpirun.args([":", "-n", "1", tesseral]).args(second);
    }
    for variable in ["TESSERAL_LOG", "TESSERAL_THREADS", "CLICOLOR_FORCE"] {
        mpirun.env_remove(variable);
    }
    mpirun.current_dir(sandbox.path("")).env("TESSERAL_CACHE", sandbox.path("cache"));
    mpirun.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Waits for the end; what takes too long is killed.
fn finish(mut process: std::process::Child) -> (bool, String) {
    let begin = Instant::now();
    while process.try_wait().unwrap().is_none() {
        if begin.elapsed() > PATIENCE {
            // mpirun takes its processes with it.
            Process::new("kill").args(["-TERM", &process.id().to_string()]).status().unwrap();
            let Output { stderr, .. } = process.wait_with_output().unwrap();
            panic!("it did not end: {}", String::from_utf8_lossy(&stderr));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let Output { status, stdout, stderr } = process.wait_with_output().unwrap();
    (status.success(), [stdout, stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat())
}

fn run(sandbox: &Sandbox, mpirun: Process, arguments: &[&str]) -> String {
    let (success, text) = finish(start(sandbox, mpirun, arguments, None));
    assert!(success, "{text}");
    text
}

/// Losses of steps and validations that count.
fn losses(sandbox: &Sandbox) -> Vec<(String, f64)> {
    let mut losses: Vec<(String, f64)> = Vec::new();
    for line in json_lines(&std::fs::read_to_string(sandbox.path("run/log.jsonl")).unwrap()) {
        let number = |key: &str| line[key].as_u64();
        if line["kind"] == "resumed" {
            let step = number("step").unwrap();
            let later = |(name, _): &(String, f64)| name.rsplit(' ').next().unwrap().parse::<u64>().unwrap() > step;
            losses.retain(|loss| !later(loss));
        } else if let Some(loss) = line["loss"].as_f64() {
            losses.push((format!("{} of step {}", line["kind"], number("step").unwrap()), loss));
        }
    }
    losses
}

fn assert_close(found: &[(String, f64)], expected: &[(String, f64)]) {
    assert_eq!(found.len(), expected.len(), "{found:?}\n{expected:?}");
    for ((name, a), (other, b)) in found.iter().zip(expected) {
        assert!(name == other && (a - b).abs() <= 1e-10 * b.abs(), "{name}: {a}, {other}: {b}");
    }
}

const F64: &str = "training.precision=f64";

/// The same loss curve, to the end in one go or in two.
#[test]
fn two_processes_train_as_one() {
    let (Some(whole), Some(first), Some(second)) = (mpirun(), mpirun(), mpirun()) else { return };
    let one = prepared();
    one.stdout(&["train", "train.toml", F64]);
    let expected = losses(&one);
    assert!(expected.len() > 40, "{expected:?}");

    let two = prepared();
    let text = run(&two, whole, &["train", "train.toml", F64, "--threads", "1"]);
    assert_close(&losses(&two), &expected);
    assert_eq!(text.matches("run/water.safetensors").count(), 1, "{text}");
    assert!(text.contains("2 processes train together; threads of this one: 1"), "{text}");
    let table = two.stdout(&["evaluate", "-m", "run/water.safetensors", "data.xyz"]);
    assert!(table.contains("forces") && two.path("run/report.html").exists(), "{table}");

    let parts = prepared();
    run(&parts, first, &["train", "train.toml", F64, "training.max_epochs=3"]);
    let text = run(&parts, second, &["train", "train.toml", F64, "--resume"]);
    assert!(text.contains("18 steps are done"), "{text}");
    assert_close(&losses(&parts), &expected);
}

/// All end, with the message of the one that failed.
#[test]
fn an_error_of_one_process_ends_both() {
    let Some(process) = mpirun() else { return };
    let sandbox = prepared();
    let good = ["train", "train.toml", F64];
    let fails = |process: Process, second: &[&str], says: &[&str]| {
        let (success, text) = finish(start(&sandbox, process, &good, Some(second)));
        assert!(!success, "{text}");
        for part in says {
            assert!(text.contains(part), "`{part}` is not in {text}");
        }
        assert!(!sandbox.path("run/log.jsonl").exists(), "{text}");
    };
    fails(process, &["train", "nothing.toml", F64], &["rank 1: ", "nothing.toml"]);
    let missing = ["train", "train.toml", F64, "data.train=[\"missing.xyz\"]"];
    fails(mpirun().unwrap(), &missing, &["rank 1: ", "missing.xyz"]);
    fails(mpirun().unwrap(), &["train", "train.toml", F64, "training.seed=8"], &["the configuration", "rank 1"]);
}

/// Processes that another one has started, and those that these have started, as Linux lists them.
fn descendants(process: u32) -> Vec<u32> {
    let parent = |id: u32| -> Option<u32> {
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
        status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
    };
    let is_below = |mut id: u32| {
        while let Some(above) = parent(id) {
            if above == process {
                return true;
            }
            id = above;
        }
        false
    };
    let all = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    all.filter(|id| is_below(*id)).collect()
}

#[test]
fn asked_to_stop_one_process_stops_both() {
    let (Some(first), Some(second)) = (mpirun(), mpirun()) else { return };
    let sandbox = prepared();
    let process = start(&sandbox, first, &["train", "train.toml", "training.max_epochs=100000"], None);
    let begin = Instant::now();
    let name = PathBuf::from(env!("CARGO_BIN_EXE_tesseral")).canonicalize().unwrap();
    let trainers = loop {
        assert!(begin.elapsed() < PATIENCE, "no checkpoint");
        std::thread::sleep(Duration::from_millis(20));
        let checkpoints = std::fs::read_dir(sandbox.path("run/checkpoints")).map_or(0, Iterator::count);
        let mut trainers = descendants(process.id());
        trainers.retain(|id| std::fs::read_link(format!("/proc/{id}/exe")).is_ok_and(|exe| exe == name));
        if checkpoints > 2 && trainers.len() == 2 {
            break trainers;
        }
    };
    Process::new("kill").args(["-INT", &trainers[1].to_string()]).status().unwrap();
    let (success, text) = finish(process);
    assert!(!success && text.contains("--resume") && !text.contains("error:"), "{text}");
    let text = run(&sandbox, second, &["train", "train.toml", "--resume", "training.max_epochs=100000", "training.max_time=0.2"]);
    assert!(text.contains("steps are done"), "{text}");
}
