//! Messages, byte by byte. The real i-PI is in `crates/simulate/tests/ipi.rs`.

use std::cell::Cell as StdCell;
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixListener;
use std::time::Duration;

use tesseral_atoms::units::{BOHR, HARTREE};
use tesseral_atoms::{Cell, Evaluation, ForceError, ForceField, Spread, Structure};

use super::address::Link;
use super::wire::{Interrupted, Wire, forces_ready, header, place};
use super::{Address, Answer, Client, Ending, Event, Extras, IpiError, Settings};
use crate::analytic::EinsteinCrystal;

/// Gives bytes in pieces of the given lengths, with a pause before each.
struct Pieces {
    bytes: VecDeque<u8>,
    lengths: VecDeque<usize>,
    paused: bool,
    written: Vec<u8>,
}

impl Read for Pieces {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        self.paused = !self.paused;
        if self.paused {
            return Err(ErrorKind::WouldBlock.into());
        }
        let length = self.lengths.pop_front().unwrap_or(1).min(to.len()).min(self.bytes.len());
        for slot in &mut to[..length] {
            *slot = self.bytes.pop_front().unwrap();
        }
        Ok(length)
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.paused = !self.paused;
        if self.paused {
            return Err(ErrorKind::WouldBlock.into());
        }
        let length = bytes.len().min(7);
        self.written.extend(&bytes[..length]);
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Link for Pieces {
    fn hurry(&self, _: bool) {}

    fn say_goodbye(&self) {}
}

#[test]
fn messages_may_come_in_pieces() {
    let mut bytes = VecDeque::new();
    bytes.extend(header("POSDATA"));
    bytes.extend(7i32.to_ne_bytes());
    let numbers: Vec<f64> = (0..9).map(|i| f64::from(i) / 3.0).collect();
    bytes.extend(numbers.iter().flat_map(|x| x.to_ne_bytes()));
    let stream = Pieces { bytes, lengths: [1, 3, 20, 2].into(), paused: false, written: Vec::new() };
    let asked = StdCell::new(0);
    let stop = || {
        asked.set(asked.get() + 1);
        false
    };
    let mut wire = Wire::new(stream, &stop);
    assert_eq!(wire.header().ok(), Some(*b"POSDATA     "));
    assert_eq!(wire.integer().ok(), Some(7));
    assert_eq!(wire.matrix().ok().map(|m| m.as_flattened().to_vec()), Some(numbers));
    wire.write(&[1; 30]).ok().unwrap();
    assert!(matches!(wire.integer(), Err(Interrupted::Lost(error)) if error.kind() == ErrorKind::UnexpectedEof));
    assert!(asked.get() > 5, "asked {} times whether to stop", asked.get());
    let stopped = || true;
    let stream = Pieces { bytes: VecDeque::new(), lengths: VecDeque::new(), paused: false, written: Vec::new() };
    assert!(matches!(Wire::new(stream, &stopped).integer(), Err(Interrupted::Stopped)));
}

#[test]
fn cells_are_columns_and_periodicity_is_the_structures() {
    let cell = [[2.0, 0.5, 0.25], [0.0, 3.0, 0.75], [0.0, 0.0, 4.0]];
    let mut crystal = Structure::crystal(Cell::cubic(1.0), vec![3], vec![[0.0; 3]]);
    place(&mut crystal, &cell, &[[1.0, 2.0, 3.0]]);
    assert_eq!(crystal.cell.vectors[0], [2.0 * BOHR, 0.0, 0.0]);
    assert_eq!(crystal.cell.vectors[2], [0.25 * BOHR, 0.75 * BOHR, 4.0 * BOHR]);
    assert_eq!(crystal.positions, [[BOHR, 2.0 * BOHR, 3.0 * BOHR]]);
    let mut molecule = Structure::molecule(vec![3], vec![[0.0; 3]]);
    place(&mut molecule, &cell, &[[1.0, 2.0, 3.0]]);
    assert!(molecule.cell.is_zero());
    let mut slab = Structure { pbc: [true, true, false], ..crystal.clone() };
    slab.cell = Cell::orthorhombic(1.0, 1.0, 30.0);
    place(&mut slab, &cell, &[[0.0; 3]]);
    assert_eq!(slab.cell.vectors[1], [0.5 * BOHR, 3.0 * BOHR, 0.0]);
    assert_eq!(slab.cell.vectors[2], [0.0, 0.0, 30.0]);
}

fn answer() -> Answer {
    let evaluation = Evaluation {
        energy: HARTREE,
        forces: vec![[HARTREE / BOHR, 0.0, -1.0]],
        stress: Some([[0.1, 0.2, 0.3], [0.2, 0.4, 0.5], [0.3, 0.5, 0.6]]),
        atomic_energies: vec![HARTREE],
    };
    Answer { evaluation, spread: Some(Spread { energy: 2.0 * HARTREE, forces: vec![0.0] }) }
}

#[test]
fn what_is_sent_is_in_atomic_units() {
    let structure = Structure::crystal(Cell::cubic(2.0), vec![3], vec![[0.0; 3]]);
    let (mut one, mut two) = (Vec::new(), Vec::new());
    forces_ready(std::slice::from_ref(&structure), &[answer()], Extras::default(), &mut one);
    let number = |bytes: &[u8], at: usize| f64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap());
    assert_eq!(&one[..12], b"FORCEREADY  ");
    assert!((number(&one, 12) - 1.0).abs() < 1e-15);
    assert_eq!(one[20..24], 1i32.to_ne_bytes());
    assert!((number(&one, 24) - 1.0).abs() < 1e-15 && number(&one, 32) == 0.0);
    // −V σ: a crystal under tension has a negative virial.
    assert!((number(&one, 48) + 0.8 / HARTREE).abs() < 1e-15);
    assert!((number(&one, 56) + 1.6 / HARTREE).abs() < 1e-15);
    assert_eq!(one.len(), 12 + 8 + 4 + 24 + 72 + 4);
    // A batch: all energies, then all forces, then all virials, then all extras.
    let mut second = answer();
    second.evaluation.energy = 2.0 * HARTREE;
    second.evaluation.stress = None;
    let extras = Extras { atomic_energies: true, spread: true };
    forces_ready(&[structure.clone(), structure], &[answer(), second], extras, &mut two);
    assert!((number(&two, 20) - 2.0).abs() < 1e-15);
    assert_eq!(two[28..32], 1i32.to_ne_bytes());
    assert_eq!(two[32..56], two[56..80]);
    assert_eq!(two[80..152], one[48..120]);
    assert!((0..9).all(|i| number(&two, 152 + 8 * i) == 0.0));
    let length = i32::from_ne_bytes(two[224..228].try_into().unwrap()) as usize;
    assert_eq!(std::str::from_utf8(&two[228..228 + length]).unwrap(), r#"{"energies":[1.0],"energy_spread":2.0,"force_spread":[0.0]}"#);
    assert_eq!(two.len(), 228 + 2 * length + 4);
}

/// What a server wrote byte by byte, answered by a client; the client's end.
fn talk(force_field: &mut dyn super::Serve, batch: Option<usize>, sent: Vec<u8>) -> (Result<Ending, IpiError>, super::Counts) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(&sent).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut received = Vec::new();
        // Until the client hangs up.
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.read_to_end(&mut received).ok();
        received
    });
    let settings = Settings { address: Address::unix(path.to_str().unwrap()), reconnect: Duration::ZERO, batch, extras: Extras::default() };
    let structure = Structure::molecule(vec![1, 1], vec![[0.0; 3], [0.0, 0.0, 0.74]]);
    let mut client = Client::new(settings, structure, force_field).unwrap();
    let ending = client.run(&|| false, &mut |_| ());
    let counts = *client.counts();
    drop(client);
    drop(server);
    (ending, counts)
}

