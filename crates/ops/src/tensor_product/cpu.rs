//! The fused kernels: tiles of edges, radial weights by `gemm` for one tile, products vectorised over channels.
//!
//! Every output row has one owner (a centre, or an edge seen from the neighbour it gathers from), tiles depend on shapes alone: no atomics,
//! the same bits for any number of threads.

use std::ops::Range;

use rayon::prelude::*;

use super::TensorProductSpec;
use crate::graph::Graph;
use crate::real::Real;
use crate::simd::{Fma, Kernel, dispatch};

/// Channels that are worked on together: one AVX-512 register of f32, two of f64.
const LANES: usize = 16;

/// One entry (m1, m3) of a path's matrix T: the combination of harmonics Σ_m2 C[m1, m2, m3]·Y[m2] that couples input m1 to output m3.
struct Entry {
    terms: Range<usize>,
}

struct PlannedPath {
    mul: usize,
    /// Components of input and output; the path has their product as entries, m1 slow.
    components: [usize; 2],
    in_row: usize,
    out_row: usize,
    /// Channels between two components of the output block.
    out_stride: usize,
    weight_offset: usize,
    first_entry: usize,
}

/// The path list flattened for the loops.
pub(super) struct Plan<T> {
    paths: Vec<PlannedPath>,
    entries: Vec<Entry>,
    terms: Vec<(usize, T)>,
    dim_in: usize,
    dim_edge: usize,
    dim_out: usize,
    weight_numel: usize,
}

impl<T: Real> Plan<T> {
    pub(super) fn new(spec: &TensorProductSpec) -> Self {
        let (mut entries, mut terms, mut paths) = (Vec::new(), Vec::new(), Vec::new());
        for path in &spec.paths {
            let components = [path.irreps[0].dim(), path.irreps[2].dim()];
            let first_entry = entries.len();
            for m1 in 0..components[0] {
                for m3 in 0..components[1] {
                    let begin = terms.len();
                    let mine = path.coefficients.iter().filter(|c| c.0 == m1 && c.2 == m3);
                    terms.extend(mine.map(|&(_, m2, _, c)| (path.edge_offset + m2, T::of(c))));
                    entries.push(Entry { terms: begin..terms.len() });
                }
            }
            paths.push(PlannedPath {
                mul: path.mul,
                components,
                in_row: path.in_offset,
                out_row: path.out_offset + path.out_channel,
                out_stride: path.out_channels,
                weight_offset: path.weight_offset,
                first_entry,
            });
        }
        Self { paths, entries, terms, dim_in: spec.dim_in, dim_edge: spec.dim_edge, dim_out: spec.dim_out, weight_numel: spec.weight_numel }
    }

    /// Edges of one tile: its radial weights stay in the second-level cache.
    fn tile(&self) -> usize {
        ((256 << 10) / (self.weight_numel.max(1) * size_of::<T>())).clamp(16, 128)
    }

    /// Ranges of atoms with at least a tile of edges each (or the last ones).
    fn tasks(&self, graph: &Graph) -> Vec<Range<usize>> {
        let (tile, segments) = (self.tile(), graph.segments());
        let mut tasks = Vec::new();
        let mut start = 0;
        for i in 0..graph.num_atoms() {
            if segments.offsets()[i + 1] - segments.offsets()[start] >= tile || i + 1 - start >= 64 || i + 1 == graph.num_atoms() {
                tasks.push(start..i + 1);
                start = i + 1;
            }
        }
        tasks
    }

    /// T of every path for one edge.
    #[inline(always)]
    fn combine<F: Fma>(&self, y: &[T], t: &mut [T]) {
        for (value, entry) in t.iter_mut().zip(&self.entries) {
            let mut sum = T::zero();
            for &(m2, c) in &self.terms[entry.terms.clone()] {
                sum = F::fma(c, y[m2], sum);
            }
            *value = sum;
        }
    }
}

#[inline(always)]
fn lanes<const L: usize, T: Copy>(x: &[T], at: usize) -> [T; L] {
    *x[at..].first_chunk().expect("a slab of channels lies inside its row")
}

