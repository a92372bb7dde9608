//! Plain loops in f64, straight from the formula.

use super::ContractionSpec;

/// P: `features` `[N, D, K]`, `coefficients` `[Z, T, K]`, `group_of[i]` the row of coefficients of an atom → `[N, outputs, K]`.
pub fn evaluate(spec: &ContractionSpec, channels: usize, features: &[f64], coefficients: &[f64], group_of: &[u32]) -> Vec<f64> {
    let mut out = vec![0.0; group_of.len() * spec.outputs() * channels];
    for (i, &z) in group_of.iter().enumerate() {
        for (t, term) in spec.terms().iter().enumerate() {
            for k in 0..channels {
                let factor = |&a: &u16| features[(i * spec.dim() + usize::from(a)) * channels + k];
                let product: f64 = spec.monomials()[term.monomial].iter().map(factor).product();
                out[(i * spec.outputs() + term.output) * channels + k] +=
                    coefficients[(z as usize * spec.terms().len() + t) * channels + k] * product;
            }
        }
    }
    out
}

/// ∇_A ⟨g, P⟩ by the product rule: `g` `[N, outputs, K]` → `[N, D, K]`.
pub fn adjoint(spec: &ContractionSpec, channels: usize, features: &[f64], coefficients: &[f64], g: &[f64], group_of: &[u32]) -> Vec<f64> {
    let mut out = vec![0.0; features.len()];
    for (i, &z) in group_of.iter().enumerate() {
        let position = |a: u16, k: usize| (i * spec.dim() + usize::from(a)) * channels + k;
        for (t, term) in spec.terms().iter().enumerate() {
            let monomial = &spec.monomials()[term.monomial];
            for k in 0..channels {
                let weight = coefficients[(z as usize * spec.terms().len() + t) * channels + k]
                    * g[(i * spec.outputs() + term.output) * channels + k];
                for skipped in 0..monomial.len() {
                    let others = monomial.iter().enumerate().filter(|(n, _)| *n != skipped);
                    out[position(monomial[skipped], k)] += weight * others.map(|(_, &a)| features[position(a, k)]).product::<f64>();
                }
            }
        }
    }
    out
}
