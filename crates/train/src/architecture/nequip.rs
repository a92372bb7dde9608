//! NequIP and SevenNet from hyperparameters (model definitions §3.2, §4).

use std::f64::consts::PI;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tesseral_o3::{HarmonicParity, Irrep, Irreps, MulIrrep, Parity, TensorProductPaths};
use tesseral_ops::radial::ZblConstants;
use tesseral_potentials::blocks::{MlpConfig, e3nn_gain};
use tesseral_potentials::mace::gate_irreps;
use tesseral_potentials::nequip::{Envelope, NequipConfig, NequipLayerConfig, ReadoutLayer, SelfConnection, ZblConfig};

use super::initialize::{Network, Weights};
use super::{ByParity, Each, Result, TrainingStatistics, activation, at_least_one, gate_activations, irreps_text, scalars, value_error};

/// Exponent of the envelope of NequIP's ZBL term (nequip/nn/pair_potential.py).
const ZBL_ENVELOPE_P: u32 = 6;

/// Hyperparameters of NequIP; names and defaults are those of `nequip.model.NequIPGNNModel`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NequipModelConfig {
    /// Cutoff radius, Å. Default 5.
    pub r_max: f64,
    /// Message-passing layers. Default 4.
    pub num_layers: usize,
    /// Highest degree of features and harmonics. Default 1.
    pub l_max: usize,
    /// Whether features of either parity are kept; otherwise those that behave like harmonics. Default true.
    pub parity: bool,
    /// Channels of every irrep: one number, or one for each degree. Default 32.
    pub num_features: Each<usize>,
    /// Channels of the table of elements. Default that of `num_features` for degree 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub type_embed_num_features: Option<usize>,
    /// Bessel functions. Default 8.
    pub num_bessels: usize,
    /// Whether their frequencies are trained. Default false.
    pub bessel_trainable: bool,
    /// Exponent p of the polynomial envelope. Default 6.
    pub polynomial_cutoff_p: u32,
    /// Hidden layers of the radial network. Default 1.
    pub radial_mlp_depth: usize,
    /// Their size. Default 128.
    pub radial_mlp_width: usize,
    /// Hidden layers of the readout. Default 0.
    pub readout_mlp_hidden_layers_depth: usize,
    /// Their size. Default the channels of the last features.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub readout_mlp_hidden_layers_width: Option<usize>,
    /// Activation between them; `none` for none. Default `silu`.
    pub readout_mlp_nonlinearity: String,
    /// Whether features are added to the next ones by a map of their element's. Default true.
    pub convnet_sc: bool,
    /// Whether features are added to the next ones as they are, where both have the same irreps. Default false.
    pub convnet_resnet: bool,
    /// Whether the first layer has these connections too: then isolated atoms have an energy that is learned. Default false.
    pub learnable_shift: bool,
    /// Activations of scalars. Default `silu` and `tanh`.
    pub convnet_nonlinearity_scalars: ByParity,
    /// Activations of gates. Default `silu` and `tanh`.
    pub convnet_nonlinearity_gates: ByParity,
    /// Whether the scale of each element is trained. Default false.
    pub per_type_energy_scales_trainable: bool,
    /// Whether the shift of each element is trained. Default false.
    pub per_type_energy_shifts_trainable: bool,
    /// Whether the Ziegler–Biersack–Littmark repulsion of close pairs is added. Default false.
    pub pair_potential: bool,
}

impl Default for NequipModelConfig {
    fn default() -> Self {
        Self {
            r_max: 5.0,
            num_layers: 4,
            l_max: 1,
            parity: true,
            num_features: Each::Same(32),
            type_embed_num_features: None,
            num_bessels: 8,
            bessel_trainable: false,
            polynomial_cutoff_p: 6,
            radial_mlp_depth: 1,
            radial_mlp_width: 128,
            readout_mlp_hidden_layers_depth: 0,
            readout_mlp_hidden_layers_width: None,
            readout_mlp_nonlinearity: "silu".into(),
            convnet_sc: true,
            convnet_resnet: false,
            learnable_shift: false,
            convnet_nonlinearity_scalars: ByParity::default(),
            convnet_nonlinearity_gates: ByParity::default(),
            per_type_energy_scales_trainable: false,
            per_type_energy_shifts_trainable: false,
            pair_potential: false,
        }
    }
}

