//! The convolution for inference: radial weights from a table, sums in registers, nothing per edge.
//!
//! For a centre and a slab of channels of one input block, a path with components (m1, m2) needs
//! S\[m1, m2\] = Σ_e R_path(r_e) · x_e\[m1\] · Y_e\[m2\], an outer product whose sums stay in registers while the edges pass; the coupling coefficients are
//! applied once a centre, out\[m3\] = Σ C\[m1, m2, m3\] · S\[m1, m2\]. The adjoint starts from G\[m1, m2\] = Σ_m3 C\[m1, m2, m3\] · g\[m3\], also once a centre:
//! with u\[m1\] = Σ_m2 G\[m1, m2\] · Y\[m2\] an edge gives dx\[m1\] = R · u\[m1\], dR = Σ_m1 x\[m1\] · u\[m1\] and dY\[m2\] = Σ_m1 G\[m1, m2\] · R · x\[m1\].
//!
//! Slabs are the outer loop: the part of the table that belongs to one stays in the second-level cache for all centres of a call.

#![allow(unsafe_code, reason = "SIMD kernels over pointers that the checked entry points make")]

use super::TensorProductSpec;
use crate::radial::table::{COEFFICIENTS, Section, Table};
use crate::real::Real;
use crate::slab::{HasSlabs, Slab, SlabKernel, dispatch, padded, width};

/// What the slabs that the adjoint takes together read and write again and again, at most: the intervals of the tables that edges fall into, features and
/// their cotangents. About what a second-level cache holds.
const TOGETHER_BYTES: usize = 3 << 18;

/// One path of a block.
#[derive(Debug, Clone)]
struct SlabPath<T> {
    /// Index of the output block.
    out_block: usize,
    /// First channel in the output block, a multiple of the slab width.
    out_channel: usize,
    /// First column in the radial weights.
    weight_offset: usize,
    /// (m1 · components of the edge + m2, m3, coefficient), sorted by m3.
    couplings: Vec<(u16, u16, T)>,
    /// Where the path's sums are among those of the block, in slabs, and how many.
    sums: usize,
    num_sums: usize,
}

/// Consecutive paths of a block with the same degree of the edge.
#[derive(Debug, Clone, Copy)]
struct Group {
    /// First harmonic, and how many.
    edge_offset: usize,
    edge_components: usize,
    first: usize,
    count: usize,
}

/// The paths out of one block of the input.
#[derive(Debug, Clone)]
struct SlabBlock<T> {
    in_offset: usize,
    components: usize,
    channels: usize,
    width: usize,
    paths: Vec<SlabPath<T>>,
    groups: Vec<Group>,
    /// Index of the first section of a table.
    section: usize,
    /// Slabs of S or G.
    sums: usize,
}

/// A block of irreps with channels padded to slabs: rows `[component][width]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PaddedBlock {
    /// Where the block starts in a row of the unpadded layout.
    pub offset: usize,
    /// Components 2l+1.
    pub components: usize,
    /// Channels that exist.
    pub channels: usize,
    /// Channels with padding.
    pub width: usize,
    /// Runs of channels: (first channel, first place, how many).
    pub runs: Vec<(usize, usize, usize)>,
}

/// A [`TensorProductSpec`] laid out for slabs of `T`.
#[derive(Debug, Clone)]
pub struct SlabPlan<T> {
    blocks: Vec<SlabBlock<T>>,
    outputs: Vec<PaddedBlock>,
    dim_edge: usize,
    sections: Vec<Section>,
}

