//! Training and validation frames, and the order of an epoch.

use std::sync::Arc;

use indexmap::IndexMap;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha12Rng;

use super::config::{SplitBy, SplitConfig};
use super::error::DataError;
use super::source::FrameSource;

/// Stream of the generator that draws the split, so that it has nothing in common with the orders of epochs.
const SPLIT_STREAM: u64 = u64::MAX;

/// Indices of frames, ascending on both sides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// Frames to train on.
    pub train: Vec<usize>,
    /// Frames held back.
    pub valid: Vec<usize>,
}

/// Draws about `fraction` of the frames for validation: the same for the same frames and seed. Neither side is empty where there are at
/// least two things to draw from and `fraction` is above 0.
///
/// Groups and files are drawn in random order, and each that does not overshoot the number of frames wanted is taken; if all do, the smallest.
///
/// # Errors
/// [`DataError::Split`] if frames are to be divided by group or file and there is only one, and what [`FrameSource::summary`] returns.
pub fn split(source: &dyn FrameSource, config: &SplitConfig, fraction: f64) -> Result<Split, DataError> {
    let len = source.len();
    if fraction == 0.0 || len == 0 {
        return Ok(Split { train: (0..len).collect(), valid: Vec::new() });
    }
    let wanted = ((len as f64 * fraction).round() as usize).clamp(1, len);
    let mut generator = ChaCha12Rng::seed_from_u64(config.seed);
    generator.set_stream(SPLIT_STREAM);
    let mut held = vec![false; len];
    match config.by {
        SplitBy::Seed => {
            let mut order: Vec<usize> = (0..len).collect();
            order.shuffle(&mut generator);
            for &index in &order[..wanted.min(len - 1)] {
                held[index] = true;
            }
        }
        SplitBy::Group | SplitBy::File => {
            let mut units = units(source, config.by)?;
            if units.len() < 2 {
                let reason = match (config.by, units.first()) {
                    (SplitBy::Group, Some((name, _))) if name.is_empty() => "no frame says its group".to_owned(),
                    (_, Some((name, _))) => format!("all frames belong to `{name}`"),
                    (_, None) => "there are no frames".to_owned(),
                };
                return Err(DataError::Split { by: config.by, reason });
            }
            // The draw depends on names, not on the order of files.
            units.sort_by(|a, b| a.0.cmp(&b.0));
            units.shuffle(&mut generator);
            let mut taken = 0;
            let mut chosen: Vec<usize> = Vec::new();
            for (unit, (_, members)) in units.iter().enumerate() {
                if taken + members.len() <= wanted && chosen.len() + 1 < units.len() {
                    taken += members.len();
                    chosen.push(unit);
                }
            }
            if chosen.is_empty() {
                chosen.extend((0..units.len()).min_by_key(|&unit| units[unit].1.len()));
            }
            for index in chosen.into_iter().flat_map(|unit| &units[unit].1) {
                held[*index] = true;
            }
        }
    }
    let (valid, train) = (0..len).partition(|&index| held[index]);
    Ok(Split { train, valid })
}

/// Groups or files by name, with their frames; an empty name for frames without a group.
fn units(source: &dyn FrameSource, by: SplitBy) -> Result<Vec<(Arc<str>, Vec<usize>)>, DataError> {
    let mut units = IndexMap::<Arc<str>, Vec<usize>>::new();
    for index in 0..source.len() {
        let summary = source.summary(index)?;
        let name = if by == SplitBy::File { summary.origin.file } else { summary.group.unwrap_or_default() };
        units.entry(name).or_default().push(index);
    }
    Ok(units.into_iter().collect())
}

/// The order in which an epoch goes through `len` frames: a permutation that depends on seed and epoch alone, so that any epoch can be had
/// without those before it.
pub fn shuffled_order(len: usize, seed: u64, epoch: u64) -> Vec<usize> {
    let mut generator = ChaCha12Rng::seed_from_u64(seed);
    generator.set_stream(epoch);
    let mut order: Vec<usize> = (0..len).collect();
    order.shuffle(&mut generator);
    order
}

#[cfg(test)]
mod tests {
    use tesseral_atoms::Structure;

    use super::super::frame::{Frame, Origin, Weights};
    use super::super::source::{Memory, Subset};
    use super::*;

    /// Frames with these groups, in files of ten.
    fn frames(groups: &[Option<&str>]) -> Memory {
        let frame = |(index, group): (usize, &Option<&str>)| Frame {
            structure: Structure::molecule(vec![1], vec![[0.0; 3]]),
            energy: None,
            forces: None,
            force_mask: None,
            stress: None,
            weights: Weights::default(),
            group: group.map(Arc::from),
            head: None,
            origin: Origin { file: format!("{}.xyz", index / 10).into(), frame: index % 10 },
        };
        groups.iter().enumerate().map(frame).collect::<Vec<_>>().into()
    }

