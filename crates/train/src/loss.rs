//! The loss: what the deviations of a batch from its labels add to it.
//!
//! Every term is a sum over the labels of a batch divided by the number of such labels in the whole step ([`LabelCounts`]). So batches of one step add up
//! to the same loss however they were packed, and frames without a label neither count nor pull towards zero.
//!
//! With Δ the deviation, n the atoms of a frame and w its weight (model definitions §2.13):
//!
//! | kind | energy | forces | stress |
//! |---|---|---|---|
//! | `mse` | w (Δ/n)² | w Δ² | w Δ² |
//! | `huber` | H_δ(w Δ/n) | H_δ(w Δ) | H_δ(w Δ) |
//! | `universal` | H_δ(w Δ/n) | H_(cδ)(w Δ), c by the length of the reference force | H_δ(w Δ) |
//! | `l1l2` | w abs(Δ/n) | w ‖Δ‖ of an atom | w abs(Δ) |
//!
//! Averages run over frames, force components (atoms for `l1l2`), and the nine components of stresses. H_δ(x) = x²/2 for abs(x) ≤ δ and
//! δ (abs(x) − δ/2) beyond. In `universal`, c is 1 for reference forces below 100 eV/Å, 0.7 below 200, 0.4 below 300, else 0.1.

use candle_core::{Device, Tensor};

use crate::config::{LossConfig, LossKind, LossWeights};
use crate::data::Frame;

/// Labels that a step averages over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LabelCounts {
    /// Energies.
    pub energies: usize,
    /// Atoms whose forces count.
    pub atoms: usize,
    /// Stresses.
    pub stresses: usize,
}

impl LabelCounts {
    /// Of one frame.
    pub fn of(frame: &Frame) -> Self {
        let atoms = match (&frame.forces, &frame.force_mask) {
            (Some(_), Some(mask)) => mask.iter().filter(|&&m| m).count(),
            (Some(forces), None) => forces.len(),
            (None, _) => 0,
        };
        Self { energies: usize::from(frame.energy.is_some()), atoms, stresses: usize::from(frame.stress.is_some()) }
    }
}

impl std::ops::AddAssign for LabelCounts {
    fn add_assign(&mut self, other: Self) {
        self.energies += other.energies;
        self.atoms += other.atoms;
        self.stresses += other.stresses;
    }
}

impl std::iter::Sum for LabelCounts {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::default(), |mut sum, counts| {
            sum += counts;
            sum
        })
    }
}

/// The labels of the frames of a batch, as tensors in f64. Where there is no label the weight is 0 and the label too.
#[derive(Debug, Clone)]
pub struct Labels {
    /// `[S]`, eV.
    energies: Tensor,
    /// `[S]`
    energy_weights: Tensor,
    /// 1 / atoms, `[S]`
    inverse_atoms: Tensor,
    /// `[N, 3]`, eV/Å.
    forces: Tensor,
    /// `[N, 1]`
    force_weights: Tensor,
    /// Factor on δ of `universal`, `[N, 1]`.
    force_deltas: Tensor,
    /// `[S, 3, 3]`, eV/Å³.
    stresses: Tensor,
    /// `[S, 1, 1]`
    stress_weights: Tensor,
    counts: LabelCounts,
}

