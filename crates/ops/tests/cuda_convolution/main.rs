//! Kernels on the device of tests (the emulator, unless told otherwise) against plain loops in f64.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests may panic, and say what they find")]

use tesseral_kernels::edges::Edges;
use tesseral_kernels::{Buffer, Device, Real, testing};
use tesseral_o3::{Irrep, TensorProductPaths};
use tesseral_ops::graph::Graph;
use tesseral_ops::radial::cuda::{DeviceDensity, DeviceTables};
use tesseral_ops::radial::table::{Sample, Section, Table};
use tesseral_ops::slab::{HasSlabs, width};
use tesseral_ops::spherical_harmonics;
use tesseral_ops::tensor_product::cuda::{DeviceConvolution, Features};
use tesseral_ops::tensor_product::slabs::SlabPlan;
use tesseral_ops::tensor_product::{TensorProductSpec, reference};
use tesseral_testkit::{Random, relative_error};

trait Number: Real + HasSlabs + tesseral_ops::real::Real {}
impl Number for f32 {}
impl Number for f64 {}

const SPECIES: usize = 2;

/// Atoms with edges in a list that has unused places.
struct Atoms {
    graph: Graph,
    /// Place of each edge of the graph in the list.
    place: Vec<usize>,
    begin: Vec<u32>,
    count: Vec<u32>,
    species: Vec<u32>,
    /// `[E, 3]`, numbers of f32; reverse edges have the opposite vector.
    vectors: Vec<f64>,
}

impl Atoms {
    fn new(graph: Graph, random: &mut Random) -> Self {
        let n = graph.num_atoms();
        let (mut begin, mut count, mut place) = (vec![1], Vec::new(), Vec::new());
        for i in 0..n {
            let edges = graph.segments().range(i).len();
            place.extend((0..edges).map(|k| begin[i] as usize + k));
            count.push(edges as u32);
            begin.push(begin[i] + (edges + i % 3) as u32);
        }
        let mut vectors = vec![0.0; 3 * graph.num_edges()];
        for e in 0..graph.num_edges() {
            let back = graph.reverse()[e] as usize;
            for axis in 0..3 {
                vectors[3 * e + axis] = if back < e { -vectors[3 * back + axis] } else { f64::from((2.8 * random.number()) as f32) };
            }
        }
        let species = (0..n as u32).map(|i| i * i % 3 % SPECIES as u32).collect();
        Self { graph, place, begin, count, species, vectors }
    }

    fn capacity(&self) -> usize {
        *self.begin.last().unwrap() as usize
    }

    fn distances(&self) -> Vec<f64> {
        self.vectors.chunks_exact(3).map(|v| (v[0] * v[0] + v[1] * v[1] + v[2] * v[2]).sqrt()).collect()
    }

    fn pair(&self, e: usize) -> usize {
        let [i, j] = [self.graph.centers()[e], self.graph.neighbors()[e]].map(|a| self.species[a as usize] as usize);
        i * SPECIES + j
    }

    fn upload<T: Number>(&self, device: &Device) -> Edges<T> {
        let capacity = self.capacity();
        // What lies in unused places must not matter.
        let spread = |of: &dyn Fn(usize) -> u32| {
            let mut to = vec![u32::MAX; capacity];
            self.place.iter().enumerate().for_each(|(e, &at)| to[at] = of(e));
            device.upload(&to).unwrap()
        };
        let (mut distance, mut vector) = (vec![f64::NAN; capacity], vec![T::of(f64::NAN); 3 * capacity]);
        for ((&at, d), v) in self.place.iter().zip(self.distances()).zip(self.vectors.chunks_exact(3)) {
            distance[at] = d;
            (0..3).for_each(|axis| vector[3 * at + axis] = T::of(v[axis]));
        }
        Edges {
            begin: device.upload(&self.begin).unwrap(),
            count: device.upload(&self.count).unwrap(),
            neighbor: spread(&|e| self.graph.neighbors()[e]),
            reverse: spread(&|e| self.place[self.graph.reverse()[e] as usize] as u32),
            pair: spread(&|e| self.pair(e) as u32),
            distance: device.upload(&distance).unwrap(),
            vector: device.upload(&vector).unwrap(),
            atoms: self.graph.num_atoms(),
            capacity,
        }
    }

    /// Rows of edges, taken out of the list.
    fn of_edges(&self, list: &[f64]) -> Vec<f64> {
        self.place.iter().flat_map(|&at| list[3 * at..3 * at + 3].to_vec()).collect()
    }
}

