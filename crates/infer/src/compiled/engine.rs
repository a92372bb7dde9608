//! One structure, many steps: energies, forces and stress by explicit forward and adjoint passes over buffers that are kept.

use std::sync::{Arc, Mutex};

use rayon::prelude::*;
use tesseral_atoms::Structure;
use tesseral_ops::radial::table::Table;
use tesseral_ops::slab::{HasSlabs, width};
use tesseral_ops::tensor_product::slabs::{Features, Neighborhoods, Scratch};
use tesseral_potentials::Evaluation;
use tesseral_potentials::batch::species_of;

use super::convolution::{Convolution, Radial};
use super::geometry::{Geometry, Positions, locate};
use super::linear::Group;
use super::node::{Back, NodeWork, Own, read};
use super::plan::{Layer, Plan, scale_rows};
use super::radial::Pair;
use super::rows::{Rows, Shape};
use super::topology::{Domain, JOIN, Topology, Wave};
use crate::InferError;

/// Atoms of a domain where radial functions are evaluated exactly, which takes room for every edge.
const EXACT_DOMAIN: usize = 8;

/// Radial tables of the pairs of species of a structure.
struct TablesOf<T> {
    tables: Vec<Arc<Table<T>>>,
    /// Table of each pair of present species.
    of_pair: Vec<u16>,
    /// The pair each table stands for.
    pairs: Vec<Pair>,
}

