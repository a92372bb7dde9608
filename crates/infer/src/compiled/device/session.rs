//! The state of some structures on a device between steps.

use std::ops::Range;
use std::sync::Arc;

use tesseral_atoms::{Structure, validation::SAME_SPOT};
use tesseral_kernels::edges::Edges;
use tesseral_kernels::forces::ForceWork;
use tesseral_kernels::neighbors::NeighborTable;
use tesseral_kernels::{Buffer, Device, Graph};
use tesseral_ops::rows::DeviceIndex;
use tesseral_ops::slab::HasSlabs;
use tesseral_potentials::Evaluation;
use tesseral_potentials::batch::species_of;

use super::super::engine::stress;
use super::super::linear::{Group, groups};
use super::super::listed::Listed;
use super::super::plan::Plan;
use super::super::rows::{Rows, Shape, pack};
use super::listing::Listing;
use super::model::{DeviceModel, OfSpecies};
use super::pool::Pool;
use super::step::Part;
use crate::InferError;

/// A list of neighbours has room for this part of its edges more, and for as many more: while later ones fit, a recorded step stays good.
const ROOM: usize = 16;

/// What depends on the list of neighbours.
pub(super) struct State<T: HasSlabs> {
    pub(super) listing: Listing,
    pub(super) table: NeighborTable,
    pub(super) edges: Edges<T>,
    /// All atoms, and the parts that they are computed in where they are many.
    pub(super) whole: Part<T>,
    /// Of a rank's atoms, which come first: what is known of ghosts.
    pub(super) seen: Option<Seen>,
    pub(super) parts: Vec<Part<T>>,
    /// Constants of the first layer, and what atoms send there; `atoms.of_constants` says which row is whose.
    pub(super) constants: Vec<Buffer<T>>,
    pub(super) sent: Buffer<T>,
    pub(super) positions: Buffer<f64>,
    pub(super) cells: Buffer<f64>,
    pub(super) dv: Buffer<T>,
    /// What the readouts of all layers give, and those of the last for one part.
    pub(super) read: Buffer<f64>,
    pub(super) of_part: Buffer<f64>,
    pub(super) energies: Buffer<f64>,
    pub(super) forces: Buffer<f64>,
    pub(super) virial: Buffer<f64>,
    /// Squared distance of the closest neighbour of each atom, and the smallest of them, Å².
    pub(super) closest: Buffer<f64>,
    pub(super) smallest: Buffer<f64>,
    pub(super) work: ForceWork,
    /// Energies that embedded fields have of their own, eV; none without fields.
    pub(super) field_energies: Vec<f64>,
    /// The step, recorded when it was made for the second time.
    pub(super) graph: Option<Graph>,
    pub(super) steps: usize,
}

/// Rows that are seen, own atoms' and ghosts'.
pub(super) struct Seen {
    /// Species of each, among those that are present.
    pub(super) species: DeviceIndex,
    /// Which row of what is sent first is each one's.
    pub(super) constants: DeviceIndex,
    /// The first listed edge of a ghost: those lead back from what is listed for own atoms, and are there for that alone.
    pub(super) first_edge: usize,
}

/// The state of some structures.
pub(in super::super) struct Session<T: HasSlabs> {
    model: Arc<DeviceModel<T>>,
    listed: Vec<Listed>,
    of_species: Option<OfSpecies<T>>,
    state: Option<State<T>>,
    pool: Pool<T>,
    host: Host,
}

/// Host memory that is used again.
#[derive(Default)]
struct Host {
    positions: Vec<f64>,
    energies: Vec<f64>,
    forces: Vec<f64>,
    virial: Vec<f64>,
    smallest: Vec<f64>,
}

/// Rows of initial features, what they send, the constants of the first layer, and whose they are.
struct Initial<T> {
    rows: usize,
    sent: Vec<T>,
    constants: Vec<Vec<T>>,
    index: Vec<u32>,
    energies: Vec<f64>,
}

