//! Straight-line code for the paths of one convolution: the header of `kernels/cuda/convolution.cu`, and what that of
//! `kernels/cuda/training_convolution.cu` shares with it.
//!
//! For one edge, one channel and a path with radial function R, T\[m1, m3\] = Σ_m2 C\[m1, m2, m3\]·Y\[m2\] couples features x to outputs:
//!
//! - forward: out\[m3\] += R·Σ_m1 T·x\[m1\];
//! - adjoint, from g = the cotangent of out: u\[m1\] = Σ_m3 T·g\[m3\], dx\[m1\] += R·u\[m1\], dR = Σ_m1 x\[m1\]·u\[m1\], and
//!   dY\[m2\] += Σ_m1 x\[m1\] Σ_m3 C·(R·g\[m3\]), with the sum over m3 taken over all paths of the same degree of the edge at once;
//! - pull: dx\[m1\] += R·u\[m1\] for the edge the other way round.
//!
//! T does not depend on channels. A block of threads makes it once an edge; equal sums of different paths are made once. Against sums of
//! products R·x\[m1\]·Y\[m2\] that are coupled once a centre (as `slabs` does) this takes about as many operations for blocks of degree 1 (104 and
//! 110 an edge and channel for the second layer of MACE medium), fewer for degree 2 (246 and 300 for MACE large), and a third of the registers.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::super::{Path, TensorProductSpec};
use crate::spherical_harmonics;
use crate::spherical_harmonics::cuda::{constant, scaled};

/// Lanes of a warp: channels that go together.
pub(super) const WARP: usize = 32;
/// Warps of a block of threads, at most.
const MOST_WARPS: usize = 8;
/// Warps that share the making of T.
const CHUNKS: usize = 4;
/// Shared memory of a block of threads, at most: several fit a multiprocessor.
const SHARED_BYTES: usize = 40 << 10;

/// Which kernels a source has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// `convolution_forward`
    Forward,
    /// `convolution_adjoint`
    Adjoint,
    /// `convolution_adjoint_features`, `convolution_gather` and `convolution_pull`
    Features,
}

/// T\[m1, m3\] of a path.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Entry {
    Zero,
    /// A harmonic of degree 0 is 1.
    Constant(f64),
    /// Place among the sums of an edge, and sign.
    Sum(usize, f64),
}

/// A path with what its code needs.
pub(super) struct PathCode<'a> {
    pub(super) path: &'a Path,
    /// `[m1][m3]`
    entries: Vec<Vec<Entry>>,
    /// Where its outputs are among those of the block.
    outputs: usize,
}

/// The paths out of one block of features, sorted by degree of the edge.
pub(super) struct BlockCode<'a> {
    offset: usize,
    pub(super) components: usize,
    pub(super) channels: usize,
    pub(super) outputs: usize,
    pub(super) paths: Vec<PathCode<'a>>,
}

