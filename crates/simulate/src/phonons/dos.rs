//! The density of states, by the linear tetrahedron method.

use rayon::prelude::*;

use super::crystal::Crystal;
use super::mesh::Sample;
use crate::matrix;

/// Densities of states, averaged over bins: for each bin, the number of modes of one primitive cell in it divided by its width. They sum to 3N.
#[derive(Debug, Clone, PartialEq)]
pub struct DensityOfStates {
    /// Middles of the bins, THz.
    pub frequencies: Vec<f64>,
    /// Width of a bin, THz.
    pub width: f64,
    /// Modes per THz and primitive cell.
    pub total: Vec<f64>,
    /// The same for each atom of the primitive cell, weighted with its share |e|² in a mode; empty where the sample has none.
    pub atoms: Vec<Vec<f64>>,
}

impl DensityOfStates {
    /// From frequencies on a mesh, in `bins` bins from a little below the lowest to a little above the highest frequency.
    ///
    /// Each cell of the mesh is cut into six tetrahedra along the shortest of its diagonals, and frequencies are interpolated linearly inside them (Blöchl, Jepsen & Andersen,
    /// Phys. Rev. B 49, 16223 (1994)). The states of a tetrahedron below a frequency fill smaller tetrahedra; the volumes of these, and the means of the shares at their
    /// corners, are integrated densities, and a bin gets the difference between its ends. So nothing is lost where bands are flat.
    pub fn new(crystal: &Crystal, sample: &Sample, bins: usize) -> Self {
        let bins = bins.max(1);
        let (low, high) = (sample.lowest().0, sample.highest());
        let margin = (0.02 * (high - low)).max(0.05);
        // Acoustic modes begin at zero: nothing of them below.
        let start = if low > -1e-3 { 0.0 } else { low - margin };
        let width = (high + margin - start) / bins as f64;
        let bands = sample.frequencies.first().map_or(0, Vec::len);
        let atoms = if sample.shares.is_empty() { 0 } else { crystal.len() };
        let tetrahedra = tetrahedra(crystal, sample);
        let volume = 1.0 / (6.0 * sample.mesh.len() as f64);
        // One band is summed after another by one thread, and bands in order: the same bits for any number of threads.
        let parts: Vec<Vec<Vec<f64>>> = (0..bands)
            .into_par_iter()
            .map(|band| {
                let mut sums = vec![vec![0.0; bins]; 1 + atoms];
                for index in 0..sample.mesh.len() {
                    let point = sample.mesh.point(index);
                    for tetrahedron in &tetrahedra {
                        let mut corners = tetrahedron.map(|c| {
                            let corner = sample.map[sample.mesh.index([0, 1, 2].map(|k| point[k] + c[k]))];
                            (sample.frequencies[corner][band], corner)
                        });
                        corners.sort_by(|a, b| a.0.total_cmp(&b.0));
                        let e = corners.map(|c| c.0);
                        let bin = |x: f64| (((x - start) / width).floor().max(0.0) as usize).min(bins - 1);
                        let mut below = [0.0; 4];
                        for b in bin(e[0])..=bin(e[3]) {
                            // The last bin takes all there is.
                            let upper = if b == bin(e[3]) { [0.25; 4] } else { filled(e, start + (b + 1) as f64 * width) };
                            let states = [0, 1, 2, 3].map(|i| upper[i] - below[i]);
                            sums[0][b] += volume * states.iter().sum::<f64>();
                            for a in 0..atoms {
                                let share: f64 = (0..4).map(|i| states[i] * sample.shares[corners[i].1][band][a]).sum();
                                sums[1 + a][b] += volume * share;
                            }
                            below = upper;
                        }
                    }
                }
                sums
            })
            .collect();
        let mut sums = vec![vec![0.0; bins]; 1 + atoms];
        for part in parts {
            for (to, from) in sums.iter_mut().zip(part) {
                to.iter_mut().zip(from).for_each(|(a, b)| *a += b / width);
            }
        }
        let total = sums.remove(0);
        Self { frequencies: (0..bins).map(|b| start + (b as f64 + 0.5) * width).collect(), width, total, atoms: sums }
    }
}

