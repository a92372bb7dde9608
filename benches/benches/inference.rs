//! The kernels of compiled potentials in f32, at the sizes of published models, over the edges of rattled silicon.

#![allow(missing_docs, reason = "criterion_group! makes functions")]
#![allow(clippy::unwrap_used, reason = "a benchmark may fail loudly")]

use criterion::{BenchmarkGroup, Criterion, criterion_group, criterion_main, measurement::WallTime};
use tesseral_atoms::Structure;
use tesseral_atoms::neighbors::neighbor_list;
use tesseral_benches::{Images, Random, per, silicon};
use tesseral_infer::domain::NeighborRows;
use tesseral_infer::{DomainAtoms, DomainEvaluation, Dtype, Options, Potential, Threads};
use tesseral_o3::{Irreps, Monomials, TensorProductPaths, symmetrised_basis};
use tesseral_ops::radial::table::{Sample, Table};
use tesseral_ops::slab::padded;
use tesseral_ops::spherical_harmonics::cpu::Harmonics;
use tesseral_ops::symmetric_contraction::SymmetricBasis;
use tesseral_ops::symmetric_contraction::sparse::{Layout, Scratch as ContractionScratch, SparseContraction};
use tesseral_ops::tensor_product::TensorProductSpec;
use tesseral_ops::tensor_product::slabs::{Features, Neighborhoods, Scratch, SlabPlan};
use tesseral_potentials::Artifact;

/// The allocator of the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Atoms of a domain.
const ATOMS: usize = 64;

fn irreps(text: &str) -> Irreps {
    text.parse().unwrap()
}

/// One thread, one domain: what a core does with the edges of 64 atoms.
fn convolution(c: &mut Criterion) {
    let mut group = c.benchmark_group("compiled convolution, one thread");
    for (name, features, edge, cutoff) in [
        ("SevenNet-0 layer 3", "128x0e+64x1e+32x2e", "1x0e+1x1e+1x2e", 5.0),
        ("MACE medium layer 2", "128x0e+128x1o", "1x0e+1x1o+1x2e+1x3o", 6.0),
    ] {
        let (features, edge) = (irreps(features), irreps(edge));
        let paths = TensorProductPaths::new(&features, &edge, |irrep| edge.contains(irrep)).unwrap();
        let spec = TensorProductSpec::new(&paths).unwrap();
        let plan = SlabPlan::<f32>::new(&spec);
        let structure = silicon(2);
        assert_eq!(structure.len(), ATOMS);
        let list = neighbor_list(&structure.cell.vectors, structure.pbc, &structure.positions, cutoff).unwrap();
        let edges = list.len();
        let mut random = Random::new(5);
        let mut sample = || {
            let mut numbers = || (0..spec.weight_numel).map(|_| random.uniform()).collect();
            Sample { value: numbers(), first: numbers(), second: numbers() }
        };
        let samples: Vec<Sample> = (0..=256).map(|_| sample()).collect();
        let ends: Vec<[usize; 2]> = (0..256).map(|k| [k, k + 1]).collect();
        let table = Table::<f32>::new(cutoff, &samples, &ends, plan.sections());
        let vectors: Vec<f32> = list.vectors.as_flattened().iter().map(|&x| x as f32).collect();
        let mut harmonics = vec![0.0; edges * spec.dim_edge];
        Harmonics::new(edge.len() - 1, true).evaluate(&vectors, &mut harmonics);
        let length = |v: &[f64; 3]| (v[0] * v[0] + v[1] * v[1] + v[2] * v[2]).sqrt();
        let (cells, t): (Vec<u32>, Vec<f32>) = list.vectors.iter().map(|v| table.locate(length(v))).unzip();
        let offsets: Vec<u32> = list.offsets.iter().map(|&o| o as u32).collect();
        let (tables, all) = (vec![0u16; edges], (0..ATOMS as u32).collect::<Vec<u32>>());
        let neighborhoods =
            Neighborhoods { offsets: &offsets, rows: &list.neighbors, tables: &tables, cells: &cells, t: &t, harmonics: &harmonics };
        let x: Vec<Vec<f32>> = (0..plan.num_blocks())
            .map(|b| {
                let (_, components, _, width) = plan.block(b);
                random.vec(ATOMS * components * width)
            })
            .collect();
        let mut out: Vec<Vec<f32>> = plan.outputs().iter().map(|o| vec![0.0; ATOMS * o.components * o.width]).collect();
        let mut scratch = Scratch::default();
        per(&mut group, &format!("{name}, forward (per edge)"), edges, || {
            let mut views: Vec<&mut [f32]> = out.iter_mut().map(Vec::as_mut_slice).collect();
            for (b, x) in x.iter().enumerate() {
                plan.forward(b, neighborhoods, &[&table], Features::Rows(x, &all), &mut scratch, &mut views);
            }
        });
        let (mut dy, mut dt) = (vec![0.0; harmonics.len()], vec![0.0; edges]);
        let mut dx: Vec<Vec<f32>> = x.iter().map(|x| vec![0.0; x.len()]).collect();
        let g: Vec<&[f32]> = out.iter().map(Vec::as_slice).collect();
        per(&mut group, &format!("{name}, adjoint (per edge)"), edges, || {
            for (b, (x, dx)) in x.iter().zip(&mut dx).enumerate() {
                let to = (&mut dx[..], &mut dy[..], &mut dt[..]);
                plan.adjoint(b, neighborhoods, &[&table], Features::Rows(x, &all), &mut scratch, &g, to);
            }
        });
    }
}

