//! The contraction for inference: sparse matrices of coefficients between products of components, streamed in the order of use.
//!
//! With q the products of up to ν − 1 components, P_M = V_M + Σ_c x_c · V_{M,c} and V_r = Σ_q C\[r, q\] · q: a monomial of the highest degree ν is one component
//! times a product, shorter ones are products themselves. So a coefficient costs one multiply-add, and its operands sit in registers or the
//! first-level cache. The gradient needs V once more and Cᵀ h with h_M = g_M, h_{M,c} = g_M · x_c. Both orders of the coefficients of an element are
//! laid out once, a slab of channels after the other.

#![allow(unsafe_code, reason = "SIMD kernels over pointers that the checked entry points make")]

use std::collections::BTreeMap;

use super::ContractionSpec;
use crate::slab::{HasSlabs, Slab, SlabKernel, dispatch, padded, width};

/// Atoms that share a coefficient.
const ATOMS: usize = 2;

/// A row or a column of the sparse matrix: where its entries start, and which products or rows they multiply.
#[derive(Debug, Clone)]
struct Line {
    entries: std::ops::Range<usize>,
}

/// V_{M,c}, or V_M without a component.
#[derive(Debug, Clone)]
struct Row {
    output: usize,
    component: Option<usize>,
    line: Line,
}

/// The scheme of a contraction.
#[derive(Debug, Clone)]
pub struct SparseContraction {
    dim: usize,
    outputs: usize,
    /// Products beyond the components themselves: parent and component.
    products: Vec<(u32, u32)>,
    /// Ordered by output, the one without a component first.
    rows: Vec<Row>,
    /// Product of each entry of the rows.
    of_rows: Vec<u32>,
    /// For each product the rows that contain it.
    columns: Vec<Line>,
    of_columns: Vec<u32>,
    /// Terms that add up to each entry, by rows and by columns.
    row_terms: Vec<Vec<usize>>,
    column_terms: Vec<Vec<usize>>,
}

impl SparseContraction {
    /// The scheme of a contraction.
    pub fn new(spec: &ContractionSpec) -> Self {
        let highest = spec.monomials().iter().map(Vec::len).max().unwrap_or(1);
        // Each term is a row (output, component) and a product.
        let mut entries: BTreeMap<(usize, Option<usize>), BTreeMap<Vec<u16>, Vec<usize>>> = BTreeMap::new();
        for (t, term) in spec.terms().iter().enumerate() {
            let monomial = &spec.monomials()[term.monomial];
            let (component, product) = match monomial.split_last() {
                Some((&last, rest)) if monomial.len() == highest && !rest.is_empty() => (Some(last as usize), rest.to_vec()),
                _ => (None, monomial.clone()),
            };
            entries.entry((term.output, component)).or_default().entry(product).or_default().push(t);
        }
        // Every prefix of a product is one: degree first, so that parents come before their children.
        let mut index: BTreeMap<(usize, Vec<u16>), u32> = BTreeMap::new();
        for product in entries.values().flat_map(BTreeMap::keys) {
            for degree in 2..=product.len() {
                index.insert((degree, product[..degree].to_vec()), 0);
            }
        }
        let dim = spec.dim();
        for (position, number) in index.values_mut().enumerate() {
            *number = (dim + position) as u32;
        }
        let number = |product: &[u16]| match product {
            [single] => u32::from(*single),
            _ => index[&(product.len(), product.to_vec())],
        };
        let products =
            index.keys().map(|(_, m)| (number(&m[..m.len() - 1]), m.last().map_or(0, |&c| u32::from(c)))).collect::<Vec<(u32, u32)>>();
        let mut plan = Self {
            dim,
            outputs: spec.outputs(),
            rows: Vec::new(),
            of_rows: Vec::new(),
            columns: Vec::new(),
            of_columns: Vec::new(),
            row_terms: Vec::new(),
            column_terms: Vec::new(),
            products,
        };
        let mut by_product: Vec<Vec<(u32, Vec<usize>)>> = vec![Vec::new(); dim + plan.products.len()];
        for ((output, component), of_row) in &entries {
            let start = plan.of_rows.len();
            for (product, terms) in of_row {
                let product = number(product);
                plan.of_rows.push(product);
                plan.row_terms.push(terms.clone());
                by_product[product as usize].push((plan.rows.len() as u32, terms.clone()));
            }
            plan.rows.push(Row { output: *output, component: *component, line: Line { entries: start..plan.of_rows.len() } });
        }
        for column in by_product {
            let start = plan.of_columns.len();
            for (row, terms) in column {
                plan.of_columns.push(row);
                plan.column_terms.push(terms);
            }
            plan.columns.push(Line { entries: start..plan.of_columns.len() });
        }
        plan
    }

