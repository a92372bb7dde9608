//! Which atoms see which, in the order and the portions in which they are computed.
//!
//! Atoms are sorted along a space-filling curve and cut into domains of consecutive atoms; inside a domain they are sorted by species. A domain has its own
//! short list of neighbours (its rows: an atom and a lattice shift), so that features of neighbours are gathered into memory that fits a cache, and
//! cotangents of neighbours are added up privately, to be joined in a fixed order. Domains depend on the structure alone, never on threads.

use std::ops::Range;

use rayon::prelude::*;
use tesseral_atoms::Structure;
use tesseral_atoms::neighbors::neighbor_list;

use super::linear::{Group, groups};
use crate::InferError;

/// Atoms of a domain where there are many.
const DOMAIN_ATOMS: usize = 80;
/// Into how many domains at least a structure is cut, as far as it has atoms for them.
const DOMAINS: usize = 8;
/// Atoms of a domain at least.
const SMALLEST_DOMAIN: usize = 4;
/// Rows of cotangents that are kept at the same time, about.
pub(super) const WAVE_ROWS: usize = 60_000;
/// The same where memory is short.
pub(super) const SHORT_WAVE_ROWS: usize = 8_000;
/// Atoms whose cotangents are joined by one task.
pub(super) const JOIN: usize = 64;

/// Consecutive atoms with their edges.
#[derive(Debug)]
pub(super) struct Domain {
    pub(super) atoms: Range<usize>,
    pub(super) groups: Vec<Group>,
    /// First edge in the list of all.
    pub(super) first_edge: usize,
    /// Edges of each atom within the domain.
    pub(super) offsets: Vec<u32>,
    /// Row of each edge's neighbour.
    pub(super) rows: Vec<u32>,
    /// Atom of each row, and its lattice shift.
    pub(super) row_atoms: Vec<u32>,
    pub(super) row_shifts: Vec<[i32; 3]>,
}

impl Domain {
    pub(super) fn num_atoms(&self) -> usize {
        self.atoms.len()
    }
}

/// A row of cotangents that belongs to an atom.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    /// Atom within its chunk of [`JOIN`].
    pub(super) atom: u32,
    /// Domain within its wave.
    pub(super) slot: u32,
    pub(super) row: u32,
}

/// Domains that are computed before their cotangents are joined.
#[derive(Debug)]
pub(super) struct Wave {
    pub(super) domains: Range<usize>,
    /// Chunks of [`JOIN`] atoms that get something, ascending, with the rows by atom, then domain.
    pub(super) chunks: Vec<(usize, Vec<Entry>)>,
}

/// The neighbourhoods of a structure.
#[derive(Debug)]
pub(super) struct Topology {
    /// Original index of each atom.
    pub(super) order: Vec<u32>,
    /// Species of each atom, in the new order.
    pub(super) species: Vec<u32>,
    pub(super) domains: Vec<Domain>,
    /// Atoms of all domains but the last.
    pub(super) domain_size: usize,
    /// Edges of each atom.
    pub(super) offsets: Vec<usize>,
    /// Reverse of each edge.
    pub(super) reverse: Vec<u32>,
    pub(super) waves: Vec<Wave>,
}

/// Interleaves the bits of three numbers of 21 bits.
fn morton(x: [u64; 3]) -> u64 {
    let spread = |mut v: u64| {
        v &= 0x1f_ffff;
        v = (v | v << 32) & 0x1f_0000_0000_ffff;
        v = (v | v << 16) & 0x1f_0000_ff00_00ff;
        v = (v | v << 8) & 0x100f_00f0_0f00_f00f;
        v = (v | v << 4) & 0x10c3_0c30_c30c_30c3;
        (v | v << 2) & 0x1249_2492_4924_9249
    };
    spread(x[0]) | spread(x[1]) << 1 | spread(x[2]) << 2
}

/// Atoms along a space-filling curve through boxes of about 3 Å.
pub(super) fn curve(structure: &Structure) -> Result<Vec<u32>, InferError> {
    const BOX: f64 = 3.0;
    let cell = tesseral_atoms::neighbors::complete_cell(&structure.cell.vectors, structure.pbc).unwrap_or(structure.cell.vectors);
    let cell = tesseral_atoms::Cell { vectors: cell };
    let inverse = cell.inverse();
    let lengths: [f64; 3] = cell.vectors.map(|v| v.iter().map(|x| x * x).sum::<f64>().sqrt());
    let coordinates: Vec<[f64; 3]> = structure
        .positions
        .iter()
        .map(|r| {
            std::array::from_fn(|d| match &inverse {
                Some(inverse) => {
                    let s: f64 = (0..3).map(|k| r[k] * inverse[k][d]).sum();
                    (if structure.pbc[d] { s - s.floor() } else { s }) * lengths[d] / BOX
                }
                None => r[d] / BOX,
            })
        })
        .collect();
    let lowest: [f64; 3] = std::array::from_fn(|d| coordinates.iter().map(|c| c[d]).fold(f64::INFINITY, f64::min));
    let mut keyed: Vec<(u64, u32)> = coordinates
        .iter()
        .enumerate()
        .map(|(i, c)| (morton(std::array::from_fn(|d| (c[d] - lowest[d]).clamp(0.0, 2e6) as u64)), i as u32))
        .collect();
    keyed.sort_unstable();
    Ok(keyed.into_iter().map(|(_, i)| i).collect())
}

