//! Learning rates over time, as factors on what the optimiser is configured with.
//!
//! A schedule is a function of the steps and epochs that are done and, for the plateau, of the validation losses seen so far. The formulae are
//! those of `torch.optim.lr_scheduler`; powers and cosines are computed in closed form, so that a resumed training has the same factors to the bit.

use serde::{Deserialize, Serialize};

/// Which schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScheduleKind {
    /// Always 1.
    Constant,
    /// Lowered when the validation loss has stopped falling.
    #[default]
    Plateau,
    /// γᵗ.
    Exponential,
    /// Half a cosine from 1 down to a minimum, with or without restarts.
    Cosine,
}

/// What time is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// Steps of the optimiser.
    Step,
    /// Passes over the training data.
    #[default]
    Epoch,
}

/// How the learning rate changes. The defaults are those of `mace_run_train`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScheduleConfig {
    /// Which schedule. Default: plateau.
    pub kind: ScheduleKind,
    /// What `exponential` and `cosine` count. Default: epoch.
    pub unit: Unit,
    /// Settings of `plateau`.
    pub plateau: PlateauConfig,
    /// Settings of `exponential`.
    pub exponential: ExponentialConfig,
    /// Settings of `cosine`.
    pub cosine: CosineConfig,
    /// A linear rise at the beginning, in front of any schedule.
    pub warm_up: WarmUpConfig,
}

/// What an improvement is measured with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ThresholdMode {
    /// loss < best · (1 − threshold)
    #[default]
    Relative,
    /// loss < best − threshold
    Absolute,
}

/// `ReduceLROnPlateau`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PlateauConfig {
    /// What the learning rate is multiplied with. Default: 0.8.
    pub factor: f64,
    /// Validations in a row without improvement that are tolerated; the next one lowers the learning rate. Default: 50.
    pub patience: u64,
    /// How much lower the loss must be to count as improved. Default: 1e-4.
    pub threshold: f64,
    /// Whether the threshold is relative or absolute. Default: relative.
    pub threshold_mode: ThresholdMode,
    /// Validations after a reduction that are not counted. Default: 0.
    pub cooldown: u64,
    /// The learning rate (without warm-up) is never lowered below this. Default: 0.
    pub minimum_learning_rate: f64,
}

impl Default for PlateauConfig {
    fn default() -> Self {
        Self {
            factor: 0.8,
            patience: 50,
            threshold: 1e-4,
            threshold_mode: ThresholdMode::Relative,
            cooldown: 0,
            minimum_learning_rate: 0.0,
        }
    }
}

/// `ExponentialLR`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExponentialConfig {
    /// γ, the factor of one unit of time. Default: 0.9993.
    pub gamma: f64,
}

impl Default for ExponentialConfig {
    fn default() -> Self {
        Self { gamma: 0.9993 }
    }
}

/// `CosineAnnealingLR`, and `CosineAnnealingWarmRestarts` (arXiv:1608.03983).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CosineConfig {
    /// Length of the first half cosine in units of time. Without it, the rest of the training after the warm-up.
    pub period: Option<u64>,
    /// The factor at its end. Default: 0.
    pub minimum: f64,
    /// Whether it begins anew at its end; otherwise the minimum stays. Default: false.
    pub restarts: bool,
    /// What the period is multiplied with at each restart. Default: 1.
    pub period_factor: u64,
}

impl Default for CosineConfig {
    fn default() -> Self {
        Self { period: None, minimum: 0.0, restarts: false, period_factor: 1 }
    }
}

/// `LinearLR` from `start` to 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WarmUpConfig {
    /// How long it takes; 0 for none. Default: 0.
    pub length: u64,
    /// What its length is counted in. The schedule that follows begins at its end if it counts the same, and runs beside it otherwise. Default: step.
    pub unit: Unit,
    /// The factor of the first step. Default: 0.01.
    pub start: f64,
}

impl Default for WarmUpConfig {
    fn default() -> Self {
        Self { length: 0, unit: Unit::Step, start: 0.01 }
    }
}

/// A setting that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// A value that cannot be.
    #[error("schedule.{key}: {reason}")]
    Config {
        /// The setting.
        key: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// A cosine over the rest of a training whose length is not known.
    #[error("schedule.cosine.period is not set, and the length of the training in {unit}s is not known")]
    UnknownLength {
        /// What the cosine counts.
        unit: &'static str,
    },
}