    /// Components of the features.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Components of the result.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Multiply-adds on a slab for one atom, forward and gradient.
    pub fn operations(&self) -> [usize; 2] {
        let (terms, rows, products) = (self.of_rows.len(), self.rows.len(), self.products.len());
        [terms + rows + products, 2 * terms + 2 * rows + 3 * products]
    }

    /// Coefficients of one element, `[terms, channels]`, in the order of use: for each slab those of the rows, then those of the columns.
    pub fn coefficients<T: HasSlabs>(&self, terms: &[f64], channels: usize) -> Vec<T> {
        let w = width::<T>();
        let count = self.stream();
        let mut out = vec![T::zero(); padded::<T>(channels) * count];
        for (slab, out) in out.chunks_exact_mut((w * count).max(1)).enumerate() {
            for (entry, out) in self.row_terms.iter().chain(&self.column_terms).zip(out.chunks_exact_mut(w)) {
                for (lane, out) in out.iter_mut().enumerate().take(channels - (slab * w).min(channels)) {
                    *out = T::of(entry.iter().map(|t| terms[t * channels + slab * w + lane]).sum());
                }
            }
        }
        out
    }

    /// Slabs of coefficients.
    fn stream(&self) -> usize {
        self.row_terms.len() + self.column_terms.len()
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

    fn check<T>(&self, atoms: usize, dim: usize, blocks: &[impl std::ops::Deref<Target = [T]>]) {
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
    /// Components and products.
    q: Vec<T>,
    dq: Vec<T>,
    /// Outputs, and rows: h.
    p: Vec<T>,
    h: Vec<T>,
}

impl<T: HasSlabs> Scratch<T> {
    fn size(&mut self, plan: &SparseContraction) {
        let slabs = ATOMS * width::<T>();
        self.q.resize((plan.dim + plan.products.len()) * slabs, T::zero());
        self.dq.resize((plan.dim + plan.products.len()) * slabs, T::zero());
        self.p.resize(plan.outputs * slabs, T::zero());
        self.h.resize(plan.rows.len() * slabs, T::zero());
    }
}

/// Reads one slab of components of the atoms from `first` on to `to` `[component][atom][lane]`; atoms beyond the last repeat it.
///
/// # Safety
/// Lengths have been checked; `to` holds `ATOMS` slabs for each component.
#[inline(always)]
unsafe fn collect<V: Slab>(layout: Layout<'_>, blocks: &[&[V::Scalar]], first: usize, atoms: usize, channel: usize, to: *mut V::Scalar) {
    let w = width::<V::Scalar>();
    for (c, (b, m)) in layout.each().enumerate() {
        for k in 0..ATOMS {
            let atom = (first + k).min(atoms - 1);
            let from = (atom * layout.components[b] + m) * layout.width + channel;
            // SAFETY: by the contract.
            unsafe { V::load(blocks[b].as_ptr().add(from)).store(to.add((c * ATOMS + k) * w)) };
        }
    }
}

/// Products from components.
///
/// # Safety
/// `q` holds components and has room for the products.
#[inline(always)]
unsafe fn products<V: Slab>(plan: &SparseContraction, q: *mut V::Scalar) {
    let stride = ATOMS * width::<V::Scalar>();
    for (k, &(parent, component)) in plan.products.iter().enumerate() {
        for a in 0..ATOMS {
            let lane = a * width::<V::Scalar>();
            // SAFETY: parents come before their children.
            unsafe {
                let product = V::load(q.add(parent as usize * stride + lane)).mul(V::load(q.add(component as usize * stride + lane)));
                product.store(q.add((plan.dim + k) * stride + lane));
            }
        }
    }
}

/// Σ coefficient · operand over the entries of a row or column.
///
/// # Safety
/// `c` is the stream of coefficients that the entries count in, `of` lie in `x`.
#[inline(always)]
unsafe fn line<V: Slab>(line: &Line, of: &[u32], c: *const V::Scalar, x: *const V::Scalar) -> [V; ATOMS] {
    let w = width::<V::Scalar>();
    // Two sums for each atom hide the latency of the multiply-adds.
    let mut sum = [[V::zero(); ATOMS]; 2];
    let entries = &of[line.entries.clone()];
    // SAFETY: by the contract.
    unsafe {
        let mut c = c.add(line.entries.start * w);
        let mut pairs = entries.chunks_exact(2);
        for pair in &mut pairs {
            for half in 0..2 {
                let coefficient = V::load(c.add(half * w));
                let x = x.add(pair[half] as usize * ATOMS * w);
                for a in 0..ATOMS {
                    sum[half][a] = coefficient.fma(V::load(x.add(a * w)), sum[half][a]);
                }
            }
            c = c.add(2 * w);
        }
        if let [last] = pairs.remainder() {
            let coefficient = V::load(c);
            let x = x.add(*last as usize * ATOMS * w);
            for a in 0..ATOMS {
                sum[0][a] = coefficient.fma(V::load(x.add(a * w)), sum[0][a]);
            }
        }
    }
    let mut total = sum[0];
    for a in 0..ATOMS {
        total[a] = total[a].add(sum[1][a]);
    }
    total
}

struct Evaluate<'a, 'b, T> {
    plan: &'a SparseContraction,
    coefficients: &'a [T],
    atoms: usize,
    layout: Layout<'a>,
    features: &'a [&'a [T]],
    out_layout: Layout<'a>,
    out: &'a mut [&'b mut [T]],
    scratch: &'a mut Scratch<T>,
}

