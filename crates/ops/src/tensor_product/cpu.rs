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

/// One non-zero (m1, m3) pair of a path: which input row it reads, and the combination of harmonics it is multiplied with.
struct Entry {
    in_row: usize,
    terms: Range<usize>,
}

/// One output component of a path.
struct Row {
    out_row: usize,
    entries: Range<usize>,
}

struct PlannedPath {
    mul: usize,
    weight_offset: usize,
    rows: Vec<Row>,
    entries: Range<usize>,
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
            let first = entries.len();
            let mut rows = Vec::new();
            for m3 in 0..path.irreps[2].dim() {
                let start = entries.len();
                for m1 in 0..path.irreps[0].dim() {
                    let begin = terms.len();
                    let mine = path.coefficients.iter().filter(|c| c.0 == m1 && c.2 == m3);
                    terms.extend(mine.map(|&(_, m2, _, c)| (path.edge_offset + m2, T::of(c))));
                    if terms.len() > begin {
                        entries.push(Entry { in_row: path.in_offset + m1 * path.mul, terms: begin..terms.len() });
                    }
                }
                let out_row = path.out_offset + m3 * path.out_channels + path.out_channel;
                rows.push(Row { out_row, entries: start..entries.len() });
            }
            paths.push(PlannedPath { mul: path.mul, weight_offset: path.weight_offset, rows, entries: first..entries.len() });
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
fn lanes<T>(x: &[T], at: usize) -> &[T; LANES] {
    x[at..].first_chunk().expect("a slab of channels lies inside its row")
}

#[inline(always)]
fn lanes_mut<T>(x: &mut [T], at: usize) -> &mut [T; LANES] {
    x[at..].first_chunk_mut().expect("a slab of channels lies inside its row")
}

/// The products of one edge, added to the output row of its centre.
struct EdgeForward<'a, T> {
    plan: &'a Plan<T>,
    x: &'a [T],
    r: &'a [T],
    y: &'a [T],
    t: &'a mut [T],
    out: &'a mut [T],
}

impl<T: Real> Kernel for EdgeForward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<F: Fma>(self) {
        let Self { plan, x, r, y, t, out } = self;
        plan.combine::<F>(y, t);
        for path in &plan.paths {
            let r = &r[path.weight_offset..][..path.mul];
            let slabs = path.mul / LANES * LANES;
            for row in &path.rows {
                let (entries, t) = (&plan.entries[row.entries.clone()], &t[row.entries.clone()]);
                for c in (0..slabs).step_by(LANES) {
                    let mut sum = [T::zero(); LANES];
                    for (entry, &t) in entries.iter().zip(t.iter()) {
                        let x = lanes(x, entry.in_row + c);
                        for l in 0..LANES {
                            sum[l] = F::fma(t, x[l], sum[l]);
                        }
                    }
                    let (r, out) = (lanes(r, c), lanes_mut(out, row.out_row + c));
                    for l in 0..LANES {
                        out[l] = F::fma(r[l], sum[l], out[l]);
                    }
                }
                for c in slabs..path.mul {
                    let mut sum = T::zero();
                    for (entry, &t) in entries.iter().zip(t.iter()) {
                        sum = F::fma(t, x[entry.in_row + c], sum);
                    }
                    out[row.out_row + c] = F::fma(r[c], sum, out[row.out_row + c]);
                }
            }
        }
    }
}

/// The derivatives of one edge: by its features (added), its radial weights and its harmonics (written).
struct EdgeAdjoint<'a, T> {
    plan: &'a Plan<T>,
    x: &'a [T],
    g: &'a [T],
    r: &'a [T],
    y: &'a [T],
    t: &'a mut [T],
    dt: &'a mut [[T; LANES]],
    /// Cotangent of the features of the neighbour, if asked for.
    dx: Option<&'a mut [T]>,
    /// Cotangents of the radial weights and the harmonics.
    dr: &'a mut [T],
    dy: &'a mut [T],
}