impl ScheduleError {
    /// What to do about it, where there is something.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::UnknownLength { .. } => Some("set schedule.cosine.period, or schedule.unit = \"epoch\""),
            Self::Config { .. } => None,
        }
    }
}

impl ScheduleConfig {
    /// Whether the learning rate at some moment depends on how long the training will be.
    pub fn depends_on_length(&self) -> bool {
        self.kind == ScheduleKind::Cosine && self.cosine.period.is_none()
    }
}

/// How long the training will be, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Horizon {
    /// Steps of the optimiser.
    pub steps: Option<u64>,
    /// Epochs.
    pub epochs: Option<u64>,
}

/// What a schedule remembers, to be saved with a checkpoint. All of its numbers are finite, so that JSON keeps them exactly.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScheduleState {
    /// Product of the reductions so far.
    pub reduction: f64,
    /// The lowest validation loss; `None` before the first finite one.
    pub best: Option<f64>,
    /// Validations in a row without improvement.
    pub bad: u64,
    /// Validations until they count again.
    pub cooldown: u64,
}

impl Default for ScheduleState {
    fn default() -> Self {
        Self { reduction: 1.0, best: None, bad: 0, cooldown: 0 }
    }
}

/// Reductions by less than this are not made, as in PyTorch.
const SMALLEST_REDUCTION: f64 = 1e-8;

/// A schedule under way.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    config: ScheduleConfig,
    /// Learning rate of the configuration; minima are relative to it.
    learning_rate: f64,
    /// Length of the first half cosine.
    period: u64,
    state: ScheduleState,
}

impl Schedule {
    /// A schedule at its beginning.
    ///
    /// # Errors
    /// If a setting makes no sense or a cosine does not know its length.
    pub fn new(config: &ScheduleConfig, learning_rate: f64, horizon: Horizon) -> Result<Self, ScheduleError> {
        let require = |good: bool, key, reason: &str| {
            if good { Ok(()) } else { Err(ScheduleError::Config { key, reason: reason.to_owned() }) }
        };
        let ScheduleConfig { plateau, exponential, cosine, warm_up, .. } = config;
        let unit_interval = |x: f64| (0.0..=1.0).contains(&x);
        require(plateau.factor > 0.0 && plateau.factor < 1.0, "plateau.factor", "it is not between 0 and 1")?;
        require(unit_interval(plateau.threshold), "plateau.threshold", "it is not between 0 and 1")?;
        let minimum = plateau.minimum_learning_rate;
        require(minimum >= 0.0 && minimum.is_finite(), "plateau.minimum_learning_rate", "it is not a number from 0 upwards")?;
        require(exponential.gamma > 0.0 && exponential.gamma <= 1.0, "exponential.gamma", "it is not above 0 and at most 1")?;
        require(unit_interval(cosine.minimum), "cosine.minimum", "it is not between 0 and 1")?;
        require(cosine.period != Some(0), "cosine.period", "it must be at least 1")?;
        require(cosine.period_factor > 0, "cosine.period_factor", "it must be at least 1")?;
        require(unit_interval(warm_up.start), "warm_up.start", "it is not between 0 and 1")?;
        let period = match (config.kind, cosine.period, config.unit) {
            (ScheduleKind::Cosine, Some(period), _) => period,
            (ScheduleKind::Cosine, None, unit) => {
                let (length, unit_name) = match unit {
                    Unit::Step => (horizon.steps, "step"),
                    Unit::Epoch => (horizon.epochs, "epoch"),
                };
                let length = length.ok_or(ScheduleError::UnknownLength { unit: unit_name })?;
                let before = if warm_up.unit == unit { warm_up.length } else { 0 };
                length.saturating_sub(before).max(1)
            }
            _ => 1,
        };
        Ok(Self { config: config.clone(), learning_rate, period, state: ScheduleState::default() })
    }

    /// What the learning rate of the configuration is multiplied with in the step that follows `step` steps and `epoch` whole epochs.
    pub fn factor(&self, step: u64, epoch: u64) -> f64 {
        let elapsed = |unit| if unit == Unit::Step { step } else { epoch };
        let warm_up = &self.config.warm_up;
        let rise = if warm_up.length == 0 {
            1.0
        } else {
            let done = elapsed(warm_up.unit).min(warm_up.length) as f64 / warm_up.length as f64;
            warm_up.start + (1.0 - warm_up.start) * done
        };
        let before = if warm_up.unit == self.config.unit { warm_up.length } else { 0 };
        let t = elapsed(self.config.unit).saturating_sub(before);
        rise * match self.config.kind {
            ScheduleKind::Constant => 1.0,
            ScheduleKind::Plateau => self.state.reduction,
            ScheduleKind::Exponential => self.config.exponential.gamma.powf(t as f64),
            ScheduleKind::Cosine => self.cosine(t),
        }
    }