/// Hyperparameters of SevenNet; names and defaults are those of its `input.yaml` (sevenn 0.13), dictionaries flattened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SevenNetModelConfig {
    /// Cutoff radius, Å. Default 4.5.
    pub cutoff: f64,
    /// Channels of every irrep: one number, or one for each degree. Default 32.
    pub channel: Each<usize>,
    /// Highest degree of features and harmonics. Default 1.
    pub lmax: usize,
    /// Highest degree of harmonics, where it is another. Default `lmax`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lmax_edge: Option<usize>,
    /// Highest degree of features, where it is another. Default `lmax`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lmax_node: Option<usize>,
    /// Irreps before the first layer and after each, in place of `channel` and `lmax_node`.
    #[serde(with = "irreps_text::list", skip_serializing_if = "Option::is_none")]
    pub irreps_manual: Option<Vec<Irreps>>,
    /// Whether features have parity; otherwise they are equivariant under rotations only. Default true.
    pub is_parity: bool,
    /// Message-passing layers. Default 3.
    pub num_convolution_layer: usize,
    /// Bessel functions. Default 8.
    pub bessel_basis_num: usize,
    /// Whether their frequencies are trained. Default true.
    pub trainable_coeff: bool,
    /// How radial functions vanish at the cutoff. Default `poly_cut`.
    pub cutoff_function: CutoffFunction,
    /// Exponent p of `poly_cut`. Default 6.
    pub poly_cut_p_value: u32,
    /// Where `XPLOR` begins to fall, Å. No default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cutoff_on: Option<f64>,
    /// Hidden sizes of the radial network. Default 64, 64.
    pub weight_nn_hidden_neurons: Vec<usize>,
    /// Activation of the radial network. Default `silu`.
    pub act_radial: String,
    /// Activations of scalars. Default `silu` and `tanh`.
    pub act_scalar: ByParity,
    /// Activations of gates. Default `silu` and `tanh`.
    pub act_gate: ByParity,
    /// How features are added to the next ones: one for all layers, or one for each. Default `nequip`.
    pub self_connection_type: Each<SelfConnectionType>,
    /// What messages are divided by: the average number of neighbours, its square root, or a number. Default `avg_num_neigh`.
    pub conv_denominator: Denominator,
    /// Whether it is trained. Default false.
    pub train_denominator: bool,
    /// Whether scale and shift are trained. Default false.
    pub train_shift_scale: bool,
    /// Whether linear maps of scalars have biases. Default false.
    pub use_bias_in_linear: bool,
    /// Whether the readout is a network with activations in place of two linear maps. Default false.
    pub readout_as_fcn: bool,
    /// Hidden sizes of that network. Default 30, 30.
    pub readout_fcn_hidden_neurons: Vec<usize>,
    /// Its activation. Default `relu`.
    pub readout_fcn_activation: String,
}

impl Default for SevenNetModelConfig {
    fn default() -> Self {
        Self {
            cutoff: 4.5,
            channel: Each::Same(32),
            lmax: 1,
            lmax_edge: None,
            lmax_node: None,
            irreps_manual: None,
            is_parity: true,
            num_convolution_layer: 3,
            bessel_basis_num: 8,
            trainable_coeff: true,
            cutoff_function: CutoffFunction::PolyCut,
            poly_cut_p_value: 6,
            cutoff_on: None,
            weight_nn_hidden_neurons: vec![64, 64],
            act_radial: "silu".into(),
            act_scalar: ByParity::default(),
            act_gate: ByParity::default(),
            self_connection_type: Each::Same(SelfConnectionType::Nequip),
            conv_denominator: Denominator::AvgNumNeigh,
            train_denominator: false,
            train_shift_scale: false,
            use_bias_in_linear: false,
            readout_as_fcn: false,
            readout_fcn_hidden_neurons: vec![30, 30],
            readout_fcn_activation: "relu".into(),
        }
    }
}

