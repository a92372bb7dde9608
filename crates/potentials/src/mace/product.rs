//! The symmetric product basis (model definitions §2.6, §2.7).

use candle_core::Tensor;
use tesseral_o3::{Irreps, Monomials};
use tesseral_ops::autograd::Leaves;
use tesseral_ops::symmetric_contraction::{SymmetricBasis, symmetric_contraction};

use super::config::{LayerConfig, MaceConfig};
use crate::batch::Batch;
use crate::blocks::{EquivariantLinear, LinearOptions};
use crate::error::{Result, config_error};
use crate::parameters::Parameters;

/// Messages → many-body features of the same channels, mixed and joined with the skip connection.
pub(super) struct ProductBasis {
    basis: SymmetricBasis,
    /// One tensor `[Z or 1, paths, K]` for each basis: output blocks, then degrees from 1 on.
    weights: Vec<Tensor>,
    by_element: bool,
    components: usize,
    channels: usize,
    linear: EquivariantLinear,
}

/// The number of channels that all blocks share.
fn common_channels(irreps: &Irreps, what: &str) -> Result<usize> {
    match irreps.blocks() {
        [first, rest @ ..] if rest.iter().all(|b| b.mul == first.mul) => Ok(first.mul),
        _ => Err(config_error(what, format!("the product basis needs the same number of channels in every irrep, got {irreps}"))),
    }
}

/// The symmetric bases of a layer, the weights `[Z or 1, paths, K]` of each (output blocks, then degrees from 1 on; flat, f64), and the channels K.
///
/// # Errors
/// If a tensor is missing or does not fit.
pub fn product_basis(
    model: &MaceConfig,
    config: &LayerConfig,
    p: &Parameters<'_>,
    t: usize,
) -> Result<(SymmetricBasis, Vec<Vec<f64>>, usize)> {
    let name = format!("layers.{t}.product");
    let (basis, shapes, channels) = read_basis(model, config, p, &name)?;
    let weights = shapes.iter().map(|(name, shape)| p.constants(name, shape)).collect::<Result<_>>()?;
    Ok((basis, weights, channels))
}

/// The bases, and name and shape of the weights of each.
fn read_basis(
    model: &MaceConfig,
    config: &LayerConfig,
    p: &Parameters<'_>,
    name: &str,
) -> Result<(SymmetricBasis, Vec<(String, [usize; 3])>, usize)> {
    let channels = common_channels(&config.irreps_target, name)?;
    if common_channels(&config.irreps_out, name)? != channels {
        return Err(config_error(name, format!("{} and {} differ in channels", config.irreps_target, config.irreps_out)));
    }
    let components = config.irreps_target.dim() / channels;
    let rows = if config.element_dependent_product { model.elements.len() } else { 1 };
    let (mut blocks, mut weights) = (Vec::new(), Vec::new());
    for (b, block) in config.irreps_out.iter().enumerate() {
        let mut bases = Vec::new();
        for nu in 1..=config.correlation {
            let (indices, shape) = p.table(&format!("{name}.{b}.monomials.{nu}"))?;
            let basis_name = format!("{name}.{b}.basis.{nu}");
            let basis_shape = p.shape(&basis_name)?;
            let &[outputs, terms, paths] = basis_shape.as_slice() else {
                return Err(config_error(&basis_name, format!("expected three dimensions, got {basis_shape:?}")));
            };
            if shape != [terms, nu] || outputs != block.irrep.dim() {
                return Err(config_error(
                    &basis_name,
                    format!("shape {basis_shape:?} fits neither {} nor its monomials {shape:?}", block.irrep),
                ));
            }
            let indices = indices
                .into_iter()
                .map(|i| u32::try_from(i).map_err(|_| config_error(&basis_name, format!("component {i} of a monomial is out of range"))))
                .collect::<Result<Vec<_>>>()?;
            let values = p.constants(&basis_name, &basis_shape)?;
            bases.push(
                Monomials::from_parts(outputs, components, nu, paths, indices, values)
                    .map_err(|e| config_error(&basis_name, e.to_string()))?,
            );
            weights.push((format!("{name}.{b}.weights.{nu}"), [rows, paths, channels]));
        }
        blocks.push(bases);
    }
    let basis = SymmetricBasis::new(&blocks, 0.0).map_err(|e| config_error(name, e.to_string()))?;
    Ok((basis, weights, channels))
}

impl ProductBasis {
    pub(super) fn new(model: &MaceConfig, config: &LayerConfig, p: &Parameters<'_>, t: usize) -> Result<Self> {
        let name = format!("layers.{t}.product");
        let (basis, shapes, channels) = read_basis(model, config, p, &name)?;
        let weights = shapes.iter().map(|(name, shape)| p.get(name, shape)).collect::<Result<_>>()?;
        let options = LinearOptions { fan_in_factor: 1, ..LinearOptions::default() };
        Ok(Self {
            basis,
            weights,
            by_element: config.element_dependent_product,
            components: config.irreps_target.dim() / channels,
            channels,
            linear: EquivariantLinear::new(p, &format!("{name}.linear"), &config.irreps_out, &config.irreps_out, options)?,
        })
    }

    /// `[N, T]` → `[N, H_out]`.
    pub(super) fn forward(&self, batch: &Batch, messages: &Tensor, skip: Option<&Tensor>, leaves: &Leaves) -> Result<Tensor> {
        let (present, groups) =
            if self.by_element { (batch.present.as_slice(), &batch.present_groups) } else { (&[0u32][..], &batch.one_group) };
        let coefficients = leaves.leaf(self.basis.coefficients(&self.weights, present)?)?;
        let n = batch.num_atoms();
        let a = messages.reshape((n, self.components, self.channels))?;
        let b = symmetric_contraction(&a, &coefficients, self.basis.spec(), groups)?;
        let h = self.linear.forward(&b.reshape((n, self.basis.spec().outputs() * self.channels))?, &batch.groups, None)?;
        Ok(match skip {
            Some(skip) => (h + skip)?,
            None => h,
        })
    }
}
