//! What `tesseral phonons` prints.

use anyhow::Result;
use serde_json::json;
use tesseral_simulate::phonons::{BandPath, Crystal, Phonons, Supercell, Thermal, left_out, thermal, zero_point_energy};

use super::files::summary;
use super::{Plan, Source};
use crate::output::{DIM, HEADING, Output, number};

/// Frequencies on a line.
const ON_A_LINE: usize = 9;
/// Imaginary modes that are listed.
const MODES: usize = 10;

pub(super) fn crystal(crystal: &Crystal) -> String {
    let plural = if crystal.len() == 1 { "" } else { "s" };
    format!(
        "{}, {} ({}), {} atom{plural} in the primitive cell",
        crystal.primitive_structure().formula(),
        crystal.symbol,
        crystal.number,
        crystal.len()
    )
}

pub(super) fn supercell(supercell: &Supercell) -> String {
    let [[a, b, c], [d, e, f], [g, h, i]] = supercell.matrix;
    let atoms = supercell.len();
    if [b, c, d, f, g, h] == [0; 6] {
        format!("{a} × {e} × {i}, {atoms} atoms")
    } else {
        format!("({a} {b} {c}), ({d} {e} {f}), ({g} {h} {i}), {atoms} atoms")
    }
}

pub(super) fn path(path: &BandPath) -> String {
    let pieces: Vec<String> = path.pieces.iter().map(|p| p.iter().map(|p| p.label.as_str()).collect::<Vec<_>>().join(" ")).collect();
    pieces.join(" | ")
}

/// Thermal properties at 300 K, whatever temperatures were asked for.
fn at_300(phonons: &Phonons) -> Thermal {
    thermal(&phonons.sample, 300.0)
}

pub(super) fn print(output: &mut Output, plan: &Plan, phonons: &Phonons, source: &Source) {
    let fact = |output: &mut Output, name: &str, value: String| output.line(format_args!("{HEADING}{name:<14}{HEADING:#} {value}"));
    fact(output, "crystal", crystal(&plan.crystal));
    fact(output, "supercell", supercell(&plan.supercell));
    fact(output, "forces", source.name.clone());
    if let Some((_, force)) = source.at_rest {
        fact(output, "left at rest", format!("{force:.4} eV/Å"));
    }
    if let Some(spread) = source.spread {
        fact(output, "disagreement", format!("up to {spread:.4} eV/Å about a force, of the committee's members"));
    }
    fact(output, "sum rule", format!("kept to {:.1e} eV/Å² before it was imposed", phonons.drift.sum_rule));
    output.line(format_args!(""));
    output.line(format_args!("{HEADING}{:<6} {:>23}  frequencies{HEADING:#}", "point", "q"));
    output.line(format_args!("{DIM}{:<6} {:>23}  THz{DIM:#}", "", "reciprocal primitive"));
    for (point, modes) in &phonons.special {
        let [a, b, c] = point.q.map(|x| number(Some(x), 7, 4));
        for (k, line) in modes.frequencies.chunks(ON_A_LINE).enumerate() {
            let text: String = line.iter().map(|f| number(Some(*f), 8, 3)).collect();
            if k == 0 {
                output.line(format_args!("{:<6} {a} {b} {c} {text}", point.label));
            } else {
                output.line(format_args!("{:<6} {:>23} {text}", "", ""));
            }
        }
    }
    output.line(format_args!(""));
    if phonons.imaginary.is_empty() {
        output.line(format_args!("No imaginary modes at these points, nor at those that fit into the supercell."));
    } else {
        output.line(format_args!("{HEADING}{:<6} {:>23} {:>5} {:>10}  imaginary modes{HEADING:#}", "point", "q", "mode", "frequency"));
        output.line(format_args!("{DIM}{:<6} {:>23} {:>5} {:>10}{DIM:#}", "", "reciprocal primitive", "", "THz"));
        for mode in phonons.imaginary.iter().take(MODES) {
            let [a, b, c] = mode.point.q.map(|x| number(Some(x), 7, 4));
            let note = if mode.fits { "" } else { "interpolated" };
            let line = format!("{:<6} {a} {b} {c} {:>5} {}  {note}", mode.point.label, mode.mode, number(Some(mode.frequency), 10, 3));
            output.line(format_args!("{}", line.trim_end()));
        }
        if phonons.imaginary.len() > MODES {
            output.line(format_args!("{DIM}and {} more: phonons.json{DIM:#}", phonons.imaginary.len() - MODES));
        }
    }
    output.line(format_args!(""));
    let at = at_300(phonons);
    output.line(format_args!(
        "{HEADING}{:>11} {:>14} {:>12} {:>13} {:>14}{HEADING:#}",
        "temperature", "free energy", "entropy", "heat capacity", "zero point"
    ));
    output.line(format_args!("{DIM}{:>11} {:>14} {:>12} {:>13} {:>14}{DIM:#}", "K", "kJ/mol", "J/(K mol)", "J/(K mol)", "eV"));
    output.line(format_args!(
        "{:>11} {} {} {} {}",
        "300",
        number(Some(at.free_energy_kj_per_mol()), 14, 3),
        number(Some(at.entropy_j_per_k_mol()), 12, 3),
        number(Some(at.heat_capacity_j_per_k_mol()), 13, 3),
        number(Some(zero_point_energy(&phonons.sample)), 14, 5)
    ));
}

pub(super) fn json(output: &mut Output, plan: &Plan, phonons: &Phonons, source: &Source) -> Result<()> {
    let at = |t: &Thermal| {
        json!({
            "temperature": t.temperature, "free_energy_ev": t.free_energy, "entropy_ev_per_k": t.entropy, "heat_capacity_ev_per_k": t.heat_capacity,
            "free_energy_kj_per_mol": t.free_energy_kj_per_mol(), "entropy_j_per_k_mol": t.entropy_j_per_k_mol(),
            "heat_capacity_j_per_k_mol": t.heat_capacity_j_per_k_mol(),
        })
    };
    let mut summary = summary(plan, phonons, source);
    summary["thermal_300k"] = at(&at_300(phonons));
    summary["modes_left_out"] = json!(left_out(&phonons.sample));
    output.json(&json!({"phonons": summary}))?;
    for t in &phonons.thermal {
        output.json(&json!({"thermal": at(t)}))?;
    }
    Ok(())
}
