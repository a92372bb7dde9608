//! MACE from hyperparameters (model definitions §2.4 to §2.8).

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};
use tesseral_atoms::elements::covalent_radius;
use tesseral_o3::symmetric_basis::{full_basis, symmetrised_basis};
use tesseral_o3::{HarmonicParity, Irrep, Irreps, Monomials, MulIrrep, TensorProductPaths};
use tesseral_ops::radial::ZblConstants;
use tesseral_potentials::blocks::MlpConfig;
use tesseral_potentials::mace::{
    Basis, FieldConfig, FieldKind, Interaction, LayerConfig, MaceConfig, RadialConfig, ReadoutConfig, ReadoutKind, Transform, gate_irreps,
};

use super::initialize::{Network, Weights};
use super::{ArchitectureError, Each, Result, TrainingStatistics, activation, at_least_one, irreps_text, scalars, value_error};

/// Coefficients of a product basis up to this are rounding noise of its construction.
const NOISE: f64 = 1e-13;
/// Parameters of the Agnesi transform, a, q and p (mace/modules/radial.py).
const AGNESI: [f64; 3] = [1.0805, 0.9183, 4.5791];
/// Steepness of the soft transform (mace/modules/radial.py).
const SOFT_ALPHA: f64 = 4.0;
/// Exponent and length of the ZBL screening (mace/modules/radial.py), the length in units of 0.529 Å.
const ZBL_LENGTH: [f64; 2] = [0.300, 0.4543];
/// Source and target embeddings of the non-linear block begin uniform in ± this (mace/modules/blocks.py).
const EMBEDDING_LIMIT: f64 = 0.001;
/// What the non-linear block divides messages by at first, α + β·density (mace/modules/blocks.py).
const ALPHA_BETA: [f64; 2] = [20.0, 0.0];
/// Hidden sizes of the radial network of the attention block, and the scalars of each atom that it sees (mace/modules/blocks.py).
const ATTENTION: ([usize; 3], usize) = ([256; 3], 64);
/// Hidden size of the density network of the non-linear block (mace/modules/blocks.py).
const DENSITY_HIDDEN: usize = 64;

/// Hyperparameters of MACE; names and defaults are those of `mace_run_train` (mace-torch 0.3.16).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MaceModelConfig {
    /// Cutoff radius, Å. Default 5.
    pub r_max: f64,
    /// Channels of every irrep. Default 128.
    pub num_channels: usize,
    /// Highest degree of the features that atoms send. Default 1.
    #[serde(rename = "max_L")]
    pub max_l: usize,
    /// Features that atoms send, such as `64x0e+64x1o`, in place of `num_channels` and `max_L`: scalars first, as many channels of each.
    #[serde(with = "irreps_text::option", skip_serializing_if = "Option::is_none")]
    pub hidden_irreps: Option<Irreps>,
    /// Highest degree of the edge harmonics. Default 3.
    pub max_ell: usize,
    /// Message-passing layers. Default 2.
    pub num_interactions: usize,
    /// Correlation order ν (body order ν + 1): one, or one for each layer. Default 3.
    pub correlation: Each<usize>,
    /// Interaction block of the first layer. Default `residual`.
    pub interaction_first: InteractionName,
    /// Interaction block of the later layers. Default `residual`.
    pub interaction: InteractionName,
    /// Radial basis functions. Default `bessel`.
    pub radial_type: RadialType,
    /// How many radial basis functions. Default 8.
    pub num_radial_basis: usize,
    /// Exponent p of the polynomial envelope, also of the pair repulsion. Default 5.
    pub num_cutoff_basis: u32,
    /// Transform of distances before the basis. Default `none`.
    pub distance_transform: DistanceTransform,
    /// Whether the envelope multiplies the basis; otherwise it multiplies what the radial network makes of it. Default true.
    pub apply_cutoff: bool,
    /// Hidden sizes of the radial network. Default 64, 64, 64.
    #[serde(rename = "radial_MLP")]
    pub radial_mlp: Vec<usize>,
    /// Hidden scalars of the last readout, for each head. Default `16x0e`.
    #[serde(rename = "MLP_irreps", with = "irreps_text")]
    pub mlp_irreps: Irreps,
    /// Activation of the last readout: `silu`, `tanh`, `abs` or `none`. Default `silu`.
    pub gate: String,
    /// The last readout. Default `non-linear`.
    pub readout: Readout,
    /// Whether the network's energies are scaled and shifted (ScaleShiftMACE); otherwise the shift is added to the energies of isolated
    /// atoms and the scale left out. Default true.
    pub scale_shift: bool,
    /// Whether the Ziegler–Biersack–Littmark repulsion of close pairs is added. Default false.
    pub pair_repulsion: bool,
    /// Features that are sent along edges, where they are to be fewer than those of atoms, such as `32x0e+32x1o`. Default those of atoms.
    #[serde(with = "irreps_text::option", skip_serializing_if = "Option::is_none")]
    pub edge_irreps: Option<Irreps>,
    /// Whether `edge_irreps` count in the first layer too. Default false.
    pub use_edge_irreps_first: bool,
    /// Whether the product basis is one without redundancy (symmetric tensors, orthogonalised) in place of all couplings. It spans the same
    /// functions with fewer weights. Default false, as in `mace_run_train`.
    pub use_reduced_cg: bool,
    /// Whether features are equivariant under rotations only, without parity. Default false.
    pub use_so3: bool,
    /// Whether all elements share the weights of the product basis. Default false.
    pub use_agnostic_product: bool,
    /// Whether only the last layer is read out. Default false.
    pub use_last_readout_only: bool,
    /// Whether the last layer keeps all irreps in place of its scalars. Default false.
    pub keep_last_layer_irreps: bool,
    /// Charge, spin and other quantities that are embedded into the initial features. Default none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub embedding_specs: Vec<EmbeddingSpec>,
    /// Whether the initial features with what is embedded have a readout of their own. Default false.
    pub use_embedding_readout: bool,
}

