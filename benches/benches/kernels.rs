//! Single operations in f32, at the sizes of published models, over the edges of rattled silicon.

#![allow(missing_docs, reason = "criterion_group! makes functions")]
#![allow(clippy::unwrap_used, reason = "a benchmark may fail loudly")]

use std::sync::Arc;

use candle_core::{DType, Device, Tensor, Var};
use criterion::{Criterion, criterion_group, criterion_main};
use tesseral_atoms::neighbors::neighbor_list;
use tesseral_benches::{Random, per, rock_salt, silicon};
use tesseral_o3::{Irrep, Irreps, TensorProductPaths, symmetrised_basis};
use tesseral_ops::autograd::gradient;
use tesseral_ops::linear::{LinearSpec, linear};
use tesseral_ops::spherical_harmonics::{count, spherical_harmonics};
use tesseral_ops::symmetric_contraction::{SymmetricBasis, symmetric_contraction};
use tesseral_ops::tensor_product::{TensorProductSpec, convolution};
use tesseral_potentials::Batch;
use tesseral_potentials::batch::PreparedStructure;

/// The allocator of the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn irreps(text: &str) -> Irreps {
    text.parse().unwrap()
}

fn random(shape: &[usize]) -> Tensor {
    Tensor::from_vec(Random::new(shape.iter().sum::<usize>() as u64).vec(shape.iter().product()), shape, &Device::Cpu).unwrap()
}

/// 216 silicon atoms and their edges within `cutoff` (Å).
fn batch(cutoff: f64) -> Batch {
    let prepared = PreparedStructure::new(&silicon(3), &[14], cutoff).unwrap();
    Batch::new(&[&prepared], &[14], vec![0], Vec::new()).unwrap()
}

fn neighbors(c: &mut Criterion) {
    let mut group = c.benchmark_group("neighbour list");
    for (name, structure) in [("Si 216", silicon(3)), ("Si 4096", silicon(8)), ("NaCl 512", rock_salt(4))] {
        let list = || neighbor_list(&structure.cell.vectors, structure.pbc, &structure.positions, 5.0).unwrap();
        per(&mut group, &format!("{name}, 5 Å (per atom)"), structure.len(), list);
    }
}

/// The sum of a result times fixed numbers, to be differentiated.
fn loss(result: &Tensor) -> Tensor {
    (result * random(result.dims())).unwrap().sum_all().unwrap()
}

fn harmonics(c: &mut Criterion) {
    let mut group = c.benchmark_group("spherical harmonics");
    let batch = batch(5.0);
    let vectors = Var::from_tensor(&batch.vectors_tensor(DType::F32, &Device::Cpu).unwrap()).unwrap();
    for lmax in [2, 3] {
        let evaluate = || spherical_harmonics(vectors.as_tensor(), lmax, true).unwrap();
        per(&mut group, &format!("lmax {lmax}, forward (per edge)"), batch.vectors.len(), evaluate);
        let loss = loss(&evaluate());
        per(&mut group, &format!("lmax {lmax}, adjoint (per edge)"), batch.vectors.len(), || gradient(&loss, &vectors, "loss").unwrap());
    }
}

fn convolutions(c: &mut Criterion) {
    let mut group = c.benchmark_group("convolution");
    for (name, features, edge, weights, cutoff) in [
        ("SevenNet-0 layer 3", "128x0e+64x1e+32x2e", "1x0e+1x1e+1x2e", 960, 5.0),
        ("MACE medium layer 2", "128x0e+128x1o", "1x0e+1x1o+1x2e+1x3o", 1280, 6.0),
    ] {
        let (features, edge) = (irreps(features), irreps(edge));
        let hidden = 64;
        // Messages have the irreps of the edge.
        let paths = TensorProductPaths::new(&features, &edge, |irrep| edge.contains(irrep)).unwrap();
        let spec = Arc::new(TensorProductSpec::new(&paths).unwrap());
        assert_eq!(spec.weight_numel, weights, "{name}: not the paths of the published model");
        let batch = batch(cutoff);
        let (atoms, edges) = (batch.num_atoms(), batch.vectors.len());
        let x = Var::from_tensor(&random(&[atoms, features.dim()])).unwrap();
        let q = Var::from_tensor(&random(&[edges, count(edge.len() - 1) + hidden])).unwrap();
        let w = random(&[hidden, spec.weight_numel]);
        let evaluate = || convolution(x.as_tensor(), q.as_tensor(), &w, &spec, &batch.graph).unwrap();
        per(&mut group, &format!("{name}, forward (per edge)"), edges, evaluate);
        let loss = loss(&evaluate());
        per(&mut group, &format!("{name}, adjoint (per edge)"), edges, || gradient(&loss, &x, "loss").unwrap());
    }
}

fn contraction(c: &mut Criterion) {
    let mut group = c.benchmark_group("symmetric contraction");
    let messages = irreps("1x0e+1x1o+1x2e+1x3o");
    let blocks: Vec<_> = [Irrep::even(0), Irrep::odd(1)]
        .iter()
        .map(|&out| (1..=3).map(|correlation| symmetrised_basis(&messages, out, correlation).unwrap()).collect())
        .collect();
    let basis = SymmetricBasis::new(&blocks, 1e-12).unwrap();
    let batch = batch(5.0);
    let (atoms, channels) = (batch.num_atoms(), 128);
    let weights: Vec<Tensor> = basis.paths().map(|paths| random(&[1, paths, channels])).collect();
    let coefficients = basis.coefficients(&weights, &[0]).unwrap();
    let x = Var::from_tensor(&random(&[atoms, messages.dim(), channels])).unwrap();
    let evaluate = || symmetric_contraction(x.as_tensor(), &coefficients, basis.spec(), &batch.one_group).unwrap();
    per(&mut group, "MACE medium, L = 0 + 1, forward (per atom)", atoms, evaluate);
    let loss = loss(&evaluate());
    per(&mut group, "MACE medium, L = 0 + 1, adjoint (per atom)", atoms, || gradient(&loss, &x, "loss").unwrap());
}

fn linears(c: &mut Criterion) {
    let mut group = c.benchmark_group("linear");
    let batch = batch(5.0);
    for (name, from, to) in [
        ("SevenNet-0 layer 3, messages", "224x0e+384x1e+352x2e", "224x0e+64x1e+32x2e"),
        ("MACE medium, features", "128x0e+128x1o", "128x0e+128x1o"),
    ] {
        let (from, to) = (irreps(from), irreps(to));
        let spec = Arc::new(LinearSpec::new(&from, &to, 1, 0));
        let x = Var::from_tensor(&random(&[batch.num_atoms(), from.dim()])).unwrap();
        let w = random(&[1, spec.weight_numel]);
        let evaluate = || linear(x.as_tensor(), &w, &spec, None).unwrap();
        per(&mut group, &format!("{name}, forward (per atom)"), batch.num_atoms(), evaluate);
        let loss = loss(&evaluate());
        per(&mut group, &format!("{name}, adjoint (per atom)"), batch.num_atoms(), || gradient(&loss, &x, "loss").unwrap());
    }
}

fn all(c: &mut Criterion) {
    tesseral_ops::runtime::prepare_evaluation();
    neighbors(c);
    harmonics(c);
    convolutions(c);
    contraction(c);
    linears(c);
}

criterion_group!(benches, all);
criterion_main!(benches);
