use super::*;
use crate::real::Real;
use crate::testing::{Random, check_derivatives, relative_error, to_vec, with_threads};
use candle_core::{DType, Device};
use tesseral_o3::{Irrep, Irreps, Monomials, symmetrised_basis};

fn irrep(name: &str) -> Irrep {
    let irreps: Irreps = name.parse().unwrap();
    irreps.iter().next().unwrap().irrep
}

fn basis(features: &str, outputs: &[&str], degree: usize) -> SymmetricBasis {
    let features: Irreps = features.parse().unwrap();
    let block = |out: &&str| (1..=degree).map(|nu| symmetrised_basis(&features, irrep(out), nu).unwrap()).collect::<Vec<Monomials>>();
    SymmetricBasis::new(&outputs.iter().map(block).collect::<Vec<_>>(), 1e-12).unwrap()
}

/// Random sparse polynomials, with monomials of every degree up to four and powers.
fn random_spec(dim: usize, outputs: usize, random: &mut Random) -> ContractionSpec {
    let mut monomials = Vec::new();
    let mut terms = Vec::new();
    for n in 0..40 {
        let mut monomial: Vec<u16> = (0..n % 4 + 1).map(|_| ((random.next() + 1.0) * 0.4999 * dim as f64) as u16).collect();
        monomial.sort_unstable();
        if monomials.contains(&monomial) {
            continue;
        }
        monomials.push(monomial);
        for output in 0..outputs {
            if random.next() > 0.0 {
                terms.push(Term { output, monomial: monomials.len() - 1 });
            }
        }
    }
    ContractionSpec::new(dim, outputs, monomials, terms).unwrap()
}

fn compare<T: Real>(spec: &ContractionSpec, n: usize, k: usize, tolerance: f64) {
    let mut random = Random::new((n * 131 + k) as u64);
    let group_of: Vec<u32> = (0..n).map(|i| (i * 5 % 3) as u32).collect();
    let elements = Groups::new(&group_of, 3).unwrap();
    let narrow = |x: Vec<f64>| x.into_iter().map(T::of).collect::<Vec<T>>();
    let wide = |x: &[T]| x.iter().map(|v| candle_core::WithDType::to_f64(*v)).collect::<Vec<f64>>();
    let a = narrow(random.vec(n * spec.dim() * k));
    let c = narrow(random.vec(3 * spec.terms().len() * k));
    let g = narrow(random.vec(n * spec.outputs() * k));
    let mut p = vec![T::zero(); g.len()];
    cpu::evaluate(spec, k, &a, &c, &elements, &mut p);
    let error = relative_error(&wide(&p), &reference::evaluate(spec, k, &wide(&a), &wide(&c), &group_of));
    assert!(error < tolerance, "{n} atoms, {k} channels: {error:e}");
    let mut x = vec![T::zero(); a.len()];
    cpu::adjoint(spec, k, &a, &c, &g, &elements, &mut x);
    let error = relative_error(&wide(&x), &reference::adjoint(spec, k, &wide(&a), &wide(&c), &wide(&g), &group_of));
    assert!(error < tolerance, "adjoint, {n} atoms, {k} channels: {error:e}");
}

#[test]
fn fast_kernels_equal_the_reference() {
    let mut random = Random::new(1);
    for dim in [1, 4, 16, 32] {
        let spec = random_spec(dim, 3, &mut random);
        for (n, k) in [(0, 4), (1, 1), (7, 3), (18, 5), (33, 17), (40, 33), (5, 128)] {
            compare::<f64>(&spec, n, k, 1e-14);
            compare::<f32>(&spec, n, k, 3e-6);
        }
    }
}

/// MACE's sizes: 16 components, degree 3.
#[test]
fn mace_bases() {
    let scalar = basis("0e + 1o + 2e + 3o", &["0e"], 3);
    assert_eq!(scalar.spec().terms().len(), 94);
    let vector = basis("0e + 1o + 2e + 3o", &["1o"], 3);
    assert_eq!(vector.spec().terms().len(), 316);
    let both = basis("0e + 1o + 2e + 3o", &["0e", "1o"], 3);
    assert_eq!((both.spec().dim(), both.spec().outputs(), both.spec().terms().len()), (16, 4, 410));
    compare::<f64>(both.spec(), 20, 128, 1e-14);
    compare::<f32>(both.spec(), 20, 128, 3e-6);
    // Both parities: 32 components.
    let parities = basis("0e + 0o + 1e + 1o + 2e + 2o + 3e + 3o", &["0e", "1o"], 2);
    compare::<f64>(parities.spec(), 3, 5, 1e-14);
}