impl Default for MaceModelConfig {
    fn default() -> Self {
        Self {
            r_max: 5.0,
            num_channels: 128,
            max_l: 1,
            hidden_irreps: None,
            max_ell: 3,
            num_interactions: 2,
            correlation: Each::Same(3),
            interaction_first: InteractionName::Residual,
            interaction: InteractionName::Residual,
            radial_type: RadialType::Bessel,
            num_radial_basis: 8,
            num_cutoff_basis: 5,
            distance_transform: DistanceTransform::None,
            apply_cutoff: true,
            radial_mlp: vec![64; 3],
            mlp_irreps: scalars(16).unwrap_or_default(),
            gate: "silu".into(),
            readout: Readout::NonLinear,
            scale_shift: true,
            pair_repulsion: false,
            edge_irreps: None,
            use_edge_irreps_first: false,
            use_reduced_cg: false,
            use_so3: false,
            use_agnostic_product: false,
            use_last_readout_only: false,
            keep_last_layer_irreps: false,
            embedding_specs: Vec::new(),
            use_embedding_readout: false,
        }
    }
}

/// Interaction blocks; those of MACE by their short names or the names of their classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InteractionName {
    /// Messages over the average number of neighbours, then a product with the element.
    #[serde(alias = "RealAgnosticInteractionBlock")]
    Plain,
    /// Messages over the average number of neighbours, and a self connection by element.
    #[serde(alias = "RealAgnosticResidualInteractionBlock")]
    Residual,
    /// As `plain`, over a learned density of neighbours.
    #[serde(alias = "RealAgnosticDensityInteractionBlock")]
    Density,
    /// As `residual`, over a learned density of neighbours.
    #[serde(alias = "RealAgnosticDensityResidualInteractionBlock")]
    DensityResidual,
    /// Messages through a gate, radial weights that see both elements.
    #[serde(alias = "RealAgnosticResidualNonLinearInteractionBlock")]
    ResidualNonLinear,
    /// Radial weights that see the scalars of both atoms.
    #[serde(alias = "RealAgnosticAttResidualInteractionBlock")]
    AttentionResidual,
}

