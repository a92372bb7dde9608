//! Fast kernels: sixteen edges at a time through the recursions of the solid harmonics.
//!
//! With (X, Y, Z) = (z, x, y) the harmonics are Y_{l,±m} = F_lm(Z, r²)·{A_m, B_m}(X, Y), A_m + iB_m = (X + iY)^m, and
//! F_lm = a_lm Z F_{l-1,m} − b_lm r² F_{l-2,m}. Derivatives of solid harmonics of degree l are combinations of at most two solid harmonics
//! of degree l−1 (the `Ladder`), so every derivative is made from the values themselves.

use rayon::prelude::*;

use super::{MIN_LENGTH, count};
use crate::real::Real;
use crate::simd::{Fma, Kernel, dispatch};

/// Edges that go through the recursions side by side.
const LANES: usize = 16;
/// Edges in one parallel task.
const BLOCK: usize = 256;

type Lanes<T> = [T; LANES];

/// The derivatives of one harmonic: ∂x = `c0·Y[t0] + c1·Y[t1]`, ∂y = `c2·Y[t2]`, ∂z = `c3·Y[t3] + c4·Y[t4]`.
#[derive(Clone, Copy)]
pub(super) struct Ladder<T> {
    pub(super) to: [usize; 5],
    pub(super) coefficient: [T; 5],
}

/// Constants of the recursions for one `lmax`.
pub(super) struct Tables<T> {
    lmax: usize,
    /// F_mm.
    pub(super) diagonal: Vec<T>,
    /// (a_lm, b_lm) for m = 0.., l = m+1..=lmax.
    pub(super) recursion: Vec<(T, T)>,
    /// One for each harmonic of degree 1 and up, in order.
    pub(super) ladder: Vec<Ladder<T>>,
}

impl<T: Real> Tables<T> {
    pub(super) fn new(lmax: usize) -> Self {
        let norm = |l: usize| ((2 * l + 1) as f64).sqrt();
        let (mut diagonal, mut recursion) = (Vec::new(), Vec::new());
        // P_mm = (2m-1)!!/√((2m)!) of the definitions, times √2 for m > 0 and the component normalisation.
        let mut p_mm = 1.0;
        for m in 0..=lmax {
            if m > 0 {
                p_mm *= ((2 * m - 1) as f64 / (2 * m) as f64).sqrt();
            }
            diagonal.push(T::of(norm(m) * p_mm * if m > 0 { std::f64::consts::SQRT_2 } else { 1.0 }));
            for l in m + 1..=lmax {
                let width = (((l - m) * (l + m)) as f64).sqrt();
                let a = (2 * l - 1) as f64 / width * norm(l) / norm(l - 1);
                let b = if l < m + 2 { 0.0 } else { (((l - 1 - m) * (l - 1 + m)) as f64).sqrt() / width * norm(l) / norm(l - 2) };
                recursion.push((T::of(a), T::of(b)));
            }
        }
        let mut ladder = Vec::new();
        for l in 1..=lmax as i64 {
            for m in -l..=l {
                ladder.push(Ladder::new(l, m));
            }
        }
        Self { lmax, diagonal, recursion, ladder }
    }

    /// Values of all harmonics at sixteen points.
    #[inline(always)]
    fn evaluate<F: Fma>(&self, [x, y, z]: &[Lanes<T>; 3], lmax: usize, out: &mut [Lanes<T>]) {
        let mut r2 = [T::zero(); LANES];
        for k in 0..LANES {
            r2[k] = F::fma(x[k], x[k], F::fma(y[k], y[k], z[k] * z[k]));
        }
        let (mut cos, mut sin) = ([T::one(); LANES], [T::zero(); LANES]);
        let mut row = 0;
        for m in 0..=lmax {
            let mut previous = [T::zero(); LANES];
            let mut current = [self.diagonal[m]; LANES];
            store(&current, &cos, &sin, m, m, out);
            for l in m + 1..=lmax {
                let (a, b) = self.recursion[row + l - m - 1];
                let mut next = [T::zero(); LANES];
                for k in 0..LANES {
                    next[k] = F::fma(a * y[k], current[k], -(b * r2[k] * previous[k]));
                }
                previous = current;
                current = next;
                store(&current, &cos, &sin, l, m, out);
            }
            row += self.lmax - m;
            for k in 0..LANES {
                let (c, s) = (cos[k], sin[k]);
                cos[k] = F::fma(z[k], c, -(x[k] * s));
                sin[k] = F::fma(z[k], s, x[k] * c);
            }
        }
    }

