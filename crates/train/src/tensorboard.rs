//! Scalars for TensorBoard: an event file in the folder of the run.
//!
//! The file is a sequence of records (`tensorflow/core/lib/io/record_writer.h`): length as u64, masked CRC-32C of its bytes, the data, their masked
//! CRC-32C, all little-endian. The data are messages `Event` (`tensorflow/core/util/event.proto`), of which four fields are needed; so they are encoded here.
//!
//! Tags, over the number of steps; energies in eV, forces in eV/Å, stresses in eV/Å³, times in s:
//!
//! | tag | of each |
//! |---|---|
//! | `step/loss`, `step/loss_TERM` (`energy`, `forces`, …), `step/learning_rate`, `step/gradient_norm`, `step/seconds` | step |
//! | `epoch/loss`, `epoch/learning_rate`, `epoch/seconds` | epoch |
//! | `SET/loss`, `SET/QUANTITY_rmse`, `SET/QUANTITY_mae` (`energy`, `energy_per_atom`, `forces`, `stress`), `SET/seconds`; SET is `valid` | validation |
//! | `forgetting/SET/QUANTITY_rmse`, `forgetting/SET/QUANTITY_mae` | measurement of what a fine-tuning forgets, but the last, which is of the best step |

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use fs_err::File;

use crate::log::Record;
use crate::metrics::SetErrors;
use crate::report::Phase;

/// Appends scalars to an event file of its own.
#[derive(Debug)]
pub struct TensorBoard {
    file: File,
    path: PathBuf,
}

impl TensorBoard {
    /// A new event file in `folder`, which is made if it is not there. If a run goes on after `step`, TensorBoard forgets what older files of
    /// the folder say about later steps.
    ///
    /// # Errors
    /// Of the file system, with the path.
    pub fn create(folder: impl AsRef<Path>, resumed_after: Option<u64>) -> std::io::Result<Self> {
        let folder = folder.as_ref();
        fs_err::create_dir_all(folder)?;
        let now = now();
        // TensorBoard reads the files of a folder in the order of their names, and knows them by `tfevents`.
        let mut number = 0u32;
        let mut writer = loop {
            let path = folder.join(format!("events.out.tfevents.{:010}.{number:03}.tesseral", now as u64));
            match fs_err::OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => break Self { file, path },
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
                Err(error) => return Err(error),
            }
        };
        // The first start of a folder is a start, each of the others a restart: what is known of its step and of later ones is purged.
        let first_step = resumed_after.map_or(0, |step| step + 1);
        writer.file.write_all(&[record(&version_event(now)), record(&start_event(now, first_step))].concat())?;
        Ok(writer)
    }

    /// Adds the numbers of a record of the log, at its step. After [`Record::Resumed`] what came after that step is forgotten, and is expected anew.
    ///
    /// # Errors
    /// Of the file system, with the path.
    pub fn record(&mut self, entry: &Record) -> std::io::Result<()> {
        let mut values = Vec::new();
        let mut add = |tag: String, value: f64| values.push((tag, value));
        let step = match entry {
            Record::Resumed(resumed) => return self.file.write_all(&record(&start_event(now(), resumed.step + 1))),
            Record::Step(step) => {
                add("step/loss".into(), step.loss);
                step.terms.iter().for_each(|(term, value)| add(format!("step/loss_{term}"), *value));
                add("step/learning_rate".into(), step.learning_rate);
                add("step/gradient_norm".into(), step.gradient_norm);
                add("step/seconds".into(), step.seconds);
                step.step
            }
            Record::Epoch(epoch) => {
                add("epoch/loss".into(), epoch.loss);
                add("epoch/learning_rate".into(), epoch.learning_rate);
                add("epoch/seconds".into(), epoch.seconds);
                epoch.step
            }
            Record::Validation(validation) => {
                add(format!("{}/loss", validation.set), validation.loss);
                figures(&validation.set, &validation.errors, &mut add);
                add(format!("{}/seconds", validation.set), validation.seconds);
                validation.step
            }
            Record::Forgetting(row) if row.phase != Phase::After => {
                figures(&format!("forgetting/{}", row.set), &row.errors, &mut add);
                row.step
            }
            _ => return Ok(()),
        };
        self.scalars(step, values.iter().map(|(tag, value)| (tag.as_str(), *value)))
    }

    /// The event file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Adds the values at a step, under their tags (`loss/train`). They are with the operating system when this returns.
    ///
    /// # Errors
    /// Of the file system, with the path.
    pub fn scalars<'a>(&mut self, step: u64, values: impl IntoIterator<Item = (&'a str, f64)>) -> std::io::Result<()> {
        let now = now();
        let mut records = Vec::new();
        for (tag, value) in values {
            records.extend(record(&scalar_event(now, step, tag, value as f32)));
        }
        self.file.write_all(&records)
    }
}

