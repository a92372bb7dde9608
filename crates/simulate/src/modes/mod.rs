//! Vibrations of molecules: the Hessian by differences of forces, normal modes, zero-point energy.
//!
//! Every atom is displaced by ±h along each axis; H_ij = −(F_j(+h) − F_j(−h)) / 2h, symmetrised. Modes are eigenvectors of the mass-weighted Hessian from which translations and rotations
//! have been projected (W. H. Miller, N. C. Handy and J. E. Adams, J. Chem. Phys. 72, 99 (1980)).

pub mod files;
#[cfg(test)]
mod tests;
pub mod thermochemistry;

use nalgebra::{DMatrix, DVector, SymmetricEigen};
use serde::{Deserialize, Serialize};
use tesseral_atoms::units::{ATOMIC_MASS_KG, ELEMENTARY_CHARGE};
use tesseral_atoms::{ForceField, Structure, elements};

use crate::constants::{LIGHT, PLANCK};
use crate::error::SimulateError;
use crate::settle::{Internal, Job, Ledger, Tick, settle};

/// How modes are computed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Displacement of an atom, Å.
    pub displacement: f64,
    /// How atoms are relaxed first; `None` takes them where they are.
    pub internal: Option<Internal>,
    /// Atoms that do not move: modes are those of the others.
    pub fixed: Vec<usize>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { displacement: 0.01, internal: None, fixed: Vec::new() }
    }
}

/// One normal mode.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Mode {
    /// Frequency, THz; negative for an imaginary one.
    pub frequency: f64,
    /// Reduced mass, u: 1/Σ |d|² with d the displacements l/√m of the normalised mass-weighted mode l.
    pub reduced_mass: f64,
    /// Displacements of atoms, normalised so that their squares sum to one.
    pub displacements: Vec<[f64; 3]>,
}

impl Mode {
    /// Wavenumber, 1/cm; negative for an imaginary frequency.
    pub fn wavenumber(&self) -> f64 {
        wavenumber(self.frequency)
    }

    /// Energy of a quantum h ν, eV; negative for an imaginary frequency.
    pub fn quantum(&self) -> f64 {
        self.frequency * 1e12 * PLANCK
    }
}

/// Normal modes of a molecule.
#[derive(Debug, Clone)]
pub struct Modes {
    /// The molecule, relaxed if that was asked for.
    pub structure: Structure,
    /// Vibrations, the lowest frequency first, imaginary ones before all.
    pub modes: Vec<Mode>,
    /// Frequencies (THz) of what was projected out, before that: their distance from zero tells of noise and of forces that are left.
    pub projected: Vec<f64>,
    /// Energy of the molecule, eV.
    pub energy: f64,
    /// Largest force on a free atom, eV/Å.
    pub largest_force: f64,
    /// Largest |H_ij − H_ji|, eV/Å².
    pub asymmetry: f64,
    /// Principal moments of inertia, u Å², smallest first.
    pub moments: [f64; 3],
    /// True for molecules with all atoms on a line.
    pub linear: bool,
    /// False if atoms were to be relaxed and are not.
    pub relaxed: bool,
    /// Disagreement of a committee about the molecule: energy (eV), force (eV/Å).
    pub spread: Option<[f64; 2]>,
}

impl Modes {
    /// Σ ½ h ν over real frequencies, eV.
    pub fn zero_point_energy(&self) -> f64 {
        self.modes.iter().map(|m| 0.5 * m.quantum().max(0.0)).sum()
    }

    /// The number of imaginary frequencies: 0 in a minimum, 1 at a saddle point.
    pub fn imaginary(&self) -> usize {
        self.modes.iter().filter(|m| m.frequency < 0.0).count()
    }
}

/// Frequency in THz of an eigenvalue of the mass-weighted Hessian, eV/(Å² u); negative for a negative one.
pub fn frequency(eigenvalue: f64) -> f64 {
    let omega = (eigenvalue.abs() * ELEMENTARY_CHARGE * 1e20 / ATOMIC_MASS_KG).sqrt();
    omega.copysign(eigenvalue) / std::f64::consts::TAU * 1e-12
}

/// Wavenumber, 1/cm, of a frequency in THz.
pub fn wavenumber(frequency: f64) -> f64 {
    frequency * 1e12 / LIGHT
}

/// Masses of atoms, u: the array `masses` of the structure, or those of the elements.
///
/// # Errors
/// Naming an atom without a mass.
pub fn masses(structure: &Structure) -> Result<Vec<f64>, SimulateError> {
    if let Some(masses) = structure.arrays.get("masses").and_then(|a| a.as_reals()).filter(|m| m.len() == structure.len()) {
        return match masses.iter().position(|m| !(*m > 0.0 && m.is_finite())) {
            Some(atom) => Err(SimulateError::input(
                format!("the mass of atom {atom} is {}", masses[atom]),
                "correct the column `masses`, or remove it",
            )),
            None => Ok(masses.to_vec()),
        };
    }
    let mass = |(atom, &z): (usize, &u8)| {
        elements::mass(z)
            .filter(|m| *m > 0.0)
            .ok_or_else(|| SimulateError::input(format!("atom {atom} has no mass"), "give the structure a column `masses`"))
    };
    structure.numbers.iter().enumerate().map(mass).collect()
}