    /// The gradients of harmonic `i` (counted from degree 1) from the values of degree l−1.
    #[inline(always)]
    fn gradient<F: Fma>(&self, i: usize, values: &[Lanes<T>]) -> [Lanes<T>; 3] {
        let Ladder { to, coefficient: c } = self.ladder[i];
        let [v0, v1, v2, v3, v4] = to.map(|t| &values[t]);
        let mut g = [[T::zero(); LANES]; 3];
        for k in 0..LANES {
            g[0][k] = F::fma(c[0], v0[k], c[1] * v1[k]);
            g[1][k] = c[2] * v2[k];
            g[2][k] = F::fma(c[3], v3[k], c[4] * v4[k]);
        }
        g
    }

    /// ∇⟨g, Y⟩ from the values of Y and g.
    #[inline(always)]
    fn contract_gradient<F: Fma>(&self, g: &[Lanes<T>], values: &[Lanes<T>]) -> [Lanes<T>; 3] {
        let mut sum = [[T::zero(); LANES]; 3];
        for i in 0..self.ladder.len() {
            let gradient = self.gradient::<F>(i, values);
            for axis in 0..3 {
                for k in 0..LANES {
                    sum[axis][k] = F::fma(g[i + 1][k], gradient[axis][k], sum[axis][k]);
                }
            }
        }
        sum
    }
}

impl<T: Real> Ladder<T> {
    /// From the ladder relations of Racah-normalised solid harmonics R_lm (no Condon–Shortley phase, m ≥ 0):
    /// ∂_Z R_lm = √(l²−m²) R_{l-1,m}; (∂_X + i∂_Y) R_lm = −√((l−m)(l−m−1)) R_{l-1,m+1}; (∂_X − i∂_Y) R_lm = √((l+m)(l+m−1)) R_{l-1,m-1}.
    fn new(l: i64, m: i64) -> Self {
        let (sign, n) = (if m < 0 { -1 } else { 1 }, m.abs());
        let scale = ((2 * l + 1) as f64 / (2 * l - 1) as f64).sqrt();
        let root = |value: i64| (value.max(0) as f64).sqrt();
        let index = |m: i64| if m.abs() < l { ((l - 1) * (l - 1) + l - 1 + m) as usize } else { 0 };
        // Half, and 1/√2 where the harmonic of order 0, which has no √2 of its own, takes part.
        let (half, zero) = (0.5 * scale, std::f64::consts::FRAC_1_SQRT_2 * scale);
        let up = root((l - n) * (l - n - 1));
        let down = root((l + n) * (l + n - 1));
        // ∂x is ∂_Y and swaps cosine and sine; ∂z is ∂_X and keeps them.
        let (x, z) = match (n, sign) {
            (0, _) => ([(-1, -zero * up), (0, 0.0)], [(1, -zero * up), (0, 0.0)]),
            (1, 1) => ([(-2, -half * up), (0, 0.0)], [(2, -half * up), (0, zero * down)]),
            (1, _) => ([(2, half * up), (0, zero * down)], [(-2, -half * up), (0, 0.0)]),
            (_, 1) => ([(-n - 1, -half * up), (1 - n, -half * down)], [(n + 1, -half * up), (n - 1, half * down)]),
            _ => ([(n + 1, half * up), (n - 1, half * down)], [(-n - 1, -half * up), (1 - n, half * down)]),
        };
        let y = (m, scale * root(l * l - n * n));
        let terms = [x[0], x[1], y, z[0], z[1]];
        Self { to: terms.map(|t| index(t.0)), coefficient: terms.map(|t| T::of(t.1)) }
    }
}

/// Y_{l,m} = F·A_m and Y_{l,-m} = F·B_m.
#[inline(always)]
fn store<T: Real>(f: &Lanes<T>, cos: &Lanes<T>, sin: &Lanes<T>, l: usize, m: usize, out: &mut [Lanes<T>]) {
    let center = l * l + l;
    for k in 0..LANES {
        out[center + m][k] = f[k] * cos[k];
    }
    if m > 0 {
        for k in 0..LANES {
            out[center - m][k] = f[k] * sin[k];
        }
    }
}

