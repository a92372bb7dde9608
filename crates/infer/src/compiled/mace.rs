//! Layers of MACE (model definitions §2), lowered.

use std::sync::OnceLock;

use smallvec::{SmallVec, smallvec};
use tesseral_o3::{Irrep, Irreps, MulIrrep, TensorProductPaths};
use tesseral_ops::linear::LinearSpec;
use tesseral_ops::slab::HasSlabs;
use tesseral_ops::symmetric_contraction::SymmetricBasis;
use tesseral_ops::symmetric_contraction::sparse::{Layout, SparseContraction};
use tesseral_ops::tensor_product::{TensorProductSpec, slabs::SlabPlan};
use tesseral_potentials::blocks::{activation, gate_spec};
use tesseral_potentials::mace::{
    Fields, Interaction, LayerConfig, MaceConfig, ReadoutConfig, ReadoutKind, Repulsion, gate_activations, gate_irreps, product_basis,
};
use tesseral_potentials::{Parameters, PotentialError};

use super::convolution::{Convolution, Fold, FoldedPath, Radial};
use super::linear::{Group, Linear, ScalarLayer, ScalarNetwork};
use super::node::{Back, Gate, Node, NodeWork, Own, add_constants, read};
use super::plan::{Energies, FieldEmbedding, Initial, Layer, PairEnergy, Plan, apply_plain, config_error};
use super::radial::{Network, Pair, RadialBasis, RadialFunctions};
use super::rows::{Parts, PartsMut, Rows, Shape};
use crate::InferError;

/// From messages to the features that enter the product basis.
pub(super) enum Mixing<T> {
    /// The tables contain the linear map.
    Folded,
    Linear(Box<Linear<T>>),
    NonLinear(Box<NonLinear<T>>),
}

/// The non-linear block: a gate between two linear maps, messages divided by an affine function of the density.
pub(super) struct NonLinear<T> {
    pub(super) linear: Linear<T>,
    pub(super) residual: Linear<T>,
    pub(super) alpha: f64,
    pub(super) beta: f64,
    pub(super) gate: Gate,
    pub(super) linear_2: Linear<T>,
}

/// Linear map, product basis, linear map, skip connection; readouts of the features that go out.
pub(super) struct MaceNode<T> {
    pub(super) mixing: Mixing<T>,
    /// Whether messages are divided by 1 + density.
    pub(super) density: bool,
    /// The product with the element after the messages.
    pub(super) mix: Option<Linear<T>>,
    pub(super) target: Shape,
    pub(super) contraction: SparseContraction,
    pub(super) basis: SymmetricBasis,
    /// `[Z or 1, paths, K]` for each basis.
    pub(super) weights: Vec<Vec<f64>>,
    pub(super) by_element: bool,
    pub(super) channels: usize,
    /// Coefficients by element, made when first needed.
    pub(super) coefficients: Vec<OnceLock<Vec<T>>>,
    pub(super) product: Linear<T>,
    pub(super) out: Shape,
    pub(super) skip: Option<Linear<T>>,
    pub(super) readouts: Vec<ScalarNetwork<T>>,
    /// Block of the even scalars in the features that go out.
    pub(super) scalars: usize,
}

fn components(shape: &Shape) -> SmallVec<[usize; 8]> {
    shape.blocks().iter().map(|b| b.components).collect()
}

/// Parts of consecutive atoms.
fn part<'a, T>(shape: &Shape, x: &[&'a [T]], atoms: &std::ops::Range<usize>) -> Parts<'a, T> {
    x.iter().enumerate().map(|(b, x)| &x[atoms.start * shape.row(b)..atoms.end * shape.row(b)]).collect()
}

fn part_mut<'a, T>(shape: &Shape, x: &'a mut [&mut [T]], atoms: &std::ops::Range<usize>) -> PartsMut<'a, T> {
    x.iter_mut().enumerate().map(|(b, x)| &mut x[atoms.start * shape.row(b)..atoms.end * shape.row(b)]).collect()
}

