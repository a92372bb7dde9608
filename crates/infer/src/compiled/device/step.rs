//! One step on a device: edges, all layers forward and back, forces. Nothing of it returns to the host.
//!
//! Where atoms are many, the last layer goes forward and back part by part ([`Part`]), so that its messages are never there for all atoms, and every layer
//! writes cotangents for the edges of one part at a time. The sums are those of all atoms together, to the bit: an atom's edges lead to its
//! neighbours in ascending order, and parts follow one another in that order.

use std::ops::Range;

use tesseral_kernels::edges::Positions;
use tesseral_kernels::{Buffer, DeviceError};
use tesseral_ops::linear::cuda::DeviceGroups;
use tesseral_ops::rows::DeviceIndex;
use tesseral_ops::slab::HasSlabs;
use tesseral_ops::tensor_product::cuda::{Features, Sent};

use super::model::{DeviceLayer, DeviceModel, LayerTables, OfSpecies};
use super::node::{Atoms, Back, Kept, Own};
use super::pool::Pool;
use super::session::{Seen, State};
use crate::InferError;

/// Consecutive atoms that are computed together.
pub(super) struct Part<T: HasSlabs> {
    pub(super) centers: Range<usize>,
    pub(super) atoms: Atoms<T>,
    /// For how many of their edges there is room.
    pub(super) room: usize,
}

impl<T: HasSlabs> Part<T> {
    /// Of atoms of these species, with the rows of constants of the first layer that are theirs, of so many.
    pub(super) fn new(
        model: &DeviceModel<T>,
        of: &OfSpecies<T>,
        species: &[u32],
        (index, rows): (&[u32], usize),
        centers: Range<usize>,
        room: usize,
    ) -> Result<Self, InferError> {
        let device = &model.device;
        let by_species = DeviceGroups::by_species(device, species, model.plan.species)?;
        let mut seeds = device.zeros(centers.len())?;
        model.rows.seeds(&model.scale, by_species.species(), &mut seeds)?;
        let atoms = Atoms {
            count: centers.len(),
            by_species,
            by_present: DeviceGroups::by_species(device, &of.among_present(species), of.present.len())?,
            together: DeviceGroups::of_all(device, centers.len())?,
            of_constants: DeviceIndex::new(device, index, rows)?,
            seeds,
        };
        Ok(Self { centers, atoms, room })
    }
}

/// What happens to the rows that atoms send to a layer, or (reverse) to their cotangents, before they are used: ranks exchange them.
pub(super) type Between<'a, T> = &'a mut dyn FnMut(usize, bool, &mut Buffer<T>) -> Result<(), InferError>;

/// What the forward pass of a layer leaves for its adjoint.
struct Made<T: HasSlabs> {
    kept: Kept<T>,
    rho: Option<Buffer<T>>,
    /// Features that go out.
    out: Buffer<T>,
}

/// Rows of some atoms: those of all, or a copy.
enum RowsOf<'a, T: HasSlabs> {
    All(&'a Buffer<T>),
    Copied(Buffer<T>),
}

impl<'a, T: HasSlabs> RowsOf<'a, T> {
    fn new(of: &'a Buffer<T>, dim: usize, centers: &Range<usize>, pool: &mut Pool<T>) -> Result<Self, DeviceError> {
        if centers.len() * dim == of.len() {
            return Ok(Self::All(of));
        }
        let mut copy = pool.take(centers.len() * dim)?;
        copy.copy_range(0, of, centers.start * dim..centers.end * dim)?;
        Ok(Self::Copied(copy))
    }

    fn get(&self) -> &Buffer<T> {
        match self {
            Self::All(rows) => rows,
            Self::Copied(rows) => rows,
        }
    }

    fn done(self, pool: &mut Pool<T>) {
        if let Self::Copied(rows) = self {
            pool.give(rows);
        }
    }
}

/// The layer below, whose features come in, and what they send: of all atoms.
type Below<'a, T> = Option<(&'a Buffer<T>, &'a Buffer<T>)>;

