//! Fast kernels: one atom and a slab of channels at a time over the tree of products.

use rayon::prelude::*;

use super::ContractionSpec;
use super::product_tree::{Parent, ProductTree};
use crate::linear::Groups;
use crate::real::Real;
use crate::simd::{Fma, Kernel, dispatch};

/// Channels that are computed side by side.
const LANES: usize = 32;
/// Atoms in one parallel task.
const BLOCK: usize = 16;
/// Into how many parts, at most, the sum over the atoms of one element is split.
const SEGMENTS: usize = 16;
/// Atoms of such a part, at least.
const SEGMENT: usize = 64;

type Lanes<T> = [T; LANES];

#[inline(always)]
fn zero<T: Real>() -> Lanes<T> {
    [T::zero(); LANES]
}

// Lanes are passed by value and combined in local variables: loops that write through references are not vectorised, since the
// compiler cannot rule out that these overlap.

#[inline(always)]
fn add<T: Real>(mut a: Lanes<T>, b: Lanes<T>) -> Lanes<T> {
    for k in 0..LANES {
        a[k] += b[k];
    }
    a
}

/// a·b + c
#[inline(always)]
fn fma<T: Real, F: Fma>(a: Lanes<T>, b: Lanes<T>, mut c: Lanes<T>) -> Lanes<T> {
    for k in 0..LANES {
        c[k] = F::fma(a[k], b[k], c[k]);
    }
    c
}

/// Channels `start..start + width` of `rows` rows of length `channels`, the rest of the lanes zero.
#[inline(always)]
fn load<T: Real>(rows: &[T], channels: usize, start: usize, out: &mut [Lanes<T>]) {
    let width = LANES.min(channels - start);
    for (lanes, row) in out.iter_mut().zip(rows.chunks_exact(channels)) {
        let row = &row[start..start + width];
        if let Ok(full) = <&Lanes<T>>::try_from(row) {
            *lanes = *full;
        } else {
            *lanes = zero();
            lanes[..width].copy_from_slice(row);
        }
    }
}

#[inline(always)]
fn unload<T: Real>(lanes: &[Lanes<T>], channels: usize, start: usize, rows: &mut [T]) {
    let width = LANES.min(channels - start);
    for (lanes, row) in lanes.iter().zip(rows.chunks_exact_mut(channels)) {
        row[start..start + width].copy_from_slice(&lanes[..width]);
    }
}

/// Space for one atom and slab.
struct Scratch<T> {
    /// Products, the components first; their cotangents; the tangents of both.
    q: Vec<Lanes<T>>,
    h: Vec<Lanes<T>>,
    dq: Vec<Lanes<T>>,
    dh: Vec<Lanes<T>>,
    /// Cotangents of the outputs, or outputs.
    y: Vec<Lanes<T>>,
    /// Coefficients.
    c: Vec<Lanes<T>>,
}

impl<T: Real> Scratch<T> {
    fn new(spec: &ContractionSpec, tangents: bool) -> Self {
        let nodes = spec.tree().nodes;
        let dual = if tangents { nodes } else { 0 };
        Self {
            q: vec![zero(); nodes],
            h: vec![zero(); nodes],
            dq: vec![zero(); dual],
            dh: vec![zero(); dual],
            y: vec![zero(); spec.outputs()],
            c: vec![zero(); spec.terms().len()],
        }
    }

    /// Products up to node `end`, from the components in `q`.
    #[inline(always)]
    fn products(&mut self, tree: &ProductTree, end: usize) {
        let q = &mut self.q[..];
        for Parent { node, children } in &tree.parents {
            if children.start >= end {
                break;
            }
            let parent = q[*node];
            for (child, &a) in children.clone().zip(&tree.factor[children.clone()]) {
                let mut product = q[a as usize];
                for k in 0..LANES {
                    product[k] *= parent[k];
                }
                q[child] = product;
            }
        }
    }

