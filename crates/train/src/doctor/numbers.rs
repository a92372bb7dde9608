//! Robust statistics of small samples.

/// The median; the mean of the two middle values of an even number. `None` of nothing. NaN must not be among the values.
pub(super) fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let n = values.len();
    match n {
        0 => None,
        _ if n % 2 == 1 => Some(values[n / 2]),
        _ => Some(0.5 * (values[n / 2 - 1] + values[n / 2])),
    }
}

/// Median and robust standard deviation: 1.4826 times the median of absolute deviations, which is σ for a normal distribution.
pub(super) fn median_and_spread(values: &[f64]) -> Option<(f64, f64)> {
    let center = median(values.iter().copied())?;
    let spread = 1.4826 * median(values.iter().map(|x| (x - center).abs()))?;
    Some((center, spread))
}

/// A constant ratio between two quantities, fitted to pairs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Proportion {
    /// x / y.
    pub(super) ratio: f64,
    /// 1 − Σ |y − x / ratio| / Σ |y|: 1 for exact proportion, about 0 for none.
    pub(super) quality: f64,
}

/// The ratio x / y for pairs (x, y) with noise in y: y = s x with s that minimises Σ |y − s x|, the weighted median of y / x. Outliers count little.
/// `None` if there are no pairs or all x or y are 0.
pub(super) fn proportion(pairs: &[(f64, f64)]) -> Option<Proportion> {
    let mut slopes: Vec<(f64, f64)> = pairs.iter().filter(|(x, _)| *x != 0.0).map(|(x, y)| (y / x, x.abs())).collect();
    slopes.sort_by(|a, b| a.0.total_cmp(&b.0));
    let half = 0.5 * slopes.iter().map(|(_, weight)| weight).sum::<f64>();
    let mut sum = 0.0;
    let slope = slopes.iter().find(|(_, weight)| {
        sum += weight;
        sum >= half
    });
    let slope = slope?.0;
    let total: f64 = pairs.iter().map(|(_, y)| y.abs()).sum();
    if slope == 0.0 || total == 0.0 {
        return None;
    }
    let rest: f64 = pairs.iter().map(|(x, y)| (y - slope * x).abs()).sum();
    Some(Proportion { ratio: 1.0 / slope, quality: 1.0 - rest / total })
}

/// Slope of y against x by least squares, and their correlation. `None` below three points or without spread in both.
pub(super) fn line(points: &[(f64, f64)]) -> Option<(f64, f64)> {
    let n = points.len() as f64;
    if points.len() < 3 {
        return None;
    }
    let (mx, my) = (points.iter().map(|p| p.0).sum::<f64>() / n, points.iter().map(|p| p.1).sum::<f64>() / n);
    let (mut xx, mut xy, mut yy) = (0.0, 0.0, 0.0);
    for (x, y) in points {
        xx += (x - mx) * (x - mx);
        xy += (x - mx) * (y - my);
        yy += (y - my) * (y - my);
    }
    (xx > 0.0 && yy > 0.0).then(|| (xy / xx, xy / (xx * yy).sqrt()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median([]), None);
        assert_eq!(median([3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), Some(2.5));
        let (center, spread) = median_and_spread(&[1.0, 2.0, 3.0, 4.0, 1000.0]).unwrap();
        assert_eq!((center, spread), (3.0, 1.4826));
    }

    #[test]
    fn proportions_survive_outliers() {
        let mut pairs: Vec<(f64, f64)> = (1..20).map(|i| (f64::from(i) - 9.5, (f64::from(i) - 9.5) / 23.0)).collect();
        let exact = proportion(&pairs).unwrap();
        assert!((exact.ratio - 23.0).abs() < 1e-12 && (exact.quality - 1.0).abs() < 1e-12);
        pairs.push((1.0, -100.0));
        let spoilt = proportion(&pairs).unwrap();
        assert!((spoilt.ratio - 23.0).abs() < 1e-12 && spoilt.quality < 0.5, "{spoilt:?}");
        assert_eq!(proportion(&[]), None);
        assert_eq!(proportion(&[(1.0, 0.0), (2.0, 0.0)]), None);
        // No relation at all.
        let noise = [(1.0, 1.0), (1.0, -1.0), (-1.0, 1.0), (-1.0, -1.0), (1.0, 0.9), (1.0, -0.9)];
        assert!(proportion(&noise).is_none_or(|p| p.quality < 0.1));
    }

    #[test]
    fn lines() {
        let (slope, correlation) = line(&[(0.0, 1.0), (1.0, -1.0), (2.0, -3.0)]).unwrap();
        assert!((slope + 2.0).abs() < 1e-14 && (correlation + 1.0).abs() < 1e-14);
        assert_eq!(line(&[(0.0, 1.0), (0.0, 2.0), (0.0, 3.0)]), None);
        assert_eq!(line(&[(0.0, 1.0), (1.0, 2.0)]), None);
    }
}
