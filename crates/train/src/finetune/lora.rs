//! Low-rank adaptation (Hu et al., ICLR 2022): what is trained of a linear map is W = W₀ + (α/r) A B, with W₀ as it was, A `[in, r]` and B `[r, out]`.
//!
//! It is done outside of the model. Each block of weights of an equivariant linear map, `[channels in, channels out]` for one irrep (and one element, where
//! weights depend on it), has an A and a B of its own, so what is added is equivariant as well; matrices of networks on scalars are one block.
//! The products are written into the model's weights, and the gradient G by these becomes those by A and B: (α/r) G Bᵀ and (α/r) Aᵀ G. B is 0 at the
//! beginning, and A is drawn from the normal distribution with the root mean square of the block's weights: these are of the order of 1 where the
//! normalisation of a map is elsewhere, as in e3nn, and smaller where it is in the weights themselves, as in networks with layer norms. Everything that is
//! no linear map stays as it is, but for weights of elements that the model is only learning: these have nothing to be kept, and are trained as they are.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use candle_core::{Tensor, Var};
use tesseral_ops::linear::LinearSpec;

use super::values;
use crate::architecture::Stream;
use crate::config::LoraConfig;
use crate::error::TrainError;

/// One block of weights for one element.
#[derive(Debug)]
struct Block {
    /// Where its weights start in the tensor.
    offset: usize,
    mul_in: usize,
    mul_out: usize,
    rank: usize,
    a: Var,
    b: Var,
}

#[derive(Debug)]
struct Map {
    weight: Var,
    base: Vec<f64>,
    blocks: Vec<Block>,
    /// Weights of new elements, if there are any: where they are in the tensor, and what is trained in their place.
    new: Option<(Vec<Range<usize>>, Var)>,
}

/// Low-rank updates of the linear maps of a model.
#[derive(Debug)]
pub struct LowRank {
    scale: f64,
    maps: BTreeMap<String, Map>,
}

fn root_mean_square(numbers: &[f64]) -> f64 {
    (numbers.iter().map(|x| x * x).sum::<f64>() / numbers.len().max(1) as f64).sqrt()
}

impl LowRank {
    /// For the weights that are in `weights` of the maps `specs`, as they are. A block has at most as many ranks as channels. `new_rows` says where weights
    /// of new elements are in any tensor.
    ///
    /// # Errors
    /// Only if candle fails.
    pub fn new(
        config: LoraConfig,
        weights: &BTreeMap<String, Var>,
        specs: &BTreeMap<String, Arc<LinearSpec>>,
        new_rows: &BTreeMap<String, Vec<Range<usize>>>,
        seed: u64,
    ) -> Result<Self, TrainError> {
        let mut maps = BTreeMap::new();
        for (name, weight) in weights {
            let variable =
                |x: Vec<f64>, shape: &[usize]| Var::from_tensor(&Tensor::from_vec(x, shape, weight.device())?.to_dtype(weight.dtype())?);
            let ranges = new_rows.get(name).cloned().unwrap_or_default();
            let spec = specs.get(name);
            if spec.is_none() && ranges.is_empty() {
                continue;
            }
            let base = values(weight)?;
            let mut blocks = Vec::new();
            if let Some(spec) = spec {
                let firsts = (0..base.len()).step_by(spec.weight_numel);
                // Rows of new elements are trained in full.
                for first in firsts.filter(|first| !ranges.iter().any(|range| range.contains(first))) {
                    for instruction in &spec.instructions {
                        let (mul_in, mul_out) = (instruction.mul_in, instruction.mul_out);
                        let rank = config.rank.min(mul_in).min(mul_out);
                        let offset = first + instruction.weight_offset;
                        let size = root_mean_square(&base[offset..offset + mul_in * mul_out]);
                        let deviation = if size > 0.0 { size } else { 1.0 };
                        let a = Stream::new(seed, &format!("{name}.lora.{}.a", blocks.len())).normal(mul_in * rank, deviation);
                        blocks.push(Block {
                            offset,
                            mul_in,
                            mul_out,
                            rank,
                            a: variable(a, &[mul_in, rank])?,
                            b: variable(vec![0.0; rank * mul_out], &[rank, mul_out])?,
                        });
                    }
                }
            }
            let of_new: Vec<f64> = ranges.iter().flat_map(|range| &base[range.clone()]).copied().collect();
            let count = of_new.len();
            let new = if count > 0 { Some((ranges, variable(of_new, &[count])?)) } else { None };
            maps.insert(name.clone(), Map { weight: weight.clone(), base, blocks, new });
        }
        Ok(Self { scale: config.alpha / config.rank as f64, maps })
    }

