//! Initial weights. Every tensor has a stream of random numbers of its own, made from the seed and its name, so that its numbers
//! do not depend on which other tensors a model has.

use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use sha2::{Digest, Sha256};
use tesseral_o3::Irreps;
use tesseral_ops::linear::LinearSpec;
use tesseral_potentials::blocks::MlpConfig;
use tesseral_potentials::{NamedTensor, Numbers};

/// The random numbers of one tensor.
pub(crate) struct Stream(ChaCha12Rng);

impl Stream {
    /// The stream of the tensor `name` for `seed`.
    pub(crate) fn new(seed: u64, name: &str) -> Self {
        let digest = Sha256::new().chain_update(seed.to_le_bytes()).chain_update(name.as_bytes()).finalize();
        Self(ChaCha12Rng::from_seed(digest.into()))
    }

    /// Uniform in (0, 1): the 53 bits of a double, and half of the last one so that zero does not occur.
    fn unit(&mut self) -> f64 {
        ((self.0.next_u64() >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    /// `n` numbers of the normal distribution with this standard deviation (Box and Muller).
    pub(crate) fn normal(&mut self, n: usize, deviation: f64) -> Vec<f64> {
        let mut values = Vec::with_capacity(n + 1);
        while values.len() < n {
            let radius = deviation * (-2.0 * self.unit().ln()).sqrt();
            let (sin, cos) = (std::f64::consts::TAU * self.unit()).sin_cos();
            values.extend([radius * cos, radius * sin]);
        }
        values.truncate(n);
        values
    }

    /// `n` numbers uniform in (−limit, limit).
    pub(super) fn uniform(&mut self, n: usize, limit: f64) -> Vec<f64> {
        (0..n).map(|_| (2.0 * self.unit() - 1.0) * limit).collect()
    }
}

/// How the matrices of a scalar network begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Network {
    /// e3nn's `FullyConnectedNet`: normal numbers, scaled when used.
    E3nn,
    /// NequIP's `ScalarMLP`: uniform in ±√3, which is of unit variance too, scaled when used.
    Nequip,
    /// torch's `Linear` (MACE's `RadialMLP`): weights and biases uniform in ±1/√inputs, layer norms the identity.
    Torch,
}

/// The tensors of a new model.
pub(super) struct Weights {
    seed: u64,
    tensors: Vec<NamedTensor>,
}

impl Weights {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, tensors: Vec::new() }
    }

    pub(super) fn into_tensors(self) -> Vec<NamedTensor> {
        self.tensors
    }

    /// Given numbers.
    pub(super) fn push(&mut self, name: impl Into<String>, shape: &[usize], values: Vec<f64>) {
        self.tensors.push(NamedTensor { name: name.into(), shape: shape.to_vec(), numbers: Numbers::F64(values) });
    }

    /// A table of indices.
    pub(super) fn table(&mut self, name: impl Into<String>, shape: &[usize], indices: Vec<i64>) {
        self.tensors.push(NamedTensor { name: name.into(), shape: shape.to_vec(), numbers: Numbers::I64(indices) });
    }

    /// One number everywhere.
    pub(super) fn constant(&mut self, name: impl Into<String>, shape: &[usize], value: f64) {
        self.push(name, shape, vec![value; shape.iter().product()]);
    }

    /// Normal numbers.
    pub(super) fn normal(&mut self, name: impl Into<String>, shape: &[usize], deviation: f64) {
        let name = name.into();
        let values = Stream::new(self.seed, &name).normal(shape.iter().product(), deviation);
        self.push(name, shape, values);
    }

    /// Uniform numbers.
    pub(super) fn uniform(&mut self, name: impl Into<String>, shape: &[usize], limit: f64) {
        let name = name.into();
        let values = Stream::new(self.seed, &name).uniform(shape.iter().product(), limit);
        self.push(name, shape, values);
    }

    /// The stream of a tensor that is not made of it alone.
    pub(super) fn stream(&self, name: &str) -> Stream {
        Stream::new(self.seed, name)
    }