    /// Tangents of the products up to node `end`, from products and the tangents of the components in `dq`.
    #[inline(always)]
    fn product_tangents<F: Fma>(&mut self, tree: &ProductTree, end: usize) {
        let (q, dq) = (&self.q[..], &mut self.dq[..]);
        for Parent { node, children } in &tree.parents {
            if children.start >= end {
                break;
            }
            let (parent, parent_tangent) = (q[*node], dq[*node]);
            for (child, &a) in children.clone().zip(&tree.factor[children.clone()]) {
                let (factor, mut tangent) = (q[a as usize], dq[a as usize]);
                for k in 0..LANES {
                    tangent[k] = F::fma(parent_tangent[k], factor[k], parent[k] * tangent[k]);
                }
                dq[child] = tangent;
            }
        }
    }

    /// The polynomials with `products` in place of the products, into `y`.
    #[inline(always)]
    fn sum_terms<F: Fma>(&mut self, tree: &ProductTree, tangents: bool) {
        let (c, products) = (&self.c[..], if tangents { &self.dq[..] } else { &self.q[..] });
        for (y, terms) in self.y.iter_mut().zip(tree.outputs()) {
            let mut sum = zero();
            for &(term, node) in terms {
                sum = fma::<T, F>(c[term as usize], products[node as usize], sum);
            }
            *y = sum;
        }
    }

    /// What the outputs' cotangents in `y` give to each product directly, into `h`.
    #[inline(always)]
    fn output_cotangents<F: Fma>(&mut self, tree: &ProductTree) {
        self.h.fill(zero());
        let (c, h) = (&self.c[..], &mut self.h[..]);
        for (g, terms) in self.y.iter().zip(tree.outputs()) {
            let g = *g;
            for &(term, node) in terms {
                h[node as usize] = fma::<T, F>(c[term as usize], g, h[node as usize]);
            }
        }
    }

    /// Cotangents of the components, into `h`, from `q` and the cotangents of the outputs in `y`.
    #[inline(always)]
    fn adjoint<F: Fma>(&mut self, tree: &ProductTree) {
        self.output_cotangents::<F>(tree);
        let (q, h) = (&self.q[..], &mut self.h[..]);
        for Parent { node, children } in tree.parents.iter().rev() {
            let (parent, mut sum) = (q[*node], zero());
            for (child, &a) in children.clone().zip(&tree.factor[children.clone()]) {
                let of_child = h[child];
                sum = fma::<T, F>(of_child, q[a as usize], sum);
                h[a as usize] = fma::<T, F>(of_child, parent, h[a as usize]);
            }
            h[*node] = add(h[*node], sum);
        }
    }

    /// The tangent of [`Scratch::adjoint`] along `dq`, into `dh`.
    #[inline(always)]
    fn adjoint_tangent<F: Fma>(&mut self, tree: &ProductTree) {
        self.output_cotangents::<F>(tree);
        self.dh.fill(zero());
        let (q, dq, h, dh) = (&self.q[..], &self.dq[..], &mut self.h[..], &mut self.dh[..]);
        for Parent { node, children } in tree.parents.iter().rev() {
            let (parent, parent_tangent) = (q[*node], dq[*node]);
            let (mut sum, mut sum_tangent) = (zero(), zero());
            for (child, &a) in children.clone().zip(&tree.factor[children.clone()]) {
                let (factor, of_child, of_child_tangent) = (q[a as usize], h[child], dh[child]);
                sum = fma::<T, F>(of_child, factor, sum);
                sum_tangent = fma::<T, F>(of_child, dq[a as usize], fma::<T, F>(of_child_tangent, factor, sum_tangent));
                let of_factor_tangent = fma::<T, F>(of_child_tangent, parent, dh[a as usize]);
                dh[a as usize] = fma::<T, F>(of_child, parent_tangent, of_factor_tangent);
            }
            h[*node] = add(h[*node], sum);
            dh[*node] = add(dh[*node], sum_tangent);
        }
    }
}

