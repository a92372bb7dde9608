//! `tesseral ipi` against the real i-PI and ASE, with the built-in model. `scripts/test_ipi.sh` installs them and runs this.
//!
//! `TESSERAL_IPI` is the folder of their programs (`bin` of a virtual environment); what needs none is tested without.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use tesseral_atoms::Cell;
use tesseral_atoms::units::{BOHR, HARTREE};

use crate::common::{Sandbox, example, golden, json_lines, transcript};

/// Where the programs are; says so where there are none.
#[allow(clippy::print_stderr, reason = "what is skipped says so")]
fn programs() -> Option<PathBuf> {
    let found = std::env::var_os("TESSERAL_IPI").map(PathBuf::from);
    if found.is_none() {
        eprintln!("skipped because TESSERAL_IPI does not say where i-PI is: scripts/test_ipi.sh");
    }
    found
}

/// A name of a socket that nobody else has.
fn socket() -> String {
    static SOCKETS: AtomicU64 = AtomicU64::new(0);
    format!("tesseral-cli-{}-{}", std::process::id(), SOCKETS.fetch_add(1, Ordering::Relaxed))
}

/// A program that ends with the test.
struct Running(Child);

impl Running {
    /// Standard output and error go to a file.
    fn start(command: &mut Command, log: &Path) -> Self {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
        Self(command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap())
    }

    fn finish(&mut self) -> i32 {
        let deadline = Instant::now() + Duration::from_secs(200);
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code().unwrap_or(-1);
            }
            assert!(Instant::now() < deadline, "it does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// One of the programs, in the folder of the test.
fn program(programs: &Path, name: &str, sandbox: &Sandbox, args: &[&str]) -> Command {
    let mut command = Command::new(programs.join(name));
    command.current_dir(sandbox.path("")).args(args).env("OMP_NUM_THREADS", "1").env("OPENBLAS_NUM_THREADS", "1");
    command
}

/// The client in the background, where the test goes on beside it.
fn client(sandbox: &Sandbox, args: &[&str], log: &str) -> Running {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tesseral"));
    command.current_dir(sandbox.path("")).arg("ipi").args(args);
    for variable in ["TESSERAL_DEVICE", "TESSERAL_MODEL", "TESSERAL_LOG", "CLICOLOR_FORCE"] {
        command.env_remove(variable);
    }
    Running::start(&mut command, &sandbox.path(log))
}

fn read(sandbox: &Sandbox, name: &str) -> String {
    std::fs::read_to_string(sandbox.path(name)).unwrap_or_default()
}

/// Copies an example of i-PI, made short, with a socket of its own.
fn shortened(sandbox: &Sandbox, name: &str, socket: &str, changes: &[(&str, &str)]) {
    let folder = PathBuf::from(example("nacl.cif")).with_file_name("ipi").join(name);
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, sandbox.path(path.file_name().unwrap().to_str().unwrap())).unwrap();
    }
    let mut input = read(sandbox, "input.xml");
    let (start, end) = (input.find("<address>").unwrap() + 9, input.find("</address>").unwrap());
    input.replace_range(start..end, socket);
    for (from, to) in changes {
        assert!(input.contains(from), "{from}");
        input = input.replace(from, to);
    }
    std::fs::write(sandbox.path("input.xml"), input).unwrap();
}

fn numbers(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(values) => values.iter().flat_map(numbers).collect(),
        number => vec![number.as_f64().unwrap()],
    }
}

fn triple(values: &[f64]) -> [f64; 3] {
    values.try_into().unwrap()
}