impl<T: HasSlabs> SlabPlan<T> {
    /// Lays out the paths.
    pub fn new(spec: &TensorProductSpec) -> Self {
        let mut outputs: Vec<PaddedBlock> = spec
            .irreps_out
            .blocks_with_offsets()
            .map(|b| PaddedBlock { offset: b.offset, components: b.irrep.dim(), channels: b.mul, width: 0, runs: Vec::new() })
            .collect();
        let mut blocks: Vec<SlabBlock<T>> = Vec::new();
        let mut degrees: Vec<Vec<(usize, usize)>> = Vec::new();
        for path in &spec.paths {
            let out_block = outputs.iter().position(|b| b.offset == path.out_offset).unwrap_or_default();
            let out_channel = outputs[out_block].width;
            outputs[out_block].runs.push((path.out_channel, out_channel, path.mul));
            outputs[out_block].width += padded::<T>(path.mul);
            let b = blocks.iter().position(|b| b.in_offset == path.in_offset).unwrap_or_else(|| {
                blocks.push(SlabBlock {
                    in_offset: path.in_offset,
                    components: path.irreps[0].dim(),
                    channels: path.mul,
                    width: padded::<T>(path.mul),
                    paths: Vec::new(),
                    groups: Vec::new(),
                    section: 0,
                    sums: 0,
                });
                degrees.push(Vec::new());
                blocks.len() - 1
            });
            let n2 = path.irreps[1].dim();
            let mut couplings: Vec<(u16, u16, T)> =
                path.coefficients.iter().map(|&(m1, m2, m3, c)| ((m1 * n2 + m2) as u16, m3 as u16, T::of(c))).collect();
            couplings.sort_by_key(|c| (c.1, c.0));
            // Sums are placed once the order is known.
            blocks[b].paths.push(SlabPath { out_block, out_channel, weight_offset: path.weight_offset, couplings, sums: 0, num_sums: 0 });
            degrees[b].push((path.edge_offset, n2));
        }
        let lanes = width::<T>();
        let mut sections = Vec::new();
        for (block, degrees) in blocks.iter_mut().zip(&degrees) {
            let mut order: Vec<usize> = (0..block.paths.len()).collect();
            order.sort_by_key(|&p| degrees[p]);
            block.paths = order.iter().map(|&p| block.paths[p].clone()).collect();
            for (position, &p) in order.iter().enumerate() {
                let (edge_offset, edge_components) = degrees[p];
                let path = &mut block.paths[position];
                (path.sums, path.num_sums) = (block.sums, block.components * edge_components);
                block.sums += path.num_sums;
                match block.groups.last_mut() {
                    Some(group) if group.edge_offset == edge_offset => group.count += 1,
                    _ => block.groups.push(Group { edge_offset, edge_components, first: position, count: 1 }),
                }
            }
            block.section = sections.len();
            for slab in 0..block.width / lanes {
                let mut section = Section::new();
                for path in &block.paths {
                    section.extend(
                        (slab * lanes..(slab + 1) * lanes).map(|c| (c < block.channels).then_some((path.weight_offset + c) as u32)),
                    );
                }
                sections.push(section);
            }
        }
        Self { blocks, outputs, dim_edge: spec.dim_edge, sections }
    }

    /// The output blocks, with their padding.
    pub fn outputs(&self) -> &[PaddedBlock] {
        &self.outputs
    }

    /// The sections of a radial table for this plan: one for each block and slab.
    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// How many blocks of the input take part.
    pub fn num_blocks(&self) -> usize {
        self.blocks.len()
    }

    /// Where block `b` starts in a row of the unpadded input, its components, channels, and padded width.
    pub fn block(&self, b: usize) -> (usize, usize, usize, usize) {
        let block = &self.blocks[b];
        (block.in_offset, block.components, block.channels, block.width)
    }

    /// Numbers in a row of cotangents of the features of one neighbour, all blocks together.
    pub fn row(&self) -> usize {
        self.blocks.iter().map(|b| b.components * b.width).sum()
    }

    /// Fused multiply-adds on slabs for one edge, forward and adjoint: what the kernels have to do at least.
    pub fn operations(&self, unit: bool) -> [usize; 2] {
        let mut total = [0, 0];
        for block in &self.blocks {
            let slabs = block.width / width::<T>();
            let (paths, n1, sums) = (block.paths.len(), block.components, block.sums);
            let x = if unit { 0 } else { n1 };
            total[0] += slabs * (paths * (5 + x) + sums);
            total[1] += slabs * (paths * (9 + 1 + x + 2 * n1) + 2 * sums);
        }
        total
    }
}

