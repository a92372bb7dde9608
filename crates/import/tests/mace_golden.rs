//! MACE from weights and hyperparameters given apart: tiny models with their inputs and outputs, without a pickle in between.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, reason = "tests may panic, and say what they find")]

#[allow(dead_code, unreachable_pub, reason = "shared with the other test files")]
mod common;

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device};
use common::{evaluate, shared};
use serde_json::Value as Json;
use tesseral_atoms::{Cell, InfoValue, Structure};
use tesseral_import::mace::{MaceSource, correlation, radial_network};
use tesseral_import::torch::tensor::{Tensor, TensorData};
use tesseral_o3::{HarmonicParity, Irrep, Irreps, MulIrrep};
use tesseral_potentials::mace::{
    Basis, FieldConfig, FieldKind, Interaction, LayerConfig, MaceConfig, RadialConfig, ReadoutConfig, ReadoutKind, Transform,
};
use tesseral_potentials::{Model, Provenance};

struct Golden {
    config: Json,
    tensors: BTreeMap<String, Tensor>,
}

impl Golden {
    fn open(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        let config = serde_json::from_str(&metadata.metadata().as_ref().unwrap()["config"]).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let tensor = |view: safetensors::tensor::TensorView<'_>| {
            let words = |n| view.data().chunks_exact(n);
            let data = match view.dtype() {
                safetensors::Dtype::F64 => TensorData::F64(words(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect()),
                safetensors::Dtype::I64 => TensorData::I64(words(8).map(|b| i64::from_le_bytes(b.try_into().unwrap())).collect()),
                safetensors::Dtype::I32 => TensorData::I32(words(4).map(|b| i32::from_le_bytes(b.try_into().unwrap())).collect()),
                safetensors::Dtype::U8 => TensorData::U8(view.data().to_vec()),
                other => panic!("{other:?}"),
            };
            Tensor { shape: view.shape().to_vec(), data }
        };
        Self { config, tensors: file.tensors().into_iter().map(|(name, view)| (name, tensor(view))).collect() }
    }

    fn values(&self, name: &str) -> Vec<f64> {
        self.tensors[name].to_f64()
    }

    fn vectors(&self, name: &str) -> Vec<[f64; 3]> {
        self.values(name).as_chunks::<3>().0.to_vec()
    }

    fn structure(&self) -> Structure {
        let numbers = self.values("in.numbers").iter().map(|&z| z as u8).collect();
        let cell = Cell { vectors: self.vectors("in.cell").try_into().unwrap() };
        let mut structure = Structure::crystal(cell, numbers, self.vectors("in.positions"));
        for (name, value) in self.config["graph_features"].as_object().into_iter().flatten() {
            structure.info.insert(name.clone(), InfoValue::Real(value.as_f64().unwrap()));
        }
        structure
    }

    fn source(&self) -> MaceSource {
        let tensors: BTreeMap<String, Tensor> =
            self.tensors.iter().filter_map(|(name, t)| Some((name.strip_prefix("model.")?.to_owned(), t.clone()))).collect();
        let config = mace_config(&self.config, &tensors);
        MaceSource { config, tensors }
    }
}

fn interaction(class: &str) -> Interaction {
    match class.strip_prefix("RealAgnostic").and_then(|c| c.strip_suffix("InteractionBlock")).unwrap() {
        "" => Interaction::Plain,
        "Residual" => Interaction::Residual,
        "Density" => Interaction::Density,
        "DensityResidual" => Interaction::DensityResidual,
        "ResidualNonLinear" => Interaction::ResidualNonLinear,
        other => panic!("{other}"),
    }
}

