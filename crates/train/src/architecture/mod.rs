//! Untrained models from hyperparameters.
//!
//! [`ModelConfig`] has the hyperparameters of the published packages under the names that they have there; [`build`] makes the artifact that
//! training starts from: irreps of every layer as the packages derive them (model definitions §2.4, §3.2, §4), weights as the packages
//! initialise them, energies and scales from the [`TrainingStatistics`].
//!
//! The random numbers of a tensor depend on the seed and its name alone (`initialize`).

mod initialize;
mod mace;
mod nequip;

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};
use tesseral_o3::{CouplingError, Irrep, Irreps, IrrepsError, MulIrrep, SymmetricBasisError};
use tesseral_potentials::header::FORMAT_VERSION;
use tesseral_potentials::nequip::GateActivations;
use tesseral_potentials::{Architecture, Artifact, Header, PotentialError, Provenance};

pub use mace::{DistanceTransform, EmbeddingSpec, EmbeddingType, InteractionName, MaceModelConfig, Per, RadialType, Readout};
pub use nequip::{CutoffFunction, Denominator, NequipModelConfig, SelfConnectionType, SevenNetModelConfig};

pub(crate) use initialize::Stream;
use initialize::Weights;

/// A model that is to be trained from scratch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "family", rename_all = "kebab-case")]
pub enum ModelConfig {
    /// MACE, under the names of `mace_run_train`.
    Mace(MaceModelConfig),
    /// NequIP from 0.7 on, under the names of `nequip.model.NequIPGNNModel`.
    Nequip(NequipModelConfig),
    /// SevenNet, under the names of its `input.yaml`.
    #[serde(rename = "sevennet")]
    SevenNet(SevenNetModelConfig),
}

impl Default for ModelConfig {
    fn default() -> Self {
        Self::Mace(MaceModelConfig::default())
    }
}

impl ModelConfig {
    /// Cutoff radius, Å.
    pub fn cutoff(&self) -> f64 {
        match self {
            Self::Mace(c) => c.r_max,
            Self::Nequip(c) => c.r_max,
            Self::SevenNet(c) => c.cutoff,
        }
    }

    /// Names of the quantities that are embedded: charge, spin, ….
    pub fn fields(&self) -> Vec<String> {
        match self {
            Self::Mace(c) => c.embedding_specs.iter().map(|f| f.name.clone()).collect(),
            Self::Nequip(_) | Self::SevenNet(_) => Vec::new(),
        }
    }

    /// Whether a tensor of the artifact is trained. What stays as it was made: energies of atoms, scales, shifts, divisors of messages and radial
    /// functions, unless the configuration says otherwise.
    pub fn is_trained(&self, tensor: &str) -> bool {
        let part = tensor.rsplit('.').next().unwrap_or(tensor);
        match self {
            Self::Mace(_) => !is_constant(tensor),
            Self::Nequip(c) => match part {
                "frequencies" => c.bessel_trainable,
                "scale" => c.per_type_energy_scales_trainable,
                "shift" => c.per_type_energy_shifts_trainable,
                _ => !is_constant(tensor),
            },
            Self::SevenNet(c) => match part {
                "frequencies" => c.trainable_coeff,
                "denominator" => c.train_denominator,
                "scale" | "shift" => c.train_shift_scale,
                _ => !is_constant(tensor),
            },
        }
    }
}

/// Whether a tensor of an artifact is one that trainings leave alone unless they are told otherwise: energies of atoms, scales, shifts, divisors of
/// messages, and what radial functions are made of.
pub fn is_constant(tensor: &str) -> bool {
    matches!(tensor, "atomic_energies" | "scale" | "shift" | "radial.frequencies" | "radial.centers") || tensor.ends_with(".denominator")
}

/// What a data set says about a model that is to be trained on it.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainingStatistics {
    /// Atomic numbers, ascending.
    pub elements: Vec<u8>,
    /// Energies of isolated atoms, eV: for each head, one for each element.
    pub e0s: Vec<Vec<f64>>,
    /// What the network's atomic energies are multiplied with, for each head: usually the root mean square of the forces, eV/Å.
    pub scale: Vec<f64>,
    /// What is added to each atomic energy beside the energy of the isolated atom, for each head, eV.
    pub shift: Vec<f64>,
    /// Neighbours of an atom within the cutoff, on average over the training set.
    pub avg_num_neighbors: f64,
}

