//! One structure, many steps: energies, forces and stress by explicit forward and adjoint passes over buffers that are kept.

use std::sync::{Arc, Mutex};

use rayon::prelude::*;
use tesseral_atoms::Structure;
use tesseral_ops::slab::{HasSlabs, width};
use tesseral_potentials::Evaluation;
use tesseral_potentials::batch::species_of;

use super::convolution::Convolution;
use super::geometry::Positions;
use super::linear::Group;
use super::node::read;
use super::passes::{Above, LayerTables, Pool, Shared, TablesOf, Task};
use super::plan::{Plan, scale_rows};
use super::radial::Pair;
use super::rows::{Rows, Shape};
use super::stages::{Clock, Stage};
use super::topology::{Domain, JOIN, SHORT_WAVE_ROWS, Topology, WAVE_ROWS, Wave};
use crate::InferError;

/// Atoms of a domain where radial functions are evaluated exactly, which takes room for every edge.
const EXACT_DOMAIN: usize = 8;

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
    /// Bytes that may be used, and whether that makes nodes be computed twice.
    pub(super) limit: Option<usize>,
    recompute: bool,
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
    clock: Clock,
}

/// Runs `f` for each, by all threads or by this one.
fn each<I: Send>(parallel: bool, items: Vec<I>, f: impl Fn(I) + Send + Sync) {
    if parallel {
        items.into_par_iter().with_max_len(1).for_each(f);
    } else {
        items.into_iter().for_each(f);
    }
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
            limit: None,
            recompute: false,
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
            clock: Clock::new(),
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
        let memory = plan.memory(structure, plan.cutoff + skin);
        self.recompute = match self.limit {
            Some(limit) if memory.least > limit => {
                return Err(InferError::Memory { atoms: memory.atoms, needed: memory.least, limit });
            }
            limit => limit.is_some_and(|limit| memory.bytes > limit),
        };
        if self.recompute {
            tracing::info!("memory is short: what layers save is computed again");
        }
        let largest = if self.exact { EXACT_DOMAIN } else { usize::MAX };
        let wave_rows = if self.recompute { SHORT_WAVE_ROWS } else { WAVE_ROWS };
        self.topology = Topology::new(structure, &species, plan.cutoff + skin, largest, wave_rows)?;
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
            if self.recompute {
                self.saved[t] = shapes.iter().map(|_| Rows::default()).collect();
                self.rho[t] = Vec::new();
                continue;
            }
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
        self.clock.start();
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
        self.clock.end(Stage::Lists);
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
        let kept = if self.recompute { &mut [] } else { self.saved[t].as_mut_slice() };
        let mut saved: Vec<_> = kept.iter_mut().zip(&shapes).map(|(r, s)| r.chunks_mut(s, n, size).into_iter()).collect();
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
            number: t,
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
            recompute: self.recompute,
        };
        let pool = &self.pool;
        each(self.parallel, tasks, |mut task| {
            pool.with(&plan, |work| {
                shared.messages(task.domain, work);
                let atoms = task.domain.num_atoms();
                if shared.recompute {
                    shared.node_here(task.domain, work);
                    task.out.iter_mut().zip(&work.out.blocks).for_each(|(to, from)| to.copy_from_slice(from));
                } else {
                    task.rho.copy_from_slice(&work.rho[..task.rho.len()]);
                    let own = shared.own(task.domain, &work.rho);
                    layer.node.forward(&own, &work.messages, &mut task.saved, &mut task.out, &mut work.node);
                    work.clock.end(Stage::Node);
                }
                if let Some((up, factors)) = &layer.up {
                    up.forward(&read(&task.out), &mut task.up, atoms, &task.domain.groups, false);
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
                number: t,
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
                recompute: self.recompute,
            };
            let above = (!last).then(|| Above { saved: &self.saved[t], out: &self.x[t], rho: &self.rho[t], dx: g, dup: gup });
            let pool = &self.pool;
            each(self.parallel, tasks, |task| pool.with(&plan, |work| shared.adjoint(task, above.as_ref(), work)));
            if t > 0 {
                self.clock.start();
                join(wave, &self.rows, &layer.convolution, &layer.sent, &mut self.dup[write], self.parallel);
                self.clock.end(Stage::Join);
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
            *strain = pool.with(plan, |work| {
                let strain = work.geometry.forces(domain, at, dv, &topology.reverse, forces);
                work.clock.end(Stage::Forces);
                strain
            });
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

    /// Seconds of each stage since the last call.
    pub(super) fn take_stages(&mut self) -> Vec<(Stage, f64)> {
        let mut seconds = std::mem::replace(&mut self.clock, Clock::new()).seconds;
        for work in self.pool.0.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner) {
            for (sum, s) in seconds.iter_mut().zip(std::mem::replace(&mut work.clock, Clock::new()).seconds) {
                *sum += s;
            }
        }
        Stage::ALL.into_iter().zip(seconds).collect()
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