/// The edges of consecutive centres.
#[derive(Clone, Copy)]
pub struct Neighborhoods<'a, T> {
    /// Edges of centre i are `offsets[i]..offsets[i + 1]`.
    pub offsets: &'a [u32],
    /// Where the neighbour's features are among the local rows.
    pub rows: &'a [u32],
    /// Which table.
    pub tables: &'a [u16],
    /// Interval of the table.
    pub cells: &'a [u32],
    /// Place in the interval, 0 to 1.
    pub t: &'a [T],
    /// `[E, dim_edge]`
    pub harmonics: &'a [T],
}

impl<T> Neighborhoods<'_, T> {
    fn check(&self, dim_edge: usize, rows: usize, tables: &[&Table<T>], sections: usize)
    where
        T: Real,
    {
        let e = self.rows.len();
        assert!(self.offsets.first() == Some(&0) && self.offsets.is_sorted() && self.offsets.last().is_some_and(|&n| n as usize == e));
        assert!(self.tables.len() == e && self.cells.len() == e && self.t.len() == e && self.harmonics.len() == e * dim_edge);
        assert!(self.rows.iter().all(|&r| (r as usize) < rows), "a neighbour beyond the local rows");
        let inside = |(&table, &cell): (&u16, &u32)| tables.get(table as usize).is_some_and(|t| (cell as usize) < t.intervals());
        assert!(self.tables.iter().zip(self.cells).all(inside), "a cell beyond its table");
        assert!(tables.iter().all(|t| (0..sections).all(|s| t.section(s).1 > 0)));
    }
}

/// Where the features of local rows come from.
#[derive(Clone, Copy)]
pub enum Features<'a, T> {
    /// Everybody has features 1: they are part of the table.
    Unit,
    /// `[.., components, width]` of this block, and the row of it that each local row has.
    Rows(&'a [T], &'a [u32]),
}

/// Buffers of a thread.
#[derive(Debug, Default)]
pub struct Scratch<T> {
    x: Vec<T>,
    sums: Vec<T>,
    table: Vec<usize>,
    visited: Vec<bool>,
}

/// How many intervals of all tables edges fall into.
fn num_visited<T: Real>(edges: &Neighborhoods<'_, T>, tables: &[&Table<T>], visited: &mut Vec<bool>) -> usize {
    let most = tables.iter().map(|t| t.intervals()).max().unwrap_or(0);
    visited.clear();
    visited.resize(most * tables.len(), false);
    let mut count = 0;
    for (&table, &cell) in edges.tables.iter().zip(edges.cells) {
        let seen = &mut visited[table as usize * most + cell as usize];
        count += usize::from(!*seen);
        *seen = true;
    }
    count
}

/// Local copies of one slab of the features.
///
/// # Safety
/// Every entry of `index` is a row of `x`, and `to` holds `index.len() · components` slabs.
#[inline(always)]
unsafe fn gather<V: Slab>(x: &[V::Scalar], index: &[u32], components: usize, block_width: usize, channel: usize, to: *mut V::Scalar) {
    let w = width::<V::Scalar>();
    for (row, &source) in index.iter().enumerate() {
        for m in 0..components {
            let from = (source as usize * components + m) * block_width + channel;
            debug_assert!(from + w <= x.len());
            // SAFETY: by the contract, and a slab starts at most a slab before the padded end of a row.
            unsafe { V::load(x.as_ptr().add(from)).store(to.add((row * components + m) * w)) };
        }
    }
}

/// What the inner loops see of the edges of one centre: pointers to arrays of `count` entries.
#[derive(Clone, Copy)]
struct Edges<T> {
    count: usize,
    /// Address of the interval's coefficients for the slab.
    table: *const usize,
    t: *const T,
    rows: *const u32,
    harmonics: *const T,
    dim_edge: usize,
    /// The slab of the features of the local rows.
    x: *const T,
    components: usize,
}

impl<T> Edges<T> {
    /// # Safety
    /// `e < count`.
    #[inline(always)]
    unsafe fn table(&self, e: usize) -> *const T {
        // SAFETY: the array has `count` entries; they were made from pointers into tables that outlive the call.
        unsafe { *self.table.add(e) as *const T }
    }
}

