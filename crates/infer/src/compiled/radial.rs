//! Radial functions of a pair of elements, exactly and with derivatives: what tables are made from, and what `--exact-radial` evaluates.
//!
//! Everything is carried as Taylor coefficients in the distance, up to the second derivative for tables and the first for exact evaluation: the
//! distance transform, the basis with its envelope, the network (model definitions §2.2, §2.5, §3.1, §4).

use tesseral_ops::gate::ScaledActivation;
use tesseral_ops::radial::cpu::{bessel_derivative, chebyshev_derivatives, gaussian_derivative};
use tesseral_ops::radial::{ScalarFunction, table::Sample};
use tesseral_ops::real::Real;
use tesseral_potentials::blocks::{MlpConfig, activation};
use tesseral_potentials::mace::{Basis, MaceConfig, Transform};
use tesseral_potentials::nequip::NequipConfig;
use tesseral_potentials::{Parameters, PotentialError};

/// Values and derivatives of many functions at many points: `[points, functions]` for each order.
#[derive(Debug, Clone, Default)]
pub(super) struct Jets {
    pub(super) functions: usize,
    pub(super) orders: Vec<Vec<f64>>,
}

impl Jets {
    fn zeros(points: usize, functions: usize, orders: usize) -> Self {
        Self { functions, orders: vec![vec![0.0; points * functions]; orders] }
    }

    fn points(&self) -> usize {
        self.orders[0].len() / self.functions.max(1)
    }

    /// The samples that tables are made from.
    pub(super) fn samples(&self) -> Vec<Sample> {
        let row = |order: usize, point: usize| self.orders[order][point * self.functions..(point + 1) * self.functions].to_vec();
        (0..self.points()).map(|k| Sample { value: row(0, k), first: row(1, k), second: row(2, k) }).collect()
    }

    /// The product with a function of the point, `factor[order][point]`.
    fn multiply(&mut self, factor: &[Vec<f64>]) {
        let n = self.functions;
        for point in 0..self.points() {
            for f in point * n..(point + 1) * n {
                // (a·b)'' = a''b + 2a'b' + ab''
                let a: [f64; 3] = std::array::from_fn(|o| self.orders.get(o).map_or(0.0, |v| v[f]));
                let b: [f64; 3] = std::array::from_fn(|o| factor.get(o).map_or(0.0, |v| v[point]));
                let product = [a[0] * b[0], a[1] * b[0] + a[0] * b[1], a[2] * b[0] + 2.0 * a[1] * b[1] + a[0] * b[2]];
                for (order, values) in self.orders.iter_mut().enumerate() {
                    values[f] = product[order];
                }
            }
        }
    }

    /// `[points, in]` · `[in, out]`
    pub(super) fn times(&self, weights: &[f64], outputs: usize) -> Self {
        let (n, k) = (self.points(), self.functions);
        let orders = self
            .orders
            .iter()
            .map(|x| {
                let mut y = vec![0.0; n * outputs];
                f64::gemm(n, outputs, k, (&mut y, outputs), false, (x, k, 1), (weights, outputs, 1));
                y
            })
            .collect();
        Self { functions: outputs, orders }
    }
}

/// What the radial functions of a pair depend on beside the distance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Pair {
    /// Species of the centre.
    pub(super) center: u32,
    /// Species of the neighbour.
    pub(super) neighbor: u32,
}

/// Basis functions.
#[derive(Debug, Clone)]
enum Functions {
    Bessel { frequencies: Vec<f64>, prefactor: f64 },
    Gaussian { centers: Vec<f64>, factor: f64 },
    Chebyshev { count: usize },
}

/// How distances are changed before the basis.
#[derive(Debug, Clone)]
enum Change {
    None,
    Agnesi {
        constants: [f64; 3],
        radii: Vec<f64>,
    },
    Soft {
        alpha: f64,
        radii: Vec<f64>,
    },
    /// Stretched so that every pair ends at the cutoff of the model: cutoffs `[Z, Z]`, Å.
    Stretch {
        cutoffs: Vec<f64>,
        species: usize,
    },
}

/// Distance transform, basis and envelope of a model.
#[derive(Debug, Clone)]
pub(super) struct RadialBasis {
    cutoff: f64,
    functions: Functions,
    change: Change,
    envelope: ScalarFunction,
    /// Whether the envelope multiplies the basis, or the outputs of the networks.
    pub(super) envelope_on_basis: bool,
}

