//! Convolution layers: irreps as NequIP chooses them, weights in the order of artifacts.
//!
//! NequIP keeps the blocks of its features in the order in which they were asked for, artifacts keep them sorted; so rows of features, columns
//! before the gate, paths and radial weights change places. Every block of a feature is of another irrep, hence paths are known by their irreps.

use tesseral_o3::{Convention, Irrep, Irreps, MulIrrep, Path, PathOrder, TensorProductPaths, wigner_3j};
use tesseral_potentials::blocks::{MlpConfig, e3nn_gain};
use tesseral_potentials::nequip::{NequipLayerConfig, SelfConnection};

use super::NequipError;
use super::hyperparameters::{Generation, Hyperparameters, LayerHyperparameters, option_error};
use super::state::{Output, State, Weights, wrong_shape};

const HIDDEN: &str = "feature_irreps_hidden";
/// Degrees that are accepted; models in use have up to 4.
const MAX_DEGREE: usize = 12;

fn irreps(blocks: impl IntoIterator<Item = MulIrrep>) -> Result<Irreps, NequipError> {
    Irreps::new(blocks.into_iter().collect()).map_err(|e| option_error(HIDDEN, e.to_string()))
}

/// What a layer makes before its gate: scalars, one even gate for each gated channel, and gated irreps, each in the order of the package.
struct GateInput {
    scalars: Irreps,
    gated: Irreps,
}

impl GateInput {
    /// Those of the wanted irreps that some path reaches.
    fn reachable(hidden: &Irreps, irreps_in: &Irreps, edge: &Irreps) -> Result<Self, NequipError> {
        let reached = |irrep: Irrep| irreps_in.iter().any(|i| edge.iter().any(|j| (i.irrep * j.irrep).into_iter().any(|k| k == irrep)));
        let hidden = hidden.filter(|b| b.mul > 0 && reached(b.irrep)).simplify();
        if hidden.iter().enumerate().any(|(k, b)| hidden.iter().take(k).any(|other| other.irrep == b.irrep)) {
            return Err(option_error(HIDDEN, format!("has one irrep twice in {hidden}")));
        }
        let result = Self { scalars: hidden.filter(|b| b.irrep.l == 0), gated: hidden.filter(|b| b.irrep.l > 0) };
        // Odd gates would change the parity of what they gate.
        if !result.gated.is_empty() && !reached(Irrep::even(0)) {
            return Err(option_error(HIDDEN, "needs gates, but no path leads to even scalars"));
        }
        Ok(result)
    }

    fn num_gates(&self) -> usize {
        self.gated.num_irreps()
    }

    /// What comes out of the gate, in the order of the package.
    fn output(&self) -> Result<Irreps, NequipError> {
        irreps(self.scalars.iter().chain(&self.gated).copied())
    }

    /// What goes into the gate, sorted and merged.
    fn input(&self) -> Result<Irreps, NequipError> {
        let gates = MulIrrep::new(self.num_gates(), Irrep::even(0));
        Ok(irreps(self.scalars.iter().copied().chain([gates]).chain(self.gated.iter().copied()))?.regroup())
    }

    /// Columns of the block `irrep` of the package's gate input, in the order in which `kept` (a part of this, to be sorted) has them.
    fn columns(&self, kept: &Self, irrep: Irrep) -> Vec<usize> {
        let mut columns: Vec<usize> = (0..kept.scalars.count(irrep) + kept.gated.count(irrep)).collect();
        if irrep.is_scalar() {
            for block in &kept.gated.regroup() {
                let before: usize = self.gated.iter().take_while(|b| b.irrep != block.irrep).map(|b| b.mul).sum();
                let start = self.scalars.count(irrep) + before;
                columns.extend(start..start + block.mul);
            }
        }
        columns
    }
}

/// A size that stays finite whatever the irreps of a file are.
fn product(sizes: &[usize]) -> usize {
    sizes.iter().fold(1, |product, &n| product.saturating_mul(n))
}

fn total(sizes: impl Iterator<Item = usize>) -> usize {
    sizes.fold(0, usize::saturating_add)
}

