//! The kernels and weights of a lowered model on a device.

use std::sync::Arc;

use rayon::prelude::*;
use tesseral_atoms::Structure;
use tesseral_kernels::edges::{Cutoffs, EdgeKernels};
use tesseral_kernels::forces::ForceKernels;
use tesseral_kernels::neighbors::DeviceList;
use tesseral_kernels::pairs::{PairConstants, Repulsion};
use tesseral_kernels::{Buffer, Device};
use tesseral_ops::radial::ScalarFunction;
use tesseral_ops::radial::cuda::{DeviceDensity, DeviceTables};
use tesseral_ops::rows::DeviceRows;
use tesseral_ops::slab::HasSlabs;
use tesseral_ops::symmetric_contraction::cuda::DeviceContraction;
use tesseral_ops::tensor_product::cuda::DeviceConvolution;

use super::super::convolution::Radial;
use super::super::node::Node;
use super::super::passes::TablesOf;
use super::super::plan::{Layer, MemoryPlan, Plan, expected_neighbors};
use super::super::radial::Pair;
use super::super::rows::Shape;
use super::node::{DeviceNode, Mace, Map, Nequip};
use crate::InferError;

/// What is there for the atoms of one part takes about this many bytes at most.
const PART_BYTES: usize = 2 << 30;
/// Atoms of a part at least.
const LEAST_PART: usize = 8;

/// One layer.
pub(super) struct DeviceLayer<T: HasSlabs> {
    pub(super) convolution: DeviceConvolution<T>,
    pub(super) density: Option<DeviceDensity<T>>,
    pub(super) node: DeviceNode<T>,
    /// What the next layer sends, and factors by species.
    pub(super) up: Option<(Map<T>, Option<Buffer<T>>)>,
    /// Lengths of a row of features that come in, what is sent, messages.
    pub(super) features: usize,
    pub(super) sent: usize,
    pub(super) messages: usize,
}

/// A lowered model on a device.
pub(super) struct DeviceModel<T: HasSlabs> {
    pub(super) device: Device,
    pub(super) plan: Arc<Plan<T>>,
    part_bytes: usize,
    pub(super) layers: Vec<DeviceLayer<T>>,
    pub(super) rows: DeviceRows<T>,
    pub(super) edges: EdgeKernels<T>,
    pub(super) forces: ForceKernels<T>,
    pub(super) lists: DeviceList,
    /// Scale and shift of each species, eV.
    pub(super) scale: Buffer<f64>,
    pub(super) shift: Buffer<f64>,
}