#[inline(always)]
fn lanes_mut<const L: usize, T>(x: &mut [T], at: usize) -> &mut [T; L] {
    x[at..].first_chunk_mut().expect("a slab of channels lies inside its row")
}

#[inline(always)]
fn fma<const L: usize, T: Real, F: Fma>(a: T, x: &[T; L], sum: &mut [T; L]) {
    for l in 0..L {
        sum[l] = F::fma(a, x[l], sum[l]);
    }
}

#[inline(always)]
fn fma2<const L: usize, T: Real, F: Fma>(a: &[T; L], x: &[T; L], sum: &mut [T; L]) {
    for l in 0..L {
        sum[l] = F::fma(a[l], x[l], sum[l]);
    }
}

/// Calls `$function::<components of input, components of output, …>` with the components as constants for degrees up to 3, so that the
/// loops over them unroll; 0 means that the function looks them up.
macro_rules! with_components {
    ($path:expr, $function:ident, [$($generic:ty),*], $($arg:expr),*) => {
        match $path.components {
            [1, 1] => $function::<1, 1, 1, $($generic),*>($($arg),*),
            [1, 3] => $function::<1, 3, 3, $($generic),*>($($arg),*),
            [1, 5] => $function::<1, 5, 5, $($generic),*>($($arg),*),
            [1, 7] => $function::<1, 7, 7, $($generic),*>($($arg),*),
            [3, 1] => $function::<3, 1, 3, $($generic),*>($($arg),*),
            [3, 3] => $function::<3, 3, 9, $($generic),*>($($arg),*),
            [3, 5] => $function::<3, 5, 15, $($generic),*>($($arg),*),
            [3, 7] => $function::<3, 7, 21, $($generic),*>($($arg),*),
            [5, 1] => $function::<5, 1, 5, $($generic),*>($($arg),*),
            [5, 3] => $function::<5, 3, 15, $($generic),*>($($arg),*),
            [5, 5] => $function::<5, 5, 25, $($generic),*>($($arg),*),
            [5, 7] => $function::<5, 7, 35, $($generic),*>($($arg),*),
            [7, 1] => $function::<7, 1, 7, $($generic),*>($($arg),*),
            [7, 3] => $function::<7, 3, 21, $($generic),*>($($arg),*),
            [7, 5] => $function::<7, 5, 35, $($generic),*>($($arg),*),
            [7, 7] => $function::<7, 7, 49, $($generic),*>($($arg),*),
            _ => $function::<0, 0, MAX_ENTRIES, $($generic),*>($($arg),*),
        }
    };
}

#[inline(always)]
fn counts<const N1: usize, const N3: usize>(path: &PlannedPath) -> (usize, usize) {
    if N1 == 0 { (path.components[0], path.components[1]) } else { (N1, N3) }
}

/// One path of one edge, all channels: out[m3] += r · Σ_m1 T[m1, m3] x[m1].
#[inline(always)]
fn path_forward<const N1: usize, const N3: usize, const N: usize, T: Real, F: Fma>(
    path: &PlannedPath,
    t: &[T],
    x: &[T],
    r: &[T],
    out: &mut [T],
) {
    let slabs = path.mul / LANES * LANES;
    for c in (0..slabs).step_by(LANES) {
        slab_forward::<N1, N3, LANES, T, F>(path, c, t, x, r, out);
    }
    for c in slabs..path.mul {
        slab_forward::<N1, N3, 1, T, F>(path, c, t, x, r, out);
    }
}

#[inline(always)]
fn slab_forward<const N1: usize, const N3: usize, const L: usize, T: Real, F: Fma>(
    path: &PlannedPath,
    c: usize,
    t: &[T],
    x: &[T],
    r: &[T],
    out: &mut [T],
) {
    let (n1, n3) = counts::<N1, N3>(path);
    let r: [T; L] = lanes(r, c);
    for m3 in 0..n3 {
        let mut sum = [T::zero(); L];
        for m1 in 0..n1 {
            fma::<L, T, F>(t[m1 * n3 + m3], &lanes(x, path.in_row + m1 * path.mul + c), &mut sum);
        }
        fma2::<L, T, F>(&r, &sum, lanes_mut(out, path.out_row + m3 * path.out_stride + c));
    }
}

