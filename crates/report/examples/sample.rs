//! Writes a page with the charts of all commands, and each chart as a file, from made-up numbers: what reports look like.
//!
//! `cargo run --release -p tesseral-report --example sample -- FOLDER`

use std::f64::consts::PI;
use std::path::PathBuf;

use tesseral_report::{Chart, Look, Page, Series, Table};

fn main() -> std::io::Result<()> {
    let folder: PathBuf = std::env::args_os().nth(1).map_or_else(std::env::temp_dir, Into::into);
    let charts = [bands(), density_of_states(), energies(), pressures(), course(), conserved(), distribution(), barrier(), convergence()];
    let [bands, dos, energies, pressures, course, conserved, distribution, barrier, convergence] = &charts;

    let mut page = Page::new("Silicon, diamond structure");
    page.kicker("Sample report");
    page.facts(&[
        ("Model", "SevenNet-0 (11 July 2024), f32".into()),
        ("Structure", "Si8, 5.431 Å, Fd-3m".into()),
        ("Command", "tesseral phonons examples/si.cif --supercell 3 -o si-phonons".into()),
    ]);
    page.section("Phonons");
    page.text("Frequencies along the standard path; imaginary ones would be drawn below zero. The density of states is on a mesh of 40 × 40 × 40 points.");
    page.chart(bands);
    page.chart(dos);
    page.table(&Table {
        caption: "Thermodynamics per cell".into(),
        columns: ["temperature\nK", "free energy\nkJ/mol", "entropy\nJ/(mol K)", "heat capacity\nJ/(mol K)", "remark"]
            .map(String::from)
            .to_vec(),
        rows: (0..=10)
            .map(|i| {
                let t = 100.0 * f64::from(i);
                let cells = [
                    format!("{t:.0}"),
                    format!("{:.3}", 11.9 - 1e-5 * t * t).replace('-', "−"),
                    format!("{:.3}", 0.08 * t),
                    format!("{:.3}", 49.0 * t / (t + 250.0)),
                ];
                cells.into_iter().chain([if i == 0 { "zero point".to_owned() } else { String::new() }]).collect()
            })
            .collect(),
    });
    page.section("Equation of state");
    page.chart(energies);
    page.chart(pressures);
    page.section("Molecular dynamics");
    page.chart(course);
    page.chart(conserved);
    page.chart(distribution);
    page.section("Paths and convergence");
    page.chart(barrier);
    page.chart(convergence);
    page.write(folder.join("sample.html"))?;
    for (chart, name) in charts.iter().zip(["bands", "dos", "eos", "pressure", "md", "conserved", "rdf", "neb", "relax"]) {
        chart.write_svg(folder.join(format!("{name}.svg")))?;
    }
    Ok(())
}

/// Numbers that look random: the fractional parts of a sequence.
fn noise(i: u32) -> f64 {
    let mixed = i.wrapping_mul(2_654_435_761);
    f64::from((mixed ^ (mixed >> 15)).wrapping_mul(2_246_822_519) >> 8) / f64::from(1 << 24) - 0.5
}

fn bands() -> Chart {
    // Γ–X–U|K–Γ–L with lengths of an fcc lattice: from, to, and how far from Γ that is.
    let parts = [(0.0, 1.0, 0.0, 1.0), (1.0, 1.354, 1.0, 0.79), (1.354, 2.414, 0.82, 0.0), (2.414, 3.280, 0.0, 0.74)];
    let corners = [("Γ", 0.0), ("X", 1.0), ("U|K", 1.354), ("Γ", 2.414), ("L", 3.280)];
    let mut chart = Chart::new("Phonon bands", "", "frequency, THz");
    chart.x_ticks = corners.iter().map(|(name, x)| (*x, (*name).to_owned())).collect();
    chart.y_lines = vec![0.0];
    let branch = |i: usize, q: f64| match i {
        0 => 4.6 * (PI * q / 2.0).sin() - 4.0 * q * (-20.0 * q).exp(),
        1 => 6.6 * (PI * q / 2.0).sin(),
        2 => 12.2 * (PI * q / 2.0).sin(),
        _ => 15.3 - (i as f64 - 2.0) * 1.1 * q * q,
    };
    for i in 0..6 {
        let line = |scale: f64, n: u32| {
            let along = |part: (f64, f64, f64, f64)| {
                let shares = (0..=n).map(move |k| f64::from(k) / f64::from(n));
                let points = shares.map(move |t| (part.0 + t * (part.1 - part.0), scale * branch(i, part.2 + t * (part.3 - part.2))));
                // U and K are different places: the line is broken after each part.
                points.chain([(f64::NAN, f64::NAN)])
            };
            parts.into_iter().flat_map(along).collect()
        };
        chart = chart.series(Series::new("SevenNet-0", Look::Line, line(1.0, 50)).colour(0));
        chart = chart.series(Series::new("DFT", Look::Dashed, line(1.03, 20)).colour(1));
    }
    chart
}