impl<T: HasSlabs> TablesOf<T> {
    /// Builds the missing ones; in exact mode only numbers them.
    fn new(radial: &Radial<T>, plan: &Plan<T>, present: &[u32], exact: bool) -> Result<Self, InferError> {
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

struct LayerTables<T> {
    weights: TablesOf<T>,
    density: Option<TablesOf<T>>,
}

/// Buffers of a thread.
pub(super) struct Work<T> {
    geometry: Geometry<T>,
    exact: Table<T>,
    exact_density: Table<T>,
    index: Vec<u16>,
    cells: Vec<u32>,
    t: Vec<T>,
    density_index: Vec<u16>,
    density_cells: Vec<u32>,
    density_t: Vec<T>,
    sources: Vec<u32>,
    scratch: Scratch<T>,
    messages: Rows<T>,
    node: NodeWork<T>,
    saved: Vec<Rows<T>>,
    out: Rows<T>,
    g: Rows<T>,
    rho: Vec<T>,
    d_rho: Vec<T>,
    seeds: Vec<T>,
    dy: Vec<T>,
    dt: Vec<T>,
    dv: Vec<T>,
}

impl<T: HasSlabs> Work<T> {
    fn new(plan: &Plan<T>) -> Self {
        Self {
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
            g: Rows::default(),
            rho: Vec::new(),
            d_rho: Vec::new(),
            seeds: Vec::new(),
            dy: Vec::new(),
            dt: Vec::new(),
            dv: Vec::new(),
        }
    }
}

/// Thread buffers, handed out to whoever works on a domain.
struct Pool<T>(Mutex<Vec<Work<T>>>);

impl<T: HasSlabs> Pool<T> {
    fn with<R>(&self, plan: &Plan<T>, f: impl FnOnce(&mut Work<T>) -> R) -> R {
        let lock = || self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut work = lock().pop().unwrap_or_else(|| Work::new(plan));
        let result = f(&mut work);
        lock().push(work);
        result
    }
}

/// What a structure was listed with.
struct Listed {
    numbers: Vec<u8>,
    pbc: [bool; 3],
    cell: [[f64; 3]; 3],
    /// In the user's order.
    positions: Vec<[f64; 3]>,
    skin: f64,
}

/// The state of one structure between steps.
pub(super) struct Session<T> {
    plan: Arc<Plan<T>>,
    exact: bool,
    /// Whether domains are computed by all threads, or by the one that asks.
    pub(super) parallel: bool,
    listed: Option<Listed>,
    topology: Topology,
    positions: Vec<[f64; 3]>,
    species: Vec<u16>,
    present: Vec<u32>,
    squared_cutoffs: Vec<f64>,
    tables: Vec<LayerTables<T>>,
    /// Constants of the first layer and what atoms send there; by species, unless fields make them differ from atom to atom.
    constants: Vec<Rows<T>>,
    sent: Rows<T>,
    of_atom: Vec<u32>,
    field_energies: Vec<f64>,
    /// Features that leave each layer but the last, what they send, what is saved, densities.
    x: Vec<Rows<T>>,
    up: Vec<Rows<T>>,
    saved: Vec<Vec<Rows<T>>>,
    rho: Vec<Vec<T>>,
    /// Cotangents of the features and of what is sent, of the layer in work and of the one above.
    dx: [Rows<T>; 2],
    dup: [Rows<T>; 2],
    rows: Vec<Vec<T>>,
    dv: Vec<T>,
    energies: Vec<f64>,
    forces: Vec<[f64; 3]>,
    strains: Vec<[[f64; 3]; 3]>,
    pool: Pool<T>,
}

/// Runs `f` for each, by all threads or by this one.
fn each<I: Send>(parallel: bool, items: Vec<I>, f: impl Fn(I) + Send + Sync) {
    if parallel {
        items.into_par_iter().with_max_len(1).for_each(f);
    } else {
        items.into_iter().for_each(f);
    }
}

/// A domain with its part of everything that a pass writes.
struct Task<'a, T> {
    domain: &'a Domain,
    saved: Vec<Vec<&'a mut [T]>>,
    out: Vec<&'a mut [T]>,
    up: Vec<&'a mut [T]>,
    rho: &'a mut [T],
    dx: Vec<&'a mut [T]>,
    dup: Vec<&'a mut [T]>,
    rows: &'a mut [T],
    dv: &'a mut [T],
    energies: &'a mut [f64],
}

/// Parts of consecutive chunks.
fn chunks<T>(x: &mut [T], size: usize, count: usize) -> Vec<&mut [T]> {
    let mut parts: Vec<&mut [T]> = x.chunks_mut(size.max(1)).collect();
    parts.resize_with(count, Default::default);
    parts
}

impl<T: HasSlabs> Session<T> {
    pub(super) fn new(plan: Arc<Plan<T>>, exact: bool) -> Self {
        Self {
            plan,
            exact,
            parallel: true,
            listed: None,
            topology: Topology::empty(),
            positions: Vec::new(),
            species: Vec::new(),
            present: Vec::new(),
            squared_cutoffs: Vec::new(),
            tables: Vec::new(),
            constants: Vec::new(),
            sent: Rows::default(),
            of_atom: Vec::new(),
            field_energies: Vec::new(),
            x: Vec::new(),
            up: Vec::new(),
            saved: Vec::new(),
            rho: Vec::new(),
            dx: Default::default(),
            dup: Default::default(),
            rows: Vec::new(),
            dv: Vec::new(),
            energies: Vec::new(),
            forces: Vec::new(),
            strains: Vec::new(),
            pool: Pool(Mutex::new(Vec::new())),
        }
    }

    /// Whether the list of neighbours still holds all pairs within the cutoff.
    fn is_current(&self, structure: &Structure, skin: f64) -> bool {
        let Some(listed) = &self.listed else { return false };
        if listed.skin != skin
            || listed.pbc != structure.pbc
            || listed.cell != structure.cell.vectors
            || listed.numbers != structure.numbers
            || !self.field_energies.is_empty()
            || self.plan.initial.fields.is_some()
        {
            return false;
        }
        let limit = 0.25 * skin * skin;
        listed.positions.iter().zip(&structure.positions).all(|(a, b)| {
            let moved: f64 = (0..3).map(|x| (a[x] - b[x]) * (a[x] - b[x])).sum();
            // An unmoved atom is within any skin; NaN is within none.
            moved < limit || moved == 0.0
        })
    }

