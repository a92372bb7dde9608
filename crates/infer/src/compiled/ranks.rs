//! The atoms of one rank of many: what they send is exchanged with the ranks that see them, between one layer and the next.
//!
//! A rank has atoms of its own and *ghosts*: copies of atoms of other ranks, or of its own across a periodic boundary, that one of its own may see. Every atom
//! is computed by the rank that owns it. Ghosts are atoms with a place of their own (no lattice shifts), and nothing is computed for them but what is asked of them:
//!
//! ```text
//! for each layer but the last:  layer.forward of own atoms ─▶ what they send ─▶ exchange.forward: ghosts get it from their owners
//! the last layer:               forward and adjoint of own atoms ─▶ cotangents of what own atoms and ghosts have sent
//! for the layers before:        exchange.reverse: owners get what their ghosts have collected ─▶ layer.adjoint of own atoms
//! forces of own atoms and ghosts from dE/dv of the edges of own atoms
//! ```
//!
//! So ghosts within one cutoff are enough, however many layers there are, and no edge is computed twice. The first layer needs nothing of its neighbours but
//! their species. Ghosts that the caller says are copies of another atom here, across a periodic boundary, share its features: nothing is stored or exchanged for
//! them, and what their edges give goes to that atom at once. A rank that is alone, all of whose ghosts are copies, exchanges nothing.
//!
//! Every rank comes to the same exchanges in the same order, those without atoms and those that have failed too: an evaluation that ends with an error goes
//! through the exchanges that are left with zeros. Only where an exchange itself fails there are no further ones.
//!
//! The passes are those of [`super::engine`], or on a device those of `super::device::step`; an atom's sums have the same order for any number of threads. What the reverse exchange adds, and in which order, is
//! the caller's.
//!
//! # What is exchanged
//!
//! A row for each exchange and atom that is no copy: the irreps that the next layer's convolution reads, `dim` numbers in the precision of the potential, rounded up
//! to 8 bytes. Of a model with `L` layers a ghost receives `Σ dim(t)` numbers over the layers `t = 2 … L`, and gives back as many cotangents:
//!
//! | model | exchanged irreps | bytes for each ghost and step, f32 | f64 |
//! |---|---|---|---|
//! | SevenNet-0, 5 layers | 4 · (128x0e+64x1e+32x2e) = 4 · 480 | 2 · 7,680 | 2 · 15,360 |
//! | MACE, 2 layers of 128x0e+128x1o | 512 | 2 · 2,048 | 2 · 4,096 |
//! | MACE, 2 layers of 128x0e | 128 | 2 · 512 | 2 · 1,024 |
//!
//! (a test counts them). LAMMPS adds 3 + 3 doubles for positions and forces. A cube of `n` atoms at the density ρ has `((n/ρ)^⅓ + 2 r)³ ρ − n` ghosts within the reach
//! `r` of cutoff and skin; in small systems many are copies.

use std::sync::Arc;

use rayon::prelude::*;
use tesseral_atoms::StructureError;
use tesseral_atoms::validation::SAME_SPOT;
use tesseral_ops::slab::HasSlabs;

use super::device::RankSession;
use super::engine::Session;
use super::geometry::of_edge;
use super::plan::Plan;
use super::rows::{Rows, Shape};
use super::shortlist::Shortlist;
use super::stages::Stage;
use super::topology::Topology;
use crate::InferError;
use crate::domain::{DomainAtoms, DomainError, DomainEvaluation, Exchange, ExchangeRows, NO_SPECIES, Numbers, Threads};

/// No lattice: ghosts have a place of their own.
const NO_CELL: [[f64; 3]; 3] = [[0.0; 3]; 3];
/// Rows that are copied by one task.
const COPIED: usize = 64;

/// A type of numbers that can be exchanged, in memory that is aligned to 8 bytes.
pub trait Exchanged: HasSlabs {
    /// Words of memory as numbers.
    fn numbers(words: &mut [f64]) -> &mut [Self];
    /// Numbers as what is exchanged.
    fn exchanged(numbers: &mut [Self]) -> Numbers<'_>;
}

impl Exchanged for f32 {
    fn numbers(words: &mut [f64]) -> &mut [Self] {
        bytemuck::cast_slice_mut(words)
    }

    fn exchanged(numbers: &mut [Self]) -> Numbers<'_> {
        Numbers::F32(numbers)
    }
}

