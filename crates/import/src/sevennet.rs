//! SevenNet checkpoints → artifacts (model definitions §3).
//!
//! A checkpoint is a dictionary with a state dict and a plain configuration. What changed between versions of the package (module names, the
//! order of radial weights, the sign of some 3j symbols) is undone here, so that artifacts know one convention.

use std::collections::BTreeMap;

use serde_json::Value as Json;
use tesseral_o3::{Convention, HarmonicParity, Irrep, Irreps, MulIrrep, Parity, PathOrder, TensorProductPaths, wigner_3j};
use tesseral_potentials::blocks::MlpConfig;
use tesseral_potentials::nequip::{Envelope, GateActivations, NequipConfig, NequipLayerConfig, ReadoutLayer, SelfConnection};
use tesseral_potentials::{Architecture, Artifact, Header, NamedTensor, Numbers, PotentialError, Provenance};

use crate::source::ForeignCheckpoint;
use crate::torch::tensor::{Tensor, TensorData};

/// What keeps a SevenNet checkpoint from being converted.
#[derive(Debug, thiserror::Error)]
pub enum SevenNetError {
    /// A key of the configuration is missing or has a value that is not understood.
    #[error("the SevenNet configuration's `{key}` {reason}")]
    Config {
        /// The key.
        key: String,
        /// What is wrong.
        reason: String,
    },
    /// A tensor of the state dict is missing.
    #[error("the checkpoint has no tensor `{name}`")]
    MissingTensor {
        /// Its name.
        name: String,
    },
    /// A tensor does not have the size that the configuration implies.
    #[error("tensor `{name}` has shape {found:?}, the configuration implies {expected:?}")]
    Shape {
        /// Its name.
        name: String,
        /// Shape in the checkpoint.
        found: Vec<usize>,
        /// Shape that is needed.
        expected: Vec<usize>,
    },
    /// Reading failed.
    #[error(transparent)]
    Read(#[from] crate::Error),
    /// The artifact could not be made.
    #[error(transparent)]
    Artifact(#[from] PotentialError),
}

fn config_error(key: &str, reason: impl Into<String>) -> SevenNetError {
    SevenNetError::Config { key: key.to_owned(), reason: reason.into() }
}

/// The configuration with its defaults.
struct Config<'a>(&'a Json);

impl Config<'_> {
    fn get(&self, key: &str) -> Option<&Json> {
        self.0.get(key).filter(|v| !v.is_null())
    }

    fn require(&self, key: &str) -> Result<&Json, SevenNetError> {
        self.get(key).ok_or_else(|| config_error(key, "is missing"))
    }

    fn flag(&self, key: &str, default: bool) -> Result<bool, SevenNetError> {
        match self.get(key) {
            None => Ok(default),
            Some(v) => v.as_bool().ok_or_else(|| config_error(key, format!("is {v}, expected true or false"))),
        }
    }

    fn number(&self, key: &str) -> Result<f64, SevenNetError> {
        self.require(key)?.as_f64().ok_or_else(|| config_error(key, "is not a number"))
    }

    fn integer(&self, key: &str, default: i64) -> Result<i64, SevenNetError> {
        self.get(key).map_or(Ok(default), |v| v.as_i64().ok_or_else(|| config_error(key, format!("is {v}, expected an integer"))))
    }

    fn text<'s>(&'s self, key: &str, default: &'s str) -> Result<&'s str, SevenNetError> {
        self.get(key).map_or(Ok(default), |v| v.as_str().ok_or_else(|| config_error(key, format!("is {v}, expected a name"))))
    }

    /// One name for each layer, from one for all or a list.
    fn names(&self, key: &str, default: &str, count: usize) -> Result<Vec<String>, SevenNetError> {
        match self.get(key) {
            Some(Json::Array(list)) if list.len() == count => list
                .iter()
                .map(|v| v.as_str().map(str::to_owned).ok_or_else(|| config_error(key, format!("holds {v}, expected names"))))
                .collect(),
            Some(Json::Array(list)) => Err(config_error(key, format!("has {} entries for {count} layers", list.len()))),
            _ => Ok(vec![self.text(key, default)?.to_owned(); count]),
        }
    }

    fn sizes(&self, key: &str) -> Result<Vec<usize>, SevenNetError> {
        let list = self.require(key)?.as_array().ok_or_else(|| config_error(key, "is not a list"))?;
        list.iter().map(|v| v.as_u64().map(|n| n as usize).ok_or_else(|| config_error(key, format!("holds {v}, expected sizes")))).collect()
    }

