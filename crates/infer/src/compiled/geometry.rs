//! The edges of a domain at the current positions.

use tesseral_ops::radial::table::Table;
use tesseral_ops::slab::HasSlabs;
use tesseral_ops::spherical_harmonics::cpu::Harmonics;

use super::topology::{Domain, Topology};

/// Edges within the cutoff; the list may hold more, up to its skin.
pub(super) struct Geometry<T> {
    pub(super) offsets: Vec<u32>,
    /// Row of the neighbour.
    pub(super) rows: Vec<u32>,
    /// Which of the domain's listed edges.
    pub(super) listed: Vec<u32>,
    /// Pair of species: centre · species + neighbour, counted among those that are present.
    pub(super) pairs: Vec<u16>,
    /// Å
    pub(super) distances: Vec<f64>,
    /// `[E, 3]`, Å
    pub(super) vectors: Vec<T>,
    /// `[E, (lmax+1)²]`
    pub(super) harmonics: Vec<T>,
    functions: Harmonics<T>,
    dim_edge: usize,
    /// Of which step and domain (by its first atom) these are.
    of: Option<(u64, usize)>,
    /// The smallest squared distance since it was last reset, Å².
    pub(super) closest: f64,
    /// Position and shift of each end of the domain's edges, Å.
    ends: Vec<([f64; 3], [f64; 3])>,
}

/// The structure as the engine holds it.
#[derive(Clone, Copy)]
pub(super) struct Positions<'a> {
    /// Another number whenever anything below is different.
    pub(super) step: u64,
    pub(super) cell: &'a [[f64; 3]; 3],
    pub(super) positions: &'a [[f64; 3]],
    /// Species of each atom, counted among those that are present.
    pub(super) species: &'a [u16],
    /// Square of the cutoff of each pair of species, Å².
    pub(super) squared_cutoffs: &'a [f64],
    pub(super) num_species: usize,
}

/// The lattice vector of a shift, Å.
fn translation(cell: &[[f64; 3]; 3], shift: [i32; 3]) -> [f64; 3] {
    let [a, b, c] = shift.map(f64::from);
    std::array::from_fn(|x| a * cell[0][x] + b * cell[1][x] + c * cell[2][x])
}

impl<T: HasSlabs> Geometry<T> {
    pub(super) fn new(lmax: usize, normalize: bool) -> Self {
        Self {
            offsets: Vec::new(),
            rows: Vec::new(),
            listed: Vec::new(),
            pairs: Vec::new(),
            distances: Vec::new(),
            vectors: Vec::new(),
            harmonics: Vec::new(),
            functions: Harmonics::new(lmax, normalize),
            dim_edge: (lmax + 1) * (lmax + 1),
            of: None,
            closest: f64::INFINITY,
            ends: Vec::new(),
        }
    }

    pub(super) fn num_edges(&self) -> usize {
        self.rows.len()
    }

    fn place_ends(&mut self, domain: &Domain, at: Positions<'_>) {
        self.ends.clear();
        self.ends.extend(domain.ends.iter().map(|end| (at.positions[end.place as usize], translation(at.cell, end.shift))));
    }

    /// Finds the edges of a domain, if they are not those that are here: all passes of a structure of one domain need them once.
    pub(super) fn update(&mut self, domain: &Domain, at: Positions<'_>) {
        let of = Some((at.step, domain.atoms.start));
        if self.of == of {
            return;
        }
        self.of = of;
        self.place_ends(domain, at);
        self.offsets.clear();
        self.offsets.push(0);
        self.rows.clear();
        self.listed.clear();
        self.pairs.clear();
        self.distances.clear();
        self.vectors.clear();
        for (i, atom) in domain.atoms.clone().enumerate() {
            let center = at.positions[atom];
            let of_center = at.species[atom] as usize * at.num_species;
            for e in domain.offsets[i]..domain.offsets[i + 1] {
                let end = domain.edge_ends[e as usize] as usize;
                let row = domain.ends[end].row;
                let (neighbor, shift) = self.ends[end];
                // As the neighbour list computes it: reversing the edge reverses the vector exactly.
                let v: [f64; 3] = std::array::from_fn(|x| (neighbor[x] - center[x]) + shift[x]);
                let squared = v[0] * v[0] + v[1] * v[1] + v[2] * v[2];
                let pair = of_center + at.species[domain.row_atoms[row as usize] as usize] as usize;
                self.closest = self.closest.min(squared);
                if squared < at.squared_cutoffs[pair] {
                    self.rows.push(row);
                    self.listed.push(e);
                    self.pairs.push(pair as u16);
                    self.distances.push(squared.sqrt());
                    self.vectors.extend(v.map(T::of));
                }
            }
            self.offsets.push(self.rows.len() as u32);
        }
        self.harmonics.resize(self.rows.len() * self.dim_edge, T::zero());
        self.functions.evaluate(&self.vectors, &mut self.harmonics);
    }