impl Exchanged for f64 {
    fn numbers(words: &mut [f64]) -> &mut [Self] {
        words
    }

    fn exchanged(numbers: &mut [Self]) -> Numbers<'_> {
        Numbers::F64(numbers)
    }
}

/// Numbers of a row that is exchanged: a multiple of 8 bytes.
pub(super) fn width<T>(sent: &Shape) -> usize {
    let unit = 8 / size_of::<T>();
    sent.plain_dim().div_ceil(unit) * unit
}

/// The exchanges of one evaluation: how many there were, and where the rest goes if it fails.
struct Turns<'a> {
    /// None of a rank that is alone.
    exchange: Option<&'a mut dyn Exchange>,
    /// Forward and reverse exchanges so far.
    done: [usize; 2],
    failed: bool,
}

impl Turns<'_> {
    fn turn<T: Exchanged>(&mut self, words: &mut [f64], width: usize, reverse: bool) -> Result<(), DomainError> {
        let Some(exchange) = &mut self.exchange else { return Ok(()) };
        let rows = ExchangeRows { width, numbers: T::exchanged(T::numbers(words)) };
        // A panic of the caller's, too, is the end of all exchanges.
        self.failed = true;
        let (result, direction) = if reverse { (exchange.reverse(rows), "reverse") } else { (exchange.forward(rows), "forward") };
        result.map_err(|cause| DomainError::Exchange { direction, cause })?;
        self.failed = false;
        self.done[usize::from(reverse)] += 1;
        Ok(())
    }
}

/// The state of a rank's atoms between steps.
pub(crate) struct Rank<T: HasSlabs> {
    plan: Arc<Plan<T>>,
    computed: Computed<T>,
    /// Own atoms and all of them, of the list that is held.
    listed: Option<[usize; 2]>,
    shortlist: Shortlist,
    /// Which of the caller's rows each place of the engine's is, and the other way round. Places of copies, which have no rows there, come last.
    rows: Vec<u32>,
    place: Vec<u32>,
    /// In the engine's order, Å.
    positions: Vec<[f64; 3]>,
    /// Rows in the caller's order.
    words: Vec<f64>,
    virials: Vec<[f64; 6]>,
}

/// Where a rank's atoms are computed.
enum Computed<T: HasSlabs> {
    Here(Box<Session<T>>),
    Device(Box<RankSession<T>>),
}

impl<T: HasSlabs> Computed<T> {
    fn topology(&self) -> &Topology {
        match self {
            Self::Here(session) => &session.setting.topology,
            Self::Device(session) => &session.topology,
        }
    }
}

impl<T: Exchanged> Rank<T> {
    pub(super) fn here(session: Session<T>) -> Self {
        Self::new(session.plan.clone(), Computed::Here(Box::new(session)))
    }

    pub(super) fn on_device(plan: Arc<Plan<T>>, session: RankSession<T>) -> Self {
        Self::new(plan, Computed::Device(Box::new(session)))
    }

    fn new(plan: Arc<Plan<T>>, computed: Computed<T>) -> Self {
        let (rows, place, positions) = (Vec::new(), Vec::new(), Vec::new());
        let (words, virials, shortlist) = (Vec::new(), Vec::new(), Shortlist::default());
        Self { plan, computed, listed: None, shortlist, rows, place, positions, words, virials }
    }

