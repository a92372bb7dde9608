//! The pair repulsion on a device against the function it is made of, and its forces against finite differences.

#![allow(clippy::unwrap_used, reason = "tests")]

use tesseral_kernels::edges::{Cutoffs, EdgeKernels, Edges, Positions};
use tesseral_kernels::forces::{ForceKernels, ForceWork};
use tesseral_kernels::neighbors::{HostList, NeighborTable};
use tesseral_kernels::pairs::{PairConstants, Repulsion};
use tesseral_kernels::{Device, Real, testing};
use tesseral_ops::radial::{ScalarFunction, ZblConstants};
use tesseral_testkit::{Random, derivative, relative_error};

const NUMBERS: [u32; 3] = [1, 8, 29];
/// Of each species, times the energy of its pairs.
const FACTORS: [f64; 3] = [1.0, 0.8, 1.7];
/// Å; one pair has no repulsion.
const ENDS: [f64; 9] = [1.3, 2.0, 0.0, 2.0, 3.0, 3.4, 0.0, 3.4, 4.6];
const CUTOFF: f64 = 4.0;

struct Repelling {
    device: Device,
    table: NeighborTable,
    cells: tesseral_kernels::Buffer<f64>,
    species: Vec<u32>,
    functions: Vec<Option<ScalarFunction>>,
    constants: Vec<PairConstants>,
    screening: [(f64, f64); 4],
    p: u32,
    positions: Vec<f64>,
}

impl Repelling {
    fn new(device: Device, zbl: &ZblConstants, p: u32) -> Self {
        let mut random = Random::new(5);
        let mut positions: Vec<[f64; 3]> = Vec::new();
        while positions.len() < 24 {
            let next: [f64; 3] = std::array::from_fn(|_| 3.0 * random.number());
            // Not too close, where the repulsion is of keV.
            if positions.iter().all(|r| (0..3).map(|x| (r[x] - next[x]).powi(2)).sum::<f64>() > 1.0) {
                positions.push(next);
            }
        }
        // All pairs.
        let n = positions.len();
        let offsets: Vec<usize> = (0..=n).map(|i| i * (n - 1)).collect();
        let neighbors: Vec<u32> = (0..n).flat_map(|i| (0..n).filter(move |&j| j != i).map(|j| j as u32)).collect();
        let place = |i: usize, j: usize| (i * (n - 1) + j - usize::from(j > i)) as u32;
        let reverse: Vec<u32> = (0..n).flat_map(|i| (0..n).filter(move |&j| j != i).map(move |j| place(j, i))).collect();
        let list = HostList { offsets: &offsets, neighbors: &neighbors, shifts: &vec![[0; 3]; neighbors.len()], reverse: &reverse };
        let table = NeighborTable::upload(&device, &[list]).unwrap();
        let species = (0..positions.len() as u32).map(|i| i % 3).collect();
        let functions: Vec<Option<ScalarFunction>> = (0..9)
            .map(
                |pair| {
                    if ENDS[pair] == 0.0 { None } else { zbl.pair_energy(&[NUMBERS[pair / 3]], &[NUMBERS[pair % 3]], &[ENDS[pair]], p) }
                },
            )
            .collect();
        let constants = functions
            .iter()
            .enumerate()
            .map(|(pair, function)| match function {
                Some(ScalarFunction::Zbl { strength, inverse_length, cutoffs, .. }) => PairConstants {
                    strength: strength[0],
                    inverse_length: inverse_length[0],
                    cutoff: cutoffs[0],
                    factor: FACTORS[pair / 3],
                },
                _ => PairConstants { strength: 0.0, inverse_length: 0.0, cutoff: 0.0, factor: 0.0 },
            })
            .collect();
        Self {
            cells: device.zeros(9).unwrap(),
            table,
            species,
            functions,
            constants,
            screening: zbl.screening,
            p,
            positions: positions.as_flattened().to_vec(),
            device,
        }
    }