fn init(text: &str) -> Vec<u8> {
    let mut bytes = header("INIT").to_vec();
    bytes.extend(3i32.to_ne_bytes());
    bytes.extend((text.len() as i32).to_ne_bytes());
    bytes.extend(text.as_bytes());
    bytes
}

/// Positions and the request for forces in one write.
fn positions(atoms: i32, x: f64) -> Vec<u8> {
    let mut bytes = header("POSDATA").to_vec();
    bytes.extend([0u8; 144]);
    bytes.extend(atoms.to_ne_bytes());
    (0..3 * atoms.clamp(0, 100)).for_each(|i| bytes.extend((x * f64::from(i)).to_ne_bytes()));
    bytes.extend(header("GETFORCE"));
    bytes
}

fn springs() -> EinsteinCrystal {
    EinsteinCrystal { stiffness: 1.0, anchors: vec![[0.0; 3]; 2] }
}

#[test]
fn a_conversation_in_one_write() {
    let sent = [header("STATUS").to_vec(), init(" "), positions(2, 1.0), header("STATUS").to_vec(), header("EXIT").to_vec()].concat();
    let (ending, counts) = talk(&mut springs(), None, sent);
    assert!(matches!(ending, Ok(Ending::Exit)), "{ending:?}");
    assert_eq!((counts.statuses, counts.inits, counts.positions, counts.forces, counts.structures), (2, 1, 1, 1, 1));
    // ½ k Σ x² with x = 0 … 5 bohr.
    let energy = 0.5 * 55.0 * BOHR * BOHR;
    assert!((counts.last_energy.unwrap() - energy).abs() < 1e-12);
}