impl InteractionName {
    fn block(self) -> Interaction {
        match self {
            Self::Plain => Interaction::Plain,
            Self::Residual => Interaction::Residual,
            Self::Density => Interaction::Density,
            Self::DensityResidual => Interaction::DensityResidual,
            Self::ResidualNonLinear => Interaction::ResidualNonLinear,
            Self::AttentionResidual => Interaction::AttentionResidual,
        }
    }

    /// Whether the block hands on a self connection.
    pub fn has_skip(self) -> bool {
        self.block().has_skip()
    }
}

/// Radial basis functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RadialType {
    /// √(2/r_max) sin(nπ t/r_max)/t
    Bessel,
    /// Gaussians with centres evenly from 0 to r_max
    Gaussian,
    /// Chebyshev polynomials, for transformed distances
    Chebyshev,
}

/// Transforms of distances before the radial basis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DistanceTransform {
    /// The distance itself.
    #[serde(alias = "None")]
    None,
    /// Distances in units of the mean covalent radius, onto 0 to 1.
    #[serde(alias = "Agnesi")]
    Agnesi,
    /// A smooth step around the bond length.
    #[serde(alias = "Soft")]
    Soft,
}

/// Forms of the last readout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Readout {
    /// Linear, activation, linear.
    #[serde(alias = "NonLinearReadoutBlock")]
    NonLinear,
    /// Linear, activation, linear with bias, activation, linear with bias.
    #[serde(alias = "NonLinearBiasReadoutBlock")]
    NonLinearBias,
}

/// A quantity that is embedded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmbeddingSpec {
    /// Its name in the files: `total_charge`, `total_spin`, ….
    pub name: String,
    /// Whether it has classes or is a number.
    #[serde(rename = "type")]
    pub kind: EmbeddingType,
    /// Whether it belongs to structures or atoms. Default `graph`.
    #[serde(default)]
    pub per: Per,
    /// How many classes (`categorical`). Default 1.
    #[serde(default = "one")]
    pub num_classes: usize,
    /// What is added to a value to give its class, counted from 0 (`categorical`). Default 0.
    #[serde(default)]
    pub offset: i64,
    /// Width of the embedding.
    pub emb_dim: usize,
    /// Value where a structure does not say. Default 0, for `total_spin` (a multiplicity) 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<f64>,
}

fn one() -> usize {
    1
}

/// Kinds of embedded quantities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EmbeddingType {
    /// Whole numbers, each with a vector of its own.
    Categorical,
    /// Numbers, through a small network.
    Continuous,
}

/// What an embedded quantity belongs to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Per {
    /// The structure.
    #[default]
    Graph,
    /// Each atom.
    Node,
}

impl MaceModelConfig {
    /// What parity harmonics and features are given.
    fn parity(&self) -> HarmonicParity {
        if self.use_so3 { HarmonicParity::Even } else { HarmonicParity::Natural }
    }

    /// Features that atoms send.
    fn hidden(&self) -> Result<Irreps> {
        let Some(given) = &self.hidden_irreps else {
            at_least_one("num_channels", self.num_channels)?;
            let one = Irreps::spherical_harmonics(self.max_l, self.parity())?;
            return channels(&one, self.num_channels);
        };
        match given.blocks() {
            [first, rest @ ..] if first.irrep.is_scalar() && first.mul > 0 && rest.iter().all(|b| b.mul == first.mul) => {
                let distinct = |(k, b): (usize, &MulIrrep)| rest[..k].iter().chain([first]).all(|other| other.irrep != b.irrep);
                if rest.iter().enumerate().all(distinct) {
                    return Ok(given.clone());
                }
                value_error("hidden_irreps", format!("is {given}, which has an irrep twice"))
            }
            _ => value_error("hidden_irreps", format!("is {given}; even scalars come first, with as many channels as every other irrep")),
        }
    }

