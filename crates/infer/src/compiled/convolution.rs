//! One convolution with its radial tables.

use std::sync::{Arc, OnceLock};

use rayon::prelude::*;
use tesseral_ops::radial::table::Table;
use tesseral_ops::slab::HasSlabs;
use tesseral_ops::tensor_product::{TensorProductSpec, slabs::SlabPlan};

use super::radial::{Jets, Pair, RadialBasis, RadialFunctions};

/// Interval counts that are tried, the smallest that is accurate enough is taken.
const INTERVALS: [usize; 5] = [256, 512, 1024, 2048, 4096];

/// Largest error of tabulated radial functions, relative to the largest value and the largest slope.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TableTolerance {
    /// Of values.
    pub value: f64,
    /// Of derivatives.
    pub slope: f64,
}

impl TableTolerance {
    /// What a precision is accompanied by: far below what the rounding of the rest of the network does to forces.
    pub fn of<T>() -> Self {
        if size_of::<T>() == 4 { Self { value: 1e-6, slope: 1e-5 } } else { Self { value: 1e-11, slope: 1e-10 } }
    }
}

/// Measured error of a table.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TableError {
    /// Of values, relative to the largest.
    pub value: f64,
    /// Of slopes, relative to the largest.
    pub slope: f64,
    /// Intervals.
    pub intervals: usize,
}

/// Turns the outputs of the network of one pair into what the kernel multiplies with: a matrix on the columns of each path.
pub(super) type Fold = Box<dyn Fn(Pair) -> Vec<FoldedPath> + Send + Sync>;

/// Columns `offset..offset + n` are multiplied with `[n, n]`.
pub(super) struct FoldedPath {
    pub(super) offset: usize,
    pub(super) size: usize,
    pub(super) matrix: Vec<f64>,
}

type Built<T> = Result<Arc<Table<T>>, TableError>;

/// A set of radial functions and their tables, one for each pair of species that needs its own.
pub(super) struct Radial<T> {
    pub(super) functions: RadialFunctions,
    fold: Option<Fold>,
    sections: Vec<tesseral_ops::radial::table::Section>,
    columns: usize,
    /// Whether tables differ by the species of the centre, of the neighbour, or by the pair regardless of order.
    by_center: bool,
    by_neighbor: bool,
    by_pair: bool,
    species: usize,
    tables: Vec<OnceLock<Built<T>>>,
    tolerance: TableTolerance,
}

impl<T: HasSlabs> Radial<T> {
    pub(super) fn new(
        functions: RadialFunctions,
        basis: &RadialBasis,
        sections: Vec<tesseral_ops::radial::table::Section>,
        fold: Option<(Fold, bool, bool)>,
        species: usize,
    ) -> Self {
        let columns = sections.iter().flatten().flatten().max().map_or(0, |&c| c as usize + 1);
        let (fold, by_center, by_neighbor) = fold.map_or((None, false, false), |(f, c, n)| (Some(f), c, n));
        let ordered = functions.by_species() || basis.by_order();
        let (by_center, by_neighbor) = (by_center || ordered, by_neighbor || ordered);
        let by_pair = basis.by_pair();
        let count = if by_center || by_neighbor || by_pair { species * species } else { 1 };
        Self {
            functions,
            fold,
            sections,
            columns,
            by_center,
            by_neighbor,
            by_pair,
            species,
            tables: (0..count).map(|_| OnceLock::new()).collect(),
            tolerance: TableTolerance::of::<T>(),
        }
    }

    /// The pair whose functions a pair shares.
    pub(super) fn representative(&self, pair: Pair) -> Pair {
        let Pair { center, neighbor } = pair;
        match (self.by_center, self.by_neighbor) {
            (false, false) if self.by_pair => Pair { center: center.min(neighbor), neighbor: center.max(neighbor) },
            (false, false) => Pair { center: 0, neighbor: 0 },
            _ if self.by_pair => pair,
            (c, n) => Pair { center: if c { center } else { 0 }, neighbor: if n { neighbor } else { 0 } },
        }
    }

    fn key(&self, pair: Pair) -> usize {
        if self.tables.len() == 1 { 0 } else { pair.center as usize * self.species + pair.neighbor as usize }
    }

    /// The functions themselves, folded: `[points, columns]`.
    pub(super) fn exact(&self, basis: &RadialBasis, pair: Pair, distances: &[f64], orders: usize) -> Jets {
        let mut jets = self.functions.evaluate(basis, pair, distances, orders);
        if let Some(fold) = self.fold.as_ref().filter(|_| !distances.is_empty()) {
            let mut scratch = Vec::new();
            for path in fold(pair) {
                for values in &mut jets.orders {
                    let n = distances.len();
                    scratch.clear();
                    scratch.resize(n * path.size, 0.0);
                    use tesseral_ops::real::Real;
                    f64::gemm(
                        n,
                        path.size,
                        path.size,
                        (&mut scratch, path.size),
                        false,
                        (&values[path.offset..], jets.functions, 1),
                        (&path.matrix, path.size, 1),
                    );
                    for (row, from) in values.chunks_exact_mut(jets.functions).zip(scratch.chunks_exact(path.size)) {
                        row[path.offset..path.offset + path.size].copy_from_slice(from);
                    }
                }
            }
        }
        jets
    }

