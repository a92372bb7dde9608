//! The log of a run: one JSON object a line, written as it happens, enough to make the report again.
//!
//! Every object has a `kind`, the name of a variant of [`Record`] in kebab case, and the fields of that variant. Energies are in eV, forces in eV/Å, stresses
//! in eV/Å³, times in seconds, and each set of error figures names its unit. Epochs count from 1 and steps (updates of the weights) from 1, so that
//! 0 is the state before training. A number that is not finite is `null`.
//!
//! A process can be killed at any byte. A line is handed to the system whole; where the last one is incomplete all the same, [`LogWriter::append`] removes
//! it and [`read`] passes over it. A run that is resumed from a checkpoint repeats what came after it: the log says [`Record::Resumed`], and [`read`] leaves out
//! what is repeated. So it is with errors that are measured once more at the same step, because it was interrupted there.

use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use fs_err::File;
use serde::{Deserialize, Serialize};

use crate::metrics::{SetErrors, SetSummary};
use crate::report::{FindingRow, ForgettingRow, Provenance};

/// One line of the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Record {
    /// A run begins.
    Start(Box<Start>),
    /// A run goes on from a checkpoint.
    Resumed(Resumed),
    /// Something that the data check found.
    Finding(FindingRow),
    /// The weights were updated.
    Step(Step),
    /// All training frames were seen once more.
    Epoch(Epoch),
    /// Errors were measured on a set of frames.
    Validation(Box<Validation>),
    /// Errors were measured on the old or the new domain of a fine-tuning.
    Forgetting(Box<ForgettingRow>),
    /// A set was evaluated for the report, with points for plots.
    Evaluation(Box<SetSummary>),
    /// Anything else worth a line.
    Event(Event),
    /// The run is over.
    End(End),
    /// A kind of a newer version.
    #[serde(other)]
    Unknown,
}

impl Record {
    /// Whether it says anew what `other` said.
    fn repeats(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Validation(a), Self::Validation(b)) => (a.step, &a.set) == (b.step, &b.set),
            (Self::Forgetting(a), Self::Forgetting(b)) => (a.step, a.phase, &a.set) == (b.step, b.phase, &b.set),
            _ => false,
        }
    }

    /// The step that it belongs to, where it belongs to one.
    fn step(&self) -> Option<u64> {
        match self {
            Self::Step(record) => Some(record.step),
            Self::Epoch(record) => Some(record.step),
            Self::Validation(record) => Some(record.step),
            Self::Forgetting(record) if record.phase != crate::report::Phase::After => Some(record.step),
            Self::Event(record) => Some(record.step),
            // What ended is going on again.
            Self::Evaluation(_) | Self::Forgetting(_) | Self::End(_) => Some(u64::MAX),
            Self::Start(_) | Self::Resumed(_) | Self::Finding(_) | Self::Unknown => None,
        }
    }
}

/// What is trained, and by what.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Start {
    /// Name of the run.
    pub name: String,
    /// Who computes what.
    pub provenance: Provenance,
    /// The resolved configuration, TOML.
    pub config: String,
}

/// From where a run goes on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Resumed {
    /// The last step that counts; those after it are computed again.
    pub step: u64,
    /// The last epoch that was complete.
    pub epoch: u64,
    /// The checkpoint.
    pub checkpoint: String,
}

/// One update of the weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Number of the update.
    pub step: u64,
    /// Epoch it belongs to.
    pub epoch: u64,
    /// Loss of its frames, before the update.
    #[serde(with = "crate::numbers")]
    pub loss: f64,
    /// What each term adds to the loss: `energy`, `forces`, `stress`, …
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "terms")]
    pub terms: Vec<(String, f64)>,
    /// Learning rate of the first group of parameters.
    pub learning_rate: f64,
    /// Norm of the gradient before clipping.
    #[serde(with = "crate::numbers")]
    pub gradient_norm: f64,
    /// Frames in it.
    pub frames: u64,
    /// Atoms in it.
    pub atoms: u64,
    /// Edges in it.
    pub edges: u64,
    /// What it took, s.
    pub seconds: f64,
}

/// One pass over the training frames.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Epoch {
    /// Number of the epoch.
    pub epoch: u64,
    /// Updates so far.
    pub step: u64,
    /// Mean of the losses of its steps, weighted with their frames.
    #[serde(with = "crate::numbers")]
    pub loss: f64,
    /// Learning rate at its end.
    pub learning_rate: f64,
    /// What training took in it, without validation, s.
    pub seconds: f64,
}

/// Errors on a set of frames in the course of training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Validation {
    /// Epochs so far.
    pub epoch: u64,
    /// Updates so far.
    pub step: u64,
    /// Name of the set.
    pub set: String,
    /// Loss on it.
    #[serde(with = "crate::numbers")]
    pub loss: f64,
    /// Whether it is the best so far.
    pub best: bool,
    /// Whether the averaged weights were used.
    pub averaged: bool,
    /// Errors.
    pub errors: SetErrors,
    /// What it took, s.
    pub seconds: f64,
}

