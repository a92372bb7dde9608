//! How long and in which steps is trained, what fine-tuning starts from, and where results go.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tesseral_atoms::elements;

use super::Invalid;
use crate::data::KeysConfig;

/// The course of a training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainingConfig {
    /// Passes over the training set, at most. Default 200.
    pub max_epochs: usize,
    /// Wall time after which training ends as if it were done, such as `90m`: from the start of the program, so that reading and checking the data and
    /// the first validation count, and from its own start again when it is resumed. Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_time: Option<Time>,
    /// Epochs without a better validation loss after which training ends; 0 for never. Default 0.
    pub patience: usize,
    /// Epochs from one validation to the next. Default 1.
    pub validate_every: usize,
    /// Frames that make a step. Default 10 frames.
    pub batch: BatchConfig,
    /// Frames that are validated at once. Default 10000 edges.
    pub valid_batch: BatchConfig,
    /// Batches whose gradients make a step together. Default 1.
    pub accumulate: usize,
    /// What weights and features are computed in; energies are summed in f64 in any case. Default `f32`.
    pub precision: Precision,
    /// Where it is computed. Default `cpu`.
    pub device: TrainingDevice,
    /// Seed of initial weights and of the order of frames. Default 123.
    pub seed: u64,
    /// Threads that prepare batches. Default 1.
    pub threads: usize,
    /// What happens when the loss or a gradient is not a number. Default `stop`.
    pub nan: OnNan,
    /// What the learning rate is multiplied with when `rollback` goes back to the last checkpoint. Default 0.5.
    pub rollback_factor: f64,
    /// When the state of the training is saved.
    pub checkpoint: CheckpointConfig,
}

impl Default for TrainingConfig {
    fn default() -> Self {
        Self {
            max_epochs: 200,
            max_time: None,
            patience: 0,
            validate_every: 1,
            batch: BatchConfig { frames: 10, ..BatchConfig::default() },
            valid_batch: BatchConfig { edges: 10_000, ..BatchConfig::default() },
            accumulate: 1,
            precision: Precision::F32,
            device: TrainingDevice::Cpu,
            seed: 123,
            threads: 1,
            nan: OnNan::Stop,
            rollback_factor: 0.5,
            checkpoint: CheckpointConfig::default(),
        }
    }
}

/// How much a batch holds: as many frames as fit under every limit, at least one. A limit of 0 is none. Who sets one limit sets the others to none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BatchConfig {
    /// Frames, at most.
    pub frames: usize,
    /// Atoms, at most.
    pub atoms: usize,
    /// Edges (ordered pairs within the cutoff), at most.
    pub edges: usize,
}

impl BatchConfig {
    fn check(self, key: &str) -> Result<(), Invalid> {
        if self == Self::default() {
            return Err(Invalid::new(key, "has no limit; set one of frames, atoms and edges"));
        }
        Ok(())
    }
}

/// When the state of the training is saved: whichever comes first.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CheckpointConfig {
    /// Epochs from one checkpoint to the next; 0 for none. Default 1.
    pub epochs: usize,
    /// Wall time from one checkpoint to the next, also within an epoch; 0 for none. Default 10 minutes.
    pub time: Time,
    /// How many are kept, beside the best. Default 2: if the last is damaged, one is left.
    pub keep: usize,
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        Self { epochs: 1, time: Time(600.0), keep: 2 }
    }
}

/// Floating-point types.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    /// 32 bits.
    #[default]
    F32,
    /// 64 bits.
    F64,
}

/// Where a model is trained: `cpu`, `cuda`, `cuda:1`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum TrainingDevice {
    /// All cores that the program has.
    #[default]
    Cpu,
    /// A GPU, counted from 0 as in `nvidia-smi`; needs a program built with the feature `candle-cuda`.
    Cuda(usize),
}

