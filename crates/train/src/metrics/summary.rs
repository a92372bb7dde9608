//! Figures of errors, as they are logged and shown.

use serde::{Deserialize, Serialize};

use super::{Bin, Errors, Outlier, ParityPoint, Quantity};

/// Figures of the errors of one quantity. All but `relative_rmse` and `r_squared` are in `unit`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ErrorSummary {
    /// Number of values compared.
    pub values: u64,
    /// Mean absolute error.
    #[serde(with = "crate::numbers")]
    pub mae: f64,
    /// Root-mean-square error.
    #[serde(with = "crate::numbers")]
    pub rmse: f64,
    /// Largest absolute error.
    #[serde(with = "crate::numbers")]
    pub largest: f64,
    /// 95 % of absolute errors are smaller; to within 1/64 of its value.
    #[serde(with = "crate::numbers")]
    pub q95: f64,
    /// RMSE over the root mean square of the references, a fraction of 1; none if the references are all zero.
    pub relative_rmse: Option<f64>,
    /// Coefficient of determination; none if the references are all the same.
    pub r_squared: Option<f64>,
    /// `eV`, `eV/atom`, `eV/Å` or `eV/Å³`.
    pub unit: String,
}

impl ErrorSummary {
    pub(super) fn new(errors: &Errors, quantity: Quantity) -> Option<Self> {
        let statistics = &errors.statistics;
        let largest = statistics.largest()?;
        Some(Self {
            values: statistics.count(),
            mae: statistics.mae()?,
            rmse: statistics.rmse()?,
            largest,
            // Within its bin, the quantile is interpolated.
            q95: errors.distribution.quantile(0.95).map(|q| if q > largest { largest } else { q })?,
            relative_rmse: statistics.relative_rmse(),
            r_squared: statistics.r_squared(),
            unit: quantity.unit().to_owned(),
        })
    }
}

/// Figures of the errors over a set of frames. What has no label has no figures.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SetErrors {
    /// Number of frames, labelled or not.
    pub frames: u64,
    /// Number of atoms in them.
    pub atoms: u64,
    /// Total energies, eV.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub energy: Option<ErrorSummary>,
    /// Energies per atom, eV/atom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub energy_per_atom: Option<ErrorSummary>,
    /// Force components, eV/Å.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forces: Option<ErrorSummary>,
    /// Stress components, eV/Å³.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stress: Option<ErrorSummary>,
}

impl SetErrors {
    /// The figures of one quantity.
    pub fn of(&self, quantity: Quantity) -> Option<&ErrorSummary> {
        match quantity {
            Quantity::Energy => self.energy.as_ref(),
            Quantity::EnergyPerAtom => self.energy_per_atom.as_ref(),
            Quantity::Forces => self.forces.as_ref(),
            Quantity::Stress => self.stress.as_ref(),
        }
    }
}

/// Something under the name of a group, head or element.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Named<T> {
    /// The name.
    pub name: String,
    /// Its errors.
    pub errors: T,
}

/// Everything that is shown of one set of frames.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SetSummary {
    /// Name of the set (`train`, `valid`, `test`).
    pub set: String,
    /// Errors over all frames.
    pub errors: SetErrors,
    /// By group (`config_type`), sorted by name.
    pub groups: Vec<Named<SetErrors>>,
    /// By head, sorted by name.
    pub heads: Vec<Named<SetErrors>>,
    /// Of force components, by element, sorted by atomic number.
    pub elements: Vec<Named<ErrorSummary>>,
    /// Points of parity plots, where they were kept.
    pub parity: Vec<Parity>,
    /// Histograms of errors, where points were kept.
    pub histograms: Vec<Histogram>,
}

/// A parity plot: predictions against labels, in the unit of `quantity`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Parity {
    /// Name of the set.
    pub set: String,
    /// What is compared.
    pub quantity: Quantity,
    /// A sample of all points.
    pub points: Vec<ParityPoint>,
    /// The largest errors.
    pub outliers: Vec<Outlier>,
    /// Errors over all points.
    pub errors: ErrorSummary,
}

/// A histogram of absolute errors, in the unit of `quantity`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Histogram {
    /// Name of the set.
    pub set: String,
    /// What is compared.
    pub quantity: Quantity,
    /// Bars from left to right, without gaps.
    pub bins: Vec<Bin>,
    /// Mean absolute error.
    #[serde(with = "crate::numbers")]
    pub mae: f64,
    /// 95 % of absolute errors are smaller.
    #[serde(with = "crate::numbers")]
    pub q95: f64,
}