impl<T: HasSlabs> SlabKernel<T> for Evaluate<'_, '_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Slab<Scalar = T>>(self) {
        let Self { plan, coefficients, atoms, layout, features, out_layout, out, scratch } = self;
        let w = width::<T>();
        scratch.size(plan);
        for slab in 0..layout.width / w {
            let c = coefficients[slab * plan.stream() * w..][..plan.stream() * w].as_ptr();
            for first in (0..atoms).step_by(ATOMS) {
                scratch.p.fill(T::zero());
                let (q, p) = (scratch.q.as_mut_ptr(), scratch.p.as_mut_ptr());
                // SAFETY: `evaluate` has checked all lengths; scratch was just sized.
                unsafe {
                    collect::<V>(layout, features, first, atoms, slab * w, q);
                    products::<V>(plan, q);
                    for row in &plan.rows {
                        let value = line::<V>(&row.line, &plan.of_rows, c, q);
                        for a in 0..ATOMS {
                            let to = p.add((row.output * ATOMS + a) * w);
                            let sum = V::load(to);
                            let sum = match row.component {
                                Some(component) => V::load(q.add((component * ATOMS + a) * w)).fma(value[a], sum),
                                None => sum.add(value[a]),
                            };
                            sum.store(to);
                        }
                    }
                    for (o, (b, m)) in out_layout.each().enumerate() {
                        for a in 0..ATOMS.min(atoms - first) {
                            let to = ((first + a) * out_layout.components[b] + m) * out_layout.width + slab * w;
                            V::load(p.add((o * ATOMS + a) * w)).store(out[b][to..][..w].as_mut_ptr());
                        }
                    }
                }
            }
        }
    }
}

