//! L-BFGS: Nocedal and Wright, Numerical Optimization (2nd ed.), algorithms 7.4 (two loops), 3.5 and 3.6 (strong-Wolfe line search).
//!
//! Everything here is in f64 on one vector of all parameters in the order of their names. Parameters in f32 are rounded where they are set, and
//! displacements are those of the rounded parameters.

use std::collections::VecDeque;
use std::sync::Arc;

use super::config::LbfgsConfig;

/// Sufficient decrease (Armijo), c₁.
const DECREASE: f64 = 1e-4;
/// Sufficient reduction of the slope, c₂.
const CURVATURE: f64 = 0.9;

/// Why a step of L-BFGS ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LbfgsEnd {
    /// The gradient is as small as was asked for.
    Converged,
    /// Neither parameters nor loss change any more, or no point along the direction is lower.
    Stalled,
    /// All iterations of the step were used.
    Iterations,
}

/// What a step of L-BFGS came to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LbfgsReport {
    /// The loss at the end, weight decay included.
    pub loss: f64,
    /// The largest element of its gradient.
    pub gradient: f64,
    /// Line searches made.
    pub iterations: usize,
    /// Evaluations of the loss.
    pub evaluations: usize,
    /// Why it ended.
    pub end: LbfgsEnd,
}

/// Displacements s and changes of the gradient y, oldest first. Copies share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Memory {
    pub(super) pairs: VecDeque<Arc<(Vec<f64>, Vec<f64>)>>,
}

pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn largest(a: &[f64]) -> f64 {
    a.iter().fold(0.0, |m, x| m.max(x.abs()))
}

impl Memory {
    /// −H g, with H the approximate inverse Hessian (two loops).
    fn direction(&self, g: &[f64]) -> Vec<f64> {
        let mut q: Vec<f64> = g.iter().map(|g| -g).collect();
        let mut alphas = Vec::with_capacity(self.pairs.len());
        for pair in self.pairs.iter().rev() {
            let (s, y) = &**pair;
            let alpha = dot(s, &q) / dot(s, y);
            q.iter_mut().zip(y).for_each(|(q, y)| *q -= alpha * y);
            alphas.push(alpha);
        }
        if let Some(pair) = self.pairs.back() {
            let (s, y) = &**pair;
            let gamma = dot(s, y) / dot(y, y);
            q.iter_mut().for_each(|q| *q *= gamma);
        }
        for (pair, alpha) in self.pairs.iter().zip(alphas.into_iter().rev()) {
            let (s, y) = &**pair;
            let beta = dot(y, &q) / dot(s, y);
            q.iter_mut().zip(s).for_each(|(q, s)| *q += (alpha - beta) * s);
        }
        q
    }

    /// Remembers a pair, unless the curvature along it is not positive.
    fn push(&mut self, s: Vec<f64>, y: Vec<f64>, history: usize) {
        if dot(&s, &y) > f64::EPSILON * dot(&y, &y) {
            while self.pairs.len() >= history {
                self.pairs.pop_front();
            }
            self.pairs.push_back(Arc::new((s, y)));
        }
    }
}

/// A point along the direction of search.
#[derive(Debug, Clone)]
struct Point {
    t: f64,
    loss: f64,
    slope: f64,
    /// Position and gradient.
    x: Vec<f64>,
    g: Vec<f64>,
}

/// Where the cubic through values and slopes of two points has its minimum (eq. 3.59).
fn cubic_minimum(a: &Point, b: &Point) -> f64 {
    let d1 = a.slope + b.slope - 3.0 * (a.loss - b.loss) / (a.t - b.t);
    let d2 = (b.t - a.t).signum() * (d1 * d1 - a.slope * b.slope).sqrt();
    b.t - (b.t - a.t) * (b.slope + d2 - d1) / (b.slope - a.slope + 2.0 * d2)
}

