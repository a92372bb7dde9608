//! Convolutions of published models, and small ones with other irreps.

use tesseral_kernels::{Real, Source};
use tesseral_o3::{Irrep, Irreps, TensorProductPaths};
use tesseral_ops::radial::cuda::DeviceDensity;
use tesseral_ops::tensor_product::TensorProductSpec;
use tesseral_ops::tensor_product::cuda::DeviceConvolution;
use tesseral_ops::tensor_product::cuda::training::TrainingConvolution;

/// Which outputs a convolution has: those of degree up to a limit, or of them those of the parity of harmonics.
#[derive(Clone, Copy)]
enum Outputs {
    UpTo(usize),
    Natural(usize),
}

/// Features, harmonics, outputs, and whether features are one.
const SHAPES: &[(&str, &str, Outputs, bool)] = &[
    // MACE: the first layer, and the layers after it of the sizes small, medium and large.
    ("128x0e", "0e+1o+2e+3o", Outputs::Natural(3), true),
    ("128x0e", "0e+1o+2e+3o", Outputs::Natural(3), false),
    ("128x0e+128x1o", "0e+1o+2e+3o", Outputs::Natural(3), false),
    ("128x0e+128x1o+128x2e", "0e+1o+2e+3o", Outputs::Natural(3), false),
    // MACE-OFF large.
    ("192x0e+192x1o+192x2e", "0e+1o+2e+3o", Outputs::Natural(3), false),
    // SevenNet-0: first, middle and last layers.
    ("128x0e", "0e+1e+2e", Outputs::UpTo(2), false),
    ("128x0e+64x1e+32x2e", "0e+1e+2e", Outputs::UpTo(2), false),
    ("128x0e+64x1e+32x2e", "0e+1e+2e", Outputs::UpTo(0), false),
    // NequIP with both parities.
    ("32x0o+32x0e+32x1o+32x1e+32x2o+32x2e", "0e+1o+2e", Outputs::UpTo(2), false),
    ("4x0e+4x1o", "0e+1o+2e", Outputs::UpTo(2), false),
];

/// SevenNet's middle layer with degree 3, which in f64 needs a few registers more than there are.
const LARGE: (&str, &str, Outputs, bool) = ("128x0e+64x1e+32x2e+32x3e", "0e+1e+2e+3e", Outputs::UpTo(3), false);

/// Of models that are trained: a preset's layers, SevenNet-0's, one with both parities.
const TRAINED: &[(&str, &str, Outputs)] = &[
    ("64x0e", "0e+1o+2e+3o", Outputs::Natural(3)),
    ("64x0e+64x1o", "0e+1o+2e+3o", Outputs::Natural(3)),
    ("128x0e", "0e+1e+2e", Outputs::UpTo(2)),
    ("128x0e+64x1e+32x2e", "0e+1e+2e", Outputs::UpTo(2)),
    ("128x0e+64x1e+32x2e", "0e+1e+2e", Outputs::UpTo(0)),
    ("4x0e+4x1o", "0e+1o+2e", Outputs::UpTo(2)),
];

fn spec(features: &str, edge: &str, outputs: Outputs) -> TensorProductSpec {
    let keep = |out: Irrep| match outputs {
        Outputs::UpTo(l) => out.l <= l,
        Outputs::Natural(l) => out.l <= l && out == format!("{}{}", out.l, ["e", "o"][out.l % 2]).parse().expect("an irrep"),
    };
    let irreps = |text: &str| text.parse::<Irreps>().expect("irreps as they are written");
    let paths = TensorProductPaths::new(&irreps(features), &irreps(edge), keep).expect("irreps fit together");
    TensorProductSpec::new(&paths).expect("degrees are low")
}

fn of<T: Real>() -> Vec<Source> {
    let mut sources = vec![DeviceDensity::<T>::source()];
    for (features, edge, outputs, unit) in SHAPES.iter().copied().chain((T::NAME == "f32").then_some(LARGE)) {
        sources.extend(DeviceConvolution::<T>::sources(&spec(features, edge, outputs), edge.split('+').count() - 1, true, unit));
    }
    for &(features, edge, outputs) in TRAINED {
        sources.extend(TrainingConvolution::<T>::sources(&spec(features, edge, outputs)));
    }
    sources
}

/// In both precisions.
pub(crate) fn sources() -> Vec<Source> {
    [of::<f32>(), of::<f64>()].concat()
}
