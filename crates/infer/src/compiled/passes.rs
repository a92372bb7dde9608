//! The passes of a layer over one domain: forward, adjoint, and for the last layer both at once.

use std::sync::{Arc, Mutex};

use rayon::prelude::*;
use smallvec::{SmallVec, smallvec};
use tesseral_ops::radial::{ScalarFunction, table::Table};
use tesseral_ops::slab::{HasSlabs, width};
use tesseral_ops::tensor_product::slabs::{Features, Neighborhoods, Scratch};

use super::convolution::Radial;
use super::geometry::{Geometry, Positions, locate};
use super::node::{Back, NodeWork, Own};
use super::plan::{Layer, Plan, scale_rows};
use super::radial::Pair;
use super::rows::{Parts, PartsMut, Rows, Saved, SavedMut};
use super::stages::{Clock, Stage};
use super::topology::Domain;
use crate::InferError;

/// Tables that a pass reads: those of eleven species, one for each ordered pair, need no allocation.
type Tables<'a, T> = SmallVec<[&'a Table<T>; 128]>;

/// Radial tables of the pairs of species of a structure.
pub(super) struct TablesOf<T> {
    pub(super) tables: Vec<Arc<Table<T>>>,
    /// Table of each pair of present species.
    pub(super) of_pair: Vec<u16>,
    /// The pair each table stands for.
    pub(super) pairs: Vec<Pair>,
}

impl<T: HasSlabs> TablesOf<T> {
    /// Builds the missing ones; in exact mode only numbers them.
    pub(super) fn new(radial: &Radial<T>, plan: &Plan<T>, present: &[u32], exact: bool) -> Result<Self, InferError> {
        let mut pairs: Vec<Pair> = Vec::new();
        let mut of_pair = Vec::new();
        for &center in present {
            for &neighbor in present {
                let pair = radial.representative(Pair { center, neighbor });
                let index = pairs.iter().position(|&p| p == pair).unwrap_or_else(|| {
                    pairs.push(pair);
                    pairs.len() - 1
                });
                of_pair.push(index as u16);
            }
        }
        let tables = if exact {
            Vec::new()
        } else {
            pairs
                .par_iter()
                .map(|&pair| radial.table(&plan.basis, pair))
                .collect::<Result<Vec<_>, _>>()
                .map_err(|error| InferError::Table { value: error.value, slope: error.slope, intervals: error.intervals })?
        };
        Ok(Self { tables, of_pair, pairs })
    }
}

pub(super) struct LayerTables<T> {
    pub(super) weights: TablesOf<T>,
    pub(super) density: Option<TablesOf<T>>,
}

/// Buffers of a thread.
pub(super) struct Work<T> {
    pub(super) clock: Clock,
    pub(super) geometry: Geometry<T>,
    pub(super) exact: Table<T>,
    pub(super) exact_density: Table<T>,
    pub(super) index: Vec<u16>,
    pub(super) cells: Vec<u32>,
    pub(super) t: Vec<T>,
    pub(super) density_index: Vec<u16>,
    pub(super) density_cells: Vec<u32>,
    pub(super) density_t: Vec<T>,
    pub(super) sources: Vec<u32>,
    pub(super) scratch: Scratch<T>,
    pub(super) messages: Rows<T>,
    pub(super) node: NodeWork<T>,
    pub(super) saved: Vec<Rows<T>>,
    pub(super) out: Rows<T>,
    pub(super) sent: Rows<T>,
    pub(super) g: Rows<T>,
    pub(super) rho: Vec<T>,
    pub(super) d_rho: Vec<T>,
    pub(super) seeds: Vec<T>,
    pub(super) read_out: Vec<f64>,
    pub(super) dy: Vec<T>,
    pub(super) dt: Vec<T>,
    pub(super) dv: Vec<T>,
}

