//! The contraction for inference: Horner's scheme over monomials, coefficients streamed in the order of use.
//!
//! P = Σ_a x_a (c_a + Σ_b x_b (c_ab + Σ_c c_abc x_c)) needs one multiply-add a coefficient. Coefficients of an element are laid out once in that order, a
//! slab of channels after the other, so the kernel reads them front to back; several atoms share each read.

#![allow(unsafe_code, reason = "SIMD kernels over pointers that the checked entry points make")]

use std::collections::BTreeMap;

use super::ContractionSpec;
use crate::slab::{HasSlabs, Slab, SlabKernel, dispatch, padded, width};

/// Atoms that share a coefficient: forward, and in the gradient, which holds more for each.
const FORWARD_ATOMS: usize = 4;
const GRADIENT_ATOMS: usize = 2;
/// Longest monomial.
const MAX_DEPTH: usize = 8;

/// A prefix of monomials that is continued: value = own coefficient + Σ coefficient · component over `leaves` + Σ component · value over the nodes
/// below it.
#[derive(Debug, Clone)]
struct Node {
    /// Length of the prefix.
    depth: usize,
    /// Its last component.
    component: u32,
    /// Whether the prefix itself has a coefficient.
    own: bool,
    /// Whether nodes hang below this one, and whether it is the first of its parent.
    inner: bool,
    first: bool,
    leaves: std::ops::Range<usize>,
    /// Where its coefficients start in the stream: its own, then those of the leaves.
    start: usize,
}

/// Horner's scheme for all outputs of a contraction.
#[derive(Debug, Clone)]
pub struct Horner {
    dim: usize,
    /// Nodes of each output, children before parents, the root last.
    outputs: Vec<std::ops::Range<usize>>,
    nodes: Vec<Node>,
    leaves: Vec<u32>,
    /// Terms that add up to each coefficient of the stream.
    stream: Vec<Vec<usize>>,
    most_nodes: usize,
}

struct Builder<'a> {
    plan: &'a mut Horner,
    /// Terms of the output by monomial.
    terms: &'a BTreeMap<&'a [u16], Vec<usize>>,
}

impl Builder<'_> {
    fn node(&mut self, prefix: &[u16], first: bool) {
        let below: Vec<&[u16]> = self.terms.keys().copied().filter(|m| m.len() > prefix.len() && m.starts_with(prefix)).collect();
        let mut next: Vec<u16> = below.iter().map(|m| m[prefix.len()]).collect();
        next.dedup();
        let (inner, leaves): (Vec<u16>, Vec<u16>) =
            next.into_iter().partition(|&c| below.iter().any(|m| m.len() > prefix.len() + 1 && m[prefix.len()] == c));
        for (k, &c) in inner.iter().enumerate() {
            let mut longer = prefix.to_vec();
            longer.push(c);
            self.node(&longer, k == 0);
        }
        let plan = &mut *self.plan;
        let (start, first_leaf) = (plan.stream.len(), plan.leaves.len());
        let own = self.terms.get(prefix);
        plan.stream.extend(own.cloned());
        for c in leaves {
            let mut monomial = prefix.to_vec();
            monomial.push(c);
            plan.leaves.push(u32::from(c));
            plan.stream.push(self.terms.get(monomial.as_slice()).cloned().unwrap_or_default());
        }
        plan.nodes.push(Node {
            depth: prefix.len(),
            component: prefix.last().map_or(0, |&c| u32::from(c)),
            own: own.is_some(),
            inner: !inner.is_empty(),
            first,
            leaves: first_leaf..plan.leaves.len(),
            start,
        });
    }
}

impl Horner {
    /// The scheme of a contraction; `None` for monomials longer than it has room for.
    pub fn new(spec: &ContractionSpec) -> Option<Self> {
        if spec.monomials().iter().any(|m| m.len() > MAX_DEPTH) {
            return None;
        }
        let mut plan =
            Self { dim: spec.dim(), outputs: Vec::new(), nodes: Vec::new(), leaves: Vec::new(), stream: Vec::new(), most_nodes: 0 };
        for output in 0..spec.outputs() {
            let mut terms: BTreeMap<&[u16], Vec<usize>> = BTreeMap::new();
            for (t, term) in spec.terms().iter().enumerate().filter(|(_, term)| term.output == output) {
                terms.entry(&spec.monomials()[term.monomial]).or_default().push(t);
            }
            let first = plan.nodes.len();
            Builder { plan: &mut plan, terms: &terms }.node(&[], true);
            plan.outputs.push(first..plan.nodes.len());
            plan.most_nodes = plan.most_nodes.max(plan.nodes.len() - first);
        }
        Some(plan)
    }

