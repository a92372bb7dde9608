//! Batches, made by threads of their own ahead of the one that trains.
//!
//! An epoch goes through the frames in an order that follows from seed and epoch alone; a batch holds the next frames of it, as many as fit. So where a
//! training stands is two numbers, epoch and place in the order, whatever the number of threads.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};

use tesseral_potentials::Header;

use crate::config::BatchConfig;
use crate::data::FrameSource;
use crate::error::TrainError;
use crate::step::{Batch, Sample};

/// Batches that are made ahead.
const AHEAD: usize = 2;
/// Samples that each thread makes ahead.
const SAMPLES_AHEAD: usize = 16;
/// Bytes of samples that are kept from epoch to epoch; those that do not fit are made anew.
const KEPT_BYTES: usize = 1 << 30;

/// Frames with their neighbours listed, kept while there is room.
pub struct Samples {
    source: Arc<dyn FrameSource>,
    header: Header,
    kept: Vec<OnceLock<Sample>>,
    bytes: AtomicUsize,
}

impl Samples {
    /// Of the frames of a source, for a model with this header.
    pub fn new(source: Arc<dyn FrameSource>, header: Header) -> Self {
        let kept = (0..source.len()).map(|_| OnceLock::new()).collect();
        Self { source, header, kept, bytes: AtomicUsize::new(0) }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// One of them.
    ///
    /// # Errors
    /// If the frame cannot be read, or the model cannot evaluate it.
    pub fn sample(&self, index: usize) -> Result<Sample, TrainError> {
        if let Some(sample) = self.kept[index].get() {
            return Ok(sample.clone());
        }
        let sample = Sample::new(&self.header, self.source.frame(index)?)?;
        let bytes = 48 * sample.prepared.num_edges() + 160 * sample.frame.structure.len();
        if self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes <= KEPT_BYTES {
            // Two threads may have made it at the same time: one of the two is kept.
            self.kept[index].set(sample.clone()).ok();
        }
        Ok(sample)
    }
}

/// Whether a batch that holds `have` (frames, atoms, edges) has room for `more`.
fn fits(limit: BatchConfig, have: [usize; 3], more: [usize; 3]) -> bool {
    let limits = [limit.frames, limit.atoms, limit.edges];
    have[0] == 0 || (0..3).all(|k| limits[k] == 0 || have[k] + more[k] <= limits[k])
}

/// A batch, and the place in the order of frames after it.
#[derive(Debug)]
pub struct Loaded {
    /// The batch.
    pub batch: Batch,
    /// Frames of the epoch that are done once it is.
    pub position: usize,
}

/// Batches in the order of frames.
pub struct Loader {
    batches: Receiver<Result<Loaded, TrainError>>,
}

impl Loader {
    /// Makes batches of `order` from `position` on, by so many threads.
    ///
    /// # Errors
    /// [`TrainError::Thread`] if a thread cannot be started.
    pub fn new(samples: Arc<Samples>, order: Vec<usize>, position: usize, limit: BatchConfig, threads: usize) -> Result<Self, TrainError> {
        let order = Arc::new(order);
        let threads = threads.max(1);
        let mut made = Vec::with_capacity(threads);
        for thread in 0..threads {
            let (send, receive) = sync_channel(SAMPLES_AHEAD);
            made.push(receive);
            let (samples, order) = (samples.clone(), order.clone());
            spawn("samples", move || {
                for &index in order.iter().skip(position + thread).step_by(threads) {
                    if send.send(samples.sample(index)).is_err() {
                        // Nobody wants any more.
                        return;
                    }
                }
            })?;
        }
        let (send, batches) = sync_channel(AHEAD);
        let count = order.len();
        spawn("batches", move || {
            // After an error, or when nobody listens, there is nothing to do.
            if let Err(error) = pack(&made, position, count, limit, &send) {
                send.send(Err(error)).ok();
            }
        })?;
        Ok(Self { batches })
    }
}

impl Iterator for Loader {
    type Item = Result<Loaded, TrainError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.batches.recv().ok()
    }
}

