//! The kernels against those of the CPU, in both precisions.

use tesseral_kernels::{Buffer, Device, testing};
use tesseral_o3::{Irrep, TensorProductPaths};

use super::{DeviceDerivatives, DeviceGraph, DeviceInputs, TrainingConvolution};
use crate::graph::Graph;
use crate::graph::tests::random_graph;
use crate::real::Real;
use crate::tensor_product::cpu::{Needs, adjoint, forward};
use crate::tensor_product::edges::Inputs;
use crate::tensor_product::plan::Plan;
use crate::tensor_product::tangent::adjoint_tangent;
use crate::tensor_product::{TensorProductSpec, Windows};
use crate::testing::{Random, relative_error};

fn spec(features: &str, edge: &str, keep: impl Fn(Irrep) -> bool) -> TensorProductSpec {
    TensorProductSpec::new(&TensorProductPaths::new(&features.parse().unwrap(), &edge.parse().unwrap(), keep).unwrap()).unwrap()
}

const ALL: Needs = Needs { x: true, q: true, w: true };

/// One graph with random inputs.
struct Case {
    graph: Graph,
    hidden: usize,
    windows: Option<Windows>,
}

impl Case {
    fn new(graph: Graph, hidden: usize) -> Self {
        Self { graph, hidden, windows: None }
    }

    fn with_windows(self, rows: usize) -> Self {
        let starts = rows - self.hidden + 1;
        let first = (0..self.graph.num_edges()).map(|e| ((5 * e + e * e) % starts) as u32).collect();
        Self { windows: Some(Windows { first, rows }), ..self }
    }
}

fn assert_same<T: Real>(what: &str, got: &[T], want: &[T]) {
    let tolerance = if size_of::<T>() == 8 { 1e-12 } else { 1e-5 };
    let wide = |v: &[T]| v.iter().map(|&v| candle_core::WithDType::to_f64(v)).collect::<Vec<_>>();
    assert_eq!(got.len(), want.len(), "{what}");
    let error = relative_error(&wide(got), &wide(want));
    assert!(want.is_empty() || error <= tolerance, "{what}: {error:e}");
}

/// All maps of one convolution on several graphs.
fn compare<T: Real + tesseral_kernels::Real>(device: &Device, spec: &TensorProductSpec, cases: &[Case], needs: &[Needs]) {
    let convolution = TrainingConvolution::<T>::new(device, spec).unwrap();
    let plan = Plan::<T>::new(spec);
    for (c, case) in cases.iter().enumerate() {
        let (graph, hidden, windows) = (&case.graph, case.hidden, case.windows.as_ref());
        let (atoms, edges, width) = (graph.num_atoms(), graph.num_edges(), spec.dim_edge + hidden);
        let mut random = Random::new(c as u64 + 3);
        let mut numbers = |n: usize| random.vec(n).into_iter().map(T::of).collect::<Vec<T>>();
        // Rows longer than any map needs.
        let (x_stride, q_stride, rows) = (2 * spec.dim_in + spec.dim_out + 1, 2 * width + 3, windows.map_or(hidden, |w| w.rows));
        let (x, q, w) = (numbers(atoms * x_stride), numbers(edges * q_stride), numbers(rows * spec.weight_numel));
        let inputs = Inputs { plan: &plan, graph, x: &x, x_stride, q: &q, q_stride, hidden, windows };
        let (on_device, xs, qs, ws) = (
            DeviceGraph::new(device, graph, windows).unwrap(),
            device.upload(&x).unwrap(),
            device.upload(&q).unwrap(),
            device.upload(&w).unwrap(),
        );
        let device_inputs = DeviceInputs { x: &xs, x_stride, q: &qs, q_stride, hidden, w: &ws };
        // Whatever was there is overwritten.
        let room = |n: usize| device.upload(&vec![T::of(7.0); n]).unwrap();
        let mut out = room(atoms * spec.dim_out);
        convolution.forward(&on_device, device_inputs, &mut out).unwrap();
        assert_same("forward", &out.to_vec().unwrap(), &forward(&inputs, &w));

        let g = x.get(spec.dim_in..).unwrap_or_default();
        for &needs in needs {
            for along in [false, true] {
                let row = if along { spec.dim_in + spec.dim_out } else { spec.dim_in };
                let mut dx = needs.x.then(|| room(atoms * row));
                let mut dq = needs.q.then(|| room(edges * width));
                let mut dw = needs.w.then(|| (room(rows * spec.weight_numel), room(convolution.scratch_len(&on_device, hidden))));
                let to = DeviceDerivatives { dx: dx.as_mut(), dq: dq.as_mut(), dw: dw.as_mut().map(|(dw, scratch)| (dw, scratch)) };
                let (want, name) = if along {
                    convolution.adjoint_tangent(&on_device, device_inputs, to).unwrap();
                    (adjoint_tangent(&inputs, &w, needs), "adjoint_tangent")
                } else {
                    convolution.adjoint(&on_device, device_inputs, to).unwrap();
                    (adjoint(&inputs, g, x_stride, &w, needs), "adjoint")
                };
                let mut at = 0;
                for (part, buffer) in [("features", dx.as_ref()), ("edges", dq.as_ref()), ("matrix", dw.as_ref().map(|(dw, _)| dw))] {
                    let got = buffer.map_or(Vec::new(), |b: &Buffer<T>| b.to_vec().unwrap());
                    assert_same(&format!("{name} by {part}, case {c}"), &got, &want[at..at + got.len()]);
                    at += got.len();
                }
                assert_eq!(at, want.len());
            }
        }
    }
}

