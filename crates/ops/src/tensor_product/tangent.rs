//! The derivative of the adjoint along a direction, and all its derivatives in one pass over the edges.
//!
//! With S(g, x, Y, H, W) = Σ g·convolution(x, Y, H, W), R = H W and a direction (x', Y', H'), R' = H' W, of
//!
//! P = dS/dε at (x + εx', Y + εY', H + εH') = Σ_edges R'·t(g, x, Y) + R·(t(g, x', Y) + t(g, x, Y'))
//!
//! (t the trilinear product of an edge) the derivatives by x, g, Y, H and W are computed; they are what a force loss needs.

use rayon::prelude::*;

use super::cpu::{Derivatives, Needs, tiles};
use super::edges::{Inputs, Tile, TileFeatures};
use super::plan::{LANES, PlannedPath, counts, fma, fma2, lanes, lanes_mut, reduce, with_components};
use crate::real::Real;
use crate::simd::{Fma, Kernel, dispatch};

/// One path of one edge for the derivative by g: out[m3] += R'·Σ T x + R·Σ (T x' + T' x).
struct EdgeForward<'a, T> {
    x: [&'a [T]; 2],
    r: [&'a [T]; 2],
    out: &'a mut [T],
}

#[inline(always)]
fn path_forward<const N1: usize, const N3: usize, const N: usize, T: Real, F: Fma>(
    path: &PlannedPath,
    t: [&[T]; 2],
    edge: &mut EdgeForward<'_, T>,
) {
    let slabs = path.mul / LANES * LANES;
    for c in (0..slabs).step_by(LANES) {
        slab_forward::<N1, N3, LANES, T, F>(path, c, t, edge);
    }
    for c in slabs..path.mul {
        slab_forward::<N1, N3, 1, T, F>(path, c, t, edge);
    }
}

#[inline(always)]
fn slab_forward<const N1: usize, const N3: usize, const L: usize, T: Real, F: Fma>(
    path: &PlannedPath,
    c: usize,
    [t, t_along]: [&[T]; 2],
    edge: &mut EdgeForward<'_, T>,
) {
    let (n1, n3) = counts::<N1, N3>(path);
    let r: [T; L] = lanes(edge.r[0], path.weight_offset + c);
    let r_along: [T; L] = lanes(edge.r[1], path.weight_offset + c);
    for m3 in 0..n3 {
        let (mut plain, mut along) = ([T::zero(); L], [T::zero(); L]);
        for m1 in 0..n1 {
            let at = path.in_row + m1 * path.mul + c;
            let (x, x_along): ([T; L], [T; L]) = (lanes(edge.x[0], at), lanes(edge.x[1], at));
            let (t, t_along) = (t[m1 * n3 + m3], t_along[m1 * n3 + m3]);
            fma::<L, T, F>(t, &x, &mut plain);
            fma::<L, T, F>(t, &x_along, &mut along);
            fma::<L, T, F>(t_along, &x, &mut along);
        }
        let out = lanes_mut(edge.out, path.out_row + m3 * path.out_stride + c);
        fma2::<L, T, F>(&r_along, &plain, out);
        fma2::<L, T, F>(&r, &along, out);
    }
}

/// What the derivatives of one edge by all but g read and write.
struct EdgeAdjoint<'a, T> {
    x: [&'a [T]; 2],
    g: &'a [T],
    r: [&'a [T]; 2],
    /// The derivatives by R and R'.
    dr: [&'a mut [T]; 2],
    dx: &'a mut [T],
    /// Whether dT is asked for.
    by_harmonics: bool,
}

/// With u = Σ_m3 T g and u' = Σ_m3 T' g: dx += R' u + R u', dR = x'·u + x·u', dR' = x·u, dT = Σ_channels (R' x + R x')·g.
#[inline(always)]
fn path_adjoint<const N1: usize, const N3: usize, const N: usize, T: Real, F: Fma>(
    path: &PlannedPath,
    t: [&[T]; 2],
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
    [t, t_along]: [&[T]; 2],
    dt: &mut [[T; L]; N],
    edge: &mut EdgeAdjoint<'_, T>,
) {
    let (n1, n3) = counts::<N1, N3>(path);
    let r: [T; L] = lanes(edge.r[0], path.weight_offset + c);
    let r_along: [T; L] = lanes(edge.r[1], path.weight_offset + c);
    let (mut dr, mut dr_along) = ([T::zero(); L], [T::zero(); L]);
    for m1 in 0..n1 {
        let at = path.in_row + m1 * path.mul + c;
        let (x, x_along): ([T; L], [T; L]) = (lanes(edge.x[0], at), lanes(edge.x[1], at));
        let mut rx = [T::zero(); L];
        for l in 0..L {
            rx[l] = F::fma(r_along[l], x[l], r[l] * x_along[l]);
        }
        let (mut u, mut u_along) = ([T::zero(); L], [T::zero(); L]);
        for m3 in 0..n3 {
            let g: [T; L] = lanes(edge.g, path.out_row + m3 * path.out_stride + c);
            fma::<L, T, F>(t[m1 * n3 + m3], &g, &mut u);
            fma::<L, T, F>(t_along[m1 * n3 + m3], &g, &mut u_along);
            if edge.by_harmonics {
                fma2::<L, T, F>(&rx, &g, &mut dt[m1 * n3 + m3]);
            }
        }
        fma2::<L, T, F>(&x, &u, &mut dr_along);
        fma2::<L, T, F>(&x_along, &u, &mut dr);
        fma2::<L, T, F>(&x, &u_along, &mut dr);
        if !edge.dx.is_empty() {
            let dx = lanes_mut(edge.dx, at);
            fma2::<L, T, F>(&r_along, &u, dx);
            fma2::<L, T, F>(&r, &u_along, dx);
        }
    }
    *lanes_mut(edge.dr[0], path.weight_offset + c) = dr;
    *lanes_mut(edge.dr[1], path.weight_offset + c) = dr_along;
}

/// Rows of atoms `[x | g | x']` and of edges `[Y | H | Y' | H']`.
struct Rows<'a, 'b, T> {
    inputs: &'a Inputs<'b, T>,
}

impl<T: Real> Rows<'_, '_, T> {
    #[inline(always)]
    fn features(&self, atom: usize) -> [&[T]; 2] {
        let plan = self.inputs.plan;
        let row = &self.inputs.x[atom * self.inputs.x_stride..][..self.inputs.x_stride];
        [&row[..plan.dim_in], &row[plan.dim_in + plan.dim_out..]]
    }

    #[inline(always)]
    fn cotangent(&self, atom: usize) -> &[T] {
        let plan = self.inputs.plan;
        &self.inputs.x[atom * self.inputs.x_stride + plan.dim_in..][..plan.dim_out]
    }

    /// T and T' of all paths.
    #[inline(always)]
    fn combine<F: Fma>(&self, edge: usize, t: &mut [Vec<T>; 2]) {
        let (inputs, plan) = (self.inputs, self.inputs.plan);
        plan.combine::<F>(inputs.y(edge), &mut t[0]);
        let along = &inputs.q[edge * inputs.q_stride + inputs.width()..][..plan.dim_edge];
        plan.combine::<F>(along, &mut t[1]);
    }
}

struct TileForward<'a, 'b, T> {
    rows: Rows<'a, 'b, T>,
    tile: Tile,
    r: &'a [Vec<T>; 2],
    t: &'a mut [Vec<T>; 2],
    first_atom: usize,
    /// Rows `[dx | dg]` of the task's atoms.
    out: &'a mut [T],
}

impl<T: Real> Kernel for TileForward<'_, '_, T> {
    type Output = ();

    #[inline(always)]
    fn run<F: Fma>(self) {
        let Inputs { plan, graph, .. } = *self.rows.inputs;
        let (numel, stride) = (plan.weight_numel, plan.dim_in + plan.dim_out);
        for k in 0..self.tile.count {
            let e = self.tile.first + k;
            let (i, j) = (graph.centers()[e] as usize, graph.neighbors()[e] as usize);
            self.rows.combine::<F>(e, self.t);
            let mut edge = EdgeForward {
                x: self.rows.features(j),
                r: [&self.r[0][k * numel..][..numel], &self.r[1][k * numel..][..numel]],
                out: &mut self.out[(i - self.first_atom) * stride + plan.dim_in..][..plan.dim_out],
            };
            for path in &plan.paths {
                let t = [&self.t[0][path.first_entry..], &self.t[1][path.first_entry..]];
                with_components!(path, path_forward, [T, F], path, t, &mut edge);
            }
        }
    }
}

struct TileAdjoint<'a, 'b, T> {
    rows: Rows<'a, 'b, T>,
    tile: Tile,
    r: &'a [Vec<T>; 2],
    dr: &'a mut [Vec<T>; 2],
    t: &'a mut [Vec<T>; 2],
    dt: &'a mut [T],
    first_atom: usize,
    /// Rows `[dx | dg]` of the task's atoms; empty if not asked for.
    dx: &'a mut [T],
    /// Rows of harmonics, one an edge of the tile; empty if not asked for.
    dy: &'a mut [T],
}

impl<T: Real> Kernel for TileAdjoint<'_, '_, T> {
    type Output = ();

    #[inline(always)]
    fn run<F: Fma>(self) {
        let Inputs { plan, graph, .. } = *self.rows.inputs;
        let (numel, stride, dim_edge) = (plan.weight_numel, plan.dim_in + plan.dim_out, plan.dim_edge);
        let by_harmonics = !self.dy.is_empty();
        let [dr, dr_along] = self.dr;
        for k in 0..self.tile.count {
            let e = self.tile.edge(graph, k);
            let (i, j) = (graph.centers()[e] as usize, graph.neighbors()[e] as usize);
            self.rows.combine::<F>(e, self.t);
            let mut edge = EdgeAdjoint {
                x: self.rows.features(j),
                g: self.rows.cotangent(i),
                r: [&self.r[0][k * numel..][..numel], &self.r[1][k * numel..][..numel]],
                dr: [&mut dr[k * numel..][..numel], &mut dr_along[k * numel..][..numel]],
                dx: if self.dx.is_empty() { &mut [] } else { &mut self.dx[(j - self.first_atom) * stride..][..plan.dim_in] },
                by_harmonics,
            };
            for path in &plan.paths {
                let entries = path.first_entry..path.first_entry + path.components[0] * path.components[1];
                let t = [&self.t[0][entries.clone()], &self.t[1][entries.clone()]];
                with_components!(path, path_adjoint, [T, F], path, t, &mut self.dt[entries], &mut edge);
            }
            if by_harmonics {
                plan.combine_adjoint::<F>(self.dt, &mut self.dy[k * dim_edge..][..dim_edge]);
            }
        }
    }
}

/// The derivatives of P by `[x | g]` (`[N, dim_in + dim_out]`), `[Y | H]` (`[E, dim_edge + hidden]`) and W, those that are asked for one after another.
///
/// Rows of atoms are `[x | g | x']`, those of edges `[Y | H | Y' | H']`.
pub(super) fn adjoint_tangent<T: Real>(inputs: &Inputs<'_, T>, w: &[T], needs: Needs) -> Vec<T> {
    let Inputs { plan, graph, .. } = *inputs;
    let (numel, rows) = (plan.weight_numel, inputs.tile());
    let mut out = Derivatives::new(inputs, needs, plan.dim_in + plan.dim_out);
    let lengths = out.lengths();
    let by_matrix: Vec<Vec<T>> = out
        .tasks(inputs)
        .into_par_iter()
        .map(|mut task| {
            let (mut features, mut along) = (inputs.tile_features(), inputs.tile_features());
            let two = |n: usize| [vec![T::zero(); n], vec![T::zero(); n]];
            let (mut r, mut dr, mut t) = (two(rows * numel), two(rows * numel), two(plan.entries.len()));
            let mut dy = vec![T::zero(); if needs.q { rows * plan.dim_edge } else { 0 }];
            let mut dt = vec![T::zero(); plan.entries.len()];
            let mut dw = vec![T::zero(); lengths[2]];
            let first_atom = task.atoms.start;
            let weights = |tile: Tile, features: &mut TileFeatures<T>, along: &mut TileFeatures<T>, r: &mut [Vec<T>; 2]| {
                inputs.gather(tile, 0, features);
                inputs.gather(tile, inputs.width(), along);
                inputs.radial_weights(tile.count, features, w, &mut r[0]);
                inputs.radial_weights(tile.count, along, w, &mut r[1]);
            };
            for tile in tiles(graph, &task.atoms, rows, true) {
                weights(tile, &mut features, &mut along, &mut r);
                let (r, dr, t, dt, dy) = (&r, &mut dr, &mut t, &mut dt, &mut dy);
                dispatch(TileAdjoint { rows: Rows { inputs }, tile, r, dr, t, dt, first_atom, dx: &mut *task.dx, dy });
                if needs.q {
                    task.store_edges(inputs, tile, &features, w, dy, &dr[0]);
                }
                if needs.w {
                    inputs.matrix_adjoint(tile.count, &features, &dr[0], &mut dw);
                    inputs.matrix_adjoint(tile.count, &along, &dr[1], &mut dw);
                }
            }
            if needs.x {
                for tile in tiles(graph, &task.atoms, rows, false) {
                    weights(tile, &mut features, &mut along, &mut r);
                    dispatch(TileForward { rows: Rows { inputs }, tile, r: &r, t: &mut t, first_atom, out: &mut *task.dx });
                }
            }
            dw
        })
        .collect();
    out.finish(inputs, &by_matrix)
}