/// The irreps of each layer by the rules of model definitions §2.4, everything else as the configuration says it.
fn mace_config(c: &Json, tensors: &BTreeMap<String, Tensor>) -> MaceConfig {
    let text = |key: &str| c[key].as_str().unwrap();
    let count = |key: &str| c[key].as_u64().unwrap() as usize;
    let flag = |key: &str, default: bool| c.get(key).and_then(Json::as_bool).unwrap_or(default);
    let irreps = |key: &str| c.get(key).and_then(Json::as_str).map(|t| t.parse::<Irreps>().unwrap());
    let strings = |key: &str| c[key].as_array().unwrap().iter().map(|v| v.as_str().unwrap().to_owned()).collect::<Vec<_>>();
    let scalars = |n| Irreps::new(vec![MulIrrep::new(n, Irrep::even(0))]).unwrap();

    let hidden = irreps("hidden_irreps").unwrap();
    let channels = hidden.count(Irrep::even(0));
    let edge_irreps = Irreps::spherical_harmonics(count("max_ell"), HarmonicParity::Natural).unwrap();
    let target = Irreps::new(edge_irreps.iter().map(|b| MulIrrep::new(channels, b.irrep)).collect()).unwrap();
    let layer_count = count("num_interactions");
    let layers: Vec<LayerConfig> = (0..layer_count)
        .map(|t| {
            let interaction = interaction(text(if t == 0 { "interaction_cls_first" } else { "interaction_cls" }));
            let irreps_in = if t == 0 { scalars(channels) } else { hidden.clone() };
            let first = irreps("edge_irreps").filter(|_| flag("use_edge_irreps_first", false)).map(|e| scalars(e.count(Irrep::even(0))));
            let irreps_edge = if t == 0 { first } else { irreps("edge_irreps") }.unwrap_or_else(|| irreps_in.clone());
            let network = |what: &str| radial_network(tensors, &format!("interactions.{t}.{what}")).unwrap();
            LayerConfig {
                interaction,
                irreps_in,
                irreps_edge,
                irreps_target: target.clone(),
                irreps_out: if t + 1 == layer_count { scalars(channels) } else { hidden.clone() },
                avg_num_neighbors: c["avg_num_neighbors"].as_f64().unwrap(),
                radial: network("conv_tp_weights"),
                density: interaction.has_density().then(|| network("density_fn")),
                correlation: correlation(tensors, t).unwrap(),
                element_dependent_product: !flag("use_agnostic_product", false),
                skip: interaction.has_skip(),
            }
        })
        .collect();
    let heads = strings("heads");
    let readout_hidden = heads.len() * irreps("MLP_irreps").unwrap().count(Irrep::even(0));
    let readouts = layers.iter().enumerate().map(|(layer, l)| {
        let kind = match text("readout_cls") {
            _ if layer + 1 < layer_count => ReadoutKind::Linear,
            "NonLinearReadoutBlock" => ReadoutKind::NonLinear,
            "NonLinearBiasReadoutBlock" => ReadoutKind::NonLinearBias,
            other => panic!("{other}"),
        };
        let (hidden, activation) = if kind == ReadoutKind::Linear { (0, None) } else { (readout_hidden, Some(text("gate").to_owned())) };
        ReadoutConfig { layer, kind, irreps_in: l.irreps_out.clone(), hidden, activation }
    });
    let fields = c["embedding_specs"].as_object().into_iter().flatten().map(|(name, spec)| FieldConfig {
        name: name.clone(),
        per_atom: spec["per"] == "node",
        kind: FieldKind::Categorical { classes: spec["num_classes"].as_u64().unwrap() as usize, offset: spec["offset"].as_i64().unwrap() },
        width: spec["emb_dim"].as_u64().unwrap() as usize,
        default: 0.0,
    });
    MaceConfig {
        scale_shift: true,
        elements: c["atomic_numbers"].as_array().unwrap().iter().map(|z| z.as_u64().unwrap() as u8).collect(),
        heads,
        cutoff: c["r_max"].as_f64().unwrap(),
        radial: RadialConfig {
            basis: if text("radial_type") == "gaussian" { Basis::Gaussian } else { Basis::Bessel },
            size: count("num_bessel"),
            transform: match text("distance_transform") {
                "Agnesi" => Transform::Agnesi,
                "Soft" => Transform::Soft,
                _ => Transform::None,
            },
            envelope_p: count("num_polynomial_cutoff") as u32,
            envelope_on_basis: flag("apply_cutoff", true),
        },
        edge_irreps,
        readouts: readouts.collect(),
        layers,
        zbl: flag("pair_repulsion", false),
        fields: fields.collect(),
        field_readout: false,
    }
}

fn largest_difference(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

#[test]
fn energies_forces_and_stresses_equal_those_of_mace_torch() {
    let Some(folder) = shared("golden MACE models") else { return };
    for k in 0..6 {
        let golden = Golden::open(&folder.join(format!("golden/mace_{k}.safetensors")));
        let artifact = golden.source().into_artifact(&format!("mace_{k}"), Provenance::default()).unwrap();
        let model = Model::load(&artifact, DType::F64, &Device::Cpu).unwrap();
        let structure = golden.structure();
        assert_eq!(model.prepare(&structure).unwrap().num_edges(), golden.values("in.edge_index").len() / 2);
        let result = evaluate(&model, &structure, golden.config["evaluated_head"].as_str());
        let stress = result.stress.unwrap();
        let forces = golden.values("out.forces");
        let errors = [
            (result.energy - golden.values("out.energy")[0]).abs(),
            largest_difference(&result.atomic_energies, &golden.values("out.node_energy")),
            largest_difference(result.forces.as_flattened(), &forces),
            largest_difference(stress.as_flattened(), &golden.values("out.stress")),
        ];
        println!("mace_{k}: energy, atomic energies, forces, stress within {errors:?}");
        assert!(forces.iter().any(|f| f.abs() > 1e-3), "mace_{k}: these forces test nothing");
        // eV, eV, eV/Å, eV/Å³.
        assert!(errors[0] < 1e-11 && errors[1] < 1e-11 && errors[2] < 1e-11 && errors[3] < 1e-12, "mace_{k}: {errors:?}");
    }
}