impl<T: HasSlabs> DeviceModel<T> {
    /// Compiles all kernels and uploads all weights. Where memory is short, a `limit` of bytes on what grows with structures, parts are smaller.
    pub(super) fn new(device: &Device, plan: &Arc<Plan<T>>, limit: Option<usize>) -> Result<Self, InferError> {
        let layers = plan.layers.par_iter().map(|layer| Self::layer(device, plan, layer)).collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            device: device.clone(),
            layers,
            rows: DeviceRows::new(device)?,
            edges: EdgeKernels::new(device)?,
            forces: ForceKernels::new(device)?,
            lists: DeviceList::new(device)?,
            scale: device.upload(&plan.energies.scale)?,
            shift: device.upload(&plan.energies.shift)?,
            plan: plan.clone(),
            part_bytes: limit.map_or(PART_BYTES, |limit| PART_BYTES.min(limit / 16)),
        })
    }

    fn layer(device: &Device, plan: &Plan<T>, layer: &Layer<T>) -> Result<DeviceLayer<T>, InferError> {
        let convolution = &layer.convolution;
        let node = match &layer.node {
            Node::Mace(node) => DeviceNode::Mace(Box::new(Mace::new(device, node)?)),
            Node::Nequip(node) => DeviceNode::Nequip(Box::new(Nequip::new(device, node)?)),
        };
        let up = match &layer.up {
            None => None,
            Some((up, factors)) => {
                let factors =
                    if factors.is_empty() { None } else { Some(device.upload(&factors.iter().map(|&f| T::of(f)).collect::<Vec<T>>())?) };
                Some((Map::new(device, up)?, factors))
            }
        };
        Ok(DeviceLayer {
            convolution: DeviceConvolution::new(device, &convolution.spec, plan.lmax, plan.normalize, convolution.unit)?,
            density: convolution.density.as_ref().map(|_| DeviceDensity::new(device)).transpose()?,
            node,
            up,
            features: layer.features.plain_dim(),
            sent: convolution.spec.dim_in,
            messages: convolution.spec.irreps_out.dim(),
        })
    }

    /// What a structure takes with neighbours listed up to `reach` (Å): estimated from its density. `least` is with the smallest parts.
    pub(super) fn memory(&self, structure: &Structure, reach: f64) -> MemoryPlan {
        let t = size_of::<T>() as f64;
        let atoms = structure.len() as f64;
        let edges = atoms * expected_neighbors(structure, reach);
        let kept = |layer: &Layer<T>| layer.node.saved().into_iter().map(Shape::plain_dim).sum::<usize>();
        let (last, inner) = match self.plan.layers.split_last() {
            Some((last, inner)) => (Some(last), inner),
            None => (None, &[][..]),
        };
        let lasting: usize = inner.iter().zip(&self.layers[1..]).map(|(l, next)| l.out.plain_dim() + kept(l) + next.sent).sum();
        let cotangents = self.layers[1..].iter().map(|l| 2 * (l.features + l.sent)).max().unwrap_or(0);
        // One layer's messages with their cotangents, and the node in between.
        let passing = |layer: &Layer<T>| 2 * layer.convolution.spec.irreps_out.dim() + 2 * kept(layer);
        let inside = inner.iter().map(passing).max().unwrap_or(0);
        let per_edge = self.layers[1..].iter().map(|l| l.sent).max().unwrap_or(0) as f64;
        // The list and its edges, with derivatives: 18, 24 and six numbers.
        let fixed = 250.0 * atoms + edges * (50.0 + 6.0 * t) + atoms * t * (lasting + cotangents + inside) as f64;
        let at_once = atoms * t * last.map_or(0, passing) as f64 + edges * t * per_edge;
        MemoryPlan {
            atoms: structure.len(),
            edges: edges as u64,
            bytes: (fixed + at_once.min(self.part_bytes as f64)) as usize,
            least: (fixed + at_once / atoms.max(1.0) * LEAST_PART as f64) as usize,
        }
    }

    /// How many atoms of `atoms`, which have room for `edges`, are computed together where not all need be.
    pub(super) fn part_atoms(&self, atoms: usize, edges: usize) -> usize {
        let row = self.layers[1..].iter().map(|layer| layer.sent).max().unwrap_or(0);
        // Messages and their cotangents, and about as much in the node, beside the rows of the edges.
        let node = self.layers.iter().map(|layer| 4 * layer.messages).max().unwrap_or(0);
        let bytes = (edges as f64 / atoms.max(1) as f64 * row as f64 + node as f64) * size_of::<T>() as f64;
        ((self.part_bytes as f64 / bytes.max(1.0)) as usize).clamp(LEAST_PART, atoms.max(LEAST_PART))
    }

    /// Radial tables of all layers for the species that are present: weights, and densities where there are any.
    fn tables(&self, present: &[u32]) -> Result<Vec<LayerTables<T>>, InferError> {
        let of = |radial: &Radial<T>| -> Result<DeviceTables<T>, InferError> {
            let tables = TablesOf::new(radial, &self.plan, present, false)?;
            let columns: Vec<_> = tables.tables.iter().map(|t| t.columns(radial.sections(), radial.columns())).collect();
            let of_pair: Vec<u32> = tables.of_pair.iter().map(|&t| u32::from(t)).collect();
            Ok(DeviceTables::new(&self.device, &columns, &of_pair)?)
        };
        self.plan
            .layers
            .par_iter()
            .map(|layer| {
                let convolution = &layer.convolution;
                Ok(LayerTables { weights: of(&convolution.radial)?, density: convolution.density.as_ref().map(of).transpose()? })
            })
            .collect()
    }

    /// What depends on which species there are.
    pub(super) fn of_species(&self, present: Vec<u32>) -> Result<OfSpecies<T>, InferError> {
        let plan = &self.plan;
        let pairs = || present.iter().flat_map(|&center| present.iter().map(move |&neighbor| Pair { center, neighbor }));
        // Edges come in pairs: where cutoffs depend on the order, the longer one counts, beyond its own cutoff a table is zero.
        let cutoff = |pair: Pair| plan.basis.cutoff(pair).max(plan.basis.cutoff(Pair { center: pair.neighbor, neighbor: pair.center }));
        let squared: Vec<f64> = pairs().map(|pair| cutoff(pair).powi(2)).collect();
        let repulsion = match &plan.pair_energy {
            None => None,
            Some(energy) => {
                let functions: Vec<Option<ScalarFunction>> = pairs().map(|pair| (energy.of_pair)(pair)).collect();
                let factors: Vec<f64> =
                    pairs().map(|pair| if energy.scaled { plan.energies.scale[pair.center as usize] } else { 1.0 }).collect();
                repulsion(&self.device, &functions, &factors)?
            }
        };
        Ok(OfSpecies {
            tables: self.tables(&present)?,
            contractions: self.contractions(&present)?,
            cutoffs: Cutoffs::new(&self.device, present.len(), &squared)?,
            pairs: repulsion,
            present,
        })
    }

    /// The products of the layers that have one, with their coefficients for the species that are present.
    fn contractions(&self, present: &[u32]) -> Result<Vec<Option<DeviceContraction<T>>>, InferError> {
        let of = |layer: &Layer<T>| {
            let Node::Mace(node) = &layer.node else { return Ok(None) };
            let species = if node.by_element { present } else { &present[..1.min(present.len())] };
            let coefficients: Vec<f64> = species.iter().flat_map(|&s| node.plain_coefficients(s)).collect();
            Ok(Some(DeviceContraction::new(&self.device, node.basis.spec(), node.channels, &coefficients)?))
        };
        self.plan.layers.par_iter().map(of).collect()
    }
}