/// Holds what i-PI has in memory against `tesseral evaluate` of the same positions: the same bits, after the conversion of units. Returns the number of structures.
fn compare_with_evaluate(sandbox: &Sandbox, record: &str, symbols: &[&str], dtype: &str) -> usize {
    let record: Value = serde_json::from_str(&read(sandbox, record)).unwrap();
    let (mut frames, mut received, mut volumes) = (String::new(), Vec::new(), Vec::new());
    for state in record["steps"].as_array().unwrap().iter().flat_map(|step| step.as_array().unwrap()) {
        let cell = numbers(&state["cell"]).chunks(3).map(|row| triple(row).map(|x| x * BOHR)).collect::<Vec<_>>();
        for (bead, positions) in state["positions"].as_array().unwrap().iter().enumerate() {
            let lattice: Vec<String> = cell.iter().flatten().map(f64::to_string).collect();
            frames += &format!("{}\nLattice=\"{}\" Properties=species:S:1:pos:R:3 pbc=\"T T T\"\n", symbols.len(), lattice.join(" "));
            for (symbol, r) in symbols.iter().zip(numbers(positions).chunks(3)) {
                let [x, y, z] = triple(r).map(|x| x * BOHR);
                frames += &format!("{symbol} {x} {y} {z}\n");
            }
            let of = |what: &str| numbers(&state[what][bead]);
            received.push((of("energies")[0], of("forces"), of("virials")));
            volumes.push(Cell::new([cell[0], cell[1], cell[2]]).volume());
        }
    }
    std::fs::write(sandbox.path("frames.extxyz"), frames).unwrap();
    let lines = json_lines(&sandbox.stdout(&["evaluate", "frames.extxyz", "--json", "--dtype", dtype]));
    let mut compared = 0;
    for (frame, ((energy, forces, virial), volume)) in received.iter().zip(&volumes).enumerate() {
        let line = &lines[frame];
        assert_eq!(*energy, line["energy"].as_f64().unwrap() * (1.0 / HARTREE), "frame {frame}");
        let expected: Vec<f64> = numbers(&line["forces"]).iter().map(|f| f * (BOHR / HARTREE)).collect();
        assert_eq!(*forces, expected, "frame {frame}");
        let expected: Vec<f64> = numbers(&line["stress"]).iter().map(|s| -s * volume * (1.0 / HARTREE)).collect();
        // i-PI keeps the upper triangle.
        for k in [0, 1, 2, 4, 5, 8] {
            assert_eq!(virial[k], expected[k], "frame {frame}: component {k}");
        }
        compared += 1;
    }
    compared
}

#[test]
fn beads_of_water_get_the_bits_of_evaluate_one_by_one_and_together() {
    let Some(programs) = programs() else { return };
    let record = example("nacl.cif").replace("examples/nacl.cif", "scripts/ipi/record.py");
    let symbols: Vec<&str> = ["O", "H", "H"].into_iter().cycle().take(96).collect();
    let run = |batch: Option<&str>, dtype: &str| {
        let (sandbox, socket) = (Sandbox::new(), socket());
        let batches = "<batch_size> 8 </batch_size>";
        let change = batch.map_or_else(String::new, |n| format!("<batch_size> {n} </batch_size>"));
        shortened(&sandbox, "path-integrals", &socket, &[(batches, &change)]);
        let mut server =
            Running::start(&mut program(&programs, "python", &sandbox, &[&record, "input.xml", "2", "record.json"]), &sandbox.path("log"));
        let summary = json_lines(&sandbox.stdout(&[
            "ipi",
            "water.extxyz",
            "--unix",
            &socket,
            "--json",
            "--dtype",
            dtype,
            "--batch",
            batch.unwrap_or("1"),
        ]));
        assert_eq!(server.finish(), 0, "{}", read(&sandbox, "log"));
        assert_eq!(compare_with_evaluate(&sandbox, "record.json", &symbols, dtype), 16);
        assert_eq!(summary[0]["outcome"], "exit");
        (read(&sandbox, "record.json"), summary[0]["forces"].as_u64().unwrap())
    };
    let (one_by_one, messages) = run(None, "f32");
    let (together, fewer) = run(Some("8"), "f32");
    assert_eq!(one_by_one, together);
    // i-PI may send a batch in two parts, where the machine is busy.
    assert_eq!(messages, 8 * 3);
    assert!((3..=5).contains(&fewer), "{fewer}");
    let (halves, some) = run(Some("4"), "f64");
    assert_ne!(halves, together);
    assert!((6..=10).contains(&some), "{some}");
}

