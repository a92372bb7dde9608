//! Structures at the edge of what can be evaluated, with the built-in model: those that are fine give the right numbers, the others errors that say
//! what is wrong, and neither disturbs its neighbours in the batch.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use tesseral_atoms::neighbors::NeighborError;
use tesseral_atoms::{Array, Structure, StructureError};
use tesseral_infer::{Dtype, InferError, Options, Potential};
use tesseral_potentials::{Artifact, Evaluation, PotentialError};

fn potential() -> Potential {
    let artifact = Artifact::from_static(tesseral_models::default_artifact(), "built-in model").unwrap();
    Potential::new(&artifact, &Options { dtype: Dtype::F64, head: None, ..Options::default() }).unwrap()
}

fn one(potential: &Potential, structure: &Structure) -> Result<Evaluation, InferError> {
    let mut results = potential.evaluate(std::slice::from_ref(structure));
    assert_eq!(results.len(), 1);
    results.remove(0)
}

fn error(potential: &Potential, structure: &Structure) -> InferError {
    let error = one(potential, structure).unwrap_err();
    assert!(!error.to_string().is_empty());
    error
}

fn crystal(cell: [[f64; 3]; 3], numbers: &[u8], positions: &[[f64; 3]]) -> Structure {
    let mut structure = Structure { pbc: [true; 3], numbers: numbers.to_vec(), positions: positions.to_vec(), ..Structure::default() };
    structure.cell.vectors = cell;
    structure
}

/// Rock salt with one atom out of its place: two atoms in a skewed primitive cell.
fn salt() -> Structure {
    let h = 2.82;
    crystal([[0.0, h, h], [h, 0.0, h], [h, h, 0.0]], &[11, 17], &[[0.1, -0.05, 0.02], [h, 0.07, 0.0]])
}

fn water() -> Structure {
    Structure::molecule(vec![8, 1, 1], vec![[0.0, 0.0, 0.117], [0.0, 0.757, -0.471], [0.1, -0.757, -0.471]])
}

/// Equal within what sums in another order change.
fn same(a: &Evaluation, b: &Evaluation, what: &str) {
    assert!((a.energy - b.energy).abs() < 1e-9, "{what}: {} eV, {} eV", a.energy, b.energy);
    for (x, y) in a.forces.as_flattened().iter().zip(b.forces.as_flattened()) {
        assert!((x - y).abs() < 1e-9, "{what}: forces {:?}, {:?}", a.forces, b.forces);
    }
    match (a.stress, b.stress) {
        (Some(s), Some(t)) => {
            for (x, y) in s.as_flattened().iter().zip(t.as_flattened()) {
                assert!((x - y).abs() < 1e-10, "{what}: stress {s:?}, {t:?}");
            }
        }
        (s, t) => assert_eq!(s, t, "{what}"),
    }
}

#[test]
fn an_atom_without_neighbours_has_an_energy_and_no_force() {
    let potential = potential();
    for z in [1, 6, 26, 94] {
        let free = one(&potential, &Structure::molecule(vec![z], vec![[3.0, -2.0, 1.0]])).unwrap();
        assert!(free.energy.is_finite() && free.energy != 0.0 && free.atomic_energies == [free.energy]);
        assert_eq!((free.forces.as_slice(), free.stress), ([[0.0; 3]].as_slice(), None));
        let boxed = crystal([[50.0, 0.0, 0.0], [0.0, 50.0, 0.0], [0.0, 0.0, 50.0]], &[z], &[[0.0; 3]]);
        let boxed = one(&potential, &boxed).unwrap();
        assert_eq!((boxed.energy, boxed.stress), (free.energy, Some([[0.0; 3]; 3])));
    }
    // Two of them, beyond the cutoff of each other.
    let pair = Structure::molecule(vec![1, 6], vec![[0.0; 3], [0.0, 0.0, 100.0]]);
    let pair = one(&potential, &pair).unwrap();
    assert_eq!(pair.forces, [[0.0; 3]; 2]);
}

