//! The convolution for training on a device: `kernels/cuda/training_convolution.cu`, the maps of `cpu.rs` and `tangent.rs`.
//!
//! Every output has one owner: rows of outputs and of derivatives by cotangents are summed by their centre, those by features by the atom that is
//! read, those by harmonics and radial features by their edge. Derivatives by the radial matrix are summed over chunks of edges, then over chunks in
//! order. So all results have the same bits every time. Radial weights exist for a few edges at a time.

mod source;
#[cfg(test)]
mod tests;

use rayon::prelude::*;
use tesseral_kernels::{Args, Buffer, Device, DeviceError, Kernel, Launch, Real, Source};

use self::source::Code;
use crate::graph::Graph;
use crate::tensor_product::{TensorProductSpec, Windows};

/// Radial features that kernels hold room for.
pub const MAX_HIDDEN: usize = 128;
/// Edges of a chunk, at most with windows, and without them at least.
const CHUNK: usize = 256;
/// Chunks without windows, at most.
const MOST_CHUNKS: usize = 128;
/// Warps of a block of threads, at most.
const MOST_WARPS: usize = 4;
/// Shared memory of a block of threads that no GPU has to be asked for.
const SHARED_BYTES: usize = 48 << 10;

/// A [`Graph`] on a device, with the windows of its edges if there are any.
pub struct DeviceGraph {
    atoms: usize,
    edges: usize,
    /// `[N + 1]`, the edges of each centre.
    begin: Buffer<u32>,
    /// `[E]` each.
    neighbor: Buffer<u32>,
    center: Buffer<u32>,
    reverse: Buffer<u32>,
    windows: Option<DeviceWindows>,
    /// How many chunks of edges there are for derivatives by the radial matrix.
    chunks: usize,
    /// `[chunks + 1]`, places in `order`, or edges where there are no windows.
    chunk_begin: Buffer<u32>,
}

/// Windows of edges, and edges sorted by them.
struct DeviceWindows {
    rows: usize,
    /// The last first row.
    last: usize,
    /// `[E]`
    first: Buffer<u32>,
    /// `[E]`, the edges sorted by first row.
    order: Buffer<u32>,
    /// `[chunks]`, the first row of each chunk.
    chunk_first: Buffer<u32>,
    /// `[rows + 1]`, how many chunks start before each row.
    chunks_before: Buffer<u32>,
}

impl DeviceGraph {
    /// Copies a graph to a device.
    ///
    /// # Errors
    /// If the device has no room.
    ///
    /// # Panics
    /// If there is not one window an edge, or one starts beyond the matrix, or there are 2³² edges.
    pub fn new(device: &Device, graph: &Graph, windows: Option<&Windows>) -> Result<Self, DeviceError> {
        let edges = graph.num_edges();
        assert!(u32::try_from(edges).is_ok(), "edges are counted in 32 bits");
        let begin: Vec<u32> = graph.segments().offsets().iter().map(|&e| e as u32).collect();
        let (chunk_begin, windows) = match windows {
            None => {
                let chunk = CHUNK.max(edges.div_ceil(MOST_CHUNKS));
                ((0..edges).step_by(chunk).chain([edges]).map(|e| e as u32).collect(), None)
            }
            Some(windows) => {
                let (chunk_begin, windows) = chunks_of_windows(device, edges, windows)?;
                (chunk_begin, Some(windows))
            }
        };
        Ok(Self {
            atoms: graph.num_atoms(),
            edges,
            begin: device.upload(&begin)?,
            neighbor: device.upload(graph.neighbors())?,
            center: device.upload(graph.centers())?,
            reverse: device.upload(graph.reverse())?,
            windows,
            chunks: chunk_begin.len() - 1,
            chunk_begin: device.upload(&chunk_begin)?,
        })
    }

    /// How many atoms.
    #[must_use]
    pub fn num_atoms(&self) -> usize {
        self.atoms
    }

    /// How many directed edges.
    #[must_use]
    pub fn num_edges(&self) -> usize {
        self.edges
    }

    /// Rows of the radial matrix.
    fn rows(&self, hidden: usize) -> usize {
        self.windows.as_ref().map_or(hidden, |w| w.rows)
    }
}

