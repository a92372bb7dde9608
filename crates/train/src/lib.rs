//! Training and fine-tuning: from files of reference calculations to an artifact.
//!
//! [`trainer::train`] does it all. What it is made of, in the order of use: [`config`] says what is asked for, [`data`] reads frames, [`doctor`] checks
//! them, [`statistics`] takes atomic energies and scales from them, [`architecture`] builds an untrained artifact ([`finetune`] prepares a trained one),
//! [`loader`] makes batches, [`loss`] and [`step`] give gradients, [`optimizer`], [`schedule`] and [`average`] move the weights, [`checkpoint`] keeps all of
//! it through a crash, [`metrics`] measures, [`log`] and [`tensorboard`] keep what happens, and [`report`] shows what came out. Several processes train
//! together through a [`communicator`], with what is in [`ranks`].

pub mod architecture;
pub mod average;
pub mod checkpoint;
pub mod communicator;
pub mod config;
pub mod data;
pub mod doctor;
mod error;
pub mod finetune;
pub mod loader;
pub mod log;
pub mod loss;
pub mod metrics;
mod numbers;
pub mod optimizer;
pub mod ranks;
pub mod report;
pub mod schedule;
pub mod statistics;
pub mod step;
pub mod stop;
pub mod tensorboard;
#[cfg(test)]
mod testing;
pub mod trainer;

pub use error::TrainError;

/// Lets this process train: gradients of forces have to be differentiable. To be called before threads start.
///
/// # Errors
/// If something has been differentiated in the other mode already.
pub fn enable() -> Result<(), TrainError> {
    Ok(tesseral_ops::autograd::enable_second_derivatives()?)
}
