//! Harmonics of edges as arrays, with all maps that training needs.

#![allow(unsafe_code, reason = "launches of kernels, whose lengths are checked")]

use std::fmt::Write;
use std::marker::PhantomData;

use tesseral_kernels::{Args, Buffer, Device, DeviceError, Kernel, Launch, Real, Source};

use super::super::cpu::Tables;
use super::super::{MIN_LENGTH, count};
use super::{AXES, constant, gradient, slope, source, values};
use crate::rows::room;

/// Threads of a block, as in `harmonics.cu`.
const THREADS: usize = 128;

const KERNELS: [&str; 4] = ["harmonics_values", "harmonics_gradient", "harmonics_tangent", "harmonics_adjoint_tangent"];

/// The header of `harmonics.cu`: beside [`source`] what it says it needs.
fn header(lmax: usize, normalize: bool) -> String {
    let tables = Tables::<f64>::new(lmax);
    let mut code = source(lmax, normalize);
    let _ = writeln!(
        code,
        "#define NORMALIZE {}\n#define LEAST_LENGTH {}\n#define LOWER {}",
        u32::from(normalize),
        constant(MIN_LENGTH),
        count(lmax.saturating_sub(1))
    );
    let function =
        |name: &str, parameters: &str, body: &str| format!("static __device__ __forceinline__ void {name}({parameters}) {{\n{body}}}\n");
    let unused = if lmax == 0 { "    (void)x; (void)y; (void)z;\n" } else { "" };
    let lower = values(&tables, lmax, lmax.saturating_sub(1));
    code += &function("lower_harmonics", "real x, real y, real z, real *h", &format!("{unused}{lower}"));

    let store = "    q[0] = qx; q[1] = qy; q[2] = qz;\n";
    let of_ladders = |n: usize| format!("    (void)h; (void)g;\n{}{store}", gradient(&tables.ladder[..n]));
    code += &function("solid_gradient", "const real *h, const real *g, real *q", &of_ladders(tables.ladder.len()));
    code += &function("lower_gradient", "const real *h, const real *g, real *q", &of_ladders(count(lmax.saturating_sub(1)) - 1));

    let mut tangent = String::from("    (void)h; (void)u;\n    t[0] = real(0);\n");
    let mut lowered = format!("    (void)g; (void)u;\n    for (u32 i = 0; i < {}; i++) to[i] = real(0);\n", count(lmax.saturating_sub(1)));
    for (i, ladder) in tables.ladder.iter().enumerate() {
        let parts: Vec<String> = (0..3).filter_map(|axis| Some(format!("u[{axis}] * ({})", slope(ladder, AXES[axis].1)?))).collect();
        let _ = writeln!(tangent, "    t[{}] = {};", i + 1, parts.join(" + "));
        for (axis, (_, terms)) in AXES.iter().enumerate() {
            for &k in terms.iter().filter(|&&k| ladder.coefficient[k] != 0.0) {
                let _ = writeln!(lowered, "    to[{}] += {} * u[{axis}] * g[{i}];", ladder.to[k], constant(ladder.coefficient[k]));
            }
        }
    }
    code += &function("solid_tangent", "const real *h, const real *u, real *t", &tangent);
    code += &function("lowered_cotangents", "const real *u, const real *g, real *to", &lowered);
    code
}

/// The four maps of harmonics on arrays of edges, for one `lmax`.
pub struct DeviceHarmonics<T> {
    count: usize,
    kernels: [Kernel; 4],
    real: PhantomData<T>,
}

impl<T: Real> DeviceHarmonics<T> {
    /// What is compiled. Needs no device.
    #[must_use]
    pub fn source(lmax: usize, normalize: bool) -> Source {
        Source::new::<T>("harmonics", &KERNELS, header(lmax, normalize))
    }

    /// Compiles the kernels for harmonics up to degree `lmax`, of directions if `normalize`.
    ///
    /// # Errors
    /// If the device does not take them.
    pub fn new(device: &Device, lmax: usize, normalize: bool) -> Result<Self, DeviceError> {
        let module = device.load(&Self::source(lmax, normalize))?;
        let kernel = |k: usize| module.kernel(KERNELS[k]);
        Ok(Self { count: count(lmax), kernels: [kernel(0)?, kernel(1)?, kernel(2)?, kernel(3)?], real: PhantomData })
    }

    fn run(&self, map: usize, inputs: &[(&Buffer<T>, usize)], out: (&mut Buffer<T>, usize), edges: usize) -> Result<(), DeviceError> {
        let mut args = Args::new();
        for &(buffer, width) in inputs {
            room("vectors, directions or cotangents of harmonics", buffer, edges * width)?;
            args.buffer(buffer);
        }
        room("result of harmonics", out.0, edges * out.1)?;
        args.buffer_mut(out.0).value(edges as u32);
        let launch = Launch::rows(edges.div_ceil(THREADS) as u32, THREADS as u32);
        // SAFETY: lengths have just been checked; each map is called with the buffers of its kernel, in order.
        unsafe { self.kernels[map].launch(&launch, &args) }
    }

    /// Y(v): `vectors` `[E, 3]` → `out` `[E, n]`, n = (lmax+1)².
    ///
    /// # Errors
    /// If lengths do not fit, or the device fails; likewise for the other maps.
    pub fn evaluate(&self, vectors: &Buffer<T>, out: &mut Buffer<T>, edges: usize) -> Result<(), DeviceError> {
        self.run(0, &[(vectors, 3)], (out, self.count), edges)
    }

    /// ∇_v ⟨g, Y(v)⟩: `vectors` `[E, 3]`, `g` `[E, n]` → `out` `[E, 3]`.
    ///
    /// # Errors
    /// As [`DeviceHarmonics::evaluate`].
    pub fn adjoint(&self, vectors: &Buffer<T>, g: &Buffer<T>, out: &mut Buffer<T>, edges: usize) -> Result<(), DeviceError> {
        self.run(1, &[(vectors, 3), (g, self.count)], (out, 3), edges)
    }

    /// (u·∇) Y(v): `vectors` and `u` `[E, 3]` → `out` `[E, n]`.
    ///
    /// # Errors
    /// As [`DeviceHarmonics::evaluate`].
    pub fn tangent(&self, vectors: &Buffer<T>, u: &Buffer<T>, out: &mut Buffer<T>, edges: usize) -> Result<(), DeviceError> {
        self.run(2, &[(vectors, 3), (u, 3)], (out, self.count), edges)
    }

    /// ∇_v ⟨g, (u·∇) Y(v)⟩: `vectors` and `u` `[E, 3]`, `g` `[E, n]` → `out` `[E, 3]`.
    ///
    /// # Errors
    /// As [`DeviceHarmonics::evaluate`].
    pub fn adjoint_tangent(
        &self,
        vectors: &Buffer<T>,
        g: &Buffer<T>,
        u: &Buffer<T>,
        out: &mut Buffer<T>,
        edges: usize,
    ) -> Result<(), DeviceError> {
        self.run(3, &[(vectors, 3), (g, self.count), (u, 3)], (out, 3), edges)
    }
}