    /// Energies, forces and virial; see [`crate::DomainCalculator::evaluate_into`].
    pub(crate) fn evaluate(
        &mut self,
        atoms: &DomainAtoms<'_>,
        exchange: Option<&mut dyn Exchange>,
        threads: &Threads,
        to: &mut DomainEvaluation,
    ) -> Result<(), InferError> {
        let mut turns = Turns { exchange, done: [0; 2], failed: false };
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.attempt(atoms, &mut turns, threads, to)));
        if !matches!(result, Ok(Ok(()))) {
            self.listed = None;
            self.abandon(atoms.positions.len(), &mut turns);
        }
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// The exchanges that are left, with zeros, so that nobody waits for this rank.
    fn abandon(&mut self, rows: usize, turns: &mut Turns<'_>) {
        let plan = self.plan.clone();
        let last = plan.layers.len() - 1;
        let mut with_zeros = |t: usize, reverse, turns: &mut Turns<'_>| {
            if !turns.failed && turns.exchange.is_some() {
                let width = width::<T>(&plan.layers[t].sent);
                self.words.clear();
                self.words.resize(rows * width * size_of::<T>() / 8, 0.0);
                if let Err(error) = turns.turn::<T>(&mut self.words, width, reverse) {
                    // The error that this evaluation ends with says more.
                    tracing::debug!("{error}");
                }
            }
        };
        (turns.done[0] + 1..=last).for_each(|t| with_zeros(t, false, turns));
        (1..=last - turns.done[1]).rev().for_each(|t| with_zeros(t, true, turns));
    }

    fn attempt(
        &mut self,
        atoms: &DomainAtoms<'_>,
        turns: &mut Turns<'_>,
        threads: &Threads,
        to: &mut DomainEvaluation,
    ) -> Result<(), InferError> {
        self.check(atoms)?;
        if to.atomic_virials.is_some() && matches!(self.computed, Computed::Device(_)) {
            return Err(InferError::NotOnDevice { what: "virials of atoms" });
        }
        if let Computed::Here(session) = &mut self.computed {
            session.parallel = threads.count() > 1;
            session.clock.start();
        }
        if let Some(lists) = atoms.neighbors {
            self.listed = None;
            self.shortlist.take(atoms, lists, self.plan.species)?;
        }
        if self.listed.is_none() || !self.shortlist.holds(atoms.positions) {
            self.listed = None;
            threads.install(|| self.rebuild_or_exact(atoms.positions))?;
            self.listed = Some([atoms.owned, atoms.positions.len()]);
        }
        if let (None, Some(ghost)) = (&turns.exchange, self.shortlist.stranger()) {
            return Err(DomainError::Stranger { ghost: atoms.name(ghost) }.into());
        }
        self.positions.clear();
        self.positions.extend(self.rows.iter().map(|&i| atoms.positions[i as usize]));
        let closest = match &mut self.computed {
            Computed::Here(session) => {
                session.clock.end(Stage::Lists);
                session.setting.place(|_| self.positions.iter().copied());
                passes(session, (&self.rows, &self.place, atoms.owned), &mut self.words, turns, threads)?;
                session.take_closest()
            }
            Computed::Device(session) => {
                let Self { plan, shortlist, rows, place, words, .. } = self;
                session.evaluate(&self.positions, &mut |t, reverse, of_rows: &mut [T]| {
                    let sent = &plan.layers[t].sent;
                    let (width, dim) = (width::<T>(sent), sent.plain_dim());
                    words.resize(place.len() * width * size_of::<T>() / 8, 0.0);
                    for (row, &k) in T::numbers(words).chunks_exact_mut(width).zip(place.iter()) {
                        row[..dim].copy_from_slice(&of_rows[k as usize * dim..][..dim]);
                    }
                    // Copies have rows of their own there.
                    if reverse {
                        let numbers = T::numbers(words);
                        for (ghost, image) in shortlist.copies() {
                            let (before, ghost) = numbers.split_at_mut(ghost * width);
                            before[image * width..].iter_mut().zip(&ghost[..dim]).for_each(|(to, &from)| *to += from);
                        }
                    }
                    turns.turn::<T>(words, width, reverse)?;
                    let numbers = T::numbers(words);
                    if !reverse {
                        shortlist
                            .copies()
                            .for_each(|(ghost, image)| numbers.copy_within(image * width..(image + 1) * width, ghost * width));
                    }
                    for (to, &i) in of_rows.chunks_exact_mut(dim).zip(rows.iter()) {
                        to.copy_from_slice(&numbers[i as usize * width..][..dim]);
                    }
                    Ok(())
                })?;
                session.closest
            }
        };
        if closest < SAME_SPOT * SAME_SPOT {
            self.same_spot(atoms)?;
        }
        if let (Computed::Here(session), true) = (&self.computed, to.atomic_virials.is_some()) {
            let virials = &mut self.virials;
            if session.parallel { threads.install(|| atomic_virials(session, virials)) } else { atomic_virials(session, virials) }
        }
        self.assemble(atoms, to)
    }

    /// Whether the atoms can be those of the list, and where they are.
    fn check(&self, atoms: &DomainAtoms<'_>) -> Result<(), InferError> {
        let all = atoms.positions.len();
        let count = |what, found| if found == all { Ok(()) } else { Err(DomainError::Count { what, found, atoms: all }) };
        if atoms.neighbors.is_some() {
            count("species", atoms.species.len())?;
        }
        count("tags", atoms.tags.map_or(all, <[i64]>::len))?;
        if atoms.owned > all {
            return Err(DomainError::Count { what: "own atoms", found: atoms.owned, atoms: all }.into());
        }
        if let (Some(_), Some(images)) = (atoms.neighbors, atoms.images) {
            count("own atoms and images of ghosts", atoms.owned + images.len())?;
        }
        if atoms.neighbors.is_none() && self.listed != Some([atoms.owned, all]) {
            return Err(DomainError::NoList { listed: self.listed, owned: atoms.owned, ghosts: all - atoms.owned }.into());
        }
        if let Some(atom) = atoms.positions.iter().position(|r| !r.iter().all(|x| x.is_finite())) {
            let position = atoms.positions[atom];
            return Err(StructureError::NotFinitePosition { atom: atoms.name(atom), position }.into());
        }
        Ok(())
    }

    fn rebuild_or_exact(&mut self, positions: &[[f64; 3]]) -> Result<(), InferError> {
        let rebuilt = self.rebuild(positions);
        match (rebuilt, &mut self.computed) {
            (Err(error @ InferError::Table { .. }), Computed::Here(session)) => {
                tracing::warn!("{error}: they are evaluated exactly, which is slower");
                session.setting.exact = true;
                session.setting.tables.clear();
                self.rebuild(positions)
            }
            (rebuilt, _) => rebuilt,
        }
    }

    /// Cuts the atoms with their near neighbours into domains.
    fn rebuild(&mut self, positions: &[[f64; 3]]) -> Result<(), InferError> {
        let Self { plan, computed, shortlist, rows, place, .. } = self;
        shortlist.shorten(positions, plan.cutoff);
        let (owned, all) = (shortlist.owned, positions.len());
        let copies = shortlist.copies().count();
        let memory = plan.memory_of(owned, [all - owned - copies, copies], shortlist.near().1.len() as f64 / owned.max(1) as f64);
        // On devices there are no domains, and copies are rows like others.
        let on_device: Vec<u32>;
        let (images, [largest, wave_rows]) = match computed {
            Computed::Here(session) => (&shortlist.images, session.portions(memory)?),
            Computed::Device(_) => {
                on_device = (owned as u32..all as u32).collect();
                (&on_device, [usize::MAX; 2])
            }
        };
        let (topology, places) = Topology::of_rank(owned, positions, (&shortlist.species, images), shortlist.near(), largest, wave_rows)?;
        place.resize(all, 0);
        places.iter().enumerate().for_each(|(k, &i)| place[i as usize] = k as u32);
        *rows = places;
        match computed {
            Computed::Here(session) => {
                let species = topology.species.iter().copied().filter(|&s| s != NO_SPECIES).collect();
                session.setting.topology = topology;
                session.prepare(species)?;
                session.resize();
            }
            Computed::Device(session) => session.relist(topology)?,
        }
        Ok(())
    }

    /// The error about two atoms on the same spot, by their names.
    fn same_spot(&self, atoms: &DomainAtoms<'_>) -> Result<(), InferError> {
        let name = |k: usize| atoms.name(self.rows[k] as usize);
        for domain in &self.computed.topology().domains {
            for (i, center) in domain.atoms.clone().enumerate() {
                for e in domain.offsets[i]..domain.offsets[i + 1] {
                    let neighbor = domain.ends[domain.edge_ends[e as usize] as usize].place as usize;
                    let (a, b) = (self.positions[center], self.positions[neighbor]);
                    let distance = (0..3).map(|x| (a[x] - b[x]) * (a[x] - b[x])).sum::<f64>().sqrt();
                    if distance < SAME_SPOT {
                        let (first, second) = (name(center).min(name(neighbor)), name(center).max(name(neighbor)));
                        let periodic = first == second;
                        return Err(StructureError::SameSpot { first, second, distance, periodic }.into());
                    }
                }
            }
        }
        Ok(())
    }

    fn assemble(&self, atoms: &DomainAtoms<'_>, to: &mut DomainEvaluation) -> Result<(), InferError> {
        let (energies, forces, strain) = match &self.computed {
            Computed::Here(session) => {
                let sum = |a: usize, b: usize| session.strains.iter().map(|s| s[a][b]).sum::<f64>();
                (&session.energies, &session.forces, std::array::from_fn(|a| std::array::from_fn(|b| sum(a, b))))
            }
            Computed::Device(session) => (&session.energies, &session.forces, session.strain),
        };
        let strain: [[f64; 3]; 3] = strain;
        to.atomic_energies.clear();
        to.atomic_energies.extend(self.place[..atoms.owned].iter().map(|&k| energies.get(k as usize).copied().unwrap_or(0.0)));
        to.energy = to.atomic_energies.iter().sum();
        to.forces.clear();
        // What copies would have their atoms have got.
        to.forces.extend(self.place.iter().map(|&k| forces.get(k as usize).copied().unwrap_or_default()));
        to.virial = std::array::from_fn(|a| std::array::from_fn(|b| -0.5 * (strain[a][b] + strain[b][a])));
        if let Some(virials) = &mut to.atomic_virials {
            virials.clear();
            virials.extend(self.place.iter().map(|&k| self.virials.get(k as usize).copied().unwrap_or_default()));
        }
        crate::potential::finite_numbers(to.energy, &to.forces)
    }

    /// Edges within the reach of the list that is held.
    pub(crate) fn num_listed(&self) -> usize {
        self.computed.topology().num_edges()
    }

    /// Seconds of each stage since the last call; a device tells none.
    pub(crate) fn take_stages(&mut self) -> Vec<(Stage, f64)> {
        match &mut self.computed {
            Computed::Here(session) => session.take_stages(),
            Computed::Device(_) => Vec::new(),
        }
    }

    /// Bytes of everything that grows with the atoms.
    pub(crate) fn bytes(&self) -> usize {
        let of_engine = match &self.computed {
            Computed::Here(session) => session.bytes(),
            Computed::Device(session) => session.bytes(),
        };
        of_engine
            + self.shortlist.bytes()
            + self.words.capacity() * 8
            + (self.place.capacity() + self.rows.capacity()) * 4
            + self.virials.capacity() * 48
    }
}

