//! Constants that only motion of nuclei needs; others are in [`tesseral_atoms::units`].

use tesseral_atoms::units::ELEMENTARY_CHARGE;

/// Planck's constant h in eV s: exactly 6.62607015e-34 J s.
pub const PLANCK: f64 = 6.626_070_15e-34 / ELEMENTARY_CHARGE;
/// The speed of light in cm/s, which makes a frequency a wave number in 1/cm (exact).
pub const LIGHT: f64 = 2.997_924_58e10;
