//! The convolution for inference on a device: `kernels/cuda/convolution.cu` with code for one [`TensorProductSpec`], see `source.rs`.
//!
//! Forward and adjoint have one block of threads a centre, and every output one owner, so that all results have the same bits every time.
//! Cotangents of what neighbours send come from a second pass, in one of two ways ([`Features`]).
#![allow(unsafe_code, reason = "kernels are launched by checked methods")]

mod source;
pub mod training;

use std::ops::Range;

use rayon::prelude::*;
use tesseral_kernels::edges::Edges;
use tesseral_kernels::{Args, Buffer, Device, DeviceError, Kernel, Launch, Real, Source};

use self::source::{Code, Geometry, Part};
use super::TensorProductSpec;
use crate::radial::cuda::DeviceTables;

/// What neighbours send: `[rows][dim_in]`, and the row of each atom where that is not its own number.
pub type Sent<'a, T> = (&'a Buffer<T>, Option<&'a Buffer<u32>>);

/// How the cotangents of what neighbours send are made.
pub enum Features<'a, T: Real> {
    /// Every edge writes its part, and an atom sums the parts of the reverses of its edges: quick, and large.
    Gathered {
        /// `[N][dim_in]`, overwritten, or added to.
        dx: &'a mut Buffer<T>,
        /// `[.., dim_in]`: a row for each edge that the list has for the centres asked for. What finds no room is left out: the caller has to see to it.
        per_edge: &'a mut Buffer<T>,
        /// Whether to add to `dx`.
        accumulate: bool,
    },
    /// An atom goes over its edges again, and reads the cotangents of messages of its neighbours: no room an edge, more to read.
    Pulled {
        /// `[N][dim_in]`, overwritten.
        dx: &'a mut Buffer<T>,
    },
}

/// The kernels for cotangents of features.
struct FeatureKernels {
    adjoint: Kernel,
    gather: Kernel,
    pull: Kernel,
}

/// The kernels of one convolution.
pub struct DeviceConvolution<T: Real> {
    device: Device,
    forward: Kernel,
    adjoint: Kernel,
    /// `None` where features are one.
    features: Option<FeatureKernels>,
    geometry: Geometry,
    /// Whether every column of the features is read.
    reads_all: bool,
    dim_in: usize,
    dim_out: usize,
    columns: usize,
    real: std::marker::PhantomData<T>,
}

impl<T: Real> DeviceConvolution<T> {
    /// What is compiled for a convolution with harmonics up to `lmax`, of the direction if `normalize`; `unit`: all neighbours send 1, what
    /// they are is part of the radial functions. Needs no device.
    ///
    /// # Panics
    /// If a path has a degree of the edge beyond `lmax`, or, with `unit`, features that are not scalars.
    #[must_use]
    pub fn sources(spec: &TensorProductSpec, lmax: usize, normalize: bool, unit: bool) -> Vec<Source> {
        sources::<T>(&Code::new(spec, lmax, normalize, unit, size_of::<T>()), unit)
    }

