//! Messages as bytes.

use std::io::{self, BufRead, ErrorKind, Read};
use std::time::{Duration, Instant};

use tesseral_atoms::units::{BOHR, HARTREE};
use tesseral_atoms::{Cell, Structure};

use super::address::Link;
use super::answer::{Answer, Extras};

/// Bohr → Å. CODATA 2018, as everywhere in Tesseral. i-PI 3.3 has 1.8897261 bohr for the Å of its files, 1.3e-8 less than CODATA.
pub const LENGTH: f64 = BOHR;
/// eV → hartree (CODATA 2018). i-PI 3.3 has 0.036749326 hartree for the eV of its files, 1.0e-7 more.
pub const ENERGY: f64 = 1.0 / HARTREE;
/// eV/Å → hartree/bohr.
pub const FORCE: f64 = BOHR / HARTREE;

/// How long a server has to hang up after the client has said goodbye.
const GOODBYE: Duration = Duration::from_secs(2);

/// Bytes of a header.
pub(super) const HEADER: usize = 12;

/// A header as it is sent.
pub(super) fn header(name: &str) -> [u8; HEADER] {
    let mut bytes = [b' '; HEADER];
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    bytes
}

/// Why a message did not come.
#[derive(Debug)]
pub(super) enum Interrupted {
    /// The connection is gone.
    Lost(io::Error),
    /// The server has hung up between two messages.
    HungUp,
    /// There was a request to stop.
    Stopped,
}

impl From<io::Error> for Interrupted {
    fn from(error: io::Error) -> Self {
        Self::Lost(error)
    }
}

/// Reads and writes whole messages, however they are cut into pieces, and looks up between pieces whether to stop.
pub(super) struct Wire<'s, S> {
    stream: io::BufReader<S>,
    stop: &'s dyn Fn() -> bool,
    /// Bytes of doubles, kept between messages.
    bytes: Vec<u8>,
}

fn is_pause(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

impl<'s, S: Link> Wire<'s, S> {
    pub(super) fn new(stream: S, stop: &'s dyn Fn() -> bool) -> Self {
        Self { stream: io::BufReader::with_capacity(1 << 16, stream), stop, bytes: Vec::new() }
    }

    pub(super) fn read(&mut self, to: &mut [u8]) -> Result<(), Interrupted> {
        let mut done = 0;
        while done < to.len() {
            match self.stream.read(&mut to[done..]) {
                Ok(0) => return Err(Interrupted::Lost(ErrorKind::UnexpectedEof.into())),
                Ok(n) => done += n,
                Err(error) if is_pause(error.kind()) => {
                    if (self.stop)() {
                        return Err(Interrupted::Stopped);
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    pub(super) fn header(&mut self) -> Result<[u8; HEADER], Interrupted> {
        let mut bytes = [0; HEADER];
        let (first, rest) = bytes.split_at_mut(1);
        self.read(first).map_err(|interrupted| match interrupted {
            Interrupted::Lost(error) if error.kind() == ErrorKind::UnexpectedEof => Interrupted::HungUp,
            other => other,
        })?;
        self.read(rest)?;
        Ok(bytes)
    }

    pub(super) fn integer(&mut self) -> Result<i32, Interrupted> {
        let mut bytes = [0; 4];
        self.read(&mut bytes)?;
        Ok(i32::from_ne_bytes(bytes))
    }

    /// Nine numbers, row by row.
    pub(super) fn matrix(&mut self) -> Result<[[f64; 3]; 3], Interrupted> {
        let mut rows = [[0.0; 3]; 3];
        self.triples(&mut rows)?;
        Ok(rows)
    }

    pub(super) fn triples(&mut self, to: &mut [[f64; 3]]) -> Result<(), Interrupted> {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.resize(24 * to.len(), 0);
        let read = self.read(&mut bytes);
        let (numbers, _) = bytes.as_chunks::<8>();
        for (number, bytes) in to.as_flattened_mut().iter_mut().zip(numbers) {
            *number = f64::from_ne_bytes(*bytes);
        }
        self.bytes = bytes;
        read
    }

    /// Takes over what the server sends right after positions (GETFORCE, or STATUS), while there is time. A process that is killed with something unread in its socket *resets* the
    /// connection, and i-PI 3.3 does not survive that where it waits for forces; it does survive one that just ends.
    pub(super) fn look_ahead(&mut self) {
        if self.stream.buffer().is_empty() {
            self.stream.get_ref().hurry(true);
            // What goes wrong here goes wrong again when the message is read.
            self.stream.fill_buf().ok();
            self.stream.get_ref().hurry(false);
        }
    }

    /// Ends the connection without a reset: reads what still comes until the server hangs up.
    pub(super) fn close(mut self) {
        self.stream.get_ref().say_goodbye();
        let deadline = Instant::now() + GOODBYE;
        let mut rest = [0; 4096];
        while Instant::now() < deadline {
            match self.stream.read(&mut rest) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if is_pause(error.kind()) => {}
                Err(_) => break,
            }
        }
    }

    /// Writes a message. i-PI gives up a client whose message takes more than some seconds, so it goes in one piece.
    pub(super) fn write(&mut self, mut message: &[u8]) -> Result<(), Interrupted> {
        while !message.is_empty() {
            match self.stream.get_mut().write(message) {
                Ok(0) => return Err(Interrupted::Lost(ErrorKind::WriteZero.into())),
                Ok(n) => message = &message[n..],
                // A message that was begun is finished, unless nobody reads it.
                Err(error) if is_pause(error.kind()) => {
                    if (self.stop)() {
                        return Err(Interrupted::Stopped);
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// Gives a structure the positions (bohr) and cell (bohr, lattice vectors as columns) of a message. Lattice vectors of directions that are not periodic stay.
pub(super) fn place(structure: &mut Structure, cell: &[[f64; 3]; 3], positions: &[[f64; 3]]) {
    let mut vectors = structure.cell.vectors;
    for i in (0..3).filter(|&i| structure.pbc[i]) {
        vectors[i] = [0, 1, 2].map(|k| cell[k][i] * LENGTH);
    }
    structure.cell = Cell::new(vectors);
    structure.positions.clear();
    structure.positions.extend(positions.iter().map(|r| r.map(|x| x * LENGTH)));
}

/// `FORCEREADY` and all that follows: for one structure and for a batch the same order, of which one structure is the batch of one.
pub(super) fn forces_ready(structures: &[Structure], answers: &[Answer], extras: Extras, message: &mut Vec<u8>) {
    message.clear();
    message.extend(header("FORCEREADY"));
    let mut number = |x: f64| message.extend(x.to_ne_bytes());
    answers.iter().for_each(|answer| number(answer.evaluation.energy * ENERGY));
    let atoms = structures.first().map_or(0, Structure::len);
    message.extend((atoms as i32).to_ne_bytes());
    let mut number = |x: f64| message.extend(x.to_ne_bytes());
    for answer in answers {
        answer.evaluation.forces.as_flattened().iter().for_each(|x| number(x * FORCE));
    }
    for (structure, answer) in structures.iter().zip(answers) {
        let volume = structure.cell.volume();
        let stress = answer.evaluation.stress.unwrap_or_default();
        stress.as_flattened().iter().for_each(|x| number(-x * volume * ENERGY));
    }
    for answer in answers {
        let text = extras.text(answer);
        message.extend((text.len() as i32).to_ne_bytes());
        message.extend(text.as_bytes());
    }
}