/// Where chunks begin, and what belongs to windows.
fn chunks_of_windows(device: &Device, edges: usize, windows: &Windows) -> Result<(Vec<u32>, DeviceWindows), DeviceError> {
    let Windows { first, rows } = windows;
    assert_eq!(first.len(), edges, "windows are one an edge");
    let last = first.iter().max().map_or(0, |&f| f as usize);
    assert!(edges == 0 || last < *rows, "windows start inside the matrix");
    let mut order: Vec<u32> = (0..edges as u32).collect();
    order.sort_by_key(|&e| first[e as usize]);
    let (mut chunk_begin, mut chunk_first) = (vec![0], Vec::new());
    let mut chunks_before = vec![0; rows + 1];
    for same in order.chunk_by(|&a, &b| first[a as usize] == first[b as usize]) {
        for chunk in same.chunks(CHUNK) {
            chunk_begin.push(chunk_begin[chunk_first.len()] + chunk.len() as u32);
            chunk_first.push(first[chunk[0] as usize]);
        }
        chunks_before[first[same[0] as usize] as usize + 1] = chunk_first.len() as u32;
    }
    for row in 0..*rows {
        chunks_before[row + 1] = chunks_before[row + 1].max(chunks_before[row]);
    }
    let windows = DeviceWindows {
        rows: *rows,
        last,
        first: device.upload(first)?,
        order: device.upload(&order)?,
        chunk_first: device.upload(&chunk_first)?,
        chunks_before: device.upload(&chunks_before)?,
    };
    Ok((chunk_begin, windows))
}

/// The inputs of all maps.
#[derive(Clone, Copy)]
pub struct DeviceInputs<'a, T> {
    /// `[N]` rows: features `[dim_in]`; for derivatives then cotangents `[dim_out]`; along a direction then that of features `[dim_in]`.
    pub x: &'a Buffer<T>,
    /// Numbers from one row of `x` to the next.
    pub x_stride: usize,
    /// `[E]` rows: harmonics `[dim_edge]`, then radial features `[hidden]`; along a direction then that of both.
    pub q: &'a Buffer<T>,
    /// Numbers from one row of `q` to the next.
    pub q_stride: usize,
    /// Radial features of an edge, at most [`MAX_HIDDEN`].
    pub hidden: usize,
    /// The radial matrix, `[rows][weight_numel]`: as many rows as radial features, or as windows say.
    pub w: &'a Buffer<T>,
}

/// Where derivatives go, those that are asked for; all are overwritten.
pub struct DeviceDerivatives<'a, T> {
    /// By features, `[N][dim_in]`; along a direction by features and cotangents, `[N][dim_in + dim_out]`.
    pub dx: Option<&'a mut Buffer<T>>,
    /// By harmonics and radial features, `[E][dim_edge + hidden]`.
    pub dq: Option<&'a mut Buffer<T>>,
    /// By the radial matrix, `[rows][weight_numel]`, and room for [`TrainingConvolution::scratch_len`] numbers.
    pub dw: Option<(&'a mut Buffer<T>, &'a mut Buffer<T>)>,
}

/// The kernels of S, or of P.
struct Kernels {
    forward: Kernel,
    features: Kernel,
    edges: Kernel,
    matrix: Kernel,
    /// Numbers of shared memory of a warp without radial features, and for each of those.
    shared: [usize; 2],
}

/// The kernels of one convolution.
pub struct TrainingConvolution<T: Real> {
    device: Device,
    /// Of S = Σ cotangents·outputs, and of its derivative along a direction.
    kernels: [Kernels; 2],
    sum: Kernel,
    items: usize,
    reads_all: bool,
    dim_in: usize,
    dim_edge: usize,
    dim_out: usize,
    columns: usize,
    real: std::marker::PhantomData<T>,
}

const KERNELS: [&str; 4] = ["training_forward", "training_features", "training_edges", "training_matrix"];

impl<T: Real> TrainingConvolution<T> {
    /// What is compiled for a convolution. Needs no device.
    #[must_use]
    pub fn sources(spec: &TensorProductSpec) -> Vec<Source> {
        let source = |along| Source::new::<T>("training_convolution", &KERNELS, Code::new(spec, along, size_of::<T>()).header());
        vec![source(false), source(true), Source::new::<T>("training_convolution_sum", &["training_matrix_sum"], String::new())]
    }