/// Rows in the plain layout; of nothing, nothing.
pub(super) fn plain<T: HasSlabs>(shape: &Shape, rows: &Rows<T>) -> Vec<T> {
    let Some(first) = rows.blocks.first() else { return Vec::new() };
    let atoms = first.len() / shape.row(0);
    let mut to = vec![T::zero(); atoms * shape.plain_dim()];
    pack(shape, &rows.views(), &mut to);
    to
}

fn initial<T: HasSlabs>(
    plan: &Plan<T>,
    listing: &Listing,
    structures: &[&Structure],
    species: &[Vec<u32>],
) -> Result<Initial<T>, InferError> {
    let layer = &plan.layers[0];
    let packed = |constants: &[Rows<T>]| -> Vec<Vec<T>> {
        layer.node.constant_shapes().into_iter().zip(constants).map(|(shape, rows)| plain(shape, rows)).collect()
    };
    let Some(fields) = &plan.initial.fields else {
        let all: Vec<Group> = (0..plan.species).map(|s| (s as u32, s..s + 1)).collect();
        let constants = plan.constants(&plan.initial.x, &plan.initial.sent, plan.species, &all);
        return Ok(Initial {
            rows: plan.species,
            sent: plain(&layer.sent, &plan.initial.sent),
            constants: packed(&constants),
            index: listing.species.clone(),
            energies: Vec::new(),
        });
    };
    let n = listing.num_atoms();
    let mut all = Initial { rows: n, sent: Vec::new(), constants: Vec::new(), index: (0..n as u32).collect(), energies: Vec::new() };
    for (s, range) in listing.first.windows(2).enumerate() {
        let n = range[1] - range[0];
        let (x, energies) =
            super::super::mace::embed(fields, &layer.features, structures[s], &species[s], &listing.order[range[0]..range[1]])?;
        let groups = groups(&listing.species[range[0]..range[1]]);
        let mut sent = Rows::zeros(&layer.sent, n);
        fields.up.forward(&x.views(), &mut sent.views_mut(), n, &groups, false);
        let constants = packed(&plan.constants(&x, &sent, n, &groups));
        all.constants.resize_with(constants.len(), Vec::new);
        all.constants.iter_mut().zip(constants).for_each(|(all, one)| all.extend(one));
        all.sent.extend(plain(&layer.sent, &sent));
        all.energies.extend(energies);
    }
    Ok(all)
}

/// Does what was recorded.
#[allow(unsafe_code, reason = "a recording names buffers that it does not own")]
fn replay(graph: &Graph) -> Result<(), InferError> {
    // SAFETY: a recording is kept in the state whose buffers it uses, and made anew with them; buffers of the model and of the species are replaced only
    // after the state has been dropped, those of the pool likewise, which otherwise neither frees nor lends any while there is a recording. Lists,
    // indices and lengths are those of the recorded step.
    unsafe { graph.launch() }?;
    Ok(())
}

