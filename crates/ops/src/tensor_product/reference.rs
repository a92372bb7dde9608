//! Plain loops in f64.

use super::TensorProductSpec;
use crate::graph::Graph;

/// `x` `[N, dim_in]`, `q` `[E, dim_edge + hidden]`, `w` `[hidden, weight_numel]` → `[N, dim_out]`.
pub fn forward(spec: &TensorProductSpec, graph: &Graph, x: &[f64], q: &[f64], w: &[f64], hidden: usize) -> Vec<f64> {
    let mut out = vec![0.0; graph.num_atoms() * spec.dim_out];
    for e in 0..graph.num_edges() {
        let (i, j) = (graph.centers()[e] as usize, graph.neighbors()[e] as usize);
        let (y, h) = q[e * (spec.dim_edge + hidden)..][..spec.dim_edge + hidden].split_at(spec.dim_edge);
        for path in &spec.paths {
            for u in 0..path.mul {
                let r: f64 = (0..hidden).map(|k| h[k] * w[k * spec.weight_numel + path.weight_offset + u]).sum();
                for &(m1, m2, m3, c) in &path.coefficients {
                    out[i * spec.dim_out + path.out_offset + m3 * path.out_channels + path.out_channel + u] +=
                        c * r * y[path.edge_offset + m2] * x[j * spec.dim_in + path.in_offset + m1 * path.mul + u];
                }
            }
        }
    }
    out
}