/// What the adjoint of one edge reads and writes.
struct EdgeAdjoint<'a, T> {
    x: &'a [T],
    g: &'a [T],
    r: &'a [T],
    dr: &'a mut [T],
    /// Cotangent of the features of the neighbour; empty if not asked for.
    dx: &'a mut [T],
}

/// One path of one edge, all channels. With u[m1] = Σ_m3 T[m1, m3] g[m3]: dx[m1] += r·u[m1], dr = Σ_m1 x[m1]·u[m1], and
/// dT[m1, m3] = Σ_channels r·x[m1]·g[m3].
#[inline(always)]
fn path_adjoint<const N1: usize, const N3: usize, const N: usize, T: Real, F: Fma>(
    path: &PlannedPath,
    t: &[T],
    dt: &mut [T],
    edge: &mut EdgeAdjoint<'_, T>,
) {
    let slabs = path.mul / LANES * LANES;
    let mut wide = [[T::zero(); LANES]; N];
    for c in (0..slabs).step_by(LANES) {
        slab_adjoint::<N1, N3, N, LANES, T, F>(path, c, t, &mut wide, edge);
    }
    let mut narrow = [[T::zero(); 1]; N];
    for c in slabs..path.mul {
        slab_adjoint::<N1, N3, N, 1, T, F>(path, c, t, &mut narrow, edge);
    }
    for ((d, wide), narrow) in dt.iter_mut().zip(&wide).zip(&narrow) {
        let mut half = [T::zero(); LANES / 2];
        for l in 0..LANES / 2 {
            half[l] = wide[l] + wide[l + LANES / 2];
        }
        *d = half.iter().copied().sum::<T>() + narrow[0];
    }
}

/// Entries of the largest path: both degrees at most [`super::MAX_DEGREE`].
const MAX_ENTRIES: usize = (2 * super::MAX_DEGREE + 1).pow(2);

#[inline(always)]
fn slab_adjoint<const N1: usize, const N3: usize, const N: usize, const L: usize, T: Real, F: Fma>(
    path: &PlannedPath,
    c: usize,
    t: &[T],
    dt: &mut [[T; L]; N],
    edge: &mut EdgeAdjoint<'_, T>,
) {
    let (n1, n3) = counts::<N1, N3>(path);
    let r: [T; L] = lanes(edge.r, path.weight_offset + c);
    let mut dr = [T::zero(); L];
    for m1 in 0..n1 {
        let x: [T; L] = lanes(edge.x, path.in_row + m1 * path.mul + c);
        let mut rx = [T::zero(); L];
        for l in 0..L {
            rx[l] = r[l] * x[l];
        }
        let mut u = [T::zero(); L];
        for m3 in 0..n3 {
            let g: [T; L] = lanes(edge.g, path.out_row + m3 * path.out_stride + c);
            fma::<L, T, F>(t[m1 * n3 + m3], &g, &mut u);
            fma2::<L, T, F>(&rx, &g, &mut dt[m1 * n3 + m3]);
        }
        fma2::<L, T, F>(&x, &u, &mut dr);
        if !edge.dx.is_empty() {
            fma2::<L, T, F>(&r, &u, lanes_mut(edge.dx, path.in_row + m1 * path.mul + c));
        }
    }
    *lanes_mut(edge.dr, path.weight_offset + c) = dr;
}

/// The products of the edges of a tile, added to the output rows of their centres.
struct TileForward<'a, 'b, T> {
    inputs: &'a Inputs<'b, T>,
    first: usize,
    count: usize,
    r: &'a [T],
    t: &'a mut [T],
    first_atom: usize,
    out: &'a mut [T],
}

impl<T: Real> Kernel for TileForward<'_, '_, T> {
    type Output = ();

