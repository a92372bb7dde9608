//! The nodes of layers on a device: the same passes as [`super::super::mace`] and [`super::super::nequip`], on rows of all atoms at once.

use tesseral_kernels::{Buffer, Device};
use tesseral_ops::gate::cuda::{DeviceGate, DeviceNetwork};
use tesseral_ops::linear::cuda::{DeviceGroups, DeviceLinear};
use tesseral_ops::rows::{DeviceIndex, DeviceRows};
use tesseral_ops::slab::HasSlabs;
use tesseral_ops::symmetric_contraction::cuda::DeviceContraction;

use super::super::linear::{Linear, ScalarNetwork};
use super::super::mace::{MaceNode, Mixing};
use super::super::nequip::NequipNode;
use super::super::rows::Shape;
use super::pool::Pool;
use crate::InferError;

/// What the nodes of all layers need of the atoms, as long as the neighbour list holds.
pub(super) struct Atoms<T: HasSlabs> {
    pub(super) count: usize,
    /// By species as the model counts them, by species among those that are present, and all together.
    pub(super) by_species: DeviceGroups,
    pub(super) by_present: DeviceGroups,
    pub(super) together: DeviceGroups,
    /// Which row of the constants of the first layer is each atom's.
    pub(super) of_constants: DeviceIndex,
    /// Derivative of the total energy by what the readouts of each atom give.
    pub(super) seeds: Buffer<T>,
}

/// Where a layer's atoms come from.
pub(super) struct Own<'a, T: HasSlabs> {
    pub(super) atoms: &'a Atoms<T>,
    /// Constants of the first layer, for `atoms.of_constants`.
    pub(super) constants: &'a [Buffer<T>],
    /// Their features and what they send; nothing in the first layer, which has constants instead.
    pub(super) from: Option<(&'a Buffer<T>, &'a Buffer<T>)>,
    pub(super) rho: Option<&'a Buffer<T>>,
}

/// What a node keeps between forward and adjoint.
pub(super) type Kept<T> = Vec<Buffer<T>>;

/// Cotangents that a node gives back.
pub(super) struct Back<T: HasSlabs> {
    pub(super) messages: Buffer<T>,
    /// Of the features that come in; not in the first layer.
    pub(super) x: Option<Buffer<T>>,
    /// Of the densities.
    pub(super) rho: Option<Buffer<T>>,
    /// To be mapped by [`DeviceNode::residual`] and added to the cotangents of what is sent.
    pub(super) residual: Option<Buffer<T>>,
}

/// A linear map, and whether it differs between species.
pub(super) struct Map<T: HasSlabs> {
    linear: DeviceLinear<T>,
    by_species: bool,
    pub(super) dim_in: usize,
    pub(super) dim_out: usize,
}

impl<T: HasSlabs> Map<T> {
    pub(super) fn new(device: &Device, linear: &Linear<T>) -> Result<Self, InferError> {
        let given = linear.given();
        let bias = (!given.bias.is_empty()).then_some(given.bias.as_slice());
        Ok(Self {
            linear: DeviceLinear::new(device, &given.spec, &given.flat, given.factor, bias)?,
            by_species: linear.by_species(),
            dim_in: given.spec.dim_in,
            dim_out: given.spec.dim_out,
        })
    }

    fn groups<'a>(&self, atoms: &'a Atoms<T>) -> &'a DeviceGroups {
        if self.by_species { &atoms.by_species } else { &atoms.together }
    }

    pub(super) fn forward(&self, atoms: &Atoms<T>, x: &Buffer<T>, y: &mut Buffer<T>, accumulate: bool) -> Result<(), InferError> {
        Ok(self.linear.forward(x, y, self.groups(atoms), accumulate)?)
    }

    pub(super) fn adjoint(&self, atoms: &Atoms<T>, g: &Buffer<T>, dx: &mut Buffer<T>, accumulate: bool) -> Result<(), InferError> {
        Ok(self.linear.adjoint(g, dx, self.groups(atoms), accumulate)?)
    }
}

fn in_double<T: HasSlabs>(x: &[T]) -> Vec<f64> {
    x.iter().map(|&x| candle_core::WithDType::to_f64(x)).collect()
}

/// A network on the scalars of a row.
struct Readout<T: HasSlabs> {
    network: DeviceNetwork<T>,
    offset: usize,
}

impl<T: HasSlabs> Readout<T> {
    fn new(device: &Device, network: &ScalarNetwork<T>, shape: &Shape, block: usize) -> Result<Self, InferError> {
        let layers: Vec<_> = network
            .layers
            .iter()
            .map(|l| tesseral_ops::gate::cuda::NetworkLayer {
                n_in: l.n_in,
                n_out: l.n_out,
                weights: in_double(&l.weights),
                bias: l.bias.as_deref().map(in_double),
                activation: l.activation,
            })
            .collect();
        Ok(Self { network: DeviceNetwork::new(device, &layers)?, offset: shape.blocks()[block].offset })
    }
}

