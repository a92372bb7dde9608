//! MACE and ScaleShiftMACE (model definitions §2).

mod config;
mod fields;
mod interaction;
mod product;
mod radial;
mod readout;

use candle_core::{DType, Tensor};
use tesseral_atoms::Structure;
use tesseral_ops::autograd::Leaves;

pub use config::{
    Basis, FieldConfig, FieldKind, Interaction, LayerConfig, MaceConfig, RadialConfig, ReadoutConfig, ReadoutKind, Transform,
};

use crate::batch::Batch;
use crate::blocks::{Geometry, RadialDomain};
use crate::error::Result;
use crate::parameters::Parameters;
use crate::validation::edge_degree;
pub use fields::Fields;
use interaction::InteractionBlock;
pub use interaction::{gate_activations, gate_irreps};
use product::ProductBasis;
pub use product::product_basis;
use radial::RadialFeatures;
pub use radial::Repulsion;
use readout::{Readout, select_head};

/// A MACE network.
pub struct Mace {
    lmax: usize,
    elements: usize,
    /// `[Z, K]`, normalised when used.
    embedding: Tensor,
    fields: Option<Fields>,
    radial: RadialFeatures,
    layers: Vec<(InteractionBlock, ProductBasis)>,
    readouts: Vec<Readout>,
    repulsion: Option<Repulsion>,
    /// `[H, Z]`
    atomic_energies: Tensor,
    /// `[H]` each
    scale_shift: Option<(Tensor, Tensor)>,
}

impl Mace {
    /// Reads the tensors that the configuration names.
    ///
    /// # Errors
    /// If one is missing or the configuration contradicts itself.
    pub fn new(config: &MaceConfig, p: &Parameters<'_>) -> Result<Self> {
        config.validate()?;
        let (z, heads) = (config.elements.len(), config.heads.len());
        Ok(Self {
            lmax: edge_degree(&config.edge_irreps)?,
            elements: z,
            embedding: p.get("embedding.weight", &[z, config.channels()])?,
            fields: if config.fields.is_empty() { None } else { Some(Fields::new(config, p)?) },
            radial: RadialFeatures::new(config, p)?,
            layers: config
                .layers
                .iter()
                .enumerate()
                .map(|(t, layer)| Ok((InteractionBlock::new(config, layer, p, t)?, ProductBasis::new(config, layer, p, t)?)))
                .collect::<Result<_>>()?,
            readouts: config.readouts.iter().enumerate().map(|(r, c)| Readout::new(config, c, p, r)).collect::<Result<_>>()?,
            repulsion: if config.zbl { Some(Repulsion::new(config, p)?) } else { None },
            atomic_energies: p.get_f64("atomic_energies", &[heads, z])?,
            scale_shift: if config.scale_shift { Some((p.get_f64("scale", &[heads])?, p.get_f64("shift", &[heads])?)) } else { None },
        })
    }

    /// Values of the embedded fields for a batch of these structures.
    pub(crate) fn fields(&self, structures: &[&Structure]) -> Result<Vec<Vec<f64>>> {
        self.fields.as_ref().map_or_else(|| Ok(Vec::new()), |f| f.values(structures))
    }

    /// What is needed to interpolate radial functions; `None` if they depend on more than the distance, or the energy depends on distances otherwise.
    pub(crate) fn radial_domain(&self) -> Option<RadialDomain> {
        let plain = self.repulsion.is_none() && self.layers.iter().all(|(block, _)| block.radial_of_distance());
        if plain { self.radial.domain(self.lmax) } else { None }
    }

    /// As [`crate::Model::atomic_energies`].
    pub(crate) fn atomic_energies(&self, batch: &Batch, geometry: Geometry<'_>, leaves: &Leaves) -> Result<Tensor> {
        let device = self.embedding.device();
        let species = batch.species_tensor(device)?;
        let heads = batch.atom_heads();
        let mut interaction = Tensor::zeros(batch.num_atoms(), self.embedding.dtype(), device)?;
        let edges = match geometry {
            Geometry::Vectors(vectors) => {
                let d = tesseral_ops::radial::distance(vectors)?;
                if let Some(repulsion) = &self.repulsion {
                    interaction = repulsion.forward(batch, &d)?;
                }
                self.radial.of_edges(batch, vectors, &d, self.lmax)?
            }
            Geometry::Splines(edges, rows) => self.radial.at_knots(edges, rows)?,
        };

        let mut x = (self.embedding.index_select(&species, 0)? * (1.0 / (self.elements as f64).sqrt()))?;
        let mut of_fields = None;
        if let Some(fields) = &self.fields {
            x = (&x + fields.forward(batch, &x)?)?;
            of_fields = fields.energies(batch, &x)?;
        }
        for (t, (block, product)) in self.layers.iter().enumerate() {
            let (messages, skip) = block.forward(batch, &x, &species, &edges, leaves)?;
            x = product.forward(batch, &messages, skip.as_ref(), leaves)?;
            for readout in self.readouts.iter().filter(|r| r.layer == t) {
                interaction = (interaction + readout.forward(batch, &x, &heads)?)?;
            }
        }
        // From here on in f64: atomic energies are large and constant.
        let head = Tensor::from_slice(&heads, heads.len(), device)?;
        let mut energies = interaction.to_dtype(DType::F64)?;
        if let Some((scale, shift)) = &self.scale_shift {
            energies = ((energies * scale.index_select(&head, 0)?)? + shift.index_select(&head, 0)?)?;
        }
        let row: Vec<u32> = batch.species.iter().zip(&heads).map(|(s, h)| h * self.elements as u32 + s).collect();
        let row = Tensor::from_slice(&row, row.len(), device)?;
        energies = (energies + self.atomic_energies.flatten_all()?.index_select(&row, 0)?)?;
        if let Some(of_fields) = of_fields {
            energies = (energies + select_head(&of_fields, &heads)?.to_dtype(DType::F64)?)?;
        }
        Ok(energies)
    }
}
