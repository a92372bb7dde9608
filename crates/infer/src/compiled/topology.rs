//! Which atoms see which, in the order and the portions in which they are computed.
//!
//! Atoms are sorted along a space-filling curve and cut into domains of consecutive atoms; inside a domain they are sorted by species. A domain has its own
//! short list of neighbours, so that their features are gathered into memory that fits a cache, and their cotangents are added up privately, to be joined
//! in a fixed order: a row for each atom, of whatever periodic images its edges end at. Domains depend on the structure alone, never on threads.
//!
//! The atoms of one rank of many ([`super::ranks`]) are cut in the same way. Its ghosts come after the atoms that are its own: they are seen, and see nobody.
//! Ghosts that are copies of an atom have places of their own, and its features.

use std::ops::Range;

use rayon::prelude::*;
use tesseral_atoms::Structure;
use tesseral_atoms::neighbors::neighbor_list;

use super::linear::{Group, groups};
use crate::InferError;
use crate::domain::{DomainError, NO_SPECIES};

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
    /// Where each edge ends: one of the ends below.
    pub(super) edge_ends: Vec<u32>,
    /// The row of each end, whose position it is at, and the lattice shift from there.
    pub(super) ends: Vec<End>,
    /// Atom of each row.
    pub(super) row_atoms: Vec<u32>,
}

impl Domain {
    pub(super) fn num_atoms(&self) -> usize {
        self.atoms.len()
    }
}