/// The node of a layer.
pub(super) enum DeviceNode<T: HasSlabs> {
    Mace(Box<Mace<T>>),
    Nequip(Box<Nequip<T>>),
}

/// See [`MaceNode`].
pub(super) struct Mace<T: HasSlabs> {
    mixing: Mix<T>,
    density: bool,
    mix: Option<Map<T>>,
    product: Map<T>,
    skip: Option<Map<T>>,
    readouts: Vec<Readout<T>>,
    target: usize,
    out: usize,
}

enum Mix<T: HasSlabs> {
    Folded,
    Linear(Box<Map<T>>),
    NonLinear(Box<NonLinear<T>>),
}

struct NonLinear<T: HasSlabs> {
    linear: Map<T>,
    residual: Map<T>,
    alpha: f64,
    beta: f64,
    gate: DeviceGate<T>,
    linear_2: Map<T>,
}

/// See [`NequipNode`].
pub(super) struct Nequip<T: HasSlabs> {
    linear: Map<T>,
    connection: Option<Map<T>>,
    gate: DeviceGate<T>,
    residual: bool,
    readout: Option<Readout<T>>,
    out: usize,
}

impl<T: HasSlabs> Mace<T> {
    pub(super) fn new(device: &Device, node: &MaceNode<T>) -> Result<Self, InferError> {
        let map = |linear: &Linear<T>| Map::new(device, linear);
        let mixing = match &node.mixing {
            Mixing::Folded => Mix::Folded,
            Mixing::Linear(linear) => Mix::Linear(Box::new(map(linear)?)),
            Mixing::NonLinear(block) => Mix::NonLinear(Box::new(NonLinear {
                linear: map(&block.linear)?,
                residual: map(&block.residual)?,
                alpha: block.alpha,
                beta: block.beta,
                gate: DeviceGate::new(device, &block.gate.spec)?,
                linear_2: map(&block.linear_2)?,
            })),
        };
        Ok(Self {
            mixing,
            density: node.density,
            mix: node.mix.as_ref().map(map).transpose()?,
            product: map(&node.product)?,
            skip: node.skip.as_ref().map(map).transpose()?,
            readouts: node.readouts.iter().map(|r| Readout::new(device, r, &node.out, node.scalars)).collect::<Result<_, _>>()?,
            target: node.target.plain_dim(),
            out: node.out.plain_dim(),
        })
    }

    fn forward(
        &self,
        own: &Own<'_, T>,
        contraction: &DeviceContraction<T>,
        messages: Buffer<T>,
        rows: &DeviceRows<T>,
        pool: &mut Pool<T>,
    ) -> Result<(Kept<T>, Buffer<T>), InferError> {
        let (atoms, n) = (own.atoms, own.atoms.count);
        let (target, others) = match &self.mixing {
            Mix::NonLinear(block) => {
                let rho = own.rho.ok_or(InferError::NotOnDevice { what: "a non-linear block without density" })?;
                let dim = block.linear.dim_out;
                let mut scaled = pool.take(n * dim)?;
                block.linear.forward(atoms, &messages, &mut scaled, false)?;
                pool.give(messages);
                rows.divide(rho, (T::of(block.alpha), T::of(block.beta)), &mut scaled, n, dim)?;
                let mut sum = pool.take(n * dim)?;
                sum.copy_from(&scaled, n * dim)?;
                match own.from {
                    Some((_, sent)) => block.residual.forward(atoms, sent, &mut sum, true)?,
                    None => rows.add_table(&own.constants[1], &atoms.of_constants, &mut sum, dim)?,
                }
                let mut gated = pool.take(n * block.linear_2.dim_in)?;
                block.gate.forward(&sum, &mut gated, n)?;
                let mut target = pool.take(n * self.target)?;
                block.linear_2.forward(atoms, &gated, &mut target, false)?;
                pool.give(gated);
                (target, vec![sum, scaled])
            }
            mixing => {
                let mut target = match mixing {
                    Mix::Linear(linear) => {
                        let mut mixed = pool.take(n * self.target)?;
                        linear.forward(atoms, &messages, &mut mixed, false)?;
                        pool.give(messages);
                        mixed
                    }
                    _ => messages,
                };
                if let Some(mix) = &self.mix {
                    let mut mixed = pool.take(n * self.target)?;
                    mix.forward(atoms, &target, &mut mixed, false)?;
                    pool.give(std::mem::replace(&mut target, mixed));
                }
                if let Some(rho) = own.rho.filter(|_| self.density) {
                    rows.divide(rho, (T::one(), T::one()), &mut target, n, self.target)?;
                }
                (target, Vec::new())
            }
        };
        let mut product = pool.take(n * self.out)?;
        contraction.forward(&target, &mut product, &atoms.by_present)?;
        let mut out = pool.take(n * self.out)?;
        self.product.forward(atoms, &product, &mut out, false)?;
        pool.give(product);
        if let Some(skip) = &self.skip {
            match own.from {
                Some((x, _)) => skip.forward(atoms, x, &mut out, true)?,
                None => rows.add_table(&own.constants[0], &atoms.of_constants, &mut out, self.out)?,
            }
        }
        let mut kept = vec![target];
        kept.extend(others);
        Ok((kept, out))
    }

