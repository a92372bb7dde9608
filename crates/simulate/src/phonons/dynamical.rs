//! The dynamical matrix and its eigenvalues.

use nalgebra::{Complex, DMatrix, SymmetricEigen};
use tesseral_atoms::units::{ATOMIC_MASS_KG, ELEMENTARY_CHARGE};

use super::crystal::Crystal;
use super::force_constants::ForceConstants;
use super::supercell::Supercell;
use crate::error::SimulateError;
use crate::matrix::{self, Matrix};

/// √(eV/u)/Å in THz (ordinary frequency): a mode with the eigenvalue λ in eV/(Å² u) has the frequency √λ times this.
pub fn thz() -> f64 {
    (ELEMENTARY_CHARGE / ATOMIC_MASS_KG).sqrt() * 1e10 / (2.0 * std::f64::consts::PI) / 1e12
}

/// Modes at one wave vector.
#[derive(Debug, Clone, PartialEq)]
pub struct Modes {
    /// Frequencies in ascending order, THz; imaginary ones are negative.
    pub frequencies: Vec<f64>,
    /// For each mode, (real, imaginary) parts of its eigenvector: three numbers for each atom of the primitive cell, orthonormal. The displacement of an atom is e/√m ·
    /// exp(2πi q · r), with r its position.
    pub eigenvectors: Vec<Vec<[f64; 2]>>,
}

/// D_αβ(p, p′; q) = (m_p m_p′)^(−1/2) Σ_j Φ_αβ(p, j) exp(2πi q · (r_j − r_p)), over all atoms j of the class p′ in the supercell.
///
/// An atom j stands for all its images; the nearest of them to p counts, and where several are equally near their phases are averaged (Parlinski, Li & Kawazoe, Phys. Rev.
/// Lett. 78, 4063 (1997)). At wave vectors that fit into the supercell the choice makes no difference.
#[derive(Debug, Clone)]
pub struct DynamicalMatrix {
    atoms: usize,
    terms: Vec<Term>,
    vectors: Vec<[f64; 3]>,
}

/// One pair of atoms (p, j).
#[derive(Debug, Clone)]
struct Term {
    row: usize,
    column: usize,
    /// Φ/√(m m′), divided by the number of equally near images.
    value: Matrix,
    /// Its vectors: the first, and how many.
    first: usize,
    count: usize,
}

impl DynamicalMatrix {
    /// From force constants.
    pub fn new(crystal: &Crystal, supercell: &Supercell, force_constants: &ForceConstants) -> Self {
        let masses = crystal.primitive_masses();
        let lattice = matrix::reduced(&supercell.structure.cell.vectors);
        let back = matrix::inverse(&lattice);
        let to_primitive = matrix::inverse(&crystal.primitive.vectors);
        let mut images = Vec::new();
        for a in -2..=2 {
            for b in -2..=2 {
                for c in -2..=2 {
                    images.push(matrix::row_times([f64::from(a), f64::from(b), f64::from(c)], &lattice));
                }
            }
        }
        let mut this = Self { atoms: masses.len(), terms: Vec::new(), vectors: Vec::new() };
        for (p, &centre) in force_constants.atoms.iter().enumerate() {
            for j in 0..supercell.len() {
                let v = matrix::subtract(supercell.structure.positions[j], supercell.structure.positions[centre]);
                let s = matrix::row_times(v, &back);
                let v = matrix::row_times(s.map(|x| x - x.round()), &lattice);
                let candidates: Vec<([f64; 3], f64)> = images.iter().map(|i| matrix::add(v, *i)).map(|v| (v, matrix::norm(v))).collect();
                let nearest = candidates.iter().map(|c| c.1).fold(f64::INFINITY, f64::min);
                let first = this.vectors.len();
                let near = candidates.iter().filter(|c| c.1 < nearest + crystal.tolerance);
                this.vectors.extend(near.map(|c| matrix::row_times(c.0, &to_primitive)));
                let count = this.vectors.len() - first;
                let column = crystal.primitive_of[supercell.unit_atom[j]];
                let scale = 1.0 / ((masses[p] * masses[column]).sqrt() * count as f64);
                let value = force_constants.values[p][j].map(|row| row.map(|x| x * scale));
                this.terms.push(Term { row: p, column, value, first, count });
            }
        }
        this
    }

    /// Number of atoms of the primitive cell.
    pub fn atoms(&self) -> usize {
        self.atoms
    }

    /// The matrix at a wave vector given by its fractional coordinates in the reciprocal lattice of the primitive cell (without 2π: q · a_i), Hermitian, 3N × 3N.
    fn at(&self, q: [f64; 3]) -> DMatrix<Complex<f64>> {
        let n = 3 * self.atoms;
        let mut d = DMatrix::<Complex<f64>>::zeros(n, n);
        for term in &self.terms {
            let (mut re, mut im) = (0.0, 0.0);
            for v in &self.vectors[term.first..term.first + term.count] {
                let (sin, cos) = (2.0 * std::f64::consts::PI * matrix::dot(q, *v)).sin_cos();
                re += cos;
                im += sin;
            }
            for a in 0..3 {
                for b in 0..3 {
                    d[(3 * term.row + a, 3 * term.column + b)] += Complex::new(term.value[a][b] * re, term.value[a][b] * im);
                }
            }
        }
        for i in 0..n {
            d[(i, i)].im = 0.0;
            for j in 0..i {
                let mean = (d[(i, j)] + d[(j, i)].conj()) * 0.5;
                d[(i, j)] = mean;
                d[(j, i)] = mean.conj();
            }
        }
        d
    }

    /// Frequencies at a wave vector (fractional coordinates in the reciprocal lattice of the primitive cell), ascending, THz; imaginary ones negative.
    ///
    /// # Errors
    /// If the matrix is not finite.
    pub fn frequencies(&self, q: [f64; 3]) -> Result<Vec<f64>, SimulateError> {
        let d = self.finite(q)?;
        let mut values: Vec<f64> = d.symmetric_eigenvalues().iter().map(|x| frequency(*x)).collect();
        values.sort_by(f64::total_cmp);
        Ok(values)
    }

    /// Frequencies and eigenvectors at a wave vector.
    ///
    /// # Errors
    /// As [`DynamicalMatrix::frequencies`].
    pub fn modes(&self, q: [f64; 3]) -> Result<Modes, SimulateError> {
        let eigen = SymmetricEigen::new(self.finite(q)?);
        let mut order: Vec<usize> = (0..eigen.eigenvalues.len()).collect();
        order.sort_by(|&a, &b| eigen.eigenvalues[a].total_cmp(&eigen.eigenvalues[b]));
        Ok(Modes {
            frequencies: order.iter().map(|&k| frequency(eigen.eigenvalues[k])).collect(),
            eigenvectors: order.iter().map(|&k| eigen.eigenvectors.column(k).iter().map(|c| [c.re, c.im]).collect()).collect(),
        })
    }

    fn finite(&self, q: [f64; 3]) -> Result<DMatrix<Complex<f64>>, SimulateError> {
        let d = self.at(q);
        if d.iter().any(|c| !(c.re.is_finite() && c.im.is_finite())) {
            return Err(SimulateError::input(format!("the dynamical matrix at q = {q:?} is not finite"), "check forces and masses"));
        }
        Ok(d)
    }
}

/// Frequency of an eigenvalue, THz; negative for imaginary ones.
fn frequency(eigenvalue: f64) -> f64 {
    eigenvalue.abs().sqrt().copysign(eigenvalue) * thz()
}
