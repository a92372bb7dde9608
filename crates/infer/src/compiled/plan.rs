//! A checkpoint lowered for one head and precision: what the engine executes.

use tesseral_ops::linear::LinearSpec;
use tesseral_ops::radial::ScalarFunction;
use tesseral_ops::slab::HasSlabs;
use tesseral_potentials::mace::Fields;
use tesseral_potentials::{Architecture, Artifact, Parameters, PotentialError};

use super::convolution::Convolution;
use super::linear::Linear;
use super::node::Node;
use super::radial::{Pair, RadialBasis};
use super::rows::{Rows, Shape};
use crate::InferError;

/// One message-passing layer.
pub(super) struct Layer<T> {
    pub(super) convolution: Convolution<T>,
    /// Features that come in, what is sent along edges, messages, features that go out.
    pub(super) features: Shape,
    pub(super) sent: Shape,
    pub(super) messages: Shape,
    pub(super) out: Shape,
    pub(super) node: Node<T>,
    /// What the next layer sends, from the features that go out; its rows are multiplied with a number for each species, if there are any.
    pub(super) up: Option<(Linear<T>, Vec<f64>)>,
}

/// Where the first layer starts.
pub(super) struct Initial<T> {
    /// Features of each species, `[Z]` rows.
    pub(super) x: Rows<T>,
    /// What atoms of each species send first.
    pub(super) sent: Rows<T>,
    /// Charge, spin and the like, which make it differ from atom to atom.
    pub(super) fields: Option<FieldEmbedding<T>>,
}

/// The initial features of models with embedded fields.
pub(super) struct FieldEmbedding<T> {
    pub(super) fields: Fields,
    /// `[Z, K]`
    pub(super) embedding: candle_core::Tensor,
    /// What is sent, from the initial features.
    pub(super) up: Linear<T>,
    pub(super) head: usize,
}

/// From what the readouts give to the energy of an atom, by species: scale · readouts + shift, eV.
pub(super) struct Energies {
    pub(super) scale: Vec<f64>,
    pub(super) shift: Vec<f64>,
}

/// A pair repulsion.
pub(super) struct PairEnergy {
    /// Half the energy of a pair, eV, as a function of the distance.
    pub(super) of_pair: Box<dyn Fn(Pair) -> Option<ScalarFunction> + Send + Sync>,
    /// Whether the scale of the readouts applies to it.
    pub(super) scaled: bool,
}

/// A lowered model.
pub(super) struct Plan<T> {
    pub(super) cutoff: f64,
    pub(super) lmax: usize,
    pub(super) normalize: bool,
    pub(super) basis: RadialBasis,
    pub(super) initial: Initial<T>,
    pub(super) layers: Vec<Layer<T>>,
    pub(super) energies: Energies,
    pub(super) pair_energy: Option<PairEnergy>,
    pub(super) species: usize,
}

impl<T: HasSlabs> Plan<T> {
    pub(super) fn new(artifact: &Artifact, head: u32) -> Result<Self, InferError> {
        let p = Parameters::frozen(artifact, candle_core::DType::F64, &candle_core::Device::Cpu);
        let plan = match &artifact.header().architecture {
            Architecture::Mace(config) => super::mace::lower(config, &p, head as usize)?,
            Architecture::Nequip(config) => super::nequip::lower(config, &p, head as usize)?,
        };
        Ok(plan)
    }

    /// Floating-point operations of one evaluation, those that no arrangement of the computation avoids: radial tables, products and sums over `edges`,
    /// linear maps and polynomials of `atoms`.
    pub(super) fn flops(&self, atoms: usize, edges: usize) -> f64 {
        let lanes = tesseral_ops::slab::width::<T>();
        let of_layer = |layer: &Layer<T>| {
            let [forward, adjoint] = layer.convolution.plan.operations(layer.convolution.unit);
            let up = layer.up.as_ref().map_or(0, |(up, _)| 2 * up.operations());
            2.0 * (edges as f64 * (lanes * (forward + adjoint)) as f64 + atoms as f64 * (layer.node.operations() + up) as f64)
        };
        self.layers.iter().map(of_layer).sum()
    }

    /// What a structure takes with neighbours listed up to `reach` (Å): estimated from its density, before anything is listed.
    pub(super) fn memory(&self, structure: &tesseral_atoms::Structure, reach: f64) -> MemoryPlan {
        self.memory_of(structure.len(), [0; 2], expected_neighbors(structure, reach))
    }