/// A primitive cell of silicon, out of shape and place.
const SILICON: &str = "\
2
Lattice=\"0.1 2.72 2.75 2.70 0.0 2.68 2.81 2.70 0.05\" Properties=species:S:1:pos:R:3 pbc=\"T T T\"
Si 0.05 0.0 -0.02
Si 1.40 1.30 1.37
";

/// One step of a few beads of silicon.
fn silicon_input(socket: &str, forcefield: &str, output: &str) -> String {
    format!(
        "<simulation verbosity='low'>
           <output prefix='run'> <properties stride='1' filename='out'> [ step, potential ] </properties> {output} </output>
           <total_steps> 1000 </total_steps> <prng> <seed> 2718 </seed> </prng>
           <ffsocket name='f' mode='unix'> <address> {socket} </address> {forcefield} </ffsocket>
           <system>
             <initialize nbeads='2'> <file mode='ase'> start.extxyz </file> <velocities mode='thermal' units='kelvin'> 300 </velocities> </initialize>
             <forces> <force forcefield='f'/> </forces>
             <motion mode='dynamics'> <dynamics mode='nve'> <timestep units='femtosecond'> 0.5 </timestep> </dynamics> </motion>
             <ensemble> <temperature units='kelvin'> 300 </temperature> </ensemble>
           </system>
         </simulation>"
    )
}

#[test]
fn the_virial_is_the_derivative_by_strain() {
    let Some(programs) = programs() else { return };
    let record = example("nacl.cif").replace("examples/nacl.cif", "scripts/ipi/record.py");
    let (sandbox, socket) = (Sandbox::new(), socket());
    sandbox.file("start.extxyz", SILICON);
    sandbox.file("input.xml", silicon_input(&socket, "", ""));
    let strain = 1e-4;
    let args = [&record, "input.xml", "2", "record.json", "1e-4"];
    let mut server = Running::start(&mut program(&programs, "python", &sandbox, &args), &sandbox.path("log"));
    let client = sandbox.stdout(&["ipi", "start.extxyz", "--unix", &socket, "--json", "--dtype", "f64"]);
    assert_eq!(server.finish(), 0, "{}\n{client}", read(&sandbox, "log"));
    // i-PI has turned the cell, so that it is upper triangular: the client takes it from i-PI.
    assert_eq!(compare_with_evaluate(&sandbox, "record.json", &["Si", "Si"], "f64"), 4);
    let record: Value = serde_json::from_str(&read(&sandbox, "record.json")).unwrap();
    let virial = numbers(&record["steps"][1][0]["virials"][0]);
    let largest = virial.iter().fold(0.0f64, |most, v| most.max(v.abs()));
    assert!(largest > 1e-3, "{virial:?}");
    for (component, pair) in record["strained"].as_object().unwrap() {
        let pair = numbers(pair);
        let slope = (pair[0] - pair[1]) / (2.0 * strain);
        let index = match component.as_str() {
            "00" => 0,
            "01" => 1,
            "02" => 2,
            "11" => 4,
            "12" => 5,
            _ => 8,
        };
        assert!((slope + virial[index]).abs() < 1e-6 * largest.max(1.0), "{component}: {slope} and {}", virial[index]);
    }
}

