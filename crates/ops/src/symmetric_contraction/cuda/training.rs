//! The maps that training needs: tangents, and derivatives by coefficients.
//!
//! Tangents go through the tree of the polynomials beside values. Derivatives by coefficients are sums over atoms of cotangents times products: one
//! thread keeps some of them for a channel and a chunk of atoms, and the sums of chunks are added up in order.

use std::fmt::Write;
use std::ops::Range;

use tesseral_kernels::{Args, Buffer, Device, DeviceError, Kernel, Launch, Source};

use super::super::ContractionSpec;
use super::{DeviceContraction, Node, Scheme, Sum};
use crate::linear::cuda::{DeviceChunks, DeviceGroups};
use crate::parameters::{Entry, ParameterMap};
use crate::real::Real;
use crate::rows::{room, size};

/// Sums over atoms that a thread keeps.
const SUMS: usize = 32;
/// Chunks of a block of threads, as in `contraction_training.cu`.
const CHUNKS: usize = 4;
/// Chunks into which the atoms are split, about, and their least number of atoms.
const SPLIT: usize = 32;
const CHUNK: usize = 16;

const KERNELS: [&str; 4] =
    ["contraction_tangent", "contraction_adjoint_tangent", "contraction_coefficients", "contraction_tangent_coefficients"];

impl Node {
    /// Statements that leave the value of this node for one output in `v{depth}` (not at the root), and its tangent in `t{depth}`.
    fn tangent(&self, output: usize, depth: usize, code: &mut String) {
        let (mut value, mut tangent) = (Sum::new(format!("v{depth}")), Sum::new(format!("t{depth}")));
        let own = |node: &Self| node.coefficients.iter().find(|c| c.0 == output).map(|c| c.1);
        if let Some(entry) = own(self) {
            value.add(code, &format!("C({entry})"));
        }
        let inner = depth + 1;
        for (component, child) in self.children.iter().filter(|(_, c)| c.has(output)) {
            match own(child) {
                Some(entry) if !child.children.values().any(|c| c.has(output)) => {
                    let _ = write!(code, "const real c{entry} = C({entry}); ");
                    if depth > 0 {
                        value.add(code, &format!("x{component} * c{entry}"));
                    }
                    tangent.add(code, &format!("u{component} * c{entry}"));
                }
                _ => {
                    if depth > 0 {
                        value.declare(code);
                    }
                    tangent.declare(code);
                    code.push_str("{ ");
                    child.tangent(output, inner, code);
                    if depth > 0 {
                        value.add(code, &format!("x{component} * v{inner}"));
                    }
                    tangent.add(code, &format!("u{component} * v{inner} + x{component} * t{inner}"));
                    code.push_str("} ");
                }
            }
        }
    }

    /// The tangent of [`Node::adjoint`]: adds to the tangents of the gradient, and leaves the value of this node in `v{depth}` (not of those below the
    /// root, of which nothing needs it) and its tangent in `t{depth}` (not at the root). `p{depth}` is the product that the node stands for,
    /// `q{depth}` its tangent.
    fn adjoint_tangent(&self, depth: usize, code: &mut String) {
        let (mut value, mut tangent) = (Sum::new(format!("v{depth}")), Sum::new(format!("t{depth}")));
        if depth > 1 && !self.coefficients.is_empty() {
            value.add(code, &self.weighted());
        }
        // A node without children gives no tangent, and at the root nothing at all.
        for (component, child) in self.children.iter().filter(|(_, c)| depth > 0 || !c.children.is_empty()) {
            let inner = depth + 1;
            if depth > 1 {
                value.declare(code);
            }
            if depth > 0 {
                tangent.declare(code);
            }
            code.push_str("{ ");
            if child.children.is_empty() {
                let _ = write!(code, "const real v{inner} = {}; d{component} += q{depth} * v{inner}; ", child.weighted());
                tangent.add(code, &format!("u{component} * v{inner}"));
            } else {
                child.product(*component, depth, true, code);
                child.adjoint_tangent(inner, code);
                if depth == 0 {
                    let _ = write!(code, "d{component} += t{inner}; ");
                } else {
                    let _ = write!(code, "d{component} += q{depth} * v{inner} + p{depth} * t{inner}; ");
                    tangent.add(code, &format!("u{component} * v{inner} + x{component} * t{inner}"));
                }
            }
            if depth > 1 {
                value.add(code, &format!("x{component} * v{inner}"));
            }
            code.push_str("}\\\n ");
        }
    }

    /// Statements that make the product of this node, a child by `component` of a node at `depth`, and its tangent if there are `directions`.
    fn product(&self, component: u16, depth: usize, directions: bool, code: &mut String) {
        let inner = depth + 1;
        let _ = match (depth, directions) {
            (0, false) => write!(code, "const real p{inner} = x{component}; "),
            (0, true) => write!(code, "const real p{inner} = x{component}, q{inner} = u{component}; "),
            (_, false) => write!(code, "const real p{inner} = p{depth} * x{component}; "),
            (_, true) => write!(
                code,
                "const real p{inner} = p{depth} * x{component}, q{inner} = q{depth} * x{component} + p{depth} * u{component}; "
            ),
        };
    }

