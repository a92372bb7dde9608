//! Elements that a trained model does not know, added to it.
//!
//! Every tensor with a dimension of elements grows by what the new ones need: a copy of the weights of an element that the model knows, or the mean over
//! all of these. Where a model divides by the root of the number of its elements (MACE's embedding and its maps by element, which e3nn sees as products
//! with a one-hot vector), weights are multiplied with what that takes away; so nothing changes for structures of old elements, up to rounding. Covalent
//! radii, which some radial functions and the pair repulsion need, are those of the new elements themselves.
//!
//! The element list stays in ascending order if it was; otherwise new elements come last.

use std::collections::BTreeMap;
use std::ops::Range;

use tesseral_atoms::elements::{self, covalent_radius};
use tesseral_potentials::mace::{Interaction, MaceConfig};
use tesseral_potentials::nequip::{NequipConfig, SelfConnection};
use tesseral_potentials::{Architecture, Artifact, Header, NamedTensor, Numbers, PotentialError};

use crate::config::{FinetuneConfig, NewElements};
use crate::data::{FrameSource, elements_of};
use crate::error::TrainError;

/// Elements that a model is to learn: atomic numbers, each with that of the element whose weights it begins with; none for the mean over all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Added(BTreeMap<u8, Option<u8>>);

fn symbol(number: u8) -> &'static str {
    elements::symbol(number).unwrap_or("?")
}

impl Added {
    /// What the configuration asks for: all elements of the training frames that the model does not know, or those of a table.
    ///
    /// # Errors
    /// [`TrainError::Finetune`], naming the key, if a table adds an element that the model knows or no training frame has, or takes the weights of one
    /// that it does not know; if frames cannot be had.
    pub fn new(header: &Header, config: &FinetuneConfig, train: &dyn FrameSource) -> Result<Self, TrainError> {
        let known = header.elements();
        match &config.new_elements {
            NewElements::Refuse => Ok(Self::default()),
            NewElements::Mean => Ok(Self(elements_of(&[train])?.into_iter().filter(|z| !known.contains(z)).map(|z| (z, None)).collect())),
            NewElements::Like(table) => {
                let present = elements_of(&[train])?;
                let mut added = BTreeMap::new();
                for (new, old) in table {
                    let wrong =
                        |what: String, hint| Err(TrainError::Finetune { what: format!("finetune.new_elements.like.{new}: {what}"), hint });
                    let (Some(number), Some(like)) = (elements::atomic_number(new), elements::atomic_number(old)) else {
                        return wrong(format!("`{new}` or `{old}` is not a chemical symbol"), "write it as in { like = { Au = \"Ag\" } }");
                    };
                    if known.contains(&number) {
                        let what = format!("the model knows {} already", symbol(number));
                        return wrong(what, "leave it out: weights of elements that are known stay as they are");
                    }
                    if !known.contains(&like) {
                        let list = known.iter().map(|&z| symbol(z)).collect::<Vec<_>>().join(", ");
                        let what = format!("the model does not know {}, whose weights are to be copied; it knows {list}", symbol(like));
                        return wrong(what, "name an element that it knows, or set finetune.new_elements = \"mean\"");
                    }
                    if !present.contains(&number) {
                        let what = format!("no training frame has {}", symbol(number));
                        return wrong(what, "leave it out, or add frames with it to data.train");
                    }
                    added.insert(number, Some(like));
                }
                Ok(Self(added))
            }
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Their atomic numbers, ascending.
    pub fn numbers(&self) -> Vec<u8> {
        self.0.keys().copied().collect()
    }

    /// A list of elements with these in it: in ascending order if it was, else at its end.
    pub fn joined(&self, old: &[u8]) -> Vec<u8> {
        let mut joined = [old, &self.numbers()].concat();
        if old.is_sorted() {
            joined.sort_unstable();
        }
        joined
    }

    /// What is added, for people.
    pub fn note(&self) -> String {
        let each = |(new, old): (&u8, &Option<u8>)| match old {
            Some(old) => format!("{} (as {})", symbol(*new), symbol(*old)),
            None => format!("{} (mean of the others)", symbol(*new)),
        };
        format!("elements added: {}", self.0.iter().map(each).collect::<Vec<_>>().join(", "))
    }
}

/// Where the weights of an element of the new list come from: a place in the old one, or all of it.
#[derive(Debug, Clone, Copy)]
enum Row {
    Copy(usize),
    Mean,
}

/// How a tensor depends on elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dimension {
    /// One row for each; whether they are divided by the root of the number of elements when they are used.
    Rows { one_hot: bool },
    /// One column for each, that of an energy or its scale.
    Columns,
    /// A row and a column for each, of pairs.
    Pairs,
    /// A number for each, its covalent radius.
    Radii,
}

impl Dimension {
    /// Dimensions of the tensor that are elements.
    fn axes(self) -> &'static [usize] {
        match self {
            Self::Rows { .. } | Self::Radii => &[0],
            Self::Columns => &[1],
            Self::Pairs => &[0, 1],
        }
    }

