//! What a fine-tuning forgets: errors on the old and the new domain before, during and after.

use std::path::{Path, PathBuf};

use super::Files;
use super::course::Course;
use crate::config::FinetuneMode;
use crate::error::TrainError;
use crate::log::{self, Record};
use crate::metrics::SetErrors;
use crate::report::{ForgettingRow, Phase, Report};
use crate::stop::Stop;

/// Name of the frames to validate on, as a domain.
const NEW: &str = "new domain";

impl Course {
    /// Measures the errors on the frames of the old domain, with averaged weights where there are any, and writes them down together with those on the
    /// frames to validate on, `of_valid`. Does nothing unless this is a fine-tuning.
    pub(super) fn forgetting(
        &mut self,
        phase: Phase,
        of_valid: Option<SetErrors>,
        stop: Stop<'_>,
    ) -> Result<Vec<ForgettingRow>, TrainError> {
        if self.config.finetune.foundation.is_none() {
            return Ok(Vec::new());
        }
        let mut sets = Vec::new();
        for (name, samples) in self.old.clone() {
            let (_, metrics) = self.averaged(|course| course.evaluate(&samples, 0..samples.len(), None, stop))?;
            sets.push((name, metrics.all().summary()));
        }
        sets.extend(of_valid.map(|errors| (NEW.to_owned(), errors)));
        let at =
            self.position.best.filter(|_| phase == Phase::After).map_or((self.position.step, self.position.epoch), |b| (b.step, b.epoch));
        let run = way(self.config.finetune.mode, self.mixture.replayed > 0);
        let mut rows = Vec::new();
        for (set, errors) in sets {
            let row = ForgettingRow { run: run.into(), set, phase, epoch: at.1, step: at.0, errors };
            self.record(Record::Forgetting(Box::new(row.clone())))?;
            rows.push(row);
        }
        Ok(rows)
    }
}

/// The way of fine-tuning, in words.
fn way(mode: FinetuneMode, replay: bool) -> &'static str {
    match (mode, replay) {
        (FinetuneMode::Plain, false) => "plain",
        (FinetuneMode::Plain, true) => "replay",
        (FinetuneMode::Frozen, false) => "frozen",
        (FinetuneMode::Frozen, true) => "frozen, replay",
        (FinetuneMode::Lora, false) => "lora",
        (FinetuneMode::Lora, true) => "lora, replay",
        (FinetuneMode::Multihead, _) => "multihead, replay",
        (FinetuneMode::Ewc, false) => "ewc",
        (FinetuneMode::Ewc, true) => "ewc, replay",
    }
}

/// Errors before fine-tuning, as a log has them; none without a log.
pub(super) fn before(path: &Path) -> Result<Vec<ForgettingRow>, TrainError> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let mut rows: Vec<ForgettingRow> = Vec::new();
    for record in log::read(path)? {
        if let Record::Forgetting(row) = record
            && row.phase == Phase::Before
        {
            rows.retain(|before| before.set != row.set);
            rows.push(*row);
        }
    }
    Ok(rows)
}

/// Errors before and after other fine-tunings, whose folders these are. The name of a folder tells ways of the same name apart.
pub(super) fn of_others(folders: &[PathBuf]) -> Result<Vec<ForgettingRow>, TrainError> {
    let mut rows = Vec::new();
    for folder in folders {
        let path = folder.join(Files::LOG);
        let found = if path.exists() { Report::from_log(&log::read(&path)?).forgetting } else { Vec::new() };
        if !found.iter().any(|row| row.phase == Phase::After) {
            return Err(TrainError::Finetune {
                what: format!("output.compare: {} has no errors after a fine-tuning", path.display()),
                hint: "name folders of fine-tunings that have ended, with finetune.forgetting or frames to validate on",
            });
        }
        let name = folder.file_name().map_or_else(|| folder.display().to_string(), |name| name.to_string_lossy().into_owned());
        let ends = found.into_iter().filter(|row| row.phase != Phase::During);
        rows.extend(ends.map(|row| ForgettingRow { run: format!("{} ({name})", row.run), ..row }));
    }
    Ok(rows)
}