    fn radial(&self) -> RadialConfig {
        RadialConfig {
            basis: match self.radial_type {
                RadialType::Bessel => Basis::Bessel,
                RadialType::Gaussian => Basis::Gaussian,
                RadialType::Chebyshev => Basis::Chebyshev,
            },
            size: self.num_radial_basis,
            transform: match self.distance_transform {
                DistanceTransform::None => Transform::None,
                DistanceTransform::Agnesi => Transform::Agnesi,
                DistanceTransform::Soft => Transform::Soft,
            },
            envelope_p: self.num_cutoff_basis,
            envelope_on_basis: self.apply_cutoff,
        }
    }

    /// The layers, without weights.
    fn layers(&self, edge: &Irreps, avg_num_neighbors: f64) -> Result<Vec<LayerConfig>> {
        at_least_one("num_interactions", self.num_interactions)?;
        at_least_one("num_radial_basis", self.num_radial_basis)?;
        if self.radial_mlp.contains(&0) {
            return value_error("radial_MLP", "has a layer of size 0");
        }
        let count = self.num_interactions;
        let correlation = self.correlation.of("correlation", count, "layers")?;
        let hidden = self.hidden()?;
        let k = hidden.count(Irrep::even(0));
        let last = Irreps::new(vec![hidden.blocks()[0]])?;
        let first_target = channels(edge, k)?;
        // With odd scalars, messages have both parities of every degree, from the second layer on.
        let later_target = if hidden.contains(Irrep::odd(0)) {
            let both = (0..=self.max_ell).flat_map(|l| [Irrep::odd(l), Irrep::even(l)]).map(|irrep| MulIrrep::new(k, irrep));
            Irreps::new(both.collect())?.regroup()
        } else {
            first_target.clone()
        };
        (0..count)
            .map(|t| {
                let first = t == 0;
                let name = if first { self.interaction_first } else { self.interaction };
                let irreps_in = if first { scalars(k)? } else { hidden.clone() };
                let irreps_edge = match &self.edge_irreps {
                    Some(edge) if first && self.use_edge_irreps_first => scalars(edge.count(Irrep::even(0)))?,
                    Some(edge) if !first => edge.clone(),
                    _ => irreps_in.clone(),
                };
                if irreps_edge.dim() == 0 {
                    return value_error("edge_irreps", "has no even scalars");
                }
                let irreps_target = if first { first_target.clone() } else { later_target.clone() };
                let scalars_only = t + 1 == count && (count == 1 || !self.keep_last_layer_irreps);
                let irreps_out = if scalars_only { last.clone() } else { hidden.clone() };
                let paths = TensorProductPaths::new(&irreps_edge, edge, |irrep| irreps_target.contains(irrep))?;
                let basis = self.num_radial_basis;
                let with_basis = |inputs: usize, hidden: &[usize], outputs: usize| [&[inputs], hidden, &[outputs]].concat();
                let weights = paths.weight_numel();
                let (radial, density) = match name {
                    InteractionName::ResidualNonLinear => {
                        let inputs = basis + 2 * irreps_in.count(Irrep::even(0));
                        let radial = MlpConfig::layer_norm(with_basis(inputs, &self.radial_mlp, weights));
                        (radial, Some(MlpConfig::layer_norm(vec![inputs, DENSITY_HIDDEN, 1])))
                    }
                    InteractionName::AttentionResidual => {
                        (MlpConfig::e3nn(with_basis(basis + 2 * ATTENTION.1, &ATTENTION.0, weights)), None)
                    }
                    InteractionName::Density | InteractionName::DensityResidual => {
                        (MlpConfig::e3nn(with_basis(basis, &self.radial_mlp, weights)), Some(MlpConfig::e3nn(vec![basis, 1])))
                    }
                    InteractionName::Plain | InteractionName::Residual => {
                        (MlpConfig::e3nn(with_basis(basis, &self.radial_mlp, weights)), None)
                    }
                };
                Ok(LayerConfig {
                    interaction: name.block(),
                    irreps_in,
                    irreps_edge,
                    irreps_target,
                    irreps_out,
                    avg_num_neighbors,
                    radial,
                    density,
                    correlation: correlation[t],
                    element_dependent_product: !self.use_agnostic_product,
                    skip: name.has_skip(),
                })
            })
            .collect()
    }

