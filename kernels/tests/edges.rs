//! Edges, forces and sums on the device against plain loops on the host, for a batch of structures of all kinds.

#![allow(clippy::unwrap_used, reason = "tests")]

use tesseral_kernels::edges::{Cutoffs, EdgeKernels, Edges, Positions};
use tesseral_kernels::forces::{ForceKernels, ForceWork};
use tesseral_kernels::neighbors::{HostList, ListError, NeighborTable};
use tesseral_kernels::{Buffer, Device, DeviceError, Real, testing};
use tesseral_testkit::{Random, relative_error};

type Cell = [[f64; 3]; 3];

const SPECIES: usize = 3;
const SKIN: f64 = 0.8;

/// Å, by pair of species.
const CUTOFFS: [f64; 9] = [3.0, 2.5, 3.5, 2.5, 4.0, 3.2, 3.5, 3.2, 3.0];

struct Structure {
    cell: Cell,
    positions: Vec<[f64; 3]>,
    list: List,
}

/// As `tesseral_atoms::neighbors` lists: by centre, neighbour, shift.
struct List {
    offsets: Vec<usize>,
    neighbors: Vec<u32>,
    shifts: Vec<[i32; 3]>,
    reverse: Vec<u32>,
}

impl List {
    fn host(&self) -> HostList<'_> {
        HostList { offsets: &self.offsets, neighbors: &self.neighbors, shifts: &self.shifts, reverse: &self.reverse }
    }
}

/// Rounded after each operation, as Rust does.
fn vector(cell: &Cell, center: [f64; 3], neighbor: [f64; 3], shift: [i32; 3]) -> [f64; 3] {
    let [a, b, c] = shift.map(f64::from);
    std::array::from_fn(|x| (neighbor[x] - center[x]) + (a * cell[0][x] + b * cell[1][x] + c * cell[2][x]))
}

fn squared(v: [f64; 3]) -> f64 {
    v[0] * v[0] + v[1] * v[1] + v[2] * v[2]
}

fn list(cell: &Cell, images: [i32; 3], positions: &[[f64; 3]], reach: f64) -> List {
    let mut edges = Vec::new();
    for (i, &center) in positions.iter().enumerate() {
        for (j, &neighbor) in positions.iter().enumerate() {
            for a in -images[0]..=images[0] {
                for b in -images[1]..=images[1] {
                    for c in -images[2]..=images[2] {
                        let shift = [a, b, c];
                        if squared(vector(cell, center, neighbor, shift)) < reach * reach && (i != j || shift != [0; 3]) {
                            edges.push((i as u32, j as u32, shift));
                        }
                    }
                }
            }
        }
    }
    let reverse = edges.iter().map(|&(i, j, s)| edges.binary_search(&(j, i, s.map(|s| -s))).unwrap() as u32).collect();
    List {
        offsets: (0..=positions.len()).map(|i| edges.partition_point(|e| (e.0 as usize) < i)).collect(),
        neighbors: edges.iter().map(|e| e.1).collect(),
        shifts: edges.iter().map(|e| e.2).collect(),
        reverse,
    }
}

/// Listed with the skin, and then moved by less than half of it.
fn structure(random: &mut Random, cell: Cell, images: [i32; 3], atoms: usize, size: f64) -> Structure {
    let mut positions: Vec<[f64; 3]> = (0..atoms).map(|_| std::array::from_fn(|_| size * random.number())).collect();
    let list = list(&cell, images, &positions, 4.0 + SKIN);
    for r in positions.iter_mut().flatten() {
        *r += 0.2 * random.number();
    }
    Structure { cell, positions, list }
}

fn structures() -> Vec<Structure> {
    let mut random = Random::new(7);
    let triclinic = [[5.0, 0.3, -0.4], [-1.2, 4.5, 0.2], [0.7, 1.9, 6.0]];
    let none = [[0.0; 3]; 3];
    vec![
        structure(&mut random, triclinic, [3; 3], 9, 6.0),
        structure(&mut random, triclinic, [3, 0, 2], 12, 4.0),
        structure(&mut random, none, [0; 3], 0, 1.0),
        structure(&mut random, none, [0; 3], 1, 1.0),
        structure(&mut random, [[3.1, 0.0, 0.0], [0.0, 3.2, 0.0], [0.0, 0.0, 3.3]], [2; 3], 1, 1.0),
        // Around 300 neighbours and more for those in the middle.
        structure(&mut random, none, [0; 3], 420, 2.6),
        structure(&mut random, none, [0; 3], 2, 20.0),
        // More than one chunk of atoms.
        structure(&mut random, none, [0; 3], 1030, 14.0),
    ]
}

