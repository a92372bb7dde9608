//! The graph of a batch of structures, and sums and gathers over it.
//!
//! Edges are sorted by their centre (compressed rows) and every edge knows its reverse, so that each sum has one owner and a fixed order:
//! no atomics, the same bits for any number of threads.

pub mod cuda;

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;
use tesseral_kernels::{Buffer, Device, DeviceError};

use self::cuda::{DeviceSegments, DeviceSums};
use crate::on_device::{OnDevice, Operand, cuda_fwd, lasting, twin};
use crate::real::{Real, dispatch_real, slice};
use crate::rows::{DeviceIndex, DeviceRows};

/// Rows in consecutive segments: edges of a centre, atoms of a structure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segments {
    offsets: Vec<usize>,
}

/// What is wrong with the connectivity handed to [`Graph::new`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum GraphError {
    /// Offsets do not start at zero or decrease.
    #[error("segment offsets must start at 0 and never decrease (offset {index})")]
    Offsets {
        /// Where it happens.
        index: usize,
    },
    /// An index points outside the graph.
    #[error("edge {edge} points to atom {neighbor} of {atoms}")]
    Neighbor {
        /// The edge.
        edge: usize,
        /// What it points to.
        neighbor: u32,
        /// How many atoms there are.
        atoms: usize,
    },
    /// The reverse of an edge is not its reverse.
    #[error("edge {edge} and its reverse do not belong together")]
    Reverse {
        /// The edge.
        edge: usize,
    },
}

impl Segments {
    /// Segments from `n + 1` ascending offsets that start at 0.
    ///
    /// # Errors
    /// [`GraphError::Offsets`] if they are not.
    pub fn new(offsets: Vec<usize>) -> std::result::Result<Self, GraphError> {
        if offsets.first() != Some(&0) {
            return Err(GraphError::Offsets { index: 0 });
        }
        if let Some(index) = offsets.windows(2).position(|w| w[0] > w[1]) {
            return Err(GraphError::Offsets { index: index + 1 });
        }
        Ok(Self { offsets })
    }

    /// How many segments.
    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Whether there is no segment.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many rows in all.
    pub fn rows(&self) -> usize {
        self.offsets[self.len()]
    }

    /// The rows of one segment.
    pub fn range(&self, segment: usize) -> std::ops::Range<usize> {
        self.offsets[segment]..self.offsets[segment + 1]
    }

    /// The offsets, one more than there are segments.
    pub fn offsets(&self) -> &[usize] {
        &self.offsets
    }
}

/// The directed edges of a batch: centre ← neighbour, sorted by centre.
#[derive(Debug, Clone)]
pub struct Graph {
    segments: Arc<Segments>,
    centers: Arc<Vec<u32>>,
    neighbors: Arc<Vec<u32>>,
    reverse: Arc<Vec<u32>>,
}

impl Graph {
    /// A graph from compressed rows; `reverse[e]` is the edge from the neighbour of `e` back to its centre.
    ///
    /// # Errors
    /// A [`GraphError`] that names the first edge that is inconsistent.
    pub fn new(offsets: Vec<usize>, neighbors: Vec<u32>, reverse: Vec<u32>) -> std::result::Result<Self, GraphError> {
        let segments = Segments::new(offsets)?;
        let (atoms, edges) = (segments.len(), segments.rows());
        if neighbors.len() != edges || reverse.len() != edges {
            return Err(GraphError::Offsets { index: atoms });
        }
        let mut centers = vec![0u32; edges];
        for i in 0..atoms {
            centers[segments.range(i)].fill(i as u32);
        }
        for (edge, (&neighbor, &back)) in neighbors.iter().zip(&reverse).enumerate() {
            if neighbor as usize >= atoms {
                return Err(GraphError::Neighbor { edge, neighbor, atoms });
            }
            let back = back as usize;
            if back >= edges || reverse[back] as usize != edge || neighbors[back] != centers[edge] || centers[back] != neighbor {
                return Err(GraphError::Reverse { edge });
            }
        }
        Ok(Self { segments: Arc::new(segments), centers: Arc::new(centers), neighbors: Arc::new(neighbors), reverse: Arc::new(reverse) })
    }

    /// How many atoms.
    pub fn num_atoms(&self) -> usize {
        self.segments.len()
    }

    /// How many directed edges.
    pub fn num_edges(&self) -> usize {
        self.neighbors.len()
    }

