//! Steps on rows of features on a device: what a compiled potential does between its maps.
//!
//! Rows are those of features, `[N, dim]`. A row has one owner, and the sum over a row one order. Buffers may be longer than what is used of them.

#![allow(unsafe_code, reason = "launches of kernels, whose lengths are checked")]

use std::marker::PhantomData;

use tesseral_kernels::{Args, Buffer, Device, DeviceError, Element, Kernel, Launch, Real, Source};

/// Rows of a block of threads, as in `rows.cu`.
const ROWS: usize = 8;
/// Threads of a block for one number an atom, as in `rows.cu`.
const THREADS: usize = 256;

const KERNELS: [&str; 9] =
    ["take_rows", "add_rows", "add", "scale_rows", "divide_rows", "divide_rows_adjoint", "dot_rows", "seeds", "add_energies"];

/// An error unless a buffer has `needed` elements.
pub(crate) fn room<T: Element>(what: &'static str, buffer: &Buffer<T>, needed: usize) -> Result<(), DeviceError> {
    if buffer.len() >= needed { Ok(()) } else { Err(DeviceError::Length { what, needed, len: buffer.len() }) }
}

/// An error unless what a kernel is prepared with has the size it must have.
pub(crate) fn size(kernel: &'static str, what: &str, found: usize, expected: usize) -> Result<(), DeviceError> {
    if found == expected { Ok(()) } else { Err(DeviceError::Launch { kernel, what: format!("{what}: {found} instead of {expected}") }) }
}

/// Which row of a table belongs to each atom: its species, for example.
pub struct DeviceIndex {
    rows: Buffer<u32>,
    bound: usize,
}

impl DeviceIndex {
    /// `rows` `[N]`, each below `bound`.
    ///
    /// # Errors
    /// If one is not, or the device fails.
    pub fn new(device: &Device, rows: &[u32], bound: usize) -> Result<Self, DeviceError> {
        let most = rows.iter().copied().max().map_or(0, |row| row as usize + 1);
        if most > bound {
            return Err(DeviceError::Length { what: "rows of a table that atoms refer to", needed: most, len: bound });
        }
        Ok(Self { rows: device.upload(rows)?, bound })
    }

    /// How many atoms.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are no atoms.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// What all rows are below.
    pub fn bound(&self) -> usize {
        self.bound
    }

    /// The rows, `[N]`.
    pub fn rows(&self) -> &Buffer<u32> {
        &self.rows
    }
}

/// The source of the kernels: one for all.
pub fn source<T: Real>() -> Source {
    Source::new::<T>("rows", &KERNELS, String::new())
}

/// The kernels on rows.
pub struct DeviceRows<T> {
    take: Kernel,
    add_table: Kernel,
    add: Kernel,
    scale: Kernel,
    divide: Kernel,
    divide_adjoint: Kernel,
    dot: Kernel,
    seeds: Kernel,
    add_energies: Kernel,
    real: PhantomData<T>,
}

fn launch_rows(n: usize) -> Launch {
    Launch { grid: [n.div_ceil(ROWS) as u32, 1, 1], block: [32, ROWS as u32, 1], shared: 0 }
}

fn launch_atoms(n: usize) -> Launch {
    Launch { grid: [n.div_ceil(THREADS) as u32, 1, 1], block: [THREADS as u32, 1, 1], shared: 0 }
}

impl<T: Real> DeviceRows<T> {
    /// Compiles the kernels.
    ///
    /// # Errors
    /// If the device fails.
    pub fn new(device: &Device) -> Result<Self, DeviceError> {
        let module = device.load(&source::<T>())?;
        let kernel = |k: usize| module.kernel(KERNELS[k]);
        Ok(Self {
            take: kernel(0)?,
            add_table: kernel(1)?,
            add: kernel(2)?,
            scale: kernel(3)?,
            divide: kernel(4)?,
            divide_adjoint: kernel(5)?,
            dot: kernel(6)?,
            seeds: kernel(7)?,
            add_energies: kernel(8)?,
            real: PhantomData,
        })
    }

    fn indexed(
        &self,
        kernel: &Kernel,
        table: &Buffer<T>,
        index: &DeviceIndex,
        y: &mut Buffer<T>,
        columns: usize,
        dim: usize,
    ) -> Result<(), DeviceError> {
        let n = index.len();
        room("rows of features", y, n * dim)?;
        room("a table of rows", table, index.bound * columns)?;
        let mut args = Args::new();
        args.buffer(table).buffer(&index.rows).buffer_mut(y).value(n as u32).value(dim as u32);
        // SAFETY: lengths have just been checked, and the index is below its bound by construction.
        unsafe { kernel.launch(&launch_rows(n), &args) }
    }

    /// `y[i] = table[index[i]]`: `table` `[rows, dim]`, `y` `[N, dim]`.
    ///
    /// # Errors
    /// If lengths do not fit, or the device fails; likewise for all others.
    pub fn take(&self, table: &Buffer<T>, index: &DeviceIndex, y: &mut Buffer<T>, dim: usize) -> Result<(), DeviceError> {
        self.indexed(&self.take, table, index, y, dim, dim)
    }

    /// `y[i] += table[index[i]]`: `table` `[rows, dim]`, `y` `[N, dim]`.
    ///
    /// # Errors
    /// As [`DeviceRows::take`].
    pub fn add_table(&self, table: &Buffer<T>, index: &DeviceIndex, y: &mut Buffer<T>, dim: usize) -> Result<(), DeviceError> {
        self.indexed(&self.add_table, table, index, y, dim, dim)
    }