/// Errors of every quantity, below `prefix`.
fn figures(prefix: &str, errors: &SetErrors, add: &mut impl FnMut(String, f64)) {
    let quantities =
        [("energy", &errors.energy), ("energy_per_atom", &errors.energy_per_atom), ("forces", &errors.forces), ("stress", &errors.stress)];
    for (name, summary) in quantities {
        if let Some(summary) = summary {
            add(format!("{prefix}/{name}_rmse"), summary.rmse);
            add(format!("{prefix}/{name}_mae"), summary.mae);
        }
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    [&length[..], &masked_crc(&length).to_le_bytes(), data, &masked_crc(data).to_le_bytes()].concat()
}

/// `tensorflow/core/lib/hash/crc32c.h`: rotated and shifted, because data with their own CRC in them have a bad CRC.
fn masked_crc(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// `Event { double wall_time = 1; string file_version = 3; }`
fn version_event(time: f64) -> Vec<u8> {
    let mut event = Message::default();
    event.double(1, time);
    event.bytes(3, b"brain.Event:2");
    event.0
}

/// `Event { double wall_time = 1; int64 step = 2; SessionLog session_log = 7; }`, `SessionLog { SessionStatus status = 1; }` with START = 1.
fn start_event(time: f64, step: u64) -> Vec<u8> {
    let mut session = Message::default();
    session.integer(1, 1);
    let mut event = Message::default();
    event.double(1, time);
    event.integer(2, step);
    event.bytes(7, &session.0);
    event.0
}

/// `Event { double wall_time = 1; int64 step = 2; Summary summary = 5; }`, `Summary { repeated Value value = 1; }`,
/// `Value { string tag = 1; float simple_value = 2; }`.
fn scalar_event(time: f64, step: u64, tag: &str, value: f32) -> Vec<u8> {
    let mut scalar = Message::default();
    scalar.bytes(1, tag.as_bytes());
    scalar.float(2, value);
    let mut summary = Message::default();
    summary.bytes(1, &scalar.0);
    let mut event = Message::default();
    event.double(1, time);
    event.integer(2, step);
    event.bytes(5, &summary.0);
    event.0
}

/// The wire format of protocol buffers: each field is its number and wire type, then its value.
#[derive(Debug, Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn key(&mut self, field: u64, wire_type: u64) {
        self.varint(field << 3 | wire_type);
    }

    fn integer(&mut self, field: u64, value: u64) {
        self.key(field, 0);
        self.varint(value);
    }

    fn double(&mut self, field: u64, value: f64) {
        self.key(field, 1);
        self.0.extend(value.to_le_bytes());
    }

    fn bytes(&mut self, field: u64, value: &[u8]) {
        self.key(field, 2);
        self.varint(value.len() as u64);
        self.0.extend(value);
    }

    fn float(&mut self, field: u64, value: f32) {
        self.key(field, 5);
        self.0.extend(value.to_le_bytes());
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The bytes of an independent encoder, whose CRC-32C gives e3069283 for "123456789" (RFC 3720).
    #[test]
    fn golden_record() {
        let hex: String = record(&scalar_event(1.5, 300, "a", 0.25)).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "1800000000000000a37f4b2209000000000000f83f10ac022a0a0a080a0161150000803eb4fa9511");
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
    }

    /// Data of the records of a file, whose checksums are right.
    fn records(path: &Path) -> Vec<Vec<u8>> {
        let bytes = std::fs::read(path).unwrap();
        let (mut rest, mut found) = (&bytes[..], Vec::new());
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            let check = |place: usize| u32::from_le_bytes(rest[place..place + 4].try_into().unwrap());
            assert_eq!(check(8), masked_crc(&rest[..8]));
            assert_eq!(check(12 + length), masked_crc(&rest[12..12 + length]));
            found.push(rest[12..12 + length].to_vec());
            rest = &rest[16 + length..];
        }
        found
    }

    /// A field of a message: a number (integers as they are, doubles and floats as their bits), or bytes.
    enum Field<'a> {
        Number(u64),
        Bytes(&'a [u8]),
    }

    /// The fields of a message and their numbers.
    fn fields(mut message: &[u8]) -> Vec<(u64, Field<'_>)> {
        fn varint(message: &mut &[u8]) -> u64 {
            let mut value = 0;
            for shift in (0..).step_by(7) {
                let byte = message[0];
                *message = &message[1..];
                value |= u64::from(byte & 0x7f) << shift;
                if byte & 0x80 == 0 {
                    break;
                }
            }
            value
        }
        let mut found = Vec::new();
        while !message.is_empty() {
            let key = varint(&mut message);
            let size = match key & 7 {
                0 => 0,
                1 => 8,
                2 => varint(&mut message) as usize,
                5 => 4,
                other => panic!("wire type {other}"),
            };
            let field = if key & 7 == 0 {
                Field::Number(varint(&mut message))
            } else {
                let (bytes, rest) = message.split_at(size);
                message = rest;
                let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |n, &byte| n << 8 | u64::from(byte));
                if key & 7 == 2 { Field::Bytes(bytes) } else { Field::Number(number(bytes)) }
            };
            found.push((key >> 3, field));
        }
        found
    }

    /// What an event file says: steps at which it starts, and scalars by step and tag.
    pub(crate) fn read(path: &Path) -> (Vec<u64>, Vec<(u64, String, f32)>) {
        let (mut starts, mut scalars) = (Vec::new(), Vec::new());
        for event in records(path) {
            let event = fields(&event);
            let step = event.iter().find_map(|(n, field)| if let (2, Field::Number(step)) = (n, field) { Some(*step) } else { None });
            for (number, field) in &event {
                let Field::Bytes(bytes) = field else { continue };
                match number {
                    5 => {
                        for (number, value) in fields(bytes) {
                            let (1, Field::Bytes(value)) = (number, value) else { panic!("field {number} of a summary") };
                            let (mut tag, mut scalar) = (None, None);
                            for part in fields(value) {
                                match part {
                                    (1, Field::Bytes(name)) => tag = Some(String::from_utf8(name.to_vec()).unwrap()),
                                    (2, Field::Number(bits)) => scalar = Some(f32::from_bits(bits as u32)),
                                    (other, _) => panic!("field {other} of a value"),
                                }
                            }
                            scalars.push((step.unwrap(), tag.unwrap(), scalar.unwrap()));
                        }
                    }
                    7 => starts.push(step.unwrap()),
                    3 => {}
                    other => panic!("field {other} of an event"),
                }
            }
        }
        (starts, scalars)
    }

    #[test]
    fn records_of_the_log_are_scalars() {
        use crate::log::{Epoch, Event, Resumed, Step};
        let folder = tempfile::tempdir().unwrap();
        let mut writer = TensorBoard::create(folder.path(), None).unwrap();
        let step = |step: u64| Step {
            step,
            epoch: 1,
            loss: 0.5,
            terms: vec![("energy".into(), 0.125), ("forces".into(), 0.375)],
            learning_rate: 0.25,
            gradient_norm: f64::INFINITY,
            frames: 3,
            atoms: 9,
            edges: 50,
            seconds: 1.5,
        };
        writer.record(&Record::Step(step(300))).unwrap();
        writer.record(&Record::Epoch(Epoch { epoch: 1, step: 300, loss: 2.0, learning_rate: 0.5, seconds: 4.0 })).unwrap();
        writer.record(&Record::Event(Event { step: 300, epoch: 1, message: "nothing to draw".into() })).unwrap();
        writer.record(&Record::Resumed(Resumed { step: 299, epoch: 0, checkpoint: "back".into() })).unwrap();
        let (starts, scalars) = read(writer.path());
        assert_eq!(starts, [0, 300]);
        let expected = [
            ("step/loss", 0.5),
            ("step/loss_energy", 0.125),
            ("step/loss_forces", 0.375),
            ("step/learning_rate", 0.25),
            ("step/gradient_norm", f32::INFINITY),
            ("step/seconds", 1.5),
            ("epoch/loss", 2.0),
            ("epoch/learning_rate", 0.5),
            ("epoch/seconds", 4.0),
        ];
        assert_eq!(scalars, expected.map(|(tag, value)| (300, tag.to_owned(), value)));
    }

    #[test]
    fn a_file_for_each_part_of_a_run() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("tensorboard");
        let mut first = TensorBoard::create(&folder, None).unwrap();
        first.scalars(1, [("loss/train", 0.5), ("learning rate", 1e-3)]).unwrap();
        first.scalars(2, [("loss/train", f64::NAN)]).unwrap();
        let second = TensorBoard::create(&folder, Some(1)).unwrap();
        let (one, two) = (records(first.path()), records(second.path()));
        assert_eq!((one.len(), two.len()), (5, 2));
        assert!(one[0].ends_with(b"\x1a\x0dbrain.Event:2"));
        // Wall time is 9 bytes; then come the step and the rest.
        assert_eq!(one[2][9..], scalar_event(0.0, 1, "loss/train", 0.5)[9..]);
        assert_eq!(one[1][9..], [0x10, 0, 0x3a, 2, 0x08, 1]);
        assert_eq!(two[1][9..], [0x10, 2, 0x3a, 2, 0x08, 1]);
        // In the order of their names they are in the order of time.
        assert!(first.path() < second.path());
    }

    /// Also for the reader of the real TensorBoard: `TESSERAL_SAMPLE_EVENTS=folder cargo test -p tesseral-train file_of_its_own`.
    #[test]
    fn a_resumed_run_writes_a_file_of_its_own() {
        let temporary = tempfile::tempdir().unwrap();
        // TESSERAL_SAMPLE_EVENTS names a folder to keep and look at.
        let folder = std::env::var_os("TESSERAL_SAMPLE_EVENTS").map_or_else(|| temporary.path().to_owned(), std::path::PathBuf::from);
        let mut part = TensorBoard::create(&folder, None).unwrap();
        let first = part.path().to_owned();
        for step in 1..=5 {
            part.scalars(step, [("loss/train", 1.0 / step as f64), ("valid/forces_rmse_eV_per_Å", 0.5 / step as f64)]).unwrap();
        }
        // Steps 4 and 5 are computed again.
        let mut part = TensorBoard::create(&folder, Some(3)).unwrap();
        for step in 4..=300 {
            part.scalars(step, [("loss/train", 2.0 / step as f64)]).unwrap();
        }
        assert!(first.exists() && part.path().exists() && first != part.path());
    }
}