#[test]
fn a_committee_says_how_far_it_disagrees() {
    let Some(programs) = programs() else { return };
    let (sandbox, socket) = (Sandbox::new(), socket());
    sandbox.file("start.extxyz", SILICON);
    let kinds = ["energy_spread", "force_spread", "energies"];
    let output = kinds.map(|kind| format!("<trajectory stride='1' filename='{kind}' extra_type='{kind}'> extras </trajectory>")).concat();
    sandbox.file("input.xml", silicon_input(&socket, "<batch_size> 2 </batch_size>", &output).replace("1000", "1"));
    sandbox.file("a.model", golden("residual_lmax3_nu3.model"));
    sandbox.file("b.model", golden("one_layer_nu4.model"));
    let mut server = Running::start(&mut program(&programs, "i-pi", &sandbox, &["input.xml"]), &sandbox.path("log"));
    sandbox.stdout(&["ipi", "start.extxyz", "--unix", &socket, "-m", "a.model", "-m", "b.model", "--per-atom"]);
    assert_eq!(server.finish(), 0, "{}", read(&sandbox, "log"));
    let last = |name: &str| -> Vec<f64> {
        let text = read(&sandbox, name);
        text.lines().last().unwrap().split_whitespace().map(|word| word.parse().unwrap()).collect()
    };
    for bead in 0..2 {
        let of = |what: &str| last(&format!("run.{what}_{bead}"));
        assert!(of("energy_spread")[0] > 0.0);
        assert!(of("force_spread").len() == 2 && of("force_spread").iter().all(|f| *f > 0.0));
        assert_eq!(of("energies").len(), 2);
    }
}

#[test]
fn a_client_that_is_killed_or_interrupted_is_replaced() {
    let Some(programs) = programs() else { return };
    // (Replica exchange would not do: i-PI's systems draw random numbers in an order of chance.)
    let short = |sandbox: &Sandbox, socket: &str| {
        shortened(sandbox, "path-integrals", socket, &[("2000", "8"), ("filename='out'", "filename='out' flush='1'")]);
    };
    let undisturbed = Sandbox::new();
    let name = socket();
    short(&undisturbed, &name);
    let mut server = Running::start(&mut program(&programs, "i-pi", &undisturbed, &["input.xml"]), &undisturbed.path("log"));
    undisturbed.stdout(&["ipi", "water.extxyz", "--unix", &name]);
    assert_eq!(server.finish(), 0);

    let (sandbox, name) = (Sandbox::new(), socket());
    short(&sandbox, &name);
    let mut server = Running::start(&mut program(&programs, "i-pi", &sandbox, &["input.xml"]), &sandbox.path("log"));
    let wait_for = |least: usize| {
        let deadline = Instant::now() + Duration::from_secs(100);
        while read(&sandbox, "water.out").lines().filter(|line| !line.starts_with('#')).count() < least {
            assert!(Instant::now() < deadline, "{}", read(&sandbox, "log"));
            std::thread::sleep(Duration::from_millis(2));
        }
        // Into the evaluation of the next step, which takes much longer: i-PI does not survive that a client is killed before it has read its positions.
        std::thread::sleep(Duration::from_millis(40));
    };
    let args = ["water.extxyz", "--unix", &name];
    let mut first = client(&sandbox, &args, "first");
    wait_for(2);
    // SIGKILL.
    first.0.kill().unwrap();
    first.0.wait().unwrap();
    let mut second = client(&sandbox, &args, "second");
    wait_for(5);
    assert!(Command::new("kill").args(["-INT", &second.0.id().to_string()]).status().unwrap().success());
    assert_eq!(second.finish(), 130);
    assert!(read(&sandbox, "second").contains("interrupted; i-PI waits for another client"), "{}", read(&sandbox, "second"));
    let mut third = client(&sandbox, &args, "third");
    assert_eq!(third.finish(), 0, "{}", read(&sandbox, "third"));
    assert_eq!(server.finish(), 0);
    // Not a digit is different.
    assert_eq!(read(&sandbox, "water.out"), read(&undisturbed, "water.out"));
}