    /// Lists neighbours and makes tables, buffers and constants for a structure.
    fn rebuild(&mut self, structure: &Structure, elements: &[u8], skin: f64) -> Result<(), InferError> {
        self.listed = None;
        let plan = self.plan.clone();
        let species = species_of(structure, elements)?;
        let largest = if self.exact { EXACT_DOMAIN } else { usize::MAX };
        self.topology = Topology::new(structure, &species, plan.cutoff + skin, largest)?;
        let mut present = species.clone();
        present.sort_unstable();
        present.dedup();
        if present != self.present || self.tables.is_empty() {
            self.present = present;
            self.tables = plan
                .layers
                .par_iter()
                .map(|layer| {
                    let of = |radial| TablesOf::new(radial, &plan, &self.present, self.exact);
                    Ok(LayerTables {
                        weights: of(&layer.convolution.radial)?,
                        density: layer.convolution.density.as_ref().map(of).transpose()?,
                    })
                })
                .collect::<Result<_, InferError>>()?;
            for &s in &self.present {
                for layer in &plan.layers {
                    layer.node.prepare(s);
                    if let Some((up, _)) = &layer.up {
                        up.prepare(s);
                    }
                }
            }
        }
        let topology = &self.topology;
        self.species.clear();
        self.species.extend(topology.species.iter().map(|s| self.present.binary_search(s).unwrap_or_default() as u16));
        self.squared_cutoffs.clear();
        for &center in &self.present {
            let of_pair = |&neighbor: &u32| plan.basis.cutoff(Pair { center, neighbor }).powi(2);
            self.squared_cutoffs.extend(self.present.iter().map(of_pair));
        }
        let n = topology.num_atoms();
        if let Some(fields) = &plan.initial.fields {
            let first = &plan.layers[0];
            let (x, energies) = super::mace::embed(fields, &first.features, structure, &species, &topology.order)?;
            let groups: Vec<Group> = topology
                .domains
                .iter()
                .flat_map(|d| d.groups.iter().map(move |(s, range)| (*s, range.start + d.atoms.start..range.end + d.atoms.start)))
                .collect();
            self.sent = Rows::zeros(&first.sent, n);
            fields.up.forward(&x.views(), &mut self.sent.views_mut(), n, &groups, false);
            self.constants = plan.constants(&x, &self.sent, n, &groups);
            self.of_atom = (0..n as u32).collect();
            self.field_energies = energies;
        } else {
            if self.constants.is_empty() {
                let all: Vec<Group> = (0..plan.species).map(|s| (s as u32, s..s + 1)).collect();
                self.constants = plan.constants(&plan.initial.x, &plan.initial.sent, plan.species, &all);
                self.sent = plan.initial.sent.clone();
            }
            self.of_atom = topology.species.clone();
        }
        self.resize(n, structure.len());
        self.listed = Some(Listed {
            numbers: structure.numbers.clone(),
            pbc: structure.pbc,
            cell: structure.cell.vectors,
            positions: structure.positions.clone(),
            skin,
        });
        Ok(())
    }

    fn resize(&mut self, n: usize, atoms: usize) {
        let plan = self.plan.clone();
        let inner = plan.layers.len() - 1;
        self.x.resize_with(inner, Rows::default);
        self.up.resize_with(inner, Rows::default);
        self.saved.resize_with(inner, Vec::new);
        self.rho.resize_with(inner, Vec::new);
        for (t, layer) in plan.layers.iter().enumerate().take(inner) {
            self.x[t].resize(&layer.out, n);
            self.up[t].resize(&plan.layers[t + 1].sent, n);
            let shapes = layer.node.saved();
            self.saved[t].resize_with(shapes.len(), Rows::default);
            self.saved[t].iter_mut().zip(&shapes).for_each(|(rows, shape)| rows.resize(shape, n));
            self.rho[t].resize(if layer.convolution.density.is_some() { n } else { 0 }, T::zero());
        }
        self.dv.resize(3 * self.topology.num_edges(), T::zero());
        self.energies.resize(n, 0.0);
        self.forces.resize(atoms, [0.0; 3]);
        self.strains.resize(self.topology.domains.len(), [[0.0; 3]; 3]);
        let most = self.topology.waves.iter().map(|w| w.domains.len()).max().unwrap_or(0);
        self.rows.resize_with(most, Vec::new);
    }