/// How SevenNet's radial functions vanish at the cutoff.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CutoffFunction {
    /// A polynomial.
    #[serde(rename = "poly_cut")]
    PolyCut,
    /// 1 up to `cutoff_on`, then a smooth switch.
    #[serde(rename = "XPLOR")]
    Xplor,
}

/// SevenNet's self connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SelfConnectionType {
    /// A map for each element.
    Nequip,
    /// One map for all elements.
    Linear,
    /// None.
    None,
}

/// What SevenNet divides messages by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Denominator {
    /// The average number of neighbours.
    AvgNumNeigh,
    /// Its square root.
    SqrtAvgNumNeigh,
    /// A number.
    Value(f64),
}

const AVERAGE: &str = "avg_num_neigh";
const SQRT_AVERAGE: &str = "sqrt_avg_num_neigh";

impl Serialize for Denominator {
    fn serialize<S: Serializer>(&self, s: S) -> std::result::Result<S::Ok, S::Error> {
        match self {
            Self::AvgNumNeigh => s.serialize_str(AVERAGE),
            Self::SqrtAvgNumNeigh => s.serialize_str(SQRT_AVERAGE),
            Self::Value(value) => s.serialize_f64(*value),
        }
    }
}

impl<'de> Deserialize<'de> for Denominator {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        struct Visitor;

        impl serde::de::Visitor<'_> for Visitor {
            type Value = Denominator;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "`{AVERAGE}`, `{SQRT_AVERAGE}` or a number")
            }

            fn visit_f64<E: serde::de::Error>(self, v: f64) -> std::result::Result<Denominator, E> {
                Ok(Denominator::Value(v))
            }

            fn visit_i64<E: serde::de::Error>(self, v: i64) -> std::result::Result<Denominator, E> {
                Ok(Denominator::Value(v as f64))
            }

            fn visit_u64<E: serde::de::Error>(self, v: u64) -> std::result::Result<Denominator, E> {
                Ok(Denominator::Value(v as f64))
            }

            fn visit_str<E: serde::de::Error>(self, v: &str) -> std::result::Result<Denominator, E> {
                match v {
                    AVERAGE => Ok(Denominator::AvgNumNeigh),
                    SQRT_AVERAGE => Ok(Denominator::SqrtAvgNumNeigh),
                    _ => Err(E::unknown_variant(v, &[AVERAGE, SQRT_AVERAGE])),
                }
            }
        }

        d.deserialize_any(Visitor)
    }
}

/// What a layer is made of, beside the irreps that come in.
struct Layer {
    irreps_out: Irreps,
    paths: TensorProductPaths,
    hidden: Vec<usize>,
    bias: bool,
    resnet: bool,
}

impl Layer {
    /// The tensors of its linear maps and radial network, and its description without a self connection.
    fn describe(
        self,
        t: usize,
        irreps_in: &Irreps,
        basis: usize,
        radial: impl Fn(Vec<usize>) -> MlpConfig,
        kind: Network,
        weights: &mut Weights,
    ) -> NequipLayerConfig {
        let name = |what: &str| format!("layers.{t}.{what}");
        let irreps_gate = gate_irreps(&self.irreps_out);
        let irreps_message = self.paths.mid_irreps().regroup();
        let radial = radial([&[basis], self.hidden.as_slice(), &[self.paths.weight_numel()]].concat());
        for (what, from, to) in [("linear_1", irreps_in, irreps_in), ("linear_2", &irreps_message, &irreps_gate)] {
            weights.linear(&name(what), from, to, 1);
            bias(&name(what), to, self.bias, weights);
        }
        weights.network(&name("radial"), &radial, kind);
        NequipLayerConfig {
            irreps_in: irreps_in.clone(),
            irreps_message,
            irreps_gate,
            irreps_out: self.irreps_out,
            self_connection: SelfConnection::None,
            radial,
            resnet: self.resnet,
            bias: self.bias,
            modal_1: false,
            modal_2: false,
        }
    }
}