impl RadialBasis {
    pub(super) fn of_mace(config: &MaceConfig, p: &Parameters<'_>) -> Result<Self, PotentialError> {
        let radial = &config.radial;
        let species = config.elements.len();
        let functions = match radial.basis {
            Basis::Bessel => Functions::Bessel {
                frequencies: p.constants("radial.frequencies", &[radial.size])?,
                prefactor: if p.contains("radial.prefactor") {
                    p.constants("radial.prefactor", &[1])?[0]
                } else {
                    (2.0 / config.cutoff).sqrt()
                },
            },
            Basis::Gaussian => {
                let width = config.cutoff / (radial.size - 1) as f64;
                Functions::Gaussian { centers: p.constants("radial.centers", &[radial.size])?, factor: -0.5 / (width * width) }
            }
            Basis::Chebyshev => Functions::Chebyshev { count: radial.size },
        };
        let radii = || p.constants("covalent_radii", &[species]);
        let change = match radial.transform {
            Transform::None => Change::None,
            Transform::Agnesi => {
                let c = p.constants("radial.transform", &[3])?;
                Change::Agnesi { constants: [c[0], c[1], c[2]], radii: radii()? }
            }
            Transform::Soft => Change::Soft { alpha: p.constants("radial.transform", &[1])?[0], radii: radii()? },
        };
        let envelope = ScalarFunction::PolynomialEnvelope { p: radial.envelope_p, cutoff: config.cutoff };
        Ok(Self { cutoff: config.cutoff, functions, change, envelope, envelope_on_basis: radial.envelope_on_basis })
    }

    pub(super) fn of_nequip(config: &NequipConfig, p: &Parameters<'_>) -> Result<Self, PotentialError> {
        let species = config.elements.len();
        let functions =
            Functions::Bessel { frequencies: p.constants("radial.frequencies", &[config.basis_size])?, prefactor: config.basis_prefactor };
        let change = if p.contains("pair_cutoffs") {
            Change::Stretch { cutoffs: p.constants("pair_cutoffs", &[species, species])?, species }
        } else {
            Change::None
        };
        Ok(Self { cutoff: config.cutoff, functions, change, envelope: config.envelope_function(), envelope_on_basis: true })
    }

    /// How many functions.
    pub(super) fn size(&self) -> usize {
        match &self.functions {
            Functions::Bessel { frequencies, .. } => frequencies.len(),
            Functions::Gaussian { centers, .. } => centers.len(),
            Functions::Chebyshev { count } => *count,
        }
    }

    /// Whether the functions differ between pairs of elements.
    pub(super) fn by_pair(&self) -> bool {
        !matches!(self.change, Change::None)
    }

    /// Whether they differ between a pair and the same pair the other way round: cutoffs of pairs need not be symmetric.
    pub(super) fn by_order(&self) -> bool {
        matches!(self.change, Change::Stretch { .. })
    }

    /// Where the functions of a pair end, Å.
    pub(super) fn cutoff(&self, pair: Pair) -> f64 {
        match &self.change {
            Change::Stretch { cutoffs, species } => cutoffs[pair.center as usize * species + pair.neighbor as usize],
            _ => self.cutoff,
        }
    }

    /// A distance at which the second derivative jumps, Å, if there is one.
    pub(super) fn kink(&self, pair: Pair) -> Option<f64> {
        self.envelope.kink().map(|kink| kink * self.cutoff(pair) / self.cutoff)
    }

    /// The changed distance and its derivatives.
    fn changed(&self, pair: Pair, d: f64) -> [f64; 3] {
        let function = match &self.change {
            Change::None => return [d, 1.0, 0.0],
            Change::Stretch { .. } => {
                let factor = self.cutoff / self.cutoff(pair);
                return [d * factor, factor, 0.0];
            }
            Change::Agnesi { constants: [a, q, p], radii } => {
                let r0 = 0.5 * (radii[pair.center as usize] + radii[pair.neighbor as usize]);
                ScalarFunction::Agnesi { a: *a, q: *q, p: *p, r0: [r0].into() }
            }
            Change::Soft { alpha, radii } => {
                let r0 = radii[pair.center as usize] + radii[pair.neighbor as usize];
                ScalarFunction::Soft { alpha: *alpha, r0: [r0].into() }
            }
        };
        [0, 1, 2].map(|order| function.derivative(0, d, order))
    }

