//! Elastic constants from stresses of strained crystals.
//!
//! A crystal is strained by F = 1 + ε along each Voigt axis, by several amplitudes of both signs; its atoms are relaxed at each strain (or carried along: "clamped ions"). The Cauchy stress
//! σ is pulled back to the second Piola–Kirchhoff stress S = J F⁻¹ σ F⁻ᵀ, whose derivative by strain is C = (1/V) ∂²E/∂η∂η, with η = ½ (FᵀF − 1) the Lagrangian strain (D. C. Wallace,
//! Thermodynamics of Crystals, 1972). C has all symmetries whatever the stress at the start; what relates strains to Cauchy stresses there, and decides on stability, is
//! [`tensor::stress_strain_coefficients`]. Without stress the two are the same.
//!
//! The derivative is the slope at zero of a polynomial in the amplitude. The point group turns strains into one another, so that few are computed; the tensor is the one of least squares
//! for all their images, which therefore has the symmetry of the crystal.

mod moduli;
mod symmetry;
pub mod tensor;
#[cfg(test)]
mod tests;

use nalgebra::{Matrix3, Matrix6};
use serde::{Deserialize, Serialize};
use tesseral_atoms::labels::voigt;
use tesseral_atoms::{Cell, ForceField, Structure, elements};

pub use moduli::{Average, Mode, Moduli, Sound, modes};
pub use symmetry::{CrystalSystem, PointGroup};
use tensor::{Voigt6, asymmetry, from_kelvin, kelvin, rotated, strain_matrix, stress_strain_coefficients, symmetrised};

use crate::error::SimulateError;
use crate::fit;
use crate::settle::{Internal, Job, Ledger, Settled, Tick, settle};

/// How elastic constants are computed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Amplitudes of the strains (of γ for shears), each used with both signs.
    pub amplitudes: Vec<f64>,
    /// How atoms are relaxed; `None` leaves them where the strain takes them.
    pub internal: Option<Internal>,
    /// Symmetry is what holds within this distance, Å; `None` does without.
    pub symmetry: Option<f64>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { amplitudes: vec![0.005, 0.01], internal: Some(Internal::default()), symmetry: Some(1e-3) }
    }
}

/// Elastic constants and what follows from them. Tensors and stresses in eV/Å³, Voigt order xx, yy, zz, yz, zx, xy.
#[derive(Debug, Clone)]
pub struct Elasticity {
    /// C, second derivatives of the energy by Lagrangian strain, a volume.
    pub stiffness: Voigt6,
    /// B, derivatives of the Cauchy stress by strain: C without initial stress.
    pub response: Voigt6,
    /// Stress without strain.
    pub initial_stress: [[f64; 3]; 3],
    /// The crystal without strain, its atoms relaxed.
    pub structure: Structure,
    /// Its symmetry.
    pub group: PointGroup,
    /// Independent constants of C in standard axes: index "C44" and value.
    pub constants: Vec<(String, f64)>,
    /// Averages of B; `None` if it is singular.
    pub moduli: Option<Moduli>,
    /// Sound and Debye temperature of Hill's averages.
    pub sound: Option<Sound>,
    /// Eigenvalues of B, the softest first.
    pub modes: Vec<Mode>,
    /// Root mean square deviation of stresses from straight lines: what the amplitudes show of anharmonicity and noise.
    pub line_residual: f64,
    /// The same from the polynomials whose slopes are used: noise.
    pub fit_residual: f64,
    /// Largest |C_vw − C_wv| before it was symmetrised.
    pub asymmetry: f64,
    /// Root mean square deviation of the measured responses from the tensor: how far the point group is obeyed.
    pub symmetry_residual: f64,
    /// Strained structures.
    pub strained: usize,
    /// Names of those whose atoms did not relax.
    pub unrelaxed: Vec<String>,
    /// Disagreement of a committee about the unstrained crystal: energy (eV), force (eV/Å).
    pub spread: Option<[f64; 2]>,
}

impl Elasticity {
    /// True if no small strain lowers the energy (enthalpy, under stress).
    pub fn is_stable(&self) -> bool {
        self.modes.first().is_some_and(|mode| mode.stiffness > 0.0)
    }
}

