use tesseral_kernels::testing;
use tesseral_ops::rows::{DeviceIndex, DeviceRows};
use tesseral_testkit::{Random, relative_error};

use super::{Precision, error, garbage, random, species, widen};

fn steps<T: Precision>() {
    let Some(device) = testing::device() else { return };
    let rows = DeviceRows::<T>::new(&device).unwrap();
    for (n, dim) in [(0, 7), (1, 1), (37, 128), (130, 33)] {
        let mut numbers = Random::new((n + dim) as u64);
        let of_atom = species(n, 5);
        let index = DeviceIndex::new(&device, &of_atom, 5).unwrap();
        let (table, wide_table) = random::<T>(&mut numbers, 5 * dim);
        let (factors, wide_factors) = random::<T>(&mut numbers, 5);
        let (x, wide_x) = random::<T>(&mut numbers, n * dim);
        let (y, wide_y) = random::<T>(&mut numbers, n * dim);
        let rho: Vec<T> = numbers.numbers(n).into_iter().map(|r| T::of(r + 1.5)).collect();
        let wide_rho = widen(&rho);
        let upload = |v: &[T]| device.upload(v).unwrap();
        let (table, factors, x, rho) = (upload(&table), upload(&factors), upload(&x), upload(&rho));
        let check = |what: &str, error: f64| assert!(error < T::TOLERANCE, "{what}: {n} rows of {dim}, {}: {error:e}", T::NAME);
        let each = |f: &dyn Fn(usize, usize) -> f64| (0..n * dim).map(|k| f(k / dim, k)).collect::<Vec<f64>>();
        let from_table = |i: usize, k: usize| wide_table[of_atom[i] as usize * dim + k % dim];

        let mut to = garbage::<T>(&device, n * dim);
        rows.take(&table, &index, &mut to, dim).unwrap();
        check("take", error(&to, &each(&from_table)));
        rows.add_table(&table, &index, &mut to, dim).unwrap();
        check("add table", error(&to, &each(&|i, k| 2.0 * from_table(i, k))));
        rows.add(&x, &mut to, n, dim).unwrap();
        check("add", error(&to, &each(&|i, k| 2.0 * from_table(i, k) + wide_x[k])));

        let mut to = upload(&y);
        rows.scale(&factors, &index, &mut to, dim).unwrap();
        check("scale", error(&to, &each(&|i, k| wide_y[k] * wide_factors[of_atom[i] as usize])));

        let (alpha, beta) = (0.5, 2.0);
        let divisor = |i: usize| alpha + beta * wide_rho[i];
        let mut divided = upload(&y);
        rows.divide(&rho, (T::of(alpha), T::of(beta)), &mut divided, n, dim).unwrap();
        check("divide", error(&divided, &each(&|i, k| wide_y[k] / divisor(i))));
        let mut g = upload(&x.to_vec().unwrap());
        let mut d_rho = garbage::<T>(&device, n);
        rows.divide_adjoint(&rho, (T::of(alpha), T::of(beta)), &divided, &mut g, &mut d_rho, n, dim).unwrap();
        check("divide, adjoint", error(&g, &each(&|i, k| wide_x[k] / divisor(i))));
        // d/dρ of Σ x·y/(α + βρ).
        let dot = |i: usize| (0..dim).map(|c| wide_x[i * dim + c] * wide_y[i * dim + c]).sum::<f64>();
        let want: Vec<f64> = (0..n).map(|i| -beta * dot(i) / divisor(i).powi(2)).collect();
        check("divide, adjoint by density", error(&d_rho, &want));
        let mut d = garbage::<T>(&device, n);
        rows.dot(&x, &upload(&y), &mut d, n, dim).unwrap();
        check("dot", error(&d, &(0..n).map(dot).collect::<Vec<_>>()));

        let (scale, shift, read) = (numbers.numbers(5), numbers.numbers(5), numbers.numbers(n));
        let mut seeds = garbage::<T>(&device, n);
        let (on_device, shifts) = (device.upload(&scale).unwrap(), device.upload(&shift).unwrap());
        rows.seeds(&on_device, &index, &mut seeds).unwrap();
        check("seeds", error(&seeds, &of_atom.iter().map(|&s| scale[s as usize]).collect::<Vec<_>>()));
        let mut energies = device.upload(&vec![1.0; n]).unwrap();
        let read_on_device = device.upload(&read).unwrap();
        rows.add_energies(&read_on_device, &on_device, None, &index, &mut energies).unwrap();
        rows.add_energies(&read_on_device, &on_device, Some(&shifts), &index, &mut energies).unwrap();
        let want: Vec<f64> = (0..n).map(|i| 1.0 + 2.0 * scale[of_atom[i] as usize] * read[i] + shift[of_atom[i] as usize]).collect();
        check("energies", relative_error(&energies.to_vec().unwrap(), &want));
    }
}

#[test]
fn steps_in_f64() {
    steps::<f64>();
}

#[test]
fn steps_in_f32() {
    steps::<f32>();
}

#[test]
fn what_does_not_fit_is_an_error() {
    let Some(device) = testing::device() else { return };
    assert!(DeviceIndex::new(&device, &[0, 5], 5).is_err());
    let rows = DeviceRows::<f32>::new(&device).unwrap();
    let index = DeviceIndex::new(&device, &[0, 4], 5).unwrap();
    let (table, mut y) = (device.zeros(15).unwrap(), device.zeros(6).unwrap());
    assert!(rows.take(&table, &index, &mut y, 3).is_ok());
    assert!(rows.take(&table, &index, &mut y, 4).is_err());
    assert!(rows.take(&device.zeros(14).unwrap(), &index, &mut y, 3).is_err());
    assert!(rows.scale(&device.zeros(4).unwrap(), &index, &mut y, 3).is_err());
}
