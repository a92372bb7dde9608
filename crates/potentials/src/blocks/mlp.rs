//! Networks on scalars: the radial networks of all families.

use std::sync::Arc;

use candle_core::{D, Tensor};
use serde::{Deserialize, Serialize};
use tesseral_ops::gate::{Activation, ScaledActivation, activate};
use tesseral_ops::linear::{LinearSpec, linear};

use crate::error::{Result, config_error};
use crate::parameters::Parameters;
use crate::validation;

/// A multilayer perceptron without activation after its last matrix.
///
/// * e3nn's `FullyConnectedNet`: scales 1/√in, activation with its second-moment factor (gain), no bias, no norm.
/// * NequIP's `ScalarMLP`: scales 1/√in, then √2/√in, plain SiLU.
/// * MACE's `RadialMLP`: scales 1, plain SiLU, bias, layer norm before each activation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MlpConfig {
    /// Sizes from input to output.
    pub sizes: Vec<usize>,
    /// What each matrix product is multiplied with.
    pub scales: Vec<f64>,
    /// Factor on each activation.
    pub gain: f64,
    /// The activation.
    pub activation: String,
    /// Whether each matrix has a bias and each hidden layer a layer norm.
    #[serde(default)]
    pub bias_and_norm: bool,
}

impl MlpConfig {
    /// e3nn's `FullyConnectedNet` with SiLU.
    pub fn e3nn(sizes: Vec<usize>) -> Self {
        let scales = sizes.windows(2).map(|w| 1.0 / (w[0] as f64).sqrt()).collect();
        Self { sizes, scales, gain: Activation::Silu.e3nn_constant(), activation: "silu".into(), bias_and_norm: false }
    }

    /// NequIP's `ScalarMLP` with SiLU.
    pub fn nequip(sizes: Vec<usize>) -> Self {
        let scales = sizes.windows(2).enumerate().map(|(k, w)| (if k == 0 { 1.0 } else { 2.0 } / w[0] as f64).sqrt()).collect();
        Self { sizes, scales, gain: 1.0, activation: "silu".into(), bias_and_norm: false }
    }

    /// MACE's `RadialMLP`.
    pub fn layer_norm(sizes: Vec<usize>) -> Self {
        let scales = vec![1.0; sizes.len().saturating_sub(1)];
        Self { sizes, scales, gain: 1.0, activation: "silu".into(), bias_and_norm: true }
    }

    /// Outputs.
    pub fn outputs(&self) -> usize {
        self.sizes.last().copied().unwrap_or(0)
    }

    /// Inputs.
    pub fn inputs(&self) -> usize {
        self.sizes.first().copied().unwrap_or(0)
    }

    fn check(&self, name: &str) -> Result<()> {
        if self.sizes.len() < 2 || self.scales.len() != self.sizes.len() - 1 || self.sizes.contains(&0) {
            return Err(config_error(
                name,
                format!("a network needs at least two non-zero sizes and one scale a matrix, got {:?}", self.sizes),
            ));
        }
        for &size in &self.sizes {
            validation::count(name, size, MAX_HIDDEN)?;
        }
        self.scales.iter().chain([&self.gain]).try_for_each(|&factor| validation::finite(name, factor))
    }
}

/// Most inputs, hidden features and outputs; the last are paths × channels of a tensor product.
const MAX_HIDDEN: usize = 1 << 24;

struct Layer {
    spec: Arc<LinearSpec>,
    weight: Tensor,
    bias: Option<Tensor>,
    norm: Option<(Tensor, Tensor)>,
}

/// All hidden layers of a network, its last matrix apart.
struct Hidden {
    layers: Vec<Layer>,
    activation: ScaledActivation,
}