    /// Compiles the kernels, see [`DeviceConvolution::sources`].
    ///
    /// # Errors
    /// If the device does not take them.
    ///
    /// # Panics
    /// As [`DeviceConvolution::sources`].
    pub fn new(device: &Device, spec: &TensorProductSpec, lmax: usize, normalize: bool, unit: bool) -> Result<Self, DeviceError> {
        let code = Code::new(spec, lmax, normalize, unit, size_of::<T>());
        let modules = sources::<T>(&code, unit).par_iter().map(|source| device.load(source)).collect::<Result<Vec<_>, _>>()?;
        let features = match modules.get(2) {
            Some(module) => Some(FeatureKernels {
                adjoint: module.kernel("convolution_adjoint_features")?,
                gather: module.kernel("convolution_gather")?,
                pull: module.kernel("convolution_pull")?,
            }),
            None => None,
        };
        Ok(Self {
            device: device.clone(),
            forward: modules[0].kernel("convolution_forward")?,
            adjoint: modules[1].kernel("convolution_adjoint")?,
            features,
            geometry: code.geometry,
            reads_all: code.reads_all(),
            dim_in: spec.dim_in,
            dim_out: spec.dim_out,
            columns: spec.weight_numel,
            real: std::marker::PhantomData,
        })
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Length of a row of features.
    pub fn dim_in(&self) -> usize {
        self.dim_in
    }

    /// Length of a row of messages.
    pub fn dim_out(&self) -> usize {
        self.dim_out
    }

    /// Messages `out` `[centers][dim_out]`, overwritten: sums over the edges of each of these atoms. `x` is `None` if all neighbours send 1. Rows that
    /// `x` names must exist.
    ///
    /// # Errors
    /// If the launch fails.
    ///
    /// # Panics
    /// If tables or buffers do not fit the convolution.
    pub fn forward(
        &self,
        edges: &Edges<T>,
        centers: Range<usize>,
        tables: &DeviceTables<T>,
        x: Option<Sent<'_, T>>,
        out: &mut Buffer<T>,
    ) -> Result<(), DeviceError> {
        self.check(edges, &centers, tables, x);
        assert!(out.len() >= centers.len() * self.dim_out, "convolution: messages are [centers][{}]", self.dim_out);
        let mut args = self.arguments(edges, tables);
        sent(&mut args, x);
        args.value(centers.start as u32).buffer_mut(out);
        // SAFETY: `check` and the assertion hold all lengths that the kernel reads and writes; indices come from the list of edges, whose
        // neighbours are atoms and whose pairs are pairs of the tables' species.
        unsafe { self.forward.launch(&self.launch(centers.len(), self.rounds()), &args) }
    }

    /// The adjoint of [`DeviceConvolution::forward`], given the cotangents `g` `[centers][dim_out]` of messages: adds derivatives by the vectors to `dv`
    /// `[capacity][3]`, and makes those by what neighbours send if `dx` asks for them.
    ///
    /// # Errors
    /// If a launch fails.
    ///
    /// # Panics
    /// If tables or buffers do not fit the convolution, if `dx` asks for cotangents of features that are 1 or belong to species, or for those of some
    /// centres to be pulled.
    pub fn adjoint(
        &self,
        edges: &Edges<T>,
        centers: Range<usize>,
        tables: &DeviceTables<T>,
        x: Option<Sent<'_, T>>,
        g: &Buffer<T>,
        dv: &mut Buffer<T>,
        dx: Option<Features<'_, T>>,
    ) -> Result<(), DeviceError> {
        self.check(edges, &centers, tables, x);
        let (atoms, capacity) = (edges.atoms, edges.capacity);
        assert!(g.len() >= centers.len() * self.dim_out, "convolution: cotangents are [centers][{}]", self.dim_out);
        assert!(dv.len() >= 3 * capacity, "convolution: derivatives by vectors are [capacity][3]");
        let mut args = self.arguments(edges, tables);
        sent(&mut args, x);
        args.buffer(g).value(centers.start as u32).buffer_mut(dv);
        let launch = self.launch(centers.len(), 1);
        let Some(dx) = dx else {
            // SAFETY: as in `forward`; `g` and `dv` have the lengths just asserted.
            return unsafe { self.adjoint.launch(&launch, &args) };
        };
        let kernels = self.features.as_ref().expect("convolution: neighbours that all send 1 have no cotangents");
        assert!(x.is_some_and(|x| x.1.is_none()), "convolution: cotangents belong to features of atoms");
        match dx {
            Features::Gathered { dx, per_edge, accumulate } => {
                self.check_cotangents(edges, dx);
                let room = (per_edge.len() / self.dim_in.max(1)).min(u32::MAX as usize) as u32;
                args.value(room).buffer_mut(per_edge);
                let mut gather = Args::new();
                gather.buffer(&edges.begin).buffer(&edges.count).buffer(&edges.reverse).buffer(per_edge).value(room);
                gather.value(centers.start as u32).value(centers.len() as u32).value(u32::from(accumulate)).buffer_mut(dx);
                let columns = self.dim_in.div_ceil(256) as u32;
                let gather_launch = Launch { grid: [atoms as u32, columns, 1], block: [256, 1, 1], shared: 0 };
                // SAFETY: as above; `dx` has the length just asserted, rows of `per_edge` beyond its room are neither written nor read, and reverse edges
                // are active ones of the list.
                unsafe {
                    kernels.adjoint.launch(&launch, &args)?;
                    kernels.gather.launch(&gather_launch, &gather)
                }
            }
            Features::Pulled { dx } => {
                assert!(centers == (0..atoms), "convolution: what neighbours send is pulled for all of them");
                self.check_cotangents(edges, dx);
                // SAFETY: as above.
                unsafe { self.adjoint.launch(&launch, &args)? };
                if !self.reads_all {
                    dx.fill_zero()?;
                }
                let mut args = self.arguments(edges, tables);
                args.value(tables.species() as u32).buffer(g).buffer_mut(dx);
                // SAFETY: as above; `dx` has the length just asserted.
                unsafe { kernels.pull.launch(&self.launch(atoms, self.rounds()), &args) }
            }
        }
    }

    fn check(&self, edges: &Edges<T>, centers: &Range<usize>, tables: &DeviceTables<T>, x: Option<Sent<'_, T>>) {
        assert_eq!(tables.columns(), self.columns, "convolution: columns of the tables");
        assert_eq!(x.is_none(), self.features.is_none(), "convolution: features are given unless all are 1");
        edges_fit(edges, centers);
        if let Some((x, index)) = x {
            let rows = if let Some(index) = index { index.len() } else { x.len() / self.dim_in.max(1) };
            assert!(rows >= edges.atoms, "convolution: features are [N][{}]", self.dim_in);
        }
    }

    fn check_cotangents(&self, edges: &Edges<T>, dx: &Buffer<T>) {
        assert!(dx.len() >= edges.atoms * self.dim_in, "convolution: cotangents of features are [N][{}]", self.dim_in);
    }

    fn arguments(&self, edges: &Edges<T>, tables: &DeviceTables<T>) -> Args {
        let mut args = Args::new();
        args.buffer(&edges.begin).buffer(&edges.count).buffer(&edges.neighbor).buffer(&edges.pair);
        args.buffer(&edges.distance).buffer(&edges.vector);
        tables.arguments(&mut args);
        args
    }

    /// Blocks of threads that share the items of a centre.
    fn rounds(&self) -> usize {
        self.geometry.items.div_ceil(self.geometry.warps)
    }

    fn launch(&self, atoms: usize, rounds: usize) -> Launch {
        Launch { grid: [atoms as u32, rounds as u32, 1], block: [32 * self.geometry.warps as u32, 1, 1], shared: 0 }
    }
}

/// Forward, adjoint, and, unless features are one, adjoint with cotangents of features.
fn sources<T: Real>(code: &Code<'_>, unit: bool) -> Vec<Source> {
    let mut sources = vec![
        Source::new::<T>("convolution", &["convolution_forward"], code.header(Part::Forward)),
        Source::new::<T>("convolution", &["convolution_adjoint"], code.header(Part::Adjoint)),
    ];
    if !unit {
        let kernels = ["convolution_adjoint_features", "convolution_gather", "convolution_pull"];
        sources.push(Source::new::<T>("convolution", &kernels, code.header(Part::Features)));
    }
    sources
}

fn sent<T: Real>(args: &mut Args, x: Option<Sent<'_, T>>) {
    match x {
        Some((rows, Some(index))) => args.buffer(rows).buffer(index),
        Some((rows, None)) => args.buffer(rows).null(),
        None => args.null().null(),
    };
}

/// # Panics
/// If the arrays of a list of edges are shorter than it says, or it does not have the centres.
pub(crate) fn edges_fit<T: Real>(edges: &Edges<T>, centers: &Range<usize>) {
    assert!(centers.start <= centers.end && centers.end <= edges.atoms, "there are no such centres");
    let (n, capacity) = (edges.atoms, edges.capacity);
    let by_edge = [edges.neighbor.len(), edges.reverse.len(), edges.pair.len(), edges.distance.len(), edges.vector.len() / 3];
    assert!(
        edges.begin.len() > n && edges.count.len() >= n && by_edge.iter().all(|&len| len >= capacity),
        "edges are shorter than they say"
    );
}