#[test]
fn examples_run() {
    let Some(programs) = programs() else { return };
    let run = |name: &str, structure: &str, changes: &[(&str, &str)]| {
        let (sandbox, socket) = (Sandbox::new(), socket());
        shortened(&sandbox, name, &socket, changes);
        let mut server = Running::start(&mut program(&programs, "i-pi", &sandbox, &["input.xml"]), &sandbox.path("log"));
        let output = sandbox.stdout(&["ipi", structure, "--unix", &socket]);
        assert_eq!(server.finish(), 0, "{}", read(&sandbox, "log"));
        assert!(output.contains("round trips"), "{output}");
        sandbox
    };
    let rows = |text: &str| -> Vec<Vec<f64>> {
        let rows = text.lines().filter(|line| !line.starts_with('#'));
        rows.map(|row| row.split_whitespace().map(|word| word.parse().unwrap()).collect()).collect()
    };

    let water = run("path-integrals", "water.extxyz", &[("2000", "3"), ("stride='20'", "stride='1'")]);
    let out = rows(&read(&water, "water.out"));
    assert_eq!(out.len(), 4);
    // From one point, beads spread: their kinetic energy grows from the classical one.
    assert!(out[3][5] > out[0][5], "{out:?}");
    assert!(water.path("water.pos_7.extxyz").exists());

    let ethanol = run("replica-exchange", "ethanol.extxyz", &[("20000", "40"), ("<stride> 20 </stride>", "<stride> 2 </stride>")]);
    let exchanges = rows(&read(&ethanol, "ethanol.remd_idx"));
    assert!(exchanges.iter().any(|row| row[1..] != [0.0, 1.0, 2.0, 3.0]), "{exchanges:?}");
    assert_eq!(rows(&read(&ethanol, "t520_ethanol.out")).len(), 5);

    let changes = [("40000", "60"), ("stride='10'", "stride='1'"), ("stride: 100", "stride: 10")];
    let hills = run("metadynamics", "ethanol.extxyz", &changes);
    let (bias, centres) = (rows(&read(&hills, "ethanol.out")), rows(&read(&hills, "hills.txt")));
    assert_eq!((bias.len(), centres.len()), (61, 6));
    assert_eq!((bias[9][5], bias[10][5] > 0.005), (0.0, true), "{bias:?}");
    let slopes = "import numpy as np, bias\nr = np.array([[1.1, 0.2, 0.3], [0, 0.1, 0], [-0.2, 1.4, 0.1], [-1.0, 1.6, 0.8]])\n\
        d = lambda i, k, h: bias.torsion(r + h * np.eye(12)[3 * i + k].reshape(4, 3))[0]\n\
        g = np.array([[(d(i, k, 1e-6) - d(i, k, -1e-6)) / 2e-6 for k in range(3)] for i in range(4)])\n\
        assert abs(g - bias.torsion(r)[1]).max() < 1e-8\n\
        b = bias.TorsionHills(0, 1, 2, 3, 0.01, 15, 100)\n\
        assert len(b.centres) == 6 and abs((b.energy(-2.9 + 1e-6)[0] - b.energy(-2.9 - 1e-6)[0]) / 2e-6 - b.energy(-2.9)[1]) < 1e-10";
    let mut python = Running::start(&mut program(&programs, "python", &hills, &["-c", slopes]), &hills.path("slopes"));
    assert_eq!(python.finish(), 0, "{}", read(&hills, "slopes"));
    // Langevin dynamics with hills that come in steps: between them what should be conserved is.
    let conserved: Vec<f64> = bias[12..19].iter().map(|row| row[2]).collect();
    let spread = conserved.iter().fold(f64::MIN, |a, b| a.max(*b)) - conserved.iter().fold(f64::MAX, |a, b| a.min(*b));
    assert!(spread < 0.01, "{conserved:?}");
}