    /// Makes the next evaluation list neighbours anew.
    pub(super) fn forget(&mut self) {
        self.listed = None;
    }

    /// Energy, forces and stress. Neighbours are listed up to `skin` (Å) beyond the cutoff, and only when an atom has moved half of it.
    pub(super) fn evaluate(&mut self, structure: &Structure, elements: &[u8], skin: f64) -> Result<Evaluation, InferError> {
        if !self.is_current(structure, skin) {
            match self.rebuild(structure, elements, skin) {
                Err(error @ InferError::Table { .. }) => {
                    tracing::warn!("{error}: they are evaluated exactly, which is slower");
                    self.exact = true;
                    self.tables.clear();
                    self.rebuild(structure, elements, skin)?;
                }
                other => other?,
            }
        }
        self.positions.clear();
        self.positions.extend(self.topology.order.iter().map(|&i| structure.positions[i as usize]));
        let last = self.plan.layers.len() - 1;
        for t in 0..last {
            self.forward(t, &structure.cell.vectors);
        }
        for t in (0..=last).rev() {
            self.backward(t, &structure.cell.vectors);
        }
        Ok(self.assemble(structure))
    }

    fn forward(&mut self, t: usize, cell: &[[f64; 3]; 3]) {
        let plan = self.plan.clone();
        let layer = &plan.layers[t];
        let (n, size) = (self.topology.num_atoms(), self.topology.domain_size);
        let count = self.topology.domains.len();
        let (before, here) = self.up.split_at_mut(t);
        let (x_before, x_here) = self.x.split_at_mut(t);
        let shapes = layer.node.saved();
        let mut saved: Vec<_> = self.saved[t].iter_mut().zip(&shapes).map(|(r, s)| r.chunks_mut(s, n, size).into_iter()).collect();
        let sent = &plan.layers[t + 1].sent;
        let out = x_here[0].chunks_mut(&layer.out, n, size);
        let up = here[0].chunks_mut(sent, n, size);
        let rho = chunks(&mut self.rho[t], size, count);
        let tasks: Vec<Task<'_, T>> = self
            .topology
            .domains
            .iter()
            .zip(out)
            .zip(up)
            .zip(rho)
            .map(|(((domain, out), up), rho)| Task {
                domain,
                saved: saved.iter_mut().filter_map(Iterator::next).collect(),
                out,
                up,
                rho,
                dx: Vec::new(),
                dup: Vec::new(),
                rows: &mut [],
                dv: &mut [],
                energies: &mut [],
            })
            .collect();
        let shared = Shared {
            plan: &plan,
            layer,
            first: t == 0,
            exact: self.exact,
            tables: &self.tables[t],
            at: Positions {
                cell,
                positions: &self.positions,
                species: &self.species,
                squared_cutoffs: &self.squared_cutoffs,
                num_species: self.present.len(),
            },
            species: &self.topology.species,
            sent: if t == 0 { &self.sent } else { &before[t - 1] },
            x: if t == 0 { None } else { Some(&x_before[t - 1]) },
            constants: &self.constants,
            of_atom: &self.of_atom,
            layers: plan.layers.len(),
        };
        let pool = &self.pool;
        each(self.parallel, tasks, |mut task| {
            pool.with(&plan, |work| {
                shared.messages(task.domain, work);
                task.rho.copy_from_slice(&work.rho[..task.rho.len()]);
                let own = shared.own(task.domain, &work.rho);
                layer.node.forward(&own, &work.messages, &mut task.saved, &mut task.out, &mut work.node);
                if let Some((up, factors)) = &layer.up {
                    up.forward(&read(&task.out), &mut task.up, own.atoms, own.groups, false);
                    let first = task.domain.atoms.start;
                    scale_rows(sent, factors, |i| shared.species[first + i], &mut task.up);
                }
            });
        });
    }