    fn adjoint(
        &self,
        own: &Own<'_, T>,
        contraction: &DeviceContraction<T>,
        kept: Kept<T>,
        g: Buffer<T>,
        rows: &DeviceRows<T>,
        pool: &mut Pool<T>,
    ) -> Result<Back<T>, InferError> {
        let (atoms, n) = (own.atoms, own.atoms.count);
        let mut d_product = pool.take(n * self.out)?;
        self.product.adjoint(atoms, &g, &mut d_product, false)?;
        let x = match (own.from, &self.skip) {
            (None, _) => None,
            (Some((x, _)), None) => Some(pool.zeros(x.len())?),
            (Some((x, _)), Some(skip)) => {
                let mut dx = pool.take(x.len())?;
                skip.adjoint(atoms, &g, &mut dx, false)?;
                Some(dx)
            }
        };
        pool.give(g);
        let mut d = pool.take(n * self.target)?;
        contraction.adjoint(&kept[0], &d_product, &mut d, &atoms.by_present)?;
        pool.give(d_product);
        let (mut d_rho, mut residual) = (None, None);
        let messages = match &self.mixing {
            Mix::NonLinear(block) => {
                let rho = own.rho.ok_or(InferError::NotOnDevice { what: "a non-linear block without density" })?;
                let mut gated = pool.take(n * block.linear_2.dim_in)?;
                block.linear_2.adjoint(atoms, &d, &mut gated, false)?;
                pool.give(d);
                let dim = block.linear.dim_out;
                let mut sum = pool.take(n * dim)?;
                block.gate.adjoint(&kept[1], &gated, &mut sum, n)?;
                pool.give(gated);
                if own.from.is_some() {
                    let mut copy = pool.take(n * dim)?;
                    copy.copy_from(&sum, n * dim)?;
                    residual = Some(copy);
                }
                let mut of_rho = pool.take(n)?;
                rows.divide_adjoint(rho, (T::of(block.alpha), T::of(block.beta)), &kept[2], &mut sum, &mut of_rho, n, dim)?;
                d_rho = Some(of_rho);
                let mut messages = pool.take(n * block.linear.dim_in)?;
                block.linear.adjoint(atoms, &sum, &mut messages, false)?;
                pool.give(sum);
                messages
            }
            mixing => {
                if let Some(rho) = own.rho.filter(|_| self.density) {
                    let mut of_rho = pool.take(n)?;
                    rows.divide_adjoint(rho, (T::one(), T::one()), &kept[0], &mut d, &mut of_rho, n, self.target)?;
                    d_rho = Some(of_rho);
                }
                if let Some(mix) = &self.mix {
                    let mut mixed = pool.take(n * mix.dim_in)?;
                    mix.adjoint(atoms, &d, &mut mixed, false)?;
                    pool.give(std::mem::replace(&mut d, mixed));
                }
                if let Mix::Linear(linear) = mixing {
                    let mut messages = pool.take(n * linear.dim_in)?;
                    linear.adjoint(atoms, &d, &mut messages, false)?;
                    pool.give(std::mem::replace(&mut d, messages));
                }
                d
            }
        };
        pool.give_all(kept);
        Ok(Back { messages, x, rho: d_rho, residual })
    }
}

impl<T: HasSlabs> Nequip<T> {
    pub(super) fn new(device: &Device, node: &NequipNode<T>) -> Result<Self, InferError> {
        Ok(Self {
            linear: Map::new(device, &node.linear)?,
            connection: node.self_connection.as_ref().map(|c| Map::new(device, c)).transpose()?,
            gate: DeviceGate::new(device, &node.gate.spec)?,
            residual: node.residual,
            readout: node.readout.as_ref().map(|r| Readout::new(device, r, &node.gate.to, node.scalars)).transpose()?,
            out: node.gate.to.plain_dim(),
        })
    }