impl BlockCode<'_> {
    pub(super) fn slabs(&self) -> usize {
        self.channels.div_ceil(WARP)
    }

    /// Starts the struct of the block.
    pub(super) fn open(&self, h: &mut String, b: usize) {
        let &BlockCode { offset, components, channels, outputs, ref paths } = self;
        line(h, format_args!("struct Block{b} {{"));
        line(
            h,
            format_args!(
                "    static const u32 COMPONENTS = {components}, CHANNELS = {channels}, OFFSET = {offset}, OUTPUTS = {outputs}, PATHS = {};",
                paths.len()
            ),
        );
    }

    /// Reads the features of a channel; `at` is the place of the channel in the row.
    pub(super) fn features(&self, h: &mut String, unit: bool) {
        function(h, "features(const real *__restrict__ rows, size_t at, real *x)");
        for m1 in 0..self.components {
            if unit {
                line(h, format_args!("        x[{m1}] = real(1);"));
            } else {
                line(h, format_args!("        x[{m1}] = __ldg(rows + at + {});", self.offset + m1 * self.channels));
            }
        }
        close(h);
    }

    /// Of the outputs of a channel: (index, place in a row).
    fn places(&self) -> impl Iterator<Item = (usize, usize)> {
        self.paths.iter().flat_map(|p| {
            let (path, outputs) = (p.path, p.outputs);
            (0..path.irreps[2].dim()).map(move |m3| (outputs + m3, path.out_offset + m3 * path.out_channels + path.out_channel))
        })
    }

    /// Writes outputs.
    pub(super) fn store(&self, h: &mut String) {
        function(h, "store(const real *out, real *__restrict__ row)");
        for (k, at) in self.places() {
            line(h, format_args!("        row[{at}] = out[{k}];"));
        }
        close(h);
    }

    /// Reads cotangents of outputs.
    pub(super) fn load(&self, h: &mut String) {
        function(h, "load(const real *__restrict__ row, real *g)");
        for (k, at) in self.places() {
            line(h, format_args!("        g[{k}] = __ldg(row + {at});"));
        }
        close(h);
    }

    /// Writes cotangents of features.
    pub(super) fn store_features(&self, h: &mut String) {
        function(h, "store_features(const real *dx, real *__restrict__ row)");
        for m1 in 0..self.components {
            line(h, format_args!("        row[{}] = dx[{m1}];", self.offset + m1 * self.channels));
        }
        close(h);
    }

    /// out += R·Σ T·x.
    pub(super) fn forward(&self, h: &mut String, given: Given, unit: bool) {
        function(h, &format!("forward(const real *x, const real *s, {}, real *out)", given.parameters()));
        for (k, code) in self.paths.iter().enumerate() {
            let scalar = self.components == 1;
            let times = if scalar && !unit { " * x[0]" } else { "" };
            line(h, format_args!("        {{ // {}", title(code.path)));
            line(h, format_args!("            const real r = {}{times};", given.radial(k, code.path)));
            for m3 in 0..code.path.irreps[2].dim() {
                let terms: Vec<String> =
                    (0..self.components).filter_map(|m1| product(code.entries[m1][m3], (!scalar).then(|| format!("x[{m1}]")))).collect();
                if !terms.is_empty() {
                    line(h, format_args!("            out[{}] += r * ({});", code.outputs + m3, terms.join(" + ")));
                }
            }
            line(h, format_args!("        }}"));
        }
        close(h);
    }

    /// dx += R·Σ T·g.
    pub(super) fn pull(&self, h: &mut String, given: Given) {
        function(h, &format!("pull(const real *g, const real *s, {}, real *dx)", given.parameters()));
        for (k, code) in self.paths.iter().enumerate() {
            line(h, format_args!("        {{ // {}", title(code.path)));
            line(h, format_args!("            const real r = {};", given.radial(k, code.path)));
            for m1 in 0..self.components {
                if let Some(u) = backward(code, m1, "g") {
                    line(h, format_args!("            dx[{m1}] += r * ({u});"));
                }
            }
            line(h, format_args!("        }}"));
        }
        close(h);
    }

    /// dR += Σ x·T·g, one for each path.
    pub(super) fn by_radial(&self, h: &mut String) {
        function(h, "by_radial(const real *x, const real *g, const real *s, real *dr)");
        for (k, code) in self.paths.iter().enumerate() {
            let terms: Vec<String> =
                (0..self.components).filter_map(|m1| backward(code, m1, "g").map(|u| format!("x[{m1}] * ({u})"))).collect();
            if !terms.is_empty() {
                line(h, format_args!("        dr[{k}] += {}; // {}", terms.join(" + "), title(code.path)));
            }
        }
        close(h);
    }

    /// dY += Σ x·C·R·g, in the order of a row of harmonics.
    pub(super) fn by_harmonics(&self, h: &mut String, given: Given) {
        function(h, &format!("by_harmonics(const real *x, const real *g, {}, real *dy)", given.parameters()));
        let mut first = 0;
        for group in self.paths.chunk_by(|a, b| a.path.edge_offset == b.path.edge_offset) {
            let irrep = group[0].path.irreps[1];
            line(h, format_args!("        {{ // {irrep} of the edge"));
            for (p, code) in group.iter().enumerate() {
                line(h, format_args!("            const real r{p} = {};", given.radial(first + p, code.path)));
                for m3 in 0..code.path.irreps[2].dim() {
                    line(h, format_args!("            const real g{p}_{m3} = r{p} * g[{}];", code.outputs + m3));
                }
            }
            for m2 in 0..irrep.dim() {
                if let Some(sum) = self.by_harmonic(group, m2, false) {
                    line(h, format_args!("            dy[{}] += {sum};", given.harmonic(group[0].path, m2)));
                }
            }
            line(h, format_args!("        }}"));
            first += group.len();
        }
        close(h);
    }

    /// The derivative by one harmonic of a degree, over the paths of that degree; `gP_M3` is R·g\[m3\] of path P.
    fn by_harmonic(&self, group: &[PathCode<'_>], m2: usize, unit: bool) -> Option<String> {
        let mut products = Vec::new();
        for m1 in 0..self.components {
            let mut terms = Vec::new();
            for (p, code) in group.iter().enumerate() {
                let mine = code.path.coefficients.iter().filter(|c| c.0 == m1 && c.1 == m2);
                terms.extend(mine.map(|&(_, _, m3, c)| scaled(c, &format!("g{p}_{m3}"))));
            }
            if !terms.is_empty() {
                let sum = terms.join(" + ");
                products.push(if unit { sum } else { format!("x[{m1}] * ({sum})") });
            }
        }
        (!products.is_empty()).then(|| products.join(" + "))
    }
}

