//! Neighbour lists made on a device against those of the host.

#![allow(clippy::unwrap_used, reason = "tests")]

use tesseral_atoms::neighbors::neighbor_list;
use tesseral_kernels::neighbors::{DeviceList, ListError};
use tesseral_kernels::{Device, testing};
use tesseral_testkit::Random;

type Cell = [[f64; 3]; 3];

fn cube(a: f64) -> Cell {
    [[a, 0.0, 0.0], [0.0, a, 0.0], [0.0, 0.0, a]]
}

/// Compares with the host, edge by edge. Returns how many there are.
fn check(lists: &DeviceList, device: &Device, name: &str, cell: &Cell, pbc: [bool; 3], positions: &[[f64; 3]], reach: f64) -> usize {
    let want = neighbor_list(cell, pbc, positions, reach).unwrap();
    let on_device = device.upload(positions.as_flattened()).unwrap();
    let table = lists.build(&on_device, cell, pbc, reach).unwrap_or_else(|error| panic!("{name}: {error}"));
    let (begin, neighbors, shifts, reverse) = table.read().unwrap();
    assert_eq!(begin.iter().map(|&b| b as usize).collect::<Vec<_>>(), want.offsets, "{name}");
    assert_eq!(neighbors, want.neighbors, "{name}");
    assert_eq!(shifts.iter().map(|s| s.map(i32::from)).collect::<Vec<_>>(), want.shifts, "{name}");
    assert_eq!(reverse, want.reverse, "{name}");
    assert_eq!((table.atoms(), table.structures()), (positions.len(), 1));
    want.len()
}

#[test]
fn random_structures_have_the_neighbors_of_the_host() {
    let Some(device) = testing::device() else { return };
    let lists = DeviceList::new(&device).unwrap();
    let mut random = Random::new(1);
    let mut edges = 0;
    for case in 0..60 {
        let pbc = std::array::from_fn(|_| random.number() < 0.2);
        let size = 7.0 + 5.0 * random.number();
        let skew = size * (0.5 + 0.5 * random.number());
        let mut cell = cube(size).map(|row| row.map(|x| x + skew * random.number()));
        let volume: f64 =
            (0..3).map(|x| cell[0][x] * (cell[1][(x + 1) % 3] * cell[2][(x + 2) % 3] - cell[1][(x + 2) % 3] * cell[2][(x + 1) % 3])).sum();
        if volume.abs() < 0.05 * size.powi(3) {
            continue;
        }
        for d in 0..3 {
            if !pbc[d] && random.number() < 0.0 {
                cell[d] = [0.0; 3];
            }
        }
        let atoms = 1 + (15.0 * (1.0 + random.number())) as usize;
        let spread = [size, 5.0 * size, 40.0 * size][case % 3];
        let origin = [0.0, 1e3, 1e6][case / 3 % 3];
        let positions: Vec<[f64; 3]> = (0..atoms).map(|_| std::array::from_fn(|_| origin + spread * random.number())).collect();
        let reach = 3.5 + 2.5 * random.number();
        edges += check(&lists, &device, &format!("case {case}"), &cell, pbc, &positions, reach);
    }
    assert!(edges > 10_000, "{edges} edges are too few to mean anything");
}

