//! A network of any family, and energies, forces and stresses from it.

use candle_core::{DType, Device, Tensor, Var};
use tesseral_atoms::Evaluation;
use tesseral_ops::autograd::{self, Leaves};

use crate::artifact::Artifact;
use crate::batch::{Batch, PreparedStructure};
use crate::blocks::{Geometry, SplineEdges};
use crate::error::{PotentialError, Result};
use crate::header::{Architecture, Header};
use crate::mace::Mace;
use crate::nequip::Nequip;
use crate::parameters::Parameters;

/// A differentiable potential.
pub struct Model {
    header: Header,
    network: Network,
    dtype: DType,
    device: Device,
}

enum Network {
    Mace(Box<Mace>),
    Nequip(Box<Nequip>),
}

impl Model {
    /// Builds the network for inference.
    ///
    /// # Errors
    /// If a tensor is missing or does not fit the configuration.
    pub fn load(artifact: &Artifact, dtype: DType, device: &Device) -> Result<Self> {
        Self::build(artifact, &Parameters::frozen(artifact, dtype, device))
    }

    /// Builds the network over parameters that may be variables.
    ///
    /// # Errors
    /// If a tensor is missing or does not fit the configuration.
    pub fn build(artifact: &Artifact, p: &Parameters<'_>) -> Result<Self> {
        let network = match &artifact.header().architecture {
            Architecture::Mace(config) => Network::Mace(Box::new(Mace::new(config, p)?)),
            Architecture::Nequip(config) => Network::Nequip(Box::new(Nequip::new(config, p)?)),
        };
        Ok(Self { header: artifact.header().clone(), network, dtype: p.dtype(), device: p.device().clone() })
    }

    /// What the artifact says about itself.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The type that is computed in.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Where it is computed.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Index of a head (MACE) or modality (SevenNet), as [`head_index`].
    ///
    /// # Errors
    /// As [`head_index`].
    pub fn head(&self, name: Option<&str>) -> Result<u32> {
        head_index(&self.header, name)
    }

    /// Lists neighbours of a structure and checks it.
    ///
    /// # Errors
    /// As [`PreparedStructure::new`].
    pub fn prepare(&self, structure: &tesseral_atoms::Structure) -> Result<PreparedStructure> {
        PreparedStructure::new(structure, self.header.elements(), self.header.cutoff())
    }

    /// Joins prepared structures into a batch for one head; `structures` are those that were prepared (for charge, spin and the like).
    ///
    /// # Errors
    /// If a field that the model embeds is out of range.
    pub fn batch(&self, parts: &[&PreparedStructure], structures: &[&tesseral_atoms::Structure], head: u32) -> Result<Batch> {
        self.batch_of_heads(parts, structures, vec![head; parts.len()])
    }

    /// As [`Self::batch`], each structure with its own head.
    ///
    /// # Errors
    /// As [`Self::batch`].
    pub fn batch_of_heads(
        &self,
        parts: &[&PreparedStructure],
        structures: &[&tesseral_atoms::Structure],
        heads: Vec<u32>,
    ) -> Result<Batch> {
        let fields = match &self.network {
            Network::Mace(m) => m.fields(structures)?,
            Network::Nequip(_) => Vec::new(),
        };
        Batch::new(parts, self.header.elements(), heads, fields)
    }

    /// Energies of all atoms, eV, `[N]` in f64, differentiable with respect to `vectors` (`[E, 3]`, in the model's type) and tracked weights.
    ///
    /// # Errors
    /// Only if shapes do not fit.
    pub fn atomic_energies(&self, batch: &Batch, vectors: &Tensor) -> Result<Tensor> {
        self.energies_of(batch, Geometry::Vectors(vectors), &Leaves::default())
    }

    fn energies_of(&self, batch: &Batch, geometry: Geometry<'_>, leaves: &Leaves) -> Result<Tensor> {
        match &self.network {
            Network::Mace(m) => m.atomic_energies(batch, geometry, leaves),
            Network::Nequip(m) => m.atomic_energies(batch, geometry, leaves),
        }
    }

    /// Edges with splines, if asked for, possible and of use.
    fn spline_edges(&self, batch: &Batch, radial: Radial) -> Result<Option<SplineEdges>> {
        let domain = match (radial, &self.network) {
            (Radial::Exact, _) => None,
            (Radial::Splines, Network::Mace(m)) => m.radial_domain(),
            (Radial::Splines, Network::Nequip(m)) => m.radial_domain(batch),
        };
        domain.map_or(Ok(None), |domain| SplineEdges::new(batch, &domain, self.dtype, &self.device))
    }

    /// Energies, forces and stresses of a batch.
    ///
    /// # Errors
    /// Only if candle fails.
    pub fn evaluate(&self, batch: &Batch) -> Result<Vec<Evaluation>> {
        let vectors = Var::from_tensor(&batch.vectors_tensor(self.dtype, &self.device)?)?;
        let energies = self.atomic_energies(batch, vectors.as_tensor())?;
        let atomic: Vec<f64> = energies.detach().to_vec1()?;
        let gradient: Vec<f64> = if batch.vectors.is_empty() || !energies.track_op() {
            vec![0.0; 3 * batch.vectors.len()]
        } else {
            let g = autograd::gradient(&energies.sum_all()?, &vectors, "energy")?;
            g.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?
        };
        Ok(assemble(batch, &atomic, &gradient))
    }

