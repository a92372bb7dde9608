//! Readouts (model definitions §2.8).

use candle_core::Tensor;
use tesseral_o3::{Irrep, Irreps, MulIrrep};
use tesseral_ops::gate::{ScaledActivation, activate};

use super::config::{MaceConfig, ReadoutConfig, ReadoutKind};
use crate::batch::Batch;
use crate::blocks::{EquivariantLinear, LinearOptions, activation};
use crate::error::{Result, config_error};
use crate::parameters::Parameters;

/// Scalars of one layer → one energy for each head.
pub(super) struct Readout {
    pub(super) layer: usize,
    heads: usize,
    hidden: usize,
    linear_1: EquivariantLinear,
    activation: Option<ScaledActivation>,
    linear_mid: Option<EquivariantLinear>,
    linear_2: Option<EquivariantLinear>,
}

fn scalars(n: usize) -> Result<Irreps> {
    Irreps::new(vec![MulIrrep::new(n, Irrep::even(0))]).map_err(|e| config_error("readout", e.to_string()))
}

impl Readout {
    pub(super) fn new(model: &MaceConfig, config: &ReadoutConfig, p: &Parameters<'_>, r: usize) -> Result<Self> {
        let heads = model.heads.len();
        let name = |what: &str| format!("readouts.{r}.{what}");
        let plain = LinearOptions { fan_in_factor: 1, ..LinearOptions::default() };
        let biased = LinearOptions { bias: true, ..plain };
        let activation = config.activation.as_deref().map(|a| activation(a, 1.0).map(|a| a.activation.e3nn())).transpose()?;
        let first = |n| EquivariantLinear::new(p, &name("linear_1"), &config.irreps_in, &scalars(n)?, plain);
        let (linear_1, linear_mid, linear_2) = match config.kind {
            ReadoutKind::Linear => (first(heads)?, None, None),
            ReadoutKind::NonLinear => (
                first(config.hidden)?,
                None,
                Some(EquivariantLinear::new(p, &name("linear_2"), &scalars(config.hidden)?, &scalars(heads)?, plain)?),
            ),
            ReadoutKind::NonLinearBias => {
                let hidden = scalars(config.hidden)?;
                (
                    first(config.hidden)?,
                    Some(EquivariantLinear::new(p, &name("linear_mid"), &hidden, &hidden, biased)?),
                    Some(EquivariantLinear::new(p, &name("linear_2"), &hidden, &scalars(heads)?, biased)?),
                )
            }
        };
        Ok(Self { layer: config.layer, heads, hidden: config.hidden, linear_1, activation, linear_mid, linear_2 })
    }

    /// `[N, H_t]` → the energy of each atom for its head, `[N]`.
    pub(super) fn forward(&self, batch: &Batch, features: &Tensor, atom_heads: &[u32]) -> Result<Tensor> {
        let groups = &batch.groups;
        let mut x = self.linear_1.forward(features, groups, None)?;
        if let Some(linear_2) = &self.linear_2 {
            // Hidden scalars of the other heads are masked; the normalisation stays.
            let mask = (self.heads > 1).then(|| one_hot(atom_heads, self.heads, self.hidden / self.heads, &x)).transpose()?;
            let nonlinear = |x: Tensor| -> Result<Tensor> {
                let x = match self.activation {
                    Some(a) => activate(&x, a)?,
                    None => x,
                };
                Ok(match &mask {
                    Some(mask) => (x * mask)?,
                    None => x,
                })
            };
            x = nonlinear(x)?;
            if let Some(mid) = &self.linear_mid {
                x = nonlinear(mid.forward(&x, groups, None)?)?;
            }
            x = linear_2.forward(&x, groups, None)?;
        }
        select_head(&x, atom_heads)
    }
}

/// Rows with ones in the `width` columns of each atom's head.
fn one_hot(heads: &[u32], count: usize, width: usize, like: &Tensor) -> Result<Tensor> {
    let mut mask = vec![0f64; heads.len() * count * width];
    for (atom, &head) in heads.iter().enumerate() {
        mask[(atom * count + head as usize) * width..][..width].fill(1.0);
    }
    Ok(Tensor::from_vec(mask, (heads.len(), count * width), like.device())?.to_dtype(like.dtype())?)
}

/// `[N, heads]` → the column of each atom's head, `[N]`.
pub(super) fn select_head(x: &Tensor, atom_heads: &[u32]) -> Result<Tensor> {
    let heads = x.dim(1)?;
    if heads == 1 {
        return Ok(x.squeeze(1)?);
    }
    Ok((x * one_hot(atom_heads, heads, 1, x)?)?.sum(1)?)
}
