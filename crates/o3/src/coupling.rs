//! The paths of a tensor product of node features with the harmonics of an edge, in both orders that
//! checkpoints use for their weights.

use crate::irreps::{Irrep, Irreps, IrrepsError, MulIrrep};
use crate::wigner::{Coefficient, Convention, WignerError, wigner_3j};

/// Order of the paths, which is the order of their columns in the last layer of the radial network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PathOrder {
    /// As generated: blocks of the features, then blocks of the edge, then increasing output degree.
    /// NequIP, and SevenNet checkpoints older than version 0.11.
    Generation,
    /// Stably sorted by output irrep. MACE, and SevenNet from version 0.11.
    SortedByOutput,
}

/// One path: every channel of a feature block times one block of edge harmonics gives one output block
/// with the same number of channels and one weight per channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// Block of the features.
    pub in1: usize,
    /// Block of the edge harmonics.
    pub in2: usize,
    /// Irrep of the feature block.
    pub irrep_in1: Irrep,
    /// Irrep of the edge block.
    pub irrep_in2: Irrep,
    /// Irrep of the result.
    pub out: Irrep,
    /// Number of channels, that is, of weights.
    pub mul: usize,
    /// Block of the result in [`TensorProductPaths::mid_irreps`], hence the position of the path
    /// in [`PathOrder::SortedByOutput`].
    pub mid: usize,
}

impl Path {
    /// The degrees `[l1, l2, l3]` of features, edge and result.
    #[must_use]
    pub fn degrees(&self) -> [usize; 3] {
        [self.irrep_in1.l, self.irrep_in2.l, self.out.l]
    }

    /// The factor `sqrt(2 l3 + 1)` in front of the 3j tensor; every path has an output block of its own.
    #[must_use]
    pub fn normalization(&self) -> f64 {
        (self.out.dim() as f64).sqrt()
    }

    /// The non-zero coefficients `c[i][j][k] = sqrt(2 l3 + 1) w3j(l1, l2, l3)[i][j][k]` of
    /// `out[k] = weight * sum_ij c[i][j][k] feature[i] harmonic[j]`.
    ///
    /// # Errors
    /// As [`wigner_3j`]; within a [`TensorProductPaths`] only for degrees above its limit.
    pub fn coupling(&self, convention: Convention) -> Result<Vec<Coefficient>, WignerError> {
        let [l1, l2, l3] = self.degrees();
        let scale = self.normalization();
        let mut coefficients = wigner_3j(l1, l2, l3, convention)?.sparse();
        for coefficient in &mut coefficients {
            coefficient.value *= scale;
        }
        Ok(coefficients)
    }
}

/// What can be wrong with the operands of a tensor product.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CouplingError {
    /// An edge block with more or fewer than one channel.
    #[error("block {index} of the edge irreps is `{block}`; spherical harmonics have one channel each")]
    EdgeMultiplicity {
        /// Position of the block.
        index: usize,
        /// The block as text.
        block: String,
    },
    /// The outputs together exceed the limits of [`Irreps`].
    #[error("the outputs of the tensor product are too large")]
    Output(#[from] IrrepsError),
}

/// All paths from `irreps_in1 x irreps_edge` to the wanted irreps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorProductPaths {
    irreps_in1: Irreps,
    irreps_edge: Irreps,
    paths: Vec<Path>,
    /// `sorted[position] = index into paths`.
    sorted: Vec<usize>,
    mid_irreps: Irreps,
}

