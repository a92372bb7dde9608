//! Wave vectors on a regular mesh.

use std::collections::HashMap;

use rayon::prelude::*;

use super::crystal::Crystal;
use super::dynamical::DynamicalMatrix;
use crate::error::SimulateError;

/// Most points that a mesh may have.
const MOST_POINTS: usize = 50_000_000;

/// A regular mesh, q_k = (i_k + s_k/2)/n_k in fractional coordinates of the reciprocal primitive cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mesh {
    /// Points along each reciprocal lattice vector.
    pub size: [usize; 3],
    /// Shifted by half a step along each vector.
    pub shifted: [bool; 3],
}

impl Mesh {
    /// The mesh of Monkhorst & Pack, Phys. Rev. B 13, 5188 (1976): symmetric about Γ, which it contains only along directions of odd size. It is phonopy's default.
    ///
    /// # Errors
    /// If a size is zero, or there are too many points.
    pub fn monkhorst_pack(size: [usize; 3]) -> Result<Self, SimulateError> {
        Self::new(size, size.map(|n| n % 2 == 0))
    }

    /// The mesh with a point at Γ.
    ///
    /// # Errors
    /// As [`Mesh::monkhorst_pack`].
    pub fn centred(size: [usize; 3]) -> Result<Self, SimulateError> {
        Self::new(size, [false; 3])
    }

    fn new(size: [usize; 3], shifted: [bool; 3]) -> Result<Self, SimulateError> {
        let points = size.iter().try_fold(1usize, |n, k| n.checked_mul(*k)).unwrap_or(usize::MAX);
        if points == 0 || points > MOST_POINTS {
            return Err(SimulateError::input(
                format!("a mesh of {size:?} points"),
                format!("at least 1 along each direction, at most {MOST_POINTS} in all"),
            ));
        }
        Ok(Self { size, shifted })
    }

    /// Number of points.
    pub fn len(&self) -> usize {
        self.size.iter().product()
    }

    /// Never.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Index of a point; its numbers may be any integers.
    pub(crate) fn index(&self, point: [i64; 3]) -> usize {
        let wrapped = [0, 1, 2].map(|k| point[k].rem_euclid(self.size[k] as i64) as usize);
        (wrapped[2] * self.size[1] + wrapped[1]) * self.size[0] + wrapped[0]
    }

    /// Numbers of a point.
    pub(crate) fn point(&self, index: usize) -> [i64; 3] {
        let [a, b, _] = self.size;
        [(index % a) as i64, (index / a % b) as i64, (index / (a * b)) as i64]
    }

    /// Fractional coordinates of a point, in [−½, ½).
    pub fn q(&self, index: usize) -> [f64; 3] {
        let point = self.point(index);
        [0, 1, 2].map(|k| {
            let twice = 2 * point[k] + i64::from(self.shifted[k]);
            let n = self.size[k] as i64;
            (twice as f64 - if twice >= n { 2.0 * n as f64 } else { 0.0 }) / (2.0 * n as f64)
        })
    }

    /// For each point, the first one that has the same frequencies by the point group and time reversal, as far as these take the mesh to itself.
    fn representatives(&self, crystal: &Crystal) -> Vec<usize> {
        let n = self.size.map(|x| x as i64);
        let s = self.shifted.map(i64::from);
        // For q · R (rows) on doubled numbers of points d = 2 i + s: d′_j = Σ_i d_i R_ij n_j / n_i.
        let maps: Vec<[[i64; 3]; 3]> = crystal
            .point_group()
            .into_iter()
            .filter_map(|r| {
                let mut m = [[0; 3]; 3];
                for i in 0..3 {
                    for j in 0..3 {
                        let product = r[i][j] * n[j];
                        if product % n[i] != 0 {
                            return None;
                        }
                        m[i][j] = product / n[i];
                    }
                }
                let parity = |j: usize| (0..3).map(|i| s[i] * m[i][j]).sum::<i64>().rem_euclid(2) == s[j];
                (0..3).all(parity).then_some(m)
            })
            .collect();
        let mut first = vec![usize::MAX; self.len()];
        for index in 0..self.len() {
            if first[index] != usize::MAX {
                continue;
            }
            let point = self.point(index);
            let d = [0, 1, 2].map(|k| 2 * point[k] + s[k]);
            for m in &maps {
                for sign in [1, -1] {
                    let image = [0, 1, 2].map(|j| sign * (0..3).map(|i| d[i] * m[i][j]).sum::<i64>());
                    let place = self.index([0, 1, 2].map(|k| (image[k] - s[k]).div_euclid(2)));
                    first[place] = first[place].min(index);
                }
            }
            first[index] = index;
        }
        first
    }

