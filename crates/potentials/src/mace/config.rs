//! Hyperparameters of MACE, as far as evaluation needs them (model definitions §2).

use serde::{Deserialize, Serialize};
use tesseral_o3::symmetric_basis::MAX_CORRELATION;
use tesseral_o3::{Irrep, Irreps};

use crate::blocks::{MlpConfig, activation};
use crate::error::{Result, config_error};
use crate::validation::{self, MAX_PARTS, MAX_WIDTH};

/// A MACE or ScaleShiftMACE model.
///
/// Tensors of the artifact (K = channels, Z = elements, H = heads; flat equivariant weights in e3nn order with channels fastest inside
/// features; see `ops::linear`):
///
/// | tensor | shape |
/// |---|---|
/// | `embedding.weight` | `[Z, K]`, divided by √Z when used |
/// | `radial.frequencies` (Bessel) or `radial.centers` (Gaussian) | `[basis]` |
/// | `radial.prefactor` (Bessel, optional) | `[1]`, √(2/r_c) as rounded in the checkpoint |
/// | `radial.transform` | Agnesi `[a, q, p]`, Soft `[alpha]` |
/// | `covalent_radii` (with a transform or ZBL) | `[Z]`, Å |
/// | `zbl` (with ZBL) | `[a_exp, a_prefactor, c0, c1, c2, c3, p]` |
/// | `layers.{t}.up.weight`, `.linear.weight` | flat |
/// | `layers.{t}.skip.weight` | `[Z, flat]` for element-dependent blocks, `[1, flat]` for the non-linear block |
/// | `layers.{t}.mix.weight` (blocks without residual) | `[Z, flat]`: the product with the element after the messages |
/// | `layers.{t}.radial.{k}.weight` (`.bias`, `.norm.weight`, `.norm.bias`) | `[in, out]` (`[out]`) |
/// | `layers.{t}.density.{k}.weight` … | likewise |
/// | `layers.{t}.source.weight`, `.target.weight`, `.residual.weight`, `.linear_2.weight`, `.alpha`, `.beta` | the non-linear block |
/// | `layers.{t}.down.weight` | the attention block |
/// | `layers.{t}.product.{b}.monomials.{nu}` | integer `[terms, nu]` |
/// | `layers.{t}.product.{b}.basis.{nu}` | `[2L+1, terms, paths]` |
/// | `layers.{t}.product.{b}.weights.{nu}` | `[Z or 1, paths, K]` |
/// | `layers.{t}.product.linear.weight` | flat |
/// | `readouts.{r}.linear_1.weight`, `.linear_mid.*`, `.linear_2.*` | flat, `.bias` |
/// | `atomic_energies` | `[H, Z]`, eV |
/// | `scale`, `shift` | `[H]` |
/// | `fields.{name}.embedding.weight` or `.linear_1/2.weight/.bias`, `fields.project.weight`, `fields.readout.weight` | charge, spin, … |
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MaceConfig {
    /// Whether the interaction energy is scaled and shifted (ScaleShiftMACE).
    pub scale_shift: bool,
    /// Atomic numbers, ascending: the species index.
    pub elements: Vec<u8>,
    /// Names of the heads.
    pub heads: Vec<String>,
    /// Cutoff radius, Å.
    pub cutoff: f64,
    /// Radial features.
    pub radial: RadialConfig,
    /// Irreps of the edge harmonics, one channel each.
    #[serde(with = "crate::irreps_serde")]
    pub edge_irreps: Irreps,
    /// Message-passing layers.
    pub layers: Vec<LayerConfig>,
    /// Readouts and the layers they read.
    pub readouts: Vec<ReadoutConfig>,
    /// Whether the ZBL pair repulsion is added.
    pub zbl: bool,
    /// Graph or node quantities (charge, spin, …) embedded into the initial features.
    #[serde(default)]
    pub fields: Vec<FieldConfig>,
    /// Whether the embedded initial features have a readout of their own.
    #[serde(default)]
    pub field_readout: bool,
}

/// Radial features of an edge.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RadialConfig {
    /// The basis.
    pub basis: Basis,
    /// How many functions.
    pub size: usize,
    /// Distance transform before the basis.
    pub transform: Transform,
    /// Exponent of the polynomial envelope.
    pub envelope_p: u32,
    /// Whether the envelope multiplies the basis; otherwise it multiplies the outputs of the radial network and the density.
    pub envelope_on_basis: bool,
}

impl RadialConfig {
    fn validate(&self) -> Result<()> {
        validation::count("radial.size", self.size, MAX_WIDTH)?;
        if self.basis == Basis::Gaussian && self.size < 2 {
            return Err(config_error("radial.size", "Gaussians need at least two centres"));
        }
        validation::envelope_exponent("radial.envelope_p", self.envelope_p)
    }
}

/// Radial basis functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Basis {
    /// √(2/r_c) sin(k_n t)/t
    Bessel,
    /// exp(−(t−μ_n)²/(2 w²)), w = r_c/(N−1)
    Gaussian,
    /// T_n(t), n = 1..N
    Chebyshev,
}

