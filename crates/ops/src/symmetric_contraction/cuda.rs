//! The contraction on a device: straight-line code for each polynomial, one thread for a channel of an atom.
//!
//! Monomials are paths of a tree of components, and a polynomial is evaluated from the leaves to the root (Horner's rule): the value of a node is
//! its coefficient plus Σ component · value over its children, so each coefficient costs one multiply-add and nothing is kept but the features.
//! For the gradient the coefficients of a node are first added up over the outputs, weighted with their cotangents.

#![allow(unsafe_code, reason = "launches of kernels, whose lengths are checked")]

mod training;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::ops::Range;

use tesseral_kernels::{Args, Buffer, Device, DeviceError, Kernel, Launch, Source};

pub use training::{TrainedContraction, training_source};

use super::ContractionSpec;
use crate::linear::cuda::DeviceGroups;
use crate::real::Real;
use crate::rows::{room, size};

/// Atoms of a block of threads, as in `contraction.cu`.
const ATOMS: usize = 4;
/// Coefficients of a part of the outputs, about: parts run side by side.
const PART: usize = 192;

/// A node of the tree: a product of components.
#[derive(Debug, Default)]
struct Node {
    /// Output and entry of each coefficient of this product.
    coefficients: Vec<(usize, usize)>,
    children: BTreeMap<u16, Node>,
}

impl Node {
    /// Numbers entries depth first, and collects the terms of each.
    fn number(&mut self, terms: &BTreeMap<(Vec<u16>, usize), Vec<usize>>, product: &mut Vec<u16>, entries: &mut Vec<Vec<usize>>) {
        for ((_, output), terms) in terms.range((product.clone(), 0)..=(product.clone(), usize::MAX)) {
            self.coefficients.push((*output, entries.len()));
            entries.push(terms.clone());
        }
        for (&component, child) in &mut self.children {
            product.push(component);
            child.number(terms, product, entries);
            product.pop();
        }
    }

    fn has(&self, output: usize) -> bool {
        self.coefficients.iter().any(|c| c.0 == output) || self.children.values().any(|c| c.has(output))
    }

    /// Statements that leave the value of this node for one output in `v{depth}`.
    fn forward(&self, output: usize, depth: usize, code: &mut String) {
        let mut sum = Sum::new(format!("v{depth}"));
        if let Some((_, entry)) = self.coefficients.iter().find(|c| c.0 == output) {
            sum.add(code, &format!("C({entry})"));
        }
        for (component, child) in self.children.iter().filter(|(_, c)| c.has(output)) {
            let own = child.coefficients.iter().find(|c| c.0 == output);
            match own {
                Some((_, entry)) if !child.children.values().any(|c| c.has(output)) => sum.add(code, &format!("x{component} * C({entry})")),
                _ => {
                    sum.declare(code);
                    code.push_str("{ ");
                    child.forward(output, depth + 1, code);
                    sum.add(code, &format!("x{component} * v{}", depth + 1));
                    code.push_str("} ");
                }
            }
        }
    }

    /// Σ cotangent · coefficient of this node.
    fn weighted(&self) -> String {
        let terms: Vec<String> = self.coefficients.iter().map(|(output, entry)| format!("g{output} * C({entry})")).collect();
        terms.join(" + ")
    }

    /// Statements that add the gradient by the components, and leave the value of this node in `v{depth}` (not at the root).
    /// `p{depth}` is the product that the node stands for.
    fn adjoint(&self, depth: usize, code: &mut String) {
        let mut sum = Sum::new(format!("v{depth}"));
        if !self.coefficients.is_empty() {
            sum.add(code, &self.weighted());
        }
        for (component, child) in &self.children {
            let inner = depth + 1;
            if depth > 0 {
                sum.declare(code);
            }
            code.push_str("{ ");
            if child.children.is_empty() {
                let _ = write!(code, "const real v{inner} = {}; ", child.weighted());
            } else {
                let product = if depth == 0 { format!("x{component}") } else { format!("p{depth} * x{component}") };
                let _ = write!(code, "const real p{inner} = {product}; ");
                child.adjoint(inner, code);
            }
            if depth == 0 {
                let _ = write!(code, "d{component} += v{inner}; ");
            } else {
                let _ = write!(code, "d{component} += p{depth} * v{inner}; ");
                sum.add(code, &format!("x{component} * v{inner}"));
            }
            code.push_str("}\\\n ");
        }
    }
}

