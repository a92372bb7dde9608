//! Hyperparameters of the NequIP family: SevenNet and NequIP (model definitions §3, §4).

use serde::{Deserialize, Serialize};
use tesseral_o3::{Block, Irreps};
use tesseral_ops::radial::{ScalarFunction, ZblConstants};

use crate::blocks::{MlpConfig, activation};
use crate::error::{Result, config_error};
use crate::validation::{self, MAX_PARTS, MAX_WIDTH};

/// A SevenNet or NequIP model.
///
/// Tensors of the artifact (Z = elements, M = modalities; flat equivariant weights in e3nn order):
///
/// | tensor | shape |
/// |---|---|
/// | `embedding.weight` (`.bias`, `.modal`) | `[Z, C]`, multiplied by `embedding_scale` when used (`[C]`, `[M, C]`) |
/// | `radial.frequencies` | `[basis]`, 1/Å |
/// | `layers.{t}.self_connection.weight` (`.bias`) | `[1 or Z, flat]` |
/// | `layers.{t}.linear_1.weight`, `.linear_2.weight` (`.bias`, `.modal`) | flat (`[scalars out]`, `[M, scalars out]`) |
/// | `layers.{t}.radial.{k}.weight` | `[in, out]` |
/// | `layers.{t}.denominator` | `[1]`, or `[Z]` by the element of the sender |
/// | `readout.{k}.weight` (`.bias`, `.modal`) | `[in, out]` |
/// | `scale`, `shift` | `[max(M, 1), Z]`, eV |
/// | `pair_cutoffs` (only if the cutoff depends on the elements) | `[Z, Z]` by species of centre and neighbour, Å, at most [`Self::cutoff`] |
///
/// With `pair_cutoffs`, radial functions see the distance stretched by cutoff / pair cutoff, so that all of them end there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NequipConfig {
    /// Atomic numbers in the order of the species index.
    pub elements: Vec<u8>,
    /// Cutoff radius, Å.
    pub cutoff: f64,
    /// Names of the modalities (levels of theory), if the model knows several.
    #[serde(default)]
    pub modalities: Vec<String>,
    /// Irreps of the edge harmonics, one channel each.
    #[serde(with = "crate::irreps_serde")]
    pub edge_irreps: Irreps,
    /// Whether vectors are normalised before the harmonics (old SevenNet: no).
    pub normalize_harmonics: bool,
    /// How many Bessel functions.
    pub basis_size: usize,
    /// Factor in front of sin(c_n d)/d.
    pub basis_prefactor: f64,
    /// Envelope at the cutoff.
    pub envelope: Envelope,
    /// Channels of the initial features.
    pub channels: usize,
    /// Factor on the embedding table (1/√(Z + M) for a one-hot linear map, 1 for a plain table).
    pub embedding_scale: f64,
    /// Message-passing layers.
    pub layers: Vec<NequipLayerConfig>,
    /// Maps from the last scalars to the atomic energy.
    pub readout: Vec<ReadoutLayer>,
    /// Activations of the gates.
    pub activations: GateActivations,
    /// The ZBL pair repulsion (screening of LAMMPS) that is added after scale and shift, if any.
    #[serde(default)]
    pub zbl: Option<ZblConfig>,
}

/// Activations of scalars and gates by parity.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GateActivations {
    /// On even scalars.
    pub scalars_even: String,
    /// On odd scalars.
    pub scalars_odd: String,
    /// On even gates.
    pub gates_even: String,
    /// On odd gates.
    pub gates_odd: String,
    /// Whether each is multiplied with e3nn's second-moment factor.
    pub normalize: bool,
}

/// A pair repulsion of NequIP; it ends at the cutoff of the pair.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ZblConfig {
    /// Exponent of its polynomial envelope.
    pub envelope_p: u32,
    /// The Coulomb constant, eV·Å.
    #[serde(default = "lammps_coulomb")]
    pub coulomb: f64,
}

fn lammps_coulomb() -> f64 {
    ZblConstants::LAMMPS.coulomb
}

/// How radial functions vanish at the cutoff.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "type")]
pub enum Envelope {
    /// 1 − (p+1)(p+2)/2 x^p + p(p+2) x^(p+1) − p(p+1)/2 x^(p+2)
    Polynomial {
        /// The exponent.
        p: u32,
    },
    /// 1 below the onset, then a smooth switch.
    Xplor {
        /// Where it starts to fall, Å.
        onset: f64,
    },
}

impl NequipConfig {
    /// The envelope as a function of the (stretched) distance.
    pub fn envelope_function(&self) -> ScalarFunction {
        match self.envelope {
            Envelope::Polynomial { p } => ScalarFunction::PolynomialEnvelope { p, cutoff: self.cutoff },
            Envelope::Xplor { onset } => ScalarFunction::XplorEnvelope { onset, cutoff: self.cutoff },
        }
    }
}

/// One convolution layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NequipLayerConfig {
    /// Features that come in.
    #[serde(with = "crate::irreps_serde")]
    pub irreps_in: Irreps,
    /// Irreps of the messages (regrouped), decides which paths exist.
    #[serde(with = "crate::irreps_serde")]
    pub irreps_message: Irreps,
    /// What enters the gate: scalars, one gate for each gated channel, gated irreps, regrouped (model definitions §1.9).
    #[serde(with = "crate::irreps_serde")]
    pub irreps_gate: Irreps,
    /// Features that go out, after the gate.
    #[serde(with = "crate::irreps_serde")]
    pub irreps_out: Irreps,
    /// How the incoming features are added after the convolution.
    pub self_connection: SelfConnection,
    /// The radial network, including its last matrix.
    pub radial: MlpConfig,
    /// Whether the layer's output is added to its input.
    #[serde(default)]
    pub resnet: bool,
    /// Whether linear maps carry a bias on their scalars: self connection, linear_1, linear_2.
    #[serde(default)]
    pub bias: bool,
    /// Whether linear_1 sees the modality.
    #[serde(default)]
    pub modal_1: bool,
    /// Whether linear_2 sees the modality.
    #[serde(default)]
    pub modal_2: bool,
}

