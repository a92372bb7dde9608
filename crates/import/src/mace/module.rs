//! Hyperparameters and tensors of a pickled model of mace-torch, of any version: attributes that old files lack have the value they had then.

use std::collections::BTreeMap;

use tesseral_o3::{Irrep, Irreps, MulIrrep, Parity};
use tesseral_potentials::mace::{
    Basis, FieldConfig, FieldKind, Interaction, LayerConfig, MaceConfig, RadialConfig, ReadoutConfig, ReadoutKind, Transform,
};

use super::tensors::{correlation, radial_network};
use super::{MaceError, MaceSource};
use crate::source::ForeignCheckpoint;
use crate::torch::module::{self, generated_code, named_modules};
use crate::torch::tensor::Tensor;
use crate::torch::value::ValueRef;

impl MaceSource {
    /// Reads the module tree of a pickled model.
    ///
    /// # Errors
    /// [`MaceError`] naming the part that is not understood.
    pub fn read(checkpoint: &ForeignCheckpoint) -> Result<Self, MaceError> {
        let root = checkpoint.root();
        refuse_cuequivariance(root)?;
        let mut tensors = BTreeMap::new();
        for entry in checkpoint.state_dict()?.iter() {
            tensors.insert(entry.name.clone(), checkpoint.tensor(&entry.name, &entry.tensor)?);
        }
        // The 3j symbols of tensor products are in generated code; files stripped of that have none.
        if generated_code(root)?.iter().any(|(_, archive)| !archive.is_empty()) {
            tensors.extend(checkpoint.generated_tensors()?.into_iter().filter(|(name, _)| name.contains("_w3j_")));
        }
        let config = Reader { checkpoint, root, tensors: &tensors }.config()?;
        Ok(Self { config, tensors })
    }
}

/// The name of the class of a part.
fn class<'h>(value: ValueRef<'h>, path: &str) -> Result<&'h str, MaceError> {
    value.class().map(|c| c.name.as_str()).ok_or_else(|| value.type_error(path, "a module").into())
}

fn refuse_cuequivariance(root: ValueRef<'_>) -> Result<(), MaceError> {
    for (path, part) in named_modules(root)? {
        if let Some(class) = part.class().filter(|c| c.module.starts_with("cuequivariance")) {
            return Err(MaceError::CuEquivariance { path, class: class.to_string() });
        }
    }
    Ok(())
}

struct Reader<'c> {
    checkpoint: &'c ForeignCheckpoint,
    root: ValueRef<'c>,
    tensors: &'c BTreeMap<String, Tensor>,
}