    fn has_entry(&self, range: &Range<usize>) -> bool {
        self.coefficients.iter().any(|c| range.contains(&c.1)) || self.children.values().any(|c| c.has_entry(range))
    }

    /// Statements that add to sums of coefficients in `range` what one atom gives.
    fn coefficients(&self, range: &Range<usize>, depth: usize, directions: bool, code: &mut String) {
        let product = if directions { "q" } else { "p" };
        for (output, entry) in self.coefficients.iter().filter(|c| range.contains(&c.1)) {
            let _ = write!(code, "s{} += g{output} * {product}{depth}; ", entry - range.start);
        }
        for (component, child) in self.children.iter().filter(|(_, c)| c.has_entry(range)) {
            code.push_str("{ ");
            child.product(*component, depth, directions, code);
            child.coefficients(range, depth + 1, directions, code);
            code.push_str("} ");
        }
    }
}

impl Scheme {
    /// How many parts the coefficients have.
    fn sums(&self) -> usize {
        self.entries.len().div_ceil(SUMS)
    }

    fn by_coefficients(&self, name: &str, directions: bool) -> String {
        let mut code = format!("#define {name} switch (blockIdx.z) {{");
        let atom = if directions { "ATOM_WITH_DIRECTION" } else { "ATOM" };
        for part in 0..self.sums() {
            let range = part * SUMS..self.entries.len().min((part + 1) * SUMS);
            let names: Vec<String> = (0..range.len()).map(|k| format!("s{k} = 0")).collect();
            let _ = write!(code, "\\\n case {part}: {{ real {}; FOR_ATOMS {{ {atom} ", names.join(", "));
            self.root.coefficients(&range, 0, directions, &mut code);
            code.push_str("} ");
            for (k, entry) in range.enumerate() {
                let _ = write!(code, "SUM({entry}, s{k}) ");
            }
            code.push_str("break; }");
        }
        code + " }\n"
    }

    fn training_source<T: tesseral_kernels::Real>(&self) -> Source {
        let mut header = self.sizes.clone();
        header += &self.by_outputs("CONTRACTION_TANGENT", "t0", |output, code| self.root.tangent(output, 0, code));
        header.push_str("#define CONTRACTION_ADJOINT_TANGENT ");
        self.root.adjoint_tangent(0, &mut header);
        header.push('\n');
        header += &self.by_coefficients("CONTRACTION_COEFFICIENTS", false);
        header += &self.by_coefficients("CONTRACTION_TANGENT_COEFFICIENTS", true);
        Source::new::<T>("contraction_training", &KERNELS, header)
    }
}

/// The source of the kernels that training needs, beside [`super::source`].
pub fn training_source<T: tesseral_kernels::Real>(spec: &ContractionSpec, channels: usize) -> Source {
    Scheme::new(spec, channels).training_source::<T>()
}

/// A contraction whose coefficients are read from a buffer, with all its derivatives.
pub struct TrainedContraction<T> {
    map: DeviceContraction<T>,
    parameters: ParameterMap<T>,
    sets: usize,
    sums: usize,
    kernels: [Kernel; 4],
}

impl<T: Real + tesseral_kernels::Real> TrainedContraction<T> {
    /// A contraction with `sets` sets of coefficients: one for all atoms or one for each species. They are zero until [`TrainedContraction::load`].
    ///
    /// # Errors
    /// If the device fails.
    pub fn new(device: &Device, spec: &ContractionSpec, channels: usize, sets: usize) -> Result<Self, DeviceError> {
        let scheme = Scheme::new(spec, channels);
        let terms = spec.terms().len();
        let entries: Vec<Entry> = scheme.entries.iter().map(|terms| Entry { parameters: terms.clone(), factor: 1.0 }).collect();
        let module = device.load(&scheme.training_source::<T>())?;
        let kernel = |k: usize| module.kernel(KERNELS[k]);
        Ok(Self {
            map: DeviceContraction::new(device, spec, channels, &vec![0.0; sets * terms * channels])?,
            parameters: ParameterMap::new(device, &entries, terms, channels)?,
            sets,
            sums: scheme.sums(),
            kernels: [kernel(0)?, kernel(1)?, kernel(2)?, kernel(3)?],
        })
    }

    /// Takes over `coefficients` `[sets, terms, channels]`.
    ///
    /// # Errors
    /// If there are fewer, or the device fails.
    pub fn load(&mut self, coefficients: &Buffer<T>) -> Result<(), DeviceError> {
        self.parameters.combine(coefficients, &mut self.map.coefficients, self.sets)
    }

