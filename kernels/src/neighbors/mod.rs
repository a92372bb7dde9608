//! Neighbour lists on the device: uploaded from the host, or made there.

mod device_list;
mod frame;

pub use device_list::DeviceList;

use crate::forces::Segments;
use crate::{Buffer, Device, DeviceError};

/// Most edges of a list: kernels count in steps of a warp, in 32 bits.
const MAX_EDGES: usize = u32::MAX as usize - 64;

/// Why there is no list on the device.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ListError {
    /// The device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// What is to be uploaded is no neighbour list.
    #[error("edge {edge} of structure {structure}: {what}")]
    Inconsistent {
        /// Which of those that were given, from 0.
        structure: usize,
        /// Its edge, from 0.
        edge: usize,
        /// What is wrong.
        what: &'static str,
    },
    /// A lattice shift does not fit in 16 bits.
    #[error("an atom is more than 32767 cells away from its neighbour; wrap the positions into the cell first")]
    Shift,
    /// Edges do not fit a 32-bit index.
    #[error("{edges:e} edges are too many for one list")]
    TooManyEdges {
        /// How many there are.
        edges: f64,
    },
    /// The list is better made on the host, which can do it or says what is wrong with the structure.
    #[error("no neighbour list is made on the device: {why}")]
    Unsuited {
        /// What is in the way.
        why: &'static str,
    },
}

/// A neighbour list on the host; the fields are those of `tesseral_atoms::neighbors::NeighborList`.
#[derive(Debug, Clone, Copy)]
pub struct HostList<'a> {
    /// `[N + 1]`
    pub offsets: &'a [usize],
    /// `[E]`
    pub neighbors: &'a [u32],
    /// `[E]`
    pub shifts: &'a [[i32; 3]],
    /// `[E]`
    pub reverse: &'a [u32],
}

/// The listed edges of a batch of structures, on the device. The atoms of a structure lie next to one another. There may be room for more edges.
pub struct NeighborTable {
    pub(crate) edges: usize,
    /// `[N + 1]`
    pub(crate) begin: Buffer<u32>,
    /// `[room]`
    pub(crate) neighbor: Buffer<u32>,
    /// `[room, 3]`
    pub(crate) shift: Buffer<i16>,
    /// `[room]`
    pub(crate) reverse: Buffer<u32>,
    /// `[N]`
    pub(crate) structure: Buffer<u32>,
    /// `[room]`: where each edge went when edges were last found.
    pub(crate) slots: Buffer<u32>,
    pub(crate) segments: Segments,
}

