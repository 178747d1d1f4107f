//! Copies of pages that the guest wants to write, for strategy *copy*.

use crate::error::Error;
use crate::pages::PageId;
use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard};

/// What the thread that handles faults hands over.
#[derive(Debug, Default)]
pub(crate) struct Handover {
    free: Vec<Box<[u8]>>,
    allocated: usize,
    limit: usize,
    buffer_bytes: usize,
    /// Copies, in the order of their faults.
    pub(crate) copies: VecDeque<(PageId, Box<[u8]>)>,
    /// Pages that found the pool full: their writers wait until they are sent.
    pub(crate) urgent: VecDeque<PageId>,
    pub(crate) faults: u64,
    pub(crate) pool_full: u64,
    pub(crate) peak_pages: usize,
    /// The handler is gone.
    pub(crate) failure: Option<Error>,
}

impl Handover {
    /// A buffer that any page fits in, if the pool is not used up.
    pub(crate) fn buffer(&mut self) -> Option<Box<[u8]>> {
        let buffer = self.free.pop().or_else(|| {
            let more = self.allocated < self.limit;
            self.allocated += usize::from(more);
            more.then(|| vec![0; self.buffer_bytes].into_boxed_slice())
        })?;
        self.peak_pages = self.peak_pages.max(self.allocated - self.free.len());
        Some(buffer)
    }

    pub(crate) fn recycle(&mut self, buffer: Box<[u8]>) {
        self.free.push(buffer);
    }
}

/// The pool, for two threads.
#[derive(Debug)]
pub(crate) struct Pool {
    state: Mutex<Handover>,
    changed: Condvar,
}

impl Pool {
    /// A pool of at most `limit` pages of up to `buffer_bytes`.
    pub(crate) fn new(limit: usize, buffer_bytes: usize) -> Self {
        let state = Mutex::new(Handover { limit, buffer_bytes, ..Handover::default() });
        Self { state, changed: Condvar::new() }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Handover> {
        // Nothing in a critical section panics half-way.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Wakes the other thread: there is something.
    pub(crate) fn notify(&self) {
        self.changed.notify_all();
    }

    /// Waits until there is a page or a failure.
    pub(crate) fn wait(&self) -> MutexGuard<'_, Handover> {
        let mut state = self.lock();
        while state.copies.is_empty() && state.urgent.is_empty() && state.failure.is_none() {
            state = self.changed.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        state
    }
}
