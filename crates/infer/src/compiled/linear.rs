//! Equivariant linear maps on rows of features: weights scaled, padded and merged once.

use std::ops::Range;
use std::sync::OnceLock;

use smallvec::{SmallVec, smallvec};
use tesseral_o3::Irrep;
use tesseral_ops::linear::LinearSpec;
use tesseral_ops::slab::HasSlabs;

use super::rows::Shape;

/// Consecutive atoms of one species.
pub(super) type Group = (u32, Range<usize>);

/// The groups of atoms that are sorted by species, or at least in runs.
pub(super) fn groups(species: &[u32]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for (i, &of) in species.iter().enumerate() {
        match groups.last_mut() {
            Some((last, atoms)) if *last == of => atoms.end = i + 1,
            _ => groups.push((of, i..i + 1)),
        }
    }
    groups
}

/// A matrix and its transpose: each pass reads the one whose rows it adds up, because turning a matrix over takes longer than multiplying a few rows with it.
#[derive(Debug)]
struct Weights<T> {
    /// `[n_in, n_out]`
    matrix: Vec<T>,
    /// `[n_out, n_in]`
    transposed: Vec<T>,
}

/// The weights from one block into another.
#[derive(Debug)]
struct Part<T> {
    from: usize,
    to: usize,
    components: usize,
    n_in: usize,
    n_out: usize,
    /// One for all species, or one for each, made when first needed.
    weights: Vec<OnceLock<Weights<T>>>,
    /// Where the part's weights are in a row of the flat ones, and its scale.
    offset: usize,
    scale: f64,
    /// Whether an earlier part writes the same block.
    later: bool,
}

/// A map as the checkpoint gives it, in the unpadded layout: what devices make theirs from.
#[derive(Debug)]
pub(super) struct Given {
    pub(super) spec: LinearSpec,
    /// `[1 or Z, weight_numel]`
    pub(super) flat: Vec<f64>,
    /// Multiplies all weights.
    pub(super) factor: f64,
    /// Added to each row, `[dim_out]`; empty if there is none.
    pub(super) bias: Vec<f64>,
}

/// A linear map between two shapes.
#[derive(Debug)]
pub(super) struct Linear<T> {
    parts: Vec<Part<T>>,
    given: Given,
    from: Shape,
    to: Shape,
    /// Added to scalars, padded: block and values.
    bias: Option<(usize, Vec<T>)>,
    /// Output blocks that nothing maps to.
    untouched: Vec<usize>,
}

impl<T: HasSlabs> Linear<T> {
    /// `flat` are the weights `[1 or Z, numel]` of `spec`, `factor` multiplies them all.
    pub(super) fn new(spec: &LinearSpec, flat: Vec<f64>, from: &Shape, to: &Shape, factor: f64) -> Self {
        let sets = (flat.len() / spec.weight_numel.max(1)).max(1);
        let mut parts: Vec<Part<T>> = Vec::new();
        for instruction in &spec.instructions {
            let (Some(a), Some(b)) = (from.at(instruction.in_offset), to.at(instruction.out_offset)) else { continue };
            let later = parts.iter().any(|p| p.to == b);
            parts.push(Part {
                from: a,
                to: b,
                components: instruction.components,
                n_in: from.blocks()[a].width,
                n_out: to.blocks()[b].width,
                weights: (0..sets).map(|_| OnceLock::new()).collect(),
                offset: instruction.weight_offset,
                scale: instruction.scale * factor,
                later,
            });
        }
        let untouched = (0..to.blocks().len()).filter(|b| !parts.iter().any(|p| p.to == *b)).collect();
        let given = Given { spec: spec.clone(), flat, factor, bias: Vec::new() };
        Self { parts, given, from: from.clone(), to: to.clone(), bias: None, untouched }
    }

