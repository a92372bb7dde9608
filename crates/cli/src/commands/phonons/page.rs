//! The report of `tesseral phonons`.

use std::path::Path;

use anyhow::{Context, Result};
use tesseral_report::{Chart, Look, Page, Series, Table};
use tesseral_simulate::phonons::{Phonons, left_out, thermal, zero_point_energy};

use super::files::by_element;
use super::{Plan, Source, table};

pub(super) fn write(path: &Path, plan: &Plan, phonons: &Phonons, source: &Source) -> Result<()> {
    page(plan, phonons, source).write(path).with_context(|| format!("cannot write {}", path.display()))
}

fn page(plan: &Plan, phonons: &Phonons, source: &Source) -> Page {
    let mut page = Page::new(format!("Phonons of {}", plan.crystal.primitive_structure().formula()));
    let mut facts = vec![
        ("Crystal", table::crystal(&plan.crystal)),
        ("Supercell", table::supercell(&plan.supercell)),
        ("Forces", source.name.clone()),
        ("Path", format!("{}: {}", plan.wishes.path.kind, table::path(&plan.wishes.path))),
        (
            "Mesh",
            format!(
                "{} × {} × {}, {} points computed",
                plan.wishes.mesh.size[0],
                plan.wishes.mesh.size[1],
                plan.wishes.mesh.size[2],
                phonons.sample.q.len()
            ),
        ),
        ("Zero-point energy", format!("{:.5} eV per primitive cell", zero_point_energy(&phonons.sample))),
    ];
    if let Some((_, force)) = source.at_rest {
        facts.push(("Largest force at rest", format!("{force:.4} eV/Å")));
    }
    if let Some(spread) = source.spread {
        facts.push(("Largest disagreement about a force", format!("{spread:.4} eV/Å")));
    }
    page.facts(&facts);
    let low = phonons.bands.iter().flatten().fold(phonons.dos.frequencies[0].min(0.0), |a, b| a.min(*b));
    let high = phonons.bands.iter().flatten().fold(phonons.sample.highest(), |a, b| a.max(*b)) * 1.03;
    let low = if low > -0.05 { 0.0 } else { low * 1.03 };
    page.section("Bands");
    page.chart(&bands(phonons, (low, high)));
    page.section("Density of states");
    page.text("By the linear tetrahedron method, averaged over bins; it integrates to three modes for each atom of the primitive cell.");
    page.chart(&dos(plan, phonons, (low, high)));
    page.section("Thermal properties");
    if phonons.thermal.len() > 1 {
        let of = |f: &dyn Fn(&tesseral_simulate::phonons::Thermal) -> f64| {
            phonons.thermal.iter().map(|t| (t.temperature, f(t))).collect::<Vec<_>>()
        };
        page.chart(
            &Chart::new("Entropy and heat capacity of a primitive cell", "temperature, K", "J/(K mol)")
                .series(Series::new("entropy", Look::Line, of(&|t| t.entropy_j_per_k_mol())))
                .series(Series::new("heat capacity at constant volume", Look::Line, of(&|t| t.heat_capacity_j_per_k_mol()))),
        );
        page.chart(&Chart::new("Free energy of a primitive cell", "temperature, K", "kJ/mol").series(Series::new(
            "free energy",
            Look::Line,
            of(&|t| t.free_energy_kj_per_mol()),
        )));
    }
    let left_out = left_out(&phonons.sample);
    if left_out > 0.0 {
        page.text(&format!("Modes without a positive frequency, {:.2} % of all, are left out of thermal properties.", 100.0 * left_out));
    }
    let rows = [0.0, 100.0, 200.0, 300.0, 500.0, 1000.0]
        .map(|t| thermal(&phonons.sample, t))
        .map(|t| {
            vec![
                format!("{}", t.temperature),
                format!("{:.4}", t.free_energy_kj_per_mol()),
                format!("{:.4}", t.entropy_j_per_k_mol()),
                format!("{:.4}", t.heat_capacity_j_per_k_mol()),
            ]
        })
        .to_vec();
    let columns = ["temperature\nK", "free energy\nkJ/mol", "entropy\nJ/(K mol)", "heat capacity\nJ/(K mol)"].map(str::to_owned).to_vec();
    page.table(&Table { caption: "One primitive cell, harmonic".into(), columns, rows });
    page.section("Frequencies");
    let rows = phonons
        .special
        .iter()
        .map(|(p, m)| {
            let [a, b, c] = p.q;
            let frequencies: Vec<String> = m.frequencies.iter().map(|f| format!("{:.3}", if f.abs() < 5e-4 { 0.0 } else { *f })).collect();
            vec![p.label.clone(), format!("{a:.4} {b:.4} {c:.4}"), frequencies.join("  ")]
        })
        .collect();
    let columns = ["point", "q\nreciprocal primitive", "frequencies\nTHz"].map(str::to_owned).to_vec();
    page.table(&Table { caption: "At the named points of the path".into(), columns, rows });
    page.section("Imaginary modes");
    if phonons.imaginary.is_empty() {
        page.text("There are none at the named points, nor at the wave vectors that fit into the supercell.");
    } else {
        let rows = phonons
            .imaginary
            .iter()
            .take(50)
            .map(|m| {
                let [a, b, c] = m.point.q;
                let fits = if m.fits { "yes" } else { "no, interpolated" };
                vec![
                    m.point.label.clone(),
                    format!("{a:.4} {b:.4} {c:.4}"),
                    m.mode.to_string(),
                    format!("{:.3}", m.frequency),
                    fits.to_owned(),
                ]
            })
            .collect();
        let columns = ["point", "q\nreciprocal primitive", "mode", "frequency\nTHz", "fits into the supercell"].map(str::to_owned).to_vec();
        page.table(&Table {
            caption: "The energy falls along these; imaginary_modes.extxyz has the crystal displaced".into(),
            columns,
            rows,
        });
    }
    page
}