impl<T: HasSlabs> Work<T> {
    fn new(plan: &Plan<T>) -> Self {
        Self {
            clock: Clock::new(),
            geometry: Geometry::new(plan.lmax, plan.normalize),
            exact: Table::empty(),
            exact_density: Table::empty(),
            index: Vec::new(),
            cells: Vec::new(),
            t: Vec::new(),
            density_index: Vec::new(),
            density_cells: Vec::new(),
            density_t: Vec::new(),
            sources: Vec::new(),
            scratch: Scratch::default(),
            messages: Rows::default(),
            node: NodeWork::default(),
            saved: Vec::new(),
            out: Rows::default(),
            sent: Rows::default(),
            g: Rows::default(),
            rho: Vec::new(),
            d_rho: Vec::new(),
            seeds: Vec::new(),
            read_out: Vec::new(),
            dy: Vec::new(),
            dt: Vec::new(),
            dv: Vec::new(),
        }
    }
}

/// Thread buffers, handed out to whoever works on a domain.
pub(super) struct Pool<T>(pub(super) Mutex<Vec<Work<T>>>);

impl<T: HasSlabs> Pool<T> {
    pub(super) fn with<R>(&self, plan: &Plan<T>, f: impl FnOnce(&mut Work<T>) -> R) -> R {
        let lock = || self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut work = lock().pop().unwrap_or_else(|| Work::new(plan));
        work.clock.start();
        let result = f(&mut work);
        lock().push(work);
        result
    }
}

/// A domain with its part of everything that a pass writes.
pub(super) struct Task<'a, T> {
    pub(super) domain: &'a Domain,
    pub(super) saved: SavedMut<'a, T>,
    pub(super) out: PartsMut<'a, T>,
    pub(super) up: PartsMut<'a, T>,
    pub(super) rho: &'a mut [T],
    pub(super) dx: PartsMut<'a, T>,
    pub(super) dup: PartsMut<'a, T>,
    pub(super) rows: &'a mut [T],
    pub(super) dv: &'a mut [T],
    pub(super) energies: &'a mut [f64],
}

impl<'a, T> Task<'a, T> {
    /// Of a domain of which nothing is written.
    pub(super) fn of(domain: &'a Domain) -> Self {
        Self {
            domain,
            saved: SavedMut::new(),
            out: PartsMut::new(),
            up: PartsMut::new(),
            rho: &mut [],
            dx: PartsMut::new(),
            dup: PartsMut::new(),
            rows: &mut [],
            dv: &mut [],
            energies: &mut [],
        }
    }
}

/// What the passes of a layer read.
pub(super) struct Shared<'a, T> {
    pub(super) plan: &'a Plan<T>,
    pub(super) layer: &'a Layer<T>,
    /// Which layer it is.
    pub(super) number: usize,
    pub(super) exact: bool,
    pub(super) tables: &'a LayerTables<T>,
    pub(super) at: Positions<'a>,
    pub(super) species: &'a [u32],
    /// What the neighbours send: rows of atoms, in the first layer those of `of_atom`.
    pub(super) sent: &'a Rows<T>,
    pub(super) x: Option<&'a Rows<T>>,
    pub(super) constants: &'a [Rows<T>],
    pub(super) of_atom: &'a [u32],
    /// The pair repulsion of each pair of present species.
    pub(super) pair_functions: &'a [Option<ScalarFunction>],
    /// Whether what a node saves is computed again.
    pub(super) recompute: bool,
}

/// What the adjoint of a layer but the last finds.
pub(super) struct Above<'a, T> {
    pub(super) saved: &'a [Rows<T>],
    pub(super) out: &'a Rows<T>,
    pub(super) rho: &'a [T],
    pub(super) dx: &'a Rows<T>,
    pub(super) dup: &'a Rows<T>,
}