    /// Energy, and −dE/dr.
    fn evaluate<T: Real + Into<f64>>(&mut self, positions: &[f64], dv_error: &mut f64) -> (f64, Vec<f64>) {
        let (device, n) = (&self.device, positions.len() / 3);
        let mut edges = Edges::<T>::new(device, &self.table).unwrap();
        let (on_device, species) = (device.upload(positions).unwrap(), device.upload(&self.species).unwrap());
        let at = Positions { positions: &on_device, cells: &self.cells, species: &species };
        let cutoffs = Cutoffs::new(device, 3, &[CUTOFF * CUTOFF; 9]).unwrap();
        let mut closest = device.zeros(n).unwrap();
        EdgeKernels::new(device).unwrap().update(&mut self.table, at, &cutoffs, &mut edges, &mut closest).unwrap();
        let mut energies = device.upload(&vec![0.25; n]).unwrap();
        let mut dv = device.zeros::<T>(3 * edges.capacity).unwrap();
        let repulsion = Repulsion::new(device, &self.screening, self.p, &self.constants).unwrap();
        repulsion.add(&edges, &mut energies, &mut dv).unwrap();

        let (begin, count, pair) = (edges.begin.to_vec().unwrap(), edges.count.to_vec().unwrap(), edges.pair.to_vec().unwrap());
        let (distance, vector) = (edges.distance.to_vec().unwrap(), edges.vector.to_vec().unwrap());
        let (mut want_energies, mut want_dv) = (vec![0.25; n], vec![0.0; 3 * edges.capacity]);
        for i in 0..n {
            for a in (begin[i] as usize..).take(count[i] as usize) {
                let Some(function) = &self.functions[pair[a] as usize] else { continue };
                let (value, slope) = function.value_and_derivative(0, distance[a]);
                let factor = FACTORS[self.species[i] as usize];
                want_energies[i] += factor * value;
                for x in 3 * a..3 * a + 3 {
                    want_dv[x] = factor * slope / distance[a] * vector[x].into();
                }
            }
        }
        let got_dv: Vec<f64> = dv.to_vec().unwrap().into_iter().map(Into::into).collect();
        *dv_error = dv_error.max(relative_error(&got_dv, &want_dv));
        let got = energies.to_vec().unwrap();
        assert!(relative_error(&got, &want_energies) < 1e-14);
        assert!(want_energies.iter().any(|&e| e > 1.0));

        let sums = ForceKernels::<T>::new(device).unwrap();
        let mut work = ForceWork::new(device, &self.table).unwrap();
        let (mut forces, mut virial, mut energy) = (device.zeros(3 * n).unwrap(), device.zeros(9).unwrap(), device.zeros(1).unwrap());
        sums.assemble(&self.table, &edges, &dv, &mut work, &mut forces, &mut virial).unwrap();
        sums.energies(&self.table, &energies, &mut work, &mut energy).unwrap();
        (energy.to_vec().unwrap()[0], forces.to_vec().unwrap())
    }
}

#[test]
fn pair_repulsion_is_the_function_it_is_made_of() {
    for (zbl, p) in [(ZblConstants::MACE, 6), (ZblConstants::LAMMPS, 1)] {
        let Some(device) = testing::device() else { return };
        let mut repelling = Repelling::new(device, &zbl, p);
        let positions = repelling.positions.clone();
        let (mut double, mut single) = (0.0, 0.0);
        let (_, forces) = repelling.evaluate::<f64>(&positions, &mut double);
        repelling.evaluate::<f32>(&positions, &mut single);
        assert!(double < 1e-13 && single < 2e-7, "{double:e} {single:e}");
        if p > 1 {
            let gradient = derivative(&positions, 1e-3, |at| repelling.evaluate::<f64>(at, &mut double).0);
            let negative: Vec<f64> = gradient.iter().map(|g| -g).collect();
            assert!(relative_error(&forces, &negative) < 1e-9, "{}", relative_error(&forces, &negative));
        }
    }
}
