//! Radial functions as piecewise polynomials: what the compiled kernels evaluate instead of networks.
//!
//! On intervals of equal length h each function is the quintic that has its value, slope and curvature at both ends (Hermite), so the
//! interpolant is twice continuously differentiable, and its derivative is the derivative of the tabulated energy whatever the interval: forces stay
//! consistent with energies. Coefficients are those of powers of t = (r − r_k)/h, which gives value and derivative from the same six numbers.

use crate::slab::width;

/// Coefficients of a polynomial of an interval.
pub const COEFFICIENTS: usize = 6;

/// Functions with their first and second derivatives at one distance, `[functions]` each; units of the function, per Å and per Å².
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sample {
    /// Values.
    pub value: Vec<f64>,
    /// First derivatives.
    pub first: Vec<f64>,
    /// Second derivatives.
    pub second: Vec<f64>,
}

/// Which function a lane of the table holds: one list of lanes for each section, `None` for padding.
///
/// A section belongs to a slab of channels of the convolution: `[interval][path][coefficient][lane]`.
pub type Section = Vec<Option<u32>>;

/// Piecewise quintics of many functions, in the order in which slabs of channels read them.
#[derive(Debug, Clone)]
pub struct Table<T> {
    intervals: usize,
    inverse_spacing: f64,
    /// Where each section starts, and how many lanes it has.
    sections: Vec<(usize, usize)>,
    data: Vec<T>,
}

/// A table in plain order, as devices read it.
#[derive(Debug, Clone, PartialEq)]
pub struct TableColumns<T> {
    /// How many intervals, from 0 on.
    pub intervals: usize,
    /// 1/h, 1/Å.
    pub inverse_spacing: f64,
    /// How many functions.
    pub columns: usize,
    /// `[interval][coefficient][column]`
    pub data: Vec<T>,
}

/// c of Σ_k c_k tᵏ on an interval of length `h`, from value, slope and curvature at both ends.
pub fn hermite(h: f64, [v0, d0, s0]: [f64; 3], [v1, d1, s1]: [f64; 3]) -> [f64; COEFFICIENTS] {
    let (rise, d0, d1, s0, s1) = (v1 - v0, h * d0, h * d1, h * h * s0, h * h * s1);
    [
        v0,
        d0,
        0.5 * s0,
        10.0 * rise - 6.0 * d0 - 4.0 * d1 - 1.5 * s0 + 0.5 * s1,
        -15.0 * rise + 8.0 * d0 + 7.0 * d1 + 1.5 * s0 - s1,
        6.0 * rise - 3.0 * d0 - 3.0 * d1 - 0.5 * s0 + 0.5 * s1,
    ]
}

impl<T: crate::real::Real> Table<T> {
    /// A table over `ends.len()` intervals from 0 to `cutoff` (Å): `ends[k]` are the samples at the left and right end of interval k, as indices
    /// into `samples`. One-sided values at a kink are two samples at the same distance.
    pub fn new(cutoff: f64, samples: &[Sample], ends: &[[usize; 2]], sections: &[Section]) -> Self {
        let (intervals, h) = (ends.len(), cutoff / ends.len() as f64);
        let mut starts = Vec::with_capacity(sections.len());
        let mut total = 0;
        for section in sections {
            starts.push((total, section.len()));
            total += intervals * section.len() * COEFFICIENTS;
        }
        let mut data = vec![T::zero(); total];
        let lanes = width::<T>();
        for (section, &(start, _)) in sections.iter().zip(&starts) {
            let row = section.len() * COEFFICIENTS;
            for (&[left, right], row) in ends.iter().zip(data[start..start + intervals * row].chunks_exact_mut(row)) {
                let (a, b) = (&samples[left], &samples[right]);
                for (slab, chunk) in section.chunks_exact(lanes).zip(row.chunks_exact_mut(lanes * COEFFICIENTS)) {
                    for (lane, function) in slab.iter().enumerate() {
                        let Some(f) = function.map(|f| f as usize) else { continue };
                        let c = hermite(h, [a.value[f], a.first[f], a.second[f]], [b.value[f], b.first[f], b.second[f]]);
                        for (k, c) in c.into_iter().enumerate() {
                            chunk[k * lanes + lane] = T::of(c);
                        }
                    }
                }
            }
        }
        Self { intervals, inverse_spacing: intervals as f64 / cutoff, sections: starts, data }
    }

    /// A table without functions, to be filled by [`Table::tabulate_points`].
    pub fn empty() -> Self {
        Self { intervals: 0, inverse_spacing: 1.0, sections: Vec::new(), data: Vec::new() }
    }

    /// Makes the table exact at `points` given values and slopes (`[points, functions]`): one interval a point, to be read at t = 0. Memory of
    /// earlier calls is used again.
    pub fn tabulate_points(&mut self, values: &[f64], slopes: &[f64], functions: usize, sections: &[Section]) {
        let points = values.len() / functions.max(1);
        self.intervals = points;
        self.inverse_spacing = 1.0;
        self.sections.clear();
        let mut total = 0;
        for section in sections {
            self.sections.push((total, section.len()));
            total += points * section.len() * COEFFICIENTS;
        }
        self.data.clear();
        self.data.resize(total, T::zero());
        let lanes = width::<T>();
        for (section, &(start, _)) in sections.iter().zip(&self.sections) {
            let row = section.len() * COEFFICIENTS;
            for (point, row) in self.data[start..start + points * row].chunks_exact_mut(row).enumerate() {
                for (slab, chunk) in section.chunks_exact(lanes).zip(row.chunks_exact_mut(lanes * COEFFICIENTS)) {
                    for (lane, function) in slab.iter().enumerate() {
                        let Some(f) = function.map(|f| point * functions + f as usize) else { continue };
                        chunk[lane] = T::of(values[f]);
                        chunk[lanes + lane] = T::of(slopes[f]);
                    }
                }
            }
        }
    }

