//! Fast kernels: rows of features, channels side by side.

use rayon::prelude::*;

use super::GateSpec;
use crate::real::Real;
use crate::simd::{Fma, Kernel, dispatch};

/// Numbers in one parallel task, about.
const TASK: usize = 1 << 15;

/// What is computed for a block of rows.
#[derive(Clone, Copy)]
enum Map<'a, T> {
    Evaluate,
    Adjoint { g: &'a [T] },
    Tangent { u: &'a [T] },
    AdjointTangent { g: &'a [T], u: &'a [T] },
}

struct Rows<'a, T> {
    spec: &'a GateSpec,
    x: &'a [T],
    map: Map<'a, T>,
    out: &'a mut [T],
    /// Room for the activated gates and their first and second derivatives.
    activated: &'a mut [Vec<T>; 3],
}

#[inline(always)]
fn multiply<T: Real>(out: &mut [T], factor: &[T]) {
    for (y, &f) in out.iter_mut().zip(factor) {
        *y *= f;
    }
}

impl<T: Real> Kernel for Rows<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<F: Fma>(self) {
        let Self { spec, x, map, out, activated } = self;
        let (dim_in, dim_out, scalars, gates) = (spec.dim_in(), spec.dim_out(), spec.num_scalars(), spec.num_gates());
        activated.iter_mut().for_each(|a| a.resize(gates, T::zero()));
        let (width_out, orders, scalar_order) = match map {
            Map::Evaluate => (dim_out, 0..1, 0),
            Map::Tangent { .. } => (dim_out, 0..2, 1),
            Map::Adjoint { .. } => (dim_in, 0..2, 1),
            Map::AdjointTangent { .. } => (dim_in, 0..3, 2),
        };
        for (row, (x, out)) in x.chunks_exact(dim_in).zip(out.chunks_exact_mut(width_out)).enumerate() {
            let mut start = 0;
            for &(mul, activation) in &spec.scalars {
                let block = start..start + mul;
                activation.derivative::<T, F>(scalar_order, &x[block.clone()], &mut out[block]);
                start += mul;
            }
            for &(mul, activation) in &spec.gates {
                for order in orders.clone() {
                    let block = &mut activated[order][start - scalars..start - scalars + mul];
                    activation.derivative::<T, F>(order, &x[start..start + mul], block);
                }
                start += mul;
            }
            let [a0, a1, a2] = &*activated;
            match map {
                Map::Evaluate => {
                    let (mut gate, mut v) = (0, 0);
                    for block in &spec.gated {
                        for _ in 0..block.components {
                            let (y, x) = (&mut out[scalars + v..][..block.mul], &x[scalars + gates + v..][..block.mul]);
                            let a = &a0[gate..gate + block.mul];
                            for k in 0..block.mul {
                                y[k] = x[k] * a[k];
                            }
                            v += block.mul;
                        }
                        gate += block.mul;
                    }
                }
                Map::Tangent { u } => {
                    let u = &u[row * dim_in..(row + 1) * dim_in];
                    multiply(&mut out[..scalars], u);
                    let (mut gate, mut v) = (0, 0);
                    for block in &spec.gated {
                        let (a0, a1) = (&a0[gate..gate + block.mul], &a1[gate..gate + block.mul]);
                        let u_gate = &u[scalars + gate..][..block.mul];
                        for _ in 0..block.components {
                            let y = &mut out[scalars + v..][..block.mul];
                            let (x, u) = (&x[scalars + gates + v..][..block.mul], &u[scalars + gates + v..][..block.mul]);
                            for k in 0..block.mul {
                                y[k] = F::fma(u[k], a0[k], x[k] * a1[k] * u_gate[k]);
                            }
                            v += block.mul;
                        }
                        gate += block.mul;
                    }
                }
                Map::Adjoint { g } => {
                    let g = &g[row * dim_out..(row + 1) * dim_out];
                    multiply(&mut out[..scalars], g);
                    let (out_gates, out_gated) = out[scalars..].split_at_mut(gates);
                    out_gates.fill(T::zero());
                    let (mut gate, mut v) = (0, 0);
                    for block in &spec.gated {
                        let (a0, a1) = (&a0[gate..gate + block.mul], &a1[gate..gate + block.mul]);
                        let y_gate = &mut out_gates[gate..gate + block.mul];
                        for _ in 0..block.components {
                            let y = &mut out_gated[v..v + block.mul];
                            let (x, g) = (&x[scalars + gates + v..][..block.mul], &g[scalars + v..][..block.mul]);
                            for k in 0..block.mul {
                                y[k] = g[k] * a0[k];
                                y_gate[k] = F::fma(g[k], x[k], y_gate[k]);
                            }
                            v += block.mul;
                        }
                        multiply(y_gate, a1);
                        gate += block.mul;
                    }
                }
                Map::AdjointTangent { g, u } => {
                    let (g, u) = (&g[row * dim_out..(row + 1) * dim_out], &u[row * dim_in..(row + 1) * dim_in]);
                    multiply(&mut out[..scalars], g);
                    multiply(&mut out[..scalars], u);
                    let (out_gates, out_gated) = out[scalars..].split_at_mut(gates);
                    out_gates.fill(T::zero());
                    let (mut gate, mut v) = (0, 0);
                    for block in &spec.gated {
                        let (a1, a2) = (&a1[gate..gate + block.mul], &a2[gate..gate + block.mul]);
                        let (y_gate, u_gate) = (&mut out_gates[gate..gate + block.mul], &u[scalars + gate..][..block.mul]);
                        for _ in 0..block.components {
                            let y = &mut out_gated[v..v + block.mul];
                            let (x, u) = (&x[scalars + gates + v..][..block.mul], &u[scalars + gates + v..][..block.mul]);
                            let g = &g[scalars + v..][..block.mul];
                            for k in 0..block.mul {
                                y[k] = g[k] * a1[k] * u_gate[k];
                                y_gate[k] = F::fma(g[k], F::fma(u[k], a1[k], x[k] * a2[k] * u_gate[k]), y_gate[k]);
                            }
                            v += block.mul;
                        }
                        gate += block.mul;
                    }
                }
            }
        }
    }
}