impl Topology {
    /// Of nothing.
    pub(super) fn empty() -> Self {
        Self {
            order: Vec::new(),
            species: Vec::new(),
            domains: Vec::new(),
            domain_size: 1,
            offsets: vec![0],
            reverse: Vec::new(),
            waves: Vec::new(),
        }
    }

    /// Lists the pairs within `cutoff` (Å). `largest` bounds the atoms of a domain, `wave_rows` the rows
    /// of cotangents kept at a time.
    pub(super) fn new(structure: &Structure, species: &[u32], cutoff: f64, largest: usize, wave_rows: usize) -> Result<Self, InferError> {
        let n = structure.len();
        let mut order = curve(structure)?;
        let size = n.div_ceil(DOMAINS).clamp(SMALLEST_DOMAIN.min(largest), DOMAIN_ATOMS.min(largest));
        let domain_size = n.div_ceil(n.div_ceil(size));
        for domain in order.chunks_mut(domain_size) {
            domain.sort_by_key(|&i| species[i as usize]);
        }
        let positions: Vec<[f64; 3]> = order.iter().map(|&i| structure.positions[i as usize]).collect();
        let list = neighbor_list(&structure.cell.vectors, structure.pbc, &positions, cutoff).map_err(|e| original(e, &order))?;
        let species: Vec<u32> = order.iter().map(|&i| species[i as usize]).collect();
        let domains: Vec<Domain> = (0..n.div_ceil(domain_size))
            .into_par_iter()
            .map(|d| {
                let atoms = d * domain_size..((d + 1) * domain_size).min(n);
                let first_edge = list.offsets[atoms.start];
                let edges = first_edge..list.offsets[atoms.end];
                let mut keys: Vec<(u32, [i32; 3])> = edges.clone().map(|e| (list.neighbors[e], list.shifts[e])).collect();
                keys.sort_unstable();
                keys.dedup();
                let row = |e: usize| keys.binary_search(&(list.neighbors[e], list.shifts[e])).expect("every edge is among its keys") as u32;
                Domain {
                    groups: groups(&species[atoms.clone()]),
                    first_edge,
                    offsets: list.offsets[atoms.start..=atoms.end].iter().map(|&o| (o - first_edge) as u32).collect(),
                    rows: edges.map(row).collect(),
                    row_atoms: keys.iter().map(|k| k.0).collect(),
                    row_shifts: keys.iter().map(|k| k.1).collect(),
                    atoms,
                }
            })
            .collect();
        let mut waves = Vec::new();
        let mut start = 0;
        while start < domains.len() {
            let (mut end, mut rows) = (start, 0);
            while end < domains.len() && (end == start || rows + domains[end].row_atoms.len() <= wave_rows) {
                rows += domains[end].row_atoms.len();
                end += 1;
            }
            waves.push(wave(&domains, start..end));
            start = end;
        }
        Ok(Self { order, species, domains, domain_size, offsets: list.offsets, reverse: list.reverse, waves })
    }

    pub(super) fn num_atoms(&self) -> usize {
        self.order.len()
    }

    pub(super) fn num_edges(&self) -> usize {
        self.reverse.len()
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> usize {
        let of_domain = |d: &Domain| 4 * (d.offsets.len() + d.rows.len()) + 16 * d.row_atoms.len() + 32 * d.groups.len();
        let of_wave = |w: &Wave| w.chunks.iter().map(|c| c.1.len() * size_of::<Entry>()).sum::<usize>();
        8 * self.order.len()
            + 8 * self.offsets.len()
            + 4 * self.reverse.len()
            + self.domains.iter().map(of_domain).sum::<usize>()
            + self.waves.iter().map(of_wave).sum::<usize>()
    }
}

fn wave(domains: &[Domain], range: Range<usize>) -> Wave {
    let mut entries: Vec<(u32, u32, u32)> = Vec::new();
    for (slot, domain) in domains[range.clone()].iter().enumerate() {
        entries.extend(domain.row_atoms.iter().enumerate().map(|(row, &atom)| (atom, slot as u32, row as u32)));
    }
    entries.par_sort_unstable();
    let chunks = entries
        .chunk_by(|a, b| a.0 as usize / JOIN == b.0 as usize / JOIN)
        .map(|chunk| {
            let first = chunk[0].0 as usize / JOIN;
            (first, chunk.iter().map(|&(atom, slot, row)| Entry { atom: atom % JOIN as u32, slot, row }).collect())
        })
        .collect();
    Wave { domains: range, chunks }
}

/// Names atoms as the user counts them.
pub(super) fn original(error: tesseral_atoms::neighbors::NeighborError, order: &[u32]) -> InferError {
    use tesseral_atoms::neighbors::NeighborError as E;
    let of = |atom: usize| order.get(atom).map_or(atom, |&i| i as usize);
    let error = match error {
        E::NonFinitePosition { atom, position } => E::NonFinitePosition { atom: of(atom), position },
        E::CoincidentAtoms { i, j, shift, distance } if of(i) <= of(j) => E::CoincidentAtoms { i: of(i), j: of(j), shift, distance },
        E::CoincidentAtoms { i, j, shift, distance } => E::CoincidentAtoms { i: of(j), j: of(i), shift: shift.map(|s| -s), distance },
        E::ShiftOverflow { atom } => E::ShiftOverflow { atom: of(atom) },
        other => other,
    };
    InferError::Potential(error.into())
}
