//! Radial features of edges and the pair repulsion (model definitions §2.2, §2.3).

use std::sync::Arc;

use candle_core::Tensor;
use tesseral_ops::radial::{self, ScalarFunction, ZblConstants};
use tesseral_ops::spherical_harmonics::spherical_harmonics;

use super::config::{Basis, MaceConfig, Transform};
use crate::batch::Batch;
use crate::blocks::{EdgeFeatures, EdgeRows, RadialDomain, SplineEdges};
use crate::error::{Result, config_error};
use crate::parameters::Parameters;
use crate::validation;

/// Distance transform, basis and envelope.
pub(super) struct RadialFeatures {
    cutoff: f64,
    envelope_p: u32,
    envelope_on_basis: bool,
    size: usize,
    basis: Basis,
    /// Bessel frequencies or Gaussian centres.
    table: Option<Tensor>,
    /// What Bessel functions are multiplied with.
    prefactor: f64,
    transform: Transform,
    /// Parameters of the transform.
    constants: Vec<f64>,
    radii: Vec<f64>,
}

impl RadialFeatures {
    pub(super) fn new(config: &MaceConfig, p: &Parameters<'_>) -> Result<Self> {
        let radial = &config.radial;
        let table = match radial.basis {
            Basis::Bessel => Some(p.get("radial.frequencies", &[radial.size])?),
            Basis::Gaussian => Some(p.get("radial.centers", &[radial.size])?),
            Basis::Chebyshev => None,
        };
        let prefactor =
            if p.contains("radial.prefactor") { p.constants("radial.prefactor", &[1])?[0] } else { (2.0 / config.cutoff).sqrt() };
        let constants = match radial.transform {
            Transform::None => Vec::new(),
            Transform::Agnesi => p.constants("radial.transform", &[3])?,
            Transform::Soft => p.constants("radial.transform", &[1])?,
        };
        let radii = if radial.transform == Transform::None { Vec::new() } else { covalent_radii(config, p)? };
        Ok(Self {
            cutoff: config.cutoff,
            envelope_p: radial.envelope_p,
            envelope_on_basis: radial.envelope_on_basis,
            size: radial.size,
            basis: radial.basis,
            table,
            prefactor,
            transform: radial.transform,
            constants,
            radii,
        })
    }

    /// Basis and envelope on every edge.
    pub(super) fn of_edges(&self, batch: &Batch, vectors: &Tensor, d: &Tensor, lmax: usize) -> Result<EdgeFeatures<'static>> {
        let pair = |combine: fn(f64, f64) -> f64| -> Vec<f64> {
            let radius = |atom: &u32| self.radii[batch.species[*atom as usize] as usize];
            batch.graph.centers().iter().zip(batch.graph.neighbors()).map(|(i, j)| combine(radius(i), radius(j))).collect()
        };
        let t = match self.transform {
            Transform::None => d.clone(),
            Transform::Agnesi => {
                radial::agnesi_transform(d, &pair(|u, v| 0.5 * (u + v)), self.constants[0], self.constants[1], self.constants[2])?
            }
            Transform::Soft => radial::soft_transform(d, &pair(|u, v| u + v), self.constants[0])?,
        };
        let envelope = radial::scalar_function(d, &Arc::new(self.envelope()))?.unsqueeze(1)?;
        self.features(&t, envelope, EdgeRows::Harmonics(spherical_harmonics(vectors, lmax, true)?))
    }

    /// Basis and envelope at knots.
    pub(super) fn at_knots<'a>(&self, edges: &'a SplineEdges, rows: &'a Tensor) -> Result<EdgeFeatures<'a>> {
        self.features(&edges.knots, edges.envelope.clone(), EdgeRows::Splines(edges, rows))
    }

    fn envelope(&self) -> ScalarFunction {
        ScalarFunction::PolynomialEnvelope { p: self.envelope_p, cutoff: self.cutoff }
    }

    /// What is needed to interpolate; `None` if radial functions depend on more than the distance.
    pub(super) fn domain(&self, lmax: usize) -> Option<RadialDomain> {
        let plain = self.transform == Transform::None;
        plain.then(|| RadialDomain { envelope: self.envelope(), cutoff: self.cutoff, stretch: None, lmax, normalize: true })
    }

    fn features<'a>(&self, t: &Tensor, envelope: Tensor, rows: EdgeRows<'a>) -> Result<EdgeFeatures<'a>> {
        let basis = match (self.basis, &self.table) {
            (Basis::Bessel, Some(frequencies)) => radial::bessel(t, frequencies, self.prefactor)?,
            (Basis::Gaussian, Some(centers)) => radial::gaussian(t, centers, self.cutoff / (self.size - 1) as f64)?,
            _ => radial::chebyshev(t, self.size)?,
        };
        Ok(if self.envelope_on_basis {
            EdgeFeatures { basis: basis.broadcast_mul(&envelope)?, envelope: None, rows }
        } else {
            EdgeFeatures { basis, envelope: Some(envelope), rows }
        })
    }
}