    /// Components of the features.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Components of the result.
    pub fn outputs(&self) -> usize {
        self.outputs.len()
    }

    /// Multiply-adds on a slab for one atom, forward and gradient.
    pub fn operations(&self) -> [usize; 2] {
        let (terms, nodes) = (self.stream.len(), self.nodes.len());
        [terms + nodes, 2 * terms + 4 * nodes]
    }

    /// Coefficients of one element, `[terms, channels]`, in the order of use: `[slab][stream][lane]`.
    pub fn coefficients<T: HasSlabs>(&self, terms: &[f64], channels: usize) -> Vec<T> {
        let w = width::<T>();
        let mut out = vec![T::zero(); padded::<T>(channels) * self.stream.len()];
        for (slab, out) in out.chunks_exact_mut((w * self.stream.len()).max(1)).enumerate() {
            for (entry, out) in self.stream.iter().zip(out.chunks_exact_mut(w)) {
                for (lane, out) in out.iter_mut().enumerate().take(channels - (slab * w).min(channels)) {
                    *out = T::of(entry.iter().map(|t| terms[t * channels + slab * w + lane]).sum());
                }
            }
        }
        out
    }
}

/// Features or results of consecutive atoms: `[atoms, components, width]` for each block of irreps.
#[derive(Debug, Clone, Copy)]
pub struct Layout<'a> {
    /// Components of each block.
    pub components: &'a [usize],
    /// Padded channels, the same for all.
    pub width: usize,
}

impl Layout<'_> {
    /// Block and component of each component of all blocks together.
    #[inline(always)]
    fn each(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        self.components.iter().enumerate().flat_map(|(b, &n)| (0..n).map(move |m| (b, m)))
    }

    fn check<T>(&self, atoms: usize, dim: usize, blocks: &[&[T]]) {
        assert!(
            self.components.iter().sum::<usize>() == dim
                && self.width.is_multiple_of(width::<T>())
                && blocks.len() == self.components.len()
        );
        assert!(blocks.iter().zip(self.components).all(|(b, c)| b.len() == atoms * c * self.width), "blocks of {atoms} atoms");
    }
}

/// Buffers of a thread.
#[derive(Debug, Default)]
pub struct Scratch<T> {
    x: Vec<T>,
    dx: Vec<T>,
    values: Vec<T>,
}

struct Evaluate<'a, 'b, T> {
    plan: &'a Horner,
    coefficients: &'a [T],
    atoms: usize,
    layout: Layout<'a>,
    features: &'a [&'a [T]],
    out_layout: Layout<'a>,
    out: &'a mut [&'b mut [T]],
    scratch: &'a mut Scratch<T>,
}

/// Copies one slab of `A` atoms to `x` `[component][atom][lane]`; atoms beyond the last repeat it.
///
/// # Safety
/// Lengths have been checked; `x` holds `dim · A` slabs.
#[inline(always)]
unsafe fn collect<V: Slab, const A: usize>(
    layout: Layout<'_>,
    blocks: &[&[V::Scalar]],
    first: usize,
    atoms: usize,
    channel: usize,
    x: *mut V::Scalar,
) {
    let w = width::<V::Scalar>();
    for (c, (b, m)) in layout.each().enumerate() {
        for k in 0..A {
            let atom = (first + k).min(atoms - 1);
            let from = (atom * layout.components[b] + m) * layout.width + channel;
            // SAFETY: by the contract.
            unsafe { V::load(blocks[b].as_ptr().add(from)).store(x.add((c * A + k) * w)) };
        }
    }
}