    /// Adds a bias to the channels of the scalars of the output.
    pub(super) fn with_bias(mut self, irreps: &tesseral_o3::Irreps, bias: &[f64]) -> Self {
        let block = irreps.blocks_with_offsets().find(|b| b.irrep == Irrep::even(0)).and_then(|b| self.to.at(b.offset));
        if let Some(b) = block {
            let mut values = vec![T::zero(); self.to.blocks()[b].width];
            values.iter_mut().zip(bias).for_each(|(v, &b)| *v = T::of(b));
            self.given.bias = vec![0.0; self.given.spec.dim_out];
            let offset = self.to.blocks()[b].offset;
            self.given.bias[offset..].iter_mut().zip(bias).for_each(|(v, &b)| *v = b);
            self.bias = Some((b, values));
        }
        self
    }

    pub(super) fn given(&self) -> &Given {
        &self.given
    }

    pub(super) fn by_species(&self) -> bool {
        self.parts.iter().any(|p| p.weights.len() > 1)
    }

    fn weights<'a>(&'a self, part: &'a Part<T>, species: u32) -> &'a Weights<T> {
        let set = if part.weights.len() > 1 { species as usize } else { 0 };
        part.weights[set].get_or_init(|| {
            let mut matrix = vec![T::zero(); part.n_in * part.n_out];
            let (rows, columns) = (&self.from.blocks()[part.from], &self.to.blocks()[part.to]);
            let flat = &self.given.flat[set * self.given.spec.weight_numel + part.offset..];
            for &(first, place, count) in &rows.runs {
                for u in 0..count {
                    for &(column, column_place, columns_count) in &columns.runs {
                        for w in 0..columns_count {
                            matrix[(place + u) * part.n_out + column_place + w] =
                                T::of(flat[(first + u) * columns.channels + column + w] * part.scale);
                        }
                    }
                }
            }
            let transposed = (0..matrix.len()).map(|k| matrix[k % part.n_in * part.n_out + k / part.n_in]).collect();
            Weights { matrix, transposed }
        })
    }

    /// Makes the weights of one species.
    pub(super) fn prepare(&self, species: u32) {
        self.parts.iter().for_each(|part| {
            self.weights(part, species);
        });
    }

    fn each_group(&self, groups: &[Group], atoms: usize, mut f: impl FnMut(u32, Range<usize>)) {
        if self.by_species() {
            groups.iter().for_each(|(species, range)| f(*species, range.clone()));
        } else {
            f(0, 0..atoms);
        }
    }

    /// `y (+)= L x` for `atoms` atoms, sorted into groups of one species.
    pub(super) fn forward(&self, x: &[&[T]], y: &mut [&mut [T]], atoms: usize, groups: &[Group], accumulate: bool) {
        if !accumulate {
            self.untouched.iter().for_each(|&b| y[b].fill(T::zero()));
        }
        for part in &self.parts {
            self.each_group(groups, atoms, |species, range| {
                let rows = range.len() * part.components;
                let (start_in, start_out) = (range.start * part.components * part.n_in, range.start * part.components * part.n_out);
                T::gemm(
                    rows,
                    part.n_out,
                    part.n_in,
                    (&mut y[part.to][start_out..], part.n_out),
                    accumulate || part.later,
                    (&x[part.from][start_in..], part.n_in, 1),
                    (&self.weights(part, species).matrix, part.n_out, 1),
                );
            });
        }
        if let Some((b, bias)) = &self.bias {
            for row in y[*b].chunks_exact_mut(bias.len()) {
                row.iter_mut().zip(bias).for_each(|(y, &b)| *y += b);
            }
        }
    }

    /// `dx (+)= Lᵀ g`
    pub(super) fn adjoint(&self, g: &[&[T]], dx: &mut [&mut [T]], atoms: usize, groups: &[Group], accumulate: bool) {
        let mut written: SmallVec<[bool; 8]> = smallvec![accumulate; dx.len()];
        for part in &self.parts {
            self.each_group(groups, atoms, |species, range| {
                let rows = range.len() * part.components;
                let (start_in, start_out) = (range.start * part.components * part.n_in, range.start * part.components * part.n_out);
                T::gemm(
                    rows,
                    part.n_in,
                    part.n_out,
                    (&mut dx[part.from][start_in..], part.n_in),
                    written[part.from],
                    (&g[part.to][start_out..], part.n_out, 1),
                    (&self.weights(part, species).transposed, part.n_in, 1),
                );
            });
            written[part.from] = true;
        }
        for (dx, written) in dx.iter_mut().zip(written) {
            if !written {
                dx.fill(T::zero());
            }
        }
    }

