//! The path list of a convolution, flattened for the loops over edges and channels.

use std::ops::Range;

use super::TensorProductSpec;
use crate::graph::Graph;
use crate::real::Real;
use crate::simd::Fma;

/// Channels that are worked on together: one AVX-512 register of f32, two of f64.
pub(super) const LANES: usize = 16;

/// One entry (m1, m3) of a path's matrix T: the combination of harmonics Σ_m2 C[m1, m2, m3]·Y[m2] that couples input m1 to output m3.
pub(super) struct Entry {
    pub(super) terms: Range<usize>,
}

pub(super) struct PlannedPath {
    pub(super) mul: usize,
    /// Components of input and output; the path has their product as entries, m1 slow.
    pub(super) components: [usize; 2],
    pub(super) in_row: usize,
    pub(super) out_row: usize,
    /// Channels between two components of the output block.
    pub(super) out_stride: usize,
    pub(super) weight_offset: usize,
    pub(super) first_entry: usize,
}

/// The path list flattened for the loops.
pub(super) struct Plan<T> {
    pub(super) paths: Vec<PlannedPath>,
    pub(super) entries: Vec<Entry>,
    pub(super) terms: Vec<(usize, T)>,
    pub(super) dim_in: usize,
    pub(super) dim_edge: usize,
    pub(super) dim_out: usize,
    pub(super) weight_numel: usize,
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

    /// Ranges of atoms with at least `edges` edges or `atoms` atoms each (or the last ones).
    pub(super) fn tasks(graph: &Graph, edges: usize, atoms: usize) -> Vec<Range<usize>> {
        let segments = graph.segments();
        let mut tasks = Vec::new();
        let mut start = 0;
        for i in 0..graph.num_atoms() {
            let enough = segments.offsets()[i + 1] - segments.offsets()[start] >= edges || i + 1 - start >= atoms;
            if enough || i + 1 == graph.num_atoms() {
                tasks.push(start..i + 1);
                start = i + 1;
            }
        }
        tasks
    }

    /// T of every path for one edge.
    #[inline(always)]
    pub(super) fn combine<F: Fma>(&self, y: &[T], t: &mut [T]) {
        for (value, entry) in t.iter_mut().zip(&self.entries) {
            let mut sum = T::zero();
            for &(m2, c) in &self.terms[entry.terms.clone()] {
                sum = F::fma(c, y[m2], sum);
            }
            *value = sum;
        }
    }

    /// The derivatives by harmonics from those by T.
    #[inline(always)]
    pub(super) fn combine_adjoint<F: Fma>(&self, dt: &[T], dy: &mut [T]) {
        dy.fill(T::zero());
        for (entry, &d) in self.entries.iter().zip(dt) {
            for &(m2, c) in &self.terms[entry.terms.clone()] {
                dy[m2] = F::fma(c, d, dy[m2]);
            }
        }
    }
}

/// The sum of two sets of lanes of each entry, a fixed order of additions.
#[inline(always)]
pub(super) fn reduce<T: Real>(wide: &[[T; LANES]], narrow: &[[T; 1]], dt: &mut [T]) {
    for ((d, wide), narrow) in dt.iter_mut().zip(wide).zip(narrow) {
        let mut half = [T::zero(); LANES / 2];
        for l in 0..LANES / 2 {
            half[l] = wide[l] + wide[l + LANES / 2];
        }
        *d = half.iter().copied().sum::<T>() + narrow[0];
    }
}

/// Entries of the largest path: both degrees at most [`super::MAX_DEGREE`].
pub(super) const MAX_ENTRIES: usize = (2 * super::MAX_DEGREE + 1).pow(2);

#[inline(always)]
pub(super) fn lanes<const L: usize, T: Copy>(x: &[T], at: usize) -> [T; L] {
    *x[at..].first_chunk().expect("a slab of channels lies inside its row")
}

#[inline(always)]
pub(super) fn lanes_mut<const L: usize, T>(x: &mut [T], at: usize) -> &mut [T; L] {
    x[at..].first_chunk_mut().expect("a slab of channels lies inside its row")
}

#[inline(always)]
pub(super) fn fma<const L: usize, T: Real, F: Fma>(a: T, x: &[T; L], sum: &mut [T; L]) {
    for l in 0..L {
        sum[l] = F::fma(a, x[l], sum[l]);
    }
}

#[inline(always)]
pub(super) fn fma2<const L: usize, T: Real, F: Fma>(a: &[T; L], x: &[T; L], sum: &mut [T; L]) {
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
            _ => $function::<0, 0, { $crate::tensor_product::plan::MAX_ENTRIES }, $($generic),*>($($arg),*),
        }
    };
}

pub(super) use with_components;

#[inline(always)]
pub(super) fn counts<const N1: usize, const N3: usize>(path: &PlannedPath) -> (usize, usize) {
    if N1 == 0 { (path.components[0], path.components[1]) } else { (N1, N3) }
}
