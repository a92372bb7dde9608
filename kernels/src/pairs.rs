//! Pair repulsion: Ziegler–Biersack–Littmark with a polynomial envelope, evaluated exactly in f64.

#![allow(unsafe_code, reason = "launches")]

use std::marker::PhantomData;

use crate::edges::Edges;
use crate::grid::{check_len, warps};
use crate::{Args, Buffer, Device, DeviceError, Kernel, Real, Source};

/// The repulsion of one pair of species: factor · strength / r · Σ c_i exp(−b_i r / length) · envelope(r / cutoff), for each direction of an edge.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PairConstants {
    /// ½·k·Z_u·Z_v, eV·Å.
    pub strength: f64,
    /// 1/Å
    pub inverse_length: f64,
    /// Where it ends, Å; zero for pairs without repulsion.
    pub cutoff: f64,
    /// Times the energy.
    pub factor: f64,
}

/// Computes the repulsion.
pub struct Repulsion<T> {
    kernel: Kernel,
    constants: Buffer<f64>,
    p: u32,
    real: PhantomData<T>,
}

impl<T: Real> Repulsion<T> {
    /// What is compiled.
    pub fn source() -> Source {
        Source::new::<T>("pairs", &["pairs"], String::new())
    }

    /// From the screening (c_i, b_i), the exponent of the envelope (at least 1) and the constants of all pairs of species, `[S, S]`.
    ///
    /// # Errors
    /// If the exponent is 0, compilation fails or memory is short.
    pub fn new(device: &Device, screening: &[(f64, f64); 4], p: u32, pairs: &[PairConstants]) -> Result<Self, DeviceError> {
        if p == 0 {
            return Err(DeviceError::Launch { kernel: "pairs", what: "the exponent of its envelope is 0".to_owned() });
        }
        let of_pairs = pairs.iter().flat_map(|pair| [pair.strength, pair.inverse_length, pair.cutoff, pair.factor]);
        let constants: Vec<f64> = screening.iter().flat_map(|&(c, b)| [c, b]).chain(of_pairs).collect();
        let kernel = device.load(&Self::source())?.kernel("pairs")?;
        Ok(Self { kernel, constants: device.upload(&constants)?, p, real: PhantomData })
    }

    /// Adds the repulsion of all active edges to the energies of their centres, `[N]`, eV, and its derivatives to those by edge vectors, `dv`
    /// `[capacity, 3]`, eV/Å. Pairs of the edges must be below the number of pairs given.
    ///
    /// # Errors
    /// If lengths do not fit, or the device fails.
    pub fn add(&self, edges: &Edges<T>, energies: &mut Buffer<f64>, dv: &mut Buffer<T>) -> Result<(), DeviceError> {
        check_len("energies of atoms", energies.len(), edges.atoms)?;
        check_len("derivatives by edge vectors", dv.len(), edges.vector.len())?;
        let mut args = Args::new();
        args.buffer(&edges.begin)
            .buffer(&edges.count)
            .buffer(&edges.pair)
            .buffer(&edges.distance)
            .buffer(&edges.vector)
            .buffer(&self.constants)
            .value(self.p)
            .value(edges.atoms as u32)
            .buffer_mut(energies)
            .buffer_mut(dv);
        // SAFETY: edges lie within the capacity, to which `dv` is as long as the vectors; each atom has an energy, each pair constants.
        unsafe { self.kernel.launch(&warps(edges.atoms), &args) }
    }
}