struct Gradient<'a, 'b, T> {
    plan: &'a SparseContraction,
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
        let w = width::<T>();
        scratch.size(plan);
        for slab in 0..layout.width / w {
            let c = coefficients[slab * plan.stream() * w..][..plan.stream() * w].as_ptr();
            for first in (0..atoms).step_by(ATOMS) {
                let Scratch { q, dq, p, h } = &mut *scratch;
                let (q, dq, p, h) = (q.as_mut_ptr(), dq.as_mut_ptr(), p.as_mut_ptr(), h.as_mut_ptr());
                // SAFETY: `gradient` has checked all lengths; scratch was just sized.
                unsafe {
                    collect::<V>(layout, features, first, atoms, slab * w, q);
                    collect::<V>(out_layout, g, first, atoms, slab * w, p);
                    products::<V>(plan, q);
                    for (r, row) in plan.rows.iter().enumerate() {
                        for a in 0..ATOMS {
                            let g = V::load(p.add((row.output * ATOMS + a) * w));
                            let factor = match row.component {
                                Some(component) => g.mul(V::load(q.add((component * ATOMS + a) * w))),
                                None => g,
                            };
                            factor.store(h.add((r * ATOMS + a) * w));
                        }
                    }
                    // By the products: Cᵀ h.
                    let of_columns = c.add(plan.row_terms.len() * w);
                    for (k, column) in plan.columns.iter().enumerate() {
                        let sum = line::<V>(column, &plan.of_columns, of_columns, h);
                        for a in 0..ATOMS {
                            sum[a].store(dq.add((k * ATOMS + a) * w));
                        }
                    }
                    // By the components that rows multiply: g · V.
                    for row in &plan.rows {
                        let Some(component) = row.component else { continue };
                        let value = line::<V>(&row.line, &plan.of_rows, c, q);
                        for a in 0..ATOMS {
                            let to = dq.add((component * ATOMS + a) * w);
                            let g = V::load(p.add((row.output * ATOMS + a) * w));
                            g.fma(value[a], V::load(to)).store(to);
                        }
                    }
                    // From products to components, children before parents.
                    for (k, &(parent, component)) in plan.products.iter().enumerate().rev() {
                        for a in 0..ATOMS {
                            let lane = a * w;
                            let at = |n: usize| n * ATOMS * w + lane;
                            let (parent, component) = (at(parent as usize), at(component as usize));
                            let of_product = V::load(dq.add(at(plan.dim + k)));
                            let by_parent = of_product.fma(V::load(q.add(component)), V::load(dq.add(parent)));
                            by_parent.store(dq.add(parent));
                            // Read again: parent and component may be the same.
                            let by_component = of_product.fma(V::load(q.add(parent)), V::load(dq.add(component)));
                            by_component.store(dq.add(component));
                        }
                    }
                    for (component, (b, m)) in layout.each().enumerate() {
                        for a in 0..ATOMS.min(atoms - first) {
                            let to = ((first + a) * layout.components[b] + m) * layout.width + slab * w;
                            V::load(dq.add((component * ATOMS + a) * w)).store(dx[b][to..][..w].as_mut_ptr());
                        }
                    }
                }
            }
        }
    }
}

impl SparseContraction {
    /// The polynomials of `atoms` atoms of one element, whose coefficients [`SparseContraction::coefficients`] has laid out.
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
        out_layout.check(atoms, self.outputs, out);
        assert!(layout.width == out_layout.width && coefficients.len() == layout.width * self.stream());
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
        layout.check(atoms, self.dim, dx);
        out_layout.check(atoms, self.outputs, g);
        assert!(layout.width == out_layout.width && coefficients.len() == layout.width * self.stream());
        if atoms > 0 {
            dispatch(Gradient { plan: self, coefficients, atoms, layout, features, out_layout, g, dx, scratch });
        }
    }
}