/// How a convolution is cut into blocks of threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Geometry {
    /// Warps of a block of threads.
    pub(super) warps: usize,
    /// Slabs of channels of all blocks of features.
    pub(super) items: usize,
    /// Edges that pass together.
    pub(super) tile: usize,
    /// Blocks of threads that a multiprocessor holds at the same time, at least.
    resident: usize,
}

/// The blocks of features that paths read, and the sums of an edge.
pub(super) struct Blocks<'a> {
    pub(super) blocks: Vec<BlockCode<'a>>,
    /// (harmonic, coefficient).
    pub(super) sums: Vec<Vec<(usize, f64)>>,
}

/// The code of a convolution for inference.
pub(super) struct Code<'a> {
    spec: &'a TensorProductSpec,
    blocks: Vec<BlockCode<'a>>,
    sums: Vec<Vec<(usize, f64)>>,
    lmax: usize,
    normalize: bool,
    unit: bool,
    pub(super) geometry: Geometry,
}

/// Where harmonics and radial functions of an edge come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Given {
    /// Harmonics of all degrees from 0 on, of which that of degree 0 is 1, and tables of radial functions.
    Distances,
    /// Any harmonics in a row, and radial functions in shared memory, `WARP` numbers from one path of a block to the next.
    Rows,
}

impl Given {
    /// Where a component of the degree of a path is among the harmonics.
    fn harmonic(self, path: &Path, m2: usize) -> usize {
        match self {
            Given::Distances => path.irreps[1].l * path.irreps[1].l + m2,
            Given::Rows => path.edge_offset + m2,
        }
    }

    /// The parameters that the radial functions of an edge come from.
    fn parameters(self) -> &'static str {
        match self {
            Given::Distances => "const real *__restrict__ c, real t",
            Given::Rows => "const real *radial",
        }
    }

    /// The radial function of a path of a block.
    fn radial(self, k: usize, path: &Path) -> String {
        match self {
            Given::Distances => format!("table_value(c + {}, COLUMNS, t)", path.weight_offset),
            Given::Rows => format!("radial[{}]", k * WARP),
        }
    }
}

impl<'a> Blocks<'a> {
    pub(super) fn new(spec: &'a TensorProductSpec, given: Given) -> Self {
        let mut sums: Vec<Vec<(usize, f64)>> = Vec::new();
        let mut known = BTreeMap::new();
        let mut blocks: Vec<BlockCode<'a>> = Vec::new();
        for path in &spec.paths {
            let b = blocks.iter().position(|b| b.offset == path.in_offset).unwrap_or_else(|| {
                let (offset, components) = (path.in_offset, path.irreps[0].dim());
                blocks.push(BlockCode { offset, components, channels: path.mul, outputs: 0, paths: Vec::new() });
                blocks.len() - 1
            });
            blocks[b].paths.push(PathCode { path, entries: Vec::new(), outputs: 0 });
        }
        for block in &mut blocks {
            block.paths.sort_by_key(|p| (p.path.irreps[1].l, p.path.edge_offset));
            for code in &mut block.paths {
                code.outputs = block.outputs;
                block.outputs += code.path.irreps[2].dim();
                code.entries = (0..block.components)
                    .map(|m1| (0..code.path.irreps[2].dim()).map(|m3| entry(code.path, m1, m3, given, &mut sums, &mut known)).collect())
                    .collect();
            }
        }
        Self { blocks, sums }
    }

