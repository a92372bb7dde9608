//! The configuration of generation one (`config.yaml` of a training folder, `extra/config` of a deployed model).

use serde_json::Value as Json;
use tesseral_o3::{Convention, HarmonicParity, Irrep, Irreps, MulIrrep};

use super::NequipError;
use super::hyperparameters::{
    Generation, Hyperparameters, LayerHyperparameters, Options, denominator, edge_irreps, elements, gate_activations, option_error,
    parse_irreps,
};
use super::state::State;

/// Steps that put a model together, as far as they are understood. Some only initialise weights.
const BUILDERS: [&str; 15] = [
    "SimpleIrrepsConfig",
    "EnergyModel",
    "PerSpeciesRescale",
    "RescaleEnergyEtc",
    "ForceOutput",
    "PartialForceOutput",
    "StressForceOutput",
    "PairPotentialTerm",
    "StressOutput",
    "uniform_initialize_FCs",
    "xavier_initialize_FCs",
    "unit_uniform_initialize_FCs",
    "initialize_from_state",
    "load_model_state",
    "uniform_initialize_linears",
];

/// Options that must hold for all modules alike.
const MODULE_OPTIONS: [&str; 7] = [
    "resnet",
    "nonlinearity_type",
    "nonlinearity_scalars",
    "nonlinearity_gates",
    "edge_sh_normalization",
    "edge_sh_normalize",
    "PolynomialCutoff_p",
];

/// What the configuration and the names of tensors say about a model.
pub(super) fn hyperparameters(
    config: &Json,
    state: &State<'_>,
    e3nn: Option<(u64, u64)>,
    version: Option<&str>,
) -> Result<Hyperparameters, NequipError> {
    let options = Options::new("config", config)?;
    if let Some(Json::Array(builders)) = options.get("model_builders") {
        for builder in builders {
            let name = builder.as_str().unwrap_or_default();
            if name.starts_with("allegro") {
                return Err(NequipError::Allegro);
            }
            let short = name.strip_prefix("nequip.model.").unwrap_or(name);
            if !BUILDERS.contains(&short) {
                return Err(option_error("model_builders", format!("has `{name}`, which is not known")));
            }
        }
    }
    if options.text("nonlinearity_type", "gate")? != "gate" {
        return Err(option_error("nonlinearity_type", "is not `gate`"));
    }
    if options.text("edge_sh_normalization", "component")? != "component" || !options.flag("edge_sh_normalize", true)? {
        return Err(option_error("edge_sh_normalization", "is not `component` on normalised vectors"));
    }
    let (hidden, edge_irreps) = irreps(&options)?;
    let num_layers = (0..).take_while(|t| state.contains(&format!("layer{t}_convnet.conv.linear_1.weight"))).count();
    let denominator = match options.get("avg_num_neighbors") {
        None => 1.0,
        Some(value) => {
            let average = value.as_f64().ok_or_else(|| option_error("avg_num_neighbors", format!("is {value}, expected a number")))?;
            denominator("avg_num_neighbors", average)?
        }
    };
    let resnet = options.flag("resnet", false)?;
    let layers = (0..num_layers)
        .map(|t| LayerHyperparameters {
            hidden: hidden.clone(),
            self_connection: state.contains(&format!("layer{t}_convnet.conv.sc.weight")),
            resnet,
            denominator: vec![denominator],
        })
        .collect();
    let scalars = options.by_parity("nonlinearity_scalars")?;
    let radial_activation = scalars.0.clone();
    if !matches!(radial_activation.as_str(), "silu" | "ssp") {
        return Err(option_error(
            "nonlinearity_scalars",
            format!("uses `{radial_activation}` in the radial network; silu and ssp are known"),
        ));
    }
    let zbl = state.contains("pair_potential._qqr2exesquare");
    if let Some(style) = options.get("pair_style").filter(|style| style.as_str() != Some("ZBL")) {
        return Err(option_error("pair_style", format!("is {style}; only ZBL is known")));
    }
    let cutoff = options.positive("r_max")?;
    let envelope_p = options.exponent("PolynomialCutoff_p", 6)?;
    let elements = types(&options)?;
    // NequIP lets a prefix, such as `layer0_convnet_`, give one module a value of its own.
    let own = options.unread().find(|key| MODULE_OPTIONS.iter().any(|o| key.strip_suffix(o).is_some_and(|prefix| prefix.ends_with('_'))));
    if let Some(key) = own {
        return Err(option_error(key, "is for one module only, which is not supported"));
    }
    Ok(Hyperparameters {
        generation: Generation::One,
        producer: version.map_or_else(|| "nequip 0.6 or older".to_owned(), |v| format!("nequip {v}")),
        elements,
        cutoff,
        edge_irreps,
        basis_prefactor: 2.0 / cutoff,
        frequency_unit: 1.0 / cutoff,
        envelope_p,
        layers,
        activations: gate_activations(scalars, options.by_parity("nonlinearity_gates")?)?,
        radial_activation,
        readout_activation: None,
        zbl: zbl.then_some(envelope_p),
        convention: if e3nn.is_some_and(|v| v >= (0, 5)) { Convention::E3nn05 } else { Convention::E3nn04 },
    })
}