/// A graph of up to `atoms` neighbours an atom; atom 0 has none.
fn random_graph(atoms: usize, random: &mut Random) -> Graph {
    let mut joined = vec![Vec::new(); atoms];
    for i in 1..atoms {
        for j in i + 1..atoms {
            if random.number() > 0.0 {
                joined[i].push(j as u32);
                joined[j].push(i as u32);
            }
        }
    }
    let mut offsets = vec![0];
    offsets.extend(joined.iter().scan(0, |sum, row| {
        *sum += row.len();
        Some(*sum)
    }));
    let back = |i: usize, j: u32| offsets[j as usize] + joined[j as usize].iter().position(|&k| k as usize == i).unwrap();
    let reverse = (0..atoms).flat_map(|i| joined[i].iter().map(move |&j| (i, j))).map(|(i, j)| back(i, j) as u32).collect();
    let neighbors = joined.concat();
    Graph::new(offsets.clone(), neighbors, reverse).unwrap()
}

/// One atom with `n` neighbours, which have one each.
fn star(n: u32) -> Graph {
    let mut offsets = vec![0, n as usize];
    let mut neighbors: Vec<u32> = (1..=n).collect();
    let mut reverse: Vec<u32> = (n..2 * n).collect();
    for k in 0..n {
        neighbors.push(0);
        reverse.push(k);
        offsets.push((n + k + 1) as usize);
    }
    Graph::new(offsets, neighbors, reverse).unwrap()
}

/// A table for each ordered pair of species, of different lengths, of sines.
struct Radial {
    sections: Vec<Section>,
    columns: usize,
    tables: Vec<Table<f64>>,
}

fn table<T: Number>(sections: &[Section], columns: usize, which: usize) -> Table<T> {
    let (cutoff, intervals) = (5.0 + 0.1 * which as f64, 20 + 3 * which);
    let sample = |r: f64| {
        let phase = |f: usize| ((1.0 + 0.1 * (f % 7) as f64) * r + (f + 3 * which) as f64, 1.0 + 0.1 * (f % 7) as f64);
        let of = |g: fn(f64, f64) -> f64| (0..columns).map(|f| g(phase(f).0, phase(f).1)).collect();
        Sample { value: of(|p, _| p.sin()), first: of(|p, k| k * p.cos()), second: of(|p, k| -k * k * p.sin()) }
    };
    let samples: Vec<Sample> = (0..=intervals).map(|k| sample(cutoff * k as f64 / intervals as f64)).collect();
    let ends: Vec<[usize; 2]> = (0..intervals).map(|k| [k, k + 1]).collect();
    Table::new(cutoff, &samples, &ends, sections)
}

/// Three tables for four pairs.
const OF_PAIR: [u32; SPECIES * SPECIES] = [0, 1, 2, 0];

impl Radial {
    fn new(spec: &TensorProductSpec) -> Self {
        Self::of(SlabPlan::<f64>::new(spec).sections().to_vec(), spec.weight_numel)
    }

    fn of(sections: Vec<Section>, columns: usize) -> Self {
        let tables = (0..3).map(|which| table::<f64>(&sections, columns, which)).collect();
        Self { sections, columns, tables }
    }

    fn upload<T: Number>(&self, device: &Device, sections: &[Section]) -> DeviceTables<T> {
        let tables: Vec<_> = (0..3).map(|which| table::<T>(sections, self.columns, which).columns(sections, self.columns)).collect();
        DeviceTables::new(device, &tables, &OF_PAIR).unwrap()
    }

    /// Values and slopes of all columns, `[E][columns]`.
    fn evaluate(&self, atoms: &Atoms, distances: &[f64]) -> Vec<(f64, f64)> {
        let mut all = vec![(0.0, 0.0); distances.len() * self.columns];
        for (e, (&r, row)) in distances.iter().zip(all.chunks_exact_mut(self.columns)).enumerate() {
            for (index, section) in self.sections.iter().enumerate() {
                self.tables[OF_PAIR[atoms.pair(e)] as usize].evaluate(index, r, section, row);
            }
        }
        all
    }
}

#[derive(Clone, Copy)]
struct Case<'a> {
    features: &'a str,
    edge: &'a str,
    l_max: usize,
    normalize: bool,
    unit: bool,
    /// Whether only outputs of natural parity are wanted.
    natural: bool,
}