/// Where edges of a domain end.
#[derive(Debug, Clone, Copy)]
pub(super) struct End {
    pub(super) row: u32,
    pub(super) place: u32,
    pub(super) shift: [i32; 3],
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
    /// Original index of each atom that has edges: of all, or of those that are a rank's own.
    pub(super) order: Vec<u32>,
    /// Species of each atom, in the new order, then of what is seen without edges of its own: other rows of a rank.
    pub(super) species: Vec<u32>,
    pub(super) domains: Vec<Domain>,
    /// Atoms of all domains but the last.
    pub(super) domain_size: usize,
    /// Edges of each atom.
    pub(super) offsets: Vec<usize>,
    /// The edges that point to an atom, those of one atom after those of another. Where every edge has a reverse, they are the reverse edges in their order.
    incoming: Vec<u32>,
    /// Where those of each atom are, ghosts included; without ghosts as many point to an atom as it has.
    incoming_offsets: Option<Vec<usize>>,
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
pub(super) fn curve(cell: &[[f64; 3]; 3], pbc: [bool; 3], positions: &[[f64; 3]]) -> Vec<u32> {
    const BOX: f64 = 3.0;
    let cell = tesseral_atoms::neighbors::complete_cell(cell, pbc).unwrap_or(*cell);
    let cell = tesseral_atoms::Cell { vectors: cell };
    let inverse = cell.inverse();
    let lengths: [f64; 3] = cell.vectors.map(|v| v.iter().map(|x| x * x).sum::<f64>().sqrt());
    let coordinates: Vec<[f64; 3]> = positions
        .iter()
        .map(|r| {
            std::array::from_fn(|d| match &inverse {
                Some(inverse) => {
                    let s: f64 = (0..3).map(|k| r[k] * inverse[k][d]).sum();
                    (if pbc[d] { s - s.floor() } else { s }) * lengths[d] / BOX
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
    keyed.into_iter().map(|(_, i)| i).collect()
}

/// Atoms of all domains but the last. Those of a domain are brought into the order of their species.
fn portion(order: &mut [u32], species: &[u32], largest: usize) -> usize {
    let n = order.len();
    let size = n.div_ceil(DOMAINS).clamp(SMALLEST_DOMAIN.min(largest), DOMAIN_ATOMS.min(largest));
    let domain_size = n.div_ceil(n.div_ceil(size).max(1)).max(1);
    for domain in order.chunks_mut(domain_size) {
        domain.sort_by_key(|&i| species[i as usize]);
    }
    domain_size
}

/// Cuts atoms into domains: `key` tells the neighbour of an edge, its place, and its lattice shift.
fn domains(offsets: &[usize], domain_size: usize, species: &[u32], key: impl Fn(usize) -> (u32, u32, [i32; 3]) + Sync) -> Vec<Domain> {
    let n = offsets.len() - 1;
    let domain = |d: usize| {
        let atoms = d * domain_size..((d + 1) * domain_size).min(n);
        let first_edge = offsets[atoms.start];
        let edges = first_edge..offsets[atoms.end];
        let mut keys: Vec<(u32, u32, [i32; 3])> = edges.clone().map(&key).collect();
        keys.sort_unstable();
        keys.dedup();
        let end = |e: usize| keys.binary_search(&key(e)).expect("every edge is among its keys") as u32;
        let mut row_atoms: Vec<u32> = Vec::new();
        let of_key = |&(atom, place, shift): &(u32, u32, [i32; 3])| {
            if row_atoms.last() != Some(&atom) {
                row_atoms.push(atom);
            }
            End { row: row_atoms.len() as u32 - 1, place, shift }
        };
        Domain {
            groups: groups(&species[atoms.clone()]),
            first_edge,
            offsets: offsets[atoms.start..=atoms.end].iter().map(|&o| (o - first_edge) as u32).collect(),
            edge_ends: edges.map(end).collect(),
            ends: keys.iter().map(of_key).collect(),
            row_atoms,
            atoms,
        }
    };
    (0..n.div_ceil(domain_size)).into_par_iter().map(domain).collect()
}

/// Domains that are computed before their cotangents are joined, with about `wave_rows` rows.
fn waves(domains: &[Domain], wave_rows: usize) -> Vec<Wave> {
    let mut waves = Vec::new();
    let mut start = 0;
    while start < domains.len() {
        let (mut end, mut rows) = (start, 0);
        while end < domains.len() && (end == start || rows + domains[end].row_atoms.len() <= wave_rows) {
            rows += domains[end].row_atoms.len();
            end += 1;
        }
        waves.push(wave(domains, start..end));
        start = end;
    }
    waves
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
            incoming: Vec::new(),
            incoming_offsets: None,
            waves: Vec::new(),
        }
    }

    /// Lists the pairs within `cutoff` (Å). `largest` bounds the atoms of a domain, `wave_rows` the rows
    /// of cotangents kept at a time.
    pub(super) fn new(structure: &Structure, species: &[u32], cutoff: f64, largest: usize, wave_rows: usize) -> Result<Self, InferError> {
        let mut order = curve(&structure.cell.vectors, structure.pbc, &structure.positions);
        let domain_size = portion(&mut order, species, largest);
        let positions: Vec<[f64; 3]> = order.iter().map(|&i| structure.positions[i as usize]).collect();
        let list = neighbor_list(&structure.cell.vectors, structure.pbc, &positions, cutoff).map_err(|e| original(e, &order))?;
        let species: Vec<u32> = order.iter().map(|&i| species[i as usize]).collect();
        let domains = domains(&list.offsets, domain_size, &species, |e| (list.neighbors[e], list.neighbors[e], list.shifts[e]));
        let waves = waves(&domains, wave_rows);
        let (offsets, incoming) = (list.offsets, list.reverse);
        Ok(Self { order, species, domains, domain_size, offsets, incoming, incoming_offsets: None, waves })
    }

    /// Of atoms with given neighbours: the first `owned` of `positions` (Å) are a rank's own, the others ghosts, which have a place of their own and no
    /// lattice shift. Of each ghost `images` tells the first atom that it is a copy of, or itself. Neighbours are counted as positions are. Own
    /// atoms that the model has nothing to do with ([`NO_SPECIES`]) come after those that it computes, then ghosts, and copies last. Returns which of `positions`
    /// each place is, too.
    pub(super) fn of_rank(
        owned: usize,
        positions: &[[f64; 3]],
        (species, images): (&[u32], &[u32]),
        (offsets, neighbors): (&[usize], &[u32]),
        largest: usize,
        wave_rows: usize,
    ) -> Result<(Self, Vec<u32>), DomainError> {
        if neighbors.len() > tesseral_atoms::neighbors::MAX_EDGES {
            return Err(DomainError::TooMany { neighbors: neighbors.len() });
        }
        let (ours, others): (Vec<u32>, Vec<u32>) = (0..owned as u32).partition(|&i| species[i as usize] != NO_SPECIES);
        let at: Vec<[f64; 3]> = ours.iter().map(|&i| positions[i as usize]).collect();
        let mut order: Vec<u32> = curve(&[[0.0; 3]; 3], [false; 3], &at).into_iter().map(|k| ours[k as usize]).collect();
        let domain_size = portion(&mut order, species, largest);
        let (ghosts, copies): (Vec<u32>, Vec<u32>) = (owned as u32..positions.len() as u32).partition(|&g| images[g as usize - owned] == g);
        let places: Vec<u32> = [&order, &others, &ghosts, &copies].into_iter().flatten().copied().collect();
        let rows = places.len() - copies.len();
        let mut place_of = vec![0; places.len()];
        places.iter().enumerate().for_each(|(k, &i)| place_of[i as usize] = k as u32);
        let mut row_of: Vec<u32> = (0..rows as u32).collect();
        row_of.extend(copies.iter().map(|&g| place_of[images[g as usize - owned] as usize]));
        let (mut firsts, mut list) = (vec![0], Vec::with_capacity(neighbors.len()));
        for &i in &order {
            let first = list.len();
            list.extend(neighbors[offsets[i as usize]..offsets[i as usize + 1]].iter().map(|&j| place_of[j as usize]));
            // Whatever order neighbours are told in.
            list[first..].sort_unstable_by_key(|&place| (row_of[place as usize], place));
            firsts.push(list.len());
        }
        let species: Vec<u32> = places[..rows].iter().map(|&i| species[i as usize]).collect();
        let domains = domains(&firsts, domain_size, &species, |e| (row_of[list[e] as usize], list[e], [0; 3]));
        let waves = waves(&domains, wave_rows);
        let mut incoming_offsets = vec![0; rows + 1];
        list.iter().for_each(|&place| incoming_offsets[row_of[place as usize] as usize + 1] += 1);
        (0..rows).for_each(|j| incoming_offsets[j + 1] += incoming_offsets[j]);
        let mut next = incoming_offsets.clone();
        let mut incoming = vec![0; list.len()];
        for (e, &place) in list.iter().enumerate() {
            let next = &mut next[row_of[place as usize] as usize];
            incoming[*next] = e as u32;
            *next += 1;
        }
        let topology =
            Self { order, species, domains, domain_size, offsets: firsts, incoming, incoming_offsets: Some(incoming_offsets), waves };
        Ok((topology, places))
    }

    /// Atoms that have edges.
    pub(super) fn num_atoms(&self) -> usize {
        self.order.len()
    }

    /// Atoms that are seen, ghosts included, those that are copies not: rows of what is sent.
    pub(super) fn num_rows(&self) -> usize {
        self.species.len()
    }

    pub(super) fn num_edges(&self) -> usize {
        self.incoming.len()
    }

    /// The edges that point to an atom or a ghost, or to copies of it.
    pub(super) fn incoming(&self, atom: usize) -> &[u32] {
        let offsets = self.incoming_offsets.as_ref().unwrap_or(&self.offsets);
        &self.incoming[offsets[atom]..offsets[atom + 1]]
    }

    /// The atom that an edge belongs to.
    pub(super) fn center(&self, edge: u32) -> usize {
        self.offsets.partition_point(|&first| first <= edge as usize) - 1
    }

    /// The place where an edge of an atom ends.
    pub(super) fn place(&self, center: usize, edge: usize) -> usize {
        let domain = &self.domains[center / self.domain_size];
        domain.ends[domain.edge_ends[edge - domain.first_edge] as usize].place as usize
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> usize {
        let of_domain = |d: &Domain| {
            4 * (d.offsets.len() + d.edge_ends.len() + d.row_atoms.len()) + size_of::<End>() * d.ends.len() + 32 * d.groups.len()
        };
        let of_wave = |w: &Wave| w.chunks.iter().map(|c| c.1.len() * size_of::<Entry>()).sum::<usize>();
        8 * self.order.len()
            + 8 * self.offsets.len()
            + 4 * self.incoming.len()
            + 8 * self.incoming_offsets.as_ref().map_or(0, Vec::len)
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