    /// `y[i] *= factors[index[i]]`: `factors` `[rows]`, `y` `[N, dim]`.
    ///
    /// # Errors
    /// As [`DeviceRows::take`].
    pub fn scale(&self, factors: &Buffer<T>, index: &DeviceIndex, y: &mut Buffer<T>, dim: usize) -> Result<(), DeviceError> {
        self.indexed(&self.scale, factors, index, y, 1, dim)
    }

    /// `y += x`: both `[n, dim]`.
    ///
    /// # Errors
    /// As [`DeviceRows::take`].
    pub fn add(&self, x: &Buffer<T>, y: &mut Buffer<T>, n: usize, dim: usize) -> Result<(), DeviceError> {
        room("features to add", x, n * dim)?;
        room("features to add to", y, n * dim)?;
        let mut args = Args::new();
        args.buffer(x).buffer_mut(y).value(n as u32).value(dim as u32);
        // SAFETY: lengths have just been checked.
        unsafe { self.add.launch(&launch_rows(n), &args) }
    }

    /// `y[i] /= alpha + beta·rho[i]`: `rho` `[n]`, `y` `[n, dim]`.
    ///
    /// # Errors
    /// As [`DeviceRows::take`].
    pub fn divide(&self, rho: &Buffer<T>, (alpha, beta): (T, T), y: &mut Buffer<T>, n: usize, dim: usize) -> Result<(), DeviceError> {
        room("densities", rho, n)?;
        room("rows of features", y, n * dim)?;
        let mut args = Args::new();
        args.buffer(rho).value(alpha).value(beta).buffer_mut(y).value(n as u32).value(dim as u32);
        // SAFETY: lengths have just been checked.
        unsafe { self.divide.launch(&launch_rows(n), &args) }
    }

    /// The adjoint of [`DeviceRows::divide`], of which `y` `[n, dim]` is the result: `d_rho[i] = −beta/(alpha + beta·rho[i]) · Σ g·y`, then
    /// `g[i] /= alpha + beta·rho[i]` in its place.
    ///
    /// # Errors
    /// As [`DeviceRows::take`].
    pub fn divide_adjoint(
        &self,
        rho: &Buffer<T>,
        (alpha, beta): (T, T),
        y: &Buffer<T>,
        g: &mut Buffer<T>,
        d_rho: &mut Buffer<T>,
        n: usize,
        dim: usize,
    ) -> Result<(), DeviceError> {
        room("densities", rho, n)?;
        room("features divided by densities", y, n * dim)?;
        room("cotangents of features", g, n * dim)?;
        room("cotangents of densities", d_rho, n)?;
        let mut args = Args::new();
        args.buffer(rho).value(alpha).value(beta).buffer(y).buffer_mut(g).buffer_mut(d_rho).value(n as u32).value(dim as u32);
        // SAFETY: lengths have just been checked.
        unsafe { self.divide_adjoint.launch(&launch_rows(n), &args) }
    }

    /// `d[i] = Σ a·b` over each row: `a`, `b` `[n, dim]`, `d` `[n]`.
    ///
    /// # Errors
    /// As [`DeviceRows::take`].
    pub fn dot(&self, a: &Buffer<T>, b: &Buffer<T>, d: &mut Buffer<T>, n: usize, dim: usize) -> Result<(), DeviceError> {
        room("left factors", a, n * dim)?;
        room("right factors", b, n * dim)?;
        room("products of rows", d, n)?;
        let mut args = Args::new();
        args.buffer(a).buffer(b).buffer_mut(d).value(n as u32).value(dim as u32);
        // SAFETY: lengths have just been checked.
        unsafe { self.dot.launch(&launch_rows(n), &args) }
    }

    /// `seeds[i] = scale[species[i]]`, rounded: `scale` by species, `seeds` `[N]`.
    ///
    /// # Errors
    /// As [`DeviceRows::take`].
    pub fn seeds(&self, scale: &Buffer<f64>, species: &DeviceIndex, seeds: &mut Buffer<T>) -> Result<(), DeviceError> {
        let n = species.len();
        room("factors of energies", scale, species.bound)?;
        room("seeds", seeds, n)?;
        let mut args = Args::new();
        args.buffer(scale).buffer(&species.rows).buffer_mut(seeds).value(n as u32);
        // SAFETY: lengths have just been checked, and the index is below its bound by construction.
        unsafe { self.seeds.launch(&launch_atoms(n), &args) }
    }

    /// `energies[i] += scale[species[i]]·read[i] + shift[species[i]]`, the last only where there is one: `read`, `energies` `[N]`, others by species.
    ///
    /// # Errors
    /// As [`DeviceRows::take`].
    pub fn add_energies(
        &self,
        read: &Buffer<f64>,
        scale: &Buffer<f64>,
        shift: Option<&Buffer<f64>>,
        species: &DeviceIndex,
        energies: &mut Buffer<f64>,
    ) -> Result<(), DeviceError> {
        let n = species.len();
        room("energies read out", read, n)?;
        room("factors of energies", scale, species.bound)?;
        room("energies", energies, n)?;
        let mut args = Args::new();
        args.buffer(read).buffer(scale);
        match shift {
            Some(shift) => {
                room("shifts of energies", shift, species.bound)?;
                args.buffer(shift)
            }
            None => args.null(),
        };
        args.buffer(&species.rows).buffer_mut(energies).value(n as u32);
        // SAFETY: as in `seeds`.
        unsafe { self.add_energies.launch(&launch_atoms(n), &args) }
    }
}
