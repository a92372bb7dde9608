//! Linear maps on a device: products of matrices, all instructions of a map in one launch.

#![allow(unsafe_code, reason = "launches of kernels, whose lengths are checked")]

mod training;

use std::sync::Arc;

use tesseral_kernels::{Args, Buffer, Device, DeviceError, Kernel, Launch, Source};

pub use training::{DeviceChunks, TrainedLinear, weights_source};

use super::LinearSpec;
use crate::on_device::twin;
use crate::real::Real;
use crate::rows::{DeviceIndex, room, size};

/// Atoms of a tile, channels of a job and threads of a block, as in `linear.cu`.
const TILE: usize = 64;
const COLUMNS: usize = 64;
const THREADS: usize = 128;

/// Which weights each atom of a structure uses: atoms by species, in tiles of one species.
pub struct DeviceGroups {
    order: Buffer<u32>,
    species: DeviceIndex,
    tiles: Buffer<u32>,
    num_tiles: usize,
    /// Where each species starts in the order, and where the last ends.
    starts: Vec<usize>,
}

impl DeviceGroups {
    /// Atoms by species, each below `sets`.
    ///
    /// # Errors
    /// If a species is out of range, or the device fails.
    pub fn by_species(device: &Device, species: &[u32], sets: usize) -> Result<Self, DeviceError> {
        let index = DeviceIndex::new(device, species, sets)?;
        let groups = super::Groups::new(species, sets).expect("the index was checked");
        let (mut tiles, mut starts) = (Vec::new(), vec![0]);
        for set in 0..sets {
            let range = groups.range(set);
            starts.push(range.end);
            for first in range.clone().step_by(TILE) {
                tiles.extend([set as u32, first as u32, TILE.min(range.end - first) as u32, 0]);
            }
        }
        let (order, num_tiles) = (device.upload(groups.order())?, tiles.len() / 4);
        Ok(Self { order, species: index, num_tiles, tiles: device.upload(&tiles)?, starts })
    }

    /// All atoms in their order, for maps with one set of weights.
    ///
    /// # Errors
    /// If the device fails.
    pub fn of_all(device: &Device, atoms: usize) -> Result<Self, DeviceError> {
        Self::by_species(device, &vec![0; atoms], 1)
    }

    /// How many atoms.
    pub fn atoms(&self) -> usize {
        self.order.len()
    }

    /// How many species there may be.
    pub fn sets(&self) -> usize {
        self.species.bound()
    }

    /// Atoms, those of species 0 first.
    pub fn order(&self) -> &Buffer<u32> {
        &self.order
    }

    /// The species of each atom.
    pub fn species(&self) -> &DeviceIndex {
        &self.species
    }
}

impl super::Groups {
    /// The same on a device, kept as long as these.
    pub(crate) fn on_device(self: &Arc<Self>, device: &Device) -> Result<Arc<DeviceGroups>, DeviceError> {
        twin(device, self, [0, 0], || {
            let mut species = vec![0; self.order().len()];
            for group in 0..self.len() {
                self.order()[self.range(group)].iter().for_each(|&row| species[row as usize] = group as u32);
            }
            DeviceGroups::by_species(device, &species, self.len())
        })
    }
}

/// What one direction of a map does, as `linear.cu` reads it.
struct Jobs {
    /// Output offset, width, first part, parts.
    jobs: Buffer<u32>,
    /// Input offset, depth, offset of the weights, their pitch.
    parts: Buffer<u32>,
    /// Jobs into which there are instructions; those after them write what no instruction does.
    mapped: usize,
    all: usize,
}

impl Jobs {
    fn new(device: &Device, spec: &LinearSpec, transposed: bool) -> Result<Self, DeviceError> {
        // Output blocks, with the instructions into each in order.
        let mut blocks: Vec<(usize, usize, usize, Vec<[usize; 4]>)> = Vec::new();
        for i in &spec.instructions {
            let (from, mul_from, to, mul_to) = if transposed {
                (i.out_offset, i.mul_out, i.in_offset, i.mul_in)
            } else {
                (i.in_offset, i.mul_in, i.out_offset, i.mul_out)
            };
            let part = [from, mul_from, i.weight_offset, i.mul_out];
            match blocks.iter_mut().find(|b| (b.0, b.1, b.2) == (to, i.components, mul_to)) {
                Some(block) => block.3.push(part),
                None => blocks.push((to, i.components, mul_to, vec![part])),
            }
        }
        blocks.sort_by_key(|b| b.0);
        let (mut jobs, mut rest, mut parts) = (Vec::new(), Vec::new(), Vec::new());
        let mut end = 0;
        let mut gap = |from: usize, to: usize| (from..to).step_by(COLUMNS).for_each(|c| rest.extend([c, COLUMNS.min(to - c), 0, 0]));
        for (to, components, mul, instructions) in &blocks {
            size("linear", "start of a block that another overlaps", *to.max(&end), *to)?;
            gap(end, *to);
            end = to + components * mul;
            for m in 0..*components {
                for column in (0..*mul).step_by(COLUMNS) {
                    jobs.extend([to + m * mul + column, COLUMNS.min(mul - column), parts.len() / 4, instructions.len()]);
                    for &[from, depth, weights, pitch] in instructions {
                        let start = if transposed { column * pitch } else { column };
                        parts.extend([from + m * depth, depth, weights + start, pitch]);
                    }
                }
            }
        }
        gap(end, if transposed { spec.dim_in } else { spec.dim_out });
        let mapped = jobs.len() / 4;
        jobs.append(&mut rest);
        let narrow = |v: &[usize]| v.iter().map(|&v| v as u32).collect::<Vec<_>>();
        Ok(Self { all: jobs.len() / 4, mapped, jobs: device.upload(&narrow(&jobs))?, parts: device.upload(&narrow(&parts))? })
    }
}