    /// Multiply-adds for one atom.
    pub(super) fn operations(&self) -> usize {
        self.parts.iter().map(|p| p.components * p.n_in * p.n_out).sum()
    }
}

/// A network on the scalars of an atom that ends in its energy.
#[derive(Debug)]
pub(super) struct ScalarNetwork<T> {
    pub(super) layers: Vec<ScalarLayer<T>>,
}

/// One map of a [`ScalarNetwork`].
#[derive(Debug)]
pub(super) struct ScalarLayer<T> {
    pub(super) n_in: usize,
    pub(super) n_out: usize,
    /// `[n_in, n_out]`
    pub(super) weights: Vec<T>,
    pub(super) bias: Option<Vec<T>>,
    pub(super) activation: Option<tesseral_ops::gate::ScaledActivation>,
}

/// Buffers of a network.
#[derive(Debug, Default)]
pub(super) struct ScalarScratch<T> {
    before: Vec<Vec<T>>,
    after: Vec<Vec<T>>,
    g: [Vec<T>; 2],
}

fn resized<T: HasSlabs>(v: &mut Vec<T>, n: usize) -> &mut [T] {
    v.resize(n, T::zero());
    &mut v[..]
}

impl<T: HasSlabs> ScalarNetwork<T> {
    pub(super) fn new(layers: Vec<ScalarLayer<T>>) -> Self {
        Self { layers }
    }

    /// Energies (added to `energies`) of rows of `x` of length `width`, and their derivatives by `x` times `seeds`, added to `dx`.
    pub(super) fn evaluate(&self, x: &[T], width: usize, energies: &mut [f64], seeds: &[T], dx: &mut [T], scratch: &mut ScalarScratch<T>) {
        let n = energies.len();
        let count = self.layers.len();
        // The longest network decides, so that no buffer is dropped.
        let most = count.max(scratch.before.len());
        scratch.before.resize_with(most, Vec::new);
        scratch.after.resize_with(most, Vec::new);
        for (k, layer) in self.layers.iter().enumerate() {
            let (done, rest) = scratch.after.split_at_mut(k);
            let (input, stride) = done.last().map_or((x, width), |v| (v.as_slice(), layer.n_in));
            let before = resized(&mut scratch.before[k], n * layer.n_out);
            T::gemm(n, layer.n_out, layer.n_in, (before, layer.n_out), false, (input, stride, 1), (&layer.weights, layer.n_out, 1));
            if let Some(bias) = &layer.bias {
                for row in before.chunks_exact_mut(layer.n_out) {
                    row.iter_mut().zip(bias).for_each(|(y, &b)| *y += b);
                }
            }
            let after = resized(&mut rest[0], n * layer.n_out);
            match layer.activation {
                Some(activation) => activation.apply(0, before, after),
                None => after.copy_from_slice(before),
            }
        }
        let last = &scratch.after[count - 1];
        for (e, &v) in energies.iter_mut().zip(last) {
            *e += candle_core::WithDType::to_f64(v);
        }
        let [g, next] = &mut scratch.g;
        g.clear();
        g.extend_from_slice(seeds);
        for (k, layer) in self.layers.iter().enumerate().rev() {
            if let Some(activation) = layer.activation {
                let slope = resized(&mut scratch.after[k], n * layer.n_out);
                activation.apply(1, &scratch.before[k], slope);
                g.iter_mut().zip(&*slope).for_each(|(g, &s)| *g *= s);
            }
            if k == 0 {
                T::gemm(n, layer.n_in, layer.n_out, (dx, width), true, (g, layer.n_out, 1), (&layer.weights, 1, layer.n_out));
                return;
            }
            let to = resized(next, n * layer.n_in);
            T::gemm(n, layer.n_in, layer.n_out, (to, layer.n_in), false, (g, layer.n_out, 1), (&layer.weights, 1, layer.n_out));
            std::mem::swap(g, next);
        }
    }
}