    /// The edges of each centre.
    pub fn segments(&self) -> &Arc<Segments> {
        &self.segments
    }

    /// The centre of each edge.
    pub fn centers(&self) -> &[u32] {
        &self.centers
    }

    /// The neighbour of each edge.
    pub fn neighbors(&self) -> &[u32] {
        &self.neighbors
    }

    /// The reverse of each edge.
    pub fn reverse(&self) -> &[u32] {
        &self.reverse
    }

    /// What clones of a graph share: other graphs have another.
    pub(crate) fn identity(&self) -> &Arc<Vec<u32>> {
        &self.reverse
    }

    /// Sums rows over the edges of each centre: `[E, k]` → `[N, k]`.
    ///
    /// # Errors
    /// If the shape or type does not fit.
    pub fn sum_over_centers(&self, edges: &Tensor) -> Result<Tensor> {
        segment_sum(edges, &self.segments)
    }

    /// Sums rows over the edges that point to each neighbour: `[E, k]` → `[N, k]`.
    ///
    /// # Errors
    /// If the shape or type does not fit.
    pub fn sum_over_neighbors(&self, edges: &Tensor) -> Result<Tensor> {
        segment_sum(&self.reversed(edges)?, &self.segments)
    }

    /// Each edge's row from its centre: `[N, k]` → `[E, k]`.
    ///
    /// # Errors
    /// If the shape or type does not fit.
    pub fn of_centers(&self, nodes: &Tensor) -> Result<Tensor> {
        segment_broadcast(nodes, &self.segments)
    }

    /// Each edge's row from its neighbour: `[N, k]` → `[E, k]`.
    ///
    /// # Errors
    /// If the shape or type does not fit.
    pub fn of_neighbors(&self, nodes: &Tensor) -> Result<Tensor> {
        self.reversed(&self.of_centers(nodes)?)
    }

    /// Each edge's row from its reverse edge: `[E, k]` → `[E, k]`; its own inverse and its own adjoint.
    ///
    /// # Errors
    /// If the shape or type does not fit.
    pub fn reversed(&self, edges: &Tensor) -> Result<Tensor> {
        edges.contiguous()?.apply_op1(Reversed { reverse: self.reverse.clone() })
    }

    /// Forces (eV/Å, `[N, 3]`) from the derivative of the energy by the edge vectors (`[E, 3]`), `r_neighbour − r_centre`:
    /// F_k = Σ_{e: centre k} dE/dv_e − Σ_{e: neighbour k} dE/dv_e.
    ///
    /// # Errors
    /// If the shape or type does not fit.
    pub fn forces(&self, gradient: &Tensor) -> Result<Tensor> {
        self.sum_over_centers(&(gradient - self.reversed(gradient)?)?)
    }
}

/// Sums the rows of each segment: `[rows, k]` → `[segments, k]`.
///
/// # Errors
/// If the shape or type does not fit.
pub fn segment_sum(rows: &Tensor, segments: &Arc<Segments>) -> Result<Tensor> {
    rows.contiguous()?.apply_op1(SegmentSum { segments: segments.clone() })
}

/// Repeats each segment's row for every row in it: `[segments, k]` → `[rows, k]`.
///
/// # Errors
/// If the shape or type does not fit.
pub fn segment_broadcast(values: &Tensor, segments: &Arc<Segments>) -> Result<Tensor> {
    values.contiguous()?.apply_op1(SegmentBroadcast { segments: segments.clone() })
}

/// Rows of work that one task takes: fixed, so that results do not depend on the number of threads.
const BLOCK: usize = 512;

struct SegmentSum {
    segments: Arc<Segments>,
}
struct SegmentBroadcast {
    segments: Arc<Segments>,
}
struct Reversed {
    reverse: Arc<Vec<u32>>,
}

fn two_dims(layout: &Layout, rows: usize, op: &'static str) -> Result<usize> {
    match layout.dims() {
        &[r, k] if r == rows => Ok(k),
        dims => Err(candle_core::Error::Msg(format!("{op}: expected [{rows}, k], got {dims:?}")).bt()),
    }
}

fn segment_sum_kernel<T: Real>(x: &[T], segments: &Segments, k: usize) -> Vec<T> {
    let mut out = vec![T::zero(); segments.len() * k];
    if k > 0 {
        out.par_chunks_mut(BLOCK * k).enumerate().for_each(|(block, rows)| {
            for (row, sum) in rows.chunks_exact_mut(k).enumerate() {
                for e in segments.range(block * BLOCK + row) {
                    for (s, &v) in sum.iter_mut().zip(&x[e * k..(e + 1) * k]) {
                        *s += v;
                    }
                }
            }
        });
    }
    out
}

