//! The oracle of the tests: every pair, every shift that could matter, no bins and no reduction.

use super::NeighborList;

/// The neighbour list by definition, in time quadratic in the number of atoms.
pub(super) fn neighbor_list(cell: &[[f64; 3]; 3], pbc: [bool; 3], positions: &[[f64; 3]], cutoff: f64) -> NeighborList {
    let inverse = inverse_gram(cell, pbc);
    let mut edges = Vec::new();
    for (i, ri) in positions.iter().enumerate() {
        for (j, rj) in positions.iter().enumerate() {
            let offset: [f64; 3] = std::array::from_fn(|x| rj[x] - ri[x]);
            // Nearest approach of the lattice to the centre, in fractions of the cell, and how far
            // from it the cutoff reaches: |S_d + f_d| ≤ cutoff · sqrt((G⁻¹)_dd), G_kl = a_k · a_l.
            let range: [std::ops::RangeInclusive<i32>; 3] = std::array::from_fn(|d| {
                if !pbc[d] {
                    return 0..=0;
                }
                let fraction: f64 =
                    (0..3).filter(|&k| pbc[k]).map(|k| inverse[d][k] * (0..3).map(|x| cell[k][x] * offset[x]).sum::<f64>()).sum();
                let reach = cutoff * inverse[d][d].sqrt();
                (-fraction - reach).floor() as i32 - 1..=(-fraction + reach).ceil() as i32 + 1
            });
            for a in range[0].clone() {
                for b in range[1].clone() {
                    for c in range[2].clone() {
                        if i == j && [a, b, c] == [0; 3] {
                            continue;
                        }
                        let (s0, s1, s2) = (f64::from(a), f64::from(b), f64::from(c));
                        let vector: [f64; 3] =
                            std::array::from_fn(|x| (rj[x] - ri[x]) + (s0 * cell[0][x] + s1 * cell[1][x] + s2 * cell[2][x]));
                        if vector.iter().map(|x| x * x).sum::<f64>() < cutoff * cutoff {
                            edges.push((i as u32, j as u32, [a, b, c], vector));
                        }
                    }
                }
            }
        }
    }
    edges.sort_by_key(|edge| (edge.0, edge.1, edge.2));
    let find =
        |i: u32, j: u32, shift: [i32; 3]| edges.binary_search_by_key(&(i, j, shift), |edge| (edge.0, edge.1, edge.2)).unwrap() as u32;
    NeighborList {
        offsets: (0..=positions.len()).map(|i| edges.partition_point(|edge| (edge.0 as usize) < i)).collect(),
        centers: edges.iter().map(|edge| edge.0).collect(),
        neighbors: edges.iter().map(|edge| edge.1).collect(),
        shifts: edges.iter().map(|edge| edge.2).collect(),
        vectors: edges.iter().map(|edge| edge.3).collect(),
        reverse: edges.iter().map(|edge| find(edge.1, edge.0, edge.2.map(|s| -s))).collect(),
    }
}

/// Inverse of the Gram matrix of the periodic vectors, unit rows and columns for the others.
fn inverse_gram(cell: &[[f64; 3]; 3], pbc: [bool; 3]) -> [[f64; 3]; 3] {
    let g: [[f64; 3]; 3] = std::array::from_fn(|k| {
        std::array::from_fn(|l| match (pbc[k] && pbc[l], k == l) {
            (true, _) => (0..3).map(|x| cell[k][x] * cell[l][x]).sum(),
            (false, same) => f64::from(u8::from(same)),
        })
    });
    let minor = |k: usize, l: usize| {
        let (k1, k2, l1, l2) = ((k + 1) % 3, (k + 2) % 3, (l + 1) % 3, (l + 2) % 3);
        g[k1][l1] * g[k2][l2] - g[k1][l2] * g[k2][l1]
    };
    let determinant: f64 = (0..3).map(|l| g[0][l] * minor(0, l)).sum();
    std::array::from_fn(|k| std::array::from_fn(|l| minor(l, k) / determinant))
}