impl NeighborTable {
    /// Uploads the lists of the structures of a batch, one after another: atoms and edges are counted through.
    ///
    /// # Errors
    /// If an array is no part of a neighbour list in which every edge has its reverse, if edges or shifts do not fit, or the device fails.
    pub fn upload(device: &Device, lists: &[HostList<'_>]) -> Result<Self, ListError> {
        let edges: usize = lists.iter().map(|list| list.neighbors.len()).sum();
        let atoms: usize = lists.iter().map(|list| list.offsets.len().saturating_sub(1)).sum();
        if edges > MAX_EDGES || atoms > MAX_EDGES {
            return Err(ListError::TooManyEdges { edges: edges as f64 });
        }
        let (mut begin, mut structure) = (Vec::with_capacity(atoms + 1), Vec::with_capacity(atoms));
        let (mut neighbor, mut reverse) = (Vec::with_capacity(edges), Vec::with_capacity(edges));
        let mut shift = Vec::with_capacity(3 * edges);
        begin.push(0);
        for (index, list) in lists.iter().enumerate() {
            check(index, list)?;
            let (first_atom, first_edge) = (structure.len() as u32, neighbor.len() as u32);
            begin.extend(list.offsets.iter().skip(1).map(|&offset| first_edge + offset as u32));
            structure.resize(structure.len() + list.offsets.len() - 1, index as u32);
            neighbor.extend(list.neighbors.iter().map(|j| first_atom + j));
            reverse.extend(list.reverse.iter().map(|e| first_edge + e));
            for &s in list.shifts.iter().flatten() {
                shift.push(i16::try_from(s).map_err(|_| ListError::Shift)?);
            }
        }
        Ok(Self {
            edges,
            begin: device.upload(&begin)?,
            neighbor: device.upload(&neighbor)?,
            shift: device.upload(&shift)?,
            reverse: device.upload(&reverse)?,
            structure: device.upload(&structure)?,
            slots: device.zeros(edges)?,
            segments: Segments::new(device, lists.iter().map(|list| list.offsets.len() - 1))?,
        })
    }

    /// A copy of a list with room for `room` edges, and no fewer than it has.
    ///
    /// # Errors
    /// If memory is short.
    pub fn with_room(device: &Device, list: Self, room: usize) -> Result<Self, DeviceError> {
        let room = room.clamp(list.edges, MAX_EDGES);
        let mut roomy = Self {
            edges: 0,
            begin: device.zeros(list.begin.len())?,
            neighbor: device.zeros(room)?,
            shift: device.zeros(3 * room)?,
            reverse: device.zeros(room)?,
            slots: device.zeros(room)?,
            structure: list.structure,
            segments: list.segments,
        };
        roomy.copy(list.edges, &list.begin, &list.neighbor, &list.shift, &list.reverse)?;
        Ok(roomy)
    }

    /// Takes over another list of structures with the same numbers of atoms, in the place of its own, if there is room: `false`, and nothing changed, if
    /// not. What was recorded with this list stays good.
    ///
    /// # Errors
    /// If numbers of atoms differ, or the device fails.
    pub fn replace(&mut self, list: &Self) -> Result<bool, DeviceError> {
        crate::grid::check_len("atoms of a list", list.atoms(), self.atoms())?;
        crate::grid::check_len("structures of a list", list.structures(), self.structures())?;
        if list.edges > self.room() {
            return Ok(false);
        }
        self.copy(list.edges, &list.begin, &list.neighbor, &list.shift, &list.reverse)?;
        Ok(true)
    }

    fn copy(
        &mut self,
        edges: usize,
        begin: &Buffer<u32>,
        neighbor: &Buffer<u32>,
        shift: &Buffer<i16>,
        reverse: &Buffer<u32>,
    ) -> Result<(), DeviceError> {
        self.edges = edges;
        self.begin.copy_from(begin, begin.len())?;
        self.neighbor.copy_from(neighbor, edges)?;
        self.shift.copy_from(shift, 3 * edges)?;
        self.reverse.copy_from(reverse, edges)
    }

    /// First edge of each atom, and the end of the last: `[N + 1]`, read from the device.
    ///
    /// # Errors
    /// If the device fails.
    pub fn offsets(&self) -> Result<Vec<u32>, DeviceError> {
        self.begin.to_vec()
    }

    /// How many atoms.
    pub fn atoms(&self) -> usize {
        self.begin.len() - 1
    }

    /// How many listed edges.
    pub fn len(&self) -> usize {
        self.edges
    }

    /// How many edges there is room for.
    pub fn room(&self) -> usize {
        self.neighbor.len()
    }

    /// Whether no atom has a neighbour.
    pub fn is_empty(&self) -> bool {
        self.edges == 0
    }

    /// How many structures.
    pub fn structures(&self) -> usize {
        self.segments.structures()
    }

    /// `[N]`: the structure of each atom.
    pub fn structure_of(&self) -> &Buffer<u32> {
        &self.structure
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> usize {
        let words = [&self.begin, &self.neighbor, &self.reverse, &self.structure, &self.slots];
        words.iter().map(|x| x.bytes()).sum::<usize>() + self.shift.bytes() + self.segments.bytes()
    }

    /// Reads the list back: offsets, neighbours, shifts, reverse edges.
    ///
    /// # Errors
    /// If the device fails.
    pub fn read(&self) -> Result<(Vec<u32>, Vec<u32>, Vec<[i16; 3]>, Vec<u32>), DeviceError> {
        let shifts = self.shift.to_vec()?.chunks_exact(3).take(self.edges).map(|s| [s[0], s[1], s[2]]).collect();
        let listed = |x: &Buffer<u32>| -> Result<Vec<u32>, DeviceError> {
            let mut x = x.to_vec()?;
            x.truncate(self.edges);
            Ok::<_, DeviceError>(x)
        };
        Ok((self.begin.to_vec()?, listed(&self.neighbor)?, shifts, listed(&self.reverse)?))
    }
}

/// Whether all that the kernels rely on holds.
fn check(structure: usize, list: &HostList<'_>) -> Result<(), ListError> {
    let wrong = |edge, what| Err(ListError::Inconsistent { structure, edge, what });
    let edges = list.neighbors.len();
    if list.shifts.len() != edges || list.reverse.len() != edges {
        return wrong(0, "the lengths of neighbours, shifts and reverse edges differ");
    }
    if list.offsets.first() != Some(&0) || list.offsets.last() != Some(&edges) || list.offsets.windows(2).any(|o| o[0] > o[1]) {
        return wrong(0, "the offsets do not ascend from 0 to the number of edges");
    }
    for (center, row) in list.offsets.windows(2).enumerate() {
        for e in row[0]..row[1] {
            let (j, back) = (list.neighbors[e] as usize, list.reverse[e] as usize);
            if j >= list.offsets.len() - 1 {
                return wrong(e, "there is no such neighbour");
            }
            if !(list.offsets[j]..list.offsets[j + 1]).contains(&back)
                || list.neighbors[back] as usize != center
                || list.shifts[back] != list.shifts[e].map(i32::wrapping_neg)
            {
                return wrong(e, "its reverse is another edge");
            }
        }
    }
    Ok(())
}
