//! Gates and small networks of scalars on a device.

#![allow(unsafe_code, reason = "launches of kernels, whose lengths are checked")]

use std::fmt::Write;

use tesseral_kernels::{Args, Buffer, Device, DeviceError, Kernel, Launch, Source};

use super::{Activation, GateSpec, ScaledActivation};
use crate::real::Real;
use crate::rows::{room, size};

/// Threads of a block, as in `gate.cu`.
const THREADS: usize = 256;
/// Threads of a block, as in `network.cu`, and the most atoms it works on.
const NETWORK_THREADS: usize = 128;
const NETWORK_ATOMS: usize = 16;
/// Shared memory that every device gives a block (bytes).
const SHARED: usize = 48 << 10;
/// The bias of a layer without one, as in `network.cu`.
const ABSENT: u32 = u32::MAX;

impl Activation {
    /// Its name in `activation.cuh`, and its number there.
    fn on_device(self) -> (&'static str, u32) {
        match self {
            Self::Identity => ("IDENTITY", 0),
            Self::Silu => ("SILU", 1),
            Self::Tanh => ("TANH", 2),
            Self::Sigmoid => ("SIGMOID", 3),
            Self::Abs => ("ABS", 4),
            Self::Relu => ("RELU", 5),
            Self::ShiftedSoftplus => ("SHIFTED_SOFTPLUS", 6),
            Self::Gelu => ("GELU", 7),
            Self::Elu => ("ELU", 8),
        }
    }
}

/// The header of `gate.cu` for a gate.
fn header(spec: &GateSpec) -> String {
    let (scalars, gates) = (spec.num_scalars(), spec.num_gates());
    let mut header = format!(
        "#define GATE_ITEMS {}u\n#define GATE_IN {}u\n#define GATE_OUT {}u\n#define GATE_SCALARS(F)",
        (scalars + gates).max(1),
        spec.dim_in(),
        spec.dim_out()
    );
    let mut first = 0;
    for &(mul, activation) in spec.scalars.iter().filter(|s| s.0 > 0) {
        let _ = write!(header, " F({first}u, {}u, {}, {:?})", first + mul, activation.activation.on_device().0, activation.scale);
        first += mul;
    }
    header.push_str("\n#define GATE_GATED(F)");
    // Blocks of gates and of gated channels need not end together: pieces lie in one of each.
    let mut of_gates = Vec::new();
    for &(mul, activation) in &spec.gates {
        of_gates.push((first..first + mul, activation));
        first += mul;
    }
    let (mut item, mut to) = (scalars, scalars);
    for block in &spec.gated {
        for (range, activation) in &of_gates {
            let (start, end) = (range.start.max(item), range.end.min(item + block.mul));
            if start < end {
                let at = to + start - item;
                let _ = write!(
                    header,
                    " F({start}u, {end}u, {}, {:?}, {}u, {at}u, {}u, {}u)",
                    activation.activation.on_device().0,
                    activation.scale,
                    at + gates,
                    block.mul,
                    block.components
                );
            }
        }
        item += block.mul;
        to += block.mul * block.components;
    }
    header.push('\n');
    header
}

/// The source of the kernels of a gate.
pub fn source<T: tesseral_kernels::Real>(spec: &GateSpec) -> Source {
    Source::new::<T>("gate", &["gate", "gate_adjoint", "gate_tangent", "gate_adjoint_tangent"], header(spec))
}

/// A gate on a device.
pub struct DeviceGate<T> {
    items: usize,
    dim_in: usize,
    dim_out: usize,
    evaluate: Kernel,
    adjoint: Kernel,
    tangent: Kernel,
    adjoint_tangent: Kernel,
    real: std::marker::PhantomData<T>,
}

impl<T: tesseral_kernels::Real> DeviceGate<T> {
    /// Compiles the kernels of a gate.
    ///
    /// # Errors
    /// If the device fails.
    pub fn new(device: &Device, spec: &GateSpec) -> Result<Self, DeviceError> {
        let module = device.load(&source::<T>(spec))?;
        Ok(Self {
            items: spec.num_scalars() + spec.num_gates(),
            dim_in: spec.dim_in(),
            dim_out: spec.dim_out(),
            evaluate: module.kernel("gate")?,
            adjoint: module.kernel("gate_adjoint")?,
            tangent: module.kernel("gate_tangent")?,
            adjoint_tangent: module.kernel("gate_adjoint_tangent")?,
            real: std::marker::PhantomData,
        })
    }

