//! Plain loops in f64.

use super::LinearSpec;

/// `x` `[N, dim_in]`, `weights` `[groups, weight_numel]`, `group_of[n]` → `[N, dim_out]`.
pub fn forward(spec: &LinearSpec, x: &[f64], weights: &[f64], group_of: &[u32]) -> Vec<f64> {
    let n = group_of.len();
    let mut y = vec![0.0; n * spec.dim_out];
    for row in 0..n {
        let w = &weights[group_of[row] as usize * spec.weight_numel..];
        for i in &spec.instructions {
            for m in 0..i.components {
                for u in 0..i.mul_in {
                    for v in 0..i.mul_out {
                        y[row * spec.dim_out + i.out_offset + m * i.mul_out + v] +=
                            i.scale * w[i.weight_offset + u * i.mul_out + v] * x[row * spec.dim_in + i.in_offset + m * i.mul_in + u];
                    }
                }
            }
        }
    }
    y
}