    /// The envelope at each distance, by order.
    pub(super) fn envelope(&self, pair: Pair, distances: &[f64], orders: usize) -> Vec<Vec<f64>> {
        // The envelope of a stretched distance is stretched too; other changes do not concern it.
        let factor = if let Change::Stretch { .. } = self.change { self.cutoff / self.cutoff(pair) } else { 1.0 };
        let of = |order: usize| {
            distances.iter().map(|&d| self.envelope.derivative(0, d * factor, order) * factor.powi(order as i32)).collect::<Vec<_>>()
        };
        (0..orders).map(of).collect()
    }

    /// The basis at each distance, envelope included if it belongs there, followed by `constants` that do not depend on it.
    pub(super) fn evaluate(&self, pair: Pair, distances: &[f64], constants: &[f64], orders: usize) -> Jets {
        let (size, width) = (self.size(), self.size() + constants.len());
        let mut basis = Jets::zeros(distances.len(), size, orders);
        let mut row = [vec![0.0; size], vec![0.0; size], vec![0.0; size]];
        for (point, &d) in distances.iter().enumerate() {
            let [t, t1, t2] = self.changed(pair, d);
            for (order, row) in row.iter_mut().enumerate().take(orders) {
                match &self.functions {
                    Functions::Bessel { frequencies, prefactor } => {
                        for (value, &w) in row.iter_mut().zip(frequencies) {
                            *value = prefactor * bessel_derivative(w, t, order, 0);
                        }
                    }
                    Functions::Gaussian { centers, factor } => {
                        for (value, &c) in row.iter_mut().zip(centers) {
                            *value = gaussian_derivative(*factor, t - c, order);
                        }
                    }
                    Functions::Chebyshev { .. } => chebyshev_derivatives(t, order, row),
                }
            }
            for f in 0..size {
                let [b, b1, b2] = [row[0][f], row[1][f], row[2][f]];
                let chain = [b, b1 * t1, b2 * t1 * t1 + b1 * t2];
                for (order, values) in basis.orders.iter_mut().enumerate() {
                    values[point * size + f] = chain[order];
                }
            }
        }
        if self.envelope_on_basis {
            basis.multiply(&self.envelope(pair, distances, orders));
        }
        if constants.is_empty() {
            return basis;
        }
        let mut all = Jets::zeros(distances.len(), width, orders);
        for (order, (to, from)) in all.orders.iter_mut().zip(&basis.orders).enumerate() {
            for (to, from) in to.chunks_exact_mut(width).zip(from.chunks_exact(size)) {
                to[..size].copy_from_slice(from);
                if order == 0 {
                    to[size..].copy_from_slice(constants);
                }
            }
        }
        all
    }
}

#[derive(Debug, Clone)]
struct Dense {
    outputs: usize,
    /// `[in, out]`, scaled.
    weights: Vec<f64>,
    bias: Option<Vec<f64>>,
    norm: Option<(Vec<f64>, Vec<f64>)>,
}

/// A network on the basis functions.
#[derive(Debug, Clone)]
pub(super) struct Network {
    layers: Vec<Dense>,
    activation: ScaledActivation,
}

impl Network {
    /// Reads `{name}.{k}.weight` and so on.
    pub(super) fn new(p: &Parameters<'_>, name: &str, config: &MlpConfig) -> Result<Self, PotentialError> {
        let count = config.sizes.len().saturating_sub(1);
        let layers = (0..count)
            .map(|k| {
                let (n_in, n_out) = (config.sizes[k], config.sizes[k + 1]);
                let scale = config.scales[k];
                let weights = p.constants(&format!("{name}.{k}.weight"), &[n_in, n_out])?.iter().map(|w| w * scale).collect();
                let of = |what: &str| p.constants(&format!("{name}.{k}.{what}"), &[n_out]);
                Ok(Dense {
                    outputs: n_out,
                    weights,
                    bias: if config.bias_and_norm { Some(of("bias")?) } else { None },
                    norm: if config.bias_and_norm && k + 1 < count { Some((of("norm.weight")?, of("norm.bias")?)) } else { None },
                })
            })
            .collect::<Result<_, PotentialError>>()?;
        Ok(Self { layers, activation: activation(&config.activation, config.gain)? })
    }

    /// The outputs with derivatives.
    pub(super) fn evaluate(&self, mut x: Jets) -> Jets {
        for (k, layer) in self.layers.iter().enumerate() {
            x = x.times(&layer.weights, layer.outputs);
            if let Some(bias) = &layer.bias {
                for row in x.orders[0].chunks_exact_mut(bias.len().max(1)) {
                    row.iter_mut().zip(bias).for_each(|(x, b)| *x += b);
                }
            }
            if let Some((weight, bias)) = &layer.norm {
                layer_norm(&mut x, weight, bias);
            }
            if k + 1 < self.layers.len() {
                self.activate(&mut x);
            }
        }
        x
    }