#[test]
fn structures_of_all_kinds_have_the_neighbors_of_the_host() {
    let Some(device) = testing::device() else { return };
    let lists = DeviceList::new(&device).unwrap();
    let check = |name: &str, cell: &Cell, pbc, positions: &[[f64; 3]], reach| check(&lists, &device, name, cell, pbc, positions, reach);
    let mut random = Random::new(2);
    let mut within = |n: usize, size: f64| -> Vec<[f64; 3]> { (0..n).map(|_| std::array::from_fn(|_| size * random.number())).collect() };

    // Many bins and more than one block of sums, atoms outside the cell too.
    let skewed = [[24.0, 0.0, 3.0], [-9.0, 21.0, 0.0], [4.0, 11.0, 25.0]];
    let bulk = within(1300, 20.0);
    for pbc in [[true; 3], [true, false, true], [false; 3]] {
        assert!(check("bulk", &skewed, pbc, &bulk, 4.0) > 1000);
    }
    // Cells far smaller than the radius.
    check("2 Å", &cube(2.0), [true; 3], &[[0.3, 0.1, 7.7]], 6.0);
    check("1 Å, skewed", &[[1.0, 0.0, 0.0], [0.9, 1.0, 0.0], [3.3, -2.2, 1.0]], [true; 3], &[[9.0; 3]], 4.0);
    check("chain", &cube(0.7), [false, true, false], &[[0.1, 0.2, 0.3], [0.4, 80.0, 0.3]], 6.0);
    check("two atoms", &cube(3.0), [true; 3], &[[0.0; 3], [1.5; 3]], 7.0);
    // Left-handed.
    check("left-handed", &[[0.0, 6.0, 1.0], [5.0, 0.0, -1.0], [0.5, 0.0, 7.0]], [true, true, false], &within(20, 9.0), 5.0);
    // Vectors that are not needed.
    let some = within(40, 8.0);
    check("slab", &[[0.0; 3], [0.0, 0.0, 5.0], [4.0, 3.0, 0.0]], [false, true, true], &some, 4.5);
    check("wire", &[[0.0; 3], [3.0, 3.0, 3.0], [0.0; 3]], [false, true, false], &some, 4.5);
    check("cluster", &[[0.0; 3]; 3], [false; 3], &some, 4.5);
    // A crystal, with distances at exactly the radius.
    let crystal: Vec<[f64; 3]> = (0..125).map(|i| [f64::from(i / 25), f64::from(i / 5 % 5), f64::from(i % 5)].map(|x| 2.5 * x)).collect();
    assert_eq!(check("crystal", &cube(12.5), [true; 3], &crystal, 5.0), 125 * 26);
    // One neighbour many times over, and a centre with hundreds.
    check("dense", &cube(4.0), [true; 3], &within(12, 2.0), 8.0);
    // Far apart.
    let pair = [[0.0; 3], [1.0, 0.0, 0.0], [1e6, 1e6, 1e6], [1e6, 1e6, 1e6 + 2.0]];
    assert_eq!(check("molecules", &[[0.0; 3]; 3], [false; 3], &pair, 5.0), 4);
    let line: Vec<_> = (0..50).map(|i| [f64::from(i), 0.0, 0.0]).collect();
    assert_eq!(check("line", &[[0.0; 3]; 3], [false; 3], &line, 1.5), 98);
    // Few or none.
    for pbc in [[true; 3], [false; 3], [true, false, false]] {
        assert_eq!(check("none", &cube(10.0), pbc, &[], 6.0), 0);
        assert_eq!(check("one", &cube(10.0), pbc, &[[1e4, -7.0, 2.0]], 6.0), 0);
    }
}

#[test]
fn what_the_device_cannot_list_is_left_to_the_host() {
    let Some(device) = testing::device() else { return };
    let lists = DeviceList::new(&device).unwrap();
    let error = |cell: &Cell, pbc, positions: &[[f64; 3]], reach| {
        lists.build(&device.upload(positions.as_flattened()).unwrap(), cell, pbc, reach).err().unwrap()
    };
    let origin = [[0.0; 3]];
    for reach in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(matches!(error(&cube(3.0), [true; 3], &origin, reach), ListError::Unsuited { .. }));
    }
    for bad in [f64::NAN, f64::INFINITY, -1e300] {
        assert!(matches!(error(&cube(3.0), [true; 3], &[[0.0; 3], [1.0, bad, 1.0]], 4.0), ListError::Unsuited { .. } | ListError::Shift));
    }
    let flat = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [5.0, 7.0, 9.0]];
    assert!(matches!(error(&flat, [true; 3], &origin, 4.0), ListError::Unsuited { .. }));
    assert!(matches!(error(&cube(1e-7), [true; 3], &origin, 4.0), ListError::Unsuited { .. }));
    assert!(matches!(error(&cube(0.01), [true; 3], &origin, 4.0), ListError::Unsuited { .. }));
    // In range of the search, but not of 16 bits.
    assert_eq!(error(&cube(3.0), [true; 3], &[[0.0; 3], [1e6, 1.0, 1.0]], 4.0), ListError::Shift);
}

#[test]
fn an_atom_has_moved_when_it_has_moved_by_half_the_skin() {
    let Some(device) = testing::device() else { return };
    let lists = DeviceList::new(&device).unwrap();
    let reference: Vec<f64> = Random::new(3).numbers(3 * 700);
    let on_device = device.upload(&reference).unwrap();
    let moved = |atom: usize, by: f64, skin: f64| {
        let mut positions = reference.clone();
        positions[3 * atom + 1] += by;
        lists.moved(&device.upload(&positions).unwrap(), &on_device, skin).unwrap()
    };
    for atom in [0, 255, 256, 699] {
        assert!(moved(atom, 0.51, 1.0) && moved(atom, -0.51, 1.0));
        assert!(!moved(atom, 0.49, 1.0));
        assert!(moved(atom, f64::NAN, 1.0));
        assert!(!moved(atom, 0.0, 0.0) && moved(atom, 1e-9, 0.0));
    }
}
