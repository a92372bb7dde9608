//! From the names, layouts and signs of mace-torch to those of artifacts.

use tesseral_o3::{Convention, DenseBasis, Irrep, Irreps, Monomials, MulIrrep, PathOrder, TensorProductPaths, wigner_3j};
use tesseral_potentials::blocks::MlpConfig;
use tesseral_potentials::header::FORMAT_VERSION;
use tesseral_potentials::mace::{Basis, FieldKind, Interaction, LayerConfig, MaceConfig, ReadoutKind, Transform};
use tesseral_potentials::{Architecture, Artifact, Header, NamedTensor, Numbers, Provenance};

use super::tensors::{Tensors, flip_columns, gather, transpose};
use super::{MaceError, MaceSource};

/// Coefficients of a product basis up to this are rounding noise of its construction in double precision.
const NOISE: f64 = 1e-13;
/// How far a stored 3j symbol may be from the exact one: some files keep them in single precision.
const WIGNER_TOLERANCE: f64 = 1e-6;

impl MaceSource {
    /// The model as an artifact: weights in the precision they have in the checkpoint (half precision as single), product bases as polynomials
    /// in double precision.
    ///
    /// # Errors
    /// [`MaceError`] naming the tensor that is missing, of the wrong shape, or not understood.
    pub fn into_artifact(self, name: &str, provenance: Provenance) -> Result<Artifact, MaceError> {
        let mut writer = Writer { config: &self.config, source: Tensors::new(&self.tensors), out: Vec::new() };
        writer.embedding_and_radial()?;
        for (t, layer) in self.config.layers.iter().enumerate() {
            writer.interaction(t, layer)?;
            writer.product(t, layer)?;
        }
        writer.readouts()?;
        writer.energies()?;
        writer.fields()?;
        writer.source.check_all_used()?;
        let tensors = writer.out;
        let architecture = Architecture::Mace(self.config);
        let header = Header { format_version: FORMAT_VERSION, name: name.to_owned(), architecture, provenance, licence: None };
        Ok(Artifact::new(header, tensors)?)
    }
}

struct Writer<'a> {
    config: &'a MaceConfig,
    source: Tensors<'a>,
    out: Vec<NamedTensor>,
}

/// Blocks of a linear map in e3nn's order: input channels, output channels.
fn blocks(irreps_in: &Irreps, irreps_out: &Irreps) -> Vec<(usize, usize)> {
    irreps_in.iter().flat_map(|i| irreps_out.iter().filter(|o| o.irrep == i.irrep).map(|o| (i.mul, o.mul))).collect()
}

fn weights(irreps_in: &Irreps, irreps_out: &Irreps) -> usize {
    blocks(irreps_in, irreps_out).iter().map(|(i, o)| i * o).sum()
}

fn scalars(n: usize) -> Result<Irreps, MaceError> {
    Irreps::new(vec![MulIrrep::new(n, Irrep::even(0))]).map_err(|e| MaceError::value("irreps", e.to_string()))
}

