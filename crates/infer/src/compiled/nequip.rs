//! Layers of the NequIP family (model definitions §3, §4), lowered.

use tesseral_o3::{Irrep, TensorProductPaths};
use tesseral_ops::linear::LinearSpec;
use tesseral_ops::radial::{ScalarFunction, ZblConstants};
use tesseral_ops::slab::HasSlabs;
use tesseral_ops::tensor_product::{TensorProductSpec, slabs::SlabPlan};
use tesseral_potentials::blocks::{activation, gate_spec};
use tesseral_potentials::nequip::{NequipConfig, NequipLayerConfig, SelfConnection};
use tesseral_potentials::{Parameters, PotentialError};

use super::convolution::{Convolution, Radial};
use super::linear::{Group, Linear, ScalarLayer, ScalarNetwork};
use super::node::{Back, Gate, Node, NodeWork, Own, add_constants, read};
use super::plan::{Energies, Initial, Layer, PairEnergy, Plan, config_error};
use super::radial::{Network, RadialBasis, RadialFunctions};
use super::rows::{Parts, PartsMut, Rows, Shape, add};

/// Linear map, self connection, gate; after the last layer the readout.
pub(super) struct NequipNode<T> {
    pub(super) gate_in: Shape,
    pub(super) linear: Linear<T>,
    pub(super) self_connection: Option<Linear<T>>,
    pub(super) gate: Gate,
    /// Whether the features that come in are added to those that go out.
    pub(super) residual: bool,
    pub(super) readout: Option<ScalarNetwork<T>>,
    /// Block of the even scalars in the features that go out.
    pub(super) scalars: usize,
}

impl<T: HasSlabs> NequipNode<T> {
    /// The self connection of the initial features, and these themselves where they are added.
    pub(super) fn constants(&self, x: &[&[T]], atoms: usize, groups: &[Group]) -> Vec<Rows<T>> {
        let mut connection = Rows::default();
        if let Some(map) = &self.self_connection {
            connection.resize(&self.gate_in, atoms);
            map.forward(x, &mut connection.views_mut(), atoms, groups, false);
        }
        let residual = if self.residual { Rows::from_blocks(x.iter().map(|b| b.to_vec()).collect()) } else { Rows::default() };
        vec![connection, residual]
    }

