//! Quantities that cannot be in Å and eV.

use std::collections::BTreeMap;

use tesseral_atoms::units::{BOHR, BOLTZMANN, HARTREE, KCAL_PER_MOL, KJ_PER_MOL};

use super::digest::Digest;
use super::findings::{Finding, Findings, Severity};
use super::labels::interaction_energies;
use super::numbers::{median, median_and_spread};

/// The nearest neighbour is at about the sum of covalent radii in anything that is bound; beyond these parts of it the unit is another one.
const RELATIVE_DISTANCES: [f64; 2] = [0.45, 1.6];
/// Total energies beyond this multiple of those of all electrons are in another unit: pseudopotentials make them smaller, relativity a tenth larger.
const MOST_ELECTRONIC: f64 = 1.3;
/// Median over frames of the root mean square of |F|, eV/Å. Molecules at room temperature have about 2.
const LARGE_FORCES: f64 = 12.0;
/// Robust standard deviation of the energy per atom without atomic energies, eV. Random structures of all elements have about 1.
const LARGE_SPREAD: f64 = 4.0;
/// Temperature of a sample, K.
const HOT: f64 = 5000.0;
/// Median over frames of the largest |σ|, eV/Å³ (about 100 GPa).
const LARGE_STRESS: f64 = 0.6;

/// What comparing frames with one another has shown.
#[derive(Debug, Default)]
pub(super) struct Evidence {
    /// Samples of solids.
    pub(super) solids: Vec<Thermal>,
    /// Energies have confirmed sign and unit of stresses.
    pub(super) stress_agrees: bool,
}

/// A sample of one system, seen as if it were one of the canonical ensemble.
#[derive(Debug, Clone)]
pub(super) struct Thermal {
    pub(super) formula: String,
    pub(super) frames: usize,
    pub(super) atoms: usize,
    /// From the virial theorem, ⟨−F · u⟩ = 3 (N − 1) kT, K.
    pub(super) temperature: f64,
    /// Its standard error, K.
    pub(super) uncertainty: f64,
    /// Robust standard deviation of the total energy, eV.
    pub(super) energy_deviation: Option<f64>,
}

pub(super) fn check(train: &[&Digest], e0s: Option<&BTreeMap<u8, f64>>, evidence: Evidence, findings: &mut Findings) {
    let Evidence { solids, stress_agrees } = evidence;
    distances(train, findings);
    magnitudes(train, findings);
    // Large stresses that agree with energies are large.
    if !stress_agrees {
        stresses(train, findings);
    }
    let mut thermal = molecules(train);
    thermal.extend(solids);
    // Each of these may have a harmless reason; two of them have one in common.
    let suspicions: Vec<Finding> = [forces(train), spread(train, e0s), temperature(&thermal)].into_iter().flatten().collect();
    let severity = if suspicions.len() > 1 { Severity::Error } else { Severity::Warning };
    for finding in suspicions {
        findings.push(Finding { severity, ..finding });
    }
    fluctuation(&thermal, findings);
}

fn distances(train: &[&Digest], findings: &mut Findings) {
    const NOBLE: [u8; 6] = [2, 10, 18, 36, 54, 86];
    let bound = |digest: &&&Digest| {
        let noble: u32 = digest.composition.iter().filter(|(number, _)| NOBLE.contains(number)).map(|(_, count)| count).sum();
        digest.atoms >= 5 && 2 * (noble as usize) < digest.atoms
    };
    let Some(ratio) = median(train.iter().filter(bound).filter_map(|digest| digest.relative_nearest)) else { return };
    if (RELATIVE_DISTANCES[0]..=RELATIVE_DISTANCES[1]).contains(&ratio) {
        return;
    }
    let guess = [(1.0 / BOHR, "bohr"), (0.1, "nm"), (100.0, "pm")].into_iter().find(|(factor, _)| (0.75..1.35).contains(&(ratio / factor)));
    let guess = guess
        .map_or("positions and cell are not in Å".to_owned(), |(_, unit)| format!("positions and cell seem to be in {unit}, not in Å"));
    let message = format!("the nearest neighbour of an atom is typically at {ratio:.2} times the sum of covalent radii: {guess}");
    findings.push(
        Finding::new(Severity::Error, "distance-unit", message)
            .hint("convert positions and cell to Å; distances of bonds tell which unit they are in"),
    );
}