    /// The contraction with the coefficients that were loaded last, for its values and its derivative by features.
    pub fn map(&self) -> &DeviceContraction<T> {
        &self.map
    }

    /// (u·∇)y: `x` and `u` `[N, dim, channels]` → `dy` `[N, outputs, channels]`, overwritten.
    ///
    /// # Errors
    /// If lengths do not fit, or the device fails.
    pub fn tangent(&self, x: &Buffer<T>, u: &Buffer<T>, dy: &mut Buffer<T>, groups: &DeviceGroups) -> Result<(), DeviceError> {
        self.map.check(groups, x, dy)?;
        self.map.check(groups, u, dy)?;
        let mut args = Args::new();
        args.buffer(x).buffer(u).buffer(&self.map.coefficients).buffer(groups.order());
        match self.map.species(groups) {
            Some(species) => args.buffer(species),
            None => args.null(),
        };
        args.buffer_mut(dy).value(groups.atoms() as u32);
        // SAFETY: lengths have just been checked; `order` is a permutation of the atoms and `species` below the number of sets by construction.
        unsafe { self.kernels[0].launch(&self.map.launch(groups.atoms(), self.map.parts), &args) }
    }

    /// ∇_x ⟨g, (u·∇)y⟩: `x` and `u` `[N, dim, channels]`, `g` `[N, outputs, channels]` → `dx` `[N, dim, channels]`, overwritten.
    ///
    /// # Errors
    /// If lengths do not fit, or the device fails.
    pub fn adjoint_tangent(
        &self,
        x: &Buffer<T>,
        u: &Buffer<T>,
        g: &Buffer<T>,
        dx: &mut Buffer<T>,
        groups: &DeviceGroups,
    ) -> Result<(), DeviceError> {
        self.map.check(groups, x, g)?;
        self.map.check(groups, u, g)?;
        room("cotangents of a contraction", dx, groups.atoms() * self.map.dim * self.map.channels)?;
        let mut args = Args::new();
        args.buffer(x).buffer(u).buffer(&self.map.coefficients).buffer(groups.order());
        match self.map.species(groups) {
            Some(species) => args.buffer(species),
            None => args.null(),
        };
        args.buffer(g).buffer_mut(dx).value(groups.atoms() as u32);
        // SAFETY: as in `tangent`.
        unsafe { self.kernels[1].launch(&self.map.launch(groups.atoms(), 1), &args) }
    }

    /// The chunks for derivatives by coefficients.
    ///
    /// # Errors
    /// If the device fails.
    pub fn chunks(&self, device: &Device, groups: &DeviceGroups) -> Result<DeviceChunks, DeviceError> {
        DeviceChunks::new(device, groups, CHUNK.max(groups.atoms().div_ceil(SPLIT)))
    }

    /// Length of the room that derivatives by coefficients need.
    pub fn partial_len(&self, chunks: &DeviceChunks) -> usize {
        chunks.len() * self.parameters.entries_len()
    }

    /// The derivative by the coefficients of ⟨g, y⟩, or with a direction `u` of ⟨g, (u·∇)y⟩: `x` and `u` `[N, dim, channels]`, `g`
    /// `[N, outputs, channels]` → `dc` `[sets, terms, channels]`, overwritten. `partial` is room for [`TrainedContraction::partial_len`] numbers.
    ///
    /// # Errors
    /// If lengths do not fit, chunks are those of other groups, or the device fails.
    pub fn by_coefficients(
        &self,
        x: &Buffer<T>,
        u: Option<&Buffer<T>>,
        g: &Buffer<T>,
        (groups, chunks): (&DeviceGroups, &DeviceChunks),
        partial: &mut Buffer<T>,
        dc: &mut Buffer<T>,
    ) -> Result<(), DeviceError> {
        let map = &self.map;
        map.check(groups, x, g)?;
        chunks.check("contraction_coefficients", groups)?;
        size("contraction_coefficients", "sets of coefficients", self.sets, groups.sets())?;
        room("cotangents of chunks", partial, self.partial_len(chunks))?;
        let mut args = Args::new();
        args.buffer(x);
        if let Some(u) = u {
            map.check(groups, u, g)?;
            args.buffer(u);
        }
        args.buffer(g).buffer(groups.order()).buffer(chunks.table()).buffer_mut(partial).value(chunks.len() as u32);
        let grid = [chunks.len().div_ceil(CHUNKS) as u32, map.channels.div_ceil(32) as u32, self.sums as u32];
        let launch = Launch { grid, block: [32, CHUNKS as u32, 1], shared: 0 };
        // SAFETY: lengths have just been checked, and chunks cover the order of the atoms once by construction.
        unsafe { self.kernels[if u.is_some() { 3 } else { 2 }].launch(&launch, &args)? };
        self.parameters.collect(partial, chunks, dc)
    }
}