impl Hidden {
    fn new(p: &Parameters<'_>, name: &str, config: &MlpConfig) -> Result<Self> {
        config.check(name)?;
        let activation = super::activation(&config.activation, config.gain)?;
        let hidden = config.sizes.len() - 2;
        let layers = (0..hidden)
            .map(|k| {
                let (n_in, n_out) = (config.sizes[k], config.sizes[k + 1]);
                let norm = |what| p.get(&format!("{name}.{k}.norm.{what}"), &[n_out]);
                let spec = Arc::new(LinearSpec::dense(n_in, n_out, config.scales[k]));
                Ok(Layer {
                    weight: p.linear(&format!("{name}.{k}.weight"), &[n_in, n_out], &spec)?,
                    spec,
                    bias: if config.bias_and_norm { Some(p.get(&format!("{name}.{k}.bias"), &[n_out])?) } else { None },
                    norm: if config.bias_and_norm { Some((norm("weight")?, norm("bias")?)) } else { None },
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self { layers, activation })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut h = x.clone();
        for layer in &self.layers {
            h = linear(&h, &layer.weight, &layer.spec, None)?;
            if let Some(bias) = &layer.bias {
                h = h.broadcast_add(bias)?;
            }
            if let Some((weight, bias)) = &layer.norm {
                h = layer_norm(&h, weight, bias)?;
            }
            h = activate(&h, self.activation)?;
        }
        Ok(h)
    }
}

/// Layer norm over the last dimension with the biased variance and ε = 1e-5, as torch computes it.
fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    Ok(centred.broadcast_div(&(variance + 1e-5)?.sqrt()?)?.broadcast_mul(weight)?.broadcast_add(bias)?)
}

/// A network evaluated to its outputs.
pub struct Mlp {
    hidden: Hidden,
    last: Layer,
}

impl Mlp {
    /// Reads `{name}.{k}.weight` and so on.
    ///
    /// # Errors
    /// If a tensor is missing or the configuration makes no sense.
    pub fn new(p: &Parameters<'_>, name: &str, config: &MlpConfig) -> Result<Self> {
        let hidden = Hidden::new(p, name, config)?;
        let k = config.sizes.len() - 2;
        let (n_in, n_out) = (config.sizes[k], config.sizes[k + 1]);
        let spec = Arc::new(LinearSpec::dense(n_in, n_out, config.scales[k]));
        let last = Layer {
            weight: p.linear(&format!("{name}.{k}.weight"), &[n_in, n_out], &spec)?,
            spec,
            bias: if config.bias_and_norm { Some(p.get(&format!("{name}.{k}.bias"), &[n_out])?) } else { None },
            norm: None,
        };
        Ok(Self { hidden, last })
    }

    /// `[rows, inputs]` → `[rows, outputs]`.
    ///
    /// # Errors
    /// Only if shapes do not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let h = linear(&self.hidden.forward(x)?, &self.last.weight, &self.last.spec, None)?;
        Ok(match &self.last.bias {
            Some(bias) => h.broadcast_add(bias)?,
            None => h,
        })
    }
}

/// A radial network whose last matrix is handed to the fused convolution, so that its outputs never exist for all edges.
pub struct RadialNetwork {
    hidden: Hidden,
    weight: Tensor,
    scale: f64,
    bias: Option<Tensor>,
}

impl RadialNetwork {
    /// Reads `{name}.{k}.weight` and so on.
    ///
    /// # Errors
    /// If a tensor is missing or the configuration makes no sense.
    pub fn new(p: &Parameters<'_>, name: &str, config: &MlpConfig) -> Result<Self> {
        let hidden = Hidden::new(p, name, config)?;
        let k = config.sizes.len() - 2;
        let (n_in, n_out) = (config.sizes[k], config.sizes[k + 1]);
        let spec = Arc::new(LinearSpec::dense(n_in, n_out, config.scales[k]));
        Ok(Self {
            hidden,
            weight: p.linear(&format!("{name}.{k}.weight"), &[n_in, n_out], &spec)?,
            scale: config.scales[k],
            bias: if config.bias_and_norm { Some(p.get(&format!("{name}.{k}.bias"), &[n_out])?) } else { None },
        })
    }

    /// Radial features `[E, hidden (+1)]` whose product with [`RadialNetwork::matrix`] are the weights of each edge, multiplied by the
    /// envelope `[E, 1]` if it is given. A bias becomes one more feature, the constant 1.
    ///
    /// # Errors
    /// Only if shapes do not fit.
    pub fn features(&self, x: &Tensor, envelope: Option<&Tensor>) -> Result<Tensor> {
        let mut h = self.hidden.forward(x)?;
        if self.bias.is_some() {
            h = Tensor::cat(&[&h, &Tensor::ones((h.dim(0)?, 1), h.dtype(), h.device())?], 1)?;
        }
        Ok(match envelope {
            Some(envelope) => h.broadcast_mul(envelope)?,
            None => h,
        })
    }

    /// The last matrix `[hidden (+1), weights]`, its scale and bias included.
    ///
    /// # Errors
    /// Only if shapes do not fit.
    pub fn matrix(&self) -> Result<Tensor> {
        let w = (&self.weight * self.scale)?;
        Ok(match &self.bias {
            Some(bias) => Tensor::cat(&[&w, &bias.unsqueeze(0)?], 0)?,
            None => w,
        })
    }
}
