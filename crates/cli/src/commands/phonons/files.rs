//! The files of `tesseral phonons`.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};
use tesseral_atoms::elements;
use tesseral_atoms::io::{write_atomically, write_extxyz_file};
use tesseral_simulate::phonons::{ForceSets, Phonons, displaced_along, force_sets, params, phonopy_force_constants, zero_point_energy};

use super::{Plan, Source};
use crate::args::PhononsArgs;

/// Files that are always written.
pub(super) const NAMES: [&str; 8] =
    ["report.html", "phonons.json", "bands.json", "dos.csv", "thermal.csv", "FORCE_SETS", "phonopy_params.yaml", "forces.jsonl"];

/// Imaginary modes that are written as structures.
const MOST_MODES: usize = 100;
/// How far the atom that moves most is moved, Å.
const AMPLITUDE: f64 = 0.2;

pub(super) fn write(folder: &Path, args: &PhononsArgs, plan: &Plan, sets: &ForceSets, phonons: &Phonons, source: &Source) -> Result<()> {
    text(&folder.join("FORCE_SETS"), &force_sets(sets))?;
    text(&folder.join("phonopy_params.yaml"), &params(&plan.crystal, &plan.supercell, sets))?;
    if args.force_constants {
        text(&folder.join("FORCE_CONSTANTS"), &phonopy_force_constants(&phonons.force_constants))?;
    }
    text(&folder.join("bands.json"), &format!("{}\n", bands(plan, phonons)))?;
    text(&folder.join("dos.csv"), &dos(plan, phonons))?;
    text(&folder.join("thermal.csv"), &thermal(phonons))?;
    text(&folder.join("phonons.json"), &format!("{}\n", serde_json::to_string_pretty(&summary(plan, phonons, source))?))?;
    let modes = folder.join("imaginary_modes.extxyz");
    let mut structures = Vec::new();
    for mode in phonons.imaginary.iter().take(MOST_MODES) {
        let Some(mut structure) = displaced_along(&plan.crystal, mode.point.q, &mode.eigenvector, AMPLITUDE, 12) else { continue };
        structure.info.insert("q".into(), mode.point.q.to_vec().into());
        if !mode.point.label.is_empty() {
            structure.info.insert("point".into(), mode.point.label.as_str().into());
        }
        structure.info.insert("mode".into(), (mode.mode as i64).into());
        structure.info.insert("frequency_thz".into(), mode.frequency.into());
        structure.info.insert("amplitude".into(), AMPLITUDE.into());
        structures.push(structure);
    }
    if structures.is_empty() {
        if modes.exists() {
            fs_err::remove_file(&modes)?;
        }
    } else {
        write_extxyz_file(&modes, &structures)?;
    }
    Ok(())
}

fn text(path: &Path, content: &str) -> Result<()> {
    Ok(write_atomically(path, |file| file.write_all(content.as_bytes()))?)
}

fn bands(plan: &Plan, phonons: &Phonons) -> Value {
    let pieces = plan
        .wishes
        .path
        .pieces
        .iter()
        .map(|p| p.iter().map(|p| json!({"label": p.label, "q": p.q})).collect::<Vec<_>>())
        .collect::<Vec<_>>();
    let points = phonons.path.iter().zip(&phonons.bands).map(|(p, f)| {
        let mut point = json!({"distance": p.distance, "q": p.q, "frequencies": f});
        if let Some(label) = &p.label {
            point["label"] = json!(label);
        }
        if p.begins {
            point["begins"] = json!(true);
        }
        point
    });
    json!({
        "path": plan.wishes.path.kind, "pieces": pieces, "primitive_cell": plan.crystal.primitive.vectors,
        "units": {"frequencies": "THz", "distance": "1/Å without 2π"}, "points": points.collect::<Vec<_>>(),
    })
}