    fn backward(&mut self, t: usize, cell: &[[f64; 3]; 3]) {
        let plan = self.plan.clone();
        let (layer, last) = (&plan.layers[t], t + 1 == plan.layers.len());
        let (n, size) = (self.topology.num_atoms(), self.topology.domain_size);
        let unit_row = layer.convolution.plan.row();
        // Cotangents of this layer's inputs are written to one buffer, those of its outputs are read from the other.
        let write = t % 2;
        if t > 0 {
            self.dx[write].resize(&layer.features, n);
            self.dup[write].resize(&layer.sent, n);
            self.dup[write].blocks.iter_mut().for_each(|b| b.fill(T::zero()));
        }
        let waves = std::mem::take(&mut self.topology.waves);
        for wave in &waves {
            let atoms = self.topology.domains[wave.domains.start].atoms.start..self.topology.domains[wave.domains.end - 1].atoms.end;
            let count = wave.domains.len();
            let [even, odd] = &mut self.dx;
            let (dx, g) = if write == 0 { (even, &*odd) } else { (odd, &*even) };
            let [even, odd] = &mut self.dup;
            let (dup, gup) = if write == 0 { (even, &*odd) } else { (odd, &*even) };
            let (mut dx_parts, mut dup_parts): (Vec<Vec<&mut [T]>>, Vec<Vec<&mut [T]>>) =
                ((0..count).map(|_| Vec::new()).collect(), (0..count).map(|_| Vec::new()).collect());
            if t > 0 {
                dx_parts = part_of(dx, &layer.features, &atoms, size);
                dup_parts = part_of(dup, &layer.sent, &atoms, size);
            }
            let edges = self.topology.offsets[atoms.start]..self.topology.offsets[atoms.end];
            let mut dv = &mut self.dv[3 * edges.start..3 * edges.end];
            let energies = self.energies[atoms.clone()].chunks_mut(size);
            let tasks: Vec<Task<'_, T>> = self.topology.domains[wave.domains.clone()]
                .iter()
                .zip(self.rows.iter_mut())
                .zip(energies)
                .zip(dx_parts.into_iter().zip(dup_parts))
                .map(|(((domain, rows), energies), (dx, dup))| {
                    let (mine, rest) = std::mem::take(&mut dv).split_at_mut(3 * domain.rows.len());
                    dv = rest;
                    if t > 0 {
                        rows.clear();
                        rows.resize(domain.row_atoms.len() * unit_row, T::zero());
                    }
                    Task {
                        domain,
                        saved: Vec::new(),
                        out: Vec::new(),
                        up: Vec::new(),
                        rho: &mut [],
                        dx,
                        dup,
                        rows: if t > 0 { rows } else { &mut [] },
                        dv: mine,
                        energies,
                    }
                })
                .collect();
            let shared = Shared {
                plan: &plan,
                layer,
                first: t == 0,
                exact: self.exact,
                tables: &self.tables[t],
                at: Positions {
                    cell,
                    positions: &self.positions,
                    species: &self.species,
                    squared_cutoffs: &self.squared_cutoffs,
                    num_species: self.present.len(),
                },
                species: &self.topology.species,
                sent: if t == 0 { &self.sent } else { &self.up[t - 1] },
                x: if t == 0 { None } else { Some(&self.x[t - 1]) },
                constants: &self.constants,
                of_atom: &self.of_atom,
                layers: plan.layers.len(),
            };
            let above = (!last).then(|| Above { saved: &self.saved[t], out: &self.x[t], rho: &self.rho[t], dx: g, dup: gup });
            let pool = &self.pool;
            each(self.parallel, tasks, |task| pool.with(&plan, |work| shared.adjoint(task, above.as_ref(), work)));
            if t > 0 {
                join(wave, &self.rows, &layer.convolution, &layer.sent, &mut self.dup[write], self.parallel);
            }
        }
        self.topology.waves = waves;
    }