/// One output for `A` atoms; with `KEEP` the value of every node is kept.
///
/// # Safety
/// `x` as [`collect`] leaves it, `c` the stream of the slab, `values` with room for the nodes of the output.
#[inline(always)]
unsafe fn output<V: Slab, const A: usize, const KEEP: bool>(
    plan: &Horner,
    range: std::ops::Range<usize>,
    c: *const V::Scalar,
    x: *const V::Scalar,
    values: *mut V::Scalar,
) -> [V; A] {
    let w = width::<V::Scalar>();
    let mut stack = [[V::zero(); A]; MAX_DEPTH + 1];
    let mut sum = [V::zero(); A];
    for (number, node) in plan.nodes[range].iter().enumerate() {
        // SAFETY: by the contract; nodes and leaves come from `Horner::new`, which takes components of the features alone.
        unsafe {
            sum = if node.inner { stack[node.depth] } else { [V::zero(); A] };
            let mut c = c.add(node.start * w);
            if node.own {
                let own = V::load(c);
                for k in 0..A {
                    sum[k] = sum[k].add(own);
                }
                c = c.add(w);
            }
            for &leaf in &plan.leaves[node.leaves.clone()] {
                let coefficient = V::load(c);
                let x = x.add(leaf as usize * A * w);
                for k in 0..A {
                    sum[k] = coefficient.fma(V::load(x.add(k * w)), sum[k]);
                }
                c = c.add(w);
            }
            if KEEP {
                for k in 0..A {
                    sum[k].store(values.add((number * A + k) * w));
                }
            }
            if node.depth > 0 {
                let x = x.add(node.component as usize * A * w);
                let to = &mut stack[node.depth - 1];
                for k in 0..A {
                    let x = V::load(x.add(k * w));
                    to[k] = if node.first { x.mul(sum[k]) } else { x.fma(sum[k], to[k]) };
                }
            }
        }
    }
    sum
}

impl<T: HasSlabs> SlabKernel<T> for Evaluate<'_, '_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Slab<Scalar = T>>(self) {
        let Self { plan, coefficients, atoms, layout, features, out_layout, out, scratch } = self;
        const A: usize = FORWARD_ATOMS;
        let w = width::<T>();
        scratch.x.resize(plan.dim * A * w, T::zero());
        for slab in 0..layout.width / w {
            let c = coefficients[slab * plan.stream.len() * w..][..plan.stream.len() * w].as_ptr();
            for first in (0..atoms).step_by(A) {
                // SAFETY: `evaluate` has checked all lengths; scratch was just sized.
                unsafe {
                    collect::<V, A>(layout, features, first, atoms, slab * w, scratch.x.as_mut_ptr());
                    for (range, (b, m)) in plan.outputs.iter().zip(out_layout.each()) {
                        let p = output::<V, A, false>(plan, range.clone(), c, scratch.x.as_ptr(), std::ptr::null_mut());
                        for k in 0..A.min(atoms - first) {
                            let to = ((first + k) * out_layout.components[b] + m) * out_layout.width + slab * w;
                            p[k].store(out[b][to..][..w].as_mut_ptr());
                        }
                    }
                }
            }
        }
    }
}

struct Gradient<'a, 'b, T> {
    plan: &'a Horner,
    coefficients: &'a [T],
    atoms: usize,
    layout: Layout<'a>,
    features: &'a [&'a [T]],
    out_layout: Layout<'a>,
    g: &'a [&'a [T]],
    dx: &'a mut [&'b mut [T]],
    scratch: &'a mut Scratch<T>,
}