/// A tile of S: components m1.. of the features, m2.. of the edge.
///
/// # Safety
/// The pointers of `edges` hold for all its edges; tile and path lie inside.
#[inline(always)]
unsafe fn sums_tile<V: Slab, const N1: usize, const N2: usize, const UNIT: bool>(
    edges: &Edges<V::Scalar>,
    path: usize,
    m1: usize,
    m2: usize,
    n2: usize,
    out: *mut V::Scalar,
) {
    let w = width::<V::Scalar>();
    let mut sum = [[V::zero(); N2]; N1];
    // SAFETY: by the contract.
    unsafe {
        for e in 0..edges.count {
            let c = edges.table(e).add(path * COEFFICIENTS * w);
            let t = V::splat(*edges.t.add(e));
            let mut r = V::load(c.add(5 * w));
            r = r.fma(t, V::load(c.add(4 * w)));
            r = r.fma(t, V::load(c.add(3 * w)));
            r = r.fma(t, V::load(c.add(2 * w)));
            r = r.fma(t, V::load(c.add(w)));
            r = r.fma(t, V::load(c));
            let y = edges.harmonics.add(e * edges.dim_edge + m2);
            if UNIT {
                for j in 0..N2 {
                    sum[0][j] = r.fma(V::splat(*y.add(j)), sum[0][j]);
                }
            } else {
                let x = edges.x.add((*edges.rows.add(e) as usize * edges.components + m1) * w);
                let mut rx = [V::zero(); N1];
                for i in 0..N1 {
                    rx[i] = r.mul(V::load(x.add(i * w)));
                }
                for j in 0..N2 {
                    let y = V::splat(*y.add(j));
                    for i in 0..N1 {
                        sum[i][j] = rx[i].fma(y, sum[i][j]);
                    }
                }
            }
        }
        for i in 0..N1 {
            for j in 0..N2 {
                sum[i][j].store(out.add(((m1 + i) * n2 + m2 + j) * w));
            }
        }
    }
}

/// Where the adjoint of the edges of one centre goes.
#[derive(Clone, Copy)]
struct Cotangents<T> {
    /// Slab of the cotangents of the local rows' features.
    dx: *mut T,
    /// `[count, dim_edge]`
    dy: *mut T,
    /// `[count]`, by t.
    dt: *mut T,
}

/// How many slabs the adjoint takes at once, and how far apart their arrays are: addresses, features and their cotangents, G.
#[derive(Clone, Copy)]
struct Together {
    slabs: usize,
    table: usize,
    x: usize,
    g: usize,
}

