//! Fine-tuning: what is done to a trained model before its training goes on with other data, and how what it knows is kept.
//!
//! | | |
//! |---|---|
//! | [`prepared`] | energies of atoms fitted to the new data, and a head of their own |
//! | [`replay`] | frames of the old domain, trained along |
//! | [`ewc`] | weights held where they matter for the old domain |
//! | [`lora`] | updates of low rank |
//!
//! **Zeros of energy.** Another code or functional has other zeros of energy, so energies of atoms are shifted to the new data first
//! (`finetune.reestimate_e0s`). Where the old domain shares the head of the new data, its reference energies are shifted by the same amount, composition by
//! composition: then the model begins with the same errors on the old domain as before the shift, and replay holds it there. Forgetting is measured against
//! the same shifted energies. A model that was fine-tuned in this way gives energies of the old domain with the zeros of the new data. `multihead` has
//! zeros of its own for each head, and shifts nothing of the old.

pub mod ewc;
mod heads;
pub mod lora;
pub mod replay;

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use nalgebra::{DMatrix, DVector};
use rayon::prelude::*;
use tesseral_potentials::{Architecture, Artifact, Model, NamedTensor, Numbers};

use crate::config::{FinetuneMode, TrainConfig};
use crate::data::Dataset;
use crate::error::TrainError;
use crate::step::Sample;
use crate::stop::Stop;

/// Singular values below this, relative to the largest, are those of combinations of elements that the data do not tell apart.
const RANK: f64 = 1e-8;
/// Frames that atomic energies are estimated from, at most.
const MOST_FRAMES: usize = 200;

/// The model that fine-tuning begins with: energies of atoms estimated anew, if the configuration asks for it.
///
/// # Errors
/// If the data cannot be evaluated by it, or it is asked to stop.
pub fn prepared(foundation: &Artifact, config: &TrainConfig, data: &Dataset, stop: Stop<'_>) -> Result<Artifact, TrainError> {
    let finetune = &config.finetune;
    let with_head = match finetune.mode {
        FinetuneMode::Multihead => Some(heads::with_head(foundation, &finetune.head, finetune.old_head.as_deref())?),
        _ => None,
    };
    match (with_head, finetune.reestimate_e0s) {
        (Some(artifact), true) => shifted(&artifact, data, stop),
        (Some(artifact), false) => Ok(artifact),
        (None, true) => shifted(foundation, data, stop),
        (None, false) => Ok(foundation.clone()),
    }
}

/// All numbers of a tensor.
fn values(tensor: &Tensor) -> candle_core::Result<Vec<f64>> {
    tensor.flatten_all()?.to_dtype(DType::F64)?.to_vec1()
}

/// The tensor that holds energies of atoms, `[heads, elements]`, and its number of heads.
fn energies_of_atoms(architecture: &Architecture) -> (&'static str, usize) {
    match architecture {
        Architecture::Mace(c) => ("atomic_energies", c.heads.len()),
        Architecture::Nequip(c) => ("shift", c.modalities.len().max(1)),
    }
}

/// Shifts the energies of atoms by what is left, by least squares, between the energies of the data and those of the model: another code or functional
/// has other zeros of energy. Of all solutions the smallest shifts are taken, so that elements that the data do not tell apart share theirs.
fn shifted(foundation: &Artifact, data: &Dataset, stop: Stop<'_>) -> Result<Artifact, TrainError> {
    // Shifts are of the order of eV, atomic energies are added in f64: single precision is enough, and users wait for it.
    let model = Model::load(foundation, DType::F32, &Device::Cpu)?;
    let header = foundation.header().clone();
    let count = data.train.len();
    // Evenly spread over the data.
    let chosen: Vec<usize> = (0..count.min(MOST_FRAMES)).map(|k| k * count / count.min(MOST_FRAMES)).collect();
    let rows: Vec<Option<(u32, BTreeMap<u8, f64>, f64)>> = chosen
        .into_par_iter()
        .map(|index| {
            stop.check()?;
            let frame = data.train.frame(index)?;
            let Some(energy) = frame.energy else { return Ok(None) };
            let sample = Sample::new(&header, frame)?;
            let batch = model.batch(&[&sample.prepared], &[&sample.frame.structure], sample.head)?;
            let predicted = model.evaluate(&batch)?[0].energy;
            let mut composition = BTreeMap::new();
            for &z in &sample.frame.structure.numbers {
                *composition.entry(z).or_insert(0.0) += 1.0;
            }
            Ok(Some((sample.head, composition, energy - predicted)))
        })
        .collect::<Result<_, TrainError>>()?;
    let rows: Vec<_> = rows.into_iter().flatten().collect();
    let (tensor, heads) = energies_of_atoms(&header.architecture);
    let elements = header.elements();
    let mut energies = foundation.f64(tensor)?;
    let shape = vec![heads, elements.len()];
    for head in 0..heads {
        let of_head: Vec<_> = rows.iter().filter(|(h, _, _)| *h as usize == head).collect();
        if of_head.is_empty() {
            continue;
        }
        // Per atom, as the loss sees them.
        let atoms = |composition: &BTreeMap<u8, f64>| composition.values().sum::<f64>();
        let counts = DMatrix::from_fn(of_head.len(), elements.len(), |row, column| {
            let composition = &of_head[row].1;
            composition.get(&elements[column]).copied().unwrap_or(0.0) / atoms(composition)
        });
        let rest = DVector::from_iterator(of_head.len(), of_head.iter().map(|(_, composition, rest)| rest / atoms(composition)));
        let svd = counts.svd(true, true);
        let smallest = RANK * svd.singular_values.max();
        let shifts =
            svd.solve(&rest, smallest).map_err(|reason| TrainError::Unsupported { what: format!("energies of atoms: {reason}") })?;
        for (column, shift) in shifts.iter().enumerate() {
            energies[head * elements.len() + column] += shift;
        }
    }
    let mut header = header;
    header.provenance.notes.push("energies of atoms shifted to the training data by least squares".into());
    Ok(foundation.with_tensors(header, vec![NamedTensor { name: tensor.into(), shape, numbers: Numbers::F64(energies) }])?)
}
