//! What happens to the messages of an atom: the part of a layer that needs nobody else.

use smallvec::{SmallVec, smallvec};
use tesseral_ops::gate::{GateSpec, cpu as gate};
use tesseral_ops::slab::HasSlabs;
use tesseral_ops::symmetric_contraction::sparse;

use super::linear::{Group, ScalarScratch};
use super::mace::MaceNode;
use super::nequip::NequipNode;
use super::rows::{Parts, PartsMut, Rows, Shape, pack, unpack};

/// The atoms of a domain and what they bring.
pub(super) struct Own<'a, T> {
    pub(super) atoms: usize,
    pub(super) groups: &'a [Group],
    /// In the first layer: what [`Node::constants`] gave, and which row of it belongs to each atom.
    pub(super) constants: Option<(&'a [Rows<T>], &'a [u32])>,
    /// Their features, in later layers.
    pub(super) x: Parts<'a, T>,
    /// What they send to their neighbours, in later layers.
    pub(super) up: Parts<'a, T>,
    /// Densities.
    pub(super) rho: &'a [T],
}

/// Cotangents that a node gives back.
pub(super) struct Back<'a, 'b, T> {
    /// Of the messages.
    pub(super) messages: &'a mut Rows<T>,
    /// Of the features; empty in the first layer.
    pub(super) x: &'a mut [&'b mut [T]],
    /// Of what the atoms send, added; empty in the first layer.
    pub(super) up: &'a mut [&'b mut [T]],
    /// Of the densities.
    pub(super) rho: &'a mut [T],
}

/// Buffers of a thread.
pub(super) struct NodeWork<T> {
    pub(super) a: Rows<T>,
    pub(super) b: Rows<T>,
    pub(super) c: Rows<T>,
    pub(super) gate: GateWork<T>,
    pub(super) contraction: sparse::Scratch<T>,
    pub(super) scalars: ScalarScratch<T>,
}

/// Buffers of a gate: what goes in and out in the plain layout, and activated gates.
#[derive(Default)]
pub(super) struct GateWork<T> {
    plain: [Vec<T>; 3],
    activated: [Vec<T>; 3],
}

impl<T: HasSlabs> Default for NodeWork<T> {
    fn default() -> Self {
        let none = || Rows::from_blocks(Vec::new());
        Self {
            a: none(),
            b: none(),
            c: none(),
            gate: GateWork::default(),
            contraction: sparse::Scratch::default(),
            scalars: ScalarScratch::default(),
        }
    }
}

/// The node of a layer.
pub(super) enum Node<T> {
    Mace(Box<MaceNode<T>>),
    Nequip(Box<NequipNode<T>>),
}

impl<T: HasSlabs> Node<T> {
    /// What has to be kept between forward and adjoint.
    pub(super) fn saved(&self) -> SmallVec<[&Shape; 3]> {
        match self {
            Self::Mace(node) => node.saved(),
            Self::Nequip(node) => smallvec![&node.gate_in],
        }
    }

    /// What the first layer adds that depends on the initial features alone, in rows like `x` and `up`, its features and what they send.
    pub(super) fn constants(&self, x: &[&[T]], up: &[&[T]], atoms: usize, groups: &[Group]) -> Vec<Rows<T>> {
        match self {
            Self::Mace(node) => node.constants(x, up, atoms, groups),
            Self::Nequip(node) => node.constants(x, atoms, groups),
        }
    }

    /// The shapes of [`Self::constants`].
    pub(super) fn constant_shapes(&self) -> [&Shape; 2] {
        match self {
            Self::Mace(node) => node.constant_shapes(),
            Self::Nequip(node) => [&node.gate.from, &node.gate.to],
        }
    }

    /// Messages → features that go out, and what is saved.
    pub(super) fn forward(
        &self,
        own: &Own<'_, T>,
        messages: &Rows<T>,
        saved: &mut [PartsMut<'_, T>],
        out: &mut [&mut [T]],
        work: &mut NodeWork<T>,
    ) {
        match self {
            Self::Mace(node) => node.forward(own, messages, saved, out, work),
            Self::Nequip(node) => node.forward(own, messages, saved, out, work),
        }
    }

    /// Cotangents from those of the features that go out, `g`, to which the readouts of these features add; the energies that they read are
    /// added to `energies`, `seeds` are the derivatives of the total energy by them.
    pub(super) fn adjoint(
        &self,
        own: &Own<'_, T>,
        saved: &[Parts<'_, T>],
        out: &[&[T]],
        g: &mut [&mut [T]],
        (energies, seeds): (&mut [f64], &[T]),
        back: &mut Back<'_, '_, T>,
        work: &mut NodeWork<T>,
    ) {
        match self {
            Self::Mace(node) => node.adjoint(own, saved, out, g, (energies, seeds), back, work),
            Self::Nequip(node) => node.adjoint(own, saved, out, g, (energies, seeds), back, work),
        }
    }

    /// Makes what depends on a species.
    pub(super) fn prepare(&self, species: u32) {
        match self {
            Self::Mace(node) => node.prepare(species),
            Self::Nequip(node) => node.prepare(species),
        }
    }

    /// Multiply-adds on matrices and on slabs for one atom, forward and adjoint together.
    pub(super) fn operations(&self) -> usize {
        match self {
            Self::Mace(node) => node.operations(),
            Self::Nequip(node) => node.operations(),
        }
    }
}

/// Adds the row of constants of each atom.
pub(super) fn add_constants<T: HasSlabs>(shape: &Shape, constants: &Rows<T>, index: &[u32], to: &mut [&mut [T]]) {
    for (b, (to, from)) in to.iter_mut().zip(&constants.blocks).enumerate() {
        let row = shape.row(b);
        for (to, &source) in to.chunks_exact_mut(row).zip(index) {
            let from = &from[source as usize * row..][..row];
            to.iter_mut().zip(from).for_each(|(t, &f)| *t += f);
        }
    }
}

/// A gate between two shapes.
pub(super) struct Gate {
    pub(super) spec: GateSpec,
    pub(super) from: Shape,
    pub(super) to: Shape,
}

impl Gate {
    pub(super) fn forward<T: HasSlabs>(&self, x: &[&[T]], y: &mut [&mut [T]], atoms: usize, work: &mut GateWork<T>) {
        let GateWork { plain: [px, py, _], activated } = work;
        px.resize(atoms * self.from.plain_dim(), T::zero());
        py.resize(atoms * self.to.plain_dim(), T::zero());
        pack(&self.from, x, px);
        gate::evaluate_here(&self.spec, px, py, activated);
        unpack(&self.to, py, y, false);
    }

    pub(super) fn adjoint<T: HasSlabs>(&self, x: &[&[T]], g: &[&[T]], dx: &mut [&mut [T]], atoms: usize, work: &mut GateWork<T>) {
        let GateWork { plain: [px, pg, pd], activated } = work;
        px.resize(atoms * self.from.plain_dim(), T::zero());
        pg.resize(atoms * self.to.plain_dim(), T::zero());
        pd.resize(px.len(), T::zero());
        pack(&self.from, x, px);
        pack(&self.to, g, pg);
        gate::adjoint_here(&self.spec, px, pg, pd, activated);
        unpack(&self.from, pd, dx, false);
    }
}

/// Reborrows parts for reading.
pub(super) fn read<'a, T>(x: &'a [&mut [T]]) -> Parts<'a, T> {
    x.iter().map(|b| &**b).collect()
}
