//! Real spherical harmonics with gradients and Hessians.
//!
//! Components `m = -l..=l`, `y` the polar axis, no Condon-Shortley phase: the textbook real harmonics
//! evaluated at `(x_std, y_std, z_std) = (z, x, y)`. Without normalisation of the argument they are the
//! homogeneous harmonic polynomials of degree `l` that equal the harmonics on the unit sphere.
//! Values come from the recursions in the degree; derivatives from the fact that every Cartesian
//! derivative of a harmonic polynomial of degree `l` is a combination of at most two of degree `l - 1`.

/// The largest degree that [`SphericalHarmonics`] evaluates.
pub const MAX_L: usize = 12;

/// Vectors shorter than this (Å) are divided by this instead of by their length.
const MIN_LENGTH: f64 = 1e-12;

/// Overall scale of the harmonics of degree `l`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Normalization {
    /// `sum_m Y_lm^2 = 2l + 1` on the unit sphere. What every supported potential uses.
    #[default]
    Component,
    /// `sum_m Y_lm^2 = 1` on the unit sphere.
    Norm,
    /// The integral of `Y_lm^2` over the unit sphere is one.
    Integral,
}

impl Normalization {
    /// The factor relative to [`Normalization::Norm`].
    #[must_use]
    pub fn factor(self, l: usize) -> f64 {
        let component = ((2 * l + 1) as f64).sqrt();
        match self {
            Self::Component => component,
            Self::Norm => 1.0,
            Self::Integral => component / (4.0 * std::f64::consts::PI).sqrt(),
        }
    }
}

/// `coefficient * x^a y^b z^c`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Monomial {
    /// Powers of `x`, `y` and `z`.
    pub exponents: [u8; 3],
    /// The factor.
    pub coefficient: f64,
}

/// A homogeneous polynomial in `x, y, z`: one harmonic `Y_lm` for vectors of any length.
#[derive(Clone, Debug, PartialEq)]
pub struct Polynomial {
    /// The terms, highest powers of `x`, then of `y`, first. No coefficient is zero.
    pub terms: Vec<Monomial>,
}

impl Polynomial {
    /// The value at `v`.
    #[must_use]
    pub fn evaluate(&self, v: [f64; 3]) -> f64 {
        self.terms
            .iter()
            .map(|term| {
                let powers = term.exponents.map(i32::from);
                term.coefficient * (0..3).map(|a| v[a].powi(powers[a])).product::<f64>()
            })
            .sum()
    }
}

/// What can be wrong with a request for harmonics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SphericalHarmonicsError {
    /// A degree above [`MAX_L`].
    #[error("spherical harmonics are available up to l = {max}, not l = {l}")]
    DegreeTooLarge {
        /// The degree asked for.
        l: usize,
        /// The largest supported degree.
        max: usize,
    },
}

/// `d Y / d v_axis = coefficient * Y[source]` summed over the links of one harmonic.
#[derive(Clone, Copy, Debug)]
struct GradientLink {
    axis: usize,
    source: usize,
    coefficient: f64,
}

/// All real spherical harmonics up to a degree, in the order `(l, m)`: `Y_lm` is at `l^2 + l + m`.
#[derive(Clone, Debug)]
pub struct SphericalHarmonics {
    l_max: usize,
    normalization: Normalization,
    /// `[l][m]` for `m >= 0`: what multiplies the unnormalised product of polar and azimuthal parts.
    prefactors: Vec<Vec<f64>>,
    polynomials: Vec<Polynomial>,
    gradients: Vec<Vec<GradientLink>>,
}

impl SphericalHarmonics {
    /// Component-normalised harmonics up to and including `l_max`.
    ///
    /// # Errors
    /// [`SphericalHarmonicsError::DegreeTooLarge`] above [`MAX_L`].
    pub fn new(l_max: usize) -> Result<Self, SphericalHarmonicsError> {
        Self::with_normalization(l_max, Normalization::Component)
    }

