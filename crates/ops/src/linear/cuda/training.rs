//! Linear maps whose weights are on the device and change, and the derivative by them.

use tesseral_kernels::{Args, Buffer, Device, DeviceError, Kernel, Launch, Source};

use super::super::LinearSpec;
use super::{COLUMNS, DeviceGroups, DeviceLinear, THREADS, TILE};
use crate::parameters::{Entry, ParameterMap};
use crate::real::Real;
use crate::rows::{room, size};

/// Blocks of threads that keep a device busy, about: atoms are split into as many chunks as make them.
const BLOCKS: usize = 512;

/// Atoms in chunks of one species: what one block of threads sums over. The split depends on the groups alone.
pub struct DeviceChunks {
    /// Species, first in the order of the groups, count, nothing.
    table: Buffer<u32>,
    /// First chunk of each set, and of one more.
    of_set: Buffer<u32>,
    count: usize,
    sets: usize,
    atoms: usize,
}

impl DeviceChunks {
    /// The atoms of `groups` in chunks of `atoms` at most.
    ///
    /// # Errors
    /// If the device fails.
    pub fn new(device: &Device, groups: &DeviceGroups, atoms: usize) -> Result<Self, DeviceError> {
        let (mut table, mut of_set) = (Vec::new(), vec![0]);
        for (set, range) in groups.starts.windows(2).enumerate() {
            for first in (range[0]..range[1]).step_by(atoms.max(1)) {
                table.extend([set as u32, first as u32, atoms.max(1).min(range[1] - first) as u32, 0]);
            }
            of_set.push((table.len() / 4) as u32);
        }
        Ok(Self {
            count: table.len() / 4,
            sets: groups.sets(),
            atoms: groups.atoms(),
            table: device.upload(&table)?,
            of_set: device.upload(&of_set)?,
        })
    }

    /// How many chunks.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is no chunk.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Sets of parameters.
    pub(crate) fn sets(&self) -> usize {
        self.sets
    }

    /// The chunks, as kernels read them.
    pub(crate) fn table(&self) -> &Buffer<u32> {
        &self.table
    }

    /// First chunk of each set, and of one more.
    pub(crate) fn of_set(&self) -> &Buffer<u32> {
        &self.of_set
    }

    /// An error unless the chunks are those of groups of this shape.
    pub(crate) fn check(&self, kernel: &'static str, groups: &DeviceGroups) -> Result<(), DeviceError> {
        size(kernel, "atoms in chunks", self.atoms, groups.atoms())?;
        size(kernel, "sets of chunks", self.sets, groups.sets())
    }
}

/// The source of the kernel that differentiates by weights: one for all maps.
pub fn weights_source<T: tesseral_kernels::Real>() -> Source {
    Source::new::<T>("linear_weights", &["linear_weights"], String::new())
}

/// A linear map whose weights are read from a buffer.
pub struct TrainedLinear<T> {
    map: DeviceLinear<T>,
    parameters: ParameterMap<T>,
    jobs: Buffer<u32>,
    num_jobs: usize,
    sets: usize,
    kernel: Kernel,
}

