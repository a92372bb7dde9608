//! Hyperparameters of packages (`.nequip.zip`, from 0.7 on), read from the pickled modules themselves: a package may have been fine-tuned or
//! modified after the configuration inside it was written.

use std::f64::consts::PI;

use tesseral_o3::{Convention, Irrep, Irreps, MulIrrep, Parity};

use super::NequipError;
use super::hyperparameters::{
    Generation, Hyperparameters, LayerHyperparameters, ReadoutActivation, as_exponent, denominator, elements, gate_activations,
    option_error, readout_activation,
};
use crate::source::ForeignCheckpoint;
use crate::torch::module::{ModuleError, irreps_text};
use crate::torch::value::{Global, ValueRef};
use crate::yaml;

/// Classes of the modules that an energy network is a sequence of.
const MODULES: [&str; 10] = [
    "NodeTypeEmbed",
    "SphericalHarmonicEdgeAttrs",
    "EdgeLengthNormalizer",
    "BesselEdgeLengthEncoding",
    "ApplyFactor",
    "ConvNetLayer",
    "ScalarMLP",
    "PerTypeScaleShift",
    "ZBL",
    "AtomwiseReduce",
];

fn unknown(path: &str, class: &Global) -> NequipError {
    if class.module.split('.').next() == Some("allegro") {
        NequipError::Allegro
    } else {
        NequipError::UnknownModule { path: path.to_owned(), class: class.to_string() }
    }
}

/// The graph model and the sequence of modules inside it.
fn network(root: ValueRef<'_>) -> Result<(ValueRef<'_>, ValueRef<'_>), NequipError> {
    let (mut value, mut graph_model, mut path) = (root, root, String::from("model"));
    // No more wrappers than these exist.
    for _ in 0..8 {
        let class = value.class().ok_or_else(|| value.type_error(&path, "a module"))?;
        let child = match class.name.as_str() {
            "SequentialGraphNetwork" => return Ok((graph_model, value)),
            "ModuleDict" => match value.children().as_slice() {
                [(name, _)] => *name,
                [(first, _), (second, _), ..] => {
                    return Err(NequipError::SeveralModels { first: (*first).to_owned(), second: (*second).to_owned() });
                }
                [] => return Err(unknown(&path, class)),
            },
            "GraphModel" => {
                graph_model = value;
                "model"
            }
            "ForceStressOutput" | "GradientOutput" | "PartialForceOutput" | "StressOutput" => "func",
            _ => return Err(unknown(&path, class)),
        };
        value = value.require(child)?;
        path = format!("{path}.{child}");
    }
    Err(ModuleError::TooLarge { what: "wrappers", path, limit: 8 }.into())
}

fn irreps_at(module: ValueRef<'_>, path: &str) -> Result<Irreps, NequipError> {
    let blocks = module.require_irreps(path)?;
    let text = irreps_text(&blocks);
    let parity = |odd| if odd { Parity::Odd } else { Parity::Even };
    Irreps::new(blocks.iter().map(|b| MulIrrep::new(b.mul, Irrep::new(b.l, parity(b.odd)))).collect())
        .map_err(|e| option_error(path, format!("is `{text}`: {e}")))
}

fn exponent_at(module: ValueRef<'_>, path: &str) -> Result<u32, NequipError> {
    as_exponent(Some(module.require_f64(path)?)).ok_or_else(|| option_error(path, "is not a whole number of at least 2"))
}

fn flag_at(module: ValueRef<'_>, path: &str) -> Result<bool, NequipError> {
    let value = module.require(path)?;
    Ok(value.as_bool().ok_or_else(|| value.type_error(path, "true or false"))?)
}

