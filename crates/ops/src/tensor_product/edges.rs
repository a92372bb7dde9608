//! What the kernels read of the edges: harmonics, radial features, and the radial weights that follow from them.

use crate::graph::Graph;
use crate::real::Real;
use crate::simd::{Fma, Kernel, dispatch};

use super::plan::Plan;

/// The rows of the last radial matrix that an edge's radial features multiply: `taps` consecutive ones, the first of each edge given.
///
/// With values of B-splines at the edge's distance as features the matrix is a table of spline coefficients; without windows the features multiply all rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Windows {
    /// First row, one an edge.
    pub first: Vec<u32>,
    /// How many rows the matrix has.
    pub rows: usize,
}

/// The inputs of all kernels.
pub(super) struct Inputs<'a, T> {
    pub(super) plan: &'a Plan<T>,
    pub(super) graph: &'a Graph,
    /// `[N, dim_in]`, rows `x_stride` apart.
    pub(super) x: &'a [T],
    pub(super) x_stride: usize,
    /// `[E, dim_edge + hidden]`, rows `q_stride` apart.
    pub(super) q: &'a [T],
    pub(super) q_stride: usize,
    pub(super) hidden: usize,
    pub(super) windows: Option<&'a Windows>,
}

/// Edges that are worked on together: `count` from `first` on, or the reverses of these.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    pub(super) first: usize,
    pub(super) count: usize,
    pub(super) reversed: bool,
}

impl Tile {
    #[inline(always)]
    pub(super) fn edge(&self, graph: &Graph, k: usize) -> usize {
        if self.reversed { graph.reverse()[self.first + k] as usize } else { self.first + k }
    }
}

/// Radial features of a tile in consecutive rows, `[count, hidden]`, and where the windows of its edges start.
pub(super) struct TileFeatures<T> {
    pub(super) h: Vec<T>,
    first: Vec<usize>,
}

impl<'a, T: Real> Inputs<'a, T> {
    pub(super) fn x(&self, atom: usize) -> &'a [T] {
        &self.x[atom * self.x_stride..][..self.plan.dim_in]
    }

    pub(super) fn y(&self, edge: usize) -> &'a [T] {
        &self.q[edge * self.q_stride..][..self.plan.dim_edge]
    }

    /// Length of a row of harmonics and radial features.
    pub(super) fn width(&self) -> usize {
        self.plan.dim_edge + self.hidden
    }

    /// How many rows the radial matrix has.
    pub(super) fn matrix_rows(&self) -> usize {
        self.windows.map_or(self.hidden, |w| w.rows)
    }

    /// Edges of one tile: with a matrix product, radial weights that stay in the second-level cache; else in the first.
    pub(super) fn tile(&self) -> usize {
        match self.windows {
            Some(_) => 16,
            None => ((256 << 10) / (self.plan.weight_numel.max(1) * size_of::<T>())).clamp(16, 128),
        }
    }

    pub(super) fn tile_features(&self) -> TileFeatures<T> {
        let tile = self.tile();
        TileFeatures { h: vec![T::zero(); tile * self.hidden], first: vec![0; tile] }
    }

    /// Gathers the radial features of a tile, `offset` numbers after the harmonics of each row.
    pub(super) fn gather(&self, tile: Tile, offset: usize, to: &mut TileFeatures<T>) {
        for k in 0..tile.count {
            let e = tile.edge(self.graph, k);
            let h = &self.q[e * self.q_stride + self.plan.dim_edge + offset..][..self.hidden];
            to.h[k * self.hidden..][..self.hidden].copy_from_slice(h);
            if let Some(windows) = self.windows {
                to.first[k] = windows.first[e] as usize;
            }
        }
    }

    /// R = H W for the edges of a tile, `[count, weight_numel]`.
    pub(super) fn radial_weights(&self, count: usize, features: &TileFeatures<T>, w: &[T], r: &mut [T]) {
        let (numel, hidden) = (self.plan.weight_numel, self.hidden);
        if self.windows.is_some() {
            dispatch(Interpolate { features, count, taps: hidden, numel, w, r });
        } else {
            T::gemm(count, numel, hidden, (r, numel), false, (&features.h, hidden, 1), (w, numel, 1));
        }
    }

    /// dH = dR Wᵀ for the edges of a tile, rows `stride` apart.
    pub(super) fn features_adjoint(&self, count: usize, features: &TileFeatures<T>, w: &[T], dr: &[T], (dh, stride): (&mut [T], usize)) {
        let (numel, hidden) = (self.plan.weight_numel, self.hidden);
        if self.windows.is_some() {
            dispatch(InterpolateAdjoint { features, count, taps: hidden, numel, w, dr, dh, stride });
        } else {
            T::gemm(count, hidden, numel, (dh, stride), false, (dr, numel, 1), (w, 1, numel));
        }
    }

    /// dW += Hᵀ dR over the edges of a tile.
    pub(super) fn matrix_adjoint(&self, count: usize, features: &TileFeatures<T>, dr: &[T], dw: &mut [T]) {
        let (numel, hidden) = (self.plan.weight_numel, self.hidden);
        if self.windows.is_some() {
            dispatch(Spread { features, count, taps: hidden, numel, dr, dw });
        } else {
            T::gemm(hidden, numel, count, (dw, numel), true, (&features.h, 1, hidden), (dr, numel, 1));
        }
    }
}

