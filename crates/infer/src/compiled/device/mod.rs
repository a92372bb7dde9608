//! The compiled engine on devices: the passes of [`super::engine`] over all atoms at once, with the kernels of `tesseral-kernels`.
//!
//! A [`DeviceModel`](model::DeviceModel) holds kernels and weights, a [`Session`] the buffers of some structures. The whole step stays on the device:
//! edges within the cutoff are found there, nothing per edge is kept but its vector and the derivative of the energy by it, and after the second step the
//! whole sequence of launches is one graph. Every sum has one owner and a fixed order.

mod listing;
mod model;
mod node;
mod pool;
mod ranks;
mod session;
mod step;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tesseral_atoms::Structure;
use tesseral_kernels::Device;
use tesseral_ops::slab::HasSlabs;
use tesseral_potentials::Evaluation;

use super::plan::{MemoryPlan, Plan};
use crate::InferError;
use model::DeviceModel;
pub(super) use ranks::RankSession;
pub(super) use session::Session;

/// Structures are evaluated together up to this many atoms.
const BATCH_ATOMS: usize = 16_384;

/// A lowered model on one or more devices.
pub(super) struct OnDevices<T: HasSlabs> {
    devices: Vec<OnDevice<T>>,
    elements: Vec<u8>,
}

struct OnDevice<T: HasSlabs> {
    model: Arc<DeviceModel<T>>,
    /// The session of batches.
    session: Mutex<Session<T>>,
}

impl<T: HasSlabs> OnDevices<T> {
    pub(super) fn new(devices: &[Device], plan: &Arc<Plan<T>>, elements: &[u8], limit: Option<usize>) -> Result<Self, InferError> {
        let of = |device: &Device| {
            let model = Arc::new(DeviceModel::new(device, plan, limit)?);
            Ok(OnDevice { session: Mutex::new(Session::new(model.clone())), model })
        };
        Ok(Self { devices: devices.iter().map(of).collect::<Result<_, InferError>>()?, elements: elements.to_vec() })
    }

    /// A session on the first device.
    pub(super) fn session(&self) -> Session<T> {
        Session::new(self.devices[0].model.clone())
    }

    /// What computes a rank's atoms on the first device.
    pub(super) fn rank(&self) -> RankSession<T> {
        RankSession::new(self.devices[0].model.clone())
    }

    /// What a structure takes on a device, with neighbours listed up to `reach` (Å): estimated from its density.
    pub(super) fn memory(&self, structure: &Structure, reach: f64) -> MemoryPlan {
        self.devices[0].model.memory(structure, reach)
    }

    /// Each structure's result. Structures are batched in their order; batches go to whichever device is free, which does not change them.
    pub(super) fn evaluate(&self, structures: &[Structure]) -> Vec<Result<Evaluation, InferError>> {
        let mut batches: Vec<std::ops::Range<usize>> = Vec::new();
        let mut atoms = 0;
        for (k, structure) in structures.iter().enumerate() {
            match batches.last_mut() {
                Some(batch) if atoms + structure.len() <= BATCH_ATOMS => batch.end = k + 1,
                _ => {
                    atoms = 0;
                    batches.push(k..k + 1);
                }
            }
            atoms += structure.len();
        }
        let next = AtomicUsize::new(0);
        let results: Mutex<Vec<Option<Result<Evaluation, InferError>>>> = Mutex::new(structures.iter().map(|_| None).collect());
        std::thread::scope(|scope| {
            for device in &self.devices {
                scope.spawn(|| {
                    while let Some(batch) = batches.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let mut session = device.session.lock().unwrap_or_else(PoisonError::into_inner);
                        let evaluated = self.batch(&mut session, &structures[batch.clone()]);
                        let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
                        results[batch.clone()].iter_mut().zip(evaluated).for_each(|(to, from)| *to = Some(from));
                    }
                });
            }
        });
        let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
        results.into_iter().map(|r| r.unwrap_or(Err(InferError::NoAtoms))).collect()
    }

    /// The structures of a batch; what no potential can evaluate is left out, and if the rest fails as a whole, it is evaluated one by one, so that the
    /// error finds its structure.
    fn batch(&self, session: &mut Session<T>, structures: &[Structure]) -> Vec<Result<Evaluation, InferError>> {
        let mut results: Vec<Result<Evaluation, InferError>> =
            structures.iter().map(|s| crate::potential::check(s).map(|()| Evaluation::default())).collect();
        let good: Vec<usize> = (0..structures.len()).filter(|&k| results[k].is_ok()).collect();
        if good.is_empty() {
            return results;
        }
        let mut together = |which: &[usize]| -> Result<Vec<Evaluation>, InferError> {
            let of: Vec<&Structure> = which.iter().map(|&k| &structures[k]).collect();
            let mut to = vec![Evaluation::default(); which.len()];
            session.forget();
            session.evaluate(&of, &self.elements, 0.0, &mut to)?;
            Ok(to)
        };
        match together(&good) {
            Ok(evaluations) => good.iter().zip(evaluations).for_each(|(&k, e)| results[k] = crate::potential::finite(&e).map(|()| e)),
            Err(error) if good.len() == 1 => results[good[0]] = Err(error),
            Err(_) => {
                for &k in &good {
                    results[k] = together(&[k]).and_then(|mut e| {
                        let evaluation = e.pop().ok_or(InferError::NoAtoms)?;
                        crate::potential::finite(&evaluation).map(|()| evaluation)
                    });
                }
            }
        }
        results
    }
}