/// Reads what a package holds beside its weights.
pub(super) fn hyperparameters(checkpoint: &ForeignCheckpoint) -> Result<Hyperparameters, NequipError> {
    let (graph_model, net) = network(checkpoint.root())?;
    for (name, module) in net.children() {
        let class = module.class().ok_or_else(|| module.type_error(name, "a module"))?;
        if !(class.module.starts_with("nequip.nn.") && MODULES.contains(&class.name.as_str())) {
            return Err(unknown(name, class));
        }
    }
    let names = graph_model.require("type_names")?;
    let types: Option<Vec<String>> = names.as_sequence().and_then(|s| s.map(|name| name.as_str().map(str::to_owned)).collect());
    let types = types.ok_or_else(|| names.type_error("type_names", "a list of names"))?;
    if net.path("type_embed.do_categorical_graph_field_embed").and_then(ValueRef::as_bool) == Some(true) {
        return Err(option_error("categorical_graph_field_embed", "is not supported"));
    }
    if !flag_at(net, "spharm.sh.normalize")? || net.require("spharm.sh.normalization")?.as_str() != Some("component") {
        return Err(option_error("edge_sh_normalization", "is not `component` on normalised vectors"));
    }
    let cutoff = net.require_f64("edge_norm.r_max")?;
    let envelope_p = exponent_at(net, "bessel_encode.cutoff.p")?;

    let mut layers = Vec::new();
    let mut activations = None;
    while let Some(layer) = net.path(&format!("layer{}_convnet", layers.len())) {
        let t = layers.len();
        let nonlinearity = layer.require("equivariant_nonlin")?;
        if let Some(class) = nonlinearity.class().filter(|class| class.name != "Gate") {
            return Err(unknown(&format!("layer{t}_convnet.equivariant_nonlin"), class));
        }
        let scalars = activations_of(nonlinearity, "irreps_scalars", "act_scalars")?;
        let gates = activations_of(nonlinearity, "irreps_gates", "act_gates")?;
        let merged = merge(activations.take(), [scalars, gates])
            .ok_or_else(|| option_error("convnet_nonlinearity_scalars", "differs between layers"))?;
        activations = Some(merged);
        check_alphas(checkpoint, layer, "conv.edge_mlp")?;
        layers.push(LayerHyperparameters {
            hidden: irreps_at(layer, "feature_irreps_hidden")?,
            self_connection: flag_at(layer, "conv.use_sc")?,
            resnet: flag_at(layer, "resnet")?,
            denominator: denominators(checkpoint, layer)?,
        });
    }
    let [scalars, gates] = activations.unwrap_or_default();
    let or_default =
        |[even, odd]: [Option<String>; 2]| (even.unwrap_or_else(|| "silu".to_owned()), odd.unwrap_or_else(|| "tanh".to_owned()));
    check_alphas(checkpoint, net, "per_atom_energy_readout.mlp_module")?;
    let zbl = match net.path("pair_potential") {
        None => None,
        // Before it had an envelope of its own, it took the network's.
        Some(term) => Some(if term.path("cutoff").is_some() { exponent_at(term, "cutoff.p")? } else { envelope_p }),
    };
    Ok(Hyperparameters {
        generation: Generation::Two,
        producer: producer(checkpoint)?,
        elements: elements("type_names", &types)?,
        cutoff,
        edge_irreps: irreps_at(net, "spharm.irreps_edge_sh")?,
        // n·sinc(n·d/r) = r/π · sin(nπ/r·d)/d
        basis_prefactor: net.require_f64("factor.factor")? * cutoff / PI,
        frequency_unit: PI / cutoff,
        envelope_p,
        layers,
        activations: gate_activations(or_default(scalars), or_default(gates))?,
        radial_activation: "silu".to_owned(),
        readout_activation: Some(readout(net)?),
        zbl,
        convention: Convention::E3nn05,
    })
}

fn producer(checkpoint: &ForeignCheckpoint) -> Result<String, NequipError> {
    let Some(text) = checkpoint.text_entry("model/package_metadata.txt")? else { return Ok("nequip".to_owned()) };
    let metadata = yaml::parse(&text)?;
    let version = metadata.get("versions").and_then(|v| v.get("nequip")).and_then(|v| v.as_str());
    Ok(version.map_or_else(|| "nequip".to_owned(), |v| format!("nequip {v}")))
}