fn compare_both(device: &Device, spec: &TensorProductSpec, cases: &[Case], needs: &[Needs]) {
    compare::<f64>(device, spec, cases, needs);
    compare::<f32>(device, spec, cases, needs);
}

/// Atoms around one, which has as many edges.
fn star(n: u32) -> Graph {
    let offsets = [0].into_iter().chain((0..=n).map(|k| (n + k) as usize)).collect();
    let neighbors = (1..=n).chain((0..n).map(|_| 0)).collect();
    let reverse = (n..2 * n).chain(0..n).collect();
    Graph::new(offsets, neighbors, reverse).unwrap()
}

#[test]
fn all_graphs_and_needs() {
    let Some(device) = testing::device() else { return };
    let mut random = Random::new(4);
    let mut graph = |atoms: usize| random_graph(atoms, &mut random);
    // The last block of features is not read.
    let spec = spec("3x0e+33x1o+2x3o", "0e+1o", |out| out.l <= 1);
    let none = Graph::new(vec![0], Vec::new(), Vec::new()).unwrap();
    let cases = [
        Case::new(none.clone(), 3),
        Case::new(none, 6).with_windows(9),
        Case::new(graph(1), 3),
        Case::new(graph(1), 6).with_windows(9),
        Case::new(graph(2), 1),
        Case::new(graph(9), 70),
        Case::new(graph(9), 6).with_windows(14),
    ];
    let needs: Vec<Needs> = (0..8).map(|k| Needs { x: k & 1 > 0, q: k & 2 > 0, w: k & 4 > 0 }).collect();
    compare_both(&device, &spec, &cases, &needs);
}

#[test]
fn several_chunks_of_edges() {
    let Some(device) = testing::device() else { return };
    let spec = spec("2x0o+1x1e", "0e+1e", |out| out.l <= 2);
    let windows = Case::new(star(300), 6).with_windows(7);
    compare_both(&device, &spec, &[Case::new(star(300), 5), windows], &[ALL]);
}

#[test]
fn layers_of_models() {
    let Some(device) = testing::device() else { return };
    let mut random = Random::new(6);
    let mut cases = || [Case::new(random_graph(5, &mut random), 16), Case::new(random_graph(4, &mut random), 6).with_windows(20)];
    let natural = |out: Irrep| out.l <= 3 && out == Irrep::natural(out.l);
    compare_both(&device, &spec("8x0e+8x1o", "0e+1o+2e+3o", natural), &cases(), &[ALL]);
    compare_both(&device, &spec("40x0e+40x1o", "0e+1o+2e+3o", natural), &cases(), &[ALL]);
    compare_both(&device, &spec("16x0e+8x1e+4x2e", "0e+1e+2e", |out| out.l <= 2), &cases(), &[ALL]);
    compare_both(&device, &spec("3x0o+2x1e+2x2o", "0e+1o+2e", |out| out.l <= 2), &cases(), &[ALL]);
}