/// What the device holds, and the same on the host.
struct Batch {
    structures: Vec<Structure>,
    species: Vec<u32>,
    table: NeighborTable,
    positions: Buffer<f64>,
    cells: Buffer<f64>,
    on_device: Buffer<u32>,
    cutoffs: Cutoffs,
}

fn flat(structures: &[Structure]) -> Vec<f64> {
    structures.iter().flat_map(|s| s.positions.as_flattened().iter().copied()).collect()
}

impl Batch {
    fn new(device: &Device) -> Self {
        let structures = structures();
        let species: Vec<u32> = (0..flat(&structures).len() / 3).map(|i| (i * i + i / 3) as u32 % SPECIES as u32).collect();
        let lists: Vec<HostList<'_>> = structures.iter().map(|s| s.list.host()).collect();
        let cells: Vec<f64> = structures.iter().flat_map(|s| s.cell.as_flattened().iter().copied()).collect();
        Self {
            table: NeighborTable::upload(device, &lists).unwrap(),
            positions: device.upload(&flat(&structures)).unwrap(),
            cells: device.upload(&cells).unwrap(),
            on_device: device.upload(&species).unwrap(),
            cutoffs: Cutoffs::new(device, SPECIES, &CUTOFFS.map(|c| c * c)).unwrap(),
            structures,
            species,
        }
    }

    fn update<T: Real>(&mut self, kernels: &EdgeKernels<T>, edges: &mut Edges<T>, closest: &mut Buffer<f64>) {
        let at = Positions { positions: &self.positions, cells: &self.cells, species: &self.on_device };
        kernels.update(&mut self.table, at, &self.cutoffs, edges, closest).unwrap();
    }
}

/// An active edge: neighbour, pair, squared distance, vector, and which edge of the batch it is listed as.
struct Active {
    neighbor: u32,
    pair: usize,
    squared: f64,
    vector: [f64; 3],
    listed: usize,
}

/// Active edges of each atom, and the smallest squared distance of all that are listed.
fn reference(batch: &Batch) -> Vec<(Vec<Active>, f64)> {
    let mut rows = Vec::new();
    let (mut first_atom, mut first_edge) = (0, 0);
    for s in &batch.structures {
        for (i, &center) in s.positions.iter().enumerate() {
            let mut closest = f64::INFINITY;
            let mut row = Vec::new();
            for e in s.list.offsets[i]..s.list.offsets[i + 1] {
                let j = s.list.neighbors[e] as usize;
                let vector = vector(&s.cell, center, s.positions[j], s.list.shifts[e]);
                let squared = squared(vector);
                closest = closest.min(squared);
                let pair = batch.species[first_atom + i] as usize * SPECIES + batch.species[first_atom + j] as usize;
                if squared < CUTOFFS[pair] * CUTOFFS[pair] {
                    row.push(Active { neighbor: (first_atom + j) as u32, pair, squared, vector, listed: first_edge + e });
                }
            }
            rows.push((row, closest));
        }
        first_atom += s.positions.len();
        first_edge += s.list.neighbors.len();
    }
    rows
}

trait Number: Real + Into<f64> {
    fn of(x: f64) -> Self;
}

impl Number for f32 {
    fn of(x: f64) -> Self {
        x as Self
    }
}

impl Number for f64 {
    fn of(x: f64) -> Self {
        x
    }
}