    /// Of a tensor of this name and shape; `None` if all elements share it.
    fn of(architecture: &Architecture, tensor: &str, shape: &[usize]) -> Option<Self> {
        match architecture {
            Architecture::Mace(config) => Self::of_mace(config, tensor),
            Architecture::Nequip(config) => Self::of_nequip(config, tensor, shape),
        }
    }

    fn of_mace(config: &MaceConfig, tensor: &str) -> Option<Self> {
        const ONE_HOT: Option<Dimension> = Some(Dimension::Rows { one_hot: true });
        match tensor {
            "embedding.weight" => return ONE_HOT,
            "atomic_energies" => return Some(Self::Columns),
            "covalent_radii" => return Some(Self::Radii),
            _ => {}
        }
        let (t, what) = layer_of(tensor)?;
        let layer = config.layers.get(t)?;
        match (what, layer.interaction) {
            ("mix.weight", Interaction::Plain | Interaction::Density)
            | ("skip.weight", Interaction::Residual | Interaction::DensityResidual)
            | ("source.weight" | "target.weight", Interaction::ResidualNonLinear) => ONE_HOT,
            _ if layer.element_dependent_product && what.starts_with("product.") && what.contains(".weights.") => {
                Some(Self::Rows { one_hot: false })
            }
            _ => None,
        }
    }

    /// Normalisations by the number of elements are numbers of the configuration here and stay as they are.
    fn of_nequip(config: &NequipConfig, tensor: &str, shape: &[usize]) -> Option<Self> {
        match tensor {
            "embedding.weight" => return Some(Self::Rows { one_hot: false }),
            "scale" | "shift" => return Some(Self::Columns),
            "pair_cutoffs" => return Some(Self::Pairs),
            _ => {}
        }
        let (t, what) = layer_of(tensor)?;
        let by_element = match what {
            "self_connection.weight" => matches!(config.layers.get(t)?.self_connection, SelfConnection::Element { .. }),
            // The divisor of a model of one element may be that of all.
            "denominator" => shape.len() == 1 && shape[0] > 1,
            _ => false,
        };
        by_element.then_some(Self::Rows { one_hot: false })
    }
}

/// `layers.{t}.WHAT` as t and WHAT.
fn layer_of(tensor: &str) -> Option<(usize, &str)> {
    let (t, what) = tensor.strip_prefix("layers.")?.split_once('.')?;
    Some((t.parse().ok()?, what))
}

/// Numbers of shape [·, `old`, `width`], whose middle dimension becomes that of `rows`.
fn along(numbers: &[f64], rows: &[Row], old: usize, width: usize) -> Vec<f64> {
    let mut grown = Vec::with_capacity(numbers.len() / old.max(1) * rows.len());
    for block in numbers.chunks((old * width).max(1)) {
        for row in rows {
            match *row {
                Row::Copy(k) => grown.extend_from_slice(&block[k * width..(k + 1) * width]),
                Row::Mean => {
                    grown.extend((0..width).map(|x| block.iter().skip(x).step_by(width).sum::<f64>() / old as f64));
                }
            }
        }
    }
    grown
}