    /// Frequencies on the mesh, computed at one point of each set that symmetry makes equal; with `projections`, the share of each atom in each mode too.
    ///
    /// # Errors
    /// If forces or masses are not finite.
    pub fn sample(&self, crystal: &Crystal, dynamical: &DynamicalMatrix, projections: bool) -> Result<Sample, SimulateError> {
        let first = self.representatives(crystal);
        let mut place = HashMap::new();
        let mut points = Vec::new();
        for &f in &first {
            place.entry(f).or_insert_with(|| {
                points.push(f);
                points.len() - 1
            });
        }
        let map: Vec<usize> = first.iter().map(|f| place[f]).collect();
        let mut weights = vec![0.0; points.len()];
        map.iter().for_each(|&k| weights[k] += 1.0 / self.len() as f64);
        let computed: Vec<(Vec<f64>, Vec<Vec<f64>>)> = points
            .par_iter()
            .map(|&p| {
                if !projections {
                    return Ok((dynamical.frequencies(self.q(p))?, Vec::new()));
                }
                let modes = dynamical.modes(self.q(p))?;
                let share = |e: &Vec<[f64; 2]>| e.chunks_exact(3).map(|c| c.iter().map(|x| x[0] * x[0] + x[1] * x[1]).sum()).collect();
                Ok((modes.frequencies, modes.eigenvectors.iter().map(share).collect()))
            })
            .collect::<Result<_, SimulateError>>()?;
        let (frequencies, shares): (_, Vec<_>) = computed.into_iter().unzip();
        let shares = if projections { shares } else { Vec::new() };
        let q = points.iter().map(|&p| self.q(p)).collect();
        Ok(Sample { mesh: *self, q, weights, frequencies, shares, map })
    }
}

/// Frequencies on a mesh.
#[derive(Debug, Clone)]
pub struct Sample {
    /// The mesh.
    pub mesh: Mesh,
    /// The points that were computed, fractional coordinates in the reciprocal primitive cell.
    pub q: Vec<[f64; 3]>,
    /// The part of the mesh that each stands for; they sum to 1.
    pub weights: Vec<f64>,
    /// Frequencies at each, ascending, THz.
    pub frequencies: Vec<Vec<f64>>,
    /// Share of each atom of the primitive cell in each mode at each point (|e|², sums to 1); empty where it was not asked for.
    pub shares: Vec<Vec<Vec<f64>>>,
    /// For each point of the mesh, the computed one with its frequencies.
    pub map: Vec<usize>,
}

impl Sample {
    /// The lowest frequency and where it is.
    pub fn lowest(&self) -> (f64, [f64; 3]) {
        let lowest = self.frequencies.iter().zip(&self.q).map(|(f, q)| (f[0], *q));
        lowest.min_by(|a, b| a.0.total_cmp(&b.0)).unwrap_or((0.0, [0.0; 3]))
    }

    /// The highest frequency, THz.
    pub fn highest(&self) -> f64 {
        self.frequencies.iter().flatten().fold(f64::NEG_INFINITY, |a, b| a.max(*b))
    }
}