impl<T: Real + tesseral_kernels::Real> TrainedLinear<T> {
    /// A map with `sets` sets of weights: one for all atoms or one for each species. They are zero until [`TrainedLinear::load`].
    ///
    /// # Errors
    /// If blocks of the spec overlap, or the device fails.
    pub fn new(device: &Device, spec: &LinearSpec, sets: usize) -> Result<Self, DeviceError> {
        let mut entries: Vec<Entry> = (0..spec.weight_numel).map(|w| Entry { parameters: vec![w], factor: 0.0 }).collect();
        // What no instruction uses is no entry's parameter, so that it has no cotangent.
        let mut used = vec![false; spec.weight_numel];
        let mut jobs = Vec::new();
        for i in &spec.instructions {
            for w in i.weight_offset..i.weight_offset + i.mul_in * i.mul_out {
                (entries[w].factor, used[w]) = (i.scale, true);
            }
            for u in (0..i.mul_in).step_by(TILE) {
                for v in (0..i.mul_out).step_by(COLUMNS) {
                    let (inputs, outputs) = (TILE.min(i.mul_in - u), COLUMNS.min(i.mul_out - v));
                    let weights = i.weight_offset + u * i.mul_out + v;
                    let job = [i.in_offset + u, i.out_offset + v, inputs, outputs, i.mul_in, i.mul_out, i.components, weights];
                    jobs.extend(job.map(|x| x as u32));
                }
            }
        }
        entries.iter_mut().zip(used).filter(|(_, used)| !used).for_each(|(entry, _)| entry.parameters.clear());
        Ok(Self {
            map: DeviceLinear::new(device, spec, &vec![0.0; sets * spec.weight_numel], 1.0, None)?,
            parameters: ParameterMap::new(device, &entries, spec.weight_numel, 1)?,
            num_jobs: jobs.len() / 8,
            jobs: device.upload(&jobs)?,
            sets,
            kernel: device.load(&weights_source::<T>())?.kernel("linear_weights")?,
        })
    }

    /// Takes over `weights` `[sets, weight_numel]`.
    ///
    /// # Errors
    /// If there are fewer, or the device fails.
    pub fn load(&mut self, weights: &Buffer<T>) -> Result<(), DeviceError> {
        self.parameters.combine(weights, &mut self.map.weights, self.sets)
    }

    /// The map with the weights that were loaded last, for its values and its derivative by features.
    pub fn map(&self) -> &DeviceLinear<T> {
        &self.map
    }

    /// The chunks for the derivative by weights.
    ///
    /// # Errors
    /// If the device fails.
    pub fn chunks(&self, device: &Device, groups: &DeviceGroups) -> Result<DeviceChunks, DeviceError> {
        DeviceChunks::new(device, groups, TILE.max((groups.atoms() * self.num_jobs).div_ceil(BLOCKS)))
    }

    /// Length of the room that [`TrainedLinear::adjoint_weights`] needs.
    pub fn partial_len(&self, chunks: &DeviceChunks) -> usize {
        chunks.len() * self.parameters.entries_len()
    }

    /// The derivative of ⟨g, L x⟩ by the weights: `x` `[N, dim_in]`, `g` `[N, dim_out]` → `dw` `[sets, weight_numel]`, overwritten. `partial` is room for
    /// [`TrainedLinear::partial_len`] numbers.
    ///
    /// # Errors
    /// If lengths do not fit, chunks are those of other groups, or the device fails.
    pub fn adjoint_weights(
        &self,
        x: &Buffer<T>,
        g: &Buffer<T>,
        (groups, chunks): (&DeviceGroups, &DeviceChunks),
        partial: &mut Buffer<T>,
        dw: &mut Buffer<T>,
    ) -> Result<(), DeviceError> {
        chunks.check("linear_weights", groups)?;
        size("linear_weights", "sets of weights", self.sets, groups.sets())?;
        room("features of a linear map", x, groups.atoms() * self.map.dim_in)?;
        room("cotangents of a linear map", g, groups.atoms() * self.map.dim_out)?;
        room("cotangents of chunks", partial, self.partial_len(chunks))?;
        let launch = Launch { grid: [chunks.len() as u32, self.num_jobs as u32, 1], block: [THREADS as u32, 1, 1], shared: 0 };
        let mut args = Args::new();
        args.buffer(x).buffer(g).buffer_mut(partial).buffer(&groups.order).buffer(chunks.table()).buffer(&self.jobs);
        args.value(self.map.dim_in as u32).value(self.map.dim_out as u32).value(self.parameters.entries_len() as u32);
        // SAFETY: lengths have just been checked; chunks cover the atoms once, and jobs lie within rows and weights, by construction.
        unsafe { self.kernel.launch(&launch, &args)? };
        self.parameters.collect(partial, chunks, dw)
    }
}