/// Elements of the primitive cell in the order in which they come, with the density of states of all their atoms.
pub(super) fn by_element(plan: &Plan, phonons: &Phonons) -> Vec<(&'static str, Vec<f64>)> {
    let mut all: Vec<(&str, Vec<f64>)> = Vec::new();
    for (z, dos) in plan.crystal.numbers().into_iter().zip(&phonons.dos.atoms) {
        let symbol = elements::symbol(z).unwrap_or("X");
        match all.iter_mut().find(|e| e.0 == symbol) {
            Some((_, sum)) => sum.iter_mut().zip(dos).for_each(|(a, b)| *a += b),
            None => all.push((symbol, dos.clone())),
        }
    }
    all
}

fn dos(plan: &Plan, phonons: &Phonons) -> String {
    let elements = by_element(plan, phonons);
    let mut text = "frequency_thz,total_per_thz".to_owned();
    elements.iter().for_each(|e| text.push_str(&format!(",{}_per_thz", e.0)));
    text.push('\n');
    for (k, frequency) in phonons.dos.frequencies.iter().enumerate() {
        write!(text, "{frequency:.6},{:.8}", phonons.dos.total[k]).ok();
        for (_, dos) in &elements {
            write!(text, ",{:.8}", dos[k]).ok();
        }
        text.push('\n');
    }
    text
}

fn thermal(phonons: &Phonons) -> String {
    let mut text = "temperature_k,free_energy_kj_per_mol,entropy_j_per_k_mol,heat_capacity_j_per_k_mol,free_energy_ev,entropy_ev_per_k,heat_capacity_ev_per_k\n".to_owned();
    for t in &phonons.thermal {
        writeln!(
            text,
            "{},{:.8},{:.8},{:.8},{:.10},{:.12},{:.12}",
            t.temperature,
            t.free_energy_kj_per_mol(),
            t.entropy_j_per_k_mol(),
            t.heat_capacity_j_per_k_mol(),
            t.free_energy,
            t.entropy,
            t.heat_capacity
        )
        .ok();
    }
    text
}

/// The results in short.
pub(super) fn summary(plan: &Plan, phonons: &Phonons, source: &Source) -> Value {
    let crystal = &plan.crystal;
    let symbols: Vec<_> = crystal.numbers().into_iter().map(|z| elements::symbol(z).unwrap_or("X")).collect();
    let special: Vec<_> = phonons.special.iter().map(|(p, m)| json!({"label": p.label, "q": p.q, "frequencies": m.frequencies})).collect();
    let imaginary: Vec<_> = phonons
        .imaginary
        .iter()
        .map(|m| {
            json!({
                "label": m.point.label, "q": m.point.q, "mode": m.mode, "frequency": m.frequency, "fits_supercell": m.fits,
                "eigenvector": m.eigenvector,
            })
        })
        .collect();
    let (lowest, at) = phonons.sample.lowest();
    json!({
        "forces_by": source.name,
        "formula": crystal.primitive_structure().formula(),
        "space_group": {"number": crystal.number, "symbol": crystal.symbol},
        "primitive_cell": {
            "vectors": crystal.primitive.vectors, "symbols": symbols, "positions": crystal.primitive_structure().positions,
            "masses": crystal.primitive_masses(),
        },
        "supercell": {"matrix": plan.supercell.matrix, "atoms": plan.supercell.len()},
        "largest_force_at_rest": source.at_rest.map(|f| f.1),
        "largest_spread_of_forces": source.spread,
        "drift": {"sum_rule": phonons.drift.sum_rule, "permutation": phonons.drift.permutation},
        "mesh": {
            "size": plan.wishes.mesh.size, "shifted": plan.wishes.mesh.shifted, "points": phonons.sample.q.len(), "lowest": lowest, "lowest_at": at,
            "highest": phonons.sample.highest(),
        },
        "zero_point_energy_ev": zero_point_energy(&phonons.sample),
        "points": special,
        "imaginary_modes": imaginary,
        "units": {"frequencies": "THz", "lengths": "Å", "masses": "u", "forces": "eV/Å", "drift": "eV/Å²"},
    })
}
