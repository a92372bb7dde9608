//! A further head for a model that has heads.

use tesseral_potentials::mace::{MaceConfig, ReadoutKind};
use tesseral_potentials::model::head_index;
use tesseral_potentials::{Architecture, Artifact, NamedTensor, Numbers};

use crate::error::TrainError;

/// A matrix, row-major.
struct Matrix {
    columns: usize,
    numbers: Vec<f64>,
}

impl Matrix {
    fn rows(&self) -> usize {
        self.numbers.len() / self.columns
    }

    /// The same with copies of the columns `from` on the right.
    fn with_columns(&self, from: std::ops::Range<usize>) -> Self {
        let numbers = self.numbers.chunks(self.columns).flat_map(|row| row.iter().chain(&row[from.clone()])).copied().collect();
        Self { columns: self.columns + from.len(), numbers }
    }

    /// The same with one more block of rows and columns: a copy of the block in `rows` and `columns`, and zeros beside and above it.
    fn with_block(&self, rows: std::ops::Range<usize>, columns: std::ops::Range<usize>) -> Self {
        let mut numbers = Vec::with_capacity((self.rows() + rows.len()) * (self.columns + columns.len()));
        for row in self.numbers.chunks(self.columns) {
            numbers.extend_from_slice(row);
            numbers.extend(std::iter::repeat_n(0.0, columns.len()));
        }
        for row in rows {
            numbers.extend(std::iter::repeat_n(0.0, self.columns));
            numbers.extend_from_slice(&self.numbers[row * self.columns..][columns.clone()]);
        }
        Self { columns: self.columns + columns.len(), numbers }
    }

    fn times(mut self, factor: f64) -> Self {
        self.numbers.iter_mut().for_each(|x| *x *= factor);
        self
    }
}

/// The model with one more head, `name`, whose weights are those of the head `old` (the only one, or the one called `default`, without a name). The other
/// heads give what they gave, up to rounding: where hidden scalars of all heads share a normalisation 1/√(their number), their weights are multiplied
/// with what it loses.
///
/// # Errors
/// [`TrainError::Finetune`] if the model is no MACE or has a head of this name already; if there is no such old head.
pub(super) fn with_head(foundation: &Artifact, name: &str, old: Option<&str>) -> Result<Artifact, TrainError> {
    let mut header = foundation.header().clone();
    let from = head_index(&header, old)? as usize;
    let Architecture::Mace(config) = &mut header.architecture else {
        return Err(TrainError::Finetune {
            what: "finetune.mode: `multihead` is for models of the MACE family; this one is not".into(),
            hint: "set finetune.mode = \"plain\": frames of finetune.replay.files are trained along under the same head",
        });
    };
    if config.heads.iter().any(|head| head == name) {
        return Err(TrainError::Finetune {
            what: format!("finetune.head: the model has a head `{name}` already"),
            hint: "give the head of the new data another name",
        });
    }
    let heads = config.heads.len();
    let mut tensors: Vec<NamedTensor> = Vec::new();
    for tensor in foundation.names() {
        let shape = foundation.shape(tensor).unwrap_or_default().to_vec();
        tensors.push(match changed(config, tensor) {
            Some(change) => {
                let columns = change.columns(config, heads);
                let matrix = Matrix { columns, numbers: foundation.f64(tensor)? };
                let numbers = change.apply(config, matrix, heads, from).numbers;
                let shape = match (&shape[..], change) {
                    ([_, elements], Change::Rows) => vec![heads + 1, *elements],
                    ([1, _], _) => vec![1, numbers.len()],
                    _ => vec![numbers.len()],
                };
                NamedTensor { name: tensor.to_owned(), shape, numbers: Numbers::F64(numbers) }
            }
            None => foundation.tensor(tensor)?,
        });
    }
    let width = heads + 1;
    for readout in &mut config.readouts {
        readout.hidden = readout.hidden / heads * width;
    }
    config.heads.push(name.to_owned());
    header.provenance.notes.push(format!("head `{name}` added, a copy of `{}`", foundation.header().heads()[from]));
    Ok(Artifact::new(header, tensors)?)
}

/// How a tensor grows with a head. Readouts by their number.
#[derive(Clone, Copy)]
enum Change {
    /// A row for each head.
    Rows,
    /// A column (or number) for each head.
    Columns,
    /// Columns (or numbers) for the hidden scalars of each head.
    Hidden(usize),
    /// Hidden scalars of each head to those of the same head.
    Between(usize),
    /// Hidden scalars of each head to its energy.
    Out(usize),
}

impl Change {
    /// Columns of the matrix that the tensor is.
    fn columns(self, config: &MaceConfig, heads: usize) -> usize {
        match self {
            Self::Rows => config.elements.len(),
            Self::Columns | Self::Out(_) => heads,
            Self::Hidden(r) | Self::Between(r) => config.readouts[r].hidden,
        }
    }

