use super::*;
use crate::real::Real;
use crate::testing::{Random, check_derivatives, relative_error, to_vec, with_threads};
use candle_core::{DType, Device};

fn narrow<T: Real>(x: &[f64]) -> Vec<T> {
    x.iter().map(|&v| T::of(v)).collect()
}

fn wide<T: Real>(x: &[T]) -> Vec<f64> {
    x.iter().map(|v| candle_core::WithDType::to_f64(*v)).collect()
}

/// All four maps against the reference; vectors are what the number type can hold, so that only the arithmetic differs.
fn compare<T: Real>(edges: usize, lmax: usize, normalize: bool, tolerance: f64) {
    let mut random = Random::new(edges as u64 + 31 * lmax as u64);
    let n = count(lmax);
    let (v, u, g) = (narrow::<T>(&random.vec(edges * 3)), narrow::<T>(&random.vec(edges * 3)), narrow::<T>(&random.vec(edges * n)));
    let (mut y, mut x) = (vec![T::zero(); edges * n], vec![T::zero(); edges * 3]);
    let close = |got: &[T], want: Vec<f64>, what: &str| {
        let error = relative_error(&wide(got), &want);
        assert!(error < tolerance, "{what}, {edges} edges, lmax {lmax}, normalize {normalize}: {error:e}");
    };
    cpu::evaluate(&v, lmax, normalize, &mut y);
    close(&y, reference::evaluate(&wide(&v), lmax, normalize).unwrap(), "evaluate");
    cpu::adjoint(&v, &g, lmax, normalize, &mut x);
    close(&x, reference::adjoint(&wide(&v), &wide(&g), lmax, normalize).unwrap(), "adjoint");
    cpu::tangent(&v, &u, lmax, normalize, &mut y);
    close(&y, reference::tangent(&wide(&v), &wide(&u), lmax, normalize).unwrap(), "tangent");
    cpu::adjoint_tangent(&v, &g, &u, lmax, normalize, &mut x);
    close(&x, reference::adjoint_tangent(&wide(&v), &wide(&g), &wide(&u), lmax, normalize).unwrap(), "adjoint tangent");
}

#[test]
fn fast_kernels_equal_the_reference() {
    for lmax in 0..=10 {
        for edges in [0, 1, 15, 16, 17, 600] {
            for normalize in [false, true] {
                compare::<f64>(edges, lmax, normalize, 2e-13);
                compare::<f32>(edges, lmax, normalize, 2e-4);
            }
        }
    }
}

/// Model definitions §1.2, for the direction (0.3, -0.5, 0.8).
#[test]
fn published_values() {
    let v = Tensor::new(&[[0.3f64, -0.5, 0.8]], &Device::Cpu).unwrap();
    let want = [
        1.0,
        0.524890659,
        -0.874817765,
        1.399708424,
        0.948485717,
        -0.592803573,
        -0.262395732,
        -1.580809529,
        1.086806551,
        1.183647158,
        -1.267467354,
        0.135272825,
        1.152223211,
        0.360727533,
        -1.452306343,
        0.638177703,
    ];
    let got = to_vec(&spherical_harmonics(&v, 3, true).unwrap());
    assert!(got.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-9), "{got:?}");
}

#[test]
fn twice_differentiable() {
    let v = Random::new(5).tensor(&[5, 3], DType::F64);
    for normalize in [false, true] {
        for lmax in [1, 2, 5] {
            // The square makes the cotangents depend on the vectors, so that all four ops take part.
            check_derivatives(std::slice::from_ref(&v), |t| spherical_harmonics(&t[0], lmax, normalize)?.powf(3.0), true);
        }
    }
}

/// A strided view gives what its copy gives.
#[test]
fn non_contiguous_vectors() {
    let columns = Random::new(8).tensor(&[3, 40], DType::F64);
    let view = columns.t().unwrap();
    let copy = Tensor::from_vec(to_vec(&view.contiguous().unwrap()), (40, 3), &Device::Cpu).unwrap();
    assert_eq!(to_vec(&spherical_harmonics(&view, 3, true).unwrap()), to_vec(&spherical_harmonics(&copy, 3, true).unwrap()));
}

#[test]
fn a_zero_vector_is_harmless() {
    let v = candle_core::Var::from_tensor(&Tensor::zeros((1, 3), DType::F32, &Device::Cpu).unwrap()).unwrap();
    let y = spherical_harmonics(&v, 4, true).unwrap();
    let mut want = vec![0.0; count(4)];
    want[0] = 1.0;
    assert_eq!(to_vec(&y), want);
    let first = y.backward().unwrap().remove(&v).unwrap();
    assert_eq!(to_vec(&first), [0.0; 3]);
    let second = first.sum_all().unwrap().backward().unwrap();
    assert_eq!(to_vec(second.get(&v).unwrap()), [0.0; 3]);
}

#[test]
fn the_same_bits_for_any_number_of_threads() {
    let v: Vec<f32> = narrow(&Random::new(6).vec(3 * 5000));
    let run = || {
        let mut y = vec![0f32; 5000 * 16];
        cpu::evaluate(&v, 3, true, &mut y);
        let mut x = vec![0f32; 5000 * 3];
        cpu::adjoint(&v, &y, 3, true, &mut x);
        (y, x)
    };
    assert_eq!(with_threads(1, run), with_threads(3, run));
}

#[test]
fn wrong_shapes_and_third_derivatives_are_errors() {
    let v = Tensor::zeros((4, 2), DType::F64, &Device::Cpu).unwrap();
    assert!(spherical_harmonics(&v, 2, true).unwrap_err().to_string().contains("expected vectors [edges, 3]"));
    let v = candle_core::Var::from_tensor(&Random::new(7).tensor(&[2, 3], DType::F64)).unwrap();
    let derivative = |y: Tensor| y.sqr().unwrap().backward().unwrap().remove(&v).unwrap();
    let second = derivative(derivative(spherical_harmonics(&v, 3, true).unwrap()));
    assert!(second.backward().unwrap_err().to_string().contains("third derivatives"));
}
