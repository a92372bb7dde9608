//! Neighbour lists against the brute-force oracle, known crystals, and everything that can go wrong.

use super::lattice::{combine, dot, norm};
use super::*;

type Mat3 = [[f64; 3]; 3];

/// Reproducible random numbers (SplitMix64).
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn below(&mut self, n: u64) -> u64 {
        self.bits() % n
    }

    fn vector(&mut self, size: f64) -> [f64; 3] {
        std::array::from_fn(|_| self.uniform(-size, size))
    }
}

const BOX: fn(f64) -> Mat3 = |a| [[a, 0.0, 0.0], [0.0, a, 0.0], [0.0, 0.0, a]];

/// A cubic crystal of `n`³ cells: cell and positions.
fn crystal(a: f64, basis: &[[f64; 3]], n: usize) -> (Mat3, Vec<[f64; 3]>) {
    let mut positions = Vec::new();
    for index in 0..n * n * n {
        let corner = [index / (n * n), index / n % n, index % n];
        for site in basis {
            positions.push(std::array::from_fn(|x| a * (corner[x] as f64 + site[x])));
        }
    }
    (BOX(a * n as f64), positions)
}

const FCC: [[f64; 3]; 4] = [[0.0, 0.0, 0.0], [0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]];

fn diamond() -> Vec<[f64; 3]> {
    FCC.iter().flat_map(|r| [*r, r.map(|x| x + 0.25)]).collect()
}

/// Compares with the oracle, field by field and bit by bit. Returns the number of edges.
fn check(name: &str, cell: &Mat3, pbc: [bool; 3], positions: &[[f64; 3]], cutoff: f64) -> usize {
    let list = neighbor_list(cell, pbc, positions, cutoff).unwrap_or_else(|error| panic!("{name}: {error}"));
    let oracle = brute_force::neighbor_list(cell, pbc, positions, cutoff);
    assert_eq!(list.offsets, oracle.offsets, "{name}");
    assert!(list == oracle, "{name}");
    check_invariants(name, cell, pbc, positions, cutoff, &list);
    list.len()
}

/// What every list must satisfy by itself.
fn check_invariants(name: &str, cell: &Mat3, pbc: [bool; 3], positions: &[[f64; 3]], cutoff: f64, list: &NeighborList) {
    assert_eq!(list.num_atoms(), positions.len(), "{name}");
    assert_eq!(list.is_empty(), list.centers.is_empty(), "{name}");
    let mut previous = None;
    for i in 0..list.num_atoms() {
        for edge in list.edges_of(i) {
            let (j, shift, vector) = (list.neighbors[edge] as usize, list.shifts[edge], list.vectors[edge]);
            assert_eq!(list.centers[edge] as usize, i, "{name}");
            assert!(previous < Some((i, j, shift)), "{name}: edges are not in strict order");
            previous = Some((i, j, shift));
            for d in 0..3 {
                assert!(pbc[d] || shift[d] == 0, "{name}");
            }
            let translation = combine(&shift.map(f64::from), cell);
            let magnitude =
                norm(&positions[i]) + norm(&positions[j]) + (0..3).map(|d| f64::from(shift[d]).abs() * norm(&cell[d])).sum::<f64>();
            for x in 0..3 {
                let expected = positions[j][x] - positions[i][x] + translation[x];
                assert!((vector[x] - expected).abs() <= 1e-15 * magnitude, "{name}");
            }
            assert!(dot(&vector, &vector) < cutoff * cutoff, "{name}");
            let reverse = list.reverse[edge] as usize;
            assert_eq!(list.reverse[reverse] as usize, edge, "{name}");
            assert_eq!(list.centers[reverse] as usize, j, "{name}");
            assert_eq!(list.neighbors[reverse] as usize, i, "{name}");
            assert_eq!(list.shifts[reverse], shift.map(|s| -s), "{name}");
            assert_eq!(list.vectors[reverse], vector.map(|x| -x), "{name}");
        }
    }
    assert_eq!(list.offsets.last(), Some(&list.len()), "{name}");
}

