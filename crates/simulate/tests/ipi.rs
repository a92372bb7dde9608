//! The client against the real i-PI, with force fields whose properties are known. `scripts/test_ipi.sh` installs i-PI and runs this.
//!
//! `TESSERAL_IPI` is the folder of its programs (`bin` of a virtual environment).

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should fail")]
#![allow(clippy::print_stderr, reason = "what is skipped says so")]
#![cfg(unix)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tesseral_atoms::units::{BOHR, HARTREE};
use tesseral_atoms::{Cell, Evaluation, ForceError, ForceField, Structure};
use tesseral_simulate::analytic::{EinsteinCrystal, Ending as PairEnding, LennardJones};
use tesseral_simulate::ipi::{Address, Client, Counts, Ending, Event, Extras, IpiError, Serve, Settings};

/// i-PI's unit of mass in electron masses, and its hydrogen (`ipi/utils/units.py`).
const DALTON: f64 = 1822.8885;
const HYDROGEN: f64 = 1.00794 * DALTON;
/// i-PI's kelvin in hartree.
const KELVIN: f64 = 3.1668152e-6;

/// Where i-PI's programs are; says so where there are none.
fn programs() -> Option<PathBuf> {
    let found = std::env::var_os("TESSERAL_IPI").map(PathBuf::from);
    if found.is_none() {
        eprintln!("skipped because TESSERAL_IPI does not say where i-PI is: scripts/test_ipi.sh");
    }
    found
}

/// A run of i-PI in a folder of its own, which ends with it.
struct Server {
    folder: TempDir,
    address: Address,
    child: Child,
    programs: PathBuf,
}

/// A port that nobody listens at.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Server {
    /// `SOCKET` in the input becomes the mode and address of a socket.
    fn start(programs: &Path, input: &str, structure: &Structure, unix: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        static RUNS: AtomicU64 = AtomicU64::new(0);
        let (address, socket) = if unix {
            let name = format!("tesseral-test-{}-{}", std::process::id(), RUNS.fetch_add(1, Ordering::Relaxed));
            (Address::unix(&name), format!("mode='unix'> <address> {name} </address>"))
        } else {
            let port = free_port();
            let address = Address::Tcp { host: "localhost".to_owned(), port };
            (address, format!("mode='inet'> <address> localhost </address> <port> {port} </port>"))
        };
        std::fs::write(folder.path().join("input.xml"), input.replace("SOCKET", &socket)).unwrap();
        std::fs::write(folder.path().join("start.xyz"), xyz(structure)).unwrap();
        let child = launch(programs, folder.path(), "input.xml");
        Self { folder, address, child, programs: programs.to_owned() }
    }

    /// SIGKILL, in the middle of whatever it does.
    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn restart(&mut self, input: &str) {
        self.child = launch(&self.programs, self.folder.path(), input);
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.path().join(name)).unwrap_or_default()
    }

    /// The names of restart files, the last one last.
    fn checkpoints(&self) -> Vec<String> {
        let names = std::fs::read_dir(self.folder.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut saved: Vec<(u64, String)> =
            names.filter_map(|name| Some((name.strip_prefix("run.checkpoint_")?.parse().ok()?, name))).collect();
        saved.sort();
        saved.into_iter().map(|(_, name)| name).collect()
    }

    /// Waits until it has ended by itself.
    fn finish(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(120);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                assert!(status.success(), "i-PI ended with {status}: {}", self.read("log"));
                return;
            }
            assert!(Instant::now() < deadline, "i-PI does not end: {}", self.read("log"));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The columns of a file of properties, by step; where a step was written twice, both rows.
    fn rows(&self, name: &str) -> BTreeMap<u64, Vec<Vec<f64>>> {
        let mut rows = BTreeMap::<u64, Vec<Vec<f64>>>::new();
        for line in self.read(name).lines().filter(|line| !line.starts_with('#')) {
            let numbers: Vec<f64> = line.split_whitespace().map_while(|word| word.parse().ok()).collect();
            let Some((step, row)) = numbers.split_first() else { continue };
            rows.entry(*step as u64).or_default().push(row.to_vec());
        }
        rows
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        if let Address::Unix(path) = &self.address {
            std::fs::remove_file(path).ok();
        }
    }
}