/// The repulsion of all pairs of species.
fn repulsion<T: HasSlabs>(
    device: &Device,
    functions: &[Option<ScalarFunction>],
    factors: &[f64],
) -> Result<Option<Repulsion<T>>, InferError> {
    let mut common = None;
    let mut constants = Vec::new();
    for (function, &factor) in functions.iter().zip(factors) {
        let none = PairConstants { strength: 0.0, inverse_length: 0.0, cutoff: 0.0, factor };
        constants.push(match function {
            None => none,
            Some(ScalarFunction::Zbl { strength, inverse_length, screening, cutoffs, p }) => {
                if *common.get_or_insert((*screening, *p)) != (*screening, *p) {
                    return Err(InferError::NotOnDevice { what: "pair repulsions of several kinds" });
                }
                PairConstants { strength: strength[0], inverse_length: inverse_length[0], cutoff: cutoffs[0], factor }
            }
            Some(_) => return Err(InferError::NotOnDevice { what: "a pair repulsion other than ZBL" }),
        });
    }
    let Some((screening, p)) = common else { return Ok(None) };
    Ok(Some(Repulsion::new(device, &screening, p, &constants)?))
}

/// What depends on which species there are.
pub(super) struct OfSpecies<T: HasSlabs> {
    /// Species that are present, as the model counts them.
    pub(super) present: Vec<u32>,
    pub(super) tables: Vec<LayerTables<T>>,
    /// Of each layer, if there is one.
    pub(super) contractions: Vec<Option<DeviceContraction<T>>>,
    pub(super) cutoffs: Cutoffs,
    pub(super) pairs: Option<Repulsion<T>>,
}

impl<T: HasSlabs> OfSpecies<T> {
    /// The place of each species among those that are present.
    pub(super) fn among_present(&self, species: &[u32]) -> Vec<u32> {
        species.iter().map(|s| self.present.binary_search(s).unwrap_or_default() as u32).collect()
    }
}

/// Radial tables of a layer.
pub(super) struct LayerTables<T: HasSlabs> {
    pub(super) weights: DeviceTables<T>,
    pub(super) density: Option<DeviceTables<T>>,
}