/// Sixteen points and how they depend on the vectors.
struct Frame<T> {
    /// The points at which the polynomials are evaluated: v, or the unit vector p = v/|v|.
    point: [Lanes<T>; 3],
    /// 1/|v|; 0 where v has no direction, so that derivatives vanish there.
    scale: Lanes<T>,
}

impl<T: Real> Frame<T> {
    #[inline(always)]
    fn new<F: Fma>(v: [Lanes<T>; 3], normalize: bool) -> Self {
        let mut frame = Self { point: v, scale: [T::one(); LANES] };
        if normalize {
            for k in 0..LANES {
                let r = F::fma(v[0][k], v[0][k], F::fma(v[1][k], v[1][k], v[2][k] * v[2][k])).sqrt();
                let regular = r > T::of(MIN_LENGTH);
                let inverse = T::one() / if regular { r } else { T::of(MIN_LENGTH) };
                frame.scale[k] = if regular { inverse } else { T::zero() };
                for axis in 0..3 {
                    frame.point[axis][k] = v[axis][k] * inverse;
                }
            }
        }
        frame
    }

    #[inline(always)]
    fn along(&self, q: &[Lanes<T>; 3]) -> Lanes<T> {
        let [x, y, z] = &self.point;
        let mut dot = [T::zero(); LANES];
        for k in 0..LANES {
            dot[k] = x[k] * q[0][k] + y[k] * q[1][k] + z[k] * q[2][k];
        }
        dot
    }

    /// The symmetric Jacobian of the unit vector applied to q: (q − p(p·q))/|v|.
    #[inline(always)]
    fn jacobian(&self, q: &[Lanes<T>; 3]) -> [Lanes<T>; 3] {
        let along = self.along(q);
        let mut out = *q;
        for axis in 0..3 {
            for k in 0..LANES {
                out[axis][k] = (q[axis][k] - self.point[axis][k] * along[k]) * self.scale[k];
            }
        }
        out
    }

    /// ∇_v ⟨u, J(v) q⟩ = −(p ⟨u, Jq⟩ + (p·q) Ju + (p·u) Jq)/|v|.
    #[inline(always)]
    fn curvature(&self, q: &[Lanes<T>; 3], u: &[Lanes<T>; 3]) -> [Lanes<T>; 3] {
        let (jq, ju) = (self.jacobian(q), self.jacobian(u));
        let (pq, pu) = (self.along(q), self.along(u));
        let mut out = [[T::zero(); LANES]; 3];
        for axis in 0..3 {
            for k in 0..LANES {
                let ujq = u[0][k] * jq[0][k] + u[1][k] * jq[1][k] + u[2][k] * jq[2][k];
                let sum = self.point[axis][k] * ujq + pq[k] * ju[axis][k] + pu[k] * jq[axis][k];
                out[axis][k] = -sum * self.scale[k];
            }
        }
        out
    }
}

/// Rows `start..start+LANES` of `[E, n]`, transposed; rows beyond the end repeat a harmless value.
#[inline(always)]
fn load<T: Real>(rows: &[T], n: usize, start: usize, filler: T, out: &mut [Lanes<T>]) {
    let edges = (rows.len() / n - start).min(LANES);
    for i in 0..n {
        out[i] = [filler; LANES];
    }
    for k in 0..edges {
        for (i, &value) in rows[(start + k) * n..(start + k + 1) * n].iter().enumerate() {
            out[i][k] = value;
        }
    }
}

#[inline(always)]
fn load3<T: Real>(rows: &[T], start: usize) -> [Lanes<T>; 3] {
    let mut out = [[T::one(); LANES]; 3];
    load(rows, 3, start, T::one(), &mut out);
    out
}

#[inline(always)]
fn unload<T: Real>(lanes: &[Lanes<T>], n: usize, start: usize, rows: &mut [T]) {
    let edges = (rows.len() / n - start).min(LANES);
    for k in 0..edges {
        for (i, value) in rows[(start + k) * n..(start + k + 1) * n].iter_mut().enumerate() {
            *value = lanes[i][k];
        }
    }
}

/// What is computed for a block of edges.
#[derive(Clone, Copy)]
enum Map<'a, T> {
    Evaluate,
    Adjoint { g: &'a [T] },
    Tangent { u: &'a [T] },
    AdjointTangent { g: &'a [T], u: &'a [T] },
}

struct Block<'a, T> {
    tables: &'a Tables<T>,
    normalize: bool,
    vectors: &'a [T],
    map: Map<'a, T>,
    out: &'a mut [T],
    /// Room for the values and for one more row of lanes a harmonic.
    buffers: (&'a mut Vec<Lanes<T>>, &'a mut Vec<Lanes<T>>),
}

