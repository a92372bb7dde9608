//! Tables of radial functions on a device, the density of MACE, and the functions themselves.
#![allow(unsafe_code, reason = "kernels are launched by checked methods")]

mod functions;

pub use functions::{DeviceBases, DeviceScalarFunction, DeviceSplines, functions_source};

use std::ops::Range;

use tesseral_kernels::edges::Edges;
use tesseral_kernels::{Args, Buffer, Device, DeviceError, Kernel, Launch, Real, Source};

use super::table::{COEFFICIENTS, TableColumns};
use crate::tensor_product::cuda::edges_fit;

/// Tables of the radial functions of a layer, as `kernels/cuda/radial.cuh` reads them.
pub struct DeviceTables<T: Real> {
    /// `[interval of any table][coefficient][column]`
    data: Buffer<T>,
    /// `[species · species]`: the table of (species of the centre, species of the neighbour).
    of_pair: Buffer<u32>,
    /// 1/h of each table, 1/Å.
    inverse_spacing: Buffer<f64>,
    /// Intervals of each table.
    intervals: Buffer<u32>,
    /// First interval of each table.
    start: Buffer<u32>,
    columns: usize,
    species: usize,
}

impl<T: Real> DeviceTables<T> {
    /// Uploads tables of the same columns; `of_pair[centre · species + neighbour]` says which one a pair has.
    ///
    /// # Errors
    /// If the device has no room.
    ///
    /// # Panics
    /// If tables differ in columns or have no interval, or `of_pair` is not square or names a table that is not there.
    pub fn new(device: &Device, tables: &[TableColumns<T>], of_pair: &[u32]) -> Result<Self, DeviceError> {
        let columns = tables.first().map_or(0, |t| t.columns);
        let species = of_pair.len().isqrt();
        assert_eq!(species * species, of_pair.len(), "tables: one for each ordered pair of species");
        assert!(of_pair.iter().all(|&t| (t as usize) < tables.len()), "tables: a pair has no table");
        let mut data = Vec::with_capacity(tables.iter().map(|t| t.data.len()).sum());
        let (mut start, mut intervals) = (Vec::new(), Vec::new());
        let mut total = 0usize;
        for table in tables {
            assert!(table.columns == columns && table.intervals > 0, "tables: columns and intervals");
            assert_eq!(table.data.len(), table.intervals * COEFFICIENTS * columns, "tables: coefficients");
            start.push(u32::try_from(total).expect("tables have fewer than 2³² intervals"));
            intervals.push(table.intervals as u32);
            total += table.intervals;
            data.extend_from_slice(&table.data);
        }
        let inverse_spacing: Vec<f64> = tables.iter().map(|t| t.inverse_spacing).collect();
        Ok(Self {
            data: device.upload(&data)?,
            of_pair: device.upload(of_pair)?,
            inverse_spacing: device.upload(&inverse_spacing)?,
            intervals: device.upload(&intervals)?,
            start: device.upload(&start)?,
            columns,
            species,
        })
    }

    /// Columns of each table.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Number of species whose pairs have tables.
    pub fn species(&self) -> usize {
        self.species
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> usize {
        self.data.bytes() + self.of_pair.bytes() + self.inverse_spacing.bytes() + self.intervals.bytes() + self.start.bytes()
    }

    /// What kernels take, in their order.
    pub(crate) fn arguments(&self, args: &mut Args) {
        args.buffer(&self.data).buffer(&self.of_pair).buffer(&self.inverse_spacing).buffer(&self.intervals).buffer(&self.start);
    }
}

/// Threads of a block in `kernels/cuda/density.cu`, one warp a centre.
const BLOCK: usize = 128;

/// The density of an atom: the sum over its edges of one radial function, the only column of its tables.
pub struct DeviceDensity<T: Real> {
    forward: Kernel,
    adjoint: Kernel,
    real: std::marker::PhantomData<T>,
}

impl<T: Real> DeviceDensity<T> {
    /// What is compiled. Needs no device.
    #[must_use]
    pub fn source() -> Source {
        Source::new::<T>("density", &["density_forward", "density_adjoint"], String::new())
    }

    /// Compiles the kernels.
    ///
    /// # Errors
    /// If the device does not take them.
    pub fn new(device: &Device) -> Result<Self, DeviceError> {
        let module = device.load(&Self::source())?;
        Ok(Self { forward: module.kernel("density_forward")?, adjoint: module.kernel("density_adjoint")?, real: std::marker::PhantomData })
    }

    /// `density` `[centers]`, overwritten, of the centres asked for.
    ///
    /// # Errors
    /// If the launch fails.
    ///
    /// # Panics
    /// If tables have other than one column or buffers do not fit the edges.
    pub fn forward(
        &self,
        edges: &Edges<T>,
        centers: Range<usize>,
        tables: &DeviceTables<T>,
        density: &mut Buffer<T>,
    ) -> Result<(), DeviceError> {
        check(edges, &centers, tables);
        assert!(density.len() >= centers.len(), "density: one number a centre");
        let mut args = Args::new();
        args.buffer(&edges.begin).buffer(&edges.count).buffer(&edges.pair).buffer(&edges.distance);
        tables.arguments(&mut args);
        args.value(centers.start as u32).value(centers.len() as u32).buffer_mut(density);
        // SAFETY: `check` and the assertion hold all lengths; pairs of edges are pairs of the tables' species.
        unsafe { self.forward.launch(&launch(centers.len()), &args) }
    }

    /// Adds to `dv` `[capacity][3]` the derivatives by vectors of Σ `cotangent` `[centers]` · density.
    ///
    /// # Errors
    /// If the launch fails.
    ///
    /// # Panics
    /// As [`DeviceDensity::forward`].
    pub fn adjoint(
        &self,
        edges: &Edges<T>,
        centers: Range<usize>,
        tables: &DeviceTables<T>,
        cotangent: &Buffer<T>,
        dv: &mut Buffer<T>,
    ) -> Result<(), DeviceError> {
        check(edges, &centers, tables);
        assert!(
            cotangent.len() >= centers.len() && dv.len() >= 3 * edges.capacity,
            "density: cotangents are [centers], derivatives [capacity][3]"
        );
        let mut args = Args::new();
        args.buffer(&edges.begin).buffer(&edges.count).buffer(&edges.pair).buffer(&edges.distance).buffer(&edges.vector);
        tables.arguments(&mut args);
        args.buffer(cotangent).value(centers.start as u32).value(centers.len() as u32).buffer_mut(dv);
        // SAFETY: as in `forward`.
        unsafe { self.adjoint.launch(&launch(centers.len()), &args) }
    }
}

fn check<T: Real>(edges: &Edges<T>, centers: &Range<usize>, tables: &DeviceTables<T>) {
    assert_eq!(tables.columns(), 1, "density: one column");
    edges_fit(edges, centers);
}

fn launch(atoms: usize) -> Launch {
    Launch { grid: [atoms.div_ceil(BLOCK / 32) as u32, 1, 1], block: [BLOCK as u32, 1, 1], shared: 0 }
}