#[test]
fn random_systems_match_brute_force() {
    let mut random = Random(1);
    let mut edges = 0;
    for case in 0..400 {
        let pbc = std::array::from_fn(|_| random.below(2) == 0);
        let size = random.uniform(2.0, 12.0);
        let skew = random.uniform(0.0, 1.5);
        let mut cell = BOX(size);
        for row in &mut cell {
            let kick = random.vector(skew * size);
            for x in 0..3 {
                row[x] += kick[x];
            }
        }
        if dot(&cell[0], &lattice::cross(&cell[1], &cell[2])).abs() < 0.02 * size.powi(3) {
            continue;
        }
        for d in 0..3 {
            if !pbc[d] && random.below(2) == 0 {
                cell[d] = [0.0; 3];
            }
        }
        let atoms = 1 + random.below(30) as usize;
        let spread = [size, 5.0 * size, 100.0 * size][random.below(3) as usize];
        let distance = [0.0, 1e3, 1e6][random.below(3) as usize];
        let origin = random.vector(distance);
        let positions: Vec<[f64; 3]> = (0..atoms)
            .map(|_| {
                let r = random.vector(spread);
                std::array::from_fn(|x| origin[x] + r[x])
            })
            .collect();
        let cutoff = random.uniform(1.0, 6.0);
        edges += check(&format!("case {case}"), &cell, pbc, &positions, cutoff);
    }
    assert!(edges > 100_000, "{edges} edges are too few to mean anything");
}

#[test]
fn bulk_of_many_bins_matches_brute_force() {
    let mut random = Random(2);
    for pbc in [[true; 3], [true, false, true], [false, true, false], [false; 3]] {
        let cell = [[28.0, 0.0, 3.0], [-9.0, 25.0, 0.0], [4.0, 11.0, 30.0]];
        // Outside the cell, too.
        let positions: Vec<[f64; 3]> = (0..700).map(|_| combine(&std::array::from_fn(|_| random.uniform(-0.4, 1.7)), &cell)).collect();
        for cutoff in [2.5, 4.0, 9.0] {
            let edges = check(&format!("{pbc:?} {cutoff}"), &cell, pbc, &positions, cutoff);
            assert!(edges > 100);
        }
    }
}

#[test]
fn cell_far_smaller_than_the_cutoff() {
    // Simple cubic with a = 2: the shells up to 6 Å hold the integer points with n² < 9.
    let list = neighbor_list(&BOX(2.0), [true; 3], &[[0.3, 0.1, 7.7]], 6.0).unwrap();
    let mut expected = 0;
    for index in 0..343 {
        let n = [index / 49 - 3, index / 7 % 7 - 3, index % 7 - 3];
        expected += usize::from((1..9).contains(&n.iter().map(|x| x * x).sum::<i32>()));
    }
    assert_eq!(list.len(), expected);
    check("2 Å", &BOX(2.0), [true; 3], &[[0.3, 0.1, 7.7]], 6.0);
    check("1 Å, skewed", &[[1.0, 0.0, 0.0], [0.9, 1.0, 0.0], [3.3, -2.2, 1.0]], [true; 3], &[[9.0; 3]], 5.0);
    check("chain", &BOX(0.7), [false, true, false], &[[0.1, 0.2, 0.3], [0.4, 80.0, 0.3]], 6.0);
}

#[test]
fn extremely_skewed_cell_gives_the_neighbors_of_its_lattice() {
    let positions = [[0.1, 0.2, 0.3], [2.0, 2.5, 1.0]];
    let cubic = BOX(4.0);
    let sheared = [[4.0, 0.0, 0.0], [4.0e5, 4.0, 0.0], [-8.0e5, 1.2e3, 4.0]];
    let sorted = |cell| {
        let list = neighbor_list(&cell, [true; 3], &positions, 7.0).unwrap();
        check_invariants("skewed", &cell, [true; 3], &positions, 7.0, &list);
        let mut edges: Vec<_> = (0..list.len())
            .map(|e| {
                let rounded = list.vectors[e].map(|x| (x * 1e6).round() as i64);
                (list.centers[e], list.neighbors[e], rounded)
            })
            .collect();
        edges.sort_unstable();
        edges
    };
    assert_eq!(sorted(cubic), sorted(sheared));
    // Here the nearest image along z is 3e10 cells away along x.
    let beyond = [[4.0, 0.0, 0.0], [4.0e5, 4.0, 0.0], [-8.0e5, 1.2e6, 4.0]];
    let error = neighbor_list(&beyond, [true; 3], &positions, 7.0).unwrap_err();
    assert!(matches!(error, NeighborError::TooSkewed { .. }));
}

#[test]
fn left_handed_cell() {
    let mut random = Random(3);
    let cell = [[0.0, 6.0, 1.0], [5.0, 0.0, -1.0], [0.5, 0.0, 7.0]];
    assert!(dot(&cell[0], &lattice::cross(&cell[1], &cell[2])) < 0.0);
    let positions: Vec<_> = (0..20).map(|_| random.vector(9.0)).collect();
    check("left-handed", &cell, [true; 3], &positions, 5.0);
    check("left-handed slab", &cell, [true, true, false], &positions, 5.0);
}

