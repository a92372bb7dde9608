//! Single modes: where they fit into a supercell, and what the crystal looks like displaced along them.

use tesseral_atoms::{Cell, Structure};

use super::crystal::Crystal;
use super::supercell::Supercell;
use crate::matrix;

/// Wave vectors that fit into a supercell, q · a whole number for each of its vectors: frequencies there owe nothing to interpolation. Fractional coordinates in the
/// reciprocal lattice of the primitive cell, in (−½, ½]; one of each pair q, −q; Γ first.
pub fn commensurate(crystal: &Crystal, supercell: &Supercell) -> Vec<[f64; 3]> {
    // q·S = n for whole n: coordinates by the reciprocal vectors of the supercell.
    let supercell_in_primitive = matrix::product(&matrix::to_floats(&supercell.matrix), &matrix::inverse(&crystal.primitive_in_unit));
    let inverse = matrix::inverse(&supercell_in_primitive);
    let count = matrix::determinant(&supercell_in_primitive).abs().round() as i64;
    let wrap = |x: f64| {
        let y = x - x.round();
        let y = if y <= -0.5 + 1e-9 { y + 1.0 } else { y };
        (y * 1e9).round() / 1e9 + 0.0
    };
    let mut found: Vec<[f64; 3]> = Vec::new();
    let same = |a: [f64; 3], b: [f64; 3]| (0..3).all(|k| wrap(a[k] - b[k]).abs() < 1e-6);
    // A supercell holds as many wave vectors as primitive cells; those of a box around it are more than enough.
    let bound = count.min(64);
    let mut seen = std::collections::HashSet::new();
    for a in 0..bound {
        for b in 0..bound {
            for c in 0..bound {
                let q = matrix::apply(&inverse, [a as f64, b as f64, c as f64]).map(wrap);
                let key = q.map(|x| (x * 1e6).round() as i64);
                let opposite = q.map(|x| (wrap(-x) * 1e6).round() as i64);
                if seen.contains(&key) || seen.contains(&opposite) {
                    continue;
                }
                seen.insert(key);
                if !found.iter().any(|f| same(*f, q)) {
                    found.push(q);
                }
            }
        }
    }
    found
}

/// The crystal displaced along a mode, Re(e/√m · exp(2πi q · r)) for the atoms at r, scaled so that the atom that moves most moves by `amplitude` (Å): in the smallest multiple
/// of the primitive cell, of up to `most` cells along each vector, that the mode fits into. `None` where it fits into none.
pub fn displaced_along(crystal: &Crystal, q: [f64; 3], eigenvector: &[[f64; 2]], amplitude: f64, most: usize) -> Option<Structure> {
    let fits = |x: f64| (1..=most).find(|n| (x * *n as f64 - (x * *n as f64).round()).abs() < 1e-4);
    let n = [fits(q[0])?, fits(q[1])?, fits(q[2])?];
    let primitive = crystal.primitive_structure();
    let masses = crystal.primitive_masses();
    let inverse = matrix::inverse(&crystal.primitive.vectors);
    let mut structure =
        Structure::crystal(Cell::new([0, 1, 2].map(|k| crystal.primitive.vectors[k].map(|x| x * n[k] as f64))), Vec::new(), Vec::new());
    let mut moves: Vec<[[f64; 2]; 3]> = Vec::new();
    for atom in 0..primitive.len() {
        for c in 0..n[2] {
            for b in 0..n[1] {
                for a in 0..n[0] {
                    let r = matrix::add(primitive.positions[atom], crystal.primitive.cartesian([a as f64, b as f64, c as f64]));
                    let (sin, cos) = (2.0 * std::f64::consts::PI * matrix::dot(q, matrix::row_times(r, &inverse))).sin_cos();
                    structure.numbers.push(primitive.numbers[atom]);
                    structure.positions.push(r);
                    let e = |k: usize| eigenvector[3 * atom + k].map(|x| x / masses[atom].sqrt());
                    moves.push([0, 1, 2].map(|k| [e(k)[0] * cos - e(k)[1] * sin, e(k)[0] * sin + e(k)[1] * cos]));
                }
            }
        }
    }
    // The phase of an eigenvector is arbitrary: the one with which the largest component is real.
    let largest = moves.iter().flatten().fold([0.0f64, 0.0], |m, x| if x[0].hypot(x[1]) > m[0].hypot(m[1]) + 1e-12 { *x } else { m });
    let size = largest[0].hypot(largest[1]);
    if size == 0.0 {
        return None;
    }
    let phase = largest.map(|x| x / size);
    let real: Vec<[f64; 3]> = moves.iter().map(|m| m.map(|x| x[0] * phase[0] + x[1] * phase[1])).collect();
    let most = real.iter().map(|v| matrix::norm(*v)).fold(0.0, f64::max);
    for (r, v) in structure.positions.iter_mut().zip(&real) {
        *r = matrix::add(*r, v.map(|x| x * amplitude / most));
    }
    Some(structure)
}
