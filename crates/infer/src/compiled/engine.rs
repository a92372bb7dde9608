//! One structure, many steps: energies, forces and stress by explicit forward and adjoint passes over buffers that are kept.

use std::sync::{Arc, Mutex};

use rayon::prelude::*;
use tesseral_atoms::{Structure, validation::SAME_SPOT};
use tesseral_ops::radial::ScalarFunction;
use tesseral_ops::slab::{HasSlabs, width};
use tesseral_potentials::Evaluation;
use tesseral_potentials::batch::species_of;

use super::convolution::Convolution;
use super::geometry::Positions;
use super::linear::Group;
use super::listed::Listed;
use super::node::read;
use super::passes::{Above, LayerTables, Pool, Shared, TablesOf, Task};
use super::plan::{MemoryPlan, Plan, scale_rows};
use super::radial::Pair;
use super::rows::{PartsMut, Rows, SavedMut, Shape};
use super::stages::{Clock, Stage};
use super::topology::{Domain, Entry, JOIN, SHORT_WAVE_ROWS, Topology, WAVE_ROWS, Wave};
use crate::InferError;

/// Atoms of a domain where radial functions are evaluated exactly, which takes room for every edge.
const EXACT_DOMAIN: usize = 8;

/// The state of one structure between steps.
pub(super) struct Session<T: 'static> {
    pub(super) plan: Arc<Plan<T>>,
    /// Bytes that may be used.
    pub(super) limit: Option<usize>,
    /// Whether domains are computed by all threads, or by the one that asks.
    pub(super) parallel: bool,
    listed: Option<Listed>,
    pub(super) setting: Setting<T>,
    field_energies: Vec<f64>,
    /// Features that leave each layer but the last, what they send, what is saved, densities.
    x: Vec<Rows<T>>,
    pub(super) up: Vec<Rows<T>>,
    saved: Vec<Vec<Rows<T>>>,
    rho: Vec<Vec<T>>,
    /// Cotangents of the features and of what is sent, of the layer in work and of the one above.
    dx: [Rows<T>; 2],
    pub(super) dup: [Rows<T>; 2],
    rows: Vec<Vec<T>>,
    pub(super) dv: Vec<T>,
    /// Empty between passes; it keeps its memory.
    tasks: Vec<Task<'static, T>>,
    pub(super) energies: Vec<f64>,
    pub(super) forces: Vec<[f64; 3]>,
    pub(super) strains: Vec<[[f64; 3]; 3]>,
    pub(super) pool: Pool<T>,
    pub(super) clock: Clock,
}

/// What all passes of a step read: the structure, its neighbourhoods, and what was made for its species.
pub(super) struct Setting<T> {
    pub(super) exact: bool,
    /// Whether memory is so short that nodes are computed twice.
    recompute: bool,
    pub(super) topology: Topology,
    positions: Vec<[f64; 3]>,
    /// Counts evaluations.
    step: u64,
    species: Vec<u16>,
    present: Vec<u32>,
    squared_cutoffs: Vec<f64>,
    pub(super) tables: Vec<LayerTables<T>>,
    /// Constants of the first layer and what atoms send there; by species, unless fields make them differ from atom to atom.
    constants: Vec<Rows<T>>,
    sent: Rows<T>,
    of_atom: Vec<u32>,
    /// The pair repulsion of each pair of present species.
    pair_functions: Vec<Option<ScalarFunction>>,
}

impl<T: HasSlabs> Setting<T> {
    /// Places the atoms for the next evaluation.
    pub(super) fn place<'a, I: Iterator<Item = [f64; 3]>>(&'a mut self, positions: impl FnOnce(&'a Topology) -> I) {
        self.positions.clear();
        self.positions.extend(positions(&self.topology));
        self.step += 1;
    }

    pub(super) fn at<'a>(&'a self, cell: &'a [[f64; 3]; 3]) -> Positions<'a> {
        Positions {
            step: self.step,
            cell,
            positions: &self.positions,
            species: &self.species,
            squared_cutoffs: &self.squared_cutoffs,
            num_species: self.present.len(),
        }
    }