impl<T: HasSlabs> DeviceModel<T> {
    /// Energies, forces and virials at `state.positions` and `state.cells`.
    pub(super) fn step(
        &self,
        of: &OfSpecies<T>,
        state: &mut State<T>,
        pool: &mut Pool<T>,
        between: Between<'_, T>,
    ) -> Result<(), InferError> {
        let species = state.seen.as_ref().map_or(state.whole.atoms.by_present.species(), |seen| &seen.species).rows();
        let at = Positions { positions: &state.positions, cells: &state.cells, species };
        self.edges.update(&mut state.table, at, &of.cutoffs, &mut state.edges, &mut state.closest)?;
        state.dv.fill_zero()?;
        state.read.fill_zero()?;
        state.energies.fill_zero()?;
        let last = self.layers.len() - 1;
        // Rows of all that is seen; own atoms come first.
        let seen = state.table.atoms();
        let (mut made, mut sent): (Vec<Made<T>>, Vec<Buffer<T>>) = (Vec::new(), Vec::new());
        for (t, layer) in self.layers[..last].iter().enumerate() {
            let below = t.checked_sub(1).map(|b| (&made[b].out, &sent[b]));
            let layer_made = self.forward(t, of, state, &state.whole, below, pool)?;
            if let Some((up, factors)) = &layer.up {
                let atoms = &state.whole.atoms;
                let mut to_send = pool.take(seen * up.dim_out)?;
                up.forward(atoms, &layer_made.out, &mut to_send, false)?;
                if let Some(factors) = factors {
                    self.rows.scale(factors, atoms.by_species.species(), &mut to_send, up.dim_out)?;
                }
                between(t + 1, false, &mut to_send)?;
                sent.push(to_send);
            }
            made.push(layer_made);
        }
        let below = last.checked_sub(1).map(|b| (&made[b].out, &sent[b]));
        let (mut above, mut of_sent) = self.last(of, state, below, pool)?;
        if let Some(back_sent) = &mut of_sent {
            between(last, true, back_sent)?;
        }
        for (t, layer) in self.layers[..last].iter().enumerate().rev() {
            let (Some(layer_made), Some(was_sent)) = (made.pop(), sent.pop()) else { break };
            pool.give(was_sent);
            let (Some(mut g), Some(mut back_sent)) = (above.take(), of_sent.take()) else { break };
            if let Some((up, factors)) = &layer.up {
                if let Some(factors) = factors {
                    self.rows.scale(factors, state.whole.atoms.by_species.species(), &mut back_sent, up.dim_out)?;
                }
                up.adjoint(&state.whole.atoms, &back_sent, &mut g, true)?;
            }
            pool.give(back_sent);
            layer.node.read(&layer_made.out, &mut state.read, &mut g, &state.whole.atoms)?;
            pool.give(layer_made.out);
            let below = t.checked_sub(1).map(|b| (&made[b].out, &sent[b]));
            let own = Own { atoms: &state.whole.atoms, constants: &state.constants, from: below, rho: layer_made.rho.as_ref() };
            let mut back = layer.node.adjoint(&own, of.contractions[t].as_ref(), layer_made.kept, g, &self.rows, pool)?;
            let mut dx = if t > 0 { Some(pool.take(seen * layer.sent)?) } else { None };
            for (k, part) in parts(&state.parts, &state.whole).iter().enumerate() {
                let messages = RowsOf::new(&back.messages, layer.messages, &part.centers, pool)?;
                let sent = self.sent(t, of_constants(&state.whole, state.seen.as_ref()), &state.sent, below);
                let tables = &of.tables[t].weights;
                self.convolution_adjoint(layer, tables, (&state.edges, &mut state.dv), part, sent, messages.get(), (&mut dx, k > 0), pool)?;
                messages.done(pool);
            }
            self.density_adjoint(layer, &of.tables[t], (&state.edges, &mut state.dv), &state.whole, &back)?;
            if let (Some(residual), Some(map), Some(dx)) = (back.residual.take(), layer.node.residual(), &mut dx) {
                let mut more = pool.take(dx.len())?;
                map.adjoint(&state.whole.atoms, &residual, &mut more, false)?;
                self.rows.add(&more, dx, state.whole.atoms.count, layer.sent)?;
                pool.give_all([residual, more]);
            }
            if let Some(dx) = &mut dx {
                between(t, true, dx)?;
            }
            above = back.x.take();
            of_sent = dx;
            pool.give_all(layer_made.rho);
            pool.give_all(back.rho);
            pool.give(back.messages);
        }
        self.rows.add_energies(&state.read, &self.scale, Some(&self.shift), state.whole.atoms.by_species.species(), &mut state.energies)?;
        if let Some(pairs) = &of.pairs {
            pairs.add(&state.edges, &mut state.energies, &mut state.dv)?;
            if let Some(seen) = &state.seen {
                // The edges of ghosts are computed by those who own them.
                let first = 3 * seen.first_edge;
                let zeros = pool.zeros(state.dv.len() - first)?;
                state.dv.copy_range(first, &zeros, 0..zeros.len())?;
                pool.give(zeros);
            }
        }
        self.forces.assemble(&state.table, &state.edges, &state.dv, &mut state.work, &mut state.forces, &mut state.virial)?;
        self.forces.closest(&state.table, &state.closest, &mut state.work, &mut state.smallest)?;
        Ok(())
    }

