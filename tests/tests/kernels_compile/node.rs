//! Kernels on atoms, for the shapes of published models.

use tesseral_kernels::{Real, Source};
use tesseral_o3::{Irrep, Irreps, symmetrised_basis};
use tesseral_ops::gate::{Activation, GateSpec, GatedBlock};
use tesseral_ops::spherical_harmonics::cuda::DeviceHarmonics;
use tesseral_ops::symmetric_contraction::SymmetricBasis;
use tesseral_ops::{gate, graph, linear, parameters, radial, rows, symmetric_contraction};

/// Polynomials of degree three in features of both or of natural parity, with outputs of natural parity up to `l_out`.
fn basis(features: &str, l_out: usize, degree: usize) -> SymmetricBasis {
    let features: Irreps = features.parse().expect("irreps as they are written");
    let block = |l: usize| {
        let basis = |nu| symmetrised_basis(&features, Irrep::natural(l), nu).expect("a small basis");
        (1..=degree).map(basis).collect::<Vec<_>>()
    };
    SymmetricBasis::new(&(0..=l_out).map(block).collect::<Vec<_>>(), 1e-12).expect("bases of the same features")
}

fn gates() -> Vec<GateSpec> {
    let (silu, tanh, sigmoid) = (Activation::Silu.e3nn(), Activation::Tanh.e3nn(), Activation::Sigmoid.e3nn());
    let gated = |blocks: &[(usize, usize)]| blocks.iter().map(|&(mul, components)| GatedBlock { mul, components }).collect::<Vec<_>>();
    let gate = |scalars, gates, blocks: &[(usize, usize)]| GateSpec::new(scalars, gates, gated(blocks)).expect("a gate for each channel");
    vec![
        // SevenNet-0: inner layers, the last.
        gate(vec![(128, silu)], vec![(96, silu)], &[(64, 3), (32, 5)]),
        gate(vec![(128, silu)], vec![], &[]),
        // NequIP with both parities.
        gate(vec![(64, tanh), (64, silu)], vec![(192, silu)], &[(64, 3), (64, 3), (32, 5), (32, 5)]),
        // The non-linear block of MACE.
        gate(vec![(128, silu)], vec![(384, sigmoid)], &[(128, 3), (128, 5), (128, 7)]),
    ]
}

fn of<T: Real>() -> Vec<Source> {
    let mut sources = vec![rows::source::<T>(), linear::cuda::source::<T>(), gate::cuda::network_source::<T>()];
    sources.extend(gates().iter().map(gate::cuda::source::<T>));
    // Those of training.
    sources.extend([
        linear::cuda::weights_source::<T>(),
        parameters::source::<T>(),
        graph::cuda::source::<T>(),
        radial::cuda::functions_source::<T>(),
    ]);
    sources.extend([(2, true), (3, true), (3, false)].map(|(lmax, normalize)| DeviceHarmonics::<T>::source(lmax, normalize)));
    // MACE small, medium and large (the last layers are as the small one's), the large one of MACE-OFF, and two small ones.
    let natural = "0e + 1o + 2e + 3o";
    for (features, l_out, degree, channels) in [
        (natural, 0, 3, 128),
        (natural, 1, 3, 128),
        (natural, 2, 3, 128),
        (natural, 2, 3, 192),
        ("0e + 1o + 2e", 1, 2, 4),
        ("0e + 0o + 1e + 1o + 2e + 2o", 1, 3, 8),
    ] {
        let basis = basis(features, l_out, degree);
        sources.push(symmetric_contraction::cuda::source::<T>(basis.spec(), channels));
        // More channels change a constant.
        if channels <= 128 {
            sources.push(symmetric_contraction::cuda::training_source::<T>(basis.spec(), channels));
        }
    }
    sources
}

/// In both precisions.
pub(super) fn sources() -> Vec<Source> {
    [of::<f32>(), of::<f64>()].concat()
}
