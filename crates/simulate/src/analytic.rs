//! Textbook potentials, whose properties are known: oracles for everything that moves atoms.

use tesseral_atoms::neighbors::{NeighborList, neighbor_list};
use tesseral_atoms::{Cell, Evaluation, ForceError, ForceField, Structure};

/// The Lennard-Jones potential, u(r) = 4 ε ((σ/r)¹² − (σ/r)⁶), for atoms of any element.
#[derive(Debug, Clone)]
pub struct LennardJones {
    /// Depth of the well, eV.
    pub epsilon: f64,
    /// Distance where the energy is zero, Å.
    pub sigma: f64,
    /// Pairs beyond this distance are left out, Å.
    pub cutoff: f64,
    /// What becomes of the step at the cutoff.
    pub ending: Ending,
    listed: Option<Listed>,
}

/// How a pair potential ends at its cutoff.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// u(r) − u(r_c): energies are continuous, forces are not (the "truncated and shifted" potential of the literature).
    Shifted,
    /// u(r) − u(r_c) − (r − r_c) u′(r_c): energies and forces are continuous.
    ShiftedForce,
}

/// Neighbours at some positions, listed a skin beyond the cutoff.
#[derive(Debug, Clone)]
struct Listed {
    cell: Cell,
    pbc: [bool; 3],
    positions: Vec<[f64; 3]>,
    list: NeighborList,
}

impl LennardJones {
    /// A potential that has heard of no structure yet.
    pub fn new(epsilon: f64, sigma: f64, cutoff: f64, ending: Ending) -> Self {
        Self { epsilon, sigma, cutoff, ending, listed: None }
    }

    /// Energy (eV) and slope (eV/Å) of a pair at a distance (Å) within the cutoff.
    pub fn pair(&self, r: f64) -> (f64, f64) {
        self.ended(r, self.bare(self.cutoff))
    }

    /// Energy and slope at a distance, whatever the cutoff.
    fn bare(&self, r: f64) -> (f64, f64) {
        let s6 = (self.sigma / r).powi(6);
        (4.0 * self.epsilon * (s6 * s6 - s6), -24.0 * self.epsilon * (2.0 * s6 * s6 - s6) / r)
    }

    /// The same, with those at the cutoff taken off.
    fn ended(&self, r: f64, (end, end_slope): (f64, f64)) -> (f64, f64) {
        let (u, slope) = self.bare(r);
        match self.ending {
            Ending::Shifted => (u - end, slope),
            Ending::ShiftedForce => (u - end - (r - self.cutoff) * end_slope, slope - end_slope),
        }
    }

    /// How far beyond the cutoff neighbours are listed, Å.
    fn skin(&self) -> f64 {
        0.15 * self.cutoff
    }

    fn list(&mut self, structure: &Structure) -> Result<(), ForceError> {
        let limit = (self.skin() / 2.0).powi(2);
        let fits = self.listed.as_ref().is_some_and(|l| {
            l.cell == structure.cell
                && l.pbc == structure.pbc
                && l.positions.len() == structure.len()
                && l.positions.iter().zip(&structure.positions).all(|(a, b)| (0..3).map(|k| (a[k] - b[k]).powi(2)).sum::<f64>() < limit)
        });
        if !fits {
            let list = neighbor_list(&structure.cell.vectors, structure.pbc, &structure.positions, self.cutoff + self.skin())
                .map_err(ForceError::new)?;
            self.listed = Some(Listed { cell: structure.cell, pbc: structure.pbc, positions: structure.positions.clone(), list });
        }
        Ok(())
    }
}

