//! Tables of what was analysed.

use std::fmt::Write as _;
use std::path::Path;

use crate::analysis::{Analysis, Curves};
use crate::error::SimulateError;

/// Names of the files.
pub(super) const FILES: [&str; 4] = ["rdf.csv", "msd.csv", "vacf.csv", "vdos.csv"];

/// Writes a table for everything that was sampled; the units are in the names of the columns.
pub(super) fn write(folder: &Path, analysis: &Analysis, time_step: f64, degrees_of_freedom: f64) -> Result<(), SimulateError> {
    if let Some(pairs) = analysis.radial() {
        let names = pairs.iter().flat_map(|p| [format!("g {}", p.name), format!("n {}", p.name)]);
        let columns = pairs.iter().flat_map(|p| [&p.g[..], &p.coordination[..]]);
        table(folder, FILES[0], "r (Å)", &pairs[0].r, names, columns)?;
    }
    let elements = || analysis.species().iter().map(|s| s.symbol.clone());
    // A column for each element only where there are several.
    let several = |curves: &Curves| if curves.each.len() > 1 { curves.each.len() } else { 0 };
    if let Some(curves) = analysis.mean_square_displacement(time_step) {
        let n = several(&curves);
        let names = std::iter::once("all (Å²)".to_owned()).chain(elements().take(n).map(|e| format!("{e} (Å²)")));
        let columns = std::iter::once(&curves.all[..]).chain(curves.each.iter().take(n).map(|c| &c[..]));
        table(folder, FILES[1], "time (fs)", &curves.time, names, columns)?;
    }
    if let Some(curves) = analysis.velocity_autocorrelation(time_step) {
        let n = several(&curves);
        let names = std::iter::once("all (eV)".to_owned()).chain(elements().take(n).map(|e| format!("{e} (eV)")));
        let columns = std::iter::once(&curves.all[..]).chain(curves.each.iter().take(n).map(|c| &c[..]));
        table(folder, FILES[2], "time (fs)", &curves.time, names, columns)?;
    }
    if let Some((all, each)) = analysis.density_of_states(time_step, degrees_of_freedom) {
        let n = if each.len() > 1 { each.len() } else { 0 };
        let names = std::iter::once("all (1/THz)".to_owned()).chain(elements().take(n).map(|e| format!("{e} (1/THz)")));
        let columns = std::iter::once(&all.density[..]).chain(each.iter().take(n).map(|c| &c.density[..]));
        table(folder, FILES[3], "frequency (THz)", &all.frequency, names, columns)?;
    }
    Ok(())
}

fn table<'c>(
    folder: &Path,
    file: &str,
    first: &str,
    x: &[f64],
    names: impl Iterator<Item = String>,
    columns: impl Iterator<Item = &'c [f64]>,
) -> Result<(), SimulateError> {
    let columns: Vec<&[f64]> = columns.collect();
    let mut text = first.to_owned();
    names.for_each(|name| text.push_str(&format!(",{name}")));
    for (row, x) in x.iter().enumerate() {
        // Writing to a string cannot fail.
        write!(text, "\n{x:.6}").ok();
        for column in &columns {
            write!(text, ",{:e}", column[row]).ok();
        }
    }
    text.push('\n');
    let path = folder.join(file);
    tesseral_atoms::io::write_atomically::<_, std::io::Error>(&path, |w| std::io::Write::write_all(w, text.as_bytes()))
        .map_err(SimulateError::io(&path))
}