impl Labels {
    /// Of these frames, in this order.
    ///
    /// # Errors
    /// Only if candle fails.
    pub fn new(frames: &[&Frame], device: &Device) -> candle_core::Result<Self> {
        let s = frames.len();
        let n: usize = frames.iter().map(|f| f.structure.len()).sum();
        let (mut forces, mut force_weights, mut force_deltas) = (Vec::with_capacity(3 * n), Vec::with_capacity(n), Vec::with_capacity(n));
        let mut stresses = Vec::with_capacity(9 * s);
        for frame in frames {
            for atom in 0..frame.structure.len() {
                let counts = frame.force_mask.as_ref().is_none_or(|mask| mask[atom]);
                let force = frame.forces.as_ref().filter(|_| counts).map(|f| f[atom]);
                forces.extend(force.unwrap_or_default());
                force_weights.push(if force.is_some() { frame.weights.forces } else { 0.0 });
                force_deltas.push(delta_factor(force.unwrap_or_default()));
            }
            let [xx, yy, zz, yz, zx, xy] = frame.stress.unwrap_or_default();
            stresses.extend([xx, xy, zx, xy, yy, yz, zx, yz, zz]);
        }
        let of_frames = |value: &dyn Fn(&Frame) -> f64| frames.iter().map(|f| value(f)).collect::<Vec<f64>>();
        let energies = of_frames(&|f| f.energy.unwrap_or(0.0));
        let energy_weights = of_frames(&|f| if f.energy.is_some() { f.weights.energy } else { 0.0 });
        let stress_weights = of_frames(&|f| if f.stress.is_some() { f.weights.stress } else { 0.0 });
        let inverse_atoms = of_frames(&|f| 1.0 / f.structure.len().max(1) as f64);
        Ok(Self {
            energies: Tensor::from_vec(energies, s, device)?,
            energy_weights: Tensor::from_vec(energy_weights, s, device)?,
            inverse_atoms: Tensor::from_vec(inverse_atoms, s, device)?,
            forces: Tensor::from_vec(forces, (n, 3), device)?,
            force_weights: Tensor::from_vec(force_weights, (n, 1), device)?,
            force_deltas: Tensor::from_vec(force_deltas, (n, 1), device)?,
            stresses: Tensor::from_vec(stresses, (s, 3, 3), device)?,
            stress_weights: Tensor::from_vec(stress_weights, (s, 1, 1), device)?,
            counts: frames.iter().map(|f| LabelCounts::of(f)).sum(),
        })
    }

    /// How many there are.
    pub fn counts(&self) -> LabelCounts {
        self.counts
    }
}

/// MACE's factor on δ by the length of the reference force, eV/Å.
fn delta_factor(force: [f64; 3]) -> f64 {
    let norm = force.iter().map(|x| x * x).sum::<f64>().sqrt();
    match norm {
        n if n < 100.0 => 1.0,
        n if n < 200.0 => 0.7,
        n if n < 300.0 => 0.4,
        _ => 0.1,
    }
}

/// What a model says about a batch, differentiable: energies `[S]` (eV), forces `[N, 3]` (eV/Å), stresses `[S, 3, 3]` (eV/Å³), all in f64.
#[derive(Debug, Clone)]
pub struct Predictions {
    /// `[S]`
    pub energies: Tensor,
    /// `[N, 3]`
    pub forces: Tensor,
    /// `[S, 3, 3]`
    pub stresses: Tensor,
}

/// The terms of the loss, each with its factor.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct LossTerms {
    /// Of the energies.
    pub energy: f64,
    /// Of the forces.
    pub forces: f64,
    /// Of the stresses.
    pub stress: f64,
}

impl LossTerms {
    /// The loss.
    pub fn total(&self) -> f64 {
        self.energy + self.forces + self.stress
    }
}

impl std::ops::AddAssign for LossTerms {
    fn add_assign(&mut self, other: Self) {
        self.energy += other.energy;
        self.forces += other.forces;
        self.stress += other.stress;
    }
}

/// H_δ, element by element; `delta` may be a tensor that broadcasts.
fn huber(x: &Tensor, delta: &Tensor) -> candle_core::Result<Tensor> {
    let size = x.abs()?;
    // Which branch an element is on is a constant: both have the same value and slope where they meet.
    let inner = size.detach().broadcast_le(delta)?.to_dtype(x.dtype())?;
    let outer = (1.0 - &inner)?;
    let square = (x.sqr()? * 0.5)?;
    let linear = size.broadcast_sub(&(delta * 0.5)?)?.broadcast_mul(delta)?;
    (square * inner)? + (linear * outer)?
}