/// A bias on the even scalars of a linear map, zero at first.
fn bias(name: &str, irreps_out: &Irreps, on: bool, weights: &mut Weights) {
    let count = irreps_out.count(Irrep::even(0));
    if on && count > 0 {
        weights.constant(format!("{name}.bias"), &[count], 0.0);
    }
}

/// What both packages have in common at the beginning and the end.
fn radial_and_energies(basis: usize, cutoff: f64, statistics: &TrainingStatistics, heads: &[String], weights: &mut Weights) -> Result<()> {
    if heads.len() > 1 {
        return value_error(
            "family",
            format!("has one head, and the data have {}: {}; MACE can have several", heads.len(), heads.join(", ")),
        );
    }
    let z = statistics.elements.len();
    weights.push("radial.frequencies", &[basis], (1..=basis).map(|n| n as f64 * PI / cutoff).collect());
    weights.constant("scale", &[1, z], statistics.scale[0]);
    weights.push("shift", &[1, z], statistics.e0s[0].iter().map(|e0| e0 + statistics.shift[0]).collect());
    Ok(())
}

/// Channels of each degree.
fn channels_by_degree(key: &'static str, sizes: &Each<usize>, l_max: usize) -> Result<Vec<usize>> {
    let sizes = sizes.of(key, l_max + 1, "degrees")?;
    sizes.iter().try_for_each(|&n| at_least_one(key, n))?;
    Ok(sizes)
}

/// NequIP's configuration; its tensors go to `weights`.
pub(super) fn build_nequip(
    config: &NequipModelConfig,
    statistics: &TrainingStatistics,
    heads: &[String],
    weights: &mut Weights,
) -> Result<NequipConfig> {
    at_least_one("num_layers", config.num_layers)?;
    at_least_one("num_bessels", config.num_bessels)?;
    at_least_one("radial_mlp_width", config.radial_mlp_width)?;
    let edge_irreps = Irreps::spherical_harmonics(config.l_max, HarmonicParity::Natural)?;
    let sizes = channels_by_degree("num_features", &config.num_features, config.l_max)?;
    let channels = config.type_embed_num_features.unwrap_or(sizes[0]);
    at_least_one("type_embed_num_features", channels)?;
    config.convnet_nonlinearity_scalars.check("convnet_nonlinearity_scalars")?;
    config.convnet_nonlinearity_gates.check("convnet_nonlinearity_gates")?;
    let parities = |l: usize| if config.parity { vec![Irrep::odd(l), Irrep::even(l)] } else { vec![Irrep::natural(l)] };
    let wanted = (0..=config.l_max).flat_map(|l| parities(l).into_iter().map(move |irrep| (l, irrep)));
    let hidden = Irreps::new(wanted.map(|(l, irrep)| MulIrrep::new(sizes[l], irrep)).collect())?;

    let (z, elements) = (statistics.elements.len(), statistics.elements.clone());
    radial_and_energies(config.num_bessels, config.r_max, statistics, heads, weights)?;
    // The table is both the initial features and what self connections depend on.
    let table = weights.stream("embedding.weight").normal(z * channels, 1.0);
    weights.push("embedding.weight", &[z, channels], table.clone());
    let mut irreps_in = scalars(channels)?;
    let mut layers = Vec::with_capacity(config.num_layers);
    for t in 0..config.num_layers {
        let reached = TensorProductPaths::new(&irreps_in, &edge_irreps, |_| true)?.mid_irreps().regroup();
        let wanted = if t + 1 == config.num_layers { scalars(sizes[0])? } else { hidden.clone() };
        let irreps_out = wanted.filter(|b| reached.contains(b.irrep));
        let gate = gate_irreps(&irreps_out);
        let connected = config.learnable_shift || t > 0;
        let layer = Layer {
            paths: TensorProductPaths::new(&irreps_in, &edge_irreps, |irrep| gate.contains(irrep))?,
            hidden: vec![config.radial_mlp_width; config.radial_mlp_depth],
            bias: false,
            resnet: connected && config.convnet_resnet && irreps_out == irreps_in,
            irreps_out,
        };
        let mut description = layer.describe(t, &irreps_in, config.num_bessels, MlpConfig::nequip, Network::Nequip, weights);
        if connected && config.convnet_sc {
            self_connection(t, &description, &table, channels, weights);
            description.self_connection = SelfConnection::Element { fan_in: channels };
        }
        weights.push(format!("layers.{t}.denominator"), &[1], vec![statistics.avg_num_neighbors.sqrt()]);
        irreps_in = description.irreps_out.clone();
        layers.push(description);
    }

    // The readout: a `ScalarMLP`.
    let width = config.readout_mlp_hidden_layers_width.unwrap_or(sizes[0]);
    at_least_one("readout_mlp_hidden_layers_width", width)?;
    let nonlinearity =
        if config.readout_mlp_nonlinearity.eq_ignore_ascii_case("none") { None } else { Some(&config.readout_mlp_nonlinearity) };
    nonlinearity.map_or(Ok(()), |name| activation("readout_mlp_nonlinearity", name))?;
    let dims = [&[sizes[0]][..], &vec![width; config.readout_mlp_hidden_layers_depth], &[1]].concat();
    let readout = MlpConfig::nequip(dims.clone());
    weights.network("readout", &readout, Network::Nequip);
    let last = dims.len() - 2;
    let readout = dims.windows(2).enumerate().map(|(k, d)| ReadoutLayer {
        size_in: d[0],
        size_out: d[1],
        // The gain of √2 makes up for the activation before the matrix.
        scale: if nonlinearity.is_some() { readout.scales[k] } else { 1.0 / (d[0] as f64).sqrt() },
        activation: nonlinearity.filter(|_| k < last).map(|name| (name.clone(), 1.0)),
        bias: false,
        modal: false,
    });

    let model = NequipConfig {
        elements,
        cutoff: config.r_max,
        modalities: Vec::new(),
        edge_irreps,
        normalize_harmonics: true,
        basis_size: config.num_bessels,
        basis_prefactor: 2.0 / config.r_max,
        envelope: Envelope::Polynomial { p: config.polynomial_cutoff_p },
        channels,
        embedding_scale: 1.0,
        readout: readout.collect(),
        layers,
        activations: gate_activations(&config.convnet_nonlinearity_scalars, &config.convnet_nonlinearity_gates),
        zbl: config.pair_potential.then_some(ZblConfig { envelope_p: ZBL_ENVELOPE_P, coulomb: ZblConstants::LAMMPS.coulomb }),
    };
    model.validate()?;
    Ok(model)
}