impl ForceField for LennardJones {
    fn evaluate_into(&mut self, structure: &Structure, to: &mut Evaluation) -> Result<(), ForceError> {
        self.list(structure)?;
        let n = structure.len();
        to.forces.clear();
        to.forces.resize(n, [0.0; 3]);
        to.atomic_energies.clear();
        to.atomic_energies.resize(n, 0.0);
        let mut stress = [[0.0; 3]; 3];
        let end = self.bare(self.cutoff);
        if let Some(listed) = &self.listed {
            for i in 0..n {
                for edge in listed.list.edges_of(i) {
                    let (j, shift) = (listed.list.neighbors[edge] as usize, listed.list.shifts[edge]);
                    let image = structure.cell.cartesian(shift.map(f64::from));
                    let v = [0, 1, 2].map(|k| structure.positions[j][k] - structure.positions[i][k] + image[k]);
                    let r = v.iter().map(|x| x * x).sum::<f64>().sqrt();
                    if r >= self.cutoff {
                        continue;
                    }
                    let (u, slope) = self.ended(r, end);
                    to.atomic_energies[i] += u / 2.0;
                    for k in 0..3 {
                        to.forces[i][k] += slope * v[k] / r;
                        for l in 0..3 {
                            stress[k][l] += 0.5 * slope * v[k] * v[l] / r;
                        }
                    }
                }
            }
        }
        to.energy = to.atomic_energies.iter().sum();
        let volume = structure.cell.volume();
        to.stress = (structure.pbc == [true; 3]).then(|| stress.map(|row| row.map(|x| x / volume)));
        Ok(())
    }
}

/// Atoms on springs to fixed points (an Einstein crystal): E = ½ k Σ |r − r₀|². It has no stress.
#[derive(Debug, Clone)]
pub struct EinsteinCrystal {
    /// Spring constant, eV/Å².
    pub stiffness: f64,
    /// Where the springs are fastened, Å.
    pub anchors: Vec<[f64; 3]>,
}

impl ForceField for EinsteinCrystal {
    fn evaluate_into(&mut self, structure: &Structure, to: &mut Evaluation) -> Result<(), ForceError> {
        let displaced = || structure.positions.iter().zip(&self.anchors).map(|(r, a)| [r[0] - a[0], r[1] - a[1], r[2] - a[2]]);
        to.forces.clear();
        to.forces.extend(displaced().map(|d| d.map(|x| -self.stiffness * x)));
        to.atomic_energies.clear();
        to.atomic_energies.extend(displaced().map(|d| 0.5 * self.stiffness * d.iter().map(|x| x * x).sum::<f64>()));
        to.energy = to.atomic_energies.iter().sum();
        to.stress = None;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A distorted face-centred cubic crystal of four atoms, cell included.
    fn argon() -> Structure {
        let a = 5.3;
        let cell = Cell::new([[a, 0.1, 0.0], [0.0, a, -0.2], [0.05, 0.0, a * 1.02]]);
        let positions = vec![[0.05, 0.0, 0.0], [0.0, a / 2.0, a / 2.0 + 0.1], [a / 2.0, 0.0, a / 2.0], [a / 2.0, a / 2.0 - 0.07, 0.0]];
        Structure::crystal(cell, vec![18; 4], positions)
    }

    #[test]
    fn forces_and_stress_are_derivatives() {
        for ending in [Ending::Shifted, Ending::ShiftedForce] {
            let mut lj = LennardJones::new(0.0104, 3.4, 8.5, ending);
            let structure = argon();
            let at = lj.evaluate(&structure).unwrap();
            let energy = |structure: &Structure| LennardJones::new(0.0104, 3.4, 8.5, ending).evaluate(structure).unwrap().energy;
            for atom in 0..4 {
                for k in 0..3 {
                    let slope = tesseral_testkit::slope(1e-4, |h| {
                        let mut moved = structure.clone();
                        moved.positions[atom][k] += h;
                        energy(&moved)
                    });
                    assert!((at.forces[atom][k] + slope).abs() < 1e-9, "{} {slope}", at.forces[atom][k]);
                }
            }
            let stress = at.stress.unwrap();
            for (k, l) in [(0, 0), (1, 1), (2, 2), (0, 1), (1, 2), (0, 2)] {
                let slope = tesseral_testkit::slope(1e-5, |h| {
                    let mut strained = structure.clone();
                    let strain = |v: &mut [f64; 3]| {
                        let (vk, vl) = (v[k], v[l]);
                        v[k] += h / 2.0 * vl;
                        v[l] += h / 2.0 * vk;
                    };
                    strained.positions.iter_mut().for_each(strain);
                    strained.cell.vectors.iter_mut().for_each(strain);
                    energy(&strained)
                });
                assert!((stress[k][l] * structure.cell.volume() - slope).abs() < 1e-7, "{k}{l}: {} {slope}", stress[k][l]);
            }
        }
    }
}
