use tesseral_kernels::{Device, testing};
use tesseral_o3::{Irrep, Irreps, symmetrised_basis};
use tesseral_ops::linear::Groups;
use tesseral_ops::linear::cuda::DeviceGroups;
use tesseral_ops::symmetric_contraction::cuda::{DeviceContraction, TrainedContraction};
use tesseral_ops::symmetric_contraction::{ContractionSpec, SymmetricBasis, Term, cpu, reference};
use tesseral_testkit::Random;

use super::{Precision, error, garbage, random, species};

fn basis(features: &str, outputs: &[Irrep], degree: usize) -> SymmetricBasis {
    let features: Irreps = features.parse().unwrap();
    let block = |&out: &Irrep| (1..=degree).map(|nu| symmetrised_basis(&features, out, nu).unwrap()).collect::<Vec<_>>();
    SymmetricBasis::new(&outputs.iter().map(block).collect::<Vec<_>>(), 1e-12).unwrap()
}

/// Random sparse polynomials with powers, monomials of every degree up to four, terms that occur twice and an output without any.
fn random_spec(dim: usize, random: &mut Random) -> ContractionSpec {
    let mut monomials = Vec::new();
    let mut terms = Vec::new();
    for n in 0..40 {
        let mut monomial: Vec<u16> = (0..n % 4 + 1).map(|_| ((random.number() + 1.0) * 0.4999 * dim as f64) as u16).collect();
        monomial.sort_unstable();
        monomials.push(monomial);
        for output in [0, 1, 3] {
            if random.number() > 0.0 {
                terms.push(Term { output, monomial: monomials.len() - 1 });
            }
        }
    }
    ContractionSpec::new(dim, 4, monomials, terms).unwrap()
}

fn compare<T: Precision>(device: &Device, spec: &ContractionSpec, channels: usize, sizes: &[(usize, usize)]) -> f64 {
    let mut worst: f64 = 0.0;
    for &(n, sets) in sizes {
        let mut numbers = Random::new((n * 131 + channels) as u64);
        let (_, coefficients) = random::<T>(&mut numbers, sets * spec.terms().len() * channels);
        let species = species(n, sets);
        let groups = DeviceGroups::by_species(device, &species, sets).unwrap();
        let (x, wide_x) = random::<T>(&mut numbers, n * spec.dim() * channels);
        let (g, wide_g) = random::<T>(&mut numbers, n * spec.outputs() * channels);
        let contraction = DeviceContraction::<T>::new(device, spec, channels, &coefficients).unwrap();
        let (x, g) = (device.upload(&x).unwrap(), device.upload(&g).unwrap());
        let mut y = garbage::<T>(device, n * spec.outputs() * channels);
        contraction.forward(&x, &mut y, &groups).unwrap();
        let forward = error(&y, &reference::evaluate(spec, channels, &wide_x, &coefficients, &species));
        let mut dx = garbage::<T>(device, n * spec.dim() * channels);
        contraction.adjoint(&x, &g, &mut dx, &groups).unwrap();
        let adjoint = error(&dx, &reference::adjoint(spec, channels, &wide_x, &coefficients, &wide_g, &species));
        assert!(forward.max(adjoint) < T::TOLERANCE, "{n} atoms, {sets} sets, {channels} channels, {}: {forward:e} {adjoint:e}", T::NAME);
        worst = worst.max(forward).max(adjoint);
    }
    worst
}