/// What is computed for each atom.
#[derive(Clone, Copy)]
enum Map<'a, T> {
    Evaluate,
    Adjoint { g: &'a [T] },
    Tangent { v: &'a [T] },
    AdjointTangent { v: &'a [T], g: &'a [T] },
}

/// What all maps share.
#[derive(Clone, Copy)]
struct Problem<'a, T> {
    spec: &'a ContractionSpec,
    channels: usize,
    features: &'a [T],
}

impl<'a, T> Problem<'a, T> {
    /// The features of one atom, or a tensor of the same shape.
    #[inline(always)]
    fn components(&self, of: &'a [T], atom: usize) -> &'a [T] {
        let size = self.spec.dim() * self.channels;
        &of[atom * size..(atom + 1) * size]
    }

    /// The outputs of one atom, or a tensor of the same shape.
    #[inline(always)]
    fn outputs(&self, of: &'a [T], atom: usize) -> &'a [T] {
        let size = self.spec.outputs() * self.channels;
        &of[atom * size..(atom + 1) * size]
    }
}

struct Atoms<'a, T> {
    problem: Problem<'a, T>,
    coefficients: &'a [T],
    /// (group, atom) sorted by group.
    atoms: &'a [(u32, usize)],
    first: usize,
    map: Map<'a, T>,
    out: &'a mut [T],
}

impl<T: Real> Kernel for Atoms<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<F: Fma>(self) {
        let Self { problem, coefficients, atoms, first, map, out } = self;
        let Problem { spec, channels, features } = problem;
        let (tree, dim) = (spec.tree(), spec.dim());
        let row = spec.terms().len() * channels;
        let mut scratch = Scratch::new(spec, matches!(map, Map::Tangent { .. } | Map::AdjointTangent { .. }));
        let width = channels * if matches!(map, Map::Evaluate | Map::Tangent { .. }) { spec.outputs() } else { dim };
        for start in (0..channels).step_by(LANES) {
            let mut packed = None;
            for &(group, atom) in atoms {
                if packed != Some(group) {
                    let group = group as usize;
                    load(&coefficients[group * row..(group + 1) * row], channels, start, &mut scratch.c);
                }
                packed = Some(group);
                load(problem.components(features, atom), channels, start, &mut scratch.q[..dim]);
                let out = &mut out[(atom - first) * width..][..width];
                match map {
                    Map::Evaluate => {
                        scratch.products(tree, tree.nodes);
                        scratch.sum_terms::<F>(tree, false);
                        unload(&scratch.y, channels, start, out);
                    }
                    Map::Tangent { v } => {
                        load(problem.components(v, atom), channels, start, &mut scratch.dq[..dim]);
                        scratch.products(tree, tree.leaves);
                        scratch.product_tangents::<F>(tree, tree.nodes);
                        scratch.sum_terms::<F>(tree, true);
                        unload(&scratch.y, channels, start, out);
                    }
                    Map::Adjoint { g } => {
                        load(problem.outputs(g, atom), channels, start, &mut scratch.y);
                        scratch.products(tree, tree.leaves);
                        scratch.adjoint::<F>(tree);
                        unload(&scratch.h[..dim], channels, start, out);
                    }
                    Map::AdjointTangent { v, g } => {
                        load(problem.components(v, atom), channels, start, &mut scratch.dq[..dim]);
                        load(problem.outputs(g, atom), channels, start, &mut scratch.y);
                        scratch.products(tree, tree.leaves);
                        scratch.product_tangents::<F>(tree, tree.leaves);
                        scratch.adjoint_tangent::<F>(tree);
                        unload(&scratch.dh[..dim], channels, start, out);
                    }
                }
            }
        }
    }
}

/// The part of the coefficients' cotangent that some atoms of one element contribute, for one slab of channels.
struct Coefficients<'a, T> {
    problem: Problem<'a, T>,
    tangent: Option<&'a [T]>,
    g: &'a [T],
    atoms: &'a [u32],
    start: usize,
}

