//! Equations of state: energy and pressure as functions of the volume.

use serde::Serialize;

/// What an equation of state is made of.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Parameters {
    /// Energy of the minimum, E₀, eV.
    pub energy: f64,
    /// Volume of the minimum, V₀, Å³.
    pub volume: f64,
    /// Bulk modulus there, B₀ = −V dP/dV, eV/Å³.
    pub bulk_modulus: f64,
    /// Its derivative by pressure there, B₀′.
    pub derivative: f64,
}

impl Parameters {
    pub(super) fn from_array([energy, volume, bulk_modulus, derivative]: [f64; 4]) -> Self {
        Self { energy, volume, bulk_modulus, derivative }
    }

    pub(super) fn array(&self) -> [f64; 4] {
        [self.energy, self.volume, self.bulk_modulus, self.derivative]
    }
}

/// A form of the equation of state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// Third order in the Eulerian strain (F. Birch, Phys. Rev. 71, 809 (1947)): with x = (V₀/V)^⅔, E = E₀ + (9 V₀ B₀/16) ((x − 1)³ B₀′ + (x − 1)² (6 − 4 x)).
    BirchMurnaghan,
    /// P. Vinet et al., J. Phys. C 19, L467 (1986): with x = (V/V₀)^⅓ and η = 3/2 (B₀′ − 1), E = E₀ + (9 V₀ B₀/η²) (1 − (1 − η (1 − x)) exp(η (1 − x))).
    Vinet,
    /// F. D. Murnaghan, Proc. Natl. Acad. Sci. 30, 244 (1944): B = B₀ + B₀′ P, so that E = E₀ + (B₀ V/B₀′) ((V₀/V)^B₀′/(B₀′ − 1) + 1) − V₀ B₀/(B₀′ − 1).
    Murnaghan,
}

impl Form {
    /// All forms.
    pub const ALL: [Self; 3] = [Self::BirchMurnaghan, Self::Vinet, Self::Murnaghan];

    /// The name, as people write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::BirchMurnaghan => "Birch–Murnaghan",
            Self::Vinet => "Vinet",
            Self::Murnaghan => "Murnaghan",
        }
    }

    /// Energy (eV) at a volume (Å³).
    pub fn energy(self, volume: f64, p: &Parameters) -> f64 {
        let (b, d, v0) = (p.bulk_modulus, p.derivative, p.volume);
        match self {
            Self::BirchMurnaghan => {
                let x = (v0 / volume).powf(2.0 / 3.0);
                p.energy + 9.0 * v0 * b / 16.0 * ((x - 1.0).powi(3) * d + (x - 1.0).powi(2) * (6.0 - 4.0 * x))
            }
            Self::Vinet => {
                let eta = 1.5 * (d - 1.0);
                let t = eta * (1.0 - (volume / v0).cbrt());
                p.energy + 9.0 * v0 * b / (eta * eta) * (1.0 - (1.0 - t) * t.exp())
            }
            Self::Murnaghan => p.energy + b * volume / d * ((v0 / volume).powf(d) / (d - 1.0) + 1.0) - v0 * b / (d - 1.0),
        }
    }

    /// Pressure −dE/dV (eV/Å³) at a volume (Å³).
    pub fn pressure(self, volume: f64, p: &Parameters) -> f64 {
        let (b, d) = (p.bulk_modulus, p.derivative);
        match self {
            Self::BirchMurnaghan => {
                let x = (p.volume / volume).cbrt();
                1.5 * b * (x.powi(7) - x.powi(5)) * (1.0 + 0.75 * (d - 4.0) * (x * x - 1.0))
            }
            Self::Vinet => {
                let x = (volume / p.volume).cbrt();
                3.0 * b * (1.0 - x) / (x * x) * (1.5 * (d - 1.0) * (1.0 - x)).exp()
            }
            Self::Murnaghan => b / d * ((p.volume / volume).powf(d) - 1.0),
        }
    }
}