    /// What neighbours send to layer `t`, and which rows are theirs.
    fn sent<'a>(&self, t: usize, of_constants: &'a Buffer<u32>, first: &'a Buffer<T>, below: Below<'a, T>) -> Option<Sent<'a, T>> {
        if self.plan.layers[t].convolution.unit {
            return None;
        }
        Some(below.map_or((first, Some(of_constants)), |(_, sent)| (sent, None)))
    }

    /// The forward pass of a layer for the atoms of a part.
    fn forward(
        &self,
        t: usize,
        of: &OfSpecies<T>,
        state: &State<T>,
        part: &Part<T>,
        below: Below<'_, T>,
        pool: &mut Pool<T>,
    ) -> Result<Made<T>, InferError> {
        let (layer, tables, n) = (&self.layers[t], &of.tables[t], part.atoms.count);
        let mut messages = pool.take(n * layer.messages)?;
        let sent = self.sent(t, of_constants(&state.whole, state.seen.as_ref()), &state.sent, below);
        layer.convolution.forward(&state.edges, part.centers.clone(), &tables.weights, sent, &mut messages)?;
        let rho = match (&layer.density, &tables.density) {
            (Some(density), Some(table)) => {
                let mut rho = pool.take(n)?;
                density.forward(&state.edges, part.centers.clone(), table, &mut rho)?;
                Some(rho)
            }
            _ => None,
        };
        let own = OwnRows::new(layer, part, below, pool)?;
        let from = own.get();
        let of_node = Own { atoms: &part.atoms, constants: &state.constants, from, rho: rho.as_ref() };
        let (kept, out) = layer.node.forward(&of_node, of.contractions[t].as_ref(), messages, &self.rows, pool)?;
        own.done(pool);
        Ok(Made { kept, rho, out })
    }

    /// The last layer forward and back, part by part: cotangents of the features below and of what they send.
    fn last(
        &self,
        of: &OfSpecies<T>,
        state: &mut State<T>,
        below: Below<'_, T>,
        pool: &mut Pool<T>,
    ) -> Result<(Option<Buffer<T>>, Option<Buffer<T>>), InferError> {
        let t = self.layers.len() - 1;
        let (layer, tables) = (&self.layers[t], &of.tables[t]);
        let n = state.whole.atoms.count;
        let mut dx = below.map(|_| pool.take(state.table.atoms() * layer.sent)).transpose()?;
        let mut d_features = below.map(|(x, _)| pool.take(x.len())).transpose()?;
        let mut residuals = below.and(layer.node.residual()).map(|map| pool.take(n * map.dim_in)).transpose()?;
        for k in 0..parts(&state.parts, &state.whole).len() {
            let part = &parts(&state.parts, &state.whole)[k];
            let made = self.forward(t, of, state, part, below, pool)?;
            let mut g = pool.zeros(made.out.len())?;
            state.of_part.fill_zero()?;
            layer.node.read(&made.out, &mut state.of_part, &mut g, &part.atoms)?;
            state.read.copy_range(part.centers.start, &state.of_part, 0..part.centers.len())?;
            pool.give(made.out);
            let own = OwnRows::new(layer, part, below, pool)?;
            let of_node = Own { atoms: &part.atoms, constants: &state.constants, from: own.get(), rho: made.rho.as_ref() };
            let back = layer.node.adjoint(&of_node, of.contractions[t].as_ref(), made.kept, g, &self.rows, pool)?;
            own.done(pool);
            let sent = self.sent(t, of_constants(&state.whole, state.seen.as_ref()), &state.sent, below);
            let edges = (&state.edges, &mut state.dv);
            self.convolution_adjoint(layer, &tables.weights, edges, part, sent, &back.messages, (&mut dx, k > 0), pool)?;
            self.density_adjoint(layer, tables, (&state.edges, &mut state.dv), part, &back)?;
            let Back { messages, x, rho, residual } = back;
            if let (Some(x), Some(all)) = (&x, &mut d_features) {
                all.copy_range(part.centers.start * layer.features, x, 0..x.len())?;
            }
            if let (Some(residual), Some(map), Some(all)) = (&residual, layer.node.residual(), &mut residuals) {
                let mut more = pool.take(part.atoms.count * map.dim_in)?;
                map.adjoint(&part.atoms, residual, &mut more, false)?;
                all.copy_range(part.centers.start * map.dim_in, &more, 0..more.len())?;
                pool.give(more);
            }
            pool.give_all([Some(messages), x, rho, residual, made.rho].into_iter().flatten());
        }
        if let (Some(more), Some(dx)) = (&residuals, &mut dx) {
            self.rows.add(more, dx, n, layer.sent)?;
        }
        pool.give_all(residuals);
        Ok((d_features, dx))
    }

    /// From cotangents of the messages of a part to derivatives by its edges, and to `dx`, the cotangents of what all atoms send.
    fn convolution_adjoint(
        &self,
        layer: &DeviceLayer<T>,
        tables: &tesseral_ops::radial::cuda::DeviceTables<T>,
        (edges, dv): (&tesseral_kernels::edges::Edges<T>, &mut Buffer<T>),
        part: &Part<T>,
        sent: Option<Sent<'_, T>>,
        messages: &Buffer<T>,
        (dx, accumulate): (&mut Option<Buffer<T>>, bool),
        pool: &mut Pool<T>,
    ) -> Result<(), InferError> {
        let centers = part.centers.clone();
        let Some(dx) = dx else {
            return Ok(layer.convolution.adjoint(edges, centers, tables, sent, messages, dv, None)?);
        };
        let mut per_edge = pool.take(part.room * layer.sent)?;
        let features = Features::Gathered { dx, per_edge: &mut per_edge, accumulate };
        layer.convolution.adjoint(edges, centers, tables, sent, messages, dv, Some(features))?;
        pool.give(per_edge);
        Ok(())
    }

    fn density_adjoint(
        &self,
        layer: &DeviceLayer<T>,
        tables: &LayerTables<T>,
        (edges, dv): (&tesseral_kernels::edges::Edges<T>, &mut Buffer<T>),
        part: &Part<T>,
        back: &Back<T>,
    ) -> Result<(), InferError> {
        if let (Some(density), Some(table), Some(of_rho)) = (&layer.density, &tables.density, &back.rho) {
            density.adjoint(edges, part.centers.clone(), table, of_rho, dv)?;
        }
        Ok(())
    }
}

