//! Structures of a batch one after another, and the lists of their neighbours.

use rayon::prelude::*;
use tesseral_atoms::Structure;
use tesseral_atoms::neighbors::{NeighborList, neighbor_list};
use tesseral_kernels::Device;
use tesseral_kernels::neighbors::{DeviceList, HostList, ListError, NeighborTable};

use super::super::topology::{curve, original};
use crate::InferError;

/// From how many atoms on a structure is listed on the device.
const DEVICE_LIST_ATOMS: usize = 1000;

/// Atoms of all structures, sorted along a space-filling curve within each.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Index of each atom within its structure.
    pub(super) order: Vec<u32>,
    /// Species of each atom, as the model counts them.
    pub(super) species: Vec<u32>,
    /// First atom of each structure, and one past the last.
    pub(super) first: Vec<usize>,
}

/// The list as devices take it.
fn host_list(list: &NeighborList) -> HostList<'_> {
    HostList { offsets: &list.offsets, neighbors: &list.neighbors, shifts: &list.shifts, reverse: &list.reverse }
}

impl Listing {
    /// Sorts the atoms of each structure, of which `species` are given in their order.
    pub(super) fn new(structures: &[&Structure], species: &[Vec<u32>]) -> Result<Self, InferError> {
        let orders: Vec<Vec<u32>> = structures.par_iter().map(|s| curve(&s.cell.vectors, s.pbc, &s.positions)).collect();
        let mut all = Self { first: vec![0], ..Self::default() };
        for (order, species) in orders.into_iter().zip(species) {
            all.species.extend(order.iter().map(|&i| species[i as usize]));
            all.order.extend(order);
            all.first.push(all.order.len());
        }
        Ok(all)
    }

    /// Pairs up to `reach` (Å), atoms in this order. One structure that is large enough is listed on the device, others on the host; the lists are the same.
    pub(super) fn neighbors(
        &self,
        structures: &[&Structure],
        reach: f64,
        (device, lists): (&Device, &DeviceList),
    ) -> Result<NeighborTable, InferError> {
        // The emulator is there to show that this works.
        let least = if device.is_emulated() { 0 } else { DEVICE_LIST_ATOMS };
        if let [structure] = structures
            && structure.len() >= least
            && structure.positions.as_flattened().iter().all(|x| x.is_finite())
        {
            let mut positions = Vec::new();
            self.positions(structures, &mut positions);
            match lists.build(&device.upload(&positions)?, &structure.cell.vectors, structure.pbc, reach) {
                Err(ListError::Unsuited { .. } | ListError::Shift) => {}
                other => return Ok(other?),
            }
        }
        let of = |(structure, range): (&&Structure, &[usize])| {
            let order = &self.order[range[0]..range[1]];
            let positions: Vec<[f64; 3]> = order.iter().map(|&i| structure.positions[i as usize]).collect();
            neighbor_list(&structure.cell.vectors, structure.pbc, &positions, reach).map_err(|e| original(e, order))
        };
        let ranges: Vec<&[usize]> = self.first.windows(2).collect();
        let made = structures.par_iter().zip(ranges).map(of).collect::<Result<Vec<_>, InferError>>()?;
        let made: Vec<HostList<'_>> = made.iter().map(host_list).collect();
        Ok(NeighborTable::upload(device, &made)?)
    }

    pub(super) fn num_atoms(&self) -> usize {
        self.order.len()
    }

    /// The atoms' positions in the order of the listing, `[N, 3]`, Å.
    pub(super) fn positions(&self, structures: &[&Structure], to: &mut Vec<f64>) {
        to.clear();
        for (structure, range) in structures.iter().zip(self.first.windows(2)) {
            to.extend(self.order[range[0]..range[1]].iter().flat_map(|&i| structure.positions[i as usize]));
        }
    }
}