#[test]
fn a_batch_that_was_filled_up_is_evaluated_once() {
    let mut sent = init(" cutoff : 3 , , batch_size:3");
    sent.extend(header("POSDATA"));
    sent.extend(2i32.to_ne_bytes());
    sent.extend([0u8; 3 * 144]);
    for x in [1.0f64, 2.0, 2.0] {
        (0..6).for_each(|_| sent.extend(x.to_ne_bytes()));
    }
    sent.extend([header("GETFORCE"), header("EXIT")].concat());
    let (ending, counts) = talk(&mut springs(), Some(3), sent);
    assert!(matches!(ending, Ok(Ending::Exit)), "{ending:?}");
    assert_eq!((counts.positions, counts.structures, counts.repeated), (1, 2, 1));
    let (ending, _) = talk(&mut springs(), Some(3), init(""));
    assert!(matches!(ending, Err(IpiError::Batch { announced: 1, expected: 3 })), "{ending:?}");
}

#[test]
fn what_makes_no_sense_is_named() {
    let error = |sent: Vec<u8>| talk(&mut springs(), None, sent).0.unwrap_err();
    let wrong = error([init(""), positions(5, 1.0)].concat());
    assert_eq!(wrong.to_string(), "the server sends 5 atoms, the structure has 2");
    assert!(wrong.hint().unwrap().contains("same order"));
    let shared_memory = error([init(""), positions(-12, 1.0)].concat());
    assert!(shared_memory.hint().unwrap().contains("shm"), "{shared_memory}");
    assert_eq!(
        error(b"GET / HTTP/1.1\r\n".to_vec()).to_string(),
        "the server sends the message `GET / HTTP/1`, which is none of the protocol of i-PI"
    );
    assert!(error(header("GETFORCE").to_vec()).to_string().contains("before it has sent positions"));
    for text in ["batch_size:0", "batch_size:many", "batch_size:-3", "a:1,batch_size: 99999999"] {
        assert!(error(init(text)).to_string().contains("as a batch_size"), "{text}");
    }
    let mut endless = header("INIT").to_vec();
    endless.extend([0u8; 4]);
    endless.extend(i32::MAX.to_ne_bytes());
    assert!(error(endless).to_string().contains("an INIT text of 2147483647 bytes"));
    // Hung up after a message, and in the middle of one: the connection is lost, and without --reconnect that is the end.
    assert!(matches!(talk(&mut springs(), None, init("")).0, Ok(Ending::HungUp)));
    let cut = error(positions(2, 1.0)[..100].to_vec());
    assert!(matches!(cut, IpiError::NoServer { .. }), "{cut}");
}

/// Fails in a way of choice.
struct Failing(&'static str);

impl ForceField for Failing {
    fn evaluate_into(&mut self, structure: &Structure, to: &mut Evaluation) -> Result<(), ForceError> {
        springs().evaluate_into(structure, to)?;
        match self.0 {
            "panic" => panic!("of a force field"),
            "nan" => to.forces[1][2] = f64::NAN,
            _ => return Err(ForceError::new("atoms 0 and 1 are at the same place")),
        }
        Ok(())
    }
}

#[test]
fn failures_end_the_client_and_say_why() {
    let error = |how| talk(&mut Failing(how), None, [init(""), positions(2, 1.0)].concat()).0.unwrap_err();
    let source = |error: &IpiError| std::error::Error::source(error).map(ToString::to_string);
    assert_eq!(source(&error("error")).as_deref(), Some("atoms 0 and 1 are at the same place"));
    assert_eq!(error("error").to_string(), "evaluation 1 of this client failed");
    assert_eq!(source(&error("nan")).as_deref(), Some("an energy, force or stress is not finite"));
    assert_eq!(error("panic").to_string(), "evaluation 1 of this client failed by a panic: of a force field");
}

#[test]
fn no_server_is_an_error_after_a_while_and_stopping_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nobody");
    let settings =
        |reconnect| Settings { address: Address::unix(path.to_str().unwrap()), reconnect, batch: None, extras: Extras::default() };
    let structure = Structure::molecule(vec![1, 1], vec![[0.0; 3], [0.0, 0.0, 0.74]]);
    let mut force_field = springs();
    let mut waited = 0;
    let mut client = Client::new(settings(Duration::from_millis(300)), structure.clone(), &mut force_field).unwrap();
    let error = client.run(&|| false, &mut |event| waited += i32::from(matches!(event, Event::Waiting(..)))).unwrap_err();
    assert!(error.to_string().starts_with("no server at the unix socket") && error.hint().unwrap().contains("i-pi input.xml"), "{error}");
    assert_eq!(waited, 1);
    // A file that a killed server has left.
    drop(UnixListener::bind(&path).unwrap());
    let error = client.run(&|| false, &mut |_| ()).unwrap_err();
    assert!(error.hint().unwrap().contains("remove"), "{error}");
    drop(client);
    let mut client = Client::new(settings(Duration::from_secs(3600)), structure, &mut force_field).unwrap();
    assert_eq!(client.run(&|| true, &mut |_| ()).unwrap(), Ending::Stopped);
}

#[test]
fn names_and_paths_of_sockets() {
    assert_eq!(Address::unix("water").to_string(), "the unix socket /tmp/ipi_water");
    assert_eq!(Address::unix("./water").to_string(), "the unix socket ./water");
}