/// Six tetrahedra that fill a cell of the mesh, as corners relative to its first point.
fn tetrahedra(crystal: &Crystal, sample: &Sample) -> Vec<[[i64; 3]; 4]> {
    let reciprocal = matrix::transpose(&matrix::inverse(&crystal.primitive.vectors));
    let step = [0, 1, 2].map(|k| reciprocal[k].map(|x| x / sample.mesh.size[k] as f64));
    let signs = [[1, 1, 1], [-1, 1, 1], [1, -1, 1], [1, 1, -1]];
    let length = |s: &[i64; 3]| matrix::norm(matrix::row_times(s.map(|x| x as f64), &step));
    let shortest = signs.into_iter().min_by(|a, b| length(a).total_cmp(&length(b))).unwrap_or([1, 1, 1]);
    // Paths along edges from one end of the diagonal to the other.
    let start = shortest.map(|s| i64::from(s < 0));
    [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]]
        .into_iter()
        .map(|order| {
            let mut corners = [start; 4];
            for (k, axis) in order.into_iter().enumerate() {
                corners[k + 1] = corners[k];
                corners[k + 1][axis] += shortest[axis];
            }
            corners
        })
        .collect()
}

/// For a tetrahedron of volume 1 with the values e₁ ≤ e₂ ≤ e₃ ≤ e₄ at its corners: ∫ λ_i over the part below a value, with λ_i the barycentric coordinates.
fn filled(e: [f64; 4], x: f64) -> [f64; 4] {
    if x <= e[0] {
        return [0.0; 4];
    }
    if x >= e[3] {
        return [0.25; 4];
    }
    // The point between corners i and j where the value is x.
    let between = |i: usize, j: usize| {
        let f = (x - e[i]) / (e[j] - e[i]);
        let mut point = [0.0; 4];
        point[i] = 1.0 - f;
        point[j] = f;
        point
    };
    let corner = |i: usize| {
        let mut point = [0.0; 4];
        point[i] = 1.0;
        point
    };
    let mut sum = [0.0; 4];
    let mut add = |volume: f64, corners: [[f64; 4]; 4]| {
        for i in 0..4 {
            sum[i] += volume * corners.iter().map(|c| c[i]).sum::<f64>() / 4.0;
        }
    };
    let f = |n: usize, m: usize| (x - e[m]) / (e[n] - e[m]);
    if x < e[1] {
        add(f(1, 0) * f(2, 0) * f(3, 0), [corner(0), between(0, 1), between(0, 2), between(0, 3)]);
    } else if x < e[2] {
        add(f(3, 1) * f(2, 1), [corner(0), corner(1), between(1, 2), between(1, 3)]);
        add(f(3, 0) * f(2, 1) * f(1, 3), [corner(0), between(0, 3), between(1, 2), between(1, 3)]);
        add(f(3, 0) * f(2, 0) * f(1, 2), [corner(0), between(0, 2), between(0, 3), between(1, 2)]);
    } else {
        sum = [0.25; 4];
        let mut take = [0.0; 4];
        let volume = f(0, 3) * f(1, 3) * f(2, 3);
        for c in [corner(3), between(3, 0), between(3, 1), between(3, 2)] {
            for i in 0..4 {
                take[i] += volume * c[i] / 4.0;
            }
        }
        for i in 0..4 {
            sum[i] -= take[i];
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::filled;

    #[test]
    fn parts_of_a_tetrahedron() {
        // Against sums over a fine grid of barycentric coordinates.
        let e = [0.0, 0.3, 0.5, 1.0];
        let n = 120;
        for x in [0.1, 0.3, 0.4, 0.45, 0.6, 0.9] {
            let (mut count, mut sums) = (0.0, [0.0; 4]);
            for i in 0..n {
                for j in 0..n - i {
                    for k in 0..n - i - j {
                        let l = [i, j, k].map(|v| (f64::from(v) + 0.25) / f64::from(n));
                        let l = [l[0], l[1], l[2], 1.0 - l[0] - l[1] - l[2]];
                        count += 1.0;
                        if (0..4).map(|a| l[a] * e[a]).sum::<f64>() < x {
                            (0..4).for_each(|a| sums[a] += l[a]);
                        }
                    }
                }
            }
            let exact = filled(e, x);
            for a in 0..4 {
                assert!((exact[a] - sums[a] / count).abs() < 3e-3, "{x} {a}: {} {}", exact[a], sums[a] / count);
            }
        }
        // Volumes are continuous at the corners.
        for x in e {
            let (a, b) = (filled(e, x - 1e-9), filled(e, x + 1e-9));
            assert!((0..4).all(|i| (a[i] - b[i]).abs() < 1e-7));
        }
    }
}