impl<T: HasSlabs> Shared<'_, T> {
    pub(super) fn own<'a>(&'a self, domain: &'a Domain, rho: &'a [T]) -> Own<'a, T> {
        let atoms = domain.atoms.clone();
        let (x, up) = match self.x {
            Some(x) => (x.of(&self.layer.features, atoms.clone()), self.sent.of(&self.layer.sent, atoms.clone())),
            None => (Parts::new(), Parts::new()),
        };
        let constants = (self.number == 0).then(|| (self.constants, &self.of_atom[atoms]));
        Own { atoms: domain.num_atoms(), groups: &domain.groups, constants, x, up, rho }
    }

    /// Tables at the exact distances: one interval an edge.
    fn exact_table(&self, radial: &Radial<T>, of: &TablesOf<T>, geometry: &Geometry<T>, table: &mut Table<T>) {
        let (edges, columns) = (geometry.num_edges(), radial.columns());
        let (mut values, mut slopes) = (vec![0.0; edges * columns], vec![0.0; edges * columns]);
        for (index, &pair) in of.pairs.iter().enumerate() {
            let mine: Vec<usize> = (0..edges).filter(|&e| of.of_pair[geometry.pairs[e] as usize] as usize == index).collect();
            let distances: Vec<f64> = mine.iter().map(|&e| geometry.distances[e]).collect();
            let jets = radial.exact(&self.plan.basis, pair, &distances, 2);
            for (k, &e) in mine.iter().enumerate() {
                values[e * columns..(e + 1) * columns].copy_from_slice(&jets.orders[0][k * columns..(k + 1) * columns]);
                slopes[e * columns..(e + 1) * columns].copy_from_slice(&jets.orders[1][k * columns..(k + 1) * columns]);
            }
        }
        table.tabulate_points(&values, &slopes, columns, radial.sections());
    }

    /// Finds edges, and their places in the tables of weights and density.
    fn edges(&self, domain: &Domain, work: &mut Work<T>) {
        work.geometry.update(domain, self.at);
        let Work { geometry, exact, exact_density, index, cells, t, density_index, density_cells, density_t, sources, .. } = work;
        let convolution = &self.layer.convolution;
        let place =
            |radial: &Radial<T>, of: &TablesOf<T>, exact: &mut Table<T>, index: &mut Vec<u16>, cells: &mut Vec<u32>, t: &mut Vec<T>| {
                if self.exact {
                    self.exact_table(radial, of, geometry, exact);
                    let edges = geometry.num_edges();
                    index.clear();
                    index.resize(edges, 0);
                    cells.clear();
                    cells.extend(0..edges as u32);
                    t.clear();
                    t.resize(edges, T::zero());
                } else {
                    let tables: Tables<'_, T> = of.tables.iter().map(Arc::as_ref).collect();
                    locate(&geometry.distances, &geometry.pairs, &tables, &of.of_pair, index, cells, t);
                }
            };
        place(&convolution.radial, &self.tables.weights, exact, index, cells, t);
        if let (Some(radial), Some(of)) = (&convolution.density, &self.tables.density) {
            place(radial, of, exact_density, density_index, density_cells, density_t);
        }
        sources.clear();
        let of_row = |&atom: &u32| if self.number == 0 { self.of_atom[atom as usize] } else { atom };
        sources.extend(domain.row_atoms.iter().map(of_row));
    }

    /// Messages of the atoms of a domain, and their densities.
    pub(super) fn messages(&self, domain: &Domain, work: &mut Work<T>) {
        self.edges(domain, work);
        work.clock.end(Stage::Geometry);
        let Work {
            geometry,
            exact,
            exact_density,
            index,
            cells,
            t,
            density_index,
            density_cells,
            density_t,
            sources,
            scratch,
            messages,
            rho,
            ..
        } = work;
        let convolution = &self.layer.convolution;
        let n = domain.num_atoms();
        messages.resize(&self.layer.messages, n);
        let edges =
            Neighborhoods { offsets: &geometry.offsets, rows: &geometry.rows, tables: index, cells, t, harmonics: &geometry.harmonics };
        let tables: Tables<'_, T> =
            if self.exact { smallvec![&*exact] } else { self.tables.weights.tables.iter().map(Arc::as_ref).collect() };
        for (b, &input) in convolution.inputs.iter().enumerate() {
            let features = if convolution.unit { Features::Unit } else { Features::Rows(&self.sent.blocks[input], sources) };
            convolution.plan.forward(b, edges, &tables, features, scratch, &mut messages.views_mut());
        }
        rho.clear();
        rho.resize(n, T::zero());
        if let Some(of) = &self.tables.density {
            for i in 0..n {
                for e in geometry.offsets[i] as usize..geometry.offsets[i + 1] as usize {
                    let table = if self.exact { &*exact_density } else { &*of.tables[density_index[e] as usize] };
                    rho[i] += scalar(table, density_cells[e], density_t[e]).0;
                }
            }
        }
        work.clock.end(Stage::Convolution);
    }

    /// The node of a domain, from the messages just computed, into the buffers of the thread.
    pub(super) fn node_here(&self, domain: &Domain, work: &mut Work<T>) {
        let (layer, n) = (self.layer, domain.num_atoms());
        let shapes = layer.node.saved();
        work.saved.resize_with(shapes.len(), Rows::default);
        work.saved.iter_mut().zip(&shapes).for_each(|(rows, shape)| rows.resize(shape, n));
        work.out.resize(&layer.out, n);
        let own = self.own(domain, &work.rho);
        let mut saved: SavedMut<'_, T> = work.saved.iter_mut().map(Rows::views_mut).collect();
        layer.node.forward(&own, &work.messages, &mut saved, &mut work.out.views_mut(), &mut work.node);
        work.clock.end(Stage::Node);
    }

    pub(super) fn adjoint(&self, task: &mut Task<'_, T>, above: Option<&Above<'_, T>>, work: &mut Work<T>) {
        let Task { domain, dx, dup, rows, dv, energies, .. } = task;
        let domain = *domain;
        let layer = self.layer;
        let n = domain.num_atoms();
        let atoms = domain.atoms.clone();
        let scale = |i: usize| self.plan.energies.scale[self.species[atoms.start + i] as usize];
        if above.is_none() {
            dv.fill(T::zero());
            energies.fill(0.0);
        }
        // The last layer runs forward and backward at once; others look up what they have saved, unless memory is short.
        let here = above.is_none() || self.recompute;
        if here {
            self.messages(domain, work);
            self.node_here(domain, work);
        } else if let Some(above) = above {
            self.edges(domain, work);
            work.clock.end(Stage::Geometry);
            work.rho.clear();
            work.rho.extend_from_slice(above.rho.get(atoms.clone()).unwrap_or(&[]));
        }
        work.g.resize(&layer.out, n);
        work.g.blocks.iter_mut().for_each(|b| b.fill(T::zero()));
        if let Some(above) = above {
            for (to, from) in work.g.blocks.iter_mut().zip(above.dx.of(&layer.out, atoms.clone())) {
                to.copy_from_slice(from);
            }
            if let Some((up, factors)) = &layer.up {
                let sent = &self.plan.layers[self.number + 1].sent;
                work.sent.resize(sent, n);
                for (to, from) in work.sent.blocks.iter_mut().zip(above.dup.of(sent, atoms.clone())) {
                    to.copy_from_slice(from);
                }
                scale_rows(sent, factors, |i| self.species[atoms.start + i], &mut work.sent.views_mut());
                up.adjoint(&work.sent.views(), &mut work.g.views_mut(), n, &domain.groups, true);
            }
        }
        work.seeds.clear();
        work.seeds.extend((0..n).map(|i| T::of(scale(i))));
        work.d_rho.clear();
        work.d_rho.resize(n, T::zero());
        work.read_out.clear();
        work.read_out.resize(n, 0.0);
        {
            let Work { saved, out, g, rho, d_rho, seeds, read_out, messages, node, .. } = work;
            messages.resize(&layer.messages, n);
            let (saved, out) = match above {
                Some(above) if !here => {
                    let shapes = layer.node.saved();
                    (
                        above.saved.iter().zip(&shapes).map(|(rows, shape)| rows.of(shape, atoms.clone())).collect(),
                        above.out.of(&layer.out, atoms.clone()),
                    )
                }
                _ => (saved.iter().map(Rows::views).collect::<Saved<'_, T>>(), out.views()),
            };
            let own = self.own(domain, rho);
            let mut back = Back { messages, x: dx, up: dup, rho: d_rho };
            layer.node.adjoint(&own, &saved, &out, &mut g.views_mut(), (read_out, seeds), &mut back, node);
        }
        for (i, (e, v)) in energies.iter_mut().zip(&work.read_out).enumerate() {
            *e += scale(i) * v;
        }
        work.clock.end(Stage::NodeAdjoint);
        self.edges_adjoint(domain, rows, dv, work);
        work.clock.end(Stage::ConvolutionAdjoint);
        if above.is_none() {
            for (i, e) in energies.iter_mut().enumerate() {
                *e += self.plan.energies.shift[self.species[atoms.start + i] as usize];
            }
            self.pairs(domain, energies, dv, work);
        }
    }

    /// From the cotangents of messages and densities to those of edge vectors and of what the neighbours send.
    fn edges_adjoint(&self, domain: &Domain, rows: &mut [T], dv: &mut [T], work: &mut Work<T>) {
        let Work {
            geometry,
            exact,
            exact_density,
            index,
            cells,
            t,
            density_index,
            density_cells,
            density_t,
            sources,
            scratch,
            messages,
            d_rho,
            dy,
            dt,
            dv: of_edges,
            ..
        } = work;
        let convolution = &self.layer.convolution;
        let edges = geometry.num_edges();
        dy.clear();
        dy.resize(geometry.harmonics.len(), T::zero());
        dt.clear();
        dt.resize(edges, T::zero());
        let neighborhoods =
            Neighborhoods { offsets: &geometry.offsets, rows: &geometry.rows, tables: index, cells, t, harmonics: &geometry.harmonics };
        let tables: Tables<'_, T> =
            if self.exact { smallvec![&*exact] } else { self.tables.weights.tables.iter().map(Arc::as_ref).collect() };
        let mut rest = rows;
        for (b, &input) in convolution.inputs.iter().enumerate() {
            let (_, components, _, block_width) = convolution.plan.block(b);
            let size = if rest.is_empty() { 0 } else { domain.row_atoms.len() * components * block_width };
            let (mine, others) = std::mem::take(&mut rest).split_at_mut(size);
            rest = others;
            let features = if convolution.unit { Features::Unit } else { Features::Rows(&self.sent.blocks[input], sources) };
            convolution.plan.adjoint(b, neighborhoods, &tables, features, scratch, &messages.views(), (mine, dy, dt));
        }
        for (e, d) in dt.iter_mut().enumerate() {
            *d *= T::of(tables[index[e] as usize].inverse_spacing());
        }
        if let Some(of) = &self.tables.density {
            for i in 0..domain.num_atoms() {
                for e in geometry.offsets[i] as usize..geometry.offsets[i + 1] as usize {
                    let table = if self.exact { &*exact_density } else { &*of.tables[density_index[e] as usize] };
                    let slope = scalar(table, density_cells[e], density_t[e]).1 * T::of(table.inverse_spacing());
                    dt[e] += d_rho[i] * slope;
                }
            }
        }
        geometry.gradient(dy, dt, of_edges, dv);
    }

    /// The pair repulsion, exactly.
    fn pairs(&self, domain: &Domain, energies: &mut [f64], dv: &mut [T], work: &mut Work<T>) {
        let Some(repulsion) = &self.plan.pair_energy else { return };
        let of_pair = self.pair_functions;
        let geometry = &work.geometry;
        for i in 0..domain.num_atoms() {
            let center = self.species[domain.atoms.start + i];
            let factor = if repulsion.scaled { self.plan.energies.scale[center as usize] } else { 1.0 };
            for e in geometry.offsets[i] as usize..geometry.offsets[i + 1] as usize {
                let Some(function) = &of_pair[geometry.pairs[e] as usize] else { continue };
                let r = geometry.distances[e];
                let (value, slope) = function.value_and_derivative(0, r);
                energies[i] += factor * value;
                for x in 0..3 {
                    let along = factor * slope / r * candle_core::WithDType::to_f64(geometry.vectors[3 * e + x]);
                    dv[3 * geometry.listed[e] as usize + x] += T::of(along);
                }
            }
        }
    }
}

/// Value and slope (by the place in the interval) of the first function of a table.
fn scalar<T: HasSlabs>(table: &Table<T>, cell: u32, t: T) -> (T, T) {
    let (data, stride) = table.section(0);
    let (mut value, mut slope) = (T::zero(), T::zero());
    for k in (0..6).rev() {
        slope = slope * t + value;
        value = value * t + data[cell as usize * stride + k * width::<T>()];
    }
    (value, slope)
}
