//! What has to be known about a model beside its weights, and the configurations it is read from.

use std::cell::RefCell;
use std::collections::BTreeSet;

use serde_json::{Map, Value as Json};
use tesseral_atoms::elements::atomic_number;
use tesseral_o3::{Convention, HarmonicParity, Irreps};
use tesseral_potentials::nequip::GateActivations;

use super::NequipError;

/// Which of the two families of networks that are called NequIP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Generation {
    /// Up to 0.6: one-hot types, e3nn's radial network, two linear maps as readout, one scale of everything.
    One,
    /// From 0.7 on: a table of types, `ScalarMLP`s.
    Two,
}

/// The hyperparameters that the weights do not show.
#[derive(Debug, Clone)]
pub(super) struct Hyperparameters {
    pub(super) generation: Generation,
    /// What wrote the model, such as `nequip 0.19.1`.
    pub(super) producer: String,
    /// Atomic numbers in the order of the types.
    pub(super) elements: Vec<u8>,
    /// Å.
    pub(super) cutoff: f64,
    pub(super) edge_irreps: Irreps,
    /// What sin(w_n d)/d is multiplied with.
    pub(super) basis_prefactor: f64,
    /// What the stored frequencies are multiplied with to be w_n, 1/Å.
    pub(super) frequency_unit: f64,
    /// Exponent of the envelope.
    pub(super) envelope_p: u32,
    /// One entry for each layer.
    pub(super) layers: Vec<LayerHyperparameters>,
    pub(super) activations: GateActivations,
    /// Activation of the radial networks (generation one).
    pub(super) radial_activation: String,
    /// Activation of the readout (generation two).
    pub(super) readout_activation: Option<ReadoutActivation>,
    /// Exponent of the envelope of the ZBL term, if there is one.
    pub(super) zbl: Option<u32>,
    /// Signs of the 3j tensors that the file does not store.
    pub(super) convention: Convention,
}

/// Activation between the matrices of the readout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ReadoutActivation {
    /// By its name in artifacts; the matrices after the first have the gain √2.
    Named(String),
    /// None at all: the matrices have no gain and are multiplied with each other.
    Linear,
}

#[derive(Debug, Clone)]
pub(super) struct LayerHyperparameters {
    /// Irreps that are asked for, in the order of the package.
    pub(super) hidden: Irreps,
    pub(super) self_connection: bool,
    pub(super) resnet: bool,
    /// √(average number of neighbours), one or by type of the sender.
    pub(super) denominator: Vec<f64>,
}

/// An error about the option `key`.
pub(super) fn option_error(key: &str, reason: impl Into<String>) -> NequipError {
    NequipError::Option { key: key.to_owned(), reason: reason.into() }
}

/// A dictionary of options that remembers which were read.
pub(super) struct Options<'a> {
    map: &'a Map<String, Json>,
    read: RefCell<BTreeSet<String>>,
}

impl<'a> Options<'a> {
    pub(super) fn new(what: &str, json: &'a Json) -> Result<Self, NequipError> {
        let map = json.as_object().ok_or_else(|| option_error(what, "is not a dictionary"))?;
        Ok(Self { map, read: RefCell::default() })
    }

    /// The value of an option that is there and not null.
    pub(super) fn get(&self, key: &str) -> Option<&'a Json> {
        self.read.borrow_mut().insert(key.to_owned());
        self.map.get(key).filter(|v| !v.is_null())
    }

    pub(super) fn require(&self, key: &str) -> Result<&'a Json, NequipError> {
        self.get(key).ok_or_else(|| option_error(key, "is missing"))
    }

    pub(super) fn flag(&self, key: &str, default: bool) -> Result<bool, NequipError> {
        self.get(key).map_or(Ok(default), |v| v.as_bool().ok_or_else(|| option_error(key, format!("is {v}, expected true or false"))))
    }

    pub(super) fn positive(&self, key: &str) -> Result<f64, NequipError> {
        let value = self.require(key)?;
        value.as_f64().filter(|v| *v > 0.0).ok_or_else(|| option_error(key, format!("is {value}, expected a positive number")))
    }

    pub(super) fn size(&self, key: &str, default: usize) -> Result<usize, NequipError> {
        self.get(key).map_or(Ok(default), |v| as_size(v).ok_or_else(|| option_error(key, format!("is {v}, expected a size"))))
    }

    /// A whole number that may be written as a float.
    pub(super) fn exponent(&self, key: &str, default: u32) -> Result<u32, NequipError> {
        self.get(key).map_or(Ok(default), |v| {
            as_exponent(v.as_f64()).ok_or_else(|| option_error(key, format!("is {v}, expected a whole number of at least 2")))
        })
    }

    pub(super) fn text(&self, key: &str, default: &'a str) -> Result<&'a str, NequipError> {
        self.get(key).map_or(Ok(default), |v| v.as_str().ok_or_else(|| option_error(key, format!("is {v}, expected a name"))))
    }

    /// Activations by parity, from `{e: …, o: …}`.
    pub(super) fn by_parity(&self, key: &str) -> Result<(String, String), NequipError> {
        let names = self.get(key);
        let name = |parity: &str, default: &str| {
            names.and_then(|n| n.get(parity)).map_or(Ok(default.to_owned()), |v| {
                v.as_str().map(str::to_owned).ok_or_else(|| option_error(key, format!("holds {v}, expected names")))
            })
        };
        Ok((name("e", "silu")?, name("o", "tanh")?))
    }

    pub(super) fn names(&self, key: &str) -> Result<Vec<String>, NequipError> {
        let list = self.require(key)?.as_array().ok_or_else(|| option_error(key, "is not a list"))?;
        list.iter().map(|v| v.as_str().map(str::to_owned).ok_or_else(|| option_error(key, format!("holds {v}, expected names")))).collect()
    }

    /// Names of all options that were not read.
    pub(super) fn unread(&self) -> impl Iterator<Item = &'a str> + '_ {
        self.map.keys().map(String::as_str).filter(|key| !self.read.borrow().contains(*key))
    }

    /// Every option must have been read or be among those that change nothing in the finished model.
    pub(super) fn check_all_read(&self, inert: &[&str]) -> Result<(), NequipError> {
        match self.unread().find(|key| self.map.get(*key).is_some_and(|v| !v.is_null()) && !inert.contains(key)) {
            None => Ok(()),
            Some(key) => Err(option_error(key, "is an option that is not known")),
        }
    }
}