fn contraction(c: &mut Criterion) {
    let mut group = c.benchmark_group("compiled contraction, one thread");
    let (channels, features) = (128, irreps("1x0e+1x1o+1x2e+1x3o"));
    for (name, outputs) in [("MACE medium layer 1", vec!["1x0e", "1x1o"]), ("MACE medium layer 2", vec!["1x0e"])] {
        let bases: Vec<Vec<Monomials>> = outputs
            .iter()
            .map(|out| (1..=3).map(|nu| symmetrised_basis(&features, irreps(out).blocks()[0].irrep, nu).unwrap()).collect())
            .collect();
        let basis = SymmetricBasis::new(&bases, 1e-12).unwrap();
        let spec = basis.spec();
        let plan = SparseContraction::new(spec);
        let mut random = Random::new(3);
        let terms: Vec<f64> = (0..spec.terms().len() * channels).map(|_| random.uniform()).collect();
        let coefficients = plan.coefficients::<f32>(&terms, channels);
        let width = padded::<f32>(channels);
        let (x, g) = (random.vec(ATOMS * spec.dim() * width), random.vec(ATOMS * spec.outputs() * width));
        let (components, out_components) = ([spec.dim()], [spec.outputs()]);
        let (layout, out_layout) = (Layout { components: &components, width }, Layout { components: &out_components, width });
        let (mut out, mut dx) = (vec![0.0; g.len()], vec![0.0; x.len()]);
        let mut scratch = ContractionScratch::default();
        per(&mut group, &format!("{name}, forward (per atom)"), ATOMS, || {
            plan.evaluate(&coefficients, ATOMS, (layout, &[&x]), (out_layout, &mut [&mut out]), &mut scratch);
        });
        per(&mut group, &format!("{name}, gradient (per atom)"), ATOMS, || {
            plan.gradient(&coefficients, ATOMS, (layout, &[&x]), (out_layout, &[&g]), &mut [&mut dx], &mut scratch);
        });
    }
}

/// The same step through the interface for ranks, on as many threads: what ghosts cost where nothing has to be sent.
fn as_a_rank(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, potential: &Potential, structure: &Structure) {
    let images = Images::new(structure, potential.header().cutoff() + 0.5);
    let elements = potential.header().elements();
    let of = |z: u8| elements.iter().position(|&e| e == z).unwrap() as u32;
    let own = structure.numbers.iter().map(|&z| of(z));
    let species: Vec<u32> = own.chain(images.owners.iter().map(|&i| of(structure.numbers[i as usize]))).collect();
    let list = NeighborRows { offsets: &images.offsets, neighbors: &images.neighbors };
    let (positions, owners) = (&images.positions, Some(images.owners.as_slice()));
    let atoms = DomainAtoms { owned: structure.len(), positions, species: &species, tags: None, images: owners, neighbors: Some(&list) };
    let mut calculator = potential.domain(Threads::new(rayon::current_num_threads()).unwrap()).unwrap();
    let mut to = DomainEvaluation::default();
    calculator.evaluate_into(&atoms, None, &mut to).unwrap();
    let held = DomainAtoms { neighbors: None, ..atoms };
    per(group, name, structure.len(), || calculator.evaluate_into(&held, None, &mut to).unwrap());
}

/// A step of a calculator whose neighbour list stays.
fn step(c: &mut Criterion) {
    let artifact = Artifact::from_static(tesseral_models::default_artifact(), "built-in model").unwrap();
    let mut group = c.benchmark_group("compiled step");
    group.sample_size(10);
    for dtype in [Dtype::F32, Dtype::F64] {
        let potential = Potential::new(&artifact, &Options { dtype, ..Options::default() }).unwrap();
        for (name, structure) in [("Si 64", silicon(2)), ("Si 512", silicon(4))] {
            let mut calculator = potential.calculator(0.5).unwrap();
            let name = format!("{}, {dtype:?}, {name} (per atom)", tesseral_models::DEFAULT_MODEL);
            per(&mut group, &name, structure.len(), || calculator.evaluate(&structure).unwrap());
            as_a_rank(&mut group, &format!("{name}, as one rank with its images"), &potential, &structure);
        }
    }
}

criterion_group!(benches, convolution, contraction, step);
criterion_main!(benches);
