//! Adam, AdamW and AMSGrad: Kingma and Ba (arXiv:1412.6980), Loshchilov and Hutter (arXiv:1711.05101), Reddi, Kale and Kumar (arXiv:1904.09237).
//!
//! For step t of a parameter w with gradient g, learning rate η and decay λ, as PyTorch has it:
//!
//! - Adam: g ← g + λ w; AdamW: w ← (1 − η λ) w
//! - m ← m + (1 − β₁)(g − m), v ← β₂ v + (1 − β₂) g²
//! - AMSGrad: v̂ ← max(v̂, v), before the bias correction; otherwise v̂ = v
//! - w ← w − η/(1 − β₁ᵗ) · m / (√v̂ / √(1 − β₂ᵗ) + ε)
//!
//! candle-nn has an AdamW, but its moments are private, so that they could not be saved, and it knows neither L2 decay nor AMSGrad.

use candle_core::Tensor;
use rayon::prelude::*;
use tesseral_ops::real::Real;
use tesseral_ops::simd::{self, Fma, Kernel};

use super::{CHUNK, Step};

/// The settings that all parameters share.
#[derive(Debug, Clone, Copy)]
pub(super) struct Adam {
    pub(super) betas: [f64; 2],
    pub(super) eps: f64,
    pub(super) amsgrad: bool,
    /// Whether weight decay is decoupled (AdamW).
    pub(super) decoupled: bool,
}

/// Numbers of one step, in f64 as Python has them; each is rounded to the type of the parameter once.
struct Scalars<T> {
    gradient_scale: T,
    /// λ in the gradient.
    coupled: T,
    /// 1 − η λ on the weights.
    kept: T,
    one_minus_beta1: T,
    beta2: T,
    one_minus_beta2: T,
    /// √(1 − β₂ᵗ)
    correction2: T,
    eps: T,
    step_size: T,
}

/// The update of one stretch of a parameter.
struct Update<'a, T> {
    s: &'a Scalars<T>,
    w: &'a mut [T],
    g: &'a [T],
    m: &'a mut [T],
    v: &'a mut [T],
    largest: Option<&'a mut [T]>,
}

impl<T: Real> Kernel for Update<'_, T> {
    type Output = ();

    // No fused multiply-add: the same bits on every processor.
    #[inline(always)]
    fn run<F: Fma>(self) {
        let Update { s, w, g, m, v, largest } = self;
        let n = w.len();
        let (g, m, v) = (&g[..n], &mut m[..n], &mut v[..n]);
        let moments = |w: T, g: T, m: &mut T, v: &mut T| {
            let g = g * s.gradient_scale + s.coupled * w;
            *m += (g - *m) * s.one_minus_beta1;
            *v = *v * s.beta2 + s.one_minus_beta2 * g * g;
        };
        let moved = |w: T, m: T, v: T| w * s.kept - s.step_size * m / (v.sqrt() / s.correction2 + s.eps);
        match largest {
            None => {
                for k in 0..n {
                    moments(w[k], g[k], &mut m[k], &mut v[k]);
                    w[k] = moved(w[k], m[k], v[k]);
                }
            }
            Some(largest) => {
                let largest = &mut largest[..n];
                for k in 0..n {
                    moments(w[k], g[k], &mut m[k], &mut v[k]);
                    largest[k] = if largest[k] >= v[k] { largest[k] } else { v[k] };
                    w[k] = moved(w[k], m[k], largest[k]);
                }
            }
        }
    }
}

