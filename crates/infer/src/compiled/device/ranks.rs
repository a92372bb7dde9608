//! The atoms of one rank on a device. What is exchanged goes through the host.
//!
//! Ghosts are rows after those of own atoms. They have listed edges too, the reverses of own atoms' edges, because cotangents are gathered through
//! reverse edges; nothing is computed at these edges, and their derivatives are zero.

use std::sync::Arc;

use tesseral_kernels::Buffer;
use tesseral_kernels::edges::Edges;
use tesseral_kernels::forces::ForceWork;
use tesseral_kernels::neighbors::{HostList, NeighborTable};
use tesseral_ops::rows::DeviceIndex;
use tesseral_ops::slab::HasSlabs;

use super::super::linear::Group;
use super::super::topology::Topology;
use super::listing::Listing;
use super::model::{DeviceModel, OfSpecies};
use super::pool::Pool;
use super::session::{Seen, State, plain};
use super::step::Part;
use crate::InferError;
use crate::domain::{DomainError, NO_SPECIES};

/// The state of a rank's atoms on a device.
pub(in super::super) struct RankSession<T: HasSlabs> {
    model: Arc<DeviceModel<T>>,
    pub(in super::super) topology: Topology,
    of_species: Option<OfSpecies<T>>,
    /// Of atoms, if there are any.
    state: Option<State<T>>,
    pool: Pool<T>,
    host: Vec<T>,
    /// In the order of the topology: eV, eV/Å (ghosts too), and Σ v ⊗ dE/dv, eV.
    pub(in super::super) energies: Vec<f64>,
    pub(in super::super) forces: Vec<[f64; 3]>,
    pub(in super::super) strain: [[f64; 3]; 3],
    /// The smallest squared distance of the last step, Å².
    pub(in super::super) closest: f64,
}

/// A list in which every edge has its reverse: own atoms' edges, then those that lead back from ghosts.
struct Symmetric {
    offsets: Vec<usize>,
    neighbors: Vec<u32>,
    reverse: Vec<u32>,
}

impl Symmetric {
    fn new(topology: &Topology) -> Result<Self, DomainError> {
        let own = topology.num_atoms();
        let mut offsets = topology.offsets.clone();
        let mut neighbors: Vec<u32> =
            topology.domains.iter().flat_map(|domain| domain.edge_ends.iter().map(|&end| domain.ends[end as usize].place)).collect();
        for ghost in own..topology.num_rows() {
            neighbors.extend(topology.incoming(ghost).iter().map(|&e| topology.center(e) as u32));
            offsets.push(neighbors.len());
        }
        let mut reverse = Vec::with_capacity(neighbors.len());
        for i in 0..own {
            for e in offsets[i]..offsets[i + 1] {
                let j = neighbors[e] as usize;
                // Neighbours ascend, and so do the edges that point to a ghost.
                let back = if j < own {
                    neighbors[offsets[j]..offsets[j + 1]].binary_search(&(i as u32))
                } else {
                    topology.incoming(j).binary_search(&(e as u32))
                };
                reverse.push((offsets[j] + back.map_err(|_| DomainError::HalfList)?) as u32);
            }
        }
        (own..topology.num_rows()).for_each(|ghost| reverse.extend_from_slice(topology.incoming(ghost)));
        Ok(Self { offsets, neighbors, reverse })
    }
}

impl<T: HasSlabs> RankSession<T> {
    pub(super) fn new(model: Arc<DeviceModel<T>>) -> Self {
        let pool = Pool::new(&model.device);
        Self {
            model,
            topology: Topology::empty(),
            of_species: None,
            state: None,
            pool,
            host: Vec::new(),
            energies: Vec::new(),
            forces: Vec::new(),
            strain: [[0.0; 3]; 3],
            closest: f64::INFINITY,
        }
    }

    /// Takes over the neighbours of a rank's atoms.
    pub(in super::super) fn relist(&mut self, topology: Topology) -> Result<(), InferError> {
        self.state = None;
        self.topology = topology;
        // Lengths differ from now on.
        self.pool = Pool::new(&self.model.device);
        let (topology, model) = (&self.topology, &self.model);
        if topology.num_atoms() == 0 {
            return Ok(());
        }
        let mut present: Vec<u32> = topology.species.iter().copied().filter(|&s| s != NO_SPECIES).collect();
        present.sort_unstable();
        present.dedup();
        let of = match self.of_species.take().filter(|of| of.present == present) {
            Some(of) => of,
            None => model.of_species(present)?,
        };
        self.state = Some(state(model, &of, topology)?);
        self.of_species = Some(of);
        Ok(())
    }

