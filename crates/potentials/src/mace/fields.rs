//! Charge, spin and other quantities embedded into the initial features (model definitions §2.9).

use candle_core::Tensor;
use tesseral_atoms::Structure;
use tesseral_o3::{Irrep, Irreps, MulIrrep};
use tesseral_ops::gate::{Activation, activate};

use super::config::{FieldConfig, FieldKind, MaceConfig};
use crate::batch::{Batch, PreparedStructure};
use crate::blocks::{EquivariantLinear, LinearOptions};
use crate::error::{Result, config_error};
use crate::parameters::Parameters;

enum Embedder {
    Table { table: Tensor, offset: i64 },
    Network { w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor },
}

/// The joint embedding of all fields.
pub struct Fields {
    fields: Vec<(FieldConfig, Embedder)>,
    /// `[sum of widths, K]`
    project: Tensor,
    readout: Option<EquivariantLinear>,
}

impl Fields {
    /// Reads the tensors of all fields.
    ///
    /// # Errors
    /// If one is missing.
    pub fn new(config: &MaceConfig, p: &Parameters<'_>) -> Result<Self> {
        let channels = config.channels();
        let mut width = 0;
        let fields = config
            .fields
            .iter()
            .map(|f| {
                width += f.width;
                let name = |what: &str| format!("fields.{}.{what}", f.name);
                let embedder = match f.kind {
                    FieldKind::Categorical { classes, offset } => {
                        Embedder::Table { table: p.get(&name("embedding.weight"), &[classes, f.width])?, offset }
                    }
                    FieldKind::Continuous { components } => Embedder::Network {
                        w1: p.get(&name("linear_1.weight"), &[components, f.width])?,
                        b1: p.get(&name("linear_1.bias"), &[f.width])?,
                        w2: p.get(&name("linear_2.weight"), &[f.width, f.width])?,
                        b2: p.get(&name("linear_2.bias"), &[f.width])?,
                    },
                };
                Ok((f.clone(), embedder))
            })
            .collect::<Result<Vec<_>>>()?;
        let readout = if config.field_readout {
            let irreps = |n| Irreps::new(vec![MulIrrep::new(n, Irrep::even(0))]).map_err(|e| config_error("fields", e.to_string()));
            let options = LinearOptions { fan_in_factor: 1, ..LinearOptions::default() };
            Some(EquivariantLinear::new(p, "fields.readout", &irreps(channels)?, &irreps(config.heads.len())?, options)?)
        } else {
            None
        };
        Ok(Self { fields, project: p.get("fields.project.weight", &[width, channels])?, readout })
    }

    /// The value of each field for each structure (or atom), from the structures' metadata or the field's default.
    pub(super) fn values(&self, structures: &[&Structure]) -> Result<Vec<Vec<f64>>> {
        self.fields
            .iter()
            .map(|(field, embedder)| {
                let mut values = Vec::new();
                for structure in structures {
                    if field.per_atom {
                        let reals = |a: &tesseral_atoms::Array| {
                            a.as_reals().map(<[f64]>::to_vec).or_else(|| Some(a.as_ints()?.iter().map(|&i| i as f64).collect()))
                        };
                        let column = structure.arrays.get(&field.name).filter(|a| a.width() == 1).and_then(reals);
                        match column {
                            Some(column) => values.extend(column),
                            None => values.extend(std::iter::repeat_n(field.default, structure.len())),
                        }
                    } else {
                        let short = field.name.strip_prefix("total_").unwrap_or(&field.name);
                        let found = [field.name.as_str(), short].iter().find_map(|key| structure.info.get(*key)?.as_f64());
                        values.push(found.unwrap_or(field.default));
                    }
                }
                if let Embedder::Table { table, offset } = embedder {
                    let classes = table.dim(0)? as i64;
                    for &v in &values {
                        let row = (v.round() as i64).saturating_add(*offset);
                        if v.round() != v || row < 0 || row >= classes {
                            let (low, high) = (-offset, classes - 1 - offset);
                            return Err(config_error(
                                format!("field {}", field.name),
                                format!("the value {v} is not one of the integers {low} to {high} that the model knows"),
                            ));
                        }
                    }
                }
                Ok(values)
            })
            .collect()
    }

    /// Initial features `[N, K]` of the atoms of one structure from those of their species, `embedding` `[Z, K]`, and the energies that these features
    /// have of their own, `[N, heads]`. Neither depends on positions.
    ///
    /// # Errors
    /// If a value is out of range.
    pub fn embed(&self, structure: &Structure, species: &[u32], embedding: &Tensor) -> Result<(Tensor, Option<Tensor>)> {
        let values = self.values(&[structure])?;
        let batch = Batch::new(&[&PreparedStructure::without_edges(species.to_vec())], &structure_elements(embedding)?, vec![0], values)?;
        let x = embedding.index_select(&batch.species_tensor(embedding.device())?, 0)?;
        let x = (&x + self.forward(&batch, &x)?)?;
        let energies = self.energies(&batch, &x)?;
        Ok((x, energies))
    }

    /// What is added to the initial features, `[N, K]`.
    pub(super) fn forward(&self, batch: &Batch, like: &Tensor) -> Result<Tensor> {
        let mut columns = Vec::new();
        for ((field, embedder), values) in self.fields.iter().zip(&batch.fields) {
            let embedded = match embedder {
                Embedder::Table { table, offset } => {
                    let rows: Vec<u32> = values.iter().map(|v| (v.round() as i64 + offset) as u32).collect();
                    table.index_select(&Tensor::from_slice(&rows, rows.len(), like.device())?, 0)?
                }
                Embedder::Network { w1, b1, w2, b2 } => {
                    let x = Tensor::from_slice(values, (values.len(), 1), like.device())?.to_dtype(like.dtype())?;
                    let h = activate(&x.matmul(w1)?.broadcast_add(b1)?, Activation::Silu.plain())?;
                    h.matmul(w2)?.broadcast_add(b2)?
                }
            };
            columns.push(if field.per_atom { embedded } else { tesseral_ops::graph::segment_broadcast(&embedded, &batch.structures)? });
        }
        let joined = Tensor::cat(&columns, 1)?;
        Ok(activate(&joined.matmul(&self.project)?, Activation::Silu.plain())?)
    }

    /// The energy that the embedded initial features have of their own, `[N, heads]`.
    pub(super) fn energies(&self, batch: &Batch, features: &Tensor) -> Result<Option<Tensor>> {
        self.readout.as_ref().map(|r| r.forward(features, &batch.groups, None)).transpose()
    }
}

/// A placeholder for each species: nothing of an embedding depends on atomic numbers.
fn structure_elements(embedding: &Tensor) -> Result<Vec<u8>> {
    Ok(vec![0; embedding.dim(0)?])
}
