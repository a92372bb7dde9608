//! The neighbours that a rank's caller lists, and those of them that are near.
//!
//! Callers list neighbours up to a skin of their own choice, and LAMMPS' is wide: with 2 Å beyond a cutoff of 5 Å 2.7 times as many as within it. Of what they list
//! the engine keeps those up to [`SKIN`], until an atom or a ghost has moved half of that; then it looks through the caller's list again, which costs
//! little. This is the dual list of Páll and Hess (<https://doi.org/10.1016/j.cpc.2013.06.003>). What is within the cutoff is never lost as long as the
//! caller's own list holds.

use rayon::prelude::*;

use crate::domain::{DomainAtoms, DomainError, NO_SPECIES, Neighbors};

/// How far beyond the cutoff neighbours are kept, Å: that of `tesseral md`.
const SKIN: f64 = 0.5;
/// Atoms whose neighbours are looked through by one task.
const PORTION: usize = 256;

/// A rank's atoms when they were listed, and their neighbours, counted as the caller counts them.
#[derive(Debug, Default)]
pub(super) struct Shortlist {
    pub(super) owned: usize,
    pub(super) species: Vec<u32>,
    /// Of each ghost the first atom that it is a copy of, or itself.
    pub(super) images: Vec<u32>,
    /// All neighbours of own atoms that the caller lists.
    given: (Vec<usize>, Vec<u32>),
    /// Those that are near.
    near: (Vec<usize>, Vec<u32>),
    /// Where atoms were when those were found, Å.
    positions: Vec<[f64; 3]>,
}

impl Shortlist {
    /// Takes over what the caller lists, for a model with so many species.
    pub(super) fn take(&mut self, atoms: &DomainAtoms<'_>, lists: &dyn Neighbors, known: usize) -> Result<(), DomainError> {
        let all = atoms.positions.len();
        if let Some(atom) = atoms.species.iter().position(|&s| s as usize >= known && s != NO_SPECIES) {
            return Err(DomainError::Species { atom: atoms.name(atom), species: atoms.species[atom], known });
        }
        self.owned = atoms.owned;
        self.species.clear();
        self.species.extend_from_slice(atoms.species);
        self.images.clear();
        match atoms.images {
            None => self.images.extend(atoms.owned as u32..all as u32),
            Some(images) => self.images.extend_from_slice(images),
        }
        for (k, &image) in self.images.iter().enumerate() {
            let (ghost, first) = (atoms.owned + k, image as usize);
            let is_first = || first < atoms.owned || self.images[first - atoms.owned] == image;
            if first > ghost || !is_first() || self.species[first] != self.species[ghost] {
                return Err(DomainError::Image { ghost, image: first });
            }
        }
        let (offsets, neighbors) = &mut self.given;
        offsets.clear();
        offsets.push(0);
        neighbors.clear();
        // Of a pair of own atoms both see the other: what one adds the other takes away again.
        let mut balance = 0u64;
        for i in 0..atoms.owned {
            let first = neighbors.len();
            if self.species[i] != NO_SPECIES {
                lists.append(i, neighbors);
            }
            let mut kept = first;
            for k in first..neighbors.len() {
                let j = neighbors[k] as usize;
                if j >= all || j == i {
                    return Err(DomainError::Neighbor { atom: atoms.name(i), neighbor: j, atoms: all });
                }
                if self.species[j] == NO_SPECIES {
                    continue;
                }
                neighbors[kept] = j as u32;
                kept += 1;
                if j < atoms.owned {
                    let pair = pair_number(i.min(j) as u64, i.max(j) as u64);
                    balance = if i < j { balance.wrapping_add(pair) } else { balance.wrapping_sub(pair) };
                }
            }
            neighbors.truncate(kept);
            offsets.push(neighbors.len());
        }
        if balance == 0 { Ok(()) } else { Err(DomainError::HalfList) }
    }

    /// Finds those that are near, for a cutoff (Å).
    pub(super) fn shorten(&mut self, positions: &[[f64; 3]], cutoff: f64) {
        let reach = (cutoff + SKIN).powi(2);
        let (offsets, neighbors) = &self.given;
        let portion = |first: usize| {
            let (mut counts, mut near) = (Vec::with_capacity(PORTION), Vec::new());
            for i in first..(first + PORTION).min(self.owned) {
                let before = near.len();
                near.extend(
                    neighbors[offsets[i]..offsets[i + 1]].iter().filter(|&&j| squared(&positions[i], &positions[j as usize]) < reach),
                );
                counts.push(near.len() - before);
            }
            (counts, near)
        };
        let portions: Vec<(Vec<usize>, Vec<u32>)> =
            (0..self.owned.div_ceil(PORTION)).into_par_iter().map(|k| portion(k * PORTION)).collect();
        let (offsets, neighbors) = &mut self.near;
        offsets.clear();
        offsets.push(0);
        neighbors.clear();
        for (counts, near) in portions {
            counts.iter().for_each(|count| offsets.push(offsets[offsets.len() - 1] + count));
            neighbors.extend(near);
        }
        self.positions.clear();
        self.positions.extend_from_slice(positions);
    }

    /// Whether all that are within the cutoff are still among those that are near.
    pub(super) fn holds(&self, positions: &[[f64; 3]]) -> bool {
        self.positions.iter().zip(positions).all(|(then, now)| squared(then, now) < (0.5 * SKIN).powi(2))
    }

    /// Offsets of own atoms, and the neighbours that are near.
    pub(super) fn near(&self) -> (&[usize], &[u32]) {
        (&self.near.0, &self.near.1)
    }

    /// The first ghost that is nobody's copy.
    pub(super) fn stranger(&self) -> Option<usize> {
        (self.owned..self.species.len()).find(|&ghost| self.images[ghost - self.owned] as usize == ghost)
    }

    /// Ghosts that are copies, with the atoms that they are copies of.
    pub(super) fn copies(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        (self.owned..).zip(&self.images).map(|(ghost, &image)| (ghost, image as usize)).filter(|(ghost, image)| ghost != image)
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> usize {
        let of_list = |(offsets, neighbors): &(Vec<usize>, Vec<u32>)| 8 * offsets.capacity() + 4 * neighbors.capacity();
        4 * (self.species.capacity() + self.images.capacity()) + 24 * self.positions.capacity() + of_list(&self.given) + of_list(&self.near)
    }
}

fn squared(a: &[f64; 3], b: &[f64; 3]) -> f64 {
    (0..3).map(|x| (a[x] - b[x]) * (a[x] - b[x])).sum()
}

/// A number for a pair, unlike those of other pairs (the finaliser of splitmix64: Steele, Lea and Flood, OOPSLA 2014, <https://doi.org/10.1145/2660193.2660195>).
fn pair_number(low: u64, high: u64) -> u64 {
    let mut x = (low << 32 | high).wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