    /// What is trained: `NAME.lora.BLOCK.a` and `.b` for each weight NAME, and `NAME.lora.new` for its part of new elements.
    pub fn variables(&self) -> BTreeMap<String, Var> {
        let mut variables = BTreeMap::new();
        for (name, map) in &self.maps {
            for (k, block) in map.blocks.iter().enumerate() {
                variables.insert(format!("{name}.lora.{k}.a"), block.a.clone());
                variables.insert(format!("{name}.lora.{k}.b"), block.b.clone());
            }
            if let Some((_, new)) = &map.new {
                variables.insert(format!("{name}.lora.new"), new.clone());
            }
        }
        variables
    }

    /// Writes W₀ + (α/r) A B into the weights of the model, and the weights of new elements as they are.
    ///
    /// # Errors
    /// Only if candle fails.
    pub fn merge(&self) -> Result<(), TrainError> {
        for map in self.maps.values() {
            let mut merged = map.base.clone();
            for block in &map.blocks {
                let (a, b) = (values(&block.a)?, values(&block.b)?);
                for i in 0..block.mul_in {
                    for o in 0..block.mul_out {
                        let sum: f64 = (0..block.rank).map(|k| a[i * block.rank + k] * b[k * block.mul_out + o]).sum();
                        merged[block.offset + i * block.mul_out + o] += self.scale * sum;
                    }
                }
            }
            if let Some((ranges, new)) = &map.new {
                for (place, x) in ranges.iter().cloned().flatten().zip(values(new)?) {
                    merged[place] = x;
                }
            }
            let merged = Tensor::from_vec(merged, map.weight.shape(), map.weight.device())?.to_dtype(map.weight.dtype())?;
            map.weight.set(&merged)?;
        }
        Ok(())
    }

    /// Gradients by what is trained from those by the weights of the model.
    ///
    /// # Errors
    /// Only if candle fails.
    pub fn project(&self, gradients: &BTreeMap<String, Tensor>) -> Result<BTreeMap<String, Tensor>, TrainError> {
        let mut projected = BTreeMap::new();
        for (name, map) in &self.maps {
            let Some(gradient) = gradients.get(name) else { continue };
            let gradient = values(gradient)?;
            let tensor = |x: Vec<f64>, like: &Var| Tensor::from_vec(x, like.shape(), like.device())?.to_dtype(like.dtype());
            if let Some((ranges, new)) = &map.new {
                let of_new = ranges.iter().cloned().flatten().map(|place| gradient[place]).collect();
                projected.insert(format!("{name}.lora.new"), tensor(of_new, new)?);
            }
            for (k, block) in map.blocks.iter().enumerate() {
                let Block { offset, mul_in, mul_out, rank, .. } = *block;
                let (a, b) = (values(&block.a)?, values(&block.b)?);
                let g = &gradient[offset..offset + mul_in * mul_out];
                let (mut of_a, mut of_b) = (vec![0.0; mul_in * rank], vec![0.0; rank * mul_out]);
                for i in 0..mul_in {
                    for k in 0..rank {
                        for o in 0..mul_out {
                            of_a[i * rank + k] += self.scale * g[i * mul_out + o] * b[k * mul_out + o];
                            of_b[k * mul_out + o] += self.scale * a[i * rank + k] * g[i * mul_out + o];
                        }
                    }
                }
                projected.insert(format!("{name}.lora.{k}.a"), tensor(of_a, &block.a)?);
                projected.insert(format!("{name}.lora.{k}.b"), tensor(of_b, &block.b)?);
            }
        }
        Ok(projected)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};
    use tesseral_atoms::Structure;
    use tesseral_potentials::{Artifact, Model, Parameters};
    use tesseral_testkit::{Random, slope};

    use super::*;
    use crate::config::{LossConfig, LossWeights};
    use crate::data::Frame;
    use crate::step::{Sample, gradients};
    use crate::testing::{tiny_artifact, tiny_sevennet, unlabelled};

