//! Least squares.

use nalgebra::{DMatrix, DVector};

/// Coefficients c of Σ c_k x^k of least squared deviation from points (x, y), lowest power first; abscissae are scaled inside.
pub(crate) fn polynomial(points: &[(f64, f64)], degree: usize) -> Option<Vec<f64>> {
    let scale = points.iter().fold(0.0f64, |m, p| m.max(p.0.abs()));
    let scale = if scale > 0.0 { scale } else { 1.0 };
    let a = DMatrix::from_fn(points.len(), degree + 1, |i, k| (points[i].0 / scale).powi(k as i32));
    let b = DVector::from_iterator(points.len(), points.iter().map(|p| p.1));
    let c = a.svd(true, true).solve(&b, 1e-13).ok()?;
    Some(c.iter().enumerate().map(|(k, c)| c / scale.powi(k as i32)).collect())
}

/// Σ c_k x^k.
pub(crate) fn value(c: &[f64], x: f64) -> f64 {
    c.iter().rev().fold(0.0, |sum, c| sum * x + c)
}

/// The result of a nonlinear fit.
#[derive(Debug, Clone)]
pub(crate) struct Fitted<const P: usize> {
    /// Parameters.
    pub(crate) parameters: [f64; P],
    /// Their standard errors, by the curvature of the sum of squares; none without spare points.
    pub(crate) errors: Option<[f64; P]>,
    /// Root mean square deviation.
    pub(crate) rmse: f64,
}

/// Parameters p of least Σ (f(x, p) − y)² by Levenberg and Marquardt's method (D. Marquardt, J. SIAM 11, 431 (1963)), from a start near them. `None` if there is no way down from
/// the start, or a number is not finite.
pub(crate) fn nonlinear<const P: usize>(points: &[(f64, f64)], start: [f64; P], f: impl Fn(f64, &[f64; P]) -> f64) -> Option<Fitted<P>> {
    let residual = |p: &[f64; P]| DVector::from_iterator(points.len(), points.iter().map(|&(x, y)| y - f(x, p)));
    // Steps of derivatives and of convergence are in units of the parameters, for which a start near the solution is a measure.
    let scale = start.map(|p| if p == 0.0 { 1.0 } else { p.abs() });
    let jacobian = |p: &[f64; P]| {
        DMatrix::from_fn(points.len(), P, |i, k| {
            let moved = |h: f64| {
                let mut q = *p;
                q[k] += h * scale[k];
                f(points[i].0, &q)
            };
            let h = 1e-4;
            (8.0 * (moved(h) - moved(-h)) - (moved(2.0 * h) - moved(-2.0 * h))) / (12.0 * h)
        })
    };
    let mut p = start;
    let mut r = residual(&p);
    let mut damping = 1e-3;
    for _ in 0..200 {
        let j = jacobian(&p);
        let (normal, gradient) = (j.transpose() * &j, j.transpose() * &r);
        let mut better = false;
        let mut relative = 0.0;
        while damping < 1e12 {
            let mut damped = normal.clone();
            for k in 0..P {
                damped[(k, k)] += damping * normal[(k, k)].max(f64::MIN_POSITIVE);
            }
            let Some(step) = damped.lu().solve(&gradient) else {
                damping *= 10.0;
                continue;
            };
            let mut q = p;
            (0..P).for_each(|k| q[k] += step[k] * scale[k]);
            let moved = residual(&q);
            if moved.norm_squared() < r.norm_squared() {
                relative = step.amax();
                (p, r) = (q, moved);
                damping = (damping / 10.0).max(1e-15);
                better = true;
                break;
            }
            damping *= 10.0;
        }
        if !better || relative < 1e-14 {
            break;
        }
        damping = damping.min(1.0);
    }
    if !r.iter().all(|x| x.is_finite()) || !p.iter().all(|x| x.is_finite()) {
        return None;
    }
    let spare = points.len().checked_sub(P).filter(|&n| n > 0);
    let errors = spare.and_then(|spare| {
        let j = jacobian(&p);
        let covariance = (j.transpose() * &j).try_inverse()? * (r.norm_squared() / spare as f64);
        let errors: [f64; P] = std::array::from_fn(|k| covariance[(k, k)].max(0.0).sqrt() * scale[k]);
        Some(errors)
    });
    Some(Fitted { parameters: p, errors, rmse: (r.norm_squared() / points.len() as f64).sqrt() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polynomials_come_back() {
        let c = [1.5, -2.0, 3e5, -4e7];
        let points: Vec<(f64, f64)> = (-3..=3).map(|i| f64::from(i) * 1e-3).map(|x| (x, value(&c, x))).collect();
        let found = polynomial(&points, 3).unwrap();
        assert!(c.iter().zip(&found).all(|(a, b)| (a - b).abs() < 1e-9 * a.abs()), "{found:?}");
    }

    /// y = a exp(b x) with errors of known size: parameters from far away, and their errors against the linear theory of ln y.
    #[test]
    fn exponentials_come_back() {
        let points: Vec<(f64, f64)> = (0..20).map(|i| f64::from(i) / 10.0).map(|x| (x, 3.0 * (-0.7 * x).exp())).collect();
        let found = nonlinear(&points, [1.0, -0.1], |x, p| p[0] * (p[1] * x).exp()).unwrap();
        assert!((found.parameters[0] - 3.0).abs() < 1e-10 && (found.parameters[1] + 0.7).abs() < 1e-10, "{found:?}");
        let noisy: Vec<(f64, f64)> = points.iter().enumerate().map(|(i, &(x, y))| (x, y + if i % 2 == 0 { 0.01 } else { -0.01 })).collect();
        let found = nonlinear(&noisy, [1.0, -0.1], |x, p| p[0] * (p[1] * x).exp()).unwrap();
        let errors = found.errors.unwrap();
        assert!((found.rmse - 0.01).abs() < 1e-3 && (0.003..0.02).contains(&errors[0]) && (0.002..0.02).contains(&errors[1]), "{found:?}");
        assert!(nonlinear(&points, [f64::NAN, 1.0], |x, p| p[0] * x + p[1]).is_none());
    }
}