    /// (major, minor) of the package that wrote the checkpoint; development versions of 0.11.0 count as before it.
    fn version(&self) -> Result<(u64, u64), SevenNetError> {
        let text = self.require("version")?.as_str().ok_or_else(|| config_error("version", "is not text"))?;
        let mut parts = text.split('.');
        let mut number = || parts.next().and_then(|p| p.parse::<u64>().ok());
        match (number(), number()) {
            (Some(0), Some(11)) if text.contains("dev0") => Ok((0, 10)),
            (Some(major), Some(minor)) => Ok((major, minor)),
            _ => Err(config_error("version", format!("is `{text}`, expected numbers"))),
        }
    }
}

/// The tensors under the names of today's package.
struct State(BTreeMap<String, Tensor>);

impl State {
    fn new(checkpoint: &ForeignCheckpoint) -> Result<Self, SevenNetError> {
        let state = checkpoint.state_dict()?;
        let mut tensors = BTreeMap::new();
        for entry in state.iter() {
            tensors.insert(modern_name(&entry.name), checkpoint.tensor(&entry.name, &entry.tensor)?);
        }
        Ok(Self(tensors))
    }

    fn get(&self, name: &str) -> Result<&Tensor, SevenNetError> {
        self.0.get(name).ok_or_else(|| SevenNetError::MissingTensor { name: name.to_owned() })
    }

    fn sized(&self, name: &str, shape: &[usize]) -> Result<&Tensor, SevenNetError> {
        let tensor = self.get(name)?;
        // A vector may come with axes of length one; what counts is the number and order of elements.
        let squeezed = |s: &[usize]| s.iter().copied().filter(|&n| n != 1).collect::<Vec<_>>();
        if squeezed(&tensor.shape) == squeezed(shape) {
            Ok(tensor)
        } else {
            Err(SevenNetError::Shape { name: name.to_owned(), found: tensor.shape.clone(), expected: shape.to_vec() })
        }
    }
}

/// Names before version 0.10 had spaces and a misspelling (the package's `backward_compatibility.py`).
fn modern_name(name: &str) -> String {
    let (module, rest) = name.split_once('.').unwrap_or((name, ""));
    let module = match module {
        "EdgeEmbedding" => "edge_embedding".to_owned(),
        "reducing nn input to hidden" => "reduce_input_to_hidden".to_owned(),
        "reducing nn hidden to energy" => "reduce_hidden_to_energy".to_owned(),
        "rescale atomic energy" => "rescale_atomic_energy".to_owned(),
        other => other.replace(' ', "_"),
    };
    if rest.is_empty() { module } else { format!("{module}.{}", rest.replace("denumerator", "denominator")) }
}

/// Numbers of a tensor in the precision they were stored with.
fn numbers(tensor: &Tensor) -> Numbers {
    match &tensor.data {
        TensorData::F64(v) => Numbers::F64(v.clone()),
        _ => Numbers::F32(tensor.to_f64().into_iter().map(|x| x as f32).collect()),
    }
}

fn select(numbers: &Numbers, pick: impl Iterator<Item = (usize, f64)>) -> Numbers {
    match numbers {
        Numbers::F64(v) => Numbers::F64(pick.map(|(i, sign)| v[i] * sign).collect()),
        Numbers::F32(v) => Numbers::F32(pick.map(|(i, sign)| v[i] * sign as f32).collect()),
        Numbers::I64(v) => Numbers::I64(pick.map(|(i, _)| v[i]).collect()),
    }
}

/// Tensors of the artifact in the making.
#[derive(Default)]
struct Output(Vec<NamedTensor>);

impl Output {
    fn push(&mut self, name: impl Into<String>, shape: &[usize], numbers: Numbers) {
        self.0.push(NamedTensor { name: name.into(), shape: shape.to_vec(), numbers });
    }

    /// A linear map between two layouts, whose flat weights are followed, with modalities, by their rows.
    fn linear(
        &mut self,
        state: &State,
        names: (&str, &str),
        layouts: (&ChannelLayout, &ChannelLayout),
        modal: usize,
        bias: bool,
    ) -> Result<(), SevenNetError> {
        let (from, to) = names;
        let pick = linear_pick(layouts.0, layouts.1);
        let scalars = layouts.1.scalars();
        let (numel, channels) = (pick.len(), scalars.len());
        let weight = numbers(state.sized(&format!("{from}.linear.weight"), &[numel + modal * channels])?);
        self.push(format!("{to}.weight"), &[1, numel], select(&weight, pick.into_iter().map(|i| (i, 1.0))));
        let rows = (0..modal).flat_map(|row| scalars.iter().map(move |&w| (numel + row * channels + w, 1.0)));
        if modal > 0 && channels > 0 {
            self.push(format!("{to}.modal"), &[modal, channels], select(&weight, rows));
        }
        if bias && channels > 0 {
            let bias = numbers(state.sized(&format!("{from}.linear.bias"), &[channels])?);
            self.push(format!("{to}.bias"), &[channels], select(&bias, scalars.iter().map(|&w| (w, 1.0))));
        }
        Ok(())
    }
}

