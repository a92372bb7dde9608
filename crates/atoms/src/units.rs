//! Units and conversion factors.
//!
//! Everything in Tesseral is in Å, eV, eV/Å and eV/Å³; other units appear only at the edges, for people and for files.
//! A constant named after a unit is its value in our units, so `value_in_gpa * GPA` is in eV/Å³ and
//! `stress / GPA` is in GPa.
//!
//! Values are CODATA 2018 (the last with an exact elementary charge and Avogadro constant). ASE's default is CODATA 2014:
//! its values differ from these by parts in 10⁸ or less.

/// Elementary charge in C (exact).
pub const ELEMENTARY_CHARGE: f64 = 1.602176634e-19;
/// Avogadro constant in 1/mol (exact).
pub const AVOGADRO: f64 = 6.02214076e23;
/// Boltzmann constant in eV/K: exactly 1.380649e-23 J/K.
pub const BOLTZMANN: f64 = 1.380649e-23 / ELEMENTARY_CHARGE;
/// Hartree energy in eV.
pub const HARTREE: f64 = 27.211386245988;
/// Rydberg energy in eV.
pub const RYDBERG: f64 = HARTREE / 2.0;
/// Bohr radius in Å.
pub const BOHR: f64 = 0.529177210903;
/// One kcal/mol in eV (thermochemical calorie, 4.184 J).
pub const KCAL_PER_MOL: f64 = 4184.0 / AVOGADRO / ELEMENTARY_CHARGE;
/// One kJ/mol in eV.
pub const KJ_PER_MOL: f64 = 1000.0 / AVOGADRO / ELEMENTARY_CHARGE;
/// One GPa in eV/Å³.
pub const GPA: f64 = 1e9 * 1e-30 / ELEMENTARY_CHARGE;
/// One kbar (0.1 GPa) in eV/Å³.
pub const KILOBAR: f64 = GPA / 10.0;
/// One bar in eV/Å³.
pub const BAR: f64 = KILOBAR / 1000.0;
/// Unified atomic mass unit in kg.
pub const ATOMIC_MASS_KG: f64 = 1.66053906660e-27;
/// One femtosecond in our natural unit of time, Å·√(u/eV).
pub const FEMTOSECOND: f64 = 0.098_226_947_502_532_76;
/// Coulomb constant `e²/(4πε₀)` in eV·Å, as Hartree energy times Bohr radius.
pub const COULOMB: f64 = HARTREE * BOHR;

#[cfg(test)]
mod tests {
    use super::*;

    fn close(value: f64, published: f64, relative: f64) {
        assert!((value / published - 1.0).abs() < relative, "{value} is not {published}");
    }

    #[test]
    fn published_values() {
        close(BOLTZMANN, 8.617333262e-5, 1e-10);
        close(1.0 / GPA, 160.2176634, 1e-12);
        // Through the published Faraday constant.
        close(KCAL_PER_MOL, 4184.0 / 96485.33212, 1e-10);
        close(KJ_PER_MOL * 4.184, KCAL_PER_MOL, 1e-14);
        close(COULOMB, 14.3996454, 1e-8);
        close(BAR * 1e4, GPA, 1e-14);
        // Å·√(u/eV) in seconds.
        let natural = 1e-10 * (ATOMIC_MASS_KG / ELEMENTARY_CHARGE).sqrt();
        close(FEMTOSECOND, 1e-15 / natural, 1e-12);
        // ASE 3.29 (CODATA 2014).
        close(HARTREE, 27.211386024367243, 1e-7);
        close(BOHR, 0.5291772105638411, 1e-7);
        close(FEMTOSECOND, 0.09822694788464063, 1e-7);
    }
}