/// The loss of a batch as a part of a step with `counts` labels, a scalar in f64, and its terms.
///
/// # Errors
/// Only if candle fails.
pub fn loss(
    config: &LossConfig,
    weights: LossWeights,
    predictions: &Predictions,
    labels: &Labels,
    counts: LabelCounts,
) -> candle_core::Result<(Tensor, LossTerms)> {
    let device = labels.energies.device();
    let delta = Tensor::new(config.huber_delta, device)?;
    let mut energy = (&predictions.energies - &labels.energies)?;
    if config.energy_per_atom {
        energy = (energy * &labels.inverse_atoms)?;
    }
    let forces = (&predictions.forces - &labels.forces)?;
    let stress = (&predictions.stresses - &labels.stresses)?;
    let square = |x: &Tensor, w: &Tensor| x.sqr()?.broadcast_mul(w);
    let bounded = |x: &Tensor, w: &Tensor, delta: &Tensor| huber(&x.broadcast_mul(w)?, delta);
    let absolute = |x: &Tensor, w: &Tensor| x.abs()?.broadcast_mul(w);
    let mut force_values = 3;
    let (energy, forces, stress) = match config.kind {
        LossKind::Mse => {
            (square(&energy, &labels.energy_weights)?, square(&forces, &labels.force_weights)?, square(&stress, &labels.stress_weights)?)
        }
        LossKind::Huber => (
            bounded(&energy, &labels.energy_weights, &delta)?,
            bounded(&forces, &labels.force_weights, &delta)?,
            bounded(&stress, &labels.stress_weights, &delta)?,
        ),
        LossKind::Universal => (
            bounded(&energy, &labels.energy_weights, &delta)?,
            bounded(&forces, &labels.force_weights, &(&labels.force_deltas * config.huber_delta)?)?,
            bounded(&stress, &labels.stress_weights, &delta)?,
        ),
        LossKind::L1L2 => {
            force_values = 1;
            // The root has no slope at 0; this is far below what any label resolves.
            let length = (forces.sqr()?.sum_keepdim(1)? + 1e-30)?.sqrt()?;
            (absolute(&energy, &labels.energy_weights)?, length.mul(&labels.force_weights)?, absolute(&stress, &labels.stress_weights)?)
        }
    };
    let mut total = Tensor::new(0f64, device)?;
    let mut terms = LossTerms::default();
    let parts = [
        (energy, weights.energy, counts.energies, labels.counts.energies, &mut terms.energy),
        (forces, weights.forces, force_values * counts.atoms, labels.counts.atoms, &mut terms.forces),
        (stress, weights.stress, 9 * counts.stresses, labels.counts.stresses, &mut terms.stress),
    ];
    for (values, weight, count, here, term) in parts {
        // What nobody asks for is not differentiated.
        if weight == 0.0 || here == 0 {
            continue;
        }
        let part = (values.sum_all()? * (weight / count as f64))?;
        *term = part.detach().to_scalar()?;
        total = (total + part)?;
    }
    Ok((total, terms))
}

#[cfg(test)]
mod tests {
    use tesseral_atoms::{Cell, Structure};

    use super::*;
    use crate::data::Weights;
    use crate::testing::unlabelled;

    fn frame(forces: Vec<[f64; 3]>, energy: f64, stress: Option<[f64; 6]>, weight: f64) -> Frame {
        let n = forces.len();
        Frame {
            energy: Some(energy),
            forces: Some(forces),
            stress,
            weights: Weights { energy: weight, forces: weight, stress: weight },
            ..unlabelled(Structure::crystal(Cell::cubic(5.0), vec![1; n], (0..n).map(|i| [i as f64, 0.0, 0.0]).collect()), 0)
        }
    }