impl<T: HasSlabs> SlabKernel<T> for Gradient<'_, '_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Slab<Scalar = T>>(self) {
        let Self { plan, coefficients, atoms, layout, features, out_layout, g, dx, scratch } = self;
        const A: usize = GRADIENT_ATOMS;
        let w = width::<T>();
        let Scratch { x, dx: sums, values } = scratch;
        x.resize(plan.dim * A * w, T::zero());
        sums.resize(plan.dim * A * w, T::zero());
        values.resize(plan.most_nodes * A * w, T::zero());
        for slab in 0..layout.width / w {
            let c = coefficients[slab * plan.stream.len() * w..][..plan.stream.len() * w].as_ptr();
            for first in (0..atoms).step_by(A) {
                sums.fill(T::zero());
                // SAFETY: `gradient` has checked all lengths; scratch was just sized.
                unsafe {
                    collect::<V, A>(layout, features, first, atoms, slab * w, x.as_mut_ptr());
                    let (x, sums, values) = (x.as_ptr(), sums.as_mut_ptr(), values.as_mut_ptr());
                    for (range, (b, m)) in plan.outputs.iter().zip(out_layout.each()) {
                        output::<V, A, true>(plan, range.clone(), c, x, values);
                        // Cotangents of the values of the nodes from the root to the current one.
                        let mut stack = [[V::zero(); A]; MAX_DEPTH + 1];
                        for k in 0..A {
                            let atom = (first + k).min(atoms - 1);
                            let from = (atom * out_layout.components[b] + m) * out_layout.width + slab * w;
                            stack[0][k] = V::load(g[b].as_ptr().add(from));
                        }
                        for (number, node) in plan.nodes[range.clone()].iter().enumerate().rev() {
                            let mut cotangent = stack[0];
                            if node.depth > 0 {
                                let parent = stack[node.depth - 1];
                                let at = node.component as usize * A * w;
                                for k in 0..A {
                                    let value = V::load(values.add((number * A + k) * w));
                                    let to = sums.add(at + k * w);
                                    parent[k].fma(value, V::load(to)).store(to);
                                    cotangent[k] = parent[k].mul(V::load(x.add(at + k * w)));
                                }
                                stack[node.depth] = cotangent;
                            }
                            let mut c = c.add((node.start + usize::from(node.own)) * w);
                            for &leaf in &plan.leaves[node.leaves.clone()] {
                                let coefficient = V::load(c);
                                let to = sums.add(leaf as usize * A * w);
                                for k in 0..A {
                                    let to = to.add(k * w);
                                    coefficient.fma(cotangent[k], V::load(to)).store(to);
                                }
                                c = c.add(w);
                            }
                        }
                    }
                    for (component, (b, m)) in layout.each().enumerate() {
                        for k in 0..A.min(atoms - first) {
                            let to = ((first + k) * layout.components[b] + m) * layout.width + slab * w;
                            V::load(sums.add((component * A + k) * w)).store(dx[b][to..][..w].as_mut_ptr());
                        }
                    }
                }
            }
        }
    }
}

impl Horner {
    /// The polynomials of `atoms` atoms of one element, whose coefficients [`Horner::coefficients`] has laid out.
    ///
    /// # Panics
    /// If lengths do not fit together.
    pub fn evaluate<T: HasSlabs>(
        &self,
        coefficients: &[T],
        atoms: usize,
        (layout, features): (Layout<'_>, &[&[T]]),
        (out_layout, out): (Layout<'_>, &mut [&mut [T]]),
        scratch: &mut Scratch<T>,
    ) {
        layout.check(atoms, self.dim, features);
        let lengths: Vec<&[T]> = out.iter().map(|o| &**o).collect();
        out_layout.check(atoms, self.outputs.len(), &lengths);
        assert!(layout.width == out_layout.width && coefficients.len() == layout.width * self.stream.len());
        if atoms > 0 {
            dispatch(Evaluate { plan: self, coefficients, atoms, layout, features, out_layout, out, scratch });
        }
    }

    /// The derivative of Σ g·P by the features, written to `dx`.
    ///
    /// # Panics
    /// If lengths do not fit together.
    pub fn gradient<T: HasSlabs>(
        &self,
        coefficients: &[T],
        atoms: usize,
        (layout, features): (Layout<'_>, &[&[T]]),
        (out_layout, g): (Layout<'_>, &[&[T]]),
        dx: &mut [&mut [T]],
        scratch: &mut Scratch<T>,
    ) {
        layout.check(atoms, self.dim, features);
        let lengths: Vec<&[T]> = dx.iter().map(|o| &**o).collect();
        layout.check(atoms, self.dim, &lengths);
        out_layout.check(atoms, self.outputs.len(), g);
        assert!(layout.width == out_layout.width && coefficients.len() == layout.width * self.stream.len());
        if atoms > 0 {
            dispatch(Gradient { plan: self, coefficients, atoms, layout, features, out_layout, g, dx, scratch });
        }
    }
}
