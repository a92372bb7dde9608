//! What the architectures share.

mod edges;
mod linear;
mod mlp;

use tesseral_o3::{Irreps, Parity};
use tesseral_ops::gate::{Activation, GateSpec, GatedBlock, ScaledActivation};

use crate::error::{Result, config_error};
use crate::nequip::GateActivations;

pub(crate) use edges::{EdgeFeatures, EdgeRows, Geometry, RadialDomain, SplineEdges};
pub use linear::{EquivariantLinear, LinearOptions};
pub use mlp::{Mlp, MlpConfig, RadialNetwork};

/// An activation by the name it has in configurations, times a factor.
///
/// # Errors
/// If there is no such activation.
pub fn activation(name: &str, gain: f64) -> Result<ScaledActivation> {
    let activation = match name {
        "identity" => Activation::Identity,
        "silu" => Activation::Silu,
        "tanh" => Activation::Tanh,
        "sigmoid" => Activation::Sigmoid,
        "abs" => Activation::Abs,
        "relu" => Activation::Relu,
        "ssp" => Activation::ShiftedSoftplus,
        "gelu" => Activation::Gelu,
        "elu" => Activation::Elu,
        _ => return Err(config_error("activation", format!("unknown name `{name}`"))),
    };
    Ok(ScaledActivation { activation, scale: gain })
}

/// e3nn's second-moment factor of an activation.
///
/// # Errors
/// If there is no such activation.
pub fn e3nn_gain(name: &str) -> Result<f64> {
    Ok(activation(name, 1.0)?.activation.e3nn_constant())
}

/// The gate that turns features of `irreps_gate` (scalars and gates, then gated irreps, regrouped) into `irreps_out`.
///
/// Gates stand behind the scalars of their parity.
///
/// # Errors
/// If the channels do not add up.
pub fn gate_spec(irreps_out: &Irreps, irreps_gate: &Irreps, activations: &GateActivations) -> Result<GateSpec> {
    let scaled = |even: &str, odd: &str, parity| -> Result<ScaledActivation> {
        let a = activation(if parity == Parity::Even { even } else { odd }, 1.0)?.activation;
        Ok(if activations.normalize { a.e3nn() } else { a.plain() })
    };
    let scalars = |irreps: &Irreps| irreps.iter().filter(|b| b.irrep.l == 0).copied().collect::<Vec<_>>();
    let gated: Vec<GatedBlock> =
        irreps_out.iter().filter(|b| b.irrep.l > 0).map(|b| GatedBlock { mul: b.mul, components: b.irrep.dim() }).collect();
    let channels: usize = gated.iter().map(|b| b.mul).sum();
    let blocks = scalars(irreps_out)
        .iter()
        .map(|b| Ok((b.mul, scaled(&activations.scalars_even, &activations.scalars_odd, b.irrep.parity)?)))
        .collect::<Result<Vec<_>>>()?;
    let parity = scalars(irreps_gate).last().map_or(Parity::Even, |b| b.irrep.parity);
    let gates = if channels > 0 { vec![(channels, scaled(&activations.gates_even, &activations.gates_odd, parity)?)] } else { Vec::new() };
    let spec = GateSpec::new(blocks, gates, gated).map_err(|e| config_error("gate", e.to_string()))?;
    if spec.dim_in() != irreps_gate.dim() || spec.dim_out() != irreps_out.dim() {
        return Err(config_error("gate", format!("{irreps_gate} cannot be gated into {irreps_out}")));
    }
    Ok(spec)
}