/// Coefficients times polynomials is what the bases, evaluated path by path, give with the weights.
#[test]
fn coefficients_join_bases_and_weights() {
    let features: Irreps = "0e + 1o + 2e".parse().unwrap();
    let blocks: Vec<Vec<Monomials>> =
        ["0e", "1o"].iter().map(|out| (1..=3).map(|nu| symmetrised_basis(&features, irrep(out), nu).unwrap()).collect()).collect();
    let basis = SymmetricBasis::new(&blocks, 1e-12).unwrap();
    let (mut random, channels, present) = (Random::new(5), 2, [2u32, 0]);
    let weights: Vec<Tensor> = blocks.iter().flatten().map(|b| random.tensor(&[3, b.paths(), channels], DType::F64)).collect();
    let c = basis.coefficients(&weights, &present).unwrap();
    assert_eq!(c.dims(), [2, basis.spec().terms().len(), channels]);
    let plain: Vec<Vec<f64>> = weights.iter().map(to_vec).collect();
    let all = basis.plain_coefficients(&plain, 3, channels);
    let size = basis.spec().terms().len() * channels;
    let want = [&all[2 * size..], &all[..size]].concat();
    assert!(relative_error(&to_vec(&c), &want) < 1e-15);

    let a = random.tensor(&[2, 9, channels], DType::F64);
    let elements = Arc::new(Groups::new(&[0, 1], 2).unwrap());
    let got = to_vec(&symmetric_contraction(&a, &c, basis.spec(), &elements).unwrap());
    let a = to_vec(&a);
    let mut want = vec![0.0; 2 * 4 * channels];
    for (i, &z) in present.iter().enumerate() {
        for k in 0..channels {
            let components: Vec<f64> = (0..9).map(|d| a[(i * 9 + d) * channels + k]).collect();
            let mut output = 0;
            let mut weights = plain.iter();
            for bases in &blocks {
                for monomials in bases {
                    let (values, w) = (monomials.evaluate(&components), weights.next().unwrap());
                    for m in 0..monomials.output_dim() {
                        for path in 0..monomials.paths() {
                            want[(i * 4 + output + m) * channels + k] +=
                                values[m * monomials.paths() + path] * w[(z as usize * monomials.paths() + path) * channels + k];
                        }
                    }
                }
                output += bases[0].output_dim();
            }
        }
    }
    assert!(relative_error(&got, &want) < 1e-13);
}

#[test]
fn twice_differentiable() {
    let mut random = Random::new(2);
    let spec = Arc::new(random_spec(4, 3, &mut random));
    let elements = Arc::new(Groups::new(&[1, 0, 1], 2).unwrap());
    let inputs = [random.tensor(&[3, 4, 3], DType::F64), random.tensor(&[2, spec.terms().len(), 3], DType::F64)];
    check_derivatives(&inputs, |t| symmetric_contraction(&t[0], &t[1], &spec, &elements)?.sqr(), true);
}

/// From the weights of a model, through the coefficients.
#[test]
fn twice_differentiable_in_the_weights() {
    let basis = basis("0e + 1o", &["0e", "1o"], 3);
    let mut random = Random::new(3);
    let elements = Arc::new(Groups::new(&[1, 0, 1], 2).unwrap());
    let mut inputs = vec![random.tensor(&[3, 4, 2], DType::F64)];
    for paths in basis.paths() {
        inputs.push(random.tensor(&[3, paths, 2], DType::F64));
    }
    let f = |t: &[Tensor]| symmetric_contraction(&t[0], &basis.coefficients(&t[1..], &[0, 2])?, basis.spec(), &elements)?.sqr();
    check_derivatives(&inputs, f, true);
}

#[test]
fn the_same_bits_for_any_number_of_threads() {
    let mut random = Random::new(4);
    let spec = random_spec(16, 4, &mut random);
    let (n, k) = (1500, 40);
    let group_of: Vec<u32> = (0..n).map(|i| (i % 7 / 4) as u32).collect();
    let elements = Groups::new(&group_of, 2).unwrap();
    let narrow = |x: Vec<f64>| x.into_iter().map(|x| x as f32).collect::<Vec<f32>>();
    let (a, c) = (narrow(random.vec(n * 16 * k)), narrow(random.vec(2 * spec.terms().len() * k)));
    let run = || {
        let mut p = vec![0f32; n * 4 * k];
        cpu::evaluate(&spec, k, &a, &c, &elements, &mut p);
        let mut d = vec![0f32; c.len()];
        cpu::adjoint_coefficients(&spec, k, &a, &p, &elements, &mut d);
        let mut e = vec![0f32; c.len()];
        cpu::tangent_coefficients(&spec, k, &a, &a, &p, &elements, &mut e);
        (p, d, e)
    };
    assert_eq!(with_threads(1, run), with_threads(3, run));
}

