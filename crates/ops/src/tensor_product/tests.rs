use super::*;
use crate::graph::tests::random_graph;
use crate::testing::{Random, check_derivatives, relative_error, to_vec, with_threads};
use candle_core::{DType, Device};

fn spec(features: &str, edge: &str, l_max: usize) -> Arc<TensorProductSpec> {
    let paths = TensorProductPaths::new(&features.parse().unwrap(), &edge.parse().unwrap(), |out| out.l <= l_max).unwrap();
    Arc::new(TensorProductSpec::new(&paths).unwrap())
}

#[test]
fn fast_kernel_equals_reference() {
    let mut random = Random::new(1);
    for (features, edge, hidden) in
        [("3x0e", "0e", 1), ("16x0e+5x1o", "0e+1o+2e", 7), ("33x0e+17x1o+3x2e", "0e+1o+2e+3o", 20), ("2x0o+1x1e", "0e+1e", 3)]
    {
        let spec = spec(features, edge, 2);
        for atoms in [1, 2, 9, 40] {
            let graph = random_graph(atoms, &mut random);
            for (dtype, tolerance) in [(DType::F64, 1e-13), (DType::F32, 2e-6)] {
                let x = random.tensor(&[atoms, spec.dim_in], dtype);
                let q = random.tensor(&[graph.num_edges(), spec.dim_edge + hidden], dtype);
                let w = random.tensor(&[hidden, spec.weight_numel], dtype);
                let out = to_vec(&convolution(&x, &q, &w, &spec, &graph).unwrap());
                let want = reference::forward(&spec, &graph, &to_vec(&x), &to_vec(&q), &to_vec(&w), hidden);
                assert!(relative_error(&out, &want) < tolerance, "{features} {atoms} {dtype:?}: {:e}", relative_error(&out, &want));
            }
        }
    }
}

#[test]
fn derivatives_and_second_derivatives() {
    let mut random = Random::new(2);
    let graph = random_graph(4, &mut random);
    for (features, edge) in [("2x0e+1x1o", "0e+1o"), ("17x0e", "0e+1o"), ("1x0e+1x1e", "0e+1e+2e")] {
        let spec = spec(features, edge, 1);
        let inputs = [
            random.tensor(&[4, spec.dim_in], DType::F64),
            random.tensor(&[graph.num_edges(), spec.dim_edge + 2], DType::F64),
            random.tensor(&[2, spec.weight_numel], DType::F64),
        ];
        check_derivatives(&inputs, |t| convolution(&t[0], &t[1], &t[2], &spec, &graph)?.sqr(), true);
    }
}

#[test]
fn derivatives_with_untracked_arguments() {
    // Inference differentiates by the edges alone; a first layer has constant features.
    let mut random = Random::new(3);
    let graph = random_graph(4, &mut random);
    let spec = spec("2x0e+1x1o", "0e+1o", 1);
    let x = random.tensor(&[4, spec.dim_in], DType::F64);
    let q = random.tensor(&[graph.num_edges(), spec.dim_edge + 2], DType::F64);
    let w = random.tensor(&[2, spec.weight_numel], DType::F64);
    check_derivatives(std::slice::from_ref(&q), |t| convolution(&x, &t[0], &w, &spec, &graph)?.sqr(), true);
    check_derivatives(std::slice::from_ref(&x), |t| convolution(&t[0], &q, &w, &spec, &graph)?.sqr(), true);
    check_derivatives(&[w], |t| convolution(&x, &q, &t[0], &spec, &graph)?.sqr(), true);
}

#[test]
fn many_edges_on_one_centre() {
    // More edges than one tile, and a graph whose tasks have very different sizes: 300 atoms around one.
    let n = 300u32;
    let mut offsets = vec![0, n as usize];
    let mut neighbors: Vec<u32> = (1..=n).collect();
    let mut reverse: Vec<u32> = (n..2 * n).collect();
    for k in 0..n {
        neighbors.push(0);
        reverse.push(k);
        offsets.push((n + k + 1) as usize);
    }
    let graph = Graph::new(offsets, neighbors, reverse).unwrap();
    let spec = spec("16x0e+16x1o", "0e+1o", 1);
    let mut random = Random::new(5);
    let x = random.tensor(&[n as usize + 1, spec.dim_in], DType::F64);
    let q = random.tensor(&[2 * n as usize, spec.dim_edge + 3], DType::F64);
    let w = random.tensor(&[3, spec.weight_numel], DType::F64);
    let want = reference::forward(&spec, &graph, &to_vec(&x), &to_vec(&q), &to_vec(&w), 3);
    let run = || {
        let var = candle_core::Var::from_tensor(&q).unwrap();
        let out = convolution(&x, var.as_tensor(), &w, &spec, &graph).unwrap();
        let grads = out.sqr().unwrap().sum_all().unwrap().backward().unwrap();
        (to_vec(&out), to_vec(grads.get(&var).unwrap()))
    };
    let (out, gradient) = with_threads(1, run);
    assert!(relative_error(&out, &want) < 1e-13);
    assert_eq!((out, gradient), with_threads(4, run));
}

#[test]
fn wrong_shapes_are_errors() {
    let mut random = Random::new(6);
    let graph = random_graph(4, &mut random);
    let spec = spec("2x0e", "0e+1o", 1);
    let x = Tensor::zeros((4, 3), DType::F32, &Device::Cpu).unwrap();
    let q = Tensor::zeros((graph.num_edges(), spec.dim_edge + 2), DType::F32, &Device::Cpu).unwrap();
    let w = Tensor::zeros((2, spec.weight_numel), DType::F32, &Device::Cpu).unwrap();
    assert!(convolution(&x, &q, &w, &spec, &graph).unwrap_err().to_string().contains("expected features of shape [4, 2]"));
    let short = Tensor::zeros((graph.num_edges(), 1), DType::F32, &Device::Cpu).unwrap();
    assert!(convolution(&x, &short, &w, &spec, &graph).unwrap_err().to_string().contains("fewer than its"));
}