/// The adjoint of all paths of a group, for a tile of components and some slabs: the more slabs, the fewer sums over lanes.
///
/// # Safety
/// As [`sums_tile`], for all slabs; the cotangents have room for all edges and local rows, G (`g`) for all paths of the group.
#[inline(always)]
unsafe fn adjoint_tile<V: Slab, const N1: usize, const N2: usize, const UNIT: bool, const DX: bool>(
    edges: &Edges<V::Scalar>,
    out: &Cotangents<V::Scalar>,
    group: &Group,
    m1: usize,
    m2: usize,
    g: *const V::Scalar,
    together: &Together,
) {
    let w = width::<V::Scalar>();
    let (n2, stride) = (group.edge_components, edges.components * group.edge_components * w);
    // SAFETY: by the contract.
    unsafe {
        for e in 0..edges.count {
            let t = V::splat(*edges.t.add(e));
            let y = edges.harmonics.add(e * edges.dim_edge + group.edge_offset + m2);
            let mut ys = [V::zero(); N2];
            for j in 0..N2 {
                ys[j] = V::splat(*y.add(j));
            }
            let row = (*edges.rows.add(e) as usize * edges.components + m1) * w;
            let (mut dy, mut dt) = ([V::zero(); N2], V::zero());
            for slab in 0..together.slabs {
                let table = *edges.table.add(slab * together.table + e) as *const V::Scalar;
                let (at, g) = (slab * together.x + row, g.add(slab * together.g));
                let mut x = [V::zero(); N1];
                if !UNIT {
                    for i in 0..N1 {
                        x[i] = V::load(edges.x.add(at + i * w));
                    }
                }
                let mut dx = [V::zero(); N1];
                for p in 0..group.count {
                    let c = table.add((group.first + p) * COEFFICIENTS * w);
                    // Horner's scheme for the value, and for the derivative alongside.
                    let mut r = V::load(c.add(5 * w));
                    let mut slope = r;
                    r = r.fma(t, V::load(c.add(4 * w)));
                    slope = slope.fma(t, r);
                    r = r.fma(t, V::load(c.add(3 * w)));
                    slope = slope.fma(t, r);
                    r = r.fma(t, V::load(c.add(2 * w)));
                    slope = slope.fma(t, r);
                    r = r.fma(t, V::load(c.add(w)));
                    slope = slope.fma(t, r);
                    r = r.fma(t, V::load(c));
                    let g = g.add(p * stride);
                    let mut dr = V::zero();
                    for i in 0..N1 {
                        let rx = if UNIT { r } else { r.mul(x[i]) };
                        let mut u = V::zero();
                        for j in 0..N2 {
                            let g = V::load(g.add(((m1 + i) * n2 + m2 + j) * w));
                            u = if j == 0 { g.mul(ys[j]) } else { g.fma(ys[j], u) };
                            dy[j] = g.fma(rx, dy[j]);
                        }
                        if UNIT {
                            dr = u;
                        } else {
                            dr = if i == 0 { x[i].mul(u) } else { x[i].fma(u, dr) };
                            if DX {
                                dx[i] = r.fma(u, dx[i]);
                            }
                        }
                    }
                    dt = dr.fma(slope, dt);
                }
                if DX {
                    for i in 0..N1 {
                        let to = out.dx.add(at + i * w);
                        V::load(to).add(dx[i]).store(to);
                    }
                }
            }
            let to = out.dy.add(e * edges.dim_edge + group.edge_offset + m2);
            let of_t = if N2 == 1 {
                let [y, of_t] = V::sums2([dy[0], dt]);
                *to += y;
                of_t
            } else if N2 == 3 {
                let [y0, y1, y2, of_t] = V::sums4([dy[0], dy[1], dy[2], dt]);
                for (j, y) in [y0, y1, y2].into_iter().enumerate() {
                    *to.add(j) += y;
                }
                of_t
            } else {
                let mut all = [V::zero(); 8];
                all[..N2].copy_from_slice(&dy);
                all[7] = dt;
                let sums = V::sums8(all);
                for j in 0..N2 {
                    *to.add(j) += sums[j];
                }
                sums[7]
            };
            *out.dt.add(e) += of_t;
        }
    }
}

/// Splits `n` components into tiles of sizes that kernels exist for, at most `most`.
#[inline(always)]
fn tile(left: usize, most: usize) -> usize {
    [7, 5, 3].into_iter().find(|&size| size <= left && size <= most).unwrap_or(1)
}

/// The most components of features in a tile, given those of the edge: sums have to fit into the registers.
#[inline(always)]
fn most_rows(n2: usize) -> usize {
    if n2 == 7 { 3 } else { 5 }
}

/// Runs `$call` with the sizes of a tile as constants `A` and `B`.
macro_rules! with_tile {
    ($n1:expr, $n2:expr, |$a:ident, $b:ident| $call:expr) => {
        with_tile!(@rows $n1, $n2, $a, $b, $call, 1, 3, 5)
    };
    (@rows $n1:expr, $n2:expr, $a:ident, $b:ident, $call:expr, $($rows:literal),*) => {
        match ($n1, $n2) {
            $(
                ($rows, 1) => { const $a: usize = $rows; const $b: usize = 1; $call }
                ($rows, 3) => { const $a: usize = $rows; const $b: usize = 3; $call }
                ($rows, 5) => { const $a: usize = $rows; const $b: usize = 5; $call }
            )*
            (1, 7) => { const $a: usize = 1; const $b: usize = 7; $call }
            (3, 7) => { const $a: usize = 3; const $b: usize = 7; $call }
            _ => unreachable!("tiles have these sizes alone"),
        }
    };
}

/// Calls `f(m1, rows, m2, columns)` for the tiles of `n1` × `n2` components.
#[inline(always)]
fn for_tiles(n1: usize, n2: usize, mut f: impl FnMut(usize, usize, usize, usize)) {
    let mut m2 = 0;
    while m2 < n2 {
        let columns = tile(n2 - m2, 7);
        let mut m1 = 0;
        while m1 < n1 {
            let rows = tile(n1 - m1, most_rows(columns));
            f(m1, rows, m2, columns);
            m1 += rows;
        }
        m2 += columns;
    }
}