    fn zeros(n: usize, s: usize) -> Predictions {
        let zeros = |shape: &[usize]| Tensor::zeros(shape, candle_core::DType::F64, &Device::Cpu).unwrap();
        Predictions { energies: zeros(&[s]), forces: zeros(&[n, 3]), stresses: zeros(&[s, 3, 3]) }
    }

    fn terms(kind: LossKind, frames: &[&Frame]) -> LossTerms {
        let labels = Labels::new(frames, &Device::Cpu).unwrap();
        let n = frames.iter().map(|f| f.structure.len()).sum();
        let config = LossConfig { kind, huber_delta: 0.1, ..LossConfig::default() };
        let weights = LossWeights { energy: 1.0, forces: 1.0, stress: 1.0 };
        loss(&config, weights, &zeros(n, frames.len()), &labels, labels.counts()).unwrap().1
    }

    /// Against the formulae of the table, computed by hand.
    #[test]
    fn values() {
        let a = frame(vec![[0.3, 0.0, 0.4], [0.0, 0.05, 0.0]], 1.0, Some([0.3, 0.0, 0.0, 0.0, 0.0, 0.06]), 2.0);
        let b = frame(vec![[0.0, 150.0, 0.0]], -0.06, None, 1.0);
        let close =
            |found: f64, expected: f64| assert!((found - expected).abs() < 1e-12 * expected.abs().max(1.0), "{found}, not {expected}");
        let found = terms(LossKind::Mse, &[&a, &b]);
        close(found.energy, (2.0 * 0.25 + 0.0036) / 2.0);
        close(found.forces, (2.0 * (0.25 + 0.0025) + 22500.0) / 9.0);
        close(found.stress, 2.0 * (0.09 + 2.0 * 0.0036) / 9.0);
        let h = |x: f64, delta: f64| if x.abs() <= delta { 0.5 * x * x } else { delta * (x.abs() - 0.5 * delta) };
        let found = terms(LossKind::Huber, &[&a, &b]);
        close(found.energy, (h(1.0, 0.1) + h(0.06, 0.1)) / 2.0);
        close(found.forces, (h(0.6, 0.1) + h(0.8, 0.1) + h(0.1, 0.1) + h(150.0, 0.1)) / 9.0);
        close(found.stress, (h(0.6, 0.1) + 2.0 * h(0.12, 0.1)) / 9.0);
        let found = terms(LossKind::Universal, &[&a, &b]);
        close(found.forces, (h(0.6, 0.1) + h(0.8, 0.1) + h(0.1, 0.1) + h(150.0, 0.07)) / 9.0);
        let found = terms(LossKind::L1L2, &[&a, &b]);
        close(found.energy, (2.0 * 0.5 + 0.06) / 2.0);
        close(found.forces, (2.0 * (0.5 + 0.05) + 150.0) / 3.0);
        close(found.stress, 2.0 * (0.3 + 2.0 * 0.06) / 9.0);
    }

    #[test]
    fn missing_labels_do_not_count() {
        let full = frame(vec![[1.0, 0.0, 0.0]], 2.0, Some([0.1; 6]), 1.0);
        let mut bare = frame(vec![[9.0, 9.0, 9.0], [0.0, 0.0, 1.0]], 5.0, None, 1.0);
        bare.energy = None;
        bare.force_mask = Some(vec![false, true]);
        for kind in [LossKind::Mse, LossKind::Huber, LossKind::Universal, LossKind::L1L2] {
            let (alone, both) = (terms(kind, &[&full]), terms(kind, &[&full, &bare]));
            assert_eq!((alone.energy, alone.stress), (both.energy, both.stress), "{kind:?}");
            // The force that counts is as long as the other.
            assert!((alone.forces - both.forces).abs() < 1e-12, "{kind:?}");
        }
        let silent = Frame { energy: None, forces: None, stress: None, ..full };
        assert_eq!(terms(LossKind::Mse, &[&silent]), LossTerms::default());
    }
}
