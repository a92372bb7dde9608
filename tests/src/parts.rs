//! A structure cut into parts as ranks have them, and an exchange between threads: what several processes do, in one.

use std::collections::HashMap;
use std::sync::{Barrier, Mutex};

use tesseral_atoms::Structure;
use tesseral_atoms::neighbors::neighbor_list;
use tesseral_infer::domain::{ExchangeError, ExchangeRows, NeighborRows, Numbers};
use tesseral_infer::{DomainAtoms, DomainCalculator, DomainEvaluation, Evaluation, Exchange, InferError};

/// The atoms of one rank.
#[derive(Debug, Default)]
pub struct Part {
    /// How many are its own.
    pub owned: usize,
    /// Which atom of the structure each own atom and ghost is.
    pub atoms: Vec<usize>,
    /// Lattice shift of each.
    pub shifts: Vec<[i32; 3]>,
    /// Of each ghost the first atom here that it is a copy of, or itself; `None` where ranks are not told.
    pub images: Option<Vec<u32>>,
    /// Where the neighbours of each own atom begin.
    pub offsets: Vec<usize>,
    /// Neighbours, as counted here.
    pub neighbors: Vec<u32>,
}

impl Part {
    /// Positions of its atoms, Å.
    pub fn positions(&self, structure: &Structure) -> Vec<[f64; 3]> {
        let cell = &structure.cell.vectors;
        let at = |(&atom, shift): (&usize, &[i32; 3])| {
            let r = structure.positions[atom];
            std::array::from_fn(|x| r[x] + (0..3).map(|k| f64::from(shift[k]) * cell[k][x]).sum::<f64>())
        };
        self.atoms.iter().zip(&self.shifts).map(at).collect()
    }

    /// Tells what ghosts are copies of.
    pub fn tell(&mut self) {
        let first = |ghost: usize| self.atoms.iter().position(|&atom| atom == self.atoms[ghost]).unwrap_or(ghost) as u32;
        self.images = Some((self.owned..self.atoms.len()).map(first).collect());
    }

    /// Whether a row is exchanged: it is no copy, and some own atom sees it or a copy of it.
    fn is_exchanged(&self, row: usize) -> bool {
        let Some(images) = &self.images else { return true };
        let image = |row: usize| row.checked_sub(self.owned).map_or(row as u32, |ghost| images[ghost]);
        image(row) as usize == row && self.neighbors.iter().any(|&j| image(j as usize) as usize == row)
    }
}

/// Cuts a structure into bricks, along lattice vectors where it is periodic: atoms go where they are, neighbours up to `reach` (Å) that are
/// elsewhere, or across a periodic boundary, become ghosts. Each part has a ghost too that nobody sees.
///
/// # Panics
/// If neighbours cannot be listed.
pub fn cut(structure: &Structure, bricks: [usize; 3], reach: f64) -> Vec<Part> {
    let list = neighbor_list(&structure.cell.vectors, structure.pbc, &structure.positions, reach).expect("neighbours");
    let inverse =
        tesseral_atoms::Cell { vectors: tesseral_atoms::neighbors::complete_cell(&structure.cell.vectors, structure.pbc).expect("a cell") }
            .inverse()
            .expect("a volume");
    let fractional: Vec<[f64; 3]> =
        structure.positions.iter().map(|r| std::array::from_fn(|d| (0..3).map(|k| r[k] * inverse[k][d]).sum::<f64>())).collect();
    let place = |i: usize| -> usize {
        let along = |d: usize| {
            let s = if structure.pbc[d] {
                fractional[i][d].rem_euclid(1.0)
            } else {
                let low = fractional.iter().map(|s| s[d]).fold(f64::INFINITY, f64::min);
                let high = fractional.iter().map(|s| s[d]).fold(f64::NEG_INFINITY, f64::max);
                (fractional[i][d] - low) / (high - low).max(1e-9)
            };
            ((s * bricks[d] as f64) as usize).min(bricks[d] - 1)
        };
        (along(0) * bricks[1] + along(1)) * bricks[2] + along(2)
    };
    let places: Vec<usize> = (0..structure.len()).map(place).collect();
    (0..bricks.iter().product())
        .map(|brick| {
            let mut part = Part { atoms: (0..structure.len()).filter(|&i| places[i] == brick).collect(), ..Part::default() };
            part.owned = part.atoms.len();
            part.shifts = vec![[0; 3]; part.owned];
            if !structure.is_empty() {
                part.atoms.push(0);
                part.shifts.push([7, 7, 7]);
            }
            let mut index: HashMap<(usize, [i32; 3]), u32> =
                part.atoms.iter().zip(&part.shifts).enumerate().map(|(k, (&atom, &shift))| ((atom, shift), k as u32)).collect();
            part.offsets.push(0);
            for own in 0..part.owned {
                let i = part.atoms[own];
                for e in list.offsets[i]..list.offsets[i + 1] {
                    let key = (list.neighbors[e] as usize, list.shifts[e]);
                    let next = part.atoms.len() as u32;
                    let k = *index.entry(key).or_insert(next);
                    if k == next {
                        part.atoms.push(key.0);
                        part.shifts.push(key.1);
                    }
                    part.neighbors.push(k);
                }
                part.offsets.push(part.neighbors.len());
            }
            part
        })
        .collect()
}