struct Forward<'a, 'b, T> {
    block: &'a SlabBlock<T>,
    outputs: &'a [PaddedBlock],
    dim_edge: usize,
    edges: Neighborhoods<'a, T>,
    tables: &'a [&'a Table<T>],
    features: Features<'a, T>,
    scratch: &'a mut Scratch<T>,
    out: &'a mut [&'b mut [T]],
}

/// Appends the addresses of the coefficients of each edge of a centre.
#[inline(always)]
fn addresses<T: Real>(
    edges: &Neighborhoods<'_, T>,
    range: std::ops::Range<usize>,
    tables: &[&Table<T>],
    section: usize,
    to: &mut Vec<usize>,
) {
    if let [table] = tables {
        let (data, stride) = table.section(section);
        let (start, stride) = (data.as_ptr() as usize, stride * size_of::<T>());
        to.extend(edges.cells[range].iter().map(|&cell| start + cell as usize * stride));
    } else {
        to.extend(range.map(|e| {
            let (data, stride) = tables[edges.tables[e] as usize].section(section);
            data.as_ptr() as usize + edges.cells[e] as usize * stride * size_of::<T>()
        }));
    }
}

impl<T: HasSlabs> SlabKernel<T> for Forward<'_, '_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Slab<Scalar = T>>(self) {
        let Self { block, outputs, dim_edge, edges, tables, features, scratch, out } = self;
        let (w, n1) = (width::<T>(), block.components);
        let Scratch { x, sums, table, .. } = scratch;
        sums.resize(block.sums * w, T::zero());
        for slab in 0..block.width / w {
            if let Features::Rows(from, index) = features {
                x.resize(index.len() * n1 * w, T::zero());
                // SAFETY: `forward` has checked the indices; `x` was just sized.
                unsafe { gather::<V>(from, index, n1, block.width, slab * w, x.as_mut_ptr()) };
            }
            for i in 0..edges.offsets.len() - 1 {
                let range = edges.offsets[i] as usize..edges.offsets[i + 1] as usize;
                table.clear();
                addresses(&edges, range.clone(), tables, block.section + slab, table);
                let of_atom = Edges {
                    count: range.len(),
                    table: table.as_ptr(),
                    t: edges.t[range.start..].as_ptr(),
                    rows: edges.rows[range.start..].as_ptr(),
                    harmonics: edges.harmonics[range.start * dim_edge..].as_ptr(),
                    dim_edge,
                    x: x.as_ptr(),
                    components: n1,
                };
                for group in &block.groups {
                    let n2 = group.edge_components;
                    for (p, path) in block.paths.iter().enumerate().skip(group.first).take(group.count) {
                        let of_path = sums[path.sums * w..][..n1 * n2 * w].as_mut_ptr();
                        let mut of_edge = of_atom;
                        of_edge.harmonics = of_atom.harmonics.wrapping_add(group.edge_offset);
                        // SAFETY: `forward` has checked edges against rows, tables and harmonics; the sums of a path were just sliced.
                        for_tiles(
                            n1,
                            n2,
                            #[inline(always)]
                            |m1, rows, m2, columns| unsafe {
                                if matches!(features, Features::Unit) {
                                    with_tile!(1, columns, |A, B| sums_tile::<V, A, B, true>(&of_edge, p, m1, m2, n2, of_path));
                                } else {
                                    with_tile!(rows, columns, |A, B| sums_tile::<V, A, B, false>(&of_edge, p, m1, m2, n2, of_path));
                                }
                            },
                        );
                    }
                }
                for path in &block.paths {
                    let output = &outputs[path.out_block];
                    let rows = &mut out[path.out_block][i * output.components * output.width..][..output.components * output.width];
                    let channel = path.out_channel + slab * w;
                    let of_path = &sums[path.sums * w..];
                    let mut couplings = path.couplings.iter().peekable();
                    for m3 in 0..output.components {
                        let mut sum = V::zero();
                        while let Some(&&(pair, _, c)) = couplings.peek().filter(|c| c.1 as usize == m3) {
                            let s = &of_path[pair as usize * w..][..w];
                            // SAFETY: a slab was just sliced.
                            sum = unsafe { V::load(s.as_ptr()) }.fma(V::splat(c), sum);
                            couplings.next();
                        }
                        let to = &mut rows[m3 * output.width + channel..][..w];
                        // SAFETY: a slab was just sliced.
                        unsafe { sum.store(to.as_mut_ptr()) };
                    }
                }
            }
        }
    }
}