/// Multiplies the row of each atom with its factor.
fn scale_atoms<T: HasSlabs>(shape: &Shape, x: &mut [&mut [T]], factor: impl Fn(usize) -> T) {
    for (b, x) in x.iter_mut().enumerate() {
        for (i, row) in x.chunks_exact_mut(shape.row(b)).enumerate() {
            let factor = factor(i);
            row.iter_mut().for_each(|x| *x *= factor);
        }
    }
}

/// `to[i] = Σ a·b` over the row of each atom.
fn dots<T: HasSlabs>(shape: &Shape, a: &[&[T]], b: &[&[T]], to: &mut [T]) {
    to.fill(T::zero());
    for k in 0..a.len() {
        let row = shape.row(k);
        for (i, (a, b)) in a[k].chunks_exact(row).zip(b[k].chunks_exact(row)).enumerate() {
            to[i] += a.iter().zip(b).map(|(&a, &b)| a * b).sum::<T>();
        }
    }
}

impl<T: HasSlabs> MaceNode<T> {
    pub(super) fn saved(&self) -> SmallVec<[&Shape; 3]> {
        match &self.mixing {
            Mixing::NonLinear(block) => smallvec![&self.target, &block.gate.from, &block.gate.from],
            _ => smallvec![&self.target],
        }
    }

    /// Coefficients of the polynomials of a species, `[terms, channels]`.
    pub(super) fn plain_coefficients(&self, species: u32) -> Vec<f64> {
        let row = if self.by_element { species as usize } else { 0 };
        let of_row: Vec<Vec<f64>> = self
            .weights
            .iter()
            .zip(self.basis.paths())
            .map(|(w, paths)| w[row * paths * self.channels..(row + 1) * paths * self.channels].to_vec())
            .collect();
        self.basis.plain_coefficients(&of_row, 1, self.channels)
    }

    fn coefficients(&self, species: u32) -> &[T] {
        let row = if self.by_element { species as usize } else { 0 };
        self.coefficients[row].get_or_init(|| self.contraction.coefficients(&self.plain_coefficients(species), self.channels))
    }

    pub(super) fn prepare(&self, species: u32) {
        self.coefficients(species);
        let maps = [self.mix.as_ref(), Some(&self.product), self.skip.as_ref()];
        maps.into_iter().flatten().for_each(|m| m.prepare(species));
        match &self.mixing {
            Mixing::Folded => {}
            Mixing::Linear(linear) => linear.prepare(species),
            Mixing::NonLinear(block) => [&block.linear, &block.residual, &block.linear_2].iter().for_each(|m| m.prepare(species)),
        }
    }

    pub(super) fn operations(&self) -> usize {
        let of = |m: &Option<Linear<T>>| m.as_ref().map_or(0, Linear::operations);
        let mixing = match &self.mixing {
            Mixing::Folded => 0,
            Mixing::Linear(linear) => linear.operations(),
            Mixing::NonLinear(block) => [&block.linear, &block.residual, &block.linear_2].iter().map(|m| m.operations()).sum(),
        };
        let [forward, gradient] = self.contraction.operations();
        2 * (mixing + of(&self.mix) + self.product.operations() + of(&self.skip)) + (forward + gradient) * self.channels
    }

    /// What the skip connection and the residual of the first layer give for its features.
    pub(super) fn constants(&self, x: &[&[T]], up: &[&[T]], atoms: usize, groups: &[Group]) -> Vec<Rows<T>> {
        let apply = |map: &Linear<T>, shape: &Shape, from: &[&[T]]| {
            let mut rows = Rows::zeros(shape, atoms);
            map.forward(from, &mut rows.views_mut(), atoms, groups, false);
            rows
        };
        let skip = self.skip.as_ref().map(|s| apply(s, &self.out, x)).unwrap_or_default();
        let residual = match &self.mixing {
            Mixing::NonLinear(block) => apply(&block.residual, &block.gate.from, up),
            _ => Rows::default(),
        };
        vec![skip, residual]
    }

    pub(super) fn constant_shapes(&self) -> [&Shape; 2] {
        let residual = match &self.mixing {
            Mixing::NonLinear(block) => &block.gate.from,
            _ => &self.out,
        };
        [&self.out, residual]
    }

