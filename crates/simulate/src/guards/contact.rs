//! The closest of the pairs that are too close.

use tesseral_atoms::neighbors::neighbor_list;
use tesseral_atoms::{Cell, Structure, elements};

use super::Limit;

/// Pairs are listed so far beyond their limit, Å.
const SKIN: f64 = 1.2;
/// They are listed again when an atom has moved so far, Å: 2 × 0.45 and what the cell has changed stay below the skin.
const MOVED: f64 = 0.45;
/// And when a lattice vector has changed by this part.
const STRAINED: f64 = 1e-3;

/// Two atoms that are too close.
#[derive(Debug, Clone, Copy)]
pub(super) struct Contact {
    pub(super) atoms: (usize, usize),
    pub(super) distance: f64,
    pub(super) limit: f64,
}

/// Watches distances, with a list of the pairs that can come too close before the next list.
#[derive(Debug)]
pub(super) struct Contacts {
    limit: Limit,
    listed: Option<(Cell, Vec<[f64; 3]>)>,
    /// i, j, shift, limit.
    pairs: Vec<(usize, usize, [f64; 3], f64)>,
}

impl Contacts {
    pub(super) fn new(limit: Limit) -> Self {
        Self { limit, listed: None, pairs: Vec::new() }
    }

    fn limit_of(&self, a: u8, b: u8) -> f64 {
        match self.limit {
            Limit::Value(limit) => limit,
            Limit::OfRadii(part) => part * [a, b].iter().map(|&z| elements::covalent_radius(z).unwrap_or(0.2)).sum::<f64>(),
        }
    }

    fn list(&mut self, structure: &Structure) {
        let near = |a: &Cell, b: &Cell| {
            let lengths = a.lengths();
            (0..3).all(|i| (0..3).all(|k| (a.vectors[i][k] - b.vectors[i][k]).abs() <= STRAINED * lengths[i]))
        };
        let fits = self.listed.as_ref().is_some_and(|(cell, positions)| {
            near(cell, &structure.cell)
                && positions.len() == structure.len()
                && positions
                    .iter()
                    .zip(&structure.positions)
                    .all(|(a, b)| (0..3).map(|k| (a[k] - b[k]).powi(2)).sum::<f64>() < MOVED * MOVED)
        });
        if fits {
            return;
        }
        let mut present = structure.numbers.clone();
        present.sort_unstable();
        present.dedup();
        let largest = present.iter().map(|&z| self.limit_of(z, z)).fold(0.0, f64::max);
        self.pairs.clear();
        // Where distances cannot be computed the force field has failed already.
        if let Ok(list) = neighbor_list(&structure.cell.vectors, structure.pbc, &structure.positions, largest + SKIN) {
            for e in 0..list.len() {
                let (i, j) = (list.centers[e] as usize, list.neighbors[e] as usize);
                let limit = self.limit_of(structure.numbers[i], structure.numbers[j]);
                let r = list.vectors[e].iter().map(|x| x * x).sum::<f64>().sqrt();
                if i <= j && r < limit + SKIN {
                    self.pairs.push((i, j, list.shifts[e].map(f64::from), limit));
                }
            }
        }
        self.listed = Some((structure.cell, structure.positions.clone()));
    }

    /// The pair furthest below its limit, in proportion to it.
    pub(super) fn closest(&mut self, structure: &Structure) -> Option<Contact> {
        self.list(structure);
        let mut worst: Option<Contact> = None;
        for &(i, j, shift, limit) in &self.pairs {
            let image = structure.cell.cartesian(shift);
            let distance = (0..3).map(|k| (structure.positions[j][k] - structure.positions[i][k] + image[k]).powi(2)).sum::<f64>().sqrt();
            if distance < limit && worst.is_none_or(|w| distance / limit < w.distance / w.limit) {
                worst = Some(Contact { atoms: (i, j), distance, limit });
            }
        }
        worst
    }
}