    /// Harmonics up to and including `l_max` on the scale of `normalization`.
    ///
    /// # Errors
    /// [`SphericalHarmonicsError::DegreeTooLarge`] above [`MAX_L`].
    pub fn with_normalization(l_max: usize, normalization: Normalization) -> Result<Self, SphericalHarmonicsError> {
        if l_max > MAX_L {
            return Err(SphericalHarmonicsError::DegreeTooLarge { l: l_max, max: MAX_L });
        }
        let prefactors: Vec<Vec<f64>> = (0..=l_max)
            .map(|l| {
                let factor = normalization.factor(l);
                (0..=l).map(|m| factor * schmidt_factor(l, m)).collect()
            })
            .collect();
        let mut polynomials = Vec::with_capacity((l_max + 1) * (l_max + 1));
        let mut gradients = Vec::with_capacity((l_max + 1) * (l_max + 1));
        for l in 0..=l_max {
            for m in -(l as i64)..=l as i64 {
                let order = m.unsigned_abs() as usize;
                polynomials.push(polynomial(l, order, m < 0, prefactors[l][order]));
                gradients.push(gradient_links(l, m, &prefactors));
            }
        }
        Ok(Self { l_max, normalization, prefactors, polynomials, gradients })
    }

    /// The largest degree.
    #[must_use]
    pub fn l_max(&self) -> usize {
        self.l_max
    }

    /// The scale of the harmonics.
    #[must_use]
    pub fn normalization(&self) -> Normalization {
        self.normalization
    }

    /// Number of harmonics, `(l_max + 1)^2`.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "there is always the harmonic l = 0")]
    pub fn len(&self) -> usize {
        (self.l_max + 1) * (self.l_max + 1)
    }

    /// The polynomials of all harmonics in order, for vectors of any length (`normalize = false`).
    #[must_use]
    pub fn polynomials(&self) -> &[Polynomial] {
        &self.polynomials
    }

    /// The polynomial of `Y_lm`, `None` if `l > l_max` or `|m| > l`.
    #[must_use]
    pub fn polynomial(&self, l: usize, m: i64) -> Option<&Polynomial> {
        if l > self.l_max || m.unsigned_abs() > l as u64 {
            return None;
        }
        self.polynomials.get((l * l + l).checked_add_signed(m as isize)?)
    }

    /// Writes all harmonics of `v` into `y` (length [`len`](Self::len)).
    ///
    /// With `normalize`, `v` is first divided by `max(|v|, 1e-12)`: results depend on the direction alone and
    /// the zero vector gives zero for `l > 0`. Without, `Y_l` grows like `|v|^l`.
    ///
    /// # Panics
    /// If `y` has another length.
    pub fn evaluate(&self, v: [f64; 3], normalize: bool, y: &mut [f64]) {
        assert_eq!(y.len(), self.len(), "length of the harmonics");
        let v = if normalize { scaled(v).0 } else { v };
        self.evaluate_polynomials(v, y);
    }

    /// As [`evaluate`](Self::evaluate), with the derivatives `dy[n][a] = dY_n / dv_a` with respect to the
    /// vector as given.
    ///
    /// With `normalize`, vectors shorter than `1e-12` have no direction: their derivatives are zero.
    ///
    /// # Panics
    /// If a slice has another length than [`len`](Self::len).
    pub fn evaluate_with_gradients(&self, v: [f64; 3], normalize: bool, y: &mut [f64], dy: &mut [[f64; 3]]) {
        assert_eq!(y.len(), self.len(), "length of the harmonics");
        assert_eq!(dy.len(), self.len(), "length of the gradients");
        if !normalize {
            self.evaluate_polynomials(v, y);
            self.differentiate(y, dy);
            return;
        }
        let (u, inverse_length) = scaled(v);
        self.evaluate_polynomials(u, y);
        self.differentiate(y, dy);
        for l in 0..=self.l_max {
            for n in l * l..(l + 1) * (l + 1) {
                let radial = l as f64 * y[n];
                for a in 0..3 {
                    dy[n][a] = project(dy[n][a] - radial * u[a], inverse_length);
                }
            }
        }
    }

