//! The interaction blocks (model definitions §2.5).

use std::sync::Arc;

use candle_core::Tensor;
use tesseral_o3::{Irrep, Irreps, MulIrrep, TensorProductPaths};
use tesseral_ops::autograd::Leaves;
use tesseral_ops::gate::{GateSpec, gate};
use tesseral_ops::tensor_product::TensorProductSpec;

use super::config::{ATTENTION_SCALARS, Interaction, LayerConfig, MaceConfig};
use crate::batch::Batch;
use crate::blocks::{EdgeFeatures, EquivariantLinear, LinearOptions, Mlp, RadialNetwork, gate_spec};
use crate::error::{Result, config_error};
use crate::nequip::GateActivations;
use crate::parameters::Parameters;

/// Messages from neighbours, mixed into the target irreps, and the skip connection.
pub(super) struct InteractionBlock {
    kind: Interaction,
    up: EquivariantLinear,
    radial: RadialNetwork,
    product: Arc<TensorProductSpec>,
    linear: EquivariantLinear,
    avg_num_neighbors: f64,
    density: Option<Mlp>,
    /// The product with the element after the messages (blocks without residual).
    mix: Option<EquivariantLinear>,
    skip: Option<EquivariantLinear>,
    extra: Extra,
}

enum Extra {
    None,
    Attention {
        down: EquivariantLinear,
    },
    NonLinear {
        residual: EquivariantLinear,
        /// `[Z, K0]` each, divided by √Z when used.
        source: Tensor,
        target: Tensor,
        alpha: Tensor,
        beta: Tensor,
        gate: Arc<GateSpec>,
        linear_2: EquivariantLinear,
    },
}

/// What the gate of the non-linear block takes in: scalars, one 0e gate for each gated channel, gated irreps.
pub fn gate_irreps(target: &Irreps) -> Irreps {
    let gated: usize = target.iter().filter(|b| b.irrep.l > 0).map(|b| b.mul).sum();
    let mut blocks: Vec<MulIrrep> = target.iter().filter(|b| b.irrep.l == 0).copied().collect();
    if gated > 0 {
        blocks.push(MulIrrep::new(gated, Irrep::even(0)));
    }
    blocks.extend(target.iter().filter(|b| b.irrep.l > 0).copied());
    Irreps::new(blocks).map(|i| i.regroup()).unwrap_or_default()
}

/// SiLU on scalars, sigmoid on gates, with their second-moment factors (mace/modules/gate.py).
pub fn gate_activations() -> GateActivations {
    GateActivations {
        scalars_even: "silu".into(),
        scalars_odd: "tanh".into(),
        gates_even: "sigmoid".into(),
        gates_odd: "tanh".into(),
        normalize: true,
    }
}

impl InteractionBlock {
    pub(super) fn new(model: &MaceConfig, config: &LayerConfig, p: &Parameters<'_>, t: usize) -> Result<Self> {
        let name = format!("layers.{t}");
        let z = model.elements.len();
        let plain = LinearOptions { fan_in_factor: 1, ..LinearOptions::default() };
        let by_element = LinearOptions { elements: Some(z), fan_in_factor: z, ..LinearOptions::default() };
        let map = |what: &str, from: &Irreps, to: &Irreps, options| EquivariantLinear::new(p, &format!("{name}.{what}"), from, to, options);
        let target = &config.irreps_target;
        let paths = TensorProductPaths::new(&config.irreps_edge, &model.edge_irreps, |irrep| target.contains(irrep))
            .map_err(|e| config_error(&name, e.to_string()))?;
        let product = TensorProductSpec::new(&paths).map_err(|e| config_error(&name, e.to_string()))?;
        if product.weight_numel != config.radial.outputs() {
            return Err(config_error(
                format!("{name}.radial"),
                format!("its last size is {}, the tensor product has {} weights", config.radial.outputs(), product.weight_numel),
            ));
        }
        let density = match (config.interaction.has_density(), &config.density) {
            (true, Some(density)) if density.outputs() == 1 => Some(Mlp::new(p, &format!("{name}.density"), density)?),
            (false, _) => None,
            _ => return Err(config_error(format!("{name}.density"), "this block needs a density network with one output")),
        };
        let (mut skip, mut mix, mut extra) = (None, None, Extra::None);
        let mut messages = target.clone();
        match config.interaction {
            Interaction::Plain | Interaction::Density => mix = Some(map("mix", target, target, by_element)?),
            Interaction::Residual | Interaction::DensityResidual => {
                skip = Some(map("skip", &config.irreps_in, &config.irreps_out, by_element)?);
            }
            Interaction::AttentionResidual => {
                skip = Some(map("skip", &config.irreps_in, &config.irreps_out, plain)?);
                let scalars = Irreps::new(vec![MulIrrep::new(ATTENTION_SCALARS, Irrep::even(0))])
                    .map_err(|e| config_error(format!("{name}.down"), e.to_string()))?;
                extra = Extra::Attention { down: map("down", &config.irreps_in, &scalars, plain)? };
            }
            Interaction::ResidualNonLinear => {
                skip = Some(map("skip", &config.irreps_in, &config.irreps_out, plain)?);
                messages = gate_irreps(target);
                let channels = config.irreps_in.count(Irrep::even(0));
                let one_hot = |what: &str| -> Result<Tensor> { p.get(&format!("{name}.{what}.weight"), &[z, channels]) };
                extra = Extra::NonLinear {
                    residual: map("residual", &config.irreps_edge, &messages, plain)?,
                    source: one_hot("source")?,
                    target: one_hot("target")?,
                    alpha: p.get(&format!("{name}.alpha"), &[1])?,
                    beta: p.get(&format!("{name}.beta"), &[1])?,
                    gate: Arc::new(gate_spec(target, &messages, &gate_activations())?),
                    linear_2: map("linear_2", target, target, plain)?,
                };
            }
        }
        if !config.skip {
            skip = None;
        }
        Ok(Self {
            kind: config.interaction,
            up: map("up", &config.irreps_in, &config.irreps_edge, plain)?,
            radial: RadialNetwork::new(p, &format!("{name}.radial"), &config.radial)?,
            linear: map("linear", &product.irreps_out, &messages, plain)?,
            product: Arc::new(product),
            avg_num_neighbors: config.avg_num_neighbors,
            density,
            mix,
            skip,
            extra,
        })
    }

