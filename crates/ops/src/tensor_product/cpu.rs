//! The convolution and its adjoint: tiles of edges, radial weights of one tile at a time, products vectorised over channels.
//!
//! Every output row has one owner (a centre, or an edge seen from the neighbour it gathers from), tasks depend on shapes alone: no atomics,
//! the same bits for any number of threads.

use std::ops::Range;

use rayon::prelude::*;

use super::edges::{Inputs, Tile, TileFeatures};
use super::plan::{LANES, Plan, PlannedPath, counts, fma, fma2, lanes, lanes_mut, reduce, with_components};
use crate::graph::Graph;
use crate::real::Real;
use crate::simd::{Fma, Kernel, dispatch};

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
    /// Whether dT is asked for.
    by_harmonics: bool,
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
    if edge.by_harmonics {
        reduce(&wide, &narrow, dt);
    }
}

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
            if edge.by_harmonics {
                fma2::<L, T, F>(&rx, &g, &mut dt[m1 * n3 + m3]);
            }
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
    tile: Tile,
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
        for k in 0..self.tile.count {
            let e = self.tile.first + k;
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

/// The adjoint of the edges of a tile, which are the reverses of those of the atoms of the task.
struct TileAdjoint<'a, 'b, T> {
    inputs: &'a Inputs<'b, T>,
    g: &'a [T],
    g_stride: usize,
    tile: Tile,
    r: &'a [T],
    dr: &'a mut [T],
    t: &'a mut [T],
    dt: &'a mut [T],
    first_atom: usize,
    /// Rows of the task's atoms; empty if not asked for.
    dx: &'a mut [T],
    /// Rows of harmonics, one an edge of the tile; empty if not asked for.
    dy: &'a mut [T],
}

impl<T: Real> Kernel for TileAdjoint<'_, '_, T> {
    type Output = ();

    #[inline(always)]
    fn run<F: Fma>(self) {
        let Inputs { plan, graph, .. } = *self.inputs;
        let (numel, dim_in, dim_edge) = (plan.weight_numel, plan.dim_in, plan.dim_edge);
        let by_harmonics = !self.dy.is_empty();
        for k in 0..self.tile.count {
            let e = self.tile.edge(graph, k);
            let (i, j) = (graph.centers()[e] as usize, graph.neighbors()[e] as usize);
            let mut edge = EdgeAdjoint {
                x: self.inputs.x(j),
                g: &self.g[i * self.g_stride..][..plan.dim_out],
                r: &self.r[k * numel..][..numel],
                dr: &mut self.dr[k * numel..][..numel],
                dx: if self.dx.is_empty() { &mut [] } else { &mut self.dx[(j - self.first_atom) * dim_in..][..dim_in] },
                by_harmonics,
            };
            plan.combine::<F>(self.inputs.y(e), self.t);
            for path in &plan.paths {
                let entries = path.first_entry..path.first_entry + path.components[0] * path.components[1];
                let (t, dt) = (&self.t[entries.clone()], &mut self.dt[entries]);
                with_components!(path, path_adjoint, [T, F], path, t, dt, &mut edge);
            }
            if by_harmonics {
                plan.combine_adjoint::<F>(self.dt, &mut self.dy[k * dim_edge..][..dim_edge]);
            }
        }
    }
}

/// → `[N, dim_out]`. `w` is `[matrix rows, weight_numel]`.
pub(super) fn forward<T: Real>(inputs: &Inputs<'_, T>, w: &[T]) -> Vec<T> {
    let Inputs { plan, graph, .. } = *inputs;
    let (dim_out, numel, tile) = (plan.dim_out, plan.weight_numel, inputs.tile());
    let mut out = vec![T::zero(); graph.num_atoms() * dim_out];
    let mut jobs = Vec::new();
    let mut rest = out.as_mut_slice();
    for atoms in Plan::<T>::tasks(graph, TASK.max(tile), ATOMS) {
        jobs.push((atoms.clone(), take(&mut rest, atoms.len() * dim_out)));
    }
    jobs.into_par_iter().for_each(|(atoms, out)| {
        let mut features = inputs.tile_features();
        let mut r = vec![T::zero(); tile * numel];
        let mut t = vec![T::zero(); plan.entries.len()];
        for tile in tiles(graph, &atoms, tile, false) {
            inputs.gather(tile, 0, &mut features);
            inputs.radial_weights(tile.count, &features, w, &mut r);
            dispatch(TileForward { inputs, tile, r: &r, t: &mut t, first_atom: atoms.start, out: &mut *out });
        }
    });
    out
}

/// Least edges of a parallel task, and most atoms.
const TASK: usize = 64;
const ATOMS: usize = 64;

/// The first `count` of what is left.
fn take<'a, T>(rest: &mut &'a mut [T], count: usize) -> &'a mut [T] {
    let (mine, others) = std::mem::take(rest).split_at_mut(count);
    *rest = others;
    mine
}