/// Columns that are worked on together.
const COLUMNS: usize = 32;

/// R_e = Σ_t h_et W[first_e + t].
struct Interpolate<'a, T> {
    features: &'a TileFeatures<T>,
    count: usize,
    taps: usize,
    numel: usize,
    w: &'a [T],
    r: &'a mut [T],
}

impl<T: Real> Kernel for Interpolate<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<F: Fma>(self) {
        for k in 0..self.count {
            let h = &self.features.h[k * self.taps..][..self.taps];
            let rows = &self.w[self.features.first[k] * self.numel..][..self.taps * self.numel];
            let out = &mut self.r[k * self.numel..][..self.numel];
            let mut chunks = out.chunks_exact_mut(COLUMNS);
            let mut at = 0;
            for chunk in &mut chunks {
                let mut sum = [T::zero(); COLUMNS];
                for (t, &h) in h.iter().enumerate() {
                    let row: &[T; COLUMNS] = rows[t * self.numel + at..].first_chunk().expect("a chunk of a row");
                    for l in 0..COLUMNS {
                        sum[l] = F::fma(h, row[l], sum[l]);
                    }
                }
                chunk.copy_from_slice(&sum);
                at += COLUMNS;
            }
            for (c, value) in chunks.into_remainder().iter_mut().enumerate() {
                let mut sum = T::zero();
                for (t, &h) in h.iter().enumerate() {
                    sum = F::fma(h, rows[t * self.numel + at + c], sum);
                }
                *value = sum;
            }
        }
    }
}

/// dh_et = Σ_c dR_ec W[first_e + t, c].
struct InterpolateAdjoint<'a, T> {
    features: &'a TileFeatures<T>,
    count: usize,
    taps: usize,
    numel: usize,
    w: &'a [T],
    dr: &'a [T],
    dh: &'a mut [T],
    stride: usize,
}

impl<T: Real> Kernel for InterpolateAdjoint<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<F: Fma>(self) {
        for k in 0..self.count {
            let dr = &self.dr[k * self.numel..][..self.numel];
            let rows = &self.w[self.features.first[k] * self.numel..][..self.taps * self.numel];
            for (t, dh) in self.dh[k * self.stride..][..self.taps].iter_mut().enumerate() {
                let row = &rows[t * self.numel..][..self.numel];
                let mut sum = [T::zero(); COLUMNS];
                let (dr_chunks, row_chunks) = (dr.as_chunks::<COLUMNS>(), row.as_chunks::<COLUMNS>());
                for (d, w) in dr_chunks.0.iter().zip(row_chunks.0) {
                    for l in 0..COLUMNS {
                        sum[l] = F::fma(d[l], w[l], sum[l]);
                    }
                }
                let mut half = [T::zero(); COLUMNS / 2];
                for l in 0..COLUMNS / 2 {
                    half[l] = sum[l] + sum[l + COLUMNS / 2];
                }
                let mut total = half.iter().copied().sum::<T>();
                for (&d, &w) in dr_chunks.1.iter().zip(row_chunks.1) {
                    total = F::fma(d, w, total);
                }
                *dh = total;
            }
        }
    }
}

/// dW[first_e + t] += h_et dR_e.
struct Spread<'a, T> {
    features: &'a TileFeatures<T>,
    count: usize,
    taps: usize,
    numel: usize,
    dr: &'a [T],
    dw: &'a mut [T],
}

impl<T: Real> Kernel for Spread<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<F: Fma>(self) {
        for k in 0..self.count {
            let dr = &self.dr[k * self.numel..][..self.numel];
            let rows = &mut self.dw[self.features.first[k] * self.numel..][..self.taps * self.numel];
            for (row, &h) in rows.chunks_exact_mut(self.numel.max(1)).zip(&self.features.h[k * self.taps..][..self.taps]) {
                for (w, &d) in row.iter_mut().zip(dr) {
                    *w = F::fma(h, d, *w);
                }
            }
        }
    }
}