fn case<'a>(features: &'a str, edge: &'a str, l_max: usize) -> Case<'a> {
    Case { features, edge, l_max, normalize: true, unit: false, natural: false }
}

impl Case<'_> {
    fn spec(&self) -> TensorProductSpec {
        let natural: Vec<Irrep> = (0..=self.l_max).map(|l| format!("{l}{}", ["e", "o"][l % 2]).parse().unwrap()).collect();
        let keep = |out: Irrep| out.l <= self.l_max && (!self.natural || natural.contains(&out));
        TensorProductSpec::new(&TensorProductPaths::new(&self.features.parse().unwrap(), &self.edge.parse().unwrap(), keep).unwrap())
            .unwrap()
    }

    fn lmax(&self) -> usize {
        self.edge.split('+').count() - 1
    }
}

/// Derivatives in plain loops: by the vectors `[E, 3]` and by what neighbours send `[N, dim_in]`.
fn adjoint_reference(
    spec: &TensorProductSpec,
    atoms: &Atoms,
    x: &[f64],
    g: &[f64],
    radial: &[(f64, f64)],
    lmax: usize,
    normalize: bool,
) -> (Vec<f64>, Vec<f64>) {
    let n = spherical_harmonics::count(lmax);
    let y = spherical_harmonics::reference::evaluate(&atoms.vectors, lmax, normalize).unwrap();
    let (mut dy, mut dx) = (vec![0.0; y.len()], vec![0.0; atoms.graph.num_atoms() * spec.dim_in]);
    let mut dr = vec![0.0; atoms.graph.num_edges()];
    for e in 0..atoms.graph.num_edges() {
        let (i, j) = (atoms.graph.centers()[e] as usize, atoms.graph.neighbors()[e] as usize);
        for path in &spec.paths {
            for u in 0..path.mul {
                let (r, slope) = radial[e * spec.weight_numel + path.weight_offset + u];
                for &(m1, m2, m3, c) in &path.coefficients {
                    let g = g[i * spec.dim_out + path.out_offset + m3 * path.out_channels + path.out_channel + u];
                    let (at, m2) = (j * spec.dim_in + path.in_offset + m1 * path.mul + u, e * n + path.edge_offset + m2);
                    dr[e] += c * g * x[at] * y[m2] * slope;
                    dy[m2] += c * g * x[at] * r;
                    dx[at] += c * g * r * y[m2];
                }
            }
        }
    }
    let mut dv = spherical_harmonics::reference::adjoint(&atoms.vectors, &dy, lmax, normalize).unwrap();
    for ((dv, v), (dr, r)) in dv.chunks_exact_mut(3).zip(atoms.vectors.chunks_exact(3)).zip(dr.iter().zip(atoms.distances())) {
        (0..3).for_each(|axis| dv[axis] += dr * v[axis] / r);
    }
    (dv, dx)
}

fn forward_reference(spec: &TensorProductSpec, atoms: &Atoms, x: &[f64], radial: &[(f64, f64)], lmax: usize, normalize: bool) -> Vec<f64> {
    let edges = atoms.graph.num_edges();
    let y = spherical_harmonics::reference::evaluate(&atoms.vectors, lmax, normalize).unwrap();
    let mut q = vec![0.0; edges * (spec.dim_edge + edges)];
    for (e, (row, y)) in q.chunks_exact_mut(spec.dim_edge + edges).zip(y.chunks_exact(spec.dim_edge)).enumerate() {
        row[..spec.dim_edge].copy_from_slice(y);
        row[spec.dim_edge + e] = 1.0;
    }
    let w: Vec<f64> = radial.iter().map(|r| r.0).collect();
    reference::forward(spec, &atoms.graph, x, &q, &w, edges)
}

fn to_f64<T: Number>(buffer: &Buffer<T>) -> Vec<f64> {
    buffer.to_vec().unwrap().into_iter().map(candle_core::WithDType::to_f64).collect()
}

fn upload<T: Number>(device: &Device, numbers: &[f64]) -> Buffer<T> {
    device.upload(&numbers.iter().map(|&x| T::of(x)).collect::<Vec<T>>()).unwrap()
}