impl TryFrom<String> for TrainingDevice {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match (text.as_str(), text.strip_prefix("cuda:").and_then(|n| n.parse().ok())) {
            ("cpu", _) => Ok(Self::Cpu),
            ("cuda", _) => Ok(Self::Cuda(0)),
            (_, Some(ordinal)) => Ok(Self::Cuda(ordinal)),
            _ => Err(format!("`{text}` is no device; it can be cpu, cuda, or cuda:1 and so on")),
        }
    }
}

impl From<TrainingDevice> for String {
    fn from(device: TrainingDevice) -> Self {
        match device {
            TrainingDevice::Cpu => "cpu".into(),
            TrainingDevice::Cuda(ordinal) => format!("cuda:{ordinal}"),
        }
    }
}

/// What happens when a loss or gradient is NaN or infinite.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnNan {
    /// Training stops and names the frame.
    #[default]
    Stop,
    /// Training goes back to the last checkpoint with a lower learning rate.
    Rollback,
}

/// A length of time: seconds, or a text such as `2h`, `1h30m`, `45s`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Time(f64);

/// Letters of units of time and their seconds, the longest first.
const UNITS: [(char, f64); 4] = [('d', 86_400.0), ('h', 3_600.0), ('m', 60.0), ('s', 1.0)];
/// Longest time, a hundred years: what a `Duration` and a clock can hold with room to spare.
const LONGEST: f64 = 100.0 * 365.25 * 86_400.0;

impl Time {
    /// Seconds.
    pub fn seconds(self) -> f64 {
        self.0
    }

    /// As the standard library has it.
    pub fn duration(self) -> Duration {
        Duration::from_secs_f64(self.0)
    }

    /// Seconds that are a length of time.
    pub fn from_seconds(seconds: f64) -> Option<Self> {
        (0.0..=LONGEST).contains(&seconds).then_some(Self(seconds))
    }

    /// `1h30m`; units from long to short, each once.
    fn parse(text: &str) -> Option<Self> {
        let mut seconds = 0.0;
        let mut units = UNITS.iter();
        let mut rest = text.trim();
        while !rest.is_empty() {
            let end = rest.find(|c: char| c.is_ascii_alphabetic())?;
            let letter = rest[end..].chars().next()?;
            let (_, unit) = units.find(|(name, _)| *name == letter)?;
            let number: f64 = rest[..end].trim().parse().ok()?;
            if number < 0.0 {
                return None;
            }
            seconds += number * unit;
            rest = rest[end + 1..].trim_start();
        }
        if text.trim().is_empty() { None } else { Self::from_seconds(seconds) }
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Whole seconds in units, others as they are: what is read back is the same.
        if self.0.fract() != 0.0 || self.0 == 0.0 {
            return write!(f, "{}s", self.0);
        }
        let mut rest = self.0;
        for (name, unit) in UNITS {
            let count = (rest / unit).floor();
            if count > 0.0 {
                write!(f, "{count}{name}")?;
                rest -= count * unit;
            }
        }
        Ok(())
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        use serde::de::{Error, Unexpected, Visitor};

        struct TimeVisitor;

        impl Visitor<'_> for TimeVisitor {
            type Value = Time;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a time: seconds, or a text such as \"1h30m\"")
            }

            fn visit_f64<E: Error>(self, v: f64) -> Result<Time, E> {
                Time::from_seconds(v).ok_or_else(|| E::invalid_value(Unexpected::Float(v), &self))
            }

            fn visit_i64<E: Error>(self, v: i64) -> Result<Time, E> {
                Time::from_seconds(v as f64).ok_or_else(|| E::invalid_value(Unexpected::Signed(v), &self))
            }

            fn visit_u64<E: Error>(self, v: u64) -> Result<Time, E> {
                Time::from_seconds(v as f64).ok_or_else(|| E::invalid_value(Unexpected::Unsigned(v), &self))
            }

            fn visit_str<E: Error>(self, v: &str) -> Result<Time, E> {
                Time::parse(v).ok_or_else(|| E::invalid_value(Unexpected::Str(v), &self))
            }
        }

        d.deserialize_any(TimeVisitor)
    }
}