    /// What the passes of layer `t` read, with the features that leave each layer and what they send.
    fn layer<'a>(&'a self, plan: &'a Plan<T>, t: usize, cell: &'a [[f64; 3]; 3], x: &'a [Rows<T>], up: &'a [Rows<T>]) -> Shared<'a, T> {
        Shared {
            plan,
            layer: &plan.layers[t],
            number: t,
            exact: self.exact,
            tables: &self.tables[t],
            at: self.at(cell),
            species: &self.topology.species,
            sent: if t == 0 { &self.sent } else { &up[t - 1] },
            x: if t == 0 { None } else { Some(&x[t - 1]) },
            constants: &self.constants,
            of_atom: &self.of_atom,
            pair_functions: &self.pair_functions,
            recompute: self.recompute,
        }
    }
}

/// Runs `f` for each, by all threads or by this one.
fn each<I: Send>(parallel: bool, items: &mut [I], f: impl Fn(&mut I) + Send + Sync) {
    if parallel {
        items.par_iter_mut().with_max_len(1).for_each(f);
    } else {
        items.iter_mut().for_each(f);
    }
}

/// Cuts the first `n` numbers off, or all there are.
fn cut<'a, T>(x: &mut &'a mut [T], n: usize) -> &'a mut [T] {
    let n = n.min(x.len());
    let (mine, rest) = std::mem::take(x).split_at_mut(n);
    *x = rest;
    mine
}

/// Cuts the rows of the next `atoms` atoms off; those of nobody stay nobody's.
fn cut_rows<'a, T: HasSlabs>(x: &mut PartsMut<'a, T>, shape: &Shape, atoms: usize) -> PartsMut<'a, T> {
    x.iter_mut().enumerate().map(|(b, x)| cut(x, atoms * shape.row(b))).collect()
}

/// An empty list of tasks in the memory of an old one.
fn emptied<'a, T>(mut tasks: Vec<Task<'_, T>>) -> Vec<Task<'a, T>> {
    tasks.clear();
    // Collecting in place keeps the memory.
    tasks.into_iter().map(|_| unreachable!("it was cleared")).collect()
}