impl NequipLayerConfig {
    fn validate(&self, name: &str) -> Result<()> {
        let parts = [
            ("irreps_in", &self.irreps_in),
            ("irreps_message", &self.irreps_message),
            ("irreps_gate", &self.irreps_gate),
            ("irreps_out", &self.irreps_out),
        ];
        for (what, irreps) in parts {
            validation::features(format!("{name}.{what}"), irreps)?;
        }
        if let SelfConnection::Element { fan_in } = self.self_connection {
            validation::count(format!("{name}.self_connection"), fan_in, MAX_WIDTH)?;
        }
        if self.resnet && self.irreps_in != self.irreps_out {
            return Err(config_error(format!("{name}.resnet"), format!("{} cannot be added to {}", self.irreps_in, self.irreps_out)));
        }
        Ok(())
    }
}

/// Self connections.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "type")]
pub enum SelfConnection {
    /// None.
    None,
    /// One linear map for all elements.
    Linear,
    /// One for each element; `fan_in` multiplies the fan-in of its normalisation (elements for one-hot attributes, 1 if folded into the weights).
    Element {
        /// The factor.
        fan_in: usize,
    },
}

/// One map of the readout, with the activation after it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReadoutLayer {
    /// Inputs.
    pub size_in: usize,
    /// Outputs.
    pub size_out: usize,
    /// What the matrix product is multiplied with.
    pub scale: f64,
    /// Activation after it, with its factor.
    pub activation: Option<(String, f64)>,
    /// Whether it carries a bias.
    #[serde(default)]
    pub bias: bool,
    /// Whether it sees the modality.
    #[serde(default)]
    pub modal: bool,
}

impl NequipConfig {
    /// Whether a network can be built from this, given the right tensors.
    ///
    /// # Errors
    /// [`crate::PotentialError::Config`], naming the part that is wrong.
    pub fn validate(&self) -> Result<()> {
        validation::elements(&self.elements)?;
        validation::cutoff(self.cutoff)?;
        validation::names("modalities", self.modalities.iter().map(String::as_str))?;
        validation::edge_degree(&self.edge_irreps)?;
        validation::count("basis_size", self.basis_size, MAX_WIDTH)?;
        validation::count("channels", self.channels, MAX_WIDTH)?;
        validation::finite("basis_prefactor", self.basis_prefactor)?;
        validation::finite("embedding_scale", self.embedding_scale)?;
        match self.envelope {
            Envelope::Polynomial { p } => validation::envelope_exponent("envelope", p)?,
            Envelope::Xplor { onset } if !(0.0..self.cutoff).contains(&onset) => {
                return Err(config_error("envelope", format!("its onset, {onset} Å, is not between 0 and the cutoff, {} Å", self.cutoff)));
            }
            Envelope::Xplor { .. } => {}
        }
        if let Some(zbl) = &self.zbl {
            validation::envelope_exponent("zbl", zbl.envelope_p)?;
            validation::finite("zbl", zbl.coulomb)?;
        }
        validation::count("layers", self.layers.len(), MAX_PARTS)?;
        for (t, layer) in self.layers.iter().enumerate() {
            layer.validate(&format!("layers.{t}"))?;
            let (given, from) = match t.checked_sub(1) {
                None => (self.channels, "the embedding"),
                Some(before) => (self.layers[before].irreps_out.dim(), "the layer before"),
            };
            if layer.irreps_in.dim() != given {
                let reason = format!("{} takes {} numbers an atom, {from} gives {given}", layer.irreps_in, layer.irreps_in.dim());
                return Err(config_error(format!("layers.{t}.irreps_in"), reason));
            }
        }
        self.validate_readout()
    }

    /// The even scalars of the last layer, which the readout takes.
    pub(super) fn last_scalars(&self) -> Option<Block> {
        self.layers.last()?.irreps_out.blocks_with_offsets().find(|b| b.irrep.is_scalar())
    }

    fn validate_readout(&self) -> Result<()> {
        validation::count("readout", self.readout.len(), MAX_PARTS)?;
        let mut given = self.last_scalars().map_or(0, |b| b.mul);
        for (k, map) in self.readout.iter().enumerate() {
            let name = format!("readout.{k}");
            validation::count(&name, map.size_out, MAX_WIDTH)?;
            validation::finite(&name, map.scale)?;
            if map.size_in != given {
                return Err(config_error(name, format!("it takes {} scalars, there are {given}", map.size_in)));
            }
            if map.modal && self.modalities.is_empty() {
                return Err(config_error(name, "it sees the modality, but there are no modalities"));
            }
            if let Some((activation_name, gain)) = &map.activation {
                activation(activation_name, *gain)?;
                validation::finite(name, *gain)?;
            }
            given = map.size_out;
        }
        if given != 1 {
            return Err(config_error("readout", "its last map must have one output, the atomic energy"));
        }
        Ok(())
    }

    pub(crate) fn summary(&self) -> Vec<(String, String)> {
        let hidden = self.layers.first().map_or(String::new(), |l| l.irreps_out.to_string());
        vec![
            ("hidden irreps".into(), hidden),
            ("edge harmonics".into(), self.edge_irreps.to_string()),
            ("radial basis".into(), format!("{} bessel", self.basis_size)),
        ]
    }
}
