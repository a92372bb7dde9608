//! Velocities at the start.

use tesseral_atoms::Structure;
use tesseral_atoms::units::BOLTZMANN;

use super::random::Random;
use super::settings::Settings;
use crate::error::SimulateError;

/// What of a structure moves, and how it is counted.
#[derive(Debug, Clone)]
pub(super) struct Freedom {
    /// 1/m, 1/u; 0 for atoms that never move.
    pub(super) inverse_masses: Vec<f64>,
    /// The centre of mass is held at rest.
    pub(super) hold_centre: bool,
    /// Of all atoms, u.
    pub(super) total_mass: f64,
    /// Degrees of freedom, N_f.
    pub(super) degrees: f64,
}

impl Freedom {
    /// Counts what can move.
    ///
    /// # Errors
    /// If nothing can.
    pub(super) fn new(settings: &Settings, structure: &Structure, masses: &[f64]) -> Result<Self, SimulateError> {
        let mut inverse_masses: Vec<f64> = masses.iter().map(|m| 1.0 / m).collect();
        for &atom in &settings.fixed {
            inverse_masses[atom] = 0.0;
        }
        let free = inverse_masses.iter().filter(|&&w| w > 0.0).count();
        let hold_centre = settings.fix_centre_of_mass && settings.fixed.is_empty();
        // A thermostat on each atom gives rotation back; all other ensembles conserve what forces conserve.
        let rotates_again = matches!(settings.ensemble, super::Ensemble::Langevin { .. });
        let rotations = if settings.remove_rotation && !rotates_again { rotations(structure, masses).len() } else { 0 };
        let degrees = 3 * free as i64 - if hold_centre { 3 } else { 0 } - rotations as i64;
        if degrees <= 0 {
            return Err(SimulateError::input(
                format!("nothing is left to move of {free} free atoms"),
                "release fixed atoms, let the centre of mass move or keep rotation",
            ));
        }
        Ok(Self { inverse_masses, hold_centre, total_mass: masses.iter().sum(), degrees: degrees as f64 })
    }
}

/// Velocities of the Maxwell–Boltzmann distribution, without momentum or rotation where those are held, scaled to the exact temperature (K).
pub(super) fn drawn(settings: &Settings, structure: &Structure, masses: &[f64], freedom: &Freedom, random: &mut Random) -> Vec<[f64; 3]> {
    let temperature = settings.temperature.from;
    let mut velocities: Vec<[f64; 3]> =
        freedom.inverse_masses.iter().map(|w| random.normals().map(|x| x * (w * BOLTZMANN * temperature).sqrt())).collect();
    clean(settings, structure, masses, freedom, &mut velocities);
    let twice_kinetic: f64 = velocities.iter().zip(masses).map(|(v, m)| m * v.iter().map(|x| x * x).sum::<f64>()).sum();
    if twice_kinetic > 0.0 {
        let scale = (freedom.degrees * BOLTZMANN * temperature / twice_kinetic).sqrt();
        velocities.iter_mut().flatten().for_each(|x| *x *= scale);
    }
    velocities
}

/// Velocities that came with a structure, √(eV/u).
///
/// # Errors
/// If there are none.
pub(super) fn given(structure: &Structure, masses: &[f64]) -> Result<Vec<[f64; 3]>, SimulateError> {
    let column = |name: &str| structure.arrays.get(name).and_then(tesseral_atoms::Array::to_vectors);
    let velocities = match (column("momenta"), column("velocities")) {
        (Some(momenta), _) => momenta.iter().zip(masses).map(|(p, m)| p.map(|x| x / m)).collect(),
        (None, Some(velocities)) => velocities,
        (None, None) => {
            return Err(SimulateError::input(
                "the structure has no velocities",
                "give it a column momenta, as ASE writes it, or let velocities be drawn",
            ));
        }
    };
    match velocities.iter().position(|v: &[f64; 3]| !v.iter().all(|x| x.is_finite())) {
        Some(atom) => Err(SimulateError::input(
            format!("the velocity of atom {atom} is not finite"),
            "mend the structure, or let velocities be drawn",
        )),
        None => Ok(velocities),
    }
}

/// Takes away what is not free to move: fixed atoms, the centre of mass, rotation.
pub(super) fn clean(settings: &Settings, structure: &Structure, masses: &[f64], freedom: &Freedom, velocities: &mut [[f64; 3]]) {
    for (v, w) in velocities.iter_mut().zip(&freedom.inverse_masses) {
        if *w == 0.0 {
            *v = [0.0; 3];
        }
    }
    if freedom.hold_centre {
        let mut momentum = [0.0; 3];
        for (v, m) in velocities.iter().zip(masses) {
            for k in 0..3 {
                momentum[k] += m * v[k];
            }
        }
        let drift = momentum.map(|p| p / freedom.total_mass);
        velocities.iter_mut().for_each(|v| (0..3).for_each(|k| v[k] -= drift[k]));
    }
    if settings.remove_rotation {
        for rotation in rotations(structure, masses) {
            let along: f64 =
                (0..masses.len()).map(|i| masses[i].sqrt() * (0..3).map(|k| velocities[i][k] * rotation[i][k]).sum::<f64>()).sum();
            for (i, m) in masses.iter().enumerate() {
                (0..3).for_each(|k| velocities[i][k] -= along * rotation[i][k] / m.sqrt());
            }
        }
    }
}

/// The rotations about the centre of mass, as orthonormal directions in the space of √m v: three, two for atoms on a line, none for one atom.
fn rotations(structure: &Structure, masses: &[f64]) -> Vec<Vec<[f64; 3]>> {
    let total: f64 = masses.iter().sum();
    let centre = [0, 1, 2].map(|k| structure.positions.iter().zip(masses).map(|(r, m)| m * r[k]).sum::<f64>() / total);
    let turned = |axis: usize| -> Vec<[f64; 3]> {
        let turn = |(r, m): (&[f64; 3], &f64)| {
            let d = [0, 1, 2].map(|k| (r[k] - centre[k]) * m.sqrt());
            let (a, b) = ((axis + 1) % 3, (axis + 2) % 3);
            let mut v = [0.0; 3];
            // e × d for the unit vector e of the axis.
            v[a] = -d[b];
            v[b] = d[a];
            v
        };
        structure.positions.iter().zip(masses).map(turn).collect()
    };
    let dot = |a: &[[f64; 3]], b: &[[f64; 3]]| a.iter().zip(b).map(|(x, y)| x[0] * y[0] + x[1] * y[1] + x[2] * y[2]).sum::<f64>();
    let all: Vec<_> = (0..3).map(turned).collect();
    let largest = all.iter().map(|v| dot(v, v)).fold(0.0, f64::max);
    let mut basis: Vec<Vec<[f64; 3]>> = Vec::new();
    // The weakest axis last: of atoms on a line it is the one that is made of rounding alone.
    let mut order = [0, 1, 2];
    order.sort_by(|&a, &b| dot(&all[b], &all[b]).total_cmp(&dot(&all[a], &all[a])));
    for axis in order {
        let mut v = all[axis].clone();
        for _ in 0..2 {
            for known in &basis {
                let along = dot(&v, known);
                v.iter_mut().zip(known).for_each(|(x, y)| (0..3).for_each(|k| x[k] -= along * y[k]));
            }
        }
        let norm = dot(&v, &v);
        if norm > 1e-8 * largest {
            v.iter_mut().flatten().for_each(|x| *x /= norm.sqrt());
            basis.push(v);
        }
    }
    basis
}
