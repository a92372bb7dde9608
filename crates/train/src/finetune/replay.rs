//! Frames of the old domain: read, labelled, and trained along with the new ones.

use std::path::PathBuf;
use std::sync::Arc;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha12Rng;
use rayon::prelude::*;
use tesseral_atoms::labels::voigt;
use tesseral_potentials::{Artifact, Model};

use super::energies::energies_of_atoms;
use crate::config::ReplayLabels;
use crate::data::read::read_files;
use crate::data::{DataConfig, DataError, FileConfig, Frame, FrameSource, FrameSummary, KeysConfig, MissingLabels, shuffled_order};
use crate::error::TrainError;
use crate::step::Sample;
use crate::stop::Stop;

/// What tells the order of old frames from that of new ones.
const OLD_STREAMS: u64 = 1 << 63;

/// Which frames an epoch goes through: all new ones, and as many of the old ones as were asked for, evenly spread among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mixture {
    /// New frames.
    pub new: usize,
    /// Old frames in all. Their indices come after those of the new ones.
    pub old: usize,
    /// Old frames in an epoch.
    pub replayed: usize,
}

impl Mixture {
    /// With `ratio` old frames for each new one.
    pub fn new(new: usize, old: usize, ratio: f64) -> Self {
        let replayed = if old == 0 { 0 } else { (ratio * new as f64).round() as usize };
        // A ratio that is not 0 asks for at least one.
        let replayed = if old > 0 && ratio > 0.0 { replayed.max(1) } else { replayed };
        Self { new, old, replayed }
    }

    /// Frames in an epoch.
    pub fn len(&self) -> usize {
        self.new + self.replayed
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The order of an epoch. It depends on seed and epoch alone. Old frames are gone through one permutation after another, from epoch to epoch, so that
    /// each gets its turn whatever the ratio.
    pub fn order(&self, seed: u64, epoch: u64) -> Vec<usize> {
        let new = shuffled_order(self.new, seed, epoch);
        if self.replayed == 0 {
            return new;
        }
        let first = epoch as usize * self.replayed;
        let mut old = Vec::with_capacity(self.replayed);
        let mut pass = first / self.old;
        let mut skip = first % self.old;
        while old.len() < self.replayed {
            let mut generator = ChaCha12Rng::seed_from_u64(seed);
            generator.set_stream(OLD_STREAMS + pass as u64);
            let mut order: Vec<usize> = (self.new..self.new + self.old).collect();
            order.shuffle(&mut generator);
            let take = (self.replayed - old.len()).min(self.old - skip);
            old.extend_from_slice(&order[skip..skip + take]);
            (pass, skip) = (pass + 1, 0);
        }
        let (mut new, mut old) = (new.into_iter(), old.into_iter());
        // How many old frames are among the first k of the epoch: the share of the whole, rounded down.
        let among = |k: usize| (k as u128 * self.replayed as u128 / self.len() as u128) as usize;
        (0..self.len()).filter_map(|k| if among(k + 1) > among(k) { old.next() } else { new.next() }).collect()
    }
}

/// Two sources, one after the other.
pub struct Joined {
    /// The first.
    pub first: Arc<dyn FrameSource>,
    /// The second.
    pub second: Arc<dyn FrameSource>,
}

impl FrameSource for Joined {
    fn len(&self) -> usize {
        self.first.len() + self.second.len()
    }

    fn frame(&self, index: usize) -> Result<Arc<Frame>, DataError> {
        match index.checked_sub(self.first.len()) {
            None => self.first.frame(index),
            Some(index) => self.second.frame(index),
        }
    }

    fn summary(&self, index: usize) -> Result<FrameSummary, DataError> {
        match index.checked_sub(self.first.len()) {
            None => self.first.summary(index),
            Some(index) => self.second.summary(index),
        }
    }
}

/// Frames of another source; those that name no head are given one.
pub struct UnderHead {
    /// The source.
    pub source: Arc<dyn FrameSource>,
    /// The head.
    pub head: Arc<str>,
}

impl FrameSource for UnderHead {
    fn len(&self) -> usize {
        self.source.len()
    }

    fn frame(&self, index: usize) -> Result<Arc<Frame>, DataError> {
        let frame = self.source.frame(index)?;
        if frame.head.is_some() {
            return Ok(frame);
        }
        Ok(Arc::new(Frame { head: Some(self.head.clone()), ..(*frame).clone() }))
    }

