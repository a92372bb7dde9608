//! Lightning checkpoints of training (`.ckpt`, from 0.7 on): hyperparameters as the user wrote them, weights and their moving average.

use std::f64::consts::PI;

use serde_json::{Map, Value as Json, json};
use tesseral_o3::{Convention, Irrep, Irreps, MulIrrep};

use super::NequipError;
use super::hyperparameters::{
    Generation, Hyperparameters, LayerHyperparameters, Options, as_size, denominator, edge_irreps, elements, gate_activations,
    option_error, parse_irreps, readout_activation, version,
};
use crate::source::ForeignCheckpoint;
use crate::torch::tensor::TensorRef;
use crate::torch::value::ValueRef;

/// Options that change nothing in a trained model, or that show in its weights.
const INERT: [&str; 16] = [
    "seed",
    "model_dtype",
    "compile_mode",
    "do_derivatives",
    "num_bessels",
    "type_embed_num_features",
    "radial_mlp_depth",
    "radial_mlp_width",
    "readout_mlp_hidden_layers_depth",
    "readout_mlp_hidden_layers_width",
    "per_edge_type_cutoff",
    "per_type_energy_scales",
    "per_type_energy_shifts",
    "per_type_energy_scales_trainable",
    "per_type_energy_shifts_trainable",
    "bessel_trainable",
];

/// The model that training was configured with.
pub(super) struct Training {
    model: Map<String, Json>,
    target: String,
    version: String,
    ema: Option<bool>,
}

impl Training {
    pub(super) fn new(checkpoint: &ForeignCheckpoint) -> Result<Self, NequipError> {
        let hyper = checkpoint.root().require("hyper_parameters")?;
        let json = checkpoint.to_json(hyper.require("model")?)?;
        let version = hyper.path("info_dict.versions.nequip").and_then(ValueRef::as_str).unwrap_or_default().to_owned();
        let (target, model) = unwrap_modifiers(&json)?;
        // The names of tensors have dots: `path` would split them.
        let state = checkpoint.root().require("state_dict")?;
        let ema = state.get("ema._extra_state").and_then(|e| e.get("is_holding_ema_weights")).and_then(ValueRef::as_bool);
        Ok(Self { model, target, version, ema })
    }

    /// The tensors of the model, those of the moving average instead of the raw ones if there are any.
    pub(super) fn tensors(&self, checkpoint: &ForeignCheckpoint) -> Result<Vec<(String, TensorRef)>, NequipError> {
        let state = checkpoint.root().require("state_dict")?;
        let entries = state.as_dict().ok_or_else(|| state.type_error("state_dict", "a dictionary"))?;
        let all = entries.filter_map(|(name, value)| Some((name.as_str()?, value.as_tensor()?)));
        let (mut model, mut average) = (Vec::new(), Vec::new());
        for (name, tensor) in all {
            tensor.check(name).map_err(crate::Error::from)?;
            if name.starts_with("model.") {
                model.push((name.to_owned(), tensor.clone()));
            } else if name.starts_with("ema.ema_weight_") {
                average.push(tensor);
            }
        }
        // During validation the two change places.
        if average.is_empty() || self.ema == Some(false) {
            return Ok(model);
        }
        let flag = |key: &str| self.model.get(key).and_then(Json::as_bool).unwrap_or(false);
        let trained = |name: &str| match name.rsplit('.').next() {
            Some("bessel_weights") => flag("bessel_trainable"),
            Some("scales") => flag("per_type_energy_scales_trainable"),
            Some("shifts") => flag("per_type_energy_shifts_trainable"),
            Some("weight") => true,
            // `…mlp.weights.0`
            Some(index) => index.parse::<usize>().is_ok(),
            None => false,
        };
        let parameters = model.iter_mut().filter(|(name, tensor)| trained(name) && tensor.numel() != Some(0));
        let (mut count, total) = (0, average.len());
        for ((name, raw), mean) in parameters.zip(average) {
            if raw.shape != mean.shape {
                return Err(NequipError::MovingAverage { tensor: name.clone() });
            }
            *raw = mean.clone();
            count += 1;
        }
        let unmatched = model.iter().filter(|(name, tensor)| trained(name) && tensor.numel() != Some(0)).nth(count);
        match (unmatched, count == total) {
            (None, true) => Ok(model),
            (unmatched, _) => {
                Err(NequipError::MovingAverage { tensor: unmatched.map_or_else(|| format!("ema_weight_{count}"), |u| u.0.clone()) })
            }
        }
    }