impl TrainingStatistics {
    fn validate(&self, heads: usize) -> Result<()> {
        let wrong = |what, reason: String| Err(ArchitectureError::Statistics { what, reason });
        if !self.elements.is_sorted_by(|a, b| a < b) {
            return wrong("elements", "are not in ascending order".into());
        }
        for (what, count) in [("e0s", self.e0s.len()), ("scale", self.scale.len()), ("shift", self.shift.len())] {
            if count != heads {
                return wrong(what, format!("are given for {count} heads, the model has {heads}"));
            }
        }
        if let Some(row) = self.e0s.iter().find(|row| row.len() != self.elements.len()) {
            return wrong("e0s", format!("are given for {} elements, the model has {}", row.len(), self.elements.len()));
        }
        let numbers = [("e0s", self.e0s.concat()), ("scale", self.scale.clone()), ("shift", self.shift.clone())];
        for (what, values) in &numbers {
            if let Some(value) = values.iter().find(|v| !v.is_finite()) {
                return wrong(what, format!("contain {value}"));
            }
        }
        if let Some(value) = self.scale.iter().find(|&&v| v == 0.0) {
            return wrong("scale", format!("contains {value}, with which every energy would vanish"));
        }
        if !(self.avg_num_neighbors > 0.0 && self.avg_num_neighbors.is_finite()) {
            return wrong(
                "avg_num_neighbors",
                format!("is {}, not a positive number: no atom sees another within the cutoff", self.avg_num_neighbors),
            );
        }
        Ok(())
    }
}