/// What a training starts from other than random weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FinetuneConfig {
    /// The model to start from: a file of this or another package, or the name of a known model. Default none: training from scratch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub foundation: Option<String>,
    /// How its knowledge is kept. Default `plain`.
    pub mode: FinetuneMode,
    /// Patterns of parameters that stay as they are (`frozen`): names or their beginnings, `*` for any part between two dots. Default none.
    pub freeze: Vec<String>,
    /// Low-rank updates of the linear maps (`lora`).
    pub lora: LoraConfig,
    /// Frames of the old domain that are trained along (`multihead`, and any other mode where files are given).
    pub replay: ReplayConfig,
    /// Weight of the quadratic penalty of `ewc`. Default 1.
    pub ewc_weight: f64,
    /// Head of the new data (`multihead`). Default `finetuned`.
    pub head: String,
    /// Whether energies of isolated atoms are estimated anew from the data. Default true.
    pub reestimate_e0s: bool,
    /// What is done about elements of the training frames that the model does not know. Default `refuse`.
    pub new_elements: NewElements,
    /// Files of the old domain on which forgetting is measured before, during and after. Default none.
    pub forgetting: Vec<PathBuf>,
    /// Head of the old domain: of frames in `replay.files` and `forgetting` that name none, and the one that `multihead` copies. Default: the only one,
    /// or the one called `default`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old_head: Option<String>,
    /// Under which keys labels of the old domain are looked for. Default the usual ones.
    pub keys: KeysConfig,
}

impl Default for FinetuneConfig {
    fn default() -> Self {
        Self {
            foundation: None,
            mode: FinetuneMode::Plain,
            freeze: Vec::new(),
            lora: LoraConfig::default(),
            replay: ReplayConfig::default(),
            ewc_weight: 1.0,
            head: "finetuned".into(),
            reestimate_e0s: true,
            new_elements: NewElements::Refuse,
            forgetting: Vec::new(),
            old_head: None,
            keys: KeysConfig::default(),
        }
    }
}

/// How fine-tuning keeps what a model knows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FinetuneMode {
    /// All weights are trained.
    #[default]
    Plain,
    /// Some stay as they are.
    Frozen,
    /// Low-rank updates are trained, and merged in the end.
    Lora,
    /// Old data are trained along, under a head of their own.
    Multihead,
    /// Weights are held where they matter for the old domain (elastic weight consolidation).
    Ewc,
}

/// Elements of the training frames that the model to start from does not know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum NewElements {
    /// `"refuse"`: they are an error.
    #[default]
    Refuse,
    /// `"mean"`: they are added to the model, with the mean over its elements in the place of every weight that depends on the element.
    Mean,
    /// `{ like = { Au = "Ag" } }`: they are added with copies of the weights of an element that the model knows, by chemical symbol.
    Like(BTreeMap<String, String>),
}

impl Serialize for NewElements {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Refuse => s.serialize_str("refuse"),
            Self::Mean => s.serialize_str("mean"),
            Self::Like(table) => s.collect_map([("like", table)]),
        }
    }
}

impl<'de> Deserialize<'de> for NewElements {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        use serde::de::value::MapAccessDeserializer;
        use serde::de::{Error, MapAccess, Unexpected, Visitor};

        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            like: BTreeMap<String, String>,
        }

        struct WordOrTable;

        impl<'de> Visitor<'de> for WordOrTable {
            type Value = NewElements;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"refuse\", \"mean\", or a table such as { like = { Au = \"Ag\" } }")
            }

            fn visit_str<E: Error>(self, word: &str) -> Result<NewElements, E> {
                match word {
                    "refuse" => Ok(NewElements::Refuse),
                    "mean" => Ok(NewElements::Mean),
                    _ => Err(E::invalid_value(Unexpected::Str(word), &self)),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<NewElements, A::Error> {
                Ok(NewElements::Like(Table::deserialize(MapAccessDeserializer::new(map))?.like))
            }
        }

        d.deserialize_any(WordOrTable)
    }
}