    /// What is worth knowing about the weights.
    pub(super) fn notes(&self) -> Vec<String> {
        let average = self.ema.map(|_| "the weights are the moving average of training, as NequIP evaluates them".to_owned());
        average.into_iter().collect()
    }

    pub(super) fn hyperparameters(&self) -> Result<Hyperparameters, NequipError> {
        let json = Json::Object(self.model.clone());
        let options = Options::new("model", &json)?;
        // What the versions do differently: order and parity of features from 0.16 on, the envelope of ZBL from 0.17 on.
        let (major, minor) =
            version(&self.version).ok_or_else(|| option_error("info_dict.versions.nequip", format!("is `{}`", self.version)))?;
        let since = |m: u64| (major, minor) >= (0, m);
        options.get("_target_");
        let (hidden, edge_irreps) = match self.target.as_str() {
            "NequIPGNNModel" | "NequIPGNNEnergyModel" => simple_irreps(&options, since(16))?,
            "FullNequIPGNNModel" | "FullNequIPGNNEnergyModel" => full_irreps(&options)?,
            other => return Err(option_error("_target_", format!("is `{other}`, which is not a model that is known"))),
        };
        let types = options.names("type_names")?;
        let cutoff = options.positive("r_max")?;
        let envelope_p = options.exponent("polynomial_cutoff_p", 6)?;
        if options.get("categorical_graph_field_embed").is_some() {
            return Err(option_error("categorical_graph_field_embed", "is not supported"));
        }
        if options.text("convnet_nonlinearity_type", "gate")? != "gate" {
            return Err(option_error("convnet_nonlinearity_type", "is not `gate`"));
        }
        let (sc, resnet) = (options.flag("convnet_sc", true)?, options.flag("convnet_resnet", false)?);
        let from_first = options.flag("learnable_shift", false)?;
        let denominator = averages(&options, &types)?;
        let layers = hidden
            .into_iter()
            .enumerate()
            .map(|(t, hidden)| {
                let on = from_first || t > 0;
                LayerHyperparameters { hidden, self_connection: sc && on, resnet: resnet && on, denominator: denominator.clone() }
            })
            .collect();
        let zbl = options.get("pair_potential").map(|term| zbl(term, since(17), envelope_p)).transpose()?;
        let readout = match self.model.get("readout_mlp_nonlinearity") {
            None => Some("silu"),
            Some(Json::Null) => None,
            Some(_) => Some(options.text("readout_mlp_nonlinearity", "silu")?),
        };
        let activations =
            gate_activations(options.by_parity("convnet_nonlinearity_scalars")?, options.by_parity("convnet_nonlinearity_gates")?)?;
        options.check_all_read(&INERT)?;
        Ok(Hyperparameters {
            generation: Generation::Two,
            producer: format!("nequip {}", self.version),
            elements: elements("type_names", &types)?,
            cutoff,
            edge_irreps,
            basis_prefactor: 2.0 / cutoff,
            frequency_unit: PI / cutoff,
            envelope_p,
            layers,
            activations,
            radial_activation: "silu".to_owned(),
            readout_activation: Some(readout_activation("readout_mlp_nonlinearity", readout)?),
            zbl,
            convention: Convention::E3nn05,
        })
    }
}