    /// η_min + (1 − η_min)(1 + cos π t/T)/2
    fn cosine(&self, t: u64) -> f64 {
        let config = &self.config.cosine;
        let (mut t, mut period) = (t, self.period);
        if config.restarts {
            if config.period_factor == 1 {
                t %= period;
            }
            while t >= period {
                t -= period;
                period = period.saturating_mul(config.period_factor);
            }
        }
        let phase = std::f64::consts::PI * t.min(period) as f64 / period as f64;
        config.minimum + (1.0 - config.minimum) * 0.5 * (1.0 + phase.cos())
    }

    /// Takes note of a validation loss, in whatever unit. Returns whether it lowered the learning rate; only the plateau does that. A loss that is
    /// not a number is no improvement.
    pub fn observe(&mut self, loss: f64) -> bool {
        let plateau = &self.config.plateau;
        let state = &mut self.state;
        let improved = match (state.best, plateau.threshold_mode) {
            (None, _) => loss < f64::INFINITY,
            (Some(best), ThresholdMode::Relative) => loss < best * (1.0 - plateau.threshold),
            (Some(best), ThresholdMode::Absolute) => loss < best - plateau.threshold,
        };
        if improved && loss.is_finite() {
            state.best = Some(loss);
            state.bad = 0;
        } else {
            state.bad += 1;
        }
        if state.cooldown > 0 {
            state.cooldown -= 1;
            state.bad = 0;
        }
        if state.bad <= plateau.patience {
            return false;
        }
        state.cooldown = plateau.cooldown;
        state.bad = 0;
        if self.config.kind != ScheduleKind::Plateau {
            return false;
        }
        let new = (state.reduction * plateau.factor).max(plateau.minimum_learning_rate / self.learning_rate);
        let lowered = (state.reduction - new) * self.learning_rate > SMALLEST_REDUCTION;
        if lowered {
            state.reduction = new;
        }
        lowered
    }

    /// What it remembers.
    pub fn state(&self) -> &ScheduleState {
        &self.state
    }