/// Something that happened: a checkpoint, a signal, the second stage, a rollback.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Updates so far.
    pub step: u64,
    /// Epochs so far.
    pub epoch: u64,
    /// A sentence.
    pub message: String,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct End {
    /// Updates in all.
    pub step: u64,
    /// Epochs in all.
    pub epoch: u64,
    /// Why: `finished`, `interrupted`, `patience`, `time`, …
    pub reason: String,
    /// Wall time of all its parts, s.
    pub wall_seconds: f64,
}

/// Named numbers as a JSON object, in their order.
mod terms {
    use std::fmt;

    use serde::de::{MapAccess, Visitor};
    use serde::{Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(terms: &[(String, f64)], serializer: S) -> Result<S::Ok, S::Error> {
        let finite = |value: f64| value.is_finite().then_some(value);
        serializer.collect_map(terms.iter().map(|(name, value)| (name, finite(*value))))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<(String, f64)>, D::Error> {
        struct Terms;
        impl<'de> Visitor<'de> for Terms {
            type Value = Vec<(String, f64)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of numbers")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut terms = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, Option<f64>>()? {
                    terms.push((name, value.unwrap_or(f64::NAN)));
                }
                Ok(terms)
            }
        }
        deserializer.deserialize_map(Terms)
    }
}

/// Why a log cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The file system refused; the message names the path.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// There is a log already.
    #[error("{} exists already", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// A line that is not a record.
    #[error("line {line} of {}: {message}", path.display())]
    BadLine {
        /// The file.
        path: PathBuf,
        /// Its number, from 1.
        line: u64,
        /// What is wrong with it.
        message: String,
    },
    /// The end of a file that should be continued is nothing that we write.
    #[error("{} does not end like a log of a training", path.display())]
    NotALog {
        /// The file.
        path: PathBuf,
    },
}

impl LogError {
    /// What can be done about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Io(_) => None,
            Self::Exists { .. } => Some("resume the run that wrote it, or choose another folder"),
            Self::BadLine { .. } => Some("only its last line may be damaged; restore the file, or remove the line"),
            Self::NotALog { .. } => Some("move it away, or choose another folder"),
        }
    }
}

/// Writes records as they come.
#[derive(Debug)]
pub struct LogWriter {
    file: File,
    /// Where the next line begins.
    length: u64,
}

impl LogWriter {
    /// Begins a log.
    ///
    /// # Errors
    /// [`LogError::Exists`] if there is one; [`LogError::Io`].
    pub fn create(path: impl AsRef<Path>) -> Result<Self, LogError> {
        let path = path.as_ref();
        match fs_err::OpenOptions::new().write(true).create_new(true).open(path) {
            Ok(file) => Ok(Self { file, length: 0 }),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Err(LogError::Exists { path: path.to_owned() }),
            Err(error) => Err(error.into()),
        }
    }

    /// Continues a log, or begins one where there is none. A last line that was not written completely is removed.
    ///
    /// # Errors
    /// [`LogError::NotALog`] if the line before that is no JSON object either; [`LogError::Io`].
    pub fn append(path: impl AsRef<Path>) -> Result<Self, LogError> {
        let path = path.as_ref();
        let mut file = fs_err::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let end = file.metadata()?.len();
        // After a loss of power the end of a file may be there and hold zeros, so one line with its end can be damaged too.
        let mut length = line_start(&mut file, end)?;
        for damaged in [false, true] {
            let Some(last) = length.checked_sub(1) else { break };
            let start = line_start(&mut file, last)?;
            let mut line = vec![0; (last - start) as usize];
            file.seek(SeekFrom::Start(start))?;
            file.read_exact(&mut line)?;
            if serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&line).is_ok() {
                break;
            }
            if damaged {
                return Err(LogError::NotALog { path: path.to_owned() });
            }
            length = start;
        }
        if length == 0 && end > 0 {
            // A single damaged line is not reason enough to empty a file, unless it could be the beginning of ours.
            let mut first = [0];
            file.seek(SeekFrom::Start(0))?;
            file.read_exact(&mut first)?;
            if first[0] != b'{' && first[0] != 0 {
                return Err(LogError::NotALog { path: path.to_owned() });
            }
        }
        file.set_len(length)?;
        file.seek(SeekFrom::Start(length))?;
        Ok(Self { file, length })
    }

    /// Writes one line. It is with the operating system when this returns.
    ///
    /// # Errors
    /// [`LogError::Io`]; what was written of the line is taken back then.
    pub fn write(&mut self, record: &Record) -> Result<(), LogError> {
        let mut line = serde_json::to_vec(record).map_err(std::io::Error::from)?;
        line.push(b'\n');
        if let Err(error) = self.file.write_all(&line) {
            // On a full disk. If this fails as well, `append` and `read` know what to do.
            self.file.set_len(self.length).and_then(|()| self.file.seek(SeekFrom::Start(self.length))).ok();
            return Err(error.into());
        }
        self.length += line.len() as u64;
        Ok(())
    }

    /// Waits until everything is on disk, as a checkpoint does.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub fn sync(&mut self) -> Result<(), LogError> {
        Ok(self.file.sync_data()?)
    }
}

