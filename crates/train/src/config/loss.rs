//! What is minimised.

use serde::{Deserialize, Serialize};

use super::Invalid;

/// The loss: a sum of terms for energies, forces and stresses, each an average of a penalty of the deviation.
///
/// Defaults are those of `mace_run_train` (weighted mean squares) but for the stress, which has weight 0 there too until it is asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LossConfig {
    /// How deviations are penalised. Default `mse`.
    pub kind: LossKind,
    /// Factors of the terms.
    pub weights: LossWeights,
    /// Whether energies are compared per atom; otherwise whole structures are. Default true.
    pub energy_per_atom: bool,
    /// Where `huber` and `universal` turn from squares to absolute values, in eV (per atom), eV/Å and eV/Å³. Default 0.01.
    pub huber_delta: f64,
    /// A second stage with other weights and another learning rate. Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stage_two: Option<StageTwoConfig>,
}

impl Default for LossConfig {
    fn default() -> Self {
        Self { kind: LossKind::Mse, weights: LossWeights::default(), energy_per_atom: true, huber_delta: 0.01, stage_two: None }
    }
}

/// How deviations are penalised.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LossKind {
    /// Mean squares.
    #[default]
    Mse,
    /// Huber: squares for small deviations, absolute values for large ones.
    Huber,
    /// MACE's universal loss: Huber, with a delta that shrinks where reference forces are large (model definitions §2.13).
    Universal,
    /// Absolute values of energies and stresses, lengths of the deviations of forces.
    #[serde(rename = "l1l2")]
    L1L2,
}

/// Factors of the terms of the loss.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LossWeights {
    /// Of the energy. Default 1.
    pub energy: f64,
    /// Of the forces. Default 100.
    pub forces: f64,
    /// Of the stress. Default 0.
    pub stress: f64,
}

impl Default for LossWeights {
    fn default() -> Self {
        Self { energy: 1.0, forces: 100.0, stress: 0.0 }
    }
}

/// The second stage of a training: weights that favour energies, a smaller learning rate (`--swa` of `mace_run_train`).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StageTwoConfig {
    /// First epoch of the stage, from 0. Default three quarters of `training.max_epochs`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_epoch: Option<usize>,
    /// Factors of the terms. Default energy 1000, forces 100, stress 0.
    pub weights: StageTwoWeights,
    /// Learning rate from then on. Default 0.001.
    pub learning_rate: f64,
}

impl Default for StageTwoConfig {
    fn default() -> Self {
        Self { start_epoch: None, weights: StageTwoWeights::default(), learning_rate: 1e-3 }
    }
}

impl StageTwoConfig {
    /// First epoch of the stage in a training of at most `max_epochs`.
    pub fn first_epoch(&self, max_epochs: usize) -> usize {
        self.start_epoch.unwrap_or(max_epochs - max_epochs.div_ceil(4))
    }
}

/// [`LossWeights`] with the defaults of the second stage.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StageTwoWeights {
    /// Of the energy. Default 1000.
    pub energy: f64,
    /// Of the forces. Default 100.
    pub forces: f64,
    /// Of the stress. Default 0.
    pub stress: f64,
}

impl Default for StageTwoWeights {
    fn default() -> Self {
        Self { energy: 1000.0, forces: 100.0, stress: 0.0 }
    }
}

impl From<StageTwoWeights> for LossWeights {
    fn from(w: StageTwoWeights) -> Self {
        Self { energy: w.energy, forces: w.forces, stress: w.stress }
    }
}

impl LossWeights {
    fn check(self, key: &str) -> Result<(), Invalid> {
        let parts = [("energy", self.energy), ("forces", self.forces), ("stress", self.stress)];
        for (part, weight) in parts {
            if !(weight >= 0.0 && weight.is_finite()) {
                return Err(Invalid::new(format!("{key}.{part}"), format!("is {weight}; a weight is a number from 0 up")));
            }
        }
        if parts.iter().all(|(_, weight)| *weight == 0.0) {
            return Err(Invalid::new(key, "are all 0: nothing would be learned"));
        }
        Ok(())
    }
}

impl LossConfig {
    pub(super) fn check(&self, max_epochs: usize) -> Result<(), Invalid> {
        self.weights.check("loss.weights")?;
        if !(self.huber_delta > 0.0 && self.huber_delta.is_finite()) {
            return Err(Invalid::new("loss.huber_delta", format!("is {}, not a positive number", self.huber_delta)));
        }
        let Some(stage) = &self.stage_two else { return Ok(()) };
        LossWeights::from(stage.weights).check("loss.stage_two.weights")?;
        if !(stage.learning_rate > 0.0 && stage.learning_rate.is_finite()) {
            return Err(Invalid::new("loss.stage_two.learning_rate", format!("is {}, not a positive number", stage.learning_rate)));
        }
        match stage.start_epoch {
            Some(epoch) if epoch >= max_epochs => {
                Err(Invalid::new("loss.stage_two.start_epoch", format!("is {epoch}, but training ends after {max_epochs} epochs")))
            }
            _ => Ok(()),
        }
    }
}