    fn readouts(&self, layers: &[LayerConfig], heads: usize) -> Result<Vec<ReadoutConfig>> {
        let hidden = self.mlp_irreps.count(Irrep::even(0));
        if hidden == 0 || hidden != self.mlp_irreps.dim() {
            return value_error("MLP_irreps", format!("is {}; even scalars are needed", self.mlp_irreps));
        }
        let gate = if self.gate.eq_ignore_ascii_case("none") { None } else { Some(self.gate.clone()) };
        gate.as_deref().map_or(Ok(()), |name| activation("gate", name))?;
        let kind = match self.readout {
            Readout::NonLinear => ReadoutKind::NonLinear,
            Readout::NonLinearBias => ReadoutKind::NonLinearBias,
        };
        let last = layers.len() - 1;
        let linear = |t: usize| ReadoutConfig {
            layer: t,
            kind: ReadoutKind::Linear,
            irreps_in: layers[t].irreps_out.clone(),
            hidden: 0,
            activation: None,
        };
        // The readout of the first layer is linear even where it is the last one too.
        if last == 0 {
            if self.use_last_readout_only {
                return value_error("use_last_readout_only", "leaves a model of one layer without a readout");
            }
            return Ok(vec![linear(0)]);
        }
        let mut readouts: Vec<ReadoutConfig> = if self.use_last_readout_only { Vec::new() } else { (0..last).map(linear).collect() };
        readouts.push(ReadoutConfig { kind, hidden: heads * hidden, activation: gate, ..linear(last) });
        Ok(readouts)
    }

    fn fields(&self) -> Result<Vec<FieldConfig>> {
        if self.use_embedding_readout && self.embedding_specs.is_empty() {
            return value_error("use_embedding_readout", "is on, but `embedding_specs` embeds nothing");
        }
        self.embedding_specs
            .iter()
            .map(|spec| {
                at_least_one("embedding_specs.emb_dim", spec.emb_dim)?;
                let kind = match spec.kind {
                    EmbeddingType::Categorical => {
                        at_least_one("embedding_specs.num_classes", spec.num_classes)?;
                        FieldKind::Categorical { classes: spec.num_classes, offset: spec.offset }
                    }
                    EmbeddingType::Continuous => FieldKind::Continuous { components: 1 },
                };
                let default = spec.default.unwrap_or(if spec.name == "total_spin" { 1.0 } else { 0.0 });
                Ok(FieldConfig { name: spec.name.clone(), per_atom: spec.per == Per::Node, kind, width: spec.emb_dim, default })
            })
            .collect()
    }
}

/// `k` channels of each irrep, sorted.
fn channels(irreps: &Irreps, k: usize) -> Result<Irreps> {
    Ok(Irreps::new(irreps.iter().map(|b| MulIrrep::new(k, b.irrep)).collect())?.regroup())
}