/// All passes on this CPU, with the exchanges between them. Of the caller's rows are told which are whose, both ways, and how many are own atoms.
fn passes<T: Exchanged>(
    session: &mut Session<T>,
    (rows, place, owned): (&[u32], &[u32], usize),
    words: &mut Vec<f64>,
    turns: &mut Turns<'_>,
    threads: &Threads,
) -> Result<(), InferError> {
    let plan = session.plan.clone();
    let last = plan.layers.len() - 1;
    let seen = session.setting.topology.num_rows();
    // Where one thread computes it is the caller's.
    let alone = !session.parallel;
    let run = |session: &mut Session<T>, pass: &mut (dyn FnMut(&mut Session<T>) + Send)| {
        if alone { pass(session) } else { threads.install(|| pass(session)) }
    };
    let exchanged = turns.exchange.is_some();
    for t in 0..last {
        let sent = &plan.layers[t + 1].sent;
        let width = width::<T>(sent);
        run(session, &mut |session| {
            session.forward(&plan, t, &NO_CELL);
            if exchanged {
                pack(sent, width, (&place[..owned], place.len(), seen), &session.up[t], words, session.parallel);
            }
        });
        if exchanged {
            turns.turn::<T>(words, width, false)?;
            run(session, &mut |session| {
                unpack(sent, width, T::numbers(words), (rows, owned..seen), &mut session.up[t], session.parallel);
            });
        }
    }
    for t in (0..=last).rev() {
        let sent = &plan.layers[t].sent;
        let width = width::<T>(sent);
        let exchanged = exchanged && t > 0;
        run(session, &mut |session| {
            session.backward(&plan, t, &NO_CELL);
            if exchanged {
                pack(sent, width, (place, place.len(), seen), &session.dup[t % 2], words, session.parallel);
            }
        });
        if exchanged {
            turns.turn::<T>(words, width, true)?;
            run(session, &mut |session| {
                let own = 0..session.setting.topology.num_atoms();
                unpack(sent, width, T::numbers(words), (rows, own), &mut session.dup[t % 2], session.parallel);
            });
        }
    }
    run(session, &mut |session| {
        session.forces(&NO_CELL);
        ghost_forces(session);
    });
    Ok(())
}