#[test]
fn zero_vectors_along_directions_that_are_not_periodic() {
    let mut random = Random(4);
    let positions: Vec<_> = (0..40).map(|_| random.vector(8.0)).collect();
    let slab = [[0.0; 3], [0.0, 0.0, 5.0], [4.0, 3.0, 0.0]];
    check("slab", &slab, [false, true, true], &positions, 4.5);
    check("wire", &[[0.0; 3], [3.0, 3.0, 3.0], [0.0; 3]], [false, true, false], &positions, 4.5);
    check("cluster", &[[0.0; 3]; 3], [false; 3], &positions, 4.5);
    // What a structure file says about a direction that is not periodic does not matter.
    let other = [[1.0, 2.0, 3.0], slab[1], slab[2]];
    let pbc = [false, true, true];
    assert_eq!(neighbor_list(&slab, pbc, &positions, 4.5), neighbor_list(&other, pbc, &positions, 4.5));
}

#[test]
fn lattice_translations_of_atoms_change_only_shifts() {
    let mut random = Random(5);
    let cell = [[7.0, 0.3, 0.0], [-2.0, 6.0, 0.1], [1.0, 1.0, 8.0]];
    let positions: Vec<_> = (0..25).map(|_| random.vector(4.0)).collect();
    let moves: Vec<[i32; 3]> = (0..25).map(|_| std::array::from_fn(|_| random.below(2001) as i32 - 1000)).collect();
    let moved: Vec<[f64; 3]> = positions
        .iter()
        .zip(&moves)
        .map(|(r, n)| {
            let translation = combine(&n.map(f64::from), &cell);
            std::array::from_fn(|x| r[x] + translation[x])
        })
        .collect();
    let list = neighbor_list(&cell, [true; 3], &positions, 5.0).unwrap();
    let other = neighbor_list(&cell, [true; 3], &moved, 5.0).unwrap();
    assert_eq!(list.neighbors, other.neighbors);
    assert_eq!(list.offsets, other.offsets);
    let mut edges = 0;
    for i in 0..positions.len() {
        for edge in list.edges_of(i) {
            let j = list.neighbors[edge] as usize;
            let shift: [i32; 3] = std::array::from_fn(|d| list.shifts[edge][d] - moves[j][d] + moves[i][d]);
            let row = other.edges_of(i);
            let same = row.clone().find(|&e| (other.neighbors[e] as usize, other.shifts[e]) == (j, shift)).unwrap();
            for x in 0..3 {
                assert!((other.vectors[same][x] - list.vectors[edge][x]).abs() < 1e-11);
            }
            edges += 1;
        }
    }
    assert!(edges > 500);
}

#[test]
fn huge_empty_extents_cost_nothing() {
    let mut random = Random(6);
    // Clusters far apart along every diagonal: any grid over the whole extent would be either
    // astronomical or so coarse that each cluster falls into one bin.
    let mut positions = Vec::new();
    for corner in 0..8 {
        let center: [f64; 3] = std::array::from_fn(|x| if corner >> x & 1 == 0 { -1e6 } else { 1e6 });
        positions.extend((0..5000).map(|_| {
            let r = random.vector(40.0);
            std::array::from_fn(|x| center[x] + r[x])
        }));
    }
    let list = neighbor_list(&[[0.0; 3]; 3], [false; 3], &positions, 4.0).unwrap();
    check_invariants("clusters", &[[0.0; 3]; 3], [false; 3], &positions, 4.0, &list);
    // Each cluster is a system of its own.
    for corner in 0..8 {
        let (first, last) = (5000 * corner, 5000 * (corner + 1));
        let alone = neighbor_list(&[[0.0; 3]; 3], [false; 3], &positions[first..last], 4.0).unwrap();
        let edges = list.offsets[first]..list.offsets[last];
        assert!(alone.len() > 5000);
        assert_eq!(alone.vectors, list.vectors[edges]);
    }
    let pair = [[0.0; 3], [1.0, 0.0, 0.0], [1e6, 1e6, 1e6], [1e6, 1e6, 1e6 + 2.0]];
    assert_eq!(check("molecules", &[[0.0; 3]; 3], [false; 3], &pair, 5.0), 4);
    assert_eq!(check("molecules over a chain", &BOX(3.0), [true, false, false], &pair, 2.5), 6);
}