impl<T: HasSlabs> State<T> {
    fn new(
        model: &DeviceModel<T>,
        of: &OfSpecies<T>,
        structures: &[&Structure],
        species: &[Vec<u32>],
        reach: f64,
    ) -> Result<Self, InferError> {
        let device: &Device = &model.device;
        let listing = Listing::new(structures, species)?;
        let (n, s) = (listing.num_atoms(), structures.len());
        let initial = initial(&model.plan, &listing, structures, species)?;
        let table = listing.neighbors(structures, reach, (device, &model.lists))?;
        // With room for later lists, unless there are none to come.
        let spare = |edges: usize| if reach > model.plan.cutoff { edges / ROOM + ROOM } else { 0 };
        let room = table.len() + spare(table.len());
        let table = if room > table.len() { NeighborTable::with_room(device, table, room)? } else { table };
        let e = table.room();
        let part = |centers: Range<usize>, room: usize| {
            let index = (&initial.index[centers.clone()], initial.rows);
            Part::new(model, of, &listing.species[centers.clone()], index, centers, room)
        };
        let size = model.part_atoms(n, e);
        let mut parts = Vec::new();
        if size < n {
            let begin = table.offsets()?;
            for start in (0..n).step_by(size) {
                let centers = start..(start + size).min(n);
                let edges = (begin[centers.end] - begin[centers.start]) as usize;
                parts.push(part(centers, edges + spare(edges))?);
            }
        }
        Ok(Self {
            edges: Edges::new(device, &table)?,
            work: ForceWork::new(device, &table)?,
            whole: part(0..n, if parts.is_empty() { e } else { 0 })?,
            of_part: device.zeros(size.min(n))?,
            parts,
            seen: None,
            table,
            constants: initial.constants.iter().map(|c| device.upload(c)).collect::<Result<_, _>>()?,
            sent: device.upload(&initial.sent)?,
            positions: device.zeros(3 * n)?,
            cells: device.zeros(9 * s)?,
            dv: device.zeros(3 * e)?,
            read: device.zeros(n)?,
            energies: device.zeros(n)?,
            forces: device.zeros(3 * n)?,
            virial: device.zeros(9 * s)?,
            closest: device.zeros(n)?,
            smallest: device.zeros(1)?,
            field_energies: initial.energies,
            listing,
            graph: None,
            steps: 0,
        })
    }
}

impl<T: HasSlabs> Session<T> {
    pub(super) fn new(model: Arc<DeviceModel<T>>) -> Self {
        let pool = Pool::new(&model.device);
        Self { model, listed: Vec::new(), of_species: None, state: None, pool, host: Host::default() }
    }

    /// Makes the next evaluation list neighbours anew.
    pub(super) fn forget(&mut self) {
        self.listed.clear();
    }

    fn is_current(&self, structures: &[&Structure], skin: f64) -> bool {
        self.state.is_some()
            && self.model.plan.initial.fields.is_none()
            && self.listed.len() == structures.len()
            && self.listed.iter().zip(structures).all(|(listed, structure)| listed.holds(structure, skin))
    }

    /// Lists the neighbours of the structures that it has anew, in the place of the old list, if it has room; `false` if not, or if they are others.
    fn relist(&mut self, structures: &[&Structure], skin: f64) -> Result<bool, InferError> {
        let model = &self.model;
        let Some(state) = &mut self.state else { return Ok(false) };
        let same = model.plan.initial.fields.is_none()
            && self.listed.len() == structures.len()
            && self.listed.iter().zip(structures).all(|(listed, structure)| listed.is_of(structure));
        if !same {
            return Ok(false);
        }
        // Atoms keep their order: they move little in the life of a session.
        let table = state.listing.neighbors(structures, model.plan.cutoff + skin, (&model.device, &model.lists))?;
        if !state.parts.is_empty() {
            let begin = table.offsets()?;
            let fits = |part: &Part<T>| (begin[part.centers.end] - begin[part.centers.start]) as usize <= part.room;
            if !state.parts.iter().all(fits) {
                return Ok(false);
            }
        }
        if !state.table.replace(&table)? {
            return Ok(false);
        }
        self.listed = structures.iter().map(|s| Listed::new(s, skin)).collect();
        Ok(true)
    }

    fn rebuild(&mut self, structures: &[&Structure], elements: &[u8], skin: f64) -> Result<(), InferError> {
        if self.relist(structures, skin)? {
            return Ok(());
        }
        self.listed.clear();
        self.state = None;
        // Lengths differ from now on.
        self.pool = Pool::new(&self.model.device);
        let species = structures.iter().map(|s| Ok(species_of(s, elements)?)).collect::<Result<Vec<Vec<u32>>, InferError>>()?;
        let mut present: Vec<u32> = species.iter().flatten().copied().collect();
        present.sort_unstable();
        present.dedup();
        let of = match self.of_species.take().filter(|of| of.present == present) {
            Some(of) => of,
            None => self.model.of_species(present)?,
        };
        self.state = Some(State::new(&self.model, &of, structures, &species, self.model.plan.cutoff + skin)?);
        self.of_species = Some(of);
        self.listed = structures.iter().map(|s| Listed::new(s, skin)).collect();
        Ok(())
    }

