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

/// Radial features in windows of the matrix are features of all rows with zeros outside.
#[test]
fn windows_equal_features_with_zeros() {
    let mut random = Random::new(9);
    let (taps, rows) = (3, 11);
    for features in ["2x0e+1x1o", "33x0e+17x1o"] {
        let spec = spec(features, "0e+1o", 1);
        let graph = random_graph(7, &mut random);
        let edges = graph.num_edges();
        let first: Vec<u32> = (0..edges as u32).map(|e| (5 * e + e * e) % (rows - taps + 1)).collect();
        let x = random.tensor(&[7, spec.dim_in], DType::F64);
        let q = random.tensor(&[edges, spec.dim_edge + taps as usize], DType::F64);
        let table = random.tensor(&[rows as usize, spec.weight_numel], DType::F64);
        let (narrow, width) = (to_vec(&q), spec.dim_edge + taps as usize);
        let mut wide = vec![0.0; edges * (spec.dim_edge + rows as usize)];
        for (e, row) in wide.chunks_mut(spec.dim_edge + rows as usize).enumerate() {
            let (y, h) = narrow[e * width..(e + 1) * width].split_at(spec.dim_edge);
            row[..spec.dim_edge].copy_from_slice(y);
            row[spec.dim_edge + first[e] as usize..][..taps as usize].copy_from_slice(h);
        }
        let windows = Arc::new(Windows { first, rows: rows as usize });
        let out = to_vec(&convolution_of_table(&x, &q, &table, &spec, &graph, &windows).unwrap());
        let want = reference::forward(&spec, &graph, &to_vec(&x), &wide, &to_vec(&table), rows as usize);
        assert!(relative_error(&out, &want) < 1e-13);
        check_derivatives(
            &[x.clone(), q, table],
            |t| convolution_of_table(&t[0], &t[1], &t[2], &spec, &graph, &windows),
            features.len() < 10,
        );
        let outside = Arc::new(Windows { first: vec![rows - 1; edges], rows: rows as usize });
        let q = random.tensor(&[edges, spec.dim_edge + taps as usize], DType::F64);
        let table = random.tensor(&[rows as usize, spec.weight_numel], DType::F64);
        assert!(convolution_of_table(&x, &q, &table, &spec, &graph, &outside).unwrap_err().to_string().contains("do not fit a matrix"));
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

/// The kernels for inference against the reference: radial weights from a table that is exact at the edges' distances.
fn compare_slabs<T: crate::slab::HasSlabs>(spec: &TensorProductSpec, atoms: usize, tolerance: f64) {
    use super::slabs::{Features, Neighborhoods, Scratch, SlabPlan};
    use crate::radial::table::Table;
    let mut random = Random::new(atoms as u64 + 17);
    let graph = random_graph(atoms, &mut random);
    let (edges, numel) = (graph.num_edges(), spec.weight_numel);
    let (x, y) = (random.vec(atoms * spec.dim_in), random.vec(edges * spec.dim_edge));
    let (r, slopes) = (random.vec(edges * numel), random.vec(edges * numel));
    let plan = SlabPlan::<T>::new(spec);
    let mut table = Table::<T>::empty();
    table.tabulate_points(&r, &slopes, numel, plan.sections());
    let narrow = |x: &[f64]| x.iter().map(|&v| T::of(v)).collect::<Vec<T>>();
    let to_f64 = |v: T| candle_core::WithDType::to_f64(v);
    // Radial weights as radial features with the identity as their last matrix.
    let identity: Vec<f64> = (0..numel * numel).map(|k| f64::from(u8::from(k / numel == k % numel))).collect();
    let convolve = |x: &[f64], y: &[f64], r: &[f64]| {
        let row = |e: usize| y[e * spec.dim_edge..][..spec.dim_edge].iter().chain(&r[e * numel..][..numel]).copied();
        let q: Vec<f64> = (0..edges).flat_map(row).collect();
        reference::forward(spec, &graph, x, &q, &identity, numel)
    };
    let offsets: Vec<u32> = graph.segments().offsets().iter().map(|&o| o as u32).collect();
    let cells: Vec<u32> = (0..edges as u32).collect();
    let (tables, t, harmonics) = (vec![0u16; edges], vec![T::zero(); edges], narrow(&y));
    let neighborhoods =
        Neighborhoods { offsets: &offsets, rows: graph.neighbors(), tables: &tables, cells: &cells, t: &t, harmonics: &harmonics };
    let all: Vec<u32> = (0..atoms as u32).collect();
    // Features of each block, padded.
    let block_of = |b: usize, x: &[f64]| {
        let (offset, components, channels, width) = plan.block(b);
        let mut rows = vec![T::zero(); atoms * components * width];
        for i in 0..atoms {
            for m in 0..components {
                for u in 0..channels {
                    rows[(i * components + m) * width + u] = T::of(x[i * spec.dim_in + offset + m * channels + u]);
                }
            }
        }
        rows
    };
    let place = |i: usize, b: usize, m: usize, c: usize| (i * plan.outputs()[b].components + m) * plan.outputs()[b].width + c;
    let mut out: Vec<Vec<T>> = plan.outputs().iter().map(|o| vec![T::one(); atoms * o.components * o.width]).collect();
    let mut scratch = Scratch::default();
    for b in 0..plan.num_blocks() {
        let mut views: Vec<&mut [T]> = out.iter_mut().map(Vec::as_mut_slice).collect();
        plan.forward(b, neighborhoods, &[&table], Features::Rows(&block_of(b, &x), &all), &mut scratch, &mut views);
    }
    let want = convolve(&x, &y, &r);
    let mut got = vec![0.0; want.len()];
    let mut g: Vec<Vec<T>> = out.iter().map(|o| vec![T::zero(); o.len()]).collect();
    let cotangent = random.vec(want.len());
    for (b, output) in plan.outputs().iter().enumerate() {
        for i in 0..atoms {
            for m in 0..output.components {
                for &(first, at, count) in &output.runs {
                    for u in 0..count {
                        let plain = i * spec.dim_out + output.offset + m * output.channels + first + u;
                        got[plain] = to_f64(out[b][place(i, b, m, at + u)]);
                        g[b][place(i, b, m, at + u)] = T::of(cotangent[plain]);
                    }
                }
            }
        }
    }
    assert!(relative_error(&got, &want) < tolerance, "{atoms} atoms: {:e}", relative_error(&got, &want));
    // The adjoint, tested with other features, harmonics and weights in place of each in turn: the form is linear in all of them.
    let (mut dy, mut dt) = (vec![T::zero(); y.len()], vec![T::zero(); edges]);
    let views: Vec<&[T]> = g.iter().map(Vec::as_slice).collect();
    let (other_x, other_y) = (random.vec(x.len()), random.vec(y.len()));
    let mut by_features = 0.0;
    let lanes = crate::slab::width::<T>();
    for b in 0..plan.num_blocks() {
        let (offset, components, channels, width) = plan.block(b);
        let mut dx = vec![T::zero(); atoms * components * width];
        let features = block_of(b, &x);
        let to = (&mut dx[..], &mut dy[..], &mut dt[..]);
        plan.adjoint(b, neighborhoods, &[&table], Features::Rows(&features, &all), &mut scratch, &views, to);
        for i in 0..atoms {
            for m in 0..components {
                for u in 0..channels {
                    let at = u / lanes * atoms * components * lanes + (i * components + m) * lanes + u % lanes;
                    by_features += to_f64(dx[at]) * other_x[i * spec.dim_in + offset + m * channels + u];
                }
            }
        }
    }
    let along = |x: &[f64], y: &[f64], r: &[f64]| convolve(x, y, r).iter().zip(&cotangent).map(|(a, b)| a * b).sum::<f64>();
    let scale = cotangent.iter().zip(&want).map(|(a, b)| (a * b).abs()).sum::<f64>().max(1e-30) * 10.0;
    let by_harmonics: f64 = dy.iter().zip(&other_y).map(|(&d, o)| to_f64(d) * o).sum();
    let by_t: f64 = dt.iter().map(|&d| to_f64(d)).sum();
    for (got, want) in [(by_features, along(&other_x, &y, &r)), (by_harmonics, along(&x, &other_y, &r)), (by_t, along(&x, &y, &slopes))] {
        assert!((got - want).abs() <= tolerance * scale, "{atoms} atoms: {got} instead of {want}");
    }
}

#[test]
fn slabs_equal_the_reference() {
    for (features, edge, most) in [
        ("3x0e", "0e", 2),
        ("16x0e+5x1o", "0e+1o+2e", 2),
        ("33x0e+17x1o+3x2e", "0e+1o+2e+3o", 3),
        ("2x0o+1x1e", "0e+1e", 2),
        ("2x3o+1x4e", "0e+1o+2e+3o+4e", 4),
    ] {
        let spec = spec(features, edge, most);
        for atoms in [1, 2, 9] {
            compare_slabs::<f64>(&spec, atoms, 1e-13);
            compare_slabs::<f32>(&spec, atoms, 3e-6);
        }
    }
}