fn compare_training<T: Precision>(device: &Device, spec: &ContractionSpec, channels: usize, sizes: &[(usize, usize)]) -> f64 {
    let mut worst: f64 = 0.0;
    for &(n, sets) in sizes {
        let mut numbers = Random::new((n * 17 + channels) as u64);
        let (dim, outputs) = (n * spec.dim() * channels, n * spec.outputs() * channels);
        let (c, wide_c) = random::<T>(&mut numbers, sets * spec.terms().len() * channels);
        let (x, wide_x) = random::<T>(&mut numbers, dim);
        let (u, wide_u) = random::<T>(&mut numbers, dim);
        let (g, wide_g) = random::<T>(&mut numbers, outputs);
        let species = species(n, sets);
        let elements = Groups::new(&species, sets).unwrap();
        let wanted = |len: usize, map: &dyn Fn(&mut [f64])| {
            let mut want = vec![0.0; len];
            map(&mut want);
            want
        };
        let want = [
            wanted(outputs, &|out| cpu::evaluate(spec, channels, &wide_x, &wide_c, &elements, out)),
            wanted(outputs, &|out| cpu::tangent(spec, channels, &wide_x, &wide_u, &wide_c, &elements, out)),
            wanted(dim, &|out| cpu::adjoint_tangent(spec, channels, &wide_x, &wide_u, &wide_g, &wide_c, &elements, out)),
            wanted(c.len(), &|out| cpu::adjoint_coefficients(spec, channels, &wide_x, &wide_g, &elements, out)),
            wanted(c.len(), &|out| cpu::tangent_coefficients(spec, channels, &wide_x, &wide_u, &wide_g, &elements, out)),
        ];
        let upload = |v: &[T]| device.upload(v).unwrap();
        let groups = DeviceGroups::by_species(device, &species, sets).unwrap();
        let mut contraction = TrainedContraction::<T>::new(device, spec, channels, sets).unwrap();
        contraction.load(&upload(&c)).unwrap();
        let mut found = want.each_ref().map(|want| garbage::<T>(device, want.len()));
        let (x, u, g) = (upload(&x), upload(&u), upload(&g));
        let chunks = contraction.chunks(device, &groups).unwrap();
        let mut partial = garbage::<T>(device, contraction.partial_len(&chunks));
        contraction.map().forward(&x, &mut found[0], &groups).unwrap();
        contraction.tangent(&x, &u, &mut found[1], &groups).unwrap();
        contraction.adjoint_tangent(&x, &u, &g, &mut found[2], &groups).unwrap();
        contraction.by_coefficients(&x, None, &g, (&groups, &chunks), &mut partial, &mut found[3]).unwrap();
        contraction.by_coefficients(&x, Some(&u), &g, (&groups, &chunks), &mut partial, &mut found[4]).unwrap();
        for (map, (found, want)) in found.iter().zip(&want).enumerate() {
            let error = error(found, want);
            assert!(error < T::TOLERANCE, "map {map}: {n} atoms, {sets} sets, {channels} channels, {}: {error:e}", T::NAME);
            worst = worst.max(error);
        }
    }
    worst
}

fn training<T: Precision>() {
    let Some(device) = testing::device() else { return };
    let (mut worst, mut numbers) = (0.0f64, Random::new(1));
    for (dim, channels) in [(1, 1), (4, 3), (16, 40)] {
        let spec = random_spec(dim, &mut numbers);
        worst = worst.max(compare_training::<T>(&device, &spec, channels, &[(0, 1), (1, 5), (37, 1), (130, 5)]));
    }
    let spec = basis("0e + 1o + 2e", &[Irrep::natural(0), Irrep::natural(1)], 3);
    worst = worst.max(compare_training::<T>(&device, spec.spec(), 32, &[(9, 5)]));
    let nothing = ContractionSpec::new(2, 1, Vec::new(), Vec::new()).unwrap();
    compare_training::<T>(&device, &nothing, 3, &[(5, 1), (5, 5)]);
    eprintln!("largest error {worst:.1e}");
}

#[test]
fn training_in_f64() {
    training::<f64>();
}

#[test]
fn training_in_f32() {
    training::<f32>();
}

fn table<T: Precision>() {
    let Some(device) = testing::device() else { return };
    let mut worst: f64 = 0.0;
    let mut numbers = Random::new(1);
    for (dim, channels) in [(1, 1), (4, 3), (16, 64)] {
        let spec = random_spec(dim, &mut numbers);
        worst = worst.max(compare::<T>(&device, &spec, channels, &[(0, 1), (1, 5), (37, 1), (130, 5)]));
    }
    // MACE with outputs up to 1o.
    let spec = basis("0e + 1o + 2e + 3o", &[Irrep::natural(0), Irrep::natural(1)], 3);
    worst = worst.max(compare::<T>(&device, spec.spec(), 128, &[(9, 5)]));
    eprintln!("largest error {worst:.1e}");
}

#[test]
fn contractions_in_f64() {
    table::<f64>();
}

#[test]
fn contractions_in_f32() {
    table::<f32>();
}

#[test]
fn coefficients_that_do_not_fit_are_an_error() {
    let Some(device) = testing::device() else { return };
    let spec = ContractionSpec::new(1, 1, vec![vec![0]], vec![Term { output: 0, monomial: 0 }]).unwrap();
    assert!(DeviceContraction::<f64>::new(&device, &spec, 2, &[1.0; 3]).is_err());
    let contraction = DeviceContraction::<f64>::new(&device, &spec, 1, &[1.0; 3]).unwrap();
    let groups = DeviceGroups::of_all(&device, 2).unwrap();
    let (x, mut y) = (device.zeros(2).unwrap(), device.zeros(2).unwrap());
    assert!(contraction.forward(&x, &mut y, &groups).is_err(), "three sets, and groups of one");
}