/// The largest error, among forward, derivatives by vectors, and derivatives by features in both ways.
fn errors<T: Number>(device: &Device, case: Case<'_>, structures: &[Atoms]) -> [f64; 4] {
    let (spec, lmax) = (case.spec(), case.lmax());
    let radial = Radial::new(&spec);
    let convolution = DeviceConvolution::<T>::new(device, &spec, lmax, case.normalize, case.unit).unwrap();
    let tables = radial.upload::<T>(device, SlabPlan::<T>::new(&spec).sections());
    let mut random = Random::new(3);
    let mut worst = [0.0f64; 4];
    for atoms in structures {
        let (n, capacity) = (atoms.graph.num_atoms(), atoms.capacity());
        let edges = atoms.upload::<T>(device);
        let x: Vec<f64> = (0..n * spec.dim_in).map(|_| if case.unit { 1.0 } else { f64::from(random.number() as f32) }).collect();
        let g: Vec<f64> = (0..n * spec.dim_out).map(|_| f64::from(random.number() as f32)).collect();
        let weights = radial.evaluate(atoms, &atoms.distances());
        let want = forward_reference(&spec, atoms, &x, &weights, lmax, case.normalize);
        let (want_dv, want_dx) = adjoint_reference(&spec, atoms, &x, &g, &weights, lmax, case.normalize);
        let (x_device, g_device) = (upload::<T>(device, &x), upload::<T>(device, &g));
        let sent = (!case.unit).then_some((&x_device, None));
        let mut out = upload::<T>(device, &vec![f64::NAN; n * spec.dim_out]);
        convolution.forward(&edges, edges.all(), &tables, sent, &mut out).unwrap();
        let got = to_f64(&out);
        worst[0] = worst[0].max(relative_error(&got, &want));
        convolution.forward(&edges, edges.all(), &tables, sent, &mut out).unwrap();
        assert!(to_f64(&out) == got, "forward is not deterministic");
        let messages = got;

        let adjoint = |dx: Option<Features<'_, T>>| {
            let mut dv = upload::<T>(device, &vec![1.0; 3 * capacity]);
            convolution.adjoint(&edges, edges.all(), &tables, sent, &g_device, &mut dv, dx).unwrap();
            let list = to_f64(&dv);
            let used: std::collections::BTreeSet<usize> = atoms.place.iter().copied().collect();
            assert!((0..capacity).filter(|at| !used.contains(at)).all(|at| list[3 * at..3 * at + 3] == [1.0; 3]), "unused places");
            list
        };
        let list = adjoint(None);
        let got: Vec<f64> = atoms.of_edges(&list).iter().map(|d| d - 1.0).collect();
        worst[1] = worst[1].max(relative_error(&got, &want_dv));
        assert!(adjoint(None) == list, "the adjoint is not deterministic");
        if !case.unit {
            let mut dx = upload::<T>(device, &vec![f64::NAN; n * spec.dim_in]);
            let mut per_edge = upload::<T>(device, &vec![f64::NAN; capacity * spec.dim_in]);
            let again = adjoint(Some(Features::Gathered { dx: &mut dx, per_edge: &mut per_edge, accumulate: false }));
            assert!(relative_error(&again, &list) < if T::NAME == "f64" { 1e-13 } else { 2e-6 }, "cotangents of features change forces");
            let gathered = to_f64(&dx);
            worst[2] = worst[2].max(relative_error(&gathered, &want_dx));
            adjoint(Some(Features::Gathered { dx: &mut dx, per_edge: &mut per_edge, accumulate: false }));
            assert!(to_f64(&dx) == gathered, "gathering is not deterministic");
            dx.copy_from(&upload::<T>(device, &vec![f64::NAN; n * spec.dim_in]), n * spec.dim_in).unwrap();
            adjoint(Some(Features::Pulled { dx: &mut dx }));
            let pulled = to_f64(&dx);
            worst[3] = worst[3].max(relative_error(&pulled, &want_dx));
            adjoint(Some(Features::Pulled { dx: &mut dx }));
            assert!(to_f64(&dx) == pulled, "pulling is not deterministic");

            // Centres in two parts, with room for the edges of one at a time.
            dx = upload::<T>(device, &vec![f64::NAN; n * spec.dim_in]);
            let mut dv = upload::<T>(device, &vec![1.0; 3 * capacity]);
            for (part, centers) in [0..n / 2, n / 2..n].into_iter().enumerate() {
                let rows = centers.start * spec.dim_out..centers.end * spec.dim_out;
                let mut out = upload::<T>(device, &vec![f64::NAN; rows.len()]);
                convolution.forward(&edges, centers.clone(), &tables, sent, &mut out).unwrap();
                assert!(to_f64(&out) == messages[rows.clone()], "messages differ in parts");
                let room = (atoms.begin[centers.end] - atoms.begin[centers.start]) as usize;
                let mut per_edge = upload::<T>(device, &vec![f64::NAN; room * spec.dim_in]);
                let gathered = Features::Gathered { dx: &mut dx, per_edge: &mut per_edge, accumulate: part > 0 };
                convolution.adjoint(&edges, centers, &tables, sent, &upload(device, &g[rows]), &mut dv, Some(gathered)).unwrap();
            }
            assert!(to_f64(&dv) == again, "derivatives by vectors differ in parts");
            worst[2] = worst[2].max(relative_error(&to_f64(&dx), &want_dx));
        }
    }
    worst
}