    fn assemble(&mut self, structure: &Structure) -> Evaluation {
        let at = Positions {
            cell: &structure.cell.vectors,
            positions: &self.positions,
            species: &self.species,
            squared_cutoffs: &self.squared_cutoffs,
            num_species: self.present.len(),
        };
        let (topology, dv, pool, plan) = (&self.topology, &self.dv, &self.pool, &self.plan);
        let tasks: Vec<_> =
            topology.domains.iter().zip(self.forces.chunks_mut(topology.domain_size)).zip(self.strains.iter_mut()).collect();
        each(self.parallel, tasks, |((domain, forces), strain)| {
            *strain = pool.with(plan, |work| work.geometry.forces(domain, at, dv, &topology.reverse, forces));
        });
        let n = topology.num_atoms();
        let (mut forces, mut atomic_energies) = (vec![[0.0; 3]; n], vec![0.0; n]);
        for (k, &i) in topology.order.iter().enumerate() {
            forces[i as usize] = self.forces[k];
            let fields = self.field_energies.get(k).copied().unwrap_or(0.0);
            atomic_energies[i as usize] = self.energies[k] + fields;
        }
        let stress = (structure.pbc == [true; 3]).then(|| {
            let volume = structure.cell.volume();
            let sum = |a: usize, b: usize| self.strains.iter().map(|s| s[a][b]).sum::<f64>();
            std::array::from_fn(|a| std::array::from_fn(|b| 0.5 * (sum(a, b) + sum(b, a)) / volume))
        });
        Evaluation { energy: atomic_energies.iter().sum(), forces, stress, atomic_energies }
    }

    /// Bytes of everything that grows with the structure.
    pub(super) fn bytes(&self) -> usize {
        let rows = |r: &[Rows<T>]| r.iter().map(Rows::bytes).sum::<usize>();
        self.topology.bytes()
            + rows(&self.x)
            + rows(&self.up)
            + self.saved.iter().map(|s| rows(s)).sum::<usize>()
            + rows(&self.dx)
            + rows(&self.dup)
            + self.rows.iter().map(|r| r.capacity() * size_of::<T>()).sum::<usize>()
            + self.dv.capacity() * size_of::<T>()
            + self.forces.capacity() * 24 * 2
            + self.energies.capacity() * 8 * 2
    }

    /// Edges within the cutoff at the last positions.
    pub(super) fn num_edges(&self) -> usize {
        let Some(listed) = &self.listed else { return 0 };
        let at = Positions {
            cell: &listed.cell,
            positions: &self.positions,
            species: &self.species,
            squared_cutoffs: &self.squared_cutoffs,
            num_species: self.present.len(),
        };
        let of_domain = |domain: &Domain| {
            self.pool.with(&self.plan, |work| {
                work.geometry.update(domain, at);
                work.geometry.num_edges()
            })
        };
        self.topology.domains.iter().map(of_domain).sum()
    }

    /// As [`Plan::flops`], for the last structure.
    pub(super) fn flops(&self) -> f64 {
        self.plan.flops(self.topology.num_atoms(), self.num_edges())
    }
}

/// Parts of the domains of a wave that starts and ends with `atoms`.
fn part_of<'a, T: HasSlabs>(rows: &'a mut Rows<T>, shape: &Shape, atoms: &std::ops::Range<usize>, size: usize) -> Vec<Vec<&'a mut [T]>> {
    let mut parts: Vec<Vec<&mut [T]>> = (0..atoms.len().div_ceil(size)).map(|_| Vec::new()).collect();
    for (b, block) in rows.blocks.iter_mut().enumerate() {
        let row = shape.row(b);
        for (part, chunk) in parts.iter_mut().zip(block[atoms.start * row..atoms.end * row].chunks_mut((size * row).max(1))) {
            part.push(chunk);
        }
    }
    parts
}