impl Writer<'_> {
    fn push(&mut self, name: impl Into<String>, shape: &[usize], numbers: Numbers) {
        self.out.push(NamedTensor { name: name.into(), shape: shape.to_vec(), numbers });
    }

    fn copy(&mut self, from: &str, to: &str, shape: &[usize]) -> Result<(), MaceError> {
        let numbers = self.source.numbers(from, shape)?;
        self.push(to, shape, numbers);
        Ok(())
    }

    /// A linear map of the one-hot element, flat in the file, one row for each element here.
    fn copy_rows(&mut self, from: &str, to: &str, rows: usize, columns: usize) -> Result<(), MaceError> {
        let numbers = self.source.flat(from, rows * columns)?;
        self.push(to, &[rows, columns], numbers);
        Ok(())
    }

    /// A matrix of torch, `[out, in]` in the file.
    fn copy_transposed(&mut self, from: &str, to: &str, inputs: usize, outputs: usize) -> Result<(), MaceError> {
        let numbers = transpose(&self.source.numbers(from, &[outputs, inputs])?, outputs, inputs);
        self.push(to, &[inputs, outputs], numbers);
        Ok(())
    }

    /// An equivariant linear map: flat weights in the same order.
    fn linear(&mut self, from: &str, to: &str, irreps_in: &Irreps, irreps_out: &Irreps) -> Result<(), MaceError> {
        let count = weights(irreps_in, irreps_out);
        let numbers = self.source.flat(&format!("{from}.weight"), count)?;
        self.push(format!("{to}.weight"), &[1, count], numbers);
        Ok(())
    }

    /// As [`Self::linear`], with a bias on the scalars.
    fn linear_with_bias(&mut self, from: &str, to: &str, irreps_in: &Irreps, irreps_out: &Irreps) -> Result<(), MaceError> {
        self.linear(from, to, irreps_in, irreps_out)?;
        self.copy(&format!("{from}.bias"), &format!("{to}.bias"), &[irreps_out.count(Irrep::even(0))])
    }

    /// A product with the one-hot element: blocks `[mul_in, Z, mul_out]` → one row of flat weights for each element.
    fn by_element(&mut self, from: &str, to: &str, irreps_in: &Irreps, irreps_out: &Irreps) -> Result<(), MaceError> {
        let z = self.config.elements.len();
        let count = weights(irreps_in, irreps_out);
        let numbers = self.source.flat(&format!("{from}.weight"), z * count)?;
        let blocks = blocks(irreps_in, irreps_out);
        let source = (0..z).flat_map(|element| {
            let mut start = 0;
            let starts: Vec<(usize, usize, usize)> = blocks
                .iter()
                .map(|&(i, o)| {
                    let block = (start, i, o);
                    start += i * z * o;
                    block
                })
                .collect();
            starts
                .into_iter()
                .flat_map(move |(start, i, o)| (0..i).flat_map(move |u| (0..o).map(move |w| start + (u * z + element) * o + w)))
        });
        let numbers = gather(&numbers, source);
        self.push(format!("{to}.weight"), &[z, count], numbers);
        Ok(())
    }

    /// A network on edge features; `signs` multiply its outputs.
    fn network(&mut self, from: &str, to: &str, network: &MlpConfig, signs: Option<&[f64]>) -> Result<(), MaceError> {
        let last = network.sizes.len().saturating_sub(2);
        for (k, size) in network.sizes.windows(2).enumerate() {
            let (inputs, outputs) = (size[0], size[1]);
            let signs = signs.filter(|_| k == last);
            let flipped = |mut numbers: Numbers| {
                if let Some(signs) = signs {
                    flip_columns(&mut numbers, signs);
                }
                numbers
            };
            let to = format!("{to}.{k}");
            if network.bias_and_norm {
                let matrix = self.source.numbers(&format!("{from}.net.{}.weight", 3 * k), &[outputs, inputs])?;
                self.push(format!("{to}.weight"), &[inputs, outputs], flipped(transpose(&matrix, outputs, inputs)));
                let bias = self.source.numbers(&format!("{from}.net.{}.bias", 3 * k), &[outputs])?;
                self.push(format!("{to}.bias"), &[outputs], flipped(bias));
                if k < last {
                    for part in ["weight", "bias"] {
                        self.copy(&format!("{from}.net.{}.{part}", 3 * k + 1), &format!("{to}.norm.{part}"), &[outputs])?;
                    }
                }
            } else {
                let matrix = self.source.numbers(&format!("{from}.layer{k}.weight"), &[inputs, outputs])?;
                self.push(format!("{to}.weight"), &[inputs, outputs], flipped(matrix));
            }
        }
        Ok(())
    }

    /// Constants that are collected from several tensors: of single precision if all of them are.
    fn constants(&mut self, to: &str, from: &[&str], values: Vec<f64>) {
        let numbers = if from.iter().any(|name| self.source.is_double(name)) {
            Numbers::F64(values)
        } else {
            Numbers::F32(values.iter().map(|&x| x as f32).collect())
        };
        let count = numbers.len();
        self.push(to, &[count], numbers);
    }

    fn embedding_and_radial(&mut self) -> Result<(), MaceError> {
        let config = self.config;
        let size = config.radial.size;
        self.copy_rows("node_embedding.linear.weight", "embedding.weight", config.elements.len(), config.channels())?;
        match config.radial.basis {
            Basis::Bessel => {
                self.copy("radial_embedding.bessel_fn.bessel_weights", "radial.frequencies", &[size])?;
                // √(2/r_c) as the checkpoint has it: rounded to single precision in models of single precision.
                self.copy("radial_embedding.bessel_fn.prefactor", "radial.prefactor", &[1])?;
            }
            Basis::Gaussian => self.copy("radial_embedding.bessel_fn.gaussian_weights", "radial.centers", &[size])?,
            Basis::Chebyshev => {}
        }
        let transform = "radial_embedding.distance_transform";
        let names: &[&str] = match config.radial.transform {
            Transform::None => &[],
            Transform::Agnesi => &["a", "q", "p"],
            Transform::Soft => &["alpha"],
        };
        let names: Vec<String> = names.iter().map(|n| format!("{transform}.{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        if !names.is_empty() {
            let values = names.iter().map(|name| self.source.scalar(name)).collect::<Result<Vec<_>, _>>()?;
            self.constants("radial.transform", &names, values);
        }
        let zbl = "pair_repulsion_fn";
        let transformed = (config.radial.transform != Transform::None).then_some(transform);
        let tables: Vec<String> =
            [transformed, config.zbl.then_some(zbl)].into_iter().flatten().map(|t| format!("{t}.covalent_radii")).collect();
        if let Some(first) = tables.first() {
            let radii = self.radii(first)?;
            for table in &tables[1..] {
                if self.radii(table)? != radii {
                    return Err(MaceError::value(table, format!("differs from `{first}`")));
                }
            }
            self.constants("covalent_radii", &[first], radii);
        }
        if config.zbl {
            let (exponent, prefactor, c) = (format!("{zbl}.a_exp"), format!("{zbl}.a_prefactor"), format!("{zbl}.c"));
            let mut values = vec![self.source.scalar(&exponent)?, self.source.scalar(&prefactor)?];
            self.source.numbers(&c, &[4])?;
            values.extend(self.source.get(&c)?.to_f64());
            values.push(self.source.scalar(&format!("{zbl}.p"))?);
            self.constants("zbl", &[&exponent, &prefactor, &c], values);
        }
        Ok(())
    }

    /// Covalent radii of the model's elements from a table over atomic numbers.
    fn radii(&self, name: &str) -> Result<Vec<f64>, MaceError> {
        let table = self.source.get(name)?;
        let values = table.to_f64();
        let radius = |z: &u8| values.get(usize::from(*z)).copied();
        self.config.elements.iter().map(radius).collect::<Option<_>>().ok_or_else(|| MaceError::Shape {
            name: name.to_owned(),
            found: table.shape.clone(),
            expected: "a radius for every atomic number".into(),
        })
    }

    fn interaction(&mut self, t: usize, layer: &LayerConfig) -> Result<(), MaceError> {
        let from = |what: &str| format!("interactions.{t}.{what}");
        let to = |what: &str| format!("layers.{t}.{what}");
        let config = self.config;
        let target = &layer.irreps_target;
        let paths = TensorProductPaths::new(&layer.irreps_edge, &config.edge_irreps, |irrep| target.contains(irrep))?;
        let signs = self.signs(t, &paths)?;
        if signs.len() != layer.radial.outputs() {
            let reason = format!("has {} outputs, the tensor product {} weights", layer.radial.outputs(), signs.len());
            return Err(MaceError::value(from("conv_tp_weights"), reason));
        }
        let mid = paths.mid_irreps().clone();
        self.linear(&from("linear_up"), &to("up"), &layer.irreps_in, &layer.irreps_edge)?;
        self.network(&from("conv_tp_weights"), &to("radial"), &layer.radial, Some(&signs))?;
        if let Some(density) = &layer.density {
            self.network(&from("density_fn"), &to("density"), density, None)?;
        }
        match layer.interaction {
            Interaction::Plain | Interaction::Density => {
                self.linear(&from("linear"), &to("linear"), &mid, target)?;
                self.by_element(&from("skip_tp"), &to("mix"), target, target)
            }
            Interaction::Residual | Interaction::DensityResidual => {
                self.linear(&from("linear"), &to("linear"), &mid, target)?;
                self.by_element(&from("skip_tp"), &to("skip"), &layer.irreps_in, &layer.irreps_out)
            }
            Interaction::AttentionResidual => {
                self.linear(&from("linear"), &to("linear"), &mid, target)?;
                self.linear(&from("linear_down"), &to("down"), &layer.irreps_in, &scalars(64)?)?;
                self.linear(&from("skip_linear"), &to("skip"), &layer.irreps_in, &layer.irreps_out)
            }
            Interaction::ResidualNonLinear => {
                let gate = gate_irreps(&from("equivariant_nonlin"), target)?;
                self.linear(&from("linear_1"), &to("linear"), &mid, &gate)?;
                self.linear(&from("linear_res"), &to("residual"), &layer.irreps_edge, &gate)?;
                self.linear(&from("linear_2"), &to("linear_2"), target, target)?;
                self.linear(&from("skip_tp"), &to("skip"), &layer.irreps_in, &layer.irreps_out)?;
                let (z, channels) = (config.elements.len(), layer.irreps_in.count(Irrep::even(0)));
                self.copy_rows(&from("source_embedding.weight"), &to("source.weight"), z, channels)?;
                self.copy_rows(&from("target_embedding.weight"), &to("target.weight"), z, channels)?;
                self.copy(&from("alpha"), &to("alpha"), &[1])?;
                self.copy(&from("beta"), &to("beta"), &[1])
            }
        }
    }

    /// The sign of each output of the radial network: that of the harmonics under inversion of the edge, times that of the 3j symbol in the file
    /// (or of e3nn 0.4, which MACE is bound to) relative to the convention of artifacts.
    fn signs(&self, t: usize, paths: &TensorProductPaths) -> Result<Vec<f64>, MaceError> {
        let mut signs = Vec::with_capacity(paths.weight_numel());
        for path in paths.in_order(PathOrder::SortedByOutput) {
            let [l1, l2, l3] = path.degrees();
            let old = wigner_3j(l1, l2, l3, Convention::E3nn04)?;
            let stored = self.source.find_by_ends(&format!("interactions.{t}.conv_tp."), &format!("_w3j_{l1}_{l2}_{l3}"));
            let sign = match stored {
                None => overlap(old.values(), &*wigner_3j(l1, l2, l3, Convention::E3nn05)?).signum(),
                Some((name, tensor)) => {
                    let values = tensor.to_f64();
                    if values.len() != old.values().len() {
                        let expected = format!("{:?}", old.shape());
                        return Err(MaceError::Shape { name: name.to_owned(), found: tensor.shape.clone(), expected });
                    }
                    let new = wigner_3j(l1, l2, l3, Convention::E3nn05)?;
                    let sign = overlap(&values, &new).signum();
                    let deviation = values.iter().zip(new.values()).map(|(a, b)| (a - sign * b).abs()).fold(0.0, f64::max);
                    if deviation.is_nan() || deviation > WIGNER_TOLERANCE {
                        return Err(MaceError::Wigner3j { name: name.to_owned(), deviation });
                    }
                    sign
                }
            };
            let inversion = if l2 % 2 == 0 { 1.0 } else { -1.0 };
            signs.extend(std::iter::repeat_n(inversion * sign, path.mul));
        }
        Ok(signs)
    }

    fn product(&mut self, t: usize, layer: &LayerConfig) -> Result<(), MaceError> {
        let channels = layer.irreps_target.iter().map(|b| b.mul).next().unwrap_or(0);
        let components: usize = layer.irreps_target.iter().map(|b| b.irrep.dim()).sum();
        let rows = if layer.element_dependent_product { self.config.elements.len() } else { 1 };
        for (b, block) in layer.irreps_out.iter().enumerate() {
            let from = |what: &str| format!("products.{t}.symmetric_contractions.contractions.{b}.{what}");
            let to = |what: &str, nu: usize| format!("layers.{t}.product.{b}.{what}.{nu}");
            for nu in 1..=layer.correlation {
                let name = from(&format!("U_matrix_{nu}"));
                let tensor = self.source.get(&name)?;
                let paths = tensor.shape.last().copied().unwrap_or(0);
                let dense = DenseBasis::new(block.irrep.dim(), components, nu, paths, tensor.to_f64())
                    .map_err(|source| MaceError::Basis { name, source })?;
                let basis = Monomials::from_dense(&dense).pruned(NOISE);
                let indices = basis.indices().iter().map(|&i| i64::from(i)).collect();
                self.push(to("monomials", nu), &[basis.len(), nu], Numbers::I64(indices));
                self.push(to("basis", nu), &[block.irrep.dim(), basis.len(), paths], Numbers::F64(basis.coefficients().to_vec()));
                // The weights of the highest order, then those of the orders below it, downwards.
                let weights =
                    if nu == layer.correlation { from("weights_max") } else { from(&format!("weights.{}", layer.correlation - 1 - nu)) };
                self.copy(&weights, &to("weights", nu), &[rows, paths, channels])?;
            }
        }
        self.linear(&format!("products.{t}.linear"), &format!("layers.{t}.product.linear"), &layer.irreps_out, &layer.irreps_out)
    }

    fn readouts(&mut self) -> Result<(), MaceError> {
        let heads = scalars(self.config.heads.len())?;
        for (r, readout) in self.config.readouts.iter().enumerate() {
            let from = |what: &str| format!("readouts.{r}.{what}");
            let features = &readout.irreps_in;
            match readout.kind {
                ReadoutKind::Linear => self.linear(&from("linear"), &from("linear_1"), features, &heads)?,
                ReadoutKind::NonLinear => {
                    let hidden = scalars(readout.hidden)?;
                    self.linear(&from("linear_1"), &from("linear_1"), features, &hidden)?;
                    self.linear(&from("linear_2"), &from("linear_2"), &hidden, &heads)?;
                }
                ReadoutKind::NonLinearBias => {
                    let hidden = scalars(readout.hidden)?;
                    self.linear(&from("linear_1"), &from("linear_1"), features, &hidden)?;
                    self.linear_with_bias(&from("linear_mid"), &from("linear_mid"), &hidden, &hidden)?;
                    self.linear_with_bias(&from("linear_2"), &from("linear_2"), &hidden, &heads)?;
                }
            }
        }
        Ok(())
    }

    fn energies(&mut self) -> Result<(), MaceError> {
        let heads = self.config.heads.len();
        self.copy("atomic_energies_fn.atomic_energies", "atomic_energies", &[heads, self.config.elements.len()])?;
        if self.config.scale_shift {
            self.copy("scale_shift.scale", "scale", &[heads])?;
            self.copy("scale_shift.shift", "shift", &[heads])?;
        }
        Ok(())
    }

    fn fields(&mut self) -> Result<(), MaceError> {
        let config = self.config;
        for field in &config.fields {
            let from = |what: &str| format!("joint_embedding.embedders.{}.{what}", field.name);
            let to = |what: &str| format!("fields.{}.{what}", field.name);
            match field.kind {
                FieldKind::Categorical { classes, .. } => self.copy(&from("weight"), &to("embedding.weight"), &[classes, field.width])?,
                FieldKind::Continuous { components } => {
                    for (place, name, inputs) in [("0", "linear_1", components), ("2", "linear_2", field.width)] {
                        self.copy_transposed(&from(&format!("{place}.weight")), &to(&format!("{name}.weight")), inputs, field.width)?;
                        let bias = from(&format!("{place}.bias"));
                        let zeros = Numbers::F32(vec![0.0; field.width]);
                        let bias = if self.source.find(&bias).is_some() { self.source.flat(&bias, field.width)? } else { zeros };
                        self.push(to(&format!("{name}.bias")), &[field.width], bias);
                    }
                }
            }
        }
        if !config.fields.is_empty() {
            let width = config.fields.iter().map(|f| f.width).sum();
            self.copy_transposed("joint_embedding.project.0.weight", "fields.project.weight", width, config.channels())?;
        }
        if config.field_readout {
            let (features, heads) = (scalars(config.channels())?, scalars(config.heads.len())?);
            self.linear("embedding_readout.linear", "fields.readout", &features, &heads)?;
        }
        Ok(())
    }
}

fn overlap(values: &[f64], symbol: &tesseral_o3::Wigner3j) -> f64 {
    values.iter().zip(symbol.values()).map(|(a, b)| a * b).sum()
}

/// What the gate of the non-linear block takes in: scalars with one gate for each gated channel behind them, then the gated irreps.
fn gate_irreps(path: &str, target: &Irreps) -> Result<Irreps, MaceError> {
    let gates: usize = target.iter().filter(|b| b.irrep.l > 0).map(|b| b.mul).sum();
    let mut blocks = Vec::new();
    for block in target {
        match block.irrep {
            irrep if irrep == Irrep::even(0) => blocks.push(MulIrrep::new(block.mul + gates, irrep)),
            irrep if irrep.l == 0 => return Err(MaceError::value(path, format!("activates odd scalars ({target})"))),
            _ => blocks.push(*block),
        }
    }
    Irreps::new(blocks).map_err(|e| MaceError::value(path, e.to_string()))
}