    /// How many intervals.
    pub fn intervals(&self) -> usize {
        self.intervals
    }

    /// 1/h, 1/Å.
    pub fn inverse_spacing(&self) -> f64 {
        self.inverse_spacing
    }

    /// The interval that a distance (Å, at least 0) lies in, and where in it, 0 to 1.
    #[inline(always)]
    pub fn locate(&self, r: f64) -> (u32, T) {
        let x = r * self.inverse_spacing;
        let k = (x as usize).min(self.intervals - 1);
        (k as u32, T::of(x - k as f64))
    }

    /// The numbers of one section, and how many an interval has.
    #[inline(always)]
    pub fn section(&self, index: usize) -> (&[T], usize) {
        let (start, lanes) = self.sections[index];
        let stride = lanes * COEFFICIENTS;
        (&self.data[start..start + self.intervals * stride], stride)
    }

    /// The coefficients of functions 0 to `columns` in plain order, given the sections the table was made with. Functions that no section has are
    /// zero.
    pub fn columns(&self, sections: &[Section], columns: usize) -> TableColumns<T> {
        let lanes = width::<T>();
        let mut data = vec![T::zero(); self.intervals * COEFFICIENTS * columns];
        for (index, section) in sections.iter().enumerate() {
            let (from, stride) = self.section(index);
            for (lane, function) in section.iter().enumerate() {
                let Some(column) = function.map(|f| f as usize) else { continue };
                let first = lane / lanes * lanes * COEFFICIENTS + lane % lanes;
                for interval in 0..self.intervals {
                    for k in 0..COEFFICIENTS {
                        data[(interval * COEFFICIENTS + k) * columns + column] = from[interval * stride + first + k * lanes];
                    }
                }
            }
        }
        TableColumns { intervals: self.intervals, inverse_spacing: self.inverse_spacing, columns, data }
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.data.capacity() * size_of::<T>()
    }

    /// Value and derivative (per Å) of every function of a section at a distance (Å): for tests and for measuring the error.
    pub fn evaluate(&self, section: usize, r: f64, functions: &Section, out: &mut [(f64, f64)]) {
        let (cell, t) = self.locate(r);
        let (data, stride) = self.section(section);
        let (t, lanes) = (candle_core::WithDType::to_f64(t), width::<T>());
        for (lane, function) in functions.iter().enumerate() {
            let Some(f) = function else { continue };
            let at = cell as usize * stride + lane / lanes * lanes * COEFFICIENTS + lane % lanes;
            let (mut value, mut slope) = (0.0, 0.0);
            for k in (0..COEFFICIENTS).rev() {
                slope = slope * t + value;
                value = value * t + candle_core::WithDType::to_f64(data[at + k * lanes]);
            }
            out[*f as usize] = (value, slope * self.inverse_spacing);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// sin(r) and r⁵/100 with derivatives.
    fn sample(r: f64) -> Sample {
        Sample { value: vec![r.sin(), r.powi(5) / 100.0], first: vec![r.cos(), r.powi(4) / 20.0], second: vec![-r.sin(), r.powi(3) / 5.0] }
    }

    #[test]
    fn quintics_are_exact_and_others_converge_with_the_sixth_power() {
        let section: Section = (0..8).map(|k| [Some(0), Some(1)].get(k).copied().flatten()).collect();
        let mut errors = Vec::new();
        for intervals in [8, 16] {
            let samples: Vec<Sample> = (0..=intervals).map(|k| sample(6.0 * k as f64 / intervals as f64)).collect();
            let ends: Vec<[usize; 2]> = (0..intervals).map(|k| [k, k + 1]).collect();
            let table = Table::<f64>::new(6.0, &samples, &ends, std::slice::from_ref(&section));
            let mut worst = 0.0f64;
            for k in 0..600 {
                let r = f64::from(k) * 0.01;
                let mut got = [(0.0, 0.0); 2];
                table.evaluate(0, r, &section, &mut got);
                assert!((got[1].0 - r.powi(5) / 100.0).abs() < 1e-12, "{got:?} at {r}");
                assert!((got[1].1 - r.powi(4) / 20.0).abs() < 1e-11);
                worst = worst.max((got[0].0 - r.sin()).abs());
            }
            errors.push(worst);
        }
        assert!(errors[0] > 40.0 * errors[1], "{errors:?}");
    }

    #[test]
    fn points_are_exact() {
        let section: Section = vec![Some(1), Some(0), None, None, None, None, None, None];
        let mut table = Table::<f64>::empty();
        table.tabulate_points(&[1.0, 2.0, 3.0, 4.0], &[5.0, 6.0, 7.0, 8.0], 2, std::slice::from_ref(&section));
        let (data, stride) = table.section(0);
        assert_eq!((stride, table.intervals()), (48, 2));
        assert_eq!([data[0], data[1], data[8], data[9], data[48], data[57]], [2.0, 1.0, 6.0, 5.0, 4.0, 7.0]);
    }
}
