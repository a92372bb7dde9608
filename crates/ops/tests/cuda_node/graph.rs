use candle_core::Tensor;
use tesseral_kernels::{Device, testing};
use tesseral_ops::graph::cuda::{DeviceGraph, DeviceSegments, DeviceSums};
use tesseral_ops::graph::{Graph, Segments, segment_sum};
use tesseral_testkit::Random;

use super::{Precision, error, garbage, random, widen};

/// Every third pair of atoms joined, atom 0 alone.
fn graph(atoms: usize) -> Graph {
    let joined = |i: usize, j: usize| i != j && i.min(j) > 0 && (i + j).is_multiple_of(3);
    let (mut offsets, mut neighbors) = (vec![0], Vec::new());
    for i in 0..atoms {
        neighbors.extend((0..atoms).filter(|&j| joined(i, j)).map(|j| j as u32));
        offsets.push(neighbors.len());
    }
    let of = |i: usize, j: usize| (offsets[i]..offsets[i + 1]).find(|&e| neighbors[e] as usize == j).unwrap() as u32;
    let reverse = (0..atoms).flat_map(|i| neighbors[offsets[i]..offsets[i + 1]].iter().map(move |&j| (j as usize, i)));
    let reverse = reverse.map(|(j, i)| of(j, i)).collect();
    Graph::new(offsets.clone(), neighbors.clone(), reverse).unwrap()
}

fn compare<T: Precision>(device: &Device, atoms: usize, k: usize) {
    let graph = graph(atoms);
    let mut numbers = Random::new((atoms + k) as u64);
    let (edges, wide_edges) = random::<T>(&mut numbers, graph.num_edges() * k);
    let (nodes, wide_nodes) = random::<T>(&mut numbers, atoms * k);
    let on_cpu = |data: Vec<f64>| {
        let rows = data.len() / k;
        Tensor::from_vec(data, (rows, k), &candle_core::Device::Cpu).unwrap()
    };
    let (wide_edges, wide_nodes) = (on_cpu(wide_edges), on_cpu(wide_nodes));
    let (edges, nodes) = (device.upload(&edges).unwrap(), device.upload(&nodes).unwrap());
    let on_device = DeviceGraph::new(device, &graph).unwrap();
    let sums = DeviceSums::<T>::new(device).unwrap();
    let (mut to_nodes, mut to_edges) = (garbage::<T>(device, atoms * k), garbage::<T>(device, graph.num_edges() * k));
    let check = |what: &str, found: &tesseral_kernels::Buffer<T>, want: candle_core::Result<Tensor>| {
        let error = error(found, &want.unwrap().flatten_all().unwrap().to_vec1().unwrap());
        assert!(error < T::TOLERANCE, "{what}: {atoms} atoms, {k} columns, {}: {error:e}", T::NAME);
    };
    sums.segment_sum(&edges, &on_device.segments, &mut to_nodes, k).unwrap();
    check("sum over centres", &to_nodes, graph.sum_over_centers(&wide_edges));
    sums.segment_broadcast(&nodes, &on_device.segments, &mut to_edges, k).unwrap();
    check("of centres", &to_edges, graph.of_centers(&wide_nodes));
    sums.of_neighbors(&nodes, &on_device, &mut to_edges, k).unwrap();
    check("of neighbours", &to_edges, graph.of_neighbors(&wide_nodes));
    sums.reversed(&edges, &on_device, &mut to_edges, k).unwrap();
    check("reversed", &to_edges, graph.reversed(&wide_edges));
    assert!(widen(&to_edges.to_vec().unwrap()).iter().all(|x| x.abs() < 2.0));
}

#[test]
fn sums_and_gathers_equal_those_of_the_cpu() {
    let Some(device) = testing::device() else { return };
    for (atoms, k) in [(1, 1), (9, 1), (30, 3), (30, 33), (12, 100)] {
        compare::<f64>(&device, atoms, k);
        compare::<f32>(&device, atoms, k);
    }
}

#[test]
fn long_and_empty_segments_are_summed() {
    let Some(device) = testing::device() else { return };
    let sums = DeviceSums::<f64>::new(&device).unwrap();
    for offsets in [vec![0], vec![0, 0], vec![0, 0, 1000, 1000, 1003]] {
        let segments = std::sync::Arc::new(Segments::new(offsets).unwrap());
        let on_device = DeviceSegments::new(&device, &segments).unwrap();
        let data = Random::new(1).numbers(segments.rows() * 2);
        let mut out = garbage::<f64>(&device, segments.len() * 2);
        sums.segment_sum(&device.upload(&data).unwrap(), &on_device, &mut out, 2).unwrap();
        let rows = Tensor::from_vec(data, (segments.rows(), 2), &candle_core::Device::Cpu).unwrap();
        let want: Vec<f64> = segment_sum(&rows, &segments).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        assert!(error(&out, &want) < 1e-13);
        assert!(out.is_empty() || sums.segment_sum(&device.zeros(1).unwrap(), &on_device, &mut out, 3).is_err());
    }
}