/// Where the threads meet.
pub struct Hub<'a> {
    parts: &'a [Part],
    barrier: Barrier,
    /// Rows of all atoms of the structure.
    rows: Mutex<Vec<f64>>,
    /// What each part's ghosts have collected.
    back: Vec<Mutex<Vec<f64>>>,
}

impl<'a> Hub<'a> {
    /// Of these parts.
    pub fn new(parts: &'a [Part]) -> Self {
        Self {
            parts,
            barrier: Barrier::new(parts.len()),
            rows: Mutex::new(Vec::new()),
            back: parts.iter().map(|_| Mutex::default()).collect(),
        }
    }

    /// What connects one of them.
    pub fn link(&'a self, part: usize) -> Link<'a> {
        Link { hub: self, part, exchanges: Vec::new() }
    }
}

/// One part's connection to the others.
pub struct Link<'a> {
    hub: &'a Hub<'a>,
    part: usize,
    /// Width of each exchange so far, negative for reverse ones.
    pub exchanges: Vec<i64>,
}

/// Numbers of either precision, for tests.
trait Number: Copy {
    fn get(self) -> f64;
    fn of(x: f64) -> Self;
}

impl Number for f32 {
    fn get(self) -> f64 {
        f64::from(self)
    }
    fn of(x: f64) -> Self {
        x as f32
    }
}

impl Number for f64 {
    fn get(self) -> f64 {
        self
    }
    fn of(x: f64) -> Self {
        x
    }
}

impl Link<'_> {
    fn send<T: Number>(&mut self, numbers: &mut [T], width: usize) {
        let part = &self.hub.parts[self.part];
        assert_eq!(numbers.len(), part.atoms.len() * width);
        self.exchanges.push(width as i64);
        {
            let mut rows = self.hub.rows.lock().expect("no thread panics here");
            let atoms = self.hub.parts.iter().flat_map(|p| &p.atoms).max().map_or(0, |last| last + 1);
            rows.resize(atoms * width, f64::NAN);
            for (row, &atom) in numbers.chunks_exact(width).zip(&part.atoms[..part.owned]) {
                rows[atom * width..(atom + 1) * width].iter_mut().zip(row).for_each(|(to, from)| *to = from.get());
            }
        }
        self.hub.barrier.wait();
        {
            let rows = self.hub.rows.lock().expect("no thread panics here");
            for (k, (row, &atom)) in numbers.chunks_exact_mut(width).zip(&part.atoms).enumerate().skip(part.owned) {
                // Nobody may read the others.
                let of = |from: f64| T::of(if part.is_exchanged(k) { from } else { f64::NAN });
                row.iter_mut().zip(&rows[atom * width..]).for_each(|(to, from)| *to = of(*from));
            }
        }
        self.hub.barrier.wait();
    }

    fn give_back<T: Number>(&mut self, numbers: &mut [T], width: usize) {
        let part = &self.hub.parts[self.part];
        self.exchanges.push(-(width as i64));
        *self.hub.back[self.part].lock().expect("no thread panics here") = numbers[part.owned * width..].iter().map(|x| x.get()).collect();
        self.hub.barrier.wait();
        let own: HashMap<usize, usize> = part.atoms[..part.owned].iter().enumerate().map(|(k, &atom)| (atom, k)).collect();
        for (other, back) in self.hub.parts.iter().zip(&self.hub.back) {
            let back = back.lock().expect("no thread panics here");
            for (ghost, row) in back.chunks_exact(width).enumerate() {
                let ghost = other.owned + ghost;
                if let (Some(&k), true) = (own.get(&other.atoms[ghost]), other.is_exchanged(ghost)) {
                    numbers[k * width..(k + 1) * width].iter_mut().zip(row).for_each(|(to, from)| *to = T::of(to.get() + from));
                }
            }
        }
        self.hub.barrier.wait();
    }
}

