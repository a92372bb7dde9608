//! Parameters that are trained on a device: how kernels read them, and where their cotangents come from.

#![allow(unsafe_code, reason = "launches of kernels, whose lengths are checked")]

use tesseral_kernels::{Args, Buffer, Device, DeviceError, Kernel, Launch, Source};

use crate::linear::cuda::DeviceChunks;
use crate::real::Real;
use crate::rows::{room, size};

/// Threads of a block, as in `parameters.cu`.
const THREADS: usize = 256;
/// The entry of a parameter that is in none, as in `parameters.cu`.
const NONE: u32 = u32::MAX;

const KERNELS: [&str; 2] = ["combine_parameters", "collect_parameters"];

/// The source of the kernels: one for all.
pub fn source<T: tesseral_kernels::Real>() -> Source {
    Source::new::<T>("parameters", &KERNELS, String::new())
}

/// One number that kernels read: a factor times the sum of some parameters, none of which is in another entry.
pub(crate) struct Entry {
    pub(crate) parameters: Vec<usize>,
    pub(crate) factor: f64,
}

/// Between parameters `[sets, parameters, width]` and the entries `[sets, entries, width]` that kernels read.
pub(crate) struct ParameterMap<T> {
    begin: Buffer<u32>,
    terms: Buffer<u32>,
    factors: Buffer<T>,
    entry_of: Buffer<u32>,
    entries: usize,
    parameters: usize,
    width: usize,
    combine: Kernel,
    collect: Kernel,
}

impl<T: Real + tesseral_kernels::Real> ParameterMap<T> {
    /// `entries` name parameters below `parameters`.
    pub(crate) fn new(device: &Device, entries: &[Entry], parameters: usize, width: usize) -> Result<Self, DeviceError> {
        let (mut begin, mut terms, mut entry_of) = (vec![0], Vec::new(), vec![NONE; parameters]);
        for (e, entry) in entries.iter().enumerate() {
            for &p in &entry.parameters {
                size("parameters", "entries of a parameter", usize::from(entry_of[p] != NONE) + 1, 1)?;
                entry_of[p] = e as u32;
                terms.push(p as u32);
            }
            begin.push(terms.len() as u32);
        }
        let factors: Vec<T> = entries.iter().map(|e| T::of(e.factor)).collect();
        let module = device.load(&source::<T>())?;
        Ok(Self {
            begin: device.upload(&begin)?,
            terms: device.upload(&terms)?,
            factors: device.upload(&factors)?,
            entry_of: device.upload(&entry_of)?,
            entries: entries.len(),
            parameters,
            width,
            combine: module.kernel(KERNELS[0])?,
            collect: module.kernel(KERNELS[1])?,
        })
    }

    /// Length of the entries of one set, or of one chunk.
    pub(crate) fn entries_len(&self) -> usize {
        self.entries * self.width
    }

    fn launch(&self, rows: usize, sets: usize) -> Launch {
        Launch { grid: [(rows * self.width).div_ceil(THREADS) as u32, sets as u32, 1], block: [THREADS as u32, 1, 1], shared: 0 }
    }

    /// Parameters → entries.
    pub(crate) fn combine(&self, parameters: &Buffer<T>, entries: &mut Buffer<T>, sets: usize) -> Result<(), DeviceError> {
        room("parameters", parameters, sets * self.parameters * self.width)?;
        room("entries of parameters", entries, sets * self.entries_len())?;
        let mut args = Args::new();
        args.buffer(parameters).buffer(&self.begin).buffer(&self.terms).buffer(&self.factors).buffer_mut(entries);
        args.value(self.parameters as u32).value(self.entries as u32).value(self.width as u32);
        // SAFETY: lengths have just been checked, and terms are below the number of parameters since `new`.
        unsafe { self.combine.launch(&self.launch(self.entries, sets), &args) }
    }

    /// Cotangents of entries, `partial` `[chunks, entries, width]` → cotangents of parameters, summed over the chunks of each set.
    pub(crate) fn collect(&self, partial: &Buffer<T>, chunks: &DeviceChunks, gradient: &mut Buffer<T>) -> Result<(), DeviceError> {
        room("cotangents of chunks", partial, chunks.len() * self.entries_len())?;
        room("cotangents of parameters", gradient, chunks.sets() * self.parameters * self.width)?;
        let mut args = Args::new();
        args.buffer(partial).buffer(chunks.of_set()).buffer(&self.entry_of).buffer(&self.factors).buffer_mut(gradient);
        args.value(self.parameters as u32).value(self.entries as u32).value(self.width as u32);
        // SAFETY: lengths have just been checked; chunks of sets are below their number, and entries below theirs, by construction.
        unsafe { self.collect.launch(&self.launch(self.parameters, chunks.sets()), &args) }
    }
}