impl NewElements {
    fn check(&self) -> Result<(), Invalid> {
        const KEY: &str = "finetune.new_elements.like";
        let Self::Like(table) = self else { return Ok(()) };
        if table.is_empty() {
            return Err(Invalid::new(KEY, "names no element"));
        }
        let number = |symbol: &str| elements::atomic_number(symbol).filter(|&z| z > 0);
        let mut seen = BTreeMap::new();
        for (new, old) in table {
            let key = format!("{KEY}.{new}");
            let Some(z) = number(new) else {
                return Err(Invalid::new(key, format!("is for `{new}`, which is not a chemical symbol")));
            };
            let Some(like) = number(old) else {
                return Err(Invalid::new(key, format!("is `{old}`, which is not a chemical symbol")));
            };
            if z == like {
                return Err(Invalid::new(key, "is the element itself; name one that the model knows"));
            }
            if let Some(other) = seen.insert(z, new) {
                return Err(Invalid::new(key, format!("is the same element as `{other}`")));
            }
        }
        Ok(())
    }
}

/// Low-rank updates W + (alpha / rank) A B.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoraConfig {
    /// Rank. Default 4.
    pub rank: usize,
    /// Factor alpha. Default 4.
    pub alpha: f64,
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self { rank: 4, alpha: 4.0 }
    }
}

/// Frames of the old domain that are trained along.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReplayConfig {
    /// Their files. Default none.
    pub files: Vec<PathBuf>,
    /// Frames of them for each new frame in an epoch. Default 1. With `ewc`, 0 is possible too: they only say which weights matter then.
    pub ratio: f64,
    /// Where their labels come from. Default `data`.
    pub labels: ReplayLabels,
}

/// Where the labels of frames of the old domain come from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReplayLabels {
    /// Their files.
    #[default]
    Data,
    /// The model that the fine-tuning starts from: what it says there is what it shall say afterwards. Structures are enough for that.
    Foundation,
}

impl Default for ReplayConfig {
    fn default() -> Self {
        Self { files: Vec::new(), ratio: 1.0, labels: ReplayLabels::default() }
    }
}

/// Where results go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OutputConfig {
    /// Folder of the run: model, checkpoints, log, report, and this configuration in full. Default `run`.
    pub directory: PathBuf,
    /// Name of the model. Default `model`.
    pub name: String,
    /// Whether `report.html` is written. Default true.
    pub report: bool,
    /// Whether `log.jsonl` is written. Default true.
    pub log: bool,
    /// Whether event files for TensorBoard are written, into the folder `tensorboard` there. Default false.
    pub tensorboard: bool,
    /// Folders of other fine-tunings, whose errors before and after stand in the report beside those of this one. Default none.
    pub compare: Vec<PathBuf>,
}

impl Default for OutputConfig {
    fn default() -> Self {
        Self { directory: "run".into(), name: "model".into(), report: true, log: true, tensorboard: false, compare: Vec::new() }
    }
}

fn at_least_one(key: &str, value: usize) -> Result<(), Invalid> {
    if value == 0 { Err(Invalid::new(key, "is 0; at least 1 is needed")) } else { Ok(()) }
}

fn positive(key: &str, value: f64) -> Result<(), Invalid> {
    if value > 0.0 && value.is_finite() { Ok(()) } else { Err(Invalid::new(key, format!("is {value}, not a positive number"))) }
}

impl TrainingConfig {
    pub(super) fn check(&self) -> Result<(), Invalid> {
        at_least_one("training.max_epochs", self.max_epochs)?;
        at_least_one("training.validate_every", self.validate_every)?;
        at_least_one("training.accumulate", self.accumulate)?;
        at_least_one("training.threads", self.threads)?;
        at_least_one("training.checkpoint.keep", self.checkpoint.keep)?;
        self.batch.check("training.batch")?;
        self.valid_batch.check("training.valid_batch")?;
        if self.max_time.is_some_and(|t| t.seconds() == 0.0) {
            return Err(Invalid::new("training.max_time", "is 0; leave it out for no limit"));
        }
        if !(self.rollback_factor > 0.0 && self.rollback_factor <= 1.0) {
            return Err(Invalid::new("training.rollback_factor", format!("is {}, not between 0 and 1", self.rollback_factor)));
        }
        if self.nan == OnNan::Rollback && self.checkpoint.epochs == 0 && self.checkpoint.time.seconds() == 0.0 {
            return Err(Invalid::new("training.nan", "is `rollback`, but there are no checkpoints to go back to"));
        }
        if i64::try_from(self.seed).is_err() {
            return Err(Invalid::new("training.seed", format!("is {}, above {}", self.seed, i64::MAX)));
        }
        Ok(())
    }
}

