//! Bounds on what a configuration may ask for.
//!
//! A header comes from a file and may say anything. The weights it asks for are compared with the file before memory is taken, so the bounds
//! here concern what no tensor backs: sizes that are computed with, numbers that would divide by zero or never end, names that are printed.

use std::collections::HashSet;

use tesseral_o3::Irreps;
use tesseral_ops::tensor_product::MAX_DEGREE;

use crate::error::{Result, config_error};

/// Most message-passing layers, readouts, maps of a readout and embedded fields.
pub(crate) const MAX_PARTS: usize = 64;
/// Most channels, radial functions, hidden sizes, classes and modalities.
pub(crate) const MAX_WIDTH: usize = 1 << 16;
/// Most blocks of one list of irreps: paths of a tensor product grow with them.
const MAX_BLOCKS: usize = 64;
/// Most numbers of one kind of feature of an atom.
const MAX_FEATURES: usize = 1 << 20;
/// Smallest and largest cutoff, Å: far beyond any published one on either side.
const CUTOFFS: std::ops::RangeInclusive<f64> = 0.1..=100.0;
/// Largest exponent of a polynomial envelope.
const MAX_ENVELOPE_EXPONENT: u32 = 100;

/// Elements: at least one, atomic numbers 1 to 118, each once.
pub(crate) fn elements(elements: &[u8]) -> Result<()> {
    if elements.is_empty() {
        return Err(config_error("elements", "there are none"));
    }
    let mut seen = HashSet::new();
    for &z in elements {
        if z == 0 || z > tesseral_atoms::elements::MAX_ATOMIC_NUMBER {
            return Err(config_error("elements", format!("{z} is not the atomic number of an element")));
        }
        if !seen.insert(z) {
            return Err(config_error("elements", format!("atomic number {z} occurs twice")));
        }
    }
    Ok(())
}

/// Names (of heads, fields, …): not empty, printable, each once.
pub(crate) fn names<'a>(what: &str, names: impl IntoIterator<Item = &'a str>) -> Result<()> {
    let mut seen = HashSet::new();
    for name in names {
        if name.is_empty() || name.chars().any(char::is_control) {
            return Err(config_error(what, format!("{name:?} is not a name")));
        }
        if !seen.insert(name) {
            return Err(config_error(what, format!("`{name}` occurs twice")));
        }
    }
    if seen.len() > MAX_WIDTH {
        return Err(config_error(what, format!("{} are more than {MAX_WIDTH}", seen.len())));
    }
    Ok(())
}

/// A cutoff radius in Å.
pub(crate) fn cutoff(cutoff: f64) -> Result<()> {
    if CUTOFFS.contains(&cutoff) {
        return Ok(());
    }
    Err(config_error("cutoff", format!("{cutoff:?} Å is not between {} and {} Å", CUTOFFS.start(), CUTOFFS.end())))
}

/// A count that must be at least 1 and at most `max`.
pub(crate) fn count(what: impl Into<String>, value: usize, max: usize) -> Result<()> {
    if (1..=max).contains(&value) {
        return Ok(());
    }
    Err(config_error(what, format!("{value} is not between 1 and {max}")))
}

/// A factor that must be a number.
pub(crate) fn finite(what: impl Into<String>, value: f64) -> Result<()> {
    if value.is_finite() { Ok(()) } else { Err(config_error(what, format!("{value} is not finite"))) }
}

/// A divisor or length that must be a positive number.
pub(crate) fn positive(what: impl Into<String>, value: f64) -> Result<()> {
    if value > 0.0 && value.is_finite() { Ok(()) } else { Err(config_error(what, format!("{value} is not a positive number"))) }
}

/// The exponent of a polynomial envelope.
pub(crate) fn envelope_exponent(what: impl Into<String>, p: u32) -> Result<()> {
    if (1..=MAX_ENVELOPE_EXPONENT).contains(&p) {
        return Ok(());
    }
    Err(config_error(what, format!("exponent {p} is not between 1 and {MAX_ENVELOPE_EXPONENT}")))
}

/// Features of atoms: blocks with channels, of degrees that the kernels have room for, few enough to compute with.
pub(crate) fn features(what: impl Into<String>, irreps: &Irreps) -> Result<()> {
    if irreps.is_empty() || irreps.len() > MAX_BLOCKS {
        return Err(config_error(what, format!("{} irreps are not between 1 and {MAX_BLOCKS}", irreps.len())));
    }
    if let Some(block) = irreps.iter().find(|b| b.mul == 0 || b.irrep.l > MAX_DEGREE) {
        return Err(config_error(what, format!("`{block}`: irreps need channels and a degree of at most {MAX_DEGREE}")));
    }
    if irreps.dim() > MAX_FEATURES {
        return Err(config_error(what, format!("{} numbers an atom are more than {MAX_FEATURES}", irreps.dim())));
    }
    Ok(())
}

/// Edge harmonics: one of each degree from 0 on, in order. The highest degree.
pub(crate) fn edge_degree(edge: &Irreps) -> Result<usize> {
    use tesseral_o3::spherical_harmonics::MAX_L;
    if edge.is_empty() || edge.iter().enumerate().any(|(l, b)| b.mul != 1 || b.irrep.l != l) {
        return Err(config_error("edge harmonics", format!("expected one of each degree from 0 on, got {edge}")));
    }
    if edge.len() > MAX_L + 1 {
        return Err(config_error("edge harmonics", format!("degree {} is above {MAX_L}", edge.len() - 1)));
    }
    Ok(edge.len() - 1)
}