/// Why a model cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchitectureError {
    /// A hyperparameter that makes no model.
    #[error("`model.{key}` {reason}")]
    Value {
        /// The hyperparameter.
        key: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// Statistics that do not fit.
    #[error("the statistics' {what} {reason}")]
    Statistics {
        /// Which.
        what: &'static str,
        /// What is wrong with them.
        reason: String,
    },
    /// A product basis that is too large.
    #[error("the product basis of `model.correlation`: {0}")]
    Basis(#[from] SymmetricBasisError),
    /// Irreps that are too large.
    #[error(transparent)]
    Irreps(#[from] IrrepsError),
    /// Irreps that do not couple.
    #[error(transparent)]
    Coupling(#[from] CouplingError),
    /// The parts do not make a model.
    #[error(transparent)]
    Potential(#[from] PotentialError),
}

impl ArchitectureError {
    /// What can be done about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Basis(_) => Some("lower `model.correlation`, `model.max_ell` or `model.max_L`".into()),
            Self::Irreps(_) => Some("lower the number of channels or the degree".into()),
            Self::Potential(error) => error.hint(),
            _ => None,
        }
    }
}

type Result<T, E = ArchitectureError> = std::result::Result<T, E>;

fn value_error<T>(key: &'static str, reason: impl Into<String>) -> Result<T> {
    Err(ArchitectureError::Value { key, reason: reason.into() })
}

fn at_least_one(key: &'static str, value: usize) -> Result<()> {
    if value == 0 { value_error(key, "is 0; at least 1 is needed") } else { Ok(()) }
}

/// An untrained model, its weights in f64.
///
/// `heads` names the levels of theory that MACE predicts, in order; none means one called `Default`. NequIP and SevenNet have one.
///
/// # Errors
/// [`ArchitectureError`] naming the hyperparameter or statistic that is at fault.
pub fn build(model: &ModelConfig, statistics: &TrainingStatistics, heads: &[String], seed: u64, name: &str) -> Result<Artifact> {
    let default = ["Default".to_owned()];
    let heads = if heads.is_empty() { &default[..] } else { heads };
    statistics.validate(heads.len())?;
    let mut weights = Weights::new(seed);
    let architecture = match model {
        ModelConfig::Mace(config) => Architecture::Mace(mace::build(config, statistics, heads, &mut weights)?),
        ModelConfig::Nequip(config) => Architecture::Nequip(nequip::build_nequip(config, statistics, heads, &mut weights)?),
        ModelConfig::SevenNet(config) => Architecture::Nequip(nequip::build_sevennet(config, statistics, heads, &mut weights)?),
    };
    let producer = format!("tesseral {}", env!("CARGO_PKG_VERSION"));
    let provenance = Provenance { source: format!("seed {seed}"), sha256: None, producer, notes: Vec::new() };
    let header = Header { format_version: FORMAT_VERSION, name: name.to_owned(), architecture, provenance, licence: None };
    Ok(Artifact::new(header, weights.into_tensors())?)
}

/// One value for all layers (or degrees), or a list with one for each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Each<T> {
    /// The same for all.
    Same(T),
    /// One for each.
    List(Vec<T>),
}

impl<T: Clone> Each<T> {
    /// One value for each of `count`, `None` if a list has another length.
    pub fn expand(&self, count: usize) -> Option<Vec<T>> {
        match self {
            Self::Same(value) => Some(vec![value.clone(); count]),
            Self::List(list) => (list.len() == count).then(|| list.clone()),
        }
    }

    fn of(&self, key: &'static str, count: usize, what: &str) -> Result<Vec<T>> {
        let length = if let Self::List(list) = self { list.len() } else { 0 };
        self.expand(count).map_or_else(|| value_error(key, format!("has {length} entries for {count} {what}")), Ok)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Each<T> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        use serde::de::{IntoDeserializer, SeqAccess, Visitor, value};

        struct EachVisitor<T>(std::marker::PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for EachVisitor<T> {
            type Value = Each<T>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("one value or a list of values")
            }

            fn visit_i64<E: serde::de::Error>(self, v: i64) -> std::result::Result<Self::Value, E> {
                T::deserialize(v.into_deserializer()).map(Each::Same)
            }

            fn visit_u64<E: serde::de::Error>(self, v: u64) -> std::result::Result<Self::Value, E> {
                T::deserialize(v.into_deserializer()).map(Each::Same)
            }

            fn visit_str<E: serde::de::Error>(self, v: &str) -> std::result::Result<Self::Value, E> {
                T::deserialize(v.into_deserializer()).map(Each::Same)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> std::result::Result<Self::Value, A::Error> {
                Vec::deserialize(value::SeqAccessDeserializer::new(seq)).map(Each::List)
            }
        }

        deserializer.deserialize_any(EachVisitor(std::marker::PhantomData))
    }
}

/// Irreps as text in configurations.
mod irreps_text {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
    use tesseral_o3::Irreps;

    fn parse<E: Error>(text: &str) -> Result<Irreps, E> {
        text.parse().map_err(|e: tesseral_o3::IrrepsError| E::custom(format!("`{text}` is no list of irreps: {e}")))
    }

    pub(super) fn serialize<S: Serializer>(irreps: &Irreps, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(irreps)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Irreps, D::Error> {
        parse(&String::deserialize(d)?)
    }

    /// Irreps that need not be there.
    pub(super) mod option {
        use super::{Deserialize, Deserializer, Irreps, Serialize, Serializer, parse};

        pub(in super::super) fn serialize<S: Serializer>(irreps: &Option<Irreps>, s: S) -> Result<S::Ok, S::Error> {
            irreps.as_ref().map(ToString::to_string).serialize(s)
        }

        pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Irreps>, D::Error> {
            Option::<String>::deserialize(d)?.map(|text| parse(&text)).transpose()
        }
    }

    /// A list of irreps that need not be there.
    pub(super) mod list {
        use super::{Deserialize, Deserializer, Irreps, Serialize, Serializer, parse};

        pub(in super::super) fn serialize<S: Serializer>(list: &Option<Vec<Irreps>>, s: S) -> Result<S::Ok, S::Error> {
            list.as_ref().map(|list| list.iter().map(ToString::to_string).collect::<Vec<_>>()).serialize(s)
        }

        pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Vec<Irreps>>, D::Error> {
            Option::<Vec<String>>::deserialize(d)?.map(|list| list.iter().map(|text| parse(text)).collect()).transpose()
        }
    }
}

/// `n` channels of scalars.
fn scalars(n: usize) -> Result<Irreps> {
    Ok(Irreps::new(vec![MulIrrep::new(n, Irrep::even(0))])?)
}

/// Activations by the parity of what they act on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ByParity {
    /// On even scalars or gates.
    pub e: String,
    /// On odd ones: `tanh` keeps their parity.
    pub o: String,
}

impl Default for ByParity {
    fn default() -> Self {
        Self { e: "silu".into(), o: "tanh".into() }
    }
}

impl ByParity {
    fn check(&self, key: &'static str) -> Result<()> {
        for name in [&self.e, &self.o] {
            activation(key, name)?;
        }
        // An even function of an odd scalar is even: the irreps would not be what they are called.
        if self.o != "tanh" {
            return value_error(key, format!("has `{}` for odd ones; only `tanh` keeps their parity", self.o));
        }
        Ok(())
    }
}

/// Activations that scalar networks, gates and readouts know.
const ACTIVATIONS: [&str; 8] = ["silu", "tanh", "sigmoid", "abs", "relu", "ssp", "gelu", "elu"];

fn activation(key: &'static str, name: &str) -> Result<()> {
    if ACTIVATIONS.contains(&name) {
        return Ok(());
    }
    value_error(key, format!("has the activation `{name}`; {} are known", ACTIVATIONS.join(", ")))
}

fn gate_activations(scalars: &ByParity, gates: &ByParity) -> GateActivations {
    GateActivations {
        scalars_even: scalars.e.clone(),
        scalars_odd: scalars.o.clone(),
        gates_even: gates.e.clone(),
        gates_odd: gates.o.clone(),
        normalize: true,
    }
}
