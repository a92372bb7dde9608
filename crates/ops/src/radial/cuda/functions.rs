//! Radial functions and bases on a device, for training: values or derivatives at any distances.

use std::marker::PhantomData;

use tesseral_kernels::{Args, Buffer, Device, DeviceError, Kernel, Launch, Real, Source};

use super::super::cpu::Basis;
use super::super::spline::{SplineGrid, TAPS};
use super::super::{MAX_ORDER, ScalarFunction};
use crate::rows::{room, size};

/// Threads of a block, as in `functions.cu`.
const THREADS: usize = 128;

const KERNELS: [&str; 9] = [
    "polynomial_envelope",
    "xplor_envelope",
    "agnesi_transform",
    "soft_transform",
    "zbl_repulsion",
    "bessel_basis",
    "gaussian_basis",
    "chebyshev_basis",
    "spline_windows",
];

/// The source of the kernels: one for all functions.
pub fn functions_source<T: Real>() -> Source {
    Source::new::<T>("functions", &KERNELS, String::new())
}

fn launch(threads: usize) -> Launch {
    Launch::rows(threads.div_ceil(THREADS) as u32, THREADS as u32)
}

fn check_order(kernel: &'static str, order: usize) -> Result<(), DeviceError> {
    size(kernel, "order of the derivative, at most 3", order, order.min(MAX_ORDER))
}

/// A [`ScalarFunction`] with its parameters on a device.
pub struct DeviceScalarFunction<T> {
    kernel: Kernel,
    constants: Buffer<f64>,
    of_edges: Vec<Buffer<f64>>,
    edges: Option<usize>,
    real: PhantomData<T>,
}

impl<T: Real> DeviceScalarFunction<T> {
    /// Uploads the parameters of a function.
    ///
    /// # Errors
    /// If parameters are not those of the same number of edges, or the device fails.
    pub fn new(device: &Device, function: &ScalarFunction) -> Result<Self, DeviceError> {
        let (kernel, constants, of_edges): (usize, Vec<f64>, Vec<&[f64]>) = match function {
            &ScalarFunction::PolynomialEnvelope { p, cutoff } => (0, vec![f64::from(p), cutoff], Vec::new()),
            &ScalarFunction::XplorEnvelope { onset, cutoff } => (1, vec![onset, cutoff], Vec::new()),
            ScalarFunction::Agnesi { a, q, p, r0 } => (2, vec![*a, *q, *p], vec![r0]),
            ScalarFunction::Soft { alpha, r0 } => (3, vec![*alpha], vec![r0]),
            ScalarFunction::Zbl { strength, inverse_length, screening, cutoffs, p } => {
                let constants = [f64::from(*p)].into_iter().chain(screening.iter().flat_map(|&(c, b)| [c, b])).collect();
                (4, constants, vec![strength, inverse_length, cutoffs])
            }
        };
        let edges = function.edges();
        for parameters in &of_edges {
            size(KERNELS[kernel], "parameters of edges", parameters.len(), edges.unwrap_or(0))?;
        }
        Ok(Self {
            kernel: device.load(&functions_source::<T>())?.kernel(KERNELS[kernel])?,
            constants: device.upload(&constants)?,
            of_edges: of_edges.iter().map(|p| device.upload(p)).collect::<Result<_, _>>()?,
            edges,
            real: PhantomData,
        })
    }

    /// `out[e]` = derivative of order `order` ≤ 3 at `distances[e]` (Å), for `edges` edges.
    ///
    /// # Errors
    /// If the order is higher, lengths do not fit, the function has parameters for another number of edges, or the device fails.
    pub fn derivative(&self, order: usize, distances: &Buffer<T>, out: &mut Buffer<T>, edges: usize) -> Result<(), DeviceError> {
        check_order(self.kernel.name(), order)?;
        size(self.kernel.name(), "edges", edges, self.edges.unwrap_or(edges))?;
        room("distances", distances, edges)?;
        room("values of a radial function", out, edges)?;
        let mut args = Args::new();
        args.buffer(distances).buffer_mut(out).value(order as u32).buffer(&self.constants);
        for k in 0..3 {
            match self.of_edges.get(k) {
                Some(parameters) => args.buffer(parameters),
                None => args.null(),
            };
        }
        args.value(edges as u32);
        // SAFETY: lengths have just been checked, and parameters are those of the kernel, one for each edge.
        unsafe { self.kernel.launch(&launch(edges), &args) }
    }
}

/// Bessel, Gaussian and Chebyshev bases on a device: values and derivatives.
pub struct DeviceBases<T> {
    bessel: Kernel,
    gaussian: Kernel,
    chebyshev: Kernel,
    real: PhantomData<T>,
}

impl<T: Real> DeviceBases<T> {
    /// Compiles the kernels.
    ///
    /// # Errors
    /// If the device does not take them.
    pub fn new(device: &Device) -> Result<Self, DeviceError> {
        let module = device.load(&functions_source::<T>())?;
        let kernel = |k: usize| module.kernel(KERNELS[k]);
        Ok(Self { bessel: kernel(5)?, gaussian: kernel(6)?, chebyshev: kernel(7)?, real: PhantomData })
    }