#[test]
fn an_atom_in_a_cell_smaller_than_the_cutoff_sees_its_images() {
    let potential = potential();
    let a = 2.0;
    let cell = [[a, 0.0, 0.0], [0.0, a, 0.0], [0.0, 0.0, a]];
    let small = one(&potential, &crystal(cell, &[26], &[[0.3, 0.2, 0.1]])).unwrap();
    // By symmetry no force; under pressure at this density.
    assert!(small.forces.as_flattened().iter().all(|f| f.abs() < 1e-9), "{:?}", small.forces);
    let stress = small.stress.unwrap();
    assert!(stress[0][0] < 0.0 && (stress[0][0] - stress[2][2]).abs() < 1e-9 && stress[0][1].abs() < 1e-9, "{stress:?}");
    // The same crystal as a cell of eight atoms.
    let corners: Vec<[f64; 3]> = (0..8).map(|k| [k >> 2 & 1, k >> 1 & 1, k & 1].map(|i| f64::from(i) * a)).collect();
    let big = one(&potential, &crystal(cell.map(|v| v.map(|x| 2.0 * x)), &[26; 8], &corners)).unwrap();
    assert!((big.energy - 8.0 * small.energy).abs() < 1e-8, "{} {}", big.energy, small.energy);
}

#[test]
fn the_choice_of_the_cell_changes_nothing() {
    let potential = potential();
    let (salt, [a, b, c]) = (salt(), salt().cell.vectors);
    let reference = one(&potential, &salt).unwrap();
    assert!(reference.forces[0][0].abs() > 1e-3 && reference.stress.is_some());
    let plus = |u: [f64; 3], v: [f64; 3], k: f64| std::array::from_fn(|i| u[i] + k * v[i]);
    let with_cell = |cell| Structure { cell: tesseral_atoms::Cell { vectors: cell }, ..salt.clone() };
    for (what, cell) in [
        ("left-handed", [b, a, c]),
        ("inverted", [a, b, c].map(|v| v.map(|x: f64| -x))),
        ("skewed", [a, plus(b, a, 7.0), plus(c, a, -5.0)]),
        ("very skewed", [plus(a, b, 200.0), b, plus(plus(c, b, -1000.0), a, 1.0)]),
    ] {
        let found = one(&potential, &with_cell(cell)).unwrap();
        same(&found, &reference, what);
    }
    // Atoms anywhere: many cells away from each other and from the origin.
    let mut far = salt.clone();
    far.positions[0] = plus(plus(far.positions[0], a, 1000.0), c, -300.0);
    far.positions[1] = plus(far.positions[1], b, -777.0);
    same(&one(&potential, &far).unwrap(), &reference, "atoms outside the cell");
}

#[test]
fn directions_that_are_not_periodic_need_no_vector() {
    let potential = potential();
    let reference = one(&potential, &water()).unwrap();
    let mut boxed = water();
    boxed.cell.vectors = [[4.0, 0.0, 0.0], [0.0, 4.0, 0.0], [0.0, 0.0, 4.0]];
    same(&one(&potential, &boxed).unwrap(), &reference, "a cell that does not repeat");
    // A chain and a slab, with a vector of zero and with any other across.
    for pbc in [[true, false, false], [false, true, false], [true, true, false], [false, true, true]] {
        let mut open = boxed.clone();
        open.pbc = pbc;
        let mut zero = open.clone();
        for k in 0..3 {
            if !pbc[k] {
                zero.cell.vectors[k] = [0.0; 3];
                open.cell.vectors[k] = [0.3, -0.2, 9.0];
            }
        }
        let (zero, open) = (one(&potential, &zero).unwrap(), one(&potential, &open).unwrap());
        same(&zero, &open, "vectors across");
        assert_eq!(zero.stress, None);
        assert!((zero.energy - reference.energy).abs() > 1e-4, "{pbc:?}: images are seen");
    }
}