    #[inline(always)]
    fn run<F: Fma>(self) {
        let Inputs { plan, graph, .. } = *self.inputs;
        for k in 0..self.count {
            let e = self.first + k;
            let (i, j) = (graph.centers()[e] as usize, graph.neighbors()[e] as usize);
            let out = &mut self.out[(i - self.first_atom) * plan.dim_out..][..plan.dim_out];
            let (x, r) = (self.inputs.x(j), &self.r[k * plan.weight_numel..][..plan.weight_numel]);
            plan.combine::<F>(self.inputs.y(e), self.t);
            for path in &plan.paths {
                let t = &self.t[path.first_entry..];
                let r = &r[path.weight_offset..];
                with_components!(path, path_forward, [T, F], path, t, x, r, out);
            }
        }
    }
}

/// The derivatives of one edge with harmonics `y` by its features (added), its radial weights and its harmonics (written).
#[inline(always)]
fn edge_adjoint<T: Real, F: Fma>(plan: &Plan<T>, y: &[T], t: &mut [T], dt: &mut [T], dy: &mut [T], edge: &mut EdgeAdjoint<'_, T>) {
    plan.combine::<F>(y, t);
    for path in &plan.paths {
        let entries = path.first_entry..path.first_entry + path.components[0] * path.components[1];
        let (t, dt) = (&t[entries.clone()], &mut dt[entries]);
        with_components!(path, path_adjoint, [T, F], path, t, dt, edge);
    }
    dy.fill(T::zero());
    for (entry, &d) in plan.entries.iter().zip(dt.iter()) {
        for &(m2, c) in &plan.terms[entry.terms.clone()] {
            dy[m2] = F::fma(c, d, dy[m2]);
        }
    }
}

/// The adjoint of the edges of a tile.
struct TileAdjoint<'a, 'b, T> {
    inputs: &'a Inputs<'b, T>,
    g: &'a [T],
    g_stride: usize,
    first: usize,
    count: usize,
    /// Whether each edge stands for its reverse, so that the atoms of the task are those that are gathered from.
    reversed: bool,
    /// Radial weights, rows `r_stride` apart.
    r: &'a [T],
    r_stride: usize,
    dr: &'a mut [T],
    t: &'a mut [T],
    dt: &'a mut [T],
    first_atom: usize,
    /// Rows of the task's atoms; empty if not asked for.
    dx: &'a mut [T],
    /// Rows of harmonics, one an edge of the tile.
    dy: &'a mut [T],
}

impl<T: Real> Kernel for TileAdjoint<'_, '_, T> {
    type Output = ();

    #[inline(always)]
    fn run<F: Fma>(self) {
        let Inputs { plan, graph, .. } = *self.inputs;
        let (numel, dim_in, dim_edge) = (plan.weight_numel, plan.dim_in, plan.dim_edge);
        for k in 0..self.count {
            let e = self.first + k;
            let (near, far) = (graph.centers()[e] as usize, graph.neighbors()[e] as usize);
            let (i, j, e) = if self.reversed { (far, near, graph.reverse()[e] as usize) } else { (near, far, e) };
            let mut edge = EdgeAdjoint {
                x: self.inputs.x(j),
                g: &self.g[i * self.g_stride..][..plan.dim_out],
                r: &self.r[k * self.r_stride..][..numel],
                dr: &mut self.dr[k * numel..][..numel],
                dx: if self.dx.is_empty() { &mut [] } else { &mut self.dx[(j - self.first_atom) * dim_in..][..dim_in] },
            };
            edge_adjoint::<T, F>(plan, self.inputs.y(e), self.t, self.dt, &mut self.dy[k * dim_edge..][..dim_edge], &mut edge);
        }
    }
}

/// The inputs of all three kernels.
pub(super) struct Inputs<'a, T> {
    pub(super) plan: &'a Plan<T>,
    pub(super) graph: &'a Graph,
    /// `[N, dim_in]`, rows `x_stride` apart.
    pub(super) x: &'a [T],
    pub(super) x_stride: usize,
    /// `[E, dim_edge + hidden]`
    pub(super) q: &'a [T],
    pub(super) hidden: usize,
}

