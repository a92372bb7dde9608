//! What the benchmarks share: structures, random numbers, times per atom and per edge.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use criterion::{BenchmarkGroup, measurement::WallTime};
use tesseral_atoms::Structure;
use tesseral_atoms::neighbors::neighbor_list;

/// Uniform random numbers in −1..1, the same in every run.
pub struct Random(u64);

impl Random {
    /// Numbers that depend on `seed` alone.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(2) + 1)
    }

    /// The next number.
    pub fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }

    /// `n` numbers in f32.
    pub fn vec(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.uniform() as f32).collect()
    }
}

/// `repeats` cubic cells of edge `a` (Å) in each direction with atoms at fractions of the edge, each moved by up to 0.1 Å in each direction.
fn rattled(a: f64, repeats: usize, basis: &[(u8, [f64; 3])]) -> Structure {
    let mut random = Random::new(7);
    let mut structure = Structure { pbc: [true; 3], ..Structure::default() };
    for k in 0..3 {
        structure.cell.vectors[k][k] = a * repeats as f64;
    }
    for cell in 0..repeats.pow(3) {
        let corner = [cell / (repeats * repeats), cell / repeats % repeats, cell % repeats];
        for (number, fraction) in basis {
            structure.numbers.push(*number);
            structure.positions.push(std::array::from_fn(|k| (corner[k] as f64 + fraction[k]) * a + 0.1 * random.uniform()));
        }
    }
    structure
}

/// Diamond silicon of 8·`repeats`³ atoms, rattled.
pub fn silicon(repeats: usize) -> Structure {
    let fcc = [[0.0, 0.0, 0.0], [0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]];
    let basis: Vec<(u8, [f64; 3])> = fcc.iter().flat_map(|f| [(14, *f), (14, f.map(|x| x + 0.25))]).collect();
    rattled(5.431, repeats, &basis)
}

/// Rock salt of 8·`repeats`³ atoms, rattled.
pub fn rock_salt(repeats: usize) -> Structure {
    let fcc = [[0.0, 0.0, 0.0], [0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]];
    let basis: Vec<(u8, [f64; 3])> = fcc.iter().flat_map(|f| [(11, *f), (17, [f[0] + 0.5, f[1], f[2]])]).collect();
    rattled(5.64, repeats, &basis)
}

/// A structure as a single rank has it: its own atoms, and ghosts that are their images.
pub struct Images {
    /// Own atoms and ghosts, Å.
    pub positions: Vec<[f64; 3]>,
    /// The own atom that each ghost is an image of.
    pub owners: Vec<u32>,
    /// Where the neighbours of each own atom begin.
    pub offsets: Vec<usize>,
    /// Neighbours among own atoms and ghosts.
    pub neighbors: Vec<u32>,
}

impl Images {
    /// With neighbours up to `reach` (Å).
    ///
    /// # Panics
    /// If they cannot be listed.
    pub fn new(structure: &Structure, reach: f64) -> Self {
        let cell = &structure.cell.vectors;
        let list = neighbor_list(cell, structure.pbc, &structure.positions, reach).expect("a structure");
        let mut images = Self { positions: structure.positions.clone(), owners: Vec::new(), offsets: list.offsets, neighbors: Vec::new() };
        let mut ghosts: HashMap<(u32, [i32; 3]), u32> = HashMap::new();
        for (&neighbor, &shift) in list.neighbors.iter().zip(&list.shifts) {
            if shift == [0; 3] {
                images.neighbors.push(neighbor);
                continue;
            }
            let ghost = *ghosts.entry((neighbor, shift)).or_insert_with(|| {
                let r = structure.positions[neighbor as usize];
                let along = |x: usize| (0..3).map(|k| f64::from(shift[k]) * cell[k][x]).sum::<f64>();
                images.positions.push(std::array::from_fn(|x| r[x] + along(x)));
                images.owners.push(neighbor);
                images.positions.len() as u32 - 1
            });
            images.neighbors.push(ghost);
        }
        images
    }
}

/// Measures `call` and reports its time divided by `units` (atoms, edges), which the name says.
pub fn per<T>(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, units: usize, mut call: impl FnMut() -> T) {
    group.bench_function(name, |bencher| {
        bencher.iter_custom(|iterations| {
            let start = Instant::now();
            for _ in 0..iterations {
                std::hint::black_box(call());
            }
            // Never zero, which criterion does not take for a time.
            start.elapsed().div_f64(units as f64).max(Duration::from_nanos(1))
        });
    });
}