impl FinetuneConfig {
    pub(super) fn check(&self) -> Result<(), Invalid> {
        if self.head.is_empty() || self.head.chars().any(char::is_control) {
            return Err(Invalid::new("finetune.head", format!("is {:?}, which is not a name", self.head)));
        }
        // The rest is checked without a foundation too: the command line may name it later.
        if self.foundation.as_ref().is_some_and(|foundation| foundation.trim().is_empty()) {
            return Err(Invalid::new("finetune.foundation", "is empty"));
        }
        self.new_elements.check()?;
        if self.mode == FinetuneMode::Frozen && self.freeze.is_empty() {
            return Err(Invalid::new("finetune.freeze", "names nothing, but `finetune.mode` is `frozen`"));
        }
        if self.mode != FinetuneMode::Frozen && !self.freeze.is_empty() {
            return Err(Invalid::new("finetune.freeze", "names parameters, but they stay as they are only if `finetune.mode` is `frozen`"));
        }
        at_least_one("finetune.lora.rank", self.lora.rank)?;
        positive("finetune.lora.alpha", self.lora.alpha)?;
        if !(self.mode == FinetuneMode::Ewc && self.replay.ratio == 0.0) {
            positive("finetune.replay.ratio", self.replay.ratio)?;
        }
        if self.mode == FinetuneMode::Ewc && self.replay.labels == ReplayLabels::Foundation {
            let reason =
                "is `foundation`, but `ewc` takes from the errors of the model which of its weights matter: against itself it has none";
            return Err(Invalid::new("finetune.replay.labels", reason));
        }
        positive("finetune.ewc_weight", self.ewc_weight)?;
        if matches!(self.mode, FinetuneMode::Multihead | FinetuneMode::Ewc) && self.replay.files.is_empty() {
            return Err(Invalid::new("finetune.replay.files", "names nothing, but this `finetune.mode` needs frames of the old domain"));
        }
        Ok(())
    }
}

impl OutputConfig {
    pub(super) fn check(&self) -> Result<(), Invalid> {
        if self.directory.as_os_str().is_empty() {
            return Err(Invalid::new("output.directory", "is empty"));
        }
        // It becomes the name of a file.
        if self.name.is_empty() || self.name.starts_with('.') || self.name.chars().any(|c| c.is_control() || "/\\:".contains(c)) {
            return Err(Invalid::new("output.name", format!("is {:?}, which cannot be the name of a file", self.name)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_written() {
        let seconds = |text: &str| Time::parse(text).map(Time::seconds);
        assert_eq!(seconds("2h"), Some(7200.0));
        assert_eq!(seconds("1h30m"), Some(5400.0));
        assert_eq!(seconds(" 1d 0.5h 3s "), Some(86_400.0 + 1803.0));
        assert_eq!(seconds("1.5s"), Some(1.5));
        for wrong in ["", "5", "h", "1m1h", "1h1h", "-1h", "2 weeks", "1e9d", "nan s", "3ß"] {
            assert_eq!(seconds(wrong), None, "{wrong}");
        }
        for seconds in [0.0, 1.5, 59.0, 600.0, 5400.0, 90_061.0] {
            let text = Time(seconds).to_string();
            assert_eq!(Time::parse(&text), Some(Time(seconds)), "{text}");
        }
        assert_eq!(Time(5400.0).to_string(), "1h30m");
    }
}
