//! Stochastic gradient descent with momentum, as PyTorch has it (without dampening): g ← g + λ w, b ← μ b + g, and
//! w ← w − η b, or with Nesterov's momentum w ← w − η (g + μ b).

use candle_core::Tensor;
use rayon::prelude::*;
use tesseral_ops::real::Real;

use super::{CHUNK, Step};

/// The settings that all parameters share.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sgd {
    pub(super) momentum: f64,
    pub(super) nesterov: bool,
}

impl Sgd {
    pub(super) fn slots(&self) -> &'static [&'static str] {
        if self.momentum == 0.0 { &[] } else { &["momentum"] }
    }

    /// One pass over parameter, gradient and momentum in CPU memory.
    pub(super) fn update<T: Real>(&self, step: &Step, w: &mut [T], g: &[T], slots: &mut [Vec<T>]) {
        let [scale, decay, momentum, rate] = [step.gradient_scale, step.weight_decay, self.momentum, step.learning_rate].map(T::of);
        let chunks = w.par_chunks_mut(CHUNK).zip(g.par_chunks(CHUNK));
        match slots {
            [] => chunks.for_each(|(w, g)| {
                for (w, &g) in w.iter_mut().zip(g) {
                    *w -= rate * (g * scale + decay * *w);
                }
            }),
            [b, ..] => chunks.zip(b.par_chunks_mut(CHUNK)).for_each(|((w, g), b)| {
                for ((w, &g), b) in w.iter_mut().zip(g).zip(b) {
                    let g = g * scale + decay * *w;
                    *b = momentum * *b + g;
                    *w -= rate * if self.nesterov { g + momentum * *b } else { *b };
                }
            }),
        }
    }

    /// The same by candle's ops: the new parameter.
    pub(super) fn update_on_device(&self, step: &Step, w: &Tensor, g: &Tensor, slots: &mut [Tensor]) -> candle_core::Result<Tensor> {
        let mut g = (g * step.gradient_scale)?;
        if step.weight_decay != 0.0 {
            g = (g + (w * step.weight_decay)?)?;
        }
        if let [b] = slots {
            *b = ((&*b * self.momentum)? + &g)?;
            g = if self.nesterov { (g + (&*b * self.momentum)?)? } else { b.clone() };
        }
        w - (g * step.learning_rate)?
    }
}

#[cfg(test)]
mod tests {
    use tesseral_testkit::{Random, relative_error};

    use super::*;

    #[test]
    fn momentum_is_a_sum_of_earlier_gradients() {
        let mut random = Random::new(5);
        let n = CHUNK + 2;
        let gradients: Vec<Vec<f64>> = (0..4).map(|_| random.numbers(n)).collect();
        let start = random.numbers(n);
        for (momentum, nesterov) in [(0.0, false), (0.7, false), (0.7, true)] {
            let sgd = Sgd { momentum, nesterov };
            let mut w = start.clone();
            let mut slots = vec![vec![0.0; n]; sgd.slots().len()];
            for (t, g) in gradients.iter().enumerate() {
                let step = Step { count: t as u64 + 1, learning_rate: 0.1, weight_decay: 0.0, gradient_scale: 1.0 };
                sgd.update(&step, &mut w, g, &mut slots);
            }
            // Without decay the velocity after step t is Σ_s μ^(t−s) g_s.
            let velocity = |t: usize, k: usize| (0..=t).map(|s| momentum.powi((t - s) as i32) * gradients[s][k]).sum::<f64>();
            let expected: Vec<f64> = (0..n)
                .map(|k| {
                    let moved = (0..4).map(|t| if nesterov { gradients[t][k] + momentum * velocity(t, k) } else { velocity(t, k) });
                    start[k] - 0.1 * moved.sum::<f64>()
                })
                .collect();
            assert!(relative_error(&w, &expected) < 1e-14, "{sgd:?}");
        }
    }

    #[test]
    fn decay_pulls_towards_zero() {
        let sgd = Sgd { momentum: 0.0, nesterov: false };
        let mut w = [2.0f64];
        let step = Step { count: 1, learning_rate: 0.5, weight_decay: 0.25, gradient_scale: 3.0 };
        sgd.update(&step, &mut w, &[1.0], &mut []);
        assert_eq!(w, [2.0 - 0.5 * (3.0 + 0.25 * 2.0)]);
    }
}