fn spawn(name: &'static str, work: impl FnOnce() + Send + 'static) -> Result<(), TrainError> {
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(work);
    thread.map(|_| ()).map_err(|source| TrainError::Thread { name, source })
}

/// Takes samples in turn from the threads that make them, and sends them in batches.
fn pack(
    made: &[Receiver<Result<Sample, TrainError>>],
    start: usize,
    count: usize,
    limit: BatchConfig,
    send: &SyncSender<Result<Loaded, TrainError>>,
) -> Result<(), TrainError> {
    let (mut batch, mut have) = (Vec::new(), [0; 3]);
    for position in start..count {
        let Ok(sample) = made[(position - start) % made.len()].recv() else { return Ok(()) };
        let sample = sample?;
        let more = [1, sample.frame.structure.len(), sample.prepared.num_edges()];
        if !fits(limit, have, more) {
            let full = std::mem::take(&mut batch);
            if send.send(Ok(Loaded { batch: full, position })).is_err() {
                return Ok(());
            }
            have = [0; 3];
        }
        have.iter_mut().zip(more).for_each(|(h, m)| *h += m);
        batch.push(sample);
    }
    if !batch.is_empty() {
        send.send(Ok(Loaded { batch, position: count })).ok();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tesseral_atoms::Structure;

    use super::*;
    use crate::data::{Frame, Memory};
    use crate::testing::unlabelled;

    fn samples(sizes: &[usize]) -> Arc<Samples> {
        let frames = sizes.iter().enumerate().map(|(k, &n)| Frame {
            energy: Some(k as f64),
            ..unlabelled(Structure::molecule(vec![1; n], (0..n).map(|i| [i as f64, 0.0, 0.0]).collect()), k)
        });
        let source: Memory = frames.collect::<Vec<_>>().into();
        let header = crate::testing::tiny_artifact(&[1]).header().clone();
        Arc::new(Samples::new(Arc::new(source), header))
    }

    fn batches(limit: BatchConfig, position: usize, threads: usize) -> Vec<(Vec<usize>, usize)> {
        let order = vec![4, 0, 3, 1, 2];
        Loader::new(samples(&[1, 2, 3, 4, 5]), order, position, limit, threads)
            .unwrap()
            .map(|b| b.unwrap())
            .map(|b| (b.batch.iter().map(|s| s.frame.origin.frame).collect(), b.position))
            .collect()
    }

    #[test]
    fn batches_follow_the_order_and_its_limits() {
        let frames = BatchConfig { frames: 2, ..Default::default() };
        let atoms = BatchConfig { atoms: 6, ..Default::default() };
        for threads in 1..4 {
            assert_eq!(batches(frames, 0, threads), [(vec![4, 0], 2), (vec![3, 1], 4), (vec![2], 5)]);
            assert_eq!(batches(atoms, 0, threads), [(vec![4, 0], 2), (vec![3, 1], 4), (vec![2], 5)]);
            // One that is too large for any batch has one of its own.
            let few = BatchConfig { atoms: 1, ..Default::default() };
            assert_eq!(batches(few, 0, threads).len(), 5);
            // Going on from a place gives the same batches as never having stopped.
            assert_eq!(batches(frames, 2, threads), batches(frames, 0, threads)[1..]);
        }
    }

    #[test]
    fn an_error_ends_the_batches() {
        let samples = samples(&[2]);
        let mut frame = (*samples.source.frame(0).unwrap()).clone();
        frame.structure.numbers[1] = 92;
        let samples = Arc::new(Samples::new(Arc::new(Memory::from(vec![frame])), samples.header.clone()));
        let mut loader = Loader::new(samples, vec![0], 0, BatchConfig { frames: 1, ..Default::default() }, 2).unwrap();
        let error = loader.next().unwrap().unwrap_err().to_string();
        assert!(error.contains("frame 0 of test") && error.contains('U'), "{error}");
        assert!(loader.next().is_none());
    }
}