impl Adam {
    pub(super) fn slots(&self) -> &'static [&'static str] {
        if self.amsgrad { &["first_moment", "second_moment", "largest_second_moment"] } else { &["first_moment", "second_moment"] }
    }

    fn scalars<T: Real>(&self, step: &Step) -> Scalars<T> {
        let [beta1, beta2] = self.betas;
        let t = step.count as f64;
        let decay = step.weight_decay;
        Scalars {
            gradient_scale: T::of(step.gradient_scale),
            coupled: T::of(if self.decoupled { 0.0 } else { decay }),
            kept: T::of(if self.decoupled { 1.0 - step.learning_rate * decay } else { 1.0 }),
            one_minus_beta1: T::of(1.0 - beta1),
            beta2: T::of(beta2),
            one_minus_beta2: T::of(1.0 - beta2),
            correction2: T::of((1.0 - beta2.powf(t)).sqrt()),
            eps: T::of(self.eps),
            step_size: T::of(step.learning_rate / (1.0 - beta1.powf(t))),
        }
    }

    /// One pass over parameter, gradient and moments in CPU memory.
    pub(super) fn update<T: Real>(&self, step: &Step, w: &mut [T], g: &[T], slots: &mut [Vec<T>]) {
        let s = &self.scalars::<T>(step);
        let chunks = w.par_chunks_mut(CHUNK).zip(g.par_chunks(CHUNK));
        match slots {
            [m, v] => chunks
                .zip(m.par_chunks_mut(CHUNK))
                .zip(v.par_chunks_mut(CHUNK))
                .for_each(|(((w, g), m), v)| simd::dispatch(Update { s, w, g, m, v, largest: None })),
            [m, v, largest] => {
                chunks.zip(m.par_chunks_mut(CHUNK)).zip(v.par_chunks_mut(CHUNK)).zip(largest.par_chunks_mut(CHUNK)).for_each(
                    |((((w, g), m), v), largest)| {
                        simd::dispatch(Update { s, w, g, m, v, largest: Some(largest) });
                    },
                );
            }
            _ => unreachable!("as many slots as `Adam::slots` has names"),
        }
    }

    /// The same by candle's ops: the new parameter.
    pub(super) fn update_on_device(&self, step: &Step, w: &Tensor, g: &Tensor, slots: &mut [Tensor]) -> candle_core::Result<Tensor> {
        let s = self.scalars::<f64>(step);
        let mut g = (g * s.gradient_scale)?;
        if s.coupled != 0.0 {
            g = (g + (w * s.coupled)?)?;
        }
        slots[0] = (&slots[0] + ((&g - &slots[0])? * s.one_minus_beta1)?)?;
        slots[1] = ((&slots[1] * s.beta2)? + (g.sqr()? * s.one_minus_beta2)?)?;
        if self.amsgrad {
            slots[2] = slots[2].maximum(&slots[1])?;
        }
        let square = &slots[slots.len() - 1];
        let denominator = ((square.sqrt()? / s.correction2)? + s.eps)?;
        (w * s.kept)? - ((&slots[0] * s.step_size)? / denominator)?
    }
}

#[cfg(test)]
mod tests {
    use tesseral_testkit::{Random, relative_error};

    use super::*;

    /// The published formulae, with bias-corrected moments written out.
    fn reference(adam: &Adam, w: &mut [f64], gradients: &[Vec<f64>], eta: f64, lambda: f64) {
        let [b1, b2] = adam.betas;
        for (k, w) in w.iter_mut().enumerate() {
            let (mut m, mut v, mut largest) = (0.0, 0.0, 0.0f64);
            let (mut b1t, mut b2t) = (1.0, 1.0);
            for g in gradients {
                let g = g[k] + if adam.decoupled { 0.0 } else { lambda * *w };
                m = b1 * m + (1.0 - b1) * g;
                v = b2 * v + (1.0 - b2) * g * g;
                largest = largest.max(v);
                b1t *= b1;
                b2t *= b2;
                let m_hat = m / (1.0 - b1t);
                let v_hat = (if adam.amsgrad { largest } else { v }) / (1.0 - b2t);
                let decay = if adam.decoupled { eta * lambda * *w } else { 0.0 };
                *w -= eta * m_hat / (v_hat.sqrt() + adam.eps) + decay;
            }
        }
    }

    #[test]
    fn the_published_formulae() {
        let mut random = Random::new(1);
        // More than one chunk, and not a multiple of it.
        let n = 2 * CHUNK + 3;
        let gradients: Vec<Vec<f64>> = (0..4).map(|t| random.numbers(n).iter().map(|g| g / f64::from(1 + t)).collect()).collect();
        let start = random.numbers(n);
        for (amsgrad, decoupled) in [(false, false), (true, false), (false, true), (true, true)] {
            let adam = Adam { betas: [0.8, 0.95], eps: 1e-3, amsgrad, decoupled };
            let (eta, lambda) = (0.05, 0.3);
            let mut expected = start.clone();
            reference(&adam, &mut expected, &gradients, eta, lambda);
            let mut found = start.clone();
            let mut slots = vec![vec![0.0; n]; adam.slots().len()];
            for (t, g) in gradients.iter().enumerate() {
                let step = Step { count: t as u64 + 1, learning_rate: eta, weight_decay: lambda, gradient_scale: 0.5 };
                let doubled: Vec<f64> = g.iter().map(|g| 2.0 * g).collect();
                adam.update(&step, &mut found, &doubled, &mut slots);
            }
            assert!(relative_error(&found, &expected) < 1e-13, "amsgrad {amsgrad} decoupled {decoupled}");
        }
    }

    #[test]
    fn the_same_bits_on_any_number_of_threads() {
        let n = 5 * CHUNK + 7;
        let adam = Adam { betas: [0.9, 0.999], eps: 1e-8, amsgrad: true, decoupled: false };
        let step = Step { count: 1, learning_rate: 0.01, weight_decay: 1e-3, gradient_scale: 1.0 };
        let g: Vec<f32> = Random::new(2).numbers(n).iter().map(|&x| f32::of(x)).collect();
        let run = |threads| {
            let mut w = g.clone();
            let mut slots = vec![vec![0.0f32; n]; 3];
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| adam.update(&step, &mut w, &g, &mut slots));
            (w.iter().map(|x| x.to_bits()).collect::<Vec<_>>(), slots)
        };
        assert!(run(1) == run(4));
    }
}