    /// As [`evaluate_with_gradients`](Self::evaluate_with_gradients), with the second derivatives
    /// `ddy[n][a][b] = d2Y_n / dv_a dv_b`.
    ///
    /// # Panics
    /// If a slice has another length than [`len`](Self::len).
    pub fn evaluate_with_hessians(&self, v: [f64; 3], normalize: bool, y: &mut [f64], dy: &mut [[f64; 3]], ddy: &mut [[[f64; 3]; 3]]) {
        assert_eq!(y.len(), self.len(), "length of the harmonics");
        assert_eq!(dy.len(), self.len(), "length of the gradients");
        assert_eq!(ddy.len(), self.len(), "length of the Hessians");
        let (u, inverse_length) = if normalize { scaled(v) } else { (v, 1.0) };
        self.evaluate_polynomials(u, y);
        self.differentiate(y, dy);
        for (hessian, links) in ddy.iter_mut().zip(&self.gradients) {
            *hessian = [[0.0; 3]; 3];
            for link in links {
                for b in 0..3 {
                    hessian[link.axis][b] += link.coefficient * dy[link.source][b];
                }
            }
        }
        if !normalize {
            return;
        }
        // Derivatives of P(v) |v|^-l for P homogeneous of degree l, with P and its derivatives taken
        // at u = v / |v|.
        for l in 0..=self.l_max {
            let degree = l as f64;
            for n in l * l..(l + 1) * (l + 1) {
                let (value, gradient) = (y[n], dy[n]);
                for a in 0..3 {
                    for b in 0..3 {
                        let identity = f64::from(u8::from(a == b));
                        let tangent = ddy[n][a][b]
                            - degree * (gradient[a] * u[b] + gradient[b] * u[a] + value * (identity - (degree + 2.0) * u[a] * u[b]));
                        ddy[n][a][b] = project(tangent * inverse_length, inverse_length);
                    }
                    dy[n][a] = project(gradient[a] - degree * value * u[a], inverse_length);
                }
            }
        }
    }

    /// Values at `v`, length `(l_max + 1)^2`, by the recursions in `l` at fixed order `m`.
    fn evaluate_polynomials(&self, v: [f64; 3], y: &mut [f64]) {
        let [y_std, z_std, x_std] = v;
        let r2 = v[0] * v[0] + v[1] * v[1] + v[2] * v[2];
        // (x_std + i y_std)^m, and the polar part for l = m, (2m - 1)!!.
        let (mut cosine, mut sine, mut diagonal) = (1.0, 0.0, 1.0);
        for m in 0..=self.l_max {
            let (mut previous, mut polar) = (0.0, diagonal);
            for l in m..=self.l_max {
                let value = self.prefactors[l][m] * polar;
                let centre = l * l + l;
                y[centre + m] = value * cosine;
                if m > 0 {
                    y[centre - m] = value * sine;
                }
                let next = ((2 * l + 1) as f64 * z_std * polar - (l + m) as f64 * r2 * previous) / (l + 1 - m) as f64;
                previous = polar;
                polar = next;
            }
            (cosine, sine) = (x_std * cosine - y_std * sine, x_std * sine + y_std * cosine);
            diagonal *= (2 * m + 1) as f64;
        }
    }

    /// Gradients of the polynomials from their values.
    fn differentiate(&self, y: &[f64], dy: &mut [[f64; 3]]) {
        for (gradient, links) in dy.iter_mut().zip(&self.gradients) {
            *gradient = [0.0; 3];
            for link in links {
                gradient[link.axis] += link.coefficient * y[link.source];
            }
        }
    }
}

/// `v / max(|v|, 1e-12)` and `1 / |v|`, the latter zero where the vector has no direction.
fn scaled(v: [f64; 3]) -> ([f64; 3], f64) {
    let length = length(v);
    if length < MIN_LENGTH {
        (v.map(|component| component / MIN_LENGTH), 0.0)
    } else {
        (v.map(|component| component / length), 1.0 / length)
    }
}