/// How the channels of a checkpoint's features lie in those of the artifact, whose blocks are sorted and merged.
struct ChannelLayout {
    /// Blocks of the checkpoint.
    given: Irreps,
    /// Blocks of the artifact.
    canonical: Irreps,
    /// For each channel of each block of the artifact: block and channel of the checkpoint.
    source: Vec<Vec<(usize, usize)>>,
}

impl ChannelLayout {
    /// Blocks in any order, stably sorted and merged.
    fn new(given: &Irreps) -> Self {
        let canonical = given.regroup();
        let channels = |irrep| {
            let blocks = given.iter().enumerate().filter(move |(_, b)| b.irrep == irrep);
            blocks.flat_map(|(block, b)| (0..b.mul).map(move |u| (block, u))).collect()
        };
        let source = canonical.iter().map(|c| channels(c.irrep)).collect();
        Self { given: given.clone(), canonical, source }
    }

    /// The input of e3nn's gate for features of layout `out`: sorted and merged already, but the gates follow the gated blocks in the
    /// checkpoint's order.
    fn gate(out: &Self) -> Result<Self, SevenNetError> {
        let gate_parity = if out.given.contains(Irrep::even(0)) { Parity::Even } else { Parity::Odd };
        let gate_irrep = Irrep::new(0, gate_parity);
        let gated = |irreps: &Irreps| irreps.iter().copied().filter(|b| b.irrep.l > 0).collect::<Vec<_>>();
        let mut blocks: Vec<MulIrrep> = out.canonical.iter().copied().filter(|b| b.irrep.l == 0).collect();
        blocks.extend(gated(&out.canonical).iter().map(|b| MulIrrep::new(b.mul, gate_irrep)));
        blocks.extend(gated(&out.canonical));
        let irreps = Irreps::new(blocks).map_err(|e| config_error("irreps_manual", e.to_string()))?.regroup();
        let mut layout = Self::new(&irreps);
        // First gate of each block of the checkpoint.
        let mut first = vec![0; out.given.len()];
        let mut next = out.given.count(gate_irrep);
        for (block, b) in out.given.iter().enumerate().filter(|(_, b)| b.irrep.l > 0) {
            first[block] = next;
            next += b.mul;
        }
        if let Some(position) = layout.canonical.iter().position(|b| b.irrep == gate_irrep) {
            let scalars = out.given.count(gate_irrep);
            let gates = out.canonical.iter().zip(&out.source).filter(|(b, _)| b.irrep.l > 0).flat_map(|(_, s)| s);
            let order: Vec<(usize, usize)> =
                (0..scalars).map(|u| (position, u)).chain(gates.map(|&(block, u)| (position, first[block] + u))).collect();
            layout.source[position] = order;
        }
        Ok(layout)
    }

    /// Where the even scalars of the artifact, in order, lie among those of the checkpoint.
    fn scalars(&self) -> Vec<usize> {
        let even = Irrep::even(0);
        let mut first = vec![0; self.given.len()];
        let mut next = 0;
        for (block, b) in self.given.iter().enumerate().filter(|(_, b)| b.irrep == even) {
            first[block] = next;
            next += b.mul;
        }
        let position = self.canonical.iter().position(|b| b.irrep == even);
        position.map_or_else(Vec::new, |p| self.source[p].iter().map(|&(block, u)| first[block] + u).collect())
    }
}

/// For each flat weight of an artifact's linear map, in order, its place among the checkpoint's.
fn linear_pick(input: &ChannelLayout, output: &ChannelLayout) -> Vec<usize> {
    block_pick(input, output, 1, 0)
}