fn text(errors: &[f64]) -> String {
    errors.iter().map(|e| format!("{e:.1e} ")).collect()
}

fn check(case: Case<'_>, structures: &[Atoms]) {
    let Some(device) = testing::device() else { return };
    let double = errors::<f64>(&device, case, structures);
    let single = errors::<f32>(&device, case, structures);
    eprintln!("{} x {}: {} {}", case.features, case.edge, text(&double), text(&single));
    assert!(double.iter().all(|&e| e < 1e-13), "{} x {} in f64: {}", case.features, case.edge, text(&double));
    assert!(single.iter().all(|&e| e < 2e-6), "{} x {} in f32: {}", case.features, case.edge, text(&single));
}

/// No atom, one, some without edges, ragged counts of neighbours.
fn structures(sizes: &[usize]) -> Vec<Atoms> {
    let mut random = Random::new(1);
    sizes.iter().map(|&n| Atoms::new(random_graph(n, &mut random), &mut random)).collect()
}

const MACE: &str = "0e+1o+2e+3o";

#[test]
fn mace_second_layers() {
    for n in [4, 40, 64] {
        check(case(&format!("{n}x0e"), MACE, 3), &structures(&[1, 2, 9]));
    }
    for n in [4, 40] {
        check(Case { natural: true, ..case(&format!("{n}x0e+{n}x1o"), MACE, 3) }, &structures(&[1, 7]));
    }
    check(Case { natural: true, ..case("33x0e+33x1o+33x2e", MACE, 3) }, &structures(&[5]));
}

#[test]
fn published_sizes() {
    check(case("128x0e", MACE, 3), &structures(&[4]));
    check(Case { natural: true, ..case("128x0e+128x1o", MACE, 3) }, &structures(&[4]));
    check(case("128x0e+64x1e+32x2e", "0e+1e+2e", 2), &structures(&[4]));
}

#[test]
fn sevennet_and_parities() {
    check(case("16x0e+8x1e+4x2e", "0e+1e+2e", 2), &structures(&[0, 1, 9]));
    check(case("3x0o+5x0e+2x1e+4x1o", "0e+1o+2e", 2), &structures(&[8]));
    // The odd scalars take part in no path.
    check(Case { natural: true, ..case("3x0o+5x0e+2x1o", "0e+1o+2e", 1) }, &structures(&[8]));
    check(Case { normalize: false, ..case("3x0e+2x1o", "0e+1o+2e+3o+4e", 4) }, &structures(&[5]));
    check(case("37x0e", "0e", 0), &structures(&[6]));
}

#[test]
fn first_layers_whose_features_are_one() {
    for features in ["4x0e", "40x0e"] {
        check(Case { unit: true, ..case(features, MACE, 3) }, &structures(&[1, 9]));
    }
}

#[test]
fn many_neighbours() {
    let mut random = Random::new(2);
    let crowded = || vec![Atoms::new(star(300), &mut Random::new(2))];
    check(case("5x0e+3x1o", "0e+1o+2e", 2), &crowded());
    check(Case { unit: true, ..case("4x0e", MACE, 3) }, &[Atoms::new(star(300), &mut random)]);
}

