use tesseral_atoms::units::BAR;
use tesseral_atoms::{Cell, Evaluation, ForceError};

use super::thermochemistry::{Gas, ideal_gas};
use super::*;

/// Springs between pairs of atoms, k in eV/Å², and one on the bend of three atoms on a line, E = ½ k_b (r₀ (π − θ))², r₀ the bond of the first.
#[derive(Clone, Default)]
struct Springs {
    bonds: Vec<(usize, usize, f64, f64)>,
    bend: Option<f64>,
}

impl Springs {
    fn energy(&self, r: &[[f64; 3]]) -> f64 {
        let vector = |i: usize, j: usize| [0, 1, 2].map(|k| r[j][k] - r[i][k]);
        let norm = |v: [f64; 3]| v.iter().map(|x| x * x).sum::<f64>().sqrt();
        let mut energy: f64 = self.bonds.iter().map(|&(i, j, k, length)| 0.5 * k * (norm(vector(i, j)) - length).powi(2)).sum();
        if let Some(k) = self.bend {
            // Atom 1 in the middle; |a × b| ≈ r² sin θ.
            let (a, b) = (vector(1, 0), vector(1, 2));
            let cross = [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
            let angle = norm(cross).atan2(-(0..3).map(|x| a[x] * b[x]).sum::<f64>());
            energy += 0.5 * k * angle * angle;
        }
        energy
    }
}

impl ForceField for Springs {
    fn evaluate_into(&mut self, structure: &Structure, to: &mut Evaluation) -> Result<(), ForceError> {
        let n = structure.len();
        let forces = (0..n).map(|i| {
            [0, 1, 2].map(|k| {
                -tesseral_testkit::slope(1e-3, |h| {
                    let mut r = structure.positions.clone();
                    r[i][k] += h;
                    self.energy(&r)
                })
            })
        });
        *to =
            Evaluation { energy: self.energy(&structure.positions), forces: forces.collect(), stress: None, atomic_energies: vec![0.0; n] };
        Ok(())
    }
}

fn compute(structure: &Structure, field: &mut dyn ForceField, settings: &Settings) -> Modes {
    normal_modes(structure, settings, field, &mut Ledger::in_memory(), &mut |_, _| false).unwrap().unwrap()
}

/// N/m as eV/Å².
const N_PER_M: f64 = 1e-20 / ELEMENTARY_CHARGE;

fn small() -> Settings {
    Settings { displacement: 1e-3, ..Settings::default() }
}

/// H³⁵Cl: k = 516 N/m gives 2990 cm⁻¹ (P. W. Atkins, Physical Chemistry).
#[test]
fn a_diatomic_molecule_vibrates_at_the_root_of_k_over_mu() {
    let (m1, m2, k) = (1.007_825, 34.968_853, 516.3);
    let axis = [0.36, 0.48, 0.8];
    let mut molecule =
        Structure::molecule(vec![1, 17], vec![[1.0, 2.0, 3.0], [0, 1, 2].map(|x| 1.0 + f64::from(x as u32) + 1.2746 * axis[x])]);
    molecule.arrays.insert("masses".into(), tesseral_atoms::Array::scalars(vec![m1, m2]));
    let mut springs = Springs { bonds: vec![(0, 1, k * N_PER_M, 1.2746)], bend: None };
    let modes = compute(&molecule, &mut springs, &small());
    let mu = m1 * m2 / (m1 + m2);
    let by_hand = (k / (mu * ATOMIC_MASS_KG)).sqrt() / std::f64::consts::TAU / LIGHT;
    assert_eq!(modes.modes.len(), 1);
    assert!(
        modes.linear && (modes.modes[0].wavenumber() - by_hand).abs() < 1e-3 && (by_hand - 2990.0).abs() < 2.0,
        "{} {by_hand}",
        modes.modes[0].wavenumber()
    );
    // Both atoms move, in opposite directions and in the ratio of masses: 1/Σd² of the mass-weighted mode.
    let d = m1 / m2;
    let (a, b) = (1.0 / (1.0 + d * d).sqrt(), d / (1.0 + d * d).sqrt());
    assert!((modes.modes[0].reduced_mass - (m1 * a * a + m2 * b * b)).abs() < 1e-6);
    assert!((modes.zero_point_energy() - 0.5 * by_hand * LIGHT * PLANCK).abs() < 1e-6);
    assert!((modes.moments[2] - mu * 1.2746f64.powi(2)).abs() < 1e-9 && modes.moments[0] < 1e-9);
    // Translations and rotations before they are projected: nearly nothing.
    assert!(modes.projected.len() == 5 && modes.projected.iter().all(|f| f.abs() < 0.2), "{:?}", modes.projected);
    // Entropy of HCl at 298.15 K and 1 bar: 186.90 J/(mol K) (NIST-JANAF), heat capacity at constant volume 29.14 − 8.314.
    let gas = Gas { temperature: 298.15, pressure: BAR, symmetry_number: 1, multiplicity: 1 };
    let thermo = ideal_gas(&modes, &gas).unwrap();
    let molar = ELEMENTARY_CHARGE * tesseral_atoms::units::AVOGADRO;
    assert!((thermo.entropy * molar - 186.9).abs() < 0.4, "{}", thermo.entropy * molar);
    assert!((thermo.heat_capacity * molar - 20.8).abs() < 0.1, "{}", thermo.heat_capacity * molar);
    assert!((thermo.gibbs_energy - (thermo.enthalpy - 298.15 * thermo.entropy)).abs() < 1e-12);
}

/// A symmetric linear molecule A–B–A (G. Herzberg, Infrared and Raman Spectra, 1945): ω₁² = k/m_A, ω₃² = k (1/m_A + 2/m_B), ω₂² = 2 (k_θ/r²) (1/m_A + 2/m_B), twice.
#[test]
fn a_linear_triatomic_molecule_has_the_modes_of_the_textbook() {
    let (k, kb, r) = (1600.0 * N_PER_M, 0.9 * 6.2415, 1.162);
    let molecule = Structure::molecule(vec![8, 6, 8], vec![[0.1, 0.2, 0.3 - r], [0.1, 0.2, 0.3], [0.1, 0.2, 0.3 + r]]);
    let mut springs = Springs { bonds: vec![(0, 1, k, r), (1, 2, k, r)], bend: Some(kb) };
    let modes = compute(&molecule, &mut springs, &small());
    let (ma, mb) = (elements::mass(8).unwrap(), elements::mass(6).unwrap());
    let both = 1.0 / ma + 2.0 / mb;
    let expected = [2.0 * kb / (r * r) * both, 2.0 * kb / (r * r) * both, k / ma, k * both].map(frequency);
    assert_eq!(modes.modes.len(), 4);
    for (mode, expected) in modes.modes.iter().zip(expected) {
        assert!((mode.frequency / expected - 1.0).abs() < 1e-4, "{} {expected}", mode.frequency);
    }
    // The symmetric stretch leaves the middle where it is.
    assert!(modes.modes[2].displacements[1].iter().all(|x| x.abs() < 1e-4));
    assert!((modes.modes[2].reduced_mass - ma).abs() < 1e-3);
    assert_eq!(modes.imaginary(), 0);
    let text = files::molden(&modes);
    assert!(text.contains("[FR-NORM-COORD]\nvibration 1\n") && text.lines().count() == 1 + 1 + 4 + 1 + 3 + 1 + 4 * 4, "{text}");
    let frames = files::animation(&modes, 3, 0.3, 20);
    let largest =
        crate::relax::optimiser::longest(&[0, 1, 2].map(|i| [0, 1, 2].map(|k| frames[5].positions[i][k] - molecule.positions[i][k])));
    assert!(frames.len() == 20 && (largest - 0.3).abs() < 1e-9);
}

fn bent() -> (Structure, Springs) {
    let molecule = Structure::molecule(vec![8, 1, 1], vec![[0.0, 0.0, 0.119], [0.0, 0.763, -0.477], [0.0, -0.763, -0.477]]);
    let length = |i: usize, j: usize| (0..3).map(|k| (molecule.positions[i][k] - molecule.positions[j][k]).powi(2)).sum::<f64>().sqrt();
    let springs = Springs { bonds: vec![(0, 1, 52.0, length(0, 1)), (0, 2, 52.0, length(0, 2)), (1, 2, 8.0, length(1, 2))], bend: None };
    (molecule, springs)
}

#[test]
fn turned_molecules_have_the_same_modes() {
    let (molecule, mut springs) = bent();
    let modes = compute(&molecule, &mut springs, &small());
    let (s, c) = 0.6f64.sin_cos();
    let mut turned = molecule.clone();
    turned.positions = turned
        .positions
        .iter()
        .map(|r| [c * r[0] - s * r[2] + 5.0, r[1], s * r[0] + c * r[2] - 3.0])
        .map(|r| [r[0], c * r[1] - s * r[2], s * r[1] + c * r[2]])
        .collect();
    let again = compute(&turned, &mut springs, &small());
    assert_eq!((modes.modes.len(), modes.linear), (3, false));
    for (a, b) in modes.modes.iter().zip(&again.modes) {
        assert!((a.frequency - b.frequency).abs() < 1e-5 * b.frequency && (a.reduced_mass - b.reduced_mass).abs() < 1e-4, "{a:?} {b:?}");
    }
    assert!(modes.projected.len() == 6 && modes.projected.iter().all(|f| f.abs() < 0.3), "{:?}", modes.projected);
    // Against the general theory for this molecule: trace of G F, with the three bonds as coordinates (E. B. Wilson, J. C. Decius and P. C. Cross, Molecular Vibrations).
    let sum: f64 = modes.modes.iter().map(|m| m.frequency.powi(2)).sum();
    let (mo, mh) = (elements::mass(8).unwrap(), elements::mass(1).unwrap());
    let trace = 2.0 * 52.0 * (1.0 / mo + 1.0 / mh) + 8.0 * 2.0 / mh;
    assert!((sum / frequency(trace).powi(2) - 1.0).abs() < 1e-5);
}

#[test]
fn saddle_points_have_imaginary_frequencies_and_fixed_atoms_stay() {
    let (molecule, mut springs) = bent();
    springs.bonds[2].2 = -4.0;
    assert_eq!(compute(&molecule, &mut springs, &small()).imaginary(), 1);
    // The oxygen held: six modes of two atoms, three of them (two bonds and their angle) as stiff as springs, the others without any.
    let (molecule, mut springs) = bent();
    let modes = compute(&molecule, &mut springs, &Settings { fixed: vec![0], ..small() });
    assert!(modes.modes.len() == 6 && modes.projected.is_empty() && modes.modes.iter().all(|m| m.displacements[0] == [0.0; 3]));
    assert_eq!(
        modes.modes.iter().filter(|m| m.frequency > 5.0).count(),
        3,
        "{:?}",
        modes.modes.iter().map(|m| m.frequency).collect::<Vec<_>>()
    );
    assert!(ideal_gas(&modes, &Gas { temperature: 300.0, pressure: BAR, symmetry_number: 1, multiplicity: 1 }).is_err());
    // In a box there are no rotations to be left out.
    let mut boxed = molecule.clone();
    boxed.cell = Cell::cubic(20.0);
    boxed.pbc = [true; 3];
    assert_eq!(compute(&boxed, &mut springs, &small()).modes.len(), 6);
    // One atom has no modes.
    let atom = Structure::molecule(vec![18], vec![[1.0; 3]]);
    let modes = compute(&atom, &mut Springs::default(), &small());
    assert!(modes.modes.is_empty());
    // Sackur and Tetrode: argon at 298.15 K and 1 bar has 154.845 J/(mol K) (NIST-JANAF).
    let gas = Gas { temperature: 298.15, pressure: BAR, symmetry_number: 1, multiplicity: 1 };
    let entropy = ideal_gas(&modes, &gas).unwrap().entropy * ELEMENTARY_CHARGE * tesseral_atoms::units::AVOGADRO;
    assert!((entropy - 154.845).abs() < 0.01, "{entropy}");
}

/// Water: JANAF has 188.83 J/(mol K) at 298.15 K, from its moments of inertia and frequencies.
#[test]
fn entropy_of_water() {
    let (molecule, mut springs) = bent();
    let mut modes = compute(&molecule, &mut springs, &small());
    for (mode, wavenumber) in modes.modes.iter_mut().zip([1594.7, 3657.1, 3755.9]) {
        mode.frequency = wavenumber * LIGHT * 1e-12;
    }
    let gas = Gas { temperature: 298.15, pressure: BAR, symmetry_number: 2, multiplicity: 1 };
    let entropy = ideal_gas(&modes, &gas).unwrap().entropy * ELEMENTARY_CHARGE * tesseral_atoms::units::AVOGADRO;
    assert!((entropy - 188.83).abs() < 0.3, "{entropy}");
}

#[test]
fn what_makes_no_sense_is_said() {
    let (molecule, _) = bent();
    let wrong = |settings: Settings| check(&molecule, &settings).unwrap_err().to_string();
    assert!(wrong(Settings { displacement: 0.0, ..small() }).contains("displacement"));
    assert!(wrong(Settings { fixed: vec![3], ..small() }).contains("no atom 3"));
    assert!(wrong(Settings { fixed: vec![0, 1, 2], ..small() }).contains("all atoms are fixed"));
    assert!(check(&Structure::default(), &small()).is_err());
    let mut ghost = molecule.clone();
    ghost.numbers[1] = 0;
    assert!(check(&ghost, &small()).unwrap_err().to_string().contains("atom 1 has no mass"));
}