    /// f(a), f'·a', f''·a'² + f'·a''
    fn activate(&self, x: &mut Jets) {
        let mut f = x.orders.clone();
        for (order, f) in f.iter_mut().enumerate() {
            self.activation.apply(order, &x.orders[0], f);
        }
        let orders = x.orders.len();
        for k in 0..x.orders[0].len() {
            if orders > 2 {
                x.orders[2][k] = f[2][k] * x.orders[1][k] * x.orders[1][k] + f[1][k] * x.orders[2][k];
            }
            if orders > 1 {
                x.orders[1][k] *= f[1][k];
            }
            x.orders[0][k] = f[0][k];
        }
    }
}

/// Layer norm with the biased variance and ε = 1e-5 (torch), with derivatives.
fn layer_norm(x: &mut Jets, weight: &[f64], bias: &[f64]) {
    let n = x.functions;
    for point in 0..x.points() {
        let range = point * n..(point + 1) * n;
        let mut c: [Vec<f64>; 3] = Default::default();
        for (order, values) in x.orders.iter().enumerate() {
            let mean = values[range.clone()].iter().sum::<f64>() / n as f64;
            c[order] = values[range.clone()].iter().map(|v| v - mean).collect();
        }
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>() / n as f64;
        // v = ⟨c²⟩ + ε and s = v^(-1/2) with derivatives.
        let v = dot(&c[0], &c[0]) + 1e-5;
        let v1 = 2.0 * dot(&c[0], &c[1]);
        let v2 = 2.0 * (dot(&c[1], &c[1]) + dot(&c[0], &c[2]));
        let s = 1.0 / v.sqrt();
        let s1 = -0.5 * v1 * s / v;
        let s2 = -0.5 * v2 * s / v + 0.75 * v1 * v1 * s / (v * v);
        for f in 0..n {
            let at = |order: usize| c[order].get(f).copied().unwrap_or(0.0);
            let product = [at(0) * s, at(1) * s + at(0) * s1, at(2) * s + 2.0 * at(1) * s1 + at(0) * s2];
            for (order, values) in x.orders.iter_mut().enumerate() {
                values[point * n + f] = weight[f] * product[order] + if order == 0 { bias[f] } else { 0.0 };
            }
        }
    }
}

/// One set of radial functions of a model: a network on the basis, and what is done to its outputs.
#[derive(Debug, Clone)]
pub(super) struct RadialFunctions {
    pub(super) network: Network,
    /// What the network sees of the species of neighbour and centre, `[Z, n]` each, after the basis.
    pub(super) of_species: Option<(Vec<f64>, Vec<f64>, usize)>,
    /// tanh of the square of the outputs (densities).
    pub(super) density: bool,
}

impl RadialFunctions {
    /// Whether the functions differ between elements (centre, neighbour), apart from the basis.
    pub(super) fn by_species(&self) -> bool {
        self.of_species.is_some()
    }

    pub(super) fn evaluate(&self, basis: &RadialBasis, pair: Pair, distances: &[f64], orders: usize) -> Jets {
        let constants = match &self.of_species {
            None => Vec::new(),
            Some((source, target, n)) => {
                let row = |table: &[f64], species: u32| table[species as usize * n..(species as usize + 1) * n].to_vec();
                [row(source, pair.neighbor), row(target, pair.center)].concat()
            }
        };
        let mut out = self.network.evaluate(basis.evaluate(pair, distances, &constants, orders));
        if self.density {
            for k in 0..out.orders[0].len() {
                let a: [f64; 3] = std::array::from_fn(|o| out.orders.get(o).map_or(0.0, |v| v[k]));
                // u = a², tanh(u): t' = (1−t²)u', t'' = (1−t²)(u'' − 2t·u'²)
                let (u, u1, u2) = (a[0] * a[0], 2.0 * a[0] * a[1], 2.0 * (a[1] * a[1] + a[0] * a[2]));
                let t = u.tanh();
                let slope = 1.0 - t * t;
                let values = [t, slope * u1, slope * (u2 - 2.0 * t * u1 * u1)];
                for (order, out) in out.orders.iter_mut().enumerate() {
                    out[k] = values[order];
                }
            }
        }
        if !basis.envelope_on_basis {
            out.multiply(&basis.envelope(pair, distances, orders));
        }
        out
    }
}
