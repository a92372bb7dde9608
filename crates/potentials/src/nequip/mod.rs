//! The NequIP family: SevenNet and NequIP (model definitions §3, §4).

mod config;

use std::sync::Arc;

use candle_core::{DType, Tensor};
use tesseral_o3::TensorProductPaths;
use tesseral_ops::autograd::Leaves;
use tesseral_ops::gate::{GateSpec, ScaledActivation, activate, gate};
use tesseral_ops::radial::{self, ScalarFunction, ZblConstants};
use tesseral_ops::spherical_harmonics::spherical_harmonics;
use tesseral_ops::tensor_product::TensorProductSpec;

pub use config::{Envelope, GateActivations, NequipConfig, NequipLayerConfig, ReadoutLayer, SelfConnection, ZblConfig};

use crate::batch::Batch;
use crate::blocks::{
    EdgeFeatures, EdgeRows, EquivariantLinear, Geometry, LinearOptions, RadialDomain, RadialNetwork, activation, gate_spec,
};
use crate::error::{Result, config_error};
use crate::parameters::Parameters;
use crate::validation::edge_degree;
use tesseral_ops::linear::{LinearSpec, linear};

/// A SevenNet or NequIP network.
pub struct Nequip {
    config: NequipConfig,
    lmax: usize,
    embedding: Tensor,
    embedding_bias: Option<Tensor>,
    embedding_modal: Option<Tensor>,
    frequencies: Tensor,
    layers: Vec<Layer>,
    readout: Vec<Readout>,
    /// `[max(M, 1), Z]`
    scale: Tensor,
    shift: Tensor,
    /// Å, `[Z, Z]` row-major by species of centre and neighbour.
    pair_cutoffs: Option<Vec<f64>>,
    /// Where the even scalars, which the readout takes, lie in the last features: offset and channels.
    scalars: (usize, usize),
}

struct Layer {
    self_connection: Option<EquivariantLinear>,
    linear_1: EquivariantLinear,
    radial: RadialNetwork,
    product: Arc<TensorProductSpec>,
    denominator: Tensor,
    linear_2: EquivariantLinear,
    gate: Arc<GateSpec>,
    resnet: bool,
}

struct Readout {
    spec: Arc<LinearSpec>,
    weight: Tensor,
    bias: Option<Tensor>,
    modal: Option<Tensor>,
    activation: Option<ScaledActivation>,
}