/// Energy of all electrons of a neutral atom, eV: the statistical model with the corrections of Scott and of Schwinger,
/// E = −0.768745 Z^(7/3) + Z²/2 − 0.269900 Z^(5/3) hartree (J. Schwinger, Phys. Rev. A 24, 2353 (1981)); good to a few per cent for every Z.
fn all_electron_energy(number: u8) -> f64 {
    let z = f64::from(number);
    HARTREE * (-0.768745 * z.powf(7.0 / 3.0) + 0.5 * z * z - 0.269900 * z.powf(5.0 / 3.0))
}

fn magnitudes(train: &[&Digest], findings: &mut Findings) {
    let ratio = |digest: &Digest| {
        let electronic: f64 = digest.composition.iter().map(|(number, count)| f64::from(*count) * all_electron_energy(*number)).sum();
        Some((digest.energy? / electronic).abs())
    };
    let ratios: Vec<f64> =
        train.iter().filter(|digest| digest.composition.iter().all(|(number, _)| *number > 0)).filter_map(|digest| ratio(digest)).collect();
    let Some(typical) = median(ratios.iter().copied()) else { return };
    if typical <= MOST_ELECTRONIC {
        return;
    }
    // Only energies of all electrons say which unit it is.
    let units = [(1.0 / KCAL_PER_MOL, "kcal/mol"), (1.0 / KJ_PER_MOL, "kJ/mol"), (1000.0, "meV")];
    let guess = units.into_iter().find(|(factor, _)| (0.85..1.15).contains(&(typical / factor)));
    let guess = guess.map_or("kcal/mol, kJ/mol or meV".to_owned(), |(_, unit)| unit.to_owned());
    let message = format!(
        "total energies are typically {typical:.3} times those of all electrons, which no calculation in eV can give: they seem to be in {guess}"
    );
    findings.push(Finding::new(Severity::Error, "energy-magnitude", message).hint("convert energies to eV, and forces to eV/Å"));
}

fn forces(train: &[&Digest]) -> Option<Finding> {
    let typical = median(train.iter().filter(|digest| digest.atoms > 1).filter_map(|digest| Some(digest.forces.as_ref()?.rms)))?;
    (typical > LARGE_FORCES).then(|| {
        let kcal = typical * KCAL_PER_MOL;
        let message = format!("forces are very large: half of all frames have a root mean square above {typical:.1} eV/Å (it would be {kcal:.2} eV/Å if they are in kcal/mol/Å)");
        Finding::new(Severity::Warning, "force-magnitude", message).hint("check the unit of forces: eV/Å is expected")
    })
}

fn spread(train: &[&Digest], e0s: Option<&BTreeMap<u8, f64>>) -> Option<Finding> {
    let values: Vec<f64> = interaction_energies(train, e0s).into_iter().map(|(_, energy)| energy).collect();
    let (_, spread) = median_and_spread(&values)?;
    (spread > LARGE_SPREAD).then(|| {
        let message = format!("energies per atom scatter by {spread:.1} eV after atomic energies are taken off");
        Finding::new(Severity::Warning, "energy-spread", message)
            .hint("check the unit of energies (eV is expected), that they are total energies, and that all are of one level of theory")
    })
}

/// Molecules by composition, sampled at least twenty times. For a molecule in vacuum the virial Σ F · (x − centroid) has the mean −3 (N − 1) kT.
fn molecules(train: &[&Digest]) -> Vec<Thermal> {
    let mut groups = BTreeMap::<(&[(u8, u32)], u64), Vec<&Digest>>::new();
    for digest in train.iter().filter(|digest| digest.atoms > 1 && digest.forces.as_ref().is_some_and(|forces| forces.virial.is_some())) {
        groups.entry((&digest.composition, digest.kind)).or_default().push(digest);
    }
    let group = |members: Vec<&Digest>| {
        let virials: Vec<f64> = members.iter().filter_map(|digest| Some(-digest.forces.as_ref()?.virial?)).collect();
        let energies: Vec<f64> = members.iter().filter_map(|digest| digest.energy).collect();
        Thermal::new(members[0], &virials, &energies)
    };
    groups.into_values().filter_map(group).collect()
}