/// Names of the activations on even and on odd blocks of `irreps`, where there are such.
fn activations_of(gate: ValueRef<'_>, irreps: &str, module: &str) -> Result<[Option<String>; 2], NequipError> {
    let mut found = [None, None];
    for (k, block) in gate.require_irreps(irreps)?.iter().enumerate() {
        let path = format!("{module}.acts.{k}.f");
        let function = gate.require(&path)?;
        let name = match function.as_global().map(|g| g.name.as_str()) {
            Some("shifted_softplus" | "ShiftedSoftplus" | "ShiftedSoftPlus") => "ssp",
            Some(name) => name,
            None => return Err(function.type_error(&path, "an activation").into()),
        };
        let slot = &mut found[usize::from(block.odd)];
        if slot.as_ref().is_some_and(|other| other != name) {
            return Err(option_error(irreps, "has blocks of one parity with different activations"));
        }
        *slot = Some(name.to_owned());
    }
    Ok(found)
}

type Activations = [[Option<String>; 2]; 2];

/// What two layers together say; `None` if they disagree.
fn merge(before: Option<Activations>, mut now: Activations) -> Option<Activations> {
    for (old, new) in before.unwrap_or_default().into_iter().flatten().zip(now.iter_mut().flatten()) {
        match (&old, &new) {
            (Some(a), Some(b)) if a != b => return None,
            (Some(_), None) => *new = old,
            _ => {}
        }
    }
    Some(now)
}

/// √(average number of neighbours), in whichever of the forms that the versions have.
fn denominators(checkpoint: &ForeignCheckpoint, layer: ValueRef<'_>) -> Result<Vec<f64>, NequipError> {
    let key = "avg_num_neighbors";
    let reciprocal = |x: f64| denominator(key, 1.0 / (x * x));
    if let Some(factors) = layer.path("conv.avg_num_neighbors_norm.norm_const") {
        return checkpoint.numbers("norm_const", factors)?.to_f64().into_iter().map(reciprocal).collect();
    }
    if let Some(factor) = layer.path("conv.scatter_norm_factor") {
        return Ok(vec![factor.as_f64().map_or(Ok(1.0), reciprocal)?]);
    }
    let average = layer.require("conv.avg_num_neighbors")?;
    Ok(vec![average.as_f64().map_or(Ok(1.0), |n| denominator(key, n))?])
}

/// The factors of a `ScalarMLP` must be those that are assumed: 1/√in, and √2/√in after the first where there is an activation.
fn check_alphas(checkpoint: &ForeignCheckpoint, module: ValueRef<'_>, mlp: &str) -> Result<(), NequipError> {
    let nonlinear = flag_at(module, &format!("{mlp}.is_nonlinear"))?;
    for k in 0.. {
        let path = format!("{mlp}.mlp.{}", 2 * k);
        let Some(alpha) = module.path(&format!("{path}.alpha")) else { break };
        let rows = module.require_usize(&format!("{path}.in_features"))?;
        let gain = if k > 0 && nonlinear { 2.0 } else { 1.0 };
        let found = checkpoint.numbers(&path, alpha)?.item().unwrap_or_default();
        let expected = (gain / rows as f64).sqrt();
        if (found - expected).abs() > 1e-6 * expected || !found.is_finite() {
            return Err(option_error(&format!("{path}.alpha"), format!("is {found}, expected the normalisation of inputs")));
        }
    }
    Ok(())
}

fn readout(net: ValueRef<'_>) -> Result<ReadoutActivation, NequipError> {
    let name = match net.path("per_atom_energy_readout.mlp_module.mlp.1").and_then(ValueRef::class) {
        None => None,
        Some(class) => Some(match class.name.as_str() {
            "SiLU" => "silu",
            "GELU" => "gelu",
            "ShiftedSoftplus" => "ssp",
            "Tanh" => "tanh",
            "Sigmoid" => "sigmoid",
            "Identity" => "None",
            other => other,
        }),
    };
    readout_activation("readout_mlp_nonlinearity", name)
}