    fn summary(&self, index: usize) -> Result<FrameSummary, DataError> {
        let mut summary = self.source.summary(index)?;
        summary.head.get_or_insert_with(|| self.head.clone());
        Ok(summary)
    }
}

/// Reads frames of the old domain, into memory; those that name no head get `head`. With `masked` a label may be missing in some of them.
///
/// # Errors
/// [`DataError`].
pub fn read(
    files: &[PathBuf],
    keys: &KeysConfig,
    head: Option<&str>,
    masked: bool,
    fields: &[String],
    stop: Stop<'_>,
) -> Result<Vec<Frame>, TrainError> {
    let files: Vec<FileConfig> = files.iter().map(|path| FileConfig { head: head.map(str::to_owned), ..FileConfig::new(path) }).collect();
    let missing_labels = if masked { MissingLabels::Mask } else { MissingLabels::Error };
    let config = DataConfig { keys: keys.clone(), missing_labels, ..DataConfig::default() };
    let mut frames = Vec::new();
    read_files(&files, &config, fields, stop, &mut |frame| {
        frames.push(frame);
        Ok(())
    })?;
    Ok(frames)
}

/// Shifts the energies of old frames as the energies of atoms were shifted from `foundation` to `model`, head by head: relative to the zeros of `model`
/// they are then what they were relative to those of `foundation`.
///
/// # Errors
/// If a tensor is missing or a frame has no head.
pub fn shift_energies(frames: &mut [Frame], foundation: &Artifact, model: &Artifact) -> Result<(), TrainError> {
    let (tensor, heads) = energies_of_atoms(&foundation.header().architecture);
    // The model may have got elements since; frames of the old domain have none of these.
    let (before, after) = (foundation.header().elements(), model.header().elements());
    let (old, new) = (foundation.f64(tensor)?, model.f64(tensor)?);
    for frame in frames {
        let Some(energy) = &mut frame.energy else { continue };
        let head = tesseral_potentials::model::head_index(model.header(), frame.head.as_deref())? as usize;
        // A head that the foundation does not have has no zeros that could have moved.
        if head >= heads {
            continue;
        }
        for z in &frame.structure.numbers {
            let place = |elements: &[u8]| elements.iter().position(|e| e == z);
            if let (Some(was), Some(is)) = (place(before), place(after)) {
                *energy += new[head * after.len() + is] - old[head * before.len() + was];
            }
        }
    }
    Ok(())
}

/// Labels old frames for replay: as `labels` says, with the zeros of energy of `model`, which is `foundation` as fine-tuning begins with it.
///
/// # Errors
/// [`TrainError::Finetune`] if no frame has a label; if a frame cannot be evaluated, or it is asked to stop.
pub fn label(
    frames: Vec<Frame>,
    labels: ReplayLabels,
    foundation: &Artifact,
    model: &Artifact,
    stop: Stop<'_>,
) -> Result<Vec<Frame>, TrainError> {
    match labels {
        ReplayLabels::Data => {
            let mut frames = frames;
            if frames.iter().all(|f| f.energy.is_none() && f.forces.is_none() && f.stress.is_none()) {
                return Err(TrainError::Finetune {
                    what: "finetune.replay: no frame has an energy, forces or a stress".into(),
                    hint: "check finetune.keys, or set finetune.replay.labels = \"foundation\", which labels them with the model to start from",
                });
            }
            shift_energies(&mut frames, foundation, model)?;
            Ok(frames)
        }
        ReplayLabels::Foundation => predicted(frames, model, stop),
    }
}

/// Frames with the predictions of a model in the place of their labels. The weight of a label that was missing is 1.
fn predicted(frames: Vec<Frame>, artifact: &Artifact, stop: Stop<'_>) -> Result<Vec<Frame>, TrainError> {
    let model = Model::load(artifact, candle_core::DType::F64, &candle_core::Device::Cpu)?;
    let header = artifact.header();
    frames
        .into_par_iter()
        .map(|frame| {
            stop.check()?;
            let sample = Sample::new(header, Arc::new(frame))?;
            let batch = model.batch(&[&sample.prepared], &[&sample.frame.structure], sample.head)?;
            let evaluation = model.evaluate(&batch)?.swap_remove(0);
            let mut frame = (*sample.frame).clone();
            let had = [frame.energy.is_some(), frame.forces.is_some(), frame.stress.is_some()];
            let weights = [&mut frame.weights.energy, &mut frame.weights.forces, &mut frame.weights.stress];
            weights.into_iter().zip(had).filter(|(_, had)| !had).for_each(|(weight, _)| *weight = 1.0);
            frame.energy = Some(evaluation.energy);
            frame.forces = Some(evaluation.forces);
            frame.stress = evaluation.stress.map(voigt);
            Ok(frame)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use tesseral_atoms::Structure;

    use super::*;
    use crate::data::Weights;
    use crate::testing::tiny_artifact;
    use crate::testing::unlabelled;

    #[test]
    fn old_frames_are_spread_evenly_and_each_gets_its_turn() {
        let mixture = Mixture::new(10, 7, 0.5);
        assert_eq!((mixture.replayed, mixture.len()), (5, 15));
        let mut turns = [0; 7];
        for epoch in 0..7 {
            let order = mixture.order(3, epoch);
            assert_eq!(order, mixture.order(3, epoch));
            assert_ne!(order, mixture.order(4, epoch));
            let mut new: Vec<usize> = order.iter().copied().filter(|&k| k < 10).collect();
            // New frames come in the order that they have without replay.
            assert_eq!(new, shuffled_order(10, 3, epoch));
            new.sort_unstable();
            assert_eq!(new, (0..10).collect::<Vec<_>>());
            // One of three is old, wherever one looks.
            assert!(order.chunks(3).all(|part| part.iter().filter(|&&k| k >= 10).count() == 1), "{order:?}");
            order.iter().filter(|&&k| k >= 10).for_each(|k| turns[k - 10] += 1);
        }
        assert_eq!(turns, [5; 7]);
        // More old frames in an epoch than there are.
        assert_eq!(Mixture::new(4, 3, 2.0).order(0, 5).len(), 12);
        assert_eq!(Mixture::new(4, 0, 1.0).order(1, 2), shuffled_order(4, 1, 2));
        assert_eq!(Mixture::new(4, 3, 0.0).order(1, 2), shuffled_order(4, 1, 2));
        assert_eq!(Mixture::new(4, 3, 0.01).replayed, 1);
    }

    fn frame(energy: Option<f64>) -> Frame {
        Frame {
            energy,
            weights: Weights { energy: 0.0, forces: 0.0, stress: 0.0 },
            ..unlabelled(Structure::molecule(vec![8, 1, 1], vec![[0.0, 0.0, 0.1], [0.9, 0.1, 0.0], [-0.3, 0.9, 0.2]]), 0)
        }
    }

    #[test]
    fn labels_follow_the_zeros_of_energy() {
        let old = tiny_artifact(&[1, 8]);
        let mut energies = old.f64("atomic_energies").unwrap();
        energies[0] += 0.25;
        energies[1] -= 3.0;
        let shape = old.shape("atomic_energies").unwrap().to_vec();
        let numbers = tesseral_potentials::Numbers::F64(energies);
        let tensor = tesseral_potentials::NamedTensor { name: "atomic_energies".into(), shape, numbers };
        let new = old.with_tensors(old.header().clone(), vec![tensor]).unwrap();
        let shifted = label(vec![frame(Some(-5.0)), frame(None)], ReplayLabels::Data, &old, &new, Stop::never()).unwrap();
        assert!((shifted[0].energy.unwrap() - (-5.0 + 2.0 * 0.25 - 3.0)).abs() < 1e-12);
        assert_eq!(shifted[1].energy, None);
        // What the model said before and what it says after the shift differ by the same.
        let of = |artifact: &Artifact, stop: Stop<'_>| label(vec![frame(None)], ReplayLabels::Foundation, &old, artifact, stop);
        let (before, after) = (of(&old, Stop::never()).unwrap().remove(0), of(&new, Stop::never()).unwrap().remove(0));
        assert!((after.energy.unwrap() - before.energy.unwrap() + 2.5).abs() < 1e-9);
        assert_eq!(before.forces, after.forces);
        assert_eq!((after.forces.unwrap().len(), after.weights.energy, after.weights.forces), (3, 1.0, 1.0));
        let error = label(vec![frame(None)], ReplayLabels::Data, &old, &new, Stop::never()).unwrap_err();
        assert!(error.hint().unwrap().contains("foundation"), "{error}");
        let asked = std::sync::atomic::AtomicBool::new(true);
        assert!(of(&new, Stop::new(&asked)).unwrap_err().is_stop());
    }
}