    /// Whether the radial network sees nothing but the distance, and nothing else does.
    pub(super) fn radial_of_distance(&self) -> bool {
        matches!(self.extra, Extra::None) && self.density.is_none()
    }

    /// Features `[N, H_in]` → messages `[N, T]` and the skip connection `[N, H_out]`, if there is one.
    pub(super) fn forward(
        &self,
        batch: &Batch,
        features: &Tensor,
        species: &Tensor,
        edges: &EdgeFeatures<'_>,
        leaves: &Leaves,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let groups = &batch.groups;
        let graph = &batch.graph;
        let skip = self.skip.as_ref().map(|s| s.forward(features, groups, None)).transpose()?;
        let up = self.up.forward(features, groups, None)?;
        // What the networks see: the basis, and what some blocks add about the two atoms (sender, then receiver).
        let inputs = match &self.extra {
            Extra::None => edges.basis.clone(),
            Extra::Attention { down } => {
                let down = down.forward(features, groups, None)?;
                Tensor::cat(&[&edges.basis, &graph.of_neighbors(&down)?, &graph.of_centers(&down)?], 1)?
            }
            Extra::NonLinear { source, target, .. } => {
                let of_atoms = |table: &Tensor| table.index_select(species, 0)? * (1.0 / (table.dim(0)? as f64).sqrt());
                Tensor::cat(&[&edges.basis, &graph.of_neighbors(&of_atoms(source)?)?, &graph.of_centers(&of_atoms(target)?)?], 1)?
            }
        };
        let message = edges.convolution(&up, (&self.radial, &inputs), &self.product, graph, leaves)?;
        let mut m = self.linear.forward(&message, groups, None)?;
        let density = match &self.density {
            None => None,
            Some(network) => {
                let mut edge = network.forward(&inputs)?.sqr()?.tanh()?;
                if let Some(envelope) = &edges.envelope {
                    edge = (edge * envelope)?;
                }
                Some(graph.sum_over_centers(&edge)?)
            }
        };
        m = match (&self.extra, density) {
            (Extra::NonLinear { residual, alpha, beta, gate: spec, linear_2, .. }, Some(rho)) => {
                let divisor = rho.broadcast_mul(beta)?.broadcast_add(alpha)?;
                let sum = (m.broadcast_div(&divisor)? + residual.forward(&up, groups, None)?)?;
                linear_2.forward(&gate(&sum, spec)?, groups, None)?
            }
            (_, Some(rho)) => m.broadcast_div(&(rho + 1.0)?)?,
            (_, None) => (m * (1.0 / self.avg_num_neighbors))?,
        };
        if let Some(mix) = &self.mix {
            m = mix.forward(&m, groups, None)?;
        }
        debug_assert!(self.kind.has_skip() || skip.is_none());
        Ok((m, skip))
    }
}