/// Distance transforms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transform {
    /// The distance itself.
    None,
    /// 1/(1 + a y^q/(1 + y^(q−p))), y = 2d/(R_u+R_v)
    Agnesi,
    /// A tanh step around the bond length.
    Soft,
}

/// One interaction with its product basis.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerConfig {
    /// The interaction block.
    pub interaction: Interaction,
    /// Features that come in (H_in).
    #[serde(with = "crate::irreps_serde")]
    pub irreps_in: Irreps,
    /// Features that are sent along edges (E).
    #[serde(with = "crate::irreps_serde")]
    pub irreps_edge: Irreps,
    /// What messages are mixed into (T): K copies of each irrep.
    #[serde(with = "crate::irreps_serde")]
    pub irreps_target: Irreps,
    /// Features that go out (H_out).
    #[serde(with = "crate::irreps_serde")]
    pub irreps_out: Irreps,
    /// What messages are divided by (blocks without a density).
    pub avg_num_neighbors: f64,
    /// The radial network, including its last matrix.
    pub radial: MlpConfig,
    /// The density network, if the block has one.
    #[serde(default)]
    pub density: Option<MlpConfig>,
    /// Highest correlation order ν.
    pub correlation: usize,
    /// Whether the weights of the product basis depend on the element.
    pub element_dependent_product: bool,
    /// Whether the skip connection is added after the product basis.
    pub skip: bool,
}

impl LayerConfig {
    fn validate(&self, name: &str, basis: usize) -> Result<()> {
        let parts = [
            ("irreps_in", &self.irreps_in),
            ("irreps_edge", &self.irreps_edge),
            ("irreps_target", &self.irreps_target),
            ("irreps_out", &self.irreps_out),
        ];
        for (what, irreps) in parts {
            validation::features(format!("{name}.{what}"), irreps)?;
        }
        validation::positive(format!("{name}.avg_num_neighbors"), self.avg_num_neighbors)?;
        validation::count(format!("{name}.correlation"), self.correlation, MAX_CORRELATION)?;
        let inputs = basis
            + match self.interaction {
                Interaction::AttentionResidual => 2 * ATTENTION_SCALARS,
                Interaction::ResidualNonLinear => 2 * self.irreps_in.count(Irrep::even(0)),
                _ => 0,
            };
        for (what, network) in [("radial", Some(&self.radial)), ("density", self.density.as_ref())] {
            if let Some(network) = network.filter(|n| n.inputs() != inputs) {
                let reason = format!("its first size is {}, an edge has {inputs} numbers for it", network.inputs());
                return Err(config_error(format!("{name}.{what}"), reason));
            }
        }
        Ok(())
    }
}

/// Scalars of sender and of receiver that the radial network of the attention block sees.
pub(super) const ATTENTION_SCALARS: usize = 64;

/// The interaction blocks of model definitions §2.5.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Interaction {
    /// `RealAgnosticInteractionBlock`
    Plain,
    /// `RealAgnosticResidualInteractionBlock`
    Residual,
    /// `RealAgnosticDensityInteractionBlock`
    Density,
    /// `RealAgnosticDensityResidualInteractionBlock`
    DensityResidual,
    /// `RealAgnosticResidualNonLinearInteractionBlock`
    ResidualNonLinear,
    /// `RealAgnosticAttResidualInteractionBlock`
    AttentionResidual,
}

impl Interaction {
    /// Whether messages are divided by a learned density instead of the average number of neighbours.
    pub fn has_density(self) -> bool {
        matches!(self, Self::Density | Self::DensityResidual | Self::ResidualNonLinear)
    }

    /// Whether the block hands on a skip connection.
    pub fn has_skip(self) -> bool {
        !matches!(self, Self::Plain | Self::Density)
    }
}

/// A readout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReadoutConfig {
    /// Which layer's features it reads.
    pub layer: usize,
    /// Its form.
    pub kind: ReadoutKind,
    /// Features that it reads.
    #[serde(with = "crate::irreps_serde")]
    pub irreps_in: Irreps,
    /// Hidden scalars over all heads (0 for a linear readout).
    pub hidden: usize,
    /// Activation of the hidden scalars.
    pub activation: Option<String>,
}

impl ReadoutConfig {
    fn validate(&self, name: &str, model: &MaceConfig) -> Result<()> {
        let Some(layer) = model.layers.get(self.layer) else {
            return Err(config_error(name, format!("layer {} of {} does not exist", self.layer, model.layers.len())));
        };
        if self.irreps_in != layer.irreps_out {
            return Err(config_error(name, format!("it reads {}, layer {} gives {}", self.irreps_in, self.layer, layer.irreps_out)));
        }
        if self.kind != ReadoutKind::Linear {
            validation::count(name, self.hidden, MAX_WIDTH)?;
        }
        if !self.hidden.is_multiple_of(model.heads.len()) {
            return Err(config_error(name, format!("{} hidden scalars for {} heads", self.hidden, model.heads.len())));
        }
        self.activation.as_deref().map_or(Ok(()), |a| activation(a, 1.0).map(|_| ()))
    }
}

