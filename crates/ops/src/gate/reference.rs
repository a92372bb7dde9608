//! Plain loops in f64.

use super::{Activation, GateSpec, ScaledActivation};

/// The activation of one number.
pub fn activate(activation: ScaledActivation, x: f64) -> f64 {
    let value = match activation.activation {
        Activation::Identity => x,
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Tanh => x.tanh(),
        Activation::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        Activation::Abs => x.abs(),
        Activation::Relu => x.max(0.0),
        Activation::ShiftedSoftplus => x.exp().ln_1p() - std::f64::consts::LN_2,
        Activation::Gelu => 0.5 * x * (1.0 + candle_core::cpu::erf::erf_f64(x / std::f64::consts::SQRT_2)),
        Activation::Elu => {
            if x > 0.0 {
                x
            } else {
                x.exp() - 1.0
            }
        }
    };
    activation.scale * value
}

/// `x` `[N, dim_in]` → `[N, dim_out]`.
pub fn evaluate(spec: &GateSpec, x: &[f64]) -> Vec<f64> {
    let per_channel = |blocks: &[(usize, ScaledActivation)]| blocks.iter().flat_map(|&(mul, a)| vec![a; mul]).collect::<Vec<_>>();
    let (scalars, gates) = (per_channel(&spec.scalars), per_channel(&spec.gates));
    let mut y = Vec::new();
    for row in x.chunks_exact(spec.dim_in()) {
        y.extend(scalars.iter().zip(row).map(|(&a, &x)| activate(a, x)));
        let activated: Vec<f64> = gates.iter().zip(&row[scalars.len()..]).map(|(&a, &x)| activate(a, x)).collect();
        let (mut gate, mut v) = (0, scalars.len() + gates.len());
        for block in &spec.gated {
            for _ in 0..block.components {
                for k in 0..block.mul {
                    y.push(row[v + k] * activated[gate + k]);
                }
                v += block.mul;
            }
            gate += block.mul;
        }
    }
    y
}
