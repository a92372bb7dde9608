//! Frames by index, wherever they lie.

use std::sync::Arc;

use super::error::DataError;
use super::frame::{Frame, Origin};
use crate::stop::Stop;

/// Frames that can be asked for in any order, from many threads.
pub trait FrameSource: Send + Sync {
    /// How many there are.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One of them.
    ///
    /// # Errors
    /// [`DataError::Corrupt`] if it lies on disk and is damaged there.
    ///
    /// # Panics
    /// If `index` is not below [`len`](Self::len).
    fn frame(&self, index: usize) -> Result<Arc<Frame>, DataError>;

    /// What is needed to divide and to pack frames, without reading atoms.
    ///
    /// # Errors
    /// As [`frame`](Self::frame).
    ///
    /// # Panics
    /// If `index` is not below [`len`](Self::len).
    fn summary(&self, index: usize) -> Result<FrameSummary, DataError>;
}

/// A frame without its atoms and labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameSummary {
    /// How many atoms it has.
    pub atoms: usize,
    /// Its kind of configuration.
    pub group: Option<Arc<str>>,
    /// Its head.
    pub head: Option<Arc<str>>,
    /// Where it comes from.
    pub origin: Origin,
}

impl From<&Frame> for FrameSummary {
    fn from(frame: &Frame) -> Self {
        let Frame { structure, group, head, origin, .. } = frame;
        Self { atoms: structure.len(), group: group.clone(), head: head.clone(), origin: origin.clone() }
    }
}

/// Frames in memory.
#[derive(Debug, Clone, Default)]
pub struct Memory(pub Vec<Arc<Frame>>);

impl From<Vec<Frame>> for Memory {
    fn from(frames: Vec<Frame>) -> Self {
        Self(frames.into_iter().map(Arc::new).collect())
    }
}

impl FrameSource for Memory {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn frame(&self, index: usize) -> Result<Arc<Frame>, DataError> {
        Ok(self.0[index].clone())
    }

    fn summary(&self, index: usize) -> Result<FrameSummary, DataError> {
        Ok((&*self.0[index]).into())
    }
}

/// Some frames of another source, in an order of their own.
#[derive(Clone)]
pub struct Subset {
    source: Arc<dyn FrameSource>,
    indices: Vec<usize>,
}

impl Subset {
    /// The frames of `source` with these indices.
    ///
    /// # Panics
    /// If an index is not below the length of `source`.
    pub fn new(source: Arc<dyn FrameSource>, indices: Vec<usize>) -> Self {
        let len = source.len();
        assert!(indices.iter().all(|&index| index < len), "an index is beyond the {len} frames");
        Self { source, indices }
    }

    /// Indices of its frames in the source that it is a part of.
    pub fn indices(&self) -> &[usize] {
        &self.indices
    }
}

impl FrameSource for Subset {
    fn len(&self) -> usize {
        self.indices.len()
    }

    fn frame(&self, index: usize) -> Result<Arc<Frame>, DataError> {
        self.source.frame(self.indices[index])
    }

    fn summary(&self, index: usize) -> Result<FrameSummary, DataError> {
        self.source.summary(self.indices[index])
    }
}

/// Frames of another source until it is asked to stop: from then on there are none to be had, so that whatever goes through them ends soon.
pub(crate) struct UntilStopped<'a> {
    pub(crate) source: &'a dyn FrameSource,
    pub(crate) stop: Stop<'a>,
}

impl FrameSource for UntilStopped<'_> {
    fn len(&self) -> usize {
        self.source.len()
    }

    fn frame(&self, index: usize) -> Result<Arc<Frame>, DataError> {
        self.stop.check()?;
        self.source.frame(index)
    }

    fn summary(&self, index: usize) -> Result<FrameSummary, DataError> {
        self.stop.check()?;
        self.source.summary(index)
    }
}

/// Elements of all frames of some sources, ascending.
///
/// # Errors
/// As [`FrameSource::frame`].
pub fn elements_of(sources: &[&dyn FrameSource]) -> Result<Vec<u8>, DataError> {
    let mut present = [false; 256];
    for source in sources {
        for index in 0..source.len() {
            source.frame(index)?.structure.numbers.iter().for_each(|&z| present[usize::from(z)] = true);
        }
    }
    Ok((1..=u8::MAX).filter(|&z| present[usize::from(z)]).collect())
}

/// The files that frames come from, in the order in which they are met, each with the indices of its frames.
///
/// # Errors
/// As [`FrameSource::summary`].
pub fn files_of(source: &dyn FrameSource) -> Result<Vec<(Arc<str>, Vec<usize>)>, DataError> {
    let mut files = indexmap::IndexMap::<Arc<str>, Vec<usize>>::new();
    for index in 0..source.len() {
        files.entry(source.summary(index)?.origin.file).or_default().push(index);
    }
    Ok(files.into_iter().collect())
}