/// A point that fulfils the strong Wolfe conditions, or the lowest that was found below the start by the first of them; `None` if there is none.
fn line_search<E>(
    start: &Point,
    first: f64,
    config: &LbfgsConfig,
    direction_size: f64,
    mut at: impl FnMut(f64) -> Result<Point, E>,
) -> Result<Option<Point>, E> {
    let too_high = |p: &Point| !p.loss.is_finite() || !p.slope.is_finite() || p.loss > start.loss + DECREASE * p.t * start.slope;
    let flat = |p: &Point| p.slope.abs() <= -CURVATURE * start.slope;
    let mut left = config.evaluations;
    let mut before = start.clone();
    let mut t = first;
    let (mut low, mut high) = loop {
        if left == 0 {
            return Ok((before.t > 0.0).then_some(before));
        }
        left -= 1;
        let point = at(t)?;
        if too_high(&point) || (before.t > 0.0 && point.loss >= before.loss) {
            break (before, point);
        }
        if flat(&point) {
            return Ok(Some(point));
        }
        if point.slope >= 0.0 {
            break (point, before);
        }
        let guess = cubic_minimum(&before, &point);
        // Onwards by at least a hundredth of the last stretch and at most to ten times the distance.
        t = if guess.is_finite() { guess.clamp(t + 0.01 * (t - before.t), 10.0 * t) } else { 10.0 * t };
        before = point;
    };
    // `low` is the lowest point so far that decreases enough, and between it and `high` lie acceptable ones.
    while left > 0 && (high.t - low.t).abs() * direction_size > config.change_tolerance {
        left -= 1;
        let (a, b) = (low.t.min(high.t), low.t.max(high.t));
        let guess = cubic_minimum(&low, &high);
        let t = if guess.is_finite() { guess.clamp(a + 0.1 * (b - a), b - 0.1 * (b - a)) } else { 0.5 * (a + b) };
        let point = at(t)?;
        if too_high(&point) || point.loss >= low.loss {
            high = point;
            continue;
        }
        if flat(&point) {
            return Ok(Some(point));
        }
        if point.slope * (high.t - low.t) >= 0.0 {
            high = std::mem::replace(&mut low, point);
        } else {
            low = point;
        }
    }
    Ok((low.t > 0.0).then_some(low))
}