/// The source of the kernels: one for all maps.
pub fn source<T: tesseral_kernels::Real>() -> Source {
    Source::new::<T>("linear", &["linear", "linear_adjoint"], String::new())
}

/// A linear map with its weights on a device.
pub struct DeviceLinear<T> {
    dim_in: usize,
    dim_out: usize,
    sets: usize,
    set_stride: usize,
    weights: Buffer<T>,
    bias: Option<Buffer<T>>,
    jobs: [Jobs; 2],
    kernels: [Kernel; 2],
}

impl<T: Real + tesseral_kernels::Real> DeviceLinear<T> {
    /// `flat` are the weights `[sets, weight_numel]` of `spec`, one set for all atoms or one for each species; `factor` multiplies them all. `bias`
    /// `[dim_out]` is added to what comes out.
    ///
    /// # Errors
    /// If weights or bias do not fit, blocks of the spec overlap, or the device fails.
    pub fn new(device: &Device, spec: &LinearSpec, flat: &[f64], factor: f64, bias: Option<&[f64]>) -> Result<Self, DeviceError> {
        let numel = spec.weight_numel;
        let sets = (flat.len() / numel.max(1)).max(1);
        size("linear", "weights", flat.len(), sets * numel)?;
        if let Some(bias) = bias {
            size("linear", "bias", bias.len(), spec.dim_out)?;
        }
        let mut weights = vec![T::of(0.0); flat.len()];
        for i in &spec.instructions {
            let block = i.weight_offset..i.weight_offset + i.mul_in * i.mul_out;
            for set in 0..sets {
                for k in block.clone() {
                    weights[set * numel + k] = T::of(flat[set * numel + k] * (i.scale * factor));
                }
            }
        }
        let module = device.load(&source::<T>())?;
        Ok(Self {
            dim_in: spec.dim_in,
            dim_out: spec.dim_out,
            sets,
            set_stride: if sets == 1 { 0 } else { numel },
            weights: device.upload(&weights)?,
            bias: bias.map(|b| device.upload(&b.iter().map(|&b| T::of(b)).collect::<Vec<_>>())).transpose()?,
            jobs: [Jobs::new(device, spec, false)?, Jobs::new(device, spec, true)?],
            kernels: [module.kernel("linear")?, module.kernel("linear_adjoint")?],
        })
    }

    fn apply(
        &self,
        x: &Buffer<T>,
        y: &mut Buffer<T>,
        groups: &DeviceGroups,
        accumulate: bool,
        transposed: bool,
    ) -> Result<(), DeviceError> {
        let (dim_in, dim_out) = if transposed { (self.dim_out, self.dim_in) } else { (self.dim_in, self.dim_out) };
        size("linear", "sets of weights", self.sets, if self.sets == 1 { 1 } else { groups.sets() })?;
        room("features of a linear map", x, groups.atoms() * dim_in)?;
        room("results of a linear map", y, groups.atoms() * dim_out)?;
        let bias = self.bias.as_ref().filter(|_| !transposed);
        let jobs = &self.jobs[usize::from(transposed)];
        let count = if accumulate && bias.is_none() { jobs.mapped } else { jobs.all };
        let launch = Launch { grid: [groups.num_tiles as u32, count as u32, 1], block: [THREADS as u32, 1, 1], shared: 0 };
        let mut args = Args::new();
        args.buffer(x).buffer_mut(y).buffer(&self.weights);
        match bias {
            Some(bias) => args.buffer(bias),
            None => args.null(),
        };
        args.buffer(&groups.order).buffer(&groups.tiles).buffer(&jobs.jobs).buffer(&jobs.parts);
        args.value(dim_in as u32).value(dim_out as u32).value(self.set_stride as u32).value(u32::from(accumulate));
        // SAFETY: lengths have just been checked; tiles cover the atoms once, jobs the outputs once and lie within rows, by construction.
        unsafe { self.kernels[usize::from(transposed)].launch(&launch, &args) }
    }

    /// `y (+)= L x + bias`: `x` `[N, dim_in]`, `y` `[N, dim_out]`; what no instruction writes is zero unless `accumulate`.
    ///
    /// # Errors
    /// If lengths do not fit, or the device fails.
    pub fn forward(&self, x: &Buffer<T>, y: &mut Buffer<T>, groups: &DeviceGroups, accumulate: bool) -> Result<(), DeviceError> {
        self.apply(x, y, groups, accumulate, false)
    }

    /// `dx (+)= Lᵀ g`: `g` `[N, dim_out]`, `dx` `[N, dim_in]`.
    ///
    /// # Errors
    /// If lengths do not fit, or the device fails.
    pub fn adjoint(&self, g: &Buffer<T>, dx: &mut Buffer<T>, groups: &DeviceGroups, accumulate: bool) -> Result<(), DeviceError> {
        self.apply(g, dx, groups, accumulate, true)
    }
}