#[test]
fn wrong_descriptions_and_shapes_are_errors() {
    let message = |r: std::result::Result<ContractionSpec, ContractionError>| r.unwrap_err().to_string();
    let term = Term { output: 0, monomial: 0 };
    assert!(message(ContractionSpec::new(3, 1, vec![vec![1, 0]], vec![term])).contains("monomial 0"));
    assert!(message(ContractionSpec::new(3, 1, vec![vec![3]], vec![term])).contains("monomial 0"));
    assert!(message(ContractionSpec::new(3, 1, vec![vec![]], vec![term])).contains("monomial 0"));
    assert!(message(ContractionSpec::new(3, 0, vec![vec![1]], vec![term])).contains("term 0"));
    let spec = Arc::new(ContractionSpec::new(3, 1, vec![vec![0, 2]], vec![term]).unwrap());
    let elements = Arc::new(Groups::new(&[0, 0], 1).unwrap());
    let tensor = |shape: &[usize]| Tensor::zeros(shape, DType::F64, &Device::Cpu).unwrap();
    let error = symmetric_contraction(&tensor(&[2, 4, 5]), &tensor(&[1, 1, 5]), &spec, &elements).unwrap_err();
    assert!(error.to_string().contains("expected features [2, 3, K]"), "{error}");
    let error = symmetric_contraction(&tensor(&[2, 3, 5]), &tensor(&[1, 1, 4]), &spec, &elements).unwrap_err();
    assert!(error.to_string().contains("tensors of 5 and 4 channels"), "{error}");
}

/// The sparse scheme for inference against the reference, channels padded to slabs, components in two blocks.
fn compare_sparse<T: crate::slab::HasSlabs>(spec: &ContractionSpec, n: usize, k: usize, tolerance: f64) {
    use super::sparse::{Layout, Scratch, SparseContraction};
    let mut random = Random::new((n * 37 + k) as u64);
    let width = crate::slab::padded::<T>(k);
    let (dim, outputs) = (spec.dim(), spec.outputs());
    let a = random.vec(n * dim * k);
    let c = random.vec(spec.terms().len() * k);
    let g = random.vec(n * outputs * k);
    let (components, out_components) = ([1, dim - 1], [outputs]);
    // [n, D, K] to one padded array for each block.
    let pad = |x: &[f64], blocks: &[usize]| -> Vec<Vec<T>> {
        let total: usize = blocks.iter().sum();
        let mut first = 0;
        blocks
            .iter()
            .map(|&count| {
                let mut block = vec![T::zero(); n * count * width];
                for i in 0..n {
                    for m in 0..count {
                        for u in 0..k {
                            block[(i * count + m) * width + u] = T::of(x[(i * total + first + m) * k + u]);
                        }
                    }
                }
                first += count;
                block
            })
            .collect()
    };
    let check = |got: &[Vec<T>], want: &[f64], blocks: &[usize], what: &str| {
        let (want, mut found, mut expected) = (pad(want, blocks), Vec::new(), Vec::new());
        for (got, want) in got.iter().zip(&want) {
            found.extend(got.iter().map(|v| candle_core::WithDType::to_f64(*v)));
            expected.extend(want.iter().map(|v| candle_core::WithDType::to_f64(*v)));
        }
        let error = relative_error(&found, &expected);
        assert!(error < tolerance, "{what}, {n} atoms, {k} channels: {error:e}");
    };
    let plan = SparseContraction::new(spec);
    let coefficients = plan.coefficients::<T>(&c, k);
    let (features, cotangents) = (pad(&a, &components), pad(&g, &out_components));
    let features: Vec<&[T]> = features.iter().map(Vec::as_slice).collect();
    let cotangents: Vec<&[T]> = cotangents.iter().map(Vec::as_slice).collect();
    let (layout, out_layout) = (Layout { components: &components, width }, Layout { components: &out_components, width });
    let mut scratch = Scratch::default();
    let mut out = vec![vec![T::zero(); n * outputs * width]];
    let mut views: Vec<&mut [T]> = out.iter_mut().map(Vec::as_mut_slice).collect();
    plan.evaluate(&coefficients, n, (layout, &features), (out_layout, &mut views), &mut scratch);
    let group_of = vec![0; n];
    check(&out, &reference::evaluate(spec, k, &a, &c, &group_of), &out_components, "values");
    let mut dx: Vec<Vec<T>> = components.iter().map(|m| vec![T::zero(); n * m * width]).collect();
    let mut views: Vec<&mut [T]> = dx.iter_mut().map(Vec::as_mut_slice).collect();
    plan.gradient(&coefficients, n, (layout, &features), (out_layout, &cotangents), &mut views, &mut scratch);
    check(&dx, &reference::adjoint(spec, k, &a, &c, &g, &group_of), &components, "gradient");
}

#[test]
fn sparse_scheme_equals_the_reference() {
    let mut random = Random::new(9);
    let mut specs = vec![random_spec(4, 1, &mut random), random_spec(16, 4, &mut random)];
    specs.push(basis("1x0e+1x1o+1x2e+1x3o", &["0e", "1o"], 3).spec().as_ref().clone());
    specs.push(basis("1x0e+1x1o", &["0e"], 1).spec().as_ref().clone());
    for spec in &specs {
        for (n, k) in [(1, 1), (2, 8), (5, 33), (0, 4)] {
            compare_sparse::<f64>(spec, n, k, 1e-13);
            compare_sparse::<f32>(spec, n, k, 5e-6);
        }
    }
}
