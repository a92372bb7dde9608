//! Small models for tests.

use tesseral_potentials::Artifact;

use crate::architecture::{Each, MaceModelConfig, ModelConfig, SevenNetModelConfig, TrainingStatistics, build};

/// Statistics that fit any data.
fn statistics(elements: &[u8]) -> TrainingStatistics {
    TrainingStatistics {
        elements: elements.to_vec(),
        e0s: vec![elements.iter().map(|&z| -f64::from(z)).collect()],
        scale: vec![0.8],
        shift: vec![0.1],
        avg_num_neighbors: 5.0,
    }
}

/// A small MACE.
pub(crate) fn tiny_artifact(elements: &[u8]) -> Artifact {
    let config = MaceModelConfig { r_max: 3.0, num_channels: 4, max_l: 1, max_ell: 2, correlation: Each::Same(2), ..Default::default() };
    build(&ModelConfig::Mace(config), &statistics(elements), &[], 3, "tiny").expect("the hyperparameters are good")
}

/// A small SevenNet.
pub(crate) fn tiny_sevennet(elements: &[u8]) -> Artifact {
    let config = SevenNetModelConfig { cutoff: 3.0, channel: Each::Same(4), lmax: 1, num_convolution_layer: 2, ..Default::default() };
    build(&ModelConfig::SevenNet(config), &statistics(elements), &[], 3, "tiny").expect("the hyperparameters are good")
}