fn run<T: Real>(spec: &GateSpec, x: &[T], map: Map<'_, T>, out: &mut [T]) {
    let (dim_in, dim_out) = (spec.dim_in(), spec.dim_out());
    let width = match map {
        Map::Evaluate | Map::Tangent { .. } => dim_out,
        Map::Adjoint { .. } | Map::AdjointTangent { .. } => dim_in,
    };
    if dim_in == 0 || dim_out == 0 {
        return;
    }
    let n = x.len() / dim_in;
    assert!(x.len() == n * dim_in && out.len() == n * width, "gate: slices must be [{n}, {dim_in}] and [{n}, {width}]");
    let rows = TASK.div_ceil(dim_in);
    let part = |a: &[T], width: usize, block: usize| block * rows * width..a.len().min((block + 1) * rows * width);
    out.par_chunks_mut(rows * width).enumerate().for_each(|(block, out)| {
        let map = match map {
            Map::Evaluate => Map::Evaluate,
            Map::Adjoint { g } => Map::Adjoint { g: &g[part(g, dim_out, block)] },
            Map::Tangent { u } => Map::Tangent { u: &u[part(u, dim_in, block)] },
            Map::AdjointTangent { g, u } => Map::AdjointTangent { g: &g[part(g, dim_out, block)], u: &u[part(u, dim_in, block)] },
        };
        dispatch(Rows { spec, x: &x[part(x, dim_in, block)], map, out, activated: &mut Default::default() });
    });
}

/// [`evaluate`] on this thread, with a buffer that is kept.
///
/// # Panics
/// As [`evaluate`].
pub fn evaluate_here<T: Real>(spec: &GateSpec, x: &[T], out: &mut [T], activated: &mut [Vec<T>; 3]) {
    assert!(x.len() * spec.dim_out() == out.len() * spec.dim_in(), "gate: slices must be [N, dim_in] and [N, dim_out]");
    if spec.dim_in() > 0 && spec.dim_out() > 0 {
        dispatch(Rows { spec, x, map: Map::Evaluate, out, activated });
    }
}

/// [`adjoint`] on this thread, with a buffer that is kept.
///
/// # Panics
/// As [`adjoint`].
pub fn adjoint_here<T: Real>(spec: &GateSpec, x: &[T], g: &[T], out: &mut [T], activated: &mut [Vec<T>; 3]) {
    assert!(
        x.len() == out.len() && x.len() * spec.dim_out() == g.len() * spec.dim_in(),
        "gate: slices must be [N, dim_in] and [N, dim_out]"
    );
    if spec.dim_in() > 0 && spec.dim_out() > 0 {
        dispatch(Rows { spec, x, map: Map::Adjoint { g }, out, activated });
    }
}

/// y(x): `[N, dim_in]` → `out` `[N, dim_out]`.
///
/// # Panics
/// If the lengths of the slices do not fit together; likewise for the other three maps.
pub fn evaluate<T: Real>(spec: &GateSpec, x: &[T], out: &mut [T]) {
    run(spec, x, Map::Evaluate, out);
}

/// ∇⟨g, y⟩: `x` `[N, dim_in]`, `g` `[N, dim_out]` → `out` `[N, dim_in]`.
pub fn adjoint<T: Real>(spec: &GateSpec, x: &[T], g: &[T], out: &mut [T]) {
    run(spec, x, Map::Adjoint { g }, out);
}

/// (u·∇)y: `x` and `u` `[N, dim_in]` → `out` `[N, dim_out]`.
pub fn tangent<T: Real>(spec: &GateSpec, x: &[T], u: &[T], out: &mut [T]) {
    run(spec, x, Map::Tangent { u }, out);
}

/// ∇⟨g, (u·∇)y⟩: `x` and `u` `[N, dim_in]`, `g` `[N, dim_out]` → `out` `[N, dim_in]`.
pub fn adjoint_tangent<T: Real>(spec: &GateSpec, x: &[T], g: &[T], u: &[T], out: &mut [T]) {
    run(spec, x, Map::AdjointTangent { g, u }, out);
}
