//! Fine-tuning: what is done to a trained model before its training goes on with other data, and how what it knows is kept.
//!
//! | | |
//! |---|---|
//! | [`prepared`] | elements that the model does not know, energies of atoms fitted to the new data, and a head of their own |
//! | [`elements`] | how a model grows by elements |
//! | [`replay`] | frames of the old domain, trained along |
//! | [`ewc`] | weights held where they matter for the old domain |
//! | [`lora`] | updates of low rank |
//!
//! **Zeros of energy.** Another code or functional has other zeros of energy, so energies of atoms are shifted to the new data first
//! (`finetune.reestimate_e0s`). Where the old domain shares the head of the new data, its reference energies are shifted by the same amount, composition by
//! composition: then the model begins with the same errors on the old domain as before the shift, and replay holds it there. Forgetting is measured against
//! the same shifted energies. A model that was fine-tuned in this way gives energies of the old domain with the zeros of the new data. `multihead` has
//! zeros of its own for each head, and shifts nothing of the old.

pub mod elements;
mod energies;
pub mod ewc;
mod heads;
pub mod lora;
pub mod replay;

use candle_core::{DType, Tensor};
use tesseral_potentials::Artifact;

use crate::config::{FinetuneMode, TrainConfig};
use crate::data::Dataset;
use crate::error::TrainError;
use crate::stop::Stop;
use elements::Added;

/// The model that fine-tuning begins with: with new elements and a new head where there are any, and energies of atoms estimated anew, if the
/// configuration asks for it. Those of new elements are estimated in any case.
///
/// # Errors
/// If the data cannot be evaluated by it, or it is asked to stop.
pub fn prepared(
    foundation: &Artifact,
    added: &Added,
    config: &TrainConfig,
    data: &Dataset,
    stop: Stop<'_>,
) -> Result<Artifact, TrainError> {
    let finetune = &config.finetune;
    let mut artifact = elements::extended(foundation, added)?;
    if finetune.mode == FinetuneMode::Multihead {
        artifact = heads::with_head(&artifact, &finetune.head, finetune.old_head.as_deref())?;
    }
    energies::fitted(&artifact, added, finetune.reestimate_e0s, data, stop)
}

/// All numbers of a tensor.
fn values(tensor: &Tensor) -> candle_core::Result<Vec<f64>> {
    tensor.flatten_all()?.to_dtype(DType::F64)?.to_vec1()
}