/// Covalent radii of the elements, Å: the unit of distances, so that none may be zero.
fn covalent_radii(config: &MaceConfig, p: &Parameters<'_>) -> Result<Vec<f64>> {
    let radii = p.constants("covalent_radii", &[config.elements.len()])?;
    radii.iter().try_for_each(|&r| validation::positive("covalent_radii", r))?;
    Ok(radii)
}

/// The Ziegler–Biersack–Littmark repulsion with the constants of the checkpoint.
pub struct Repulsion {
    constants: ZblConstants,
    envelope_p: u32,
    radii: Vec<f64>,
}

impl Repulsion {
    /// Reads the constants.
    ///
    /// # Errors
    /// If they are missing or make no sense.
    pub fn new(config: &MaceConfig, p: &Parameters<'_>) -> Result<Self> {
        let values = p.constants("zbl", &[7])?;
        let [exponent, prefactor, c0, c1, c2, c3, envelope] = values.as_slice() else {
            return Err(config_error("zbl", "seven constants are needed"));
        };
        if !(1.0..=100.0).contains(envelope) || envelope.fract() != 0.0 {
            return Err(config_error("zbl", format!("the exponent of its envelope, {envelope}, is not a whole number from 1 to 100")));
        }
        validation::positive("zbl", *prefactor)?;
        let decay = ZblConstants::MACE.screening.map(|s| s.1);
        let screening = [(*c0, decay[0]), (*c1, decay[1]), (*c2, decay[2]), (*c3, decay[3])];
        Ok(Self {
            constants: ZblConstants { coulomb: ZblConstants::MACE.coulomb, length: prefactor * 0.529, exponent: *exponent, screening },
            envelope_p: *envelope as u32,
            radii: covalent_radii(config, p)?,
        })
    }

    /// Half the energy of one pair (eV) of atoms of species `u` and `v` with these atomic numbers, as a function of their distance.
    pub fn pair(&self, (u, v): (usize, usize), numbers: (u8, u8)) -> Option<ScalarFunction> {
        let end = self.radii[u] + self.radii[v];
        self.constants.pair_energy(&[u32::from(numbers.0)], &[u32::from(numbers.1)], &[end], self.envelope_p)
    }

    /// Half the energy of each pair, summed on the centre: eV, `[N]`.
    pub(super) fn forward(&self, batch: &Batch, d: &Tensor) -> Result<Tensor> {
        let species = |atom: &u32| batch.species[*atom as usize] as usize;
        let number = |atom: &u32| u32::from(batch.elements[species(atom)]);
        let (centers, neighbors) = (batch.graph.centers(), batch.graph.neighbors());
        let z_u: Vec<u32> = centers.iter().map(number).collect();
        let z_v: Vec<u32> = neighbors.iter().map(number).collect();
        let ends: Vec<f64> = centers.iter().zip(neighbors).map(|(i, j)| self.radii[species(i)] + self.radii[species(j)]).collect();
        let function: ScalarFunction = self
            .constants
            .pair_energy(&z_u, &z_v, &ends, self.envelope_p)
            .ok_or_else(|| config_error("zbl", "one pair of atomic numbers an edge is needed"))?;
        let pairs = radial::scalar_function(d, &Arc::new(function))?;
        Ok(batch.graph.sum_over_centers(&pairs.unsqueeze(1)?)?.squeeze(1)?)
    }
}