fn check_edges<T: Number>(device: &Device) {
    let mut batch = Batch::new(device);
    let kernels = EdgeKernels::<T>::new(device).unwrap();
    let mut edges = Edges::new(device, &batch.table).unwrap();
    let mut closest = device.zeros(batch.table.atoms()).unwrap();
    batch.update(&kernels, &mut edges, &mut closest);

    let rows = reference(&batch);
    let reverse_listed: Vec<u32> = batch.table.read().unwrap().3;
    let begin = edges.begin.to_vec().unwrap();
    let (count, neighbor) = (edges.count.to_vec().unwrap(), edges.neighbor.to_vec().unwrap());
    let (reverse, pair) = (edges.reverse.to_vec().unwrap(), edges.pair.to_vec().unwrap());
    let (distance, vector) = (edges.distance.to_vec().unwrap(), edges.vector.to_vec().unwrap());
    assert_eq!(closest.to_vec().unwrap(), rows.iter().map(|row| row.1).collect::<Vec<_>>());
    let mut place = std::collections::HashMap::new();
    let (mut most, mut inactive) = (0, 0);
    for (i, (row, _)) in rows.iter().enumerate() {
        assert_eq!(count[i] as usize, row.len(), "centre {i}");
        let listed = (begin[i + 1] - begin[i]) as usize;
        most = most.max(row.len());
        inactive += listed - row.len();
        for (k, edge) in row.iter().enumerate() {
            let a = begin[i] as usize + k;
            place.insert(edge.listed, a);
            assert_eq!((neighbor[a], pair[a] as usize), (edge.neighbor, edge.pair));
            assert_eq!(distance[a].to_bits(), edge.squared.sqrt().to_bits());
            assert_eq!(vector[3 * a..3 * a + 3], edge.vector.map(T::of));
        }
    }
    assert!(most > 300 && inactive > 1000, "{most} edges of one centre, {inactive} in the skin");
    for edge in rows.iter().flat_map(|row| &row.0) {
        let a = place[&edge.listed];
        assert_eq!(reverse[a] as usize, place[&(reverse_listed[edge.listed] as usize)]);
        let back: [f64; 3] = std::array::from_fn(|x| vector[3 * reverse[a] as usize + x].into());
        assert_eq!(back.map(|x| -x), edge.vector.map(|x| T::of(x).into()));
    }
}

#[test]
fn edges_are_those_of_the_host_to_the_bit() {
    let Some(device) = testing::device() else { return };
    check_edges::<f64>(&device);
    check_edges::<f32>(&device);
}

fn check_forces<T: Number>(device: &Device) {
    let mut batch = Batch::new(device);
    let atoms = batch.table.atoms();
    let kernels = EdgeKernels::<T>::new(device).unwrap();
    let mut edges = Edges::new(device, &batch.table).unwrap();
    let mut closest = device.zeros(atoms).unwrap();
    batch.update(&kernels, &mut edges, &mut closest);

    let mut random = Random::new(11);
    let numbers: Vec<T> = random.numbers(3 * edges.capacity).into_iter().map(T::of).collect();
    let dv = device.upload(&numbers).unwrap();
    let sums = ForceKernels::<T>::new(device).unwrap();
    let mut work = ForceWork::new(device, &batch.table).unwrap();
    let (mut forces, mut virials) = (device.zeros(3 * atoms).unwrap(), device.zeros(9 * batch.structures.len()).unwrap());
    sums.assemble(&batch.table, &edges, &dv, &mut work, &mut forces, &mut virials).unwrap();

    let (begin, reverse, vector) = (edges.begin.to_vec().unwrap(), edges.reverse.to_vec().unwrap(), edges.vector.to_vec().unwrap());
    let (mut want_forces, mut want_virials) = (vec![0.0; 3 * atoms], vec![0.0; 9 * batch.structures.len()]);
    let rows = reference(&batch);
    let structure_of = batch.table.structure_of().to_vec().unwrap();
    for (i, (row, _)) in rows.iter().enumerate() {
        for a in (begin[i] as usize..).take(row.len()) {
            let back = reverse[a] as usize;
            for x in 0..3 {
                let here: f64 = numbers[3 * a + x].into();
                want_forces[3 * i + x] += here - numbers[3 * back + x].into();
                for y in 0..3 {
                    let v: f64 = vector[3 * a + y].into();
                    want_virials[9 * structure_of[i] as usize + 3 * y + x] += v * here;
                }
            }
        }
    }
    let (got_forces, got_virials) = (forces.to_vec().unwrap(), virials.to_vec().unwrap());
    assert!(relative_error(&got_forces, &want_forces) < 1e-14);
    assert!(relative_error(&got_virials, &want_virials) < 1e-13);
    let total: f64 = got_forces.iter().step_by(3).sum();
    assert!(total.abs() < 1e-10, "{total}");

    let energies = random.numbers(atoms);
    let mut of_structures = device.zeros(batch.structures.len()).unwrap();
    sums.energies(&batch.table, &device.upload(&energies).unwrap(), &mut work, &mut of_structures).unwrap();
    let mut want = vec![0.0; batch.structures.len()];
    energies.iter().zip(&structure_of).for_each(|(e, &s)| want[s as usize] += e);
    assert!(relative_error(&of_structures.to_vec().unwrap(), &want) < 1e-13);
    let mut smallest = device.zeros(1).unwrap();
    sums.closest(&batch.table, &closest, &mut work, &mut smallest).unwrap();
    let want = rows.iter().fold(f64::INFINITY, |smallest, row| smallest.min(row.1));
    assert_eq!(smallest.to_vec().unwrap(), [want]);

    // The same bits again.
    let first = (got_forces, got_virials);
    sums.assemble(&batch.table, &edges, &dv, &mut work, &mut forces, &mut virials).unwrap();
    assert_eq!((forces.to_vec().unwrap(), virials.to_vec().unwrap()), first);
}

