//! Carries out the image's write lists: writes in any order, barriers in theirs.

use crate::ids::Ids;
use crate::machine::{Action, IoId, Piece};
use crate::memory::OutOfMemory;
use crate::pool::{BufferId, Pool};
use snapshot_image::{HostOffset, Step};
use std::collections::BTreeMap;

/// The most bytes that one write carries.
const WRITE_BYTES: usize = 1 << 20;
/// The most writes under way at once.
const WRITES_IN_FLIGHT: usize = 8;

/// Runs a list of [`Step`]s: everything before a step that is no [`Step::Write`] is complete before
/// it starts, and it is complete before anything behind it starts. That is what makes the commit
/// protocol hold.
#[derive(Default)]
pub(crate) struct StepRunner {
    steps: Option<Box<dyn Iterator<Item = Step> + Send>>,
    /// The next step, with how many of its bytes have been handed out.
    current: Option<(Step, usize)>,
    in_flight: BTreeMap<IoId, Option<BufferId>>,
    barrier: Option<Barrier>,
    /// Flushes of the present list that have completed.
    flushes: u32,
}

/// A step that runs alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Barrier {
    Flush,
    Other,
}

impl std::fmt::Debug for StepRunner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StepRunner {{ in_flight: {}, barrier: {:?} }}", self.in_flight.len(), self.barrier)
    }
}

impl StepRunner {
    /// Begins a list; the one before must be done.
    pub(crate) fn start(&mut self, steps: impl IntoIterator<Item = Step, IntoIter: Send + 'static>) {
        debug_assert!(self.is_done(), "a list of steps is still running");
        self.flushes = 0;
        self.steps = Some(Box::new(steps.into_iter()));
        self.fetch();
    }

    /// How many flushes of the present list have completed.
    pub(crate) fn flushes(&self) -> u32 {
        self.flushes
    }

    /// Has the next step at hand, so that the end of the list is known as soon as it is reached.
    fn fetch(&mut self) {
        if self.current.is_none() {
            self.current = self.steps.as_mut().and_then(Iterator::next).map(|step| (step, 0));
        }
        if self.current.is_none() {
            self.steps = None;
        }
    }

    /// Nothing is left to do or under way.
    pub(crate) fn is_done(&self) -> bool {
        self.steps.is_none() && self.current.is_none() && self.in_flight.is_empty()
    }

    /// Starts nothing more; what is under way still has to be waited for.
    pub(crate) fn abandon(&mut self) {
        self.steps = None;
        self.current = None;
    }

    /// The next operation that may start now.
    pub(crate) fn poll(&mut self, pool: &mut Pool, ids: &mut Ids) -> Result<Option<Action>, OutOfMemory> {
        if self.barrier.is_some() || self.in_flight.len() >= WRITES_IN_FLIGHT {
            return Ok(None);
        }
        let Some((step, done)) = self.current.as_mut() else { return Ok(None) };
        if let Step::Write { at, bytes } = step {
            let end = bytes.len().min(*done + WRITE_BYTES);
            let part = &bytes[*done..end];
            let buffer = pool.take(part.len())?;
            pool.bytes_mut(buffer)[..part.len()].copy_from_slice(part);
            let piece = Piece { at: HostOffset(at.0 + *done as u64), range: 0..part.len() };
            if end == bytes.len() {
                self.current = None;
                self.fetch();
            } else {
                *done = end;
            }
            let id = ids.next();
            self.in_flight.insert(id, Some(buffer));
            return Ok(Some(Action::Write { id, buffer, pieces: vec![piece] }));
        }
        if !self.in_flight.is_empty() {
            return Ok(None);
        }
        let Some((step, _)) = self.current.take() else { return Ok(None) };
        self.fetch();
        let id = ids.next();
        self.in_flight.insert(id, None);
        let (barrier, action) = match step {
            Step::SetLength(length_bytes) => (Barrier::Other, Action::SetLength { id, length_bytes }),
            Step::Ballast(bytes) => (Barrier::Other, Action::Ballast { id, bytes }),
            _ => (Barrier::Flush, Action::Flush { id }),
        };
        self.barrier = Some(barrier);
        Ok(Some(action))
    }

    /// An operation has ended, `well` or not; none of these is not noticed.
    pub(crate) fn done(&mut self, id: IoId, well: bool, pool: &mut Pool) {
        let Some(buffer) = self.in_flight.remove(&id) else { return };
        self.flushes += u32::from(self.barrier.take() == Some(Barrier::Flush) && well);
        if let Some(buffer) = buffer {
            pool.release(buffer);
        }
        if !well {
            self.abandon();
        }
    }
}