struct Adjoint<'a, T> {
    block: &'a SlabBlock<T>,
    outputs: &'a [PaddedBlock],
    dim_edge: usize,
    edges: Neighborhoods<'a, T>,
    tables: &'a [&'a Table<T>],
    features: Features<'a, T>,
    scratch: &'a mut Scratch<T>,
    g: &'a [&'a [T]],
    dx: &'a mut [T],
    dy: &'a mut [T],
    dt: &'a mut [T],
}

impl<T: HasSlabs> SlabKernel<T> for Adjoint<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Slab<Scalar = T>>(self) {
        let Self { block, outputs, dim_edge, edges, tables, features, scratch, g, dx, dy, dt } = self;
        let (w, n1) = (width::<T>(), block.components);
        let Scratch { x, sums, table, visited } = scratch;
        let need_dx = !dx.is_empty();
        let rows = if let Features::Rows(_, index) = features { index.len() } else { 0 };
        // The more slabs together the fewer sums over lanes, as long as all of it stays close.
        let interval = block.paths.len() * COEFFICIENTS * w;
        let of_slab = num_visited(&edges, tables, visited) * interval + 2 * rows * n1 * w + block.sums * w;
        let most = (TOGETHER_BYTES / (of_slab * size_of::<T>()).max(1)).clamp(1, block.width / w);
        sums.resize(most * block.sums * w, T::zero());
        for first in (0..block.width / w).step_by(most) {
            let slabs = most.min(block.width / w - first);
            let size = rows * n1 * w;
            let mut of_slab = std::ptr::null_mut();
            if let Features::Rows(from, index) = features {
                x.resize(most * size, T::zero());
                for slab in 0..slabs {
                    // SAFETY: `adjoint` has checked the indices; `x` was just sized.
                    unsafe { gather::<V>(from, index, n1, block.width, (first + slab) * w, x[slab * size..].as_mut_ptr()) };
                }
                if need_dx {
                    of_slab = dx[first * size..][..slabs * size].as_mut_ptr();
                }
            }
            for i in 0..edges.offsets.len() - 1 {
                let range = edges.offsets[i] as usize..edges.offsets[i + 1] as usize;
                table.clear();
                for slab in 0..slabs {
                    addresses(&edges, range.clone(), tables, block.section + first + slab, table);
                    // G of all paths.
                    for path in &block.paths {
                        let output = &outputs[path.out_block];
                        let rows = &g[path.out_block][i * output.components * output.width..][..output.components * output.width];
                        let channel = path.out_channel + (first + slab) * w;
                        let of_path = &mut sums[(slab * block.sums + path.sums) * w..][..path.num_sums * w];
                        of_path.fill(T::zero());
                        for &(pair, m3, c) in &path.couplings {
                            let from = &rows[m3 as usize * output.width + channel..][..w];
                            let to = &mut of_path[pair as usize * w..][..w];
                            // SAFETY: slabs were just sliced.
                            unsafe { V::load(from.as_ptr()).fma(V::splat(c), V::load(to.as_ptr())).store(to.as_mut_ptr()) };
                        }
                    }
                }
                let together = Together { slabs, table: range.len(), x: size, g: block.sums * w };
                let of_atom = Edges {
                    count: range.len(),
                    table: table.as_ptr(),
                    t: edges.t[range.start..].as_ptr(),
                    rows: edges.rows[range.start..].as_ptr(),
                    harmonics: edges.harmonics[range.start * dim_edge..].as_ptr(),
                    dim_edge,
                    x: x.as_ptr(),
                    components: n1,
                };
                let out = Cotangents { dx: of_slab, dy: dy[range.start * dim_edge..].as_mut_ptr(), dt: dt[range.start..].as_mut_ptr() };
                for group in &block.groups {
                    let of_group = sums[block.paths[group.first].sums * w..].as_ptr();
                    // SAFETY: `adjoint` has checked edges against rows, tables and harmonics; `sums` holds G of all paths.
                    for_tiles(
                        n1,
                        group.edge_components,
                        #[inline(always)]
                        |m1, rows, m2, columns| unsafe {
                            if matches!(features, Features::Unit) {
                                with_tile!(1, columns, |A, B| adjoint_tile::<V, A, B, true, false>(
                                    &of_atom, &out, group, m1, m2, of_group, &together
                                ));
                            } else if need_dx {
                                with_tile!(rows, columns, |A, B| adjoint_tile::<V, A, B, false, true>(
                                    &of_atom, &out, group, m1, m2, of_group, &together
                                ));
                            } else {
                                with_tile!(rows, columns, |A, B| adjoint_tile::<V, A, B, false, false>(
                                    &of_atom, &out, group, m1, m2, of_group, &together
                                ));
                            }
                        },
                    );
                }
            }
        }
    }
}