/// What can be said against settings and a structure before anything is computed.
///
/// # Errors
/// If there are no atoms to displace, or settings make no sense.
pub fn check(structure: &Structure, settings: &Settings) -> Result<(), SimulateError> {
    if structure.is_empty() {
        return Err(SimulateError::input("there are no atoms", "give a structure with atoms"));
    }
    structure.validate()?;
    masses(structure)?;
    if !(1e-4..=0.2).contains(&settings.displacement) {
        return Err(SimulateError::input(
            format!("a displacement of {} Å: a length between 0.0001 and 0.2 Å is needed", settings.displacement),
            "0.01 is usual",
        ));
    }
    if let Some(atom) = settings.fixed.iter().find(|&&a| a >= structure.len()) {
        return Err(SimulateError::input(
            format!("there is no atom {atom} to be fixed"),
            format!("atoms are counted from 0 to {}", structure.len() - 1),
        ));
    }
    if (0..structure.len()).all(|a| settings.fixed.contains(&a)) {
        return Err(SimulateError::input("all atoms are fixed", "leave some free"));
    }
    if let Some(internal) = settings.internal.filter(|i| !(i.tolerance > 0.0 && i.tolerance.is_finite())) {
        return Err(SimulateError::input(
            format!("a tolerance of {} eV/Å for forces", internal.tolerance),
            "give a positive number, such as 0.001",
        ));
    }
    Ok(())
}

/// Normal modes; `None` if `tick` has ended the computation. What it finishes goes to the ledger: the molecule at 0, displaced ones after it.
///
/// # Errors
/// As [`check`], or if a structure cannot be evaluated or the ledger not be written.
pub fn normal_modes(
    structure: &Structure,
    settings: &Settings,
    field: &mut dyn ForceField,
    ledger: &mut Ledger,
    tick: Tick<'_>,
) -> Result<Option<Modes>, SimulateError> {
    check(structure, settings)?;
    let free: Vec<usize> = (0..structure.len()).filter(|a| !settings.fixed.contains(a)).collect();
    let total = 6 * free.len();
    let start = [Job { index: 0, name: "the molecule".to_owned(), structure: structure.clone() }];
    if !settle(&start, settings.internal.as_ref(), &settings.fixed, field, ledger, &mut |done, _| tick(done, total + 1))? {
        return Ok(None);
    }
    let missing = || SimulateError::input("a displaced structure is missing", "start anew, without --resume");
    let reference = ledger.get(0).cloned().ok_or_else(missing)?;
    let mut relaxed = structure.clone();
    relaxed.positions.clone_from(&reference.positions);
    let jobs: Vec<Job> = (0..total)
        .map(|k| {
            let mut displaced = relaxed.clone();
            let h = if k % 2 == 0 { settings.displacement } else { -settings.displacement };
            displaced.positions[free[k / 6]][k / 2 % 3] += h;
            Job { index: k + 1, name: format!("displacement {} of {total}", k + 1), structure: displaced }
        })
        .collect();
    if !settle(&jobs, None, &[], field, ledger, &mut |done, _| tick(done + 1, total + 1))? {
        return Ok(None);
    }
    let size = 3 * free.len();
    let mut hessian = DMatrix::zeros(size, size);
    for row in 0..size {
        let forces = |k: usize| ledger.get(k + 1).map(|s| &s.forces).ok_or_else(missing);
        let (plus, minus) = (forces(2 * row)?, forces(2 * row + 1)?);
        for column in 0..size {
            let (atom, axis) = (free[column / 3], column % 3);
            hessian[(row, column)] = -(plus[atom][axis] - minus[atom][axis]) / (2.0 * settings.displacement);
        }
    }
    let mut modes = of_hessian(relaxed, &hessian, &free)?;
    modes.energy = reference.energy;
    modes.largest_force = reference.largest_force;
    modes.relaxed = reference.converged;
    modes.spread = reference.spread;
    Ok(Some(modes))
}