impl<'a, T: Real> Inputs<'a, T> {
    fn x(&self, atom: usize) -> &'a [T] {
        &self.x[atom * self.x_stride..][..self.plan.dim_in]
    }

    fn width(&self) -> usize {
        self.plan.dim_edge + self.hidden
    }

    fn y(&self, edge: usize) -> &'a [T] {
        &self.q[edge * self.width()..][..self.plan.dim_edge]
    }

    fn h(&self, edge: usize) -> &'a [T] {
        &self.q[edge * self.width() + self.plan.dim_edge..][..self.hidden]
    }
}

/// → `[N, dim_out]`. `w` is `[hidden, weight_numel]`.
pub(super) fn forward<T: Real>(inputs: &Inputs<'_, T>, w: &[T]) -> Vec<T> {
    let Inputs { plan, graph, .. } = *inputs;
    let (dim_out, numel, tile) = (plan.dim_out, plan.weight_numel, plan.tile());
    let mut out = vec![T::zero(); graph.num_atoms() * dim_out];
    let mut jobs = Vec::new();
    let mut rest = out.as_mut_slice();
    for atoms in plan.tasks(graph) {
        let (mine, others) = std::mem::take(&mut rest).split_at_mut(atoms.len() * dim_out);
        rest = others;
        jobs.push((atoms, mine));
    }
    jobs.into_par_iter().for_each(|(atoms, out)| {
        let edges = graph.segments().offsets()[atoms.start]..graph.segments().offsets()[atoms.end];
        let mut r = vec![T::zero(); tile.min(edges.len()) * numel];
        let mut t = vec![T::zero(); plan.entries.len()];
        for start in edges.clone().step_by(tile) {
            let count = tile.min(edges.end - start);
            let h = &inputs.q[start * inputs.width() + plan.dim_edge..];
            T::gemm(count, numel, inputs.hidden, (&mut r, numel), false, (h, inputs.width(), 1), (w, numel, 1));
            dispatch(TileForward { inputs, first: start, count, r: &r, t: &mut t, first_atom: atoms.start, out: &mut *out });
        }
    });
    out
}

