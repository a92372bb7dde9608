//! Images between two structures, before any force is known.

use tesseral_atoms::neighbors::neighbor_list;
use tesseral_atoms::{Cell, Structure, elements};

use super::{bisecting_tangents, gradient, project};
use crate::error::SimulateError;
use crate::matrix::norm;
use crate::relax::optimiser::{Fire, FireVersion, longest};

/// Pairs within this distance in any image count for the pair potential, Å: its weight falls with the fourth power.
const RANGE: f64 = 6.0;
/// Forces of the pair potential (1/Å³) below which it is done, and the steps it gets.
const TOLERANCE: f64 = 0.005;
const STEPS: usize = 1000;

/// What is odd about two ends of a path, though it can be computed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Oddity {
    /// An atom ends where another of its element began: the order of atoms may differ.
    Exchanged {
        /// The atom.
        atom: usize,
        /// The atom whose place it takes.
        place_of: usize,
    },
    /// Nothing moves.
    SameEnds,
}

impl std::fmt::Display for Oddity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exchanged { atom, place_of } => write!(
                f,
                "atom {atom} ends where atom {place_of}, of the same element, began: is the order of atoms the same in both ends?"
            ),
            Self::SameEnds => f.write_str("the two ends are the same structure"),
        }
    }
}

/// The shortest of the vectors that are the same but for lattice vectors of periodic directions.
pub(super) fn shortest(cell: &Cell, pbc: [bool; 3], v: [f64; 3]) -> [f64; 3] {
    let axes: Vec<[f64; 3]> = (0..3).filter(|&k| pbc[k]).map(|k| cell.vectors[k]).collect();
    let mut v = v;
    // Greedy steps along sums of lattice vectors, each of which shortens: it ends at the shortest for reduced cells, and near it for others.
    let mut moves = Vec::new();
    for n in 0..3usize.pow(axes.len() as u32) {
        let mut sum = [0.0; 3];
        for (k, axis) in axes.iter().enumerate() {
            let m = (n / 3usize.pow(k as u32) % 3) as f64 - 1.0;
            (0..3).for_each(|x| sum[x] += m * axis[x]);
        }
        if norm(sum) > 0.0 {
            moves.push(sum);
        }
    }
    loop {
        let mut best = (norm(v), v);
        for m in &moves {
            // As often along this direction as shortens most.
            let times = -(0..3).map(|x| v[x] * m[x]).sum::<f64>() / m.iter().map(|x| x * x).sum::<f64>();
            let w = [0, 1, 2].map(|x| v[x] + times.round() * m[x]);
            if norm(w) < best.0 * (1.0 - 1e-12) - 1e-12 {
                best = (norm(w), w);
            }
        }
        if best.1 == v {
            return v;
        }
        v = best.1;
    }
}

/// Checks that a path can lead from one structure to the other with the same atoms in the same order, in the same cell.
///
/// # Errors
/// Naming the first difference.
pub fn check_ends(start: &Structure, end: &Structure, fixed: &[usize]) -> Result<Vec<Oddity>, SimulateError> {
    if start.is_empty() {
        return Err(SimulateError::input("there are no atoms", "give structures with atoms"));
    }
    start.validate()?;
    end.validate()?;
    if start.len() != end.len() {
        return Err(SimulateError::input(
            format!("the ends have {} and {} atoms", start.len(), end.len()),
            "both need the same atoms in the same order",
        ));
    }
    if let Some(atom) = (0..start.len()).find(|&i| start.numbers[i] != end.numbers[i]) {
        let name = |s: &Structure| elements::symbol(s.numbers[atom]).unwrap_or("X").to_owned();
        let mut sorted = [start.numbers.clone(), end.numbers.clone()];
        sorted.iter_mut().for_each(|n| n.sort_unstable());
        let hint = if sorted[0] == sorted[1] {
            "both have the same atoms: bring those of one into the order of the other"
        } else {
            "both need the same atoms in the same order"
        };
        return Err(SimulateError::input(format!("atom {atom} is {} at the start and {} at the end", name(start), name(end)), hint));
    }
    let apart =
        start.cell.vectors.as_flattened().iter().zip(end.cell.vectors.as_flattened()).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    if start.pbc != end.pbc || apart > 1e-4 {
        return Err(SimulateError::input("the ends have different cells", "a path is computed in one cell: relax both ends in it"));
    }
    if let Some(&atom) = fixed.iter().find(|&&i| i >= start.len()) {
        return Err(SimulateError::input(
            format!("there is no atom {atom} to be fixed"),
            format!("atoms are counted from 0 to {}", start.len() - 1),
        ));
    }
    let moves = displacements(start, end);
    if let Some(&atom) = fixed.iter().find(|&&i| norm(moves[i]) > 1e-3) {
        let what = format!("atom {atom} is to be fixed, but the ends have it {:.3} Å apart", norm(moves[atom]));
        return Err(SimulateError::input(what, "fix it while the ends are relaxed, too"));
    }
    if longest(&moves) < 1e-3 {
        return Ok(vec![Oddity::SameEnds]);
    }
    let place = |i: usize| {
        (0..start.len()).find(|&j| {
            let between = [0, 1, 2].map(|k| start.positions[i][k] + moves[i][k] - start.positions[j][k]);
            i != j && start.numbers[i] == start.numbers[j] && norm(moves[j]) > 1.0 && norm(shortest(&start.cell, start.pbc, between)) < 0.3
        })
    };
    let moved = (0..start.len()).filter(|&i| norm(moves[i]) > 1.0);
    Ok(moved.filter_map(|atom| Some(Oddity::Exchanged { atom, place_of: place(atom)? })).collect())
}