    /// ∂_d^`order` ∂_w^`frequency_order` of `prefactor`·sin(w_n d)/d, orders adding up to at most 3: `distances` `[E]`, `frequencies` `[n]` → `out` `[E, n]`.
    ///
    /// # Errors
    /// If orders are higher, lengths do not fit, or the device fails; likewise for the others.
    pub fn bessel(
        &self,
        (prefactor, order, frequency_order): (f64, usize, usize),
        distances: &Buffer<T>,
        frequencies: &Buffer<T>,
        out: &mut Buffer<T>,
        (edges, n): (usize, usize),
    ) -> Result<(), DeviceError> {
        self.basis(Basis::Bessel { prefactor, order, frequency_order }, distances, Some(frequencies), out, (edges, n))
    }

    /// The derivative of order `order` ≤ 3 of exp(`factor`·(d−μ_n)²): `distances` `[E]`, `centers` `[n]` → `out` `[E, n]`.
    ///
    /// # Errors
    /// As [`DeviceBases::bessel`].
    pub fn gaussian(
        &self,
        (factor, order): (f64, usize),
        distances: &Buffer<T>,
        centers: &Buffer<T>,
        out: &mut Buffer<T>,
        (edges, n): (usize, usize),
    ) -> Result<(), DeviceError> {
        self.basis(Basis::Gaussian { factor, order }, distances, Some(centers), out, (edges, n))
    }

    /// The derivative of order `order` ≤ 3 of T_1, …, T_n at `t` `[E]` → `out` `[E, n]`.
    ///
    /// # Errors
    /// As [`DeviceBases::bessel`].
    pub fn chebyshev(&self, order: usize, t: &Buffer<T>, out: &mut Buffer<T>, (edges, n): (usize, usize)) -> Result<(), DeviceError> {
        self.basis(Basis::Chebyshev { order }, t, None, out, (edges, n))
    }

    /// Any of them.
    pub(in crate::radial) fn basis(
        &self,
        basis: Basis,
        distances: &Buffer<T>,
        parameters: Option<&Buffer<T>>,
        out: &mut Buffer<T>,
        (edges, n): (usize, usize),
    ) -> Result<(), DeviceError> {
        room("distances", distances, edges)?;
        room("values of a radial basis", out, edges * n)?;
        let mut args = Args::new();
        args.buffer(distances);
        if let Some(parameters) = parameters {
            room("parameters of a radial basis", parameters, n)?;
            args.buffer(parameters);
        }
        args.buffer_mut(out);
        let (kernel, order, threads) = match basis {
            Basis::Bessel { prefactor, order, frequency_order } => {
                args.value(prefactor).value(order as u32).value(frequency_order as u32);
                (&self.bessel, order + frequency_order, edges * n)
            }
            Basis::Gaussian { factor, order } => {
                args.value(factor).value(order as u32);
                (&self.gaussian, order, edges * n)
            }
            Basis::Chebyshev { order } => {
                args.value(order as u32);
                (&self.chebyshev, order, edges)
            }
        };
        check_order(kernel.name(), order)?;
        args.value(edges as u32).value(n as u32);
        // SAFETY: lengths have just been checked.
        unsafe { kernel.launch(&launch(threads), &args) }
    }
}

/// A [`SplineGrid`] on a device.
pub struct DeviceSplines<T> {
    kernel: Kernel,
    places: Buffer<f64>,
    sizes: Buffer<u32>,
    pieces: usize,
    real: PhantomData<T>,
}

impl<T: Real> DeviceSplines<T> {
    /// Uploads the pieces of a grid.
    ///
    /// # Errors
    /// If the device fails.
    pub fn new(device: &Device, grid: &SplineGrid) -> Result<Self, DeviceError> {
        let places: Vec<f64> = grid.pieces().flat_map(|(start, spacing, ..)| [start, spacing]).collect();
        let sizes: Vec<u32> = grid.pieces().flat_map(|(.., first_row, intervals)| [first_row as u32, intervals as u32]).collect();
        Ok(Self {
            kernel: device.load(&functions_source::<T>())?.kernel(KERNELS[8])?,
            places: device.upload(&places)?,
            sizes: device.upload(&sizes)?,
            pieces: grid.pieces().count(),
            real: PhantomData,
        })
    }

    /// [`SplineGrid::window`] of each of `distances` `[E]` (Å): the first coefficient `first` `[E]`, splines `values` `[E, 6]` and their slopes
    /// `slopes` `[E, 6]` (1/Å), both zero from the distance `limit` (Å) on.
    ///
    /// # Errors
    /// If lengths do not fit, or the device fails.
    pub fn windows(
        &self,
        distances: &Buffer<f64>,
        limit: f64,
        first: &mut Buffer<u32>,
        (values, slopes): (&mut Buffer<T>, &mut Buffer<T>),
        edges: usize,
    ) -> Result<(), DeviceError> {
        room("distances", distances, edges)?;
        room("first coefficients of splines", first, edges)?;
        room("values of splines", values, edges * TAPS)?;
        room("slopes of splines", slopes, edges * TAPS)?;
        let mut args = Args::new();
        args.buffer(distances).buffer(&self.places).buffer(&self.sizes).value(self.pieces as u32).value(limit);
        args.buffer_mut(first).buffer_mut(values).buffer_mut(slopes).value(edges as u32);
        // SAFETY: lengths have just been checked, and a grid has at least one piece.
        unsafe { self.kernel.launch(&launch(edges), &args) }
    }
}