/// Half of −v ⊗ dE/dv of each edge for either end, in the engine's order of atoms: xx, yy, zz, xy, xz, yz.
fn atomic_virials<T: HasSlabs>(session: &Session<T>, virials: &mut Vec<[f64; 6]>) {
    let (setting, dv) = (&session.setting, &session.dv);
    let (topology, positions) = (&setting.topology, setting.at(&NO_CELL).positions);
    let add = |sum: &mut [f64; 6], center: usize, edge: usize| {
        let (from, to, g) = (positions[center], positions[topology.place(center, edge)], of_edge(dv, edge));
        let v: [f64; 3] = std::array::from_fn(|x| to[x] - from[x]);
        for (sum, (a, b)) in sum.iter_mut().zip([(0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)]) {
            *sum -= 0.25 * (v[a] * g[b] + v[b] * g[a]);
        }
    };
    let of_row = |(k, to): (usize, &mut [f64; 6])| {
        let mut sum = [0.0; 6];
        if k < topology.num_atoms() {
            (topology.offsets[k]..topology.offsets[k + 1]).for_each(|e| add(&mut sum, k, e));
        }
        topology.incoming(k).iter().for_each(|&e| add(&mut sum, topology.center(e), e as usize));
        *to = sum;
    };
    virials.resize(topology.num_rows(), [0.0; 6]);
    if session.parallel {
        virials.par_iter_mut().enumerate().with_min_len(COPIED).for_each(of_row);
    } else {
        virials.iter_mut().enumerate().for_each(of_row);
    }
}