/// NequIP's self connection: e3nn's `[mul_in, C, mul_out]` for each pair of blocks, contracted with the row of each element, as artifacts hold it.
fn self_connection(t: usize, layer: &NequipLayerConfig, table: &[f64], channels: usize, weights: &mut Weights) {
    let name = format!("layers.{t}.self_connection.weight");
    let mut stream = weights.stream(&name);
    let elements = table.len() / channels;
    let mut rows = vec![Vec::new(); elements];
    for block in &layer.irreps_in {
        for gate in layer.irreps_gate.iter().filter(|g| g.irrep == block.irrep) {
            for _ in 0..block.mul {
                let matrix = stream.normal(channels * gate.mul, 1.0);
                for (row, attributes) in rows.iter_mut().zip(table.chunks_exact(channels)) {
                    let column = |w: usize| attributes.iter().enumerate().map(|(c, a)| a * matrix[c * gate.mul + w]).sum::<f64>();
                    row.extend((0..gate.mul).map(column));
                }
            }
        }
    }
    let numel = rows.first().map_or(0, Vec::len);
    weights.push(name, &[elements, numel], rows.concat());
}

impl SevenNetModelConfig {
    fn envelope(&self) -> Result<Envelope> {
        match (self.cutoff_function, self.cutoff_on) {
            (CutoffFunction::PolyCut, _) => Ok(Envelope::Polynomial { p: self.poly_cut_p_value }),
            (CutoffFunction::Xplor, Some(onset)) if onset < self.cutoff => Ok(Envelope::Xplor { onset }),
            (CutoffFunction::Xplor, Some(onset)) => {
                value_error("cutoff_on", format!("is {onset} Å, which is not below the cutoff of {} Å", self.cutoff))
            }
            (CutoffFunction::Xplor, None) => value_error("cutoff_on", "is missing: where XPLOR begins to fall, Å"),
        }
    }