    /// Compiles the kernels, see [`TrainingConvolution::sources`].
    ///
    /// # Errors
    /// If the device does not take them.
    pub fn new(device: &Device, spec: &TensorProductSpec) -> Result<Self, DeviceError> {
        let modules = Self::sources(spec).par_iter().map(|source| device.load(source)).collect::<Result<Vec<_>, _>>()?;
        let codes = [false, true].map(|along| Code::new(spec, along, size_of::<T>()));
        let kernels = |k: usize| -> Result<Kernels, DeviceError> {
            Ok(Kernels {
                forward: modules[k].kernel(KERNELS[0])?,
                features: modules[k].kernel(KERNELS[1])?,
                edges: modules[k].kernel(KERNELS[2])?,
                matrix: modules[k].kernel(KERNELS[3])?,
                shared: [codes[k].shared(0), codes[k].shared(1) - codes[k].shared(0)],
            })
        };
        Ok(Self {
            device: device.clone(),
            kernels: [kernels(0)?, kernels(1)?],
            sum: modules[2].kernel("training_matrix_sum")?,
            items: codes[0].items(),
            reads_all: codes[0].reads_all(),
            dim_in: spec.dim_in,
            dim_edge: spec.dim_edge,
            dim_out: spec.dim_out,
            columns: spec.weight_numel,
            real: std::marker::PhantomData,
        })
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Numbers of the scratch that derivatives by the radial matrix need.
    #[must_use]
    pub fn scratch_len(&self, graph: &DeviceGraph, hidden: usize) -> usize {
        graph.chunks * hidden * self.columns
    }

    /// The convolution, `[N][dim_out]`, overwritten.
    ///
    /// # Errors
    /// If the launch fails.
    ///
    /// # Panics
    /// If buffers do not fit the convolution and the graph, or there are more than [`MAX_HIDDEN`] radial features.
    pub fn forward(&self, graph: &DeviceGraph, inputs: DeviceInputs<'_, T>, out: &mut Buffer<T>) -> Result<(), DeviceError> {
        self.check(graph, &inputs, self.dim_in, 1);
        assert!(out.len() >= graph.atoms * self.dim_out, "convolution: outputs are [N][{}]", self.dim_out);
        let mut args = Args::new();
        args.buffer(&graph.begin).buffer(&graph.neighbor);
        self.arguments(&mut args, graph, &inputs);
        args.buffer_mut(out);
        let kernels = &self.kernels[0];
        // SAFETY: `check` and the assertion hold all lengths that the kernel reads and writes; the graph's indices are those of a checked `Graph`, and
        // windows lie inside the matrix.
        unsafe { kernels.forward.launch(&self.launch(kernels, graph.atoms, inputs.hidden), &args) }
    }

    /// The derivatives of Σ cotangents·outputs.
    ///
    /// # Errors
    /// If a launch fails.
    ///
    /// # Panics
    /// As [`TrainingConvolution::forward`].
    pub fn adjoint(&self, graph: &DeviceGraph, inputs: DeviceInputs<'_, T>, to: DeviceDerivatives<'_, T>) -> Result<(), DeviceError> {
        self.check(graph, &inputs, self.dim_in + self.dim_out, 1);
        self.derivatives(graph, &inputs, to, false)
    }

    /// The derivatives of P, the derivative of Σ cotangents·outputs along a direction of features, harmonics and radial features.
    ///
    /// # Errors
    /// If a launch fails.
    ///
    /// # Panics
    /// As [`TrainingConvolution::forward`].
    pub fn adjoint_tangent(
        &self,
        graph: &DeviceGraph,
        inputs: DeviceInputs<'_, T>,
        to: DeviceDerivatives<'_, T>,
    ) -> Result<(), DeviceError> {
        self.check(graph, &inputs, 2 * self.dim_in + self.dim_out, 2);
        self.derivatives(graph, &inputs, to, true)
    }

    fn derivatives(
        &self,
        graph: &DeviceGraph,
        inputs: &DeviceInputs<'_, T>,
        to: DeviceDerivatives<'_, T>,
        along: bool,
    ) -> Result<(), DeviceError> {
        let (kernels, hidden) = (&self.kernels[usize::from(along)], inputs.hidden);
        let launch = self.launch(kernels, graph.atoms, hidden);
        if let Some(dx) = to.dx {
            let width = if along { self.dim_in + self.dim_out } else { self.dim_in };
            assert!(dx.len() >= graph.atoms * width, "convolution: derivatives by features are [N][{width}]");
            if !self.reads_all {
                dx.fill_zero()?;
            }
            let mut args = Args::new();
            args.buffer(&graph.begin).buffer(&graph.neighbor).buffer(&graph.reverse);
            self.arguments(&mut args, graph, inputs);
            args.buffer_mut(dx);
            // SAFETY: as in `forward`; `dx` has the length just asserted.
            unsafe { kernels.features.launch(&launch, &args)? };
            if along {
                let mut args = Args::new();
                args.buffer(&graph.begin).buffer(&graph.neighbor);
                self.arguments(&mut args, graph, inputs);
                args.buffer_mut(dx);
                // SAFETY: as above.
                unsafe { kernels.forward.launch(&launch, &args)? };
            }
        }
        if let Some(dq) = to.dq {
            let width = self.dim_edge + hidden;
            assert!(dq.len() >= graph.edges * width, "convolution: derivatives by edges are [E][{width}]");
            let mut args = Args::new();
            args.buffer(&graph.begin).buffer(&graph.neighbor);
            self.arguments(&mut args, graph, inputs);
            args.buffer_mut(dq);
            // SAFETY: as in `forward`; `dq` has the length just asserted.
            unsafe { kernels.edges.launch(&Launch { grid: [graph.atoms as u32, 1, 1], ..launch }, &args)? };
        }
        if let Some((dw, scratch)) = to.dw {
            self.by_matrix(kernels, graph, inputs, dw, scratch)?;
        }
        Ok(())
    }

    fn by_matrix(
        &self,
        kernels: &Kernels,
        graph: &DeviceGraph,
        inputs: &DeviceInputs<'_, T>,
        dw: &mut Buffer<T>,
        scratch: &mut Buffer<T>,
    ) -> Result<(), DeviceError> {
        let (hidden, rows) = (inputs.hidden, graph.rows(inputs.hidden));
        assert!(dw.len() >= rows * self.columns, "convolution: derivatives by the matrix are [{rows}][{}]", self.columns);
        assert!(scratch.len() >= self.scratch_len(graph, hidden), "convolution: the scratch is too small");
        let mut args = Args::new();
        args.buffer(&graph.chunk_begin);
        match &graph.windows {
            Some(windows) => args.buffer(&windows.order),
            None => args.null(),
        };
        args.buffer(&graph.center).buffer(&graph.neighbor);
        self.arguments(&mut args, graph, inputs);
        args.buffer_mut(scratch);
        let mut sum = Args::new();
        match &graph.windows {
            Some(windows) => sum.buffer(&windows.chunks_before).buffer(&windows.chunk_first),
            None => sum.null().null(),
        };
        sum.value(graph.chunks as u32).value(hidden as u32).value(self.columns as u32).buffer(scratch).buffer_mut(dw);
        let sum_launch = Launch { grid: [self.columns.div_ceil(128) as u32, rows as u32, 1], block: [128, 1, 1], shared: 0 };
        // SAFETY: as in `forward`; `dw` and `scratch` have the lengths just asserted, and chunks are made of the graph's edges.
        unsafe {
            kernels.matrix.launch(&self.launch(kernels, graph.chunks, hidden), &args)?;
            self.sum.launch(&sum_launch, &sum)
        }
    }

    /// Rows of `x` hold `x_width` numbers, those of `q` `copies` of harmonics and radial features.
    fn check(&self, graph: &DeviceGraph, inputs: &DeviceInputs<'_, T>, x_width: usize, copies: usize) {
        let (hidden, rows) = (inputs.hidden, graph.rows(inputs.hidden));
        assert!(hidden <= MAX_HIDDEN, "convolution: {hidden} radial features, of at most {MAX_HIDDEN}");
        let width = copies * (self.dim_edge + hidden);
        assert!(
            inputs.x_stride >= x_width && inputs.x.len() >= graph.atoms * inputs.x_stride,
            "convolution: rows of atoms are [N][{x_width}]"
        );
        assert!(inputs.q_stride >= width && inputs.q.len() >= graph.edges * inputs.q_stride, "convolution: rows of edges are [E][{width}]");
        assert!(inputs.w.len() >= rows * self.columns, "convolution: the matrix is [{rows}][{}]", self.columns);
        let inside = graph.windows.as_ref().is_none_or(|w| graph.edges == 0 || w.last + hidden <= w.rows);
        assert!(inside, "convolution: windows of {hidden} rows do not fit a matrix of {rows}");
    }

    /// The arguments that all kernels have.
    fn arguments(&self, args: &mut Args, graph: &DeviceGraph, inputs: &DeviceInputs<'_, T>) {
        match &graph.windows {
            Some(windows) => args.buffer(&windows.first),
            None => args.null(),
        };
        args.buffer(inputs.x).value(inputs.x_stride as u32).buffer(inputs.q).value(inputs.q_stride as u32);
        args.value(inputs.hidden as u32).buffer(inputs.w);
    }

    /// As many warps a block of threads as shared memory has room for.
    fn launch(&self, kernels: &Kernels, sets: usize, hidden: usize) -> Launch {
        let bytes = (kernels.shared[0] + hidden * kernels.shared[1]) * size_of::<T>();
        let warps = (SHARED_BYTES / bytes.max(1)).clamp(1, MOST_WARPS.min(self.items.max(1)));
        Launch {
            grid: [sets as u32, self.items.div_ceil(warps) as u32, 1],
            block: [32 * warps as u32, 1, 1],
            shared: (warps * bytes) as u32,
        }
    }
}