    fn agrees(artifact: &Artifact) {
        tesseral_ops::autograd::enable_second_derivatives().unwrap();
        let parameters = Parameters::trainable(artifact, DType::F64, &Device::Cpu);
        let model = Model::build(artifact, &parameters).unwrap();
        let specs = parameters.linear_maps();
        let weights = parameters.into_variables();
        assert!(specs.keys().all(|name| weights.contains_key(name)));
        let frame = Frame {
            energy: Some(-11.0),
            forces: Some(vec![[0.3, 0.0, 0.2], [-0.3, 0.1, 0.0], [0.0, -0.2, 0.1]]),
            ..unlabelled(Structure::molecule(vec![8, 1, 1], vec![[0.0, 0.0, 0.1], [0.9, 0.1, 0.0], [-0.3, 0.9, 0.2]]), 0)
        };
        let batch = vec![Sample::new(artifact.header(), Arc::new(frame)).unwrap()];
        let found = || gradients(&model, &weights, std::slice::from_ref(&batch), &LossConfig::default(), LossWeights::default()).unwrap();
        let before = found();
        // Oxygen as if it had been added.
        let new_rows = crate::finetune::elements::rows_of_new(artifact, &[1]);
        let low_rank = LowRank::new(LoraConfig { rank: 2, alpha: 3.0 }, &weights, &specs, &new_rows, 5).unwrap();
        low_rank.merge().unwrap();
        // B is 0.
        assert_eq!(found().terms.total(), before.terms.total());
        let variables = low_rank.variables();
        let mut random = Random::new(8);
        for var in variables.values() {
            let x = random.numbers(var.elem_count()).iter().map(|x| 0.3 * x).collect::<Vec<f64>>();
            var.set(&Tensor::from_vec(x, var.shape(), &Device::Cpu).unwrap()).unwrap();
        }
        low_rank.merge().unwrap();
        let projected = low_rank.project(&found().by_name).unwrap();
        assert!(found().terms.total() != before.terms.total());
        for (name, var) in &variables {
            // Of weights that the loss does not depend on.
            let Some(gradient) = projected.get(name) else { continue };
            let place = values(var).unwrap();
            let direction = random.numbers(place.len());
            let expected: f64 = values(gradient).unwrap().iter().zip(&direction).map(|(g, d)| g * d).sum();
            let set = |x: Vec<f64>| {
                var.set(&Tensor::from_vec(x, var.shape(), &Device::Cpu).unwrap()).unwrap();
                low_rank.merge().unwrap();
            };
            let numeric = slope(1e-4, |h| {
                set(place.iter().zip(&direction).map(|(x, d)| x + h * d).collect());
                found().terms.total()
            });
            set(place.clone());
            let size = expected.abs().max(numeric.abs());
            assert!((expected - numeric).abs() <= 1e-6 * size.max(1e-3), "{name}: {expected} and {numeric}");
        }
        assert!(projected.len() > 8);
        assert!(projected.contains_key("embedding.weight.lora.new") && projected.keys().filter(|name| name.ends_with(".new")).count() >= 3);
    }

    /// Also where weights are small because nothing else makes their products so.
    #[test]
    fn factors_begin_as_large_as_the_weights() {
        use crate::architecture::{InteractionName, MaceModelConfig, ModelConfig, TrainingStatistics, build};

        let block = InteractionName::ResidualNonLinear;
        let config = MaceModelConfig { num_channels: 8, max_ell: 1, interaction_first: block, interaction: block, ..Default::default() };
        let statistics = TrainingStatistics {
            elements: vec![1, 8],
            e0s: vec![vec![0.0; 2]],
            scale: vec![1.0],
            shift: vec![0.0],
            avg_num_neighbors: 5.0,
        };
        let artifact = build(&ModelConfig::Mace(config), &statistics, &[], 3, "layer norms").unwrap();
        let parameters = Parameters::trainable(&artifact, DType::F64, &Device::Cpu);
        Model::build(&artifact, &parameters).unwrap();
        let specs = parameters.linear_maps();
        let low_rank = LowRank::new(LoraConfig::default(), &parameters.into_variables(), &specs, &BTreeMap::new(), 5).unwrap();
        let mut small = 0;
        for (name, map) in &low_rank.maps {
            for block in map.blocks.iter().filter(|block| block.mul_in * block.rank >= 32) {
                let weights = root_mean_square(&map.base[block.offset..block.offset + block.mul_in * block.mul_out]);
                let factor = root_mean_square(&values(&block.a).unwrap());
                assert!((0.6..1.6).contains(&(factor / weights)), "{name}: {factor} and {weights}");
                small += usize::from(weights < 0.2);
            }
        }
        // The radial and density networks.
        assert!(small >= 6, "{small}");
    }

    #[test]
    fn gradients_of_the_factors_agree_with_finite_differences() {
        agrees(&tiny_artifact(&[1, 8]));
        agrees(&tiny_sevennet(&[1, 8]));
    }
}
