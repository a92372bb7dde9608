//! Device code for one `lmax`: the recursions of the CPU kernel, every constant written out.

mod training;

use std::fmt::Write;

pub use training::DeviceHarmonics;

use super::cpu::{Ladder, Tables};
use super::{MIN_LENGTH, count};

/// A number as a constant of the kernels' type.
pub(crate) fn constant(value: f64) -> String {
    format!("real({value:e})")
}

/// `c * name`, shorter where c is ±1 but for rounding.
pub(crate) fn scaled(c: f64, name: &str) -> String {
    if (c - 1.0).abs() < 1e-14 {
        name.to_owned()
    } else if (c + 1.0).abs() < 1e-14 {
        format!("-{name}")
    } else {
        format!("{} * {name}", constant(c))
    }
}

/// Statements that put the solid harmonics of (x, y, z) up to degree `lmax` into `h`.
fn values(tables: &Tables<f64>, table_lmax: usize, lmax: usize) -> String {
    let mut code = String::new();
    let mut line = |text: std::fmt::Arguments<'_>| {
        let _ = writeln!(code, "    {text}");
    };
    line(format_args!("h[0] = real(1);"));
    if lmax == 0 {
        return code;
    }
    if lmax > 1 {
        line(format_args!("const real r2 = x * x + y * y + z * z;"));
    }
    let mut row = 0;
    for m in 0..=lmax {
        match m {
            0 => {}
            1 => line(format_args!("const real c1 = z, s1 = x;")),
            _ => line(format_args!("const real c{m} = z * c{0} - x * s{0}, s{m} = z * s{0} + x * c{0};", m - 1)),
        }
        line(format_args!("const real f{m}_{m} = {};", constant(tables.diagonal[m])));
        for l in m..=lmax {
            if l > m {
                let (a, b) = tables.recursion[row + l - m - 1];
                let lower = if b == 0.0 { String::new() } else { format!(" - {} * r2 * f{}_{m}", constant(b), l - 2) };
                line(format_args!("const real f{l}_{m} = {} * y * f{}_{m}{lower};", constant(a), l - 1));
            }
            let center = l * l + l;
            if m > 0 {
                line(format_args!("h[{}] = f{l}_{m} * c{m}; h[{}] = f{l}_{m} * s{m};", center + m, center - m));
            } else if l > 0 {
                line(format_args!("h[{center}] = f{l}_{m};"));
            }
        }
        row += table_lmax - m;
    }
    code
}

/// Axes, and which terms of a ladder are the derivative by each.
const AXES: [(&str, &[usize]); 3] = [("x", &[0, 1]), ("y", &[2]), ("z", &[3, 4])];

/// The derivative of one harmonic along an axis from the values `h` of the degree below, if it is not zero.
fn slope(ladder: &Ladder<f64>, terms: &[usize]) -> Option<String> {
    let parts: Vec<String> = terms
        .iter()
        .filter(|&&k| ladder.coefficient[k] != 0.0)
        .map(|&k| scaled(ladder.coefficient[k], &format!("h[{}]", ladder.to[k])))
        .collect();
    (!parts.is_empty()).then(|| parts.join(" + "))
}

/// Statements that put the gradient of Σ g·Y, with `g` from degree 1 on, into `qx`, `qy` and `qz`.
fn gradient(ladders: &[Ladder<f64>]) -> String {
    let mut code = String::new();
    for (axis, terms) in AXES {
        let _ = writeln!(code, "    real q{axis} = real(0);");
        for (i, ladder) in ladders.iter().enumerate() {
            if let Some(slope) = slope(ladder, terms) {
                let _ = writeln!(code, "    q{axis} += g[{i}] * ({slope});");
            }
        }
    }
    code
}

/// Two device functions for harmonics up to `lmax` of the vector (x, y, z), or of its direction if `normalize`:
/// `harmonics(x, y, z, h)` puts values into `h[(lmax+1)²]`, and `harmonics_adjoint(x, y, z, g, dv)` puts the derivative of Σ g·Y by the vector
/// into `dv[3]`, where `g` starts with degree 1 (degree 0 is constant).
pub fn source(lmax: usize, normalize: bool) -> String {
    let tables = Tables::<f64>::new(lmax);
    let mut code = format!(
        "#define HARMONICS {}\n// Solid harmonics up to degree {lmax} of (x, y, z).\n\
         static __device__ __forceinline__ void solid_harmonics(real x, real y, real z, real *h) {{\n{}}}\n",
        count(lmax),
        values(&tables, lmax, lmax)
    );
    let direction = if normalize {
        format!(
            "    const real length = sqrt(x * x + y * y + z * z), least = {};\n    \
             const real inverse = real(1) / (length > least ? length : least), scale = length > least ? inverse : real(0);\n    \
             x *= inverse; y *= inverse; z *= inverse;\n",
            constant(MIN_LENGTH)
        )
    } else {
        String::new()
    };
    let unused = if normalize { "    (void)scale;\n" } else { "" };
    let _ = write!(
        code,
        "static __device__ __forceinline__ void harmonics(real x, real y, real z, real *h) {{\n{direction}{unused}\
         \x20   solid_harmonics(x, y, z, h);\n}}\n\
         static __device__ __forceinline__ void harmonics_adjoint(real x, real y, real z, const real *g, real *dv) {{\n{direction}"
    );
    if lmax == 0 {
        let _ = write!(code, "{unused}    (void)g;\n    dv[0] = dv[1] = dv[2] = real(0);\n}}\n");
        return code;
    }
    let _ = write!(code, "    real h[{}];\n{}{}", count(lmax - 1), values(&tables, lmax, lmax - 1), gradient(&tables.ladder));
    code += if normalize {
        "    const real along = x * qx + y * qy + z * qz;\n    \
         dv[0] = (qx - x * along) * scale; dv[1] = (qy - y * along) * scale; dv[2] = (qz - z * along) * scale;\n}\n"
    } else {
        "    dv[0] = qx; dv[1] = qy; dv[2] = qz;\n}\n"
    };
    code
}