impl<T: Real> Kernel for EdgeAdjoint<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<F: Fma>(self) {
        let Self { plan, x, g, r, y, t, dt, mut dx, dr, dy } = self;
        plan.combine::<F>(y, t);
        for path in &plan.paths {
            let r = &r[path.weight_offset..][..path.mul];
            let dr = &mut dr[path.weight_offset..][..path.mul];
            let slabs = path.mul / LANES * LANES;
            dt[path.entries.clone()].fill([T::zero(); LANES]);
            for c in (0..slabs).step_by(LANES) {
                let rs = lanes(r, c);
                let mut dr_sum = [T::zero(); LANES];
                for row in &path.rows {
                    let gs = lanes(g, row.out_row + c);
                    let mut gr = [T::zero(); LANES];
                    for l in 0..LANES {
                        gr[l] = gs[l] * rs[l];
                    }
                    let mut sum = [T::zero(); LANES];
                    for k in row.entries.clone() {
                        let (entry, t) = (&plan.entries[k], t[k]);
                        let xs = lanes(x, entry.in_row + c);
                        let d = &mut dt[k];
                        for l in 0..LANES {
                            sum[l] = F::fma(t, xs[l], sum[l]);
                            d[l] = F::fma(gr[l], xs[l], d[l]);
                        }
                        if let Some(dx) = dx.as_deref_mut() {
                            let dx = lanes_mut(dx, entry.in_row + c);
                            for l in 0..LANES {
                                dx[l] = F::fma(t, gr[l], dx[l]);
                            }
                        }
                    }
                    for l in 0..LANES {
                        dr_sum[l] = F::fma(gs[l], sum[l], dr_sum[l]);
                    }
                }
                *lanes_mut(dr, c) = dr_sum;
            }
            for c in slabs..path.mul {
                let mut dr_sum = T::zero();
                for row in &path.rows {
                    let gs = g[row.out_row + c];
                    let gr = gs * r[c];
                    let mut sum = T::zero();
                    for k in row.entries.clone() {
                        let (entry, t) = (&plan.entries[k], t[k]);
                        let xs = x[entry.in_row + c];
                        sum = F::fma(t, xs, sum);
                        dt[k][0] = F::fma(gr, xs, dt[k][0]);
                        if let Some(dx) = dx.as_deref_mut() {
                            dx[entry.in_row + c] = F::fma(t, gr, dx[entry.in_row + c]);
                        }
                    }
                    dr_sum = F::fma(gs, sum, dr_sum);
                }
                dr[c] = dr_sum;
            }
        }
        dy.fill(T::zero());
        for (entry, d) in plan.entries.iter().zip(dt.iter()) {
            let mut half = [T::zero(); LANES / 2];
            for l in 0..LANES / 2 {
                half[l] = d[l] + d[l + LANES / 2];
            }
            let total = half.iter().copied().sum::<T>();
            for &(m2, c) in &plan.terms[entry.terms.clone()] {
                dy[m2] = F::fma(c, total, dy[m2]);
            }
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
            for k in 0..count {
                let e = start + k;
                let (i, j) = (graph.centers()[e] as usize, graph.neighbors()[e] as usize);
                let out = &mut out[(i - atoms.start) * dim_out..][..dim_out];
                dispatch(EdgeForward { plan, x: inputs.x(j), r: &r[k * numel..][..numel], y: inputs.y(e), t: &mut t, out });
            }
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
        let mut dy = vec![T::zero(); plan.dim_edge];
        let mut t = vec![T::zero(); plan.entries.len()];
        let mut dt = vec![[T::zero(); LANES]; plan.entries.len()];
        for start in edges.clone().step_by(tile) {
            let count = tile.min(edges.end - start);
            for k in 0..count {
                h[k * inputs.hidden..][..inputs.hidden].copy_from_slice(inputs.h(graph.reverse()[start + k] as usize));
            }
            T::gemm(count, numel, inputs.hidden, (&mut r, numel), false, (&h, inputs.hidden, 1), (w, numel, 1));
            for k in 0..count {
                let e = start + k;
                let (j, i) = (graph.centers()[e] as usize, graph.neighbors()[e] as usize);
                let y = inputs.y(graph.reverse()[e] as usize);
                let g = &g[i * g_stride..][..plan.dim_out];
                let dx = if need_x { Some(&mut dx[(j - atoms.start) * dim_in..][..dim_in]) } else { None };
                let (r, dr) = (&r[k * numel..][..numel], &mut dr[k * numel..][..numel]);
                dispatch(EdgeAdjoint { plan, x: inputs.x(j), g, r, y, t: &mut t, dt: &mut dt, dx, dr, dy: &mut dy });
                if need_q {
                    dq[(e - edges.start) * width..][..plan.dim_edge].copy_from_slice(&dy);
                }
            }
            if need_q {
                // dH = dR Wᵀ, written behind the harmonics of each edge's row.
                let dh = &mut dq[(start - edges.start) * width + plan.dim_edge..];
                T::gemm(count, inputs.hidden, numel, (dh, width), false, (&dr, numel, 1), (w, 1, numel));
            }
        }
    });
    let dq = need_q.then(|| {
        let mut dq = vec![T::zero(); dq_reverse.len()];
        if width > 0 {
            dq.par_chunks_mut(width).zip(graph.reverse()).for_each(|(row, &e)| row.copy_from_slice(&dq_reverse[e as usize * width..][..width]));
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
            let mut dy = vec![T::zero(); plan.dim_edge];
            let mut t = vec![T::zero(); plan.entries.len()];
            let mut dt = vec![[T::zero(); LANES]; plan.entries.len()];
            for start in (first..end).step_by(tile) {
                let count = tile.min(end - start);
                for k in 0..count {
                    let e = start + k;
                    let (i, j) = (graph.centers()[e] as usize, graph.neighbors()[e] as usize);
                    let g = &g[i * g_stride..][..plan.dim_out];
                    let dr = &mut dr[k * numel..][..numel];
                    let (x, y) = (inputs.x(j), inputs.y(e));
                    dispatch(EdgeAdjoint { plan, x, g, r: &ones, y, t: &mut t, dt: &mut dt, dx: None, dr, dy: &mut dy });
                }
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