/// The builder and its options, without modifiers that only choose other kernels, and with the options of presets.
fn unwrap_modifiers(json: &Json) -> Result<(String, Map<String, Json>), NequipError> {
    let map = json.as_object().ok_or_else(|| option_error("model", "is not a dictionary"))?;
    let target = map.get("_target_").and_then(Json::as_str).ok_or_else(|| option_error("_target_", "is missing"))?;
    if target.split('.').next() == Some("allegro") {
        return Err(NequipError::Allegro);
    }
    let name = target.rsplit('.').next().unwrap_or(target);
    match name {
        "modify" => {
            let accelerators = ["enable_OpenEquivariance", "enable_CuEquivariance"];
            let modifiers = map.get("modifiers").and_then(Json::as_array).ok_or_else(|| option_error("modifiers", "is not a list"))?;
            let unknown = modifiers.iter().find(|m| m.get("modifier").and_then(Json::as_str).is_none_or(|m| !accelerators.contains(&m)));
            match (unknown, map.get("model")) {
                (Some(modifier), _) => {
                    Err(option_error("modifiers", format!("has {modifier}; package the model with nequip-package and import that")))
                }
                // One level is all there is: what is inside is a builder.
                (None, Some(inner)) if inner.get("_target_").and_then(Json::as_str).is_some_and(|t| !t.ends_with(".modify")) => {
                    unwrap_modifiers(inner)
                }
                _ => Err(option_error("model", "is not a builder")),
            }
        }
        "ModelFromPackage" | "ModelFromCheckpoint" => {
            Err(option_error("_target_", format!("is `{target}`, another file; package the model with nequip-package and import that")))
        }
        "PresetNequIPGNNModel" => {
            let preset = map.get("preset").and_then(Json::as_str).unwrap_or_default();
            let (layers, l_max, features) = match preset.to_ascii_uppercase().as_str() {
                "S" => (2, 1, json!([128, 64])),
                "M" => (4, 2, json!([128, 64, 32])),
                "L" => (6, 3, json!([128, 64, 32, 32])),
                "XL" => (6, 4, json!([320, 96, 64, 32, 32])),
                _ => return Err(option_error("preset", format!("is `{preset}`; S, M, L and XL are known"))),
            };
            let mut options = Map::new();
            options.insert("parity".into(), json!(false));
            options.insert("num_layers".into(), json!(layers));
            options.insert("l_max".into(), json!(l_max));
            options.insert("num_features".into(), features);
            options.extend(map.iter().filter(|(key, _)| *key != "preset").map(|(key, v)| (key.clone(), v.clone())));
            Ok(("NequIPGNNModel".to_owned(), options))
        }
        _ => Ok((name.to_owned(), map.clone())),
    }
}

/// Irreps of all layers from `l_max`, `parity` and `num_features`.
fn simple_irreps(options: &Options<'_>, by_degree: bool) -> Result<(Vec<Irreps>, Irreps), NequipError> {
    let key = "num_features";
    let (layers, l_max, parity) = (options.size("num_layers", 4)?, options.size("l_max", 1)?, options.flag("parity", true)?);
    if layers == 0 || layers > 64 || l_max > Irrep::MAX_L {
        return Err(option_error("num_layers", format!("is {layers} with l_max {l_max}")));
    }
    let sizes: Option<Vec<usize>> = match options.get(key) {
        None => Some(vec![32; l_max + 1]),
        Some(Json::Array(list)) => list.iter().map(as_size).collect(),
        Some(value) => as_size(value).map(|n| vec![n; l_max + 1]),
    };
    let sizes = sizes
        .filter(|s| s.len() == l_max + 1)
        .ok_or_else(|| option_error(key, format!("is not one size, or one for each of {} degrees", l_max + 1)))?;
    let both = |l: usize| [MulIrrep::new(sizes[l], Irrep::even(l)), MulIrrep::new(sizes[l], Irrep::odd(l))];
    let blocks: Vec<MulIrrep> = match (by_degree, parity) {
        (true, true) => (0..=l_max).flat_map(both).collect(),
        (true, false) => (0..=l_max).map(|l| MulIrrep::new(sizes[l], Irrep::natural(l))).collect(),
        (false, true) => (0..=l_max).map(|l| both(l)[0]).chain((0..=l_max).map(|l| both(l)[1])).collect(),
        (false, false) => (0..=l_max).map(|l| both(l)[0]).collect(),
    };
    let wrong = |e: tesseral_o3::IrrepsError| option_error(key, e.to_string());
    let hidden = Irreps::new(blocks).map_err(wrong)?;
    let last = Irreps::new(vec![MulIrrep::new(sizes[0], Irrep::even(0))]).map_err(wrong)?;
    let natural = by_degree || parity;
    let edge = (0..=l_max).map(|l| MulIrrep::new(1, if natural { Irrep::natural(l) } else { Irrep::even(l) })).collect();
    Ok(((1..layers).map(|_| hidden.clone()).chain([last]).collect(), Irreps::new(edge).map_err(wrong)?))
}