    /// Goes on from a saved state.
    ///
    /// # Errors
    /// If a number in it cannot be.
    pub fn load_state(&mut self, state: ScheduleState) -> Result<(), ScheduleError> {
        if !(state.reduction > 0.0 && state.reduction <= 1.0 && state.best.is_none_or(f64::is_finite)) {
            return Err(ScheduleError::Config { key: "state", reason: format!("{state:?} cannot be the state of a schedule") });
        }
        self.state = state;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optimizer::tests::golden;

    fn numbers(value: &serde_json::Value) -> Vec<f64> {
        value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
    }

    fn close(found: &[f64], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        for (t, (x, y)) in found.iter().zip(expected).enumerate() {
            assert!((x - y).abs() <= 1e-13 * y.abs().max(1e-6), "{t}: {x} {y}");
        }
    }

    #[test]
    fn plateaus_of_torch() {
        for case in golden()["plateau"].as_array().unwrap() {
            let n = |key: &str| case[key].as_u64().unwrap();
            let x = |key: &str| case[key].as_f64().unwrap();
            let mode = if case["threshold_mode"] == "rel" { ThresholdMode::Relative } else { ThresholdMode::Absolute };
            let plateau = PlateauConfig {
                factor: x("factor"),
                patience: n("patience"),
                threshold: x("threshold"),
                threshold_mode: mode,
                cooldown: n("cooldown"),
                minimum_learning_rate: x("min_lr"),
            };
            let config = ScheduleConfig { plateau, ..ScheduleConfig::default() };
            let rate = x("learning_rate");
            let mut schedule = Schedule::new(&config, rate, Horizon::default()).unwrap();
            let losses = case["losses"].as_array().unwrap();
            let mut found = Vec::new();
            for (epoch, loss) in losses.iter().enumerate() {
                let before = schedule.factor(0, epoch as u64);
                // NaN is null in the file.
                let lowered = schedule.observe(loss.as_f64().unwrap_or(f64::NAN));
                let after = schedule.factor(0, epoch as u64 + 1);
                assert_eq!(lowered, after < before);
                found.push(rate * after);
                // Saved and loaded in the middle of everything.
                let text = serde_json::to_string(schedule.state()).unwrap();
                let mut other = Schedule::new(&config, rate, Horizon::default()).unwrap();
                other.load_state(serde_json::from_str(&text).unwrap()).unwrap();
                assert_eq!(other, schedule);
                schedule = other;
            }
            let expected = numbers(&case["rates"]);
            assert!(expected.first() > expected.last(), "the case tests nothing");
            close(&found, &expected);
        }
    }

    #[test]
    fn closed_forms_against_torch() {
        let at = |config: ScheduleConfig, rates: &serde_json::Value, horizon| {
            let schedule = Schedule::new(&config, 0.01, horizon).unwrap();
            let expected = numbers(rates);
            let found: Vec<f64> = (0..expected.len() as u64)
                .map(|t| 0.01 * if config.unit == Unit::Step { schedule.factor(t, 0) } else { schedule.factor(0, t) })
                .collect();
            close(&found, &expected);
        };
        let golden = golden();
        let base = ScheduleConfig { kind: ScheduleKind::Exponential, ..ScheduleConfig::default() };
        at(base.clone(), &golden["exponential"], Horizon::default());
        let cosine = |period, minimum, restarts, period_factor| ScheduleConfig {
            kind: ScheduleKind::Cosine,
            unit: Unit::Step,
            cosine: CosineConfig { period, minimum, restarts, period_factor },
            ..base.clone()
        };
        at(cosine(None, 0.1, false, 1), &golden["cosine"], Horizon { steps: Some(20), epochs: None });
        at(cosine(Some(4), 0.05, true, 1), &golden["restarts_1"], Horizon::default());
        at(cosine(Some(3), 0.0, true, 2), &golden["restarts_2"], Horizon::default());
        // SequentialLR of a linear rise and a cosine.
        let warm_up = WarmUpConfig { length: 5, unit: Unit::Step, start: 0.2 };
        let config = ScheduleConfig { warm_up, ..cosine(None, 0.0, false, 1) };
        at(config, &golden["warm_up_cosine"], Horizon { steps: Some(15), epochs: None });
    }

    #[test]
    fn after_its_end_a_cosine_stays_down() {
        let config = ScheduleConfig {
            kind: ScheduleKind::Cosine,
            cosine: CosineConfig { minimum: 0.25, ..CosineConfig::default() },
            ..ScheduleConfig::default()
        };
        let schedule = Schedule::new(&config, 0.01, Horizon { steps: None, epochs: Some(10) }).unwrap();
        assert_eq!([0, 10, 11, 1000].map(|epoch| schedule.factor(0, epoch)), [1.0, 0.25, 0.25, 0.25]);
        let config = ScheduleConfig { unit: Unit::Step, ..config };
        let error = Schedule::new(&config, 0.01, Horizon { steps: None, epochs: Some(10) }).unwrap_err();
        assert!(error.to_string().contains("steps") && error.hint().is_some());
    }

    #[test]
    fn a_warm_up_in_steps_runs_beside_a_schedule_of_epochs() {
        let config = ScheduleConfig {
            kind: ScheduleKind::Exponential,
            exponential: ExponentialConfig { gamma: 0.5 },
            warm_up: WarmUpConfig { length: 10, start: 0.0, ..WarmUpConfig::default() },
            ..ScheduleConfig::default()
        };
        let schedule = Schedule::new(&config, 0.01, Horizon::default()).unwrap();
        assert_eq!(schedule.factor(5, 0), 0.5);
        assert_eq!(schedule.factor(9, 1), 0.5 * 0.9);
        assert_eq!(schedule.factor(40, 3), 0.125);
    }

    #[test]
    fn settings_are_checked() {
        let refused = |text: &str| {
            let config: ScheduleConfig = toml::from_str(text).unwrap();
            match Schedule::new(&config, 0.01, Horizon::default()) {
                Err(ScheduleError::Config { key, .. }) => key,
                other => panic!("{text}: {other:?}"),
            }
        };
        assert_eq!(refused("plateau.factor = 1.0"), "plateau.factor");
        assert_eq!(refused("exponential.gamma = 1.5"), "exponential.gamma");
        assert_eq!(refused("cosine.period = 0"), "cosine.period");
        assert_eq!(refused("warm_up.start = -0.5"), "warm_up.start");
        assert!(toml::from_str::<ScheduleConfig>("plateau.patiense = 3").is_err());
        let mut schedule = Schedule::new(&ScheduleConfig::default(), 0.01, Horizon::default()).unwrap();
        assert!(schedule.load_state(ScheduleState { reduction: 0.0, ..ScheduleState::default() }).is_err());
    }
}