/// What can be said against settings and a structure before anything is computed.
///
/// # Errors
/// If the structure is not periodic in three directions, or an amplitude makes no sense.
pub fn check(structure: &Structure, settings: &Settings) -> Result<(), SimulateError> {
    if structure.pbc != [true; 3] {
        return Err(SimulateError::input(
            "elastic constants need a crystal that is periodic in three directions",
            "give a bulk structure with a cell, pbc=\"T T T\"",
        ));
    }
    structure.validate()?;
    let amplitudes = &settings.amplitudes;
    if amplitudes.is_empty() || amplitudes.iter().any(|a| !(1e-5..=0.2).contains(a)) {
        return Err(SimulateError::input(
            format!("strains {amplitudes:?}: numbers between 0.00001 and 0.2 are needed"),
            "0.005 and 0.01 are usual",
        ));
    }
    if amplitudes.iter().enumerate().any(|(k, a)| amplitudes[..k].contains(a)) {
        return Err(SimulateError::input(format!("strains {amplitudes:?}: one is there twice"), "each is used with both signs"));
    }
    if let Some(internal) = settings.internal.filter(|i| !(i.tolerance > 0.0 && i.tolerance.is_finite())) {
        return Err(SimulateError::input(
            format!("a tolerance of {} eV/Å for forces", internal.tolerance),
            "give a positive number, such as 0.001",
        ));
    }
    if let Some(tolerance) = settings.symmetry.filter(|t| !(*t > 0.0 && t.is_finite())) {
        return Err(SimulateError::input(format!("a tolerance of {tolerance} Å for symmetry"), "give a positive number, such as 0.001"));
    }
    Ok(())
}

/// The symmetry that is used, and how many strained structures that takes.
///
/// # Errors
/// If no symmetry can be found.
pub fn plan(structure: &Structure, settings: &Settings) -> Result<(PointGroup, usize), SimulateError> {
    let group = settings.symmetry.map_or_else(|| Ok(PointGroup::trivial()), |tolerance| PointGroup::of(structure, tolerance))?;
    let strains = group.strains().len() * 2 * settings.amplitudes.len();
    Ok((group, strains))
}

/// A structure with its cell and atoms strained: r′ = F r, F = 1 + ε.
pub(crate) fn strained(structure: &Structure, strain: [[f64; 3]; 3]) -> Structure {
    let mut result = structure.clone();
    let deform = |v: &mut [f64; 3]| {
        let old = *v;
        for i in 0..3 {
            v[i] += (0..3).map(|j| strain[i][j] * old[j]).sum::<f64>();
        }
    };
    result.positions.iter_mut().for_each(deform);
    let mut vectors = result.cell.vectors;
    vectors.iter_mut().for_each(deform);
    result.cell = Cell::new(vectors);
    result
}

/// Elastic constants of a crystal; `None` if `tick` has ended the computation. What it finishes goes to the ledger: the unstrained crystal at 0, strained ones after it.
///
/// # Errors
/// As [`check`], or if a structure cannot be evaluated or the ledger not be written.
pub fn elasticity(
    structure: &Structure,
    settings: &Settings,
    field: &mut dyn ForceField,
    ledger: &mut Ledger,
    tick: Tick<'_>,
) -> Result<Option<Elasticity>, SimulateError> {
    check(structure, settings)?;
    let (planned, total) = plan(structure, settings)?;
    let internal = settings.internal.as_ref();
    let start = [Job { index: 0, name: "the unstrained crystal".to_owned(), structure: structure.clone() }];
    if !settle(&start, internal, &[], field, ledger, &mut |done, _| tick(done, total + 1))? {
        return Ok(None);
    }
    let result = |ledger: &Ledger, index: usize| -> Result<Settled, SimulateError> {
        ledger.get(index).cloned().ok_or_else(|| SimulateError::input("a strained structure is missing", "start anew, without --resume"))
    };
    let reference = result(ledger, 0)?;
    let mut relaxed = structure.clone();
    relaxed.positions.clone_from(&reference.positions);
    // Relaxed atoms have at least the symmetry they had: forces do not break it.
    let group = planned;
    let directions = group.strains();
    let steps: Vec<f64> = settings.amplitudes.iter().flat_map(|&a| [-a, a]).collect();
    let jobs: Vec<Job> = directions
        .iter()
        .flat_map(|&v| steps.iter().map(move |&step| (v, step)))
        .enumerate()
        .map(|(k, (v, step))| {
            let mut unit = [0.0; 6];
            unit[v] = step;
            Job { index: k + 1, name: format!("strain {} of {total}", k + 1), structure: strained(&relaxed, strain_matrix(unit)) }
        })
        .collect();
    if !settle(&jobs, internal, &[], field, ledger, &mut |done, _| tick(done + 1, total + 1))? {
        return Ok(None);
    }

    let mut unrelaxed = if reference.converged { Vec::new() } else { vec!["the unstrained crystal".to_owned()] };
    let initial_stress = reference.stress.ok_or_else(no_stress)?;
    let volume = structure.cell.volume();
    let mut slopes: Vec<([f64; 6], [f64; 6])> = Vec::new();
    let (mut of_lines, mut of_fits, mut count) = (0.0, 0.0, 0);
    for (d, &v) in directions.iter().enumerate() {
        let mut points: Vec<(f64, [f64; 6])> = vec![(0.0, voigt(initial_stress))];
        for (k, &step) in steps.iter().enumerate() {
            let job = &jobs[d * steps.len() + k];
            let settled = result(ledger, job.index)?;
            if !settled.converged {
                unrelaxed.push(job.name.clone());
            }
            let mut unit = [0.0; 6];
            unit[v] = step;
            points.push((step, pulled_back(&settled.stress.ok_or_else(no_stress)?, strain_matrix(unit))));
        }
        let mut slope = [0.0; 6];
        for w in 0..6 {
            let values: Vec<(f64, f64)> = points.iter().map(|(x, s)| (*x, s[w])).collect();
            let squares = |c: &[f64]| values.iter().map(|&(x, y)| (y - fit::value(c, x)).powi(2)).sum::<f64>();
            let bad = || SimulateError::input("stresses are not finite", "check the model on this structure");
            let line = fit::polynomial(&values, 1).ok_or_else(bad)?;
            let curve = fit::polynomial(&values, (points.len() - 1).min(3)).ok_or_else(bad)?;
            of_lines += squares(&line);
            of_fits += squares(&curve);
            count += values.len();
            slope[w] = curve[1];
        }
        let mut unit = [0.0; 6];
        unit[v] = 1.0;
        slopes.push((unit, slope));
    }
    let (raw, symmetry_residual) = from_responses(&slopes, &group);
    let stiffness = symmetrised(&raw);
    let response = stress_strain_coefficients(&stiffness, &initial_stress);
    let standard = rotated(&stiffness, &group.to_standard);
    let indices = group.system.constants(group.independent_constants());
    let moduli = Moduli::of(&symmetrised(&response));
    let mass: f64 = structure.numbers.iter().filter_map(|&z| elements::mass(z)).sum();
    Ok(Some(Elasticity {
        stiffness,
        response,
        initial_stress,
        constants: indices.into_iter().map(|(v, w)| (format!("C{v}{w}"), standard[v - 1][w - 1])).collect(),
        moduli,
        sound: moduli.and_then(|m| Sound::of(&m.hill, volume, structure.len(), mass)),
        modes: modes(&symmetrised(&response)),
        line_residual: (of_lines / f64::from(count.max(1) as u32)).sqrt(),
        fit_residual: (of_fits / f64::from(count.max(1) as u32)).sqrt(),
        asymmetry: asymmetry(&raw),
        symmetry_residual,
        strained: jobs.len(),
        unrelaxed,
        spread: reference.spread,
        structure: relaxed,
        group,
    }))
}