impl<T: HasSlabs> SlabPlan<T> {
    fn check(
        &self,
        b: usize,
        edges: &Neighborhoods<'_, T>,
        tables: &[&Table<T>],
        features: Features<'_, T>,
        out: &[impl std::ops::Deref<Target = [T]>],
    ) -> usize {
        let block = &self.blocks[b];
        let atoms = edges.offsets.len() - 1;
        let rows = match features {
            Features::Unit => {
                assert!(block.components == 1, "features that are part of the table are scalars");
                edges.rows.iter().max().map_or(0, |&r| r as usize + 1)
            }
            Features::Rows(x, index) => {
                let row = block.components * block.width;
                assert!(index.iter().all(|&r| (r as usize + 1) * row <= x.len()), "a local row beyond the features");
                index.len()
            }
        };
        edges.check(self.dim_edge, rows, tables, self.sections.len());
        assert!(out.len() == self.outputs.len() && out.iter().zip(&self.outputs).all(|(x, o)| x.len() == atoms * o.components * o.width));
        rows
    }

    /// What the paths out of block `b` of the features give: written to the channels of these paths in `out`, one array `[centres, components, width]`
    /// for each output block. `tables` are indexed by the edges.
    ///
    /// # Panics
    /// If lengths do not fit together or an index is out of range.
    pub fn forward(
        &self,
        b: usize,
        edges: Neighborhoods<'_, T>,
        tables: &[&Table<T>],
        features: Features<'_, T>,
        scratch: &mut Scratch<T>,
        out: &mut [&mut [T]],
    ) {
        self.check(b, &edges, tables, features, out);
        let (block, outputs, dim_edge) = (&self.blocks[b], self.outputs.as_slice(), self.dim_edge);
        dispatch(Forward { block, outputs, dim_edge, edges, tables, features, scratch, out });
    }

    /// The adjoint of [`SlabPlan::forward`] with cotangents `g` of the output: adds to `dy` `[E, dim_edge]` and `dt` `[E]` (the derivative by the place in
    /// the interval) and, unless it is empty, to `dx`, `[slabs][local rows][components][slab]`.
    ///
    /// # Panics
    /// As [`SlabPlan::forward`].
    pub fn adjoint(
        &self,
        b: usize,
        edges: Neighborhoods<'_, T>,
        tables: &[&Table<T>],
        features: Features<'_, T>,
        scratch: &mut Scratch<T>,
        g: &[&[T]],
        (dx, dy, dt): (&mut [T], &mut [T], &mut [T]),
    ) {
        let rows = self.check(b, &edges, tables, features, g);
        let (block, outputs, dim_edge) = (&self.blocks[b], self.outputs.as_slice(), self.dim_edge);
        assert!(dx.is_empty() || dx.len() == rows * block.components * block.width, "dx: expected one slab for each row and component");
        assert!(dy.len() == edges.harmonics.len() && dt.len() == edges.t.len());
        dispatch(Adjoint { block, outputs, dim_edge, edges, tables, features, scratch, g, dx, dy, dt });
    }
}