    /// Adds to `gradient` (`[E, 3]` of all listed edges of the domain) what cotangents of harmonics and distances give: `dy` `[E, dim_edge]`, `dr` `[E]`.
    pub(super) fn gradient(&mut self, dy: &[T], dr: &[T], scratch: &mut Vec<T>, gradient: &mut [T]) {
        scratch.resize(self.vectors.len(), T::zero());
        self.functions.adjoint(&self.vectors, dy, scratch);
        for (e, &listed) in self.listed.iter().enumerate() {
            let along = dr[e] * T::of(1.0 / self.distances[e]);
            let to = &mut gradient[listed as usize * 3..][..3];
            for x in 0..3 {
                to[x] += scratch[e * 3 + x] + along * self.vectors[e * 3 + x];
            }
        }
    }

    /// Forces on the atoms of a domain (eV/Å) and the sum of v ⊗ dE/dv over its edges (eV), from the derivatives by all edge vectors.
    pub(super) fn forces(
        &mut self,
        domain: &Domain,
        at: Positions<'_>,
        gradient: &[T],
        topology: &Topology,
        forces: &mut [[f64; 3]],
    ) -> [[f64; 3]; 3] {
        self.place_ends(domain, at);
        let mut strain = [[0.0; 3]; 3];
        for (i, atom) in domain.atoms.clone().enumerate() {
            let center = at.positions[atom];
            let mut force = [0.0; 3];
            let mut incoming = topology.incoming(atom).iter();
            for local in domain.offsets[i] as usize..domain.offsets[i + 1] as usize {
                let here = of_edge(gradient, domain.first_edge + local);
                let back = incoming.next().map_or([0.0; 3], |&e| of_edge(gradient, e as usize));
                let (neighbor, shift) = self.ends[domain.edge_ends[local] as usize];
                for a in 0..3 {
                    force[a] += here[a] - back[a];
                    let v = (neighbor[a] - center[a]) + shift[a];
                    for b in 0..3 {
                        strain[a][b] += v * here[b];
                    }
                }
            }
            for &e in incoming {
                let back = of_edge(gradient, e as usize);
                (0..3).for_each(|a| force[a] -= back[a]);
            }
            forces[i] = force;
        }
        strain
    }
}

/// The derivative by one edge vector, eV/Å.
pub(super) fn of_edge<T: HasSlabs>(gradient: &[T], edge: usize) -> [f64; 3] {
    std::array::from_fn(|x| candle_core::WithDType::to_f64(gradient[3 * edge + x]))
}

/// Where each edge is in its table.
pub(super) fn locate<T: HasSlabs>(
    distances: &[f64],
    pairs: &[u16],
    tables: &[&Table<T>],
    table_of: &[u16],
    index: &mut Vec<u16>,
    cells: &mut Vec<u32>,
    t: &mut Vec<T>,
) {
    index.clear();
    cells.clear();
    t.clear();
    for (&r, &pair) in distances.iter().zip(pairs) {
        let table = table_of[pair as usize];
        let (cell, place) = tables[table as usize].locate(r);
        index.push(table);
        cells.push(cell);
        t.push(place);
    }
}