fn no_stress() -> SimulateError {
    SimulateError::input("the potential gives no stress", "elastic constants need one that does")
}

/// The second Piola–Kirchhoff stress J F⁻¹ σ F⁻ᵀ of a Cauchy stress σ at F = 1 + ε, Voigt order.
fn pulled_back(stress: &[[f64; 3]; 3], strain: [[f64; 3]; 3]) -> [f64; 6] {
    let f = Matrix3::from_fn(|i, j| strain[i][j]) + Matrix3::identity();
    // Strains of at most 0.2 leave F far from singular.
    let inverse = f.try_inverse().unwrap_or_else(Matrix3::identity);
    let s = inverse * Matrix3::from_fn(|i, j| 0.5 * (stress[i][j] + stress[j][i])) * inverse.transpose() * f.determinant();
    voigt(std::array::from_fn(|i| std::array::from_fn(|j| s[(i, j)])))
}

/// The tensor of least squares for responses (stresses) to unit strains and their images under the group, and the root mean square deviation from it.
fn from_responses(slopes: &[([f64; 6], [f64; 6])], group: &PointGroup) -> (Voigt6, f64) {
    let in_kelvin: Vec<_> = slopes
        .iter()
        .map(|(strain, stress)| {
            let e = strain_matrix(*strain);
            let [xx, yy, zz, yz, zx, xy] = *stress;
            (kelvin(&Matrix3::from_fn(|i, j| e[i][j])), kelvin(&Matrix3::new(xx, xy, zx, xy, yy, yz, zx, yz, zz)))
        })
        .collect();
    let images: Vec<_> = group.kelvin().iter().flat_map(|q| in_kelvin.iter().map(move |(e, s)| (q * e, q * s))).collect();
    let (mut ee, mut se) = (Matrix6::zeros(), Matrix6::zeros());
    for (e, s) in &images {
        ee += e * e.transpose();
        se += s * e.transpose();
    }
    // The strains were chosen so that their images span all strains.
    let c = se * ee.try_inverse().unwrap_or_else(Matrix6::zeros);
    let squares: f64 = images.iter().map(|(e, s)| ((s - c * e) / e.norm()).norm_squared()).sum();
    (from_kelvin(&c), (squares / (6 * images.len()) as f64).sqrt())
}