/// The same for e3nn's `[mul_in, Z, mul_out]` of a product with `z` one-hot elements, for one element.
fn block_pick(input: &ChannelLayout, output: &ChannelLayout, z: usize, element: usize) -> Vec<usize> {
    let mut offsets = vec![vec![0; output.given.len()]; input.given.len()];
    let mut next = 0;
    for (i, b) in input.given.iter().enumerate() {
        for (o, c) in output.given.iter().enumerate().filter(|(_, c)| c.irrep == b.irrep) {
            offsets[i][o] = next;
            next += b.mul * z * c.mul;
        }
    }
    let mut pick = Vec::new();
    for (b, from) in input.canonical.iter().zip(&input.source) {
        for (_, to) in output.canonical.iter().zip(&output.source).filter(|(c, _)| c.irrep == b.irrep) {
            for &(i, u) in from {
                pick.extend(to.iter().map(|&(o, w)| offsets[i][o] + (u * z + element) * output.given.blocks()[o].mul + w));
            }
        }
    }
    pick
}

/// The tensor product of a layer in both orders: which columns of radial weights and which channels of messages become which.
struct Product {
    /// Irreps of the messages; the same blocks in both, channels permuted.
    messages: ChannelLayout,
    /// For each column of the artifact: column of the checkpoint, degrees of its path.
    columns: Vec<(usize, [usize; 3])>,
}

impl Product {
    fn new(x: &ChannelLayout, edge: &Irreps, l_max: usize, last: bool, order: PathOrder) -> Result<Self, SevenNetError> {
        let keep = |irrep: Irrep| irrep.l <= l_max && !(last && irrep.parity == Parity::Odd);
        let list = |irreps| TensorProductPaths::new(irreps, edge, keep).map_err(|e| config_error("irreps_manual", e.to_string()));
        let (given, canonical) = (list(&x.given)?, list(&x.canonical)?);
        let columns_given = given.weight_offsets(order);
        // First message channel of each given path within the merged block of its irrep.
        let mut channel_given = vec![0; given.len()];
        let mut used: BTreeMap<Irrep, usize> = BTreeMap::new();
        for &index in given.sorted() {
            let path = &given.paths()[index];
            let next = used.entry(path.out).or_default();
            channel_given[index] = *next;
            *next += path.mul;
        }
        let irreps = given.mid_irreps().regroup();
        let mut messages = ChannelLayout::new(&irreps);
        for source in &mut messages.source {
            source.clear();
        }
        let mut columns = Vec::new();
        for path in canonical.in_order(PathOrder::SortedByOutput) {
            let block = irreps.iter().position(|b| b.irrep == path.out).unwrap_or_default();
            for &(in1, u) in &x.source[path.in1] {
                let same = |p: &tesseral_o3::Path| p.in1 == in1 && p.in2 == path.in2 && p.out == path.out;
                let Some(index) = given.paths().iter().position(same) else {
                    return Err(config_error("irreps_manual", "leads to different paths in another order of its blocks"));
                };
                columns.push((columns_given[index] + u, path.degrees()));
                messages.source[block].push((block, channel_given[index] + u));
            }
        }
        Ok(Self { messages, columns })
    }
}

fn parse_irreps(key: &str, text: &str) -> Result<Irreps, SevenNetError> {
    text.parse().map_err(|e| config_error(key, format!("holds `{text}`: {e}")))
}

/// The irreps that a tensor product reaches, as the package infers them.
fn inferred(irreps_x: &Irreps, edge: &Irreps, l_max: usize, last: bool, channels: Option<usize>) -> Result<Irreps, SevenNetError> {
    let paths = TensorProductPaths::new(irreps_x, edge, |irrep| irrep.l <= l_max && !(last && irrep.parity == Parity::Odd))
        .map_err(|e| config_error("irreps_manual", e.to_string()))?;
    let all = paths.mid_irreps().regroup();
    match channels {
        None => Ok(all),
        Some(n) => Irreps::new(all.iter().map(|b| MulIrrep::new(n, b.irrep)).collect()).map_err(|e| config_error("channel", e.to_string())),
    }
}

/// Sign of a stored 3j tensor relative to the convention of artifacts.
fn stored_sign(state: &State, t: usize, degrees: [usize; 3], old: bool) -> Result<f64, SevenNetError> {
    let [l1, l2, l3] = degrees;
    let ours = |c| wigner_3j(l1, l2, l3, c).map_err(|e| config_error("lmax", e.to_string()));
    let reference = ours(Convention::E3nn05)?;
    let overlap = |other: &[f64]| reference.values().iter().zip(other).map(|(a, b)| a * b).sum::<f64>();
    let suffix = format!("_w3j_{l1}_{l2}_{l3}");
    let prefix = format!("{t}_convolution.");
    let stored = state.0.iter().find(|(name, _)| name.starts_with(&prefix) && name.ends_with(&suffix)).map(|(_, t)| t.to_f64());
    let overlap = match stored {
        Some(stored) if stored.len() == reference.values().len() => overlap(&stored),
        _ if old => overlap(ours(Convention::E3nn04)?.values()),
        _ => 1.0,
    };
    if (overlap.abs() - 1.0).abs() > 1e-4 {
        return Err(config_error("version", format!("does not explain the stored 3j symbol {l1},{l2},{l3}")));
    }
    Ok(overlap.signum())
}