    /// Energies, forces and virial with the rows of the topology at `positions` (Å). `between` exchanges, in the order of the topology, the rows that are sent to a
    /// layer, or (reverse) their cotangents.
    pub(in super::super) fn evaluate(
        &mut self,
        positions: &[[f64; 3]],
        between: &mut dyn FnMut(usize, bool, &mut [T]) -> Result<(), InferError>,
    ) -> Result<(), InferError> {
        let Self { model, topology, of_species, state, pool, host, .. } = self;
        let (own, rows) = (topology.num_atoms(), topology.num_rows());
        self.energies.resize(own, 0.0);
        self.forces.clear();
        self.forces.resize(rows, [0.0; 3]);
        (self.strain, self.closest) = ([[0.0; 3]; 3], f64::INFINITY);
        let (Some(of), Some(state)) = (of_species, state) else {
            // Without atoms there is nothing but exchanges.
            let last = model.layers.len() - 1;
            for (t, reverse) in (1..=last).map(|t| (t, false)).chain((1..=last).rev().map(|t| (t, true))) {
                host.clear();
                host.resize(rows * model.layers[t].sent, T::zero());
                between(t, reverse, host)?;
            }
            return Ok(());
        };
        state.positions.write(positions.as_flattened())?;
        let mut through_host = |t: usize, reverse: bool, rows: &mut Buffer<T>| {
            host.resize(rows.len(), T::zero());
            rows.read(host)?;
            between(t, reverse, host)?;
            Ok(rows.write(host)?)
        };
        model.step(of, state, pool, &mut through_host)?;
        self.energies.copy_from_slice(&state.energies.to_vec()?[..own]);
        state.forces.read(self.forces.as_flattened_mut())?;
        state.virial.read(self.strain.as_flattened_mut())?;
        self.closest = state.smallest.to_vec()?[0];
        Ok(())
    }

    /// Bytes on the device that grow with the atoms, those of lists and of what passes take.
    pub(in super::super) fn bytes(&self) -> usize {
        self.pool.bytes() + self.state.as_ref().map_or(0, |state| state.table.bytes() + state.edges.bytes() + state.work.bytes())
    }
}

fn state<T: HasSlabs>(model: &DeviceModel<T>, of: &OfSpecies<T>, topology: &Topology) -> Result<State<T>, InferError> {
    let (device, plan) = (&model.device, &model.plan);
    let (own, rows) = (topology.num_atoms(), topology.num_rows());
    let list = Symmetric::new(topology)?;
    let edges = list.neighbors.len();
    let shifts = vec![[0; 3]; edges];
    let host = HostList { offsets: &list.offsets, neighbors: &list.neighbors, shifts: &shifts, reverse: &list.reverse };
    let table = NeighborTable::upload(device, &[host])?;
    // Where a species counts that is none, nothing reads it.
    let species: Vec<u32> = topology.species.iter().map(|&s| if s == NO_SPECIES { of.present[0] } else { s }).collect();
    let part = |centers: std::ops::Range<usize>, room: usize| {
        let species = &species[centers.clone()];
        Part::new(model, of, species, (species, plan.species), centers, room)
    };
    let first_edge = list.offsets[own];
    let size = model.part_atoms(own, first_edge);
    let mut parts = Vec::new();
    if size < own {
        for start in (0..own).step_by(size) {
            let centers = start..(start + size).min(own);
            parts.push(part(centers.clone(), list.offsets[centers.end] - list.offsets[centers.start])?);
        }
    }
    let all: Vec<Group> = (0..plan.species).map(|s| (s as u32, s..s + 1)).collect();
    let constants = plan.constants(&plan.initial.x, &plan.initial.sent, plan.species, &all);
    let first = &plan.layers[0];
    let constants = first.node.constant_shapes().into_iter().zip(&constants).map(|(shape, rows)| device.upload(&plain(shape, rows)));
    Ok(State {
        listing: Listing { order: topology.order.clone(), species: species[..own].to_vec(), first: vec![0, own] },
        edges: Edges::new(device, &table)?,
        work: ForceWork::new(device, &table)?,
        whole: part(0..own, if parts.is_empty() { first_edge } else { 0 })?,
        of_part: device.zeros(size.min(own))?,
        parts,
        seen: Some(Seen {
            species: DeviceIndex::new(device, &of.among_present(&species), of.present.len())?,
            constants: DeviceIndex::new(device, &species, plan.species)?,
            first_edge,
        }),
        table,
        constants: constants.collect::<Result<_, _>>()?,
        sent: device.upload(&plain(&first.sent, &plan.initial.sent))?,
        positions: device.zeros(3 * rows)?,
        cells: device.zeros(9)?,
        dv: device.zeros(3 * edges)?,
        read: device.zeros(own)?,
        energies: device.zeros(rows)?,
        forces: device.zeros(3 * rows)?,
        virial: device.zeros(9)?,
        closest: device.zeros(rows)?,
        smallest: device.zeros(1)?,
        field_energies: Vec::new(),
        graph: None,
        steps: 0,
    })
}