    /// The irreps that the products reach up to `l_max`, the last layer even ones alone, each with its channels (sevenn/util.py).
    fn inferred(&self, irreps_in: &Irreps, edge: &Irreps, l_max: usize, last: bool, sizes: &[usize]) -> Result<Irreps> {
        let paths = TensorProductPaths::new(irreps_in, edge, |irrep| irrep.l <= l_max && !(last && irrep.parity == Parity::Odd))?;
        let reached = paths.mid_irreps().regroup();
        Ok(Irreps::new(reached.iter().map(|b| MulIrrep::new(sizes[b.irrep.l], b.irrep)).collect())?)
    }

    /// The readout, and its tensors.
    fn readout(&self, channels: usize, weights: &mut Weights) -> Result<Vec<ReadoutLayer>> {
        let map = |size_in: usize, size_out: usize| ReadoutLayer {
            size_in,
            size_out,
            scale: 1.0 / (size_in as f64).sqrt(),
            activation: None,
            bias: false,
            modal: false,
        };
        if self.readout_as_fcn {
            let name = &self.readout_fcn_activation;
            activation("readout_fcn_activation", name)?;
            let gain = e3nn_gain(name)?;
            self.readout_fcn_hidden_neurons.iter().try_for_each(|&n| at_least_one("readout_fcn_hidden_neurons", n))?;
            let dims = [&[channels][..], &self.readout_fcn_hidden_neurons, &[1]].concat();
            weights.network("readout", &MlpConfig::e3nn(dims.clone()), Network::E3nn);
            let last = dims.len() - 2;
            let maps = dims.windows(2).enumerate();
            return Ok(maps
                .map(|(k, d)| ReadoutLayer { activation: (k < last).then(|| (name.clone(), gain)), ..map(d[0], d[1]) })
                .collect());
        }
        if channels < 2 {
            return value_error("channel", format!("leaves {channels} scalars for the readout, which halves them"));
        }
        let maps = [map(channels, channels / 2), map(channels / 2, 1)];
        for (k, m) in maps.iter().enumerate() {
            weights.normal(format!("readout.{k}.weight"), &[m.size_in, m.size_out], 1.0);
            bias(&format!("readout.{k}"), &scalars(m.size_out)?, self.use_bias_in_linear, weights);
        }
        Ok(maps.map(|m| ReadoutLayer { bias: self.use_bias_in_linear, ..m }).into())
    }
}