/// The edges of a range of atoms in tiles.
pub(super) fn tiles(graph: &Graph, atoms: &Range<usize>, tile: usize, reversed: bool) -> impl Iterator<Item = Tile> + use<> {
    let edges = edges_of(graph, atoms);
    edges.clone().step_by(tile).map(move |first| Tile { first, count: tile.min(edges.end - first), reversed })
}

fn edges_of(graph: &Graph, atoms: &Range<usize>) -> Range<usize> {
    graph.segments().offsets()[atoms.start]..graph.segments().offsets()[atoms.end]
}

/// What is asked of an adjoint: derivatives by features, by edges, by the radial matrix.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Needs {
    pub(super) x: bool,
    pub(super) q: bool,
    pub(super) w: bool,
}

/// The derivatives that are asked for, one after another in one piece of memory.
pub(super) struct Derivatives<T> {
    lengths: [usize; 3],
    /// Numbers in a row of features.
    row: usize,
    flat: Vec<T>,
    /// Rows of edges in the place of their reverses.
    reversed: Vec<T>,
}

/// Atoms that a task owns: their rows, and those of the edges that gather from them.
pub(super) struct Task<'a, T> {
    pub(super) atoms: Range<usize>,
    first_edge: usize,
    /// Empty if not asked for.
    pub(super) dx: &'a mut [T],
    dq: &'a mut [T],
}

impl<T: Real> Derivatives<T> {
    /// Zeros; `row` numbers in a row of features.
    pub(super) fn new(inputs: &Inputs<'_, T>, needs: Needs, row: usize) -> Self {
        let lengths = [
            if needs.x { inputs.graph.num_atoms() * row } else { 0 },
            if needs.q { inputs.graph.num_edges() * inputs.width() } else { 0 },
            if needs.w { inputs.matrix_rows() * inputs.plan.weight_numel } else { 0 },
        ];
        Self { lengths, row, flat: vec![T::zero(); lengths.iter().sum()], reversed: vec![T::zero(); lengths[1]] }
    }