    fn forward(
        &self,
        own: &Own<'_, T>,
        messages: Buffer<T>,
        rows: &DeviceRows<T>,
        pool: &mut Pool<T>,
    ) -> Result<(Kept<T>, Buffer<T>), InferError> {
        let (atoms, n) = (own.atoms, own.atoms.count);
        let mut y = pool.take(n * self.linear.dim_out)?;
        self.linear.forward(atoms, &messages, &mut y, false)?;
        pool.give(messages);
        if let Some(connection) = &self.connection {
            match own.from {
                Some((x, _)) => connection.forward(atoms, x, &mut y, true)?,
                None => rows.add_table(&own.constants[0], &atoms.of_constants, &mut y, self.linear.dim_out)?,
            }
        }
        let mut out = pool.take(n * self.out)?;
        self.gate.forward(&y, &mut out, n)?;
        if self.residual {
            match own.from {
                Some((x, _)) => rows.add(x, &mut out, n, self.out)?,
                None => rows.add_table(&own.constants[1], &atoms.of_constants, &mut out, self.out)?,
            }
        }
        Ok((vec![y], out))
    }

    fn adjoint(
        &self,
        own: &Own<'_, T>,
        kept: Kept<T>,
        g: Buffer<T>,
        rows: &DeviceRows<T>,
        pool: &mut Pool<T>,
    ) -> Result<Back<T>, InferError> {
        let (atoms, n) = (own.atoms, own.atoms.count);
        let mut dy = pool.take(n * self.linear.dim_out)?;
        self.gate.adjoint(&kept[0], &g, &mut dy, n)?;
        let mut messages = pool.take(n * self.linear.dim_in)?;
        self.linear.adjoint(atoms, &dy, &mut messages, false)?;
        let x = match own.from {
            None => None,
            Some((x, _)) => {
                let mut dx = pool.take(x.len())?;
                match &self.connection {
                    Some(connection) => connection.adjoint(atoms, &dy, &mut dx, false)?,
                    None => dx.fill_zero()?,
                }
                if self.residual {
                    rows.add(&g, &mut dx, n, self.out)?;
                }
                Some(dx)
            }
        };
        pool.give_all([dy, g]);
        pool.give_all(kept);
        Ok(Back { messages, x, rho: None, residual: None })
    }
}

impl<T: HasSlabs> DeviceNode<T> {
    /// Messages → what is kept and the features that go out. The contraction is that of MACE's product.
    pub(super) fn forward(
        &self,
        own: &Own<'_, T>,
        contraction: Option<&DeviceContraction<T>>,
        messages: Buffer<T>,
        rows: &DeviceRows<T>,
        pool: &mut Pool<T>,
    ) -> Result<(Kept<T>, Buffer<T>), InferError> {
        match (self, contraction) {
            (Self::Mace(node), Some(contraction)) => node.forward(own, contraction, messages, rows, pool),
            (Self::Mace(_), None) => Err(InferError::NotOnDevice { what: "a product without its coefficients" }),
            (Self::Nequip(node), _) => node.forward(own, messages, rows, pool),
        }
    }

    /// Adds the energies that the readouts of this layer give (before they are scaled) and their derivatives, times the seeds, to `g`.
    pub(super) fn read(&self, out: &Buffer<T>, energies: &mut Buffer<f64>, g: &mut Buffer<T>, atoms: &Atoms<T>) -> Result<(), InferError> {
        let (readouts, dim) = match self {
            Self::Mace(node) => (node.readouts.as_slice(), node.out),
            Self::Nequip(node) => (node.readout.as_slice(), node.out),
        };
        for readout in readouts {
            readout.network.evaluate(out, (dim, readout.offset), &atoms.seeds, energies, g, atoms.count)?;
        }
        Ok(())
    }

    /// Cotangents from those of the features that go out.
    pub(super) fn adjoint(
        &self,
        own: &Own<'_, T>,
        contraction: Option<&DeviceContraction<T>>,
        kept: Kept<T>,
        g: Buffer<T>,
        rows: &DeviceRows<T>,
        pool: &mut Pool<T>,
    ) -> Result<Back<T>, InferError> {
        match (self, contraction) {
            (Self::Mace(node), Some(contraction)) => node.adjoint(own, contraction, kept, g, rows, pool),
            (Self::Mace(_), None) => Err(InferError::NotOnDevice { what: "a product without its coefficients" }),
            (Self::Nequip(node), _) => node.adjoint(own, kept, g, rows, pool),
        }
    }

    /// The map from what is sent to the residual of a non-linear block.
    pub(super) fn residual(&self) -> Option<&Map<T>> {
        match self {
            Self::Mace(node) => match &node.mixing {
                Mix::NonLinear(block) => Some(&block.residual),
                _ => None,
            },
            Self::Nequip(_) => None,
        }
    }
}