impl<T: Real> Kernel for Block<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<F: Fma>(self) {
        let Self { tables, normalize, vectors, map, out, buffers: (values, g) } = self;
        let lmax = tables.lmax;
        let n = count(lmax);
        values.resize(n, [T::zero(); LANES]);
        let mut lowered = Vec::new();
        if let Map::Adjoint { .. } | Map::AdjointTangent { .. } = map {
            g.resize(n, [T::zero(); LANES]);
        }
        for start in (0..vectors.len() / 3).step_by(LANES) {
            let frame = Frame::new::<F>(load3(vectors, start), normalize);
            match map {
                Map::Evaluate => {
                    tables.evaluate::<F>(&frame.point, lmax, values);
                    unload(values, n, start, out);
                }
                Map::Adjoint { g: rows } => {
                    tables.evaluate::<F>(&frame.point, lmax.saturating_sub(1), values);
                    load(rows, n, start, T::zero(), g);
                    let mut q = tables.contract_gradient::<F>(g, values);
                    if normalize {
                        q = frame.jacobian(&q);
                    }
                    unload(&q, 3, start, out);
                }
                Map::Tangent { u } => {
                    tables.evaluate::<F>(&frame.point, lmax.saturating_sub(1), values);
                    let mut u = load3(u, start);
                    if normalize {
                        u = frame.jacobian(&u);
                    }
                    // Degrees downwards: the values of a degree are no longer needed once the one above is done.
                    for i in (0..tables.ladder.len()).rev() {
                        let d = tables.gradient::<F>(i, values);
                        for k in 0..LANES {
                            values[i + 1][k] = F::fma(u[0][k], d[0][k], F::fma(u[1][k], d[1][k], u[2][k] * d[2][k]));
                        }
                    }
                    values[0] = [T::zero(); LANES];
                    unload(values, n, start, out);
                }
                Map::AdjointTangent { g: rows, u } => {
                    tables.evaluate::<F>(&frame.point, lmax.saturating_sub(1), values);
                    load(rows, n, start, T::zero(), g);
                    let u = load3(u, start);
                    let ju = if normalize { frame.jacobian(&u) } else { u };
                    // ⟨g, (ju·∇)Y⟩ = ⟨lowered, Y⟩ with `lowered` one degree below, whose gradient is taken in the same way.
                    lowered.clear();
                    lowered.resize(n, [T::zero(); LANES]);
                    for (i, Ladder { to, coefficient }) in tables.ladder.iter().enumerate() {
                        for (term, axis) in [0, 0, 1, 2, 2].into_iter().enumerate() {
                            for k in 0..LANES {
                                lowered[to[term]][k] = F::fma(coefficient[term] * ju[axis][k], g[i + 1][k], lowered[to[term]][k]);
                            }
                        }
                    }
                    let mut h = tables.contract_gradient::<F>(&lowered, values);
                    if normalize {
                        let q = tables.contract_gradient::<F>(g, values);
                        let (projected, curved) = (frame.jacobian(&h), frame.curvature(&q, &u));
                        for axis in 0..3 {
                            for k in 0..LANES {
                                h[axis][k] = projected[axis][k] + curved[axis][k];
                            }
                        }
                    }
                    unload(&h, 3, start, out);
                }
            }
        }
    }
}

fn run<T: Real>(vectors: &[T], lmax: usize, normalize: bool, map: Map<'_, T>, out: &mut [T]) {
    let edges = vectors.len() / 3;
    let n = count(lmax);
    let width = match map {
        Map::Evaluate | Map::Tangent { .. } => n,
        Map::Adjoint { .. } | Map::AdjointTangent { .. } => 3,
    };
    assert_eq!(vectors.len(), 3 * edges, "spherical harmonics: vectors are [E, 3]");
    assert_eq!(out.len(), width * edges, "spherical harmonics: the output is [{edges}, {width}]");
    let part = |rows: &'_ [T], width: usize, block: usize| -> std::ops::Range<usize> {
        (block * BLOCK * width)..rows.len().min((block + 1) * BLOCK * width)
    };
    let tables = Tables::new(lmax);
    out.par_chunks_mut(BLOCK * width).enumerate().for_each(|(block, out)| {
        let map = match map {
            Map::Evaluate => Map::Evaluate,
            Map::Adjoint { g } => Map::Adjoint { g: &g[part(g, n, block)] },
            Map::Tangent { u } => Map::Tangent { u: &u[part(u, 3, block)] },
            Map::AdjointTangent { g, u } => Map::AdjointTangent { g: &g[part(g, n, block)], u: &u[part(u, 3, block)] },
        };
        dispatch(Block {
            tables: &tables,
            normalize,
            vectors: &vectors[part(vectors, 3, block)],
            map,
            out,
            buffers: (&mut Vec::new(), &mut Vec::new()),
        });
    });
}