impl Exchange for Link<'_> {
    fn forward(&mut self, rows: ExchangeRows<'_>) -> Result<(), ExchangeError> {
        match rows.numbers {
            Numbers::F32(numbers) => self.send(numbers, rows.width),
            Numbers::F64(numbers) => self.send(numbers, rows.width),
        }
        Ok(())
    }

    fn reverse(&mut self, rows: ExchangeRows<'_>) -> Result<(), ExchangeError> {
        match rows.numbers {
            Numbers::F32(numbers) => self.give_back(numbers, rows.width),
            Numbers::F64(numbers) => self.give_back(numbers, rows.width),
        }
        Ok(())
    }
}

/// A structure's results put together from those of its parts.
#[derive(Debug, Clone, PartialEq)]
pub struct Together {
    /// Energy, forces, atomic energies, and the stress if there is a volume.
    pub evaluation: Evaluation,
    /// −Σ v ⊗ dE/dv, eV.
    pub virial: [[f64; 3]; 3],
    /// As in [`DomainEvaluation`], summed.
    pub atomic_virials: Vec<[f64; 6]>,
}

/// Evaluates all parts, each in a thread of its own with its own calculator. With `fresh`, lists are new; with `virials`, those of atoms are asked for.
///
/// # Errors
/// That of the first part that fails.
pub fn evaluate(
    structure: &Structure,
    species: &[u32],
    parts: &[Part],
    calculators: &mut [DomainCalculator],
    fresh: bool,
    virials: bool,
) -> Result<Together, InferError> {
    let hub = Hub::new(parts);
    let results: Vec<Result<DomainEvaluation, InferError>> = std::thread::scope(|scope| {
        let threads: Vec<_> = parts
            .iter()
            .zip(calculators)
            .enumerate()
            .map(|(k, (part, calculator))| {
                let mut link = hub.link(k);
                scope.spawn(move || {
                    let mut to = DomainEvaluation { atomic_virials: virials.then(Vec::new), ..DomainEvaluation::default() };
                    let list = NeighborRows { offsets: &part.offsets, neighbors: &part.neighbors };
                    let species: Vec<u32> = part.atoms.iter().map(|&i| species[i]).collect();
                    let tags: Vec<i64> = part.atoms.iter().map(|&i| i as i64).collect();
                    let positions = part.positions(structure);
                    let atoms = DomainAtoms {
                        owned: part.owned,
                        positions: &positions,
                        species: &species,
                        tags: Some(&tags),
                        images: part.images.as_deref(),
                        neighbors: fresh.then_some(&list),
                    };
                    let exchange: &mut dyn Exchange = &mut link;
                    // Where nobody is a stranger there is nothing to exchange.
                    let alone =
                        parts.len() == 1 && part.images.as_ref().is_some_and(|images| images.iter().all(|&i| (i as usize) < part.owned));
                    calculator.evaluate_into(&atoms, (!alone).then_some(exchange), &mut to).map(|()| to)
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().expect("no thread panics")).collect()
    });
    let n = structure.len();
    let mut all = Together {
        evaluation: Evaluation { forces: vec![[0.0; 3]; n], atomic_energies: vec![f64::NAN; n], ..Evaluation::default() },
        virial: [[0.0; 3]; 3],
        atomic_virials: vec![[0.0; 6]; n],
    };
    for (part, result) in parts.iter().zip(results) {
        let result = result?;
        all.evaluation.energy += result.energy;
        for (&atom, energy) in part.atoms.iter().zip(&result.atomic_energies) {
            all.evaluation.atomic_energies[atom] = *energy;
        }
        for (k, &atom) in part.atoms.iter().enumerate() {
            (0..3).for_each(|x| all.evaluation.forces[atom][x] += result.forces[k][x]);
            if let Some(virials) = &result.atomic_virials {
                (0..6).for_each(|x| all.atomic_virials[atom][x] += virials[k][x]);
            }
        }
        (0..3).for_each(|a| (0..3).for_each(|b| all.virial[a][b] += result.virial[a][b]));
    }
    if structure.pbc == [true; 3] {
        let volume = structure.cell.volume();
        all.evaluation.stress = Some(all.virial.map(|row| row.map(|x| -x / volume)));
    }
    Ok(all)
}