/// Which row of what is sent first belongs to each row that is seen.
fn of_constants<'a, T: HasSlabs>(whole: &'a Part<T>, seen: Option<&'a Seen>) -> &'a Buffer<u32> {
    seen.map_or(&whole.atoms.of_constants, |seen| &seen.constants).rows()
}

/// The parts, if the whole is in parts.
fn parts<'a, T: HasSlabs>(parts: &'a [Part<T>], whole: &'a Part<T>) -> &'a [Part<T>] {
    if parts.is_empty() { std::slice::from_ref(whole) } else { parts }
}

/// What the atoms of a part bring from the layer below.
struct OwnRows<'a, T: HasSlabs>(Option<(RowsOf<'a, T>, RowsOf<'a, T>)>);

impl<'a, T: HasSlabs> OwnRows<'a, T> {
    fn new(layer: &DeviceLayer<T>, part: &Part<T>, below: Below<'a, T>, pool: &mut Pool<T>) -> Result<Self, DeviceError> {
        let Some((x, sent)) = below else { return Ok(Self(None)) };
        let rows = RowsOf::new(x, layer.features, &part.centers, pool)?;
        Ok(Self(Some((rows, RowsOf::new(sent, layer.sent, &part.centers, pool)?))))
    }

    fn get(&self) -> Below<'_, T> {
        self.0.as_ref().map(|(x, sent)| (x.get(), sent.get()))
    }

    fn done(self, pool: &mut Pool<T>) {
        if let Some((x, sent)) = self.0 {
            x.done(pool);
            sent.done(pool);
        }
    }
}