    /// Energy, forces and stress of each structure. Neighbours are listed up to `skin` (Å) beyond the cutoff, and only when an atom has moved half of it.
    /// From the second step on, the whole step is one graph, for as long as there is room for new lists.
    pub(in super::super) fn evaluate(
        &mut self,
        structures: &[&Structure],
        elements: &[u8],
        skin: f64,
        to: &mut [Evaluation],
    ) -> Result<(), InferError> {
        if !self.is_current(structures, skin) {
            self.rebuild(structures, elements, skin).or_else(|error| {
                self.listed.clear();
                // Whatever else is wrong, validation says it best.
                structures.iter().try_for_each(|s| s.validate()).map_err(InferError::from).and(Err(error))
            })?;
        }
        let result = self.step(structures, to);
        if result.is_err() {
            self.listed.clear();
            self.state = None;
        }
        result
    }

    fn step(&mut self, structures: &[&Structure], to: &mut [Evaluation]) -> Result<(), InferError> {
        let Self { model, of_species: Some(of), state: Some(state), pool, host, .. } = self else { return Err(InferError::NoAtoms) };
        state.listing.positions(structures, &mut host.positions);
        state.positions.write(&host.positions)?;
        let cells: Vec<f64> = structures.iter().flat_map(|s| s.cell.vectors.as_flattened().iter().copied()).collect();
        state.cells.write(&cells)?;
        match &state.graph {
            Some(graph) => replay(graph)?,
            None if state.steps == 1 => {
                let device = model.device.clone();
                let graph = device.capture(|| model.step(of, state, pool, &mut |_, _, _| Ok(())))?;
                replay(&graph)?;
                state.graph = Some(graph);
            }
            None => model.step(of, state, pool, &mut |_, _, _| Ok(()))?,
        }
        state.steps += 1;
        let read = |from: &Buffer<f64>, to: &mut Vec<f64>| {
            to.resize(from.len(), 0.0);
            from.read(to)
        };
        read(&state.energies, &mut host.energies)?;
        read(&state.forces, &mut host.forces)?;
        read(&state.virial, &mut host.virial)?;
        read(&state.smallest, &mut host.smallest)?;
        if host.smallest.iter().any(|&squared| squared < SAME_SPOT * SAME_SPOT) {
            structures.iter().try_for_each(|s| s.validate())?;
        }
        for (s, (structure, to)) in structures.iter().zip(to).enumerate() {
            let range = state.listing.first[s]..state.listing.first[s + 1];
            to.forces.resize(range.len(), [0.0; 3]);
            to.atomic_energies.resize(range.len(), 0.0);
            for k in range {
                let i = state.listing.order[k] as usize;
                to.forces[i] = std::array::from_fn(|x| host.forces[3 * k + x]);
                to.atomic_energies[i] = host.energies[k] + state.field_energies.get(k).copied().unwrap_or(0.0);
            }
            to.energy = to.atomic_energies.iter().sum();
            to.stress = stress(structure, |a, b| host.virial[9 * s + 3 * a + b]);
        }
        Ok(())
    }

    /// Bytes of everything that grows with the structures.
    pub(in super::super) fn bytes(&self) -> usize {
        let Some(state) = &self.state else { return 0 };
        let doubles = [&state.positions, &state.cells, &state.read, &state.energies, &state.forces, &state.virial, &state.closest];
        self.pool.bytes()
            + doubles.iter().map(|x| x.bytes()).sum::<usize>()
            + [state.table.bytes(), state.edges.bytes(), state.work.bytes(), state.dv.bytes()].iter().sum::<usize>()
    }

    /// Atoms, and edges within the cutoff at the last positions.
    pub(in super::super) fn size(&self) -> (usize, usize) {
        let Some(state) = &self.state else { return (0, 0) };
        let edges = state.edges.count.to_vec().map_or(0, |counts| counts.iter().map(|&c| c as usize).sum());
        (state.whole.atoms.count, edges)
    }
}
