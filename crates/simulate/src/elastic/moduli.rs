//! What follows from a stiffness: averages for polycrystals, sound, stability.

use nalgebra::SymmetricEigen;
use serde::Serialize;
use tesseral_atoms::units::{ATOMIC_MASS_KG, BOLTZMANN, ELEMENTARY_CHARGE};

use super::tensor::{VOIGT, Voigt6, to_kelvin};
use crate::constants::PLANCK;

/// ħ in eV s.
const HBAR: f64 = PLANCK / std::f64::consts::TAU;

/// Moduli of a polycrystal by one average: eV/Å³.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Average {
    /// Bulk modulus K.
    pub bulk: f64,
    /// Shear modulus G.
    pub shear: f64,
}

impl Average {
    /// Young's modulus, 9 K G / (3 K + G).
    pub fn young(&self) -> f64 {
        9.0 * self.bulk * self.shear / (3.0 * self.bulk + self.shear)
    }

    /// Poisson's ratio, (3 K − 2 G) / (6 K + 2 G).
    pub fn poisson(&self) -> f64 {
        (3.0 * self.bulk - 2.0 * self.shear) / (6.0 * self.bulk + 2.0 * self.shear)
    }
}

/// Moduli of a polycrystal without texture (R. Hill, Proc. Phys. Soc. A 65, 349 (1952)).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moduli {
    /// Uniform strain: an upper bound.
    pub voigt: Average,
    /// Uniform stress: a lower bound.
    pub reuss: Average,
    /// The mean of the two.
    pub hill: Average,
    /// Universal anisotropy 5 G_V/G_R + K_V/K_R − 6, zero for isotropic crystals (S. I. Ranganathan and M. Ostoja-Starzewski, Phys. Rev. Lett. 101, 055504 (2008)).
    pub anisotropy: f64,
}

impl Moduli {
    /// Averages of a symmetric stiffness (eV/Å³); `None` if it has no inverse.
    pub fn of(c: &Voigt6) -> Option<Self> {
        let voigt = Average {
            bulk: (c[0][0] + c[1][1] + c[2][2] + 2.0 * (c[0][1] + c[1][2] + c[0][2])) / 9.0,
            shear: (c[0][0] + c[1][1] + c[2][2] - c[0][1] - c[1][2] - c[0][2] + 3.0 * (c[3][3] + c[4][4] + c[5][5])) / 15.0,
        };
        let s = nalgebra::Matrix6::from_fn(|v, w| c[v][w]).try_inverse()?;
        let s = |v: usize, w: usize| s[(v, w)];
        let reuss = Average {
            bulk: 1.0 / (s(0, 0) + s(1, 1) + s(2, 2) + 2.0 * (s(0, 1) + s(1, 2) + s(0, 2))),
            shear: 15.0 / (4.0 * (s(0, 0) + s(1, 1) + s(2, 2) - s(0, 1) - s(1, 2) - s(0, 2)) + 3.0 * (s(3, 3) + s(4, 4) + s(5, 5))),
        };
        let hill = Average { bulk: 0.5 * (voigt.bulk + reuss.bulk), shear: 0.5 * (voigt.shear + reuss.shear) };
        Some(Self { voigt, reuss, hill, anisotropy: 5.0 * voigt.shear / reuss.shear + voigt.bulk / reuss.bulk - 6.0 })
    }
}

/// Sound in a polycrystal, and the Debye temperature it gives (O. L. Anderson, J. Phys. Chem. Solids 24, 909 (1963)).
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Sound {
    /// Longitudinal, √((K + 4 G/3)/ρ), m/s.
    pub longitudinal: f64,
    /// Transverse, √(G/ρ), m/s.
    pub transverse: f64,
    /// Mean, (⅓ (2/v_t³ + 1/v_l³))^(−1/3), m/s.
    pub mean: f64,
    /// (ħ/k_B) (6 π² n)^(1/3) v_mean with n atoms a volume, K.
    pub debye_temperature: f64,
}

impl Sound {
    /// From moduli (eV/Å³), a volume (Å³), the atoms in it and their mass (u); `None` where waves do not travel: moduli that are not positive.
    pub fn of(moduli: &Average, volume: f64, atoms: usize, mass: f64) -> Option<Self> {
        if !(moduli.shear > 0.0 && moduli.bulk > 0.0 && mass > 0.0) {
            return None;
        }
        let density = mass * ATOMIC_MASS_KG / (volume * 1e-30);
        let speed = |modulus: f64| (modulus * ELEMENTARY_CHARGE * 1e30 / density).sqrt();
        let (longitudinal, transverse) = (speed(moduli.bulk + 4.0 / 3.0 * moduli.shear), speed(moduli.shear));
        let mean = ((2.0 / transverse.powi(3) + 1.0 / longitudinal.powi(3)) / 3.0).powf(-1.0 / 3.0);
        let wave = (6.0 * std::f64::consts::PI.powi(2) * atoms as f64 / (volume * 1e-30)).cbrt();
        Some(Self { longitudinal, transverse, mean, debye_temperature: HBAR / BOLTZMANN * wave * mean })
    }
}

/// An eigenvalue of a stiffness in Kelvin's notation, and its strain: a crystal is stable if all eigenvalues are positive (M. Born; for all crystal systems F. Mouhat and F.-X. Coudert,
/// Phys. Rev. B 90, 224104 (2014)).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Mode {
    /// Eigenvalue, eV/Å³.
    pub stiffness: f64,
    /// The strain, normalised, xx, yy, zz, yz, zx, xy without doubled shears.
    pub strain: [f64; 6],
}

impl Mode {
    /// The strain in words: "volume", "0.71 xx − 0.71 yy".
    pub fn name(&self) -> String {
        let trace = self.strain[..3].iter().sum::<f64>() / 3f64.sqrt();
        if trace.abs() > 0.99 {
            return "volume".to_owned();
        }
        let mut text = String::new();
        for (x, name) in self.strain.iter().zip(["xx", "yy", "zz", "yz", "zx", "xy"]) {
            if x.abs() >= 0.05 {
                let sign = match (text.is_empty(), *x < 0.0) {
                    (true, false) => "",
                    (true, true) => "−",
                    (false, false) => " + ",
                    (false, true) => " − ",
                };
                text += &format!("{sign}{:.2} {name}", x.abs());
            }
        }
        text
    }
}

/// All six modes of a stiffness (symmetric, Voigt), the softest first.
pub fn modes(c: &Voigt6) -> Vec<Mode> {
    let eigen = SymmetricEigen::new(to_kelvin(c));
    let mut modes: Vec<Mode> = (0..6)
        .map(|k| {
            let column = eigen.eigenvectors.column(k);
            // The largest component is positive, so that signs do not depend on the algorithm.
            let largest = column.iter().fold(0.0f64, |m, &x| if x.abs() > m.abs() + 1e-9 { x } else { m });
            let strain = std::array::from_fn(|v| {
                column[v] * largest.signum() / if VOIGT[v].0 == VOIGT[v].1 { 1.0 } else { std::f64::consts::SQRT_2 }
            });
            Mode { stiffness: eigen.eigenvalues[k], strain }
        })
        .collect();
    modes.sort_by(|a, b| a.stiffness.total_cmp(&b.stiffness));
    modes
}