#[test]
fn ase_asks_in_the_same_way() {
    let Some(programs) = programs() else { return };
    let (sandbox, socket) = (Sandbox::new(), socket());
    sandbox.file("start.extxyz", SILICON);
    sandbox.file(
        "ask.py",
        "import json, sys\n\
         from ase.calculators.socketio import SocketIOCalculator\n\
         from ase.io import read\n\
         atoms = read('start.extxyz')\n\
         with SocketIOCalculator(unixsocket=sys.argv[1]) as calculator:\n\
         \x20   atoms.calc = calculator\n\
         \x20   answers = []\n\
         \x20   for _ in range(2):\n\
         \x20       answers.append({'energy': atoms.get_potential_energy(), 'forces': atoms.get_forces().tolist(), 'stress': atoms.get_stress(voigt=False).tolist()})\n\
         \x20       atoms.positions[0, 0] += 0.1\n\
         json.dump(answers, open('answers.json', 'w'))\n",
    );
    let mut server = Running::start(&mut program(&programs, "python", &sandbox, &["ask.py", &socket]), &sandbox.path("log"));
    // With --reconnect 0 the client has one attempt: ASE comes first.
    let deadline = Instant::now() + Duration::from_secs(60);
    while !Path::new(&format!("/tmp/ipi_{socket}")).exists() {
        assert!(Instant::now() < deadline, "{}", read(&sandbox, "log"));
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(200));
    let output =
        sandbox.stdout(&["ipi", "start.extxyz", "--unix", &socket, "--dtype", "f64", "--reconnect", "0", "--json", "--skin", "0.5"]);
    assert_eq!(json_lines(&output)[0]["outcome"], "hung up");
    assert_eq!(server.finish(), 0, "{}", read(&sandbox, "log"));
    let answers: Value = serde_json::from_str(&read(&sandbox, "answers.json")).unwrap();
    let moved = SILICON.replace("Si 0.05", "Si 0.15");
    sandbox.file("moved.extxyz", moved);
    let lines = json_lines(&sandbox.stdout(&["evaluate", "start.extxyz", "moved.extxyz", "--json", "--dtype", "f64"]));
    for (answer, line) in answers.as_array().unwrap().iter().zip(&lines) {
        for what in ["energy", "forces", "stress"] {
            let (found, expected) = (numbers(&answer[what]), numbers(&line[what]));
            let largest = expected.iter().fold(0.0f64, |most, x| most.max(x.abs()));
            // ASE has the constants of CODATA 2014.
            assert!(found.len() == expected.len() && found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-7 * largest), "{what}");
        }
    }
}

#[test]
fn wrong_structures_are_refused() {
    let Some(programs) = programs() else { return };
    let (sandbox, socket) = (Sandbox::new(), socket());
    sandbox.file("start.extxyz", SILICON);
    sandbox.file("three.xyz", "3\n\nSi 0 0 0\nSi 0 0 3\nSi 0 3 0\n");
    sandbox.file("input.xml", silicon_input(&socket, "", ""));
    let server = Running::start(&mut program(&programs, "i-pi", &sandbox, &["input.xml"]), &sandbox.path("log"));
    let text = sandbox.run(&["ipi", "three.xyz", "--unix", &socket]);
    assert!(text.contains("exit code 1") && text.contains("the server sends 2 atoms, the structure has 3"), "{text}");
    assert!(text.contains("hint: give the structure that i-PI begins with"), "{text}");
    // i-PI is still there.
    let text = sandbox.run(&["ipi", "start.extxyz", "--unix", &socket, "--batch", "4"]);
    assert!(text.contains("sends 1 structures at a time, not 4"), "{text}");
    drop(server);
    // What is killed leaves its socket.
    std::fs::remove_file(format!("/tmp/ipi_{socket}")).ok();
}