/// Where the line begins that ends before `end`: after the last line feed, or 0.
fn line_start(file: &mut File, end: u64) -> std::io::Result<u64> {
    let mut buffer = vec![0; 1 << 16];
    let mut before = end;
    while before > 0 {
        let size = before.min(buffer.len() as u64);
        let part = &mut buffer[..size as usize];
        before -= size;
        file.seek(SeekFrom::Start(before))?;
        file.read_exact(part)?;
        if let Some(place) = part.iter().rposition(|byte| *byte == b'\n') {
            return Ok(before + place as u64 + 1);
        }
    }
    Ok(0)
}

/// Reads a log: the records that count, in their order. An incomplete last line is passed over.
///
/// # Errors
/// [`LogError::BadLine`] for any other line that is not a record; [`LogError::Io`].
pub fn read(path: impl AsRef<Path>) -> Result<Vec<Record>, LogError> {
    let path = path.as_ref();
    let mut reader = BufReader::new(File::open(path)?);
    let mut records: Vec<Record> = Vec::new();
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        if reader.read_until(b'\n', &mut line)? == 0 {
            break;
        }
        match serde_json::from_slice(&line) {
            Ok(Record::Resumed(resumed)) => {
                records.retain(|record| record.step().is_none_or(|step| step <= resumed.step));
                records.push(Record::Resumed(resumed));
            }
            Ok(Record::Unknown) => {}
            Ok(record) => {
                // What is measured once more was measured after the last step.
                let recent = records.iter().rposition(|r| matches!(r, Record::Step(_))).map_or(0, |last| last + 1);
                if let Some(before) = records[recent..].iter().position(|r| record.repeats(r)) {
                    records.remove(recent + before);
                }
                records.push(record);
            }
            Err(_) if reader.fill_buf()?.is_empty() => break,
            Err(error) => {
                return Err(LogError::BadLine { path: path.to_owned(), line: number, message: error.to_string() });
            }
        }
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(step: u64, loss: f64) -> Record {
        Record::Step(Step {
            step,
            epoch: 1,
            loss,
            terms: vec![("forces".into(), 0.75 * loss), ("energy".into(), 0.25 * loss)],
            learning_rate: 0.01,
            gradient_norm: 3.5,
            frames: 5,
            atoms: 135,
            edges: 4000,
            seconds: 0.1,
        })
    }

    fn event(step: u64, message: &str) -> Record {
        Record::Event(Event { step, epoch: 1, message: message.into() })
    }

    fn finding() -> Record {
        Record::Finding(FindingRow {
            severity: crate::report::Severity::Warning,
            message: "two equal frames".into(),
            hint: Some("remove one".into()),
            frames: vec!["frame 1 of a.xyz".into()],
        })
    }

    #[test]
    fn records_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        let records = vec![
            Record::Start(Box::new(Start { name: "run".into(), config: "seed = 1\n".into(), ..Start::default() })),
            finding(),
            step(1, 0.1 + 0.2),
            event(1, "checkpoint \"a\"\nwritten"),
            Record::End(End { step: 1, epoch: 1, reason: "finished".into(), wall_seconds: 2.5 }),
        ];
        let mut writer = LogWriter::create(&path).unwrap();
        records.iter().for_each(|record| writer.write(record).unwrap());
        writer.sync().unwrap();
        assert_eq!(read(&path).unwrap(), records);
        // Each is one line, and the kinds are as documented.
        let text = std::fs::read_to_string(&path).unwrap();
        let kinds: Vec<String> =
            text.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()["kind"].as_str().unwrap().into()).collect();
        assert_eq!(kinds, ["start", "finding", "step", "event", "end"]);
        assert!(text.contains(r#""terms":{"forces":"#), "{text}");
        assert!(matches!(LogWriter::create(&path), Err(LogError::Exists { .. })));
    }

    #[test]
    fn numbers_that_json_does_not_have() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        LogWriter::create(&path).unwrap().write(&step(1, f64::NAN)).unwrap();
        let records = read(&path).unwrap();
        let Record::Step(step) = &records[0] else { panic!("{records:?}") };
        assert!(step.loss.is_nan() && step.terms.iter().all(|(_, value)| value.is_nan()));
    }

    /// Whatever byte a process is killed at, nothing but the record that was being written is lost.
    #[test]
    fn a_log_cut_anywhere_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        let mut writer = LogWriter::create(&path).unwrap();
        for i in 1..=3 {
            writer.write(&step(i, 1.0 / i as f64)).unwrap();
        }
        let whole = std::fs::read(&path).unwrap();
        for cut in 0..=whole.len() {
            let complete = whole[..cut].iter().filter(|byte| **byte == b'\n').count();
            std::fs::write(&path, &whole[..cut]).unwrap();
            let before = read(&path).unwrap();
            // All but the line feed may be there: then the line is readable, but it is written again.
            assert!(before.len() == complete || before.len() == complete + 1 && whole[cut] == b'\n', "{cut}: {before:?}");
            LogWriter::append(&path).unwrap().write(&event(9, "on")).unwrap();
            let after = read(&path).unwrap();
            assert_eq!(after.len(), complete + 1, "{cut}");
            assert_eq!(after.last(), Some(&event(9, "on")));
        }
        // Zeros at the end, as a loss of power leaves them, with a line feed among them.
        for tail in [&[0u8; 300][..], b"\0\0\0\n", b"{\"kind\":\"st\0\0\0\n\0\0"] {
            std::fs::write(&path, [&whole[..], tail].concat()).unwrap();
            LogWriter::append(&path).unwrap().write(&event(9, "on")).unwrap();
            assert_eq!(read(&path).unwrap().len(), 4);
        }
    }

    #[test]
    fn what_is_no_log_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes.txt");
        for text in ["dear diary", "dear diary\n", "dear\ndiary\n", "a\nb\nc"] {
            std::fs::write(&path, text).unwrap();
            let error = LogWriter::append(&path).unwrap_err();
            assert!(matches!(error, LogError::NotALog { .. }) && error.hint().is_some(), "{text}: {error}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
        std::fs::write(&path, "{\"kind\":\"event\",\"step\":1,\"epoch\":1,\"message\":\"a\"}\n?\n{}\n").unwrap();
        let error = read(&path).unwrap_err();
        assert!(matches!(error, LogError::BadLine { line: 2, .. }), "{error}");
        assert!(LogWriter::create(folder.path().join("no/log")).unwrap_err().to_string().contains("no/log"));
    }

    #[test]
    fn repeated_steps_count_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        let resumed = Record::Resumed(Resumed { step: 2, epoch: 0, checkpoint: "checkpoint".into() });
        let mut writer = LogWriter::create(&path).unwrap();
        let end = Record::End(End { step: 4, epoch: 1, reason: "interrupted".into(), wall_seconds: 1.0 });
        for record in [finding(), step(1, 1.0), step(2, 0.9), step(3, 0.8), event(3, "x"), step(4, 0.7), end] {
            writer.write(&record).unwrap();
        }
        let mut writer = LogWriter::append(&path).unwrap();
        for record in [resumed.clone(), step(3, 0.85), step(4, 0.75)] {
            writer.write(&record).unwrap();
        }
        assert_eq!(read(&path).unwrap(), [finding(), step(1, 1.0), step(2, 0.9), resumed, step(3, 0.85), step(4, 0.75)]);
    }

    #[test]
    fn errors_measured_once_more_count_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        let validation = |step: u64, set: &str, seconds: f64| {
            let errors = SetErrors::default();
            Record::Validation(Box::new(Validation {
                epoch: 1,
                step,
                set: set.into(),
                loss: 0.5,
                best: true,
                averaged: true,
                errors,
                seconds,
            }))
        };
        let resumed = |step: u64| Record::Resumed(Resumed { step, epoch: 1, checkpoint: "checkpoint".into() });
        let mut writer = LogWriter::create(&path).unwrap();
        // Interrupted after the errors on one set, and killed before a checkpoint was written.
        let first = [validation(0, "valid", 1.0), resumed(0), validation(0, "valid", 2.0), step(1, 1.0), validation(1, "valid", 3.0)];
        let second = [
            event(1, "x"),
            resumed(1),
            validation(1, "valid", 4.0),
            validation(1, "other", 5.0),
            step(2, 0.9),
            validation(2, "valid", 6.0),
        ];
        first.iter().chain(&second).for_each(|record| writer.write(record).unwrap());
        let expected = [&first[1..4], &second[..]].concat();
        assert_eq!(read(&path).unwrap(), expected);
    }

    #[test]
    fn kinds_of_newer_versions_are_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        std::fs::write(
            &path,
            "{\"kind\":\"weather\",\"rain\":true}\n{\"kind\":\"event\",\"step\":1,\"epoch\":1,\"message\":\"a\",\"new\":[1]}\n",
        )
        .unwrap();
        assert_eq!(read(&path).unwrap(), [event(1, "a")]);
    }
}