impl<T: Real> Kernel for Coefficients<'_, T> {
    type Output = Vec<Lanes<T>>;

    #[inline(always)]
    fn run<F: Fma>(self) -> Self::Output {
        let Self { problem, tangent, g, atoms, start } = self;
        let Problem { spec, channels, features } = problem;
        let (tree, dim) = (spec.tree(), spec.dim());
        let mut scratch = Scratch::new(spec, tangent.is_some());
        for &atom in atoms {
            let atom = atom as usize;
            load(problem.components(features, atom), channels, start, &mut scratch.q[..dim]);
            load(problem.outputs(g, atom), channels, start, &mut scratch.y);
            if let Some(v) = tangent {
                load(problem.components(v, atom), channels, start, &mut scratch.dq[..dim]);
                scratch.products(tree, tree.leaves);
                scratch.product_tangents::<F>(tree, tree.nodes);
            } else {
                scratch.products(tree, tree.nodes);
            }
            let products = if tangent.is_some() { &scratch.dq } else { &scratch.q };
            for (g, terms) in scratch.y.iter().zip(tree.outputs()) {
                for &(term, node) in terms {
                    scratch.c[term as usize] = fma::<T, F>(*g, products[node as usize], scratch.c[term as usize]);
                }
            }
        }
        scratch.c
    }
}

fn check<T>(problem: &Problem<'_, T>, elements: &Groups, components: &[&[T]], outputs: &[&[T]], coefficients: &[T]) {
    let (n, k) = (elements.order().len(), problem.channels);
    let [dim, out, terms] = [problem.spec.dim(), problem.spec.outputs(), problem.spec.terms().len()];
    assert!(components.iter().all(|a| a.len() == n * dim * k), "symmetric contraction: expected features [{n}, {dim}, {k}]");
    assert!(outputs.iter().all(|a| a.len() == n * out * k), "symmetric contraction: expected outputs [{n}, {out}, {k}]");
    let z = elements.len();
    assert!(coefficients.len() == z * terms * k, "symmetric contraction: expected coefficients [{z}, {terms}, {k}]");
}

fn run<T: Real>(problem: Problem<'_, T>, coefficients: &[T], elements: &Groups, map: Map<'_, T>, out: &mut [T]) {
    let mut group_of = vec![0u32; elements.order().len()];
    for group in 0..elements.len() {
        for &atom in &elements.order()[elements.range(group)] {
            group_of[atom as usize] = group as u32;
        }
    }
    let rows = if matches!(map, Map::Evaluate | Map::Tangent { .. }) { problem.spec.outputs() } else { problem.spec.dim() };
    let width = rows * problem.channels;
    if width == 0 {
        return;
    }
    out.par_chunks_mut(BLOCK * width).zip(group_of.par_chunks(BLOCK)).enumerate().for_each(|(block, (out, groups))| {
        let first = block * BLOCK;
        let mut atoms: Vec<(u32, usize)> = groups.iter().enumerate().map(|(k, &group)| (group, first + k)).collect();
        atoms.sort_unstable();
        dispatch(Atoms { problem, coefficients, atoms: &atoms, first, map, out });
    });
}

fn run_coefficients<T: Real>(problem: Problem<'_, T>, v: Option<&[T]>, g: &[T], elements: &Groups, out: &mut [T]) {
    let (channels, terms) = (problem.channels, problem.spec.terms().len());
    // The split depends on the number of atoms alone, and the parts are added in order.
    let mut parts = Vec::new();
    for group in 0..elements.len() {
        let atoms = &elements.order()[elements.range(group)];
        for segment in atoms.chunks(SEGMENT.max(atoms.len().div_ceil(SEGMENTS))) {
            parts.extend((0..channels).step_by(LANES).map(|start| (group, segment, start)));
        }
    }
    let sums: Vec<Vec<Lanes<T>>> =
        parts.par_iter().map(|&(_, atoms, start)| dispatch(Coefficients { problem, tangent: v, g, atoms, start })).collect();
    out.fill(T::zero());
    for ((group, _, start), sum) in parts.into_iter().zip(sums) {
        let width = LANES.min(channels - start);
        for (t, lanes) in sum.iter().enumerate() {
            let row = &mut out[(group * terms + t) * channels + start..][..width];
            for (y, &x) in row.iter_mut().zip(lanes) {
                *y += x;
            }
        }
    }
}