/// Converts a checkpoint that was recognised as SevenNet's.
///
/// # Errors
/// [`SevenNetError`] naming the key or tensor at fault.
pub fn convert(checkpoint: &ForeignCheckpoint, name: &str) -> Result<Artifact, SevenNetError> {
    let config_record = checkpoint.root().get("config").ok_or_else(|| config_error("config", "is missing"))?;
    let json = checkpoint.to_json(config_record)?;
    let config = Config(&json);
    let state = State::new(checkpoint)?;
    let (header, tensors) = Converter { config, state }.run(checkpoint, name)?;
    Ok(Artifact::new(header, tensors)?)
}

struct Converter<'a> {
    config: Config<'a>,
    state: State,
}

impl Converter<'_> {
    fn run(&self, checkpoint: &ForeignCheckpoint, name: &str) -> Result<(Header, Vec<NamedTensor>), SevenNetError> {
        let (config, state) = (&self.config, &self.state);
        let version = config.version()?;
        let elements = self.elements()?;
        let modalities = self.modalities()?;
        let (z, m) = (elements.len(), modalities.len());
        let modal = |key: &str| -> Result<usize, SevenNetError> { Ok(if m > 1 && config.flag(key, false)? { m } else { 0 }) };
        let bias = config.flag("use_bias_in_linear", false)?;
        let interaction = config.text("interaction_type", "nequip")?;
        if interaction != "nequip" {
            return Err(config_error("interaction_type", format!("is `{interaction}`, only `nequip` is known")));
        }
        let mut out = Output::default();

        // Radial functions.
        let cutoff = config.number("cutoff")?;
        let basis = config.require("radial_basis")?;
        let basis_name = basis.get("radial_basis_name").and_then(Json::as_str).unwrap_or_default();
        if basis_name != "bessel" {
            return Err(config_error("radial_basis", format!("is `{basis_name}`, only `bessel` is known")));
        }
        let frequencies = state.get("edge_embedding.basis_function.coeffs")?;
        let basis_size = frequencies.numel();
        out.push("radial.frequencies", &[basis_size], numbers(frequencies));
        let envelope = self.envelope(cutoff)?;

        // Irreps.
        let num_layers = usize::try_from(config.integer("num_convolution_layer", 0)?).unwrap_or(0);
        let l_max = usize::try_from(config.integer("lmax", 0)?).map_err(|_| config_error("lmax", "is negative"))?;
        let or_l_max = |key: &str| -> Result<usize, SevenNetError> {
            Ok(usize::try_from(config.integer(key, -1)?).ok().filter(|&l| l > 0).unwrap_or(l_max))
        };
        let (l_edge, l_node) = (or_l_max("lmax_edge")?, or_l_max("lmax_node")?);
        let parity = if config.flag("is_parity", false)? { HarmonicParity::Natural } else { HarmonicParity::Even };
        let edge_irreps = Irreps::spherical_harmonics(l_edge, parity).map_err(|e| config_error("lmax", e.to_string()))?;
        let manual: Option<Vec<Irreps>> = match config.get("irreps_manual") {
            None | Some(Json::Bool(false)) => None,
            Some(Json::Array(list)) => {
                Some(list.iter().map(|v| parse_irreps("irreps_manual", v.as_str().unwrap_or_default())).collect::<Result<_, _>>()?)
            }
            Some(other) => return Err(config_error("irreps_manual", format!("is {other}, expected a list of irreps"))),
        };
        if num_layers == 0 || manual.as_ref().is_some_and(|irreps| irreps.len() != num_layers + 1) {
            return Err(config_error("num_convolution_layer", format!("is {num_layers}, which does not fit the list of irreps")));
        }
        let channel = usize::try_from(config.integer("channel", 0)?).unwrap_or(0);
        let scalars = |n| Irreps::new(vec![MulIrrep::new(n, Irrep::even(0))]).map_err(|e| config_error("channel", e.to_string()));
        let first = match &manual {
            Some(list) => list[0].clone(),
            None => scalars(channel)?,
        };
        if first.iter().any(|b| b.irrep != Irrep::even(0)) {
            return Err(config_error("irreps_manual", format!("starts with {first}, expected even scalars")));
        }
        let mut x = ChannelLayout::new(&first);

        // Embedding.
        let channels = first.dim();
        let modal_embedding = modal("use_modal_node_embedding")?;
        let weight = numbers(state.sized("onehot_to_feature_x.linear.weight", &[(z + modal_embedding) * channels])?);
        out.push("embedding.weight", &[z, channels], select(&weight, (0..z * channels).map(|i| (i, 1.0))));
        if modal_embedding > 0 {
            let rows = (z * channels..(z + m) * channels).map(|i| (i, 1.0));
            out.push("embedding.modal", &[m, channels], select(&weight, rows));
        }
        if bias {
            out.push("embedding.bias", &[channels], numbers(state.sized("onehot_to_feature_x.linear.bias", &[channels])?));
        }

        // Layers.
        let self_connections = config.names("self_connection_type", "nequip", num_layers)?;
        let hidden = config.sizes("weight_nn_hidden_neurons")?;
        let radial_activation = config.text("act_radial", "silu")?.to_owned();
        let activations = self.gate_activations()?;
        let mut layers = Vec::new();
        for (t, self_connection) in self_connections.iter().enumerate() {
            let last = t + 1 == num_layers;
            let irreps_out = match &manual {
                Some(list) => list[t + 1].clone(),
                None => inferred(&x.given, &edge_irreps, if last { 0 } else { l_node }, last, Some(channel))?,
            };
            let output = ChannelLayout::new(&irreps_out);
            let gate = ChannelLayout::gate(&output)?;
            let order = if version < (0, 11) { PathOrder::Generation } else { PathOrder::SortedByOutput };
            let product = Product::new(&x, &edge_irreps, irreps_out.l_max().unwrap_or(0), last, order)?;
            let self_connection = self.self_connection(&mut out, t, self_connection, &x, &gate, z)?;
            let (modal_1, modal_2) = (modal("use_modal_self_inter_intro")?, modal("use_modal_self_inter_outro")?);
            let (from, to) = (format!("{t}_self_interaction_1"), format!("layers.{t}.linear_1"));
            out.linear(state, (&from, &to), (&x, &x), modal_1, bias)?;
            let (from, to) = (format!("{t}_self_interaction_2"), format!("layers.{t}.linear_2"));
            out.linear(state, (&from, &to), (&product.messages, &gate), modal_2, bias)?;
            let denominator = state.sized(&format!("{t}_convolution.denominator"), &[1])?;
            out.push(format!("layers.{t}.denominator"), &[1], numbers(denominator));
            let sizes: Vec<usize> = [basis_size].into_iter().chain(hidden.iter().copied()).chain([product.columns.len()]).collect();
            self.radial_network(&mut out, t, &sizes, &product.columns, version < (0, 11))?;
            let gain = tesseral_potentials::blocks::e3nn_gain(&radial_activation)?;
            layers.push(NequipLayerConfig {
                irreps_in: x.canonical.clone(),
                irreps_message: product.messages.canonical.clone(),
                irreps_gate: gate.canonical.clone(),
                irreps_out: output.canonical.clone(),
                self_connection,
                radial: MlpConfig { activation: radial_activation.clone(), gain, ..MlpConfig::e3nn(sizes) },
                resnet: false,
                bias,
                modal_1: modal_1 > 0,
                modal_2: modal_2 > 0,
            });
            x = output;
        }

        // Readout, scale and shift.
        let readout = self.readout(&mut out, x.given.dim(), modal("use_modal_output_block")?, bias)?;
        for what in ["scale", "shift"] {
            let table = state.get(&format!("rescale_atomic_energy.{what}"))?;
            out.push(what, &[m.max(1), z], self.per_atom(what, table, z, m)?);
        }

        let header = Header {
            format_version: tesseral_potentials::header::FORMAT_VERSION,
            name: name.to_owned(),
            architecture: Architecture::Nequip(NequipConfig {
                elements,
                cutoff,
                modalities,
                edge_irreps,
                normalize_harmonics: config.flag("_normalize_sph", false)?,
                basis_size,
                basis_prefactor: 2.0 / cutoff,
                envelope,
                channels,
                embedding_scale: 1.0 / ((z + modal_embedding) as f64).sqrt(),
                layers,
                readout,
                activations,
                zbl: None,
            }),
            provenance: Provenance {
                source: checkpoint.path().file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default(),
                sha256: Some(checkpoint.sha256().to_owned()),
                producer: format!("sevenn {}", config.text("version", "?")?),
                notes: Vec::new(),
            },
            licence: None,
        };
        Ok((header, out.0))
    }

    /// Atomic numbers by species index.
    fn elements(&self) -> Result<Vec<u8>, SevenNetError> {
        let key = "_type_map";
        let map = self.config.require(key)?.as_object().ok_or_else(|| config_error(key, "is not a dictionary"))?;
        let mut elements = vec![0u8; map.len()];
        for (z, index) in map {
            let wrong = || config_error(key, format!("maps {z} to {index}, expected atomic numbers to indices"));
            let number: u8 = z.parse().map_err(|_| wrong())?;
            let slot = index.as_u64().and_then(|i| elements.get_mut(i as usize)).ok_or_else(wrong)?;
            if number == 0 || number > 118 || *slot != 0 {
                return Err(wrong());
            }
            *slot = number;
        }
        if elements.is_empty() { Err(config_error(key, "is empty")) } else { Ok(elements) }
    }

    /// Names of the modalities by index.
    fn modalities(&self) -> Result<Vec<String>, SevenNetError> {
        if !self.config.flag("use_modality", false)? {
            return Ok(Vec::new());
        }
        let key = "_modal_map";
        let map = self.config.require(key)?.as_object().ok_or_else(|| config_error(key, "is not a dictionary"))?;
        let mut names = vec![String::new(); map.len()];
        for (name, index) in map {
            match index.as_u64().and_then(|i| names.get_mut(i as usize)) {
                Some(slot) if slot.is_empty() => slot.clone_from(name),
                _ => return Err(config_error(key, format!("maps `{name}` to {index}"))),
            }
        }
        Ok(names)
    }

    fn envelope(&self, cutoff: f64) -> Result<Envelope, SevenNetError> {
        let key = "cutoff_function";
        let function = self.config.require(key)?;
        match function.get("cutoff_function_name").and_then(Json::as_str) {
            Some("poly_cut") => {
                let p = function.get("poly_cut_p_value").map_or(Some(6), Json::as_u64);
                let p = p.and_then(|p| u32::try_from(p).ok()).ok_or_else(|| config_error(key, "has an exponent that is not an integer"))?;
                Ok(Envelope::Polynomial { p })
            }
            Some("XPLOR") => {
                let onset = function.get("cutoff_on").and_then(Json::as_f64);
                match onset {
                    Some(onset) if onset < cutoff => Ok(Envelope::Xplor { onset }),
                    _ => Err(config_error(key, "has no `cutoff_on` below the cutoff")),
                }
            }
            other => Err(config_error(key, format!("is {other:?}, expected poly_cut or XPLOR"))),
        }
    }

    fn gate_activations(&self) -> Result<GateActivations, SevenNetError> {
        let name = |key: &str, parity: &str, default: &str| -> Result<String, SevenNetError> {
            let name = self.config.get(key).and_then(|v| v.get(parity)).and_then(Json::as_str).unwrap_or(default);
            Ok(name.to_owned())
        };
        Ok(GateActivations {
            scalars_even: name("act_scalar", "e", "silu")?,
            scalars_odd: name("act_scalar", "o", "tanh")?,
            gates_even: name("act_gate", "e", "silu")?,
            gates_odd: name("act_gate", "o", "tanh")?,
            normalize: true,
        })
    }

    fn self_connection(
        &self,
        out: &mut Output,
        t: usize,
        kind: &str,
        x: &ChannelLayout,
        gate: &ChannelLayout,
        z: usize,
    ) -> Result<SelfConnection, SevenNetError> {
        let (from, to) = (format!("{t}_self_connection_intro"), format!("layers.{t}.self_connection"));
        match kind {
            "none" => Ok(SelfConnection::None),
            "linear" => {
                out.linear(&self.state, (&from, &to), (x, gate), 0, false)?;
                Ok(SelfConnection::Linear)
            }
            "nequip" => {
                let pick: Vec<usize> = (0..z).flat_map(|element| block_pick(x, gate, z, element)).collect();
                let weight = numbers(self.state.sized(&format!("{from}.fc_tensor_product.weight"), &[pick.len()])?);
                let numel = pick.len() / z;
                out.push(format!("{to}.weight"), &[z, numel], select(&weight, pick.into_iter().map(|i| (i, 1.0))));
                Ok(SelfConnection::Element { fan_in: z })
            }
            other => Err(config_error("self_connection_type", format!("is `{other}`; none, linear and nequip are known"))),
        }
    }

    /// The radial network, the columns of its last matrix in canonical order and for couplings of the artifacts' convention.
    fn radial_network(
        &self,
        out: &mut Output,
        t: usize,
        sizes: &[usize],
        columns: &[(usize, [usize; 3])],
        old: bool,
    ) -> Result<(), SevenNetError> {
        let matrices = sizes.len() - 1;
        for k in 0..matrices {
            let shape = [sizes[k], sizes[k + 1]];
            let name = format!("{t}_convolution.weight_nn.layer{k}.weight");
            let mut values = numbers(self.state.sized(&name, &shape)?);
            if k + 1 == matrices {
                let mut known: BTreeMap<[usize; 3], f64> = BTreeMap::new();
                for (_, degrees) in columns {
                    if !known.contains_key(degrees) {
                        known.insert(*degrees, stored_sign(&self.state, t, *degrees, old)?);
                    }
                }
                let pick = (0..shape[0]).flat_map(|row| columns.iter().map(move |(c, degrees)| (row * shape[1] + c, degrees)));
                values = select(&values, pick.map(|(i, degrees)| (i, known[degrees])));
            }
            out.push(format!("layers.{t}.radial.{k}.weight"), &shape, values);
        }
        Ok(())
    }

    fn readout(&self, out: &mut Output, channels: usize, modal: usize, bias: bool) -> Result<Vec<ReadoutLayer>, SevenNetError> {
        let linear = |size_in: usize, size_out, modal: usize| ReadoutLayer {
            size_in,
            size_out,
            scale: 1.0 / ((size_in + modal) as f64).sqrt(),
            activation: None,
            bias,
            modal: modal > 0,
        };
        if !self.config.flag("readout_as_fcn", false)? {
            let hidden = channels / 2;
            let scalars = |n| -> Result<ChannelLayout, SevenNetError> {
                let irreps = Irreps::new(vec![MulIrrep::new(n, Irrep::even(0))]).map_err(|e| config_error("channel", e.to_string()))?;
                Ok(ChannelLayout::new(&irreps))
            };
            let maps = [("reduce_input_to_hidden", channels, hidden, modal), ("reduce_hidden_to_energy", hidden, 1, 0)];
            for (k, (from, size_in, size_out, modal)) in maps.into_iter().enumerate() {
                let to = format!("readout.{k}");
                out.linear(&self.state, (from, &to), (&scalars(size_in)?, &scalars(size_out)?), modal, bias)?;
                if let Some(t) = out.0.iter_mut().find(|t| t.name == format!("{to}.weight")) {
                    t.shape = vec![size_in, size_out];
                }
            }
            return Ok(vec![linear(channels, hidden, modal), linear(hidden, 1, 0)]);
        }
        let hidden = self.config.sizes("readout_fcn_hidden_neurons")?;
        let activation = self.config.text("readout_fcn_activation", "relu")?.to_owned();
        let gain = tesseral_potentials::blocks::e3nn_gain(&activation)?;
        let sizes: Vec<usize> = [channels].into_iter().chain(hidden).chain([1]).collect();
        let mut layers = Vec::new();
        for (k, w) in sizes.windows(2).enumerate() {
            let weight = self.state.sized(&format!("readout_FCN.fcn.layer{k}.weight"), w)?;
            out.push(format!("readout.{k}.weight"), w, numbers(weight));
            let last = k + 2 == sizes.len();
            layers.push(ReadoutLayer { activation: (!last).then(|| (activation.clone(), gain)), bias: false, ..linear(w[0], w[1], 0) });
        }
        Ok(layers)
    }

    /// Scale or shift as `[max(M, 1), Z]`, from one number, one for each element, or one for each modality and element.
    fn per_atom(&self, what: &str, table: &Tensor, z: usize, m: usize) -> Result<Numbers, SevenNetError> {
        let values = numbers(table);
        let rows = m.max(1);
        let index = |row: usize, element: usize| match table.numel() {
            1 => Some(0),
            n if n == z && !(rows > 1 && n == rows) => Some(element),
            n if n == rows * z => Some(row * z + element),
            _ => None,
        };
        let pick: Option<Vec<(usize, f64)>> =
            (0..rows).flat_map(|row| (0..z).map(move |element| (row, element))).map(|(row, e)| index(row, e).map(|i| (i, 1.0))).collect();
        pick.map(|pick| select(&values, pick.into_iter())).ok_or_else(|| SevenNetError::Shape {
            name: format!("rescale_atomic_energy.{what}"),
            found: table.shape.clone(),
            expected: vec![rows, z],
        })
    }
}
