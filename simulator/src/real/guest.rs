//! A source's guest: memory, what it holds at first, and threads that write it.

use super::memory::{GuestMemory, TARGET_PAGE_BYTES};
use super::vcpus::Access;
use crate::rng::{Rng, mix};
use crate::size::nanoseconds;
use background_snapshot::Watch;
use hdrhistogram::Histogram;
use std::fs::File;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Fills `percent` of 100 pages; the others are never touched.
pub(super) fn fill(memory: &GuestMemory, seed: u64, percent: u64) {
    let mut page = [0; TARGET_PAGE_BYTES];
    for number in 0..memory.pages() {
        let mut word = mix(seed ^ mix(number));
        if word % 100 >= percent {
            continue;
        }
        for bytes in page.as_chunks_mut::<8>().0 {
            word = word.wrapping_mul(0x5851_f42d_4c95_7f2d) | 1;
            *bytes = word.to_le_bytes();
        }
        memory.write_page(number, &page);
    }
}

/// Nanoseconds, to a tenth of a percent, up to ten minutes.
pub(super) fn histogram() -> Histogram<u64> {
    // These bounds are within what it can do.
    Histogram::new_with_bounds(1, 600_000_000_000, 3).unwrap_or_else(|_| unreachable!("constant bounds"))
}

/// The writes of a guest's vCPUs, and how long they stood still at write-protected pages.
#[derive(Debug)]
pub(super) struct Writer {
    memory: Arc<GuestMemory>,
    /// One for each thread.
    stalls: Vec<Mutex<Histogram<u64>>>,
    random: File,
    /// Of 100 writes, how many come from the kernel.
    kernel_percent: u64,
}

impl Writer {
    pub(super) fn new(
        memory: Arc<GuestMemory>,
        threads: usize,
        kernel_percent: u64,
    ) -> std::io::Result<Self> {
        let stalls = (0..threads).map(|_| Mutex::new(histogram())).collect();
        Ok(Self { memory, stalls, random: File::open("/dev/urandom")?, kernel_percent })
    }

    /// All stalls.
    pub(super) fn stalls(&self) -> Histogram<u64> {
        let mut all = histogram();
        for stalls in &self.stalls {
            all += &*stalls.lock().unwrap_or_else(PoisonError::into_inner);
        }
        all
    }
}

/// While RAM is protected there is a watch that shows which writes have to wait.
impl Access<Option<Watch>> for Writer {
    fn access(&self, watch: &Option<Watch>, thread: usize, page: u64, rng: &mut Rng) {
        let (block, offset) = self.memory.locate(page);
        let stalls = watch.as_ref().is_some_and(|watch| watch.is_unsaved(block, offset));
        let start = stalls.then(Instant::now);
        if rng.chance(self.kernel_percent) {
            // urandom always has bytes, and the page is mapped.
            let read = self.memory.write_by_kernel(page, &self.random);
            debug_assert!(read.is_ok(), "{read:?}");
        } else {
            self.memory.write_word(page, rng.index(512), rng.next_u64());
        }
        if let Some(start) = start {
            let nanoseconds = nanoseconds(start.elapsed());
            self.stalls[thread].lock().unwrap_or_else(PoisonError::into_inner).saturating_record(nanoseconds);
        }
    }
}