impl<T: HasSlabs> Session<T> {
    pub(super) fn new(plan: Arc<Plan<T>>, exact: bool) -> Self {
        Self {
            plan,
            limit: None,
            parallel: true,
            listed: None,
            setting: Setting {
                exact,
                recompute: false,
                topology: Topology::empty(),
                positions: Vec::new(),
                step: 0,
                species: Vec::new(),
                present: Vec::new(),
                squared_cutoffs: Vec::new(),
                tables: Vec::new(),
                constants: Vec::new(),
                sent: Rows::default(),
                of_atom: Vec::new(),
                pair_functions: Vec::new(),
            },
            tasks: Vec::new(),
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
        // Embedded fields may change without anything moving.
        self.plan.initial.fields.is_none() && self.listed.as_ref().is_some_and(|listed| listed.holds(structure, skin))
    }

    /// Lists neighbours and makes tables, buffers and constants for a structure.
    fn rebuild(&mut self, structure: &Structure, elements: &[u8], skin: f64) -> Result<(), InferError> {
        self.listed = None;
        let plan = self.plan.clone();
        let species = species_of(structure, elements)?;
        let [largest, wave_rows] = self.portions(plan.memory(structure, plan.cutoff + skin))?;
        self.setting.topology = Topology::new(structure, &species, plan.cutoff + skin, largest, wave_rows)?;
        self.prepare(species.clone())?;
        self.field_energies.clear();
        if let Some(fields) = &plan.initial.fields {
            let topology = &self.setting.topology;
            let first = &plan.layers[0];
            let (x, energies) = super::mace::embed(fields, &first.features, structure, &species, &topology.order)?;
            let n = topology.num_atoms();
            let groups: Vec<Group> = topology
                .domains
                .iter()
                .flat_map(|d| d.groups.iter().map(move |(s, range)| (*s, range.start + d.atoms.start..range.end + d.atoms.start)))
                .collect();
            self.setting.sent = Rows::zeros(&first.sent, n);
            fields.up.forward(&x.views(), &mut self.setting.sent.views_mut(), n, &groups, false);
            self.setting.constants = plan.constants(&x, &self.setting.sent, n, &groups);
            self.setting.of_atom = (0..n as u32).collect();
            self.field_energies = energies;
        }
        self.resize();
        self.listed = Some(Listed::new(structure, skin));
        Ok(())
    }

    /// Atoms of a domain at most and rows of a wave, by what a structure takes and what it may take.
    pub(super) fn portions(&mut self, memory: MemoryPlan) -> Result<[usize; 2], InferError> {
        self.setting.recompute = match self.limit {
            Some(limit) if memory.least > limit => {
                return Err(InferError::Memory { atoms: memory.atoms, needed: memory.least, limit });
            }
            limit => limit.is_some_and(|limit| memory.bytes > limit),
        };
        if self.setting.recompute {
            tracing::info!("memory is short: what layers save is computed again");
        }
        let largest = if self.setting.exact { EXACT_DOMAIN } else { usize::MAX };
        Ok([largest, if self.setting.recompute { SHORT_WAVE_ROWS } else { WAVE_ROWS }])
    }

    /// Makes tables and constants for the species that there are; of models without embedded fields, all that the first layer reads.
    pub(super) fn prepare(&mut self, species: Vec<u32>) -> Result<(), InferError> {
        let plan = self.plan.clone();
        let mut present = species;
        present.sort_unstable();
        present.dedup();
        if present != self.setting.present || self.setting.tables.is_empty() {
            self.setting.present = present;
            self.setting.tables = plan
                .layers
                .par_iter()
                .map(|layer| {
                    let of = |radial| TablesOf::new(radial, &plan, &self.setting.present, self.setting.exact);
                    Ok(LayerTables {
                        weights: of(&layer.convolution.radial)?,
                        density: layer.convolution.density.as_ref().map(of).transpose()?,
                    })
                })
                .collect::<Result<_, InferError>>()?;
            for &s in &self.setting.present {
                for layer in &plan.layers {
                    layer.node.prepare(s);
                    if let Some((up, _)) = &layer.up {
                        up.prepare(s);
                    }
                }
            }
        }
        let topology = &self.setting.topology;
        self.setting.species.clear();
        self.setting.species.extend(topology.species.iter().map(|s| self.setting.present.binary_search(s).unwrap_or_default() as u16));
        self.setting.squared_cutoffs.clear();
        self.setting.pair_functions.clear();
        for &center in &self.setting.present {
            let pairs = self.setting.present.iter().map(|&neighbor| Pair { center, neighbor });
            self.setting.squared_cutoffs.extend(pairs.clone().map(|pair| plan.basis.cutoff(pair).powi(2)));
            self.setting.pair_functions.extend(pairs.map(|pair| (plan.pair_energy.as_ref()?.of_pair)(pair)));
        }
        if plan.initial.fields.is_none() {
            if self.setting.constants.is_empty() {
                let all: Vec<Group> = (0..plan.species).map(|s| (s as u32, s..s + 1)).collect();
                self.setting.constants = plan.constants(&plan.initial.x, &plan.initial.sent, plan.species, &all);
                self.setting.sent = plan.initial.sent.clone();
            }
            self.setting.of_atom = topology.species.clone();
        }
        Ok(())
    }

    pub(super) fn resize(&mut self) {
        let plan = self.plan.clone();
        let (n, rows) = (self.setting.topology.num_atoms(), self.setting.topology.num_rows());
        let inner = plan.layers.len() - 1;
        self.x.resize_with(inner, Rows::default);
        self.up.resize_with(inner, Rows::default);
        self.saved.resize_with(inner, Vec::new);
        self.rho.resize_with(inner, Vec::new);
        for (t, layer) in plan.layers.iter().enumerate().take(inner) {
            self.x[t].resize(&layer.out, n);
            self.up[t].resize(&plan.layers[t + 1].sent, rows);
            let shapes = layer.node.saved();
            self.saved[t].resize_with(shapes.len(), Rows::default);
            if self.setting.recompute {
                self.saved[t] = shapes.iter().map(|_| Rows::default()).collect();
                self.rho[t] = Vec::new();
                continue;
            }
            self.saved[t].iter_mut().zip(&shapes).for_each(|(rows, shape)| rows.resize(shape, n));
            self.rho[t].resize(if layer.convolution.density.is_some() { n } else { 0 }, T::zero());
        }
        self.dv.resize(3 * self.setting.topology.num_edges(), T::zero());
        self.energies.resize(n, 0.0);
        self.forces.resize(rows, [0.0; 3]);
        self.strains.resize(self.setting.topology.domains.len(), [[0.0; 3]; 3]);
        let most = self.setting.topology.waves.iter().map(|w| w.domains.len()).max().unwrap_or(0);
        self.rows.resize_with(most, Vec::new);
    }

    /// Makes the next evaluation list neighbours anew.
    pub(super) fn forget(&mut self) {
        self.listed = None;
    }

    /// Energy, forces and stress, written to `to`. Neighbours are listed up to `skin` (Å) beyond the cutoff, and only when an atom has moved half of it;
    /// while the list holds, nothing is allocated (with one thread; several allocate for their queue).
    pub(super) fn evaluate(&mut self, structure: &Structure, elements: &[u8], skin: f64, to: &mut Evaluation) -> Result<(), InferError> {
        self.clock.start();
        if !self.is_current(structure, skin) {
            match self.rebuild(structure, elements, skin) {
                Err(error @ InferError::Table { .. }) => {
                    tracing::warn!("{error}: they are evaluated exactly, which is slower");
                    self.setting.exact = true;
                    self.setting.tables.clear();
                    self.rebuild(structure, elements, skin)?;
                }
                // Whatever else is wrong, validation says it best.
                other => other.or_else(|error| structure.validate().map_err(InferError::from).and(Err(error)))?,
            }
        }
        self.clock.end(Stage::Lists);
        self.setting.place(|topology| topology.order.iter().map(|&i| structure.positions[i as usize]));
        let plan = self.plan.clone();
        let last = plan.layers.len() - 1;
        for t in 0..last {
            self.forward(&plan, t, &structure.cell.vectors);
        }
        for t in (0..=last).rev() {
            self.backward(&plan, t, &structure.cell.vectors);
        }
        self.assemble(structure, to);
        if self.take_closest() < SAME_SPOT * SAME_SPOT {
            structure.validate()?;
        }
        Ok(())
    }

    /// The smallest squared distance of the last step, Å².
    pub(super) fn take_closest(&mut self) -> f64 {
        let works = self.pool.0.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        works.iter_mut().fold(f64::INFINITY, |closest, work| closest.min(std::mem::replace(&mut work.geometry.closest, f64::INFINITY)))
    }

    pub(super) fn forward(&mut self, plan: &Plan<T>, t: usize, cell: &[[f64; 3]; 3]) {
        let layer = &plan.layers[t];
        let setting = &self.setting;
        let n = setting.topology.num_atoms();
        let (up_before, up_here) = self.up.split_at_mut(t);
        let (x_before, x_here) = self.x.split_at_mut(t);
        let shared = setting.layer(plan, t, cell, x_before, up_before);
        let sent = &plan.layers[t + 1].sent;
        let shapes = layer.node.saved();
        let kept = if setting.recompute { &mut [] } else { self.saved[t].as_mut_slice() };
        let mut saved: SavedMut<'_, T> = kept.iter_mut().map(Rows::views_mut).collect();
        let (mut out, mut up, mut rho) = (x_here[0].views_mut(), up_here[0].views_mut(), self.rho[t].as_mut_slice());
        debug_assert!(out.iter().enumerate().all(|(b, x)| x.len() == n * layer.out.row(b)));
        let mut tasks = emptied(std::mem::take(&mut self.tasks));
        tasks.extend(setting.topology.domains.iter().map(|domain| {
            let atoms = domain.num_atoms();
            Task {
                saved: saved.iter_mut().zip(&shapes).map(|(x, shape)| cut_rows(x, shape, atoms)).collect(),
                out: cut_rows(&mut out, &layer.out, atoms),
                up: cut_rows(&mut up, sent, atoms),
                rho: cut(&mut rho, atoms),
                ..Task::of(domain)
            }
        }));
        let pool = &self.pool;
        each(self.parallel, &mut tasks, |task| {
            pool.with(plan, |work| {
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
        self.tasks = emptied(tasks);
    }

    pub(super) fn backward(&mut self, plan: &Plan<T>, t: usize, cell: &[[f64; 3]; 3]) {
        let (layer, last) = (&plan.layers[t], t + 1 == plan.layers.len());
        let setting = &self.setting;
        let topology = &setting.topology;
        let n = topology.num_atoms();
        let row = layer.convolution.plan.row();
        // Cotangents of this layer's inputs are written to one buffer, those of its outputs are read from the other.
        let write = t % 2;
        if t > 0 {
            self.dx[write].resize(&layer.features, n);
            self.dup[write].resize(&layer.sent, topology.num_rows());
            self.dup[write].blocks.iter_mut().for_each(|b| b.fill(T::zero()));
        }
        let shared = setting.layer(plan, t, cell, &self.x, &self.up);
        for wave in &topology.waves {
            let first = topology.domains[wave.domains.start].atoms.start;
            let [even, odd] = &mut self.dx;
            let (dx, g) = if write == 0 { (even, &*odd) } else { (odd, &*even) };
            let [even, odd] = &mut self.dup;
            let (dup, gup) = if write == 0 { (even, &*odd) } else { (odd, &*even) };
            let (mut dx_rest, mut dup_rest) = (PartsMut::new(), PartsMut::new());
            if t > 0 {
                (dx_rest, dup_rest) = (dx.views_mut(), dup.views_mut());
                cut_rows(&mut dx_rest, &layer.features, first);
                cut_rows(&mut dup_rest, &layer.sent, first);
            }
            let mut dv = &mut self.dv[3 * topology.offsets[first]..];
            let mut energies = &mut self.energies[first..];
            let mut tasks = emptied(std::mem::take(&mut self.tasks));
            tasks.extend(topology.domains[wave.domains.clone()].iter().zip(&mut self.rows).map(|(domain, rows)| {
                let atoms = domain.num_atoms();
                if t > 0 {
                    rows.clear();
                    rows.resize(domain.row_atoms.len() * row, T::zero());
                }
                Task {
                    dx: cut_rows(&mut dx_rest, &layer.features, atoms),
                    dup: cut_rows(&mut dup_rest, &layer.sent, atoms),
                    rows: if t > 0 { rows } else { &mut [] },
                    dv: cut(&mut dv, 3 * domain.edge_ends.len()),
                    energies: cut(&mut energies, atoms),
                    ..Task::of(domain)
                }
            }));
            let above = (!last).then(|| Above { saved: &self.saved[t], out: &self.x[t], rho: &self.rho[t], dx: g, dup: gup });
            let pool = &self.pool;
            each(self.parallel, &mut tasks, |task| pool.with(plan, |work| shared.adjoint(task, above.as_ref(), work)));
            self.tasks = emptied(tasks);
            drop((dx_rest, dup_rest));
            if t > 0 {
                self.clock.start();
                join(wave, &self.rows, &layer.convolution, &layer.sent, &mut self.dup[write], self.parallel);
                self.clock.end(Stage::Join);
            }
        }
    }

    /// Forces on the atoms that are computed here, and the sums of v ⊗ dE/dv over the edges of each domain.
    pub(super) fn forces(&mut self, cell: &[[f64; 3]; 3]) {
        let (setting, dv, pool, plan) = (&self.setting, &self.dv, &self.pool, &self.plan);
        let (topology, at) = (&setting.topology, setting.at(cell));
        let of_domain = |domain: &Domain, forces: &mut [[f64; 3]]| {
            pool.with(plan, |work| {
                let strain = work.geometry.forces(domain, at, dv, topology, forces);
                work.clock.end(Stage::Forces);
                strain
            })
        };
        let forces = &mut self.forces[..topology.num_atoms()];
        if self.parallel {
            let forces = forces.par_chunks_mut(topology.domain_size);
            let domains = topology.domains.par_iter().with_max_len(1);
            domains.zip(forces).zip(&mut self.strains).for_each(|((domain, forces), strain)| *strain = of_domain(domain, forces));
        } else {
            let forces = forces.chunks_mut(topology.domain_size);
            let domains = topology.domains.iter();
            domains.zip(forces).zip(&mut self.strains).for_each(|((domain, forces), strain)| *strain = of_domain(domain, forces));
        }
    }

    fn assemble(&mut self, structure: &Structure, to: &mut Evaluation) {
        self.forces(&structure.cell.vectors);
        let topology = &self.setting.topology;
        let n = topology.num_atoms();
        to.forces.resize(n, [0.0; 3]);
        to.atomic_energies.resize(n, 0.0);
        for (k, &i) in topology.order.iter().enumerate() {
            to.forces[i as usize] = self.forces[k];
            let fields = self.field_energies.get(k).copied().unwrap_or(0.0);
            to.atomic_energies[i as usize] = self.energies[k] + fields;
        }
        to.energy = to.atomic_energies.iter().sum();
        to.stress = stress(structure, |a, b| self.strains.iter().map(|s| s[a][b]).sum());
    }

    /// Bytes of everything that grows with the structure.
    pub(super) fn bytes(&self) -> usize {
        let rows = |r: &[Rows<T>]| r.iter().map(Rows::bytes).sum::<usize>();
        self.setting.topology.bytes()
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

    /// Atoms, and edges within the cutoff at the last positions.
    pub(super) fn size(&self) -> (usize, usize) {
        let Some(listed) = &self.listed else { return (0, 0) };
        let at = self.setting.at(&listed.cell);
        let of_domain = |domain: &Domain| {
            self.pool.with(&self.plan, |work| {
                work.geometry.update(domain, at);
                work.geometry.num_edges()
            })
        };
        (self.setting.topology.num_atoms(), self.setting.topology.domains.iter().map(of_domain).sum())
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
}

/// sym Σ v ⊗ dE/dv / V, eV/Å³, of a structure that is periodic in all directions, from the elements of the sum over its edges (eV).
pub(super) fn stress(structure: &Structure, sum: impl Fn(usize, usize) -> f64) -> Option<[[f64; 3]; 3]> {
    let volume = structure.cell.volume();
    let element = |a: usize, b: usize| 0.5 * (sum(a, b) + sum(b, a)) / volume;
    (structure.pbc == [true; 3]).then(|| std::array::from_fn(|a| std::array::from_fn(|b| element(a, b))))
}

/// Adds the rows that the domains of a wave have collected to the atoms they belong to, in the order of the domains.
fn join<T: HasSlabs>(wave: &Wave, rows: &[Vec<T>], convolution: &Convolution<T>, shape: &Shape, to: &mut Rows<T>, parallel: bool) {
    let plan = &convolution.plan;
    let w = width::<T>();
    let mut start = 0;
    for b in 0..plan.num_blocks() {
        let (_, components, _, block_width) = plan.block(b);
        let row = shape.row(convolution.inputs[b]);
        let add = |chunk: &mut [T], entries: &[Entry]| {
            for entry in entries {
                let from = &rows[entry.slot as usize];
                let count = from.len() / plan.row();
                let to = &mut chunk[entry.atom as usize * row..][..row];
                for slab in 0..block_width / w {
                    let at = start * count + (slab * count + entry.row as usize) * components * w;
                    for (m, from) in from[at..at + components * w].chunks_exact(w).enumerate() {
                        let to = &mut to[m * block_width + slab * w..][..w];
                        to.iter_mut().zip(from).for_each(|(t, &f)| *t += f);
                    }
                }
            }
        };
        let to = &mut to.blocks[convolution.inputs[b]];
        let of_chunk = |k: usize| wave.chunks.binary_search_by_key(&k, |(c, _)| *c).map_or(&[][..], |at| &wave.chunks[at].1);
        if parallel {
            to.par_chunks_mut(JOIN * row).enumerate().for_each(|(k, chunk)| add(chunk, of_chunk(k)));
        } else {
            to.chunks_mut(JOIN * row).enumerate().for_each(|(k, chunk)| add(chunk, of_chunk(k)));
        }
        start += components * block_width;
    }
}