#[test]
fn result_does_not_depend_on_the_number_of_threads() {
    let mut random = Random(7);
    let (cell, mut positions) = crystal(5.43, &diamond(), 6);
    for r in &mut positions {
        let kick = random.vector(0.2);
        for x in 0..3 {
            r[x] += kick[x];
        }
    }
    let run = |threads, pbc| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| neighbor_list(&cell, pbc, &positions, 6.0)).unwrap()
    };
    for pbc in [[true; 3], [true, false, false]] {
        let (one, four) = (run(1, pbc), run(4, pbc));
        assert!(one.len() > 50_000);
        assert!(one == four);
        let bits = |list: &NeighborList| -> Vec<u64> { list.vectors.iter().flatten().map(|x| x.to_bits()).collect() };
        assert_eq!(bits(&one), bits(&four));
    }
}

#[test]
fn known_coordination_numbers() {
    // fcc shells: 12 at a/√2, 6 at a, 24 at a√(3/2), 12 at a√2, 24 at a√(5/2), 8 at a√3.
    let a = 4.05;
    for n in [1, 2, 4] {
        let (cell, positions) = crystal(a, &FCC, n);
        let mut total = 0;
        for (squared, count) in [(0.5, 12), (1.0, 6), (1.5, 24), (2.0, 12), (2.5, 24), (3.0, 8)] {
            total += count;
            let list = neighbor_list(&cell, [true; 3], &positions, a * f64::sqrt(squared + 0.1)).unwrap();
            assert!((0..positions.len()).all(|i| list.edges_of(i).len() == total));
        }
    }
    // Silicon: 4, 12, 12, 6, 12 atoms within 6 Å.
    for n in [1, 3] {
        let (cell, positions) = crystal(5.43, &diamond(), n);
        let list = neighbor_list(&cell, [true; 3], &positions, 6.0).unwrap();
        assert!((0..positions.len()).all(|i| list.edges_of(i).len() == 46));
        let near = neighbor_list(&cell, [true; 3], &positions, 2.5).unwrap();
        assert_eq!(near.len(), 4 * positions.len());
        assert!(near.vectors.iter().all(|v| (norm(v) - 5.43 * 3f64.sqrt() / 4.0).abs() < 1e-12));
    }
}

#[test]
fn a_pair_at_exactly_the_cutoff_is_not_an_edge() {
    let positions = [[0.0; 3], [3.0, 4.0, 0.0]];
    assert!(neighbor_list(&[[0.0; 3]; 3], [false; 3], &positions, 5.0).unwrap().is_empty());
    let above = f64::from_bits(5.0f64.to_bits() + 1);
    assert_eq!(neighbor_list(&[[0.0; 3]; 3], [false; 3], &positions, above).unwrap().len(), 2);
}

#[test]
fn few_or_no_atoms() {
    for pbc in [[true; 3], [false; 3], [true, false, false]] {
        let list = neighbor_list(&BOX(10.0), pbc, &[], 6.0).unwrap();
        assert_eq!((list.num_atoms(), list.len(), list.is_empty()), (0, 0, true));
        let list = neighbor_list(&BOX(10.0), pbc, &[[1e4, -7.0, 2.0]], 6.0).unwrap();
        assert_eq!((list.num_atoms(), list.len()), (1, 0));
        assert_eq!(list.edges_of(0), 0..0);
    }
    // All atoms in one place along one direction, and at any cutoff.
    let line: Vec<_> = (0..50).map(|i| [f64::from(i), 0.0, 0.0]).collect();
    assert_eq!(check("line", &[[0.0; 3]; 3], [false; 3], &line, 1.5), 98);
    assert_eq!(check("line", &[[0.0; 3]; 3], [false; 3], &line, 1e200), 50 * 49);
}

#[test]
fn atoms_on_the_same_spot() {
    let error = |cell: &Mat3, pbc, positions: &[[f64; 3]]| neighbor_list(cell, pbc, positions, 5.0).unwrap_err();
    let same = [[0.0; 3], [9.0, 1.0, 1.0], [2.0, 1.0, 1.0], [9.0, 1.0, 1.0]];
    assert_eq!(error(&[[0.0; 3]; 3], [false; 3], &same), NeighborError::CoincidentAtoms { i: 1, j: 3, shift: [0; 3], distance: 0.0 });
    // Through an image, and only up to rounding.
    let cell = [[0.1 + 0.2, 4.0, 0.0], [3.0, 0.0, 0.7], [0.0, 0.1, 5.0]];
    let r = [0.3, 0.9, 0.4];
    let image = combine(&[2.0, -1.0, 3.0], &cell);
    let positions = [r, std::array::from_fn(|x| r[x] + image[x])];
    match error(&cell, [true; 3], &positions) {
        NeighborError::CoincidentAtoms { i, j, shift, distance } => {
            assert_eq!((i, j, shift), (0, 1, [-2, 1, -3]));
            assert!(distance < 1e-14);
        }
        other => panic!("{other}"),
    }
    // The same pair is named whatever the threads do.
    let mut many: Vec<_> = (0..2000).map(|i| [f64::from(i), 0.0, 0.0]).collect();
    many.extend((0..2000).rev().map(|i| [f64::from(i), 1e-8, 0.0]));
    for threads in [1, 4] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let found = pool.install(|| error(&[[0.0; 3]; 3], [false; 3], &many));
        assert!(matches!(found, NeighborError::CoincidentAtoms { i: 0, j: 3999, .. }));
    }
}