/// A sum that is declared by its first term, or as zero where that lies in an inner block.
struct Sum {
    name: String,
    declared: bool,
}

impl Sum {
    fn new(name: String) -> Self {
        Self { name, declared: false }
    }

    fn declare(&mut self, code: &mut String) {
        if !self.declared {
            let _ = write!(code, "real {} = 0; ", self.name);
            self.declared = true;
        }
    }

    fn add(&mut self, code: &mut String, term: &str) {
        let _ = if self.declared { write!(code, "{} += {term}; ", self.name) } else { write!(code, "real {} = {term}; ", self.name) };
        self.declared = true;
    }
}

/// The tree of a contraction, and which terms make each coefficient.
struct Scheme {
    root: Node,
    entries: Vec<Vec<usize>>,
    parts: Vec<Range<usize>>,
    /// Definitions of sizes, components and outputs.
    sizes: String,
}

impl Scheme {
    fn new(spec: &ContractionSpec, channels: usize) -> Self {
        let mut root = Node::default();
        let mut terms: BTreeMap<(Vec<u16>, usize), Vec<usize>> = BTreeMap::new();
        for (t, term) in spec.terms().iter().enumerate() {
            let monomial = &spec.monomials()[term.monomial];
            monomial.iter().fold(&mut root, |node, &component| node.children.entry(component).or_default());
            terms.entry((monomial.clone(), term.output)).or_default().push(t);
        }
        let mut entries = Vec::new();
        root.number(&terms, &mut Vec::new(), &mut entries);
        let mut of_output = vec![0; spec.outputs()];
        for (_, output) in terms.keys() {
            of_output[*output] += 1;
        }
        let list = |n: usize| (0..n).fold(String::new(), |list, k| list + &format!(" F({k})"));
        let sizes = format!(
            "#define CONTRACTION_CHANNELS {channels}u\n#define CONTRACTION_DIM {}u\n#define CONTRACTION_OUTPUTS {}u\n#define CONTRACTION_ENTRIES {}u\n\
             #define CONTRACTION_COMPONENTS(F){}\n#define CONTRACTION_RESULTS(F){}\n",
            spec.dim(),
            spec.outputs(),
            entries.len(),
            list(spec.dim()),
            list(spec.outputs()),
        );
        Self { root, entries, parts: parts(&of_output), sizes }
    }

    /// A definition of code that makes outputs part by part: `of_output` leaves the value of an output in the variable `value`.
    fn by_outputs(&self, name: &str, value: &str, of_output: impl Fn(usize, &mut String)) -> String {
        let mut code = format!("#define {name} switch (blockIdx.z) {{");
        for (part, outputs) in self.parts.iter().enumerate() {
            let _ = write!(code, "\\\n case {part}: ");
            for output in outputs.clone() {
                code.push_str("{ ");
                if self.root.has(output) {
                    of_output(output, &mut code);
                    let _ = write!(code, "P({output}, {value}) }}\\\n ");
                } else {
                    let _ = write!(code, "P({output}, 0) }}\\\n ");
                }
            }
            code.push_str("break;");
        }
        code + " }\n"
    }

    fn header(&self) -> String {
        let mut header = self.sizes.clone();
        header += &self.by_outputs("CONTRACTION_FORWARD", "v0", |output, code| self.root.forward(output, 0, code));
        header.push_str("#define CONTRACTION_ADJOINT ");
        self.root.adjoint(0, &mut header);
        header.push('\n');
        header
    }

    fn source<T: tesseral_kernels::Real>(&self) -> Source {
        Source::new::<T>("contraction", &["contraction", "contraction_adjoint"], self.header())
    }
}

/// Consecutive outputs with about [`PART`] coefficients together.
fn parts(of_output: &[usize]) -> Vec<Range<usize>> {
    let mut parts = Vec::new();
    let (mut start, mut count) = (0, 0);
    for (output, n) in of_output.iter().enumerate() {
        count += n;
        if count >= PART || output + 1 == of_output.len() {
            parts.push(start..output + 1);
            (start, count) = (output + 1, 0);
        }
    }
    parts
}

/// The source of the kernels of a contraction with `channels` channels.
pub fn source<T: tesseral_kernels::Real>(spec: &ContractionSpec, channels: usize) -> Source {
    Scheme::new(spec, channels).source::<T>()
}