impl TensorProductPaths {
    /// Lists the paths whose output irrep satisfies `keep`. Feature blocks without channels are skipped.
    ///
    /// # Errors
    /// [`CouplingError::EdgeMultiplicity`] if an edge block has other than one channel,
    /// [`CouplingError::Output`] if the outputs are too large.
    pub fn new(irreps_in1: &Irreps, irreps_edge: &Irreps, mut keep: impl FnMut(Irrep) -> bool) -> Result<Self, CouplingError> {
        if let Some((index, block)) = irreps_edge.iter().enumerate().find(|(_, b)| b.mul != 1) {
            return Err(CouplingError::EdgeMultiplicity { index, block: block.to_string() });
        }
        let mut paths = Vec::new();
        for (in1, &MulIrrep { mul, irrep }) in irreps_in1.iter().enumerate() {
            if mul == 0 {
                continue;
            }
            for (in2, edge) in irreps_edge.iter().enumerate() {
                for out in irrep * edge.irrep {
                    if keep(out) {
                        paths.push(Path { in1, in2, irrep_in1: irrep, irrep_in2: edge.irrep, out, mul, mid: 0 });
                    }
                }
            }
        }
        let blocks = paths.iter().map(|path| MulIrrep::new(path.mul, path.out));
        let outputs = Irreps::new(blocks.collect())?.sort();
        for (path, &mid) in paths.iter_mut().zip(&outputs.permutation) {
            path.mid = mid;
        }
        Ok(Self {
            irreps_in1: irreps_in1.clone(),
            irreps_edge: irreps_edge.clone(),
            paths,
            sorted: outputs.inverse,
            mid_irreps: outputs.irreps,
        })
    }

    /// Type of the features.
    #[must_use]
    pub fn irreps_in1(&self) -> &Irreps {
        &self.irreps_in1
    }

    /// Type of the edge harmonics.
    #[must_use]
    pub fn irreps_edge(&self) -> &Irreps {
        &self.irreps_edge
    }

    /// Type of the result: one block per path, sorted by irrep, not merged.
    #[must_use]
    pub fn mid_irreps(&self) -> &Irreps {
        &self.mid_irreps
    }

    /// The paths in generation order.
    #[must_use]
    pub fn paths(&self) -> &[Path] {
        &self.paths
    }

    /// Number of paths.
    #[must_use]
    pub fn len(&self) -> usize {
        self.paths.len()
    }