    fn launch(&self, atoms: usize) -> Launch {
        Launch { grid: [(atoms * self.items).div_ceil(THREADS) as u32, 1, 1], block: [THREADS as u32, 1, 1], shared: 0 }
    }

    /// y(x): `x` `[N, dim_in]` → `y` `[N, dim_out]`.
    ///
    /// # Errors
    /// If lengths do not fit, or the device fails.
    pub fn forward(&self, x: &Buffer<T>, y: &mut Buffer<T>, atoms: usize) -> Result<(), DeviceError> {
        room("input of a gate", x, atoms * self.dim_in)?;
        room("output of a gate", y, atoms * self.dim_out)?;
        let mut args = Args::new();
        args.buffer(x).buffer_mut(y).value(atoms as u32);
        // SAFETY: lengths have just been checked; the header's blocks lie within rows by construction.
        unsafe { self.evaluate.launch(&self.launch(atoms), &args) }
    }

    /// ∇⟨g, y⟩: `x` `[N, dim_in]`, `g` `[N, dim_out]` → `dx` `[N, dim_in]`, overwritten.
    ///
    /// # Errors
    /// If lengths do not fit, or the device fails.
    pub fn adjoint(&self, x: &Buffer<T>, g: &Buffer<T>, dx: &mut Buffer<T>, atoms: usize) -> Result<(), DeviceError> {
        room("input of a gate", x, atoms * self.dim_in)?;
        room("cotangent of a gate's output", g, atoms * self.dim_out)?;
        room("cotangent of a gate's input", dx, atoms * self.dim_in)?;
        let mut args = Args::new();
        args.buffer(x).buffer(g).buffer_mut(dx).value(atoms as u32);
        // SAFETY: as in `forward`.
        unsafe { self.adjoint.launch(&self.launch(atoms), &args) }
    }

    /// (u·∇)y: `x` and `u` `[N, dim_in]` → `dy` `[N, dim_out]`, overwritten.
    ///
    /// # Errors
    /// If lengths do not fit, or the device fails.
    pub fn tangent(&self, x: &Buffer<T>, u: &Buffer<T>, dy: &mut Buffer<T>, atoms: usize) -> Result<(), DeviceError> {
        room("input of a gate", x, atoms * self.dim_in)?;
        room("direction of a gate's input", u, atoms * self.dim_in)?;
        room("tangent of a gate's output", dy, atoms * self.dim_out)?;
        let mut args = Args::new();
        args.buffer(x).buffer(u).buffer_mut(dy).value(atoms as u32);
        // SAFETY: as in `forward`.
        unsafe { self.tangent.launch(&self.launch(atoms), &args) }
    }

    /// ∇⟨g, (u·∇)y⟩: `x` and `u` `[N, dim_in]`, `g` `[N, dim_out]` → `dx` `[N, dim_in]`, overwritten.
    ///
    /// # Errors
    /// If lengths do not fit, or the device fails.
    pub fn adjoint_tangent(
        &self,
        x: &Buffer<T>,
        g: &Buffer<T>,
        u: &Buffer<T>,
        dx: &mut Buffer<T>,
        atoms: usize,
    ) -> Result<(), DeviceError> {
        room("input of a gate", x, atoms * self.dim_in)?;
        room("cotangent of a gate's output", g, atoms * self.dim_out)?;
        room("direction of a gate's input", u, atoms * self.dim_in)?;
        room("cotangent of a gate's input", dx, atoms * self.dim_in)?;
        let mut args = Args::new();
        args.buffer(x).buffer(g).buffer(u).buffer_mut(dx).value(atoms as u32);
        // SAFETY: as in `forward`.
        unsafe { self.adjoint_tangent.launch(&self.launch(atoms), &args) }
    }
}

/// One layer of a [`DeviceNetwork`].
#[derive(Debug, Clone)]
pub struct NetworkLayer {
    /// Numbers that go in.
    pub n_in: usize,
    /// Numbers that come out.
    pub n_out: usize,
    /// `[n_in, n_out]`
    pub weights: Vec<f64>,
    /// `[n_out]`
    pub bias: Option<Vec<f64>>,
    /// What the layer ends with.
    pub activation: Option<ScaledActivation>,
}

