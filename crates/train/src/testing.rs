//! Small models and frames for tests.

use std::path::Path;

use tesseral_atoms::Structure;
use tesseral_potentials::Artifact;

use crate::architecture::{Each, MaceModelConfig, ModelConfig, SevenNetModelConfig, TrainingStatistics, build};
use crate::data::{Frame, Origin, Weights};

/// A frame without labels, the one with this number of a file.
pub(crate) fn unlabelled(structure: Structure, number: usize) -> Frame {
    Frame {
        structure,
        energy: None,
        forces: None,
        force_mask: None,
        stress: None,
        weights: Weights::default(),
        group: None,
        head: None,
        origin: Origin { file: "test".into(), frame: number },
    }
}

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

/// A golden model of the repository, imported.
#[allow(clippy::unwrap_used, reason = "tests may panic")]
pub(crate) fn golden(path: &str) -> Artifact {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(path);
    if path.extension().is_none_or(|e| e != "gz") {
        return tesseral_import::import(&path).unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let plain = folder.path().join(path.file_stem().unwrap());
    let mut reader = flate2::read::GzDecoder::new(std::fs::File::open(&path).unwrap());
    std::io::copy(&mut reader, &mut std::fs::File::create(&plain).unwrap()).unwrap();
    tesseral_import::import(&plain).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}