/// Adds the rows that the domains of a wave have collected to the atoms they belong to, in the order of the domains.
fn join<T: HasSlabs>(wave: &Wave, rows: &[Vec<T>], convolution: &Convolution<T>, shape: &Shape, to: &mut Rows<T>, parallel: bool) {
    let plan = &convolution.plan;
    let w = width::<T>();
    let starts: Vec<usize> = (0..plan.num_blocks())
        .scan(0, |sum, b| {
            let (_, components, _, block_width) = plan.block(b);
            let start = *sum;
            *sum += components * block_width;
            Some(start)
        })
        .collect();
    for b in 0..plan.num_blocks() {
        let (_, components, _, block_width) = plan.block(b);
        let row = shape.row(convolution.inputs[b]);
        let mut wanted = wave.chunks.iter().peekable();
        let mut jobs = Vec::with_capacity(wave.chunks.len());
        for (k, chunk) in to.blocks[convolution.inputs[b]].chunks_mut(JOIN * row).enumerate() {
            if let Some((_, entries)) = wanted.next_if(|(c, _)| *c == k) {
                jobs.push((chunk, entries));
            }
        }
        each(parallel, jobs, |(chunk, entries)| {
            for entry in entries {
                let from = &rows[entry.slot as usize];
                let count = from.len() / plan.row();
                let to = &mut chunk[entry.atom as usize * row..][..row];
                for slab in 0..block_width / w {
                    let at = starts[b] * count + (slab * count + entry.row as usize) * components * w;
                    for (m, from) in from[at..at + components * w].chunks_exact(w).enumerate() {
                        let to = &mut to[m * block_width + slab * w..][..w];
                        to.iter_mut().zip(from).for_each(|(t, &f)| *t += f);
                    }
                }
            }
        });
    }
}

/// What the passes of a layer read.
struct Shared<'a, T> {
    plan: &'a Plan<T>,
    layer: &'a Layer<T>,
    first: bool,
    exact: bool,
    tables: &'a LayerTables<T>,
    at: Positions<'a>,
    species: &'a [u32],
    /// What the neighbours send: rows of atoms, in the first layer those of `of_atom`.
    sent: &'a Rows<T>,
    x: Option<&'a Rows<T>>,
    constants: &'a [Rows<T>],
    of_atom: &'a [u32],
    layers: usize,
}

/// What the adjoint of a layer but the last finds.
struct Above<'a, T> {
    saved: &'a [Rows<T>],
    out: &'a Rows<T>,
    rho: &'a [T],
    dx: &'a Rows<T>,
    dup: &'a Rows<T>,
}

