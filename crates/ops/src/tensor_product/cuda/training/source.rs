//! The header of `kernels/cuda/training_convolution.cu`.

use std::fmt::Write;

use super::super::source::{BlockCode, Blocks, Given, WARP, close, combine, line, list, stride};
use crate::tensor_product::TensorProductSpec;

/// Shared memory of a warp, at most: of it two fit a block of threads that asks for no more than every GPU has.
const WARP_BYTES: usize = 24 << 10;
/// Radial features that the number of edges is chosen for.
const HIDDEN: usize = 64;

/// The code of a convolution for training.
pub(super) struct Code<'a> {
    spec: &'a TensorProductSpec,
    blocks: Blocks<'a>,
    /// 1 for derivatives along a direction, else 0.
    along: usize,
    /// Edges that a warp works on together.
    edges: usize,
}

impl<'a> Code<'a> {
    pub(super) fn new(spec: &'a TensorProductSpec, along: bool, real_bytes: usize) -> Self {
        let mut code = Self { spec, blocks: Blocks::new(spec, Given::Rows), along: usize::from(along), edges: 8 };
        while code.edges > 2 && code.shared(HIDDEN) * real_bytes > WARP_BYTES {
            code.edges /= 2;
        }
        code
    }

    /// Numbers of shared memory that a warp needs.
    pub(super) fn shared(&self, hidden: usize) -> usize {
        let copies = 1 + self.along;
        let edge = stride(self.blocks.sums.len()) + self.most(|b| b.paths.len()) * WARP + hidden;
        self.edges * (copies * edge + self.spec.dim_edge + hidden)
    }

    /// Slabs of channels of all blocks of features.
    pub(super) fn items(&self) -> usize {
        self.blocks.blocks.iter().map(BlockCode::slabs).sum()
    }

    /// Whether every column of the features is read by some path.
    pub(super) fn reads_all(&self) -> bool {
        self.blocks.read_all(self.spec)
    }

    fn most(&self, f: fn(&BlockCode<'_>) -> usize) -> usize {
        self.blocks.blocks.iter().map(f).max().unwrap_or(0).max(1)
    }

    pub(super) fn header(&self) -> String {
        let mut h = String::new();
        for (name, value) in [
            ("ALONG", self.along),
            ("EDGES", self.edges),
            ("STRIDE", stride(self.blocks.sums.len())),
            ("ITEMS", self.items()),
            ("MOST_PATHS", self.most(|b| b.paths.len())),
            ("MOST_COMPONENTS", self.most(|b| b.components)),
            ("MOST_OUTPUTS", self.most(|b| b.outputs)),
            ("DIM_IN", self.spec.dim_in),
            ("DIM_EDGE", self.spec.dim_edge),
            ("DIM_OUT", self.spec.dim_out),
            ("COLUMNS", self.spec.weight_numel),
        ] {
            line(&mut h, format_args!("#define {name} {value}"));
        }
        combine(&mut h, &self.blocks.sums, 1);
        for (b, block) in self.blocks.blocks.iter().enumerate() {
            block.open(&mut h, b);
            column(&mut h, block);
            block.features(&mut h, false);
            block.store_features(&mut h);
            block.load(&mut h);
            block.store(&mut h);
            block.forward(&mut h, Given::Rows, false);
            block.pull(&mut h, Given::Rows);
            block.by_radial(&mut h);
            block.by_harmonics(&mut h, Given::Rows);
            line(&mut h, format_args!("}};"));
        }
        list(&mut h, &self.blocks.blocks);
        h
    }
}

/// The first column of the radial matrix of each path of a block.
fn column(h: &mut String, block: &BlockCode<'_>) {
    let mut text = String::new();
    let (last, others) = block.paths.split_last().expect("a block has paths");
    for (k, code) in others.iter().enumerate() {
        let _ = write!(text, "p == {k} ? {}u : ", code.path.weight_offset);
    }
    line(h, format_args!("    static __device__ __forceinline__ u32 column(u32 p) {{"));
    line(h, format_args!("        return {text}{}u;", last.path.weight_offset));
    close(h);
}