/// P: `features` `[N, D, K]`, `coefficients` `[Z, T, K]` → `out` `[N, outputs, K]`, K = `channels`.
///
/// # Panics
/// If the lengths of the slices do not fit together; likewise for the other maps.
pub fn evaluate<T: Real>(spec: &ContractionSpec, channels: usize, features: &[T], coefficients: &[T], elements: &Groups, out: &mut [T]) {
    let problem = Problem { spec, channels, features };
    check(&problem, elements, &[features], &[out], coefficients);
    run(problem, coefficients, elements, Map::Evaluate, out);
}

/// ∇_A ⟨g, P⟩: `g` `[N, outputs, K]` → `out` `[N, D, K]`.
pub fn adjoint<T: Real>(
    spec: &ContractionSpec,
    channels: usize,
    features: &[T],
    coefficients: &[T],
    g: &[T],
    elements: &Groups,
    out: &mut [T],
) {
    let problem = Problem { spec, channels, features };
    check(&problem, elements, &[features, out], &[g], coefficients);
    run(problem, coefficients, elements, Map::Adjoint { g }, out);
}

/// (v·∇_A) P: `v` `[N, D, K]` → `out` `[N, outputs, K]`.
pub fn tangent<T: Real>(
    spec: &ContractionSpec,
    channels: usize,
    features: &[T],
    v: &[T],
    coefficients: &[T],
    elements: &Groups,
    out: &mut [T],
) {
    let problem = Problem { spec, channels, features };
    check(&problem, elements, &[features, v], &[out], coefficients);
    run(problem, coefficients, elements, Map::Tangent { v }, out);
}

/// ∇_A ⟨g, (v·∇_A) P⟩: `v` `[N, D, K]`, `g` `[N, outputs, K]` → `out` `[N, D, K]`.
pub fn adjoint_tangent<T: Real>(
    spec: &ContractionSpec,
    channels: usize,
    features: &[T],
    v: &[T],
    g: &[T],
    coefficients: &[T],
    elements: &Groups,
    out: &mut [T],
) {
    let problem = Problem { spec, channels, features };
    check(&problem, elements, &[features, v, out], &[g], coefficients);
    run(problem, coefficients, elements, Map::AdjointTangent { v, g }, out);
}

/// ∂_c ⟨g, P⟩: `g` `[N, outputs, K]` → `out` `[Z, T, K]`. Atoms are summed in an order that depends on their number alone.
pub fn adjoint_coefficients<T: Real>(spec: &ContractionSpec, channels: usize, features: &[T], g: &[T], elements: &Groups, out: &mut [T]) {
    let problem = Problem { spec, channels, features };
    check(&problem, elements, &[features], &[g], out);
    run_coefficients(problem, None, g, elements, out);
}

/// ∂_c ⟨g, (v·∇_A) P⟩: `v` `[N, D, K]`, `g` `[N, outputs, K]` → `out` `[Z, T, K]`.
pub fn tangent_coefficients<T: Real>(
    spec: &ContractionSpec,
    channels: usize,
    features: &[T],
    v: &[T],
    g: &[T],
    elements: &Groups,
    out: &mut [T],
) {
    let problem = Problem { spec, channels, features };
    check(&problem, elements, &[features, v], &[g], out);
    run_coefficients(problem, Some(v), g, elements, out);
}