/// The derivatives by features (`[N, dim_in]`, if asked for) and edges (`[E, dim_edge + hidden]`, if asked for).
///
/// `g` is the cotangent of the output, `[N, dim_out]`, rows `g_stride` apart. Each atom owns the edges that gather from it, seen as the reverses of its own.
pub(super) fn adjoint<T: Real>(
    inputs: &Inputs<'_, T>,
    g: &[T],
    g_stride: usize,
    w: &[T],
    need_x: bool,
    need_q: bool,
) -> (Option<Vec<T>>, Option<Vec<T>>) {
    let Inputs { plan, graph, .. } = *inputs;
    let (dim_in, numel, tile, width) = (plan.dim_in, plan.weight_numel, plan.tile(), inputs.width());
    let mut dx = vec![T::zero(); if need_x { graph.num_atoms() * dim_in } else { 0 }];
    let mut dq_reverse = vec![T::zero(); if need_q { graph.num_edges() * width } else { 0 }];
    let mut jobs = Vec::new();
    let (mut rest_x, mut rest_q) = (dx.as_mut_slice(), dq_reverse.as_mut_slice());
    for atoms in plan.tasks(graph) {
        let edges = graph.segments().offsets()[atoms.start]..graph.segments().offsets()[atoms.end];
        let (mine_x, others) = std::mem::take(&mut rest_x).split_at_mut(if need_x { atoms.len() * dim_in } else { 0 });
        rest_x = others;
        let (mine_q, others) = std::mem::take(&mut rest_q).split_at_mut(if need_q { edges.len() * width } else { 0 });
        rest_q = others;
        jobs.push((atoms, edges, mine_x, mine_q));
    }
    jobs.into_par_iter().for_each(|(atoms, edges, dx, dq)| {
        let rows = tile.min(edges.len());
        let (mut r, mut dr) = (vec![T::zero(); rows * numel], vec![T::zero(); rows * numel]);
        let mut h = vec![T::zero(); rows * inputs.hidden];
        let mut dy = vec![T::zero(); rows * plan.dim_edge];
        let (mut t, mut dt) = (vec![T::zero(); plan.entries.len()], vec![T::zero(); plan.entries.len()]);
        for start in edges.clone().step_by(tile) {
            let count = tile.min(edges.end - start);
            for k in 0..count {
                h[k * inputs.hidden..][..inputs.hidden].copy_from_slice(inputs.h(graph.reverse()[start + k] as usize));
            }
            T::gemm(count, numel, inputs.hidden, (&mut r, numel), false, (&h, inputs.hidden, 1), (w, numel, 1));
            dispatch(TileAdjoint {
                inputs,
                g,
                g_stride,
                first: start,
                count,
                reversed: true,
                r: &r,
                r_stride: numel,
                dr: &mut dr,
                t: &mut t,
                dt: &mut dt,
                first_atom: atoms.start,
                dx: &mut *dx,
                dy: &mut dy,
            });
            if need_q {
                for (row, dy) in dq[(start - edges.start) * width..].chunks_mut(width).zip(dy.chunks_exact(plan.dim_edge)).take(count) {
                    row[..plan.dim_edge].copy_from_slice(dy);
                }
                // dH = dR Wᵀ, written behind the harmonics of each edge's row.
                let dh = &mut dq[(start - edges.start) * width + plan.dim_edge..];
                T::gemm(count, inputs.hidden, numel, (dh, width), false, (&dr, numel, 1), (w, 1, numel));
            }
        }
    });
    let dq = need_q.then(|| {
        let mut dq = vec![T::zero(); dq_reverse.len()];
        if width > 0 {
            dq.par_chunks_mut(width)
                .zip(graph.reverse())
                .for_each(|(row, &e)| row.copy_from_slice(&dq_reverse[e as usize * width..][..width]));
        }
        dq
    });
    (need_x.then_some(dx), dq)
}

/// The derivative by the radial weights, `[hidden, weight_numel]`: a fixed number of segments of edges, summed in order.
pub(super) fn adjoint_weights<T: Real>(inputs: &Inputs<'_, T>, g: &[T], g_stride: usize) -> Vec<T> {
    let Inputs { plan, graph, .. } = *inputs;
    let (numel, tile) = (plan.weight_numel, plan.tile());
    let segment = graph.num_edges().div_ceil(16).max(tile);
    let starts: Vec<usize> = (0..graph.num_edges()).step_by(segment).collect();
    let partial: Vec<Vec<T>> = starts
        .into_par_iter()
        .map(|first| {
            let end = graph.num_edges().min(first + segment);
            let mut dw = vec![T::zero(); inputs.hidden * numel];
            let mut dr = vec![T::zero(); tile * numel];
            let ones = vec![T::one(); numel];
            let mut dy = vec![T::zero(); tile * plan.dim_edge];
            let (mut t, mut dt) = (vec![T::zero(); plan.entries.len()], vec![T::zero(); plan.entries.len()]);
            for start in (first..end).step_by(tile) {
                let count = tile.min(end - start);
                dispatch(TileAdjoint {
                    inputs,
                    g,
                    g_stride,
                    first: start,
                    count,
                    reversed: false,
                    r: &ones,
                    r_stride: 0,
                    dr: &mut dr,
                    t: &mut t,
                    dt: &mut dt,
                    first_atom: 0,
                    dx: &mut [],
                    dy: &mut dy,
                });
                // dW += Hᵀ dR
                let h = &inputs.q[start * inputs.width() + plan.dim_edge..];
                T::gemm(inputs.hidden, numel, count, (&mut dw, numel), true, (h, 1, inputs.width()), (&dr, numel, 1));
            }
            dw
        })
        .collect();
    let mut total = vec![T::zero(); inputs.hidden * numel];
    for dw in partial {
        for (a, b) in total.iter_mut().zip(dw) {
            *a += b;
        }
    }
    total
}