/// Irreps of the features and of the edge, written out or from `l_max`, `parity` and `num_features`.
fn irreps(options: &Options<'_>) -> Result<(Irreps, Irreps), NequipError> {
    let (hidden_key, edge_key) = ("feature_irreps_hidden", "irreps_edge_sh");
    if let (Some(hidden), Some(edge)) = (options.get(hidden_key), options.get(edge_key)) {
        return Ok((parse_irreps(hidden_key, hidden)?, edge_irreps(edge_key, edge)?));
    }
    let (l_max, parity, n) = (options.size("l_max", 0)?, options.flag("parity", true)?, options.size("num_features", 0)?);
    if options.get("l_max").is_none() || n == 0 || l_max > Irrep::MAX_L {
        return Err(option_error("feature_irreps_hidden", "is missing, and so are l_max and num_features"));
    }
    let even = (0..=l_max).map(|l| MulIrrep::new(n, Irrep::even(l)));
    let odd = (0..=l_max).filter(|_| parity).map(|l| MulIrrep::new(n, Irrep::odd(l)));
    let wrong = |e: tesseral_o3::IrrepsError| option_error("num_features", e.to_string());
    let hidden = Irreps::new(even.chain(odd).collect()).map_err(wrong)?;
    let edge = Irreps::spherical_harmonics(l_max, if parity { HarmonicParity::Natural } else { HarmonicParity::Even }).map_err(wrong)?;
    Ok((hidden, edge))
}

/// Atomic numbers by type: `chemical_symbols` are sorted by number, the other forms say the order themselves.
fn types(options: &Options<'_>) -> Result<Vec<u8>, NequipError> {
    if options.get("chemical_symbols").is_some() {
        let mut sorted = elements("chemical_symbols", &options.names("chemical_symbols")?)?;
        sorted.sort_unstable();
        return Ok(sorted);
    }
    // {symbol: type} or {type: symbol}
    for (key, symbol_first) in [("chemical_symbol_to_type", true), ("type_to_chemical_symbol", false)] {
        let Some(map) = options.get(key) else { continue };
        let map = map.as_object().ok_or_else(|| option_error(key, "is not a dictionary"))?;
        let mut symbols = vec![String::new(); map.len()];
        for (name, value) in map {
            let index = if symbol_first { value.as_u64() } else { name.parse().ok() };
            let symbol = if symbol_first { Some(name.as_str()) } else { value.as_str() };
            match (index.and_then(|i| symbols.get_mut(usize::try_from(i).ok()?)), symbol) {
                (Some(slot), Some(symbol)) if slot.is_empty() => symbol.clone_into(slot),
                _ => return Err(option_error(key, format!("maps {name} to {value}"))),
            }
        }
        return elements(key, &symbols);
    }
    elements("type_names", &options.names("type_names")?)
}