#[test]
fn what_cannot_be_evaluated_is_explained() {
    let potential = potential();
    assert!(matches!(error(&potential, &Structure::default()), InferError::NoAtoms));
    assert!(potential.evaluate(&[]).is_empty());

    for (z, symbol) in [(0, "X"), (118, "Og")] {
        let mut unknown = water();
        unknown.numbers[2] = z;
        let found = error(&potential, &unknown);
        assert!(
            matches!(&found, InferError::Potential(PotentialError::UnknownElement { atom: 2, symbol: s, .. }) if s == symbol),
            "{found}"
        );
        assert!(found.hint().is_some());
    }
    let mut unknown = water();
    unknown.numbers[1] = 200;
    assert!(matches!(error(&potential, &unknown), InferError::Structure(StructureError::UnknownElement { atom: 1, number: 200 })));

    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let mut nowhere = water();
        nowhere.positions[1][2] = bad;
        assert!(matches!(error(&potential, &nowhere), InferError::Structure(StructureError::NotFinitePosition { atom: 1, .. })));
        let mut nothing = salt();
        nothing.cell.vectors[2][0] = bad;
        assert!(matches!(error(&potential, &nothing), InferError::Structure(StructureError::NotFiniteCell { vector: 2, .. })));
    }
    let mut away = water();
    away.positions[0][0] = 1e300;
    assert!(matches!(error(&potential, &away), InferError::Structure(StructureError::TooLarge { .. })));

    for apart in [0.0, 1e-9, 1e-5] {
        let mut twice = water();
        twice.positions[2] = twice.positions[1].map(|x| x + apart);
        let found = error(&potential, &twice);
        assert!(matches!(found, InferError::Structure(StructureError::SameSpot { first: 1, second: 2, periodic: false, .. })), "{found}");
    }
    let mut image = salt();
    image.positions[1] = std::array::from_fn(|i| image.positions[0][i] + image.cell.vectors[0][i] - 3.0 * image.cell.vectors[1][i]);
    assert!(matches!(error(&potential, &image), InferError::Structure(StructureError::SameSpot { periodic: true, .. })));

    for cell in [[[0.0; 3]; 3], [[4.0, 0.0, 0.0], [0.0, 4.0, 0.0], [4.0, 4.0, 0.0]], [[4.0, 0.0, 0.0], [4.0, 0.0, 0.0], [0.0, 0.0, 4.0]]] {
        let mut flat = salt();
        flat.cell.vectors = cell;
        assert!(matches!(error(&potential, &flat), InferError::Structure(StructureError::NoVolume { .. })), "{cell:?}");
    }
    // A cell in the wrong unit: billions of neighbours.
    let mut tiny = salt();
    tiny.cell.vectors = tiny.cell.vectors.map(|v| v.map(|x| x * 1e-2));
    tiny.positions.truncate(1);
    tiny.numbers.truncate(1);
    let found = error(&potential, &tiny);
    assert!(matches!(found, InferError::Potential(PotentialError::Neighbors(NeighborError::TooManyEdges { .. }))), "{found}");

    let mut short = water();
    short.positions.pop();
    assert!(matches!(error(&potential, &short), InferError::Structure(StructureError::CountMismatch { expected: 3, found: 2, .. })));
    let mut ragged = water();
    ragged.arrays.insert("magmoms".into(), Array::scalars(vec![0.0; 2]));
    assert!(matches!(error(&potential, &ragged), InferError::Structure(StructureError::CountMismatch { .. })));
}

#[test]
fn bad_structures_do_not_disturb_the_good() {
    let potential = potential();
    let (mut unknown, mut broken, mut twice) = (water(), salt(), water());
    unknown.numbers[0] = 118;
    broken.positions[0][0] = f64::NAN;
    twice.positions[1] = twice.positions[2];
    let lone = Structure::molecule(vec![2], vec![[0.0; 3]]);
    let all = [unknown, salt(), Structure::default(), water(), broken, lone.clone(), twice, salt()];
    let results = potential.evaluate(&all);
    assert_eq!(results.len(), all.len());
    for (k, result) in results.iter().enumerate() {
        assert_eq!(result.is_err(), [0, 2, 4, 6].contains(&k), "structure {k}: {result:?}");
    }
    for (k, structure) in [(1, salt()), (3, water()), (5, lone), (7, salt())] {
        same(results[k].as_ref().unwrap(), &one(&potential, &structure).unwrap(), "beside bad ones");
    }
    assert_eq!(results[1].as_ref().unwrap(), results[7].as_ref().unwrap());
}

#[test]
fn atoms_too_close_give_finite_numbers_or_say_so() {
    let potential = potential();
    for distance in [0.0011, 0.01, 0.1, 0.3] {
        let pair = Structure::molecule(vec![1, 92], vec![[0.0; 3], [distance, 0.0, 0.0]]);
        match one(&potential, &pair) {
            Ok(found) => assert!((found.forces[0][0] + found.forces[1][0]).abs() < 1e-6 * found.forces[0][0].abs().max(1.0)),
            Err(e) => assert!(matches!(e, InferError::NotFinite { .. }) && e.hint().is_some(), "{e}"),
        }
    }
}
