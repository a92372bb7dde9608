//! Features of atoms in the layout of the kernels: one array for each block of irreps, `[atoms][component][channel]`, channels padded to slabs.

use std::ops::Range;

use smallvec::SmallVec;
use tesseral_o3::Irreps;
use tesseral_ops::slab::{HasSlabs, padded};
use tesseral_ops::tensor_product::slabs::PaddedBlock;

/// One slice for each block: short, so that a step need not allocate for it.
pub(super) type Parts<'a, T> = SmallVec<[&'a [T]; 8]>;
/// As [`Parts`], to be written.
pub(super) type PartsMut<'a, T> = SmallVec<[&'a mut [T]; 8]>;

/// What a node saves: few kinds of features.
pub(super) type Saved<'a, T> = SmallVec<[Parts<'a, T>; 3]>;
/// As [`Saved`], to be written.
pub(super) type SavedMut<'a, T> = SmallVec<[PartsMut<'a, T>; 3]>;

/// The blocks of one kind of feature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shape(pub(super) Vec<PaddedBlock>);

impl Shape {
    pub(super) fn new<T: HasSlabs>(irreps: &Irreps) -> Self {
        Self(
            irreps
                .blocks_with_offsets()
                .map(|b| PaddedBlock {
                    offset: b.offset,
                    components: b.irrep.dim(),
                    channels: b.mul,
                    width: padded::<T>(b.mul),
                    runs: vec![(0, 0, b.mul)],
                })
                .collect(),
        )
    }

    pub(super) fn blocks(&self) -> &[PaddedBlock] {
        &self.0
    }

    /// The block that starts at `offset` of the unpadded layout.
    pub(super) fn at(&self, offset: usize) -> Option<usize> {
        self.0.iter().position(|b| b.offset == offset)
    }

    /// Numbers of one atom in block `b`.
    pub(super) fn row(&self, b: usize) -> usize {
        self.0[b].components * self.0[b].width
    }

    /// Numbers of one atom without padding.
    pub(super) fn plain_dim(&self) -> usize {
        self.0.iter().map(|b| b.components * b.channels).sum()
    }
}

/// Features of some atoms.
#[derive(Debug, Clone, Default)]
pub(super) struct Rows<T> {
    pub(super) blocks: Vec<Vec<T>>,
    /// Memory of blocks that are not there now, the last one first.
    spare: Vec<Vec<T>>,
}

impl<T: HasSlabs> Rows<T> {
    /// Makes room for `atoms` atoms. What was there stays where it is, new numbers are zero; memory is never given back.
    pub(super) fn resize(&mut self, shape: &Shape, atoms: usize) {
        while self.blocks.len() > shape.0.len() {
            self.spare.extend(self.blocks.pop());
        }
        while self.blocks.len() < shape.0.len() {
            self.blocks.push(self.spare.pop().unwrap_or_default());
        }
        for (b, block) in self.blocks.iter_mut().enumerate() {
            block.resize(atoms * shape.row(b), T::zero());
        }
    }

    pub(super) fn from_blocks(blocks: Vec<Vec<T>>) -> Self {
        Self { blocks, spare: Vec::new() }
    }

    pub(super) fn zeros(shape: &Shape, atoms: usize) -> Self {
        let mut rows = Self::from_blocks(Vec::new());
        rows.resize(shape, atoms);
        rows
    }

    pub(super) fn views(&self) -> Parts<'_, T> {
        self.blocks.iter().map(Vec::as_slice).collect()
    }

    /// The part of some atoms.
    pub(super) fn of(&self, shape: &Shape, atoms: Range<usize>) -> Parts<'_, T> {
        self.blocks.iter().enumerate().map(|(b, x)| &x[atoms.start * shape.row(b)..atoms.end * shape.row(b)]).collect()
    }

    pub(super) fn views_mut(&mut self) -> PartsMut<'_, T> {
        self.blocks.iter_mut().map(Vec::as_mut_slice).collect()
    }

    pub(super) fn bytes(&self) -> usize {
        self.blocks.iter().map(|b| b.capacity() * size_of::<T>()).sum()
    }

    /// From rows of the unpadded layout.
    pub(super) fn from_plain(shape: &Shape, plain: &[f64]) -> Self {
        let dim = shape.plain_dim();
        let atoms = plain.len() / dim.max(1);
        let mut rows = Self::zeros(shape, atoms);
        for (b, block) in shape.0.iter().enumerate() {
            for i in 0..atoms {
                for m in 0..block.components {
                    for c in 0..block.channels {
                        let value = plain[i * dim + block.offset + m * block.channels + c];
                        rows.blocks[b][(i * block.components + m) * block.width + c] = T::of(value);
                    }
                }
            }
        }
        rows
    }
}

/// Copies rows to the unpadded layout `[atoms, dim]`.
pub(super) fn pack<T: Copy>(shape: &Shape, from: &[&[T]], to: &mut [T]) {
    let dim = shape.plain_dim();
    for (block, from) in shape.0.iter().zip(from) {
        for (i, row) in to.chunks_exact_mut(dim.max(1)).enumerate() {
            for m in 0..block.components {
                row[block.offset + m * block.channels..][..block.channels]
                    .copy_from_slice(&from[(i * block.components + m) * block.width..][..block.channels]);
            }
        }
    }
}

/// Copies rows from the unpadded layout, or adds them.
pub(super) fn unpack<T: HasSlabs>(shape: &Shape, from: &[T], to: &mut [&mut [T]], add: bool) {
    let dim = shape.plain_dim();
    for (block, to) in shape.0.iter().zip(to) {
        if !add && block.width != block.channels {
            // Padding is multiplied with zeros later on, and must be finite for that.
            to.fill(T::zero());
        }
        for (i, row) in from.chunks_exact(dim.max(1)).enumerate() {
            for m in 0..block.components {
                let to = &mut to[(i * block.components + m) * block.width..][..block.channels];
                let from = &row[block.offset + m * block.channels..][..block.channels];
                if add {
                    to.iter_mut().zip(from).for_each(|(t, &f)| *t += f);
                } else {
                    to.copy_from_slice(from);
                }
            }
        }
    }
}

/// `to += from`
pub(super) fn add<T: HasSlabs>(to: &mut [&mut [T]], from: &[&[T]]) {
    for (to, from) in to.iter_mut().zip(from) {
        to.iter_mut().zip(*from).for_each(|(t, &f)| *t += f);
    }
}