/// Euclidean length that neither overflows nor underflows; NaN and infinity pass through.
fn length(v: [f64; 3]) -> f64 {
    v[0].hypot(v[1]).hypot(v[2])
}

/// A derivative along the sphere divided by the length; exactly zero where there is no direction.
fn project(tangent: f64, inverse_length: f64) -> f64 {
    if inverse_length == 0.0 { 0.0 } else { tangent * inverse_length }
}

/// Factor of `Q_lm(z, r^2) Re or Im (x + i y)^m` that gives harmonics with `sum_m Y_lm^2 = 1`.
fn schmidt_factor(l: usize, m: usize) -> f64 {
    let ratio: f64 = (l - m + 1..=l + m).map(|n| n as f64).product();
    let multiplicity = if m == 0 { 1.0 } else { 2.0 };
    (multiplicity / ratio).sqrt()
}

/// Exact factorial; the arguments here are at most `2 * MAX_L`.
fn factorial(n: usize) -> i128 {
    (1..=n as i128).product()
}

fn binomial(n: usize, k: usize) -> i128 {
    factorial(n) / (factorial(k) * factorial(n - k))
}

/// Expands `prefactor * Q_lm(z_std, r^2) * (Re or Im)(x_std + i y_std)^m` in powers of `x, y, z`.
/// Integer arithmetic throughout; the only rounding is in the last product.
fn polynomial(l: usize, m: usize, sine: bool, prefactor: f64) -> Polynomial {
    let mut integers = std::collections::BTreeMap::<[u8; 3], i128>::new();
    for k in 0..=(l - m) / 2 {
        let sign = if k % 2 == 0 { 1 } else { -1 };
        let polar = sign * binomial(l, k) * binomial(2 * l - 2 * k, l) * factorial(l - 2 * k) / factorial(l - 2 * k - m);
        // r^(2k) = sum over a + b + c = k of k! / (a! b! c!) x^2a y^2b z^2c
        for a in 0..=k {
            for b in 0..=k - a {
                let c = k - a - b;
                let multinomial = factorial(k) / (factorial(a) * factorial(b) * factorial(c));
                // (z + i x)^m: even powers of x are real, odd ones imaginary.
                for t in (usize::from(sine)..=m).step_by(2) {
                    let azimuthal = binomial(m, t) * if t / 2 % 2 == 0 { 1 } else { -1 };
                    let exponents = [2 * a + t, 2 * b + l - 2 * k - m, 2 * c + m - t];
                    *integers.entry(exponents.map(|power| power as u8)).or_default() += polar * multinomial * azimuthal;
                }
            }
        }
    }
    let scale = prefactor / (1u64 << l) as f64;
    let terms = integers
        .into_iter()
        .rev()
        .filter(|&(_, integer)| integer != 0)
        .map(|(exponents, integer)| Monomial { exponents, coefficient: scale * integer as f64 })
        .collect();
    Polynomial { terms }
}