    /// Whether every column of the features is read by some path.
    pub(super) fn read_all(&self, spec: &TensorProductSpec) -> bool {
        reads_all(&self.blocks, spec)
    }
}

fn reads_all(blocks: &[BlockCode<'_>], spec: &TensorProductSpec) -> bool {
    blocks.iter().map(|b| b.components * b.channels).sum::<usize>() == spec.dim_in
}

impl<'a> Code<'a> {
    /// # Panics
    /// If a path has a degree of the edge beyond `lmax`, or, with `unit`, features that are not scalars.
    pub(super) fn new(spec: &'a TensorProductSpec, lmax: usize, normalize: bool, unit: bool, real_bytes: usize) -> Self {
        for path in &spec.paths {
            assert!(path.irreps[1].l <= lmax, "a path needs harmonics of degree {}, beyond {lmax}", path.irreps[1].l);
            assert!(!unit || path.irreps[0].l == 0, "features of one are scalars");
        }
        let Blocks { blocks, sums } = Blocks::new(spec, Given::Distances);
        let items: usize = blocks.iter().map(BlockCode::slabs).sum();
        let warps = items.max(1).div_ceil(items.div_ceil(MOST_WARPS).max(1));
        // A multiprocessor has 65,536 registers: 16 warps leave a thread 128, 8 warps 255, which f64 and blocks of high degree need.
        let numbers = blocks.iter().map(|b| b.outputs + 2 * b.components).max().unwrap_or(0) + spherical_harmonics::count(lmax);
        let resident = if real_bytes == 4 && numbers <= 64 { (16 / warps).max(1) } else { (8 / warps).max(1) };
        let values = spherical_harmonics::count(lmax);
        let bytes = |tile: usize| tile * (real_bytes * (stride(sums.len()) + 1 + warps * values) + 8);
        let tile = [32, 16, 8, 4].into_iter().find(|&tile| bytes(tile) <= SHARED_BYTES).unwrap_or(2);
        Self { spec, blocks, sums, lmax, normalize, unit, geometry: Geometry { warps, items, tile, resident } }
    }

    /// Whether every column of the features is read by some path.
    pub(super) fn reads_all(&self) -> bool {
        reads_all(&self.blocks, self.spec)
    }

    pub(super) fn header(&self, part: Part) -> String {
        let (spec, Geometry { warps, items, tile, resident }) = (self.spec, self.geometry);
        let mut h = String::new();
        let part_name = match part {
            Part::Forward => "PART_FORWARD",
            Part::Adjoint => "PART_ADJOINT",
            Part::Features => "PART_FEATURES",
        };
        let most = |f: fn(&BlockCode<'_>) -> usize| self.blocks.iter().map(f).max().unwrap_or(0).max(1);
        for (name, value) in [
            (part_name, 1),
            ("STRIDE", stride(self.sums.len())),
            ("CHUNKS", self.chunks()),
            ("TILE", tile),
            ("WARPS", warps),
            ("ITEMS", items),
            ("RESIDENT", resident),
            ("MOST_COMPONENTS", most(|b| b.components)),
            ("MOST_OUTPUTS", most(|b| b.outputs)),
            ("VALUES", spherical_harmonics::count(self.lmax)),
            ("DIM_IN", spec.dim_in),
            ("DIM_OUT", spec.dim_out),
            ("COLUMNS", spec.weight_numel),
        ] {
            line(&mut h, format_args!("#define {name} {value}"));
        }
        let mut used: Vec<String> = self
            .blocks
            .iter()
            .map(|b| format!("((column) >= {} && (column) < {})", b.offset, b.offset + b.components * b.channels))
            .collect();
        if self.reads_all() {
            used = vec!["true".into()];
        }
        line(&mut h, format_args!("#define USED(column) ({})", if used.is_empty() { "false".into() } else { used.join(" || ") }));
        h += "static __device__ __forceinline__ real table_value(const real *__restrict__ c, u32 columns, real t);\n\
              static __device__ __forceinline__ real table_jet(const real *__restrict__ c, u32 columns, real t, real *slope);\n";
        h += &spherical_harmonics::cuda::source(self.lmax, self.normalize);
        combine(&mut h, &self.sums, self.chunks());
        for (b, block) in self.blocks.iter().enumerate() {
            self.block(&mut h, b, block, part);
        }
        list(&mut h, &self.blocks);
        h
    }

    fn chunks(&self) -> usize {
        self.geometry.warps.min(CHUNKS)
    }

    fn block(&self, h: &mut String, b: usize, block: &BlockCode<'_>, part: Part) {
        block.open(h, b);
        block.features(h, self.unit);
        if part == Part::Forward {
            block.store(h);
        } else {
            block.load(h);
        }
        if part == Part::Features {
            block.store_features(h);
            block.pull(h, Given::Distances);
        } else if part == Part::Adjoint {
            // Called only where there are cotangents of features.
            function(h, "store_features(const real *, real *__restrict__)");
            close(h);
        }
        match part {
            Part::Forward => block.forward(h, Given::Distances, self.unit),
            Part::Adjoint | Part::Features => self.adjoint(h, block),
        }
        line(h, format_args!("}};"));
    }

    /// `values` are derivatives by harmonics from degree 1 on, then by the place in the interval.
    fn adjoint(&self, h: &mut String, block: &BlockCode<'_>) {
        line(
            h,
            format_args!(
                "    static __device__ __forceinline__ void adjoint(const real *x, const real *g, const real *s, const real *__restrict__ c, real t, \
                 real *dx, real *values) {{"
            ),
        );
        let values = spherical_harmonics::count(self.lmax);
        let mut set = vec![false; values];
        let add = |set: &mut Vec<bool>, k: usize| std::mem::replace(&mut set[k], true);
        for m1 in 0..block.components {
            line(h, format_args!("        dx[{m1}] = real(0);"));
        }
        for group in block.paths.chunk_by(|a, b| a.path.irreps[1].l == b.path.irreps[1].l) {
            let l2 = group[0].path.irreps[1].l;
            line(h, format_args!("        {{ // degree {l2} of the edge"));
            for (p, code) in group.iter().enumerate() {
                line(h, format_args!("            real slope{p}; // {}", title(code.path)));
                line(h, format_args!("            const real r{p} = table_jet(c + {}, COLUMNS, t, &slope{p});", code.path.weight_offset));
                let mut along = Vec::new();
                for m1 in 0..block.components {
                    let Some(u) = backward(code, m1, "g") else { continue };
                    line(h, format_args!("            const real u{p}_{m1} = {u};"));
                    line(h, format_args!("            dx[{m1}] += r{p} * u{p}_{m1};"));
                    along.push(if self.unit { format!("u{p}_{m1}") } else { format!("x[{m1}] * u{p}_{m1}") });
                }
                if !along.is_empty() {
                    let operator = if add(&mut set, values - 1) { "+=" } else { "=" };
                    line(h, format_args!("            values[{}] {operator} slope{p} * ({});", values - 1, along.join(" + ")));
                }
                if l2 > 0 {
                    for m3 in 0..code.path.irreps[2].dim() {
                        line(h, format_args!("            const real g{p}_{m3} = r{p} * g[{}];", code.outputs + m3));
                    }
                }
            }
            for m2 in 0..if l2 > 0 { 2 * l2 + 1 } else { 0 } {
                if let Some(sum) = block.by_harmonic(group, m2, self.unit) {
                    let k = l2 * l2 + m2 - 1;
                    let operator = if add(&mut set, k) { "+=" } else { "=" };
                    line(h, format_args!("            values[{k}] {operator} {sum};"));
                }
            }
            line(h, format_args!("        }}"));
        }
        for (k, set) in set.iter().enumerate() {
            if !set {
                line(h, format_args!("        values[{k}] = real(0);"));
            }
        }
        line(h, format_args!("    }}"));
    }
}

pub(super) fn line(to: &mut String, text: std::fmt::Arguments<'_>) {
    let _ = writeln!(to, "{text}");
}

/// Starts a function of a block.
pub(super) fn function(h: &mut String, signature: &str) {
    line(h, format_args!("    static __device__ __forceinline__ void {signature} {{"));
}

/// Ends a function of a block.
pub(super) fn close(h: &mut String) {
    line(h, format_args!("    }}"));
}

/// The list of all blocks: name, first item, items.
pub(super) fn list(h: &mut String, blocks: &[BlockCode<'_>]) {
    let mut list = String::from("#define BLOCKS(DO)");
    let mut first = 0;
    for (b, block) in blocks.iter().enumerate() {
        let _ = write!(list, " DO(Block{b}, {first}u, {}u)", block.slabs());
        first += block.slabs();
    }
    line(h, format_args!("{list}"));
}

/// The function that makes a part of the sums of an edge.
pub(super) fn combine(h: &mut String, sums: &[Vec<(usize, f64)>], chunks: usize) {
    line(h, format_args!("static __device__ __forceinline__ void combine(u32 chunk, const real *y, real *s) {{"));
    let size = sums.len().div_ceil(chunks).max(1);
    for (chunk, sums) in sums.chunks(size).enumerate() {
        line(h, format_args!("    if (chunk == {chunk}u) {{"));
        for (k, sum) in sums.iter().enumerate() {
            let terms: Vec<String> = sum.iter().map(|&(m, c)| scaled(c, &format!("y[{m}]"))).collect();
            line(h, format_args!("        s[{}] = {};", chunk * size + k, terms.join(" + ")));
        }
        line(h, format_args!("    }}"));
    }
    line(h, format_args!("}}"));
}

fn title(path: &Path) -> String {
    format!("{} x {} -> {}", path.irreps[0], path.irreps[1], path.irreps[2])
}

/// Sums of an edge lie a multiple of four apart, so that several are read at once, and an odd multiple, so that lanes write to different banks.
pub(super) fn stride(sums: usize) -> usize {
    let quads = sums.div_ceil(4).max(1);
    4 * (quads + 1 - quads % 2)
}

/// T\[m1, m3\] of a path; sums that are not there yet are added.
fn entry(
    path: &Path,
    m1: usize,
    m3: usize,
    given: Given,
    sums: &mut Vec<Vec<(usize, f64)>>,
    known: &mut BTreeMap<Vec<(usize, i64)>, usize>,
) -> Entry {
    let mut terms: Vec<(usize, f64)> =
        path.coefficients.iter().filter(|c| c.0 == m1 && c.2 == m3).map(|&(_, m2, _, c)| (given.harmonic(path, m2), c)).collect();
    terms.sort_by_key(|t| t.0);
    let Some(&(first, leading)) = terms.first() else { return Entry::Zero };
    if first == 0 && given == Given::Distances {
        return Entry::Constant(leading);
    }
    let sign = leading.signum();
    // Coefficients that differ by rounding are the same.
    let key = terms.iter().map(|&(m, c)| (m, (sign * c * 1e12).round() as i64)).collect();
    let place = *known.entry(key).or_insert_with(|| {
        sums.push(terms.iter().map(|&(m, c)| (m, sign * c)).collect());
        sums.len() - 1
    });
    Entry::Sum(place, sign)
}

/// An entry, times something.
fn product(entry: Entry, with: Option<String>) -> Option<String> {
    match (entry, with) {
        (Entry::Zero, _) => None,
        (Entry::Constant(c), None) => Some(constant(c)),
        (Entry::Constant(c), Some(with)) => Some(scaled(c, &with)),
        (Entry::Sum(k, sign), None) => Some(scaled(sign, &format!("s[{k}]"))),
        (Entry::Sum(k, sign), Some(with)) => Some(scaled(sign, &format!("s[{k}] * {with}"))),
    }
}

/// Σ_m3 T\[m1, m3\]·g\[m3\].
fn backward(code: &PathCode<'_>, m1: usize, g: &str) -> Option<String> {
    let terms: Vec<String> = code.entries[m1]
        .iter()
        .enumerate()
        .filter_map(|(m3, &entry)| product(entry, Some(format!("{g}[{}]", code.outputs + m3))))
        .collect();
    (!terms.is_empty()).then(|| terms.join(" + "))
}