#[test]
fn forces_virials_and_sums_are_those_of_plain_loops() {
    let Some(device) = testing::device() else { return };
    check_forces::<f64>(&device);
    check_forces::<f32>(&device);
}

#[test]
fn a_graph_follows_the_positions() {
    let Some(device) = testing::device() else { return };
    let mut batch = Batch::new(&device);
    let kernels = EdgeKernels::<f64>::new(&device).unwrap();
    let mut edges = Edges::new(&device, &batch.table).unwrap();
    let mut closest = device.zeros(batch.table.atoms()).unwrap();
    let graph = device
        .capture::<DeviceError>(|| {
            batch.update(&kernels, &mut edges, &mut closest);
            Ok(())
        })
        .unwrap();
    for r in batch.structures.iter_mut().flat_map(|s| s.positions.as_flattened_mut()) {
        *r += 0.01;
    }
    batch.structures[0].positions[1][2] += 0.1;
    batch.positions.write(&flat(&batch.structures)).unwrap();
    #[allow(unsafe_code, reason = "a graph")]
    // SAFETY: all buffers are still there.
    unsafe {
        graph.launch().unwrap();
    };
    let count: Vec<u32> = reference(&batch).iter().map(|row| row.0.len() as u32).collect();
    assert_eq!(edges.count.to_vec().unwrap(), count);
}

#[test]
fn no_atoms_and_no_structures() {
    let Some(device) = testing::device() else { return };
    let empty = List { offsets: vec![0], neighbors: vec![], shifts: vec![], reverse: vec![] };
    for lists in [vec![], vec![empty.host()], vec![empty.host(), empty.host()]] {
        let mut table = NeighborTable::upload(&device, &lists).unwrap();
        assert_eq!((table.atoms(), table.len(), table.structures(), table.is_empty()), (0, 0, lists.len(), true));
        let mut edges = Edges::new(&device, &table).unwrap();
        let cells = device.zeros(9 * lists.len()).unwrap();
        let (positions, species) = (device.zeros(0).unwrap(), device.zeros(0).unwrap());
        let cutoffs = Cutoffs::new(&device, 0, &[]).unwrap();
        let at = Positions { positions: &positions, cells: &cells, species: &species };
        let mut closest = device.zeros(0).unwrap();
        EdgeKernels::<f64>::new(&device).unwrap().update(&mut table, at, &cutoffs, &mut edges, &mut closest).unwrap();
        let sums = ForceKernels::<f64>::new(&device).unwrap();
        let mut work = ForceWork::new(&device, &table).unwrap();
        let mut out = device.upload(&vec![1.0; lists.len()]).unwrap();
        sums.energies(&table, &closest, &mut work, &mut out).unwrap();
        assert_eq!(out.to_vec().unwrap(), vec![0.0; lists.len()]);
        let mut smallest = device.zeros(1).unwrap();
        sums.closest(&table, &closest, &mut work, &mut smallest).unwrap();
        assert_eq!(smallest.to_vec().unwrap(), [f64::INFINITY]);
    }
}

#[test]
fn what_is_no_list_is_refused() {
    let Some(device) = testing::device() else { return };
    let good = || List { offsets: vec![0, 1, 2], neighbors: vec![1, 0], shifts: vec![[1, 0, 0], [-1, 0, 0]], reverse: vec![1, 0] };
    let upload = |list: &List| NeighborTable::upload(&device, &[list.host()]).err();
    assert_eq!(upload(&good()), None);
    let wrong: [fn(&mut List); 6] = [
        |list| list.offsets[2] = 3,
        |list| list.offsets[1] = 3,
        |list| list.neighbors[1] = 2,
        |list| list.reverse[0] = 2,
        |list| list.shifts[0] = [1, 1, 0],
        |list| list.shifts.truncate(1),
    ];
    for change in wrong {
        let mut list = good();
        change(&mut list);
        assert!(matches!(upload(&list), Some(ListError::Inconsistent { structure: 0, .. })));
    }
    let mut far = good();
    far.shifts = vec![[0, 0, 40_000], [0, 0, -40_000]];
    assert_eq!(upload(&far), Some(ListError::Shift));
    assert!(matches!(Cutoffs::new(&device, 2, &[1.0, 2.0, 3.0, 4.0]), Err(DeviceError::Launch { .. })));
}
