//! Several structures as one graph.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use tesseral_atoms::{Structure, elements, neighbors::neighbor_list};
use tesseral_ops::graph::{Graph, Segments};
use tesseral_ops::linear::Groups;

use crate::error::{PotentialError, Result};

/// Structures joined into one graph: what a model evaluates.
#[derive(Debug, Clone)]
pub struct Batch {
    /// Edges, centre ← neighbour.
    pub graph: Graph,
    /// Edge vectors r_neighbour − r_centre + S·cell, Å, f64.
    pub vectors: Vec<[f64; 3]>,
    /// Atoms of each structure.
    pub structures: Arc<Segments>,
    /// Species index of each atom: position of its element in the model's list.
    pub species: Arc<Vec<u32>>,
    /// Atoms by species.
    pub groups: Arc<Groups>,
    /// The species that occur, ascending.
    pub present: Arc<Vec<u32>>,
    /// Atoms by position of their species in `present`.
    pub present_groups: Arc<Groups>,
    /// All atoms in one group.
    pub one_group: Arc<Groups>,
    /// Atomic numbers of the species.
    pub elements: Arc<Vec<u8>>,
    /// Head (MACE) or modality (SevenNet) of each structure.
    pub heads: Vec<u32>,
    /// Volume of each structure (Å³) that is periodic in all three directions.
    pub volumes: Vec<Option<f64>>,
    /// Values of the fields that the model embeds (charge, spin, …): for each field, one per structure or atom as the model asks.
    pub fields: Vec<Vec<f64>>,
}

/// One structure with its neighbours listed, ready to be joined into a batch.
#[derive(Debug, Clone)]
pub struct PreparedStructure {
    species: Vec<u32>,
    offsets: Vec<usize>,
    neighbors: Vec<u32>,
    reverse: Vec<u32>,
    vectors: Vec<[f64; 3]>,
    volume: Option<f64>,
}

impl PreparedStructure {
    /// Maps elements to species and lists neighbours within `cutoff` (Å).
    ///
    /// # Errors
    /// An element that the model does not know (with the atom's index); positions that are not finite; a periodic cell without volume; two atoms on
    /// one spot.
    pub fn new(structure: &Structure, elements: &[u8], cutoff: f64) -> Result<Self> {
        let species = species_of(structure, elements)?;
        let list = neighbor_list(&structure.cell.vectors, structure.pbc, &structure.positions, cutoff)?;
        let volume = (structure.pbc == [true; 3]).then(|| structure.cell.volume());
        Ok(Self { species, offsets: list.offsets, neighbors: list.neighbors, reverse: list.reverse, vectors: list.vectors, volume })
    }

    /// Atoms of these species that do not see one another.
    pub(crate) fn without_edges(species: Vec<u32>) -> Self {
        let offsets = vec![0; species.len() + 1];
        Self { species, offsets, neighbors: Vec::new(), reverse: Vec::new(), vectors: Vec::new(), volume: None }
    }

    /// How many atoms.
    pub fn num_atoms(&self) -> usize {
        self.species.len()
    }

    /// How many directed edges.
    pub fn num_edges(&self) -> usize {
        self.neighbors.len()
    }
}

/// The species index of each atom: the position of its element in the model's list.
///
/// # Errors
/// [`PotentialError::UnknownElement`], naming the first atom whose element is not in it.
pub fn species_of(structure: &Structure, elements: &[u8]) -> Result<Vec<u32>> {
    let of_atom = |(atom, z): (usize, &u8)| match elements.iter().position(|e| e == z) {
        Some(s) => Ok(s as u32),
        None => Err(PotentialError::UnknownElement {
            symbol: elements::symbol(*z).map_or_else(|| format!("Z={z}"), str::to_owned),
            atom,
            known: element_list(elements),
        }),
    };
    structure.numbers.iter().enumerate().map(of_atom).collect()
}

/// "H, He, …": the symbols of a list of elements, shortened when long.
fn element_list(elements: &[u8]) -> String {
    let symbols: Vec<&str> = elements.iter().filter_map(|&z| elements::symbol(z)).collect();
    match symbols.as_slice() {
        [first, .., last] if symbols.len() > 24 => format!("{} elements from {first} to {last}", symbols.len()),
        all => all.join(", "),
    }
}

impl Batch {
    /// Joins prepared structures; `heads` and `fields` as in the struct.
    ///
    /// # Errors
    /// Only if the parts are inconsistent.
    pub fn new(parts: &[&PreparedStructure], elements: &[u8], heads: Vec<u32>, fields: Vec<Vec<f64>>) -> Result<Self> {
        let (mut offsets, mut atoms) = (vec![0usize], vec![0usize]);
        let (mut neighbors, mut reverse, mut vectors, mut species) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for part in parts {
            let (first_atom, first_edge) = (species.len() as u32, neighbors.len());
            offsets.extend(part.offsets[1..].iter().map(|o| o + first_edge));
            neighbors.extend(part.neighbors.iter().map(|n| n + first_atom));
            reverse.extend(part.reverse.iter().map(|r| r + first_edge as u32));
            vectors.extend_from_slice(&part.vectors);
            species.extend_from_slice(&part.species);
            atoms.push(species.len());
        }
        let mut present = species.clone();
        present.sort_unstable();
        present.dedup();
        let rank: Vec<u32> = species.iter().map(|s| present.binary_search(s).unwrap_or_default() as u32).collect();
        let group = |of: &[u32], count| {
            Groups::new(of, count)
                .map(Arc::new)
                .ok_or_else(|| crate::error::config_error("batch", "a species index is beyond the list of elements"))
        };
        let (groups, present_groups) = (group(&species, elements.len())?, group(&rank, present.len())?);
        let one_group = group(&vec![0; species.len()], 1)?;
        Ok(Self {
            graph: Graph::new(offsets, neighbors, reverse)?,
            vectors,
            structures: Arc::new(Segments::new(atoms)?),
            species: Arc::new(species),
            groups,
            present: Arc::new(present),
            present_groups,
            one_group,
            elements: Arc::new(elements.to_vec()),
            heads,
            volumes: parts.iter().map(|p| p.volume).collect(),
            fields,
        })
    }

    /// How many atoms in all.
    pub fn num_atoms(&self) -> usize {
        self.species.len()
    }

    /// Edge vectors `[E, 3]` as a tensor.
    ///
    /// # Errors
    /// Only if candle fails.
    pub fn vectors_tensor(&self, dtype: DType, device: &Device) -> Result<Tensor> {
        let flat: Vec<f64> = self.vectors.as_flattened().to_vec();
        Ok(Tensor::from_vec(flat, (self.vectors.len(), 3), device)?.to_dtype(dtype)?)
    }

    /// Species `[N]` as a tensor of indices.
    ///
    /// # Errors
    /// Only if candle fails.
    pub fn species_tensor(&self, device: &Device) -> Result<Tensor> {
        Ok(Tensor::from_slice(&self.species, self.species.len(), device)?)
    }

    /// The head of each atom.
    pub fn atom_heads(&self) -> Vec<u32> {
        let mut heads = Vec::with_capacity(self.num_atoms());
        for (s, &head) in self.heads.iter().enumerate() {
            heads.extend(std::iter::repeat_n(head, self.structures.range(s).len()));
        }
        heads
    }
}