/// The configuration of the network; its tensors go to `weights`.
pub(super) fn build(
    config: &MaceModelConfig,
    statistics: &TrainingStatistics,
    heads: &[String],
    weights: &mut Weights,
) -> Result<MaceConfig> {
    let edge_irreps = Irreps::spherical_harmonics(config.max_ell, config.parity())?;
    let layers = config.layers(&edge_irreps, statistics.avg_num_neighbors)?;
    let model = MaceConfig {
        scale_shift: config.scale_shift,
        elements: statistics.elements.clone(),
        heads: heads.to_vec(),
        cutoff: config.r_max,
        radial: config.radial(),
        edge_irreps,
        readouts: config.readouts(&layers, heads.len())?,
        layers,
        zbl: config.pair_repulsion,
        fields: config.fields()?,
        field_readout: config.use_embedding_readout,
    };
    model.validate()?;

    let (z, k) = (model.elements.len(), model.channels());
    weights.normal("embedding.weight", &[z, k], 1.0);
    radial_tensors(&model, weights)?;
    for (t, layer) in model.layers.iter().enumerate() {
        interaction(&model, layer, t, weights)?;
        product(&model, layer, t, config.use_reduced_cg, weights)?;
    }
    for (r, readout) in model.readouts.iter().enumerate() {
        let (name, out) = (format!("readouts.{r}"), scalars(heads.len())?);
        if readout.kind == ReadoutKind::Linear {
            weights.linear(&format!("{name}.linear_1"), &readout.irreps_in, &out, 1);
            continue;
        }
        let hidden = scalars(readout.hidden)?;
        weights.linear(&format!("{name}.linear_1"), &readout.irreps_in, &hidden, 1);
        if readout.kind == ReadoutKind::NonLinearBias {
            weights.linear(&format!("{name}.linear_mid"), &hidden, &hidden, 1);
            weights.constant(format!("{name}.linear_mid.bias"), &[readout.hidden], 0.0);
            weights.constant(format!("{name}.linear_2.bias"), &[heads.len()], 0.0);
        }
        weights.linear(&format!("{name}.linear_2"), &hidden, &out, 1);
    }
    let shift = |head: usize| if config.scale_shift { 0.0 } else { statistics.shift[head] };
    let energies = statistics.e0s.iter().enumerate().flat_map(|(head, row)| row.iter().map(move |e0| e0 + shift(head))).collect();
    weights.push("atomic_energies", &[heads.len(), z], energies);
    if config.scale_shift {
        weights.push("scale", &[heads.len()], statistics.scale.clone());
        weights.push("shift", &[heads.len()], statistics.shift.clone());
    }
    fields(&model, weights)?;
    Ok(model)
}

fn radial_tensors(model: &MaceConfig, weights: &mut Weights) -> Result<()> {
    let (n, cutoff) = (model.radial.size, model.cutoff);
    match model.radial.basis {
        Basis::Bessel => {
            weights.push("radial.frequencies", &[n], (1..=n).map(|k| k as f64 * PI / cutoff).collect());
            weights.push("radial.prefactor", &[1], vec![(2.0 / cutoff).sqrt()]);
        }
        Basis::Gaussian => weights.push("radial.centers", &[n], (0..n).map(|k| k as f64 * cutoff / (n - 1) as f64).collect()),
        Basis::Chebyshev => {}
    }
    match model.radial.transform {
        Transform::None => {}
        Transform::Agnesi => weights.push("radial.transform", &[3], AGNESI.to_vec()),
        Transform::Soft => weights.push("radial.transform", &[1], vec![SOFT_ALPHA]),
    }
    if model.radial.transform != Transform::None || model.zbl {
        let radius = |z: &u8| {
            let missing =
                || ArchitectureError::Statistics { what: "elements", reason: format!("contain {z}, whose covalent radius is not known") };
            covalent_radius(*z).ok_or_else(missing)
        };
        let radii = model.elements.iter().map(radius).collect::<Result<Vec<_>>>()?;
        weights.push("covalent_radii", &[radii.len()], radii);
    }
    if model.zbl {
        let screening = ZblConstants::MACE.screening.map(|(c, _)| c);
        let values = [&ZBL_LENGTH[..], &screening, &[f64::from(model.radial.envelope_p)]].concat();
        weights.push("zbl", &[7], values);
    }
    Ok(())
}