/// The harmonics up to one degree, with buffers: evaluated on this thread, without allocation after the first call.
pub struct Harmonics<T> {
    tables: Tables<T>,
    normalize: bool,
    values: Vec<Lanes<T>>,
    g: Vec<Lanes<T>>,
}

impl<T: Real> Harmonics<T> {
    /// Constants for degrees up to `lmax`.
    pub fn new(lmax: usize, normalize: bool) -> Self {
        let n = count(lmax);
        Self { tables: Tables::new(lmax), normalize, values: vec![[T::zero(); LANES]; n], g: vec![[T::zero(); LANES]; n] }
    }

    /// [`evaluate`].
    ///
    /// # Panics
    /// If the lengths do not fit together.
    pub fn evaluate(&mut self, vectors: &[T], out: &mut [T]) {
        self.run(vectors, Map::Evaluate, count(self.tables.lmax), out);
    }

    /// [`adjoint`].
    ///
    /// # Panics
    /// If the lengths do not fit together.
    pub fn adjoint(&mut self, vectors: &[T], g: &[T], out: &mut [T]) {
        assert_eq!(g.len(), vectors.len() / 3 * count(self.tables.lmax), "spherical harmonics: g is [E, n]");
        self.run(vectors, Map::Adjoint { g }, 3, out);
    }

    fn run(&mut self, vectors: &[T], map: Map<'_, T>, width: usize, out: &mut [T]) {
        assert_eq!(vectors.len() % 3, 0, "spherical harmonics: vectors are [E, 3]");
        assert_eq!(out.len(), width * (vectors.len() / 3), "spherical harmonics: the output is [E, {width}]");
        let Self { tables, normalize, values, g } = self;
        dispatch(Block { tables, normalize: *normalize, vectors, map, out, buffers: (values, g) });
    }
}

/// Y(v): `vectors` `[E, 3]` → `out` `[E, n]`.
///
/// # Panics
/// If the lengths of the slices do not fit together; likewise for the other three maps.
pub fn evaluate<T: Real>(vectors: &[T], lmax: usize, normalize: bool, out: &mut [T]) {
    run(vectors, lmax, normalize, Map::Evaluate, out);
}

/// ∇_v ⟨g, Y(v)⟩: `vectors` `[E, 3]`, `g` `[E, n]` → `out` `[E, 3]`.
pub fn adjoint<T: Real>(vectors: &[T], g: &[T], lmax: usize, normalize: bool, out: &mut [T]) {
    assert_eq!(g.len(), vectors.len() / 3 * count(lmax), "spherical harmonics: g is [E, n]");
    run(vectors, lmax, normalize, Map::Adjoint { g }, out);
}

/// (u·∇) Y(v): `vectors` and `u` `[E, 3]` → `out` `[E, n]`.
pub fn tangent<T: Real>(vectors: &[T], u: &[T], lmax: usize, normalize: bool, out: &mut [T]) {
    assert_eq!(u.len(), vectors.len(), "spherical harmonics: u is [E, 3]");
    run(vectors, lmax, normalize, Map::Tangent { u }, out);
}

/// ∇_v ⟨g, (u·∇) Y(v)⟩: `vectors` and `u` `[E, 3]`, `g` `[E, n]` → `out` `[E, 3]`.
pub fn adjoint_tangent<T: Real>(vectors: &[T], g: &[T], u: &[T], lmax: usize, normalize: bool, out: &mut [T]) {
    assert_eq!(g.len(), vectors.len() / 3 * count(lmax), "spherical harmonics: g is [E, n]");
    assert_eq!(u.len(), vectors.len(), "spherical harmonics: u is [E, 3]");
    run(vectors, lmax, normalize, Map::AdjointTangent { g, u }, out);
}