/// A path by what it joins.
fn same(a: &Path, b: &Path) -> bool {
    (a.irrep_in1, a.irrep_in2, a.out) == (b.irrep_in1, b.irrep_in2, b.out)
}

/// A layer that was converted: its description, and its output in the order of the package.
pub(super) struct ConvertedLayer {
    pub(super) config: NequipLayerConfig,
    pub(super) irreps_out: Irreps,
}

/// Converts the layers of one model.
pub(super) struct LayerConverter<'a> {
    pub(super) hyper: &'a Hyperparameters,
    pub(super) state: &'a State<'a>,
    /// What the self connection depends on: for each element a row of `C` numbers.
    pub(super) attributes: &'a [Vec<f64>],
    pub(super) basis_size: usize,
}

impl LayerConverter<'_> {
    pub(super) fn convert(&self, out: &mut Output, t: usize, irreps_in: &Irreps) -> Result<ConvertedLayer, NequipError> {
        let layer: &LayerHyperparameters = &self.hyper.layers[t];
        let edge = &self.hyper.edge_irreps;
        if let Some(l) = layer.hidden.l_max().max(edge.l_max()).filter(|&l| l > MAX_DEGREE) {
            return Err(option_error(HIDDEN, format!("or the harmonics have degree {l}, more than {MAX_DEGREE}")));
        }
        let package = GateInput::reachable(&layer.hidden, irreps_in, edge)?;
        let resnet = layer.resnet && package.output()? == *irreps_in;
        // The readout takes even scalars alone: nothing else need come out of the last layer.
        let kept = if t + 1 == self.hyper.layers.len() && !resnet {
            GateInput { scalars: package.scalars.filter(|b| b.irrep.is_scalar()), gated: Irreps::default() }
        } else {
            GateInput { scalars: package.scalars.clone(), gated: package.gated.clone() }
        };
        if kept.scalars.is_empty() && kept.gated.is_empty() {
            return Err(option_error(HIDDEN, format!("leaves nothing of `{}` in layer {t}", layer.hidden)));
        }
        let (package_gate, irreps_gate) = (package.input()?, kept.input()?);
        let sorted_in = irreps_in.regroup();
        let paths_of = |features: &Irreps, gate: &Irreps| {
            TensorProductPaths::new(features, edge, |irrep| gate.contains(irrep)).map_err(|e| option_error("irreps_edge_sh", e.to_string()))
        };
        let package_paths = paths_of(irreps_in, &package_gate)?;
        let paths = paths_of(&sorted_in, &irreps_gate)?;

        self.linear_1(out, t, irreps_in, &sorted_in)?;
        self.linear_2(out, t, (&package, &package_gate, &package_paths), (&kept, &irreps_gate, &paths))?;
        let radial = self.radial(out, t, &package_paths, &paths)?;
        let self_connection = match layer.self_connection {
            true => self.self_connection(out, t, (irreps_in, &package, &package_gate), (&sorted_in, &kept, &irreps_gate))?,
            false => SelfConnection::None,
        };
        // Widened or not, they are numbers of the configuration, not weights.
        out.push(format!("layers.{t}.denominator"), &[layer.denominator.len()], layer.denominator.clone(), false);

        let irreps_out = kept.output()?;
        let config = NequipLayerConfig {
            irreps_in: sorted_in,
            irreps_message: paths.mid_irreps().regroup(),
            irreps_gate,
            irreps_out: irreps_out.regroup(),
            self_connection,
            radial,
            resnet,
            bias: false,
            modal_1: false,
            modal_2: false,
        };
        Ok(ConvertedLayer { config, irreps_out })
    }

    fn name(t: usize, rest: &str) -> String {
        format!("layer{t}_convnet.conv.{rest}")
    }

    /// One square matrix for each block.
    fn linear_1(&self, out: &mut Output, t: usize, irreps_in: &Irreps, sorted_in: &Irreps) -> Result<(), NequipError> {
        let numel = total(irreps_in.iter().map(|b| product(&[b.mul, b.mul])));
        let weights = self.state.flat(&Self::name(t, "linear_1.weight"), numel)?;
        let mut values = Vec::with_capacity(numel);
        for block in sorted_in {
            let start: usize = irreps_in.iter().take_while(|b| b.irrep != block.irrep).map(|b| b.mul * b.mul).sum();
            values.extend_from_slice(&weights.values[start..start + block.mul * block.mul]);
        }
        out.push(format!("layers.{t}.linear_1.weight"), &[1, numel], values, weights.single);
        Ok(())
    }

    /// One matrix for each irrep of the messages; its rows are the channels of all paths to the irrep.
    fn linear_2(
        &self,
        out: &mut Output,
        t: usize,
        (package, package_gate, package_paths): (&GateInput, &Irreps, &TensorProductPaths),
        (kept, irreps_gate, paths): (&GateInput, &Irreps, &TensorProductPaths),
    ) -> Result<(), NequipError> {
        let package_mid = package_paths.mid_irreps().regroup();
        let size = |b: &MulIrrep| product(&[b.mul, package_gate.count(b.irrep)]);
        let weights = self.state.flat(&Self::name(t, "linear_2.weight"), total(package_mid.iter().map(size)))?;
        let offsets = package_paths.weight_offsets(PathOrder::SortedByOutput);
        let mut values = Vec::new();
        for block in &irreps_gate.filter(|b| paths.mid_irreps().contains(b.irrep)) {
            let irrep = block.irrep;
            let (mut start, mut first_row) = (0, 0);
            for before in package_mid.iter().take_while(|b| b.irrep != irrep) {
                start += size(before);
                first_row += before.mul;
            }
            let width = package_gate.count(irrep);
            let columns = package.columns(kept, irrep);
            for path in paths.in_order(PathOrder::SortedByOutput).filter(|p| p.out == irrep) {
                let source = source_of(package_paths, path)?;
                for u in 0..path.mul {
                    let row = start + (offsets[source] - first_row + u) * width;
                    values.extend(columns.iter().map(|c| weights.values[row + c]));
                }
            }
        }
        let numel = values.len();
        out.push(format!("layers.{t}.linear_2.weight"), &[1, numel], values, weights.single);
        Ok(())
    }

    /// e3nn's `[mul_in, C, mul_out]` for each pair of blocks, contracted with the attributes of each element.
    fn self_connection(
        &self,
        out: &mut Output,
        t: usize,
        (irreps_in, package, package_gate): (&Irreps, &GateInput, &Irreps),
        (sorted_in, kept, irreps_gate): (&Irreps, &GateInput, &Irreps),
    ) -> Result<SelfConnection, NequipError> {
        let fan_in = self.attributes.first().map_or(0, Vec::len);
        let size = |b: &MulIrrep| product(&[b.mul, fan_in, package_gate.count(b.irrep)]);
        let weights = self.state.flat(&Self::name(t, "sc.weight"), total(irreps_in.iter().map(size)))?;
        let mut values = Vec::new();
        for attributes in self.attributes {
            for block in &sorted_in.filter(|b| irreps_gate.contains(b.irrep)) {
                let start: usize = irreps_in.iter().take_while(|b| b.irrep != block.irrep).map(size).sum();
                let width = package_gate.count(block.irrep);
                let columns = package.columns(kept, block.irrep);
                for u in 0..block.mul {
                    let row = |c: usize| start + (u * fan_in + c) * width;
                    values.extend(
                        columns.iter().map(|w| attributes.iter().enumerate().map(|(c, a)| a * weights.values[row(c) + w]).sum::<f64>()),
                    );
                }
            }
        }
        let elements = self.attributes.len();
        if values.is_empty() {
            return Ok(SelfConnection::None);
        }
        let numel = values.len() / elements;
        out.push(format!("layers.{t}.self_connection.weight"), &[elements, numel], values, weights.single);
        Ok(SelfConnection::Element { fan_in })
    }

    /// The radial network; the columns of its last matrix in the order of `paths`, for couplings of the artifacts' convention.
    fn radial(
        &self,
        out: &mut Output,
        t: usize,
        package_paths: &TensorProductPaths,
        paths: &TensorProductPaths,
    ) -> Result<MlpConfig, NequipError> {
        let name = |k: usize| match self.hyper.generation {
            Generation::One => Self::name(t, &format!("fc.layer{k}.weight")),
            Generation::Two => Self::name(t, &format!("edge_mlp.mlp.{}.weight", 2 * k)),
        };
        let matrices = (0..).take_while(|&k| self.state.contains(&name(k))).count();
        let mut sizes = vec![self.basis_size];
        for k in 0..matrices.max(1) {
            let rows = sizes[k];
            let (weights, columns) = self.state.matrix(&name(k), rows)?;
            let (values, columns) = if k + 1 == matrices {
                if columns != package_paths.weight_numel() {
                    return Err(wrong_shape(&name(k), &weights, &[rows, package_paths.weight_numel()]));
                }
                let pick = self.last_columns(t, package_paths, paths)?;
                (
                    (0..rows)
                        .flat_map(|row| pick.iter().map(move |&(c, sign)| (row, c, sign)))
                        .map(|(row, c, sign)| sign * weights.values[row * columns + c])
                        .collect(),
                    pick.len(),
                )
            } else {
                (weights.values, columns)
            };
            out.push(format!("layers.{t}.radial.{k}.weight"), &[rows, columns], values, weights.single);
            sizes.push(columns);
        }
        Ok(match self.hyper.generation {
            Generation::One => {
                let activation = self.hyper.radial_activation.clone();
                MlpConfig { gain: e3nn_gain(&activation)?, activation, ..MlpConfig::e3nn(sizes) }
            }
            Generation::Two => MlpConfig::nequip(sizes),
        })
    }

    /// For each radial weight of the artifact, its column in the package and the sign of the package's 3j tensor.
    fn last_columns(
        &self,
        t: usize,
        package_paths: &TensorProductPaths,
        paths: &TensorProductPaths,
    ) -> Result<Vec<(usize, f64)>, NequipError> {
        let offsets = package_paths.weight_offsets(PathOrder::Generation);
        let mut columns = Vec::with_capacity(paths.weight_numel());
        for path in paths.in_order(PathOrder::SortedByOutput) {
            let start = offsets[source_of(package_paths, path)?];
            let sign = self.sign(t, path.degrees())?;
            columns.extend((start..start + path.mul).map(|c| (c, sign)));
        }
        Ok(columns)
    }

    /// Sign of the 3j tensor that the model was trained with, relative to the convention of artifacts.
    fn sign(&self, t: usize, degrees: [usize; 3]) -> Result<f64, NequipError> {
        let [l1, l2, l3] = degrees;
        let ours = |convention| wigner_3j(l1, l2, l3, convention).map_err(|e| option_error("irreps_edge_sh", e.to_string()));
        let reference = ours(Convention::E3nn05)?;
        let theirs = match self.state.stored_3j(t, degrees)? {
            Some(stored) => stored,
            None => ours(self.hyper.convention)?.values().to_vec(),
        };
        let overlap: f64 = reference.values().iter().zip(&theirs).map(|(a, b)| a * b).sum();
        if theirs.len() != reference.values().len() || (overlap.abs() - 1.0).abs() > 1e-4 {
            return Err(NequipError::Coupling { layer: t, degrees });
        }
        Ok(overlap.signum())
    }
}

fn source_of(package_paths: &TensorProductPaths, path: &Path) -> Result<usize, NequipError> {
    let found = package_paths.paths().iter().position(|p| same(p, path));
    found.ok_or_else(|| option_error(HIDDEN, format!("gives no path {} x {} -> {}", path.irrep_in1, path.irrep_in2, path.out)))
}

/// The numbers of a table of types: one row for each element.
pub(super) fn rows(weights: &Weights, columns: usize) -> Vec<Vec<f64>> {
    weights.values.chunks_exact(columns.max(1)).map(<[f64]>::to_vec).collect()
}