/// Forms of readouts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReadoutKind {
    /// One linear map.
    Linear,
    /// Linear, activation, linear.
    NonLinear,
    /// Linear, activation, linear with bias, activation, linear with bias.
    NonLinearBias,
}

/// A quantity of the structure or its atoms that is embedded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FieldConfig {
    /// Its name ("total_charge", "total_spin", …).
    pub name: String,
    /// Whether it belongs to atoms (else to the structure).
    pub per_atom: bool,
    /// A table of classes, or a small network.
    pub kind: FieldKind,
    /// Width of its embedding.
    pub width: usize,
    /// Value where an input does not say (0 charge, spin multiplicity 1, …).
    pub default: f64,
}

impl FieldConfig {
    fn validate(&self) -> Result<()> {
        let name = format!("field {}", self.name);
        validation::count(&name, self.width, MAX_WIDTH)?;
        validation::finite(&name, self.default)?;
        match self.kind {
            FieldKind::Categorical { classes, offset } => {
                validation::count(&name, classes, MAX_WIDTH)?;
                if offset.unsigned_abs() > MAX_WIDTH as u64 {
                    return Err(config_error(name, format!("the offset {offset} is beyond {MAX_WIDTH} classes")));
                }
                Ok(())
            }
            FieldKind::Continuous { components: 1 } => Ok(()),
            FieldKind::Continuous { .. } => Err(config_error(name, "only fields with one component are supported")),
        }
    }
}

/// How a field is embedded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "type")]
pub enum FieldKind {
    /// Row value + offset of a table.
    Categorical {
        /// Rows of the table.
        classes: usize,
        /// Added to the value.
        offset: i64,
    },
    /// Linear, SiLU, linear.
    Continuous {
        /// Components of the value.
        components: usize,
    },
}

impl MaceConfig {
    /// Whether a network can be built from this, given the right tensors.
    ///
    /// # Errors
    /// [`crate::PotentialError::Config`], naming the part that is wrong.
    pub fn validate(&self) -> Result<()> {
        validation::elements(&self.elements)?;
        validation::cutoff(self.cutoff)?;
        if self.heads.is_empty() {
            return Err(config_error("heads", "there are none"));
        }
        validation::names("heads", self.heads.iter().map(String::as_str))?;
        validation::edge_degree(&self.edge_irreps)?;
        self.radial.validate()?;
        validation::count("layers", self.layers.len(), MAX_PARTS)?;
        for (t, layer) in self.layers.iter().enumerate() {
            layer.validate(&format!("layers.{t}"), self.radial.size)?;
        }
        let first = &self.layers[0].irreps_in;
        if first.dim() != self.channels() {
            return Err(config_error("layers.0.irreps_in", format!("{first} are not the scalars of the embedding")));
        }
        for (t, pair) in self.layers.windows(2).enumerate() {
            if pair[0].irreps_out != pair[1].irreps_in {
                let reason = format!("{} is not what the layer before gives, {}", pair[1].irreps_in, pair[0].irreps_out);
                return Err(config_error(format!("layers.{}.irreps_in", t + 1), reason));
            }
        }
        if self.readouts.is_empty() || self.readouts.len() > MAX_PARTS {
            return Err(config_error("readouts", format!("{} are not between 1 and {MAX_PARTS}", self.readouts.len())));
        }
        for (r, readout) in self.readouts.iter().enumerate() {
            readout.validate(&format!("readouts.{r}"), self)?;
        }
        if self.fields.len() > MAX_PARTS {
            return Err(config_error("fields", format!("{} are more than {MAX_PARTS}", self.fields.len())));
        }
        validation::names("fields", self.fields.iter().map(|f| f.name.as_str()))?;
        self.fields.iter().try_for_each(FieldConfig::validate)
    }

    /// Name of the published class.
    pub fn class_name(&self) -> &'static str {
        if self.scale_shift { "ScaleShiftMACE" } else { "MACE" }
    }

    /// Channels K of the initial features.
    pub fn channels(&self) -> usize {
        self.layers.first().map_or(0, |l| l.irreps_in.count(Irrep::even(0)))
    }

    pub(crate) fn summary(&self) -> Vec<(String, String)> {
        let hidden = self.layers.first().map_or(String::new(), |l| l.irreps_out.to_string());
        let correlation = self.layers.iter().map(|l| l.correlation.to_string()).collect::<Vec<_>>();
        let mut rows = vec![
            ("hidden irreps".into(), hidden),
            ("edge harmonics".into(), self.edge_irreps.to_string()),
            ("correlation".into(), correlation.join(", ")),
            ("radial basis".into(), format!("{} {:?}", self.radial.size, self.radial.basis).to_lowercase()),
        ];
        if self.radial.transform != Transform::None {
            rows.push(("distance transform".into(), format!("{:?}", self.radial.transform)));
        }
        if self.zbl {
            rows.push(("pair repulsion".into(), "ZBL".into()));
        }
        rows
    }
}