    /// `{name}.weight` of an equivariant linear map, `[rows, flat]`: normal numbers, e3nn scales them when they are used.
    pub(super) fn linear(&mut self, name: &str, irreps_in: &Irreps, irreps_out: &Irreps, rows: usize) {
        let numel = LinearSpec::new(irreps_in, irreps_out, 1, 0).weight_numel;
        self.normal(format!("{name}.weight"), &[rows, numel], 1.0);
    }

    /// `{name}.{k}.weight` and so on of a network on scalars.
    pub(super) fn network(&mut self, name: &str, config: &MlpConfig, kind: Network) {
        let last = config.sizes.len().saturating_sub(2);
        for (k, size) in config.sizes.windows(2).enumerate() {
            let (name, shape, torch) = (format!("{name}.{k}"), [size[0], size[1]], 1.0 / (size[0] as f64).sqrt());
            match kind {
                Network::E3nn => self.normal(format!("{name}.weight"), &shape, 1.0),
                Network::Nequip => self.uniform(format!("{name}.weight"), &shape, 3f64.sqrt()),
                Network::Torch => self.uniform(format!("{name}.weight"), &shape, torch),
            }
            if config.bias_and_norm {
                self.uniform(format!("{name}.bias"), &[size[1]], torch);
                if k < last {
                    self.constant(format!("{name}.norm.weight"), &[size[1]], 1.0);
                    self.constant(format!("{name}.norm.bias"), &[size[1]], 0.0);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mean, variance and fourth moment.
    fn moments(values: &[f64]) -> [f64; 3] {
        let mean = |f: fn(f64) -> f64| values.iter().map(|&x| f(x)).sum::<f64>() / values.len() as f64;
        [mean(|x| x), mean(|x| x * x), mean(|x| x.powi(4))]
    }

    #[test]
    fn numbers_have_their_distributions() {
        let [mean, variance, fourth] = moments(&Stream::new(3, "a").normal(200_000, 2.0));
        assert!(mean.abs() < 0.02 && (variance / 4.0 - 1.0).abs() < 0.02 && (fourth / 48.0 - 1.0).abs() < 0.05);
        let values = Stream::new(3, "a").uniform(200_000, 3f64.sqrt());
        let [mean, variance, fourth] = moments(&values);
        assert!(mean.abs() < 0.01 && (variance - 1.0).abs() < 0.01 && (fourth - 1.8).abs() < 0.03);
        assert!(values.iter().all(|x| x.abs() < 3f64.sqrt()));
    }

    #[test]
    fn streams_depend_on_seed_and_name_and_not_on_other_tensors() {
        let weights = |names: &[&str], seed| {
            let mut weights = Weights::new(seed);
            for name in names {
                weights.normal(*name, &[3, 5], 1.0);
            }
            weights.into_tensors()
        };
        let (alone, both) = (weights(&["b"], 1), weights(&["a", "b"], 1));
        assert_eq!(alone[0], both[1]);
        assert_ne!(both[0].numbers, both[1].numbers);
        assert_ne!(alone[0], weights(&["b"], 2)[0]);
        // An odd number of numbers is the beginning of more.
        assert_eq!(Stream::new(1, "b").normal(16, 1.0)[..15], Stream::new(1, "b").normal(15, 1.0)[..]);
    }

    #[test]
    fn networks_begin_as_their_packages_begin_them() {
        let mut weights = Weights::new(0);
        weights.network("r", &MlpConfig::layer_norm(vec![100, 64, 7]), Network::Torch);
        let tensors = weights.into_tensors();
        let names: Vec<&str> = tensors.iter().map(|t| t.name.as_str()).collect();
        assert_eq!(names, ["r.0.weight", "r.0.bias", "r.0.norm.weight", "r.0.norm.bias", "r.1.weight", "r.1.bias"]);
        let largest = |k: usize| match &tensors[k].numbers {
            Numbers::F64(v) => v.iter().fold(0f64, |m, x| m.max(x.abs())),
            _ => f64::NAN,
        };
        assert!((0.099..0.1).contains(&largest(0)) && (0.08..0.1).contains(&largest(1)) && (0.12..0.125).contains(&largest(4)));
        assert_eq!((largest(2), largest(3)), (1.0, 0.0));
    }
}
