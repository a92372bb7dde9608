//! Functions of the time between two moments, averaged over many time origins; diffusion and spectra.

use serde::{Deserialize, Serialize};

use super::Window;

/// Sums over pairs of moments, for each lag and species.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Correlation {
    window: Window,
    samples: u64,
    /// Time origins that still have lags to come, oldest first.
    origins: Vec<Origin>,
    /// [species][lag]
    sums: Vec<Vec<f64>>,
    /// Origins that reached each lag.
    counts: Vec<u64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Origin {
    sample: u64,
    values: Vec<[f64; 3]>,
}

/// Something over time, for all atoms and for each element.
#[derive(Debug, Clone, PartialEq)]
pub struct Curves {
    /// fs
    pub time: Vec<f64>,
    /// Of all atoms.
    pub all: Vec<f64>,
    /// Of each element, in the order of [`super::Analysis::species`].
    pub each: Vec<Vec<f64>>,
}

/// Means of sums over species.
pub(super) struct Means {
    pub(super) time: Vec<f64>,
    pub(super) each: Vec<Vec<f64>>,
}

impl Correlation {
    pub(super) fn new(window: Window, species: usize) -> Self {
        Self { window, samples: 0, origins: Vec::new(), sums: vec![vec![0.0; window.lags]; species], counts: vec![0; window.lags] }
    }

    pub(super) fn window(&self) -> &Window {
        &self.window
    }

    /// Adds a moment. `product` gives the sum over a species of what is correlated between an origin and now.
    pub(super) fn sample(&mut self, now: &[[f64; 3]], product: impl Fn(usize, &[[f64; 3]]) -> f64) {
        if self.samples.is_multiple_of(self.window.spacing as u64) {
            // The oldest origin, if it is done, lends its memory.
            let done = self.origins.first().is_some_and(|o| self.samples - o.sample >= self.window.lags as u64);
            let mut values = if done { self.origins.remove(0).values } else { Vec::with_capacity(now.len()) };
            values.clear();
            values.extend_from_slice(now);
            self.origins.push(Origin { sample: self.samples, values });
        }
        for origin in &self.origins {
            let lag = (self.samples - origin.sample) as usize;
            if lag < self.window.lags {
                for (s, sums) in self.sums.iter_mut().enumerate() {
                    sums[lag] += product(s, &origin.values);
                }
                self.counts[lag] += 1;
            }
        }
        self.samples += 1;
    }

    /// Means for the lags that were reached; `None` if there are none beyond zero.
    pub(super) fn means(&self, time_step: f64) -> Option<Means> {
        let reached = self.counts.iter().position(|&n| n == 0).unwrap_or(self.window.lags);
        let time = (0..reached).map(|lag| lag as f64 * self.window.every as f64 * time_step).collect();
        let mean = |sums: &Vec<f64>| sums.iter().zip(&self.counts).take(reached).map(|(sum, &n)| sum / n as f64).collect();
        (reached > 1).then(|| Means { time, each: self.sums.iter().map(mean).collect() })
    }
}

/// A diffusion coefficient.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Diffusion {
    /// cm²/s
    pub coefficient: f64,
    /// How much the first and the second half of the fitted times differ from it, cm²/s.
    pub uncertainty: f64,
}

/// Einstein's relation, ⟨|r(t) − r(0)|²⟩ = 6 D t: the slope of a straight line through the mean square displacement (Å²) between a fifth and four fifths of the times (fs).
/// `None` of fewer than eight times.
pub fn diffusion(time: &[f64], displacement: &[f64]) -> Option<Diffusion> {
    let n = time.len().min(displacement.len());
    let (from, to) = (n / 5, n - n / 5);
    if n < 8 {
        return None;
    }
    // 1 Å²/fs is 0.1 cm²/s.
    let coefficient = |from: usize, to: usize| 0.1 * slope(&time[from..to], &displacement[from..to]) / 6.0;
    let (whole, middle) = (coefficient(from, to), usize::midpoint(from, to));
    let halves = [coefficient(from, middle), coefficient(middle, to)];
    Some(Diffusion { coefficient: whole, uncertainty: halves.iter().map(|h| (h - whole).abs()).fold(0.0, f64::max) })
}

/// Slope of the line of least squares.
fn slope(x: &[f64], y: &[f64]) -> f64 {
    let n = x.len() as f64;
    let (mean_x, mean_y) = (x.iter().sum::<f64>() / n, y.iter().sum::<f64>() / n);
    let (mut xy, mut xx) = (0.0, 0.0);
    for (x, y) in x.iter().zip(y) {
        xy += (x - mean_x) * (y - mean_y);
        xx += (x - mean_x) * (x - mean_x);
    }
    xy / xx
}

/// A density over frequencies.
#[derive(Debug, Clone, PartialEq)]
pub struct Spectrum {
    /// THz
    pub frequency: Vec<f64>,
    /// 1/THz
    pub density: Vec<f64>,
}

/// How many times finer frequencies are spaced than the length of the correlation asks for, for smooth curves.
const PADDING: usize = 4;

/// The cosine transform g(ν) = 4 s ∫₀^T C(t) w(t) cos 2πνt dt of an autocorrelation at times 0, `interval` (fs), …, with Hann's window w = cos²(πt/2T). As w(0) = 1,
/// the integral of g over the frequencies up to Nyquist's is s C(0) exactly: with s = N_f / C(0) and C = Σ m ⟨v(0)·v(t)⟩ it is the vibrational density of states with
/// as many modes as there are degrees of freedom (Dickey and Paskin, Phys. Rev. 188, 1407 (1969)). The window broadens lines to about 1/T.
pub fn spectrum(correlation: &[f64], interval: f64, s: f64) -> Spectrum {
    let n = correlation.len();
    let half = PADDING * n;
    let windowed: Vec<f64> =
        correlation.iter().enumerate().map(|(k, c)| c * (std::f64::consts::FRAC_PI_2 * k as f64 / n as f64).cos().powi(2)).collect();
    // cos(π k / half): all that is needed. Some thousand lags are summed faster than an FFT would be worth.
    let cosines: Vec<f64> = (0..2 * half).map(|k| (std::f64::consts::PI * k as f64 / half as f64).cos()).collect();
    // By the trapezoidal rule; in ps, so that frequencies are in THz.
    let picoseconds = interval / 1000.0;
    let transform = |m: usize| {
        let later: f64 = windowed.iter().enumerate().skip(1).map(|(k, c)| c * cosines[k * m % (2 * half)]).sum();
        4.0 * s * picoseconds * (0.5 * windowed[0] + later)
    };
    Spectrum {
        frequency: (0..=half).map(|m| m as f64 / (2.0 * half as f64 * picoseconds)).collect(),
        density: (0..=half).map(transform).collect(),
    }
}
