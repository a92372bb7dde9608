//! A few of very many points, the same ones whatever the order and the number of threads.

use std::collections::{BTreeSet, BinaryHeap};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{ErrorSummary, Parity, Quantity};
use crate::data::Origin;

/// How many of the largest errors are kept beside the random points, one a frame.
const OUTLIERS: usize = 12;

/// A prediction and its reference.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ParityPoint {
    /// The label.
    #[serde(with = "crate::numbers")]
    pub reference: f64,
    /// The prediction.
    #[serde(with = "crate::numbers")]
    pub predicted: f64,
}

/// A point with one of the largest errors, and where it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outlier {
    /// Label and prediction.
    #[serde(flatten)]
    pub point: ParityPoint,
    /// Frame, atom and component.
    pub place: String,
}

/// Points with the smallest pseudo-random keys, and the largest error of each of the worst frames.
///
/// A point's key is a hash of the seed and of its place. So the sample is uniform, and points can come in any order, in parts.
#[derive(Debug, Clone)]
pub struct Sample {
    capacity: usize,
    /// Key, then bits of reference and prediction. The top of the heap is the first to go.
    points: BinaryHeap<(u64, u64, u64)>,
    outliers: BTreeSet<Ranked>,
}

/// Bits of the absolute error, which sort like the errors and have NaN last; its place; bits of reference and prediction.
type Ranked = (u64, String, u64, u64);

/// The key of a frame: from the seed and from where it comes from.
pub(super) fn frame_key(seed: u64, origin: &Origin) -> u64 {
    let mut hash = Sha256::new();
    hash.update(seed.to_le_bytes());
    hash.update((origin.frame as u64).to_le_bytes());
    hash.update(origin.file.as_bytes());
    let digest = hash.finalize();
    digest.iter().take(8).fold(0, |key, byte| key << 8 | u64::from(*byte))
}

/// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): the `n`-th number that follows from `key`.
fn split_mix(key: u64, n: u64) -> u64 {
    let mut z = key.wrapping_add(n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

impl Sample {
    /// Keeps up to `capacity` points.
    pub fn new(capacity: usize) -> Self {
        Self { capacity, points: BinaryHeap::new(), outliers: BTreeSet::new() }
    }

    /// Offers the points of one frame, (prediction, reference). `place` names the point with the given position among them.
    pub(super) fn add(&mut self, key: u64, points: impl IntoIterator<Item = (f64, f64)>, place: impl Fn(usize) -> String) {
        let mut worst: Option<(u64, usize, f64, f64)> = None;
        for (position, (predicted, reference)) in points.into_iter().enumerate() {
            let candidate = (split_mix(key, position as u64), reference.to_bits(), predicted.to_bits());
            self.offer(candidate);
            let error = (predicted - reference).abs().to_bits();
            if worst.is_none_or(|(largest, ..)| error > largest) {
                worst = Some((error, position, predicted, reference));
            }
        }
        if let Some((error, position, predicted, reference)) = worst {
            let full = self.outliers.len() >= OUTLIERS;
            if !full || self.outliers.first().is_some_and(|(smallest, ..)| error >= *smallest) {
                self.rank((error, place(position), reference.to_bits(), predicted.to_bits()));
            }
        }
    }

    fn offer(&mut self, candidate: (u64, u64, u64)) {
        if self.points.len() < self.capacity {
            self.points.push(candidate);
        } else if let Some(mut last) = self.points.peek_mut()
            && candidate < *last
        {
            *last = candidate;
        }
    }

    fn rank(&mut self, outlier: Ranked) {
        self.outliers.insert(outlier);
        if self.outliers.len() > OUTLIERS {
            self.outliers.pop_first();
        }
    }

    /// Adds what another has kept.
    pub fn merge(&mut self, other: Self) {
        other.points.into_iter().for_each(|point| self.offer(point));
        other.outliers.into_iter().for_each(|outlier| self.rank(outlier));
    }

    /// The points in the order of their keys, which has nothing to do with the order of frames.
    pub fn points(&self) -> Vec<ParityPoint> {
        let mut keyed = self.points.clone().into_vec();
        keyed.sort_unstable();
        keyed.into_iter().map(|(_, r, p)| ParityPoint { reference: f64::from_bits(r), predicted: f64::from_bits(p) }).collect()
    }

    /// The largest errors, the largest one first.
    pub fn outliers(&self) -> Vec<Outlier> {
        let outlier = |(_, place, r, p): &Ranked| Outlier {
            point: ParityPoint { reference: f64::from_bits(*r), predicted: f64::from_bits(*p) },
            place: place.clone(),
        };
        self.outliers.iter().rev().map(outlier).collect()
    }

    /// The parity plot of a quantity, in its unit.
    pub(super) fn parity(&self, set: &str, quantity: Quantity, errors: ErrorSummary) -> Parity {
        Parity { set: set.to_owned(), quantity, points: self.points(), outliers: self.outliers(), errors }
    }
}