fn density_of_states() -> Chart {
    let peak = |x: f64, at: f64, width: f64, height: f64| height * (-((x - at) / width).powi(2)).exp();
    let at = |x: f64| {
        peak(x, 4.2, 0.6, 0.9) + peak(x, 6.8, 0.9, 0.35) + peak(x, 11.5, 0.9, 0.45) + peak(x, 14.2, 0.45, 1.15) + 0.02 * x.min(3.0)
    };
    let points = (0..=3200).map(|i| f64::from(i) / 200.0).map(|x| (x, at(x))).collect();
    Chart::new("Density of states", "frequency, THz", "states per THz").series(Series::new("total", Look::Line, points))
}

fn murnaghan(v: f64) -> (f64, f64) {
    let (e0, v0, b, d) = (-43.368, 160.2, 0.5512, 4.2);
    let x = (v0 / v).powf(2.0 / 3.0);
    let energy = e0 + 9.0 * v0 * b / 16.0 * ((x - 1.0).powi(3) * d + (x - 1.0).powi(2) * (6.0 - 4.0 * x));
    let pressure = 1.5 * b * (x.powf(3.5) - x.powf(2.5)) * (1.0 + 0.75 * (d - 4.0) * (x - 1.0));
    (energy, 160.218 * pressure)
}

fn volumes(n: u32) -> impl Iterator<Item = f64> {
    (0..n).map(move |i| 144.0 + 32.0 * f64::from(i) / f64::from(n - 1))
}

fn energies() -> Chart {
    let computed = volumes(11).enumerate().map(|(i, v)| (v, murnaghan(v).0 + 4e-3 * noise(i as u32))).collect();
    Chart::new("Energy against volume", "volume, Å³", "energy, eV")
        .series(Series::new("computed", Look::Points, computed))
        .series(Series::new("Birch–Murnaghan, B = 88.3 GPa", Look::Line, volumes(200).map(|v| (v, murnaghan(v).0)).collect()))
        .series(Series::new(
            "Vinet, B = 88.6 GPa",
            Look::Dashed,
            volumes(200).map(|v| (v, murnaghan(v).0 + 1e-6 * (v - 160.0).powi(3))).collect(),
        ))
}

fn pressures() -> Chart {
    let mut chart = Chart::new("Pressure", "volume, Å³", "pressure, GPa");
    chart.y_lines = vec![0.0];
    chart.series(Series::new("", Look::LineAndPoints, volumes(11).map(|v| (v, murnaghan(v).1)).collect()))
}

fn times() -> impl Iterator<Item = (u32, f64)> {
    (0..10_000).map(|i| (i, f64::from(i) * 0.01))
}

fn course() -> Chart {
    let temperature = |(i, t): (u32, f64)| (t, 300.0 + 40.0 * (noise(i) + noise(i + 77) + noise(i + 991)) - 200.0 * (-t / 4.0).exp());
    let mut chart = Chart::new("Temperature", "time, ps", "temperature, K");
    chart.y_lines = vec![300.0];
    chart.series(Series::new("", Look::Line, times().map(temperature).collect()))
}

fn conserved() -> Chart {
    let drift = |scale: f64| move |(i, t): (u32, f64)| (t, scale * (2e-6 * t + 4e-4 * noise(i + 5) * noise(i + 9)));
    Chart::new("Conserved quantity, change", "time, ps", "energy, eV per atom")
        .series(Series::new("time step 2 fs", Look::Line, times().map(drift(4.0)).collect()))
        .series(Series::new("time step 1 fs", Look::Line, times().map(drift(1.0)).collect()))
}

fn distribution() -> Chart {
    let shell = |r: f64, at: f64, width: f64, height: f64| height * (-((r - at) / width).powi(2)).exp();
    let g = |r: f64| {
        shell(r, 2.36, 0.11, 6.5)
            + shell(r, 3.85, 0.2, 3.3)
            + shell(r, 4.5, 0.2, 1.8)
            + if r > 5.0 { 1.0 + 0.5 * (4.0 * r).sin() / (r - 3.5) } else { 0.0 }
    };
    let mut chart = Chart::new("Radial distribution function", "distance, Å", "g(r)");
    chart.y_lines = vec![1.0];
    chart.series(Series::new("Si–Si", Look::Line, (0..500).map(|i| 0.02 * f64::from(i)).map(|r| (r, g(r))).collect()))
}

fn barrier() -> Chart {
    let at = |s: f64| 0.62 * (PI * s).sin().powi(2) - 0.11 * s;
    Chart::new("Minimum-energy path", "reaction coordinate", "energy, eV")
        .series(Series::new("interpolated with forces", Look::Line, (0..=200).map(|i| f64::from(i) / 200.0).map(|s| (s, at(s))).collect()))
        .series(Series::new("images", Look::Points, (0..=8).map(|i| f64::from(i) / 8.0).map(|s| (s, at(s))).collect()))
}

fn convergence() -> Chart {
    let mut chart = Chart::new("Largest force", "step", "force, eV/Å");
    chart.log_y = true;
    chart.y_lines = vec![0.01];
    for (name, rate) in [("FIRE", 0.06), ("L-BFGS", 0.13)] {
        let points = (0..(6.0 / rate) as u32).map(|i| (f64::from(i), 1.8 * (-rate * f64::from(i)).exp() * (1.0 + 0.9 * noise(i))));
        chart = chart.series(Series::new(name, Look::Line, points.collect()));
    }
    chart
}