fn bands(phonons: &Phonons, range: (f64, f64)) -> Chart {
    let mut chart = Chart::new("Bands", "wave vector", "frequency, THz");
    chart.y_range = Some(range);
    chart.y_lines = if range.0 < 0.0 { vec![0.0] } else { Vec::new() };
    let last = phonons.path.last().map_or(1.0, |p| p.distance);
    chart.x_range = Some((0.0, last));
    for (k, point) in phonons.path.iter().enumerate() {
        let Some(label) = &point.label else { continue };
        match chart.x_ticks.last_mut() {
            // Where the path jumps, both names are at one place.
            Some((x, text)) if (*x - point.distance).abs() < 1e-9 * last.max(1.0) && k > 0 => {
                if text != label {
                    *text = format!("{text}|{label}");
                }
            }
            _ => chart.x_ticks.push((point.distance, label.clone())),
        }
    }
    let count = phonons.bands.first().map_or(0, Vec::len);
    for band in 0..count {
        let mut points = Vec::with_capacity(phonons.path.len());
        for (point, frequencies) in phonons.path.iter().zip(&phonons.bands) {
            if point.begins {
                points.push((point.distance, f64::NAN));
            }
            points.push((point.distance, frequencies[band]));
        }
        chart = chart.series(Series::new("", Look::Line, points).colour(0));
    }
    chart
}

fn dos(plan: &Plan, phonons: &Phonons, range: (f64, f64)) -> Chart {
    let mut chart = Chart::new("Density of states", "frequency, THz", "modes per THz and primitive cell");
    chart.x_range = Some(range);
    let against = |y: &[f64]| phonons.dos.frequencies.iter().copied().zip(y.iter().copied()).collect::<Vec<_>>();
    chart = chart.series(Series::new("total", Look::Line, against(&phonons.dos.total)));
    let elements = by_element(plan, phonons);
    if elements.len() > 1 {
        for (symbol, dos) in &elements {
            chart = chart.series(Series::new(*symbol, Look::Line, against(dos)));
        }
    }
    chart
}