fn launch(programs: &Path, folder: &Path, input: &str) -> Child {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(folder.join("log")).unwrap();
    Command::new(programs.join("i-pi"))
        .arg(input)
        .current_dir(folder)
        // Small matrices: more threads than one are slower.
        .env("OMP_NUM_THREADS", "1")
        .env("OPENBLAS_NUM_THREADS", "1")
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// A structure as i-PI reads it.
fn xyz(structure: &Structure) -> String {
    let [a, b, c] = structure.cell.lengths();
    let [alpha, beta, gamma] = structure.cell.angles();
    let mut text =
        format!("{}\n# CELL(abcABC): {a} {b} {c} {alpha} {beta} {gamma} positions{{angstrom}} cell{{angstrom}}\n", structure.len());
    for (number, r) in structure.numbers.iter().zip(&structure.positions) {
        text += &format!("{} {:.8} {:.8} {:.8}\n", tesseral_atoms::elements::symbol(*number).unwrap(), r[0], r[1], r[2]);
    }
    text
}

fn settings(address: &Address) -> Settings {
    Settings { address: address.clone(), reconnect: Duration::from_secs(60), batch: None, extras: Extras::default() }
}

/// A client that serves to the end, unless that does not come.
fn serve(address: &Address, structure: &Structure, force_field: &mut dyn Serve) -> (Result<Ending, IpiError>, Counts) {
    let mut client = Client::new(settings(address), structure.clone(), force_field).unwrap();
    let begin = Instant::now();
    let ending = client.run(&|| begin.elapsed() > Duration::from_secs(120), &mut |_| ());
    (ending, *client.counts())
}

/// Atoms on a grid that is wide enough for all of them.
fn grid(number: u8, side: usize, spacing: f64) -> Structure {
    let positions = (0..side.pow(3)).map(|i| [i % side, i / side % side, i / side / side].map(|n| n as f64 * spacing)).collect::<Vec<_>>();
    Structure::crystal(Cell::cubic(side as f64 * spacing), vec![number; positions.len()], positions)
}

/// The kinetic energy of a harmonic oscillator as a ring of P beads, in units of kT; x = βħω. The normal modes of the ring have ω_k = 2 P/(βħ) sin(kπ/P), and by the virial
/// theorem the kinetic energy is ½ kT Σ ω² / (ω² + ω_k²). (Tuckerman, "Statistical Mechanics: Theory and Molecular Simulation", section 12.3.)
fn ring(beads: usize, x: f64) -> f64 {
    let p = beads as f64;
    0.5 * (0..beads).map(|k| 1.0 / (1.0 + (2.0 * p / x * (std::f64::consts::PI * k as f64 / p).sin()).powi(2))).sum::<f64>()
}

/// How many batches may come in two parts: i-PI sends what is queued whenever its polling thread wakes up (every `<latency>`), also while beads are being queued, which happens
/// on a busy machine.
fn parts(steps: u64) -> u64 {
    1 + steps / 10
}

#[test]
fn formula_of_the_ring() {
    // One bead is classical, many are quantum: ¼ x coth(x/2).
    assert!((ring(1, 7.7) - 0.5).abs() < 1e-12);
    assert!((ring(4096, 7.7) - 7.7 / 4.0 / (7.7f64 / 2.0).tanh()).abs() < 1e-5);
}

#[test]
fn kinetic_energy_of_a_harmonic_solid() {
    let Some(programs) = programs() else { return };
    let (beads, temperature, steps, skipped) = (8, 300.0, 3000, 300);
    let structure = grid(1, 5, 4.0);
    let stiffness = 10.0;
    let mut force_field = EinsteinCrystal { stiffness, anchors: structure.positions.clone() };
    let input = format!(
        "<simulation verbosity='quiet'>
           <output prefix='run'> <properties stride='1' filename='out'> [ step, kinetic_cv, kinetic_td, potential ] </properties> </output>
           <total_steps> {steps} </total_steps> <prng> <seed> 2718 </seed> </prng>
           <ffsocket name='f' SOCKET <batch_size> {beads} </batch_size> <latency> 1e-4 </latency> </ffsocket>
           <system>
             <initialize nbeads='{beads}'> <file mode='xyz'> start.xyz </file> <velocities mode='thermal' units='kelvin'> {temperature} </velocities> </initialize>
             <forces> <force forcefield='f'/> </forces>
             <motion mode='dynamics'> <fixcom> False </fixcom> <dynamics mode='nvt' splitting='baoab'>
               <timestep units='femtosecond'> 0.5 </timestep> <thermostat mode='pile_l'> <tau units='femtosecond'> 5 </tau> </thermostat> </dynamics> </motion>
             <ensemble> <temperature units='kelvin'> {temperature} </temperature> </ensemble>
           </system>
         </simulation>"
    );
    let mut server = Server::start(&programs, &input, &structure, true);
    let (ending, counts) = serve(&server.address, &structure, &mut force_field);
    assert!(matches!(ending, Ok(Ending::Exit)), "{ending:?}: {}", server.read("log"));
    server.finish();
    // All beads in one message each step, those of the first step are all the same; none is computed twice.
    assert!((steps + 1..=steps + 1 + parts(steps)).contains(&counts.forces), "{counts:?}");
    assert_eq!(counts.structures, 1 + beads * steps);
    let rows = server.rows("run.out");
    let (kt, degrees) = (temperature * KELVIN, 3.0 * structure.len() as f64);
    let omega = (stiffness * BOHR * BOHR / HARTREE / HYDROGEN).sqrt();
    let expected = ring(beads as usize, omega / kt);
    let (classical, quantum) = (ring(1, omega / kt), ring(4096, omega / kt));
    for (column, name) in ["centroid virial", "primitive", "potential"].iter().enumerate() {
        let values: Vec<f64> = rows.range(skipped..).map(|(_, row)| row[0][column] / degrees / kt).collect();
        let blocks: Vec<f64> = values.chunks_exact(100).map(|block| block.iter().sum::<f64>() / 100.0).collect();
        let count = blocks.len() as f64;
        let mean = blocks.iter().sum::<f64>() / count;
        let error = (blocks.iter().map(|b| (b - mean).powi(2)).sum::<f64>() / (count - 1.0) / count).sqrt();
        eprintln!("{name}: {mean:.5} ± {error:.5} kT, {expected:.5} expected; classical {classical:.5}, quantum {quantum:.5}");
        assert!((mean - expected).abs() < 4.0 * error, "{name}: {mean} ± {error}, not {expected}");
        assert!(error < 0.01 * expected, "{name}: ± {error}");
        assert!((mean - quantum).abs() > 8.0 * error && (mean - classical).abs() > 50.0 * error, "{name}: {mean} ± {error} says nothing");
    }
}

/// Solid argon, out of place; stretched a little, so that constant pressure has something to do.
fn argon() -> (Structure, LennardJones) {
    let (side, a) = (3, 5.3);
    let mut random = tesseral_testkit::Random::new(4);
    let mut positions = Vec::new();
    for i in 0..side * side * side {
        let corner = [i % side, i / side % side, i / side / side].map(|n| n as f64);
        for site in [[0.0, 0.0, 0.0], [0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]] {
            positions.push([0, 1, 2].map(|k| (corner[k] + site[k]) * a + 0.1 * random.number()));
        }
    }
    let structure = Structure::crystal(Cell::cubic(side as f64 * a), vec![18; positions.len()], positions);
    (structure, LennardJones::new(0.0104, 3.4, 7.0, PairEnding::ShiftedForce))
}

fn argon_input(beads: u64, batch: u64, steps: u64, dynamics: &str) -> String {
    format!(
        "<simulation verbosity='low'>
           <output prefix='run'>
             <properties stride='1' filename='out'> [ step, conserved, potential, volume, pressure_cv ] </properties>
             <checkpoint stride='5' filename='checkpoint' overwrite='False'/>
           </output>
           <total_steps> {steps} </total_steps> <prng> <seed> 2718 </seed> </prng>
           <ffsocket name='f' SOCKET <batch_size> {batch} </batch_size> </ffsocket>
           <system>
             <initialize nbeads='{beads}'> <file mode='xyz'> start.xyz </file> <velocities mode='thermal' units='kelvin'> 40 </velocities> </initialize>
             <forces> <force forcefield='f'/> </forces>
             <motion mode='dynamics'> {dynamics} </motion>
             <ensemble> <temperature units='kelvin'> 40 </temperature> <pressure units='bar'> 0 </pressure> </ensemble>
           </system>
         </simulation>"
    )
}

const NVE: &str = "<dynamics mode='nve'> <timestep units='femtosecond'> 2 </timestep> </dynamics>";

#[test]
fn batches_and_two_clients_change_messages_but_no_numbers() {
    let Some(programs) = programs() else { return };
    let (beads, steps) = (8, 10);
    let (structure, force_field) = argon();
    let run = |batch: u64, clients: usize, unix: bool| {
        let mut server = Server::start(&programs, &argon_input(beads, batch, steps, NVE), &structure, unix);
        let address = &server.address;
        let counts: Vec<Counts> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..clients)
                .map(|_| {
                    let (structure, mut force_field) = (&structure, force_field.clone());
                    scope.spawn(move || {
                        let (ending, counts) = serve(address, structure, &mut force_field);
                        assert!(matches!(ending, Ok(Ending::Exit)), "{ending:?}");
                        counts
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        server.finish();
        (counts, server.read("run.out"))
    };
    let (one, numbers) = run(1, 1, true);
    let (batched, numbers_batched) = run(8, 1, false);
    assert_eq!(numbers, numbers_batched);
    assert!(numbers.lines().count() >= 11);
    let evaluations = beads * (steps + 1);
    assert_eq!((one[0].positions, one[0].forces, one[0].structures), (evaluations, evaluations, evaluations));
    // Each POSDATA + GETFORCE comes with one STATUS: two round trips; and three STATUS and INIT more at the beginning at most.
    let trips = |counts: &Counts| counts.statuses + counts.forces;
    assert!((2 * evaluations..=2 * evaluations + 3).contains(&trips(&one[0])), "{one:?}");
    assert_eq!(batched[0].structures + batched[0].repeated, beads * batched[0].positions);
    assert!((2 * (steps + 1)..=2 * (steps + 1 + parts(steps)) + 3).contains(&trips(&batched[0])), "{batched:?}");
    eprintln!("round trips for {steps} steps of {beads} beads: {} one by one, {} batched", trips(&one[0]), trips(&batched[0]));
    // Two clients share the work.
    let (two, numbers_of_two) = run(1, 2, true);
    assert_eq!(numbers, numbers_of_two);
    assert_eq!(two.iter().map(|counts| counts.structures).sum::<u64>(), evaluations);
    assert!(two.iter().all(|counts| counts.structures > evaluations / 8), "{two:?}");
    let (two, numbers_of_two) = run(4, 2, false);
    assert_eq!(numbers, numbers_of_two);
    assert!(two.iter().all(|counts| counts.positions > 0), "{two:?}");
}

#[test]
fn a_killed_server_loses_no_step() {
    let Some(programs) = programs() else { return };
    let steps = 120;
    let (structure, force_field) = argon();
    for unix in [false, true] {
        let input = argon_input(1, 1, steps, NVE);
        let mut undisturbed = Server::start(&programs, &input, &structure, unix);
        let (ending, _) = serve(&undisturbed.address, &structure, &mut force_field.clone());
        assert!(matches!(ending, Ok(Ending::Exit)), "{ending:?}");
        undisturbed.finish();

        let mut server = Server::start(&programs, &input, &structure, unix);
        let address = server.address.clone();
        let (structure, mut force_field) = (&structure, force_field.clone());
        let (ending, counts, lost) = std::thread::scope(|scope| {
            let client = scope.spawn(|| {
                let mut lost = 0;
                let mut client = Client::new(settings(&address), structure.clone(), &mut force_field).unwrap();
                let ending = client.run(&|| false, &mut |event| lost += u32::from(matches!(event, Event::Lost(..))));
                (ending, *client.counts(), lost)
            });
            // Twice, wherever it happens to be.
            for least in [20, 60] {
                let deadline = Instant::now() + Duration::from_secs(60);
                while server.rows("run.out").len() < least {
                    assert!(Instant::now() < deadline, "{}", server.read("log"));
                    std::thread::sleep(Duration::from_millis(2));
                }
                server.kill();
                // i-PI refuses to begin where the file of a socket is left.
                if let Address::Unix(path) = &server.address {
                    std::fs::remove_file(path).unwrap();
                }
                // It may have been killed while it wrote the last.
                let mut saved = server.checkpoints();
                saved.pop();
                server.restart(&saved.pop().unwrap());
            }
            client.join().unwrap()
        });
        assert!(matches!(ending, Ok(Ending::Exit)), "{ending:?}: {}", server.read("log"));
        server.finish();
        assert_eq!((counts.connections, lost), (3, 2));
        let (rows, expected) = (server.rows("run.out"), undisturbed.rows("run.out"));
        assert_eq!(rows.keys().copied().collect::<Vec<_>>(), (0..=steps).collect::<Vec<_>>());
        assert!(rows.values().any(|rows| rows.len() > 1), "nothing was done again");
        for (step, rows) in &rows {
            for row in rows {
                let potential = expected[step][0][1];
                // Restart files of i-PI have nine digits.
                assert!((row[1] - potential).abs() < 2e-6 * potential.abs(), "step {step}: {} is not {potential}", row[1]);
            }
        }
    }
}

/// Fails at some evaluation.
struct FailsAt(u64, LennardJones);

impl ForceField for FailsAt {
    fn evaluate_into(&mut self, structure: &Structure, to: &mut Evaluation) -> Result<(), ForceError> {
        self.0 -= 1;
        if self.0 == 0 { Err(ForceError::new("it had enough")) } else { self.1.evaluate_into(structure, to) }
    }
}

#[test]
fn after_a_client_that_failed_another_goes_on() {
    let Some(programs) = programs() else { return };
    let steps = 40;
    let (structure, force_field) = argon();
    let mut undisturbed = Server::start(&programs, &argon_input(1, 1, steps, NVE), &structure, true);
    serve(&undisturbed.address, &structure, &mut force_field.clone()).0.unwrap();
    undisturbed.finish();
    let mut server = Server::start(&programs, &argon_input(1, 1, steps, NVE), &structure, true);
    let (ending, counts) = serve(&server.address, &structure, &mut FailsAt(17, force_field.clone()));
    assert!(matches!(ending, Err(IpiError::Evaluation { evaluation: 17, .. })), "{ending:?}");
    assert_eq!(counts.forces, 16);
    let (ending, counts) = serve(&server.address, &structure, &mut force_field.clone());
    assert!(matches!(ending, Ok(Ending::Exit)), "{ending:?}");
    assert_eq!(counts.forces, steps + 1 - 16);
    server.finish();
    assert_eq!(server.read("run.out"), undisturbed.read("run.out"));
}

/// Positions that fill more than one buffer: GETFORCE behind them is not left in the socket when the client ends, which i-PI would not survive.
#[test]
fn a_failure_on_large_messages_leaves_the_server_alive() {
    let Some(programs) = programs() else { return };
    let structure = grid(18, 20, 4.0);
    let springs = EinsteinCrystal { stiffness: 1.0, anchors: structure.positions.clone() };
    struct Fails;
    impl ForceField for Fails {
        fn evaluate_into(&mut self, _: &Structure, _: &mut Evaluation) -> Result<(), ForceError> {
            Err(ForceError::new("it does not want to"))
        }
    }
    for unix in [true, false] {
        let mut server = Server::start(
            &programs,
            &argon_input(1, 1, 3, NVE).replace("<checkpoint", "<!--").replace("'False'/>", "-->"),
            &structure,
            unix,
        );
        for _ in 0..3 {
            let (ending, _) = serve(&server.address, &structure, &mut Fails);
            assert!(matches!(ending, Err(IpiError::Evaluation { evaluation: 1, .. })), "{ending:?}");
        }
        let (ending, counts) = serve(&server.address, &structure, &mut springs.clone());
        assert!(matches!(ending, Ok(Ending::Exit)), "{ending:?}: {}", server.read("log"));
        assert_eq!(counts.forces, 4);
        server.finish();
    }
}

#[test]
fn constant_pressure_conserves_what_it_should() {
    let Some(programs) = programs() else { return };
    let (structure, force_field) = argon();
    // The barostat of Bussi, Zykova-Timan and Parrinello without thermostats: with a wrong virial the conserved quantity drifts as the volume changes.
    let dynamics = "<dynamics mode='npt'> <timestep units='femtosecond'> 2 </timestep>
        <thermostat mode=''/> <barostat mode='isotropic'> <tau units='femtosecond'> 200 </tau> <thermostat mode=''/> </barostat> </dynamics>";
    let mut server = Server::start(&programs, &argon_input(1, 1, 200, dynamics), &structure, true);
    let (ending, _) = serve(&server.address, &structure, &mut force_field.clone());
    assert!(matches!(ending, Ok(Ending::Exit)), "{ending:?}: {}", server.read("log"));
    server.finish();
    let rows = server.rows("run.out");
    let column = |k: usize| rows.values().map(|row| row[0][k]).collect::<Vec<f64>>();
    let range = |values: &[f64]| values.iter().copied().fold(f64::MIN, f64::max) - values.iter().copied().fold(f64::MAX, f64::min);
    let (conserved, potential, volume) = (column(0), column(1), column(2));
    eprintln!(
        "conserved within {:.2e}, potential within {:.2e} hartree; volume within {:.2} %",
        range(&conserved),
        range(&potential),
        100.0 * range(&volume) / volume[0]
    );
    assert!(range(&volume) > 0.01 * volume[0]);
    assert!(range(&conserved) < 0.02 * range(&potential), "{} {}", range(&conserved), range(&potential));
}