    /// The table of a pair, which must be its own representative.
    pub(super) fn table(&self, basis: &RadialBasis, pair: Pair) -> Built<T> {
        let table = &self.tables[self.key(pair)];
        if let Some(built) = table.get() {
            return built.clone();
        }
        // Not within the lock: a thread that waits for parts of a table takes on other work, which may want the same table.
        let built = self.build(basis, pair);
        table.get_or_init(|| built).clone()
    }

    pub(super) fn sections(&self) -> &[tesseral_ops::radial::table::Section] {
        &self.sections
    }

    /// Columns of the functions.
    pub(super) fn columns(&self) -> usize {
        self.columns
    }

    fn build(&self, basis: &RadialBasis, pair: Pair) -> Built<T> {
        let mut error = TableError { value: f64::INFINITY, slope: f64::INFINITY, intervals: 0 };
        for intervals in INTERVALS {
            let table;
            (table, error) = self.tabulate(basis, pair, intervals);
            if error.value <= self.tolerance.value && error.slope <= self.tolerance.slope {
                return Ok(Arc::new(table));
            }
        }
        Err(error)
    }

    fn tabulate(&self, basis: &RadialBasis, pair: Pair, wanted: usize) -> (Table<T>, TableError) {
        /// A distance this much nearer stands for the limit from below.
        const BELOW: f64 = 1.0 - 1e-13;
        let cutoff = basis.cutoff(pair);
        let kink = basis.kink(pair);
        // A kink has to fall onto the end of an interval.
        let off = |n: usize| kink.map_or(0.0, |kink| (kink / cutoff * n as f64 - (kink / cutoff * n as f64).round()).abs());
        let intervals = (wanted..wanted + wanted / 4).find(|&n| off(n) < 1e-9).unwrap_or(wanted);
        let h = cutoff / intervals as f64;
        let mut distances: Vec<f64> = (0..=intervals).map(|k| k as f64 * h).collect();
        distances[intervals] = cutoff * BELOW;
        let mut ends: Vec<[usize; 2]> = (0..intervals).map(|k| [k, k + 1]).collect();
        if let Some(kink) = kink.filter(|&kink| off(intervals) < 1e-9 && kink > 0.5 * h) {
            let k = (kink / h).round() as usize;
            // Just above in the interval that starts there, just below in the one that ends.
            distances[k] = kink * (2.0 - BELOW);
            distances.push(kink * BELOW);
            ends[k - 1][1] = distances.len() - 1;
        }
        // Where the errors of value and slope of a Hermite quintic are largest.
        let places = [0.5, 0.5 - 0.5 / 5f64.sqrt()];
        let tests: Vec<f64> = (0..intervals).flat_map(|k| places.map(|t| (k as f64 + t) * h)).collect();
        let (knots, tests_exact) =
            rayon::join(|| self.parallel(basis, pair, &distances, 3).samples(), || self.parallel(basis, pair, &tests, 2));
        let table = Table::new(cutoff, &knots, &ends, &self.sections);
        // The error of the quintics before they are rounded to the type of the table.
        let (mut worst, mut largest) = ([0.0f64; 2], [1e-300f64; 2]);
        for (k, &[left, right]) in ends.iter().enumerate() {
            let (a, b) = (&knots[left], &knots[right]);
            for f in 0..self.columns {
                let c =
                    tesseral_ops::radial::table::hermite(h, [a.value[f], a.first[f], a.second[f]], [b.value[f], b.first[f], b.second[f]]);
                largest = [largest[0].max(a.value[f].abs()), largest[1].max(a.first[f].abs())];
                for (which, t) in places.into_iter().enumerate() {
                    let (value, slope) = c.iter().rev().fold((0.0, 0.0), |(v, s), c| (v * t + c, s * t + v));
                    let at = (2 * k + which) * self.columns + f;
                    worst[0] = worst[0].max((value - tests_exact.orders[0][at]).abs());
                    worst[1] = worst[1].max((slope / h - tests_exact.orders[1][at]).abs());
                }
            }
        }
        (table, TableError { value: worst[0] / largest[0], slope: worst[1] / largest[1], intervals })
    }

    fn parallel(&self, basis: &RadialBasis, pair: Pair, distances: &[f64], orders: usize) -> Jets {
        let parts: Vec<Jets> = distances.par_chunks(64).map(|d| self.exact(basis, pair, d, orders)).collect();
        let functions = parts.first().map_or(0, |p| p.functions);
        let join = |order: usize| parts.iter().flat_map(|p| p.orders[order].iter().copied()).collect();
        Jets { functions, orders: (0..orders).map(join).collect() }
    }
}

/// A convolution of a model.
pub(super) struct Convolution<T> {
    /// Its paths, in the unpadded layout.
    pub(super) spec: TensorProductSpec,
    pub(super) plan: SlabPlan<T>,
    /// Whether the features of the neighbours are part of the tables.
    pub(super) unit: bool,
    pub(super) radial: Radial<T>,
    /// The density that accompanies it.
    pub(super) density: Option<Radial<T>>,
    /// Which block of the features each block of the plan takes.
    pub(super) inputs: Vec<usize>,
}
