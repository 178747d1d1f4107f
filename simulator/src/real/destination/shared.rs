//! What the threads of a destination have in common.

use super::return_path::ReturnPath;
use crate::real::channel::Breaker;
use crate::real::error::{Error, at};
use crate::real::guest::histogram;
use crate::real::memory::{GuestMemory, TARGET_PAGE_BYTES};
use crate::size::{nanoseconds, to_usize};
use background_snapshot::{Region, Userfault};
use hdrhistogram::Histogram;
use migration_stream::name_text;
use migration_stream::protocol::{Incoming, IncomingState};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A lock whose holders do not panic half-way.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A bit for each target page, counted through all blocks.
#[derive(Debug)]
pub(super) struct PageBits(Box<[AtomicU64]>);

impl PageBits {
    pub(super) fn new(pages: u64) -> Self {
        let words = to_usize(pages.div_ceil(64));
        Self((0..words).map(|_| AtomicU64::new(0)).collect())
    }

    fn word(&self, page: u64) -> (&AtomicU64, u64) {
        (&self.0[to_usize(page / 64)], 1 << (page % 64))
    }

    pub(super) fn has(&self, page: u64) -> bool {
        let (word, bit) = self.word(page);
        word.load(Ordering::Acquire) & bit != 0
    }

    /// True if it was not set.
    pub(super) fn set(&self, page: u64) -> bool {
        let (word, bit) = self.word(page);
        word.fetch_or(bit, Ordering::AcqRel) & bit == 0
    }

    pub(super) fn clear(&self, page: u64) {
        let (word, bit) = self.word(page);
        word.fetch_and(!bit, Ordering::AcqRel);
    }

    pub(super) fn count(&self) -> u64 {
        self.0.iter().map(|word| u64::from(word.load(Ordering::Relaxed).count_ones())).sum()
    }
}

/// How far the two loaders are, for each other.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// The guest runs.
    pub(super) running: bool,
    /// The main channel has come to its end mark.
    pub(super) eof: bool,
    /// Why the destination gives up.
    pub(super) failure: Option<Error>,
}

/// Everything that several threads need.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) memory: GuestMemory,
    pub(super) regions: Vec<Region>,
    pub(super) incoming: Arc<Mutex<Incoming>>,
    pub(super) back: Arc<Mutex<ReturnPath>>,
    pub(super) received: PageBits,
    /// Host pages that were requested, by block and offset.
    pub(super) pending: Mutex<HashMap<(usize, usize), Instant>>,
    /// From a request to its page.
    pub(super) latency: Mutex<Histogram<u64>>,
    pub(super) progress: Mutex<Progress>,
    pub(super) changed: Condvar,
    /// There in postcopy.
    pub(super) userfault: Mutex<Option<Arc<Userfault>>>,
    /// Ends the main channel.
    pub(super) breaker: Mutex<Option<Breaker>>,
    pub(super) duplicates: AtomicU64,
    pub(super) refuse_duplicates: bool,
    /// Requested pages may come on a channel of their own.
    pub(super) preempt: bool,
}

impl Shared {
    pub(super) fn new(
        memory: GuestMemory,
        incoming: Arc<Mutex<Incoming>>,
        back: Arc<Mutex<ReturnPath>>,
        refuse_duplicates: bool,
        preempt: bool,
    ) -> Self {
        Self {
            regions: memory.regions(),
            received: PageBits::new(memory.pages()),
            memory,
            incoming,
            back,
            pending: Mutex::default(),
            latency: Mutex::new(histogram()),
            progress: Mutex::default(),
            changed: Condvar::new(),
            userfault: Mutex::new(None),
            breaker: Mutex::new(None),
            duplicates: AtomicU64::new(0),
            refuse_duplicates,
            preempt,
        }
    }

    pub(super) fn state(&self) -> IncomingState {
        lock(&self.incoming).state()
    }

    /// Gives up: keeps the first reason, and releases all threads that wait for a page or for the source.
    pub(super) fn fail(&self, error: Error) {
        lock(&self.progress).failure.get_or_insert(error);
        self.changed.notify_all();
        self.shut_down();
        self.release();
    }

    /// Ends the main channel, which may be broken in one direction only.
    pub(super) fn shut_down(&self) {
        lock(&self.breaker).iter().for_each(Breaker::shut_down);
    }

    /// No page is waited for any more: missing ones are zero.
    pub(super) fn release(&self) {
        if let Some(userfault) = lock(&self.userfault).take() {
            for region in &self.regions {
                // It fails only for memory that is not registered, where no thread waits.
                let _ = userfault.unregister(region);
            }
        }
    }

    /// Waits until `ready`, or another thread has failed.
    pub(super) fn wait(
        &self,
        what: &'static str,
        timeout: Duration,
        ready: impl Fn(&Progress) -> bool,
    ) -> Result<(), Error> {
        let mut progress = lock(&self.progress);
        loop {
            if let Some(error) = progress.failure.take() {
                return Err(error);
            }
            if ready(&progress) {
                return Ok(());
            }
            let (guard, waited) =
                self.changed.wait_timeout(progress, timeout).unwrap_or_else(PoisonError::into_inner);
            progress = guard;
            if waited.timed_out() {
                return Err(Error::Timeout { what, seconds: timeout.as_secs() });
            }
        }
    }

    /// Whether every target page of a host page is there.
    pub(super) fn has_host_page(&self, block: usize, offset: usize) -> bool {
        let pages = self.memory.blocks()[block].host_page / TARGET_PAGE_BYTES;
        let first = self.memory.page_at(block, offset);
        (first..first + pages as u64).all(|page| self.received.has(page))
    }

    /// Places a host page, atomically, and answers its request.
    pub(super) fn place(
        &self,
        block: usize,
        offset: usize,
        data: Option<&[u8]>,
        at_offset: u64,
    ) -> Result<(), Error> {
        let userfault = lock(&self.userfault).clone();
        let Some(userfault) = userfault else { return Ok(()) };
        let (region, known) = (&self.regions[block], &self.memory.blocks()[block]);
        let zeros;
        let placed = match data {
            // Huge pages have no zero page.
            None if known.mapping.page_size() == TARGET_PAGE_BYTES => {
                userfault.zero_page(region, offset, known.host_page).map_err(at("UFFDIO_ZEROPAGE"))?
            }
            data => {
                zeros = if data.is_none() { vec![0; known.host_page] } else { Vec::new() };
                userfault.copy(region, offset, data.unwrap_or(&zeros)).map_err(at("UFFDIO_COPY"))?
            }
        };
        if !placed {
            self.duplicates.fetch_add(1, Ordering::Relaxed);
            if self.refuse_duplicates {
                let name = name_text(&known.name);
                let text = format!("page {offset:#x} of block \"{name}\" placed twice");
                return Err(Error::Refused { offset: at_offset, text });
            }
        }
        let first = self.memory.page_at(block, offset);
        for page in first..first + (known.host_page / TARGET_PAGE_BYTES) as u64 {
            self.received.set(page);
        }
        if let Some(requested) = lock(&self.pending).remove(&(block, offset)) {
            let nanoseconds = nanoseconds(requested.elapsed());
            lock(&self.latency).saturating_record(nanoseconds);
        }
        Ok(())
    }
}