/// The model with more elements.
///
/// # Errors
/// If a tensor does not have the shape that its elements need.
pub(super) fn extended(foundation: &Artifact, added: &Added) -> Result<Artifact, TrainError> {
    if added.is_empty() {
        return Ok(foundation.clone());
    }
    let mut header = foundation.header().clone();
    let old = foundation.header().elements();
    let elements = added.joined(old);
    let place = |z: u8| old.iter().position(|&e| e == z);
    let row = |z: &u8| place(*z).or_else(|| added.0.get(z).copied().flatten().and_then(place)).map_or(Row::Mean, Row::Copy);
    let rows: Vec<Row> = elements.iter().map(row).collect();
    let lost = (elements.len() as f64 / old.len() as f64).sqrt();
    let mut tensors = Vec::new();
    for name in foundation.names() {
        let mut shape = foundation.shape(name).unwrap_or_default().to_vec();
        let Some(dimension) = Dimension::of(&header.architecture, name, &shape) else {
            tensors.push(foundation.tensor(name)?);
            continue;
        };
        let mut numbers = foundation.f64(name)?;
        for &axis in dimension.axes() {
            if shape.get(axis) != Some(&old.len()) {
                let mut expected = shape.clone();
                expected.resize(expected.len().max(axis + 1), 1);
                expected[axis] = old.len();
                return Err(PotentialError::Shape { name: name.to_owned(), found: shape, expected }.into());
            }
            numbers = along(&numbers, &rows, old.len(), shape[axis + 1..].iter().product());
            shape[axis] = rows.len();
        }
        match dimension {
            Dimension::Rows { one_hot: true } => numbers.iter_mut().for_each(|x| *x *= lost),
            Dimension::Radii => {
                for (radius, z) in numbers.iter_mut().zip(&elements).filter(|(_, z)| added.0.contains_key(*z)) {
                    *radius = covalent_radius(*z).unwrap_or(*radius);
                }
            }
            _ => {}
        }
        tensors.push(NamedTensor { name: name.to_owned(), shape, numbers: Numbers::F64(numbers) });
    }
    match &mut header.architecture {
        Architecture::Mace(config) => config.elements = elements,
        Architecture::Nequip(config) => config.elements = elements,
    }
    header.provenance.notes.push(added.note());
    Ok(Artifact::new(header, tensors)?)
}