    fn draw(source: &Memory, by: SplitBy, seed: u64, fraction: f64) -> Split {
        split(source, &SplitConfig { by, seed }, fraction).unwrap()
    }

    #[test]
    fn seeds_draw_frames() {
        let source = frames(&[None; 40]);
        let first = draw(&source, SplitBy::Seed, 1, 0.1);
        assert_eq!(first.valid.len(), 4);
        assert_eq!(first, draw(&source, SplitBy::Seed, 1, 0.1));
        assert_ne!(first, draw(&source, SplitBy::Seed, 2, 0.1));
        let mut all: Vec<usize> = first.train.iter().chain(&first.valid).copied().collect();
        assert!(first.train.is_sorted() && first.valid.is_sorted());
        all.sort_unstable();
        assert_eq!(all, (0..40).collect::<Vec<_>>());
        assert!(draw(&source, SplitBy::Seed, 1, 0.0).valid.is_empty());
        assert_eq!(draw(&source, SplitBy::Seed, 1, 1e-9).valid.len(), 1);
        assert_eq!(draw(&source, SplitBy::Seed, 1, 0.9999).train.len(), 1);
        assert_eq!(draw(&frames(&[None]), SplitBy::Seed, 1, 0.5).train, [0]);
        assert!(draw(&frames(&[]), SplitBy::Seed, 1, 0.5).train.is_empty());
    }

    #[test]
    fn groups_and_files_stay_together() {
        let names: Vec<Option<&str>> = (0..60).map(|i| [Some("a"), Some("b"), Some("b"), None, Some("c")][i % 5]).collect();
        let source = frames(&names);
        for seed in 0..20 {
            let by_group = draw(&source, SplitBy::Group, seed, 0.25);
            assert!(!by_group.train.is_empty() && !by_group.valid.is_empty() && by_group.valid.len() <= 15);
            assert!(by_group.train.iter().all(|&t| by_group.valid.iter().all(|&v| names[t] != names[v])));
            let by_file = draw(&source, SplitBy::File, seed, 0.4);
            assert_eq!(by_file.valid.len(), 20);
            assert!(by_file.train.iter().all(|&t| by_file.valid.iter().all(|&v| t / 10 != v / 10)));
        }
        assert!((0..20).any(|seed| draw(&source, SplitBy::File, seed, 0.4) != draw(&source, SplitBy::File, 0, 0.4)));
        // Every group is larger than the part wanted: the smallest is taken.
        assert_eq!(draw(&source, SplitBy::Group, 0, 0.01).valid.len(), 12);
        // However much is wanted, something is left to train on.
        assert!(!draw(&source, SplitBy::Group, 0, 0.999).train.is_empty());
        let one = frames(&[Some("a"); 3]);
        let error = split(&one, &SplitConfig { by: SplitBy::Group, seed: 0 }, 0.5).unwrap_err();
        assert!(error.to_string().contains("all frames belong to `a`"), "{error}");
        let error = split(&frames(&[None; 3]), &SplitConfig { by: SplitBy::Group, seed: 0 }, 0.5).unwrap_err();
        assert!(error.to_string().contains("no frame says its group"), "{error}");
    }

    #[test]
    fn orders_are_permutations_of_their_own() {
        let order = shuffled_order(100, 3, 5);
        assert_eq!(order, shuffled_order(100, 3, 5));
        assert_ne!(order, shuffled_order(100, 3, 6));
        assert_ne!(order, shuffled_order(100, 4, 5));
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..100).collect::<Vec<_>>());
        assert!(shuffled_order(0, 0, 0).is_empty());
    }

    #[test]
    fn subsets_keep_their_order() {
        let source: Arc<dyn FrameSource> = Arc::new(frames(&[None; 12]));
        let subset = Subset::new(source, vec![11, 3]);
        assert_eq!(subset.len(), 2);
        assert_eq!(subset.frame(0).unwrap().origin.to_string(), "frame 1 of 1.xyz");
        assert_eq!(subset.summary(1).unwrap().origin.to_string(), "frame 3 of 0.xyz");
        let files = super::super::files_of(&subset).unwrap();
        assert_eq!(files.iter().map(|(name, indices)| (&**name, &indices[..])).collect::<Vec<_>>(), [("1.xyz", &[0][..]), ("0.xyz", &[1])]);
    }
}