    fn apply(self, config: &MaceConfig, matrix: Matrix, heads: usize, from: usize) -> Matrix {
        let block = |r: usize| {
            let width = config.readouts[r].hidden / heads;
            from * width..(from + 1) * width
        };
        let factor = ((heads + 1) as f64 / heads as f64).sqrt();
        match self {
            Self::Rows => {
                let row = matrix.numbers[from * matrix.columns..(from + 1) * matrix.columns].to_vec();
                Matrix { columns: matrix.columns, numbers: [matrix.numbers, row].concat() }
            }
            Self::Columns => matrix.with_columns(from..from + 1),
            Self::Hidden(r) => matrix.with_columns(block(r)),
            Self::Between(r) => matrix.with_block(block(r), block(r)).times(factor),
            Self::Out(r) => matrix.with_block(block(r), from..from + 1).times(factor),
        }
    }
}

/// What changes in a tensor, if anything does.
fn changed(config: &MaceConfig, tensor: &str) -> Option<Change> {
    match tensor {
        "atomic_energies" => return Some(Change::Rows),
        "scale" | "shift" | "fields.readout.weight" => return Some(Change::Columns),
        _ => {}
    }
    let (r, what) = tensor.strip_prefix("readouts.")?.split_once('.')?;
    let r: usize = r.parse().ok()?;
    let kind = config.readouts.get(r)?.kind;
    Some(match (what, kind) {
        ("linear_1.weight", ReadoutKind::Linear) | ("linear_2.bias", _) => Change::Columns,
        ("linear_1.weight" | "linear_1.bias" | "linear_mid.bias", _) => Change::Hidden(r),
        ("linear_mid.weight", _) => Change::Between(r),
        ("linear_2.weight", _) => Change::Out(r),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use candle_core::{DType, Device};
    use tesseral_atoms::Structure;
    use tesseral_potentials::Model;

    use super::*;
    use crate::architecture::{Each, MaceModelConfig, ModelConfig, TrainingStatistics, build};
    use crate::data::Frame;
    use crate::step::Sample;
    use crate::testing::unlabelled;

    fn energy(artifact: &Artifact, head: &str) -> f64 {
        let model = Model::load(artifact, DType::F64, &Device::Cpu).unwrap();
        let frame = Frame {
            head: Some(head.into()),
            ..unlabelled(Structure::molecule(vec![8, 1, 1], vec![[0.0, 0.0, 0.1], [0.9, 0.1, 0.0], [-0.3, 0.9, 0.2]]), 0)
        };
        let sample = Sample::new(artifact.header(), Arc::new(frame)).unwrap();
        let batch = model.batch(&[&sample.prepared], &[&sample.frame.structure], sample.head).unwrap();
        model.evaluate(&batch).unwrap()[0].energy
    }

    #[test]
    fn a_new_head_begins_as_the_old_one_and_changes_no_other() {
        let config =
            MaceModelConfig { r_max: 3.0, num_channels: 4, max_l: 1, max_ell: 2, correlation: Each::Same(2), ..Default::default() };
        let heads = ["a".to_owned(), "b".to_owned()];
        let statistics = TrainingStatistics {
            elements: vec![1, 8],
            e0s: vec![vec![-1.0, -8.0], vec![-2.0, -9.0]],
            scale: vec![0.8, 0.7],
            shift: vec![0.1, 0.2],
            avg_num_neighbors: 5.0,
        };
        let old = build(&ModelConfig::Mace(config), &statistics, &heads, 3, "tiny").unwrap();
        let new = with_head(&old, "c", Some("b")).unwrap();
        assert_eq!(new.header().heads(), ["a", "b", "c"]);
        let close = |a: f64, b: f64| (a - b).abs() < 1e-10 * a.abs();
        assert!(!close(energy(&old, "a"), energy(&old, "b")));
        for (of_old, of_new) in [("a", "a"), ("b", "b"), ("b", "c")] {
            let (a, b) = (energy(&old, of_old), energy(&new, of_new));
            assert!(close(a, b), "{of_old} {of_new}: {a} and {b}");
        }
        assert!(with_head(&old, "b", Some("a")).unwrap_err().to_string().contains("already"));
        assert!(with_head(&old, "c", None).is_err());
        // From one head to two.
        let single = crate::testing::tiny_artifact(&[1, 8]);
        let name = single.header().heads()[0].clone();
        let two = with_head(&single, "c", None).unwrap();
        for head in [name.as_str(), "c"] {
            assert!(close(energy(&single, &name), energy(&two, head)));
        }
        assert!(with_head(&crate::testing::tiny_sevennet(&[1]), "c", None).unwrap_err().to_string().contains("MACE"));
    }
}