    pub(super) fn forward(
        &self,
        own: &Own<'_, T>,
        messages: &Rows<T>,
        saved: &mut [PartsMut<'_, T>],
        out: &mut [&mut [T]],
        work: &mut NodeWork<T>,
    ) {
        let y = &mut saved[0];
        self.linear.forward(&messages.views(), y, own.atoms, own.groups, false);
        if let Some(connection) = &self.self_connection {
            match own.constants {
                Some((constants, index)) => add_constants(&self.gate_in, &constants[0], index, y),
                None => connection.forward(&own.x, y, own.atoms, own.groups, true),
            }
        }
        self.gate.forward(&read(y), out, own.atoms, &mut work.gate);
        if self.residual {
            match own.constants {
                Some((constants, index)) => add_constants(&self.gate.to, &constants[1], index, out),
                None => add(out, &own.x),
            }
        }
    }

    pub(super) fn adjoint(
        &self,
        own: &Own<'_, T>,
        saved: &[Parts<'_, T>],
        out: &[&[T]],
        g: &mut [&mut [T]],
        (energies, seeds): (&mut [f64], &[T]),
        back: &mut Back<'_, '_, T>,
        work: &mut NodeWork<T>,
    ) {
        if let Some(readout) = &self.readout {
            let width = self.gate.to.blocks()[self.scalars].width;
            readout.evaluate(out[self.scalars], width, energies, seeds, g[self.scalars], &mut work.scalars);
        }
        let g = read(g);
        work.a.resize(&self.gate_in, own.atoms);
        self.gate.adjoint(&saved[0], &g, &mut work.a.views_mut(), own.atoms, &mut work.gate);
        let dy = work.a.views();
        self.linear.adjoint(&dy, &mut back.messages.views_mut(), own.atoms, own.groups, false);
        if back.x.is_empty() {
            return;
        }
        match &self.self_connection {
            Some(connection) => connection.adjoint(&dy, back.x, own.atoms, own.groups, false),
            None => back.x.iter_mut().for_each(|x| x.fill(T::zero())),
        }
        if self.residual {
            add(back.x, &g);
        }
    }

    pub(super) fn prepare(&self, species: u32) {
        self.linear.prepare(species);
        if let Some(connection) = &self.self_connection {
            connection.prepare(species);
        }
    }

    pub(super) fn operations(&self) -> usize {
        2 * (self.linear.operations() + self.self_connection.as_ref().map_or(0, Linear::operations))
    }
}

/// The linear map before a convolution, division by the denominator included where it is the same for all.
fn sender<T: HasSlabs>(
    config: &NequipConfig,
    layer: &NequipLayerConfig,
    t: usize,
    modal: usize,
    p: &Parameters<'_>,
) -> Result<(Linear<T>, Vec<f64>), PotentialError> {
    let name = format!("layers.{t}");
    let denominator_shape = p.shape(&format!("{name}.denominator"))?;
    let denominator = p.constants(&format!("{name}.denominator"), &denominator_shape)?;
    let (shape, irreps) = (Shape::new::<T>(&layer.irreps_in), &layer.irreps_in);
    let m = if layer.modal_1 { config.modalities.len() } else { 0 };
    let spec = LinearSpec::new(irreps, irreps, 1, m);
    let flat = p.constants(&format!("{name}.linear_1.weight"), &[1, spec.weight_numel])?;
    let mut bias = scalar_bias(config, p, &format!("{name}.linear_1"), irreps, irreps, layer.bias, m, modal)?;
    let factor = if denominator.len() == 1 { 1.0 / denominator[0] } else { 1.0 };
    bias.iter_mut().for_each(|b| *b *= factor);
    let mut linear = Linear::new(&spec, flat, &shape, &shape, factor);
    if !bias.is_empty() {
        linear = linear.with_bias(irreps, &bias);
    }
    let by_species = if denominator.len() == 1 { Vec::new() } else { denominator.iter().map(|d| 1.0 / d).collect() };
    Ok((linear, by_species))
}

/// Bias and modality of a linear map on its even scalars.
fn scalar_bias(
    config: &NequipConfig,
    p: &Parameters<'_>,
    name: &str,
    from: &tesseral_o3::Irreps,
    to: &tesseral_o3::Irreps,
    bias: bool,
    modalities: usize,
    modal: usize,
) -> Result<Vec<f64>, PotentialError> {
    let channels = to.iter().filter(|b| b.irrep == Irrep::even(0)).map(|b| b.mul).next().unwrap_or(0);
    let mut values = Vec::new();
    if channels == 0 {
        return Ok(values);
    }
    if bias {
        values = p.constants(&format!("{name}.bias"), &[channels])?;
    }
    if modalities > 0 {
        values.resize(channels, 0.0);
        let fan_in = from.count(Irrep::even(0)) + modalities;
        let table = p.constants(&format!("{name}.modal"), &[config.modalities.len(), channels])?;
        for (v, w) in values.iter_mut().zip(&table[modal * channels..]) {
            *v += w / (fan_in as f64).sqrt();
        }
    }
    Ok(values)
}

/// Lowers a model for one modality.
pub(super) fn lower<T: HasSlabs>(config: &NequipConfig, p: &Parameters<'_>, modal: usize) -> Result<Plan<T>, PotentialError> {
    config.validate()?;
    let (z, m) = (config.elements.len(), config.modalities.len());
    let basis = RadialBasis::of_nequip(config, p)?;
    // Initial features by species.
    let channels = config.channels;
    let mut x0 = p.constants("embedding.weight", &[z, channels])?;
    x0.iter_mut().for_each(|x| *x *= config.embedding_scale);
    let of_all = |x0: &mut Vec<f64>, values: &[f64], factor: f64| {
        for row in x0.chunks_exact_mut(channels) {
            row.iter_mut().zip(values).for_each(|(x, v)| *x += v * factor);
        }
    };
    if p.contains("embedding.modal") && m > 0 {
        let table = p.constants("embedding.modal", &[m, channels])?;
        of_all(&mut x0, &table[modal * channels..], config.embedding_scale);
    }
    if p.contains("embedding.bias") {
        of_all(&mut x0, &p.constants("embedding.bias", &[channels])?, 1.0);
    }
    let all: Vec<Group> = (0..z).map(|s| (s as u32, s..s + 1)).collect();
    let mut layers = Vec::new();
    let mut ups = Vec::new();
    for (t, layer) in config.layers.iter().enumerate() {
        let name = format!("layers.{t}");
        let paths = TensorProductPaths::new(&layer.irreps_in, &config.edge_irreps, |irrep| layer.irreps_message.contains(irrep))
            .map_err(|e| config_error(&name, e))?;
        let product = TensorProductSpec::new(&paths).map_err(|e| config_error(&name, e))?;
        if product.weight_numel != layer.radial.outputs() || layer.radial.inputs() != config.basis_size {
            return Err(config_error(format!("{name}.radial"), "its sizes do not fit the tensor product"));
        }
        let plan = SlabPlan::<T>::new(&product);
        let (shape_in, shape_out, gate_in) =
            (Shape::new::<T>(&layer.irreps_in), Shape::new::<T>(&layer.irreps_out), Shape::new::<T>(&layer.irreps_gate));
        let messages = Shape(plan.outputs().to_vec());
        let m2 = if layer.modal_2 { m } else { 0 };
        let spec = LinearSpec::new(&product.irreps_out, &layer.irreps_gate, 1, m2);
        let mut linear =
            Linear::new(&spec, p.constants(&format!("{name}.linear_2.weight"), &[1, spec.weight_numel])?, &messages, &gate_in, 1.0);
        let bias = scalar_bias(config, p, &format!("{name}.linear_2"), &product.irreps_out, &layer.irreps_gate, layer.bias, m2, modal)?;
        if !bias.is_empty() {
            linear = linear.with_bias(&layer.irreps_gate, &bias);
        }
        let fan_in = match layer.self_connection {
            SelfConnection::None => None,
            SelfConnection::Linear => Some((1, 1)),
            SelfConnection::Element { fan_in } => Some((fan_in, z)),
        };
        let self_connection = match fan_in {
            None => None,
            Some((fan_in, sets)) => {
                let spec = LinearSpec::new(&layer.irreps_in, &layer.irreps_gate, fan_in, 0);
                let flat = p.constants(&format!("{name}.self_connection.weight"), &[sets, spec.weight_numel])?;
                Some(Linear::new(&spec, flat, &shape_in, &gate_in, 1.0))
            }
        };
        let spec = gate_spec(&layer.irreps_out, &layer.irreps_gate, &config.activations)?;
        let inputs = (0..plan.num_blocks())
            .map(|b| shape_in.at(plan.block(b).0).ok_or_else(|| config_error(&name, "a path starts at no block")))
            .collect::<Result<Vec<_>, _>>()?;
        let functions =
            RadialFunctions { network: Network::new(p, &format!("{name}.radial"), &layer.radial)?, of_species: None, density: false };
        let sections = plan.sections().to_vec();
        let (up, by_species) = sender::<T>(config, layer, t, modal, p)?;
        let last = t + 1 == config.layers.len();
        let scalars = layer.irreps_out.blocks_with_offsets().position(|b| b.irrep.is_scalar()).unwrap_or(0);
        let readout = if last { Some(readout::<T>(config, p, modal)?) } else { None };
        let node = NequipNode {
            gate_in: gate_in.clone(),
            linear,
            self_connection,
            gate: Gate { spec, from: gate_in, to: shape_out.clone() },
            residual: layer.resnet,
            readout,
            scalars,
        };
        ups.push((up, by_species));
        layers.push(Layer {
            convolution: Convolution {
                spec: product,
                plan,
                unit: false,
                radial: Radial::new(functions, &basis, sections, None, z),
                density: None,
                inputs,
            },
            features: shape_in.clone(),
            sent: shape_in,
            messages,
            out: shape_out,
            node: Node::Nequip(Box::new(node)),
            up: None,
        });
    }
    // Each layer ends with the map that the next one begins with.
    let mut ups = ups.into_iter();
    let first = ups.next().ok_or_else(|| config_error("layers", "there are none"))?;
    for (layer, up) in layers.iter_mut().zip(ups) {
        layer.up = Some(up);
    }
    let shape = layers[0].sent.clone();
    let x = Rows::from_plain(&shape, &x0);
    let mut sent = Rows::zeros(&shape, z);
    first.0.forward(&x.views(), &mut sent.views_mut(), z, &all, false);
    super::plan::scale_rows(&shape, &first.1, |row| row as u32, &mut sent.views_mut());
    let pick = |name: &str| -> Result<Vec<f64>, PotentialError> {
        let table = p.constants(name, &[m.max(1), z])?;
        Ok(table[if m == 0 { 0 } else { modal * z }..][..z].to_vec())
    };
    let pair_energy = config.zbl.map(|zbl| {
        let constants = ZblConstants { coulomb: zbl.coulomb, ..ZblConstants::LAMMPS };
        let (elements, basis) = (config.elements.clone(), basis.clone());
        let of_pair = move |pair: super::radial::Pair| -> Option<ScalarFunction> {
            let number = |s: u32| u32::from(elements[s as usize]);
            constants.pair_energy(&[number(pair.center)], &[number(pair.neighbor)], &[basis.cutoff(pair)], zbl.envelope_p)
        };
        PairEnergy { of_pair: Box::new(of_pair), scaled: false }
    });
    Ok(Plan {
        cutoff: config.cutoff,
        lmax: config.edge_irreps.len() - 1,
        normalize: config.normalize_harmonics,
        basis,
        initial: Initial { x, sent, fields: None },
        layers,
        energies: Energies { scale: pick("scale")?, shift: pick("shift")? },
        pair_energy,
        species: z,
    })
}

fn readout<T: HasSlabs>(config: &NequipConfig, p: &Parameters<'_>, modal: usize) -> Result<ScalarNetwork<T>, PotentialError> {
    let m = config.modalities.len();
    let layers = config
        .readout
        .iter()
        .enumerate()
        .map(|(k, r)| {
            let name = format!("readout.{k}");
            let weights = p.constants(&format!("{name}.weight"), &[r.size_in, r.size_out])?;
            let mut bias = if r.bias { p.constants(&format!("{name}.bias"), &[r.size_out])? } else { Vec::new() };
            if r.modal {
                bias.resize(r.size_out, 0.0);
                let table = p.constants(&format!("{name}.modal"), &[m, r.size_out])?;
                bias.iter_mut().zip(&table[modal * r.size_out..]).for_each(|(b, v)| *b += v * r.scale);
            }
            Ok(ScalarLayer {
                n_in: r.size_in,
                n_out: r.size_out,
                weights: weights.iter().map(|w| T::of(w * r.scale)).collect(),
                bias: (!bias.is_empty()).then(|| bias.iter().map(|&b| T::of(b)).collect()),
                activation: r.activation.as_ref().map(|(a, gain)| activation(a, *gain)).transpose()?,
            })
        })
        .collect::<Result<_, PotentialError>>()?;
    Ok(ScalarNetwork::new(layers))
}