impl<T: HasSlabs> Shared<'_, T> {
    fn own<'a>(&'a self, domain: &'a Domain, rho: &'a [T]) -> Own<'a, T> {
        let atoms = domain.atoms.clone();
        let (x, up) = match self.x {
            Some(x) => (x.of(&self.layer.features, atoms.clone()), self.sent.of(&self.layer.sent, atoms.clone())),
            None => (Vec::new(), Vec::new()),
        };
        let constants = self.first.then(|| (self.constants, &self.of_atom[atoms]));
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
                    let tables: Vec<&Table<T>> = of.tables.iter().map(Arc::as_ref).collect();
                    locate(&geometry.distances, &geometry.pairs, &tables, &of.of_pair, index, cells, t);
                }
            };
        place(&convolution.radial, &self.tables.weights, exact, index, cells, t);
        if let (Some(radial), Some(of)) = (&convolution.density, &self.tables.density) {
            place(radial, of, exact_density, density_index, density_cells, density_t);
        }
        sources.clear();
        let of_row = |&atom: &u32| if self.first { self.of_atom[atom as usize] } else { atom };
        sources.extend(domain.row_atoms.iter().map(of_row));
    }

    /// Messages of the atoms of a domain, and their densities.
    fn messages(&self, domain: &Domain, work: &mut Work<T>) {
        self.edges(domain, work);
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
        let tables: Vec<&Table<T>> = if self.exact { vec![&*exact] } else { self.tables.weights.tables.iter().map(Arc::as_ref).collect() };
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
    }

    fn adjoint(&self, task: Task<'_, T>, above: Option<&Above<'_, T>>, work: &mut Work<T>) {
        let Task { domain, mut dx, mut dup, rows, dv, energies, .. } = task;
        let layer = self.layer;
        let n = domain.num_atoms();
        let atoms = domain.atoms.clone();
        let scale = |i: usize| self.plan.energies.scale[self.species[atoms.start + i] as usize];
        match above {
            None => {
                // The last layer: forward and adjoint of a domain at once.
                dv.fill(T::zero());
                energies.fill(0.0);
                self.messages(domain, work);
                let shapes = layer.node.saved();
                work.saved.resize_with(shapes.len(), Rows::default);
                work.saved.iter_mut().zip(&shapes).for_each(|(rows, shape)| rows.resize(shape, n));
                work.out.resize(&layer.out, n);
                let own = self.own(domain, &work.rho);
                let mut saved: Vec<Vec<&mut [T]>> = work.saved.iter_mut().map(Rows::views_mut).collect();
                layer.node.forward(&own, &work.messages, &mut saved, &mut work.out.views_mut(), &mut work.node);
                work.g.resize(&layer.out, n);
                work.g.blocks.iter_mut().for_each(|b| b.fill(T::zero()));
            }
            Some(above) => {
                self.edges(domain, work);
                work.rho.clear();
                work.rho.extend_from_slice(above.rho.get(atoms.clone()).unwrap_or(&[]));
                work.g.resize(&layer.out, n);
                if self.layers > 1 {
                    for (to, from) in work.g.blocks.iter_mut().zip(above.dx.of(&layer.out, atoms.clone())) {
                        to.copy_from_slice(from);
                    }
                }
                if let Some((up, factors)) = &layer.up {
                    let sent = &self.plan.layers[self.number() + 1].sent;
                    work.out.resize(sent, n);
                    for (to, from) in work.out.blocks.iter_mut().zip(above.dup.of(sent, atoms.clone())) {
                        to.copy_from_slice(from);
                    }
                    scale_rows(sent, factors, |i| self.species[atoms.start + i], &mut work.out.views_mut());
                    up.adjoint(&work.out.views(), &mut work.g.views_mut(), n, &domain.groups, true);
                }
            }
        }
        work.seeds.clear();
        work.seeds.extend((0..n).map(|i| T::of(scale(i))));
        work.d_rho.clear();
        work.d_rho.resize(n, T::zero());
        let mut read_out = vec![0.0; n];
        {
            let Work { saved, out, g, rho, d_rho, seeds, messages, node, .. } = work;
            messages.resize(&layer.messages, n);
            let (saved, out) = match above {
                None => (saved.iter().map(Rows::views).collect::<Vec<_>>(), out.views()),
                Some(above) => {
                    let shapes = layer.node.saved();
                    (
                        above.saved.iter().zip(&shapes).map(|(rows, shape)| rows.of(shape, atoms.clone())).collect(),
                        above.out.of(&layer.out, atoms.clone()),
                    )
                }
            };
            let own = self.own(domain, rho);
            let mut back = Back { messages, x: &mut dx, up: &mut dup, rho: d_rho };
            layer.node.adjoint(&own, &saved, &out, &mut g.views_mut(), (&mut read_out, seeds), &mut back, node);
        }
        for (i, (e, v)) in energies.iter_mut().zip(&read_out).enumerate() {
            *e += scale(i) * v;
        }
        self.edges_adjoint(domain, rows, dv, work);
        if above.is_none() {
            for (i, e) in energies.iter_mut().enumerate() {
                *e += self.plan.energies.shift[self.species[atoms.start + i] as usize];
            }
            self.pairs(domain, energies, dv, work);
        }
    }

    /// Which layer this is.
    fn number(&self) -> usize {
        self.plan.layers.iter().position(|l| std::ptr::eq(l, self.layer)).unwrap_or_default()
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
        let tables: Vec<&Table<T>> = if self.exact { vec![&*exact] } else { self.tables.weights.tables.iter().map(Arc::as_ref).collect() };
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
        let geometry = &work.geometry;
        for i in 0..domain.num_atoms() {
            let center = self.species[domain.atoms.start + i];
            let factor = if repulsion.scaled { self.plan.energies.scale[center as usize] } else { 1.0 };
            for e in geometry.offsets[i] as usize..geometry.offsets[i + 1] as usize {
                let neighbor = self.species[domain.row_atoms[geometry.rows[e] as usize] as usize];
                let Some(function) = (repulsion.of_pair)(Pair { center, neighbor }) else { continue };
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