/// Features that belong to species: rows by an index.
#[test]
fn rows_by_species() {
    let Some(device) = testing::device() else { return };
    let (case, atoms) = (case("6x0e", "0e+1o", 1), structures(&[9]).remove(0));
    let spec = case.spec();
    let convolution = DeviceConvolution::<f64>::new(&device, &spec, 1, true, false).unwrap();
    let tables = Radial::new(&spec).upload::<f64>(&device, SlabPlan::<f64>::new(&spec).sections());
    let edges = atoms.upload::<f64>(&device);
    let by_species = Random::new(8).numbers(SPECIES * 6);
    let by_atom: Vec<f64> = atoms.species.iter().flat_map(|&z| by_species[6 * z as usize..][..6].to_vec()).collect();
    let g = upload::<f64>(&device, &Random::new(9).numbers(9 * spec.dim_out));
    let species = device.upload(&atoms.species).unwrap();
    let run = |rows: &[f64], index: Option<&Buffer<u32>>| {
        let x = upload::<f64>(&device, rows);
        let (mut out, mut dv) = (device.zeros(9 * spec.dim_out).unwrap(), device.zeros(3 * atoms.capacity()).unwrap());
        convolution.forward(&edges, edges.all(), &tables, Some((&x, index)), &mut out).unwrap();
        convolution.adjoint(&edges, edges.all(), &tables, Some((&x, index)), &g, &mut dv, None).unwrap();
        (out.to_vec().unwrap(), dv.to_vec().unwrap())
    };
    assert!(run(&by_species, Some(&species)) == run(&by_atom, None));
}

/// The loops that everything is compared with, against finite differences.
#[test]
fn reference_derivatives_are_those_of_the_reference() {
    let (case, mut atoms) = (Case { natural: true, ..case("2x0e+3x1o", "0e+1o+2e", 2) }, structures(&[4]).remove(0));
    let spec = case.spec();
    let radial = Radial::new(&spec);
    let mut random = Random::new(4);
    let (x, g) = (random.numbers(4 * spec.dim_in), random.numbers(4 * spec.dim_out));
    let value = |atoms: &Atoms, x: &[f64]| {
        let out = forward_reference(&spec, atoms, x, &radial.evaluate(atoms, &atoms.distances()), 2, true);
        out.iter().zip(&g).map(|(a, b)| a * b).sum::<f64>()
    };
    let (dv, dx) = adjoint_reference(&spec, &atoms, &x, &g, &radial.evaluate(&atoms, &atoms.distances()), 2, true);
    let numeric = tesseral_testkit::derivative(&x, 1e-3, |x| value(&atoms, x));
    assert!(relative_error(&dx, &numeric) < 1e-10);
    let vectors = atoms.vectors.clone();
    let numeric = tesseral_testkit::derivative(&vectors, 1e-4, |moved| {
        atoms.vectors = moved.to_vec();
        value(&atoms, &x)
    });
    assert!(!numeric.is_empty() && relative_error(&dv, &numeric) < 1e-8, "{:e}", relative_error(&dv, &numeric));
}

fn density<T: Number>(tolerance: f64) {
    let Some(device) = testing::device() else { return };
    let lanes = width::<T>();
    let radial = Radial::of(vec![(0..width::<f64>()).map(|k| (k == 0).then_some(0)).collect()], 1);
    let tables = radial.upload::<T>(&device, &[(0..lanes).map(|k| (k == 0).then_some(0)).collect::<Section>()]);
    let kernels = DeviceDensity::<T>::new(&device).unwrap();
    for atoms in [structures(&[9]).remove(0), structures(&[1]).remove(0), Atoms::new(star(300), &mut Random::new(2))] {
        let n = atoms.graph.num_atoms();
        let edges = atoms.upload::<T>(&device);
        let g: Vec<f64> = Random::new(6).numbers(n).into_iter().map(|x| f64::from(x as f32)).collect();
        let (mut want, mut want_dv) = (vec![0.0; n], Vec::new());
        for (e, (value, slope)) in radial.evaluate(&atoms, &atoms.distances()).into_iter().enumerate() {
            let i = atoms.graph.centers()[e] as usize;
            want[i] += value;
            want_dv.extend(atoms.vectors[3 * e..3 * e + 3].iter().map(|v| g[i] * slope * v / atoms.distances()[e]));
        }
        let (mut rho, mut dv) = (upload::<T>(&device, &vec![f64::NAN; n]), device.zeros(3 * atoms.capacity()).unwrap());
        kernels.forward(&edges, edges.all(), &tables, &mut rho).unwrap();
        kernels.adjoint(&edges, edges.all(), &tables, &upload(&device, &g), &mut dv).unwrap();
        let [value, slope] = [relative_error(&to_f64(&rho), &want), relative_error(&atoms.of_edges(&to_f64(&dv)), &want_dv)];
        assert!(value < tolerance && slope < tolerance, "{}: {value:e} {slope:e}", T::NAME);
    }
}

#[test]
fn densities() {
    density::<f64>(1e-13);
    density::<f32>(2e-6);
}