/// How each atom moves, by the shortest way, Å.
pub fn displacements(start: &Structure, end: &Structure) -> Vec<[f64; 3]> {
    let difference = |(a, b): (&[f64; 3], &[f64; 3])| shortest(&start.cell, start.pbc, [b[0] - a[0], b[1] - a[1], b[2] - a[2]]);
    start.positions.iter().zip(&end.positions).map(difference).collect()
}

/// Evenly spaced images on the straight line, the ends included: `between + 2`. Atoms take the shortest way; the last image may therefore have atoms a lattice vector away from `end`.
pub fn linear(start: &Structure, end: &Structure, between: usize) -> Vec<Structure> {
    let moves = displacements(start, end);
    (0..between + 2)
        .map(|image| {
            let t = image as f64 / (between + 1) as f64;
            let mut structure = if image > between { end.clone() } else { start.clone() };
            structure.cell = start.cell;
            structure.positions = start.positions.iter().zip(&moves).map(|(r, d)| [0, 1, 2].map(|k| r[k] + t * d[k])).collect();
            structure
        })
        .collect()
}

/// The images of a file as a path: each atom of an image is moved by lattice vectors to where it is nearest to itself in the image before.
pub fn continuous(mut images: Vec<Structure>) -> Vec<Structure> {
    for k in 1..images.len() {
        let moves = displacements(&images[k - 1], &images[k]);
        images[k].positions = images[k - 1].positions.iter().zip(&moves).map(|(r, d)| [0, 1, 2].map(|x| r[x] + d[x])).collect();
    }
    images
}

/// Bends a path so that distances between atoms change evenly along it: the image dependent pair potential (S. Smidstrup et al., J. Chem. Phys. 140, 214106 (2014)).
///
/// S = Σ_{i<j} (d_ij − r_ij)² / r_ij⁴, where d_ij is interpolated between the distances in the ends, is minimised for all images as a band, so that no atoms run through one another.
/// Pairs (periodic images included) count that are within 6 Å in some image. Returns the largest force that is left, 1/Å³.
///
/// # Errors
/// If neighbours cannot be listed.
pub fn bend(images: &mut [Structure], fixed: &[usize]) -> Result<f64, SimulateError> {
    let count = images.len();
    if count < 3 {
        return Ok(0.0);
    }
    // Positions are continuous along the path, so that a pair and its lattice shift mean the same in all images.
    let mut pairs: Vec<(usize, usize, [i32; 3])> = Vec::new();
    for image in images.iter() {
        // Straight lines may lead two atoms through one spot; neighbours are then those of the other images.
        let Ok(list) = neighbor_list(&image.cell.vectors, image.pbc, &image.positions, RANGE) else { continue };
        for i in 0..image.len() {
            for edge in list.edges_of(i) {
                let j = list.neighbors[edge] as usize;
                if i < j {
                    pairs.push((i, j, list.shifts[edge]));
                }
            }
        }
    }
    pairs.sort_unstable();
    pairs.dedup();
    let cell = images[0].cell;
    let vector = |positions: &[[f64; 3]], (i, j, shift): (usize, usize, [i32; 3])| {
        let image = cell.cartesian(shift.map(f64::from));
        [0, 1, 2].map(|k| positions[j][k] - positions[i][k] + image[k])
    };
    let targets: Vec<(f64, f64)> =
        pairs.iter().map(|&p| (norm(vector(&images[0].positions, p)), norm(vector(&images[count - 1].positions, p)))).collect();
    let mut positions: Vec<Vec<[f64; 3]>> = images.iter().map(|s| s.positions.clone()).collect();
    let atoms = images[0].len();
    let mut fire = Fire::new(FireVersion::Bitzek, 0.2);
    let mut largest = f64::INFINITY;
    for _ in 0..STEPS {
        let mut forces = vec![vec![[0.0; 3]; atoms]; count];
        for k in 1..count - 1 {
            let t = k as f64 / (count - 1) as f64;
            for (&pair, &(first, last)) in pairs.iter().zip(&targets) {
                let v = vector(&positions[k], pair);
                // Atoms on one spot are driven apart along any direction.
                let r = norm(v).max(0.1);
                let off = r - (first + t * (last - first));
                let slope = 2.0 * off / r.powi(4) - 4.0 * off * off / r.powi(5);
                let v = if norm(v) < 1e-6 { [0.1, 0.0, 0.0] } else { v };
                for x in 0..3 {
                    forces[k][pair.0][x] += slope * v[x] / r;
                    forces[k][pair.1][x] -= slope * v[x] / r;
                }
            }
            for &atom in fixed {
                forces[k][atom] = [0.0; 3];
            }
        }
        let tangents = bisecting_tangents(&positions);
        let projected = project(&positions, &forces, &tangents, 0.1, None);
        largest = projected[1..count - 1].iter().map(|f| longest(f)).fold(0.0, f64::max);
        if largest < TOLERANCE {
            break;
        }
        let mut x = positions[1..count - 1].concat();
        fire.step(&mut x, &gradient(&projected[1..count - 1]));
        for (image, x) in positions[1..count - 1].iter_mut().zip(x.chunks(atoms)) {
            image.copy_from_slice(x);
        }
    }
    for (image, positions) in images.iter_mut().zip(positions) {
        image.positions = positions;
    }
    Ok(largest)
}