fn segment_broadcast_kernel<T: Real>(x: &[T], segments: &Segments, k: usize) -> Vec<T> {
    let mut out = Vec::with_capacity(segments.rows() * k);
    for i in 0..segments.len() {
        for _ in segments.range(i) {
            out.extend_from_slice(&x[i * k..(i + 1) * k]);
        }
    }
    out
}

impl CustomOp1 for SegmentSum {
    fn name(&self) -> &'static str {
        "segment-sum"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let k = two_dims(layout, self.segments.rows(), self.name())?;
        dispatch_real!(storage, self.name(), |T| {
            let out = segment_sum_kernel::<T>(slice(storage, layout)?, &self.segments, k);
            Ok((<T as candle_core::WithDType>::to_cpu_storage_owned(out), (self.segments.len(), k).into()))
        })
    }

    cuda_fwd!(x lx);

    fn bwd(&self, _: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(segment_broadcast(grad, &self.segments)?))
    }
}

impl CustomOp1 for SegmentBroadcast {
    fn name(&self) -> &'static str {
        "segment-broadcast"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let k = two_dims(layout, self.segments.len(), self.name())?;
        dispatch_real!(storage, self.name(), |T| {
            let out = segment_broadcast_kernel::<T>(slice(storage, layout)?, &self.segments, k);
            Ok((<T as candle_core::WithDType>::to_cpu_storage_owned(out), (self.segments.rows(), k).into()))
        })
    }

    cuda_fwd!(x lx);

    fn bwd(&self, _: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(segment_sum(grad, &self.segments)?))
    }
}

impl CustomOp1 for Reversed {
    fn name(&self) -> &'static str {
        "reversed-edges"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let k = two_dims(layout, self.reverse.len(), self.name())?;
        dispatch_real!(storage, self.name(), |T| {
            let x: &[T] = slice(storage, layout)?;
            let mut out = Vec::with_capacity(x.len());
            for &e in self.reverse.iter() {
                out.extend_from_slice(&x[e as usize * k..(e as usize + 1) * k]);
            }
            Ok((<T as candle_core::WithDType>::to_cpu_storage_owned(out), (self.reverse.len(), k).into()))
        })
    }

    cuda_fwd!(x lx);

    fn bwd(&self, _: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(grad.contiguous()?.apply_op1(Reversed { reverse: self.reverse.clone() })?))
    }
}

/// Sums and gathers on a device.
fn sums<T: Real>(device: &Device, segments: &Arc<Segments>) -> std::result::Result<(Arc<DeviceSums<T>>, Arc<DeviceSegments>), DeviceError> {
    Ok((lasting(device, [0, 0], || DeviceSums::new(device))?, twin(device, segments, [0, 0], || DeviceSegments::new(device, segments))?))
}

impl OnDevice for SegmentSum {
    fn shape(&self, inputs: &[&Layout]) -> Result<Shape> {
        Ok((self.segments.len(), two_dims(inputs[0], self.segments.rows(), self.name())?).into())
    }

    fn run<T: Real>(&self, device: &Device, inputs: &[Operand<T>], out: &mut Buffer<T>) -> std::result::Result<(), DeviceError> {
        let (sums, segments) = sums(device, &self.segments)?;
        sums.segment_sum(&inputs[0].data, &segments, out, inputs[0].dims[1])
    }
}

impl OnDevice for SegmentBroadcast {
    fn shape(&self, inputs: &[&Layout]) -> Result<Shape> {
        Ok((self.segments.rows(), two_dims(inputs[0], self.segments.len(), self.name())?).into())
    }

    fn run<T: Real>(&self, device: &Device, inputs: &[Operand<T>], out: &mut Buffer<T>) -> std::result::Result<(), DeviceError> {
        let (sums, segments) = sums(device, &self.segments)?;
        sums.segment_broadcast(&inputs[0].data, &segments, out, inputs[0].dims[1])
    }
}

impl OnDevice for Reversed {
    fn shape(&self, inputs: &[&Layout]) -> Result<Shape> {
        Ok((self.reverse.len(), two_dims(inputs[0], self.reverse.len(), self.name())?).into())
    }