impl Nequip {
    /// Reads the tensors that the configuration names.
    ///
    /// # Errors
    /// If one is missing or the configuration contradicts itself.
    pub fn new(config: &NequipConfig, p: &Parameters<'_>) -> Result<Self> {
        config.validate()?;
        let (z, m) = (config.elements.len(), config.modalities.len());
        let optional = |name: &str, shape: &[usize]| -> Result<Option<Tensor>> {
            if p.contains(name) { Ok(Some(p.get(name, shape)?)) } else { Ok(None) }
        };
        let lmax = edge_degree(&config.edge_irreps)?;
        let layers = config.layers.iter().enumerate().map(|(t, layer)| Layer::new(config, layer, p, t)).collect::<Result<Vec<_>>>()?;
        let readout = config
            .readout
            .iter()
            .enumerate()
            .map(|(k, r)| {
                let name = format!("readout.{k}");
                let activation = r.activation.as_ref().map(|(a, gain)| activation(a, *gain)).transpose()?;
                let spec = Arc::new(LinearSpec::dense(r.size_in, r.size_out, r.scale));
                Ok(Readout {
                    weight: p.linear(&format!("{name}.weight"), &[r.size_in, r.size_out], &spec)?,
                    spec,
                    bias: if r.bias { Some(p.get(&format!("{name}.bias"), &[r.size_out])?) } else { None },
                    modal: if r.modal { Some(p.get(&format!("{name}.modal"), &[m, r.size_out])?) } else { None },
                    activation,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let pair_cutoffs = if p.contains("pair_cutoffs") { Some(p.constants("pair_cutoffs", &[z, z])?) } else { None };
        if let Some(c) = pair_cutoffs.iter().flatten().find(|&&c| !(c > 0.0 && c <= config.cutoff * (1.0 + 1e-9))) {
            return Err(config_error("pair_cutoffs", format!("{c} Å is not between 0 and the cutoff, {} Å", config.cutoff)));
        }
        let scalars = config.last_scalars().map_or((0, 0), |b| (b.offset, b.mul));
        Ok(Self {
            config: config.clone(),
            lmax,
            pair_cutoffs,
            scalars,
            embedding: p.get("embedding.weight", &[z, config.channels])?,
            embedding_bias: optional("embedding.bias", &[config.channels])?,
            embedding_modal: optional("embedding.modal", &[m, config.channels])?,
            frequencies: p.get("radial.frequencies", &[config.basis_size])?,
            layers,
            readout,
            scale: p.get_f64("scale", &[m.max(1), z])?,
            shift: p.get_f64("shift", &[m.max(1), z])?,
        })
    }

    /// What is needed to interpolate radial functions for a batch; `None` if the energy depends on distances otherwise.
    pub(crate) fn radial_domain(&self, batch: &Batch) -> Option<RadialDomain> {
        if self.config.zbl.is_some() {
            return None;
        }
        let stretch = self.pair_cutoffs.is_some().then(|| self.stretch(&self.edge_cutoffs(batch)));
        let (envelope, cutoff) = (self.config.envelope_function(), self.config.cutoff);
        Some(RadialDomain { envelope, cutoff, stretch, lmax: self.lmax, normalize: self.config.normalize_harmonics })
    }

    /// What distances are multiplied with where pairs have cutoffs (Å) of their own.
    fn stretch(&self, cutoffs: &[f64]) -> Vec<f64> {
        cutoffs.iter().map(|c| self.config.cutoff / c).collect()
    }

    fn features<'a>(&self, d: &Tensor, envelope: &Tensor, rows: EdgeRows<'a>) -> Result<EdgeFeatures<'a>> {
        let basis = radial::bessel(d, &self.frequencies, self.config.basis_prefactor)?.broadcast_mul(envelope)?;
        Ok(EdgeFeatures { basis, envelope: None, rows })
    }

    /// As [`crate::Model::atomic_energies`].
    pub(crate) fn atomic_energies(&self, batch: &Batch, geometry: Geometry<'_>, leaves: &Leaves) -> Result<Tensor> {
        let config = &self.config;
        let device = self.embedding.device();
        let species = batch.species_tensor(device)?;
        let heads = batch.atom_heads();
        let modality = if config.modalities.is_empty() { None } else { Some(Tensor::from_slice(&heads, heads.len(), device)?) };
        let mut repulsion = None;
        let edges = match geometry {
            Geometry::Vectors(vectors) => {
                let d = radial::distance(vectors)?;
                let per_edge = self.pair_cutoffs.is_some() || config.zbl.is_some();
                let edge_cutoffs = if per_edge { self.edge_cutoffs(batch) } else { Vec::new() };
                if let Some(zbl) = &config.zbl {
                    repulsion = Some(self.repulsion(batch, &d, &edge_cutoffs, zbl)?);
                }
                let stretched = match &self.pair_cutoffs {
                    None => d,
                    Some(_) => (&d * Tensor::from_vec(self.stretch(&edge_cutoffs), d.dims(), d.device())?.to_dtype(d.dtype())?)?,
                };
                let envelope = radial::scalar_function(&stretched, &Arc::new(config.envelope_function()))?.unsqueeze(1)?;
                let harmonics = spherical_harmonics(vectors, self.lmax, config.normalize_harmonics)?;
                self.features(&stretched, &envelope, EdgeRows::Harmonics(harmonics))?
            }
            Geometry::Splines(edges, rows) => self.features(&edges.knots, &edges.envelope, EdgeRows::Splines(edges, rows))?,
        };

        let mut x = (self.embedding.index_select(&species, 0)? * config.embedding_scale)?;
        if let (Some(modal), Some(modality)) = (&self.embedding_modal, &modality) {
            x = (x + (modal.index_select(modality, 0)? * config.embedding_scale)?)?;
        }
        if let Some(bias) = &self.embedding_bias {
            x = x.broadcast_add(bias)?;
        }
        for layer in &self.layers {
            x = layer.forward(batch, &x, &species, &edges, modality.as_ref(), leaves)?;
        }
        if self.scalars.1 != x.dim(1)? {
            x = x.narrow(1, self.scalars.0, self.scalars.1)?.contiguous()?;
        }
        for r in &self.readout {
            x = linear(&x, &r.weight, &r.spec, None)?;
            if let (Some(modal), Some(modality)) = (&r.modal, &modality) {
                x = (x + (modal.index_select(modality, 0)? * r.spec.instructions[0].scale)?)?;
            }
            if let Some(bias) = &r.bias {
                x = x.broadcast_add(bias)?;
            }
            if let Some(activation) = r.activation {
                x = activate(&x, activation)?;
            }
        }
        // Row (modality, element) of the scale and shift tables.
        let row: Vec<u32> = batch
            .species
            .iter()
            .zip(&heads)
            .map(|(s, h)| if config.modalities.is_empty() { *s } else { h * config.elements.len() as u32 + s })
            .collect();
        let row = Tensor::from_slice(&row, row.len(), device)?;
        let of_atom = |table: &Tensor| table.flatten_all()?.index_select(&row, 0);
        let mut energies = ((x.squeeze(1)?.to_dtype(DType::F64)? * of_atom(&self.scale)?)? + of_atom(&self.shift)?)?;
        if let Some(repulsion) = repulsion {
            energies = (energies + repulsion.to_dtype(DType::F64)?)?;
        }
        Ok(energies)
    }

    /// The cutoff of each edge, Å.
    fn edge_cutoffs(&self, batch: &Batch) -> Vec<f64> {
        let graph = &batch.graph;
        let Some(cutoffs) = &self.pair_cutoffs else { return vec![self.config.cutoff; graph.centers().len()] };
        let species = |atom: &u32| batch.species[*atom as usize] as usize;
        let elements = self.config.elements.len();
        graph.centers().iter().zip(graph.neighbors()).map(|(i, j)| cutoffs[species(i) * elements + species(j)]).collect()
    }

    /// The ZBL energy of each atom, eV, `[N]`: half of each of its pairs.
    fn repulsion(&self, batch: &Batch, d: &Tensor, cutoffs: &[f64], zbl: &ZblConfig) -> Result<Tensor> {
        let number = |atom: &u32| u32::from(batch.elements[batch.species[*atom as usize] as usize]);
        let z_u: Vec<u32> = batch.graph.centers().iter().map(number).collect();
        let z_v: Vec<u32> = batch.graph.neighbors().iter().map(number).collect();
        let constants = ZblConstants { coulomb: zbl.coulomb, ..ZblConstants::LAMMPS };
        let function: ScalarFunction = constants
            .pair_energy(&z_u, &z_v, cutoffs, zbl.envelope_p)
            .ok_or_else(|| config_error("zbl", "one pair of atomic numbers an edge is needed"))?;
        let pairs = radial::scalar_function(d, &Arc::new(function))?;
        Ok(batch.graph.sum_over_centers(&pairs.unsqueeze(1)?)?.squeeze(1)?)
    }
}

impl Layer {
    fn new(model: &NequipConfig, config: &NequipLayerConfig, p: &Parameters<'_>, t: usize) -> Result<Self> {
        let name = format!("layers.{t}");
        let (z, m) = (model.elements.len(), model.modalities.len());
        let message = &config.irreps_message;
        let paths = TensorProductPaths::new(&config.irreps_in, &model.edge_irreps, |irrep| message.contains(irrep))
            .map_err(|e| config_error(&name, e.to_string()))?;
        let product = TensorProductSpec::new(&paths).map_err(|e| config_error(&name, e.to_string()))?;
        if product.weight_numel != config.radial.outputs() || config.radial.inputs() != model.basis_size {
            return Err(config_error(
                format!("{name}.radial"),
                format!(
                    "sizes {:?} do not fit {} basis functions and {} weights",
                    config.radial.sizes, model.basis_size, product.weight_numel
                ),
            ));
        }
        let irreps_gate = &config.irreps_gate;
        let plain = LinearOptions { fan_in_factor: 1, ..LinearOptions::default() };
        let options = LinearOptions { bias: config.bias, ..plain };
        let modal = |on: bool| LinearOptions { modalities: if on { m } else { 0 }, ..options };
        let self_connection = match config.self_connection {
            SelfConnection::None => None,
            SelfConnection::Linear => Some(plain),
            SelfConnection::Element { fan_in } => Some(LinearOptions { elements: Some(z), fan_in_factor: fan_in, ..plain }),
        };
        let denominator = format!("{name}.denominator");
        let denominator_shape = p.shape(&denominator)?;
        if denominator_shape != [1] && denominator_shape != [z] {
            return Err(config_error(denominator, format!("expected shape [1] or [{z}], got {denominator_shape:?}")));
        }
        if p.constants(&denominator, &denominator_shape)?.contains(&0.0) {
            return Err(config_error(denominator, "messages cannot be divided by zero"));
        }
        Ok(Self {
            self_connection: self_connection
                .map(|o| EquivariantLinear::new(p, &format!("{name}.self_connection"), &config.irreps_in, irreps_gate, o))
                .transpose()?,
            linear_1: EquivariantLinear::new(p, &format!("{name}.linear_1"), &config.irreps_in, &config.irreps_in, modal(config.modal_1))?,
            radial: RadialNetwork::new(p, &format!("{name}.radial"), &config.radial)?,
            denominator: p.get(&denominator, &denominator_shape)?,
            linear_2: EquivariantLinear::new(p, &format!("{name}.linear_2"), &product.irreps_out, irreps_gate, modal(config.modal_2))?,
            product: Arc::new(product),
            gate: Arc::new(gate_spec(&config.irreps_out, irreps_gate, &model.activations)?),
            resnet: config.resnet,
        })
    }

    fn forward(
        &self,
        batch: &Batch,
        x: &Tensor,
        species: &Tensor,
        edges: &EdgeFeatures<'_>,
        modality: Option<&Tensor>,
        leaves: &Leaves,
    ) -> Result<Tensor> {
        let mut h = self.linear_1.forward(x, &batch.groups, modality)?;
        // Dividing the sender's features or the sum is the same; by element only the first is possible.
        h = match self.denominator.dim(0)? {
            1 => h.broadcast_div(&self.denominator)?,
            _ => h.broadcast_div(&self.denominator.index_select(species, 0)?.unsqueeze(1)?)?,
        };
        let message = edges.convolution(&h, (&self.radial, &edges.basis), &self.product, &batch.graph, leaves)?;
        let mut y = self.linear_2.forward(&message, &batch.groups, modality)?;
        if let Some(self_connection) = &self.self_connection {
            y = (y + self_connection.forward(x, &batch.groups, None)?)?;
        }
        let out = gate(&y, &self.gate)?;
        Ok(if self.resnet { (out + x)? } else { out })
    }
}
