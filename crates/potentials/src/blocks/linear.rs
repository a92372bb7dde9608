//! Equivariant linear maps with their weights.

use std::sync::Arc;

use candle_core::Tensor;
use tesseral_o3::{Irrep, Irreps};
use tesseral_ops::linear::{Groups, LinearSpec, linear};

use crate::error::{Result, config_error};
use crate::parameters::Parameters;

/// What a linear map depends on beside its input features.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LinearOptions {
    /// Elements with weights of their own; `None` for one set of weights.
    pub elements: Option<usize>,
    /// Multiplies the fan-in of the normalisation (elements of a one-hot operand).
    pub fan_in_factor: usize,
    /// A bias on scalar outputs.
    pub bias: bool,
    /// Modalities concatenated to the scalar inputs as a one-hot; 0 for none.
    pub modalities: usize,
}

/// A linear map between irreps, e3nn's normalisation, optionally element-dependent, with bias and modality.
pub struct EquivariantLinear {
    spec: Arc<LinearSpec>,
    weight: Tensor,
    element_dependent: bool,
    bias: Option<Tensor>,
    /// Rows of the modalities, and their normalisation.
    modal: Option<(Tensor, f64)>,
    /// Offset and channels of the scalar block of the output.
    scalars: (usize, usize),
}

impl EquivariantLinear {
    /// Reads `{name}.weight` (`[1 or Z, flat]`), `{name}.bias`, `{name}.modal`.
    ///
    /// # Errors
    /// If a tensor is missing or has another shape, or nothing maps.
    pub fn new(p: &Parameters<'_>, name: &str, irreps_in: &Irreps, irreps_out: &Irreps, options: LinearOptions) -> Result<Self> {
        let spec = Arc::new(LinearSpec::new(irreps_in, irreps_out, options.fan_in_factor.max(1), options.modalities));
        let scalars = irreps_out.blocks_with_offsets().find(|b| b.irrep == Irrep::even(0)).map_or((0, 0), |b| (b.offset, b.mul));
        if spec.instructions.is_empty() {
            return Err(config_error(name, format!("no irrep of {irreps_in} occurs in {irreps_out}")));
        }
        let weight = p.linear(&format!("{name}.weight"), &[options.elements.unwrap_or(1), spec.weight_numel], &spec)?;
        let bias = if options.bias && scalars.1 > 0 { Some(p.get(&format!("{name}.bias"), &[scalars.1])?) } else { None };
        let modal = if options.modalities > 0 && scalars.1 > 0 {
            // The one-hot operand shares the normalisation of the scalar block it is concatenated to.
            let fan_in = irreps_in.count(Irrep::even(0)) * options.fan_in_factor.max(1) + options.modalities;
            Some((p.get(&format!("{name}.modal"), &[options.modalities, scalars.1])?, 1.0 / (fan_in as f64).sqrt()))
        } else {
            None
        };
        Ok(Self { spec, weight, element_dependent: options.elements.is_some(), bias, modal, scalars })
    }

    /// `[N, in]` → `[N, out]`. `species` groups atoms by element; `modality` `[N]` is the modality of each atom.
    ///
    /// # Errors
    /// Only if shapes do not fit.
    pub fn forward(&self, x: &Tensor, species: &Arc<Groups>, modality: Option<&Tensor>) -> Result<Tensor> {
        let y = linear(x, &self.weight, &self.spec, self.element_dependent.then_some(species))?;
        let mut on_scalars = self.bias.as_ref().map(|b| b.unsqueeze(0)).transpose()?;
        if let (Some((modal, scale)), Some(modality)) = (&self.modal, modality) {
            let rows = (modal.index_select(modality, 0)? * *scale)?;
            on_scalars = Some(match on_scalars {
                Some(bias) => rows.broadcast_add(&bias)?,
                None => rows,
            });
        }
        let Some(on_scalars) = on_scalars else { return Ok(y) };
        let (offset, channels) = self.scalars;
        let rows = on_scalars.dim(0)?;
        let zeros = |n| Tensor::zeros((rows, n), y.dtype(), y.device());
        let full = Tensor::cat(&[&zeros(offset)?, &on_scalars, &zeros(self.spec.dim_out - offset - channels)?], 1)?;
        Ok(y.broadcast_add(&full)?)
    }
}
