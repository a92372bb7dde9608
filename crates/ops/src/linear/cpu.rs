//! Blocks of rows through `gemm`, one task a block: the partition depends on shapes alone, so results do not depend on threads.

use rayon::prelude::*;

use super::{Groups, Instruction, LinearSpec};
use crate::real::Real;

/// Rows of one task.
const BLOCK: usize = 64;

/// The rows a task works on: consecutive ones, or a part of one group.
enum Rows<'a> {
    Consecutive(std::ops::Range<usize>),
    Listed(&'a [u32]),
}

impl Rows<'_> {
    fn len(&self) -> usize {
        match self {
            Rows::Consecutive(range) => range.len(),
            Rows::Listed(list) => list.len(),
        }
    }

    fn get(&self, k: usize) -> usize {
        match self {
            Rows::Consecutive(range) => range.start + k,
            Rows::Listed(list) => list[k] as usize,
        }
    }
}

/// `(group, rows)` in order, at most `block` rows each.
fn partition(n: usize, groups: Option<&Groups>, block: usize) -> Vec<(usize, Rows<'_>)> {
    match groups {
        None => (0..n).step_by(block).map(|s| (0, Rows::Consecutive(s..n.min(s + block)))).collect(),
        Some(groups) => {
            (0..groups.len()).flat_map(|g| groups.order()[groups.range(g)].chunks(block).map(move |rows| (g, Rows::Listed(rows)))).collect()
        }
    }
}

/// Copies a block of channels of every row and component into `[rows · components, mul]`, scaled.
fn gather<T: Real>(x: &[T], dim: usize, offset: usize, width: usize, rows: &Rows<'_>, scale: T, out: &mut Vec<T>) {
    out.clear();
    for k in 0..rows.len() {
        let start = rows.get(k) * dim + offset;
        out.extend(x[start..start + width].iter().map(|&v| v * scale));
    }
}

fn scale<T: Real>(i: &Instruction) -> T {
    T::of(i.scale)
}

/// `x` `[N, dim_in]`, `weights` `[groups, numel]` → `[N, dim_out]`.
pub(crate) fn forward<T: Real>(spec: &LinearSpec, x: &[T], weights: &[T], n: usize, groups: Option<&Groups>) -> Vec<T> {
    apply(spec, x, weights, n, groups, false)
}

/// `g` `[N, dim_out]`, `weights` `[groups, numel]` → `[N, dim_in]`: the transposed map.
pub(crate) fn adjoint_features<T: Real>(spec: &LinearSpec, g: &[T], weights: &[T], n: usize, groups: Option<&Groups>) -> Vec<T> {
    apply(spec, g, weights, n, groups, true)
}

fn apply<T: Real>(spec: &LinearSpec, x: &[T], weights: &[T], n: usize, groups: Option<&Groups>, transposed: bool) -> Vec<T> {
    let (dim_x, dim_y) = if transposed { (spec.dim_out, spec.dim_in) } else { (spec.dim_in, spec.dim_out) };
    let mut sorted = vec![T::zero(); n * dim_y];
    let parts = partition(n, groups, BLOCK);
    let mut jobs = Vec::with_capacity(parts.len());
    let mut rest = sorted.as_mut_slice();
    for (group, rows) in parts {
        let (mine, others) = std::mem::take(&mut rest).split_at_mut(rows.len() * dim_y);
        rest = others;
        jobs.push((group, rows, mine));
    }
    jobs.into_par_iter().for_each(|(group, rows, y)| {
        let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
        for i in &spec.instructions {
            let w = &weights[group * spec.weight_numel + i.weight_offset..][..i.mul_in * i.mul_out];
            let (x_offset, y_offset, mul_x, mul_y, strides) = if transposed {
                (i.out_offset, i.in_offset, i.mul_out, i.mul_in, (1, i.mul_out))
            } else {
                (i.in_offset, i.out_offset, i.mul_in, i.mul_out, (i.mul_out, 1))
            };
            let width = i.components * mul_y;
            gather(x, dim_x, x_offset, i.components * mul_x, &rows, scale(i), &mut inputs);
            let m = rows.len() * i.components;
            outputs.clear();
            outputs.resize(m * mul_y, T::zero());
            T::gemm(m, mul_y, mul_x, (&mut outputs, mul_y), false, (&inputs, mul_x, 1), (w, strides.0, strides.1));
            for k in 0..rows.len() {
                let row = &mut y[k * dim_y + y_offset..][..width];
                for (a, &b) in row.iter_mut().zip(&outputs[k * width..(k + 1) * width]) {
                    *a += b;
                }
            }
        }
    });
    match groups {
        None => sorted,
        Some(groups) => {
            let mut y = vec![T::zero(); n * dim_y];
            for (k, &row) in groups.order().iter().enumerate() {
                y[row as usize * dim_y..][..dim_y].copy_from_slice(&sorted[k * dim_y..(k + 1) * dim_y]);
            }
            y
        }
    }
}

/// `x` `[N, dim_in]`, `g` `[N, dim_out]` → `[groups, numel]`.
///
/// Rows are summed in a fixed number of segments, and those in order.
pub(crate) fn adjoint_weights<T: Real>(spec: &LinearSpec, x: &[T], g: &[T], n: usize, groups: Option<&Groups>) -> Vec<T> {
    let count = groups.map_or(1, Groups::len);
    let segment = BLOCK.max(n.div_ceil(16));
    let partial: Vec<(usize, Vec<T>)> = partition(n, groups, segment)
        .into_par_iter()
        .map(|(group, rows)| {
            let mut w = vec![T::zero(); spec.weight_numel];
            let (mut left, mut right) = (Vec::new(), Vec::new());
            for i in &spec.instructions {
                gather(x, spec.dim_in, i.in_offset, i.components * i.mul_in, &rows, scale(i), &mut left);
                gather(g, spec.dim_out, i.out_offset, i.components * i.mul_out, &rows, T::one(), &mut right);
                let block = &mut w[i.weight_offset..][..i.mul_in * i.mul_out];
                T::gemm(
                    i.mul_in,
                    i.mul_out,
                    rows.len() * i.components,
                    (block, i.mul_out),
                    false,
                    (&left, 1, i.mul_in),
                    (&right, i.mul_out, 1),
                );
            }
            (group, w)
        })
        .collect();
    let mut total = vec![T::zero(); count * spec.weight_numel];
    for (group, w) in partial {
        for (t, v) in total[group * spec.weight_numel..].iter_mut().zip(w) {
            *t += v;
        }
    }
    total
}