    /// Energies, forces and stresses that can be differentiated by weights: for training.
    ///
    /// # Errors
    /// If second derivatives are off in this process.
    pub fn differentiable(&self, batch: &Batch, radial: Radial) -> Result<Differentiable> {
        let leaves = Leaves::default();
        let splines = self.spline_edges(batch, radial)?;
        let positions = match &splines {
            Some(edges) => Var::from_tensor(edges.rows())?,
            None => Var::from_tensor(&batch.vectors_tensor(self.dtype, &self.device)?)?,
        };
        let geometry = match &splines {
            Some(edges) => Geometry::Splines(edges, positions.as_tensor()),
            None => Geometry::Vectors(positions.as_tensor()),
        };
        let atomic = self.energies_of(batch, geometry, &leaves)?;
        let energies = tesseral_ops::graph::segment_sum(&atomic.unsqueeze(1)?, &batch.structures)?.squeeze(1)?;
        if batch.vectors.is_empty() {
            let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F64, &self.device);
            let (forces, stresses) = (zeros(&[batch.num_atoms(), 3])?, zeros(&[batch.structures.len(), 3, 3])?);
            return Ok(Differentiable { energies, forces, stresses, leaves });
        }
        let mut gradient = autograd::differentiable_gradient(&atomic.sum_all()?, &positions, "energy")?;
        if let Some(edges) = &splines {
            gradient = edges.by_vectors(&gradient)?;
        }
        let gradient = gradient.to_dtype(DType::F64)?;
        let forces = batch.graph.forces(&gradient)?;
        // dE/dε = Σ_e sym(v ⊗ dE/dv)
        let v = batch.vectors_tensor(DType::F64, &self.device)?;
        let virial = v.unsqueeze(2)?.broadcast_mul(&gradient.unsqueeze(1)?)?.reshape((batch.vectors.len(), 9))?;
        let per_atom = batch.graph.sum_over_centers(&virial)?;
        let per_structure = tesseral_ops::graph::segment_sum(&per_atom, &batch.structures)?.reshape((batch.structures.len(), 3, 3))?;
        let symmetric = ((&per_structure + per_structure.transpose(1, 2)?)? * 0.5)?;
        let inverse_volumes: Vec<f64> = batch.volumes.iter().map(|v| v.map_or(0.0, |v| 1.0 / v)).collect();
        let inverse_volumes = Tensor::from_vec(inverse_volumes, (batch.structures.len(), 1, 1), &self.device)?;
        Ok(Differentiable { energies, forces, stresses: symmetric.broadcast_mul(&inverse_volumes)?, leaves })
    }
}

/// How radial functions are evaluated in training.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Radial {
    /// On every edge.
    Exact,
    /// At knots, with splines in between, where the model and the batch allow it: values differ by some 1e-8 of the largest, derivatives are exactly
    /// those of the interpolated energy.
    Splines,
}

/// Predictions in f64 that can be differentiated by weights, with [`autograd::weight_gradients`] and the leaves.
#[derive(Debug)]
pub struct Differentiable {
    /// Energy of each structure, eV, `[S]`.
    pub energies: Tensor,
    /// Forces, eV/Å, `[N, 3]`.
    pub forces: Tensor,
    /// Stresses, eV/Å³, `[S, 3, 3]`; zero where not periodic.
    pub stresses: Tensor,
    /// Weights on the way that are made of others.
    pub leaves: Leaves,
}

/// Forces, stresses and energies from the derivative by edge vectors, summed in f64 in a fixed order.
fn assemble(batch: &Batch, atomic: &[f64], gradient: &[f64]) -> Vec<Evaluation> {
    let graph = &batch.graph;
    let g = |e: usize| [gradient[3 * e], gradient[3 * e + 1], gradient[3 * e + 2]];
    (0..batch.structures.len())
        .map(|s| {
            let atoms = batch.structures.range(s);
            let mut forces = vec![[0.0; 3]; atoms.len()];
            let mut strain = [[0.0; 3]; 3];
            for i in atoms.clone() {
                for e in graph.segments().range(i) {
                    let (here, back, v) = (g(e), g(graph.reverse()[e] as usize), batch.vectors[e]);
                    for a in 0..3 {
                        forces[i - atoms.start][a] += here[a] - back[a];
                        for b in 0..3 {
                            strain[a][b] += v[a] * here[b];
                        }
                    }
                }
            }
            let stress = batch.volumes[s].map(|volume| {
                let mut stress = [[0.0; 3]; 3];
                for a in 0..3 {
                    for b in 0..3 {
                        stress[a][b] = 0.5 * (strain[a][b] + strain[b][a]) / volume;
                    }
                }
                stress
            });
            let atomic_energies = atomic[atoms].to_vec();
            Evaluation { energy: atomic_energies.iter().sum(), forces, stress, atomic_energies }
        })
        .collect()
}

/// Index of a head or modality by name. Without a name: the only one, or the one called "default"; several and none of that name is an error,
/// since they differ in level of theory.
///
/// # Errors
/// [`PotentialError::NoSuchHead`], [`PotentialError::WhichHead`].
pub fn head_index(header: &Header, name: Option<&str>) -> Result<u32> {
    let heads = header.heads();
    let available = || if heads.is_empty() { "a single unnamed one".to_owned() } else { heads.join(", ") };
    let found = match name {
        Some(name) => heads.iter().position(|h| h == name),
        None if heads.len() <= 1 => Some(0),
        None => heads.iter().position(|h| h.eq_ignore_ascii_case("default")),
    };
    match (found, name) {
        (Some(k), _) => Ok(k as u32),
        (None, Some(name)) => Err(PotentialError::NoSuchHead { asked: name.to_owned(), available: available() }),
        (None, None) => Err(PotentialError::WhichHead { available: available() }),
    }
}