/// Forces on ghosts: what the edges that point to them give.
fn ghost_forces<T: HasSlabs>(session: &mut Session<T>) {
    let (topology, dv) = (&session.setting.topology, &session.dv);
    let own = topology.num_atoms();
    let of_ghost = |(k, force): (usize, &mut [f64; 3])| {
        *force = [0.0; 3];
        for &e in topology.incoming(own + k) {
            let back = of_edge(dv, e as usize);
            (0..3).for_each(|a| force[a] -= back[a]);
        }
    };
    let ghosts = &mut session.forces[own..];
    if session.parallel {
        ghosts.par_iter_mut().enumerate().with_min_len(COPIED).for_each(of_ghost);
    } else {
        ghosts.iter_mut().enumerate().for_each(of_ghost);
    }
}

/// Rows of `width` numbers in the caller's order, from features in the engine's: those at `place`, of `all` rows, as far as they are among the first `seen`
/// of the engine's.
fn pack<T: Exchanged>(
    shape: &Shape,
    width: usize,
    (place, all, seen): (&[u32], usize, usize),
    from: &Rows<T>,
    to: &mut Vec<f64>,
    parallel: bool,
) {
    // What is left over in a row, and rows of copies, stay what they are: zero, or of another layer; nobody reads it.
    to.resize(all * width * size_of::<T>() / 8, 0.0);
    let rows = &mut T::numbers(to)[..place.len() * width];
    let chunk = |(c, rows): (usize, &mut [T])| {
        for (row, &k) in rows.chunks_exact_mut(width).zip(&place[c * COPIED..]).filter(|(_, k)| (**k as usize) < seen) {
            for (block, from) in shape.blocks().iter().zip(&from.blocks) {
                let from = from[k as usize * block.components * block.width..].chunks_exact(block.width);
                for (to, from) in row[block.offset..].chunks_exact_mut(block.channels).zip(from).take(block.components) {
                    to.copy_from_slice(&from[..block.channels]);
                }
            }
        }
    };
    if parallel {
        rows.par_chunks_mut(COPIED * width).enumerate().for_each(chunk);
    } else {
        rows.chunks_mut(COPIED * width).enumerate().for_each(chunk);
    }
}

/// Features of some of the engine's rows: `of` tells which of the caller's they are.
fn unpack<T: Exchanged>(
    shape: &Shape,
    width: usize,
    rows: &[T],
    (of, range): (&[u32], std::ops::Range<usize>),
    to: &mut Rows<T>,
    parallel: bool,
) {
    for (b, block) in shape.blocks().iter().enumerate() {
        let size = shape.row(b);
        let to = &mut to.blocks[b][range.start * size..range.end * size];
        let chunk = |(c, to): (usize, &mut [T])| {
            for (i, to) in to.chunks_exact_mut(size).enumerate() {
                let from = &rows[of[range.start + c * COPIED + i] as usize * width + block.offset..];
                for (to, from) in to.chunks_exact_mut(block.width).zip(from.chunks_exact(block.channels)) {
                    to[..block.channels].copy_from_slice(from);
                }
            }
        };
        if parallel {
            to.par_chunks_mut(COPIED * size).enumerate().for_each(chunk);
        } else {
            to.chunks_mut(COPIED * size).enumerate().for_each(chunk);
        }
    }
}