/// Normal modes of a Hessian (eV/Å²) for the atoms `free`, three rows each. Translations are projected out where all atoms are free, and rotations too where nothing is periodic.
///
/// # Errors
/// If an atom has no mass, or a number is not finite.
pub fn of_hessian(structure: Structure, hessian: &DMatrix<f64>, free: &[usize]) -> Result<Modes, SimulateError> {
    let size = 3 * free.len();
    if hessian.iter().any(|x| !x.is_finite()) {
        return Err(SimulateError::input("forces of displaced structures are not finite", "check the model on this structure"));
    }
    let masses = masses(&structure)?;
    let root: Vec<f64> = (0..size).map(|k| masses[free[k / 3]].sqrt()).collect();
    let asymmetry = (hessian - hessian.transpose()).amax();
    let weighted = DMatrix::from_fn(size, size, |i, j| 0.5 * (hessian[(i, j)] + hessian[(j, i)]) / (root[i] * root[j]));
    let (moments, axes, centre) = inertia(&structure, &masses);
    // Atoms that lie on a line to within noise of relaxed positions.
    let linear = structure.len() > 1 && moments[0] < 1e-4 * moments[2];
    let mut rigid: Vec<DVector<f64>> = Vec::new();
    if free.len() == structure.len() {
        let mut add = |move_of: &dyn Fn([f64; 3]) -> [f64; 3]| {
            let v = DVector::from_fn(size, |k, _| {
                let r = structure.positions[k / 3];
                root[k] * move_of([r[0] - centre[0], r[1] - centre[1], r[2] - centre[2]])[k % 3]
            });
            let mut v = v;
            for _ in 0..2 {
                rigid.iter().for_each(|b| v -= b * b.dot(&v));
            }
            if v.norm() > 1e-8 {
                rigid.push(v.normalize());
            }
        };
        for x in 0..3 {
            let mut unit = [0.0; 3];
            unit[x] = 1.0;
            add(&|_| unit);
        }
        if !structure.is_periodic() && structure.len() > 1 {
            // A turn about its own line moves nothing.
            for axis in axes.iter().skip(usize::from(linear)) {
                add(&|r| [axis[1] * r[2] - axis[2] * r[1], axis[2] * r[0] - axis[0] * r[2], axis[0] * r[1] - axis[1] * r[0]]);
            }
        }
    }
    // In the space without rigid motions, spanned by the eigenvectors of 1 − Σ b bᵀ with eigenvalue one.
    let mut projector = DMatrix::<f64>::identity(size, size);
    rigid.iter().for_each(|b| projector -= b * b.transpose());
    let basis = SymmetricEigen::new(projector);
    let kept: Vec<usize> = (0..size).filter(|&k| basis.eigenvalues[k] > 0.5).collect();
    let basis = basis.eigenvectors.select_columns(&kept);
    let inner = basis.transpose() * &weighted * &basis;
    let mut modes: Vec<Mode> = Vec::new();
    if !kept.is_empty() {
        let eigen = SymmetricEigen::new(0.5 * (&inner + inner.transpose()));
        let vectors = &basis * &eigen.eigenvectors;
        for k in 0..kept.len() {
            let mut displacements = vec![[0.0; 3]; structure.len()];
            for n in 0..size {
                displacements[free[n / 3]][n % 3] = vectors[(n, k)] / root[n];
            }
            let squares: f64 = displacements.as_flattened().iter().map(|x| x * x).sum();
            // The largest component is positive, so that signs do not depend on the algorithm.
            let largest = displacements.as_flattened().iter().fold(0.0f64, |m, &x| if x.abs() > m.abs() * (1.0 + 1e-6) { x } else { m });
            let scale = largest.signum() / squares.sqrt();
            displacements.as_flattened_mut().iter_mut().for_each(|x| *x *= scale);
            modes.push(Mode { frequency: frequency(eigen.eigenvalues[k]), reduced_mass: 1.0 / squares, displacements });
        }
    }
    modes.sort_by(|a, b| a.frequency.total_cmp(&b.frequency));
    // What the rigid motions would have been.
    let mut projected = Vec::new();
    if !rigid.is_empty() {
        let r = DMatrix::from_columns(&rigid);
        let inner = r.transpose() * &weighted * &r;
        projected = SymmetricEigen::new(0.5 * (&inner + inner.transpose())).eigenvalues.iter().map(|&x| frequency(x)).collect();
        projected.sort_by(f64::total_cmp);
    }
    Ok(Modes {
        structure,
        modes,
        projected,
        energy: f64::NAN,
        largest_force: f64::NAN,
        asymmetry,
        moments,
        linear,
        relaxed: true,
        spread: None,
    })
}

/// Principal moments of inertia (u Å², smallest first), their axes, and the centre of mass.
fn inertia(structure: &Structure, masses: &[f64]) -> ([f64; 3], [[f64; 3]; 3], [f64; 3]) {
    let total: f64 = masses.iter().sum();
    let centre = [0, 1, 2].map(|k| structure.positions.iter().zip(masses).map(|(r, m)| m * r[k]).sum::<f64>() / total);
    let mut tensor = nalgebra::Matrix3::<f64>::zeros();
    for (r, m) in structure.positions.iter().zip(masses) {
        let d = nalgebra::Vector3::from_fn(|k, _| r[k] - centre[k]);
        tensor += *m * (nalgebra::Matrix3::identity() * d.norm_squared() - d * d.transpose());
    }
    let eigen = SymmetricEigen::new(tensor);
    let mut order = [0, 1, 2];
    order.sort_by(|&a, &b| eigen.eigenvalues[a].total_cmp(&eigen.eigenvalues[b]));
    (order.map(|k| eigen.eigenvalues[k].max(0.0)), order.map(|k| std::array::from_fn(|i| eigen.eigenvectors[(i, k)])), centre)
}