/// A network on the scalars of an atom that ends in one number, on a device.
pub struct DeviceNetwork<T> {
    layers: Buffer<u32>,
    factors: Buffer<T>,
    parameters: Buffer<T>,
    count: usize,
    n_in: usize,
    room: usize,
    width: usize,
    kernel: Kernel,
}

/// The source of the kernel of networks: one for all.
pub fn network_source<T: tesseral_kernels::Real>() -> Source {
    Source::new::<T>("network", &["network"], String::new())
}

impl<T: Real + tesseral_kernels::Real> DeviceNetwork<T> {
    /// The network of `layers`, at least one, the last with one output.
    ///
    /// # Errors
    /// If sizes do not fit together or are too large for shared memory, or the device fails.
    pub fn new(device: &Device, layers: &[NetworkLayer]) -> Result<Self, DeviceError> {
        let (mut table, mut factors, mut parameters) = (Vec::new(), Vec::new(), Vec::new());
        let (mut room, mut width) = (0, 0);
        size("network", "outputs", layers.last().map_or(0, |l| l.n_out), 1)?;
        for (k, layer) in layers.iter().enumerate() {
            size("network", "weights of a layer", layer.weights.len(), layer.n_in * layer.n_out)?;
            if k > 0 {
                size("network", "inputs of a layer", layer.n_in, layers[k - 1].n_out)?;
                width = width.max(layer.n_in);
            }
            width = width.max(layer.n_out);
            let weights = parameters.len() as u32;
            parameters.extend(layer.weights.iter().map(|&w| T::of(w)));
            let bias = if let Some(bias) = &layer.bias {
                size("network", "bias of a layer", bias.len(), layer.n_out)?;
                let start = parameters.len() as u32;
                parameters.extend(bias.iter().map(|&b| T::of(b)));
                start
            } else {
                ABSENT
            };
            let activation = layer.activation.unwrap_or(Activation::Identity.plain());
            factors.push(T::of(activation.scale));
            table.extend([layer.n_in as u32, layer.n_out as u32, weights, bias, activation.activation.on_device().1, room as u32]);
            room += layer.n_out;
        }
        let bytes = 2 * (room + width) * size_of::<T>();
        size("network", "shared memory (bytes)", bytes.max(SHARED), SHARED)?;
        Ok(Self {
            layers: device.upload(&table)?,
            factors: device.upload(&factors)?,
            parameters: device.upload(&parameters)?,
            count: layers.len(),
            n_in: layers[0].n_in,
            room,
            width,
            kernel: device.load(&network_source::<T>())?.kernel("network")?,
        })
    }

    /// Reads the scalars from `offset` on in rows of `stride` numbers of `x` `[N, stride]`. The network's value is added to `energies` `[N]`, its
    /// derivatives times `seeds` `[N]` to `dx` `[N, stride]` at the same places.
    ///
    /// # Errors
    /// If lengths do not fit, or the device fails.
    pub fn evaluate(
        &self,
        x: &Buffer<T>,
        (stride, offset): (usize, usize),
        seeds: &Buffer<T>,
        energies: &mut Buffer<f64>,
        dx: &mut Buffer<T>,
        atoms: usize,
    ) -> Result<(), DeviceError> {
        room("energies of a network", energies, atoms)?;
        size("network", "end of the scalars in a row", stride.min(offset + self.n_in), offset + self.n_in)?;
        room("features of a network", x, atoms * stride)?;
        room("cotangents of the features of a network", dx, atoms * stride)?;
        room("seeds of a network", seeds, atoms)?;
        let bytes = 2 * (self.room + self.width) * size_of::<T>();
        let together = (SHARED / bytes).clamp(1, NETWORK_ATOMS);
        let launch = Launch {
            grid: [atoms.div_ceil(together) as u32, 1, 1],
            block: [NETWORK_THREADS as u32, 1, 1],
            shared: (together * bytes) as u32,
        };
        let mut args = Args::new();
        args.buffer(x).value(stride as u32).value(offset as u32).buffer(seeds);
        args.buffer(&self.layers).buffer(&self.factors).value(self.count as u32).buffer(&self.parameters);
        args.buffer_mut(energies).buffer_mut(dx).value(atoms as u32);
        args.value(together as u32).value(self.room as u32).value(self.width as u32);
        // SAFETY: lengths have just been checked, shared memory holds `together` atoms; layers fit together since `new`.
        unsafe { self.kernel.launch(&launch, &args) }
    }
}