/// The harmonics of degree `l - 1` whose combination is the gradient of `Y_lm`.
///
/// With `E = x_std + i y_std` and the unnormalised `F_lm = Q_lm E^m`:
/// `dF_lm/dz_std = (l+m) F_(l-1,m)`, `(d/dx_std + i d/dy_std) F_lm = -F_(l-1,m+1)` and
/// `(d/dx_std - i d/dy_std) F_lm = (l+m)(l+m-1) F_(l-1,m-1)`; here split into real and imaginary parts.
fn gradient_links(l: usize, m: i64, prefactors: &[Vec<f64>]) -> Vec<GradientLink> {
    // Components of (x, y, z) that are (x_std, y_std, z_std).
    const X_STD: usize = 2;
    const Y_STD: usize = 0;
    const Z_STD: usize = 1;
    if l == 0 {
        return Vec::new();
    }
    let order = m.abs();
    let mut links = Vec::new();
    let mut link = |axis, source: i64, factor: f64| {
        let degree = l - 1;
        if source.unsigned_abs() as usize > degree || factor == 0.0 {
            return;
        }
        let coefficient = factor * prefactors[l][order as usize] / prefactors[degree][source.unsigned_abs() as usize];
        links.push(GradientLink { axis, source: ((degree * degree + degree) as i64 + source) as usize, coefficient });
    };
    let lowering = ((l as i64 + order) * (l as i64 + order - 1)) as f64 / 2.0;
    link(Z_STD, m, (l as i64 + order) as f64);
    if m == 0 {
        link(X_STD, 1, -1.0);
        link(Y_STD, -1, -1.0);
    } else if m > 0 {
        link(X_STD, m - 1, lowering);
        link(X_STD, m + 1, -0.5);
        // The sine of order zero is zero.
        if m > 1 {
            link(Y_STD, -(m - 1), -lowering);
        }
        link(Y_STD, -(m + 1), -0.5);
    } else {
        if order > 1 {
            link(X_STD, -(order - 1), lowering);
        }
        link(X_STD, -(order + 1), -0.5);
        link(Y_STD, order - 1, lowering);
        link(Y_STD, order + 1, 0.5);
    }
    links
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn values(l_max: usize, v: [f64; 3], normalize: bool) -> Vec<f64> {
        let harmonics = SphericalHarmonics::new(l_max).unwrap();
        let mut y = vec![f64::NAN; harmonics.len()];
        harmonics.evaluate(v, normalize, &mut y);
        y
    }

    fn close(a: f64, b: f64, tolerance: f64) -> bool {
        (a - b).abs() <= tolerance * (1.0 + a.abs().max(b.abs()))
    }

    #[test]
    fn tabulated_values() {
        let expected = [
            1.0,
            0.524890659,
            -0.874817765,
            1.399708424,
            0.948485717,
            -0.592803573,
            -0.262395732,
            -1.580809529,
            1.086806551,
            1.183647158,
            -1.267467354,
            0.135272825,
            1.152223211,
            0.360727533,
            -1.452306343,
            0.638177703,
        ];
        let found = values(3, [0.3, -0.5, 0.8], true);
        for (a, b) in found.iter().zip(expected) {
            assert!((a - b).abs() < 1e-9, "{a} {b}");
        }
    }

    /// The closed forms of degree one to three, for a vector that is not a unit vector.
    #[test]
    fn explicit_polynomials() {
        let [x, y, z] = [0.7, -1.3, 0.4f64];
        let s = x * x + z * z;
        let (a, b) = (3f64.sqrt() * x * z, 3f64.sqrt() / 2.0 * (z * z - x * x));
        let expected = [
            1.0,
            x,
            y,
            z,
            a,
            3f64.sqrt() * x * y,
            y * y - s / 2.0,
            3f64.sqrt() * y * z,
            b,
            (5.0 / 6f64).sqrt() * (a * z + b * x),
            5f64.sqrt() * a * y,
            (3.0 / 8f64).sqrt() * (4.0 * y * y - s) * x,
            0.5 * y * (2.0 * y * y - 3.0 * s),
            (3.0 / 8f64).sqrt() * z * (4.0 * y * y - s),
            5f64.sqrt() * b * y,
            (5.0 / 6f64).sqrt() * (b * z - a * x),
        ];
        let harmonics = SphericalHarmonics::with_normalization(3, Normalization::Norm).unwrap();
        let mut found = [0.0; 16];
        harmonics.evaluate([x, y, z], false, &mut found);
        for (n, (a, b)) in found.iter().zip(expected).enumerate() {
            assert!((a - b).abs() < 1e-14, "{n}: {a} {b}");
            assert!((harmonics.polynomials()[n].evaluate([x, y, z]) - b).abs() < 1e-14);
        }
    }

    #[test]
    fn polynomial_lookup_and_limits() {
        let harmonics = SphericalHarmonics::new(2).unwrap();
        let terms = &harmonics.polynomial(1, -1).unwrap().terms;
        assert_eq!((terms.len(), terms[0].exponents), (1, [1, 0, 0]));
        assert_eq!(harmonics.polynomial(2, -3), None);
        assert_eq!(harmonics.polynomial(3, 0), None);
        assert_eq!(harmonics.polynomial(2, i64::MIN), None);
        assert_eq!(SphericalHarmonics::new(13).unwrap_err(), SphericalHarmonicsError::DegreeTooLarge { l: 13, max: 12 });
    }

    #[test]
    fn zero_vector_is_finite() {
        let harmonics = SphericalHarmonics::new(4).unwrap();
        let n = harmonics.len();
        let (mut y, mut dy, mut ddy) = (vec![1.0; n], vec![[1.0; 3]; n], vec![[[1.0; 3]; 3]; n]);
        harmonics.evaluate_with_hessians([0.0; 3], true, &mut y, &mut dy, &mut ddy);
        assert_eq!(y[0], 1.0);
        assert!(y[1..].iter().all(|&value| value == 0.0));
        assert!(dy.iter().flatten().all(|&value| value == 0.0));
        assert!(ddy.iter().flatten().flatten().all(|&value| value == 0.0));
        harmonics.evaluate_with_gradients([0.0; 3], true, &mut y, &mut dy);
        assert!(dy.iter().flatten().all(|&value| value == 0.0));
        // The polynomials are smooth there: l = 1 keeps its constant gradient.
        harmonics.evaluate_with_gradients([0.0; 3], false, &mut y, &mut dy);
        assert_eq!(dy[1], [3f64.sqrt(), 0.0, 0.0]);
    }

    #[test]
    fn direction_alone_matters_when_normalised() {
        let unit = values(12, [0.6, 0.0, -0.8], true);
        for scale in [1e-9, 1.0, 1e9, 1e200] {
            let scaled = values(12, [0.6 * scale, 0.0, -0.8 * scale], true);
            for (a, b) in unit.iter().zip(&scaled) {
                assert!((a - b).abs() < 1e-12);
            }
        }
    }

    /// The average over the sphere, by a Gauss-like product rule exact to degree 24, of products of
    /// harmonics is the identity.
    #[test]
    fn orthonormal_on_the_sphere() {
        let harmonics = SphericalHarmonics::with_normalization(6, Normalization::Integral).unwrap();
        let n = harmonics.len();
        // Clenshaw-Curtis in the polar coordinate y, equally spaced azimuth.
        let (nodes, turns) = (32usize, 32usize);
        let mut gram = vec![0.0; n * n];
        let mut y = vec![0.0; n];
        for node in 0..=nodes {
            let theta = std::f64::consts::PI * node as f64 / nodes as f64;
            let mut weight: f64 = 1.0;
            for k in 1..=nodes / 2 {
                let b = if 2 * k == nodes { 1.0 } else { 2.0 };
                weight -= b / (4 * k * k - 1) as f64 * (2.0 * k as f64 * theta).cos();
            }
            weight *= if node % nodes == 0 { 1.0 } else { 2.0 } / nodes as f64;
            for turn in 0..turns {
                let phi = 2.0 * std::f64::consts::PI * turn as f64 / turns as f64;
                let v = [theta.sin() * phi.sin(), theta.cos(), theta.sin() * phi.cos()];
                harmonics.evaluate(v, false, &mut y);
                let area = weight * 2.0 * std::f64::consts::PI / turns as f64;
                for a in 0..n {
                    for b in 0..n {
                        gram[a * n + b] += area * y[a] * y[b];
                    }
                }
            }
        }
        for (index, value) in gram.iter().enumerate() {
            let expected = f64::from(u8::from(index / n == index % n));
            assert!((value - expected).abs() < 1e-12, "{index} {value}");
        }
    }

    /// Legendre polynomial by its recursion.
    fn legendre(l: usize, x: f64) -> f64 {
        let (mut previous, mut current) = (0.0, 1.0);
        for n in 0..l {
            let next = ((2 * n + 1) as f64 * x * current - n as f64 * previous) / (n + 1) as f64;
            previous = current;
            current = next;
        }
        current
    }

    fn vector() -> impl Strategy<Value = [f64; 3]> {
        prop::array::uniform3(-2.0..2.0f64).prop_filter("not too short", |v| v.iter().map(|c| c * c).sum::<f64>() > 0.1)
    }

    proptest! {
        #[test]
        fn addition_theorem(u in vector(), v in vector()) {
            let (a, b) = (values(12, u, true), values(12, v, true));
            let cosine = (0..3).map(|k| u[k] * v[k]).sum::<f64>() / (length(u) * length(v));
            for l in 0..=12 {
                let sum: f64 = (l * l..(l + 1) * (l + 1)).map(|n| a[n] * b[n]).sum();
                prop_assert!(close(sum, (2 * l + 1) as f64 * legendre(l, cosine), 1e-11));
            }
        }

        #[test]
        fn recursion_equals_polynomials(v in vector()) {
            let harmonics = SphericalHarmonics::new(12).unwrap();
            let y = values(12, v, false);
            for (l, m) in (0..=12i64).flat_map(|l| (-l..=l).map(move |m| (l, m))) {
                let polynomial = harmonics.polynomial(l as usize, m).unwrap();
                // Cancellation in the expanded form is worst in the highest degree.
                let scale = length(v).powi(l as i32);
                let error = polynomial.evaluate(v) - y[(l * l + l + m) as usize];
                prop_assert!(error.abs() < 1e-10 * scale, "{} {} {}", l, m, error);
            }
        }

        #[test]
        fn derivatives_match_finite_differences(v in vector(), normalize: bool) {
            let harmonics = SphericalHarmonics::new(8).unwrap();
            let n = harmonics.len();
            let (mut y, mut dy) = (vec![0.0; n], vec![[0.0; 3]; n]);
            let mut ddy = vec![[[0.0; 3]; 3]; n];
            harmonics.evaluate_with_hessians(v, normalize, &mut y, &mut dy, &mut ddy);
            let (mut y2, mut dy2) = (vec![0.0; n], vec![[0.0; 3]; n]);
            harmonics.evaluate_with_gradients(v, normalize, &mut y2, &mut dy2);
            prop_assert_eq!(&y, &values(8, v, normalize));
            for (a, b) in dy.iter().flatten().zip(dy2.iter().flatten()) {
                prop_assert!(close(*a, *b, 1e-13));
            }
            let h = 1e-4 * length(v);
            for axis in 0..3 {
                // Central differences of fourth order: the error is of order (l h / |v|)^4.
                let at = |steps: f64| {
                    let mut moved = v;
                    moved[axis] += steps * h;
                    let (mut y, mut dy) = (vec![0.0; n], vec![[0.0; 3]; n]);
                    harmonics.evaluate_with_gradients(moved, normalize, &mut y, &mut dy);
                    (y, dy)
                };
                let samples = [-2.0, -1.0, 1.0, 2.0].map(at);
                let difference = |f: &dyn Fn(&(Vec<f64>, Vec<[f64; 3]>)) -> f64| {
                    let [a, b, c, d] = [0, 1, 2, 3].map(|k| f(&samples[k]));
                    (8.0 * (c - b) - (d - a)) / (12.0 * h)
                };
                for k in 0..n {
                    let l = (0..).find(|l| (l + 1) * (l + 1) > k).unwrap() as i32;
                    let scale = if normalize { 1.0 } else { length(v).powi(l) };
                    let slope = difference(&|sample| sample.0[k]);
                    let tolerance = 1e-8 * (1.0 + scale) / length(v).min(1.0);
                    prop_assert!((slope - dy[k][axis]).abs() < tolerance, "{} {}", slope, dy[k][axis]);
                    for b in 0..3 {
                        let curvature = difference(&|sample| sample.1[k][b]);
                        let error = (curvature - ddy[k][b][axis]).abs();
                        prop_assert!(error < 1e-7 * (1.0 + scale) / length(v).powi(2).min(1.0));
                        prop_assert!(close(ddy[k][b][axis], ddy[k][axis][b], 1e-11 * (1.0 + scale)));
                    }
                }
            }
        }
    }
}