impl<'c> Reader<'c> {
    /// What is at a dotted path, `None` where it is missing or Python's `None`.
    fn find(&self, path: &str) -> Option<ValueRef<'c>> {
        self.root.path(path).filter(|v| !v.is_none())
    }

    fn number(&self, path: &str) -> Result<f64, MaceError> {
        let numbers = self.checkpoint.numbers(path, self.root.require(path)?)?;
        numbers.item().filter(|x| x.is_finite()).ok_or_else(|| MaceError::value(path, "is not one finite number"))
    }

    fn flag(&self, path: &str, default: bool) -> Result<bool, MaceError> {
        self.find(path).map_or(Ok(default), |v| v.as_bool().ok_or_else(|| v.type_error(path, "True or False").into()))
    }

    /// Irreps as an object of e3nn or as text.
    fn irreps(&self, path: &str) -> Result<Irreps, MaceError> {
        let value = self.root.require(path)?;
        let invalid = |e: tesseral_o3::IrrepsError| MaceError::value(path, e.to_string());
        if let Some(text) = value.as_str() {
            return text.parse().map_err(invalid);
        }
        let blocks = module::irreps(value).ok_or_else(|| value.type_error(path, "irreps"))?;
        let parity = |odd| if odd { Parity::Odd } else { Parity::Even };
        Irreps::new(blocks.iter().map(|b| MulIrrep::new(b.mul, Irrep { l: b.l, parity: parity(b.odd) })).collect()).map_err(invalid)
    }

    /// The parts of a `ModuleList`.
    fn list(&self, path: &str) -> Result<usize, MaceError> {
        match self.root.require(path)?.children().len() {
            0 => Err(MaceError::value(path, "is empty")),
            count => Ok(count),
        }
    }

    fn config(&self) -> Result<MaceConfig, MaceError> {
        let scale_shift = match class(self.root, "model")? {
            "MACE" => false,
            "ScaleShiftMACE" => true,
            other => {
                let known = "MACE and ScaleShiftMACE are";
                return Err(MaceError::UnknownClass { path: "model".into(), class: other.to_owned(), known });
            }
        };
        let cutoff = self.number("radial_embedding.cutoff_fn.r_max")?;
        let r_max = self.number("r_max")?;
        // One of the two may be rounded to single precision.
        if (cutoff - r_max).abs() > 1e-6 * r_max.abs() {
            return Err(MaceError::value("radial_embedding.cutoff_fn.r_max", format!("is {cutoff}, `r_max` of the model {r_max}")));
        }
        let count = self.list("interactions")?;
        if self.list("products")? != count {
            return Err(MaceError::value("products", format!("does not have one part for each of {count} interactions")));
        }
        let layers = (0..count).map(|t| self.layer(t)).collect::<Result<Vec<_>, _>>()?;
        let heads = self.heads()?;
        let readouts = self.readouts(&layers, heads.len())?;
        let edge_irreps = self.irreps("interactions.0.edge_attrs_irreps")?;
        self.check_harmonics(&edge_irreps)?;
        Ok(MaceConfig {
            scale_shift,
            elements: self.elements()?,
            heads,
            cutoff,
            radial: self.radial()?,
            edge_irreps,
            layers,
            readouts,
            zbl: self.repulsion()?,
            fields: self.fields()?,
            field_readout: self.find("embedding_readout").is_some(),
        })
    }

    fn elements(&self) -> Result<Vec<u8>, MaceError> {
        let path = "atomic_numbers";
        let numbers = self.checkpoint.numbers(path, self.root.require(path)?)?.to_f64();
        let element = |z: &f64| (z.fract() == 0.0 && (1.0..=118.0).contains(z)).then_some(*z as u8);
        numbers
            .iter()
            .map(element)
            .collect::<Option<_>>()
            .ok_or_else(|| MaceError::value(path, format!("is {numbers:?}, not atomic numbers")))
    }

    fn heads(&self) -> Result<Vec<String>, MaceError> {
        let Some(heads) = self.find("heads") else { return Ok(vec!["Default".to_owned()]) };
        let names = heads.as_sequence().and_then(|list| list.map(|h| h.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>());
        names.filter(|n| !n.is_empty()).ok_or_else(|| heads.type_error("heads", "a list of names").into())
    }

    fn radial(&self) -> Result<RadialConfig, MaceError> {
        let at = |what: &str| format!("radial_embedding.{what}");
        let path = at("bessel_fn");
        let (basis, size) = match class(self.root.require(&path)?, &path)? {
            "BesselBasis" => (Basis::Bessel, self.length(&at("bessel_fn.bessel_weights"))?),
            "GaussianBasis" => (Basis::Gaussian, self.length(&at("bessel_fn.gaussian_weights"))?),
            "ChebychevBasis" => (Basis::Chebyshev, self.length(&at("bessel_fn.n"))?),
            other => {
                let known = "BesselBasis, GaussianBasis and ChebychevBasis are";
                return Err(MaceError::UnknownClass { path, class: other.to_owned(), known });
            }
        };
        let path = at("distance_transform");
        let transform = match self.find(&path).map(|v| class(v, &path)).transpose()? {
            None => Transform::None,
            Some("AgnesiTransform") => Transform::Agnesi,
            Some("SoftTransform") => Transform::Soft,
            Some(other) => {
                let known = "AgnesiTransform and SoftTransform are";
                return Err(MaceError::UnknownClass { path, class: other.to_owned(), known });
            }
        };
        let path = at("cutoff_fn.p");
        let p = self.number(&path)?;
        if p.fract() != 0.0 || !(1.0..=64.0).contains(&p) {
            return Err(MaceError::value(path, format!("is {p}, not a small positive integer")));
        }
        let envelope_on_basis = self.flag(&at("apply_cutoff"), true)?;
        Ok(RadialConfig { basis, size, transform, envelope_p: p as u32, envelope_on_basis })
    }

    fn length(&self, name: &str) -> Result<usize, MaceError> {
        self.tensors.get(name).map(Tensor::numel).ok_or_else(|| MaceError::MissingTensor { name: name.to_owned() })
    }

    fn check_harmonics(&self, irreps: &Irreps) -> Result<(), MaceError> {
        let at = |what: &str| format!("spherical_harmonics.{what}");
        if !self.flag(&at("normalize"), true)? {
            return Err(MaceError::value(at("normalize"), "is False; harmonics of unit vectors are understood"));
        }
        let normalization = self.find(&at("normalization")).and_then(ValueRef::as_str);
        if normalization.is_some_and(|n| n != "component") {
            return Err(MaceError::value(at("normalization"), format!("is {normalization:?}; \"component\" is understood")));
        }
        if irreps.iter().enumerate().any(|(l, b)| b.mul != 1 || b.irrep.l != l) {
            return Err(MaceError::value(
                "interactions.0.edge_attrs_irreps",
                format!("is {irreps}; one channel of each degree from 0 on is understood"),
            ));
        }
        Ok(())
    }

    fn repulsion(&self) -> Result<bool, MaceError> {
        let path = "pair_repulsion_fn";
        let Some(function) = self.find(path) else { return Ok(false) };
        match class(function, path)? {
            "ZBLBasis" => Ok(true),
            other => Err(MaceError::UnknownClass { path: path.into(), class: other.to_owned(), known: "ZBLBasis is" }),
        }
    }

    fn layer(&self, t: usize) -> Result<LayerConfig, MaceError> {
        let path = format!("interactions.{t}");
        let at = |what: &str| format!("{path}.{what}");
        let interaction = match class(self.root.require(&path)?, &path)? {
            "RealAgnosticInteractionBlock" => Interaction::Plain,
            "RealAgnosticResidualInteractionBlock" => Interaction::Residual,
            "RealAgnosticDensityInteractionBlock" => Interaction::Density,
            "RealAgnosticDensityResidualInteractionBlock" => Interaction::DensityResidual,
            "RealAgnosticResidualNonLinearInteractionBlock" => Interaction::ResidualNonLinear,
            "RealAgnosticAttResidualInteractionBlock" => Interaction::AttentionResidual,
            other => {
                let known = "RealAgnostic…InteractionBlock with or without Residual, Density, ResidualNonLinear and AttResidual are";
                return Err(MaceError::UnknownClass { path, class: other.to_owned(), known });
            }
        };
        self.check_activations(&at("conv_tp_weights"))?;
        let irreps_in = self.irreps(&at("node_feats_irreps"))?;
        let irreps_edge = if self.find(&at("edge_irreps")).is_some() { self.irreps(&at("edge_irreps"))? } else { irreps_in.clone() };
        let density = if interaction.has_density() { Some(radial_network(self.tensors, &at("density_fn"))?) } else { None };
        let skip = self.flag(&format!("products.{t}.use_sc"), true)? && interaction.has_skip();
        Ok(LayerConfig {
            interaction,
            irreps_in,
            irreps_edge,
            irreps_target: self.irreps(&at("target_irreps"))?,
            irreps_out: self.irreps(&at("hidden_irreps"))?,
            avg_num_neighbors: self.number(&at("avg_num_neighbors"))?,
            radial: radial_network(self.tensors, &at("conv_tp_weights"))?,
            density,
            correlation: correlation(self.tensors, t)?,
            element_dependent_product: !self.flag(&format!("products.{t}.use_agnostic_product"), false)?,
            skip,
        })
    }

    /// That hidden layers of an e3nn network have SiLU, as all of MACE have.
    fn check_activations(&self, path: &str) -> Result<(), MaceError> {
        for k in 0.. {
            let path = format!("{path}.layer{k}.act");
            let Some(act) = self.find(&path) else { break };
            let name = self.activation(&path, act)?;
            if name != "silu" {
                return Err(MaceError::value(path, format!("is {name}; silu is understood")));
            }
        }
        Ok(())
    }

    /// The name of an activation that e3nn normalised.
    fn activation(&self, path: &str, act: ValueRef<'_>) -> Result<String, MaceError> {
        let function = act.require("f")?;
        let name = function.as_global().map(|g| g.name.as_str()).ok_or_else(|| function.type_error(path, "a function"))?;
        if !["silu", "tanh", "abs", "sigmoid", "relu", "gelu", "elu"].contains(&name) {
            return Err(MaceError::value(path, format!("is {name}, an activation that is not understood")));
        }
        let factor = tesseral_potentials::blocks::activation(name, 1.0)?.activation.e3nn_constant();
        if let Some(stored) = act.path("cst").and_then(ValueRef::as_f64)
            && (stored - factor).abs() > 1e-6
        {
            return Err(MaceError::value(path, format!("is {name} times {stored}; the factor {factor} is understood")));
        }
        Ok(name.to_owned())
    }

    fn readouts(&self, layers: &[LayerConfig], heads: usize) -> Result<Vec<ReadoutConfig>, MaceError> {
        let count = self.list("readouts")?;
        if count != 1 && count != layers.len() {
            return Err(MaceError::value("readouts", format!("has {count} parts for {} layers", layers.len())));
        }
        (0..count)
            .map(|r| {
                let path = format!("readouts.{r}");
                let kind = match class(self.root.require(&path)?, &path)? {
                    "LinearReadoutBlock" => ReadoutKind::Linear,
                    "NonLinearReadoutBlock" => ReadoutKind::NonLinear,
                    "NonLinearBiasReadoutBlock" => ReadoutKind::NonLinearBias,
                    other => {
                        let known = "LinearReadoutBlock, NonLinearReadoutBlock and NonLinearBiasReadoutBlock are";
                        return Err(MaceError::UnknownClass { path, class: other.to_owned(), known });
                    }
                };
                let layer = if count == 1 { layers.len() - 1 } else { r };
                let (mut hidden, mut activation) = (0, None);
                if kind != ReadoutKind::Linear {
                    let irreps = self.irreps(&format!("{path}.hidden_irreps"))?;
                    hidden = irreps.count(Irrep::even(0));
                    if hidden != irreps.dim() {
                        return Err(MaceError::value(format!("{path}.hidden_irreps"), format!("is {irreps}; even scalars are understood")));
                    }
                    let acts = format!("{path}.non_linearity.acts.0");
                    activation = self.find(&acts).map(|act| self.activation(&acts, act)).transpose()?;
                    let masked = self.find(&format!("{path}.num_heads")).map_or(Ok(1.0), |_| self.number(&format!("{path}.num_heads")))?;
                    if masked != heads as f64 {
                        return Err(MaceError::value(format!("{path}.num_heads"), format!("is {masked}, the model has {heads} heads")));
                    }
                }
                Ok(ReadoutConfig { layer, kind, irreps_in: layers[layer].irreps_out.clone(), hidden, activation })
            })
            .collect()
    }

    fn fields(&self) -> Result<Vec<FieldConfig>, MaceError> {
        if self.find("joint_embedding").is_none() {
            return Ok(Vec::new());
        }
        let specs = self.root.require("embedding_specs")?;
        let entries = specs.as_dict().ok_or_else(|| specs.type_error("embedding_specs", "a dictionary"))?;
        entries
            .map(|(name, spec)| {
                let name = name.as_str().ok_or_else(|| name.type_error("embedding_specs", "a name"))?;
                let path = |key: &str| format!("embedding_specs.{name}.{key}");
                let text = |key: &str| spec.require(key).map(|v| v.as_str().unwrap_or_default());
                let per_atom = match text("per")? {
                    "graph" => false,
                    "node" => true,
                    other => return Err(MaceError::value(path("per"), format!("is `{other}`; graph and node are understood"))),
                };
                let kind = match text("type")? {
                    "categorical" => {
                        let offset =
                            spec.attr("offset").map_or(Ok(0), |v| v.as_i64().ok_or_else(|| v.type_error(&path("offset"), "an integer")))?;
                        FieldKind::Categorical { classes: spec.require_usize("num_classes")?, offset }
                    }
                    "continuous" => FieldKind::Continuous { components: spec.require_usize("in_dim")? },
                    other => {
                        return Err(MaceError::value(path("type"), format!("is `{other}`; categorical and continuous are understood")));
                    }
                };
                // What mace-torch assumes where a structure does not say: a neutral singlet.
                let default = if name == "total_spin" { 1.0 } else { 0.0 };
                Ok(FieldConfig { name: name.to_owned(), per_atom, kind, width: spec.require_usize("emb_dim")?, default })
            })
            .collect()
    }
}