    pub(super) fn forward(
        &self,
        own: &Own<'_, T>,
        messages: &Rows<T>,
        saved: &mut [PartsMut<'_, T>],
        out: &mut [&mut [T]],
        work: &mut NodeWork<T>,
    ) {
        let (n, groups) = (own.atoms, own.groups);
        let messages = messages.views();
        let (target, others) = saved.split_at_mut(1);
        let target = &mut target[0];
        match &self.mixing {
            Mixing::NonLinear(block) => {
                let NonLinear { linear, residual, alpha, beta, gate, linear_2 } = &**block;
                let [sum, scaled] = others else { unreachable!("the non-linear block saves three") };
                linear.forward(&messages, scaled, n, groups, false);
                scale_atoms(&gate.from, scaled, |i| T::of(1.0) / (own.rho[i] * T::of(*beta) + T::of(*alpha)));
                sum.iter_mut().zip(scaled.iter()).for_each(|(s, m)| s.copy_from_slice(m));
                match own.constants {
                    Some((constants, index)) => add_constants(&gate.from, &constants[1], index, sum),
                    None => residual.forward(&own.up, sum, n, groups, true),
                }
                work.a.resize(&gate.to, n);
                gate.forward(&read(sum), &mut work.a.views_mut(), n, &mut work.gate);
                linear_2.forward(&work.a.views(), target, n, groups, false);
            }
            mixing => {
                match (mixing, &self.mix) {
                    (Mixing::Linear(linear), Some(mix)) => {
                        work.a.resize(&self.target, n);
                        linear.forward(&messages, &mut work.a.views_mut(), n, groups, false);
                        mix.forward(&work.a.views(), target, n, groups, false);
                    }
                    (Mixing::Linear(linear), None) => linear.forward(&messages, target, n, groups, false),
                    (_, Some(mix)) => mix.forward(&messages, target, n, groups, false),
                    (_, None) => target.iter_mut().zip(&messages).for_each(|(t, m)| t.copy_from_slice(m)),
                }
                if self.density {
                    scale_atoms(&self.target, target, |i| T::one() / (T::one() + own.rho[i]));
                }
            }
        }
        let (in_components, out_components) = (components(&self.target), components(&self.out));
        let width = self.target.blocks()[0].width;
        let layout = Layout { components: &in_components, width };
        let out_layout = Layout { components: &out_components, width };
        work.b.resize(&self.out, n);
        let a = read(target);
        let mut b = work.b.views_mut();
        for (species, range) in groups {
            self.contraction.evaluate(
                self.coefficients(*species),
                range.len(),
                (layout, &part(&self.target, &a, range)),
                (out_layout, &mut part_mut(&self.out, &mut b, range)),
                &mut work.contraction,
            );
        }
        self.product.forward(&read(&b), out, n, groups, false);
        if let Some(skip) = &self.skip {
            match own.constants {
                Some((constants, index)) => add_constants(&self.out, &constants[0], index, out),
                None => skip.forward(&own.x, out, n, groups, true),
            }
        }
    }

    pub(super) fn adjoint(
        &self,
        own: &Own<'_, T>,
        saved: &[Parts<'_, T>],
        out: &[&[T]],
        g: &mut [&mut [T]],
        (energies, seeds): (&mut [f64], &[T]),
        back: &mut Back<'_, '_, T>,
        work: &mut NodeWork<T>,
    ) {
        let (n, groups) = (own.atoms, own.groups);
        for readout in &self.readouts {
            let width = self.out.blocks()[self.scalars].width;
            readout.evaluate(out[self.scalars], width, energies, seeds, g[self.scalars], &mut work.scalars);
        }
        let g = read(g);
        work.b.resize(&self.out, n);
        self.product.adjoint(&g, &mut work.b.views_mut(), n, groups, false);
        if !back.x.is_empty() {
            match &self.skip {
                Some(skip) => skip.adjoint(&g, back.x, n, groups, false),
                None => back.x.iter_mut().for_each(|x| x.fill(T::zero())),
            }
        }
        let (in_components, out_components) = (components(&self.target), components(&self.out));
        let width = self.target.blocks()[0].width;
        work.a.resize(&self.target, n);
        {
            let layout = Layout { components: &in_components, width };
            let out_layout = Layout { components: &out_components, width };
            let (gb, mut ga) = (work.b.views(), work.a.views_mut());
            for (species, range) in groups {
                self.contraction.gradient(
                    self.coefficients(*species),
                    range.len(),
                    (layout, &part(&self.target, &saved[0], range)),
                    (out_layout, &part(&self.out, &gb, range)),
                    &mut part_mut(&self.target, &mut ga, range),
                    &mut work.contraction,
                );
            }
        }
        let to = &mut back.messages.views_mut();
        match &self.mixing {
            Mixing::NonLinear(block) => {
                let NonLinear { linear, residual, alpha, beta, gate, linear_2 } = &**block;
                work.b.resize(&gate.to, n);
                linear_2.adjoint(&work.a.views(), &mut work.b.views_mut(), n, groups, false);
                work.c.resize(&gate.from, n);
                gate.adjoint(&saved[1], &work.b.views(), &mut work.c.views_mut(), n, &mut work.gate);
                if !back.up.is_empty() {
                    residual.adjoint(&work.c.views(), back.up, n, groups, true);
                }
                let divisor = |i: usize| own.rho[i] * T::of(*beta) + T::of(*alpha);
                dots(&gate.from, &work.c.views(), &saved[2], back.rho);
                back.rho.iter_mut().enumerate().for_each(|(i, d)| *d *= -T::of(*beta) / divisor(i));
                scale_atoms(&gate.from, &mut work.c.views_mut(), |i| T::one() / divisor(i));
                linear.adjoint(&work.c.views(), to, n, groups, false);
            }
            mixing => {
                if self.density {
                    dots(&self.target, &work.a.views(), &saved[0], back.rho);
                    back.rho.iter_mut().enumerate().for_each(|(i, d)| *d *= -T::one() / (T::one() + own.rho[i]));
                    scale_atoms(&self.target, &mut work.a.views_mut(), |i| T::one() / (T::one() + own.rho[i]));
                }
                match (mixing, &self.mix) {
                    (Mixing::Linear(linear), Some(mix)) => {
                        work.c.resize(&self.target, n);
                        mix.adjoint(&work.a.views(), &mut work.c.views_mut(), n, groups, false);
                        linear.adjoint(&work.c.views(), to, n, groups, false);
                    }
                    (Mixing::Linear(linear), None) => linear.adjoint(&work.a.views(), to, n, groups, false),
                    (_, Some(mix)) => mix.adjoint(&work.a.views(), to, n, groups, false),
                    (_, None) => to.iter_mut().zip(work.a.views()).for_each(|(t, a)| t.copy_from_slice(a)),
                }
            }
        }
    }
}

/// The matrix `[mul_in, mul_out]` of scalars, scaled.
fn scalar_matrix(spec: &LinearSpec, flat: &[f64], in_offset: usize) -> Result<(usize, usize, Vec<f64>), PotentialError> {
    let mut from_here = spec.instructions.iter().filter(|i| i.components == 1 && i.in_offset == in_offset);
    let (Some(i), None, 1) = (from_here.next(), from_here.next(), spec.instructions.len()) else {
        return Err(config_error("readout", "it reads more than one block of scalars"));
    };
    let values = flat[i.weight_offset..i.weight_offset + i.mul_in * i.mul_out].iter().map(|w| w * i.scale).collect();
    Ok((i.mul_in, i.mul_out, values))
}

/// Columns `columns` and rows `rows` of `[.., n]`.
fn submatrix<T: HasSlabs>(matrix: &[f64], n: usize, rows: std::ops::Range<usize>, columns: std::ops::Range<usize>) -> Vec<T> {
    rows.flat_map(|r| columns.clone().map(move |c| T::of(matrix[r * n + c]))).collect()
}

fn scalars(n: usize) -> Result<Irreps, PotentialError> {
    Irreps::new(vec![MulIrrep::new(n, Irrep::even(0))]).map_err(|e| config_error("readout", e))
}

/// A readout for one head: hidden scalars of other heads are masked out, so they are left out.
fn readout<T: HasSlabs>(
    config: &MaceConfig,
    readout: &ReadoutConfig,
    p: &Parameters<'_>,
    r: usize,
    head: usize,
    in_offset: usize,
) -> Result<ScalarNetwork<T>, PotentialError> {
    let heads = config.heads.len();
    let name = |what: &str| format!("readouts.{r}.{what}");
    let matrix = |what: &str, from: &Irreps, to: &Irreps, offset: usize| {
        let spec = LinearSpec::new(from, to, 1, 0);
        scalar_matrix(&spec, &p.constants(&name(&format!("{what}.weight")), &[1, spec.weight_numel])?, offset)
    };
    let bias = |what: &str, n: usize, range: std::ops::Range<usize>| -> Result<Vec<T>, PotentialError> {
        Ok(p.constants(&name(&format!("{what}.bias")), &[n])?[range].iter().map(|&b| T::of(b)).collect())
    };
    if readout.kind == ReadoutKind::Linear {
        let (n, m, w) = matrix("linear_1", &readout.irreps_in, &scalars(heads)?, in_offset)?;
        let weights = submatrix(&w, m, 0..n, head..head + 1);
        return Ok(ScalarNetwork::new(vec![ScalarLayer { n_in: n, n_out: 1, weights, bias: None, activation: None }]));
    }
    let activation = readout.activation.as_deref().map(|a| activation(a, 1.0).map(|a| a.activation.e3nn())).transpose()?;
    let hidden = scalars(readout.hidden)?;
    let width = readout.hidden / heads;
    let mine = head * width..(head + 1) * width;
    let (n, m, w) = matrix("linear_1", &readout.irreps_in, &hidden, in_offset)?;
    let mut layers = vec![ScalarLayer { n_in: n, n_out: width, weights: submatrix(&w, m, 0..n, mine.clone()), bias: None, activation }];
    let biased = readout.kind == ReadoutKind::NonLinearBias;
    if biased {
        let (_, m, w) = matrix("linear_mid", &hidden, &hidden, 0)?;
        let bias = Some(bias("linear_mid", readout.hidden, mine.clone())?);
        layers.push(ScalarLayer { n_in: width, n_out: width, weights: submatrix(&w, m, mine.clone(), mine.clone()), bias, activation });
    }
    let (_, m, w) = matrix("linear_2", &hidden, &scalars(heads)?, 0)?;
    let bias = if biased { Some(bias("linear_2", heads, head..head + 1)?) } else { None };
    layers.push(ScalarLayer { n_in: width, n_out: 1, weights: submatrix(&w, m, mine, head..head + 1), bias, activation: None });
    Ok(ScalarNetwork::new(layers))
}

/// The fold of the first layer: features of the neighbour's species, linear map and average into the columns of each path.
fn fold(product: &TensorProductSpec, spec: &LinearSpec, flat: Vec<f64>, sent: Vec<f64>, factor: f64) -> Option<Fold> {
    let mut paths = Vec::new();
    for path in &product.paths {
        let mut into = product.paths.iter().filter(|p| p.out_offset == path.out_offset);
        let instruction = spec.instructions.iter().find(|i| i.in_offset == path.out_offset)?;
        let square = instruction.mul_in == path.mul && instruction.mul_out == path.mul;
        if path.irreps[0].l != 0 || into.nth(1).is_some() || !square {
            return None;
        }
        paths.push((path.weight_offset, path.mul, path.in_offset, instruction.weight_offset, instruction.scale * factor));
    }
    let dim = product.dim_in;
    Some(Box::new(move |pair: Pair| {
        let of_path = |&(offset, n, in_offset, weights, scale): &(usize, usize, usize, usize, f64)| {
            let x = &sent[pair.neighbor as usize * dim + in_offset..][..n];
            let matrix = (0..n * n).map(|k| x[k / n] * flat[weights + k] * scale).collect();
            FoldedPath { offset, size: n, matrix }
        };
        paths.iter().map(of_path).collect()
    }))
}

/// Whether the map's output blocks are those of the product, each from one path: what [`fold`] needs beside square matrices.
fn foldable(product: &TensorProductSpec, target: &Irreps) -> bool {
    product.irreps_out == *target
}

struct Lowering<'a, 'p> {
    config: &'a MaceConfig,
    p: &'a Parameters<'p>,
    head: usize,
    basis: RadialBasis,
    /// Initial features by species, `[Z, K]`.
    x0: Vec<f64>,
}

impl Lowering<'_, '_> {
    fn constants(&self, name: &str, shape: &[usize]) -> Result<Vec<f64>, PotentialError> {
        self.p.constants(name, shape)
    }

    /// A linear map of a layer.
    fn map<T: HasSlabs>(
        &self,
        name: &str,
        (from, from_shape): (&Irreps, &Shape),
        (to, to_shape): (&Irreps, &Shape),
        by_element: bool,
        factor: f64,
    ) -> Result<Linear<T>, PotentialError> {
        let z = self.config.elements.len();
        let spec = LinearSpec::new(from, to, if by_element { z } else { 1 }, 0);
        let flat = self.constants(&format!("{name}.weight"), &[if by_element { z } else { 1 }, spec.weight_numel])?;
        Ok(Linear::new(&spec, flat, from_shape, to_shape, factor))
    }

    fn layer<T: HasSlabs>(&self, layer: &LayerConfig, t: usize) -> Result<Layer<T>, InferError> {
        let (config, p) = (self.config, self.p);
        let z = config.elements.len();
        let name = format!("layers.{t}");
        if layer.interaction == Interaction::AttentionResidual {
            return Err(InferError::NotCompiled {
                what: "MACE's attention block (its radial network sees the features of both atoms)".into(),
            });
        }
        let paths = TensorProductPaths::new(&layer.irreps_edge, &config.edge_irreps, |irrep| layer.irreps_target.contains(irrep))
            .map_err(|e| config_error(&name, e))?;
        let product = TensorProductSpec::new(&paths).map_err(|e| config_error(&name, e))?;
        if product.weight_numel != layer.radial.outputs() {
            return Err(config_error(format!("{name}.radial"), "its last size is not the number of weights of the tensor product").into());
        }
        let slabs = SlabPlan::<T>::new(&product);
        let shape = Shape::new::<T>;
        let (features, sent, out, target) =
            (shape(&layer.irreps_in), shape(&layer.irreps_edge), shape(&layer.irreps_out), shape(&layer.irreps_target));
        let messages = Shape(slabs.outputs().to_vec());
        let non_linear = layer.interaction == Interaction::ResidualNonLinear;
        let density = layer.interaction.has_density();
        let of_species = if non_linear {
            let n = layer.irreps_in.count(Irrep::even(0));
            let scaled = |what: &str| -> Result<Vec<f64>, PotentialError> {
                let mut table = self.constants(&format!("{name}.{what}.weight"), &[z, n])?;
                table.iter_mut().for_each(|v| *v /= (z as f64).sqrt());
                Ok(table)
            };
            Some((scaled("source")?, scaled("target")?, n))
        } else {
            None
        };
        let functions = RadialFunctions {
            network: Network::new(p, &format!("{name}.radial"), &layer.radial)?,
            of_species: of_species.clone(),
            density: false,
        };
        let lanes = tesseral_ops::slab::width::<T>();
        let density_radial = match (&layer.density, density) {
            (Some(network), true) => {
                let network = Network::new(p, &format!("{name}.density"), network)?;
                let section = (0..lanes).map(|l| (l == 0).then_some(0)).collect();
                Some(Radial::new(RadialFunctions { network, of_species, density: true }, &self.basis, vec![section], None, z))
            }
            _ => None,
        };
        let factor = if density { 1.0 } else { 1.0 / layer.avg_num_neighbors };
        // The first layer sees of its neighbours nothing but their species.
        let mut folded = None;
        if t == 0 && config.fields.is_empty() && !non_linear && foldable(&product, &layer.irreps_target) {
            let up = LinearSpec::new(&layer.irreps_in, &layer.irreps_edge, 1, 0);
            let sent = apply_plain(&up, &self.constants(&format!("{name}.up.weight"), &[1, up.weight_numel])?, &self.x0);
            let spec = LinearSpec::new(&product.irreps_out, &layer.irreps_target, 1, 0);
            let flat = self.constants(&format!("{name}.linear.weight"), &[1, spec.weight_numel])?;
            folded = fold(&product, &spec, flat, sent, factor);
        }
        let unit = folded.is_some();
        let mixing = if unit {
            Mixing::Folded
        } else if non_linear {
            let gate_in = gate_irreps(&layer.irreps_target);
            let gate_shape = shape(&gate_in);
            let spec = gate_spec(&layer.irreps_target, &gate_in, &gate_activations())?;
            Mixing::NonLinear(Box::new(NonLinear {
                linear: self.map(&format!("{name}.linear"), (&product.irreps_out, &messages), (&gate_in, &gate_shape), false, 1.0)?,
                residual: self.map(&format!("{name}.residual"), (&layer.irreps_edge, &sent), (&gate_in, &gate_shape), false, 1.0)?,
                alpha: self.constants(&format!("{name}.alpha"), &[1])?[0],
                beta: self.constants(&format!("{name}.beta"), &[1])?[0],
                gate: Gate { spec, from: gate_shape, to: target.clone() },
                linear_2: self.map(
                    &format!("{name}.linear_2"),
                    (&layer.irreps_target, &target),
                    (&layer.irreps_target, &target),
                    false,
                    1.0,
                )?,
            }))
        } else {
            let from = (&product.irreps_out, &messages);
            Mixing::Linear(Box::new(self.map(&format!("{name}.linear"), from, (&layer.irreps_target, &target), false, factor)?))
        };
        let mix = match layer.interaction {
            Interaction::Plain | Interaction::Density => {
                Some(self.map(&format!("{name}.mix"), (&layer.irreps_target, &target), (&layer.irreps_target, &target), true, 1.0)?)
            }
            _ => None,
        };
        let skip = if layer.skip && layer.interaction.has_skip() {
            let by_element = !non_linear;
            Some(self.map(&format!("{name}.skip"), (&layer.irreps_in, &features), (&layer.irreps_out, &out), by_element, 1.0)?)
        } else {
            None
        };
        let (basis, weights, channels) = product_basis(config, layer, p, t)?;
        let contraction = SparseContraction::new(basis.spec());
        let rows = if layer.element_dependent_product { z } else { 1 };
        let scalar = layer.irreps_out.blocks_with_offsets().position(|b| b.irrep == Irrep::even(0));
        let readouts: Vec<ScalarNetwork<T>> = config
            .readouts
            .iter()
            .enumerate()
            .filter(|(_, r)| r.layer == t)
            .map(|(r, c)| {
                let block = scalar.ok_or_else(|| config_error("readouts", "there are no scalars to read"))?;
                readout(config, c, p, r, self.head, out.blocks()[block].offset)
            })
            .collect::<Result<_, PotentialError>>()?;
        let node = MaceNode {
            mixing,
            density: density && !non_linear,
            mix,
            target,
            contraction,
            basis,
            weights,
            by_element: layer.element_dependent_product,
            channels,
            coefficients: (0..rows).map(|_| OnceLock::new()).collect(),
            product: self.map(&format!("{name}.product.linear"), (&layer.irreps_out, &out), (&layer.irreps_out, &out), false, 1.0)?,
            out: out.clone(),
            skip,
            readouts,
            scalars: scalar.unwrap_or(0),
        };
        let inputs = (0..slabs.num_blocks())
            .map(|b| sent.at(slabs.block(b).0).ok_or_else(|| config_error(&name, "a path starts at no block")))
            .collect::<Result<Vec<_>, _>>()?;
        let sections = slabs.sections().to_vec();
        let up = match config.layers.get(t + 1) {
            Some(next) => Some((
                self.map(
                    &format!("layers.{}.up", t + 1),
                    (&next.irreps_in, &shape(&next.irreps_in)),
                    (&next.irreps_edge, &shape(&next.irreps_edge)),
                    false,
                    1.0,
                )?,
                Vec::new(),
            )),
            None => None,
        };
        Ok(Layer {
            convolution: Convolution {
                spec: product,
                plan: slabs,
                unit,
                radial: Radial::new(functions, &self.basis, sections, folded.map(|f| (f, false, true)), z),
                density: density_radial,
                inputs,
            },
            features,
            sent,
            messages,
            out,
            node: Node::Mace(Box::new(node)),
            up,
        })
    }
}

/// Lowers a model for one head.
pub(super) fn lower<T: HasSlabs>(config: &MaceConfig, p: &Parameters<'_>, head: usize) -> Result<Plan<T>, InferError> {
    config.validate()?;
    let (z, heads, channels) = (config.elements.len(), config.heads.len(), config.channels());
    let mut x0 = p.constants("embedding.weight", &[z, channels])?;
    x0.iter_mut().for_each(|x| *x /= (z as f64).sqrt());
    let lowering = Lowering { config, p, head, basis: RadialBasis::of_mace(config, p)?, x0 };
    let layers = config.layers.iter().enumerate().map(|(t, layer)| lowering.layer(layer, t)).collect::<Result<Vec<Layer<T>>, _>>()?;
    let first = &config.layers[0];
    let up = LinearSpec::new(&first.irreps_in, &first.irreps_edge, 1, 0);
    let flat = p.constants("layers.0.up.weight", &[1, up.weight_numel])?;
    let x = Rows::from_plain(&layers[0].features, &lowering.x0);
    let sent = Rows::from_plain(&layers[0].sent, &apply_plain(&up, &flat, &lowering.x0));
    let fields = if config.fields.is_empty() {
        None
    } else {
        let embedding =
            candle_core::Tensor::from_slice(&lowering.x0, (z, channels), &candle_core::Device::Cpu).map_err(PotentialError::from)?;
        let linear = Linear::new(&up, flat, &layers[0].features, &layers[0].sent, 1.0);
        Some(FieldEmbedding { fields: Fields::new(config, p)?, embedding, up: linear, head })
    };
    let (scale, shift) =
        if config.scale_shift { (p.constants("scale", &[heads])?[head], p.constants("shift", &[heads])?[head]) } else { (1.0, 0.0) };
    let atomic = p.constants("atomic_energies", &[heads, z])?;
    let pair_energy = if config.zbl {
        let repulsion = Repulsion::new(config, p)?;
        let elements = config.elements.clone();
        let of_pair = move |pair: Pair| {
            let (u, v) = (pair.center as usize, pair.neighbor as usize);
            repulsion.pair((u, v), (elements[u], elements[v]))
        };
        Some(PairEnergy { of_pair: Box::new(of_pair), scaled: true })
    } else {
        None
    };
    Ok(Plan {
        cutoff: config.cutoff,
        lmax: config.edge_irreps.len() - 1,
        normalize: true,
        basis: lowering.basis,
        initial: Initial { x, sent, fields },
        layers,
        energies: Energies { scale: vec![scale; z], shift: atomic[head * z..][..z].iter().map(|e| shift + e).collect() },
        pair_energy,
        species: z,
    })
}

/// Initial features of each atom where fields are embedded, and the energies they have of their own (eV).
pub(super) fn embed<T: HasSlabs>(
    embedding: &FieldEmbedding<T>,
    shape: &Shape,
    structure: &tesseral_atoms::Structure,
    species: &[u32],
    order: &[u32],
) -> Result<(Rows<T>, Vec<f64>), PotentialError> {
    let (x, energies) = embedding.fields.embed(structure, species, &embedding.embedding)?;
    let x: Vec<Vec<f64>> = x.to_vec2()?;
    let plain: Vec<f64> = order.iter().flat_map(|&i| x[i as usize].iter().copied()).collect();
    let energies = match energies {
        Some(energies) => {
            let energies: Vec<Vec<f64>> = energies.to_vec2()?;
            order.iter().map(|&i| energies[i as usize][embedding.head]).collect()
        }
        None => Vec::new(),
    };
    Ok((Rows::from_plain(shape, &plain), energies))
}
