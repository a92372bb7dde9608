//! Low-rank adaptation (Hu et al., ICLR 2022): what is trained of a linear map is W = W₀ + (α/r) A B, with W₀ as it was, A `[in, r]` and B `[r, out]`.
//!
//! It is done outside of the model. Each block of weights of an equivariant linear map, `[channels in, channels out]` for one irrep (and one element, where
//! weights depend on it), has an A and a B of its own, so what is added is equivariant as well; matrices of networks on scalars are one block.
//! The products are written into the model's weights, and the gradient G by these becomes those by A and B: (α/r) G Bᵀ and (α/r) Aᵀ G. B is 0 at the
//! beginning, and A is drawn from the normal distribution, as weights of these models are, their normalisation being elsewhere. Everything that is no linear
//! map stays as it is.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{Device, Tensor, Var};
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
}

/// Low-rank updates of the linear maps of a model.
#[derive(Debug)]
pub struct LowRank {
    scale: f64,
    maps: BTreeMap<String, Map>,
}

impl LowRank {
    /// For the weights that are in `weights` of the maps `specs`, as they are. A block has at most as many ranks as channels.
    ///
    /// # Errors
    /// Only if candle fails.
    pub fn new(
        config: LoraConfig,
        weights: &BTreeMap<String, Var>,
        specs: &BTreeMap<String, Arc<LinearSpec>>,
        seed: u64,
    ) -> Result<Self, TrainError> {
        let mut maps = BTreeMap::new();
        for (name, spec) in specs {
            let Some(weight) = weights.get(name) else { continue };
            let mut blocks = Vec::new();
            for row in 0..weight.elem_count() / spec.weight_numel {
                for instruction in &spec.instructions {
                    let (mul_in, mul_out) = (instruction.mul_in, instruction.mul_out);
                    let rank = config.rank.min(mul_in).min(mul_out);
                    let a = Stream::new(seed, &format!("{name}.lora.{}.a", blocks.len())).normal(mul_in * rank, 1.0);
                    let variable =
                        |x: Vec<f64>, shape| Var::from_tensor(&Tensor::from_vec(x, shape, &Device::Cpu)?.to_dtype(weight.dtype())?);
                    blocks.push(Block {
                        offset: row * spec.weight_numel + instruction.weight_offset,
                        mul_in,
                        mul_out,
                        rank,
                        a: variable(a, (mul_in, rank))?,
                        b: variable(vec![0.0; rank * mul_out], (rank, mul_out))?,
                    });
                }
            }
            maps.insert(name.clone(), Map { weight: weight.clone(), base: values(weight)?, blocks });
        }
        Ok(Self { scale: config.alpha / config.rank as f64, maps })
    }

    /// What is trained: `NAME.lora.BLOCK.a` and `.b` for each weight NAME.
    pub fn variables(&self) -> BTreeMap<String, Var> {
        let mut variables = BTreeMap::new();
        for (name, map) in &self.maps {
            for (k, block) in map.blocks.iter().enumerate() {
                variables.insert(format!("{name}.lora.{k}.a"), block.a.clone());
                variables.insert(format!("{name}.lora.{k}.b"), block.b.clone());
            }
        }
        variables
    }

    /// Writes W₀ + (α/r) A B into the weights of the model.
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
            let merged = Tensor::from_vec(merged, map.weight.shape(), &Device::Cpu)?.to_dtype(map.weight.dtype())?;
            map.weight.set(&merged)?;
        }
        Ok(())
    }

    /// Gradients by A and B from those by the weights of the model.
    ///
    /// # Errors
    /// Only if candle fails.
    pub fn project(&self, gradients: &BTreeMap<String, Tensor>) -> Result<BTreeMap<String, Tensor>, TrainError> {
        let mut projected = BTreeMap::new();
        for (name, map) in &self.maps {
            let Some(gradient) = gradients.get(name) else { continue };
            let gradient = values(gradient)?;
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
                let tensor = |x: Vec<f64>, like: &Var| Tensor::from_vec(x, like.shape(), &Device::Cpu)?.to_dtype(like.dtype());
                projected.insert(format!("{name}.lora.{k}.a"), tensor(of_a, &block.a)?);
                projected.insert(format!("{name}.lora.{k}.b"), tensor(of_b, &block.b)?);
            }
        }
        Ok(projected)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::DType;
    use tesseral_atoms::Structure;
    use tesseral_potentials::{Artifact, Model, Parameters};
    use tesseral_testkit::{Random, slope};

    use super::*;
    use crate::config::{LossConfig, LossWeights};
    use crate::data::{Frame, Origin, Weights};
    use crate::step::{Sample, gradients};
    use crate::testing::{tiny_artifact, tiny_sevennet};

    fn agrees(artifact: &Artifact) {
        tesseral_ops::autograd::enable_second_derivatives().unwrap();
        let parameters = Parameters::trainable(artifact, DType::F64, &Device::Cpu);
        let model = Model::build(artifact, &parameters).unwrap();
        let specs = parameters.linear_maps();
        let weights = parameters.into_variables();
        assert!(specs.keys().all(|name| weights.contains_key(name)));
        let frame = Frame {
            structure: Structure::molecule(vec![8, 1, 1], vec![[0.0, 0.0, 0.1], [0.9, 0.1, 0.0], [-0.3, 0.9, 0.2]]),
            energy: Some(-11.0),
            forces: Some(vec![[0.3, 0.0, 0.2], [-0.3, 0.1, 0.0], [0.0, -0.2, 0.1]]),
            force_mask: None,
            stress: None,
            weights: Weights::default(),
            group: None,
            head: None,
            origin: Origin { file: "test".into(), frame: 0 },
        };
        let batch = vec![Sample::new(artifact.header(), Arc::new(frame)).unwrap()];
        let found = || gradients(&model, &weights, std::slice::from_ref(&batch), &LossConfig::default(), LossWeights::default()).unwrap();
        let before = found();
        let low_rank = LowRank::new(LoraConfig { rank: 2, alpha: 3.0 }, &weights, &specs, 5).unwrap();
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
    }

    #[test]
    fn gradients_of_the_factors_agree_with_finite_differences() {
        agrees(&tiny_artifact(&[1, 8]));
        agrees(&tiny_sevennet(&[1, 8]));
    }
}