    /// What atoms with so many neighbours each take, estimated, where they see ghosts too, and copies of any of them.
    pub(super) fn memory_of(&self, atoms: usize, [ghosts, copies]: [usize; 2], neighbors: f64) -> MemoryPlan {
        let edges = atoms as f64 * neighbors;
        let t = size_of::<T>() as f64;
        let dim = |shape: &Shape| (0..shape.blocks().len()).map(|b| shape.row(b)).sum::<usize>() as f64;
        let inner = &self.layers[..self.layers.len() - 1];
        let features: f64 = inner.iter().map(|l| dim(&l.out)).sum::<f64>() + self.layers[1..].iter().map(|l| dim(&l.sent)).sum::<f64>();
        let saved: f64 = inner.iter().map(|l| l.node.saved().into_iter().map(dim).sum::<f64>()).sum();
        let cotangents = 2.0 * self.layers[1..].iter().map(|l| dim(&l.features) + dim(&l.sent)).fold(0.0, f64::max);
        let row = self.layers[1..].iter().map(|l| l.convolution.plan.row()).max().unwrap_or(0) as f64;
        // Rows of a domain beside its atoms: about ten where atoms are many, and never more than edges.
        let rows = atoms as f64 * neighbors.min(10.0);
        // Positions, energies, forces, indices of an atom; rows and their entries; of an edge what the list is made from, which is most.
        let fixed = 250.0 * atoms as f64 + 30.0 * rows + edges * (56.0 + 3.0 * t);
        // Of a ghost: what it sends in every layer, cotangents of it, and both once more while they are exchanged.
        let sent = self.layers[1..].iter().map(|l| dim(&l.sent));
        let exchanged = if ghosts == 0 { 0.0 } else { sent.clone().fold(0.0, f64::max) };
        let fixed = fixed + ghosts as f64 * (100.0 + t * (sent.sum::<f64>() + 2.0 * exchanged));
        let fixed = fixed + 60.0 * copies as f64 + (atoms + ghosts + copies) as f64 * t * exchanged;
        let wave = |limit: usize| rows.min(limit as f64) * row * t;
        let least = fixed + atoms as f64 * t * (features + cotangents) + wave(super::topology::SHORT_WAVE_ROWS);
        let bytes = fixed + atoms as f64 * t * (features + cotangents + saved) + wave(super::topology::WAVE_ROWS);
        MemoryPlan { atoms, edges: edges as u64, bytes: bytes as usize, least: least as usize }
    }

    /// Constants of the first layer for rows of initial features and what they send.
    pub(super) fn constants(&self, x: &Rows<T>, sent: &Rows<T>, atoms: usize, groups: &[super::linear::Group]) -> Vec<Rows<T>> {
        self.layers[0].node.constants(&x.views(), &sent.views(), atoms, groups)
    }
}

/// What the evaluation of a structure takes, estimated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Atoms.
    pub atoms: usize,
    /// Directed edges within the reach of the neighbour list.
    pub edges: u64,
    /// Bytes beside the model's own.
    pub bytes: usize,
    /// Bytes if what layers save is computed again, which is slower.
    pub least: usize,
}

/// Neighbours of an atom within `reach` (Å), from the density of the structure; of what is not periodic, the density of a solid.
pub(super) fn expected_neighbors(structure: &tesseral_atoms::Structure, reach: f64) -> f64 {
    /// Atoms per Å³ of a dense solid.
    const SOLID: f64 = 0.1;
    let sphere = 4.0 / 3.0 * std::f64::consts::PI * reach.powi(3);
    let volume = structure.cell.volume();
    if structure.pbc == [true; 3] && volume > 0.0 {
        structure.len() as f64 / volume * sphere
    } else {
        (structure.len() as f64).min(SOLID * sphere)
    }
}

pub(super) fn config_error(what: impl Into<String>, reason: impl ToString) -> PotentialError {
    PotentialError::Config { what: what.into(), reason: reason.to_string() }
}

/// Multiplies each row with the factor of its species; no factors, nothing to do.
pub(super) fn scale_rows<T: HasSlabs>(shape: &Shape, factors: &[f64], species: impl Fn(usize) -> u32, rows: &mut [&mut [T]]) {
    if factors.is_empty() {
        return;
    }
    for (b, block) in rows.iter_mut().enumerate() {
        for (i, row) in block.chunks_exact_mut(shape.row(b)).enumerate() {
            let factor = T::of(factors[species(i) as usize]);
            row.iter_mut().for_each(|x| *x *= factor);
        }
    }
}

/// A linear map on rows of the unpadded layout, in f64.
pub(super) fn apply_plain(spec: &LinearSpec, flat: &[f64], x: &[f64]) -> Vec<f64> {
    let n = x.len() / spec.dim_in.max(1);
    let mut y = vec![0.0; n * spec.dim_out];
    for i in 0..n {
        for w in &spec.instructions {
            for m in 0..w.components {
                for u in 0..w.mul_in {
                    let x = x[i * spec.dim_in + w.in_offset + m * w.mul_in + u] * w.scale;
                    let weights = &flat[w.weight_offset + u * w.mul_out..][..w.mul_out];
                    let y = &mut y[i * spec.dim_out + w.out_offset + m * w.mul_out..][..w.mul_out];
                    y.iter_mut().zip(weights).for_each(|(y, w)| *y += x * w);
                }
            }
        }
    }
    y
}
