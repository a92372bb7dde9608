//! Normal modes in files that viewers read.

use std::fmt::Write;

use tesseral_atoms::units::BOHR;
use tesseral_atoms::{Array, Structure, elements};

use super::Modes;
use crate::relax::optimiser::longest;

/// Molden's format, with frequencies and normal coordinates (G. Schaftenaar and J. H. Noordik, J. Comput.-Aided Mol. Des. 14, 123 (2000)): lengths in bohr, wavenumbers, imaginary ones
/// negative.
pub fn molden(modes: &Modes) -> String {
    let mut text = "[Molden Format]\n[FREQ]\n".to_owned();
    // Writing to a string cannot fail.
    for mode in &modes.modes {
        writeln!(text, "{:12.4}", mode.wavenumber()).ok();
    }
    text.push_str("[FR-COORD]\n");
    for (z, r) in modes.structure.numbers.iter().zip(&modes.structure.positions) {
        let [x, y, z_] = r.map(|x| x / BOHR);
        writeln!(text, "{:<2} {x:16.9} {y:16.9} {z_:16.9}", elements::symbol(*z).unwrap_or("X")).ok();
    }
    text.push_str("[FR-NORM-COORD]\n");
    for (k, mode) in modes.modes.iter().enumerate() {
        writeln!(text, "vibration {}", k + 1).ok();
        for [x, y, z] in &mode.displacements {
            writeln!(text, "{x:16.9} {y:16.9} {z:16.9}").ok();
        }
    }
    text
}

/// A mode as frames of one period: atoms move by up to `amplitude` (Å, of the atom that moves most) along it. Every frame has the displacements as the array `mode`.
pub fn animation(modes: &Modes, index: usize, amplitude: f64, frames: usize) -> Vec<Structure> {
    let mode = &modes.modes[index];
    let largest = longest(&mode.displacements).max(f64::MIN_POSITIVE);
    let mut base = modes.structure.clone();
    base.info.clear();
    base.arrays.clear();
    base.arrays.insert("mode".to_owned(), Array::vectors(&mode.displacements));
    base.info.insert("mode".to_owned(), (index as i64 + 1).into());
    base.info.insert("wavenumber".to_owned(), mode.wavenumber().into());
    (0..frames)
        .map(|k| {
            let s = amplitude / largest * (std::f64::consts::TAU * k as f64 / frames as f64).sin();
            let mut frame = base.clone();
            for (r, d) in frame.positions.iter_mut().zip(&mode.displacements) {
                (0..3).for_each(|x| r[x] += s * d[x]);
            }
            frame
        })
        .collect()
}