#[test]
fn what_cannot_be_evaluated_ends_the_client_with_the_reason() {
    let Some(programs) = programs() else { return };
    let (sandbox, socket) = (Sandbox::new(), socket());
    sandbox.file("good.extxyz", SILICON);
    sandbox.file("start.extxyz", SILICON.replace("Si 1.40 1.30 1.37", "Si 0.05 0.0 -0.02"));
    sandbox.file("input.xml", silicon_input(&socket, "<batch_size> 2 </batch_size>", ""));
    let mut server = Running::start(&mut program(&programs, "i-pi", &sandbox, &["input.xml"]), &sandbox.path("log"));
    let text = sandbox.run(&["ipi", "good.extxyz", "--unix", &socket]);
    assert!(text.contains("exit code 1") && text.contains("evaluation 1 of this client (structure 0 of a batch of 2) failed"), "{text}");
    assert!(text.contains("same spot") && text.contains("hint: i-PI has lost nothing"), "{text}");
    // It waits, until it is told to end, which it does with a restart file.
    assert!(server.0.try_wait().unwrap().is_none());
    sandbox.file("EXIT", "");
    assert_eq!(server.finish(), 0, "{}", read(&sandbox, "log"));
    assert!(sandbox.path("RESTART").exists());
}

#[test]
fn wrong_uses() {
    let sandbox = Sandbox::new();
    sandbox.file("start.extxyz", SILICON);
    sandbox.file("alien.xyz", "2\n\nSi 0 0 0\nOg 0 0 3\n");
    sandbox.file("empty.xyz", "0\n\n");
    let name = socket();
    let gone = socket();
    let path = format!("/tmp/ipi_{gone}");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let cases: &[(&[&str], &[&str])] = &[
        (&["start.extxyz"], &["exit code 2", "--unix", "--port"]),
        (&["start.extxyz", "--unix", "a", "--port", "1"], &["exit code 2", "cannot be used with"]),
        (&["start.extxyz", "--unix", "a", "--address", "there"], &["exit code 2", "cannot be used with"]),
        (&["start.extxyz", "--unix", ""], &["exit code 2", "a name or a path is needed"]),
        (&["start.extxyz", "--port", "70000"], &["exit code 2", "70000"]),
        (&["start.extxyz", "--unix", "a", "--reconnect", "-1"], &["exit code 2"]),
        (&["start.extxyz", "--unix", "a", "--reconnect", "nan"], &["exit code 2", "a number of seconds"]),
        (&["start.extxyz", "--unix", "a", "--skin", "inf"], &["exit code 2", "a length of at least 0 Å"]),
        (&["start.extxyz", "--unix", "a", "--batch", "0"], &["exit code 2"]),
        (&["missing.xyz", "--unix", "a"], &["exit code 1", "missing.xyz"]),
        (&["empty.xyz", "--unix", "a"], &["exit code 1", "no atoms"]),
        (&["alien.xyz", "--unix", "a"], &["exit code 1", "does not know Og (atom 1)", "hint"]),
        (
            &["start.extxyz", "--unix", &name, "--reconnect", "0.3"],
            &["exit code 1", "no server at the unix socket", "hint: start the server", &name],
        ),
        (&["start.extxyz", "--unix", &name, "--reconnect", "0"], &["exit code 1", "no server at the unix socket"]),
        (&["start.extxyz", "--unix", &gone, "--reconnect", "0"], &["exit code 1", "hint: the file of the socket was left behind", &path]),
        (&["start.extxyz", "--port", &port, "--reconnect", "0.2"], &["exit code 1", "no server at port", "of localhost", "<port>"]),
        (&["start.extxyz", "--port", "1", "--address", "no.such.machine.invalid", "--reconnect", "0"], &["exit code 1", "no.such.machine"]),
    ];
    for (args, expected) in cases {
        let args = [&["ipi"], *args].concat();
        let text = transcript(sandbox.tesseral(&args));
        for part in *expected {
            assert!(text.contains(part), "{args:?}: no `{part}` in\n{text}");
        }
    }
    std::fs::remove_file(path).unwrap();
}