/// SevenNet's configuration; its tensors go to `weights`.
pub(super) fn build_sevennet(
    config: &SevenNetModelConfig,
    statistics: &TrainingStatistics,
    heads: &[String],
    weights: &mut Weights,
) -> Result<NequipConfig> {
    let count = config.num_convolution_layer;
    at_least_one("num_convolution_layer", count)?;
    at_least_one("bessel_basis_num", config.bessel_basis_num)?;
    config.weight_nn_hidden_neurons.iter().try_for_each(|&n| at_least_one("weight_nn_hidden_neurons", n))?;
    activation("act_radial", &config.act_radial)?;
    config.act_scalar.check("act_scalar")?;
    config.act_gate.check("act_gate")?;
    let harmonics = if config.is_parity { HarmonicParity::Natural } else { HarmonicParity::Even };
    let edge_irreps = Irreps::spherical_harmonics(config.lmax_edge.unwrap_or(config.lmax), harmonics)?;
    let l_node = config.lmax_node.unwrap_or(config.lmax);
    let sizes = channels_by_degree("channel", &config.channel, l_node)?;
    let connections = config.self_connection_type.of("self_connection_type", count, "layers")?;
    let gain = e3nn_gain(&config.act_radial)?;
    let denominator = match config.conv_denominator {
        Denominator::AvgNumNeigh => statistics.avg_num_neighbors,
        Denominator::SqrtAvgNumNeigh => statistics.avg_num_neighbors.sqrt(),
        Denominator::Value(value) if value > 0.0 && value.is_finite() => value,
        Denominator::Value(value) => return value_error("conv_denominator", format!("is {value}, not a positive number")),
    };
    if let Some(list) = config.irreps_manual.as_ref().filter(|list| list.len() != count + 1) {
        return value_error("irreps_manual", format!("has {} entries; {count} layers need {}", list.len(), count + 1));
    }
    let scalars_only = |irreps: &Irreps| !irreps.is_empty() && irreps.iter().all(|b| b.irrep.is_scalar());
    let manual = |t: usize| config.irreps_manual.as_ref().map(|list| list[t].regroup());
    for t in [0, count] {
        if let Some(irreps) = manual(t).filter(|irreps| !scalars_only(irreps)) {
            return value_error("irreps_manual", format!("begins or ends with {irreps}; even scalars are needed there"));
        }
    }

    let (z, elements) = (statistics.elements.len(), statistics.elements.clone());
    let bias_on = config.use_bias_in_linear;
    radial_and_energies(config.bessel_basis_num, config.cutoff, statistics, heads, weights)?;
    let mut irreps_in = manual(0).map_or_else(|| scalars(sizes[0]), Ok)?;
    let channels = irreps_in.dim();
    weights.normal("embedding.weight", &[z, channels], 1.0);
    bias("embedding", &irreps_in, bias_on, weights);
    let mut layers = Vec::with_capacity(count);
    for (t, connection) in connections.into_iter().enumerate() {
        let last = t + 1 == count;
        let irreps_out = match manual(t + 1) {
            Some(irreps) => irreps,
            None => config.inferred(&irreps_in, &edge_irreps, if last { 0 } else { l_node }, last, &sizes)?,
        };
        if irreps_out.count(Irrep::even(0)) == 0 {
            return value_error("irreps_manual", format!("has {irreps_out}, without even scalars for the gates"));
        }
        let l_max = irreps_out.l_max().unwrap_or(0);
        let keep = |irrep: Irrep| irrep.l <= l_max && !(last && irrep.parity == Parity::Odd);
        let paths = TensorProductPaths::new(&irreps_in, &edge_irreps, keep)?;
        let layer = Layer { irreps_out, paths, hidden: config.weight_nn_hidden_neurons.clone(), bias: bias_on, resnet: false };
        let radial = |sizes| MlpConfig { activation: config.act_radial.clone(), gain, ..MlpConfig::e3nn(sizes) };
        let mut description = layer.describe(t, &irreps_in, config.bessel_basis_num, radial, Network::E3nn, weights);
        let (name, gate) = (format!("layers.{t}.self_connection"), &description.irreps_gate);
        description.self_connection = match connection {
            SelfConnectionType::None => SelfConnection::None,
            SelfConnectionType::Linear => {
                weights.linear(&name, &irreps_in, gate, 1);
                SelfConnection::Linear
            }
            SelfConnectionType::Nequip => {
                weights.linear(&name, &irreps_in, gate, z);
                SelfConnection::Element { fan_in: z }
            }
        };
        weights.push(format!("layers.{t}.denominator"), &[1], vec![denominator]);
        irreps_in = description.irreps_out.clone();
        layers.push(description);
    }
    let readout = config.readout(irreps_in.dim(), weights)?;
    let model = NequipConfig {
        elements,
        cutoff: config.cutoff,
        modalities: Vec::new(),
        edge_irreps,
        normalize_harmonics: true,
        basis_size: config.bessel_basis_num,
        basis_prefactor: 2.0 / config.cutoff,
        envelope: config.envelope()?,
        channels,
        embedding_scale: 1.0 / (z as f64).sqrt(),
        layers,
        readout,
        activations: gate_activations(&config.act_scalar, &config.act_gate),
        zbl: None,
    };
    model.validate()?;
    Ok(model)
}