    /// Each task that sums a derivative of the matrix has a copy of its own, so that there are few of them then.
    pub(super) fn tasks(&mut self, inputs: &Inputs<'_, T>) -> Vec<Task<'_, T>> {
        let (graph, edges) = (inputs.graph, inputs.graph.num_edges());
        let ranges = if self.lengths[2] > 0 {
            let most = if inputs.windows.is_some() { (edges / 512).clamp(1, 16) } else { 16 };
            Plan::<T>::tasks(graph, edges.div_ceil(most).max(inputs.tile()), usize::MAX)
        } else {
            Plan::<T>::tasks(graph, TASK.max(inputs.tile()), ATOMS)
        };
        let (row, width) = (if self.lengths[0] > 0 { self.row } else { 0 }, if self.lengths[1] > 0 { inputs.width() } else { 0 });
        let (mut rest_x, mut rest_q) = (&mut self.flat[..self.lengths[0]], self.reversed.as_mut_slice());
        let task = |atoms: Range<usize>| {
            let edges = edges_of(graph, &atoms);
            let (dx, dq) = (take(&mut rest_x, atoms.len() * row), take(&mut rest_q, edges.len() * width));
            Task { atoms, first_edge: edges.start, dx, dq }
        };
        ranges.into_iter().map(task).collect()
    }

    /// Numbers by features, by edges, by matrix; 0 for what is not asked for.
    pub(super) fn lengths(&self) -> [usize; 3] {
        self.lengths
    }

    /// Puts rows of edges where they belong, and adds up the parts of the matrix in order.
    pub(super) fn finish(mut self, inputs: &Inputs<'_, T>, parts: &[Vec<T>]) -> Vec<T> {
        const CHUNK: usize = 1 << 14;
        let (dq, dw) = self.flat[self.lengths[0]..].split_at_mut(self.lengths[1]);
        let (width, reversed) = (inputs.width(), &self.reversed);
        if width > 0 && !dq.is_empty() {
            let rows = dq.par_chunks_mut(width).with_min_len(256).zip(inputs.graph.reverse());
            rows.for_each(|(row, &e)| row.copy_from_slice(&reversed[e as usize * width..][..width]));
        }
        dw.par_chunks_mut(CHUNK).enumerate().for_each(|(c, total)| {
            for part in parts {
                for (a, &b) in total.iter_mut().zip(&part[c * CHUNK..]) {
                    *a += b;
                }
            }
        });
        self.flat
    }
}

impl<T: Real> Task<'_, T> {
    /// Stores the derivatives by harmonics, and those by radial features that follow from derivatives `dr` by radial weights.
    pub(super) fn store_edges(&mut self, inputs: &Inputs<'_, T>, tile: Tile, features: &TileFeatures<T>, w: &[T], dy: &[T], dr: &[T]) {
        let (width, dim_edge) = (inputs.width(), inputs.plan.dim_edge);
        let dq = &mut self.dq[(tile.first - self.first_edge) * width..];
        for (row, dy) in dq.chunks_mut(width).zip(dy.chunks_exact(dim_edge)).take(tile.count) {
            row[..dim_edge].copy_from_slice(dy);
        }
        inputs.features_adjoint(tile.count, features, w, dr, (&mut dq[dim_edge..], width));
    }
}

/// The derivatives of Σ g·convolution by features (`[N, dim_in]`), edges (`[E, dim_edge + hidden]`) and matrix (`[matrix rows, weight_numel]`), those that
/// are asked for one after another.
///
/// `g` is `[N, dim_out]`, rows `g_stride` apart. Each atom owns the edges that gather from it, seen as the reverses of its own.
pub(super) fn adjoint<T: Real>(inputs: &Inputs<'_, T>, g: &[T], g_stride: usize, w: &[T], needs: Needs) -> Vec<T> {
    let Inputs { plan, graph, .. } = *inputs;
    let (numel, rows) = (plan.weight_numel, inputs.tile());
    let mut out = Derivatives::new(inputs, needs, plan.dim_in);
    let lengths = out.lengths();
    let by_matrix: Vec<Vec<T>> = out
        .tasks(inputs)
        .into_par_iter()
        .map(|mut task| {
            let mut features = inputs.tile_features();
            let (mut r, mut dr) = (vec![T::zero(); rows * numel], vec![T::zero(); rows * numel]);
            let mut dy = vec![T::zero(); if needs.q { rows * plan.dim_edge } else { 0 }];
            let (mut t, mut dt) = (vec![T::zero(); plan.entries.len()], vec![T::zero(); plan.entries.len()]);
            let mut dw = vec![T::zero(); lengths[2]];
            for tile in tiles(graph, &task.atoms, rows, true) {
                inputs.gather(tile, 0, &mut features);
                inputs.radial_weights(tile.count, &features, w, &mut r);
                let (r, dr, t, dt, dy, first_atom) = (&r, &mut dr, &mut t, &mut dt, &mut dy, task.atoms.start);
                dispatch(TileAdjoint { inputs, g, g_stride, tile, r, dr, t, dt, first_atom, dx: &mut *task.dx, dy });
                if needs.q {
                    task.store_edges(inputs, tile, &features, w, dy, dr);
                }
                if needs.w {
                    inputs.matrix_adjoint(tile.count, &features, dr, &mut dw);
                }
            }
            dw
        })
        .collect();
    out.finish(inputs, &by_matrix)
}