impl Thermal {
    /// Of −F · u (eV) and energies (eV) of a sample; `None` below twenty frames.
    pub(super) fn new(example: &Digest, virials: &[f64], energies: &[f64]) -> Option<Self> {
        if virials.len() < 20 || example.atoms < 2 {
            return None;
        }
        // Medians, so that a few bad frames do not decide.
        let (virial, deviation) = median_and_spread(virials)?;
        let scale = 3.0 * (example.atoms - 1) as f64 * BOLTZMANN;
        Some(Self {
            formula: formula(&example.composition),
            frames: virials.len(),
            atoms: example.atoms,
            temperature: virial / scale,
            uncertainty: deviation / (virials.len() as f64).sqrt() / scale,
            energy_deviation: median_and_spread(energies).filter(|_| energies.len() >= 20).map(|(_, deviation)| deviation),
        })
    }

    /// Whether the temperature is known to be above 0.
    fn is_significant(&self) -> bool {
        self.temperature > 3.0 * self.uncertainty
    }
}

fn formula(composition: &[(u8, u32)]) -> String {
    let numbers = composition.iter().flat_map(|(number, count)| std::iter::repeat_n(*number, *count as usize)).collect();
    tesseral_atoms::Structure { numbers, ..Default::default() }.formula()
}

fn temperature(thermal: &[Thermal]) -> Option<Finding> {
    let hot: Vec<&Thermal> = thermal.iter().filter(|sample| sample.is_significant() && sample.temperature > HOT).collect();
    // One hot system among many is no matter of units.
    let significant = thermal.iter().filter(|sample| sample.is_significant()).count();
    if hot.is_empty() || 2 * hot.len() < significant {
        return None;
    }
    let hottest = hot.iter().max_by_key(|sample| sample.frames)?;
    let message = format!(
        "forces and displacements of the {} frames of {} are those of a temperature of {:.0} K (it would be {:.0} K if forces are in kcal/mol/Å)",
        hottest.frames,
        hottest.formula,
        hottest.temperature,
        hottest.temperature * KCAL_PER_MOL
    );
    Some(Finding::new(Severity::Warning, "temperature", message).hint("check the units of forces (eV/Å is expected) and of positions"))
}

/// Energies of a canonical sample of N harmonic atoms deviate by √(3N/2) kT. Samples of several temperatures deviate more, but hardly by more than
/// all of their thermal energy, 3N/2 kT.
fn fluctuation(thermal: &[Thermal], findings: &mut Findings) {
    let mut odd: Vec<(f64, &Thermal)> = Vec::new();
    let mut judged = 0;
    for sample in thermal.iter().filter(|sample| sample.frames >= 30 && sample.is_significant()) {
        let Some(deviation) = sample.energy_deviation else { continue };
        judged += 1;
        let thermal = BOLTZMANN * sample.temperature;
        let degrees = 1.5 * sample.atoms as f64;
        if deviation > 1.5 * degrees * thermal || deviation < degrees.sqrt() * thermal / 8.0 {
            odd.push((deviation / (degrees.sqrt() * thermal), sample));
        }
    }
    let Some((ratio, sample)) = odd.iter().max_by_key(|(_, sample)| sample.frames).filter(|_| 2 * odd.len() >= judged) else { return };
    let message = format!(
        "energies of the {} frames of {} deviate by {:.3} eV, {ratio:.3} times what their forces and displacements let expect: energies and forces may be in different units",
        sample.frames,
        sample.formula,
        sample.energy_deviation.unwrap_or_default()
    );
    findings.push(Finding::new(Severity::Warning, "energy-fluctuation", message).hint("energies in eV and forces in eV/Å are expected"));
}

fn stresses(train: &[&Digest], findings: &mut Findings) {
    let largest = |stress: [f64; 6]| stress.iter().fold(0.0f64, |largest, x| largest.max(x.abs()));
    let Some(typical) = median(train.iter().filter_map(|digest| digest.stress).map(largest)) else { return };
    if typical > LARGE_STRESS {
        let gpa = typical / tesseral_atoms::units::GPA;
        let message = format!("stresses are very large: half of all frames have a component above {typical:.2} eV/Å³ ({gpa:.0} GPa)");
        findings.push(
            Finding::new(Severity::Warning, "stress-magnitude", message)
                .hint("check the unit of stresses: eV/Å³ is expected; 1 GPa is 0.006242 eV/Å³"),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistical_atoms_are_close_to_exact_ones() {
        // Nonrelativistic exact or Hartree–Fock total energies, hartree.
        for (number, exact) in [(1, -0.5), (6, -37.845), (8, -75.067), (18, -527.54), (29, -1638.96), (54, -7232.14)] {
            let found = all_electron_energy(number) / HARTREE;
            assert!((found / exact - 1.0).abs() < if number == 1 { 0.1 } else { 0.02 }, "{number}: {found} {exact}");
        }
    }
}