/// Irreps of all layers as they are written out.
fn full_irreps(options: &Options<'_>) -> Result<(Vec<Irreps>, Irreps), NequipError> {
    let key = "feature_irreps_hidden";
    let list = options.require(key)?.as_array().ok_or_else(|| option_error(key, "is not a list"))?;
    let hidden = list.iter().map(|v| parse_irreps(key, v)).collect::<Result<_, _>>()?;
    let edge = edge_irreps("irreps_edge_sh", options.require("irreps_edge_sh")?)?;
    Ok((hidden, edge))
}

/// √(average number of neighbours), one or by type.
fn averages(options: &Options<'_>, types: &[String]) -> Result<Vec<f64>, NequipError> {
    let key = "avg_num_neighbors";
    let one =
        |v: &Json| v.as_f64().ok_or_else(|| option_error(key, format!("holds {v}, expected numbers"))).and_then(|n| denominator(key, n));
    match options.get(key) {
        None => Ok(vec![1.0]),
        Some(Json::Object(by_type)) => types
            .iter()
            .map(|name| by_type.get(name).ok_or_else(|| option_error(key, format!("has nothing for type `{name}`"))).and_then(one))
            .collect(),
        Some(value) => Ok(vec![one(value)?]),
    }
}

/// The exponent of the envelope of a ZBL term.
fn zbl(term: &Json, own_envelope: bool, envelope_p: u32) -> Result<u32, NequipError> {
    let options = Options::new("pair_potential", term)?;
    let target = options.text("_target_", "")?;
    if target.rsplit('.').next() != Some("ZBL") {
        return Err(option_error("pair_potential", format!("is `{target}`; only ZBL is known")));
    }
    let p = options.exponent("polynomial_cutoff_p", 6)?;
    options.check_all_read(&["units", "chemical_species", "type_names"])?;
    Ok(if own_envelope { p } else { envelope_p })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hyperparameters(version: &str, model: &Json) -> Result<Hyperparameters, NequipError> {
        let (target, model) = unwrap_modifiers(model)?;
        Training { model, target, version: version.to_owned(), ema: None }.hyperparameters()
    }

    fn model(extra: &Json) -> Json {
        let mut model = json!({"_target_": "nequip.model.NequIPGNNModel", "r_max": 5.0, "type_names": ["O", "H"], "num_layers": 3, "l_max": 2, "num_features": 4});
        let options = model.as_object_mut().unwrap();
        options.extend(extra.as_object().unwrap().clone());
        model
    }

    #[test]
    fn order_and_parity_of_features_changed_in_0_16() {
        let hidden = |version, parity| {
            let hyper = hyperparameters(version, &model(&json!({"parity": parity}))).unwrap();
            (hyper.layers[0].hidden.to_string(), hyper.edge_irreps.to_string())
        };
        let owned = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(hidden("0.15.0", true), owned("4x0e+4x1e+4x2e+4x0o+4x1o+4x2o", "1x0e+1x1o+1x2e"));
        assert_eq!(hidden("0.15.0", false), owned("4x0e+4x1e+4x2e", "1x0e+1x1e+1x2e"));
        assert_eq!(hidden("0.16.0", true), owned("4x0e+4x0o+4x1e+4x1o+4x2e+4x2o", "1x0e+1x1o+1x2e"));
        assert_eq!(hidden("0.16.0", false), owned("4x0e+4x1o+4x2e", "1x0e+1x1o+1x2e"));
    }

    #[test]
    fn options_override_presets() {
        let preset = json!({"_target_": "nequip.model.PresetNequIPGNNModel", "preset": "m", "r_max": 6.0, "type_names": ["Si"], "num_features": [8, 4, 2]});
        let hyper = hyperparameters("0.19.1", &preset).unwrap();
        let hidden: Vec<String> = hyper.layers.iter().map(|l| l.hidden.to_string()).collect();
        assert_eq!(hidden, ["8x0e+4x1o+2x2e", "8x0e+4x1o+2x2e", "8x0e+4x1o+2x2e", "8x0e"]);
        assert_eq!((hyper.elements, hyper.layers[0].self_connection, hyper.layers[1].self_connection), (vec![14], false, true));
    }

    #[test]
    fn a_learnable_shift_starts_in_the_first_layer() {
        let hyper = hyperparameters("0.19.1", &model(&json!({"learnable_shift": true, "convnet_resnet": true}))).unwrap();
        assert!(hyper.layers.iter().all(|l| l.self_connection && l.resnet));
    }

    #[test]
    fn the_envelope_of_zbl_is_its_own_from_0_17_on() {
        let with_zbl = model(
            &json!({"polynomial_cutoff_p": 8, "pair_potential": {"_target_": "nequip.nn.pair_potential.ZBL", "units": "metal", "chemical_species": ["O", "H"]}}),
        );
        assert_eq!(hyperparameters("0.16.3", &with_zbl).unwrap().zbl, Some(8));
        assert_eq!(hyperparameters("0.17.0", &with_zbl).unwrap().zbl, Some(6));
    }

    #[test]
    fn kernels_may_be_chosen_and_nothing_else_modified() {
        let modified =
            |modifier: &str| json!({"_target_": "nequip.model.modify", "modifiers": [{"modifier": modifier}], "model": model(&json!({}))});
        assert!(hyperparameters("0.19.1", &modified("enable_OpenEquivariance")).is_ok());
        assert!(
            matches!(hyperparameters("0.19.1", &modified("modify_PerTypeScaleShift")), Err(NequipError::Option { key, .. }) if key == "modifiers")
        );
    }

    #[test]
    fn what_is_not_understood_is_named() {
        let key = |model: &Json| match hyperparameters("0.19.1", model) {
            Err(NequipError::Option { key, .. }) => key,
            other => panic!("{other:?}"),
        };
        assert_eq!(key(&model(&json!({"new_option": 1}))), "new_option");
        assert_eq!(key(&model(&json!({"convnet_nonlinearity_type": "norm"}))), "convnet_nonlinearity_type");
        assert_eq!(key(&model(&json!({"readout_mlp_nonlinearity": "mish"}))), "readout_mlp_nonlinearity");
        assert_eq!(key(&model(&json!({"pair_potential": {"_target_": "nequip.nn.pair_potential.LennardJones"}}))), "pair_potential");
        assert_eq!(key(&model(&json!({"categorical_graph_field_embed": [{"field": "charge"}]}))), "categorical_graph_field_embed");
        assert_eq!(key(&model(&json!({"type_names": ["O", "Hcat"]}))), "type_names");
        assert_eq!(key(&model(&json!({"num_features": [1, 2]}))), "num_features");
        assert_eq!(key(&model(&json!({"avg_num_neighbors": {"O": 3.0}}))), "avg_num_neighbors");
        assert_eq!(key(&model(&json!({"_target_": "my.Model"}))), "_target_");
        assert_eq!(key(&json!({"_target_": "nequip.model.ModelFromPackage"})), "_target_");
        assert!(matches!(hyperparameters("0.19.1", &json!({"_target_": "allegro.model.AllegroModel"})), Err(NequipError::Allegro)));
    }
}