    /// Whether nothing couples.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    /// The paths in the given order.
    pub fn in_order(&self, order: PathOrder) -> impl Iterator<Item = &Path> + '_ {
        (0..self.paths.len()).map(move |position| &self.paths[self.path_at(order, position)])
    }

    /// `sorted[position] = index`: the paths, as indices in generation order, sorted by output.
    #[must_use]
    pub fn sorted(&self) -> &[usize] {
        &self.sorted
    }

    /// Number of weights per edge: the sum of the channels of all paths.
    #[must_use]
    pub fn weight_numel(&self) -> usize {
        self.mid_irreps.num_irreps()
    }

    /// For each path **in generation order**, the first of its `mul` columns in weights that are laid
    /// out in `order`.
    #[must_use]
    pub fn weight_offsets(&self, order: PathOrder) -> Vec<usize> {
        let mut offsets = vec![0; self.paths.len()];
        let mut next = 0;
        for position in 0..self.paths.len() {
            let index = self.path_at(order, position);
            offsets[index] = next;
            next += self.paths[index].mul;
        }
        offsets
    }

    /// `source[column in to] = column in from`: how to reorder weight columns from one order to
    /// another. Length [`weight_numel`](Self::weight_numel).
    #[must_use]
    pub fn weight_permutation(&self, from: PathOrder, to: PathOrder) -> Vec<usize> {
        let offsets = self.weight_offsets(from);
        (0..self.paths.len())
            .flat_map(|position| {
                let index = self.path_at(to, position);
                offsets[index]..offsets[index] + self.paths[index].mul
            })
            .collect()
    }

    fn path_at(&self, order: PathOrder, position: usize) -> usize {
        match order {
            PathOrder::Generation => position,
            PathOrder::SortedByOutput => self.sorted[position],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn irreps(text: &str) -> Irreps {
        text.parse().unwrap()
    }

    #[test]
    fn sevennet_has_fifteen_paths() {
        let features = irreps("128x0e+64x1e+32x2e");
        let paths = TensorProductPaths::new(&features, &irreps("0e+1e+2e"), |irrep| irrep.l <= 2).unwrap();
        assert_eq!(paths.len(), 15);
        assert_eq!(paths.weight_numel(), 3 * 128 + 6 * 64 + 6 * 32);
        assert_eq!(
            paths.mid_irreps().to_string(),
            "128x0e+64x0e+32x0e+128x1e+64x1e+64x1e+64x1e+32x1e+32x1e+128x2e+64x2e+64x2e+32x2e+32x2e+32x2e"
        );
        // The stable sort keeps (in1, in2) increasing inside each output irrep.
        let sorted: Vec<_> = paths.in_order(PathOrder::SortedByOutput).collect();
        assert!(sorted.windows(2).all(|pair| { (pair[0].out, pair[0].in1, pair[0].in2) < (pair[1].out, pair[1].in1, pair[1].in2) }));
        for (position, path) in sorted.iter().enumerate() {
            assert_eq!(path.mid, position);
            assert_eq!(paths.mid_irreps().blocks()[path.mid], MulIrrep::new(path.mul, path.out));
        }
    }

    #[test]
    fn mace_medium_has_ten_paths() {
        let edge = irreps("0e+1o+2e+3o");
        let paths = TensorProductPaths::new(&irreps("128x0e+128x1o"), &edge, |out| edge.contains(out)).unwrap();
        assert_eq!(paths.len(), 10);
        assert_eq!(paths.mid_irreps().simplify().to_string(), "256x0e+384x1o+384x2e+256x3o");
    }

    #[test]
    fn both_orders_of_the_weights() {
        let paths =
            TensorProductPaths::new(&irreps("3x0e+2x1o"), &irreps("0e+1o"), |out| out == Irrep::even(0) || out == Irrep::odd(1)).unwrap();
        let listed: Vec<_> = paths.paths().iter().map(|p| (p.in1, p.in2, p.out.l)).collect();
        assert_eq!(listed, [(0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 0)]);
        assert_eq!(paths.sorted(), [0, 3, 1, 2]);
        assert_eq!(paths.weight_offsets(PathOrder::Generation), [0, 3, 6, 8]);
        assert_eq!(paths.weight_offsets(PathOrder::SortedByOutput), [0, 5, 8, 3]);
        let to_sorted = paths.weight_permutation(PathOrder::Generation, PathOrder::SortedByOutput);
        assert_eq!(to_sorted, [0, 1, 2, 8, 9, 3, 4, 5, 6, 7]);
        let back = paths.weight_permutation(PathOrder::SortedByOutput, PathOrder::Generation);
        assert!((0..10).all(|column| to_sorted[back[column]] == column));
    }

    #[test]
    fn coupling_carries_the_normalisation() {
        let paths = TensorProductPaths::new(&irreps("1x2e"), &irreps("2e"), |out| out.l == 3).unwrap();
        for convention in [Convention::E3nn04, Convention::E3nn05] {
            let coupling = paths.paths()[0].coupling(convention).unwrap();
            let squared: f64 = coupling.iter().map(|c| c.value * c.value).sum();
            assert!((squared - 7.0).abs() < 1e-13);
        }
    }

    #[test]
    fn skips_empty_blocks_and_refuses_channels_on_edges() {
        let paths = TensorProductPaths::new(&irreps("0x0e+2x1o"), &irreps("0e"), |_| true).unwrap();
        assert_eq!((paths.len(), paths.paths()[0].in1), (1, 1));
        assert!(TensorProductPaths::new(&irreps(""), &irreps("0e"), |_| true).unwrap().is_empty());
        let error = TensorProductPaths::new(&irreps("0e"), &irreps("0e+2x1o"), |_| true);
        assert_eq!(error, Err(CouplingError::EdgeMultiplicity { index: 1, block: "2x1o".to_owned() }));
        let huge = Irreps::new(vec![MulIrrep::new(Irreps::MAX_DIM, Irrep::even(0))]).unwrap();
        let error = TensorProductPaths::new(&huge, &irreps("0e+1o"), |_| true);
        assert!(matches!(error, Err(CouplingError::Output(_))));
    }
}
