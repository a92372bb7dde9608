//! The "Exp" preconditioner.

use tesseral_atoms::Cell;
use tesseral_atoms::neighbors::{NeighborError, neighbor_list};

use super::{Preconditioner, add, dot};
use crate::matrix::norm;

/// A network of springs whose stiffness falls off with distance: P_ij = −exp(−A (r_ij / r_nn − 1)) for r_ij < 2 r_nn, P_ii = −Σ_j P_ij + 0.1, A = 3, the same for x, y and z.
///
/// Packwood et al., J. Chem. Phys. 144, 164109 (2016), eqs 8–11, with the parameters given there. Their energy scale μ is left to [`super::Lbfgs`], whose γ takes its place and
/// costs no evaluation; r_nn is the median over atoms of the distance to the nearest neighbour. In a crystal of N atoms the condition number of the Hessian grows as N^(2/3), that
/// of P⁻¹ times the Hessian does not.
///
/// Rows beyond the atoms (those of a strained cell) have a stiffness of their own, the mean of P_ii. Atoms that are held are walls: their row is diagonal.
#[derive(Debug, Clone)]
pub struct Exponential {
    offsets: Vec<usize>,
    columns: Vec<u32>,
    values: Vec<f64>,
    diagonal: Vec<f64>,
}

/// A of the paper.
const DECAY: f64 = 3.0;
/// The cutoff in units of r_nn.
const REACH: f64 = 2.0;
/// C_stab of the paper, in units of μ.
const STABILISER: f64 = 0.1;
/// Conjugate gradients end when the residual has fallen by this.
const TOLERANCE: f64 = 1e-9;

impl Exponential {
    /// The springs between atoms at `positions` (Å); `held[i]` atoms do not move; `extra` rows follow those of the atoms.
    ///
    /// # Errors
    /// If neighbours cannot be listed.
    pub fn new(cell: &Cell, pbc: [bool; 3], positions: &[[f64; 3]], held: &[bool], extra: usize) -> Result<Self, NeighborError> {
        let n = positions.len();
        let mut reach = 4.0;
        let (list, nearest) = loop {
            let list = neighbor_list(&cell.vectors, pbc, positions, reach)?;
            let mut nearest: Vec<f64> =
                (0..n).filter_map(|i| list.edges_of(i).map(|e| norm(list.vectors[e])).min_by(f64::total_cmp)).collect();
            nearest.sort_by(f64::total_cmp);
            // Half of the atoms have a neighbour, or nobody has any for long.
            let median = nearest.get(n / 2).copied();
            match median {
                Some(median) if REACH * median <= reach => break (list, median),
                Some(median) => reach = REACH * median * (1.0 + 1e-9),
                None if reach > 15.0 => break (list, reach),
                None => reach *= 2.0,
            }
        };
        let mut matrix = Self { offsets: vec![0], columns: Vec::new(), values: Vec::new(), diagonal: Vec::new() };
        for i in 0..n {
            let mut diagonal = STABILISER;
            for edge in list.edges_of(i) {
                let (j, r) = (list.neighbors[edge], norm(list.vectors[edge]));
                // An image of the atom itself moves with it.
                if r >= REACH * nearest || j as usize == i {
                    continue;
                }
                let stiffness = (-DECAY * (r / nearest - 1.0)).exp();
                diagonal += stiffness;
                if !held[i] && !held[j as usize] {
                    matrix.columns.push(j);
                    matrix.values.push(-stiffness);
                }
            }
            matrix.diagonal.push(diagonal);
            matrix.offsets.push(matrix.columns.len());
        }
        let mean = if n == 0 { 1.0 } else { matrix.diagonal.iter().sum::<f64>() / n as f64 };
        matrix.diagonal.resize(n + extra, mean);
        matrix.offsets.resize(n + extra + 1, matrix.columns.len());
        Ok(matrix)
    }

    /// P v.
    pub fn apply(&self, v: &[[f64; 3]]) -> Vec<[f64; 3]> {
        (0..v.len())
            .map(|i| {
                let mut row = v[i].map(|x| self.diagonal[i] * x);
                for e in self.offsets[i]..self.offsets[i + 1] {
                    let other = v[self.columns[e] as usize];
                    for k in 0..3 {
                        row[k] += self.values[e] * other[k];
                    }
                }
                row
            })
            .collect()
    }
}

impl Preconditioner for Exponential {
    /// By conjugate gradients, preconditioned by the diagonal.
    fn solve(&self, v: &[[f64; 3]]) -> Vec<[f64; 3]> {
        let scaled = |r: &[[f64; 3]]| -> Vec<[f64; 3]> { r.iter().zip(&self.diagonal).map(|(r, d)| r.map(|x| x / d)).collect() };
        let mut x = vec![[0.0; 3]; v.len()];
        let mut r = v.to_vec();
        let mut z = scaled(&r);
        let mut p = z.clone();
        let mut rz = dot(&r, &z);
        let end = rz * TOLERANCE * TOLERANCE;
        // In exact arithmetic as many iterations as there are unknowns are enough.
        for _ in 0..(3 * v.len()).min(1000) {
            if rz <= end {
                break;
            }
            let q = self.apply(&p);
            let alpha = rz / dot(&p, &q);
            add(&mut x, alpha, &p);
            add(&mut r, -alpha, &q);
            z = scaled(&r);
            let next = dot(&r, &z);
            let beta = next / rz;
            rz = next;
            for (p, z) in p.iter_mut().zip(&z) {
                for k in 0..3 {
                    p[k] = z[k] + beta * p[k];
                }
            }
        }
        x
    }
}