fn interaction(model: &MaceConfig, layer: &LayerConfig, t: usize, weights: &mut Weights) -> Result<()> {
    let name = |what: &str| format!("layers.{t}.{what}");
    let z = model.elements.len();
    let target = &layer.irreps_target;
    let paths = TensorProductPaths::new(&layer.irreps_edge, &model.edge_irreps, |irrep| target.contains(irrep))?;
    let mid = paths.mid_irreps();
    weights.linear(&name("up"), &layer.irreps_in, &layer.irreps_edge, 1);
    let network = if layer.radial.bias_and_norm { Network::Torch } else { Network::E3nn };
    weights.network(&name("radial"), &layer.radial, network);
    if let Some(density) = &layer.density {
        weights.network(&name("density"), density, network);
    }
    if layer.interaction == Interaction::ResidualNonLinear {
        let gate = gate_irreps(target);
        weights.linear(&name("linear"), mid, &gate, 1);
        weights.linear(&name("residual"), &layer.irreps_edge, &gate, 1);
        weights.linear(&name("linear_2"), target, target, 1);
        weights.linear(&name("skip"), &layer.irreps_in, &layer.irreps_out, 1);
        for what in ["source.weight", "target.weight"] {
            weights.uniform(name(what), &[z, layer.irreps_in.count(Irrep::even(0))], EMBEDDING_LIMIT);
        }
        weights.constant(name("alpha"), &[1], ALPHA_BETA[0]);
        weights.constant(name("beta"), &[1], ALPHA_BETA[1]);
        return Ok(());
    }
    weights.linear(&name("linear"), mid, target, 1);
    match layer.interaction {
        Interaction::Plain | Interaction::Density => weights.linear(&name("mix"), target, target, z),
        Interaction::AttentionResidual => {
            weights.linear(&name("down"), &layer.irreps_in, &scalars(ATTENTION.1)?, 1);
            weights.linear(&name("skip"), &layer.irreps_in, &layer.irreps_out, 1);
        }
        _ => weights.linear(&name("skip"), &layer.irreps_in, &layer.irreps_out, z),
    }
    Ok(())
}

/// The product basis: its polynomials and their weights, normal numbers over the number of paths.
fn product(model: &MaceConfig, layer: &LayerConfig, t: usize, reduced: bool, weights: &mut Weights) -> Result<()> {
    let inputs = Irreps::new(layer.irreps_target.iter().map(|b| MulIrrep::new(1, b.irrep)).collect())?;
    let k = layer.irreps_target.blocks()[0].mul;
    let rows = if layer.element_dependent_product { model.elements.len() } else { 1 };
    for (b, block) in layer.irreps_out.iter().enumerate() {
        let name = |what: &str, nu: usize| format!("layers.{t}.product.{b}.{what}.{nu}");
        for nu in 1..=layer.correlation {
            let basis = if reduced {
                symmetrised_basis(&inputs, block.irrep, nu)?
            } else {
                Monomials::from_dense(&full_basis(&inputs, block.irrep, nu)?).pruned(NOISE)
            };
            // Where nothing of this order couples to the irrep, MACE has one path that is zero, and a weight of zero for it.
            let (paths, exists) = (basis.paths().max(1), basis.paths() > 0);
            weights.table(name("monomials", nu), &[basis.len(), nu], basis.indices().iter().map(|&i| i64::from(i)).collect());
            weights.push(name("basis", nu), &[block.irrep.dim(), basis.len(), paths], basis.coefficients().to_vec());
            let shape = [rows, paths, k];
            if exists {
                weights.normal(name("weights", nu), &shape, 1.0 / paths as f64);
            } else {
                weights.constant(name("weights", nu), &shape, 0.0);
            }
        }
    }
    weights.linear(&format!("layers.{t}.product.linear"), &layer.irreps_out, &layer.irreps_out, 1);
    Ok(())
}

/// Embedded quantities: torch's `Embedding` and `Linear` (mace/modules/embeddings.py).
fn fields(model: &MaceConfig, weights: &mut Weights) -> Result<()> {
    let limit = |inputs: usize| 1.0 / (inputs as f64).sqrt();
    for field in &model.fields {
        let name = |what: &str| format!("fields.{}.{what}", field.name);
        match field.kind {
            FieldKind::Categorical { classes, .. } => weights.normal(name("embedding.weight"), &[classes, field.width], 1.0),
            FieldKind::Continuous { components } => {
                for (what, inputs) in [("linear_1", components), ("linear_2", field.width)] {
                    weights.uniform(name(&format!("{what}.weight")), &[inputs, field.width], limit(inputs));
                    weights.uniform(name(&format!("{what}.bias")), &[field.width], limit(inputs));
                }
            }
        }
    }
    if !model.fields.is_empty() {
        let width = model.fields.iter().map(|f| f.width).sum();
        weights.uniform("fields.project.weight", &[width, model.channels()], limit(width));
    }
    if model.field_readout {
        weights.linear("fields.readout", &scalars(model.channels())?, &scalars(model.heads.len())?, 1);
    }
    Ok(())
}