/// Minimises a function of all parameters from `x` on. `evaluate` sets the parameters to a position and returns the position as it was rounded,
/// the loss and its gradient. At the end the parameters are at the last accepted position. Line searches try `first_trial` times the usual length first.
///
/// # Errors
/// Those of `evaluate`. The loss at the start must be finite; the caller sees to that.
pub(super) fn minimize<E>(
    memory: &mut Memory,
    config: &LbfgsConfig,
    first_trial: f64,
    x: Vec<f64>,
    mut evaluate: impl FnMut(&[f64]) -> Result<(Vec<f64>, f64, Vec<f64>), E>,
) -> Result<LbfgsReport, E> {
    let mut evaluations = 1;
    let (x, loss, g) = evaluate(&x)?;
    let mut here = Point { t: 0.0, loss, slope: 0.0, x, g };
    let report = |here: &Point, iterations, evaluations, end| LbfgsReport {
        loss: here.loss,
        gradient: largest(&here.g),
        iterations,
        evaluations,
        end,
    };
    if !here.loss.is_finite() {
        return Ok(report(&here, 0, evaluations, LbfgsEnd::Stalled));
    }
    for iteration in 0..config.iterations {
        if largest(&here.g) <= config.gradient_tolerance {
            return Ok(report(&here, iteration, evaluations, LbfgsEnd::Converged));
        }
        let mut last = here.x.clone();
        let found = loop {
            let mut direction = memory.direction(&here.g);
            here.slope = dot(&direction, &here.g);
            if here.slope.is_nan() || here.slope >= 0.0 {
                memory.pairs.clear();
                direction = here.g.iter().map(|g| -g).collect();
                here.slope = -dot(&here.g, &here.g);
            }
            // Without a memory the scale of the direction says nothing: the first trial moves all parameters together by at most 1.
            let usual = if memory.pairs.is_empty() { (1.0 / here.g.iter().map(|g| g.abs()).sum::<f64>()).min(1.0) } else { 1.0 };
            let found = line_search(&here, first_trial * usual, config, largest(&direction), |t| {
                evaluations += 1;
                let trial: Vec<f64> = here.x.iter().zip(&direction).map(|(x, d)| x + t * d).collect();
                let (x, loss, g) = evaluate(&trial)?;
                last.clone_from(&x);
                Ok(Point { t, loss, slope: dot(&direction, &g), x, g })
            })?;
            if found.is_some() || memory.pairs.is_empty() {
                break found;
            }
            // What is remembered of other frames, or of weights far from here, may point nowhere: then the gradient alone is followed.
            memory.pairs.clear();
        };
        let Some(mut next) = found else {
            evaluate(&here.x)?;
            return Ok(report(&here, iteration, evaluations + 1, LbfgsEnd::Stalled));
        };
        if last != next.x {
            evaluations += 1;
            evaluate(&next.x)?;
        }
        next.t = 0.0;
        let difference = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a - b).collect::<Vec<_>>();
        let (s, y) = (difference(&next.x, &here.x), difference(&next.g, &here.g));
        let moved = largest(&s);
        let lowered = (next.loss - here.loss).abs();
        memory.push(s, y, config.history);
        here = next;
        if moved <= config.change_tolerance || lowered < config.change_tolerance {
            let end = if largest(&here.g) <= config.gradient_tolerance { LbfgsEnd::Converged } else { LbfgsEnd::Stalled };
            return Ok(report(&here, iteration + 1, evaluations, end));
        }
    }
    Ok(report(&here, config.iterations, evaluations, LbfgsEnd::Iterations))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    /// Σ 100 (x_{k+1} − x_k²)² + (1 − x_k)²
    fn rosenbrock(x: &[f64]) -> (f64, Vec<f64>) {
        let mut f = 0.0;
        let mut g = vec![0.0; x.len()];
        for k in 0..x.len() - 1 {
            let (a, b) = (x[k + 1] - x[k] * x[k], 1.0 - x[k]);
            f += 100.0 * a * a + b * b;
            g[k] -= 400.0 * a * x[k] + 2.0 * b;
            g[k + 1] += 200.0 * a;
        }
        (f, g)
    }

    fn run(
        config: &LbfgsConfig,
        memory: &mut Memory,
        x: &mut Vec<f64>,
        f: impl Fn(&[f64]) -> (f64, Vec<f64>),
        round: impl Fn(f64) -> f64,
    ) -> LbfgsReport {
        let start = x.clone();
        let result: Result<_, Infallible> = minimize(memory, config, 1.0, start, |trial| {
            *x = trial.iter().map(|&x| round(x)).collect();
            let (loss, g) = f(x);
            Ok((x.clone(), loss, g))
        });
        result.unwrap()
    }

    #[test]
    fn the_valley_of_rosenbrock() {
        let config = LbfgsConfig { iterations: 200, change_tolerance: 0.0, gradient_tolerance: 1e-10, ..LbfgsConfig::default() };
        let mut x = vec![-1.2, 1.0, -0.5, 0.8];
        let report = run(&config, &mut Memory::default(), &mut x, rosenbrock, |x| x);
        assert_eq!(report.end, LbfgsEnd::Converged, "{report:?}");
        assert!(x.iter().all(|x| (x - 1.0).abs() < 1e-9), "{x:?}");
        assert!(report.iterations < 80, "{report:?}");
    }

    #[test]
    fn a_quadratic_form_in_as_many_steps_as_dimensions() {
        // With an accurate line search and a full memory L-BFGS is conjugate gradients on quadratic forms.
        let hessian = [4.0, 1.0, 0.25, 9.0, 2.5];
        let f = |x: &[f64]| {
            let g: Vec<f64> = x.iter().zip(hessian).map(|(x, h)| h * (x - 1.0)).collect();
            (x.iter().zip(hessian).map(|(x, h)| 0.5 * h * (x - 1.0) * (x - 1.0)).sum(), g)
        };
        let config = LbfgsConfig { iterations: 100, change_tolerance: 0.0, gradient_tolerance: 1e-12, ..LbfgsConfig::default() };
        let mut x = vec![0.0; 5];
        let report = run(&config, &mut Memory::default(), &mut x, f, |x| x);
        assert_eq!(report.end, LbfgsEnd::Converged);
        assert!(report.iterations <= 20, "{report:?}");
    }

    #[test]
    fn accepted_points_fulfil_the_strong_wolfe_conditions() {
        // From everywhere and with poor first lengths, so that every branch of both phases of the search is used.
        let starts = (0..40).map(|k| -3.0 + 0.15 * f64::from(k));
        for (x0, first) in starts.flat_map(|x0| [1e-3, 0.1, 0.5, 1.0, 2.3, 5.0, 30.0].map(|first| (x0, first))) {
            // A double well with waves on it.
            let f = |x: f64| (x.powi(4) - 2.0 * x * x + 0.3 * (7.0 * x).sin(), 4.0 * x.powi(3) - 4.0 * x + 2.1 * (7.0 * x).cos());
            let (loss, g) = f(x0);
            let d = -g.signum();
            let start = Point { t: 0.0, loss, slope: g * d, x: vec![x0], g: vec![g] };
            let at = |t: f64| {
                let (loss, g) = f(x0 + t * d);
                Ok::<_, Infallible>(Point { t, loss, slope: g * d, x: vec![x0 + t * d], g: vec![g] })
            };
            let p = line_search(&start, first, &LbfgsConfig::default(), 1.0, at).unwrap().unwrap();
            assert!(p.loss <= start.loss + DECREASE * p.t * start.slope && p.slope.abs() <= -CURVATURE * start.slope, "{x0} {first} {p:?}");
        }
    }

    #[test]
    fn walls_of_infinity_are_avoided() {
        // −log(x) + x, defined for x > 0 only.
        let f = |x: &[f64]| if x[0] > 0.0 { (x[0] - x[0].ln(), vec![1.0 - 1.0 / x[0]]) } else { (f64::NAN, vec![f64::NAN]) };
        let mut x = vec![30.0];
        let config = LbfgsConfig { iterations: 50, change_tolerance: 0.0, ..LbfgsConfig::default() };
        let report = run(&config, &mut Memory::default(), &mut x, f, |x| x);
        assert_eq!(report.end, LbfgsEnd::Converged, "{report:?}");
        assert!((x[0] - 1.0).abs() < 1e-6);
    }

    #[test]
    fn parameters_in_f32_end_at_the_best_point_that_was_accepted() {
        let config = LbfgsConfig { iterations: 200, ..LbfgsConfig::default() };
        let mut x = vec![-1.2, 1.0];
        let report = run(&config, &mut Memory::default(), &mut x, rosenbrock, |x| f64::from(x as f32));
        assert!(x.iter().all(|x| (x - 1.0).abs() < 1e-3), "{x:?} {report:?}");
        assert_eq!(rosenbrock(&x).0, report.loss);
    }

    #[test]
    fn a_memory_that_points_nowhere_is_given_up() {
        // A valley along x whose walls are nearer than any change that counts, and a memory that points at one of them.
        let f = |x: &[f64]| {
            let beyond = (x[1].abs() - 1e-12).max(0.0);
            let wall = if beyond > 0.0 { x[1].signum() * 1e12 } else { 0.0 };
            (0.5 * (x[0] - 1.0).powi(2) + 1e12 * beyond, vec![x[0] - 1.0, wall])
        };
        let mut memory = Memory::default();
        memory.push(vec![1e-9, 1.0], vec![1e-9, 1e-9], 5);
        let direction = memory.direction(&f(&[0.0, 0.0]).1);
        assert!(direction[0] > 0.0 && direction[1].abs() > 0.5 * direction[0], "{direction:?}");
        let mut x = vec![0.0, 0.0];
        let report = run(&LbfgsConfig::default(), &mut memory, &mut x, f, |x| x);
        assert_eq!((report.end, report.iterations, &x[..]), (LbfgsEnd::Iterations, 1, &[1.0, 0.0][..]));
        assert_eq!(memory.pairs.iter().map(|pair| pair.0.clone()).collect::<Vec<_>>(), [[1.0, 0.0]]);
    }

    #[test]
    fn a_shorter_first_trial_makes_a_shorter_step() {
        let f = |x: &[f64]| (0.5 * x[0] * x[0], vec![x[0]]);
        let ends = [1.0, 0.25].map(|first| {
            let (mut memory, mut x) = (Memory::default(), vec![0.5]);
            let result: Result<_, Infallible> = minimize(&mut memory, &LbfgsConfig::default(), first, x.clone(), |trial| {
                x = trial.to_vec();
                let (loss, g) = f(&x);
                Ok((x.clone(), loss, g))
            });
            assert_eq!(result.unwrap().end, LbfgsEnd::Iterations);
            x[0]
        });
        assert_eq!(ends, [0.0, 0.375]);
    }

    #[test]
    fn going_on_is_the_same_as_never_stopping() {
        let config = |iterations| LbfgsConfig { iterations, history: 5, ..LbfgsConfig::default() };
        let (mut whole, mut parts) = (vec![-1.2, 1.0, 0.3], vec![-1.2, 1.0, 0.3]);
        run(&config(12), &mut Memory::default(), &mut whole, rosenbrock, |x| x);
        let mut memory = Memory::default();
        for _ in 0..3 {
            run(&config(4), &mut memory, &mut parts, rosenbrock, |x| x);
        }
        assert_eq!(whole, parts);
        assert_eq!(memory.pairs.len(), 5);
    }
}