    fn run<T: Real>(&self, device: &Device, inputs: &[Operand<T>], out: &mut Buffer<T>) -> std::result::Result<(), DeviceError> {
        let index = twin(device, &self.reverse, [0, 0], || DeviceIndex::new(device, &self.reverse, self.reverse.len()))?;
        let rows = lasting(device, [0, 0], || DeviceRows::<T>::new(device))?;
        rows.take(&inputs[0].data, &index, out, inputs[0].dims[1])
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::testing::{Random, check_derivatives, to_vec};
    use candle_core::{DType, Device};

    /// A random symmetric graph: every pair of `atoms` joined with probability 1/2, atom 0 alone.
    pub(crate) fn random_graph(atoms: usize, random: &mut Random) -> Graph {
        let mut joined = vec![Vec::new(); atoms];
        for i in 1..atoms {
            for j in i + 1..atoms {
                if random.next() > 0.0 {
                    joined[i].push(j);
                    joined[j].push(i);
                }
            }
        }
        let (mut offsets, mut neighbors) = (vec![0], Vec::new());
        for row in &mut joined {
            row.sort_unstable();
            neighbors.extend(row.iter().map(|&j| j as u32));
            offsets.push(neighbors.len());
        }
        let mut reverse = vec![0u32; neighbors.len()];
        for i in 0..atoms {
            for e in offsets[i]..offsets[i + 1] {
                let j = neighbors[e] as usize;
                reverse[e] = (offsets[j] + joined[j].iter().position(|&k| k == i).unwrap()) as u32;
            }
        }
        Graph::new(offsets, neighbors, reverse).unwrap()
    }

    #[test]
    fn sums_and_gathers_are_adjoint_and_differentiable() {
        let mut random = Random::new(3);
        let graph = random_graph(6, &mut random);
        let x = random.tensor(&[graph.num_edges(), 3], DType::F64);
        check_derivatives(std::slice::from_ref(&x), |x| graph.forces(&x[0])?.sqr(), true);
        let n = random.tensor(&[6, 2], DType::F64);
        check_derivatives(&[n], |n| graph.of_neighbors(&n[0])?.sqr()? + graph.of_centers(&n[0])?, true);
    }

    #[test]
    fn kernels_do_what_the_ops_do() {
        use crate::on_device::tests::check;
        let mut random = Random::new(4);
        for atoms in [1, 9] {
            let graph = random_graph(atoms, &mut random);
            let (nodes, edges) = (random.tensor(&[atoms, 5], DType::F64), random.tensor(&[graph.num_edges(), 5], DType::F64));
            let segments = graph.segments();
            check(&SegmentSum { segments: segments.clone() }, &[&edges], |t| segment_sum(&t[0], segments));
            check(&SegmentBroadcast { segments: segments.clone() }, &[&nodes], |t| segment_broadcast(&t[0], segments));
            check(&Reversed { reverse: graph.reverse.clone() }, &[&edges], |t| graph.reversed(&t[0]));
        }
    }

    #[test]
    fn forces_are_minus_the_gradient_of_positions() {
        let mut random = Random::new(5);
        let graph = random_graph(5, &mut random);
        let gradient = random.vec(graph.num_edges() * 3);
        let t = Tensor::from_vec(gradient.clone(), (graph.num_edges(), 3), &Device::Cpu).unwrap();
        let forces = to_vec(&graph.forces(&t).unwrap());
        let mut want = vec![0.0; 15];
        for e in 0..graph.num_edges() {
            for a in 0..3 {
                want[graph.neighbors()[e] as usize * 3 + a] -= gradient[e * 3 + a];
                want[graph.centers()[e] as usize * 3 + a] += gradient[e * 3 + a];
            }
        }
        assert!(crate::testing::relative_error(&forces, &want) < 1e-14);
    }

    #[test]
    fn inconsistent_graphs_are_refused() {
        assert_eq!(Graph::new(vec![0, 1, 2], vec![1, 5], vec![1, 0]).unwrap_err(), GraphError::Reverse { edge: 0 });
        assert_eq!(Graph::new(vec![0, 1], vec![1], vec![0]).unwrap_err(), GraphError::Neighbor { edge: 0, neighbor: 1, atoms: 1 });
        assert_eq!(Segments::new(vec![1, 2]).unwrap_err(), GraphError::Offsets { index: 0 });
        assert_eq!(Segments::new(vec![0, 2, 1]).unwrap_err(), GraphError::Offsets { index: 2 });
    }
}