/// Where the weights of the elements lie that are not among `known`: by tensor, ranges of its flat numbers.
pub fn rows_of_new(artifact: &Artifact, known: &[u8]) -> BTreeMap<String, Vec<Range<usize>>> {
    let header = artifact.header();
    let new: Vec<usize> = (0..header.elements().len()).filter(|&k| !known.contains(&header.elements()[k])).collect();
    let mut rows = BTreeMap::new();
    if new.is_empty() {
        return rows;
    }
    for name in artifact.names() {
        let shape = artifact.shape(name).unwrap_or_default();
        if let Some(Dimension::Rows { .. }) = Dimension::of(&header.architecture, name, shape) {
            let width: usize = shape[1..].iter().product();
            rows.insert(name.to_owned(), new.iter().map(|k| k * width..(k + 1) * width).collect());
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use candle_core::{DType, Device};
    use tesseral_atoms::{Cell, Structure};
    use tesseral_potentials::{Evaluation, Model, Parameters};
    use tesseral_testkit::{Random, relative_error};

    use super::*;
    use crate::config::{LossConfig, LossWeights};
    use crate::data::{Frame, Memory};
    use crate::finetune::{ewc, heads, replay};
    use crate::loader::Samples;
    use crate::stop::Stop;
    use crate::testing::{golden, tiny_artifact, tiny_sevennet, unlabelled};

    fn with(table: &[(u8, Option<u8>)]) -> Added {
        Added(table.iter().copied().collect())
    }

    /// Evaluations under every head.
    fn evaluate(artifact: &Artifact, structures: &[Structure]) -> Vec<Evaluation> {
        let model = Model::load(artifact, DType::F64, &Device::Cpu).unwrap();
        let mut all = Vec::new();
        for head in 0..artifact.header().heads().len().max(1) {
            for structure in structures {
                let prepared = model.prepare(structure).unwrap();
                let batch = model.batch(&[&prepared], &[structure], head as u32).unwrap();
                all.extend(model.evaluate(&batch).unwrap());
            }
        }
        all
    }

    fn assert_same(a: &[Evaluation], b: &[Evaluation], what: &str) {
        assert_eq!(a.len(), b.len());
        for (a, b) in a.iter().zip(b) {
            assert!((a.energy - b.energy).abs() <= 1e-11 * a.energy.abs().max(1.0), "{what}: {} and {}", a.energy, b.energy);
            assert!(relative_error(a.forces.as_flattened(), b.forces.as_flattened()) < 1e-10, "{what}");
            assert_eq!(a.stress.is_some(), b.stress.is_some());
            if let (Some(a), Some(b)) = (a.stress, b.stress) {
                assert!(relative_error(a.as_flattened(), b.as_flattened()) < 1e-10, "{what}");
            }
        }
    }

    /// A molecule and a crystal of these elements, close enough for every cutoff.
    fn structures(elements: &[u8]) -> Vec<Structure> {
        let mut random = Random::new(5);
        let numbers: Vec<u8> = (0..6).map(|k| elements[k % elements.len()]).collect();
        let mut places = |n: usize| -> Vec<[f64; 3]> {
            let place = |k: usize| [1.7 * (k % 2) as f64, 1.7 * (k / 2 % 2) as f64, 1.7 * (k / 4) as f64];
            (0..n).map(|k| place(k).map(|x| x + 0.2 * random.number())).collect()
        };
        let cell = Cell { vectors: [[3.6, 0.2, 0.0], [0.0, 3.5, 0.1], [0.3, 0.0, 3.7]] };
        vec![Structure::molecule(numbers.clone(), places(6)), Structure::crystal(cell, numbers, places(6))]
    }

    /// Models of every kind that there is.
    fn models() -> Vec<(String, Artifact)> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden");
        let mut models = vec![
            ("tiny MACE".to_owned(), tiny_artifact(&[1, 8])),
            ("tiny SevenNet".to_owned(), tiny_sevennet(&[1, 8])),
            ("of one element".to_owned(), tiny_artifact(&[8])),
            ("SevenNet of one element".to_owned(), tiny_sevennet(&[8])),
        ];
        for family in ["mace", "sevennet", "nequip"] {
            let mut files: Vec<String> = std::fs::read_dir(folder.join(family))
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                // References, checkpoints with a configuration beside them, and one that is not imported.
                .filter(|name| !["ref_", "v06_parity", "cueq_layout"].iter().any(|start| name.starts_with(start)))
                .collect();
            files.sort();
            models.extend(files.into_iter().map(|name| (name.clone(), golden(&format!("{family}/{name}")))));
        }
        assert!(models.len() > 25, "{}", models.len());
        models
    }

    /// Old elements have the energies that they had, whatever the model and its normalisations; and a copy is a copy.
    #[test]
    fn nothing_changes_for_old_elements() {
        for (name, old) in models() {
            let elements = old.header().elements().to_vec();
            let like = *elements.last().unwrap();
            let added = with(&[(84, None), (3, Some(like))]);
            let new = extended(&old, &added).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(new.header().elements().len(), elements.len() + 2, "{name}");
            let frames = structures(&elements);
            let before = evaluate(&old, &frames);
            assert!(before.iter().any(|e| e.forces.as_flattened().iter().any(|f| f.abs() > 1e-6)), "{name} has no forces");
            assert_same(&before, &evaluate(&new, &frames), &name);
            // With another element in the place of the one it is like. Radii and the pair repulsion are its own.
            let mut replaced = frames.clone();
            for z in replaced.iter_mut().flat_map(|s| &mut s.numbers).filter(|z| **z == like) {
                *z = 3;
            }
            let repels = matches!(&old.header().architecture, Architecture::Nequip(c) if c.zbl.is_some());
            let copied = evaluate(&new, &replaced);
            if !repels && !old.contains("covalent_radii") {
                assert_same(&before, &copied, &name);
            } else {
                assert!(copied.iter().all(|e| e.energy.is_finite()), "{name}");
            }
            let mut other = frames;
            other.iter_mut().for_each(|s| s.numbers[0] = 84);
            assert!(evaluate(&new, &other).iter().all(|e| e.energy.is_finite()), "{name}");
        }
    }

    #[test]
    fn the_built_in_model_learns_elements() {
        let old = Artifact::from_static(tesseral_models::default_artifact(), "sevennet-0").unwrap();
        let new = extended(&old, &with(&[(84, Some(52)), (88, None)])).unwrap();
        // Its list is in the order of symbols, so new ones come last.
        let (was, is) = (old.header().elements(), new.header().elements());
        assert_eq!((&is[..was.len()], &is[was.len()..]), (was, &[84, 88][..]));
        let frames = structures(&[8, 52, 14]);
        assert_same(&evaluate(&old, &frames), &evaluate(&new, &frames), "SevenNet-0");
        let mut polonium = frames.clone();
        polonium.iter_mut().flat_map(|s| &mut s.numbers).filter(|z| **z == 52).for_each(|z| *z = 84);
        assert_same(&evaluate(&old, &frames), &evaluate(&new, &polonium), "Po as Te");
        // In the precision that it is usually trained in, too: nothing is scaled.
        let weights = new.f64("embedding.weight").unwrap();
        assert_eq!(weights[..was.len() * 128], old.f64("embedding.weight").unwrap());
        assert_eq!(new.tensor("layers.0.linear_1.weight").unwrap(), old.tensor("layers.0.linear_1.weight").unwrap());
    }

    #[test]
    fn rows_are_copies_or_means() {
        let old = tiny_artifact(&[1, 8]);
        let new = extended(&old, &with(&[(6, None), (7, Some(8))])).unwrap();
        assert_eq!(new.header().elements(), [1, 6, 7, 8]);
        assert!(new.header().provenance.notes.iter().any(|n| n == "elements added: C (mean of the others), N (as O)"));
        let factor = 2f64.sqrt();
        for (name, factor) in [("embedding.weight", factor), ("layers.0.skip.weight", factor), ("layers.1.product.0.weights.2", 1.0)] {
            let (before, after) = (old.f64(name).unwrap(), new.f64(name).unwrap());
            let width = before.len() / 2;
            assert_eq!(new.shape(name).unwrap()[0], 4);
            for x in 0..width {
                let (hydrogen, oxygen) = (before[x] * factor, before[width + x] * factor);
                let expected = [hydrogen, 0.5 * (hydrogen + oxygen), oxygen, oxygen];
                let found: Vec<f64> = (0..4).map(|k| after[k * width + x]).collect();
                assert!(relative_error(&found, &expected) < 1e-15, "{name}");
            }
        }
        assert_eq!(new.f64("atomic_energies").unwrap(), [-1.0, -4.5, -8.0, -8.0]);
        // Pairs: the mean of the means.
        let pairs = [1.0, 2.0, 3.0, 5.0];
        let rows = [Row::Copy(0), Row::Copy(1), Row::Mean];
        let columns = along(&along(&pairs, &rows, 2, 2), &rows, 2, 1);
        assert_eq!(columns, [1.0, 2.0, 1.5, 3.0, 5.0, 4.0, 2.0, 3.5, 2.75]);
        let rows = rows_of_new(&new, &[1, 8]);
        let width = new.shape("embedding.weight").unwrap()[1];
        assert_eq!(rows["embedding.weight"], [width..2 * width, 2 * width..3 * width]);
        assert!(rows.contains_key("layers.1.skip.weight") && !rows.contains_key("atomic_energies"));
        assert!(rows_of_new(&new, &[1, 6, 7, 8]).is_empty());
    }

    fn frame(numbers: &[u8], energy: f64) -> Frame {
        Frame {
            energy: Some(energy),
            ..unlabelled(Structure::molecule(numbers.to_vec(), (0..numbers.len()).map(|k| [1.1 * k as f64, 0.1, 0.0]).collect()), 0)
        }
    }

    #[test]
    fn what_is_asked_for_must_make_sense() {
        let model = tiny_artifact(&[1, 8]);
        let train = Memory::from(vec![frame(&[8, 1, 1], 0.0), frame(&[79, 6], 0.0)]);
        let asked = |new_elements| Added::new(model.header(), &FinetuneConfig { new_elements, ..FinetuneConfig::default() }, &train);
        assert!(asked(NewElements::Refuse).unwrap().is_empty());
        assert_eq!(asked(NewElements::Mean).unwrap(), with(&[(6, None), (79, None)]));
        let like =
            |pairs: &[(&str, &str)]| asked(NewElements::Like(pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()));
        assert_eq!(like(&[("Au", "H")]).unwrap(), with(&[(79, Some(1))]));
        for (new, old, says) in [
            ("O", "H", "finetune.new_elements.like.O: the model knows O already"),
            ("Au", "Ag", "finetune.new_elements.like.Au: the model does not know Ag, whose weights are to be copied; it knows H, O"),
            ("Au", "C", "does not know C"),
            ("Pt", "O", "finetune.new_elements.like.Pt: no training frame has Pt"),
        ] {
            let error = like(&[(new, old)]).unwrap_err();
            assert!(error.to_string().contains(says) && error.hint().is_some(), "{error}");
        }
    }

    /// What the old domain says about new elements is nothing, and their energies do not move its zeros.
    #[test]
    fn the_old_domain_does_not_see_them() {
        let old = tiny_artifact(&[1, 8]);
        let new = extended(&old, &with(&[(3, None)])).unwrap();
        let parameters = Parameters::trainable(&new, DType::F64, &Device::Cpu);
        tesseral_ops::autograd::enable_second_derivatives().unwrap();
        let model = Model::build(&new, &parameters).unwrap();
        let variables = parameters.into_variables();
        let mut water = frame(&[8, 1, 1], -11.0);
        water.forces = Some(vec![[0.3, 0.0, 0.2], [-0.3, 0.1, 0.0], [0.0, -0.1, -0.2]]);
        let samples = Samples::new(Arc::new(Memory::from(vec![water.clone()])), new.header().clone());
        let fisher =
            ewc::fisher(&model, &variables, &samples, 0..1, &LossConfig::default(), LossWeights::default(), Stop::never()).unwrap();
        let rows = rows_of_new(&new, &[1, 8]);
        assert!(rows.len() > 4);
        for (name, ranges) in &rows {
            let of_new: f64 = ranges.iter().flat_map(|range| &fisher[name][range.clone()]).sum();
            assert!(of_new == 0.0 && fisher[name].iter().any(|f| *f > 0.0), "{name}: {of_new}");
        }
        // Oxygen has another place in the list now: energies are found by element.
        assert_eq!(new.header().elements(), [1, 3, 8]);
        let mut energies = new.f64("atomic_energies").unwrap();
        energies[0] += 0.5;
        energies[1] += 100.0;
        energies[2] -= 2.0;
        let tensor = NamedTensor { name: "atomic_energies".into(), shape: vec![1, 3], numbers: Numbers::F64(energies) };
        let shifted = new.with_tensors(new.header().clone(), vec![tensor]).unwrap();
        let mut frames = vec![water];
        replay::shift_energies(&mut frames, &old, &shifted).unwrap();
        assert!((frames[0].energy.unwrap() - (-11.0 + 2.0 * 0.5 - 2.0)).abs() < 1e-12);
    }

    #[test]
    fn a_new_head_knows_them_too() {
        let old = tiny_artifact(&[1, 8]);
        let new = heads::with_head(&extended(&old, &with(&[(7, Some(8))])).unwrap(), "tuned", None).unwrap();
        assert_eq!(new.shape("atomic_energies"), Some(&[2, 3][..]));
        let frames = structures(&[1, 8]);
        let (before, after) = (evaluate(&old, &frames), evaluate(&new, &frames));
        assert_same(&[before.clone(), before].concat(), &after, "both heads");
    }
}