#[test]
fn bad_input_is_named() {
    let cubic = BOX(3.0);
    let origin = [[0.0; 3]];
    let error = |cell: &Mat3, pbc, positions: &[[f64; 3]], cutoff| neighbor_list(cell, pbc, positions, cutoff).unwrap_err();
    for cutoff in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(matches!(error(&cubic, [true; 3], &origin, cutoff), NeighborError::InvalidCutoff { .. }));
    }
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let positions = [[0.0; 3], [1.0, bad, 1.0], [bad; 3]];
        for pbc in [[true; 3], [false; 3]] {
            let found = error(&cubic, pbc, &positions, 4.0);
            assert!(matches!(found, NeighborError::NonFinitePosition { atom: 1, .. }));
        }
        let mut cell = cubic;
        cell[2][0] = bad;
        let found = error(&cell, [true, true, false], &origin, 4.0);
        assert!(matches!(found, NeighborError::InvalidCellVector { row: 2, .. }));
    }
    let flat = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [5.0, 7.0, 9.0]];
    let parallel = [[1.0, 2.0, 3.0], [-2.0, -4.0, -6.0], [0.0, 0.0, 1.0]];
    let nearly = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [5.0 + 4e-15, 7.0, 9.0]];
    for (cell, pbc) in [
        (flat, [true; 3]),
        (nearly, [true; 3]),
        (parallel, [true, true, false]),
        ([[0.0; 3]; 3], [false, false, true]),
        ([[1e-200; 3]; 3], [true, false, false]),
    ] {
        assert!(matches!(error(&cell, pbc, &origin, 4.0), NeighborError::NoVolume { .. }));
    }
    assert_eq!(neighbor_list(&flat, [true, true, false], &origin, 1.0).unwrap().len(), 0);
}

#[test]
fn what_would_exhaust_memory_or_digits_is_refused() {
    let origin = [[0.0; 3]];
    let error = |cell: &Mat3, pbc, positions: &[[f64; 3]], cutoff| neighbor_list(cell, pbc, positions, cutoff).unwrap_err();
    // Far more images than anybody means.
    for pbc in [[true; 3], [true, true, false], [false, true, false]] {
        let found = error(&BOX(1e-7), pbc, &origin, 6.0);
        assert!(matches!(found, NeighborError::TooManyEdges { atoms: 1, .. }), "{pbc:?} {found}");
        let found = error(&BOX(1.0), pbc, &origin, 1e200);
        assert!(matches!(found, NeighborError::TooManyEdges { .. }), "{pbc:?} {found}");
    }
    let needle = [[1e-6, 0.0, 0.0], [0.0, 1e4, 0.0], [0.0, 0.0, 1e4]];
    assert!(matches!(error(&needle, [true; 3], &origin, 6.0), NeighborError::TooManyEdges { .. }));
    // Beyond a 32-bit edge index.
    let mut random = Random(8);
    let dense: Vec<_> = (0..20_000).map(|_| random.vector(1.0)).collect();
    match error(&BOX(1.0), [true; 3], &dense, 1.8) {
        NeighborError::TooManyEdges { edges, .. } => assert!(edges > MAX_EDGES as f64),
        other => panic!("{other}"),
    }
    // Shifts beyond an i32, distances beyond the digits of an f64.
    let far = [[0.0; 3], [1e10, 0.0, 0.0]];
    assert!(matches!(error(&BOX(3.0), [true; 3], &far, 4.0), NeighborError::ShiftOverflow { atom: 0 }));
    for huge in [1e15, 1e307, f64::MAX] {
        let far = [[-huge, 0.0, 0.0], [0.0; 3], [huge, 1.0, 0.0]];
        let found = error(&[[0.0; 3]; 3], [false; 3], &far, 4.0);
        assert!(matches!(found, NeighborError::Unresolvable { .. }), "{found}");
        neighbor_list(&BOX(3.0), [true, true, false], &far, 4.0).unwrap_err();
    }
}