pub(super) fn as_size(value: &Json) -> Option<usize> {
    value.as_u64().and_then(|v| usize::try_from(v).ok())
}

/// The exponent of a polynomial envelope.
pub(super) fn as_exponent(value: Option<f64>) -> Option<u32> {
    value.filter(|v| v.fract() == 0.0 && (2.0..=64.0).contains(v)).map(|v| v as u32)
}

pub(super) fn parse_irreps(key: &str, value: &Json) -> Result<Irreps, NequipError> {
    let text = value.as_str().ok_or_else(|| option_error(key, format!("is {value}, expected irreps")))?;
    text.parse().map_err(|e| option_error(key, format!("is `{text}`: {e}")))
}

/// Irreps of the edge harmonics, written out or as their highest degree.
pub(super) fn edge_irreps(key: &str, value: &Json) -> Result<Irreps, NequipError> {
    match as_size(value) {
        Some(l_max) => Irreps::spherical_harmonics(l_max, HarmonicParity::Natural).map_err(|e| option_error(key, e.to_string())),
        None => parse_irreps(key, value),
    }
}

/// Atomic numbers of types that are called by their chemical symbols.
pub(super) fn elements(key: &str, symbols: &[String]) -> Result<Vec<u8>, NequipError> {
    let mut elements = Vec::with_capacity(symbols.len());
    for symbol in symbols {
        let z = atomic_number(symbol).ok_or_else(|| option_error(key, format!("has `{symbol}`, which is no chemical symbol")))?;
        if elements.contains(&z) {
            return Err(option_error(key, format!("has `{symbol}` twice; one type for each element is supported")));
        }
        elements.push(z);
    }
    if elements.is_empty() { Err(option_error(key, "is empty")) } else { Ok(elements) }
}

/// √(average number of neighbours).
pub(super) fn denominator(key: &str, average: f64) -> Result<f64, NequipError> {
    if average > 0.0 { Ok(average.sqrt()) } else { Err(option_error(key, format!("holds {average}, expected positive numbers"))) }
}

/// Activations of the gates from names by parity (even, odd).
pub(super) fn gate_activations(scalars: (String, String), gates: (String, String)) -> Result<GateActivations, NequipError> {
    let known = |key: &str, name: &str, odd: bool| match name {
        // An even function of an odd scalar is even: the irreps would change.
        "tanh" => Ok(()),
        "silu" | "ssp" | "abs" if !odd => Ok(()),
        _ if odd => Err(option_error(key, format!("uses `{name}` on odd scalars; only tanh keeps their parity"))),
        _ => Err(option_error(key, format!("uses `{name}`; silu, ssp, tanh and abs are known"))),
    };
    for (key, names) in [("nonlinearity_scalars", &scalars), ("nonlinearity_gates", &gates)] {
        known(key, &names.0, false)?;
        known(key, &names.1, true)?;
    }
    Ok(GateActivations { scalars_even: scalars.0, scalars_odd: scalars.1, gates_even: gates.0, gates_odd: gates.1, normalize: true })
}

/// Activation of a readout by the name that `ScalarMLP` knows it by; `None` where there is none at all.
pub(super) fn readout_activation(key: &str, name: Option<&str>) -> Result<ReadoutActivation, NequipError> {
    Ok(match name {
        None => ReadoutActivation::Linear,
        // As text they mean an activation that does nothing, but count as one for the gain.
        Some("None" | "null") => ReadoutActivation::Named("identity".to_owned()),
        Some(name @ ("silu" | "gelu" | "ssp" | "tanh" | "sigmoid")) => ReadoutActivation::Named(name.to_owned()),
        Some(other) => return Err(option_error(key, format!("is `{other}`; silu, gelu, ssp, tanh, sigmoid and none are known"))),
    })
}

/// (major, minor) of a version.
pub(super) fn version(text: &str) -> Option<(u64, u64)> {
    let mut parts = text.split('.').map(|p| p.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().ok());
    Some((parts.next()??, parts.next()??))
}