/// A contraction with its coefficients on a device.
pub struct DeviceContraction<T> {
    dim: usize,
    outputs: usize,
    channels: usize,
    parts: usize,
    sets: usize,
    coefficients: Buffer<T>,
    forward: Kernel,
    adjoint: Kernel,
}

impl<T: Real + tesseral_kernels::Real> DeviceContraction<T> {
    /// `coefficients` `[sets, terms, channels]` (those of [`super::SymmetricBasis::plain_coefficients`]): one set for all atoms, or one for each species.
    ///
    /// # Errors
    /// If the coefficients do not fit, or the device fails.
    pub fn new(device: &Device, spec: &ContractionSpec, channels: usize, coefficients: &[f64]) -> Result<Self, DeviceError> {
        let scheme = Scheme::new(spec, channels);
        let numel = spec.terms().len() * channels;
        let sets = (coefficients.len() / numel.max(1)).max(1);
        size("contraction", "coefficients", coefficients.len(), sets * numel)?;
        let mut data = Vec::with_capacity(sets * scheme.entries.len() * channels);
        for set in coefficients.chunks_exact(numel.max(1)) {
            for terms in &scheme.entries {
                data.extend((0..channels).map(|k| T::of(terms.iter().map(|t| set[t * channels + k]).sum())));
            }
        }
        let module = device.load(&scheme.source::<T>())?;
        Ok(Self {
            dim: spec.dim(),
            outputs: spec.outputs(),
            channels,
            parts: scheme.parts.len(),
            sets,
            coefficients: device.upload(&data)?,
            forward: module.kernel("contraction")?,
            adjoint: module.kernel("contraction_adjoint")?,
        })
    }

    fn launch(&self, atoms: usize, parts: usize) -> Launch {
        let grid = [atoms.div_ceil(ATOMS) as u32, self.channels.div_ceil(32) as u32, parts as u32];
        Launch { grid, block: [32, ATOMS as u32, 1], shared: 0 }
    }

    fn check(&self, groups: &DeviceGroups, x: &Buffer<T>, y: &Buffer<T>) -> Result<(), DeviceError> {
        size("contraction", "sets of coefficients", self.sets, if self.sets == 1 { 1 } else { groups.sets() })?;
        room("features of a contraction", x, groups.atoms() * self.dim * self.channels)?;
        room("results of a contraction", y, groups.atoms() * self.outputs * self.channels)
    }

    fn species<'a>(&self, groups: &'a DeviceGroups) -> Option<&'a Buffer<u32>> {
        (self.sets > 1).then(|| groups.species().rows())
    }

    /// `x` `[N, dim, channels]` → `y` `[N, outputs, channels]`.
    ///
    /// # Errors
    /// If lengths do not fit, or the device fails.
    pub fn forward(&self, x: &Buffer<T>, y: &mut Buffer<T>, groups: &DeviceGroups) -> Result<(), DeviceError> {
        self.check(groups, x, y)?;
        let mut args = Args::new();
        args.buffer(x).buffer(&self.coefficients).buffer(groups.order());
        match self.species(groups) {
            Some(species) => args.buffer(species),
            None => args.null(),
        };
        args.buffer_mut(y).value(groups.atoms() as u32);
        // SAFETY: lengths have just been checked; `order` is a permutation of the atoms and `species` below the number of sets by construction.
        unsafe { self.forward.launch(&self.launch(groups.atoms(), self.parts), &args) }
    }

    /// ∇_x ⟨g, y⟩: `x` `[N, dim, channels]`, `g` `[N, outputs, channels]` → `dx` `[N, dim, channels]`, overwritten.
    ///
    /// # Errors
    /// If lengths do not fit, or the device fails.
    pub fn adjoint(&self, x: &Buffer<T>, g: &Buffer<T>, dx: &mut Buffer<T>, groups: &DeviceGroups) -> Result<(), DeviceError> {
        self.check(groups, x, g)?;
        room("cotangents of a contraction", dx, groups.atoms() * self.dim * self.channels)?;
        let mut args = Args::new();
        args.buffer(x).buffer(&self.coefficients).buffer(groups.order());
        match self.species(groups) {
            Some(species) => args.buffer(species),
            None => args.null(),
        };
        args.buffer(g).buffer_mut(dx).value(groups.atoms() as u32);
        // SAFETY: as in `forward`.
        unsafe { self.adjoint.launch(&self.launch(groups.atoms(), 1), &args) }
    }
}
